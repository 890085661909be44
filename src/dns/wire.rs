//! The one acceptance function: octets of a message in, octets of the reply out, whatever carried them.
//!
//! What costs nothing is checked first (length, QR, opcode, counts), so that no decoder sees what no
//! query looks like; then the message is decoded, the question answered, the reply sized and encoded.
//! There is no second way in: a rule that holds here holds on every transport.
//!
//! What other servers have to be asked for is not waited for here: a loop is given a [`Pending`], and what comes of
//! that goes the same way again, so that the reply is made in one place.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hickory_proto::rr::RData;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::Request;
use ipnet::IpNet;
use tokio::sync::OwnedSemaphorePermit;

use crate::answer::{Answer, Asked, CLASS_IN, Dnssec, Ede, Over, Question, Rcode, Taken, answer};
use crate::clock::Clock;
use crate::counters::Queries;
use crate::dns::cookie::{Cookies, Judged, ServerPart};
use crate::dns::edns::{Edns, Options};
use crate::dns::encode::{Frame, HEADER_OCTETS, QR};
use crate::dns::forward::{Forwarder, Query, Told};
use crate::dns::limit::{Fate, Limiter};
use crate::dns::onward::{Asker, Onward};
use crate::dns::plain::{self, Plain};
use crate::dns::sign::Signer as ZoneSigner;
use crate::dns::transfer::{self, Transfer, Transfers};
use crate::dns::tsig::{Judged as JudgedSignature, Keys, Signer};
use crate::dns::update::{self, OPCODE_UPDATE, Updates, Wanted};
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

pub(super) const OPCODE: u16 = 0x7800;
pub(super) const RD: u16 = 0x0100;
pub(super) const RA: u16 = 0x0080;
pub(super) const AD: u16 = 0x0020;
pub(super) const CD: u16 = 0x0010;

/// What the operator may set of replies.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Octets of a UDP reply to a client on loopback, at most.
    pub udp_octets_loopback: usize,
    /// The name that this server tells of itself, at most `edns::NSID_OCTETS_MAX` octets; none: it tells none.
    pub nsid: Option<Box<str>>,
    /// What makes cookies; none: none are made, and a client's is ignored.
    pub cookies: Option<Cookies>,
    /// Who may ask; none: everybody.
    pub clients: Option<Vec<IpNet>>,
    /// The keys that messages may be signed with.
    pub keys: Keys,
}

impl Policy {
    /// True where this client may ask; `client` is canonical.
    fn serves(&self, client: IpAddr) -> bool {
        let Some(networks) = &self.clients else { return true };
        networks.iter().any(|network| network.contains(&client))
    }
}

impl Default for Policy {
    fn default() -> Self {
        let keys = Keys::default();
        Self { udp_octets_loopback: UDP_OCTETS_MAX, nsid: None, cookies: None, clients: None, keys }
    }
}

/// What every loop answers with.
pub struct Responder {
    pub view: Arc<View>,
    pub policy: Policy,
    pub clock: Clock,
    /// Counts replies over UDP, where there is a limit to them.
    pub limiter: Option<Limiter>,
    /// Who asks other servers for names that are not ours; where there is none, they are refused.
    pub forwarder: Option<Arc<Forwarder>>,
    /// How long queries take.
    pub queries: Arc<Queries>,
    /// Who hands out whole zones; where there is nobody, nobody is given one.
    pub transfers: Option<Arc<Transfers>>,
    /// Who takes UPDATEs to the writer; where there is nobody, they are refused.
    pub updates: Option<Arc<Updates>>,
    /// Who signs what is of a signed zone.
    pub zone_signer: Arc<ZoneSigner>,
}

/// What becomes of a message.
pub enum Accepted {
    /// It deserves no reply: too short for a header, or itself a reply.
    Silence,
    Reply(Vec<u8>),
    /// The reply is another server's to know, or the writer's, and will be there in some time.
    Pending(Pending),
    /// A whole zone, or what changed in it: many messages over a stream, one in a datagram.
    Transfer(Box<Transfer>),
}

impl Accepted {
    /// The reply, waited for.
    pub async fn reply(self) -> Option<Vec<u8>> {
        match self {
            Self::Silence => None,
            Self::Reply(reply) => Some(reply),
            Self::Pending(pending) => pending.reply().await,
            Self::Transfer(transfer) => transfer.datagram().await,
        }
    }
}

impl Responder {
    /// Answers from what is ours, without a limit; nobody is asked, and nobody is given a zone.
    pub fn new(view: Arc<View>, policy: Policy, clock: Clock) -> Self {
        let (queries, zone_signer) = <(Arc<Queries>, Arc<ZoneSigner>)>::default();
        let (limiter, forwarder, transfers, updates) = (None, None, None, None);
        Self { view, policy, clock, limiter, forwarder, queries, transfers, updates, zone_signer }
    }

    /// What becomes of `message`, at once: whoever is given [`Accepted::Pending`] answers others meanwhile.
    pub fn accept(self: &Arc<Self>, arrival: &Arrival, message: &[u8]) -> Accepted {
        let onward = self.forwarder.as_deref().map(|forwarder| Onward { forwarder, told: None });
        let now = self.clock.now();
        match (self.respond(now, onward, arrival, message), &self.forwarder) {
            (Verdict::Ask(query), Some(forwarder)) => self.pend(forwarder, query, arrival, message),
            (Verdict::Reply(reply), _) => {
                if let Some(times) = self.queries.next_general() {
                    times.add(self.clock.now().since(now));
                }
                Accepted::Reply(reply)
            }
            (Verdict::Transfer(transfer), _) => Accepted::Transfer(transfer),
            (Verdict::Update(update), _) => Accepted::Pending(Pending::Update(update)),
            (Verdict::TooOld(reply), _) => Accepted::Reply(reply),
            (Verdict::Silence | Verdict::Ask(_), _) => Accepted::Silence,
        }
    }

    /// Writes the reply to a plain question into `out`, at once and without allocating, and returns its length;
    /// none where `accept` has to be asked. The two never differ.
    pub fn reply_plainly(&self, arrival: &Arrival, message: &[u8], out: &mut [u8]) -> Option<usize> {
        let client = arrival.client.ip().to_canonical();
        if self.limiter.is_some() && !is_loopback(client) || !self.policy.serves(client) {
            return None;
        }
        let query = plain::Query::read(message)?;
        let recursion = self.forwarder.as_ref().is_some_and(|forwarder| forwarder.permits(client));
        let limit = limit(&self.policy, arrival, query.takes());
        let plain = Plain { view: &self.view, limit, recursion, client, draw: arrival.draw };
        plain.reply(&query, out)
    }

    /// The reply to `message`, waited for; for whoever has one task for each message.
    pub async fn reply(self: &Arc<Self>, arrival: &Arrival, message: &[u8]) -> Option<Vec<u8>> {
        self.accept(arrival, message).reply().await
    }

    /// The reply at a time of the caller's, where nobody else is asked.
    pub fn accept_at(&self, now: Now, arrival: &Arrival, message: &[u8]) -> Option<Vec<u8>> {
        self.respond(now, None, arrival, message).reply()
    }

    fn pend(
        self: &Arc<Self>,
        forwarder: &Arc<Forwarder>,
        query: Query,
        arrival: &Arrival,
        message: &[u8],
    ) -> Accepted {
        let Some(place) = forwarder.enter() else {
            let told = Told::overload();
            let onward = Onward { forwarder, told: Some((&query, &told)) };
            let reply = self.respond(self.clock.now(), Some(onward), arrival, message).reply();
            return reply.map_or(Accepted::Silence, Accepted::Reply);
        };
        Accepted::Pending(Pending::Onward(Box::new(Asking {
            responder: self.clone(),
            forwarder: forwarder.clone(),
            query,
            arrival: *arrival,
            message: message.to_vec(),
            _place: place,
        })))
    }

    fn respond(&self, now: Now, onward: Option<Onward<'_>>, arrival: &Arrival, message: &[u8]) -> Verdict {
        let (view, policy, limiter) = (&*self.view, &self.policy, self.limiter.as_ref());
        let (transfers, updates) = (self.transfers.as_ref(), self.updates.as_ref());
        let zone_signer = &*self.zone_signer;
        let around = Around { view, policy, limiter, now, onward, transfers, updates, zone_signer };
        respond(&around, arrival, message)
    }
}

/// A message whose reply somebody else has to be asked for. How many there are is bounded where they come from.
pub enum Pending {
    /// Another server.
    Onward(Box<Asking>),
    /// The writer.
    Update(Box<Wanted>),
}

impl Pending {
    /// The reply, within the patience of a client.
    pub async fn reply(self) -> Option<Vec<u8>> {
        match self {
            Self::Onward(asking) => asking.reply().await,
            Self::Update(wanted) => Some(wanted.reply().await),
        }
    }
}

/// A message that another server has to be asked about.
pub struct Asking {
    responder: Arc<Responder>,
    forwarder: Arc<Forwarder>,
    query: Query,
    arrival: Arrival,
    message: Vec<u8>,
    _place: OwnedSemaphorePermit,
}

impl Asking {
    async fn reply(self) -> Option<Vec<u8>> {
        let told = self.forwarder.ask(&self.query).await;
        let onward = Onward { forwarder: &self.forwarder, told: Some((&self.query, &told)) };
        let now = self.responder.clock.now();
        self.responder.respond(now, Some(onward), &self.arrival, &self.message).reply()
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
    let (now, zone_signer) = (Now::default(), &ZoneSigner::default());
    let (limiter, onward, transfers, updates) = (None, None, None, None);
    let around = Around { view, policy, limiter, now, onward, transfers, updates, zone_signer };
    respond(&around, arrival, message).reply()
}

/// What a reply depends on besides its query.
struct Around<'a> {
    view: &'a View,
    policy: &'a Policy,
    limiter: Option<&'a Limiter>,
    now: Now,
    onward: Option<Onward<'a>>,
    transfers: Option<&'a Arc<Transfers>>,
    updates: Option<&'a Arc<Updates>>,
    zone_signer: &'a ZoneSigner,
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

enum Verdict {
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
    fn reply(self) -> Option<Vec<u8>> {
        match self {
            Self::Reply(reply) | Self::TooOld(reply) => Some(reply),
            Self::Silence | Self::Ask(_) | Self::Transfer(_) | Self::Update(_) => None,
        }
    }
}

fn respond(around: &Around<'_>, arrival: &Arrival, message: &[u8]) -> Verdict {
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

/// Octets of the whole reply at most; `takes` is what the client says, where it has EDNS.
fn limit(policy: &Policy, arrival: &Arrival, takes: Option<u16>) -> usize {
    if !arrival.over.is_datagram() {
        return STREAM_OCTETS_MAX;
    }
    let max = if is_loopback(arrival.client.ip()) { policy.udp_octets_loopback } else { UDP_OCTETS_MAX };
    // RFC 6891 section 6.2.3: a size below 512 is 512.
    takes.map_or(UDP_OCTETS_PLAIN, |octets| {
        usize::from(octets).clamp(UDP_OCTETS_PLAIN, max.max(UDP_OCTETS_PLAIN))
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
pub(super) fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length @ 1..=63 => at += 1 + usize::from(length),
            0xc0.. => return Some(at + 2),
            _ => return None,
        }
    }
}
