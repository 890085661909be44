//! The registration protocol: one JSON object per line, each way.
//!
//! A request is an object with one member, its verb: `{"register":{"service":"web","port":8080}}`. Replies
//! come in the order of the requests. This file is the protocol: its forms and its limits; `intake` leads
//! from a form to what the registry knows, `shown` back. Sockets are `socket`'s affair; the CLI and the tests use the same
//! forms from the other side (`client`).
//!
//! Every complaint names the field and says what to do. An unknown field is an error: a misspelt
//! `tags` must not be a registration without tags.

mod access;
mod checks;
mod intake;
pub mod moving;
mod nodes;
mod settings;
mod shapes;
mod shown;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::access::{
    CreateForm, HelloForm, NameForm, Secret, TokenForm, TokenShown, TokensForm, WelcomeForm, token_name,
};
pub use self::checks::CheckForm;
pub use self::intake::{Filter, Peer, unusable};
use self::moving::{ImportForm, ImportedForm, Line};
pub use self::nodes::{NodeShown, NodesReply, PlacedForm, RingForm, RingReply, ShareForm};
pub use self::shapes::{Pairs, PortForm, Several};
pub use self::shown::{lease_id_text, lease_text};
use crate::access::Denied;
use crate::name::fnv;
use crate::registry::Refusal;

/// Longest line: a registration with every list full is about 70 KiB, its checks aside.
pub const FRAME_OCTETS_MAX: usize = 96 * 1024;
/// Instances in one reply; the rest of a list follows with `after`, that of a snapshot in further lines.
pub const LIST_MAX: usize = 1000;
/// Octets of check output in one reply: a thousand instances may carry 256 MiB of it.
pub const LIST_OUTPUT_OCTETS_MAX: usize = 4 << 20;
/// The lease of a registration that names none.
pub const LEASE_DEFAULT: Duration = Duration::from_secs(15);
/// The check that a `report` without one speaks of.
pub const CHECK_DEFAULT: &str = "report";

/// What a client asks; one object per line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Request<'a> {
    Register(Box<RegisterForm>),
    #[serde(borrow)]
    Heartbeat(HolderForm<'a>),
    Deregister(HolderForm<'a>),
    Drain(HolderForm<'a>),
    Report(Box<ReportForm>),
    Settings(SettingsForm),
    Lookup(LookupForm),
    List(Box<FilterForm>),
    Watch(Box<FilterForm>),
    Explain(ExplainForm),
    Log(LogForm),
    At(AtForm),
    Availability(AvailabilityForm),
    Feed(FeedForm),
    Backup(StatusForm),
    Export(StatusForm),
    Import(Box<ImportForm>),
    Status(StatusForm),
    Nodes(StatusForm),
    Ring(RingForm),
    Hello(HelloForm),
    Token(TokenForm),
}

impl Request<'_> {
    /// True where it comes to the same however often it is said: not where a secret is made, and not where the second time
    /// is told that there is nothing left to revoke.
    pub fn may_be_repeated(&self) -> bool {
        !matches!(self, Self::Token(TokenForm::Create(_) | TokenForm::Revoke(_)))
    }
}

/// A registration as it is written; `None` is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegisterForm {
    pub service: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Several>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<Pairs<PortForm>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meta: Option<Pairs<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i64>,
    /// `15s`, `connection` or `none`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checks: Option<Vec<CheckForm>>,
}

/// An instance, named by who holds it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HolderForm<'a> {
    #[serde(borrow)]
    pub service: Cow<'a, str>,
    #[serde(borrow)]
    pub id: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// As `registered` returned it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_id: Option<String>,
}

/// The verdict of a check: of an instance, or of a host where `service` and `id` are left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReportForm {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<String>,
    pub status: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
}

/// The settings of a service: with nothing else they are shown, else what is given is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SettingsForm {
    pub service: String,
    /// TTL of its records, `0s` to `5m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<String>,
    /// `weighted`, `rotate`, `first`, `nearest`, `affinity`; `one`, or `one:rotate` and so on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balance: Option<String>,
    /// Records of an answer at most; 0: any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_answers: Option<i64>,
    /// Who answers while nothing is live, in this order: services, and last perhaps a name elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failover: Option<Vec<String>>,
    /// `plain`, or `haproxy`: SRV weights that HAProxy computes the right ones from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub srv_weights: Option<String>,
    /// `50%`: when more of its instances go bad at once, they are held in the answers; `off`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<String>,
    /// How long they are held at most, `1s` to `24h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard_for: Option<String>,
    /// Everything that is not given here is as the server's configuration says.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reset: bool,
}

/// Instances by id; a service or a host narrows the search.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LookupForm {
    pub id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

/// Which instances; every member given must hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilterForm {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<String>,
    /// The `next` of the reply before (`list` only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// The last revision that the client has (`watch` only): what came after it, and no snapshot, where the log reaches back
    /// so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
}

/// A service's name, or any domain name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainForm {
    pub name: String,
}

/// Changes, newest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogForm {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Only those before this revision: the `next` of the reply before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<u64>,
    /// How many at most; `LIST_MAX` where it is left out, and never more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most: Option<u64>,
}

/// Who was registered at a time: `2026-11-21T15:04:05Z`, or `10m` for ten minutes ago.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AtForm {
    pub time: String,
    pub service: String,
}

/// How much of what there is was live, and how long answers and probes take: of every service, or of one and its
/// instances.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AvailabilityForm {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Only services after this one: the `next` of the reply before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// Every change after a revision, and then every change to come. Without one, what is registered now
/// comes first, as changes of the present revision.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeedForm {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// Say where the past ends, with `fed`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mark: bool,
}

/// What was, up to this revision, is told; what follows is news.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FedForm {
    pub revision: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatusForm {}

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

fn is_zero(number: &u64) -> bool {
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// The servers that share the registry, by name; left out where it is this one's alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeForm>,
    pub domains: Vec<String>,
    pub listeners: Vec<String>,
    pub zones: Vec<String>,
    pub services: u64,
    pub instances: u64,
    pub live: u64,
    pub revision: u64,
    pub serial: u32,
    pub uptime_s: u64,
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

/// Reads one line, without its end.
pub fn decode(line: &[u8]) -> Result<Request<'_>, Problem> {
    let text = std::str::from_utf8(line).map_err(|error| {
        Problem::new("malformed", format!("octet {} of the line is not UTF-8", error.valid_up_to() + 1))
    })?;
    let request = serde_json::from_str(text).map_err(|error| complaint(text, &error))?;
    // serde reads a list as an object whose members are in order; nobody else does.
    match text.split_once(':') {
        Some((_verb, form)) if form.trim_start().starts_with('{') => Ok(request),
        _ => Err(Problem::new(
            "malformed",
            "the verb's value is no object; send {\"register\":{\"service\":\"web\",\"port\":8080}}",
        )),
    }
}

/// Writes a reply as one line.
pub fn encode(reply: &Reply, line: &mut Vec<u8>) {
    // Every form is made of texts and numbers with text keys, which JSON can always hold.
    serde_json::to_writer(&mut *line, reply).expect("a reply has a JSON form");
    line.push(b'\n');
}

/// Names the field that a JSON error is about; reads the line a second time, on this path only.
fn complaint(text: &str, error: &serde_json::Error) -> Problem {
    if !error.is_data() {
        if serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok() {
            return Problem::new("malformed", "a request is an object with one member, its verb");
        }
        let hint =
            "send one JSON object per line, such as {\"register\":{\"service\":\"web\",\"port\":8080}}";
        return Problem::new("malformed", format!("not JSON: {error}; {hint}"));
    }
    let message = error.to_string();
    let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(message, _)| message);
    let message = &message.replace("expected i64", "expected a whole number");
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    if message.starts_with("unknown variant")
        && let [verb, verbs @ ..] = quoted.as_slice()
        && verbs.contains(&"register")
    {
        let hint = did_you_mean(verb, verbs);
        return Problem::new(
            "unknown_verb",
            format!("`{}` is no verb{hint}; verbs are {}", printable(verb), verbs.join(", ")),
        );
    }
    if message.starts_with("unknown field")
        && let [field, fields @ ..] = quoted.as_slice()
    {
        let hint = did_you_mean(field, fields);
        return Problem {
            code: "invalid".into(),
            field: Some(printable(field)),
            message: match fields {
                [] => format!("unknown field `{}`; there are none here", printable(field)),
                fields => format!(
                    "unknown field `{}`{hint}; fields here are {}",
                    printable(field),
                    fields.join(", ")
                ),
            },
        };
    }
    let mut reader = serde_json::Deserializer::from_str(text);
    let path = serde_path_to_error::deserialize::<_, Request<'_>>(&mut reader)
        .map_or_else(|error| error.path().to_string(), |_| String::new());
    let field = match path.split_once('.') {
        Some((_verb, field)) => field.to_owned(),
        // `missing field` and `duplicate field` name it themselves.
        None => quoted.first().map(|name| printable(name)).unwrap_or_default(),
    };
    if field.is_empty() {
        return Problem::new(
            "malformed",
            format!(
                "{}; a request is an object with one member, its verb, and that is an object too",
                printable(message)
            ),
        );
    }
    Problem {
        code: "invalid".into(),
        message: format!("{field}: {}", printable(message)),
        field: Some(field),
    }
}

/// ` (did you mean …?)` where one of `known` is near enough.
pub fn did_you_mean(given: &str, known: &[&str]) -> String {
    match nearest(given, known.iter().copied()) {
        Some(name) => format!(" (did you mean `{name}`?)"),
        None => String::new(),
    }
}

/// The one of `known` that differs least from `given`, if it differs little.
pub fn nearest<'a>(given: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let given: String = given.chars().take(64).collect();
    known
        .map(|name| (strsim::damerau_levenshtein(&given, name), name))
        .min()
        .filter(|(distance, name)| *distance <= 1 + name.len() / 4)
        .map(|(_, name)| name)
}

/// Foreign text for a message: control characters escaped, 80 characters at most.
fn printable(text: &str) -> String {
    text.chars()
        .take(80)
        .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
        .collect()
}
