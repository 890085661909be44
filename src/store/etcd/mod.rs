//! The registry of several machines: etcd holds it, and every node follows one watch.
//!
//! - [`messages`]: what is said to etcd, in octets.
//! - [`follow`]: what is known of its keys and what to ask next, without I/O; with `known` and `compare` as its parts.
//! - [`link`]: the connection: endpoints, calls, the membership of this node.
//! - [`place`]: which key a thing of the registry lies at.
//!
//! A writer of nodes ([`crate::writer::node`]) hands in transactions and hears what changed, its own changes among them: it
//! alone knows what they mean.

mod compare;
pub mod follow;
mod known;
pub mod link;
pub mod messages;
pub mod place;

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use self::follow::Told;
use self::messages::{Condition, Operation};

/// Changes on their way to the writer: pages of a reading, messages of the watch. One that waits holds up the watch.
const NEWS_MAX: usize = 64;
/// Transactions on their way to etcd, and those it has not answered: the writer has no more under way.
pub const TRANSACTIONS_MAX: usize = 1024;

/// Where etcd is, and who we are to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `host:port` each; at least one.
    pub endpoints: Vec<Endpoint>,
    /// What every key of ours begins with; ends in `/`.
    pub prefix: String,
    /// TLS, with this authority in PEM form, or those that the machine trusts.
    pub tls: Option<Tls>,
    pub user: Option<User>,
}

/// One member of etcd, as it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// A name or an address, without brackets.
    pub host: String,
    pub port: u16,
}

/// What TLS to etcd goes by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    pub authority: Option<PathBuf>,
    /// Our certificate and its key, both in PEM form, where etcd asks for one.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

/// A user of etcd.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub password: String,
}

// The password stays out of it.
impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User").field("name", &self.name).finish_non_exhaustive()
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// What the writer asks for.
#[derive(Debug)]
pub enum Job {
    Transact {
        conditions: Vec<Condition>,
        operations: Vec<Operation>,
        number: u64,
    },
    /// Something in these ranges was never told: each from the first key on, up to the second.
    Doubt(Vec<(Vec<u8>, Vec<u8>)>),
    /// The node leaves: others take over at once what it watched over.
    Leave {
        done: oneshot::Sender<()>,
    },
}

/// For how long a node is a member after it last asked to be one on: etcd grants no less than two seconds.
pub const MEMBERSHIP: Duration = Duration::from_secs(5);
/// For how long after that it says that leases are renewed: what another node takes over from it lasts longer by as much, and
/// no instance whose process is silent shall outlast its lease by [`MEMBERSHIP`] for it.
pub const SAYS_RENEWED: Duration = Duration::from_secs(4);

/// What the writer hears.
#[derive(Debug)]
pub enum News {
    /// In the order of revisions; keys without our prefix.
    Changed(Vec<Told>),
    /// Everything was read again, at this revision, and what differs is told next: of what was in between, not everything.
    Reread(u64),
    /// Everything up to here was told.
    CaughtUp(u64),
    /// A transaction was answered.
    Answered { number: u64, answer: Answer },
    /// etcd cannot be asked, for this reason; what is under way is answered first.
    Lost(String),
    /// The node's name is another's: it cannot be a member.
    Taken(String),
    /// This node is a member since the revision `created`, which may not be told yet, and surely up to this time and longer, in
    /// nanoseconds of the monotonic clock.
    Member { until_ns: u64, created: u64 },
}

/// What became of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is stored, and will be told.
    Stored,
    /// Its conditions did not hold.
    Refused,
    /// etcd was not asked, or refused without looking.
    NotAsked(String),
    /// etcd was asked and did not answer: it may be stored.
    Unknown(String),
}

/// The writer's end.
#[derive(Debug)]
pub struct Etcd {
    pub jobs: mpsc::Sender<Job>,
    pub news: mpsc::Receiver<News>,
}

/// The link's end.
#[derive(Debug)]
pub struct LinkEnd {
    pub jobs: mpsc::Receiver<Job>,
    pub news: mpsc::Sender<News>,
}

/// The way between the writer and the link.
pub fn way() -> (Etcd, LinkEnd) {
    let (jobs, asked) = mpsc::channel(TRANSACTIONS_MAX + 2);
    let (news, heard) = mpsc::channel(NEWS_MAX);
    (Etcd { jobs, news: heard }, LinkEnd { jobs: asked, news })
}
