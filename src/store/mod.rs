//! Where changes are kept. An enum, not a trait: there are two kinds, and a reader can see both. etcd is none of them:
//! `writer::node` asks it, and its watch tells.

pub mod embedded;
pub mod etcd;
pub mod history;
pub mod record;
pub mod redo;

use std::time::Duration;

pub use self::embedded::Reserve;
pub use self::history::History;
use crate::registry::Change;

/// See the module's own words.
#[derive(Debug)]
pub enum Store {
    /// Nothing is kept: what is registered lives as long as the server. The latest changes are remembered.
    Memory(history::Memory),
    /// One file on this machine.
    Embedded(embedded::Embedded),
}

/// How much of the past is kept.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub history_changes: u64,
    pub history_age: Duration,
}

impl Default for Limits {
    /// 100,000 changes are about 40 MiB; a week is how long a person asks back.
    fn default() -> Self {
        Self { history_changes: 100_000, history_age: Duration::from_secs(7 * 86_400) }
    }
}

/// What the caller may still do.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    /// Nothing was written; try again.
    #[error("{0}; it works again by itself once the disk does")]
    Refused(String),
    /// As above, but the commit may be on the disk all the same: its revisions are not to be given to anything else.
    #[error("{0}; it works again by itself once the disk does")]
    Doubtful(String),
    /// Nothing will be written any more: restart. The commit at which that began is as doubtful.
    #[error("{reason}; restart the server once the disk is sound")]
    Broken { reason: String, doubtful: bool },
}

impl Failure {
    /// True where the commit may be there after a restart.
    pub fn is_doubtful(&self) -> bool {
        matches!(self, Self::Doubtful(_) | Self::Broken { doubtful: true, .. })
    }
}

impl Store {
    pub fn memory() -> Self {
        Self::Memory(history::Memory::default())
    }

    /// Makes `changes` durable, in their order, all or none. The first `facts` of them are so in any case: after a failure they
    /// come again, where the others are refused.
    pub async fn commit(
        &mut self,
        changes: Vec<Change>,
        facts: usize,
        reserve: Reserve,
    ) -> Result<(), Failure> {
        match self {
            Self::Memory(memory) => {
                memory.keep(changes);
                Ok(())
            }
            Self::Embedded(embedded) => embedded.commit(changes, facts, reserve).await,
        }
    }

    /// The last commit; `revision` is the newest that was given out.
    pub async fn close(self, changes: Vec<Change>, revision: u64) -> Result<(), Failure> {
        match self {
            Self::Memory(_) => Ok(()),
            Self::Embedded(embedded) => {
                let facts = changes.len();
                embedded.commit(changes, facts, Reserve::UpTo(revision)).await
            }
        }
    }

    /// The log of changes, for whoever reads it.
    pub fn history(&self) -> History {
        match self {
            Self::Memory(memory) => History::Memory(memory.clone()),
            Self::Embedded(embedded) => History::Embedded(embedded.history.clone()),
        }
    }

    pub fn name(&self) -> &'static str {
        match self {
            Self::Memory(_) => "memory",
            Self::Embedded(_) => "embedded",
        }
    }
}
