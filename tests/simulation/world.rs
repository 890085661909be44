//! The world around the server: its power and its disk, what its connections carry, and the eyes that look at its answers.
//!
//! A reply counts as soon as the server has written it. Whatever the client then does, it is a promise, and it is held
//! against the answers at that very moment: so are those that power cuts lie behind.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use callsign::answer::Over;
use callsign::dns::wire::{Accepted, Arrival, Responder};
use callsign::protocol::Reply;
use callsign::time::Wall;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, RecordType};
use redb::StorageBackend;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::time::Instant;

use crate::disk::Disk;
use crate::expected::{Asked, Expected, Seen, Writing};
use crate::harness::{Draws, dns};
use crate::transfers::Secondary;

pub const SERVICES: [&str; 2] = ["web", "db"];
pub const IDS: [&str; 3] = ["a", "b", "c"];
pub const KEYS: usize = SERVICES.len() * IDS.len();
/// One fewer than there are keys, so that it is met.
pub const INSTANCES_MAX: usize = KEYS - 1;
/// Lines of the trace that a failure shows.
const SHOWN: usize = 400;
/// When every world begins: 2026-11-21T12:04:05.678Z.
const BEGINNING_MS: i64 = 1_795_262_645_678;

thread_local! {
    /// What the wall clock was set forward by, in milliseconds, and when this life of the server began.
    static WALL: Cell<(i64, Option<Instant>)> = const { Cell::new((0, None)) };
    static CHANCE: Cell<u64> = const { Cell::new(0) };
}

/// The wall clock of the world on this thread.
pub fn wall() -> Wall {
    let (forward_ms, begun) = WALL.get();
    let since_ms = begun.map_or(0, |begun| begun.elapsed().as_millis() as i64);
    Wall { unix_ms: BEGINNING_MS + forward_ms + since_ms }
}

/// Random octets, which follow from the seed.
pub fn chance(octets: &mut [u8]) -> Result<(), getrandom::Error> {
    let mut draws = Draws(CHANCE.get());
    octets.iter_mut().for_each(|octet| *octet = draws.next() as u8);
    CHANCE.set(draws.0);
    Ok(())
}

pub fn step_wall(by_ms: i64) {
    let (forward_ms, begun) = WALL.get();
    WALL.set((forward_ms + by_ms, begun));
}

/// When the power goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cut {
    /// After so many more steps of the disk.
    Steps(usize),
    /// As soon as so many more replies are written.
    Replies(usize),
}

/// Somebody who follows every change.
#[derive(Default)]
pub struct Follower {
    /// None has this number: it has to connect again.
    pub connection: u64,
    /// The ports that instances have, by what it was told.
    pub told: [Option<u16>; KEYS],
    /// Of the last change that it was told of, once it has all that was before.
    pub since: Option<u64>,
}

pub struct World {
    pub expected: Expected,
    pub follower: Follower,
    pub secondary: Option<Secondary>,
    pub draws: Draws,
    pub disk: Disk,
    pub cut: Option<Cut>,
    /// What the disk held when the power went; while it is off, nothing happens.
    pub left: Option<Vec<u8>>,
    pub responder: Option<Arc<Responder>>,
    /// Of the server: no commit has been answered since, or when the last one was.
    pub writing: Writing,
    /// How long a commit takes at most, in milliseconds.
    pub slow_ms: usize,
    /// What was found.
    pub wrong: Option<String>,
    /// Counts, of which none may ever fall.
    newest: (u64, u32),
    base_ns: u64,
    begun: Option<Instant>,
    digest: u64,
    lines: VecDeque<String>,
    pub traced: u64,
    pub looks: u64,
    /// Times that a secondary had what it should.
    pub transfers: u64,
}

#[derive(Clone)]
pub struct Shared(Arc<Mutex<World>>);

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shared")
    }
}

impl Shared {
    pub fn new(seed: u64) -> Self {
        let mut draws = Draws(seed);
        WALL.set((0, None));
        CHANCE.set(draws.next());
        Self(Arc::new(Mutex::new(World {
            expected: Expected::new(KEYS),
            follower: Follower::default(),
            secondary: None,
            draws,
            disk: Disk::default(),
            cut: None,
            left: None,
            responder: None,
            writing: Writing { waits: false, until_ns: 0 },
            slow_ms: 0,
            wrong: None,
            newest: (0, 0),
            base_ns: 0,
            begun: None,
            digest: 0xcbf2_9ce4_8422_2325,
            lines: VecDeque::new(),
            traced: 0,
            looks: 0,
            transfers: 0,
        })))
    }

    pub fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another handle of the disk that is in the server now.
    pub fn disk(&self) -> Powered {
        let disk = self.lock().disk.clone();
        Powered { disk, world: self.clone() }
    }
}

impl World {
    /// A life of the server begins; its disk holds this.
    #[expect(
        clippy::disallowed_methods,
        reason = "the clock of the runtime, which stands still until everybody waits"
    )]
    pub fn begin(&mut self, image: Vec<u8>) {
        self.disk = Disk::new(image);
        (self.cut, self.left) = (None, None);
        self.follower.connection = 0;
        self.begun = Some(Instant::now());
        let (forward_ms, _) = WALL.get();
        WALL.set((forward_ms, self.begun));
        self.writing = Writing { waits: false, until_ns: self.now_ns() };
    }

    /// It ends, and nobody lives for so long.
    pub fn end(&mut self, pause: Duration) {
        let since = self.begun.take().map_or(Duration::ZERO, |begun| begun.elapsed()) + pause;
        self.base_ns += since.as_nanos() as u64;
        let (forward_ms, _) = WALL.get();
        WALL.set((forward_ms + since.as_millis() as i64, None));
        self.responder = None;
        self.left.get_or_insert_with(Vec::new);
    }

    /// Since the beginning of the world, in nanoseconds.
    pub fn now_ns(&self) -> u64 {
        self.base_ns + self.begun.map_or(0, |begun| begun.elapsed().as_nanos() as u64)
    }

    pub fn has_power(&self) -> bool {
        self.left.is_none()
    }

    pub fn trace(&mut self, line: String) {
        let line = format!("{:>9.3} {line}", self.now_ns() as f64 / 1e6);
        for octet in line.bytes() {
            self.digest = (self.digest ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3);
        }
        self.traced += 1;
        if self.lines.len() == SHOWN {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    pub fn digest(&self) -> u64 {
        self.digest
    }

    pub fn lines(&self) -> String {
        self.lines.iter().map(|line| format!("\n    {line}")).collect()
    }

    pub fn found(&mut self, what: String) {
        self.trace(format!("WRONG: {what}"));
        self.wrong.get_or_insert(what);
    }

    /// The power goes, and what was not synced is there or not.
    pub fn cut_power(&mut self) {
        if self.has_power() {
            let recording = self.disk.recording();
            let left = recording.crashed(recording.steps.len(), &mut self.draws);
            self.left = Some(left);
            self.trace("the power goes".to_owned());
        }
    }

    fn count(&mut self, what: fn(&mut Cut) -> Option<&mut usize>) {
        let Some(cut) = &mut self.cut else { return };
        match what(cut) {
            Some(0) => self.cut_power(),
            Some(more) => *more -= 1,
            None => {}
        }
    }

    pub fn delivered(&mut self, connection: u64, asked: Asked) {
        self.trace(format!("{connection}: {:?} of {}", asked.verb, name(asked.key)));
        self.expected.delivered(connection, asked);
    }

    /// The server has written a line on a connection.
    pub fn heard(&mut self, connection: u64, line: &[u8]) {
        if !self.has_power() {
            return;
        }
        self.trace(format!("{connection}: {}", String::from_utf8_lossy(line)));
        let reply: Reply = match serde_json::from_slice(line) {
            Ok(reply) => reply,
            Err(error) => return self.found(format!("{error}: {}", String::from_utf8_lossy(line))),
        };
        if connection == self.follower.connection {
            return self.told(reply);
        }
        let (now_ns, writing) = (self.now_ns(), self.writing);
        match self.expected.answered(connection, &reply, now_ns, writing) {
            // The very next query sees it.
            Ok(Some(key)) => self.look_at(key),
            Ok(None) => {}
            Err(what) => self.found(format!("{connection}: {what}")),
        }
        self.count(|cut| match cut {
            Cut::Replies(more) => Some(more),
            Cut::Steps(_) => None,
        });
    }

    /// The secondary has a zone, or still the one before; and it is known to be right, or not.
    pub fn transferred(&mut self, now: Option<(Secondary, bool)>) {
        if let Some((secondary, is_right)) = now.filter(|_| self.has_power()) {
            self.trace(format!("the secondary has {}", secondary.serial));
            self.secondary = Some(secondary);
            self.transfers += u64::from(is_right);
        }
    }

    /// Something was told to the follower.
    fn told(&mut self, reply: Reply) {
        let follower = &mut self.follower;
        match reply {
            Reply::Change(form) => {
                let (service, id) = (form.service.as_deref(), form.id.as_deref());
                let key = (0..KEYS).find(|key| {
                    Some(SERVICES[key / IDS.len()]) == service && Some(IDS[key % IDS.len()]) == id
                });
                if let Some(key) = key {
                    follower.told[key] = form.instance.as_ref().and_then(|instance| instance.port);
                }
                if let Some(since) = follower.since.filter(|since| form.revision <= *since) {
                    return self.found(format!("told of revision {} after {since}", form.revision));
                }
                follower.since = follower.since.map(|_| form.revision);
            }
            Reply::Fed(form) => follower.since = follower.since.max(Some(form.revision)),
            Reply::Error(_) => *follower = Follower::default(), // it begins anew
            other => self.found(format!("told {other:?}")),
        }
    }

    /// The server has let go of a connection.
    fn closed(&mut self, connection: u64) {
        if connection == self.follower.connection {
            self.follower.connection = 0;
        }
        if self.has_power() {
            let now_ns = self.now_ns();
            self.expected.closed(connection, now_ns);
            self.trace(format!("{connection}: closed"));
        }
    }

    fn ask(&mut self, qname: &str, qtype: RecordType) -> Message {
        let responder = self.responder.clone().expect("a server");
        let client = SocketAddr::from(([127, 0, 0, 1], 5353));
        let query = dns::query(7, qname, qtype, Some(1232)).to_vec().expect("a query");
        let arrival = Arrival { client, over: Over::Udp, draw: self.draws.next() };
        let reply = match responder.accept(&arrival, &query) {
            Accepted::Reply(reply) => reply,
            _ => {
                self.found(format!("no answer at once to {qname} {qtype}"));
                return Message::response(7, hickory_proto::op::OpCode::Query);
            }
        };
        let mut plain = [0; 1232];
        if let Some(octets) = responder.reply_plainly(responder.clock.now(), &arrival, &query, &mut plain)
            && plain[..octets] != reply
        {
            self.found(format!("{qname} {qtype}: the loop says one thing, the general path another"));
        }
        dns::read(&reply)
    }

    pub fn asks_in_vain(&mut self) {
        for service in SERVICES {
            let reply = self.ask(&format!("{service}.service.local."), RecordType::SRV);
            if reply.metadata.response_code != ResponseCode::ServFail {
                self.found(format!(
                    "{service}: {:?} before anything is loaded",
                    reply.metadata.response_code
                ));
            }
        }
    }

    fn in_answers(&mut self, service: &str) -> Vec<(String, u16)> {
        let reply = self.ask(&format!("{service}.service.local."), RecordType::SRV);
        let code = reply.metadata.response_code;
        if !matches!(code, ResponseCode::NoError | ResponseCode::NXDomain) || reply.metadata.truncation {
            self.found(format!("{service}: {code:?}"));
        }
        dns::ports(&reply).into_iter().collect()
    }

    fn see(&mut self, key: usize, in_answers: &[(String, u16)]) -> Seen {
        let id = IDS[key % IDS.len()];
        if let Some((_, port)) = in_answers.iter().find(|(label, _)| label == id) {
            return Some((*port, true));
        }
        let reply = self.ask(&format!("{}.service.local.", name(key)), RecordType::SRV);
        dns::ports(&reply).values().next().map(|port| (*port, false))
    }

    fn look_at(&mut self, key: usize) {
        let in_answers = self.in_answers(SERVICES[key / IDS.len()]);
        let seen = self.see(key, &in_answers);
        self.judge(key, seen);
    }

    fn judge(&mut self, key: usize, seen: Seen) {
        let revision = self.responder.as_ref().map_or(0, |responder| responder.view.revision());
        let (now_ns, writing) = (self.now_ns(), self.writing);
        if let Err(what) = self.expected.judge(key, seen, now_ns, revision, writing) {
            self.found(format!("{}: {what}", name(key)));
        }
    }

    /// What every instance looks like.
    pub fn see_all(&mut self) -> Vec<Seen> {
        let mut seen = Vec::with_capacity(KEYS);
        for (at, service) in SERVICES.into_iter().enumerate() {
            let in_answers = self.in_answers(service);
            seen.extend((0..IDS.len()).map(|id| self.see(at * IDS.len() + id, &in_answers)));
        }
        seen
    }

    /// Holds everything that DNS says against what may be.
    pub fn look(&mut self) {
        self.looks += 1;
        let seen = self.see_all();
        let there = seen.iter().flatten().count();
        if there > INSTANCES_MAX {
            self.found(format!("{there} instances, and {INSTANCES_MAX} is the limit"));
        }
        for (key, seen) in seen.iter().enumerate() {
            self.judge(key, *seen);
        }
        let revision = self.responder.as_ref().map_or(0, |responder| responder.view.revision());
        let soa = self.ask("service.local.", RecordType::SOA);
        let serial = soa.answers.iter().find_map(|record| match &record.data {
            RData::SOA(soa) => Some(soa.serial),
            _ => None,
        });
        let newest = (revision, serial.unwrap_or(0));
        if newest.0 < self.newest.0 || newest.1 < self.newest.1 {
            self.found(format!("revision and serial were {:?} and are {newest:?}", self.newest));
        }
        self.newest = newest;
        let Follower { connection, told, since } = self.follower;
        let has_all = connection != 0 && since == Some(revision);
        if has_all && told.iter().zip(&seen).any(|(told, seen)| *told != seen.map(|(port, _)| port)) {
            self.found(format!(
                "at revision {revision} the follower was told {told:?}, and {seen:?} is there"
            ));
        }
        self.trace(format!("{seen:?} {newest:?}"));
    }

    /// The same after a restart, where what may be depends on what was stored.
    pub fn look_again(&mut self) {
        let (seen, now_ns) = (self.see_all(), self.now_ns());
        self.trace(format!("loaded {seen:?}"));
        for (key, seen) in seen.iter().enumerate() {
            if let Err(what) = self.expected.restarted(key, *seen, now_ns) {
                self.found(format!("{}: {what}", name(key)));
            }
        }
        self.expected.forget_open();
    }
}

/// `a.web`
pub fn name(key: usize) -> String {
    format!("{}.{}", IDS[key % IDS.len()], SERVICES[key / IDS.len()])
}

/// A disk that works as long as there is power.
#[derive(Debug)]
pub struct Powered {
    disk: Disk,
    world: Shared,
}

impl Powered {
    fn step(&self, step: impl FnOnce(&Disk) -> io::Result<()>) -> io::Result<()> {
        if !self.world.lock().has_power() {
            return Err(io::Error::other("no power"));
        }
        let done = step(&self.disk);
        self.world.lock().count(|cut| match cut {
            Cut::Steps(more) => Some(more),
            Cut::Replies(_) => None,
        });
        done
    }
}

impl StorageBackend for Powered {
    fn len(&self) -> io::Result<u64> {
        self.disk.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.disk.read(offset, out)
    }

    fn set_len(&self, octets: u64) -> io::Result<()> {
        self.step(|disk| disk.set_len(octets))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.step(|disk| disk.sync_data())
    }

    fn write(&self, offset: u64, octets: &[u8]) -> io::Result<()> {
        self.step(|disk| disk.write(offset, octets))
    }
}

/// The server's end of a connection.
pub struct ServerEnd {
    pub stream: DuplexStream,
    pub connection: u64,
    pub world: Shared,
    /// A line that is not whole yet.
    pub line: Vec<u8>,
}

impl AsyncRead for ServerEnd {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        octets: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, octets)
    }
}

impl AsyncWrite for ServerEnd {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, octets);
        if let Poll::Ready(Ok(written)) = written {
            for octet in &octets[..written] {
                match octet {
                    b'\n' => {
                        let line = std::mem::take(&mut self.line);
                        self.world.lock().heard(self.connection, &line);
                    }
                    octet => self.line.push(*octet),
                }
            }
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Drop for ServerEnd {
    fn drop(&mut self) {
        self.world.lock().closed(self.connection);
    }
}
