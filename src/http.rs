//! The HTTP port: Consul's API for the clients that people have, and our own watch, settings and discovery.
//!
//! One connection is one task; what it may take, keep and say is bounded here, before any endpoint sees
//! it. The same connections come in on the registration socket, which hands over what begins like HTTP.
//!
//! Browsers run the pages of strangers, who may point a name of theirs at 127.0.0.1: so the `Host` has to be one
//! of ours, and an `Origin` the same as the `Host`. The name of a service is not: whoever may register one may give it their own
//! address, and then ours. Nothing here sets a CORS header.
//!
//! A body is read whole before an endpoint sees it, in bounded time and size. A client that stops reading is
//! not waited for when its connection has to close: it would hold up the server's end.

mod access;
mod answer;
mod ask;
mod consul;
mod dashboard;
mod discovery;
pub mod doh;
mod events;
mod grpc;
pub mod health;
mod metrics;
mod patient;
mod query;
mod reply;
mod settings;
mod traffic;
mod unfinished;
mod xds;

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{DefaultBodyLimit, FromRequestParts, RawPathParams, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, Version, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{Stream, StreamExt, poll_fn};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use self::access::Need;
pub use self::answer::Answering;
pub use self::grpc::Discovery;
use self::patient::Patient;
use self::reply::Failure;
pub use self::unfinished::Unfinished;
use self::unfinished::{TOO_MUCH, UNFINISHED_FREE_OCTETS};
use crate::access::Identity as Who;
use crate::connections::tls::{Acceptor, Handshakes, Identity, name_of_client};
use crate::connections::{Connections, Handed, Octets, Place, coming_to};
use crate::counters::{Forwarding, Limited, Probes, Queries, Signing, Transfers, Updates};
use crate::desk::Desk;
use crate::name::Name;
use crate::protocol::Peer;
use crate::registry::{Command, Refusal};
use crate::time::Wall;
use crate::traffic::Traffic;
use crate::writer::Done;

/// Connections at once: a blocking query or a watcher keeps one for itself.
pub const CONNECTIONS_MAX: usize = 12_000;
/// Octets of a request's body: a registration at every limit is 70 KiB.
const BODY_OCTETS_MAX: usize = 256 * 1024;
/// How long a client may take to send a body.
const BODY_TIME_MAX: Duration = Duration::from_secs(30);
/// Octets that are read of a body that is too large, so that the refusal arrives: who is still sending
/// when we close sees a reset instead.
const REFUSED_OCTETS_MAX: usize = 16 << 20;
/// Octets of a request's head, and how long a client may take to send it. The time runs from the end of the
/// reply before, so an idle connection goes after it too.
const HEAD_OCTETS_MAX: usize = 32 * 1024;
const HEAD_TIME_MAX: Duration = Duration::from_secs(75);
/// How long the first octets of a client may take who was accepted when its connection has to close: less than accepting rests
/// where there are no descriptors, for which this one may be wanted.
const FIRST_TIME_MAX: Duration = Duration::from_millis(25);
/// The same where the server stops: then nobody is in need of its place, and a client that is starved sends what it began.
const FIRST_TIME_AT_STOP_MAX: Duration = Duration::from_millis(250);
/// How long the last octets to a client that reads may take, when its connection has to close.
const LAST_TIME_MAX: Duration = Duration::from_secs(2);
/// A peer that is silent for so long is asked whether it is there, and so often before it counts as gone: a watcher
/// whose machine died says no goodbye.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(15);
const KEEPALIVE_TIMES: u32 = 4;
/// Streams that the registration socket has handed over and nobody has taken yet.
pub const HANDED_MAX: usize = 64;

/// What every endpoint works with.
pub struct Office {
    pub desk: Arc<Desk>,
    /// When this process was started.
    pub started: Wall,
    /// The one datacenter that we say we are.
    pub datacenter: String,
    /// Names that clients may call us by in `Host`, beside addresses, `localhost`, an apex and what names a server below it.
    pub hosts: Vec<String>,
    /// A service's name may be spelt with `_`, and is taken as if it were a hyphen.
    pub underscore_is_hyphen: bool,
    /// Connections of this port.
    pub connections: Arc<Connections>,
    /// What probes did.
    pub probes: Arc<Probes>,
    /// How long queries of DNS take.
    pub queries: Arc<Queries>,
    /// What is asked for.
    pub traffic: Arc<Traffic>,
    pub told_traffic: traffic::ToldTraffic,
    /// What answers as DNS does.
    pub answering: Answering,
    /// Connections of DNS over TCP, TLS and HTTPS, and those over QUIC.
    pub dns_streams: Arc<Connections>,
    pub dns_quic: Arc<Connections>,
    /// The certificate of DNS, where there is one, and what became of handshakes over TCP.
    pub identity: Option<Arc<Identity>>,
    pub handshakes: Arc<Handshakes>,
    /// What response rate limiting kept.
    pub limited: Arc<Limited>,
    /// What became of names that are not ours.
    pub forwarding: Arc<Forwarding>,
    /// What secondaries were sent.
    pub transferred: Arc<Transfers>,
    pub updates: Arc<Updates>,
    pub signing: Arc<Signing>,
    /// How much of xDS there may be.
    pub discovery: Discovery,
    /// How much of requests that are not whole.
    pub unfinished: Unfinished,
}

/// Who asks.
#[derive(Clone)]
pub struct Client {
    pub who: Who,
    pub peer: Peer,
    /// Told to close when there are too many connections, or with us.
    pub closing: CancellationToken,
}

impl<S: Sync> FromRequestParts<S> for Client {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        // `connection` gives one to each request.
        let client = parts.extensions.get().cloned();
        client.ok_or_else(|| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "nobody asks"))
    }
}

/// Where connections come from.
pub enum Source {
    Tcp(TcpListener),
    Tls(TcpListener, Arc<Acceptor>),
    /// From the registration socket.
    Handed(mpsc::Receiver<Handed>),
}

impl Source {
    fn coming(mut self) -> impl Stream<Item = io::Result<Handed>> + Unpin {
        poll_fn(move |context| match &mut self {
            Self::Tcp(listener) | Self::Tls(listener, _) => listener.poll_accept(context).map(|came| {
                Some(came.and_then(|(stream, address)| {
                    stream.set_nodelay(true)?;
                    Ok((Box::new(stream) as Box<dyn Octets>, Who::address(address)))
                }))
            }),
            Self::Handed(receiver) => receiver.poll_recv(context).map(|came| came.map(Ok)),
        })
    }
}

/// Accepts until `stop`, and then waits for every request to be answered.
pub async fn run(source: Source, office: Arc<Office>, stop: CancellationToken) -> io::Result<()> {
    let router = router(office.clone());
    if let Source::Tcp(listener) | Source::Tls(listener, _) = &source {
        keep_alive(listener)?;
    }
    let (listener, acceptor) = match source {
        Source::Tls(listener, acceptor) => (listener, acceptor),
        source => {
            let serve = |(stream, who), place: Place| {
                let peer = office.desk.peer(&who, place.number);
                connection(stream, office.clone(), router.clone(), who, peer, place)
            };
            return office.connections.serve(stop, source.coming(), serve).await;
        }
    };
    let serve = |(stream, address): (TcpStream, SocketAddr), place: Place| {
        let (office, router, acceptor) = (office.clone(), router.clone(), acceptor.clone());
        async move {
            let who = Who::address(address);
            let peer = office.desk.peer(&who, place.number);
            match acceptor.accept(stream, &place).await {
                Ok(stream) => {
                    // Whoever shows a certificate is who it says, and is still where they are.
                    let who = name_of_client(&stream).map_or(who, Who::certificate);
                    connection(Box::new(stream), office, router, who, peer, place).await;
                }
                Err(error) => tracing::debug!(%error, "https"),
            }
        }
    };
    office.connections.serve(stop, coming_to(listener), serve).await
}

/// What is accepted inherits it.
fn keep_alive(listener: &TcpListener) -> io::Result<()> {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_EVERY)
        .with_retries(KEEPALIVE_TIMES);
    SockRef::from(listener).set_tcp_keepalive(&keepalive)
}

async fn connection(
    stream: Box<dyn Octets>,
    office: Arc<Office>,
    router: Router,
    who: Who,
    peer: Peer,
    place: Place,
) {
    let client = Client { who, peer, closing: place.closing().clone() };
    // Looked at and left there; a buffer of the size of what tells the two apart.
    let mut stream = BufReader::with_capacity(grpc::PREFACE.len(), Patient::new(stream));
    let first = tokio::select! {
        first = timeout(HEAD_TIME_MAX, stream.fill_buf()) => first,
        // Accepted a moment ago, its request is on the way: it is answered as those are that were read before.
        () = client.closing.cancelled() => {
            let patience = if place.server_stops() { FIRST_TIME_AT_STOP_MAX } else { FIRST_TIME_MAX };
            timeout(patience, stream.fill_buf()).await
        }
    };
    match first {
        Ok(Ok(octets)) if octets == grpc::PREFACE => {
            return grpc::serve(stream, &office, &client, &place).await;
        }
        Ok(Ok(_)) => {}
        Ok(Err(_)) | Err(_) => return,
    }
    let busy = AtomicBool::new(false);
    let busy = &busy;
    let service = hyper::service::service_fn(|mut request: hyper::Request<Incoming>| {
        place.touch();
        request.extensions_mut().insert(client.clone());
        let router = router.clone();
        async move {
            busy.store(true, Ordering::Relaxed);
            let response = serve(router, request).await;
            busy.store(false, Ordering::Relaxed);
            Ok::<Response, Infallible>(response)
        }
    });
    let mut served = std::pin::pin!(
        hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME_MAX)
            .max_buf_size(HEAD_OCTETS_MAX)
            .serve_connection(TokioIo::new(stream), service)
    );
    let ended = tokio::select! {
        biased; // what was sent is read before the connection is told to close: without a request it does so at once
        ended = served.as_mut() => ended,
        () = client.closing.cancelled() => {
            // What is being carried out is answered; then it closes. Nobody waits for a client that does not read.
            served.as_mut().graceful_shutdown();
            loop {
                match timeout(LAST_TIME_MAX, served.as_mut()).await {
                    Ok(ended) => break ended,
                    Err(_) if busy.load(Ordering::Relaxed) => {}
                    Err(_) => break Ok(()),
                }
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "http connection");
    }
}

async fn serve(router: Router, request: hyper::Request<Incoming>) -> Response {
    use tower_service::Service;
    let mut router = router;
    match router.call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

fn router(office: Arc<Office>) -> Router {
    Router::new()
        .merge(answer::router())
        .merge(ask::router())
        .merge(consul::router())
        .merge(dashboard::router())
        .merge(discovery::router())
        .merge(events::router())
        .merge(health::router())
        .merge(metrics::router())
        .merge(settings::router())
        .merge(traffic::router())
        .merge(xds::router())
        .fallback(consul::unknown)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(office.clone(), guard))
        .layer(DefaultBodyLimit::disable()) // the guard has read it already
        .with_state(office)
}

async fn method_not_allowed(method: Method) -> Failure {
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, format!("method {method} not allowed"))
}

/// Lets in who speaks to us by a name of ours, and no other origin's page; then takes the body.
async fn guard(
    axum::extract::State(office): axum::extract::State<Arc<Office>>,
    params: Result<RawPathParams, RawPathParamsRejection>,
    mut request: Request,
    next: Next,
) -> Response {
    let Some(mut client) = request.extensions().get::<Client>().cloned() else {
        return Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "nobody asks").into_response();
    };
    if let Err(failure) = admitted(&office, &request, client.who.is_local()) {
        return failure.into_response();
    }
    match office.identify(&client.who, request.headers(), request.uri().query()) {
        Ok(who) => client.who = who,
        Err(failure) => return failure.into_response(),
    }
    let need = Need::of(&office, &client, &request, params.as_ref().ok());
    if let Some(need) = &need
        && let Err(denied) = office.desk.may(&client.who, need.verb, need.on())
    {
        return Failure::from(denied).into_response();
    }
    // What nobody would look at is not read either, but where that is less trouble than an answer to who is still sending.
    if request.body().size_hint().upper().is_none_or(|octets| octets > UNFINISHED_FREE_OCTETS as u64)
        && let Err(denied) = office.desk.access.permits_changes(&client.who)
    {
        return Failure::from(denied).closing().into_response();
    }
    request.extensions_mut().insert(client.clone());
    match with_body(&office.unfinished, request).await {
        Ok(request) => match need {
            // A read may wait for news, and the right to it may go meanwhile.
            Some(need) => tokio::select! {
                response = next.run(request) => response,
                denied = office.desk.until_denied(&client.who, need.verb, need.on()) => {
                    Failure::from(denied).into_response()
                }
            },
            None => next.run(request).await,
        },
        Err(failure) => failure.closing().into_response(),
    }
}

/// The request with its whole body.
async fn with_body(unfinished: &Unfinished, request: Request) -> Result<Request, Failure> {
    if request.body().is_end_stream() {
        return Ok(request);
    }
    let (parts, body) = request.into_parts();
    let too_large = || {
        let text = format!("the body may have {BODY_OCTETS_MAX} octets");
        Failure::new(StatusCode::PAYLOAD_TOO_LARGE, text)
    };
    // Who asks first is told at once, and sends nothing.
    let asks = parts.headers.contains_key(header::EXPECT);
    if asks && body.size_hint().lower() > BODY_OCTETS_MAX as u64 {
        return Err(too_large());
    }
    let mut pieces = body.into_data_stream();
    let reading = async {
        let (mut whole, mut read, mut held) = (Vec::new(), 0, None);
        while read <= REFUSED_OCTETS_MAX
            && let Some(piece) = pieces.next().await
        {
            let piece = piece.map_err(|error| Failure::bad(format!("reading the body: {error}")))?;
            read += piece.len();
            match read <= BODY_OCTETS_MAX {
                true => {
                    let too_much = |_| Failure::new(StatusCode::SERVICE_UNAVAILABLE, TOO_MUCH);
                    unfinished.hold(&mut held, read).map_err(too_much)?;
                    whole.extend_from_slice(&piece);
                }
                false => (whole, held) = (Vec::new(), None),
            }
        }
        if read <= BODY_OCTETS_MAX { Ok(whole) } else { Err(too_large()) }
    };
    let closing = parts.extensions.get::<Client>().map(|client| client.closing.clone()).unwrap_or_default();
    // Both arms are cancel-safe: what was read of a body is of no use without the rest.
    let whole = tokio::select! {
        read = timeout(BODY_TIME_MAX, reading) => read.unwrap_or_else(|_| {
            let text = format!("the body did not come within {} s", BODY_TIME_MAX.as_secs());
            Err(Failure::new(StatusCode::REQUEST_TIMEOUT, text))
        })?,
        () = closing.cancelled() => return Err(Failure::stopping()),
    };
    Ok(Request::from_parts(parts, Body::from(whole)))
}

fn admitted(office: &Office, request: &Request, local: bool) -> Result<(), Failure> {
    let text = |name| texts(request.headers(), name).next();
    // RFC 9112 3.2: none in HTTP/1.1, or several, is a mistake; so are several origins.
    let hosts = texts(request.headers(), header::HOST).count();
    if hosts > 1 || (hosts == 0 && request.version() >= Version::HTTP_11) {
        return Err(Failure::bad(format!("a request has one Host header, not {hosts}")));
    }
    if texts(request.headers(), header::ORIGIN).nth(1).is_some() {
        return Err(Failure::bad("a request has one Origin header at most"));
    }
    let host = text(header::HOST).unwrap_or_default();
    // Over the Unix socket there is no network, and no browser.
    if !local && !office.knows(host_alone(host)) {
        let what = format!(
            "the Host `{}` is no name of this server; speak to it by an address or localhost, or add the name to `http-hosts`",
            host.escape_debug()
        );
        return Err(Failure::new(StatusCode::FORBIDDEN, what));
    }
    if let Some(origin) = text(header::ORIGIN) {
        let same = origin.split_once("://").is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(host));
        if !same {
            let what = format!("the page of `{}` may not speak to this server", origin.escape_debug());
            return Err(Failure::new(StatusCode::FORBIDDEN, what));
        }
    }
    let fetched = |name| text(header::HeaderName::from_static(name));
    if let Some(site) = fetched("sec-fetch-site")
        && !matches!(site, "same-origin" | "none")
        && !(is_link_to_page(request)
            && fetched("sec-fetch-mode") == Some("navigate")
            && fetched("sec-fetch-dest") == Some("document"))
    {
        return Err(Failure::new(StatusCode::FORBIDDEN, "another site's page may not speak to this server"));
    }
    Ok(())
}

/// True where a link may lead from any page: to the dashboard, which says nothing by itself and cannot be framed.
fn is_link_to_page(request: &Request) -> bool {
    *request.method() == Method::GET && matches!(request.uri().path(), "/" | "/ui" | dashboard::PAGE)
}

/// The values of a header; what is no text is no name of ours either.
fn texts(headers: &HeaderMap, name: header::HeaderName) -> impl Iterator<Item = &str> {
    headers.get_all(name).into_iter().map(|value| value.to_str().unwrap_or("\u{fffd}"))
}

impl Office {
    /// Sends a command and waits until it is durable and visible.
    async fn carry_out(&self, command: Command, client: &Client) -> Result<Done, Failure> {
        Ok(self.verdict(command, client).await??)
    }

    /// The same, for who has words of its own for a refusal.
    async fn verdict(&self, command: Command, client: &Client) -> Result<Result<Done, Refusal>, Failure> {
        let verdict = self.desk.writer.command(command, client.who.clone()).await;
        let verdict = verdict.map_err(|_| Failure::stopping())?;
        verdict.await.map_err(|_| Failure::stopping())
    }

    fn knows(&self, host: &str) -> bool {
        host.is_empty()
            || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
            || host.eq_ignore_ascii_case("localhost")
            || host.eq_ignore_ascii_case(self.desk.host.as_str())
            || self.hosts.iter().any(|known| known.eq_ignore_ascii_case(host))
            || Name::parse(host).is_ok_and(|name| self.desk.view.is_own(&name))
    }
}

/// `host:port` without the port.
fn host_alone(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|octet| octet.is_ascii_digit()) && !host.ends_with(':') => {
            host
        }
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_told_from_its_port() {
        for (authority, host) in [
            ("127.0.0.1:5380", "127.0.0.1"),
            ("[::1]:5380", "[::1]"),
            ("[::1]", "[::1]"),
            ("localhost", "localhost"),
            ("web.example:80", "web.example"),
            ("", ""),
        ] {
            assert_eq!(host_alone(authority), host, "{authority}");
        }
    }
}
