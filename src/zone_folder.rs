//! Zone files on the disk: each read with all that it includes, and what is wrong with it, by file and line.
//!
//! What a file includes is found from the folder of the file that includes it, and lies in the folder of the zone file or
//! below it. The zone file itself may be a link that leads out of there; a server does not repeat what such a file says. So
//! who may write into that folder has no other file of this machine shown in a complaint.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use nix::libc::{O_NOCTTY, O_NOFOLLOW, O_NONBLOCK};

use crate::name::Name;
use crate::zone::{Kind, Zone, ZoneWarning};
use crate::zone_file::{ERRORS_MAX, FILE_OCTETS_MAX, Files, Included, advice, read_all};

/// Zones of one folder. With more of them, a look at all files each second costs as much as answering.
const ZONES_MAX: usize = 10_000;

/// What tells that a file is another one, or may be read where it could not be; none where it is not there.
pub type Mark = Option<Seen>;

/// A file as it was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    octets: u64,
    written: Option<SystemTime>,
    /// When it, its owner or its mode was changed: seconds and nanoseconds.
    changed: (i64, i64),
    inode: u64,
}

impl Seen {
    /// True where it is the same file, and somebody has written into it since.
    pub fn is_rewritten(&self, before: &Self) -> bool {
        self.inode == before.inode && (self.octets, self.written) != (before.octets, before.written)
    }
}

/// One thing that is wrong, or should be known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    pub file: String,
    pub line: usize,
    pub reason: String,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.reason)
    }
}

/// A zone file as it was read.
#[derive(Debug)]
pub struct Loaded {
    /// None where something is wrong.
    pub zone: Option<Arc<Zone>>,
    /// Empty where there is a zone.
    pub errors: Vec<Complaint>,
    pub warnings: Vec<Complaint>,
    pub records: usize,
    pub files: Files,
    /// Every file that it was made from or that it names, as it was before it was read.
    pub marks: BTreeMap<PathBuf, Mark>,
    /// The file is a link to somewhere else than its folder or below: who may write into that folder may not read it.
    pub is_foreign: bool,
}

impl Loaded {
    /// A file that is refused without a look into it.
    pub fn refused(path: &Path, reason: String) -> Self {
        let errors = vec![Complaint { file: path.display().to_string(), line: 1, reason }];
        let marks = BTreeMap::from([(path.to_owned(), mark(path))]);
        let (warnings, files) = Default::default();
        Self { zone: None, errors, warnings, records: 0, files, marks, is_foreign: false }
    }

    /// The same for whoever reads a server's log and status: of a file that is foreign, complaints say the line alone.
    pub fn discreet(mut self) -> Self {
        if self.is_foreign {
            for complaint in self.errors.iter_mut().chain(&mut self.warnings) {
                complaint.reason = FOREIGN.to_owned();
            }
        }
        self
    }
}

/// What is said in the place of a complaint that might repeat a text.
const FOREIGN: &str = "something is wrong here, and not shown, for the file is a link that leads out of its folder; \
    `callsign zone check` says what";

/// The zone files of a folder, in order.
///
/// # Errors
///
/// The folder cannot be read, or has more than 10,000.
pub fn files_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        // A hidden one is an editor's, or a link's target.
        let is_hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if !is_hidden && path.extension().is_some_and(|extension| extension == "zone") {
            paths.push(path);
        }
        if paths.len() > ZONES_MAX {
            return Err(io::Error::other(format!("more than {ZONES_MAX} zone files")));
        }
    }
    paths.sort();
    Ok(paths)
}

/// The name of the zone that a file is of: that of the file, without `.zone`.
///
/// # Errors
///
/// It is no name.
pub fn apex_of(path: &Path) -> Result<Name, String> {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    Name::parse(&stem)
        .map_err(|error| format!("the file's name is the zone's, and `{stem}` is none: {error}"))
}

pub fn mark(path: &Path) -> Mark {
    let about = std::fs::metadata(path).ok()?;
    Some(Seen {
        octets: about.len(),
        written: about.modified().ok(),
        changed: (about.ctime(), about.ctime_nsec()),
        inode: about.ino(),
    })
}

/// Reads a zone file. Everything that is wrong with it is said, as far as it can be told.
pub fn load(path: &Path, apex: &Name, kind: Kind) -> Loaded {
    let mut marks = BTreeMap::from([(path.to_owned(), mark(path))]);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let found = real(path).and_then(|at| Ok((text_of(&at)?, !at.starts_with(real(folder)?))));
    let (text, is_foreign) = match found {
        Ok(found) => found,
        Err(reason) => return Loaded { marks, ..Loaded::refused(path, reason) },
    };
    let shown = path.display().to_string();
    let mut fetch = |written: &str, within: &str| {
        let from = Path::new(within).parent().unwrap_or(Path::new(""));
        let path = from.join(written);
        // As it is written too: it may be a link that comes to lead elsewhere, and what is not there may come.
        marks.entry(path.clone()).or_insert_with(|| mark(&path));
        let included = included(folder, &path)?;
        marks.entry(included.clone()).or_insert_with(|| mark(&included));
        let text = text_of(&included)?;
        Ok(Included { name: included.display().to_string(), text })
    };
    let mut reading = read_all(&shown, &text, apex, &mut fetch);
    let place = |line: usize, reason: String| {
        let (file, line) = reading.files.place(line);
        Complaint { file: file.to_owned(), line, reason }
    };
    let mut warnings: Vec<Complaint> = Vec::new();
    let mut errors: Vec<Complaint> = Vec::new();
    let mut warn = |told: Vec<ZoneWarning>| {
        warnings.extend(told.into_iter().map(|warning| place(warning.line, warning.reason)));
    };
    warn(std::mem::take(&mut reading.warnings));
    errors.extend(reading.errors.drain(..).map(|error| place(error.line, error.reason)));
    let records = reading.records.len();
    let mut zone = None;
    // Where records are missing, everything else may only follow from that.
    if errors.is_empty() {
        let (built, told, wrong) = Zone::build(apex.clone(), kind, reading.records, ERRORS_MAX);
        warn(told);
        errors.extend(wrong.into_iter().map(|error| place(error.line, error.reason)));
        if errors.is_empty() {
            warn(advice(&built));
            zone = Some(Arc::new(built));
        }
    }
    Loaded { zone, errors, warnings, records, files: reading.files, marks, is_foreign }
}

/// The file that is included as `path`, which has to be in `folder`.
fn included(folder: &Path, path: &Path) -> Result<PathBuf, String> {
    let (root, real) = (real(folder)?, real(path)?);
    let below = real
        .strip_prefix(&root)
        .map_err(|_| "it is not in the folder of the zone file, nor below it; put it there".to_owned())?;
    Ok(folder.join(below))
}

/// Where a file is, links followed.
fn real(path: &Path) -> Result<PathBuf, String> {
    path.canonicalize().map_err(|error| error.to_string())
}

/// What is in a file that no link leads to. Whatever somebody puts in its place meanwhile, this does not wait.
fn text_of(path: &Path) -> Result<Vec<u8>, String> {
    let mut options = OpenOptions::new();
    // A pipe that nobody writes into would be waited for.
    options.read(true).custom_flags(O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
    let file = options.open(path).map_err(|error| error.to_string())?;
    // A pipe would never end, and a device say anything.
    if !file.metadata().map_err(|error| error.to_string())?.is_file() {
        return Err("it is no file".to_owned());
    }
    let mut text = Vec::new();
    file.take(FILE_OCTETS_MAX as u64 + 1).read_to_end(&mut text).map_err(|error| error.to_string())?;
    match text.len() > FILE_OCTETS_MAX {
        true => Err(format!("it is longer than {FILE_OCTETS_MAX} octets, which a zone may have")),
        false => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn complaints(loaded: &Loaded) -> Vec<String> {
        loaded.errors.iter().map(|complaint| format!("{}: {}", complaint.line, complaint.reason)).collect()
    }

    #[test]
    fn what_is_included_lies_beside_the_zone_file_or_below_it() {
        let outer = tempfile::tempdir().unwrap();
        let folder = outer.path().join("zones");
        std::fs::create_dir_all(folder.join("parts/more")).unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
        std::fs::write(outer.path().join("secret"), "root:x:0:0\n").unwrap();
        std::os::unix::fs::symlink("../secret", folder.join("link")).unwrap();
        write("parts/a", "a A 10.0.0.1\n$INCLUDE more/b\n$INCLUDE ../c\n");
        write("parts/more/b", "b A 10.0.0.2\n");
        write("c", "c A 10.0.0.3\n");
        let soa = "$TTL 60\n@ SOA c h 1 2 3 4 5\n@ NS c\n";
        let path = folder.join("corp.test.zone");
        let load = |rest: &str| {
            std::fs::write(&path, format!("{soa}{rest}")).unwrap();
            load(&path, &apex_of(&path).unwrap(), Kind::Primary)
        };
        let loaded = load("$INCLUDE parts/a\n");
        assert_eq!(complaints(&loaded), [""; 0]);
        assert_eq!((loaded.records, loaded.marks.len()), (5, 5));
        let places: Vec<_> = loaded.marks.keys().filter_map(|path| path.strip_prefix(&folder).ok()).collect();
        let expected = ["c", "corp.test.zone", "parts/../c", "parts/a", "parts/more/b"];
        assert_eq!(places, expected.map(Path::new), "the last of them as it is written, too");
        let outside = "it is not in the folder of the zone file, nor below it; put it there";
        for (include, reason) in [
            ("../secret", outside),
            ("link", outside),
            ("/etc/passwd", outside),
            ("parts", "it is no file"),
            ("none", "No such file or directory (os error 2)"),
            ("corp.test.zone", "the file includes itself"),
        ] {
            let loaded = load(&format!("$INCLUDE {include}\n"));
            assert_eq!(complaints(&loaded), [format!("4: including {include}: {reason}")]);
            assert!(loaded.zone.is_none());
            assert!(loaded.marks.contains_key(&folder.join(include)), "it may come: {include}");
        }
    }

    #[test]
    fn a_link_that_leads_out_of_the_folder_is_read_and_not_repeated() {
        let outer = tempfile::tempdir().unwrap();
        let folder = outer.path().join("zones");
        std::fs::create_dir_all(folder.join(".v1")).unwrap();
        let path = folder.join("corp.test.zone");
        let load = |target: &str, text: &str| {
            std::fs::write(folder.join(target), text).unwrap();
            drop(std::fs::remove_file(&path));
            std::os::unix::fs::symlink(target, &path).unwrap();
            load_gone(&path).discreet()
        };
        let good = "$TTL 60\n@ SOA a h 1 2 3 4 5\n@ NS a\na A 10.0.0.1\n";
        assert!(load("../outside", good).zone.is_some());
        let secret = "root:x:0 0 secret\n";
        let within = load(".v1/corp", secret);
        assert!(complaints(&within).concat().contains("`secret` is no record type"), "{within:?}");
        let loaded = load("../outside", secret);
        assert_eq!(complaints(&loaded), [format!("1: {FOREIGN}")]);
        let loaded = load("../outside", &format!("{good}secret MX 10 secret\n"));
        let warned: Vec<&str> = loaded.warnings.iter().map(|warning| warning.reason.as_str()).collect();
        assert_eq!((loaded.zone.is_some(), warned), (true, vec![FOREIGN]));
    }

    /// A pipe in the place of a file is refused and never waited for, at whatever moment it comes there.
    #[test]
    fn a_pipe_is_no_file() {
        const EACH: usize = 10_000;
        const FLIPS_MAX: usize = 1_000_000;
        let folder = tempfile::tempdir().unwrap();
        let [path, file, pipe] = ["corp.test.zone", "file", "pipe"].map(|name| folder.path().join(name));
        std::fs::write(&file, "x").unwrap();
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::fs::hard_link(&pipe, &path).unwrap();
        assert_eq!(complaints(&load_gone(&path)), ["1: it is no file"]);
        let read = path.clone();
        let reader = std::thread::spawn(move || {
            let mut counts = [0; 2];
            while counts.iter().any(|count| *count < EACH) {
                counts[usize::from(text_of(&read).is_ok())] += 1;
            }
        });
        // What waits does so for ever.
        let is_read = (0..FLIPS_MAX).any(|_| {
            for other in [&file, &pipe] {
                let new = folder.path().join("new");
                std::fs::hard_link(other, &new).unwrap();
                std::fs::rename(new, &path).unwrap();
            }
            reader.is_finished()
        });
        assert!(is_read);
        reader.join().unwrap();
    }

    #[test]
    fn a_file_that_may_be_read_now_is_another_one() {
        const TRIES_MAX: u32 = 1_000_000;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("corp.test.zone");
        std::fs::write(&path, "").unwrap();
        let before = mark(&path);
        // The kernel's clock stands still for some milliseconds.
        let is_seen = (0..TRIES_MAX).any(|number| {
            let mode = Permissions::from_mode(0o600 + number % 2 * 0o044);
            std::fs::set_permissions(&path, mode).unwrap();
            mark(&path) != before
        });
        assert!(is_seen);
    }

    #[test]
    fn every_mistake_of_a_zone_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("corp.test.zone");
        std::fs::write(&path, "@ 60 SOA a h 1 2 3 4 5\na A 10.0.0.1\na CNAME b\nx.example. A 10.0.0.1\n")
            .unwrap();
        let loaded = load(&path, &apex_of(&path).unwrap(), Kind::Primary);
        assert_eq!(
            complaints(&loaded),
            [
                "3: a.corp.test. has a CNAME and other data",
                "4: x.example. is not within the zone corp.test.",
                "4: the file ends without a record NS at corp.test.",
            ]
        );
        assert!(
            loaded.errors[0]
                .to_string()
                .ends_with("corp.test.zone:3: a.corp.test. has a CNAME and other data")
        );
        std::fs::remove_file(&path).unwrap();
        assert_eq!(complaints(&load_gone(&path)), ["1: No such file or directory (os error 2)"]);
    }

    fn load_gone(path: &Path) -> Loaded {
        load(path, &apex_of(path).unwrap(), Kind::Primary)
    }
}
