//! What is registered at one node is at all of them; leases run on one.

use std::collections::BTreeMap;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::etcd::Etcd;
use crate::harness::dns::ports;
use crate::harness::{Client, DEADLINE, Http, Server, eventually, srv, stays};

pub fn register(id: &str, port: u16, lease: &str) -> Value {
    json!({"register": {"service": "web", "id": id, "host": "m1", "address": "127.0.0.1", "port": port, "lease": lease}})
}

fn heartbeat(id: &str) -> Value {
    json!({"heartbeat": {"service": "web", "id": id, "host": "m1"}})
}

/// The ports of `web` in a node's DNS.
pub fn seen(server: &Server) -> Vec<u16> {
    let reply = server.resolver().udp_edns(&srv("web"), RecordType::SRV, 1232);
    let mut ports: Vec<u16> = ports(&reply).into_values().collect();
    ports.sort_unstable();
    ports
}

/// Waits until a node's DNS has these ports of `web`.
pub fn becomes(server: &Server, wanted: &[u16]) {
    eventually("what the node's DNS has", DEADLINE, || (seen(server) == wanted).then_some(()));
}

/// The last revision of the registry that a node has.
pub fn revision(node: &Server) -> u64 {
    node.client().ask(&json!({"status": {}}))["status"]["revision"].as_u64().expect("a revision")
}

/// The reasons of what a node has seen.
pub fn reasons(client: &mut Client) -> Vec<String> {
    let reply = client.ask(&json!({"log": {}}));
    let changes = reply["log"]["changes"].as_array().cloned().unwrap_or_default();
    changes.iter().map(|change| change["reason"].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn what_is_registered_at_one_node_is_in_the_dns_of_all() {
    let etcd = Etcd::start();
    let nodes = [etcd.node("a", &[]), etcd.node("b", &[]), etcd.node("c", &[])];
    // Each takes one; and what is answered is in its own DNS at once.
    for (node, port) in nodes.iter().zip(8001..) {
        node.client().done("registered", &register(&format!("web-{port}"), port, "none"));
        assert!(seen(node).contains(&port), "acknowledged, and not visible");
    }
    for node in &nodes {
        becomes(node, &[8001, 8002, 8003]);
    }
    // They say the same of it: the revision is etcd's.
    let told: Vec<BTreeMap<String, u64>> = nodes.iter().map(|node| revisions(&mut node.client())).collect();
    assert!(told.iter().all(|other| *other == told[0]), "{told:?}");
    let serials: Vec<u64> = nodes.iter().map(serial).collect();
    assert!(serials.iter().all(|other| *other == serials[0]), "{serials:?}");
    // Any of them deregisters it, and it is gone from all.
    nodes[2]
        .client()
        .done("deregistered", &json!({"deregister": {"service": "web", "id": "web-8001", "host": "m1"}}));
    for node in &nodes {
        becomes(node, &[8002, 8003]);
    }
    // A node that comes later has what is there, and remembers who left.
    let late = etcd.node("d", &[]);
    assert_eq!(seen(&late), [8002, 8003], "ready, and not there");
    let gone = late.resolver().udp("web-8001.web.service.local.", RecordType::SRV);
    assert_eq!(gone.metadata.response_code, ResponseCode::NoError, "known, as one that left");
}

fn revisions(client: &mut Client) -> BTreeMap<String, u64> {
    let list = client.list();
    list.iter()
        .map(|one| {
            (one["id"].as_str().unwrap_or_default().to_owned(), one["revision"].as_u64().unwrap_or_default())
        })
        .collect()
}

fn serial(node: &Server) -> u64 {
    node.client().ask(&json!({"status": {}}))["status"]["serial"].as_u64().expect("a serial")
}

#[test]
fn two_nodes_that_want_one_name_get_two_and_one_instance_is_one() {
    let etcd = Etcd::start();
    let nodes = [etcd.node("a", &[]), etcd.node("b", &[])];
    // The same id on two hosts, at two nodes at once, again and again: no label is given twice.
    for round in 0..20 {
        let labels: Vec<Value> = std::thread::scope(|scope| {
            let asking = nodes.iter().zip(["m1", "m2"]).map(|(node, host)| {
                scope.spawn(move || {
                    let id = format!("one-{round}");
                    let form = json!({"register": {"service": "web", "id": id, "host": host, "address": "127.0.0.1", "port": 80, "lease": "none"}});
                    node.client().done("registered", &form)["dns"].clone()
                })
            });
            let asking: Vec<_> = asking.collect();
            asking.into_iter().map(|thread| thread.join().expect("a registration")).collect()
        });
        assert_ne!(labels[0], labels[1], "round {round}");
    }
    // The same instance at both at once: both are answered, and one of them is in force at both nodes.
    for round in 0..20 {
        std::thread::scope(|scope| {
            for (node, port) in nodes.iter().zip([1000, 2000]) {
                scope.spawn(move || {
                    let form = json!({"register": {"service": "db", "id": "db", "host": "m1", "address": "127.0.0.1", "port": port + round, "lease": "none"}});
                    node.client().done("registered", &form);
                });
            }
        });
        let ports = |node: &Server| {
            let reply = node.client().ask(&json!({"lookup": {"id": "db", "service": "db"}}));
            reply["found"]["instances"][0]["revision"].clone()
        };
        eventually("the same at both", DEADLINE, || (ports(&nodes[0]) == ports(&nodes[1])).then_some(()));
    }
}

#[test]
fn what_was_registered_a_moment_ago_is_deregistered_at_a_node_that_is_behind() {
    let etcd = Etcd::start();
    let (node, behind) = (etcd.node("a", &[]), etcd.node("b", &[]));
    for round in 0..20 {
        behind.signal(Signal::SIGSTOP);
        let id = format!("web-{round}");
        node.client().done("registered", &register(&id, 8001, "none"));
        let mut client = behind.client();
        client.send(&json!({"deregister": {"service": "web", "id": id, "host": "m1"}}));
        behind.signal(Signal::SIGCONT);
        let reply = client.receive();
        assert_eq!(reply["deregistered"]["existed"], true, "round {round}: {reply}");
        becomes(&node, &[]);
    }
}

#[test]
fn a_lease_runs_at_the_node_that_heard_of_it_last() {
    let etcd = Etcd::start();
    let nodes = [etcd.node("a", &[]), etcd.node("b", &[])];
    nodes[0].client().done("registered", &register("web-1", 8001, "2s"));
    becomes(&nodes[1], &[8001]);
    // Heard of at the other from here on, and living for several leases.
    let mut client = nodes[1].client();
    // Which for its first seconds as a member takes nothing from the first one.
    eventually("its word", DEADLINE, || {
        nodes[0].client().done("renewed", &heartbeat("web-1"));
        client.ask(&heartbeat("web-1")).get("renewed").map(|_| ())
    });
    let lives = stays(Duration::from_secs(5), || {
        client.done("renewed", &heartbeat("web-1"));
        seen(&nodes[0]) == [8001] && seen(&nodes[1]) == [8001]
    });
    assert!(lives, "it left while it was heard of");
    // Silent, it leaves: because it expired, and once.
    for node in &nodes {
        becomes(node, &[]);
        let reasons = reasons(&mut node.client());
        assert_eq!(reasons.iter().filter(|reason| *reason == "expired").count(), 1, "{reasons:?}");
    }
    let refused = client.ask(&heartbeat("web-1"));
    assert_eq!(refused["error"]["code"], "not_found");
}

#[test]
fn a_ttl_runs_at_the_node_that_heard_of_it_last() {
    let etcd = Etcd::start();
    let (mut first, other) = (etcd.node("a", &[]), etcd.node("b", &[]));
    let form = json!({"service": "web", "id": "web-1", "host": "m1", "address": "127.0.0.1", "port": 8001,
                      "lease": "none", "checks": [{"id": "up", "ttl": "2s", "status": "passing"}]});
    first.client().done("registered", &json!({ "register": form }));
    becomes(&other, &[8001]);
    // Heard of at the other node from here on, for several of its TTLs.
    let mut client = other.client();
    let report = json!({"report": {"service": "web", "id": "web-1", "host": "m1", "check": "up", "status": "passing"}});
    let critical = |node: &Server| reasons(&mut node.client()).iter().filter(|it| *it == "reported").count();
    let lives = stays(Duration::from_secs(5), || {
        client.done("reported", &report);
        critical(&first) == 0 && critical(&other) == 0
    });
    assert!(lives, "it was critical while it was heard of");
    // And at the first again, which dies: the other takes it over, and it has one whole TTL.
    first.client().done("reported", &report);
    first.crash();
    becomes(&other, &[]);
    let told = other.client().done("instances", &json!({"list": {"service": "web"}}));
    assert_eq!(told["instances"][0]["checks"][0]["output"], "TTL expired", "{told}");
}

#[test]
fn the_ttl_of_a_host_runs_at_the_node_that_heard_of_it_last() {
    let etcd = Etcd::start();
    let nodes = [etcd.node("a", &[]), etcd.node("b", &[])];
    let check = json!({"Name": "up", "TTL": "2s", "Status": "passing"});
    nodes[0].http().put("/v1/agent/check/register", &check);
    let status = |node: &Server| node.http().get("/v1/agent/checks").json()["up"]["Status"].clone();
    eventually("the check at the other node", DEADLINE, || (status(&nodes[1]) == "passing").then_some(()));
    let lives = stays(Duration::from_secs(5), || {
        nodes[1].http().put("/v1/agent/check/pass/up", &Value::Null);
        nodes.iter().all(|node| status(node) == "passing")
    });
    assert!(lives, "it was critical while it was heard of");
    for node in &nodes {
        eventually("its end", DEADLINE, || (status(node) == "critical").then_some(()));
    }
}

#[test]
fn heartbeats_and_time_cost_etcd_nothing() {
    let etcd = Etcd::start();
    let node = etcd.node("a", &[]);
    let mut client = node.client();
    client.done("registered", &register("web-1", 8001, "2s"));
    let before = client.ask(&json!({"status": {}}))["status"]["revision"].clone();
    let lives = stays(Duration::from_secs(3), || {
        client.done("renewed", &heartbeat("web-1"));
        true
    });
    assert!(lives);
    // One write later the revision is the next one: nobody wrote in between.
    let done = client.done("registered", &register("web-2", 8002, "none"));
    assert_eq!(done["revision"].as_u64(), before.as_u64().map(|before| before + 1));
}

#[test]
fn queries_cost_etcd_nothing() {
    const QUERIES: u64 = 5_000;
    let etcd = Etcd::start();
    let node = etcd.node("a", &[]);
    node.client().done("registered", &register("web-1", 8001, "none"));
    let reads = || {
        let metrics = Http::tcp(([127, 0, 0, 1], etcd.port()).into()).get("/metrics");
        let line =
            metrics.text().lines().find(|line| line.starts_with("etcd_mvcc_range_total ")).map(str::to_owned);
        let value = line.as_deref().and_then(|line| line.split(' ').nth(1)?.parse::<u64>().ok());
        value.expect("etcd counts what is read")
    };
    let (before, mut resolver) = (reads(), node.resolver());
    for asked in 0..QUERIES {
        // What is there, and what is not.
        let service = if asked % 2 == 0 { "web" } else { "nobody" };
        resolver.udp(&srv(service), RecordType::SRV);
    }
    // The keys are compared every 30 seconds, whoever asks.
    let read = reads() - before;
    assert!(read < QUERIES / 100, "{read} reads of etcd for {QUERIES} queries");
}

#[test]
fn an_instance_bound_to_a_connection_leaves_with_it_everywhere() {
    let etcd = Etcd::start();
    let nodes = [etcd.node("a", &[]), etcd.node("b", &[])];
    let mut holder = nodes[0].client();
    holder.done("registered", &register("web-1", 8001, "connection"));
    becomes(&nodes[1], &[8001]);
    drop(holder);
    for node in &nodes {
        becomes(node, &[]);
        let reasons = reasons(&mut node.client());
        assert!(reasons.contains(&"disconnected".to_owned()), "{reasons:?}");
    }
}

#[test]
fn every_node_tells_who_the_nodes_are() {
    let etcd = Etcd::start();
    let nodes = [etcd.node("a", &[]), etcd.node("b", &[])];
    for (node, name) in nodes.iter().zip(["a", "b"]) {
        let told = eventually("both of them", DEADLINE, || {
            let status = node.client().ask(&json!({"status": {}}));
            let told = status["status"]["nodes"].as_array().cloned()?;
            (told.len() == 2).then_some(told)
        });
        assert_eq!(told.iter().map(|node| node["name"].clone()).collect::<Vec<_>>(), ["a", "b"]);
        let slots: u64 = told.iter().filter_map(|node| node["slots"].as_u64()).sum();
        assert_eq!(slots, 16_384, "{told:?}");
        let own: Vec<&Value> = told.iter().filter(|node| node["own"] == true).collect();
        assert_eq!(
            (own.len(), &own[0]["name"], &own[0]["dns"]),
            (1, &json!(name), &json!(node.dns[0].port()))
        );
        let members = node.http().get("/v1/agent/members").json();
        let members = members.as_array().cloned().unwrap_or_default();
        assert_eq!(members.iter().map(|member| member["Name"].clone()).collect::<Vec<_>>(), ["a", "b"]);
    }
}

/// A connection that closes is a change as one that is asked for is, and counts from when it closed.
#[test]
fn what_closed_connections_change_is_counted() {
    let etcd = Etcd::start();
    let node = etcd.node("a", &[]);
    let counted = || -> u64 {
        let page = node.http().get("/metrics").text().to_owned();
        let line = page.lines().find_map(|line| line.strip_prefix("callsign_change_visible_seconds_count "));
        line.and_then(|count| count.parse().ok()).expect("a count")
    };
    let begun = counted();
    let mut holder = node.client();
    for port in [8001, 8002] {
        holder.done("registered", &register(&format!("web-{port}"), port, "connection"));
    }
    assert_eq!(counted(), begun + 2);
    drop(holder);
    eventually("two more, for two that left", DEADLINE, || (counted() == begun + 4).then_some(()));
    assert!(seen(&node).is_empty());
}

#[test]
fn many_instances_of_one_connection_leave_with_it() {
    /// More than one transaction of etcd's takes.
    const MANY: u16 = 300;
    let etcd = Etcd::start();
    let nodes = [etcd.node("a", &[]), etcd.node("b", &[])];
    let mut holder = nodes[0].client();
    for port in 1..=MANY {
        holder.send(&register(&format!("web-{port}"), port, "connection"));
    }
    for _ in 1..=MANY {
        assert!(holder.receive().get("registered").is_some());
    }
    eventually("all at the other node", DEADLINE, || {
        (nodes[1].client().list().len() == usize::from(MANY)).then_some(())
    });
    drop(holder);
    for node in &nodes {
        eventually("the end of all", DEADLINE, || node.client().list().is_empty().then_some(()));
    }
}

#[test]
fn settings_hosts_and_drains_are_at_all_nodes() {
    let etcd = Etcd::start();
    let nodes = [etcd.node("a", &[]), etcd.node("b", &[])];
    let mut client = nodes[0].client();
    client.done("registered", &register("web-1", 8001, "none"));
    client.done("settings", &json!({"settings": {"service": "web", "ttl": "60s"}}));
    client.done("registered", &register("web-2", 8002, "none"));
    client.done("draining", &json!({"drain": {"service": "web", "id": "web-2", "host": "m1"}}));
    becomes(&nodes[1], &[8001]);
    let ttl = nodes[1].resolver().udp(&srv("web"), RecordType::SRV).answers[0].ttl;
    assert_eq!(ttl, 60);
    let host = json!({"Node": "m1", "Address": "10.1.2.3"});
    nodes[1].http().put("/v1/catalog/register", &host);
    let address = || {
        let reply = nodes[0].http().get("/v1/catalog/node/m1").json();
        (reply["Node"]["Address"] == "10.1.2.3").then_some(())
    };
    eventually("the host at the other node", DEADLINE, address);
}

#[test]
fn a_node_leaves_alone_what_the_service_files_of_another_say() {
    let etcd = Etcd::start();
    // One path at both, and other files in it.
    let directory = tempfile::tempdir().expect("a directory");
    let write = |name: &str, service: &str, port: u16| {
        let text = format!("[[register]]\nservice = \"{service}\"\naddress = \"127.0.0.1\"\nport = {port}\n");
        std::fs::write(directory.path().join(name), text).expect("writing a file");
    };
    let flags = ["--services", &directory.path().display().to_string()];
    write("web.toml", "web", 8001);
    let mut a = etcd.node("a", &flags);
    becomes(&a, &[8001]);
    let source = format!("a:{}", directory.path().join("web.toml").display());
    assert_eq!(a.client().list()[0]["source"], source);
    a.signal(Signal::SIGTERM);
    assert_eq!(a.wait().code, Some(0));
    std::fs::remove_file(directory.path().join("web.toml")).expect("removing it");
    let b = etcd.node("b", &flags);
    // It has looked three times when it has seen two files that came one after the other.
    for (name, count) in [("one", 2), ("two", 3)] {
        write(&format!("{name}.toml"), name, 1);
        eventually(name, DEADLINE, || (b.client().list().len() == count).then_some(()));
    }
    assert_eq!(seen(&b), [8001]);
    let _a = etcd.node("a", &flags);
    becomes(&b, &[]);
}
