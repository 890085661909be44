//! The embedded store: one file, one process, one thread of its own.
//!
//! A commit is one transaction: the state it leads to and the log of what changed, all or nothing, on
//! the disk before it is answered: a record in the `redo`, from which the tables are made again after a crash.
//! Revisions are reserved in blocks, and the block is part of each commit: after a crash no revision that anybody
//! has seen is given out again.
//!
//! Trouble: where a write fails, nothing of the commit is there, and the next one tries again on a file
//! opened anew. Where a *sync* fails, nothing more is ever acknowledged: the kernel may have dropped what it
//! could not write and called it clean ("Can Applications Recover from fsync Failures?", ATC 2020).

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};

use nix::fcntl::{Flock, FlockArg};
use redb::{
    Database, Durability, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable,
    ReadableTableMetadata, StorageBackend, TableDefinition, TableError, WriteTransaction,
};
use tokio::sync::oneshot;

use super::record::{self, Unreadable};
use super::redo::{self, Entry, Redo};
use super::{Failure, Limits};
use crate::instance::ServiceSettings;
use crate::name::ServiceName;
use crate::registry::{Change, Kept, What};
use crate::time::{Now, Wall};

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const INSTANCES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("instances");
const HOSTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("hosts");
const SETTINGS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("settings");
// The guards in force, the tokens, and what UPDATE set; none is there in files of before there were any.
const GUARDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("guards");
const TOKENS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("tokens");
const PLAIN: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("plain");
const GONE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("gone");
const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
/// Not 0: an empty redo log is of no epoch.
const EPOCH_FIRST: u64 = 1;
/// The epoch of the redo log that goes on from these tables.
const EPOCH: TableDefinition<'_, (), u64> = TableDefinition::new("epoch");

/// The keys of `META`.
const FORMAT: &str = "format";
const SERIAL_BASE: &str = "serial-base";
/// No revision above it was given out.
const RESERVED: &str = "reserved";
/// 1 once something was taken out of the log.
const TRIMMED: &str = "trimmed";

/// The layout of the tables that this program writes, and the newest it reads.
const FORMAT_NEWEST: u64 = 1;
/// Revisions reserved ahead of each commit: facts may be published before they are stored.
const RESERVE: u64 = 65_536;
/// Octets of pages kept in memory; the registry itself is in memory anyway.
const CACHE_OCTETS: usize = 64 << 20;
/// Commits that wait for the thread: the writer waits for each, so one is all there can be.
const JOBS_MAX: usize = 1;
/// Entries of the log removed beyond those added, in one commit.
const TRIM_MAX: u64 = 512;
/// The file within the data directory.
const FILE: &str = "callsign.redb";
/// Held by the one process that uses the directory; its pid is within.
const LOCK: &str = "callsign.lock";

/// An open store.
#[derive(Debug)]
pub struct Embedded {
    jobs: mpsc::SyncSender<Job>,
    pub history: History,
}

#[derive(Debug)]
struct Job {
    changes: Vec<Change>,
    reserve: Reserve,
    done: oneshot::Sender<Result<(), Failure>>,
}

/// Which revisions may be given out after a commit without another.
#[derive(Clone, Copy, Debug)]
pub enum Reserve {
    /// A block ahead of the newest: facts are published before they are stored.
    Ahead,
    /// A block ahead of this one, which is to be the newest though no change is.
    Beyond(u64),
    /// None above this one: it is the last commit.
    UpTo(u64),
}

/// What a store held when it was opened.
#[derive(Debug)]
pub struct Loaded {
    pub kept: Kept,
    pub serial_base: u32,
    /// What had to be done to open it, in words.
    pub notes: Vec<String>,
}

/// Why a store was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{path}: process {pid} uses this directory; stop it, or choose another with --data DIR")]
    Held { path: String, pid: String },
    #[error("{path}: {what}; start the newer version, or choose another directory with --data DIR")]
    Newer { path: String, what: String },
    #[error("{path}: {source}")]
    Io { path: String, source: io::Error },
    #[error("{path}: {what}")]
    Damaged { path: String, what: String },
}

/// Reads the log of changes of an open store, from any thread.
#[derive(Clone)]
pub struct History {
    database: Arc<arc_swap::ArcSwapOption<Database>>,
    /// Held while the tables do not have yet what was acknowledged.
    behind: Arc<Mutex<()>>,
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("History")
    }
}

/// The file, whether a sync of it has ever failed, and whether its engine has ended.
#[derive(Debug)]
struct Disk {
    inner: Box<dyn StorageBackend>,
    sync_failed: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
}

impl Disk {
    fn sync(&self) -> io::Result<()> {
        if self.sync_failed.load(Ordering::Acquire) {
            return Err(io::Error::other("an earlier sync failed"));
        }
        self.inner.sync_data().inspect_err(|_| self.sync_failed.store(true, Ordering::Release))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.ended.load(Ordering::Acquire) {
            return Err(io::Error::other("it is never closed in order"));
        }
        self.inner.write(offset, data)
    }
}

/// What the library sees of the file: all of it behind the redo log.
#[derive(Debug)]
struct Pages {
    disk: Arc<Disk>,
    redo_octets: u64,
}

impl StorageBackend for Pages {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.inner.len()?.saturating_sub(self.redo_octets))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.disk.inner.read(self.redo_octets + offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.inner.set_len(self.redo_octets + len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.disk.write(self.redo_octets + offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.disk.inner.close()
    }
}

/// Opens the store in `directory`, which is made where it is not there, and starts its thread.
///
/// A damaged file is kept under another name, never deleted, and a new one begun: `Loaded::notes` says so.
///
/// # Errors
///
/// Another process holds it, a newer version wrote it, or the disk refuses.
pub fn open(directory: &Path, limits: Limits, now: Now) -> Result<(Embedded, Loaded), OpenError> {
    let lock = lock(directory)?;
    let path = directory.join(FILE);
    let sync_failed = Arc::new(AtomicBool::new(false));
    make_file(directory, now)?;
    let (engine, loaded) = match open_file(&path, &sync_failed, now) {
        Ok(opened) => opened,
        Err(OpenError::Damaged { what, .. }) => {
            let aside = directory.join(format!("{FILE}.damaged-{}", now.wall.unix_ms));
            std::fs::rename(&path, &aside).map_err(|source| io_error(&path, source))?;
            make_file(directory, now)?;
            let (engine, mut loaded) = open_file(&path, &sync_failed, now)?;
            let (path, aside) = (path.display(), aside.display());
            loaded
                .notes
                .push(format!("{path}: {what}; it is kept as {aside}, and the registry starts empty"));
            (engine, loaded)
        }
        Err(error) => return Err(error),
    };
    let database = Arc::new(arc_swap::ArcSwapOption::new(Some(engine.database.clone())));
    let history = History { database, behind: Arc::default() };
    let (jobs, received) = mpsc::sync_channel(JOBS_MAX);
    let thread = Thread {
        path,
        sync_failed,
        engine: Some(engine),
        limits,
        history: history.clone(),
        doubtful: Vec::new(),
        _lock: lock,
    };
    let spawned = std::thread::Builder::new().name("store".to_owned()).spawn(move || thread.run(&received));
    spawned.map_err(|source| io_error(directory, source))?;
    Ok((Embedded { jobs, history }, loaded))
}

/// What a check of a store found.
#[derive(Debug)]
pub struct Checked {
    pub instances: usize,
    pub gone: usize,
    pub changes: u64,
    pub revision: u64,
}

/// Reads every page and every record of the store in `directory`, which no server may hold.
///
/// # Errors
///
/// As `open`; a damaged file is left where it is.
pub fn check(directory: &Path, now: Now) -> Result<Checked, OpenError> {
    let path = directory.join(FILE);
    if !path.exists() {
        let source = io::Error::new(io::ErrorKind::NotFound, "there is no store");
        return Err(io_error(&path, source));
    }
    let _lock = lock(directory)?;
    let checking = || -> Result<Checked, EngineError> {
        let file = File::options().read(true).write(true).open(&path).map_err(EngineError::Io)?;
        let backend = redb::backends::FileBackend::new(file)?;
        let engine = Engine::open(backend, redo::OCTETS, Arc::default(), now.wall)?; // compares every page
        let kept = engine.load(now)?.kept;
        let mut changes = 0;
        for entry in engine.database.begin_read()?.open_table(LOG)?.iter()? {
            record::read_change(entry?.1.value()).map_err(unreadable)?;
            changes += 1;
        }
        let (instances, gone) = (kept.instances.len(), kept.gone.len());
        Ok(Checked { instances, gone, changes, revision: kept.revision })
    };
    checking().map_err(|error| error.at(&path))
}

/// A record as a backup holds it: table, key, value.
pub type Raw = (String, Vec<u8>, Vec<u8>);

/// Makes `records`, which a backup held, the store in `directory`; what was there is kept under another
/// name, which is returned. No server may hold the directory.
///
/// Revision and serial go on from whichever is higher, the backup or what was there: nobody who has seen
/// either sees a counter go back.
///
/// # Errors
///
/// As `open`, and records that are none of ours; nothing is changed then.
pub fn restore(directory: &Path, records: &[Raw], now: Now) -> Result<Option<PathBuf>, OpenError> {
    let _lock = lock(directory)?;
    let path = directory.join(FILE);
    let before = match path.exists().then(|| open_file(&path, &Arc::default(), now)) {
        Some(Ok((_, loaded))) => Some((loaded.kept.revision, loaded.serial_base)),
        Some(Err(error @ OpenError::Newer { .. })) => return Err(error),
        // A damaged store is a reason to restore one; its counters cannot be known.
        Some(Err(_)) | None => None,
    };
    let new = directory.join(format!("{FILE}.new"));
    let writing = || -> Result<(), EngineError> {
        let file = File::options().create(true).truncate(true).read(true).write(true).mode(0o600).open(&new);
        let backend = redb::backends::FileBackend::new(file.map_err(EngineError::Io)?)?;
        let engine = Engine::open(backend, redo::OCTETS, Arc::default(), now.wall)?;
        engine.fill(records, before)?;
        engine.load(now).map(drop)
    };
    if let Err(error) = writing() {
        let _ = std::fs::remove_file(&new); // what could not be restored is still in the backup
        return Err(error.at(&new));
    }
    let aside = path.exists().then(|| directory.join(format!("{FILE}.before-{}", now.wall.unix_ms)));
    if let Some(aside) = &aside {
        std::fs::rename(&path, aside).map_err(|source| io_error(&path, source))?;
    }
    std::fs::rename(&new, &path).map_err(|source| io_error(&path, source))?;
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|source| io_error(directory, source))?;
    Ok(aside)
}

/// Takes the directory for this process; the lock goes with the descriptor, however the process ends.
fn lock(directory: &Path) -> Result<Flock<File>, OpenError> {
    let path = directory.join(LOCK);
    // Ids of leases are in it: nobody else's to read.
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|source| io_error(directory, source))?;
    let file = File::options().create(true).truncate(false).read(true).write(true).mode(0o600).open(&path);
    let file = file.map_err(|source| io_error(&path, source))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            let pid = std::process::id().to_string();
            // The pid is for whoever finds the directory taken; the lock holds without it, on a full disk too.
            let written =
                lock.set_len(0).and_then(|()| lock.rewind()).and_then(|()| lock.write_all(pid.as_bytes()));
            if let Err(error) = written {
                tracing::debug!(%error, "writing the pid into the lock");
            }
            Ok(lock)
        }
        Err((mut file, _)) => {
            let mut pid = String::new();
            let read = file.read_to_string(&mut pid);
            let pid = if read.is_ok() && !pid.is_empty() { pid } else { "(unknown)".to_owned() };
            Err(OpenError::Held { path: directory.display().to_string(), pid })
        }
    }
}

fn io_error(path: &Path, source: io::Error) -> OpenError {
    OpenError::Io { path: path.display().to_string(), source }
}

/// Makes an empty store where none is: under another name first, so that a crash leaves no half of a file
/// under the right one, which would be taken for a damaged store.
fn make_file(directory: &Path, now: Now) -> Result<(), OpenError> {
    let path = directory.join(FILE);
    if path.exists() {
        return Ok(());
    }
    let new = directory.join(format!("{FILE}.new"));
    let file = File::options().create(true).truncate(true).read(true).write(true).mode(0o600).open(&new);
    let file = file.map_err(|source| io_error(&new, source))?;
    drop(open_engine(&new, file, &Arc::default(), now)?);
    // A name lasts when its directory is synced: what is in the file is not enough.
    let named = std::fs::rename(&new, &path).and_then(|()| File::open(directory)?.sync_all());
    named.map_err(|source| io_error(&path, source))
}

fn open_file(path: &Path, sync_failed: &Arc<AtomicBool>, now: Now) -> Result<(Engine, Loaded), OpenError> {
    let file = File::options().read(true).write(true).open(path);
    let mut engine = open_engine(path, file.map_err(|source| io_error(path, source))?, sync_failed, now)?;
    let loaded = engine.load(now).map_err(|error| error.at(path))?;
    // What expires from here on is published before it is stored: its revisions are reserved now.
    engine.commit(&[], Reserve::Ahead, Limits::default()).map_err(|error| error.at(path))?;
    Ok((engine, loaded))
}

fn open_engine(
    path: &Path,
    file: File,
    sync_failed: &Arc<AtomicBool>,
    now: Now,
) -> Result<Engine, OpenError> {
    let backend =
        redb::backends::FileBackend::new(file).map_err(|error| io_error(path, io::Error::other(error)))?;
    let opened = Engine::open(backend, redo::OCTETS, sync_failed.clone(), now.wall);
    opened.map_err(|error| error.at(path))
}

/// Why the engine did not do what it was asked.
#[derive(Debug)]
pub enum EngineError {
    Io(io::Error),
    Damaged(String),
    Newer(String),
}

impl EngineError {
    fn at(self, path: &Path) -> OpenError {
        let path = path.display().to_string();
        match self {
            Self::Io(source) => OpenError::Io { path, source },
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

fn unreadable(error: Unreadable) -> EngineError {
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
struct Begun {
    entry: Entry,
    on_disk: bool,
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
    fn fill(&self, records: &[Raw], before: Option<(u64, u32)>) -> Result<(), EngineError> {
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
    fn begin(&mut self, changes: &[Change], reserve: Reserve, limits: Limits) -> Result<Begun, EngineError> {
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
    fn finish(&mut self, changes: &[Change], Begun { entry, on_disk }: Begun) -> Result<(), EngineError> {
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

/// A table that the file may not have yet.
fn opened<K: redb::Key + 'static>(
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
fn apply(transaction: &WriteTransaction, changes: &[Change], entry: &Entry) -> Result<(), EngineError> {
    let mut instances = transaction.open_table(INSTANCES)?;
    let mut hosts = transaction.open_table(HOSTS)?;
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
            What::Host { after: Some(host), .. } => {
                hosts.insert(host.name.as_str(), record::write_host(host).as_slice())?;
            }
            What::Host { before, after: None } => {
                if let Some(host) = before {
                    hosts.remove(host.name.as_str())?;
                }
            }
            What::Settings { service, after, .. } => {
                let mut settings = transaction.open_table(SETTINGS)?;
                match *after == ServiceSettings::default() {
                    true => drop(settings.remove(service.as_str())?),
                    false => {
                        drop(settings.insert(service.as_str(), record::write_settings(after).as_slice())?)
                    }
                }
            }
            What::Guard { service, after, .. } => {
                let mut guards = transaction.open_table(GUARDS)?;
                match after {
                    Some(guard) => {
                        drop(guards.insert(service.as_str(), record::write_guard(*guard).as_slice())?)
                    }
                    None => drop(guards.remove(service.as_str())?),
                }
            }
            What::Token { before, after } => {
                let mut tokens = transaction.open_table(TOKENS)?;
                if let Some(token) = before {
                    tokens.remove(&*token.name)?;
                }
                if let Some(token) = after {
                    tokens.insert(&*token.name, record::write_token(token).as_slice())?;
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
            What::Forgotten { key } => drop(gone.remove(record::place(key).as_slice())?),
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

impl Embedded {
    pub async fn commit(&self, changes: Vec<Change>, reserve: Reserve) -> Result<(), Failure> {
        let (done, result) = oneshot::channel();
        let ended = || Failure::Broken("the store's thread has ended".to_owned());
        // The channel has room: one commit waits for its answer before the next is sent.
        self.jobs.try_send(Job { changes, reserve, done }).map_err(|_| ended())?;
        result.await.map_err(|_| ended())?
    }
}

/// The thread that owns the file.
struct Thread {
    path: PathBuf,
    sync_failed: Arc<AtomicBool>,
    /// None after trouble, until it is opened again.
    engine: Option<Engine>,
    limits: Limits,
    history: History,
    /// A commit that failed, while it cannot be seen whether it is stored.
    doubtful: Vec<Change>,
    _lock: Flock<File>,
}

impl Thread {
    fn run(mut self, jobs: &mpsc::Receiver<Job>) {
        while let Ok(job) = jobs.recv() {
            self.commit(job);
        }
    }

    /// Answers as soon as the changes are on the disk; the tables have them when the next commit comes.
    fn commit(&mut self, Job { changes, reserve, done }: Job) {
        // The writer waits for the answer; where it does not, the server has ended.
        let answer = |result| drop(done.send(result));
        if self.sync_failed.load(Ordering::Acquire) {
            return answer(Err(self.broken()));
        }
        let (limits, behind) = (self.limits, self.history.behind.clone());
        let engine = match self.reopen() {
            Ok(engine) => engine,
            Err(error) => return answer(Err(self.after_failure(&error))),
        };
        let failed = match engine.begin(&changes, reserve, limits) {
            Ok(begun) if begun.on_disk => {
                // Who reads the log from here on waits until it is there.
                let _behind = behind.lock().unwrap_or_else(PoisonError::into_inner);
                answer(Ok(()));
                if let Err(error) = engine.finish(&changes, begun) {
                    // The redo log has it, and it goes into the tables when the file is opened anew.
                    drop(self.after_failure(&error));
                    drop(self.reopen());
                }
                return;
            }
            begun => begun.and_then(|begun| engine.finish(&changes, begun)),
        };
        let Err(error) = failed else { return answer(Ok(())) };
        let failure = self.after_failure(&error);
        if matches!(failure, Failure::Broken(_)) {
            return answer(Err(failure));
        }
        // The error may have come after the sync: what is there is looked at before anybody is refused.
        // Where not even that can be done, the next commit looks.
        match self.reopen().and_then(|engine| engine.holds(&changes)) {
            Ok(true) => return answer(Ok(())),
            Ok(false) => {}
            Err(_) => self.doubtful = changes,
        }
        answer(Err(failure));
    }

    /// After an error redb refuses everything: the file is opened anew for the next commit.
    fn after_failure(&mut self, error: &EngineError) -> Failure {
        tracing::debug!(%error, path = %self.path.display(), "a commit failed");
        self.engine = None;
        self.history.database.store(None);
        match self.sync_failed.load(Ordering::Acquire) {
            true => self.broken(),
            false => Failure::Refused(format!("{}: {error}", self.path.display())),
        }
    }

    fn broken(&self) -> Failure {
        Failure::Broken(format!(
            "{}: a sync failed, so nothing can be known to be stored",
            self.path.display()
        ))
    }

    fn reopen(&mut self) -> Result<&mut Engine, EngineError> {
        match &mut self.engine {
            Some(_) => {}
            none => {
                let file =
                    File::options().read(true).write(true).open(&self.path).map_err(EngineError::Io)?;
                let backend = redb::backends::FileBackend::new(file)?;
                let sync_failed = self.sync_failed.clone();
                let engine = Engine::open(backend, redo::OCTETS, sync_failed, Wall::default())?;
                if engine.holds(&self.doubtful)? {
                    // It was refused and is there: to go on would build on what nobody was told.
                    self.sync_failed.store(true, Ordering::Release);
                    return Err(EngineError::Io(io::Error::other("a commit that was refused is stored")));
                }
                self.doubtful.clear();
                self.history.database.store(Some(engine.database.clone()));
                *none = Some(engine);
            }
        }
        Ok(self.engine.as_mut().expect("it was just opened"))
    }
}

impl History {
    fn transaction(&self) -> Result<redb::ReadTransaction, EngineError> {
        drop(self.behind.lock().unwrap_or_else(PoisonError::into_inner));
        let database = self.database.load_full();
        let database = database.ok_or_else(|| EngineError::Io(io::Error::other("the store is not open")))?;
        Ok(database.begin_read()?)
    }

    /// Changes after `after`, oldest first, `most` of them; and the oldest revision that is still there.
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
