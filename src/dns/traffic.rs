//! What a query was about, read from its reply: the service, or the name that is not there.
//!
//! The reply says all of it: the question comes first in it, written out. Nothing here takes a lock, and nothing
//! allocates but for names of the alias zone.

use arrayvec::ArrayVec;

use super::encode::{AA, HEADER_OCTETS};
use super::wire::OPCODE;
use crate::answer::Rcode;
use crate::grammar::{self, consul};
use crate::name::{Apex, NAME_OCTETS_MAX};
use crate::traffic::Seen;
use crate::view::View;

/// Labels in front of an apex that may mean something, in any of our zones; a name with more is no service's.
const LABELS_READ_MAX: usize = 6;

/// A name in lower case, as it is on the wire.
pub struct Asked {
    name: [u8; NAME_OCTETS_MAX],
    octets: usize,
}

impl Asked {
    /// Of the question of a reply; none where it has none, or not one that is written out.
    pub fn of(reply: &[u8]) -> Option<Self> {
        let (header, body) = reply.split_first_chunk::<HEADER_OCTETS>()?;
        if u16::from_be_bytes([header[2], header[3]]) & OPCODE != 0 || header[4..6] != [0, 1] {
            return None;
        }
        let mut end = 0;
        while let length @ 1..=63 = *body.get(end)? {
            end += 1 + usize::from(length);
        }
        let octets = end + 1;
        if body[end] != 0 || octets > NAME_OCTETS_MAX {
            return None;
        }
        let mut name = [0; NAME_OCTETS_MAX];
        name[..octets].copy_from_slice(&body[..octets]);
        name[..octets].make_ascii_lowercase(); // lengths are at most 63, below `A`
        Some(Self { name, octets })
    }

    /// What that makes of the reply.
    pub fn seen<'a>(&'a self, view: &View, reply: &[u8]) -> Seen<'a> {
        let Some(header) = reply.first_chunk::<HEADER_OCTETS>() else { return Seen::Other };
        let flags = u16::from_be_bytes([header[2], header[3]]);
        match flags & 0xf {
            code if code == Rcode::NxDomain as u16 && flags & AA != 0 => Seen::Missing(self.name()),
            code if code == Rcode::NoError as u16 => match self.service(view) {
                Some(service) if view.with_service(service, |known| known.is_some()) => {
                    Seen::Service(service)
                }
                _ => Seen::Other,
            },
            _ => Seen::Other,
        }
    }

    fn name(&self) -> &[u8] {
        &self.name[..self.octets]
    }

    fn service(&self, view: &View) -> Option<&str> {
        if let Some(zone) = &view.settings.consul
            && let Some(labels) = self.labels_below(&zone.apex)
        {
            return match consul::parse(&labels, zone.datacenter.as_str()).ok()? {
                consul::Owner::Service { service, .. } | consul::Owner::ByTransport { service, .. } => {
                    Some(service)
                }
                _ => None,
            };
        }
        let apexes = view.settings.apexes.iter();
        // Below the longest apex of several there are the fewest labels.
        let labels = apexes.filter_map(|apex| self.labels_below(apex)).min_by_key(ArrayVec::len)?;
        grammar::parse(&labels)?.service()
    }

    /// The labels in front of the apex, leftmost first; none where the name is not below it, or has too many.
    fn labels_below(&self, apex: &Apex) -> Option<ArrayVec<&[u8], LABELS_READ_MAX>> {
        let apex = apex.name().as_wire();
        let apex_at = self.octets.checked_sub(apex.len())?;
        let (mut labels, mut at) = (ArrayVec::new(), 0);
        while at < apex_at {
            let end = at + 1 + usize::from(self.name[at]);
            labels.try_push(&self.name[at + 1..end]).ok()?;
            at = end;
        }
        (at == apex_at && self.name()[at..] == *apex).then_some(labels)
    }
}
