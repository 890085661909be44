//! The past of the registry, seen from outside: what is told of it, and what can be made of it again.
//!
//! - `log`: what changed, when, why and by whom; how far back.
//! - `at`: who was there at a time.
//! - `availability`: how much of the time what was live.
//! - `feed`: every change once and in order, from any revision on, across a crash.
//! - `apply`: an empty server fed from the start ends with the same registry.
//! - `queue`: the same through Redis Streams.
//! - `backup`: a backup is the registry at one moment; restoring one loses no counter and no file.
//!
//! Times are taken from the log itself, never from a clock of the test.
//!
//! Needs: redis-server, redis-cli

mod harness;

#[path = "history/apply.rs"]
mod apply;
#[path = "history/at.rs"]
mod at;
#[path = "history/availability.rs"]
mod availability;
#[path = "history/backup.rs"]
mod backup;
#[path = "history/feed.rs"]
mod feed;
#[path = "history/log.rs"]
mod log;
#[path = "history/picture.rs"]
mod picture;
#[path = "history/queue.rs"]
mod queue;
