//! Consul's HTTP API: what its clients use of agent, catalog, health and status, with its exact manners.
//!
//! The instances, leases and checks underneath are ours, and there is no second registry. What Consul does beyond
//! discovery (KV, sessions, Connect, prepared queries, ACLs) is answered clearly.

mod agent;
mod catalog;
mod check;
mod decode;
mod definition;
mod filter;
pub mod go;
mod health;
mod read;
mod shapes;

use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{MethodRouter, any, get, put};

use super::dashboard::PAGE;
use super::reply::Failure;
use super::{Client, Office};
use crate::instance::Key;
use crate::name::{HostName, InstanceId};
use crate::protocol::Peer;
use crate::registry::{Refusal, Registration};
use crate::view::Member;

type State = axum::extract::State<Arc<Office>>;

pub fn router() -> Router<Arc<Office>> {
    Router::new()
        .route("/", get(welcome))
        .route("/v1/agent/self", read(get(agent::itself)))
        .route("/v1/agent/members", read(get(agent::members)))
        .route("/v1/agent/version", read(get(agent::version)))
        .route("/v1/agent/host", read(get(agent::host)))
        .route("/v1/agent/services", read(get(agent::services)))
        .route("/v1/agent/service/{*id}", read(get(agent::service)))
        .route("/v1/agent/checks", read(get(agent::checks)))
        .route("/v1/agent/health/service/id/{*id}", read(get(agent::health_by_id)))
        .route("/v1/agent/health/service/name/{*name}", read(get(agent::health_by_name)))
        .route("/v1/agent/service/register", write(put(agent::register)))
        .route("/v1/agent/service/deregister/{*id}", write(put(agent::deregister)))
        .route("/v1/agent/service/maintenance/{*id}", write(put(agent::service_maintenance)))
        .route("/v1/agent/maintenance", write(put(agent::node_maintenance)))
        .route("/v1/agent/check/register", write(put(check::register)))
        .route("/v1/agent/check/deregister/{*id}", write(put(check::deregister)))
        .route("/v1/agent/check/pass/{*id}", write(put(check::pass)))
        .route("/v1/agent/check/warn/{*id}", write(put(check::warn)))
        .route("/v1/agent/check/fail/{*id}", write(put(check::fail)))
        .route("/v1/agent/check/update/{*id}", write(put(check::update)))
        .route("/v1/catalog/register", write(put(catalog::register)))
        .route("/v1/catalog/deregister", write(put(catalog::deregister)))
        .route("/v1/catalog/datacenters", read(get(catalog::datacenters)))
        .route("/v1/catalog/nodes", read(get(catalog::nodes)))
        .route("/v1/catalog/services", read(get(catalog::services)))
        .route("/v1/catalog/service/{*name}", read(get(catalog::service)))
        .route("/v1/catalog/node/{*node}", read(get(catalog::node)))
        .route("/v1/catalog/node-services/{*node}", read(get(catalog::node_services)))
        .route("/v1/health/node/{*node}", read(get(health::node)))
        .route("/v1/health/checks/{*service}", read(get(health::checks)))
        .route("/v1/health/service/{*service}", read(get(health::service)))
        .route("/v1/health/state/{*state}", read(get(health::state)))
        .route("/v1/status/leader", read(get(leader)))
        .route("/v1/status/peers", read(get(peers)))
        .route("/v1/acl/{*rest}", any(no_acl))
        .merge(nameless())
}

/// Paths that end where a name should be.
fn nameless() -> Router<Arc<Office>> {
    let missing = |what: &'static str| read(get(move || async move { Failure::bad(what) }));
    let mut router = Router::new()
        .route("/v1/catalog/service/", missing("Missing service name"))
        .route("/v1/health/service/", missing("Missing service name"))
        .route("/v1/health/checks/", missing("Missing service name"))
        .route("/v1/health/state/", missing("Missing check state"))
        .route("/v1/health/node/", missing("Missing node name"))
        .route("/v1/catalog/node/", missing("Missing node name"))
        .route("/v1/catalog/node-services/", missing("Missing node name"))
        .route("/v1/agent/service/", read(get(async || Failure::not_found("unknown service ID: "))))
        .route("/v1/agent/service/deregister/", write(put(async || unknown_service(""))))
        .route("/v1/agent/service/maintenance/", write(put(async || Failure::bad("Missing service ID"))));
    for verb in ["deregister", "pass", "warn", "fail", "update"] {
        let path = format!("/v1/agent/check/{verb}/");
        router = router.route(&path, write(put(async || unknown_check(""))));
    }
    router
}

fn read(route: MethodRouter<Arc<Office>>) -> MethodRouter<Arc<Office>> {
    allowing(route, "OPTIONS,GET")
}

fn write(route: MethodRouter<Arc<Office>>) -> MethodRouter<Arc<Office>> {
    allowing(route, "OPTIONS,PUT")
}

/// Another method is answered as Consul does, with what is allowed.
fn allowing(route: MethodRouter<Arc<Office>>, methods: &'static str) -> MethodRouter<Arc<Office>> {
    route.fallback(move |method: axum::http::Method| async move {
        if method == axum::http::Method::OPTIONS {
            return super::reply::allowing(methods);
        }
        let text = format!("method {method} not allowed");
        Failure::new(StatusCode::METHOD_NOT_ALLOWED, text).allowing(methods).into_response()
    })
}

/// A browser is led to the dashboard.
async fn welcome(headers: HeaderMap) -> Response {
    let accepts = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accepts.contains("text/html") {
        return Redirect::to(PAGE).into_response();
    }
    "callsign. The dashboard is at /ui/. Consul's agent, catalog, health and status API is under /v1/; see docs/consul.md.\n"
        .into_response()
}

/// What is no endpoint, and what is Consul's and not ours.
pub async fn unknown(uri: Uri) -> Failure {
    let part = uri.path().strip_prefix("/v1/").and_then(|path| path.split('/').next()).unwrap_or_default();
    let what = match part {
        "kv" | "txn" => "callsign keeps no keys and values; it registers services and answers DNS",
        "session" => {
            "callsign has no sessions; a lease with `\"lease\":\"connection\"` ends with its connection"
        }
        "connect" | "config" | "exported-services" | "intentions" => "callsign is no service mesh",
        "query" => "callsign has no prepared queries; ask /v1/health/service/<name>?passing",
        "event" | "coordinate" | "operator" | "snapshot" | "peering" | "peerings" => {
            "callsign has no such part of Consul"
        }
        _ => "Invalid URL path: not a recognized HTTP API endpoint\n",
    };
    Failure::not_found(what)
}

async fn no_acl() -> Failure {
    Failure::new(StatusCode::UNAUTHORIZED, "ACL support disabled")
}

async fn leader() -> Response {
    super::reply::json(StatusCode::OK, &LEADER, false)
}

async fn peers() -> Response {
    super::reply::json(StatusCode::OK, &[LEADER], false)
}

/// Clients want an address here; ours is nobody's to speak to.
const LEADER: &str = "127.0.0.1:8300";

impl Office {
    /// Every host that somebody is on or spoke of, and this server's own, in order.
    fn hosts(&self) -> Vec<HostName> {
        let mut names = self.desk.view.hosts();
        if let Err(at) = names.binary_search(&self.desk.host) {
            names.insert(at, self.desk.host.clone());
        }
        names
    }

    /// The instance with this id on the client's host: one that an agent's client registered before one of the catalog, where
    /// anybody may name any host, and that before another.
    pub(super) fn on_agent(&self, id: &str, client: &Client) -> Option<Member> {
        let id = InstanceId::parse(id).ok()?;
        let mut members = self.desk.view.by_id(&id);
        members.retain(|member| member.instance.key.host == client.peer.host);
        let came = |through_catalog: bool| {
            let facts = |member: &Member| member.instance.consul.as_ref().map(|facts| facts.through_catalog);
            members.iter().position(|member| facts(member) == Some(through_catalog))
        };
        let at = came(false).or_else(|| came(true)).unwrap_or(0);
        (at < members.len()).then(|| members.swap_remove(at))
    }

    fn known_on_agent(&self, id: &str, client: &Client) -> Result<Member, Failure> {
        self.on_agent(id, client).ok_or_else(|| unknown_service(id))
    }
}

impl Office {
    /// What a service definition of Consul's registers on the host of `peer`.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in words.
    pub fn service_definition(&self, value: &serde_json::Value, peer: &Peer) -> Result<Registration, String> {
        self.agent_definition(peer, value).map_err(Failure::text)
    }

    fn agent_definition(&self, peer: &Peer, value: &serde_json::Value) -> Result<Registration, Failure> {
        let host = peer.host.clone();
        let node = self.node_addresses(&host, self.desk.view.host(&host).as_deref(), None);
        definition::Definition { office: self, host, node, through_catalog: false }.registration(value, peer)
    }
}

fn unknown_service(id: &str) -> Failure {
    let id = id.escape_debug();
    Failure::not_found(format!(
        "Unknown service ID \"{id}\". Ensure that the service ID is passed, not the service name."
    ))
}

fn unknown_check(id: &str) -> Failure {
    let id = id.escape_debug();
    Failure::not_found(format!(
        "Unknown check ID \"{id}\". Ensure that the check ID is passed, not the check name."
    ))
}

/// A holder of an instance who has no lease id.
fn by_key(key: Key) -> crate::registry::Holder {
    crate::registry::Holder { key, lease_id: None }
}

/// A lost race is what the client would have heard had it come later.
fn gone(failure: Refusal, id: &str) -> Failure {
    match failure {
        Refusal::NotFound(_) => unknown_service(id),
        Refusal::NoCheck(..) => unknown_check(id),
        other => other.into(),
    }
}
