//! The live zone: what each owner name answers from the view of its service.
//!
//! One question is one `Live`: the owner's kind comes from `grammar`, the instances from the view, choice
//! and order from `balance`. Records are made last, and only those that go out. The alias zone (`consul`) spells the
//! questions and the targets in another way, and shares the rest.

mod binding;
mod browse;
mod choice;
pub(crate) mod consul;
mod failover;
pub(crate) mod own;
pub(crate) mod past;
mod records;
pub(crate) mod reverse;
pub(crate) mod walk;
pub(crate) mod whole;

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use self::browse::instance_txt;
use crate::answer::{Asked, Ede, Found, Question, Selection, static_addresses};
use crate::balance::Scale;
use crate::grammar::{self, Owner};
use crate::instance::{Instance, Location, Port, Transport};
use crate::name::{Apex, Name, ServiceName, fnv};
use crate::record::{Data, Record, Type};
use crate::view::{
    APEX_TTL, ConsulZone, EDE_OCTETS_MAX, Member, NEGATIVE_TTL, ServiceView, View, ttl_within,
};

/// Octets of an owner that is a compression pointer.
const POINTER_OCTETS: usize = 2;
/// Octets of an Extended DNS Error besides its text, and of one at its longest (RFC 8914 section 2).
const EDE_OCTETS: usize = 6;
const EDE_ROOM: usize = EDE_OCTETS + EDE_OCTETS_MAX;

/// The addresses of one instance, of the name server or of a name in the record tree.
pub(crate) fn addresses(view: &View, apex: &Apex, name: &Name) -> Vec<Record> {
    let lower = name.to_lowercase();
    let labels = lower.labels_below(apex.name()).unwrap_or_default();
    match grammar::parse(&labels) {
        Some(Owner::NameServer(_) | Owner::Registration(_)) => own::addresses_at(view, apex, name),
        Some(Owner::Below { service, label }) => {
            let service = view.service(service);
            let member = service.as_ref().and_then(|service| service.by_label(label));
            member.map(|member| instance_addresses(view, &member.instance, name)).unwrap_or_default()
        }
        Some(Owner::Service(service)) if view.service(service).is_some() => {
            let service = view.service(service);
            let live = service.iter().flat_map(|service| service.in_answers()).collect();
            let first = of_lowest_priority(live).into_iter();
            let addresses: BTreeSet<IpAddr> =
                first.flat_map(|member| member.instance.addresses()).copied().collect();
            // They are one RRset, which has one TTL (RFC 2181 section 5.2).
            let ttl = service.as_ref().map_or(view.settings.ttl, |service| service.ttl);
            let record = |address| Record { owner: name.clone(), ttl, data: address_data(address) };
            addresses.into_iter().map(record).collect()
        }
        _ => {
            let zones = view.zones();
            let tree = zones.trees.iter().find(|tree| &tree.apex == apex.name());
            tree.map(|tree| static_addresses(tree, name)).unwrap_or_default()
        }
    }
}

/// Whom A and AAAA are of: these have no room for a priority, so what is in reserve is no answer while others are live.
fn of_lowest_priority(mut live: Vec<&Member>) -> Vec<&Member> {
    let lowest = live.iter().map(|member| member.instance.priority).min();
    live.retain(|member| Some(member.instance.priority) == lowest);
    live
}

/// The host name that A and AAAA lead to. One beside others is left out: beside a CNAME there may be nothing (RFC 1034
/// section 3.6.2).
fn only_target<'m>(lowest: &[&'m Member]) -> Option<&'m Name> {
    match lowest {
        [Member { instance, .. }] => match &instance.location {
            Location::Target(target) => Some(target),
            Location::Addresses(_) => None,
        },
        _ => None,
    }
}

fn ns_addresses(view: &View, owner: &Name, types: &[Type]) -> Vec<Record> {
    let data = view.ns_addresses().into_iter().map(address_data);
    data.filter(|data| types.contains(&data.rtype()))
        .map(|data| Record { owner: owner.clone(), ttl: APEX_TTL, data })
        .collect()
}

fn instance_addresses(view: &View, instance: &Instance, owner: &Name) -> Vec<Record> {
    let ttl = ttl_within(view.ttl(&instance.key.service), instance.lease);
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

/// What the live zone has for a name.
pub(crate) fn find(view: &View, apex: &Apex, asked: &Asked<'_>, qname: &Name) -> Found {
    let lower = qname.to_lowercase();
    let labels = lower.labels_below(apex.name()).unwrap_or_default();
    let Some(owner) = grammar::parse(&labels) else { return Found::NoName(None) };
    let live = Live { view, apex, consul: None, asked, qname, qtype: asked.question.qtype };
    live.of_type_asked(|live| live.find(owner))
}

/// One question in the live zone.
struct Live<'a> {
    view: &'a View,
    apex: &'a Apex,
    /// The alias zone, where it is asked: targets are spelt as Consul does.
    consul: Option<&'a ConsulZone>,
    asked: &'a Asked<'a>,
    qname: &'a Name,
    qtype: Type,
}

/// One record that could be answered, before choice: it is made only once it is chosen.
struct Candidate<'a> {
    content: Content<'a>,
    member: &'a Member,
    weight: u64,
    priority: u16,
}

#[derive(Clone, Copy)]
enum Content<'a> {
    Address(IpAddr),
    Port(&'a Port),
    /// SVCB or HTTPS, with addresses or without.
    Binding {
        port: &'a Port,
        hints: bool,
    },
    /// An instance's name in DNS-SD.
    TypeInstance(&'a str, Transport),
    Text(&'a Data),
}

impl<'a> Candidate<'a> {
    /// With the weight of its instance, where priorities do not count.
    fn new(content: Content<'a>, member: &'a Member) -> Self {
        Self { content, member, weight: member.weight().into(), priority: 0 }
    }

    /// A number for what the record says, the same on every machine and for every query.
    fn identity(&self) -> u64 {
        match self.content {
            Content::Address(IpAddr::V4(v4)) => fnv(&[&v4.octets()]),
            Content::Address(IpAddr::V6(v6)) => fnv(&[&v6.octets()]),
            Content::Port(port) | Content::Binding { port, .. } => {
                fnv(&[self.member.instance.label.as_str().as_bytes(), &port.number.to_be_bytes()])
            }
            Content::TypeInstance(..) | Content::Text(_) => {
                fnv(&[self.member.instance.label.as_str().as_bytes()])
            }
        }
    }
}

/// Why a name of a service has nothing, in the words of an Extended DNS Error.
#[derive(Clone, Copy)]
pub(crate) enum Why<'a> {
    NoService(&'a str),
    NoPort(&'a ServiceName, Transport),
    NoPortNamed(&'a ServiceName, Transport, &'a str),
    NoneTagged(&'a ServiceName, &'a str),
    /// Neither an instance of that label nor a tag.
    NothingBelow(&'a ServiceName, &'a str),
    NoneOfFamily(&'a ServiceName, Type),
    /// Instances are live, and none of them has the tag that is asked for.
    NoneLiveTagged(&'a ServiceName),
    /// Nor the port.
    NoneLiveWithPort(&'a ServiceName),
}

impl fmt::Display for Why<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoService(name) => write!(f, "{name}: no such service"),
            Self::NoPort(service, transport) => write!(f, "{service}: no {} port", transport.as_str()),
            Self::NoPortNamed(service, transport, port) => {
                write!(f, "{service}: no {} port named {port}", transport.as_str())
            }
            Self::NoneTagged(service, tag) => write!(f, "{service}: no instance tagged {tag}"),
            Self::NothingBelow(service, label) => write!(f, "{service}: no instance or tag {label}"),
            Self::NoneOfFamily(service, family) => {
                let family = if *family == Type::A { "IPv4" } else { "IPv6" };
                write!(f, "{service}: no live instance has an {family} address")
            }
            Self::NoneLiveTagged(service) => write!(f, "{service}: instances are live, none with this tag"),
            Self::NoneLiveWithPort(service) => {
                write!(f, "{service}: instances are live, none with this tag or port")
            }
        }
    }
}

impl Live<'_> {
    /// RFC 8482 section 4.1: of ANY one RRset that is there, the smallest kinds first.
    fn of_type_asked(mut self, find: impl Fn(&Self) -> Found) -> Found {
        if self.qtype != Type::ANY {
            return find(&self);
        }
        let mut last = Found::NoName(None);
        for qtype in [Type::A, Type::AAAA, Type::SRV, Type::PTR, Type::TXT, Type::SOA] {
            self.qtype = qtype;
            last = find(&self);
            if matches!(last, Found::Records(_) | Found::Alias(..)) {
                break;
            }
        }
        last
    }

    fn find(&self, owner: Owner<'_>) -> Found {
        match owner {
            Owner::Apex => self.apex_records(),
            Owner::NameServer(_) | Owner::Registrations | Owner::Registration(_) => self.own(owner),
            Owner::Empty => Found::NoData(None),
            Owner::Types => self.types(),
            Owner::Browse => match self.qtype {
                Type::PTR => self.plain(vec![self.record(APEX_TTL, Data::Ptr(self.apex.name().clone()))]),
                _ => Found::NoData(None),
            },
            Owner::Tag(tag) if self.view.has_tag(tag) => Found::NoData(None),
            // Of what answers instead of a service nobody knows the tags, so the service may have any.
            Owner::Tag(_) if self.view.census().failing_over > 0 => Found::NoData(None),
            Owner::Tag(_) => Found::NoName(None),
            Owner::Service(name) => self.by_service(name, |service| self.of_service(service)),
            Owner::ByTransport(name, transport) => {
                self.by_service(name, |service| self.by_transport(service, transport))
            }
            Owner::ByPort { service, port, transport } => {
                self.by_service(service, |service| self.by_port(service, port, transport))
            }
            Owner::Ports(name, transport) => {
                self.in_service(name, |service| match service.ports.any_named(transport) {
                    true => Found::NoData(None),
                    false => {
                        let why = self.ede(|| format!("{name}: no named {} port", transport.as_str()));
                        self.or_there(service, Found::NoName(why))
                    }
                })
            }
            Owner::ByTag { service, tag } => self.by_service(service, |service| self.by_tag(service, tag)),
            Owner::Below { service, label } => self.in_service(service, |service| self.below(service, label)),
            Owner::TypeInstance { service, label, transport } => {
                self.in_service(service, |service| self.type_instance(service, label, transport))
            }
            Owner::Subtype { service, tag, transport } => {
                self.in_service(service, |service| self.subtype(service, tag, transport))
            }
            Owner::Subtypes(name, transport) => {
                self.in_service(name, |service| self.subtypes(service, transport))
            }
        }
    }

    /// As `in_service`, where another service may answer instead.
    fn by_service(&self, name: &str, find: impl Fn(&ServiceView) -> Found) -> Found {
        self.in_service(name, |service| self.or_instead(service, find))
    }

    fn in_service(&self, name: &str, find: impl FnOnce(&ServiceView) -> Found) -> Found {
        match self.view.service(name) {
            Some(service) => find(&service),
            None => Found::NoName(self.why(Why::NoService(name))),
        }
    }

    fn apex_records(&self) -> Found {
        match self.qtype {
            Type::SOA => {
                let soa = Data::Soa(Arc::new(self.view.soa(self.apex)));
                self.plain(vec![self.record(NEGATIVE_TTL, soa)])
            }
            Type::NS if self.consul.is_none() => self.own(Owner::Apex),
            // One name for all nodes.
            Type::NS => {
                let server = self.apex.owner(&["ns"]);
                let addresses = ns_addresses(self.view, &server, &[Type::A, Type::AAAA]);
                let records = vec![self.record(APEX_TTL, Data::Ns(server))];
                Found::Records(Selection { records, additional: addresses, ..Selection::default() })
            }
            _ => Found::NoData(None),
        }
    }

    fn name_server(&self) -> Found {
        match self.qtype {
            qtype @ (Type::A | Type::AAAA) => self.plain(ns_addresses(self.view, self.qname, &[qtype])),
            _ => Found::NoData(None),
        }
    }

    /// `web`: A, AAAA, SRV, TXT, HTTPS and CNAME of its live instances.
    fn of_service(&self, service: &ServiceView) -> Found {
        match self.qtype {
            Type::A | Type::AAAA | Type::CNAME => self.addresses(service, service.in_answers().collect()),
            Type::SRV => self.srv(service, service.in_answers(), |instance| instance.ports.first()),
            Type::TXT => self.service_txt(service),
            Type::HTTPS => self.https(service),
            _ => self.no_data(service),
        }
    }

    fn by_transport(&self, service: &ServiceView, transport: Transport) -> Found {
        if !service.ports.any(transport) {
            return Found::NoName(self.why(Why::NoPort(&service.name, transport)));
        }
        match self.qtype {
            Type::SRV => self.srv(service, service.in_answers(), |instance| first_port(instance, transport)),
            Type::PTR if service.name.is_service_type() => self.browse(service, transport, None),
            _ => self.no_data(service),
        }
    }

    fn by_port(&self, service: &ServiceView, port: &str, transport: Transport) -> Found {
        if !service.ports.has(port, transport) {
            return Found::NoName(self.why(Why::NoPortNamed(&service.name, transport, port)));
        }
        match self.qtype {
            Type::SRV => {
                self.srv(service, service.in_answers(), |instance| named_port(instance, port, transport))
            }
            Type::SVCB => self.bindings(service, |instance| named_port(instance, port, transport)),
            Type::TXT => self.kept(service, |instance| named_port(instance, port, transport).is_some()),
            _ => self.no_data(service),
        }
    }

    fn by_tag(&self, service: &ServiceView, tag: &str) -> Found {
        if !service.tags.contains(tag) {
            return Found::NoName(self.why(Why::NoneTagged(&service.name, tag)));
        }
        let fits = |instance: &Instance| has_tag(instance, tag);
        match self.qtype {
            Type::TXT => self.kept(service, fits),
            _ => self.of_those(service, fits, |instance| instance.ports.first()),
        }
    }

    /// A, AAAA, SRV and CNAME of the live instances that fit.
    fn of_those(
        &self,
        service: &ServiceView,
        fits: impl Fn(&Instance) -> bool,
        port: impl Fn(&Instance) -> Option<&Port>,
    ) -> Found {
        let fitting = service.in_answers().filter(|member| fits(&member.instance));
        match self.qtype {
            Type::A | Type::AAAA | Type::CNAME => self.addresses(service, fitting.collect()),
            Type::SRV => self.srv(service, fitting, port),
            _ => self.no_data(service),
        }
    }

    /// `<id>.web`, else `<tag>.web`: where both are spelt alike, the id answers.
    fn below(&self, service: &ServiceView, label: &str) -> Found {
        if let Some(member) = service.by_label(label) {
            let instance = &member.instance;
            let port = first_port(instance, Transport::Tcp).or(instance.ports.first());
            return match self.of_instance(service.scale, member, port) {
                Found::Records(selection) if member.held => self.records_or_none(selection, Some(service)),
                found => found,
            };
        }
        let gone = service.gone.iter().rev().find(|gone| gone.instance.label.as_str() == label);
        // A label that nobody knows may be an instance's, which nobody else answers for.
        if service.tags.contains(label) || gone.is_none() && self.has_tag_instead(service, label) {
            return self.or_instead(service, |service| self.by_tag(service, label));
        }
        match gone {
            Some(gone) => Found::NoData(
                self.ede(|| format!("{label} {} {}", gone.reason.as_str(), gone.at.time_of_day())),
            ),
            None => Found::NoName(self.why(Why::NothingBelow(&service.name, label))),
        }
    }

    /// One instance under its own name, whatever its health: it is asked for by id.
    fn of_instance(&self, scale: Scale, member: &Member, port: Option<&Port>) -> Found {
        let instance = &*member.instance;
        let ttl = ttl_within(self.view.ttl(&instance.key.service), instance.lease);
        match (self.qtype, &instance.location) {
            (Type::A | Type::AAAA | Type::CNAME, Location::Target(target)) => self.alias(ttl, target, None),
            (qtype @ (Type::A | Type::AAAA), Location::Addresses(_)) => {
                let mut records = instance_addresses(self.view, instance, self.qname);
                records.retain(|record| record.data.rtype() == qtype);
                self.plain(records)
            }
            (Type::SRV, _) => {
                let Some(port) = port else { return Found::NoData(None) };
                let data = self.srv_data(scale, member, port);
                let records = vec![self.record(ttl, data)];
                let additional = self.beside_srv(&records[0], member);
                Found::Records(Selection { records, additional, ..Selection::default() })
            }
            (Type::TXT, _) => self.plain(vec![self.record(ttl, instance_txt(instance))]),
            _ => Found::NoData(None),
        }
    }

    /// TXT at a name of instances that have none there: an empty one where none of them is live and plain records do not keep the
    /// name, so that it is there for secondaries too.
    fn kept(&self, service: &ServiceView, fits: impl Fn(&Instance) -> bool) -> Found {
        let tree = walk::tree_of(self.view, self.apex);
        let planted = || tree.as_ref()?.node(self.qname).filter(|node| !node.sets.is_empty()).map(drop);
        if !service.only_registered(fits) || planted().is_some() {
            return self.no_data(service);
        }
        let records = vec![self.record(service.ttl, Data::txt([]))];
        let ede = match service.why_none.is_empty() {
            true => self.why(Why::NoneLiveWithPort(&service.name)),
            false => Some(Ede::new(Ede::OTHER, &*service.why_none)),
        };
        Found::Records(Selection { records, ede, ..Selection::default() })
    }

    fn records_or_none(&self, mut selection: Selection, service: Option<&ServiceView>) -> Found {
        if !selection.records.is_empty() || selection.cut {
            selection.ede = service.and_then(stale).or(selection.ede);
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

    fn why(&self, why: Why<'_>) -> Option<Ede> {
        self.ede(|| why.to_string())
    }

    /// Words only for a client that reads them.
    fn ede(&self, text: impl FnOnce() -> String) -> Option<Ede> {
        self.asked.edns.then(|| Ede::new(Ede::OTHER, text()))
    }
}

/// That some of an answer is held by the guard.
fn stale(service: &ServiceView) -> Option<Ede> {
    (!service.stale().is_empty()).then(|| Ede::new(Ede::STALE_ANSWER, service.stale()))
}

fn srv_of(scale: Scale, member: &Member, port: &Port, target: Name) -> Data {
    let weight = scale.weight(member.weight());
    Data::Srv { priority: member.instance.priority, weight, port: port.number, target }
}

pub(crate) fn first_port(instance: &Instance, transport: Transport) -> Option<&Port> {
    instance.ports.iter().find(|port| port.transport == transport)
}

pub(crate) fn named_port<'i>(instance: &'i Instance, name: &str, transport: Transport) -> Option<&'i Port> {
    instance.ports.iter().find(|port| port.name.as_deref() == Some(name) && port.transport == transport)
}

/// `label` is in lower case, as a tag's own label is.
pub(crate) fn has_tag(instance: &Instance, label: &str) -> bool {
    instance.tags.iter().any(|tag| tag.label().is_some_and(|own| own.as_str() == label))
}

/// True where the registry has a name above `qname` and below `parent`.
pub(crate) fn has_between(view: &View, apex: &Apex, asked: &Asked<'_>, parent: &[u8], qname: &Name) -> bool {
    // A type that nothing has, for whether a name is there does not depend on it.
    let question = Question { qtype: Type::HINFO, ..asked.question.clone() };
    let asked = &Asked { question: &question, edns: false, ..*asked };
    let above = qname.suffixes().skip(1).take_while(|suffix| suffix.len() > parent.len());
    let mut names = above.filter_map(|suffix| Name::from_wire(suffix).ok());
    names.any(|name| !matches!(find(view, apex, asked, &name), Found::NoName(_)))
}
