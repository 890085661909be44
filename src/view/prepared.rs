//! The records of a service as octets: which there are, and how each is written, for replies that are made without a decoder.
//!
//! Those of a service's own name are made once for a view of it, and a query copies them in an order of its own. They are made
//! when first asked for, not when published: a change costs nothing for it, and a service that nobody asks for
//! holds nothing. What else is asked for is written straight into the reply, by the same functions.

use std::net::IpAddr;

use arrayvec::ArrayVec;

use super::{Member, ServiceView, ttl_within};
use crate::answer::CLASS_IN;
use crate::instance::{Instance, Location, Port};
use crate::name::Apex;
use crate::record::Type;

/// Records of one set: what has more hardly fits a datagram.
pub const RECORDS_MAX: usize = 64;
/// The owner of nearly every record: a pointer to the question's name, which stands behind a header (RFC 1035 section 4.1.4).
pub const QNAME: u16 = 0xc000 | 12;
/// Octets of a record in front of its data: owner, type, class, TTL and length.
const FIXED_OCTETS: usize = 12;
/// Octets of an SRV record in front of its target: three numbers more (RFC 2782).
pub const BEFORE_TARGET_OCTETS: usize = FIXED_OCTETS + 6;

/// Where octets go, as long as there is room.
pub trait Room {
    /// Adds all of `octets`; `None` where they do not fit.
    fn put(&mut self, octets: &[u8]) -> Option<()>;
}

impl Room for Vec<u8> {
    fn put(&mut self, octets: &[u8]) -> Option<()> {
        self.extend_from_slice(octets);
        Some(())
    }
}

/// What stands in front of a record's data; `octets` is their length.
pub fn put_fixed(room: &mut impl Room, owner: u16, rtype: Type, ttl: u32, octets: u16) -> Option<()> {
    let mut fixed = [0; FIXED_OCTETS];
    let numbers = [owner, rtype.0, CLASS_IN, (ttl >> 16) as u16, ttl as u16, octets];
    for (place, number) in fixed.chunks_exact_mut(2).zip(numbers) {
        place.copy_from_slice(&number.to_be_bytes());
    }
    room.put(&fixed)
}

pub fn put_address(room: &mut impl Room, owner: u16, ttl: u32, address: IpAddr) -> Option<()> {
    match address {
        IpAddr::V4(v4) => {
            put_fixed(room, owner, Type::A, ttl, 4)?;
            room.put(&v4.octets())
        }
        IpAddr::V6(v6) => {
            put_fixed(room, owner, Type::AAAA, ttl, 16)?;
            room.put(&v6.octets())
        }
    }
}

/// An SRV record at the question's name; `weight` as it is told. The target is written out (RFC 2782, "Target").
pub fn put_srv(
    room: &mut impl Room,
    ttl: u32,
    instance: &Instance,
    weight: u16,
    port: &Port,
    apex: &Apex,
) -> Option<()> {
    let (label, service) = (instance.label.as_str().as_bytes(), instance.key.service.as_str().as_bytes());
    let apex = apex.name().as_wire();
    let octets = 6 + label.len() + service.len() + 2 + apex.len();
    put_fixed(room, QNAME, Type::SRV, ttl, octets as u16)?;
    for number in [instance.priority, weight, port.number] {
        room.put(&number.to_be_bytes())?;
    }
    for label in [label, service] {
        room.put(&[label.len() as u8])?;
        room.put(label)?;
    }
    room.put(apex)
}

/// The addresses of an instance beside its SRV record, each RRset in one run; how many they are.
pub fn put_glue(room: &mut impl Room, owner: u16, service_ttl: u32, instance: &Instance) -> Option<u16> {
    let ttl = ttl_within(service_ttl, instance.lease);
    for v4 in [true, false] {
        for address in instance.addresses().iter().filter(|address| address.is_ipv4() == v4) {
            put_address(room, owner, ttl, *address)?;
        }
    }
    Some(instance.addresses().len() as u16)
}

/// One record that could be answered, and what orders it.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<T> {
    pub content: T,
    pub priority: u16,
    pub weight: u64,
    /// Its member's number on the service's ring; 0 where there is none.
    pub number: u32,
}

pub type Candidates<T> = ArrayVec<Candidate<T>, RECORDS_MAX>;

/// Each address of the lowest priority that has a live instance that fits, once, with the weight of all; and that priority.
/// `None` where one of the instances is somebody else's name, or there are too many.
pub fn addresses(
    service: &ServiceView,
    family: Type,
    fits: impl Fn(&Instance) -> bool,
) -> Option<(Option<u16>, Candidates<IpAddr>)> {
    let mut lowest: Option<u16> = None;
    let mut candidates = Candidates::new();
    for member in service.in_answers().filter(|member| fits(&member.instance)) {
        let Location::Addresses(addresses) = &member.instance.location else { return None };
        let priority = member.instance.priority;
        if lowest.is_some_and(|lowest| lowest < priority) {
            continue;
        }
        if lowest != Some(priority) {
            candidates.clear();
            lowest = Some(priority);
        }
        let (weight, number) = (member.weight().into(), service.number_of(member));
        for content in addresses.iter().filter(|address| address.is_ipv4() == (family == Type::A)) {
            match candidates.iter_mut().find(|known| known.content == *content) {
                Some(known) => known.weight += weight,
                None => {
                    candidates.try_push(Candidate { content: *content, priority: 0, weight, number }).ok()?
                }
            }
        }
    }
    Some((lowest, candidates))
}

/// The port of each live instance that has one. `None` as of `addresses`.
pub fn ports<'s>(
    service: &'s ServiceView,
    port: impl Fn(&'s Instance) -> Option<&'s Port>,
) -> Option<Candidates<(&'s Member, &'s Port)>> {
    let mut candidates = Candidates::new();
    for member in service.in_answers() {
        let Some(port) = port(&member.instance) else { continue };
        let Location::Addresses(_) = &member.instance.location else { return None };
        let (priority, weight) = (member.instance.priority, member.weight().into());
        let (content, number) = ((member, port), service.number_of(member));
        candidates.try_push(Candidate { content, priority, weight, number }).ok()?;
    }
    Some(candidates)
}

/// The record sets of one service.
#[derive(Debug)]
pub struct Prepared {
    a: Option<Set>,
    aaaa: Option<Set>,
    srv: Option<Set>,
}

/// Records that are answered together, at least one.
#[derive(Debug, Default)]
pub struct Set {
    pub items: Vec<Candidate<Place>>,
    octets: Vec<u8>,
}

/// Where the octets of a record begin, those of the addresses beside it, and where they end.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    begin: u16,
    glue: u16,
    end: u16,
}

impl Prepared {
    /// `apex` is what the targets of SRV are below, `service_ttl` the service's TTL before leases shorten it.
    pub(super) fn of(service: &ServiceView, apex: &Apex, service_ttl: u32) -> Self {
        Self {
            a: Set::of_addresses(service, Type::A),
            aaaa: Set::of_addresses(service, Type::AAAA),
            srv: Set::of_ports(service, apex, service_ttl),
        }
    }

    /// The records of a type; none where they are not to be had in this way.
    pub fn set(&self, qtype: Type) -> Option<&Set> {
        match qtype {
            Type::A => self.a.as_ref(),
            Type::AAAA => self.aaaa.as_ref(),
            Type::SRV => self.srv.as_ref(),
            _ => None,
        }
    }
}

impl Set {
    fn of_addresses(service: &ServiceView, family: Type) -> Option<Self> {
        let (_, candidates) = addresses(service, family, |_| true)?;
        Self::of(candidates, |set, address| {
            put_address(&mut set.octets, QNAME, service.ttl, address)?;
            set.end()
        })
    }

    /// Of the first port of each instance.
    fn of_ports(service: &ServiceView, apex: &Apex, service_ttl: u32) -> Option<Self> {
        let candidates = ports(service, |instance| instance.ports.first())?;
        Self::of(candidates, |set, (member, port)| {
            let weight = service.scale.weight(member.weight());
            put_srv(&mut set.octets, service.ttl, &member.instance, weight, port, apex)?;
            let glue = set.end()?;
            put_glue(&mut set.octets, 0, service_ttl, &member.instance)?;
            Some(glue)
        })
    }

    /// `put` writes what is answered for a candidate, and returns where what stands beside it begins.
    fn of<T>(candidates: Candidates<T>, put: impl Fn(&mut Self, T) -> Option<u16>) -> Option<Self> {
        let mut set = Self::default();
        for Candidate { content, priority, weight, number } in candidates {
            let begin = set.end()?;
            let glue = put(&mut set, content)?;
            let content = Place { begin, glue, end: set.end()? };
            set.items.push(Candidate { content, priority, weight, number });
        }
        (!set.items.is_empty()).then_some(set)
    }

    /// The octets of an item's record, and of the records beside it, whose owners are to be filled in.
    pub fn octets(&self, item: &Candidate<Place>) -> (&[u8], &[u8]) {
        let Place { begin, glue, end } = item.content;
        let [begin, glue, end] = [begin, glue, end].map(usize::from);
        (&self.octets[begin..glue], &self.octets[glue..end])
    }

    fn end(&self) -> Option<u16> {
        u16::try_from(self.octets.len()).ok()
    }
}
