//! Health, with the registry not loaded and with the store dead.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::rr::RecordType;
use serde_json::{Value, json};

use crate::harness::ask::{request, try_request};
use crate::harness::disk::{SmallDisk, fill};
use crate::harness::program::free_ports;
use crate::harness::strace::Attached;
use crate::harness::{DEADLINE, Http, Server, callsign, eventually, srv, stays};

/// The status of `/readyz`, and the checks that fail.
fn ready(address: SocketAddr, query: &str) -> (u16, Vec<String>) {
    let reply = request(address, "GET", &format!("/readyz{query}"), "");
    let told = reply.json();
    assert_eq!(told["ready"], reply.status == 200, "{told}");
    let reasons = told["reasons"].as_array().expect("reasons").iter();
    let checks = reasons.map(|reason| reason["check"].as_str().expect("a check").to_owned());
    (reply.status, checks.collect())
}

fn is_alive(address: SocketAddr) -> bool {
    let reply = request(address, "GET", "/healthz", "");
    reply.status == 200 && reply.text() == "ok\n"
}

fn metric(address: SocketAddr, name: &str) -> f64 {
    let page = request(address, "GET", "/metrics", "").text().to_owned();
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in {page}"))
}

fn register(id: &str) -> Value {
    json!({"register": {"service": "web", "id": id, "address": "10.0.0.7", "port": 80, "lease": "none"}})
}

fn in_dns(server: &Server) -> usize {
    server.resolver().udp(&srv("web"), RecordType::SRV).answers.len()
}

#[test]
fn health_is_told_before_the_registry_is_loaded_and_all_else_waits() {
    let [port, nobody] = free_ports();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let store = format!("etcd://127.0.0.1:{nobody}");
    let mut server = Server::begin(&[], &["--store", &store, "--node", "a", "--http", &address.to_string()]);
    eventually("a sign of life", DEADLINE, || {
        assert!(server.exit_status().is_none(), "{}", server.stderr());
        try_request(address, "GET", "/healthz", "").filter(|reply| reply.status == 200).map(drop)
    });
    eventually("the loss of etcd", DEADLINE, || {
        (ready(address, "") == (503, ["registry", "store", "etcd"].map(str::to_owned).to_vec())).then_some(())
    });
    assert_eq!(ready(address, "?exclude=store&exclude=etcd"), (503, vec!["registry".to_owned()]));
    assert_eq!(request(address, "GET", "/readyz?exclude=disk", "").status, 400);
    // Whoever says nothing, or asks for something else, keeps nobody from it.
    let silent = Http::tcp(address);
    let mut waiting = Http::tcp(address);
    waiting.send("GET", "/v1/catalog/services", &[], b"");
    assert!(stays(Duration::from_millis(200), || is_alive(address)
        && waiting.is_silent()
        && silent.is_silent()));
}

#[test]
fn a_store_that_fails_is_told_and_everything_else_works() {
    let server = Server::start(&[]);
    let http = server.http[0];
    let mut client = server.client();
    client.done("registered", &register("a"));
    assert!(is_alive(http) && ready(http, "") == (200, vec![]));
    assert_eq!(metric(http, "callsign_store_refuses"), 0.0);
    let strace = Attached::new(&server, "fdatasync", "EIO");
    let refused = client.ask(&register("b"));
    assert_eq!(refused["error"]["code"], "unavailable", "{refused}");
    assert!(is_alive(http));
    assert_eq!(ready(http, ""), (503, vec!["store".to_owned()]));
    assert_eq!(ready(http, "?exclude=store"), (200, vec![]));
    assert_eq!(metric(http, "callsign_store_refuses"), 1.0);
    assert_eq!((metric(http, "callsign_ready"), metric(http, "callsign_services")), (1.0, 1.0));
    assert!(server.stderr().contains("the store takes nothing"), "{}", server.stderr());
    assert_eq!(in_dns(&server), 1);
    // What the store said is not for everybody who may ask for health.
    let told = request(http, "GET", "/readyz", "").text().to_owned();
    assert!(!told.contains("callsign.redb") && told.contains("callsign status"), "{told}");
    // Who asks on the machine is told, by the commands for just that.
    let at = format!("unix:{}", server.socket.display());
    let found = callsign(&["doctor", "--server", &at]);
    assert_eq!(found.code, Some(1), "{found:?}");
    assert!(found.stdout.contains("its store takes nothing"), "{}", found.stdout);
    for words in [&["status"][..], &["ls"], &["explain", "web"], &["show", "web"]] {
        let words: Vec<&str> = words.iter().copied().chain(["--server", &at]).collect();
        let told = callsign(&words);
        assert_eq!(told.code, Some(0), "{words:?}: {told:?}");
    }
    drop(strace);
}

#[test]
fn what_is_not_stored_yet_is_told_to_who_goes_on() {
    let disk = SmallDisk::new();
    let server = disk.start();
    let (mut client, mut holder) = (server.client(), server.client());
    let held =
        json!({"service": "web", "id": "held", "address": "10.0.0.8", "port": 1, "lease": "connection"});
    holder.done("registered", &json!({"register": held}));
    fill(&disk.seen_from_here().join("filler"));
    eventually("a refusal", DEADLINE, || {
        (client.ask(&register("b"))["error"]["code"] == "unavailable").then_some(())
    });
    let mut there = server.client();
    let before = there.done("snapshot", &json!({"watch": {"service": "web"}}))["revision"].clone();
    drop(holder);
    let left = there.receive()["change"].take();
    assert_eq!((&left["id"], &left["reason"]), (&json!("held"), &json!("disconnected")));
    let told_by_http = || {
        let mut http = server.http();
        http.send(
            "GET",
            &format!("/v1/watch/web?since={before}"),
            &[("Accept", "application/x-ndjson")],
            b"",
        );
        assert_eq!(http.head().expect("a reply").status, 200);
        serde_json::from_str::<Value>(&http.line().expect("a line")).expect("JSON")
    };
    let told_by_socket = || server.client().ask(&json!({"watch": {"service": "web", "since": before}}));
    for mut told in [told_by_http(), told_by_socket()] {
        // While a store that was refused is opened anew there is no log to go on from, and all is told.
        match told["change"].take() {
            Value::Null => {
                let instances = told["snapshot"]["instances"].as_array().expect("a snapshot");
                assert!(instances.iter().all(|instance| instance["id"] != "held"), "{told}");
            }
            change => assert_eq!((&change["id"], &change["revision"]), (&left["id"], &left["revision"])),
        }
    }
}

#[test]
fn a_disk_that_hangs_holds_up_neither_health_nor_metrics_nor_answers() {
    let server = Server::start(&[]);
    let http = server.http[0];
    let mut client = server.client();
    client.done("registered", &register("a"));
    // Longer than everything below may take; strace ends before, and the call with it.
    let strace = Attached::slowed(&server, "fdatasync", 4 * DEADLINE);
    client.send(&register("b"));
    // The page is made anew, for nobody has asked before.
    assert!(is_alive(http) && metric(http, "callsign_services") == 1.0 && in_dns(&server) == 1);
    assert_eq!(ready(http, ""), (200, vec![]), "nothing was refused");
    assert_eq!(metric(http, "callsign_commit_duration_seconds_count"), 1.0, "the second is under way");
    drop(strace);
    assert!(client.receive().get("registered").is_some());
    assert_eq!(in_dns(&server), 2);
}

#[test]
fn probes_need_no_token_and_metrics_do() {
    let server = Server::start(&["--access", "allow anyone read:nothing"]);
    let http = server.http[0];
    assert!(is_alive(http) && ready(http, "") == (200, vec![]));
    assert_eq!(request(http, "GET", "/metrics", "").status, 403);
}
