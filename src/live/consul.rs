//! The alias zone: the same registry in Consul's words.
//!
//! Choice, order and sizes are `Live`'s own. What differs is how a name is read (`grammar::consul`), where SRV points,
//! and that hosts and addresses have names.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::choice::Rule;
use super::{Live, Why, address_data, first_port, ns_addresses};
use crate::answer::{Asked, Found};
use crate::grammar::consul::{self, Owner, Unread};
use crate::instance::{Host, Instance, Location, Port};
use crate::name::{HostName, Name, is_ldh_label};
use crate::record::{Data, Record, Type};
use crate::view::{ConsulZone, Member, ServiceView, View, ttl_within};

/// Octets of one string of a TXT record (RFC 1035 section 3.3.14); a longer text goes on in the next one.
const TXT_STRING_OCTETS_MAX: usize = 255;

/// What the alias zone has for a name.
pub(crate) fn find(view: &View, zone: &ConsulZone, asked: &Asked<'_>, qname: &Name) -> Found {
    let lower = qname.to_lowercase();
    let labels = lower.labels_below(zone.apex.name()).unwrap_or_default();
    let qtype = asked.question.qtype;
    let live = Live { view, apex: &zone.apex, consul: Some(zone), asked, qname, qtype };
    match consul::parse(&labels, zone.datacenter.as_str()) {
        Ok(owner) => live.of_type_asked(|live| live.find_consul(&owner)),
        Err(unread) => Found::NoName(live.ede(|| match unread {
            Unread::Nothing => "names here end in .service, .node or .addr".to_owned(),
            Unread::NoAddress => "in front of .addr stand 8 or 32 hexadecimal digits".to_owned(),
            Unread::Datacenter(datacenter) => format!("no path to datacenter {datacenter}"),
            Unread::Lacking(what) => format!("callsign has no {what}"),
        })),
    }
}

/// The addresses of a name in the alias zone that some record points at.
pub(crate) fn addresses(view: &View, zone: &ConsulZone, name: &Name) -> Vec<Record> {
    let lower = name.to_lowercase();
    let labels = lower.labels_below(zone.apex.name()).unwrap_or_default();
    match consul::parse(&labels, zone.datacenter.as_str()) {
        Ok(Owner::NameServer) => ns_addresses(view, name, &[Type::A, Type::AAAA]),
        Ok(Owner::Address(address)) => address_records(view, name, &[address]),
        Ok(Owner::Node(node)) => match host(view, &node) {
            Some(host) => address_records(view, name, &host.addresses),
            None => Vec::new(),
        },
        Ok(Owner::Service { service, tag: None }) => {
            let service = view.service(service);
            let live: Vec<&Member> = service.iter().flat_map(|service| service.in_answers()).collect();
            let lowest = live.iter().map(|member| member.instance.priority).min();
            let live = live.into_iter().filter(|member| Some(member.instance.priority) == lowest);
            let mut addresses: Vec<IpAddr> =
                live.flat_map(|member| member.instance.addresses()).copied().collect();
            addresses.sort_unstable();
            addresses.dedup();
            let ttl = service.map_or(view.settings.ttl, |service| service.ttl);
            addresses
                .into_iter()
                .map(|address| Record { owner: name.clone(), ttl, data: address_data(address) })
                .collect()
        }
        _ => Vec::new(),
    }
}

/// Where SRV points for an instance, and the addresses that are there: its host's name where it is at its
/// host's addresses, else the name of its first address, for such a name has one address only. Who names an
/// address over Consul's API has an address's name, as there, though it be the host's.
///
/// What the host's addresses are is only what somebody said: to gather them from the instances on it would
/// cost as many look-ups as there are, for each record.
pub(super) fn target<'m>(zone: &ConsulZone, member: &'m Member) -> (Name, &'m [IpAddr]) {
    let addresses = match &member.instance.location {
        Location::Target(target) => return (target.clone(), &[]),
        Location::Addresses(addresses) => addresses,
    };
    let named = member.instance.consul.as_ref().is_some_and(|facts| !facts.address.is_empty());
    let same = |host: &Host| {
        host.addresses.len() == addresses.len() && host.addresses.iter().all(|own| addresses.contains(own))
    };
    if let Some(host) = member.host.as_deref().filter(|host| !named && same(host))
        && let Some(name) = node_name(zone, &host.name)
    {
        return (name, addresses);
    }
    let first = &addresses[..1]; // a `Location` has at least one
    let label = consul::address_label(first[0]);
    (zone.apex.owner(&[&label, "addr", zone.datacenter.as_str()]), first)
}

/// `<node>.node.<dc>.<apex>`; none where the host's name is no name in DNS, or too long a one.
fn node_name(zone: &ConsulZone, host: &HostName) -> Option<Name> {
    if !is_askable(host.as_str()) {
        return None;
    }
    let own = host.as_str().split('.');
    let labels: Vec<&[u8]> = own.chain(["node", zone.datacenter.as_str()]).map(str::as_bytes).collect();
    zone.apex.name().prepend_all(&labels).ok()
}

/// One target that is no host name makes Go's LookupSRV fail for the whole set, so the rule is strict.
fn is_askable(host: &str) -> bool {
    host.split('.').all(|label| is_ldh_label(label.as_bytes()))
}

fn host(view: &View, name: &str) -> Option<Arc<Host>> {
    let name = HostName::parse(name).ok().filter(|name| is_askable(name.as_str()))?;
    view.host(&name)
}

/// A and AAAA, each RRset in one run.
pub(super) fn address_records(view: &View, owner: &Name, addresses: &[IpAddr]) -> Vec<Record> {
    let mut data: Vec<Data> = addresses.iter().map(|address| address_data(*address)).collect();
    data.sort_by_key(Data::rtype);
    let ttl = view.settings.ttl;
    data.into_iter().map(|data| Record { owner: owner.clone(), ttl, data }).collect()
}

/// `tag` is in lower case, as names are compared.
fn is_tagged(instance: &Instance, tag: &str) -> bool {
    instance.tags.iter().any(|own| own.as_str().eq_ignore_ascii_case(tag))
}

/// True where a tag ends in `.` and `rest`: then the name of `rest` is there, and empty.
fn is_below(tag: &str, rest: &str) -> bool {
    let front = tag.len().checked_sub(rest.len() + 1).filter(|front| *front > 0);
    front.is_some_and(|front| {
        tag.is_char_boundary(front)
            && tag[front..].strip_prefix('.').is_some_and(|end| end.eq_ignore_ascii_case(rest))
    })
}

impl Live<'_> {
    fn find_consul(&self, owner: &Owner<'_>) -> Found {
        match owner {
            Owner::Apex => self.apex_records(),
            Owner::NameServer => self.name_server(),
            Owner::Empty => Found::NoData(None),
            // Only tags that are labels are counted; of another one nobody can say that it is not there.
            Owner::Tag(tag) if self.view.has_tag(tag) || !is_ldh_label(tag.as_bytes()) => Found::NoData(None),
            Owner::Tag(_) => Found::NoName(None),
            Owner::Service { service, tag: None } => {
                self.by_service(service, |service| self.of_those(service, |_| true, any_port))
            }
            Owner::Service { service, tag: Some(tag) } => {
                self.by_service(service, |service| self.tagged(service, tag))
            }
            // Consul's instances have one port, of no transport: who has none of this one is not left out.
            Owner::ByTransport { service, transport } => self.by_service(service, |service| {
                self.of_those(
                    service,
                    |_| true,
                    |instance| first_port(instance, *transport).or_else(|| any_port(instance)),
                )
            }),
            Owner::Node(name) => self.node(name),
            Owner::Address(address) => {
                let mut records = address_records(self.view, self.qname, &[*address]);
                records.retain(|record| record.data.rtype() == self.qtype);
                self.plain(records)
            }
        }
    }

    fn tagged(&self, service: &ServiceView, tag: &str) -> Found {
        let known = |fits: fn(&str, &str) -> bool| {
            // Of those that are registered each different tag once, not each instance.
            let gone = service.gone.iter().map(|gone| &gone.instance);
            let held = service.answered.iter_held().map(|member| &member.instance);
            let left = gone.chain(held).flat_map(|instance| &instance.tags);
            service.listed_tags.iter().chain(left).any(|own| fits(own.as_str(), tag))
        };
        if known(str::eq_ignore_ascii_case) {
            return self.of_those(service, |instance| is_tagged(instance, tag), any_port);
        }
        if known(is_below) {
            return Found::NoData(None);
        }
        Found::NoName(self.why(Why::NoneTagged(&service.name, tag)))
    }

    /// A host: what was said of it, or where nobody said, the addresses of the instances on it.
    fn node(&self, name: &str) -> Found {
        let Some(host) = host(self.view, name) else {
            if self.view.has_host_below(name) {
                return Found::NoData(None);
            }
            return Found::NoName(self.ede(|| format!("{name}: no such host")));
        };
        match self.qtype {
            Type::A | Type::AAAA if host.addresses.is_empty() => {
                let members = self.view.on_host(&host.name);
                let leases = members.iter().map(|member| member.instance.lease);
                let ttl = leases.fold(self.view.settings.ttl, ttl_within);
                let selection = self.choose(&Rule::all(name, ttl), self.each_address(members.iter()));
                self.records_or_none(selection, None)
            }
            Type::A | Type::AAAA => {
                let mut records = address_records(self.view, self.qname, &host.addresses);
                records.retain(|record| record.data.rtype() == self.qtype);
                self.plain(records)
            }
            Type::TXT => {
                let mut texts: Vec<Data> =
                    host.meta.iter().map(|(key, value)| node_txt(key, value)).collect();
                let mut seen = HashSet::new(); // an RRset is a set, and two keys may have one text
                texts.retain(|text| seen.insert(text.clone()));
                self.plain(texts.into_iter().map(|text| self.record(self.view.settings.ttl, text)).collect())
            }
            _ => Found::NoData(None),
        }
    }
}

fn any_port(instance: &Instance) -> Option<&Port> {
    instance.ports.first()
}

/// `key=value` (RFC 1464); a key that begins with `rfc1035-` has the value alone, as Consul writes it.
fn node_txt(key: &str, value: &str) -> Data {
    let pair = format!("{key}={value}");
    let text = if key.starts_with("rfc1035-") { value } else { &pair };
    Data::txt(text.as_bytes().chunks(TXT_STRING_OCTETS_MAX))
}
