//! A message read from front to back, its names written out.
//!
//! Where a pointer leads depends on the message around it (RFC 1035 section 4.1.4), so what is to be kept has none. Types that we
//! do not know have no compressed names in them (RFC 3597 section 4) and stay the octets that they are.

use std::sync::Arc;

use crate::name::{NAME_OCTETS_MAX, Name};
use crate::record::{Data, Soa, Type};

/// Octets that the names of one message may have once they are written out: eight times the longest message, for
/// pointers can make thousands of long names of a few octets.
pub const EXPANDED_OCTETS_MAX: usize = 512 << 10;

/// `None` wherever the message is not well formed.
pub struct Reader<'a> {
    pub message: &'a [u8],
    pub at: usize,
    /// Octets of names written out so far.
    expanded: usize,
    /// The name before this one: the records of an RRset share one.
    last: Option<Name>,
}

impl<'a> Reader<'a> {
    pub fn new(message: &'a [u8], at: usize) -> Self {
        Self { message, at, expanded: 0, last: None }
    }

    pub fn u16(&mut self) -> Option<u16> {
        let octets = self.message.get(self.at..self.at + 2)?;
        self.at += 2;
        Some(u16::from_be_bytes([octets[0], octets[1]]))
    }

    pub fn u32(&mut self) -> Option<u32> {
        Some(u32::from(self.u16()?) << 16 | u32::from(self.u16()?))
    }

    /// The name that stands here, its pointers followed: each leads further to the front, so this ends.
    pub fn name(&mut self) -> Option<Name> {
        let mut wire = [0; NAME_OCTETS_MAX];
        let (mut octets, mut at, mut front) = (0, self.at, self.at);
        let mut after = None;
        loop {
            match *self.message.get(at)? {
                0 => break,
                length @ 1..=63 => {
                    let label = self.message.get(at..at + 1 + usize::from(length))?;
                    wire.get_mut(octets..octets + label.len())?.copy_from_slice(label);
                    (octets, at) = (octets + label.len(), at + label.len());
                }
                high @ 0xc0.. => {
                    let to = usize::from(high & 0x3f) << 8 | usize::from(*self.message.get(at + 1)?);
                    after.get_or_insert(at + 2);
                    if to >= front {
                        return None;
                    }
                    (at, front) = (to, to);
                }
                _ => return None,
            }
        }
        self.at = after.unwrap_or(at + 1);
        let wire = wire.get(..=octets)?; // the root's octet is zero already
        self.expanded += wire.len();
        if self.expanded > EXPANDED_OCTETS_MAX {
            return None;
        }
        if let Some(last) = &self.last
            && last.as_wire() == wire
        {
            return Some(last.clone());
        }
        let name = Name::from_wire(wire).ok()?;
        self.last = Some(name.clone());
        Some(name)
    }

    /// The data of a record, which ends at `end`.
    pub fn data(&mut self, rtype: Type, end: usize) -> Option<Data> {
        let here = self.message.get(self.at..end)?;
        let data = match rtype {
            Type::A => Data::A(<[u8; 4]>::try_from(here).ok()?.into()),
            Type::AAAA => Data::Aaaa(<[u8; 16]>::try_from(here).ok()?.into()),
            Type::CNAME => return self.name().map(Data::Cname),
            Type::DNAME => return self.name().map(Data::Dname),
            Type::NS => return self.name().map(Data::Ns),
            Type::PTR => return self.name().map(Data::Ptr),
            Type::MX => {
                let preference = self.u16()?;
                return Some(Data::Mx { preference, exchange: self.name()? });
            }
            Type::SRV => {
                let (priority, weight, port) = (self.u16()?, self.u16()?, self.u16()?);
                return Some(Data::Srv { priority, weight, port, target: self.name()? });
            }
            Type::SVCB | Type::HTTPS => {
                let (priority, target) = (self.u16()?, self.name()?);
                let params = self.message.get(self.at..end)?.into();
                Data::Svcb { rtype, priority, target, params }
            }
            Type::SOA => return self.soa(),
            _ => return self.other(rtype, end),
        };
        self.at = end;
        Some(data)
    }

    fn soa(&mut self) -> Option<Data> {
        let (mname, rname) = (self.name()?, self.name()?);
        let mut numbers = [0; 5];
        for number in &mut numbers {
            *number = self.u32()?;
        }
        let [serial, refresh, retry, expire, minimum] = numbers;
        Some(Data::Soa(Arc::new(Soa { mname, rname, serial, refresh, retry, expire, minimum })))
    }

    /// Any other type: its octets, with the names written out that a sender may have compressed.
    fn other(&mut self, rtype: Type, end: usize) -> Option<Data> {
        let (in_front, names) = match rtype.0 {
            3 | 4 | 7 | 8 | 9 => (0, 1), // MD, MF, MB, MG, MR
            14 | 17 => (0, 2),           // MINFO, RP
            18 | 21 | 36 => (2, 1),      // AFSDB, RT, KX
            26 => (2, 2),                // PX
            24 => (18, 1),               // SIG
            35 => (self.naptr_texts(end)?, 1),
            _ => (0, 0),
        };
        let mut octets = self.message.get(self.at..self.at + in_front)?.to_vec();
        self.at += in_front;
        for _ in 0..names {
            octets.extend_from_slice(self.name()?.as_wire());
        }
        octets.extend_from_slice(self.message.get(self.at..end)?);
        self.at = end;
        Some(Data::Other { rtype, octets: octets.into() })
    }

    /// Octets of a NAPTR record in front of its name: two numbers and three texts (RFC 3403 section 4.1).
    fn naptr_texts(&self, end: usize) -> Option<usize> {
        let here = self.message.get(self.at..end)?;
        (0..3).try_fold(4, |at, _| Some(at + 1 + usize::from(*here.get(at)?)))
    }
}
