//! `kill -9` at any moment loses nothing that was acknowledged, and brings nothing back that left.
//!
//! Writers send commands in pieces, and note each when it is sent and when it is acknowledged. When the server
//! was killed, an instance may be as its last acknowledged command made it, or as any later one that was sent
//! would have; nothing else. A witness asks DNS all the time: a service that is registered is answered whole, or
//! with SERVFAIL, or not at all.
//!
//! `CALLSIGN_KILLS` sets the number of kills, `CALLSIGN_SEED` repeats a run; `tests/long/kills.sh` makes ten
//! thousand of them.

use std::collections::{BTreeMap, VecDeque};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hickory_proto::rr::{RData, RecordType};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::dns::{ports, query, read};
use crate::harness::{Client, Draws, Resolver, Server, eventually, now, pause, seed, srv};

const KILLS_DEFAULT: u64 = 60;
const WRITERS: usize = 4;
/// Instances of each writer.
const IDS: usize = 25;
/// Commands sent in one piece.
const PIECE_MAX: usize = 24;
/// Acknowledgements in one life of the server, at most.
const LIFE_MAX: usize = 400;
/// Of each so many starts one is killed before it is ready.
const EARLY: usize = 6;
/// Instances that nobody touches, in services of a hundred.
const STEADY: usize = 300;
const STEADY_IN_SERVICE: usize = 100;
/// How many there are where the time of a start is measured.
const MANY: usize = 10_000;
const STARTS: usize = 5;

/// An instance as the registry shows it: its port and its health, or not there.
type Seen = Option<(u16, String)>;

/// One writer's own account.
#[derive(Default)]
struct Journal {
    /// By id, as acknowledged.
    acknowledged: BTreeMap<String, Seen>,
    /// Sent and not acknowledged, oldest first: what each makes of which instance.
    sent: VecDeque<(String, Seen)>,
    revision: u64,
    acknowledgements: u64,
}

impl Journal {
    /// What the last command sent makes of an instance.
    fn newest(&self, id: &str) -> Seen {
        let sent = self.sent.iter().rev().find(|(other, _)| other == id);
        sent.map(|(_, seen)| seen).or(self.acknowledged.get(id)).cloned().flatten()
    }

    /// A killed server may have done any number of what was sent, in order.
    fn may_be(&self, id: &str, seen: &Seen) -> bool {
        let sent = self.sent.iter().filter(|(other, _)| other == id).map(|(_, after)| after);
        self.acknowledged.get(id).unwrap_or(&None) == seen || sent.into_iter().any(|after| after == seen)
    }

    fn settle(&mut self, registry: &BTreeMap<String, (u16, String)>) {
        self.sent.clear();
        let ids: Vec<String> = self.acknowledged.keys().cloned().collect();
        for id in ids {
            self.acknowledged.insert(id.clone(), registry.get(&id).cloned());
        }
    }
}

fn service(writer: usize) -> String {
    format!("w{writer}")
}

fn steady(number: usize) -> String {
    format!("steady-{}", number / STEADY_IN_SERVICE)
}

/// A command for one of the writer's instances, and what it makes of it.
fn command(writer: usize, journal: &Journal, number: u64, draws: &mut Draws) -> (Value, String, Seen) {
    let (service, id) = (service(writer), format!("id-{}", draws.below(IDS)));
    let port = (number % 65_000) as u16 + 1;
    let register = json!({"register": {
        "service": service, "id": id, "address": "10.0.0.7", "port": port, "lease": "none",
    }});
    match (draws.below(4), journal.newest(&id)) {
        (0, Some(_)) => (json!({"deregister": {"service": service, "id": id}}), id, None),
        (1, Some((port, health))) => {
            let health = if health == "passing" { "critical" } else { "passing" };
            let report = json!({"report": {"service": service, "id": id, "status": health}});
            (report, id, Some((port, health.to_owned())))
        }
        // What was reported stays with an instance that registers again.
        (_, Some((_, health))) => (register, id, Some((port, health))),
        (_, None) => (register, id, Some((port, "passing".to_owned()))),
    }
}

/// Writes until the server is gone; the acknowledgement that uses up the life kills it.
fn write(
    server: &Server,
    writer: usize,
    journal: &mut Journal,
    before: u64,
    left: &AtomicU64,
    mut draws: Draws,
) {
    let Some(mut client) = Client::try_unix(&server.socket) else { return };
    let mut number = draws.next();
    loop {
        let mut piece = String::new();
        for _ in 0..1 + draws.below(PIECE_MAX) {
            number = number.wrapping_add(1);
            let (request, id, after) = command(writer, journal, number, &mut draws);
            piece.push_str(&request.to_string());
            piece.push('\n');
            journal.sent.push_back((id, after));
        }
        if client.send_raw(piece.as_bytes()).is_err() {
            return;
        }
        while !journal.sent.is_empty() {
            let Some(reply) = client.try_next() else { return };
            let done =
                ["registered", "deregistered", "reported"].into_iter().find_map(|verb| reply.get(verb));
            let done = done.unwrap_or_else(|| panic!("answered {reply}"));
            let revision = done["revision"].as_u64().expect("a revision");
            assert!(revision > before, "revision {revision}, and {before} was given out before the kill");
            journal.revision = journal.revision.max(revision);
            journal.acknowledgements += 1;
            let (id, after) = journal.sent.pop_front().expect("one for each reply");
            journal.acknowledged.insert(id, after);
            if left.fetch_sub(1, Ordering::SeqCst) == 1 {
                server.signal(Signal::SIGKILL);
            }
        }
    }
}

/// What DNS said to the witness.
#[derive(Default)]
struct Witness {
    stop: AtomicBool,
    right: AtomicU64,
    not_ready: AtomicU64,
    /// The last `begin`, and the first right answer to a question asked after it.
    first: Mutex<(Option<Instant>, Option<Instant>)>,
    complaints: Mutex<Vec<String>>,
}

impl Witness {
    fn begin(&self) -> Instant {
        let begun = now();
        *self.first.lock().expect("no thread failed") = (Some(begun), None);
        begun
    }

    fn first(&self) -> Option<Instant> {
        self.first.lock().expect("no thread failed").1
    }

    /// Asks about services that are always registered, whatever happens to the server.
    fn ask(&self, dns: SocketAddr) {
        let udp = UdpSocket::bind((dns.ip(), 0)).expect("a UDP socket");
        udp.connect(dns).expect("a route to loopback");
        udp.set_read_timeout(Some(Duration::from_millis(20))).expect("an option of a socket of ours");
        let name = srv(&steady(0));
        let mut id = 0_u16;
        let mut buffer = vec![0; 65_535];
        while !self.stop.load(Ordering::SeqCst) {
            id = id.wrapping_add(1);
            let asked = now();
            let query = query(id, &name, RecordType::SRV, Some(1232)).to_vec().expect("a query");
            // A server that is not there refuses, or says nothing.
            let received = udp.send(&query).and_then(|_| udp.recv(&mut buffer));
            let Ok(octets) = received else {
                pause();
                continue;
            };
            let reply = read(&buffer[..octets]);
            match u16::from(reply.metadata.response_code) {
                // Not all fit a datagram; TC says so.
                0 if !reply.answers.is_empty() => {
                    self.right.fetch_add(1, Ordering::SeqCst);
                    let mut first = self.first.lock().expect("no thread failed");
                    if first.0.is_some_and(|begun| begun <= asked) {
                        first.1.get_or_insert_with(now);
                    }
                }
                2 => drop(self.not_ready.fetch_add(1, Ordering::SeqCst)),
                _ => self.complaints.lock().expect("no thread failed").push(format!("{reply}")),
            }
        }
    }
}

/// Ends the witness, also where the test fails: its thread would be waited for.
struct Dismiss<'a>(&'a Witness);

impl Drop for Dismiss<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::SeqCst);
    }
}

fn start(directory: &Path, dns: &str) -> Server {
    let path = |name: &str| directory.join(name).display().to_string();
    Server::begin(&[], &["--data", &path("data"), "--socket", &path("s"), "--dns", dns, "--log", "warn"])
}

/// An address of our own on loopback, and a port that the kernel gives to nobody by itself.
fn own_address(draws: &mut Draws) -> String {
    let octet = |draws: &mut Draws| 1 + draws.below(250);
    format!("127.{}.{}.{}:{}", octet(draws), octet(draws), octet(draws), 10_000 + draws.below(20_000))
}

fn register_steady(client: &mut Client, count: usize) {
    for first in (0..count).step_by(STEADY_IN_SERVICE) {
        let mut piece = String::new();
        for number in first..first + STEADY_IN_SERVICE {
            let form = json!({"register": {"service": steady(number), "id": format!("i{number}"),
                "address": "10.1.0.1", "port": 1 + number, "lease": "none"}});
            piece.push_str(&form.to_string());
            piece.push('\n');
        }
        client.send_raw(piece.as_bytes()).expect("sending");
        for _ in 0..STEADY_IN_SERVICE {
            let reply = client.receive();
            assert!(reply.get("registered").is_some(), "{reply}");
        }
    }
}

/// The registry as `list` shows it, by service and id.
fn registry(server: &Server) -> BTreeMap<String, BTreeMap<String, (u16, String)>> {
    let mut found: BTreeMap<String, BTreeMap<String, (u16, String)>> = BTreeMap::new();
    for instance in server.client().list() {
        let text = |field: &str| instance[field].as_str().expect("a text").to_owned();
        let port = instance["port"].as_u64().expect("a port") as u16;
        found.entry(text("service")).or_default().insert(text("id"), (port, text("health")));
    }
    found
}

fn serial(resolver: &mut Resolver) -> u32 {
    let reply = resolver.udp("service.local.", RecordType::SOA);
    let serial = reply.answers.iter().find_map(|record| match &record.data {
        RData::SOA(soa) => Some(soa.serial),
        _ => None,
    });
    serial.expect("a SOA")
}

/// RFC 1982: `later` is not before `earlier`.
fn not_before(later: u32, earlier: u32) -> bool {
    later.wrapping_sub(earlier) < 1 << 31
}

/// What was found against the promises.
#[derive(Default)]
struct Broken {
    lost: Vec<String>,
    back: Vec<String>,
    other: Vec<String>,
}

/// Compares the restarted server with every journal, through `list` and through DNS.
fn compare(server: &Server, journals: &mut [Journal], broken: &mut Broken) {
    let found = registry(server);
    let mut resolver = server.resolver();
    let nothing = BTreeMap::new();
    for (writer, journal) in journals.iter_mut().enumerate() {
        let own = found.get(&service(writer)).unwrap_or(&nothing);
        for id in (0..IDS).map(|number| format!("id-{number}")) {
            let seen = own.get(&id).cloned();
            if journal.may_be(&id, &seen) {
                continue;
            }
            let was = journal.acknowledged.get(&id).cloned().flatten();
            let what = format!("{id} of {}: {seen:?}, acknowledged {was:?}", service(writer));
            match (was.is_some(), seen.is_some()) {
                (true, false) => broken.lost.push(what),
                (false, true) => broken.back.push(what),
                _ => broken.other.push(what),
            }
        }
        let live = own.iter().filter(|(_, (_, health))| health == "passing");
        let live: BTreeMap<String, u16> = live.map(|(id, (port, _))| (id.clone(), *port)).collect();
        let answered = ports(&resolver.tcp(&srv(&service(writer)), RecordType::SRV));
        if answered != live {
            broken.other.push(format!("{}: DNS says {answered:?}, list {live:?}", service(writer)));
        }
        // From here on it counts as it is.
        for id in own.keys() {
            journal.acknowledged.entry(id.clone()).or_default();
        }
        journal.settle(own);
    }
    for first in (0..STEADY).step_by(STEADY_IN_SERVICE) {
        let there = found.get(&steady(first)).map_or(0, BTreeMap::len);
        let answered = ports(&resolver.tcp(&srv(&steady(first)), RecordType::SRV)).len();
        if there != STEADY_IN_SERVICE || answered != STEADY_IN_SERVICE {
            broken.lost.push(format!("{}: {there} there, {answered} in DNS", steady(first)));
        }
    }
}

#[test]
fn a_killed_server_loses_nothing_acknowledged() {
    let kills = match std::env::var("CALLSIGN_KILLS") {
        Ok(text) => text.parse().expect("CALLSIGN_KILLS is a number"),
        Err(_) => KILLS_DEFAULT,
    };
    let seed = seed();
    println!("kills: seed {seed}");
    let mut draws = Draws(seed);
    let directory = tempfile::tempdir().expect("a directory");
    let dns = own_address(&mut draws);
    let mut server = start(directory.path(), &dns);
    assert!(server.until_ready(), "{:?}", server.end());
    register_steady(&mut server.client(), STEADY);
    let mut journals: Vec<Journal> = (0..WRITERS).map(|_| Journal::default()).collect();
    let (witness, mut broken) = (Witness::default(), Broken::default());
    let (mut early, mut last_serial) = (0, serial(&mut server.resolver()));
    let mut firsts = Vec::new();
    let began = now();
    let address = server.dns[0];
    std::thread::scope(|scope| {
        let _dismiss = Dismiss(&witness);
        scope.spawn(|| witness.ask(address));
        for kill in 0..kills {
            let before = journals.iter().map(|journal| journal.revision).max().unwrap_or_default();
            let left = AtomicU64::new(1 + draws.below(LIFE_MAX) as u64);
            std::thread::scope(|scope| {
                let (server, left) = (&server, &left);
                for (writer, journal) in journals.iter_mut().enumerate() {
                    let draws = Draws(draws.next());
                    scope.spawn(move || write(server, writer, journal, before, left, draws));
                }
            });
            server.crash();
            let mut begun = witness.begin();
            server = start(directory.path(), &dns);
            while draws.below(EARLY) == 0 {
                // Somewhere in its start, which takes some milliseconds.
                let moment = Duration::from_micros(draws.below(30_000) as u64);
                eventually("a moment in the start", Duration::from_secs(30), || {
                    (begun.elapsed() >= moment).then_some(())
                });
                server.crash();
                early += 1;
                begun = witness.begin();
                server = start(directory.path(), &dns);
            }
            assert!(server.until_ready(), "seed {seed}, kill {kill}: {:?}", server.end());
            compare(&server, &mut journals, &mut broken);
            let newest = serial(&mut server.resolver());
            if !not_before(newest, last_serial) {
                broken.other.push(format!("serial {newest} after {last_serial}"));
            }
            last_serial = newest;
            firsts.extend(witness.first().map(|first| first.saturating_duration_since(begun)));
        }
    });
    firsts.sort();
    let acknowledged: u64 = journals.iter().map(|journal| journal.acknowledgements).sum();
    let complaints = witness.complaints.lock().expect("no thread failed");
    println!(
        "kills: seed={seed} kills={kills} early={early} acknowledged={acknowledged} lost={} back={} other={} right={} \
         not_ready={} wrong={} seconds={:.1}",
        broken.lost.len(),
        broken.back.len(),
        broken.other.len(),
        witness.right.load(Ordering::SeqCst),
        witness.not_ready.load(Ordering::SeqCst),
        complaints.len(),
        began.elapsed().as_secs_f64()
    );
    if let (Some(median), Some(last)) = (firsts.get(firsts.len() / 2), firsts.last()) {
        println!("kills: the first right answer after a start: p50 {median:?}, at most {last:?}");
    }
    let all = broken.lost.iter().chain(&broken.back).chain(&broken.other).chain(complaints.iter());
    let all: Vec<&String> = all.take(10).collect();
    assert!(all.is_empty(), "seed {seed}: {all:#?}");
    assert!(acknowledged >= kills, "{acknowledged} acknowledgements");
}

#[test]
fn ten_thousand_instances_are_back_at_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let dns = own_address(&mut Draws(!seed())); // not the other test's
    let mut server = start(directory.path(), &dns);
    assert!(server.until_ready(), "{:?}", server.end());
    register_steady(&mut server.client(), MANY);
    let witness = Witness::default();
    let mut times = Vec::new();
    let address = server.dns[0];
    std::thread::scope(|scope| {
        let _dismiss = Dismiss(&witness);
        scope.spawn(|| witness.ask(address));
        for _ in 0..STARTS {
            server.crash();
            let begun = witness.begin();
            server = start(directory.path(), &dns);
            let first = eventually("a right answer", Duration::from_secs(30), || witness.first());
            times.push(first.saturating_duration_since(begun));
            assert!(server.until_ready(), "{:?}", server.end());
            assert_eq!(server.client().list().len(), MANY);
        }
    });
    let complaints = witness.complaints.lock().expect("no thread failed");
    assert!(complaints.is_empty(), "{:?}", complaints.first());
    println!(
        "kills: with {MANY} instances the first right answer came {times:?} after the start (each after SIGKILL)"
    );
}
