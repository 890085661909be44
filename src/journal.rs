//! What changed lately, for those who follow it: watchers, blocking queries, probes.
//!
//! The writer publishes each batch once, to everything's channel and to the channel of each service that it touches
//! and that somebody follows. So who waits for one service sleeps through the changes of all others,
//! and a change costs what its own followers cost. A channel keeps a bounded number of batches; who is
//! further behind is told so, and begins anew from a snapshot or from the log.
//!
//! Why not a broadcast channel for each service: its buffer is made in full at the start, and ten thousand services
//! may be followed by one client each.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use tokio::sync::Notify;

use crate::instance::Health;
use crate::name::ServiceName;
use crate::registry::{Change, What};

/// Batches a follower of everything may be behind before it is cut off.
const EVERYTHING_MAX: usize = 4096;
/// The same for a follower of one service: its changes are few.
const SERVICE_MAX: usize = 512;
/// Changes in the batches that a channel keeps, beside the latest batch: some 30 MiB with their lines.
const CHANGES_MAX: usize = 32_768;
/// Channels of services that nobody follows any more are swept when there are as many as this, or twice as many as
/// after the sweep before.
const SWEEP_MIN: usize = 64;

/// What one batch of the writer changed, in order.
pub type Batch = Arc<[Event]>;

/// A change, and what those who show it need beside it.
#[derive(Debug)]
pub struct Event {
    pub change: Change,
    /// The health of the instance's host by itself.
    pub host: Health,
    /// The health of the instance after the change, with its host's; passing where there is none.
    pub health: Health,
    /// Its form as a line, made by the first who needs it and shared by all others.
    line: OnceLock<Box<[u8]>>,
}

impl Event {
    pub fn new(change: Change, host: Health) -> Self {
        let health = match &change.what {
            What::Instance { after: Some(after), .. } => after.health().max(host),
            _ => Health::Passing,
        };
        Self { change, host, health, line: OnceLock::new() }
    }

    /// The change as a line, which `write` writes the first time.
    pub fn line(&self, write: impl FnOnce() -> Vec<u8>) -> &[u8] {
        self.line.get_or_init(|| write().into())
    }
}

/// Whom a follower wants to hear of.
#[derive(Clone, Copy, Debug)]
pub enum Topic<'a> {
    Everything,
    Service(&'a ServiceName),
}

/// Why there is no next batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    #[error("{0} batches of changes were not read in time")]
    Lagged(u64),
    #[error("the server is stopping")]
    Closed,
}

/// See the module's own words.
#[derive(Debug)]
pub struct Journal {
    everything: Arc<Channel>,
    services: Mutex<Services>,
}

#[derive(Debug, Default)]
struct Services {
    channels: HashMap<ServiceName, Weak<Channel>>,
    /// As many channels, and those that nobody follows are taken out.
    sweep_at: usize,
}

#[derive(Debug)]
struct Channel {
    recent: Mutex<Recent>,
    bell: Notify,
    most: usize,
}

#[derive(Debug, Default)]
struct Recent {
    batches: VecDeque<Batch>,
    /// Changes in them.
    changes: usize,
    /// The number of the next batch, counted from the channel's beginning.
    next: u64,
    closed: bool,
}

/// One follower's place in a channel.
#[derive(Debug)]
pub struct Follower {
    channel: Arc<Channel>,
    next: u64,
}

impl Default for Journal {
    fn default() -> Self {
        Self { everything: Channel::new(EVERYTHING_MAX), services: Mutex::default() }
    }
}

impl Journal {
    /// Everything about `topic` that is published from here on.
    pub fn follow(&self, topic: Topic<'_>) -> Follower {
        let channel = match topic {
            Topic::Everything => self.everything.clone(),
            Topic::Service(name) => {
                // Closed while it is looked at: a channel made afterwards would never hear of it.
                let closed = lock(&self.everything.recent).closed;
                let mut services = lock(&self.services);
                match services.channels.get(name).and_then(Weak::upgrade) {
                    Some(channel) => channel,
                    None => {
                        services.sweep();
                        let channel = Channel::new(SERVICE_MAX);
                        lock(&channel.recent).closed = closed;
                        services.channels.insert(name.clone(), Arc::downgrade(&channel));
                        channel
                    }
                }
            }
        };
        let next = lock(&channel.recent).next;
        Follower { channel, next }
    }

    /// Tells everyone whom it concerns; `touched` names the services whose view the batch altered.
    pub fn publish(&self, batch: &Batch, touched: &[ServiceName]) {
        // The journal's own reference is no follower.
        self.everything.push(batch, 1);
        let concerned: Vec<Arc<Channel>> = {
            let services = lock(&self.services);
            match services.channels.is_empty() {
                true => Vec::new(),
                false => touched.iter().filter_map(|name| services.channels.get(name)?.upgrade()).collect(),
            }
        };
        for channel in concerned {
            channel.push(batch, 0);
        }
    }

    /// True where somebody follows everything; a batch that nobody follows need not be made.
    pub fn is_followed(&self) -> bool {
        Arc::strong_count(&self.everything) > 1 || !lock(&self.services).channels.is_empty()
    }

    /// There will be no more.
    pub fn close(&self) {
        self.everything.close();
        let channels: Vec<Arc<Channel>> =
            lock(&self.services).channels.values().filter_map(Weak::upgrade).collect();
        for channel in channels {
            channel.close();
        }
    }
}

impl Services {
    fn sweep(&mut self) {
        if self.channels.len() >= self.sweep_at.max(SWEEP_MIN) {
            self.channels.retain(|_, channel| channel.strong_count() > 0);
            self.sweep_at = 2 * self.channels.len();
        }
    }
}

impl Channel {
    fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { recent: Mutex::default(), bell: Notify::new(), most })
    }

    /// `owners` hold the channel and follow nothing; where there is nobody else, nothing is kept.
    fn push(self: &Arc<Self>, batch: &Batch, owners: usize) {
        let mut recent = lock(&self.recent);
        recent.next += 1;
        // Under the lock: who comes to follow takes its place behind this batch, whose changes it can see already.
        if owners > 0 && Arc::strong_count(self) == owners {
            recent.batches = VecDeque::new();
            recent.changes = 0;
            return;
        }
        recent.batches.push_back(batch.clone());
        recent.changes += batch.len();
        while recent.batches.len() > self.most || (recent.changes > CHANGES_MAX && recent.batches.len() > 1) {
            let oldest = recent.batches.pop_front();
            recent.changes -= oldest.map_or(0, |batch| batch.len());
        }
        drop(recent);
        self.bell.notify_waiters();
    }

    fn close(&self) {
        lock(&self.recent).closed = true;
        self.bell.notify_waiters();
    }

    /// The batch with this number; `None` where it is still to come.
    fn take(&self, number: u64) -> Result<Option<Batch>, Ended> {
        let recent = lock(&self.recent);
        let first = recent.next - recent.batches.len() as u64;
        match number {
            number if number < first => Err(Ended::Lagged(first - number)),
            number if number < recent.next => Ok(Some(recent.batches[(number - first) as usize].clone())),
            _ if recent.closed => Err(Ended::Closed),
            _ => Ok(None),
        }
    }
}

impl Follower {
    /// The next batch; cancel-safe.
    pub async fn next(&mut self) -> Result<Batch, Ended> {
        loop {
            let channel = self.channel.clone();
            // Before the look, so that what is published after it rings.
            let mut bell = std::pin::pin!(channel.bell.notified());
            bell.as_mut().enable();
            if let Some(batch) = channel.take(self.next)? {
                self.next += 1;
                return Ok(batch);
            }
            bell.await;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::Key;
    use crate::name::{HostName, InstanceId};
    use crate::registry::{Author, Reason};

    fn name(text: &str) -> ServiceName {
        ServiceName::parse(text).unwrap()
    }

    fn publish(journal: &Journal, services: &[&str]) {
        let touched: Vec<ServiceName> = services.iter().map(|text| name(text)).collect();
        journal.publish(&Batch::from([]), &touched);
    }

    #[tokio::test]
    async fn a_follower_hears_of_its_own_service_alone_and_in_full() {
        let journal = Journal::default();
        let mut web = journal.follow(Topic::Service(&name("web")));
        let mut all = journal.follow(Topic::Everything);
        for _ in 0..2 * SERVICE_MAX {
            publish(&journal, &["db"]);
        }
        publish(&journal, &["db", "web"]);
        assert!(web.next().await.is_ok());
        assert_eq!(web.channel.take(web.next).unwrap().map(|_| ()), None);
        for _ in 0..=2 * SERVICE_MAX {
            assert!(all.next().await.is_ok());
        }
        journal.close();
        assert_eq!(web.next().await.unwrap_err(), Ended::Closed);
        assert_eq!(all.next().await.unwrap_err(), Ended::Closed);
        assert_eq!(journal.follow(Topic::Service(&name("new"))).next().await.unwrap_err(), Ended::Closed);
    }

    #[tokio::test]
    async fn who_is_too_far_behind_is_told_how_far() {
        let journal = Journal::default();
        let mut web = journal.follow(Topic::Service(&name("web")));
        for _ in 0..SERVICE_MAX + 3 {
            publish(&journal, &["web"]);
        }
        assert_eq!(web.next().await.unwrap_err(), Ended::Lagged(3));
    }

    #[test]
    fn what_nobody_follows_is_not_kept_and_what_is_kept_is_bounded() {
        let journal = Journal::default();
        let kept = |channel: &Channel| {
            let recent = lock(&channel.recent);
            assert_eq!(recent.changes, recent.batches.iter().map(|batch| batch.len()).sum::<usize>());
            (recent.batches.len(), recent.changes)
        };
        let event = || {
            let what = What::Forgotten {
                key: Key::new(name("web"), InstanceId::parse("a").unwrap(), HostName::parse("m1").unwrap()),
            };
            let now = crate::time::Wall { unix_ms: 0 };
            let change =
                Change { revision: 1, at: now, reason: Reason::Forgotten, author: Author::Server, what };
            Event::new(change, Health::Passing)
        };
        let batch: Batch = (0..CHANGES_MAX / 4).map(|_| event()).collect();
        journal.publish(&batch, &[]);
        assert_eq!(kept(&journal.everything), (0, 0));
        let follower = journal.follow(Topic::Everything);
        (0..9).for_each(|_| journal.publish(&batch, &[]));
        assert_eq!(kept(&journal.everything), (4, CHANGES_MAX));
        let large: Batch = (0..CHANGES_MAX + 1).map(|_| event()).collect();
        journal.publish(&large, &[]);
        assert_eq!(kept(&journal.everything), (1, CHANGES_MAX + 1), "the latest is always there");
        drop(follower);
        journal.publish(&batch, &[]);
        assert_eq!(kept(&journal.everything), (0, 0));
    }

    #[test]
    fn channels_that_nobody_follows_go() {
        let journal = Journal::default();
        let kept = journal.follow(Topic::Service(&name("kept")));
        for number in 0..1000 {
            drop(journal.follow(Topic::Service(&name(&format!("s{number}")))));
        }
        assert!(lock(&journal.services).channels.len() <= SWEEP_MIN + 1);
        drop(kept);
        assert!(journal.is_followed());
    }
}
