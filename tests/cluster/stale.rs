//! A node that is cut off from etcd: it answers on, says so where it is asked to, and ends that after its time.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use serde_json::{Value, json};

use crate::etcd::Etcd;
use crate::harness::ask::{request, try_request};
use crate::harness::program::free_ports;
use crate::harness::{Client, DEADLINE, Http, Server, eventually, srv, stays};
use crate::relay::Relay;
use crate::several::{becomes, register};

fn status(node: &Server) -> Value {
    node.client().ask(&json!({"status": {}}))["status"].clone()
}

fn ask(node: &Server, name: &str) -> Message {
    node.resolver().udp_edns(name, RecordType::SRV, 1232)
}

/// The code of the Extended DNS Error of a reply.
fn said(reply: &Message) -> Option<u16> {
    let option = reply.edns.as_ref()?.option(EdnsCode::from(15))?;
    let EdnsOption::Unknown(_, octets) = option else { return None };
    octets.first_chunk().map(|code| u16::from_be_bytes(*code))
}

#[test]
fn a_node_that_is_cut_off_answers_on_marked_and_then_says_servfail() {
    let etcd = Etcd::start();
    let relay = Relay::to(etcd.port());
    let store = relay.store();
    let words = ["--store", &store, "--listen", "127.0.0.1:0", "--node"];
    let marked = Server::start(&[&words[..], &["a", "--tell-stale"]].concat());
    let short = Server::start(&[&words[..], &["b", "--stale-for", "3s"]].concat());
    marked.client().done("registered", &register("web-1", 8001, "none"));
    becomes(&short, &[8001]);
    let (known, unknown) = (srv("web"), srv("nobody"));
    let fresh = [ask(&marked, &known), ask(&marked, &unknown)];
    assert_eq!((said(&fresh[0]), said(&fresh[1])), (None, Some(0)), "{fresh:?}");
    relay.cut();
    for node in [&marked, &short] {
        eventually("the trouble in the status", DEADLINE, || status(node)["stale_s"].is_u64().then_some(()));
        assert!(status(node)["store_trouble"].is_string());
    }
    let metrics = marked.http().get("/metrics").text().to_owned();
    let seconds = metrics.lines().find_map(|line| line.strip_prefix("callsign_stale_seconds "));
    assert!(
        seconds.and_then(|text| text.parse::<f64>().ok()).is_some_and(|seconds| seconds > 0.0),
        "{metrics}"
    );
    // RFC 8914: 3 is Stale Answer, 19 Stale NXDOMAIN Answer. The records are the same, and who reads no EDNS hears nothing.
    let (stale, denied) = (ask(&marked, &known), ask(&marked, &unknown));
    assert_eq!((said(&stale), &stale.answers), (Some(3), &fresh[0].answers));
    assert_eq!((said(&denied), denied.metadata.response_code), (Some(19), ResponseCode::NXDomain));
    assert!(marked.resolver().udp(&known, RecordType::SRV).edns.is_none());
    eventually("the end of its patience", DEADLINE, || {
        let reply = ask(&short, &known);
        assert_ne!(reply.metadata.response_code, ResponseCode::NXDomain);
        assert!(
            reply.metadata.response_code == ResponseCode::ServFail || !reply.answers.is_empty(),
            "{reply:?}"
        );
        (reply.metadata.response_code == ResponseCode::ServFail).then_some(())
    });
    assert_eq!(said(&ask(&short, &known)), Some(14), "Not Ready");
    assert_eq!(ask(&short, &unknown).metadata.response_code, ResponseCode::ServFail);
    assert_eq!(status(&short)["ready"], false);
    // The other one has no end to it.
    assert!(stays(Duration::from_secs(1), || said(&ask(&marked, &known)) == Some(3)));
    relay.mend();
    for node in [&marked, &short] {
        eventually("fresh answers", DEADLINE, || {
            let reply = ask(node, &known);
            (reply.metadata.response_code == ResponseCode::NoError && said(&reply).is_none()).then_some(())
        });
        eventually("no trouble", DEADLINE, || {
            let status = status(node);
            (status["stale_s"].is_null() && status["ready"] == true).then_some(())
        });
    }
}

#[test]
fn who_asks_a_node_that_cannot_load_yet_is_told_so() {
    let etcd = Etcd::start();
    let relay = Relay::to(etcd.port());
    relay.cut();
    let [port] = free_ports();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let (store, http) = (relay.store(), address.to_string());
    let mut node = Server::begin(&[], &["--store", &store, "--node", "a", "--http", &http]);
    let ready = |status: u16| {
        eventually(&format!("status {status} of /readyz"), DEADLINE, || {
            try_request(address, "GET", "/readyz", "").filter(|reply| reply.status == status)
        })
    };
    let told = ready(503).json();
    assert_eq!(told["reasons"][0]["check"], "registry", "{told}");
    let mut silent = Http::tcp(address);
    for mut http in [Http::tcp(address), Http::unix(&node.socket)] {
        let told = http.get("/v1/catalog/services");
        assert_eq!(told.status, 503);
        assert!(told.text().contains("has not loaded the registry yet"), "{}", told.text());
    }
    let refused = Client::unix(&node.socket).ask(&register("web-1", 8001, "none"));
    assert_eq!(refused["error"]["code"], "not_ready", "{refused}");
    relay.mend();
    assert!(node.until_ready());
    assert_eq!(silent.get("/v1/catalog/services").status, 200, "who was silent has lost nothing");
    assert_eq!(ready(200).json(), json!({"ready": true, "reasons": []}));
    node.client().done("registered", &register("web-1", 8001, "none"));
    let page = request(address, "GET", "/metrics", "").text();
    for line in [
        "callsign_nodes 1",
        "callsign_changes_total{reason=\"registered\"} 1",
        "callsign_change_visible_seconds_count 1",
        "callsign_commit_duration_seconds_count 1",
    ] {
        assert!(page.lines().any(|told| told == line), "no {line} in {page}");
    }
    // Without etcd again, health and metrics are told on.
    relay.cut();
    let told = ready(503).json();
    let checks: Vec<&Value> = told["reasons"].as_array().unwrap().iter().map(|one| &one["check"]).collect();
    assert_eq!(checks, ["store", "etcd"], "{told}");
    assert!(told["reasons"][1]["stale_s"].is_u64(), "{told}");
    let get = |path: &str| request(address, "GET", path, "");
    assert_eq!(get("/readyz?exclude=store&exclude=etcd").status, 200);
    assert_eq!(get("/healthz").status, 200);
    assert!(get("/metrics").text().contains("\ncallsign_store_refuses 1\n"));
}
