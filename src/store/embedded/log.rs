//! The log of changes of an open store, for whoever reads it.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use redb::{Database, ReadableDatabase, ReadableTable};

use super::engine::{EngineError, unreadable};
use super::tables::{GONE, GUARDS, HOSTS, INSTANCES, LOG, META, PLAIN, SETTINGS, TOKENS, TRIMMED, opened};
use crate::registry::Change;
use crate::store::record;

/// Reads the log of changes of an open store, from any thread.
#[derive(Clone)]
pub struct History {
    pub(super) database: Arc<arc_swap::ArcSwapOption<Database>>,
    /// Held while the tables do not have yet what was acknowledged.
    pub(super) behind: Arc<Mutex<()>>,
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("History")
    }
}

impl History {
    fn transaction(&self) -> Result<redb::ReadTransaction, EngineError> {
        drop(self.behind.lock().unwrap_or_else(PoisonError::into_inner));
        let database = self.database.load_full();
        let database = database.ok_or_else(|| EngineError::Io(io::Error::other("the store is not open")))?;
        Ok(database.begin_read()?)
    }

    /// Changes after `after` first, `most` of them; and the oldest revision that is still there.
    pub fn after(&self, after: u64, most: usize) -> Result<(Vec<Change>, Option<u64>), EngineError> {
        let log = self.transaction()?.open_table(LOG)?;
        let oldest = log.first()?.map(|(revision, _)| revision.value());
        let mut changes = Vec::new();
        for entry in log.range(after.saturating_add(1)..)?.take(most) {
            changes.push(record::read_change(entry?.1.value()).map_err(unreadable)?);
        }
        Ok((changes, oldest))
    }

    /// Changes before `before`, newest first, `most` of them.
    pub fn before(&self, before: u64, most: usize) -> Result<Vec<Change>, EngineError> {
        let log = self.transaction()?.open_table(LOG)?;
        let mut changes = Vec::new();
        for entry in log.range(..before)?.rev().take(most) {
            changes.push(record::read_change(entry?.1.value()).map_err(unreadable)?);
        }
        Ok(changes)
    }

    /// True where nothing was ever taken out of the log; false too where it cannot be read.
    pub fn is_whole(&self) -> bool {
        let trimmed = || -> Result<bool, EngineError> {
            let meta = self.transaction()?.open_table(META)?;
            Ok(meta.get(TRIMMED)?.is_some())
        };
        matches!(trimmed(), Ok(false))
    }

    /// Tells `put` every record at one moment, until it returns false.
    pub fn records(
        &self,
        put: &mut dyn FnMut(&'static str, Vec<u8>, Vec<u8>) -> bool,
    ) -> Result<(), EngineError> {
        let transaction = self.transaction()?;
        for entry in transaction.open_table(META)?.iter()? {
            let (key, value) = entry?;
            if !put("meta", key.value().into(), value.value().to_be_bytes().into()) {
                return Ok(());
            }
        }
        for (name, table) in
            [("hosts", HOSTS), ("settings", SETTINGS), ("guards", GUARDS), ("tokens", TOKENS)]
        {
            let Some(table) = opened(&transaction, table)? else { continue };
            for entry in table.iter()? {
                let (key, value) = entry?;
                if !put(name, key.value().into(), value.value().into()) {
                    return Ok(());
                }
            }
        }
        for (name, table) in [("instances", INSTANCES), ("gone", GONE), ("plain", PLAIN)] {
            let Some(table) = opened(&transaction, table)? else { continue };
            for entry in table.iter()? {
                let (key, value) = entry?;
                if !put(name, key.value().into(), value.value().into()) {
                    return Ok(());
                }
            }
        }
        for entry in transaction.open_table(LOG)?.iter()? {
            let (key, value) = entry?;
            if !put("log", key.value().to_be_bytes().into(), value.value().into()) {
                return Ok(());
            }
        }
        Ok(())
    }
}
