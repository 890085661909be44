//! The thread that owns the file: one commit after the other, and a file opened anew after trouble.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};

use tokio::sync::{mpsc, oneshot};

use super::Reserve;
use super::engine::{Engine, EngineError};
use super::log::History;
use crate::registry::Change;
use crate::store::{Failure, Limits};

/// A commit that the writer waits for.
#[derive(Debug)]
pub struct Job {
    pub changes: Vec<Change>,
    /// How many of them, the first, happened whether they are stored or not.
    pub facts: usize,
    pub reserve: Reserve,
    pub done: oneshot::Sender<Result<(), Failure>>,
}

/// Opens the file anew; told whether a sync of it has ever failed.
pub(super) type Anew = dyn Fn(Arc<AtomicBool>) -> Result<Engine, EngineError> + Send;

/// The thread that owns the file.
pub struct Thread {
    /// Of the file, for people.
    pub(super) name: String,
    pub(super) jobs: mpsc::Receiver<Job>,
    pub(super) sync_failed: Arc<AtomicBool>,
    /// None after trouble, until it is opened again.
    pub(super) engine: Option<Engine>,
    pub(super) limits: Limits,
    pub(super) history: History,
    /// What was refused with a commit that failed, while it cannot be seen whether it is stored.
    pub(super) doubtful: Vec<Change>,
    /// The last to go: it holds the lock of the folder, and what is above holds the file.
    pub(super) anew: Box<Anew>,
}

impl Thread {
    pub(super) fn run(mut self) {
        while let Some(job) = self.jobs.blocking_recv() {
            self.commit(job);
        }
    }

    /// The next commit; none when the writer has ended.
    pub async fn next(&mut self) -> Option<Job> {
        self.jobs.recv().await
    }

    /// Answers as soon as the changes are on the disk; the tables have them when the next commit comes.
    pub fn commit(&mut self, Job { mut changes, facts, reserve, done }: Job) {
        // The writer waits for the answer; where it does not, the server has ended.
        let answer = |result| drop(done.send(result));
        if self.sync_failed.load(Ordering::Acquire) {
            return answer(Err(self.broken(false)));
        }
        let (limits, behind) = (self.limits, self.history.behind.clone());
        let engine = match self.reopen() {
            Ok(engine) => engine,
            Err(error) => return answer(Err(self.after_failure(&error, false))),
        };
        let failed = match engine.begin(&changes, reserve, limits) {
            Ok(begun) if begun.on_disk => {
                // Who reads the log from here on waits until it is there.
                let _behind = behind.lock().unwrap_or_else(PoisonError::into_inner);
                answer(Ok(()));
                if let Err(error) = engine.finish(&changes, begun) {
                    // The redo log has it, and it goes into the tables when the file is opened anew.
                    drop(self.after_failure(&error, false));
                    drop(self.reopen());
                }
                return;
            }
            begun => begun.and_then(|begun| engine.finish(&changes, begun)),
        };
        let Err(error) = failed else { return answer(Ok(())) };
        let reason = match self.after_failure(&error, true) {
            Failure::Doubtful(reason) => reason,
            broken => return answer(Err(broken)),
        };
        // The error may have come after the sync: what is there is looked at before anybody is refused.
        // Where not even that can be done, the next commit looks.
        match self.reopen().and_then(|engine| engine.holds(&changes)) {
            Ok(true) => answer(Ok(())),
            Ok(false) => answer(Err(Failure::Refused(reason))),
            Err(_) => {
                self.doubtful = changes.split_off(facts);
                answer(Err(Failure::Doubtful(reason)));
            }
        }
    }

    /// After an error redb refuses everything: the file is opened anew for the next commit.
    fn after_failure(&mut self, error: &EngineError, doubtful: bool) -> Failure {
        tracing::debug!(%error, path = %self.name, "a commit failed");
        self.engine = None;
        self.history.database.store(None);
        if self.sync_failed.load(Ordering::Acquire) {
            return self.broken(doubtful);
        }
        let reason = format!("{}: {error}", self.name);
        if doubtful { Failure::Doubtful(reason) } else { Failure::Refused(reason) }
    }

    fn broken(&self, doubtful: bool) -> Failure {
        let reason = format!("{}: a sync failed, so nothing can be known to be stored", self.name);
        Failure::Broken { reason, doubtful }
    }

    fn reopen(&mut self) -> Result<&mut Engine, EngineError> {
        match &mut self.engine {
            Some(_) => {}
            none => {
                let engine = (self.anew)(self.sync_failed.clone())?;
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
