//! A registry on its way to another one: the lines of an export, which an import takes.
//!
//! A line is what would register the thing, and beside it what no registration says: since when it is so, whose it is,
//! what its checks said. Revisions are a store's own and not in it; what left, and guards in force, are over
//! before anybody has moved.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    CheckForm, InstanceForm, Pairs, Peer, PortForm, Problem, RegisterForm, Secret, SettingsForm, Several,
    lease_id_text, lease_text, printable, token_name,
};
use crate::access::{GRANTS_MAX, Grant, Owner, Token};
use crate::check::{CHECKS_MAX, Check};
use crate::instance::{
    ADDRESSES_MAX, ConsulFacts, Extras, Host, Instance, Key, LEASE_MS_MAX, LEASE_MS_MIN, Lease,
    META_KEY_OCTETS_MAX, META_MAX, META_VALUE_OCTETS_MAX, ServiceSettings,
};
use crate::lease::{CONNECTION_GRACE, LeaseCell, Leased, NO_CONNECTION};
use crate::name::{Apex, HostName, Label, Name, ServiceName};
use crate::record::{Data, RrSet};
use crate::registry::{How, Imported, PlainSet};
use crate::time::{Now, Wall, parse_duration, parse_time};
use crate::zone::RRSET_RECORDS_MAX;
use crate::zone_file;

/// The form of the lines that this program writes, and the newest that it reads.
pub const VERSION: u32 = 1;
/// Longest line of an import: an instance with what its checks said may be longer than any request.
pub const IMPORT_OCTETS_MAX: usize = 8 * super::FRAME_OCTETS_MAX;
/// How often a label that is taken is hashed anew before somebody must have made it up.
const LABEL_ATTEMPTS: u32 = 16;
/// Octets of a source, of a host's id and of an address as Consul's clients wrote it.
const TEXT_OCTETS_MAX: usize = 4096;

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Line {
    /// The first.
    Callsign(HeadForm),
    Token(TokenLine),
    Host(HostLine),
    Settings(Box<SettingsForm>),
    Instance(Box<InstanceLine>),
    Records(RecordsLine),
    /// The last: a file without it is not whole.
    End(EndForm),
}

/// Where the lines are from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadForm {
    /// `VERSION` of whoever wrote them.
    pub version: u32,
    /// The version of the program.
    pub program: String,
    pub at: String,
    pub revision: u64,
    /// That of the SOA, which is the base plus the revision.
    pub serial: u32,
    pub serial_base: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndForm {
    /// Lines between the first and this one.
    pub lines: u64,
    /// Records set by UPDATE that no line has: the first programs of this form left them out, and said so.
    #[serde(default, skip_serializing)]
    pub records_left_out: u64,
}

/// Plain records of one owner and type that were set by UPDATE.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordsLine {
    /// The zone that they were set in.
    pub zone: String,
    pub owner: String,
    #[serde(rename = "type")]
    pub rtype: String,
    /// Seconds.
    pub ttl: u32,
    /// As a zone file has them, one text a record.
    pub data: Vec<String>,
    /// How long they stay unless they are set again; for good where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<String>,
}

/// A token: its hash, not its text, which only its holder has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenLine {
    pub name: String,
    /// 16 hexadecimal digits.
    pub number: String,
    /// SHA-256 of the secret, 64 hexadecimal digits.
    pub hash: Secret,
    pub allow: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<String>,
    pub created: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostLine {
    pub name: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub address: Vec<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meta: Option<Pairs<String>>,
    /// Consul's node id, where it was given one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<CheckLine>,
}

/// A check, and what it said.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckLine {
    pub check: CheckForm,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub output: String,
    /// Since when the status is what it is; the moment of the import where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceLine {
    /// What would register it, its checks aside; with `host` and `id`.
    pub register: RegisterForm,
    /// Its own label in DNS; made from its id where it is left out, or taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<CheckLine>,
    /// What its holder renews it with; another one where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_id: Option<Secret>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registered: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<OwnerForm>,
    /// The service file that defines it, or where it was imported from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consul: Option<ConsulForm>,
}

/// Who may change an instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OwnerForm {
    Uid(u32),
    Token(String),
    Certificate(String),
    Address(IpAddr),
    /// Of UPDATE.
    Key(String),
}

/// What Consul's API has of an instance and nothing else needs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsulForm {
    /// As given; empty where it is its host's.
    pub address: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tagged_addresses: BTreeMap<String, TaggedForm>,
    pub weight_warning: u16,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub enable_tag_override: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub through_catalog: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaggedForm {
    pub address: String,
    pub port: u16,
}

/// A line to take in, and what may become of what is there.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportForm {
    pub line: Line,
    #[serde(default)]
    pub how: HowForm,
}

/// See [`How`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HowForm {
    #[default]
    Add,
    Update,
    Replace,
    Remove,
}

/// What came of a line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImportedForm {
    /// False where it was so already.
    pub changed: bool,
    pub revision: u64,
    pub serial: u32,
}

impl From<HowForm> for How {
    fn from(form: HowForm) -> Self {
        match form {
            HowForm::Add => Self::Add,
            HowForm::Update => Self::Update,
            HowForm::Replace => Self::Replace,
            HowForm::Remove => Self::Remove,
        }
    }
}

/// How far a serial has to rise to be above `theirs`; 0 where it is (RFC 1982 section 3.2).
pub fn serial_behind(ours: u32, theirs: u32) -> u32 {
    match theirs.wrapping_sub(ours) {
        ahead @ 0..0x7fff_ffff => ahead + 1,
        // As far as a serial can rise at once, or above them already.
        0x7fff_ffff => 0x7fff_ffff,
        _ => 0,
    }
}

impl HeadForm {
    /// # Errors
    ///
    /// A newer version wrote it.
    pub fn check(&self) -> Result<(), Problem> {
        match self.version {
            1..=VERSION => Ok(()),
            version => {
                let rule =
                    format!("is {version}, and this program reads up to {VERSION}; import with a newer one");
                Err(Problem::invalid("version", rule))
            }
        }
    }
}

impl Line {
    /// What the line says, checked as a request is; `None` for the first and the last.
    ///
    /// A name below one of `apexes` is a service's. `random` is the id of a lease that the line has none of, and leases
    /// begin at `now`.
    ///
    /// # Errors
    ///
    /// A field does not fit; the problem names it.
    pub fn imported(
        &self,
        apexes: &[Apex],
        loopback_allowed: bool,
        random: u64,
        now: Now,
    ) -> Result<Option<Imported>, Problem> {
        Ok(match self {
            Self::Callsign(head) => {
                head.check()?;
                None
            }
            Self::End(_) => None,
            Self::Token(line) => Some(Imported::Token(Arc::new(line.token(now)?))),
            Self::Host(line) => Some(Imported::Host(line.host(now)?)),
            Self::Settings(form) => {
                let (service, configuration) = form.configuration(apexes)?;
                let settings = configuration.map(|configuration| configuration.given);
                let settings = settings.ok_or_else(|| {
                    Problem::invalid("service", "has no settings in this line; leave the line out")
                })?;
                Some(Imported::Settings(service, settings))
            }
            Self::Records(line) => Some(Imported::Records(line.set(now)?)),
            Self::Instance(line) => Some(Imported::Instance(line.instance(loopback_allowed, random, now)?)),
        })
    }

    pub fn settings(service: &ServiceName, settings: &ServiceSettings) -> Self {
        Self::Settings(Box::new(SettingsForm::of(service, settings)))
    }
}

impl TokenLine {
    pub fn of(token: &Token) -> Self {
        let grants = |allows| {
            token.grants.iter().filter(|grant| grant.allows == allows).map(Grant::to_string).collect()
        };
        Self {
            name: token.name.to_string(),
            number: lease_id_text(token.number),
            hash: Secret(token.hash.iter().map(|octet| format!("{octet:02x}")).collect()),
            allow: grants(true),
            deny: grants(false),
            created: token.created.to_string(),
            expires: token.expires.map(|expires| expires.to_string()),
        }
    }

    fn token(&self, now: Now) -> Result<Token, Problem> {
        let mut grants = Vec::new();
        for (field, texts, allows) in [("allow", &self.allow, true), ("deny", &self.deny, false)] {
            for text in texts {
                grants.push(Grant::parse(text, allows).map_err(|what| Problem::invalid(field, what))?);
            }
        }
        if !(1..=GRANTS_MAX).contains(&grants.len()) {
            let rule = format!("and deny must have 1 to {GRANTS_MAX} entries together, not {}", grants.len());
            return Err(Problem::invalid("allow", rule));
        }
        let mut hash = [0; 32];
        let digits = self.hash.0.as_bytes();
        let fits = digits.len() == 64 && digits.iter().all(u8::is_ascii_hexdigit);
        for (octet, pair) in hash.iter_mut().zip(digits.chunks(2)).filter(|_| fits) {
            let digit = |digit: u8| (digit as char).to_digit(16).unwrap_or_default();
            *octet = (digit(pair[0]) << 4 | digit(pair[1])) as u8;
        }
        if !fits {
            return Err(Problem::invalid("hash", "must be 64 hexadecimal digits"));
        }
        Ok(Token {
            name: token_name(&self.name)?,
            number: hexadecimal("number", &self.number)?,
            hash,
            grants,
            created: time("created", &self.created, now)?,
            expires: self.expires.as_deref().map(|text| time("expires", text, now)).transpose()?,
        })
    }
}

impl RecordsLine {
    pub fn of(set: &PlainSet) -> Self {
        Self {
            zone: set.apex.to_string(),
            owner: set.owner.to_string(),
            rtype: set.set.rtype.to_string(),
            ttl: set.set.ttl,
            data: set.set.data.iter().map(Data::to_string).collect(),
            lease: Some(set.lease).filter(|lease| *lease != Lease::None).map(lease_text),
        }
    }

    fn set(&self, now: Now) -> Result<PlainSet, Problem> {
        let unfit = |field, text: &str, what: &str| {
            Problem::invalid(field, format!("must be {what}, not `{}`", printable(text)))
        };
        let apex = Apex::parse(&self.zone).map_err(|error| Problem::invalid("zone", error))?;
        let owner = Name::parse(&self.owner).map_err(|error| Problem::invalid("owner", error))?;
        if self.data.is_empty() || self.data.len() > RRSET_RECORDS_MAX {
            let rule = format!("must hold 1 to {RRSET_RECORDS_MAX} records, not {}", self.data.len());
            return Err(Problem::invalid("data", rule));
        }
        let mut data: Vec<Data> = Vec::with_capacity(self.data.len());
        for text in &self.data {
            // As a line of a zone file, which is one record and nothing else.
            let line = format!("{owner} {} IN {} {text}\n", self.ttl, self.rtype);
            let read = zone_file::read(line.as_bytes(), apex.name()).ok().filter(|read| read.len() == 1);
            let record = read.and_then(|mut read| read.pop()).map(|(_, record)| record);
            let record = record.filter(|record| record.data.rtype().to_string() == self.rtype);
            let record =
                record.ok_or_else(|| unfit("data", text, "data of its type as a zone file has them"))?;
            data.push(record.data);
        }
        let lease = match self.lease.as_deref() {
            None => Lease::None,
            Some(text) => {
                let lease = parse_duration(text)
                    .filter(|lease| (LEASE_MS_MIN..=LEASE_MS_MAX).contains(&(lease.as_millis() as u64)));
                Lease::Timed(lease.ok_or_else(|| unfit("lease", text, "a duration of 1s to 7d"))?)
            }
        };
        let set = RrSet { rtype: data[0].rtype(), ttl: self.ttl, data };
        Ok(PlainSet::new(&apex, &owner, set, lease, now))
    }
}

impl HostLine {
    pub fn of(host: &Host) -> Self {
        let pairs = |(key, value): (&Arc<str>, &Arc<str>)| (key.to_string(), value.to_string());
        Self {
            name: host.name.to_string(),
            address: host.addresses.clone(),
            meta: (!host.meta.is_empty()).then(|| Pairs(host.meta.iter().map(pairs).collect())),
            id: host.id.as_deref().map(str::to_owned),
            checks: host.checks.iter().map(CheckLine::of).collect(),
        }
    }

    fn host(&self, now: Now) -> Result<Host, Problem> {
        let name = HostName::parse(&self.name).map_err(|unfit| Problem::invalid("name", unfit))?;
        if self.address.len() > ADDRESSES_MAX {
            let rule = format!("may list at most {ADDRESSES_MAX} addresses, not {}", self.address.len());
            return Err(Problem::invalid("address", rule));
        }
        let meta = self.meta.as_ref().map(|meta| meta.0.as_slice()).unwrap_or_default();
        let fits = |(key, value): &(String, String)| {
            (1..=META_KEY_OCTETS_MAX).contains(&key.len()) && value.len() <= META_VALUE_OCTETS_MAX
        };
        if meta.len() > META_MAX || !meta.iter().all(fits) {
            let rule = format!(
                "may hold {META_MAX} pairs of at most {META_KEY_OCTETS_MAX} and {META_VALUE_OCTETS_MAX} octets"
            );
            return Err(Problem::invalid("meta", rule));
        }
        let checks = checks(&self.checks, &Leased::Host(name.clone()), now)?;
        Ok(Host {
            name,
            addresses: self.address.clone(),
            meta: meta.iter().map(|(key, value)| (key.as_str().into(), value.as_str().into())).collect(),
            id: self.id.as_deref().map(|id| text("id", id)).transpose()?,
            checks,
            created: 0,
            revision: 0,
        })
    }
}

impl CheckLine {
    fn of(check: &Check) -> Self {
        Self {
            check: CheckForm::of(check),
            output: check.output.to_string(),
            since: Some(check.since.to_string()),
        }
    }
}

fn checks(lines: &[CheckLine], of: &Leased, now: Now) -> Result<Vec<Check>, Problem> {
    if lines.len() > CHECKS_MAX {
        let rule = format!("may list at most {CHECKS_MAX} checks, not {}", lines.len());
        return Err(Problem::invalid("checks", rule));
    }
    let mut checks: Vec<Check> = Vec::with_capacity(lines.len());
    for line in lines {
        let check = line.check.listed("checks")?;
        if checks.iter().any(|known| known.id == check.id) {
            return Err(Problem::invalid("checks", format!("name `{}` twice", check.id)));
        }
        let status = check.status.unwrap_or(crate::instance::Health::Critical);
        let output = crate::check::kept_output(&line.output).into();
        let since = line.since.as_deref().map(|text| time("checks.since", text, now)).transpose()?;
        let made = Check::new(of, check.id, status, output, check.definition, now);
        checks.push(Check { since: since.unwrap_or(now.wall), ..made });
    }
    Ok(checks)
}

impl InstanceForm {
    /// What would register the instance, its checks and its lease aside.
    pub fn registration(&self) -> RegisterForm {
        let named = self.ports.iter().filter_map(|port| {
            let form = PortForm { port: port.port.into(), transport: Some(port.transport.clone()) };
            Some((port.name.clone()?, form))
        });
        let named: Vec<(String, PortForm)> = named.collect();
        let unnamed = self.ports.iter().find(|port| port.name.is_none());
        RegisterForm {
            service: self.service.clone(),
            id: Some(self.id.clone()),
            host: Some(self.host.clone()),
            address: self.target.is_none().then(|| Several(self.address.clone())),
            target: self.target.clone(),
            port: unnamed.map(|port| port.port.into()),
            ports: (unnamed.is_none() || !named.is_empty()).then_some(Pairs(named)),
            protocol: self.protocol.clone(),
            tags: Some(self.tags.clone()),
            meta: Some(Pairs(self.meta.clone().into_iter().collect())),
            weight: Some(self.weight.into()),
            priority: Some(self.priority.into()),
            lease: None,
            checks: None,
        }
    }
}

impl InstanceLine {
    pub fn of(instance: &Instance, now: Now) -> Self {
        let form = InstanceForm::of(instance, instance.health(), false, now);
        Self {
            register: RegisterForm { lease: Some(form.lease.clone()), ..form.registration() },
            label: Some(form.label),
            checks: instance.checks.iter().map(CheckLine::of).collect(),
            lease_id: Some(Secret(lease_id_text(instance.lease_id))),
            draining: instance.draining,
            registered: Some(form.registered),
            since: Some(form.since),
            owner: instance.owner.as_deref().map(OwnerForm::of),
            source: form.source,
            consul: instance.consul.as_deref().map(ConsulForm::of),
        }
    }

    fn instance(&self, loopback_allowed: bool, random: u64, now: Now) -> Result<Instance, Problem> {
        let missing = |field, rule: &str| Err(Problem::invalid(field, format!("is missing; {rule}")));
        let Some(host) = &self.register.host else {
            return missing("host", "an import says on which host each instance is");
        };
        if self.register.address.is_none() && self.register.target.is_none() {
            return missing("address", "give one, or a target");
        }
        if self.register.checks.is_some() {
            return Err(Problem::invalid("checks", "stand beside `register` in an import, not in it"));
        }
        let host = HostName::parse(host).map_err(|unfit| Problem::invalid("host", unfit))?;
        let peer = Peer { host, addresses: Vec::new(), loopback_allowed, connection: NO_CONNECTION };
        let lease_id = self.lease_id.as_ref().map(|text| hexadecimal("lease_id", &text.0)).transpose()?;
        let registration = self.register.registration(&peer, lease_id.unwrap_or(random))?;
        let key = registration.key;
        let checks = checks(&self.checks, &Leased::Instance(key.clone()), now)?;
        let since = |field, text: &Option<String>| {
            text.as_deref().map_or(Ok(now.wall), |text| time(field, text, now))
        };
        let deadline = match registration.lease {
            Lease::Timed(duration) => LeaseCell::timed(key.clone(), duration, now),
            Lease::Connection(_) => LeaseCell::timed(key.clone(), CONNECTION_GRACE, now),
            Lease::None => LeaseCell::unlimited(key.clone()),
        };
        let extras = Extras {
            protocol: registration.protocol,
            tags: registration.tags,
            meta: registration.meta,
            checks,
            source: self.source.as_deref().map(|source| text("source", source)).transpose()?,
            consul: self.consul.as_ref().map(|form| form.facts().map(Arc::new)).transpose()?,
        };
        Ok(Instance {
            label: self.label_of(&key)?,
            key,
            location: registration.location,
            ports: registration.ports.into(),
            weight: registration.weight,
            priority: registration.priority,
            lease: registration.lease,
            lease_id: registration.lease_id,
            deadline,
            draining: self.draining,
            registered: since("registered", &self.registered)?,
            since: since("since", &self.since)?,
            created: 0,
            revision: 0,
            owner: self.owner.as_ref().map(|form| form.owner().map(Arc::new)).transpose()?,
            extras: extras.kept(),
        })
    }

    /// Its label, which must be one that its id or its host gives it.
    fn label_of(&self, key: &Key) -> Result<Label, Problem> {
        let own = key.id.label();
        let Some(given) = &self.label else { return Ok(own) };
        let mut possible = std::iter::once(own)
            .chain((0..LABEL_ATTEMPTS).map(|attempt| key.id.label_on(&key.host, attempt)));
        possible.find(|label| label.as_str() == given).ok_or_else(|| {
            let rule = format!("`{}` is none that this id has; leave it out", printable(given));
            Problem::invalid("label", rule)
        })
    }
}

impl OwnerForm {
    fn of(owner: &Owner) -> Self {
        match owner {
            Owner::User(uid) => Self::Uid(*uid),
            Owner::Token(name) => Self::Token(name.to_string()),
            Owner::Certificate(name) => Self::Certificate(name.to_string()),
            Owner::Address(address) => Self::Address(*address),
            Owner::Key(name) => Self::Key(name.to_string()),
        }
    }

    fn owner(&self) -> Result<Owner, Problem> {
        Ok(match self {
            Self::Uid(uid) => Owner::User(*uid),
            Self::Token(name) => Owner::Token(token_name(name)?),
            Self::Certificate(name) => Owner::Certificate(text("owner", name)?),
            Self::Address(address) => Owner::Address(*address),
            Self::Key(name) => Owner::Key(text("owner", name)?),
        })
    }
}

impl ConsulForm {
    fn of(facts: &ConsulFacts) -> Self {
        let tagged = |(label, (address, port)): (&Arc<str>, &(Arc<str>, u16))| {
            (label.to_string(), TaggedForm { address: address.to_string(), port: *port })
        };
        Self {
            address: facts.address.to_string(),
            tagged_addresses: facts.tagged_addresses.iter().map(tagged).collect(),
            weight_warning: facts.weight_warning,
            enable_tag_override: facts.enable_tag_override,
            through_catalog: facts.through_catalog,
        }
    }

    fn facts(&self) -> Result<ConsulFacts, Problem> {
        if self.tagged_addresses.len() > ADDRESSES_MAX {
            let rule = format!("may hold at most {ADDRESSES_MAX} addresses");
            return Err(Problem::invalid("consul.tagged_addresses", rule));
        }
        let tagged = self.tagged_addresses.iter().map(|(label, form)| {
            let address = text("consul.tagged_addresses", &form.address)?;
            Ok((text("consul.tagged_addresses", label)?, (address, form.port)))
        });
        Ok(ConsulFacts {
            address: text("consul.address", &self.address)?,
            tagged_addresses: tagged.collect::<Result<_, Problem>>()?,
            weight_warning: self.weight_warning,
            enable_tag_override: self.enable_tag_override,
            through_catalog: self.through_catalog,
        })
    }
}

fn text(field: &str, given: &str) -> Result<Arc<str>, Problem> {
    match given.len() <= TEXT_OCTETS_MAX && !given.chars().any(char::is_control) {
        true => Ok(given.into()),
        false => {
            Err(Problem::invalid(field, format!("must be at most {TEXT_OCTETS_MAX} octets without controls")))
        }
    }
}

fn time(field: &str, given: &str, now: Now) -> Result<Wall, Problem> {
    parse_time(given, now.wall).ok_or_else(|| {
        Problem::invalid(
            field,
            format!("must be a time such as 2026-11-21T15:04:05Z, not `{}`", printable(given)),
        )
    })
}

fn hexadecimal(field: &str, given: &str) -> Result<u64, Problem> {
    let number = u64::from_str_radix(given, 16).ok().filter(|_| given.len() == 16);
    number.ok_or_else(|| Problem::invalid(field, "must be 16 hexadecimal digits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_rises_above_the_other_and_never_falls() {
        for (ours, theirs, rise) in [
            (5, 4, 0),
            (5, 5, 1),
            (5, 9, 5),
            (u32::MAX, 3, 5),
            (3, u32::MAX, 0),
            (0, 0x7fff_fffe, 0x7fff_ffff),
            (0, 0x7fff_ffff, 0x7fff_ffff),
            (0, 0x8000_0000, 0),
        ] {
            assert_eq!(serial_behind(ours, theirs), rise, "{ours} {theirs}");
        }
    }
}
