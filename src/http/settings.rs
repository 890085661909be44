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
use crate::protocol::{Request, SettingsForm, SettingsReply, SettingsShown, decode};
use crate::registry::Command;

pub fn router() -> Router<Arc<Office>> {
    Router::new().route("/v1/settings/{service}", get(show).put(set))
}

async fn show(State(office): State<Arc<Office>>, Path(service): Path<String>) -> Result<Response, Failure> {
    let form = SettingsForm { service, ..SettingsForm::default() };
    let (service, _) = form.configuration(&office.desk.view.settings.apexes)?;
    Ok(office.settings(&service))
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
    let Request::Settings(form) = decode(request.as_bytes())? else {
        return Err(Failure::bad("the body holds no settings; send {\"ttl\":\"10s\"}"));
    };
    let (service, configuration) = form.configuration(&office.desk.view.settings.apexes)?;
    if let Some(configuration) = configuration {
        office.carry_out(Command::Configure(configuration), &client).await?;
    }
    Ok(office.settings(&service))
}

impl Office {
    fn settings(&self, service: &crate::name::ServiceName) -> Response {
        let view = &self.desk.view;
        let settings = SettingsShown::of(&view.settings_of(service));
        let shown = SettingsReply { service: service.to_string(), settings, revision: view.revision() };
        reply::json(StatusCode::OK, &shown, false)
    }
}
