//! The commands of one batch that are committed together, and what each of them is about.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::handle::Verdict;
use crate::instance::{Instance, Key};
use crate::name::{HostName, Label, ServiceName};
use crate::registry::{
    Change, Command, Imported, PlainSet, Reason, Refusal, Registration, Report, Subject, What,
};
use crate::time::Now;

/// The places of a command's changes in its round, or why it is refused.
pub(super) type Checked = Result<Range<usize>, Refusal>;

/// The commands of one batch that are to be committed together.
#[derive(Default)]
pub(super) struct Round {
    pub(super) changes: Vec<Change>,
    /// What each is answered when the commit has succeeded, and when it was asked for.
    pub(super) answers: Vec<(Checked, Option<oneshot::Sender<Verdict>>, Now)>,
    pub(super) keys: HashSet<Key>,
    pub(super) labels: HashSet<(ServiceName, Label)>,
    /// Services that an instance leaves in this round.
    pub(super) left: HashSet<ServiceName>,
    pub(super) hosts: HashSet<HostName>,
    pub(super) settings: HashSet<ServiceName>,
    /// One service's failover at a time: two may be good each, and lead back to each other together.
    pub(super) failover: bool,
    /// One token at a time: there may only be so many.
    pub(super) tokens: bool,
    /// Of the services that instances are registered of.
    pub(super) names: HashSet<ServiceName>,
    pub(super) new_instances: usize,
    /// It holds an UPDATE, and nothing else.
    pub(super) is_update: bool,
}

impl Round {
    /// True where a command before it in the round is about the same instance or host. An UPDATE is about the whole
    /// zone, as it is at one moment.
    pub(super) fn touches(&self, command: &Command) -> bool {
        if self.is_update || command.is_of_records() && !self.changes.is_empty() {
            return true;
        }
        if self.failover && gives_failover(command) {
            return true;
        }
        subjects(command).any(|about| match about {
            About::Instance(key) | About::Displaced(key) => self.keys.contains(key),
            About::Host(host) => self.hosts.contains(host),
            About::Settings(service) => self.settings.contains(service),
            About::Token(_) => self.tokens,
            About::Records(_) => false, // in a round of its own
        })
    }

    pub(super) fn touch(&mut self, command: &Command) {
        self.failover |= gives_failover(command);
        for about in subjects(command) {
            match about {
                About::Instance(key) | About::Displaced(key) => drop(self.keys.insert(key.clone())),
                About::Host(host) => drop(self.hosts.insert(host.clone())),
                About::Settings(service) => drop(self.settings.insert(service.clone())),
                About::Token(_) => self.tokens = true,
                About::Records(_) => {}
            }
        }
    }

    /// The first instances of a service come in one round, before the registry has its name to share.
    pub(super) fn share_name(&mut self, registration: &mut Registration) {
        let key = &registration.key;
        match self.names.get(&key.service) {
            Some(name) => registration.key = Key::new(name.clone(), key.id.clone(), key.host.clone()),
            None => drop(self.names.insert(key.service.clone())),
        }
    }

    /// True where a new instance would get a label that the round has given away, or not its own, which the round may
    /// have set free.
    pub(super) fn collides(&self, found: &[(Reason, What)]) -> bool {
        let new = found.iter().filter_map(|(_, what)| new_instance(what));
        new.into_iter().any(|instance| {
            let service = &instance.key.service;
            self.labels.contains(&(service.clone(), instance.label.clone()))
                || (self.left.contains(service) && instance.label != instance.key.id.label())
        })
    }

    pub(super) fn add(&mut self, change: Change) {
        if let Some(instance) = new_instance(&change.what) {
            self.labels.insert((instance.key.service.clone(), instance.label.clone()));
            self.new_instances += 1;
        }
        if let What::Instance { before: Some(before), after: None } = &change.what {
            self.left.insert(before.key.service.clone());
        }
        self.changes.push(change);
    }
}

fn gives_failover(command: &Command) -> bool {
    match command {
        Command::Configure(configuration) => configuration.given.failover.is_some(),
        Command::Import(import) => {
            matches!(&import.what, Imported::Settings(_, settings) if settings.failover.is_some())
        }
        _ => false,
    }
}

/// What a command is about.
pub(super) enum About<'a> {
    Instance(&'a Key),
    /// What goes because another one comes in its place.
    Displaced(&'a Key),
    Host(&'a HostName),
    Settings(&'a ServiceName),
    /// By its name.
    Token(&'a Arc<str>),
    Records(&'a PlainSet),
}

pub(super) fn subjects(command: &Command) -> impl Iterator<Item = About<'_>> {
    let (first, second) = match command {
        Command::Register(registration) => {
            (Some(About::Instance(&registration.key)), registration.displaces.as_ref().map(About::Displaced))
        }
        Command::Deregister(holder) | Command::Drain(holder) | Command::Claim(holder) => {
            (Some(About::Instance(&holder.key)), None)
        }
        Command::Report(Report { on, .. })
        | Command::AddCheck { on, .. }
        | Command::RemoveCheck { on, .. } => {
            let about = match on {
                Subject::Instance(holder) => About::Instance(&holder.key),
                Subject::Host(host) => About::Host(host),
            };
            (Some(about), None)
        }
        Command::RegisterHost(registration) => (Some(About::Host(&registration.name)), None),
        Command::DeregisterHost(name) => (Some(About::Host(name)), None),
        Command::Configure(configuration) => (Some(About::Settings(&configuration.service)), None),
        Command::Import(import) => {
            let about = match &import.what {
                Imported::Instance(instance) => About::Instance(&instance.key),
                Imported::Host(host) => About::Host(&host.name),
                Imported::Settings(service, _) => About::Settings(service),
                Imported::Token(token) => About::Token(&token.name),
                Imported::Records(set) => About::Records(set),
            };
            (Some(about), None)
        }
        Command::CreateToken(token) => (Some(About::Token(&token.name)), None),
        Command::RevokeToken(name) => (Some(About::Token(name)), None),
        // It has a round of its own, and asks for itself what its key may.
        Command::Update(_) | Command::Closed { .. } => (None, None),
    };
    first.into_iter().chain(second)
}

pub(super) fn new_instance(what: &What) -> Option<&Arc<Instance>> {
    match what {
        What::Instance { before: None, after: Some(after) } => Some(after),
        _ => None,
    }
}
