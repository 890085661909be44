//! What a supervisor is told over NOTIFY_SOCKET, and when.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use hickory_proto::rr::RecordType;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::harness::dns::addresses;
use crate::harness::{DEADLINE, Resolver};
use crate::held::{Held, register_all};

/// Instances, so that loading takes a moment.
const INSTANCES: usize = 5_000;

struct Supervisor {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Supervisor {
    fn new(held: &Held) -> Self {
        let path = held.directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a Unix socket");
        socket.set_read_timeout(Some(DEADLINE)).expect("an option of a socket of ours");
        Self { socket, path }
    }

    fn variable(&self) -> (&str, &str) {
        ("NOTIFY_SOCKET", self.path.to_str().expect("a path"))
    }

    fn hears(&self) -> String {
        let mut buffer = [0; 1024];
        let octets = self.socket.recv(&mut buffer).expect("a message");
        String::from_utf8_lossy(&buffer[..octets]).trim_end().to_owned()
    }
}

#[test]
fn ready_is_said_when_everything_answers_and_stopping_when_it_ends() {
    let held = Held::new();
    let server = held.start();
    let mut client = held.client();
    let form = |id: usize| {
        json!({"service": format!("web-{}", id % 100), "id": format!("{id}"), "address": "10.0.0.7", "port": 80,
               "lease": "none"})
    };
    register_all(&mut client, (0..INSTANCES).map(form));
    drop(client);
    server.end(Signal::SIGKILL);
    let supervisor = Supervisor::new(&held);
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut server = held.spawn(&[supervisor.variable()]);
        assert_eq!(supervisor.hears(), "READY=1");
        // From this moment on, everything is there.
        let reply = Resolver::new(held.dns).udp("web-99.service.local.", RecordType::A);
        assert_eq!(addresses(&reply).len(), 1, "{reply:?}");
        let status = held.client().done("status", &json!({"status": {}}));
        assert_eq!((&status["ready"], &status["instances"]), (&json!(true), &json!(INSTANCES)));
        server.signal(signal);
        assert_eq!(supervisor.hears(), "STOPPING=1");
        assert!(server.wait().success());
    }
    // And nothing besides.
    supervisor.socket.set_nonblocking(true).expect("an option of a socket of ours");
    assert!(supervisor.socket.recv(&mut [0; 1]).is_err());
}

#[test]
fn the_watchdog_is_told_as_long_as_the_server_lives() {
    const TIMES: usize = 5;
    let held = Held::new();
    let supervisor = Supervisor::new(&held);
    let server = held.spawn(&[supervisor.variable(), ("WATCHDOG_USEC", "200000")]);
    let mut heard = [0; 2];
    while heard[1] < TIMES {
        match supervisor.hears().as_str() {
            "READY=1" => heard[0] += 1,
            "WATCHDOG=1" => heard[1] += 1,
            other => panic!("{other}"),
        }
    }
    assert_eq!(heard[0], 1, "ready is said once");
    server.signal(Signal::SIGTERM);
    let last = std::iter::repeat_with(|| supervisor.hears()).find(|said| said != "WATCHDOG=1");
    assert_eq!(last.as_deref(), Some("STOPPING=1"));
}

#[test]
fn without_a_supervisor_nothing_is_said() {
    let held = Held::new();
    let server = held.start();
    assert_eq!(server.stderr().lines().filter(|line| line.contains("supervisor")).count(), 0);
    server.end(Signal::SIGTERM);
}
