//! The directory and its files: whose it is, how a file is made, looked through and replaced.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use nix::fcntl::{Flock, FlockArg};
use nix::libc::O_NOFOLLOW;
use redb::{ReadableDatabase, ReadableTable};

use super::engine::{Engine, EngineError, unreadable};
use super::tables::LOG;
use super::{Loaded, OpenError, Reserve};
use crate::owner::{begin, give};
use crate::store::{Limits, record, redo};
use crate::time::Now;

/// The file within the data directory.
pub(super) const FILE: &str = "callsign.redb";
/// Held by the one process that uses the directory; its pid is within.
const LOCK: &str = "callsign.lock";

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
/// `written` is told of each record.
///
/// Revision and serial go on from whichever is higher, the backup or what was there: nobody who has seen
/// either sees a counter go back.
///
/// # Errors
///
/// As `open`, and records that are none of ours; nothing is changed then.
pub fn restore(
    directory: &Path,
    records: &[Raw],
    now: Now,
    written: impl FnMut(),
) -> Result<Option<PathBuf>, OpenError> {
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
        let file = begin(&new, 0o600).map_err(EngineError::Io)?;
        give(&file, directory).map_err(EngineError::Io)?;
        let backend = redb::backends::FileBackend::new(file)?;
        let engine = Engine::open(backend, redo::OCTETS, Arc::default(), now.wall)?;
        engine.fill(records, before, written)?;
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

/// Makes the directory where it is not there, for its owner alone: ids of leases are in it, and secrets.
///
/// # Errors
///
/// The disk refuses.
pub fn make_directory(directory: &Path) -> Result<(), OpenError> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|source| io_error(directory, source))
}

/// The files of a store, which only its server's user reads and writes.
pub fn files_of(directory: &Path) -> [PathBuf; 2] {
    [FILE, LOCK].map(|name| directory.join(name))
}

/// Takes the directory for this process; the lock goes with the descriptor, however the process ends.
pub(super) fn lock(directory: &Path) -> Result<Flock<File>, OpenError> {
    let path = directory.join(LOCK);
    make_directory(directory)?;
    let mut options = File::options();
    options.create(true).truncate(false).read(true).write(true).mode(0o600).custom_flags(O_NOFOLLOW);
    let file = options.open(&path).map_err(|source| io_error(&path, source))?;
    give_if_may(&file, directory);
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

pub(super) fn io_error(path: &Path, cause: io::Error) -> OpenError {
    OpenError::Io { path: path.display().to_string(), cause }
}

/// A server that may not is the one that uses it: whoever may not read it later hears of that.
fn give_if_may(file: &File, directory: &Path) {
    if let Err(error) = give(file, directory) {
        tracing::debug!(%error, "giving a file to the owner of its directory");
    }
}

/// Makes an empty store where none is: under another name first, so that a crash leaves no half of a file
/// under the right one, which would be taken for a damaged store.
pub(super) fn make_file(directory: &Path, now: Now) -> Result<(), OpenError> {
    let path = directory.join(FILE);
    if path.exists() {
        return Ok(());
    }
    let new = directory.join(format!("{FILE}.new"));
    let file = begin(&new, 0o600).map_err(|source| io_error(&new, source))?;
    give_if_may(&file, directory);
    drop(open_engine(&new, file, &Arc::default(), now)?);
    // A name lasts when its directory is synced: what is in the file is not enough.
    let named = std::fs::rename(&new, &path).and_then(|()| File::open(directory)?.sync_all());
    named.map_err(|source| io_error(&path, source))
}

pub(super) fn open_file(
    path: &Path,
    sync_failed: &Arc<AtomicBool>,
    now: Now,
) -> Result<(Engine, Loaded), OpenError> {
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
