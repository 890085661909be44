//! DNS over HTTPS (RFC 8484): a question in a GET or a POST, its answer in the reply, over HTTP/1.1 and HTTP/2.
//!
//! It has a port of its own, and nothing else of HTTP is there. What an answer says is not HTTP's matter: an error of DNS
//! comes with status 200; only what is no DNS message has another status, and a sentence that says why.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use data_encoding::BASE64URL_NOPAD;
use futures_util::StreamExt;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::serve;
use crate::connections::tls::Acceptor;
use crate::connections::{Place, Streams, coming_to};

/// Where questions go: the path that every client proposes.
const PATH: &str = "/dns-query";
/// The one media type (RFC 8484 section 6).
const MEDIA_TYPE: &str = "application/dns-message";
/// The largest DNS message.
const MESSAGE_OCTETS_MAX: usize = 65_535;
/// Octets that are read of a body that is too large, so that the refusal arrives and is not overtaken by a reset.
const REFUSED_OCTETS_MAX: usize = 1 << 20;
/// How long a body may take, as a message over TCP may.
const BODY_TIME_MAX: Duration = Duration::from_secs(5);
/// Octets of a request's head: a GET with a question of 1232 octets is a tenth of it.
const HEAD_OCTETS_MAX: usize = 16 * 1024;
/// How long a connection may be without a request. A handshake costs more than the wait, so it is longer than TCP's.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// How long the last octets to a client that reads may take, when its connection has to close.
const LAST_TIME_MAX: Duration = Duration::from_secs(2);
/// Requests at once on one connection of HTTP/2: what clients suppose before they are told (RFC 9113 section 5.1.2 asks for
/// no less). Each may hold a reply that is not read.
const STREAMS_MAX: u32 = 100;
/// Octets of a body that may come before we read it.
const WINDOW_OCTETS: u32 = 64 * 1024;

/// A reply of DNS, and for how many seconds a cache may keep it.
pub struct Reply {
    pub octets: Vec<u8>,
    pub fresh_s: u32,
}

/// What answers the messages: from whom, and the octets. `None` for what is no question.
pub type Answering =
    Arc<dyn Fn(SocketAddr, Vec<u8>) -> Pin<Box<dyn Future<Output = Option<Reply>> + Send>> + Send + Sync>;

/// Accepts until `stop`, and then waits for every request to be answered.
///
/// # Errors
///
/// The listener itself is broken.
pub async fn run(
    listener: TcpListener,
    acceptor: Arc<Acceptor>,
    streams: Arc<Streams>,
    answering: Answering,
    stop: CancellationToken,
) -> io::Result<()> {
    let router = router(answering);
    let requests = Requests(TaskTracker::new());
    let serve = |(stream, _), place| {
        let (acceptor, router, requests) = (acceptor.clone(), router.clone(), requests.clone());
        async move {
            if let Err(error) = connection(stream, &acceptor, router, requests, place).await {
                tracing::debug!(%error, "DNS over HTTPS");
            }
        }
    };
    streams.connections.serve(stop, coming_to(listener), serve).await?;
    requests.0.close();
    requests.0.wait().await;
    Ok(())
}

/// Where hyper starts a task for each request of HTTP/2, of which a connection has `STREAMS_MAX`.
#[derive(Clone)]
struct Requests(TaskTracker);

impl<F> hyper::rt::Executor<F> for Requests
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, request: F) {
        self.0.spawn(request);
    }
}

async fn connection(
    stream: TcpStream,
    acceptor: &Acceptor,
    router: Router,
    requests: Requests,
    place: Place,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let client = stream.peer_addr()?;
    let stream = acceptor.accept(stream, &place).await?;
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let begun = AtomicU64::new(0);
    let service = hyper::service::service_fn(|mut request: hyper::Request<Incoming>| {
        place.touch();
        begun.fetch_add(1, Ordering::Relaxed);
        request.extensions_mut().insert(Client(client));
        let router = router.clone();
        async move { Ok::<Response, Infallible>(serve(router, request).await) }
    });
    let io = TokioIo::new(stream);
    if http2 {
        let served = http2::Builder::new(requests)
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(HEAD_OCTETS_MAX as u32)
            .initial_stream_window_size(WINDOW_OCTETS)
            .initial_connection_window_size(2 * WINDOW_OCTETS)
            .max_send_buf_size(MESSAGE_OCTETS_MAX)
            .serve_connection(io, service);
        drive(pin!(served), http2::Connection::graceful_shutdown, &place, &begun).await;
    } else {
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE_MAX)
            .max_buf_size(HEAD_OCTETS_MAX)
            .serve_connection(io, service);
        drive(pin!(served), http1::Connection::graceful_shutdown, &place, &begun).await;
    }
    Ok(())
}

/// Serves until the client goes, is idle, or has to go; then what is being answered is finished, and nobody waits for a
/// client that does not read.
async fn drive<C: Future<Output = hyper::Result<()>>>(
    mut served: Pin<&mut C>,
    finish: fn(Pin<&mut C>),
    place: &Place,
    begun: &AtomicU64,
) {
    let log = |ended: hyper::Result<()>| {
        if let Err(error) = ended {
            tracing::debug!(%error, "DNS over HTTPS");
        }
    };
    loop {
        let before = begun.load(Ordering::Relaxed);
        // Both arms are cancel-safe: the connection goes on where it was.
        tokio::select! {
            ended = timeout(IDLE_MAX, served.as_mut()) => match ended {
                Ok(ended) => return log(ended),
                Err(_) if begun.load(Ordering::Relaxed) == before => break,
                Err(_) => {}
            },
            () = place.closing().cancelled() => break,
        }
    }
    finish(served.as_mut());
    if let Ok(ended) = timeout(LAST_TIME_MAX, served).await {
        log(ended);
    }
}

/// Who asks.
#[derive(Clone, Copy)]
struct Client(SocketAddr);

fn router(answering: Answering) -> Router {
    let not_found = || async { Refusal::new(StatusCode::NOT_FOUND, format!("questions go to {PATH}")) };
    let not_allowed = |method: Method| async move {
        let text = format!("{method} is no way to ask; GET and POST are (RFC 8484 section 4.1)");
        Refusal::new(StatusCode::METHOD_NOT_ALLOWED, text)
    };
    Router::new()
        .route(PATH, get(asked_by_get).post(asked_by_post))
        .method_not_allowed_fallback(not_allowed)
        .fallback(not_found)
        .layer(from_fn(with_body))
        .with_state(answering)
}

/// Takes the whole body before anything is said, a refusal too: who is still sending would see a reset instead.
async fn with_body(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let message = timeout(BODY_TIME_MAX, whole(body)).await.unwrap_or_else(|_| {
        let text = format!("the body did not come within {} s", BODY_TIME_MAX.as_secs());
        Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, text))
    });
    match message {
        Ok(message) => next.run(Request::from_parts(parts, Body::from(message))).await,
        Err(refusal) => refusal.into_response(),
    }
}

/// A request that holds no question: a status, and a sentence.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    text: String,
}

impl Refusal {
    fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.text + "\n").into_response();
        response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        response
    }
}

async fn asked_by_get(
    State(answering): State<Answering>,
    Extension(client): Extension<Client>,
    uri: Uri,
) -> Result<Response, Refusal> {
    let refused = |text: &str| Refusal::new(StatusCode::BAD_REQUEST, text);
    let pairs = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let mut asked = pairs.filter(|(name, _)| name == "dns").map(|(_, value)| value);
    let (Some(text), None) = (asked.next(), asked.next()) else {
        return Err(refused("a GET has one `dns`, a DNS message in base64url: /dns-query?dns=AAABAAAB…"));
    };
    let message = BASE64URL_NOPAD.decode(text.as_bytes());
    let message =
        message.map_err(|error| refused(&format!("`dns` is not base64url without padding: {error}")))?;
    answer(&answering, client, message).await
}

async fn asked_by_post(
    State(answering): State<Answering>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    message: Bytes,
) -> Result<Response, Refusal> {
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    // Parameters are none that we know, and none that matter.
    let media_type = media_type.and_then(|value| value.split(';').next()).unwrap_or_default().trim();
    if !media_type.eq_ignore_ascii_case(MEDIA_TYPE) {
        let text = format!("the body of a POST is {MEDIA_TYPE}, not `{}`", media_type.escape_debug());
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
    }
    answer(&answering, client, message.to_vec()).await
}

/// The body, where it is no longer than a message can be.
async fn whole(body: Body) -> Result<Vec<u8>, Refusal> {
    let announced = body.size_hint().lower();
    let (mut message, mut read) = (Vec::new(), 0);
    let mut pieces = body.into_data_stream();
    while announced <= REFUSED_OCTETS_MAX as u64
        && read <= REFUSED_OCTETS_MAX
        && let Some(piece) = pieces.next().await
    {
        let broken = |error| Refusal::new(StatusCode::BAD_REQUEST, format!("reading the body: {error}"));
        let piece = piece.map_err(broken)?;
        read += piece.len();
        match read <= MESSAGE_OCTETS_MAX {
            true => message.extend_from_slice(&piece),
            false => message = Vec::new(),
        }
    }
    if read > MESSAGE_OCTETS_MAX || announced > MESSAGE_OCTETS_MAX as u64 {
        let text = format!("a DNS message has {MESSAGE_OCTETS_MAX} octets at most");
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, text));
    }
    Ok(message)
}

async fn answer(answering: &Answering, client: Client, message: Vec<u8>) -> Result<Response, Refusal> {
    let Some(Reply { octets, fresh_s }) = answering(client.0, message).await else {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "that is no DNS query"));
    };
    let mut response = Response::new(Body::from(octets));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    let fresh = HeaderValue::try_from(format!("max-age={fresh_s}"));
    headers.insert(header::CACHE_CONTROL, fresh.unwrap_or(HeaderValue::from_static("no-store")));
    Ok(response)
}
