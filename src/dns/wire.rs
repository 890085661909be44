//! The one acceptance function: octets of a message in, octets of the reply out, whatever carried them.
//!
//! What costs nothing is checked first (length, QR, opcode, counts), so that no decoder sees what no
//! query looks like; then the message is decoded, the question answered, the reply sized and encoded.
//! There is no second way in: a rule that holds here holds on every transport.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hickory_server::net::xfer::Protocol;
use hickory_server::server::Request;

use crate::answer::{Answer, Asked, CLASS_IN, Ede, Over, Question, Rcode, answer};
use crate::dns::encode::{Frame, HEADER_OCTETS};
use crate::name::Name;
use crate::record::Type;
use crate::view::View;

/// Replies to clients without EDNS over UDP (RFC 1035 section 4.2.1).
const UDP_OCTETS_PLAIN: usize = 512;
/// The largest UDP reply anywhere but on loopback: no path fragments it (RFC 9715 section 3.1).
pub const UDP_OCTETS_MAX: usize = 1232;
/// The largest reply over a stream: what its two octets of length can say.
const STREAM_OCTETS_MAX: usize = 65_535;
/// Additional records in a query: OPT, a signature, and two that nobody knows yet. Decoding is quadratic
/// in names, so it is not for the client to choose.
const ADDITIONAL_MAX: u16 = 4;

const OPCODE: u16 = 0x7800;
const RD: u16 = 0x0100;
const CD: u16 = 0x0010;

/// What the operator may set of replies.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Octets of a UDP reply to a client on loopback, at most.
    pub udp_octets_loopback: usize,
}

impl Default for Policy {
    fn default() -> Self {
        Self { udp_octets_loopback: UDP_OCTETS_MAX }
    }
}

/// What every loop answers with.
pub struct Responder {
    pub view: Arc<View>,
    pub policy: Policy,
}

impl Responder {
    /// See [`accept`].
    pub fn accept(&self, arrival: &Arrival, message: &[u8]) -> Option<Vec<u8>> {
        accept(&self.view, &self.policy, arrival, message)
    }
}

/// How a message came.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    pub client: SocketAddr,
    pub over: Over,
    /// One random number for the order of the records.
    pub draw: u64,
}

/// The reply to `message`; `None` where it deserves none: too short for a header, or itself a reply.
pub fn accept(view: &View, policy: &Policy, arrival: &Arrival, message: &[u8]) -> Option<Vec<u8>> {
    let header: &[u8; HEADER_OCTETS] = message.first_chunk()?;
    let [id, flags, questions, answers, authorities, additionals] = numbers(header);
    if flags & 0x8000 != 0 {
        return None; // answering answers makes loops
    }
    let glimpse = Glimpse::of(message);
    let frame = Frame {
        id,
        flags: flags & (OPCODE | RD | CD),
        question: glimpse.question,
        edns: glimpse.edns.is_some(),
        dnssec_ok: glimpse.edns.is_some_and(|edns| edns.dnssec_ok),
        limit: limit(policy, arrival, glimpse.edns),
        over: arrival.over,
    };
    let reply = |answer: &Answer| Some(frame.encode(answer));
    if flags & OPCODE != 0 {
        // RD and CD mean nothing to an opcode that we do not know (RFC 8906 section 8.1.4).
        let frame = Frame { flags: flags & OPCODE, ..frame };
        return Some(frame.encode(&Answer::bare(Rcode::NotImp, None)));
    }
    let malformed = Answer::bare(Rcode::FormErr, None);
    if questions != 1 || answers != 0 || authorities > 1 || additionals > ADDITIONAL_MAX {
        // Several questions, or none: RFC 9619 section 4. One authority record is IXFR's SOA.
        return reply(&malformed);
    }
    let protocol = if arrival.over.is_datagram() { Protocol::Udp } else { Protocol::Tcp };
    let Ok(request) = Request::from_bytes(message.to_vec(), arrival.client, protocol) else {
        return reply(&malformed);
    };
    if glimpse.edns.is_some_and(|edns| edns.version != 0) {
        return reply(&Answer::bare(Rcode::BadVers, None)); // RFC 6891 section 6.1.3
    }
    let Some(query) = request.queries.queries().first() else { return reply(&malformed) };
    let (qtype, class) = (Type(query.query_type().into()), u16::from(query.query_class()));

    // A compressed name in the question is legal, and useless: it is written out in the reply.
    let written_out;
    let mut frame = frame;
    if frame.question.is_empty() {
        let mut octets = Vec::new();
        for label in query.original().name().iter() {
            octets.push(label.len() as u8);
            octets.extend_from_slice(label);
        }
        octets.push(0);
        octets.extend_from_slice(&qtype.0.to_be_bytes());
        octets.extend_from_slice(&class.to_be_bytes());
        written_out = octets;
        frame.question = &written_out;
    }
    let Ok(name) = Name::from_wire(frame.question) else { return reply(&malformed) };
    let question = Question { name, qtype, class };
    let answer = refuse(&question, authorities).unwrap_or_else(|| {
        let client = arrival.client.ip().to_canonical();
        answer(
            view,
            &Asked {
                question: &question,
                client,
                over: arrival.over,
                room: frame.room(),
                edns: frame.edns,
                draw: arrival.draw,
            },
        )
    });
    Some(frame.encode(&answer))
}

/// Types that ask for something else than records (RFC 6895 section 3.1).
fn refuse(question: &Question, authorities: u16) -> Option<Answer> {
    const MAILA: u16 = 254;
    if question.class != CLASS_IN {
        return None; // refused for its class, whatever the type
    }
    match question.qtype.0 {
        251 | 252 => {
            let ede = Ede::new(Ede::PROHIBITED, "no zone transfer for this client");
            Some(Answer::bare(Rcode::Refused, Some(ede)))
        }
        _ if authorities != 0 => Some(Answer::bare(Rcode::FormErr, None)),
        0 | 41 | 128..=248 | 250 => {
            let ede = Ede::new(Ede::INVALID_QUERY_TYPE, "not a type that can be asked for");
            Some(Answer::bare(Rcode::FormErr, Some(ede)))
        }
        249 | 253 | MAILA => Some(Answer::bare(Rcode::NotImp, None)),
        _ => None,
    }
}

fn numbers(header: &[u8; HEADER_OCTETS]) -> [u16; 6] {
    std::array::from_fn(|at| u16::from_be_bytes([header[2 * at], header[2 * at + 1]]))
}

fn limit(policy: &Policy, arrival: &Arrival, edns: Option<Edns>) -> usize {
    if !arrival.over.is_datagram() {
        return STREAM_OCTETS_MAX;
    }
    let loopback = match arrival.client.ip().to_canonical() {
        IpAddr::V4(v4) => v4.is_loopback(),
        IpAddr::V6(v6) => v6.is_loopback(),
    };
    let max = if loopback { policy.udp_octets_loopback } else { UDP_OCTETS_MAX };
    // RFC 6891 section 6.2.3: a size below 512 is 512.
    edns.map_or(UDP_OCTETS_PLAIN, |edns| {
        usize::from(edns.udp_octets).clamp(UDP_OCTETS_PLAIN, max.max(UDP_OCTETS_PLAIN))
    })
}

/// What can be read of a message without trusting it: enough to reply to a broken one as RFC 6891
/// section 7 asks, with its question and an OPT record.
#[derive(Clone, Copy, Debug, Default)]
struct Glimpse<'a> {
    /// Name, type and class; empty where they are incomplete or compressed.
    question: &'a [u8],
    edns: Option<Edns>,
}

#[derive(Clone, Copy, Debug)]
struct Edns {
    udp_octets: u16,
    version: u8,
    dnssec_ok: bool,
}

impl<'a> Glimpse<'a> {
    fn of(message: &'a [u8]) -> Self {
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
    fn opt(message: &[u8], mut at: usize, counts: &[u16]) -> Option<Edns> {
        let records = counts.iter().fold(0u16, |sum, count| sum.saturating_add(*count));
        // A record is 11 octets at least, so this ends with the message.
        for _ in 0..records {
            at = skip_name(message, at)?;
            let fixed = message.get(at..at + 10)?;
            if u16::from_be_bytes([fixed[0], fixed[1]]) == Type::OPT.0 {
                return Some(Edns {
                    udp_octets: u16::from_be_bytes([fixed[2], fixed[3]]),
                    version: fixed[5],
                    dnssec_ok: fixed[6] & 0x80 != 0,
                });
            }
            at += 10 + usize::from(u16::from_be_bytes([fixed[8], fixed[9]]));
        }
        None
    }
}

/// Where the name at `at` ends; it is not read, and pointers are not followed.
fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length @ 1..=63 => at += 1 + usize::from(length),
            0xc0.. => return Some(at + 2),
            _ => return None,
        }
    }
}
