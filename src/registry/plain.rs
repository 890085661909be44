//! Plain records of the record tree that somebody set by UPDATE, and not by a file.
//!
//! They are kept RRset by RRset, for that is what an UPDATE speaks of (RFC 2136 section 2.4), and what a secondary is told of.
//! Each set may have a lease (RFC 9664), and goes with it.

use std::collections::HashMap;
use std::sync::Arc;

use crate::grammar::{self, Owner};
use crate::instance::Lease;
use crate::lease::{LeaseCell, Leases};
use crate::name::{Apex, Name, ServiceName};
use crate::record::{RrSet, Type};
use crate::time::Now;

/// Records at once: a small site's hosts and aliases. The whole tree is looked through with each change, and nothing else
/// is changed meanwhile.
pub const PLAIN_RECORDS_MAX: usize = 10_000;

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
        self.reads(|owner| owner?.service().and_then(|service| ServiceName::parse(service).ok()))
    }

    /// What its owner is read as.
    fn reads<T>(&self, read: impl FnOnce(Option<Owner<'_>>) -> T) -> T {
        let lower = self.owner.to_lowercase();
        let labels = lower.labels_below(self.apex.name()).unwrap_or_default();
        read(grammar::parse(&labels))
    }
}

/// See the module's own words.
#[derive(Debug, Default)]
pub struct Plain {
    sets: HashMap<Name, Vec<Arc<PlainSet>>>,
    /// The owners that are spelt as names of a service, by the service.
    of_services: HashMap<Box<str>, Vec<Name>>,
    records: usize,
    leases: Leases<PlainKey>,
}

impl Plain {
    pub fn at(&self, owner: &Name) -> &[Arc<PlainSet>] {
        self.sets.get(owner).map(Vec::as_slice).unwrap_or_default()
    }

    pub fn all(&self) -> impl Iterator<Item = &Arc<PlainSet>> {
        self.sets.values().flatten()
    }

    pub fn records(&self) -> usize {
        self.records
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

    pub fn apply(&mut self, before: Option<&Arc<PlainSet>>, after: Option<&Arc<PlainSet>>) {
        let Some(either) = after.or(before) else { return };
        let (owner, rtype) = (&either.owner, either.set.rtype);
        let sets = self.sets.entry(owner.clone()).or_default();
        let is_new = sets.is_empty();
        if let Some(at) = sets.iter().position(|set| set.set.rtype == rtype) {
            self.records -= sets.remove(at).set.data.len();
        }
        if let Some(after) = after {
            self.records += after.set.data.len();
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

    pub fn after_absence(&self, away: std::time::Duration, now: Now) {
        self.leases.after_absence(away, now);
    }
}

/// True for the names that an instance of this label takes for its service and for itself.
pub fn is_held(owner: Owner<'_>, label: &str) -> bool {
    match owner {
        Owner::Service(_) | Owner::ByTransport(..) => true,
        Owner::Below { label: own, .. } | Owner::TypeInstance { label: own, .. } => own == label,
        _ => false,
    }
}
