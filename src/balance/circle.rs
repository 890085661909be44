//! The nodes on a circle: which of them takes over what has no owner, and which one probes what.
//!
//! A thing is placed by its name, an instance by its whole one (`web/web-1@m1`): the same id on a thousand hosts is a thousand
//! places. Leases that a dead node left, guards and probes all ask this circle. Every node makes the same one of the same members.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::ring::{Ring, SLOTS, hash_of};
use crate::name::fnv;

/// See the module's own words.
#[derive(Debug)]
pub struct Circle {
    /// By their identities on the ring.
    names: HashMap<u64, Arc<str>>,
    ring: Ring,
    /// Which slots are ours; none is there where there is no node.
    ours: Vec<bool>,
}

/// Where a name lies, and whose it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Placed {
    pub hash: u64,
    /// Below [`SLOTS`].
    pub slot: usize,
    pub owner: Arc<str>,
    /// Who has it when the owner leaves; `None` where there is nobody else.
    pub next: Option<Arc<str>>,
}

impl Placed {
    /// The place of the slot on the circle: from 0 on, below 1.
    pub fn place(&self) -> f64 {
        self.slot as f64 / SLOTS as f64
    }
}

impl Circle {
    /// Of nodes by their names; `own` is ours, which may be none of them.
    pub fn new(own: &Arc<str>, nodes: impl Iterator<Item = Arc<str>>) -> Self {
        let names: HashMap<u64, Arc<str>> = nodes.map(|name| (fnv(&[name.as_bytes()]), name)).collect();
        let ring = Ring::new(names.keys().map(|identity| (*identity, 1)).collect());
        let own_identity = fnv(&[own.as_bytes()]);
        let ours = ring.slot_owners().map(|owner| owner == own_identity).collect();
        Self { names, ring, ours }
    }

    /// Where a name lies; `None` where there is no node.
    pub fn placed(&self, id: &str) -> Option<Placed> {
        let hash = hash_of(id);
        let slot = (hash % SLOTS as u64) as usize;
        let (owner, next) = self.ring.owners(slot)?;
        let next = (next != owner).then(|| self.names[&next].clone());
        Some(Placed { hash, slot, owner: self.names[&owner].clone(), next })
    }

    /// True where it is our node that the circle names.
    pub fn is_ours(&self, id: &str) -> bool {
        let slot = hash_of(id) % SLOTS as u64;
        self.ours.get(slot as usize).copied().unwrap_or_default()
    }

    /// How many slots each node has, by name.
    pub fn slots(&self) -> BTreeMap<Arc<str>, usize> {
        let slots = self.ring.slots();
        let of = |identity| slots.get(identity).copied().unwrap_or_default();
        self.names.iter().map(|(identity, name)| (name.clone(), of(identity))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circle(own: &str, names: &[String]) -> Circle {
        Circle::new(&own.into(), names.iter().map(|name| name.as_str().into()))
    }

    fn names(count: usize, seed: usize) -> Vec<String> {
        (0..count).map(|node| format!("node-{seed}-{node}")).collect()
    }

    /// Whose each slot is.
    fn owners(circle: &Circle) -> Vec<(&str, &str)> {
        let owner = |slot| circle.ring.owners(slot).map(|(owner, next)| [owner, next]);
        let named = |slot| owner(slot).expect("there are nodes").map(|identity| &*circle.names[&identity]);
        (0..SLOTS).map(named).map(|[owner, next]| (owner, next)).collect()
    }

    #[test]
    fn slots_are_nearly_fair() {
        for (count, bound) in [(2, 0.10), (3, 0.10), (4, 0.10), (5, 0.10), (10, 0.12)] {
            let fair = SLOTS as f64 / count as f64;
            let worst_of = |seed: usize| {
                let slots = circle("", &names(count, seed)).slots();
                assert_eq!((slots.len(), slots.values().sum::<usize>()), (count, SLOTS));
                slots.values().map(|slots| (*slots as f64 / fair - 1.0).abs()).fold(0.0, f64::max)
            };
            let worst: Vec<f64> = (0..100).map(worst_of).collect();
            let within = worst.iter().filter(|worst| **worst <= bound).count();
            let most = worst.iter().copied().fold(0.0, f64::max);
            println!("{count} nodes: {within} of 100 circles within {bound}, the worst {most:.3}");
            assert!(within >= 99, "{within} of 100 circles of {count}");
        }
    }

    #[test]
    fn only_slots_whose_owner_changed_move() {
        for seed in 0..5 {
            for count in 2..=10 {
                let all = names(count, seed);
                let (more, less) = (circle("", &all), circle("", &all[1..]));
                let mut moved = 0;
                // Read one way a node leaves, read the other way one joins.
                for ((owner, next), (without, _)) in owners(&more).into_iter().zip(owners(&less)) {
                    match owner == all[0] {
                        true => assert_eq!(without, next, "to the one that is next"),
                        false => assert_eq!(without, owner, "it moved, and its owner stays"),
                    }
                    moved += usize::from(owner == all[0]);
                }
                assert_eq!(moved, more.slots()[all[0].as_str()], "all of its slots, and no other");
            }
        }
    }

    #[test]
    fn what_is_placed_is_one_nodes_and_the_same_at_all() {
        let all = names(3, 7);
        let circles: Vec<Circle> = all.iter().map(|own| circle(own, &all)).collect();
        for number in 0..1000 {
            let id = format!("web/web@m{number}");
            let ours = all.iter().zip(&circles).filter(|(_, circle)| circle.is_ours(&id));
            let owners: Vec<&str> = ours.map(|(name, _)| name.as_str()).collect();
            assert_eq!(owners, [&*placed(&circles[0], &id).owner]);
            let there = placed(&circles[0], &id);
            assert_eq!((there.slot as u64, there.clone()), (there.hash % 16_384, placed(&circles[2], &id)));
            assert!((0.0..1.0).contains(&there.place()));
            let without: Vec<String> = all.iter().filter(|name| **name != *there.owner).cloned().collect();
            assert_eq!(Some(placed(&circle("", &without), &id).owner), there.next);
        }
    }

    fn placed(circle: &Circle, id: &str) -> Placed {
        circle.placed(id).expect("there are nodes")
    }

    #[test]
    fn one_has_all_and_nobody_has_nothing() {
        let alone = circle("a", &["a".to_owned()]);
        assert!(alone.is_ours("web") && placed(&alone, "web").next.is_none());
        assert_eq!(alone.slots()["a"], SLOTS);
        let nobody = circle("a", &[]);
        assert!(!nobody.is_ours("web") && nobody.placed("web").is_none());
        assert!(!circle("b", &["a".to_owned()]).is_ours("web"), "a node that is no member has nothing");
    }

    /// They are agreed on by nodes of different versions: who changes them changes whose everything is.
    #[test]
    fn places_are_the_same_in_every_version() {
        let circle = circle("a", &["a", "b", "c"].map(str::to_owned));
        let told = ["web-1", "web/web-1@m1", "m1"].map(|id| {
            let Placed { hash, slot, owner, next } = placed(&circle, id);
            format!("{id} {hash:016x} {slot} {owner} {}", next.unwrap_or_default())
        });
        let known = [
            "web-1 5743426c69243ab1 15025 c b",
            "web/web-1@m1 0a107de81c6a72b5 12981 c a",
            "m1 f48c408d5d82d676 5750 b c",
        ];
        assert_eq!(told, known);
    }
}
