//! A signed zone, seen by a validator of the tests' own: it reads octets, folds names and verifies signatures by itself, and knows
//! RFC 4034, 4035 and 9824 from nowhere else than their texts.
//!
//! What delv, unbound and others say of a server is in `tests/dnssec.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use callsign::answer::Over;
use callsign::balance::Draws;
use callsign::clock::Clock;
use callsign::dns::cookie::Secret;
use callsign::dns::limit::Limiter;
use callsign::dns::wire::{Arrival, Responder, UDP_OCTETS_MAX};
use callsign::name::{Apex, Name};
use callsign::record::Type;
use callsign::sign::{COMING_S, Key, LIFE_S, Times, ZoneKeys, draw};
use callsign::time::{Now, Wall};
use callsign::view::{Settings, View, Zones};
use callsign::zone::Kind;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

use super::fixture::{Live, Wanted, policy, services, zone};
use super::fuzz::Chance;
use super::{CLIENT, SENTINEL_ID};

const APEX: &[u8] = b"\x07service\x05local\0";
const A: u16 = 1;
const NS: u16 = 2;
const CNAME: u16 = 5;
const SOA: u16 = 6;
const PTR: u16 = 12;
const TXT: u16 = 16;
const AAAA: u16 = 28;
const SRV: u16 = 33;
const DNAME: u16 = 39;
const DS: u16 = 43;
const RRSIG: u16 = 46;
const NSEC: u16 = 47;
const DNSKEY: u16 = 48;
const CDS: u16 = 59;
const CDNSKEY: u16 = 60;
const HTTPS: u16 = 65;
const NXNAME: u16 = 128;
const ANY: u16 = 255;
/// Flags of the OPT record.
const DO: u16 = 0x8000;
const CO: u16 = 0x4000;
/// Seconds since 1970 of the first moment of each test.
const START_S: u64 = 1_800_000_000;
/// Registries, and questions to each of them; `CALLSIGN_SEED` draws others.
const VIEWS: u64 = 60;
const QUESTIONS: usize = 100;

// --- reading ------------------------------------------------------------------------------------------

/// Records of one owner and type, and the signatures over them; names are in lower case.
#[derive(Debug, Default)]
struct Set {
    ttls: BTreeSet<u32>,
    data: BTreeSet<Vec<u8>>,
    signatures: Vec<Vec<u8>>,
}

type Section = BTreeMap<(Vec<u8>, u16), Set>;

#[derive(Debug)]
struct Reply {
    rcode: u8,
    flags: u16,
    /// Of the OPT record.
    edns_flags: u16,
    sections: [Section; 3],
}

impl Reply {
    fn is_truncated(&self) -> bool {
        self.flags & 0x0200 != 0
    }

    fn set(&self, section: usize, owner: &[u8], rtype: u16) -> &Set {
        let found = self.sections[section].get(&(owner.to_vec(), rtype));
        found.unwrap_or_else(|| panic!("no {rtype} at {owner:02x?} in {self:#?}"))
    }
}

fn number(message: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([message[at], message[at + 1]])
}

/// The name at `at`, in lower case, and where what is behind it begins.
fn name(message: &[u8], mut at: usize) -> (Vec<u8>, usize) {
    let (mut out, mut end) = (Vec::new(), None);
    loop {
        let length = usize::from(message[at]);
        if length >= 0xc0 {
            end = end.or(Some(at + 2));
            at = usize::from(number(message, at) & 0x3fff);
            continue;
        }
        out.extend(message[at..=at + length].to_ascii_lowercase());
        at += 1 + length;
        if length == 0 {
            return (out, end.unwrap_or(at));
        }
    }
}

/// Data as a signature sees them.
fn canonical(message: &[u8], rtype: u16, at: usize, octets: usize) -> Vec<u8> {
    let plain = &message[at..at + octets];
    match rtype {
        NS | CNAME | PTR => name(message, at).0,
        15 => [&plain[..2], &name(message, at + 2).0].concat(),
        SRV => [&plain[..6], &name(message, at + 6).0].concat(),
        SOA => {
            let (mname, behind) = name(message, at);
            let (rname, behind) = name(message, behind);
            [mname, rname, message[behind..behind + 20].to_vec()].concat()
        }
        _ => plain.to_vec(),
    }
}

fn read(message: &[u8]) -> Reply {
    let mut at = 12;
    for _ in 0..number(message, 4) {
        at = name(message, at).1 + 4;
    }
    let mut reply = Reply {
        rcode: message[3] & 0xf,
        flags: number(message, 2),
        edns_flags: 0,
        sections: Default::default(),
    };
    for section in 0..3 {
        for _ in 0..number(message, 6 + 2 * section) {
            let (owner, behind) = name(message, at);
            let (rtype, octets) = (number(message, behind), usize::from(number(message, behind + 8)));
            let ttl = u32::from_be_bytes(message[behind + 4..behind + 8].try_into().unwrap());
            at = behind + 10 + octets;
            if rtype == 41 {
                reply.edns_flags = ttl as u16;
                continue;
            }
            let data = canonical(message, rtype, behind + 10, octets);
            let covered = if rtype == RRSIG { number(&data, 0) } else { rtype };
            let set = reply.sections[section].entry((owner, covered)).or_default();
            set.ttls.insert(ttl);
            match rtype {
                RRSIG => set.signatures.push(data),
                _ => assert!(set.data.insert(data), "a record twice"),
            }
        }
    }
    assert_eq!(at, message.len(), "octets behind the last record");
    reply
}

fn query(name: &[u8], qtype: u16, edns: Option<(u16, u16)>) -> Vec<u8> {
    let mut message = SENTINEL_ID.to_be_bytes().to_vec();
    message.extend([0, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns.is_some())]);
    message.extend(name);
    message.extend([qtype, 1].map(u16::to_be_bytes).concat());
    if let Some((octets, flags)) = edns {
        message.extend([0, 0, 41]);
        message.extend([octets, 0, flags, 0].map(u16::to_be_bytes).concat());
    }
    message
}

/// The wire form of a name below the apex.
fn below(text: &str) -> Vec<u8> {
    let labels = text.split('.').filter(|label| !label.is_empty());
    let labels: Vec<u8> =
        labels.flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat()).collect();
    [&labels, APEX].concat()
}

// --- validating ---------------------------------------------------------------------------------------

/// A server of a signed zone, and the key that its client trusts.
struct Signed {
    live: Live,
    responder: Responder,
    trusted: Vec<Vec<u8>>,
    now: Now,
}

fn key(apex: &str, publish: u64) -> Arc<Key> {
    let random = SystemRandom::new();
    let (secret, public) = draw(&random).unwrap();
    let times = Times { created: publish, publish, activate: Some(publish), ..Times::default() };
    Arc::new(Key::new(&Name::parse(apex).unwrap(), times, &secret, &public, &random).unwrap())
}

impl Signed {
    fn new(live: Live) -> Self {
        live.view.set_ready();
        let keys = ZoneKeys::at(&[key("service.local", START_S - 2 * COMING_S)], START_S).unwrap();
        live.view.set_keys(vec![keys]);
        let responder = Responder::new(live.view.clone(), policy(false), Clock::start());
        let wall = Wall { unix_ms: START_S as i64 * 1000 };
        let mut signed = Self { live, responder, trusted: Vec::new(), now: Now { wall, ..Now::default() } };
        let keys = signed.ask(APEX, DNSKEY, DO, Over::Tcp);
        signed.trusted = keys.set(0, APEX, DNSKEY).data.iter().cloned().collect();
        signed.checked(&keys, APEX, DNSKEY);
        signed
    }

    fn octets(&self, message: &[u8], client: SocketAddr, over: Over) -> Vec<u8> {
        let arrival = Arrival { client, over, draw: 7 };
        self.responder.accept_at(self.now, &arrival, message).expect("a reply")
    }

    fn ask(&self, name: &[u8], qtype: u16, flags: u16, over: Over) -> Reply {
        read(&self.octets(&query(name, qtype, Some((1232, flags))), CLIENT, over))
    }

    /// Verifies one set.
    fn verify(&self, owner: &[u8], rtype: u16, set: &Set) {
        assert_eq!(set.ttls.len(), 1, "one TTL at {owner:02x?} {rtype}");
        let ttl = *set.ttls.first().unwrap();
        let labels = labels(owner).len() - usize::from(owner.starts_with(b"\x01*"));
        let mut text: Vec<u8> = Vec::new();
        for data in &set.data {
            text.extend([owner, &rtype.to_be_bytes(), &[0, 1], &ttl.to_be_bytes()].concat());
            text.extend((data.len() as u16).to_be_bytes());
            text.extend(data);
        }
        let now_s = self.now.wall.unix_s() as u32;
        let is_good = |signature: &Vec<u8>| {
            let (fields, rest) = signature.split_at(18);
            let (signer, octets) = rest.split_at(APEX.len());
            assert_eq!((fields[2], usize::from(fields[3]), signer), (13, labels, APEX), "at {owner:02x?}");
            let word = |at: usize| u32::from_be_bytes(fields[at..at + 4].try_into().unwrap());
            assert_eq!(word(4), ttl);
            assert!(word(12) <= now_s && now_s < word(8), "valid now: {} {now_s} {}", word(12), word(8));
            assert!(i64::from(word(8) - now_s) > LIFE_S / 3, "and for a while yet");
            let signed = [fields, signer, &text].concat();
            self.trusted.iter().any(|key| {
                let point = [&[4], &key[4..]].concat();
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(&signed, octets).is_ok()
            })
        };
        assert!(set.signatures.iter().any(is_good), "{rtype} at {owner:02x?} is not signed: {set:#?}");
    }

    /// What has to be signed of a reply to `qname` and `qtype` is; and a denial denies what it has to and no more.
    fn checked(&self, reply: &Reply, qname: &[u8], qtype: u16) {
        let is_referral = reply.flags & 0x0400 == 0;
        for (section, records) in reply.sections.iter().enumerate() {
            for ((owner, rtype), set) in records {
                if set.data.is_empty() {
                    continue; // signatures alone, where they were asked for
                }
                let ours = owner.ends_with(APEX) && !(is_referral && (*rtype == NS || section == 2));
                if ours && !(section == 2 && set.signatures.is_empty()) {
                    self.verify(owner, *rtype, set);
                } else {
                    assert!(set.signatures.is_empty(), "{rtype} at {owner:02x?} is not ours to sign");
                }
            }
        }
        if reply.is_truncated() || is_referral {
            return;
        }
        // The last name of the chain.
        let mut last = qname.to_ascii_lowercase();
        while let Some(set) = reply.sections[0].get(&(last.clone(), CNAME)).filter(|_| qtype != CNAME) {
            last = set.data.first().unwrap().clone();
        }
        if !last.ends_with(APEX) {
            return;
        }
        if reply.sections[0].keys().any(|(owner, _)| *owner == last) {
            assert!(reply.sections[1].is_empty(), "{reply:#?}");
            return;
        }
        assert_eq!(reply.sections[1].len(), 2, "SOA and NSEC, nothing else: {reply:#?}");
        assert_eq!(reply.set(1, APEX, SOA).ttls, [2].into());
        let (next, types) = nsec(reply.set(1, &last, NSEC));
        assert!(!types.contains(&qtype) && !types.contains(&CNAME), "{qtype} is denied by {types:?}");
        assert!(types.contains(&NSEC) && types.contains(&RRSIG));
        let next_labels = labels(&next);
        assert!(canonical_order(&labels(&last), &next_labels), "{next:02x?} is behind {last:02x?}");
        if types.contains(&NS) && last != APEX {
            assert_eq!(next_labels[0].strip_suffix(b"\0"), Some(labels(&last)[0]));
        } else {
            assert_eq!(next, [b"\x01\0", &last[..]].concat(), "it denies nothing but {last:02x?}");
        }
    }
}

fn labels(name: &[u8]) -> Vec<&[u8]> {
    let (mut labels, mut at) = (Vec::new(), 0);
    while name[at] != 0 {
        let end = at + 1 + usize::from(name[at]);
        labels.push(&name[at + 1..end]);
        at = end;
    }
    labels
}

/// RFC 4034 section 6.1, of names in lower case.
fn canonical_order(a: &[&[u8]], b: &[&[u8]]) -> bool {
    a.iter().rev().lt(b.iter().rev())
}

/// The next name and the types of one NSEC.
fn nsec(set: &Set) -> (Vec<u8>, BTreeSet<u16>) {
    let [data] = &set.data.iter().collect::<Vec<_>>()[..] else { panic!("{set:?}") };
    let mut at = 0;
    while data[at] != 0 {
        at += 1 + usize::from(data[at]);
    }
    let (next, mut rest) = data.split_at(at + 1);
    let mut types = BTreeSet::new();
    while let [window, octets, bits @ ..] = rest {
        let (bits, behind) = bits.split_at(usize::from(*octets));
        assert!((1..=32).contains(octets) && bits.last() != Some(&0), "{data:02x?}");
        for (at, octet) in bits.iter().enumerate() {
            let set = (0..8).filter(|bit| octet & (0x80 >> bit) != 0);
            types.extend(set.map(|bit| u16::from(*window) << 8 | (at * 8 + bit) as u16));
        }
        rest = behind;
    }
    (next.to_vec(), types)
}

// --- what holds ---------------------------------------------------------------------------------------

/// Registries and questions drawn: everything is signed, and what is denied is not there.
#[test]
fn d_01_what_is_drawn_validates() {
    let seed = std::env::var("CALLSIGN_SEED").map_or(0x5eed, |text| text.parse().expect("a number"));
    println!("signed: seed {seed}");
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for view in 0..VIEWS {
        let mut chance = Chance(Draws::new(seed ^ view << 20));
        let signed = Signed::new(chance.registry());
        for _ in 0..QUESTIONS {
            let (labels, qtype) = (chance.name(), chance.qtype());
            let qname: Vec<u8> =
                labels.iter().flat_map(|label| [&[label.len() as u8], &label[..]].concat()).collect();
            let qname = [&qname[..], &[0]].concat();
            let over = chance.pick(&[Over::Udp, Over::Tcp]);
            let reply = signed.ask(&qname, qtype, DO, over);
            signed.checked(&reply, &qname, if qtype == ANY { 0 } else { qtype });
            let ours = qname.to_ascii_lowercase().ends_with(APEX);
            let kind = match (ours, reply.rcode, reply.sections[0].len()) {
                (false, ..) => "elsewhere",
                (_, 0, _) if reply.is_truncated() => "truncated",
                (_, 0, 0) => match reply.sections[1].iter().find(|((_, rtype), _)| *rtype == NSEC) {
                    Some((_, set)) if nsec(set).1.contains(&NXNAME) => "no name",
                    Some(_) => "no data",
                    None => panic!("{reply:#?}"),
                },
                (_, 0, _) => "records",
                (_, rcode, _) => panic!("{rcode} for {qname:02x?} {qtype}: {reply:#?}"),
            };
            *kinds.entry(kind).or_default() += 1;
            if ours {
                signed.agrees(&reply, &qname, qtype, over, &mut chance);
            }
        }
    }
    println!("signed: {kinds:#?}");
    // What is truncated has a test of its own, `d_04`.
    for kind in ["records", "no data", "no name", "elsewhere"] {
        assert!(kinds.get(kind).is_some_and(|count| *count > 100), "{kind}: too few to show anything");
    }
}

impl Signed {
    /// Who takes no signatures is told the same: of each set what is chosen, and NXDOMAIN where there is no name.
    fn agrees(&self, reply: &Reply, qname: &[u8], qtype: u16, over: Over, chance: &mut Chance) {
        let plain = self.ask(qname, qtype, 0, over);
        let lower = qname.to_ascii_lowercase();
        if !reply.is_truncated() {
            for (key, set) in &plain.sections[0] {
                let whole =
                    &reply.sections[0].get(key).unwrap_or_else(|| panic!("{key:?} in {reply:#?}")).data;
                assert!(set.data.is_subset(whole), "{set:?} of {whole:?}");
            }
        }
        let denied = reply.sections[1].get(&(lower.clone(), NSEC)).map(|set| nsec(set).1);
        if let Some(types) = denied {
            // A name that only another service's failover makes is there for every type.
            assert_eq!(plain.rcode == 3, types.contains(&NXNAME), "{plain:#?}");
            let compact = self.ask(qname, qtype, DO | CO, Over::Tcp);
            assert_eq!(compact.rcode == 3, types.contains(&NXNAME), "{compact:#?}");
            // The bitmap says of every type whether it is there.
            for rtype in [A, NS, SOA, PTR, TXT, AAAA, SRV, HTTPS, 64, DNSKEY] {
                let asked = self.ask(qname, rtype, 0, Over::Tcp);
                assert_eq!(!asked.sections[0].is_empty(), types.contains(&rtype), "{rtype} at {lower:02x?}");
            }
        }
        // Octets that are ready have no signatures, so DO is none of theirs; and without it nothing changed.
        let client = chance.client();
        let arrival = Arrival { client, over: Over::Udp, draw: 7 };
        let mut out = [0; UDP_OCTETS_MAX];
        let with_do = query(qname, qtype, Some((1232, DO)));
        assert_eq!(self.responder.reply_plainly(Now::default(), &arrival, &with_do, &mut out), None);
        let without = query(qname, qtype, Some((1232, 0)));
        if let Some(octets) = self.responder.reply_plainly(Now::default(), &arrival, &without, &mut out) {
            assert_eq!(out[..octets], self.octets(&without, client, Over::Udp));
        }
    }
}

#[test]
fn d_02_a_name_that_is_not_there_is_nxdomain_for_who_knows_better() {
    let signed = Signed::new(services());
    for (qname, there) in [("nope", false), ("x.nope", false), ("web", true), ("_tcp", true)] {
        let qname = below(qname);
        let reply = signed.ask(&qname, 15, DO | CO, Over::Udp);
        signed.checked(&reply, &qname, 15);
        assert_eq!((reply.rcode, reply.edns_flags), (if there { 0 } else { 3 }, DO | CO));
        assert_eq!(nsec(reply.set(1, &qname, NSEC)).1.contains(&NXNAME), !there);
        let reply = signed.ask(&qname, 15, DO, Over::Udp);
        assert_eq!((reply.rcode, reply.edns_flags), (0, DO));
        // Without DO it means nothing.
        let reply = signed.ask(&qname, 15, CO, Over::Udp);
        assert_eq!((reply.rcode, reply.edns_flags), (if there { 0 } else { 3 }, 0));
        assert_eq!(reply.sections[1].keys().map(|(_, rtype)| *rtype).collect::<Vec<_>>(), [SOA]);
    }
    let reply = signed.ask(&below("nope"), NXNAME, DO, Over::Udp);
    assert_eq!(reply.rcode, 1, "RFC 9824 section 3.5");
}

#[test]
fn d_03_the_apex_has_the_keys_and_every_name_its_nsec() {
    let signed = Signed::new(services());
    for qtype in [DNSKEY, CDS, CDNSKEY, SOA, NS] {
        for flags in [0, DO] {
            let reply = signed.ask(APEX, qtype, flags, Over::Udp);
            let set = reply.set(0, APEX, qtype);
            assert_eq!((set.data.len(), set.signatures.len()), (1, usize::from(flags == DO)));
        }
        signed.checked(&signed.ask(APEX, qtype, DO, Over::Udp), APEX, qtype);
    }
    for qname in ["far", "one.far"].map(below) {
        let reply = signed.ask(&qname, CNAME, DO, Over::Udp);
        signed.checked(&reply, &qname, CNAME);
        assert_eq!(reply.set(0, &qname, CNAME).data.len(), 1);
    }
    let apex = nsec(signed.ask(APEX, 15, DO, Over::Udp).set(1, APEX, NSEC)).1;
    assert_eq!(apex, [NS, SOA, RRSIG, NSEC, DNSKEY, CDS, CDNSKEY].into());
    for (qname, types) in [
        ("web", vec![A, AAAA, TXT, SRV, RRSIG, NSEC]),
        ("safe", vec![A, AAAA, TXT, SRV, RRSIG, NSEC, HTTPS]),
        ("idle", vec![TXT, RRSIG, NSEC]),
        ("far", vec![A, AAAA, TXT, SRV, RRSIG, NSEC]), // aliases, of addresses alone
        ("_tcp.web", vec![RRSIG, NSEC]),
        ("x.lab", vec![A, RRSIG, NSEC]),
        ("nope", vec![RRSIG, NSEC, NXNAME]),
    ] {
        let qname = below(qname);
        let reply = signed.ask(&qname, NSEC, DO, Over::Udp);
        signed.checked(&reply, &qname, NSEC);
        assert_eq!(nsec(reply.set(0, &qname, NSEC)).1, types.into_iter().collect(), "{qname:?}");
        // Its signatures can be asked for, and are alone then.
        for flags in [0, DO] {
            let reply = signed.ask(&qname, RRSIG, flags, Over::Udp);
            let all = reply.sections.iter().flat_map(BTreeMap::values);
            assert!(all.clone().all(|set| set.data.is_empty()), "{reply:#?}");
            assert_eq!(all.map(|set| set.signatures.len()).sum::<usize>(), 1, "{reply:#?}");
        }
    }
}

/// Signatures of what an alias leads to come behind it, as everything else does (RFC 1034 section 4.3.2).
#[test]
fn d_03_b_signatures_are_asked_for_through_aliases() {
    let signed = Signed::new(services());
    let corp = |front: &[u8]| [front, b"\x04corp\x04test\0"].concat();
    for (qname, owner, aliases) in [
        (corp(b"\x04live"), below("web"), vec![(corp(b"\x04live"), CNAME)]),
        (
            corp(b"\x03web\x03svc"),
            below("web"),
            vec![(corp(b"\x03svc"), DNAME), (corp(b"\x03web\x03svc"), CNAME)],
        ),
        (corp(b"\x04lost"), below("nope"), vec![(corp(b"\x04lost"), CNAME)]),
    ] {
        for flags in [0, DO] {
            let reply = signed.ask(&qname, RRSIG, flags, Over::Tcp);
            let (signatures, others): (Vec<_>, Vec<_>) =
                reply.sections[0].iter().partition(|(_, set)| set.data.is_empty());
            assert!(signatures.iter().all(|((of, _), set)| *of == owner && set.signatures.len() == 1));
            assert_eq!(signatures.len(), 1, "{reply:#?}");
            let others: Vec<_> = others.into_iter().map(|(key, _)| key.clone()).collect();
            assert_eq!(others, aliases, "{reply:#?}");
        }
    }
}

#[test]
fn d_04_what_does_not_fit_goes_out_in_no_part() {
    let signed = Signed::new(services());
    for (qname, qtype) in [("big", A), ("big", SRV), ("huge", A)] {
        let qname = below(qname);
        let reply = signed.ask(&qname, qtype, DO, Over::Udp);
        assert!(reply.is_truncated() && reply.sections.iter().all(BTreeMap::is_empty), "{reply:#?}");
        let reply = signed.ask(&qname, qtype, DO, Over::Tcp);
        signed.checked(&reply, &qname, qtype);
        let all = reply.set(0, &qname, qtype).data.len();
        assert!(all == 120 || all > 3000, "{all} records");
    }
    // Of the additional section what fits is there whole and signed.
    for octets in 512..1232 {
        let message = query(&below("wide"), SRV, Some((octets, DO)));
        let reply = signed.octets(&message, CLIENT, Over::Udp);
        assert!(reply.len() <= usize::from(octets));
        let reply = read(&reply);
        if !reply.is_truncated() {
            signed.checked(&reply, &below("wide"), SRV);
            assert!(reply.sections[2].values().all(|set| set.signatures.len() == 1));
        }
    }
    let reply = signed.ask(&below("web"), SRV, DO, Over::Udp);
    assert_eq!(reply.sections[2].len(), 4, "three A and one AAAA");
}

#[test]
fn d_05_signatures_are_kept_and_made_anew_in_time() {
    let mut signed = Signed::new(services());
    let qname = below("web");
    let made = |signed: &Signed| signed.responder.zone_signer.counters.made.read();
    let ask = |signed: &Signed| {
        let reply = signed.ask(&qname, A, DO, Over::Udp);
        signed.checked(&reply, &qname, A);
    };
    let before = made(&signed);
    ask(&signed);
    ask(&signed);
    assert_eq!(made(&signed), before + 1, "once for two who ask");
    // A name that nobody has, spelt in two ways, as resolvers do (0x20): its denial and the SOA.
    for spelt in ["nobody", "NoBody"] {
        signed.ask(&below(spelt), A, DO, Over::Udp);
    }
    assert_eq!(made(&signed), before + 3);
    let before = before + 2;
    // A change of the service leaves what it did not touch.
    signed.live.deregister(&Wanted::new("web", "c", &["10.0.0.3"], 8082));
    ask(&signed);
    assert_eq!(made(&signed), before + 2);
    signed.live.register(&Wanted::new("web", "c", &["10.0.0.3"], 8082));
    ask(&signed);
    assert_eq!(made(&signed), before + 2, "the records are again what they were");
    // `checked` sees that none is near its end.
    for hour in 0..200 {
        signed.now.wall = Wall { unix_ms: (START_S as i64 + hour * 3600) * 1000 };
        ask(&signed);
    }
    let days = 200 / 24 + 1;
    assert!((before + 3..=before + 2 + days).contains(&made(&signed)), "every other day at most");
    // The clock is put back by a year.
    signed.now.wall = Wall { unix_ms: (START_S as i64 - 366 * 86_400) * 1000 };
    ask(&signed);
}

#[test]
fn d_06_invented_names_are_sent_to_tcp_when_they_are_too_many() {
    let signed = Signed::new(services());
    let most = callsign::dns::sign::SIGNATURES_PER_SECOND_MAX as usize;
    let ask = |n: usize, over| signed.ask(&below(&format!("x{n}")), A, DO, over);
    let truncated = (0..most + 100).filter(|n| ask(*n, Over::Udp).is_truncated()).count();
    assert!((100..=105).contains(&truncated), "{truncated} of {}", most + 100);
    let reply = ask(most + 50, Over::Udp);
    assert!(reply.is_truncated() && reply.rcode == 0 && reply.sections.iter().all(BTreeMap::is_empty));
    signed.checked(&ask(most + 50, Over::Tcp), &below(&format!("x{}", most + 50)), A);
    // What is signed already costs nothing, and who takes no signatures neither.
    let reply = ask(0, Over::Udp);
    signed.checked(&reply, &below("x0"), A);
    assert!(!reply.is_truncated());
    assert_eq!(signed.ask(&below("x99999"), A, 0, Over::Udp).rcode, 3);
}

/// Under a rate limit what is denied is one answer, though each denial says NOERROR and has a name of its own (RFC 9824 section 2).
#[test]
fn d_06_b_invented_names_are_one_answer() {
    let mut signed = Signed::new(services());
    signed.responder.limiter = Some(Limiter::new(5, Secret([3; 16]), Arc::default()));
    let is_whole = |network: u8, name: &[u8], qtype, flags| {
        let client = SocketAddr::from(([192, 0, network, 1], 40_000));
        let arrival = Arrival { client, over: Over::Udp, draw: 7 };
        let query = query(name, qtype, Some((1232, flags)));
        let reply = signed.responder.accept_at(signed.now, &arrival, &query);
        reply.is_some_and(|reply| !read(&reply).is_truncated())
    };
    for (network, qtype, flags) in [(2, A, DO), (3, A, DO | CO), (4, NSEC, DO), (5, RRSIG, DO), (6, RRSIG, 0)]
    {
        let invented = |n| below(&format!("x{network}-{n}"));
        let whole = (0..20).filter(|n| is_whole(network, &invented(*n), qtype, flags)).count();
        assert_eq!(whole, 5, "{qtype} {flags:x}");
        assert!(is_whole(network, &below("web"), A, DO), "what is there is an answer of its own");
    }
}

#[test]
fn d_07_zones_within_the_zone_have_their_own_keys_or_none() {
    let plain = "@ 60 IN SOA ns hostmaster 7 3600 600 86400 60\n@ 60 IN NS ns\nns 60 IN A 10.9.0.1\n";
    let tree = "cut 60 IN NS ns.cut\nns.cut 60 IN A 10.9.1.53\n\
                sure 60 IN NS ns.sure\nsure 60 IN DS 1 13 2 00112233445566778899AABBCCDDEEFF00112233445566778899AABBCCDDEEFF\n\
                ns.sure 60 IN A 10.9.1.54\n";
    let zones = Zones {
        primary: vec![zone("plain.service.local.", Kind::Primary, plain)],
        trees: vec![zone("service.local.", Kind::Tree, tree)],
    };
    let apexes = ["service.local", "inner.service.local"].map(|apex| Apex::parse(apex).unwrap());
    let view = Arc::new(View::new(Settings::new(apexes.to_vec()), zones));
    let mut live = services();
    live.view = view;
    let signed = Signed::new(live);
    let ds = |text: &str| {
        let qname = below(text);
        let reply = signed.ask(&qname, DS, DO, Over::Udp);
        signed.checked(&reply, &qname, DS);
        (reply.sections[0].len(), reply.sections[1].get(&(qname, NSEC)).map(|set| nsec(set).1))
    };
    let insecure = Some([NS, RRSIG, NSEC].into());
    assert_eq!(ds("plain"), (0, insecure.clone()));
    assert_eq!(ds("inner"), (0, insecure.clone()));
    assert_eq!(ds("cut"), (0, insecure));
    assert_eq!(ds("sure"), (1, None));
    // What is in them is not signed; a referral says that it is not, or by whose key.
    assert!(
        signed.ask(&below("ns.plain"), A, DO, Over::Udp).set(0, &below("ns.plain"), A).signatures.is_empty()
    );
    for (qname, cut, rtype) in [("www.cut", "cut", NSEC), ("www.sure", "sure", DS)] {
        let reply = signed.ask(&below(qname), A, DO, Over::Udp);
        assert_eq!(reply.flags & 0x0400, 0, "a referral");
        signed.checked(&reply, &below(qname), A);
        assert_eq!(reply.set(1, &below(cut), rtype).signatures.len(), 1);
        assert!(reply.set(1, &below(cut), NS).signatures.is_empty());
        assert!(reply.set(2, &below(&format!("ns.{cut}")), A).signatures.is_empty(), "glue");
    }
    // The inner one gets a key: it is in the outer one from then on.
    let outer = signed.live.view.keys_of(&Name::parse("service.local").unwrap()).unwrap();
    let inner = key("inner.service.local", START_S - 2 * COMING_S);
    let outer_key = outer.signers(Type(A))[0].clone();
    signed.live.view.set_keys(vec![
        ZoneKeys::at(&[outer_key], START_S).unwrap(),
        ZoneKeys::at(std::slice::from_ref(&inner), START_S).unwrap(),
    ]);
    assert_eq!(ds("inner").0, 1);
    let reply = signed.ask(&below("inner"), DS, DO, Over::Udp);
    let said = reply.set(0, &below("inner"), DS).data.first().unwrap().clone();
    assert_eq!(number(&said, 0), inner.tag);
}
