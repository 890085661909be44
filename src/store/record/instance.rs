//! Instances, of this machine or somebody's, and those that left.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::check::CheckForm;
use super::{
    OWNED_VERSION, Unreadable, damaged, map, pairs, read, read_as, reason, reason_number, write, write_as,
};
use crate::access::Owner;
use crate::instance::{ConsulFacts, Extras, Instance, Key, Lease, Location, Port, Transport};
use crate::lease::{CONNECTION_GRACE, LeaseCell, Leased, NO_CONNECTION};
use crate::name::{HostName, InstanceId, Label, Name, ServiceName, Tag};
use crate::registry::{Change, Reason};
use crate::time::{Now, Wall};

/// What is kept of an instance that left.
#[derive(Clone, Debug)]
pub struct Left {
    pub instance: Instance,
    pub reason: Reason,
    pub at: Wall,
    pub revision: u64,
}

#[derive(Serialize, Deserialize)]
pub(super) struct InstanceForm<'a> {
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
pub(super) struct OwnedForm<'a> {
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
struct LeftForm<'a> {
    #[serde(borrow)]
    instance: InstanceForm<'a>,
    reason: u8,
    at: i64,
    revision: u64,
}

/// Names that were read last: records lie in the order of their services, and neighbours share what is the same.
#[derive(Debug, Default)]
pub struct Near {
    service: Option<ServiceName>,
    host: Option<HostName>,
    owner: Option<Arc<Owner>>,
}

impl Near {
    fn owner(&mut self, owner: Owner) -> Arc<Owner> {
        let shared = self.owner.take().filter(|known| **known == owner).unwrap_or_else(|| Arc::new(owner));
        self.owner = Some(shared.clone());
        shared
    }

    /// A key with the texts of the one before, where they are the same.
    pub(super) fn key(&mut self, service: &str, id: &str, host: &str) -> Result<Key, Unreadable> {
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
    pub(super) fn of(instance: &'a Instance) -> Self {
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

    pub(super) fn instance(self, now: Now, near: &mut Near) -> Result<Instance, Unreadable> {
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
    pub(super) fn of(instance: &'a Instance) -> Self {
        let owner = instance.owner.as_deref().map(|owner| match owner {
            Owner::User(uid) => OwnerForm::User(*uid),
            Owner::Token(name) => OwnerForm::Token(name.to_string()),
            Owner::Certificate(name) => OwnerForm::Certificate(name.to_string()),
            Owner::Key(name) => OwnerForm::Key(name.to_string()),
            Owner::Address(address) => OwnerForm::Address(*address),
        });
        Self { instance: InstanceForm::of(instance), owner }
    }

    pub(super) fn instance(self, now: Now, near: &mut Near) -> Result<Instance, Unreadable> {
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

impl ConsulForm {
    pub(super) fn of(facts: &ConsulFacts) -> Self {
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

/// Reads an instance; its lease begins at `now`.
pub fn read_instance(octets: &[u8], now: Now, near: &mut Near) -> Result<Instance, Unreadable> {
    match octets {
        [OWNED_VERSION, ..] => read_as::<OwnedForm<'_>>(OWNED_VERSION, octets)?.instance(now, near),
        _ => read::<InstanceForm<'_>>(octets)?.instance(now, near),
    }
}

pub fn write_left(instance: &Instance, change: &Change) -> Vec<u8> {
    write(&LeftForm {
        instance: InstanceForm::of(instance),
        reason: reason_number(change.reason),
        at: change.at.unix_ms,
        revision: change.revision,
    })
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

pub(super) fn key(service: &str, id: &str, host: &str) -> Result<Key, Unreadable> {
    Ok(Key::new(
        ServiceName::parse(service).map_err(damaged)?,
        InstanceId::parse(id).map_err(damaged)?,
        HostName::parse(host).map_err(damaged)?,
    ))
}
