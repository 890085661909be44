//! Who asks over HTTP, and what for: the token that a request carries, and the verb that a read needs.
//!
//! A change is judged by the writer, where it is known whose the instance is. What only reads is judged here, by the
//! route that it matched and the parameters as the router has decoded them: a name spelt in another way is the same.

use axum::extract::{MatchedPath, RawPathParams, Request};
use axum::http::{HeaderMap, Method, StatusCode, header};

use super::health::{HEALTHZ, READYZ};
use super::query::Query;
use super::reply::Failure;
use super::{Client, Office, answer, ask, dashboard};
use crate::access::{Denied, Identity, On, Verb};

/// Paths that tell nothing of what is registered, and that programs and browsers ask before they have a token; and
/// two that judge by what they are asked about.
const OF_NOTHING: [&str; 13] = [
    "/",
    HEALTHZ,
    READYZ,
    "/ui",
    dashboard::PAGE,
    dashboard::FILE,
    answer::PATH,
    ask::PATH,
    ask::ACCESS,
    "/v1/status/leader",
    "/v1/status/peers",
    "/v1/agent/version",
    "/v1/catalog/datacenters",
];

/// What a request needs that changes nothing.
pub struct Need {
    pub verb: Verb,
    /// None: every service.
    pub service: Option<String>,
}

impl Need {
    pub fn on(&self) -> On<'_> {
        self.service.as_deref().map_or(On::Everything, On::Service)
    }

    /// What a request needs; none where it changes something, or asks for nothing that is registered.
    pub fn of(
        office: &Office,
        client: &Client,
        request: &Request,
        params: Option<&RawPathParams>,
    ) -> Option<Self> {
        let path = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
        if matches!(*request.method(), Method::PUT | Method::OPTIONS) || OF_NOTHING.contains(&path) {
            return None;
        }
        let param = |names: &[&str]| {
            let mut all = params.into_iter().flatten();
            all.find(|(name, _)| names.contains(name)).map(|(_, value)| value.to_owned())
        };
        let query = || Query::of(request.uri().query());
        let service = match path {
            "/sd/prometheus" => query().get("service").filter(|name| !name.is_empty()).map(str::to_owned),
            path if path.contains("{*id}") => param(&["id"])
                .and_then(|id| office.on_agent(&id, client))
                .map(|member| member.instance.key.service.to_string()),
            _ => param(&["service", "name"]).map(|name| office.service_name(&name)),
        };
        let verb = if path.starts_with("/v1/watch") { Verb::Watch } else { Verb::Read };
        Some(Self { verb, service })
    }
}

/// The token that a request carries, where Consul's clients put it: `?token=`, `X-Consul-Token`, `Authorization: Bearer`.
///
/// # Errors
///
/// A header is no text.
pub fn token(headers: &HeaderMap, query: Option<&str>) -> Result<Option<String>, Failure> {
    let query = Query::of(query);
    let text = |name: &str| {
        let unfit = |_| Failure::bad(format!("the header {name} is no text"));
        headers.get(name).map(|value| value.to_str().map(str::to_owned).map_err(unfit)).transpose()
    };
    let bearer = text(header::AUTHORIZATION.as_str())?;
    let bearer = bearer.and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
    });
    let given = [query.get("token").map(str::to_owned), text("x-consul-token")?, bearer];
    Ok(given.into_iter().flatten().find(|token| !token.is_empty()))
}

impl Office {
    /// Who asks, by the token where there is one.
    ///
    /// # Errors
    ///
    /// The token is none of ours.
    pub fn identify(
        &self,
        who: &Identity,
        headers: &HeaderMap,
        query: Option<&str>,
    ) -> Result<Identity, Failure> {
        match token(headers, query)? {
            None => Ok(who.clone()),
            Some(token) => Ok(self.desk.identify(who, &token)?),
        }
    }
}

impl From<Denied> for Failure {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::TooMany => Self::new(StatusCode::TOO_MANY_REQUESTS, denied.to_string()).closing(),
            // What Consul's clients look for in a refusal.
            denied => Self::new(StatusCode::FORBIDDEN, format!("Permission denied: {denied}")),
        }
    }
}
