//! `/v1/watch/` and `/v1/watch/<service>`: what is registered, and then every change, for as long as the client stays.
//!
//! One JSON object per line, as on the registration socket; with `Accept: text/event-stream`, server-sent events. Their
//! ids are what Consul's clients know as the index: unlike a revision, one of another server, or of a server that
//! keeps nothing and has started anew, is known as such. `?since=` with a revision or an id, or a browser's
//! `Last-Event-ID`, goes on from there where the log still reaches so far; else there is a snapshot again. Who
//! reads too slowly is cut off with a reason.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use axum::routing::get;
use futures_util::stream;

use super::query::Query;
use super::reply::Failure;
use super::{Client, Office};
use crate::access::{On, Verb};
use crate::journal::{Ended, Event, Follower};
use crate::protocol::{Filter, FilterForm, Problem, Reply, encode};
use crate::registry::{Change, What};
use crate::view::Member;

pub fn router() -> Router<Arc<Office>> {
    Router::new()
        .route("/v1/watch", get(everything))
        .route("/v1/watch/", get(everything))
        .route("/v1/watch/{service}", get(one_service))
}

async fn everything(
    office: State<Arc<Office>>,
    client: Client,
    query: RawQuery,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    watch(office, client, None, query, headers).await
}

async fn one_service(
    office: State<Arc<Office>>,
    client: Client,
    Path(service): Path<String>,
    query: RawQuery,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    watch(office, client, Some(service), query, headers).await
}

async fn watch(
    State(office): State<Arc<Office>>,
    client: Client,
    service: Option<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let query = Query::of(query.as_deref());
    let text = |name: &str| query.get(name).filter(|text| !text.is_empty()).map(str::to_owned);
    let form = FilterForm {
        service,
        tag: text("tag"),
        host: text("host"),
        protocol: text("protocol"),
        health: text("health"),
        ..FilterForm::default()
    };
    let filter = form.filter()?;
    let all = query.flag("all")?;
    if all && form != FilterForm::default() {
        return Err(Failure::bad("all is for a watch of everything, without a service or a filter"));
    }
    let given = headers.get("last-event-id").and_then(|value| value.to_str().ok());
    let since = match query.get("since").or(given).filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => Some(text.parse().map_err(|_| {
            Failure::bad("since must be the revision of the last change that you have, a whole number")
        })?),
    };
    let accepts = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let events = accepts.contains("text/event-stream");
    let watch = office.desk.writer.watch(Some(filter.clone())).await.map_err(|_| Failure::stopping())?;
    let mut watching = Watching {
        members: watch.members.into(),
        revision: watch.revision,
        unstored: Vec::new(),
        changes: watch.changes,
        filter,
        all,
        events,
        state: Stage::Snapshot,
        office,
        client,
    };
    if let Some(since) = since.and_then(|since| watching.can_resume(since)) {
        watching.members = VecDeque::new();
        watching.unstored = watch.unstored;
        watching.state = Stage::Replay { from: since, told: false };
    }
    let stream = stream::unfold(watching, |mut watching| async move {
        let chunk = watching.next().await?;
        Some((Ok::<Bytes, Infallible>(chunk), watching))
    });
    let mut response = Response::new(Body::from_stream(stream));
    let kind = if events { "text/event-stream" } else { "application/x-ndjson" };
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// One watcher between two chunks.
struct Watching {
    office: Arc<Office>,
    client: Client,
    filter: Filter,
    /// Tell what is of no instance too: settings, guards, tokens, plain records, who is forgotten.
    all: bool,
    /// Server-sent events; else lines.
    events: bool,
    state: Stage,
    /// What is left of the snapshot, which is of this revision.
    members: VecDeque<Member>,
    revision: u64,
    /// For a replay: changes at or before it that the log does not have yet.
    unstored: Vec<Change>,
    changes: Follower,
}

enum Stage {
    Snapshot,
    /// What the log has after `from`.
    Replay {
        from: u64,
        told: bool,
    },
    Follow,
    Ended,
}

impl Watching {
    async fn next(&mut self) -> Option<Bytes> {
        match self.state {
            Stage::Snapshot => Some(self.snapshot()),
            Stage::Replay { from, told } => match self.replayed(from, told) {
                Some(chunk) => Some(chunk),
                None => self.follow().await,
            },
            Stage::Follow => self.follow().await,
            Stage::Ended => None,
        }
    }

    fn snapshot(&mut self) -> Bytes {
        let all = self.members.make_contiguous();
        let mut rest: &[Member] = all;
        let form = self.office.desk.snapshot(&mut rest, self.revision);
        let left = rest.len();
        self.members.drain(..self.members.len() - left);
        let mut line = Vec::new();
        encode(&Reply::Snapshot(form), &mut line);
        if left > 0 {
            return self.framed("snapshot", None, &line).into();
        }
        self.members = VecDeque::new(); // a watcher does not keep the past alive
        self.state = Stage::Follow;
        self.framed("snapshot", Some(self.revision), &line).into()
    }

    /// The revision to go on from; `None` where a snapshot is shorter, the log does not reach back so far, or the
    /// client's place is on another server.
    fn can_resume(&self, since: u64) -> Option<u64> {
        let view = &self.office.desk.view;
        let since = view.revision_of(since).unwrap_or(since);
        if self.revision.checked_sub(since)? > REPLAY_MAX {
            return None;
        }
        self.office.desk.resume(since, self.revision).is_ok().then_some(since)
    }

    /// Some of what the log has, no more of it at once than is written; `None` at its end.
    fn replayed(&mut self, mut from: u64, told: bool) -> Option<Bytes> {
        let mut out = Vec::new();
        loop {
            let history = &self.office.desk.history;
            let page = tokio::task::block_in_place(|| history.after(from, REPLAY_PAGE));
            let changes = match page {
                Ok((changes, oldest)) if history.is_whole_after(from, oldest) => changes,
                Ok(_) => return Some(self.end("compacted", "the log has been shortened meanwhile", out)),
                Err(what) => return Some(self.end("unavailable", &format!("reading the log: {what}"), out)),
            };
            let last = changes.last().map(|change| change.revision);
            for change in changes.into_iter().filter(|change| change.revision <= self.revision) {
                self.put_past(change, &mut out);
            }
            from = last.unwrap_or(from);
            if last.is_none() || from >= self.revision {
                break;
            }
            if !out.is_empty() {
                self.state = Stage::Replay { from, told: true };
                return Some(out.into());
            }
        }
        for change in std::mem::take(&mut self.unstored) {
            if change.revision > from {
                self.put_past(change, &mut out);
            }
        }
        self.state = Stage::Follow;
        // Something at once, so that a client knows that it is heard.
        if out.is_empty() && self.events && !told {
            out.extend_from_slice(b": up to date\n\n");
        }
        (!out.is_empty()).then(|| out.into())
    }

    fn put_past(&self, change: Change, out: &mut Vec<u8>) {
        self.put(&self.office.desk.past_event(change), out);
    }

    /// The last that is told, and what the client does then.
    fn end(&mut self, code: &'static str, why: &str, mut out: Vec<u8>) -> Bytes {
        self.state = Stage::Ended;
        let mut line = Vec::new();
        let text = format!("{why}; watch again with `since`, the revision of the last change that you have");
        encode(&Reply::Error(Problem::new(code, text)), &mut line);
        out.extend_from_slice(&self.framed("error", None, &line));
        out.into()
    }

    /// The next changes that the filter wants.
    async fn follow(&mut self) -> Option<Bytes> {
        let (office, who) = (self.office.clone(), self.client.who.clone());
        let service = self.filter.service.clone();
        let on = service.as_ref().map_or(On::Everything, On::from);
        let mut denied = std::pin::pin!(office.desk.until_denied(&who, Verb::Watch, on));
        loop {
            // All arms are cancel-safe.
            let batch = tokio::select! {
                batch = self.changes.next() => batch,
                denied = &mut denied => return Some(self.end("denied", &denied.to_string(), Vec::new())),
                () = self.client.closing.cancelled() => return None,
            };
            match batch {
                Ok(batch) => {
                    let mut out = Vec::new();
                    for event in batch.iter().filter(|event| event.change.revision > self.revision) {
                        self.put(event, &mut out);
                    }
                    if !out.is_empty() {
                        return Some(out.into());
                    }
                }
                Err(Ended::Closed) => return None,
                Err(lagged @ Ended::Lagged(_)) => {
                    return Some(self.end("lagged", &lagged.to_string(), Vec::new()));
                }
            }
        }
    }

    fn put(&self, event: &Event, out: &mut Vec<u8>) {
        let of_instances = matches!(event.change.what, What::Instance { .. } | What::Host { .. });
        let filter = (of_instances || !self.all).then_some(&self.filter);
        if !self.events {
            return self.office.desk.tell(event, filter, out);
        }
        let mut lines = Vec::new();
        self.office.desk.tell(event, filter, &mut lines);
        let mut rest = lines.as_slice();
        while let Some(end) = rest.iter().position(|octet| *octet == b'\n') {
            let (line, after) = rest.split_at(end + 1);
            // A host's change is one line for each instance: who has the last has them all.
            let id = after.is_empty().then_some(event.change.revision);
            out.extend_from_slice(&self.framed("change", id, line));
            rest = after;
        }
    }

    /// A line as it is, or as an event: https://html.spec.whatwg.org/multipage/server-sent-events.html
    fn framed(&self, event: &str, id: Option<u64>, line: &[u8]) -> Vec<u8> {
        if !self.events {
            return line.to_vec();
        }
        let mut frame = format!("event: {event}\n").into_bytes();
        if let Some(id) = id {
            let id = self.office.desk.view.index(id);
            frame.extend_from_slice(format!("id: {id}\n").as_bytes());
        }
        frame.extend_from_slice(b"data: ");
        frame.extend_from_slice(line);
        frame.push(b'\n');
        frame
    }
}

/// Revisions that are looked through for one watcher; beyond that a snapshot is shorter.
const REPLAY_MAX: u64 = 100_000;
/// Changes of the log that are read at once: each watcher may wait with as many.
const REPLAY_PAGE: usize = 100;
