//! What the HTTP port costs, with Consul beside it in the same run.
//!
//!     cargo bench --bench http                  everything
//!     cargo bench --bench http -- rates         registrations a second over 1 and 16 keep-alive connections
//!     cargo bench --bench http -- visible       register -> visible in DNS, and in a blocking query
//!     cargo bench --bench http -- wakes         wake-ups of a blocking query by 10,000 changes of other services
//!     cargo bench --bench http -- memory        resident memory with 10,000 and 100,000 instances
//!     cargo bench --bench http -- killed        how long who resolves goes on connecting to an instance that was killed
//!     cargo bench --bench http -- watchers      10,000 watchers: memory, and the time until all have one change
//!     cargo bench --bench http -- status        what the dashboard asks for every two seconds, by the number of instances
//!
//! Consul is `consul` in the folder that `CALLSIGN_PEERS` names (`./check --peers` builds it); without that its
//! rows are missing, which is said. Both keep what they acknowledge on the disk that holds `target/`. Compare figures of one run only.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RData, Record, RecordType};

/// How long each rate is measured.
const MEASURE: Duration = Duration::from_secs(4);
/// Registrations whose way to a reader is timed.
const VISIBLE: usize = 300;
const UNRELATED: usize = 10_000;
const WATCHERS: usize = 10_000;
/// How often the status is asked for.
const STATUSES: usize = 200;
/// Instances that are killed, one after another.
const KILLED: usize = 40;
/// Nothing here takes so long, unless it never comes.
const DEADLINE: Duration = Duration::from_secs(60);

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let wants = |what: &str| wanted.is_empty() || wanted.iter().any(|word| word == what);
    raise_descriptor_limit();
    if std::env::var_os("CALLSIGN_PEERS").is_none() {
        println!("CALLSIGN_PEERS is not set: Consul's rows are left out");
    }
    let modes: [(&str, fn()); 7] = [
        ("rates", rates),
        ("visible", visible),
        ("wakes", wakes),
        ("memory", memory),
        ("killed", killed),
        ("watchers", watchers),
        ("status", status),
    ];
    for (name, mode) in modes {
        if wants(name) {
            println!("\n{name} (load {})", load());
            mode();
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn now() -> Instant {
    Instant::now()
}

fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("our own limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("our own limit, up to the hard one");
}

/// A server under measurement, of either kind.
struct Server {
    name: &'static str,
    child: Child,
    http: SocketAddr,
    dns: SocketAddr,
    /// The apex of its names.
    domain: &'static str,
    directory: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory")
}

fn callsign() -> Server {
    let directory = directory();
    let mut child = Command::new(env!("CARGO_BIN_EXE_callsign"))
        .args(["serve", "--dns", "127.0.0.1:0", "--http", "127.0.0.1:0", "--log", "warn"])
        .env_remove("CALLSIGN_PEERS") // a server takes it for a misspelt setting
        .args(["--instances-max", "200000"])
        .arg("--socket")
        .arg(directory.path().join("s"))
        .arg("--data")
        .arg(directory.path().join("data"))
        .stdout(Stdio::piped())
        .spawn()
        .expect("the server starts");
    let lines = BufReader::new(child.stdout.take().expect("its stdout")).lines();
    let lines: Vec<String> = lines
        .map(|line| line.expect("its stdout"))
        .scan(false, |over, line| {
            let last = std::mem::replace(over, line.starts_with("ready"));
            (!last).then_some(line)
        })
        .take_while(|line| !line.starts_with("ready"))
        .collect();
    let address = |start: &str| {
        let found = lines.iter().find_map(|line| line.strip_prefix(start)?.parse().ok());
        found.expect("an address")
    };
    let (http, dns) = (address("http "), address("dns udp+tcp "));
    Server { name: "callsign", child, http, dns, domain: "service.local", directory }
}

fn free_ports<const N: usize>() -> [u16; N] {
    let held = [(); N].map(|()| std::net::TcpListener::bind("127.0.0.1:0").expect("a free port"));
    held.map(|listener| listener.local_addr().expect("its address").port())
}

/// A server agent alone in its datacenter, which has elected itself.
fn consul() -> Option<Server> {
    let program = PathBuf::from(std::env::var_os("CALLSIGN_PEERS")?).join("consul");
    let directory = directory();
    let [http, dns, server, lan, wan] = free_ports();
    let mut command = Command::new(&program);
    command
        .args(["agent", "-server", "-bootstrap-expect=1", "-node=one", "-datacenter=dc1"])
        .args(["-bind=127.0.0.1", "-client=127.0.0.1", "-log-level=warn"])
        .arg(format!("-data-dir={}", directory.path().display()))
        .args(
            [("http", http), ("dns", dns), ("server", server), ("serf-lan", lan), ("serf-wan", wan)]
                .map(|(what, port)| format!("-{what}-port={port}")),
        )
        .args(["-grpc-port=-1", "-grpc-tls-port=-1", "-https-port=-1"])
        .args(["-hcl=performance { raft_multiplier = 1 }", "-hcl=disable_update_check = true"])
        .args(["-hcl=leave_on_terminate = false", "-hcl=limits { http_max_conns_per_client = 12000 }"])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let child = command.spawn().unwrap_or_else(|error| panic!("starting {}: {error}", program.display()));
    let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let server = Server {
        name: "Consul",
        child,
        http: local(http),
        dns: local(dns),
        domain: "service.consul",
        directory,
    };
    let started = now();
    loop {
        assert!(started.elapsed() < DEADLINE, "Consul has no leader");
        if let Ok(stream) = TcpStream::connect(server.http) {
            let mut http = Http::over(stream);
            // Short enough that it does not come in chunks.
            http.send("GET", "/v1/catalog/nodes", "");
            if http.receive().is_some_and(|reply| reply.body.contains("\"Node\":\"one\"")) {
                return Some(server);
            }
        }
        // It needs the processor more than we do.
        thread::park_timeout(Duration::from_millis(20));
    }
}

fn both() -> impl Iterator<Item = Server> {
    let starts: [fn() -> Option<Server>; 2] = [|| Some(callsign()), consul];
    starts.into_iter().filter_map(|start| start())
}

impl Server {
    fn connect(&self) -> Http {
        Http::over(TcpStream::connect(self.http).expect("it accepts"))
    }

    /// So many instances, ten a service, on 100 nodes.
    fn fill(&self, count: usize) {
        thread::scope(|scope| {
            for worker in 0..16 {
                scope.spawn(move || {
                    let mut http = self.connect();
                    for number in (worker..count).step_by(16) {
                        http.catalog(&format!("s{}", number / 10), &format!("i{number}"), 8080, number % 100);
                    }
                });
            }
        });
    }

    fn resident_kib(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("its status");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0)
    }
}

/// One keep-alive connection.
struct Http {
    reader: BufReader<TcpStream>,
    writer: TcpStream,
}

struct Reply {
    index: u64,
    body: String,
}

impl Http {
    fn over(writer: TcpStream) -> Self {
        writer.set_nodelay(true).expect("an option of a socket of ours");
        writer.set_read_timeout(Some(DEADLINE)).expect("an option of a socket of ours");
        let reader = BufReader::with_capacity(4096, writer.try_clone().expect("a second handle"));
        Self { reader, writer }
    }

    fn send(&mut self, method: &str, path: &str, body: &str) {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.writer.write_all(request.as_bytes()).expect("it reads");
    }

    /// The next reply with a length; of one in chunks the head alone. `None` where it is a refusal.
    fn receive(&mut self) -> Option<Reply> {
        let (mut line, mut length, mut reply) = (String::new(), 0, Reply { index: 0, body: String::new() });
        self.reader.read_line(&mut line).expect("it replies");
        let refused = !line.contains(" 200 ");
        while line != "\r\n" {
            line.clear();
            assert_ne!(self.reader.read_line(&mut line).expect("it replies"), 0, "the end of the connection");
            let lower = line.to_ascii_lowercase();
            let number = |start: &str| lower.strip_prefix(start).and_then(|text| text.trim().parse().ok());
            length = number("content-length:").unwrap_or(length);
            reply.index = number("x-consul-index:").unwrap_or(reply.index);
        }
        let mut body = vec![0; length as usize];
        self.reader.read_exact(&mut body).expect("its body");
        reply.body = String::from_utf8_lossy(&body).into_owned();
        (!refused).then_some(reply)
    }

    fn register(&mut self, service: &str, id: &str, port: usize) {
        let body = format!(
            "{{\"Name\":\"{service}\",\"ID\":\"{id}\",\"Address\":\"10.0.0.7\",\"Port\":{port},\"Tags\":[\"v2\"]}}"
        );
        self.send("PUT", "/v1/agent/service/register", &body);
        assert!(self.receive().is_some(), "{body}");
    }

    /// Past the agent, whose every registration costs Consul as much as the agent has services.
    fn catalog(&mut self, service: &str, id: &str, port: usize, node: usize) {
        let body = format!(
            "{{\"Node\":\"n{node}\",\"Address\":\"10.0.0.7\",\"Service\":{{\"Service\":\"{service}\",\"ID\":\"{id}\",\"Address\":\"10.0.0.7\",\"Port\":{port},\"Tags\":[\"v2\"]}}}}"
        );
        self.send("PUT", "/v1/catalog/register", &body);
        assert!(self.receive().is_some(), "{body}");
    }

    fn get(&mut self, path: &str) -> Reply {
        self.send("GET", path, "");
        self.receive().expect("a reply that is no refusal")
    }
}

fn at(sorted: &[Duration], share: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6
}

fn rates() {
    println!("| register over HTTP | connections | per second | p50 µs | p99 µs |\n|---|---|---|---|---|");
    for connections in [1, 16] {
        for server in both() {
            let started = now();
            let mut times: Vec<Duration> = thread::scope(|scope| {
                let server = &server;
                let workers = (0..connections).map(|connection| {
                    scope.spawn(move || {
                        let (mut http, mut times) = (server.connect(), Vec::new());
                        while started.elapsed() < MEASURE {
                            let number = times.len();
                            let sent = now();
                            http.register(
                                &format!("s{}", number % 1000),
                                &format!("i{connection}-{number}"),
                                8080,
                            );
                            times.push(sent.elapsed());
                        }
                        times
                    })
                });
                let workers: Vec<_> = workers.collect();
                workers.into_iter().flat_map(|worker| worker.join().expect("a worker")).collect()
            });
            let rate = times.len() as f64 / started.elapsed().as_secs_f64();
            times.sort_unstable();
            println!(
                "| {} | {connections} | {rate:.0} | {:.0} | {:.0} |",
                server.name,
                at(&times, 0.5),
                at(&times, 0.99)
            );
        }
    }
}

fn visible() {
    println!("| from sending `register` | p50 µs | p99 µs |\n|---|---|---|");
    for server in both() {
        let mut http = server.connect();
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        udp.connect(server.dns).expect("a route to loopback");
        udp.set_read_timeout(Some(DEADLINE)).expect("an option of a socket of ours");
        let mut times = Vec::new();
        for number in 0..VISIBLE {
            let service = format!("dns{number}");
            let name = Name::from_ascii(format!("{service}.{}.", server.domain)).expect("a name");
            let sent = now();
            http.register(&service, &service, 8080);
            loop {
                let mut query = Message::new(number as u16, MessageType::Query, OpCode::Query);
                query.add_query(Query::query(name.clone(), RecordType::A));
                udp.send(&query.to_vec().expect("a query")).expect("sending on loopback");
                let mut buffer = [0; 1500];
                let octets = udp.recv(&mut buffer).expect("a reply");
                if !Message::from_vec(&buffer[..octets]).expect("a message").answers.is_empty() {
                    break;
                }
                assert!(sent.elapsed() < DEADLINE, "never visible");
            }
            times.push(sent.elapsed());
        }
        times.sort_unstable();
        println!("| {}: in DNS | {:.0} | {:.0} |", server.name, at(&times, 0.5), at(&times, 0.99));
        let (mut times, mut waiting) = (Vec::new(), server.connect());
        http.register("web", "a", 1);
        let mut reply = waiting.get("/v1/health/service/web");
        for number in 0..VISIBLE {
            waiting.send("GET", &format!("/v1/health/service/web?index={}", reply.index), "");
            let sent = now();
            http.register("web", "a", 2 + number);
            reply = waiting.receive().expect("a reply");
            while !reply.body.contains(&format!("\"Port\":{},", 2 + number)) {
                assert!(sent.elapsed() < DEADLINE, "never visible");
                reply = waiting.get(&format!("/v1/health/service/web?index={}", reply.index));
            }
            times.push(sent.elapsed());
        }
        times.sort_unstable();
        println!(
            "| {}: in a blocking query | {:.0} | {:.0} |",
            server.name,
            at(&times, 0.5),
            at(&times, 0.99)
        );
    }
}

/// What lets a server know of a death.
#[derive(Clone, Copy)]
enum Notice {
    /// A TCP check, once a second: as often as Consul allows.
    Check,
    /// The connection that the lease is bound to.
    Connection,
}

fn killed() {
    println!("| {KILLED} instances killed: until nobody connects to them | p50 ms | p99 ms |\n|---|---|---|");
    for server in both() {
        let mut notices = vec![("TCP check of 1 s", Notice::Check)];
        if server.name == "callsign" {
            notices.push(("lease of a connection", Notice::Connection));
        }
        for (words, notice) in notices {
            let mut times: Vec<Duration> =
                (0..KILLED).map(|number| server.kill_one(number, notice)).collect();
            times.sort_unstable();
            let ms = |share| at(&times, share) / 1000.0;
            println!("| {}: {words} | {:.1} | {:.1} |", server.name, ms(0.5), ms(0.99));
        }
    }
}

impl Server {
    /// The time from the death of one of two instances to the last connection that it refused.
    fn kill_one(&self, number: usize, notice: Notice) -> Duration {
        let service = format!("killed{}{number}", if matches!(notice, Notice::Check) { "" } else { "held" });
        let [living, dying] =
            [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").expect("a free port"));
        let port = |listener: &std::net::TcpListener| listener.local_addr().expect("its address").port();
        let dead_port = port(&dying);
        self.register_checked(&service, "living", port(&living));
        let held = match notice {
            Notice::Check => {
                self.register_checked(&service, "dying", dead_port);
                None
            }
            Notice::Connection => Some(self.register_held(&service, "dying", dead_port)),
        };
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        udp.connect(self.dns).expect("a route to loopback");
        udp.set_read_timeout(Some(DEADLINE)).expect("an option of a socket of ours");
        let name = Name::from_ascii(format!("{service}.{}.", self.domain)).expect("a name");
        let resolve = || ports(&udp, &name);
        let started = now();
        while resolve().len() < 2 {
            assert!(started.elapsed() < DEADLINE, "never visible");
        }
        // Somewhere between two checks, another place each time.
        let asked = now();
        while asked.elapsed() < Duration::from_millis(1200 + 25 * number as u64) {
            resolve();
        }
        let dead = now();
        drop((dying, held));
        let (mut last, mut without) = (Duration::ZERO, 0);
        while without < 20 {
            assert!(dead.elapsed() < DEADLINE, "it never leaves");
            let found = resolve();
            without = if found.contains(&dead_port) { 0 } else { without + 1 };
            // Nobody accepts at the living one: who connected to it too would wait once its backlog is full.
            let first = *found.first().expect("one that lives");
            if first == dead_port && TcpStream::connect(("127.0.0.1", first)).is_err() {
                last = dead.elapsed();
            }
        }
        last
    }

    fn register_checked(&self, service: &str, id: &str, port: u16) {
        let body = format!(
            "{{\"Name\":\"{service}\",\"ID\":\"{service}-{id}\",\"Address\":\"127.0.0.1\",\"Port\":{port},\
             \"Check\":{{\"TCP\":\"127.0.0.1:{port}\",\"Interval\":\"1s\",\"Status\":\"passing\"}}}}"
        );
        let mut http = self.connect();
        http.send("PUT", "/v1/agent/service/register", &body);
        assert!(http.receive().is_some(), "{body}");
    }

    /// The connection that the registration lives as long as.
    fn register_held(&self, service: &str, id: &str, port: u16) -> UnixStream {
        let mut stream = UnixStream::connect(self.directory.path().join("s")).expect("the socket");
        let line = format!(
            "{{\"register\":{{\"service\":\"{service}\",\"id\":\"{id}\",\"address\":\"127.0.0.1\",\
             \"port\":{port},\"lease\":\"connection\"}}}}\n"
        );
        stream.write_all(line.as_bytes()).expect("it reads");
        stream
    }
}

/// The ports of a service, by one question for SRV.
fn ports(udp: &UdpSocket, name: &Name) -> Vec<u16> {
    let mut query = Message::new(1, MessageType::Query, OpCode::Query);
    query.add_query(Query::query(name.clone(), RecordType::SRV));
    udp.send(&query.to_vec().expect("a query")).expect("sending on loopback");
    let mut buffer = [0; 1500];
    let octets = udp.recv(&mut buffer).expect("a reply");
    let reply = Message::from_vec(&buffer[..octets]).expect("a message");
    let port = |record: &Record| match &record.data {
        RData::SRV(srv) => Some(srv.port),
        _ => None,
    };
    reply.answers.iter().filter_map(port).collect()
}

fn wakes() {
    println!("| changes of other services | replies to a blocking query |\n|---|---|");
    for server in both() {
        let (mut http, mut waiting) = (server.connect(), server.connect());
        http.register("web", "a", 1);
        let index = waiting.get("/v1/health/service/web").index;
        waiting.send("GET", &format!("/v1/health/service/web?index={index}&wait=10m"), "");
        let mut replies = 0;
        for number in 0..UNRELATED {
            http.register(&format!("s{}", number % 500), &format!("i{}", number % 500), 1 + number);
            waiting.writer.set_nonblocking(true).expect("an option of a socket of ours");
            let came = waiting.writer.peek(&mut [0]).is_ok();
            waiting.writer.set_nonblocking(false).expect("an option of a socket of ours");
            if came {
                replies += 1;
                let index = waiting.receive().expect("a reply").index;
                waiting.send("GET", &format!("/v1/health/service/web?index={index}&wait=10m"), "");
            }
        }
        println!("| {}: {UNRELATED} | {replies} |", server.name);
    }
}

fn memory() {
    println!(
        "| instances in the catalog, on 100 nodes | MiB before | MiB after | KiB each |\n|---|---|---|---|"
    );
    for count in [10_000, 100_000] {
        for server in both() {
            let before = server.resident_kib();
            server.fill(count);
            let after = server.resident_kib();
            println!(
                "| {}: {count} | {} | {} | {:.1} |",
                server.name,
                before / 1024,
                after / 1024,
                after.saturating_sub(before) as f64 / count as f64
            );
        }
    }
}

fn watchers() {
    println!(
        "| watchers | MiB before | MiB while they wait | MiB after | all had the change after |\n|---|---|---|---|---|"
    );
    for (kind, accept) in [("lines", "application/x-ndjson"), ("server-sent events", "text/event-stream")] {
        let server = callsign();
        let mut http = server.connect();
        http.register("web", "a", 1);
        let before = server.resident_kib();
        let mut all: Vec<TcpStream> = (0..WATCHERS)
            .map(|_| {
                let mut stream = TcpStream::connect(server.http).expect("it accepts");
                stream.set_read_timeout(Some(DEADLINE)).expect("an option of a socket of ours");
                let request =
                    format!("GET /v1/watch/web HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n\r\n");
                stream.write_all(request.as_bytes()).expect("it reads");
                stream
            })
            .collect();
        all.iter_mut().for_each(|stream| until(stream, "\"snapshot\""));
        let waiting = server.resident_kib();
        let sent = now();
        http.register("web", "b", 4242);
        all.iter_mut().for_each(|stream| until(stream, "4242"));
        let took = sent.elapsed();
        println!(
            "| {WATCHERS}, {kind} | {} | {} | {} | {took:.0?} |",
            before / 1024,
            waiting / 1024,
            server.resident_kib() / 1024
        );
    }
}

/// Between two of them something has changed, or nothing.
fn status() {
    println!("| instances | a change before each | p50 µs | p99 µs |\n|---|---|---|---|");
    for count in [1_000, 10_000, 100_000] {
        let server = callsign();
        server.fill(count);
        let mut http = server.connect();
        for changes in [false, true] {
            let mut times: Vec<Duration> = (0..STATUSES)
                .map(|number| {
                    if changes {
                        http.catalog("s0", "i0", 1 + number, 0);
                    }
                    let sent = now();
                    http.send("POST", "/v1/ask", "{\"status\":{}}");
                    let reply = http.receive().expect("a status");
                    let took = sent.elapsed();
                    assert!(reply.body.contains(&format!("\"live\":{count},")), "{}", reply.body);
                    took
                })
                .collect();
            times.sort_unstable();
            println!(
                "| {count} | {} | {:.0} | {:.0} |",
                if changes { "yes" } else { "no" },
                at(&times, 0.5),
                at(&times, 0.99)
            );
        }
    }
}

/// Reads until a text has come.
fn until(stream: &mut TcpStream, text: &str) {
    let (mut read, mut buffer) = (Vec::new(), [0; 4096]);
    while !String::from_utf8_lossy(&read).contains(text) {
        let octets = stream.read(&mut buffer).expect("more to come");
        assert_ne!(octets, 0, "the end of a watch");
        read.extend_from_slice(&buffer[..octets]);
    }
}
