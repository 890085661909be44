//! The zones of files, and the record trees: what files hold, with what UPDATE set planted among it.

use std::collections::{HashMap, HashSet};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::file_replies::FileReplies;
use super::{Settings, View};
use crate::grammar::reverse;
use crate::name::{Apex, Name, ServiceName};
use crate::record::Type;
use crate::registry::{PlainSet, Registry};
use crate::zone::{Node as ZoneNode, Zone};

/// The zones that files hold.
#[derive(Clone, Debug, Default)]
pub struct Zones {
    /// Zones of their own.
    pub primary: Vec<Arc<Zone>>,
    /// Plain records beside the live services, by apex.
    pub trees: Vec<Arc<Zone>>,
}

impl Zones {
    /// Those of their own first.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Zone>> {
        self.primary.iter().chain(&self.trees)
    }
}

/// What has names below an apex besides the registry, the most of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Overlap {
    None,
    /// Plain records, where the registry has nothing.
    Tree,
    /// Another zone, which hides the registry there.
    Zone,
}

impl Overlap {
    pub(super) fn of(apex: &Apex, settings: &Settings, zones: &Zones) -> Self {
        let below = |name: &Name| name != apex.name() && name.is_within(apex.name());
        let mut others = zones.primary.iter().map(|zone| &zone.apex);
        let mut ours = settings.apexes.iter().chain(settings.consul.iter().map(|zone| &zone.apex));
        // Names of addresses, which nobody has below an apex of services.
        let reverse = !settings.reverse.is_empty() && apex.name().labels().last() == Some(b"arpa");
        if reverse || others.any(&below) || ours.any(|other| below(other.name())) {
            return Self::Zone;
        }
        match zones.trees.iter().any(|tree| tree.apex == *apex.name()) {
            true => Self::Tree,
            false => Self::None,
        }
    }
}

impl View {
    pub fn zones(&self) -> Arc<Zones> {
        self.zones.load_full()
    }

    /// Replies that are kept, of the zones as they are now.
    pub fn file_replies(&self) -> impl Deref<Target = Arc<FileReplies>> {
        let (zones, known) = (self.zones.load(), self.file_replies.load());
        if known.is_of(&zones) {
            return known;
        }
        let renewed = Arc::new(known.renewed(zones.clone()));
        let replaced = self.file_replies.swap(renewed.clone());
        // A record tree may change where nobody ever frees; that replaces none.
        if !replaced.shares(&renewed) {
            self.retired.take_replies(replaced);
        }
        arc_swap::Guard::from_inner(renewed)
    }

    /// What else has names below each apex, in the order of the apexes.
    pub fn overlaps(&self) -> impl Iterator<Item = Overlap> {
        self.overlaps.iter().zip(&self.grown).map(|(overlap, grown)| match overlap.load(Ordering::Acquire) {
            2 => Overlap::Zone,
            1 => Overlap::Tree,
            _ if grown.load(Ordering::Acquire) => Overlap::Tree,
            _ => Overlap::None,
        })
    }

    /// True of the apex of a zone of ours, and of every name above one.
    pub fn is_above_a_zone(&self, name: &Name) -> bool {
        let networks = self.settings.reverse.as_slice();
        self.is_above_a_domain(name.to_lowercase().as_wire())
            || !networks.is_empty() && reverse::is_above(name, networks)
    }

    /// The same for a name in lower-case wire form, names of addresses aside.
    pub fn is_above_a_domain(&self, name: &[u8]) -> bool {
        let Settings { apexes, consul, .. } = &self.settings;
        let mut live = apexes.iter().chain(consul.iter().map(|zone| &zone.apex));
        let is_above = |apex: &Apex| apex.name().suffixes().any(|suffix| suffix.eq_ignore_ascii_case(name));
        self.file_replies().is_above_a_zone(name) || live.any(is_above)
    }

    /// Puts the zones of other files in the place of those that are served: all of them in one swap, with what UPDATE
    /// set beside the records of the trees.
    pub fn set_zones(&self, registry: &Registry, zones: Zones) {
        let overlaps =
            self.settings.apexes.iter().map(|apex| Overlap::of(apex, &self.settings, &zones) as u8);
        let overlaps: Vec<u8> = overlaps.collect();
        // Until all is there, a query looks at more than it has to, and never at less.
        for (overlap, new) in self.overlaps.iter().zip(&overlaps) {
            overlap.fetch_max(*new, Ordering::AcqRel);
        }
        self.files.store(Arc::new(zones.trees.clone()));
        let planted = self.planted(registry, &zones, registry.plain().all());
        let new = Arc::new(planted.unwrap_or(zones));
        let old = self.zones.swap(new.clone());
        let replies = self.file_replies.load().renewed(new.clone());
        self.retired.take(self.file_replies.swap(Arc::new(replies)), &old, &new);
        for (overlap, new) in self.overlaps.iter().zip(overlaps) {
            overlap.store(new, Ordering::Release);
        }
    }

    /// Frees the zones that were served before `set_zones` and that nobody reads any more, which takes its time where they
    /// are large.
    pub fn free_zones(&self) {
        self.retired.free();
    }

    /// What is wrong with zone files: each a sentence with its file and line.
    pub fn zone_troubles(&self) -> Arc<Vec<Box<str>>> {
        self.zone_troubles.load_full()
    }

    pub fn set_zone_troubles(&self, troubles: Vec<Box<str>>) {
        self.zone_troubles.store(Arc::new(troubles));
    }

    /// Zone files were read while we serve: so many were taken over, and so many refused.
    pub fn note_zone_reads(&self, taken: u64, refused: u64) {
        self.zones_taken.fetch_add(taken, Ordering::Relaxed);
        self.zones_refused.fetch_add(refused, Ordering::Relaxed);
    }

    /// How many zone files were taken over since the start, and how many refused.
    pub fn zone_reads(&self) -> (u64, u64) {
        (self.zones_taken.load(Ordering::Relaxed), self.zones_refused.load(Ordering::Relaxed))
    }

    /// Puts what the registry has at the owners of these sets into the record trees.
    pub(super) fn plant<'a>(&self, registry: &Registry, sets: impl Iterator<Item = &'a Arc<PlainSet>>) {
        if let Some(zones) = self.planted(registry, &self.zones.load(), sets) {
            self.zones.store(Arc::new(zones));
        }
    }

    /// The same zones with what the registry has at the owners of these sets; none where there is no set.
    fn planted<'a>(
        &self,
        registry: &Registry,
        zones: &Zones,
        sets: impl Iterator<Item = &'a Arc<PlainSet>>,
    ) -> Option<Zones> {
        let mut owners: HashMap<&Name, Vec<&Name>> = HashMap::new();
        for set in sets {
            owners.entry(set.apex.name()).or_default().push(&set.owner);
        }
        if owners.is_empty() {
            return None;
        }
        let mut zones = zones.clone();
        for (apex, owners) in owners {
            // A domain that is served no more keeps what it has in the store.
            let Some(place) = self.settings.apexes.iter().position(|known| known.name() == apex) else {
                continue;
            };
            let free = owners.into_iter().filter(|owner| self.file_holds(apex, owner).is_none());
            let sets = free.map(|owner| {
                let sets = registry.plain().at(owner).iter().map(|set| set.set.clone());
                (owner.clone(), sets.collect())
            });
            match zones.trees.iter_mut().find(|tree| tree.apex == *apex) {
                Some(tree) => *tree = Arc::new(tree.edited(sets)),
                None => zones.trees.push(Arc::new(Zone::bare(apex).edited(sets))),
            }
            self.grown[place].store(true, Ordering::Release);
        }
        Some(zones)
    }

    /// The record tree of an apex as its file has it.
    pub(crate) fn file_of(&self, apex: &Name) -> Option<Arc<Zone>> {
        self.files.load().iter().find(|file| file.apex == *apex).cloned()
    }

    /// The node of the file that makes a name of the record tree the file's, where one does: it has records there, or
    /// a cut above it.
    pub fn file_holds(&self, apex: &Name, owner: &Name) -> Option<ZoneNode> {
        holder(&*self.file_of(apex)?, owner).cloned()
    }

    /// What UPDATE set that the files hide: their names came while the server was down.
    pub fn hidden<'r>(&self, registry: &'r Registry) -> Vec<&'r PlainSet> {
        let zones = self.zones();
        let primary = Apexes::of(&zones.primary);
        self.hidden_by(registry, &self.files.load(), &primary).map(|hidden| hidden.set).collect()
    }

    /// What UPDATE set that these zones would come to hide and those of now do not: the first in its file.
    pub fn newly_hidden<'r>(&self, registry: &'r Registry, zones: &Zones) -> Option<Hidden<'r>> {
        let served = self.zones();
        let (old, new) = (Apexes::of(&served.primary), Apexes::of(&zones.primary));
        let is_seen = |set: &PlainSet| {
            self.file_holds(set.apex.name(), &set.owner).is_none() && old.over(set).is_none()
        };
        let hidden = self.hidden_by(registry, &zones.trees, &new);
        hidden.filter(|hidden| is_seen(hidden.set)).min_by_key(|hidden| hidden.line)
    }

    /// What UPDATE set at names that these record trees or zones of their own have.
    fn hidden_by<'r>(
        &self,
        registry: &'r Registry,
        trees: &[Arc<Zone>],
        primary: &Apexes<'_>,
    ) -> impl Iterator<Item = Hidden<'r>> {
        // A domain that is served no more keeps what it has in the store.
        let sets = registry.plain().all().filter(|set| self.settings.apexes.contains(&set.apex));
        sets.filter_map(move |set| {
            let tree = trees.iter().find(|tree| tree.apex == *set.apex.name());
            let held = tree.and_then(|tree| Some((&tree.apex, holder(tree, &set.owner)?.line)));
            let (apex, line) = held.or_else(|| primary.over(set).map(|zone| (&zone.apex, zone.line())))?;
            Some(Hidden { set, apex: apex.clone(), line })
        })
    }

    /// The zones of their own below a live apex that hide names of a service that is registered.
    pub fn covered(&self, registry: &Registry) -> Vec<(Arc<Zone>, ServiceName)> {
        let zones = self.zones();
        zones.primary.iter().filter_map(|zone| Some((zone.clone(), self.covers(registry, zone)?))).collect()
    }

    /// The first of these zones that would come to hide names of a service, with that.
    pub fn newly_covered(&self, registry: &Registry, zones: &Zones) -> Option<(Arc<Zone>, ServiceName)> {
        let served = self.zones();
        let served: HashSet<&Name> = served.primary.iter().map(|zone| &zone.apex).collect();
        let mut new = zones.primary.iter().filter(|zone| !served.contains(&zone.apex));
        new.find_map(|zone| Some((zone.clone(), self.covers(registry, zone)?)))
    }

    /// The registered service that a zone of its own has names of: it lies at the service's name or below.
    fn covers(&self, registry: &Registry, zone: &Zone) -> Option<ServiceName> {
        let labels = zone.apex.labels_below(self.apex_of(&zone.apex)?.name())?;
        let name = ServiceName::parse(std::str::from_utf8(labels.last()?).ok()?).ok()?;
        registry.first_registered(std::iter::once(&name)).cloned()
    }
}

/// What UPDATE set at a name that a file has: in which zone or record tree, and on which line of it.
pub struct Hidden<'r> {
    pub set: &'r PlainSet,
    pub apex: Name,
    pub line: usize,
}

/// Zones of their own, by apex in lower-case wire form.
struct Apexes<'z>(HashMap<Vec<u8>, &'z Zone>);

impl<'z> Apexes<'z> {
    fn of(zones: &'z [Arc<Zone>]) -> Self {
        Self(zones.iter().map(|zone| (zone.apex.as_wire().to_ascii_lowercase(), &**zone)).collect())
    }

    /// The zone below the apex of what UPDATE set that has its name.
    fn over(&self, set: &PlainSet) -> Option<&'z Zone> {
        let owner = set.owner.to_lowercase();
        let (outer, whole) = (set.apex.name().as_wire().len(), owner.as_wire().len());
        // The delegation to a zone is the outer one's (RFC 4035 section 3.1.4.1).
        let is_outers =
            |suffix: &[u8]| [Type::NS, Type::DS].contains(&set.set.rtype) && suffix.len() == whole;
        let mut below = owner.suffixes().take_while(|suffix| suffix.len() > outer);
        below.find_map(|suffix| self.0.get(suffix).copied().filter(|_| !is_outers(suffix)))
    }
}

/// The node of a record tree that makes a name the file's.
fn holder<'a>(tree: &'a Zone, owner: &Name) -> Option<&'a ZoneNode> {
    tree.holds(owner).filter(|node| !node.sets.is_empty())
}
