//! The registry: the set of registered instances, a fold over changes.
//!
//! `check` says what a command would change, or why it is refused; `apply` makes a change so. Nothing
//! here reads a clock, waits or fails: a change is a fact. The writer is the only caller of both, so
//! there is one order of changes, and the view is published from it.
//!
//! What left is remembered as `gone` for a while: a known service with nothing live answers NODATA and
//! not NXDOMAIN, and `explain` can say what happened.

mod apply;
mod change;
mod checks;
mod command;
mod failover;
mod guard;
mod import;
mod judge;
mod plain;
mod service;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use self::apply::leave;
pub use self::change::{Author, Change, Reason, What};
use self::checks::with_checks;
pub use self::command::{
    Command, Configuration, Holder, HostRegistration, How, Import, Imported, ListedCheck, Refusal,
    Registration, Report, ReportOf, Subject, Unlisted,
};
pub use self::failover::is_answered_instead;
use self::guard::{Deaths, Guarding};
pub use self::guard::{GUARD_FOR, GUARDED_MIN, Guard};
pub use self::import::IMPORTED_FROM;
pub use self::plain::{
    Holds, PLAIN_OCTETS_MAX, PLAIN_RECORDS_MAX, Plain, PlainSet, holds, is_held, octets_of, read_as,
    service_of, would_hide,
};
pub use self::service::{Gone, Ports, Service};
use crate::access::{Owner, Token, Tokens};
use crate::check::{Check, TTL_EXPIRED};
use crate::instance::{Health, Host, Instance, Key, ServiceSettings};
use crate::lease::{LeaseCell, Leased, Leases};
use crate::member::Member;
use crate::name::{HostName, Name, ServiceName};
use crate::record::Type;
use crate::sorted::Sorted;
use crate::time::{Now, Wall};

/// How long an instance that left is remembered: a rolling restart is NODATA, not NXDOMAIN.
pub const FORGET_AFTER: Duration = Duration::from_secs(60);
/// Gone instances remembered per service, but for one with a guard, and in all: a crash loop must not grow the registry.
pub const GONE_PER_SERVICE_MAX: usize = 64;
pub const GONE_MAX: usize = 100_000;
/// Instances registered at once, unless the configuration says otherwise: about 600 MiB of memory.
pub const INSTANCES_MAX: usize = 1_000_000;

/// Services that may have settings: they are an operator's, set by hand.
pub const SETTINGS_MAX: usize = 10_000;

/// What a store kept of a registry.
#[derive(Debug, Default)]
pub struct Kept {
    /// No revision above it was given out.
    pub revision: u64,
    /// Their leases run from the restart on.
    pub instances: Vec<Arc<Instance>>,
    pub hosts: Vec<Host>,
    pub settings: Vec<(ServiceName, ServiceSettings)>,
    pub tokens: Vec<Token>,
    /// Those that left: why, when, and at which revision; oldest first.
    pub gone: Vec<(Instance, Reason, Wall, u64)>,
    pub guards: Vec<(ServiceName, Guard)>,
    pub plain: Vec<PlainSet>,
}

/// See the module's own words.
#[derive(Debug)]
pub struct Registry {
    services: HashMap<ServiceName, Service>,
    hosts: HashMap<HostName, Arc<Host>>,
    /// The instances on each host: a host's health changes their standing.
    on_host: HashMap<HostName, Sorted<Key>>,
    settings: HashMap<ServiceName, ServiceSettings>,
    guards: HashMap<ServiceName, Guarding>,
    /// Of the services that may be guarded; and their instances that left, by host: its health tells who died.
    deaths: HashMap<ServiceName, Deaths>,
    left_on: HashMap<HostName, BTreeSet<Key>>,
    tokens: Tokens,
    leases: Leases,
    instances: usize,
    instances_max: usize,
    /// How many of them each identity registered.
    owned: HashMap<Arc<Owner>, usize>,
    gone: usize,
    /// What to forget and when, oldest first; the revision tells an entry from a later leave of the same key.
    forget: VecDeque<(u64, Key, u64)>,
    forget_after: Duration,
    /// Names that the record tree has, and where it says so.
    taken: HashMap<ServiceName, Box<str>>,
    plain: Plain,
    revision: u64,
}

impl Registry {
    pub fn new(instances_max: usize, forget_after: Duration) -> Self {
        Self {
            services: HashMap::new(),
            hosts: HashMap::new(),
            on_host: HashMap::new(),
            settings: HashMap::new(),
            guards: HashMap::new(),
            deaths: HashMap::new(),
            left_on: HashMap::new(),
            tokens: Tokens::default(),
            leases: Leases::default(),
            instances: 0,
            instances_max,
            owned: HashMap::new(),
            gone: 0,
            forget: VecDeque::new(),
            forget_after,
            taken: HashMap::new(),
            plain: Plain::default(),
            revision: 0,
        }
    }

    /// Refuses services of these names from here on; each with the place that has it, `file:line`.
    pub fn set_taken(&mut self, taken: HashMap<ServiceName, Box<str>>) {
        self.taken = taken;
    }

    /// Where a file has the name of this service already.
    pub fn is_taken(&self, name: &ServiceName) -> bool {
        self.taken.contains_key(name)
    }

    /// The names that files have though something is registered under them, with the place that has each: the service was
    /// stored before the record came.
    pub fn taken_and_registered(&self) -> impl Iterator<Item = (&ServiceName, &str)> {
        let taken = self.taken.iter().map(|(name, by)| (name, &**by));
        taken.filter(|(name, _)| self.is_registered(name))
    }

    fn is_registered(&self, name: &ServiceName) -> bool {
        self.service(name).is_some_and(|service| !service.members.is_empty())
    }

    /// The first of these names, in order, under which something is registered.
    pub fn first_registered<'a>(
        &self,
        names: impl Iterator<Item = &'a ServiceName>,
    ) -> Option<&'a ServiceName> {
        names.filter(|name| self.is_registered(name)).min()
    }

    /// Everything up to `revision` is in the registry, though the last of it changed nothing here.
    pub fn advance(&mut self, revision: u64) {
        self.revision = self.revision.max(revision);
    }

    /// Watches over a deadline that another node watched over before.
    pub fn watch_over(&mut self, deadline: &Arc<LeaseCell>) {
        self.leases.arm(deadline);
    }

    /// Watches over plain records, for `more` than their lease at first; without one that is left to another node.
    pub fn settle_plain(&mut self, owner: &Name, rtype: Type, more: Option<Duration>, now: Now) {
        let Some(deadline) = self.plain.set(owner, rtype).map(|set| set.deadline.clone()) else { return };
        match more {
            None => deadline.leave(),
            Some(more) if deadline.take(more, now) => self.plain.watch_over(&deadline),
            Some(_) => {}
        }
    }

    /// The revision of the last change applied.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    pub fn instances(&self) -> usize {
        self.instances
    }

    /// How long an instance that left is remembered.
    pub fn forget_after(&self) -> Duration {
        self.forget_after
    }

    pub fn instances_max(&self) -> usize {
        self.instances_max
    }

    /// How many instances this identity registered.
    pub fn owned_by(&self, owner: &Owner) -> usize {
        self.owned.get(owner).copied().unwrap_or_default()
    }

    /// We were away for so long, and could not hear the holders: their leases are longer by that, or anew.
    pub fn after_absence(&self, away: Duration, now: Now) {
        self.leases.after_absence(away, now);
        self.plain.after_absence(away, now);
    }

    /// Puts back what a store kept: no change, and nothing that anybody waits for.
    pub fn restore(&mut self, kept: Kept, now: Now) {
        self.revision = kept.revision;
        self.settings.extend(kept.settings);
        kept.tokens.into_iter().for_each(|token| self.tokens.put(Arc::new(token)));
        kept.plain.into_iter().for_each(|set| self.plain.apply(None, Some(&Arc::new(set))));
        for host in kept.hosts {
            self.arm_checks(&[], &host.checks);
            self.hosts.insert(host.name.clone(), Arc::new(host));
        }
        for instance in kept.instances {
            let key = instance.key.clone();
            self.leases.arm(&instance.deadline);
            self.arm_checks(&[], &instance.checks);
            self.on_host.entry(key.host.clone()).or_default().insert(key.clone());
            let member = Member::of(&instance, self.hosts.get(&key.host));
            self.services.entry(key.service.clone()).or_default().put(None, member);
            self.instances += 1;
            self.count_owner(None, Some(&instance));
        }
        for (instance, reason, at, revision) in kept.gone {
            let gone = Gone { instance: Arc::new(instance), reason, at, revision };
            self.forget_later(&gone, now);
            let most = self.gone_max(&gone.instance.key.service);
            let service = self.services.entry(gone.instance.key.service.clone()).or_default();
            let (instance, forgotten) = (gone.instance.clone(), service.remember(gone, most));
            self.gone += 1;
            self.forgotten(forgotten, now);
            self.judge(&instance, now); // where it may be guarded already: a node hears of settings and guards first
        }
        let configured: Vec<ServiceName> = self.settings.keys().cloned().collect();
        configured.iter().for_each(|service| self.keep_deaths(service, now));
        for (service, guard) in kept.guards {
            self.apply_guard(&service, Some(guard), now);
        }
    }

    pub fn service(&self, name: &ServiceName) -> Option<&Service> {
        self.services.get(name)
    }

    pub fn services(&self) -> impl Iterator<Item = (&ServiceName, &Service)> {
        self.services.iter()
    }

    pub fn host(&self, name: &HostName) -> Option<&Arc<Host>> {
        self.hosts.get(name)
    }

    pub fn hosts(&self) -> impl Iterator<Item = &Arc<Host>> {
        self.hosts.values()
    }

    /// What is set for a service; nothing where nobody did.
    pub fn settings(&self, service: &ServiceName) -> ServiceSettings {
        self.settings.get(service).cloned().unwrap_or_default()
    }

    pub fn all_settings(&self) -> impl Iterator<Item = (&ServiceName, &ServiceSettings)> {
        self.settings.iter()
    }

    /// Who may say who they are.
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// The records that UPDATE set.
    pub fn plain(&self) -> &Plain {
        &self.plain
    }

    pub fn instance(&self, key: &Key) -> Option<&Arc<Instance>> {
        self.services.get(&key.service)?.instance(key)
    }

    /// What time has changed by `now`: leases that ran out, guards that end, gone instances to forget; `most` of each.
    pub fn due(&mut self, now: Now, most: usize) -> Vec<(Reason, What)> {
        let expired = self.leases.expired(now, most);
        let mut due = self.ended(&expired, now);
        due.extend(self.guards_over(now));
        due.extend(
            self.plain
                .expired(now, most)
                .into_iter()
                .map(|set| (Reason::Expired, What::Plain { before: Some(set), after: None })),
        );
        let mut over = self.gone.saturating_sub(GONE_MAX);
        let enough = due.len() + most;
        while due.len() < enough
            && let Some((_, key, revision)) =
                self.forget.pop_front_if(|(at_ns, ..)| *at_ns <= now.mono_ns || over > 0)
        {
            let later = self.services.get(&key.service).and_then(|service| service.gone_by_key(&key));
            match later {
                Some((_, gone)) if gone.revision == revision => {
                    if over == 0 && self.forget_after_guard(&key, revision) {
                        continue;
                    }
                    over = over.saturating_sub(1);
                }
                // It left again since, or is back.
                Some(_) => continue,
                None if self.instance(&key).is_some() => continue,
                // One too many for its service: no longer remembered here, and the store has to hear it too.
                None => {}
            }
            due.push((Reason::Forgotten, What::Forgotten { key }));
        }
        due
    }

    /// What the deadlines that passed mean: one change for each instance and host, however many of its deadlines
    /// are among them. A cell that is in force nowhere belongs to what was replaced.
    fn ended(&self, expired: &[Arc<LeaseCell>], now: Now) -> Vec<(Reason, What)> {
        // One in force that is over is in `expired`: whoever ended it before has replaced it.
        let is_over = |check: &Check| check.deadline.as_ref().is_some_and(|deadline| deadline.is_over());
        let lapsed = |of: &Leased, checks: &[Check]| -> Vec<Check> {
            let lapse = |check: &Check| match is_over(check) {
                true => Check::new(
                    of,
                    check.id.clone(),
                    Health::Critical,
                    TTL_EXPIRED.into(),
                    check.definition.clone(),
                    now,
                ),
                false => check.clone(),
            };
            checks.iter().map(lapse).collect()
        };
        let (mut found, mut seen) = (Vec::new(), HashSet::new());
        for cell in expired {
            match &cell.of {
                Leased::Instance(key) => {
                    let Some(instance) = self.instance(key) else { continue };
                    if Arc::ptr_eq(&instance.deadline, cell) {
                        if seen.insert(&cell.of) {
                            found.push((Reason::Expired, leave(instance)));
                        }
                    } else if instance.checks.iter().any(is_over)
                        && !instance.deadline.is_over()
                        && seen.insert(&cell.of)
                    {
                        let reaps = |check: &Check| check.status == Health::Critical && is_over(check);
                        found.push(match instance.checks.iter().any(reaps) {
                            true => (Reason::Reaped, leave(instance)),
                            false => (
                                Reason::Reported,
                                with_checks(instance, lapsed(&cell.of, &instance.checks), now),
                            ),
                        });
                    }
                }
                Leased::Host(name) => {
                    let Some(host) = self.hosts.get(name).filter(|host| host.checks.iter().any(is_over))
                    else {
                        continue;
                    };
                    if seen.insert(&cell.of) {
                        let checks = lapsed(&cell.of, &host.checks);
                        let after = Some(Arc::new(Host { checks, ..(**host).clone() }));
                        found.push((Reason::Reported, What::Host { before: Some(host.clone()), after }));
                    }
                }
            }
        }
        found
    }

    /// When `due` next has something to say, in nanoseconds of the monotonic clock.
    pub fn next_due_ns(&self) -> Option<u64> {
        let forget = self.forget.front().map(|(at_ns, ..)| *at_ns);
        let leases = self.leases.next_ns().into_iter().chain(self.plain.next_due_ns());
        leases.chain(forget).chain(self.guard_due_ns()).min()
    }

    /// The keys of the instances on a host; none where there is no instance.
    pub fn on_host(&self, name: &HostName) -> Option<&Sorted<Key>> {
        self.on_host.get(name)
    }

    /// Every host with an instance, and the keys of those on it.
    pub fn all_on_hosts(&self) -> impl Iterator<Item = (&HostName, &Sorted<Key>)> {
        self.on_host.iter()
    }
}
