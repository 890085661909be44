//! Queries: how many of which kind, how large, how long they took.
//!
//! A worker of UDP has numbers of its own, which no other core writes to: it adds to them without a locked instruction. All
//! other ways share one set for each transport; what they do for a message costs so much more that it is not seen. Whoever
//! reads adds them up. Names and clients are in none of it: how many numbers there are is fixed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Count, Histogram};
use crate::answer::{Over, Rcode};
use crate::record::Type;

/// What carries queries, in the order of [`Over`].
pub const PROTOS: [&str; 5] = ["udp", "tcp", "tls", "https", "quic"];
/// Types that are counted apart; what else is asked for, and what is no question, is `other`.
pub const TYPES: [&str; 17] = [
    "A", "AAAA", "SRV", "TXT", "PTR", "HTTPS", "SVCB", "SOA", "NS", "CNAME", "MX", "DS", "DNSKEY", "ANY",
    "AXFR", "IXFR", "other",
];
/// Response codes, by their numbers as far as [`Rcode::NotZone`].
pub const RCODES: [&str; 14] = [
    "NOERROR",
    "FORMERR",
    "SERVFAIL",
    "NXDOMAIN",
    "NOTIMP",
    "REFUSED",
    "YXDOMAIN",
    "YXRRSET",
    "NXRRSET",
    "NOTAUTH",
    "NOTZONE",
    "BADVERS",
    "BADCOOKIE",
    "other",
];
/// Upper ends of the buckets of sizes: 64 octets and the powers of two to the largest message.
pub const SIZES: [u64; 11] = [64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536];

/// Upper ends of the buckets of times, in microseconds: from a plain query to a whole list of services.
const TIMES_US: [u64; 14] = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 100_000];

/// What came over one transport, or to one worker.
#[derive(Debug)]
#[repr(align(128))] // no cache line with anybody else's numbers
pub struct Tally {
    over: Over,
    /// One thread adds, and nobody else.
    alone: bool,
    requests: [AtomicU64; TYPES.len()],
    responses: [AtomicU64; RCODES.len()],
    request_octets: Sizes,
    response_octets: Sizes,
    times: Histogram,
}

#[derive(Debug, Default)]
struct Sizes {
    buckets: [AtomicU64; SIZES.len()],
    sum: AtomicU64,
}

/// Sums of [`Tally`] over one transport.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub requests: [u64; TYPES.len()],
    pub responses: [u64; RCODES.len()],
    pub request_octets: SeenSizes,
    pub response_octets: SeenSizes,
}

/// How many messages in each bucket of [`SIZES`], not summed up, and the octets of all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeenSizes {
    pub buckets: [u64; SIZES.len()],
    pub sum: u64,
}

impl Tally {
    fn new(over: Over, alone: bool) -> Self {
        Self {
            over,
            alone,
            requests: Default::default(),
            responses: Default::default(),
            request_octets: Sizes::default(),
            response_octets: Sizes::default(),
            times: Histogram::new(&TIMES_US),
        }
    }

    /// A query of so many octets; `None` is one without a question that can be read.
    pub fn asked(&self, qtype: Option<Type>, octets: usize) {
        self.add(&self.requests[place_of_type(qtype)], 1);
        self.add_size(&self.request_octets, octets);
    }

    /// A reply of so many octets.
    pub fn replied(&self, rcode: u16, octets: usize) {
        self.add(&self.responses[place_of_rcode(rcode)], 1);
        self.add_size(&self.response_octets, octets);
    }

    /// How long queries took.
    pub fn times(&self) -> &Histogram {
        &self.times
    }

    fn add_size(&self, sizes: &Sizes, octets: usize) {
        self.add(&sizes.buckets[bucket_of(octets)], 1);
        self.add(&sizes.sum, octets as u64);
    }

    fn add(&self, number: &AtomicU64, more: u64) {
        if self.alone {
            number.store(number.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
        } else {
            number.fetch_add(more, Ordering::Relaxed);
        }
    }

    fn add_to(&self, seen: &mut Seen) {
        add_all(&mut seen.requests, &self.requests);
        add_all(&mut seen.responses, &self.responses);
        for (sum, sizes) in [
            (&mut seen.request_octets, &self.request_octets),
            (&mut seen.response_octets, &self.response_octets),
        ] {
            add_all(&mut sum.buckets, &sizes.buckets);
            sum.sum += sizes.sum.load(Ordering::Relaxed);
        }
    }
}

fn add_all(sums: &mut [u64], numbers: &[AtomicU64]) {
    for (sum, number) in sums.iter_mut().zip(numbers) {
        *sum += number.load(Ordering::Relaxed);
    }
}

/// Where a type stands in [`TYPES`].
fn place_of_type(qtype: Option<Type>) -> usize {
    match qtype {
        Some(Type::A) => 0,
        Some(Type::AAAA) => 1,
        Some(Type::SRV) => 2,
        Some(Type::TXT) => 3,
        Some(Type::PTR) => 4,
        Some(Type::HTTPS) => 5,
        Some(Type::SVCB) => 6,
        Some(Type::SOA) => 7,
        Some(Type::NS) => 8,
        Some(Type::CNAME) => 9,
        Some(Type::MX) => 10,
        Some(Type::DS) => 11,
        Some(Type::DNSKEY) => 12,
        Some(Type::ANY) => 13,
        Some(Type::AXFR) => 14,
        Some(Type::IXFR) => 15,
        _ => TYPES.len() - 1,
    }
}

/// Where a response code stands in [`RCODES`].
fn place_of_rcode(rcode: u16) -> usize {
    const LAST: u16 = Rcode::NotZone as u16;
    const BAD_VERS: u16 = Rcode::BadVers as u16;
    const BAD_COOKIE: u16 = Rcode::BadCookie as u16;
    match rcode {
        0..=LAST => usize::from(rcode),
        BAD_VERS => usize::from(LAST) + 1,
        BAD_COOKIE => usize::from(LAST) + 2,
        _ => RCODES.len() - 1,
    }
}

/// The bucket of [`SIZES`] that a message of so many octets is in.
fn bucket_of(octets: usize) -> usize {
    let halvings = usize::BITS - (octets.saturating_sub(1) >> 6).leading_zeros();
    (halvings as usize).min(SIZES.len() - 1)
}

/// All that is counted of queries. One in [`Queries::TIMED_EVERY`] is timed, for a clock costs as much as a hundredth of a
/// query.
#[derive(Debug)]
pub struct Queries {
    workers: Mutex<Vec<Arc<Tally>>>,
    /// What the workers of UDP do not answer themselves, for each transport.
    general: [Tally; PROTOS.len()],
    turn: AtomicU64,
    /// Messages over UDP that the general path had no room for.
    pub dropped: Count,
}

impl Default for Queries {
    fn default() -> Self {
        let general = [Over::Udp, Over::Tcp, Over::Tls, Over::Https, Over::Quic];
        Self {
            workers: Mutex::default(),
            general: general.map(|over| Tally::new(over, false)),
            turn: AtomicU64::default(),
            dropped: Count::default(),
        }
    }
}

impl Queries {
    /// Of so many batches, and of so many queries of the general path, one is timed; the first of them is.
    pub const TIMED_EVERY: u64 = 16;

    /// What one more worker of UDP adds to. It has to be one thread.
    pub fn worker(&self) -> Arc<Tally> {
        let tally = Arc::new(Tally::new(Over::Udp, true));
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).push(tally.clone());
        tally
    }

    /// What everybody else adds to.
    pub fn general(&self, over: Over) -> &Tally {
        &self.general[over as usize]
    }

    /// Where the next query of the general path adds its time, if it is one that is timed.
    pub fn next_timed(&self, over: Over) -> Option<&Histogram> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        turn.is_multiple_of(Self::TIMED_EVERY).then(|| self.general(over).times())
    }

    /// The times of all of them together.
    pub fn times(&self) -> Histogram {
        let all = Histogram::new(&TIMES_US);
        self.each(|tally| all.add_all(&tally.times));
        all
    }

    /// What was counted, for each transport in the order of [`PROTOS`].
    pub fn seen(&self) -> [Seen; PROTOS.len()] {
        let mut seen = <[Seen; PROTOS.len()]>::default();
        self.each(|tally| tally.add_to(&mut seen[tally.over as usize]));
        seen
    }

    fn each(&self, mut look: impl FnMut(&Tally)) {
        self.general.iter().for_each(&mut look);
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(|tally| look(tally));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hickory_proto::rr::RecordType;

    use super::super::Mean;
    use super::*;

    #[test]
    fn every_sixteenth_query_is_timed_from_the_first_on() {
        let queries = Queries::default();
        let timed: Vec<bool> = (0..33).map(|_| queries.next_timed(Over::Tcp).is_some()).collect();
        let places: Vec<usize> = (0..33).filter(|at| timed[*at]).collect();
        assert_eq!(places, [0, 16, 32]);
        queries.worker().times().add_many(Duration::from_nanos(1500), 3);
        queries.worker().times().add(Duration::from_micros(7));
        queries.general(Over::Tls).times().add(Duration::from_micros(1));
        let all = queries.times();
        assert_eq!(all.mean(), Mean { count: 5, sum_ns: 12_500 });
        assert_eq!(all.buckets()[..4], [1, 3, 0, 1]);
    }

    #[test]
    fn workers_and_everybody_else_are_summed_up_by_transport() {
        let queries = Queries::default();
        let [one, other] = [queries.worker(), queries.worker()];
        one.asked(Some(Type::A), 40);
        other.asked(Some(Type::A), 65);
        other.replied(Rcode::NxDomain as u16, 512);
        queries.general(Over::Udp).asked(Some(Type(999)), 12);
        queries.general(Over::Quic).replied(Rcode::BadCookie as u16, 65_535);
        let [udp, tcp, _, _, quic] = queries.seen();
        let of_type = |name: &str| udp.requests[TYPES.iter().position(|known| *known == name).unwrap()];
        assert_eq!((of_type("A"), of_type("other"), of_type("AAAA")), (2, 1, 0));
        assert_eq!((udp.responses[3], udp.request_octets.sum, udp.response_octets.sum), (1, 117, 512));
        assert_eq!(
            (udp.request_octets.buckets[..2].to_vec(), udp.response_octets.buckets[3]),
            (vec![2, 1], 1)
        );
        assert_eq!(tcp, Seen::default());
        assert_eq!((quic.responses[12], quic.response_octets.buckets[SIZES.len() - 1]), (1, 1));
    }

    #[test]
    fn names_stand_at_the_places_of_their_numbers() {
        for qtype in 0..=300 {
            let (counted, name) =
                (TYPES[place_of_type(Some(Type(qtype)))], RecordType::from(qtype).to_string());
            assert!(counted == name || counted == "other", "{name} is counted as {counted}");
        }
        let known = (0..=300).filter(|qtype| TYPES[place_of_type(Some(Type(*qtype)))] != "other");
        assert_eq!(known.count(), TYPES.len() - 1);
        for (name, rcode) in [
            ("NOERROR", Rcode::NoError),
            ("SERVFAIL", Rcode::ServFail),
            ("NXDOMAIN", Rcode::NxDomain),
            ("REFUSED", Rcode::Refused),
            ("NOTAUTH", Rcode::NotAuth),
            ("NOTZONE", Rcode::NotZone),
            ("BADVERS", Rcode::BadVers),
            ("BADCOOKIE", Rcode::BadCookie),
        ] {
            assert_eq!(RCODES[place_of_rcode(rcode as u16)], name);
        }
        assert_eq!(RCODES[place_of_rcode(11)], "other");
    }

    #[test]
    fn a_size_is_in_the_first_bucket_that_holds_it() {
        for octets in 0..=65_535 {
            let expected = SIZES.iter().position(|end| octets as u64 <= *end);
            assert_eq!(Some(bucket_of(octets)), expected, "{octets}");
        }
    }
}
