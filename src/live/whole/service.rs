//! A service of the live zone written out: every record of it, before choice and order.
//!
//! The records fall into parts, and no two parts have an owner and a type in common, so two revisions of a service
//! can be compared part by part, and the members that did not change are not looked at.
//!
//! A zone cannot say everything that an answer can. Beside a CNAME it has nothing else (RFC 1034 section 3.6.2). Who
//! answers for a service with nothing live is a choice, and left out, as all choices are. A name of those alone who are
//! registered and not live keeps an empty TXT, or a secondary would deny it; names that are there because an instance is
//! remembered are left out, but for the service's own.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::Around;
use crate::grammar::{self, Owner};
use crate::instance::{Instance, Location, Port, Transport};
use crate::live::binding::{binding_data, https_port};
use crate::live::browse::{instance_txt, shows_id};
use crate::live::{address_data, first_port, has_tag, named_port, of_lowest_priority, only_target, srv_of};
use crate::name::Name;
use crate::record::{Data, RRSET_OCTETS_MAX, Record, Type};
use crate::view::{Member, ServiceView, target_of, ttl_within};
use crate::zone::Node;

const TYPES: [&str; 3] = ["_services", "_dns-sd", "_udp"];

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
    pub(super) service: &'a ServiceView,
    index: &'a Index,
    /// What the record tree has at its names.
    planted: &'a [&'a Node],
    /// TTL before leases shorten it, in seconds.
    ttl: u32,
}

/// What names of a service are found by: all of its members are looked through for that once, however many names are
/// asked for.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// The instances that DNS-SD shows under their id, by that in lower case: of ids alike but for case the one whose
    /// label is first.
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

impl<'a> Whole<'a> {
    pub fn new(
        around: Around<'a>,
        service: &'a ServiceView,
        index: &'a Index,
        planted: &'a [&'a Node],
    ) -> Self {
        Self { around, service, index, planted, ttl: service.settings.ttl.unwrap_or(around.ttl) }
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

    /// What of a part is in the zone: of a set that no reply could hold as many of the first members' records as one does, or
    /// secondaries would refuse all of it.
    pub fn part(&self, part: &Part) -> Vec<Record> {
        let mut records = Vec::new();
        match part {
            Part::Own => self.own(&mut records),
            Part::Transport(transport) => self.transport(*transport, &mut records),
            Part::Port(name, transport) => self.port(name, *transport, &mut records),
            Part::Tag(tag) => self.tag(tag, &mut records),
        }
        let octets = |record: &Record| record.data.octets_in_set();
        if records.iter().map(octets).sum::<usize>() > RRSET_OCTETS_MAX {
            let mut sums: HashMap<(Name, Type), usize> = HashMap::new();
            records.retain(|record| {
                let sum = sums.entry((record.owner.clone(), record.data.rtype())).or_default();
                *sum += octets(record);
                *sum <= RRSET_OCTETS_MAX
            });
        }
        records
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

    pub(super) fn transport(&self, transport: Transport, out: &mut Vec<Record>) {
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
        self.keep(&owner, |instance| named_port(instance, name, transport).is_some(), out);
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
            self.keep(&owner, |instance| has_tag(instance, tag), out);
        }
        for transport in Transport::ALL.into_iter().filter(|_| self.service.name.is_service_type()) {
            let labels = [&format!("_{tag}"), "_sub", &own, transport.label()];
            let Some(owner) = self.spelt(&labels, Owner::Subtype { service, tag, transport }) else {
                continue;
            };
            let with_port = live.iter().filter(|member| first_port(&member.instance, transport).is_some());
            out.extend(with_port.map(|member| self.record(&owner, self.browsed(member, &own, transport))));
            let fits =
                |instance: &Instance| has_tag(instance, tag) && first_port(instance, transport).is_some();
            self.keep(&owner, fits, out);
        }
    }

    /// An empty TXT, where the name is there for those alone who are not live. Plain records keep a name too, and so does
    /// an alias among them, beside which nothing may stand.
    fn keep(&self, owner: &Name, fits: impl Fn(&Instance) -> bool, out: &mut Vec<Record>) {
        let planted = || self.planted.iter().any(|node| node.name == *owner);
        if self.service.only_registered(fits) && !planted() {
            out.push(self.record(owner, Data::txt([])));
        }
    }

    /// The name of these labels, where they are read as what is meant and are one: a tag or the name of a port may be
    /// as long as a label, and with `_` in front it is none.
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
    pub(super) fn types_at(&self, owner: &Name) -> HashSet<Type> {
        self.at(owner).iter().map(|record| record.data.rtype()).collect()
    }

    /// The records at a name of the service's own.
    pub(super) fn at(&self, owner: &Name) -> Vec<Record> {
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
    pub(super) fn is_same(&self, member: &Member, other: &Self, there: &Member) -> bool {
        Arc::ptr_eq(&member.instance, &there.instance)
            && self.service.scale.weight(member.weight()) == other.service.scale.weight(there.weight())
            && self.ttl == other.ttl
            && self.index.has(&member.instance) == other.index.has(&there.instance)
    }
}
