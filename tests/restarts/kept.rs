//! What a registration is worth after a restart, and that no counter goes back.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{RData, RecordType};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::dns::addresses;
use crate::harness::{Client, DEADLINE, Server, binary, eventually, now};

/// A store that outlives its servers.
struct Kept {
    directory: TempDir,
}

impl Kept {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a directory") }
    }

    fn serve(&self) -> Server {
        let path = |name: &str| self.directory.path().join(name).display().to_string();
        Server::start(&["--data", &path("data"), "--socket", &path("s")])
    }
}

fn end(mut server: Server, signal: Signal) {
    server.signal(signal);
    let ended = server.wait();
    assert!(signal == Signal::SIGKILL || ended.code == Some(0), "{ended:?}");
}

fn register(client: &mut Client, service: &str, id: &str, lease: &str) -> Value {
    let form = json!({"service": service, "id": id, "address": "10.0.0.7", "port": 80, "lease": lease});
    client.done("registered", &json!({ "register": form }))
}

fn found(server: &Server, id: &str) -> Option<Value> {
    server.client().list().into_iter().find(|instance| instance["id"] == id)
}

fn left(instance: &Value) -> Option<Duration> {
    instance["lease_left_ms"].as_u64().map(Duration::from_millis)
}

#[test]
fn a_timed_lease_begins_anew() {
    const LEASE: Duration = Duration::from_secs(8);
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        let kept = Kept::new();
        let server = kept.serve();
        register(&mut server.client(), "web", "a", "8s");
        let before = eventually("half of the lease to be over", DEADLINE, || {
            let left = left(&found(&server, "a").expect("its lease is not over"))?;
            (left < LEASE / 2).then_some(left)
        });
        end(server, signal);
        let begun = now();
        let server = kept.serve();
        let instance = found(&server, "a").expect("it is still there");
        let after = left(&instance).expect("its lease ends");
        assert!(after > before && after <= LEASE, "{signal}: {before:?} left before, {after:?} after");
        assert_eq!(instance["lease"], "8s");
        let reply = server.resolver().udp("web.service.local.", RecordType::A);
        assert_eq!(addresses(&reply).len(), 1);
        eventually("the end of the lease", DEADLINE, || found(&server, "a").is_none().then_some(()));
        assert!(begun.elapsed() >= LEASE, "{signal}: one whole lease, and not less");
    }
}

#[test]
fn a_guard_goes_on() {
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        let kept = Kept::new();
        let server = kept.serve();
        let mut client = server.client();
        client.done("settings", &json!({"settings": {"service": "web", "guard": "50%"}}));
        for id in ["a", "b", "c", "d", "e"] {
            let form = json!({"service": "web", "id": id, "address": "10.0.0.7", "port": 80, "lease": "1s"});
            client.done("registered", &json!({ "register": form }));
        }
        let is_marked = |server: &Server| {
            let said = server.http().get("/metrics");
            said.text().lines().any(|line| line == "callsign_services_guarded 1").then_some(())
        };
        eventually("the guard", DEADLINE, || is_marked(&server));
        eventually("the last expiry", DEADLINE, || client.list().is_empty().then_some(()));
        let ports = |server: &Server| {
            let reply = server.resolver().udp("web.service.local.", RecordType::SRV);
            crate::harness::dns::ports(&reply).len()
        };
        assert_eq!(ports(&server), 5, "{signal}");
        // What was found out by ourselves is stored with the next commit, and this one waits for it.
        client.done("registered", &json!({"register": {"service": "db", "port": 1, "lease": "none"}}));
        assert!(server.stderr().contains("too many instances went bad at once"), "{}", server.stderr());
        drop(client);
        end(server, signal);
        let server = kept.serve();
        is_marked(&server).expect("it is guarded still");
        assert_eq!(ports(&server), 5, "{signal}");
        let mut client = server.client();
        for id in ["a", "b", "c"] {
            let form =
                json!({"service": "web", "id": id, "address": "10.0.0.7", "port": 80, "lease": "none"});
            client.done("registered", &json!({ "register": form }));
        }
        assert_eq!(ports(&server), 3, "{signal}: acknowledged, it is over");
    }
}

/// `callsign run`, with a command that does nothing for long; ended with its command when it is dropped.
struct Running {
    child: Child,
}

impl Running {
    /// The port accepts from the moment on when the command has started.
    fn start(server: &Server, service: &str) -> (Self, socket2::Socket) {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.expect("a TCP socket");
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
        let port =
            socket.local_addr().ok().and_then(|address| address.as_socket()).expect("its address").port();
        let mut child = Command::new(binary())
            .args(["run", service, "--id", "held", "--port", &port.to_string(), "--drain", "0s", "--server"])
            .arg(format!("unix:{}", server.socket.display()))
            .args(["--", "sh", "-c", "echo up; exec sleep 600"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("starting callsign run");
        let mut said = BufReader::new(child.stdout.take().expect("a pipe"));
        said.read_line(&mut String::new()).expect("the command's first line");
        socket.listen(8).expect("it accepts");
        (Self { child }, socket)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The kernel ends the command with it: see `exec`.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn what_is_bound_to_a_connection_has_a_grace() {
    const GRACE: Duration = Duration::from_secs(15);
    let kept = Kept::new();
    let mut server = kept.serve();
    // The test itself has the port.
    let (running, _port) = Running::start(&server, "web");
    eventually("its registration", DEADLINE, || found(&server, "held"));
    let mut begun = now();
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        // Somebody who does not come back.
        let mut holder = server.client();
        register(&mut holder, "web", "gone", "connection");
        assert_eq!(left(&found(&server, "gone").expect("it is there")), None);
        end(server, signal);
        drop(holder);
        begun = now();
        server = kept.serve();
        let gone = found(&server, "gone").expect("its grace has begun");
        assert_eq!(gone["lease"], "connection");
        assert!(left(&gone).is_some_and(|left| left <= GRACE), "{signal}: {gone}");
        // Who comes back says the same again, and has never been away.
        eventually("the holder's return", DEADLINE, || {
            let held = found(&server, "held").expect("it never leaves");
            left(&held).is_none().then_some(())
        });
    }
    eventually("the end of the grace", DEADLINE, || {
        assert!(found(&server, "held").is_some(), "it never leaves");
        found(&server, "gone").is_none().then_some(())
    });
    assert!(begun.elapsed() >= GRACE, "not before its end");
    // It is seen at once, and stored with the next commit.
    eventually("its end in the log", DEADLINE, || {
        let log = server.client().done("log", &json!({"log": {"id": "gone", "most": 1}}));
        let last = &log["changes"][0];
        (last["instance"].is_null() && last["author"] == "callsign").then_some(())
    });
    // From here on its connection is its life again.
    drop(running);
    eventually("the end of what ran", DEADLINE, || found(&server, "held").is_none().then_some(()));
}

/// The registry without the rest of the leases.
fn registry(server: &Server) -> Vec<Value> {
    let mut instances = server.client().list();
    for instance in &mut instances {
        instance.as_object_mut().expect("an instance").remove("lease_left_ms");
    }
    instances
}

#[test]
fn everything_else_stays_as_it_was() {
    let kept = Kept::new();
    let mut server = kept.serve();
    let mut client = server.client();
    let rich = json!({"service": "rich", "id": "redis:6379", "host": "machine-1", "address": ["10.0.0.1", "2001:db8::1"],
                      "ports": {"dns": {"port": 53, "transport": "udp"}, "http": 80}, "protocol": "http",
                      "tags": ["v2"], "meta": {"path": "/é"}, "weight": 7, "priority": 2, "lease": "none",
                      "checks": [{"id": "tcp", "status": "passing"}]});
    client.done("registered", &json!({ "register": rich }));
    let there =
        json!({"service": "elsewhere", "id": "t", "target": "db.example.com.", "port": 5432, "lease": "1h"});
    client.done("registered", &json!({ "register": there }));
    for (id, status) in [("a", "passing"), ("b", "critical"), ("c", "warning"), ("d", "maintenance")] {
        register(&mut client, "web", id, "none");
        let report = json!({"service": "web", "id": id, "status": status, "output": "said so"});
        client.done("reported", &json!({ "report": report }));
    }
    register(&mut client, "web", "e", "none");
    client.done("draining", &json!({"drain": {"service": "web", "id": "e"}}));
    client.done("reported", &json!({"report": {"host": "machine-1", "check": "disk", "status": "warning"}}));
    register(&mut client, "left", "a", "none");
    client.done("deregistered", &json!({"deregister": {"service": "left", "id": "a"}}));
    let before = registry(&server);
    for signal in [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGKILL] {
        end(server, signal);
        server = kept.serve();
        assert_eq!(registry(&server), before, "{signal}");
        let mut resolver = server.resolver();
        let web = resolver.udp("web.service.local.", RecordType::A);
        assert_eq!(web.answers.len(), 1, "one address: {web}");
        let srv = resolver.udp("_web._tcp.service.local.", RecordType::SRV);
        assert_eq!(srv.answers.len(), 2, "passing and warning, not critical, not draining: {srv}");
        // What left is known for a while.
        let left = resolver.udp("left.service.local.", RecordType::A);
        assert_eq!((left.metadata.response_code, left.answers.len()), (ResponseCode::NoError, 0), "{left}");
        let explained = server.client().done("explained", &json!({"explain": {"name": "left"}}));
        assert_eq!(explained["known"], true, "{explained}");
        let never = resolver.udp("never.service.local.", RecordType::A);
        assert_eq!(never.metadata.response_code, ResponseCode::NXDomain);
    }
}

/// Revision and serial as told, and the serial as DNS has it.
fn counters(server: &Server) -> (u64, u64) {
    let status = server.client().done("status", &json!({"status": {}}));
    let soa = server.resolver().udp("service.local.", RecordType::SOA);
    let serial = soa.answers.iter().find_map(|record| match &record.data {
        RData::SOA(soa) => Some(u64::from(soa.serial)),
        _ => None,
    });
    assert_eq!(status["serial"].as_u64(), serial, "{status}");
    (status["revision"].as_u64().expect("a revision"), serial.expect("an SOA"))
}

#[test]
fn revision_and_serial_never_go_back() {
    let kept = Kept::new();
    let mut server = kept.serve();
    let mut newest = counters(&server);
    for (round, signal) in [Signal::SIGKILL, Signal::SIGTERM].into_iter().cycle().take(8).enumerate() {
        // With changes, and without.
        for number in 0..[0, 1, 20][round % 3] {
            let reply = register(&mut server.client(), "web", &format!("{number}"), "none");
            let revision = reply["revision"].as_u64().expect("a revision");
            assert!(revision > newest.0, "round {round}: {reply}");
            let after = counters(&server);
            assert!(after > newest && after.1 > newest.1, "round {round}: {newest:?}, {after:?}");
            newest = after;
        }
        end(server, signal);
        server = kept.serve();
        let after = counters(&server);
        assert!(after.0 >= newest.0 && after.1 >= newest.1, "round {round}: {newest:?}, {after:?}");
        newest = after;
    }
    println!("restarts: after 8 of them revision {}, serial {}", newest.0, newest.1);
}
