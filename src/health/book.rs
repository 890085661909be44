//! The book of checks that are probed: which there are, when each is due, and how its outcomes went.
//!
//! Plain data: time and random numbers come in. A check whose definition is the same stays as it is, whatever
//! else becomes of its instance: its schedule and its streak go on.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;

use crate::balance::Draws;
use crate::check::{Check, Definition, Kind, Streak};
use crate::lease::Leased;
use crate::name::{HostName, InstanceId};
use crate::time::nanoseconds;

/// The first probe of a new check comes within this: who registers waits for it to be in the answers.
const SOON: Duration = Duration::from_secs(1);
/// After a start, every check is probed once within this, or its interval where that is shorter: a status of before
/// the restart is not for long, and 20,000 probes do not come at once.
const AFTER_START: Duration = Duration::from_secs(60);
/// What another node probed before, and what has to be said again, is probed within this, or its interval where that is
/// shorter: a dead node is missed for five seconds already, and its 10,000 checks are 2,000 probes a second then.
const ANEW: Duration = Duration::from_secs(5);
/// The part of an interval by which a probe may be put off: servers that were started together do not stay in step.
const JITTER_PART: u32 = 20;
/// A probe that takes longer is slow, and the next one of its check takes a place among the slow ones: ten times what
/// a distant target takes.
const SLOW: Duration = Duration::from_secs(1);

/// A check under probe.
#[derive(Debug)]
pub struct Entry {
    /// Whose check it is.
    pub of: Leased,
    pub id: Arc<str>,
    pub definition: Arc<Definition>,
    pub streak: Streak,
    pub slow: bool,
    /// The outcome before came too late to count.
    pub late: bool,
    /// Where its regular starts are counted from; none until the first probe has begun.
    base_ns: Option<u64>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// An alias: changes are its clock.
    Heeding,
    Due(u64),
    /// Due since then, and there was no place for it.
    Waiting(u64),
    Running(AbortHandle),
}

/// What a probe takes a place of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    Quick,
    /// Checks whose last probe took long: those that hang delay each other, and nobody else.
    Slow,
    /// Programs.
    Command,
}

pub const LANES: [Lane; 3] = [Lane::Quick, Lane::Slow, Lane::Command];

/// See the module's own words.
pub struct Book {
    /// By a number that is never given twice, so that a late outcome meets no other check.
    entries: HashMap<u64, Entry>,
    next: u64,
    of: HashMap<Leased, Vec<u64>>,
    due: BTreeSet<(u64, u64)>,
    /// By lane.
    waiting: [BTreeSet<(u64, u64)>; LANES.len()],
    aliases_of_ids: HashMap<InstanceId, BTreeSet<u64>>,
    aliases_of_hosts: HashMap<HostName, BTreeSet<u64>>,
    draws: Draws,
}

/// Whether the server has just started, or something was registered, or another node probed it before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    AtStart,
    Later,
    Elsewhere,
}

impl Entry {
    pub fn lane(&self) -> Lane {
        match self.definition.kind {
            Kind::Command(_) => Lane::Command,
            _ if self.slow => Lane::Slow,
            _ => Lane::Quick,
        }
    }

    /// Notes how long a probe took.
    pub fn took(&mut self, duration: Duration) {
        self.slow = duration > SLOW;
    }
}

impl Book {
    pub fn new(seed: u64) -> Self {
        Self {
            entries: HashMap::new(),
            next: 0,
            of: HashMap::new(),
            due: BTreeSet::new(),
            waiting: Default::default(),
            aliases_of_ids: HashMap::new(),
            aliases_of_hosts: HashMap::new(),
            draws: Draws::new(seed),
        }
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn entry(&mut self, number: u64) -> Option<&mut Entry> {
        self.entries.get_mut(&number)
    }

    /// Everybody who has a check in the book.
    pub fn subjects(&self) -> HashSet<Leased> {
        self.of.keys().cloned().collect()
    }

    /// The checks of somebody as they are now: new ones come in, those that are not there any more go, with
    /// whatever probe they have.
    pub fn set(&mut self, of: &Leased, checks: &[Check], found: Found, now_ns: u64) {
        let probed = || checks.iter().filter(|check| check.definition.kind.is_probed());
        let known = match self.of.get(of) {
            Some(known) => known.clone(),
            None if probed().next().is_none() => return,
            None => Vec::new(),
        };
        let same = |entry: &Entry, check: &Check| {
            entry.id == check.id
                && (Arc::ptr_eq(&entry.definition, &check.definition) || entry.definition == check.definition)
        };
        let mut kept = Vec::with_capacity(known.len());
        for number in known {
            match self.entries.get(&number) {
                Some(entry) if probed().any(|check| same(entry, check)) => kept.push(number),
                _ => self.remove(number),
            }
        }
        for check in probed() {
            if !kept.iter().any(|number| self.entries.get(number).is_some_and(|entry| same(entry, check))) {
                kept.push(self.add(of, check, found, now_ns));
            }
        }
        match kept.is_empty() {
            true => drop(self.of.remove(of)),
            false => drop(self.of.insert(of.clone(), kept)),
        }
    }

    fn add(&mut self, of: &Leased, check: &Check, found: Found, now_ns: u64) -> u64 {
        let number = self.next;
        self.next += 1;
        let definition = check.definition.clone();
        let state = match &definition.kind {
            Kind::Alias { .. } => {
                self.heed(number, of, &definition.kind, true);
                State::Heeding
            }
            _ => {
                let within = match found {
                    Found::AtStart => AFTER_START,
                    Found::Later => SOON,
                    Found::Elsewhere => ANEW,
                };
                let due_ns = now_ns + self.draw_below(within.min(definition.interval));
                self.due.insert((due_ns, number));
                State::Due(due_ns)
            }
        };
        let entry = Entry {
            of: of.clone(),
            id: check.id.clone(),
            definition,
            streak: Streak::default(),
            slow: false,
            late: false,
            base_ns: None,
            state,
        };
        self.entries.insert(number, entry);
        number
    }

    fn remove(&mut self, number: u64) {
        let Some(entry) = self.entries.remove(&number) else { return };
        match entry.state {
            State::Heeding => self.heed(number, &entry.of, &entry.definition.kind, false),
            State::Due(due_ns) => drop(self.due.remove(&(due_ns, number))),
            State::Waiting(since_ns) => {
                for lane in &mut self.waiting {
                    lane.remove(&(since_ns, number));
                }
            }
            State::Running(probe) => probe.abort(),
        }
    }

    /// Puts an alias into the index of what it is one of, or takes it out.
    fn heed(&mut self, number: u64, of: &Leased, kind: &Kind, heeds: bool) {
        fn note<K: std::hash::Hash + Eq>(
            index: &mut HashMap<K, BTreeSet<u64>>,
            at: K,
            number: u64,
            heeds: bool,
        ) {
            if heeds {
                index.entry(at).or_default().insert(number);
            } else if let Some(numbers) = index.get_mut(&at) {
                numbers.remove(&number);
                if numbers.is_empty() {
                    index.remove(&at);
                }
            }
        }
        match aliased(of, kind) {
            (_, Some(id)) => note(&mut self.aliases_of_ids, id.clone(), number, heeds),
            (host, None) => note(&mut self.aliases_of_hosts, host.clone(), number, heeds),
        }
    }

    /// Every alias there is.
    pub fn aliases(&self) -> BTreeSet<u64> {
        let ids = self.aliases_of_ids.values().flatten();
        ids.chain(self.aliases_of_hosts.values().flatten()).copied().collect()
    }

    pub fn has_aliases(&self) -> bool {
        !self.aliases_of_ids.is_empty() || !self.aliases_of_hosts.is_empty()
    }

    /// The aliases that somebody has.
    pub fn aliases_on(&self, of: &Leased) -> impl Iterator<Item = u64> {
        let numbers = self.of.get(of).into_iter().flatten().copied();
        numbers.filter(|number| {
            self.entries.get(number).is_some_and(|entry| matches!(entry.state, State::Heeding))
        })
    }

    /// The aliases that an instance's change may concern, beside those of its host, which it may have been the first or the
    /// last on.
    pub fn aliases_of_id(&self, id: &InstanceId) -> impl Iterator<Item = u64> {
        self.aliases_of_ids.get(id).into_iter().flatten().copied()
    }

    pub fn aliases_of_host(&self, host: &HostName) -> impl Iterator<Item = u64> {
        self.aliases_of_hosts.get(host).into_iter().flatten().copied()
    }

    /// When the next check is due.
    pub fn next_ns(&self) -> Option<u64> {
        self.due.first().map(|(due_ns, _)| *due_ns)
    }

    /// The number of a check that is due, and since when. It is in no queue from here on: it is for the caller to start it, or to
    /// put it back.
    pub fn pop_due(&mut self, now_ns: u64) -> Option<(u64, u64)> {
        let first = self.due.first().copied().filter(|(due_ns, _)| *due_ns <= now_ns)?;
        self.due.remove(&first);
        Some((first.1, first.0))
    }

    /// One that has waited for a place in the lane for longest.
    pub fn pop_waiting(&mut self, lane: Lane) -> Option<(u64, u64)> {
        self.waiting[lane as usize].pop_first().map(|(since_ns, number)| (number, since_ns))
    }

    /// There is no place for it now.
    pub fn wait(&mut self, number: u64, since_ns: u64) {
        if let Some(entry) = self.entries.get_mut(&number) {
            entry.state = State::Waiting(since_ns);
            self.waiting[entry.lane() as usize].insert((since_ns, number));
        }
    }

    pub fn runs(&mut self, number: u64, probe: AbortHandle) {
        if let Some(entry) = self.entries.get_mut(&number) {
            entry.state = State::Running(probe);
        }
    }

    /// Its next regular start: whole intervals from its first one, so that a slow probe moves nothing.
    pub fn again(&mut self, number: u64, began_ns: u64, now_ns: u64) {
        let Some(interval) = self.entries.get(&number).map(|entry| entry.definition.interval) else { return };
        let (phase_ns, jitter_ns) = (self.draw_below(interval), self.draw_below(interval / JITTER_PART));
        let interval_ns = nanoseconds(interval).max(1);
        let Some(entry) = self.entries.get_mut(&number) else { return };
        let base_ns = match entry.base_ns {
            // What was registered together is probed together once, and spread over the interval from then on.
            // A quarter of it passes at least: a verdict is in the view by then.
            None => began_ns + interval_ns / 4 + phase_ns,
            Some(base_ns) => base_ns + interval_ns,
        };
        // Starts that passed while a probe was under way are left out.
        let passed = now_ns.saturating_sub(base_ns).div_ceil(interval_ns);
        let base_ns = base_ns + passed * interval_ns;
        entry.base_ns = Some(base_ns);
        self.put(number, base_ns + jitter_ns);
    }

    /// Again within a second, for what came of it did not count.
    pub fn again_soon(&mut self, number: u64, now_ns: u64) {
        let due_ns = now_ns + self.draw_below(SOON);
        self.put(number, due_ns);
    }

    /// Before its regular start, which stays where it is: what came of the last one was not taken. One that waits or runs
    /// comes to it by itself.
    pub fn anew(&mut self, number: u64, now_ns: u64) {
        let Some(entry) = self.entries.get(&number) else { return };
        let (interval, wait) = (entry.definition.interval, ANEW.min(entry.definition.interval));
        match entry.state {
            // It has no interval, and is looked at when it is popped.
            State::Heeding => {
                let due_ns = now_ns + self.draw_below(ANEW);
                self.due.insert((due_ns, number));
            }
            State::Due(regular_ns) => {
                let due_ns = now_ns + self.draw_below(wait);
                if due_ns < regular_ns {
                    self.due.remove(&(regular_ns, number));
                    self.put(number, due_ns);
                    if let Some(entry) = self.entries.get_mut(&number) {
                        entry.base_ns =
                            entry.base_ns.map(|base_ns| base_ns.saturating_sub(nanoseconds(interval)));
                    }
                }
            }
            State::Waiting(_) | State::Running(_) => {}
        }
    }

    fn put(&mut self, number: u64, due_ns: u64) {
        if let Some(entry) = self.entries.get_mut(&number) {
            entry.state = State::Due(due_ns);
            self.due.insert((due_ns, number));
        }
    }

    /// A number of nanoseconds below `most`.
    fn draw_below(&mut self, most: Duration) -> u64 {
        let most = u128::from(nanoseconds(most));
        // The upper half of the product of two 64-bit numbers is below the second.
        ((u128::from(self.draws.next_u64()) * most) >> 64) as u64
    }
}

/// What an alias is one of: everything on a host, or the instances of an id there. Where the alias names no host, it
/// is the one that the alias is on.
pub fn aliased<'a>(of: &'a Leased, kind: &'a Kind) -> (&'a HostName, Option<&'a InstanceId>) {
    let own = match of {
        Leased::Instance(key) => &key.host,
        Leased::Host(name) => name,
    };
    match kind {
        Kind::Alias { host, id } => (host.as_ref().unwrap_or(own), id.as_ref()),
        _ => (own, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Place;
    use crate::instance::Health;
    use crate::time::Now;

    const INTERVAL: Duration = Duration::from_secs(10);
    const SECOND_NS: u64 = 1_000_000_000;

    fn host(name: &str) -> Leased {
        Leased::Host(HostName::parse(name).unwrap())
    }

    fn check(id: &str, port: u16) -> Check {
        let kind = Kind::Tcp(Place { host: "127.0.0.1".into(), port });
        let definition = Definition { kind, interval: INTERVAL, rise: 1, fall: 1, ..Definition::default() };
        Check::new(&host("m"), id.into(), Health::Critical, "".into(), Arc::new(definition), Now::default())
    }

    fn alias(host: Option<&str>, id: Option<&str>) -> Check {
        let host = host.map(|name| HostName::parse(name).unwrap());
        let kind = Kind::Alias { host, id: id.map(|id| InstanceId::parse(id).unwrap()) };
        let definition = Arc::new(Definition { kind, ..Definition::default() });
        Check { definition, ..check("alias", 1) }
    }

    #[test]
    fn a_check_that_is_the_same_keeps_its_time() {
        let mut book = Book::new(1);
        book.set(&host("m"), &[check("a", 1), check("b", 2)], Found::Later, 0);
        let before = book.due.clone();
        // Another copy of `a`, another status, and another `b`.
        let other = Check { status: Health::Passing, ..check("a", 1) };
        book.set(&host("m"), &[other, check("b", 3)], Found::Later, 5 * SECOND_NS);
        assert_eq!(book.due.intersection(&before).count(), 1);
        assert_eq!((book.len(), book.due.len()), (2, 2));
        book.set(&host("m"), &[], Found::Later, 0);
        assert_eq!((book.len(), book.due.len(), book.of.len()), (0, 0, 0));
    }

    #[test]
    fn new_checks_come_soon_and_are_spread_from_then_on() {
        let mut book = Book::new(7);
        for number in 0..1000 {
            book.set(&host(&format!("m{number}")), &[check("a", 1)], Found::Later, 0);
        }
        assert!(book.due.last().unwrap().0 < SECOND_NS);
        while let Some((number, due_ns)) = book.pop_due(SECOND_NS) {
            book.again(number, due_ns, due_ns);
        }
        // Within every tenth of the interval, from a quarter after the first probes on, about a tenth of them.
        for tenth in 4..12 {
            let from = (tenth * SECOND_NS, 0);
            let count = book.due.range(from..(from.0 + SECOND_NS, 0)).count();
            assert!((60..140).contains(&count), "{tenth}: {count}");
        }
    }

    #[test]
    fn starts_are_whole_intervals_apart_and_missed_ones_are_left_out() {
        let mut book = Book::new(3);
        book.set(&host("m"), &[check("a", 1)], Found::AtStart, 0);
        let (number, due_ns) = book.pop_due(u64::MAX).unwrap();
        assert!(due_ns < 10 * SECOND_NS);
        book.again(number, due_ns, due_ns);
        let base_ns = book.entries[&number].base_ns.unwrap();
        for round in 1..100 {
            let (_, due_ns) = book.pop_due(u64::MAX).unwrap();
            let regular = base_ns + (round - 1) * 10 * SECOND_NS;
            assert!((regular..regular + SECOND_NS / 2).contains(&due_ns), "{round}");
            book.again(number, due_ns, due_ns + SECOND_NS);
        }
        let (_, due_ns) = book.pop_due(u64::MAX).unwrap();
        book.again(number, due_ns, due_ns + 35 * SECOND_NS);
        let next_ns = book.next_ns().unwrap();
        assert!((due_ns + 35 * SECOND_NS..due_ns + 46 * SECOND_NS).contains(&next_ns));
        assert_eq!((book.entries[&number].base_ns.unwrap() - base_ns) % (10 * SECOND_NS), 0);
    }

    #[test]
    fn what_was_not_taken_is_probed_before_its_time_and_no_start_is_left_out_for_it() {
        let mut book = Book::new(5);
        let now_ns = 100 * SECOND_NS;
        book.set(&host("m"), &[check("a", 1)], Found::Elsewhere, now_ns);
        assert!(book.next_ns().unwrap() < now_ns + 5 * SECOND_NS);
        let (number, _) = book.pop_due(u64::MAX).unwrap();
        book.again(number, now_ns, now_ns);
        let regular_ns = book.entries[&number].base_ns.unwrap();
        book.anew(number, now_ns);
        assert_eq!(book.due.len(), 1);
        let (_, due_ns) = book.pop_due(regular_ns - 1).expect("before its regular start");
        book.again(number, due_ns, due_ns);
        assert_eq!(book.entries[&number].base_ns, Some(regular_ns));
        book.set(&host("n"), &[alias(None, None)], Found::Later, 0);
        let alias = book.aliases().pop_first().unwrap();
        book.anew(alias, 0);
        assert_eq!(book.pop_due(5 * SECOND_NS).map(|(number, _)| number), Some(alias));
    }

    #[test]
    fn who_waits_is_taken_out_with_the_check() {
        let mut book = Book::new(3);
        book.set(&host("m"), &[check("a", 1)], Found::Later, 0);
        let (number, due_ns) = book.pop_due(u64::MAX).unwrap();
        book.wait(number, due_ns);
        book.set(&host("m"), &[], Found::Later, 0);
        assert_eq!(book.pop_waiting(Lane::Quick), None);
    }

    #[test]
    fn an_alias_heeds_what_it_is_one_of() {
        let mut book = Book::new(3);
        book.set(&host("m"), &[alias(None, Some("db"))], Found::Later, 0);
        book.set(&host("n"), &[alias(None, None)], Found::Later, 0);
        let heed = |book: &Book, id: &str, host: &str| {
            let of_id = book.aliases_of_id(&InstanceId::parse(id).unwrap()).count();
            of_id + book.aliases_of_host(&HostName::parse(host).unwrap()).count()
        };
        assert_eq!((heed(&book, "db", "m"), heed(&book, "web", "n"), heed(&book, "web", "m")), (1, 1, 0));
        assert_eq!(book.next_ns(), None, "nothing is polled");
        book.set(&host("m"), &[], Found::Later, 0);
        book.set(&host("n"), &[], Found::Later, 0);
        assert!(!book.has_aliases());
    }
}
