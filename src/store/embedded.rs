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

mod disk;
mod engine;
mod files;
mod log;
mod tables;
mod thread;

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use redb::StorageBackend;
use tokio::sync::{mpsc, oneshot};

pub use self::engine::{Engine, EngineError};
pub use self::files::{Checked, Raw, check, files_of, make_directory, restore};
use self::files::{FILE, io_error, lock, make_file, open_file};
pub use self::log::History;
use self::thread::Anew;
pub use self::thread::{Job, Thread};
use super::{Failure, Limits, redo};
use crate::registry::{Change, Kept};
use crate::time::{Now, Wall};

/// Commits that wait for the thread: the writer waits for each, so one is all there can be.
const JOBS_MAX: usize = 1;

/// An open store.
#[derive(Debug)]
pub struct Embedded {
    jobs: mpsc::Sender<Job>,
    pub history: History,
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
    #[error("{path}: {cause}{}", next_step(.cause))]
    Io { path: String, cause: io::Error },
    #[error("{path}: {what}")]
    Damaged { path: String, what: String },
}

fn next_step(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::PermissionDenied => "; choose a directory of yours with --data DIR",
        _ => "",
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
    let name = path.display().to_string();
    let anew = move |sync_failed| {
        let _held = &lock;
        let file = File::options().read(true).write(true).open(&path).map_err(EngineError::Io)?;
        let backend = redb::backends::FileBackend::new(file)?;
        Engine::open(backend, redo::OCTETS, sync_failed, Wall::default())
    };
    let (embedded, thread) = around(engine, name, sync_failed, limits, Box::new(anew));
    let spawned = std::thread::Builder::new().name("store".to_owned()).spawn(move || thread.run());
    spawned.map_err(|source| io_error(directory, source))?;
    Ok((embedded, loaded))
}

/// Opens a store over any disk, of which `descriptor` gives another handle each time. There is no thread: the caller does
/// the work that comes to `Thread`, which is what simulations need. `redo_octets` is the length of its redo log.
///
/// # Errors
///
/// As those of [`Engine::open`].
pub fn over<D: StorageBackend>(
    descriptor: impl Fn() -> D + Send + 'static,
    redo_octets: u64,
    limits: Limits,
    now: Now,
) -> Result<(Embedded, Thread, Loaded), EngineError> {
    let sync_failed = Arc::new(AtomicBool::new(false));
    let mut engine = Engine::open(descriptor(), redo_octets, sync_failed.clone(), now.wall)?;
    let loaded = engine.load(now)?;
    engine.commit(&[], Reserve::Ahead, limits)?;
    let anew = move |sync_failed| Engine::open(descriptor(), redo_octets, sync_failed, Wall::default());
    let (embedded, thread) = around(engine, "the disk".to_owned(), sync_failed, limits, Box::new(anew));
    Ok((embedded, thread, loaded))
}

fn around(
    engine: Engine,
    name: String,
    sync_failed: Arc<AtomicBool>,
    limits: Limits,
    anew: Box<Anew>,
) -> (Embedded, Thread) {
    let database = Arc::new(arc_swap::ArcSwapOption::new(Some(engine.database.clone())));
    let history = History { database, behind: Arc::default() };
    let (jobs, received) = mpsc::channel(JOBS_MAX);
    let (engine, doubtful) = (Some(engine), Vec::new());
    let thread = Thread {
        name,
        jobs: received,
        sync_failed,
        engine,
        anew,
        limits,
        history: history.clone(),
        doubtful,
    };
    (Embedded { jobs, history }, thread)
}

impl Embedded {
    /// As [`super::Store::commit`].
    pub async fn commit(&self, changes: Vec<Change>, facts: usize, reserve: Reserve) -> Result<(), Failure> {
        let (done, result) = oneshot::channel();
        let ended =
            |doubtful| Failure::Broken { reason: "the store's thread has ended".to_owned(), doubtful };
        // The channel has room: one commit waits for its answer before the next is sent.
        self.jobs.try_send(Job { changes, facts, reserve, done }).map_err(|_| ended(false))?;
        result.await.map_err(|_| ended(true))?
    }
}
