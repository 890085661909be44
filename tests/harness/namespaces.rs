//! Network and mount namespaces of their own: port 53 is free there, and /etc/resolv.conf somebody else's. The machine's
//! own is never touched.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::program::needs;

/// The shell's way of putting what `resolver_files` made, which is `$0`, in the place of the machine's.
pub const MOUNT_RESOLVER_FILES: &str =
    "for file in resolv.conf nsswitch.conf hosts; do mount --bind \"$0/$file\" \"/etc/$file\" || exit; done";
/// One attempt: a lost reply is a failure here, and nothing to be tried again.
const RESOLV_CONF: &str = "search service.local\noptions timeout:10 attempts:1\n";

/// What a resolver reads of /etc, with this one name server: name and text of each file.
pub fn resolver_texts(nameserver: &str) -> [(&'static str, String); 3] {
    [
        ("resolv.conf", format!("nameserver {nameserver}\n{RESOLV_CONF}")),
        ("nsswitch.conf", "hosts: files dns\n".to_owned()),
        ("hosts", "127.0.0.1 localhost\n".to_owned()),
    ]
}

/// The same in a directory, for 127.0.0.1.
pub fn resolver_files() -> TempDir {
    let files = tempfile::tempdir().expect("a directory");
    for (name, text) in resolver_texts("127.0.0.1") {
        fs::write(files.path().join(name), text).expect("writing a file");
    }
    files
}

/// What stands before a command that is to have namespaces of its own; `script` runs there first, with `files` as `$0`,
/// and becomes the command by `exec "$@"`.
pub fn unshared(script: &str, files: &Path) -> Vec<String> {
    needs("ip", "iproute2");
    let mut words = vec![needs("unshare", "util-linux").display().to_string()];
    words.extend(["--net", "--mount"].map(str::to_owned));
    if !nix::unistd::geteuid().is_root() {
        words.push("--map-root-user".to_owned());
    }
    words.extend(["sh", "-c", script].map(str::to_owned));
    words.push(files.display().to_string());
    words
}

/// What stands before a command that is to run in the namespaces of this process.
pub fn within(pid: u32) -> Vec<String> {
    // Its root and directory too: within a chroot, the namespace alone leads out of it.
    let mut words = ["nsenter", "--net", "--mount", "--root", "--wd", "--target"].map(str::to_owned).to_vec();
    words.push(pid.to_string());
    if !nix::unistd::geteuid().is_root() {
        words.extend(["--user", "--preserve-credentials"].map(str::to_owned));
    }
    words.push("--".to_owned());
    words
}

/// `program`, to be started in the namespaces of this process.
pub fn inside(pid: u32, program: &Path) -> Command {
    let words = within(pid);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).arg(program).stdin(Stdio::null());
    command
}

/// What `program` prints in there; it has to succeed.
pub fn run(pid: u32, program: &Path, words: &[&str]) -> String {
    let output = inside(pid, program).args(words).output().expect("running nsenter");
    let (text, complaint) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program:?} {words:?}: {}\n{text}\n{complaint}", output.status);
    text.into_owned()
}
