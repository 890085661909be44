//! What the server costs from outside: durable registrations, heartbeats, a million instances.
//!
//!     cargo bench --bench server                 everything
//!     cargo bench --bench server -- rates        registrations and heartbeats a second
//!     cargo bench --bench server -- peers        durable writes a second of etcd, Consul and Redis, in the same run as ours
//!     cargo bench --bench server -- probes       20,000 checks at an interval of 10 s: processor time, and how late
//!     cargo bench --bench server -- million      memory, disk and time to the first answer with 1,000,000 instances
//!
//! `CALLSIGN_PEERS=DIR` names a directory with the peers' programs; what is not there is looked for in the PATH,
//! and what is nowhere is left out and named. Starts the release server on a Unix socket in a directory of its own, on the disk that holds `target/`.
//! Compare figures of one run only.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long each rate is measured.
const MEASURE: Duration = Duration::from_secs(4);
/// Requests in flight on a pipelined connection.
const IN_FLIGHT: usize = 64;
const MILLION: usize = 1_000_000;

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let wants = |what: &str| wanted.is_empty() || wanted.iter().any(|word| word == what);
    if wants("rates") {
        rates();
    }
    if wants("peers") {
        peers();
    }
    if wants("probes") {
        for (what, share) in [("TCP", 0), ("HTTP", 100), ("half TCP, half HTTP", 50)] {
            probes(what, share);
        }
    }
    if wants("million") {
        million();
    }
}

struct Server {
    child: Child,
    directory: tempfile::TempDir,
    /// From the start of the process to its `ready` line.
    ready_after: Duration,
    dns: String,
}

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn now() -> Instant {
    Instant::now()
}

impl Server {
    fn start(directory: tempfile::TempDir) -> Self {
        Self::start_logging(directory, "warn", Stdio::inherit())
    }

    fn start_logging(directory: tempfile::TempDir, filter: &str, log: Stdio) -> Self {
        let started = now();
        let mut child = Command::new(env!("CARGO_BIN_EXE_callsign"))
            .args([
                "serve",
                "--dns",
                "127.0.0.1:0",
                "--http",
                "none",
                "--log",
                filter,
                "--instances-max",
                "2000000",
            ])
            .arg("--socket")
            .arg(directory.path().join("s"))
            .arg("--data")
            .arg(directory.path().join("data"))
            .env_remove("CALLSIGN_PEERS") // it refuses variables that it does not know
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the server starts");
        let mut lines = BufReader::new(child.stdout.take().expect("its stdout")).lines();
        let mut dns = String::new();
        loop {
            let line = lines.next().expect("a `ready` line").expect("its stdout");
            if let Some(address) = line.strip_prefix("dns udp+tcp ") {
                dns = address.to_owned();
            }
            if line.starts_with("ready") {
                break;
            }
        }
        Self { child, directory, ready_after: started.elapsed(), dns }
    }

    fn connect(&self) -> UnixStream {
        UnixStream::connect(self.directory.path().join("s")).expect("the socket accepts")
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data/callsign.redb")
    }

    /// Seconds of processor time so far.
    fn cpu(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("its stat");
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap_or(0) + fields[12].parse::<u64>().unwrap_or(0);
        ticks as f64 / 100.0
    }

    fn resident_mib(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("its status");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default().to_owned();
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
    }

    fn stop(mut self) -> tempfile::TempDir {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("it is ours to end");
        self.child.wait().expect("it ends");
        self.directory
    }
}

fn registration(connection: usize, number: usize) -> String {
    format!(
        "{{\"register\":{{\"service\":\"s{}\",\"id\":\"i{connection}-{number}\",\"address\":\"10.{}.{}.{}\",\"port\":8080,\"lease\":\"1h\"}}}}\n",
        number % 1000,
        connection % 250,
        number / 250 % 250,
        number % 250 + 1,
    )
}

/// Sends `line(connection, n)` for `MEASURE`, `in_flight` at once on each connection; replies a second and latencies.
fn load(
    server: &Server,
    connections: usize,
    in_flight: usize,
    line: impl Fn(usize, usize) -> String + Sync,
) -> (f64, Vec<u64>) {
    load_over(
        || server.connect(),
        connections,
        in_flight,
        line,
        |reader| {
            let mut reply = String::new();
            reader.read_line(&mut reply).expect("it replies");
            assert!(!reply.contains("\"error\""), "{reply}");
        },
    )
}

/// A stream that a second handle can be made of.
trait Duplex: Read + Write + Send + Sized {
    fn second(&self) -> Self;
}

impl Duplex for UnixStream {
    fn second(&self) -> Self {
        self.try_clone().expect("a second handle")
    }
}

impl Duplex for TcpStream {
    fn second(&self) -> Self {
        self.try_clone().expect("a second handle")
    }
}

fn load_over<S: Duplex>(
    connect: impl Fn() -> S + Sync,
    connections: usize,
    in_flight: usize,
    line: impl Fn(usize, usize) -> String + Sync,
    read_reply: impl Fn(&mut BufReader<S>) + Sync,
) -> (f64, Vec<u64>) {
    let counted = AtomicU64::new(0);
    let started = now();
    let mut latencies: Vec<u64> = thread::scope(|scope| {
        let workers: Vec<_> = (0..connections)
            .map(|connection| {
                let (counted, line, connect, read_reply) = (&counted, &line, &connect, &read_reply);
                scope.spawn(move || {
                    let stream = connect();
                    let mut writer = stream.second();
                    let mut reader = BufReader::new(stream);
                    let (mut number, mut latencies) = (0, Vec::new());
                    while started.elapsed() < MEASURE {
                        let batch: String = (0..in_flight).map(|at| line(connection, number + at)).collect();
                        let sent = now();
                        writer.write_all(batch.as_bytes()).expect("it reads");
                        for _ in 0..in_flight {
                            read_reply(&mut reader);
                            latencies.push(sent.elapsed().as_micros() as u64);
                        }
                        number += in_flight;
                        counted.fetch_add(in_flight as u64, Ordering::Relaxed);
                    }
                    latencies
                })
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a worker")).collect()
    });
    latencies.sort_unstable();
    (counted.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64(), latencies)
}

fn rates() {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    println!("| what | connections | in flight | per second | p50 µs | p99 µs | server CPU µs each |");
    println!("|---|---|---|---|---|---|---|");
    for (connections, in_flight) in
        [(1, 1), (16, 1), (256, 1), (1, IN_FLIGHT), (16, IN_FLIGHT), (256, IN_FLIGHT)]
    {
        let server = Server::start(tempfile::tempdir_in(target).expect("a directory"));
        let before = server.cpu();
        let (rate, latencies) = load(&server, connections, in_flight, registration);
        row("register, durable", connections, in_flight, rate, &latencies, server.cpu() - before);
        drop(server.stop());
    }
    let server = Server::start(tempfile::tempdir_in(target).expect("a directory"));
    let mut stream = server.connect();
    for number in 0..1000 {
        stream.write_all(registration(0, number).as_bytes()).expect("it reads");
    }
    let mut replies = BufReader::new(stream).lines();
    for _ in 0..1000 {
        replies.next().expect("a reply").expect("it replies");
    }
    for (connections, in_flight) in [(1, 1), (1, IN_FLIGHT), (4, 256)] {
        let before = server.cpu();
        let heartbeat = |_, number: usize| {
            format!("{{\"heartbeat\":{{\"service\":\"s{0}\",\"id\":\"i0-{0}\"}}}}\n", number % 1000)
        };
        let (rate, latencies) = load(&server, connections, in_flight, heartbeat);
        row("heartbeat", connections, in_flight, rate, &latencies, server.cpu() - before);
    }
    drop(server.stop());
}

fn row(what: &str, connections: usize, in_flight: usize, rate: f64, latencies: &[u64], cpu: f64) {
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize];
    let each = cpu * 1e6 / latencies.len() as f64;
    println!("| {what} | {connections} | {in_flight} | {rate:.0} | {} | {} | {each:.1} |", at(0.5), at(0.99));
}

/// A peer's process, ended when this is dropped.
struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a peer and waits until its port accepts; none where the program is not there.
fn peer(program: &str, port: u16, arguments: &[String]) -> Option<Peer> {
    let ours = std::env::var_os("CALLSIGN_PEERS").map(|directory| Path::new(&directory).join(program));
    let path = ours.filter(|path| path.exists()).unwrap_or_else(|| program.into());
    let child = Command::new(path).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let Ok(child) = child else {
        println!("{program} LEFT OUT: neither in the directory that CALLSIGN_PEERS names nor in the PATH");
        return None;
    };
    let peer = Peer(child);
    let started = now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(started.elapsed() < Duration::from_secs(20), "{program} does not accept on port {port}");
        thread::yield_now();
    }
    Some(peer)
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

/// What others write durably: etcd through its JSON gateway, Consul through its agent, Redis with
/// `appendfsync always`.
fn peers() {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    println!("| what | connections | in flight | per second | p50 µs | p99 µs |");
    println!("|---|---|---|---|---|---|");
    for (connections, in_flight) in [(1, 1), (16, 1)] {
        let server = Server::start(tempfile::tempdir_in(target).expect("a directory"));
        let (rate, latencies) = load(&server, connections, in_flight, registration);
        peer_row("callsign register", connections, in_flight, rate, &latencies);
        drop(server.stop());
        let directory = tempfile::tempdir_in(target).expect("a directory");
        let (client, other) = (free_port(), free_port());
        let url = |port| format!("http://127.0.0.1:{port}");
        let arguments = ["--data-dir".to_owned(), directory.path().display().to_string()].into_iter();
        let arguments = arguments.chain(
            ["--listen-client-urls", "--advertise-client-urls"]
                .into_iter()
                .flat_map(|flag| [flag.to_owned(), url(client)]),
        );
        let arguments = arguments.chain(
            ["--listen-peer-urls", "--initial-advertise-peer-urls"]
                .into_iter()
                .flat_map(|flag| [flag.to_owned(), url(other)]),
        );
        let arguments = arguments.chain([format!("--initial-cluster=default={}", url(other))]);
        if let Some(_etcd) = peer("etcd", client, &arguments.collect::<Vec<_>>()) {
            // The gateway accepts before there is a leader: one write through is the sign.
            let put = |connection: usize, number: usize| {
                let body = format!(
                    "{{\"key\":\"{:020}\",\"value\":\"{:0200}\"}}",
                    connection * 1_000_000 + number,
                    number % 1000
                );
                format!("POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len())
            };
            let connect = || TcpStream::connect(("127.0.0.1", client)).expect("etcd accepts");
            let (rate, latencies) = load_over(connect, connections, in_flight, put, read_http);
            peer_row("etcd put (JSON)", connections, in_flight, rate, &latencies);
        }
        consul(connections, in_flight);
    }
    for (connections, in_flight) in [(1, 1), (16, 1), (256, IN_FLIGHT)] {
        let directory = tempfile::tempdir_in(target).expect("a directory");
        let port = free_port();
        let settings = format!(
            "--port {port} --bind 127.0.0.1 --appendonly yes --appendfsync always --save --dir {}",
            directory.path().display()
        );
        let mut arguments: Vec<String> = settings.split(' ').map(str::to_owned).collect();
        let save = arguments.iter().position(|word| word == "--save").expect("it is there");
        arguments.insert(save + 1, String::new());
        if let Some(_redis) = peer("redis-server", port, &arguments) {
            let set = |connection: usize, number: usize| {
                let (key, value) = (format!("{connection}-{number}"), "v".repeat(200));
                format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${}\r\n{value}\r\n", key.len(), value.len())
            };
            let connect = || TcpStream::connect(("127.0.0.1", port)).expect("Redis accepts");
            let (rate, latencies) = load_over(connect, connections, in_flight, set, |reader| {
                let mut reply = String::new();
                reader.read_line(&mut reply).expect("it replies");
                assert!(reply.starts_with('+'), "{reply}");
            });
            peer_row("Redis SET, appendfsync always", connections, in_flight, rate, &latencies);
        }
    }
}

/// Registrations at the agent of one server, which is its own cluster.
fn consul(connections: usize, in_flight: usize) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let http = free_port();
    let settings = format!(
        "agent -server -bootstrap-expect=1 -bind=127.0.0.1 -client=127.0.0.1 -dns-port=-1 -grpc-port=-1 \
         -grpc-tls-port=-1 -serf-wan-port=-1 -http-port={http} -server-port={} -serf-lan-port={} -data-dir={}",
        free_port(),
        free_port(),
        directory.path().display()
    );
    let arguments: Vec<String> = settings.split_whitespace().map(str::to_owned).collect();
    let Some(_consul) = peer("consul", http, &arguments) else { return };
    let connect = || TcpStream::connect(("127.0.0.1", http)).expect("Consul accepts");
    // It accepts before it leads itself, and registers then what its catalog does not have yet.
    let started = now();
    loop {
        let mut stream = connect();
        stream
            .write_all(b"GET /v1/status/leader HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .expect("it reads");
        let mut reply = String::new();
        stream.read_to_string(&mut reply).expect("it replies");
        if reply.contains("\"127.0.0.1:") {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(30), "Consul has no leader: {reply}");
        thread::yield_now();
    }
    let register = |connection: usize, number: usize| {
        let body = format!(
            "{{\"Name\":\"s{}\",\"ID\":\"i{connection}-{number}\",\"Address\":\"10.{}.{}.{}\",\"Port\":8080}}",
            number % 1000,
            connection % 250,
            number / 250 % 250,
            number % 250 + 1
        );
        format!(
            "PUT /v1/agent/service/register HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let (rate, latencies) = load_over(connect, connections, in_flight, register, read_http);
    peer_row("Consul register (agent)", connections, in_flight, rate, &latencies);
}

/// One response with a Content-Length.
fn read_http(reader: &mut BufReader<TcpStream>) {
    let (mut line, mut length) = (String::new(), 0);
    reader.read_line(&mut line).expect("it replies");
    assert!(line.starts_with("HTTP/1.1 200"), "{line}");
    loop {
        line.clear();
        reader.read_line(&mut line).expect("it replies");
        if let Some(octets) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = octets.trim().parse().expect("a number");
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("its body");
    assert!(!body.starts_with(b"{\"error"), "{}", String::from_utf8_lossy(&body));
}

fn peer_row(what: &str, connections: usize, in_flight: usize, rate: f64, latencies: &[u64]) {
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize];
    println!("| {what} | {connections} | {in_flight} | {rate:.0} | {} | {} |", at(0.5), at(0.99));
}

/// Probes of 20,000 checks, so many of a hundred over HTTP. Targets are threads of this process, on loopback addresses
/// of their own: one address has 28,000 ports for connections, and each rests a minute.
fn probes(what: &str, http_share: usize) {
    const CHECKS: usize = 20_000;
    const TARGETS: usize = 16;
    /// Three intervals, after one in which the first probes are spread.
    const SETTLE: Duration = Duration::from_secs(12);
    const MEASURE: Duration = Duration::from_secs(30);
    let probed = std::sync::Arc::new(AtomicU64::new(0));
    let targets: Vec<std::net::SocketAddr> = (1..=TARGETS)
        .map(|target| {
            let listener =
                std::net::TcpListener::bind(format!("127.0.1.{target}:0")).expect("a loopback address");
            let address = listener.local_addr().expect("its address");
            let probed = probed.clone();
            thread::spawn(move || {
                let mut request = [0; 4096];
                for mut stream in listener.incoming().flatten() {
                    probed.fetch_add(1, Ordering::Relaxed);
                    // A TCP probe says nothing, and an HTTP probe everything at once.
                    if matches!(stream.read(&mut request), Ok(1..)) {
                        let reply = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
                        drop(stream.write_all(reply));
                    }
                }
            });
            address
        })
        .collect();
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let log_path = directory.path().join("log");
    let log = std::fs::File::create(&log_path).expect("a file for the log");
    let server = Server::start_logging(directory, "warn,callsign::health=debug", log.into());
    let mut writer = server.connect();
    let mut replies = BufReader::new(writer.try_clone().expect("a second handle")).lines();
    for first in (0..CHECKS).step_by(200) {
        let batch: String = (first..first + 200)
            .map(|number| {
                let target = targets[number % TARGETS];
                let kind = match number / TARGETS % 100 < http_share {
                    true => format!("\"http\":\"http://{target}/health\""),
                    false => format!("\"tcp\":\"{target}\""),
                };
                format!(
                    "{{\"register\":{{\"service\":\"s{}\",\"id\":\"i{number}\",\"address\":\"127.0.0.1\",\"port\":80,\"lease\":\"none\",\"checks\":[{{\"id\":\"c\",{kind},\"interval\":\"10s\"}}]}}}}\n",
                    number % 1000
                )
            })
            .collect();
        writer.write_all(batch.as_bytes()).expect("it reads");
        for _ in 0..200 {
            let reply = replies.next().expect("a reply").expect("it replies");
            assert!(!reply.contains("\"error\""), "{reply}");
        }
    }
    let until = |end: Instant| {
        while now() < end {
            thread::park_timeout(end.saturating_duration_since(now()));
        }
    };
    until(now() + SETTLE);
    let (cpu, made, begun) = (server.cpu(), probed.load(Ordering::Relaxed), now());
    until(now() + MEASURE);
    let wall = begun.elapsed().as_secs_f64();
    let (cpu, made) = (server.cpu() - cpu, probed.load(Ordering::Relaxed) - made);
    let resident = server.resident_mib();
    let directory = server.stop();
    println!(
        "{what}: {CHECKS} checks at 10 s: {:.0} probes a second, {:.3} processor seconds a second ({:.0} us a probe), {resident} MiB",
        made as f64 / wall,
        cpu / wall,
        cpu * 1e6 / made as f64
    );
    let log = std::fs::read_to_string(&log_path).expect("its log");
    let sums = log.lines().find(|line| line.contains("probes stopped")).expect("the sums of its probes");
    println!("    since its start:{}", sums.split("probes stopped").nth(1).unwrap_or_default());
    drop(directory);
}

/// Registers a million, restarts, and asks.
fn million() {
    let server = Server::start(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory"));
    let started = now();
    let each = MILLION / 16;
    thread::scope(|scope| {
        for connection in 0..16 {
            let server = &server;
            scope.spawn(move || {
                let stream = server.connect();
                let mut writer = stream.try_clone().expect("a second handle");
                let mut reader = BufReader::new(stream);
                let mut reply = String::new();
                for first in (0..each).step_by(256) {
                    let last = each.min(first + 256);
                    let batch: String =
                        (first..last).map(|number| in_small_services(connection, number)).collect();
                    writer.write_all(batch.as_bytes()).expect("it reads");
                    for _ in first..last {
                        reply.clear();
                        reader.read_line(&mut reply).expect("it replies");
                        assert!(!reply.contains("\"error\""), "{reply}");
                    }
                }
            });
        }
    });
    let registering = started.elapsed();
    let (resident, disk) =
        (server.resident_mib(), std::fs::metadata(server.data()).expect("the file").len() >> 20);
    println!(
        "1,000,000 instances: registered in {registering:.1?}, {resident} MiB resident, {disk} MiB on disk"
    );
    let directory = server.stop();
    let started = now();
    let server = Server::start(directory);
    let reply = Command::new(env!("CARGO_BIN_EXE_callsign"))
        .args(["dig", "s77.service.local", "A", "--dns", &server.dns])
        .output()
        .expect("our own dig");
    assert!(String::from_utf8_lossy(&reply.stdout).contains("IN A 10."), "{reply:?}");
    println!(
        "restart: ready after {:.1?}, first right answer after {:.1?}, {} MiB resident",
        server.ready_after,
        started.elapsed(),
        server.resident_mib()
    );
    drop(server.stop());
}

/// Ten instances a service, as most have.
fn in_small_services(connection: usize, number: usize) -> String {
    let service = (connection * (MILLION / 16) + number) / 10;
    registration(connection, number).replacen(
        &format!("\"s{}\"", number % 1000),
        &format!("\"s{service}\""),
        1,
    )
}
