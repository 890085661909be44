//! The names of a zone, in shards: an edit copies one of them.

use std::collections::HashMap;
use std::sync::Arc;

use super::Node;
use super::build::Kind;
use crate::name::fnv;

/// Parts that the names of a record tree are kept in: an UPDATE copies those that it touches, of 10,000 names some 40 each.
const SHARDS: usize = 256;

/// By name in lower-case wire form. Its parts are shared with the zones that were made of this one by `edited`.
#[derive(Clone, Debug)]
pub(super) struct Nodes(Vec<Arc<Shard>>);

pub(super) type Shard = HashMap<Arc<[u8]>, Arc<Node>>;

impl Nodes {
    /// Only a record tree is edited.
    pub(super) fn of(kind: Kind) -> Self {
        let shards = if kind == Kind::Tree { SHARDS } else { 1 };
        Self((0..shards).map(|_| Arc::default()).collect())
    }

    /// Names differ in their first label most.
    pub(super) fn shard(&self, lower: &[u8]) -> usize {
        match self.0.len() {
            1 => 0,
            shards => fnv(&[&lower[..=usize::from(lower[0])]]) as usize % shards,
        }
    }

    pub(super) fn get(&self, lower: &[u8]) -> Option<&Node> {
        self.0[self.shard(lower)].get(lower).map(|node| &**node)
    }

    pub(super) fn edit(&mut self, lower: &[u8]) -> Option<&mut Node> {
        let shard = self.shard(lower);
        Arc::make_mut(&mut self.0[shard]).get_mut(lower).map(Arc::make_mut)
    }

    pub(super) fn insert(&mut self, lower: Arc<[u8]>, node: Node) {
        let shard = self.shard(&lower);
        Arc::make_mut(&mut self.0[shard]).insert(lower, Arc::new(node));
    }

    pub(super) fn remove(&mut self, lower: &[u8]) {
        let shard = self.shard(lower);
        Arc::make_mut(&mut self.0[shard]).remove(lower);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Node> {
        self.0.iter().flat_map(|shard| shard.values()).map(|node| &**node)
    }
}
