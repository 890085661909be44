//! The live zone written out: every record of a service, before choice and order.
//!
//! `live` goes from a question to what answers it; here the way is the other one, for who wants the whole zone
//! (transfers). The records fall into parts, and no two parts have an owner and a type in common, so two revisions of a
//! service can be compared part by part, and the members that did not change are not looked at.
//!
//! A zone cannot say everything that an answer can. Beside a CNAME it has nothing else (RFC 1034 section 3.6.2). Who
//! answers for a service with nothing live is a choice, and left out, as all choices are. Names that are there because an instance is remembered are not,
//! but for the service's own, which keeps an empty TXT.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::binding::{binding_data, https_port};
use super::browse::{instance_txt, shows_id};
use super::walk::tree_of;
use super::{address_data, first_port, has_tag, named_port, of_lowest_priority, only_target, own, srv_of};
use crate::grammar::{self, Owner};
use crate::instance::{Instance, Location, Port, ServiceSettings, Transport};
use crate::name::{Apex, Name};
use crate::record::{Data, Record, RrSet, Soa, Type};
use crate::view::{APEX_TTL, Member, Members, NEGATIVE_TTL, ServiceView, View, target_of, ttl_within};
use crate::zone::{Node, Zone};

/// Names that browsing begins at (RFC 6763 section 11).
const BROWSE: [&str; 3] = ["b", "db", "lb"];
const TYPES: [&str; 3] = ["_services", "_dns-sd", "_udp"];

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

/// Some of a service's records.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// At its own name.
    Own,
    /// `_web._tcp`, and that among the types.
    Transport(Transport),
    /// `_http._tcp.web`
    Port(String, Transport),
    /// `v2.web`, `_web._v2`, and the subtypes.
    Tag(String),
}

/// A service at one revision.
pub(crate) struct Whole<'a> {
    around: Around<'a>,
    service: &'a ServiceView,
    index: &'a Index,
    /// TTL before leases shorten it, in seconds.
    ttl: u32,
}

/// What names of a service are found by: all of its members are looked through for that once, however many names are
/// asked for.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// The instances that DNS-SD shows under their id, by that in lower case: of ids alike but for case the one whose label
    /// is first.
    shown: HashMap<String, String>,
    /// The labels of those whose id is another text, by the id in lower case.
    otherwise: HashMap<String, Vec<String>>,
    /// Labels of their tags, and their ports that have a name.
    tags: HashSet<String>,
    ports: HashSet<(String, Transport)>,
}

impl Index {
    pub fn of(service: &ServiceView) -> Self {
        let mut index = Self::default();
        for member in &service.answered {
            let instance = &*member.instance;
            let (id, label) = (instance.key.id.as_str(), instance.label.as_str());
            if !id.eq_ignore_ascii_case(label) {
                let id = id.to_ascii_lowercase();
                if shows_id(instance) {
                    index.shown.entry(id.clone()).or_insert_with(|| label.to_owned());
                }
                index.otherwise.entry(id).or_default().push(label.to_owned());
            }
            for tag in instance.tags.iter().filter_map(|tag| tag.label()) {
                if !index.tags.contains(tag.as_str()) {
                    index.tags.insert(tag.as_str().to_owned());
                }
            }
            let named =
                instance.ports.iter().filter_map(|port| Some((port.name.as_deref()?, port.transport)));
            index.ports.extend(named.map(|(name, transport)| (name.to_owned(), transport)));
        }
        index
    }

    fn has(&self, instance: &Instance) -> bool {
        !self.shown.is_empty()
            && shows_id(instance)
            && self.shown.get(&instance.key.id.as_str().to_ascii_lowercase()).map(String::as_str)
                == Some(instance.label.as_str())
    }
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

impl<'a> Whole<'a> {
    pub fn new(around: Around<'a>, service: &'a ServiceView, index: &'a Index) -> Self {
        Self { around, service, index, ttl: service.settings.ttl.unwrap_or(around.ttl) }
    }

    /// Every part but those of single members.
    pub fn parts(&self) -> BTreeSet<Part> {
        let mut parts = BTreeSet::from([Part::Own]);
        for member in &self.service.answered {
            for port in &*member.instance.ports {
                parts.insert(Part::Transport(port.transport));
                if let Some(name) = &port.name {
                    parts.insert(Part::Port(name.to_string(), port.transport));
                }
            }
            let labels = member.instance.tags.iter().filter_map(|tag| tag.label());
            parts.extend(labels.map(|label| Part::Tag(label.as_str().to_owned())));
        }
        parts
    }

    pub fn part(&self, part: &Part, out: &mut Vec<Record>) {
        match part {
            Part::Own => self.own(out),
            Part::Transport(transport) => self.transport(*transport, out),
            Part::Port(name, transport) => self.port(name, *transport, out),
            Part::Tag(tag) => self.tag(tag, out),
        }
    }

    /// At the instance's own names, whatever its health.
    pub fn member(&self, member: &Member, out: &mut Vec<Record>) {
        let instance = &*member.instance;
        let name = self.service.name.as_str();
        let ttl = ttl_within(self.ttl, instance.lease);
        let owner = self.around.apex.owner(&[instance.label.as_str(), name]);
        let record = |owner: &Name, data| Record { owner: owner.clone(), ttl, data };
        let txt = instance_txt(instance);
        if let Location::Target(target) = &instance.location {
            out.push(record(&owner, Data::Cname(target.clone())));
        } else {
            out.extend(instance.addresses().iter().map(|address| record(&owner, address_data(*address))));
            let port = first_port(instance, Transport::Tcp).or(instance.ports.first());
            out.extend(port.map(|port| record(&owner, self.srv_data(member, port))));
            out.push(record(&owner, txt.clone()));
        }
        let service = format!("_{name}");
        for transport in Transport::ALL {
            let Some(port) = first_port(instance, transport) else { continue };
            let id = Some(instance.key.id.as_str()).filter(|_| self.index.has(instance));
            for label in id.into_iter().chain([instance.label.as_str()]) {
                let owner = self.around.apex.owner(&[label, &service, transport.label()]);
                out.push(record(&owner, self.srv_data(member, port)));
                out.push(record(&owner, txt.clone()));
            }
        }
    }

    fn own(&self, out: &mut Vec<Record>) {
        let owner = self.around.apex.owner(&[self.service.name.as_str()]);
        let live: Vec<&Member> = self.service.in_answers().collect();
        if self.addresses(&owner, &live, out) {
            return;
        }
        self.srv(&owner, &live, |instance| instance.ports.first(), out);
        self.bindings(&owner, Type::HTTPS, &live, https_port, out);
        let mut seen = HashSet::new();
        let texts = live.iter().map(|member| instance_txt(&member.instance));
        let texts: Vec<Data> = texts.filter(|text| seen.insert(text.clone())).collect();
        match texts.is_empty() {
            true => out.push(self.record(&owner, Data::txt([]))),
            false => out.extend(texts.into_iter().map(|text| self.record(&owner, text))),
        }
    }

    fn transport(&self, transport: Transport, out: &mut Vec<Record>) {
        let service = format!("_{}", self.service.name);
        let owner = self.around.apex.owner(&[&service, transport.label()]);
        let live: Vec<&Member> = self.service.in_answers().collect();
        let port = |instance: &'a Instance| first_port(instance, transport);
        self.srv(&owner, &live, port, out);
        let is_there = self.service.answered.iter().any(|member| port(&member.instance).is_some());
        if !is_there || !self.service.name.is_service_type() {
            return;
        }
        let types = self.around.apex.owner(&TYPES);
        out.push(Record { owner: types, ttl: self.around.ttl, data: Data::Ptr(owner.clone()) });
        let with_port = live.into_iter().filter(|member| port(&member.instance).is_some());
        out.extend(with_port.map(|member| self.record(&owner, self.browsed(member, &service, transport))));
    }

    fn port(&self, name: &str, transport: Transport, out: &mut Vec<Record>) {
        if !self.index.ports.contains(&(name.to_owned(), transport)) {
            return;
        }
        let service = self.service.name.as_str();
        let asked = Owner::ByPort { service, port: name, transport };
        let Some(owner) = self.spelt(&[&format!("_{name}"), transport.label(), service], asked) else {
            return;
        };
        let live: Vec<&Member> = self.service.in_answers().collect();
        let port = |instance: &'a Instance| named_port(instance, name, transport);
        self.srv(&owner, &live, port, out);
        self.bindings(&owner, Type::SVCB, &live, port, out);
    }

    fn tag(&self, tag: &str, out: &mut Vec<Record>) {
        if !self.index.tags.contains(tag) {
            return;
        }
        let service = self.service.name.as_str();
        let live: Vec<&Member> =
            self.service.in_answers().filter(|member| has_tag(&member.instance, tag)).collect();
        let own = format!("_{service}");
        let below = self.spelt(&[tag, service], Owner::Below { service, label: tag });
        // Where an id and a tag are spelt alike, the id answers.
        let below = below.filter(|_| self.service.by_label(tag).is_none());
        let by_tag = self.spelt(&[&own, &format!("_{tag}")], Owner::ByTag { service, tag });
        for owner in below.into_iter().chain(by_tag) {
            if !self.addresses(&owner, &live, out) {
                self.srv(&owner, &live, |instance| instance.ports.first(), out);
            }
        }
        for transport in Transport::ALL.into_iter().filter(|_| self.service.name.is_service_type()) {
            let labels = [&format!("_{tag}"), "_sub", &own, transport.label()];
            let Some(owner) = self.spelt(&labels, Owner::Subtype { service, tag, transport }) else {
                continue;
            };
            let with_port = live.iter().filter(|member| first_port(&member.instance, transport).is_some());
            out.extend(with_port.map(|member| self.record(&owner, self.browsed(member, &own, transport))));
        }
    }

    /// The name of these labels, where they are read as what is meant and are one: a tag or the name of a port may be as long
    /// as a label, and with `_` in front it is none.
    fn spelt(&self, labels: &[&str], asked: Owner<'_>) -> Option<Name> {
        let octets: Vec<&[u8]> = labels.iter().map(|label| label.as_bytes()).collect();
        let is_meant = grammar::parse(&octets) == Some(asked);
        is_meant.then(|| self.around.apex.name().prepend_all(&octets).ok()).flatten()
    }

    /// A and AAAA of the lowest priority; true where it is an alias, beside which nothing else may stand.
    fn addresses(&self, owner: &Name, live: &[&'a Member], out: &mut Vec<Record>) -> bool {
        let lowest = of_lowest_priority(live.to_vec());
        if let Some(target) = only_target(&lowest) {
            out.push(self.record(owner, Data::Cname(target.clone())));
            return true;
        }
        let mut seen: HashSet<IpAddr> = HashSet::new();
        let addresses = lowest.iter().flat_map(|member| member.instance.addresses());
        let addresses = addresses.filter(|address| seen.insert(**address));
        out.extend(addresses.map(|address| self.record(owner, address_data(*address))));
        false
    }

    fn srv(
        &self,
        owner: &Name,
        live: &[&'a Member],
        port: impl Fn(&'a Instance) -> Option<&'a Port>,
        out: &mut Vec<Record>,
    ) {
        let data = live.iter().filter_map(|member| Some(self.srv_data(member, port(&member.instance)?)));
        self.each_once(owner, live, data, out);
    }

    fn bindings(
        &self,
        owner: &Name,
        rtype: Type,
        live: &[&'a Member],
        port: impl Fn(&'a Instance) -> Option<&'a Port>,
        out: &mut Vec<Record>,
    ) {
        let fitting = || live.iter().filter_map(|member| Some((*member, port(&member.instance)?)));
        let lowest = fitting().map(|(member, _)| member.instance.priority).min();
        let data = fitting().map(|(member, port)| {
            let hints = Some(member.instance.priority) == lowest;
            binding_data(self.around.apex, rtype, member, port, hints)
        });
        self.each_once(owner, live, data, out);
    }

    /// An RRset is a set. The name of an instance is its own, so only those that name a target can be alike.
    fn each_once(
        &self,
        owner: &Name,
        live: &[&Member],
        data: impl Iterator<Item = Data>,
        out: &mut Vec<Record>,
    ) {
        let targets = live.iter().any(|member| matches!(member.instance.location, Location::Target(_)));
        let mut seen = HashSet::new();
        let data = data.filter(|data| !targets || seen.insert(data.clone()));
        out.extend(data.map(|data| self.record(owner, data)));
    }

    fn srv_data(&self, member: &Member, port: &Port) -> Data {
        srv_of(self.service.scale, member, port, target_of(&member.instance, self.around.apex))
    }

    /// `service` is its label in DNS-SD.
    fn browsed(&self, member: &Member, service: &str, transport: Transport) -> Data {
        let instance = &*member.instance;
        let name = if self.index.has(instance) { instance.key.id.as_str() } else { instance.label.as_str() };
        Data::Ptr(self.around.apex.owner(&[name, service, transport.label()]))
    }

    fn record(&self, owner: &Name, data: Data) -> Record {
        Record { owner: owner.clone(), ttl: self.service.ttl, data }
    }

    /// The types that the service has records of at a name of its own.
    fn types_at(&self, owner: &Name) -> HashSet<Type> {
        self.at(owner).iter().map(|record| record.data.rtype()).collect()
    }

    /// The records at a name of the service's own.
    fn at(&self, owner: &Name) -> Vec<Record> {
        let lower = owner.to_lowercase();
        let labels = lower.labels_below(self.around.apex.name()).unwrap_or_default();
        let mut records = Vec::new();
        match grammar::parse(&labels) {
            Some(Owner::Service(_)) => self.own(&mut records),
            Some(Owner::ByTransport(_, transport)) => self.transport(transport, &mut records),
            Some(Owner::ByPort { port, transport, .. }) => self.port(port, transport, &mut records),
            Some(Owner::ByTag { tag, .. } | Owner::Subtype { tag, .. }) => self.tag(tag, &mut records),
            Some(Owner::Below { label, .. } | Owner::TypeInstance { label, .. }) => {
                let otherwise = self.index.otherwise.get(&label.to_ascii_lowercase());
                let labels = otherwise.into_iter().flatten().map(String::as_str);
                let named =
                    std::iter::once(label).chain(labels).filter_map(|label| self.service.by_label(label));
                named.for_each(|member| self.member(member, &mut records));
                self.tag(label, &mut records);
            }
            _ => {}
        }
        records.retain(|record| record.owner == *owner);
        records
    }

    /// True where this service's records of that member are the same in `other`, an earlier or later one of it.
    fn is_same(&self, member: &Member, other: &Self, there: &Member) -> bool {
        Arc::ptr_eq(&member.instance, &there.instance)
            && self.service.scale.weight(member.weight()) == other.service.scale.weight(there.weight())
            && self.ttl == other.ttl
            && self.index.has(&member.instance) == other.index.has(&there.instance)
    }
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
        let [before, after] = [(before, &index[0]), (after, &index[1])]
            .map(|(service, index)| service.map(|service| Whole::new(around, service, index)));
        let both = [before.as_ref(), after.as_ref()];
        let parts: BTreeSet<Part> = both.into_iter().flatten().flat_map(Whole::parts).collect();
        for part in &parts {
            self.compare(both.map(|whole| {
                let mut records = Vec::new();
                whole.inspect(|whole| whole.part(part, &mut records));
                records
            }));
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

/// All records of the live zone at a name: a question for one name, where `walk` is for all of them. Whose they are where
/// the name is spelt as a service's, `service` says.
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
            let whole = Whole::new(around, &service, &index);
            Transport::ALL.into_iter().for_each(|transport| whole.transport(transport, &mut records));
        }
        records.retain(|record| record.owner == *name);
    }
    if let Some(of) = owner.and_then(Owner::service).and_then(service) {
        records.extend(Whole::new(around, &of.service, &of.index).at(name));
    }
    if let Some(node) = tree_of(view, apex).as_ref().and_then(|tree| tree.node(name)) {
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
