//! The records of instances: addresses, SRV, and what goes beside them.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use super::choice::Rule;
use super::{
    Candidate, Content, Live, POINTER_OCTETS, Why, address_data, consul, instance_addresses,
    of_lowest_priority, only_target, srv_of, stale,
};
use crate::answer::{Ede, FIXED_OCTETS, Found, Selection, additional};
use crate::balance::Scale;
use crate::instance::{Instance, Location, Port};
use crate::name::Name;
use crate::record::{Data, Record, Type};
use crate::view::{Member, ServiceView, target_of};

impl Live<'_> {
    /// A, AAAA or CNAME of the lowest priority that has a live instance.
    pub(super) fn addresses(&self, service: &ServiceView, live: Vec<&Member>) -> Found {
        let lowest = of_lowest_priority(live);
        if let Some(target) = only_target(&lowest) {
            return self.alias(service.ttl, target, stale(service));
        }
        if self.qtype == Type::CNAME {
            return self.no_data(service);
        }
        let named = |member: &&&Member| matches!(member.instance.location, Location::Target(_));
        let targets = lowest.iter().filter(named).count();
        let candidates = self.each_address(lowest.iter().copied());
        let none = candidates.is_empty();
        let mut selection = self.choose(&Rule::of(service), candidates);
        if lowest.is_empty() && service.why_none.is_empty() {
            selection.ede = self.why(Why::NoneLiveTagged(&service.name));
        } else if targets > 0 {
            let text = || format!("{}: left out {targets} that are host names; ask SRV", service.name);
            selection.ede = selection.ede.or_else(|| self.ede(text));
        } else if none && !lowest.is_empty() {
            selection.ede = self.why(Why::NoneOfFamily(&service.name, self.qtype));
        }
        self.records_or_none(selection, Some(service))
    }

    /// A CNAME, which is followed unless it is what was asked for (RFC 1034 section 3.6.2).
    pub(super) fn alias(&self, ttl: u32, target: &Name, ede: Option<Ede>) -> Found {
        let record = self.record(ttl, Data::Cname(target.clone()));
        if self.qtype == Type::CNAME {
            return Found::Records(Selection { records: vec![record], ede, ..Selection::default() });
        }
        Found::Alias(record, target.clone(), ede)
    }

    /// The addresses of the family that is asked for. An RRset is a set (RFC 2181 section 5): each is
    /// there once, with the weight of all.
    pub(super) fn each_address<'m>(&self, members: impl Iterator<Item = &'m Member>) -> Vec<Candidate<'m>> {
        let mut candidates: Vec<Candidate<'m>> = Vec::new();
        let mut places: HashMap<IpAddr, usize> = HashMap::new();
        for member in members {
            let of_family = |address: &&IpAddr| address.is_ipv4() == (self.qtype == Type::A);
            for address in member.instance.addresses().iter().filter(of_family) {
                let candidate = Candidate::new(Content::Address(*address), member);
                match places.entry(*address) {
                    Entry::Occupied(place) => candidates[*place.get()].weight += candidate.weight,
                    Entry::Vacant(place) => {
                        place.insert(candidates.len());
                        candidates.push(candidate);
                    }
                }
            }
        }
        candidates
    }

    pub(super) fn srv<'m>(
        &self,
        service: &ServiceView,
        live: impl Iterator<Item = &'m Member>,
        port: impl Fn(&'m Instance) -> Option<&'m Port>,
    ) -> Found {
        let mut seen = HashSet::new();
        let mut candidates: Vec<Candidate<'_>> = Vec::new();
        for member in live {
            let instance = &*member.instance;
            let Some(port) = port(instance) else { continue };
            let candidate =
                Candidate { priority: instance.priority, ..Candidate::new(Content::Port(port), member) };
            // An RRset is a set. In our own zone the name of an instance is its own, so only those that name a
            // target can be alike.
            let shared = match (self.consul, &instance.location) {
                (Some(zone), _) => Some(consul::target(zone, member).0),
                (None, Location::Target(target)) => Some(target.clone()),
                (None, Location::Addresses(_)) => None,
            };
            if let Some(target) = shared
                && !seen.insert((target, port.number, instance.priority, candidate.weight))
            {
                continue;
            }
            candidates.push(candidate);
        }
        let none_fits = candidates.is_empty() && service.why_none.is_empty();
        let mut selection = self.choose(&Rule::of(service), candidates);
        if none_fits && selection.ede.is_none() {
            selection.ede = self.why(Why::NoneLiveWithPort(&service.name));
        }
        self.records_or_none(selection, Some(service))
    }

    pub(super) fn srv_data(&self, scale: Scale, member: &Member, port: &Port) -> Data {
        let target = match self.consul {
            Some(zone) => consul::target(zone, member).0,
            None => target_of(&member.instance, self.apex),
        };
        srv_of(scale, member, port, target)
    }

    pub(super) fn data(&self, scale: Scale, candidate: &Candidate<'_>) -> Data {
        let instance = &*candidate.member.instance;
        match candidate.content {
            Content::Address(address) => address_data(address),
            Content::Port(port) => self.srv_data(scale, candidate.member, port),
            Content::Binding { port, hints } => self.binding(candidate.member, port, hints),
            Content::Text(text) => text.clone(),
            Content::TypeInstance(name, transport) => {
                let service = format!("_{}", instance.key.service);
                Data::Ptr(self.apex.owner(&[name, &service, transport.label()]))
            }
        }
    }

    /// Octets of the record: its owner is the question's name, and so a pointer.
    pub(super) fn octets(&self, candidate: &Candidate<'_>) -> usize {
        let instance = &*candidate.member.instance;
        let own = instance.label.as_str().len() + instance.key.service.as_str().len() + 2;
        let apex = self.apex.name().as_wire().len();
        let data = match candidate.content {
            Content::Address(IpAddr::V4(_)) => 4,
            Content::Address(IpAddr::V6(_)) => 16,
            Content::Port(_) => match (self.consul, &instance.location) {
                (Some(zone), _) => 6 + consul::target(zone, candidate.member).0.as_wire().len(),
                (None, Location::Target(target)) => 6 + target.as_wire().len(),
                (None, Location::Addresses(_)) => 6 + own + apex,
            },
            Content::Binding { .. } => self.data(Scale::default(), candidate).octets_max(),
            Content::Text(text) => text.octets_max(),
            // `<id>` in front of the type's own name, which is a pointer.
            Content::TypeInstance(name, _) => name.len() + 1 + POINTER_OCTETS,
        };
        POINTER_OCTETS + FIXED_OCTETS + data
    }

    /// The addresses of the instance, from the same view as its record, or of its target where that is
    /// a name of ours.
    pub(super) fn beside_srv(&self, record: &Record, member: &Member) -> Vec<Record> {
        match (self.consul, &member.instance.location, record.data.target()) {
            (Some(zone), Location::Addresses(_), Some(target)) => {
                consul::address_records(self.view, target, consul::target(zone, member).1)
            }
            (None, Location::Addresses(_), Some(target)) => {
                instance_addresses(self.view, &member.instance, target)
            }
            _ => additional(self.view, std::slice::from_ref(record)),
        }
    }

    pub(super) fn record(&self, ttl: u32, data: Data) -> Record {
        Record { owner: self.qname.clone(), ttl, data }
    }

    pub(super) fn plain(&self, records: Vec<Record>) -> Found {
        self.records_or_none(Selection { records, ..Selection::default() }, None)
    }
}
