//! `/v1/watch/` and `/v1/watch/<service>`: what is registered, and then every change, for as long as the client stays.
//!
//! One JSON object per line, as on the registration socket; with `Accept: text/event-stream`, server-sent events whose
//! ids are revisions. `?since=<revision>`, or a browser's `Last-Event-ID`, goes on from there where the log still
//! reaches so far; else there is a snapshot again. Who reads too slowly is cut off with a reason.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Router};
use futures_util::stream;

use super::query::Query;
use super::reply::Failure;
use super::{Client, Office};
use crate::journal::{Ended, Event, Follower};
use crate::protocol::{Filter, FilterForm, LIST_MAX, Problem, Reply, encode};
use crate::view::Member;

pub fn router() -> Router<Arc<Office>> {
    Router::new()
        .route("/v1/watch", get(everything))
        .route("/v1/watch/", get(everything))
        .route("/v1/watch/{service}", get(one_service))
}

async fn everything(
    office: State<Arc<Office>>,
    client: Extension<Client>,
    query: RawQuery,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    watch(office, client, None, query, headers).await
}

async fn one_service(
    office: State<Arc<Office>>,
    client: Extension<Client>,
    Path(service): Path<String>,
    query: RawQuery,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    watch(office, client, Some(service), query, headers).await
}

async fn watch(
    State(office): State<Arc<Office>>,
    Extension(client): Extension<Client>,
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
        replay: VecDeque::new(),
        changes: watch.changes,
        filter,
        events,
        state: Stage::Snapshot,
        office,
        client,
    };
    if let Some(since) = since
        && let Some(past) = watching.past(since, &watch.unstored)
    {
        watching.replay = past;
        watching.state = Stage::Replay;
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
    /// Server-sent events; else lines.
    events: bool,
    state: Stage,
    /// What is left of the snapshot, which is of this revision.
    members: VecDeque<Member>,
    revision: u64,
    /// Changes between the client's revision and that one.
    replay: VecDeque<Event>,
    changes: Follower,
}

enum Stage {
    Snapshot,
    Replay,
    Follow,
    Ended,
}

impl Watching {
    async fn next(&mut self) -> Option<Bytes> {
        match self.state {
            Stage::Snapshot => Some(self.snapshot()),
            Stage::Replay => Some(self.replayed()),
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
            return self.framed("snapshot", None, line);
        }
        self.members = VecDeque::new(); // a watcher does not keep the past alive
        self.state = Stage::Follow;
        self.framed("snapshot", Some(self.revision), line)
    }

    fn replayed(&mut self) -> Bytes {
        let mut out = Vec::new();
        for event in self.replay.drain(..self.replay.len().min(LIST_MAX)).collect::<Vec<_>>() {
            self.put(&event, &mut out);
        }
        if self.replay.is_empty() {
            self.state = Stage::Follow;
            // Something at once, so that a client knows that it is heard.
            if out.is_empty() && self.events {
                out.extend_from_slice(b": up to date\n\n");
            }
        }
        out.into()
    }

    /// The next changes that the filter wants.
    async fn follow(&mut self) -> Option<Bytes> {
        loop {
            // Both arms are cancel-safe.
            let batch = tokio::select! {
                batch = self.changes.next() => batch,
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
                    self.state = Stage::Ended;
                    let mut line = Vec::new();
                    let text = format!(
                        "{lagged}; watch again with `since`, the revision of the last change that you have"
                    );
                    encode(&Reply::Error(Problem::new("lagged", text)), &mut line);
                    return Some(self.framed("error", None, line));
                }
            }
        }
    }

    fn put(&self, event: &Event, out: &mut Vec<u8>) {
        let mut lines = Vec::new();
        self.office.desk.tell(event, Some(&self.filter), &mut lines);
        for line in lines.split_inclusive(|octet| *octet == b'\n') {
            match self.events {
                true => {
                    out.extend_from_slice(&self.framed("change", Some(event.change.revision), line.to_vec()))
                }
                false => out.extend_from_slice(line),
            }
        }
    }

    /// A line as it is, or as an event: https://html.spec.whatwg.org/multipage/server-sent-events.html
    fn framed(&self, event: &str, id: Option<u64>, line: Vec<u8>) -> Bytes {
        if !self.events {
            return line.into();
        }
        let mut frame = format!("event: {event}\n").into_bytes();
        if let Some(id) = id {
            frame.extend_from_slice(format!("id: {id}\n").as_bytes());
        }
        frame.extend_from_slice(b"data: ");
        frame.extend_from_slice(&line);
        frame.push(b'\n');
        frame.into()
    }

    /// The changes after `since`; `None` where the log does not reach back so far, or is another server's.
    fn past(&self, since: u64, unstored: &[crate::registry::Change]) -> Option<VecDeque<Event>> {
        if since > self.revision {
            return None;
        }
        let mut past: VecDeque<Event> = VecDeque::new();
        let mut from = since;
        loop {
            let page = tokio::task::block_in_place(|| self.office.desk.history.after(from, LIST_MAX));
            let (changes, oldest) = page.ok()?;
            if !self.office.desk.history.is_whole_after(from, oldest) {
                return None;
            }
            let Some(last) = changes.last().map(|change| change.revision) else { break };
            let wanted = changes.into_iter().filter(|change| {
                change.revision <= self.revision && self.filter.concerns(change, change.health_alone())
            });
            past.extend(wanted.map(|change| {
                let health = change.health_alone();
                Event::new(change, health)
            }));
            if past.len() > REPLAY_MAX {
                return None;
            }
            if last >= self.revision {
                break;
            }
            from = last;
        }
        let stored = past.back().map_or(since, |event| event.change.revision);
        let rest = unstored.iter().filter(|change| change.revision > stored.max(since));
        past.extend(rest.map(|change| Event::new(change.clone(), change.health_alone())));
        Some(past)
    }
}

/// Changes that are replayed to one watcher; beyond that a snapshot is shorter.
const REPLAY_MAX: usize = 10_000;
