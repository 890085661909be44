//! What a client says.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::access::{HelloForm, TokenForm};
use super::checks::CheckForm;
use super::moving::ImportForm;
use super::nodes::RingForm;
use super::shapes::{Pairs, PortForm, Several};

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
    /// How many at most (`list` only); `LIST_MAX` where it is left out, and never more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most: Option<u64>,
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
