//! What the server says.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::access::{NameForm, TokenShown, TokensForm, WelcomeForm};
use super::checks::CheckForm;
use super::moving::{ImportedForm, Line};
use super::nodes::{NodesReply, RingReply};
use super::request::FedForm;
use crate::access::Denied;
use crate::name::fnv;
use crate::registry::Refusal;

/// What a client is answered; one object per line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reply {
    Welcome(WelcomeForm),
    Registered(Box<RegisteredForm>),
    Renewed(RenewedForm),
    Deregistered(DeregisteredForm),
    Draining(NamedForm),
    Reported(ReportedForm),
    Settings(SettingsReply),
    Found(InstancesForm),
    Instances(InstancesForm),
    Snapshot(InstancesForm),
    Change(Box<ChangeForm>),
    Fed(FedForm),
    Explained(ExplainedForm),
    Log(LogPage),
    At(InstancesForm),
    Availability(Box<AvailabilityReply>),
    Record(RecordForm),
    Backup(BackupForm),
    Exported(Line),
    Imported(ImportedForm),
    Status(Box<ServerForm>),
    Nodes(NodesReply),
    Ring(RingReply),
    Created(Box<TokenShown>),
    Tokens(TokensForm),
    Revoked(NameForm),
    Error(Problem),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RegisteredForm {
    pub service: String,
    pub id: String,
    pub host: String,
    /// Empty for an instance with a `target`.
    pub address: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    pub lease: String,
    pub lease_id: String,
    /// The instance's own name.
    pub dns: String,
    pub revision: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RenewedForm {
    pub service: String,
    pub id: String,
    pub lease: String,
    /// This node cannot reach the store: where other nodes can, they do not hear of the heartbeat.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut_off: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeregisteredForm {
    pub service: String,
    pub id: String,
    /// As the server took it, where the request did not say; none from a server of another age.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    pub existed: bool,
    pub revision: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NamedForm {
    pub service: String,
    pub id: String,
    pub revision: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReportedForm {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    pub host: String,
    pub check: String,
    pub status: String,
    pub revision: u64,
}

/// A service's settings as they are now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SettingsReply {
    pub service: String,
    #[serde(flatten)]
    pub settings: SettingsShown,
    pub revision: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstancesForm {
    pub instances: Vec<InstanceForm>,
    pub revision: u64,
    /// Where there are more: the `after` of the next request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// An instance as it is shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstanceForm {
    pub service: String,
    pub id: String,
    pub host: String,
    /// Its own label under the service's name.
    pub label: String,
    pub address: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Left out where it was registered without one, as Consul's API allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    pub ports: Vec<PortShown>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    pub tags: Vec<String>,
    pub meta: BTreeMap<String, String>,
    pub weight: u16,
    pub priority: u16,
    pub lease: String,
    /// Milliseconds until the lease ends, where it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_left_ms: Option<u64>,
    pub health: String,
    pub checks: Vec<CheckShown>,
    pub draining: bool,
    /// In the answers by its own merit.
    pub live: bool,
    /// In the answers though it is not live: the guard of its service holds it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
    /// The service file that defines it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    pub registered: String,
    pub since: String,
    pub revision: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PortShown {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub port: u16,
    pub transport: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckShown {
    pub id: String,
    pub status: String,
    pub output: String,
    pub since: String,
    /// How it is run; left out where it is only reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub definition: Option<Box<CheckForm>>,
}

/// One change as a watcher sees it; `instance` is what is now, left out where the instance is gone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChangeForm {
    pub revision: u64,
    pub at: String,
    pub reason: String,
    pub author: String,
    /// Left out, with `id`, for a change of a host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    pub host: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceForm>,
    /// The checks of the host after the change of a host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checks: Option<Vec<CheckShown>>,
    /// Checks that this change says the reason of, while their status is what it was.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub explained: Vec<String>,
    /// The settings of the service after a change of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<SettingsShown>,
    /// The name of the token that was made or revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Plain records after an UPDATE set or deleted them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records: Option<RecordsShown>,
}

/// Plain records of one owner and type; none where they are deleted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordsShown {
    pub owner: String,
    /// `A`, or `TYPE` and its number where it has no name here.
    pub rtype: String,
    /// Seconds.
    pub ttl: u32,
    /// One text a record; `\\# octets hex` where it has no other form here (RFC 3597 section 5).
    pub data: Vec<String>,
    /// How long they stay unless they are set again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<String>,
}

/// What is set for a service; what is left out is as the server's configuration says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SettingsShown {
    /// Seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balance: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_answers: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failover: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub srv_weights: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard_for: Option<String>,
}

/// A part of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogPage {
    /// Newest first.
    pub changes: Vec<ChangeForm>,
    /// Where there may be more: the `before` of the next request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

/// The figures of availability; `docs/availability.md` defines each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AvailabilityReply {
    /// Live instances and services with one, of registered instances and known services; 0 to 1.
    pub ratio: f64,
    pub instances: u64,
    pub instances_live: u64,
    pub services: u64,
    pub services_live: u64,
    /// Of this server's queries; left out before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_time: Option<MeanForm>,
    /// Of all probes, or of the one service's; left out before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe_time: Option<MeanForm>,
    /// In order of their names, at most `LIST_MAX`.
    pub of_services: Vec<LiveTimeForm>,
    /// Where one service is asked for: those that are registered first, at most `LIST_MAX`.
    pub of_instances: Vec<LiveTimeForm>,
    /// Instances that are not among them, for there are too many.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: u64,
    /// Where there are more services: the `after` of the next request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A mean over what was timed since the server started.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct MeanForm {
    pub mean_us: f64,
    /// How many were timed.
    pub timed: u64,
}

/// Live time over registered time, of a service or an instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LiveTimeForm {
    pub service: String,
    /// Left out, with `host`, for a service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// In the answers now; of a service, that some instance is.
    pub live: bool,
    /// Registered now; of a service, known.
    pub registered: bool,
    /// Probes of the service's instances.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe_time: Option<MeanForm>,
    pub spans: Vec<SpanForm>,
}

/// The time before now that a figure is about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SpanForm {
    /// `1h`, `24h` or `30d`.
    pub span: String,
    pub live_ms: i64,
    pub registered_ms: i64,
    /// Left out where it was never registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
    /// From when on, where the log does not reach back over the whole span.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
}

pub(super) fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// One record of a backup; key and value in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordForm {
    pub table: String,
    pub key: String,
    pub value: String,
}

impl RecordForm {
    /// The digest of a backup after this record, where it was `before` without: FNV-1a over all of them, in order.
    pub fn digest(&self, before: u64) -> u64 {
        let parts = [self.table.as_bytes(), self.key.as_bytes(), self.value.as_bytes()];
        fnv(&[&before.to_be_bytes(), parts[0], parts[1], parts[2]])
    }
}

/// The end of a backup: a file without it is not whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupForm {
    pub records: u64,
    /// `RecordForm::digest` of the last record, from 0 on; 16 hexadecimal digits.
    pub digest: String,
}

/// Why a name is, or is not, in DNS.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExplainedForm {
    pub name: String,
    /// The name exists.
    pub known: bool,
    /// One sentence: what a query for the name gets now, and why.
    pub verdict: String,
    pub instances: Vec<ExplainedInstance>,
    /// A known service that is spelt nearly so, where this one is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nearest: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExplainedInstance {
    pub id: String,
    pub host: String,
    pub in_answers: bool,
    /// The rule that kept it in or out.
    pub rule: String,
}

/// One of the servers that share a registry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeForm {
    pub name: String,
    pub addresses: Vec<IpAddr>,
    /// The port of its DNS.
    pub dns: u16,
    /// Where it takes registrations over TCP: `ADDR:PORT`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listen: Vec<SocketAddr>,
    /// Of 16,384: its part of what a dead node leaves.
    pub slots: usize,
    /// It is the server that answers.
    pub own: bool,
}

/// The server as it is now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServerForm {
    pub version: String,
    pub ready: bool,
    pub store: String,
    /// Why the store takes nothing now; left out while it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_trouble: Option<String>,
    /// For how long the store could not be followed, and answers are those of that time, in seconds; left out while it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_s: Option<u64>,
    /// Services that are guarded against mass death now, in order of their names; at most `LIST_MAX`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub guarded: Vec<String>,
    /// The servers that share the registry, by name; left out where it is this one's alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeForm>,
    /// What the server has given up at its start: `files`, or `nothing` and why; left out by a server that does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confined: Option<String>,
    pub domains: Vec<String>,
    pub listeners: Vec<String>,
    pub zones: Vec<String>,
    /// Zone files that are not served as they are now: what is wrong, with file and line; left out where nothing is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub zone_troubles: Vec<String>,
    /// Zones that are signed (DNSSEC), and with which keys; left out where none is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signed: Vec<SignedForm>,
    /// What that took since the start, all zones together; left out with them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signatures: Option<SignaturesForm>,
    pub services: u64,
    pub instances: u64,
    pub live: u64,
    pub revision: u64,
    pub serial: u32,
    pub uptime_s: u64,
}

/// A zone that is signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedForm {
    pub zone: String,
    /// The one that signs first.
    pub keys: Vec<KeyForm>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyForm {
    pub tag: u16,
    /// `signing`, `coming`, `ready` or `leaving`, as `callsign dnssec status` has it.
    pub stage: String,
    /// Since it was made.
    pub age_s: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignaturesForm {
    pub made: u64,
    /// There to be sent again.
    pub kept: u64,
    /// Replies over UDP that were sent to TCP, for too many were made in that second.
    pub put_off: u64,
}

/// An error as the client gets it. The code is stable; the message says what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Problem {
    pub code: Cow<'static, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    pub message: String,
}

impl Problem {
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code: Cow::Borrowed(code), field: None, message: message.into() }
    }

    /// Nothing is done any more.
    pub fn stopping() -> Self {
        Self::new("unavailable", "the server is stopping; try again when it is back")
    }

    /// A field that does not fit; the message begins with the field's name.
    pub fn invalid(field: &str, what: impl fmt::Display) -> Self {
        Self { code: "invalid".into(), field: Some(field.to_owned()), message: format!("{field} {what}") }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self {
            code: Cow::Borrowed(refusal.code()),
            field: refusal.field().map(str::to_owned),
            message: refusal.to_string(),
        }
    }
}

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Self {
        Refusal::from(denied).into()
    }
}
