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

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use self::drawn::Drawn;
use crate::access::{Access, Identity, On, Verb};
use crate::answer::{CLASS_IN, Rcode};
use crate::grammar::{self, Owner};
use crate::instance::{LEASE_MS_MAX, LEASE_MS_MIN, Lease};
use crate::live::whole::{Indexes, records_at};
use crate::name::{Apex, Name, ServiceName};
use crate::record::{Data, Record, Type};
use crate::registry::{self, Command, How, Imported, PlainSet, Reason, Refusal, Registry, What};
use crate::time::Now;
use crate::view::View;

/// Classes of records of an UPDATE besides that of the zone (RFC 2136 section 2.4 and 2.5).
pub const CLASS_NONE: u16 = 254;
pub const CLASS_ANY: u16 = 255;
/// Types that are not of records (RFC 2136 section 3.4.1.2).
const META: std::ops::RangeInclusive<u16> = 128..=255;
/// Octets of a MAC that tell it from all others.
pub const MAC_OCTETS: usize = 16;

/// Prerequisites of one message. Each may ask for a name of its own, all that is there is looked through for it, and
/// nobody else is served by the writer meanwhile; programs send a handful.
pub const PREREQUISITES_MAX: usize = 256;
/// Changes of one message, for the same reason: the instances of a site in one message, and no more.
pub const CHANGES_MAX: usize = 2_000;

/// What tells one signed message from all others: when it was signed, in Unix seconds, and the beginning of its MAC.
pub type MessageId = (u64, [u8; MAC_OCTETS]);

/// A message of opcode UPDATE for a live zone.
#[derive(Clone, Debug)]
pub struct Update {
    pub id: MessageId,
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
        Self::new(Rcode::NotImp, "records are changed where the zone is known, and not here")
    }

    /// Where another node carried the same message out.
    pub fn repeated() -> Self {
        Self::new(Rcode::NoError, "it came before, and was not carried out again")
    }

    /// Where it changes more at once than the store takes, counted in `what`.
    pub fn too_large(things: usize, most: usize, what: &str) -> Self {
        Self::because(format!(
            "it needs {things} {what} in etcd, which takes {most} at once; send several messages"
        ))
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

/// What becomes of a message where it is carried out.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Nothing where all of it is so already.
    pub changes: Vec<(Reason, What)>,
    /// What it says again as it is, before and after alike: no change, but its lease begins anew.
    pub again: Vec<What>,
}

/// Begins the leases anew of what was said again.
pub fn renew(again: &[What], now: Now) {
    for what in again {
        match what {
            What::Instance { after: Some(instance), .. } => drop(instance.deadline.renew(now)),
            What::Plain { after: Some(set), .. } => drop(set.deadline.renew(now)),
            _ => {}
        }
    }
}

/// What a command reads of the zone before it changes it: what several nodes have to find as it was.
#[derive(Debug, Default)]
pub struct Reads {
    /// In lower case, with the service that each is spelt as a name of.
    pub owners: HashSet<(Option<ServiceName>, Name)>,
    /// Read as a whole: their instances, and what stands at their names.
    pub services: BTreeSet<ServiceName>,
    /// Whose answers are asked about: what hosts and guards make of their instances counts too.
    pub answers: BTreeSet<ServiceName>,
    /// It asks about what the nodes are: their names, and their addresses.
    pub nodes: bool,
    /// It asks about what the whole registry makes: what the SOA says, the list of services.
    pub everything: bool,
}

/// What a command of records reads of the zone; nothing for every other.
pub fn reads(command: &Command) -> Reads {
    let mut reads = Reads::default();
    match command {
        Command::Update(update) => {
            update.changes.iter().for_each(|rr| reads.add(&update.apex, &rr.owner));
            update.prerequisites.iter().for_each(|rr| reads.demand(&update.apex, rr));
        }
        Command::Import(import) => {
            if let Imported::Records(set) = &import.what {
                reads.add(&set.apex, &set.owner);
            }
        }
        _ => {}
    }
    reads
}

impl Reads {
    /// What a prerequisite asks about. That the zone has an SOA, and a name to browse from, is so whatever is written.
    fn demand(&mut self, apex: &Apex, rr: &Rr) {
        let Rr { owner, rtype, data, .. } = rr;
        self.add(apex, owner);
        self.answers.extend(registry::service_of(apex, owner));
        registry::read_as(apex, owner, |read| match read {
            Some(Owner::Apex) if *rtype == Type::SOA => self.everything |= data.is_some(),
            Some(Owner::Apex) => self.nodes |= *rtype == Type::NS,
            Some(Owner::NameServer(_) | Owner::Registrations | Owner::Registration(_)) => self.nodes = true,
            Some(Owner::Types) => self.everything = true,
            _ => {}
        });
    }

    fn add(&mut self, apex: &Apex, owner: &Name) {
        let service = registry::service_of(apex, owner);
        self.services.extend(service.clone());
        self.owners.insert((service, owner.to_lowercase()));
    }
}

/// What becomes of a command of records; `None` for every other.
///
/// # Errors
///
/// A [`Refused`] with the rcode of RFC 2136 section 3, or that the key may not.
pub fn asked(command: &Command, against: Against<'_>) -> Option<Result<Outcome, Refusal>> {
    match command {
        Command::Update(update) => Some(check(update, against)),
        Command::Import(import) => match &import.what {
            Imported::Records(set) => Some(take_in(set, import.how, against)),
            _ => None,
        },
        _ => None,
    }
}

/// Plain records that another registry has, as an UPDATE would set them; without a prerequisite, and whatever a key may.
fn take_in(given: &PlainSet, how: How, against: Against<'_>) -> Result<Outcome, Refusal> {
    let PlainSet { apex, owner, set, lease, .. } = given;
    let plain = against.registry.plain();
    let before = plain.set(owner, set.rtype);
    let differs = || Err(Refusal::Differs(format!("{owner} {}", set.rtype)));
    match (before, how) {
        (None, How::Remove) => return Ok(Outcome::default()),
        (Some(before), How::Remove) => {
            let gone = What::Plain { before: Some(before.clone()), after: None };
            return Ok(Outcome { changes: vec![(Reason::Updated, gone)], again: Vec::new() });
        }
        (Some(before), _) if before.says_same(given) => return Ok(Outcome::default()),
        (Some(_), How::Add | How::Update) => return differs(),
        _ => {}
    }
    let deleted = |rtype| Rr { owner: owner.clone(), rtype, class: CLASS_ANY, ttl: 0, data: None };
    let is_alias = |set: &Arc<PlainSet>| set.set.rtype == Type::CNAME;
    let clears = how == How::Replace && (set.rtype == Type::CNAME || plain.at(owner).iter().any(is_alias));
    let added = set.data.iter().map(|data| Rr {
        owner: owner.clone(),
        rtype: set.rtype,
        class: CLASS_IN,
        ttl: set.ttl,
        data: Some(data.clone()),
    });
    let changes = std::iter::once(deleted(if clears { Type::ANY } else { set.rtype })).chain(added).collect();
    let update = Update {
        id: MessageId::default(),
        apex: apex.clone(),
        prerequisites: Vec::new(),
        changes,
        lease: match lease {
            Lease::Timed(duration) => Some(*duration),
            Lease::Connection(_) | Lease::None => None,
        },
        lease_id: 0,
        // It makes no instance that was none where it comes from.
        loopback_allowed: true,
    };
    Check { update: &update, against }.within(owner)?;
    let outcome = carry_out(&update, against)?;
    // Beside an alias nothing is set.
    if outcome.changes.is_empty() { differs() } else { Ok(outcome) }
}

fn carry_out(update: &Update, against: Against<'_>) -> Result<Outcome, Refusal> {
    let mut drawn = Drawn::new(update, against);
    for change in &update.changes {
        drawn.carry_out(change)?;
    }
    drawn.outcome()
}

fn check(update: &Update, against: Against<'_>) -> Result<Outcome, Refusal> {
    let check = Check { update, against };
    check.counts()?;
    check.prerequisites()?;
    check.prescan()?;
    check.permissions()?;
    carry_out(update, against)
}

/// The sets that prerequisites say an owner has.
type Demanded<'a> = Vec<(Type, HashSet<&'a Data>)>;

struct Check<'a> {
    update: &'a Update,
    against: Against<'a>,
}

impl Check<'_> {
    fn counts(&self) -> Result<(), Refused> {
        let Update { prerequisites, changes, .. } = self.update;
        for (what, count, most) in [
            ("prerequisites", prerequisites.len(), PREREQUISITES_MAX),
            ("changes", changes.len(), CHANGES_MAX),
        ] {
            if count > most {
                let why =
                    format!("it has {count} {what}, and {most} at most are taken; send several messages");
                return Err(Refused::because(why));
            }
        }
        Ok(())
    }

    /// RFC 2136 section 3.2.
    fn prerequisites(&self) -> Result<(), Refused> {
        // What is at an owner is looked for once, and a service is looked through once.
        let mut indexes = Indexes::default();
        let mut known: HashMap<&Name, HashSet<Type>> = HashMap::new();
        let mut demanded: Vec<(&Name, Demanded<'_>)> = Vec::new();
        for rr in &self.update.prerequisites {
            let Rr { owner, rtype, class, ttl, data } = rr;
            if *ttl != 0 {
                return Err(malformed("a prerequisite has a TTL"));
            }
            self.within(owner)?;
            let types = |records: Vec<Record>| records.iter().map(|record| record.data.rtype()).collect();
            let there = known.entry(owner).or_insert_with(|| types(self.records_at(owner, &mut indexes)));
            let has = |rtype: Type| there.contains(&rtype);
            let is_any = *rtype == Type::ANY;
            match (*class, data) {
                (CLASS_ANY | CLASS_NONE, Some(_)) => return Err(malformed("a prerequisite has data")),
                (CLASS_ANY, None) if is_any && there.is_empty() => {
                    return Err(Refused::new(Rcode::NxDomain, format!("{owner} has no record")));
                }
                (CLASS_ANY, None) if !is_any && !has(*rtype) => {
                    return Err(Refused::new(Rcode::NxRrSet, format!("{owner} has no {rtype}")));
                }
                (CLASS_NONE, None) if is_any && !there.is_empty() => {
                    return Err(Refused::new(Rcode::YxDomain, format!("{owner} has records")));
                }
                (CLASS_NONE, None) if !is_any && has(*rtype) => {
                    return Err(Refused::new(Rcode::YxRrSet, format!("{owner} has {rtype}")));
                }
                (CLASS_ANY | CLASS_NONE, None) => {}
                (CLASS_IN, Some(data)) if !is_meta(*rtype) => {
                    let at = demanded.iter().position(|(name, _)| *name == owner).unwrap_or(demanded.len());
                    if at == demanded.len() {
                        demanded.push((owner, Vec::new()));
                    }
                    let sets = &mut demanded[at].1;
                    match sets.iter_mut().find(|(of, _)| of == rtype) {
                        Some((_, set)) => drop(set.insert(data)),
                        None => sets.push((*rtype, HashSet::from([data]))),
                    }
                }
                _ => return Err(malformed("a prerequisite has a class or a type that none may have")),
            }
        }
        for (owner, sets) in demanded {
            let there = self.records_at(owner, &mut indexes);
            let mut by_type: HashMap<Type, HashSet<&Data>> = HashMap::new();
            for Record { data, .. } in &there {
                by_type.entry(data.rtype()).or_default().insert(data);
            }
            if let Some((rtype, _)) = sets.iter().find(|(rtype, wanted)| by_type.get(rtype) != Some(wanted)) {
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

    fn records_at(&self, owner: &Name, indexes: &mut Indexes) -> Vec<Record> {
        let view = self.against.view;
        records_at(view, &self.update.apex, owner, |name| indexes.of(name, || view.service(name)))
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
