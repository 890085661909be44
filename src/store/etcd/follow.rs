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
//! the watch has had its time is a reason to read everything again.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::messages::{Event, Pair, Ranged, Watched};

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
    /// It is time to compare.
    CompareDue,
    /// A page of the comparison.
    Compared(Ranged),
    /// The comparison could not be read to its end.
    CompareFailed,
    /// What a comparison found should have been told by the watch since.
    JudgeDue,
    /// Somebody knows that we lack something.
    Doubted,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// Read keys with their values from this one on, as they were at a revision (0: now).
    Read { from: Vec<u8>, revision: u64 },
    /// Watch from this revision on; a watch before it is no longer wanted.
    Watch { from: u64 },
    /// Read keys without values, to compare.
    Compare { from: Vec<u8>, revision: u64 },
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
    /// All keys are being read, at this revision where the first page has come, and from this key on.
    Reading {
        from: Vec<u8>,
        revision: u64,
    },
    Watching,
}

/// A comparison under way: from which key on, at which revision.
#[derive(Debug)]
struct Comparison {
    from: Vec<u8>,
    revision: u64,
}

/// See the module's own words.
#[derive(Debug)]
pub struct Follow {
    prefix: Vec<u8>,
    /// Every key that is there, and the revision that wrote it.
    known: BTreeMap<Vec<u8>, u64>,
    /// Everything up to this revision was told; 0 where nothing was read yet.
    at: u64,
    phase: Phase,
    /// What a reading other than the first has found so far.
    found: Vec<Told>,
    comparison: Option<Comparison>,
    /// Keys that the comparison saw otherwise: what was known, and what it saw; 0 for none.
    doubts: BTreeMap<Vec<u8>, (u64, u64)>,
}

impl Follow {
    /// Follows the keys that begin with `prefix`.
    pub fn new(prefix: &[u8]) -> Self {
        Self {
            prefix: prefix.to_vec(),
            known: BTreeMap::new(),
            at: 0,
            phase: Phase::Away,
            found: Vec::new(),
            comparison: None,
            doubts: BTreeMap::new(),
        }
    }

    pub fn hear(&mut self, input: Input) -> Vec<Output> {
        match (input, &self.phase) {
            (Input::Connected, _) => {
                (self.comparison, self.doubts) = (None, BTreeMap::new());
                match self.at {
                    0 => self.read_all(),
                    // What it was to find is still missing; of the first, half was told.
                    _ if matches!(self.phase, Phase::Reading { .. }) => self.read_all(),
                    at => {
                        self.phase = Phase::Watching;
                        vec![Output::Watch { from: at + 1 }, Output::CaughtUp(at)]
                    }
                }
            }
            (Input::Page(page), Phase::Reading { from, revision }) => {
                let (from, revision) = (from.clone(), *revision);
                self.read_page(&from, revision, page)
            }
            (Input::PageCompacted, Phase::Reading { .. }) => self.read_all(),
            (Input::Watched(watched), Phase::Watching) => self.watched(watched),
            (Input::CompareDue, Phase::Watching) if self.comparison.is_none() => {
                self.comparison = Some(Comparison { from: self.prefix.clone(), revision: 0 });
                vec![Output::Compare { from: self.prefix.clone(), revision: 0 }]
            }
            (Input::Compared(page), Phase::Watching) => self.compared(page),
            (Input::CompareFailed, _) => {
                self.comparison = None;
                Vec::new()
            }
            (Input::JudgeDue, Phase::Watching) => self.judge(),
            (Input::Doubted, Phase::Watching) => self.read_all(),
            // It answers what is no longer asked, or asks in between.
            _ => Vec::new(),
        }
    }

    fn read_all(&mut self) -> Vec<Output> {
        self.phase = Phase::Reading { from: self.prefix.clone(), revision: 0 };
        self.found = Vec::new();
        (self.comparison, self.doubts) = (None, BTreeMap::new());
        vec![Output::Read { from: self.prefix.clone(), revision: 0 }]
    }

    /// Finds what differs from what is known, among the keys that the page speaks of. Of the first reading it is told page by
    /// page; of others at the end, so that nobody sees a half of it.
    fn read_page(&mut self, from: &[u8], revision: u64, page: Ranged) -> Vec<Output> {
        let revision = if revision == 0 { page.revision } else { revision };
        let (next, there) = (next_of(&page), versions(&page.pairs));
        let mut told: Vec<Told> = self
            .differing(from, next.as_deref(), &there)
            .into_iter()
            .filter(|(key, _)| !there.contains_key(key.as_slice()))
            .map(|(key, _)| Told { key, revision, pair: None })
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
            Some(from) => {
                self.phase = Phase::Reading { from: from.clone(), revision };
                outputs.push(Output::Read { from, revision });
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

    fn compared(&mut self, page: Ranged) -> Vec<Output> {
        let Some(Comparison { from, revision }) = self.comparison.take() else { return Vec::new() };
        let revision = if revision == 0 { page.revision } else { revision };
        let (next, there) = (next_of(&page), versions(&page.pairs));
        self.doubts.extend(self.differing(&from, next.as_deref(), &there));
        match next {
            Some(from) => {
                self.comparison = Some(Comparison { from: from.clone(), revision });
                vec![Output::Compare { from, revision }]
            }
            None if self.doubts.is_empty() => Vec::new(),
            None => vec![Output::Judge],
        }
    }

    /// A key that the watch has told of since the comparison is out of doubt.
    fn judge(&mut self) -> Vec<Output> {
        let doubts = std::mem::take(&mut self.doubts);
        let known = |key: &Vec<u8>| self.known.get(key).copied().unwrap_or_default();
        let stands = doubts.iter().any(|(key, (was, seen))| known(key) == *was && known(key) != *seen);
        if stands { self.read_all() } else { Vec::new() }
    }

    /// The keys from `from` up to `next` that are known otherwise than a page has them: what is known, and what is
    /// there; 0 for none.
    fn differing(
        &self,
        from: &[u8],
        next: Option<&[u8]>,
        there: &BTreeMap<&[u8], u64>,
    ) -> Vec<(Vec<u8>, (u64, u64))> {
        let end = next.map_or(Bound::Unbounded, Bound::Excluded);
        let known = self.known.range::<[u8], _>((Bound::Included(from), end));
        let mut differing: Vec<_> = known
            .map(|(key, known)| (key, *known, there.get(key.as_slice()).copied().unwrap_or_default()))
            .filter(|(_, known, there)| known != there)
            .map(|(key, known, there)| (key.clone(), (known, there)))
            .collect();
        let new = there.iter().filter(|(key, _)| !self.known.contains_key(**key));
        differing.extend(new.map(|(key, there)| (key.to_vec(), (0, *there))));
        differing
    }
}

/// Where the next page begins: right behind the last key of this one.
fn next_of(page: &Ranged) -> Option<Vec<u8>> {
    let last = page.pairs.last().filter(|_| page.more)?;
    Some([last.key.as_slice(), &[0]].concat())
}

fn versions(pairs: &[Pair]) -> BTreeMap<&[u8], u64> {
    pairs.iter().map(|pair| (pair.key.as_slice(), pair.modified)).collect()
}

#[cfg(test)]
#[path = "simulation.rs"]
mod simulation;
