//! The redo log: what was committed since the tables were last written out, in front of them in the file.
//!
//! A commit is one record and one sync: a few octets in one place, where the tables would be a dozen pages
//! all over the file. The tables take the same changes in memory, and are written out when the redo log has
//! no room for the next record; it begins anew then, in the next epoch, which the tables name. So a record
//! counts if it is of the epoch that the tables name, and what is there after a crash is the tables and,
//! on top of them, the records in their order.
//!
//! A record begins at a sector of its own, so a write that is cut short harms none before it. The first one
//! that is not whole is the end: it was not acknowledged. Unless a whole one lies behind it: each is
//! synced before the next is written, so that is damage.

use std::time::Duration;

use super::Limits;
use crate::name::fnv;

/// Room for the records, in octets: some 2,000 single commits, or 10,000 changes in larger ones.
pub const OCTETS: u64 = 1 << 20;

/// What disks write at once, or not at all.
const SECTOR_OCTETS: usize = 512;
/// Kept free for commits without changes: where the disk is full, a server starts all the same.
const SPARE_OCTETS: usize = 4096;
/// Checksum, epoch and length of what follows.
const HEAD_OCTETS: usize = 8 + 8 + 4;

/// One commit, with all that decides what it makes of the tables.
#[derive(Debug)]
pub struct Entry {
    /// No revision above it was given out.
    pub reserved: u64,
    /// What was kept of the log.
    pub limits: Limits,
    /// As the log has them.
    pub changes: Vec<Vec<u8>>,
}

/// Where the next record goes.
#[derive(Debug)]
pub struct Redo {
    octets: usize,
    epoch: u64,
    end: usize,
}

impl Redo {
    /// An empty one.
    pub fn new(octets: usize, epoch: u64) -> Self {
        Self { octets, epoch, end: 0 }
    }

    /// Finds the entries of `epoch` in what the disk has of the redo log.
    ///
    /// # Errors
    ///
    /// It is damaged; in words.
    pub fn read(disk: &[u8], epoch: u64) -> Result<(Self, Vec<Entry>), String> {
        let mut redo = Self::new(disk.len(), epoch);
        let mut entries = Vec::new();
        while let Some(body) = redo.body(disk, redo.end) {
            let damaged = || format!("the redo log's record at {} is no entry", redo.end);
            entries.push(Entry::read(body).ok_or_else(damaged)?);
            redo.end += whole_sectors(HEAD_OCTETS + body.len());
        }
        let behind = (redo.end..disk.len()).step_by(SECTOR_OCTETS);
        match behind.into_iter().find(|at| redo.body(disk, *at).is_some()) {
            Some(at) => Err(format!("the redo log is broken at {} and goes on at {at}", redo.end)),
            None => Ok((redo, entries)),
        }
    }

    /// The body of the record at `at`, where a whole one of this epoch is there.
    fn body<'a>(&self, disk: &'a [u8], at: usize) -> Option<&'a [u8]> {
        let (sum, rest) = disk.get(at..)?.split_first_chunk::<8>()?;
        let (epoch, rest) = rest.split_first_chunk::<8>()?;
        let (octets, rest) = rest.split_first_chunk::<4>()?;
        let body = rest.get(..u32::from_be_bytes(*octets) as usize)?;
        let whole = u64::from_be_bytes(*epoch) == self.epoch
            && u64::from_be_bytes(*sum) == checksum(self.epoch, at, body);
        whole.then_some(body)
    }

    /// The record of an entry, for `end`; none where it has no room.
    pub fn record(&self, entry: &Entry) -> Option<Vec<u8>> {
        let mut record = vec![0; HEAD_OCTETS];
        entry.write(&mut record);
        let body = record.len() - HEAD_OCTETS;
        record.resize(whole_sectors(record.len()), 0);
        let spare = if entry.changes.is_empty() { 0 } else { SPARE_OCTETS };
        if self.end + record.len() + spare > self.octets {
            return None;
        }
        let sum = checksum(self.epoch, self.end, &record[HEAD_OCTETS..HEAD_OCTETS + body]);
        record[..8].copy_from_slice(&sum.to_be_bytes());
        record[8..16].copy_from_slice(&self.epoch.to_be_bytes());
        record[16..HEAD_OCTETS].copy_from_slice(&(body as u32).to_be_bytes());
        Some(record)
    }

    /// Where the next record goes, in octets from the start of the file.
    pub fn end(&self) -> u64 {
        self.end as u64
    }

    /// The record is on the disk.
    pub fn advance(&mut self, record: &[u8]) {
        self.end += record.len();
    }

    pub fn next_epoch(&self) -> u64 {
        self.epoch + 1
    }

    /// The tables hold all that it holds, and name `epoch`.
    pub fn restart(&mut self, epoch: u64) {
        (self.epoch, self.end) = (epoch, 0);
    }
}

impl Entry {
    fn write(&self, out: &mut Vec<u8>) {
        let age_ms = u64::try_from(self.limits.history_age.as_millis()).unwrap_or(u64::MAX);
        for number in [self.reserved, self.limits.history_changes, age_ms] {
            out.extend(number.to_be_bytes());
        }
        for change in &self.changes {
            out.extend((change.len() as u32).to_be_bytes());
            out.extend(change);
        }
    }

    fn read(body: &[u8]) -> Option<Self> {
        let (numbers, mut rest) = body.split_first_chunk::<24>()?;
        let number =
            |at: usize| numbers[at..at + 8].iter().fold(0, |sum, octet| sum << 8 | u64::from(*octet));
        let mut changes = Vec::new();
        while !rest.is_empty() {
            let (octets, behind) = rest.split_first_chunk::<4>()?;
            let (change, behind) = behind.split_at_checked(u32::from_be_bytes(*octets) as usize)?;
            changes.push(change.to_vec());
            rest = behind;
        }
        let limits = Limits { history_changes: number(8), history_age: Duration::from_millis(number(16)) };
        Some(Self { reserved: number(0), limits, changes })
    }
}

/// The place is part of it: a record that lies elsewhere is none.
fn checksum(epoch: u64, at: usize, body: &[u8]) -> u64 {
    fnv(&[&epoch.to_be_bytes(), &(at as u64).to_be_bytes(), body])
}

fn whole_sectors(octets: usize) -> usize {
    octets.next_multiple_of(SECTOR_OCTETS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(octets: &[usize]) -> Entry {
        let changes = octets.iter().map(|octets| vec![7; *octets]).collect();
        Entry { reserved: 9, limits: Limits::default(), changes }
    }

    fn write(disk: &mut [u8], redo: &mut Redo, entry: &Entry) {
        let record = redo.record(entry).expect("room");
        disk[redo.end..redo.end + record.len()].copy_from_slice(&record);
        redo.advance(&record);
    }

    fn written() -> (Vec<u8>, Redo) {
        let (mut disk, mut redo) = (vec![0; 16 * 1024], Redo::new(16 * 1024, 3));
        for sizes in [&[100][..], &[], &[0, 700, 3], &[464]] {
            write(&mut disk, &mut redo, &entry(sizes));
        }
        (disk, redo)
    }

    #[test]
    fn what_was_written_is_read_in_its_order() {
        let (disk, redo) = written();
        let (found, entries) = Redo::read(&disk, 3).expect("no damage");
        assert_eq!(found.end, redo.end);
        let sizes: Vec<Vec<usize>> =
            entries.iter().map(|entry| entry.changes.iter().map(Vec::len).collect()).collect();
        assert_eq!(sizes, [vec![100], vec![], vec![0, 700, 3], vec![464]]);
        assert!(entries.iter().all(|entry| entry.reserved == 9 && entry.limits.history_changes == 100_000));
        assert_eq!(Redo::read(&disk, 4).expect("no damage").1.len(), 0, "of another epoch");
    }

    #[test]
    fn the_last_record_may_be_cut_short_and_no_other() {
        let (disk, redo) = written();
        let last = redo.end - SECTOR_OCTETS;
        for at in 0..redo.end {
            let mut damaged = disk.clone();
            damaged[at] ^= 1;
            match Redo::read(&damaged, 3) {
                Ok((_, entries)) if entries.len() == 4 => {} // what fills up a sector says nothing
                Ok((_, entries)) => assert!(at >= last && entries.len() == 3, "octet {at}"),
                Err(_) => assert!(at < last, "octet {at}"),
            }
        }
    }

    #[test]
    fn room_is_kept_for_what_has_no_changes() {
        let mut redo = Redo::new(16 * 1024, 1);
        let mut disk = vec![0; 16 * 1024];
        while redo.record(&entry(&[1000])).is_some() {
            write(&mut disk, &mut redo, &entry(&[1000]));
        }
        assert!(redo.record(&entry(&[])).is_some());
        assert!(Redo::new(16 * 1024, 1).record(&entry(&[16 * 1024])).is_none());
    }
}
