//! What answers from a view are worth: whether the registry is loaded, and the store can be followed.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::View;
use crate::time::Now;

/// What answers from a view are worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worth {
    /// The registry is not loaded yet.
    Nothing = 0,
    Fresh = 1,
    /// The store cannot be followed, and answers are to say so.
    Stale = 2,
    /// It could not for longer than answers may go on.
    TooOld = 3,
}

impl View {
    /// What an answer from here is worth now.
    pub fn worth(&self) -> Worth {
        match self.worth.load(Ordering::Acquire) {
            1 => Worth::Fresh,
            2 => Worth::Stale,
            3 => Worth::TooOld,
            _ => Worth::Nothing,
        }
    }

    /// True where there is an answer to give.
    pub fn is_ready(&self) -> bool {
        matches!(self.worth(), Worth::Fresh | Worth::Stale)
    }

    /// From here on a name that is not there does not exist.
    pub fn set_ready(&self) {
        let (from, to) = (Worth::Nothing as u8, Worth::Fresh as u8);
        // It was ready before, and may be stale since.
        let _ = self.worth.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
    }

    /// The store cannot be followed since then, or is again. Said as often as one likes.
    pub fn set_stale(&self, since: Option<Now>, now: Now) {
        let worth = match (since, self.settings.stale_for) {
            (None, _) => Worth::Fresh,
            (Some(since), Some(most)) if now.since(since) >= most => Worth::TooOld,
            (Some(_), _) if self.settings.tell_stale => Worth::Stale,
            (Some(_), _) => Worth::Fresh,
        };
        if since != self.stale.load().as_ref().map(|stale| stale.0) {
            let words =
                |since: Now| format!("the store cannot be followed since {}", since.wall.time_of_day());
            self.stale.store(since.map(|since| Arc::new((since, words(since).into()))));
        }
        // Before the registry is loaded there is nothing to be worth anything.
        if ![Worth::Nothing, worth].contains(&self.worth()) {
            self.worth.store(worth as u8, Ordering::Release);
        }
    }

    /// For how long the store could not be followed, while it cannot.
    pub fn stale_for(&self, now: Now) -> Option<Duration> {
        self.stale.load().as_ref().map(|stale| now.since(stale.0))
    }

    /// The words for answers that are to say that they are stale.
    pub fn stale_words(&self) -> Option<Box<str>> {
        match self.worth() {
            Worth::Stale => self.stale.load().as_ref().map(|stale| stale.1.clone()),
            Worth::Nothing | Worth::Fresh | Worth::TooOld => None,
        }
    }

    /// Why the store takes nothing now; `None` while it does.
    pub fn store_trouble(&self) -> Option<Arc<String>> {
        self.store_trouble.load_full()
    }

    pub fn set_store_trouble(&self, trouble: Option<String>) {
        self.store_trouble.store(trouble.map(Arc::new));
    }
}
