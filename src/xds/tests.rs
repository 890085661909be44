//! What resources say of a registry, and what a session says when: with no socket and no clock.

mod of_resources;
mod of_sessions;

use std::net::Ipv4Addr;

use serde_json::{Value as Json, json};

use super::resources::{self, LISTEN_DEFAULT, Setting, Source};
use super::{ALL_SERVICES, Kind};
use crate::name::{Apex, HostName, ServiceName};
use crate::protocol::{Peer, RegisterForm, SettingsForm};
use crate::registry::{Author, Command, FORGET_AFTER, Holder, Reason, Registry, What};
use crate::time::Now;
use crate::view::{Settings, View, Zones};

struct System {
    registry: Registry,
    view: View,
    now: Now,
}

impl System {
    fn new() -> Self {
        let settings = Settings::new(vec![Apex::parse("service.local").unwrap()]);
        let view = View::new(settings, Zones::default());
        view.set_ready();
        Self { registry: Registry::new(100, FORGET_AFTER), view, now: Now::default() }
    }

    fn publish(&mut self, found: Vec<(Reason, What)>) -> Vec<ServiceName> {
        let mut changes = Vec::new();
        for (reason, what) in found {
            let revision = self.registry.revision() + 1;
            let change = Registry::change(revision, reason, what, Author::Server, self.now);
            self.registry.apply(&change, self.now);
            changes.push(change);
        }
        self.view.publish(&self.registry, &changes)
    }

    fn carry_out(&mut self, command: &Command) -> Vec<ServiceName> {
        let found = self.registry.check(command, self.now).unwrap();
        self.publish(found)
    }

    /// The services that it concerns, as for all of these.
    fn register(&mut self, form: Json) -> Vec<ServiceName> {
        let form: RegisterForm = serde_json::from_value(form).unwrap();
        let peer = Peer {
            host: HostName::parse("here").unwrap(),
            addresses: vec![Ipv4Addr::new(10, 0, 0, 1).into()],
            loopback_allowed: true,
            connection: 1,
        };
        self.carry_out(&Command::Register(Box::new(form.registration(&peer, 1).unwrap())))
    }

    fn instance(&mut self, service: &str, port: u16) -> Vec<ServiceName> {
        self.register(json!({"service": service, "id": service, "port": port, "lease": "none"}))
    }

    /// Settings of a service, as the protocol has them.
    fn set(&mut self, service: &str, mut form: Json) -> Vec<ServiceName> {
        form["service"] = service.into();
        let form: SettingsForm = serde_json::from_value(form).unwrap();
        let (_, configuration) = form.configuration(&self.view.settings.apexes).unwrap();
        self.carry_out(&Command::Configure(configuration.unwrap()))
    }

    fn holder(&self, service: &str) -> Holder {
        let key = self.view.service(service).unwrap().members.iter().next().unwrap().instance.key.clone();
        Holder { key, lease_id: None }
    }

    /// Until nothing is known of it.
    fn lose(&mut self, service: &str) -> Vec<ServiceName> {
        self.carry_out(&Command::Deregister(self.holder(service)));
        self.now.mono_ns += u64::try_from(2 * FORGET_AFTER.as_nanos()).unwrap();
        let due = self.registry.due(self.now, 10);
        self.publish(due)
    }

    fn resource(&self, kind: Kind, name: &str) -> Option<Json> {
        resources::resource(&self.view, kind, name, &SETTING, |_| true).map(|message| message.json().into())
    }
}

const SETTING: Setting = Setting { source: Source::Aggregated, listen: LISTEN_DEFAULT, region: None };
