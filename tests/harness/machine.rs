//! A machine of its own for a server: network and mount namespaces, with a copy of /etc that may be written.
//!
//! Programs run there as on a machine whose administrator followed our recipes: on port 53, with a resolv.conf and
//! daemons' configuration of its own. The machine that runs the test is never touched.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use super::namespaces;
use super::{Ended, Server, binary};

/// A pair of links that only this namespace sees, for what asks nobody while no link is up. Elsewhere there is no
/// route, so that who wants the root servers is told so at once.
const LINKS: &str = "ip link set lo up && ip link add wire type veth peer name end && \
    ip address add 192.0.2.1/24 dev wire && ip link set wire up && ip link set end up";
/// Folders of /run that a service manager would have made.
const RUN: &str =
    "mkdir -p \"$0/run/systemd/resolve\" \"$0/run/systemd/netif/links\" && mount --bind \"$0/run\" /run";

/// The namespaces, which live as long as the server in them.
pub struct Machine {
    pub server: Server,
    files: TempDir,
}

impl Machine {
    /// A server there; `/etc/resolv.conf` names `nameserver`, and one attempt is all that programs make.
    pub fn start(nameserver: &str, flags: &[&str]) -> Self {
        let files = tempfile::tempdir().expect("a directory");
        let etc = files.path().join("etc");
        // What only root may read is of no use to a test, and missing where somebody else runs it.
        let copied = Command::new("cp").arg("-a").arg("/etc").arg(&etc).stderr(Stdio::null()).status();
        copied.expect("running cp");
        assert!(etc.join("nsswitch.conf").exists(), "a copy of /etc");
        let script = format!("{LINKS} && mount --bind \"$0/etc\" /etc && {RUN} && exec \"$@\"");
        let before = namespaces::unshared(&script, files.path());
        let before: Vec<&str> = before.iter().map(String::as_str).collect();
        let machine = |server| Self { server, files };
        let machine = machine(Server::start_under(&before, flags));
        for (name, text) in namespaces::resolver_texts(nameserver) {
            machine.write(name, &text);
        }
        machine
    }

    /// The machine's /etc, as it is seen from outside.
    pub fn etc(&self, name: &str) -> PathBuf {
        self.files.path().join("etc").join(name)
    }

    /// The machine's /run, as it is seen from outside: a socket bound here is one of its daemons'.
    pub fn run_folder(&self, name: &str) -> PathBuf {
        self.files.path().join("run").join(name)
    }

    /// Puts a file into its /etc, in the place of whatever is there.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.etc(name);
        let folder = path.parent().expect("a folder in /etc");
        fs::create_dir_all(folder).expect("a folder in the copy of /etc");
        drop(fs::remove_file(&path));
        fs::write(&path, text).expect("writing into the copy of /etc");
    }

    /// `program`, to be started in there.
    pub fn inside(&self, program: &Path) -> Command {
        namespaces::inside(self.server.pid(), program)
    }

    pub fn output(&self, program: &Path, words: &[&str]) -> Output {
        self.inside(program).args(words).output().expect("running nsenter")
    }

    /// What `program` prints in there; it has to succeed.
    pub fn run(&self, program: &Path, words: &[&str]) -> String {
        namespaces::run(self.server.pid(), program, words)
    }

    /// A verb of our own command line, told where the server is.
    pub fn callsign(&self, words: &[&str]) -> Ended {
        self.callsign_with("", words)
    }

    /// The same with libraries of its own in front of the machine's, for what it starts.
    pub fn callsign_with(&self, libraries: &str, words: &[&str]) -> Ended {
        let mut command = self.inside(&binary());
        command.args(words).arg("--server").arg(format!("unix:{}", self.server.socket.display()));
        let output = command.env("LD_LIBRARY_PATH", libraries).output().expect("running nsenter");
        Ended {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}
