//! The policies by their promises: order and shares by chi-square over a million draws each, how few clients move when
//! an instance leaves, and how evenly a ring is divided. Seeds are fixed, so a figure is the same in every run.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use callsign::balance::{Balance, Draws, POINTS, Policy, Region, Ring, Scale, region_of, rotate, shuffle};

const DRAWS: usize = 1_000_000;

/// Pearson's statistic of `counts` against the shares that were promised.
fn chi_square(counts: &[u32], shares: &[f64]) -> f64 {
    let all: f64 = counts.iter().map(|count| f64::from(*count)).sum();
    let squares = counts.iter().zip(shares).map(|(count, share)| {
        let expected = all * share;
        (f64::from(*count) - expected).powi(2) / expected
    });
    squares.sum()
}

/// The chance of an order, where each place is drawn among the rest in proportion to weight.
fn chance_of(order: &[usize], weights: &[u64]) -> f64 {
    let mut rest: u64 = weights.iter().sum();
    let mut chance = 1.0;
    for item in order {
        chance *= weights[*item] as f64 / rest as f64;
        rest -= weights[*item];
    }
    chance
}

fn orders_of(items: &[usize]) -> Vec<Vec<usize>> {
    if items.is_empty() {
        return vec![Vec::new()];
    }
    let mut orders = Vec::new();
    for first in items {
        let rest: Vec<usize> = items.iter().copied().filter(|item| item != first).collect();
        orders.extend(orders_of(&rest).into_iter().map(|order| [vec![*first], order].concat()));
    }
    orders
}

#[test]
fn weighted_orders_have_the_shares_of_their_weights() {
    let weights = [1, 3, 4, 8];
    let orders = orders_of(&[0, 1, 2, 3]);
    let shares: Vec<f64> = orders.iter().map(|order| chance_of(order, &weights)).collect();
    let places: HashMap<&[usize], usize> =
        orders.iter().enumerate().map(|(at, order)| (order.as_slice(), at)).collect();
    let (mut counts, mut draws) = (vec![0; orders.len()], Draws::new(1));
    for _ in 0..DRAWS {
        let mut items = [0, 1, 2, 3];
        shuffle(&mut items, |item| weights[*item], &mut draws);
        counts[places[&items[..]]] += 1;
    }
    // 23 degrees of freedom: one seed in a thousand is above 49.7.
    let statistic = chi_square(&counts, &shares);
    println!("weighted: {statistic:.1} of 49.7");
    assert!(statistic < 49.7, "{statistic}");
    // The same counts are not those of other weights.
    let others: Vec<f64> = orders.iter().map(|order| chance_of(order, &[1, 3, 4, 9])).collect();
    assert!(chi_square(&counts, &others) > 49.7);
}

#[test]
fn rotate_begins_everywhere_equally_often_and_keeps_the_order() {
    let (mut counts, mut draws) = (vec![0; 7], Draws::new(2));
    for _ in 0..DRAWS {
        let mut items = [0, 1, 2, 3, 4, 5, 6];
        rotate(&mut items, &mut draws);
        assert!(items.windows(2).all(|pair| pair[1] == (pair[0] + 1) % 7), "{items:?}");
        counts[items[0]] += 1;
    }
    // 6 degrees of freedom: 22.5.
    let statistic = chi_square(&counts, &[1.0 / 7.0; 7]);
    println!("rotate: {statistic:.1} of 22.5");
    assert!(statistic < 22.5, "{statistic}");
    rotate::<u8>(&mut [], &mut draws);
}

/// Identities as far apart as labels' hashes are.
fn members(count: usize, seed: u64, weight: impl Fn(usize) -> u64) -> Vec<(u64, u64)> {
    let mut draws = Draws::new(seed);
    (0..count).map(|member| (draws.next_u64(), weight(member))).collect()
}

/// A client of its own network.
fn client(number: u32) -> IpAddr {
    Ipv4Addr::from(number << 8 | 9).into()
}

fn first_of(ring: &Ring, client: IpAddr) -> u64 {
    let places = ring.places(client);
    *places.iter().find(|(_, place)| **place == 0).expect("somebody is first").0
}

/// How often each member is the first, by drawn networks.
fn shares(ring: &Ring, members: &[(u64, u64)], networks: usize, draws: &mut Draws) -> Vec<u32> {
    let places: HashMap<u64, usize> = members.iter().enumerate().map(|(at, member)| (member.0, at)).collect();
    let mut counts = vec![0; members.len()];
    for _ in 0..networks {
        counts[places[&first_of(ring, client(draws.below(1 << 24) as u32))]] += 1;
    }
    counts
}

#[test]
fn affinity_divides_networks_as_the_ring_is_divided() {
    let members = members(4, 3, |member| 1 + member as u64);
    let ring = Ring::new(members.clone());
    let order: Vec<(u64, u64)> = ring.arcs();
    let whole = order.iter().map(|(_, arc)| *arc as f64).sum::<f64>();
    let share = |member: &(u64, u64)| {
        order.iter().filter(|(identity, _)| *identity == member.0).map(|(_, arc)| *arc as f64).sum::<f64>()
            / whole
    };
    let fair: Vec<f64> = members.iter().map(share).collect();
    let counts = shares(&ring, &members, DRAWS, &mut Draws::new(4));
    // 3 degrees of freedom: 16.3. The ring itself is uneven; what is drawn must be the ring.
    let statistic = chi_square(&counts, &fair);
    println!("affinity: {statistic:.1} of 16.3, shares {fair:.3?} for weights 1 to 4");
    assert!(statistic < 16.3, "{statistic}");
    for (member, share) in members.iter().zip(fair) {
        let meant = member.1 as f64 / 10.0;
        assert!((share / meant - 1.0).abs() < 0.2, "{share} for weight {}", member.1);
    }
}

#[test]
fn few_clients_move_when_an_instance_leaves() {
    for count in [2, 3, 5, 10, 50, 100, 400] {
        let all = members(count, 5, |_| 1);
        for kept in [1, 3] {
            let order = |ring: &Ring, number: u32| {
                let places = ring.places(client(number));
                let mut order: Vec<(usize, u64)> =
                    places.into_iter().map(|(who, place)| (place, who)).collect();
                order.sort_unstable();
                order.into_iter().take(kept).map(|(_, who)| who).collect::<Vec<u64>>()
            };
            let before = Ring::new(all.clone());
            let gone = all[count / 2].0;
            let after = Ring::new(all.iter().copied().filter(|member| member.0 != gone).collect());
            let clients = 4_000;
            let (mut moved, mut needless) = (0, 0);
            for number in 0..clients {
                let (before, after) = (order(&before, number), order(&after, number));
                moved += usize::from(before != after);
                needless += usize::from(before != after && !before.contains(&gone));
            }
            let bound = (kept as f64 / count as f64).min(1.0) + 0.05;
            let moved = moved as f64 / f64::from(clients);
            println!("{count} instances, {kept} kept: {:.1} % moved", moved * 100.0);
            assert!(moved <= bound, "{moved} of {count}, {kept} kept");
            // Up to 65 members a point stays where it is, and nobody else moves.
            assert!(count > 65 || needless == 0, "{needless} moved of {count}");
        }
    }
}

#[test]
fn a_ring_of_a_thousand_points_a_member_is_nearly_fair() {
    assert_eq!(POINTS, 1000);
    for (count, bound) in [(2, 0.10), (3, 0.10), (4, 0.10), (5, 0.10), (10, 0.12)] {
        let worst_of = |seed: u64| {
            let mut arcs: HashMap<u64, f64> = HashMap::new();
            for (identity, arc) in Ring::new(members(count, seed, |_| 1)).arcs() {
                *arcs.entry(identity).or_default() += arc as f64;
            }
            assert_eq!(arcs.len(), count);
            let fair = 2f64.powi(64) / count as f64;
            arcs.values().map(|arc| (arc / fair - 1.0).abs()).fold(0.0, f64::max)
        };
        let worst: Vec<f64> = (0..100).map(|seed| worst_of(1000 + seed)).collect();
        let within = worst.iter().filter(|worst| **worst <= bound).count();
        println!(
            "{count} members: {within} of 100 rings within {bound}, the worst {:.3}",
            worst.iter().copied().fold(0.0, f64::max)
        );
        assert!(within >= 99, "{within} of 100 rings of {count}");
    }
}

#[test]
fn a_network_is_one_client_and_weight_0_comes_last() {
    let ring = Ring::new(vec![(1, 5), (2, 0), (3, 5)]);
    let at = |client: &str| ring.places(client.parse().unwrap());
    assert_eq!(at("10.1.2.3"), at("10.1.2.250"));
    assert_eq!(at("2001:db8:1:200::1"), at("2001:db8:1:2ff::9"));
    let other: Vec<_> = (0..64).map(|third| at(&format!("10.1.{third}.3"))).collect();
    assert!(other.iter().any(|places| *places != other[0]), "all networks are alike");
    assert!(other.iter().all(|places| !places.contains_key(&2)));
    let nobody = Ring::new(vec![(1, 0), (2, 0)]);
    assert_eq!(nobody.places(Ipv6Addr::LOCALHOST.into()).len(), 2);
    assert!(Ring::new(Vec::new()).places(Ipv4Addr::LOCALHOST.into()).is_empty());
    assert!(ring.is_of(&[(3, 5), (1, 5), (2, 0)]) && !ring.is_of(&[(3, 5), (1, 5)]));
}

#[test]
fn enormous_weights_and_crowds_stay_within_bounds() {
    let heavy = Ring::new(vec![(1, 1), (2, 65_535)]);
    assert_eq!(heavy.places(Ipv4Addr::LOCALHOST.into()).len(), 2);
    assert_eq!(heavy.arcs().len(), POINTS + 1);
    let crowd = members(70_000, 9, |_| 1);
    assert_eq!(Ring::new(crowd).arcs().len(), 70_000);
    let mut items = [(0, u64::from(u16::MAX)), (1, 1)];
    shuffle(&mut items, |item| item.1, &mut Draws::new(1));
}

/// What HAProxy makes of a weight in an SRV record.
fn in_haproxy(weight: u16) -> u32 {
    u32::from(weight) / 256 + 1
}

#[test]
fn haproxy_computes_the_weights_that_were_meant() {
    for weight in 1..=256 {
        assert_eq!(in_haproxy(Scale::haproxy(256).weight(weight)), u32::from(weight));
        assert_eq!(Scale::default().weight(weight), weight);
    }
    let scale = Scale::haproxy(60_000);
    for (weight, meant) in [(60_000, 256), (30_000, 128), (20_000, 85), (1, 1), (0, 1)] {
        assert_eq!(in_haproxy(scale.weight(weight)), meant, "{weight}");
    }
}

#[test]
fn the_words_of_a_balance_are_read_as_they_are_shown() {
    for policy in Policy::ALL {
        for one in [false, true] {
            let balance = Balance { policy, one };
            assert_eq!(Balance::parse(&balance.to_string()), Some(balance));
        }
    }
    for text in ["", "random", "one:", "one:one", "two:rotate", "Rotate", "one:rotate:first"] {
        assert_eq!(Balance::parse(text), None, "{text}");
    }
}

#[test]
fn a_region_is_that_of_the_longest_network() {
    let regions: Vec<Region> = [("eu", "10.1.0.0/16"), ("lab", "10.1.7.0/24"), ("eu", "2001:db8::/32")]
        .map(|(name, network)| Region { name: name.into(), network: network.parse().unwrap() })
        .to_vec();
    let of = |address: &str| region_of(&regions, address.parse().unwrap());
    assert_eq!(of("10.1.7.9"), Some("lab"));
    assert_eq!(of("10.1.8.9"), Some("eu"));
    assert_eq!(of("2001:db8::1"), Some("eu"));
    assert_eq!(of("10.2.0.1"), None);
}
