//! When a file has come to rest and is read: at a look before that, somebody may be in the middle of writing it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::Known;
use crate::zone_folder::{Loaded, Mark, mark};

/// Looks that a file which is written in place has to rest: a copy over a line that stalls, an editor that writes in pieces.
pub(super) const LOOKS_IN_PLACE: u32 = 5;
/// Looks after which a file that never rests is said to be one: longer than an editor or a copy goes on.
pub(super) const LOOKS_RESTLESS: u32 = 30;
/// What is said of it.
pub(super) const RESTLESS: &str = "the file does not come to rest; SIGHUP reads it as it is";

/// Files that are otherwise than when they were read.
#[derive(Default)]
pub(super) struct Coming {
    /// As they were at the last look.
    pub(super) marks: BTreeMap<PathBuf, Mark>,
    /// For how many looks before that.
    rested: u32,
    in_place: bool,
    /// At how many looks they were otherwise than when they were read, however often they changed.
    pub(super) looks: u32,
    /// It is said that they do not come to rest.
    pub(super) is_told: bool,
}

impl Known {
    /// The files, which are otherwise than when they were read, where they have been so for long enough.
    pub(super) fn rested(&mut self, marks: BTreeMap<PathBuf, Mark>) -> Option<Coming> {
        let mut coming = match self.coming.take() {
            Some(before) if before.marks == marks => Coming { rested: before.rested + 1, ..before },
            before => {
                let coming = before.unwrap_or_default().anew(marks);
                let in_place = coming.in_place || is_rewritten(&self.marks, &coming.marks);
                Coming { in_place, ..coming }
            }
        };
        coming.looks += 1;
        let has_rested = coming.rested >= if coming.in_place { LOOKS_IN_PLACE } else { 1 };
        match has_rested {
            true => Some(coming),
            false => {
                self.coming = Some(coming);
                None
            }
        }
    }
}

impl Coming {
    /// Files that were so at a look, and about which no more is known.
    pub(super) fn of(marks: BTreeMap<PathBuf, Mark>) -> Self {
        Self { marks, ..Self::default() }
    }

    /// The same files, which are otherwise again and have to rest from here on.
    pub(super) fn anew(self, marks: BTreeMap<PathBuf, Mark>) -> Self {
        Self { in_place: is_rewritten(&self.marks, &marks), marks, rested: 0, ..self }
    }
}

/// True where what was read is what has rested, each file of it: nobody wrote into one meanwhile, and none is new.
pub(super) fn is_as_rested(loaded: &Loaded, rested: &BTreeMap<PathBuf, Mark>) -> bool {
    loaded.marks.iter().all(|(path, read)| rested.get(path) == Some(read) && mark(path) == *read)
}

/// True where somebody has written into one of these files.
fn is_rewritten(before: &BTreeMap<PathBuf, Mark>, now: &BTreeMap<PathBuf, Mark>) -> bool {
    now.iter().any(|(path, now)| match (before.get(path), now) {
        (Some(Some(before)), Some(now)) => now.is_rewritten(before),
        _ => false,
    })
}
