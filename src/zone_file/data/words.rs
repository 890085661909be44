//! Single words in the data of a record: what each stands for, and nothing where it is no such word.

use std::net::{Ipv4Addr, Ipv6Addr};

use data_encoding::HEXLOWER_PERMISSIVE;

pub(super) fn address4(text: &str) -> Option<[u8; 4]> {
    text.parse::<Ipv4Addr>().ok().map(|address| address.octets())
}

/// Pairs of hexadecimal digits with hyphens between, so many.
pub(super) fn eui(text: &str, octets: usize) -> Option<Vec<u8>> {
    let pairs: Option<Vec<u8>> =
        text.split('-').map(|pair| (pair.len() == 2).then(|| u8::from_str_radix(pair, 16).ok())?).collect();
    pairs.filter(|pairs| pairs.len() == octets)
}

/// Four groups of hexadecimal digits with colons between.
pub(super) fn node64(text: &str) -> Option<Vec<u8>> {
    let groups: Option<Vec<u16>> = text
        .split(':')
        .map(|group| (group.len() <= 4).then(|| u16::from_str_radix(group, 16).ok())?)
        .collect();
    let groups = groups.filter(|groups| groups.len() == 4)?;
    Some(groups.into_iter().flat_map(u16::to_be_bytes).collect())
}

/// A number or a word of RFC 4398 section 2.1.
pub(super) fn certificate(text: &str) -> Option<[u8; 2]> {
    const WORDS: [&str; 8] = ["PKIX", "SPKI", "PGP", "IPKIX", "ISPKI", "IPGP", "ACPKIX", "IACPKIX"];
    let known = WORDS.iter().position(|word| word.eq_ignore_ascii_case(text));
    let kind: u16 = match (known, &*text.to_ascii_uppercase()) {
        (Some(at), _) => at as u16 + 1,
        (None, "URI") => 253,
        (None, "OID") => 254,
        (None, number) => number.parse().ok()?,
    };
    Some(kind.to_be_bytes())
}

/// `0x` and hexadecimal digits, with dots wherever somebody likes them.
pub(super) fn nsap(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"))?.replace('.', "");
    HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).ok().filter(|octets| !octets.is_empty())
}

/// `[!]family:address/length` (RFC 3123 section 4).
pub(super) fn prefix(text: &str) -> Option<Vec<u8>> {
    let (negated, text) = text.strip_prefix('!').map_or((0, text), |text| (0x80, text));
    let (family, rest) = text.split_once(':')?;
    let (address, length) = rest.rsplit_once('/')?;
    let (family, mut octets, bits) = match family {
        "1" => (1u16, address.parse::<Ipv4Addr>().ok()?.octets().to_vec(), 32),
        "2" => (2, address.parse::<Ipv6Addr>().ok()?.octets().to_vec(), 128),
        _ => return None,
    };
    let length: u8 = length.parse().ok().filter(|length| *length <= bits)?;
    while octets.last() == Some(&0) {
        octets.pop();
    }
    let [high, low] = family.to_be_bytes();
    let mut prefix = vec![high, low, length, negated | octets.len() as u8];
    prefix.extend(octets);
    Some(prefix)
}

/// A port, by its number or by its word.
pub(super) fn port(text: &str) -> Option<u16> {
    let known = SERVICES.iter().find(|(word, _)| word.eq_ignore_ascii_case(text));
    known.map(|(_, port)| *port).or_else(|| text.parse().ok())
}

/// Ports by the words that old files have for them (RFC 1010); what is newer is written as a number.
const SERVICES: [(&str, u16); 16] = [
    ("echo", 7),
    ("discard", 9),
    ("daytime", 13),
    ("ftp-data", 20),
    ("ftp", 21),
    ("ssh", 22),
    ("telnet", 23),
    ("smtp", 25),
    ("time", 37),
    ("domain", 53),
    ("tftp", 69),
    ("finger", 79),
    ("http", 80),
    ("pop3", 110),
    ("sunrpc", 111),
    ("ntp", 123),
];
