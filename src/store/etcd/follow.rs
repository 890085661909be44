//! What is known of etcd's keys, and what to ask next: a machine that hears what etcd says and says what to do. No I/O and
//! no time in it, so that a simulated etcd can lie to it in every way that a real one has.
//!
//! It reads all keys at one revision, watches from the next one on, and tells every key that became another one. Where the
//! watch cannot go on (its revision is compacted), it reads all keys again and tells what differs, all at once: nothing is
//! forgotten first, so that what still stands is never told as gone. What came and went meanwhile is told by nobody, and
//! that is said.
//!
//! The watch alone is not trusted: versions of etcd have lost events of a watch, and sent old ones again. What was told
//! already is not told twice, and every while the keys are read beside the watch and compared (`compare.rs`). What the
//! watch has lost is a reason to read everything again.

use super::compare::Compare;
use super::known::{Known, Stretch, versions};
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
    /// It is time to compare, or to go on with it.
    CompareDue,
    /// A page of the comparison.
    Compared(Ranged),
    /// The comparison could not be read to its end.
    CompareFailed,
    /// What a comparison found should have been told by the watch since.
    JudgeDue,
    /// Somebody knows that we lack something of these ranges: each from the first key on, up to the second.
    Doubted(Vec<(Vec<u8>, Vec<u8>)>),
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

/// See the module's own words.
#[derive(Debug)]
pub struct Follow {
    known: Known,
    /// Everything up to this revision was told; 0 where nothing was read yet.
    at: u64,
    phase: Phase,
    /// What a reading other than the first has found so far.
    found: Vec<Told>,
    compare: Compare,
}

impl Follow {
    /// Follows the keys that begin with `prefix`, of which a page has so many.
    pub fn new(prefix: &[u8], page: usize) -> Self {
        Self {
            known: Known::new(prefix, page),
            at: 0,
            phase: Phase::Away,
            found: Vec::new(),
            compare: Compare::default(),
        }
    }

    pub fn hear(&mut self, input: Input) -> Vec<Output> {
        match (input, &self.phase) {
            (Input::Connected, _) => match self.at {
                0 => self.read_all(),
                // What it was to find is still missing; of the first, half was told.
                _ if matches!(self.phase, Phase::Reading(_)) => self.read_all(),
                at => {
                    self.phase = Phase::Watching;
                    let mut outputs = vec![Output::Watch { from: at + 1 }, Output::CaughtUp(at)];
                    outputs.extend(self.compare.connected(at));
                    outputs
                }
            },
            (Input::Page(page), Phase::Reading(asked)) => {
                let asked = asked.clone();
                self.read_page(&asked, page)
            }
            (Input::PageCompacted, Phase::Reading(_)) => self.read_all(),
            (Input::Watched(watched), Phase::Watching) => self.watched(watched),
            (Input::CompareDue, Phase::Watching) => self.compare.due(&self.known),
            (Input::Compared(page), Phase::Watching) => self.compare.compared(&page, &self.known, self.at),
            (Input::CompareFailed, Phase::Watching) => self.compare.failed(),
            (Input::JudgeDue, Phase::Watching) => {
                let mut outputs = Vec::new();
                if self.compare.judge(self.at, &mut outputs) { self.read_all() } else { outputs }
            }
            (Input::Doubted(ranges), Phase::Watching) => self.compare.want(ranges, &self.known),
            // It answers what is no longer asked, or asks in between.
            _ => Vec::new(),
        }
    }

    fn read_all(&mut self) -> Vec<Output> {
        let first = self.known.first();
        self.phase = Phase::Reading(first.clone());
        self.found = Vec::new();
        self.compare = Compare::default();
        vec![Output::Read(first)]
    }

    /// Finds what differs from what is known, among the keys that the page speaks of. Of the first reading it is told page by
    /// page; of others at the end, so that nobody sees a half of it.
    fn read_page(&mut self, asked: &Stretch, page: Ranged) -> Vec<Output> {
        let revision = if asked.revision == 0 { page.revision } else { asked.revision };
        let (next, there) = (self.known.following(asked, &page, revision), versions(&page.pairs));
        let mut told: Vec<Told> = self
            .known
            .differing(&asked.from, next.as_ref().map(|next| next.from.as_slice()), &there)
            .into_iter()
            .filter(|key| !there.contains_key(key.as_slice()))
            .map(|key| Told { key, revision, pair: None })
            .collect();
        let known = |key: &[u8]| self.known.keys.get(key).copied();
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
                Some(pair) => drop(self.known.keys.insert(key.clone(), pair.modified)),
                None => drop(self.known.keys.remove(key)),
            }
        }
        (!told.is_empty()).then_some(Output::Tell(told))
    }

    fn watched(&mut self, watched: Watched) -> Vec<Output> {
        self.compare.hear();
        let mut told = Vec::new();
        for event in watched.events {
            if !self.is_new(&event) {
                continue;
            }
            self.compare.told(&event);
            let pair = event.pair;
            let revision = pair.modified;
            self.at = revision;
            if !event.deleted {
                self.known.keys.insert(pair.key.clone(), revision);
                told.push(Told { key: pair.key.clone(), revision, pair: Some(pair) });
            } else if self.known.keys.remove(&pair.key).is_some() {
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
        let known = self.known.keys.get(&event.pair.key).copied();
        match event.pair.modified {
            at if at > self.at => true,
            at if at == self.at && event.deleted => known.is_some_and(|known| known < at),
            at if at == self.at => known.is_none_or(|known| known < at),
            _ => false,
        }
    }
}

#[cfg(test)]
#[path = "simulation.rs"]
mod simulation;
