//! A guard is one fact: one node says that it begins and that it ends, and all have it.

use serde_json::{Value, json};

use crate::etcd::Etcd;
use crate::harness::{Client, DEADLINE, Server, eventually};
use crate::several::{becomes, reasons, register, seen};

const ALL: [u16; 6] = [8001, 8002, 8003, 8004, 8005, 8006];

/// A client that holds six instances of a service by its connection.
fn hold_six(node: &Server, service: &str) -> Client {
    let mut holder = node.client();
    for port in ALL {
        let mut form = register(&format!("web-{port}"), port, "connection");
        form["register"]["service"] = service.into();
        holder.done("registered", &form);
    }
    holder
}

fn guard(node: &Server, service: &str, time: &str) {
    let form = json!({"settings": {"service": service, "guard": "50%", "guard_for": time}});
    node.client().done("settings", &form);
}

/// Waits until a node has heard of so many changes for this reason.
fn hears(node: &Server, reason: &str, count: usize) {
    eventually(reason, DEADLINE, || {
        let reasons = reasons(&mut node.client());
        (reasons.iter().filter(|other| *other == reason).count() == count).then_some(())
    });
}

/// The changes for this reason, without what a node says of them beside.
fn facts(node: &Server, reason: &str) -> Vec<(Value, Value)> {
    let log = node.client().done("log", &json!({"log": {}}));
    let changes = log["changes"].as_array().cloned().unwrap_or_default();
    let of = changes.iter().filter(|change| change["reason"] == reason);
    of.map(|change| (change["revision"].clone(), change["at"].clone())).collect()
}

#[test]
fn a_guard_is_the_same_at_all_nodes_from_its_beginning_to_its_end() {
    let etcd = Etcd::start();
    let nodes = [etcd.node("a", &[]), etcd.node("b", &[])];
    guard(&nodes[0], "web", "10m");
    let holder = hold_six(&nodes[0], "web");
    becomes(&nodes[1], &ALL);
    drop(holder);
    for node in &nodes {
        hears(node, "disconnected", 6);
        hears(node, "guarded", 1);
        becomes(node, &ALL);
        assert!(node.client().list().is_empty(), "held is not registered");
    }
    assert_eq!(facts(&nodes[0], "guarded"), facts(&nodes[1], "guarded"));
    // A node that comes later holds them as well.
    let late = etcd.node("c", &[]);
    assert_eq!(seen(&late), ALL, "ready, and not held");
    // Who asks for it leaves, at whichever node, and is out when that is answered.
    let leave = json!({"deregister": {"service": "web", "id": "web-8001", "host": "m1"}});
    let left = nodes[1].client().done("deregistered", &leave);
    assert_eq!(left["existed"], true);
    assert_eq!(seen(&nodes[1]), ALL[1..], "acknowledged, and not visible");
    for node in nodes.iter().chain([&late]) {
        becomes(node, &ALL[1..]);
    }
    // Three are back at the other node, and two of five are fewer than half.
    let mut back = nodes[1].client();
    for port in &ALL[1..4] {
        back.done("registered", &register(&format!("web-{port}"), *port, "none"));
    }
    for node in nodes.iter().chain([&late]) {
        hears(node, "released", 1);
        becomes(node, &ALL[1..4]);
    }
    assert_eq!(facts(&nodes[0], "released"), facts(&late, "released"));
}

#[test]
fn a_guard_whose_node_died_ends_in_time() {
    /// Enough for each node to be the one that watches over some.
    const SERVICES: usize = 8;
    let etcd = Etcd::start();
    let mut nodes = [etcd.node("a", &[]), etcd.node("b", &[]), etcd.node("c", &[])];
    let names: Vec<String> = (0..SERVICES).map(|number| format!("web-{number}")).collect();
    names.iter().for_each(|name| guard(&nodes[0], name, "5s"));
    let holders: Vec<Client> = names.iter().map(|name| hold_six(&nodes[1], name)).collect();
    drop(holders);
    nodes.iter().for_each(|node| hears(node, "guarded", SERVICES));
    nodes[0].crash();
    for node in &nodes[1..] {
        hears(node, "released", SERVICES);
    }
    assert_eq!(facts(&nodes[1], "released"), facts(&nodes[2], "released"));
}
