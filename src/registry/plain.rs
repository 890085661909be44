//! Plain records of the record tree that somebody set by UPDATE, and not by a file.
//!
//! They are kept RRset by RRset, for that is what an UPDATE speaks of (RFC 2136 section 2.4), and what a secondary is told of.
//! Each set may have a lease (RFC 9664), and goes with it.

use std::collections::HashMap;
use std::sync::Arc;

use crate::grammar::{self, Owner};
use crate::instance::{Key, Lease, Port};
use crate::lease::{LeaseCell, Leases};
use crate::name::{Apex, Name, ServiceName, Tag};
use crate::record::{Data, RrSet, Type};
use crate::time::Now;

/// Records at once: a small site's hosts and aliases.
pub const PLAIN_RECORDS_MAX: usize = 10_000;
/// Octets of all of them at once, on the wire with their owners: 800 a record, where most need 50. In memory they take several times
/// as much, for each is in the registry, in the served tree and, while it is young, in the log.
pub const PLAIN_OCTETS_MAX: usize = 8 << 20;
/// Type, class, TTL and length of a record.
const FIXED_OCTETS: usize = 10;

/// The records of one owner and type.
#[derive(Clone, Debug)]
pub struct PlainSet {
    /// The zone that it was set in.
    pub apex: Apex,
    pub owner: Name,
    pub set: RrSet,
    /// `Timed` or `None`.
    pub lease: Lease,
    pub deadline: Arc<LeaseCell<PlainKey>>,
}

/// Whose lease it is.
pub type PlainKey = (Name, Type);

impl PlainSet {
    /// Its lease begins at `now`.
    pub fn new(apex: &Apex, owner: &Name, set: RrSet, lease: Lease, now: Now) -> Self {
        let key = (owner.clone(), set.rtype);
        let deadline = match lease {
            Lease::Timed(duration) => LeaseCell::timed(key, duration, now),
            Lease::Connection(_) | Lease::None => LeaseCell::unlimited(key),
        };
        Self { apex: apex.clone(), owner: owner.clone(), set, lease, deadline }
    }

    /// The service that its owner is spelt as a name of.
    pub fn service(&self) -> Option<ServiceName> {
        service_of(&self.apex, &self.owner)
    }

    /// Octets of its records on the wire without compression.
    pub fn octets(&self) -> usize {
        octets_of(&self.owner, &self.set.data)
    }

    /// True where the same records stay for the same time.
    pub fn says_same(&self, other: &Self) -> bool {
        let (set, there) = (&self.set, &other.set);
        self.apex == other.apex
            && self.owner == other.owner
            && self.lease == other.lease
            && (set.rtype, set.ttl, set.data.len()) == (there.rtype, there.ttl, there.data.len())
            && set.data.iter().all(|data| there.data.contains(data))
    }

    /// What its owner is read as.
    fn reads<T>(&self, read: impl FnOnce(Option<Owner<'_>>) -> T) -> T {
        read_as(&self.apex, &self.owner, read)
    }
}

/// Octets of records of one owner on the wire without compression.
pub fn octets_of(owner: &Name, data: &[Data]) -> usize {
    let each = owner.as_wire().len() + FIXED_OCTETS;
    data.iter().map(|data| each + data.octets_max()).sum()
}

/// What a name below an apex is read as.
pub fn read_as<T>(apex: &Apex, owner: &Name, read: impl FnOnce(Option<Owner<'_>>) -> T) -> T {
    let lower = owner.to_lowercase();
    read(grammar::parse(&lower.labels_below(apex.name()).unwrap_or_default()))
}

/// The service that a name below an apex is spelt as a name of.
pub fn service_of(apex: &Apex, owner: &Name) -> Option<ServiceName> {
    read_as(apex, owner, |owner| owner?.service().and_then(|service| ServiceName::parse(service).ok()))
}

/// See the module's own words.
#[derive(Debug, Default)]
pub struct Plain {
    sets: HashMap<Name, Vec<Arc<PlainSet>>>,
    /// The owners that are spelt as names of a service, by the service.
    of_services: HashMap<Box<str>, Vec<Name>>,
    records: usize,
    octets: usize,
    leases: Leases<PlainKey>,
}

impl Plain {
    pub fn at(&self, owner: &Name) -> &[Arc<PlainSet>] {
        self.sets.get(owner).map(Vec::as_slice).unwrap_or_default()
    }

    /// Those of one type.
    pub fn set(&self, owner: &Name, rtype: Type) -> Option<&Arc<PlainSet>> {
        self.at(owner).iter().find(|set| set.set.rtype == rtype)
    }

    pub fn all(&self) -> impl Iterator<Item = &Arc<PlainSet>> {
        self.sets.values().flatten()
    }

    pub fn records(&self) -> usize {
        self.records
    }

    /// See [`PLAIN_OCTETS_MAX`].
    pub fn octets(&self) -> usize {
        self.octets
    }

    /// The owners that are spelt as names of a service.
    pub fn of_service(&self, service: &str) -> &[Name] {
        self.of_services.get(service).map(Vec::as_slice).unwrap_or_default()
    }

    /// The owner that an instance of this label would answer at: it is one or the other.
    pub fn takes(&self, service: &str, label: &str) -> Option<&Name> {
        self.of_service(service).iter().find(|owner| {
            self.at(owner)
                .first()
                .is_some_and(|set| set.reads(|owner| owner.is_some_and(|owner| is_held(owner, label))))
        })
    }

    /// The owner of records that an instance would hide: by its id, its tags and its named ports.
    pub fn hidden_by(&self, key: &Key, tags: &[Tag], ports: &[Port]) -> Option<&Name> {
        let spells = |owner: Owner<'_>| match owner {
            Owner::ByPort { port, transport, .. } => {
                ports.iter().any(|own| own.transport == transport && own.name.as_deref() == Some(port))
            }
            Owner::Below { label: tag, .. } | Owner::ByTag { tag, .. } | Owner::Subtype { tag, .. } => {
                tags.iter().any(|own| own.label().is_some_and(|own| own.as_str() == tag))
            }
            Owner::TypeInstance { label, .. } => key.id.as_str().eq_ignore_ascii_case(label),
            _ => false,
        };
        self.of_service(key.service.as_str()).iter().find(|owner| {
            self.at(owner).iter().any(|set| {
                set.reads(|owner| {
                    owner.is_some_and(|owner| spells(owner) && would_hide(owner, set.set.rtype))
                })
            })
        })
    }

    pub fn apply(&mut self, before: Option<&Arc<PlainSet>>, after: Option<&Arc<PlainSet>>) {
        let Some(either) = after.or(before) else { return };
        let (owner, rtype) = (&either.owner, either.set.rtype);
        let sets = self.sets.entry(owner.clone()).or_default();
        let is_new = sets.is_empty();
        if let Some(at) = sets.iter().position(|set| set.set.rtype == rtype) {
            let gone = sets.remove(at);
            self.records -= gone.set.data.len();
            self.octets -= gone.octets();
        }
        if let Some(after) = after {
            self.records += after.set.data.len();
            self.octets += after.octets();
            self.leases.arm(&after.deadline);
            sets.push(after.clone());
        }
        let is_gone = sets.is_empty();
        if is_gone {
            self.sets.remove(owner);
        }
        if is_new == is_gone {
            return;
        }
        let service: Option<Box<str>> = either.reads(|owner| owner.and_then(Owner::service).map(Box::from));
        let Some(service) = service else { return };
        let owners = self.of_services.entry(service.clone()).or_default();
        match is_new {
            true => owners.push(owner.clone()),
            false => owners.retain(|known| known != owner),
        }
        if owners.is_empty() {
            self.of_services.remove(&service);
        }
    }

    /// The sets whose lease is over by `now`, `most` of them.
    pub fn expired(&mut self, now: Now, most: usize) -> Vec<Arc<PlainSet>> {
        let expired = self.leases.expired(now, most);
        let in_force = |cell: &Arc<LeaseCell<PlainKey>>| {
            let (owner, _) = &cell.of;
            self.at(owner).iter().find(|set| Arc::ptr_eq(&set.deadline, cell)).cloned()
        };
        expired.iter().filter_map(in_force).collect()
    }

    pub fn next_due_ns(&self) -> Option<u64> {
        self.leases.next_ns()
    }

    /// Watches over a lease that another node watched over before.
    pub fn watch_over(&mut self, deadline: &Arc<LeaseCell<PlainKey>>) {
        self.leases.arm(deadline);
    }

    pub fn after_absence(&self, away: std::time::Duration, now: Now) {
        self.leases.after_absence(away, now);
    }
}

/// True where the answers of a tag, a named port or an instance's id at such a name would hide records of this type, or a cut
/// there them, from secondaries.
pub fn would_hide(owner: Owner<'_>, rtype: Type) -> bool {
    let types: &[Type] = match owner {
        Owner::ByPort { .. } => &[Type::SRV, Type::SVCB],
        Owner::Below { .. } | Owner::ByTag { .. } => &[Type::A, Type::AAAA, Type::SRV],
        Owner::TypeInstance { .. } => &[Type::SRV, Type::TXT],
        Owner::Subtype { .. } => &[Type::PTR],
        _ => return false,
    };
    matches!(rtype, Type::CNAME | Type::NS) || types.contains(&rtype)
}

/// Who takes a name: every instance of the service, or that of one label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds<'a> {
    All,
    One(&'a str),
}

/// See [`Holds`]; none for the names that no instance takes for its service or for itself.
pub fn holds(owner: Owner<'_>) -> Option<Holds<'_>> {
    match owner {
        Owner::Service(_) | Owner::ByTransport(..) => Some(Holds::All),
        Owner::Below { label, .. } | Owner::TypeInstance { label, .. } => Some(Holds::One(label)),
        _ => None,
    }
}

/// True for the names that an instance of this label takes for its service and for itself.
pub fn is_held(owner: Owner<'_>, label: &str) -> bool {
    holds(owner).is_some_and(|holds| holds == Holds::All || holds == Holds::One(label))
}
