//! A consistent-hash ring with virtual nodes (Karger et al., 1997): which instances a client keeps, and which node takes
//! over what another has left.
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

/// Slots that the circle of the nodes is cut into: each belongs to one node as a whole.
pub const SLOTS: usize = 16_384;

/// The hash of an id, the same in every version and on every machine: its slot is the rest of it by [`SLOTS`].
pub fn hash_of(id: &str) -> u64 {
    mix(fnv(&[id.as_bytes()]))
}

/// Where a slot lies on the circle.
fn place_of(slot: usize) -> u64 {
    slot as u64 * (u64::MAX / SLOTS as u64 + 1)
}

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

    /// Whose a slot is: it lies at `slot / SLOTS` of the circle, and belongs to the first point from there on. The second is
    /// who has it when the first leaves, itself where there is nobody else.
    pub fn owners(&self, slot: usize) -> Option<(u64, u64)> {
        let place = place_of(slot);
        let first = self.points.partition_point(|(point, _)| *point < place);
        let mut owners = self.points[first..]
            .iter()
            .chain(&self.points[..first])
            .map(|(_, number)| self.members[*number as usize].0);
        let owner = owners.next()?;
        Some((owner, owners.find(|identity| *identity != owner).unwrap_or(owner)))
    }

    /// Whose the slots are, one after the other.
    pub fn slot_owners(&self) -> impl Iterator<Item = u64> {
        let mut first = 0;
        (0..SLOTS).filter_map(move |slot| {
            first += self.points[first..].iter().take_while(|(point, _)| *point < place_of(slot)).count();
            let (_, number) = self.points.get(first).or(self.points.first())?;
            Some(self.members[*number as usize].0)
        })
    }

    /// How many slots each member has; who has none is not there.
    pub fn slots(&self) -> HashMap<u64, usize> {
        let mut slots = HashMap::new();
        for owner in self.slot_owners() {
            *slots.entry(owner).or_default() += 1;
        }
        slots
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

#[cfg(test)]
mod tests {
    use super::*;

    fn owners(members: &[u64]) -> Vec<u64> {
        let ring = Ring::new(members.iter().map(|member| (*member, 1)).collect());
        (0..SLOTS).map(|slot| ring.owners(slot).unwrap().0).collect()
    }

    #[test]
    fn a_member_that_leaves_moves_its_own_slots_alone_and_to_those_that_are_next() {
        let members: Vec<u64> = (0..5).map(|number| fnv(&[format!("node-{number}").as_bytes()])).collect();
        let (before, after) = (owners(&members), owners(&members[1..]));
        let ring = Ring::new(members.iter().map(|member| (*member, 1)).collect());
        for slot in 0..SLOTS {
            match before[slot] == members[0] {
                true => assert_eq!(after[slot], ring.owners(slot).unwrap().1, "{slot}"),
                false => assert_eq!(after[slot], before[slot], "{slot}"),
            }
        }
        for member in members {
            let share = ring.slots()[&member] as f64 / SLOTS as f64;
            assert!((0.17..0.23).contains(&share), "{share}");
        }
    }

    #[test]
    fn nobody_has_a_slot_where_there_is_nobody_and_one_has_all() {
        assert_eq!(Ring::new(Vec::new()).owners(7), None);
        assert_eq!(Ring::new(vec![(3, 1)]).owners(7), Some((3, 3)));
    }
}
