//! Which services are asked for how often, and which names are asked for that are not there.
//!
//! A table of fixed size counts names, whatever clients ask for: it is cut into sets, and where a name comes to a full
//! set, it takes the place of the least counted one there, and its count, as Space-Saving does (Metwally, Agrawal and
//! El Abbadi, 2005). So what is asked for often is never lost, and how much a count may be too high is known. The hash that chooses the
//! set is keyed: nobody can choose names that crowd out others.
//!
//! Each worker of UDP has a table of its own, and one is everybody's who is not in a hurry. The first thousand
//! queries of a second are counted, of more one in 64, which then stands for 64. A worker never waits: while somebody
//! reads its table, it counts nothing.

use std::collections::HashMap;
use std::hash::Hasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use siphasher::sip::SipHasher13;

use crate::time::{Now, nanoseconds};

/// Queries of one table that are all counted in `PACE`, and what part of the rest is.
pub const COUNTED_MAX: u32 = 1_000;
pub const ONE_IN: u32 = 64;
const PACE: Duration = Duration::from_secs(1);
/// Rates are over so long, the last whole span and the present one together.
pub const WINDOW: Duration = Duration::from_secs(10);
/// A name that nobody asked for in so long is the first to go.
const IDLE: Duration = Duration::from_secs(3600);
/// Places in a set, and sets of services and of missing names: 1,024 services, of 100 octets each, and 512 names, of
/// 300, for each table.
const WAYS: usize = 8;
const SERVICE_SETS: usize = 128;
const MISSING_SETS: usize = 64;
/// Octets of a service's name, and of any name (RFC 1035 section 2.3.4).
const SERVICE_OCTETS_MAX: usize = 63;
const NAME_OCTETS_MAX: usize = 255;

/// What one query was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen<'a> {
    /// A known service, by its name in lower case.
    Service(&'a str),
    /// A name that is not there, as it is on the wire, in lower case.
    Missing(&'a [u8]),
    Other,
}

/// All tables.
#[derive(Debug)]
pub struct Traffic {
    key: (u64, u64),
    workers: Mutex<Vec<Arc<Mutex<Tables>>>>,
    /// Of whatever does not come through a worker of UDP, and when it counts.
    general: Mutex<(Pace, Tables)>,
}

/// A worker's own table, and which of its queries it counts.
#[derive(Debug)]
pub struct Counting {
    tables: Arc<Mutex<Tables>>,
    pace: Pace,
}

/// A query that is counted.
pub struct Turn<'a> {
    general: MutexGuard<'a, (Pace, Tables)>,
    weight: u32,
    now: Now,
}

impl Turn<'_> {
    pub fn count(mut self, seen: Seen<'_>) {
        self.general.1.count(seen, self.weight, self.now);
    }
}

/// A service or a name, and how often it was asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure<T> {
    pub name: T,
    /// Since it came into the table; at most `over` too high.
    pub count: u64,
    pub over: u64,
    /// Queries a second, lately.
    pub rate: f64,
    /// How long ago it was asked for.
    pub ago: Duration,
}

/// What all tables hold together, most asked for first.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Queries a second of all kinds, and those of names that are not there.
    pub rate: f64,
    pub missing_rate: f64,
    pub services: Vec<Figure<String>>,
    pub missing: Vec<Figure<Box<[u8]>>>,
}

impl Default for Traffic {
    fn default() -> Self {
        Self::new((0, 0))
    }
}

impl Traffic {
    /// `key` is of random numbers.
    pub fn new(key: (u64, u64)) -> Self {
        let general = Mutex::new((Pace::default(), Tables::new(key)));
        Self { key, workers: Mutex::default(), general }
    }

    /// What one more worker counts with.
    pub fn worker(&self) -> Counting {
        let tables = Arc::new(Mutex::new(Tables::new(self.key)));
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).push(tables.clone());
        Counting { tables, pace: Pace::default() }
    }

    /// To count one query that no worker answered; none where it is not counted. Of several at the same moment one is.
    pub fn turn(&self, now: Now) -> Option<Turn<'_>> {
        let mut general = unless_taken(&self.general)?;
        general.0.begin(now);
        let weight = general.0.weight()?;
        Some(Turn { general, weight, now })
    }

    pub fn figures(&self, now: Now) -> Figures {
        let mut sum = Sum::default();
        let workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for tables in workers {
            // Copied, so that the worker goes on in a moment.
            let copy = tables.lock().unwrap_or_else(PoisonError::into_inner).clone();
            sum.add(&copy, now);
        }
        let general = self.general.lock().unwrap_or_else(PoisonError::into_inner).1.clone();
        sum.add(&general, now);
        sum.figures()
    }
}

impl Counting {
    /// A moment has passed: more may be counted.
    pub fn begin(&mut self, now: Now) {
        self.pace.begin(now);
    }

    /// How many queries the next one stands for; none where it is not counted.
    pub fn weight(&mut self) -> Option<u32> {
        self.pace.weight()
    }

    pub fn count(&self, seen: Seen<'_>, weight: u32, now: Now) {
        if let Some(mut tables) = unless_taken(&self.tables) {
            tables.count(seen, weight, now);
        }
    }
}

fn unless_taken<T>(lock: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match lock.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// Which queries are counted.
#[derive(Debug)]
struct Pace {
    /// Of those that are all counted in this span.
    left: u32,
    since_ns: u64,
    turn: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self { left: COUNTED_MAX, since_ns: 0, turn: 0 }
    }
}

impl Pace {
    fn begin(&mut self, now: Now) {
        if now.mono_ns.saturating_sub(self.since_ns) >= nanoseconds(PACE) {
            (self.left, self.since_ns) = (COUNTED_MAX, now.mono_ns);
        }
    }

    fn weight(&mut self) -> Option<u32> {
        if self.left > 0 {
            self.left -= 1;
            return Some(1);
        }
        self.turn = (self.turn + 1) % ONE_IN;
        (self.turn == 0).then_some(ONE_IN)
    }
}

#[derive(Clone, Debug)]
struct Tables {
    key: (u64, u64),
    all: Rate,
    missing_all: Rate,
    services: Table<SERVICE_OCTETS_MAX>,
    missing: Table<NAME_OCTETS_MAX>,
}

impl Tables {
    fn new(key: (u64, u64)) -> Self {
        let (services, missing) = (Table::new(SERVICE_SETS), Table::new(MISSING_SETS));
        Self { key, all: Rate::default(), missing_all: Rate::default(), services, missing }
    }

    fn count(&mut self, seen: Seen<'_>, weight: u32, now: Now) {
        self.all.add(weight, now);
        match seen {
            Seen::Service(name) => self.services.count(self.key, name.as_bytes(), weight, now),
            Seen::Missing(name) => {
                self.missing_all.add(weight, now);
                self.missing.count(self.key, name, weight, now);
            }
            Seen::Other => {}
        }
    }
}

/// How many came in the present window and in the one before.
#[derive(Clone, Copy, Debug, Default)]
struct Rate {
    window: u64,
    present: u64,
    before: u64,
}

impl Rate {
    fn add(&mut self, weight: u32, now: Now) {
        self.move_to(now);
        self.present += u64::from(weight);
    }

    fn move_to(&mut self, now: Now) {
        let window = now.mono_ns / nanoseconds(WINDOW);
        if window > self.window {
            self.before = if window == self.window + 1 { self.present } else { 0 };
            (self.window, self.present) = (window, 0);
        }
    }

    /// A second: the present window, and as much of the one before as makes a whole one.
    fn per_second(mut self, now: Now) -> f64 {
        self.move_to(now);
        let into = (now.mono_ns % nanoseconds(WINDOW)) as f64 / nanoseconds(WINDOW) as f64;
        (self.present as f64 + self.before as f64 * (1.0 - into)) / WINDOW.as_secs_f64()
    }
}

/// Names of at most `N` octets, in sets of `WAYS`.
#[derive(Clone, Debug)]
struct Table<const N: usize>(Box<[Entry<N>]>);

#[derive(Clone, Copy, Debug)]
struct Entry<const N: usize> {
    hash: u64,
    count: u64,
    over: u64,
    rate: Rate,
    last_ns: u64,
    /// 0: free.
    octets: u8,
    name: [u8; N],
}

impl<const N: usize> Entry<N> {
    const FREE: Self = Self {
        hash: 0,
        count: 0,
        over: 0,
        rate: Rate { window: 0, present: 0, before: 0 },
        last_ns: 0,
        octets: 0,
        name: [0; N],
    };

    fn name(&self) -> &[u8] {
        &self.name[..usize::from(self.octets)]
    }

    /// What it has to lose.
    fn worth(&self, now: Now) -> u64 {
        if now.mono_ns.saturating_sub(self.last_ns) > nanoseconds(IDLE) { 0 } else { self.count }
    }
}

impl<const N: usize> Table<N> {
    fn new(sets: usize) -> Self {
        Self(vec![Entry::FREE; sets * WAYS].into())
    }

    fn count(&mut self, key: (u64, u64), name: &[u8], weight: u32, now: Now) {
        if name.is_empty() || name.len() > N {
            return;
        }
        let mut hasher = SipHasher13::new_with_keys(key.0, key.1);
        hasher.write(name);
        let hash = hasher.finish();
        let first = hash as usize % (self.0.len() / WAYS) * WAYS;
        let set = &mut self.0[first..first + WAYS];
        let known = set.iter().position(|entry| entry.hash == hash && entry.name() == name);
        let at = known.unwrap_or_else(|| {
            let least = (0..WAYS).min_by_key(|at| set[*at].worth(now)).unwrap_or(0);
            let over = set[least].worth(now);
            let entry = &mut set[least];
            *entry = Entry { hash, count: over, over, octets: name.len() as u8, ..Entry::FREE };
            entry.name[..name.len()].copy_from_slice(name);
            least
        });
        let entry = &mut set[at];
        entry.count += u64::from(weight);
        entry.last_ns = now.mono_ns;
        entry.rate.add(weight, now);
    }

    fn used(&self) -> impl Iterator<Item = &Entry<N>> {
        self.0.iter().filter(|entry| entry.octets > 0)
    }
}

/// Several tables, added up.
#[derive(Default)]
struct Sum {
    rate: f64,
    missing_rate: f64,
    services: HashMap<Box<[u8]>, Figure<()>>,
    missing: HashMap<Box<[u8]>, Figure<()>>,
}

impl Sum {
    fn add(&mut self, tables: &Tables, now: Now) {
        self.rate += tables.all.per_second(now);
        self.missing_rate += tables.missing_all.per_second(now);
        tables.services.used().for_each(|entry| add_entry(&mut self.services, entry, now));
        tables.missing.used().for_each(|entry| add_entry(&mut self.missing, entry, now));
    }

    fn figures(self) -> Figures {
        let services = sorted(self.services, |name| String::from_utf8_lossy(&name).into_owned());
        let missing = sorted(self.missing, |name| name);
        Figures { rate: self.rate, missing_rate: self.missing_rate, services, missing }
    }
}

fn add_entry<const N: usize>(sum: &mut HashMap<Box<[u8]>, Figure<()>>, entry: &Entry<N>, now: Now) {
    let ago = Duration::from_nanos(now.mono_ns.saturating_sub(entry.last_ns));
    let none = Figure { name: (), count: 0, over: 0, rate: 0.0, ago };
    let figure = sum.entry(entry.name().into()).or_insert(none);
    figure.count += entry.count;
    figure.over += entry.over;
    figure.rate += entry.rate.per_second(now);
    figure.ago = figure.ago.min(ago);
}

fn sorted<T: Ord>(sum: HashMap<Box<[u8]>, Figure<()>>, name: impl Fn(Box<[u8]>) -> T) -> Vec<Figure<T>> {
    let named = |(octets, Figure { count, over, rate, ago, name: () })| Figure {
        name: name(octets),
        count,
        over,
        rate,
        ago,
    };
    let mut all: Vec<_> = sum.into_iter().map(named).collect();
    all.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.name.cmp(&b.name)));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Now {
        Now { mono_ns: ms * 1_000_000, ..Now::default() }
    }

    #[test]
    fn a_thousand_a_second_are_counted_and_of_more_one_in_64() {
        let mut pace = Pace::default();
        pace.begin(at(5_000));
        let mut counted = |queries: u32| -> u32 { (0..queries).filter_map(|_| pace.weight()).sum() };
        assert_eq!(counted(1_000), 1_000);
        assert_eq!(counted(64 * 100), 64 * 100, "estimated from a hundred");
        let mut pace = Pace { left: 0, since_ns: at(5_000).mono_ns, turn: 0 };
        pace.begin(at(5_999));
        assert_eq!(pace.weight(), None);
        pace.begin(at(6_000));
        assert_eq!(pace.weight(), Some(1));
    }

    #[test]
    fn a_rate_is_that_of_the_last_ten_seconds() {
        let traffic = Traffic::default();
        for ms in (10_000..20_000).step_by(100) {
            traffic.turn(at(ms)).expect("nobody reads").count(Seen::Service("web"));
        }
        let rate = |ms| traffic.figures(at(ms)).services[0].rate;
        assert_eq!([rate(20_000), rate(25_000), rate(30_000)], [10.0, 5.0, 0.0]);
        assert_eq!(traffic.figures(at(20_000)).rate, 10.0);
        assert_eq!(traffic.figures(at(90_000)).services[0].count, 100, "the count stays");
    }

    #[test]
    fn workers_and_the_rest_are_added_up() {
        let traffic = Traffic::default();
        let mut worker = traffic.worker();
        worker.begin(at(10_000));
        for _ in 0..3 {
            let weight = worker.weight().expect("it is early");
            worker.count(Seen::Missing(b"\x03wbe\0"), weight, at(10_000));
        }
        for seen in [Seen::Missing(b"\x03wbe\0"), Seen::Other] {
            traffic.turn(at(11_000)).expect("nobody reads").count(seen);
        }
        let figures = traffic.figures(at(12_000));
        assert_eq!((&*figures.missing[0].name, figures.missing[0].count), (&b"\x03wbe\0"[..], 4));
        assert_eq!(figures.missing[0].ago, Duration::from_secs(1));
        assert_eq!((figures.missing_rate, figures.rate), (0.4, 0.5));
    }

    #[test]
    fn what_is_asked_for_often_stays_whatever_else_comes() {
        let traffic = Traffic::new((7, 11));
        let mut tables = Tables::new(traffic.key);
        // A name in twenty is one of ten typos; the rest never comes again.
        for turn in 0..400_000_u32 {
            let name = match turn % 20 {
                0 => format!("typo{}", turn / 20 % 10),
                _ => format!("random{turn}"),
            };
            tables.count(Seen::Missing(name.as_bytes()), 1, at(1_000));
        }
        let mut sum = Sum::default();
        sum.add(&tables, at(1_000));
        let figures = sum.figures();
        assert_eq!(figures.missing.len(), MISSING_SETS * WAYS, "no more than there is room for");
        for typo in 0..10 {
            let name = format!("typo{typo}");
            let figure = figures.missing.iter().find(|figure| *figure.name == *name.as_bytes());
            let figure = figure.unwrap_or_else(|| panic!("{name} was lost"));
            assert!(figure.count >= 2_000 && figure.count - figure.over <= 2_000, "{figure:?}");
        }
    }

    #[test]
    fn what_nobody_asks_for_any_more_makes_room() {
        let mut table = Table::<8>::new(1);
        (0..100).for_each(|_| table.count((0, 0), b"old", 1, at(0)));
        let late = at(nanoseconds(IDLE) / 1_000_000 + 1);
        (0..WAYS as u8).for_each(|name| table.count((0, 0), &[b'a' + name], 1, late));
        assert!(table.used().all(|entry| entry.name() != b"old" && entry.over == 0));
    }

    #[test]
    fn a_name_that_is_read_meanwhile_is_not_waited_for() {
        let traffic = Traffic::default();
        let worker = traffic.worker();
        let tables = worker.tables.clone();
        let held = tables.lock().unwrap();
        worker.count(Seen::Service("web"), 1, at(0));
        drop(held);
        assert!(traffic.figures(at(0)).services.is_empty());
    }
}
