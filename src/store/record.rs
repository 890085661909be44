//! Changes, instances and hosts as the disk holds them: a first octet says the version, the rest is
//! postcard. The forms here never change; a new version gets new ones.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::access::{Grant, Owner, Token};
use crate::balance::{Balance, SrvWeights};
use crate::check::{Check, Definition, Http, Kind, Place, Tls};
use crate::instance::{
    ConsulFacts, Extras, Fallback, Health, Host, Instance, Key, Lease, Location, Port, ServiceSettings,
    Transport,
};
use crate::lease::{CONNECTION_GRACE, LeaseCell, Leased, NO_CONNECTION};
use crate::name::{Apex, HostName, InstanceId, Label, Name, ServiceName, Tag};
use crate::record::{Data, RrSet, Type};
use crate::registry::{Author, Change, Guard, PlainSet, Reason, What};
use crate::time::{Now, Wall};

/// The version of nearly every form that this program writes.
const VERSION: u8 = 1;
/// That of the settings of a service, which held a TTL alone at first; the newest that this program reads.
const SETTINGS_VERSION: u8 = 3;
/// That of the settings without a guard, which is still read.
const UNGUARDED_VERSION: u8 = 2;
/// That of an instance that somebody owns.
const OWNED_VERSION: u8 = 2;

/// Why octets are no record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error(
        "it was written by a newer version of callsign (form {0}, and this one reads up to {SETTINGS_VERSION})"
    )]
    Newer(u8),
    #[error("it is damaged: {0}")]
    Damaged(String),
}

/// What is kept of an instance that left.
#[derive(Clone, Debug)]
pub struct Left {
    pub instance: Instance,
    pub reason: Reason,
    pub at: Wall,
    pub revision: u64,
}

#[derive(Serialize, Deserialize)]
struct InstanceForm<'a> {
    service: &'a str,
    id: &'a str,
    host: &'a str,
    label: &'a str,
    addresses: Vec<IpAddr>,
    /// In presentation form; empty where there are addresses.
    target: String,
    ports: Vec<(Option<String>, u16, bool)>,
    protocol: Option<String>,
    tags: Vec<String>,
    meta: Vec<(String, String)>,
    weight: u16,
    priority: u16,
    lease: LeaseForm,
    lease_id: u64,
    checks: Vec<CheckForm>,
    draining: bool,
    registered: i64,
    since: i64,
    created: u64,
    revision: u64,
    source: Option<String>,
    consul: Option<ConsulForm>,
}

#[derive(Serialize, Deserialize)]
struct OwnedForm<'a> {
    #[serde(borrow)]
    instance: InstanceForm<'a>,
    owner: Option<OwnerForm>,
}

#[derive(Serialize, Deserialize)]
enum OwnerForm {
    User(u32),
    Token(String),
    Certificate(String),
    Address(IpAddr),
    Key(String),
}

/// A token; what it allows and denies in the words that say so.
#[derive(Serialize, Deserialize)]
struct TokenForm {
    name: String,
    number: u64,
    hash: [u8; 32],
    allow: Vec<String>,
    deny: Vec<String>,
    created: i64,
    expires: Option<i64>,
}

/// Plain records of one owner and type.
#[derive(Serialize, Deserialize)]
struct PlainForm {
    /// Both in presentation form.
    apex: String,
    owner: String,
    rtype: u16,
    ttl: u32,
    /// As on the wire, without compression.
    data: Vec<Vec<u8>>,
    lease_ms: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct ConsulForm {
    address: String,
    tagged_addresses: Vec<(String, String, u16)>,
    weight_warning: u16,
    enable_tag_override: bool,
    through_catalog: bool,
}

#[derive(Serialize, Deserialize)]
enum LeaseForm {
    Milliseconds(u64),
    Connection,
    None,
}

#[derive(Serialize, Deserialize)]
struct CheckForm {
    id: String,
    status: u8,
    output: String,
    since: i64,
    /// `None` where it only reports.
    definition: Option<DefinitionForm>,
}

#[derive(Serialize, Deserialize)]
struct DefinitionForm {
    name: String,
    notes: String,
    kind: KindForm,
    interval_ms: u64,
    timeout_ms: u64,
    rise: u16,
    fall: u16,
    warn: u16,
    deregister_after_ms: Option<u64>,
}

#[derive(Serialize, Deserialize)]
enum KindForm {
    Reported,
    Ttl { milliseconds: u64 },
    Tcp { host: String, port: u16 },
    Http(Box<HttpForm>),
    Grpc { host: String, port: u16, service: String, tls: Option<TlsForm> },
    Command(Vec<String>),
    Alias { host: Option<String>, id: Option<String> },
}

#[derive(Serialize, Deserialize)]
struct HttpForm {
    method: String,
    host: String,
    port: u16,
    path: String,
    headers: Vec<(String, String)>,
    body: String,
    expected: (u16, u16),
    tls: Option<TlsForm>,
}

#[derive(Serialize, Deserialize)]
struct TlsForm {
    skip_verify: bool,
    server_name: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct HostForm {
    name: String,
    addresses: Vec<IpAddr>,
    meta: Vec<(String, String)>,
    id: Option<String>,
    checks: Vec<CheckForm>,
    created: u64,
    revision: u64,
}

/// The settings that there were at first.
#[derive(Serialize, Deserialize)]
struct TtlForm {
    ttl: Option<u32>,
}

#[derive(Serialize, Deserialize)]
struct SettingsForm {
    ttl: Option<u32>,
    /// In the words that set it.
    balance: Option<String>,
    max_answers: Option<u16>,
    failover: Option<Vec<String>>,
    srv_weights: Option<String>,
}

/// Settings with what version 3 has more than version 2.
#[derive(Serialize, Deserialize)]
struct GuardedForm {
    rest: SettingsForm,
    /// Percent.
    guard: Option<u8>,
    guard_for_ms: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct GuardForm {
    from: i64,
    since: i64,
}

#[derive(Serialize, Deserialize)]
struct LeftForm<'a> {
    #[serde(borrow)]
    instance: InstanceForm<'a>,
    reason: u8,
    at: i64,
    revision: u64,
}

#[derive(Serialize, Deserialize)]
struct ChangeForm<'a> {
    revision: u64,
    at: i64,
    reason: u8,
    author: AuthorForm,
    #[serde(borrow)]
    what: WhatForm<'a>,
}

#[derive(Serialize, Deserialize)]
enum AuthorForm {
    Server,
    User(u32),
    Address(SocketAddr),
    File(String),
    Token(String),
    Certificate(String),
    Key(String),
}

#[derive(Serialize, Deserialize)]
enum WhatForm<'a> {
    Instance(#[serde(borrow)] Option<Box<InstanceForm<'a>>>, #[serde(borrow)] Option<Box<InstanceForm<'a>>>),
    Host(Option<HostForm>, Option<HostForm>),
    Forgotten {
        service: String,
        id: String,
        host: String,
    },
    /// Read, and no longer written.
    Ttl {
        service: String,
        before: TtlForm,
        after: TtlForm,
    },
    /// Read, and no longer written.
    Settings {
        service: String,
        before: SettingsForm,
        after: SettingsForm,
    },
    GuardedSettings {
        service: String,
        before: GuardedForm,
        after: GuardedForm,
    },
    Guard {
        service: String,
        before: Option<GuardForm>,
        after: Option<GuardForm>,
    },
    /// An instance that somebody owns, before or after.
    Owned(#[serde(borrow)] Option<Box<OwnedForm<'a>>>, #[serde(borrow)] Option<Box<OwnedForm<'a>>>),
    Token(Option<TokenForm>, Option<TokenForm>),
    Plain(Option<PlainForm>, Option<PlainForm>),
}

/// What a store that several nodes write to holds beside the thing itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The node that watches over it.
    pub owner: Arc<str>,
    /// Which of a node's transactions wrote it.
    pub number: u64,
    pub reason: Reason,
    pub author: Author,
    pub at: Wall,
    /// False where it is gone, and only remembered.
    pub there: bool,
}

#[derive(Serialize, Deserialize)]
struct NoteForm {
    owner: String,
    number: u64,
    reason: u8,
    author: AuthorForm,
    at: i64,
    there: bool,
}

/// What a node says of itself to the others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberForm {
    /// Random: another run of the same node is another one.
    pub run: u64,
    pub version: String,
    /// Where other machines reach it.
    pub addresses: Vec<IpAddr>,
    /// Its ports, of DNS, of registrations over TCP and of HTTP; 0 for none.
    pub dns: u16,
    pub listen: u16,
    /// Where other machines register.
    pub listen_addresses: Vec<IpAddr>,
    pub http: u16,
    /// When it started, in Unix milliseconds.
    pub started: i64,
}

/// What is agreed on before anything else: once, by the first node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterFormat {
    /// Added to the revision for the serial.
    pub serial_base: u32,
}

pub fn write_member(member: &MemberForm) -> Vec<u8> {
    write(member)
}

pub fn read_member(octets: &[u8]) -> Result<MemberForm, Unreadable> {
    read(octets)
}

pub fn write_format(format: &ClusterFormat) -> Vec<u8> {
    write(format)
}

pub fn read_format(octets: &[u8]) -> Result<ClusterFormat, Unreadable> {
    read(octets)
}

/// A note, and behind it a record.
pub fn write_noted(note: &Note, record: &[u8]) -> Vec<u8> {
    let mut octets = write(&NoteForm {
        owner: note.owner.to_string(),
        number: note.number,
        reason: reason_number(note.reason),
        author: AuthorForm::of(&note.author),
        at: note.at.unix_ms,
        there: note.there,
    });
    octets.extend_from_slice(record);
    octets
}

/// Reads a note, and returns the record behind it.
pub fn read_noted(octets: &[u8]) -> Result<(Note, &[u8]), Unreadable> {
    let (form, record): (NoteForm, _) =
        postcard::take_from_bytes(form_of(VERSION, octets)?).map_err(damaged)?;
    let note = Note {
        owner: form.owner.into(),
        number: form.number,
        reason: reason(form.reason)?,
        author: form.author.author(),
        at: Wall { unix_ms: form.at },
        there: form.there,
    };
    Ok((note, record))
}

/// Where an instance is kept: its service, host and id with a zero octet between, which no name holds.
pub fn place(key: &Key) -> Vec<u8> {
    [key.service.as_str(), key.host.as_str(), key.id.as_str()].join("\0").into_bytes()
}

pub fn write_instance(instance: &Instance) -> Vec<u8> {
    match instance.owner {
        None => write(&InstanceForm::of(instance)),
        Some(_) => write_as(OWNED_VERSION, &OwnedForm::of(instance)),
    }
}

/// Where plain records are kept: by owner, in lower case, and type.
pub fn plain_place(set: &PlainSet) -> Vec<u8> {
    [set.owner.to_lowercase().as_wire(), &set.set.rtype.0.to_be_bytes()].concat()
}

pub fn write_plain(set: &PlainSet) -> Vec<u8> {
    write(&PlainForm::of(set))
}

pub fn write_token(token: &Token) -> Vec<u8> {
    write(&TokenForm::of(token))
}

pub fn write_host(host: &Host) -> Vec<u8> {
    write(&HostForm::of(host))
}

pub fn write_settings(settings: &ServiceSettings) -> Vec<u8> {
    write_as(SETTINGS_VERSION, &GuardedForm::of(settings))
}

pub fn write_guard(guard: Guard) -> Vec<u8> {
    write(&GuardForm::of(guard))
}

pub fn write_left(instance: &Instance, change: &Change) -> Vec<u8> {
    write(&LeftForm {
        instance: InstanceForm::of(instance),
        reason: reason_number(change.reason),
        at: change.at.unix_ms,
        revision: change.revision,
    })
}

pub fn write_change(change: &Change) -> Vec<u8> {
    write(&ChangeForm {
        revision: change.revision,
        at: change.at.unix_ms,
        reason: reason_number(change.reason),
        author: AuthorForm::of(&change.author),
        what: match &change.what {
            What::Instance { before, after }
                if before.iter().chain(after).any(|instance| instance.owner.is_some()) =>
            {
                fn form(instance: &Option<Arc<Instance>>) -> Option<Box<OwnedForm<'_>>> {
                    instance.as_deref().map(|instance| Box::new(OwnedForm::of(instance)))
                }
                WhatForm::Owned(form(before), form(after))
            }
            What::Token { before, after } => {
                let form = |token: &Option<Arc<Token>>| token.as_deref().map(TokenForm::of);
                WhatForm::Token(form(before), form(after))
            }
            What::Instance { before, after } => {
                fn form(instance: &Option<Arc<Instance>>) -> Option<Box<InstanceForm<'_>>> {
                    instance.as_deref().map(|instance| Box::new(InstanceForm::of(instance)))
                }
                WhatForm::Instance(form(before), form(after))
            }
            What::Plain { before, after } => {
                let form = |set: &Option<Arc<PlainSet>>| set.as_deref().map(PlainForm::of);
                WhatForm::Plain(form(before), form(after))
            }
            What::Host { before, after } => {
                let form = |host: &Option<Arc<Host>>| host.as_deref().map(HostForm::of);
                WhatForm::Host(form(before), form(after))
            }
            What::Forgotten { key } => WhatForm::Forgotten {
                service: key.service.to_string(),
                id: key.id.to_string(),
                host: key.host.to_string(),
            },
            What::Settings { service, before, after } => WhatForm::GuardedSettings {
                service: service.to_string(),
                before: GuardedForm::of(before),
                after: GuardedForm::of(after),
            },
            What::Guard { service, before, after } => WhatForm::Guard {
                service: service.to_string(),
                before: before.map(GuardForm::of),
                after: after.map(GuardForm::of),
            },
        },
    })
}

/// Names that were read last: records lie in the order of their services, and neighbours share what is the same.
#[derive(Debug, Default)]
pub struct Near {
    service: Option<ServiceName>,
    host: Option<HostName>,
    owner: Option<Arc<Owner>>,
}

/// Reads an instance; its lease begins at `now`.
pub fn read_instance(octets: &[u8], now: Now, near: &mut Near) -> Result<Instance, Unreadable> {
    match octets {
        [OWNED_VERSION, ..] => read_as::<OwnedForm<'_>>(OWNED_VERSION, octets)?.instance(now, near),
        _ => read::<InstanceForm<'_>>(octets)?.instance(now, near),
    }
}

/// Reads plain records; their lease begins at `now`.
pub fn read_plain(octets: &[u8], now: Now) -> Result<PlainSet, Unreadable> {
    read::<PlainForm>(octets)?.set(now)
}

pub fn read_token(octets: &[u8]) -> Result<Token, Unreadable> {
    read::<TokenForm>(octets)?.token()
}

/// Reads a host; the deadlines of its checks begin at `now`.
pub fn read_host(octets: &[u8], now: Now) -> Result<Host, Unreadable> {
    read::<HostForm>(octets)?.host(now)
}

pub fn read_settings(octets: &[u8]) -> Result<ServiceSettings, Unreadable> {
    match octets {
        [VERSION, ..] => Ok(read::<TtlForm>(octets)?.settings()),
        [UNGUARDED_VERSION, ..] => read_as::<SettingsForm>(UNGUARDED_VERSION, octets)?.settings(),
        _ => read_as::<GuardedForm>(SETTINGS_VERSION, octets)?.settings(),
    }
}

pub fn read_guard(octets: &[u8]) -> Result<Guard, Unreadable> {
    Ok(read::<GuardForm>(octets)?.guard())
}

pub fn read_left(octets: &[u8], now: Now) -> Result<Left, Unreadable> {
    let form: LeftForm<'_> = read(octets)?;
    Ok(Left {
        instance: form.instance.instance(now, &mut Near::default())?,
        reason: reason(form.reason)?,
        at: Wall { unix_ms: form.at },
        revision: form.revision,
    })
}

pub fn read_change(octets: &[u8]) -> Result<Change, Unreadable> {
    let form: ChangeForm<'_> = read(octets)?;
    let past = Now::default(); // what was has no lease to run out
    let near = std::cell::RefCell::new(Near::default());
    let instance = |form: Option<Box<InstanceForm<'_>>>| {
        form.map(|form| form.instance(past, &mut near.borrow_mut()).map(Arc::new)).transpose()
    };
    let owned = |form: Option<Box<OwnedForm<'_>>>| {
        form.map(|form| form.instance(past, &mut near.borrow_mut()).map(Arc::new)).transpose()
    };
    let token = |form: Option<TokenForm>| form.map(|form| form.token().map(Arc::new)).transpose();
    let host = |form: Option<HostForm>| form.map(|form| form.host(past).map(Arc::new)).transpose();
    Ok(Change {
        revision: form.revision,
        at: Wall { unix_ms: form.at },
        reason: reason(form.reason)?,
        author: form.author.author(),
        what: match form.what {
            WhatForm::Instance(before, after) => {
                What::Instance { before: instance(before)?, after: instance(after)? }
            }
            WhatForm::Owned(before, after) => What::Instance { before: owned(before)?, after: owned(after)? },
            WhatForm::Token(before, after) => What::Token { before: token(before)?, after: token(after)? },
            WhatForm::Plain(before, after) => {
                let set = |form: Option<PlainForm>| form.map(|form| form.set(past).map(Arc::new)).transpose();
                What::Plain { before: set(before)?, after: set(after)? }
            }
            WhatForm::Host(before, after) => What::Host { before: host(before)?, after: host(after)? },
            WhatForm::Forgotten { service, id, host } => What::Forgotten { key: key(&service, &id, &host)? },
            WhatForm::Ttl { service, before, after } => What::Settings {
                service: ServiceName::parse(&service).map_err(damaged)?,
                before: before.settings(),
                after: after.settings(),
            },
            WhatForm::Settings { service, before, after } => What::Settings {
                service: ServiceName::parse(&service).map_err(damaged)?,
                before: before.settings()?,
                after: after.settings()?,
            },
            WhatForm::GuardedSettings { service, before, after } => What::Settings {
                service: ServiceName::parse(&service).map_err(damaged)?,
                before: before.settings()?,
                after: after.settings()?,
            },
            WhatForm::Guard { service, before, after } => What::Guard {
                service: ServiceName::parse(&service).map_err(damaged)?,
                before: before.map(GuardForm::guard),
                after: after.map(GuardForm::guard),
            },
        },
    })
}

fn write(form: &impl Serialize) -> Vec<u8> {
    write_as(VERSION, form)
}

fn write_as(version: u8, form: &impl Serialize) -> Vec<u8> {
    // Every form is made of numbers, texts and lists, which postcard can always write into a vector.
    postcard::to_extend(form, vec![version]).expect("a form has octets")
}

fn read<'a, T: Deserialize<'a>>(octets: &'a [u8]) -> Result<T, Unreadable> {
    read_as(VERSION, octets)
}

fn read_as<'a, T: Deserialize<'a>>(version: u8, octets: &'a [u8]) -> Result<T, Unreadable> {
    postcard::from_bytes(form_of(version, octets)?).map_err(damaged)
}

/// What stands behind the version.
fn form_of(version: u8, octets: &[u8]) -> Result<&[u8], Unreadable> {
    match octets {
        [found, form @ ..] if *found == version => Ok(form),
        [found, ..] if *found > version => Err(Unreadable::Newer(*found)),
        _ => Err(Unreadable::Damaged("a record has no version".to_owned())),
    }
}

fn damaged(what: impl ToString) -> Unreadable {
    Unreadable::Damaged(what.to_string())
}

fn reason_number(reason: Reason) -> u8 {
    Reason::ALL.iter().position(|known| *known == reason).unwrap_or_default() as u8
}

fn reason(number: u8) -> Result<Reason, Unreadable> {
    Reason::ALL.get(usize::from(number)).copied().ok_or_else(|| damaged("an unknown reason"))
}

fn key(service: &str, id: &str, host: &str) -> Result<Key, Unreadable> {
    Ok(Key::new(
        ServiceName::parse(service).map_err(damaged)?,
        InstanceId::parse(id).map_err(damaged)?,
        HostName::parse(host).map_err(damaged)?,
    ))
}

impl AuthorForm {
    fn of(author: &Author) -> Self {
        match author {
            Author::Server => Self::Server,
            Author::User(uid) => Self::User(*uid),
            Author::Address(address) => Self::Address(*address),
            Author::File(path) => Self::File(path.to_string()),
            Author::Token(name) => Self::Token(name.to_string()),
            Author::Certificate(name) => Self::Certificate(name.to_string()),
            Author::Key(name) => Self::Key(name.to_string()),
        }
    }

    fn author(self) -> Author {
        match self {
            Self::Server => Author::Server,
            Self::User(uid) => Author::User(uid),
            Self::Address(address) => Author::Address(address),
            Self::File(path) => Author::File(path.into()),
            Self::Token(name) => Author::Token(name.into()),
            Self::Certificate(name) => Author::Certificate(name.into()),
            Self::Key(name) => Author::Key(name.into()),
        }
    }
}

impl CheckForm {
    fn of(check: &Check) -> Self {
        Self {
            id: check.id.to_string(),
            status: Health::ALL.iter().position(|health| *health == check.status).unwrap_or_default() as u8,
            output: check.output.to_string(),
            since: check.since.unix_ms,
            definition: (check.definition != Definition::reported())
                .then(|| DefinitionForm::of(&check.definition)),
        }
    }

    fn check(self, of: &Leased, now: Now) -> Result<Check, Unreadable> {
        let status = Health::ALL.get(usize::from(self.status)).copied();
        let status = status.ok_or_else(|| damaged("an unknown status"))?;
        let definition = match self.definition {
            None => Definition::reported(),
            Some(form) => Arc::new(form.definition()?),
        };
        let check = Check::new(of, self.id.into(), status, self.output.into(), definition, now);
        Ok(Check { since: Wall { unix_ms: self.since }, ..check })
    }
}

impl DefinitionForm {
    fn of(definition: &Definition) -> Self {
        let milliseconds = |duration: Duration| duration.as_millis() as u64;
        let place = |place: &Place| (place.host.to_string(), place.port);
        let kind = match &definition.kind {
            Kind::Reported => KindForm::Reported,
            Kind::Ttl(ttl) => KindForm::Ttl { milliseconds: milliseconds(*ttl) },
            Kind::Tcp(at) => {
                let (host, port) = place(at);
                KindForm::Tcp { host, port }
            }
            Kind::Http(http) => {
                let (host, port) = place(&http.at);
                KindForm::Http(Box::new(HttpForm {
                    method: http.method.to_string(),
                    host,
                    port,
                    path: http.path.to_string(),
                    headers: pairs(&http.headers),
                    body: http.body.to_string(),
                    expected: http.expected,
                    tls: http.tls.as_ref().map(TlsForm::of),
                }))
            }
            Kind::Grpc { at, service, tls } => {
                let (host, port) = place(at);
                KindForm::Grpc {
                    host,
                    port,
                    service: service.to_string(),
                    tls: tls.as_ref().map(TlsForm::of),
                }
            }
            Kind::Command(args) => KindForm::Command(args.iter().map(|arg| arg.to_string()).collect()),
            Kind::Alias { host, id } => KindForm::Alias {
                host: host.as_ref().map(HostName::to_string),
                id: id.as_ref().map(InstanceId::to_string),
            },
        };
        Self {
            name: definition.name.to_string(),
            notes: definition.notes.to_string(),
            kind,
            interval_ms: milliseconds(definition.interval),
            timeout_ms: milliseconds(definition.timeout),
            rise: definition.rise,
            fall: definition.fall,
            warn: definition.warn,
            deregister_after_ms: definition.deregister_after.map(milliseconds),
        }
    }

    fn definition(self) -> Result<Definition, Unreadable> {
        let place = |host: String, port| Place { host: host.into(), port };
        let kind = match self.kind {
            KindForm::Reported => Kind::Reported,
            KindForm::Ttl { milliseconds } => Kind::Ttl(Duration::from_millis(milliseconds)),
            KindForm::Tcp { host, port } => Kind::Tcp(place(host, port)),
            KindForm::Http(form) => Kind::Http(Box::new(Http {
                method: form.method.into(),
                at: place(form.host, form.port),
                path: form.path.into(),
                headers: map(form.headers),
                body: form.body.into(),
                expected: form.expected,
                tls: form.tls.map(TlsForm::tls),
            })),
            KindForm::Grpc { host, port, service, tls } => {
                Kind::Grpc { at: place(host, port), service: service.into(), tls: tls.map(TlsForm::tls) }
            }
            KindForm::Command(args) => Kind::Command(args.into_iter().map(Into::into).collect()),
            KindForm::Alias { host, id } => Kind::Alias {
                host: host.map(|host| HostName::parse(&host)).transpose().map_err(damaged)?,
                id: id.map(|id| InstanceId::parse(&id)).transpose().map_err(damaged)?,
            },
        };
        Ok(Definition {
            name: self.name.into(),
            notes: self.notes.into(),
            kind,
            interval: Duration::from_millis(self.interval_ms),
            timeout: Duration::from_millis(self.timeout_ms),
            rise: self.rise,
            fall: self.fall,
            warn: self.warn,
            deregister_after: self.deregister_after_ms.map(Duration::from_millis),
        })
    }
}

impl PlainForm {
    fn of(PlainSet { apex, owner, set, lease, .. }: &PlainSet) -> Self {
        Self {
            apex: apex.to_string(),
            owner: owner.to_string(),
            rtype: set.rtype.0,
            ttl: set.ttl,
            data: set.data.iter().map(Data::to_wire).collect(),
            lease_ms: match lease {
                Lease::Timed(duration) => Some(duration.as_millis() as u64),
                Lease::Connection(_) | Lease::None => None,
            },
        }
    }

    fn set(self, now: Now) -> Result<PlainSet, Unreadable> {
        let rtype = Type(self.rtype);
        let data =
            |octets: &Vec<u8>| Data::from_wire(rtype, octets).ok_or_else(|| damaged("data of no record"));
        let data = self.data.iter().map(data).collect::<Result<_, _>>()?;
        let (apex, owner) =
            (Apex::parse(&self.apex).map_err(damaged)?, Name::parse(&self.owner).map_err(damaged)?);
        let lease = self.lease_ms.map_or(Lease::None, |ms| Lease::Timed(Duration::from_millis(ms)));
        Ok(PlainSet::new(&apex, &owner, RrSet { rtype, ttl: self.ttl, data }, lease, now))
    }
}

impl TlsForm {
    fn of(tls: &Tls) -> Self {
        Self { skip_verify: tls.skip_verify, server_name: tls.server_name.as_deref().map(str::to_owned) }
    }

    fn tls(self) -> Tls {
        Tls { skip_verify: self.skip_verify, server_name: self.server_name.map(Into::into) }
    }
}

impl TtlForm {
    fn settings(self) -> ServiceSettings {
        ServiceSettings { ttl: self.ttl, ..ServiceSettings::default() }
    }
}

impl SettingsForm {
    fn of(settings: &ServiceSettings) -> Self {
        Self {
            ttl: settings.ttl,
            balance: settings.balance.map(|balance| balance.to_string()),
            max_answers: settings.max_answers,
            failover: settings
                .failover
                .as_deref()
                .map(|fallbacks| fallbacks.iter().map(Fallback::to_string).collect()),
            srv_weights: settings.srv_weights.map(|weights| weights.as_str().to_owned()),
        }
    }

    fn settings(self) -> Result<ServiceSettings, Unreadable> {
        let weights = |text: String| SrvWeights::parse(&text).ok_or_else(|| damaged("unknown weights"));
        let balance = |text: String| Balance::parse(&text).ok_or_else(|| damaged("an unknown balance"));
        Ok(ServiceSettings {
            ttl: self.ttl,
            balance: self.balance.map(balance).transpose()?,
            max_answers: self.max_answers,
            failover: self
                .failover
                .map(|names| names.iter().map(|name| Fallback::parse(name)).collect::<Result<_, _>>())
                .transpose()
                .map_err(damaged)?,
            srv_weights: self.srv_weights.map(weights).transpose()?,
            ..ServiceSettings::default()
        })
    }
}

impl GuardedForm {
    fn of(settings: &ServiceSettings) -> Self {
        Self {
            rest: SettingsForm::of(settings),
            guard: settings.guard,
            guard_for_ms: settings.guard_for.map(|time| time.as_millis() as u64),
        }
    }

    fn settings(self) -> Result<ServiceSettings, Unreadable> {
        let guard_for = self.guard_for_ms.map(Duration::from_millis);
        Ok(ServiceSettings { guard: self.guard, guard_for, ..self.rest.settings()? })
    }
}

impl GuardForm {
    fn of(guard: Guard) -> Self {
        Self { from: guard.from.unix_ms, since: guard.since.unix_ms }
    }

    fn guard(self) -> Guard {
        Guard { from: Wall { unix_ms: self.from }, since: Wall { unix_ms: self.since } }
    }
}

fn pairs(map: &BTreeMap<Arc<str>, Arc<str>>) -> Vec<(String, String)> {
    map.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

fn map(pairs: Vec<(String, String)>) -> BTreeMap<Arc<str>, Arc<str>> {
    pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect()
}

impl HostForm {
    fn of(host: &Host) -> Self {
        Self {
            name: host.name.to_string(),
            addresses: host.addresses.clone(),
            meta: pairs(&host.meta),
            id: host.id.as_deref().map(str::to_owned),
            checks: host.checks.iter().map(CheckForm::of).collect(),
            created: host.created,
            revision: host.revision,
        }
    }

    fn host(self, now: Now) -> Result<Host, Unreadable> {
        let name = HostName::parse(&self.name).map_err(damaged)?;
        let of = Leased::Host(name.clone());
        let checks = self.checks.into_iter().map(|check| check.check(&of, now)).collect::<Result<_, _>>()?;
        Ok(Host {
            name,
            addresses: self.addresses,
            meta: map(self.meta),
            id: self.id.map(Into::into),
            checks,
            created: self.created,
            revision: self.revision,
        })
    }
}

impl Near {
    fn owner(&mut self, owner: Owner) -> Arc<Owner> {
        let shared = self.owner.take().filter(|known| **known == owner).unwrap_or_else(|| Arc::new(owner));
        self.owner = Some(shared.clone());
        shared
    }

    /// A key with the texts of the one before, where they are the same.
    fn key(&mut self, service: &str, id: &str, host: &str) -> Result<Key, Unreadable> {
        let service = match self.service.take().filter(|name| name.as_str() == service) {
            Some(name) => name,
            None => ServiceName::parse(service).map_err(damaged)?,
        };
        let host = match self.host.take().filter(|name| name.as_str() == host) {
            Some(name) => name,
            None => HostName::parse(host).map_err(damaged)?,
        };
        (self.service, self.host) = (Some(service.clone()), Some(host.clone()));
        Ok(Key::new(service, InstanceId::parse(id).map_err(damaged)?, host))
    }
}

impl<'a> InstanceForm<'a> {
    fn of(instance: &'a Instance) -> Self {
        let port = |port: &Port| {
            (port.name.as_deref().map(str::to_owned), port.number, port.transport == Transport::Udp)
        };
        Self {
            service: instance.key.service.as_str(),
            id: instance.key.id.as_str(),
            host: instance.key.host.as_str(),
            label: instance.label.as_str(),
            addresses: instance.addresses().to_vec(),
            target: match &instance.location {
                Location::Target(target) => target.to_string(),
                Location::Addresses(_) => String::new(),
            },
            ports: instance.ports.iter().map(port).collect(),
            protocol: instance.protocol.as_deref().map(str::to_owned),
            tags: instance.tags.iter().map(Tag::to_string).collect(),
            meta: pairs(&instance.meta),
            weight: instance.weight,
            priority: instance.priority,
            lease: match instance.lease {
                Lease::Timed(duration) => LeaseForm::Milliseconds(duration.as_millis() as u64),
                Lease::Connection(_) => LeaseForm::Connection,
                Lease::None => LeaseForm::None,
            },
            lease_id: instance.lease_id,
            checks: instance.checks.iter().map(CheckForm::of).collect(),
            draining: instance.draining,
            registered: instance.registered.unix_ms,
            since: instance.since.unix_ms,
            created: instance.created,
            revision: instance.revision,
            source: instance.source.as_deref().map(str::to_owned),
            consul: instance.consul.as_deref().map(ConsulForm::of),
        }
    }

    fn instance(self, now: Now, near: &mut Near) -> Result<Instance, Unreadable> {
        let key = near.key(self.service, self.id, self.host)?;
        let own = key.id.label();
        let label = match own.as_str() == self.label {
            true => own,
            false => Label::parse(self.label).map_err(damaged)?,
        };
        let (lease, deadline) = match self.lease {
            LeaseForm::Milliseconds(milliseconds) => {
                let duration = Duration::from_millis(milliseconds);
                (Lease::Timed(duration), LeaseCell::timed(key.clone(), duration, now))
            }
            LeaseForm::Connection => {
                (Lease::Connection(NO_CONNECTION), LeaseCell::timed(key.clone(), CONNECTION_GRACE, now))
            }
            LeaseForm::None => (Lease::None, LeaseCell::unlimited(key.clone())),
        };
        let transport = |udp| if udp { Transport::Udp } else { Transport::Tcp };
        let ports: Vec<Port> = self
            .ports
            .into_iter()
            .map(|(name, number, udp)| Port { name: name.map(Into::into), number, transport: transport(udp) })
            .collect();
        if self.addresses.is_empty() && self.target.is_empty() {
            return Err(damaged("an instance without an address"));
        }
        let of = Leased::Instance(key.clone());
        let extras = Extras {
            protocol: self.protocol.map(Into::into),
            tags: self.tags.iter().map(|tag| Tag::parse(tag)).collect::<Result<_, _>>().map_err(damaged)?,
            meta: map(self.meta),
            checks: self.checks.into_iter().map(|check| check.check(&of, now)).collect::<Result<_, _>>()?,
            source: self.source.map(Into::into),
            consul: self.consul.map(|form| Arc::new(form.facts())),
        };
        Ok(Instance {
            key,
            label,
            location: match self.target.as_str() {
                "" => Location::Addresses(self.addresses.into()),
                target => Location::Target(Name::parse(target).map_err(damaged)?),
            },
            ports: ports.into(),
            weight: self.weight,
            priority: self.priority,
            lease,
            lease_id: self.lease_id,
            deadline,
            draining: self.draining,
            registered: Wall { unix_ms: self.registered },
            since: Wall { unix_ms: self.since },
            created: self.created,
            revision: self.revision,
            owner: None,
            extras: extras.kept(),
        })
    }
}

impl<'a> OwnedForm<'a> {
    fn of(instance: &'a Instance) -> Self {
        let owner = instance.owner.as_deref().map(|owner| match owner {
            Owner::User(uid) => OwnerForm::User(*uid),
            Owner::Token(name) => OwnerForm::Token(name.to_string()),
            Owner::Certificate(name) => OwnerForm::Certificate(name.to_string()),
            Owner::Key(name) => OwnerForm::Key(name.to_string()),
            Owner::Address(address) => OwnerForm::Address(*address),
        });
        Self { instance: InstanceForm::of(instance), owner }
    }

    fn instance(self, now: Now, near: &mut Near) -> Result<Instance, Unreadable> {
        let owner = self.owner.map(|owner| match owner {
            OwnerForm::User(uid) => Owner::User(uid),
            OwnerForm::Token(name) => Owner::Token(name.into()),
            OwnerForm::Certificate(name) => Owner::Certificate(name.into()),
            OwnerForm::Key(name) => Owner::Key(name.into()),
            OwnerForm::Address(address) => Owner::Address(address),
        });
        let owner = owner.map(|owner| near.owner(owner));
        Ok(Instance { owner, ..self.instance.instance(now, near)? })
    }
}

impl TokenForm {
    fn of(token: &Token) -> Self {
        let grants = |allows| {
            token.grants.iter().filter(|grant| grant.allows == allows).map(Grant::to_string).collect()
        };
        Self {
            name: token.name.to_string(),
            number: token.number,
            hash: token.hash,
            allow: grants(true),
            deny: grants(false),
            created: token.created.unix_ms,
            expires: token.expires.map(|expires| expires.unix_ms),
        }
    }

    fn token(self) -> Result<Token, Unreadable> {
        let grants = [(self.allow, true), (self.deny, false)].into_iter();
        let grants = grants.flat_map(|(texts, allows)| texts.into_iter().map(move |text| (text, allows)));
        Ok(Token {
            name: self.name.into(),
            number: self.number,
            hash: self.hash,
            grants: grants
                .map(|(text, allows)| Grant::parse(&text, allows))
                .collect::<Result<_, _>>()
                .map_err(damaged)?,
            created: Wall { unix_ms: self.created },
            expires: self.expires.map(|unix_ms| Wall { unix_ms }),
        })
    }
}

impl ConsulForm {
    fn of(facts: &ConsulFacts) -> Self {
        let tagged = |(label, (address, port)): (&Arc<str>, &(Arc<str>, u16))| {
            (label.to_string(), address.to_string(), *port)
        };
        Self {
            address: facts.address.to_string(),
            tagged_addresses: facts.tagged_addresses.iter().map(tagged).collect(),
            weight_warning: facts.weight_warning,
            enable_tag_override: facts.enable_tag_override,
            through_catalog: facts.through_catalog,
        }
    }

    fn facts(self) -> ConsulFacts {
        let tagged = self.tagged_addresses.into_iter();
        ConsulFacts {
            address: self.address.into(),
            tagged_addresses: tagged
                .map(|(label, address, port)| (label.into(), (address.into(), port)))
                .collect(),
            weight_warning: self.weight_warning,
            enable_tag_override: self.enable_tag_override,
            through_catalog: self.through_catalog,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_as_they_were_written_whatever_the_version() {
        let ttl = |seconds| ServiceSettings { ttl: seconds, ..ServiceSettings::default() };
        // What version 1 wrote: no TTL, and one of 60 seconds.
        assert_eq!(read_settings(&[1, 0]), Ok(ttl(None)));
        assert_eq!(read_settings(&[1, 1, 60]), Ok(ttl(Some(60))));
        let settings = ServiceSettings {
            ttl: Some(0),
            balance: Balance::parse("one:affinity"),
            max_answers: Some(7),
            failover: Some(["standby", "a.example.com"].map(|name| Fallback::parse(name).unwrap()).into()),
            srv_weights: Some(SrvWeights::Haproxy),
            ..ServiceSettings::default()
        };
        // What version 2 wrote.
        let before = write_as(2, &SettingsForm::of(&settings));
        assert_eq!(read_settings(&before), Ok(settings.clone()));
        let settings =
            ServiceSettings { guard: Some(50), guard_for: Some(Duration::from_secs(60)), ..settings };
        assert_eq!(read_settings(&write_settings(&settings)), Ok(settings));
        assert_eq!(read_settings(&[4, 0]), Err(Unreadable::Newer(4)));
        assert!(matches!(read_settings(&[]), Err(Unreadable::Damaged(_))));
    }

    #[test]
    fn a_change_of_settings_of_version_1_is_read() {
        let what = WhatForm::Ttl {
            service: "web".to_owned(),
            before: TtlForm { ttl: None },
            after: TtlForm { ttl: Some(60) },
        };
        let reason = reason_number(Reason::Configured);
        let octets = write(&ChangeForm { revision: 7, at: 0, reason, author: AuthorForm::Server, what });
        // The number of the form is what it was: the fourth.
        assert_eq!(octets[5..], [3, 3, b'w', b'e', b'b', 0, 1, 60]);
        let What::Settings { service, after, .. } = read_change(&octets).unwrap().what else { panic!() };
        assert_eq!((service.as_str(), after.ttl), ("web", Some(60)));
    }
}
