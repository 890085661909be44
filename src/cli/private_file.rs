//! A file for its owner alone, which has its name only once it is whole: an export, or a backup.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::{FAILED, Failure, output};

/// What leases are renewed with is in it, and hashes of tokens: nobody else's to read.
const MODE: u32 = 0o600;

/// A file on its way. Until it is whole it has `.new` behind its name; dropped before that, it takes itself away.
pub struct PrivateFile<'a> {
    path: &'a Path,
    new: PathBuf,
}

impl<'a> PrivateFile<'a> {
    pub fn at(path: &'a Path) -> Self {
        let mut new = path.as_os_str().to_owned();
        new.push(".new");
        Self { path, new: PathBuf::from(new) }
    }

    /// An empty one, also after another one was begun.
    pub fn begin(&self) -> Result<BufWriter<File>, Failure> {
        drop(fs::remove_file(&self.new)); // what was left behind when one was ended may have another mode
        let file = File::options().create_new(true).write(true).mode(MODE).open(&self.new);
        file.map(BufWriter::new).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
                let folder = folder.unwrap_or(Path::new(".")).display();
                let path = self.path.display();
                Failure::new(FAILED, format!("writing {path}: the folder {folder} is not there"))
            }
            _ => self.failed(&error),
        })
    }

    /// All of it is written, and on the disk.
    pub fn sync(&self, mut file: BufWriter<File>) -> Result<(), Failure> {
        file.flush().and_then(|()| file.get_ref().sync_all()).map_err(|error| self.failed(&error))
    }

    /// Gives it its name, whoever had that, and says what it holds.
    pub fn put(self, holds: &str) -> Result<(), Failure> {
        let replaced = match fs::symlink_metadata(self.path) {
            Ok(_) => "; the one that was there is replaced",
            Err(_) => "",
        };
        fs::rename(&self.new, self.path).map_err(|error| self.failed(&error))?;
        output::line(&format!("{}: {holds}{replaced}", self.path.display()))
    }

    pub fn failed(&self, error: &io::Error) -> Failure {
        Failure::new(FAILED, format!("writing {}: {error}", self.path.display()))
    }
}

impl Drop for PrivateFile<'_> {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.new)); // half of it is none; where it is whole, there is none of this name
    }
}
