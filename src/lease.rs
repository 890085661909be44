//! Deadlines of leases: arm, renew, next, expired.
//!
//! A renewal stores one number in a cell that the instance shares with its place in a bucket; no timer
//! is re-armed. A bucket that comes due is looked through: what was renewed meanwhile moves to the
//! bucket of its new deadline, the rest has expired. So a lease costs one look per period however often
//! it is renewed, and it ends between its deadline and one bucket's width later, never before.
//!
//! Who wins when a heartbeat and the end of the lease meet is decided by one compare-and-swap: a
//! renewal that was answered with yes keeps its instance, and an expired lease cannot be renewed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::instance::Key;
use crate::name::HostName;
use crate::time::{Now, nanoseconds};

/// Width of a bucket, in nanoseconds: the most that an expiry is late by our own doing.
const BUCKET_NS: u64 = 4_000_000;

/// How long a connection-bound instance waits for its holder to come back, after a restart or an import.
pub const CONNECTION_GRACE: Duration = Duration::from_secs(15);
/// The connection of an instance whose holder has not come back yet; no connection has this number.
pub const NO_CONNECTION: u64 = u64::MAX;

/// From here on an absence of ours is no hiccup: the shortest lease is as long.
const ABSENCE_LONG: Duration = Duration::from_secs(1);

/// No deadline: `none`, or bound to an open connection.
const NEVER: u64 = u64::MAX - 1;
/// The lease is over, for good.
const EXPIRED: u64 = u64::MAX;
/// Another node watches over the lease: here it stands still.
const ELSEWHERE: u64 = u64::MAX - 2;
/// Of a deadline: the lease runs here in the place of a node that left, until its holder is heard. Who takes a heartbeat has
/// to say so to all first: the node may be back, and this one not have heard of it.
const INHERITED: u64 = 1;

/// What became of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    Done,
    /// The lease is over already.
    Over,
    /// Another node watches over it, or may, and did not hear of this.
    Elsewhere,
}

/// Whose deadline it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Leased {
    /// An instance's lease, or the deadline of one of its checks.
    Instance(Key),
    /// The deadline of one of a host's checks.
    Host(HostName),
}

/// As the nodes' circle places it, and as people name it.
impl std::fmt::Display for Leased {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Instance(key) => key.fmt(f),
            Self::Host(name) => name.fmt(f),
        }
    }
}

impl From<Key> for Leased {
    fn from(key: Key) -> Self {
        Self::Instance(key)
    }
}

/// When one lease ends, in nanoseconds of the monotonic clock.
#[derive(Debug)]
pub struct LeaseCell<T = Leased> {
    pub of: T,
    /// What a renewal adds to the present; 0 where there is no deadline.
    duration_ns: u64,
    deadline_ns: AtomicU64,
}

impl<T> LeaseCell<T> {
    /// A lease that ends `duration` from `now`.
    pub fn timed(of: impl Into<T>, duration: Duration, now: Now) -> Arc<Self> {
        let duration_ns = nanoseconds(duration);
        Arc::new(Self { of: of.into(), duration_ns, deadline_ns: AtomicU64::new(behind(now, duration_ns)) })
    }

    /// A lease without a deadline.
    pub fn unlimited(of: impl Into<T>) -> Arc<Self> {
        Arc::new(Self { of: of.into(), duration_ns: 0, deadline_ns: AtomicU64::new(NEVER) })
    }

    /// Moves the deadline to one whole duration from `now`, where there is one and it is not later already.
    pub fn renew(&self, now: Now) -> Renewal {
        let renewed = behind(now, self.duration_ns);
        let runs = |deadline: u64| deadline < ELSEWHERE && !is_inherited(deadline);
        match self.replace(|deadline| runs(deadline).then_some(renewed.max(deadline))) {
            Ok(_) | Err(NEVER) => Renewal::Done,
            Err(EXPIRED) => Renewal::Over,
            Err(_) => Renewal::Elsewhere,
        }
    }

    /// Adds what we were away for until `now`: up to one whole duration, and that where `anew` is set. Whoever was heard since
    /// has it already, and no more.
    fn extend(&self, by: Duration, anew: bool, now: Now) {
        let whole = behind(now, self.duration_ns);
        let longer = |deadline: u64| {
            let end = if anew { whole } else { (deadline + nanoseconds(by)).min(whole) }.max(deadline);
            end & !INHERITED | deadline & INHERITED
        };
        let _ = self.replace(|deadline| (deadline < ELSEWHERE).then(|| longer(deadline)));
    }

    /// Another node watches over the lease from here on.
    pub fn leave(&self) {
        if self.duration_ns > 0 {
            self.deadline_ns.store(ELSEWHERE, Ordering::Release);
        }
    }

    /// The lease is ours from here on: where another node watched over it, where we did so in its place, or where its end was not
    /// to be, it has one whole duration, and `more`. What a registration has made anew has `more` as well. True where it has to
    /// be armed.
    pub fn take(&self, more: Duration, now: Now) -> bool {
        let begun = behind(now, self.duration_ns + nanoseconds(more));
        let before = self.replace(|deadline| match deadline {
            NEVER => None,
            ELSEWHERE | EXPIRED => Some(begun),
            inherited if is_inherited(inherited) => Some(begun),
            running if more.is_zero() => Some(running),
            running => Some(running.max(begun)),
        });
        matches!(before, Ok(ELSEWHERE | EXPIRED))
    }

    /// The same in the place of a node that left: it ends here, and is renewed by nobody until it is taken.
    pub fn inherit(&self, now: Now) -> bool {
        let begun = behind(now, self.duration_ns) | INHERITED;
        let before = self.replace(|deadline| match deadline {
            NEVER => None,
            ELSEWHERE | EXPIRED => Some(begun),
            running => Some(running | INHERITED),
        });
        matches!(before, Ok(ELSEWHERE | EXPIRED))
    }

    /// Ends the lease where its deadline has passed; true where this call ended it.
    fn expire(&self, now: Now) -> bool {
        self.replace(|deadline| (deadline <= now.mono_ns).then_some(EXPIRED)).is_ok()
    }

    /// What it was before; or what it is, where it stays as it is.
    fn replace(&self, new: impl Fn(u64) -> Option<u64>) -> Result<u64, u64> {
        self.deadline_ns.fetch_update(Ordering::AcqRel, Ordering::Acquire, new)
    }

    /// True where the end has come and was noticed.
    pub fn is_over(&self) -> bool {
        self.deadline_ns.load(Ordering::Acquire) == EXPIRED
    }

    /// The deadline in nanoseconds of the monotonic clock; `None` where there is none, or not here.
    pub fn deadline_ns(&self) -> Option<u64> {
        match self.deadline_ns.load(Ordering::Acquire) {
            NEVER | EXPIRED | ELSEWHERE => None,
            deadline => Some(deadline),
        }
    }
}

/// The end of a duration that begins now; not one that is inherited, and never too early.
fn behind(now: Now, duration_ns: u64) -> u64 {
    (now.mono_ns + duration_ns).next_multiple_of(2)
}

fn is_inherited(deadline: u64) -> bool {
    deadline < ELSEWHERE && deadline & INHERITED != 0
}

/// Every armed lease, in buckets by deadline.
#[derive(Debug)]
pub struct Leases<T = Leased> {
    /// By the end of the bucket, in units of `BUCKET_NS`.
    buckets: BTreeMap<u64, Vec<Arc<LeaseCell<T>>>>,
}

impl<T> Default for Leases<T> {
    fn default() -> Self {
        Self { buckets: BTreeMap::new() }
    }
}

impl<T> Leases<T> {
    /// Puts a lease under watch; one without a deadline needs none.
    ///
    /// A lease that was replaced is not taken out: it expires or is found replaced in its bucket.
    pub fn arm(&mut self, cell: &Arc<LeaseCell<T>>) {
        if let Some(deadline) = cell.deadline_ns() {
            self.buckets.entry(deadline.div_ceil(BUCKET_NS)).or_default().push(cell.clone());
        }
    }

    /// When to look next, in nanoseconds of the monotonic clock.
    pub fn next_ns(&self) -> Option<u64> {
        self.buckets.keys().next().map(|bucket| bucket * BUCKET_NS)
    }

    /// We were away for so long, and could not hear the holders: a short absence is added to every lease;
    /// after a long one, in which a holder may have given up for a while, each gets one whole duration.
    pub fn after_absence(&self, away: Duration, now: Now) {
        for cell in self.buckets.values().flatten() {
            cell.extend(away, away >= ABSENCE_LONG, now);
        }
    }

    /// Ends and returns every lease whose deadline has passed.
    ///
    /// At most `most` of them; the rest the next time. A cell that its instance no longer uses (registered
    /// again since) is among them: the registry compares it with the one in force.
    pub fn expired(&mut self, now: Now, most: usize) -> Vec<Arc<LeaseCell<T>>> {
        let mut expired = Vec::new();
        while let Some(entry) = self.buckets.first_entry() {
            if entry.key() * BUCKET_NS > now.mono_ns {
                break;
            }
            let (bucket, mut cells) = entry.remove_entry();
            while let Some(cell) = cells.pop() {
                if expired.len() == most {
                    cells.push(cell);
                    self.buckets.insert(bucket, cells);
                    return expired;
                }
                if cell.expire(now) {
                    expired.push(cell);
                } else {
                    self.arm(&cell);
                }
            }
        }
        expired
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::{HostName, InstanceId, ServiceName};

    fn cell_key() -> Key {
        Key::new(
            ServiceName::parse("web").unwrap(),
            InstanceId::parse("web-1").unwrap(),
            HostName::parse("here").unwrap(),
        )
    }

    fn cell(duration: Duration) -> Arc<LeaseCell> {
        LeaseCell::timed(cell_key(), duration, Now::default())
    }

    fn at(milliseconds: u64) -> Now {
        Now::default().after(Duration::from_millis(milliseconds))
    }

    #[test]
    fn a_lease_ends_after_its_deadline_and_never_before() {
        let mut leases = Leases::default();
        leases.arm(&cell(Duration::from_millis(1001)));
        assert!(leases.expired(at(1000), 10).is_empty());
        let due = leases.next_ns().unwrap();
        assert!((1_001_000_000..1_001_000_000 + BUCKET_NS).contains(&due));
        assert_eq!(leases.expired(Now { mono_ns: due, ..Now::default() }, 10).len(), 1);
        assert_eq!(leases.next_ns(), None);
    }

    #[test]
    fn a_renewal_moves_the_deadline_and_an_expired_lease_stays_expired() {
        let mut leases = Leases::default();
        let cell = cell(Duration::from_secs(1));
        leases.arm(&cell);
        assert_eq!(cell.renew(at(900)), Renewal::Done);
        assert!(leases.expired(at(1500), 10).is_empty());
        assert_eq!(leases.expired(at(1904), 10).len(), 1);
        assert_eq!(cell.renew(at(1905)), Renewal::Over);
        assert_eq!(cell.deadline_ns(), None);
    }

    #[test]
    fn an_absence_is_added_and_a_long_one_starts_anew() {
        let mut leases = Leases::default();
        let cell = cell(Duration::from_secs(10));
        leases.arm(&cell);
        leases.after_absence(Duration::from_millis(300), at(9_000));
        assert_eq!(cell.deadline_ns(), at(10_300).mono_ns.into());
        cell.renew(at(9_400));
        leases.after_absence(Duration::from_millis(300), at(9_500));
        assert_eq!(
            cell.deadline_ns(),
            at(19_500).mono_ns.into(),
            "a whole duration is all that a holder asked for"
        );
        leases.after_absence(Duration::from_secs(60), at(69_000));
        assert_eq!(cell.deadline_ns(), at(79_000).mono_ns.into());
        assert_eq!(leases.expired(at(79_000), 10).len(), 1);
    }

    #[test]
    fn a_lease_that_another_node_watches_over_stands_still() {
        let mut leases = Leases::default();
        let cell = cell(Duration::from_secs(1));
        leases.arm(&cell);
        cell.leave();
        assert!(leases.expired(at(2000), 10).is_empty());
        assert_eq!(cell.renew(at(2000)), Renewal::Elsewhere);
        leases.after_absence(Duration::from_secs(5), at(2000));
        assert_eq!(cell.deadline_ns(), None);
        assert!(cell.take(Duration::ZERO, at(3000)));
        assert!(!cell.take(Duration::ZERO, at(3500)), "it runs already");
        leases.arm(&cell);
        assert!(leases.expired(at(3999), 10).is_empty());
        assert_eq!(leases.expired(at(4004), 10).len(), 1);
        assert!(cell.take(Duration::ZERO, at(4004)), "its end was not to be");
        assert_eq!(cell.renew(at(4100)), Renewal::Done);
    }

    #[test]
    fn an_inherited_lease_ends_and_is_renewed_by_nobody_until_it_is_taken() {
        let mut leases = Leases::default();
        let cell = cell(Duration::from_secs(1));
        cell.leave();
        assert!(cell.inherit(at(100)));
        assert!(!cell.inherit(at(500)), "it runs already");
        leases.arm(&cell);
        assert_eq!(cell.renew(at(1000)), Renewal::Elsewhere);
        leases.after_absence(Duration::from_millis(300), at(1000));
        assert_eq!(cell.renew(at(1001)), Renewal::Elsewhere, "also after an absence");
        assert!(leases.expired(at(1399), 10).is_empty());
        assert!(!cell.take(Duration::ZERO, at(1399)), "it is armed already");
        assert_eq!(cell.renew(at(1500)), Renewal::Done);
        assert!(!cell.inherit(at(1600)));
        assert_eq!(cell.renew(at(1700)), Renewal::Elsewhere);
        assert!(leases.expired(at(2499), 10).is_empty());
        assert_eq!(leases.expired(at(2508), 10).len(), 1);
        assert!(cell.inherit(at(2508)), "its end was not to be");
        let never = LeaseCell::<Key>::unlimited(cell_key());
        assert!(!never.inherit(at(0)));
        assert_eq!(never.renew(at(1)), Renewal::Done);
    }

    #[test]
    fn a_lease_that_is_taken_with_more_keeps_it() {
        let mut leases = Leases::default();
        let cell = cell(Duration::from_secs(1));
        cell.leave();
        assert!(cell.take(Duration::from_secs(5), at(0)));
        leases.arm(&cell);
        assert_eq!(cell.renew(at(100)), Renewal::Done);
        assert!(leases.expired(at(5999), 10).is_empty());
        assert_eq!(cell.renew(at(5999)), Renewal::Done);
        assert!(leases.expired(at(6998), 10).is_empty());
        assert_eq!(leases.expired(at(7004), 10).len(), 1);
        let anew = LeaseCell::timed(cell_key(), Duration::from_secs(1), at(0));
        leases.arm(&anew);
        assert!(!anew.take(Duration::from_secs(5), at(500)), "it is armed already");
        assert!(leases.expired(at(6499), 10).is_empty());
        assert_eq!(leases.expired(at(6504), 10).len(), 1);
    }

    #[test]
    fn a_late_renewal_counts_while_the_end_was_not_yet_noticed() {
        let mut leases = Leases::default();
        let cell = cell(Duration::from_secs(1));
        leases.arm(&cell);
        assert_eq!(cell.renew(at(1002)), Renewal::Done);
        assert!(leases.expired(at(1010), 10).is_empty());
    }
}
