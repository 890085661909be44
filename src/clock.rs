//! The one place where clocks are read.
//!
//! Leases run on `CLOCK_MONOTONIC`: no one can set it, and on Linux it stands still while the machine
//! is suspended, as the processes do that should have sent heartbeats. It is read through tokio, whose timers run on it too:
//! in a simulation both stand still until everybody waits.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use crate::time::{Now, Wall, nanoseconds};

/// Both clocks, the monotonic one from the start of the server.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: Instant,
    wall: fn() -> Wall,
}

impl Clock {
    pub fn start() -> Self {
        Self::with_wall(machine_wall)
    }

    /// With a wall clock that somebody else sets.
    #[expect(clippy::disallowed_methods, reason = "the one place where clocks are read")]
    pub fn with_wall(wall: fn() -> Wall) -> Self {
        Self { started: Instant::now(), wall }
    }

    pub fn now(&self) -> Now {
        Now { mono_ns: nanoseconds(self.started.elapsed()), wall: (self.wall)() }
    }

    /// When the monotonic clock reads `mono_ns`.
    pub fn instant(&self, mono_ns: u64) -> std::time::Instant {
        (self.started + Duration::from_nanos(mono_ns)).into_std()
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place where clocks are read")]
fn machine_wall() -> Wall {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Wall { unix_ms: i64::try_from(wall.as_millis()).unwrap_or(i64::MAX) }
}
