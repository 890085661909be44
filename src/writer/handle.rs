//! The way to the writer: what it is asked, and what it answers.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use crate::access::{Identity, Token, Tokens};
use crate::balance::circle::Circle;
use crate::clock::Clock;
use crate::counters::Written;
use crate::instance::{Host, Instance, ServiceSettings};
use crate::journal::{Follower, Journal};
use crate::name::{HostName, Name, ServiceName};
use crate::protocol::Filter;
use crate::registry::{Change, Command, PlainSet, Refusal, What};
use crate::time::Now;
use crate::view::{Member, ServiceView, Zones};

/// What reaches the writer.
#[derive(Debug)]
pub(super) enum Event {
    Command {
        command: Command,
        by: Identity,
        done: Option<oneshot::Sender<Verdict>>,
        /// When it was asked for.
        asked: Now,
    },
    Ask(Ask),
    /// Has the serial rise above this one.
    Raise {
        above: u32,
        done: oneshot::Sender<Result<Raised, Refusal>>,
    },
    /// The zones of files, in the place of those that are served.
    Files {
        files: Files,
        done: oneshot::Sender<Result<u64, FilesRefused>>,
    },
}

/// A question, which changes nothing.
#[derive(Debug)]
pub(super) enum Ask {
    /// With what matches the filter now, where there is one.
    Watch { filter: Option<Box<Filter>>, done: oneshot::Sender<Watch> },
    /// What is published at one revision.
    Picture { of: Vec<ServiceName>, done: oneshot::Sender<Picture> },
    /// The whole zone at one revision.
    Zone { done: oneshot::Sender<Zone> },
    /// Everything that the registry holds at one revision.
    Whole { done: oneshot::Sender<Whole> },
    /// Whether the writer is alive.
    Ping { done: oneshot::Sender<()> },
}

/// The zones that files hold now.
#[derive(Debug)]
pub struct Files {
    pub zones: Zones,
    /// The services that cannot be, because a record tree has their name: each with file and line.
    pub taken: HashMap<ServiceName, Box<str>>,
    /// A record tree is another one than before: secondaries of the live zone have to come for all of it.
    pub trees_differ: bool,
}

/// Why the zones of files stay what they were.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FilesRefused {
    #[error(
        "{by}: the name is that of the service {name}, which is registered; take its instances out first, or name it otherwise"
    )]
    Taken { name: ServiceName, by: Box<str> },
    #[error(
        "{by}: the name is that of the service {name}, which fails over; end that first with `callsign service set {name} --no-failover`, or name it otherwise"
    )]
    FailsOver { name: ServiceName, by: Box<str> },
    /// With the line in the file of the zone `apex`.
    #[error(
        "the zone is named as the service {name}, which is registered, or below it; take its instances out first, or name it otherwise"
    )]
    Covered { apex: Name, name: ServiceName, line: usize },
    /// With the line in the file of the zone or record tree `apex`.
    #[error(
        "the name is that of records that UPDATE set at {owner}, which would be answered no more; delete them first, or name it otherwise"
    )]
    Hidden { apex: Name, owner: Name, line: usize },
    #[error("the store takes nothing now: {0}")]
    Store(Arc<str>),
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
    /// The instance that is there after a registration, and as it was before where it was there.
    pub fn registered(&self) -> Option<(Option<&Arc<Instance>>, &Arc<Instance>)> {
        self.changes.iter().find_map(|change| match &change.what {
            What::Instance { before, after: Some(after) } => Some((before.as_ref(), after)),
            _ => None,
        })
    }
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
    /// Plain records that were set by UPDATE.
    pub records: Vec<Arc<PlainSet>>,
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
    pub(super) events: mpsc::Sender<Event>,
    pub(super) clock: Clock,
    /// What the writer did.
    pub written: Arc<Written>,
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
        let event = Event::Command { command, by, done: Some(done), asked: self.clock.now() };
        self.events.send(event).await.map_err(|_| Stopped)?;
        Ok(verdict)
    }

    /// Sends a command of the server's own, whose verdict nobody waits for.
    pub async fn tell(&self, command: Command) -> Result<(), Stopped> {
        let (by, asked) = (Identity::server(), self.clock.now());
        self.events.send(Event::Command { command, by, done: None, asked }).await.map_err(|_| Stopped)
    }

    /// Every change from here on; with a filter, what matches it now.
    pub async fn watch(&self, filter: Option<Filter>) -> Result<Watch, Stopped> {
        let (done, watch) = oneshot::channel();
        let filter = filter.map(Box::new);
        self.events.send(Event::Ask(Ask::Watch { filter, done })).await.map_err(|_| Stopped)?;
        watch.await.map_err(|_| Stopped)
    }

    /// These services as they are at one revision.
    pub async fn picture(&self, of: Vec<ServiceName>) -> Result<Picture, Stopped> {
        let (done, picture) = oneshot::channel();
        self.events.send(Event::Ask(Ask::Picture { of, done })).await.map_err(|_| Stopped)?;
        picture.await.map_err(|_| Stopped)
    }

    /// Every service as it is at one revision.
    pub async fn zone(&self) -> Result<Zone, Stopped> {
        let (done, zone) = oneshot::channel();
        self.events.send(Event::Ask(Ask::Zone { done })).await.map_err(|_| Stopped)?;
        zone.await.map_err(|_| Stopped)
    }

    /// Everything at one revision.
    pub async fn whole(&self) -> Result<Whole, Stopped> {
        let (done, whole) = oneshot::channel();
        self.events.send(Event::Ask(Ask::Whole { done })).await.map_err(|_| Stopped)?;
        whole.await.map_err(|_| Stopped)
    }

    /// Has the serial rise above `above`, for good.
    pub async fn raise(&self, above: u32) -> Result<Result<Raised, Refusal>, Stopped> {
        let (done, raised) = oneshot::channel();
        self.events.send(Event::Raise { above, done }).await.map_err(|_| Stopped)?;
        raised.await.map_err(|_| Stopped)
    }

    /// Has the zones of files served in the place of those that are; returns the revision from which on they are.
    pub async fn files(&self, files: Files) -> Result<Result<u64, FilesRefused>, Stopped> {
        let (done, taken) = oneshot::channel();
        self.events.send(Event::Files { files, done }).await.map_err(|_| Stopped)?;
        taken.await.map_err(|_| Stopped)
    }

    /// Returns once the writer has come round.
    pub async fn ping(&self) -> Result<(), Stopped> {
        let (done, pong) = oneshot::channel();
        self.events.send(Event::Ask(Ask::Ping { done })).await.map_err(|_| Stopped)?;
        pong.await.map_err(|_| Stopped)
    }
}
