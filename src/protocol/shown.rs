//! From what the registry knows to forms: how instances and changes are shown.

use std::net::IpAddr;
use std::sync::Arc;

use super::{
    ChangeForm, CheckForm, CheckShown, DeregisteredForm, InstanceForm, NamedForm, NodeForm, Pairs, PortShown,
    RecordsShown, ReportedForm, SettingsShown, Several,
};
use crate::check::{Check, Definition, Kind, Place};
use crate::instance::{Health, Instance, Key, Lease, Location, Port};
use crate::name::Tag;
use crate::record::Data;
use crate::registry::{Change, PlainSet, Report, Subject, What};
use crate::time::{Now, format_duration};
use crate::view::Node;

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
    /// `health` is the instance's own and its host's together; `live`, whether that puts it in the answers.
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
            port: instance.ports.first().map(|port| port.number),
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
            held: false,
            source: instance.source.as_deref().map(str::to_owned),
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

/// The checks that have other words and are else what they were.
fn explained(before: &[Check], after: &[Check]) -> Vec<String> {
    let is_same = |check: &Check, known: &Check| {
        (&known.id, known.status, known.since) == (&check.id, check.status, check.since)
    };
    let is_explained =
        |check: &&Check| before.iter().any(|known| is_same(check, known) && known.output != check.output);
    after.iter().filter(is_explained).map(|check| check.id.to_string()).collect()
}

impl ChangeForm {
    /// `health` is the instance's after the change, its own and its host's together.
    pub fn of(change: &Change, health: Health, now: Now) -> Self {
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
            explained: Vec::new(),
            settings: None,
            token: None,
            records: None,
        };
        match &change.what {
            What::Instance { before, after } => {
                if let Some(key) = after.as_ref().or(before.as_ref()).map(|instance| &instance.key) {
                    form.name(key);
                }
                if let (Some(before), Some(after)) = (before, after) {
                    form.explained = explained(&before.checks, &after.checks);
                }
                form.instance = after.as_ref().map(|after| {
                    InstanceForm::of(after, health, health.in_answers() && !after.draining, now)
                });
            }
            What::Forgotten { key } => form.name(key),
            What::Guard { service, .. } => form.service = Some(service.to_string()),
            What::Settings { service, after, .. } => {
                form.service = Some(service.to_string());
                form.settings = Some(SettingsShown::of(after));
            }
            What::Plain { before, after } => {
                let set = after.as_ref().or(before.as_ref());
                form.records = set.map(|set| RecordsShown::of(set, after.is_some()));
            }
            What::Token { before, after } => {
                let token = after.as_ref().or(before.as_ref());
                form.token = token.map(|token| token.name.to_string());
            }
            What::Host { before, after } => {
                if let Some(host) = after.as_ref().or(before.as_ref()) {
                    form.host = host.name.to_string();
                }
                if let (Some(before), Some(after)) = (before, after) {
                    form.explained = explained(&before.checks, &after.checks);
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

impl NodeForm {
    pub fn of(node: &Node) -> Self {
        Self {
            name: node.name.to_string(),
            addresses: node.addresses.clone(),
            dns: node.dns,
            listen: node.listener.iter().flat_map(|listener| listener.sockets()).collect(),
            slots: node.slots,
            own: node.is_own,
        }
    }
}

impl NamedForm {
    pub fn of(key: &Key, revision: u64) -> Self {
        Self { service: key.service.to_string(), id: key.id.to_string(), revision }
    }
}

impl DeregisteredForm {
    pub fn of(key: &Key, existed: bool, revision: u64) -> Self {
        let (service, id, host) = (key.service.to_string(), key.id.to_string(), key.host.to_string());
        Self { service, id, host: Some(host), existed, revision }
    }
}

impl ReportedForm {
    pub fn of(report: &Report, revision: u64) -> Self {
        let (service, id, host) = match &report.on {
            Subject::Instance(holder) => {
                let key = &holder.key;
                (Some(key.service.to_string()), Some(key.id.to_string()), key.host.to_string())
            }
            Subject::Host(host) => (None, None, host.to_string()),
        };
        let (check, status) = (report.check.to_string(), report.status.to_string());
        Self { service, id, host, check, status, revision }
    }
}

impl RecordsShown {
    fn of(set: &PlainSet, there: bool) -> Self {
        let data = set.set.data.iter().filter(|_| there);
        Self {
            owner: set.owner.to_string(),
            rtype: set.set.rtype.to_string(),
            ttl: set.set.ttl,
            data: data.map(Data::to_string).collect(),
            lease: Some(set.lease).filter(|lease| *lease != Lease::None).map(lease_text),
        }
    }
}

impl CheckShown {
    fn of(check: &Check) -> Self {
        Self {
            id: check.id.to_string(),
            status: check.status.to_string(),
            output: check.output.to_string(),
            since: check.since.to_string(),
            definition: (check.definition != Definition::reported()).then(|| Box::new(CheckForm::of(check))),
        }
    }
}

impl CheckForm {
    /// What would register the check as it is.
    pub fn of(check: &Check) -> Self {
        let definition = &*check.definition;
        let text = |text: &Arc<str>| Some(text.to_string()).filter(|text| !text.is_empty());
        let place = |place: &Place| match place.host.contains(':') {
            true => format!("[{}]:{}", place.host, place.port),
            false => format!("{}:{}", place.host, place.port),
        };
        let mut form = Self {
            id: check.id.to_string(),
            name: text(&definition.name),
            notes: text(&definition.notes),
            status: Some(check.status.to_string()),
            interval: definition.kind.is_probed().then(|| format_duration(definition.interval)),
            timeout: definition.kind.is_probed().then(|| format_duration(definition.timeout)),
            rise: (definition.rise > 1).then_some(definition.rise.into()),
            fall: (definition.fall > 1).then_some(definition.fall.into()),
            warn: (definition.warn > 0).then_some(definition.warn.into()),
            deregister_after: definition.deregister_after.map(format_duration),
            ..Self::default()
        };
        let mut tls = None;
        match &definition.kind {
            Kind::Reported => {}
            Kind::Ttl(ttl) => form.ttl = Some(format_duration(*ttl)),
            Kind::Tcp(at) => form.tcp = Some(place(at)),
            Kind::Http(http) => {
                let scheme = if http.tls.is_some() { "https" } else { "http" };
                form.http = Some(format!("{scheme}://{}{}", place(&http.at), http.path));
                form.method = (&*http.method != "GET").then(|| http.method.to_string());
                let headers = http.headers.iter();
                let headers: Vec<(String, Several)> = headers
                    .map(|(name, value)| (name.to_string(), Several(vec![value.to_string()])))
                    .collect();
                form.headers = (!headers.is_empty()).then_some(Pairs(headers));
                form.body = text(&http.body);
                let (from, to) = http.expected;
                form.expect = (http.expected != (200, 299)).then(|| format!("{from}-{to}"));
                tls = http.tls.as_ref();
            }
            Kind::Grpc { at, service, tls: over } => {
                form.grpc = Some(match &**service {
                    "" => place(at),
                    service => format!("{}/{service}", place(at)),
                });
                form.tls = over.is_some().then_some(true);
                tls = over.as_ref();
            }
            Kind::Command(args) => form.command = Some(args.iter().map(|arg| arg.to_string()).collect()),
            Kind::Alias { host, id } => {
                form.alias = id.as_ref().map(|id| id.to_string());
                form.alias_host = host.as_ref().map(|host| host.to_string());
            }
        }
        form.tls_skip_verify = tls.filter(|tls| tls.skip_verify).map(|_| true);
        form.tls_server_name = tls.and_then(|tls| tls.server_name.as_ref()).map(|name| name.to_string());
        form
    }
}
