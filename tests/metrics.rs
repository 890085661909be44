//! What Prometheus makes of our metrics, and of the rules that we ship.
//!
//! Needs: prometheus
//!
//! - promtool has nothing to say against `/metrics` and the rules, and each alert begins where it should, and only there.
//! - Prometheus scrapes the server, in the form that it asks for; tests/metrics_peers.rs has a newer one do it.
//! - 100,000 services are no more lines than one.

#[path = "harness/mod.rs"]
mod harness;
#[path = "metrics/scrape.rs"]
mod scrape;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;

use harness::program::needs;
use harness::{Http, Server};

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Runs promtool, which has to be content; what it says.
fn promtool(words: &[&str], input: &str) -> String {
    let mut command = Command::new(needs("promtool", "prometheus"));
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("running promtool");
    child.stdin.take().expect("its stdin").write_all(input.as_bytes()).expect("writing to promtool");
    let output = child.wait_with_output().expect("waiting for promtool");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "promtool {words:?}: {said}");
    said
}

#[test]
fn promtool_finds_nothing_wrong_with_the_page() {
    let server = Server::start(&["--forward", "127.0.0.1:9", "--tls-self-signed", "--dot", "127.0.0.1:0"]);
    let form = json!({"service": "web", "id": "a", "address": "10.0.0.7", "port": 80, "lease": "none"});
    server.client().done("registered", &json!({ "register": form }));
    let page = server.http().get("/metrics").text().to_owned();
    assert!(page.contains("callsign_tls_certificate_expiry_timestamp_seconds "), "{page}");
    // It warns of names and helps that are against the rules, and ends well nonetheless.
    assert_eq!(promtool(&["check", "metrics"], &page), "");
}

#[test]
fn promtool_finds_nothing_wrong_with_the_rules() {
    let rules = repository("packaging/prometheus/callsign.rules.yml");
    let said = promtool(&["check", "rules", &rules.display().to_string()], "");
    assert!(said.contains("SUCCESS"), "{said}");
    let tests = repository("tests/metrics/alerts.yml");
    let said = promtool(&["test", "rules", &tests.display().to_string()], "");
    assert!(said.contains("SUCCESS"), "{said}");
    let [rules, tests] = [rules, tests].map(|path| std::fs::read_to_string(path).expect("a file of ours"));
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 10);
    for alert in alerts {
        assert!(tests.contains(&format!("alertname=\"{alert}\"")), "no test of {alert}");
    }
}

#[test]
fn prometheus_scrapes_the_server() {
    scrape::by(&needs("prometheus", "prometheus"));
}

#[test]
fn a_hundred_thousand_services_are_no_more_lines_than_one() {
    const SERVICES: usize = 100_000;
    /// What the issue allows; the page is a twentieth of it.
    const PAGE_OCTETS_MAX: usize = 1 << 20;
    let server = Server::start(&["--store", "memory"]);
    let register = |number: usize| json!({"register": {"service": format!("s{number}"), "id": "a", "address": "10.0.0.7", "port": 80, "lease": "none"}});
    server.client().done("registered", &register(0));
    let page = || {
        let mut http = Http::tcp(server.http[0]);
        http.send("GET", "/metrics", &[("Accept", "application/openmetrics-text")], b"");
        http.receive().text().to_owned()
    };
    let lines = |page: &str| page.lines().count();
    let one = page();
    let client = server.client();
    let (mut requests, replies) = (client.stream(), client.stream());
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut all = String::new();
            (1..SERVICES).for_each(|number| all.push_str(&format!("{}\n", register(number))));
            requests.write_all(all.as_bytes()).expect("sending requests");
        });
        let replies = BufReader::new(replies).lines().take(SERVICES - 1);
        assert!(replies.map(|line| line.expect("a reply")).all(|line| line.starts_with("{\"registered\"")));
    });
    let many = page();
    assert!(many.contains(&format!("\ncallsign_services {SERVICES}\n")), "{many}");
    assert!(many.len() < PAGE_OCTETS_MAX);
    assert_eq!(lines(&many), lines(&one));
    println!("{} lines, {} octets of one service, {} of {SERVICES}", lines(&many), one.len(), many.len());
    for _ in 0..3 {
        let begun = harness::now();
        server.client().done("registered", &register(0)); // the next page is made anew
        page();
        println!("a page of {SERVICES} services after a change: {:?}", begun.elapsed());
    }
}
