//! Names with a meaning of their own, which are answered here and asked of nobody (RFC 6761, RFC 6303).
//!
//! Asked elsewhere they would tell a stranger about this machine and its network, and the answer would be no better.
//! Zones of ours come first: who serves `corp.test` or `10.in-addr.arpa` here is asked for it. Whether any of this is
//! consulted is for the forwarder to say; without one, what is not ours is refused.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::answer::{Answer, Ede, Rcode};
use crate::name::Name;
use crate::record::{Data, Record, Soa, Type};

/// TTL and SOA minimum in seconds: what RFC 6303 section 3 gives an empty zone.
const TTL: u32 = 10_800;

/// Names at or below which nothing exists, with the sentence that says so. The name itself does not exist either,
/// unless it is above a zone of ours.
const ABSENT: [(&str, &str); 5] = [
    ("invalid", "invalid. has no names (RFC 6761)"),
    ("test", "test. is asked of nobody (RFC 6761)"),
    ("onion", "onion. is no DNS (RFC 7686)"),
    ("alt", "alt. is no DNS (RFC 9476)"),
    ("local", "local. belongs to multicast DNS (RFC 6762)"),
];

/// Zones that are empty wherever they are asked for: the name itself exists.
const EMPTY: [(&str, &str); 3] = [
    ("home.arpa", "home.arpa. is of the home alone (RFC 8375)"),
    ("service.arpa", "service.arpa. is of the local network alone (RFC 9665)"),
    ("255.255.255.255.in-addr.arpa", PRIVATE),
];

const PRIVATE: &str = "addresses of private use are asked of nobody (RFC 6303)";

/// Names below one of which are never forwarded, whatever the operator says: they have their answer here.
const FIRM: [&str; 2] = ["localhost", RESOLVERS];

/// Where clients ask which encrypted resolver is meant for them (RFC 9462 section 4).
const RESOLVERS: &str = "resolver.arpa";

/// What the operator has changed of this.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Exceptions {
    /// Names that upstreams answer nonetheless, with all below them.
    pub forwarded: Vec<Name>,
    /// `local.` is a zone of ours, empty but for its SOA.
    pub claim_local: bool,
}

/// True where `name` may be one of `Exceptions::forwarded`.
pub fn may_be_forwarded(name: &Name) -> bool {
    !name.is_root() && !FIRM.iter().any(|firm| is_below(name, firm))
}

/// The answer to a name of special use; `None` for all others. `is_above_ours` says whether a zone of ours begins below `name`: that
/// is not denied, or resolvers would take all below it for not there (RFC 8020).
pub fn answer(
    name: &Name,
    qtype: Type,
    exceptions: &Exceptions,
    is_above_ours: impl Fn() -> bool,
) -> Option<Answer> {
    if is_below(name, "localhost") {
        return Some(localhost(name, qtype));
    }
    if exceptions.forwarded.iter().any(|forwarded| name.is_within(forwarded)) {
        return None;
    }
    if exceptions.claim_local && is_below(name, "local") {
        let (apex, why) = (name.last_labels(1), "claim-local: nothing else is in local. here");
        let is_there = *name == apex || is_above_ours();
        return Some(empty_zone(name, qtype, apex, why, is_there));
    }
    if let Some((top, why)) = ABSENT.iter().find(|(top, _)| is_below(name, top)) {
        let top = name.last_labels(top.split('.').count());
        // No SOA all the same: clients that get the one of local. take all of it from multicast DNS.
        return Some(if is_above_ours() { no_data(top, why) } else { absent(top, why) });
    }
    let listed = EMPTY.iter().find(|(zone, _)| is_below(name, zone));
    let listed = listed.map(|(zone, why)| (zone.split('.').count(), *why));
    if is_below(name, RESOLVERS) {
        let (apex, why) = (name.last_labels(2), "no encrypted resolver is announced here (RFC 9462)");
        // Nothing is denied but records: a denied name would be denied for good (RFC 9462 section 4).
        return Some(empty_zone(name, qtype, apex, why, true));
    }
    let (labels, why) = listed.or_else(|| reverse(name).map(|labels| (labels, PRIVATE)))?;
    let apex = name.last_labels(labels);
    let is_there = *name == apex || is_above_ours();
    Some(empty_zone(name, qtype, apex, why, is_there))
}

/// RFC 6761 section 6.3: loopback, and nothing else.
fn localhost(name: &Name, qtype: Type) -> Answer {
    let data = match qtype {
        Type::A | Type::ANY => Data::A(Ipv4Addr::LOCALHOST),
        Type::AAAA => Data::Aaaa(Ipv6Addr::LOCALHOST),
        _ => return no_data(name.last_labels(1), "localhost has addresses alone (RFC 6761)"),
    };
    let answer = vec![Record { owner: name.clone(), ttl: TTL, data }];
    Answer { authoritative: true, answer, ..Answer::default() }
}

fn absent(top: Name, why: &str) -> Answer {
    Answer { rcode: Rcode::NxDomain, ..no_data(top, why) }
}

/// What a zone says that holds its SOA alone, of a name in it that is there or not.
fn empty_zone(name: &Name, qtype: Type, apex: Name, why: &str, is_there: bool) -> Answer {
    if *name == apex && matches!(qtype, Type::SOA | Type::ANY) {
        return Answer { authoritative: true, answer: vec![soa(apex)], ..Answer::default() };
    }
    if is_there { no_data(apex, why) } else { absent(apex, why) }
}

fn no_data(apex: Name, why: &str) -> Answer {
    let ede = Some(Ede::new(Ede::OTHER, why));
    Answer { authoritative: true, authority: vec![soa(apex)], ede, ..Answer::default() }
}

/// The SOA of RFC 6303 section 3.
fn soa(apex: Name) -> Record {
    let rname = Name::parse("nobody.invalid").unwrap_or_else(|_| Name::root());
    let soa = Soa {
        mname: apex.clone(),
        rname,
        serial: 1,
        refresh: 3600,
        retry: 1200,
        expire: 604_800,
        minimum: TTL,
    };
    Record { owner: apex, ttl: TTL, data: Data::Soa(Arc::new(soa)) }
}

/// True where `name` is `top` or below it; `top` is in lower case, without a final dot.
fn is_below(name: &Name, top: &str) -> bool {
    let labels = top.split('.').count();
    let last: Vec<&[u8]> = name.labels().collect();
    last.len() >= labels
        && last[last.len() - labels..]
            .iter()
            .zip(top.split('.'))
            .all(|(label, of_top)| label.eq_ignore_ascii_case(of_top.as_bytes()))
}

/// How many labels the reverse zone of private use has that `name` is in (RFC 6303 section 4, RFC 7793).
fn reverse(name: &Name) -> Option<usize> {
    let mut labels: Vec<&[u8]> = name.labels().collect();
    labels.reverse();
    let below = |first: &[u8], second: &[u8]| {
        labels.len() > 2 && labels[0].eq_ignore_ascii_case(first) && labels[1].eq_ignore_ascii_case(second)
    };
    if below(b"arpa", b"in-addr") {
        let octets: Vec<u8> = labels[2..].iter().map_while(|label| number(label)).collect();
        let octets_of_zone = match octets[..] {
            [0 | 10 | 127, ..] => 1,
            [100, 64..=127, ..] | [169, 254, ..] | [172, 16..=31, ..] | [192, 168, ..] => 2,
            [192, 0, 2, ..] | [198, 51, 100, ..] | [203, 0, 113, ..] => 3,
            _ => return None,
        };
        return Some(2 + octets_of_zone);
    }
    if !below(b"arpa", b"ip6") {
        return None;
    }
    let nibbles: Vec<u8> = labels[2..].iter().map_while(|label| nibble(label)).collect();
    // ::/128 and ::1, each a zone of one name.
    if nibbles.len() >= 32 && nibbles[..31].iter().all(|nibble| *nibble == 0) && nibbles[31] <= 1 {
        return Some(2 + 32);
    }
    let nibbles_of_zone = match nibbles[..] {
        [0xf, 0xd, ..] => 2,
        [0xf, 0xe, 0x8..=0xb, ..] => 3,
        [2, 0, 0, 1, 0, 0xd, 0xb, 8, ..] => 8,
        _ => return None,
    };
    Some(2 + nibbles_of_zone)
}

fn number(label: &[u8]) -> Option<u8> {
    let text = std::str::from_utf8(label).ok()?;
    // `010` is another name than `10`.
    let number: u8 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

fn nibble(label: &[u8]) -> Option<u8> {
    let [digit] = label else { return None };
    char::from(*digit).to_digit(16).map(|nibble| nibble as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(name: &str, qtype: Type, exceptions: &Exceptions) -> String {
        said_beside(&[], name, qtype, exceptions)
    }

    fn said_beside(ours: &[&str], name: &str, qtype: Type, exceptions: &Exceptions) -> String {
        let name = Name::parse(name).unwrap();
        let is_above_ours = || ours.iter().any(|apex| Name::parse(apex).unwrap().is_within(&name));
        let Some(answer) = answer(&name, qtype, exceptions, is_above_ours) else {
            return "not special".to_owned();
        };
        let of = answer.authority.first().map(|soa| soa.owner.to_string()).unwrap_or_default();
        match (&answer.answer[..], answer.rcode) {
            ([], Rcode::NxDomain) => format!("NXDOMAIN {of}"),
            ([], _) => format!("NODATA {of}"),
            ([Record { data: Data::A(address), .. }], _) => address.to_string(),
            ([Record { data: Data::Aaaa(address), .. }], _) => address.to_string(),
            ([Record { data: Data::Soa(_), owner, .. }], _) => format!("SOA {owner}"),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn names_of_special_use_are_answered_here() {
        let none = Exceptions::default();
        for (name, qtype, expected) in [
            ("localhost", Type::A, "127.0.0.1"),
            ("LocalHost", Type::AAAA, "::1"),
            ("a.b.localhost", Type::A, "127.0.0.1"),
            ("a.localhost", Type::MX, "NODATA localhost."),
            ("localhost", Type::TXT, "NODATA localhost."),
            ("localhost.example.com", Type::A, "not special"),
            ("invalid", Type::A, "NXDOMAIN invalid."),
            ("x.invalid", Type::A, "NXDOMAIN invalid."),
            ("a.b.test", Type::A, "NXDOMAIN test."),
            ("expyuzz4wqqyqhjn.onion", Type::A, "NXDOMAIN onion."),
            ("x.alt", Type::A, "NXDOMAIN alt."),
            ("printer.local", Type::A, "NXDOMAIN local."),
            ("local", Type::SOA, "NXDOMAIN local."),
            ("home.arpa", Type::A, "NODATA home.arpa."),
            ("home.arpa", Type::SOA, "SOA home.arpa."),
            ("nas.home.arpa", Type::A, "NXDOMAIN home.arpa."),
            ("_dns.resolver.arpa", Type(64), "NODATA resolver.arpa."),
            ("x.resolver.arpa", Type::A, "NODATA resolver.arpa."),
            ("resolver.arpa", Type::SOA, "SOA resolver.arpa."),
            ("default.service.arpa", Type::A, "NXDOMAIN service.arpa."),
            ("3.2.1.10.in-addr.arpa", Type::PTR, "NXDOMAIN 10.in-addr.arpa."),
            ("10.in-addr.arpa", Type::SOA, "SOA 10.in-addr.arpa."),
            ("10.in-addr.arpa", Type::NS, "NODATA 10.in-addr.arpa."),
            ("010.in-addr.arpa", Type::NS, "not special"),
            ("1.0.0.127.in-addr.arpa", Type::PTR, "NXDOMAIN 127.in-addr.arpa."),
            ("1.16.172.IN-ADDR.arpa", Type::PTR, "NXDOMAIN 16.172.in-addr.arpa."),
            ("1.32.172.in-addr.arpa", Type::PTR, "not special"),
            ("172.in-addr.arpa", Type::PTR, "not special"),
            ("4.3.168.192.in-addr.arpa", Type::PTR, "NXDOMAIN 168.192.in-addr.arpa."),
            ("4.3.169.192.in-addr.arpa", Type::PTR, "not special"),
            ("1.64.100.in-addr.arpa", Type::PTR, "NXDOMAIN 64.100.in-addr.arpa."),
            ("1.128.100.in-addr.arpa", Type::PTR, "not special"),
            ("7.113.0.203.in-addr.arpa", Type::PTR, "NXDOMAIN 113.0.203.in-addr.arpa."),
            ("255.255.255.255.in-addr.arpa", Type::PTR, "NODATA 255.255.255.255.in-addr.arpa."),
            ("8.8.8.8.in-addr.arpa", Type::PTR, "not special"),
            ("1.0.d.f.ip6.arpa", Type::PTR, "NXDOMAIN d.f.ip6.arpa."),
            ("1.b.e.f.ip6.arpa", Type::PTR, "NXDOMAIN b.e.f.ip6.arpa."),
            ("1.c.e.f.ip6.arpa", Type::PTR, "not special"),
            ("1.8.B.D.0.1.0.0.2.ip6.arpa", Type::PTR, "NXDOMAIN 8.b.d.0.1.0.0.2.ip6.arpa."),
            ("ip6.arpa", Type::PTR, "not special"),
            ("www.example.com", Type::A, "not special"),
            ("com", Type::NS, "not special"),
            (".", Type::NS, "not special"),
        ] {
            assert_eq!(said(name, qtype, &none).to_lowercase(), expected.to_lowercase(), "{name}");
        }
        for last in ["0", "1"] {
            let loopback = format!("{last}.{}ip6.arpa", "0.".repeat(31));
            assert_eq!(said(&loopback, Type::PTR, &none), format!("NODATA {loopback}."));
        }
        let other = format!("2.{}ip6.arpa", "0.".repeat(31));
        assert_eq!(said(&other, Type::PTR, &none), "not special");
    }

    #[test]
    fn what_is_above_a_zone_of_ours_is_there() {
        let ours = ["service.corp.local", "a.b.test", "lab.home.arpa", "3.2.1.10.in-addr.arpa"];
        let said = |name: &str, qtype| said_beside(&ours, name, qtype, &Exceptions::default());
        for (name, expected) in [
            ("local", "NODATA local."),
            ("corp.local", "NODATA local."),
            ("Corp.Local", "NODATA local."),
            ("x.corp.local", "NXDOMAIN local."),
            ("orp.local", "NXDOMAIN local."),
            ("b.test", "NODATA test."),
            ("c.test", "NXDOMAIN test."),
            ("home.arpa", "NODATA home.arpa."),
            ("2.1.10.in-addr.arpa", "NODATA 10.in-addr.arpa."),
            ("2.2.10.in-addr.arpa", "NXDOMAIN 10.in-addr.arpa."),
            ("alt", "NXDOMAIN alt."),
        ] {
            assert_eq!(said(name, Type::A).to_lowercase(), expected.to_lowercase(), "{name}");
        }
        assert_eq!(said("local", Type::SOA), "NODATA local.", "multicast DNS keeps its names");
    }

    #[test]
    fn the_operator_may_have_another_word() {
        let forwarded = ["home.arpa", "1.10.in-addr.arpa"].map(|name| Name::parse(name).unwrap()).to_vec();
        let exceptions = Exceptions { forwarded, claim_local: true };
        for (name, qtype, expected) in [
            ("nas.home.arpa", Type::A, "not special"),
            ("7.1.10.in-addr.arpa", Type::PTR, "not special"),
            ("7.2.10.in-addr.arpa", Type::PTR, "NXDOMAIN 10.in-addr.arpa."),
            ("local", Type::SOA, "SOA local."),
            ("local", Type::A, "NODATA local."),
            ("printer.local", Type::A, "NXDOMAIN local."),
            ("localhost", Type::A, "127.0.0.1"),
        ] {
            assert_eq!(said(name, qtype, &exceptions), expected, "{name}");
        }
        for firm in ["localhost", "x.localhost", "resolver.arpa", "."] {
            assert!(!may_be_forwarded(&Name::parse(firm).unwrap()), "{firm}");
        }
    }
}
