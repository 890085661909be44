//! An upgrade without a lost query: the sockets outlive the servers, and what arrives between two of them
//! waits.
//!
//! A server takes a query from the socket, answers it, and takes the next. So SIGTERM loses none, and SIGKILL
//! at most the one that was in its hands.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hickory_proto::rr::RecordType;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::asking::{Asking, Progress, Tally, ask, holds};
use crate::harness::dns::{addresses, query, read, receive_framed, send_framed};
use crate::harness::{DEADLINE, Resolver, Server, eventually, now};
use crate::held::{Held, Registration, no_socket, refused};

const INSTANCES: u16 = 3;
/// Queries that are answered rightly between two restarts, at least.
const RIGHT_BETWEEN: u64 = 100;
/// How long a client waits for an answer, without asking again.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);

/// A number from the environment, for long runs.
fn number(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).map_or(usual, |text| text.parse().expect("a number"))
}

fn register_web(held: &Held) {
    let mut client = held.client();
    for id in 0..INSTANCES {
        let form = json!({"service": "web", "id": format!("web-{id}"), "address": format!("10.0.0.{id}"),
                          "port": 80, "lease": "none"});
        client.done("registered", &json!({ "register": form }));
    }
}

fn asking(held: &Held, queries_a_second: u64) -> Asking {
    Asking {
        server: held.dns,
        name: "web.service.local.",
        records: INSTANCES,
        queries_a_second,
        window: holds(&held.udp),
        deadline: ANSWERED_WITHIN,
    }
}

/// What became of connections, each for one query.
#[derive(Debug, Default)]
struct Streams {
    answered: u64,
    not_ready: u64,
    /// The connection was taken, and closed before the answer.
    closed: u64,
    refused: u64,
    wrong: u64,
}

/// Connects, asks and closes, again and again.
fn connect_on(server: SocketAddr, stop: &AtomicBool) -> Streams {
    let mut streams = Streams::default();
    while !stop.load(Ordering::SeqCst) {
        let Ok(mut stream) = TcpStream::connect(server) else {
            streams.refused += 1;
            continue;
        };
        stream.set_read_timeout(Some(ANSWERED_WITHIN)).expect("an option of a socket of ours");
        let asked = query(7, "web.service.local.", RecordType::A, None).to_vec().expect("a wire form");
        let answer = send_framed(&mut stream, &asked).and_then(|()| receive_framed(&mut stream));
        match answer.map(|octets| read(&octets)) {
            Ok(reply) if u16::from(reply.metadata.response_code) == 2 => streams.not_ready += 1,
            Ok(reply) if addresses(&reply).len() == usize::from(INSTANCES) => streams.answered += 1,
            Ok(_) => streams.wrong += 1,
            Err(error) => {
                assert_ne!(error.kind(), ErrorKind::WouldBlock, "not answered within {ANSWERED_WITHIN:?}");
                streams.closed += 1;
            }
        }
    }
    streams
}

/// Restarts the server under queries; what became of them, over UDP and over TCP.
fn restart_on(held: &Held, signals: &[Signal], queries_a_second: u64) -> (Tally, Streams) {
    let mut server = held.start();
    register_web(held);
    let (progress, stop) = (Progress::default(), AtomicBool::new(false));
    let asking = asking(held, queries_a_second);
    let (mut gaps, begun) = (Vec::new(), now());
    let (tally, streams) = std::thread::scope(|scope| {
        let (progress, stop) = (&progress, &stop);
        let asker = scope.spawn(move || ask(asking, progress));
        let connecter = scope.spawn(move || connect_on(held.dns, stop));
        let more = |than: u64| {
            eventually("right answers", DEADLINE, || {
                (progress.right.load(Ordering::SeqCst) >= than || asker.is_finished()).then_some(())
            });
        };
        for signal in signals {
            more(progress.right.load(Ordering::SeqCst) + RIGHT_BETWEEN);
            let ended = now();
            server.end(*signal);
            server = held.start();
            gaps.push(ended.elapsed());
        }
        more(progress.right.load(Ordering::SeqCst) + RIGHT_BETWEEN);
        progress.stop.store(true, Ordering::SeqCst);
        stop.store(true, Ordering::SeqCst);
        (asker.join().expect("the asking thread"), connecter.join().expect("the connecting thread"))
    });
    gaps.sort();
    let Tally { asked, right, not_ready, lost, wrong, window_most, longest } = &tally;
    println!(
        "restarts: restarts={} signal={} rate={queries_a_second} seconds={:.1} asked={asked} right={right} not_ready={not_ready} \
         lost={lost} wrong={} waiting_most={window_most} longest_ms={} gap_p50_ms={} gap_max_ms={}",
        signals.len(),
        signals[0],
        begun.elapsed().as_secs_f64(),
        wrong.len(),
        longest.as_millis(),
        gaps[gaps.len() / 2].as_millis(),
        gaps[gaps.len() - 1].as_millis(),
    );
    println!("restarts: tcp {streams:?}");
    (tally, streams)
}

#[test]
fn sigterm_loses_no_query() {
    let held = Held::new();
    let signals = vec![Signal::SIGTERM; number("CALLSIGN_RESTARTS", 10) as usize];
    let (tally, streams) = restart_on(&held, &signals, number("CALLSIGN_RATE", 3_000));
    assert_eq!((tally.lost, tally.not_ready), (0, 0), "{tally:?}");
    assert!(tally.wrong.is_empty(), "{tally:?}");
    assert_eq!((streams.refused, streams.wrong), (0, 0), "{streams:?}");
}

/// Datagrams that a worker takes from its socket at once (`dns/batch`).
const BATCH_MAX: usize = 32;

#[test]
fn sigkill_loses_no_more_than_it_held_in_its_hands() {
    let held = Held::new();
    let signals = vec![Signal::SIGKILL; number("CALLSIGN_RESTARTS", 10) as usize];
    let (tally, streams) = restart_on(&held, &signals, number("CALLSIGN_RATE", 3_000));
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let held_at_once = workers * BATCH_MAX;
    assert!(tally.lost <= (signals.len() * held_at_once) as u64, "{tally:?}");
    assert!(tally.wrong.is_empty(), "{tally:?}");
    assert_eq!((streams.refused, streams.wrong), (0, 0), "{streams:?}");
}

#[test]
fn registrations_wait_for_the_next_server() {
    const REGISTRATIONS: usize = 30;
    let held = Held::new();
    let socket = fs::symlink_metadata(held.socket()).expect("the socket").ino();
    let mut acknowledged = 0;
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        held.start().end(signal);
        let found = fs::symlink_metadata(held.socket()).map(|found| found.ino());
        assert_eq!(found.ok(), Some(socket), "{signal}: the file is its parent's");
        // Nobody serves now, and nobody is refused.
        let mut clients: Vec<_> = (0..REGISTRATIONS).map(|_| held.client()).collect();
        let mut resolver = Resolver::new(held.dns);
        for client in &mut clients {
            let id = format!("{acknowledged}");
            client
                .send(&json!({"register": {"service": "waited", "id": id, "address": "10.0.0.1", "port": 80,
                                             "lease": "none"}}));
            acknowledged += 1;
        }
        let server = held.start();
        for client in &mut clients {
            let reply = client.receive();
            assert!(reply.get("registered").is_some(), "{reply}");
        }
        assert_eq!(held.client().list().len(), acknowledged);
        let found = resolver.tcp("waited.service.local.", RecordType::A);
        assert_eq!(addresses(&found).len(), 1);
        assert!(server.stdout().contains(&format!("socket {}", held.socket().display())));
        assert!(!held.directory.path().join("not-this-one").exists(), "it makes no socket of its own");
        server.end(Signal::SIGTERM);
    }
}

/// One request on a connection of its own, and the reply; Go's and Python's clients do no more.
fn http(server: SocketAddr, method: &str, path: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server).expect("somebody listens");
    stream.set_read_timeout(Some(ANSWERED_WITHIN)).expect("an option of a socket of ours");
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).expect("sending a request");
    stream
}

fn reply(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("a reply");
    text
}

#[test]
fn requests_over_http_wait_for_the_next_server() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a TCP socket");
    let address = listener.local_addr().expect("its address");
    let held = Held::with(tempfile::tempdir().expect("a directory"), Registration::Http(listener));
    for round in 0..3 {
        held.start().end(Signal::SIGTERM);
        // Nobody serves now, and nobody is refused.
        let body = format!(r#"{{"Name":"web","ID":"web-{round}","Address":"10.0.0.{round}","Port":80}}"#);
        let register = http(address, "PUT", "/v1/agent/service/register", &body);
        let server = held.start();
        assert!(server.stdout().contains(&format!("http {address}\n")), "{}", server.stdout());
        let answered = reply(register);
        assert!(answered.starts_with("HTTP/1.1 200 "), "{answered}");
        let found = reply(http(address, "GET", "/v1/health/service/web", ""));
        assert_eq!(found.matches("\"ID\":\"web-").count(), round + 1, "{found}");
        server.end(Signal::SIGTERM);
    }
}

/// What became of requests over HTTP, each on a connection of its own.
#[derive(Debug, Default)]
struct Requests {
    answered: u64,
    /// Refused, without a whole reply, or with another status than 200.
    broken: Vec<String>,
}

/// Asks for the instances of `web` again and again.
fn request_on(server: SocketAddr, progress: &AtomicU64, stop: &AtomicBool) -> Requests {
    let mut requests = Requests::default();
    while !stop.load(Ordering::SeqCst) {
        let answered = reply(http(server, "GET", "/v1/health/service/web", ""));
        let length = answered.split_once("content-length: ").and_then(|(_, rest)| rest.lines().next());
        let body = answered.split_once("\r\n\r\n").map(|(_, body)| body.len().to_string());
        if answered.starts_with("HTTP/1.1 200 ") && body.as_deref() == length {
            requests.answered += 1;
            progress.fetch_add(1, Ordering::SeqCst);
        } else {
            requests.broken.push(answered);
        }
    }
    requests
}

#[test]
fn sigterm_breaks_no_reply_over_http() {
    /// Clients at once, and replies between two restarts at least.
    const CLIENTS: usize = 4;
    const BETWEEN: u64 = 20;
    let restarts = number("CALLSIGN_RESTARTS", 10);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a TCP socket");
    let address = listener.local_addr().expect("its address");
    let held = Held::with(tempfile::tempdir().expect("a directory"), Registration::Http(listener));
    let mut server = held.start();
    register_web(&held);
    let (progress, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let requests: Vec<Requests> = std::thread::scope(|scope| {
        let (progress, stop) = (&progress, &stop);
        let clients: Vec<_> =
            (0..CLIENTS).map(|_| scope.spawn(move || request_on(address, progress, stop))).collect();
        for _ in 0..restarts {
            let than = progress.load(Ordering::SeqCst) + BETWEEN;
            eventually("replies", DEADLINE, || {
                let ended = clients.iter().any(|client| client.is_finished());
                (ended || progress.load(Ordering::SeqCst) >= than).then_some(())
            });
            server.end(Signal::SIGTERM);
            server = held.start();
        }
        stop.store(true, Ordering::SeqCst);
        clients.into_iter().map(|client| client.join().expect("a client")).collect()
    });
    let answered: u64 = requests.iter().map(|requests| requests.answered).sum();
    let broken: Vec<&String> = requests.iter().flat_map(|requests| &requests.broken).collect();
    println!("restarts: http of {restarts} restarts, {answered} answered, {} broken", broken.len());
    assert!(broken.is_empty(), "{broken:?}");
}

#[test]
fn a_tcp_listener_without_udp_takes_registrations() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a TCP socket");
    let address = listener.local_addr().expect("its address");
    let held = Held::with(tempfile::tempdir().expect("a directory"), Registration::Tcp(listener));
    for _ in 0..2 {
        let server = held.start();
        let lines = server.stdout();
        assert!(lines.contains(&format!("dns udp+tcp {}\n", held.dns)), "{lines}");
        assert!(lines.contains(&format!("listen {address}\n")), "{lines}");
        register_web(&held);
        let mut resolver = Resolver::new(held.dns);
        for reply in [
            resolver.udp("web.service.local.", RecordType::A),
            resolver.tcp("web.service.local.", RecordType::A),
        ] {
            assert_eq!(addresses(&reply).len(), usize::from(INSTANCES));
        }
        server.end(Signal::SIGTERM);
        // What nobody handed over it made itself, and took away again.
        assert!(!held.directory.path().join("not-this-one").exists());
    }
}

#[test]
fn descriptors_of_another_kind_are_refused_in_words() {
    let udp = || -> OwnedFd { UdpSocket::bind("127.0.0.1:0").expect("a UDP socket").into() };
    let directory = tempfile::tempdir().expect("a directory");
    let unix = |name: &str| -> OwnedFd {
        UnixListener::bind(directory.path().join(name)).expect("a Unix socket").into()
    };
    let tcp = || TcpListener::bind("127.0.0.1:0").expect("a TCP socket");
    let datagrams: OwnedFd = UnixDatagram::unbound().expect("a Unix socket").into();
    let (connected, _other_end) = UnixStream::pair().expect("a pair");
    let listener = tcp();
    let client = TcpStream::connect(listener.local_addr().expect("its address")).expect("a connection");
    let no_kind = "which is no UDP socket and no TCP or Unix stream socket that listens";
    let rows: [(&str, [OwnedFd; 3], String); 6] = [
        ("no socket", [no_socket(), unix("a"), tcp().into()], format!("descriptor 3, {no_kind}")),
        ("Unix datagrams", [unix("b"), datagrams, tcp().into()], format!("descriptor 4, {no_kind}")),
        ("UDP alone", [udp(), unix("c"), tcp().into()], "without TCP on the same address".to_owned()),
        ("two Unix sockets", [unix("d"), tcp().into(), unix("e")], "two Unix sockets".to_owned()),
        (
            "a Unix connection",
            [tcp().into(), tcp().into(), connected.into()],
            format!("descriptor 5, {no_kind}"),
        ),
        ("a TCP connection", [client.into(), unix("f"), tcp().into()], format!("descriptor 3, {no_kind}")),
    ];
    for (what, descriptors, expected) in rows {
        let (code, stderr) = refused(descriptors);
        assert_eq!(code, Some(1), "{what}: {stderr}");
        let last = stderr.lines().last().unwrap_or_default();
        assert!(last.starts_with("callsign: ") && last.contains(&expected), "{what}: {stderr}");
    }
}

#[test]
fn descriptors_for_somebody_else_are_left_alone() {
    let variables = ["env", "LISTEN_FDS=1", "LISTEN_PID=1"];
    let server = Server::start_under(&variables, &[]);
    assert_eq!(server.dns.len(), 1);
    server.client().done("status", &json!({"status": {}}));
}
