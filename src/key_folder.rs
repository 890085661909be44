//! The folder of the keys that zones are signed with: two files for each, which only their owner reads.
//!
//! The server reads it, and `callsign dnssec` writes it, on the machine itself: no secret goes over a socket. A file comes
//! whole into its place, the public one first, so that whoever looks meanwhile finds a pair or none.

use std::fs::{self, DirBuilder, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use ring::rand::SystemRandom;

use crate::name::Name;
use crate::owner::{begin, give};
use crate::sign::key_file::{self, FILE_OCTETS_MAX, PRIVATE, PUBLIC};
use crate::sign::{KEYS_MAX, Key, Stage, Times, draw};

/// The folder beside the store, where the configuration names no other.
pub const BESIDE_STORE: &str = "dnssec";
/// Keys of all zones, those that are gone among them: the files are looked through at every change.
const FILES_MAX: usize = 256;

/// A key and where it lies.
#[derive(Clone, Debug)]
pub struct Kept {
    /// The path of both files, without their ends.
    stem: PathBuf,
    pub key: Arc<Key>,
}

/// Every key in the folder, by file name; none where there is no such folder.
///
/// # Errors
///
/// The folder or a file cannot be read, others may read a secret, or what is in a file is no key.
pub fn read(folder: &Path) -> Result<Vec<Kept>> {
    let mut keys = Vec::new();
    for stem in stems(folder)? {
        let [public, private] = [PUBLIC, PRIVATE].map(|end| with_end(&stem, end));
        let about = fs::metadata(&private).with_context(|| format!("reading {}", private.display()))?;
        if about.permissions().mode() & 0o007 != 0 {
            let file = private.display();
            bail!("{file}: everybody on this machine may read or change this key; `chmod o= {file}`");
        }
        let key = key_file::read(&text_of(&public)?, &text_of(&private)?, &SystemRandom::new());
        let key = key.map_err(|error| anyhow::anyhow!("{}{error}", stem.display()))?;
        keys.push(Kept { stem, key: Arc::new(key) });
    }
    Ok(keys)
}

/// What tells whether a file is another one than before.
pub type Marks = Vec<(PathBuf, Option<(SystemTime, u64)>)>;

/// # Errors
///
/// The folder cannot be read.
pub fn marks(folder: &Path) -> Result<Marks> {
    let files = stems(folder)?.into_iter().flat_map(|stem| [PUBLIC, PRIVATE].map(|end| with_end(&stem, end)));
    let mark = |path: &PathBuf| {
        let about = fs::metadata(path).ok()?;
        Some((about.modified().ok()?, about.ino()))
    };
    Ok(files.map(|path| (path.clone(), mark(&path))).collect())
}

/// The names of the private files, without their ends, in order.
fn stems(folder: &Path) -> Result<Vec<PathBuf>> {
    let shown = folder.display();
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("reading the keys in {shown}")),
    };
    let mut stems = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("reading the keys in {shown}"))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if let Some(stem) = name.strip_suffix(&format!(".{PRIVATE}")).filter(|stem| stem.starts_with('K')) {
            stems.push(folder.join(stem));
        }
    }
    if stems.len() > FILES_MAX {
        bail!("{shown} has {} keys, and there may be {FILES_MAX}; take out those that are gone", stems.len());
    }
    stems.sort();
    Ok(stems)
}

fn with_end(stem: &Path, end: &str) -> PathBuf {
    let mut path = stem.as_os_str().to_owned();
    path.push(format!(".{end}"));
    path.into()
}

fn text_of(path: &Path) -> Result<String> {
    let file = File::open(path).with_context(|| format!("reading {}", path.display()))?;
    let mut text = String::new();
    let read = file.take(FILE_OCTETS_MAX + 1).read_to_string(&mut text);
    read.with_context(|| format!("reading {}", path.display()))?;
    if text.len() as u64 > FILE_OCTETS_MAX {
        bail!("{}: a file of a key may have {FILE_OCTETS_MAX} octets", path.display());
    }
    Ok(text)
}

/// Makes a key for the zone and puts it into the folder, which is made where it is not there.
///
/// # Errors
///
/// It cannot be written, or there are too many.
pub fn add(folder: &Path, apex: &Name, times: Times) -> Result<Kept> {
    make(folder)?;
    let known = read(folder)?;
    let of_zone = known.iter().filter(|kept| kept.key.apex == *apex);
    let there = of_zone.filter(|kept| kept.key.times.stage(times.created) != Stage::Gone).count();
    if there >= KEYS_MAX {
        bail!("{apex} has {there} keys, and there may be {KEYS_MAX}");
    }
    let random = SystemRandom::new();
    loop {
        let (secret, public) = draw(&random)?;
        let key = Key::new(apex, times, &secret, &public, &random)?;
        let stem = folder.join(key_file::stem(&key));
        // The tag is part of the name: one in 65,536 is there already.
        if known.iter().any(|kept| kept.stem == stem) {
            continue;
        }
        put(&with_end(&stem, PUBLIC), &key_file::public_text(&key), 0o644)?;
        put(&with_end(&stem, PRIVATE), &key_file::private_text(&secret, &times), 0o600)?;
        return Ok(Kept { stem, key: Arc::new(key) });
    }
}

/// Gives a key other times.
///
/// # Errors
///
/// The file cannot be read or written.
pub fn set_times(kept: &Kept, times: &Times) -> Result<()> {
    let path = with_end(&kept.stem, PRIVATE);
    put(&path, &key_file::with_times(&text_of(&path)?, times), 0o600)
}

fn make(folder: &Path) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => {
            let above = folder.parent().unwrap_or(folder);
            give(&File::open(folder)?, above).context("giving a folder to the owner of the one above it")
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error)
            .with_context(|| format!("making {}: the directory above it has to be there", folder.display())),
    }
}

/// Writes a file beside its place, and moves it there.
fn put(path: &Path, text: &str, mode: u32) -> Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let writing = || -> std::io::Result<()> {
        let mut file = begin(&new, mode)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        give(&file, path.parent().unwrap_or(path))?;
        fs::rename(&new, path)
    };
    writing().with_context(|| format!("writing {}", path.display()))
}
