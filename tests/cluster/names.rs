//! The nodes in their own zone: NS and `_callsign._tcp`, the same at every node to the octet, and resolvers that go on where
//! a node is dead.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};

use hickory_proto::rr::{RData, RecordType};
use serde_json::json;

use crate::cluster::secondary::{self, Secondary, transfer};
use crate::etcd::Etcd;
use crate::harness::dns::{addresses, connect, query, read, receive_framed, send_framed};
use crate::harness::program::needs;
use crate::harness::space::Space;
use crate::harness::{DEADLINE, Server, eventually};
use crate::program;
use crate::several::{becomes, register};

const APEX: &str = "service.local.";
const REGISTRATIONS: &str = "_callsign._tcp.service.local.";

/// Names of the name servers.
fn servers(node: &Server) -> BTreeSet<String> {
    let reply = node.resolver().udp(APEX, RecordType::NS);
    let names = reply.answers.iter().map(|record| match &record.data {
        RData::NS(name) => name.to_string(),
        other => panic!("{other} among NS"),
    });
    names.collect()
}

/// A reply as it came.
fn octets(node: &Server, name: &str, qtype: RecordType) -> Vec<u8> {
    let resolver = node.resolver();
    resolver.send(&query(7, name, qtype, Some(1232)).to_vec().expect("a query has a wire form"));
    resolver.receive(DEADLINE).expect("a reply")
}

/// Every message of a whole zone as it came.
fn zone(server: SocketAddr) -> Vec<Vec<u8>> {
    let mut stream = connect(server);
    let asked = query(7, APEX, RecordType::AXFR, None);
    send_framed(&mut stream, &asked.to_vec().expect("a query has a wire form")).expect("asking for a zone");
    let (mut messages, mut soas) = (Vec::new(), 0);
    while soas < 2 {
        messages.push(receive_framed(&mut stream).expect("a message of a zone"));
        let records = read(&messages[messages.len() - 1]).answers;
        assert!(!records.is_empty(), "a message of a zone has records");
        soas += records.iter().filter(|record| secondary::serial(record).is_some()).count();
    }
    messages
}

fn same_serial(nodes: [&Server; 2]) {
    let serial = |node: &Server| node.client().ask(&json!({"status": {}}))["status"]["serial"].clone();
    eventually("one serial", DEADLINE, || (serial(nodes[0]) == serial(nodes[1])).then_some(()));
}

#[test]
fn the_zone_names_the_living_nodes_and_is_the_same_at_each() {
    let etcd = Etcd::start();
    let a = etcd.node("a", &["--dns", "127.0.0.2:0"]);
    // A name that is no label has one made of it, as ids have.
    let mut b = etcd.node("b.example", &["--dns", "127.0.0.3:0"]);
    let both = || (servers(&a).len() == 2 && servers(&a) == servers(&b)).then_some(());
    eventually("both nodes in both zones", DEADLINE, both);
    a.client().done("registered", &register("web-1", 8001, "none"));
    b.client().done("registered", &register("web-2", 8002, "none"));
    becomes(&a, &[8001, 8002]);
    becomes(&b, &[8001, 8002]);
    same_serial([&a, &b]);
    let named: Vec<String> = servers(&a).into_iter().collect();
    assert!(named[0] == "a.ns.service.local." && named[1].ends_with(".ns.service.local."), "{named:?}");
    let of = |name: &str| addresses(&a.resolver().udp(name, RecordType::A));
    let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
    assert_eq!(of(&named[0]), [ip("127.0.0.2")].into());
    assert_eq!(of(&named[1]), [ip("127.0.0.3")].into());
    assert_eq!(of("ns.service.local."), [ip("127.0.0.2"), ip("127.0.0.3")].into());
    let glue = a.resolver().udp(APEX, RecordType::NS).additionals;
    assert_eq!(glue.len(), 2, "{glue:?}");
    // As dig reads it: where registrations are taken.
    let dig = |server: SocketAddr| {
        let (at, port) = (format!("@{}", server.ip()), server.port().to_string());
        let words = [&at, "-p", &port, REGISTRATIONS, "SRV", "+short", "+tries=1"];
        let output = Command::new(needs("dig", "bind9-dnsutils")).args(words).output().expect("running dig");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().map(str::to_owned).collect::<BTreeSet<String>>()
    };
    let listens = |node: &Server, server: &str| {
        format!("0 1 {} {}", node.listen[0].port(), server.replace(".ns.", ".callsign."))
    };
    let wanted: BTreeSet<String> = [listens(&a, &named[0]), listens(&b, &named[1])].into();
    assert_eq!((dig(a.dns[0]), dig(b.dns[0])), (wanted.clone(), wanted));
    assert_eq!(of("a.callsign.service.local."), [ip("127.0.0.1")].into());
    for (name, qtype) in [
        (APEX, RecordType::SOA),
        (APEX, RecordType::NS),
        (REGISTRATIONS, RecordType::SRV),
        (REGISTRATIONS, RecordType::TXT),
        ("ns.service.local.", RecordType::A),
        ("a.ns.service.local.", RecordType::A),
        ("a.ns.service.local.", RecordType::AAAA),
        ("callsign.service.local.", RecordType::A),
        ("a.callsign.service.local.", RecordType::A),
        ("c.callsign.service.local.", RecordType::A),
        ("web-1.web.service.local.", RecordType::SRV),
    ] {
        assert_eq!(octets(&a, name, qtype), octets(&b, name, qtype), "{name} {qtype}");
    }
    assert_eq!(zone(a.dns[0]), zone(b.dns[0]), "whole zones");
    // A node that leaves leaves the zone: its serial moves, and what changed since is told as the whole.
    let mut follower = Secondary::new(&transfer(a.dns[0], APEX, None).expect("a zone"));
    b.crash();
    eventually("the end of the dead one", DEADLINE, || {
        (servers(&a) == [named[0].clone()].into()).then_some(())
    });
    let came = transfer(a.dns[0], APEX, Some(follower.serial)).expect("what changed");
    assert!(!came.is_difference() && came.serial() > follower.serial, "a zone of other name servers");
    let before = follower.lines;
    follower = Secondary::new(&came);
    assert_eq!(dig(a.dns[0]), [listens(&a, &named[0])].into());
    let gone = before.difference(&follower.lines).filter(|line| line.1 != RecordType::SOA).count();
    // Its NS and SRV, and its address below both names and at both.
    assert_eq!(gone, 5, "{before:?}");
}

#[test]
fn what_one_transaction_changed_at_several_names_is_in_one_difference() {
    let etcd = Etcd::start();
    let node = etcd.node("a", &[]);
    let put = |service: &str| {
        let form = json!({"Name": service, "ID": "x", "Address": "10.0.0.7", "Port": 80});
        node.http().put("/v1/agent/service/register", &form);
    };
    put("web");
    let mut follower = Secondary::new(&transfer(node.dns[0], APEX, None).expect("a zone"));
    // The same id of another service is the same instance: it leaves the one and comes to the other, at one revision.
    put("db");
    let came = transfer(node.dns[0], APEX, Some(follower.serial)).expect("what changed");
    assert!(came.is_difference(), "the log has it");
    follower.apply(&came).expect("a difference that fits");
    let whole = Secondary::new(&transfer(node.dns[0], APEX, None).expect("a zone"));
    let names =
        |lines: &BTreeSet<secondary::Line>| lines.iter().map(|line| line.0.clone()).collect::<BTreeSet<_>>();
    assert_eq!(names(&follower.lines), names(&whole.lines));
    assert_eq!(follower.serial, whole.serial);
}

#[test]
fn a_stock_resolver_goes_on_at_the_node_that_lives() {
    let space = Space::new();
    let directory = space.directory().display().to_string();
    let spawn = |command: &mut Command, name: &str| {
        let log = std::fs::File::create(space.directory().join(format!("{name}.log"))).expect("a log");
        let other = log.try_clone().expect("another descriptor");
        let child =
            command.current_dir(space.directory()).stdin(Stdio::null()).stdout(log).stderr(other).spawn();
        Ended(child.expect("running a program"))
    };
    let (client, peer) = ("http://127.0.0.1:2379", "http://127.0.0.1:2380");
    let mut etcd = space.inside(&program());
    etcd.args(["--data-dir", &format!("{directory}/etcd"), "--name", "one"])
        .args(["--listen-client-urls", client, "--advertise-client-urls", client])
        .args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer])
        .args(["--initial-cluster", &format!("one={peer}")]);
    let _etcd = spawn(&mut etcd, "etcd");
    let before = space.before();
    let before: Vec<&str> = before.iter().map(String::as_str).collect();
    let node = |name: &str, dns: &str| {
        let words = ["--store", "etcd://127.0.0.1:2379", "--node", name, "--dns", dns, "--ttl", "1"];
        Server::start_under(&before, &words)
    };
    let (mut a, b) = (node("a", "127.0.0.2:53"), node("b", "127.0.0.3:53"));
    // It is told of one node, and asks that one who the name servers are.
    let text = format!(
        "server:\n    interface: 127.0.0.1@53\n    do-daemonize: no\n    username: \"\"\n    chroot: \"\"\n    \
         directory: \"{directory}\"\n    pidfile: \"\"\n    use-syslog: no\n    \
         access-control: 127.0.0.0/8 allow\n    do-not-query-localhost: no\n    \
         domain-insecure: \"service.local.\"\n    module-config: \"iterator\"\n    verbosity: 3\n\
         stub-zone:\n    name: \"service.local.\"\n    stub-addr: 127.0.0.2@53\n    stub-prime: yes\n\
         remote-control:\n    control-enable: no\n"
    );
    let path = space.directory().join("unbound.conf");
    std::fs::write(&path, text).expect("a file of ours");
    let mut unbound = space.inside(&needs("unbound", "unbound"));
    let _unbound = spawn(unbound.arg("-d").arg("-c").arg(&path), "unbound");
    for number in 1..=40u16 {
        a.client().done("registered", &register(&format!("web-{number}"), number, "none"));
    }
    eventually("all at the other node", DEADLINE, || (b.client().list().len() == 40).then_some(()));
    // Each name is asked for once: none is an answer that it has kept.
    let ask = |number: u16| {
        let name = format!("web-{number}.web.service.local.");
        let mut dig = space.inside(&needs("dig", "bind9-dnsutils"));
        let output = dig.args(["@127.0.0.1", "+short", "+tries=1", "+time=20", &name, "SRV"]).output();
        String::from_utf8_lossy(&output.expect("running nsenter").stdout).trim().to_owned()
    };
    let answer = |number: u16| format!("0 1 {number} web-{number}.web.service.local.");
    eventually("unbound", DEADLINE, || (ask(1) == answer(1)).then_some(()));
    a.crash();
    for number in 2..=40 {
        assert_eq!(ask(number), answer(number), "after the death of a node");
    }
}

/// A program that ends with the test.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
