//! A Consul server of our own: one agent in a directory of its own, ended by its pid.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::ask::{get, try_request};
use crate::harness::{DEADLINE, eventually};

/// A program that `./check --peers` has built.
pub fn peer(name: &str) -> PathBuf {
    let folder = std::env::var_os("CALLSIGN_PEERS")
        .expect("CALLSIGN_PEERS is not set: `./check --peers` builds what these tests talk to, and sets it");
    let path = PathBuf::from(folder).join(name);
    assert!(path.is_file(), "{} is not there: tests/peers/build {name}", path.display());
    path
}

/// A program that is started here and ended with its value.
pub struct Running {
    child: Child,
    pub directory: TempDir,
}

impl Running {
    /// In a directory of its own, which is made before its words are known.
    pub fn start(program: &str, directory: TempDir, words: &[String]) -> Self {
        let file = |name: &str| File::create(directory.path().join(name)).expect("a file for what it says");
        let child = Command::new(peer(program))
            .args(words)
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(file("stdout"))
            .stderr(file("stderr"))
            .spawn()
            .unwrap_or_else(|error| panic!("starting {program}: {error}"));
        Self { child, directory }
    }

    pub fn said(&self) -> String {
        let text = |name: &str| std::fs::read_to_string(self.directory.path().join(name)).unwrap_or_default();
        text("stdout") + &text("stderr")
    }

    /// Panics where it has ended by itself.
    pub fn must_run(&mut self) {
        if let Some(status) = self.child.try_wait().expect("waiting for our own child") {
            panic!("it ended with {status}:\n{}", self.said());
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            let said = self.said();
            let tail: Vec<&str> = said.lines().rev().take(20).collect();
            tail.iter().rev().for_each(|line| eprintln!("    {line}"));
        }
    }
}

/// Ports that are free now: programs that cannot be told to take any have to be told one.
pub fn free_ports<const N: usize>() -> [u16; N] {
    let listeners: [TcpListener; N] =
        std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("its address").port())
}

/// A Consul server with a leader.
pub struct Agent {
    pub http: SocketAddr,
    _running: Running,
}

impl Agent {
    pub fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory for Consul");
        let [http, server, lan] = free_ports::<3>();
        let words = [
            "agent",
            "-server",
            "-bootstrap-expect=1",
            "-node=one",
            "-datacenter=dc1",
            "-bind=127.0.0.1",
            "-client=127.0.0.1",
            &format!("-data-dir={}", directory.path().join("data").display()),
            &format!("-http-port={http}"),
            "-dns-port=-1",
            &format!("-server-port={server}"),
            &format!("-serf-lan-port={lan}"),
            "-serf-wan-port=-1",
            "-grpc-port=-1",
            "-grpc-tls-port=-1",
            "-https-port=-1",
            "-log-level=warn",
            "-enable-script-checks",
            "-hcl=performance { raft_multiplier = 1 }",
            "-hcl=disable_update_check = true",
            "-hcl=leave_on_terminate = false",
            // An output that has changed shows in the catalog at once, as a status does.
            "-hcl=check_update_interval = \"0s\"",
        ]
        .map(str::to_owned);
        let mut running = Running::start("consul", directory, &words);
        let http = SocketAddr::from(([127, 0, 0, 1], http));
        eventually("a Consul server with a leader", DEADLINE, || {
            running.must_run();
            let nodes = try_request(http, "GET", "/v1/health/node/one", "")?;
            let has_member = nodes.status == 200 && nodes.text().contains("serfHealth");
            has_member.then_some(())
        });
        Self { http, _running: running }
    }

    /// Waits until the catalog has what the agent has: the agent hands it on after it has answered.
    pub fn settle(&self, after: &str) {
        eventually(&format!("Consul's catalog to follow its agent after {after}"), DEADLINE, || {
            let [services, listed, checks, known] =
                ["/v1/agent/services", "/v1/catalog/node/one", "/v1/agent/checks", "/v1/health/node/one"]
                    .map(|target| get(self.http, target).json());
            let mut cataloged = listed["Services"].clone();
            cataloged.as_object_mut()?.remove("consul");
            let of_service =
                ["ID", "Service", "Tags", "Port", "Address", "Meta", "TaggedAddresses", "Weights"];
            let of_check = ["CheckID", "Name", "Status", "Notes", "Output", "ServiceID"];
            let is_own = |check: &&Value| check["CheckID"] != "serfHealth";
            let services_fit = project(services.as_object()?.values(), &of_service)
                == project(cataloged.as_object()?.values(), &of_service);
            let checks_fit = project(checks.as_object()?.values(), &of_check)
                == project(known.as_array()?.iter().filter(is_own), &of_check);
            (services_fit && checks_fit).then_some(())
        });
    }
}

/// Some members of each, in an order that does not depend on where they come from.
fn project<'a>(rows: impl Iterator<Item = &'a Value>, members: &[&str]) -> Vec<String> {
    // What is empty is sometimes null and sometimes left out.
    let text = |value: &Value| match value.to_string() {
        text if ["null", "[]", "{}", "0"].contains(&text.as_str()) => String::new(),
        text => text,
    };
    let row = |row: &Value| members.iter().map(|member| text(&row[member])).collect::<Vec<_>>().join(" ");
    let mut rows: Vec<String> = rows.map(row).collect();
    rows.sort();
    rows
}
