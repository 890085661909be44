//! Records of one owner, by type and in the order in which they came, and what of them is to go.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::instance::Lease;
use crate::name::Name;
use crate::record::{Data, Type};

/// One owner.
pub(super) struct Spot {
    pub(super) owner: Name,
    pub(super) sets: Vec<Set>,
    /// What others have here, where that was asked: not for an UPDATE to change.
    pub(super) others: Option<ByType>,
}

/// Records of one owner.
pub(super) type ByType = BTreeMap<Type, HashSet<Data>>;

/// Records of one type. A message may speak of as many as there are, and each is found at once.
pub(super) struct Set {
    pub(super) rtype: Type,
    pub(super) ttl: u32,
    pub(super) data: HashMap<Data, Datum>,
    /// How many have come so far.
    come: usize,
    pub(super) lease: Lease,
}

#[derive(Clone, Copy)]
pub(super) struct Datum {
    /// The order in which they came.
    at: usize,
    /// This message has set it.
    pub(super) set: bool,
}

impl Set {
    fn new(rtype: Type, ttl: u32, lease: Lease) -> Self {
        Self { rtype, ttl, data: HashMap::new(), come: 0, lease }
    }

    pub(super) fn put(&mut self, data: Data, set: bool) {
        self.data.insert(data, Datum { at: self.come, set });
        self.come += 1;
    }

    pub(super) fn in_order(&self) -> Vec<(&Data, bool)> {
        let mut all: Vec<(&Data, Datum)> = self.data.iter().map(|(data, datum)| (data, *datum)).collect();
        all.sort_unstable_by_key(|(_, datum)| datum.at);
        all.into_iter().map(|(data, datum)| (data, datum.set)).collect()
    }
}

impl Spot {
    pub(super) fn set(&self, rtype: Type) -> Option<&Set> {
        self.sets.iter().find(|set| set.rtype == rtype)
    }

    pub(super) fn has_alias(&self) -> bool {
        self.set(Type::CNAME).is_some()
    }

    pub(super) fn put(&mut self, data: Data, ttl: u32, lease: Lease, is_set: bool) {
        let rtype = data.rtype();
        let at = self.sets.iter().position(|set| set.rtype == rtype).unwrap_or(self.sets.len());
        if at == self.sets.len() {
            self.sets.push(Set::new(rtype, ttl, lease));
        }
        self.sets[at].put(data, is_set);
    }

    pub(super) fn take(&mut self, gone: Gone<'_>) {
        match gone {
            Gone::Record(data) => {
                let of_type = self.sets.iter_mut().filter(|set| set.rtype == data.rtype());
                of_type.for_each(|set| _ = set.data.remove(data));
                self.sets.retain(|set| !set.data.is_empty());
            }
            _ => self.sets.retain(|set| !gone.may_be(set.rtype)),
        }
    }
}

/// What is to go from an owner.
#[derive(Clone, Copy)]
pub(super) enum Gone<'a> {
    All,
    /// All but what the zone keeps at its own name: its SOA and NS (RFC 2136 section 3.4.2.3), and what says how it is signed.
    AllOfApex,
    Type(Type),
    Record(&'a Data),
}

impl Gone<'_> {
    pub(super) fn rtype(self) -> Option<Type> {
        match self {
            Self::All | Self::AllOfApex => None,
            Self::Type(rtype) => Some(rtype),
            Self::Record(data) => Some(data.rtype()),
        }
    }

    fn may_be(self, rtype: Type) -> bool {
        match self {
            Self::AllOfApex => !is_zones(rtype) && made_by_signer(rtype).is_none(),
            other => other.rtype().is_none_or(|of| of == rtype),
        }
    }

    /// The type of the first of these that are among some.
    pub(super) fn first_of(self, there: &ByType) -> Option<Type> {
        let has = |(rtype, data): &(&Type, &HashSet<Data>)| match self {
            Self::Record(gone) => data.contains(gone),
            _ => self.may_be(**rtype),
        };
        there.iter().find(has).map(|(rtype, _)| *rtype)
    }
}

pub(super) fn is_zones(rtype: Type) -> bool {
    matches!(rtype, Type::SOA | Type::NS)
}

/// Types that whoever signs the zone makes, with their names.
const SIGNERS: [(u16, &str); 7] = [
    (46, "RRSIG"),
    (47, "NSEC"),
    (48, "DNSKEY"),
    (50, "NSEC3"),
    (51, "NSEC3PARAM"),
    (59, "CDS"),
    (60, "CDNSKEY"),
];

pub(super) fn made_by_signer(rtype: Type) -> Option<&'static str> {
    SIGNERS.iter().find(|(number, _)| rtype == Type(*number)).map(|(_, name)| *name)
}
