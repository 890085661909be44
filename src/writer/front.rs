//! What both writers have beside their registry: where changes are shown and questions about them answered, the time, and who
//! may ask for what.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::handle::{Ask, Event, Files, FilesRefused, Handle, Picture, Verdict, Watch, Whole, Zone};
use super::round::{About, subjects};
use crate::access::{Access, Identity, On, Tokens, Verb};
use crate::balance::circle::Circle;
use crate::check::worst;
use crate::clock::Clock;
use crate::counters::Written;
use crate::instance::{Health, Key};
use crate::journal::{self, Journal, Topic};
use crate::name::ServiceName;
use crate::protocol::Filter;
use crate::registry::{Change, Command, Refusal, Registry, What};
use crate::time::Now;
use crate::view::{Hidden, View};

/// Events waiting for the writer. Who sends more waits: the sender's own connection is the brake.
const QUEUE_MAX: usize = 4096;
/// Services whose name a file has that the log names at the start: who has mended so many looks again.
const TAKEN_WARNINGS_MAX: usize = 100;
/// Longer than this without a look at the time, and we were stopped or starved: nobody could renew a lease. A
/// quarter of the shortest one: who renews in good time has that much to spare.
const AWAY_MIN: Duration = Duration::from_millis(250);

/// See the module's own words.
pub(super) struct Front {
    pub(super) view: Arc<View>,
    pub(super) clock: Clock,
    pub(super) access: Arc<Access>,
    pub(super) events: mpsc::Receiver<Event>,
    pub(super) journal: Arc<Journal>,
    pub(super) written: Arc<Written>,
    tokens: watch::Sender<Arc<Tokens>>,
    circle: watch::Sender<Option<Arc<Circle>>>,
    /// When the time was last looked at, in nanoseconds of the monotonic clock.
    pub(super) seen_ns: u64,
}

impl Front {
    pub(super) fn new(
        registry: &Registry,
        view: Arc<View>,
        clock: Clock,
        access: Arc<Access>,
    ) -> (Self, Handle) {
        let (sender, events) = mpsc::channel(QUEUE_MAX);
        let (tokens, tokens_known) = watch::channel(Arc::new(registry.tokens().clone()));
        let (circle, circle_known) = watch::channel(None);
        let (journal, written) = (Arc::new(Journal::default()), Arc::new(Written::default()));
        let seen_ns = clock.now().mono_ns;
        let handle = Handle {
            events: sender,
            clock,
            written: written.clone(),
            journal: journal.clone(),
            tokens: tokens_known,
            circle: circle_known,
        };
        (Self { view, clock, access, events, journal, written, tokens, circle, seen_ns }, handle)
    }

    /// Makes changes that the registry holds visible, and tells those who follow.
    pub(super) fn show(&self, registry: &Registry, changes: &[Change]) {
        if changes.iter().any(|change| matches!(change.what, What::Token { .. })) {
            self.show_tokens(registry);
        }
        let touched = self.view.publish(registry, changes);
        self.written.changed(changes);
        changes.iter().for_each(|change| log_guard(&self.view, change));
        if self.journal.is_followed() && !changes.is_empty() {
            let event = |change: &Change| journal::Event::new(change.clone(), host_health(registry, change));
            self.journal.publish(&changes.iter().map(event).collect(), &touched);
        }
    }

    /// Whoever has a connection open hears of it, and asks again what it may.
    pub(super) fn show_tokens(&self, registry: &Registry) {
        self.tokens.send_replace(Arc::new(registry.tokens().clone()));
    }

    /// Whoever probes hears of it, and looks anew at what is its to probe.
    pub(super) fn show_circle(&self, circle: Arc<Circle>) {
        self.circle.send_replace(Some(circle));
    }

    /// How long we were away, where nobody has looked at the time for longer than we ever take.
    pub(super) fn away(&self, now: Now) -> Option<Duration> {
        let away = Duration::from_nanos(now.mono_ns.saturating_sub(self.seen_ns));
        (away > AWAY_MIN).then_some(away)
    }

    /// Looks at the time. Where we were away since it was last looked at, leases do not run out for it.
    pub(super) fn look(&mut self, registry: &Registry) -> Now {
        let now = self.clock.now();
        let away = self.away(now);
        self.seen_ns = now.mono_ns;
        if let Some(away) = away {
            tracing::warn!(?away, "this process was stopped or starved; leases are longer by that, or anew");
            registry.after_absence(away, now);
        }
        now
    }

    /// Answers a question. At this point the view is the registry, and the next change goes to who follows. `unstored` are
    /// the changes that the log does not have yet.
    pub(super) fn tell(&mut self, registry: &Registry, unstored: &[Change], ask: Ask) {
        let begun = self.clock.now();
        match ask {
            Ask::Watch { filter, done } => {
                drop(done.send(self.watch(filter.as_deref(), registry, unstored)));
            }
            Ask::Picture { of, done } => drop(done.send(self.picture(of, registry, unstored))),
            Ask::Zone { done } => drop(done.send(self.zone(registry))),
            Ask::Whole { done } => drop(done.send(whole(registry))),
            Ask::Ping { done } => drop(done.send(())),
        }
        // Time that we spend ourselves is no absence.
        self.seen_ns += self.clock.now().mono_ns - begun.mono_ns;
    }

    fn watch(&self, filter: Option<&Filter>, registry: &Registry, unstored: &[Change]) -> Watch {
        let members = filter.map(|filter| self.view.list(filter, None, usize::MAX).0).unwrap_or_default();
        let topic =
            filter.and_then(|filter| filter.service.as_ref()).map_or(Topic::Everything, Topic::Service);
        let (revision, changes) = (registry.revision(), self.journal.follow(topic));
        Watch { members, revision, unstored: unstored.to_vec(), changes }
    }

    fn picture(&self, of: Vec<ServiceName>, registry: &Registry, unstored: &[Change]) -> Picture {
        let view = &self.view;
        let services = of.into_iter().map(|name| {
            let now = (view.service(name.as_str()), view.settings_of(&name));
            (name, now)
        });
        let hosts = view.all_hosts().into_iter().map(|host| (host.name.clone(), host));
        let (services, hosts) = (services.collect(), hosts.collect());
        let (revision, unstored) = (registry.revision(), unstored.to_vec());
        Picture { revision, services, hosts, zones: view.zones(), unstored }
    }

    fn zone(&self, registry: &Registry) -> Zone {
        Zone { revision: registry.revision(), services: self.view.all_services(), zones: self.view.zones() }
    }

    /// Whether somebody may do what is asked for, on everything that it is about.
    pub(super) fn permits(
        &self,
        registry: &Registry,
        command: &Command,
        by: &Identity,
        now: Now,
    ) -> Result<(), Refusal> {
        let (access, verb, tokens) = (&self.access, command.verb(), registry.tokens());
        for about in subjects(command) {
            match about {
                About::Instance(key) => match registry.instance(key) {
                    Some(instance) => access.permits_change(by, verb, instance, tokens, now.wall)?,
                    None => {
                        access.permits(by, verb, On::from(&key.service), tokens, now.wall)?;
                        if matches!(command, Command::Register(_)) && !self.has_room(registry, by, key, 0) {
                            let (who, limit) = (by.to_string(), access.owned_max);
                            return Err(Refusal::OwnsTooMany { who, limit });
                        }
                    }
                },
                About::Displaced(key) => {
                    if let Some(instance) = registry.instance(key) {
                        access.permits_change(by, Verb::Deregister, instance, tokens, now.wall)?;
                    }
                }
                About::Settings(service) => access.permits(by, verb, On::from(service), tokens, now.wall)?,
                About::Host(_) | About::Token(_) | About::Records(_) => {
                    access.permits(by, verb, On::Everything, tokens, now.wall)?
                }
            }
        }
        Ok(())
    }

    /// Whether somebody may have one instance more, beside `coming` that are not registered yet.
    pub(super) fn has_room(&self, registry: &Registry, by: &Identity, key: &Key, coming: usize) -> bool {
        by.owner.as_ref().is_none_or(|owner| {
            self.access.permits_another(by, On::from(&key.service), registry.owned_by(owner) + coming)
        })
    }

    pub(super) fn serve_files(&self, registry: &mut Registry, files: Files) {
        registry.set_taken(files.taken);
        self.view.set_zones(registry, files.zones);
    }
}

/// Answers a command. Who does not wait any more has lost nothing but the answer.
pub(super) fn reply(done: Option<oneshot::Sender<Verdict>>, verdict: Verdict) {
    if let Some(done) = done {
        drop(done.send(verdict));
    }
}

/// Warns of services, and of what UPDATE set, that were stored before a record of a file came to have their name.
pub fn warn_of_taken(registry: &Registry, view: &View) {
    for (name, by) in registry.taken_and_registered().take(TAKEN_WARNINGS_MAX) {
        tracing::warn!(
            "{by}: the name is that of the service {name}, which is registered; take its instances out, or name it otherwise"
        );
    }
    for (name, by) in registry.taken_and_failing_over().take(TAKEN_WARNINGS_MAX) {
        tracing::warn!(
            "{by}: the name is that of the service {name}, whose failover answers there; `callsign service set {name} --no-failover` ends that"
        );
    }
    for (zone, name) in view.covered(registry).into_iter().take(TAKEN_WARNINGS_MAX) {
        tracing::warn!(
            "the zone {} hides names of the service {name}, which is registered; take its file away, or name the service otherwise",
            zone.apex
        );
    }
    for set in view.hidden(registry).into_iter().take(TAKEN_WARNINGS_MAX) {
        tracing::warn!(
            "what UPDATE set at {} is not answered, for the zone file has the name; take it out there",
            set.owner
        );
    }
}

/// A name that a file comes to take, of a record tree or of a zone below a live apex, is nobody's yet. One that it has had
/// for long is no reason to refuse an edit.
/// What was acknowledged stays in the answers, so this holds for what UPDATE set as well.
pub(super) fn are_free(registry: &Registry, view: &View, files: &Files) -> Result<(), FilesRefused> {
    let new = files.taken.keys().filter(|name| !registry.is_taken(name));
    if let Some(name) = registry.first_registered(new.clone()) {
        return Err(FilesRefused::Taken { name: name.clone(), by: files.taken[name].clone() });
    }
    if let Some(name) = new.filter(|name| registry.fails_over(name)).min() {
        return Err(FilesRefused::FailsOver { name: name.clone(), by: files.taken[name].clone() });
    }
    if let Some((zone, name)) = view.newly_covered(registry, &files.zones) {
        return Err(FilesRefused::Covered { apex: zone.apex.clone(), name, line: zone.line() });
    }
    match view.newly_hidden(registry, &files.zones) {
        Some(Hidden { set, apex, line }) => {
            Err(FilesRefused::Hidden { apex, owner: set.owner.clone(), line })
        }
        None => Ok(()),
    }
}

fn whole(registry: &Registry) -> Whole {
    let members = registry.services().flat_map(|(_, service)| &service.members);
    let settings = registry.all_settings();
    Whole {
        revision: registry.revision(),
        instances: members.map(|member| member.instance.clone()).collect(),
        hosts: registry.hosts().cloned().collect(),
        settings: settings.map(|(service, settings)| (service.clone(), settings.clone())).collect(),
        tokens: registry.tokens().all(),
        records: registry.plain().all().cloned().collect(),
    }
}

/// The health of the host of the instance that a change is of.
fn host_health(registry: &Registry, change: &Change) -> Health {
    let What::Instance { before, after } = &change.what else { return Health::Passing };
    let instance = after.as_ref().or(before.as_ref());
    let host = instance.and_then(|instance| registry.host(&instance.key.host));
    host.map_or(Health::Passing, |host| worst(&host.checks))
}

/// Whoever operates us hears when a service's answers are no longer only of live instances, and when they are again.
fn log_guard(view: &View, change: &Change) {
    match &change.what {
        What::Guard { service, after: Some(_), .. } => {
            let view = view.service(service.as_str());
            let stale = view.as_ref().map(|view| view.stale()).unwrap_or_default();
            tracing::warn!(%service, stale, "too many instances went bad at once; they stay in the answers");
        }
        What::Guard { service, after: None, .. } => {
            tracing::info!(%service, "the guard ended; the answers are of live instances again");
        }
        _ => {}
    }
}
