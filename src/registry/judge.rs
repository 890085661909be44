//! Whether a command may be carried out, and what it changes: asked of the registry as it is, which stays so.

use std::sync::Arc;

use super::apply::{become_, leave};
use super::change::{Reason, What};
use super::checks::{merge_checks, with_checks, with_report};
use super::command::{
    Command, Configuration, Holder, HostRegistration, Refusal, Registration, Report, Subject, Unlisted,
};
use super::{Registry, SETTINGS_MAX};
use crate::access::{Owner, TOKENS_MAX, Token};
use crate::check::{CHECKS_MAX, Check, worst};
use crate::instance::{Extras, Host, Instance, Key, Lease, Port, ServiceSettings};
use crate::lease::{LeaseCell, Leased};
use crate::name::{HostName, Label, Tag};
use crate::time::Now;
use crate::update;

impl Registry {
    /// What `command` would change: nothing where it is already so.
    pub fn check(&self, command: &Command, now: Now) -> Result<Vec<(Reason, What)>, Refusal> {
        match command {
            Command::Register(registration) => self.check_register(registration, now),
            Command::Deregister(holder) => Ok(match self.held(holder) {
                // Deregistering what is not there is no error, so a retry is safe. Held, it leaves the answers.
                Err(Refusal::NotFound(key)) => {
                    let held = self.held_by_key(&key).filter(|gone| {
                        holder.lease_id.is_none_or(|lease_id| lease_id == gone.instance.lease_id)
                    });
                    held.map(|_| (Reason::Deregistered, What::Forgotten { key })).into_iter().collect()
                }
                Err(refusal) => return Err(refusal),
                Ok(instance) => vec![(Reason::Deregistered, leave(instance))],
            }),
            Command::Drain(holder) => {
                let instance = self.held(holder)?;
                if instance.draining {
                    return Ok(Vec::new());
                }
                let after = Instance { draining: true, since: now.wall, ..(**instance).clone() };
                Ok(vec![(Reason::Drained, become_(instance, after))])
            }
            // Whose it is, no instance says: nothing changes in the registry.
            Command::Claim(holder) => self.held(holder).map(|_| Vec::new()),
            Command::Report(report) => self.check_report(report, now),
            Command::AddCheck { on, listed } => self.change_checks(on, now, |checks, of| {
                let merged = merge_checks(checks, std::slice::from_ref(listed), &Unlisted::Stay, of, now);
                if merged.len() > CHECKS_MAX { Err(Refusal::TooManyChecks) } else { Ok(Some(merged)) }
            }),
            Command::RemoveCheck { on, check } => self.change_checks(on, now, |checks, _| {
                let rest: Vec<Check> = checks.iter().filter(|known| known.id != *check).cloned().collect();
                Ok((rest.len() < checks.len()).then_some(rest))
            }),
            Command::RegisterHost(registration) => self.check_host(registration),
            Command::DeregisterHost(name) => Ok(match self.hosts.get(name) {
                None => Vec::new(),
                Some(host) => {
                    vec![(Reason::Deregistered, What::Host { before: Some(host.clone()), after: None })]
                }
            }),
            Command::Configure(configuration) => self.check_configure(configuration),
            // What it is checked against is more than the registry: `update::asked` knows it.
            Command::Update(_) => Err(Refusal::Update(update::Refused::not_here())),
            Command::CreateToken(token) => self.check_create(token),
            Command::RevokeToken(name) => {
                let token = self.tokens.by_name(name).ok_or_else(|| Refusal::NoToken(name.clone()))?;
                Ok(vec![(Reason::Revoked, What::Token { before: Some(token.clone()), after: None })])
            }
            Command::Import(import) => self.check_import(import),
            Command::Closed { connection, keys } => Ok(keys
                .iter()
                .filter_map(|key| self.instance(key))
                .filter(|instance| instance.lease == Lease::Connection(*connection))
                .map(|instance| (Reason::Disconnected, leave(instance)))
                .collect()),
        }
    }

    pub(super) fn check_register(
        &self,
        registration: &Registration,
        now: Now,
    ) -> Result<Vec<(Reason, What)>, Refusal> {
        let key = &registration.key;
        if let Some(by) = self.taken.get(&key.service) {
            return Err(Refusal::Taken { name: key.service.clone(), by: by.clone() });
        }
        let before = self.instance(key);
        // An UPDATE may make an instance of what it set before, and has looked at the rest itself.
        let by_update = registration.owner.as_deref().is_some_and(Owner::is_key);
        if !by_update {
            self.check_plain(key, before.is_none(), &registration.tags, &registration.ports)?;
        }
        if before.is_none() && self.instances >= self.instances_max {
            return Err(Refusal::Full { limit: self.instances_max });
        }
        let after = self.registered(registration, before, now)?;
        let mut found = Vec::with_capacity(1);
        if let Some(other) = registration.displaces.as_ref().and_then(|key| self.instance(key)) {
            found.push((Reason::Deregistered, leave(other)));
        }
        if !(registration.anonymous
            && before.is_some_and(|before| before.says_same(&after) && before.owner == after.owner))
        {
            let what = What::Instance { before: before.cloned(), after: Some(Arc::new(after)) };
            found.push((Reason::Registered, what));
        }
        Ok(found)
    }

    /// The instance that a registration makes of the one before.
    fn registered(
        &self,
        registration: &Registration,
        before: Option<&Arc<Instance>>,
        now: Now,
    ) -> Result<Instance, Refusal> {
        let (key, label) = match before {
            Some(before) => (before.key.clone(), before.label.clone()),
            None => (self.shared(&registration.key), self.free_label(&registration.key)),
        };
        let deadline = match registration.lease {
            Lease::Timed(duration) => LeaseCell::timed(key.clone(), duration, now),
            Lease::Connection(_) | Lease::None => LeaseCell::unlimited(key.clone()),
        };
        let known = before.map(|before| before.checks.as_slice()).unwrap_or_default();
        let of = Leased::Instance(key.clone());
        let checks = merge_checks(known, &registration.checks, &registration.unlisted, &of, now);
        if checks.len() > CHECKS_MAX {
            return Err(Refusal::TooManyChecks);
        }
        let health = worst(&checks);
        let extras = Extras {
            protocol: registration.protocol.clone(),
            tags: registration.tags.clone(),
            meta: registration.meta.clone(),
            checks,
            source: registration.source.clone(),
            consul: registration.consul.clone(),
        };
        Ok(Instance {
            key,
            label,
            location: registration.location.clone(),
            ports: registration.ports.clone().into(),
            weight: registration.weight,
            priority: registration.priority,
            lease: registration.lease,
            lease_id: registration.lease_id,
            deadline,
            draining: false,
            // Who comes back from among the held stays held until its checks have spoken.
            registered: before
                .or(self.held_by_key(&registration.key).map(|gone| &gone.instance))
                .map_or(now.wall, |before| before.registered),
            since: before
                .filter(|before| before.health() == health && !before.draining)
                .map_or(now.wall, |before| before.since),
            created: before.map_or(0, |before| before.created),
            revision: 0,
            // Who came first stays: an administrator who registers it again does not take it away.
            owner: before.and_then(|before| before.owner.clone()).or_else(|| registration.owner.clone()),
            extras: extras.kept(),
        })
    }

    /// The key with the texts that the registry has already: what a thousand instances have in common is there once.
    pub(super) fn shared(&self, key: &Key) -> Key {
        let service = self.services.get_key_value(&key.service).map_or(&key.service, |(name, _)| name);
        let host = self.on_host.get_key_value(&key.host).map_or(&key.host, |(name, _)| name);
        Key::new(service.clone(), key.id.clone(), host.clone())
    }

    /// The id's own label, or one that names the host too where another instance has it.
    pub(super) fn free_label(&self, key: &Key) -> Label {
        let taken = |label: &Label| self.has_label(key, label);
        let own = key.id.label();
        if !taken(&own) {
            return own;
        }
        // Two ids may even collide with the suffix (ids are ours to choose): then it is hashed with a counter.
        let mut label = key.id.label_on(&key.host, 0);
        let mut attempt = 0u32;
        while taken(&label) {
            attempt += 1;
            label = key.id.label_on(&key.host, attempt);
        }
        label
    }

    /// True where an instance of the service has this label, and a new one with this key cannot.
    pub(super) fn has_label(&self, key: &Key, label: &Label) -> bool {
        let service = self.services.get(&key.service);
        service.is_some_and(|service| service.members.get(label.as_str()).is_some())
            || self.is_held_label(key, label)
    }

    /// Another label for an instance whose own is another's: two nodes may have given one to two.
    pub fn label_instead(&self, instance: &Instance) -> Option<Label> {
        let service = self.services.get(&instance.key.service)?;
        let other = service.members.get(instance.label.as_str())?;
        (other.instance.key != instance.key).then(|| self.free_label(&instance.key))
    }

    pub(super) fn held(&self, holder: &Holder) -> Result<&Arc<Instance>, Refusal> {
        let instance = self.instance(&holder.key).ok_or_else(|| Refusal::NotFound(holder.key.clone()))?;
        match holder.lease_id {
            Some(lease_id) if lease_id != instance.lease_id => Err(Refusal::Superseded(holder.key.clone())),
            _ => Ok(instance),
        }
    }

    fn check_report(&self, report: &Report, now: Now) -> Result<Vec<(Reason, What)>, Refusal> {
        let found = self.change_checks(&report.on, now, |checks, of| with_report(checks, report, of, now))?;
        Ok(found.into_iter().map(|(_, what)| (Reason::Reported, what)).collect())
    }

    /// What becomes of the subject when `change` makes new checks of those it has; nothing where it makes none.
    pub(super) fn change_checks(
        &self,
        on: &Subject,
        now: Now,
        change: impl FnOnce(&[Check], &Leased) -> Result<Option<Vec<Check>>, Refusal>,
    ) -> Result<Vec<(Reason, What)>, Refusal> {
        let what = match on {
            Subject::Instance(holder) => {
                let instance = self.held(holder)?;
                let of = Leased::Instance(instance.key.clone());
                change(&instance.checks, &of)?.map(|checks| with_checks(instance, checks, now))
            }
            Subject::Host(name) => {
                let before = self.host_or_new(name)?;
                let of = Leased::Host(name.clone());
                change(&before.checks, &of)?.map(|checks| What::Host {
                    before: self.hosts.get(name).cloned(),
                    after: Some(Arc::new(Host { checks, ..before })),
                })
            }
        };
        Ok(what.into_iter().map(|what| (Reason::Checked, what)).collect())
    }

    pub(super) fn check_configure(
        &self,
        configuration: &Configuration,
    ) -> Result<Vec<(Reason, What)>, Refusal> {
        let Configuration { service, reset, given } = configuration;
        let before = self.settings(service);
        let kept = if *reset { ServiceSettings::default() } else { before.clone() };
        let after = kept.with(given.clone());
        if before == after {
            return Ok(Vec::new());
        }
        if given.failover.as_ref().is_some_and(|failover| !failover.is_empty())
            && let Some(by) = self.taken_by(service)
        {
            return Err(Refusal::Taken { name: service.clone(), by });
        }
        if let Some(way) = self.failover_cycle(service, &after) {
            return Err(Refusal::FailoverCycle(way));
        }
        if self.settings.len() >= SETTINGS_MAX && !self.settings.contains_key(service) {
            return Err(Refusal::TooManySettings { limit: SETTINGS_MAX });
        }
        Ok(vec![(Reason::Configured, What::Settings { service: service.clone(), before, after })])
    }

    fn check_create(&self, token: &Arc<Token>) -> Result<Vec<(Reason, What)>, Refusal> {
        if self.tokens.by_name(&token.name).is_some() {
            return Err(Refusal::TokenExists(token.name.clone()));
        }
        if self.tokens.len() >= TOKENS_MAX {
            return Err(Refusal::TooManyTokens);
        }
        Ok(vec![(Reason::Granted, What::Token { before: None, after: Some(token.clone()) })])
    }

    pub(super) fn check_host(&self, registration: &HostRegistration) -> Result<Vec<(Reason, What)>, Refusal> {
        let HostRegistration { name, addresses, meta, id } = registration;
        let known = self.host_or_new(name)?;
        let (addresses, meta, id) = (addresses.clone(), meta.clone(), id.clone());
        let after = Host { addresses, meta, id, ..known.clone() };
        let before = self.hosts.get(name).cloned();
        if before.is_some() && after == known {
            return Ok(Vec::new());
        }
        Ok(vec![(Reason::Registered, What::Host { before, after: Some(Arc::new(after)) })])
    }

    /// What an UPDATE set is not to be hidden by an instance.
    pub(super) fn check_plain(
        &self,
        key: &Key,
        is_new: bool,
        tags: &[Tag],
        ports: &[Port],
    ) -> Result<(), Refusal> {
        let (service, label) = (key.service.as_str(), key.id.label());
        let taken = is_new.then(|| self.plain.takes(service, label.as_str())).flatten();
        match taken.or_else(|| self.plain.hidden_by(key, tags, ports)) {
            Some(owner) => {
                let by = format!("{owner}, which an UPDATE set").into();
                Err(Refusal::Taken { name: key.service.clone(), by })
            }
            None => Ok(()),
        }
    }

    /// The host as it is, or as one that nobody has said anything of.
    pub(super) fn host_or_new(&self, name: &HostName) -> Result<Host, Refusal> {
        match self.hosts.get(name) {
            Some(host) => Ok((**host).clone()),
            None if !self.on_host.contains_key(name) && self.hosts.len() >= self.instances_max => {
                Err(Refusal::Full { limit: self.instances_max })
            }
            None => Ok(Host::new(name.clone())),
        }
    }
}
