//! The reply to one message, from its header to what goes out: one function, top to bottom.

use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::rr::RData;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::Request;

use super::glimpse::{Glimpse, numbers};
use super::{
    AD, Arrival, CD, OPCODE, Policy, RA, RD, STREAM_OCTETS_MAX, UDP_OCTETS_MAX, UDP_OCTETS_PLAIN, is_loopback,
};
use crate::answer::{Answer, Asked, CLASS_IN, Dnssec, Ede, Question, Rcode, Taken, answer};
use crate::dns::cookie::{Judged, ServerPart};
use crate::dns::edns::{Edns, Options};
use crate::dns::encode::{Frame, HEADER_OCTETS, QR};
use crate::dns::forward::Query;
use crate::dns::limit::{Fate, Limiter};
use crate::dns::onward::{Asker, Onward};
use crate::dns::sign::Signer as ZoneSigner;
use crate::dns::transfer::{self, Transfer, Transfers};
use crate::dns::tsig::{Judged as JudgedSignature, Signer};
use crate::dns::update::{self, OPCODE_UPDATE, Updates, Wanted};
use crate::name::Name;
use crate::record::{Data, Record, Type};
use crate::time::Now;
use crate::view::View;

/// Additional records in a query: OPT, a signature, and two that nobody knows yet. Decoding is quadratic
/// in names, so it is not for the client to choose.
const ADDITIONAL_MAX: u16 = 4;

/// What a reply depends on besides its query.
pub(super) struct Around<'a> {
    pub(super) view: &'a View,
    pub(super) policy: &'a Policy,
    pub(super) limiter: Option<&'a Limiter>,
    pub(super) now: Now,
    pub(super) onward: Option<Onward<'a>>,
    pub(super) transfers: Option<&'a Arc<Transfers>>,
    pub(super) updates: Option<&'a Arc<Updates>>,
    pub(super) zone_signer: &'a ZoneSigner,
}

impl Around<'_> {
    /// What the client's cookie is worth; `None` where it has none, or we have none to give.
    fn judge(&self, options: Options<'_>, client: IpAddr) -> Option<Judged> {
        Some(self.policy.cookies.as_ref()?.judge(&options.cookie?, client, self.now.wall))
    }

    /// `answer` as it goes out, unless it is one of too many.
    fn send(&self, frame: &Frame<'_>, answer: &Answer, client: IpAddr, cookie: Option<Judged>) -> Verdict {
        let proven = cookie.is_some_and(|judged| judged.server_part == ServerPart::Good);
        let exempt = proven || !frame.over.is_datagram() || is_loopback(client);
        let Some(limiter) = self.limiter.filter(|_| !exempt) else {
            return Verdict::Reply(frame.encode(answer));
        };
        match limiter.judge(client, frame.qname(), answer, self.now) {
            Fate::Goes => Verdict::Reply(frame.encode(answer)),
            // Who reads cookies asks again with the one that is in the reply, everybody else over TCP.
            Fate::Slips if cookie.is_some() => {
                Verdict::Reply(frame.encode(&Answer::bare(Rcode::BadCookie, None)))
            }
            Fate::Slips => Verdict::Reply(
                frame.encode(&Answer { truncated: true, ..Answer::bare(Rcode::NoError, None) }),
            ),
            Fate::Dropped => Verdict::Silence,
        }
    }
}

pub(super) enum Verdict {
    Silence,
    Reply(Vec<u8>),
    /// This has to be asked of another server first.
    Ask(Query),
    Transfer(Box<Transfer>),
    Update(Box<Wanted>),
    /// This, and that the signature is too old.
    TooOld(Vec<u8>),
}

impl Verdict {
    pub(super) fn reply(self) -> Option<Vec<u8>> {
        match self {
            Self::Reply(reply) | Self::TooOld(reply) => Some(reply),
            Self::Silence | Self::Ask(_) | Self::Transfer(_) | Self::Update(_) => None,
        }
    }
}

pub(super) fn respond(around: &Around<'_>, arrival: &Arrival, message: &[u8]) -> Verdict {
    let Some(header) = message.first_chunk::<HEADER_OCTETS>() else { return Verdict::Silence };
    if numbers(header)[1] & QR != 0 {
        return Verdict::Silence; // answering answers makes loops
    }
    let now_s = around.now.wall.unix_s();
    match around.policy.keys.judge(message, now_s) {
        JudgedSignature::Unsigned => respond_to(around, arrival, message, Signature::None),
        JudgedSignature::Malformed => respond_to(around, arrival, message, Signature::Malformed),
        JudgedSignature::Signed { message, mut signer } => {
            match respond_to(around, arrival, &message, Signature::By(&signer)) {
                Verdict::Reply(reply) => Verdict::Reply(signer.sign(reply, now_s)),
                Verdict::Transfer(transfer) => Verdict::Transfer(Box::new(transfer.signed_by(signer))),
                Verdict::Update(update) => Verdict::Update(Box::new(update.signed_by(signer))),
                Verdict::TooOld(reply) => {
                    signer.doubt_time();
                    Verdict::Reply(signer.sign(reply, now_s))
                }
                verdict => verdict,
            }
        }
    }
}

/// What a message is signed with.
#[derive(Clone, Copy)]
enum Signature<'a> {
    None,
    Malformed,
    By(&'a Signer),
}

/// The reply to a message whose signature is taken off, with room for one on the reply.
fn respond_to(around: &Around<'_>, arrival: &Arrival, message: &[u8], signature: Signature<'_>) -> Verdict {
    let Some(header) = message.first_chunk::<HEADER_OCTETS>() else { return Verdict::Silence };
    let [id, flags, questions, answers, authorities, additionals] = numbers(header);
    let glimpse = Glimpse::of(message);
    let options = glimpse.edns.map_or(Ok(Options::default()), |edns| edns.options());
    let wanted = options.unwrap_or_default();
    let client = arrival.client.ip().to_canonical();
    let cookie = around.judge(wanted, client);
    let nsid = around.policy.nsid.as_deref();
    let reply_options = wanted.reply(nsid, cookie.map(|judged| judged.cookie), arrival.over);
    let is_update = flags & OPCODE == OPCODE_UPDATE;
    let mut frame = Frame {
        id,
        flags: flags & (OPCODE | RD | CD),
        // Nothing of an UPDATE is repeated but its header (RFC 2136 section 3.8).
        question: if is_update { &[] } else { glimpse.question },
        edns: glimpse.edns.is_some(),
        dnssec_ok: glimpse.edns.is_some_and(|edns| edns.dnssec_ok),
        options: &reply_options,
        padded: wanted.padding && arrival.over.is_encrypted(),
        limit: limit(around.policy, arrival, glimpse.edns.map(|edns| edns.udp_octets)),
        over: arrival.over,
    };
    if let Signature::By(signer) = signature {
        frame.limit = frame.limit.saturating_sub(signer.octets());
    }
    let send = |frame: &Frame<'_>, answer: &Answer| around.send(frame, answer, client, cookie);
    if !around.policy.serves(client) {
        // Whatever it is that is asked (RFC 8914 section 4.19).
        let why = Ede::new(Ede::PROHIBITED, "this client may not ask");
        return send(&frame, &Answer::bare(Rcode::Refused, Some(why)));
    }
    match signature {
        Signature::Malformed => return send(&frame, &Answer::bare(Rcode::FormErr, None)),
        // RFC 8945 section 5.2: nothing is done for who shows a wrong signature.
        Signature::By(signer) if signer.believed().is_none() => {
            return send(&frame, &Answer::bare(Rcode::NotAuth, None));
        }
        Signature::By(_) | Signature::None => {}
    }
    if is_update {
        frame.flags = OPCODE_UPDATE;
        if options.is_err() || additionals > ADDITIONAL_MAX {
            return send(&frame, &Answer::bare(Rcode::FormErr, None));
        }
        if glimpse.edns.is_some_and(|edns| edns.version != 0) {
            return send(&frame, &Answer::bare(Rcode::BadVers, None));
        }
        let signer = match signature {
            Signature::By(signer) => Some(signer),
            Signature::Malformed | Signature::None => None,
        };
        let (over, lease, draw) = (arrival.over, wanted.update_lease, arrival.draw);
        let wish = update::Wish { message, client, over, signer, lease, draw };
        return match Updates::take(around.updates, around.view, &wish, &frame) {
            update::Taken::Wanted(update) => Verdict::Update(update),
            update::Taken::Answer(answer) => send(&frame, &answer),
            update::Taken::UnderWay => Verdict::Silence,
            update::Taken::TooOld => Verdict::TooOld(frame.encode(&Answer::bare(Rcode::NotAuth, None))),
        };
    }
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
    if question.is_transfer() {
        let key = match signature {
            Signature::By(signer) => signer.believed(),
            Signature::Malformed | Signature::None => None,
        };
        let since = request.authorities.first().and_then(|record| match &record.data {
            RData::SOA(soa) => Some(soa.serial),
            _ => None,
        });
        let wish = transfer::Wish { question: &question, since, client, over: arrival.over, key };
        return match Transfers::plan(around.transfers, around.view, &wish) {
            Ok(plan) => Verdict::Transfer(Box::new(Transfer::new(plan, &frame))),
            Err(refused) => send(&frame, &refused),
        };
    }
    let special = refuse(&question, authorities).or_else(|| identity(around.policy, &question));
    let mut answer = special.unwrap_or_else(|| {
        let (over, room, edns, draw) = (arrival.over, frame.room(), frame.edns, arrival.draw);
        let dnssec = glimpse.edns.map_or(Dnssec::Nothing, |edns| Dnssec::of(edns.dnssec_ok, edns.compact_ok));
        let taken = Taken::Chosen;
        answer(around.view, &Asked { question: &question, client, over, room, edns, draw, dnssec, taken })
    });
    // What is ours is signed, and nothing that an upstream says: it may use our names.
    let onward_name = answer.onward.take();
    let mut answer = around.zone_signer.sign(around.view, answer, arrival.over, frame.room(), around.now);
    if let Some(onward) = &around.onward {
        let asker = Asker { permitted: onward.forwarder.permits(client), recursion: flags & RD != 0 };
        frame.flags |= if asker.permitted { RA } else { 0 };
        let is_whole = !answer.truncated && answer.rcode != Rcode::ServFail;
        if let Some(name) = onward_name.filter(|_| is_whole) {
            let query = Query { name, qtype, dnssec_ok: frame.dnssec_ok, checking_disabled: flags & CD != 0 };
            let Some(authentic) = onward.lead(&query, asker, arrival.over, &mut answer) else {
                return Verdict::Ask(query);
            };
            // AD is for those who ask for it (RFC 6840 section 5.8).
            frame.flags |= if authentic && (flags & AD != 0 || frame.dnssec_ok) { AD } else { 0 };
        }
    }
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

/// Types that ask for something else than records (RFC 6895 section 3.1).
fn refuse(question: &Question, authorities: u16) -> Option<Answer> {
    const MAILA: u16 = 254;
    if question.class != CLASS_IN {
        return None; // refused for its class, whatever the type
    }
    match question.qtype.0 {
        _ if authorities != 0 => Some(Answer::bare(Rcode::FormErr, None)),
        0 | 41 | 128..=248 | 250 => {
            let ede = Ede::new(Ede::INVALID_QUERY_TYPE, "not a type that can be asked for");
            Some(Answer::bare(Rcode::FormErr, Some(ede)))
        }
        249 | 253 | MAILA => Some(Answer::bare(Rcode::NotImp, None)),
        _ => None,
    }
}

/// Octets of the whole reply at most; `takes` is what the client says, where it has EDNS.
pub(super) fn limit(policy: &Policy, arrival: &Arrival, takes: Option<u16>) -> usize {
    if !arrival.over.is_datagram() {
        return STREAM_OCTETS_MAX;
    }
    let max = if is_loopback(arrival.client.ip()) { policy.udp_octets_loopback } else { UDP_OCTETS_MAX };
    // RFC 6891 section 6.2.3: a size below 512 is 512.
    takes.map_or(UDP_OCTETS_PLAIN, |octets| {
        usize::from(octets).clamp(UDP_OCTETS_PLAIN, max.max(UDP_OCTETS_PLAIN))
    })
}
