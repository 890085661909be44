//! An instance as a line of an export: what would register it, and beside it whose it is and since when.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::checks::{CheckLine, checks};
use super::consul::ConsulForm;
use super::{hexadecimal, text, time};
use crate::access::Owner;
use crate::instance::{Extras, Instance, Key, Lease};
use crate::lease::{CONNECTION_GRACE, LeaseCell, Leased, NO_CONNECTION};
use crate::name::{HostName, Label};
use crate::protocol::{
    InstanceForm, Pairs, Peer, PortForm, Problem, RegisterForm, Secret, Several, lease_id_text, printable,
    token_name,
};
use crate::time::Now;

/// How often a label that is taken is hashed anew before somebody must have made it up.
const LABEL_ATTEMPTS: u32 = 16;

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

    pub(super) fn instance(
        &self,
        loopback_allowed: bool,
        random: u64,
        now: Now,
    ) -> Result<Instance, Problem> {
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
