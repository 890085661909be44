//! Where changes are kept. An enum, not a trait: there are three kinds, and a reader can see them all.

use crate::registry::Change;

/// See the module's own words.
#[derive(Debug)]
pub enum Store {
    /// Nothing is kept: what is registered lives as long as the server.
    Memory,
}

/// What the caller may still do.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    /// Nothing was written; try again.
    #[error("{0}")]
    Refused(String),
    /// Nothing will be written any more: restart.
    #[error("{0}; restart the server once the disk is sound")]
    Broken(String),
}

impl Store {
    /// Makes `changes` durable, in their order, all or none.
    pub async fn commit(&mut self, _changes: Vec<Change>) -> Result<(), Failure> {
        match self {
            Self::Memory => Ok(()),
        }
    }

    /// The last commit.
    pub async fn close(self, _changes: Vec<Change>) -> Result<(), Failure> {
        match self {
            Self::Memory => Ok(()),
        }
    }

    pub fn name(&self) -> &'static str {
        match self {
            Self::Memory => "memory",
        }
    }
}
