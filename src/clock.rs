//! The one place where clocks are read.
//!
//! Leases run on `CLOCK_MONOTONIC`: no one can set it, and on Linux it stands still while the machine
//! is suspended, as the processes do that should have sent heartbeats.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::time::{Now, Wall, nanoseconds};

/// Both clocks, the monotonic one from the start of the server.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: Instant,
}

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "the one place where clocks are read")]
    pub fn start() -> Self {
        Self { started: Instant::now() }
    }

    #[expect(clippy::disallowed_methods, reason = "the one place where clocks are read")]
    pub fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let unix_ms = i64::try_from(wall.as_millis()).unwrap_or(i64::MAX);
        Now { mono_ns: nanoseconds(self.started.elapsed()), wall: Wall { unix_ms } }
    }

    /// When the monotonic clock reads `mono_ns`.
    pub fn instant(&self, mono_ns: u64) -> Instant {
        self.started + Duration::from_nanos(mono_ns)
    }
}
