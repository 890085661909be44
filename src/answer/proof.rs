//! What a signed zone answers besides: its keys, and the proof of what is not there (RFC 9824).
//!
//! Signatures are no business of an answer, which is a function of view and question: it says that they belong to it
//! ([`super::Signed`]), and [`keys_over`] says whose.

use std::sync::Arc;

use super::files::records;
use super::{Asked, Dnssec, Found, Question, Selection, Served, Taken};
use crate::grammar;
use crate::name::{Apex, Name};
use crate::record::{Record, RrSet, Type};
use crate::sign::{KEYS_TTL, ZoneKeys, denial};
use crate::view::{NEGATIVE_TTL, View};
use crate::zone;

/// Types that the registry has records of; the record tree says which it has itself.
const TYPES: [Type; 9] =
    [Type::A, Type::AAAA, Type::SRV, Type::TXT, Type::PTR, Type::HTTPS, Type::SVCB, Type::NS, Type::SOA];

/// What is at a name, whatever was asked.
enum There {
    Types(Vec<Type>),
    Nothing,
    /// Another zone begins here, or above: these types of it are ours.
    Cut(Name, Vec<Type>),
}

/// A signed zone.
pub(super) struct Signing<'a> {
    pub keys: Arc<ZoneKeys>,
    apex: &'a Apex,
}

impl<'a> Signing<'a> {
    /// The keys of the zone, where it is signed.
    pub fn of(view: &View, served: &Served<'a>) -> Option<Self> {
        let Served::Live(apex) = served else { return None };
        Some(Self { keys: view.keys_of(apex.name())?, apex })
    }

    /// What a signed zone has that it has not otherwise.
    pub fn find(&self, view: &View, asked: &Asked<'_>, qname: &Name) -> Option<Found> {
        let plain = |records| Some(Found::Records(Selection { records, ..Selection::default() }));
        match asked.question.qtype {
            qtype @ (Type::DNSKEY | Type::CDS | Type::CDNSKEY) if qname == self.apex.name() => {
                let set = self.keys.sets().iter().find(|set| set.rtype == qtype)?;
                plain(records(qname, [set]))
            }
            Type::DS if qname != self.apex.name() && is_apex(view, qname) => match view.keys_of(qname) {
                None => Some(Found::NoData(None)),
                Some(keys) => {
                    let set = RrSet { rtype: Type::DS, ttl: KEYS_TTL, data: keys.ds() };
                    plain(records(qname, [&set]))
                }
            },
            // It is in the bitmap of every name, so it has to be there (RFC 4035 section 3.1.1).
            Type::NSEC => plain(vec![self.denial(view, asked, qname)?]),
            Type::RRSIG => {
                let question = Question { qtype: Type::ANY, ..asked.question.clone() };
                match Served::Live(self.apex).find(view, &Asked { question: &question, ..*asked }, qname) {
                    Found::Records(selection) => plain(selection.records),
                    Found::Alias(record, ..) => plain(vec![record]),
                    Found::NoData(_) | Found::NoName(_) => plain(vec![self.denial(view, asked, qname)?]),
                    Found::Referral(..) | Found::Renamed(..) => None,
                }
            }
            _ => None,
        }
    }

    /// NSEC at `qname`; none below another zone's apex.
    pub fn denial(&self, view: &View, asked: &Asked<'_>, qname: &Name) -> Option<Record> {
        let apex = self.apex.name();
        let (next, types) = match self.there(view, asked, qname) {
            There::Types(types) => (denial::behind(qname, apex), types),
            There::Nothing => (denial::behind(qname, apex), vec![Type::NXNAME]),
            There::Cut(cut, types) if cut == *qname => (denial::beside(qname, apex), types),
            There::Cut(..) => return None,
        };
        let data = denial::nsec(&next, &types);
        Some(Record { owner: qname.clone(), ttl: NEGATIVE_TTL, data })
    }

    /// What goes into a referral beside its name servers: DS, or that there is none (RFC 4035 section 3.1.4).
    pub fn beside_referral(&self, view: &View, asked: &Asked<'_>, cut: &Name) -> Vec<Record> {
        let tree = view.zones().trees.iter().find(|tree| tree.apex == *self.apex.name()).cloned();
        let node = tree.as_ref().and_then(|tree| tree.node(cut));
        match node.and_then(|node| node.set(Type::DS)) {
            Some(set) => records(cut, [set]),
            None => self.denial(view, asked, cut).into_iter().collect(),
        }
    }

    fn there(&self, view: &View, asked: &Asked<'_>, qname: &Name) -> There {
        let apex = self.apex.name();
        if qname != apex && is_apex(view, qname) {
            let ds = view.is_signed(qname).then_some(Type::DS);
            return There::Cut(qname.clone(), [Type::NS].into_iter().chain(ds).collect());
        }
        let zones = view.zones();
        let tree = zones.trees.iter().find(|tree| tree.apex == *apex);
        let planted = match tree.map(|tree| tree.find(qname)) {
            Some(zone::Found::Delegation(cut)) => {
                let ds = cut.set(Type::DS).map(|set| set.rtype);
                return There::Cut(cut.name.clone(), [Type::NS].into_iter().chain(ds).collect());
            }
            // As of a cut: here is nothing to deny.
            Some(zone::Found::Renamed(node)) => return There::Cut(node.name.clone(), Vec::new()),
            Some(zone::Found::Node(node) | zone::Found::Wildcard(node)) => &node.sets[..],
            Some(zone::Found::Nothing) | None => &[],
        };
        let planted = planted.iter().map(|set| set.rtype).filter(|rtype| !TYPES.contains(rtype));
        let mut there = Vec::new();
        let mut exists = false;
        for rtype in planted.chain(TYPES) {
            let question = Question { name: qname.clone(), qtype: rtype, class: asked.question.class };
            let asked =
                Asked { question: &question, room: usize::MAX, edns: false, taken: Taken::First, ..*asked };
            match Served::Live(self.apex).find(view, &asked, qname) {
                // An alias in the tree stands alone; of an instance elsewhere only the addresses are aliases.
                Found::Records(_) if rtype == Type::CNAME => return There::Types(vec![Type::CNAME]),
                Found::Records(_) | Found::Alias(..) => there.push(rtype),
                Found::NoData(_) => exists = true,
                Found::NoName(_) | Found::Referral(..) | Found::Renamed(..) => {}
            }
        }
        if qname == apex {
            there.extend(self.keys.sets().iter().map(|set| set.rtype));
        }
        if there.is_empty() && !exists { There::Nothing } else { There::Types(there) }
    }
}

/// True where a zone of ours begins at this name.
fn is_apex(view: &View, name: &Name) -> bool {
    Served::of(view, name).is_some_and(|served| match served {
        Served::Live(apex) => apex.name() == name,
        Served::Consul(zone) => zone.apex.name() == name,
        Served::Static(zone) => zone.apex == *name,
        Served::Reverse(prefix) => prefix.name() == *name,
    })
}

/// The zone above the one that begins at `name`: the one that knows its DS (RFC 4035 section 3.1.4.1). None where that is
/// the registry's and not signed, which knows nothing of zones below.
pub(super) fn above<'a>(view: &'a View, name: &Name) -> Option<Served<'a>> {
    if !is_apex(view, name) {
        return None;
    }
    let above = Name::from_wire(name.suffixes().nth(1)?).ok()?;
    let knows =
        |served: &Served<'_>| matches!(served, Served::Static(_)) || Signing::of(view, served).is_some();
    Served::of(view, &above).filter(knows)
}

/// True where a zone of ours begins at `name` and the one above is another server's, and with it the DS (RFC 4035 section
/// 3.1.4.1).
pub(super) fn is_below_others(view: &View, name: &Name) -> bool {
    let above = name.suffixes().nth(1).and_then(|above| Name::from_wire(above).ok());
    above.is_some_and(|above| is_apex(view, name) && Served::of(view, &above).is_none())
}

/// The keys that sign the records of this owner and type; none where they are of no signed zone, or another one's, which
/// begins there. NSEC stands `beside` the SOA of its zone, where there is one.
pub fn keys_over(view: &View, owner: &Name, rtype: Type, beside: Option<&Name>) -> Option<Arc<ZoneKeys>> {
    let zone = match rtype {
        Type::RRSIG => return None,
        Type::DS => above(view, owner).or_else(|| Served::of(view, owner)),
        Type::NSEC => Served::of(view, beside.unwrap_or(owner)),
        _ => Served::of(view, owner),
    };
    let signing = Signing::of(view, &zone?)?;
    let zones = view.zones();
    let tree = zones.trees.iter().find(|tree| tree.apex == signing.keys.apex);
    match tree.map(|tree| tree.find(owner)) {
        Some(zone::Found::Delegation(cut)) => {
            let ours = cut.name == *owner && matches!(rtype, Type::DS | Type::NSEC);
            ours.then_some(signing.keys)
        }
        // What a DNAME makes of a name has no signature (RFC 6672 section 5.3.1).
        Some(zone::Found::Renamed(_)) => None,
        _ => Some(signing.keys),
    }
}

/// The service whose view the signatures over records of this owner belong to; none for what is nobody's, a denial above all:
/// anybody invents names.
pub fn service_of(view: &View, owner: &Name, rtype: Type) -> Option<String> {
    let apex = view.apex_of(owner).filter(|_| rtype != Type::NSEC)?;
    let lower = owner.to_lowercase();
    let labels = lower.labels_below(apex.name())?;
    grammar::parse(&labels)?.service().map(str::to_owned)
}

impl Dnssec {
    /// From the two flags of the OPT record.
    pub fn of(dnssec_ok: bool, compact_ok: bool) -> Self {
        match (dnssec_ok, compact_ok) {
            (false, _) => Self::Nothing,
            (true, false) => Self::Signatures,
            (true, true) => Self::Compact,
        }
    }
}

/// Octets that a signature takes of the room for its RRset.
pub(super) fn signature_octets(keys: &ZoneKeys) -> usize {
    2 + super::FIXED_OCTETS
        + crate::sign::RRSIG_FIXED_OCTETS
        + keys.apex.as_wire().len()
        + crate::sign::SIGNATURE_OCTETS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::{Settings, Zones};

    #[test]
    fn signatures_are_kept_with_whose_they_are() {
        let apex = Apex::parse("service.local").unwrap();
        let view = View::new(Settings::new(vec![apex]), Zones::default());
        let of = |text: &str, rtype| service_of(&view, &Name::parse(text).unwrap(), rtype);
        assert_eq!(of("WEB-1.Web.service.local", Type::A).as_deref(), Some("web"));
        assert_eq!(of("_web._tcp.service.local", Type::SRV).as_deref(), Some("web"));
        assert_eq!(of("_web._tcp.service.local", Type::NSEC), None, "a denial is nobody's");
        assert_eq!(of("service.local", Type::SOA), None);
        assert!(keys_over(&view, &Name::parse("service.local").unwrap(), Type::SOA, None).is_none());
    }
}
