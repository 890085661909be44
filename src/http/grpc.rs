//! xDS over gRPC: HTTP/2 with prior knowledge, on the port of everything else of HTTP, told by its first octets.
//!
//! What a stream says is decided by `xds::session`; here its octets come and go. h2 and neither hyper nor a gRPC library above it:
//! a stream is one future that waits for its client, the registry and the window at once, and so knows when
//! a client does not read. It is ended then; what is kept for it meanwhile is one response.
//!
//! No `Host` is looked at: no browser speaks HTTP/2 without TLS, and nothing here changes anything.

mod changes;

use std::future::{pending, poll_fn};
use std::pin::{Pin, pin};
use std::time::Duration;

use axum::body::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use h2::server::{Builder, SendResponse};
use h2::{Ping, Reason, RecvStream, SendStream};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, Request as Head, Response};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Sleep, sleep, timeout};

use self::changes::{Changes, News, touched};
use super::reply::Failure;
use super::unfinished::{TOO_MUCH, pay};
use super::{Client, HEAD_TIME_MAX, LAST_TIME_MAX, Office};
use crate::access::{Denied, Identity, On, Verb};
use crate::connections::{Octets, Place, UNREAD_TIME_MAX};
use crate::xds::Kind;
use crate::xds::resources::{LISTEN_DEFAULT, Setting, Source};
use crate::xds::session::Session;

/// How the first octets of HTTP/2 begin (RFC 9113 section 3.4). No method of ours does.
pub const PREFACE: &[u8] = b"PRI";
/// Streams at once on all connections: each keeps the names and fingerprints of what its client has.
const STREAMS_MAX: usize = 2_000;
/// Names that all streams together may ask for: some 200 octets each, with what is known of it.
const NAMES_MAX: usize = 500_000;
/// The same on one connection: an Envoy has one, or one for each kind of resource.
const CONNECTION_STREAMS_MAX: u32 = 64;
/// Octets of a request: 20,000 names of the longest kind are less.
const REQUEST_OCTETS_MAX: usize = 4 << 20;
/// How long one may take to come whole.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(10);
/// Octets of a request's headers.
const HEADERS_OCTETS_MAX: u32 = 16 * 1024;
/// Octets of a response that wait in a connection for its client.
const SENDING_OCTETS_MAX: usize = 256 * 1024;
/// How often a connection is asked whether anybody is there, and how long the answer may take.
const PING_EVERY: Duration = Duration::from_secs(20);
const PONG_TIME_MAX: Duration = Duration::from_secs(20);
/// The octets in front of each message: whether it is compressed, and its length.
const FRAME_OCTETS: usize = 5;

/// Permits for what streams take: a place each, and one for each name.
pub struct Discovery {
    streams: Semaphore,
    names: Semaphore,
}

impl Default for Discovery {
    fn default() -> Self {
        let [streams, names] = [STREAMS_MAX, NAMES_MAX].map(Semaphore::new);
        Self { streams, names }
    }
}

/// How a stream ends: a code of gRPC, and a sentence.
struct End {
    code: u8,
    text: String,
}

/// Codes of gRPC's `statuscodes.md`.
const OK: u8 = 0;
const INVALID_ARGUMENT: u8 = 3;
const DEADLINE_EXCEEDED: u8 = 4;
const PERMISSION_DENIED: u8 = 7;
const RESOURCE_EXHAUSTED: u8 = 8;
const UNIMPLEMENTED: u8 = 12;
const UNAVAILABLE: u8 = 14;

impl End {
    fn new(code: u8, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }
}

/// Serves a connection until its client goes, or it has to close.
pub async fn serve(stream: impl Octets, office: &Office, client: &Client, place: &Place) {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(CONNECTION_STREAMS_MAX)
        .max_header_list_size(HEADERS_OCTETS_MAX)
        .max_send_buffer_size(SENDING_OCTETS_MAX);
    let mut connection = match timeout(HEAD_TIME_MAX, builder.handshake::<_, Bytes>(stream)).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return tracing::debug!(%error, "a connection of HTTP/2"),
        Err(_) => return,
    };
    let mut pings = connection.ping_pong();
    let silent = async {
        // There is one to be had of each connection, and it is ours.
        let Some(pings) = &mut pings else { return pending().await };
        while let Ok(Ok(_)) = timeout(PONG_TIME_MAX, pings.ping(Ping::opaque())).await {
            sleep(PING_EVERY).await;
        }
    };
    let mut silent = pin!(silent);
    let mut streams = FuturesUnordered::new();
    loop {
        // Every arm is polled on where it was, or is a wait that begins anew.
        tokio::select! {
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    place.touch();
                    streams.push(stream_of(office, client, place, request, respond));
                }
                Some(Err(error)) => return tracing::debug!(%error, "a connection of HTTP/2"),
                None => return,
            },
            Some(()) = streams.next() => {}
            () = &mut silent => return,
            () = sleep(HEAD_TIME_MAX), if streams.is_empty() => break,
            () = client.closing.cancelled() => break,
        }
    }
    connection.graceful_shutdown();
    let last = async {
        // The streams have heard of it too, and end by themselves.
        loop {
            tokio::select! {
                accepted = connection.accept() => if accepted.is_none() { break },
                Some(()) = streams.next() => {}
            }
        }
    };
    drop(timeout(LAST_TIME_MAX, last).await);
}

/// One stream from its beginning to its end.
async fn stream_of(
    office: &Office,
    client: &Client,
    place: &Place,
    request: Head<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let mut headers = Response::new(());
    headers.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    let who = match permitted(office, client, &request) {
        Ok(who) => who,
        Err(end) => {
            headers.headers_mut().extend(trailers(&end));
            drop(respond.send_response(headers, true));
            return;
        }
    };
    let begun = begin(office, request.method(), request.uri().path());
    let (session, _permit) = match begun {
        Ok(begun) => begun,
        Err(end) => {
            headers.headers_mut().extend(trailers(&end));
            drop(respond.send_response(headers, true));
            return;
        }
    };
    let Ok(sending) = respond.send_response(headers, false) else { return };
    let mut stream = Stream {
        office,
        client,
        place,
        session,
        names: None,
        changes: Changes::of(&office.desk.writer.journal),
        receiving: request.into_body(),
        received: Vec::new(),
        octets: None,
        rest_due: None,
        sending,
        unsent: Bytes::new(),
        node: String::new(),
    };
    // Both arms are cancel-safe: the stream ends with either.
    let end = tokio::select! {
        end = stream.run() => end,
        denied = office.desk.until_denied(&who, Verb::Watch, On::Everything) => denied.into(),
    };
    if end.code != OK && end.code != UNAVAILABLE {
        tracing::info!(node = %stream.node, reason = %end.text, "a stream of xDS ends");
    }
    // Where a response is half sent, there is no place for trailers.
    match stream.unsent.is_empty() {
        true => drop(stream.sending.send_trailers(trailers(&end))),
        false => stream.sending.send_reset(Reason::CANCEL),
    }
}

impl From<Denied> for End {
    fn from(denied: Denied) -> Self {
        Self::new(PERMISSION_DENIED, denied.to_string())
    }
}

/// Who asks, by the token in the stream's metadata where there is one: whoever may watch every service.
fn permitted(office: &Office, client: &Client, request: &Head<RecvStream>) -> Result<Identity, End> {
    let unfit = |failure: Failure| End::new(PERMISSION_DENIED, failure.text());
    let who = office.identify(&client.who, request.headers(), None).map_err(unfit)?;
    office.desk.may(&who, Verb::Watch, On::Everything)?;
    Ok(who)
}

/// The services behind `envoy.service.`, what their calls are named after, and the one kind that each is of.
const SERVICES: [(&str, &str, Option<Kind>); 5] = [
    ("discovery.v3.AggregatedDiscoveryService", "AggregatedResources", None),
    ("cluster.v3.ClusterDiscoveryService", "Clusters", Some(Kind::Cluster)),
    ("endpoint.v3.EndpointDiscoveryService", "Endpoints", Some(Kind::Endpoints)),
    ("listener.v3.ListenerDiscoveryService", "Listeners", Some(Kind::Listener)),
    ("route.v3.RouteDiscoveryService", "Routes", Some(Kind::Routes)),
];

/// What the path asks for, and a place among all streams.
fn begin<'a>(office: &'a Office, method: &Method, path: &str) -> Result<(Session, SemaphorePermit<'a>), End> {
    let called = path.strip_prefix("/envoy.service.").and_then(|rest| {
        let (service, call) = rest.split_once('/')?;
        let (_, noun, own) = SERVICES.iter().find(|(known, ..)| *known == service)?;
        match call.strip_suffix(noun)? {
            "Stream" => Some((*own, false)),
            "Delta" => Some((*own, true)),
            _ => None,
        }
    });
    let Some((own, delta)) = called else {
        let text = format!("there is no `{}` here; streams of xDS v3 are", path.escape_debug());
        return Err(End::new(UNIMPLEMENTED, text));
    };
    if method != Method::POST {
        return Err(End::new(UNIMPLEMENTED, "a call of gRPC is a POST"));
    }
    let permit = office.discovery.streams.try_acquire().map_err(|_| {
        End::new(RESOURCE_EXHAUSTED, format!("{STREAMS_MAX} streams are open already; try again later"))
    })?;
    let source = if own.is_none() { Source::Aggregated } else { Source::Separate { delta } };
    Ok((Session::new(own, delta, Setting { source, listen: LISTEN_DEFAULT, region: None }), permit))
}

/// `grpc-status` and, percent-encoded where it has to be, `grpc-message`.
fn trailers(end: &End) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(u16::from(end.code)));
    let is_plain = |octet: u8| (b' '..=b'~').contains(&octet) && octet != b'%';
    let text: String = end
        .text
        .bytes()
        .map(|octet| if is_plain(octet) { char::from(octet).to_string() } else { format!("%{octet:02X}") })
        .collect();
    if let Ok(text) = HeaderValue::try_from(text) {
        trailers.insert("grpc-message", text);
    }
    trailers
}

/// A stream that is open.
struct Stream<'a> {
    office: &'a Office,
    client: &'a Client,
    place: &'a Place,
    session: Session,
    /// For the names that it asks for.
    names: Option<SemaphorePermit<'a>>,
    changes: Changes<'a>,
    receiving: RecvStream,
    /// What has come of the next request, the permits for it, and until when the rest has to come.
    received: Vec<u8>,
    octets: Option<SemaphorePermit<'a>>,
    rest_due: Option<Pin<Box<Sleep>>>,
    sending: SendStream<Bytes>,
    /// What is left of the last response.
    unsent: Bytes,
    /// The client's name for itself, for the log.
    node: String,
}

impl Stream<'_> {
    async fn run(&mut self) -> End {
        let view = &self.office.desk.view;
        let closing = &self.client.closing;
        loop {
            while self.unsent.is_empty() {
                let response = self.session.next(view);
                let missed = self.follow_concern();
                if let Some(response) = response {
                    self.unsent = framed(&response);
                    self.sending.reserve_capacity(self.unsent.len());
                } else if !missed {
                    break;
                }
            }
            // The receiving ends are cancel-safe; of a response what is written is written, and its time runs from its beginning.
            let until = sleep(UNREAD_TIME_MAX);
            let mut until = pin!(until);
            let ended = loop {
                let waits = !self.unsent.is_empty();
                let ended = tokio::select! {
                    data = self.receiving.data() => self.receive(data),
                    news = self.changes.next() => self.follow(news),
                    sent = send(&mut self.sending, &mut self.unsent), if waits => sent,
                    () = &mut until, if waits => {
                        let text = format!("a response was not read within {} s", UNREAD_TIME_MAX.as_secs());
                        Some(End::new(DEADLINE_EXCEEDED, text))
                    }
                    () = over(&mut self.rest_due) => {
                        let text = format!("a request did not come whole within {} s", REQUEST_TIME_MAX.as_secs());
                        Some(End::new(DEADLINE_EXCEEDED, text))
                    }
                    () = closing.cancelled() => Some(End::new(UNAVAILABLE, "the server closes this connection")),
                };
                if ended.is_some() || self.unsent.is_empty() {
                    break ended;
                }
            };
            if let Some(end) = ended {
                return end;
            }
        }
    }

    /// Takes in what came; some end where that is the last.
    fn receive(&mut self, data: Option<Result<Bytes, h2::Error>>) -> Option<End> {
        let data = match data {
            Some(Ok(data)) => data,
            Some(Err(error)) => return Some(End::new(UNAVAILABLE, error.to_string())),
            None => return Some(End::new(OK, "")),
        };
        self.place.touch();
        self.received.extend_from_slice(&data);
        // What was read is gone from here: the window opens again. It can only fail with the stream.
        let _ = self.receiving.flow_control().release_capacity(data.len());
        while self.received.len() >= FRAME_OCTETS {
            let length =
                self.received[1..FRAME_OCTETS].iter().fold(0, |sum, octet| sum << 8 | usize::from(*octet));
            if self.received[0] != 0 {
                return Some(End::new(UNIMPLEMENTED, "a compressed message; none is offered"));
            }
            if length > REQUEST_OCTETS_MAX {
                let text = format!("a request has {length} octets, and may have {REQUEST_OCTETS_MAX}");
                return Some(End::new(RESOURCE_EXHAUSTED, text));
            }
            if self.received.len() < FRAME_OCTETS + length {
                break;
            }
            let rest = self.received.split_off(FRAME_OCTETS + length);
            let message = std::mem::replace(&mut self.received, rest);
            self.rest_due = None;
            if let Err(end) = self.take(&message[FRAME_OCTETS..]) {
                return Some(end);
            }
        }
        if !self.received.is_empty() && self.rest_due.is_none() {
            self.rest_due = Some(Box::pin(sleep(REQUEST_TIME_MAX)));
        }
        let held = self.office.unfinished.hold(&mut self.octets, self.received.len());
        held.err().map(|_| End::new(RESOURCE_EXHAUSTED, TOO_MUCH))
    }

    fn take(&mut self, message: &[u8]) -> Result<(), End> {
        let request = self
            .session
            .read(message)
            .map_err(|malformed| End::new(INVALID_ARGUMENT, malformed.to_string()))?;
        if let Some(node) = &request.node {
            self.node = node.id.escape_debug().take(NODE_CHARS_MAX).collect();
        }
        let rejection = self.session.take(request, &self.office.desk.view);
        let rejection = rejection.map_err(|refusal| End::new(RESOURCE_EXHAUSTED, refusal.to_string()))?;
        self.pay_for_names()?;
        // Before the session looks at the view, so that nothing falls between.
        self.follow_concern();
        if let Some(rejection) = rejection {
            let names = rejection.names.iter().take(NAMES_SHOWN_MAX).cloned().collect::<Vec<_>>().join(" ");
            let (kind, error) = (rejection.kind.plural(), rejection.error);
            tracing::warn!(node = %self.node, kind, count = rejection.names.len(), %names, %error, "a client of xDS rejects what it was sent");
        }
        Ok(())
    }

    /// Follows whom the session looks at; true where it has to look again, for something may have been missed.
    fn follow_concern(&mut self) -> bool {
        let missed = self.session.concern().is_some_and(|concern| self.changes.follow(concern));
        if missed {
            self.session.everything_changed(&self.office.desk.view);
        }
        missed
    }

    /// Has as many permits as there are names.
    fn pay_for_names(&mut self) -> Result<(), End> {
        pay(&mut self.names, &self.office.discovery.names, self.session.names()).map_err(|_| {
            let text = format!(
                "all streams together may ask for {NAMES_MAX} names; ask for `*`, or try again later"
            );
            End::new(RESOURCE_EXHAUSTED, text)
        })
    }

    fn follow(&mut self, news: News) -> Option<End> {
        let view = &self.office.desk.view;
        match news {
            News::Batch(batch) => self.session.services_changed(touched(&batch, view).iter(), view),
            News::Of(service) => self.session.services_changed(std::iter::once(&service), view),
            News::Missed => self.session.everything_changed(view),
            News::Closed => return Some(End::new(UNAVAILABLE, "the server is stopping")),
        }
        None
    }
}

/// Ends when this time is over; never where there is none.
async fn over(time: &mut Option<Pin<Box<Sleep>>>) {
    match time {
        Some(time) => time.as_mut().await,
        None => pending().await,
    }
}

/// Characters of a node's id, and names of rejected resources, that go into the log.
const NODE_CHARS_MAX: usize = 80;
const NAMES_SHOWN_MAX: usize = 5;

/// A message behind its length.
fn framed(message: &[u8]) -> Bytes {
    let mut octets = Vec::with_capacity(FRAME_OCTETS + message.len());
    octets.push(0);
    // A response is a few MiB at most.
    octets.extend_from_slice(&(message.len() as u32).to_be_bytes());
    octets.extend_from_slice(message);
    octets.into()
}

/// Sends as much as the client has room for, some of it at least; some end where there is nobody.
async fn send(sending: &mut SendStream<Bytes>, unsent: &mut Bytes) -> Option<End> {
    match poll_fn(|context| sending.poll_capacity(context)).await {
        Some(Ok(room)) => {
            let part = unsent.split_to(room.min(unsent.len()));
            let sent = sending.send_data(part, false);
            sent.err().map(|error| End::new(UNAVAILABLE, error.to_string()))
        }
        Some(Err(error)) => Some(End::new(UNAVAILABLE, error.to_string())),
        None => Some(End::new(UNAVAILABLE, "the stream is closed")),
    }
}
