//! What a view is counted by: revisions, as a serial of DNS, as an index of HTTP, and in the SOA.

use std::sync::atomic::Ordering;

use super::{NEGATIVE_TTL, View};
use crate::name::Apex;
use crate::record::Soa;

impl View {
    /// What the serial counts from; set before the view is ready.
    pub fn set_serial_base(&self, serial_base: u32) {
        self.serial_base.store(serial_base, Ordering::Relaxed);
        self.index_base.store(serial_base.into(), Ordering::Relaxed);
    }

    /// A server that keeps nothing counts its revisions anew after a restart, and may have made more of them than
    /// seconds passed. From the microseconds of its start on, its index never goes back.
    pub fn set_index_base(&self, index_base: u64) {
        self.index_base.store(index_base, Ordering::Relaxed);
    }

    /// Since when settings and the record tree are what they are; set before the view is ready.
    pub fn set_settled(&self, revision: u64) {
        self.settled.store(revision, Ordering::Relaxed);
    }

    /// The revision of the start, and the one from which on all but the registry has been the same.
    pub fn beginnings(&self) -> (u64, u64) {
        (self.started.load(Ordering::Relaxed), self.settled.load(Ordering::Relaxed))
    }

    /// Revisions below this one that no change has are nobody's: a serial of theirs is another server's.
    pub fn set_started(&self, revision: u64) {
        self.started.store(revision, Ordering::Relaxed);
    }

    /// The revision of the last change published.
    pub fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    /// The SOA's serial: goes up with every change (RFC 1982).
    pub fn serial(&self) -> u32 {
        self.serial_of(self.revision())
    }

    pub fn serial_of(&self, revision: u64) -> u32 {
        self.serial_base.load(Ordering::Relaxed).wrapping_add(revision as u32)
    }

    /// A revision as HTTP clients see it: the serial's count without its wrap, or a finer one of a server that
    /// keeps nothing.
    pub fn index(&self, revision: u64) -> u64 {
        self.index_base.load(Ordering::Relaxed) + revision
    }

    /// The revision that an index stands for; none where it is of another server, or of another life of this one.
    pub fn revision_of(&self, index: u64) -> Option<u64> {
        let revision = index.checked_sub(self.index_base.load(Ordering::Relaxed))?;
        (revision <= self.revision()).then_some(revision)
    }

    pub fn soa(&self, apex: &Apex) -> Soa {
        self.soa_at(apex, self.revision())
    }

    pub fn soa_at(&self, apex: &Apex, revision: u64) -> Soa {
        let [_, refresh, retry, expire, minimum] = self.soa_numbers();
        let serial = self.serial_of(revision);
        let (mname, rname) = (apex.owner(&["ns"]), apex.owner(&["hostmaster"]));
        Soa { mname, rname, serial, refresh, retry, expire, minimum }
    }

    /// Serial, refresh, retry, expire and minimum of every SOA of ours (RFC 1035 section 3.3.13).
    pub fn soa_numbers(&self) -> [u32; 5] {
        [self.serial(), 300, 60, 86_400, NEGATIVE_TTL]
    }
}
