//! `/v1/agent/`: what is on the client's own host, and the way in.

use std::collections::BTreeMap;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Path, RawQuery};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};

use super::decode::{self, Fields};
use super::filter::Filter;
use super::shapes::{AgentService, HealthCheck, NODE_MAINTENANCE, SERVICE_MAINTENANCE, check_id};
use super::{Client, Office, State, by_key, gone, unknown_check, unknown_service};
use crate::http::query::{Query, Reading};
use crate::http::reply::{self, Failure, done};
use crate::instance::{ConsulFacts, Health};
use crate::journal::Topic;
use crate::name::{HostName, fnv};
use crate::protocol::{CheckForm, Pairs, Peer, RegisterForm, Several};
use crate::registry::{Command, ListedCheck, Registration, Report, Subject};
use crate::view::Member;

const REASON: HeaderName = HeaderName::from_static("x-consul-reason");
const CONTENT_HASH: HeaderName = HeaderName::from_static("x-consul-contenthash");

/// What a service definition may say.
pub const SERVICE_FIELDS: &[&str] = &[
    "ID",
    "Name",
    "Service",
    "Kind",
    "Tags",
    "Port",
    "Ports",
    "Address",
    "SocketPath",
    "TaggedAddresses",
    "Meta",
    "Weights",
    "EnableTagOverride",
    "Check",
    "Checks",
    "Proxy",
    "Connect",
    "Namespace",
    "Partition",
    "Locality",
    "Token",
    "EnterpriseMeta",
];

pub async fn itself(
    office: State,
    Extension(client): Extension<Client>,
    RawQuery(query): RawQuery,
) -> Response {
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

pub async fn members(office: State) -> Response {
    let node = office.own_node(&office.desk.host);
    reply::json(StatusCode::OK, &[member(&node)], false)
}

pub async fn version() -> Response {
    let value = json!({"SHA": "", "BuildDate": BUILD_DATE, "HumanVersion": VERSION, "FIPS": ""});
    reply::json(StatusCode::OK, &value, false)
}

pub async fn host(office: State) -> Response {
    let value = json!({"Host": {"hostname": office.desk.host.as_str(), "os": std::env::consts::OS}});
    reply::json(StatusCode::OK, &value, false)
}

pub async fn services(
    office: State,
    Extension(client): Extension<Client>,
    RawQuery(query): RawQuery,
) -> Result<Response, Failure> {
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
    Extension(client): Extension<Client>,
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
    }
    let mut response = reply::json(StatusCode::OK, &service, reading.pretty);
    if let Ok(hash) = HeaderValue::from_str(&hash) {
        response.headers_mut().insert(CONTENT_HASH, hash);
    }
    Ok(response)
}

pub async fn checks(
    office: State,
    Extension(client): Extension<Client>,
    RawQuery(query): RawQuery,
) -> Result<Response, Failure> {
    let query = Query::of(query.as_deref());
    let filter = Filter::of(&query)?;
    let host = &client.peer.host;
    let mut checks: Vec<HealthCheck> = office.host_checks(host, office.desk.view.host(host).as_deref());
    checks.retain(|check| check.check_id != "serfHealth"); // the agent's list has its own checks alone
    for member in office.desk.view.on_host(host) {
        checks.extend(office.own_checks(&member));
    }
    let mut shown = BTreeMap::new();
    for check in checks {
        let check = HealthCheck { create_index: 0, modify_index: 0, ..check };
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

    fn aggregate(&self, member: &Member) -> Aggregate {
        let mut checks = self.host_checks(&member.instance.key.host, member.host.as_deref());
        checks.retain(|check| check.check_id != "serfHealth");
        checks.extend(self.own_checks(member));
        for check in &mut checks {
            (check.create_index, check.modify_index) = (0, 0); // an agent has no indexes
        }
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
    Extension(client): Extension<Client>,
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
    Extension(client): Extension<Client>,
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
    Extension(client): Extension<Client>,
    RawQuery(query): RawQuery,
    body: Bytes,
) -> Result<Response, Failure> {
    let replace = Query::of(query.as_deref()).flag("replace-existing-checks")?;
    let value = decode::object(&body)?;
    let definition = Definition { office: &office, host: client.peer.host.clone(), through_catalog: false };
    let mut registration = definition.registration(&value, &client.peer)?;
    registration.keeps_checks = !replace;
    let displaced = office.on_agent(registration.key.id.as_str(), &client).map(|member| member.instance);
    registration.displaces = displaced
        .filter(|other| other.consul.is_some() && other.key.service != registration.key.service)
        .map(|other| other.key.clone());
    office.carry_out(Command::Register(Box::new(registration)), &client).await?;
    Ok(done())
}

/// A service definition as it is read: from the agent's or the catalog's endpoint.
pub struct Definition<'a> {
    pub office: &'a Office,
    pub host: HostName,
    pub through_catalog: bool,
}

impl Definition<'_> {
    pub fn registration(&self, value: &Value, peer: &Peer) -> Result<Registration, Failure> {
        let fields = Fields::of(value, SERVICE_FIELDS)?;
        for field in ["Kind", "SocketPath"] {
            if fields.text(field)?.is_some() {
                return Err(Failure::bad(format!(
                    "{field} is part of Consul's service mesh, and callsign has none; leave it out"
                )));
            }
        }
        if let Some(connect) = fields.get("Connect").and_then(Value::as_object)
            && connect.values().any(|value| !matches!(value, Value::Null | Value::Bool(false)))
        {
            return Err(Failure::bad(
                "Connect is Consul's service mesh, and callsign has none; leave it out",
            ));
        }
        let name = match fields.text("Name")? {
            Some(name) => Some(name),
            None => fields.text("Service")?,
        };
        let name = self.office.service_name(name.ok_or_else(|| Failure::bad("Missing service name"))?);
        let id = fields.text("ID")?.unwrap_or(&name).to_owned();
        let address = fields.text("Address")?.unwrap_or_default();
        let port = match fields.number("Port")? {
            None | Some(0) => None,
            Some(port) => Some(port),
        };
        let weights = weights(&fields)?;
        let facts = ConsulFacts {
            address: address.into(),
            tagged_addresses: tagged_addresses(&fields)?,
            weight_warning: weights.1,
            enable_tag_override: fields.flag("EnableTagOverride")?.unwrap_or(false),
            through_catalog: self.through_catalog,
        };
        let mut form = RegisterForm {
            service: name.clone(),
            id: Some(id.clone()),
            host: Some(self.host.to_string()),
            port,
            ports: port.is_none().then(|| Pairs(Vec::new())),
            tags: Some(fields.texts("Tags")?),
            meta: Some(Pairs(fields.pairs("Meta")?)),
            weight: Some(weights.0.into()),
            lease: Some("none".to_owned()),
            checks: Some(listed_checks(&fields, &id, &name)?),
            ..RegisterForm::default()
        };
        if address.is_empty() {
            let said = self.office.desk.view.host(&self.host);
            let node = self.office.node_addresses(&self.host, said.as_deref(), None);
            form.address = Some(Several(node.iter().map(|address| address.to_string()).collect()));
        } else if address == "localhost" || address.parse::<std::net::IpAddr>().is_ok() {
            if address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_unspecified()) {
                return Err(Failure::bad("Invalid service address"));
            }
            form.address = Some(Several(vec![address.to_owned()]));
        } else {
            form.target = Some(address.to_owned());
        }
        let mut registration = form.registration(peer, random()?)?;
        registration.consul = Some(std::sync::Arc::new(facts));
        registration.anonymous = true;
        Ok(registration)
    }
}

impl Office {
    /// The name as it is spelt here.
    pub fn service_name(&self, given: &str) -> String {
        match self.underscore_is_hyphen {
            true => given.replace('_', "-"),
            false => given.to_owned(),
        }
    }
}

fn random() -> Result<u64, Failure> {
    let mut octets = [0; 8];
    getrandom::fill(&mut octets).map_err(|error| {
        Failure::new(StatusCode::SERVICE_UNAVAILABLE, format!("no random number from the kernel: {error}"))
    })?;
    Ok(u64::from_be_bytes(octets))
}

/// Passing and warning; 1 each where nothing is said.
fn weights(fields: &Fields<'_>) -> Result<(u16, u16), Failure> {
    let Some(value) = fields.get("Weights") else { return Ok((1, 1)) };
    let weights = Fields::of(value, &["Passing", "Warning"])?;
    let invalid = |what: &str| Failure::bad(format!("Invalid Weights: {what}"));
    // What is left out of given weights is 0, as Go reads them.
    let weight = |name: &str| Ok::<i64, Failure>(weights.number(name)?.unwrap_or(0));
    let (passing, warning) = (weight("Passing")?, weight("Warning")?);
    if passing < 1 {
        return Err(invalid("Passing must be greater than 0"));
    }
    if warning < 0 {
        return Err(invalid("Warning must be greater or equal than 0"));
    }
    match (u16::try_from(passing), u16::try_from(warning)) {
        (Ok(passing), Ok(warning)) => Ok((passing, warning)),
        _ => Err(invalid("DNS Weight must be between 0 and 65535")),
    }
}

type TaggedAddresses = BTreeMap<std::sync::Arc<str>, (std::sync::Arc<str>, u16)>;

fn tagged_addresses(fields: &Fields<'_>) -> Result<TaggedAddresses, Failure> {
    let mut tagged = BTreeMap::new();
    let Some(Value::Object(given)) = fields.get("TaggedAddresses") else { return Ok(tagged) };
    if given.len() > crate::instance::ADDRESSES_MAX {
        let text = format!("TaggedAddresses may hold at most {} addresses", crate::instance::ADDRESSES_MAX);
        return Err(Failure::bad(text));
    }
    for (label, value) in given {
        let address = Fields::of(value, &["Address", "Port"])?;
        let port = u16::try_from(address.number("Port")?.unwrap_or(0)).map_err(|_| {
            Failure::bad(format!("TaggedAddresses: the port of {} must be 0 to 65535", label.escape_debug()))
        })?;
        let text = address.text("Address")?.unwrap_or_default();
        if text.len() > 255 || label.len() > 63 {
            return Err(Failure::bad("TaggedAddresses: a label has at most 63 octets, an address 255"));
        }
        tagged.insert(label.as_str().into(), (text.into(), port));
    }
    Ok(tagged)
}

/// `Check` and `Checks`; named after the service where they name themselves not.
fn listed_checks(fields: &Fields<'_>, id: &str, name: &str) -> Result<Vec<CheckForm>, Failure> {
    let mut given: Vec<&Value> = fields.get("Check").into_iter().collect();
    match fields.get("Checks") {
        None => {}
        Some(Value::Array(list)) => given.extend(list.iter().filter(|value| !value.is_null())),
        Some(_) => return Err(Failure::bad("Request decode failed: json: Checks must be a list")),
    }
    let mut checks = Vec::new();
    for (at, value) in given.iter().enumerate() {
        let own = match given.len() {
            1 => format!("service:{id}"),
            _ => format!("service:{id}:{}", at + 1),
        };
        checks.extend(decode::check(value, &own, &format!("Service '{name}' check"))?);
    }
    Ok(checks)
}

pub async fn deregister(
    office: State,
    Extension(client): Extension<Client>,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
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
            Command::Report(Report { on, check, status: Health::Maintenance, output, known_only: false })
        }
        false => Command::RemoveCheck { on, check },
    }
}

pub async fn service_maintenance(
    office: State,
    Extension(client): Extension<Client>,
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
    Extension(client): Extension<Client>,
    RawQuery(query): RawQuery,
) -> Result<Response, Failure> {
    let (enable, reason) = wanted(query.as_deref())?;
    let on = Subject::Host(client.peer.host.clone());
    office.carry_out(maintenance(on, NODE_MAINTENANCE.to_owned(), enable, reason), &client).await?;
    Ok(done())
}

pub async fn register_check(
    office: State,
    Extension(client): Extension<Client>,
    body: Bytes,
) -> Result<Response, Failure> {
    let value = decode::object(&body)?;
    let fields = Fields::of(&value, decode::CHECK_FIELDS)?;
    let name = fields.text("Name")?.ok_or_else(|| Failure::bad("Missing check name"))?;
    if fields.text("Status")?.is_some_and(|status| !decode::is_status(status)) {
        return Err(Failure::bad("Bad check status"));
    }
    let form = decode::check(&value, name, name)?
        .ok_or_else(|| Failure::bad("Invalid check: TTL must be > 0 for TTL checks"))?;
    let (on, of) = match fields.text("ServiceID")? {
        None => (Subject::Host(client.peer.host.clone()), "node".to_owned()),
        Some(id) => {
            let unknown =
                || Failure::not_found(format!("ServiceID \"{}\" does not exist", id.escape_debug()));
            let member = office.on_agent(id, &client).ok_or_else(unknown)?;
            (Subject::Instance(by_key(member.instance.key.clone())), id.to_owned())
        }
    };
    let listed: ListedCheck = form.listed("check")?;
    if of == "node" && listed.definition.deregister_after.is_some() {
        return Err(Failure::bad(
            "DeregisterCriticalServiceAfter is for checks of a service; give ServiceID",
        ));
    }
    office.carry_out(Command::AddCheck { on, listed }, &client).await?;
    Ok(done())
}

/// A check of the client's host or of an instance on it, by its id among all of them.
fn find_check(office: &Office, id: &str, client: &Client) -> Option<(Subject, std::sync::Arc<str>)> {
    let of_member = |member: &Member| {
        let instance = &member.instance;
        let check = instance.checks.iter().find(|check| check_id(instance, check) == id)?;
        Some((Subject::Instance(by_key(instance.key.clone())), check.id.clone()))
    };
    // Nearly every check is named after its instance, which is quicker found than the check.
    let named = id.strip_prefix("service:").into_iter().flat_map(|rest| {
        std::iter::successors(Some(rest), |rest| rest.rsplit_once(':').map(|(shorter, _)| shorter))
    });
    let found = named.filter_map(|id| office.on_agent(id, client)).find_map(|member| of_member(&member));
    found
        .or_else(|| {
            let host = office.desk.view.host(&client.peer.host)?;
            let check = host.checks.iter().find(|check| &*check.id == id)?;
            Some((Subject::Host(host.name.clone()), check.id.clone()))
        })
        .or_else(|| office.desk.view.on_host(&client.peer.host).iter().find_map(of_member))
}

pub async fn deregister_check(
    office: State,
    Extension(client): Extension<Client>,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let (on, check) = find_check(&office, &id, &client).ok_or_else(|| unknown_check(&id))?;
    office.carry_out(Command::RemoveCheck { on, check }, &client).await?;
    Ok(done())
}

async fn report(
    office: &Office,
    client: &Client,
    id: &str,
    status: Health,
    output: &str,
) -> Result<Response, Failure> {
    let (on, check) = find_check(office, id, client).ok_or_else(|| unknown_check(id))?;
    let report = Report { on, check, status, output: output.into(), known_only: true };
    let verdict = office.desk.writer.command(Command::Report(report), client.author.clone()).await;
    let verdict = verdict.map_err(|_| Failure::stopping())?.await.map_err(|_| Failure::stopping())?;
    match verdict {
        Ok(_) => Ok(done()),
        Err(refusal) => Err(gone(refusal, id)),
    }
}

fn note(query: Option<&str>) -> String {
    Query::of(query).get("note").unwrap_or_default().to_owned()
}

pub async fn pass(
    office: State,
    Extension(client): Extension<Client>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Failure> {
    report(&office, &client, &id, Health::Passing, &note(query.as_deref())).await
}

pub async fn warn(
    office: State,
    Extension(client): Extension<Client>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Failure> {
    report(&office, &client, &id, Health::Warning, &note(query.as_deref())).await
}

pub async fn fail(
    office: State,
    Extension(client): Extension<Client>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Failure> {
    report(&office, &client, &id, Health::Critical, &note(query.as_deref())).await
}

pub async fn update(
    office: State,
    Extension(client): Extension<Client>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Response, Failure> {
    let value = decode::object(&body)?;
    let fields = Fields::of(&value, &["Status", "Output"])?;
    let status = match fields.text("Status")?.unwrap_or_default() {
        "passing" => Health::Passing,
        "warning" => Health::Warning,
        "critical" => Health::Critical,
        other => return Err(Failure::bad(format!("Invalid check status: '{}'", other.escape_debug()))),
    };
    report(&office, &client, &id, status, fields.text("Output")?.unwrap_or_default()).await
}
