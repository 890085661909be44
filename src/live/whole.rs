//! The live zone written out, before choice and order: what it has of its own, its services (`service`), and the record
//! tree beside them.
//!
//! `live` goes from a question to what answers it; here the way is the other one, for who wants the whole zone
//! (transfers), what changed in it, or all that is at one name (UPDATE).

mod service;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

pub(super) use self::service::{Index, Part, Whole};
use super::own;
use super::walk::tree_of;
use crate::grammar::{self, Owner};
use crate::instance::{ServiceSettings, Transport};
use crate::name::{Apex, Name};
use crate::record::{Data, Record, RrSet, Soa, Type};
use crate::view::{APEX_TTL, Member, Members, NEGATIVE_TTL, ServiceView, View};
use crate::zone::{Node, Zone};

/// Names that browsing begins at (RFC 6763 section 11).
const BROWSE: [&str; 3] = ["b", "db", "lb"];

/// What the records of a zone depend on besides its services.
#[derive(Clone, Copy)]
pub(crate) struct Around<'a> {
    pub apex: &'a Apex,
    /// TTL of a service that has none of its own, in seconds.
    pub ttl: u32,
}

impl<'a> Around<'a> {
    pub fn of(view: &View, apex: &'a Apex) -> Self {
        Self { apex, ttl: view.settings.ttl }
    }
}

/// The records of the zone itself, its SOA and the record tree aside.
pub(crate) fn of_apex(view: &View, apex: &Apex) -> Vec<Record> {
    let mut records = own::records(view, apex);
    records.extend(BROWSE.map(|label| {
        let data = Data::Ptr(apex.name().clone());
        Record { owner: apex.owner(&[label, "_dns-sd", "_udp"]), ttl: APEX_TTL, data }
    }));
    records
}

pub(crate) fn soa(apex: &Apex, soa: Soa) -> Record {
    Record { owner: apex.name().clone(), ttl: NEGATIVE_TTL, data: Data::Soa(soa.into()) }
}

/// What has to go and what has to come for a service to be the later one.
#[derive(Debug, Default)]
pub(crate) struct Difference {
    pub gone: Vec<Record>,
    pub come: Vec<Record>,
}

impl Difference {
    /// Adds that of one service; `None` where it is not known. `planted` are the names of the record tree that are
    /// spelt as its own, before and after.
    pub fn add(
        &mut self,
        around: Around<'_>,
        before: Option<&ServiceView>,
        after: Option<&ServiceView>,
        planted: [&[&Node]; 2],
    ) {
        let index = [before, after].map(|service| service.map(Index::of).unwrap_or_default());
        let [before, after] = [(before, &index[0], planted[0]), (after, &index[1], planted[1])]
            .map(|(service, index, planted)| Some(Whole::new(around, service?, index, planted)));
        let both = [before.as_ref(), after.as_ref()];
        let parts: BTreeSet<Part> = both.into_iter().flatten().flat_map(Whole::parts).collect();
        for part in &parts {
            self.compare(both.map(|whole| whole.map(|whole| whole.part(part)).unwrap_or_default()));
        }
        for member in before.iter().flat_map(|whole| &whole.service.answered) {
            let (Some(before), label) = (&before, member.instance.label.as_str()) else { continue };
            let there = after.as_ref().and_then(|after| Some((after, after.service.by_label(label)?)));
            if there.is_some_and(|(after, there)| before.is_same(member, after, there)) {
                continue;
            }
            let [mut old, mut new] = [Vec::new(), Vec::new()];
            before.member(member, &mut old);
            there.inspect(|(after, there)| after.member(there, &mut new));
            self.compare([old, new]);
        }
        for member in after.iter().flat_map(|whole| &whole.service.answered) {
            let (Some(after), label) = (&after, member.instance.label.as_str()) else { continue };
            if before.as_ref().is_none_or(|before| before.service.by_label(label).is_none()) {
                after.member(member, &mut self.come);
            }
        }
        if planted.iter().any(|planted| !planted.is_empty()) {
            self.compare([planted_beside(both[0], planted[0]), planted_beside(both[1], planted[1])]);
        }
    }

    /// Adds what differs between the records before and those after.
    pub fn compare(&mut self, [before, after]: [Vec<Record>; 2]) {
        if before == after {
            return;
        }
        let keys = |records: &[Record]| -> HashSet<(Name, u32, Data)> {
            records.iter().map(|of| (of.owner.clone(), of.ttl, of.data.clone())).collect()
        };
        let (old, new) = (keys(&before), keys(&after));
        let key = |of: &Record| (of.owner.clone(), of.ttl, of.data.clone());
        self.gone.extend(before.into_iter().filter(|of| !new.contains(&key(of))));
        self.come.extend(after.into_iter().filter(|of| !old.contains(&key(of))));
    }
}

/// The records of the tree at names of a service that the service itself has nothing of.
pub(crate) fn planted_beside(service: Option<&Whole<'_>>, planted: &[&Node]) -> Vec<Record> {
    let mut records = Vec::new();
    for node in planted {
        let own = service.map(|service| service.types_at(&node.name)).unwrap_or_default();
        let fits = |rtype: Type| {
            own.is_empty() || rtype != Type::CNAME && !own.contains(&rtype) && !own.contains(&Type::CNAME)
        };
        records.extend(records_of(node, fits));
    }
    records
}

/// A service that is asked for single names of its own.
#[derive(Debug)]
pub(crate) struct Indexed {
    service: Arc<ServiceView>,
    index: Index,
}

/// Services that names are asked for of, each looked through once; none where there is no such service.
#[derive(Debug, Default)]
pub(crate) struct Indexes(HashMap<String, Option<Arc<Indexed>>>);

impl Indexes {
    /// `view` is where it is not known yet.
    pub fn of(
        &mut self,
        name: &str,
        view: impl FnOnce() -> Option<Arc<ServiceView>>,
    ) -> Option<Arc<Indexed>> {
        if !self.0.contains_key(name) {
            let indexed = view().map(|service| Arc::new(Indexed { index: Index::of(&service), service }));
            self.0.insert(name.to_owned(), indexed);
        }
        self.0.get(name).cloned().flatten()
    }
}

/// All records of the live zone at a name: a question for one name, where `walk` is for all of them. Whose they are
/// where the name is spelt as a service's, `service` says.
pub(crate) fn records_at(
    view: &View,
    apex: &Apex,
    name: &Name,
    service: impl FnOnce(&str) -> Option<Arc<Indexed>>,
) -> Vec<Record> {
    let around = Around::of(view, apex);
    let mut records = of_apex(view, apex);
    records.push(soa(apex, view.soa(apex)));
    let keys = view.keys_of(apex.name());
    for RrSet { ttl, data, .. } in keys.iter().flat_map(|keys| keys.sets()) {
        let record = |data: &Data| Record { owner: apex.name().clone(), ttl: *ttl, data: data.clone() };
        records.extend(data.iter().map(record));
    }
    records.retain(|record| record.owner == *name);
    let lower = name.to_lowercase();
    let labels = lower.labels_below(apex.name()).unwrap_or_default();
    let owner = grammar::parse(&labels);
    if owner == Some(Owner::Types) {
        for service in view.all_services() {
            let index = Index::of(&service);
            let whole = Whole::new(around, &service, &index, &[]);
            Transport::ALL.into_iter().for_each(|transport| whole.transport(transport, &mut records));
        }
        records.retain(|record| record.owner == *name);
    }
    let tree = tree_of(view, apex);
    let planted = tree.as_ref().and_then(|tree| tree.node(name)).filter(|node| !node.sets.is_empty());
    if let Some(of) = owner.and_then(Owner::service).and_then(service) {
        records.extend(Whole::new(around, &of.service, &of.index, planted.as_slice()).at(name));
    }
    if let Some(node) = planted {
        let own: HashSet<Type> = records.iter().map(|record| record.data.rtype()).collect();
        let alias = own.contains(&Type::CNAME);
        records.extend(records_of(node, |rtype| {
            own.is_empty() || !alias && rtype != Type::CNAME && !own.contains(&rtype)
        }));
    }
    records
}

/// A service as it would be with those of its instances alone that `counts` holds of; none where that is none of them.
pub(crate) fn rest_of(view: &View, name: &str, counts: impl Fn(&Member) -> bool) -> Option<Arc<ServiceView>> {
    let service = view.service(name)?;
    if service.answered.iter().all(&counts) {
        return Some(service);
    }
    let mut members = Members::default();
    service.answered.iter().filter(|member| counts(member)).for_each(|member| members.put(member.clone()));
    if members.is_empty() {
        return None;
    }
    let settings = ServiceSettings::clone(&service.settings);
    Some(ServiceView::alone(&service.name, (members.clone(), members), settings, view.settings.ttl).into())
}

/// The records of a node whose type fits.
pub(crate) fn records_of(node: &Node, fits: impl Fn(Type) -> bool) -> Vec<Record> {
    let sets = node.sets.iter().filter(|set| fits(set.rtype));
    let of_set = sets.flat_map(|set| set.data.iter().map(|data| (set.ttl, data.clone())));
    of_set.map(|(ttl, data)| Record { owner: node.name.clone(), ttl, data }).collect()
}

/// The names of a record tree, by the service that they are spelt as names of.
#[derive(Debug, Default)]
pub(crate) struct Planted {
    /// In lower case, by the service's name.
    of_services: HashMap<Box<str>, Vec<Name>>,
    others: Vec<Name>,
}

impl Planted {
    pub fn of(tree: &Zone) -> Self {
        let mut planted = Self::default();
        for node in tree.nodes().filter(|node| !node.sets.is_empty()) {
            let lower = node.name.to_lowercase();
            let labels = lower.labels_below(&tree.apex).unwrap_or_default();
            let service = grammar::parse(&labels).and_then(Owner::service);
            match service {
                Some(service) => {
                    planted.of_services.entry(service.into()).or_default().push(node.name.clone());
                }
                None => planted.others.push(node.name.clone()),
            }
        }
        planted
    }

    /// The nodes that are spelt as names of a service.
    pub fn of_service<'z>(&self, tree: &'z Zone, service: &str) -> Vec<&'z Node> {
        let names = self.of_services.get(service).map(Vec::as_slice).unwrap_or_default();
        names.iter().filter_map(|name| tree.node(name)).collect()
    }

    pub fn services(&self) -> impl Iterator<Item = &str> {
        self.of_services.keys().map(|name| &**name)
    }

    /// The records at all other names, those aside that the live zone has of its own.
    pub fn others(&self, tree: &Zone, apex: &[Record]) -> Vec<Record> {
        self.others.iter().flat_map(|name| other_at(tree, name, apex)).collect()
    }
}

/// The records of the tree at a name that is no service's, those aside that the live zone has of its own.
pub(crate) fn other_at(tree: &Zone, name: &Name, apex: &[Record]) -> Vec<Record> {
    let Some(node) = tree.node(name) else { return Vec::new() };
    let lower = node.name.to_lowercase();
    let labels = lower.labels_below(&tree.apex).unwrap_or_default();
    let types = grammar::parse(&labels) == Some(Owner::Types);
    let own = |rtype: Type| {
        rtype == Type::SOA
            || types && rtype == Type::PTR
            || apex.iter().any(|of| of.owner == node.name && of.data.rtype() == rtype)
    };
    records_of(node, |rtype| !own(rtype))
}
