//! The tables over a disk and its redo log: what they hold, how a commit gets there, and how it is found again.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::{Database, Durability, ReadableDatabase, ReadableTable, StorageBackend, WriteTransaction};

use super::disk::{Disk, Pages};
use super::files::Raw;
use super::tables::{
    EPOCH, FORMAT, GONE, GUARDS, HOSTS, INSTANCES, LOG, META, PLAIN, RESERVED, SERIAL_BASE, SETTINGS, TOKENS,
    apply, opened,
};
use super::{Loaded, OpenError, Reserve};
use crate::name::ServiceName;
use crate::registry::{Change, Kept};
use crate::store::Limits;
use crate::store::record::{self, Unreadable};
use crate::store::redo::{Entry, Redo};
use crate::time::{Now, Wall};

/// Not 0: an empty redo log is of no epoch.
const EPOCH_FIRST: u64 = 1;
/// The layout of the tables that this program writes, and the newest it reads.
const FORMAT_NEWEST: u64 = 1;
/// Revisions reserved ahead of each commit: facts may be published before they are stored.
const RESERVE: u64 = 65_536;
/// Octets of pages kept in memory; the registry itself is in memory anyway.
const CACHE_OCTETS: usize = 64 << 20;
/// Why the engine did not do what it was asked.
#[derive(Debug)]
pub enum EngineError {
    Io(io::Error),
    Damaged(String),
    Newer(String),
}

impl EngineError {
    pub(super) fn at(self, path: &Path) -> OpenError {
        let path = path.display().to_string();
        match self {
            Self::Io(cause) => OpenError::Io { path, cause },
            Self::Damaged(what) => OpenError::Damaged { path, what },
            Self::Newer(what) => OpenError::Newer { path, what },
        }
    }
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "{error}"),
            Self::Damaged(what) | Self::Newer(what) => f.write_str(what),
        }
    }
}

impl<E: Into<redb::Error>> From<E> for EngineError {
    fn from(error: E) -> Self {
        match error.into() {
            // So the library calls a file that is none of its own, or too short.
            redb::Error::Io(error)
                if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
            {
                Self::Damaged(error.to_string())
            }
            redb::Error::Io(error) => Self::Io(error),
            error @ redb::Error::PreviousIo => Self::Io(io::Error::other(error.to_string())),
            error @ redb::Error::UpgradeRequired(_) => Self::Newer(error.to_string()),
            error => Self::Damaged(error.to_string()),
        }
    }
}

fn newer(format: u64) -> EngineError {
    EngineError::Newer(format!(
        "written by a newer version of callsign (layout {format}, this one reads up to {FORMAT_NEWEST})"
    ))
}

fn damaged(what: &str) -> EngineError {
    EngineError::Damaged(what.to_owned())
}

pub(super) fn unreadable(error: Unreadable) -> EngineError {
    match error {
        Unreadable::Newer(_) => EngineError::Newer(error.to_string()),
        Unreadable::Damaged(_) => EngineError::Damaged(error.to_string()),
    }
}

/// The tables over any disk: what tests run on one that fails.
#[derive(Debug)]
pub struct Engine {
    pub database: Arc<Database>,
    disk: Arc<Disk>,
    redo: Redo,
    reserved: u64,
    ended: Arc<AtomicBool>,
}

/// A commit between its halves.
pub(super) struct Begun {
    pub(super) entry: Entry,
    pub(super) on_disk: bool,
}

/// The file is never closed in order: the library believes such a file without a look at its checksums,
/// and panics over one that lies. As a crash leaves it, it is verified whenever it is opened.
impl Drop for Engine {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
    }
}

impl Engine {
    /// Opens the tables, or makes them. Every page is compared with its checksum, as after a crash; then the
    /// redo log, which is `redo_octets` long, is played on top.
    pub fn open(
        disk: impl StorageBackend,
        redo_octets: u64,
        sync_failed: Arc<AtomicBool>,
        wall: Wall,
    ) -> Result<Self, EngineError> {
        let ended = Arc::new(AtomicBool::new(false));
        let disk = Arc::new(Disk { inner: Box::new(disk), sync_failed, ended: ended.clone() });
        let octets = disk.inner.len().map_err(EngineError::Io)?;
        if octets > 0 && octets <= redo_octets {
            return Err(EngineError::Damaged("it ends within its redo log".to_owned()));
        }
        let pages = Pages { disk: disk.clone(), redo_octets };
        let mut builder = Database::builder();
        // Without it the library looks for its notes in pages that it has not compared yet, and panics over some.
        builder.set_cache_size(CACHE_OCTETS).set_check_integrity_on_open(true);
        let database = builder.create_with_backend(pages)?;
        let mut transaction = database.begin_write()?;
        let found = {
            let mut meta = transaction.open_table(META)?;
            let format = meta.get(FORMAT)?.map(|format| format.value());
            match format {
                Some(format) if format > FORMAT_NEWEST => return Err(newer(format)),
                Some(_) => {}
                None => {
                    meta.insert(FORMAT, FORMAT_NEWEST)?;
                    meta.insert(SERIAL_BASE, (wall.unix_ms / 1000) as u64)?;
                    meta.insert(RESERVED, 0)?;
                    transaction.open_table(EPOCH)?.insert((), EPOCH_FIRST)?;
                }
            }
            transaction.open_table(INSTANCES)?;
            transaction.open_table(HOSTS)?;
            transaction.open_table(SETTINGS)?;
            transaction.open_table(GONE)?;
            transaction.open_table(LOG)?;
            let epoch = transaction.open_table(EPOCH)?.get(())?.map(|epoch| epoch.value());
            format.and(Some(epoch.ok_or_else(|| EngineError::Damaged("`epoch` is missing".to_owned()))?))
        };
        let mut region = vec![0; redo_octets as usize];
        let Some(epoch) = found else {
            // Written once, so that a commit only ever writes where the file system has given room.
            disk.write(0, &region).map_err(EngineError::Io)?;
            transaction.set_two_phase_commit(true);
            transaction.commit()?;
            let redo = Redo::new(region.len(), EPOCH_FIRST);
            return Ok(Self { database: Arc::new(database), disk, redo, reserved: 0, ended });
        };
        disk.inner.read(0, &mut region).map_err(EngineError::Io)?;
        let (redo, entries) = Redo::read(&region, epoch).map_err(EngineError::Damaged)?;
        for entry in &entries {
            let changes: Result<Vec<Change>, Unreadable> =
                entry.changes.iter().map(|octets| record::read_change(octets)).collect();
            apply(&transaction, &changes.map_err(unreadable)?, entry)?;
        }
        let reserved = transaction.open_table(META)?.get(RESERVED)?.map_or(0, |reserved| reserved.value());
        if entries.is_empty() {
            transaction.abort()?;
        } else {
            in_memory(&mut transaction)?;
            transaction.commit()?;
        }
        Ok(Self { database: Arc::new(database), disk, redo, reserved, ended })
    }

    /// Everything that was committed; leases begin at `now`.
    pub fn load(&self, now: Now) -> Result<Loaded, EngineError> {
        let transaction = self.database.begin_read()?;
        let meta = transaction.open_table(META)?;
        let number = |key| -> Result<u64, EngineError> {
            let value = meta.get(key)?.map(|value| value.value());
            value.ok_or_else(|| EngineError::Damaged(format!("`{key}` is missing")))
        };
        let mut kept = Kept { revision: number(RESERVED)?, ..Kept::default() };
        let instances = transaction.open_table(INSTANCES)?;
        let mut near = record::Near::default();
        for entry in instances.iter()? {
            let (_, octets) = entry?;
            let instance = record::read_instance(octets.value(), now, &mut near).map_err(unreadable)?;
            kept.instances.push(Arc::new(instance));
        }
        for entry in transaction.open_table(HOSTS)?.iter()? {
            let (_, octets) = entry?;
            kept.hosts.push(record::read_host(octets.value(), now).map_err(unreadable)?);
        }
        let named =
            |name: &str| ServiceName::parse(name).map_err(|error| EngineError::Damaged(error.to_string()));
        for entry in transaction.open_table(SETTINGS)?.iter()? {
            let (name, octets) = entry?;
            let settings = record::read_settings(octets.value()).map_err(unreadable)?;
            kept.settings.push((named(name.value())?, settings));
        }
        if let Some(guards) = opened(&transaction, GUARDS)? {
            for entry in guards.iter()? {
                let (name, octets) = entry?;
                let guard = record::read_guard(octets.value()).map_err(unreadable)?;
                kept.guards.push((named(name.value())?, guard));
            }
        }
        if let Some(tokens) = opened(&transaction, TOKENS)? {
            for entry in tokens.iter()? {
                let (_, octets) = entry?;
                kept.tokens.push(record::read_token(octets.value()).map_err(unreadable)?);
            }
        }
        if let Some(plain) = opened(&transaction, PLAIN)? {
            for entry in plain.iter()? {
                let (_, octets) = entry?;
                kept.plain.push(record::read_plain(octets.value(), now).map_err(unreadable)?);
            }
        }
        for entry in transaction.open_table(GONE)?.iter()? {
            let (_, octets) = entry?;
            let left = record::read_left(octets.value(), now).map_err(unreadable)?;
            kept.gone.push((left.instance, left.reason, left.at, left.revision));
        }
        kept.gone.sort_by_key(|(_, _, _, revision)| *revision);
        let serial_base = number(SERIAL_BASE)? as u32;
        Ok(Loaded { kept, serial_base, notes: Vec::new() })
    }

    /// Puts the records of a backup into empty tables; `before` are the counters of the store they replace.
    pub(super) fn fill(
        &self,
        records: &[Raw],
        before: Option<(u64, u32)>,
        mut written: impl FnMut(),
    ) -> Result<(), EngineError> {
        let number = |octets: &[u8]| -> Result<u64, EngineError> {
            Ok(u64::from_be_bytes(octets.try_into().map_err(|_| damaged("a number is not eight octets"))?))
        };
        let text =
            |octets: &[u8]| String::from_utf8(octets.to_vec()).map_err(|_| damaged("a key is no text"));
        let has = |wanted: &str| {
            records.iter().any(|(table, key, _)| table == "meta" && key.as_slice() == wanted.as_bytes())
        };
        if let Some(missing) = [FORMAT, SERIAL_BASE, RESERVED].into_iter().find(|key| !has(key)) {
            return Err(damaged(&format!("`{missing}` is missing from the backup")));
        }
        let transaction = self.database.begin_write()?;
        {
            let mut meta = transaction.open_table(META)?;
            for (table, key, value) in records {
                written();
                match table.as_str() {
                    "meta" => drop(meta.insert(text(key)?.as_str(), number(value)?)?),
                    "instances" => {
                        drop(transaction.open_table(INSTANCES)?.insert(key.as_slice(), value.as_slice())?)
                    }
                    "gone" => drop(transaction.open_table(GONE)?.insert(key.as_slice(), value.as_slice())?),
                    "hosts" => {
                        drop(transaction.open_table(HOSTS)?.insert(text(key)?.as_str(), value.as_slice())?)
                    }
                    "settings" => drop(
                        transaction.open_table(SETTINGS)?.insert(text(key)?.as_str(), value.as_slice())?,
                    ),
                    "guards" => {
                        drop(transaction.open_table(GUARDS)?.insert(text(key)?.as_str(), value.as_slice())?)
                    }
                    "tokens" => {
                        drop(transaction.open_table(TOKENS)?.insert(text(key)?.as_str(), value.as_slice())?)
                    }
                    "plain" => drop(transaction.open_table(PLAIN)?.insert(key.as_slice(), value.as_slice())?),
                    "log" => {
                        record::read_change(value).map_err(unreadable)?;
                        drop(transaction.open_table(LOG)?.insert(number(key)?, value.as_slice())?);
                    }
                    other => return Err(damaged(&format!("`{other}` is no table of this version"))),
                }
            }
            let format = meta.get(FORMAT)?.map_or(0, |format| format.value());
            if format > FORMAT_NEWEST {
                return Err(newer(format));
            }
            if let Some((revision, serial_base)) = before {
                let value =
                    |key| -> Result<u64, EngineError> { Ok(meta.get(key)?.map_or(0, |value| value.value())) };
                let (kept_revision, kept_base) = (value(RESERVED)?, value(SERIAL_BASE)?);
                let newest = revision.max(kept_revision) + 1;
                let serial = (u64::from(serial_base) + revision).max(kept_base + kept_revision);
                meta.insert(RESERVED, newest)?;
                meta.insert(SERIAL_BASE, (serial + 1).saturating_sub(newest))?;
            }
        }
        transaction.commit()?;
        Ok(())
    }

    /// State, log and reservation, all or nothing. After an error the file is to be opened anew.
    pub fn commit(
        &mut self,
        changes: &[Change],
        reserve: Reserve,
        limits: Limits,
    ) -> Result<(), EngineError> {
        let begun = self.begin(changes, reserve, limits)?;
        self.finish(changes, begun)
    }

    /// The first half of a commit: it is on the disk, where the redo log has room and this is not the last.
    pub(super) fn begin(
        &mut self,
        changes: &[Change],
        reserve: Reserve,
        limits: Limits,
    ) -> Result<Begun, EngineError> {
        let reserved = match (reserve, changes.last()) {
            (Reserve::UpTo(revision), _) => revision,
            (Reserve::Beyond(revision), _) => self.reserved.max(revision + RESERVE),
            (Reserve::Ahead, Some(newest)) => self.reserved.max(newest.revision + RESERVE),
            (Reserve::Ahead, None) => self.reserved + RESERVE,
        };
        let entry = Entry { reserved, limits, changes: changes.iter().map(record::write_change).collect() };
        let record = match reserve {
            Reserve::Ahead | Reserve::Beyond(_) => self.redo.record(&entry),
            Reserve::UpTo(_) => None,
        };
        if let Some(record) = &record {
            self.disk.write(self.redo.end(), record).map_err(EngineError::Io)?;
            self.disk.sync().map_err(EngineError::Io)?;
            self.redo.advance(record);
        }
        Ok(Begun { entry, on_disk: record.is_some() })
    }

    /// The second half: it is in the tables, and on the disk in any case.
    pub(super) fn finish(
        &mut self,
        changes: &[Change],
        Begun { entry, on_disk }: Begun,
    ) -> Result<(), EngineError> {
        let mut transaction = self.database.begin_write()?;
        apply(&transaction, changes, &entry)?;
        if on_disk {
            in_memory(&mut transaction)?;
            transaction.commit()?;
        } else {
            // After a crash the library goes back by a commit where the last one is not whole. Once that one
            // was synced in two steps it is whole, and damage to it is an error: the redo log that led to it is
            // no longer there.
            transaction.set_two_phase_commit(true);
            let epoch = self.redo.next_epoch();
            transaction.open_table(EPOCH)?.insert((), epoch)?;
            transaction.commit()?;
            self.redo.restart(epoch);
        }
        self.reserved = entry.reserved;
        Ok(())
    }

    /// True where a commit of `changes` is there, though it may have failed: an error after its sync.
    pub fn holds(&self, changes: &[Change]) -> Result<bool, EngineError> {
        let Some(newest) = changes.last() else { return Ok(false) };
        let log = self.database.begin_read()?.open_table(LOG)?;
        let found = log.get(newest.revision)?;
        Ok(found.is_some_and(|found| found.value() == record::write_change(newest)))
    }
}

/// What a crash makes undone: the redo log has it.
fn in_memory(transaction: &mut WriteTransaction) -> Result<(), EngineError> {
    transaction.set_durability(Durability::None).map_err(|error| damaged(&error.to_string()))
}
