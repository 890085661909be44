//! One running process of a service, as data.
//!
//! An `Instance` is immutable once it is shared; a change makes another one. The only moving part is
//! the deadline of its lease (`lease::LeaseCell`), which a heartbeat moves without a change. No serde
//! here: the socket, the disk and HTTP each have a form of their own.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::lease::LeaseCell;
use crate::name::{HostName, InstanceId, Label, Name, ServiceName, Tag};
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
/// Checks of one instance or host.
pub const CHECKS_MAX: usize = 64;
/// Output kept of a check: what a person reads in `explain`.
pub const OUTPUT_OCTETS_MAX: usize = 4096;
/// Length of a port's, a protocol's or a check's name.
pub const WORD_OCTETS_MAX: usize = 63;
/// Shortest lease: below it, a lost packet or a paused process looks like a death.
pub const LEASE_MS_MIN: u64 = 1000;
/// Longest lease: longer than any maintenance; who wants more wants `none`.
pub const LEASE_MS_MAX: u64 = 7 * 24 * 3600 * 1000;

/// What an instance is known by. Three machines that each register `web` with the id `web` are three instances.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub service: ServiceName,
    pub id: InstanceId,
    pub host: HostName,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.service, self.id, self.host)
    }
}

/// See the module's own words.
#[derive(Clone, Debug)]
pub struct Instance {
    pub key: Key,
    /// The instance's own label in DNS, unique within its service and kept as long as it is registered.
    pub label: Label,
    pub location: Location,
    /// At least one; the first is the one that SRV at the service's own name shows.
    pub ports: Vec<Port>,
    /// The application's protocol (`http`, `h2`, `redis` …).
    pub protocol: Option<Arc<str>>,
    pub tags: Vec<Tag>,
    pub meta: BTreeMap<Arc<str>, Arc<str>>,
    pub weight: u16,
    /// Lower is preferred (RFC 2782).
    pub priority: u16,
    pub lease: Lease,
    /// 64 random bits, new with every registration: a heartbeat that carries an older one is `superseded`.
    pub lease_id: u64,
    /// When the lease ends; shared by every copy of this registration.
    pub deadline: Arc<LeaseCell>,
    pub checks: Vec<Check>,
    pub draining: bool,
    /// When it was first registered, and when its health or drain last changed.
    pub registered: Wall,
    pub since: Wall,
    /// The store's counter at its last change.
    pub revision: u64,
}

impl Instance {
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
    Addresses(Vec<IpAddr>),
    /// A host name that others resolve; SRV points straight at it.
    Target(Name),
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

/// The last verdict of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub id: Arc<str>,
    pub status: Health,
    pub output: Arc<str>,
    /// Since when the status is what it is.
    pub since: Wall,
}

/// Health is a fold over checks: maintenance outranks the rest, then the worst counts.
pub fn worst(checks: &[Check]) -> Health {
    checks.iter().map(|check| check.status).max().unwrap_or(Health::Passing)
}

/// A machine that instances run on, with checks of its own that count for every one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    pub name: HostName,
    pub checks: Vec<Check>,
}
