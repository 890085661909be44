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
mod front;
mod handle;
pub mod node;
mod round;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Sleep;

pub use self::front::warn_of_taken;
use self::front::{Front, are_free, reply};
use self::handle::Event;
pub use self::handle::{
    Done, Files, FilesRefused, Handle, Picture, Raised, Stopped, Verdict, Watch, Whole, Zone,
};
use self::round::{Round, new_instance};
use crate::access::{Access, Identity};
use crate::clock::Clock;
use crate::protocol::moving::serial_behind;
use crate::registry::{Author, Change, Command, Reason, Refusal, Registry, What};
use crate::store::{Failure, Reserve, Store};
use crate::time::{Now, nanoseconds};
use crate::update::{self, Against, Outcome};
use crate::view::View;

/// Events in one batch. A commit of 1024 takes about 10 ms, and the first waits for the last.
const BATCH_MAX: usize = 1024;
/// Facts published and not yet stored, half of what is reserved for them: revisions are never given out
/// twice. Where the store takes none for so long, leases stand still.
const UNSTORED_MAX: usize = 32_768;
/// Revisions left out since the last commit, of those that facts would have.
const LEFT_OUT_MAX: usize = UNSTORED_MAX / 4;
/// How often the time is looked at, whatever else happens.
const TICK: Duration = Duration::from_millis(100);
/// How long facts wait for another try where the store refused them.
const STORE_AGAIN: Duration = Duration::from_millis(500);

/// See the module's own words.
pub struct Writer {
    registry: Registry,
    store: Store,
    front: Front,
    /// Commands that wait for the next batch, oldest first.
    postponed: VecDeque<Event>,
    /// Facts published and not yet stored.
    unstored: Vec<Change>,
    /// Revisions left out since the store last took something.
    left_out: usize,
    /// Facts that there was no room for: the store has taken nothing for long.
    undone: Vec<Event>,
    /// Facts alone are not offered to a store that refused before this time.
    again_ns: u64,
    /// When the time is looked at next. It is moved, not made anew: tokio wakes a thread for each new timer that comes
    /// before all others, which here would be twice a batch.
    timer: Pin<Box<Sleep>>,
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
        let (front, handle) = Front::new(&registry, view, clock, access);
        let writer = Self {
            registry,
            store,
            front,
            postponed: VecDeque::new(),
            unstored: Vec::new(),
            left_out: 0,
            undone: Vec::new(),
            again_ns: 0,
            timer: Box::pin(tokio::time::sleep(TICK)),
        };
        (writer, handle)
    }

    /// Works until every handle is gone and the queue is empty.
    pub async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        loop {
            if !self.postponed.is_empty() {
                // Nobody waits behind another's queue: the batch is filled up with what is new.
                while self.postponed.len() + batch.len() < BATCH_MAX
                    && let Ok(event) = self.front.events.try_recv()
                {
                    batch.push(event);
                }
            } else {
                let look = self.next_look();
                self.timer.as_mut().reset(look.into());
                // Both arms are cancel-safe: `recv_many` loses nothing, and the timer is set anew.
                let received = tokio::select! {
                    biased;
                    received = self.front.events.recv_many(&mut batch, BATCH_MAX) => Some(received),
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
        self.front.journal.close();
        // The process ends here: to take a million instances apart first would only hold up the next start.
        std::mem::forget(self.registry);
    }

    fn next_look(&self) -> std::time::Instant {
        let due = self.registry.next_due_ns().filter(|_| self.room() > 1);
        let tick = self.front.seen_ns + nanoseconds(TICK);
        self.front.clock.instant(due.map_or(tick, |due| due.min(tick)))
    }

    /// One batch: facts first, then commands together, then the answers.
    async fn work(&mut self, events: VecDeque<Event>) {
        let now = self.front.look(&self.registry);
        let due = self.registry.due(now, self.room() / 2);
        let mut facts = Vec::with_capacity(due.len());
        self.happen(due, now, &mut facts);
        let mut after = Vec::new();
        let mut commands = VecDeque::new();
        let mut told = Vec::new();
        for event in std::mem::take(&mut self.undone).into_iter().chain(events) {
            match event {
                Event::Command { mut command, by, done, asked } if is_fact(&command, &by) => {
                    let room = self.room();
                    if room == 0 {
                        self.undone.push(Event::Command { command, by, done, asked });
                        continue;
                    }
                    // One connection may have held more than that.
                    if let Command::Closed { connection, keys } = &mut command
                        && keys.len() > room
                    {
                        let rest = Command::Closed { connection: *connection, keys: keys.split_off(room) };
                        self.undone.push(Event::Command { command: rest, by, done, asked });
                    }
                    let found = self.registry.check(&command, now).unwrap_or_default();
                    told.extend((!found.is_empty()).then_some(asked));
                    self.happen(found, now, &mut facts);
                }
                Event::Command { .. } => commands.push_back(event),
                Event::Ask(_) | Event::Raise { .. } | Event::Files { .. } => after.push(event),
            }
        }
        self.settle(&mut facts, now);
        self.show(&facts);
        self.note_visible(told);
        let mut round = Round::default();
        for event in commands {
            if let Some(event) = self.admit(&mut round, event, now) {
                self.postponed.push_back(event);
            }
        }
        self.commit(round, now).await;
        for event in after {
            match event {
                Event::Raise { above, done } => drop(done.send(self.raise(above).await)),
                Event::Files { files, done } => drop(done.send(self.take_files(files).await)),
                Event::Ask(ask) => self.front.tell(&self.registry, &self.unstored, ask),
                Event::Command { .. } => self.postponed.push_back(event),
            }
        }
    }

    /// Facts that may still be published: more would outrun the revisions that are reserved.
    fn room(&self) -> usize {
        UNSTORED_MAX.saturating_sub(self.unstored.len() + self.left_out)
    }

    /// A commit was refused whose last change has this revision, and may be there after a restart: its revisions mean that, and
    /// nothing else, and nobody is told of a state at one of them.
    fn leave_out(&mut self, newest: u64) {
        let revision = newest + 1;
        self.left_out += (revision - self.registry.revision()) as usize;
        self.registry.advance(revision);
        self.front.view.publish(&self.registry, &[]);
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
            self.front.show(&self.registry, changes);
        }
    }

    /// What was asked for then is visible now.
    fn note_visible(&self, asked: impl IntoIterator<Item = Now>) {
        let now = self.front.clock.now();
        asked.into_iter().for_each(|asked| self.front.written.visible.add(now.since(asked)));
    }

    /// True where there may be no room for a new instance beside those of the round.
    fn overfills(&self, round: &Round, found: &[(Reason, What)], by: &Identity) -> bool {
        let coming = round.new_instances;
        let mut new = found.iter().filter_map(|(_, what)| new_instance(what));
        coming > 0
            && new.any(|instance| {
                self.registry.instances() + coming >= self.registry.instances_max()
                    || !self.front.has_room(&self.registry, by, &instance.key, coming)
            })
    }

    /// Puts a command into the round; returns it where it has to wait for the next.
    fn admit(&self, round: &mut Round, event: Event, now: Now) -> Option<Event> {
        let Event::Command { mut command, by, done, asked } = event else { return Some(event) };
        if round.touches(&command) {
            return Some(Event::Command { command, by, done, asked });
        }
        if let Command::Register(registration) = &mut command {
            round.share_name(registration);
            registration.owner = by.owner.clone();
        }
        let permitted = self.front.permits(&self.registry, &command, &by, now);
        let found = match permitted.and_then(|()| self.check(&command, &by, now)) {
            Ok(found) => found,
            Err(refusal) => {
                round.touch(&command);
                round.answers.push((Err(refusal), done, asked));
                return None;
            }
        };
        if round.collides(&found) || self.overfills(round, &found, &by) {
            round.touch(&command); // what comes after it on the same instance waits behind it
            return Some(Event::Command { command, by, done, asked });
        }
        round.touch(&command);
        let author = by.author();
        let first = round.changes.len();
        for (reason, what) in found {
            let revision = self.registry.revision() + 1 + round.changes.len() as u64;
            round.add(Registry::change(revision, reason, what, author.clone(), now));
        }
        round.is_update = command.is_of_records() && first < round.changes.len();
        round.answers.push((Ok(first..round.changes.len()), done, asked));
        None
    }

    fn check(&self, command: &Command, by: &Identity, now: Now) -> Result<Vec<(Reason, What)>, Refusal> {
        let (registry, view, access) = (&self.registry, &*self.front.view, &*self.front.access);
        let Some(outcome) = update::asked(command, Against { registry, view, access, by, now }) else {
            return self.registry.check(command, now);
        };
        let Outcome { changes, again } = outcome?;
        update::renew(&again, now);
        Ok(changes)
    }

    /// Makes the round durable, then so, then visible, then acknowledged; or refuses all of it.
    async fn commit(&mut self, round: Round, now: Now) {
        let Round { mut changes, answers, .. } = round;
        let facts_can_wait = self.unstored.is_empty() || now.mono_ns < self.again_ns;
        let stored =
            if changes.is_empty() && facts_can_wait { Ok(()) } else { self.store_round(&changes).await };
        match &stored {
            Ok(()) => {
                // A lease begins when it is given, not when the disk was asked.
                let now = self.front.clock.now();
                for change in &changes {
                    match &change.what {
                        What::Instance { after: Some(after), .. } if change.reason == Reason::Registered => {
                            after.deadline.renew(now);
                        }
                        What::Plain { after: Some(after), .. } => drop(after.deadline.renew(now)),
                        _ => {}
                    }
                    self.registry.apply(change, now);
                }
                self.settle(&mut changes, now);
                self.show(&changes);
                let changed = answers
                    .iter()
                    .filter(|(checked, ..)| checked.as_ref().is_ok_and(|range| !range.is_empty()));
                self.note_visible(changed.map(|(.., asked)| *asked));
            }
            Err(_) => self.again_ns = now.mono_ns + nanoseconds(STORE_AGAIN),
        }
        let revision = self.registry.revision();
        for (checked, done, _) in answers {
            let verdict = match (checked, &stored) {
                (Ok(range), Err(failure)) if !range.is_empty() => Err(unavailable(failure)),
                (Ok(range), _) => Ok(Done { revision, changes: changes[range].to_vec() }),
                (Err(refusal), _) => Err(refusal),
            };
            reply(done, verdict);
        }
    }

    /// Shows the store's trouble, and logs where it begins and ends.
    fn note(&self, stored: &Result<(), Failure>) {
        match (stored, self.front.view.store_trouble()) {
            (Ok(()), None) => {}
            (Ok(()), Some(_)) => {
                tracing::info!("the store takes changes again");
                self.front.view.set_store_trouble(None);
            }
            (Err(reason), before) => {
                if before.is_none() {
                    tracing::error!(%reason, "the store takes nothing; changes are refused, answers go on");
                }
                self.front.view.set_store_trouble(Some(reason.to_string()));
            }
        }
    }

    /// Leaves out revisions until the serial is above `above`: what was before keeps the serial that it had.
    async fn raise(&mut self, above: u32) -> Result<Raised, Refusal> {
        let more = serial_behind(self.front.view.serial(), above);
        let revision = self.registry.revision() + u64::from(more);
        if more > 0 {
            // Before anybody sees one of them, they are given out.
            let stored = self.store(&[], Reserve::Beyond(revision)).await;
            stored.map_err(|failure| unavailable(&failure))?;
            self.registry.advance(revision);
            self.front.view.set_started(revision);
            self.front.view.publish(&self.registry, &[]);
        }
        Ok(Raised { changed: more > 0, revision })
    }

    /// Serves the zones of other files. A record tree is part of the live zone, whose serial rises with it.
    async fn take_files(&mut self, files: Files) -> Result<u64, FilesRefused> {
        are_free(&self.registry, &self.front.view, &files)?;
        let revision = self.registry.revision() + u64::from(files.trees_differ);
        if files.trees_differ {
            let stored = self.store(&[], Reserve::Beyond(revision)).await;
            stored.map_err(|failure| FilesRefused::Store(failure.to_string().into()))?;
        }
        // The revision that is left out belongs to no change: no difference leads over it.
        let trees_differ = files.trees_differ;
        self.front.serve_files(&mut self.registry, files);
        if trees_differ {
            self.front.view.set_settled(revision);
            self.registry.advance(revision);
            self.front.view.publish(&self.registry, &[]);
            self.front.journal.publish(&Arc::from([]), &[]); // secondaries are told
        }
        Ok(revision)
    }

    /// Stores a round. Where many revisions were left out, others are reserved first: none is shown that is not.
    async fn store_round(&mut self, changes: &[Change]) -> Result<(), Failure> {
        if self.left_out > LEFT_OUT_MAX {
            self.store(&[], Reserve::Beyond(self.registry.revision())).await?;
        }
        let newest = changes.last().map_or(self.registry.revision(), |change| change.revision);
        let stored = self.store(changes, Reserve::Beyond(newest)).await;
        if stored.as_ref().is_err_and(Failure::is_doubtful) && !changes.is_empty() {
            self.leave_out(newest);
        }
        stored
    }

    /// Stores all facts that are not yet, and what comes with them. Waits for that, and looks at the time meanwhile: a slow disk
    /// is not our absence.
    async fn store(&mut self, changes: &[Change], reserve: Reserve) -> Result<(), Failure> {
        let begun = self.front.clock.now();
        let all = self.unstored.iter().chain(changes).cloned().collect();
        let stored = {
            let mut committing = std::pin::pin!(self.store.commit(all, self.unstored.len(), reserve));
            loop {
                let now = self.front.clock.now();
                self.timer.as_mut().reset(self.front.clock.instant(now.mono_ns + nanoseconds(TICK)).into());
                // Both arms are cancel-safe: the commit is polled on, and the timer is set anew.
                let committed = tokio::select! {
                    biased;
                    committed = &mut committing => Some(committed),
                    () = &mut self.timer => None,
                };
                let now = self.front.look(&self.registry);
                if let Some(committed) = committed {
                    self.front.written.commit.add(now.since(begun));
                    break committed;
                }
            }
        };
        self.note(&stored);
        if stored.is_ok() {
            self.unstored.clear();
            self.left_out = 0;
        }
        stored
    }
}

fn unavailable(failure: &Failure) -> Refusal {
    Refusal::Unavailable(failure.to_string().into())
}

/// True for what happened, whether the store takes it or not: a closed connection, a probe's verdict.
fn is_fact(command: &Command, by: &Identity) -> bool {
    match command {
        Command::Closed { .. } => true,
        Command::Report(_) => by.author() == Author::Server,
        _ => false,
    }
}
