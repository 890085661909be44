//! A check is probed by one node, whose it is by the ring.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use callsign::clock::Clock;
use serde_json::{Value, json};

use super::etcd::Etcd;
use super::nodes::Way;
use super::several::{becomes, reasons, revision, seen};
use super::trouble::trouble;
use crate::harness::{DEADLINE, Server, eventually};

/// An HTTP server that counts who asks for which path, and says 503 of those that fail.
struct Target {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    over: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Seen {
    failing: BTreeSet<u16>,
    /// When each path was asked for, in nanoseconds.
    asked: BTreeMap<u16, Vec<u64>>,
}

impl Target {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("its address");
        let (seen, over): (Arc<Mutex<Seen>>, Arc<AtomicBool>) = Default::default();
        let (shared, ends, clock) = (seen.clone(), over.clone(), Clock::start());
        let accepting = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ends.load(Ordering::SeqCst) {
                    return;
                }
                // Who gave up before it was answered is a node that was killed.
                drop(stream.and_then(|stream| answer(stream, &shared, clock.now().mono_ns)));
            }
        });
        Self { address, seen, over, accepting: Some(accepting) }
    }

    fn fail(&self, ports: impl IntoIterator<Item = u16>) {
        self.seen.lock().expect("nobody panicked").failing = ports.into_iter().collect();
    }

    /// Forgets what was asked so far.
    fn count_anew(&self) {
        self.seen.lock().expect("nobody panicked").asked.clear();
    }

    fn asked(&self) -> BTreeMap<u16, Vec<u64>> {
        self.seen.lock().expect("nobody panicked").asked.clone()
    }

    /// Waits until each of these was asked for so often since the count began.
    fn is_asked(&self, ports: &[u16], times: usize) {
        eventually("probes of each check", DEADLINE, || {
            let asked = self.asked();
            let count = |port| asked.get(port).map_or(0, Vec::len);
            ports.iter().all(|port| count(port) >= times).then_some(())
        });
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address)); // wakes the thread that accepts
        if let Some(accepting) = self.accepting.take() {
            accepting.join().expect("the thread that accepts");
        }
    }
}

fn answer(stream: TcpStream, seen: &Mutex<Seen>, now_ns: u64) -> std::io::Result<()> {
    stream.set_read_timeout(Some(DEADLINE))?;
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let port = first.split(['/', ' ']).find_map(|word| word.parse::<u16>().ok()).unwrap_or_default();
    let (fails, times) = {
        let mut seen = seen.lock().expect("nobody panicked");
        let asked = seen.asked.entry(port).or_default();
        asked.push(now_ns);
        let times = asked.len();
        (seen.failing.contains(&port), times)
    };
    let status = if fails { "503 Service Unavailable" } else { "200 OK" };
    // Other words each time: the same verdict in other words is nothing to write.
    let body = format!("{times}\n");
    write!(&stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

const PORTS: [u16; 12] = [8001, 8002, 8003, 8004, 8005, 8006, 8007, 8008, 8009, 8010, 8011, 8012];

/// Registers an instance for each port, each with a check that is probed every second.
fn register_all(node: &Server, target: &Target) {
    let mut client = node.client();
    for port in PORTS {
        let check =
            json!({"id": "page", "http": format!("http://{}/{port}", target.address), "interval": "1s"});
        let form = json!({"service": "web", "id": format!("web-{port}"), "host": "m1", "address": "127.0.0.1",
                          "port": port, "lease": "none", "checks": [check]});
        client.done("registered", &json!({ "register": form }));
    }
}

/// Whose each instance is, by the ring that a node tells.
fn owners(node: &Server) -> BTreeMap<u16, String> {
    let mut client = node.client();
    let owner = |port: u16| {
        let ring = client.done("ring", &json!({"ring": {"id": format!("web/web-{port}@m1")}}));
        ring["placed"][0]["owner"].as_str().expect("an owner").to_owned()
    };
    PORTS.into_iter().zip(PORTS.map(owner)).collect()
}

/// Probes that a node has made.
fn made(node: &Server) -> f64 {
    let page = node.http().get("/metrics");
    let of = |line: &str| line.strip_prefix("callsign_probes_total")?.rsplit(' ').next()?.parse::<f64>().ok();
    page.text().lines().filter_map(of).sum()
}

/// A node more would be a probe more of each check in each second: that many were not made. How long it took is by the
/// target's clock, and a machine that is late makes fewer.
fn once_a_second(asked: &BTreeMap<u16, Vec<u64>>) {
    for (port, times) in asked {
        let [first, .., last] = times[..] else { panic!("{port} was asked {} times", times.len()) };
        let seconds = Duration::from_nanos(last - first).as_secs_f64();
        // One more for the jitter, and one for a start that was put off.
        assert!((times.len() - 1) as f64 <= seconds + 2.0, "{port}: {} in {seconds:.1} s", times.len());
    }
}

#[test]
fn a_check_is_probed_by_one_node_and_only_verdicts_are_written() {
    let etcd = Etcd::start();
    let nodes = [etcd.node("a", &[]), etcd.node("b", &[]), etcd.node("c", &[])];
    let target = Target::new();
    register_all(&nodes[0], &target);
    nodes.iter().for_each(|node| becomes(node, &PORTS));
    assert_eq!(owners(&nodes[0]), owners(&nodes[2]), "they do not agree on the ring");
    let owners: BTreeSet<String> = owners(&nodes[0]).into_values().collect();
    assert_eq!(owners.len(), 3, "one of them has nothing to probe");
    let before = revision(&nodes[0]);
    target.count_anew();
    target.is_asked(&PORTS, 8);
    once_a_second(&target.asked());
    nodes.iter().for_each(|node| assert!(made(node) > 0.0, "it probed nothing"));
    assert_eq!(revision(&nodes[0]), before, "probes were written");
    // A verdict is one write each, and in the DNS of all; whoever probes it.
    let failing = [8002, 8005, 8008, 8011];
    target.fail(failing);
    let rest: Vec<u16> = PORTS.into_iter().filter(|port| !failing.contains(port)).collect();
    nodes.iter().for_each(|node| becomes(node, &rest));
    assert_eq!(revision(&nodes[0]), before + failing.len() as u64);
    target.fail([]);
    nodes.iter().for_each(|node| becomes(node, &PORTS));
    assert_eq!(revision(&nodes[0]), before + 2 * failing.len() as u64);
}

#[test]
fn probes_move_with_the_ring_and_no_verdict_is_lost() {
    let etcd = Etcd::start();
    let mut nodes = vec![etcd.node("a", &[]), etcd.node("b", &[]), etcd.node("c", &[])];
    let target = Target::new();
    register_all(&nodes[0], &target);
    nodes.iter().for_each(|node| becomes(node, &PORTS));
    let of_c: Vec<u16> =
        owners(&nodes[0]).into_iter().filter(|(_, owner)| owner == "c").map(|(port, _)| port).collect();
    let others: Vec<u16> = PORTS.into_iter().filter(|port| !of_c.contains(port)).collect();
    assert!(!of_c.is_empty() && !others.is_empty());
    // Killed in the moment in which all that it probes fails, and one that it does not.
    let mut dead = nodes.remove(2);
    target.fail(of_c.iter().chain(&others[..1]).copied());
    dead.crash();
    nodes.iter().for_each(|node| becomes(node, &others[1..]));
    assert!(owners(&nodes[0]).values().all(|owner| owner != "c"));
    target.fail([]);
    nodes.iter().for_each(|node| becomes(node, &PORTS));
    target.count_anew();
    target.is_asked(&PORTS, 4);
    once_a_second(&target.asked());
    // Another node has its part of them as soon as it is there, and again each check is one node's.
    let late = etcd.node("d", &[]);
    eventually("probes of the new node", DEADLINE, || (made(&late) > 0.0).then_some(()));
    assert_eq!(owners(&late), owners(&nodes[0]));
    target.count_anew();
    target.is_asked(&PORTS, 8);
    once_a_second(&target.asked());
    target.fail(PORTS);
    nodes.iter().chain([&late]).for_each(|node| becomes(node, &[]));
}

#[test]
fn what_probes_find_while_etcd_is_away_is_not_said_when_it_is_over() {
    let etcd = Etcd::start();
    let way = Way::to(etcd.port());
    let node = Server::start(&["--store", &way.store(), "--node", "a"]);
    let target = Target::new();
    register_all(&node, &target);
    becomes(&node, &PORTS);
    let before = changes(&node);
    way.cut(true);
    eventually("the trouble in the status", DEADLINE, || trouble(&node));
    target.fail(PORTS);
    target.count_anew();
    target.is_asked(&PORTS, 3);
    assert_eq!(seen(&node), PORTS, "a verdict that etcd does not have");
    target.fail([]);
    target.count_anew();
    target.is_asked(&PORTS, 3);
    way.cut(false);
    eventually("the end of the trouble", DEADLINE, || trouble(&node).is_none().then_some(()));
    target.count_anew();
    target.is_asked(&PORTS, 3);
    assert_eq!(changes(&node), before, "what was over was said");
    // And what is so is said again.
    target.fail([8001]);
    becomes(&node, &PORTS[1..]);
}

/// Verdicts that a node has seen.
fn changes(node: &Server) -> usize {
    reasons(&mut node.client()).iter().filter(|reason| *reason == "reported").count()
}

#[test]
fn an_alias_follows_what_it_is_one_of_at_another_node() {
    let etcd = Etcd::start();
    let nodes = [etcd.node("a", &[]), etcd.node("b", &[])];
    let mut client = nodes[0].client();
    let mut register = |service: &str, id: &str, port: u16, checks: Value| {
        let form = json!({"service": service, "id": id, "host": "m1", "address": "127.0.0.1", "port": port,
                          "lease": "none", "checks": checks});
        client.done("registered", &json!({ "register": form }));
    };
    register("db", "db", 9000, json!([{"id": "up", "status": "passing"}]));
    // Eight of them: each node has some to look at.
    for port in 8001..=8008 {
        register("web", &format!("web-{port}"), port, json!([{"id": "db", "alias": "db"}]));
    }
    let all: Vec<u16> = (8001..=8008).collect();
    nodes.iter().for_each(|node| becomes(node, &all));
    let report = |status: &str| json!({"report": {"service": "db", "id": "db", "host": "m1", "check": "up", "status": status}});
    nodes[1].client().done("reported", &report("critical"));
    nodes.iter().for_each(|node| becomes(node, &[]));
    nodes[0].client().done("reported", &report("passing"));
    nodes.iter().for_each(|node| becomes(node, &all));
}
