//! Service files: what a directory says is registered, for as long as it says so.
//!
//! Every file is read as a whole or not at all: one that cannot be read keeps what it said before, and is named with
//! the line, once for each time it changes. What a file no longer says is deregistered, and so is, at the start, what a
//! file said that has gone meanwhile. The directory is looked at every second: that works where a file is
//! a link that somebody else moves, and over a network, where the kernel tells nobody.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::access::Identity;
use crate::http::Office;
use crate::instance::Key;
use crate::protocol::{Filter, Peer};
use crate::registry::{Command, Holder, Registration};
use crate::service_file::{FILE_OCTETS_MAX, Form, Wrong, read};

/// How long a change waits to be seen, at most.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Files in the directory; more are a mistake, and cost a look each second.
const FILES_MAX: usize = 10_000;

/// What tells that a file is another one: its length, when it was written, and which it is.
type Mark = (u64, Option<std::time::SystemTime>, u64);

/// See the module's own words.
pub struct Definitions {
    directory: PathBuf,
    office: Arc<Office>,
    files: BTreeMap<PathBuf, File>,
    /// The directory was read once: what it said before this server started is known.
    looked: bool,
    /// One look may take the last instances of a service out, though it takes out several.
    allow_empty: bool,
    /// The directory could not be read, and it was said.
    troubled: bool,
}

struct File {
    mark: Mark,
    /// What it says that is registered.
    keys: BTreeSet<Key>,
}

impl Definitions {
    pub fn new(directory: PathBuf, allow_empty: bool, office: Arc<Office>) -> Self {
        Self { directory, office, files: BTreeMap::new(), looked: false, allow_empty, troubled: false }
    }

    /// Looks again and again, until `stop`.
    pub async fn run(mut self, stop: CancellationToken) -> io::Result<()> {
        loop {
            self.look().await;
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    /// One look at the directory; what changed is registered when it returns.
    pub async fn look(&mut self) {
        let directory = self.directory.clone();
        // Disks wait; others on this thread go on meanwhile.
        let found = match tokio::task::block_in_place(|| files_in(&directory)) {
            Ok(found) => found,
            Err(error) => {
                if !std::mem::replace(&mut self.troubled, true) {
                    tracing::error!(directory = %directory.display(), %error, "reading the service files; what they said before stays");
                }
                return;
            }
        };
        self.troubled = false;
        let first = !std::mem::replace(&mut self.looked, true);
        let mut gone = BTreeSet::new();
        self.files.retain(|path, file| {
            let stays = found.contains_key(path);
            if !stays {
                gone.extend(std::mem::take(&mut file.keys));
            }
            stays
        });
        for (path, mark) in found {
            if self.files.get(&path).is_some_and(|known| known.mark == mark) {
                continue;
            }
            let before = self.files.get(&path).map(|known| known.keys.clone()).unwrap_or_default();
            let keys = match self.read(&path) {
                Ok(registrations) => {
                    let keys: BTreeSet<Key> = registrations.iter().map(|it| it.key.clone()).collect();
                    self.register(&path, registrations).await;
                    gone.extend(before.difference(&keys).cloned());
                    keys
                }
                Err(wrong) => {
                    tracing::error!("{}:{wrong}; what the file said before stays", path.display());
                    if self.files.contains_key(&path) { before } else { self.said_before(&path) }
                }
            };
            self.files.insert(path, File { mark, keys });
        }
        if first {
            gone.extend(self.left_over());
        }
        let said: BTreeSet<&Key> = self.files.values().flat_map(|file| &file.keys).collect();
        gone.retain(|key| !said.contains(key));
        let emptied = match self.allow_empty {
            true => BTreeSet::new(),
            false => self.office.desk.view.emptied_without(&gone),
        };
        for service in &emptied {
            let reason = "it would have no live instance left; deregister its instances one by one, or serve with --allow-empty";
            tracing::error!(%service, reason, "no service file defines it any more, and it stays");
        }
        for key in gone.into_iter().filter(|key| !emptied.contains(&key.service)) {
            let command = Command::Deregister(Holder { key, lease_id: None });
            self.carry_out(command, &self.directory).await;
        }
    }

    fn read(&self, path: &Path) -> Result<Vec<Registration>, Wrong> {
        let failed = |reason: String| Wrong { line: 1, reason };
        let form = path.file_name().and_then(|name| Form::of(&name.to_string_lossy())).unwrap_or(Form::Toml);
        let text =
            tokio::task::block_in_place(|| std::fs::read(path)).map_err(|error| failed(error.to_string()))?;
        let text = String::from_utf8(text).map_err(|error| failed(format!("not UTF-8: {error}")))?;
        let desk = &self.office.desk;
        let peer = Peer {
            host: desk.host.clone(),
            addresses: desk.addresses.clone(),
            loopback_allowed: desk.loopback_allowed,
            connection: 0,
        };
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| failed(error.to_string()))?;
        let mut lease_ids = u64::from_be_bytes(random);
        let source: Arc<str> = path.to_string_lossy().into();
        let registrations = read(
            &text,
            form,
            &source,
            &peer,
            || {
                lease_ids = lease_ids.wrapping_add(1);
                lease_ids
            },
            |value| self.office.service_definition(value, &peer),
        )?;
        for registration in &registrations {
            let elsewhere = |(other, file): (&PathBuf, &File)| {
                (other != path && file.keys.contains(&registration.key)).then(|| other.display().to_string())
            };
            if let Some(other) = self.files.iter().find_map(elsewhere) {
                return Err(failed(format!("{} is defined in {other} too", registration.key)));
            }
        }
        Ok(registrations)
    }

    async fn register(&self, path: &Path, registrations: Vec<Registration>) {
        for registration in registrations {
            self.carry_out(Command::Register(Box::new(registration)), path).await;
        }
    }

    /// A store that refuses is asked again when the file changes, and with the next start; it says so itself.
    async fn carry_out(&self, command: Command, path: &Path) {
        let by = Identity::file(path.to_string_lossy().into());
        let verdict = match self.office.desk.writer.command(command, by).await {
            Ok(verdict) => verdict.await,
            Err(_) => return, // on the way down
        };
        if let Ok(Err(refusal)) = verdict {
            tracing::error!(file = %path.display(), %refusal, "a service file's registration is refused");
        }
    }

    /// What a file said before this server started.
    fn said_before(&self, path: &Path) -> BTreeSet<Key> {
        let path = path.to_string_lossy();
        self.by_file().remove(&*path).unwrap_or_default()
    }

    /// What files said that are not here any more.
    fn left_over(&self) -> Vec<Key> {
        let here: BTreeSet<String> =
            self.files.keys().map(|path| path.to_string_lossy().into_owned()).collect();
        let gone = self.by_file().into_iter().filter(|(source, _)| !here.contains(source));
        gone.flat_map(|(_, keys)| keys).collect()
    }

    /// Everything that is registered from a file of this directory, by its path.
    fn by_file(&self) -> HashMap<String, BTreeSet<Key>> {
        let mut found: HashMap<String, BTreeSet<Key>> = HashMap::new();
        let (members, _) = self.office.desk.view.list(&Filter::default(), None, usize::MAX);
        for member in members {
            if let Some(source) = &member.instance.source
                && Path::new(&**source).starts_with(&self.directory)
            {
                found.entry(source.to_string()).or_default().insert(member.instance.key.clone());
            }
        }
        found
    }
}

/// Every service file of the directory, with its mark.
fn files_in(directory: &Path) -> io::Result<BTreeMap<PathBuf, Mark>> {
    use std::os::unix::fs::MetadataExt;
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // A hidden one is an editor's, or a link's target.
        if name.starts_with('.') || Form::of(&name).is_none() {
            continue;
        }
        // One that goes away between the two looks has gone.
        let Ok(metadata) = std::fs::metadata(&path) else { continue };
        if !metadata.is_file() || metadata.len() > FILE_OCTETS_MAX as u64 {
            let reason = "no file, or longer than a service file may be";
            tracing::debug!(file = %path.display(), reason, "left out");
            continue;
        }
        found.insert(path, (metadata.len(), metadata.modified().ok(), metadata.ino()));
        if found.len() > FILES_MAX {
            return Err(io::Error::other(format!("more than {FILES_MAX} files")));
        }
    }
    Ok(found)
}
