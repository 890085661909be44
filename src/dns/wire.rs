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
use crate::clock::Clock;
use crate::dns::cookie::{Cookies, Judged, ServerPart};
use crate::dns::edns::{Edns, Options};
use crate::dns::encode::{Frame, HEADER_OCTETS};
use crate::dns::limit::{Fate, Limiter};
use crate::name::Name;
use crate::record::{Data, Record, Type};
use crate::time::Now;
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
    /// The name that this server tells of itself, at most `edns::NSID_OCTETS_MAX` octets; none: it tells none.
    pub nsid: Option<Box<str>>,
    /// What makes cookies; none: none are made, and a client's is ignored.
    pub cookies: Option<Cookies>,
}

impl Default for Policy {
    fn default() -> Self {
        Self { udp_octets_loopback: UDP_OCTETS_MAX, nsid: None, cookies: None }
    }
}

/// What every loop answers with.
pub struct Responder {
    pub view: Arc<View>,
    pub policy: Policy,
    pub clock: Clock,
    /// Counts replies over UDP, where there is a limit to them.
    pub limiter: Option<Limiter>,
}

impl Responder {
    /// The reply to `message`; `None` where it deserves none: too short for a header, itself a reply, or one of
    /// too many.
    pub fn accept(&self, arrival: &Arrival, message: &[u8]) -> Option<Vec<u8>> {
        self.accept_at(self.clock.now(), arrival, message)
    }

    /// As `accept`, at a time of the caller's.
    pub fn accept_at(&self, now: Now, arrival: &Arrival, message: &[u8]) -> Option<Vec<u8>> {
        let (view, policy) = (&*self.view, &self.policy);
        respond(&Around { view, policy, limiter: self.limiter.as_ref(), now }, arrival, message)
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

/// The reply to `message` by itself, whatever came before it, and on the first day of all clocks: nothing is
/// counted, no cookie is old.
pub fn accept(view: &View, policy: &Policy, arrival: &Arrival, message: &[u8]) -> Option<Vec<u8>> {
    respond(&Around { view, policy, limiter: None, now: Now::default() }, arrival, message)
}

/// What a reply depends on besides its query.
struct Around<'a> {
    view: &'a View,
    policy: &'a Policy,
    limiter: Option<&'a Limiter>,
    now: Now,
}

impl Around<'_> {
    /// What the client's cookie is worth; `None` where it has none, or we have none to give.
    fn judge(&self, options: Options<'_>, client: IpAddr) -> Option<Judged> {
        Some(self.policy.cookies.as_ref()?.judge(&options.cookie?, client, self.now.wall))
    }

    /// `answer` as it goes out, unless it is one of too many.
    fn send(
        &self,
        frame: &Frame<'_>,
        answer: &Answer,
        client: IpAddr,
        cookie: Option<Judged>,
    ) -> Option<Vec<u8>> {
        let proven = cookie.is_some_and(|judged| judged.server_part == ServerPart::Good);
        let exempt = proven || !frame.over.is_datagram() || is_loopback(client);
        let Some(limiter) = self.limiter.filter(|_| !exempt) else { return Some(frame.encode(answer)) };
        match limiter.judge(client, frame.qname(), answer, self.now) {
            Fate::Goes => Some(frame.encode(answer)),
            // Who reads cookies asks again with the one that is in the reply, everybody else over TCP.
            Fate::Slips if cookie.is_some() => Some(frame.encode(&Answer::bare(Rcode::BadCookie, None))),
            Fate::Slips => {
                Some(frame.encode(&Answer { truncated: true, ..Answer::bare(Rcode::NoError, None) }))
            }
            Fate::Dropped => None,
        }
    }
}

fn respond(around: &Around<'_>, arrival: &Arrival, message: &[u8]) -> Option<Vec<u8>> {
    let header: &[u8; HEADER_OCTETS] = message.first_chunk()?;
    let [id, flags, questions, answers, authorities, additionals] = numbers(header);
    if flags & 0x8000 != 0 {
        return None; // answering answers makes loops
    }
    let glimpse = Glimpse::of(message);
    let options = glimpse.edns.map_or(Ok(Options::default()), |edns| edns.options());
    let wanted = options.unwrap_or_default();
    let client = arrival.client.ip().to_canonical();
    let cookie = around.judge(wanted, client);
    let nsid = around.policy.nsid.as_deref();
    let reply_options = wanted.reply(nsid, cookie.map(|judged| judged.cookie), arrival.over);
    let mut frame = Frame {
        id,
        flags: flags & (OPCODE | RD | CD),
        question: glimpse.question,
        edns: glimpse.edns.is_some(),
        dnssec_ok: glimpse.edns.is_some_and(|edns| edns.dnssec_ok),
        options: &reply_options,
        padded: wanted.padding && arrival.over.is_encrypted(),
        limit: limit(around.policy, arrival, glimpse.edns),
        over: arrival.over,
    };
    let send = |frame: &Frame<'_>, answer: &Answer| around.send(frame, answer, client, cookie);
    if flags & OPCODE != 0 {
        // RD and CD mean nothing to an opcode that we do not know (RFC 8906 section 8.1.4).
        frame.flags = flags & OPCODE;
        return send(&frame, &Answer::bare(Rcode::NotImp, None));
    }
    let malformed = Answer::bare(Rcode::FormErr, None);
    if let (Some(judged), [0, 0, 0]) = (cookie, [questions, answers, authorities]) {
        // Only a cookie is asked for, or about (RFC 7873 section 5.4).
        let bad = judged.server_part == ServerPart::Bad;
        return send(&frame, &Answer::bare(if bad { Rcode::BadCookie } else { Rcode::NoError }, None));
    }
    if questions != 1 || answers != 0 || authorities > 1 || additionals > ADDITIONAL_MAX {
        // Several questions, or none: RFC 9619 section 4. One authority record is IXFR's SOA.
        return send(&frame, &malformed);
    }
    let Some(request) = decode(arrival, message, glimpse.edns) else { return send(&frame, &malformed) };
    if glimpse.edns.is_some_and(|edns| edns.version != 0) {
        return send(&frame, &Answer::bare(Rcode::BadVers, None)); // RFC 6891 section 6.1.3
    }
    let (Some(query), Ok(_)) = (request.queries.queries().first(), options) else {
        return send(&frame, &malformed);
    };
    let (qtype, class) = (Type(query.query_type().into()), u16::from(query.query_class()));

    // A compressed name in the question is legal, and useless: it is written out in the reply.
    let written_out;
    if frame.question.is_empty() {
        let labels = query.original().name().iter();
        let mut octets: Vec<u8> = labels.flat_map(|label| [&[label.len() as u8], label].concat()).collect();
        octets.push(0);
        octets.extend([qtype.0.to_be_bytes(), class.to_be_bytes()].concat());
        written_out = octets;
        frame.question = &written_out;
    }
    let Ok(name) = Name::from_wire(frame.question) else { return send(&frame, &malformed) };
    let question = Question { name, qtype, class };
    let special = refuse(&question, authorities).or_else(|| identity(around.policy, &question));
    let answer = special.unwrap_or_else(|| {
        let (over, room, edns, draw) = (arrival.over, frame.room(), frame.edns, arrival.draw);
        answer(around.view, &Asked { question: &question, client, over, room, edns, draw })
    });
    send(&frame, &answer)
}

/// What hickory reads, and finds in order; the options are not its to judge.
fn decode(arrival: &Arrival, message: &[u8], edns: Option<Edns<'_>>) -> Option<Request> {
    let mut message = message.to_vec();
    if let Some(edns) = edns {
        edns.hide(&mut message);
    }
    let protocol = if arrival.over.is_datagram() { Protocol::Udp } else { Protocol::Tcp };
    Request::from_bytes(message, arrival.client, protocol).ok()
}

/// The names that a server is asked for its own by, of class CHAOS (RFC 4892 section 3).
const IDENTITY_NAMES: [&[u8]; 2] = [b"\x02id\x06server\0", b"\x08hostname\x04bind\0"];
const CLASS_CHAOS: u16 = 3;

/// Our own name, where the operator gave us one.
fn identity(policy: &Policy, question: &Question) -> Option<Answer> {
    let nsid = policy.nsid.as_deref()?;
    let asked = IDENTITY_NAMES.iter().any(|name| name.eq_ignore_ascii_case(question.name.as_wire()));
    if !asked || question.class != CLASS_CHAOS || question.qtype != Type::TXT {
        return None;
    }
    let octets = [&[nsid.len() as u8], nsid.as_bytes()].concat().into();
    let data = Data::Other { rtype: Type::TXT, octets };
    let record = Record { owner: question.name.clone(), ttl: 0, data };
    Some(Answer { authoritative: true, answer: vec![record], ..Answer::default() })
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

/// True where the OPT record of `message` has the option `code`.
pub fn has_option(message: &[u8], code: u16) -> bool {
    Glimpse::of(message).edns.is_some_and(|edns| edns.has(code))
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

fn is_loopback(client: IpAddr) -> bool {
    client.to_canonical().is_loopback()
}

fn limit(policy: &Policy, arrival: &Arrival, edns: Option<Edns<'_>>) -> usize {
    if !arrival.over.is_datagram() {
        return STREAM_OCTETS_MAX;
    }
    let max = if is_loopback(arrival.client.ip()) { policy.udp_octets_loopback } else { UDP_OCTETS_MAX };
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
    edns: Option<Edns<'a>>,
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
