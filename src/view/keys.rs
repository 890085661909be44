//! Small indexes from something to the instances that have it.

use std::hash::Hash;
use std::sync::Arc;

use crate::instance::Key;

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
