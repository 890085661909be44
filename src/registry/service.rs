//! What the registry holds of one service.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::{Arc, LazyLock};

use super::Reason;
use crate::instance::{Instance, Key, Transport};
use crate::member::{Member, Members};
use crate::name::{Label, Tag};
use crate::time::Wall;

/// The tags of a service that has none; one set for all of them.
static NO_LABELS: LazyLock<Arc<BTreeSet<Label>>> = LazyLock::new(Arc::default);
static NO_TEXTS: LazyLock<Arc<BTreeSet<Tag>>> = LazyLock::new(Arc::default);

/// An instance that left, as long as it is remembered.
#[derive(Clone, Debug)]
pub struct Gone {
    pub instance: Arc<Instance>,
    pub reason: Reason,
    pub at: Wall,
    /// That of the change by which it left.
    pub revision: u64,
}

/// One service: its instances, those that left, and the tags of both.
#[derive(Debug, Default)]
pub struct Service {
    pub members: Members,
    /// None where nobody left.
    past: Option<Box<Past>>,
    /// None where no instance has a tag.
    tags: Option<Box<Tags>>,
    /// Ports of every instance that is registered or remembered, by transport.
    ports: [u32; Transport::ALL.len()],
    /// Their names; none where no port has one.
    port_names: Option<Box<[Counted<Arc<str>>; Transport::ALL.len()]>>,
}

#[derive(Debug, Default)]
struct Past {
    /// Those that left, by their turns: oldest first.
    gone: BTreeMap<u64, Gone>,
    /// The turn of each of them.
    turns: BTreeMap<Key, u64>,
}

/// Which ports the instances of a service have, registered or remembered: what decides which names of ports exist.
#[derive(Clone, Debug)]
pub struct Ports {
    any: [bool; Transport::ALL.len()],
    /// None where no port has a name.
    named: Option<Box<[Names; Transport::ALL.len()]>>,
}

type Names = Arc<BTreeSet<Arc<str>>>;

impl Ports {
    pub fn any(&self, transport: Transport) -> bool {
        self.any[transport as usize]
    }

    pub fn any_named(&self, transport: Transport) -> bool {
        self.named(transport).is_some_and(|names| !names.is_empty())
    }

    pub fn has(&self, name: &str, transport: Transport) -> bool {
        self.named(transport).is_some_and(|names| names.contains(name))
    }

    fn named(&self, transport: Transport) -> Option<&Names> {
        self.named.as_ref().map(|named| &named[transport as usize])
    }
}

#[derive(Debug, Default)]
struct Tags {
    /// Of every instance that is registered or remembered, as labels.
    known: Counted<Label>,
    /// Of its registered instances, as they are spelt.
    listed: Counted<Tag>,
}

/// A set whose entries count how often they were put in; copies of the set are shared until it changes.
#[derive(Debug)]
struct Counted<T> {
    counts: HashMap<T, u32>,
    set: Arc<BTreeSet<T>>,
}

impl<T> Default for Counted<T> {
    fn default() -> Self {
        Self { counts: HashMap::new(), set: Arc::default() }
    }
}

impl<T: Clone + Eq + Hash + Ord> Counted<T> {
    fn put(&mut self, entry: &T) {
        match self.counts.get_mut(entry) {
            Some(count) => *count += 1,
            None => {
                self.counts.insert(entry.clone(), 1);
                Arc::make_mut(&mut self.set).insert(entry.clone());
            }
        }
    }

    fn take(&mut self, entry: &T) {
        let Some(count) = self.counts.get_mut(entry) else { return };
        *count -= 1;
        if *count == 0 {
            self.counts.remove(entry);
            Arc::make_mut(&mut self.set).remove(entry);
        }
    }
}

impl Service {
    pub fn instance(&self, key: &Key) -> Option<&Arc<Instance>> {
        self.members.by_key(key).map(|member| &member.instance)
    }

    /// Those that left, oldest first.
    pub fn gone(&self) -> impl DoubleEndedIterator<Item = &Gone> {
        self.past.iter().flat_map(|past| past.gone.values())
    }

    /// What left under this key, and its turn among all that left.
    pub(super) fn gone_by_key(&self, key: &Key) -> Option<(u64, &Gone)> {
        let past = self.past.as_ref()?;
        let turn = *past.turns.get(key)?;
        Some((turn, past.gone.get(&turn)?))
    }

    pub(super) fn gone_at(&self, turn: u64) -> Option<&Gone> {
        self.past.as_ref()?.gone.get(&turn)
    }

    /// The tags of every instance that is registered or remembered, as labels.
    pub fn known_tags(&self) -> Arc<BTreeSet<Label>> {
        self.tags.as_ref().map_or_else(|| NO_LABELS.clone(), |tags| tags.known.set.clone())
    }

    /// The tags of its registered instances as they are spelt.
    pub fn listed_tags(&self) -> Arc<BTreeSet<Tag>> {
        self.tags.as_ref().map_or_else(|| NO_TEXTS.clone(), |tags| tags.listed.set.clone())
    }

    pub fn ports(&self) -> Ports {
        let named = self
            .port_names
            .as_ref()
            .map(|names| Box::new(Transport::ALL.map(|transport| names[transport as usize].set.clone())));
        Ports { any: self.ports.map(|count| count > 0), named }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty() && self.past.is_none()
    }

    /// Puts a member in; `before` is what its label led to.
    pub(super) fn put(&mut self, before: Option<&Arc<Instance>>, member: Member) {
        // The new ones first: a set that is the same afterwards is not copied.
        self.count_known(&member.instance, true);
        self.count_listed(&member.instance, true);
        if let Some(before) = before {
            self.count_known(before, false);
            self.count_listed(before, false);
        }
        self.members.put(member);
    }

    /// Takes an instance out and remembers it; what was forgotten for it.
    pub(super) fn leave(&mut self, gone: Gone, most: usize) -> Vec<Gone> {
        self.count_listed(&gone.instance, false);
        self.members.remove(gone.instance.label.as_str());
        // Known it stays, as the one that is gone.
        let (known, forgotten) = (gone.instance.clone(), self.remember(gone, most));
        self.count_known(&known, false);
        forgotten
    }

    /// Remembers an instance that left, of `most` in all; what was forgotten for it.
    pub(super) fn remember(&mut self, gone: Gone, most: usize) -> Vec<Gone> {
        self.count_known(&gone.instance, true);
        // What left twice is remembered as it left last.
        let mut forgotten: Vec<Gone> = self.forget(&gone.instance.key).into_iter().collect();
        let past = self.past.get_or_insert_default();
        let turn = past.gone.last_key_value().map_or(0, |(last, _)| last + 1);
        past.turns.insert(gone.instance.key.clone(), turn);
        past.gone.insert(turn, gone);
        forgotten.extend(self.keep(most));
        forgotten
    }

    /// Remembers no more than `most`; what was forgotten, the oldest.
    pub(super) fn keep(&mut self, most: usize) -> Vec<Gone> {
        let over = self.past.as_ref().map_or(0, |past| past.gone.len()).saturating_sub(most);
        let oldest: Vec<Key> = self.gone().take(over).map(|gone| gone.instance.key.clone()).collect();
        oldest.iter().filter_map(|key| self.forget(key)).collect()
    }

    /// Takes `key` out of what is remembered.
    pub(super) fn forget(&mut self, key: &Key) -> Option<Gone> {
        let past = self.past.as_mut()?;
        let gone = past.turns.remove(key).and_then(|turn| past.gone.remove(&turn))?;
        if past.gone.is_empty() {
            self.past = None;
        }
        self.count_known(&gone.instance, false);
        Some(gone)
    }

    fn count_known(&mut self, instance: &Instance, more: bool) {
        for label in instance.tags.iter().filter_map(Tag::label) {
            self.count(more, |tags| if more { tags.known.put(label) } else { tags.known.take(label) });
        }
        for port in instance.ports.iter() {
            let count = &mut self.ports[port.transport as usize];
            *count = if more { *count + 1 } else { *count - 1 };
            let Some(name) = &port.name else { continue };
            let names = &mut self.port_names.get_or_insert_default()[port.transport as usize];
            if more { names.put(name) } else { names.take(name) }
        }
        if self.port_names.as_ref().is_some_and(|names| names.iter().all(|names| names.counts.is_empty())) {
            self.port_names = None;
        }
    }

    fn count_listed(&mut self, instance: &Instance, more: bool) {
        for tag in &instance.tags {
            self.count(more, |tags| if more { tags.listed.put(tag) } else { tags.listed.take(tag) });
        }
    }

    fn count(&mut self, more: bool, count: impl FnOnce(&mut Tags)) {
        if more {
            count(self.tags.get_or_insert_default());
        } else if let Some(tags) = &mut self.tags {
            count(tags);
            if tags.known.counts.is_empty() && tags.listed.counts.is_empty() {
                self.tags = None;
            }
        }
    }
}
