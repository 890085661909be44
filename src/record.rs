//! Resource records as the core holds them: names and numbers, no message around them.
//!
//! The types that the live zone is made of, and those whose names RFC 1035 lets a message compress, are
//! spelled out; every other type is its octets. `dns::wire` puts them into a message.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::name::Name;

/// A record type by number; the names are those of the IANA registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Type(pub u16);

impl Type {
    pub const A: Self = Self(1);
    pub const NS: Self = Self(2);
    pub const CNAME: Self = Self(5);
    pub const SOA: Self = Self(6);
    pub const PTR: Self = Self(12);
    pub const HINFO: Self = Self(13);
    pub const MX: Self = Self(15);
    pub const TXT: Self = Self(16);
    pub const AAAA: Self = Self(28);
    pub const SRV: Self = Self(33);
    pub const DNAME: Self = Self(39);
    pub const OPT: Self = Self(41);
    pub const DS: Self = Self(43);
    pub const RRSIG: Self = Self(46);
    pub const NSEC: Self = Self(47);
    pub const DNSKEY: Self = Self(48);
    pub const CDS: Self = Self(59);
    pub const CDNSKEY: Self = Self(60);
    pub const SVCB: Self = Self(64);
    pub const HTTPS: Self = Self(65);
    /// Stands in the bitmap of NSEC alone: there is no such name (RFC 9824 section 2).
    pub const NXNAME: Self = Self(128);
    pub const IXFR: Self = Self(251);
    pub const AXFR: Self = Self(252);
    pub const ANY: Self = Self(255);
}

/// As zone files have it; RFC 3597's form for those that have no name here.
impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match *self {
            Self::A => "A",
            Self::NS => "NS",
            Self::CNAME => "CNAME",
            Self::SOA => "SOA",
            Self::PTR => "PTR",
            Self::MX => "MX",
            Self::TXT => "TXT",
            Self::AAAA => "AAAA",
            Self::SRV => "SRV",
            Self::DNAME => "DNAME",
            Self::OPT => "OPT",
            Self(number) => return write!(f, "TYPE{number}"),
        };
        f.write_str(name)
    }
}

/// Octets that the records of one RRset may have in all, by [`Data::octets_in_set`]: what a reply of 65,535 holds beside its
/// question, signatures and options.
pub const RRSET_OCTETS_MAX: usize = 60_000;
/// A pointer to the owner, type, class, TTL and length.
const RECORD_OCTETS: usize = 12;

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub owner: Name,
    /// Seconds.
    pub ttl: u32,
    pub data: Data,
}

/// The records of one owner and type; never empty (RFC 2181 section 5: one TTL, no duplicates).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RrSet {
    pub rtype: Type,
    /// Seconds.
    pub ttl: u32,
    pub data: Vec<Data>,
}

/// What a record says; names in it are equal whatever their case (RFC 4343).
#[derive(Clone, Debug, Eq)]
pub enum Data {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    Srv {
        priority: u16,
        weight: u16,
        port: u16,
        target: Name,
    },
    Cname(Name),
    /// Never compressed (RFC 6672 section 2.5).
    Dname(Name),
    Ns(Name),
    Ptr(Name),
    Mx {
        preference: u16,
        exchange: Name,
    },
    Soa(Arc<Soa>),
    /// SVCB or HTTPS, whose target is never compressed (RFC 9460 section 2.2).
    Svcb {
        rtype: Type,
        priority: u16,
        target: Name,
        params: Arc<[u8]>,
    },
    /// Any other type: its uncompressed octets (RFC 3597), TXT among them.
    Other {
        rtype: Type,
        octets: Arc<[u8]>,
    },
}

impl PartialEq for Data {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::A(one), Self::A(two)) => one == two,
            (Self::Aaaa(one), Self::Aaaa(two)) => one == two,
            (Self::Cname(one), Self::Cname(two))
            | (Self::Dname(one), Self::Dname(two))
            | (Self::Ns(one), Self::Ns(two))
            | (Self::Ptr(one), Self::Ptr(two)) => one == two,
            (Self::Mx { preference, exchange }, Self::Mx { preference: other, exchange: to }) => {
                (preference, exchange) == (other, to)
            }
            (Self::Soa(one), Self::Soa(two)) => one == two,
            (
                Self::Srv { priority, weight, port, target },
                Self::Srv { priority: other, weight: of_other, port: at, target: to },
            ) => (priority, weight, port, target) == (other, of_other, at, to),
            (
                Self::Svcb { rtype, priority, target, params },
                Self::Svcb { rtype: other, priority: of_other, target: to, params: with },
            ) => (rtype, priority, target, params) == (other, of_other, to, with),
            (Self::Other { rtype, octets }, Self::Other { rtype: other, octets: those }) => {
                let (front, names) = around_names(*rtype, octets);
                let (of_other, others) = around_names(*other, those);
                (rtype, front) == (other, of_other) && names.eq_ignore_ascii_case(others)
            }
            _ => false,
        }
    }
}

impl Hash for Data {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.rtype().hash(state);
        match self {
            Self::A(address) => address.hash(state),
            Self::Aaaa(address) => address.hash(state),
            Self::Cname(name) | Self::Dname(name) | Self::Ns(name) | Self::Ptr(name) => name.hash(state),
            Self::Mx { preference, exchange } => (preference, exchange).hash(state),
            Self::Soa(soa) => soa.hash(state),
            Self::Srv { priority, weight, port, target } => (priority, weight, port, target).hash(state),
            Self::Svcb { priority, target, params, .. } => (priority, target, params).hash(state),
            Self::Other { rtype, octets } => {
                let (front, names) = around_names(*rtype, octets);
                front.hash(state);
                names.iter().for_each(|octet| octet.to_ascii_lowercase().hash(state));
            }
        }
    }
}

/// Data as octets, in two: what stands in front of its names, and those, where they are the rest of it. Their lengths are at most
/// 63, below `A`.
fn around_names(rtype: Type, octets: &[u8]) -> (&[u8], &[u8]) {
    names_from(rtype, octets).and_then(|at| octets.split_at_checked(at)).unwrap_or((octets, &[]))
}

/// Where the names of a type begin that are the rest of its data: of MD, MF, MB, MG and MR, MINFO and RP, AFSDB, RT,
/// KX and PX, and behind three strings of NAPTR.
pub fn names_from(rtype: Type, octets: &[u8]) -> Option<usize> {
    let (mut at, strings) = match rtype.0 {
        3 | 4 | 7 | 8 | 9 | 14 | 17 => (0, 0),
        18 | 21 | 26 | 36 => (2, 0),
        35 => (4, 3),
        _ => return None,
    };
    for _ in 0..strings {
        at += 1 + usize::from(*octets.get(at)?);
    }
    Some(at)
}

/// RFC 1035 section 3.3.13; the times in seconds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Soa {
    pub mname: Name,
    pub rname: Name,
    pub serial: u32,
    pub refresh: u32,
    pub retry: u32,
    pub expire: u32,
    pub minimum: u32,
}

impl Data {
    pub fn rtype(&self) -> Type {
        match self {
            Self::A(_) => Type::A,
            Self::Aaaa(_) => Type::AAAA,
            Self::Srv { .. } => Type::SRV,
            Self::Cname(_) => Type::CNAME,
            Self::Dname(_) => Type::DNAME,
            Self::Ns(_) => Type::NS,
            Self::Ptr(_) => Type::PTR,
            Self::Mx { .. } => Type::MX,
            Self::Soa(_) => Type::SOA,
            Self::Svcb { rtype, .. } | Self::Other { rtype, .. } => *rtype,
        }
    }

    /// Reads data without compression (RFC 1035 section 3.3); none where they are not those of their type.
    pub fn from_wire(rtype: Type, octets: &[u8]) -> Option<Self> {
        Self::from_wire_with(rtype, octets, &|name| name)
    }

    /// The same, where `meant` says what a name stands for.
    pub fn from_wire_with(rtype: Type, octets: &[u8], meant: &dyn Fn(Name) -> Name) -> Option<Self> {
        let mut octets = Octets { rest: octets, meant };
        let data = match rtype {
            Type::A => Self::A(octets.take::<4>()?.into()),
            Type::AAAA => Self::Aaaa(octets.take::<16>()?.into()),
            Type::NS => Self::Ns(octets.name()?),
            Type::CNAME => Self::Cname(octets.name()?),
            Type::DNAME => Self::Dname(octets.name()?),
            Type::PTR => Self::Ptr(octets.name()?),
            Type::MX => Self::Mx { preference: octets.u16()?, exchange: octets.name()? },
            Type::SRV => Self::Srv {
                priority: octets.u16()?,
                weight: octets.u16()?,
                port: octets.u16()?,
                target: octets.name()?,
            },
            Type::SOA => Self::Soa(Arc::new(Soa {
                mname: octets.name()?,
                rname: octets.name()?,
                serial: octets.u32()?,
                refresh: octets.u32()?,
                retry: octets.u32()?,
                expire: octets.u32()?,
                minimum: octets.u32()?,
            })),
            Type::SVCB | Type::HTTPS => Self::Svcb {
                rtype,
                priority: octets.u16()?,
                target: octets.name()?,
                params: std::mem::take(&mut octets.rest).into(),
            },
            // One string or more (RFC 1035 section 3.3.14).
            Type::TXT if octets.rest.is_empty() => return None,
            rtype => Self::Other { rtype, octets: std::mem::take(&mut octets.rest).into() },
        };
        octets.rest.is_empty().then_some(data)
    }

    /// As on the wire, without compression.
    pub fn to_wire(&self) -> Vec<u8> {
        match self {
            Self::A(address) => address.octets().to_vec(),
            Self::Aaaa(address) => address.octets().to_vec(),
            Self::Srv { priority, weight, port, target } => {
                let numbers = [priority, weight, port].map(|number| number.to_be_bytes());
                [numbers.as_flattened(), target.as_wire()].concat()
            }
            Self::Cname(name) | Self::Dname(name) | Self::Ns(name) | Self::Ptr(name) => {
                name.as_wire().to_vec()
            }
            Self::Mx { preference, exchange } => [&preference.to_be_bytes(), exchange.as_wire()].concat(),
            Self::Soa(soa) => {
                let numbers = [soa.serial, soa.refresh, soa.retry, soa.expire, soa.minimum];
                let numbers = numbers.map(u32::to_be_bytes);
                [soa.mname.as_wire(), soa.rname.as_wire(), numbers.as_flattened()].concat()
            }
            Self::Svcb { priority, target, params, .. } => {
                [&priority.to_be_bytes(), target.as_wire(), params].concat()
            }
            Self::Other { octets, .. } => octets.to_vec(),
        }
    }

    /// TXT from its strings; one empty string where there is none (RFC 6763 section 6.1).
    ///
    /// A string of more than 255 octets is left out: it has no form on the wire.
    pub fn txt<'a>(strings: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut octets = Vec::new();
        for string in strings {
            if let Ok(length) = u8::try_from(string.len()) {
                octets.push(length);
                octets.extend_from_slice(string);
            }
        }
        if octets.is_empty() {
            octets.push(0);
        }
        Self::Other { rtype: Type::TXT, octets: octets.into() }
    }

    /// Octets on the wire without compression: what a record of this data needs at most, its
    /// owner and fixed fields aside.
    pub fn octets_max(&self) -> usize {
        match self {
            Self::A(_) => 4,
            Self::Aaaa(_) => 16,
            Self::Srv { target, .. } => 6 + target.as_wire().len(),
            Self::Cname(name) | Self::Dname(name) | Self::Ns(name) | Self::Ptr(name) => name.as_wire().len(),
            Self::Mx { exchange, .. } => 2 + exchange.as_wire().len(),
            Self::Soa(soa) => soa.mname.as_wire().len() + soa.rname.as_wire().len() + 20,
            Self::Svcb { target, params, .. } => 2 + target.as_wire().len() + params.len(),
            Self::Other { octets, .. } => octets.len(),
        }
    }

    /// Octets of a record of this data in a reply, its owner a pointer.
    pub fn octets_in_set(&self) -> usize {
        RECORD_OCTETS + self.octets_max()
    }

    /// The name whose addresses belong into the additional section, if this type has one.
    pub fn target(&self) -> Option<&Name> {
        match self {
            Self::Srv { target, .. } | Self::Svcb { target, .. } => Some(target),
            Self::Ns(name) => Some(name),
            Self::Mx { exchange, .. } => Some(exchange),
            _ => None,
        }
    }
}

/// As zone files have it; RFC 3597's form for what is octets alone.
impl fmt::Display for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::A(address) => write!(f, "{address}"),
            Self::Aaaa(address) => write!(f, "{address}"),
            Self::Srv { priority, weight, port, target } => write!(f, "{priority} {weight} {port} {target}"),
            Self::Cname(name) | Self::Dname(name) | Self::Ns(name) | Self::Ptr(name) => write!(f, "{name}"),
            Self::Mx { preference, exchange } => write!(f, "{preference} {exchange}"),
            Self::Other { rtype: Type::TXT, octets } => {
                let mut rest = &octets[..];
                let mut first = true;
                while let Some((length, after)) = rest.split_first() {
                    let (text, after) = after.split_at(after.len().min(usize::from(*length)));
                    let blank = if first { "" } else { " " };
                    write!(f, "{blank}\"")?;
                    for octet in text {
                        match octet {
                            b'"' | b'\\' => write!(f, "\\{}", *octet as char)?,
                            0x20..=0x7e => write!(f, "{}", *octet as char)?,
                            _ => write!(f, "\\{octet:03}")?,
                        }
                    }
                    f.write_str("\"")?;
                    (rest, first) = (after, false);
                }
                Ok(())
            }
            Self::Soa(_) | Self::Svcb { .. } | Self::Other { .. } => {
                let octets = self.to_wire();
                write!(f, "\\# {}", octets.len())?;
                if !octets.is_empty() {
                    f.write_str(" ")?;
                }
                octets.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
            }
        }
    }
}

/// Record data on the wire, read from the front.
struct Octets<'a> {
    rest: &'a [u8],
    meant: &'a dyn Fn(Name) -> Name,
}

impl Octets<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    fn name(&mut self) -> Option<Name> {
        let name = Name::from_wire(self.rest).ok()?;
        self.rest = &self.rest[name.as_wire().len()..];
        Some((self.meant)(name))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_in_octets_are_equal_whatever_their_case() {
        let other = |rtype: u16, octets: &[u8]| Data::Other { rtype: Type(rtype), octets: octets.into() };
        for (rtype, one, two, equal) in [
            (17, &b"\x01A\0\x01B\0"[..], &b"\x01a\0\x01b\0"[..], true),
            (18, b"\0A\x01A\0", b"\0A\x01a\0", true),
            (18, b"\0A\x01A\0", b"\0a\x01A\0", false), // the number in front of it
            (35, b"\0\x01\0\x02\x01S\x01U\x02!R\x01A\0", b"\0\x01\0\x02\x01S\x01U\x02!R\x01a\0", true),
            (35, b"\0\x01\0\x02\x01S\x01U\x02!R\x01A\0", b"\0\x01\0\x02\x01s\x01U\x02!R\x01A\0", false),
            (16, b"\x01A", b"\x01a", false),
            (35, b"\0\0\0\0\x09A", b"\0\0\0\0\x09a", false), // cut short
        ] {
            let both = [other(rtype, one), other(rtype, two)];
            assert_eq!(both[0] == both[1], equal, "{both:?}");
            assert_eq!(HashSet::from(both).len(), if equal { 1 } else { 2 });
        }
        assert_ne!(other(17, b"\0\0"), other(14, b"\0\0"));
    }
}
