//! Crowds of connections that want nothing good, over TCP and over TLS: who comes to ask beside them is answered.
//!
//! Idle ones ask once in a while, as seldom as keeps them open; dripping ones send an octet at a time, and come back when
//! they are closed; deaf ones ask for much and read nothing. `CALLSIGN_IDLE`, `CALLSIGN_DRIPPING`, `CALLSIGN_DEAF` and
//! `CALLSIGN_SECONDS` make it larger; tests/long/crowd.sh does.

use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use callsign::connections::Octets;
use hickory_proto::rr::RecordType;
use nix::cmsg_space;
use nix::sys::socket::sockopt::ReceiveTimestampns;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt};
use nix::sys::time::TimeSpec;
use nix::unistd::gettid;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpSocket, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::{Interval, interval, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::version::TLS13;

use crate::harness::dns::{addresses, framed, query};
use crate::harness::process::{descriptors, processor_time, resident_kib};
use crate::harness::tls::{client, localhost};
use crate::harness::{DEADLINE, Http, Server, eventually, now, stays};

const NAME: &str = "web.service.local.";
const BIG: &str = "big.service.local.";
/// Instances of the service that the deaf ask for: a reply of some kilobytes.
const BIG_INSTANCES: usize = 120;
/// How often an idle connection asks: the server closes it after 10 s.
const IDLE_ASKS_EVERY: Duration = Duration::from_secs(5);
/// How long the server bears with a message that does not end, and with a client that does not read.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(5);
const DRIP_EVERY: Duration = Duration::from_millis(250);
/// Queries of a deaf connection: their replies are more than the kernel keeps.
const DEAF_QUERIES: usize = 64;
/// How often somebody comes to ask over a new connection, and over UDP.
const NEWCOMER_EVERY: Duration = Duration::from_millis(20);
const DATAGRAM_EVERY: Duration = Duration::from_millis(5);
/// What a newcomer's answer should take, connecting and all.
const SOON: Duration = Duration::from_millis(50);
/// Crowds come from several addresses of this machine.
const CROWD_FROM: [Ipv4Addr; 3] =
    [Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3), Ipv4Addr::new(127, 0, 0, 4)];

#[expect(clippy::disallowed_methods, reason = "the kernel's times of datagrams are by this clock")]
fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock that was set")
}

fn number(variable: &str, usual: usize) -> usize {
    std::env::var(variable).map_or(usual, |text| text.parse().expect("a number"))
}

fn server_under(before: &[&str]) -> Server {
    let server = Server::start_under(before, &["--dot", "127.0.0.1:0", "--tls-self-signed"]);
    let mut client = server.client();
    let form = json!({"service": "web", "id": "web-1", "address": "10.0.0.7", "port": 80, "lease": "none"});
    client.done("registered", &json!({ "register": form }));
    for instance in 0..BIG_INSTANCES {
        let form = json!({"service": "big", "id": format!("big-{instance}"), "address": format!("10.0.1.{instance}"),
                          "port": 80, "lease": "none"});
        client.done("registered", &json!({ "register": form }));
    }
    server
}

/// Where connections go, and what is spoken below the messages.
#[derive(Clone)]
struct Target {
    server: SocketAddr,
    tls: Option<TlsConnector>,
    /// What idle ones and newcomers ask, made once.
    question: Arc<[u8]>,
}

impl Target {
    fn tcp(server: &Server) -> Self {
        Self { server: server.dns[0], tls: None, question: question(NAME, RecordType::A).into() }
    }

    fn tls(server: &Server) -> Self {
        let line = server.lines.iter().find_map(|line| line.strip_prefix("dot ")).expect("a line");
        let tls = TlsConnector::from(Arc::new(client(&[&TLS13], &[b"dot"])));
        Self {
            server: line.parse().expect("an address"),
            tls: Some(tls),
            question: question(NAME, RecordType::A).into(),
        }
    }

    async fn connect(&self, from: Ipv4Addr, receive_octets: Option<u32>) -> io::Result<Box<dyn Octets>> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into())?;
        if let Some(octets) = receive_octets {
            socket.set_recv_buffer_size(octets)?;
        }
        let stream = socket.connect(self.server).await?;
        stream.set_nodelay(true)?;
        Ok(match &self.tls {
            None => Box::new(stream),
            Some(tls) => Box::new(tls.connect(localhost(), stream).await?),
        })
    }
}

fn question(name: &str, rtype: RecordType) -> Vec<u8> {
    framed(&query(7, name, rtype, None).to_vec().expect("a wire form"))
}

/// One address and no error, as the header says it: a whole reader would cost the crowd more than the server.
fn is_right(reply: &[u8]) -> bool {
    reply.len() > 12 && reply[3] & 0xf == 0 && reply[6..8] == [0, 1]
}

/// Asks on a stream; true for the right answer.
async fn ask(question: &[u8], stream: &mut Box<dyn Octets>) -> io::Result<bool> {
    stream.write_all(question).await?;
    stream.flush().await?;
    let mut reply = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut reply).await?;
    Ok(is_right(&reply))
}

async fn idle(target: Target, from: Ipv4Addr, open: Arc<AtomicUsize>) {
    loop {
        let Ok(mut stream) = target.connect(from, None).await else { continue };
        open.fetch_add(1, Ordering::Relaxed);
        let mut every = interval(IDLE_ASKS_EVERY);
        loop {
            every.tick().await;
            if !ask(&target.question, &mut stream).await.unwrap_or(false) {
                break;
            }
        }
        open.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn drip(target: Target, from: Ipv4Addr, after: Duration) {
    // tidy: may sleep: a crowd does not come all at once
    tokio::time::sleep(after).await;
    let question = question(NAME, RecordType::A);
    loop {
        let Ok(mut stream) = target.connect(from, None).await else { continue };
        let mut every = interval(DRIP_EVERY);
        for octet in question.iter().cycle() {
            every.tick().await;
            if stream.write_all(&[*octet]).await.is_err() || stream.flush().await.is_err() {
                break;
            }
        }
    }
}

async fn deaf(target: Target, from: Ipv4Addr, after: Duration) {
    // tidy: may sleep: a crowd does not come all at once
    tokio::time::sleep(after).await;
    let questions = question(BIG, RecordType::SRV).repeat(DEAF_QUERIES);
    loop {
        let Ok(mut stream) = target.connect(from, Some(4096)).await else { continue };
        // Until the server gives it up.
        while stream.write_all(&questions).await.is_ok() && stream.flush().await.is_ok() {}
    }
}

/// How long each answer took, and how many did not come.
#[derive(Default)]
struct Tally {
    took: Vec<Duration>,
    unanswered: usize,
}

impl Tally {
    /// The time within which this share of the answers came.
    fn within(&self, share: f64) -> Duration {
        let mut took = self.took.clone();
        took.sort();
        let at = ((took.len() as f64 * share).ceil() as usize).clamp(1, took.len());
        took[at - 1]
    }

    /// The share of all that was answered soon.
    fn soon(&self) -> f64 {
        let soon = self.took.iter().filter(|took| **took <= SOON).count();
        soon as f64 / (self.took.len() + self.unanswered) as f64
    }
}

/// One question on each new connection, at a steady rate whatever becomes of those before.
async fn newcomers(target: &Target, count: usize) -> Tally {
    let (mut tally, mut asked) = (Tally::default(), JoinSet::new());
    let mut every = interval(NEWCOMER_EVERY);
    for _ in 0..count {
        every.tick().await;
        let target = target.clone();
        asked.spawn(async move {
            let start = now();
            let asking =
                async { ask(&target.question, &mut target.connect(Ipv4Addr::LOCALHOST, None).await?).await };
            let answered = timeout(DEADLINE, asking).await;
            matches!(answered, Ok(Ok(true))).then(|| start.elapsed())
        });
    }
    while let Some(answered) = asked.join_next().await {
        match answered.expect("no panic") {
            Some(took) => tally.took.push(took),
            None => tally.unanswered += 1,
        }
    }
    tally
}

/// One question after another over UDP, each when its time has come and the one before is answered.
///
/// What is measured is the time until the kernel had the reply, not until this thread was given a processor to look at it:
/// it shares the few that there are with the server and the crowd, and would measure itself.
async fn datagrams(server: SocketAddr, count: usize) -> Tally {
    let mut tally = Tally::default();
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a UDP socket");
    socket.connect(server).await.expect("a route to loopback");
    setsockopt(&socket, ReceiveTimestampns, &true).expect("Linux");
    let question = question(NAME, RecordType::A);
    let mut every: Interval = interval(DATAGRAM_EVERY);
    for _ in 0..count {
        every.tick().await;
        let start = since_epoch();
        socket.send(&question[2..]).await.expect("sending on loopback");
        let received = socket.async_io(Interest::READABLE, || receive_with_time(&socket));
        match timeout(DEADLINE, received).await {
            Ok(received) => {
                let (reply, at) = received.expect("a datagram");
                tally.took.push(at.saturating_sub(start));
                assert!(is_right(&reply));
            }
            Err(_) => tally.unanswered += 1,
        }
    }
    tally
}

/// A datagram, and when the kernel had it.
fn receive_with_time(socket: &UdpSocket) -> io::Result<(Vec<u8>, Duration)> {
    let (mut buffer, mut space) = (vec![0; 512], cmsg_space!(TimeSpec));
    let (octets, at) = {
        let mut into = [IoSliceMut::new(&mut buffer)];
        let received =
            recvmsg::<()>(socket.as_raw_fd(), &mut into, Some(&mut space), MsgFlags::MSG_DONTWAIT)?;
        let at = received.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::ScmTimestampns(at) => Some(at.into()),
            _ => None,
        });
        (received.bytes, at.expect("a time, for it was asked for"))
    };
    buffer.truncate(octets);
    Ok((buffer, at))
}

/// Both at once, on a thread of their own: the crowd's clients are not what is measured.
fn measure(target: &Target, dns: SocketAddr, seconds: usize) -> (Tally, Tally) {
    let per_second = |every: Duration| 1000 / every.as_millis() as usize;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        tokio::join!(
            newcomers(target, seconds * per_second(NEWCOMER_EVERY)),
            datagrams(dns, seconds * per_second(DATAGRAM_EVERY)),
        )
    })
}

fn connections(server: &Server) -> usize {
    let text = Http::tcp(server.http[0]).get("/metrics").text().to_owned();
    let name = "callsign_connections{port=\"dns\"} ";
    text.lines().find_map(|line| line.strip_prefix(name)).expect("the count").parse().expect("a number")
}

fn take_every_descriptor() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("the limit that we may have");
}

/// This thread gets the processor when nobody else wants it: a crowd has processors of its own where it comes from, and
/// what its clients cost here is not what is measured.
fn comes_last() {
    let changed = Command::new("chrt").args(["--idle", "--pid", "0", &gettid().to_string()]).output();
    assert!(changed.expect("chrt, of Debian's util-linux").status.success());
}

fn newcomers_are_served(over: &str, target: impl Fn(&Server) -> Target) {
    take_every_descriptor();
    let (idle_count, drip_count) = (number("CALLSIGN_IDLE", 600), number("CALLSIGN_DRIPPING", 60));
    let (deaf_count, seconds) = (number("CALLSIGN_DEAF", 30), number("CALLSIGN_SECONDS", 3));
    let server = server_under(&[]);
    let (target, dns) = (target(&server), server.dns[0]);
    let (quiet, quiet_udp) = measure(&target, dns, seconds);
    let rss_before = resident_kib(server.pid());

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .on_thread_start(comes_last)
        .enable_all()
        .build()
        .expect("a runtime for the crowd");
    let (mut crowd, open) = (JoinSet::new(), Arc::new(AtomicUsize::new(0)));
    let from = |number: usize| CROWD_FROM[number % CROWD_FROM.len()];
    for number in 0..idle_count {
        crowd.spawn_on(idle(target.clone(), from(number), open.clone()), runtime.handle());
    }
    eventually("every idle connection", 4 * DEADLINE, || {
        (open.load(Ordering::Relaxed) == idle_count).then_some(())
    });
    // One after the other within the time that the server gives them: together they would come back together, again and again.
    let spread = |number: usize, count: usize| GIVEN_UP_AFTER.mul_f64(number as f64 / count as f64);
    for number in 0..drip_count {
        let after = spread(number, drip_count);
        crowd.spawn_on(drip(target.clone(), from(number), after), runtime.handle());
    }
    for number in 0..deaf_count {
        let after = spread(number, deaf_count);
        crowd.spawn_on(deaf(target.clone(), from(number), after), runtime.handle());
    }
    let all = idle_count + (drip_count + deaf_count) / 2;
    eventually("the crowd", DEADLINE, || (connections(&server) >= all).then_some(()));
    let processor_before = processor_time(server.pid());
    let (beside, beside_udp) = measure(&target, dns, seconds);
    let processor = processor_time(server.pid()) - processor_before;
    let (held, rss) = (connections(&server), resident_kib(server.pid()));
    let still_open = open.load(Ordering::Relaxed);
    runtime.shutdown_background();

    let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
    println!(
        "crowd: over={over} idle={idle_count} dripping={drip_count} deaf={deaf_count} asked={} unanswered={} soon={:.5} \
         p50_ms={:.2} p99_ms={:.2} max_ms={:.1} quiet_soon={:.5} quiet_p99_ms={:.2} udp_lost={} udp_p99_ms={:.2} \
         quiet_udp_p99_ms={:.2} connections={held} rss_mib={} rss_before_mib={} cpu_s={:.1} seconds={seconds}",
        beside.took.len() + beside.unanswered,
        beside.unanswered,
        beside.soon(),
        ms(beside.within(0.5)),
        ms(beside.within(0.99)),
        ms(beside.within(1.0)),
        quiet.soon(),
        ms(quiet.within(0.99)),
        beside_udp.unanswered,
        ms(beside_udp.within(0.99)),
        ms(quiet_udp.within(0.99)),
        rss / 1024,
        rss_before / 1024,
        processor.as_secs_f64(),
    );
    assert_eq!((quiet.unanswered, beside.unanswered), (0, 0), "every newcomer is answered");
    assert_eq!((quiet_udp.unanswered, beside_udp.unanswered), (0, 0), "and every datagram");
    assert_eq!(still_open, idle_count, "who is idle, and asks in time, keeps its connection");
    eventually("the end of the crowd", DEADLINE, || (connections(&server) == 0).then_some(()));
}

#[test]
fn newcomers_are_served_beside_a_crowd_over_tcp() {
    newcomers_are_served("tcp", Target::tcp);
}

#[test]
fn newcomers_are_served_beside_a_crowd_over_tls() {
    newcomers_are_served("tls", Target::tls);
}

/// As over TCP (`server/packets.rs`), also where what is held are handshakes that never go on.
#[test]
fn without_descriptors_tls_makes_room_and_nothing_spins() {
    const DESCRIPTORS: usize = 64;
    const CONNECTIONS: usize = 200;
    const LOOKED_AT: Duration = Duration::from_secs(3);
    /// A loop that fails at once, again and again, takes all of it.
    const PROCESSOR_MAX: Duration = Duration::from_millis(1500);
    let limit = format!("ulimit -n {DESCRIPTORS} && exec \"$0\" \"$@\"");
    let server = server_under(&["sh", "-c", &limit]);
    let target = Target::tls(&server);
    let silent: Vec<std::net::TcpStream> = (0..CONNECTIONS)
        .map(|_| std::net::TcpStream::connect(target.server).expect("a place in the queue"))
        .collect();
    eventually("the last descriptor", DEADLINE, || {
        (descriptors(server.pid()) >= DESCRIPTORS - 2).then_some(())
    });
    let (before, mut resolver) = (processor_time(server.pid()), server.resolver());
    stays(LOOKED_AT, || addresses(&resolver.udp(NAME, RecordType::A)).len() == 1);
    let with_questions = processor_time(server.pid()) - before;
    println!(
        "without descriptors: {with_questions:?} of the processor in {LOOKED_AT:?}, UDP's questions included"
    );
    assert!(with_questions < PROCESSOR_MAX, "{with_questions:?}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let asked = runtime.block_on(async {
        timeout(DEADLINE, async {
            ask(&target.question, &mut target.connect(Ipv4Addr::LOCALHOST, None).await?).await
        })
        .await
    });
    assert!(matches!(asked, Ok(Ok(true))), "a newcomer over TLS: {asked:?}");
    drop(silent);
    eventually("free descriptors", DEADLINE, || (descriptors(server.pid()) < DESCRIPTORS / 2).then_some(()));
}
