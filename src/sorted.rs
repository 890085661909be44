//! A sorted set whose copies share what they have in common.
//!
//! A copy costs one count, and a change to a copy three short lists, however large the set is: so the registry goes
//! on from its own copy while queries read theirs. Entries are in leaves, leaves in branches, all behind an `Arc`;
//! what nobody else holds is changed in place.

use std::sync::Arc;

/// Entries of one leaf, and leaves of one branch: a change copies so many, and a million entries have some 200
/// branches.
const LEAF_MAX: usize = 64;
const BRANCH_MAX: usize = 128;

type Leaf<T> = Arc<Vec<T>>;
type Branch<T> = Arc<Vec<Leaf<T>>>;

/// See the module's own words.
#[derive(Clone, Debug)]
pub struct Sorted<T> {
    /// None of them is empty, and no leaf in them.
    branches: Arc<Vec<Branch<T>>>,
}

impl<T> Default for Sorted<T> {
    fn default() -> Self {
        Self { branches: Arc::default() }
    }
}

impl<T: Ord + Clone> Sorted<T> {
    /// The set of these entries, which are in order and different.
    pub fn of(entries: &[T]) -> Self {
        let leaves: Vec<Leaf<T>> =
            entries.chunks(LEAF_MAX / 2).map(|entries| Arc::new(entries.to_vec())).collect();
        let branches = leaves.chunks(BRANCH_MAX / 2).map(|leaves| Arc::new(leaves.to_vec())).collect();
        Self { branches: Arc::new(branches) }
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.branches.iter().flat_map(|branch| branch.iter()).flat_map(|leaf| leaf.iter())
    }

    /// The entries from the first on that is not `before`, which is true of the front of the set alone.
    pub fn from(&self, before: impl Fn(&T) -> bool) -> impl Iterator<Item = &T> {
        let ends_before = |leaf: &Leaf<T>| leaf.last().is_some_and(&before);
        let branches = self.branches.partition_point(|branch| branch.last().is_some_and(ends_before));
        let rest = &self.branches[branches..];
        let leaves = rest.first().map_or(0, |branch| branch.partition_point(ends_before));
        let leaf = rest.first().and_then(|branch| branch.get(leaves));
        let entries = leaf.map_or(0, |leaf| leaf.partition_point(&before));
        rest.iter().flat_map(|branch| branch.iter()).skip(leaves).flat_map(|leaf| leaf.iter()).skip(entries)
    }

    pub fn len(&self) -> usize {
        self.branches.iter().flat_map(|branch| branch.iter()).map(|leaf| leaf.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.branches.is_empty()
    }

    /// The branch and the leaf that `entry` is in or belongs into; there is one at least.
    fn place(&self, entry: &T) -> (usize, usize) {
        let ends_before = |leaf: &Leaf<T>| leaf.last().is_some_and(|last| last < entry);
        let branch = self.branches.partition_point(|branch| branch.last().is_some_and(ends_before));
        let branch = branch.min(self.branches.len() - 1);
        let leaves = &self.branches[branch];
        (branch, leaves.partition_point(ends_before).min(leaves.len() - 1))
    }

    /// False where it was there.
    pub fn insert(&mut self, entry: T) -> bool {
        if self.is_empty() {
            *self = Self { branches: Arc::new(vec![Arc::new(vec![Arc::new(vec![entry])])]) };
            return true;
        }
        let (branch_at, leaf_at) = self.place(&entry);
        let Err(at) = self.branches[branch_at][leaf_at].binary_search(&entry) else { return false };
        let branches = Arc::make_mut(&mut self.branches);
        let branch = Arc::make_mut(&mut branches[branch_at]);
        let leaf = Arc::make_mut(&mut branch[leaf_at]);
        leaf.reserve_exact(1); // doubled, a million entries would have room for another million
        leaf.insert(at, entry);
        if leaf.len() > LEAF_MAX {
            let upper = leaf.split_off(LEAF_MAX / 2);
            leaf.shrink_to_fit();
            branch.insert(leaf_at + 1, Arc::new(upper));
        }
        if branch.len() > BRANCH_MAX {
            let upper = branch.split_off(BRANCH_MAX / 2);
            branches.insert(branch_at + 1, Arc::new(upper));
        }
        true
    }

    /// False where it was not there.
    pub fn remove(&mut self, entry: &T) -> bool {
        if self.is_empty() {
            return false;
        }
        let (branch_at, leaf_at) = self.place(entry);
        let Ok(at) = self.branches[branch_at][leaf_at].binary_search(entry) else { return false };
        let branches = Arc::make_mut(&mut self.branches);
        let branch = Arc::make_mut(&mut branches[branch_at]);
        let leaf = Arc::make_mut(&mut branch[leaf_at]);
        leaf.remove(at);
        if leaf.is_empty() {
            branch.remove(leaf_at);
        }
        if branch.is_empty() {
            branches.remove(branch_at);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 20, failure_persistence: None, ..ProptestConfig::default() })]

        /// Long enough that leaves and branches split and empty, and old copies stay what they were.
        #[test]
        fn it_is_a_sorted_set_and_its_copies_stay(
            seed in any::<u64>(), range in 1u64..40_000, start in 0u64..20_000
        ) {
            let first: Vec<u64> = (0..start).collect();
            let (mut set, mut model) = (Sorted::of(&first), first.into_iter().collect::<BTreeSet<_>>());
            let mut copies = Vec::new();
            let mut draws = crate::balance::Draws::new(seed);
            for step in 0..40_000u64 {
                let entry = draws.next_u64() % range;
                // It grows at first, and shrinks in the second half.
                if draws.next_u64().is_multiple_of(3) == (step < 20_000) {
                    assert_eq!(set.remove(&entry), model.remove(&entry));
                } else {
                    assert_eq!(set.insert(entry), model.insert(entry));
                }
                if step % 10_000 == 0 {
                    copies.push((set.clone(), model.clone()));
                }
            }
            copies.push((set, model));
            for (set, model) in copies {
                assert!(set.iter().eq(model.iter()));
                assert_eq!((set.len(), set.is_empty()), (model.len(), model.is_empty()));
                for from in [0, range / 3, range / 2, range] {
                    assert!(set.from(|entry| *entry < from).eq(model.range(from..)));
                }
                for branch in set.branches.iter() {
                    assert!((1..=BRANCH_MAX).contains(&branch.len()));
                    assert!(branch.iter().all(|leaf| (1..=LEAF_MAX).contains(&leaf.len())));
                }
            }
        }
    }
}
