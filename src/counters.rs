//! What happened how often: numbers that the edges count and the metrics show.
//!
//! Every number is one atomic of its own and is only ever added to: who reads them sees sums that are each right,
//! and a moment apart.

mod queries;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;

pub use self::queries::{PROTOS, Queries, RCODES, SIZES, Seen, SeenSizes, TYPES, Tally};
use crate::check::Kind;
use crate::instance::Health;
use crate::name::ServiceName;
use crate::registry::{Change, Reason};
use crate::time::nanoseconds;

/// What probes did, from the start of the server.
#[derive(Debug, Default)]
pub struct Probes {
    /// By kind and outcome, in the orders of `KINDS` and `OUTCOMES`.
    made: [[AtomicU64; OUTCOMES.len()]; KINDS.len()],
    /// Verdicts that made a check another status than it had.
    pub transitions: Count,
    /// Probes that began later than `LATE` after their time.
    pub late: Count,
    /// Times that a check was due and every place was taken.
    pub waited: Count,
    /// How long after its time each probe began.
    pub lateness: Histogram,
    /// How long each probe took.
    pub duration: Histogram,
    /// The same for each service: the probes of its instances.
    services: Mutex<HashMap<ServiceName, Mean>>,
}

/// Replies that response rate limiting kept, from the start of the server.
#[derive(Debug, Default)]
pub struct Limited {
    /// Sent without their records, for the client to ask again.
    pub slipped: Count,
    pub dropped: Count,
}

/// Zone transfers, by what was sent.
#[derive(Debug, Default)]
pub struct Transfers {
    /// Whole zones that were asked for as such.
    pub full: Count,
    /// Whole zones in the place of a difference.
    pub instead: Count,
    /// Differences.
    pub incremental: Count,
    /// The SOA alone: nothing has changed, or a datagram is too small.
    pub soa: Count,
    /// Given up: the client did not read in time, or went away.
    pub failed: Count,
    /// Refused for who asked, or for what.
    pub refused: Count,
    /// NOTIFY messages sent, and those that were answered.
    pub notified: Count,
    pub heard: Count,
}

/// What the writer did, from the start of the server.
#[derive(Debug, Default)]
pub struct Written {
    /// From when a change was asked for to when every query saw it.
    pub visible: Histogram,
    /// How long commits took, of a batch each; on etcd, transactions.
    pub commit: Histogram,
    /// In the order of `Reason::ALL`.
    changes: [AtomicU64; Reason::ALL.len()],
}

impl Written {
    /// Changes that were published.
    pub fn changed(&self, changes: &[Change]) {
        for change in changes {
            if let Some(at) = Reason::ALL.iter().position(|reason| *reason == change.reason) {
                self.changes[at].fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Every reason, and how many changes had it.
    pub fn changes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.changes.iter().map(|count| count.load(Ordering::Relaxed));
        Reason::ALL.iter().map(|reason| reason.as_str()).zip(counts)
    }
}

/// What became of UPDATE messages that a key may send.
#[derive(Debug, Default)]
pub struct Updates {
    pub done: Count,
    /// Not carried out, and the client told why.
    pub refused: Count,
    /// Not carried out because of trouble of ours.
    pub failed: Count,
    /// Came a second time, and were not carried out again.
    pub repeated: Count,
}

/// What was signed for who asks for signatures.
#[derive(Debug, Default)]
pub struct Signing {
    pub made: Count,
    /// Replies over UDP that were put off to TCP, for too many were made in that second.
    pub put_off: Count,
}

/// The kinds of checks that are probed, by `Kind::as_str`.
pub const KINDS: [&str; 5] = ["tcp", "http", "grpc", "script", "alias"];
/// What a probe may have found; `void` is one that says more of us than of the target.
pub const OUTCOMES: [&str; 4] = ["passing", "warning", "critical", "void"];
/// Services whose probes are summed up: as many as one server probes in a minute, at a hundred octets each.
pub const PROBED_SERVICES_MAX: usize = 10_000;
/// A probe that begins later than this is late: a tenth of the shortest interval.
pub const LATE: Duration = Duration::from_millis(100);

/// What became of queries for names that are not ours.
#[derive(Debug, Default)]
pub struct Forwarding {
    /// Answered from what is kept.
    pub hits: Count,
    /// Put to other servers.
    pub asked: Count,
    /// Joined to the same question of somebody else, which was on its way.
    pub joined: Count,
    /// Refused because too many were on their way.
    pub refused: Count,
    /// Outcomes that are kept now.
    pub kept: AtomicU64,
    /// Those that are asked now.
    pub upstreams: ArcSwap<Vec<Arc<Upstream>>>,
}

/// What one upstream was asked, and did.
#[derive(Debug)]
pub struct Upstream {
    pub address: SocketAddr,
    pub asked: Count,
    pub replies: Count,
    /// No reply in time, or no way to it.
    pub failures: Count,
    /// 1 while it is asked only when no other answers.
    pub rests: AtomicBool,
}

impl Upstream {
    pub fn new(address: SocketAddr) -> Self {
        let [asked, replies, failures] = [(); 3].map(|()| Count::default());
        Self { address, asked, replies, failures, rests: AtomicBool::new(false) }
    }
}

/// One number that grows.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Probes {
    /// One probe of this kind; `None` is an outcome that does not count.
    pub fn outcome(&self, kind: &Kind, found: Option<Health>) {
        let outcome = match found {
            Some(Health::Passing) => 0,
            Some(Health::Warning) => 1,
            Some(Health::Critical | Health::Maintenance) => 2,
            None => 3,
        };
        if let Some(kind) = KINDS.iter().position(|name| *name == kind.as_str()) {
            self.made[kind][outcome].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A probe that began so long after its time.
    pub fn began(&self, after: Duration) {
        self.lateness.add(after);
        if after > LATE {
            self.late.add();
        }
    }

    /// A probe of an instance of this service took so long. Where there are too many services, those that are not
    /// `known` any more are given up, and a new one only has a mean if that made room.
    pub fn took(&self, service: &ServiceName, duration: Duration, known: impl Fn(&ServiceName) -> bool) {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        if services.len() >= PROBED_SERVICES_MAX && !services.contains_key(service) {
            services.retain(|service, _| known(service));
            if services.len() >= PROBED_SERVICES_MAX {
                return;
            }
        }
        let mean = services.entry(service.clone()).or_default();
        mean.count += 1;
        mean.sum_ns = mean.sum_ns.saturating_add(nanoseconds(duration));
    }

    /// The probes of a service's instances, from the start of the server.
    pub fn of_service(&self, service: &ServiceName) -> Mean {
        let services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        services.get(service).copied().unwrap_or_default()
    }

    /// Every kind with every outcome, and how often.
    pub fn made(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        let kinds = KINDS.iter().zip(&self.made);
        kinds.flat_map(|(kind, made)| {
            let outcomes = OUTCOMES.iter().zip(made);
            outcomes.map(move |(outcome, count)| (*kind, *outcome, count.load(Ordering::Relaxed)))
        })
    }
}

/// Upper ends of the buckets in microseconds; what takes longer is in one more.
///
/// From what a connection on one machine takes to the longest timeout that people set, two or three a decade.
pub const BUCKETS_US: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 10_000_000, 60_000_000,
];

/// How many took how long.
#[derive(Debug)]
pub struct Histogram {
    ends_us: &'static [u64],
    /// One more than there are ends.
    buckets: Box<[AtomicU64]>,
    sum_ns: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new(&BUCKETS_US)
    }
}

impl Histogram {
    fn new(ends_us: &'static [u64]) -> Self {
        let buckets = std::iter::repeat_with(AtomicU64::default).take(ends_us.len() + 1).collect();
        Self { ends_us, buckets, sum_ns: AtomicU64::default() }
    }

    pub fn add(&self, duration: Duration) {
        self.add_many(duration, 1);
    }

    /// So many that took equally long.
    pub fn add_many(&self, duration: Duration, many: u64) {
        let ns = nanoseconds(duration);
        let bucket = self.ends_us.partition_point(|end| end * 1000 < ns);
        self.buckets[bucket].fetch_add(many, Ordering::Relaxed);
        self.sum_ns.fetch_add(ns.saturating_mul(many), Ordering::Relaxed);
    }

    /// Adds what another one with the same buckets holds.
    fn add_all(&self, other: &Self) {
        for (bucket, count) in self.buckets.iter().zip(other.buckets()) {
            bucket.fetch_add(count, Ordering::Relaxed);
        }
        self.sum_ns.fetch_add(other.sum_ns.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Upper ends of the buckets in microseconds; what took longer is in one more.
    pub fn ends_us(&self) -> &'static [u64] {
        self.ends_us
    }

    /// How many are in each bucket, not summed up.
    pub fn buckets(&self) -> Vec<u64> {
        self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect()
    }

    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_ns.load(Ordering::Relaxed))
    }

    pub fn mean(&self) -> Mean {
        Mean { count: self.buckets().iter().sum(), sum_ns: self.sum_ns.load(Ordering::Relaxed) }
    }

    /// The end of the bucket that this share of all lies in or below; the longest where none does.
    pub fn within(&self, share: f64) -> Duration {
        let buckets = self.buckets();
        let wanted = (buckets.iter().sum::<u64>() as f64 * share).ceil() as u64;
        let mut sum = 0;
        for (count, end) in buckets.iter().zip(self.ends_us) {
            sum += count;
            if sum >= wanted {
                return Duration::from_micros(*end);
            }
        }
        Duration::MAX
    }
}

/// How many there were, and how long they took together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mean {
    pub count: u64,
    pub sum_ns: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_lies_within_its_bucket() {
        let histogram = Histogram::default();
        for ms in 1..=100 {
            histogram.add(Duration::from_millis(ms));
        }
        assert_eq!(histogram.within(0.05), Duration::from_millis(5));
        assert_eq!(histogram.within(0.5), Duration::from_millis(50));
        assert_eq!(histogram.within(0.99), Duration::from_millis(100));
        assert_eq!(histogram.sum(), Duration::from_millis(5050));
        histogram.add(Duration::from_secs(100));
        assert_eq!(histogram.within(1.0), Duration::MAX);
    }

    #[test]
    fn a_service_that_left_makes_room_for_another() {
        let probes = Probes::default();
        let name = |number: usize| ServiceName::parse(&format!("s{number}")).unwrap();
        let took = |number, known: bool| probes.took(&name(number), Duration::from_micros(2), |_| known);
        (0..PROBED_SERVICES_MAX).for_each(|number| took(number, true));
        took(0, true);
        took(PROBED_SERVICES_MAX, true);
        assert_eq!(probes.of_service(&name(0)), Mean { count: 2, sum_ns: 4000 });
        assert_eq!(probes.of_service(&name(PROBED_SERVICES_MAX)), Mean::default());
        took(PROBED_SERVICES_MAX, false);
        assert_eq!(probes.of_service(&name(PROBED_SERVICES_MAX)).count, 1);
        assert_eq!(probes.of_service(&name(0)), Mean::default());
    }

    #[test]
    fn what_is_no_probe_is_not_counted() {
        let probes = Probes::default();
        probes.outcome(&Kind::Reported, Some(Health::Passing));
        probes.outcome(&Kind::Command(Vec::new()), Some(Health::Critical));
        probes.outcome(&Kind::Command(Vec::new()), None);
        let made: Vec<_> = probes.made().filter(|(.., count)| *count > 0).collect();
        assert_eq!(made, [("script", "critical", 1), ("script", "void", 1)]);
    }
}
