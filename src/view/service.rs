//! One service as queries see it: made anew with each change of it, from leaves that views share.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock, OnceLock};

use super::prepared::Prepared;
use crate::balance::{Balance, Policy, Ring, Scale, SrvWeights};
use crate::instance::{Instance, Key, Lease, Location, ServiceSettings};
use crate::member::{Member, Members};
use crate::name::{Apex, Label, Name, ServiceName, Tag};
use crate::record::Data;
use crate::registry::{GONE_PER_SERVICE_MAX, Gone, Guard, Ports, Registry, Service};
use crate::sign::Signatures;

/// Text of an Extended DNS Error: it shares 512 octets with the answer.
pub const EDE_OCTETS_MAX: usize = 60;
/// Signatures that are kept of a service and of each of its members: one for each record set that it nearly always has.
const SIGNATURES_PER_SERVICE: usize = 64;
const SIGNATURES_PER_MEMBER: usize = 8;

/// One service as queries see it.
#[derive(Debug)]
pub struct ServiceView {
    pub name: ServiceName,
    /// In the order of their labels; shared with the registry and the views before and after.
    pub members: Members,
    /// What answers are made of: the members, and who left and is held by the guard.
    pub answered: Members,
    /// Where a guard is on.
    guarded: Option<Box<Guarded>>,
    /// The last that left, `GONE_PER_SERVICE_MAX` of them at most; oldest first.
    pub gone: Box<[Gone]>,
    /// The tags of every instance that is registered or remembered, as labels.
    pub tags: Arc<BTreeSet<Label>>,
    /// The ports of the same ones.
    pub ports: Ports,
    /// TTL of its records in seconds.
    pub ttl: u32,
    /// The tags of its registered instances as they are spelt: what a list of services shows.
    pub listed_tags: Arc<BTreeSet<Tag>>,
    /// The revision at which a reader could see a difference last.
    pub modified: u64,
    /// The revision from which on it has been known all the time; that of the start for what was known before it.
    pub born: u64,
    pub settings: Arc<ServiceSettings>,
    /// Under `Policy::Affinity`: its live instances, by the hash of their labels.
    pub ring: Option<Arc<Ring>>,
    /// What weights become in its SRV records.
    pub scale: Scale,
    /// Why nothing is live; empty where something is. At most `EDE_OCTETS_MAX` octets.
    pub why_none: Box<str>,
    /// Each different TXT of those in the answers, and the first that has it: made when first asked for, for it takes a look at
    /// everything that all of them say of themselves.
    pub texts: OnceLock<Box<[(Member, Data)]>>,
    pub(super) prepared: OnceLock<Box<Prepared>>,
    /// Over its records; the views before it have the same, for a change leaves most records as they are.
    pub(super) signatures: OnceLock<Arc<Signatures>>,
}

/// What a guard is to the answers of its service.
#[derive(Debug)]
struct Guarded {
    guard: Guard,
    /// That some of the answers are held, in words; empty where none is. At most `EDE_OCTETS_MAX` octets.
    stale: Box<str>,
}

/// The settings of a service that has none; one for all of them.
static NO_SETTINGS: LazyLock<Arc<ServiceSettings>> = LazyLock::new(Arc::default);

impl ServiceView {
    /// `old` is the view that this one takes the place of.
    pub(super) fn of(
        name: &ServiceName,
        registry: &Registry,
        ttl: u32,
        modified: u64,
        old: Option<&Self>,
    ) -> Option<Self> {
        let settings = registry.settings(name);
        let forgotten = Service::default();
        let service = match registry.service(name) {
            Some(service) => service,
            // Its name stays, for somebody else answers at it.
            None if !settings.fallbacks().is_empty() => &forgotten,
            None => return None,
        };
        let (members, answered) = registry.members(name);
        let guarded = registry.guard(name).map(|guard| {
            let stale = stale(name, &answered, guard).into();
            Box::new(Guarded { guard, stale })
        });
        let mut gone: Vec<Gone> = service.gone().rev().take(GONE_PER_SERVICE_MAX).cloned().collect();
        gone.reverse();
        let why_none = if answered.any_answered() { String::new() } else { why_none(name, &members, &gone) };
        let affine = settings.balance.is_some_and(|balance| balance.policy == Policy::Affinity);
        let ring = affine.then(|| ring_of(&answered, old.and_then(|old| old.ring.as_ref())));
        let signatures = old.and_then(|old| old.signatures.get()).cloned();
        if let Some(signatures) = &signatures {
            signatures.hold(signatures_of(&answered));
        }
        Some(Self {
            signatures: signatures.map(OnceLock::from).unwrap_or_default(),
            guarded,
            gone: gone.into(),
            tags: service.known_tags(),
            ports: service.ports(),
            listed_tags: service.listed_tags(),
            ring,
            modified,
            born: old.map_or(registry.revision(), |old| old.born),
            why_none: why_none.into(),
            ..Self::alone(name, (members, answered), settings, ttl)
        })
    }

    /// What follows from the members, those of the answers too, and from settings alone: a service as it was at some time, as
    /// far as its records go.
    pub(crate) fn alone(
        name: &ServiceName,
        (members, answered): (Members, Members),
        settings: ServiceSettings,
        ttl: u32,
    ) -> Self {
        let ttl = settings.ttl.unwrap_or(ttl);
        let ttl = answered.shortest_lease().map_or(ttl, |lease| ttl_within(ttl, Lease::Timed(lease)));
        let scale = match settings.srv_weights {
            Some(SrvWeights::Haproxy) => {
                Scale::haproxy(answered.iter().map(Member::weight).max().unwrap_or_default())
            }
            Some(SrvWeights::Plain) | None => Scale::default(),
        };
        Self {
            name: name.clone(),
            settings: if settings == **NO_SETTINGS { NO_SETTINGS.clone() } else { Arc::new(settings) },
            ring: None,
            scale,
            members,
            answered,
            guarded: None,
            gone: Box::default(),
            tags: Arc::default(),
            ports: Service::default().ports(),
            ttl,
            listed_tags: Arc::default(),
            modified: 0,
            born: 0,
            why_none: Box::default(),
            texts: OnceLock::new(),
            prepared: OnceLock::new(),
            signatures: OnceLock::new(),
        }
    }

    /// The guard that is on.
    pub fn guard(&self) -> Option<Guard> {
        self.guarded.as_ref().map(|guarded| guarded.guard)
    }

    /// That the guard holds some of the answers, in words; empty where it holds none.
    pub fn stale(&self) -> &str {
        self.guarded.as_ref().map_or("", |guarded| &guarded.stale)
    }

    /// True where somebody else is to answer instead.
    pub fn fails_over(&self) -> bool {
        !self.has_answers() && !self.settings.fallbacks().is_empty()
    }

    pub fn policy(&self) -> Policy {
        self.settings.balance.unwrap_or_default().policy
    }

    pub fn has_answers(&self) -> bool {
        self.why_none.is_empty()
    }

    /// How many records an answer has at most, where that is set.
    pub fn most_answers(&self) -> Option<usize> {
        match self.settings.balance {
            Some(Balance { one: true, .. }) => Some(1),
            _ => self.settings.max_answers.filter(|most| *most > 0).map(usize::from),
        }
    }

    /// The live ones, and those that are held.
    pub fn in_answers(&self) -> impl Iterator<Item = &Member> {
        self.answered.iter().filter(|member| member.is_answered())
    }

    /// True where somebody is registered who fits, and nobody of them is in the answers.
    pub fn only_registered(&self, fits: impl Fn(&Instance) -> bool) -> bool {
        let mut fitting = self.answered.iter().filter(|member| fits(&member.instance));
        let mut found = false;
        fitting.all(|member| {
            found = true;
            !member.is_answered()
        }) && found
    }

    /// Whoever is registered under its label, or held.
    pub fn by_label(&self, label: &str) -> Option<&Member> {
        self.answered.get(label)
    }

    /// The number of a member in the answers on the ring; 0 where there is none.
    pub(super) fn number_of(&self, member: &Member) -> u32 {
        self.ring.as_ref().and_then(|ring| ring.number_of(member.identity())).unwrap_or_default()
    }

    pub fn by_key(&self, key: &Key) -> Option<&Member> {
        self.members.by_key(key)
    }

    /// Every instance that is registered, held or remembered, some of them twice: what decides which names exist.
    pub fn known(&self) -> impl Iterator<Item = &Arc<Instance>> {
        self.answered.iter().map(|member| &member.instance).chain(self.gone.iter().map(|gone| &gone.instance))
    }
}

/// How many signatures are kept of a service with these members.
pub(super) fn signatures_of(members: &Members) -> usize {
    SIGNATURES_PER_SERVICE + SIGNATURES_PER_MEMBER * members.len()
}

/// The ring of the members in the answers; `old` where it is of the same ones, for it takes some time to make.
fn ring_of(members: &Members, old: Option<&Arc<Ring>>) -> Arc<Ring> {
    let live = members.iter().filter(|member| member.is_answered());
    let live: Vec<(u64, u64)> = live.map(|member| (member.identity(), member.weight().into())).collect();
    match old.filter(|old| old.is_of(&live)) {
        Some(old) => old.clone(),
        None => Arc::new(Ring::new(live)),
    }
}

/// `ttl`, but at most a third of the lease and at least one second; 0 stays 0 (RFC 1035 section 3.2.1).
pub fn ttl_within(ttl: u32, lease: Lease) -> u32 {
    match lease {
        _ if ttl == 0 => 0,
        Lease::Timed(duration) => ttl.min(u32::try_from(duration.as_secs() / 3).unwrap_or(u32::MAX)).max(1),
        Lease::Connection(_) | Lease::None => ttl,
    }
}

/// Made with the view, so that a query finds it ready: the newest reason that something is not there.
fn why_none(name: &ServiceName, members: &Members, gone: &[Gone]) -> String {
    let reason = match (members.newest(), gone.last()) {
        (Some(member), _) => format!("{} {}", member.instance.label, member.rule()),
        (None, Some(gone)) => {
            format!("{} {} {}", gone.instance.label, gone.reason.as_str(), gone.at.time_of_day())
        }
        (None, None) => "none is registered".to_owned(),
    };
    // Where the whole does not fit, what can be guessed from the question goes first.
    fitting([format!("{name}: no live instance; {reason}"), format!("no live instance; {reason}"), reason])
}

/// What an answer says that is not only of live instances.
fn stale(name: &ServiceName, answered: &Members, guard: Guard) -> String {
    let held = answered.held();
    if held == 0 {
        return String::new();
    }
    let (all, since) = (answered.answered(), guard.since.time_of_day());
    let text = format!("{held} of {all} held by the guard since {since}");
    fitting([format!("{name}: {text}"), text.clone(), text])
}

/// The first text that fits an Extended DNS Error, or as much of the last as does.
fn fitting(texts: [String; 3]) -> String {
    let fitting = texts.iter().find(|text| text.len() <= EDE_OCTETS_MAX);
    let mut text = fitting.unwrap_or(&texts[2]).clone();
    // Labels, rule names and times are ASCII; a check's id may not be.
    while text.len() > EDE_OCTETS_MAX {
        text.pop();
    }
    text
}

/// Where an instance's records point: its own name, or the target that it named.
pub fn target_of(instance: &Instance, apex: &Apex) -> Name {
    match &instance.location {
        Location::Target(target) => target.clone(),
        Location::Addresses(_) => apex.owner(&[instance.label.as_str(), instance.key.service.as_str()]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ttl_is_within_a_third_of_the_lease() {
        let timed = |seconds| Lease::Timed(std::time::Duration::from_secs(seconds));
        assert_eq!(ttl_within(5, timed(15)), 5);
        assert_eq!(ttl_within(5, timed(14)), 4);
        assert_eq!(ttl_within(5, timed(1)), 1);
        assert_eq!(ttl_within(0, timed(1)), 0);
        assert_eq!(ttl_within(300, Lease::None), 300);
    }
}
