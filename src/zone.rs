//! Static zones: a tree of nodes from a zone file, swapped whole.
//!
//! A `Zone` is either a whole zone that we are primary for, or the record tree of the live zone, whose
//! SOA the registry makes. It is built once from records with their line numbers, checked while it is
//! built, and never changed afterwards: a reload builds another one, and so does an UPDATE of the record tree (`edited`). Every name that exists is a node,
//! empty non-terminals among them, so existence is one hash lookup and no negative answer scans.
//!
//! `find` is the walk of RFC 1034 section 4.3.2 with the wildcards of RFC 4592. It says what is at a
//! name; what to answer from it (CNAME chains, DS at a cut, additional records) is `answer`'s.
//!
//! Not here: reading a file (`zone_file`).

mod build;
mod nodes;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

pub use self::build::{Kind, RRSET_RECORDS_MAX, TTL_MAX, WARNINGS_MAX, ZoneError, ZoneWarning, admit};
use self::nodes::Nodes;
use crate::name::{NAME_OCTETS_MAX, Name, ServiceName};
use crate::record::{Record, RrSet, Soa, Type};

/// One name of a zone; no sets where it is an empty non-terminal.
#[derive(Clone, Debug)]
pub struct Node {
    /// In the case of its first record; an empty non-terminal in that of the first name below it.
    pub name: Name,
    /// One for each type, in the order of the file.
    pub sets: Vec<RrSet>,
    /// Line of its first record, or of the first record below it; 0 at the apex of an empty tree.
    pub line: usize,
    /// NS below the apex: here another zone begins.
    cut: bool,
    /// Names one label below.
    below: u32,
    /// DNAME: what is below has another name (RFC 6672).
    renamed: bool,
}

impl Node {
    fn empty(name: Name, line: usize) -> Self {
        Self { name, sets: Vec::new(), line, cut: false, renamed: false, below: 0 }
    }

    pub fn set(&self, rtype: Type) -> Option<&RrSet> {
        self.sets.iter().find(|set| set.rtype == rtype)
    }
}

/// What a zone has at a name.
#[derive(Clone, Copy, Debug)]
pub enum Found<'a> {
    /// The name exists; no sets where it is an empty non-terminal (NODATA).
    Node(&'a Node),
    /// The name does not exist and this wildcard stands for it; no sets where the wildcard itself is
    /// an empty non-terminal (RFC 4592 section 2.2.1).
    Wildcard(&'a Node),
    /// The name is this zone cut or below it, glue included. Whether a DS at the cut itself is asked
    /// for, which is ours to answer, is for the caller to see.
    Delegation(&'a Node),
    /// The name is below this one, whose DNAME says what it is called.
    Renamed(&'a Node),
    /// The name does not exist: NXDOMAIN.
    Nothing,
}

/// A tree of nodes under an apex.
#[derive(Debug)]
pub struct Zone {
    pub apex: Name,
    pub kind: Kind,
    nodes: Nodes,
    /// With its TTL in seconds; none in a tree.
    soa: Option<(Arc<Soa>, u32)>,
}

impl Zone {
    /// A zone of these records, each with its line; and what had to be mended.
    ///
    /// Duplicates are dropped without a word, as every server does (RFC 2181 section 5): a file made
    /// from a transfer has its SOA at both ends.
    pub fn new(
        apex: Name,
        kind: Kind,
        records: Vec<(usize, Record)>,
    ) -> Result<(Self, Vec<ZoneWarning>), ZoneError> {
        let (zone, warnings, mut errors) = Self::build(apex, kind, records, 1);
        match errors.is_empty() {
            true => Ok((zone, warnings)),
            false => Err(errors.swap_remove(0)),
        }
    }

    /// A record tree without a record.
    pub fn bare(apex: &Name) -> Self {
        Self::with_apex(apex.clone(), Kind::Tree, 0)
    }

    fn with_apex(apex: Name, kind: Kind, line: usize) -> Self {
        let mut nodes = Nodes::of(kind);
        nodes.insert(key(&apex), Node::empty(apex.clone(), line));
        Self { apex, kind, nodes, soa: None }
    }

    /// What is at `qname`; `Nothing` where it is not within the zone.
    ///
    /// The walk starts at the apex and goes down, so a cut hides everything below it, and the last
    /// node that it reaches is the closest encloser. One lookup a label, at most one for a wildcard.
    pub fn find(&self, qname: &Name) -> Found<'_> {
        self.find_wire(qname.as_wire())
    }

    /// The same for a name in wire form, which has to be one.
    pub fn find_wire(&self, qname: &[u8]) -> Found<'_> {
        let octets = qname.len();
        let apex_octets = self.apex.as_wire().len();
        let Some(mut at) = octets.checked_sub(apex_octets) else { return Found::Nothing };
        let mut lower = [0; NAME_OCTETS_MAX];
        lower[..octets].copy_from_slice(qname);
        lower[..octets].make_ascii_lowercase();
        let mut starts = [0; NAME_OCTETS_MAX / 2 + 1];
        let (mut below, mut start) = (0, 0);
        while start < at {
            starts[below] = start;
            below += 1;
            start += 1 + usize::from(lower[start]);
        }
        // The octets of the apex may end a name in the middle of a label.
        if start != at {
            return Found::Nothing;
        }
        let Some(mut node) = self.node_at(&lower[at..octets]) else { return Found::Nothing };
        for &start in starts[..below].iter().rev() {
            if node.renamed {
                return Found::Renamed(node);
            }
            let Some(child) = self.node_at(&lower[start..octets]) else {
                // RFC 4592 section 3.3.1: only the wildcard just below the closest encloser. A label
                // is missing in front of it, so there is room for the two octets of `*`.
                lower[at - 2..at].copy_from_slice(b"\x01*");
                return self.node_at(&lower[at - 2..octets]).map_or(Found::Nothing, Found::Wildcard);
            };
            if child.cut {
                return Found::Delegation(child);
            }
            (node, at) = (child, start);
        }
        Found::Node(node)
    }

    /// The node that makes `name` taken: its own, or the cut or DNAME that it is below. Its `line` is for the
    /// refusal; a wildcard takes no name.
    pub fn holds(&self, name: &Name) -> Option<&Node> {
        match self.find(name) {
            Found::Node(node) | Found::Delegation(node) | Found::Renamed(node) => Some(node),
            Found::Wildcard(_) | Found::Nothing => None,
        }
    }

    /// The services that cannot be, because the zone has a name there or below: each with `file:line`, which `place` makes
    /// of a line.
    pub fn taken(&self, place: impl Fn(usize) -> String) -> HashMap<ServiceName, Box<str>> {
        let mut taken = HashMap::new();
        for node in self.nodes.iter() {
            let labels = node.name.labels_below(&self.apex).unwrap_or_default();
            let top = labels.last().and_then(|label| std::str::from_utf8(label).ok());
            if let Some(name) = top.and_then(|top| ServiceName::parse(top).ok()) {
                let line = taken.entry(name).or_insert(node.line);
                *line = node.line.min(*line);
            }
        }
        taken.into_iter().map(|(name, line)| (name, place(line).into())).collect()
    }

    /// What stands at `name` itself, under a cut too: where glue is found.
    pub fn node(&self, name: &Name) -> Option<&Node> {
        self.node_at(name.to_lowercase().as_wire())
    }

    fn node_at(&self, lower: &[u8]) -> Option<&Node> {
        self.nodes.get(lower)
    }

    /// The SOA and its TTL in seconds; none in a tree.
    pub fn soa(&self) -> Option<(&Arc<Soa>, u32)> {
        self.soa.as_ref().map(|(soa, ttl)| (soa, *ttl))
    }

    /// The line of the first record at the apex; 1 where there is none.
    pub fn line(&self) -> usize {
        self.node(&self.apex).map_or(1, |node| node.line)
    }

    /// Every node, empty non-terminals and what lies below cuts included, in no order.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter()
    }

    /// The zone with these sets in the place of whatever each owner has; none at all takes the name away. Names that it
    /// is not one of, and what a record may be, are the caller's to look at.
    ///
    /// Costs what it touches, and a copy of its part of the names.
    pub fn edited(&self, changes: impl IntoIterator<Item = (Name, Vec<RrSet>)>) -> Self {
        let mut zone = Self {
            apex: self.apex.clone(),
            kind: self.kind,
            nodes: self.nodes.clone(),
            soa: self.soa.clone(),
        };
        for (owner, sets) in changes {
            let has = |rtype| sets.iter().any(|set: &RrSet| set.rtype == rtype);
            let (cut, renamed) = (owner != zone.apex && has(Type::NS), has(Type::DNAME));
            let node = zone.reach(0, &owner);
            (node.name, node.sets, node.line) = (owner.clone(), sets, 0);
            (node.cut, node.renamed) = (cut, renamed);
            zone.drop_bare(&owner);
        }
        zone
    }

    /// Takes a name out that has no record, and those above it that were there for it alone.
    fn drop_bare(&mut self, owner: &Name) {
        let apex_octets = self.apex.as_wire().len();
        for suffix in owner.suffixes().take_while(|suffix| suffix.len() > apex_octets) {
            let lower = suffix.to_ascii_lowercase();
            let is_bare = |node: &Node| node.sets.is_empty() && node.below == 0;
            if !self.nodes.get(&lower).is_some_and(is_bare) {
                return;
            }
            self.nodes.remove(&lower);
            if let Some(above) = self.nodes.edit(&lower[1 + usize::from(lower[0])..]) {
                above.below -= 1;
            }
        }
    }

    fn apex_node(&self) -> Option<&Node> {
        self.node_at(&key(&self.apex))
    }

    /// The node of a name within the zone; it and every name between it and the apex exist from then on (RFC 4592
    /// section 2.2.2).
    fn reach(&mut self, line: usize, owner: &Name) -> &mut Node {
        let lower = key(owner);
        let mut at = 0;
        while self.nodes.get(&lower[at..]).is_none()
            && let Ok(name) = Name::from_wire(&owner.as_wire()[at..])
        {
            // Whoever is not the first has the one before it below.
            let node = Node { below: u32::from(at > 0), ..Node::empty(name, line) };
            self.nodes.insert(lower[at..].into(), node);
            at += 1 + usize::from(lower[at]);
        }
        if at > 0
            && let Some(above) = self.nodes.edit(&lower[at..])
        {
            above.below += 1;
        }
        self.nodes.edit(&lower).expect("it was just made")
    }
}

fn key(name: &Name) -> Arc<[u8]> {
    name.as_wire().to_ascii_lowercase().into()
}
