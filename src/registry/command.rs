//! What may be asked of the registry, and why it may be refused.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use thiserror::Error;

use super::PlainSet;
use crate::access::{Denied, Owner, TOKENS_MAX, Token, Verb};
use crate::check::{CHECKS_MAX, Check, Definition, Kind};
use crate::instance::{ConsulFacts, Health, Host, Instance, Key, Lease, Location, Port, ServiceSettings};
use crate::name::{HostName, ServiceName, Tag};
use crate::update::{self, Update};

/// What may be asked of the registry; a refusal changes nothing.
#[derive(Clone, Debug)]
pub enum Command {
    Register(Box<Registration>),
    Deregister(Holder),
    Drain(Holder),
    /// A heartbeat of an instance that another node watches over: from here on we do.
    Claim(Holder),
    Report(Report),
    /// One more check, or the same one anew.
    AddCheck {
        on: Subject,
        listed: ListedCheck,
    },
    RemoveCheck {
        on: Subject,
        check: Arc<str>,
    },
    RegisterHost(Box<HostRegistration>),
    /// The host's own facts and checks; its instances stay.
    DeregisterHost(HostName),
    Configure(Configuration),
    CreateToken(Arc<Token>),
    /// By its name.
    RevokeToken(Arc<str>),
    /// A thing as another registry has it.
    Import(Box<Import>),
    /// Set and delete records (RFC 2136), all or nothing.
    Update(Box<Update>),
    /// A connection ended: what is bound to it and still held by it leaves.
    Closed {
        connection: u64,
        keys: Vec<Key>,
    },
}

impl Command {
    /// True where it is checked against the records of the zone, and not against the registry alone.
    pub fn is_of_records(&self) -> bool {
        match self {
            Self::Update(_) => true,
            Self::Import(import) => matches!(import.what, Imported::Records(_)),
            _ => false,
        }
    }

    /// What somebody must be allowed who asks for it.
    pub fn verb(&self) -> Verb {
        match self {
            // What an UPDATE deletes is asked about where that is known.
            Self::Register(_) | Self::RegisterHost(_) | Self::Claim(_) | Self::Update(_) => Verb::Register,
            Self::Deregister(_) | Self::Drain(_) | Self::DeregisterHost(_) | Self::Closed { .. } => {
                Verb::Deregister
            }
            Self::Report(_) | Self::AddCheck { .. } | Self::RemoveCheck { .. } => Verb::Report,
            Self::Configure(_) | Self::CreateToken(_) | Self::RevokeToken(_) | Self::Import(_) => Verb::Admin,
        }
    }
}

/// Everything that a registration says, each part checked at the edge.
#[derive(Clone, Debug, PartialEq)]
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
    /// What becomes of the checks that it has and that are not listed.
    pub unlisted: Unlisted,
    /// The service file that says so.
    pub source: Option<Arc<str>>,
    pub consul: Option<Arc<ConsulFacts>>,
    /// Nobody is told the lease's id: registering the same again is no change.
    pub anonymous: bool,
    /// The same id under another service, which the registration takes the place of.
    pub displaces: Option<Key>,
    /// Who registers it: put in by the writer, which knows who asked.
    pub owner: Option<Arc<Owner>>,
}

/// What becomes of the checks that an instance has and that its registration does not list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unlisted {
    Stay,
    Go,
    /// These go, by their ids, and others stay.
    TheseGo(Vec<Arc<str>>),
}

/// A check as a registration lists it.
#[derive(Clone, Debug, PartialEq)]
pub struct ListedCheck {
    pub id: Arc<str>,
    /// Of a check that is probed, what it is until the first verdict; of any other, what it is from now on. Where it is left out,
    /// the check keeps the status that it has, and is critical where it is new.
    pub status: Option<Health>,
    pub output: Arc<str>,
    pub definition: Arc<Definition>,
}

/// What is to be another way in a service's settings; what is left out stays.
#[derive(Clone, Debug)]
pub struct Configuration {
    pub service: ServiceName,
    /// Everything is as the server's configuration says, but for what is given here.
    pub reset: bool,
    pub given: ServiceSettings,
}

impl Registration {
    /// One that says no more than that; it leaves the checks alone that the instance has.
    pub fn new(key: Key, location: Location, ports: Vec<Port>, lease: Lease, lease_id: u64) -> Self {
        Self {
            key,
            location,
            ports,
            protocol: None,
            tags: Vec::new(),
            meta: BTreeMap::new(),
            weight: 1,
            priority: 0,
            lease,
            lease_id,
            checks: Vec::new(),
            unlisted: Unlisted::Stay,
            source: None,
            consul: None,
            anonymous: false,
            displaces: None,
            owner: None,
        }
    }

    /// True where `instance` is what this says already, whatever has been reported on it since, and whoever has drained it.
    pub fn describes(&self, instance: &Instance) -> bool {
        self.key == instance.key
            && self.location == instance.location
            && *self.ports == *instance.ports
            && (self.weight, self.priority) == (instance.weight, instance.priority)
            && self.lease == instance.lease
            && self.protocol == instance.protocol
            && (&self.tags, &self.meta) == (&instance.tags, &instance.meta)
            && (&self.source, &self.consul) == (&instance.source, &instance.consul)
            && self.checks.iter().all(|listed| instance.checks.iter().any(|check| listed.is_of(check)))
            && self.unlisted_of(instance).all(|check| check.definition.kind == Kind::Reported)
    }

    /// The checks of `instance` that this does not list.
    pub fn unlisted_of<'a>(&'a self, instance: &'a Instance) -> impl Iterator<Item = &'a Check> {
        instance.checks.iter().filter(|check| !self.checks.iter().any(|listed| listed.id == check.id))
    }
}

impl ListedCheck {
    /// True where it defines what `check` is already, whatever the status.
    pub fn is_of(&self, check: &Check) -> bool {
        self.id == check.id && self.definition == check.definition
    }

    /// A check that somebody reports.
    pub fn reported(id: &str, status: Option<Health>) -> Self {
        Self { id: id.into(), status, output: "".into(), definition: Definition::reported() }
    }
}

/// What is said of a host; its checks stay as they are.
#[derive(Clone, Debug)]
pub struct HostRegistration {
    pub name: HostName,
    pub addresses: Vec<IpAddr>,
    pub meta: BTreeMap<Arc<str>, Arc<str>>,
    pub id: Option<Arc<str>>,
}

/// A thing of another registry, and what is to become of the one that is here.
#[derive(Clone, Debug)]
pub struct Import {
    pub what: Imported,
    pub how: How,
}

/// See [`Import`]. Revisions and label are as there; those that it gets here are the registry's to say.
#[derive(Clone, Debug)]
pub enum Imported {
    Instance(Instance),
    Host(Host),
    Settings(ServiceName, ServiceSettings),
    Token(Arc<Token>),
    Records(PlainSet),
}

/// What an import may do to what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Nothing: only what is not there is put in.
    Add,
    /// Change what came from the same place: the source of an instance, the mark of a host.
    Update,
    /// Change whatever is another way.
    Replace,
    /// Take away what came from the same place.
    Remove,
}

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
    pub of: ReportOf,
}

/// Which check a report may be of.
#[derive(Clone, Debug)]
pub enum ReportOf {
    /// Any; one that is not there is made.
    Any,
    /// One that is there.
    Known,
    /// One that is still what was probed: a verdict on what it was before is none on what it is now.
    Probed(Arc<Definition>),
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
    #[error(
        "{who} may have {limit} instances registered at once, and no more; deregister what is not needed, raise `identity-instances-max`, or ask for the verb `admin`"
    )]
    OwnsTooMany { who: String, limit: usize },
    #[error("an instance or a host may have at most {CHECKS_MAX} checks; remove one that is not needed")]
    TooManyChecks,
    #[error("{1} has no check `{0}`; `callsign ls` shows those it has")]
    NoCheck(Arc<str>, String),
    #[error("{limit} services have settings, and no more may; reset one that is not needed")]
    TooManySettings { limit: usize },
    #[error("failover would come back to where it began: {}; leave one of them out", way(.0))]
    FailoverCycle(Vec<ServiceName>),
    #[error("not stored, so nothing was changed: {0}")]
    Unavailable(Arc<str>),
    #[error("whether it is stored is not known: {0}; say it again")]
    Unknown(Arc<str>),
    #[error("there is a token `{0}` already; revoke it first, or choose another name")]
    TokenExists(Arc<str>),
    #[error("there is no token `{0}`; `callsign token list` shows those there are")]
    NoToken(Arc<str>),
    #[error("there are {TOKENS_MAX} tokens, and no more may be; revoke those that are not needed")]
    TooManyTokens,
    #[error("{0} is here already, and otherwise; it stays as it is")]
    Differs(String),
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error("`{name}` is taken by a record at {by}; choose another service name, or remove the record")]
    Taken { name: ServiceName, by: Box<str> },
    #[error(transparent)]
    Update(#[from] update::Refused),
}

fn way(services: &[ServiceName]) -> String {
    services.iter().map(ServiceName::as_str).collect::<Vec<&str>>().join(" to ")
}

impl Refusal {
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFound(_) | Self::NoCheck(..) | Self::NoToken(_) => "not_found",
            Self::Superseded(_) => "superseded",
            Self::Full { .. }
            | Self::OwnsTooMany { .. }
            | Self::TooManySettings { .. }
            | Self::TooManyTokens => "full",
            Self::Unavailable(_) | Self::Unknown(_) => "unavailable",
            Self::TooManyChecks | Self::FailoverCycle(_) => "invalid",
            Self::Taken { .. } | Self::TokenExists(_) => "taken",
            Self::Differs(_) => "differs",
            Self::Denied(_) => "denied",
            Self::Update(_) => "update",
        }
    }

    pub fn field(&self) -> Option<&'static str> {
        match self {
            Self::NotFound(_) => Some("id"),
            Self::Superseded(_) => Some("lease_id"),
            Self::Full { .. } | Self::OwnsTooMany { .. } | Self::Unavailable(_) | Self::Unknown(_) => None,
            Self::TooManyTokens | Self::Denied(_) | Self::Differs(_) | Self::Update(_) => None,
            Self::TokenExists(_) | Self::NoToken(_) => Some("name"),
            Self::TooManyChecks => Some("checks"),
            Self::FailoverCycle(_) => Some("failover"),
            Self::NoCheck(..) => Some("check"),
            Self::Taken { .. } | Self::TooManySettings { .. } => Some("service"),
        }
    }
}
