//! `GET /v1/traffic`: how often services are asked for lately, and the names that are asked for and are not there.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use serde::Serialize;
use tokio::sync::Mutex;

use super::Office;
use super::reply::Failure;
use crate::answer::nearest_service;
use crate::explain::about;
use crate::name::Name;
use crate::protocol::LIST_MAX;
use crate::time::{Now, nanoseconds};
use crate::traffic::{COUNTED_MAX, Figure, ONE_IN, WINDOW};

/// Missing names that are told, and those of them whose nearest service is looked for: that looks at every service.
const MISSING_TOLD_MAX: usize = 100;
const NEAREST_MAX: usize = 20;
/// Figures are worked out anew after so long: it takes a second where there are very many services, and every open page asks.
const TOLD_FOR: Duration = Duration::from_secs(2);

pub fn router() -> Router<Arc<Office>> {
    Router::new().route("/v1/traffic", get(traffic))
}

#[derive(Serialize)]
struct Traffic {
    /// Rates are over so many seconds.
    window_s: u64,
    /// Of what comes faster than `all_below` a second at one worker, one query in so many is counted.
    one_in: u32,
    all_below: u32,
    /// Queries a second, all of them and those of names that are not there.
    rate: f64,
    missing_rate: f64,
    /// Queries a second by service, of at most `LIST_MAX` services, those asked for most first.
    services: HashMap<String, f64>,
    missing: Vec<Missing>,
}

/// A name that is not there.
#[derive(Serialize)]
struct Missing {
    name: String,
    /// How often it was asked for, at most `over` less.
    count: u64,
    over: u64,
    rate: f64,
    ago_ms: u64,
    /// A known service that is spelt nearly so.
    #[serde(skip_serializing_if = "Option::is_none")]
    nearest: Option<String>,
}

/// What was told last, for all who ask.
#[derive(Default)]
pub struct ToldTraffic(Mutex<Option<(u64, Bytes)>>);

async fn traffic(State(office): State<Arc<Office>>) -> Response {
    let now = office.desk.clock.now();
    // Who comes meanwhile waits here, and is told the same.
    let mut told = office.told_traffic.0.lock().await;
    let body = match &*told {
        Some((at_ns, body)) if now.mono_ns < at_ns + nanoseconds(TOLD_FOR) => body.clone(),
        _ => match office.desk.search(|| office.traffic_now(now)).await {
            Ok(body) => {
                *told = Some((office.desk.clock.now().mono_ns, body.clone()));
                body
            }
            Err(busy) => return Failure::from(busy).into_response(),
        },
    };
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

impl Office {
    fn traffic_now(&self, now: Now) -> Bytes {
        let figures = self.traffic.figures(now);
        let services = figures.services.into_iter().take(LIST_MAX);
        let missing = figures.missing.into_iter().take(MISSING_TOLD_MAX).enumerate();
        let told = Traffic {
            window_s: WINDOW.as_secs(),
            one_in: ONE_IN,
            all_below: COUNTED_MAX,
            rate: figures.rate,
            missing_rate: figures.missing_rate,
            services: services.map(|figure| (figure.name, figure.rate)).collect(),
            missing: missing.filter_map(|(at, figure)| self.missing(figure, at < NEAREST_MAX)).collect(),
        };
        serde_json::to_vec(&told).expect("a form has a JSON form").into()
    }

    fn missing(&self, figure: Figure<Box<[u8]>>, near: bool) -> Option<Missing> {
        let view = &self.desk.view;
        let name = Name::from_wire(&figure.name).ok()?.to_string();
        let nearest = about(view, &name).filter(|_| near).and_then(|service| nearest_service(view, &service));
        Some(Missing {
            name,
            count: figure.count,
            over: figure.over,
            rate: figure.rate,
            ago_ms: u64::try_from(figure.ago.as_millis()).unwrap_or(u64::MAX),
            nearest: nearest.map(|service| service.to_string()),
        })
    }
}
