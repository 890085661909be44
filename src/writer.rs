//! The one task that changes the registry.
//!
//! It takes what waits, a bounded batch; checks each command against the registry as it is; commits what
//! they change together; applies and publishes it; then acknowledges. So an acknowledged change is durable
//! and visible, and many small changes cost one commit. Two commands that touch the same instance do not go
//! into one batch: the second waits for the next, where it is checked against what the first has made.
//!
//! What time and closed connections do is a fact, whether the store can take it or not: it is published
//! at once and stored with the next commit. What the store refuses is refused to whoever asked, and the
//! registry is as it was: answers go on from it.

mod fold;
pub mod node;

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Sleep;

use crate::access::{Access, Identity, On, Token, Tokens};
use crate::balance::circle::Circle;
use crate::check::worst;
use crate::clock::Clock;
use crate::instance::{Health, Host, Instance, Key, ServiceSettings};
use crate::journal::{self, Follower, Journal, Topic};
use crate::name::{HostName, Label, ServiceName};
use crate::protocol::Filter;
use crate::protocol::moving::serial_behind;
use crate::registry::{
    Author, Change, Command, Imported, Reason, Refusal, Registration, Registry, Report, Subject, What,
};
use crate::store::{Reserve, Store};
use crate::time::{Now, nanoseconds};
use crate::update::{self, Against};
use crate::view::{Member, ServiceView, View, Zones};

/// Events waiting for the writer. Who sends more waits: the sender's own connection is the brake.
const QUEUE_MAX: usize = 4096;
/// Events in one batch. A commit of 1024 takes about 10 ms, and the first waits for the last.
const BATCH_MAX: usize = 1024;
/// Facts published and not yet stored, half of what is reserved for them: revisions are never given out
/// twice. Where the store takes none for so long, leases stand still.
const UNSTORED_MAX: usize = 32_768;
/// How often the time is looked at, whatever else happens.
const TICK: Duration = Duration::from_millis(100);
/// Longer than this without a look at the time, and we were stopped or starved: nobody could renew a lease. A
/// quarter of the shortest one: who renews in good time has that much to spare.
const AWAY_MIN: Duration = Duration::from_millis(250);
/// How long facts wait for another try where the store refused them.
const STORE_AGAIN: Duration = Duration::from_millis(500);

/// What reaches the writer.
#[derive(Debug)]
pub enum Event {
    Command {
        command: Command,
        by: Identity,
        done: Option<oneshot::Sender<Verdict>>,
    },
    /// With what matches the filter now, where there is one.
    Watch {
        filter: Option<Box<Filter>>,
        done: oneshot::Sender<Watch>,
    },
    /// What is published at one revision.
    Picture {
        of: Vec<ServiceName>,
        done: oneshot::Sender<Picture>,
    },
    /// The whole zone at one revision.
    Zone {
        done: oneshot::Sender<Zone>,
    },
    /// Everything that the registry holds at one revision.
    Whole {
        done: oneshot::Sender<Whole>,
    },
    /// Has the serial rise above this one.
    Raise {
        above: u32,
        done: oneshot::Sender<Result<Raised, Refusal>>,
    },
    /// Asks whether the writer is alive.
    Ping {
        done: oneshot::Sender<()>,
    },
}

/// How a command went.
pub type Verdict = Result<Done, Refusal>;

/// A command that was carried out.
#[derive(Clone, Debug)]
pub struct Done {
    /// The registry's revision after it.
    pub revision: u64,
    /// What it changed; empty where it was already so.
    pub changes: Vec<Change>,
}

/// Everything that matches now, and every change from here on, with no gap between.
#[derive(Debug)]
pub struct Watch {
    pub members: Vec<Member>,
    pub revision: u64,
    /// Facts up to `revision` that the log does not have yet.
    pub unstored: Vec<Change>,
    pub changes: Follower,
}

/// Services and hosts as they are at one revision, and what the log does not have yet.
#[derive(Debug)]
pub struct Picture {
    pub revision: u64,
    /// Those asked for: the view of it where it is known, and what is set for it.
    pub services: HashMap<ServiceName, (Option<Arc<ServiceView>>, ServiceSettings)>,
    /// Every host that something was said of.
    pub hosts: HashMap<HostName, Arc<Host>>,
    /// With the record trees.
    pub zones: Arc<Zones>,
    /// Facts up to `revision` that the log does not have yet.
    pub unstored: Vec<Change>,
}

/// Everything that is published, as it is at one revision.
#[derive(Debug)]
pub struct Zone {
    pub revision: u64,
    pub services: Vec<Arc<ServiceView>>,
    /// With the record trees.
    pub zones: Arc<Zones>,
}

/// Everything that a registry holds at one revision, but for what left.
#[derive(Debug)]
pub struct Whole {
    pub revision: u64,
    pub instances: Vec<Arc<Instance>>,
    pub hosts: Vec<Arc<Host>>,
    pub settings: Vec<(ServiceName, ServiceSettings)>,
    pub tokens: Vec<Arc<Token>>,
    /// How many plain records were set by UPDATE.
    pub records: usize,
}

/// The serial is above the one that was named.
#[derive(Clone, Copy, Debug)]
pub struct Raised {
    /// False where it was already.
    pub changed: bool,
    /// The registry's revision now.
    pub revision: u64,
}

/// The writer has ended: the server is on its way down.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the server is stopping")]
pub struct Stopped;

/// The way to the writer.
#[derive(Clone, Debug)]
pub struct Handle {
    events: mpsc::Sender<Event>,
    /// What the writer publishes, for those who need no snapshot with it.
    pub journal: Arc<Journal>,
    /// The tokens that there are, and word of every change of them.
    pub tokens: watch::Receiver<Arc<Tokens>>,
    /// What belongs to which node, and word of every change of it; `None` where this server is alone, and everything is its.
    pub circle: watch::Receiver<Option<Arc<Circle>>>,
}

impl Handle {
    /// Sends a command; its verdict arrives when its changes are durable and visible.
    pub async fn command(
        &self,
        command: Command,
        by: Identity,
    ) -> Result<oneshot::Receiver<Verdict>, Stopped> {
        let (done, verdict) = oneshot::channel();
        let event = Event::Command { command, by, done: Some(done) };
        self.events.send(event).await.map_err(|_| Stopped)?;
        Ok(verdict)
    }

    /// Sends a command of the server's own, whose verdict nobody waits for.
    pub async fn tell(&self, command: Command) -> Result<(), Stopped> {
        let by = Identity::server();
        self.events.send(Event::Command { command, by, done: None }).await.map_err(|_| Stopped)
    }

    /// Every change from here on; with a filter, what matches it now.
    pub async fn watch(&self, filter: Option<Filter>) -> Result<Watch, Stopped> {
        let (done, watch) = oneshot::channel();
        let filter = filter.map(Box::new);
        self.events.send(Event::Watch { filter, done }).await.map_err(|_| Stopped)?;
        watch.await.map_err(|_| Stopped)
    }

    /// These services as they are at one revision.
    pub async fn picture(&self, of: Vec<ServiceName>) -> Result<Picture, Stopped> {
        let (done, picture) = oneshot::channel();
        self.events.send(Event::Picture { of, done }).await.map_err(|_| Stopped)?;
        picture.await.map_err(|_| Stopped)
    }

    /// Every service as it is at one revision.
    pub async fn zone(&self) -> Result<Zone, Stopped> {
        let (done, zone) = oneshot::channel();
        self.events.send(Event::Zone { done }).await.map_err(|_| Stopped)?;
        zone.await.map_err(|_| Stopped)
    }

    /// Everything at one revision.
    pub async fn whole(&self) -> Result<Whole, Stopped> {
        let (done, whole) = oneshot::channel();
        self.events.send(Event::Whole { done }).await.map_err(|_| Stopped)?;
        whole.await.map_err(|_| Stopped)
    }

    /// Has the serial rise above `above`, for good.
    pub async fn raise(&self, above: u32) -> Result<Result<Raised, Refusal>, Stopped> {
        let (done, raised) = oneshot::channel();
        self.events.send(Event::Raise { above, done }).await.map_err(|_| Stopped)?;
        raised.await.map_err(|_| Stopped)
    }

    /// Returns once the writer has come round.
    pub async fn ping(&self) -> Result<(), Stopped> {
        let (done, pong) = oneshot::channel();
        self.events.send(Event::Ping { done }).await.map_err(|_| Stopped)?;
        pong.await.map_err(|_| Stopped)
    }
}

/// See the module's own words.
pub struct Writer {
    registry: Registry,
    store: Store,
    view: Arc<View>,
    clock: Clock,
    access: Arc<Access>,
    events: mpsc::Receiver<Event>,
    journal: Arc<Journal>,
    tokens: watch::Sender<Arc<Tokens>>,
    /// Commands that wait for the next batch, oldest first.
    postponed: VecDeque<Event>,
    /// Facts published and not yet stored.
    unstored: Vec<Change>,
    /// Facts that there was no room for: the store has taken nothing for long.
    undone: Vec<Event>,
    /// When the time was last looked at, in nanoseconds of the monotonic clock.
    seen_ns: u64,
    /// Facts alone are not offered to a store that refused before this time.
    again_ns: u64,
    /// When the time is looked at next. It is moved, not made anew: tokio wakes a thread for each new timer that comes
    /// before all others, which here would be twice a batch.
    timer: Pin<Box<Sleep>>,
}

/// The places of a command's changes in its round, or why it is refused.
type Checked = Result<Range<usize>, Refusal>;

/// The commands of one batch that are to be committed together.
#[derive(Default)]
struct Round {
    changes: Vec<Change>,
    /// What each is answered when the commit has succeeded.
    answers: Vec<(Checked, Option<oneshot::Sender<Verdict>>)>,
    keys: HashSet<Key>,
    labels: HashSet<(ServiceName, Label)>,
    /// Services that an instance leaves in this round.
    left: HashSet<ServiceName>,
    hosts: HashSet<HostName>,
    settings: HashSet<ServiceName>,
    /// One token at a time: there may only be so many.
    tokens: bool,
    /// Of the services that instances are registered of.
    names: HashSet<ServiceName>,
    new_instances: usize,
    /// It holds an UPDATE, and nothing else.
    is_update: bool,
}

impl Writer {
    /// Within a runtime of tokio, whose timer it has.
    pub fn new(
        registry: Registry,
        store: Store,
        view: Arc<View>,
        clock: Clock,
        access: Arc<Access>,
    ) -> (Self, Handle) {
        let (sender, events) = mpsc::channel(QUEUE_MAX);
        let (tokens, known) = watch::channel(Arc::new(registry.tokens().clone()));
        let (_, circle) = watch::channel(None);
        let journal = Arc::new(Journal::default());
        let seen_ns = clock.now().mono_ns;
        let (postponed, unstored, undone) = (VecDeque::new(), Vec::new(), Vec::new());
        let writer = Self {
            registry,
            store,
            view,
            clock,
            access,
            events,
            journal: journal.clone(),
            tokens,
            postponed,
            unstored,
            undone,
            seen_ns,
            again_ns: 0,
            timer: Box::pin(tokio::time::sleep(TICK)),
        };
        (writer, Handle { events: sender, journal, tokens: known, circle })
    }

    /// Works until every handle is gone and the queue is empty.
    pub async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        loop {
            if !self.postponed.is_empty() {
                // Nobody waits behind another's queue: the batch is filled up with what is new.
                while self.postponed.len() + batch.len() < BATCH_MAX
                    && let Ok(event) = self.events.try_recv()
                {
                    batch.push(event);
                }
            } else {
                let look = self.next_look();
                self.timer.as_mut().reset(look.into());
                // Both arms are cancel-safe: `recv_many` loses nothing, and the timer is set anew.
                let received = tokio::select! {
                    biased;
                    received = self.events.recv_many(&mut batch, BATCH_MAX) => Some(received),
                    () = &mut self.timer => None,
                };
                if received == Some(0) {
                    break;
                }
            }
            let mut events: VecDeque<Event> = std::mem::take(&mut self.postponed);
            events.extend(batch.drain(..));
            self.work(events).await;
        }
        if let Err(failure) =
            self.store.close(std::mem::take(&mut self.unstored), self.registry.revision()).await
        {
            tracing::error!(%failure, "the last changes are not stored");
        }
        self.journal.close();
        // The process ends here: to take a million instances apart first would only hold up the next start.
        std::mem::forget(self.registry);
    }

    fn next_look(&self) -> std::time::Instant {
        let due = self.registry.next_due_ns().filter(|_| self.unstored.len() + 1 < UNSTORED_MAX);
        let tick = self.seen_ns + nanoseconds(TICK);
        self.clock.instant(due.map_or(tick, |due| due.min(tick)))
    }

    /// Looks at the time.
    fn look(&mut self) -> Now {
        let now = self.clock.now();
        notice_absence(&self.registry, &mut self.seen_ns, now);
        now
    }

    /// One batch: facts first, then commands together, then the answers.
    async fn work(&mut self, events: VecDeque<Event>) {
        let now = self.look();
        let due = self.registry.due(now, self.room() / 2);
        let mut facts = Vec::with_capacity(due.len());
        self.happen(due, now, &mut facts);
        let mut after = Vec::new();
        let mut commands = VecDeque::new();
        for event in std::mem::take(&mut self.undone).into_iter().chain(events) {
            match event {
                Event::Command { command, by, done } if is_fact(&command, &by) => {
                    if self.room() == 0 {
                        self.undone.push(Event::Command { command, by, done });
                        continue;
                    }
                    let found = self.registry.check(&command, now);
                    self.happen(found.unwrap_or_default(), now, &mut facts);
                }
                Event::Command { .. } => commands.push_back(event),
                Event::Watch { .. }
                | Event::Picture { .. }
                | Event::Zone { .. }
                | Event::Whole { .. }
                | Event::Raise { .. }
                | Event::Ping { .. } => after.push(event),
            }
        }
        self.settle(&mut facts, now);
        self.show(&facts);
        let mut round = Round::default();
        for event in commands {
            if let Some(event) = self.admit(&mut round, event, now) {
                self.postponed.push_back(event);
            }
        }
        self.commit(round, now).await;
        for event in after {
            match event {
                Event::Watch { filter, done } => drop(done.send(self.watch(filter.as_deref()))),
                Event::Picture { of, done } => drop(done.send(self.picture(of))),
                Event::Zone { done } => drop(done.send(self.zone())),
                Event::Whole { done } => drop(done.send(self.spend(|this| whole(&this.registry)))),
                Event::Raise { above, done } => drop(done.send(self.raise(above).await)),
                Event::Ping { done } => drop(done.send(())),
                Event::Command { .. } => self.postponed.push_back(event),
            }
        }
    }

    /// Facts that may still be published: more would outrun the revisions that are reserved.
    fn room(&self) -> usize {
        UNSTORED_MAX.saturating_sub(self.unstored.len())
    }

    /// At this point the view is the registry, and the next change goes to the follower.
    fn watch(&mut self, filter: Option<&Filter>) -> Watch {
        let (revision, unstored) = (self.registry.revision(), self.unstored.clone());
        self.spend(|this| watch(&this.view, &this.journal, filter, revision, unstored))
    }

    /// Time that we spend ourselves is no absence.
    fn spend<T>(&mut self, on: impl FnOnce(&Self) -> T) -> T {
        let begun = self.clock.now();
        let made = on(self);
        self.seen_ns += self.clock.now().mono_ns - begun.mono_ns;
        made
    }

    fn zone(&mut self) -> Zone {
        self.spend(|this| zone(&this.registry, &this.view))
    }

    fn picture(&mut self, of: Vec<ServiceName>) -> Picture {
        self.spend(|this| picture(&this.registry, &this.view, of, this.unstored.clone()))
    }

    /// What happened anyway is so at once, and is stored with the next commit.
    fn happen(&mut self, found: Vec<(Reason, What)>, now: Now, facts: &mut Vec<Change>) {
        for (reason, what) in found {
            let revision = self.registry.revision() + 1;
            let change = Registry::change(revision, reason, what, Author::Server, now);
            self.registry.apply(&change, now);
            self.unstored.push(change.clone());
            facts.push(change);
        }
    }

    /// Lets guards begin and end, as the changes want it.
    fn settle(&mut self, changes: &mut Vec<Change>, now: Now) {
        let found = self.registry.settle(changes, now);
        self.happen(found, now, changes);
    }

    fn show(&self, changes: &[Change]) {
        if !changes.is_empty() {
            show(&self.registry, &self.view, &self.journal, changes);
        }
    }

    /// True where there may be no room for a new instance beside those of the round.
    fn overfills(&self, round: &Round, found: &[(Reason, What)], by: &Identity) -> bool {
        let coming = round.new_instances;
        let mut new = found.iter().filter_map(|(_, what)| new_instance(what));
        coming > 0
            && new.any(|instance| {
                self.registry.instances() + coming >= self.registry.instances_max()
                    || !has_room(&self.registry, &self.access, by, &instance.key, coming)
            })
    }

    /// Puts a command into the round; returns it where it has to wait for the next.
    fn admit(&self, round: &mut Round, event: Event, now: Now) -> Option<Event> {
        let Event::Command { mut command, by, done } = event else { return Some(event) };
        if round.touches(&command) {
            return Some(Event::Command { command, by, done });
        }
        if let Command::Register(registration) = &mut command {
            round.share_name(registration);
            registration.owner = by.owner.clone();
        }
        let permitted = permits(&self.registry, &self.access, &command, &by, now);
        let found = match permitted.and_then(|()| self.check(&command, &by, now)) {
            Ok(found) => found,
            Err(refusal) => {
                round.touch(&command);
                round.answers.push((Err(refusal), done));
                return None;
            }
        };
        if round.collides(&found) || self.overfills(round, &found, &by) {
            round.touch(&command); // what comes after it on the same instance waits behind it
            return Some(Event::Command { command, by, done });
        }
        round.touch(&command);
        let author = by.author();
        let first = round.changes.len();
        for (reason, what) in found {
            let revision = self.registry.revision() + 1 + round.changes.len() as u64;
            round.add(Registry::change(revision, reason, what, author.clone(), now));
        }
        round.is_update = matches!(command, Command::Update(_)) && first < round.changes.len();
        round.answers.push((Ok(first..round.changes.len()), done));
        None
    }

    fn check(&self, command: &Command, by: &Identity, now: Now) -> Result<Vec<(Reason, What)>, Refusal> {
        let Command::Update(update) = command else { return self.registry.check(command, now) };
        let (registry, view, access) = (&self.registry, &*self.view, &*self.access);
        update::check(update, Against { registry, view, access, by, now })
    }

    /// Makes the round durable, then so, then visible, then acknowledged; or refuses all of it.
    async fn commit(&mut self, round: Round, now: Now) {
        let Round { mut changes, answers, .. } = round;
        let facts_can_wait = self.unstored.is_empty() || now.mono_ns < self.again_ns;
        let stored = if changes.is_empty() && facts_can_wait {
            Ok(())
        } else {
            let all: Vec<Change> = self.unstored.iter().chain(&changes).cloned().collect();
            let stored = self.store(all, Reserve::Ahead).await;
            self.note(&stored);
            stored.map(|()| self.unstored.clear())
        };
        match &stored {
            Ok(()) => {
                // A lease begins when it is given, not when the disk was asked.
                let now = self.clock.now();
                for change in &changes {
                    if let What::Instance { after: Some(after), .. } = &change.what
                        && change.reason == Reason::Registered
                    {
                        after.deadline.renew(now);
                    }
                    self.registry.apply(change, now);
                }
                self.settle(&mut changes, now);
                if changes.iter().any(|change| matches!(change.what, What::Token { .. })) {
                    self.tokens.send_replace(Arc::new(self.registry.tokens().clone()));
                }
                self.show(&changes);
            }
            Err(_) => self.again_ns = now.mono_ns + nanoseconds(STORE_AGAIN),
        }
        let revision = self.registry.revision();
        for (checked, done) in answers {
            let verdict = match (checked, &stored) {
                (Ok(range), Err(reason)) if !range.is_empty() => Err(Refusal::Unavailable(reason.clone())),
                (Ok(range), _) => Ok(Done { revision, changes: changes[range].to_vec() }),
                (Err(refusal), _) => Err(refusal),
            };
            // Who does not wait any more has lost nothing but the answer.
            if let Some(done) = done {
                drop(done.send(verdict));
            }
        }
    }

    /// Shows the store's trouble, and logs where it begins and ends.
    fn note(&self, stored: &Result<(), Arc<str>>) {
        match (stored, self.view.store_trouble()) {
            (Ok(()), None) => {}
            (Ok(()), Some(_)) => {
                tracing::info!("the store takes changes again");
                self.view.set_store_trouble(None);
            }
            (Err(reason), before) => {
                if before.is_none() {
                    tracing::error!(%reason, "the store takes nothing; changes are refused, answers go on");
                }
                self.view.set_store_trouble(Some(reason.to_string()));
            }
        }
    }

    /// Leaves out revisions until the serial is above `above`: what was before keeps the serial that it had.
    async fn raise(&mut self, above: u32) -> Result<Raised, Refusal> {
        let more = serial_behind(self.view.serial(), above);
        let revision = self.registry.revision() + u64::from(more);
        if more > 0 {
            // Before anybody sees one of them, they are given out.
            let stored = self.store(self.unstored.clone(), Reserve::Beyond(revision)).await;
            self.note(&stored);
            stored.map_err(Refusal::Unavailable)?;
            self.unstored.clear();
            self.registry.advance(revision);
            self.view.set_started(revision);
            self.view.publish(&self.registry, &[]);
        }
        Ok(Raised { changed: more > 0, revision })
    }

    /// Waits for the store, and looks at the time meanwhile: a slow disk is not our absence.
    async fn store(&mut self, changes: Vec<Change>, reserve: Reserve) -> Result<(), Arc<str>> {
        let mut committing = std::pin::pin!(self.store.commit(changes, reserve));
        loop {
            let now = self.clock.now();
            self.timer.as_mut().reset(self.clock.instant(now.mono_ns + nanoseconds(TICK)).into());
            // Both arms are cancel-safe: the commit is polled on, and the timer is set anew.
            let committed = tokio::select! {
                committed = &mut committing => Some(committed),
                () = &mut self.timer => None,
            };
            notice_absence(&self.registry, &mut self.seen_ns, self.clock.now());
            if let Some(committed) = committed {
                return committed.map_err(|failure| failure.to_string().into());
            }
        }
    }
}

/// Makes changes that the registry holds visible, and tells those who follow.
fn show(registry: &Registry, view: &View, journal: &Journal, changes: &[Change]) {
    let touched = view.publish(registry, changes);
    changes.iter().for_each(|change| log_guard(view, change));
    if journal.is_followed() && !changes.is_empty() {
        let event = |change: &Change| journal::Event::new(change.clone(), host_health(registry, change));
        journal.publish(&changes.iter().map(event).collect(), &touched);
    }
}

fn watch(
    view: &View,
    journal: &Journal,
    filter: Option<&Filter>,
    revision: u64,
    unstored: Vec<Change>,
) -> Watch {
    let members = filter.map(|filter| view.list(filter, None, usize::MAX).0).unwrap_or_default();
    let topic = filter.and_then(|filter| filter.service.as_ref()).map_or(Topic::Everything, Topic::Service);
    Watch { members, revision, unstored, changes: journal.follow(topic) }
}

fn zone(registry: &Registry, view: &View) -> Zone {
    Zone { revision: registry.revision(), services: view.all_services(), zones: view.zones() }
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
        records: registry.plain().records(),
    }
}

fn picture(registry: &Registry, view: &View, of: Vec<ServiceName>, unstored: Vec<Change>) -> Picture {
    let services = of.into_iter().map(|name| {
        let now = (view.service(name.as_str()), view.settings_of(&name));
        (name, now)
    });
    let hosts = view.all_hosts().into_iter().map(|host| (host.name.clone(), host));
    let (services, hosts) = (services.collect(), hosts.collect());
    Picture { revision: registry.revision(), services, hosts, zones: view.zones(), unstored }
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

/// Whether somebody may do what is asked for, on everything that it is about.
fn permits(
    registry: &Registry,
    access: &Access,
    command: &Command,
    by: &Identity,
    now: Now,
) -> Result<(), Refusal> {
    let (verb, tokens) = (command.verb(), registry.tokens());
    for about in subjects(command) {
        match about {
            About::Instance(key) => match registry.instance(key) {
                Some(instance) => access.permits_change(by, verb, instance, tokens, now.wall)?,
                None => {
                    access.permits(by, verb, On::from(&key.service), tokens, now.wall)?;
                    if matches!(command, Command::Register(_)) && !has_room(registry, access, by, key, 0) {
                        let (who, limit) = (by.to_string(), access.owned_max);
                        return Err(Refusal::OwnsTooMany { who, limit });
                    }
                }
            },
            About::Settings(service) => access.permits(by, verb, On::from(service), tokens, now.wall)?,
            About::Host(_) | About::Token(_) => access.permits(by, verb, On::Everything, tokens, now.wall)?,
        }
    }
    Ok(())
}

/// Whether somebody may have one instance more, beside `coming` that are not registered yet.
fn has_room(registry: &Registry, access: &Access, by: &Identity, key: &Key, coming: usize) -> bool {
    by.owner.as_ref().is_none_or(|owner| {
        access.permits_another(by, On::from(&key.service), registry.owned_by(owner) + coming)
    })
}

/// True for what happened, whether the store takes it or not: a closed connection, a probe's verdict.
fn is_fact(command: &Command, by: &Identity) -> bool {
    match command {
        Command::Closed { .. } => true,
        Command::Report(_) => by.author() == Author::Server,
        _ => false,
    }
}

/// Where we were away since the time was last looked at, leases do not run out for it.
fn notice_absence(registry: &Registry, seen_ns: &mut u64, now: Now) {
    let away = Duration::from_nanos(now.mono_ns.saturating_sub(*seen_ns));
    *seen_ns = now.mono_ns;
    if away > AWAY_MIN {
        tracing::warn!(?away, "this process was stopped or starved; leases are longer by that, or anew");
        registry.after_absence(away, now);
    }
}

impl Round {
    /// True where a command before it in the round is about the same instance or host. An UPDATE is about the whole
    /// zone, as it is at one moment.
    fn touches(&self, command: &Command) -> bool {
        if self.is_update || matches!(command, Command::Update(_)) && !self.changes.is_empty() {
            return true;
        }
        subjects(command).any(|about| match about {
            About::Instance(key) => self.keys.contains(key),
            About::Host(host) => self.hosts.contains(host),
            About::Settings(service) => self.settings.contains(service),
            About::Token(_) => self.tokens,
        })
    }

    fn touch(&mut self, command: &Command) {
        for about in subjects(command) {
            match about {
                About::Instance(key) => drop(self.keys.insert(key.clone())),
                About::Host(host) => drop(self.hosts.insert(host.clone())),
                About::Settings(service) => drop(self.settings.insert(service.clone())),
                About::Token(_) => self.tokens = true,
            }
        }
    }

    /// The first instances of a service come in one round, before the registry has its name to share.
    fn share_name(&mut self, registration: &mut Registration) {
        let key = &registration.key;
        match self.names.get(&key.service) {
            Some(name) => registration.key = Key::new(name.clone(), key.id.clone(), key.host.clone()),
            None => drop(self.names.insert(key.service.clone())),
        }
    }

    /// True where a new instance would get a label that the round has given away, or not its own, which the round may
    /// have set free.
    fn collides(&self, found: &[(Reason, What)]) -> bool {
        let new = found.iter().filter_map(|(_, what)| new_instance(what));
        new.into_iter().any(|instance| {
            let service = &instance.key.service;
            self.labels.contains(&(service.clone(), instance.label.clone()))
                || (self.left.contains(service) && instance.label != instance.key.id.label())
        })
    }

    fn add(&mut self, change: Change) {
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

/// What a command is about.
enum About<'a> {
    Instance(&'a Key),
    Host(&'a HostName),
    Settings(&'a ServiceName),
    /// By its name.
    Token(&'a Arc<str>),
}

fn subjects(command: &Command) -> impl Iterator<Item = About<'_>> {
    let (first, second) = match command {
        Command::Register(registration) => {
            (Some(About::Instance(&registration.key)), registration.displaces.as_ref().map(About::Instance))
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

fn new_instance(what: &What) -> Option<&Arc<Instance>> {
    match what {
        What::Instance { before: None, after: Some(after) } => Some(after),
        _ => None,
    }
}
