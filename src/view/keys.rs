//! Small indexes from something to the instances that have it.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::instance::Key;
use crate::name::InstanceId;

/// The instances under one id or at one address: nearly always one, and sometimes thousands, where a
/// change must not copy them all.
#[derive(Clone)]
pub enum Keys {
    One(Key),
    Many(Arc<papaya::HashMap<Key, ()>>),
}

impl Keys {
    /// In order, so that an answer does not depend on a hash.
    pub fn sorted(&self) -> Vec<Key> {
        match self {
            Self::One(key) => vec![key.clone()],
            Self::Many(keys) => {
                let mut keys: Vec<Key> = keys.pin().keys().cloned().collect();
                keys.sort_unstable();
                keys
            }
        }
    }
}

/// One more of `of`, or one less; what none is left of is gone.
pub fn count<K: Hash + Eq + Clone>(counts: &papaya::HashMap<K, usize>, of: K, more: bool) {
    let counts = counts.pin();
    let now = counts.get(&of).copied().unwrap_or(0);
    match if more { now + 1 } else { now.saturating_sub(1) } {
        0 => counts.remove(&of),
        count => counts.insert(of, count),
    };
}

/// True where it is the first.
pub fn add_key<K: Hash + Eq>(index: &papaya::HashMap<K, Keys>, at: K, key: &Key) -> bool {
    let index = index.pin();
    match index.get(&at) {
        None => {
            index.insert(at, Keys::One(key.clone()));
            return true;
        }
        Some(Keys::Many(keys)) => {
            keys.pin().insert(key.clone(), ());
        }
        Some(Keys::One(first)) => {
            let keys = papaya::HashMap::new();
            keys.pin().insert(first.clone(), ());
            keys.pin().insert(key.clone(), ());
            index.insert(at, Keys::Many(Arc::new(keys)));
        }
    }
    false
}

/// True where it was the last.
pub fn remove_key<K: Hash + Eq>(index: &papaya::HashMap<K, Keys>, at: &K, key: &Key) -> bool {
    let index = index.pin();
    let empty = match index.get(at) {
        None => false,
        Some(Keys::One(only)) => only == key,
        Some(Keys::Many(keys)) => {
            keys.pin().remove(key);
            keys.is_empty()
        }
    };
    if empty {
        index.remove(at);
    }
    empty
}

/// The instances under each id: an entry is one of them, with all of them where there are several.
///
/// Every instance is in it, so nothing is in it twice: an entry has no id of its own.
#[derive(Default)]
pub struct Ids(papaya::HashMap<ById, Option<Arc<papaya::HashMap<Key, ()>>>>);

/// A key that is found by its id.
#[derive(Clone)]
struct ById(Key);

impl Borrow<InstanceId> for ById {
    fn borrow(&self) -> &InstanceId {
        &self.0.id
    }
}

impl Hash for ById {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.id.hash(state);
    }
}

impl PartialEq for ById {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for ById {}

impl Ids {
    pub fn reserve(&self, more: usize) {
        self.0.pin().reserve(more);
    }

    pub fn add(&self, key: &Key) {
        let ids = self.0.pin();
        match ids.get_key_value(&key.id) {
            None => drop(ids.insert(ById(key.clone()), None)),
            Some((_, Some(all))) => drop(all.pin().insert(key.clone(), ())),
            Some((ById(only), None)) => {
                let all = papaya::HashMap::new();
                all.pin().insert(only.clone(), ());
                all.pin().insert(key.clone(), ());
                ids.insert(ById(key.clone()), Some(Arc::new(all)));
            }
        }
    }

    pub fn remove(&self, key: &Key) {
        let ids = self.0.pin();
        let empty = match ids.get_key_value(&key.id) {
            None => false,
            Some((ById(only), None)) => only == key,
            Some((_, Some(all))) => {
                all.pin().remove(key);
                all.is_empty()
            }
        };
        if empty {
            ids.remove(&key.id);
        }
    }

    /// In order, so that an answer does not depend on a hash.
    pub fn sorted(&self, id: &InstanceId) -> Vec<Key> {
        let ids = self.0.pin();
        let mut keys = match ids.get_key_value(id) {
            None => Vec::new(),
            Some((ById(only), None)) => vec![only.clone()],
            Some((_, Some(all))) => all.pin().keys().cloned().collect(),
        };
        keys.sort_unstable();
        keys
    }
}
