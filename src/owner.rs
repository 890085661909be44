//! Whose a file is that root makes for a server which is not root.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::Path;

/// A new file in the place of whatever an earlier run has left there, or somebody has put there.
///
/// # Errors
///
/// The file system refuses.
pub fn begin(path: &Path, mode: u32) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    File::options().create_new(true).read(true).write(true).mode(mode).open(path)
}

/// Gives what root has made in `directory` to whoever that belongs to: the server's user reads it. `file` was opened without
/// following a link: in a directory of somebody else's that leads wherever he likes, and so does a second name of a file.
///
/// # Errors
///
/// The directory cannot be looked at, the file has several names, or the kernel refuses.
pub fn give(file: &File, directory: &Path) -> io::Result<()> {
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let (wanted, about) = (fs::metadata(directory)?, file.metadata()?);
    let is_given = (wanted.uid(), wanted.gid()) == (about.uid(), about.gid());
    if is_given || wanted.uid() == 0 || !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    if about.is_file() && about.nlink() > 1 {
        return Err(io::Error::other("it has several names, and may be somebody else's"));
    }
    fchown(file, Some(wanted.uid()), Some(wanted.gid()))
}
