//! A Consul server of our own: one agent in a directory of its own, ended by its pid.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::Value;

use crate::harness::ask::{get, try_request};
use crate::harness::program::{Program, free_ports};
use crate::harness::{DEADLINE, eventually};

/// A program that `./check --peers` has built.
pub fn peer(name: &str) -> PathBuf {
    let folder = std::env::var_os("CALLSIGN_PEERS")
        .expect("CALLSIGN_PEERS is not set: `./check --peers` builds what these tests talk to, and sets it");
    let path = PathBuf::from(folder).join(name);
    assert!(path.is_file(), "{} is not there: tests/peers/build {name}", path.display());
    path
}

/// A Consul server with a leader.
pub struct Agent {
    pub http: SocketAddr,
    _running: Program,
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
        let mut running = Program::start(&peer("consul"), directory, &words);
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
