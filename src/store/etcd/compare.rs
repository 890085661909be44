//! What is compared beside the watch, and doubted: what etcd has is read page by page, as it is then, and a key that it has
//! otherwise is in doubt until the watch has told of it.
//!
//! The watch has *lost* it where it has gone past the revision of the page, or tells nothing any more though there is
//! something to tell. While it still tells what is older, it is behind, and gets its time.

use std::collections::{BTreeMap, VecDeque};

use super::follow::Output;
use super::known::{Known, Stretch, rest_of, versions};
use super::messages::{Event, Ranged};

/// Ranges that wait to be compared because somebody doubts them. Where there are more, these will show that the watch lost something.
const WANTED_MAX: usize = 1024;
/// Judgements in a row between which the watch told nothing, after which it is taken for dead.
const STILL_MAX: u32 = 4;
/// The same of a watch that has said nothing at all yet: etcd may have much to look through first.
const UNHEARD_MAX: u32 = 60;

/// See the module's own words.
#[derive(Debug, Default)]
pub(super) struct Compare {
    /// What etcd was asked for.
    asked: Option<Asked>,
    /// What the watch told since, and at which revision: the page may be older.
    told_since: BTreeMap<Vec<u8>, u64>,
    /// Where the comparison of all keys goes on from; `None` where it begins anew.
    next: Option<Vec<u8>>,
    /// Ranges that somebody doubts, compared before it goes on: each from the first key on, up to the second.
    wanted: VecDeque<(Vec<u8>, Vec<u8>)>,
    /// etcd rests before it is asked for more.
    resting: bool,
    doubts: BTreeMap<Vec<u8>, Doubt>,
    /// Somebody was asked to say when they are to be judged.
    judging: bool,
    /// What was told when they were judged last, and how often in a row that was the same.
    judged_at: u64,
    still: u32,
    /// The watch has said something since it was asked for.
    heard: bool,
}

#[derive(Debug)]
struct Asked {
    stretch: Stretch,
    /// It is a range that somebody doubts, and not the next page of all.
    alone: bool,
}

/// A key that a page had otherwise.
#[derive(Debug)]
struct Doubt {
    /// The revision that wrote it there; 0 where it was not there.
    seen: u64,
    /// etcd's revision then.
    at: u64,
}

impl Compare {
    /// There is a connection, and another watch: what was asked for is asked for again.
    pub(super) fn connected(&mut self, at: u64) -> Vec<Output> {
        self.put_back();
        (self.resting, self.judging, self.heard) = (false, false, false);
        let mut outputs = Vec::new();
        if !self.wanted.is_empty() {
            self.rest(&mut outputs);
        }
        self.let_judge(at, &mut outputs);
        outputs
    }

    /// The watch said something.
    pub(super) fn hear(&mut self) {
        self.heard = true;
    }

    /// The watch told of a key.
    pub(super) fn told(&mut self, event: &Event) {
        let (key, at) = (&event.pair.key, event.pair.modified);
        let now = if event.deleted { 0 } else { at };
        if self.doubts.get(key).is_some_and(|doubt| at > doubt.at || now == doubt.seen) {
            self.doubts.remove(key);
        }
        if self.asked.is_some() {
            self.told_since.insert(key.clone(), at);
        }
    }

    /// It is time to compare, or to go on with it.
    pub(super) fn due(&mut self, known: &Known) -> Vec<Output> {
        self.resting = false;
        self.ask(known)
    }

    /// Somebody knows that something in these ranges was not told.
    pub(super) fn want(&mut self, ranges: Vec<(Vec<u8>, Vec<u8>)>, known: &Known) -> Vec<Output> {
        for range in ranges {
            if self.wanted.len() < WANTED_MAX && !self.wanted.contains(&range) {
                self.wanted.push_back(range);
            }
        }
        if self.resting { Vec::new() } else { self.ask(known) }
    }

    fn ask(&mut self, known: &Known) -> Vec<Output> {
        if self.asked.is_some() {
            return Vec::new();
        }
        let wanted = self.wanted.pop_front();
        let alone = wanted.is_some();
        let stretch = match (wanted, self.next.take()) {
            (Some((from, to)), next) => {
                self.next = next;
                Stretch { from, to, revision: 0 }
            }
            (None, Some(from)) => known.stretch(from, 0),
            (None, None) => known.first(),
        };
        self.told_since.clear();
        self.asked = Some(Asked { stretch: stretch.clone(), alone });
        vec![Output::Compare(stretch)]
    }

    /// The page could not be read.
    pub(super) fn failed(&mut self) -> Vec<Output> {
        let mut outputs = Vec::new();
        if self.asked.is_some() {
            self.put_back();
            self.rest(&mut outputs);
        }
        outputs
    }

    fn put_back(&mut self) {
        match self.asked.take() {
            Some(Asked { stretch: Stretch { from, to, .. }, alone: true }) => {
                self.wanted.push_front((from, to))
            }
            Some(Asked { stretch, alone: false }) => self.next = Some(stretch.from),
            None => {}
        }
    }

    fn rest(&mut self, outputs: &mut Vec<Output>) {
        self.resting = true;
        outputs.push(Output::Rest);
    }

    /// Doubts what a page has otherwise. `at` is what was told so far.
    pub(super) fn compared(&mut self, page: &Ranged, known: &Known, at: u64) -> Vec<Output> {
        let Some(Asked { stretch, alone }) = self.asked.take() else { return Vec::new() };
        let end = if alone {
            let rest = rest_of(page);
            self.wanted.extend(rest.iter().map(|from| (from.clone(), stretch.to.clone())));
            Some(rest.unwrap_or(stretch.to))
        } else {
            self.next = known.following(&stretch, page, 0).map(|next| next.from);
            self.next.clone()
        };
        let there = versions(&page.pairs);
        for key in known.differing(&stretch.from, end.as_deref(), &there) {
            if self.told_since.get(&key).is_none_or(|told| *told <= page.revision) {
                let seen = there.get(key.as_slice()).copied().unwrap_or_default();
                self.doubts.entry(key).or_insert(Doubt { seen, at: page.revision });
            }
        }
        let mut outputs = Vec::new();
        if !self.wanted.is_empty() || self.next.is_some() {
            self.rest(&mut outputs);
        }
        self.let_judge(at, &mut outputs);
        outputs
    }

    fn let_judge(&mut self, at: u64, outputs: &mut Vec<Output>) {
        if !self.judging && !self.doubts.is_empty() {
            (self.judging, self.judged_at, self.still) = (true, at, 0);
            outputs.push(Output::Judge);
        }
    }

    /// It is time to judge; true where the watch has lost something. `at` is what was told so far.
    pub(super) fn judge(&mut self, at: u64, outputs: &mut Vec<Output>) -> bool {
        self.judging = false;
        if self.doubts.is_empty() {
            return false;
        }
        let still = if at == self.judged_at { self.still + 1 } else { 0 };
        let patience = if self.heard { STILL_MAX } else { UNHEARD_MAX };
        if still >= patience || self.doubts.values().any(|doubt| doubt.at < at) {
            return true;
        }
        self.let_judge(at, outputs);
        self.still = still;
        false
    }
}
