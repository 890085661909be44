//! The HTTP port: Consul's API for the clients that people have, and our own watch, settings and discovery.
//!
//! One connection is one task; what it may take, keep and say is bounded here, before any endpoint sees
//! it. The same connections come in on the registration socket, which hands over what begins like HTTP.
//!
//! Browsers run the pages of strangers, who may point a name of theirs at 127.0.0.1: so the `Host` has to be one
//! of ours, and an `Origin` the same as the `Host`. Nothing here sets a CORS header.

mod consul;
mod discovery;
mod events;
mod query;
mod reply;
mod settings;

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::reply::Failure;
use crate::connections::{Connections, Handed, Octets, Place};
use crate::desk::Desk;
use crate::name::Name;
use crate::protocol::Peer;
use crate::registry::{Author, Command};
use crate::writer::Done;

/// Connections at once: a blocking query or a watcher keeps one for itself.
pub const CONNECTIONS_MAX: usize = 12_000;
/// Octets of a request's body: a registration at every limit is 70 KiB.
const BODY_OCTETS_MAX: usize = 256 * 1024;
/// Octets of a request's head, and how long a client may take to send it. An idle connection is one
/// whose next head has not begun: it goes when there are too many, or with us.
const HEAD_OCTETS_MAX: usize = 32 * 1024;
const HEAD_TIME_MAX: Duration = Duration::from_secs(75);
/// Streams that the registration socket has handed over and nobody has taken yet.
pub const HANDED_MAX: usize = 64;

/// What every endpoint works with.
pub struct Office {
    pub desk: Arc<Desk>,
    /// The one datacenter that we say we are.
    pub datacenter: String,
    /// Names that clients may call us by in `Host`, beside addresses, `localhost` and names of our own zones.
    pub hosts: Vec<String>,
    /// A service's name may be spelt with `_`, and is taken as if it were a hyphen.
    pub underscore_is_hyphen: bool,
    /// Connections of this port.
    pub connections: Arc<Connections>,
}

/// Who asks.
#[derive(Clone)]
pub struct Client {
    pub author: Author,
    pub peer: Peer,
    /// Told to close when there are too many connections, or with us.
    pub closing: CancellationToken,
}

/// Where connections come from.
pub enum Source {
    Tcp(TcpListener),
    /// From the registration socket.
    Handed(mpsc::Receiver<Handed>),
}

impl Source {
    async fn accept(&mut self) -> io::Result<Option<Handed>> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Some((Box::new(stream), Author::Address(address))))
            }
            Self::Handed(receiver) => Ok(receiver.recv().await),
        }
    }
}

/// Accepts until `stop`, and then waits for every request to be answered.
pub async fn run(mut source: Source, office: Arc<Office>, stop: CancellationToken) -> io::Result<()> {
    let router = router(office.clone());
    let tasks = TaskTracker::new();
    loop {
        // Both arms are cancel-safe.
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = source.accept() => accepted,
        };
        match accepted {
            Ok(Some((stream, author))) => {
                let place = office.connections.enter(&stop);
                tasks.spawn(connection(stream, office.clone(), router.clone(), author, place));
            }
            Ok(None) => break,
            Err(error) => office.connections.after_error(error).await?,
        }
    }
    tasks.close();
    tasks.wait().await;
    Ok(())
}

async fn connection(
    stream: Box<dyn Octets>,
    office: Arc<Office>,
    router: Router,
    author: Author,
    place: Place,
) {
    let peer = office.desk.peer(&author, place.number);
    let client = Client { author, peer, closing: place.closing().clone() };
    let service = hyper::service::service_fn(|mut request: hyper::Request<Incoming>| {
        place.touch();
        request.extensions_mut().insert(client.clone());
        let router = router.clone();
        async move { Ok::<Response, Infallible>(serve(router, request).await) }
    });
    let mut served = std::pin::pin!(
        hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME_MAX)
            .max_buf_size(HEAD_OCTETS_MAX)
            .serve_connection(TokioIo::new(stream), service)
    );
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = client.closing.cancelled() => {
            // What is being answered is answered; then it closes.
            served.as_mut().graceful_shutdown();
            served.await
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
        .merge(consul::router())
        .merge(discovery::router())
        .merge(events::router())
        .merge(settings::router())
        .fallback(consul::unknown)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(office.clone(), guard))
        .layer(DefaultBodyLimit::max(BODY_OCTETS_MAX))
        .with_state(office)
}

async fn method_not_allowed(method: Method) -> Failure {
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, format!("method {method} not allowed"))
}

/// Lets in who speaks to us by a name of ours, and no other origin's page.
async fn guard(
    axum::extract::State(office): axum::extract::State<Arc<Office>>,
    request: Request,
    next: Next,
) -> Response {
    let client = request.extensions().get::<Client>().map(|client| client.author.clone());
    let local = matches!(client, Some(Author::User(_)));
    match admitted(&office, request.headers(), local) {
        Ok(()) => next.run(request).await,
        Err(failure) => failure.into_response(),
    }
}

fn admitted(office: &Office, headers: &HeaderMap, local: bool) -> Result<(), Failure> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("\u{fffd}"));
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
    if let Some(site) = text(header::HeaderName::from_static("sec-fetch-site"))
        && !matches!(site, "same-origin" | "none")
    {
        return Err(Failure::new(StatusCode::FORBIDDEN, "another site's page may not speak to this server"));
    }
    Ok(())
}

impl Office {
    /// Sends a command and waits until it is durable and visible.
    async fn carry_out(&self, command: Command, client: &Client) -> Result<Done, Failure> {
        let verdict = self.desk.writer.command(command, client.author.clone()).await;
        let verdict = verdict.map_err(|_| Failure::stopping())?;
        Ok(verdict.await.map_err(|_| Failure::stopping())??)
    }

    fn knows(&self, host: &str) -> bool {
        host.is_empty()
            || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
            || host.eq_ignore_ascii_case("localhost")
            || host.eq_ignore_ascii_case(self.desk.host.as_str())
            || self.hosts.iter().any(|known| known.eq_ignore_ascii_case(host))
            || Name::parse(host).is_ok_and(|name| self.desk.view.apex_of(&name).is_some())
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
