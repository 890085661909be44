//! `/v1/catalog/`: hosts and services as a whole, and what others register for hosts that have no agent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Path, RawQuery};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use serde_json::Value;

use super::decode::{self, Fields};
use super::definition::Definition;
use super::filter::Filter;
use super::shapes::{Node, Service, check_id};
use super::{Client, Office, State, by_key};
use crate::http::query::{Query, Reading};
use crate::http::reply::{self, Failure};
use crate::instance::{META_KEY_OCTETS_MAX, META_MAX, META_VALUE_OCTETS_MAX};
use crate::journal::Topic;
use crate::name::{HostName, InstanceId, ServiceName, Tag};
use crate::registry::{Command, HostRegistration, ListedCheck, Subject};
use crate::view::Member;

pub async fn datacenters(office: State) -> Response {
    reply::json(StatusCode::OK, &[&office.datacenter], false)
}

pub async fn nodes(
    office: State,
    Extension(client): Extension<Client>,
    RawQuery(query): RawQuery,
) -> Result<Response, Failure> {
    let query = Query::of(query.as_deref());
    let (reading, filter) = (Reading::of(&query, &office)?, Filter::of(&query)?);
    let view = &office.desk.view;
    let current = |view: &crate::view::View| office.index(view.spans().hosts());
    let index = reading.wait(&office, Topic::Everything, &client.closing, current).await?;
    let mut names = view.hosts();
    if !names.contains(&office.desk.host) {
        names.push(office.desk.host.clone()); // the server's own is there from the start
        names.sort();
    }
    let mut nodes = Vec::new();
    for name in names {
        let instance = first_on(&office, &name);
        let node = office.node(
            &name,
            view.host(&name).as_deref(),
            instance.as_ref().map(|member| &*member.instance),
        );
        if has_meta(&query, &node)? && filter.matches(&node)? {
            nodes.push(node);
        }
    }
    Ok(reply::indexed(reply::json(StatusCode::OK, &nodes, reading.pretty), index, reading.consistency))
}

/// An instance of a host that nobody said anything of: it tells the address.
fn first_on(office: &Office, name: &HostName) -> Option<Member> {
    let said = office.desk.view.host(name);
    let known = *name == office.desk.host || said.is_some_and(|host| !host.addresses.is_empty());
    if known { None } else { office.desk.view.on_host(name).into_iter().next() }
}

/// `?node-meta=key:value`, as often as wanted.
pub fn has_meta(query: &Query, node: &Node) -> Result<bool, Failure> {
    for wanted in query.all("node-meta") {
        let (key, value) = wanted.split_once(':').unwrap_or((wanted, ""));
        if node.meta.get(key).map(String::as_str) != Some(value) {
            return Ok(false);
        }
    }
    Ok(true)
}

pub async fn services(
    office: State,
    Extension(client): Extension<Client>,
    RawQuery(query): RawQuery,
) -> Result<Response, Failure> {
    let query = Query::of(query.as_deref());
    let reading = Reading::of(&query, &office)?;
    let filter = Filter::of(&query)?;
    let current = |view: &crate::view::View| office.index(view.spans().names());
    let index = reading.wait(&office, Topic::Everything, &client.closing, current).await?;
    let view = &office.desk.view;
    let directory = view.directory();
    let mut services: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let selects = query.has("node-meta") || query.has("filter");
    for service in directory.names().filter_map(|name| view.service(name.as_str())) {
        let mut tags: BTreeSet<String> = BTreeSet::new();
        let mut wanted = !selects && !service.members.is_empty();
        if wanted {
            tags.extend(service.listed_tags.iter().map(Tag::to_string));
        }
        for member in service.members.iter().filter(|_| selects) {
            let row = office.catalog_service(member);
            if has_meta(&query, &office.node_of(member))? && filter.matches(&row)? {
                wanted = true;
                tags.extend(row.service_tags);
            }
        }
        if wanted {
            services.insert(service.name.to_string(), tags.into_iter().collect());
        }
    }
    Ok(reply::indexed(reply::json(StatusCode::OK, &services, reading.pretty), index, reading.consistency))
}

/// The members of a service, once its index is above the client's.
pub async fn members_of(
    office: &Office,
    client: &Client,
    reading: &Reading,
    name: &str,
) -> Result<(Vec<Member>, u64), Failure> {
    let lower = match reading.of_peer {
        true => String::new(), // we have no peers, so nothing came from one
        false => office.service_name(name).to_ascii_lowercase(),
    };
    let Ok(parsed) = ServiceName::parse(&lower) else {
        // Nothing can be registered by such a name, so there is nothing to wait for but the client's time.
        let never = |_: &crate::view::View| 1;
        let index = reading.wait(office, Topic::Everything, &client.closing, never).await?;
        return Ok((Vec::new(), index));
    };
    let current = |view: &crate::view::View| office.index(view.modified(&lower));
    let index = reading.wait(office, Topic::Service(&parsed), &client.closing, current).await?;
    let service = office.desk.view.service(&lower);
    Ok((service.map(|service| service.members.clone()).unwrap_or_default(), index))
}

/// True where the instance has every tag that is asked for, in any case.
pub fn has_tags(query: &Query, member: &Member) -> bool {
    let tags = &member.instance.tags;
    query.all("tag").all(|wanted| tags.iter().any(|tag| tag.as_str().eq_ignore_ascii_case(wanted)))
}

pub async fn service(
    office: State,
    Extension(client): Extension<Client>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Failure> {
    let query = Query::of(query.as_deref());
    let (reading, filter) = (Reading::of(&query, &office)?, Filter::of(&query)?);
    let (members, index) = members_of(&office, &client, &reading, &name).await?;
    let mut rows = Vec::with_capacity(members.len());
    for member in members.iter().filter(|member| has_tags(&query, member)) {
        let row = office.catalog_service(member);
        if has_meta(&query, &office.node_of(member))? && filter.matches(&row)? {
            rows.push(row);
        }
    }
    Ok(reply::indexed(reply::json(StatusCode::OK, &rows, reading.pretty), index, reading.consistency))
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct NodeServices<T> {
    node: Option<Node>,
    services: T,
}

/// A host and what is on it; `None` where nobody has heard of it.
fn on_node(office: &Office, name: &str) -> Option<(Node, Vec<Service>)> {
    let name = HostName::parse(name).ok()?;
    let said = office.desk.view.host(&name);
    if said.is_none() && name != office.desk.host {
        return None;
    }
    let members = office.desk.view.on_host(&name);
    let node = office.node(&name, said.as_deref(), members.first().map(|member| &*member.instance));
    Some((node, members.iter().map(|member| office.service(&member.instance)).collect()))
}

async fn node_index(office: &Office, client: &Client, reading: &Reading) -> Result<u64, Failure> {
    let current = |view: &crate::view::View| office.index(view.spans().any());
    reading.wait(office, Topic::Everything, &client.closing, current).await
}

pub async fn node(
    office: State,
    Extension(client): Extension<Client>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Failure> {
    let query = Query::of(query.as_deref());
    let (reading, filter) = (Reading::of(&query, &office)?, Filter::of(&query)?);
    let index = node_index(&office, &client, &reading).await?;
    let response = match on_node(&office, &name) {
        None => reply::json(StatusCode::OK, &Value::Null, reading.pretty),
        Some((node, list)) => {
            let mut services = BTreeMap::new();
            for service in list {
                if filter.matches(&service)? {
                    services.insert(service.id.clone(), service);
                }
            }
            reply::json(StatusCode::OK, &NodeServices { node: Some(node), services }, reading.pretty)
        }
    };
    Ok(reply::indexed(response, index, reading.consistency))
}

pub async fn node_services(
    office: State,
    Extension(client): Extension<Client>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Failure> {
    let query = Query::of(query.as_deref());
    let (reading, filter) = (Reading::of(&query, &office)?, Filter::of(&query)?);
    let index = node_index(&office, &client, &reading).await?;
    let (node, list) = match on_node(&office, &name) {
        None => (None, Vec::new()),
        Some((node, list)) => (Some(node), list),
    };
    let mut services = Vec::new();
    for service in list {
        if filter.matches(&service)? {
            services.push(service);
        }
    }
    services.sort_by(|a, b| a.id.cmp(&b.id));
    let response = reply::json(StatusCode::OK, &NodeServices { node, services }, reading.pretty);
    Ok(reply::indexed(response, index, reading.consistency))
}

const REGISTER_FIELDS: &[&str] = &[
    "Node",
    "Address",
    "Datacenter",
    "ID",
    "NodeMeta",
    "TaggedAddresses",
    "Service",
    "Check",
    "Checks",
    "SkipNodeUpdate",
    "Namespace",
    "Partition",
    "PeerName",
    "Locality",
    "EnterpriseMeta",
    "WriteRequest",
];

/// What the catalog's own complaints come as.
fn must(what: &str) -> Failure {
    Failure::new(StatusCode::INTERNAL_SERVER_ERROR, what)
}

pub async fn register(
    office: State,
    Extension(client): Extension<Client>,
    body: Bytes,
) -> Result<Response, Failure> {
    let value = decode::object(&body)?;
    let fields = Fields::of(&value, REGISTER_FIELDS)?;
    check_datacenter(&office, &fields)?;
    let node = fields.text("Node")?.ok_or_else(|| must("Must provide node"))?;
    let host = HostName::parse(node).map_err(|unfit| Failure::bad(format!("Node {unfit}")))?;
    let skip = fields.flag("SkipNodeUpdate")?.unwrap_or(false);
    let address = fields.text("Address")?;
    if address.is_none() && !skip {
        return Err(must("Must provide address if SkipNodeUpdate is not set"));
    }
    // Whatever is wrong is found before anything is done.
    let service = fields.get("Service").map(|value| catalog_service(&office, value)).transpose()?;
    let mut given: Vec<&Value> = fields.get("Check").into_iter().collect();
    given.extend(fields.get("Checks").and_then(Value::as_array).into_iter().flatten());
    let mut checks = Vec::new();
    for value in given {
        let about = Fields::of(value, CATALOG_CHECK_FIELDS)?;
        let name = about.text("Name")?.or(about.text("CheckID")?).unwrap_or_default();
        let output = about.text("Output")?.unwrap_or_default().into();
        let listed = ListedCheck { output, ..catalog_check(&about, name)?.listed("Check")? };
        let id = about.text("ServiceID")?;
        if let Some(id) = id
            && service.as_deref() != Some(id)
            && key_on(&office, &host, id).is_none()
        {
            let (id, check) = (id.escape_debug(), listed.id.escape_debug());
            return Err(must(&format!("Unknown service ID '{id}' for check ID '{check}'")));
        }
        checks.push((id, listed));
    }
    if let Some(address) = address.filter(|_| !skip) {
        let command = host_registration(&fields, host.clone(), address)?;
        office.carry_out(Command::RegisterHost(Box::new(command)), &client).await?;
    }
    let mut on_service = None;
    if let Some(service) = fields.get("Service") {
        let definition = Definition { office: &office, host: host.clone(), through_catalog: true };
        let mut registration = definition.registration(service, &client.peer)?;
        registration.keeps_checks = true;
        on_service = Some(registration.key.clone());
        office.carry_out(Command::Register(Box::new(registration)), &client).await?;
    }
    for (id, listed) in checks {
        let on = match id {
            None => Subject::Host(host.clone()),
            Some(id) => {
                let known = on_service.clone().filter(|key| key.id.as_str() == id);
                let key = known.or_else(|| key_on(&office, &host, id));
                Subject::Instance(by_key(key.ok_or_else(|| must("the service has left meanwhile"))?))
            }
        };
        office.carry_out(Command::AddCheck { on, listed }, &client).await?;
    }
    Ok(reply::json(StatusCode::OK, &true, false))
}

/// The id of the service that a registration brings.
fn catalog_service(office: &Office, value: &Value) -> Result<String, Failure> {
    let fields = Fields::of(value, super::definition::SERVICE_FIELDS)?;
    let name = match fields.text("Service")? {
        Some(name) => Some(name),
        None => fields.text("Name")?,
    };
    let name =
        name.ok_or_else(|| must("Must provide service name (Service.Service) when service ID is provided"))?;
    Ok(fields.text("ID")?.map_or_else(|| office.service_name(name), str::to_owned))
}

fn check_datacenter(office: &Office, fields: &Fields<'_>) -> Result<(), Failure> {
    match fields.text("Datacenter")? {
        Some(datacenter) if datacenter != office.datacenter => Err(must("No path to datacenter")),
        _ => Ok(()),
    }
}

/// The catalog keeps the status of a check that somebody else runs.
const CATALOG_CHECK_FIELDS: &[&str] = &[
    "Node",
    "CheckID",
    "Name",
    "Status",
    "Notes",
    "Output",
    "ServiceID",
    "ServiceName",
    "ServiceTags",
    "Type",
    "Interval",
    "Timeout",
    "ExposedPort",
    "Definition",
    "Namespace",
    "Partition",
    "PeerName",
    "CreateIndex",
    "ModifyIndex",
    "EnterpriseMeta",
];

fn catalog_check(fields: &Fields<'_>, name: &str) -> Result<crate::protocol::CheckForm, Failure> {
    let id = fields.text("CheckID")?.unwrap_or(name);
    if id.is_empty() {
        return Err(must("Must provide a name or an id for the check"));
    }
    Ok(crate::protocol::CheckForm {
        id: id.to_owned(),
        name: Some(name.to_owned()),
        notes: fields.owned("Notes")?,
        status: Some(fields.text("Status")?.unwrap_or("critical").to_owned()),
        ..Default::default()
    })
}

fn host_registration(
    fields: &Fields<'_>,
    name: HostName,
    address: &str,
) -> Result<HostRegistration, Failure> {
    let address: IpAddr = address.parse().map_err(|_| {
        Failure::bad("Address must be an IPv4 or IPv6 address; for a host name give the service an Address")
    })?;
    let meta = fields.pairs("NodeMeta")?;
    let fits = |(key, value): &(String, String)| {
        (1..=META_KEY_OCTETS_MAX).contains(&key.len()) && value.len() <= META_VALUE_OCTETS_MAX
    };
    if meta.len() > META_MAX || !meta.iter().all(fits) {
        let text = format!(
            "NodeMeta may hold {META_MAX} pairs of at most {META_KEY_OCTETS_MAX} and {META_VALUE_OCTETS_MAX} octets"
        );
        return Err(Failure::bad(text));
    }
    let id = fields.text("ID")?;
    if id.is_some_and(|id| id.len() != 36) {
        return Err(must("Bad node ID: uuid string is wrong length"));
    }
    Ok(HostRegistration {
        name,
        addresses: vec![address],
        meta: meta.into_iter().map(|(key, value)| (key.into(), value.into())).collect(),
        id: id.map(Into::into),
    })
}

fn key_on(office: &Office, host: &HostName, id: &str) -> Option<crate::instance::Key> {
    let members = office.desk.view.by_id(&InstanceId::parse(id).ok()?);
    members.into_iter().map(|member| member.instance.key.clone()).find(|key| key.host == *host)
}

const DEREGISTER_FIELDS: &[&str] =
    &["Node", "Datacenter", "ServiceID", "CheckID", "Address", "Namespace", "Partition", "PeerName"];

pub async fn deregister(
    office: State,
    Extension(client): Extension<Client>,
    body: Bytes,
) -> Result<Response, Failure> {
    let value = decode::object(&body)?;
    let fields = Fields::of(&value, DEREGISTER_FIELDS)?;
    check_datacenter(&office, &fields)?;
    let node = fields.text("Node")?.ok_or_else(|| must("Must provide node"))?;
    let host = HostName::parse(node).map_err(|unfit| Failure::bad(format!("Node {unfit}")))?;
    match (fields.text("ServiceID")?, fields.text("CheckID")?) {
        (Some(id), _) => {
            if let Some(key) = key_on(&office, &host, id) {
                office.carry_out(Command::Deregister(by_key(key)), &client).await?;
            }
        }
        (None, Some(check)) => {
            let has = |member: &Member| {
                member.instance.checks.iter().any(|known| check_id(&member.instance, known) == check)
            };
            let on = match office.desk.view.on_host(&host).into_iter().find(has) {
                Some(member) => Subject::Instance(by_key(member.instance.key.clone())),
                None => Subject::Host(host),
            };
            office.carry_out(Command::RemoveCheck { on, check: check.into() }, &client).await?;
        }
        (None, None) => {
            for member in office.desk.view.on_host(&host) {
                office.carry_out(Command::Deregister(by_key(member.instance.key.clone())), &client).await?;
            }
            office.carry_out(Command::DeregisterHost(host), &client).await?;
        }
    }
    Ok(reply::json(StatusCode::OK, &true, false))
}
