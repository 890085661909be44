//! The task that looks at the files: what is good of them goes to the writer, and what became of each is said.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::super::{Server, secondaries};
use super::{Folder, Known, Served, Waiting, place, serve, warn};
use crate::config::Config;
use crate::dns::transfer::Transfers;
use crate::dns::transfer::steps::Edit;
use crate::view::View;
use crate::writer::{self, FilesRefused, Handle};
use crate::zone::{Kind, Zone};

/// How long a change waits to be seen, at most; it is read one look later.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a change of the files is told to.
struct Keeper {
    folder: Option<Folder>,
    view: Arc<View>,
    writer: Handle,
    transfers: Arc<Transfers>,
    /// Told of each change of static zones.
    changed: watch::Sender<()>,
    /// Where the store is.
    data: Option<PathBuf>,
}

/// SIGHUP, from the moment on when this is made: unheard, it ends a process.
pub fn hangups() -> Result<Signal> {
    signal(SignalKind::hangup()).context("listening for signals")
}

impl Server {
    /// Reads zone files again when they change, and tells secondaries of all that changes.
    pub(in crate::serve) fn follow_files(
        &mut self,
        config: &Config,
        folder: Option<Folder>,
        writer: &Handle,
        hangups: Signal,
    ) -> Result<()> {
        let (changed, files) = watch::channel(());
        self.tell_secondaries(config, writer.journal.clone(), files)?;
        let keeper = Keeper {
            folder,
            view: self.view.clone(),
            writer: writer.clone(),
            transfers: self.transfers.clone(),
            changed,
            data: config.data.clone(),
        };
        self.tasks.spawn("zone files", keeper.run(hangups, self.stop_registrations.clone()));
        Ok(())
    }
}

impl Keeper {
    async fn run(mut self, mut hangups: Signal, stop: CancellationToken) -> std::io::Result<()> {
        loop {
            // Every arm is cancel-safe.
            let forced = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(LOOK_EVERY) => false,
                _ = hangups.recv() => true,
            };
            match (&mut self.folder, forced) {
                (Some(_), _) => self.look(forced).await,
                (None, true) => tracing::info!("SIGHUP: there are no zone files to read again"),
                (None, false) => {}
            }
        }
    }

    /// One look at the files; what is good is served when it returns.
    async fn look(&mut self, forced: bool) {
        let Some(folder) = &mut self.folder else { return };
        // Disks wait, and a large zone takes its time; others on this thread go on meanwhile.
        let read: Vec<_> = tokio::task::block_in_place(|| {
            self.view.free_zones();
            let read = folder.look(forced).into_iter();
            read.map(|(path, loaded)| (path, serve(&loaded), loaded)).collect()
        });
        let (mut edits, mut refused) = (Vec::new(), 0);
        for (path, served, loaded) in read {
            warn(&loaded.warnings);
            let Some(known) = folder.files.get_mut(&path) else { continue };
            known.marks = loaded.marks;
            known.waiting = None;
            let Some(served) = served else {
                let stays = stays(known);
                for error in &loaded.errors {
                    tracing::error!("{error}; {stays}");
                }
                known.trouble = loaded.errors.iter().map(|error| format!("{error}; {stays}")).collect();
                refused += 1;
                continue;
            };
            let before = known.served.replace(served.clone());
            let edit = before.as_ref().map(|before| between(&before.zone, &served.zone));
            match edit {
                Some(Edit::Same) => known.trouble.clear(),
                edit => {
                    if let (Some(edit), Some((soa, _))) = (&edit, served.zone.soa()) {
                        self.transfers.steps.add(&served.zone.apex, soa.serial, edit);
                    }
                    edits.push(Edited { path, before, edit });
                }
            }
        }
        let unchanged = folder.files.iter_mut().filter(|(_, known)| known.coming.is_none());
        for (path, known) in unchanged {
            if let Some(Waiting { served, edit }) = known.waiting.take() {
                let before = known.served.replace(served);
                edits.push(Edited { path: path.clone(), before, edit });
            }
        }
        let taken = self.publish(edits).await;
        self.view.note_zone_reads(taken.0, refused + taken.1);
        if let Some(folder) = &self.folder {
            self.view.set_zone_troubles(folder.troubles());
        }
    }

    /// Serves what was read, and tells secondaries. A record tree that cannot be is put back, and the rest tried again.
    ///
    /// Returns how many files were taken over, and how many were not.
    async fn publish(&mut self, mut edits: Vec<Edited>) -> (u64, u64) {
        let Some(folder) = &mut self.folder else { return (0, 0) };
        let mut refused = 0;
        while !edits.is_empty() {
            let served = |edit: &Edited| folder.files.get(&edit.path)?.served.as_ref();
            let of_tree = |edit: &Edited| served(edit).is_some_and(|served| served.zone.kind == Kind::Tree);
            let trees_differ = edits.iter().any(of_tree);
            let (zones, taken) = folder.zones();
            match self.writer.files(writer::Files { zones, taken, trees_differ }).await {
                Err(_) => return (0, refused), // on the way down
                Ok(Ok(revision)) => {
                    if let Some(data) = self.data.as_ref().filter(|_| trees_differ) {
                        secondaries::remember(data, &self.view, revision);
                    }
                    break;
                }
                Ok(Err(reason)) => {
                    let is_wrong = |edit: &Edited| match &reason {
                        FilesRefused::Taken { name, .. } | FilesRefused::FailsOver { name, .. } => {
                            served(edit).is_some_and(|served| served.taken.contains_key(name))
                        }
                        FilesRefused::Covered { apex, .. } | FilesRefused::Hidden { apex, .. } => {
                            served(edit).is_some_and(|served| served.zone.apex == *apex)
                        }
                        FilesRefused::Store(_) => of_tree(edit),
                    };
                    // Where it is nobody's, nothing is taken over.
                    let wrong = match edits.iter().position(is_wrong) {
                        Some(wrong) => vec![edits.remove(wrong)],
                        None => std::mem::take(&mut edits),
                    };
                    for Edited { path, before, edit } in wrong {
                        let Some(known) = folder.files.get_mut(&path) else { continue };
                        let tried = std::mem::replace(&mut known.served, before);
                        let at = match (&reason, &tried) {
                            (
                                FilesRefused::Covered { line, .. } | FilesRefused::Hidden { line, .. },
                                Some(tried),
                            ) => format!("{}: ", place(&tried.files, *line)),
                            _ => String::new(),
                        };
                        let reason = format!("{at}{reason}; {}", stays(known));
                        // It is nothing in the file, so what was read is tried again until it is taken.
                        known.waiting = tried.map(|served| Waiting { served, edit });
                        if known.trouble[..] != [reason.as_str()] {
                            tracing::error!("{reason}");
                            refused += 1;
                        }
                        known.trouble = vec![reason];
                    }
                }
            }
        }
        let taken = edits.len() as u64;
        for Edited { path, before, edit } in edits {
            if let Some(known) = folder.files.get_mut(&path) {
                known.trouble.clear();
                if let Some(served) = &known.served {
                    tell(&path, &served.zone, edit.as_ref());
                    tell_if_shrunken(&path, before.as_ref(), served);
                }
            }
        }
        if taken > 0 {
            self.changed.send_replace(());
        }
        (taken, refused)
    }
}

/// A file that was read, with what was served of it before, and how it differs from that.
struct Edited {
    path: PathBuf,
    before: Option<Served>,
    edit: Option<Edit>,
}

/// What is served of a file that is not taken over.
fn stays(known: &Known) -> &'static str {
    match &known.served {
        Some(_) => "the zone stays as it was",
        None => "there is no zone of it",
    }
}

fn between(before: &Zone, after: &Zone) -> Edit {
    tokio::task::block_in_place(|| Edit::between(before, after))
}

/// Says what became of a zone.
fn tell(path: &Path, zone: &Zone, edit: Option<&Edit>) {
    let (file, apex) = (path.display(), &zone.apex);
    let Some(serial) = zone.soa().map(|(soa, _)| soa.serial) else {
        return tracing::info!(%file, zone = %apex, "the record tree is read");
    };
    let Some(edit) = edit else {
        return tracing::info!(%file, zone = %apex, serial, "the zone is served");
    };
    match edit {
        Edit::Same => {}
        Edit::Step(step) => {
            let (gone, come) = step.counts();
            tracing::info!(%file, zone = %apex, serial, gone, come, "the zone is read");
        }
        Edit::Unseen { .. } => {
            tracing::warn!(%file, zone = %apex, serial, "the zone is read, and its serial did not rise: secondaries stay at what they have");
        }
    }
}

/// A half that somebody left lying is a zone too, if its lines are good.
fn tell_if_shrunken(path: &Path, before: Option<&Served>, after: &Served) {
    let (records, before) = (after.records, before.map_or(0, |before| before.records));
    if 2 * records < before {
        let (file, apex) = (path.display(), &after.zone.apex);
        tracing::warn!(%file, zone = %apex, records, before, "the zone has less than half of the records that it had: is the file whole?");
    }
}
