//! Octets that no client means to send: nothing panics, and whatever is answered is in order.
//!
//! A case is a message here and a frame of a stream in `framing.rs`. Both run for seconds in CI and for as long as
//! somebody likes by `tests/long/fuzz.sh`: `CALLSIGN_SEED` and `CALLSIGN_CASES` repeat and prolong a run, and its
//! figures are printed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use callsign::answer::Over;
use callsign::balance::Draws;
use callsign::clock::Clock;
use callsign::dns::wire::{Arrival, Responder, fresh_s, has_option};
use callsign::time::Now;

use super::fixture::{fixture, policy};
use super::judge::{judge, read};
use super::query;
use super::{CLIENT, ROWS, UDP_OCTETS_MAX};

/// Cases of each of the two threads.
const CASES: usize = 110_000;
/// Cases of four KiB that are nothing but pointers: a decoder may take its time over one.
const POINTER_CASES: usize = 1000;
/// Kinds of end that a run has to meet often, for its cases to reach what they are meant for.
pub const ENDS: [&str; 7] = ["NOERROR", "FORMERR", "NXDOMAIN", "NOTIMP", "REFUSED", "BADVERS", "BADCOOKIE"];
/// Threads of a run: what CI has cores for.
const THREADS: u64 = 2;

/// How often each kind of end was met, and `case` itself.
pub type Counts = BTreeMap<&'static str, usize>;

/// What the cases are made of and sent to.
pub struct Bench {
    pub responder: Responder,
    /// The queries of the table.
    pub real: Vec<Vec<u8>>,
}

/// Runs `each` on every thread, given a seed and how many cases, and prints what came of it.
#[expect(clippy::disallowed_methods, reason = "the time is printed, and nothing depends on it")]
pub fn run(framing: &str, cases: usize, each: impl Fn(&Bench, u64, usize) -> Counts + Sync) -> Counts {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seed = number("CALLSIGN_SEED").unwrap_or(0x5eed);
    let cases = number("CALLSIGN_CASES").map_or(cases, |cases| cases as usize / THREADS as usize);
    let (rows, _) = query::read(ROWS);
    let real = rows.into_iter().map(|row| row.query).filter(|query| query.len() < 4096).collect();
    let responder = Responder::new(fixture(), policy(true), Clock::start());
    let bench = Arc::new(Bench { responder, real });
    let start = Instant::now();
    let mut sum = Counts::new();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (bench, each) = (&bench, &each);
                scope.spawn(move || each(bench, seed ^ thread << 32, cases))
            })
            .collect();
        for thread in threads {
            for (kind, count) in thread.join().unwrap() {
                *sum.entry(kind).or_default() += count;
            }
        }
    });
    let count = |kind| sum.get(kind).copied().unwrap_or_default();
    println!(
        "fuzz: seed={seed} cases={} answered={} silent={} seconds={:.1} framing={framing}",
        count("case"),
        ENDS.iter().map(|kind| count(kind)).sum::<usize>(),
        count("silence"),
        start.elapsed().as_secs_f64()
    );
    for kind in ENDS {
        assert!(count(kind) > 100, "{kind}: {sum:?}");
    }
    sum
}

/// Prints its case when the code under it panics.
pub struct Witness<'a>(pub u64, pub usize, pub &'a [u8]);

impl Drop for Witness<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {:#x}, case {}: {:02x?}", self.0, self.1, self.2);
        }
    }
}

#[test]
fn no_octets_do_harm() {
    let counts = run("query", CASES, queries);
    assert!(counts["silence"] > 100, "{counts:?}");
}

fn queries(bench: &Bench, seed: u64, cases: usize) -> Counts {
    let mut chance = Chance(Draws::new(seed));
    let mut counts = Counts::new();
    for case in 0..cases {
        let message = if case < POINTER_CASES { chance.pointers() } else { chance.message(&bench.real) };
        let over = if chance.below(4) == 0 { Over::Tcp } else { Over::Udp };
        let witness = Witness(seed, case, &message);
        has_option(&message, 11);
        fresh_s(&message);
        *counts.entry("case").or_default() += 1;
        *counts.entry(bench.ask(&message, over, &mut chance)).or_default() += 1;
        drop(witness);
    }
    counts
}

impl Bench {
    /// The kind of end of one message, which is in order.
    pub fn ask(&self, message: &[u8], over: Over, chance: &mut Chance) -> &'static str {
        // An hour and a half of the clock, in which cookies grow old.
        let now = Now::default().after(Duration::from_secs(chance.below(5400) as u64));
        let client = SocketAddr::new(CLIENT.ip(), 1 + chance.below(65_535) as u16);
        let arrival = Arrival { client, over, draw: chance.0.next_u64() };
        let reply = self.responder.accept_at(now, &arrival, message);
        if over == Over::Udp {
            let mut room = [0; UDP_OCTETS_MAX];
            let octets = self.responder.reply_plainly(now, &arrival, message, &mut room);
            let plain = octets.map(|octets| &room[..octets]);
            assert!(
                plain.is_none_or(|plain| Some(plain) == reply.as_deref()),
                "{plain:02x?} for {reply:02x?}"
            );
        }
        check(message, over, reply.as_deref())
    }
}

/// The kind of end, once it is found to be in order.
fn check(message: &[u8], over: Over, reply: Option<&[u8]>) -> &'static str {
    let query = message.len() >= 12 && message[2] & 0x80 == 0;
    let Some(reply) = reply else {
        assert!(!query, "a query without a reply");
        return "silence";
    };
    assert!(query, "a reply to what is no query");
    let (_, faults) = judge(message, over, UDP_OCTETS_MAX, reply);
    assert!(faults.is_empty(), "{faults:?} in {:?}", read(reply));
    let rcode = read(reply).unwrap().rcode();
    // Who sends nonsense gets no more than it, a few words, and the options that it asked for.
    let nonsense = matches!(rcode, 1 | 4 | 5 | 16 | 23);
    assert!(!nonsense || reply.len() <= message.len() + 120, "{} octets", reply.len());
    match rcode {
        0 => "NOERROR",
        1 => "FORMERR",
        2 => panic!("SERVFAIL from a registry that is loaded"),
        3 => "NXDOMAIN",
        4 => "NOTIMP",
        5 => "REFUSED",
        16 => "BADVERS",
        _ => "BADCOOKIE",
    }
}

pub struct Chance(pub Draws);

impl Chance {
    pub fn below(&mut self, bound: usize) -> usize {
        (self.0.next_u64() % bound.max(1) as u64) as usize
    }

    pub fn message(&mut self, real: &[Vec<u8>]) -> Vec<u8> {
        match self.below(12) {
            0 => self.octets(),
            1 => self.headed(),
            2 | 3 => self.truncated(real),
            4 => self.counted(real),
            5 => self.spliced(real),
            6 => self.looped(),
            7 | 8 => self.optioned(real),
            _ => self.flipped(real),
        }
    }

    pub fn one<'a>(&mut self, real: &'a [Vec<u8>]) -> &'a [u8] {
        &real[self.below(real.len())]
    }

    fn octets(&mut self) -> Vec<u8> {
        let length = self.below(96);
        (0..length).map(|_| self.below(256) as u8).collect()
    }

    /// A header that promises little, and anything behind it.
    fn headed(&mut self) -> Vec<u8> {
        let mut message = vec![1, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, self.below(3) as u8];
        message.extend(self.octets());
        message
    }

    fn flipped(&mut self, real: &[Vec<u8>]) -> Vec<u8> {
        let mut message = self.one(real).to_vec();
        for _ in 0..=self.below(6) {
            let bit = self.below(message.len() * 8);
            if let Some(octet) = message.get_mut(bit / 8) {
                *octet ^= 1 << (bit % 8);
            }
        }
        message
    }

    fn truncated(&mut self, real: &[Vec<u8>]) -> Vec<u8> {
        let message = self.one(real);
        message[..self.below(message.len() + 1)].to_vec()
    }

    /// Counts that lie, to their ends.
    fn counted(&mut self, real: &[Vec<u8>]) -> Vec<u8> {
        let mut message = self.one(real).to_vec();
        let at = 4 + 2 * self.below(4);
        let count = [0, 1, 2, 5, 255, 65_535][self.below(6)];
        if let Some(place) = message.get_mut(at..at + 2) {
            place.copy_from_slice(&u16::to_be_bytes(count));
        }
        message
    }

    /// The beginning of one query and the end of another.
    fn spliced(&mut self, real: &[Vec<u8>]) -> Vec<u8> {
        let (one, two) = (self.one(real).to_vec(), self.one(real));
        let (end, start) = (self.below(one.len() + 1), self.below(two.len() + 1));
        [&one[..end], &two[start..]].concat()
    }

    /// A question, or none, and options that are nearly right: codes that mean something, lengths about the
    /// limits of each, and now and then one that lies.
    fn optioned(&mut self, real: &[Vec<u8>]) -> Vec<u8> {
        let mut options = Vec::new();
        for _ in 0..self.below(6) {
            let code = [3, 8, 9, 10, 10, 10, 11, 12, 15, self.below(65_536)][self.below(10)] as u16;
            let octets = [0, 1, 2, 3, 4, 7, 8, 9, 11, 15, 16, 23, 24, 24, 25, 40, 41, 64][self.below(18)];
            let lie = [0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 255, 65_535][self.below(12)];
            options.extend(code.to_be_bytes());
            options.extend((octets as u16).wrapping_add(lie).to_be_bytes());
            if code == 8 && octets >= 4 {
                // A client subnet whose family, prefix and scope are small numbers, as they are in truth.
                let prefix = self.below(34) as u8;
                options.extend([0, self.below(4) as u8, prefix, u8::from(self.below(8) == 0)]);
                options
                    .extend((4..octets).map(|_| if self.below(2) == 0 { 0 } else { self.below(256) as u8 }));
            } else {
                options.extend((0..octets).map(|_| self.below(256) as u8));
            }
        }
        let mut message = vec![1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        let question = self.one(real);
        let end = question.windows(3).position(|octets| octets[0] == 0 && octets[1] == 0 && octets[2] < 34);
        if let (Some(end), true) = (end.filter(|end| *end > 12), self.below(4) > 0) {
            message[5] = 1;
            message.extend(question.get(12..end + 5).unwrap_or_default());
        }
        message.extend([0, 0, 41, 4, 208, 0, u8::from(self.below(16) == 0), 0, 0]);
        let lie = [0, 0, 0, 0, 0, 0, 1, 65_535][self.below(8)];
        message.extend((options.len() as u16).wrapping_add(lie).to_be_bytes());
        message.extend(options);
        message
    }

    /// Labels and pointers among each other, in circles as often as not.
    fn looped(&mut self) -> Vec<u8> {
        let mut message = vec![1, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, self.below(5) as u8];
        for _ in 0..=self.below(24) {
            match self.below(3) {
                0 => message.extend([3, b'w', b'e', b'b']),
                1 => message.extend([0xc0, self.below(64) as u8]),
                _ => message.extend([0, 0, 1, 0, 1]),
            }
        }
        message
    }

    /// Four KiB: names of many labels, and records that are pointers at them.
    fn pointers(&mut self) -> Vec<u8> {
        let mut message = vec![1, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 4];
        for _ in 0..126 {
            message.extend([1, b'a']);
        }
        message.extend([0, 0, 1, 0, 1]);
        while message.len() < 4096 {
            let to = 12 + 2 * self.below(126) as u16;
            message.extend((0xc000 | to).to_be_bytes());
            if self.below(2) == 0 {
                message.extend([0, 5, 0, 1, 0, 0, 0, 0, 0, 2]);
            }
        }
        if self.below(4) == 0 {
            message[4..6].copy_from_slice(&u16::to_be_bytes(65_535));
        }
        message
    }
}
