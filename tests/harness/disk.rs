//! A disk that can be filled up: a small one, in a mount namespace of its own.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::Server;

/// Room for an empty store and some hundred registrations.
const SIZE: &str = "size=3m";

/// It lives as long as this.
pub struct SmallDisk {
    holder: Child,
    directory: tempfile::TempDir,
}

impl SmallDisk {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let script = "mount -t tmpfs -o \"$1\" tmpfs \"$0\" && echo mounted && read -r _";
        let mut command = Command::new("unshare");
        command.arg("--mount");
        if !nix::unistd::geteuid().is_root() {
            command.arg("--map-root-user");
        }
        let path = directory.path().display().to_string();
        command.args(["sh", "-c", script, &path, SIZE]);
        let mut holder =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("starting unshare");
        let mut line = String::new();
        let stdout = holder.stdout.take().expect("a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        assert_eq!(line, "mounted\n");
        Self { holder, directory }
    }

    /// The same directory as this process sees it.
    pub fn seen_from_here(&self) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.id()));
        root.join(self.directory.path().strip_prefix("/").expect("an absolute path"))
    }

    /// A server whose store is on it.
    pub fn start(&self) -> Server {
        let pid = self.holder.id().to_string();
        let mut before = vec!["nsenter", "--target", &pid, "--mount", "--root"];
        if !nix::unistd::geteuid().is_root() {
            before.extend(["--user", "--preserve-credentials"]);
        }
        let data = self.directory.path().display().to_string();
        Server::start_under(&before, &["--data", &data, "--log", "warn"])
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(self.holder.kill());
        drop(self.holder.wait());
    }
}

/// Writes until nothing more fits.
pub fn fill(path: &Path) {
    let mut file = File::create(path).expect("a file");
    while file.write(&[7; 4096]).is_ok_and(|octets| octets > 0) {}
}
