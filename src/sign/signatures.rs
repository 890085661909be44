//! Signatures that were made, each under what it is over: what is asked for again is not signed again.
//!
//! There is nothing to invalidate. A record that changes is another text with another digest, and so is a key; what nobody asks
//! for any more goes with the older of two generations, and a signature grows too old by itself ([`super::Signed::serves`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;

use super::Signed;
use crate::time::Wall;

/// SHA-256 of key, owner, type, TTL and records.
pub type Digest = [u8; 32];
type Generation = papaya::HashMap<Digest, Signed>;

/// At most twice as many as one generation holds.
#[derive(Debug)]
pub struct Signatures {
    new: ArcSwap<Generation>,
    old: ArcSwap<Generation>,
    /// Signatures of one generation.
    most: AtomicUsize,
}

impl Signatures {
    pub fn new(most: usize) -> Self {
        Self { new: ArcSwap::default(), old: ArcSwap::default(), most: AtomicUsize::new(most) }
    }

    /// Holds so many in one generation from now on.
    pub fn hold(&self, most: usize) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// How many are there; one that is asked for again may count twice, as long as it is in both generations.
    pub fn kept(&self) -> usize {
        self.new.load().len() + self.old.load().len()
    }

    /// The signature over this, where one was made that may still be sent.
    pub fn find(&self, digest: &Digest, now: Wall) -> Option<Signed> {
        let signed = |generation: &Generation| generation.pin().get(digest).copied();
        if let Some(signed) = signed(&self.new.load()) {
            return Some(signed).filter(|signed| signed.serves(now));
        }
        let signed = signed(&self.old.load()).filter(|signed| signed.serves(now))?;
        self.keep(*digest, signed);
        Some(signed)
    }

    pub fn keep(&self, digest: Digest, signed: Signed) {
        let new = self.new.load();
        if new.len() >= self.most.load(Ordering::Relaxed) {
            // Two at once lose a generation that could have stayed, and sign anew.
            self.old.store(self.new.swap(Arc::default()));
        }
        self.new.load().pin().insert(digest, signed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sign::SIGNATURE_OCTETS;

    fn signed(at_s: i64) -> Signed {
        Signed { at_s, signature: [at_s as u8; SIGNATURE_OCTETS] }
    }

    #[test]
    fn what_is_asked_for_stays_and_the_rest_goes() {
        let signatures = Signatures::new(10);
        let now = Wall { unix_ms: 5000 };
        let digest = |n: u8| [n; 32];
        signatures.keep(digest(0), signed(5));
        for n in 1..100 {
            signatures.keep(digest(n), signed(5));
            assert_eq!(signatures.find(&digest(0), now), Some(signed(5)), "asked for each time, after {n}");
        }
        let kept = (0..100).filter(|n| signatures.find(&digest(*n), now).is_some()).count();
        assert!((10..=20).contains(&kept), "{kept}");
        signatures.hold(1000);
        (0..100).for_each(|n| signatures.keep(digest(n), signed(5)));
        assert!((0..100).all(|n| signatures.find(&digest(n), now).is_some()), "there is room now");
        let later = Wall { unix_ms: now.unix_ms + 1000 * crate::sign::LIFE_S };
        assert_eq!(signatures.find(&digest(0), later), None, "it has ended");
    }
}
