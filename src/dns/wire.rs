//! The one acceptance function: octets of a message in, octets of the reply out, whatever carried them.
//!
//! What costs nothing is checked first (length, QR, opcode, counts), so that no decoder sees what no
//! query looks like; then the message is decoded, the question answered, the reply sized and encoded.
//! There is no second way in: a rule that holds here holds on every transport.
//!
//! What other servers have to be asked for is not waited for here: a loop is given a [`Pending`], and what comes of
//! that goes the same way again, so that the reply is made in one place.

mod glimpse;
mod respond;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use tokio::sync::OwnedSemaphorePermit;

pub use self::glimpse::{fresh_s, has_option};
use self::glimpse::{is_query, rcode};
pub(super) use self::glimpse::{low_rcode, question_type, skip_name};
use self::respond::{Around, Verdict, limit, respond};
use crate::answer::Over;
use crate::clock::Clock;
use crate::counters::Queries;
use crate::dns::cookie::{Cookies, Judged, ServerPart};
use crate::dns::edns::Cookie;
use crate::dns::forward::{Forwarder, Query, Told};
use crate::dns::limit::Limiter;
use crate::dns::onward::Onward;
use crate::dns::plain::{self, Plain};
use crate::dns::sign::Signer as ZoneSigner;
use crate::dns::traffic::Asked as Named;
use crate::dns::transfer::{Transfer, Transfers};
use crate::dns::tsig::Keys;
use crate::dns::update::{Updates, Wanted};
use crate::time::Now;
use crate::traffic::{Counting, Traffic};
use crate::view::View;

/// Replies to clients without EDNS over UDP (RFC 1035 section 4.2.1).
const UDP_OCTETS_PLAIN: usize = 512;
/// The largest UDP reply anywhere but on loopback: no path fragments it (RFC 9715 section 3.1).
pub const UDP_OCTETS_MAX: usize = 1232;
/// The largest reply over a stream: what its two octets of length can say.
const STREAM_OCTETS_MAX: usize = 65_535;

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

    /// What the client's cookie is worth; `None` where it has none, or we have none to give.
    fn judge(&self, cookie: Option<Cookie<'_>>, client: IpAddr, now: Now) -> Option<Judged> {
        Some(self.cookies.as_ref()?.judge(&cookie?, client, now.wall))
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
    /// What is asked for.
    pub traffic: Arc<Traffic>,
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
        let (queries, traffic, zone_signer) = Default::default();
        let (limiter, forwarder, transfers, updates) = (None, None, None, None);
        Self { view, policy, clock, limiter, forwarder, queries, traffic, transfers, updates, zone_signer }
    }

    /// What becomes of `message`, at once: whoever is given [`Accepted::Pending`] answers others meanwhile.
    pub fn accept(self: &Arc<Self>, arrival: &Arrival, message: &[u8]) -> Accepted {
        let onward = self.forwarder.as_deref().map(|forwarder| Onward { forwarder, told: None });
        let now = self.clock.now();
        if is_query(message) {
            self.queries.general(arrival.over).asked(question_type(message), message.len());
        }
        match (self.respond(now, onward, arrival, message), &self.forwarder) {
            (Verdict::Ask(query), Some(forwarder)) => self.pend(forwarder, query, arrival, message),
            (Verdict::Reply(reply), _) => {
                if let Some(times) = self.queries.next_timed(arrival.over) {
                    times.add(self.clock.now().since(now));
                }
                if let Some(turn) = self.traffic.turn(now)
                    && let Some(asked) = Named::of(&reply)
                {
                    turn.count(asked.seen(&self.view, &reply));
                }
                Accepted::Reply(self.counted(arrival.over, reply))
            }
            (Verdict::Transfer(transfer), _) => Accepted::Transfer(transfer),
            (Verdict::Update(update), _) => {
                Accepted::Pending(Pending::Update(update, self.clone(), arrival.over))
            }
            (Verdict::TooOld(reply), _) => Accepted::Reply(self.counted(arrival.over, reply)),
            (Verdict::Silence | Verdict::Ask(_), _) => Accepted::Silence,
        }
    }

    /// A reply that goes out, among those that are counted.
    fn counted(&self, over: Over, reply: Vec<u8>) -> Vec<u8> {
        self.queries.general(over).replied(rcode(&reply), reply.len());
        reply
    }

    /// Writes the reply to a plain question into `out`, at once and without allocating, and returns its length;
    /// none where `accept` has to be asked. The two never differ.
    pub fn reply_plainly(
        &self,
        now: Now,
        arrival: &Arrival,
        message: &[u8],
        out: &mut [u8],
    ) -> Option<usize> {
        let client = arrival.client.ip().to_canonical();
        if !self.policy.serves(client) {
            return None;
        }
        let query = plain::Query::read(message)?;
        let judged = self.policy.judge(query.cookie, client, now);
        if self.limiter.is_some() && !is_exempt(client, judged) {
            return None;
        }
        let recursion = self.forwarder.as_ref().is_some_and(|forwarder| forwarder.permits(client));
        let limit = limit(&self.policy, arrival, query.takes());
        let (view, cookie, draw) = (&*self.view, judged.map(|judged| judged.cookie), arrival.draw);
        let plain = Plain { view, limit, recursion, cookie, client, draw };
        plain.reply(&query, out)
    }

    /// Counts what a worker has answered, where it is its turn.
    pub fn count(&self, counting: &mut Counting, reply: &[u8]) {
        if let Some(weight) = counting.weight()
            && let Some(asked) = Named::of(reply)
        {
            counting.count(asked.seen(&self.view, reply), weight, self.clock.now());
        }
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
            return reply
                .map_or(Accepted::Silence, |reply| Accepted::Reply(self.counted(arrival.over, reply)));
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
    Update(Box<Wanted>, Arc<Responder>, Over),
}

impl Pending {
    /// The reply, within the patience of a client.
    pub async fn reply(self) -> Option<Vec<u8>> {
        match self {
            Self::Onward(asking) => asking.reply().await,
            Self::Update(wanted, responder, over) => Some(responder.counted(over, wanted.reply().await)),
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
        let reply = self.responder.respond(now, Some(onward), &self.arrival, &self.message).reply();
        reply.map(|reply| self.responder.counted(self.arrival.over, reply))
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

/// True for who is where it says it is, whose replies nobody counts: it has shown that, or it is on this machine.
fn is_exempt(client: IpAddr, cookie: Option<Judged>) -> bool {
    is_loopback(client) || cookie.is_some_and(|judged| judged.server_part == ServerPart::Good)
}

fn is_loopback(client: IpAddr) -> bool {
    client.to_canonical().is_loopback()
}
