//! What can be read of a message without a decoder, and without trusting it.

use crate::answer::Rcode;
use crate::dns::edns::Edns;
use crate::dns::encode::{HEADER_OCTETS, QR};
use crate::name::Name;
use crate::record::Type;

/// What can be read of a message without trusting it: enough to reply to a broken one as RFC 6891
/// section 7 asks, with its question and an OPT record.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Glimpse<'a> {
    /// Name, type and class; empty where they are incomplete or compressed.
    pub(super) question: &'a [u8],
    pub(super) edns: Option<Edns<'a>>,
}

impl<'a> Glimpse<'a> {
    pub(super) fn of(message: &'a [u8]) -> Self {
        let Some(header) = message.first_chunk() else { return Self::default() };
        let [_, _, questions, rest @ ..] = numbers(header);
        let mut glimpse = Self::default();
        let mut at = HEADER_OCTETS;
        // A question is five octets at least, so this ends with the message.
        for _ in 0..questions {
            let Some(end) = skip_name(message, at) else { return glimpse };
            let Some(question) = message.get(at..end + 4) else { return glimpse };
            let whole = |name: Name| name.as_wire().len() == end - at;
            if questions == 1 && Name::from_wire(question).is_ok_and(whole) {
                glimpse.question = question;
            }
            at = end + 4;
        }
        glimpse.edns = Self::opt(message, at, &rest);
        glimpse
    }

    /// The first OPT record among the records from `at` on; `counts` are the header's.
    fn opt(message: &'a [u8], mut at: usize, counts: &[u16]) -> Option<Edns<'a>> {
        let records = counts.iter().fold(0u16, |sum, count| sum.saturating_add(*count));
        // A record is 11 octets at least, so this ends with the message.
        for _ in 0..records {
            at = skip_name(message, at)?;
            let fixed = message.get(at..at + 10)?;
            if let Some(edns) = Edns::read(message, at) {
                return Some(edns);
            }
            at += 10 + usize::from(u16::from_be_bytes([fixed[8], fixed[9]]));
        }
        None
    }
}

/// Where the name at `at` ends; it is not read, and pointers are not followed.
pub(in crate::dns) fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length @ 1..=63 => at += 1 + usize::from(length),
            0xc0.. => return Some(at + 2),
            _ => return None,
        }
    }
}

pub(super) fn numbers(header: &[u8; HEADER_OCTETS]) -> [u16; 6] {
    std::array::from_fn(|at| u16::from_be_bytes([header[2 * at], header[2 * at + 1]]))
}

/// True for what is long enough for a query, and no reply.
pub(super) fn is_query(message: &[u8]) -> bool {
    message.first_chunk().is_some_and(|header| numbers(header)[1] & QR == 0)
}

/// What a message asks for, where it has a question whose end can be found.
pub(in crate::dns) fn question_type(message: &[u8]) -> Option<Type> {
    let [_, _, questions, ..] = numbers(message.first_chunk()?);
    let at = skip_name(message, HEADER_OCTETS).filter(|_| questions > 0)?;
    message.get(at..)?.first_chunk().map(|qtype| Type(u16::from_be_bytes(*qtype)))
}

/// What a header holds of a response code, which is all of it but for two.
pub(in crate::dns) fn low_rcode(reply: &[u8]) -> u16 {
    reply.get(3).map_or(0, |flags| u16::from(flags & 0xf))
}

/// The response code of a reply, with what the OPT record holds of it (RFC 6891 section 6.1.3).
pub(super) fn rcode(reply: &[u8]) -> u16 {
    let low = low_rcode(reply);
    // BADVERS and BADCOOKIE come without an answer.
    let is_whole = ![Rcode::BadVers, Rcode::BadCookie].map(|rcode| rcode as u16 & 0xf).contains(&low);
    let high = || {
        let [_, _, questions, answers, authorities, additionals] = numbers(reply.first_chunk()?);
        if is_whole || answers > 0 {
            return None;
        }
        let mut at = HEADER_OCTETS;
        for _ in 0..questions {
            at = skip_name(reply, at)? + 4;
        }
        for _ in 0..u32::from(authorities) + u32::from(additionals) {
            at = skip_name(reply, at)?;
            let [kind, kind_low, _, _, high, _, _, _, length, length_low] =
                *reply.get(at..)?.first_chunk::<10>()?;
            if Type(u16::from_be_bytes([kind, kind_low])) == Type::OPT {
                return Some(u16::from(high));
            }
            at += 10 + usize::from(u16::from_be_bytes([length, length_low]));
        }
        None
    };
    high().unwrap_or(0) << 4 | low
}

/// True where the OPT record of `message` has the option `code`.
pub fn has_option(message: &[u8], code: u16) -> bool {
    Glimpse::of(message).edns.is_some_and(|edns| edns.has(code))
}

/// Seconds for which a cache of HTTP may keep `reply`: the smallest TTL of its answer, and of the SOA of a negative one,
/// whose TTL is at most its minimum here (RFC 8484 section 5.1); none for what has neither.
pub fn fresh_s(reply: &[u8]) -> u32 {
    let ttls = || {
        let [_, _, questions, answers, authorities, _] = numbers(reply.first_chunk()?);
        let mut at = HEADER_OCTETS;
        for _ in 0..questions {
            at = skip_name(reply, at)? + 4;
        }
        let mut least: Option<u32> = None;
        for number in 0..u32::from(answers) + u32::from(authorities) {
            at = skip_name(reply, at)?;
            let [kind, kind_low, _, _, ttl @ .., length, length_low] =
                *reply.get(at..)?.first_chunk::<10>()?;
            if number < u32::from(answers) || Type(u16::from_be_bytes([kind, kind_low])) == Type::SOA {
                let ttl = u32::from_be_bytes(ttl);
                least = Some(least.map_or(ttl, |least| least.min(ttl)));
            }
            at += 10 + usize::from(u16::from_be_bytes([length, length_low]));
        }
        least
    };
    ttls().unwrap_or(0)
}
