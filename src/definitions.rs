//! Service files: what a directory says is registered, for as long as it says so.
//!
//! Every file is read as a whole or not at all: one that cannot be read keeps what it said before, and is named with
//! the line, once for each thing that is wrong with it. The directory is looked at every second: that works where a file is
//! a link that somebody else moves, and over a network, where the kernel tells nobody.
//!
//! [`Definitions::read_changed`] makes of the files what is said, [`Definitions::carry_out`] of what is said what is registered: it
//! compares the two, so what the store has refused is asked for again, and what is as it was is left alone, a drain
//! and whatever was reported on it since included.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::access::Identity;
use crate::check::{Check, Kind};
use crate::http::Office;
use crate::instance::{Instance, Key};
use crate::protocol::{Filter, Peer};
use crate::registry::{Command, Holder, Refusal, Registration, Unlisted};
use crate::service_file::{FILE_OCTETS_MAX, Form, Wrong, read};
use crate::writer::Verdict;

/// How long a change waits to be seen, at most.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Files in the directory; more are a mistake, and cost a look each second.
const FILES_MAX: usize = 10_000;

/// What tells that a file is another one: its length, when it was written, and which it is. `None`: it is read at every look.
type Mark = Option<(u64, Option<std::time::SystemTime>, u64)>;

/// What a file says, or all of them. `None` is what one said before this server started, and is registered as it is.
type Said = BTreeMap<Key, Option<Arc<Registration>>>;

/// See the module's own words.
pub struct Definitions {
    directory: PathBuf,
    /// What stands before a path where an instance says which file it is from: several nodes may have such a file.
    prefix: String,
    office: Arc<Office>,
    files: BTreeMap<PathBuf, File>,
    /// What is registered because files said it.
    done: Said,
    /// What the last look missed of it. What the next one misses too leaves: a file that is being written may be short for a moment.
    missed: BTreeSet<Key>,
    /// Why what is said is not registered, as it was logged.
    refused: BTreeMap<Key, String>,
    /// One look may take the last instances of a service out, though it takes out several.
    allow_empty: bool,
    /// The directory was read once: what it said before this server started is known.
    looked: bool,
    /// The directory could not be read, and it was said.
    troubled: bool,
}

#[derive(Default)]
struct File {
    mark: Mark,
    says: Said,
    /// Why it says that and not what is in it, as it was logged.
    wrong: String,
}

impl Definitions {
    /// `node` names this server among others that have the same registry.
    pub fn new(directory: PathBuf, node: Option<&str>, allow_empty: bool, office: Arc<Office>) -> Self {
        Self {
            directory,
            prefix: node.map_or_else(String::new, |node| format!("{node}:")),
            office,
            files: BTreeMap::new(),
            done: BTreeMap::new(),
            missed: BTreeSet::new(),
            refused: BTreeMap::new(),
            allow_empty,
            looked: false,
            troubled: false,
        }
    }

    /// Looks again and again, after the first look, until `stop`.
    pub async fn run(mut self, stop: CancellationToken) -> io::Result<()> {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => self.look().await,
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
        if !std::mem::replace(&mut self.looked, true) {
            self.remember();
        }
        let changed = self.read_changed(found);
        if changed || !self.missed.is_empty() || !self.refused.is_empty() {
            self.carry_out().await;
        }
    }

    /// What files of this directory said before this server started, by what is registered from them.
    fn remember(&mut self) {
        let (members, _) = self.office.desk.view.list(&Filter::default(), None, usize::MAX);
        for member in members {
            if let Some(path) = member.instance.source.as_deref().and_then(|source| self.path_in(source)) {
                let key = member.instance.key.clone();
                self.files.entry(path).or_default().says.insert(key.clone(), None);
                self.done.insert(key, None);
            }
        }
    }

    /// Reads what is not as it was; true where anything may be said otherwise.
    fn read_changed(&mut self, found: BTreeMap<PathBuf, Mark>) -> bool {
        let known = self.files.len();
        self.files.retain(|path, _| found.contains_key(path));
        let mut changed = self.files.len() < known;
        let mut new: BTreeMap<PathBuf, Said> = BTreeMap::new();
        for (path, mark) in found {
            let file = self.files.entry(path.clone()).or_default();
            if mark.is_some() && file.mark == mark {
                continue;
            }
            file.mark = mark;
            match self.read(&path) {
                Ok(says) => drop(new.insert(path, says)),
                Err((wrong, again)) => self.keep(&path, wrong, again),
            }
        }
        for (path, (key, other)) in self.contested(&new) {
            new.remove(&path);
            let reason = format!("{key} is defined in {} too", other.display());
            self.keep(&path, Wrong { line: 1, reason }, true);
        }
        changed |= !new.is_empty();
        for (path, says) in new {
            let file = self.files.entry(path).or_default();
            (file.says, file.wrong) = (says, String::new());
        }
        changed
    }

    /// The file says what it said before; `again`: what is wrong may end without a change of the file.
    fn keep(&mut self, path: &Path, wrong: Wrong, again: bool) {
        let file = self.files.entry(path.to_owned()).or_default();
        if again {
            file.mark = None;
        }
        let wrong = wrong.to_string();
        if file.wrong != wrong {
            let kept = match file.says.is_empty() {
                true => "nothing of it is registered",
                false => "what the file said before stays",
            };
            tracing::error!("{}:{wrong}; {kept}", path.display());
            file.wrong = wrong;
        }
    }

    /// What the file at `path` says; else what is wrong, and whether that may end without a change of the file.
    fn read(&self, path: &Path) -> Result<Said, (Wrong, bool)> {
        let failed = |reason: String| Wrong { line: 1, reason };
        let octets = tokio::task::block_in_place(|| octets_of(path));
        let octets = octets.map_err(|error| (failed(error.to_string()), true))?;
        let text = String::from_utf8(octets);
        let text = text.map_err(|error| (failed(format!("not UTF-8: {error}")), false))?;
        let desk = &self.office.desk;
        let peer = Peer {
            host: desk.host.clone(),
            addresses: desk.addresses.clone(),
            loopback_allowed: desk.loopback_allowed,
            connection: 0,
        };
        let form = path.file_name().and_then(|name| Form::of(&name.to_string_lossy())).unwrap_or(Form::Toml);
        let source: Arc<str> = format!("{}{}", self.prefix, path.display()).into();
        let consul = |value: &serde_json::Value| self.office.service_definition(value, &peer);
        let registrations = read(&text, form, &source, &peer, consul).map_err(|wrong| (wrong, false))?;
        Ok(registrations.into_iter().map(|it| (it.key.clone(), Some(Arc::new(it)))).collect())
    }

    /// Those of the `new` files that say what another file says, with the other. Who said it before keeps it, else who is
    /// first by name; a file of which that is true is not taken, and says what it said before.
    fn contested(&self, new: &BTreeMap<PathBuf, Said>) -> BTreeMap<PathBuf, (Key, PathBuf)> {
        let mut out: BTreeMap<PathBuf, (Key, PathBuf)> = BTreeMap::new();
        loop {
            let already_out = out.len();
            let mut said_by: HashMap<&Key, &PathBuf> = HashMap::new();
            for (path, file) in &self.files {
                let says = new.get(path).filter(|_| !out.contains_key(path)).unwrap_or(&file.says);
                for key in says.keys() {
                    let Some(other) = said_by.insert(key, path) else { continue };
                    let (loser, winner) =
                        if file.says.contains_key(key) { (other, path) } else { (path, other) };
                    said_by.insert(key, winner);
                    out.entry(loser.clone()).or_insert_with(|| (key.clone(), winner.clone()));
                }
            }
            // What a file that is out said before is said again, and may be in the way of another one.
            if out.len() == already_out {
                return out;
            }
        }
    }

    /// Registers what is said and is not so yet, and deregisters what is said no more.
    async fn carry_out(&mut self) {
        self.register().await;
        let said: BTreeSet<Key> = self.files.values().flat_map(|file| file.says.keys().cloned()).collect();
        let unsaid: BTreeSet<Key> = self.done.keys().filter(|key| !said.contains(key)).cloned().collect();
        let gone = unsaid.intersection(&self.missed).cloned().collect();
        self.refused.retain(|key, _| said.contains(key) || unsaid.contains(key));
        self.missed = unsaid;
        self.deregister(gone).await;
    }

    async fn register(&mut self) {
        let mut asked = Vec::new();
        for (path, file) in &self.files {
            for (key, said) in &file.says {
                let Some(said) = said else { continue };
                let before = self.done.get(key).and_then(Option::as_deref);
                if before == Some(said.as_ref()) {
                    continue;
                }
                let here = self.office.desk.view.member(key).map(|member| member.instance);
                if before.is_none() && here.as_ref().is_some_and(|here| said.describes(here)) {
                    self.done.insert(key.clone(), Some(said.clone()));
                    continue;
                }
                let mut news = news(said, before, here.as_deref());
                let mut lease_id = [0; 8];
                if let Err(error) = (self.office.desk.chance)(&mut lease_id) {
                    tracing::error!(%error, "no random octets from the kernel; asked for again");
                    return;
                }
                news.lease_id = u64::from_be_bytes(lease_id);
                asked.push((key.clone(), Command::Register(Box::new(news)), path.clone()));
            }
        }
        for (key, path, verdict) in self.ask(asked).await {
            match verdict {
                Err(refusal) => self.refuse(key, &path, &refusal),
                Ok(_) => {
                    let said = self.files.get(&path).and_then(|file| file.says.get(&key)).cloned().flatten();
                    self.refused.remove(&key);
                    self.done.insert(key, said);
                }
            }
        }
    }

    async fn deregister(&mut self, gone: BTreeSet<Key>) {
        let view = self.office.desk.view.clone();
        // What somebody else has registered in its place is not ours to take out.
        let is_ours = |key: &&Key| {
            let source = view.member(key).and_then(|member| member.instance.source.clone());
            source.is_some_and(|source| self.path_in(&source).is_some())
        };
        let ours: BTreeSet<Key> = gone.iter().filter(is_ours).cloned().collect();
        let emptied = if self.allow_empty { BTreeSet::new() } else { view.emptied_without(&ours) };
        for service in &emptied {
            let reason = "it would have no live instance left; deregister its instances one by one, or serve with --allow-empty";
            tracing::error!(%service, reason, "no service file defines it any more, and it stays");
        }
        let leaves = |key: &Key| ours.contains(key) && !emptied.contains(&key.service);
        let (leave, stay): (Vec<Key>, Vec<Key>) = gone.into_iter().partition(leaves);
        for key in stay {
            self.missed.remove(&key);
            self.done.remove(&key);
        }
        let command = |key: Key| {
            let holder = Holder { key: key.clone(), lease_id: None };
            (key, Command::Deregister(holder), self.directory.clone())
        };
        for (key, path, verdict) in self.ask(leave.into_iter().map(command).collect()).await {
            match verdict {
                Err(refusal) => self.refuse(key, &path, &refusal),
                Ok(_) => {
                    self.refused.remove(&key);
                    self.missed.remove(&key);
                    self.done.remove(&key);
                }
            }
        }
    }

    /// Asks for all of it at once, so that the store writes it together; what has no verdict was asked for on the way down.
    async fn ask(&self, commands: Vec<(Key, Command, PathBuf)>) -> Vec<(Key, PathBuf, Verdict)> {
        let mut waiting = Vec::with_capacity(commands.len());
        for (key, command, path) in commands {
            let by = Identity::file(path.to_string_lossy().into());
            let Ok(verdict) = self.office.desk.writer.command(command, by).await else { break };
            waiting.push((key, path, verdict));
        }
        let mut verdicts = Vec::with_capacity(waiting.len());
        for (key, path, verdict) in waiting {
            let Ok(verdict) = verdict.await else { break };
            verdicts.push((key, path, verdict));
        }
        verdicts
    }

    /// It is asked for again at the next look, and said once.
    fn refuse(&mut self, key: Key, path: &Path, refusal: &Refusal) {
        let refusal = refusal.to_string();
        if self.refused.get(&key) != Some(&refusal) {
            let said = "what a service file says is refused, and asked for again";
            tracing::error!(file = %path.display(), instance = %key, %refusal, "{said}");
            self.refused.insert(key, refusal);
        }
    }

    /// The file of this directory that `source` names, if it does.
    fn path_in(&self, source: &str) -> Option<PathBuf> {
        let path = source.strip_prefix(&self.prefix).map(PathBuf::from);
        path.filter(|path| path.starts_with(&self.directory))
    }
}

/// What is asked for where a file says `said`, said `before`, and `here` is registered: what was reported since the file
/// said the same of a check stays, and the checks go that it lists no more.
fn news(said: &Registration, before: Option<&Registration>, here: Option<&Instance>) -> Registration {
    let mut news = said.clone();
    let Some(here) = here else { return news };
    for listed in &mut news.checks {
        let was_said = before.is_none_or(|before| before.checks.contains(listed));
        if was_said && here.checks.iter().any(|check| listed.is_of(check)) {
            listed.status = None;
        }
    }
    let goes = |check: &&Check| match before {
        Some(before) => before.checks.iter().any(|listed| listed.id == check.id),
        None => check.definition.kind != Kind::Reported,
    };
    let gone = said.unlisted_of(here).filter(goes).map(|check| check.id.clone());
    news.unlisted = Unlisted::TheseGo(gone.collect());
    news
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
        let mark = match std::fs::metadata(&path) {
            Ok(metadata) if !metadata.is_file() => continue,
            Ok(metadata) => Some((metadata.len(), metadata.modified().ok(), metadata.ino())),
            // A link to what is away at the moment is a file that cannot be read; what is gone itself is gone.
            Err(_) if path.is_symlink() => None,
            Err(_) => continue,
        };
        found.insert(path, mark);
        if found.len() > FILES_MAX {
            return Err(io::Error::other(format!("more than {FILES_MAX} files")));
        }
    }
    Ok(found)
}

/// What the file holds; one octet more than a service file may have where it is too long.
fn octets_of(path: &Path) -> io::Result<Vec<u8>> {
    let mut octets = Vec::new();
    std::fs::File::open(path)?.take(FILE_OCTETS_MAX as u64 + 1).read_to_end(&mut octets)?;
    Ok(octets)
}
