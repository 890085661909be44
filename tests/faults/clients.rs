//! Processes that register, are heard of, leave or fall silent, and somebody who asks each node's DNS all the time; what
//! they say, get and see goes into the journal.
//!
//! A process is one thread and says one thing at a time. It stays with a node for as long as that answers it, and goes to
//! the next where it does not; what is refused as not there it registers anew, as another life.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use serde_json::{Value, json};

use crate::harness::dns::{ports, query, read};
use crate::harness::{Draws, now, srv};
use crate::history::{History, Life, Micros, Outcome, Seen, Sight, Verb, Word};

pub const SERVICES: usize = 6;
/// Processes at once: four of each service, whose answer goes into one datagram.
pub const PROCESSES: usize = 24;
/// Leases that are drawn from.
const LEASES: [Duration; 3] = [Duration::from_secs(2), Duration::from_secs(3), Duration::from_secs(4)];
/// Heartbeats in a lease: one may fail at a node that stands still, and the next node is still in time.
const HEARTBEATS: u32 = 4;
/// How long a process waits for a node before it tries the next.
const PATIENCE: Duration = Duration::from_millis(700);
/// Between a try that came to nothing and the next.
const AGAIN: Duration = Duration::from_millis(100);
/// How long a question waits for its answer: a node that runs says something, and if it were SERVFAIL.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);
/// Between two questions to one node.
const ASK_EVERY: Duration = Duration::from_millis(15);

/// What all who take part share.
pub struct Stage {
    begun: Instant,
    pub journal: Mutex<History>,
    pub sockets: Vec<PathBuf>,
    pub dns: Vec<SocketAddr>,
    /// Nodes that are not asked DNS questions now: stopped or ended, so that a reply is not waited for.
    pub absent: Vec<AtomicUsize>,
    ports: AtomicU16,
    phase: Mutex<Phase>,
    changed: Condvar,
}

/// What is going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Lives begin and end.
    Busy,
    /// Who lives goes on; nobody leaves any more, and nobody comes.
    Ending,
    Over,
}

impl Stage {
    pub fn new(sockets: Vec<PathBuf>, dns: Vec<SocketAddr>) -> Self {
        let nodes = sockets.len();
        Self {
            begun: now(),
            journal: Mutex::new(History { nodes, ..History::default() }),
            sockets,
            dns,
            absent: (0..nodes).map(|_| AtomicUsize::new(0)).collect(),
            ports: AtomicU16::new(1),
            phase: Mutex::new(Phase::Busy),
            changed: Condvar::new(),
        }
    }

    pub fn at(&self) -> Micros {
        self.begun.elapsed().as_micros() as Micros
    }

    pub fn write(&self, write: impl FnOnce(&mut History)) {
        write(&mut self.journal.lock().expect("nobody panics with the journal in hand"));
    }

    pub fn phase(&self) -> Phase {
        *self.phase.lock().expect("nobody panics with the phase in hand")
    }

    pub fn set_phase(&self, phase: Phase) {
        *self.phase.lock().expect("nobody panics with the phase in hand") = phase;
        self.changed.notify_all();
    }

    /// Waits for so long, or until it is over; false where it is.
    pub fn wait(&self, time: Duration) -> bool {
        let phase = self.phase.lock().expect("nobody panics with the phase in hand");
        let going_on = |phase: &mut Phase| *phase != Phase::Over;
        let (phase, _) = self.changed.wait_timeout_while(phase, time, going_on).expect("the same");
        *phase != Phase::Over
    }
}

/// Says that it is over when it is dropped, also by a panic.
pub struct Curtain<'a>(pub &'a Stage);

impl Drop for Curtain<'_> {
    fn drop(&mut self) {
        self.0.set_phase(Phase::Over);
    }
}

/// One process after the other in one place, until it is over.
pub fn live(stage: &Stage, place: usize, mut draws: Draws) {
    let mut node = place % stage.sockets.len();
    while stage.phase() == Phase::Busy {
        let mut process = Process::new(stage, place, &mut draws);
        process.live(&mut node, &mut draws);
        let between = Duration::from_millis(draws.below(400) as u64);
        if !stage.wait(between) {
            return;
        }
    }
}

struct Process<'a> {
    stage: &'a Stage,
    port: u16,
    service: usize,
    lease: Duration,
}

/// How a process is to end.
#[derive(Clone, Copy)]
enum Plan {
    /// It is there to the end of all.
    Stay,
    /// After so many heartbeats: it deregisters, here or at another node.
    Leave(usize),
    /// The same, without a word.
    Die(usize),
}

impl<'a> Process<'a> {
    fn new(stage: &'a Stage, place: usize, draws: &mut Draws) -> Self {
        let (service, lease) = (place % SERVICES, LEASES[draws.below(LEASES.len())]);
        let port = stage.ports.fetch_add(1, Ordering::SeqCst);
        stage.write(|journal| {
            let life = Life { service, lease: lease.as_micros() as Micros };
            journal.lives.insert(port, life);
        });
        Self { stage, port, service, lease }
    }

    fn live(&mut self, node: &mut usize, draws: &mut Draws) {
        let plan = match draws.below(4) {
            0 => Plan::Stay,
            1 => Plan::Die(draws.below(12)),
            _ => Plan::Leave(draws.below(12)),
        };
        // One in three insists on its registration; the others begin anew, for what is in doubt proves little.
        let insists = draws.below(3) == 0;
        while self.say(Verb::Register, *node) != Some(Outcome::Done) {
            self.next(node);
            if !insists || self.stage.phase() != Phase::Busy || !self.stage.wait(AGAIN) {
                return;
            }
        }
        let mut said = 0;
        loop {
            match plan {
                Plan::Leave(after) if said >= after && self.stage.phase() == Phase::Busy => {
                    if draws.below(2) == 0 {
                        self.next(node);
                    }
                    return self.leave(node);
                }
                Plan::Die(after) if said >= after && self.stage.phase() == Phase::Busy => return,
                _ => {}
            }
            if !self.stage.wait(self.lease / HEARTBEATS) {
                return;
            }
            // Until somebody hears of it.
            loop {
                match self.say(Verb::Heartbeat, *node) {
                    Some(Outcome::Done) => break,
                    Some(Outcome::Absent) => return,
                    Some(Outcome::Unknown | Outcome::Refused(_)) | None => self.next(node),
                }
                if !self.stage.wait(AGAIN) {
                    return;
                }
            }
            said += 1;
        }
    }

    fn leave(&self, node: &mut usize) {
        loop {
            match self.say(Verb::Deregister, *node) {
                Some(Outcome::Done | Outcome::Absent) => return,
                _ => self.next(node),
            }
            if !self.stage.wait(AGAIN) {
                return;
            }
        }
    }

    fn next(&self, node: &mut usize) {
        *node = (*node + 1) % self.stage.sockets.len();
    }

    /// Says one thing at a node; nothing where nobody listens there.
    fn say(&self, verb: Verb, node: usize) -> Option<Outcome> {
        let id = format!("i{}", self.port);
        let service = format!("s{}", self.service);
        let request = match verb {
            Verb::Register => {
                json!({"register": {"service": service, "id": id, "host": "m", "address": "10.0.0.1",
                                                  "port": self.port, "lease": format!("{}s", self.lease.as_secs())}})
            }
            Verb::Heartbeat => json!({"heartbeat": {"service": service, "id": id, "host": "m"}}),
            Verb::Deregister => json!({"deregister": {"service": service, "id": id, "host": "m"}}),
        };
        let sent = self.stage.at();
        let stream = UnixStream::connect(&self.stage.sockets[node]).ok()?;
        let outcome = asked(stream, &request).map_or(Outcome::Unknown, |reply| outcome(&reply));
        let (port, answered) = (self.port, self.stage.at());
        let word = Word { port, node, verb, sent, answered, outcome: outcome.clone() };
        self.stage.write(|journal| journal.words.push(word));
        Some(outcome)
    }
}

/// A reply in time.
fn asked(mut stream: UnixStream, request: &Value) -> Option<Value> {
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(format!("{request}\n").as_bytes()).ok()?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).ok()?;
    serde_json::from_str(&line).ok()
}

fn outcome(reply: &Value) -> Outcome {
    let code = reply["error"]["code"].as_str();
    match code {
        Some("unavailable" | "not_ready" | "stopping") => Outcome::Unknown,
        Some("not_found") => Outcome::Absent,
        Some(_) => Outcome::Refused(reply["error"].to_string()),
        None if reply["deregistered"]["existed"] == false => Outcome::Absent,
        None => Outcome::Done,
    }
}

/// Asks one node for one service after the other, until it is over.
pub fn ask(stage: &Stage, node: usize) {
    let mut asked: u16 = 0;
    while stage.wait(ASK_EVERY) {
        if stage.absent[node].load(Ordering::SeqCst) > 0 {
            continue;
        }
        asked = asked.wrapping_add(1);
        let service = usize::from(asked) % SERVICES;
        let sent = stage.at();
        let Some(seen) = see(stage, node, asked, service) else { continue };
        let sight = Sight { node, service, sent, answered: stage.at(), seen };
        stage.write(|journal| journal.sights.push(sight));
    }
}

/// One question, on a socket of its own: a reply that comes too late is nobody's. Nothing where the node went away
/// meanwhile, or it is over.
fn see(stage: &Stage, node: usize, id: u16, service: usize) -> Option<Seen> {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a UDP socket");
    socket.connect(stage.dns[node]).expect("a route to loopback");
    socket.set_read_timeout(Some(PATIENCE / 4)).expect("an option of a socket of ours");
    let question = query(id, &srv(&format!("s{service}")), RecordType::SRV, Some(1232));
    socket.send(&question.to_vec().expect("a wire form")).expect("sending on loopback");
    let begun = now();
    let mut buffer = vec![0; 2048];
    let octets = loop {
        match socket.recv(&mut buffer) {
            Ok(octets) => break octets,
            Err(_) if stage.phase() == Phase::Over => return None,
            Err(_) if stage.absent[node].load(Ordering::SeqCst) > 0 => return None,
            Err(_) if begun.elapsed() > ANSWERED_WITHIN => return Some(Seen::Silence),
            Err(_) => {}
        }
    };
    let reply = read(&buffer[..octets]);
    Some(match reply.metadata.response_code {
        _ if reply.metadata.truncation => Seen::Other("an answer that was cut".to_owned()),
        // Nobody has registered it yet, or all left long ago.
        ResponseCode::NoError | ResponseCode::NXDomain => {
            Seen::Ports(ports(&reply).into_values().collect::<BTreeSet<u16>>())
        }
        ResponseCode::ServFail => Seen::NotReady,
        code => Seen::Other(code.to_string()),
    })
}
