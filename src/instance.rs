//! One running process of a service, as data.
//!
//! An `Instance` is immutable once it is shared; a change makes another one. The only moving part is
//! the deadline of its lease (`lease::LeaseCell`), which a heartbeat moves without a change. No serde
//! here: the socket, the disk and HTTP each have a form of their own.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use crate::access::Owner;
use crate::balance::{Balance, SrvWeights};
use crate::check::{Check, worst};
use crate::lease::LeaseCell;
use crate::name::{HostName, InstanceId, Label, Name, ServiceName, Tag, Unfit, parse_target};
use crate::time::Wall;

/// Addresses of one instance: a machine with more interfaces than this registers the ones that matter.
pub const ADDRESSES_MAX: usize = 16;
/// Ports of one instance.
pub const PORTS_MAX: usize = 32;
/// Tags of one instance; Consul users put routing rules here, about ten each.
pub const TAGS_MAX: usize = 64;
/// Metadata pairs of one instance, and their sizes in octets: Consul's limits.
pub const META_MAX: usize = 64;
pub const META_KEY_OCTETS_MAX: usize = 128;
pub const META_VALUE_OCTETS_MAX: usize = 512;
/// Services that may answer in one's stead.
pub const FAILOVER_MAX: usize = 8;
/// Length of a port's, a protocol's or a check's name.
pub const WORD_OCTETS_MAX: usize = 63;
/// Shortest lease: below it, a lost packet or a paused process looks like a death.
pub const LEASE_MS_MIN: u64 = 1000;
/// Longest lease: longer than any maintenance; who wants more wants `none`.
pub const LEASE_MS_MAX: u64 = 7 * 24 * 3600 * 1000;

/// What an instance is known by. Three machines that each register `web` with the id `web` are three instances.
///
/// Cloning is cheap: the parts are shared. Leases and every index hold an instance's key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Arc<KeyParts>);

/// The parts of a key; a key reads as if it had them itself.
#[derive(Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyParts {
    pub service: ServiceName,
    pub id: InstanceId,
    pub host: HostName,
}

impl Key {
    pub fn new(service: ServiceName, id: InstanceId, host: HostName) -> Self {
        Self(Arc::new(KeyParts { service, id, host }))
    }
}

impl Deref for Key {
    type Target = KeyParts;

    fn deref(&self) -> &KeyParts {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.service, self.id, self.host)
    }
}

/// See the module's own words.
///
/// A million of them have to fit: what most do not have is in `extras`, and reads as if the instance had it itself.
#[derive(Clone, Debug)]
pub struct Instance {
    pub key: Key,
    /// The instance's own label in DNS, unique within its service and kept as long as it is registered.
    pub label: Label,
    pub location: Location,
    /// The first is the one that SRV at the service's own name shows; none where it was registered without.
    pub ports: Few<Port>,
    pub weight: u16,
    /// Lower is preferred (RFC 2782).
    pub priority: u16,
    pub lease: Lease,
    /// 64 random bits, new with every registration: a heartbeat that carries an older one is `superseded`.
    pub lease_id: u64,
    /// When the lease ends; shared by every copy of this registration.
    pub deadline: Arc<LeaseCell>,
    pub draining: bool,
    /// When it was first registered, and when its health or drain last changed.
    pub registered: Wall,
    pub since: Wall,
    /// The store's counter when it was registered first, and at its last change.
    pub created: u64,
    pub revision: u64,
    /// Who may change it; none: whoever may change its service.
    pub owner: Option<Arc<Owner>>,
    /// None where all of it is empty.
    pub extras: Option<Arc<Extras>>,
}

/// What most instances do not have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// The application's protocol (`http`, `h2`, `redis` …).
    pub protocol: Option<Arc<str>>,
    pub tags: Vec<Tag>,
    pub meta: BTreeMap<Arc<str>, Arc<str>>,
    pub checks: Vec<Check>,
    /// The service file that defines it.
    pub source: Option<Arc<str>>,
    /// What Consul's API has of an instance and nothing else needs, where it came that way.
    pub consul: Option<Arc<ConsulFacts>>,
}

/// What an instance without extras has.
static NO_EXTRAS: Extras = Extras {
    protocol: None,
    tags: Vec::new(),
    meta: BTreeMap::new(),
    checks: Vec::new(),
    source: None,
    consul: None,
};

impl Extras {
    /// As an instance keeps them.
    pub fn kept(self) -> Option<Arc<Self>> {
        (self != NO_EXTRAS).then(|| Arc::new(self))
    }
}

impl Deref for Instance {
    type Target = Extras;

    fn deref(&self) -> &Extras {
        self.extras.as_deref().unwrap_or(&NO_EXTRAS)
    }
}

/// Kept so that a client reads what it wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsulFacts {
    /// As given; empty where it is its host's.
    pub address: Arc<str>,
    /// By label: an address and a port.
    pub tagged_addresses: BTreeMap<Arc<str>, (Arc<str>, u16)>,
    /// The weight while a check warns.
    pub weight_warning: u16,
    pub enable_tag_override: bool,
    /// Its host has no agent of ours: it was registered through the catalog.
    pub through_catalog: bool,
}

impl Instance {
    /// True where a reader sees no difference: only the lease began anew.
    pub fn says_same(&self, other: &Self) -> bool {
        self.key == other.key
            && self.label == other.label
            && self.location == other.location
            && self.ports == other.ports
            && (self.weight, self.priority) == (other.weight, other.priority)
            && self.lease == other.lease
            && self.draining == other.draining
            && self.extras == other.extras
    }

    /// Health by its own checks: maintenance, else the worst; passing where there is none.
    pub fn health(&self) -> Health {
        worst(&self.checks)
    }

    /// The port named `name`, or the first where `name` is `None`.
    pub fn port(&self, name: Option<&str>) -> Option<&Port> {
        match name {
            None => self.ports.first(),
            Some(name) => self.ports.iter().find(|port| port.name.as_deref() == Some(name)),
        }
    }

    pub fn addresses(&self) -> &[IpAddr] {
        match &self.location {
            Location::Addresses(addresses) => addresses,
            Location::Target(_) => &[],
        }
    }
}

/// Where an instance is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// At least one, no duplicates, in the order given.
    Addresses(Few<IpAddr>),
    /// A host name that others resolve; SRV points straight at it.
    Target(Name),
}

/// A list that nearly always has one entry, which is then in place and no allocation of its own.
#[derive(Clone)]
pub enum Few<T> {
    One(T),
    Several(Box<[T]>),
}

impl<T> From<Vec<T>> for Few<T> {
    fn from(mut list: Vec<T>) -> Self {
        match list.pop() {
            Some(only) if list.is_empty() => Self::One(only),
            last => Self::Several(list.into_iter().chain(last).collect()),
        }
    }
}

impl<T> Deref for Few<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Self::One(only) => std::slice::from_ref(only),
            Self::Several(list) => list,
        }
    }
}

impl<T: PartialEq> PartialEq for Few<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: Eq> Eq for Few<T> {}

impl<T: fmt::Debug> fmt::Debug for Few<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

/// A port that an instance accepts on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    pub name: Option<Arc<str>>,
    /// 1 to 65535.
    pub number: u16,
    pub transport: Transport,
}

/// The transport of a port: `_tcp` or `_udp` in an owner name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Udp];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    /// `_tcp` or `_udp`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Tcp => "_tcp",
            Self::Udp => "_udp",
        }
    }
}

/// How long a registration lasts without a word from its holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    /// `LEASE_MS_MIN` to `LEASE_MS_MAX`, from each heartbeat.
    Timed(Duration),
    /// As long as the connection that registered it; the number is the connection's.
    Connection(u64),
    /// Until it is deregistered.
    None,
}

/// One word on whether an instance can serve. The order is the order of severity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    Passing,
    /// Still in the answers.
    Warning,
    Critical,
    /// Somebody said so; outranks whatever the checks say.
    Maintenance,
}

impl Health {
    pub const ALL: [Self; 4] = [Self::Passing, Self::Warning, Self::Critical, Self::Maintenance];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passing => "passing",
            Self::Warning => "warning",
            Self::Critical => "critical",
            Self::Maintenance => "maintenance",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|health| health.as_str() == text)
    }

    pub fn in_answers(self) -> bool {
        self <= Self::Warning
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A machine that instances run on, with checks of its own that count for every one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    pub name: HostName,
    /// Empty where nobody said: then it is known by its instances alone.
    pub addresses: Vec<IpAddr>,
    pub meta: BTreeMap<Arc<str>, Arc<str>>,
    /// Consul's node id, where it was given one.
    pub id: Option<Arc<str>>,
    pub checks: Vec<Check>,
    /// The store's counter when it was made, and at its last change.
    pub created: u64,
    pub revision: u64,
}

impl Host {
    /// A host that nobody has said anything of.
    pub fn new(name: HostName) -> Self {
        let (addresses, meta, checks) = (Vec::new(), BTreeMap::new(), Vec::new());
        Self { name, addresses, meta, id: None, checks, created: 0, revision: 0 }
    }

    /// True where a reader sees no difference.
    pub fn says_same(&self, other: &Self) -> bool {
        (&self.name, &self.addresses, &self.meta, &self.id, &self.checks)
            == (&other.name, &other.addresses, &other.meta, &other.id, &other.checks)
    }
}

/// What is set for a service, whatever its instances say; `None` is as the server's configuration says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceSettings {
    /// TTL of its records in seconds, 0 to 300.
    pub ttl: Option<u32>,
    pub balance: Option<Balance>,
    /// Records of an answer at most; 0: any number.
    pub max_answers: Option<u16>,
    /// Who answers while nothing is live, in this order; at most `FAILOVER_MAX`.
    pub failover: Option<Arc<[Fallback]>>,
    pub srv_weights: Option<SrvWeights>,
    /// Percent of its instances; when more go bad at once, they are held in the answers. 0: never.
    pub guard: Option<u8>,
    /// How long they are held at most.
    pub guard_for: Option<Duration>,
}

/// Who answers for a service that has nothing live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fallback {
    Service(ServiceName),
    /// A name that is not the registry's: whether it is live is not known here, so it is the last.
    Name(Name),
}

impl Fallback {
    /// `web-standby`, or `cache.other.example`.
    pub fn parse(text: &str) -> Result<Self, Unfit> {
        match text.contains('.') {
            true => parse_target(text).map(Self::Name),
            false => ServiceName::parse(text).map(Self::Service),
        }
    }
}

impl fmt::Display for Fallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(service) => write!(f, "{service}"),
            Self::Name(name) => write!(f, "{name}"),
        }
    }
}

impl ServiceSettings {
    /// These, but for what `given` says.
    pub fn with(self, given: Self) -> Self {
        Self {
            ttl: given.ttl.or(self.ttl),
            balance: given.balance.or(self.balance),
            max_answers: given.max_answers.or(self.max_answers),
            failover: given.failover.or(self.failover),
            srv_weights: given.srv_weights.or(self.srv_weights),
            guard: given.guard.or(self.guard),
            guard_for: given.guard_for.or(self.guard_for),
        }
    }

    /// The percentage over which the service is guarded; none where it never is.
    pub fn guarded_over(&self) -> Option<u8> {
        self.guard.filter(|share| *share > 0)
    }

    pub fn fallbacks(&self) -> &[Fallback] {
        self.failover.as_deref().unwrap_or_default()
    }
}
