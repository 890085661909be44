//! The files of static zones and record trees: read at the start, and again when they change or SIGHUP says so.
//!
//! A file is taken over as a whole or not at all: one with a mistake leaves its zone as it is, which is said in the log,
//! in `callsign status` and by a metric, until it is mended. All that a look finds good is served from one moment on. A
//! file that goes away leaves its zone served until the next start: a folder that is not mounted must empty no answer.
//!
//! The folder is looked at each second: that works where a file is a link that somebody else moves, and over a network,
//! where the kernel tells nobody. A file has to stay as it is from one look to the next before it is read, and for some more
//! where it is written in place, for somebody may be in the middle of it; SIGHUP has everything read at once. A half whose
//! lines are all good cannot be told from a whole: BIND, Knot and NSD read a file only when they are told to, and CoreDNS
//! when its serial is another one, which stands at the top of the half too.

mod keeper;
mod resting;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};

pub use self::keeper::hangups;
use self::resting::{Coming, LOOKS_RESTLESS, RESTLESS, is_as_rested};
use crate::config::Config;
use crate::dns::transfer::steps::Edit;
use crate::grammar::reverse;
use crate::name::{Name, ServiceName};
use crate::view::Zones;
use crate::zone::{Kind, Zone};
use crate::zone_file::Files;
use crate::zone_folder::{Complaint, Loaded, Mark, apex_of, files_in, load, mark};

/// Troubles that the status names; the log has all of them.
const TROUBLES_MAX: usize = 100;

/// Every zone file of the folder, and what became of it.
pub struct Folder {
    path: PathBuf,
    rules: Rules,
    files: BTreeMap<PathBuf, Known>,
    /// Why the folder itself could not be read, said once.
    trouble: Option<String>,
}

/// Which names a file may be of.
struct Rules {
    domains: Vec<Name>,
    consul: Option<Name>,
    reverse: Vec<ipnet::IpNet>,
}

/// One zone file.
#[derive(Default)]
struct Known {
    /// The files that it was made from, as they were when it was read last.
    marks: BTreeMap<PathBuf, Mark>,
    coming: Option<Coming>,
    served: Option<Served>,
    /// What was read, and may be served once others have let go of its names.
    waiting: Option<Waiting>,
    /// The file that has its zone; it is not read meanwhile.
    twin: Option<PathBuf>,
    /// Why what is there now is not served.
    trouble: Vec<String>,
}

/// A file that is to be read.
struct Due<'a> {
    path: &'a PathBuf,
    /// Where not, it is none because another has its zone, and read if that has gone.
    has_changed: bool,
    /// None where it is read as it is.
    rested: Option<Coming>,
}

#[derive(Clone)]
struct Served {
    zone: Arc<Zone>,
    records: usize,
    /// The files that it was made from.
    files: Files,
    /// Of a record tree.
    taken: HashMap<ServiceName, Box<str>>,
}

struct Waiting {
    served: Served,
    edit: Option<Edit>,
}

impl Rules {
    /// What a file of this name holds.
    fn kind(&self, apex: &Name) -> Result<Kind, String> {
        if self.consul.as_ref() == Some(apex) {
            return Err(format!("{apex} is the `consul-domain`, whose names are the registry's alone"));
        }
        if reverse::read(apex).is_some_and(|(prefix, all)| all && prefix.zone(&self.reverse) == Some(prefix))
        {
            return Err(format!("{apex} is a zone of `reverse`, whose names are the registry's alone"));
        }
        Ok(if self.domains.contains(apex) { Kind::Tree } else { Kind::Primary })
    }

    /// Reads a file, or says why it is none of a zone.
    fn load(&self, path: &Path) -> Loaded {
        let read = apex_of(path).and_then(|apex| Ok((self.kind(&apex)?, apex)));
        match read {
            Ok((kind, apex)) => load(path, &apex, kind).discreet(),
            Err(reason) => Loaded::refused(path, reason),
        }
    }
}

/// Names that differ in case, or in a dot at the end, are of one zone.
fn of_twin(path: &Path, twin: &Path) -> Loaded {
    Loaded::refused(path, format!("the zone is that of {} already; take one of the two away", twin.display()))
}

impl Folder {
    /// Reads every `*.zone` file of the folder; its name is the zone's. `<apex>.zone` of a live zone is its record tree, whose
    /// names no service can have.
    ///
    /// # Errors
    ///
    /// The folder cannot be read, or one of its files: who starts a server sees it at once.
    pub fn read(path: &Path, config: &Config) -> Result<Self> {
        let shown = path.display();
        let rules = Rules {
            domains: config.domain.iter().map(|domain| domain.name().clone()).collect(),
            consul: config.consul_domain.as_ref().map(|domain| domain.name().clone()),
            reverse: config.reverse.clone(),
        };
        let (mut files, mut owners) = (BTreeMap::new(), HashMap::new());
        for file in files_in(path).with_context(|| format!("reading the zones in {shown}"))? {
            let twin = apex_of(&file).ok().and_then(|apex| owners.insert(apex, file.clone()));
            let loaded = match twin {
                Some(twin) => of_twin(&file, &twin),
                None => rules.load(&file),
            };
            if let [first, others @ ..] = &loaded.errors[..] {
                match others.len() {
                    0 => bail!("{first}"),
                    more => bail!("{first} (and {more} more; `callsign zone check {}`)", file.display()),
                }
            }
            warn(&loaded.warnings);
            let served = serve(&loaded);
            files.insert(file, Known { marks: loaded.marks, served, ..Known::default() });
        }
        Ok(Self { path: path.to_owned(), rules, files, trouble: None })
    }

    /// The zones that are served, and the services that cannot be.
    pub fn zones(&self) -> (Zones, HashMap<ServiceName, Box<str>>) {
        let (mut zones, mut taken) = (Zones::default(), HashMap::new());
        for served in self.files.values().filter_map(|known| known.served.as_ref()) {
            match served.zone.kind {
                Kind::Tree => zones.trees.push(served.zone.clone()),
                Kind::Primary => zones.primary.push(served.zone.clone()),
            }
            taken.extend(served.taken.clone());
        }
        (zones, taken)
    }

    /// Looks for files that are others than before, and reads those that have come to rest; all of them where it is
    /// `forced`.
    fn look(&mut self, forced: bool) -> Vec<(PathBuf, Loaded)> {
        let found = match files_in(&self.path) {
            Ok(found) => found,
            Err(error) => {
                let reason =
                    format!("reading the zones in {}: {error}; they stay as they are", self.path.display());
                if self.trouble.as_ref() != Some(&reason) {
                    tracing::error!("{reason}");
                }
                self.trouble = Some(reason);
                return Vec::new();
            }
        };
        self.trouble = None;
        self.files.retain(|path, known| {
            let gone = found.binary_search(path).is_err();
            if gone && known.served.is_some() && known.marks.get(path) != Some(&None) {
                let reason = format!(
                    "{}: the file is gone; its zone is served as it was until the next start",
                    path.display()
                );
                tracing::warn!("{reason}");
                known.marks = BTreeMap::from([(path.clone(), None)]);
                known.trouble = vec![reason];
                known.waiting = None;
            }
            !gone || known.served.is_some()
        });
        let mut due = Vec::new();
        for path in &found {
            let known = self.files.entry(path.clone()).or_default();
            let before = known.coming.as_ref().map_or(&known.marks, |coming| &coming.marks);
            let mut marks: BTreeMap<PathBuf, Mark> =
                before.keys().map(|path| (path.clone(), mark(path))).collect();
            marks.entry(path.clone()).or_insert_with(|| mark(path));
            if forced {
                known.coming = None;
                due.push(Due { path, has_changed: true, rested: None });
            } else if marks == known.marks {
                if known.coming.take().is_some_and(|coming| coming.is_told) {
                    known.trouble.retain(|reason| !reason.ends_with(RESTLESS));
                }
                if known.twin.is_some() {
                    due.push(Due { path, has_changed: false, rested: Some(Coming::of(marks)) });
                }
            } else if let Some(rested) = known.rested(marks) {
                due.push(Due { path, has_changed: true, rested: Some(rested) });
            } else if let Some(coming) = &mut known.coming
                && coming.looks >= LOOKS_RESTLESS
                && !coming.is_told
            {
                coming.is_told = true;
                let reason = format!("{}: {RESTLESS}", path.display());
                tracing::warn!("{reason}");
                known.trouble.push(reason);
            }
        }
        if due.is_empty() { Vec::new() } else { self.load(&found, due) }
    }

    /// Reads files of those that were found, and leaves out what was not read as it has rested.
    fn load(&mut self, found: &[PathBuf], due: Vec<Due<'_>>) -> Vec<(PathBuf, Loaded)> {
        let (mut owners, mut gone) = (HashMap::new(), HashMap::new());
        for (path, known) in &self.files {
            if let Some(served) = &known.served {
                let is_gone = found.binary_search(path).is_err();
                let of = if is_gone { &mut gone } else { &mut owners };
                of.insert(served.zone.apex.clone(), path.clone());
            }
        }
        for path in found {
            if let Ok(apex) = apex_of(path) {
                owners.entry(apex).or_insert_with(|| path.clone());
            }
        }
        let mut read = Vec::new();
        for Due { path, has_changed, rested } in due {
            let apex = apex_of(path).ok();
            let twin =
                apex.as_ref().and_then(|apex| owners.get(apex)).filter(|owner| *owner != path).cloned();
            // What was served of a file that has been named otherwise is this one's from here on.
            let before = apex.filter(|_| twin.is_none()).and_then(|apex| gone.remove(&apex));
            let before = before.and_then(|before| self.files.remove(&before)?.served);
            let Some(known) = self.files.get_mut(path) else { continue };
            known.served = before.or(known.served.take());
            if !has_changed && known.twin == twin {
                continue;
            }
            let loaded = match &twin {
                Some(twin) => of_twin(path, twin),
                None => self.rules.load(path),
            };
            known.twin = twin;
            match rested.filter(|rested| !is_as_rested(&loaded, &rested.marks)) {
                Some(rested) => known.coming = Some(rested.anew(loaded.marks)),
                None => read.push((path.clone(), loaded)),
            }
        }
        read
    }

    /// Every trouble that there is now.
    fn troubles(&self) -> Vec<Box<str>> {
        let of_files = self.files.values().flat_map(|known| &known.trouble);
        self.trouble.iter().chain(of_files).take(TROUBLES_MAX).map(|reason| reason.as_str().into()).collect()
    }
}

fn serve(loaded: &Loaded) -> Option<Served> {
    let zone = loaded.zone.clone()?;
    let place = |line: usize| place(&loaded.files, line);
    let taken = if zone.kind == Kind::Tree { zone.taken(place) } else { HashMap::new() };
    Some(Served { zone, records: loaded.records, files: loaded.files.clone(), taken })
}

fn place(files: &Files, line: usize) -> String {
    let (file, line) = files.place(line);
    format!("{file}:{line}")
}

fn warn(warnings: &[Complaint]) {
    for warning in warnings {
        tracing::warn!("{warning}");
    }
}

#[cfg(test)]
mod tests {
    use super::resting::LOOKS_IN_PLACE;
    use super::*;

    const WHOLE: &str = "$TTL 60\n@ SOA ns h 1 2 3 4 5\n@ NS ns\nns A 10.0.0.1\nwww A 10.0.0.2\n";

    fn folder(path: &Path) -> Folder {
        let rules = Rules { domains: Vec::new(), consul: None, reverse: Vec::new() };
        Folder { path: path.to_owned(), rules, files: BTreeMap::new(), trouble: None }
    }

    /// How many looks it takes until something is read, and the records of that.
    fn looks(folder: &mut Folder) -> (u32, usize) {
        let read = (1..).find_map(|looks| Some((looks, folder.look(false).pop()?.1)));
        let (looks, loaded) = read.unwrap();
        folder.files.values_mut().for_each(|known| known.marks = loaded.marks.clone());
        (looks, loaded.records)
    }

    #[test]
    fn what_is_written_in_place_rests_longer_than_what_is_put_into_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("corp.test.zone");
        let mut folder = folder(directory.path());
        let put = |text: &str| {
            let new = directory.path().join("new");
            std::fs::write(&new, text).unwrap();
            std::fs::rename(new, &path).unwrap();
        };
        put(WHOLE);
        assert_eq!(looks(&mut folder), (2, 4));
        put(&format!("{WHOLE}new A 10.0.0.3\n"));
        assert_eq!(looks(&mut folder), (2, 5));
        // A half whose lines are all good, and somebody who pauses and goes on.
        std::fs::write(&path, &WHOLE[..WHOLE.find("www").unwrap()]).unwrap();
        for _ in 0..LOOKS_IN_PLACE {
            assert!(folder.look(false).is_empty());
        }
        std::fs::write(&path, format!("{WHOLE}new A 10.0.0.4\nmore A 10.0.0.5\n")).unwrap();
        assert_eq!(looks(&mut folder), (LOOKS_IN_PLACE + 1, 6));
        // What comes while it is looked at is written in place as well.
        let other = directory.path().join("other.test.zone");
        std::fs::write(&other, "").unwrap();
        assert!(folder.look(false).is_empty());
        std::fs::write(&other, WHOLE).unwrap();
        for _ in 0..LOOKS_IN_PLACE {
            assert!(folder.look(false).is_empty());
        }
        assert_eq!(folder.look(true).len(), 2, "SIGHUP waits for nothing");
    }

    #[test]
    fn a_file_that_never_rests_is_said_to_be_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("corp.test.zone");
        let mut folder = folder(directory.path());
        for look in 1..LOOKS_RESTLESS + 3 {
            std::fs::write(&path, format!("{WHOLE}{}", "\n".repeat(look as usize % 7))).unwrap();
            assert!(folder.look(false).is_empty());
            let told = (look >= LOOKS_RESTLESS).then(|| format!("{}: {RESTLESS}", path.display()).into());
            assert_eq!(folder.troubles(), Vec::from_iter(told), "look {look}");
        }
        assert_eq!(folder.look(true).len(), 1);
    }

    /// What it includes has to rest as well, though it is not known before the file is read.
    #[test]
    fn what_is_read_is_what_has_rested() {
        let directory = tempfile::tempdir().unwrap();
        let [path, part] = ["corp.test.zone", "part"].map(|name| directory.path().join(name));
        let mut folder = folder(directory.path());
        std::fs::write(&part, "a A 10.0.0.3\n").unwrap();
        std::fs::write(&path, format!("{WHOLE}$INCLUDE part\n")).unwrap();
        assert!((0..2).all(|_| folder.look(false).is_empty()), "the part is new");
        std::fs::write(&part, "a A 10.0.0.3\nb A 10.0.0.4\n").unwrap();
        assert_eq!(looks(&mut folder), (LOOKS_IN_PLACE + 1, 6), "it is written in place");
        // Somebody writes between the look and the reading.
        std::fs::write(&part, "a A 10.0.0.3\n").unwrap();
        assert!((0..LOOKS_IN_PLACE).all(|_| folder.look(false).is_empty()));
        let rested = folder.files[&path].coming.as_ref().map(|coming| coming.marks.clone());
        std::fs::write(&part, "a A 10.0.0.3\nb A 10.0.0.4\nc A 10.0.0.5\n").unwrap();
        let due = Due { path: &path, has_changed: true, rested: rested.map(Coming::of) };
        assert!(folder.load(std::slice::from_ref(&path), vec![due]).is_empty());
        assert_eq!(looks(&mut folder), (LOOKS_IN_PLACE, 7));
    }
}
