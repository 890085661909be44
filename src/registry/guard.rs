//! The guard against mass death: when most of a service goes bad at once, the trouble is rather between it and us.
//!
//! The registry takes down what happened as ever. While a service is guarded, what went bad since the burst began is
//! held in its answers. That is stored nowhere: who is held follows from two times, those of the guard and of the
//! death, so a guard is two changes, one at its entry and one at its end, however many it holds.
//!
//! In memory, the deaths of a service that may be guarded are kept from change to change, and so are the answers of one
//! that is: a change is judged by itself, and looks at no other instance.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::{Change, Gone, Reason, Registry, Service, What};
use crate::check::{Check, Kind, worst};
use crate::instance::{Health, Host, Instance, Key, Lease, ServiceSettings};
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

/// A time on both clocks.
///
/// What happens is put on the monotonic clock as it happens, and stays there whatever is done to the wall clock. Of what
/// a restart brings back the wall clock alone knows when it was.
#[derive(Clone, Copy, Debug)]
struct Moment {
    wall: Wall,
    /// Below zero before the server started.
    mono_ms: i64,
}

impl Moment {
    /// `known` where that is the same time, which the wall clock may have left since.
    fn of(wall: Wall, known: Option<Self>, now: Now) -> Self {
        let ago_ms = now.wall.unix_ms.saturating_sub(wall.unix_ms);
        let mono_ms = milliseconds(now).saturating_sub(ago_ms);
        known.filter(|known| known.wall == wall).unwrap_or(Self { wall, mono_ms })
    }
}

fn milliseconds(now: Now) -> i64 {
    (now.mono_ns / 1_000_000) as i64
}

fn after(mono_ms: i64, by: Duration) -> i64 {
    mono_ms.saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX))
}

/// What the guard has to know of an instance that is registered or remembered.
#[derive(Debug)]
struct Account {
    label: Label,
    registered: Moment,
    /// Since when it is bad.
    bad: Option<Moment>,
    /// How long that counts among what happened lately, on the monotonic clock.
    until_ms: i64,
    /// Its turn among those that left.
    left: Option<u64>,
}

impl Account {
    /// When it died. Who was bad from the first was never live.
    fn died(&self) -> Option<Moment> {
        self.bad.filter(|bad| bad.mono_ms > self.registered.mono_ms)
    }
}

/// What is kept of a service that may be guarded.
#[derive(Debug, Default)]
pub(super) struct Deaths {
    accounts: HashMap<Key, Account>,
    /// Those who died lately, by the time until which that counts.
    recent: BTreeSet<(i64, Key)>,
    /// Labels and turns of those who left: two of them may have one label.
    labels: BTreeSet<(Label, u64)>,
}

impl Deaths {
    fn remove(&mut self, key: &Key) -> Option<Account> {
        let account = self.accounts.remove(key)?;
        self.recent.remove(&(account.until_ms, key.clone()));
        if let Some(turn) = account.left {
            self.labels.remove(&(account.label.clone(), turn));
        }
        Some(account)
    }

    /// `death` and `left` as in `Account`; no death counts for longer than `longest`.
    fn put(
        &mut self,
        instance: &Instance,
        death: Option<Death>,
        left: Option<u64>,
        longest: Duration,
        now: Now,
    ) {
        let key = &instance.key;
        let old = self.remove(key);
        let registered = Moment::of(instance.registered, old.as_ref().map(|old| old.registered), now);
        let bad = death.as_ref().map(|death| Moment::of(death.at, old.and_then(|old| old.bad), now));
        let window = death.map_or(Duration::ZERO, |death| death.window.min(longest));
        let until_ms = bad.map_or(i64::MIN, |bad| after(bad.mono_ms, window));
        let account = Account { label: instance.label.clone(), registered, bad, until_ms, left };
        let now_ms = milliseconds(now);
        // Before a restart the clock may have been ahead.
        if account.died().is_some_and(|died| died.mono_ms <= now_ms) && until_ms >= now_ms {
            self.recent.insert((until_ms, key.clone()));
        }
        if let Some(turn) = left {
            self.labels.insert((account.label.clone(), turn));
        }
        self.accounts.insert(key.clone(), account);
    }

    fn lapse(&mut self, now: Now) {
        while self.recent.first().is_some_and(|(until_ms, _)| *until_ms < milliseconds(now)) {
            self.recent.pop_first();
        }
    }
}

/// A guard in force.
#[derive(Debug)]
pub(super) struct Guarding {
    guard: Guard,
    /// The times of the guard, on the monotonic clock.
    from_ms: i64,
    since_ms: i64,
    until_ns: u64,
    /// What answers are made of: who is registered, and who left and is held.
    answered: Members,
    /// Held ones whose time to be forgotten came; they are forgotten some time after the guard.
    waiting: Vec<(Key, u64)>,
}

impl Guarding {
    fn new(guard: Guard, from_ms: i64, settings: &ServiceSettings, now: Now) -> Self {
        // Whatever was done to the wall clock, no guard lasts longer than is set.
        let since_ms = Moment::of(guard.since, None, now).mono_ms.min(milliseconds(now));
        let (answered, waiting) = (Members::default(), Vec::new());
        let mut guarding = Self { guard, from_ms, since_ms, until_ns: 0, answered, waiting };
        guarding.set_end(settings);
        guarding
    }

    pub(super) fn set_end(&mut self, settings: &ServiceSettings) {
        let until_ms = after(self.since_ms, settings.guard_for.unwrap_or(GUARD_FOR));
        self.until_ns = u64::try_from(until_ms).unwrap_or(0).saturating_mul(1_000_000);
    }

    fn holds(&self, account: &Account) -> bool {
        account.died().is_some_and(|died| died.mono_ms >= self.from_ms)
    }

    /// Puts into the answers who is registered under a label, or the last who left with it and is held.
    fn answer(
        &mut self,
        label: &Label,
        service: &mut Service,
        deaths: &Deaths,
        hosts: &HashMap<HostName, Arc<Host>>,
    ) {
        let holds = |key: &Key| deaths.accounts.get(key).is_some_and(|account| self.holds(account));
        if let Some(registered) = service.members.get(label.as_str()) {
            let member = Member { held: holds(&registered.instance.key), ..registered.clone() };
            if registered.held != member.held {
                service.members.put(member.clone());
            }
            return self.answered.put(member);
        }
        let left = deaths.labels.range((label.clone(), 0)..=(label.clone(), u64::MAX)).rev();
        let mut left = left.filter_map(|(_, turn)| service.gone_at(*turn));
        match left.find(|gone| holds(&gone.instance.key)) {
            Some(gone) => {
                let member = Member::of(&gone.instance, hosts.get(&gone.instance.key.host));
                self.answered.put(Member { held: true, ..member });
            }
            None => self.answered.remove(label.as_str()),
        }
    }
}

/// When an instance went bad, and how long it counts among those that did so lately.
struct Death {
    at: Wall,
    window: Duration,
}

impl Death {
    /// Of one that is registered: its checks, or its host's, keep it out. Who drains or is in maintenance is out because
    /// somebody asked for it.
    fn of(member: &Member) -> Option<Self> {
        let instance = &member.instance;
        if member.health != Health::Critical || instance.draining {
            return None;
        }
        let of_host = member.host.iter().flat_map(|host| &host.checks);
        let critical = instance.checks.iter().chain(of_host).filter(|check| check.status == Health::Critical);
        let first = critical.min_by_key(|check| check.since)?;
        Some(Self { at: first.since, window: window(instance, Some(first)) })
    }

    /// Of one that left; `member` is as it was then.
    fn of_gone(gone: &Gone, member: &Member) -> Option<Self> {
        match gone.reason {
            Reason::Expired | Reason::Disconnected | Reason::Reaped if member.is_live() => {
                Some(Self { at: gone.at, window: window(&gone.instance, None) })
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
    pub fn settle(&mut self, changes: &[Change], now: Now) -> Vec<(Reason, What)> {
        let unsettled = self.unsettled(changes);
        unsettled.iter().filter_map(|(service, worse)| self.settle_service(service, *worse, now)).collect()
    }

    /// The services whose guards `changes`, which the registry holds already, may begin or end; true where something
    /// became worse, without which none begins.
    pub fn unsettled(&self, changes: &[Change]) -> BTreeMap<ServiceName, bool> {
        let mut services: BTreeMap<ServiceName, bool> = BTreeMap::new();
        if self.deaths.is_empty() {
            return services;
        }
        for change in changes {
            for service in self.touched(change) {
                *services.entry(service).or_default() |= is_for_the_worse(change);
            }
        }
        services
    }

    /// The beginning or the end of a service's guard, where it is due.
    pub fn settle_service(&mut self, service: &ServiceName, worse: bool, now: Now) -> Option<(Reason, What)> {
        match self.guards.get(service) {
            Some(guarding) => self.release(service, guarding),
            None if worse => self.begin(service, now),
            None => None,
        }
    }

    /// True where a service is guarded, or would be.
    pub fn may_be_guarded(&self, service: &ServiceName) -> bool {
        self.deaths.contains_key(service)
    }

    /// The beginning of a guard, where so many went bad within their windows.
    fn begin(&mut self, name: &ServiceName, now: Now) -> Option<(Reason, What)> {
        let share = self.guarded_over(name)?;
        let (members, deaths) = (&self.services.get(name)?.members, self.deaths.get_mut(name)?);
        deaths.lapse(now);
        if !is_over(share, deaths.recent.len(), members.answered()) {
            return None;
        }
        let recent = deaths.recent.iter().filter_map(|(_, key)| deaths.accounts.get(key)?.died());
        let from = recent.min_by_key(|died| died.mono_ms)?;
        let counts = |(key, account): &(&Key, &Account)| {
            let is_live = || members.get(account.label.as_str()).is_some_and(Member::is_live);
            account.registered.mono_ms < from.mono_ms
                && (account.bad.is_none() && account.left.is_none() && is_live()
                    || deaths.recent.contains(&(account.until_ms, Key::clone(key))))
        };
        let there = deaths.accounts.iter().filter(counts).take(GUARDED_MIN).count();
        let after = Some(Guard { from: from.wall, since: now.wall });
        let what = What::Guard { service: name.clone(), before: None, after };
        (there == GUARDED_MIN).then_some((Reason::Guarded, what))
    }

    /// The end of a guard, where no more than the share is bad.
    fn release(&self, name: &ServiceName, guarding: &Guarding) -> Option<(Reason, What)> {
        let (held, answered) = (guarding.answered.held(), guarding.answered.answered());
        let share = self.guarded_over(name);
        if share.is_some_and(|share| is_over(share, held, answered - held)) {
            return None;
        }
        let what = What::Guard { service: name.clone(), before: Some(guarding.guard), after: None };
        Some((Reason::Released, what))
    }

    /// The percentage over which a service is guarded; none where it never is.
    fn guarded_over(&self, service: &ServiceName) -> Option<u8> {
        self.settings.get(service).and_then(ServiceSettings::guarded_over)
    }

    /// Keeps the deaths of a service from here on, where it may be guarded, or no longer.
    pub(super) fn keep_deaths(&mut self, name: &ServiceName, now: Now) {
        let wanted = self.guarded_over(name).is_some() || self.guards.contains_key(name);
        if wanted == self.deaths.contains_key(name) {
            return;
        }
        let service = self.services.get(name);
        let gone: Vec<_> = service.into_iter().flat_map(Service::gone).map(|gone| &gone.instance).collect();
        if !wanted {
            self.deaths.remove(name);
            gone.iter().for_each(|instance| set_left(&mut self.left_on, &instance.key, false));
            return;
        }
        let members = service.into_iter().flat_map(|service| &service.members);
        let known: Vec<_> = members.map(|member| &member.instance).chain(gone).cloned().collect();
        self.deaths.insert(name.clone(), Deaths::default());
        known.iter().for_each(|instance| self.judge(instance, now));
    }

    /// Takes down what became of an instance, or of who had its key before, and of the answers under its label.
    pub(super) fn judge(&mut self, instance: &Instance, now: Now) {
        let key = &instance.key;
        let Some(deaths) = self.deaths.get_mut(&key.service) else { return };
        let Some(service) = self.services.get_mut(&key.service) else { return };
        let gone = service.gone_by_key(key);
        set_left(&mut self.left_on, key, gone.is_some());
        if let Some(member) = service.members.by_key(key) {
            deaths.put(&member.instance, Death::of(member), None, self.forget_after, now);
        } else if let Some((turn, gone)) = gone {
            let death = Death::of_gone(gone, &Member::of(&gone.instance, self.hosts.get(&key.host)));
            deaths.put(&gone.instance, death, Some(turn), self.forget_after, now);
        } else {
            deaths.remove(key);
        }
        if let Some(guarding) = self.guards.get_mut(&key.service) {
            guarding.answer(&instance.label, service, deaths, &self.hosts);
        }
    }

    /// What left under this key and is held.
    pub(super) fn held_by_key(&self, key: &Key) -> Option<&Gone> {
        let (guarding, deaths) = (self.guards.get(&key.service)?, self.deaths.get(&key.service)?);
        let (_, gone) = self.services.get(&key.service)?.gone_by_key(key)?;
        guarding.holds(deaths.accounts.get(key)?).then_some(gone)
    }

    /// True where what left under this key is held.
    pub fn is_held(&self, key: &Key) -> bool {
        self.held_by_key(key).is_some()
    }

    /// True where another one that is held answers under this label.
    pub(super) fn is_held_label(&self, key: &Key, label: &Label) -> bool {
        let answered = self.guards.get(&key.service).and_then(|it| it.answered.get(label.as_str()));
        answered.is_some_and(|member| member.instance.key != *key)
    }

    /// The members of a service, held ones marked; and those together with who left and is held.
    pub fn members(&self, name: &ServiceName) -> (Members, Members) {
        let members = self.services.get(name).map(|service| service.members.clone()).unwrap_or_default();
        let answered = self.guards.get(name).map(|guarding| guarding.answered.clone());
        (members.clone(), answered.unwrap_or(members))
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
        let is_held = self.is_held(key);
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

    pub(super) fn apply_guard(&mut self, name: &ServiceName, after: Option<Guard>, now: Now) {
        match after {
            Some(guard) => self.enter_guard(name, guard, now),
            None => self.leave_guard(name, now),
        }
        self.keep_deaths(name, now);
    }

    fn enter_guard(&mut self, name: &ServiceName, guard: Guard, now: Now) {
        let accounts = self.deaths.get(name).into_iter().flat_map(|deaths| deaths.accounts.values());
        let first = accounts.filter_map(Account::died).filter(|died| died.wall == guard.from);
        let first = first.min_by_key(|died| died.mono_ms);
        let from_ms = Moment::of(guard.from, first, now).mono_ms;
        let mut guarding = Guarding::new(guard, from_ms, &self.settings(name), now);
        if let (Some(service), Some(deaths)) = (self.services.get_mut(name), self.deaths.get(name)) {
            guarding.answered = service.members.clone();
            for account in deaths.accounts.values().filter(|account| account.died().is_some()) {
                guarding.answer(&account.label, service, deaths, &self.hosts);
            }
        }
        self.guards.insert(name.clone(), guarding);
    }

    fn leave_guard(&mut self, name: &ServiceName, now: Now) {
        let Some(guarding) = self.guards.remove(name) else { return };
        if let Some(service) = self.services.get_mut(name) {
            let held: Vec<Member> = service.members.iter_held().cloned().collect();
            held.into_iter().for_each(|member| service.members.put(Member { held: false, ..member }));
        }
        let at_ns = now.mono_ns + nanoseconds(self.forget_after);
        let waiting = guarding.waiting.into_iter();
        self.forget.extend(waiting.map(|(key, revision)| (at_ns, key, revision)));
    }
}

/// Takes down whether a key is of one that left its host.
fn set_left(left_on: &mut HashMap<HostName, BTreeSet<Key>>, key: &Key, left: bool) {
    if left {
        left_on.entry(key.host.clone()).or_default().insert(key.clone());
    } else if let Some(keys) = left_on.get_mut(&key.host) {
        keys.remove(key);
        if keys.is_empty() {
            left_on.remove(&key.host);
        }
    }
}
