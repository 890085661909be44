//! UPDATE (RFC 2136): what a message of prerequisites and changes would make of the zone, or why it is refused.
//!
//! What the message speaks of is laid out as records: those that UPDATE set before, and those that the instances are made
//! of which UPDATE registered. The changes are made to these in order (section 3.4.2), and then they are read back: an SRV
//! record at `_web._tcp` whose target `<label>.web` has addresses is an instance of `web`, and everything else is a record
//! of the tree. So it does not matter in how many messages, or in which order, the records of an instance come and go.
//!
//! UPDATE changes what UPDATE set. Names that a file has, and those of what is registered in any other way, are
//! somebody else's: such a change is refused, for to take it and show nothing of it would be a lie.
//!
//! Nothing here is carried out: what is found goes the writer's way, all or nothing.

mod drawn;

use std::collections::HashSet;
use std::time::Duration;

use thiserror::Error;

use self::drawn::Drawn;
use crate::access::{Access, Identity, On, Verb};
use crate::answer::{CLASS_IN, Rcode};
use crate::grammar::{self, Owner};
use crate::instance::{LEASE_MS_MAX, LEASE_MS_MIN};
use crate::live::whole::records_at;
use crate::name::{Apex, Name};
use crate::record::{Data, Record, Type};
use crate::registry::{Reason, Refusal, Registry, What};
use crate::time::Now;
use crate::view::View;

/// Classes of records of an UPDATE besides that of the zone (RFC 2136 section 2.4 and 2.5).
pub const CLASS_NONE: u16 = 254;
pub const CLASS_ANY: u16 = 255;
/// Types that are not of records (RFC 2136 section 3.4.1.2).
const META: std::ops::RangeInclusive<u16> = 128..=255;
/// A message of opcode UPDATE for a live zone.
#[derive(Clone, Debug)]
pub struct Update {
    pub apex: Apex,
    pub prerequisites: Vec<Rr>,
    pub changes: Vec<Rr>,
    /// How long what is added stays (RFC 9664); none: until it is deleted.
    pub lease: Option<Duration>,
    /// 64 random bits, drawn by the edge, for the instances that come of it.
    pub lease_id: u64,
    /// False where a loopback address in an answer would mislead.
    pub loopback_allowed: bool,
}

/// A record of an UPDATE, whose class says what it asks for.
#[derive(Clone, Debug)]
pub struct Rr {
    pub owner: Name,
    pub rtype: Type,
    pub class: u16,
    pub ttl: u32,
    /// None where it has no octets of data.
    pub data: Option<Data>,
}

/// Why an UPDATE is not carried out.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{why}")]
pub struct Refused {
    pub rcode: Rcode,
    pub why: String,
}

impl Refused {
    /// Where the registry alone is asked.
    pub fn not_here() -> Self {
        Self::new(
            Rcode::NotImp,
            "UPDATE needs a server whose store is its own; register at the socket instead",
        )
    }

    fn new(rcode: Rcode, why: impl Into<String>) -> Self {
        Self { rcode, why: why.into() }
    }

    fn because(why: impl Into<String>) -> Self {
        Self::new(Rcode::Refused, why)
    }
}

/// The lease that is given where this one is asked for.
pub fn granted(asked: Duration) -> Duration {
    asked.clamp(Duration::from_millis(LEASE_MS_MIN), Duration::from_millis(LEASE_MS_MAX))
}

/// What an UPDATE is checked against: all of it at one moment, at which the view is the registry's.
#[derive(Clone, Copy)]
pub struct Against<'a> {
    pub registry: &'a Registry,
    pub view: &'a View,
    pub access: &'a Access,
    pub by: &'a Identity,
    pub now: Now,
}

/// What `update` would change: nothing where all of it is so already.
///
/// # Errors
///
/// A [`Refused`] with the rcode of RFC 2136 section 3, or that the key may not.
pub fn check(update: &Update, against: Against<'_>) -> Result<Vec<(Reason, What)>, Refusal> {
    let check = Check { update, against };
    check.prerequisites()?;
    check.prescan()?;
    check.permissions()?;
    let mut drawn = Drawn::new(update, against);
    for change in &update.changes {
        drawn.carry_out(change)?;
    }
    drawn.changes()
}

struct Check<'a> {
    update: &'a Update,
    against: Against<'a>,
}

impl Check<'_> {
    /// RFC 2136 section 3.2.
    fn prerequisites(&self) -> Result<(), Refused> {
        let mut demanded: Vec<((&Name, Type), Vec<&Data>)> = Vec::new();
        for rr in &self.update.prerequisites {
            let Rr { owner, rtype, class, ttl, data } = rr;
            if *ttl != 0 {
                return Err(malformed("a prerequisite has a TTL"));
            }
            self.within(owner)?;
            let there = || self.records_at(owner);
            let has = |rtype: Type| there().iter().any(|record| record.data.rtype() == rtype);
            let is_any = *rtype == Type::ANY;
            match (*class, data) {
                (CLASS_ANY | CLASS_NONE, Some(_)) => return Err(malformed("a prerequisite has data")),
                (CLASS_ANY, None) if is_any && there().is_empty() => {
                    return Err(Refused::new(Rcode::NxDomain, format!("{owner} has no record")));
                }
                (CLASS_ANY, None) if !is_any && !has(*rtype) => {
                    return Err(Refused::new(Rcode::NxRrSet, format!("{owner} has no {rtype}")));
                }
                (CLASS_NONE, None) if is_any && !there().is_empty() => {
                    return Err(Refused::new(Rcode::YxDomain, format!("{owner} has records")));
                }
                (CLASS_NONE, None) if !is_any && has(*rtype) => {
                    return Err(Refused::new(Rcode::YxRrSet, format!("{owner} has {rtype}")));
                }
                (CLASS_ANY | CLASS_NONE, None) => {}
                (CLASS_IN, Some(data)) if !is_meta(*rtype) => {
                    match demanded.iter_mut().find(|(key, _)| *key == (owner, *rtype)) {
                        Some((_, set)) => set.push(data),
                        None => demanded.push(((owner, *rtype), vec![data])),
                    }
                }
                _ => return Err(malformed("a prerequisite has a class or a type that none may have")),
            }
        }
        for ((owner, rtype), wanted) in demanded {
            let there = self.records_at(owner);
            let wanted: HashSet<&Data> = wanted.into_iter().collect();
            let there = there.iter().map(|record| &record.data).filter(|data| data.rtype() == rtype);
            if there.collect::<HashSet<&Data>>() != wanted {
                return Err(Refused::new(Rcode::NxRrSet, format!("{owner} has another {rtype}")));
            }
        }
        Ok(())
    }

    /// RFC 2136 section 3.4.1.
    fn prescan(&self) -> Result<(), Refused> {
        for Rr { owner, rtype, class, ttl, data } in &self.update.changes {
            self.within(owner)?;
            let sound = match *class {
                CLASS_IN => !is_meta(*rtype) && data.is_some(),
                CLASS_ANY => (*rtype == Type::ANY || !is_meta(*rtype)) && *ttl == 0 && data.is_none(),
                CLASS_NONE => !is_meta(*rtype) && *ttl == 0 && data.is_some(),
                _ => false,
            };
            if !sound {
                return Err(malformed("a change has a class, a type, a TTL or data that it may not have"));
            }
        }
        Ok(())
    }

    fn records_at(&self, owner: &Name) -> Vec<Record> {
        let view = self.against.view;
        records_at(view, &self.update.apex, owner, |service| view.service(service))
    }

    fn within(&self, owner: &Name) -> Result<(), Refused> {
        let view = self.against.view;
        let (zones, apex) = (view.zones(), self.update.apex.name());
        let alias = view.settings.consul.as_ref().map(|zone| zone.apex.name());
        // Another zone within ours has what is below its apex.
        let nested = |other: &Name| other != apex && other.is_within(apex) && owner.is_within(other);
        let is_hidden = zones.primary.iter().map(|zone| &zone.apex).chain(alias).any(nested);
        match view.apex_of(owner) == Some(&self.update.apex) && !is_hidden {
            true => Ok(()),
            false => Err(Refused::new(
                Rcode::NotZone,
                format!("{owner} is not a name of the zone {}", self.update.apex),
            )),
        }
    }

    /// RFC 2136 section 3.3: a name is its service's, or that of its last label below the apex.
    fn permissions(&self) -> Result<(), Refusal> {
        let Against { registry, access, by, now, .. } = self.against;
        for Rr { owner, class, .. } in &self.update.changes {
            let verb = if *class == CLASS_IN { Verb::Register } else { Verb::Deregister };
            let lower = owner.to_lowercase();
            let labels = lower.labels_below(self.update.apex.name()).unwrap_or_default();
            let top = labels.last().map(|label| String::from_utf8_lossy(label));
            let service = grammar::parse(&labels).and_then(Owner::service);
            let on = service.or(top.as_deref()).map_or(On::Everything, On::Service);
            access.permits(by, verb, on, registry.tokens(), now.wall)?;
        }
        Ok(())
    }
}

fn malformed(why: &str) -> Refused {
    Refused::new(Rcode::FormErr, why)
}

/// True for what is no type of a record (RFC 6895 section 3.1).
fn is_meta(rtype: Type) -> bool {
    matches!(rtype, Type(0) | Type::OPT) || META.contains(&rtype.0)
}
