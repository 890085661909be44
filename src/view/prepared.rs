//! The records of a service's own name as octets, made once for a view of it: a query copies them in an order of its own.
//!
//! Made when first asked for, not when published: a change costs nothing for it, and a service that nobody asks for
//! holds nothing.

use std::net::IpAddr;

use super::{Member, ServiceView, ttl_within};
use crate::answer::CLASS_IN;
use crate::instance::{Location, Port};
use crate::name::Apex;
use crate::record::Type;

/// Records of one set: what has more hardly fits a datagram.
pub const RECORDS_MAX: usize = 64;
/// The owner of every record: a pointer to the question's name, which stands behind a header (RFC 1035 section 4.1.4).
const QNAME: u16 = 0xc000 | 12;
/// Octets of an SRV record in front of its target: owner, type, class, TTL, length, and three numbers (RFC 2782).
pub const BEFORE_TARGET_OCTETS: usize = 12 + 6;

/// The record sets of one service.
#[derive(Debug)]
pub struct Prepared {
    a: Option<Set>,
    aaaa: Option<Set>,
    srv: Option<Set>,
}

/// Records that are answered together, and what orders them.
#[derive(Debug, Default)]
pub struct Set {
    pub items: Vec<Item>,
    octets: Vec<u8>,
}

/// One record, and the addresses beside it.
#[derive(Clone, Copy, Debug)]
pub struct Item {
    pub weight: u64,
    pub priority: u16,
    begin: u16,
    glue: u16,
    end: u16,
}

impl Prepared {
    /// `target_apex` is what the targets of SRV are below, `service_ttl` the service's TTL before leases shorten it.
    pub(super) fn of(service: &ServiceView, target_apex: &Apex, service_ttl: u32) -> Self {
        Self {
            a: addresses(service, Type::A),
            aaaa: addresses(service, Type::AAAA),
            srv: srv(service, target_apex, service_ttl),
        }
    }

    /// The records of a type, at least one; none where they are not to be had in this way.
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
    /// The octets of an item's record, and of the records beside it, whose owners are to be filled in.
    pub fn octets(&self, item: &Item) -> (&[u8], &[u8]) {
        let [begin, glue, end] = [item.begin, item.glue, item.end].map(usize::from);
        (&self.octets[begin..glue], &self.octets[glue..end])
    }

    fn address(&mut self, owner: u16, ttl: u32, address: IpAddr) {
        match address {
            IpAddr::V4(v4) => self.record(owner, Type::A, ttl, &[&v4.octets()]),
            IpAddr::V6(v6) => self.record(owner, Type::AAAA, ttl, &[&v6.octets()]),
        }
    }

    fn record(&mut self, owner: u16, rtype: Type, ttl: u32, data: &[&[u8]]) {
        let octets = data.iter().map(|part| part.len()).sum::<usize>() as u16;
        for number in [owner, rtype.0, CLASS_IN, (ttl >> 16) as u16, ttl as u16, octets] {
            self.octets.extend(number.to_be_bytes());
        }
        self.octets.extend(data.iter().copied().flatten());
    }

    fn at(&self) -> Option<u16> {
        u16::try_from(self.octets.len()).ok()
    }

    /// Where there is a record at all.
    fn or_none(self) -> Option<Self> {
        (!self.items.is_empty()).then_some(self)
    }
}

/// Each address of the lowest priority that has a live instance once, with the weight of all.
fn addresses(service: &ServiceView, family: Type) -> Option<Set> {
    let lowest = live(service)?.iter().map(|member| member.instance.priority).min()?;
    let mut found: Vec<(IpAddr, u64)> = Vec::new();
    for member in live(service)?.iter().filter(|member| member.instance.priority == lowest) {
        let of_family = |address: &&IpAddr| address.is_ipv4() == (family == Type::A);
        for address in member.instance.addresses().iter().filter(of_family) {
            let weight = u64::from(member.weight());
            match found.iter_mut().find(|(known, _)| known == address) {
                Some((_, sum)) => *sum += weight,
                None => found.push((*address, weight)),
            }
        }
    }
    if found.len() > RECORDS_MAX {
        return None;
    }
    let mut set = Set::default();
    for (address, weight) in found {
        let begin = set.at()?;
        set.address(QNAME, service.ttl, address);
        let end = set.at()?;
        set.items.push(Item { weight, priority: 0, begin, glue: end, end });
    }
    set.or_none()
}

/// The first port of each live instance that has one, and its addresses.
fn srv(service: &ServiceView, apex: &Apex, service_ttl: u32) -> Option<Set> {
    let mut set = Set::default();
    for member in live(service)? {
        let instance = &*member.instance;
        let Some(Port { number, .. }) = instance.ports.first() else { continue };
        let begin = set.at()?;
        let (label, service_label) = (instance.label.as_str(), instance.key.service.as_str());
        set.record(
            QNAME,
            Type::SRV,
            service.ttl,
            &[
                &instance.priority.to_be_bytes(),
                &service.scale.weight(member.weight()).to_be_bytes(),
                &number.to_be_bytes(),
                &[label.len() as u8],
                label.as_bytes(),
                &[service_label.len() as u8],
                service_label.as_bytes(),
                apex.name().as_wire(),
            ],
        );
        let glue = set.at()?;
        let ttl = ttl_within(service_ttl, instance.lease);
        for v4 in [true, false] {
            for address in instance.addresses().iter().filter(|address| address.is_ipv4() == v4) {
                set.address(0, ttl, *address);
            }
        }
        let (weight, priority) = (member.weight().into(), instance.priority);
        set.items.push(Item { weight, priority, begin, glue, end: set.at()? });
    }
    set.or_none()
}

/// The live members; none where one of them is somebody else's name, or they are too many.
fn live(service: &ServiceView) -> Option<Vec<&Member>> {
    let live: Vec<&Member> = service.live().take(RECORDS_MAX + 1).collect();
    let ours = |member: &&Member| matches!(member.instance.location, Location::Addresses(_));
    (live.len() <= RECORDS_MAX && live.iter().all(ours)).then_some(live)
}
