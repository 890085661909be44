//! `/v1/agent/`: what is on the client's own host, and the way in.

use std::collections::BTreeMap;

use axum::body::Bytes;
use axum::extract::{Path, RawQuery};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};

use super::decode;
use super::filter::Filter;
use super::shapes::{AGENT_ALIVE, AgentService, HealthCheck, NODE_MAINTENANCE, SERVICE_MAINTENANCE};
use super::{Client, Office, State, by_key, unknown_service};
use crate::http::query::{Query, Reading};
use crate::http::reply::{self, Failure, done};
use crate::instance::{Health, Host};
use crate::journal::Topic;
use crate::name::{HostName, fnv};
use crate::protocol::NodeShown;
use crate::registry::{Command, Report, ReportOf, Subject, Unlisted};
use crate::view::Member;

const REASON: HeaderName = HeaderName::from_static("x-consul-reason");
const CONTENT_HASH: HeaderName = HeaderName::from_static("x-consul-contenthash");

pub async fn itself(office: State, client: Client, RawQuery(query): RawQuery) -> Response {
    let node = office.own_node(&client.peer.host);
    let value = json!({
        "Config": {
            "Datacenter": node.datacenter, "PrimaryDatacenter": node.datacenter, "NodeName": node.node,
            "NodeID": node.id, "Revision": "", "Server": true, "Version": VERSION, "BuildDate": BUILD_DATE,
        },
        "DebugConfig": {},
        "Coord": {},
        "Member": member(&node),
        "Stats": {"agent": {"services": office.desk.view.on_host(&client.peer.host).len().to_string()}},
        "Meta": node.meta,
        "xDS": {},
    });
    reply::json(StatusCode::OK, &value, Query::of(query.as_deref()).has("pretty"))
}

/// The version of Consul whose manners these are; the `+` says who it is.
const VERSION: &str = concat!("1.22.0+callsign.", env!("CARGO_PKG_VERSION"));
const BUILD_DATE: &str = "1970-01-01T00:00:01Z";

fn member(node: &super::shapes::Node) -> Value {
    json!({
        "Name": node.node, "Addr": node.address, "Port": 8301,
        "Tags": {"role": "consul", "dc": node.datacenter, "id": node.id, "port": "8300", "build": VERSION, "segment": "", "vsn": "2",
            "vsn_min": "2", "vsn_max": "3"},
        "Status": 1, "ProtocolMin": 1, "ProtocolMax": 5, "ProtocolCur": 2, "DelegateMin": 2, "DelegateMax": 5,
        "DelegateCur": 4,
    })
}

/// One of several nodes, as a member; with an id of its own, and what `nodes` says of it among its tags.
fn shown(own: &super::shapes::Node, shown: &NodeShown) -> Value {
    let node = &shown.node;
    let address = node.addresses.first().map_or_else(|| own.address.clone(), |address| address.to_string());
    let id = super::shapes::node_id(&node.name);
    let mut member = member(&super::shapes::Node { id, node: node.name.clone(), address, ..own.clone() });
    if !shown.alive {
        member["Status"] = FAILED.into();
    }
    let said = [("revision", shown.revision), ("lag", shown.lag), ("slots", Some(node.slots as u64))];
    for (tag, number) in said {
        if let Some(number) = number {
            member["Tags"][tag] = number.to_string().into();
        }
    }
    member
}

/// Consul's word for a member that is away and was not asked to leave.
const FAILED: u8 = 4;

pub async fn members(office: State) -> Response {
    let own = office.own_node(&office.desk.host);
    let members: Vec<Value> = match office.desk.view.nodes().is_empty() {
        true => vec![member(&own)],
        false => office.desk.nodes().await.nodes.iter().map(|node| shown(&own, node)).collect(),
    };
    reply::json(StatusCode::OK, &members, false)
}

pub async fn version() -> Response {
    let value = json!({"SHA": "", "BuildDate": BUILD_DATE, "HumanVersion": VERSION, "FIPS": ""});
    reply::json(StatusCode::OK, &value, false)
}

pub async fn host(office: State) -> Response {
    let value = json!({"Host": {"hostname": office.desk.host.as_str(), "os": std::env::consts::OS}});
    reply::json(StatusCode::OK, &value, false)
}

pub async fn services(office: State, client: Client, RawQuery(query): RawQuery) -> Result<Response, Failure> {
    let query = Query::of(query.as_deref());
    let filter = Filter::of(&query)?;
    let members = office.desk.view.on_host(&client.peer.host);
    let services = members.iter().map(|member| office.agent_service(&member.instance));
    let mut shown = BTreeMap::new();
    for service in services {
        if filter.matches(&service)? {
            shown.insert(service.id.clone(), service);
        }
    }
    Ok(reply::json(StatusCode::OK, &shown, query.has("pretty")))
}

pub async fn service(
    office: State,
    client: Client,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Failure> {
    let query = Query::of(query.as_deref());
    let reading = Reading::of(&query, &office)?;
    let unknown = || Failure::not_found(format!("unknown service ID: {}", id.escape_debug()));
    let shown = |member: Member| {
        let mut service = office.agent_service(&member.instance);
        let octets = serde_json::to_vec(&service).unwrap_or_default();
        let hash = format!("{:016x}", fnv(&[&octets]));
        service.content_hash = Some(hash.clone());
        (service, hash)
    };
    let (mut service, mut hash) = shown(office.on_agent(&id, &client).ok_or_else(unknown)?);
    if query.get("hash") == Some(&hash) {
        // Another content is a newer one.
        let name = crate::name::ServiceName::parse(&service.service).map_err(|_| unknown())?;
        let known = hash.clone();
        let changed = |_: &crate::view::View| match office.on_agent(&id, &client).map(shown) {
            Some((_, hash)) if hash == known => 0,
            _ => u64::MAX,
        };
        reading.wait_above(1, &office, Topic::Service(&name), &client.closing, changed).await?;
        (service, hash) = shown(office.on_agent(&id, &client).ok_or_else(unknown)?);
        // The id may be another service's by now, which nobody has asked whether this client may read.
        if service.service != name.as_str() {
            return Err(unknown());
        }
    }
    let mut response = reply::json(StatusCode::OK, &service, reading.pretty);
    if let Ok(hash) = HeaderValue::from_str(&hash) {
        response.headers_mut().insert(CONTENT_HASH, hash);
    }
    Ok(response)
}

pub async fn checks(office: State, client: Client, RawQuery(query): RawQuery) -> Result<Response, Failure> {
    let query = Query::of(query.as_deref());
    let filter = Filter::of(&query)?;
    let host = &client.peer.host;
    let said = office.desk.view.host(host);
    let checks = office.agent_checks(host, said.as_deref(), &office.desk.view.on_host(host));
    let mut shown = BTreeMap::new();
    for check in checks {
        if filter.matches(&check)? {
            shown.insert(check.check_id.clone(), check);
        }
    }
    Ok(reply::json(StatusCode::OK, &shown, query.has("pretty")))
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Aggregate {
    aggregated_status: &'static str,
    service: AgentService,
    checks: Vec<HealthCheck>,
}

impl Office {
    fn own_node(&self, host: &HostName) -> super::shapes::Node {
        self.node(host, self.desk.view.host(host).as_deref(), None)
    }

    /// A host's checks and those of some of its instances, as its agent lists them: without the check of itself,
    /// and without indexes.
    fn agent_checks(&self, host: &HostName, said: Option<&Host>, members: &[Member]) -> Vec<HealthCheck> {
        let mut checks = self.host_checks(host, said);
        checks.retain(|check| check.check_id != AGENT_ALIVE);
        checks.extend(members.iter().flat_map(|member| self.own_checks(member)));
        for check in &mut checks {
            (check.create_index, check.modify_index) = (0, 0);
        }
        checks
    }

    fn aggregate(&self, member: &Member) -> Aggregate {
        let host = &member.instance.key.host;
        let checks = self.agent_checks(host, member.host.as_deref(), std::slice::from_ref(member));
        let draining = member.instance.draining;
        let health = if draining { Health::Maintenance } else { member.health };
        Aggregate {
            aggregated_status: health.as_str(),
            service: self.agent_service(&member.instance),
            checks,
        }
    }
}

/// The status that load balancers look at.
fn code(aggregated: &str) -> StatusCode {
    match aggregated {
        "passing" => StatusCode::OK,
        "warning" => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn aggregated(status: &'static str, value: &impl Serialize, query: &Query) -> Response {
    let mut response = match query.get("format") {
        Some("text") => (code(status), status).into_response(),
        _ => reply::json(code(status), value, query.has("pretty")),
    };
    response.headers_mut().insert(REASON, HeaderValue::from_static(status));
    response
}

fn no_such(reason: String, body: Value, query: &Query) -> Response {
    let mut response = match query.get("format") {
        Some("text") => (StatusCode::NOT_FOUND, reason.clone()).into_response(),
        _ => reply::json(StatusCode::NOT_FOUND, &body, query.has("pretty")),
    };
    if let Ok(reason) = HeaderValue::from_str(&reason) {
        response.headers_mut().insert(REASON, reason);
    }
    response
}

pub async fn health_by_id(
    office: State,
    client: Client,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    let query = Query::of(query.as_deref());
    match office.on_agent(&id, &client) {
        Some(member) => {
            let shown = office.aggregate(&member);
            aggregated(shown.aggregated_status, &shown, &query)
        }
        None => {
            let body = json!({"AggregatedStatus": "critical", "Service": null, "Checks": []});
            no_such(format!("ServiceId {} not found", id.escape_debug()), body, &query)
        }
    }
}

pub async fn health_by_name(
    office: State,
    client: Client,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    let query = Query::of(query.as_deref());
    let view = office.desk.view.service(&name.to_ascii_lowercase());
    let members = view.iter().flat_map(|view| &view.members);
    let here: Vec<Aggregate> = members
        .filter(|member| member.instance.key.host == client.peer.host)
        .map(|member| office.aggregate(member))
        .collect();
    let severity =
        |status: &str| ["passing", "warning", "critical", "maintenance"].iter().position(|it| *it == status);
    match here.iter().map(|shown| shown.aggregated_status).max_by_key(|status| severity(status)) {
        Some(worst) => aggregated(worst, &here, &query),
        None => no_such(format!("ServiceName {} Not Found", name.escape_debug()), json!([]), &query),
    }
}

pub async fn register(
    office: State,
    client: Client,
    RawQuery(query): RawQuery,
    body: Bytes,
) -> Result<Response, Failure> {
    let replace = Query::of(query.as_deref()).flag("replace-existing-checks")?;
    let value = decode::object(&body)?;
    let mut registration = office.agent_definition(&client.peer, &value)?;
    registration.unlisted = if replace { Unlisted::Go } else { Unlisted::Stay };
    let displaced = office.on_agent(registration.key.id.as_str(), &client).map(|member| member.instance);
    registration.displaces = displaced
        .filter(|other| other.consul.as_ref().is_some_and(|facts| !facts.through_catalog))
        .filter(|other| other.key.service != registration.key.service)
        .map(|other| other.key.clone());
    office.carry_out(Command::Register(Box::new(registration)), &client).await?;
    Ok(done())
}

pub async fn deregister(office: State, client: Client, Path(id): Path<String>) -> Result<Response, Failure> {
    let key = office.known_on_agent(&id, &client)?.instance.key.clone();
    let done_ = office.carry_out(Command::Deregister(by_key(key)), &client).await?;
    if done_.changes.is_empty() { Err(unknown_service(&id)) } else { Ok(done()) }
}

/// `?enable=true&reason=why`
fn wanted(query: Option<&str>) -> Result<(bool, String), Failure> {
    let query = Query::of(query);
    let Some(given) = query.get("enable") else { return Err(Failure::bad("Missing value for enable")) };
    let invalid = || Failure::bad(format!("Invalid value for enable: {given:?}"));
    if given.is_empty() {
        return Err(invalid());
    }
    let enable = query.flag("enable").map_err(|_| invalid())?;
    Ok((enable, query.get("reason").unwrap_or_default().to_owned()))
}

fn maintenance(on: Subject, check: String, enable: bool, reason: String) -> Command {
    let check = check.into();
    let what = match &on {
        Subject::Instance(_) => "service",
        Subject::Host(_) => "node",
    };
    match enable {
        true => {
            let output = match reason.as_str() {
                "" => format!(
                    "Maintenance mode is enabled for this {what}, but no reason was provided. This is a default message."
                )
                .into(),
                reason => reason.into(),
            };
            Command::Report(Report { on, check, status: Health::Maintenance, output, of: ReportOf::Any })
        }
        false => Command::RemoveCheck { on, check },
    }
}

pub async fn service_maintenance(
    office: State,
    client: Client,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Failure> {
    let (enable, reason) = wanted(query.as_deref())?;
    let member = office.known_on_agent(&id, &client)?;
    let on = Subject::Instance(by_key(member.instance.key.clone()));
    let command = maintenance(on, format!("{SERVICE_MAINTENANCE}{id}"), enable, reason);
    office.carry_out(command, &client).await?;
    Ok(done())
}

pub async fn node_maintenance(
    office: State,
    client: Client,
    RawQuery(query): RawQuery,
) -> Result<Response, Failure> {
    let (enable, reason) = wanted(query.as_deref())?;
    let on = Subject::Host(client.peer.host.clone());
    office.carry_out(maintenance(on, NODE_MAINTENANCE.to_owned(), enable, reason), &client).await?;
    Ok(done())
}
