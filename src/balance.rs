//! Which instances, in which order: choice that is stable for a client, order that is random.
//!
//! When everything fits, everything is answered and only the order is drawn. When not, what stays is
//! decided by rendezvous hashing over the client's address, so a client that asks every second sees the
//! same set, and different clients share the load by weight.

use std::net::IpAddr;

use crate::name::fnv;

/// Items that are put into order one by one.
const FEW: usize = 64;

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
