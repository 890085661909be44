//! What has come of requests that are not whole yet: many clients who send slowly shall not fill the memory together.

use tokio::sync::{Semaphore, SemaphorePermit, TryAcquireError};

/// Octets of all such requests, beside those that each has free; most requests are smaller than that.
const UNFINISHED_OCTETS_MAX: usize = 32 << 20;
pub const UNFINISHED_FREE_OCTETS: usize = 16 * 1024;

/// What is said to the one too many.
pub const TOO_MUCH: &str = "too much of too many requests has come; try again later";

/// A permit for each octet.
pub struct Unfinished(Semaphore);

impl Default for Unfinished {
    fn default() -> Self {
        Self(Semaphore::new(UNFINISHED_OCTETS_MAX))
    }
}

impl Unfinished {
    /// Has `permits` for so many octets of one request.
    ///
    /// # Errors
    ///
    /// All requests together have too many.
    pub fn hold<'a>(
        &'a self,
        permits: &mut Option<SemaphorePermit<'a>>,
        octets: usize,
    ) -> Result<(), TryAcquireError> {
        pay(permits, &self.0, octets.saturating_sub(UNFINISHED_FREE_OCTETS))
    }
}

/// Has as many permits of `all` as `count`.
///
/// # Errors
///
/// There are not as many.
pub fn pay<'a>(
    permits: &mut Option<SemaphorePermit<'a>>,
    all: &'a Semaphore,
    count: usize,
) -> Result<(), TryAcquireError> {
    let paid = permits.as_ref().map_or(0, SemaphorePermit::num_permits);
    if count < paid {
        drop(permits.as_mut().and_then(|permits| permits.split(paid - count)));
    } else if count > paid {
        // Nobody has as many as do not go into the number.
        let more = all.try_acquire_many((count - paid) as u32)?;
        match permits {
            Some(permits) => permits.merge(more),
            None => *permits = Some(more),
        }
    }
    Ok(())
}
