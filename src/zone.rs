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
//! Not here: reading a file (`zone_file`), and DNAME, which `Zone::new` refuses: a zone that holds one
//! would be answered wrongly, and silently.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use thiserror::Error;

use crate::name::{NAME_OCTETS_MAX, Name, ServiceName};
use crate::record::{Data, Record, RrSet, Soa, Type};

/// Most records of one owner and type. An answer holds 65,535 octets and the smallest record needs 16
/// of them, so a larger set could never be sent; the limit also keeps the search for duplicates short.
pub const RRSET_RECORDS_MAX: usize = 4096;

/// Most warnings that one zone returns: a file with one wrong habit throughout must not bury the log.
pub const WARNINGS_MAX: usize = 100;

/// Largest TTL (RFC 2181 section 8).
pub const TTL_MAX: u32 = i32::MAX as u32;

/// Types that only a signed zone holds. We answer none of them where they belong yet, so a signed
/// file would look bogus to every validator.
const SIGNED: [(u16, &str); 3] = [(46, "RRSIG"), (47, "NSEC"), (50, "NSEC3")];

/// Why a zone is refused. The caller puts the file's name in front: `file:line: reason`.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("line {line}: {reason}")]
pub struct ZoneError {
    /// From 1: the first line of the offending record.
    pub line: usize,
    pub reason: String,
}

/// What was mended while a zone was built.
#[derive(Debug, PartialEq, Eq)]
pub struct ZoneWarning {
    /// From 1: the first line of the record that gave cause.
    pub line: usize,
    pub reason: String,
}

/// What a file of records is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A whole zone: exactly one SOA and at least one NS at its apex.
    Primary,
    /// The record tree of the live zone: no SOA, for the registry makes it.
    Tree,
}

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
}

impl Node {
    fn empty(name: Name, line: usize) -> Self {
        Self { name, sets: Vec::new(), line, cut: false }
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
    /// The name does not exist: NXDOMAIN.
    Nothing,
}

/// A tree of nodes under an apex.
#[derive(Debug)]
pub struct Zone {
    pub apex: Name,
    pub kind: Kind,
    /// By name in lower-case wire form. Shared with the zones that were made of this one by `edited`.
    nodes: HashMap<Arc<[u8]>, Arc<Node>>,
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
        let last_line = records.last().map_or(1, |(line, _)| *line);
        let mut zone = Self { apex, kind, nodes: HashMap::new(), soa: None };
        let first_line = records.first().map_or(0, |(line, _)| *line);
        zone.nodes.insert(key(&zone.apex), Arc::new(Node::empty(zone.apex.clone(), first_line)));
        let mut warnings = Vec::new();
        for (line, record) in records {
            zone.insert(line, record, &mut warnings).map_err(|reason| ZoneError { line, reason })?;
        }
        if kind == Kind::Primary {
            let missing = match (&zone.soa, zone.apex_node().and_then(|node| node.set(Type::NS))) {
                (None, _) => Some("SOA"),
                (_, None) => Some("NS"),
                _ => None,
            };
            if let Some(missing) = missing {
                let reason = format!("the file ends without a record {missing} at {}", zone.apex);
                return Err(ZoneError { line: last_line, reason });
            }
        }
        Ok((zone, warnings))
    }

    /// A record tree without a record.
    pub fn bare(apex: &Name) -> Self {
        let node = Arc::new(Node::empty(apex.clone(), 0));
        let nodes = HashMap::from([(key(apex), node)]);
        Self { apex: apex.clone(), kind: Kind::Tree, nodes, soa: None }
    }

    /// What is at `qname`; `Nothing` where it is not within the zone.
    ///
    /// The walk starts at the apex and goes down, so a cut hides everything below it, and the last
    /// node that it reaches is the closest encloser. One lookup a label, at most one for a wildcard.
    pub fn find(&self, qname: &Name) -> Found<'_> {
        let octets = qname.as_wire().len();
        let apex_octets = self.apex.as_wire().len();
        let mut lower = [0; NAME_OCTETS_MAX];
        lower[..octets].copy_from_slice(qname.as_wire());
        lower[..octets].make_ascii_lowercase();
        let mut starts = [0; NAME_OCTETS_MAX / 2 + 1];
        let mut below = 0;
        for suffix in qname.suffixes().take_while(|suffix| suffix.len() > apex_octets) {
            starts[below] = octets - suffix.len();
            below += 1;
        }
        let Some(mut at) = octets.checked_sub(apex_octets) else { return Found::Nothing };
        let Some(mut node) = self.node_at(&lower[at..octets]) else { return Found::Nothing };
        for &start in starts[..below].iter().rev() {
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

    /// The node that makes `name` taken: its own, or the cut that it is below. Its `line` is for the
    /// refusal; a wildcard takes no name.
    pub fn holds(&self, name: &Name) -> Option<&Node> {
        match self.find(name) {
            Found::Node(node) | Found::Delegation(node) => Some(node),
            Found::Wildcard(_) | Found::Nothing => None,
        }
    }

    /// The services that cannot be, because the zone has a name there or below: each with `file:line`.
    pub fn taken(&self, file: &str) -> HashMap<ServiceName, Box<str>> {
        let mut taken = HashMap::new();
        for node in self.nodes.values() {
            let labels = node.name.labels_below(&self.apex).unwrap_or_default();
            let top = labels.last().and_then(|label| std::str::from_utf8(label).ok());
            if let Some(name) = top.and_then(|top| ServiceName::parse(top).ok()) {
                let line = taken.entry(name).or_insert(node.line);
                *line = node.line.min(*line);
            }
        }
        taken.into_iter().map(|(name, line)| (name, format!("{file}:{line}").into())).collect()
    }

    /// What stands at `name` itself, under a cut too: where glue is found.
    pub fn node(&self, name: &Name) -> Option<&Node> {
        self.node_at(name.to_lowercase().as_wire())
    }

    fn node_at(&self, lower: &[u8]) -> Option<&Node> {
        self.nodes.get(lower).map(|node| &**node)
    }

    /// The SOA and its TTL in seconds; none in a tree.
    pub fn soa(&self) -> Option<(&Arc<Soa>, u32)> {
        self.soa.as_ref().map(|(soa, ttl)| (soa, *ttl))
    }

    /// Every node, empty non-terminals and what lies below cuts included, in no order.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().map(|node| &**node)
    }

    /// The zone with these sets in the place of whatever each owner has; none at all takes the name away. Names that it
    /// is not one of, and what a record may be, are the caller's to look at.
    ///
    /// Costs a look at every name, but copies none.
    pub fn edited(&self, changes: impl IntoIterator<Item = (Name, Vec<RrSet>)>) -> Self {
        let mut zone = Self {
            apex: self.apex.clone(),
            kind: self.kind,
            nodes: self.nodes.clone(),
            soa: self.soa.clone(),
        };
        let mut emptied = false;
        for (owner, sets) in changes {
            emptied |= sets.is_empty();
            zone.insert_enclosers(0, &owner);
            let cut = owner != zone.apex && sets.iter().any(|set| set.rtype == Type::NS);
            zone.nodes.insert(key(&owner), Arc::new(Node { name: owner, sets, line: 0, cut }));
        }
        if emptied {
            zone.drop_bare();
        }
        zone
    }

    /// Takes out the names that have no record, and none below them.
    fn drop_bare(&mut self) {
        let mut needed: HashSet<Box<[u8]>> = HashSet::new();
        let apex_octets = self.apex.as_wire().len();
        for (lower, _) in self.nodes.iter().filter(|(_, node)| !node.sets.is_empty()) {
            let mut at = 0;
            // Where a name is needed, all above it are.
            while lower.len() - at > apex_octets && needed.insert(lower[at..].into()) {
                at += 1 + usize::from(lower[at]);
            }
        }
        self.nodes.retain(|lower, _| lower.len() == apex_octets || needed.contains(&**lower));
    }

    fn apex_node(&self) -> Option<&Node> {
        self.node_at(&key(&self.apex))
    }

    /// Puts one record where it belongs, or says why it may not be there.
    fn insert(&mut self, line: usize, record: Record, warnings: &mut Vec<ZoneWarning>) -> Result<(), String> {
        let Record { owner, ttl, data } = record;
        let rtype = data.rtype();
        admit(&self.apex, self.kind, &owner, ttl, &data)?;
        self.insert_enclosers(line, &owner);
        let at_apex = owner == self.apex;
        let node =
            self.nodes.entry(key(&owner)).or_insert_with(|| Arc::new(Node::empty(owner.clone(), line)));
        let node = Arc::make_mut(node);
        if node.sets.is_empty() {
            (node.name, node.line) = (owner, line);
        }
        if let Some(set) = node.sets.iter_mut().find(|set| set.rtype == rtype) {
            join(set, &node.name, ttl, data, line, warnings)?;
        } else {
            // RFC 1034 section 3.6.2, RFC 2181 section 10.1.
            if !node.sets.is_empty() && (rtype == Type::CNAME || node.set(Type::CNAME).is_some()) {
                return Err(format!("{} has a CNAME and other data", node.name));
            }
            node.cut |= rtype == Type::NS && !at_apex;
            node.sets.push(RrSet { rtype, ttl, data: vec![data] });
        }
        if rtype == Type::SOA
            && let Some(set) = node.set(Type::SOA)
            && let Some(Data::Soa(soa)) = set.data.first()
        {
            self.soa = Some((soa.clone(), set.ttl));
        }
        Ok(())
    }

    /// Makes every name between the apex and `owner` exist (RFC 4592 section 2.2.2).
    fn insert_enclosers(&mut self, line: usize, owner: &Name) {
        let apex_octets = self.apex.as_wire().len();
        for suffix in owner.suffixes().skip(1).take_while(|suffix| suffix.len() > apex_octets) {
            let lower: Arc<[u8]> = suffix.to_ascii_lowercase().into();
            if self.nodes.contains_key(&lower) {
                return; // then all above it exist too
            }
            let Ok(name) = Name::from_wire(suffix) else { return };
            self.nodes.insert(lower, Arc::new(Node::empty(name, line)));
        }
    }
}

/// What a record must be whatever else the zone holds.
///
/// # Errors
///
/// Why it may not be there, as a sentence.
pub fn admit(apex: &Name, kind: Kind, owner: &Name, ttl: u32, data: &Data) -> Result<(), String> {
    if !owner.is_within(apex) {
        return Err(format!("{owner} is not within the zone {}", apex));
    }
    if ttl > TTL_MAX {
        return Err(format!("the TTL {ttl} is larger than {TTL_MAX} (RFC 2181 section 8)"));
    }
    let rtype = data.rtype();
    if let Some((_, signed)) = SIGNED.iter().find(|(number, _)| rtype == Type(*number)) {
        return Err(format!("{signed} belongs to a signed zone; give the zone unsigned"));
    }
    match rtype {
        Type::DNAME => Err("DNAME is not supported yet".to_owned()),
        // RFC 6895 section 3.1: 0, OPT and 128 to 255 are no data.
        Type::OPT | Type(0 | 128..=255) => Err(format!("{} is not a type of data", rtype)),
        Type::SOA if kind == Kind::Tree => {
            Err(format!("the SOA of {} is made by the registry; leave it out", apex))
        }
        Type::SOA if owner != apex => {
            Err(format!("a SOA stands at {owner}, below the apex {} of the zone", apex))
        }
        Type::CNAME if owner == apex => {
            Err(format!("{owner} is the apex, with a SOA and NS, so it cannot have a CNAME"))
        }
        // RFC 4592 section 4.2 leaves its meaning open; BIND refuses it too.
        Type::NS if owner.labels().next() == Some(b"*") => {
            Err(format!("NS at the wildcard {owner} has no defined meaning"))
        }
        _ => Ok(()),
    }
}

fn key(name: &Name) -> Arc<[u8]> {
    name.as_wire().to_ascii_lowercase().into()
}

/// Adds a record to the set of its type, or says why the set may not have it.
fn join(
    set: &mut RrSet,
    owner: &Name,
    ttl: u32,
    data: Data,
    line: usize,
    warnings: &mut Vec<ZoneWarning>,
) -> Result<(), String> {
    if set.ttl != ttl {
        // RFC 2181 section 5.2 forbids it and lets a reader take the lowest.
        let lowest = set.ttl.min(ttl);
        let reason = format!(
            "the records {} of {owner} differ in TTL, {ttl} here and {} before; {lowest} counts for all",
            set.rtype, set.ttl
        );
        warn(warnings, line, reason);
        set.ttl = lowest;
    }
    if set.data.contains(&data) {
        return Ok(());
    }
    match set.rtype {
        Type::SOA => Err("a zone has one SOA, and this is the second".to_owned()),
        Type::CNAME => Err(format!("{owner} has two CNAMEs")),
        _ if set.data.len() == RRSET_RECORDS_MAX => Err(format!(
            "{owner} has more than {RRSET_RECORDS_MAX} records {}, more than a message holds",
            set.rtype
        )),
        _ => {
            set.data.push(data);
            Ok(())
        }
    }
}

fn warn(warnings: &mut Vec<ZoneWarning>, line: usize, reason: String) {
    match warnings.len() {
        0..WARNINGS_MAX => warnings.push(ZoneWarning { line, reason }),
        WARNINGS_MAX => {
            warnings.push(ZoneWarning { line, reason: "further warnings are left out".to_owned() })
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zone_file;

    const SOA: &str = "@ 3600 IN SOA ns1 hostmaster 7 3600 600 86400 60\n@ NS ns1\n";

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    fn load(kind: Kind, text: &str) -> Result<(Zone, Vec<ZoneWarning>), ZoneError> {
        let apex = name("corp.test");
        Zone::new(apex.clone(), kind, zone_file::read(text.as_bytes(), &apex)?)
    }

    /// Line and reason of the refusal of a primary: the SOA is on line 1, the NS on line 2.
    fn refused(rest: &str) -> String {
        load(Kind::Primary, &format!("{SOA}{rest}")).unwrap_err().to_string()
    }

    /// The fixture of the conformance table, less its DNAME.
    fn fixture() -> Zone {
        let text = "\
            $ORIGIN corp.test.\n$TTL 300\n\
            @ 3600 IN SOA ns1 hostmaster 7 3600 600 86400 60\n\
            @ IN NS ns1\n\
            ns1 IN A 10.9.0.53\n\
            WWW IN A 10.9.0.80\n\
            alias IN CNAME www\n\
            *.wild IN A 10.9.0.99\n\
            foo.wild IN TXT \"x\"\n\
            a.b.ent IN A 10.9.0.7\n\
            sub IN NS ns.sub\n\
            ns.sub IN A 10.9.1.53\n\
            *.sub IN A 10.9.1.54\n\
            a.*.ents IN A 10.9.0.8\n\
            _sip._tcp IN SRV 0 5 5060 www\n\
            unk IN TYPE65280 \\# 3 abcdef\n";
        let (zone, warnings) = load(Kind::Primary, text).unwrap();
        assert_eq!(warnings, []);
        zone
    }

    /// What `find` says, as a word, the node and its types.
    fn found(zone: &Zone, qname: &str) -> String {
        let (word, node) = match zone.find(&name(qname)) {
            Found::Node(node) => ("node", node),
            Found::Wildcard(node) => ("wildcard", node),
            Found::Delegation(node) => ("delegation", node),
            Found::Nothing => return "nothing".to_owned(),
        };
        let types: Vec<_> = node.sets.iter().map(|set| set.rtype.to_string()).collect();
        format!("{word} {} {}", node.name, types.join(" ")).trim_end().to_owned()
    }

    #[test]
    fn the_walk_finds_what_rfc_1034_and_4592_say() {
        let zone = fixture();
        for (qname, expected) in [
            ("corp.test", "node corp.test. SOA NS"),
            ("www.corp.test", "node WWW.corp.test. A"),
            ("wWw.CORP.test", "node WWW.corp.test. A"),
            ("alias.corp.test", "node alias.corp.test. CNAME"),
            ("unk.corp.test", "node unk.corp.test. TYPE65280"),
            ("any.wild.corp.test", "wildcard *.wild.corp.test. A"), // W-01
            ("a.b.wild.corp.test", "wildcard *.wild.corp.test. A"),
            ("foo.wild.corp.test", "node foo.wild.corp.test. TXT"), // W-02
            ("x.foo.wild.corp.test", "nothing"),                    // W-03
            ("*.wild.corp.test", "node *.wild.corp.test. A"),       // W-05
            ("x.*.wild.corp.test", "nothing"),
            ("wild.corp.test", "node wild.corp.test."), // W-06
            ("x.ents.corp.test", "wildcard *.ents.corp.test."),
            ("www.sub.corp.test", "delegation sub.corp.test. NS"), // N-01, and no wildcard below a cut
            ("sub.corp.test", "delegation sub.corp.test. NS"),     // N-02
            ("ns.sub.corp.test", "delegation sub.corp.test. NS"),  // N-04
            ("ent.corp.test", "node ent.corp.test."),              // Z-01
            ("b.ent.corp.test", "node b.ent.corp.test."),
            ("c.b.ent.corp.test", "nothing"),
            ("_tcp.corp.test", "node _tcp.corp.test."),
            ("nope.corp.test", "nothing"),
            ("x.nope.corp.test", "nothing"),
            ("test", "nothing"),
            (".", "nothing"),
            ("corp.example", "nothing"),
            ("www.mycorp.test", "nothing"),
        ] {
            assert_eq!(found(&zone, qname), expected, "{qname}");
        }
    }

    #[test]
    fn every_name_of_a_zone_is_found_unless_it_is_under_a_cut() {
        let zone = fixture();
        for node in zone.nodes() {
            match zone.find(&node.name) {
                Found::Node(found) => assert!(std::ptr::eq(found, node), "{}", node.name),
                Found::Delegation(cut) => assert!(node.name.is_within(&cut.name)),
                other => panic!("{}: {other:?}", node.name),
            }
        }
        assert_eq!(zone.nodes().count(), 19);
    }

    #[test]
    fn the_longest_names_are_walked() {
        let long = format!("{0}.{0}.{0}.{1}.", "a".repeat(63), "b".repeat(51));
        let owner = name(&format!("{long}corp.test"));
        assert_eq!(owner.as_wire().len(), 255);
        let (zone, _) = load(Kind::Tree, &format!("{owner} A 10.0.0.1\n* A 10.0.0.2\n")).unwrap();
        assert!(matches!(zone.find(&owner), Found::Node(node) if node.sets.len() == 1));
        let many = name(&format!("{}b.corp.test", "a.".repeat(121)));
        assert_eq!(many.as_wire().len(), 255);
        assert!(matches!(zone.find(&many), Found::Wildcard(_)));
    }

    #[test]
    fn a_zone_may_be_the_root() {
        let text = b". SOA a.ns. b.ns. 1 2 3 4 5\n. NS a.ns.\na.ns. A 10.0.0.1\n*. A 10.0.0.2\n";
        let records = zone_file::read(text, &Name::root()).unwrap();
        let (zone, _) = Zone::new(Name::root(), Kind::Primary, records).unwrap();
        assert_eq!(found(&zone, "."), "node . SOA NS");
        assert_eq!(found(&zone, "ns"), "node ns.");
        assert_eq!(found(&zone, "x"), "wildcard *. A");
    }

    #[test]
    fn a_name_is_held_by_its_node_or_the_cut_above_it() {
        let tree = "\n\na.web A 10.0.0.1\nlab NS ns.lab\n*.x A 10.0.0.1\n";
        let (zone, _) = load(Kind::Tree, tree).unwrap();
        assert_eq!(zone.soa(), None);
        let line = |text: &str| zone.holds(&name(text)).map(|node| node.line);
        assert_eq!(line("a.web.corp.test"), Some(3));
        assert_eq!(line("web.corp.test"), Some(3));
        assert_eq!(line("x.y.lab.corp.test"), Some(4));
        assert_eq!(line("y.x.corp.test"), None);
        assert_eq!(line("db.corp.test"), None);
        let (empty, _) = load(Kind::Tree, "; nothing yet\n").unwrap();
        assert_eq!(found(&empty, "corp.test"), "node corp.test.");
    }

    #[test]
    fn a_broken_zone_is_refused_with_its_line() {
        for (rest, expected) in [
            ("www A 10.0.0.1\nwww CNAME x\n", "line 4: www.corp.test. has a CNAME and other data"),
            ("www CNAME x\n\nWWW A 10.0.0.1\n", "line 5: www.corp.test. has a CNAME and other data"),
            ("www CNAME x\nwww CNAME y\n", "line 4: www.corp.test. has two CNAMEs"),
            ("a.example. A 10.0.0.1\n", "line 3: a.example. is not within the zone corp.test."),
            ("mycorp.test. A 10.0.0.1\n", "line 3: mycorp.test. is not within the zone corp.test."),
            ("@ SOA ns1 other 7 3600 600 86400 60\n", "line 3: a zone has one SOA, and this is the second"),
            (
                "sub SOA ns1 x 7 3600 600 86400 60\n",
                "line 3: a SOA stands at sub.corp.test., below the apex corp.test. of the zone",
            ),
            (
                "@ CNAME x.example.\n",
                "line 3: corp.test. is the apex, with a SOA and NS, so it cannot have a CNAME",
            ),
            ("\nold DNAME new\n", "line 4: DNAME is not supported yet"),
            ("old TYPE39 \\# 3 016100\n", "line 3: DNAME is not supported yet"),
            ("* NS ns1\n", "line 3: NS at the wildcard *.corp.test. has no defined meaning"),
            ("w NSEC x A\n", "line 3: NSEC belongs to a signed zone; give the zone unsigned"),
            ("w TYPE255 \\# 0\n", "line 3: TYPE255 is not a type of data"),
            (
                "w 2147483648 A 10.0.0.1\n",
                "line 3: the TTL 2147483648 is larger than 2147483647 (RFC 2181 section 8)",
            ),
        ] {
            assert_eq!(refused(rest), expected, "{rest}");
        }
    }

    #[test]
    fn an_apex_needs_its_soa_and_ns() {
        let error = |kind, text| load(kind, text).unwrap_err().to_string();
        let soa = "@ SOA ns1 x 7 3600 600 86400 60\n";
        assert_eq!(
            error(Kind::Primary, "\n@ NS ns1\n"),
            "line 2: the file ends without a record SOA at corp.test."
        );
        assert_eq!(error(Kind::Primary, soa), "line 1: the file ends without a record NS at corp.test.");
        assert_eq!(error(Kind::Primary, ""), "line 1: the file ends without a record SOA at corp.test.");
        assert_eq!(
            error(Kind::Tree, soa),
            "line 1: the SOA of corp.test. is made by the registry; leave it out"
        );
    }

    #[test]
    fn the_lowest_ttl_counts_and_duplicates_go() {
        let text = format!("{SOA}www 300 A 10.0.0.1\nwww 60 A 10.0.0.2\nWWW 60 A 10.0.0.1\n{SOA}");
        let (zone, warnings) = load(Kind::Primary, &text).unwrap();
        let reason =
            "the records A of www.corp.test. differ in TTL, 60 here and 300 before; 60 counts for all";
        assert_eq!(warnings, [ZoneWarning { line: 4, reason: reason.to_owned() }]);
        let Found::Node(node) = zone.find(&name("www.corp.test")) else { panic!() };
        let set = node.set(Type::A).unwrap();
        assert_eq!((set.ttl, set.data.len()), (60, 2));
        let (soa, ttl) = zone.soa().unwrap();
        assert_eq!((soa.minimum, ttl), (60, 3600));
    }

    #[test]
    fn sets_and_warnings_are_bounded() {
        let mut text = SOA.to_owned();
        for number in 0..RRSET_RECORDS_MAX {
            text += &format!("many {} A 10.0.{}.{}\n", 60 + number % 2, number / 256, number % 256);
        }
        let (_, warnings) = load(Kind::Primary, &text).unwrap();
        assert_eq!(warnings.len(), WARNINGS_MAX + 1);
        assert_eq!(warnings[WARNINGS_MAX].reason, "further warnings are left out");
        text += "many A 10.1.0.0\n";
        let error = load(Kind::Primary, &text).unwrap_err();
        assert_eq!(error.line, RRSET_RECORDS_MAX + 3);
        assert!(error.reason.starts_with("many.corp.test. has more than 4096 records A"));
    }
}
