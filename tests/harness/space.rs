//! A network and a /etc of their own for a server and its clients: nothing in it but loopback, port 53 free, and a
//! resolv.conf that names 127.0.0.1. The machine's own is never touched.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::namespaces::{self, MOUNT_RESOLVER_FILES};
use super::{DEADLINE, eventually};

/// Lives until it is dropped, whoever comes and goes in it.
pub struct Space {
    /// Keeps the namespaces; it ends with its stdin, so also where the test is killed.
    keeper: Child,
    files: TempDir,
}

impl Space {
    pub fn new() -> Self {
        let files = namespaces::resolver_files();
        let script =
            format!("ip link set lo up && {MOUNT_RESOLVER_FILES} && touch \"$0/made\" && exec \"$@\"");
        let words = namespaces::unshared(&script, files.path());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg("cat").stdin(Stdio::piped()).stdout(Stdio::null());
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
        namespaces::within(self.keeper.id())
    }

    /// `program`, to be started in there.
    pub fn inside(&self, program: &Path) -> Command {
        namespaces::inside(self.keeper.id(), program)
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        drop(self.keeper.kill());
        drop(self.keeper.wait());
    }
}
