//! An answer is a function of a view and what was asked.
//!
//! The algorithm is RFC 1034 section 4.3.2, once, for the live zone and the static ones: find the zone,
//! find the name in it, follow aliases, add the addresses of targets. There is no error: the rcode is the
//! value. What is not known for sure is SERVFAIL, never "no such name" (RFC 2308 section 7).
//!
//! Sizes are counted here as far as choice needs them: of a live set as many records stay as fit. The
//! last word on octets is `dns::wire`'s.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::Arc;

use crate::balance::{Draws, prefer, shuffle};
use crate::grammar::{self, Owner};
use crate::instance::{Instance, Location, Port, Transport};
use crate::name::{Apex, Name, ServiceName, fnv};
use crate::record::{Data, Record, RrSet, Type};
use crate::view::{APEX_TTL, EDE_OCTETS_MAX, Member, NEGATIVE_TTL, ServiceView, View, target_of, ttl_within};
use crate::zone::{self, Zone};

/// CNAMEs followed for one question; longer chains are a mistake or an attack.
const ALIASES_MAX: usize = 9;
/// Octets of a record besides owner and data: type, class, TTL, length (RFC 1035 section 4.1.3).
const FIXED_OCTETS: usize = 10;
/// Octets of an owner that is a compression pointer.
const POINTER_OCTETS: usize = 2;
/// Octets of an Extended DNS Error at its longest (RFC 8914 section 2).
const EDE_ROOM: usize = 6 + EDE_OCTETS_MAX;

/// The Internet, the one class that we serve.
pub const CLASS_IN: u16 = 1;

/// What a query asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// As it was spelt: the reply echoes it.
    pub name: Name,
    pub qtype: Type,
    pub class: u16,
}

/// A question with everything that the answer depends on.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub question: &'a Question,
    pub client: IpAddr,
    pub over: Over,
    /// Octets left for records, after header, question and OPT.
    pub room: usize,
    /// The client reads OPT, and with it Extended DNS Errors.
    pub edns: bool,
    /// One random number: all the chance there is in an answer.
    pub draw: u64,
}

/// What carries the reply: what does not fit a datagram is asked for again over a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    Datagram,
    Stream,
}

/// What goes into a reply besides header, question and OPT.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    pub rcode: Rcode,
    pub authoritative: bool,
    /// Records of the answer section had to go.
    pub truncated: bool,
    pub answer: Vec<Record>,
    pub authority: Vec<Record>,
    /// Each RRset in one run; may be cut short silently (RFC 2181 section 9), but not in a referral.
    pub additional: Vec<Record>,
    pub ede: Option<Ede>,
}

/// RFC 6895 section 2.3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rcode {
    #[default]
    NoError = 0,
    FormErr = 1,
    ServFail = 2,
    NxDomain = 3,
    NotImp = 4,
    Refused = 5,
    BadVers = 16,
}

/// An Extended DNS Error (RFC 8914): its code and a text of at most `EDE_OCTETS_MAX` octets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ede {
    pub code: u16,
    pub text: Box<str>,
}

impl Ede {
    pub const OTHER: u16 = 0;
    pub const NOT_READY: u16 = 14;
    pub const PROHIBITED: u16 = 18;
    pub const NOT_AUTHORITATIVE: u16 = 20;
    pub const NOT_SUPPORTED: u16 = 21;
    pub const INVALID_QUERY_TYPE: u16 = 30;

    pub fn new(code: u16, text: impl Into<String>) -> Self {
        let mut text = text.into();
        while text.len() > EDE_OCTETS_MAX {
            text.pop();
        }
        Self { code, text: text.into() }
    }
}

impl Answer {
    /// No record, no authority: REFUSED, NOTIMP, FORMERR, SERVFAIL.
    pub fn bare(rcode: Rcode, ede: Option<Ede>) -> Self {
        Self { rcode, ede, ..Self::default() }
    }
}

/// What a zone has for a name and type.
enum Found {
    Records(Selection),
    Alias(Record, Name),
    /// The name servers of a zone below, and the addresses that they cannot be found without.
    Referral(Vec<Record>, Vec<Record>),
    NoData(Option<Ede>),
    NoName(Option<Ede>),
}

/// Records in the order of the reply, with the additional ones that belong to them.
#[derive(Default)]
struct Selection {
    records: Vec<Record>,
    additional: Vec<Record>,
    /// Not everything fitted.
    cut: bool,
    ede: Option<Ede>,
}

/// See the module's own words.
pub fn answer(view: &View, asked: &Asked<'_>) -> Answer {
    let question = asked.question;
    if question.class != CLASS_IN {
        let ede = Ede::new(Ede::NOT_SUPPORTED, "only class IN is served here");
        return Answer::bare(Rcode::Refused, Some(ede));
    }
    let mut answer = Answer { authoritative: true, ..Answer::default() };
    let mut qname = question.name.clone();
    let mut room = asked.room;
    for _ in 0..ALIASES_MAX {
        let Some(served) = Served::of(view, &qname) else {
            if answer.answer.is_empty() {
                // Out of our zones is not "no such name": we do not know.
                return Answer::bare(
                    Rcode::Refused,
                    Some(Ede::new(Ede::NOT_AUTHORITATIVE, "not a name of this server")),
                );
            }
            return answer; // the rest of the chain is another server's to tell
        };
        if matches!(served, Served::Live(_)) && !view.is_ready() {
            return Answer::bare(
                Rcode::ServFail,
                Some(Ede::new(Ede::NOT_READY, "the registry is not loaded yet")),
            );
        }
        let found = served.find(view, &Asked { room, ..*asked }, &qname);
        match found {
            Found::Records(selection) => {
                answer.truncated = selection.cut && asked.over == Over::Datagram;
                answer.answer.extend(selection.records);
                answer.additional = selection.additional;
                answer.ede = selection.ede;
                return answer;
            }
            Found::Alias(record, target) => {
                let again = answer.answer.iter().any(|known| known.owner == target) || record.owner == target;
                room =
                    room.saturating_sub(record.owner.as_wire().len() + FIXED_OCTETS + target.as_wire().len());
                answer.answer.push(record);
                if again {
                    return answer; // a loop: each alias once (RFC 1034 section 3.6.2)
                }
                qname = target;
            }
            Found::Referral(servers, glue) => {
                answer.authoritative = !answer.answer.is_empty();
                answer.authority = servers;
                answer.additional = glue;
                return answer;
            }
            Found::NoData(ede) => {
                answer.authority = served.soa(view).into_iter().collect();
                answer.ede = ede;
                return answer;
            }
            Found::NoName(ede) => {
                answer.rcode = Rcode::NxDomain; // of the last name in the chain (RFC 6604 section 3)
                answer.authority = served.soa(view).into_iter().collect();
                answer.ede = ede;
                return answer;
            }
        }
    }
    answer
}

/// A zone that we answer for.
enum Served<'a> {
    Live(&'a Apex),
    Static(Arc<Zone>),
}

impl<'a> Served<'a> {
    /// The zone with the longest apex that `qname` is at or below.
    fn of(view: &'a View, qname: &Name) -> Option<Self> {
        let zones = view.zones();
        let octets = |name: &Name| name.as_wire().len();
        let primary = zones
            .primary
            .iter()
            .filter(|zone| qname.is_within(&zone.apex))
            .max_by_key(|zone| octets(&zone.apex));
        match (view.apex_of(qname), primary) {
            (Some(apex), Some(zone)) if octets(&zone.apex) > octets(apex.name()) => {
                Some(Self::Static(zone.clone()))
            }
            (Some(apex), _) => Some(Self::Live(apex)),
            (None, zone) => zone.cloned().map(Self::Static),
        }
    }

    /// The SOA as negative answers carry it: its TTL is at most its minimum (RFC 2308 section 3).
    fn soa(&self, view: &View) -> Option<Record> {
        match self {
            Self::Live(apex) => {
                let data = Data::Soa(Arc::new(view.soa(apex)));
                Some(Record { owner: apex.name().clone(), ttl: NEGATIVE_TTL, data })
            }
            Self::Static(zone) => {
                let (soa, ttl) = zone.soa()?;
                Some(Record {
                    owner: zone.apex.clone(),
                    ttl: ttl.min(soa.minimum),
                    data: Data::Soa(soa.clone()),
                })
            }
        }
    }

    fn find(&self, view: &View, asked: &Asked<'_>, qname: &Name) -> Found {
        match self {
            Self::Static(zone) => find_static(view, zone, asked, qname, true),
            Self::Live(apex) => {
                let found = find_live(view, apex, asked, qname);
                let zones = view.zones();
                let Some(tree) = zones.trees.iter().find(|tree| tree.apex == *apex.name()) else {
                    return found;
                };
                if !matches!(found, Found::NoData(_) | Found::NoName(_)) {
                    return found;
                }
                // A wildcard stands for names that have nothing above them but the apex: not for
                // those below a name of the registry (RFC 4592 section 3.3.1).
                let wildcards = matches!(found, Found::NoName(_)) && !below_live_name(view, apex, qname);
                match (find_static(view, tree, asked, qname, wildcards), &found) {
                    (Found::NoName(_), _) => found,
                    // The registry has the name as well, and its reason is the better one.
                    (Found::NoData(_), Found::NoData(_)) => found,
                    (planted, _) => planted,
                }
            }
        }
    }
}

/// True where the registry has a name one label below the apex, at or above `qname`.
fn below_live_name(view: &View, apex: &Apex, qname: &Name) -> bool {
    let lower = qname.to_lowercase();
    let labels = lower.labels_below(apex.name()).unwrap_or_default();
    let top = labels.last().and_then(|label| grammar::parse(&[label]));
    match top {
        Some(Owner::Service(name)) => view.service(name).is_some(),
        Some(Owner::Tag(tag)) => view.has_tag(tag),
        top => top.is_some(),
    }
}

// --- static zones ---------------------------------------------------------------------------------

fn find_static(view: &View, zone: &Zone, asked: &Asked<'_>, qname: &Name, wildcards: bool) -> Found {
    let node = match zone.find(qname) {
        zone::Found::Node(node) => node,
        zone::Found::Wildcard(node) if wildcards => node,
        zone::Found::Wildcard(_) => return Found::NoName(None),
        zone::Found::Delegation(cut) => {
            // The parent is the one that knows DS (RFC 4035 section 3.1.4.1).
            if asked.question.qtype == Type::DS && cut.name == *qname {
                return Found::NoData(None);
            }
            let servers = records(&cut.name, cut.sets.iter().filter(|set| set.rtype == Type::NS));
            let glue = servers.iter().filter_map(|record| record.data.target());
            let glue = glue
                .filter(|target| target.is_within(&cut.name))
                .flat_map(|target| static_addresses(zone, target));
            return Found::Referral(servers.clone(), glue.collect());
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
                Found::Alias(record, target.clone())
            }
            _ => Found::NoData(None),
        },
        (None, None) => Found::NoData(None),
    }
}

fn records<'a>(owner: &Name, sets: impl IntoIterator<Item = &'a RrSet>) -> Vec<Record> {
    let mut records = Vec::new();
    for set in sets {
        let of_set =
            set.data.iter().map(|data| Record { owner: owner.clone(), ttl: set.ttl, data: data.clone() });
        records.extend(of_set);
    }
    records
}

fn static_addresses(zone: &Zone, name: &Name) -> Vec<Record> {
    let sets = zone.node(name).map(|node| node.sets.as_slice()).unwrap_or_default();
    records(name, sets.iter().filter(|set| matches!(set.rtype, Type::A | Type::AAAA)))
}

/// The addresses of every target in `records` that is a name of ours, each once.
fn additional(view: &View, records: &[Record]) -> Vec<Record> {
    let mut additional: Vec<Record> = Vec::new();
    for target in records.iter().filter_map(|record| record.data.target()) {
        if additional.iter().any(|known| known.owner == *target) {
            continue;
        }
        match Served::of(view, target) {
            Some(Served::Static(zone)) => additional.extend(static_addresses(&zone, target)),
            Some(Served::Live(apex)) => additional.extend(live_addresses(view, apex, target)),
            None => {}
        }
    }
    additional
}

// --- the live zone --------------------------------------------------------------------------------

/// The addresses of one instance, of the name server or of a name in the record tree.
fn live_addresses(view: &View, apex: &Apex, name: &Name) -> Vec<Record> {
    let lower = name.to_lowercase();
    let labels = lower.labels_below(apex.name()).unwrap_or_default();
    match grammar::parse(&labels) {
        Some(Owner::NameServer) => ns_addresses(view, name, &[Type::A, Type::AAAA]),
        Some(Owner::Below { service, label }) => match view.service(service) {
            Some(service) => match service.by_label(label) {
                Some(member) => instance_addresses(&member.instance, name, view.settings.ttl),
                None => Vec::new(),
            },
            None => Vec::new(),
        },
        _ => {
            let zones = view.zones();
            let tree = zones.trees.iter().find(|tree| &tree.apex == apex.name());
            tree.map(|tree| static_addresses(tree, name)).unwrap_or_default()
        }
    }
}

fn ns_addresses(view: &View, owner: &Name, types: &[Type]) -> Vec<Record> {
    let data = view.settings.ns_addresses.iter().map(|address| address_data(*address));
    data.filter(|data| types.contains(&data.rtype()))
        .map(|data| Record { owner: owner.clone(), ttl: APEX_TTL, data })
        .collect()
}

fn instance_addresses(instance: &Instance, owner: &Name, ttl: u32) -> Vec<Record> {
    let ttl = ttl_within(ttl, instance.lease);
    let mut data: Vec<Data> = instance.addresses().iter().map(|address| address_data(*address)).collect();
    data.sort_by_key(Data::rtype); // each RRset in one run
    data.into_iter().map(|data| Record { owner: owner.clone(), ttl, data }).collect()
}

fn address_data(address: IpAddr) -> Data {
    match address {
        IpAddr::V4(v4) => Data::A(v4),
        IpAddr::V6(v6) => Data::Aaaa(v6),
    }
}

fn find_live(view: &View, apex: &Apex, asked: &Asked<'_>, qname: &Name) -> Found {
    let lower = qname.to_lowercase();
    let labels = lower.labels_below(apex.name()).unwrap_or_default();
    let Some(owner) = grammar::parse(&labels) else { return Found::NoName(None) };
    if asked.question.qtype == Type::ANY {
        // RFC 8482 section 4.1: one RRset that is there, the smallest kinds first.
        let mut last = Found::NoName(None);
        for qtype in [Type::A, Type::AAAA, Type::SRV, Type::PTR, Type::TXT, Type::SOA] {
            last = Live { view, apex, asked, qname, qtype }.find(owner);
            if matches!(last, Found::Records(_) | Found::Alias(..)) {
                break;
            }
        }
        return last;
    }
    Live { view, apex, asked, qname, qtype: asked.question.qtype }.find(owner)
}

/// One question in the live zone.
struct Live<'a> {
    view: &'a View,
    apex: &'a Apex,
    asked: &'a Asked<'a>,
    qname: &'a Name,
    qtype: Type,
}

/// One record that an instance could give, before choice.
struct Candidate<'a> {
    data: Data,
    weight: u64,
    priority: u16,
    instance: &'a Instance,
}

impl Live<'_> {
    fn find(&self, owner: Owner<'_>) -> Found {
        match owner {
            Owner::Apex => self.apex_records(),
            Owner::NameServer => match self.qtype {
                qtype @ (Type::A | Type::AAAA) => self.plain(ns_addresses(self.view, self.qname, &[qtype])),
                _ => Found::NoData(None),
            },
            Owner::Empty => Found::NoData(None),
            Owner::Types => self.types(),
            Owner::Browse => match self.qtype {
                Type::PTR => self.plain(vec![self.record(APEX_TTL, Data::Ptr(self.apex.name().clone()))]),
                _ => Found::NoData(None),
            },
            Owner::Tag(tag) if self.view.has_tag(tag) => Found::NoData(None),
            Owner::Tag(_) => Found::NoName(None),
            Owner::Service(name) => self.in_service(name, |service| self.of_service(service)),
            Owner::ByTransport(name, transport) => {
                self.in_service(name, |service| self.by_transport(service, transport))
            }
            Owner::ByPort { service, port, transport } => {
                self.in_service(service, |service| self.by_port(service, port, transport))
            }
            Owner::Ports(name, transport) => self.in_service(name, |service| {
                let named = |port: &Port| port.name.is_some() && port.transport == transport;
                match service.known().any(|instance| instance.ports.iter().any(named)) {
                    true => Found::NoData(None),
                    false => {
                        Found::NoName(self.ede(|| format!("{name}: no named {} port", transport.as_str())))
                    }
                }
            }),
            Owner::ByTag { service, tag } => self.in_service(service, |service| self.by_tag(service, tag)),
            Owner::Below { service, label } => self.in_service(service, |service| self.below(service, label)),
            Owner::TypeInstance { service, label, transport } => {
                self.in_service(service, |service| self.type_instance(service, label, transport))
            }
        }
    }

    fn in_service(&self, name: &str, find: impl FnOnce(&ServiceView) -> Found) -> Found {
        match self.view.service(name) {
            Some(service) => find(&service),
            None => Found::NoName(self.ede(|| format!("{name}: no such service"))),
        }
    }

    fn apex_records(&self) -> Found {
        match self.qtype {
            Type::SOA => {
                let soa = Data::Soa(Arc::new(self.view.soa(self.apex)));
                self.plain(vec![self.record(NEGATIVE_TTL, soa)])
            }
            Type::NS => {
                let server = self.apex.owner(&["ns"]);
                let addresses = ns_addresses(self.view, &server, &[Type::A, Type::AAAA]);
                let records = vec![self.record(APEX_TTL, Data::Ns(server))];
                Found::Records(Selection { records, additional: addresses, ..Selection::default() })
            }
            _ => Found::NoData(None),
        }
    }

    /// `_services._dns-sd._udp`: every type, cut at a stable place where even a stream is too short.
    fn types(&self) -> Found {
        if self.qtype != Type::PTR {
            return Found::NoData(None);
        }
        let directory = self.view.directory();
        let mut selection = Selection::default();
        let mut room = self.asked.room;
        for name in directory.names().filter(|name| name.is_service_type()) {
            let Some(service) = self.view.service(name.as_str()) else { continue };
            for transport in
                Transport::ALL.into_iter().filter(|transport| has_transport(&service, *transport))
            {
                let data = Data::Ptr(self.apex.owner(&[&format!("_{name}"), transport.label()]));
                // The apex is compressed against the question: what counts is what is in front of it.
                let octets = POINTER_OCTETS + FIXED_OCTETS + data.octets_max()
                    - self.apex.name().as_wire().len()
                    + POINTER_OCTETS;
                if octets + EDE_ROOM > room {
                    selection.cut = true;
                    selection.ede =
                        self.ede(|| "not every type fits; `callsign ls` lists them all".to_owned());
                    return Found::Records(selection);
                }
                room -= octets;
                selection.records.push(self.record(self.view.settings.ttl, data));
            }
        }
        self.records_or_none(selection, None)
    }

    /// `web`: A, AAAA, SRV and TXT of its live instances.
    fn of_service(&self, service: &ServiceView) -> Found {
        match self.qtype {
            Type::A | Type::AAAA => self.addresses(service, service.live().collect()),
            Type::SRV => self.srv(service, service.live(), |instance| instance.ports.first()),
            Type::TXT => self.service_txt(service),
            _ => self.no_data(service),
        }
    }

    fn by_transport(&self, service: &ServiceView, transport: Transport) -> Found {
        if !has_transport(service, transport) {
            return Found::NoName(self.ede(|| format!("{}: no {} port", service.name, transport.as_str())));
        }
        match self.qtype {
            Type::SRV => self.srv(service, service.live(), |instance| first_port(instance, transport)),
            Type::PTR if service.name.is_service_type() => self.browse(service, transport),
            _ => self.no_data(service),
        }
    }

    fn by_port(&self, service: &ServiceView, port: &str, transport: Transport) -> Found {
        let named = |instance: &Instance| {
            instance
                .ports
                .iter()
                .position(|known| known.name.as_deref() == Some(port) && known.transport == transport)
        };
        if !service.known().any(|instance| named(instance).is_some()) {
            return Found::NoName(
                self.ede(|| format!("{}: no {} port named {port}", service.name, transport.as_str())),
            );
        }
        match self.qtype {
            Type::SRV => {
                self.srv(service, service.live(), |instance| named(instance).map(|at| &instance.ports[at]))
            }
            _ => self.no_data(service),
        }
    }

    fn by_tag(&self, service: &ServiceView, tag: &str) -> Found {
        if !service.tags.contains(tag) {
            return Found::NoName(self.ede(|| format!("{}: no instance tagged {tag}", service.name)));
        }
        let tagged = || service.live().filter(|member| has_tag(&member.instance, tag));
        match self.qtype {
            Type::A | Type::AAAA => self.addresses(service, tagged().collect()),
            Type::SRV => self.srv(service, tagged(), |instance| instance.ports.first()),
            _ => self.no_data(service),
        }
    }

    /// `<id>.web`, else `<tag>.web`: where both are spelt alike, the id answers.
    fn below(&self, service: &ServiceView, label: &str) -> Found {
        if let Some(member) = service.by_label(label) {
            return self.of_instance(
                &member.instance,
                first_port(&member.instance, Transport::Tcp).or(member.instance.ports.first()),
            );
        }
        if service.tags.contains(label) {
            return self.by_tag(service, label);
        }
        match service.gone.iter().rev().find(|gone| gone.instance.label.as_str() == label) {
            Some(gone) => Found::NoData(
                self.ede(|| format!("{label} {} {}", gone.reason.as_str(), gone.at.time_of_day())),
            ),
            None => Found::NoName(self.ede(|| format!("{}: no instance or tag {label}", service.name))),
        }
    }

    fn type_instance(&self, service: &ServiceView, label: &str, transport: Transport) -> Found {
        let member = service.by_label(label);
        let port = member.and_then(|member| first_port(&member.instance, transport));
        match (member, port, self.qtype) {
            (Some(member), Some(port), Type::SRV | Type::TXT) => {
                self.of_instance(&member.instance, Some(port))
            }
            (Some(_), Some(_), _) => Found::NoData(None),
            _ => Found::NoName(self.ede(|| format!("{}: no such instance", service.name))),
        }
    }

    /// One instance under its own name, whatever its health: it is asked for by id.
    fn of_instance(&self, instance: &Instance, port: Option<&Port>) -> Found {
        let ttl = ttl_within(self.view.settings.ttl, instance.lease);
        match (self.qtype, &instance.location) {
            (Type::A | Type::AAAA, Location::Target(target)) => {
                Found::Alias(self.record(ttl, Data::Cname(target.clone())), target.clone())
            }
            (qtype @ (Type::A | Type::AAAA), Location::Addresses(_)) => {
                let mut records = instance_addresses(instance, self.qname, self.view.settings.ttl);
                records.retain(|record| record.data.rtype() == qtype);
                self.plain(records)
            }
            (Type::SRV, _) => {
                let Some(port) = port else { return Found::NoData(None) };
                let data = self.srv_data(instance, port);
                let records = vec![self.record(ttl, data)];
                let additional = self.srv_additional(&records, std::iter::once(instance));
                Found::Records(Selection { records, additional, ..Selection::default() })
            }
            (Type::TXT, _) => self.plain(vec![self.record(ttl, instance_txt(instance))]),
            _ => Found::NoData(None),
        }
    }

    /// A or AAAA of the lowest priority that has a live instance.
    fn addresses(&self, service: &ServiceView, live: Vec<&Member>) -> Found {
        if let [only] = live[..]
            && let Location::Target(target) = &only.instance.location
        {
            return Found::Alias(self.record(service.ttl, Data::Cname(target.clone())), target.clone());
        }
        let lowest = live.iter().map(|member| member.instance.priority).min();
        let mut candidates: Vec<Candidate<'_>> = Vec::new();
        let mut targets = 0;
        for instance in
            live.iter().map(|member| &*member.instance).filter(|instance| Some(instance.priority) == lowest)
        {
            targets += usize::from(matches!(instance.location, Location::Target(_)));
            for data in instance.addresses().iter().map(|address| address_data(*address)) {
                if data.rtype() == self.qtype {
                    candidates.push(Candidate {
                        data,
                        weight: instance.weight.into(),
                        priority: 0,
                        instance,
                    });
                }
            }
        }
        merge_equal(&mut candidates);
        let none = candidates.is_empty();
        let mut selection = self.choose(service, candidates);
        if targets > 0 {
            let text = || format!("{}: left out {targets} that are host names; ask SRV", service.name);
            selection.ede = selection.ede.or_else(|| self.ede(text));
        } else if none && lowest.is_some() {
            let family = if self.qtype == Type::A { "IPv4" } else { "IPv6" };
            selection.ede =
                self.ede(|| format!("{}: no live instance has an {family} address", service.name));
        }
        self.records_or_none(selection, Some(service))
    }

    fn srv<'m>(
        &self,
        service: &ServiceView,
        live: impl Iterator<Item = &'m Member>,
        port: impl Fn(&'m Instance) -> Option<&'m Port>,
    ) -> Found {
        let mut candidates: Vec<Candidate<'_>> = live
            .filter_map(|member| Some((&*member.instance, port(&member.instance)?)))
            .map(|(instance, port)| Candidate {
                data: self.srv_data(instance, port),
                weight: instance.weight.into(),
                priority: instance.priority,
                instance,
            })
            .collect();
        merge_equal(&mut candidates);
        let selection = self.choose(service, candidates);
        self.records_or_none(selection, Some(service))
    }

    fn srv_data(&self, instance: &Instance, port: &Port) -> Data {
        Data::Srv {
            priority: instance.priority,
            weight: instance.weight,
            port: port.number,
            target: target_of(instance, self.apex),
        }
    }

    /// Of the candidates as many as fit, the same for the same client; their order is drawn by weight
    /// within each priority.
    fn choose(&self, service: &ServiceView, mut candidates: Vec<Candidate<'_>>) -> Selection {
        let octets = |candidate: &Candidate<'_>| POINTER_OCTETS + FIXED_OCTETS + candidate.data.octets_max();
        let all = candidates.len();
        let mut selection = Selection::default();
        if candidates.iter().map(octets).sum::<usize>() > self.asked.room {
            let identity = |candidate: &Candidate<'_>| candidate_identity(&candidate.data);
            prefer(
                &mut candidates,
                self.asked.client,
                identity,
                |candidate| candidate.priority,
                |candidate| candidate.weight,
            );
            // On a stream there is no second try, so the reason has a place reserved.
            let reserved = if self.asked.over == Over::Stream { EDE_ROOM } else { 0 };
            let mut room = self.asked.room.saturating_sub(reserved);
            let fitting = candidates.iter().take_while(|candidate| {
                let fits = octets(candidate) <= room;
                room = room.saturating_sub(octets(candidate));
                fits
            });
            let fitting = fitting.count();
            candidates.truncate(fitting);
            selection.cut = true;
            if self.asked.over == Over::Stream {
                selection.ede = self.ede(|| format!("{}: {fitting} of {all} records fit", service.name));
            }
        }
        shuffle(&mut candidates, |candidate| candidate.weight, &mut Draws::new(self.asked.draw));
        candidates.sort_by_key(|candidate| candidate.priority);
        let instances: Vec<&Instance> = candidates.iter().map(|candidate| candidate.instance).collect();
        selection.records =
            candidates.into_iter().map(|candidate| self.record(service.ttl, candidate.data)).collect();
        if self.qtype == Type::SRV {
            selection.additional = self.srv_additional(&selection.records, instances.into_iter());
        }
        selection
    }

    /// The addresses of the instances, from the same view as the records, and of targets that are
    /// names of ours.
    fn srv_additional<'m>(
        &self,
        records: &[Record],
        instances: impl Iterator<Item = &'m Instance>,
    ) -> Vec<Record> {
        let mut additional = Vec::new();
        for (record, instance) in records.iter().zip(instances) {
            let Some(target) = record.data.target() else { continue };
            match &instance.location {
                Location::Addresses(_) => {
                    additional.extend(instance_addresses(instance, target, self.view.settings.ttl))
                }
                Location::Target(_) => {
                    additional.extend(self::additional(self.view, std::slice::from_ref(record)))
                }
            }
        }
        additional
    }

    /// Each different text of a live instance once; a known service keeps an empty one, so that
    /// its name is there for secondaries too.
    fn service_txt(&self, service: &ServiceView) -> Found {
        let mut texts: Vec<Data> = service.live().map(|member| instance_txt(&member.instance)).collect();
        if texts.is_empty() {
            texts.push(Data::txt([]));
        }
        let mut records: Vec<Record> = Vec::new();
        let mut room = self.asked.room;
        let mut cut = false;
        for data in texts {
            let octets = POINTER_OCTETS + FIXED_OCTETS + data.octets_max();
            if records.iter().any(|known| known.data == data) {
                continue;
            }
            cut = octets > room;
            if cut {
                break;
            }
            room -= octets;
            records.push(self.record(service.ttl, data));
        }
        let ede = (!service.why_none.is_empty()).then(|| Ede::new(Ede::OTHER, &*service.why_none));
        Found::Records(Selection { records, cut, ede, ..Selection::default() })
    }

    /// PTR to each live instance, with its SRV, TXT and addresses (RFC 6763 section 12.1).
    fn browse(&self, service: &ServiceView, transport: Transport) -> Found {
        let mut candidates: Vec<Candidate<'_>> = Vec::new();
        for instance in service.live().map(|member| &*member.instance) {
            if first_port(instance, transport).is_some() {
                let labels = [instance.label.as_str(), &format!("_{}", service.name), transport.label()];
                let data = Data::Ptr(self.apex.owner(&labels));
                candidates.push(Candidate { data, weight: instance.weight.into(), priority: 0, instance });
            }
        }
        let mut selection = self.choose(service, candidates);
        for record in &selection.records {
            let Data::Ptr(owner) = &record.data else { continue };
            let label =
                owner.labels().next().and_then(|label| std::str::from_utf8(label).ok()).unwrap_or_default();
            let Some(instance) = service.by_label(label).map(|member| &*member.instance) else { continue };
            let Some(port) = first_port(instance, transport) else { continue };
            let srv = self.srv_data(instance, port);
            let target = target_of(instance, self.apex);
            for data in [srv, instance_txt(instance)] {
                selection.additional.push(Record { owner: owner.clone(), ttl: service.ttl, data });
            }
            selection.additional.extend(instance_addresses(instance, &target, self.view.settings.ttl));
        }
        self.records_or_none(selection, Some(service))
    }

    fn record(&self, ttl: u32, data: Data) -> Record {
        Record { owner: self.qname.clone(), ttl, data }
    }

    fn plain(&self, records: Vec<Record>) -> Found {
        self.records_or_none(Selection { records, ..Selection::default() }, None)
    }

    fn records_or_none(&self, selection: Selection, service: Option<&ServiceView>) -> Found {
        if !selection.records.is_empty() {
            return Found::Records(selection);
        }
        match (selection.ede, service) {
            (None, Some(service)) => self.no_data(service),
            (ede, _) => Found::NoData(ede),
        }
    }

    fn no_data(&self, service: &ServiceView) -> Found {
        Found::NoData((!service.why_none.is_empty()).then(|| Ede::new(Ede::OTHER, &*service.why_none)))
    }

    /// Words only for a client that reads them.
    fn ede(&self, text: impl FnOnce() -> String) -> Option<Ede> {
        self.asked.edns.then(|| Ede::new(Ede::OTHER, text()))
    }
}

fn first_port(instance: &Instance, transport: Transport) -> Option<&Port> {
    instance.ports.iter().find(|port| port.transport == transport)
}

fn has_transport(service: &ServiceView, transport: Transport) -> bool {
    service.known().any(|instance| first_port(instance, transport).is_some())
}

/// `label` is in lower case, as a tag's own label is.
fn has_tag(instance: &Instance, label: &str) -> bool {
    instance.tags.iter().any(|tag| tag.label().is_some_and(|own| own.as_str() == label))
}

/// Metadata as RFC 6763 section 6.3 writes it, and the tags; a pair too long for a string is left out.
fn instance_txt(instance: &Instance) -> Data {
    let mut strings: Vec<String> =
        instance.meta.iter().map(|(key, value)| format!("{key}={value}")).collect();
    if !instance.tags.is_empty() && !instance.meta.contains_key("tags") {
        let tags: Vec<&str> = instance.tags.iter().map(|tag| tag.as_str()).collect();
        strings.push(format!("tags={}", tags.join(",")));
    }
    Data::txt(strings.iter().map(|string| string.as_bytes()))
}

/// An RRset is a set (RFC 2181 section 5): equal records become one, with the weight of all.
fn merge_equal(candidates: &mut Vec<Candidate<'_>>) {
    let mut places: HashMap<Data, usize> = HashMap::with_capacity(candidates.len());
    let mut kept: Vec<Candidate<'_>> = Vec::with_capacity(candidates.len());
    for candidate in candidates.drain(..) {
        match places.entry(candidate.data.clone()) {
            Entry::Occupied(place) => kept[*place.get()].weight += candidate.weight,
            Entry::Vacant(place) => {
                place.insert(kept.len());
                kept.push(candidate);
            }
        }
    }
    *candidates = kept;
}

/// A number for what a record says, the same on every machine.
fn candidate_identity(data: &Data) -> u64 {
    match data {
        Data::A(address) => fnv(&[&address.octets()]),
        Data::Aaaa(address) => fnv(&[&address.octets()]),
        Data::Srv { priority, weight, port, target } => {
            fnv(&[&priority.to_be_bytes(), &weight.to_be_bytes(), &port.to_be_bytes(), target.as_wire()])
        }
        Data::Cname(name) | Data::Ns(name) | Data::Ptr(name) => fnv(&[name.as_wire()]),
        Data::Mx { preference, exchange } => fnv(&[&preference.to_be_bytes(), exchange.as_wire()]),
        Data::Soa(soa) => fnv(&[&soa.serial.to_be_bytes(), soa.mname.as_wire()]),
        Data::Other { octets, .. } => fnv(&[octets]),
    }
}

/// The services whose names are within reach of a typing mistake, nearest first.
pub fn nearest_service(view: &View, name: &str) -> Option<ServiceName> {
    let directory = view.directory();
    let nearest = crate::protocol::nearest(name, directory.names().map(ServiceName::as_str))?;
    ServiceName::parse(nearest).ok()
}
