//! What happened how often: numbers that the edges count and the metrics show.
//!
//! Every number is one atomic of its own and is only ever added to: who reads them sees sums that are each right,
//! and a moment apart.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::check::Kind;
use crate::instance::Health;

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
}

/// Replies that response rate limiting kept, from the start of the server.
#[derive(Debug, Default)]
pub struct Limited {
    /// Sent without their records, for the client to ask again.
    pub slipped: Count,
    pub dropped: Count,
}

/// The kinds of checks that are probed, by `Kind::as_str`.
pub const KINDS: [&str; 5] = ["tcp", "http", "grpc", "script", "alias"];
/// What a probe may have found; `void` is one that says more of us than of the target.
pub const OUTCOMES: [&str; 4] = ["passing", "warning", "critical", "void"];
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
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS_US.len() + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    pub fn add(&self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS_US.partition_point(|end| *end < us);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// How many are in each bucket, not summed up.
    pub fn buckets(&self) -> [u64; BUCKETS_US.len() + 1] {
        std::array::from_fn(|bucket| self.buckets[bucket].load(Ordering::Relaxed))
    }

    pub fn sum(&self) -> Duration {
        Duration::from_micros(self.sum_us.load(Ordering::Relaxed))
    }

    /// The end of the bucket that this share of all lies in or below; the longest where none does.
    pub fn within(&self, share: f64) -> Duration {
        let buckets = self.buckets();
        let wanted = (buckets.iter().sum::<u64>() as f64 * share).ceil() as u64;
        let mut sum = 0;
        for (count, end) in buckets.iter().zip(BUCKETS_US) {
            sum += count;
            if sum >= wanted {
                return Duration::from_micros(end);
            }
        }
        Duration::MAX
    }
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
    fn what_is_no_probe_is_not_counted() {
        let probes = Probes::default();
        probes.outcome(&Kind::Reported, Some(Health::Passing));
        probes.outcome(&Kind::Command(Vec::new()), Some(Health::Critical));
        probes.outcome(&Kind::Command(Vec::new()), None);
        let made: Vec<_> = probes.made().filter(|(.., count)| *count > 0).collect();
        assert_eq!(made, [("script", "critical", 1), ("script", "void", 1)]);
    }
}
