//! What is known of etcd's keys, and what to ask next: a machine that hears what etcd says and says what to do. No I/O and
//! no time in it, so that a simulated etcd can lie to it in every way that a real one has.
//!
//! It reads all keys at one revision, watches from the next one on, and tells every key that became another one. Where the
//! watch cannot go on (its revision is compacted), it reads all keys again and tells what differs, all at once: nothing is
//! forgotten first, so that what still stands is never told as gone. What came and went meanwhile is told by nobody, and
//! that is said.
//!
//! The watch alone is not trusted: versions of etcd have lost events of a watch, and sent old ones again. What was told
//! already is not told twice, and every while the keys are read beside the watch and compared. What still differs when
//! the watch has had its time, or has gone past it, is a reason to read everything again.
//!
//! etcd counts every key of a range for each page of it, so that pages of one long range cost the square of what is there.
//! A range therefore ends where a page of known keys does, and the next begins there.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::messages::{self, Event, Pair, Ranged, Watched};

/// What waits to be compared because somebody doubts it: where there is more, this much will show that the watch lost something.
const DOUBTED_MAX: usize = 1024;

/// What etcd said, or what became due.
#[derive(Debug)]
pub enum Input {
    /// There is a connection: nothing that was asked before will be answered.
    Connected,
    /// A page of a reading that was asked for.
    Page(Ranged),
    /// The revision that a page was asked of is compacted.
    PageCompacted,
    Watched(Watched),
    /// It is time to compare, or to go on with it.
    CompareDue,
    /// A page of the comparison.
    Compared(Ranged),
    /// The comparison could not be read to its end.
    CompareFailed,
    /// What a comparison found should have been told by the watch since.
    JudgeDue,
    /// Somebody knows that we lack something of the keys that begin so.
    Doubted(Vec<Vec<u8>>),
}

/// The keys to read: from one on, up to another, as they were at a revision (0: now).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    pub from: Vec<u8>,
    pub to: Vec<u8>,
    pub revision: u64,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// Read keys with their values, or the first of them.
    Read(Stretch),
    /// Watch from this revision on; a watch before it is no longer wanted.
    Watch { from: u64 },
    /// Read keys without values, or the first of them, to compare.
    Compare(Stretch),
    /// There is more to compare: say `CompareDue` once etcd had a rest.
    Rest,
    /// Say `JudgeDue` after a while.
    Judge,
    /// Everything was read again, at this revision, and what differs is told next: of what was in between, not everything.
    Reread(u64),
    /// These keys became others.
    Tell(Vec<Told>),
    /// Everything up to here is told.
    CaughtUp(u64),
    /// This connection leads nowhere: etcd ended the watch, for this reason.
    GiveUp(String),
}

/// A key that became another one: with its value, or gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub key: Vec<u8>,
    /// By when: the revision that did it, or that of the reading that found it.
    pub revision: u64,
    pub pair: Option<Pair>,
}

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing is connected.
    Away,
    /// All keys are being read, and this comes next: at a revision where the first page has come.
    Reading(Stretch),
    Watching,
}

/// What etcd was asked for to compare.
#[derive(Debug)]
struct Comparison {
    asked: Stretch,
    /// It is what somebody doubts, and not the next page of all.
    alone: bool,
}

/// See the module's own words.
#[derive(Debug)]
pub struct Follow {
    prefix: Vec<u8>,
    /// Known keys that are asked for at once.
    page: usize,
    /// Every key that is there, and the revision that wrote it.
    known: BTreeMap<Vec<u8>, u64>,
    /// Everything up to this revision was told; 0 where nothing was read yet.
    at: u64,
    phase: Phase,
    /// What a reading other than the first has found so far.
    found: Vec<Told>,
    comparison: Option<Comparison>,
    /// Keys that the watch told of since etcd was asked: what the comparison will say of them may be older.
    told_since: BTreeSet<Vec<u8>>,
    /// Where the comparison of all keys goes on from.
    next: Option<Vec<u8>>,
    /// What is compared before it goes on: the keys that begin so.
    doubted: BTreeSet<Vec<u8>>,
    /// Keys that a comparison saw otherwise, and etcd's revision then: a watch that has told of later ones has gone past it.
    doubts: BTreeMap<Vec<u8>, u64>,
    /// What was told when somebody was asked to judge them last.
    judged_at: u64,
}

impl Follow {
    /// Follows the keys that begin with `prefix`, of which a page has so many.
    pub fn new(prefix: &[u8], page: usize) -> Self {
        Self {
            prefix: prefix.to_vec(),
            page,
            known: BTreeMap::new(),
            at: 0,
            phase: Phase::Away,
            found: Vec::new(),
            comparison: None,
            told_since: BTreeSet::new(),
            next: None,
            doubted: BTreeSet::new(),
            doubts: BTreeMap::new(),
            judged_at: 0,
        }
    }

    pub fn hear(&mut self, input: Input) -> Vec<Output> {
        match (input, &self.phase) {
            (Input::Connected, _) => {
                self.forget_comparison();
                match self.at {
                    0 => self.read_all(),
                    // What it was to find is still missing; of the first, half was told.
                    _ if matches!(self.phase, Phase::Reading(_)) => self.read_all(),
                    at => {
                        self.phase = Phase::Watching;
                        vec![Output::Watch { from: at + 1 }, Output::CaughtUp(at)]
                    }
                }
            }
            (Input::Page(page), Phase::Reading(asked)) => {
                let asked = asked.clone();
                self.read_page(&asked, page)
            }
            (Input::PageCompacted, Phase::Reading(_)) => self.read_all(),
            (Input::Watched(watched), Phase::Watching) => self.watched(watched),
            (Input::CompareDue, Phase::Watching) if self.comparison.is_none() => self.compare(),
            (Input::Compared(page), Phase::Watching) => self.compared(page),
            (Input::CompareFailed, _) => {
                (self.comparison, self.next) = (None, None);
                Vec::new()
            }
            (Input::JudgeDue, Phase::Watching) => self.judge(),
            (Input::Doubted(prefixes), Phase::Watching) => {
                let room = DOUBTED_MAX.saturating_sub(self.doubted.len());
                self.doubted.extend(prefixes.into_iter().take(room));
                if self.comparison.is_none() { self.compare() } else { Vec::new() }
            }
            // It answers what is no longer asked, or asks in between.
            _ => Vec::new(),
        }
    }

    fn read_all(&mut self) -> Vec<Output> {
        let first = self.stretch(self.prefix.clone(), 0);
        self.phase = Phase::Reading(first.clone());
        self.found = Vec::new();
        self.forget_comparison();
        vec![Output::Read(first)]
    }

    fn forget_comparison(&mut self) {
        (self.comparison, self.next) = (None, None);
        self.told_since.clear();
        self.doubted.clear();
        self.doubts.clear();
    }

    /// From a key up to where a page of known ones ends.
    fn stretch(&self, from: Vec<u8>, revision: u64) -> Stretch {
        let behind = self.known.range::<[u8], _>((Bound::Included(from.as_slice()), Bound::Unbounded));
        let to = behind.map(|(key, _)| key).nth(self.page).cloned();
        Stretch { from, to: to.unwrap_or_else(|| self.end()), revision }
    }

    /// What is asked for after a page: behind its last key where there are more up to the end of what was asked for, and
    /// from that end on otherwise.
    fn following(&self, asked: &Stretch, page: &Ranged, revision: u64) -> Option<Stretch> {
        let from = match page.pairs.last().filter(|_| page.more) {
            Some(last) => [last.key.as_slice(), &[0]].concat(),
            None if asked.to == self.end() => return None,
            None => asked.to.clone(),
        };
        Some(self.stretch(from, revision))
    }

    fn end(&self) -> Vec<u8> {
        messages::behind(&self.prefix)
    }

    /// Finds what differs from what is known, among the keys that the page speaks of. Of the first reading it is told page by
    /// page; of others at the end, so that nobody sees a half of it.
    fn read_page(&mut self, asked: &Stretch, page: Ranged) -> Vec<Output> {
        let revision = if asked.revision == 0 { page.revision } else { asked.revision };
        let (next, there) = (self.following(asked, &page, revision), versions(&page.pairs));
        let mut told: Vec<Told> = self
            .differing(&asked.from, next.as_ref().map(|next| next.from.as_slice()), &there)
            .into_iter()
            .filter(|key| !there.contains_key(key.as_slice()))
            .map(|key| Told { key, revision, pair: None })
            .collect();
        let known = |key: &[u8]| self.known.get(key).copied();
        let new = page.pairs.into_iter().filter(|pair| known(&pair.key) != Some(pair.modified));
        told.extend(new.map(|pair| Told { key: pair.key.clone(), revision, pair: Some(pair) }));
        let mut outputs = Vec::new();
        if self.at == 0 {
            outputs.extend(self.tell(told));
        } else {
            self.found.extend(told);
        }
        match next {
            Some(next) => {
                self.phase = Phase::Reading(next.clone());
                outputs.push(Output::Read(next));
            }
            None => {
                if self.at > 0 {
                    let found = std::mem::take(&mut self.found);
                    outputs.push(Output::Reread(revision));
                    outputs.extend(self.tell(found));
                }
                self.phase = Phase::Watching;
                self.at = revision;
                outputs.extend([Output::Watch { from: revision + 1 }, Output::CaughtUp(revision)]);
            }
        }
        outputs
    }

    /// From here on this is known.
    fn tell(&mut self, told: Vec<Told>) -> Option<Output> {
        for Told { key, pair, .. } in &told {
            match pair {
                Some(pair) => drop(self.known.insert(key.clone(), pair.modified)),
                None => drop(self.known.remove(key)),
            }
        }
        (!told.is_empty()).then_some(Output::Tell(told))
    }

    fn watched(&mut self, watched: Watched) -> Vec<Output> {
        let mut told = Vec::new();
        for event in watched.events {
            if !self.is_new(&event) {
                continue;
            }
            let pair = event.pair;
            let revision = pair.modified;
            self.at = revision;
            self.doubts.remove(&pair.key);
            if self.comparison.is_some() {
                self.told_since.insert(pair.key.clone());
            }
            if !event.deleted {
                self.known.insert(pair.key.clone(), revision);
                told.push(Told { key: pair.key.clone(), revision, pair: Some(pair) });
            } else if self.known.remove(&pair.key).is_some() {
                told.push(Told { key: pair.key, revision, pair: None });
            }
        }
        let mut outputs = Vec::new();
        if !told.is_empty() {
            outputs.push(Output::Tell(told));
        }
        if watched.compacted > 0 {
            outputs.extend(self.read_all());
        } else if watched.canceled {
            outputs.push(Output::GiveUp(watched.reason));
        }
        outputs
    }

    /// One revision may write several keys, and they may come in several messages; what is older was told.
    fn is_new(&self, event: &Event) -> bool {
        let known = self.known.get(&event.pair.key).copied();
        match event.pair.modified {
            at if at > self.at => true,
            at if at == self.at && event.deleted => known.is_some_and(|known| known < at),
            at if at == self.at => known.is_none_or(|known| known < at),
            _ => false,
        }
    }

    fn compare(&mut self) -> Vec<Output> {
        let doubted = self.doubted.pop_first();
        let alone = doubted.is_some();
        let asked = match doubted {
            Some(prefix) => Stretch { to: messages::behind(&prefix), from: prefix, revision: 0 },
            None => {
                let from = self.next.take().unwrap_or_else(|| self.prefix.clone());
                self.stretch(from, 0)
            }
        };
        self.told_since.clear();
        self.comparison = Some(Comparison { asked: asked.clone(), alone });
        vec![Output::Compare(asked)]
    }

    fn compared(&mut self, page: Ranged) -> Vec<Output> {
        let Some(Comparison { asked, alone }) = self.comparison.take() else { return Vec::new() };
        let there = versions(&page.pairs);
        let next = self.following(&asked, &page, 0).map(|next| next.from);
        let end = next.clone();
        if !alone {
            self.next = next;
        }
        let differing = self.differing(&asked.from, end.as_deref(), &there).into_iter();
        let doubts = differing.filter(|key| !self.told_since.contains(key));
        self.doubts.extend(doubts.map(|key| (key, page.revision)));
        let mut outputs = Vec::new();
        if !self.doubts.is_empty() && (alone || self.next.is_none()) {
            self.judged_at = self.at;
            outputs.push(Output::Judge);
        }
        if !self.doubted.is_empty() {
            outputs.extend(self.compare());
        } else if self.next.is_some() {
            outputs.push(Output::Rest);
        }
        outputs
    }

    /// What the watch has not told of since, it has lost where it has gone past it. While it still tells what is older, it is
    /// behind, and gets more time.
    fn judge(&mut self) -> Vec<Output> {
        if self.doubts.is_empty() {
            return Vec::new();
        }
        if self.at == self.judged_at || self.doubts.values().any(|seen_at| *seen_at <= self.at) {
            return self.read_all();
        }
        self.judged_at = self.at;
        vec![Output::Judge]
    }

    /// The keys from `from` up to `end` that are known otherwise than a page has them.
    fn differing(&self, from: &[u8], end: Option<&[u8]>, there: &BTreeMap<&[u8], u64>) -> Vec<Vec<u8>> {
        let end = end.map_or(Bound::Unbounded, Bound::Excluded);
        let known = self.known.range::<[u8], _>((Bound::Included(from), end));
        let others = known.filter(|(key, known)| there.get(key.as_slice()) != Some(known));
        let new = there.keys().filter(|key| !self.known.contains_key(**key));
        others.map(|(key, _)| key.clone()).chain(new.map(|key| key.to_vec())).collect()
    }
}

fn versions(pairs: &[Pair]) -> BTreeMap<&[u8], u64> {
    pairs.iter().map(|pair| (pair.key.as_slice(), pair.modified)).collect()
}

#[cfg(test)]
#[path = "simulation.rs"]
mod simulation;
