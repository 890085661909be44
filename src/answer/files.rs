//! What zones of files answer, and the addresses that go with it.

use super::{Asked, FIXED_OCTETS, Found, Selection, Served};
use crate::live;
use crate::name::{Name, ServiceName};
use crate::record::{Data, Record, RrSet, Type};
use crate::view::View;
use crate::zone::{self, Zone};

pub(super) fn find_static(
    view: &View,
    zone: &Zone,
    asked: &Asked<'_>,
    qname: &Name,
    wildcards: impl Fn(&zone::Node) -> bool,
) -> Found {
    let node = match zone.find(qname) {
        zone::Found::Node(node) => node,
        zone::Found::Wildcard(node) if wildcards(node) => node,
        zone::Found::Wildcard(_) => return Found::NoName(None),
        zone::Found::Delegation(cut) => {
            // The parent is the one that knows DS (RFC 4035 section 3.1.4.1).
            if asked.question.qtype == Type::DS && cut.name == *qname {
                return match cut.set(Type::DS) {
                    Some(set) => {
                        let records = records(qname, [set]);
                        Found::Records(Selection { records, ..Selection::default() })
                    }
                    None => Found::NoData(None),
                };
            }
            let servers = records(&cut.name, cut.sets.iter().filter(|set| set.rtype == Type::NS));
            return Found::Referral(servers.clone(), glue(zone, cut, &servers));
        }
        zone::Found::Renamed(node) => {
            let Some(RrSet { ttl, data, .. }) = node.set(Type::DNAME) else { return Found::NoData(None) };
            let [Data::Dname(target), ..] = &data[..] else { return Found::NoData(None) };
            let labels = qname.labels_below(&node.name).unwrap_or_default();
            let dname = Record { owner: node.name.clone(), ttl: *ttl, data: Data::Dname(target.clone()) };
            return Found::Renamed(dname, target.prepend_all(&labels).ok());
        }
        zone::Found::Nothing => return Found::NoName(None),
    };
    let set = node.sets.iter().find(|set| set.rtype == asked.question.qtype);
    let alias = node.sets.iter().find(|set| set.rtype == Type::CNAME);
    // RFC 8482 section 4.1: one RRset answers ANY.
    let set = set.or(if asked.question.qtype == Type::ANY { node.sets.first() } else { None });
    match (set, alias) {
        (Some(set), _) => {
            let mut selection = Selection { records: records(qname, [set]), ..Selection::default() };
            selection.additional = additional(view, &selection.records);
            Found::Records(selection)
        }
        (None, Some(set)) => match &set.data[..] {
            [Data::Cname(target), ..] => {
                let record = Record { owner: qname.clone(), ttl: set.ttl, data: Data::Cname(target.clone()) };
                Found::Alias(record, target.clone(), None)
            }
            _ => Found::NoData(None),
        },
        (None, None) => Found::NoData(None),
    }
}

pub(super) fn records<'a>(owner: &Name, sets: impl IntoIterator<Item = &'a RrSet>) -> Vec<Record> {
    let mut records = Vec::new();
    for set in sets {
        let of_set =
            set.data.iter().map(|data| Record { owner: owner.clone(), ttl: set.ttl, data: data.clone() });
        records.extend(of_set);
    }
    records
}

/// The addresses that a zone has at a name itself, under a cut too.
pub(crate) fn static_addresses(zone: &Zone, name: &Name) -> Vec<Record> {
    records(name, zone.node(name).into_iter().flat_map(address_sets))
}

pub(super) fn address_sets(node: &zone::Node) -> impl Iterator<Item = &RrSet> {
    node.sets.iter().filter(|set| matches!(set.rtype, Type::A | Type::AAAA))
}

/// The addresses that a zone has for a target: its own, a wildcard's, or glue.
pub(super) fn addresses_for(zone: &Zone, target: &Name) -> Vec<Record> {
    match zone.find(target) {
        zone::Found::Node(node) | zone::Found::Wildcard(node) => records(target, address_sets(node)),
        zone::Found::Delegation(_) => static_addresses(zone, target),
        zone::Found::Renamed(_) | zone::Found::Nothing => Vec::new(),
    }
}

/// The addresses of name servers that the zone above knows: first those within the zone that they serve, which nobody else can
/// tell (RFC 9471 section 3.1), then those beside it (section 3.2).
pub(super) fn glue(zone: &Zone, cut: &zone::Node, servers: &[Record]) -> Vec<Record> {
    let targets = servers.iter().filter_map(|record| record.data.target());
    let (within, beside): (Vec<&Name>, Vec<&Name>) = targets.partition(|target| target.is_within(&cut.name));
    within.into_iter().chain(beside).flat_map(|target| addresses_for(zone, target)).collect()
}

/// Octets of a record without compression.
pub(crate) fn octets_of(record: &Record) -> usize {
    record.owner.as_wire().len() + FIXED_OCTETS + record.data.octets_max()
}

/// The name whose addresses are worth having beside a record.
pub(super) fn target_of(record: &Record) -> Option<&Name> {
    match &record.data {
        // RFC 9460 section 2.5: the root stands for the owner, but in an alias for nothing.
        Data::Svcb { priority: 1.., target, .. } if target.is_root() => Some(&record.owner),
        data => data.target().filter(|target| !target.is_root()),
    }
}

/// The addresses of every target in `records` that is a name of ours, each once.
pub(crate) fn additional(view: &View, records: &[Record]) -> Vec<Record> {
    let mut additional: Vec<Record> = Vec::new();
    for target in records.iter().filter_map(target_of) {
        if additional.iter().any(|known| known.owner == *target) {
            continue;
        }
        match Served::of(view, target) {
            Some(Served::Static(zone)) => additional.extend(addresses_for(&zone, target)),
            Some(Served::Live(apex)) => additional.extend(live::addresses(view, apex, target)),
            Some(Served::Consul(zone)) => additional.extend(live::consul::addresses(view, zone, target)),
            Some(Served::Reverse(_)) | None => {}
        }
    }
    additional
}

/// Names looked at for one that is nearly spelt so: a hint is not worth more.
const NEAREST_LOOKED_AT_MAX: usize = 20_000;

/// The service whose name is within reach of a typing mistake.
pub fn nearest_service(view: &View, name: &str) -> Option<ServiceName> {
    let directory = view.directory();
    let names = directory.names().map(ServiceName::as_str).take(NEAREST_LOOKED_AT_MAX);
    let as_long = names.filter(|known| known.len().abs_diff(name.len()) <= 1 + known.len() / 4);
    let nearest = crate::protocol::nearest(name, as_long)?;
    ServiceName::parse(nearest).ok()
}
