//! Which instances, in which order: the policies that a service may have.
//!
//! Under the usual one everything is answered and only the order is drawn. When not everything fits, what stays is
//! decided by rendezvous hashing over the client's address, so a client that asks every second sees the
//! same set, and different clients share the load by weight. The other policies are orders of their own, of which as
//! much is answered as fits.

pub mod circle;
pub mod ring;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

pub use self::ring::{POINTS, Ring};
use crate::name::fnv;

/// Items that are put into order one by one, and members of a ring whose places take no allocation.
const FEW: usize = 64;

/// Octets of an IPv4 and of an IPv6 address that are a client's network: what RFC 7871 section 11.1 tells of a client.
const NETWORK_OCTETS: (usize, usize) = (3, 7);

/// How a service's instances are chosen and put into order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    pub policy: Policy,
    /// Only the first one is answered.
    pub one: bool,
}

/// An order of instances. Priorities come first under each of them, lowest first (RFC 2782).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// By chance: each place is drawn among the rest in proportion to weight.
    #[default]
    Weighted,
    /// In the order of labels, from a place on that is drawn anew for each query; weights do not count.
    Rotate,
    /// As `Weighted`, of the lowest priority that has a live instance and of no other.
    First,
    /// As `Weighted`, of the instances in the client's region where there are any.
    Nearest,
    /// In the order of the client's network on a [`Ring`].
    Affinity,
}

impl Policy {
    pub const ALL: [Self; 5] = [Self::Weighted, Self::Rotate, Self::First, Self::Nearest, Self::Affinity];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Weighted => "weighted",
            Self::Rotate => "rotate",
            Self::First => "first",
            Self::Nearest => "nearest",
            Self::Affinity => "affinity",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.as_str() == text)
    }
}

impl Balance {
    /// `rotate`; `one`, which is the first of `weighted`; `one:rotate`.
    pub fn parse(text: &str) -> Option<Self> {
        match text.split_once(':') {
            Some(("one", policy)) => Some(Self { policy: Policy::parse(policy)?, one: true }),
            Some(_) => None,
            None if text == "one" => Some(Self { policy: Policy::Weighted, one: true }),
            None => Some(Self { policy: Policy::parse(text)?, one: false }),
        }
    }
}

impl fmt::Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.one, self.policy) {
            (false, policy) => f.write_str(policy.as_str()),
            (true, Policy::Weighted) => f.write_str("one"),
            (true, policy) => write!(f, "one:{}", policy.as_str()),
        }
    }
}

/// How the weights of instances are told in SRV records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SrvWeights {
    #[default]
    Plain,
    /// So that HAProxy, which divides by 256 and adds one, comes to the weights that were meant.
    Haproxy,
}

impl SrvWeights {
    pub const ALL: [Self; 2] = [Self::Plain, Self::Haproxy];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Haproxy => "haproxy",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|weights| weights.as_str() == text)
    }
}

/// The greatest weight that HAProxy has for a server.
const HAPROXY_WEIGHT_MAX: u32 = 256;

/// What the weights of one service become in SRV records; by default what they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scale {
    /// The heaviest instance, where the weights are for HAProxy.
    haproxy: Option<u16>,
}

impl Scale {
    pub fn haproxy(heaviest: u16) -> Self {
        Self { haproxy: Some(heaviest) }
    }

    /// For HAProxy `256 k - 1`, of which it makes `k`; other clients see nearly the same shares. Above 256 all weights
    /// are made less in proportion. 0 stays 0, which HAProxy takes for 1: it knows no server of last resort.
    pub fn weight(self, weight: u16) -> u16 {
        let Some(heaviest) = self.haproxy.map(u32::from) else { return weight };
        let meant = match (u32::from(weight), heaviest) {
            (0, _) => return 0,
            (weight, ..=HAPROXY_WEIGHT_MAX) => weight,
            (weight, _) => ((weight * HAPROXY_WEIGHT_MAX + heaviest / 2) / heaviest).max(1),
        };
        (meant.min(HAPROXY_WEIGHT_MAX) * 256 - 1) as u16
    }
}

/// A network, and the region that it is in; a region may have several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    pub name: Arc<str>,
    pub network: IpNet,
}

/// The region of an address: that of the longest network that it is in.
pub fn region_of(regions: &[Region], address: IpAddr) -> Option<&str> {
    let around = regions.iter().filter(|region| region.network.contains(&address));
    around.max_by_key(|region| region.network.prefix_len()).map(|region| &*region.name)
}

/// A stream of random numbers from one seed (SplitMix64, by Steele, Lea and Flood).
pub struct Draws(u64);

impl Draws {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Below `end`, which is not 0; by a multiplication, whose bias is below 2^-32 for any length that there is.
    pub fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.next_u64()) * end as u128) >> 64) as usize
    }

    /// In (0, 1].
    fn unit(&mut self) -> f64 {
        unit(self.next_u64())
    }
}

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn unit(x: u64) -> f64 {
    ((x >> 11) as f64 + 1.0) / (1u64 << 53) as f64
}

/// Puts `items` into a random order by weight, without replacement: each place is drawn among the
/// rest in proportion to weight; weight 0 comes last (RFC 2782, "Weight").
///
/// One draw an item: sorting by `-ln(u)/w` is that order (Efraimidis and Spirakis, 2006).
pub fn shuffle<T>(items: &mut [T], weight: impl Fn(&T) -> u64, draws: &mut Draws) {
    // Among equals, -ln(u) sorts as -u does.
    let alike = items.iter().all(|item| weight(item) == weight(&items[0]));
    let mut key = |item: &T| match weight(item) {
        _ if alike => (false, -draws.unit()),
        0 => (true, draws.unit()),
        weight => (false, -draws.unit().ln() / weight as f64),
    };
    if items.len() > FEW {
        let mut keys: Vec<(bool, f64)> = items.iter().map(key).collect();
        return sort_by_keys(items, &mut keys);
    }
    // The same order, where neither the time nor the memory is worth more.
    let mut keys = [(false, 0.0); FEW];
    for place in 0..items.len() {
        keys[place] = key(&items[place]);
        let mut at = place;
        while at > 0 && keys[at] < keys[at - 1] {
            keys.swap(at, at - 1);
            items.swap(at, at - 1);
            at -= 1;
        }
    }
}

/// As `shuffle`, each priority by itself, lowest first.
pub fn shuffle_by_priority<T>(
    items: &mut [T],
    priority: impl Fn(&T) -> u16,
    weight: impl Fn(&T) -> u64,
    draws: &mut Draws,
) {
    shuffle(items, weight, draws);
    items.sort_by_key(priority);
}

/// How many octets of an address are its network, and the octets.
fn network_of(address: IpAddr) -> (usize, [u8; 16]) {
    let mut octets = [0; 16];
    match address {
        IpAddr::V4(v4) => {
            octets[..4].copy_from_slice(&v4.octets());
            (NETWORK_OCTETS.0, octets)
        }
        IpAddr::V6(v6) => (NETWORK_OCTETS.1, v6.octets()),
    }
}

/// Turns `items` so that each of them is the first equally often.
pub fn rotate<T>(items: &mut [T], draws: &mut Draws) {
    if !items.is_empty() {
        items.rotate_left(draws.below(items.len()));
    }
}

/// As `rotate`, each priority by itself, lowest first.
pub fn rotate_by_priority<T>(items: &mut [T], priority: impl Fn(&T) -> u16, draws: &mut Draws) {
    items.sort_by_key(&priority);
    for alike in items.chunk_by_mut(|a, b| priority(a) == priority(b)) {
        rotate(alike, draws);
    }
}

/// Puts `items` into the order in which `client` would keep them, lowest `rank` first; the order depends on
/// nothing but client, identities, ranks and weights (weighted rendezvous hashing).
pub fn prefer<T>(
    items: &mut [T],
    client: IpAddr,
    identity: impl Fn(&T) -> u64,
    rank: impl Fn(&T) -> u16,
    weight: impl Fn(&T) -> u64,
) {
    let client = match client {
        IpAddr::V4(v4) => fnv(&[&v4.octets()]),
        IpAddr::V6(v6) => fnv(&[&v6.octets()]),
    };
    let mut keys: Vec<(u16, f64)> = items
        .iter()
        .map(|item| {
            let drawn = -unit(mix(client ^ mix(identity(item)))).ln();
            // Weight 0 is a last resort: behind every weighted one of its rank.
            (rank(item), if weight(item) == 0 { drawn * 1e12 } else { drawn / weight(item) as f64 })
        })
        .collect();
    sort_by_keys(items, &mut keys);
}

/// Sorts `items` by `keys`, both permuted alike.
fn sort_by_keys<T, K: PartialOrd + Copy>(items: &mut [T], keys: &mut [K]) {
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by(|a, b| keys[*a].partial_cmp(&keys[*b]).unwrap_or(std::cmp::Ordering::Equal));
    // Applies the permutation in place, cycle by cycle.
    for start in 0..order.len() {
        let mut at = start;
        while order[at] != start {
            let from = order[at];
            items.swap(at, from);
            order[at] = at;
            at = from;
        }
        order[at] = at;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shuffle_follows_the_weights() {
        let mut draws = Draws::new(1);
        let mut first = [0u32; 3];
        for _ in 0..40_000 {
            let mut items = [(0usize, 1u64), (1, 3), (2, 0)];
            shuffle(&mut items, |item| item.1, &mut draws);
            first[items[0].0] += 1;
            assert_eq!(items[2].0, 2);
        }
        assert!((9_500..10_500).contains(&first[0]), "{first:?}");
        assert_eq!(first[2], 0);
    }

    #[test]
    fn a_preference_is_stable_and_moves_little() {
        let client: IpAddr = "10.0.0.9".parse().unwrap();
        let kept = |items: &[u64]| {
            let mut items = items.to_vec();
            prefer(&mut items, client, |item| *item, |_| 0, |_| 1);
            items[..20].to_vec()
        };
        let all: Vec<u64> = (0..100).collect();
        let reversed: Vec<u64> = (0..100).rev().collect();
        assert_eq!(kept(&all), kept(&reversed));
        let before = kept(&all);
        let without: Vec<u64> = all.iter().copied().filter(|item| *item != before[3]).collect();
        let after = kept(&without);
        assert_eq!(before.iter().filter(|item| !after.contains(item)).count(), 1);
    }

    #[test]
    fn clients_share_by_weight() {
        let mut first = [0u32; 2];
        for client in 0..20_000u32 {
            let mut items = [(0usize, 1u64), (1, 3)];
            prefer(&mut items, IpAddr::V4(client.into()), |item| item.0 as u64, |_| 0, |item| item.1);
            first[items[0].0] += 1;
        }
        assert!((4_600..5_400).contains(&first[0]), "{first:?}");
    }
}
