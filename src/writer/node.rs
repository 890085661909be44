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

mod admit;
mod due;
mod standing;
#[cfg(test)]
mod tests;
mod under_way;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use self::due::Unsettled;
use self::standing::Backlog;
use self::under_way::{AGAIN_AFTER, Asked, Pending, UNKNOWN_MAX};
use super::fold::{Fold, Folded};
use super::front::{Front, are_free, warn_of_taken};
use super::{Event, Files, FilesRefused, Handle, Raised, TICK};
use crate::access::Access;
use crate::clock::Clock;
use crate::instance::{Key, Lease};
use crate::name::ServiceName;
use crate::protocol::moving::serial_behind;
use crate::registry::{Command, Reason, Refusal, Registry, What};
use crate::store::History;
use crate::store::etcd::follow::Told;
use crate::store::etcd::messages::{Condition, Operation};
use crate::store::etcd::place::Place;
use crate::store::etcd::{Etcd, Job, News, TRANSACTIONS_MAX};
use crate::store::history::Memory;
use crate::store::record::{self, ClusterFormat};
use crate::time::{Now, nanoseconds};
use crate::view::View;

/// The shortest time between two looks at the time. What another node has to say is due here until it says it.
const LOOK_MIN: Duration = Duration::from_millis(4);
/// How long etcd may take to be told that we leave.
const LEAVE_TIME_MAX: Duration = Duration::from_secs(2);

/// An instance whose connection closed, and when.
#[derive(Debug)]
struct Closed {
    connection: u64,
    key: Key,
    asked: Now,
}

/// See the module's own words.
pub struct Node {
    fold: Fold,
    etcd: Etcd,
    front: Front,
    memory: Memory,
    /// What is under way, by the number of its transaction.
    pending: HashMap<u64, Pending>,
    /// What is being changed, and the commands about it that wait.
    busy: HashMap<Place, VecDeque<Event>>,
    /// Commands in `busy`.
    waiting: usize,
    /// Commands that another node was before with, and when they are tried again.
    again: Vec<(u64, Pending)>,
    /// Instances whose connections closed: said as there is room. No more than are registered.
    facts: VecDeque<Closed>,
    /// The same that etcd did not take: said again after a while.
    kept: VecDeque<Closed>,
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
    /// The revision that this node was last seen to be a member since.
    joined: Option<u64>,
    /// What is said up to this time may have waited in a connection while this node did not listen.
    old_words_ns: u64,
    /// What may have waited in connections for long.
    backlog: Option<Backlog>,
    /// The revision of the registry when the time was last looked at.
    looked_at: u64,
    /// Who waits for a higher serial: above which, and until when.
    raises: Vec<Raise>,
    /// Leases stand still since this time.
    still_ns: Option<u64>,
    sweep_ns: u64,
    forget_ns: u64,
}

/// Somebody waits for a serial above another one.
#[derive(Debug)]
struct Raise {
    above: u32,
    give_up_ns: u64,
    done: oneshot::Sender<Result<Raised, Refusal>>,
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
        let (name, prefix) = names;
        view.set_heard_until(0);
        let (front, handle) = Front::new(&registry, view, clock, access);
        let seen_ns = front.seen_ns;
        let node = Self {
            fold: Fold::new(registry, name, prefix, run),
            etcd,
            front,
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
            old_words_ns: 0,
            backlog: None,
            looked_at: 0,
            raises: Vec::new(),
            still_ns: Some(seen_ns),
            sweep_ns: seen_ns,
            forget_ns: seen_ns,
        };
        (node, handle)
    }

    /// The log of changes, as far as this node has seen them.
    pub fn history(&self) -> History {
        History::Etcd(self.memory.clone())
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
            let tick = self.front.clock.instant(self.front.clock.now().mono_ns + nanoseconds(TICK));
            // Both arms are cancel-safe: the channel loses nothing, and the time is computed anew.
            let news = tokio::select! {
                news = self.etcd.news.recv() => news,
                () = tokio::time::sleep_until(tick.into()) => {
                    self.show_trouble(self.front.clock.now());
                    continue;
                }
            };
            let Some(news) = news else { break };
            let now = self.front.clock.now();
            match news {
                News::Changed(told) if has_read => self.changed(&told, now),
                News::Changed(told) => self.read(told, &mut remembered, now)?,
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
                self.front.view.set_serial_base(format.serial_base);
                self.front.view.publish_all(&self.fold.registry);
                self.front.show_tokens(&self.fold.registry);
                self.memory.begin_at(self.fold.registry.revision());
                self.front.view.set_ready();
                tracing::debug!(instances = self.fold.registry.instances(), "read everything from etcd");
            }
            if has_read && self.fold.member_since().is_some() {
                self.front.view.publish(&self.fold.registry, &[]);
                self.run_again(self.front.clock.now());
                warn_of_taken(&self.fold.registry, &self.front.view);
                return Ok(());
            }
        }
        Err("the link to etcd has ended".to_owned())
    }

    /// What is there goes into the registry; those that left are told with it at the end.
    fn read(&mut self, told: Vec<Told>, remembered: &mut Vec<Told>, now: Now) -> Result<(), String> {
        for told in told {
            if told.key == b"format"
                && let Some(pair) = &told.pair
            {
                record::read_format(&pair.value).map_err(|error| error.to_string())?;
            }
            self.fold.fold(&told, &mut |_, _| None, now);
            remembered.push(told);
        }
        remembered.retain(|told| told.pair.is_some() && self.is_remembered(told));
        Ok(())
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

    /// Works until every handle is gone and what is under way has ended.
    pub async fn run(mut self) {
        self.front.seen_ns = self.front.clock.now().mono_ns; // reading everything was no absence
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
                count = self.front.events.recv_many(&mut batch, room), if room > 0 && !ended => ended = count == 0,
                () = sleep => {}
            }
            self.note_absence();
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
        self.front.view.set_heard_until(0);
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
        self.front.journal.close();
        // The process ends here: to take a million instances apart first would only hold up the next start.
        std::mem::forget(self.fold);
    }

    fn next_look(&self) -> std::time::Instant {
        let tick = match self.again.is_empty() {
            true => TICK,
            false => AGAIN_AFTER,
        };
        let tick = self.front.seen_ns + nanoseconds(tick);
        let due = self.fold.registry.next_due_ns().filter(|_| self.is_running());
        let soon = self.front.seen_ns + nanoseconds(LOOK_MIN);
        self.front.clock.instant(due.map_or(tick, |due| due.max(soon).min(tick)))
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

    fn hear(&mut self, news: News) {
        let now = self.front.clock.now();
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
        self.front.view.set_settled(revision);
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
        self.unsettle(&changes);
        self.front.show(&self.fold.registry, &changes);
        if others && changes.is_empty() {
            // Secondaries are told: the zone names the nodes.
            self.front.journal.publish(&Arc::from([]), &[]);
        }
        self.memory.keep(changes);
        self.follow_base(format);
        self.answer_raises(now);
        for number in done {
            if let Some(pending) = self.pending.remove(&number) {
                if !pending.stored {
                    self.front.written.commit.add(now.since(pending.begun)); // told before it was answered
                }
                self.succeed(pending);
            }
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Command { command: Command::Closed { connection, keys }, asked, .. } => {
                let registry = &self.fold.registry;
                let bound = |key: &Key| {
                    let instance = registry.instance(key);
                    instance.is_some_and(|instance| instance.lease == Lease::Connection(connection))
                };
                let bound = keys.into_iter().filter(bound);
                self.facts.extend(bound.map(|key| Closed { connection, key, asked }));
            }
            Event::Command { command, by, done, asked } => {
                self.admit(Asked::Command { command, by, done, asked }, 0);
            }
            Event::Raise { above, done } => self.raise(above, done),
            Event::Files { files, done } => drop(done.send(self.take_files(files))),
            Event::Ask(ask) => self.front.tell(&self.fold.registry, &[], ask),
        }
    }

    /// Revisions are etcd's, so the serial rises with the next change; no difference leads over that one.
    fn take_files(&mut self, files: Files) -> Result<u64, FilesRefused> {
        are_free(&self.fold.registry, &self.front.view, &files)?;
        let revision = self.fold.registry.revision() + u64::from(files.trees_differ);
        if files.trees_differ {
            self.front.view.set_settled(revision);
        }
        self.front.serve_files(&mut self.fold.registry, files);
        Ok(revision)
    }

    /// Has the base of the serial written higher; revisions are etcd's, and none can be left out.
    fn raise(&mut self, above: u32, done: oneshot::Sender<Result<Raised, Refusal>>) {
        let more = serial_behind(self.front.view.serial(), above);
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
        let give_up_ns = self.front.clock.now().mono_ns + nanoseconds(UNKNOWN_MAX);
        self.raises.push(Raise { above, give_up_ns, done });
        self.ask(Job::Transact { conditions, operations, number });
    }

    /// Counts from another base of the serial, where there is one. What was before it has no serial any more.
    fn follow_base(&mut self, before: Option<ClusterFormat>) {
        let Some(format) = self.fold.format.filter(|format| Some(*format) != before) else { return };
        self.front.view.set_serial_base(format.serial_base);
        self.memory.begin_at(self.fold.registry.revision());
        self.front.view.publish(&self.fold.registry, &[]);
    }

    /// Answers those whose serial is reached, or who waited for long.
    fn answer_raises(&mut self, now: Now) {
        let (serial, revision) = (self.front.view.serial(), self.fold.registry.revision());
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
}
