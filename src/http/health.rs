//! `/healthz` and `/readyz`: whether this process lives, and whether it can do all that it is for.
//!
//! Neither asks the store or the writer, so both answer whatever these are waiting for; and neither asks who is there, for
//! those who probe have no token, and are told nothing of what is registered. They answer from the first moment on: while
//! the registry is loaded, [`until_loaded`] does it, and keeps every other request for later, or refuses it.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::query::Query;
use super::reply::{Failure, json};
use super::{CONNECTIONS_MAX, Office, keep_alive};
use crate::access::Identity as Who;
use crate::clock::Clock;
use crate::connections::{Connections, Handed, NOT_LOADED, Place, coming_to};
use crate::time::Now;
use crate::view::{View, Worth};

pub const HEALTHZ: &str = "/healthz";
pub const READYZ: &str = "/readyz";
/// What readiness depends on, by the names that `?exclude=` takes.
const CHECKS: [&str; 3] = ["registry", "store", "etcd"];
/// How long a request may take that is answered before the registry is loaded.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(5);

pub fn router() -> Router<Arc<Office>> {
    Router::new().route(HEALTHZ, get(healthz)).route(READYZ, get(readyz))
}

async fn healthz() -> Response {
    uncached("ok\n".into_response())
}

async fn readyz(State(office): State<Arc<Office>>, RawQuery(query): RawQuery) -> Response {
    readiness(&office.desk.view, office.desk.clock.now(), query.as_deref())
}

/// Ready, or why not.
#[derive(Debug, Serialize)]
struct Readiness {
    ready: bool,
    reasons: Vec<Reason>,
}

#[derive(Debug, Serialize)]
struct Reason {
    check: &'static str,
    message: String,
    /// For how many seconds etcd could not be followed.
    #[serde(skip_serializing_if = "Option::is_none")]
    stale_s: Option<u64>,
}

/// 200 or 503, with every reason but those of the checks that are excluded.
fn readiness(view: &View, now: Now, query: Option<&str>) -> Response {
    let query = Query::of(query);
    let excluded: Vec<&str> = query.all("exclude").collect();
    if let Some(unknown) = excluded.iter().find(|name| !CHECKS.contains(name)) {
        let known = CHECKS.join(", ");
        let text = format!("exclude: there is no check `{}`; there are {known}", unknown.escape_debug());
        return Failure::bad(text).into_response();
    }
    let mut reasons = reasons(view, now);
    reasons.retain(|reason| !excluded.contains(&reason.check));
    let ready = reasons.is_empty();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    uncached(json(status, &Readiness { ready, reasons }, true))
}

/// What keeps this server from all that it is for. Its sockets are none of it: it has them, or does not start.
fn reasons(view: &View, now: Now) -> Vec<Reason> {
    let registry = match view.worth() {
        Worth::Fresh | Worth::Stale => None,
        Worth::Nothing => Some("the registry is not loaded yet; queries are answered SERVFAIL"),
        Worth::TooOld => Some("etcd is away for longer than `stale-for`; queries are answered SERVFAIL"),
    };
    let stale = view.stale_for(now);
    // What the store says may hold a path, and is for those who may ask for the status.
    let store = view.store_trouble().map(|_| "changes are refused; the log says why, and so does `callsign status` once the registry is loaded");
    let etcd = stale.map(|stale| format!("etcd cannot be followed for {} s", stale.as_secs()));
    let checks = [registry.map(str::to_owned), store.map(str::to_owned), etcd];
    let reason = |(check, message): (&'static str, Option<String>)| {
        let stale_s = stale.filter(|_| check == "etcd").map(|stale| stale.as_secs());
        Some(Reason { check, message: message?, stale_s })
    };
    CHECKS.into_iter().zip(checks).filter_map(reason).collect()
}

fn uncached(mut response: Response) -> Response {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Answers these two on a listener of HTTP until the registry is loaded. Whoever asks for anything else waits, as in the
/// listener's own queue, and is handed over then; or is refused, where that takes longer than `patience`.
///
/// # Errors
///
/// The listener itself is broken.
pub async fn until_loaded(
    listener: TcpListener,
    of: (Arc<View>, Clock),
    patience: Option<Duration>,
    hand_over: mpsc::Sender<Handed>,
    loaded: CancellationToken,
) -> io::Result<()> {
    keep_alive(&listener)?;
    let serve = |(stream, address), place| {
        early((stream, address), place, of.clone(), patience, (hand_over.clone(), loaded.clone()))
    };
    Connections::new(CONNECTIONS_MAX).serve(loaded.clone(), coming_to(listener), serve).await
}

async fn early(
    (stream, address): (TcpStream, SocketAddr),
    place: Place,
    of: (Arc<View>, Clock),
    patience: Option<Duration>,
    (hand_over, loaded): (mpsc::Sender<Handed>, CancellationToken),
) {
    let mut start = [0; "GET /healthz".len()];
    // Both arms are cancel-safe: what is looked at stays where it is.
    let is_probe = tokio::select! {
        seen = stream.peek(&mut start) => {
            let seen = &start[..seen.unwrap_or(0)];
            [HEALTHZ, READYZ].iter().any(|path| seen.strip_prefix(b"GET ").is_some_and(|rest| {
                rest.starts_with(path.as_bytes())
            }))
        }
        () = place.closing().cancelled() => false,
    };
    if is_probe {
        return answer(stream, of).await;
    }
    let waited_for_long = async {
        match patience {
            Some(patience) => sleep(patience).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = place.closing().cancelled() => {}
        () = waited_for_long => return answer(stream, of).await,
    }
    // There were too many, and this one was the quietest.
    if !loaded.is_cancelled() || stream.set_nodelay(true).is_err() {
        return;
    }
    // Where nobody takes it, the server is stopping.
    drop(hand_over.send((Box::new(stream), Who::address(address))).await);
}

/// One request, and the end.
async fn answer(stream: TcpStream, (view, clock): (Arc<View>, Clock)) {
    let service = hyper::service::service_fn(|request: hyper::Request<Incoming>| {
        let (path, query) = (request.uri().path(), request.uri().query());
        let response = match path {
            READYZ => readiness(&view, clock.now(), query),
            HEALTHZ => uncached("ok\n".into_response()),
            _ => Failure::new(StatusCode::SERVICE_UNAVAILABLE, NOT_LOADED).into_response(),
        };
        async { Ok::<Response, Infallible>(response) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    if let Ok(Err(error)) = timeout(REQUEST_TIME_MAX, served).await {
        tracing::debug!(%error, "a probe of our health");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::Apex;
    use crate::view::{Settings, Zones};

    fn told(view: &View, seconds: u64, query: &str) -> (u16, Vec<&'static str>) {
        let now = Now::default().after(Duration::from_secs(seconds));
        let status = readiness(view, now, Some(query)).status();
        (status.as_u16(), reasons(view, now).iter().map(|reason| reason.check).collect())
    }

    #[test]
    fn each_trouble_is_a_reason() {
        let mut settings = Settings::new(vec![Apex::parse("service.local").unwrap()]);
        settings.stale_for = Some(Duration::from_secs(30));
        let view = View::new(settings, Zones::default());
        assert_eq!(told(&view, 0, ""), (503, vec!["registry"]));
        view.set_ready();
        assert_eq!(told(&view, 1, ""), (200, vec![]));
        view.set_store_trouble(Some("no space left on /var/lib".to_owned()));
        assert_eq!(told(&view, 2, ""), (503, vec!["store"]));
        assert!(!reasons(&view, Now::default())[0].message.contains("/var"));
        assert_eq!(told(&view, 2, "exclude=store").0, 200);
        let at = |seconds| Now::default().after(Duration::from_secs(seconds));
        view.set_stale(Some(at(3)), at(3));
        assert_eq!(told(&view, 10, "exclude=store"), (503, vec!["store", "etcd"]));
        assert_eq!(reasons(&view, at(10))[1].stale_s, Some(7));
        assert_eq!(told(&view, 10, "exclude=store&exclude=etcd").0, 200);
        assert_eq!(told(&view, 10, "exclude=disk").0, 400);
        view.set_stale(Some(at(3)), at(40));
        assert_eq!(told(&view, 40, "exclude=store&exclude=etcd"), (503, vec!["registry", "store", "etcd"]));
    }
}
