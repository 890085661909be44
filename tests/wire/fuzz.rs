//! Octets that no client means to send: nothing panics, and whatever is answered is in order.

use std::collections::BTreeMap;

use callsign::answer::Over;
use callsign::balance::Draws;
use callsign::dns::wire::{Arrival, Policy, accept, fresh_s, has_option};
use callsign::view::View;

use super::fixture::fixture;
use super::judge::{judge, read};
use super::query;
use super::{CLIENT, ROWS, UDP_OCTETS_MAX};

/// Cases of each of the two threads.
const CASES: usize = 110_000;
/// Cases of four KiB that are nothing but pointers: a decoder may take its time over one.
const POINTER_CASES: usize = 1000;

/// Prints its case when the code under it panics.
struct Witness<'a>(u64, usize, &'a [u8]);

impl Drop for Witness<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {:#x}, case {}: {:02x?}", self.0, self.1, self.2);
        }
    }
}

#[test]
fn no_octets_do_harm() {
    let view = fixture();
    let (rows, _) = query::read(ROWS);
    let real: Vec<Vec<u8>> =
        rows.into_iter().map(|row| row.query).filter(|query| query.len() < 4096).collect();
    let counts: Vec<BTreeMap<&str, usize>> = std::thread::scope(|scope| {
        let threads = [0x5eed, 0xca11].map(|seed| {
            let (view, real) = (&view, &real);
            scope.spawn(move || run(view, real, seed))
        });
        threads.map(|thread| thread.join().unwrap()).into()
    });
    for counts in &counts {
        assert_eq!(counts["case"], CASES);
        // That the cases reach what they are meant for: every kind of end is met often.
        for kind in ["silence", "NOERROR", "FORMERR", "NXDOMAIN", "NOTIMP", "REFUSED", "BADVERS"] {
            assert!(counts.get(kind).is_some_and(|count| *count > 100), "{kind}: {counts:?}");
        }
    }
}

fn run(view: &View, real: &[Vec<u8>], seed: u64) -> BTreeMap<&'static str, usize> {
    let mut chance = Chance(Draws::new(seed));
    let mut counts = BTreeMap::new();
    for case in 0..CASES {
        let message = match case {
            0..POINTER_CASES => chance.pointers(),
            _ => match chance.below(10) {
                0 => chance.octets(),
                1 => chance.headed(),
                2 | 3 => chance.truncated(real),
                4 => chance.counted(real),
                5 => chance.spliced(real),
                6 => chance.looped(),
                _ => chance.flipped(real),
            },
        };
        let over = if chance.below(4) == 0 { Over::Tcp } else { Over::Udp };
        let arrival = Arrival { client: CLIENT, over, draw: chance.0.next_u64() };
        let witness = Witness(seed, case, &message);
        has_option(&message, 11);
        fresh_s(&message);
        let reply = accept(view, &Policy::default(), &arrival, &message);
        *counts.entry("case").or_default() += 1;
        *counts.entry(check(&message, over, reply.as_deref())).or_default() += 1;
        drop(witness);
    }
    counts
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
    // Who sends nonsense gets no more than it, its OPT record and a few words.
    assert!(!matches!(rcode, 1 | 4 | 5 | 16) || reply.len() <= message.len() + 80, "{} octets", reply.len());
    match rcode {
        0 => "NOERROR",
        1 => "FORMERR",
        2 => panic!("SERVFAIL from a registry that is loaded"),
        3 => "NXDOMAIN",
        4 => "NOTIMP",
        5 => "REFUSED",
        _ => "BADVERS",
    }
}

struct Chance(Draws);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        (self.0.next_u64() % bound.max(1) as u64) as usize
    }

    fn one<'a>(&mut self, real: &'a [Vec<u8>]) -> &'a [u8] {
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
