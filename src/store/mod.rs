//! Where changes are kept. An enum, not a trait: there are three kinds, and a reader can see them all.

use crate::registry::Change;

/// See the module's own words.
#[derive(Debug)]
pub enum Store {
    /// Nothing is kept: what is registered lives as long as the server.
    Memory,
}

impl Store {
    /// Makes `changes` durable, in their order.
    pub async fn commit(&mut self, _changes: &[Change]) {
        match self {
            Self::Memory => {}
        }
    }

    pub fn name(&self) -> &'static str {
        match self {
            Self::Memory => "memory",
        }
    }
}
