//! The reply to one message, from its header to what goes out.

use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::op::LowerQuery;
use hickory_proto::rr::RData;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::Request;

use super::glimpse::{Glimpse, numbers};
use super::{
    AD, Arrival, CD, OPCODE, Policy, RA, RD, STREAM_OCTETS_MAX, UDP_OCTETS_MAX, UDP_OCTETS_PLAIN, is_exempt,
    is_loopback,
};
use crate::answer::{
    Answer, Asked, CLASS_IN, Dnssec, Ede, Question, Rcode, Taken, answer, is_served, octets_of,
};
use crate::dns::cookie::{Judged, ServerPart};
use crate::dns::edns::{Edns, Options};
use crate::dns::encode::{Frame, HEADER_OCTETS, QR};
use crate::dns::forward::Query;
use crate::dns::limit::{Fate, Limiter};
use crate::dns::onward::{self, Asker, Onward};
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
    /// `answer` as it goes out, unless it is one of too many.
    fn send(&self, frame: &Frame<'_>, answer: &Answer, client: IpAddr, cookie: Option<Judged>) -> Verdict {
        let exempt = !frame.over.is_datagram() || is_exempt(client, cookie);
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

impl<'a> Signature<'a> {
    fn signer(self) -> Option<&'a Signer> {
        match self {
            Signature::By(signer) => Some(signer),
            Signature::Malformed | Signature::None => None,
        }
    }
}

/// The reply to a message whose signature is taken off, with room for one on the reply.
fn respond_to(around: &Around<'_>, arrival: &Arrival, message: &[u8], signature: Signature<'_>) -> Verdict {
    let Some(header) = message.first_chunk::<HEADER_OCTETS>() else { return Verdict::Silence };
    let glimpse = Glimpse::of(message);
    let options = glimpse.edns.map_or(Ok(Options::default()), |edns| edns.options());
    let wanted = options.unwrap_or_default();
    let client = arrival.client.ip().to_canonical();
    let cookie = around.policy.judge(wanted.cookie, client, around.now);
    let exchange = Exchange {
        around,
        arrival,
        message,
        header: numbers(header),
        signature,
        client,
        cookie,
        edns: glimpse.edns,
        wanted,
        options_are_read: options.is_ok(),
    };
    let nsid = around.policy.nsid.as_deref();
    let reply_options = wanted.reply(nsid, cookie.map(|judged| judged.cookie), arrival.over);
    exchange.verdict(exchange.frame(glimpse.question, &reply_options))
}

/// One message and what was read of it before a decoder was.
struct Exchange<'a> {
    around: &'a Around<'a>,
    arrival: &'a Arrival,
    message: &'a [u8],
    /// Id, flags, and how many there are of each section.
    header: [u16; 6],
    signature: Signature<'a>,
    client: IpAddr,
    cookie: Option<Judged>,
    edns: Option<Edns<'a>>,
    /// The options, or none where they are malformed.
    wanted: Options<'a>,
    options_are_read: bool,
}

impl Exchange<'_> {
    fn is_update(&self) -> bool {
        self.header[1] & OPCODE == OPCODE_UPDATE
    }

    /// What every reply to this message has in common.
    fn frame<'b>(&self, question: &'b [u8], options: &'b [u8]) -> Frame<'b> {
        let takes = self.edns.map(|edns| edns.udp_octets);
        let signature = self.signature.signer().map_or(0, Signer::octets);
        Frame {
            id: self.header[0],
            flags: self.header[1] & (OPCODE | RD | CD),
            // Nothing of an UPDATE is repeated but its header (RFC 2136 section 3.8).
            question: if self.is_update() { &[] } else { question },
            edns: self.edns.is_some(),
            dnssec_ok: self.edns.is_some_and(|edns| edns.dnssec_ok),
            options,
            padded: self.wanted.padding && self.arrival.over.is_encrypted(),
            limit: limit(self.around.policy, self.arrival, takes).saturating_sub(signature),
            over: self.arrival.over,
        }
    }

    fn send(&self, frame: &Frame<'_>, answer: &Answer) -> Verdict {
        self.around.send(frame, answer, self.client, self.cookie)
    }

    fn send_bare(&self, frame: &Frame<'_>, rcode: Rcode) -> Verdict {
        self.send(frame, &Answer::bare(rcode, None))
    }

    /// Who may not ask at all, and what is asked by opcode.
    fn verdict(&self, mut frame: Frame<'_>) -> Verdict {
        if !self.around.policy.serves(self.client) {
            // Whatever it is that is asked (RFC 8914 section 4.19).
            let why = Ede::new(Ede::PROHIBITED, "this client may not ask");
            return self.send(&frame, &Answer::bare(Rcode::Refused, Some(why)));
        }
        match self.signature {
            Signature::Malformed => return self.send_bare(&frame, Rcode::FormErr),
            // RFC 8945 section 5.2: nothing is done for who shows a wrong signature.
            Signature::By(signer) if signer.believed().is_none() => {
                return self.send_bare(&frame, Rcode::NotAuth);
            }
            Signature::By(_) | Signature::None => {}
        }
        let [_, flags, questions, answers, authorities, additionals] = self.header;
        if self.is_update() {
            frame.flags = OPCODE_UPDATE;
            return self.update(&frame);
        }
        if flags & OPCODE != 0 {
            // RD and CD mean nothing to an opcode that we do not know (RFC 8906 section 8.1.4).
            frame.flags = flags & OPCODE;
            return self.send_bare(&frame, Rcode::NotImp);
        }
        if let (Some(judged), [0, 0, 0]) = (self.cookie, [questions, answers, authorities]) {
            // Only a cookie is asked for, or about (RFC 7873 section 5.4).
            let bad = judged.server_part == ServerPart::Bad;
            return self.send_bare(&frame, if bad { Rcode::BadCookie } else { Rcode::NoError });
        }
        if questions != 1 || answers != 0 || authorities > 1 || additionals > ADDITIONAL_MAX {
            // Several questions, or none: RFC 9619 section 4. One authority record is IXFR's SOA.
            return self.send_bare(&frame, Rcode::FormErr);
        }
        self.query(frame)
    }

    fn update(&self, frame: &Frame<'_>) -> Verdict {
        if !self.options_are_read || self.header[5] > ADDITIONAL_MAX {
            return self.send_bare(frame, Rcode::FormErr);
        }
        if self.edns.is_some_and(|edns| edns.version != 0) {
            return self.send_bare(frame, Rcode::BadVers);
        }
        let wish = update::Wish {
            message: self.message,
            client: self.client,
            over: self.arrival.over,
            signer: self.signature.signer(),
            lease: self.wanted.update_lease,
            draw: self.arrival.draw,
        };
        match Updates::take(self.around.updates, self.around.view, &wish, frame) {
            update::Taken::Wanted(update) => Verdict::Update(update),
            update::Taken::Answer(answer) => self.send(frame, &answer),
            update::Taken::UnderWay => Verdict::Silence,
            update::Taken::TooOld => Verdict::TooOld(frame.encode(&Answer::bare(Rcode::NotAuth, None))),
        }
    }

    fn query(&self, frame: Frame<'_>) -> Verdict {
        if self.edns.is_some_and(|edns| edns.version != 0) {
            // RFC 6891 section 6.1.3: whatever the options are of a version that we cannot read.
            return self.send_bare(&frame, Rcode::BadVers);
        }
        let Some(request) = decode(self.arrival, self.message, self.edns) else {
            return self.send_bare(&frame, Rcode::FormErr);
        };
        let (Some(query), true) = (request.queries.queries().first(), self.options_are_read) else {
            return self.send_bare(&frame, Rcode::FormErr);
        };
        // A compressed name in the question is legal, and useless: it is written out in the reply.
        let written_out;
        let mut frame = frame;
        if frame.question.is_empty() {
            written_out = in_wire_form(query);
            frame.question = &written_out;
        }
        let Ok(name) = Name::from_wire(frame.question) else { return self.send_bare(&frame, Rcode::FormErr) };
        let (qtype, class) = (Type(query.query_type().into()), u16::from(query.query_class()));
        let question = Question { name, qtype, class };
        if !question.is_transfer() {
            return self.answer(&question, frame);
        }
        let since = request.authorities.first().and_then(|record| match &record.data {
            RData::SOA(soa) => Some(soa.serial),
            _ => None,
        });
        let key = self.signature.signer().and_then(Signer::believed);
        let wish =
            transfer::Wish { question: &question, since, client: self.client, over: self.arrival.over, key };
        match Transfers::plan(self.around.transfers, self.around.view, &wish) {
            Ok(plan) => Verdict::Transfer(Box::new(Transfer::new(plan, &frame))),
            Err(refused) => self.send(&frame, &refused),
        }
    }

    fn answer(&self, question: &Question, mut frame: Frame<'_>) -> Verdict {
        let (around, over, flags) = (self.around, self.arrival.over, self.header[1]);
        let special = refuse(question, self.header[4]).or_else(|| identity(around.policy, question));
        let answer = special.unwrap_or_else(|| self.own(question, frame.room()));
        let (onward_name, mut answer) = self.sign(answer, frame.room());
        if let Some(onward) = &around.onward {
            let permitted = onward.forwarder.permits(self.client);
            let asker = Asker { permitted, recursion: flags & RD != 0 };
            frame.flags |= if permitted { RA } else { 0 };
            let is_whole = !answer.truncated && answer.rcode != Rcode::ServFail;
            if let Some(name) = onward_name.filter(|_| is_whole) {
                let (qtype, checking_disabled) = (question.qtype, flags & CD != 0);
                let query = Query { name, qtype, dnssec_ok: frame.dnssec_ok, checking_disabled };
                let Some(authentic) = onward.lead(around.view, &query, asker, over, &mut answer) else {
                    return Verdict::Ask(query);
                };
                let home = self.bring_home(question, &frame, &mut answer);
                // AD is for those who ask for it (RFC 6840 section 5.8), and for what was validated: ours is not.
                frame.flags |=
                    if authentic && !home && (flags & AD != 0 || frame.dnssec_ok) { AD } else { 0 };
            }
        }
        self.send(&frame, &answer)
    }

    /// What our zones say.
    fn own(&self, question: &Question, room: usize) -> Answer {
        let dnssec = self.edns.map_or(Dnssec::Nothing, |edns| Dnssec::of(edns.dnssec_ok, edns.compact_ok));
        let asked = Asked {
            question,
            client: self.client,
            over: self.arrival.over,
            room,
            edns: self.edns.is_some(),
            draw: self.arrival.draw,
            dnssec,
            taken: Taken::Chosen,
        };
        answer(self.around.view, &asked)
    }

    /// What is ours is signed, and nothing that an upstream says: it may use our names. Beside it the name that has to be asked for
    /// elsewhere.
    fn sign(&self, mut answer: Answer, room: usize) -> (Option<Name>, Answer) {
        let Around { view, zone_signer, now, .. } = self.around;
        let onward = answer.onward.take();
        (onward, zone_signer.sign(view, answer, self.arrival.over, room, *now))
    }

    /// Where an upstream's alias leads to a name of ours, what it says of that name gives way to what we know (RFC 1034 section
    /// 5.3.3, step 1); true where there is one.
    fn bring_home(&self, question: &Question, frame: &Frame<'_>, answer: &mut Answer) -> bool {
        let view = self.around.view;
        let leads_home = |record: &Record| match &record.data {
            Data::Cname(target) if !is_served(view, &record.owner) && is_served(view, target) => {
                Some((record.owner.clone(), target.clone()))
            }
            _ => None,
        };
        if question.qtype == Type::CNAME || answer.rcode == Rcode::ServFail {
            return false;
        }
        let Some((alias, name)) = answer.answer.iter().find_map(leads_home) else { return false };
        let last = answer.answer.iter().rposition(|record| record.owner == alias).unwrap_or_default();
        let taken: usize = answer.answer[..=last].iter().map(octets_of).sum();
        let room = frame.room().saturating_sub(taken);
        let question = Question { name, ..question.clone() };
        let (onward, own) = self.sign(self.own(&question, room), room);
        if onward.is_some() {
            return false; // out again: the upstream has followed that
        }
        answer.answer.truncate(last + 1);
        onward::join(answer, own);
        true
    }
}

/// Name, type and class of a question, the name written out.
fn in_wire_form(query: &LowerQuery) -> Vec<u8> {
    let labels = query.original().name().iter();
    let mut octets: Vec<u8> = labels.flat_map(|label| [&[label.len() as u8], label].concat()).collect();
    octets.push(0);
    octets.extend(u16::from(query.query_type()).to_be_bytes());
    octets.extend(u16::from(query.query_class()).to_be_bytes());
    octets
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
