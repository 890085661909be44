//! A read of catalog or health: what each of them takes from its request, waits for and answers with.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use serde::Serialize;

use super::filter::Filter;
use super::{Client, Office};
use crate::http::query::{Query, Reading};
use crate::http::reply::{self, Failure};
use crate::instance::Instance;
use crate::journal::Topic;
use crate::name::ServiceName;
use crate::view::{ServiceView, Spans, View};

pub struct Read {
    pub office: Arc<Office>,
    pub query: Query,
    client: Client,
    reading: Reading,
    filter: Filter,
}

impl FromRequestParts<Arc<Office>> for Read {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, office: &Arc<Office>) -> Result<Self, Failure> {
        let query = Query::of(parts.uri.query());
        let (reading, filter) = (Reading::of(&query, office)?, Filter::of(&query)?);
        let client = Client::from_request_parts(parts, office).await?;
        Ok(Self { office: office.clone(), query, client, reading, filter })
    }
}

impl Read {
    /// Waits for what spans services; returns the index to answer with.
    pub async fn wait(&self, span: impl Fn(&Spans) -> u64) -> Result<u64, Failure> {
        self.wait_for(Topic::Everything, |view| self.office.index(span(view.spans()))).await
    }

    async fn wait_for(&self, topic: Topic<'_>, current: impl Fn(&View) -> u64) -> Result<u64, Failure> {
        self.reading.wait(&self.office, topic, &self.client.closing, current).await
    }

    /// A service, once its index is above the client's, and that index.
    pub async fn service(&self, name: &str) -> Result<(Option<Arc<ServiceView>>, u64), Failure> {
        let lower = match self.reading.of_peer {
            true => String::new(), // we have no peers, so nothing came from one
            false => self.office.service_name(name).to_ascii_lowercase(),
        };
        let Ok(parsed) = ServiceName::parse(&lower) else {
            // Nothing can be registered by such a name, so there is nothing to wait for but the client's time.
            return Ok((None, self.wait_for(Topic::Everything, |_| 1).await?));
        };
        let current = |view: &View| self.office.index(view.modified(&lower));
        let index = self.wait_for(Topic::Service(&parsed), current).await?;
        Ok((self.office.desk.view.service(&lower), index))
    }

    /// True where an instance has every `?tag=`, in any case.
    pub fn has_tags(&self, instance: &Instance) -> bool {
        let tags = &instance.tags;
        self.query.all("tag").all(|wanted| tags.iter().any(|tag| tag.as_str().eq_ignore_ascii_case(wanted)))
    }

    /// True where a node has every `?node-meta=key:value`.
    pub fn has_meta(&self, meta: &BTreeMap<String, String>) -> bool {
        self.query.all("node-meta").all(|wanted| {
            let (key, value) = wanted.split_once(':').unwrap_or((wanted, ""));
            meta.get(key).is_some_and(|known| known == value)
        })
    }

    /// True where `?filter=` lets a row through.
    pub fn wants(&self, row: &impl Serialize) -> Result<bool, Failure> {
        self.filter.matches(row)
    }

    /// The rows that `?filter=` lets through.
    pub fn wanted<T: Serialize>(&self, rows: impl IntoIterator<Item = T>) -> Result<Vec<T>, Failure> {
        let mut wanted = Vec::new();
        for row in rows {
            if self.wants(&row)? {
                wanted.push(row);
            }
        }
        Ok(wanted)
    }

    pub fn answer(&self, value: &impl Serialize, index: u64) -> Response {
        reply::indexed(
            reply::json(StatusCode::OK, value, self.reading.pretty),
            index,
            self.reading.consistency,
        )
    }
}
