//! The one task that changes the registry.
//!
//! It takes what waits, a bounded batch; checks and applies each command; commits the batch once;
//! publishes; then acknowledges. So an acknowledged change is visible to the next query, and many
//! small changes cost one commit. Time's changes (expired leases, instances to forget) go the same way.

use std::sync::Arc;

use tokio::sync::{broadcast, mpsc, oneshot};

use crate::clock::Clock;
use crate::instance::Instance;
use crate::protocol::Filter;
use crate::registry::{Author, Change, Command, Refusal, Registry, What};
use crate::store::Store;
use crate::view::{Member, View};

/// Events waiting for the writer. Who sends more waits: the sender's own connection is the brake.
const QUEUE_MAX: usize = 4096;
/// Events in one batch: more make a commit no cheaper, and the first waits for the last.
const BATCH_MAX: usize = 1024;
/// Batches a slow watcher may be behind before it is cut off.
const WATCH_BACKLOG: usize = 4096;

/// What reaches the writer.
#[derive(Debug)]
pub enum Event {
    Command { command: Command, author: Author, done: Option<oneshot::Sender<Verdict>> },
    Watch { filter: Box<Filter>, done: oneshot::Sender<Watch> },
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

impl Done {
    /// The instance as the command left it.
    pub fn instance(&self) -> Option<&Arc<Instance>> {
        self.changes.iter().rev().find_map(|change| match &change.what {
            What::Instance { after, .. } => after.as_ref(),
            _ => None,
        })
    }
}

/// Everything that matches now, and every change from here on, with no gap between.
#[derive(Debug)]
pub struct Watch {
    pub members: Vec<Member>,
    pub revision: u64,
    pub changes: broadcast::Receiver<Arc<[Change]>>,
}

/// The writer has ended: the server is on its way down.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the server is stopping")]
pub struct Stopped;

/// The way to the writer.
#[derive(Clone, Debug)]
pub struct Handle {
    events: mpsc::Sender<Event>,
}

impl Handle {
    /// Sends a command; its verdict arrives when its changes are visible.
    pub async fn command(
        &self,
        command: Command,
        author: Author,
    ) -> Result<oneshot::Receiver<Verdict>, Stopped> {
        let (done, verdict) = oneshot::channel();
        let event = Event::Command { command, author, done: Some(done) };
        self.events.send(event).await.map_err(|_| Stopped)?;
        Ok(verdict)
    }

    /// Sends a command whose verdict nobody waits for.
    pub async fn tell(&self, command: Command, author: Author) -> Result<(), Stopped> {
        self.events.send(Event::Command { command, author, done: None }).await.map_err(|_| Stopped)
    }

    pub async fn watch(&self, filter: Filter) -> Result<Watch, Stopped> {
        let (done, watch) = oneshot::channel();
        self.events.send(Event::Watch { filter: Box::new(filter), done }).await.map_err(|_| Stopped)?;
        watch.await.map_err(|_| Stopped)
    }
}

/// See the module's own words.
pub struct Writer {
    registry: Registry,
    store: Store,
    view: Arc<View>,
    clock: Clock,
    events: mpsc::Receiver<Event>,
    watchers: broadcast::Sender<Arc<[Change]>>,
}

impl Writer {
    pub fn new(registry: Registry, store: Store, view: Arc<View>, clock: Clock) -> (Self, Handle) {
        let (sender, events) = mpsc::channel(QUEUE_MAX);
        let (watchers, _) = broadcast::channel(WATCH_BACKLOG);
        let writer = Self { registry, store, view, clock, events, watchers };
        (writer, Handle { events: sender })
    }

    /// Works until every handle is gone and the queue is empty.
    pub async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        loop {
            let due = self.registry.next_due_ns().map(|due| self.clock.instant(due));
            let sleep = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            // Both arms are cancel-safe: `recv_many` loses nothing, and the deadline is computed anew.
            let received = tokio::select! {
                biased;
                received = self.events.recv_many(&mut batch, BATCH_MAX) => Some(received),
                () = sleep => None,
            };
            if received == Some(0) {
                return;
            }
            self.work(&mut batch).await;
        }
    }

    /// One batch: check and apply, commit once, publish, acknowledge.
    async fn work(&mut self, batch: &mut Vec<Event>) {
        let now = self.clock.now();
        let mut changes: Vec<Change> = Vec::new();
        let mut acknowledge = Vec::new();
        let mut watches = Vec::new();
        for (reason, what) in self.registry.due(now) {
            let change = self.registry.change(reason, what, Author::Server, now);
            self.registry.apply(&change, now);
            changes.push(change);
        }
        for event in batch.drain(..) {
            match event {
                Event::Watch { filter, done } => watches.push((filter, done)),
                Event::Command { command, author, done } => {
                    let first = changes.len();
                    let checked = self.registry.check(&command, now).map(|found| {
                        for (reason, what) in found {
                            let change = self.registry.change(reason, what, author.clone(), now);
                            self.registry.apply(&change, now);
                            changes.push(change);
                        }
                        first..changes.len()
                    });
                    acknowledge.push((checked, self.registry.revision(), done));
                }
            }
        }
        if !changes.is_empty() {
            self.store.commit(&changes).await;
            self.view.publish(&self.registry, &changes);
        }
        for (checked, revision, done) in acknowledge {
            // Who does not wait any more has lost nothing but the answer.
            if let Some(done) = done {
                let verdict = checked.map(|range| Done { revision, changes: changes[range].to_vec() });
                drop(done.send(verdict));
            }
        }
        let changes: Arc<[Change]> = changes.into();
        if !changes.is_empty() && self.watchers.receiver_count() > 0 {
            drop(self.watchers.send(changes));
        }
        for (filter, done) in watches {
            // At this point the view is the registry, and the next change goes to the receiver.
            let (members, _) = self.view.list(&filter, None, usize::MAX);
            let watch =
                Watch { members, revision: self.registry.revision(), changes: self.watchers.subscribe() };
            drop(done.send(watch));
        }
    }
}
