//! An answer is a function of a view and what was asked.
//!
//! The algorithm is RFC 1034 section 4.3.2, once, for the live zone and the static ones: find the zone,
//! find the name in it, follow aliases, add the addresses of targets. There is no error: the rcode is the
//! value. What is not known for sure is SERVFAIL, never "no such name" (RFC 2308 section 7).
//!
//! Sizes are counted here as far as choice needs them: of a live set as many records stay as fit. The
//! last word on octets is `dns::wire`'s.

mod proof;

use std::net::IpAddr;
use std::sync::Arc;

use self::proof::Signing;
pub use self::proof::{keys_over, service_of};

use crate::grammar::reverse::{self, Prefix};
use crate::live;
use crate::name::{Apex, Name, ServiceName};
use crate::record::{Data, Record, RrSet, Type};
use crate::view::{ConsulZone, EDE_OCTETS_MAX, NEGATIVE_TTL, View, Worth};
use crate::zone::{self, Zone};

/// CNAMEs followed for one question; longer chains are a mistake or an attack.
const ALIASES_MAX: usize = 9;
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
    /// The name that is not ours: the question's, or the one that its aliases lead to. Another server knows.
    pub onward: Option<Name>,
    pub signed: Signed,
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
    /// And nothing else: they were asked for.
    Only,
}

/// RFC 6895 section 2.3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rcode {
    #[default]
    NoError = 0,
    FormErr = 1,
    ServFail = 2,
    NxDomain = 3,
    NotImp = 4,
    Refused = 5,
    YxDomain = 6,
    YxRrSet = 7,
    NxRrSet = 8,
    NotAuth = 9,
    NotZone = 10,
    BadVers = 16,
    BadCookie = 23,
}

/// An Extended DNS Error (RFC 8914): its code and a text of at most `EDE_OCTETS_MAX` octets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ede {
    pub code: u16,
    pub text: Box<str>,
}

impl Ede {
    pub const OTHER: u16 = 0;
    pub const STALE_ANSWER: u16 = 3;
    pub const STALE_NXDOMAIN_ANSWER: u16 = 19;
    pub const CACHED_ERROR: u16 = 13;
    pub const NOT_READY: u16 = 14;
    pub const PROHIBITED: u16 = 18;
    pub const NOT_AUTHORITATIVE: u16 = 20;
    pub const NOT_SUPPORTED: u16 = 21;
    pub const NO_REACHABLE_AUTHORITY: u16 = 22;
    pub const NETWORK_ERROR: u16 = 23;
    pub const INVALID_QUERY_TYPE: u16 = 30;

    /// The code of what is answered from an old view (RFC 8914 sections 4.4 and 4.20).
    pub fn stale(rcode: Rcode) -> u16 {
        match rcode {
            Rcode::NxDomain => Self::STALE_NXDOMAIN_ANSWER,
            _ => Self::STALE_ANSWER,
        }
    }

    /// Some words repeat a label of the question, which may hold any octet: what a terminal would obey
    /// is taken out.
    pub fn new(code: u16, text: impl Into<String>) -> Self {
        let mut text = text.into().replace(char::is_control, "?");
        while text.len() > EDE_OCTETS_MAX {
            text.pop();
        }
        Self { code, text: text.into() }
    }
}

impl Answer {
    /// No record, no authority: REFUSED, NOTIMP, FORMERR, SERVFAIL.
    pub fn bare(rcode: Rcode, ede: Option<Ede>) -> Self {
        Self { rcode, ede, ..Self::default() }
    }

    /// Some of it is of a signed zone.
    fn expect_signatures(&mut self, asked: &Asked<'_>) {
        self.signed = match (asked.question.qtype, asked.dnssec) {
            (Type::RRSIG, _) => Signed::Only,
            (_, Dnssec::Nothing) => self.signed,
            (_, Dnssec::Signatures | Dnssec::Compact) => Signed::Yes,
        };
        self.compact = asked.dnssec == Dnssec::Compact;
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
            let why = match view.worth() {
                Worth::TooOld => "the store could not be followed for too long",
                _ => "the registry is not loaded yet",
            };
            return Answer::bare(Rcode::ServFail, Some(Ede::new(Ede::NOT_READY, why)));
        }
        let signing = Signing::of(view, &served);
        let asked = &Asked { room, ..*asked }.in_zone(signing.as_ref());
        if signing.is_some() {
            answer.expect_signatures(asked);
        }
        let special = signing.as_ref().and_then(|signing| signing.find(view, asked, &qname));
        let found = special.unwrap_or_else(|| served.find(view, asked, &qname));
        // Who takes no signatures is denied without a proof.
        let proving = signing.filter(|_| asked.dnssec != Dnssec::Nothing);
        match found {
            Found::Records(selection) => {
                answer.truncated = selection.cut && asked.over.is_datagram();
                answer.answer.extend(selection.records);
                answer.additional = selection.additional;
                answer.ede = selection.ede.or(answer.ede);
                return answer;
            }
            Found::Alias(record, target, ede) => {
                answer.ede = answer.ede.or(ede);
                let again = answer.answer.iter().any(|known| known.owner == target) || record.owner == target;
                room =
                    room.saturating_sub(record.owner.as_wire().len() + FIXED_OCTETS + target.as_wire().len());
                if let Some(signing) = &proving {
                    room = room.saturating_sub(proof::signature_octets(&signing.keys));
                }
                answer.answer.push(record);
                if again {
                    return answer; // a loop: each alias once (RFC 1034 section 3.6.2)
                }
                qname = target;
            }
            Found::Referral(servers, glue) => {
                answer.authoritative = !answer.answer.is_empty();
                if let (Some(signing), Some(first)) = (&proving, servers.first()) {
                    answer.authority = signing.beside_referral(view, asked, &first.owner);
                }
                answer.authority.splice(0..0, servers);
                if answer.signed == Signed::Only {
                    // Those that were asked for are another server's.
                    answer.signed = if asked.dnssec == Dnssec::Nothing { Signed::No } else { Signed::Yes };
                }
                answer.additional = glue;
                return answer;
            }
            Found::NoData(ede) => {
                answer.deny(served.soa(view), proving.and_then(|zone| zone.denial(view, asked, &qname)), ede);
                return answer;
            }
            Found::NoName(ede) => {
                let denial = proving.as_ref().and_then(|zone| zone.denial(view, asked, &qname));
                // The proof says that the name is there, and so does the rcode, but to who knows better (RFC 9824 section 5); and it
                // is there where another type of it is, which a service that is only known by its failover may have.
                let denied = match (&proving, &denial) {
                    (Some(zone), Some(denial)) => answer.compact && zone.denies_name(&qname, denial),
                    _ => true,
                };
                if denied {
                    answer.rcode = Rcode::NxDomain; // of the last name in the chain (RFC 6604 section 3)
                }
                answer.deny(served.soa(view), denial, ede);
                return answer;
            }
        }
    }
    answer
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
            Self::Static(zone) => {
                let (soa, ttl) = zone.soa()?;
                return Some(Record {
                    owner: zone.apex.clone(),
                    ttl: ttl.min(soa.minimum),
                    data: Data::Soa(soa.clone()),
                });
            }
        };
        let data = Data::Soa(Arc::new(view.soa(apex)));
        Some(Record { owner: apex.name().clone(), ttl: NEGATIVE_TTL, data })
    }

    fn find(&self, view: &View, asked: &Asked<'_>, qname: &Name) -> Found {
        match self {
            Self::Static(zone) => find_static(view, zone, asked, qname, true),
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
                // A wildcard stands for names that have nothing above them but the apex: not for
                // those below a name of the registry (RFC 4592 section 3.3.1).
                let wildcards = matches!(found, Found::NoName(_)) && !live::has_top_of(view, apex, qname);
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

// --- static zones ---------------------------------------------------------------------------------

fn find_static(view: &View, zone: &Zone, asked: &Asked<'_>, qname: &Name, wildcards: bool) -> Found {
    let node = match zone.find(qname) {
        zone::Found::Node(node) => node,
        zone::Found::Wildcard(node) if wildcards => node,
        zone::Found::Wildcard(_) => return Found::NoName(None),
        zone::Found::Delegation(cut) => {
            // The parent is the one that knows DS (RFC 4035 section 3.1.4.1).
            if asked.question.qtype == Type::DS && cut.name == *qname {
                return match cut.set(Type::DS) {
                    Some(set) => {
                        let records = records(qname, [set]);
                        Found::Records(Selection { records, ..Selection::default() })
                    }
                    None => Found::NoData(None),
                };
            }
            let servers = records(&cut.name, cut.sets.iter().filter(|set| set.rtype == Type::NS));
            let glue = servers.iter().filter_map(|record| record.data.target());
            let glue = glue
                .filter(|target| target.is_within(&cut.name))
                .flat_map(|target| static_addresses(zone, target));
            return Found::Referral(servers.clone(), glue.collect());
        }
        zone::Found::Nothing => return Found::NoName(None),
    };
    let set = node.sets.iter().find(|set| set.rtype == asked.question.qtype);
    let alias = node.sets.iter().find(|set| set.rtype == Type::CNAME);
    // RFC 8482 section 4.1: one RRset answers ANY.
    let set = set.or(if asked.question.qtype == Type::ANY { node.sets.first() } else { None });
    match (set, alias) {
        (Some(set), _) => {
            let mut selection = Selection { records: records(qname, [set]), ..Selection::default() };
            selection.additional = additional(view, &selection.records);
            Found::Records(selection)
        }
        (None, Some(set)) => match &set.data[..] {
            [Data::Cname(target), ..] => {
                let record = Record { owner: qname.clone(), ttl: set.ttl, data: Data::Cname(target.clone()) };
                Found::Alias(record, target.clone(), None)
            }
            _ => Found::NoData(None),
        },
        (None, None) => Found::NoData(None),
    }
}

fn records<'a>(owner: &Name, sets: impl IntoIterator<Item = &'a RrSet>) -> Vec<Record> {
    let mut records = Vec::new();
    for set in sets {
        let of_set =
            set.data.iter().map(|data| Record { owner: owner.clone(), ttl: set.ttl, data: data.clone() });
        records.extend(of_set);
    }
    records
}

pub(crate) fn static_addresses(zone: &Zone, name: &Name) -> Vec<Record> {
    let sets = zone.node(name).map(|node| node.sets.as_slice()).unwrap_or_default();
    records(name, sets.iter().filter(|set| matches!(set.rtype, Type::A | Type::AAAA)))
}

/// The addresses of every target in `records` that is a name of ours, each once.
pub(crate) fn additional(view: &View, records: &[Record]) -> Vec<Record> {
    let mut additional: Vec<Record> = Vec::new();
    for target in records.iter().filter_map(|record| record.data.target()) {
        if additional.iter().any(|known| known.owner == *target) {
            continue;
        }
        match Served::of(view, target) {
            Some(Served::Static(zone)) => additional.extend(static_addresses(&zone, target)),
            Some(Served::Live(apex)) => additional.extend(live::addresses(view, apex, target)),
            Some(Served::Consul(zone)) => additional.extend(live::consul::addresses(view, zone, target)),
            Some(Served::Reverse(_)) | None => {}
        }
    }
    additional
}

/// Names looked at for one that is nearly spelt so: a hint is not worth more.
const NEAREST_LOOKED_AT_MAX: usize = 20_000;

/// The service whose name is within reach of a typing mistake.
pub fn nearest_service(view: &View, name: &str) -> Option<ServiceName> {
    let directory = view.directory();
    let names = directory.names().map(ServiceName::as_str).take(NEAREST_LOOKED_AT_MAX);
    let as_long = names.filter(|known| known.len().abs_diff(name.len()) <= 1 + known.len() / 4);
    let nearest = crate::protocol::nearest(name, as_long)?;
    ServiceName::parse(nearest).ok()
}
