//! The registry: the set of registered instances, a fold over changes.
//!
//! `check` says what a command would change, or why it is refused; `apply` makes a change so. Nothing
//! here reads a clock, waits or fails: a change is a fact. The writer is the only caller of both, so
//! there is one order of changes, and the view is published from it.
//!
//! What left is remembered as `gone` for a while: a known service with nothing live answers NODATA and
//! not NXDOMAIN, and `explain` can say what happened.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::instance::{
    CHECKS_MAX, Check, Health, Host, Instance, Key, Lease, Location, OUTPUT_OCTETS_MAX, Port, worst,
};
use crate::lease::{LeaseCell, Leases};
use crate::name::{HostName, InstanceId, Label, ServiceName, Tag};
use crate::time::{Now, Wall, nanoseconds};

/// How long an instance that left is remembered: a rolling restart is NODATA, not NXDOMAIN.
pub const FORGET_AFTER: Duration = Duration::from_secs(60);
/// Gone instances remembered per service, and in all: a crash loop must not grow the registry.
pub const GONE_PER_SERVICE_MAX: usize = 64;
pub const GONE_MAX: usize = 100_000;
/// Instances registered at once, unless the configuration says otherwise: about 1 GiB of memory.
pub const INSTANCES_MAX: usize = 1_000_000;

/// What may be asked of the registry; a refusal changes nothing.
#[derive(Clone, Debug)]
pub enum Command {
    Register(Box<Registration>),
    Deregister(Holder),
    Drain(Holder),
    Report(Report),
    /// A connection ended: what is bound to it and still held by it leaves.
    Closed {
        connection: u64,
        keys: Vec<Key>,
    },
}

/// Everything that a registration says, each part checked at the edge.
#[derive(Clone, Debug)]
pub struct Registration {
    pub key: Key,
    pub location: Location,
    pub ports: Vec<Port>,
    pub protocol: Option<Arc<str>>,
    pub tags: Vec<Tag>,
    pub meta: BTreeMap<Arc<str>, Arc<str>>,
    pub weight: u16,
    pub priority: u16,
    pub lease: Lease,
    /// 64 random bits, drawn by the edge.
    pub lease_id: u64,
    pub checks: Vec<ListedCheck>,
}

/// A check as a registration lists it; without a status it keeps the one that it has, and is critical where it is new.
pub type ListedCheck = (Arc<str>, Option<Health>);

/// An instance, named by who holds it.
#[derive(Clone, Debug)]
pub struct Holder {
    pub key: Key,
    /// Where given, it must be the one that the registration returned.
    pub lease_id: Option<u64>,
}

/// The verdict of one check of an instance, or of a host where `on` is `Subject::Host`.
#[derive(Clone, Debug)]
pub struct Report {
    pub on: Subject,
    pub check: Arc<str>,
    pub status: Health,
    pub output: Arc<str>,
}

#[derive(Clone, Debug)]
pub enum Subject {
    Instance(Holder),
    Host(HostName),
}

/// Why a command was not carried out. The code is stable; the sentence says what to do.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Refusal {
    #[error("{0} is not registered; register it again")]
    NotFound(Key),
    #[error("{0} was registered again by another holder since; stop, or register it again yourself")]
    Superseded(Key),
    #[error(
        "the registry is full ({limit} instances); deregister what is not needed, or raise `instances-max`"
    )]
    Full { limit: usize },
    #[error("an instance may have at most {CHECKS_MAX} checks")]
    TooManyChecks,
    #[error("not stored: {0}; nothing was changed, try again")]
    Unavailable(Arc<str>),
    #[error("`{name}` is taken by a record at {by}; choose another service name, or remove the record")]
    Taken { name: ServiceName, by: Box<str> },
}

impl Refusal {
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "not_found",
            Self::Superseded(_) => "superseded",
            Self::Full { .. } => "full",
            Self::Unavailable(_) => "unavailable",
            Self::TooManyChecks => "invalid",
            Self::Taken { .. } => "taken",
        }
    }

    pub fn field(&self) -> Option<&'static str> {
        match self {
            Self::NotFound(_) => Some("id"),
            Self::Superseded(_) => Some("lease_id"),
            Self::Full { .. } | Self::Unavailable(_) => None,
            Self::TooManyChecks => Some("checks"),
            Self::Taken { .. } => Some("service"),
        }
    }
}

/// A fact: what was and what is, when, why and by whom.
#[derive(Clone, Debug)]
pub struct Change {
    /// The store's counter; one more with every change.
    pub revision: u64,
    pub at: Wall,
    pub reason: Reason,
    pub author: Author,
    pub what: What,
}

#[derive(Clone, Debug)]
pub enum What {
    /// One of the two at least is there.
    Instance {
        before: Option<Arc<Instance>>,
        after: Option<Arc<Instance>>,
    },
    Host {
        before: Option<Arc<Host>>,
        after: Option<Arc<Host>>,
    },
    /// A gone instance is no longer remembered.
    Forgotten {
        key: Key,
    },
}

/// Why something changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    Registered,
    Expired,
    Deregistered,
    Disconnected,
    Drained,
    Reported,
    Forgotten,
}

impl Reason {
    pub const ALL: [Self; 7] = [
        Self::Registered,
        Self::Expired,
        Self::Deregistered,
        Self::Disconnected,
        Self::Drained,
        Self::Reported,
        Self::Forgotten,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::Expired => "expired",
            Self::Deregistered => "deregistered",
            Self::Disconnected => "disconnected",
            Self::Drained => "drained",
            Self::Reported => "reported",
            Self::Forgotten => "forgotten",
        }
    }
}

/// Who caused a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Author {
    /// The server itself: an expiry, a verdict, a closed connection.
    Server,
    /// A peer on the Unix socket, by user id.
    User(u32),
    /// A peer on TCP.
    Address(SocketAddr),
}

impl fmt::Display for Author {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server => f.write_str("callsign"),
            Self::User(uid) => write!(f, "uid {uid}"),
            Self::Address(address) => write!(f, "{address}"),
        }
    }
}

/// An instance that left, as long as it is remembered.
#[derive(Clone, Debug)]
pub struct Gone {
    pub instance: Arc<Instance>,
    pub reason: Reason,
    pub at: Wall,
    revision: u64,
}

/// What a store kept of a registry.
#[derive(Debug, Default)]
pub struct Kept {
    /// No revision above it was given out.
    pub revision: u64,
    /// Their leases run from the restart on.
    pub instances: Vec<Instance>,
    pub hosts: Vec<Host>,
    /// Those that left: why, when, and at which revision; oldest first.
    pub gone: Vec<(Instance, Reason, Wall, u64)>,
}

/// One service: its instances by label, and those that left.
#[derive(Debug, Default)]
pub struct Service {
    pub instances: BTreeMap<Label, Arc<Instance>>,
    labels: HashMap<(InstanceId, HostName), Label>,
    /// Oldest first.
    pub gone: VecDeque<Gone>,
}

/// See the module's own words.
#[derive(Debug)]
pub struct Registry {
    services: HashMap<ServiceName, Service>,
    hosts: HashMap<HostName, Arc<Host>>,
    /// The instances on each host: a host's health changes their standing.
    on_host: HashMap<HostName, BTreeSet<Key>>,
    leases: Leases,
    instances: usize,
    instances_max: usize,
    gone: usize,
    /// What to forget and when, oldest first; the revision tells an entry from a later leave of the same key.
    forget: VecDeque<(u64, Key, u64)>,
    forget_after: Duration,
    /// Names that the record tree has, and where it says so.
    taken: HashMap<ServiceName, Box<str>>,
    revision: u64,
}

impl Registry {
    pub fn new(instances_max: usize, forget_after: Duration) -> Self {
        Self {
            services: HashMap::new(),
            hosts: HashMap::new(),
            on_host: HashMap::new(),
            leases: Leases::default(),
            instances: 0,
            instances_max,
            gone: 0,
            forget: VecDeque::new(),
            forget_after,
            taken: HashMap::new(),
            revision: 0,
        }
    }

    /// Refuses services of these names from here on; each with the place that has it, `file:line`.
    pub fn set_taken(&mut self, taken: HashMap<ServiceName, Box<str>>) {
        self.taken = taken;
    }

    /// The revision of the last change applied.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    pub fn instances(&self) -> usize {
        self.instances
    }

    pub fn instances_max(&self) -> usize {
        self.instances_max
    }

    /// We were away for so long, and could not hear the holders: their leases are longer by that, or anew.
    pub fn after_absence(&self, away: Duration, now: Now) {
        self.leases.after_absence(away, now);
    }

    /// Puts back what a store kept: no change, and nothing that anybody waits for.
    pub fn restore(&mut self, kept: Kept, now: Now) {
        self.revision = kept.revision;
        for host in kept.hosts {
            self.hosts.insert(host.name.clone(), Arc::new(host));
        }
        for instance in kept.instances {
            let (key, instance) = (instance.key.clone(), Arc::new(instance));
            self.leases.arm(&instance.deadline);
            self.on_host.entry(key.host.clone()).or_default().insert(key.clone());
            let service = self.services.entry(key.service).or_default();
            service.labels.insert((key.id, key.host), instance.label.clone());
            service.instances.insert(instance.label.clone(), instance);
            self.instances += 1;
        }
        for (instance, reason, at, revision) in kept.gone {
            self.remember(Arc::new(instance), reason, at, revision, now);
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

    pub fn instance(&self, key: &Key) -> Option<&Arc<Instance>> {
        let service = self.services.get(&key.service)?;
        let label = service.labels.get(&(key.id.clone(), key.host.clone()))?;
        service.instances.get(label)
    }

    /// What `command` would change: nothing where it is already so.
    pub fn check(&self, command: &Command, now: Now) -> Result<Vec<(Reason, What)>, Refusal> {
        match command {
            Command::Register(registration) => self.check_register(registration, now).map(|what| vec![what]),
            Command::Deregister(holder) => Ok(match self.held(holder) {
                // Deregistering what is not there is no error, so a retry is safe.
                Err(Refusal::NotFound(_)) => Vec::new(),
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
            Command::Report(report) => self.check_report(report, now),
            Command::Closed { connection, keys } => Ok(keys
                .iter()
                .filter_map(|key| self.instance(key))
                .filter(|instance| instance.lease == Lease::Connection(*connection))
                .map(|instance| (Reason::Disconnected, leave(instance)))
                .collect()),
        }
    }

    fn check_register(&self, registration: &Registration, now: Now) -> Result<(Reason, What), Refusal> {
        let key = &registration.key;
        if let Some(by) = self.taken.get(&key.service) {
            return Err(Refusal::Taken { name: key.service.clone(), by: by.clone() });
        }
        let before = self.instance(key);
        if before.is_none() && self.instances >= self.instances_max {
            return Err(Refusal::Full { limit: self.instances_max });
        }
        let label = match before {
            Some(before) => before.label.clone(),
            None => self.free_label(key),
        };
        let deadline = match registration.lease {
            Lease::Timed(duration) => LeaseCell::timed(key.clone(), duration, now),
            Lease::Connection(_) | Lease::None => LeaseCell::unlimited(key.clone()),
        };
        let known = before.map(|before| before.checks.as_slice()).unwrap_or_default();
        let after = Instance {
            key: key.clone(),
            label,
            location: registration.location.clone(),
            ports: registration.ports.clone(),
            protocol: registration.protocol.clone(),
            tags: registration.tags.clone(),
            meta: registration.meta.clone(),
            weight: registration.weight,
            priority: registration.priority,
            lease: registration.lease,
            lease_id: registration.lease_id,
            deadline,
            checks: merge_checks(known, &registration.checks, now),
            draining: false,
            registered: before.map_or(now.wall, |before| before.registered),
            since: before.map_or(now.wall, |before| before.since),
            revision: 0,
        };
        let what = What::Instance { before: before.cloned(), after: Some(Arc::new(after)) };
        Ok((Reason::Registered, what))
    }

    /// The id's own label, or one that names the host too where another instance has it.
    fn free_label(&self, key: &Key) -> Label {
        let taken = |label: &Label| {
            self.services.get(&key.service).is_some_and(|service| service.instances.contains_key(label))
        };
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

    fn held(&self, holder: &Holder) -> Result<&Arc<Instance>, Refusal> {
        let instance = self.instance(&holder.key).ok_or_else(|| Refusal::NotFound(holder.key.clone()))?;
        match holder.lease_id {
            Some(lease_id) if lease_id != instance.lease_id => Err(Refusal::Superseded(holder.key.clone())),
            _ => Ok(instance),
        }
    }

    fn check_report(&self, report: &Report, now: Now) -> Result<Vec<(Reason, What)>, Refusal> {
        let what = match &report.on {
            Subject::Instance(holder) => {
                let instance = self.held(holder)?;
                let Some(checks) = with_report(&instance.checks, report, now)? else { return Ok(Vec::new()) };
                let since = if worst(&checks) == instance.health() { instance.since } else { now.wall };
                become_(instance, Instance { checks, since, ..(**instance).clone() })
            }
            Subject::Host(name) => {
                let before = self.hosts.get(name).cloned();
                if before.is_none()
                    && !self.on_host.contains_key(name)
                    && self.hosts.len() >= self.instances_max
                {
                    return Err(Refusal::Full { limit: self.instances_max });
                }
                let known = before.as_ref().map(|host| host.checks.as_slice()).unwrap_or_default();
                let Some(checks) = with_report(known, report, now)? else { return Ok(Vec::new()) };
                What::Host { before, after: Some(Arc::new(Host { name: name.clone(), checks })) }
            }
        };
        Ok(vec![(Reason::Reported, what)])
    }

    /// What time has changed by `now`: leases that ran out, gone instances to forget; `most` of each.
    pub fn due(&mut self, now: Now, most: usize) -> Vec<(Reason, What)> {
        let mut due = Vec::new();
        for cell in self.leases.expired(now, most) {
            // A cell that is no longer its instance's belongs to a registration that was replaced.
            if let Some(instance) =
                self.instance(&cell.key).filter(|instance| Arc::ptr_eq(&instance.deadline, &cell))
            {
                due.push((Reason::Expired, leave(instance)));
            }
        }
        let mut over = self.gone.saturating_sub(GONE_MAX);
        let enough = due.len() + most;
        while due.len() < enough
            && let Some((_, key, revision)) =
                self.forget.pop_front_if(|(at_ns, ..)| *at_ns <= now.mono_ns || over > 0)
        {
            let gone = self.services.get(&key.service).map(|service| &service.gone);
            let later = gone.and_then(|gone| gone.iter().find(|gone| gone.instance.key == key));
            match later {
                Some(gone) if gone.revision == revision => over = over.saturating_sub(1),
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

    /// When `due` next has something to say, in nanoseconds of the monotonic clock.
    pub fn next_due_ns(&self) -> Option<u64> {
        let forget = self.forget.front().map(|(at_ns, ..)| *at_ns);
        self.leases.next_ns().into_iter().chain(forget).min()
    }

    /// Gives its revision to a change that `check` or `due` found.
    pub fn change(revision: u64, reason: Reason, mut what: What, author: Author, now: Now) -> Change {
        if let What::Instance { after: Some(after), .. } = &mut what {
            match Arc::get_mut(after) {
                Some(after) => after.revision = revision,
                None => *after = Arc::new(Instance { revision, ..(**after).clone() }),
            }
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
                    self.hosts.insert(after.name.clone(), after.clone());
                }
            }
            What::Forgotten { key } => {
                if let Some(service) = self.services.get_mut(&key.service) {
                    self.gone -= service.forget_key(key);
                    self.drop_empty(&key.service);
                }
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
        let service = self.services.entry(key.service.clone()).or_default();
        let place = (key.id.clone(), key.host.clone());
        if let Some(before) = before {
            service.instances.remove(&before.label);
            self.instances -= 1;
        }
        if let Some(after) = after {
            service.labels.insert(place, after.label.clone());
            service.instances.insert(after.label.clone(), after.clone());
            self.instances += 1;
            self.on_host.entry(key.host.clone()).or_default().insert(key.clone());
            if !before.is_some_and(|before| Arc::ptr_eq(&before.deadline, &after.deadline)) {
                self.leases.arm(&after.deadline);
            }
            self.gone -= service.forget_key(&key);
            return;
        }
        let Some(before) = before else { return };
        service.labels.remove(&place);
        self.remember(before.clone(), change.reason, change.at, change.revision, now);
        if let Some(keys) = self.on_host.get_mut(&key.host) {
            keys.remove(&key);
            if keys.is_empty() {
                self.on_host.remove(&key.host);
            }
        }
    }

    fn remember(&mut self, instance: Arc<Instance>, reason: Reason, at: Wall, revision: u64, now: Now) {
        let key = instance.key.clone();
        let service = self.services.entry(key.service.clone()).or_default();
        // What left twice is remembered as it left last.
        self.gone -= service.forget_key(&key);
        if service.gone.len() == GONE_PER_SERVICE_MAX {
            service.gone.pop_front();
            self.gone -= 1;
        }
        service.gone.push_back(Gone { instance, reason, at, revision });
        self.gone += 1;
        self.forget.push_back((now.mono_ns + nanoseconds(self.forget_after), key, revision));
    }

    fn drop_empty(&mut self, name: &ServiceName) {
        if self
            .services
            .get(name)
            .is_some_and(|service| service.instances.is_empty() && service.gone.is_empty())
        {
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
                let services: BTreeSet<_> =
                    keys.into_iter().flatten().map(|key| key.service.clone()).collect();
                services.into_iter().collect()
            }
            What::Forgotten { key } => vec![key.service.clone()],
        }
    }
}

impl Service {
    /// Takes `key` out of what is remembered; the count of entries that went.
    fn forget_key(&mut self, key: &Key) -> usize {
        let before = self.gone.len();
        self.gone.retain(|gone| gone.instance.key != *key);
        before - self.gone.len()
    }
}

fn leave(instance: &Arc<Instance>) -> What {
    What::Instance { before: Some(instance.clone()), after: None }
}

fn become_(before: &Arc<Instance>, after: Instance) -> What {
    What::Instance { before: Some(before.clone()), after: Some(Arc::new(after)) }
}

/// The checks that a registration lists; a status it does not give is kept, or critical where the check is new.
/// A registration that lists none keeps what was reported.
fn merge_checks(known: &[Check], listed: &[ListedCheck], now: Now) -> Vec<Check> {
    if listed.is_empty() {
        return known.to_vec();
    }
    let merged = listed.iter().map(|(id, status)| {
        let old = known.iter().find(|check| check.id == *id);
        match (old, status) {
            (Some(old), None) => old.clone(),
            (Some(old), Some(status)) if old.status == *status => old.clone(),
            (_, status) => {
                let status = status.unwrap_or(Health::Critical);
                Check { id: id.clone(), status, output: Arc::from(""), since: now.wall }
            }
        }
    });
    merged.collect()
}

/// `checks` with the report in it; `None` where its status is already so: the same verdict again is
/// no change, whatever its output.
fn with_report(checks: &[Check], report: &Report, now: Now) -> Result<Option<Vec<Check>>, Refusal> {
    let mut checks = checks.to_vec();
    let mut output = report.output.clone();
    if output.len() > OUTPUT_OCTETS_MAX {
        let end = (0..=OUTPUT_OCTETS_MAX).rev().find(|&end| output.is_char_boundary(end)).unwrap_or(0);
        output = output[..end].into();
    }
    let verdict = Check { id: report.check.clone(), status: report.status, output, since: now.wall };
    match checks.iter().position(|check| check.id == report.check) {
        Some(position) if checks[position].status == report.status => return Ok(None),
        Some(position) => checks[position] = verdict,
        None if checks.len() >= CHECKS_MAX => return Err(Refusal::TooManyChecks),
        None => checks.push(verdict),
    }
    Ok(Some(checks))
}
