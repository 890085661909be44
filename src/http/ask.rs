//! `POST /v1/ask`: one request of the registration protocol, and its reply, for pages and scripts that have HTTP alone.
//!
//! The body is a line of the protocol and so is the reply; who may ask for what is judged as it is on the socket. What
//! needs a connection of its own (a lease that is bound to it, a stream, a secret that is told once) is not to be had here.
//!
//! `GET /v1/access?service=web` says who is asking, and what they may do to the instances of a service.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use axum::routing::{get, post};
use serde::Serialize;

use super::query::Query;
use super::reply::{self, Failure};
use super::{Client, Office};
use crate::access::{On, Verb};
use crate::protocol::{Problem, Reply, Request, decode};

/// Where requests go.
pub const PATH: &str = "/v1/ask";
/// Where somebody learns who they are.
pub const ACCESS: &str = "/v1/access";

pub fn router() -> Router<Arc<Office>> {
    Router::new().route(PATH, post(ask)).route(ACCESS, get(access))
}

/// `{"explain":{"name":"web"}}`
async fn ask(
    State(office): State<Arc<Office>>,
    client: Client,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Failure> {
    // A form of another site's page cannot say this of itself, whatever its browser leaves out besides.
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json") {
        let text = "send the request with `Content-Type: application/json`";
        return Err(Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
    }
    let reply = match decode(body.trim_ascii()) {
        Ok(request) => office.answer(&request, &client).await,
        Err(problem) => Err(problem),
    };
    let status = reply.as_ref().map_or_else(|problem| reply::status_of(&problem.code), |_| StatusCode::OK);
    Ok(reply::json(status, &reply.unwrap_or_else(Reply::Error), false))
}

impl Office {
    /// The reply to a request that needs no connection of its own.
    pub async fn answer(&self, request: &Request<'_>, client: &Client) -> Result<Reply, Problem> {
        let desk = &self.desk;
        desk.permitted(&client.who, request)?;
        let of_the_socket = matches!(request, Request::Register(_) | Request::Import(_) | Request::Token(_));
        let command = if of_the_socket { None } else { desk.command(request, &client.peer)? };
        let Some((sent, command)) = command else { return desk.read(request).await };
        let verdict = desk.writer.command(command, client.who.clone()).await;
        let verdict = verdict.map_err(|_| Problem::stopping())?.await.map_err(|_| Problem::stopping())?;
        Ok(desk.done(sent, &verdict?))
    }
}

/// Who asks, and the verbs that they may use on what they asked about.
#[derive(Serialize)]
struct Access {
    identity: String,
    may: Vec<&'static str>,
}

async fn access(State(office): State<Arc<Office>>, client: Client, RawQuery(query): RawQuery) -> Response {
    let query = Query::of(query.as_deref());
    let on = query.get("service").filter(|name| !name.is_empty()).map_or(On::Everything, On::Service);
    let verbs = [
        ("read", Verb::Read),
        ("watch", Verb::Watch),
        ("deregister", Verb::Deregister),
        ("report", Verb::Report),
        ("admin", Verb::Admin),
    ];
    let may = verbs.into_iter().filter(|(_, verb)| office.desk.may(&client.who, *verb, on).is_ok());
    let access = Access { identity: client.who.to_string(), may: may.map(|(name, _)| name).collect() };
    reply::json(StatusCode::OK, &access, false)
}
