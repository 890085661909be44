//! Transactions: what is asked of etcd, who waits for it, and how it ended.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::Node;
use super::admit::probed;
use super::due::Unsettled;
use crate::access::Identity;
use crate::instance::Instance;
use crate::registry::{Author, Change, Command, Reason, Refusal, What};
use crate::store::etcd::follow::Told;
use crate::store::etcd::messages::{Condition, Operation};
use crate::store::etcd::place::Place;
use crate::store::etcd::{Answer, Job};
use crate::store::record::{self, Note};
use crate::time::{Now, nanoseconds};
use crate::update;
use crate::writer::fold::{lies_at, record_of};
use crate::writer::front::reply;
use crate::writer::{Done, TICK, Verdict};

/// How often a command is tried again where another node was first.
const TRIES_MAX: u32 = 50;
/// Tries after which what we know may be what is wrong.
const TRIES_DOUBTED: u32 = 10;
/// How long a command waits for the other node's change before the next try.
pub(super) const AGAIN_AFTER: Duration = Duration::from_millis(20);
/// How long what may be stored has to be told.
pub(super) const UNKNOWN_MAX: Duration = Duration::from_secs(2);
/// How much longer, where etcd said that it is stored and everything may have to be read again: together less than our own
/// clients wait, which is five seconds.
const DOUBTED_MAX: Duration = Duration::from_millis(2500);

/// A transaction, and who waits for it.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) asked: Asked,
    pub(super) places: Vec<Place>,
    /// What the registry has of it already.
    pub(super) changes: Vec<Change>,
    /// Things that it writes or deletes and that were not told yet.
    pub(super) untold: usize,
    /// The ranges of keys that its conditions speak of, its own among them: what is to be compared where it is not told.
    pub(super) depends_on: Vec<(Vec<u8>, Vec<u8>)>,
    /// What it deletes: of that, no note tells whose transaction it was.
    pub(super) deletes: Vec<Place>,
    /// The instances as they will be.
    pub(super) staged: HashMap<Place, Arc<Instance>>,
    /// What is said again: its leases begin anew.
    pub(super) again: Vec<What>,
    pub(super) tries: u32,
    /// When etcd was asked.
    pub(super) begun: Now,
    /// When it is given up as not known, where etcd did not say or nothing was told.
    pub(super) give_up_ns: Option<u64>,
    /// Etcd said so, and that time is counted.
    pub(super) stored: bool,
    /// Etcd never told it, and everything was read again for that.
    pub(super) doubted: bool,
}

impl Pending {
    /// One that writes nothing yet.
    pub(super) fn of(asked: Asked, places: Vec<Place>) -> Self {
        Self {
            asked,
            places,
            changes: Vec::new(),
            untold: 0,
            depends_on: Vec::new(),
            deletes: Vec::new(),
            staged: HashMap::new(),
            again: Vec::new(),
            tries: 0,
            begun: Now::default(),
            give_up_ns: None,
            stored: false,
            doubted: false,
        }
    }
}

/// A transaction that is not asked for yet.
pub(super) struct Draft {
    pub(super) conditions: Vec<Condition>,
    pub(super) operations: Vec<Operation>,
    pub(super) pending: Pending,
}

#[derive(Debug)]
pub(super) enum Asked {
    Command {
        command: Command,
        by: Identity,
        done: Option<oneshot::Sender<Verdict>>,
        asked: Now,
    },
    /// What time did.
    Due,
}

impl Node {
    pub(super) fn transact(
        &mut self,
        asked: Asked,
        found: Vec<(Reason, What)>,
        conditions: Vec<Condition>,
        takes_over: bool,
        author: Author,
        tries: u32,
    ) {
        let (number, mut draft) = self.draft(asked, found, takes_over, author, tries);
        draft.conditions.extend(conditions);
        self.start(number, draft);
    }

    /// The transaction that makes changes so, on the condition that each thing is as we know it; and its number.
    pub(super) fn draft(
        &mut self,
        asked: Asked,
        found: Vec<(Reason, What)>,
        takes_over: bool,
        author: Author,
        tries: u32,
    ) -> (u64, Draft) {
        let now = self.front.clock.now();
        let number = self.next_number();
        let mut conditions = Vec::new();
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
            let (Some(place), Some((octets, there))) = (lies_at(&what), record_of(&what)) else { continue };
            let is_there = match &what {
                What::Instance { before, .. } => before.is_some(),
                What::Host { before, .. } => before.is_some(),
                What::Token { before, .. } => before.is_some(),
                What::Guard { before, .. } => before.is_some(),
                What::Plain { before, .. } => before.is_some(),
                What::Settings { .. } | What::Forgotten { .. } => false,
            };
            conditions.extend(self.fold.while_same(&place, is_there));
            // Its tags and ports may be others, and must not hide what another node has just made a plain record.
            if let (Reason::Registered, What::Instance { before: Some(before), after: Some(after) }) =
                (reason, &what)
                && !Arc::ptr_eq(before, after)
            {
                conditions.push(self.fold.while_same_plain(&after.key.service));
            }
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
        let pending = Pending { untold, deletes, staged, tries, ..Pending::of(asked, places) };
        (number, Draft { conditions, operations, pending })
    }

    /// From here on whoever speaks of the same waits.
    pub(super) fn start(&mut self, number: u64, draft: Draft) {
        let Draft { conditions, operations, pending } = draft;
        for place in &pending.places {
            self.busy.entry(place.clone()).or_default();
        }
        self.begin(number, pending, conditions, operations);
    }

    /// Has a transaction under way; where the link takes none, etcd was not asked, and that is said.
    pub(super) fn begin(
        &mut self,
        number: u64,
        pending: Pending,
        conditions: Vec<Condition>,
        operations: Vec<Operation>,
    ) {
        let depends_on = conditions.iter().map(Condition::range).collect();
        let pending = Pending { begun: self.front.clock.now(), depends_on, ..pending };
        match self.etcd.jobs.try_send(Job::Transact { conditions, operations, number }) {
            Ok(()) => drop(self.pending.insert(number, pending)),
            Err(_) => {
                let reason = "too much is under way to etcd; try again";
                self.give_up(pending, Refusal::Unavailable(reason.into()));
            }
        }
    }

    pub(super) fn answered(&mut self, number: u64, answer: Answer, now: Now) {
        // What was told before it was answered is finished.
        let Some(mut pending) = self.pending.remove(&number) else { return };
        let later = now.mono_ns + nanoseconds(UNKNOWN_MAX);
        if answer == Answer::Stored {
            self.front.written.commit.add(now.since(pending.begun));
        }
        match answer {
            Answer::Stored if pending.untold == 0 => self.succeed(pending),
            Answer::Stored | Answer::Unknown(_) => {
                pending.stored = answer == Answer::Stored;
                pending.give_up_ns = Some(later);
                self.pending.insert(number, pending);
            }
            Answer::Refused if may_be_tried_again(&pending) => {
                pending.tries += 1;
                if pending.tries == TRIES_DOUBTED {
                    self.ask(Job::Doubt(pending.depends_on.clone()));
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

    /// All of it is stored and visible.
    pub(super) fn succeed(&mut self, pending: Pending) {
        update::renew(&pending.again, self.front.clock.now());
        let revision = self.fold.registry.revision();
        self.finish(pending, |changes| Ok(Done { revision, changes }));
    }

    /// It is not stored, or nobody knows: who asked is told, what time did is undone, and what happened is said again.
    pub(super) fn give_up(&mut self, pending: Pending, refusal: Refusal) {
        let now = self.front.clock.now();
        for place in &pending.places {
            self.fold.settle(place, now);
            if let Place::Guard(service) = place {
                let again =
                    Unsettled { worse: true, at: now.wall, after_ns: now.mono_ns + nanoseconds(TICK) };
                self.unsettled.insert(service.clone(), again);
            }
        }
        if let Asked::Command { command: Command::Closed { connection, keys }, asked, .. } = &pending.asked {
            self.keep_closed(*connection, keys.clone(), *asked);
        }
        self.finish(pending, |_| Err(refusal));
    }

    /// Answers, and lets those go on who wait behind it.
    pub(super) fn finish(&mut self, pending: Pending, verdict: impl FnOnce(Vec<Change>) -> Verdict) {
        if let Asked::Command { done, asked, .. } = pending.asked {
            if !pending.changes.is_empty() {
                self.front.written.visible.add(self.front.clock.now().since(asked));
            }
            reply(done, verdict(pending.changes));
        }
        for place in pending.places {
            for event in self.busy.remove(&place).unwrap_or_default() {
                self.waiting -= 1;
                self.take(event);
            }
        }
    }

    /// Our own transaction that deleted what was told to be gone.
    pub(super) fn deleting(&self, told: &Told) -> Option<u64> {
        if told.pair.is_some() || self.pending.is_empty() {
            return None;
        }
        let place = Place::of(&told.key)?;
        let ours = |pending: &Pending| pending.deletes.contains(&place);
        self.pending.iter().find(|(_, pending)| ours(pending)).map(|(number, _)| *number)
    }

    /// What etcd did not say anything of, and what it stored and never told.
    pub(super) fn expire_pending(&mut self, now: Now) {
        let over = |pending: &Pending| pending.give_up_ns.is_some_and(|at_ns| at_ns <= now.mono_ns);
        let numbers: Vec<u64> =
            self.pending.iter().filter(|(_, pending)| over(pending)).map(|(number, _)| *number).collect();
        let mut doubted = Vec::new();
        for number in numbers {
            let Some(mut pending) = self.pending.remove(&number) else { continue };
            if pending.stored && !pending.doubted && self.lost.is_none() {
                doubted.append(&mut pending.depends_on);
                pending.doubted = true;
                pending.give_up_ns = Some(now.mono_ns + nanoseconds(DOUBTED_MAX));
                self.pending.insert(number, pending);
                continue;
            }
            let reason = self.lost.clone().unwrap_or_else(|| "etcd did not answer in time".to_owned());
            self.give_up(pending, Refusal::Unknown(reason.into()));
        }
        if !doubted.is_empty() {
            tracing::warn!(
                ranges = doubted.len(),
                "etcd stored changes and did not tell them; what it has is compared"
            );
            self.ask(Job::Doubt(doubted));
        }
    }
}

/// What time did is found again, and so is a verdict: it was reached on what has changed since.
fn may_be_tried_again(pending: &Pending) -> bool {
    let tried = |command: &Command| probed(command).is_none() && pending.tries < TRIES_MAX;
    matches!(&pending.asked, Asked::Command { command, .. } if tried(command))
}
