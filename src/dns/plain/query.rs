//! A plain question, read without a decoder.

use arrayvec::ArrayVec;

use crate::answer::CLASS_IN;
use crate::dns::edns::{COOKIE, Cookie};
use crate::dns::encode::HEADER_OCTETS;
use crate::dns::wire::{AD, CD, RD};
use crate::name::NAME_OCTETS_MAX;
use crate::record::Type;

/// Labels of the longest name: one octet each, and their lengths.
const LABELS_MAX: usize = NAME_OCTETS_MAX / 2;
/// Labels below the apex that may mean something; one more says that there are too many.
const LABELS_READ_MAX: usize = 5;

/// A question without anything unusual about it.
pub struct Query<'m> {
    pub(super) id: [u8; 2],
    /// RD and CD, in their places.
    pub(super) flags: u16,
    /// Name, type and class as they came.
    pub(super) question: &'m [u8],
    /// The name in lower case.
    pub(super) name: [u8; NAME_OCTETS_MAX],
    /// Where its labels begin, the root left out.
    pub(super) labels: ArrayVec<u8, LABELS_MAX>,
    pub(super) qtype: Type,
    /// What the client takes, and whether DO is set; none without an OPT record.
    pub(super) edns: Option<(u16, bool)>,
    /// The cookie beside it.
    pub cookie: Option<Cookie<'m>>,
}

impl<'m> Query<'m> {
    /// Reads a message; none where it is not plain.
    pub fn read(message: &'m [u8]) -> Option<Self> {
        let (header, body) = message.split_first_chunk::<HEADER_OCTETS>()?;
        let [id, id_low, flags, flags_low, counts @ ..] = *header;
        let flags = u16::from_be_bytes([flags, flags_low]);
        let [0, 1, 0, 0, 0, 0, 0, additional @ (0 | 1)] = counts else { return None };
        if flags & !(RD | CD | AD) != 0 {
            return None;
        }
        let mut labels = ArrayVec::new();
        let mut end = 0;
        loop {
            match *body.get(end)? {
                0 => break,
                length @ 1..=63 => {
                    labels.try_push(end as u8).ok()?;
                    end += 1 + usize::from(length);
                }
                _ => return None,
            }
            if end >= NAME_OCTETS_MAX {
                return None;
            }
        }
        let mut name = [0; NAME_OCTETS_MAX];
        name[..end].copy_from_slice(&body[..end]);
        name[..end].make_ascii_lowercase(); // lengths are at most 63, below `A`
        let (&[qtype, qtype_low, class, class_low], rest) = body[end + 1..].split_first_chunk()?;
        let (qtype, class) = (u16::from_be_bytes([qtype, qtype_low]), u16::from_be_bytes([class, class_low]));
        let (edns, cookie) = match (additional, rest) {
            (0, []) => (None, None),
            // An OPT record of version 0 with no option but a cookie (RFC 6891 section 6.1.2).
            (1, [0, 0, 41, size, size_low, 0, 0, bits, 0, 0, octets, options @ ..])
                if bits & 0x7f == 0 && usize::from(*octets) == options.len() =>
            {
                let cookie = match options {
                    [] => None,
                    options => Some(only_cookie(options)?),
                };
                (Some((u16::from_be_bytes([*size, *size_low]), *bits != 0)), cookie)
            }
            _ => return None,
        };
        if class != CLASS_IN || is_unusual(qtype) {
            return None;
        }
        let question = &body[..end + 5];
        Some(Self {
            id: [id, id_low],
            flags: flags & (RD | CD),
            question,
            name,
            labels,
            qtype: Type(qtype),
            edns,
            cookie,
        })
    }

    /// What the client says that it takes, in octets; none without EDNS.
    pub fn takes(&self) -> Option<u16> {
        self.edns.map(|(octets, _)| octets)
    }

    pub(super) fn name(&self) -> &[u8] {
        &self.name[..self.question.len() - 4]
    }

    /// Where `apex`, in lower case, begins in the name; none where the name is not below it.
    pub(super) fn below(&self, apex: &[u8]) -> Option<usize> {
        let at = self.name().len().checked_sub(apex.len())?;
        let is_label = self.labels.binary_search(&(at as u8)).is_ok();
        (is_label && self.name()[at..] == *apex).then_some(at)
    }

    /// The labels in front of `end`, leftmost first, `LABELS_READ_MAX` at most.
    pub(super) fn labels_before(&self, end: usize) -> ArrayVec<&[u8], LABELS_READ_MAX> {
        let starts = self.labels.iter().map(|at| usize::from(*at)).take_while(|at| *at < end);
        starts.take(LABELS_READ_MAX).map(|at| &self.name[at + 1..=at + usize::from(self.name[at])]).collect()
    }
}

/// The cookie that these options are, and nothing else (RFC 7873 section 4).
fn only_cookie(options: &[u8]) -> Option<Cookie<'_>> {
    let (&[code, code_low, octets, octets_low], data) = options.split_first_chunk()?;
    let (code, octets) = (u16::from_be_bytes([code, code_low]), u16::from_be_bytes([octets, octets_low]));
    if code != COOKIE || usize::from(octets) != data.len() {
        return None;
    }
    Cookie::read(data).ok()
}

/// Every name of a signed zone has these.
const RRSIG: u16 = Type::RRSIG.0;
const NSEC: u16 = Type::NSEC.0;

/// Types that ask for something else than records, and what goes with them; [`wire`](crate::dns::wire) knows which of them is answered in which way.
fn is_unusual(qtype: u16) -> bool {
    matches!(qtype, 0 | 41 | RRSIG | NSEC | 128..=254)
}
