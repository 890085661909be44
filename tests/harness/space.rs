//! A network and a /etc of their own for a server and its clients: nothing in it but loopback, port 53 free, and a
//! resolv.conf that names 127.0.0.1. The machine's own is never touched.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::program::needs;
use super::{DEADLINE, eventually};

/// Lives until it is dropped, whoever comes and goes in it.
pub struct Space {
    /// Keeps the namespaces; it ends with its stdin, so also where the test is killed.
    keeper: Child,
    files: TempDir,
}

impl Space {
    pub fn new() -> Self {
        needs("ip", "iproute2");
        let files = tempfile::tempdir().expect("a directory");
        let path = files.path().display().to_string();
        fs::write(files.path().join("resolv.conf"), "nameserver 127.0.0.1\n").expect("writing a file");
        let script = "ip link set lo up && mount --bind \"$0/resolv.conf\" /etc/resolv.conf && \
                      touch \"$0/made\" && exec cat";
        let mut command = Command::new(needs("unshare", "util-linux"));
        command.args(["--net", "--mount"]);
        if !nix::unistd::geteuid().is_root() {
            command.arg("--map-root-user");
        }
        command.args(["sh", "-c", script, &path]).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut space = Self { keeper: command.spawn().expect("running unshare"), files };
        let made = space.files.path().join("made");
        eventually("a network of its own", DEADLINE, || {
            let ended = space.keeper.try_wait().expect("waiting for our own child");
            assert!(ended.is_none(), "unshare ended: {ended:?}");
            made.exists().then_some(())
        });
        space
    }

    /// A directory that goes with it.
    pub fn directory(&self) -> &Path {
        self.files.path()
    }

    /// What stands before a command that is to run in there.
    pub fn before(&self) -> Vec<String> {
        // Its root and directory too: within a chroot, the namespace alone leads out of it.
        let pid = self.keeper.id().to_string();
        let mut words =
            ["nsenter", "--target", &pid, "--net", "--mount", "--root", "--wd"].map(str::to_owned).to_vec();
        if !nix::unistd::geteuid().is_root() {
            words.extend(["--user", "--preserve-credentials"].map(str::to_owned));
        }
        words.push("--".to_owned());
        words
    }

    /// `program`, to be started in there.
    pub fn inside(&self, program: &Path) -> Command {
        let words = self.before();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg(program).stdin(Stdio::null());
        command
    }

    /// What `program` prints in there; `None` where it does not succeed.
    pub fn prints(&self, program: &Path, words: &[&str]) -> Option<String> {
        let output = self.inside(program).args(words).output().expect("running nsenter");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        drop(self.keeper.kill());
        drop(self.keeper.wait());
    }
}
