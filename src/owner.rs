//! Whose a file is that root makes for a server which is not root.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::Path;

/// Gives what root has made in `directory` to whoever that belongs to: the server's user reads it.
///
/// # Errors
///
/// The directory cannot be looked at, or the kernel refuses.
pub fn give(file: &File, directory: &Path) -> io::Result<()> {
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let about = fs::metadata(directory)?;
    if !nix::unistd::geteuid().is_root() || about.uid() == 0 {
        return Ok(());
    }
    fchown(file, Some(about.uid()), Some(about.gid()))
}
