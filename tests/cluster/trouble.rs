//! Nodes end, and etcd ends: what was acknowledged stays, what was deregistered stays away, and no lease ends for our trouble.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::etcd::Etcd;
use crate::harness::program::free_ports;
use crate::harness::{Client, DEADLINE, Server, eventually, stays};
use crate::several::{becomes, reasons, register, revision, seen};

pub fn trouble(server: &Server) -> Option<String> {
    let status = server.client().ask(&json!({"status": {}}));
    status["status"]["store_trouble"].as_str().map(str::to_owned)
}

#[test]
fn what_a_dead_node_watched_over_has_one_more_lease_and_then_leaves() {
    let etcd = Etcd::start();
    let (mut dying, other) = (etcd.node("a", &[]), etcd.node("b", &[]));
    dying.client().done("registered", &register("silent", 8001, "3s"));
    dying.client().done("registered", &register("kept", 8002, "3s"));
    dying.client().done("registered", &register("bound", 8003, "none"));
    becomes(&other, &[8001, 8002, 8003]);
    dying.crash();
    // One of them finds the other node, as a client of ours would.
    let mut client = other.client();
    let heartbeat = json!({"heartbeat": {"service": "web", "id": "kept", "host": "m1"}});
    let gone = eventually("the silent one's end", DEADLINE, || {
        // As long as both count as members the other one, being new, takes nothing from the dead one.
        let reply = client.ask(&heartbeat);
        assert!(reply.get("renewed").is_some() || reply["error"]["code"] == "unavailable", "{reply}");
        let seen = seen(&other);
        assert!(seen.contains(&8002) && seen.contains(&8003), "a living one left: {seen:?}");
        (!seen.contains(&8001)).then_some(reasons(&mut other.client()))
    });
    assert_eq!(gone.iter().filter(|reason| *reason == "expired").count(), 1, "{gone:?}");
    // The node comes back under its name, has everything, and takes registrations.
    let back = etcd.node("a", &[]);
    assert_eq!(seen(&back), [8002, 8003]);
    back.client().done("registered", &register("new", 8004, "none"));
    becomes(&other, &[8002, 8003, 8004]);
}

#[test]
fn a_node_that_stops_in_order_is_missed_at_once() {
    let etcd = Etcd::start();
    let (mut leaving, other) = (etcd.node("a", &[]), etcd.node("b", &[]));
    leaving.signal(Signal::SIGTERM);
    assert_eq!(leaving.wait().code, Some(0));
    // Nobody waits for its lease to run out: the name is free, and taken without a word of trouble.
    let again = etcd.node("a", &[]);
    assert!(!again.stderr().contains("is that of another node"), "{}", again.stderr());
    again.client().done("registered", &register("web-1", 8001, "none"));
    becomes(&other, &[8001]);
}

#[test]
fn without_etcd_answers_stay_changes_are_refused_and_no_lease_ends() {
    let mut etcd = Etcd::start();
    let nodes = [etcd.node("a", &[]), etcd.node("b", &[])];
    nodes[0].client().done("registered", &register("short", 8001, "2s"));
    nodes[1].client().done("registered", &register("left", 8002, "none"));
    nodes[0]
        .client()
        .done("deregistered", &json!({"deregister": {"service": "web", "id": "left", "host": "m1"}}));
    for node in &nodes {
        becomes(node, &[8001]);
    }
    etcd.kill();
    for node in &nodes {
        eventually("the trouble in the status", DEADLINE, || trouble(node));
        let refused = node.client().ask(&register("web-3", 8003, "none"));
        assert_eq!(refused["error"]["code"], "unavailable", "{refused}");
    }
    // Silent for several of its leases, and there: nobody could have heard it.
    let stands = stays(Duration::from_secs(5), || nodes.iter().all(|node| seen(node) == [8001]));
    assert!(stands, "a lease ended while etcd was away");
    etcd.begin();
    for node in &nodes {
        eventually("the end of the trouble", DEADLINE, || trouble(node).is_none().then_some(()));
    }
    // Time runs again: the silent one leaves, the one that was deregistered is never back, and changes are taken.
    nodes[1].client().done("registered", &register("web-3", 8003, "none"));
    for node in &nodes {
        let left = || {
            let seen = seen(node);
            assert!(!seen.contains(&8002), "a deregistered one is back");
            (seen == [8003]).then_some(())
        };
        eventually("what is left", DEADLINE, left);
    }
}

/// A member of etcd that hears nobody knows what was there once, and not what is.
#[test]
fn what_a_member_of_etcd_says_by_itself_is_no_absence() {
    let [one, mut two] = Etcd::two();
    let node = one.node("a", &[]);
    let mut client = node.client();
    let nobody = json!({"deregister": {"service": "web", "id": "nobody", "host": "m1"}});
    assert_eq!(client.done("deregistered", &nobody)["existed"], false);
    two.kill();
    let reply = client.ask(&nobody);
    assert_eq!(reply["error"]["code"], "unavailable", "{reply}");
}

#[test]
fn a_node_that_starts_without_etcd_says_not_ready_and_goes_on_when_it_is_there() {
    let mut etcd = Etcd::start();
    etcd.node("a", &[]).client().done("registered", &register("web-1", 8001, "none"));
    etcd.kill();
    let store = etcd.store();
    let mut waiting = Server::begin(&[], &["--store", &store, "--node", "b"]);
    eventually("its complaint", DEADLINE, || waiting.stderr().contains("etcd cannot be asked").then_some(()));
    assert!(!waiting.stdout().contains("ready"));
    etcd.begin();
    assert!(waiting.until_ready());
    assert_eq!(seen(&waiting), [8001]);
}

#[test]
fn a_node_that_was_stopped_for_long_joins_again_and_tells_what_it_missed() {
    let etcd = Etcd::start();
    let (stopped, other) = (etcd.node("a", &[]), etcd.node("b", &[]));
    stopped.client().done("registered", &register("web-1", 8001, "none"));
    stopped.signal(Signal::SIGSTOP);
    // Without it: others see it leave.
    let left = || other.stderr().contains("members=[\"b\"]").then_some(());
    eventually("its end as a member", DEADLINE, left);
    other
        .client()
        .done("deregistered", &json!({"deregister": {"service": "web", "id": "web-1", "host": "m1"}}));
    other.client().done("registered", &register("web-2", 8002, "none"));
    stopped.signal(Signal::SIGCONT);
    becomes(&stopped, &[8002]);
    eventually("its registrations again", DEADLINE, || {
        let reply = stopped.client().ask(&register("web-3", 8003, "none"));
        reply.get("registered").is_some().then_some(())
    });
    becomes(&other, &[8002, 8003]);
}

#[test]
fn a_node_that_may_be_no_member_takes_no_heartbeat() {
    let mut etcd = Etcd::start();
    let node = etcd.node("a", &[]);
    let mut client = node.client();
    client.done("registered", &register("web-1", 8001, "2s"));
    etcd.kill();
    // For a while it is a member whatever happens. Then others may end the lease, and it must not say that it goes on.
    let heartbeat = json!({"heartbeat": {"service": "web", "id": "web-1", "host": "m1"}});
    let refused = eventually("the end of its word", DEADLINE, || {
        let reply = client.ask(&heartbeat);
        reply.get("renewed").is_none().then_some(reply)
    });
    assert_eq!(refused["error"]["code"], "unavailable", "{refused}");
    assert_eq!(seen(&node), [8001], "its answers go on");
    etcd.begin();
    eventually("its word again", DEADLINE, || client.ask(&heartbeat).get("renewed").map(|_| ()));
    assert_eq!(seen(&node), [8001]);
}

#[test]
fn a_node_that_comes_back_before_it_was_missed_takes_registrations() {
    let etcd = Etcd::start();
    let (mut first, other) = (etcd.node("a", &[]), etcd.node("b", &[]));
    first.crash();
    // Its name is still that of the node that was killed.
    let again = etcd.node("a", &[]);
    assert!(again.stderr().contains("is that of another node"), "{}", again.stderr());
    assert_eq!(trouble(&again), None);
    again.client().done("registered", &register("web-1", 8001, "none"));
    becomes(&other, &[8001]);
}

#[test]
fn a_node_that_waits_for_etcd_at_its_start_stops_when_it_is_told() {
    let [port] = free_ports();
    let mut node = Server::begin(&[], &["--store", &format!("etcd://127.0.0.1:{port}"), "--node", "a"]);
    eventually("its trouble", DEADLINE, || node.stderr().contains("etcd cannot be asked").then_some(()));
    node.signal(Signal::SIGTERM);
    assert_eq!(node.wait().code, Some(0));
    assert!(node.stderr().contains("stopping before the registry was loaded"), "{}", node.stderr());
}

/// Whoever waited for it may have gone elsewhere, and what was said be true no more.
#[test]
fn a_node_that_takes_long_to_start_keeps_nobody_waiting() {
    let etcd = Etcd::start();
    let (mut first, other) = (etcd.node("a", &[]), etcd.node("b", &[]));
    other.client().done("registered", &register("web-1", 8001, "30s"));
    first.crash();
    // It has to wait until the name is free.
    let more = ["--store", &etcd.store(), "--node", "a", "--listen", "127.0.0.1:0"];
    let mut again = Server::begin(&[], &more);
    let mut early = eventually("its socket", DEADLINE, || Client::try_unix(&again.socket));
    early.send(&register("web-1", 8002, "30s"));
    let refused = early.receive();
    assert_eq!(refused["error"]["code"], "not_ready", "{refused}");
    assert!(!again.stdout().contains("ready"), "it was there too early for this test");
    assert!(again.until_ready());
    assert_eq!(seen(&again), [8001]);
    again.client().done("registered", &register("web-1", 8002, "30s"));
}

/// It is a member by then, and has not heard what happened meanwhile.
#[test]
fn a_heartbeat_that_a_new_member_hears_moves_no_lease() {
    let etcd = Etcd::start();
    let other = etcd.node("b", &[]);
    other.client().done("registered", &register("web-1", 8001, "30s"));
    let node = etcd.node("a", &[]);
    let mut client = node.client();
    let heartbeat = json!({"heartbeat": {"service": "web", "id": "web-1", "host": "m1"}});
    let refused = client.ask(&heartbeat);
    assert_eq!(refused["error"]["code"], "unavailable", "{refused}");
    // Said again and again it is heard, and over the same connection.
    eventually("its word", DEADLINE, || client.ask(&heartbeat).get("renewed").map(|_| ()));
}

#[test]
fn a_registration_that_waited_while_a_member_stood_still_is_not_carried_out() {
    let etcd = Etcd::start();
    let (stopped, other) = (etcd.node("a", &[]), etcd.node("b", &[]));
    let mut client = stopped.client();
    client.done("registered", &register("web-1", 8001, "30s"));
    client.done("registered", &register("web-2", 8002, "30s"));
    becomes(&other, &[8001, 8002]);
    stopped.signal(Signal::SIGSTOP);
    let ids = ["web-1", "web-2"];
    let mut waiting: Vec<Client> = (0..50).map(|_| stopped.client()).collect();
    for (client, id) in waiting.iter_mut().zip(ids.iter().cycle()) {
        client.send(&register(id, 8004, "none"));
    }
    // One goes on at the other node, and ends there; the other one ends. A second passes, as a lease says.
    let mut holder = other.client();
    holder.done("registered", &register("web-1", 8001, "30s"));
    for id in ids {
        holder.done("deregistered", &json!({"deregister": {"service": "web", "id": id, "host": "m1"}}));
    }
    holder.done("registered", &register("web-3", 8003, "1s"));
    becomes(&other, &[]);
    stopped.signal(Signal::SIGCONT);
    for client in &mut waiting {
        let refused = client.receive();
        assert_eq!(refused["error"]["code"], "unavailable", "{refused}");
    }
    assert_eq!(seen(&other), [0u16; 0]);
    eventually("a word of now", DEADLINE, || {
        client.ask(&register("web-1", 8003, "30s")).get("registered").map(|_| ())
    });
}

#[test]
fn a_heartbeat_that_waited_while_a_node_stood_still_moves_no_lease() {
    let etcd = Etcd::start();
    let (stopped, other) = (etcd.node("a", &[]), etcd.node("b", &[]));
    let mut client = stopped.client();
    client.done("registered", &register("web-1", 8001, "30s"));
    becomes(&other, &[8001]);
    stopped.signal(Signal::SIGSTOP);
    let heartbeat = json!({"heartbeat": {"service": "web", "id": "web-1", "host": "m1"}});
    client.send(&heartbeat);
    let left = || other.stderr().contains("members=[\"b\"]").then_some(());
    eventually("its end as a member", DEADLINE, left);
    // It went on at the other node meanwhile.
    other.client().done("registered", &register("web-1", 8001, "30s"));
    stopped.signal(Signal::SIGCONT);
    let refused = client.receive();
    assert_eq!(refused["error"]["code"], "unavailable", "{refused}");
    eventually("its word", DEADLINE, || client.ask(&heartbeat).get("renewed").map(|_| ()));
}

/// The dead node may be back, and this one not have heard of it: only what etcd has counts for both.
#[test]
fn the_first_heartbeat_at_who_took_over_is_written_and_no_other() {
    let etcd = Etcd::start();
    let (mut dying, heir) = (etcd.node("a", &[]), etcd.node("b", &[]));
    dying.client().done("registered", &register("web-1", 8001, "1h"));
    becomes(&heir, &[8001]);
    dying.crash();
    let left = || heir.stderr().contains("members=[\"b\"]").then_some(());
    eventually("its end as a member", DEADLINE, left);
    let mut client = heir.client();
    client.done("registered", &register("web-0", 8000, "1h"));
    let before = revision(&heir);
    let heartbeat = json!({"heartbeat": {"service": "web", "id": "web-1", "host": "m1"}});
    eventually("a word that is no old one", DEADLINE, || client.ask(&heartbeat).get("renewed").map(|_| ()));
    assert_eq!(revision(&heir), before + 1);
    client.done("renewed", &heartbeat);
    client.done("registered", &register("web-2", 8002, "1h"));
    assert_eq!(revision(&heir), before + 2);
}

/// The other one may say for as long that it renews the lease, before it hears of it.
#[test]
fn what_is_taken_from_a_living_node_lasts_for_longer_at_first() {
    let etcd = Etcd::start();
    let (first, second) = (etcd.node("a", &[]), etcd.node("b", &[]));
    let mut holder = first.client();
    holder.done("registered", &register("web-1", 8001, "3s"));
    let heartbeat = json!({"heartbeat": {"service": "web", "id": "web-1", "host": "m1"}});
    let mut client = second.client();
    let moved = || {
        holder.done("renewed", &heartbeat);
        client.ask(&heartbeat).get("renewed").map(|_| ())
    };
    eventually("a second node that is settled", DEADLINE, moved);
    let left = |of: &mut Client| of.list()[0]["lease_left_ms"].as_u64().expect("a lease");
    let lasts = |left: u64| (3_001..=7_000).contains(&left);
    assert!(lasts(left(&mut client)), "of 3 s: {}", left(&mut client));
    // So does what is registered anew there.
    holder.done("registered", &register("web-1", 8001, "3s"));
    assert!(lasts(left(&mut holder)), "registered anew, of 3 s: {}", left(&mut holder));
}

/// Also where it stood still for so short that it is a member all the while.
#[test]
fn a_heartbeat_that_waited_while_a_member_stood_still_moves_no_lease() {
    let etcd = Etcd::start();
    let (stopped, other) = (etcd.node("a", &[]), etcd.node("b", &[]));
    let mut client = stopped.client();
    client.done("registered", &register("web-1", 8001, "30s"));
    becomes(&other, &[8001]);
    // Both are settled: a heartbeat at the other one moves the lease.
    let heartbeat = json!({"heartbeat": {"service": "web", "id": "web-1", "host": "m1"}});
    eventually("a settled node", DEADLINE, || other.client().ask(&heartbeat).get("renewed").map(|_| ()));
    eventually("another one", DEADLINE, || client.ask(&heartbeat).get("renewed").map(|_| ()));
    stopped.signal(Signal::SIGSTOP);
    // So many that the node hears meanwhile what the other one wrote.
    let mut waiting: Vec<Client> = (0..50).map(|_| stopped.client()).collect();
    waiting.iter_mut().for_each(|client| client.send(&heartbeat));
    // It goes on at the other node, and a second passes, as a lease says.
    other.client().done("registered", &register("web-1", 8001, "30s"));
    other.client().done("registered", &register("web-2", 8002, "1s"));
    becomes(&other, &[8001]);
    let before = revision(&other);
    stopped.signal(Signal::SIGCONT);
    let replies: Vec<Value> = waiting.iter_mut().map(Client::receive).collect();
    other.client().done("registered", &register("web-3", 8003, "30s"));
    assert_eq!(revision(&other), before + 1, "something else was written: {replies:?}");
}

#[test]
fn a_node_whose_membership_ended_while_it_was_not_connected_is_a_member_at_once() {
    let mut etcd = Etcd::start();
    let (stopped, other) = (etcd.node("a", &[]), etcd.node("b", &[]));
    stopped.signal(Signal::SIGSTOP);
    let left = || other.stderr().contains("members=[\"b\"]").then_some(());
    eventually("its end as a member", DEADLINE, left);
    etcd.kill();
    etcd.begin();
    stopped.signal(Signal::SIGCONT);
    eventually("its registrations again", DEADLINE, || {
        let reply = stopped.client().ask(&register("web-1", 8001, "none"));
        reply.get("registered").map(|_| ())
    });
    assert!(!stopped.stderr().contains("lease not found"), "{}", stopped.stderr());
    becomes(&other, &[8001]);
}
