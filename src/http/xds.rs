//! xDS for who polls: `POST /v3/discovery:endpoints` and the like, requests and responses in JSON.
//!
//! The version of a response is a hash of what is in it, so that who has it already hears 304, whoever it was that told.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::json;

use super::Office;
use super::reply::{self, Failure};
use crate::xds::request::Request;
use crate::xds::resources::{self, LISTEN_DEFAULT, Setting, Source};
use crate::xds::session::{NAMES_MAX, fingerprint};
use crate::xds::{Kind, WILDCARD};

pub fn router() -> Router<Arc<Office>> {
    Kind::ALL.into_iter().fold(Router::new(), |router, kind| {
        let path = format!("/v3/discovery:{}", kind.plural());
        router.route(&path, post(async move |office, body| discover(office, kind, body)))
    })
}

/// Not sure means 503: who polls keeps what it has.
fn discover(State(office): State<Arc<Office>>, kind: Kind, body: Bytes) -> Result<Response, Failure> {
    let view = &office.desk.view;
    if !view.is_ready() {
        let text = "the registry is not loaded yet; try again";
        return Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, text));
    }
    let request = Request::of_json(&body)
        .map_err(|error| Failure::bad(format!("the body is no DiscoveryRequest in JSON: {error}")))?;
    if !request.type_url.is_empty() && request.kind(None) != Some(kind) {
        let text =
            format!("type_url is `{}`; here it is {}", request.type_url.escape_debug(), kind.type_url());
        return Err(Failure::bad(text));
    }
    if request.names.len() > NAMES_MAX {
        let text = format!("resource_names has {} names, and may have {NAMES_MAX}", request.names.len());
        return Err(Failure::bad(text));
    }
    let mut names: BTreeSet<String> = request.names.into_iter().collect();
    if names.is_empty() || names.remove(WILDCARD) {
        names.extend(resources::names(view, kind));
    }
    let node = request.node.unwrap_or_default();
    let listen = node.listen.unwrap_or(LISTEN_DEFAULT);
    let setting = Setting { source: Source::Rest, listen, region: node.region };
    let resource = |name: &String| resources::resource(view, kind, name, &setting, |_| true);
    let resources: Vec<_> = names
        .iter()
        .filter_map(resource)
        .map(|message| {
            let mut fields = message.json();
            fields.insert("@type".to_owned(), kind.type_url().into());
            fields
        })
        .collect();
    let version = format!("{:x}", fingerprint(json!(resources).to_string().as_bytes()));
    if request.version == version {
        return Ok(StatusCode::NOT_MODIFIED.into_response());
    }
    let response = json!({"version_info": version, "type_url": kind.type_url(), "resources": resources});
    Ok(reply::json(StatusCode::OK, &response, false))
}
