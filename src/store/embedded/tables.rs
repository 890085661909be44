//! The tables of the store: what they are called, and how a change goes into them.

use redb::{
    ReadOnlyTable, ReadTransaction, ReadableTable, ReadableTableMetadata, TableDefinition, TableError,
    WriteTransaction,
};

use super::engine::EngineError;
use crate::instance::ServiceSettings;
use crate::registry::{Change, What};
use crate::store::Limits;
use crate::store::record;
use crate::store::redo::Entry;
use crate::time::Wall;

pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
pub(super) const INSTANCES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("instances");
pub(super) const HOSTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("hosts");
pub(super) const SETTINGS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("settings");
// The guards in force, the tokens, and what UPDATE set; none is there in files of before there were any.
pub(super) const GUARDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("guards");
pub(super) const TOKENS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("tokens");
pub(super) const PLAIN: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("plain");
pub(super) const GONE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("gone");
pub(super) const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
/// The epoch of the redo log that goes on from these tables.
pub(super) const EPOCH: TableDefinition<'_, (), u64> = TableDefinition::new("epoch");
/// The keys of `META`.
pub(super) const FORMAT: &str = "format";
pub(super) const SERIAL_BASE: &str = "serial-base";
/// No revision above it was given out.
pub(super) const RESERVED: &str = "reserved";
/// 1 once something was taken out of the log.
pub(super) const TRIMMED: &str = "trimmed";
/// Entries of the log removed beyond those added, in one commit.
const TRIM_MAX: u64 = 512;

/// A table that the file may not have yet.
pub(super) fn opened<K: redb::Key + 'static>(
    transaction: &ReadTransaction,
    table: TableDefinition<'_, K, &'static [u8]>,
) -> Result<Option<ReadOnlyTable<K, &'static [u8]>>, EngineError> {
    match transaction.open_table(table) {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Puts `changes`, which `entry` has as the log does, into the tables.
pub(super) fn apply(
    transaction: &WriteTransaction,
    changes: &[Change],
    entry: &Entry,
) -> Result<(), EngineError> {
    let mut instances = transaction.open_table(INSTANCES)?;
    let mut gone = transaction.open_table(GONE)?;
    let mut log = transaction.open_table(LOG)?;
    let mut meta = transaction.open_table(META)?;
    for (change, record) in changes.iter().zip(&entry.changes) {
        match &change.what {
            What::Instance { after: Some(after), .. } => {
                let place = record::place(&after.key);
                instances.insert(place.as_slice(), record::write_instance(after).as_slice())?;
                gone.remove(place.as_slice())?;
            }
            What::Instance { before: Some(before), after: None } => {
                let place = record::place(&before.key);
                instances.remove(place.as_slice())?;
                gone.insert(place.as_slice(), record::write_left(before, change).as_slice())?;
            }
            What::Instance { before: None, after: None } => {}
            What::Forgotten { key } => drop(gone.remove(record::place(key).as_slice())?),
            What::Host { before, after } => {
                if let Some(host) = after.as_ref().or(before.as_ref()) {
                    put(transaction, HOSTS, host.name.as_str(), after.as_deref().map(record::write_host))?;
                }
            }
            What::Settings { service, after, .. } => {
                let set = (*after != ServiceSettings::default()).then(|| record::write_settings(after));
                put(transaction, SETTINGS, service.as_str(), set)?;
            }
            What::Guard { service, after, .. } => {
                put(transaction, GUARDS, service.as_str(), after.map(record::write_guard))?;
            }
            What::Token { before, after } => {
                if let Some(token) = after.as_ref().or(before.as_ref()) {
                    put(transaction, TOKENS, &token.name, after.as_deref().map(record::write_token))?;
                }
            }
            What::Plain { before, after } => {
                let mut plain = transaction.open_table(PLAIN)?;
                if let Some(set) = before {
                    plain.remove(record::plain_place(set).as_slice())?;
                }
                if let Some(set) = after {
                    plain.insert(record::plain_place(set).as_slice(), record::write_plain(set).as_slice())?;
                }
            }
        }
        log.insert(change.revision, record.as_slice())?;
    }
    meta.insert(RESERVED, entry.reserved)?;
    if let Some(change) = changes.last()
        && trim(&mut log, changes.len() as u64, change.at, entry.limits)?
    {
        meta.insert(TRIMMED, 1)?;
    }
    Ok(())
}

/// What is at `key` from here on.
fn put(
    transaction: &WriteTransaction,
    table: TableDefinition<'_, &'static str, &'static [u8]>,
    key: &str,
    record: Option<Vec<u8>>,
) -> Result<(), EngineError> {
    let mut table = transaction.open_table(table)?;
    match record {
        Some(record) => drop(table.insert(key, record.as_slice())?),
        None => drop(table.remove(key)?),
    }
    Ok(())
}

/// Takes the oldest entries out of the log that are too many or too old; true where there was one.
fn trim(
    log: &mut redb::Table<'_, u64, &[u8]>,
    added: u64,
    now: Wall,
    limits: Limits,
) -> Result<bool, EngineError> {
    let age_ms = i64::try_from(limits.history_age.as_millis()).unwrap_or(i64::MAX);
    let oldest_kept = now.unix_ms.saturating_sub(age_ms);
    let mut trimmed = false;
    for _ in 0..added + TRIM_MAX {
        let over = log.len()? > limits.history_changes;
        let Some((revision, at)) = oldest(log)? else { break };
        if !over && at >= oldest_kept {
            break;
        }
        log.remove(revision)?;
        trimmed = true;
    }
    Ok(trimmed)
}

/// The oldest entry and its time; what cannot be read any more is as old as can be.
fn oldest(log: &redb::Table<'_, u64, &[u8]>) -> Result<Option<(u64, i64)>, EngineError> {
    let first = log.first()?;
    Ok(first.map(|(revision, octets)| {
        let at = record::read_change(octets.value()).map_or(i64::MIN, |change| change.at.unix_ms);
        (revision.value(), at)
    }))
}
