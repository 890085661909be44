//! Who is often mistaken about who they are.
//!
//! Nobody guesses a token, however often they try; what trying costs is what each try costs us. So after a few
//! mistakes in one second a peer is told so and its connection is closed: the next try costs it a new one, and us neither a
//! line of the log nor a look at the token's time. Whoever has a right token is never kept out, not even at the same address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::access::Owner;
use crate::time::Now;

/// Mistakes in one second that are answered as what they are: a wrong file in a configuration with a few workers.
const IN_A_SECOND_MAX: u32 = 10;
/// Peers that are counted at once, in some hundred kilobytes; then all of them start anew.
const PEERS_MAX: usize = 4096;
/// What one customer has of IPv6.
const PREFIX_V6: u32 = 64;
const SECOND_NS: u64 = 1_000_000_000;

/// See the module's own words.
#[derive(Debug, Default)]
pub struct Mistakes {
    peers: Mutex<HashMap<Option<Owner>, (u64, u32)>>,
    /// All of them, from the start of the server.
    pub made: AtomicU64,
}

impl Mistakes {
    /// Counts one, by whose connection it is; false where there were too many in this second.
    pub fn may_go_on(&self, peer: Option<&Owner>, now: Now) -> bool {
        self.made.fetch_add(1, Ordering::Relaxed);
        let second = now.mono_ns / SECOND_NS;
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if peers.len() >= PEERS_MAX {
            peers.clear();
        }
        let counted = peers.entry(peer.map(network)).or_insert((second, 0));
        if counted.0 != second {
            *counted = (second, 0);
        }
        counted.1 = counted.1.saturating_add(1);
        counted.1 <= IN_A_SECOND_MAX
    }
}

fn network(peer: &Owner) -> Owner {
    match peer {
        Owner::Address(IpAddr::V6(ip)) => {
            let mask = u128::MAX << (128 - PREFIX_V6);
            Owner::Address(Ipv6Addr::from_bits(ip.to_bits() & mask).into())
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_counted_by_itself_and_second_by_second() {
        let mistakes = Mistakes::default();
        let at = |second: u64| Now { mono_ns: second * SECOND_NS, ..Now::default() };
        let peer = |text: &str| Some(Owner::Address(text.parse().unwrap()));
        let (one, neighbour, other) = (peer("2001:db8::1"), peer("2001:db8::2"), peer("2001:db8:1::1"));
        let went = (0..20).filter(|_| mistakes.may_go_on(one.as_ref(), at(1))).count();
        assert_eq!(went, 10);
        assert!(!mistakes.may_go_on(neighbour.as_ref(), at(1)), "one customer has many addresses");
        assert!(mistakes.may_go_on(other.as_ref(), at(1)) && mistakes.may_go_on(None, at(1)));
        assert!(mistakes.may_go_on(one.as_ref(), at(2)));
        assert_eq!(mistakes.made.load(Ordering::Relaxed), 24);
    }
}
