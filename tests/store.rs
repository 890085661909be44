//! What was acknowledged is durable. The store through crashes, failing disks, flipped octets and jumping clocks.
//!
//! In this process, over a disk made of memory:
//! - `crashes`: a crash at any write, what was not synced lost, torn or late; errors at any step.
//! - `octets`: a file in which an octet was changed, or whose end is missing.
//!
//! On the real binary:
//! - `kills`: SIGKILL at any moment, and nothing acknowledged is lost.
//! - `faults`: syncs and writes that fail, a full disk, a read-only one.
//! - `pauses`: stopped processes and clocks that jump.
//! - `refusals`: files of a newer version, damaged files, a directory that is taken.
//!
//! Counts are asserted, times are printed (`cargo test --test store -- --nocapture`).
//!
//! Needs: strace, unshare, mount, faketime

mod harness;

#[path = "store/crashes.rs"]
mod crashes;
#[path = "store/disk.rs"]
mod disk;
#[path = "store/faults.rs"]
mod faults;
#[path = "store/histories.rs"]
mod histories;
#[path = "store/kills.rs"]
mod kills;
#[path = "store/octets.rs"]
mod octets;
#[path = "store/pauses.rs"]
mod pauses;
#[path = "store/refusals.rs"]
mod refusals;
