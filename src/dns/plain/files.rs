//! Plain questions about static zones: the general path's own reply, kept, with its compression pointers moved to where the next
//! question has what they point at.

use crate::answer::{
    Answer, Asked, CLASS_IN, Dnssec, Over, Question, Rcode, Signed, Taken, answer, denying_soa, is_of_files,
};
use crate::dns::encode::{Frame, HEADER_OCTETS, TC};
use crate::dns::wire::UDP_OCTETS_MAX;
use crate::name::Name;
use crate::record::{Data, Record, Type};
use crate::view::View;
use crate::view::file_replies::{FileReplies, Kind, Pointer, Template, To};
use crate::view::prepared::Room;
use crate::zone::{Found, Node, Zone};

use super::{Ede, Out, Plain, Query, Words};

/// Types that an alias is kept for; asked for one of many others it would hold a reply for each.
const OF_ALIASES: [Type; 4] = [Type::A, Type::AAAA, Type::CNAME, Type::HTTPS];
/// A type that no node has: of replies that are the same for all types.
const ANY_TYPE: Type = Type(0);

/// The reply to one question, before it is looked up or made.
struct Wanted<'z> {
    node: &'z Node,
    qtype: Type,
    kind: Kind,
    /// Where in the question the name begins that the template is for.
    base_at: usize,
}

impl Plain<'_> {
    /// Writes the reply from a static zone whose apex is below the live one at `live_at`, and returns its length.
    pub(super) fn reply_of_file(
        &self,
        query: &Query<'_>,
        live_at: Option<usize>,
        out: &mut [u8],
    ) -> Option<usize> {
        let replies = self.view.file_replies();
        if replies.is_empty() || query.qtype == Type::ANY || self.is_near_the_registry(query) {
            return None;
        }
        let (zone, zone_at) = zone_of(&replies, query)?;
        // DS of an apex is the zone's above.
        if live_at.is_some_and(|live_at| live_at <= zone_at) || query.qtype == Type::DS && zone_at == 0 {
            return None;
        }
        let (wanted, rcode) = wanted(zone, zone_at, query)?;
        if rcode == Some(Rcode::NxDomain) && self.view.is_above_a_domain(query.name()) {
            return None;
        }
        let make = || make(self.view, zone, &wanted);
        replies.with(wanted.node, wanted.qtype, wanted.kind, make, |template| {
            self.fill(query, template, wanted.base_at, rcode, out)
        })
    }

    /// Zones of the registry that may be nearer than a file's.
    fn is_near_the_registry(&self, query: &Query<'_>) -> bool {
        let settings = &self.view.settings;
        let alias = settings.consul.as_ref();
        alias.is_some_and(|zone| query.below(zone.apex.name().as_wire()).is_some())
            || !settings.reverse.is_empty() && query.below(b"\x04arpa\0").is_some()
    }

    /// `rcode` is that of a denial; what is kept of others has its own.
    fn fill(
        &self,
        query: &Query<'_>,
        template: &Template,
        base_at: usize,
        rcode: Option<Rcode>,
        out: &mut [u8],
    ) -> Option<usize> {
        if template.onward && self.recursion {
            return None; // somebody else goes on
        }
        if let Some(label) = query.label_before(base_at)
            && template.avoid.iter().any(|avoided| **avoided == *label)
        {
            return None;
        }
        let limit = self.limit.min(out.len());
        let mut out = Out { octets: &mut out[..limit], at: HEADER_OCTETS };
        out.put(query.question)?;
        let behind = out.at;
        out.put(&template.octets)?;
        for pointer in &template.pointers {
            let to = match pointer.to {
                To::Question => HEADER_OCTETS,
                To::Base(octets) => HEADER_OCTETS + base_at + usize::from(octets),
                To::Records(octets) => behind + usize::from(octets),
            };
            let at = behind + usize::from(pointer.at);
            out.octets.get_mut(at..at + 2)?.copy_from_slice(&(0xc000 | to as u16).to_be_bytes());
        }
        let rcode = rcode.unwrap_or(template.rcode);
        let nothing_to_say = (Ede::OTHER, &Words::default());
        self.finish(&mut out, query, template.authoritative, template.counts, rcode, nothing_to_say)
    }
}

impl Query<'_> {
    /// The label that ends where `at` begins.
    fn label_before(&self, at: usize) -> Option<&[u8]> {
        let before =
            self.labels.iter().map(|start| usize::from(*start)).take_while(|start| *start < at).last()?;
        Some(&self.name[before + 1..at])
    }
}

/// The zone with the longest apex, and where that begins in the name.
fn zone_of<'r>(replies: &'r FileReplies, query: &Query<'_>) -> Option<(&'r Zone, usize)> {
    let name = query.name();
    let starts = query.labels.iter().map(|start| usize::from(*start)).chain([name.len() - 1]);
    starts.into_iter().find_map(|at| Some((replies.zone(&name[at..])?, at)))
}

/// Which reply a question gets; and the rcode, where it is a denial. `None` where it is put together each time.
fn wanted<'z>(zone: &'z Zone, zone_at: usize, query: &Query<'_>) -> Option<(Wanted<'z>, Option<Rcode>)> {
    let octets = query.name().len();
    let above = |node: &Node| octets - node.name.as_wire().len();
    let denied = |rcode| {
        let node = zone.node(&zone.apex)?;
        Some((Wanted { node, qtype: ANY_TYPE, kind: Kind::Negative, base_at: zone_at }, Some(rcode)))
    };
    let found = |node: &'z Node, kind, base_at| {
        let alias = node.set(Type::CNAME).is_some();
        match node.set(query.qtype) {
            None if alias && !OF_ALIASES.contains(&query.qtype) => None,
            None if !alias => denied(Rcode::NoError),
            _ => Some((Wanted { node, qtype: query.qtype, kind, base_at }, None)),
        }
    };
    match zone.find_wire(query.name()) {
        Found::Node(node) => found(node, Kind::Own, 0),
        // Of `*.x` what is below `x`.
        Found::Wildcard(node) => found(node, Kind::Below, above(node) + 2),
        Found::Delegation(cut) if query.qtype == Type::DS && above(cut) == 0 => found(cut, Kind::Own, 0),
        Found::Delegation(node) => {
            Some((Wanted { node, qtype: ANY_TYPE, kind: Kind::Below, base_at: above(node) }, None))
        }
        Found::Renamed(_) => None,
        Found::Nothing => denied(Rcode::NxDomain),
    }
}

/// Names that are tried for a reply to all names below another one: what a zone has in its records seldom begins so.
const TRIED: u8 = 4;

/// Has the general path answer such a question, and keeps what it says.
fn make(view: &View, zone: &Zone, wanted: &Wanted<'_>) -> Option<Template> {
    let Wanted { node, kind, .. } = wanted;
    let own = &node.name;
    let base = match zone.find(own) {
        Found::Node(_) if *kind == Kind::Below => Name::from_wire(own.suffixes().nth(1)?).ok()?, // of a wildcard
        _ => own.clone(),
    };
    if *kind == Kind::Own {
        return make_for(view, zone, wanted, &base, own.clone());
    }
    (0..TRIED).find_map(|octet| {
        let name = base.prepend_all(&[&[octet]]).ok()?;
        let is_theirs = match zone.find(&name) {
            Found::Wildcard(found) | Found::Delegation(found) => std::ptr::eq(found, *node),
            _ => false,
        };
        let any_will_do = *kind == Kind::Negative;
        if is_theirs || any_will_do { make_for(view, zone, wanted, &base, name) } else { None }
    })
}

/// The same, where the question has this name.
fn make_for(view: &View, zone: &Zone, wanted: &Wanted<'_>, base: &Name, name: Name) -> Option<Template> {
    let qtype = if wanted.qtype == ANY_TYPE { Type::A } else { wanted.qtype };
    let question = Question { name, qtype, class: CLASS_IN };
    let answer = match wanted.kind {
        Kind::Negative => {
            Answer { authoritative: true, authority: vec![denying_soa(zone)?], ..Answer::default() }
        }
        Kind::Own | Kind::Below => answer(view, &asked(&question)),
    };
    let records = || answer.answer.iter().chain(&answer.authority).chain(&answer.additional);
    let is_static = records().flat_map(names_of).chain(&answer.onward).all(|name| is_of_files(view, name));
    let is_whole = answer.ede.is_none() && answer.signed == Signed::No && !answer.truncated;
    if !is_static || !is_whole || answer.rcode == Rcode::Refused {
        return None;
    }
    // The question's own name is an owner wherever it is asked for; in data it is one of those to be avoided.
    let owners = records().map(|record| &record.owner).filter(|owner| **owner != question.name);
    let avoid: Vec<Box<[u8]>> = owners
        .chain(records().flat_map(names_in))
        .filter_map(|name| Some(name.labels_below(base)?.last()?.to_ascii_lowercase().into()))
        .collect();
    let in_front = question.name.labels_below(base)?;
    if in_front.last().is_some_and(|label| avoid.iter().any(|avoided| **avoided == **label)) {
        return None;
    }
    template(&question, base, &answer, avoid)
}

fn asked(question: &Question) -> Asked<'_> {
    Asked {
        question,
        client: std::net::Ipv4Addr::UNSPECIFIED.into(),
        over: Over::Udp,
        room: UDP_OCTETS_MAX,
        edns: false,
        draw: 0,
        dnssec: Dnssec::Nothing,
        taken: Taken::Chosen,
    }
}

/// The owner of a record, and every name in its data.
fn names_of(record: &Record) -> impl Iterator<Item = &Name> {
    std::iter::once(&record.owner).chain(names_in(record))
}

fn names_in(record: &Record) -> impl Iterator<Item = &Name> {
    let [first, second] = match &record.data {
        Data::Cname(name) | Data::Dname(name) | Data::Ptr(name) => [Some(name), None],
        Data::Soa(soa) => [Some(&soa.mname), Some(&soa.rname)],
        data => [data.target(), None],
    };
    [first, second].into_iter().flatten()
}

fn template(question: &Question, base: &Name, answer: &Answer, avoid: Vec<Box<[u8]>>) -> Option<Template> {
    let octets =
        [question.name.as_wire(), &question.qtype.0.to_be_bytes(), &question.class.to_be_bytes()].concat();
    let frame = Frame {
        id: 0,
        flags: 0,
        question: &octets,
        edns: false,
        dnssec_ok: false,
        options: &[],
        padded: false,
        limit: UDP_OCTETS_MAX,
        over: Over::Udp,
    };
    let (reply, places) = frame.encode_with_pointers(answer);
    let number = |at: usize| u16::from_be_bytes([reply[at], reply[at + 1]]);
    let counts = [6, 8, 10].map(number);
    let whole = [&answer.answer, &answer.authority, &answer.additional].map(|records| records.len() as u16);
    if counts != whole || number(2) & TC != 0 {
        return None;
    }
    let base_at = HEADER_OCTETS + question.name.as_wire().len() - base.as_wire().len();
    let behind = HEADER_OCTETS + octets.len();
    let pointers = places.into_iter().map(|at| {
        let to = match usize::from(number(at) & 0x3fff) {
            HEADER_OCTETS => To::Question,
            to if to >= behind => To::Records((to - behind) as u16),
            to => To::Base(to.checked_sub(base_at)? as u16),
        };
        Some(Pointer { at: (at - behind) as u16, to })
    });
    Some(Template {
        rcode: answer.rcode,
        authoritative: answer.authoritative,
        onward: answer.onward.is_some(),
        counts,
        pointers: pointers.collect::<Option<_>>()?,
        octets: reply[behind..].into(),
        avoid: avoid.into(),
    })
}
