//! The registry: the set of registered instances, a fold over changes.
//!
//! `check` says what a command would change, or why it is refused; `apply` makes a change so. Nothing
//! here reads a clock, waits or fails: a change is a fact. The writer is the only caller of both, so
//! there is one order of changes, and the view is published from it.
//!
//! What left is remembered as `gone` for a while: a known service with nothing live answers NODATA and
//! not NXDOMAIN, and `explain` can say what happened.

mod change;
mod checks;
mod command;
mod failover;
mod guard;
mod import;
mod plain;
mod service;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

pub use self::change::{Author, Change, Reason, What};
use self::checks::{merge_checks, with_checks, with_report};
pub use self::command::{
    Command, Configuration, Holder, HostRegistration, How, Import, Imported, ListedCheck, Refusal,
    Registration, Report, ReportOf, Subject,
};
use self::guard::{Deaths, Guarding};
pub use self::guard::{GUARD_FOR, GUARDED_MIN, Guard};
pub use self::import::IMPORTED_FROM;
pub use self::plain::{PLAIN_RECORDS_MAX, Plain, PlainSet, is_held};
pub use self::service::{Gone, Ports, Service};
use crate::access::{Owner, TOKENS_MAX, Token, Tokens};
use crate::check::{CHECKS_MAX, Check, TTL_EXPIRED, worst};
use crate::instance::{Extras, Health, Host, Instance, Key, Lease, ServiceSettings};
use crate::lease::{LeaseCell, Leased, Leases};
use crate::member::Member;
use crate::name::{HostName, Label, ServiceName};
use crate::sorted::Sorted;
use crate::time::{Now, Wall, nanoseconds};
use crate::update;

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

    /// Everything up to `revision` is in the registry, though the last of it changed nothing here.
    pub fn advance(&mut self, revision: u64) {
        self.revision = self.revision.max(revision);
    }

    /// Watches over a deadline that another node watched over before.
    pub fn watch_over(&mut self, deadline: &Arc<LeaseCell>) {
        self.leases.arm(deadline);
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

    /// What `command` would change: nothing where it is already so.
    pub fn check(&self, command: &Command, now: Now) -> Result<Vec<(Reason, What)>, Refusal> {
        match command {
            Command::Register(registration) => self.check_register(registration, now),
            Command::Deregister(holder) => Ok(match self.held(holder) {
                // Deregistering what is not there is no error, so a retry is safe. Held, it leaves the answers.
                Err(Refusal::NotFound(key)) => {
                    let held = self.held_by_key(&key).filter(|gone| {
                        holder.lease_id.is_none_or(|lease_id| lease_id == gone.instance.lease_id)
                    });
                    held.map(|_| (Reason::Deregistered, What::Forgotten { key })).into_iter().collect()
                }
                Err(refusal) => return Err(refusal),
                Ok(instance) => vec![(Reason::Deregistered, leave(instance))],
            }),
            Command::Drain(holder) => {
                let instance = self.held(holder)?;
                if instance.draining {
                    return Ok(Vec::new());
                }
                let after = Instance { draining: true, since: now.wall, ..(**instance).clone() };
                Ok(vec![(Reason::Drained, become_(instance, after))])
            }
            // Whose it is, no instance says: nothing changes in the registry.
            Command::Claim(holder) => self.held(holder).map(|_| Vec::new()),
            Command::Report(report) => self.check_report(report, now),
            Command::AddCheck { on, listed } => self.change_checks(on, now, |checks, of| {
                let merged = merge_checks(checks, std::slice::from_ref(listed), true, of, now);
                if merged.len() > CHECKS_MAX { Err(Refusal::TooManyChecks) } else { Ok(Some(merged)) }
            }),
            Command::RemoveCheck { on, check } => self.change_checks(on, now, |checks, _| {
                let rest: Vec<Check> = checks.iter().filter(|known| known.id != *check).cloned().collect();
                Ok((rest.len() < checks.len()).then_some(rest))
            }),
            Command::RegisterHost(registration) => self.check_host(registration),
            Command::DeregisterHost(name) => Ok(match self.hosts.get(name) {
                None => Vec::new(),
                Some(host) => {
                    vec![(Reason::Deregistered, What::Host { before: Some(host.clone()), after: None })]
                }
            }),
            Command::Configure(configuration) => self.check_configure(configuration),
            // What it is checked against is more than the registry: where there is no more, there is no UPDATE.
            Command::Update(_) => Err(Refusal::Update(update::Refused::not_here())),
            Command::CreateToken(token) => self.check_create(token),
            Command::RevokeToken(name) => {
                let token = self.tokens.by_name(name).ok_or_else(|| Refusal::NoToken(name.clone()))?;
                Ok(vec![(Reason::Revoked, What::Token { before: Some(token.clone()), after: None })])
            }
            Command::Import(import) => self.check_import(import),
            Command::Closed { connection, keys } => Ok(keys
                .iter()
                .filter_map(|key| self.instance(key))
                .filter(|instance| instance.lease == Lease::Connection(*connection))
                .map(|instance| (Reason::Disconnected, leave(instance)))
                .collect()),
        }
    }

    fn check_register(&self, registration: &Registration, now: Now) -> Result<Vec<(Reason, What)>, Refusal> {
        let key = &registration.key;
        if let Some(by) = self.taken.get(&key.service) {
            return Err(Refusal::Taken { name: key.service.clone(), by: by.clone() });
        }
        let before = self.instance(key);
        // An UPDATE may make an instance of what it set before, and has looked at the rest itself.
        let by_update = registration.owner.as_deref().is_some_and(Owner::is_key);
        if before.is_none()
            && !by_update
            && let Some(owner) = self.plain.takes(key.service.as_str(), key.id.label().as_str())
        {
            let by = format!("{owner}, which an UPDATE set").into();
            return Err(Refusal::Taken { name: key.service.clone(), by });
        }
        if before.is_none() && self.instances >= self.instances_max {
            return Err(Refusal::Full { limit: self.instances_max });
        }
        let (key, label) = match before {
            Some(before) => (before.key.clone(), before.label.clone()),
            None => (self.shared(key), self.free_label(key)),
        };
        let deadline = match registration.lease {
            Lease::Timed(duration) => LeaseCell::timed(key.clone(), duration, now),
            Lease::Connection(_) | Lease::None => LeaseCell::unlimited(key.clone()),
        };
        let known = before.map(|before| before.checks.as_slice()).unwrap_or_default();
        let of = Leased::Instance(key.clone());
        let checks = merge_checks(known, &registration.checks, registration.keeps_checks, &of, now);
        if checks.len() > CHECKS_MAX {
            return Err(Refusal::TooManyChecks);
        }
        let health = worst(&checks);
        let extras = Extras {
            protocol: registration.protocol.clone(),
            tags: registration.tags.clone(),
            meta: registration.meta.clone(),
            checks,
            source: registration.source.clone(),
            consul: registration.consul.clone(),
        };
        let after = Instance {
            key,
            label,
            location: registration.location.clone(),
            ports: registration.ports.clone().into(),
            weight: registration.weight,
            priority: registration.priority,
            lease: registration.lease,
            lease_id: registration.lease_id,
            deadline,
            draining: false,
            // Who comes back from among the held stays held until its checks have spoken.
            registered: before
                .or(self.held_by_key(&registration.key).map(|gone| &gone.instance))
                .map_or(now.wall, |before| before.registered),
            since: before
                .filter(|before| before.health() == health && !before.draining)
                .map_or(now.wall, |before| before.since),
            created: before.map_or(0, |before| before.created),
            revision: 0,
            // Who came first stays: an administrator who registers it again does not take it away.
            owner: before.and_then(|before| before.owner.clone()).or_else(|| registration.owner.clone()),
            extras: extras.kept(),
        };
        let mut found = Vec::with_capacity(1);
        if let Some(other) = registration.displaces.as_ref().and_then(|key| self.instance(key)) {
            found.push((Reason::Deregistered, leave(other)));
        }
        if !(registration.anonymous
            && before.is_some_and(|before| before.says_same(&after) && before.owner == after.owner))
        {
            let what = What::Instance { before: before.cloned(), after: Some(Arc::new(after)) };
            found.push((Reason::Registered, what));
        }
        Ok(found)
    }

    /// The key with the texts that the registry has already: what a thousand instances have in common is there once.
    fn shared(&self, key: &Key) -> Key {
        let service = self.services.get_key_value(&key.service).map_or(&key.service, |(name, _)| name);
        let host = self.on_host.get_key_value(&key.host).map_or(&key.host, |(name, _)| name);
        Key::new(service.clone(), key.id.clone(), host.clone())
    }

    /// The id's own label, or one that names the host too where another instance has it.
    fn free_label(&self, key: &Key) -> Label {
        let taken = |label: &Label| self.has_label(key, label);
        let own = key.id.label();
        if !taken(&own) {
            return own;
        }
        // Two ids may even collide with the suffix (ids are ours to choose): then it is hashed with a counter.
        let mut label = key.id.label_on(&key.host, 0);
        let mut attempt = 0u32;
        while taken(&label) {
            attempt += 1;
            label = key.id.label_on(&key.host, attempt);
        }
        label
    }

    /// True where an instance of the service has this label, and a new one with this key cannot.
    fn has_label(&self, key: &Key, label: &Label) -> bool {
        let service = self.services.get(&key.service);
        service.is_some_and(|service| service.members.get(label.as_str()).is_some())
            || self.is_held_label(key, label)
    }

    /// Another label for an instance whose own is another's: two nodes may have given one to two.
    pub fn label_instead(&self, instance: &Instance) -> Option<Label> {
        let service = self.services.get(&instance.key.service)?;
        let other = service.members.get(instance.label.as_str())?;
        (other.instance.key != instance.key).then(|| self.free_label(&instance.key))
    }

    fn held(&self, holder: &Holder) -> Result<&Arc<Instance>, Refusal> {
        let instance = self.instance(&holder.key).ok_or_else(|| Refusal::NotFound(holder.key.clone()))?;
        match holder.lease_id {
            Some(lease_id) if lease_id != instance.lease_id => Err(Refusal::Superseded(holder.key.clone())),
            _ => Ok(instance),
        }
    }

    fn check_report(&self, report: &Report, now: Now) -> Result<Vec<(Reason, What)>, Refusal> {
        let found = self.change_checks(&report.on, now, |checks, of| with_report(checks, report, of, now))?;
        Ok(found.into_iter().map(|(_, what)| (Reason::Reported, what)).collect())
    }

    /// What becomes of the subject when `change` makes new checks of those it has; nothing where it makes none.
    fn change_checks(
        &self,
        on: &Subject,
        now: Now,
        change: impl FnOnce(&[Check], &Leased) -> Result<Option<Vec<Check>>, Refusal>,
    ) -> Result<Vec<(Reason, What)>, Refusal> {
        let what = match on {
            Subject::Instance(holder) => {
                let instance = self.held(holder)?;
                let of = Leased::Instance(instance.key.clone());
                change(&instance.checks, &of)?.map(|checks| with_checks(instance, checks, now))
            }
            Subject::Host(name) => {
                let before = self.host_or_new(name)?;
                let of = Leased::Host(name.clone());
                change(&before.checks, &of)?.map(|checks| What::Host {
                    before: self.hosts.get(name).cloned(),
                    after: Some(Arc::new(Host { checks, ..before })),
                })
            }
        };
        Ok(what.into_iter().map(|what| (Reason::Checked, what)).collect())
    }

    fn check_configure(&self, configuration: &Configuration) -> Result<Vec<(Reason, What)>, Refusal> {
        let Configuration { service, reset, given } = configuration;
        let before = self.settings(service);
        let kept = if *reset { ServiceSettings::default() } else { before.clone() };
        let after = kept.with(given.clone());
        if before == after {
            return Ok(Vec::new());
        }
        if let Some(way) = self.failover_cycle(service, &after) {
            return Err(Refusal::FailoverCycle(way));
        }
        if self.settings.len() >= SETTINGS_MAX && !self.settings.contains_key(service) {
            return Err(Refusal::TooManySettings { limit: SETTINGS_MAX });
        }
        Ok(vec![(Reason::Configured, What::Settings { service: service.clone(), before, after })])
    }

    fn check_create(&self, token: &Arc<Token>) -> Result<Vec<(Reason, What)>, Refusal> {
        if self.tokens.by_name(&token.name).is_some() {
            return Err(Refusal::TokenExists(token.name.clone()));
        }
        if self.tokens.len() >= TOKENS_MAX {
            return Err(Refusal::TooManyTokens);
        }
        Ok(vec![(Reason::Granted, What::Token { before: None, after: Some(token.clone()) })])
    }

    fn check_host(&self, registration: &HostRegistration) -> Result<Vec<(Reason, What)>, Refusal> {
        let HostRegistration { name, addresses, meta, id } = registration;
        let known = self.host_or_new(name)?;
        let (addresses, meta, id) = (addresses.clone(), meta.clone(), id.clone());
        let after = Host { addresses, meta, id, ..known.clone() };
        let before = self.hosts.get(name).cloned();
        if before.is_some() && after == known {
            return Ok(Vec::new());
        }
        Ok(vec![(Reason::Registered, What::Host { before, after: Some(Arc::new(after)) })])
    }

    /// The host as it is, or as one that nobody has said anything of.
    fn host_or_new(&self, name: &HostName) -> Result<Host, Refusal> {
        match self.hosts.get(name) {
            Some(host) => Ok((**host).clone()),
            None if !self.on_host.contains_key(name) && self.hosts.len() >= self.instances_max => {
                Err(Refusal::Full { limit: self.instances_max })
            }
            None => Ok(Host::new(name.clone())),
        }
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

    /// Gives its revision to a change that `check` or `due` found.
    pub fn change(revision: u64, reason: Reason, mut what: What, author: Author, now: Now) -> Change {
        match &mut what {
            What::Instance { before, after: Some(after) } => {
                let after = Arc::make_mut(after);
                after.revision = revision;
                if before.is_none() {
                    after.created = revision;
                }
            }
            What::Host { before, after: Some(after) } => {
                let after = Arc::make_mut(after);
                after.revision = revision;
                if before.is_none() {
                    after.created = revision;
                }
            }
            _ => {}
        }
        Change { revision, at: now.wall, reason, author, what }
    }

    /// Makes a change so.
    pub fn apply(&mut self, change: &Change, now: Now) {
        self.revision = change.revision;
        match &change.what {
            What::Instance { before, after } => {
                self.apply_instance(before.as_ref(), after.as_ref(), change, now)
            }
            What::Host { before, after } => {
                if let Some(before) = before {
                    self.hosts.remove(&before.name);
                }
                if let Some(after) = after {
                    let known = before.as_ref().map(|before| before.checks.as_slice()).unwrap_or_default();
                    self.arm_checks(known, &after.checks);
                    self.hosts.insert(after.name.clone(), after.clone());
                }
                if let Some(host) = after.as_ref().or(before.as_ref()) {
                    self.judge_anew(&host.name, now);
                }
            }
            What::Settings { service, after, .. } => {
                match *after == ServiceSettings::default() {
                    true => self.settings.remove(service),
                    false => self.settings.insert(service.clone(), after.clone()),
                };
                if let Some(guarding) = self.guards.get_mut(service) {
                    guarding.set_end(after);
                }
                let most = self.gone_max(service);
                let over = self.services.get_mut(service).map(|known| known.keep(most));
                self.forgotten(over.into_iter().flatten(), now);
                self.keep_deaths(service, now);
            }
            What::Guard { service, after, .. } => self.apply_guard(service, *after, now),
            What::Plain { before, after } => self.plain.apply(before.as_ref(), after.as_ref()),
            What::Token { before, after } => {
                before.iter().for_each(|token| self.tokens.remove(token));
                after.iter().for_each(|token| self.tokens.put(token.clone()));
            }
            What::Forgotten { key } => {
                let gone = self.services.get_mut(&key.service).and_then(|service| service.forget(key));
                self.forgotten(gone, now);
                self.drop_empty(&key.service);
            }
        }
    }

    fn apply_instance(
        &mut self,
        before: Option<&Arc<Instance>>,
        after: Option<&Arc<Instance>>,
        change: &Change,
        now: Now,
    ) {
        let Some(key) = after.or(before).map(|instance| instance.key.clone()) else { return };
        self.count_owner(before, after);
        let most = self.gone_max(&key.service);
        let service = self.services.entry(key.service.clone()).or_default();
        if let Some(after) = after {
            service.put(before, Member::of(after, self.hosts.get(&key.host)));
            if before.is_none() {
                self.instances += 1;
                self.on_host.entry(key.host.clone()).or_default().insert(key.clone());
            }
            if !before.is_some_and(|before| Arc::ptr_eq(&before.deadline, &after.deadline)) {
                self.leases.arm(&after.deadline);
            }
            let gone = service.forget(&key);
            let known = before.map(|before| before.checks.as_slice()).unwrap_or_default();
            self.arm_checks(known, &after.checks);
            self.forgotten(gone, now);
            self.judge(after, now);
            return;
        }
        let Some(before) = before else { return };
        let gone = Gone {
            instance: before.clone(),
            reason: change.reason,
            at: change.at,
            revision: change.revision,
        };
        self.gone += 1;
        let forgotten = service.leave(gone.clone(), most);
        self.instances -= 1;
        self.forget_later(&gone, now);
        if let Some(keys) = self.on_host.get_mut(&key.host) {
            keys.remove(&key);
            if keys.is_empty() {
                self.on_host.remove(&key.host);
            }
        }
        self.forgotten(forgotten, now);
        self.judge(before, now);
    }

    fn count_owner(&mut self, before: Option<&Arc<Instance>>, after: Option<&Arc<Instance>>) {
        let owner = |instance: Option<&Arc<Instance>>| instance.and_then(|instance| instance.owner.clone());
        let (before, after) = (owner(before), owner(after));
        if before == after {
            return;
        }
        if let Some(after) = after {
            *self.owned.entry(after).or_default() += 1;
        }
        if let Some(before) = before
            && let Some(count) = self.owned.get_mut(&before)
        {
            *count -= 1;
            if *count == 0 {
                self.owned.remove(&before);
            }
        }
    }

    /// Counts who is no longer remembered.
    fn forgotten(&mut self, gone: impl IntoIterator<Item = Gone>, now: Now) {
        for gone in gone {
            self.gone -= 1;
            self.judge(&gone.instance, now);
        }
    }

    /// Watches over the deadlines of checks that are not in `known`.
    fn arm_checks(&mut self, known: &[Check], checks: &[Check]) {
        for deadline in checks.iter().filter_map(|check| check.deadline.as_ref()) {
            let same = |check: &Check| check.deadline.as_ref().is_some_and(|old| Arc::ptr_eq(old, deadline));
            if !known.iter().any(same) {
                self.leases.arm(deadline);
            }
        }
    }

    fn forget_later(&mut self, gone: &Gone, now: Now) {
        let at_ns = now.mono_ns + nanoseconds(self.forget_after);
        self.forget.push_back((at_ns, gone.instance.key.clone(), gone.revision));
    }

    /// A host's checks count for every instance on it.
    fn judge_anew(&mut self, name: &HostName, now: Now) {
        for key in self.on_host.get(name).cloned().unwrap_or_default().iter() {
            let Some(service) = self.services.get_mut(&key.service) else { continue };
            if let Some(instance) = service.instance(key).cloned() {
                service.members.put(Member::of(&instance, self.hosts.get(name)));
                self.judge(&instance, now);
            }
        }
        for key in self.left_on.get(name).cloned().unwrap_or_default() {
            let gone = self.services.get(&key.service).and_then(|service| service.gone_by_key(&key));
            if let Some(instance) = gone.map(|(_, gone)| gone.instance.clone()) {
                self.judge(&instance, now);
            }
        }
    }

    fn drop_empty(&mut self, name: &ServiceName) {
        if self.services.get(name).is_some_and(Service::is_empty) {
            self.services.remove(name);
        }
    }

    /// The services whose view `change` alters.
    pub fn touched(&self, change: &Change) -> Vec<ServiceName> {
        match &change.what {
            What::Instance { before, after } => {
                after.iter().chain(before).take(1).map(|instance| instance.key.service.clone()).collect()
            }
            What::Host { before, after } => {
                let name = after.as_ref().or(before.as_ref()).map(|host| &host.name);
                let keys = name.and_then(|name| self.on_host.get(name));
                let keys = keys.into_iter().flat_map(Sorted::iter);
                let left = name.and_then(|name| self.left_on.get(name)).into_iter().flatten();
                let services = keys.chain(left).map(|key| &key.service);
                let services: BTreeSet<_> = services.cloned().collect();
                services.into_iter().collect()
            }
            What::Forgotten { key } => vec![key.service.clone()],
            What::Settings { service, .. } | What::Guard { service, .. } => vec![service.clone()],
            What::Token { .. } | What::Plain { .. } => Vec::new(),
        }
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

fn leave(instance: &Arc<Instance>) -> What {
    What::Instance { before: Some(instance.clone()), after: None }
}

fn become_(before: &Arc<Instance>, after: Instance) -> What {
    What::Instance { before: Some(before.clone()), after: Some(Arc::new(after)) }
}
