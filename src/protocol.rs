//! The registration protocol: one JSON object per line, each way.
//!
//! A request is an object with one member, its verb: `{"register":{"service":"web","port":8080}}`. Replies
//! come in the order of the requests. This file is the protocol: its forms, its limits, and the way from
//! a form to what the registry knows. Sockets are `socket`'s affair; the CLI and the tests use the same
//! forms from the other side (`client`).
//!
//! Every complaint names the field and says what to do. An unknown field is an error: a misspelt
//! `tags` must not be a registration without tags.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::instance::{
    ADDRESSES_MAX, CHECKS_MAX, Health, Instance, Key, LEASE_MS_MAX, LEASE_MS_MIN, Lease, Location,
    META_KEY_OCTETS_MAX, META_MAX, META_VALUE_OCTETS_MAX, PORTS_MAX, Port, TAGS_MAX, Transport,
    WORD_OCTETS_MAX,
};
use crate::name::{HostName, InstanceId, ServiceName, Tag, Unfit, parse_target};
use crate::registry::{Change, Holder, ListedCheck, Refusal, Registration, Report, Subject, What};
use crate::time::{Now, format_duration, parse_duration};

/// Longest line: a registration with every limit reached is about 60 KiB.
pub const FRAME_OCTETS_MAX: usize = 64 * 1024;
/// Instances in one reply to `list`; the rest follows with `after`.
pub const LIST_MAX: usize = 1000;
/// Members of an object with free keys: the larger of what metadata and ports may have, so that the
/// search for duplicates stays short.
const PAIRS_MAX: usize = META_MAX;
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
    Lookup(LookupForm),
    List(Box<FilterForm>),
    Watch(Box<FilterForm>),
    Explain(ExplainForm),
    Status(StatusForm),
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

/// One text or a list of them.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Several(pub Vec<String>);

/// The members of an object in the order given; a key that stands twice is an error.
#[derive(Clone, Debug, PartialEq)]
pub struct Pairs<T>(pub Vec<(String, T)>);

/// A port by number, or with its transport.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PortForm {
    pub port: i64,
    pub transport: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckForm {
    pub id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
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
}

/// A service's name, or any domain name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainForm {
    pub name: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatusForm {}

/// What a client is answered; one object per line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reply {
    Registered(Box<RegisteredForm>),
    Renewed(RenewedForm),
    Deregistered(DeregisteredForm),
    Draining(NamedForm),
    Reported(ReportedForm),
    Found(InstancesForm),
    Instances(InstancesForm),
    Snapshot(InstancesForm),
    Change(Box<ChangeForm>),
    Explained(ExplainedForm),
    Status(Box<ServerForm>),
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
    pub port: u16,
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
    pub port: u16,
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
    /// In the answers.
    pub live: bool,
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
}

/// One change as a watcher sees it; `instance` is what is now, left out where the instance is gone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChangeForm {
    pub revision: u64,
    pub at: String,
    pub reason: String,
    pub author: String,
    pub service: String,
    pub id: String,
    pub host: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceForm>,
}

/// Why a name is, or is not, in DNS.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExplainedForm {
    pub name: String,
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

/// The server as it is now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerForm {
    pub version: String,
    pub ready: bool,
    pub store: String,
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
            message: format!(
                "unknown field `{}`{hint}; fields here are {}",
                printable(field),
                fields.join(", ")
            ),
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

/// What the edge knows of the client, for what a registration leaves out.
#[derive(Clone, Debug)]
pub struct Peer {
    pub host: HostName,
    /// The addresses to take where none is given; at least one.
    pub addresses: Vec<IpAddr>,
    /// False where a loopback address in an answer would mislead: a DNS listener is reachable from elsewhere.
    pub loopback_allowed: bool,
    /// The connection's number, for `"lease":"connection"`.
    pub connection: u64,
}

impl RegisterForm {
    /// What the registry is asked to register; `lease_id` is 64 random bits.
    pub fn registration(&self, peer: &Peer, lease_id: u64) -> Result<Registration, Problem> {
        let service =
            ServiceName::parse(&self.service).map_err(|unfit| Problem::invalid("service", unfit))?;
        let host = host_or(self.host.as_deref(), &peer.host)?;
        let ports = self.ports()?;
        let id = match &self.id {
            Some(id) => InstanceId::parse(id),
            None => InstanceId::parse(&format!("{service}-{host}-{}", ports[0].number)),
        };
        let id = id.map_err(|unfit| Problem::invalid("id", unfit))?;
        Ok(Registration {
            key: Key { service, id, host },
            location: self.location(peer)?,
            ports,
            protocol: self.protocol.as_deref().map(|protocol| word("protocol", protocol)).transpose()?,
            tags: self.tags()?,
            meta: self.meta()?,
            weight: number("weight", self.weight, 0, 1)?,
            priority: number("priority", self.priority, 0, 0)?,
            lease: self.lease(peer)?,
            lease_id,
            checks: self.checks()?,
        })
    }

    fn location(&self, peer: &Peer) -> Result<Location, Problem> {
        let given = match (&self.address, &self.target) {
            (Some(_), Some(_)) => {
                return Err(Problem::invalid("target", "and address exclude each other; give one"));
            }
            (None, Some(target)) => {
                let target = parse_target(target).map_err(|unfit| Problem::invalid("target", unfit))?;
                return Ok(Location::Target(target));
            }
            (None, None) => return Ok(Location::Addresses(peer.addresses.clone())),
            (Some(address), None) => &address.0,
        };
        let mut addresses: Vec<IpAddr> = Vec::new();
        for text in given {
            let several: &[IpAddr] = match text.as_str() {
                "localhost" => &[IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)],
                text => &[parse_address("address", text)?],
            };
            for &address in several {
                let address = usable_address(address, peer)?;
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        }
        match addresses.len() {
            0 => Err(Problem::invalid(
                "address",
                "must not be an empty list; leave it out to take the default",
            )),
            1..=ADDRESSES_MAX => Ok(Location::Addresses(addresses)),
            count => Err(Problem::invalid(
                "address",
                format!("may list at most {ADDRESSES_MAX} addresses, not {count}"),
            )),
        }
    }

    fn ports(&self) -> Result<Vec<Port>, Problem> {
        let mut ports = Vec::new();
        if let Some(port) = self.port {
            ports.push(Port { name: None, number: port_number("port", port)?, transport: Transport::Tcp });
        }
        for (name, form) in self.ports.iter().flat_map(|ports| &ports.0) {
            let field = format!("ports.{}", printable(name));
            // A named port answers at `_name._tcp.service`, so its name is a label.
            if !crate::name::is_ldh_label(name.as_bytes()) {
                return Err(Problem::invalid(&field, "must be named with letters, digits and hyphens"));
            }
            let transport = match form.transport.as_deref() {
                None | Some("tcp") => Transport::Tcp,
                Some("udp") => Transport::Udp,
                Some(other) => {
                    return Err(Problem::invalid(
                        &field,
                        format!("has transport `{}`; use tcp or udp", printable(other)),
                    ));
                }
            };
            let port = Port {
                name: Some(name.to_ascii_lowercase().into()),
                number: port_number(&field, form.port)?,
                transport,
            };
            if ports.iter().any(|other: &Port| other.name == port.name) {
                return Err(Problem::invalid(&field, "is given twice"));
            }
            ports.push(port);
        }
        match ports.len() {
            0 => Err(Problem::invalid(
                "port",
                "is missing; give the port that the instance accepts on, 1 to 65535",
            )),
            1..=PORTS_MAX => Ok(ports),
            count => {
                Err(Problem::invalid("ports", format!("may list at most {PORTS_MAX} ports, not {count}")))
            }
        }
    }

    fn tags(&self) -> Result<Vec<Tag>, Problem> {
        let given = self.tags.as_deref().unwrap_or_default();
        if given.len() > TAGS_MAX {
            return Err(Problem::invalid(
                "tags",
                format!("may list at most {TAGS_MAX} tags, not {}", given.len()),
            ));
        }
        let mut tags = Vec::with_capacity(given.len());
        for tag in given {
            let tag = Tag::parse(tag).map_err(|unfit| Problem::invalid("tags", unfit))?;
            if !tags.contains(&tag) {
                tags.push(tag);
            }
        }
        Ok(tags)
    }

    fn meta(&self) -> Result<BTreeMap<Arc<str>, Arc<str>>, Problem> {
        let given = self.meta.as_ref().map(|meta| meta.0.as_slice()).unwrap_or_default();
        if given.len() > META_MAX {
            return Err(Problem::invalid(
                "meta",
                format!("may hold at most {META_MAX} pairs, not {}", given.len()),
            ));
        }
        let mut meta = BTreeMap::new();
        for (key, value) in given {
            let field = format!("meta.{}", printable(key));
            let fits = (1..=META_KEY_OCTETS_MAX).contains(&key.len())
                && !key.contains('=')
                && !key.chars().any(char::is_control);
            if !fits {
                let rule = format!(
                    "has a key that does not fit: 1 to {META_KEY_OCTETS_MAX} octets without `=` and controls"
                );
                return Err(Problem::invalid(&field, rule));
            }
            if value.len() > META_VALUE_OCTETS_MAX || value.chars().any(char::is_control) {
                let rule = format!("must be at most {META_VALUE_OCTETS_MAX} octets without controls");
                return Err(Problem::invalid(&field, rule));
            }
            meta.insert(key.as_str().into(), value.as_str().into());
        }
        Ok(meta)
    }

    fn lease(&self, peer: &Peer) -> Result<Lease, Problem> {
        match self.lease.as_deref() {
            None => Ok(Lease::Timed(LEASE_DEFAULT)),
            Some("connection") => Ok(Lease::Connection(peer.connection)),
            Some("none") => Ok(Lease::None),
            Some(text) => {
                let range = Duration::from_millis(LEASE_MS_MIN)..=Duration::from_millis(LEASE_MS_MAX);
                match parse_duration(text) {
                    Some(duration) if range.contains(&duration) => Ok(Lease::Timed(duration)),
                    Some(_) => {
                        let bounds = format!(
                            "{} to {}",
                            format_duration(*range.start()),
                            format_duration(*range.end())
                        );
                        Err(Problem::invalid(
                            "lease",
                            format!("must be {bounds}, or `connection` or `none`, not {}", printable(text)),
                        ))
                    }
                    None => {
                        let rule = format!(
                            "must be a duration such as 15s or 2m, or `connection` or `none`, not `{}`",
                            printable(text)
                        );
                        Err(Problem::invalid("lease", rule))
                    }
                }
            }
        }
    }

    fn checks(&self) -> Result<Vec<ListedCheck>, Problem> {
        let given = self.checks.as_deref().unwrap_or_default();
        if given.len() > CHECKS_MAX {
            return Err(Problem::invalid(
                "checks",
                format!("may list at most {CHECKS_MAX} checks, not {}", given.len()),
            ));
        }
        let mut checks: Vec<ListedCheck> = Vec::with_capacity(given.len());
        for check in given {
            let id = word("checks", &check.id)?;
            if checks.iter().any(|(known, _)| *known == id) {
                return Err(Problem::invalid("checks", format!("name `{id}` twice")));
            }
            let status = check.status.as_deref().map(|status| health("checks", status)).transpose()?;
            checks.push((id, status));
        }
        Ok(checks)
    }
}

impl HolderForm<'_> {
    pub fn holder(&self, host: &HostName) -> Result<Holder, Problem> {
        Ok(Holder {
            key: key(&self.service, &self.id, self.host.as_deref(), host)?,
            lease_id: lease_id(self.lease_id.as_deref())?,
        })
    }
}

impl ReportForm {
    pub fn report(&self, host: &HostName) -> Result<Report, Problem> {
        let on = match (&self.service, &self.id) {
            (Some(service), Some(id)) => Subject::Instance(Holder {
                key: key(service, id, self.host.as_deref(), host)?,
                lease_id: lease_id(self.lease_id.as_deref())?,
            }),
            (None, None) => Subject::Host(host_or(self.host.as_deref(), host)?),
            (Some(_), None) => {
                return Err(Problem::invalid(
                    "id",
                    "is missing; a report is of an instance (service and id) or of a host",
                ));
            }
            (None, Some(_)) => {
                return Err(Problem::invalid(
                    "service",
                    "is missing; a report is of an instance (service and id) or of a host",
                ));
            }
        };
        Ok(Report {
            on,
            check: word("check", self.check.as_deref().unwrap_or(CHECK_DEFAULT))?,
            status: health("status", &self.status)?,
            output: self.output.as_deref().unwrap_or_default().into(),
        })
    }
}

/// Which instances: every part that is there must hold.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub service: Option<ServiceName>,
    pub address: Option<IpAddr>,
    pub port: Option<u16>,
    pub protocol: Option<String>,
    pub tag: Option<String>,
    pub host: Option<String>,
    pub health: Option<Health>,
}

impl FilterForm {
    pub fn filter(&self) -> Result<Filter, Problem> {
        Ok(Filter {
            service: self
                .service
                .as_deref()
                .map(|name| ServiceName::parse(name).map_err(|unfit| Problem::invalid("service", unfit)))
                .transpose()?,
            address: self.address.as_deref().map(|text| parse_address("address", text)).transpose()?,
            port: self.port.map(|port| port_number("port", port)).transpose()?,
            protocol: self.protocol.clone(),
            tag: self.tag.clone(),
            host: self.host.as_deref().map(str::to_ascii_lowercase),
            health: self.health.as_deref().map(|status| health("health", status)).transpose()?,
        })
    }
}

impl Filter {
    /// `health` is the instance's own and its host's together.
    pub fn matches(&self, instance: &Instance, health: Health) -> bool {
        self.service.as_ref().is_none_or(|service| *service == instance.key.service)
            && self.address.is_none_or(|address| instance.addresses().contains(&address))
            && self.port.is_none_or(|port| instance.ports.iter().any(|known| known.number == port))
            && self.protocol.is_none_or_eq(instance.protocol.as_deref())
            && self.tag.as_deref().is_none_or(|tag| instance.tags.iter().any(|known| known.as_str() == tag))
            && self.host.as_deref().is_none_or(|host| instance.key.host.as_str() == host)
            && self.health.is_none_or(|wanted| wanted == health)
    }
}

trait IsNoneOrEq {
    fn is_none_or_eq(&self, other: Option<&str>) -> bool;
}

impl IsNoneOrEq for Option<String> {
    fn is_none_or_eq(&self, other: Option<&str>) -> bool {
        self.as_deref().is_none_or(|own| Some(own) == other)
    }
}

/// A lease as it is written: `15s`, `connection`, `none`.
pub fn lease_text(lease: Lease) -> String {
    match lease {
        Lease::Timed(duration) => format_duration(duration),
        Lease::Connection(_) => "connection".to_owned(),
        Lease::None => "none".to_owned(),
    }
}

pub fn lease_id_text(lease_id: u64) -> String {
    format!("{lease_id:016x}")
}

impl InstanceForm {
    /// `health` is the instance's own and its host's together; `live`, whether it is in the answers.
    pub fn of(instance: &Instance, health: Health, live: bool, now: Now) -> Self {
        Self {
            service: instance.key.service.to_string(),
            id: instance.key.id.to_string(),
            host: instance.key.host.to_string(),
            label: instance.label.to_string(),
            address: instance.addresses().iter().map(IpAddr::to_string).collect(),
            target: match &instance.location {
                Location::Target(target) => Some(target.to_string()),
                Location::Addresses(_) => None,
            },
            port: instance.ports[0].number,
            ports: instance.ports.iter().map(PortShown::of).collect(),
            protocol: instance.protocol.as_deref().map(str::to_owned),
            tags: instance.tags.iter().map(Tag::to_string).collect(),
            meta: instance.meta.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
            weight: instance.weight,
            priority: instance.priority,
            lease: lease_text(instance.lease),
            lease_left_ms: instance
                .deadline
                .deadline_ns()
                .map(|deadline| deadline.saturating_sub(now.mono_ns) / 1_000_000),
            health: health.to_string(),
            checks: instance
                .checks
                .iter()
                .map(|check| CheckShown {
                    id: check.id.to_string(),
                    status: check.status.to_string(),
                    output: check.output.to_string(),
                    since: check.since.to_string(),
                })
                .collect(),
            draining: instance.draining,
            live,
            registered: instance.registered.to_string(),
            since: instance.since.to_string(),
            revision: instance.revision,
        }
    }
}

impl PortShown {
    fn of(port: &Port) -> Self {
        Self {
            name: port.name.as_deref().map(str::to_owned),
            port: port.number,
            transport: port.transport.as_str().to_owned(),
        }
    }
}

impl ChangeForm {
    /// `None` for a change that is not about one instance (a host's health): its services' instances follow.
    pub fn of(change: &Change, now: Now) -> Option<Self> {
        let (key, after) = match &change.what {
            What::Instance { before, after } => (&after.as_ref().or(before.as_ref())?.key, after.as_ref()),
            What::Forgotten { key } => (key, None),
            What::Host { .. } => return None,
        };
        Some(Self {
            revision: change.revision,
            at: change.at.to_string(),
            reason: change.reason.as_str().to_owned(),
            author: change.author.to_string(),
            service: key.service.to_string(),
            id: key.id.to_string(),
            host: key.host.to_string(),
            instance: after.map(|after| {
                let health = after.health();
                InstanceForm::of(after, health, health.in_answers() && !after.draining, now)
            }),
        })
    }
}

fn key(service: &str, id: &str, host: Option<&str>, default: &HostName) -> Result<Key, Problem> {
    Ok(Key {
        service: ServiceName::parse(service).map_err(|unfit| Problem::invalid("service", unfit))?,
        id: InstanceId::parse(id).map_err(|unfit| Problem::invalid("id", unfit))?,
        host: host_or(host, default)?,
    })
}

fn host_or(given: Option<&str>, default: &HostName) -> Result<HostName, Problem> {
    match given {
        None => Ok(default.clone()),
        Some(host) => HostName::parse(host).map_err(|unfit| Problem::invalid("host", unfit)),
    }
}

fn lease_id(given: Option<&str>) -> Result<Option<u64>, Problem> {
    let parse = |text: &str| u64::from_str_radix(text, 16).ok().filter(|_| text.len() == 16);
    match given {
        None => Ok(None),
        Some(text) => match parse(text) {
            Some(lease_id) => Ok(Some(lease_id)),
            None => Err(Problem::invalid(
                "lease_id",
                "must be the 16 hexadecimal digits that `registered` returned",
            )),
        },
    }
}

fn number(field: &str, given: Option<i64>, min: u16, default: u16) -> Result<u16, Problem> {
    match given {
        None => Ok(default),
        Some(value) => u16::try_from(value)
            .ok()
            .filter(|value| *value >= min)
            .ok_or_else(|| Problem::invalid(field, format!("must be {min} to 65535, not {value}"))),
    }
}

fn port_number(field: &str, given: i64) -> Result<u16, Problem> {
    number(field, Some(given), 1, 1)
}

fn health(field: &str, given: &str) -> Result<Health, Problem> {
    Health::parse(given).ok_or_else(|| {
        let rule = format!("must be passing, warning, critical or maintenance, not `{}`", printable(given));
        Problem::invalid(field, rule)
    })
}

fn word(field: &str, given: &str) -> Result<Arc<str>, Problem> {
    let fits = (1..=WORD_OCTETS_MAX).contains(&given.len()) && !given.chars().any(char::is_control);
    if fits {
        return Ok(given.into());
    }
    Err(Problem::invalid(
        field,
        format!("must be 1 to {WORD_OCTETS_MAX} octets without controls, not `{}`", printable(given)),
    ))
}

fn parse_address(field: &str, text: &str) -> Result<IpAddr, Problem> {
    let address: IpAddr = text.parse().map_err(|_| {
        let rule = format!(
            "must be an IPv4 or IPv6 address without a port, not `{}`; for a host name use `target`",
            printable(text)
        );
        Problem::invalid(field, rule)
    })?;
    Ok(address.to_canonical())
}

/// An address that a client elsewhere could connect to (checklist R-16).
fn usable_address(address: IpAddr, peer: &Peer) -> Result<IpAddr, Problem> {
    let reason = match address {
        address if address.is_unspecified() => {
            "is the unspecified address; give the one that clients connect to"
        }
        address if address.is_multicast() => "is a multicast address; an instance has a unicast one",
        IpAddr::V4(v4) if v4.is_broadcast() => "is the broadcast address; an instance has a unicast one",
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            "is link-local, and DNS cannot carry its interface; give a global or unique local one"
        }
        address if address.is_loopback() && !peer.loopback_allowed => {
            "is a loopback address, and this server answers other machines; give an address that they can reach, or set `allow-loopback = true`"
        }
        address => return Ok(address),
    };
    Err(Problem::invalid("address", format!("{address} {reason}")))
}

impl<'de> Deserialize<'de> for Several {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Texts;
        impl<'de> Visitor<'de> for Texts {
            type Value = Several;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of texts")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Several, E> {
                Ok(Several(vec![text.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Several, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = list.next_element()? {
                    texts.push(text);
                }
                Ok(Several(texts))
            }
        }
        deserializer.deserialize_any(Texts)
    }
}

impl<'de> Deserialize<'de> for PortForm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Full {
            port: i64,
            #[serde(default)]
            transport: Option<String>,
        }
        struct PortVisitor;
        impl<'de> Visitor<'de> for PortVisitor {
            type Value = PortForm;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port number, or an object with port and transport")
            }

            fn visit_i64<E: de::Error>(self, port: i64) -> Result<PortForm, E> {
                Ok(PortForm { port, transport: None })
            }

            fn visit_u64<E: de::Error>(self, port: u64) -> Result<PortForm, E> {
                self.visit_i64(i64::try_from(port).unwrap_or(i64::MAX))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<PortForm, A::Error> {
                let Full { port, transport } =
                    Deserialize::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(PortForm { port, transport })
            }
        }
        deserializer.deserialize_any(PortVisitor)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Pairs<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairsVisitor<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for PairsVisitor<T> {
            type Value = Pairs<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<T>, A::Error> {
                let mut pairs: Vec<(String, T)> = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, T>()? {
                    if pairs.len() == PAIRS_MAX {
                        return Err(de::Error::custom(format!("more than {PAIRS_MAX} members")));
                    }
                    if pairs.iter().any(|(known, _)| *known == key) {
                        return Err(de::Error::custom(format!(
                            "the key `{}` is given twice",
                            printable(&key)
                        )));
                    }
                    pairs.push((key, value));
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(PairsVisitor(std::marker::PhantomData))
    }
}

impl<T: Serialize> Serialize for Pairs<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

/// Why a name does not fit, for a field that is not part of a form.
pub fn unfit(field: &str, unfit: &Unfit) -> Problem {
    Problem::invalid(field, unfit)
}
