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
use crate::explain::explain;
use crate::protocol::{DeregisteredForm, NamedForm, Problem, Reply, ReportedForm, Request, decode};
use crate::registry::Command;
use crate::writer::Done;

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
        Ok(request) => office.answer(request, &client).await,
        Err(problem) => Err(problem),
    };
    let status = reply.as_ref().map_or_else(status_of, |_| StatusCode::OK);
    Ok(reply::json(status, &reply.unwrap_or_else(Reply::Error), false))
}

/// The status that goes with a code of the protocol.
fn status_of(problem: &Problem) -> StatusCode {
    match &*problem.code {
        "not_found" => StatusCode::NOT_FOUND,
        "denied" => StatusCode::FORBIDDEN,
        "unavailable" => StatusCode::SERVICE_UNAVAILABLE,
        "superseded" | "taken" => StatusCode::CONFLICT,
        "full" => StatusCode::INSUFFICIENT_STORAGE,
        _ => StatusCode::BAD_REQUEST,
    }
}

impl Office {
    async fn answer(&self, request: Request<'_>, client: &Client) -> Result<Reply, Problem> {
        let desk = &self.desk;
        desk.permitted(&client.who, &request)?;
        let host = &client.peer.host;
        match request {
            Request::Lookup(form) => desk.lookup(&form),
            Request::List(form) => desk.list(&form),
            Request::Explain(form) => {
                desk.search(|| explain(&desk.view, &form.name).map(Reply::Explained)).await?
            }
            Request::Log(form) => desk.search(|| desk.log(&form)).await?,
            Request::At(form) => desk.search(|| desk.at(&form)).await?,
            Request::Availability(form) => desk.search(|| desk.availability(&form)).await?,
            Request::Status(_) => Ok(desk.status()),
            Request::Nodes(_) => Ok(Reply::Nodes(desk.nodes().await)),
            Request::Ring(form) => desk.ring(&form).map(Reply::Ring),
            Request::Settings(form) => {
                let (service, configuration) = form.configuration(&desk.view.settings.apexes)?;
                let revision = match configuration {
                    Some(configuration) => {
                        self.done(Command::Configure(configuration), client).await?.revision
                    }
                    None => desk.view.revision(),
                };
                Ok(desk.settings(&service, revision))
            }
            Request::Drain(form) => {
                let holder = form.holder(host)?;
                let key = holder.key.clone();
                let done = self.done(Command::Drain(holder), client).await?;
                Ok(Reply::Draining(NamedForm::of(&key, done.revision)))
            }
            Request::Deregister(form) => {
                let holder = form.holder(host)?;
                let key = holder.key.clone();
                let done = self.done(Command::Deregister(holder), client).await?;
                let existed = !done.changes.is_empty();
                Ok(Reply::Deregistered(DeregisteredForm::of(&key, existed, done.revision)))
            }
            Request::Report(form) => {
                let report = form.report(host)?;
                let done = self.done(Command::Report(report.clone()), client).await?;
                Ok(Reply::Reported(ReportedForm::of(&report, done.revision)))
            }
            Request::Register(_)
            | Request::Heartbeat(_)
            | Request::Watch(_)
            | Request::Feed(_)
            | Request::Backup(_)
            | Request::Export(_)
            | Request::Import(_)
            | Request::Hello(_)
            | Request::Token(_) => {
                let text = "this verb is for the registration socket; here are lookup, list, explain, log, at, \
                            availability, status, nodes, ring, settings, drain, deregister and report";
                Err(Problem::new("unknown_verb", text))
            }
        }
    }

    /// Sends a command and waits until it is durable and visible.
    async fn done(&self, command: Command, client: &Client) -> Result<Done, Problem> {
        let stopping = || Problem::new("unavailable", "the server is stopping; try again when it is back");
        let verdict = self.desk.writer.command(command, client.who.clone()).await;
        let verdict = verdict.map_err(|_| stopping())?.await.map_err(|_| stopping())?;
        Ok(verdict?)
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
