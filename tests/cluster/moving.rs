//! A registry that moves from one machine to several and back.

use serde_json::json;

use super::etcd::Etcd;
use super::full::{FLAGS, assert_same, at, done, exported, fill};
use super::secondary::transfer;
use crate::harness::{DEADLINE, Server, eventually};

const APEX: &str = "service.local.";

fn serial(server: &Server) -> u32 {
    let status = server.client().done("status", &json!({"status": {}}));
    status["serial"].as_u64().and_then(|serial| u32::try_from(serial).ok()).expect("a serial")
}

/// Exports one and imports it at the other; what it was, and the counts.
fn moved(from: &Server, to: &Server) -> String {
    let path = from.directory().join("registry.jsonl").display().to_string();
    done(from, &["export", &path]);
    done(to, &["import", &path])
}

#[test]
fn a_node_has_no_store_of_its_own_to_back_up() {
    let etcd = Etcd::start();
    let node = etcd.node("a", &[]);
    let path = node.directory().join("backup");
    let ended = at(&node, &["store", "backup", &path.display().to_string()]);
    assert_eq!(ended.code, Some(5), "{ended:?}");
    let said = "the registry is on etcd: back up etcd, or use `callsign export`";
    assert!(ended.stderr.contains(said), "{ended:?}");
    assert!(!path.exists() && !node.directory().join("backup.new").exists());
}

#[test]
fn a_registry_with_everything_moves_to_etcd_and_back() {
    let source = Server::start(&FLAGS);
    // Its serial is ahead of one that begins now.
    for number in 0..300 {
        let form =
            json!({"service": "web", "id": "a", "address": "10.0.0.7", "port": 1 + number, "lease": "none"});
        source.client().done("registered", &json!({ "register": form }));
    }
    let (holder, token) = fill(&source);
    let (head, lines) = exported(&source);
    let etcd = Etcd::start();
    let nodes = [etcd.node("a", &FLAGS[2..]), etcd.node("b", &FLAGS[2..])];
    let before = nodes.each_ref().map(serial);
    let known = transfer(nodes[1].dns[0], APEX, None).expect("the zone").serial();
    let counts = moved(&source, &nodes[0]);
    assert!(counts.starts_with(&format!("{} imported, 0 there already, 0 other", lines.len())), "{counts}");
    assert_same(&exported(&nodes[0]).1, &lines, "at the node that took it");
    eventually("the same at the other node", DEADLINE, || {
        (exported(&nodes[1]).1.len() == lines.len() && serial(&nodes[0]) == serial(&nodes[1])).then_some(())
    });
    assert_same(&exported(&nodes[1]).1, &lines, "at the other node");
    // The base of the serial rose at both, above what it was on one machine.
    let of_source = head["serial"].as_u64().expect("a serial") as u32;
    for (node, before) in nodes.iter().zip(before) {
        let serial = serial(node);
        assert!(serial > of_source && of_source > before, "{serial}, {of_source} there, {before} before");
    }
    // What was before has no serial any more, and what was there never had one here: the whole zone goes out.
    for serial in [known, of_source] {
        let came = transfer(nodes[1].dns[0], APEX, Some(serial)).expect("the zone");
        assert!(!came.is_difference() && came.records.len() > 2, "since {serial}");
    }
    // A node that comes later counts from there too.
    let late = etcd.node("c", &FLAGS[2..]);
    eventually("one serial", DEADLINE, || (serial(&late) == serial(&nodes[0])).then_some(()));
    let mut client = nodes[1].tcp_client();
    client.done("welcome", &json!({"hello": {"token": token}}));
    // Twice is once, at whichever node.
    let counts = moved(&source, &nodes[1]);
    assert!(counts.starts_with(&format!("0 imported, {} there already, 0 other", lines.len())), "{counts}");
    // And back.
    let back = Server::start(&FLAGS);
    moved(&late, &back);
    assert_same(&exported(&back).1, &lines, "back on one machine");
    assert!(serial(&back) > serial(&late));
    drop(holder);
}
