//! The names of all services, in order.

use crate::name::ServiceName;
use crate::sorted::Sorted;

/// The names of all known services in order; a copy shares them.
#[derive(Clone, Debug, Default)]
pub struct Directory(Sorted<ServiceName>);

impl Directory {
    /// A directory of these names, which are in order.
    pub fn of(names: &[ServiceName]) -> Self {
        Self(Sorted::of(names))
    }

    pub fn names(&self) -> impl Iterator<Item = &ServiceName> {
        self.0.iter()
    }

    /// The names that are not before `from`.
    pub fn names_from<'a>(&'a self, from: &'a str) -> impl Iterator<Item = &'a ServiceName> {
        self.0.from(move |name| name.as_str() < from)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn insert(&mut self, name: &ServiceName) {
        self.0.insert(name.clone());
    }

    pub fn remove(&mut self, name: &ServiceName) {
        self.0.remove(name);
    }
}
