//! The dashboard as a browser shows it: Debian's Chromium, through Playwright, does what is in tests/dashboard/page.py.
//!
//! Needs: chromium, python3-venv, etcd-server, util-linux
//!
//! Playwright is in target/python/playwright, where tests/clients/python/install puts it; it brings no browser of its own.
//! Counts are asserted, times are printed.

mod harness;

#[allow(dead_code, reason = "one member is enough here")]
#[path = "cluster/etcd.rs"]
mod etcd;
#[path = "cluster/relay.rs"]
mod relay;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use etcd::Etcd;
use harness::disk::{SmallDisk, fill};
use harness::program::{Program, needs};
use harness::{Server, eventually};
use relay::Relay;

/// How long one scenario may take; each wait in it has a deadline of its own.
const SCENARIO: Duration = Duration::from_secs(300);

/// Plays one scenario against a server of its own.
fn plays(scenario: &str, server: &Server) {
    finish(scenario, begin(scenario, server, &[]));
}

fn begin(scenario: &str, server: &Server, more: &[String]) -> Program {
    needs("chromium", "chromium");
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = top.join("target/python/playwright/bin/python");
    assert!(python.exists(), "{}: ./check makes it, or tests/clients/python/install", python.display());
    let mut words = vec![
        top.join("tests/dashboard/page.py").display().to_string(),
        scenario.to_owned(),
        format!("http://{}", server.http[0]),
        server.socket.display().to_string(),
        server.dns[0].to_string(),
    ];
    words.extend_from_slice(more);
    let directory = tempfile::tempdir().expect("a directory for what it says");
    Program::start(&python, directory, &words)
}

fn finish(scenario: &str, mut playing: Program) {
    let status = eventually(scenario, SCENARIO, || playing.ended());
    assert!(status.success(), "{scenario}: {status}");
    print!("{}", playing.stdout());
}

#[test]
fn what_changes_is_on_the_page() {
    plays("live", &Server::start(&[]));
}

#[test]
fn hostile_texts_stay_texts() {
    plays("hostile", &Server::start(&[]));
}

#[test]
fn questions_are_answered_as_they_are_for_clients() {
    plays("questions", &Server::start(&[]));
}

#[test]
fn missing_names_and_rates_are_shown() {
    plays("missing", &Server::start(&["--store", "memory"]));
}

#[test]
fn ten_thousand_instances_scroll_while_they_change() {
    plays("many", &Server::start(&["--store", "memory"]));
}

#[test]
fn filters_and_keys_find_what_is_looked_for() {
    plays("filters", &Server::start(&["--store", "memory"]));
}

#[test]
fn who_may_changes_something_from_the_page() {
    plays("changing", &Server::start(&[]));
}

#[test]
fn the_page_may_what_its_token_may() {
    let server = Server::start(&["--access", "allow anyone read+watch"]);
    let form = json!({"name": "ops", "allow": ["admin:web"], "deny": []});
    let created = server.client().done("created", &json!({"token": {"create": form}}));
    let token = created["token"].as_str().expect("a token").to_owned();
    finish("rights", begin("rights", &server, &[token]));
}

/// A scenario that says when it is so far, by a file for each step.
struct Steps {
    scenario: &'static str,
    playing: Program,
    prefix: PathBuf,
}

impl Steps {
    fn begin(scenario: &'static str, server: &Server) -> Self {
        let prefix = server.directory().join("step");
        let playing = begin(scenario, server, &[prefix.display().to_string()]);
        Self { scenario, playing, prefix }
    }

    /// Waits until the page has seen this.
    fn seen(&mut self, what: &str) {
        let file = self.prefix.with_extension(what);
        eventually(what, SCENARIO, || {
            let ended = self.playing.ended();
            assert!(
                ended.is_none(),
                "{}: ended before it saw {what}: {}",
                self.scenario,
                self.playing.stdout()
            );
            file.exists().then_some(())
        });
    }

    fn finish(self) {
        finish(self.scenario, self.playing);
    }
}

#[test]
fn trouble_is_told_in_a_banner() {
    let mut server = Server::start(&[]);
    let mut steps = Steps::begin("banners", &server);
    steps.seen("guard");
    server.crash();
    steps.finish();
}

fn register(server: &Server, id: &str) -> Value {
    server.client().ask(&json!({"register": {
        "service": "web", "id": id, "host": "rack1", "address": "10.0.0.7", "port": 8080, "lease": "none",
        "meta": {"note": "x".repeat(400)},
    }}))
}

fn registered(server: &Server, id: &str) {
    let reply = register(server, id);
    assert!(reply["registered"].is_object(), "{reply}");
}

#[test]
fn a_full_disk_is_told_until_there_is_room() {
    let disk = SmallDisk::new();
    let server = disk.start();
    registered(&server, "web-1");
    let mut steps = Steps::begin("full_disk", &server);
    steps.seen("calm");
    let filler = disk.seen_from_here().join("filler");
    fill(&filler);
    eventually("a refusal", SCENARIO, || {
        (register(&server, "web-2")["error"]["code"] == "unavailable").then_some(())
    });
    steps.seen("trouble");
    std::fs::remove_file(&filler).expect("removing a file of ours");
    eventually("room", SCENARIO, || register(&server, "web-2")["registered"].is_object().then_some(()));
    steps.finish();
}

/// The etcd of the tests with several nodes.
fn program() -> PathBuf {
    needs("etcd", "etcd-server")
}

#[test]
fn the_nodes_and_the_ring_are_those_of_now() {
    let etcd = Etcd::start();
    let (server, mut other) = (etcd.node("a", &[]), etcd.node("b", &[]));
    registered(&other, "web-1");
    let mut steps = Steps::begin("nodes", &server);
    steps.seen("both");
    other.crash();
    steps.finish();
}

#[test]
fn a_node_that_is_cut_off_says_of_when_it_is() {
    let etcd = Etcd::start();
    let relay = Relay::to(etcd.port());
    let server = Server::start(&["--store", &relay.store(), "--node", "a", "--stale-for", "10s"]);
    let other = etcd.node("b", &[]);
    registered(&other, "web-1");
    let mut steps = Steps::begin("cut_off", &server);
    steps.seen("calm");
    relay.cut();
    steps.seen("stale");
    registered(&other, "web-2");
    steps.seen("servfail");
    relay.mend();
    steps.finish();
}

#[test]
fn another_origins_page_changes_nothing() {
    plays("origins", &Server::start(&[]));
}

#[test]
fn axe_finds_nothing_serious() {
    plays("accessible", &Server::start(&[]));
}
