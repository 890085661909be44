//! `/v1/catalog/`: hosts and services as a whole, and what others register for hosts that have no agent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use axum::body::Bytes;
use axum::extract::{Path, RawQuery};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use serde_json::Value;

use super::decode::{self, Fields};
use super::definition::Definition;
use super::read::Read;
use super::shapes::{Node, Service, check_id};
use super::{Client, Office, State, by_key};
use crate::access::{On, Verb};
use crate::http::query::Query;
use crate::http::reply::{self, Failure};
use crate::instance::{Key, META_KEY_OCTETS_MAX, META_MAX, META_VALUE_OCTETS_MAX};
use crate::name::{HostName, InstanceId, Tag};
use crate::registry::{Command, HostRegistration, ListedCheck, Registration, Subject, Unlisted};
use crate::view::{Member, Spans};

pub async fn datacenters(office: State) -> Response {
    reply::json(StatusCode::OK, &[&office.datacenter], false)
}

pub async fn nodes(read: Read) -> Result<Response, Failure> {
    let index = read.wait(Spans::hosts).await?;
    let nodes = read.office.hosts().into_iter().map(|name| {
        let instance = first_on(&read.office, &name);
        let said = read.office.desk.view.host(&name);
        read.office.node(&name, said.as_deref(), instance.as_ref().map(|member| &*member.instance))
    });
    let nodes = read.wanted(nodes.filter(|node| read.has_meta(&node.meta)))?;
    Ok(read.answer(&nodes, index))
}

/// An instance of a host that nobody said anything of: it tells the address.
fn first_on(office: &Office, name: &HostName) -> Option<Member> {
    let said = office.desk.view.host(name);
    let known = *name == office.desk.host || said.is_some_and(|host| !host.addresses.is_empty());
    if known { None } else { office.desk.view.on_host(name).into_iter().next() }
}

pub async fn services(read: Read) -> Result<Response, Failure> {
    let index = read.wait(Spans::names).await?;
    let view = &read.office.desk.view;
    let directory = view.directory();
    let selects = read.query.has("node-meta") || read.query.has("filter");
    let mut services: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for service in directory.names().filter_map(|name| view.service(name.as_str())) {
        if service.members.is_empty() {
            continue;
        }
        let tags = match selects {
            false => service.listed_tags.iter().map(Tag::to_string).collect(),
            true => {
                let rows = service.members.iter().map(|member| read.office.catalog_service(member));
                let rows = read.wanted(rows.filter(|row| read.has_meta(&row.node_meta)))?;
                if rows.is_empty() {
                    continue;
                }
                let tags: BTreeSet<String> = rows.into_iter().flat_map(|row| row.service_tags).collect();
                tags.into_iter().collect()
            }
        };
        services.insert(service.name.to_string(), tags);
    }
    Ok(read.answer(&services, index))
}

pub async fn service(Path(name): Path<String>, read: Read) -> Result<Response, Failure> {
    let (service, index) = read.service(&name).await?;
    let members = service.iter().flat_map(|service| &service.members);
    let rows = members
        .filter(|member| read.has_tags(&member.instance))
        .map(|member| read.office.catalog_service(member))
        .filter(|row| read.has_meta(&row.node_meta));
    Ok(read.answer(&read.wanted(rows)?, index))
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct NodeServices<T> {
    node: Option<Node>,
    services: T,
}

/// A host and what is wanted of what is on it; `None` where nobody has heard of it.
fn on_node(read: &Read, name: &str) -> Result<Option<(Node, Vec<Service>)>, Failure> {
    let office = &read.office;
    let Ok(name) = HostName::parse(name) else { return Ok(None) };
    let said = office.desk.view.host(&name);
    if said.is_none() && name != office.desk.host {
        return Ok(None);
    }
    let members = office.desk.view.on_host(&name);
    let node = office.node(&name, said.as_deref(), members.first().map(|member| &*member.instance));
    let services = read.wanted(members.iter().map(|member| office.service(&member.instance)))?;
    Ok(Some((node, services)))
}

pub async fn node(Path(name): Path<String>, read: Read) -> Result<Response, Failure> {
    let index = read.wait(Spans::any).await?;
    let shown = on_node(&read, &name)?.map(|(node, list)| {
        let services: BTreeMap<String, Service> =
            list.into_iter().map(|service| (service.id.clone(), service)).collect();
        NodeServices { node: Some(node), services }
    });
    Ok(read.answer(&shown, index))
}

pub async fn node_services(Path(name): Path<String>, read: Read) -> Result<Response, Failure> {
    let index = read.wait(Spans::any).await?;
    let (node, mut services) = match on_node(&read, &name)? {
        None => (None, Vec::new()),
        Some((node, services)) => (Some(node), services),
    };
    services.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(read.answer(&NodeServices { node, services }, index))
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
pub fn must(what: &str) -> Failure {
    Failure::new(StatusCode::INTERNAL_SERVER_ERROR, what)
}

pub async fn register(office: State, client: Client, body: Bytes) -> Result<Response, Failure> {
    let value = decode::object(&body)?;
    let fields = Fields::of(&value, REGISTER_FIELDS)?;
    let host = node_of(&office, &fields)?;
    let skip = fields.flag("SkipNodeUpdate")?.unwrap_or(false);
    let address = fields.text("Address")?;
    if address.is_none() && !skip {
        return Err(must("Must provide address if SkipNodeUpdate is not set"));
    }
    // Whatever is wrong is found before anything is done.
    let said = address.filter(|_| !skip);
    let said = said.map(|address| host_registration(&fields, host.clone(), address)).transpose()?;
    let node = match &said {
        Some(said) => said.addresses.clone(),
        None => office.node_addresses(&host, office.desk.view.host(&host).as_deref(), None),
    };
    let definition = Definition { office: &office, host: host.clone(), node, through_catalog: true };
    let service = fields.get("Service").map(|value| definition.registration(value, &client.peer));
    let service = service.transpose()?.map(|service| Registration { unlisted: Unlisted::Stay, ..service });
    let brought = service.as_ref().map(|service| service.key.clone());
    let key_of =
        |id: &str| brought.clone().filter(|key| key.id.as_str() == id).or_else(|| key_on(&office, &host, id));
    let mut given: Vec<&Value> = fields.get("Check").into_iter().collect();
    given.extend(fields.get("Checks").and_then(Value::as_array).into_iter().flatten());
    let mut checks = Vec::new();
    for value in given {
        let about = Fields::of(value, CATALOG_CHECK_FIELDS)?;
        let name = about.text("Name")?.or(about.text("CheckID")?).unwrap_or_default();
        let output = about.text("Output")?.unwrap_or_default().into();
        let listed = ListedCheck { output, ..catalog_check(&about, name)?.listed("Check")? };
        let on = match about.text("ServiceID")? {
            None => Subject::Host(host.clone()),
            Some(id) => Subject::Instance(by_key(key_of(id).ok_or_else(|| {
                let (id, check) = (id.escape_debug(), listed.id.escape_debug());
                must(&format!("Unknown service ID '{id}' for check ID '{check}'"))
            })?)),
        };
        checks.push((on, listed));
    }
    if let Some(said) = said {
        office.carry_out(Command::RegisterHost(Box::new(said)), &client).await?;
    }
    if let Some(service) = service {
        office.carry_out(Command::Register(Box::new(service)), &client).await?;
    }
    for (on, listed) in checks {
        office.carry_out(Command::AddCheck { on, listed }, &client).await?;
    }
    Ok(reply::json(StatusCode::OK, &true, false))
}

/// The node that a request is about, in the one datacenter there is.
fn node_of(office: &Office, fields: &Fields<'_>) -> Result<HostName, Failure> {
    if fields.text("Datacenter")?.is_some_and(|datacenter| datacenter != office.datacenter) {
        return Err(must("No path to datacenter"));
    }
    let node = fields.text("Node")?.ok_or_else(|| must("Must provide node"))?;
    HostName::parse(node).map_err(|unfit| Failure::bad(format!("Node {unfit}")))
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

fn key_on(office: &Office, host: &HostName, id: &str) -> Option<Key> {
    let members = office.desk.view.by_id(&InstanceId::parse(id).ok()?);
    members.into_iter().map(|member| member.instance.key.clone()).find(|key| key.host == *host)
}

const DEREGISTER_FIELDS: &[&str] =
    &["Node", "Datacenter", "ServiceID", "CheckID", "Address", "Namespace", "Partition", "PeerName"];

/// The whole of a host with several instances is a bulk: it empties no service, but with `?allow-empty`.
pub async fn deregister(
    office: State,
    client: Client,
    RawQuery(query): RawQuery,
    body: Bytes,
) -> Result<Response, Failure> {
    let value = decode::object(&body)?;
    let fields = Fields::of(&value, DEREGISTER_FIELDS)?;
    let host = node_of(&office, &fields)?;
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
            // The writer asks for each, and for the host; asked here first, nothing is said of what is there, or half done.
            office.desk.may(&client.who, Verb::Deregister, On::Everything)?;
            let members = office.desk.view.on_host(&host);
            let keys: BTreeSet<Key> = members.iter().map(|member| member.instance.key.clone()).collect();
            let emptied = office.desk.view.emptied_without(&keys);
            if let Some(service) = emptied.first()
                && !Query::of(query.as_deref()).has("allow-empty")
            {
                let text = format!(
                    "{service} would have no live instance left; deregister its instances one by one, or ask with ?allow-empty"
                );
                return Err(Failure::new(StatusCode::CONFLICT, text));
            }
            for key in keys {
                office.carry_out(Command::Deregister(by_key(key)), &client).await?;
            }
            office.carry_out(Command::DeregisterHost(host), &client).await?;
        }
    }
    Ok(reply::json(StatusCode::OK, &true, false))
}
