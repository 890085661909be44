//! Response rate limiting: nobody is made to flood an address that never asked (ISC-TN-2012-1).
//!
//! A datagram's source can be forged, so the same answer goes to one network so many times a second and no
//! oftener; of what is over that, every second one is answered in a form that is no larger than its query and
//! lets a real client prove where it is. Who has proved it, by a cookie of ours or by a connection, is not
//! counted, nor is this machine.
//!
//! What is counted lies in a table of fixed size, a word for each flow, changed by compare-and-swap: there is
//! no lock that a flood could hold against others. A full table forgets the quietest of eight flows, which
//! then starts anew: it lets too much through, never too little.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use siphasher::sip::SipHasher13;

use super::cookie::Secret;
use crate::answer::{Answer, Rcode};
use crate::counters::Limited;
use crate::name::NAME_OCTETS_MAX;
use crate::record::Type;
use crate::time::Now;

/// The highest limit: at ten microseconds a reply, a flow's word still tells one from the next.
pub const REPLIES_PER_SECOND_MAX: u32 = 100_000;
/// Flows that are counted at once, in a megabyte: a second of a flood over as many networks.
const FLOWS_MAX: usize = 1 << 17;
/// Flows of one hash, among which a newcomer finds its place: a cache line.
const WAYS: usize = 8;
/// One network: what a provider gives a customer (ISC-TN-2012-1 section 2.1.1).
const PREFIX_V4: u32 = 24;
const PREFIX_V6: u32 = 56;

/// A flow's word: who it is, whether the next one over the limit goes out, and when it has paid for all that
/// it had, in microseconds of a clock that comes round after twelve days.
const PAID_BITS: u32 = 40;
const PAID: u64 = (1 << PAID_BITS) - 1;
const SLIPPED: u64 = 1 << PAID_BITS;
const FLOW: u64 = !(SLIPPED | PAID);
/// Set in every flow's word, so that none is the word of nobody.
const SOMEBODY: u64 = 1 << 63;
const SECOND_US: u64 = 1_000_000;

/// What becomes of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Goes,
    /// It goes without its records: who is there asks again, in a way that cannot be forged.
    Slips,
    Dropped,
}

/// Counts replies.
pub struct Limiter {
    flows: Box<[AtomicU64]>,
    /// Nobody can choose which flows meet in the table.
    key: Secret,
    /// Between replies; rounded down, so that of tens of thousands a few more go.
    interval_us: u64,
    counts: Arc<Limited>,
}

impl Limiter {
    /// For `per_second` replies of one answer to one network: 1 to `REPLIES_PER_SECOND_MAX`. `key` is random.
    pub fn new(per_second: u32, key: Secret, counts: Arc<Limited>) -> Self {
        let per_second = u64::from(per_second.clamp(1, REPLIES_PER_SECOND_MAX));
        let flows = (0..FLOWS_MAX).map(|_| AtomicU64::new(0)).collect();
        Self { flows, key, interval_us: SECOND_US / per_second, counts }
    }

    /// What becomes of `answer` to `qname` (in wire form) for `client`, and counts it.
    pub fn judge(&self, client: IpAddr, qname: &[u8], answer: &Answer, now: Now) -> Fate {
        let fate = self.take(self.flow(client, qname, answer), now);
        match fate {
            Fate::Goes => {}
            Fate::Slips => self.counts.slipped.add(),
            Fate::Dropped => self.counts.dropped.add(),
        }
        fate
    }

    /// The hash of the network and of what it is told. Names that are denied are one answer each zone, names
    /// below a cut one each cut, and errors one each: there are as many of them as somebody cares to invent.
    fn flow(&self, client: IpAddr, qname: &[u8], answer: &Answer) -> u64 {
        let first = answer.authority.first();
        let referral =
            answer.answer.is_empty() && first.is_some_and(|record| record.data.rtype() == Type::NS);
        let name = match answer.rcode {
            // What is sent to TCP before it is signed, or is all signatures, names no zone.
            Rcode::NoError | Rcode::NxDomain if answer.of_any_name => {
                first.map_or(&[][..], |record| record.owner.as_wire())
            }
            Rcode::NoError if !referral => qname,
            Rcode::NoError | Rcode::NxDomain => first.map_or(qname, |record| record.owner.as_wire()),
            _ => &[],
        };
        let network: u128 = match client.to_canonical() {
            IpAddr::V4(v4) => u128::from(u32::from(v4) >> (32 - PREFIX_V4)),
            // In bits that no IPv4 network reaches.
            IpAddr::V6(v6) => 1 << 127 | u128::from(v6) >> (128 - PREFIX_V6),
        };
        let mut hashed = Vec::with_capacity(18 + NAME_OCTETS_MAX);
        hashed.extend_from_slice(&network.to_be_bytes());
        hashed.extend_from_slice(&[answer.rcode as u8, u8::from(referral)]);
        hashed.extend(name.iter().map(u8::to_ascii_lowercase));
        SipHasher13::new_with_key(&self.key.0).hash(&hashed)
    }

    /// One reply more for `flow`: the generic cell rate algorithm, with a second's worth at once.
    fn take(&self, flow: u64, now: Now) -> Fate {
        let at = flow as usize % (FLOWS_MAX / WAYS) * WAYS;
        let ways = &self.flows[at..at + WAYS];
        let who = flow & FLOW | SOMEBODY;
        let now_us = (now.mono_ns / 1000) & PAID;
        for word in ways {
            let mut known = word.load(Ordering::Relaxed);
            // Somebody else succeeds whenever we do not, so this ends.
            while known & FLOW == who {
                let (next, fate) = self.after(known, now_us);
                match word.compare_exchange_weak(known, next, Ordering::Relaxed, Ordering::Relaxed) {
                    Ok(_) => return fate,
                    Err(changed) => known = changed,
                }
            }
        }
        let (next, fate) = self.after(who | now_us, now_us);
        let words = ways.iter().map(|word| (word, word.load(Ordering::Relaxed)));
        if let Some((word, known)) = words.min_by_key(|(_, known)| unpaid_us(*known, now_us)) {
            // Where another newcomer was faster, this reply is not counted: one too many.
            let _ = word.compare_exchange(known, next, Ordering::Relaxed, Ordering::Relaxed);
        }
        fate
    }

    /// A flow's word after one reply more, and what becomes of that.
    fn after(&self, known: u64, now_us: u64) -> (u64, Fate) {
        let unpaid_us = unpaid_us(known, now_us);
        if unpaid_us + self.interval_us <= SECOND_US {
            let paid = (now_us + unpaid_us + self.interval_us) & PAID;
            return (known & !PAID | paid, Fate::Goes);
        }
        (known ^ SLIPPED, if known & SLIPPED == 0 { Fate::Slips } else { Fate::Dropped })
    }
}

/// For how long a flow has had its replies in advance.
fn unpaid_us(word: u64, now_us: u64) -> u64 {
    let ahead = word.wrapping_sub(now_us) & PAID;
    // Never more than a second: what seems to be is long past, in the last round of the clock or in this one.
    if ahead > SECOND_US { 0 } else { ahead }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;

    fn limiter(per_second: u32) -> Limiter {
        Limiter::new(per_second, Secret([7; 16]), Arc::default())
    }

    fn at(time: Duration) -> Now {
        Now::default().after(time)
    }

    /// How often each fate came to `replies` for `flow`, all at once.
    fn fates(limiter: &Limiter, flow: u64, replies: usize, now: Now) -> [usize; 3] {
        let mut fates = [0; 3];
        for _ in 0..replies {
            fates[limiter.take(flow, now) as usize] += 1;
        }
        fates
    }

    #[test]
    fn a_second_holds_so_many() {
        for per_second in [1, 3, 7, 100, 10_000, 100_000] {
            let limiter = limiter(per_second);
            let many = per_second as usize;
            let start = at(Duration::from_secs(5));
            assert_eq!(fates(&limiter, 7, many, start), [many, 0, 0], "{per_second}");
            // Of those over it every second one slips.
            assert_eq!(fates(&limiter, 7, 6, start), [0, 3, 3], "{per_second}");
            let later = start.after(Duration::from_secs(1));
            assert_eq!(fates(&limiter, 7, many + 4, later), [many, 2, 2], "{per_second}");
        }
        // In the long run no more than that, however they come.
        let limiter = limiter(20);
        let mut goes = 0;
        for ms in 0..60_000 {
            goes += usize::from(limiter.take(7, at(Duration::from_millis(ms))) == Fate::Goes);
        }
        assert!((20 * 60..20 * 61).contains(&goes), "{goes}");
    }

    #[test]
    fn the_clock_of_the_table_comes_round() {
        let limiter = limiter(10);
        let round = Duration::from_micros(1 << PAID_BITS);
        for start in [round - Duration::from_millis(500), round, round * 3 - Duration::from_micros(1)] {
            for second in 0..3 {
                let now = at(start + Duration::from_secs(second));
                assert_eq!(fates(&limiter, 7, 14, now), [10, 2, 2], "{second} s after {start:?}");
            }
        }
    }

    /// Strangers in any number, each asking once: nobody is kept from what is his, and the loud one, of whom the
    /// table thinks longest, stays limited.
    #[test]
    fn a_full_table_forgets_the_quiet() {
        let limiter = limiter(10);
        let now = at(Duration::from_secs(1));
        assert_eq!(fates(&limiter, 7 << 20, 10, now), [10, 0, 0]);
        let mut draws = crate::balance::Draws::new(1);
        for _ in 0..4 * FLOWS_MAX {
            assert_eq!(limiter.take(draws.next_u64(), now), Fate::Goes);
        }
        assert_eq!(fates(&limiter, 7 << 20, 10, now), [0, 5, 5]);
    }

    #[test]
    fn what_one_network_is_told_is_counted_once_by_many() {
        let limiter = limiter(100);
        let now = at(Duration::from_secs(1));
        assert_eq!(limiter.take(7, now), Fate::Goes);
        let all: Vec<[usize; 3]> = std::thread::scope(|scope| {
            let threads = [(); 4].map(|()| scope.spawn(|| fates(&limiter, 7, 1000, now)));
            threads.map(|thread| thread.join().unwrap()).into()
        });
        let sum = |fate: usize| all.iter().map(|fates| fates[fate]).sum::<usize>();
        assert_eq!([sum(0), sum(1), sum(2)], [99, 1951, 1950], "{all:?}");
    }

    #[test]
    fn networks_are_what_a_customer_has() {
        let limiter = limiter(1);
        let mut flows: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
        for client in [
            "192.0.2.1",
            "192.0.2.255",
            "::ffff:192.0.2.7",
            "192.0.3.1",
            "2001:db8:0:100::1",
            "2001:db8:0:1ff::ffff",
            "2001:db8:0:200::1",
            "::c000:201",
        ] {
            let flow = limiter.flow(client.parse().unwrap(), b"\x03web\0", &Answer::default());
            flows.entry(flow).or_default().push(client);
        }
        let mut networks: Vec<Vec<&str>> = flows.into_values().collect();
        networks.sort();
        let expected = [
            &["192.0.2.1", "192.0.2.255", "::ffff:192.0.2.7"][..],
            &["192.0.3.1"],
            &["2001:db8:0:100::1", "2001:db8:0:1ff::ffff"],
            &["2001:db8:0:200::1"],
            &["::c000:201"],
        ];
        assert_eq!(networks, expected);
    }
}
