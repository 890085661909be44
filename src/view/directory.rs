//! The names of all services, in order, so that a change copies a few of them.

use std::sync::Arc;

use crate::name::ServiceName;

/// Names in one chunk of the directory: what the appearance of a service copies.
const CHUNK_MAX: usize = 256;

/// The names of all known services in order, in chunks that changes share.
#[derive(Debug, Default)]
pub struct Directory {
    chunks: Vec<Arc<Vec<ServiceName>>>,
}

impl Directory {
    /// A directory of these names, which are in order.
    pub fn of(names: &[ServiceName]) -> Self {
        Self { chunks: names.chunks(CHUNK_MAX / 2).map(|chunk| Arc::new(chunk.to_vec())).collect() }
    }

    pub fn names(&self) -> impl Iterator<Item = &ServiceName> {
        self.chunks.iter().flat_map(|chunk| chunk.iter())
    }

    /// The names that are not before `from`.
    pub fn names_from<'a>(&'a self, from: &'a str) -> impl Iterator<Item = &'a ServiceName> {
        let start =
            self.chunks.partition_point(|chunk| chunk.last().is_some_and(|last| last.as_str() < from));
        self.chunks[start..]
            .iter()
            .flat_map(|chunk| chunk.iter())
            .skip_while(move |name| name.as_str() < from)
    }

    pub fn len(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// The chunk that `name` is in or belongs into.
    fn chunk_of(&self, name: &ServiceName) -> usize {
        let at = self.chunks.partition_point(|chunk| chunk.last().is_some_and(|last| last < name));
        at.min(self.chunks.len().saturating_sub(1))
    }

    pub fn with(&self, name: &ServiceName) -> Self {
        let mut chunks = self.chunks.clone();
        if chunks.is_empty() {
            return Self { chunks: vec![Arc::new(vec![name.clone()])] };
        }
        let at = self.chunk_of(name);
        let mut chunk = chunks[at].to_vec();
        if let Err(position) = chunk.binary_search(name) {
            chunk.insert(position, name.clone());
        }
        if chunk.len() > CHUNK_MAX {
            let upper = chunk.split_off(CHUNK_MAX / 2);
            chunks.insert(at + 1, Arc::new(upper));
        }
        chunks[at] = Arc::new(chunk);
        Self { chunks }
    }

    pub fn without(&self, name: &ServiceName) -> Self {
        let mut chunks = self.chunks.clone();
        let at = self.chunk_of(name);
        if let Some(chunk) = chunks.get_mut(at) {
            let rest: Vec<ServiceName> = chunk.iter().filter(|known| *known != name).cloned().collect();
            if rest.is_empty() {
                chunks.remove(at);
            } else {
                *chunk = Arc::new(rest);
            }
        }
        Self { chunks }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ServiceName {
        ServiceName::parse(text).unwrap()
    }

    #[test]
    fn the_directory_keeps_its_order_through_splits_and_removals() {
        let mut directory = Directory::default();
        let names: Vec<ServiceName> = (0..2000).map(|n| name(&format!("s{}", n * 7919 % 2000))).collect();
        for name in &names {
            directory = directory.with(name).with(name);
        }
        let mut sorted = names.clone();
        sorted.sort_unstable();
        assert!(directory.names().eq(sorted.iter()));
        assert!(directory.names_from("s5").eq(sorted.iter().filter(|name| name.as_str() >= "s5")));
        assert!(directory.chunks.iter().all(|chunk| chunk.len() <= CHUNK_MAX));
        for name in &names[..1999] {
            directory = directory.without(name);
        }
        assert_eq!(directory.names().collect::<Vec<_>>(), [&names[1999]]);
        assert!(directory.without(&names[1999]).is_empty());
    }
}
