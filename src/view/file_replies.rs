//! Replies from static zones as octets, for those that are made without a decoder: made once for a name and type, and copied
//! from then on.
//!
//! They depend on the files, on all of them together, and on nothing else, so they end with the set of files that they were made
//! of. They are made when first asked for: a zone that nobody asks for holds nothing, and no name that somebody invents adds
//! one. Where they have come to fill their room, no more are made, and what is asked for beyond it is answered by a decoder. How they are made is told where messages are written.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Zones;
use crate::answer::Rcode;
use crate::record::Type;
use crate::zone::{Node, Zone};

/// Octets of all that are kept: some 200,000 replies of common length, so that one zone of a million names that somebody asks
/// for one after the other does not double what the server holds.
const KEPT_OCTETS_MAX: usize = 64 << 20;

/// What stands behind the question of a reply, for all questions whose name ends in the same way.
///
/// Where that end begins in the question is the reply's `base`: the name itself where one name is answered, the name above a
/// wildcard, a zone cut, an apex.
#[derive(Debug)]
pub struct Template {
    pub rcode: Rcode,
    pub authoritative: bool,
    /// An alias leads to another server's name.
    pub onward: bool,
    /// Records of the answer, the authority and the additional section.
    pub counts: [u16; 3],
    pub octets: Box<[u8]>,
    pub pointers: Box<[Pointer]>,
    /// Labels, in lower case, that names in the records have in front of the base. With one of them there, more of the question
    /// would be pointed at.
    pub avoid: Box<[Box<[u8]>]>,
}

impl Template {
    /// Roughly what one takes, its place in the map aside.
    fn octets(&self) -> usize {
        let avoid = self.avoid.iter().map(|label| size_of_val(label) + label.len());
        size_of_val(self) + self.octets.len() + size_of_val(&*self.pointers) + avoid.sum::<usize>()
    }
}

/// A compression pointer among the octets of a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pointer {
    /// Where it stands.
    pub at: u16,
    pub to: To,
}

/// Where a pointer leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// The name of the question.
    Question,
    /// So many octets behind the base.
    Base(u16),
    /// So many octets behind the question.
    Records(u16),
}

/// Which of a node's replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// To its own name.
    Own,
    /// To names that it is the wildcard or the cut of.
    Below,
    /// That a name or a type is not there, of the node at an apex.
    Negative,
}

/// A node, by its place in memory, which lasts as long as its zone; and what is asked of it.
type Key = (usize, Type, Kind);

/// The replies of a set of files.
#[derive(Debug)]
pub struct FileReplies {
    /// Whose they are.
    zones: Arc<Zones>,
    of: Arc<Made>,
}

#[derive(Debug)]
struct Made {
    /// Places in `Zones::primary`, by apex in lower-case wire form.
    places: HashMap<Box<[u8]>, usize>,
    /// Each name that is one of these or above one, in the same form.
    above: HashSet<Box<[u8]>>,
    /// None where the reply is not to be had in this way.
    templates: papaya::HashMap<Key, Option<Box<Template>>>,
    /// What they take, and may take.
    octets: AtomicUsize,
    octets_max: usize,
}

impl FileReplies {
    pub(super) fn new(zones: Arc<Zones>) -> Self {
        Self::with_room(zones, KEPT_OCTETS_MAX)
    }

    fn with_room(zones: Arc<Zones>, octets_max: usize) -> Self {
        let apexes = || zones.primary.iter().map(|zone| zone.apex.to_lowercase());
        let places = apexes().map(|apex| apex.as_wire().into()).zip(0..).collect();
        let above = apexes().flat_map(|apex| apex.suffixes().map(Box::from).collect::<Vec<_>>()).collect();
        let of = Arc::new(Made {
            places,
            above,
            templates: papaya::HashMap::new(),
            octets: AtomicUsize::new(0),
            octets_max,
        });
        Self { zones, of }
    }

    pub(super) fn is_of(&self, zones: &Arc<Zones>) -> bool {
        Arc::ptr_eq(&self.zones, zones)
    }

    /// The same replies where the zones are the same, and only a record tree is another one.
    pub(super) fn renewed(&self, zones: Arc<Zones>) -> Self {
        let (old, new) = (&self.zones.primary, &zones.primary);
        match old.len() == new.len() && old.iter().zip(new).all(|(old, new)| Arc::ptr_eq(old, new)) {
            true => Self { zones, of: self.of.clone() },
            false => Self::with_room(zones, self.of.octets_max),
        }
    }

    /// True where these are the same replies, whatever record trees there are beside.
    pub(super) fn shares(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.of, &other.of)
    }

    /// True where no file is a zone of its own.
    pub fn is_empty(&self) -> bool {
        self.zones.primary.is_empty()
    }

    /// The zone of this apex, in lower-case wire form.
    pub fn zone(&self, apex: &[u8]) -> Option<&Zone> {
        self.of.places.get(apex).map(|place| &*self.zones.primary[*place])
    }

    /// True of an apex, and of every name above one, in lower-case wire form.
    pub fn is_above_a_zone(&self, name: &[u8]) -> bool {
        self.of.above.contains(name)
    }

    /// Looks at a reply, which is made where there is none; `None` where there can be none, or is no room for one more.
    pub fn with<T>(
        &self,
        node: &Node,
        qtype: Type,
        kind: Kind,
        make: impl FnOnce() -> Option<Template>,
        look: impl FnOnce(&Template) -> Option<T>,
    ) -> Option<T> {
        let key = (std::ptr::from_ref(node).addr(), qtype, kind);
        let templates = self.of.templates.pin();
        if let Some(known) = templates.get(&key) {
            return look(known.as_deref()?);
        }
        if self.of.octets.load(Ordering::Relaxed) >= self.of.octets_max {
            return None;
        }
        let made = make().map(Box::new);
        let octets =
            size_of::<(Key, Option<Box<Template>>)>() + made.as_ref().map_or(0, |made| made.octets());
        match templates.try_insert(key, made) {
            Ok(kept) => {
                self.of.octets.fetch_add(octets, Ordering::Relaxed);
                look(kept.as_deref()?)
            }
            // Another thread was quicker.
            Err(known) => look(known.current.as_deref()?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::Name;
    use crate::zone::Kind as ZoneKind;
    use crate::zone_file;

    fn zone(apex: &str) -> Arc<Zone> {
        let apex = Name::parse(apex).unwrap();
        let text = "@ SOA a b 1 2 3 4 5\n@ NS a\na A 10.0.0.1\n";
        let records = zone_file::read(text.as_bytes(), &apex).unwrap();
        Arc::new(Zone::new(apex, ZoneKind::Primary, records).unwrap().0)
    }

    fn template() -> Template {
        Template {
            rcode: Rcode::NoError,
            authoritative: true,
            onward: false,
            counts: [1, 0, 0],
            octets: Box::default(),
            pointers: Box::default(),
            avoid: Box::default(),
        }
    }

    #[test]
    fn what_is_kept_ends_with_its_files() {
        let primary = vec![zone("a.test"), zone("b.test")];
        let zones = Arc::new(Zones { primary: primary.clone(), trees: Vec::new() });
        let replies = FileReplies::new(zones.clone());
        let node = primary[0].node(&Name::parse("a.a.test").unwrap()).unwrap();
        let is_kept = |replies: &FileReplies| {
            let mut made = false;
            let make = || {
                made = true;
                Some(template())
            };
            replies.with(node, Type::A, Kind::Own, make, |_| Some(())).unwrap();
            !made
        };
        assert!(!is_kept(&replies));
        assert!(is_kept(&replies));
        assert!(replies.is_of(&zones));
        assert_eq!(replies.zone(b"\x01b\x04test\0").unwrap().apex, primary[1].apex);
        // Another tree is no other file, another zone is.
        let tree = Arc::new(Zones { primary: primary.clone(), trees: vec![zone("c.test")] });
        assert!(!replies.is_of(&tree));
        assert!(is_kept(&replies.renewed(tree)));
        let reloaded = vec![primary[0].clone(), zone("b.test")];
        let reloaded = replies.renewed(Arc::new(Zones { primary: reloaded, trees: Vec::new() }));
        assert!(!is_kept(&reloaded));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let primary = zone("a.test");
        let zones = Arc::new(Zones { primary: vec![primary.clone()], trees: Vec::new() });
        let replies = FileReplies::with_room(zones, 10_000);
        let node = primary.node(&primary.apex).unwrap();
        let reply = |qtype| {
            let make = || Some(Template { octets: [0; 1000].into(), ..template() });
            replies.with(node, Type(qtype), Kind::Own, make, |_| Some(())).is_some()
        };
        let kept = (0..100).filter(|qtype| reply(*qtype)).count();
        assert!((8..=10).contains(&kept), "{kept}");
        assert!(reply(0), "what is kept stays");
        let nothing = |qtype| replies.with(node, Type(qtype), Kind::Own, || unreachable!(), |_| Some(()));
        assert_eq!(nothing(99), None, "and no more is made");
        // Nor is it without end that there is no reply.
        let replies = FileReplies::with_room(replies.zones.clone(), 10_000);
        let tried = std::cell::Cell::new(0);
        for qtype in 0..1000 {
            let make = || {
                tried.set(tried.get() + 1);
                None
            };
            assert_eq!(replies.with(node, Type(qtype), Kind::Own, make, |_| Some(())), None);
        }
        assert!((100..1000).contains(&tried.get()), "{}", tried.get());
    }
}
