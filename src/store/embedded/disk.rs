//! The file as the library sees it: behind the redo log, and with a memory of the first sync that failed.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::StorageBackend;

/// The file, whether a sync of it has ever failed, and whether its engine has ended.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) inner: Box<dyn StorageBackend>,
    pub(super) sync_failed: Arc<AtomicBool>,
    pub(super) ended: Arc<AtomicBool>,
}

impl Disk {
    pub(super) fn sync(&self) -> io::Result<()> {
        if self.sync_failed.load(Ordering::Acquire) {
            return Err(io::Error::other("an earlier sync failed"));
        }
        self.inner.sync_data().inspect_err(|_| self.sync_failed.store(true, Ordering::Release))
    }

    pub(super) fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.ended.load(Ordering::Acquire) {
            return Err(io::Error::other("it is never closed in order"));
        }
        self.inner.write(offset, data)
    }
}

/// What the library sees of the file: all of it behind the redo log.
#[derive(Debug)]
pub(super) struct Pages {
    pub(super) disk: Arc<Disk>,
    pub(super) redo_octets: u64,
}

impl StorageBackend for Pages {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.inner.len()?.saturating_sub(self.redo_octets))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.disk.inner.read(self.redo_octets + offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.inner.set_len(self.redo_octets + len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.disk.write(self.redo_octets + offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.disk.inner.close()
    }
}
