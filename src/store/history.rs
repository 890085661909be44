//! The log of changes, as it is read: what changed, when, why and by whom; and who was there at a time.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::embedded;
use crate::registry::Change;

/// Changes that a store without a disk remembers: about 10 MiB.
const MEMORY_MAX: usize = 10_000;

/// A way to read the log of any store.
#[derive(Clone, Debug)]
pub enum History {
    Memory(Memory),
    /// The latest changes that a node has heard of: etcd keeps the registry, and no log of it.
    Etcd(Memory),
    Embedded(embedded::History),
}

/// The latest changes, where no disk keeps them.
#[derive(Clone, Debug, Default)]
pub struct Memory(Arc<Mutex<Latest>>);

#[derive(Debug, Default)]
struct Latest {
    changes: VecDeque<Change>,
    /// Of what was up to this revision, not everything is there.
    floor: u64,
}

impl Memory {
    pub fn keep(&self, changes: Vec<Change>) {
        let mut latest = self.latest();
        latest.changes.extend(changes);
        let over = latest.changes.len().saturating_sub(MEMORY_MAX);
        let dropped = latest.changes.drain(..over).next_back();
        if let Some(last) = dropped {
            latest.floor = latest.floor.max(last.revision);
        }
    }

    /// Of what was up to this revision, not everything is known: a registry was there before its log, or was read again.
    pub fn begin_at(&self, revision: u64) {
        self.latest().floor = revision;
    }

    fn latest(&self) -> MutexGuard<'_, Latest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl History {
    /// Changes after a revision, oldest first, `most` of them; and the oldest revision that is still there.
    ///
    /// # Errors
    ///
    /// The store cannot be read; in words.
    pub fn after(&self, after: u64, most: usize) -> Result<(Vec<Change>, Option<u64>), String> {
        match self {
            Self::Memory(memory) | Self::Etcd(memory) => {
                let latest = memory.latest();
                let oldest = latest.changes.front().map(|change| change.revision);
                let mut newer = latest.changes.iter().filter(|change| change.revision > after).peekable();
                let mut read: Vec<Change> = newer.by_ref().take(most).cloned().collect();
                // One transaction of etcd's may be several changes; who reads on from its revision has them all.
                while let Some(change) =
                    newer.next_if(|next| read.last().is_some_and(|last| last.revision == next.revision))
                {
                    read.push(change.clone());
                }
                Ok((read, oldest))
            }
            Self::Embedded(history) => history.after(after, most).map_err(|error| error.to_string()),
        }
    }

    /// True where nothing was ever taken out of the log.
    pub fn is_whole(&self) -> bool {
        match self {
            Self::Memory(memory) | Self::Etcd(memory) => memory.latest().floor == 0,
            Self::Embedded(history) => history.is_whole(),
        }
    }

    /// True where the log, whose oldest entry is `oldest`, has everything after `since`.
    pub fn is_whole_after(&self, since: u64, oldest: Option<u64>) -> bool {
        let begins = match self {
            Self::Memory(memory) | Self::Etcd(memory) => memory.latest().floor <= since,
            Self::Embedded(_) => oldest.is_some_and(|oldest| oldest <= since.saturating_add(1)),
        };
        begins || self.is_whole()
    }

    /// Tells `put` every record: table, key, value; until it returns false.
    ///
    /// # Errors
    ///
    /// There is no disk of ours, or it cannot be read; in words.
    pub fn records(&self, put: &mut dyn FnMut(&'static str, Vec<u8>, Vec<u8>) -> bool) -> Result<(), String> {
        match self {
            Self::Memory(_) => {
                Err("this server keeps nothing (`--store memory`): there is nothing to back up".to_owned())
            }
            Self::Etcd(_) => {
                Err("the registry is on etcd: back up etcd, or use `callsign export`".to_owned())
            }
            Self::Embedded(history) => history.records(put).map_err(|error| error.to_string()),
        }
    }

    /// Changes before a revision, newest first, `most` of them.
    ///
    /// # Errors
    ///
    /// The store cannot be read; in words.
    pub fn before(&self, before: u64, most: usize) -> Result<Vec<Change>, String> {
        match self {
            Self::Memory(memory) | Self::Etcd(memory) => {
                let latest = memory.latest();
                let mut older =
                    latest.changes.iter().rev().filter(|change| change.revision < before).peekable();
                let mut read: Vec<Change> = older.by_ref().take(most).cloned().collect();
                // As above: who reads on before its revision has had all of it.
                while let Some(change) =
                    older.next_if(|next| read.last().is_some_and(|last| last.revision == next.revision))
                {
                    read.push(change.clone());
                }
                Ok(read)
            }
            Self::Embedded(history) => history.before(before, most).map_err(|error| error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{Author, Reason, What};
    use crate::time::Wall;

    #[test]
    fn changes_of_one_revision_are_read_together_both_ways() {
        let memory = Memory::default();
        let what = What::Token { before: None, after: None };
        let change = |revision| Change {
            revision,
            at: Wall::default(),
            reason: Reason::Granted,
            author: Author::Server,
            what: what.clone(),
        };
        memory.keep([4, 5, 5, 6].map(change).to_vec());
        let history = History::Memory(memory);
        let revisions =
            |changes: Vec<Change>| -> Vec<u64> { changes.iter().map(|change| change.revision).collect() };
        assert_eq!(revisions(history.after(4, 1).unwrap().0), [5, 5]);
        assert_eq!(revisions(history.before(7, 1).unwrap()), [6]);
        assert_eq!(revisions(history.before(7, 2).unwrap()), [6, 5, 5]);
        assert_eq!(revisions(history.before(5, 1).unwrap()), [4]);
    }

    #[test]
    fn a_log_that_has_a_gap_does_not_reach_over_it_when_it_is_shortened_before_that() {
        let change = |revision| Change {
            revision,
            at: Wall::default(),
            reason: Reason::Granted,
            author: Author::Server,
            what: What::Token { before: None, after: None },
        };
        let memory = Memory::default();
        memory.keep((1..=MEMORY_MAX as u64).map(change).collect());
        let gap = MEMORY_MAX as u64 + 10;
        memory.begin_at(gap);
        memory.keep(vec![change(gap + 1)]);
        let history = History::Memory(memory);
        assert!(!history.is_whole_after(gap - 1, Some(2)));
        assert!(history.is_whole_after(gap, Some(2)));
    }
}
