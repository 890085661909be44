//! Resource records as the core holds them: names and numbers, no message around them.
//!
//! The types that the live zone is made of, and those whose names RFC 1035 lets a message compress, are
//! spelled out; every other type is its octets. `dns::wire` puts them into a message.

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

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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
            Self::Ns(_) => Type::NS,
            Self::Ptr(_) => Type::PTR,
            Self::Mx { .. } => Type::MX,
            Self::Soa(_) => Type::SOA,
            Self::Svcb { rtype, .. } | Self::Other { rtype, .. } => *rtype,
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
            Self::Cname(name) | Self::Ns(name) | Self::Ptr(name) => name.as_wire().len(),
            Self::Mx { exchange, .. } => 2 + exchange.as_wire().len(),
            Self::Soa(soa) => soa.mname.as_wire().len() + soa.rname.as_wire().len() + 20,
            Self::Svcb { target, params, .. } => 2 + target.as_wire().len() + params.len(),
            Self::Other { octets, .. } => octets.len(),
        }
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
