//! Reverse names: an address, or the front of one, as a name below `in-addr.arpa` or `ip6.arpa`, and back
//! (RFC 1035 section 3.5, RFC 3596 section 2.5).
//!
//! A label is an octet of an IPv4 address or four bits of an IPv6 one, so a zone's apex stands at such a boundary.
//! A network that ends elsewhere is several zones, each at the next boundary: 10.0.0.0/22 is four with three octets,
//! 10.0.0.0/25 is 128 of one address each. RFC 2317 has other names for the latter, which only whoever
//! has the zone above can lead to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::name::Name;

/// The first bits of an address; what a reverse name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    /// Zero behind the bits that count.
    address: IpAddr,
    /// A multiple of `step`.
    bits: u8,
}

const ARPA: &str = "arpa";
const IN_ADDR: &str = "in-addr";
const IP6: &str = "ip6";

/// Bits of one label.
fn step(address: &IpAddr) -> u8 {
    if address.is_ipv4() { 8 } else { 4 }
}

fn width(address: &IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

impl Prefix {
    /// The first `bits` of an address.
    fn of(address: IpAddr, bits: u8) -> Self {
        let address = match address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
                Ipv4Addr::from(v4.to_bits() & mask).into()
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
                Ipv6Addr::from(v6.to_bits() & mask).into()
            }
        };
        Self { address, bits }
    }

    /// The whole address, where the name says one.
    pub fn whole(&self) -> Option<IpAddr> {
        (self.bits == width(&self.address)).then_some(self.address)
    }

    /// Every prefix of an address with a name above its own, the shortest first.
    pub fn above(address: IpAddr) -> impl Iterator<Item = Self> {
        let step = step(&address);
        (0..width(&address) / step).map(move |labels| Self::of(address, labels * step))
    }

    pub fn name(&self) -> Name {
        let count = usize::from(self.bits / step(&self.address));
        let mut labels: Vec<String> = match self.address {
            IpAddr::V4(v4) => v4.octets()[..count].iter().map(u8::to_string).collect(),
            IpAddr::V6(v6) => {
                let nibbles = v6.octets().into_iter().flat_map(|octet| [octet >> 4, octet & 0xf]);
                nibbles.take(count).map(|nibble| format!("{nibble:x}")).collect()
            }
        };
        labels.reverse();
        labels.extend([if self.address.is_ipv4() { IN_ADDR } else { IP6 }, ARPA].map(str::to_owned));
        let labels: Vec<&[u8]> = labels.iter().map(String::as_bytes).collect();
        // At most 34 labels of 7 octets: the root is not reached.
        Name::root().prepend_all(&labels).unwrap_or_else(|_| Name::root())
    }

    /// The apex of the zone that has the name of this prefix, where one of the networks does; the longest.
    pub fn zone(&self, networks: &[IpNet]) -> Option<Self> {
        let zones = networks.iter().filter_map(|network| {
            let bits = network.prefix_len().next_multiple_of(step(&self.address));
            let same_family = network.addr().is_ipv4() == self.address.is_ipv4();
            (same_family && self.bits >= bits && network.contains(&self.address)).then_some(bits)
        });
        Some(Self::of(self.address, zones.max()?))
    }
}

/// What the labels in front of `in-addr.arpa` or `ip6.arpa` say, and whether that was all of them; `None` where the
/// name is below neither.
pub fn read(name: &Name) -> Option<(Prefix, bool)> {
    let lower = name.to_lowercase();
    let mut labels: Vec<&[u8]> = lower.labels().collect();
    (labels.pop()? == ARPA.as_bytes()).then_some(())?;
    let mut address: IpAddr = match labels.pop()? {
        family if family == IN_ADDR.as_bytes() => Ipv4Addr::UNSPECIFIED.into(),
        family if family == IP6.as_bytes() => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let step = step(&address);
    let mut bits = 0;
    while bits < width(&address)
        && let Some(digits) = labels.last().and_then(|label| digits(label, step))
    {
        bits += step;
        address = match address {
            IpAddr::V4(v4) => Ipv4Addr::from(v4.to_bits() | u32::from(digits) << (32 - bits)).into(),
            IpAddr::V6(v6) => Ipv6Addr::from(v6.to_bits() | u128::from(digits) << (128 - bits)).into(),
        };
        labels.pop();
    }
    Some((Prefix { address, bits }, labels.is_empty()))
}

/// True of the apex of a zone of these networks, and of every name above one that is at or below `in-addr.arpa` or `ip6.arpa`.
pub fn is_above(name: &Name, networks: &[IpNet]) -> bool {
    let Some((prefix, true)) = read(name) else { return false };
    networks.iter().any(|network| {
        let address = network.addr();
        let bits = prefix.bits.min(network.prefix_len());
        address.is_ipv4() == prefix.address.is_ipv4()
            && prefix.bits <= network.prefix_len().next_multiple_of(step(&address))
            && Prefix::of(address, bits) == Prefix::of(prefix.address, bits)
    })
}

/// A label's number as names spell it: no zero in front, so that each address has one name.
fn digits(label: &[u8], step: u8) -> Option<u8> {
    let text = std::str::from_utf8(label).ok()?;
    if step == 4 {
        return text.parse::<char>().ok()?.to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    }
    let number: u8 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    fn networks(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn an_address_has_one_name() {
        for (address, text) in [
            ("10.0.0.1", "1.0.0.10.in-addr.arpa."),
            ("255.254.0.9", "9.0.254.255.IN-ADDR.arpa."),
            ("2001:db8::3f", "F.3.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa."),
        ] {
            let (prefix, all) = read(&name(text)).unwrap();
            assert_eq!((prefix.whole(), all), (Some(address.parse().unwrap()), true), "{text}");
            assert_eq!(prefix.name(), name(text));
            let above: Vec<Name> = Prefix::above(prefix.address).map(|prefix| prefix.name()).collect();
            let suffixes: Vec<Name> =
                (2..name(text).labels().count()).map(|count| name(text).last_labels(count)).collect();
            assert_eq!(above, suffixes);
        }
    }

    #[test]
    fn what_no_address_spells_is_left_over() {
        for (text, labels, all) in [
            ("in-addr.arpa.", 0, true),
            ("0.10.in-addr.arpa.", 2, true),
            ("256.10.in-addr.arpa.", 1, false),
            ("01.10.in-addr.arpa.", 1, false),
            ("+1.10.in-addr.arpa.", 1, false),
            ("x.1.0.0.10.in-addr.arpa.", 4, false),
            ("9.1.0.0.10.in-addr.arpa.", 4, false),
            ("g.2.ip6.arpa.", 1, false),
            ("10.2.ip6.arpa.", 1, false),
        ] {
            let (prefix, read_all) = read(&name(text)).unwrap();
            assert_eq!((prefix.bits / step(&prefix.address), read_all), (labels, all), "{text}");
        }
        assert_eq!(read(&name("1.10.in-addr.example.")), None);
        assert_eq!(read(&name("arpa.")), None);
        assert_eq!(read(&Name::root()), None);
    }

    #[test]
    fn what_is_above_a_zone_of_a_network_is_known() {
        let networks = networks(&["10.1.2.0/23", "2001:db8::/33"]);
        for (text, expected) in [
            ("in-addr.arpa.", true),
            ("10.in-addr.arpa.", true),
            ("1.10.in-addr.arpa.", true),
            ("2.10.in-addr.arpa.", false),
            ("2.1.10.in-addr.arpa.", true),
            ("3.1.10.in-addr.arpa.", true),
            ("4.1.10.in-addr.arpa.", false),
            ("9.3.1.10.in-addr.arpa.", false),
            ("x.10.in-addr.arpa.", false),
            ("8.b.d.0.1.0.0.2.ip6.arpa.", true),
            ("7.8.b.d.0.1.0.0.2.ip6.arpa.", true),
            ("8.8.b.d.0.1.0.0.2.ip6.arpa.", false),
            ("10.in-addr.example.", false),
        ] {
            assert_eq!(is_above(&name(text), &networks), expected, "{text}");
        }
    }

    #[test]
    fn a_network_is_zones_at_label_boundaries() {
        let zone = |text: &str, of: &[&str]| {
            let zone = read(&name(text)).unwrap().0.zone(&networks(of));
            zone.map(|zone| zone.name().to_string())
        };
        let found = |text: &str| Some(text.to_owned());
        assert_eq!(zone("1.0.0.10.in-addr.arpa.", &["10.0.0.0/8"]), found("10.in-addr.arpa."));
        assert_eq!(zone("10.in-addr.arpa.", &["10.0.0.0/8"]), found("10.in-addr.arpa."));
        assert_eq!(zone("in-addr.arpa.", &["10.0.0.0/8"]), None);
        assert_eq!(zone("1.0.0.11.in-addr.arpa.", &["10.0.0.0/8"]), None);
        // Between boundaries: several zones, each at the next one.
        assert_eq!(zone("1.3.0.10.in-addr.arpa.", &["10.0.0.0/22"]), found("3.0.10.in-addr.arpa."));
        assert_eq!(zone("1.4.0.10.in-addr.arpa.", &["10.0.0.0/22"]), None);
        assert_eq!(zone("0.10.in-addr.arpa.", &["10.0.0.0/22"]), None);
        assert_eq!(zone("9.0.0.10.in-addr.arpa.", &["10.0.0.0/25"]), found("9.0.0.10.in-addr.arpa."));
        assert_eq!(zone("128.0.0.10.in-addr.arpa.", &["10.0.0.0/25"]), None);
        assert_eq!(
            zone("0.8.b.d.0.1.0.0.2.ip6.arpa.", &["2001:db8::/33"]),
            found("0.8.b.d.0.1.0.0.2.ip6.arpa.")
        );
        assert_eq!(zone("8.8.b.d.0.1.0.0.2.ip6.arpa.", &["2001:db8::/33"]), None);
        // The longest of several; everything; the other family.
        assert_eq!(
            zone("1.0.1.10.in-addr.arpa.", &["10.0.0.0/8", "10.1.0.0/16"]),
            found("1.10.in-addr.arpa.")
        );
        assert_eq!(zone("1.in-addr.arpa.", &["0.0.0.0/0"]), found("in-addr.arpa."));
        assert_eq!(zone("1.ip6.arpa.", &["0.0.0.0/0"]), None);
    }
}
