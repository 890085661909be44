//! When something that spans services changed last: what reads of the catalog wait for.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::instance::Host;
use crate::registry::{Change, What};

/// Revisions of what spans services, each the last at which a reader could see a difference.
#[derive(Debug, Default)]
pub struct Spans {
    /// The names of services and their tags.
    pub(super) names: AtomicU64,
    /// Hosts, and what is said of them.
    pub(super) hosts: AtomicU64,
    /// Any check of any instance or host.
    pub(super) checks: AtomicU64,
    /// A service was forgotten so long ago that nobody knows when it left.
    pub(super) gone: AtomicU64,
    /// Any instance or host.
    pub(super) any: AtomicU64,
}

impl Spans {
    pub fn names(&self) -> u64 {
        self.names.load(Ordering::Acquire)
    }

    pub fn hosts(&self) -> u64 {
        self.hosts.load(Ordering::Acquire)
    }

    pub fn checks(&self) -> u64 {
        self.checks.load(Ordering::Acquire)
    }

    pub fn gone(&self) -> u64 {
        self.gone.load(Ordering::Acquire)
    }

    pub fn any(&self) -> u64 {
        self.any.load(Ordering::Acquire)
    }

    pub(super) fn restart(&self, revision: u64) {
        for span in [&self.names, &self.hosts, &self.checks, &self.gone, &self.any] {
            span.store(revision, Ordering::Release);
        }
    }

    /// Takes down what a change means for hosts and checks.
    pub(super) fn note(&self, change: &Change) {
        let none = &[][..];
        let (hosts, checks) = match &change.what {
            What::Instance { before, after } => {
                let (before, after) = (before.as_ref(), after.as_ref());
                let before = before.map_or(none, |before| &before.checks);
                (false, before != after.map_or(none, |after| &after.checks))
            }
            What::Host { before: Some(before), after: Some(after) } => {
                let said = |host: &Host| Host { checks: Vec::new(), ..host.clone() };
                (!said(before).says_same(&said(after)), before.checks != after.checks)
            }
            What::Host { .. } => (true, true),
            What::Forgotten { .. }
            | What::Settings { .. }
            | What::Guard { .. }
            | What::Token { .. }
            | What::Plain { .. } => (false, false),
        };
        for (span, changed) in [(&self.hosts, hosts), (&self.checks, checks), (&self.any, change.is_seen())] {
            if changed {
                span.store(change.revision, Ordering::Release);
            }
        }
    }
}
