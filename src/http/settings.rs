//! `/v1/settings/<service>`: what is set for a service. GET shows it, PUT sets what the body gives.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;

use super::reply::{self, Failure};
use super::{Client, Office};
use crate::protocol::{Reply, Request, SettingsForm, decode};

pub fn router() -> Router<Arc<Office>> {
    Router::new().route("/v1/settings/{service}", get(show).put(set))
}

async fn show(
    State(office): State<Arc<Office>>,
    Path(service): Path<String>,
    client: Client,
) -> Result<Response, Failure> {
    let form = SettingsForm { service, ..SettingsForm::default() };
    answer(&office, &Request::Settings(form), &client).await
}

/// `{"ttl":"10s"}`, `{"reset":true}`
async fn set(
    State(office): State<Arc<Office>>,
    Path(service): Path<String>,
    client: Client,
    body: Bytes,
) -> Result<Response, Failure> {
    let mut value: serde_json::Value = serde_json::from_slice(&body)
        .map_err(|error| Failure::bad(format!("the body is not JSON: {error}; send {{\"ttl\":\"10s\"}}")))?;
    match value.as_object_mut() {
        Some(members) => drop(members.insert("service".to_owned(), service.into())),
        None => return Err(Failure::bad("the body is no object; send {\"ttl\":\"10s\"}")),
    }
    // As the socket reads it, for the same words about the same mistakes.
    let request = serde_json::json!({ "settings": value }).to_string();
    answer(&office, &decode(request.as_bytes())?, &client).await
}

/// The reply of the protocol, without its name.
async fn answer(office: &Office, request: &Request<'_>, client: &Client) -> Result<Response, Failure> {
    match office.answer(request, client).await? {
        Reply::Settings(shown) => Ok(reply::json(StatusCode::OK, &shown, false)),
        _ => Err(Failure::bad("the body holds no settings; send {\"ttl\":\"10s\"}")),
    }
}
