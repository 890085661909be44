//! An etcd of one member, in a directory of its own, on ports of its own.

use std::fs::File;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::harness::program::free_ports;
use crate::harness::{DEADLINE, Server, eventually};
use crate::program;

/// See the module's own words. Its data stay while it is away.
pub struct Etcd {
    directory: TempDir,
    ports: [u16; 2],
    /// What is said to it besides, such as certificates.
    words: Vec<String>,
    scheme: &'static str,
    child: Option<Child>,
}

impl Etcd {
    pub fn start() -> Self {
        Self::start_with("http", &[])
    }

    pub fn start_with(scheme: &'static str, words: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory for etcd");
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        let mut etcd = Self { directory, ports: free_ports(), words, scheme, child: None };
        etcd.begin();
        etcd
    }

    /// Two members: while one is away, the other cannot say what is newest.
    pub fn two() -> [Self; 2] {
        let mut both = ["one", "two"].map(|name| Self {
            directory: tempfile::tempdir().expect("a directory for etcd"),
            ports: free_ports(),
            words: vec!["--name".to_owned(), name.to_owned()],
            scheme: "http",
            child: None,
        });
        let [one, two] = both.each_ref().map(|etcd| format!("http://127.0.0.1:{}", etcd.ports[1]));
        for etcd in &mut both {
            etcd.words.extend(["--initial-cluster".to_owned(), format!("one={one},two={two}")]);
            etcd.begin();
        }
        both
    }

    pub fn port(&self) -> u16 {
        self.ports[0]
    }

    /// The value of `--store`.
    pub fn store(&self) -> String {
        let scheme = if self.scheme == "https" { "etcds" } else { "etcd" };
        format!("{scheme}://127.0.0.1:{}", self.port())
    }

    /// Ends it as a machine that loses its power would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("etcd is ours to end");
            child.wait().expect("waiting for our own child");
        }
    }

    /// Starts it, the first time or with what it had.
    pub fn begin(&mut self) {
        let [client, peer] = self.ports;
        let (client, peer) =
            (format!("{}://127.0.0.1:{client}", self.scheme), format!("http://127.0.0.1:{peer}"));
        let file =
            |name: &str| File::create(self.directory.path().join(name)).expect("a file for what it says");
        let child = Command::new(program())
            .arg("--data-dir")
            .arg(self.directory.path().join("data"))
            .args(["--name", "one", "--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("one={peer}")])
            .args(&self.words)
            .stdin(Stdio::null())
            .stdout(file("stdout"))
            .stderr(file("stderr"))
            .spawn();
        self.child = Some(child.expect("starting etcd"));
        let port = self.port();
        eventually("etcd", DEADLINE, || TcpStream::connect(("127.0.0.1", port)).ok());
    }

    /// A node on it.
    pub fn node(&self, name: &str, flags: &[&str]) -> Server {
        let store = self.store();
        let words = ["--store", &store, "--node", name, "--listen", "127.0.0.1:0"];
        Server::start(&[&words, flags].concat())
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let said = std::fs::read_to_string(self.directory.path().join("stderr")).unwrap_or_default();
            said.lines().rev().take(5).for_each(|line| eprintln!("    etcd: {line}"));
        }
    }
}
