//! Replies: JSON as Consul writes it, and complaints as plain text.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::protocol::Problem;
use crate::registry::Refusal;

pub const INDEX: HeaderName = HeaderName::from_static("x-consul-index");
const KNOWN_LEADER: HeaderName = HeaderName::from_static("x-consul-knownleader");
const LAST_CONTACT: HeaderName = HeaderName::from_static("x-consul-lastcontact");
const BACKEND: HeaderName = HeaderName::from_static("x-consul-query-backend");
const CONSISTENCY: HeaderName = HeaderName::from_static("x-consul-effective-consistency");
const ACL_POLICY: HeaderName = HeaderName::from_static("x-consul-default-acl-policy");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A request that is not carried out: a status, and a sentence.
#[derive(Debug)]
pub struct Failure {
    status: StatusCode,
    text: String,
    /// The methods that would have done.
    allow: Option<&'static str>,
    /// The connection is closed behind it.
    closes: bool,
}

impl Failure {
    pub fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into(), allow: None, closes: false }
    }

    pub fn bad(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    pub fn not_found(text: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, text)
    }

    pub fn text(self) -> String {
        self.text
    }

    pub fn stopping() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping; try again when it is back")
    }

    pub fn closing(self) -> Self {
        Self { closes: true, ..self }
    }

    pub fn allowing(self, methods: &'static str) -> Self {
        Self { allow: Some(methods), ..self }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.text).into_response();
        if let Some(methods) = self.allow {
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(methods));
        }
        if self.closes {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        common(response.headers_mut());
        response
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::new(status_of(&problem.code), problem.message)
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Denied(denied) => denied.into(),
            refusal => Self::new(status_of(refusal.code()), refusal.to_string()),
        }
    }
}

/// The status that goes with a code of the protocol.
pub fn status_of(code: &str) -> StatusCode {
    match code {
        "not_found" => StatusCode::NOT_FOUND,
        "denied" => StatusCode::FORBIDDEN,
        "unavailable" => StatusCode::SERVICE_UNAVAILABLE,
        "superseded" | "taken" | "differs" => StatusCode::CONFLICT,
        "full" => StatusCode::INSUFFICIENT_STORAGE,
        _ => StatusCode::BAD_REQUEST,
    }
}

/// A body of JSON; `pretty` as `?pretty` asks for it.
pub fn json(status: StatusCode, value: &impl Serialize, pretty: bool) -> Response {
    let octets = match pretty {
        true => serde_json::to_vec_pretty(value),
        false => serde_json::to_vec(value),
    };
    match octets {
        Ok(octets) => {
            let mut response = Response::new(Body::from(octets));
            *response.status_mut() = status;
            response.headers_mut().insert(header::CONTENT_TYPE, JSON);
            common(response.headers_mut());
            response
        }
        // Every form is made of texts and numbers with text keys, which JSON can always hold.
        Err(error) => Failure::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Done, and nothing to say.
pub fn done() -> Response {
    let mut response = Response::new(Body::empty());
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    common(response.headers_mut());
    response
}

/// The answer to OPTIONS.
pub fn allowing(methods: &'static str) -> Response {
    let mut response = done();
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(methods));
    response
}

/// What every read of the catalog carries; clients stop reading where one of them is missing.
pub fn indexed(mut response: Response, index: u64, consistency: &'static str) -> Response {
    let headers = response.headers_mut();
    headers.insert(INDEX, HeaderValue::from(index));
    headers.insert(KNOWN_LEADER, HeaderValue::from_static("true"));
    headers.insert(LAST_CONTACT, HeaderValue::from_static("0"));
    headers.insert(BACKEND, HeaderValue::from_static("blocking-query"));
    headers.insert(CONSISTENCY, HeaderValue::from_static(consistency));
    response
}

fn common(headers: &mut HeaderMap) {
    headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    headers.insert(ACL_POLICY, HeaderValue::from_static("allow"));
    // What is shown is foreign text, whatever a browser thinks that it is.
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}
