//! A consistent-hash ring with virtual nodes (Karger et al., 1997): which instances a client keeps.
//!
//! Every member has points on a circle of 64 bits, as many as its weight is worth. A client's network is a place on the
//! circle, and the members are taken in the order in which they are met from there on. One that leaves takes its
//! points along, so that only the clients in front of them move; where a point lies depends on the member alone.

use std::collections::HashMap;
use std::net::IpAddr;

use super::{FEW, mix, network_of};
use crate::name::fnv;

/// Points of the heaviest member: with a thousand the worst share of five members is within a tenth of fair.
pub const POINTS: usize = 1000;
/// Points of one ring, 1 MiB of them: with more than 65 members each has fewer, and at least one.
const RING_POINTS_MAX: usize = 65_536;

/// See the module's own words.
#[derive(Debug, PartialEq)]
pub struct Ring {
    /// Identity and weight of each member, in order: what the ring was made of.
    members: Vec<(u64, u64)>,
    /// Places on the circle and the numbers of the members whose they are, in order.
    points: Vec<(u64, u32)>,
    /// Members that have points.
    placed: usize,
}

impl Ring {
    /// The ring of `members`, each an identity and a weight. Weight 0 has no point and comes after all others, unless
    /// nobody weighs anything.
    pub fn new(mut members: Vec<(u64, u64)>) -> Self {
        members.sort_unstable();
        let heaviest = members.iter().map(|(_, weight)| *weight).max().unwrap_or_default();
        let most = POINTS.min(RING_POINTS_MAX / members.len().max(1)).max(1);
        let placed = members.iter().filter(|(_, weight)| heaviest == 0 || *weight > 0).count();
        let mut points: Vec<(u64, u32)> = Vec::new();
        for (number, (identity, weight)) in (0..).zip(&members) {
            let count = match (heaviest, weight) {
                (0, _) => most as u64,
                (_, 0) => 0,
                // The points of a lighter one are the first of those it would have: a change of weight moves few.
                (heaviest, weight) => (most as u64 * weight / heaviest).max(1),
            };
            points.extend((0..count).map(|point| (mix(mix(*identity) ^ mix(!point)), number)));
        }
        points.sort_unstable();
        Self { members, points, placed }
    }

    /// True where a ring of these members, in any order, would be this one.
    pub fn is_of(&self, members: &[(u64, u64)]) -> bool {
        let mut members = members.to_vec();
        members.sort_unstable();
        self.members == members
    }

    /// The place of each member in the order of `client`'s network, by identity; who has no point is not there.
    pub fn places(&self, client: IpAddr) -> HashMap<u64, usize> {
        let mut places = HashMap::with_capacity(self.placed);
        for number in self.met(client) {
            let next = places.len();
            places.entry(self.members[number].0).or_insert(next);
            if places.len() == self.placed {
                break;
            }
        }
        places
    }

    /// As `places`, by the members' numbers and without an allocation; `u8::MAX` for who has no point, and none where there
    /// are too many for that.
    pub fn places_of_few(&self, client: IpAddr) -> Option<[u8; FEW]> {
        if self.members.len() > FEW {
            return None;
        }
        let (mut places, mut next) = ([u8::MAX; FEW], 0);
        for number in self.met(client) {
            if places[number] == u8::MAX {
                places[number] = next;
                next += 1;
                if usize::from(next) == self.placed {
                    break;
                }
            }
        }
        Some(places)
    }

    /// The number of a member.
    pub fn number_of(&self, identity: u64) -> Option<u32> {
        self.members
            .binary_search_by_key(&identity, |(identity, _)| *identity)
            .ok()
            .map(|number| number as u32)
    }

    /// The number of the member of each point, from the place of `client`'s network on, once around.
    fn met(&self, client: IpAddr) -> impl Iterator<Item = usize> {
        let (network, octets) = network_of(client);
        let from = mix(fnv(&[&octets[..network]]));
        let first = self.points.partition_point(|(point, _)| *point < from);
        let points = self.points[first..].iter().chain(&self.points[..first]);
        points.map(|(_, number)| *number as usize)
    }

    /// The pieces of the circle, in order: whose a piece is, and how long. Together they are the whole.
    pub fn arcs(&self) -> Vec<(u64, u64)> {
        let last = self.points.last().map_or(0, |(point, _)| *point);
        let before = std::iter::once(last).chain(self.points.iter().map(|(point, _)| *point));
        before
            .zip(&self.points)
            .map(|(before, (point, number))| (self.members[*number as usize].0, point.wrapping_sub(before)))
            .collect()
    }
}
