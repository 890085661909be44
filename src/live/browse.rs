//! DNS-SD (RFC 6763): service types, their instances and subtypes, and what TXT says of one.
//!
//! An instance is shown under its id, whatever characters that holds, where it is the one that would be found
//! by it; else under its label. Its host name, which SRV points at, is always the label.

use std::collections::{HashMap, HashSet};

use super::choice::Rule;
use super::{Candidate, Content, EDE_ROOM, Live, POINTER_OCTETS, first_port, has_tag};
use crate::answer::{Ede, FIXED_OCTETS, Found, Selection};
use crate::balance::Scale;
use crate::instance::{Instance, Transport};
use crate::name::{LABEL_OCTETS_MAX, is_ldh_label};
use crate::record::{Data, Record, Type};
use crate::view::{Member, ServiceView, ttl_within};

impl Live<'_> {
    /// `_services._dns-sd._udp`: every type (RFC 6763 section 9), cut at a stable place where even a stream is too short.
    pub(super) fn types(&self) -> Found {
        if self.qtype != Type::PTR {
            return Found::NoData(None);
        }
        let directory = self.view.directory();
        let mut selection = Selection::default();
        // Of a datagram the encoder knows what fits to the octet; a stream has no TC, so the words that
        // say what is missing have their place reserved.
        let datagram = self.asked.over.is_datagram();
        let mut room = self.asked.room.saturating_sub(if datagram { 0 } else { EDE_ROOM });
        for name in directory.names().filter(|name| name.is_service_type()) {
            let Some(service) = self.view.service(name.as_str()) else { continue };
            for transport in Transport::ALL.into_iter().filter(|transport| service.ports.any(*transport)) {
                let type_label = format!("_{name}");
                // In front of a pointer; the first of a transport spells its label out as well.
                let spelt = if datagram { 0 } else { transport.label().len() + 1 };
                let octets = POINTER_OCTETS + FIXED_OCTETS + type_label.len() + 1 + spelt + POINTER_OCTETS;
                let Some(left) = room.checked_sub(octets) else {
                    selection.cut = true;
                    if !datagram {
                        selection.ede =
                            self.ede(|| "not every type fits; `callsign ls` lists them all".to_owned());
                    }
                    return Found::Records(selection);
                };
                room = left;
                let data = Data::Ptr(self.apex.owner(&[&type_label, transport.label()]));
                selection.records.push(self.record(self.view.settings.ttl, data));
            }
        }
        self.records_or_none(selection, None)
    }

    /// PTR to each live instance, or to each with a tag (RFC 6763 sections 4.1 and 7.1).
    pub(super) fn browse(&self, service: &ServiceView, transport: Transport, tag: Option<&str>) -> Found {
        let mut shown = HashSet::new();
        let mut candidates = Vec::new();
        for member in &service.answered {
            let instance = &*member.instance;
            let id = instance.key.id.as_str();
            // In the order of labels, as `instance_named` looks: of two ids alike but for case the first is found.
            let name = if shows_id(instance) && shown.insert(id.to_ascii_lowercase()) {
                id
            } else {
                instance.label.as_str()
            };
            let fits = tag.is_none_or(|tag| has_tag(instance, tag));
            if member.is_answered() && fits && first_port(instance, transport).is_some() {
                candidates.push(Candidate::new(Content::TypeInstance(name, transport), member));
            }
        }
        let none_fits = candidates.is_empty() && service.why_none.is_empty();
        let mut selection = self.choose(&Rule::all_of(service), candidates);
        if none_fits && selection.ede.is_none() {
            selection.ede =
                self.ede(|| format!("{}: instances are live, none with this tag or port", service.name));
        }
        self.records_or_none(selection, Some(service))
    }

    /// `_v2._sub._web._tcp`; a service that is no type has no subtypes.
    pub(super) fn subtype(&self, service: &ServiceView, tag: &str, transport: Transport) -> Found {
        // The sets say first whether it is worth a look at every instance.
        let mut tagged = service.known().filter(|instance| has_tag(instance, tag));
        let there = service.name.is_service_type()
            && service.tags.contains(tag)
            && service.ports.any(transport)
            && tagged.any(|instance| first_port(instance, transport).is_some());
        match self.qtype {
            _ if !there => {
                let transport = transport.as_str();
                Found::NoName(self.ede(|| format!("{}: no {transport} instance tagged {tag}", service.name)))
            }
            Type::PTR => self.browse(service, transport, Some(tag)),
            Type::TXT => self.kept(service, |instance| {
                has_tag(instance, tag) && first_port(instance, transport).is_some()
            }),
            _ => self.no_data(service),
        }
    }

    /// `_sub._web._tcp`: empty, and there where a subtype is.
    pub(super) fn subtypes(&self, service: &ServiceView, transport: Transport) -> Found {
        let tagged = |instance: &Instance| instance.tags.iter().any(|tag| tag.label().is_some());
        let mut with_port = service.known().filter(|instance| first_port(instance, transport).is_some());
        let may_be =
            service.name.is_service_type() && !service.tags.is_empty() && service.ports.any(transport);
        match may_be && with_port.any(|instance| tagged(instance)) {
            true => Found::NoData(None),
            false => {
                let transport = transport.as_str();
                Found::NoName(self.ede(|| format!("{}: no {transport} instance has a tag", service.name)))
            }
        }
    }

    pub(super) fn type_instance(&self, service: &ServiceView, name: &str, transport: Transport) -> Found {
        let member = instance_named(service, name);
        let port = member.and_then(|member| first_port(&member.instance, transport));
        match (member, port, self.qtype) {
            (Some(member), Some(port), Type::SRV | Type::TXT) => {
                self.of_instance(service.scale, member, Some(port))
            }
            (Some(_), Some(_), _) => Found::NoData(None),
            _ => Found::NoName(self.ede(|| format!("{}: no such instance", service.name))),
        }
    }

    /// SRV, TXT and addresses of the instance (RFC 6763 section 12.1).
    pub(super) fn beside_ptr(
        &self,
        scale: Scale,
        ptr: &Record,
        member: &Member,
        transport: Transport,
    ) -> Vec<Record> {
        let instance = &*member.instance;
        let (Data::Ptr(owner), Some(port)) = (&ptr.data, first_port(instance, transport)) else {
            return Vec::new();
        };
        let ttl = ttl_within(self.view.ttl(&instance.key.service), instance.lease);
        let record = |data| Record { owner: owner.clone(), ttl, data };
        let srv = record(self.srv_data(scale, member, port));
        let addresses = self.beside_srv(&srv, member);
        [srv, record(instance_txt(instance))].into_iter().chain(addresses).collect()
    }

    /// Each different text of a live instance once; a known service keeps an empty one, so that
    /// its name is there for secondaries too.
    pub(super) fn service_txt(&self, service: &ServiceView) -> Found {
        let texts = service.texts.get_or_init(|| different_texts(service));
        let candidates: Vec<Candidate<'_>> =
            texts.iter().map(|(member, text)| Candidate::new(Content::Text(text), member)).collect();
        if candidates.is_empty() {
            let ede = Some(Ede::new(Ede::OTHER, &*service.why_none));
            let records = vec![self.record(service.ttl, Data::txt([]))];
            return Found::Records(Selection { records, ede, ..Selection::default() });
        }
        Found::Records(self.choose(&Rule::all_of(service), candidates))
    }
}

/// True where the id makes an instance name of its own: not a label already, and not what only its label tells
/// from another host's.
pub(super) fn shows_id(instance: &Instance) -> bool {
    let id = &instance.key.id;
    // `_` in front would be read as a service's or a subtype's label.
    let fits = id.as_str().len() <= LABEL_OCTETS_MAX && !id.as_str().starts_with('_');
    fits && !is_ldh_label(id.as_str().as_bytes()) && id.label() == instance.label
}

/// The instance of this label or, without case, this id; `name` is in lower case, its ASCII letters at least.
fn instance_named<'s>(service: &'s ServiceView, name: &str) -> Option<&'s Member> {
    if is_ldh_label(name.as_bytes()) {
        return service.by_label(name);
    }
    let of_id = |member: &&Member| member.instance.key.id.as_str().eq_ignore_ascii_case(name);
    service.answered.iter().filter(of_id).find(|member| shows_id(&member.instance))
}

/// The texts of those in the answers, each once and with the first that has it, in the order of these.
fn different_texts(service: &ServiceView) -> Box<[(Member, Data)]> {
    let mut texts = HashMap::new();
    for (place, member) in service.in_answers().enumerate() {
        texts.entry(instance_txt(&member.instance)).or_insert((place, member));
    }
    let mut texts: Vec<_> = texts.into_iter().collect();
    texts.sort_unstable_by_key(|(_, (place, _))| *place);
    texts.into_iter().map(|(text, (_, member))| (member.clone(), text)).collect()
}

/// Metadata as RFC 6763 section 6.3 writes it, and the tags.
///
/// Left out are a pair too long for a string, a key that is not printable ASCII (section 6.4), and one that is
/// there already but for case: readers take the first.
pub(super) fn instance_txt(instance: &Instance) -> Data {
    let mut keys: HashSet<String> = HashSet::with_capacity(instance.meta.len() + 1);
    let mut strings: Vec<String> = Vec::with_capacity(instance.meta.len() + 1);
    for (key, value) in &instance.meta {
        let printable = key.bytes().all(|octet| matches!(octet, b' '..=b'~'));
        if printable && keys.insert(key.to_ascii_lowercase()) {
            strings.push(format!("{key}={value}"));
        }
    }
    if !instance.tags.is_empty() && !keys.contains("tags") {
        let tags: Vec<&str> = instance.tags.iter().map(|tag| tag.as_str()).collect();
        strings.push(format!("tags={}", tags.join(",")));
    }
    Data::txt(strings.iter().map(|string| string.as_bytes()))
}
