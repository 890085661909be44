//! The keys of etcd's that are known, each with the revision that wrote it, and the ranges that they are read in.
//!
//! etcd counts every key of a range for each page of it, so that pages of one long range cost the square of what is there.
//! A range therefore ends where a page of known keys does, and the next begins there.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::messages::{self, Pair, Ranged};

/// The keys to read: from one on, up to another, as they were at a revision (0: now).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    pub from: Vec<u8>,
    pub to: Vec<u8>,
    pub revision: u64,
}

/// See the module's own words.
#[derive(Debug)]
pub(super) struct Known {
    prefix: Vec<u8>,
    /// Keys that are asked for at once.
    page: usize,
    pub(super) keys: BTreeMap<Vec<u8>, u64>,
}

impl Known {
    /// Nothing yet of the keys that begin with `prefix`.
    pub(super) fn new(prefix: &[u8], page: usize) -> Self {
        Self { prefix: prefix.to_vec(), page, keys: BTreeMap::new() }
    }

    /// The first of all stretches.
    pub(super) fn first(&self) -> Stretch {
        self.stretch(self.prefix.clone(), 0)
    }

    /// From a key up to where a page of known ones ends.
    pub(super) fn stretch(&self, from: Vec<u8>, revision: u64) -> Stretch {
        let behind = self.keys.range::<[u8], _>((Bound::Included(from.as_slice()), Bound::Unbounded));
        let to = behind.map(|(key, _)| key).nth(self.page).cloned();
        Stretch { from, to: to.unwrap_or_else(|| self.end()), revision }
    }

    /// What comes after a page of a stretch; `None` behind the last key.
    pub(super) fn following(&self, asked: &Stretch, page: &Ranged, revision: u64) -> Option<Stretch> {
        let from = match rest_of(page) {
            Some(from) => from,
            None if asked.to == self.end() => return None,
            None => asked.to.clone(),
        };
        Some(self.stretch(from, revision))
    }

    fn end(&self) -> Vec<u8> {
        messages::behind(&self.prefix)
    }

    /// The keys from `from` up to `end` that are known otherwise than a page has them.
    pub(super) fn differing(
        &self,
        from: &[u8],
        end: Option<&[u8]>,
        there: &BTreeMap<&[u8], u64>,
    ) -> Vec<Vec<u8>> {
        let end = end.map_or(Bound::Unbounded, Bound::Excluded);
        let known = self.keys.range::<[u8], _>((Bound::Included(from), end));
        let others = known.filter(|(key, known)| there.get(key.as_slice()) != Some(known));
        let new = there.keys().filter(|key| !self.keys.contains_key(**key));
        others.map(|(key, _)| key.clone()).chain(new.map(|key| key.to_vec())).collect()
    }
}

/// Where a page ended before its stretch did.
pub(super) fn rest_of(page: &Ranged) -> Option<Vec<u8>> {
    let last = page.pairs.last().filter(|_| page.more)?;
    Some([last.key.as_slice(), &[0]].concat())
}

pub(super) fn versions(pairs: &[Pair]) -> BTreeMap<&[u8], u64> {
    pairs.iter().map(|pair| (pair.key.as_slice(), pair.modified)).collect()
}
