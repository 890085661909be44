//! The writer of a node: the one task of a server that changes the registry where etcd holds it.
//!
//! A command is checked against the registry as it is and becomes one transaction, which holds only if what it was checked
//! against is unchanged. What etcd then tells, of this node's transactions and of others', is folded into the registry and
//! published; a command is answered when what it did was told and is visible. So local and remote changes take the same
//! way in, and two nodes that want different things of one instance come one after the other.
//!
//! What time does (leases that end, gone instances to forget) is found by the node that watches over it (`fold`),
//! and is so only when etcd has it. While etcd cannot be asked nothing ends: leases stand still, and have their time again
//! when it is back.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::fold::{Fold, Folded, NODES_MAX, OVERDUE_AFTER, record_of, unnumbered};
use super::{
    About, Done, Event, Handle, QUEUE_MAX, Raised, TICK, Verdict, notice_absence, permits, picture, show,
    subjects, whole, zone,
};
use crate::access::{Access, Identity, Tokens};
use crate::balance::circle::Circle;
use crate::clock::Clock;
use crate::instance::{Instance, Key, Lease};
use crate::journal::Journal;
use crate::name::ServiceName;
use crate::protocol::moving::serial_behind;
use crate::registry::{Author, Change, Command, Reason, Refusal, Registry, Report, ReportOf, Subject, What};
use crate::store::History;
use crate::store::etcd::follow::Told;
use crate::store::etcd::messages::{Condition, Operation};
use crate::store::etcd::place::Place;
use crate::store::etcd::{Answer, Etcd, Job, News, TRANSACTIONS_MAX};
use crate::store::history::Memory;
use crate::store::record::{self, ClusterFormat, Note};
use crate::time::{Now, Wall, nanoseconds};
use crate::view::View;

/// How often a command is tried again where another node was first.
const TRIES_MAX: u32 = 20;
/// Tries after which what we know may be what is wrong.
const TRIES_DOUBTED: u32 = 10;
/// How long a command waits for the other node's change before the next try.
const AGAIN_AFTER: Duration = Duration::from_millis(20);
/// How long what may be stored has to be told.
const UNKNOWN_MAX: Duration = Duration::from_secs(2);
/// Transactions under way up to which closed connections are said: what commands and time ask for has the rest.
const FACTS_AT_ONCE: usize = TRANSACTIONS_MAX / 4;
/// How far the clocks of two nodes may be apart for a guard: what died by the other's clock a moment from now is looked
/// at again when ours is there.
const CLOCKS_APART_MAX: Duration = Duration::from_secs(10);
/// The shortest time between two looks at the time. What another node has to say is due here until it says it.
const LOOK_MIN: Duration = Duration::from_millis(4);
/// How often we look for what whoever should have has not forgotten, and say again what etcd did not take.
const SWEEP_EVERY: Duration = Duration::from_secs(30);
/// How long a new member takes no heartbeats of what another one watches over. They may have waited in connections while it
/// was none, and their instances may have gone on elsewhere; who lives says it again.
const OLD_WORDS: Duration = Duration::from_secs(5);
/// How long etcd may take to be told that we leave.
const LEAVE_TIME_MAX: Duration = Duration::from_secs(2);

/// See the module's own words.
pub struct Node {
    fold: Fold,
    etcd: Etcd,
    view: Arc<View>,
    clock: Clock,
    access: Arc<Access>,
    events: mpsc::Receiver<Event>,
    journal: Arc<Journal>,
    tokens: watch::Sender<Arc<Tokens>>,
    circle: watch::Sender<Option<Arc<Circle>>>,
    memory: Memory,
    /// What is under way, by the number of its transaction.
    pending: HashMap<u64, Pending>,
    /// What is being changed, and the commands about it that wait.
    busy: HashMap<Place, VecDeque<Event>>,
    /// Commands in `busy`.
    waiting: usize,
    /// Commands that another node was before with, and when they are tried again.
    again: Vec<(u64, Pending)>,
    /// Instances whose connections closed, and the connections: said as there is room. No more than are registered.
    facts: VecDeque<(u64, Key)>,
    /// The same that etcd did not take: said again after a while.
    kept: VecDeque<(u64, Key)>,
    /// Services whose guards may begin or end by what was told.
    unsettled: BTreeMap<ServiceName, Unsettled>,
    number: u64,
    /// Why etcd cannot be asked.
    lost: Option<String>,
    /// And since when.
    lost_at: Option<Now>,
    /// Why this node cannot be a member, though etcd can be followed.
    taken: Option<String>,
    /// What the link said last: a member up to this time, and since this revision.
    member: Option<(u64, u64)>,
    /// This node is surely a member up to this time, and knows what others did before.
    member_until_ns: u64,
    /// The revision that this node was last seen to be a member since, and when that was seen.
    joined: Option<(u64, u64)>,
    /// Who waits for a higher serial: above which, and until when.
    raises: Vec<Raise>,
    /// Leases stand still since this time.
    still_ns: Option<u64>,
    seen_ns: u64,
    sweep_ns: u64,
}

/// A transaction, and who waits for it.
#[derive(Debug)]
struct Pending {
    asked: Asked,
    places: Vec<Place>,
    /// What the registry has of it already.
    changes: Vec<Change>,
    /// Things that it writes or deletes and that were not told yet.
    untold: usize,
    /// What it deletes: of that, no note tells whose transaction it was.
    deletes: Vec<Place>,
    /// The instances as they will be.
    staged: HashMap<Place, Arc<Instance>>,
    tries: u32,
    /// When it is given up as not known, where etcd did not say or nothing was told.
    give_up_ns: Option<u64>,
    stored: bool,
}

impl Pending {
    /// One that writes nothing yet.
    fn of(asked: Asked, places: Vec<Place>) -> Self {
        Self {
            asked,
            places,
            changes: Vec::new(),
            untold: 0,
            deletes: Vec::new(),
            staged: HashMap::new(),
            tries: 0,
            give_up_ns: None,
            stored: false,
        }
    }
}

/// What is known of a service whose guard may begin or end.
#[derive(Clone, Copy, Debug, Default)]
struct Unsettled {
    /// Something became worse.
    worse: bool,
    /// When the last of it happened, by the clock of the node that says so.
    at: Wall,
    /// Not looked at before this time, in nanoseconds of the monotonic clock.
    after_ns: u64,
}

/// Somebody waits for a serial above another one.
#[derive(Debug)]
struct Raise {
    above: u32,
    give_up_ns: u64,
    done: oneshot::Sender<Result<Raised, Refusal>>,
}

#[derive(Debug)]
enum Asked {
    Command {
        command: Command,
        by: Identity,
        done: Option<oneshot::Sender<Verdict>>,
    },
    /// What time did.
    Due,
}

impl Node {
    /// `run` tells this run of the node from all others.
    pub fn new(
        registry: Registry,
        etcd: Etcd,
        names: (&str, &str),
        run: u64,
        view: Arc<View>,
        clock: Clock,
        access: Arc<Access>,
    ) -> (Self, Handle) {
        let (sender, events) = mpsc::channel(QUEUE_MAX);
        let (tokens, known) = watch::channel(Arc::default());
        let (circle, circle_known) = watch::channel(None);
        let journal = Arc::new(Journal::default());
        let (name, prefix) = names;
        let seen_ns = clock.now().mono_ns;
        view.set_heard_until(0);
        let node = Self {
            fold: Fold::new(registry, name, prefix, run),
            etcd,
            view,
            clock,
            access,
            events,
            journal: journal.clone(),
            tokens,
            circle,
            memory: Memory::default(),
            pending: HashMap::new(),
            busy: HashMap::new(),
            waiting: 0,
            again: Vec::new(),
            facts: VecDeque::new(),
            kept: VecDeque::new(),
            unsettled: BTreeMap::new(),
            number: run,
            lost: None,
            lost_at: None,
            taken: None,
            member: None,
            member_until_ns: 0,
            joined: None,
            raises: Vec::new(),
            still_ns: Some(seen_ns),
            seen_ns,
            sweep_ns: seen_ns,
        };
        (node, Handle { events: sender, journal, tokens: known, circle: circle_known })
    }

    /// The log of changes, as far as this node has seen them.
    pub fn history(&self) -> History {
        History::Memory(self.memory.clone())
    }

    /// Reads everything, makes it visible, and becomes a member; for as long as that takes.
    ///
    /// # Errors
    ///
    /// What is there is a newer version's.
    pub async fn load(&mut self) -> Result<(), String> {
        let mut remembered: Vec<Told> = Vec::new();
        let (mut proposed, mut has_read) = (false, false);
        loop {
            let tick = self.clock.instant(self.clock.now().mono_ns + nanoseconds(TICK));
            // Both arms are cancel-safe: the channel loses nothing, and the time is computed anew.
            let news = tokio::select! {
                news = self.etcd.news.recv() => news,
                () = tokio::time::sleep_until(tick.into()) => {
                    self.show_trouble(self.clock.now());
                    continue;
                }
            };
            let Some(news) = news else { break };
            let now = self.clock.now();
            match news {
                News::Changed(told) if has_read => self.changed(&told, now),
                News::Changed(told) => {
                    for told in told {
                        if told.key == b"format"
                            && let Some(pair) = &told.pair
                        {
                            record::read_format(&pair.value).map_err(|error| error.to_string())?;
                        }
                        self.fold.fold(&told, &mut |_, _| None, now);
                        remembered.push(told);
                    }
                    // What is there is in the registry; those that left are told with it at the end.
                    remembered.retain(|told| told.pair.is_some() && self.is_remembered(told));
                }
                News::Reread(revision) => self.begin_history(revision),
                News::CaughtUp(revision) => {
                    self.fold.registry.advance(revision);
                    self.trouble(None);
                    if self.fold.format.is_none() && !proposed {
                        proposed = true;
                        self.propose_format(now);
                    }
                }
                News::Lost(reason) => {
                    proposed = false;
                    self.trouble(Some(reason));
                }
                News::Taken(name) => self.is_taken(&name),
                News::Member { until_ns, created } => self.is_member(until_ns, created),
                News::Answered { .. } => {}
            }
            self.show_trouble(now);
            let Some(format) = self.fold.format else { continue };
            if self.lost.is_none() && !has_read {
                has_read = true;
                self.fold.remember(&std::mem::take(&mut remembered), now);
                self.fold.settle_all(now);
                self.unsettle_all(now);
                self.publish_nodes();
                self.view.set_serial_base(format.serial_base);
                self.view.publish_all(&self.fold.registry);
                self.publish_tokens();
                self.memory.begin_at(self.fold.registry.revision());
                self.view.set_ready();
                tracing::debug!(instances = self.fold.registry.instances(), "read everything from etcd");
            }
            if has_read && self.fold.member_since().is_some() {
                self.view.publish(&self.fold.registry, &[]);
                self.run_again(self.clock.now());
                return Ok(());
            }
        }
        Err("the link to etcd has ended".to_owned())
    }

    fn is_remembered(&self, told: &Told) -> bool {
        matches!(Place::of(&told.key), Some(Place::Instance(key)) if self.fold.registry.instance(&key).is_none())
    }

    fn propose_format(&mut self, now: Now) {
        let format = ClusterFormat { serial_base: (now.wall.unix_ms / 1000) as u32 };
        let key = self.fold.key_of(&Place::Format);
        let conditions = vec![Condition::CreatedAt(key.clone(), 0)];
        let operations = vec![Operation::Put { key, value: record::write_format(&format), lease: 0 }];
        let number = self.next_number();
        self.ask(Job::Transact { conditions, operations, number });
    }

    /// Whoever has a connection open hears of it, and asks again what it may.
    fn publish_tokens(&self) {
        self.tokens.send_replace(Arc::new(self.fold.registry.tokens().clone()));
    }

    /// Whoever probes hears of it, and looks anew at what is its to probe.
    fn publish_nodes(&self) {
        self.view.set_nodes(self.fold.nodes(), self.fold.left_nodes(), self.fold.registry.revision());
        self.circle.send_replace(Some(self.fold.circle().clone()));
    }

    /// Works until every handle is gone and what is under way has ended.
    pub async fn run(mut self) {
        self.seen_ns = self.clock.now().mono_ns; // reading everything was no absence
        let mut batch = Vec::with_capacity(TRANSACTIONS_MAX);
        let mut ended = false;
        loop {
            let room = TRANSACTIONS_MAX.saturating_sub(self.pending.len() + self.again.len() + self.waiting);
            let sleep = tokio::time::sleep_until(self.next_look().into());
            // Every arm is cancel-safe: neither channel loses what is not taken, and the time is computed anew.
            tokio::select! {
                news = self.etcd.news.recv() => match news {
                    Some(news) => self.hear(news),
                    None => break,
                },
                count = self.events.recv_many(&mut batch, room), if room > 0 && !ended => ended = count == 0,
                () = sleep => {}
            }
            while let Ok(news) = self.etcd.news.try_recv() {
                self.hear(news);
            }
            for event in batch.drain(..) {
                self.take(event);
            }
            self.look();
            let said = self.facts.is_empty() || !self.is_running();
            if ended && said && self.pending.is_empty() && self.again.is_empty() && self.waiting == 0 {
                break;
            }
        }
        let (done, left) = oneshot::channel();
        self.view.set_heard_until(0);
        self.ask(Job::Leave { done });
        // What is told meanwhile concerns nobody any more, but must not hold up the link.
        let leaving = async {
            let mut left = left;
            loop {
                tokio::select! {
                    _ = &mut left => break,
                    news = self.etcd.news.recv() => if news.is_none() { break },
                }
            }
        };
        if tokio::time::timeout(LEAVE_TIME_MAX, leaving).await.is_err() {
            tracing::warn!("etcd did not hear that this node leaves; the others will notice by themselves");
        }
        self.journal.close();
        // The process ends here: to take a million instances apart first would only hold up the next start.
        std::mem::forget(self.fold);
    }

    fn next_look(&self) -> std::time::Instant {
        let tick = match self.again.is_empty() {
            true => TICK,
            false => AGAIN_AFTER,
        };
        let tick = self.seen_ns + nanoseconds(tick);
        let due = self.fold.registry.next_due_ns().filter(|_| self.is_running());
        let soon = self.seen_ns + nanoseconds(LOOK_MIN);
        self.clock.instant(due.map_or(tick, |due| due.max(soon).min(tick)))
    }

    /// True while this node is a member and etcd can be asked: only then does time pass for leases.
    fn is_running(&self) -> bool {
        self.lost.is_none() && self.fold.member_since().is_some()
    }

    fn next_number(&mut self) -> u64 {
        self.number = self.number.wrapping_add(1);
        self.number
    }

    /// Asks for what somebody asks for again where the link takes nothing.
    fn ask(&self, job: Job) {
        if let Err(error) = self.etcd.jobs.try_send(job) {
            tracing::debug!(%error, "the link to etcd takes nothing");
        }
    }

    /// Has a transaction under way; where the link takes none, etcd was not asked, and that is said.
    fn begin(
        &mut self,
        number: u64,
        pending: Pending,
        conditions: Vec<Condition>,
        operations: Vec<Operation>,
    ) {
        match self.etcd.jobs.try_send(Job::Transact { conditions, operations, number }) {
            Ok(()) => drop(self.pending.insert(number, pending)),
            Err(_) => {
                let reason = "too much is under way to etcd; try again";
                self.give_up(pending, Refusal::Unavailable(reason.into()));
            }
        }
    }

    /// Shows that etcd cannot be asked, or can again, and lets leases stand or run.
    fn trouble(&mut self, lost: Option<String>) {
        match (&self.lost, &lost) {
            (None, Some(reason)) => {
                tracing::error!(%reason, "etcd cannot be asked; changes are refused, leases stand still, answers go on");
            }
            (Some(_), None) => tracing::info!("etcd can be asked again"),
            _ => {}
        }
        self.lost_at = lost.as_ref().and(self.lost_at.or_else(|| Some(self.clock.now())));
        self.lost = lost;
    }

    fn is_taken(&mut self, name: &str) {
        if self.taken.is_none() {
            let reason = format!(
                "the name `{name}` is that of another node, or of this one before it ended, which lasts some seconds; name this one with --node NAME"
            );
            tracing::error!("{reason}");
            self.taken = Some(reason);
        }
    }

    /// Shows why changes are refused, and how old answers are where etcd cannot be followed.
    fn show_trouble(&self, now: Now) {
        let trouble = match (&self.lost, self.fold.member_since()) {
            (Some(reason), _) => Some(reason.clone()),
            (None, None) => Some(self.taken.clone().unwrap_or_else(|| {
                "this node is not a member yet, or not any more; it joins by itself".to_owned()
            })),
            (None, Some(_)) => None,
        };
        self.view.set_stale(self.lost_at, now);
        if self.view.store_trouble().map(|trouble| trouble.to_string()) != trouble {
            self.view.set_store_trouble(trouble);
        }
    }

    /// After whatever may have changed it: leases run or stand.
    fn run_again(&mut self, now: Now) {
        self.show_trouble(now);
        self.take_heartbeats();
        let since = self.fold.member_since();
        if since != self.joined.map(|(since, _)| since) {
            self.joined = since.map(|since| (since, now.mono_ns));
        }
        match (self.is_running(), self.still_ns) {
            (true, Some(since_ns)) => {
                self.still_ns = None;
                let away = Duration::from_nanos(now.mono_ns.saturating_sub(since_ns));
                self.fold.registry.after_absence(away, now);
                self.facts.append(&mut self.kept);
            }
            (false, None) => self.still_ns = Some(now.mono_ns),
            _ => {}
        }
    }

    fn hear(&mut self, news: News) {
        let now = self.clock.now();
        match news {
            News::Changed(told) => self.changed(&told, now),
            News::Reread(revision) => self.begin_history(revision),
            News::CaughtUp(_) => self.trouble(None),
            News::Lost(reason) => self.trouble(Some(reason)),
            News::Taken(name) => self.is_taken(&name),
            News::Member { until_ns, created } => self.is_member(until_ns, created),
            News::Answered { number, answer } => self.answered(number, answer, now),
        }
        self.run_again(now);
    }

    /// No difference leads over this revision: what came and went before it may be known to others, and is not here.
    fn begin_history(&self, revision: u64) {
        self.memory.begin_at(revision);
        self.view.set_settled(revision);
    }

    fn is_member(&mut self, until_ns: u64, created: u64) {
        self.taken = None;
        self.member = Some((until_ns, created));
    }

    /// Heartbeats are taken as long as this node is surely a member: a lease that is renewed here does not end then, and
    /// afterwards whoever takes it over gives it another one. What others did before it was one must have been told.
    fn take_heartbeats(&mut self) {
        let since = self.fold.member_since();
        let member = self.member.filter(|(_, created)| since == Some(*created));
        self.member_until_ns = member.map_or(0, |(until_ns, _)| until_ns);
        self.view.set_heard_until(self.member_until_ns);
    }

    /// Folds what was told into the registry, publishes it, and answers whoever waited for it.
    fn changed(&mut self, told: &[Told], now: Now) {
        let mut changes = Vec::new();
        let mut done = Vec::new();
        let format = self.fold.format;
        let members = self.fold.members().keys().cloned().collect::<Vec<_>>();
        let since = self.fold.member_since();
        for told in told {
            let pending = &self.pending;
            let mut staged = |number: u64, place: &Place| pending.get(&number)?.staged.get(place).cloned();
            let Folded { change, number } = self.fold.fold(told, &mut staged, now);
            let number = number.or_else(|| self.deleting(told));
            if let Some(pending) = number.and_then(|number| self.pending.get_mut(&number)) {
                pending.untold = pending.untold.saturating_sub(1);
                if let Some(change) = &change {
                    // A lease begins when it is given, not when etcd was asked.
                    if let (Reason::Registered, What::Instance { after: Some(after), .. }) =
                        (change.reason, &change.what)
                    {
                        let _ = after.deadline.renew(now);
                    }
                    pending.changes.push(change.clone());
                } else if let Asked::Command { command: Command::Claim(holder), .. } = &pending.asked
                    && let Some(instance) = self.fold.registry.instance(&holder.key)
                {
                    let _ = instance.deadline.renew(now); // it may have been ours before
                }
                if pending.untold == 0 {
                    done.extend(number);
                }
            } else if change.is_none() && told.pair.is_some() {
                self.fold.hear_elsewhere(told, now);
            }
            changes.extend(change);
        }
        let others = !self.fold.members().keys().eq(members.iter()) || since != self.fold.member_since();
        if others {
            self.note_members();
            self.publish_nodes();
            self.fold.settle_all(now);
            self.unsettle_all(now);
        }
        if changes.iter().any(|change| matches!(change.what, What::Token { .. })) {
            self.publish_tokens();
        }
        self.unsettle(&changes);
        show(&self.fold.registry, &self.view, &self.journal, &changes);
        if others && changes.is_empty() {
            // Secondaries are told: the zone names the nodes.
            self.journal.publish(&Arc::from([]), &[]);
        }
        self.memory.keep(changes);
        self.follow_base(format);
        self.answer_raises(now);
        for number in done {
            if let Some(pending) = self.pending.remove(&number) {
                let revision = self.fold.registry.revision();
                self.finish(pending, |changes| Ok(Done { revision, changes }));
            }
        }
    }

    fn note_members(&self) {
        let members: Vec<&str> = self.fold.members().keys().map(|name| &**name).collect();
        tracing::info!(?members, "the nodes are others now");
        if members.len() > NODES_MAX {
            tracing::error!(
                limit = NODES_MAX,
                "there are more nodes than one ring takes; the last take over nothing"
            );
        }
    }

    fn answered(&mut self, number: u64, answer: Answer, now: Now) {
        // What was told before it was answered is finished.
        let Some(mut pending) = self.pending.remove(&number) else { return };
        let later = now.mono_ns + nanoseconds(UNKNOWN_MAX);
        match answer {
            Answer::Stored if pending.untold == 0 => {
                let revision = self.fold.registry.revision();
                self.finish(pending, |changes| Ok(Done { revision, changes }));
            }
            Answer::Stored | Answer::Unknown(_) => {
                pending.stored = answer == Answer::Stored;
                pending.give_up_ns = Some(later);
                self.pending.insert(number, pending);
            }
            Answer::Refused if may_be_tried_again(&pending) => {
                pending.tries += 1;
                if pending.tries == TRIES_DOUBTED {
                    self.ask(Job::Doubt);
                }
                self.again.push((now.mono_ns + nanoseconds(AGAIN_AFTER), pending));
            }
            Answer::Refused => {
                let reason = "others changed the same at the same time; try again";
                self.give_up(pending, Refusal::Unavailable(reason.into()));
            }
            Answer::NotAsked(reason) => self.give_up(pending, Refusal::Unavailable(reason.into())),
        }
    }

    /// It is not stored, or nobody knows: who asked is told, what time did is undone, and what happened is said again.
    fn give_up(&mut self, pending: Pending, refusal: Refusal) {
        let now = self.clock.now();
        for place in &pending.places {
            self.fold.settle(place, now);
            if let Place::Guard(service) = place {
                let again =
                    Unsettled { worse: true, at: now.wall, after_ns: now.mono_ns + nanoseconds(TICK) };
                self.unsettled.insert(service.clone(), again);
            }
        }
        if let Asked::Command { command: Command::Closed { connection, keys }, .. } = &pending.asked {
            self.keep_closed(*connection, keys.clone());
        }
        self.finish(pending, |_| Err(refusal));
    }

    /// Says what closed connections mean, as far as there is room: one after the other, for one transaction holds some
    /// hundred things at most, and one that is another way now must not keep the rest.
    fn say_facts(&mut self) {
        while self.pending.len() < FACTS_AT_ONCE
            && let Some((connection, key)) = self.facts.pop_front()
        {
            let command = Command::Closed { connection, keys: vec![key] };
            self.admit(Asked::Command { command, by: Identity::server(), done: None }, 0);
        }
    }

    fn keep_closed(&mut self, connection: u64, keys: Vec<Key>) {
        self.kept.extend(keys.into_iter().map(|key| (connection, key)));
    }

    /// Answers, and lets those go on who wait behind it.
    fn finish(&mut self, pending: Pending, verdict: impl FnOnce(Vec<Change>) -> Verdict) {
        if let Asked::Command { done: Some(done), .. } = pending.asked {
            // Who does not wait any more has lost nothing but the answer.
            drop(done.send(verdict(pending.changes)));
        }
        for place in pending.places {
            for event in self.busy.remove(&place).unwrap_or_default() {
                self.waiting -= 1;
                self.take(event);
            }
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Command { command: Command::Closed { connection, keys }, .. } => {
                let registry = &self.fold.registry;
                let bound = |key: &Key| {
                    let instance = registry.instance(key);
                    instance.is_some_and(|instance| instance.lease == Lease::Connection(connection))
                };
                let bound = keys.into_iter().filter(bound).map(|key| (connection, key));
                self.facts.extend(bound);
            }
            Event::Command { command, by, done } => {
                self.admit(Asked::Command { command, by, done }, 0);
            }
            Event::Watch { filter, done } => {
                let revision = self.fold.registry.revision();
                let watch = super::watch(&self.view, &self.journal, filter.as_deref(), revision, Vec::new());
                self.seen_ns = self.clock.now().mono_ns; // time that we spent ourselves is no absence
                drop(done.send(watch));
            }
            Event::Picture { of, done } => {
                let picture = picture(&self.fold.registry, &self.view, of, Vec::new());
                self.seen_ns = self.clock.now().mono_ns;
                drop(done.send(picture));
            }
            Event::Zone { done } => {
                let zone = zone(&self.fold.registry, &self.view);
                self.seen_ns = self.clock.now().mono_ns;
                drop(done.send(zone));
            }
            Event::Whole { done } => {
                let whole = whole(&self.fold.registry);
                self.seen_ns = self.clock.now().mono_ns;
                drop(done.send(whole));
            }
            Event::Raise { above, done } => self.raise(above, done),
            Event::Ping { done } => drop(done.send(())),
        }
    }

    /// Has the base of the serial written higher; revisions are etcd's, and none can be left out.
    fn raise(&mut self, above: u32, done: oneshot::Sender<Result<Raised, Refusal>>) {
        let more = serial_behind(self.view.serial(), above);
        let revision = self.fold.registry.revision();
        let (Some(format), Some(membership)) = (self.fold.format, self.fold.while_member()) else {
            let reason = "this node is not a member yet; try again";
            return drop(done.send(Err(Refusal::Unavailable(reason.into()))));
        };
        if more == 0 {
            return drop(done.send(Ok(Raised { changed: false, revision })));
        }
        let format = ClusterFormat { serial_base: format.serial_base.wrapping_add(more) };
        let key = self.fold.key_of(&Place::Format);
        let mut conditions = vec![membership];
        conditions.extend(self.fold.while_same(&Place::Format, true));
        let operations = vec![Operation::Put { key, value: record::write_format(&format), lease: 0 }];
        let number = self.next_number();
        let give_up_ns = self.clock.now().mono_ns + nanoseconds(UNKNOWN_MAX);
        self.raises.push(Raise { above, give_up_ns, done });
        self.ask(Job::Transact { conditions, operations, number });
    }

    /// Counts from another base of the serial, where there is one. What was before it has no serial any more.
    fn follow_base(&mut self, before: Option<ClusterFormat>) {
        let Some(format) = self.fold.format.filter(|format| Some(*format) != before) else { return };
        self.view.set_serial_base(format.serial_base);
        self.memory.begin_at(self.fold.registry.revision());
        self.view.publish(&self.fold.registry, &[]);
    }

    /// Answers those whose serial is reached, or who waited for long.
    fn answer_raises(&mut self, now: Now) {
        let (serial, revision) = (self.view.serial(), self.fold.registry.revision());
        for raise in std::mem::take(&mut self.raises) {
            let verdict = if serial_behind(serial, raise.above) == 0 {
                Ok(Raised { changed: true, revision })
            } else if raise.give_up_ns <= now.mono_ns {
                Err(Refusal::Unknown("etcd did not tell it in time".into()))
            } else {
                self.raises.push(raise);
                continue;
            };
            drop(raise.done.send(verdict));
        }
    }

    /// Makes a transaction of a command, or answers it, or puts it behind what it has to wait for.
    fn admit(&mut self, asked: Asked, tries: u32) {
        let Asked::Command { mut command, by, done } = asked else { return };
        let behind = subjects(&command).map(place_of).find(|place| self.busy.contains_key(place));
        if let Some(waiting) = behind.and_then(|place| self.busy.get_mut(&place)) {
            waiting.push_back(Event::Command { command, by, done });
            self.waiting += 1;
            return;
        }
        let now = self.clock.now();
        let reply = |done: Option<oneshot::Sender<Verdict>>, verdict| {
            if let Some(done) = done {
                drop(done.send(verdict));
            }
        };
        if let Command::Register(registration) = &mut command {
            registration.owner = by.owner.clone();
        }
        if let Err(refusal) = permits(&self.fold.registry, &self.access, &command, &by, now) {
            return reply(done, Err(refusal));
        }
        let Some(membership) = self.fold.while_member().filter(|_| self.lost.is_none()) else {
            if let Command::Closed { connection, keys } = command {
                self.keep_closed(connection, keys);
            }
            let reason = self.view.store_trouble().map_or_else(String::new, |trouble| trouble.to_string());
            return reply(done, Err(Refusal::Unavailable(reason.into())));
        };
        let bound_elsewhere =
            subjects(&command).map(place_of).any(|place| self.fold.is_bound_elsewhere(&place));
        if let Command::Claim(holder) = &command
            && !bound_elsewhere
            && self.fold.is_watched_elsewhere(&Place::Instance(holder.key.clone()))
            && self.joined.is_none_or(|(_, at_ns)| now.mono_ns < at_ns + nanoseconds(OLD_WORDS))
        {
            let reason = "another node watches over it, and this one has only begun to hear; say it again";
            return reply(done, Err(Refusal::Unavailable(reason.into())));
        }
        if let Some(place) = probed(&command)
            && !self.fold.is_heir(&place)
        {
            return reply(done, Err(Refusal::Unavailable("another node probes it now".into())));
        }
        let mut found = match self.fold.registry.check(&command, now) {
            Ok(found) => found,
            // The others may know it otherwise.
            Err(_) if matches!(command, Command::Claim(_)) && now.mono_ns >= self.member_until_ns => {
                let reason = "this node is not sure to be a member; try again";
                return reply(done, Err(Refusal::Unavailable(reason.into())));
            }
            Err(refusal) => return reply(done, Err(refusal)),
        };
        if found.is_empty()
            && let Some(place) = self.claimed(&command, now)
        {
            // Nothing changes but whose it is.
            let (instance, host) = match &place {
                Place::Instance(key) => (self.fold.registry.instance(key).cloned(), None),
                Place::Host(name) => (None, self.fold.registry.host(name).cloned()),
                _ => (None, None),
            };
            let instance = instance.map(|it| What::Instance { before: Some(it.clone()), after: Some(it) });
            let host = host.map(|it| What::Host { before: Some(it.clone()), after: Some(it) });
            found.extend(instance.or(host).map(|what| (Reason::Registered, what)));
        } else if found.is_empty()
            && let Command::Deregister(holder) = &command
        {
            let place = Place::Instance(holder.key.clone());
            return self.confirm_absence(Asked::Command { command, by, done }, place, membership, tries);
        } else if found.is_empty() {
            if let Command::Claim(holder) = &command
                && let Some(instance) = self.fold.registry.instance(&holder.key)
            {
                let _ = instance.deadline.renew(now); // it came to us meanwhile
            }
            let revision = self.fold.registry.revision();
            return reply(done, Ok(Done { revision, changes: Vec::new() }));
        } else {
            found = found.into_iter().map(|(reason, what)| (reason, unnumbered(what))).collect();
        }
        let (takes_over, author) = (takes_over(&command, &by, bound_elsewhere), by.author());
        let mut conditions = vec![membership];
        if let Author::Token(name) = &author {
            // Revoked at another node, it changes nothing from then on.
            conditions.extend(self.fold.while_same(&Place::Token(name.clone()), true));
        }
        if probed(&command).is_some() {
            conditions.extend(self.fold.while_same_ring());
        }
        let asked = Asked::Command { command, by, done };
        self.transact(asked, found, conditions, takes_over, author, tries);
    }

    /// What a command of its holder is about, where another node watches over it, or may.
    fn claimed(&self, command: &Command, now: Now) -> Option<Place> {
        let is_sure = now.mono_ns < self.member_until_ns;
        let place = match command {
            Command::Claim(holder) => Place::Instance(holder.key.clone()),
            Command::Register(registration) => Place::Instance(registration.key.clone()),
            Command::Report(report) if !matches!(report.of, ReportOf::Probed(_)) => match &report.on {
                Subject::Instance(holder) => Place::Instance(holder.key.clone()),
                Subject::Host(host) => Place::Host(host.clone()),
            },
            _ => return None,
        };
        // A heartbeat of what a connection to another node holds is no news there.
        let is_known = matches!(command, Command::Claim(_)) && self.fold.is_bound_elsewhere(&place);
        (!is_sure || !(is_known || self.fold.watches(&place))).then_some(place)
    }

    /// Nothing is there, as far as this node knows; that it is so is answered when etcd has nothing newer. Who asks for an
    /// end may have been heard of elsewhere a moment ago.
    fn confirm_absence(&mut self, asked: Asked, place: Place, membership: Condition, tries: u32) {
        let mut conditions = vec![membership];
        conditions.extend(self.fold.while_same(&place, false));
        self.busy.entry(place.clone()).or_default();
        let pending = Pending { tries, ..Pending::of(asked, vec![place]) };
        let number = self.next_number();
        self.begin(number, pending, conditions, Vec::new());
    }

    fn transact(
        &mut self,
        asked: Asked,
        found: Vec<(Reason, What)>,
        mut conditions: Vec<Condition>,
        takes_over: bool,
        author: Author,
        tries: u32,
    ) {
        let now = self.clock.now();
        let number = self.next_number();
        let (mut operations, mut places, mut staged, mut untold) =
            (Vec::new(), Vec::new(), HashMap::new(), 0);
        let mut deletes = Vec::new();
        for (reason, what) in found {
            if let What::Forgotten { key } = &what {
                let place = Place::Instance(key.clone());
                conditions.extend(self.fold.while_same(&place, true));
                operations.push(Operation::Delete { key: self.fold.key_of(&place) });
                deletes.push(place.clone());
                places.push(place);
                untold += 1;
                continue;
            }
            let Some((place, octets, there)) = record_of(&what) else { continue };
            let is_there = match &what {
                What::Instance { before, .. } => before.is_some(),
                What::Host { before, .. } => before.is_some(),
                What::Token { before, .. } => before.is_some(),
                What::Guard { before, .. } => before.is_some(),
                What::Settings { .. } | What::Forgotten { .. } | What::Plain { .. } => false,
            };
            conditions.extend(self.fold.while_same(&place, is_there));
            let owner = if takes_over { self.fold.name.clone() } else { self.fold.owner(&place) };
            let note = Note { owner, number, reason, author: author.clone(), at: now.wall, there };
            let value = record::write_noted(&note, &octets);
            operations.push(Operation::Put { key: self.fold.key_of(&place), value, lease: 0 });
            if let What::Instance { after: Some(after), .. } = what {
                staged.insert(place.clone(), after);
            }
            places.push(place);
            untold += 1;
        }
        for place in &places {
            self.busy.entry(place.clone()).or_default();
        }
        let pending = Pending { untold, deletes, staged, tries, ..Pending::of(asked, places) };
        self.begin(number, pending, conditions, operations);
    }

    /// Looks at the time: what is tried again, what is given up, and what is due.
    fn look(&mut self) {
        let now = self.clock.now();
        notice_absence(&self.fold.registry, &mut self.seen_ns, now);
        self.run_again(now);
        self.answer_raises(now);
        let ready: Vec<(u64, Pending)> =
            self.again.extract_if(.., |(at_ns, _)| *at_ns <= now.mono_ns).collect();
        for (_, pending) in ready {
            let waiting: Vec<(Place, VecDeque<Event>)> = pending
                .places
                .iter()
                .filter_map(|place| Some((place.clone(), self.busy.remove(place)?)))
                .collect();
            self.admit(pending.asked, pending.tries);
            // Who waited behind it waits on, or goes on where it was answered.
            for (place, events) in waiting {
                match self.busy.get_mut(&place) {
                    Some(queue) => queue.extend(events),
                    None => events.into_iter().for_each(|event| {
                        self.waiting -= 1;
                        self.take(event);
                    }),
                }
            }
        }
        self.expire_pending(now);
        if !self.is_running() {
            return;
        }
        let room = TRANSACTIONS_MAX / 2;
        let room = room.saturating_sub(self.pending.len());
        self.settle_guards(room / 2, now);
        for (reason, what) in self.fold.registry.due(now, room / 2) {
            self.due(reason, what, now);
        }
        self.say_facts();
        if now.mono_ns >= self.sweep_ns {
            self.sweep_ns = now.mono_ns + nanoseconds(SWEEP_EVERY);
            self.facts.append(&mut self.kept);
            let forgotten = nanoseconds(self.fold.registry.forget_after() + OVERDUE_AFTER) / 1_000_000;
            let before = Wall { unix_ms: now.wall.unix_ms.saturating_sub_unsigned(forgotten) };
            let mut overdue = self.fold.overdue(before);
            overdue.retain(|place| !self.busy.contains_key(place));
            for place in overdue.into_iter().take(room / 2) {
                self.forget(place);
            }
        }
    }

    /// Puts down whose guards may begin or end by changes that the registry holds.
    fn unsettle(&mut self, changes: &[Change]) {
        let at = changes.iter().map(|change| change.at).max().unwrap_or_default();
        for (service, worse) in self.fold.registry.unsettled(changes) {
            if self.fold.registry.may_be_guarded(&service) {
                let unsettled = self.unsettled.entry(service).or_default();
                *unsettled =
                    Unsettled { worse: worse || unsettled.worse, at: unsettled.at.max(at), after_ns: 0 };
            }
        }
    }

    /// The same of all: somebody else may have been the one to say it.
    fn unsettle_all(&mut self, now: Now) {
        let registry = &self.fold.registry;
        let set =
            registry.all_settings().map(|(service, _)| service).filter(|name| registry.may_be_guarded(name));
        let services = set.chain(registry.guards().map(|(service, _)| service));
        let all = services.map(|name| (name.clone(), Unsettled { worse: true, at: now.wall, after_ns: 0 }));
        self.unsettled.extend(all);
    }

    /// Has guards begin and end, `most` at once. One node says so, which watches over the service's guard; all hear of it.
    fn settle_guards(&mut self, most: usize, now: Now) {
        let mut asked = 0;
        for (service, unsettled) in std::mem::take(&mut self.unsettled) {
            let place = Place::Guard(service.clone());
            if !self.fold.watches(&place) {
                continue;
            }
            let waits = self.busy.contains_key(&place) || asked == most || unsettled.after_ns > now.mono_ns;
            let found = match waits {
                true => None,
                false => self.fold.registry.settle_service(&service, unsettled.worse, now),
            };
            let ahead = now.wall < unsettled.at && unsettled.at <= now.wall.after(CLOCKS_APART_MAX);
            match found {
                Some((reason, what)) => {
                    asked += 1;
                    self.due(reason, what, now);
                }
                None if waits || ahead => drop(self.unsettled.insert(service, unsettled)),
                None => {}
            }
        }
    }

    /// Our own transaction that deleted what was told to be gone.
    fn deleting(&self, told: &Told) -> Option<u64> {
        if told.pair.is_some() || self.pending.is_empty() {
            return None;
        }
        let place = Place::of(&told.key)?;
        let ours = |pending: &Pending| pending.deletes.contains(&place);
        self.pending.iter().find(|(_, pending)| ours(pending)).map(|(number, _)| *number)
    }

    /// A deadline has passed here: etcd is asked to have it so, if this node is still the one to say it.
    fn due(&mut self, reason: Reason, what: What, now: Now) {
        let place = match &what {
            What::Instance { before: Some(before), .. } => Place::Instance(before.key.clone()),
            What::Host { before: Some(before), .. } => Place::Host(before.name.clone()),
            What::Forgotten { key } => Place::Instance(key.clone()),
            What::Guard { service, .. } => Place::Guard(service.clone()),
            _ => return,
        };
        if !self.fold.watches(&place) {
            return;
        }
        if self.busy.contains_key(&place) {
            self.fold.settle(&place, now); // somebody speaks of it at this moment
            return;
        }
        let mut conditions = self.fold.while_same_ring();
        conditions.extend(self.fold.while_member());
        self.transact(Asked::Due, vec![(reason, unnumbered(what))], conditions, false, Author::Server, 0);
    }

    /// Deletes what is only remembered: an instance, a host, settings, a guard or a token that are no more.
    fn forget(&mut self, place: Place) {
        let mut conditions = self.fold.while_same_ring();
        conditions.extend(self.fold.while_member());
        conditions.extend(self.fold.while_same(&place, true));
        let operations = vec![Operation::Delete { key: self.fold.key_of(&place) }];
        self.busy.entry(place.clone()).or_default();
        let deletes = vec![place.clone()];
        let pending = Pending { untold: 1, deletes, ..Pending::of(Asked::Due, vec![place]) };
        let number = self.next_number();
        self.begin(number, pending, conditions, operations);
    }

    /// What etcd did not say anything of, and what it stored and never told.
    fn expire_pending(&mut self, now: Now) {
        let over = |pending: &Pending| pending.give_up_ns.is_some_and(|at_ns| at_ns <= now.mono_ns);
        let numbers: Vec<u64> =
            self.pending.iter().filter(|(_, pending)| over(pending)).map(|(number, _)| *number).collect();
        for number in numbers {
            let Some(mut pending) = self.pending.remove(&number) else { continue };
            if pending.stored && self.lost.is_none() {
                tracing::warn!("etcd stored a change and did not tell it; everything is read again");
                self.ask(Job::Doubt);
                pending.stored = false;
                pending.give_up_ns = Some(now.mono_ns + nanoseconds(UNKNOWN_MAX));
                self.pending.insert(number, pending);
                continue;
            }
            let reason = self.lost.clone().unwrap_or_else(|| "etcd did not answer in time".to_owned());
            self.give_up(pending, Refusal::Unknown(reason.into()));
        }
    }
}

/// What time did is found again, and so is a verdict: it was reached on what has changed since.
fn may_be_tried_again(pending: &Pending) -> bool {
    let tried = |command: &Command| probed(command).is_none() && pending.tries < TRIES_MAX;
    matches!(&pending.asked, Asked::Command { command, .. } if tried(command))
}

/// True where a command is a word of the holder, heard here: from here on this node watches over it. What is bound to a
/// connection at another node stays there, until it is registered at this one.
fn takes_over(command: &Command, by: &Identity, bound_elsewhere: bool) -> bool {
    match command {
        Command::Register(_) | Command::RegisterHost(_) => true,
        Command::Claim(_) | Command::Import(_) => !bound_elsewhere,
        Command::Report(_) => !bound_elsewhere && by.author() != Author::Server,
        _ => false,
    }
}

/// What a probe's verdict is of: the node that the ring names for it probes it, and no other.
fn probed(command: &Command) -> Option<Place> {
    match command {
        Command::Report(Report { of: ReportOf::Probed(_), .. }) => subjects(command).map(place_of).next(),
        _ => None,
    }
}

fn place_of(about: About<'_>) -> Place {
    match about {
        About::Instance(key) => Place::Instance(key.clone()),
        About::Host(host) => Place::Host(host.clone()),
        About::Settings(service) => Place::Settings(service.clone()),
        About::Token(name) => Place::Token(name.clone()),
    }
}
