//! An answer is a function of a view and what was asked.
//!
//! The algorithm is RFC 1034 section 4.3.2, once, for the live zone and the static ones: find the zone,
//! find the name in it, follow aliases, add the addresses of targets. There is no error: the rcode is the
//! value. What is not known for sure is SERVFAIL, never "no such name" (RFC 2308 section 7).
//!
//! Sizes are counted here as far as choice needs them: of a live set as many records stay as fit. The
//! last word on octets is `dns::wire`'s.

mod files;
mod proof;
mod rcode;

use std::net::IpAddr;
use std::sync::Arc;

use self::files::find_static;
pub use self::files::nearest_service;
pub(crate) use self::files::octets_of;
pub(crate) use self::files::{additional, static_addresses};
use self::proof::Signing;
pub use self::proof::{keys_over, service_of};
pub use self::rcode::{Ede, Rcode};
use crate::grammar::reverse::{self, Prefix};
use crate::live;
use crate::name::{Apex, Name};
use crate::record::{Data, Record, Type};
use crate::view::{ConsulZone, NEGATIVE_TTL, View, Worth};
use crate::zone::{Node, Zone};

/// CNAMEs followed for one question: a few more than other servers follow (BIND 11, NSD 10). Longer chains are a mistake or an
/// attack.
const ALIASES_MAX: usize = 16;
/// Octets of a record besides owner and data: type, class, TTL, length (RFC 1035 section 4.1.3).
pub(crate) const FIXED_OCTETS: usize = 10;

/// The Internet, the one class that we serve.
pub const CLASS_IN: u16 = 1;

/// What a query asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// As it was spelt: the reply echoes it.
    pub name: Name,
    pub qtype: Type,
    pub class: u16,
}

impl Question {
    /// IXFR or AXFR of the one class that we serve: not records, but a zone.
    pub fn is_transfer(&self) -> bool {
        self.class == CLASS_IN && matches!(self.qtype, Type::IXFR | Type::AXFR)
    }
}

/// A question with everything that the answer depends on.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub question: &'a Question,
    pub client: IpAddr,
    pub over: Over,
    /// Octets left for records, after header, question and OPT.
    pub room: usize,
    /// The client reads OPT, and with it Extended DNS Errors.
    pub edns: bool,
    /// One random number: all the chance there is in an answer.
    pub draw: u64,
    /// What the client takes of DNSSEC.
    pub dnssec: Dnssec,
    /// How much of each RRset it is about.
    pub taken: Taken,
}

/// What a client says that it takes of DNSSEC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dnssec {
    #[default]
    Nothing,
    /// DO (RFC 3225): signatures, and what denies.
    Signatures,
    /// CO besides (RFC 9824 section 5): a name that is not there may be NXDOMAIN as well.
    Compact,
}

/// How much of an RRset is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Taken {
    /// What is chosen for this client, and fits.
    #[default]
    Chosen,
    /// Everything: what is signed is one set for everybody.
    Whole,
    /// One record, for who wants to know whether there is any.
    First,
}

/// What carries the reply: what does not fit a datagram is asked for again over a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    Udp,
    Tcp,
    /// RFC 7858.
    Tls,
    /// RFC 8484.
    Https,
    /// RFC 9250.
    Quic,
}

impl Over {
    /// What does not fit is cut, and the client told; everything else carries 64 KiB.
    pub fn is_datagram(self) -> bool {
        self == Self::Udp
    }

    /// Nobody on the way can read what is carried, so its size is worth hiding (RFC 7830 section 6).
    pub fn is_encrypted(self) -> bool {
        match self {
            Self::Udp | Self::Tcp => false,
            Self::Tls | Self::Https | Self::Quic => true,
        }
    }

    /// Its connections end after some time without a message, and the client may be told (RFC 7828).
    pub fn tells_idle_time(self) -> bool {
        matches!(self, Self::Tcp | Self::Tls)
    }
}

/// What goes into a reply besides header, question and OPT.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    pub rcode: Rcode,
    pub authoritative: bool,
    /// Records of the answer section had to go.
    pub truncated: bool,
    pub answer: Vec<Record>,
    pub authority: Vec<Record>,
    /// Each RRset in one run; may be cut short silently (RFC 2181 section 9), but not in a referral.
    pub additional: Vec<Record>,
    pub ede: Option<Ede>,
    /// The name that is not ours: the question's, or the one that its aliases lead to. Another server knows. Of DS also the
    /// apex of a zone of ours where the one above is nobody's here: beside what our own zone says.
    pub onward: Option<Name>,
    pub signed: Signed,
    /// Every name that somebody invents has such an answer, whatever the rcode says: a compact denial says NOERROR (RFC 9824
    /// section 2). To a rate limit they are one.
    pub of_any_name: bool,
    /// CO (RFC 9824 section 5): the client may be told NXDOMAIN beside a denial that says the name is there.
    pub compact: bool,
}

/// Which signatures go along.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Signed {
    #[default]
    No,
    /// Of each RRset behind it.
    Yes,
    /// And nothing else but so many records in front, the aliases on the way (two for each of `ALIASES_MAX` at most): they were
    /// asked for.
    Only(u8),
}

impl Answer {
    /// No record, no authority: REFUSED, NOTIMP, FORMERR, SERVFAIL.
    pub fn bare(rcode: Rcode, ede: Option<Ede>) -> Self {
        Self { rcode, ede, ..Self::default() }
    }

    /// Some of it is of a signed zone.
    fn expect_signatures(&mut self, asked: &Asked<'_>) {
        self.signed = match (asked.question.qtype, asked.dnssec) {
            (Type::RRSIG, _) => Signed::Only(self.answer.len() as u8),
            (_, Dnssec::Nothing) => self.signed,
            (_, Dnssec::Signatures | Dnssec::Compact) => Signed::Yes,
        };
        self.compact = asked.dnssec == Dnssec::Compact;
    }

    /// False where `target` is an alias that is there already: each once is enough of a loop (RFC 1034 section 3.6.2).
    fn push_alias(&mut self, record: Record, target: &Name) -> bool {
        self.answer.push(record);
        if let Signed::Only(aliases) = &mut self.signed {
            *aliases = self.answer.len() as u8;
        }
        let is_alias_of = |known: &Record| known.owner == *target && known.data.rtype() == Type::CNAME;
        !self.answer.iter().any(is_alias_of)
    }

    fn deny(&mut self, soa: Option<Record>, proof: Option<Record>, ede: Option<Ede>) {
        self.authority = soa.into_iter().chain(proof).collect();
        self.ede = ede.or(self.ede.take());
    }
}

impl<'a> Asked<'a> {
    /// As it is asked of a zone that is signed, where the client takes signatures.
    fn in_zone(self, signing: Option<&Signing<'_>>) -> Self {
        match signing.filter(|_| self.dnssec != Dnssec::Nothing) {
            None => self,
            Some(signing) => {
                let room = self.room.saturating_sub(proof::signature_octets(&signing.keys));
                Self { room, taken: Taken::Whole, ..self }
            }
        }
    }
}

/// What a zone has for a name and type.
pub(crate) enum Found {
    Records(Selection),
    Alias(Record, Name, Option<Ede>),
    /// The DNAME above the name, and what the name is called by it; none where that is longer than a name may be.
    Renamed(Record, Option<Name>),
    /// The name servers of a zone below, and the addresses that they cannot be found without.
    Referral(Vec<Record>, Vec<Record>),
    NoData(Option<Ede>),
    NoName(Option<Ede>),
}

/// Records in the order of the reply, with the additional ones that belong to them.
#[derive(Default)]
pub(crate) struct Selection {
    pub records: Vec<Record>,
    pub additional: Vec<Record>,
    /// Not everything fitted.
    pub cut: bool,
    pub ede: Option<Ede>,
}

/// See the module's own words.
pub fn answer(view: &View, asked: &Asked<'_>) -> Answer {
    let mut answer = find(view, asked);
    if asked.edns
        && let Some(words) = view.stale_words()
        && matches!(answer.rcode, Rcode::NoError | Rcode::NxDomain)
        && Served::of(view, &asked.question.name).is_some_and(|served| !matches!(served, Served::Static(_)))
    {
        // Why there is nothing is worth more words than that it may have changed.
        let words = match answer.ede.take() {
            Some(ede) if answer.answer.is_empty() => ede.text,
            _ => words,
        };
        answer.ede = Some(Ede::new(Ede::stale(answer.rcode), words));
    }
    answer
}

fn find(view: &View, asked: &Asked<'_>) -> Answer {
    let question = asked.question;
    if question.class != CLASS_IN {
        let ede = Ede::new(Ede::NOT_SUPPORTED, "only class IN is served here");
        return Answer::bare(Rcode::Refused, Some(ede));
    }
    let mut answer = Answer { authoritative: true, ..Answer::default() };
    let mut qname = question.name.clone();
    let mut room = asked.room;
    for _ in 0..ALIASES_MAX {
        let above = if question.qtype == Type::DS { proof::above(view, &qname) } else { None };
        let Some(served) = above.or_else(|| Served::of(view, &qname)) else {
            if answer.answer.is_empty() {
                // Out of our zones is not "no such name": we do not know.
                let ede = Ede::new(Ede::NOT_AUTHORITATIVE, "not a name of this server");
                answer = Answer::bare(Rcode::Refused, Some(ede));
            }
            return Answer { onward: Some(qname), ..answer };
        };
        if !matches!(served, Served::Static(_)) && !view.is_ready() {
            return not_ready(view);
        }
        // What is said of it here is for who can have nobody else asked.
        answer.onward =
            (question.qtype == Type::DS && proof::is_below_others(view, &qname)).then(|| qname.clone());
        let signing = Signing::of(view, &served);
        let asked = &Asked { room, ..*asked }.in_zone(signing.as_ref());
        if signing.is_some() {
            answer.expect_signatures(asked);
        }
        let special = signing.as_ref().and_then(|signing| signing.find(view, asked, &qname));
        // A name that is not there has its NSEC as well, and a signature over that.
        answer.of_any_name = special.is_some() && matches!(question.qtype, Type::NSEC | Type::RRSIG);
        let found = special.unwrap_or_else(|| served.find(view, asked, &qname));
        // Who takes no signatures is denied without a proof.
        let proving = signing.filter(|_| asked.dnssec != Dnssec::Nothing);
        let signature_octets = proving.as_ref().map_or(0, |zone| proof::signature_octets(&zone.keys));
        let here = Here { view, served: &served, proving: proving.as_ref(), asked, qname: &qname };
        let target = match found {
            Found::Alias(record, target, ede) => {
                answer.ede = answer.ede.or(ede);
                room = room.saturating_sub(octets_of(&record) + signature_octets);
                if !answer.push_alias(record, &target) {
                    return answer;
                }
                target
            }
            Found::Renamed(dname, target) => {
                let (owner, ttl) = (qname.clone(), dname.ttl);
                if !answer.answer.contains(&dname) {
                    room = room.saturating_sub(octets_of(&dname) + signature_octets);
                    answer.answer.push(dname);
                }
                let Some(target) = target else {
                    answer.rcode = Rcode::YxDomain; // RFC 6672 section 2.2
                    return answer;
                };
                let record = Record { owner, ttl, data: Data::Cname(target.clone()) };
                room = room.saturating_sub(octets_of(&record));
                // Who asks for an alias has it now, as every server has it.
                if !answer.push_alias(record, &target) || question.qtype == Type::CNAME {
                    return answer;
                }
                target
            }
            Found::Records(selection) => return here.with_records(answer, selection),
            Found::Referral(servers, glue) => return here.with_referral(answer, servers, glue),
            Found::NoData(ede) => return here.without_data(answer, ede),
            Found::NoName(ede) => return here.without_name(answer, ede),
        };
        qname = target;
    }
    answer
}

fn not_ready(view: &View) -> Answer {
    let why = match view.worth() {
        Worth::TooOld => "the store could not be followed for too long",
        _ => "the registry is not loaded yet",
    };
    Answer::bare(Rcode::ServFail, Some(Ede::new(Ede::NOT_READY, why)))
}

/// The end of a chain of aliases.
struct Here<'a> {
    view: &'a View,
    served: &'a Served<'a>,
    /// The zone's keys, where the client takes a proof.
    proving: Option<&'a Signing<'a>>,
    asked: &'a Asked<'a>,
    qname: &'a Name,
}

impl Here<'_> {
    fn with_records(&self, mut answer: Answer, selection: Selection) -> Answer {
        answer.truncated = selection.cut && self.asked.over.is_datagram();
        answer.answer.extend(selection.records);
        answer.additional = selection.additional;
        answer.ede = selection.ede.or(answer.ede);
        answer
    }

    fn with_referral(&self, mut answer: Answer, servers: Vec<Record>, glue: Vec<Record>) -> Answer {
        answer.authoritative = !answer.answer.is_empty();
        if let (Some(signing), Some(first)) = (self.proving, servers.first()) {
            answer.authority = signing.beside_referral(self.view, self.asked, &first.owner);
        }
        answer.authority.splice(0..0, servers);
        if matches!(answer.signed, Signed::Only(_)) {
            // Those that were asked for are another server's.
            answer.signed = if self.asked.dnssec == Dnssec::Nothing { Signed::No } else { Signed::Yes };
        }
        answer.additional = glue;
        answer
    }

    fn without_data(&self, mut answer: Answer, ede: Option<Ede>) -> Answer {
        answer.deny(self.served.soa(self.view), self.denial(), ede);
        answer
    }

    fn without_name(&self, mut answer: Answer, ede: Option<Ede>) -> Answer {
        let denial = self.denial();
        // The proof says that the name is there, and so does the rcode, but to who knows better (RFC 9824 section 5).
        if denial.is_none() || answer.compact {
            answer.rcode = Rcode::NxDomain; // of the last name in the chain (RFC 6604 section 3)
        }
        answer.of_any_name = true;
        answer.deny(self.served.soa(self.view), denial, ede);
        answer
    }

    fn denial(&self) -> Option<Record> {
        self.proving.and_then(|zone| zone.denial(self.view, self.asked, self.qname))
    }
}

/// A zone that we answer for.
enum Served<'a> {
    Live(&'a Apex),
    /// The same registry, asked in Consul's words.
    Consul(&'a ConsulZone),
    /// Names for addresses, by the zone's own prefix.
    Reverse(Prefix),
    Static(Arc<Zone>),
}

impl<'a> Served<'a> {
    /// The zone with the longest apex that `qname` is at or below.
    fn of(view: &'a View, qname: &Name) -> Option<Self> {
        let zones = view.zones();
        let octets = |name: &Name| name.as_wire().len();
        let primary = zones
            .primary
            .iter()
            .filter(|zone| qname.is_within(&zone.apex))
            .max_by_key(|zone| octets(&zone.apex));
        let alias = view.settings.consul.as_ref().filter(|zone| qname.is_within(zone.apex.name()));
        let networks = view.settings.reverse.as_slice();
        let spelt = if networks.is_empty() { None } else { reverse::read(qname) };
        let reverse = spelt.and_then(|(prefix, _)| prefix.zone(networks));
        // Of two of one name the later: what is live hides a file.
        let served = [
            primary.map(|zone| (octets(&zone.apex), Self::Static(zone.clone()))),
            alias.map(|zone| (octets(zone.apex.name()), Self::Consul(zone))),
            reverse.map(|prefix| (octets(&prefix.name()), Self::Reverse(prefix))),
            view.apex_of(qname).map(|apex| (octets(apex.name()), Self::Live(apex))),
        ];
        served.into_iter().flatten().max_by_key(|(octets, _)| *octets).map(|(_, served)| served)
    }

    /// The SOA as negative answers carry it: its TTL is at most its minimum (RFC 2308 section 3).
    fn soa(&self, view: &View) -> Option<Record> {
        let apex = match self {
            Self::Live(apex) => apex,
            Self::Consul(zone) => &zone.apex,
            Self::Reverse(prefix) => {
                let data = Data::Soa(Arc::new(view.soa(&view.settings.apexes[0])));
                return Some(Record { owner: prefix.name(), ttl: NEGATIVE_TTL, data });
            }
            Self::Static(zone) => return denying_soa(zone),
        };
        let data = Data::Soa(Arc::new(view.soa(apex)));
        Some(Record { owner: apex.name().clone(), ttl: NEGATIVE_TTL, data })
    }

    fn find(&self, view: &View, asked: &Asked<'_>, qname: &Name) -> Found {
        match self.look(view, asked, qname) {
            // Another zone of ours begins here, as DS is asked for above it, or below: the name is there, whatever this zone
            // has of it, or resolvers would take all below it for not there (RFC 8020).
            Found::NoName(_) if view.is_above_a_zone(qname) => Found::NoData(None),
            found => found,
        }
    }

    /// What the zone itself has.
    fn look(&self, view: &View, asked: &Asked<'_>, qname: &Name) -> Found {
        match self {
            Self::Static(zone) => find_static(view, zone, asked, qname, |_| true),
            Self::Consul(zone) => live::consul::find(view, zone, asked, qname),
            Self::Reverse(apex) => live::reverse::find(view, apex, asked, qname),
            Self::Live(apex) => {
                let found = live::find(view, apex, asked, qname);
                let zones = view.zones();
                let Some(tree) = zones.trees.iter().find(|tree| tree.apex == *apex.name()) else {
                    return found;
                };
                if !matches!(found, Found::NoData(_) | Found::NoName(_)) {
                    return found;
                }
                // A wildcard stands for what is below its own parent, with no name on the way: nor one of the
                // registry (RFC 4592 section 3.3.1).
                let wildcards = |wildcard: &Node| {
                    let parent = wildcard.name.suffixes().nth(1).unwrap_or_default();
                    matches!(found, Found::NoName(_)) && !live::has_between(view, apex, asked, parent, qname)
                };
                match (find_static(view, tree, asked, qname, wildcards), &found) {
                    (Found::NoName(_), _) => found,
                    // The registry has the name as well, and its reason is the better one.
                    (Found::NoData(_), Found::NoData(_)) => found,
                    (planted, _) => planted,
                }
            }
        }
    }
}

/// The SOA of a static zone as negative answers carry it: its TTL is at most its minimum (RFC 2308 section 3).
pub fn denying_soa(zone: &Zone) -> Option<Record> {
    let (soa, ttl) = zone.soa()?;
    Some(Record { owner: zone.apex.clone(), ttl: ttl.min(soa.minimum), data: Data::Soa(soa.clone()) })
}

/// True of a name in a zone of ours.
pub fn is_served(view: &View, name: &Name) -> bool {
    Served::of(view, name).is_some()
}

/// True of a name that the registry says nothing about: of a static zone, or of none.
pub fn is_of_files(view: &View, name: &Name) -> bool {
    matches!(Served::of(view, name), None | Some(Served::Static(_)))
}
