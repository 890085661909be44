//! From what the registry knows to forms: how instances and changes are shown.

use std::net::IpAddr;

use super::{ChangeForm, CheckShown, InstanceForm, PortShown};
use crate::instance::{Check, Health, Instance, Key, Lease, Location, Port};
use crate::name::Tag;
use crate::registry::{Change, What};
use crate::time::{Now, format_duration};

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
            checks: instance.checks.iter().map(CheckShown::of).collect(),
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
    pub fn of(change: &Change, now: Now) -> Self {
        let mut form = Self {
            revision: change.revision,
            at: change.at.to_string(),
            reason: change.reason.as_str().to_owned(),
            author: change.author.to_string(),
            service: None,
            id: None,
            host: String::new(),
            instance: None,
            checks: None,
        };
        match &change.what {
            What::Instance { before, after } => {
                if let Some(key) = after.as_ref().or(before.as_ref()).map(|instance| &instance.key) {
                    form.name(key);
                }
                form.instance = after.as_ref().map(|after| {
                    let health = after.health();
                    InstanceForm::of(after, health, health.in_answers() && !after.draining, now)
                });
            }
            What::Forgotten { key } => form.name(key),
            What::Host { before, after } => {
                if let Some(host) = after.as_ref().or(before.as_ref()) {
                    form.host = host.name.to_string();
                }
                form.checks = Some(after.iter().flat_map(|host| &host.checks).map(CheckShown::of).collect());
            }
        }
        form
    }

    fn name(&mut self, key: &Key) {
        self.service = Some(key.service.to_string());
        self.id = Some(key.id.to_string());
        self.host = key.host.to_string();
    }
}

impl CheckShown {
    fn of(check: &Check) -> Self {
        Self {
            id: check.id.to_string(),
            status: check.status.to_string(),
            output: check.output.to_string(),
            since: check.since.to_string(),
        }
    }
}
