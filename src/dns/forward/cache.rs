//! What other servers said, kept as long as they said (RFC 2308, RFC 9520), within bounds.
//!
//! Time is an argument. What goes when there is no more room is what came first and was not asked for since: a flood of
//! names that nobody asks for twice leaves those alone that are asked for all the time.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::{Outcome, Query, Told};
use crate::answer::{Answer, Rcode};
use crate::record::{Data, Record, Type};

/// Entries at most.
pub const ENTRIES_MAX: usize = 50_000;
/// Octets of all entries at most: every one at its average size of some hundred, and never a machine's memory.
pub const OCTETS_MAX: usize = 32 << 20;
/// Octets of one entry at most: an answer that is larger is asked for again.
const ENTRY_OCTETS_MAX: usize = OCTETS_MAX / 32;
/// What an entry needs besides its records: its place in the map and in the queue, twice its question.
const ENTRY_OCTETS: usize = 512;
/// What a record needs besides its names and data.
const RECORD_OCTETS: usize = 64;

/// Seconds that anything is kept at most: a day (RFC 8767 section 4 recommends to cap, and BIND does at a week).
const TTL_MAX: u32 = 86_400;
/// Seconds that "no such name" is kept at most (RFC 2308 section 5).
const NEGATIVE_TTL_MAX: u32 = 3 * 3600;
/// Seconds that a failure is kept: at least one, at most 300 (RFC 9520 section 3.2).
const FAILURE_TTL: u32 = 5;

#[derive(Debug, Default)]
pub struct Cache {
    entries: HashMap<Query, Entry>,
    /// Each key once, oldest first.
    queue: VecDeque<Query>,
    octets: usize,
}

#[derive(Debug)]
struct Entry {
    outcome: Arc<Outcome>,
    stored_ns: u64,
    /// Seconds after `stored_ns`.
    ttl: u32,
    octets: usize,
    /// It was asked for since it came to the end of the queue.
    used: bool,
}

impl Cache {
    /// What was said of `query`, with its age; nothing that is over.
    pub fn get(&mut self, query: &Query, now_ns: u64) -> Option<Told> {
        let entry = self.entries.get_mut(query)?;
        let age_s = u32::try_from(now_ns.saturating_sub(entry.stored_ns) / 1_000_000_000).unwrap_or(u32::MAX);
        if age_s >= entry.ttl {
            return None; // its place in the queue is taken when it comes to its turn
        }
        entry.used = true;
        Some(Told { outcome: entry.outcome.clone(), age_s: Some(age_s) })
    }

    /// Keeps what was said, where it may be kept.
    pub fn insert(&mut self, query: &Query, outcome: &Arc<Outcome>, now_ns: u64) {
        let ttl = lifetime(query, outcome);
        let octets = ENTRY_OCTETS + octets(&outcome.answer);
        if ttl == 0 || octets > ENTRY_OCTETS_MAX {
            return;
        }
        let entry = Entry { outcome: outcome.clone(), stored_ns: now_ns, ttl, octets, used: false };
        self.octets += octets;
        match self.entries.insert(query.clone(), entry) {
            Some(old) => self.octets -= old.octets,
            None => self.queue.push_back(query.clone()),
        }
        while self.entries.len() > ENTRIES_MAX || self.octets > OCTETS_MAX {
            self.make_room(now_ns);
        }
    }

    /// Failures go: whoever did not answer may do so now.
    pub fn forget_failures(&mut self) {
        let Self { entries, queue, octets } = self;
        entries.retain(|_, entry| {
            let stays = entry.outcome.answer.rcode != Rcode::ServFail;
            *octets -= if stays { 0 } else { entry.octets };
            stays
        });
        queue.retain(|query| entries.contains_key(query));
    }

    /// Everything goes: it was said by servers that are not asked any more.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    fn make_room(&mut self, now_ns: u64) {
        let Some(query) = self.queue.pop_front() else { return };
        let Some(entry) = self.entries.get_mut(&query) else { return };
        let over = now_ns.saturating_sub(entry.stored_ns) / 1_000_000_000 >= u64::from(entry.ttl);
        if entry.used && !over {
            entry.used = false; // a second chance, and not a third without being asked for
            return self.queue.push_back(query);
        }
        if let Some(entry) = self.entries.remove(&query) {
            self.octets -= entry.octets;
        }
    }
}

/// Seconds that what was said may be kept; 0 where it may not.
fn lifetime(query: &Query, outcome: &Outcome) -> u32 {
    let answer = &outcome.answer;
    match answer.rcode {
        _ if answer.truncated => 0,
        Rcode::ServFail => FAILURE_TTL,
        Rcode::NoError | Rcode::NxDomain => {
            let records = answer.answer.iter().chain(&answer.authority).chain(&answer.additional);
            let ttl = records.map(|record| record.ttl).min().unwrap_or(0).min(TTL_MAX);
            let answers = |record: &Record| query.qtype == Type::ANY || record.data.rtype() == query.qtype;
            if answer.rcode == Rcode::NoError && answer.answer.iter().any(answers) {
                return ttl;
            }
            // Without a SOA nothing says how long the absence lasts (RFC 2308 section 5).
            let soa = answer.authority.iter().find_map(|record| match &record.data {
                Data::Soa(soa) => Some(soa.minimum),
                _ => None,
            });
            soa.map_or(0, |minimum| ttl.min(minimum).min(NEGATIVE_TTL_MAX))
        }
        _ => 0,
    }
}

fn octets(answer: &Answer) -> usize {
    let records = answer.answer.iter().chain(&answer.authority).chain(&answer.additional);
    records.map(|record| RECORD_OCTETS + record.owner.as_wire().len() + record.data.octets_max()).sum()
}

/// `records` as they are after `age_s` seconds in the cache.
pub fn aged(records: &[Record], age_s: u32) -> Vec<Record> {
    let aged =
        |record: &Record| Record { ttl: record.ttl.min(TTL_MAX).saturating_sub(age_s), ..record.clone() };
    records.iter().map(aged).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::Name;
    use crate::record::Soa;

    const SECOND: u64 = 1_000_000_000;

    fn query(name: &str) -> Query {
        Query { name: Name::parse(name).unwrap(), qtype: Type::A, dnssec_ok: false, checking_disabled: false }
    }

    fn record(ttl: u32, data: Data) -> Record {
        Record { owner: Name::parse("x.example").unwrap(), ttl, data }
    }

    fn address(ttl: u32) -> Record {
        record(ttl, Data::A([192, 0, 2, 1].into()))
    }

    fn soa(ttl: u32, minimum: u32) -> Record {
        let name = Name::parse("example").unwrap();
        let soa =
            Soa { mname: name.clone(), rname: name, serial: 1, refresh: 1, retry: 1, expire: 1, minimum };
        record(ttl, Data::Soa(Arc::new(soa)))
    }

    fn outcome(rcode: Rcode, answer: Vec<Record>, authority: Vec<Record>) -> Arc<Outcome> {
        let answer = Answer { rcode, answer, authority, ..Answer::default() };
        Arc::new(Outcome { answer, authentic: false })
    }

    #[test]
    fn what_was_said_lasts_as_long_as_was_said() {
        let alias = || record(20, Data::Cname(Name::parse("y.example").unwrap()));
        for (what, said, ttl) in [
            ("an answer", outcome(Rcode::NoError, vec![address(30)], vec![]), 30_u32),
            ("the lowest counts", outcome(Rcode::NoError, vec![address(30), address(7)], vec![]), 7),
            ("an alias and its end", outcome(Rcode::NoError, vec![alias(), address(30)], vec![]), 20),
            ("a day at most", outcome(Rcode::NoError, vec![address(604_800)], vec![]), 86_400),
            ("no such name", outcome(Rcode::NxDomain, vec![], vec![soa(3600, 60)]), 60),
            ("the SOA's own TTL", outcome(Rcode::NxDomain, vec![], vec![soa(30, 60)]), 30),
            ("no such record", outcome(Rcode::NoError, vec![], vec![soa(60, 60)]), 60),
            ("an alias without end", outcome(Rcode::NoError, vec![alias()], vec![soa(60, 60)]), 20),
            ("three hours at most", outcome(Rcode::NxDomain, vec![], vec![soa(86_400, 86_400)]), 10_800),
            ("no SOA", outcome(Rcode::NxDomain, vec![], vec![]), 0),
            ("a referral", outcome(Rcode::NoError, vec![], vec![address(60)]), 0),
            ("TTL 0", outcome(Rcode::NoError, vec![address(0)], vec![]), 0),
            ("a failure", outcome(Rcode::ServFail, vec![], vec![]), 5),
            ("another rcode", outcome(Rcode::YxDomain, vec![address(30)], vec![]), 0),
        ] {
            let mut cache = Cache::default();
            let asked = query("x.example");
            cache.insert(&asked, &said, SECOND);
            let at = |cache: &mut Cache, seconds: u32| {
                cache.get(&asked, SECOND * (1 + u64::from(seconds))).is_some()
            };
            assert_eq!(cache.len(), usize::from(ttl > 0), "{what}");
            assert_eq!(at(&mut cache, ttl.saturating_sub(1)), ttl > 0, "{what}");
            assert!(!at(&mut cache, ttl), "{what}");
        }
        assert_eq!(aged(&[address(30), address(3)], 7), [address(23), address(0)]);
    }

    #[test]
    fn a_question_is_more_than_its_name() {
        let mut cache = Cache::default();
        cache.insert(&query("x.example"), &outcome(Rcode::NoError, vec![address(30)], vec![]), 0);
        assert_eq!(cache.get(&query("X.Example"), 2 * SECOND).and_then(|told| told.age_s), Some(2));
        for other in [
            query("y.example"),
            Query { qtype: Type::AAAA, ..query("x.example") },
            Query { dnssec_ok: true, ..query("x.example") },
            Query { checking_disabled: true, ..query("x.example") },
        ] {
            assert!(cache.get(&other, 0).is_none(), "{other:?}");
        }
        cache.insert(&query("z.example"), &outcome(Rcode::ServFail, vec![], vec![]), 0);
        cache.forget_failures();
        assert!(cache.get(&query("x.example"), 0).is_some() && cache.get(&query("z.example"), 0).is_none());
        assert_eq!((cache.len(), cache.queue.len()), (1, 1));
        cache.forget_failures();
        cache.clear();
        assert_eq!((cache.len(), cache.octets), (0, 0));
    }

    #[test]
    fn a_flood_leaves_what_is_asked_for() {
        let mut cache = Cache::default();
        let said = outcome(Rcode::NoError, vec![address(300)], vec![]);
        cache.insert(&query("wanted.example"), &said, 0);
        for number in 0..ENTRIES_MAX * 2 {
            cache.insert(&query(&format!("{number}.example")), &said, 0);
            if number % 1000 == 0 {
                assert!(cache.get(&query("wanted.example"), 0).is_some(), "after {number}");
            }
        }
        assert_eq!((cache.len(), cache.queue.len()), (ENTRIES_MAX, ENTRIES_MAX));
        let each = ENTRY_OCTETS + octets(&said.answer);
        assert_eq!(cache.octets, each * ENTRIES_MAX);
    }

    #[test]
    fn octets_are_bounded_too() {
        let mut cache = Cache::default();
        let large = outcome(Rcode::NoError, vec![address(300); 4000], vec![]);
        for number in 0..1000 {
            cache.insert(&query(&format!("{number}.example")), &large, 0);
            assert!(cache.octets <= OCTETS_MAX);
        }
        assert!(cache.len() > 50 && cache.get(&query("999.example"), 0).is_some());
        let larger = outcome(Rcode::NoError, vec![address(300); 20_000], vec![]);
        cache.insert(&query("larger.example"), &larger, 0);
        assert!(cache.get(&query("larger.example"), 0).is_none());
    }
}
