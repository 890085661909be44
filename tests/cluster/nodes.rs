//! What is told of nodes: who is a member, how far each has followed, and what is whose.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde_json::{Value, json};

use super::etcd::Etcd;
use super::several::register;
use crate::harness::{DEADLINE, Server, callsign, eventually};

/// A way to etcd that can be cut.
pub struct Way {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    cut: bool,
    over: bool,
    open: Vec<TcpStream>,
}

impl Way {
    pub fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("its address");
        let state: Arc<Mutex<State>> = Arc::default();
        let shared = state.clone();
        let accepting = std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let mut state = shared.lock().expect("nobody panicked");
                if state.over {
                    return;
                }
                if !state.cut {
                    // Where etcd is not there, the node sees a closed connection, as without us.
                    drop(TcpStream::connect(("127.0.0.1", port)).and_then(|far| state.join(near, far)));
                }
            }
        });
        Self { address, state, accepting: Some(accepting) }
    }

    /// The value of `--store` that goes this way.
    pub fn store(&self) -> String {
        format!("etcd://{}", self.address)
    }

    pub fn cut(&self, cut: bool) {
        let mut state = self.state.lock().expect("nobody panicked");
        state.cut = cut;
        for stream in state.open.drain(..) {
            drop(stream.shutdown(Shutdown::Both)); // it may be closed already
        }
    }
}

impl State {
    fn join(&mut self, near: TcpStream, far: TcpStream) -> io::Result<()> {
        for (from, to) in [(&near, &far), (&far, &near)] {
            let (mut from, mut to) = (from.try_clone()?, to.try_clone()?);
            std::thread::spawn(move || {
                drop(io::copy(&mut from, &mut to));
                drop(to.shutdown(Shutdown::Both));
            });
        }
        self.open.extend([near, far]);
        Ok(())
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.cut(true);
        self.state.lock().expect("nobody panicked").over = true;
        drop(TcpStream::connect(self.address)); // wakes the thread that accepts
        if let Some(accepting) = self.accepting.take() {
            accepting.join().expect("the thread that accepts");
        }
    }
}

fn nodes(server: &Server) -> Vec<Value> {
    let told = server.client().done("nodes", &json!({"nodes": {}}));
    told["nodes"].as_array().cloned().expect("a list")
}

/// Waits until what a server tells of a node is so.
fn told(server: &Server, name: &str, is: impl Fn(&Value) -> bool) -> Value {
    eventually(name, DEADLINE, || nodes(server).into_iter().find(|node| node["name"] == name && is(node)))
}

#[test]
fn every_node_tells_what_the_others_have_seen() {
    let etcd = Etcd::start();
    let mut nodes = vec![etcd.node("a", &[]), etcd.node("b", &[]), etcd.node("c", &[])];
    nodes[0].client().done("registered", &register("web-1", 8001, "none"));
    for node in &nodes {
        for name in ["a", "b", "c"] {
            let told = told(node, name, |told| told["lag"] == 0);
            assert_eq!((&told["alive"], told["revision"].is_u64()), (&json!(true), true), "{told}");
        }
        let shares: f64 = self::nodes(node).iter().filter_map(|node| node["share"].as_f64()).sum();
        assert!((shares - 1.0).abs() < 1e-9, "{shares}");
    }
    // The command says the same, in a table and in JSON.
    let server = format!("unix:{}", nodes[1].socket.display());
    let shown = callsign(&["nodes", "--server", &server]);
    let lines: Vec<Vec<&str>> = shown.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NODE", "ALIVE", "ADDRESS", "REVISION", "LAG", "SHARE"]);
    assert_eq!((lines[1][..3].to_vec(), lines[1][4]), (vec!["a", "yes", &*nodes[0].dns[0].to_string()], "0"));
    let json: Value =
        serde_json::from_str(&callsign(&["nodes", "--server", &server, "-o", "json"]).stdout).unwrap();
    assert_eq!(json.as_array().map(Vec::len), Some(3));
    // So does Consul's list, among the tags.
    let members = nodes[1].http().get("/v1/agent/members").json();
    assert_eq!((&members[0]["Status"], &members[0]["Tags"]["lag"]), (&json!(1), &json!("0")), "{members}");
    // One that dies is shown as such, and why it says nothing.
    let mut dead = nodes.remove(2);
    dead.crash();
    for node in &nodes {
        let told = told(node, "c", |told| told["alive"] == false);
        assert!(told["left"].is_string() && told["share"] == 0.0, "{told}");
        assert!(told["revision"].is_null() && told["silent"].as_str().unwrap().contains("refused"), "{told}");
    }
    let members = nodes[1].http().get("/v1/agent/members").json();
    assert_eq!((&members[2]["Name"], &members[2]["Status"]), (&json!("c"), &json!(4)), "{members}");
    // Back under its name, it is one of them again.
    let back = etcd.node("c", &[]);
    told(&nodes[0], "c", |told| told["alive"] == true && told["lag"] == 0);
    assert_eq!(self::nodes(&back).len(), 3);
}

#[test]
fn a_node_that_is_cut_off_is_seen_to_lag() {
    let etcd = Etcd::start();
    let way = Way::to(etcd.port());
    let near = etcd.node("a", &[]);
    let far = Server::start(&["--store", &way.store(), "--node", "b"]);
    told(&near, "b", |told| told["lag"] == 0);
    way.cut(true);
    // Its last known answers stay, and it says of which revision they are.
    for port in 8001..8004 {
        near.client().done("registered", &register(&format!("web-{port}"), port, "none"));
    }
    told(&near, "b", |told| told["lag"].as_u64().is_some_and(|lag| lag >= 3));
    told(&near, "b", |told| told["alive"] == false && told["lag"].as_u64().is_some_and(|lag| lag >= 3));
    // Itself, it hears from the other how far it is behind.
    told(&far, "b", |told| told["lag"].as_u64().is_some_and(|lag| lag >= 3));
    way.cut(false);
    told(&near, "b", |told| told["alive"] == true && told["lag"] == 0);
}

#[test]
fn nodes_that_say_one_address_are_not_asked() {
    let etcd = Etcd::start();
    let near = etcd.node("a", &[]);
    // As if each were on a machine of its own, where this is its loopback.
    let port = near.dns[0].port().to_string();
    let _far = etcd.node("b", &["--dns", &format!("127.0.0.2:{port}"), "--advertise", "127.0.0.1"]);
    let told = told(&near, "b", |told| told["alive"] == true);
    assert!(told["silent"].as_str().is_some_and(|why| why.contains("--advertise")), "{told}");
    assert!(told["revision"].is_null() && told["lag"].is_null(), "{told}");
}

#[test]
fn the_ring_is_the_same_at_all_nodes() {
    let etcd = Etcd::start();
    let nodes = [etcd.node("a", &[]), etcd.node("b", &[]), etcd.node("c", &[])];
    nodes[0].client().done("registered", &register("web-1", 8001, "none"));
    let ring = |node: &Server| node.client().done("ring", &json!({"ring": {"id": "web-1"}}));
    let told = eventually("three nodes at all of them", DEADLINE, || {
        let told: Vec<Value> = nodes.iter().map(ring).collect();
        let whole =
            |ring: &Value| ring["nodes"].as_array().map(Vec::len) == Some(3) && ring["placed"][1].is_object();
        told.iter().all(whole).then_some(told)
    });
    assert!(told.iter().all(|other| *other == told[0]), "{told:?}");
    let (id, whole) = (&told[0]["placed"][0], &told[0]["placed"][1]);
    let expected = json!({"id": "web-1", "hash": "5743426c69243ab1", "slot": 15025, "place": 15025.0 / 16384.0,
                          "owner": "c", "next": "b"});
    assert_eq!(*id, expected);
    assert_eq!((&whole["id"], &whole["slot"]), (&json!("web/web-1@m1"), &json!(12981)));
    let slots: u64 =
        told[0]["nodes"].as_array().unwrap().iter().filter_map(|node| node["slots"].as_u64()).sum();
    assert_eq!(slots, 16_384);
    let refused = nodes[0].client().ask(&json!({"ring": {"id": ""}}));
    assert_eq!((&refused["error"]["code"], &refused["error"]["field"]), (&json!("invalid"), &json!("id")));
}
