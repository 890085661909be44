//! A zone from its first record to its last, a piece at a time: what a transfer sends (RFC 5936 section 2.2).
//!
//! It holds the views of one moment, which are shared, and the records of one piece: one part of a service, or some
//! dozens of its instances. So what it costs does not grow with the zone, and the writer goes on meanwhile.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use super::whole::{Around, Index, Part, Planted, Whole, of_apex, planted_beside, records_of, soa};
use crate::name::{Apex, Name, fnv};
use crate::record::{Record, Type};
use crate::view::{ServiceView, View, Zones};
use crate::zone::Zone;

/// The records of the live zone at one revision, its SOA first and last.
pub(crate) struct Live {
    view: Arc<View>,
    apex: Apex,
    /// The record tree and its names.
    tree: Option<(Arc<Zone>, Arc<Planted>)>,
    soa: Record,
    services: std::vec::IntoIter<Arc<ServiceView>>,
    /// Services that only the record tree has names of.
    only_planted: Vec<String>,
    current: Option<Current>,
    ready: VecDeque<Record>,
    ended: bool,
}

/// The service that the walk is at.
struct Current {
    service: Arc<ServiceView>,
    index: Index,
    parts: Vec<Part>,
    /// The next piece of its members.
    piece: usize,
}

impl Live {
    pub fn new(
        view: Arc<View>,
        apex: Apex,
        tree: Option<(Arc<Zone>, Arc<Planted>)>,
        revision: u64,
        services: Vec<Arc<ServiceView>>,
    ) -> Self {
        let known: HashSet<&str> = services.iter().map(|service| service.name.as_str()).collect();
        let planted = tree.iter().flat_map(|(_, planted)| planted.services());
        let only_planted = planted.filter(|name| !known.contains(name)).map(str::to_owned).collect();
        let soa = soa(&apex, view.soa_at(&apex, revision));
        let own = of_apex(&view, &apex);
        let mut ready = VecDeque::from([soa.clone()]);
        if let Some((tree, planted)) = &tree {
            ready.extend(planted.others(tree, &own));
        }
        ready.extend(own);
        let services = services.into_iter();
        Self { view, apex, tree, soa, services, only_planted, current: None, ready, ended: false }
    }

    /// Makes the next piece ready; false behind the last.
    fn go_on(&mut self) -> bool {
        let tree = self.tree.as_ref();
        let planted_of =
            |name: &str| tree.map(|(tree, planted)| planted.of_service(tree, name)).unwrap_or_default();
        let around = Around::of(&self.view, &self.apex);
        let Some(current) = &mut self.current else {
            if let Some(service) = self.services.next() {
                let index = Index::of(&service);
                let parts = Whole::new(around, &service, &index, &[]).parts().into_iter().collect();
                self.current = Some(Current { service, index, parts, piece: 0 });
                return true;
            }
            let Some(name) = self.only_planted.pop() else { return false };
            self.ready.extend(planted_beside(None, &planted_of(&name)));
            return true;
        };
        let planted = planted_of(current.service.name.as_str());
        let whole = Whole::new(around, &current.service, &current.index, &planted);
        let mut records = Vec::new();
        if let Some(part) = current.parts.pop() {
            records = whole.part(&part);
        } else if let Some(members) = current.service.answered.piece(current.piece) {
            current.piece += 1;
            members.iter().for_each(|member| whole.member(member, &mut records));
        } else {
            if !planted.is_empty() {
                records = planted_beside(Some(&whole), &planted);
            }
            self.current = None;
        }
        self.ready.extend(records);
        true
    }
}

impl Iterator for Live {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        loop {
            if let Some(record) = self.ready.pop_front() {
                return Some(record);
            }
            if !self.go_on() {
                let last = (!self.ended).then(|| self.soa.clone());
                self.ended = true;
                return last;
            }
        }
    }
}

/// A number for all that is served besides the registry: settings, the files of record trees, and how this version spells records.
/// Where it is another one after a restart, no difference leads from what was served before.
pub(crate) fn fingerprint(view: &View) -> u64 {
    let number = |what: &dyn std::fmt::Debug| fnv(&[format!("{what:?}").as_bytes()]);
    let mut sum = number(&(env!("CARGO_PKG_VERSION"), view.settings.ttl));
    for apex in &view.settings.apexes {
        let tree = view.file_of(apex.name());
        let planted = tree.iter().flat_map(|tree| tree.nodes()).flat_map(|node| records_of(node, |_| true));
        // A sum, for a tree has no order.
        for record in of_apex(view, apex).into_iter().chain(planted) {
            sum = sum.wrapping_add(number(&record));
        }
    }
    sum
}

/// The record tree of a live zone.
pub(crate) fn tree_of(view: &View, apex: &Apex) -> Option<Arc<Zone>> {
    tree_in(&view.zones(), apex)
}

/// The same at the moment that the zones are of.
pub(crate) fn tree_in(zones: &Zones, apex: &Apex) -> Option<Arc<Zone>> {
    zones.trees.iter().find(|tree| tree.apex == *apex.name()).cloned()
}

/// The records of a static zone, its SOA first and last; what is under a cut as well (RFC 5936 section 3.5).
pub(crate) struct Static {
    zone: Arc<Zone>,
    names: std::vec::IntoIter<Name>,
    ready: VecDeque<Record>,
    last: Option<Record>,
}

impl Static {
    pub fn new(zone: Arc<Zone>) -> Self {
        let names: Vec<Name> = zone.nodes().map(|node| node.name.clone()).collect();
        let apex = zone.node(&zone.apex);
        let soa: VecDeque<Record> =
            apex.map(|node| records_of(node, |rtype| rtype == Type::SOA)).unwrap_or_default().into();
        Self { zone, names: names.into_iter(), last: soa.front().cloned(), ready: soa }
    }
}

impl Iterator for Static {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        loop {
            if let Some(record) = self.ready.pop_front() {
                return Some(record);
            }
            let Some(name) = self.names.next() else { return self.last.take() };
            let node = self.zone.node(&name);
            self.ready
                .extend(node.map(|node| records_of(node, |rtype| rtype != Type::SOA)).unwrap_or_default());
        }
    }
}
