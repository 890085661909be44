//! The guard against mass death: when most of a service goes bad at once, the trouble is rather between it and us.
//!
//! The registry takes down what happened as ever. While a service is guarded, what went bad since the burst began is
//! held in its answers. That is kept nowhere: who is held follows from two times, those of the guard and of the
//! death, so a guard is two changes, one at its entry and one at its end, however many it holds.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Change, Gone, Reason, Registry, Service, What};
use crate::check::{Check, Kind, worst};
use crate::instance::{Health, Instance, Key, Lease, ServiceSettings};
use crate::member::{Member, Members};
use crate::name::{HostName, Label, ServiceName};
use crate::time::{Now, Wall, nanoseconds};

/// Instances that a service had at least when the burst began: of four, two may well die on the same day.
pub const GUARDED_MIN: usize = 5;
/// How long a guard holds at most, where the service does not say.
pub const GUARD_FOR: Duration = Duration::from_secs(600);
/// How far back a death without a lease or an interval counts: a closed connection, a verdict that somebody
/// reports. The length of the usual lease.
const WINDOW: Duration = Duration::from_secs(15);

/// What holds the instances of a service that went bad in its answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard {
    /// When the first of the burst went bad: who did so since is held.
    pub from: Wall,
    /// When it began.
    pub since: Wall,
}

/// A guard in force.
#[derive(Debug)]
pub(super) struct Guarding {
    pub guard: Guard,
    /// On the monotonic clock.
    until_ns: u64,
    /// Held ones whose time to be forgotten came; they are forgotten some time after the guard.
    waiting: Vec<(Key, u64)>,
}

impl Guarding {
    pub(super) fn new(guard: Guard, settings: &ServiceSettings, now: Now) -> Self {
        let mut guarding = Self { guard, until_ns: 0, waiting: Vec::new() };
        guarding.set_end(settings, now);
        guarding
    }

    /// The wall clock alone goes on over a restart; whatever was done to it, no guard lasts longer than is set.
    pub(super) fn set_end(&mut self, settings: &ServiceSettings, now: Now) {
        let whole = settings.guard_for.unwrap_or(GUARD_FOR);
        let passed = u64::try_from(now.wall.unix_ms.saturating_sub(self.guard.since.unix_ms)).unwrap_or(0);
        self.until_ns = now.mono_ns + nanoseconds(whole.saturating_sub(Duration::from_millis(passed)));
    }
}

/// When an instance that was live went bad, and how long it counts among those that did so lately.
struct Death {
    at: Wall,
    window: Duration,
    registered: Wall,
}

impl Death {
    /// Of one that is registered: its checks, or its host's, keep it out, and did not when it was registered. Who drains
    /// or is in maintenance is out because somebody asked for it.
    fn of(member: &Member) -> Option<Self> {
        let instance = &member.instance;
        if member.health != Health::Critical || instance.draining {
            return None;
        }
        let of_host = member.host.iter().flat_map(|host| &host.checks);
        let critical = instance.checks.iter().chain(of_host).filter(|check| check.status == Health::Critical);
        let first = critical.min_by_key(|check| check.since)?;
        let (at, registered) = (first.since, instance.registered);
        (at > registered).then(|| Self { at, window: window(instance, Some(first)), registered })
    }

    /// Of one that left; `member` is as it was then.
    fn of_gone(gone: &Gone, member: &Member) -> Option<Self> {
        match gone.reason {
            Reason::Expired | Reason::Disconnected | Reason::Reaped if member.is_live() => {
                let window = window(&gone.instance, None);
                Some(Self { at: gone.at, window, registered: gone.instance.registered })
            }
            Reason::Expired | Reason::Disconnected | Reason::Reaped => Self::of(member),
            _ => None,
        }
    }
}

/// One interval of the check that failed, or one lease.
fn window(instance: &Instance, check: Option<&Check>) -> Duration {
    let interval = check.map(|check| match check.definition.kind {
        Kind::Ttl(ttl) => ttl,
        _ => check.definition.interval,
    });
    match (interval.filter(|interval| !interval.is_zero()), instance.lease) {
        (Some(interval), _) => interval,
        (None, Lease::Timed(lease)) => lease,
        (None, Lease::Connection(_) | Lease::None) => WINDOW,
    }
}

/// True where more than `share` percent are bad, of those and the live ones.
fn is_over(share: u8, bad: usize, live: usize) -> bool {
    bad * 100 > (bad + live) * usize::from(share)
}

/// True for what may be a death. Nobody dies of a registration, nor of what is set.
fn is_for_the_worse(change: &Change) -> bool {
    match &change.what {
        What::Instance { before: Some(before), after: Some(after) } => {
            before.health().in_answers() && after.health() == Health::Critical
        }
        What::Instance { before: Some(_), after: None } => change.reason != Reason::Deregistered,
        What::Host { after: Some(after), .. } => worst(&after.checks) == Health::Critical,
        _ => false,
    }
}

impl Registry {
    /// The guard of a service, while it has one.
    pub fn guard(&self, service: &ServiceName) -> Option<Guard> {
        self.guards.get(service).map(|guarding| guarding.guard)
    }

    pub fn guards(&self) -> impl Iterator<Item = (&ServiceName, Guard)> {
        self.guards.iter().map(|(service, guarding)| (service, guarding.guard))
    }

    /// What `changes`, which the registry holds already, mean for the guards of their services.
    pub fn settle(&self, changes: &[Change], now: Now) -> Vec<(Reason, What)> {
        if self.settings.is_empty() && self.guards.is_empty() {
            return Vec::new();
        }
        let mut services: BTreeMap<ServiceName, bool> = BTreeMap::new();
        for change in changes {
            for service in self.touched(change) {
                *services.entry(service).or_default() |= is_for_the_worse(change);
            }
        }
        let judge = |(service, worse): (&ServiceName, &bool)| match self.guards.get(service) {
            Some(guarding) => self.release(service, guarding.guard),
            None if *worse => self.begin(service, now),
            None => None,
        };
        services.iter().filter_map(judge).collect()
    }

    /// The beginning of a guard, where so many went bad within their windows.
    fn begin(&self, name: &ServiceName, now: Now) -> Option<(Reason, What)> {
        let (service, share) = (self.services.get(name)?, self.guarded_over(name)?);
        let mut bad = self.deaths(service);
        bad.retain(|death| {
            // What left is remembered for no longer than that.
            let end = death.at.after(death.window.min(self.forget_after));
            // The clock may have been set back.
            (death.at..=end).contains(&now.wall)
        });
        let from = bad.iter().map(|death| death.at).min()?;
        if !is_over(share, bad.len(), service.members.answered()) {
            return None;
        }
        let live = service.members.iter().filter(|member| member.is_live());
        let live = live.map(|member| member.instance.registered);
        let registered = live.chain(bad.iter().map(|death| death.registered));
        let there = registered.filter(|registered| *registered < from).count();
        let after = Some(Guard { from, since: now.wall });
        let what = What::Guard { service: name.clone(), before: None, after };
        (there >= GUARDED_MIN).then_some((Reason::Guarded, what))
    }

    /// The end of a guard, where no more than the share is bad.
    fn release(&self, name: &ServiceName, guard: Guard) -> Option<(Reason, What)> {
        let end =
            || (Reason::Released, What::Guard { service: name.clone(), before: Some(guard), after: None });
        let (Some(service), Some(share)) = (self.services.get(name), self.guarded_over(name)) else {
            return Some(end());
        };
        let bad = self.deaths(service).iter().filter(|death| death.at >= guard.from).count();
        (!is_over(share, bad, service.members.answered())).then(end)
    }

    /// The percentage over which a service is guarded; none where it never is.
    fn guarded_over(&self, service: &ServiceName) -> Option<u8> {
        self.settings.get(service).and_then(ServiceSettings::guarded_over)
    }

    fn deaths(&self, service: &Service) -> Vec<Death> {
        let registered = service.members.not_answered().filter_map(Death::of);
        let gone = service.gone.iter().filter_map(|gone| Death::of_gone(gone, &self.as_it_left(gone)));
        registered.chain(gone).collect()
    }

    fn as_it_left(&self, gone: &Gone) -> Member {
        Member::of(&gone.instance, self.hosts.get(&gone.instance.key.host))
    }

    /// What left and is held, as a member.
    pub(super) fn held_member(&self, gone: &Gone) -> Option<Member> {
        let guard = self.guard(&gone.instance.key.service)?;
        let member = self.as_it_left(gone);
        let death = Death::of_gone(gone, &member)?;
        (death.at >= guard.from).then_some(Member { held: true, ..member })
    }

    /// What left under this key and is held.
    pub(super) fn held_by_key(&self, key: &Key) -> Option<&Gone> {
        self.guards.get(&key.service)?;
        let gone = self.services.get(&key.service)?.gone.iter().find(|gone| gone.instance.key == *key)?;
        self.held_member(gone).map(|_| gone)
    }

    /// True where another one that is held answers under this label.
    pub(super) fn is_held_label(&self, key: &Key, label: &Label) -> bool {
        let gone = self.guards.get(&key.service).and_then(|_| self.services.get(&key.service));
        let mut gone = gone.into_iter().flat_map(|service| &service.gone);
        gone.any(|gone| {
            gone.instance.label == *label && gone.instance.key != *key && self.held_member(gone).is_some()
        })
    }

    /// The guarded services that remember an instance on a host: its health tells who of them is held.
    pub(super) fn guarded_on(&self, host: &HostName) -> impl Iterator<Item = &ServiceName> {
        self.guards.keys().filter(|name| {
            let gone = self.services.get(*name).into_iter().flat_map(|service| &service.gone);
            gone.into_iter().any(|gone| gone.instance.key.host == *host)
        })
    }

    /// The members of a service, held ones marked; and those together with who left and is held.
    pub fn members(&self, name: &ServiceName) -> (Members, Members) {
        let Some(service) = self.services.get(name) else { return Default::default() };
        let mut members = service.members.clone();
        let Some(guard) = self.guard(name) else { return (members.clone(), members) };
        for member in service.members.not_answered() {
            if Death::of(member).is_some_and(|death| death.at >= guard.from) {
                members.put(Member { held: true, ..member.clone() });
            }
        }
        let labelled = |member: Member| (member.instance.label.clone(), member);
        let mut answered: BTreeMap<Label, Member> =
            service.gone.iter().filter_map(|gone| self.held_member(gone)).map(labelled).collect();
        // Where another one got the label of one that is held, before the guard began, it is the one.
        answered.extend(members.iter().cloned().map(labelled));
        (members, Members::of(answered))
    }

    /// How many that left a service are remembered: of one that may be guarded all, for they may come back.
    pub(super) fn gone_max(&self, service: &ServiceName) -> usize {
        match self.guarded_over(service) {
            Some(_) => super::GONE_MAX,
            None => super::GONE_PER_SERVICE_MAX,
        }
    }

    /// True where what left under this key is held, and is put down to be forgotten after the guard.
    pub(super) fn forget_after_guard(&mut self, key: &Key, revision: u64) -> bool {
        let is_held = self.held_by_key(key).is_some();
        match self.guards.get_mut(&key.service).filter(|_| is_held) {
            Some(guarding) => guarding.waiting.push((key.clone(), revision)),
            None => return false,
        }
        true
    }

    /// Guards whose time is over.
    pub(super) fn guards_over(&self, now: Now) -> Vec<(Reason, What)> {
        let over = self.guards.iter().filter(|(_, guarding)| guarding.until_ns <= now.mono_ns);
        let mut over: Vec<_> = over.map(|(service, guarding)| (service.clone(), guarding.guard)).collect();
        over.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let release =
            |(service, guard)| (Reason::Released, What::Guard { service, before: Some(guard), after: None });
        over.into_iter().map(release).collect()
    }

    pub(super) fn guard_due_ns(&self) -> Option<u64> {
        self.guards.values().map(|guarding| guarding.until_ns).min()
    }

    pub(super) fn apply_guard(&mut self, service: &ServiceName, after: Option<Guard>, now: Now) {
        match after {
            Some(guard) => {
                let guarding = Guarding::new(guard, &self.settings(service), now);
                self.guards.insert(service.clone(), guarding);
            }
            None => {
                let waiting = self.guards.remove(service).map(|guarding| guarding.waiting);
                let at_ns = now.mono_ns + nanoseconds(self.forget_after);
                let waiting = waiting.into_iter().flatten();
                self.forget.extend(waiting.map(|(key, revision)| (at_ns, key, revision)));
            }
        }
    }
}
