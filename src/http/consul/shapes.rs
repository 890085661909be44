//! Nodes, services and checks as Consul's replies show them.
//!
//! Consul's nodes are our hosts, and its checks are ours. What was registered in our own way is shown as if it
//! had come through its API: an address, the first port, checks named after their instance.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;

use super::go;
use crate::check::{Check, Kind, TIMEOUT_DEFAULT};
use crate::http::Office;
use crate::instance::{Health, Host, Instance, Location};
use crate::name::{HostName, Tag, fnv};
use crate::view::{Member, Standing};

/// The check that puts an instance, or a host, into maintenance.
pub const SERVICE_MAINTENANCE: &str = "_service_maintenance:";
pub const NODE_MAINTENANCE: &str = "_node_maintenance";
/// The check of an agent's own host that says that the agent lives.
pub const AGENT_ALIVE: &str = "serfHealth";

#[derive(Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Node {
    #[serde(rename = "ID")]
    pub id: String,
    pub node: String,
    pub address: String,
    pub datacenter: String,
    pub tagged_addresses: BTreeMap<&'static str, String>,
    pub meta: BTreeMap<String, String>,
    pub create_index: u64,
    pub modify_index: u64,
}

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Weights {
    pub passing: u16,
    pub warning: u16,
}

#[derive(Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct TaggedAddress {
    pub address: String,
    pub port: u16,
}

/// Parts of Connect, which we are not; clients read them as objects.
#[derive(Clone, Copy, Default, Serialize)]
pub struct Nothing {}

/// What Consul says of a service that is no proxy; some of its clients look into it unasked.
#[derive(Clone, Copy, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct NoProxy {
    mode: &'static str,
    mesh_gateway: Nothing,
    expose: Nothing,
}

/// A service as health and catalog show it.
#[derive(Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Service {
    #[serde(rename = "ID")]
    pub id: String,
    pub service: String,
    pub tags: Vec<String>,
    pub address: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tagged_addresses: BTreeMap<String, TaggedAddress>,
    pub meta: BTreeMap<String, String>,
    pub port: u16,
    pub weights: Weights,
    pub enable_tag_override: bool,
    pub proxy: NoProxy,
    pub connect: Nothing,
    pub peer_name: &'static str,
    pub create_index: u64,
    pub modify_index: u64,
}

/// A service as the agent shows it.
#[derive(Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct AgentService {
    #[serde(rename = "ID")]
    pub id: String,
    pub service: String,
    pub tags: Vec<String>,
    pub meta: BTreeMap<String, String>,
    pub port: u16,
    pub address: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tagged_addresses: BTreeMap<String, TaggedAddress>,
    pub weights: Weights,
    pub enable_tag_override: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_hash: Option<String>,
    pub datacenter: String,
}

/// One row of `/v1/catalog/service/`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct CatalogService {
    #[serde(rename = "ID")]
    pub id: String,
    pub node: String,
    pub address: String,
    pub datacenter: String,
    pub tagged_addresses: BTreeMap<&'static str, String>,
    pub node_meta: BTreeMap<String, String>,
    pub service_kind: &'static str,
    #[serde(rename = "ServiceID")]
    pub service_id: String,
    pub service_name: String,
    pub service_tags: Vec<String>,
    pub service_address: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub service_tagged_addresses: BTreeMap<String, TaggedAddress>,
    pub service_weights: Weights,
    pub service_meta: BTreeMap<String, String>,
    pub service_port: u16,
    pub service_socket_path: &'static str,
    pub service_enable_tag_override: bool,
    pub service_proxy: NoProxy,
    pub service_connect: Nothing,
    pub create_index: u64,
    pub modify_index: u64,
}

#[derive(Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct HealthCheck {
    pub node: String,
    #[serde(rename = "CheckID")]
    pub check_id: String,
    pub name: String,
    pub status: &'static str,
    pub notes: String,
    pub output: String,
    #[serde(rename = "ServiceID")]
    pub service_id: String,
    pub service_name: String,
    pub service_tags: Vec<String>,
    #[serde(rename = "Type")]
    pub kind: &'static str,
    pub interval: String,
    pub timeout: String,
    pub exposed_port: u16,
    pub definition: Nothing,
    pub create_index: u64,
    pub modify_index: u64,
}

/// One row of `/v1/health/service/`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Entry {
    pub node: Node,
    pub service: Service,
    pub checks: Vec<HealthCheck>,
}

impl Office {
    /// A revision as an index: never 0, and never less than before, whatever happened to the store.
    pub fn index(&self, revision: u64) -> u64 {
        self.desk.view.index(revision).max(1)
    }

    /// Where a host is reached: as it was said, or as this server itself is, or as its instance is.
    pub fn node_addresses(
        &self,
        name: &HostName,
        said: Option<&Host>,
        instance: Option<&Instance>,
    ) -> Vec<IpAddr> {
        match said.map(|host| host.addresses.as_slice()) {
            Some(addresses) if !addresses.is_empty() => addresses.to_vec(),
            _ if *name == self.desk.host => self.desk.addresses.clone(),
            // A host that spoke to us from afar is named by its address.
            _ => match name.as_str().parse() {
                Ok(address) => vec![address],
                Err(_) => instance.map(|instance| instance.addresses().to_vec()).unwrap_or_default(),
            },
        }
    }

    pub fn node(&self, name: &HostName, said: Option<&Host>, instance: Option<&Instance>) -> Node {
        let address = self.node_addresses(name, said, instance).first().copied();
        let through_agent = said.is_none_or(|host| host.addresses.is_empty());
        let mut tagged_addresses = BTreeMap::new();
        if let Some(address) = address.filter(|_| through_agent) {
            let family = if address.is_ipv4() { ["lan_ipv4", "wan_ipv4"] } else { ["lan_ipv6", "wan_ipv6"] };
            for label in ["lan", "wan"].into_iter().chain(family) {
                tagged_addresses.insert(label, address.to_string());
            }
        }
        let meta = said.into_iter().flat_map(|host| &host.meta);
        Node {
            id: match said.and_then(|host| host.id.as_deref()) {
                Some(id) => id.to_owned(),
                None => node_id(name.as_str()),
            },
            node: name.to_string(),
            address: address.map(|address| address.to_string()).unwrap_or_default(),
            datacenter: self.datacenter.clone(),
            tagged_addresses,
            meta: meta.map(|(key, value)| (key.to_string(), value.to_string())).collect(),
            create_index: self.index(said.map_or(0, |host| host.created)),
            modify_index: self.index(said.map_or(0, |host| host.revision)),
        }
    }

    pub fn service(&self, instance: &Instance) -> Service {
        Service {
            id: instance.key.id.to_string(),
            service: instance.key.service.to_string(),
            tags: tags(instance),
            address: address(instance),
            tagged_addresses: tagged_addresses(instance),
            meta: meta(instance),
            port: port(instance),
            weights: weights(instance),
            enable_tag_override: instance.consul.as_ref().is_some_and(|facts| facts.enable_tag_override),
            proxy: NoProxy::default(),
            connect: Nothing {},
            peer_name: "",
            create_index: self.index(instance.created),
            modify_index: self.index(instance.revision),
        }
    }

    pub fn agent_service(&self, instance: &Instance) -> AgentService {
        AgentService {
            id: instance.key.id.to_string(),
            service: instance.key.service.to_string(),
            tags: tags(instance),
            meta: meta(instance),
            port: port(instance),
            address: address(instance),
            tagged_addresses: tagged_addresses(instance),
            weights: weights(instance),
            enable_tag_override: instance.consul.as_ref().is_some_and(|facts| facts.enable_tag_override),
            content_hash: None,
            datacenter: self.datacenter.clone(),
        }
    }

    pub fn catalog_service(&self, member: &Member) -> CatalogService {
        let node = self.node_of(member);
        let service = self.service(&member.instance);
        CatalogService {
            id: node.id,
            node: node.node,
            address: node.address,
            datacenter: node.datacenter,
            tagged_addresses: node.tagged_addresses,
            node_meta: node.meta,
            service_kind: "",
            service_id: service.id,
            service_name: service.service,
            service_tags: service.tags,
            service_address: service.address,
            service_tagged_addresses: service.tagged_addresses,
            service_weights: service.weights,
            service_meta: service.meta,
            service_port: service.port,
            service_socket_path: "",
            service_enable_tag_override: service.enable_tag_override,
            service_proxy: NoProxy::default(),
            service_connect: Nothing {},
            create_index: service.create_index,
            modify_index: service.modify_index,
        }
    }

    pub fn node_of(&self, member: &Member) -> Node {
        self.node(&member.instance.key.host, member.host.as_deref(), Some(&member.instance))
    }

    pub fn entry(&self, member: &Member) -> Entry {
        let mut checks = self.host_checks(&member.instance.key.host, member.host.as_deref());
        checks.extend(self.own_checks(member));
        Entry { node: self.node_of(member), service: self.service(&member.instance), checks }
    }

    /// The checks of a host, in order of their ids; an agent's own host has one that says that the agent lives.
    pub fn host_checks(&self, name: &HostName, said: Option<&Host>) -> Vec<HealthCheck> {
        let shown = |check: &Check| {
            let id = match check.status {
                Health::Maintenance => NODE_MAINTENANCE.to_owned(),
                _ => check.id.to_string(),
            };
            HealthCheck {
                create_index: self.index(said.map_or(0, |host| host.created)),
                modify_index: self.index(said.map_or(0, |host| host.revision)),
                ..shown(name, id, check)
            }
        };
        let mut checks: Vec<HealthCheck> = said.iter().flat_map(|host| &host.checks).map(shown).collect();
        // One that was imported says more than ours: it is of the agent that was there.
        if *name == self.desk.host && checks.iter().all(|check| check.check_id != AGENT_ALIVE) {
            checks.push(self.alive(name));
        }
        checks.sort_by(|a, b| a.check_id.cmp(&b.check_id));
        checks
    }

    fn alive(&self, name: &HostName) -> HealthCheck {
        HealthCheck {
            node: name.to_string(),
            check_id: AGENT_ALIVE.to_owned(),
            name: "Serf Health Status".to_owned(),
            status: Health::Passing.as_str(),
            notes: String::new(),
            output: "Agent alive and reachable".to_owned(),
            service_id: String::new(),
            service_name: String::new(),
            service_tags: Vec::new(),
            kind: "",
            interval: String::new(),
            timeout: String::new(),
            exposed_port: 0,
            definition: Nothing {},
            create_index: self.index(0),
            modify_index: self.index(0),
        }
    }

    /// The checks of an instance, in order of their ids; one that drains is in maintenance.
    pub fn own_checks(&self, member: &Member) -> Vec<HealthCheck> {
        let instance = &member.instance;
        let of_service = |check: HealthCheck| HealthCheck {
            service_id: instance.key.id.to_string(),
            service_name: instance.key.service.to_string(),
            service_tags: tags(instance),
            create_index: self.index(instance.created),
            modify_index: self.index(instance.revision),
            ..check
        };
        let host = &instance.key.host;
        let mut checks: Vec<HealthCheck> = instance
            .checks
            .iter()
            .map(|check| of_service(shown(host, check_id(instance, check), check)))
            .collect();
        if member.standing == Standing::Draining {
            checks.push(of_service(HealthCheck {
                check_id: format!("{SERVICE_MAINTENANCE}{}", instance.key.id),
                name: "Service Maintenance Mode".to_owned(),
                status: Health::Critical.as_str(),
                notes: "draining".to_owned(),
                output: String::new(),
                kind: "maintenance",
                ..self.alive(host)
            }));
        }
        checks.sort_by(|a, b| a.check_id.cmp(&b.check_id));
        checks
    }
}

/// A check's id among all of its host's, as Consul wants it.
pub fn check_id(instance: &Instance, check: &Check) -> String {
    match check.status {
        Health::Maintenance => format!("{SERVICE_MAINTENANCE}{}", instance.key.id),
        _ if instance.consul.is_some() => check.id.to_string(),
        _ => format!("service:{}:{}", instance.key.id, check.id),
    }
}

fn shown(host: &HostName, check_id: String, check: &Check) -> HealthCheck {
    let definition = &check.definition;
    let maintenance = check.status == Health::Maintenance;
    let probed = definition.kind.is_probed() && !matches!(definition.kind, Kind::Alias { .. });
    let name = match (&*definition.name, maintenance) {
        (_, true) if check_id == NODE_MAINTENANCE => "Node Maintenance Mode",
        (_, true) => "Service Maintenance Mode",
        ("", _) => &check.id,
        (name, _) => name,
    };
    HealthCheck {
        node: host.to_string(),
        name: name.to_owned(),
        check_id,
        status: if maintenance { Health::Critical.as_str() } else { check.status.as_str() },
        // The reason for a maintenance is what was said of it first.
        notes: if maintenance { check.output.to_string() } else { definition.notes.to_string() },
        output: if maintenance { String::new() } else { check.last_output().to_string() },
        service_id: String::new(),
        service_name: String::new(),
        service_tags: Vec::new(),
        kind: if maintenance { "maintenance" } else { definition.kind.as_str() },
        interval: if probed { go::duration_text(definition.interval) } else { String::new() },
        timeout: match probed && definition.timeout != TIMEOUT_DEFAULT {
            true => go::duration_text(definition.timeout),
            false => String::new(),
        },
        exposed_port: 0,
        definition: Nothing {},
        create_index: 0,
        modify_index: 0,
    }
}

fn tags(instance: &Instance) -> Vec<String> {
    instance.tags.iter().map(Tag::to_string).collect()
}

fn meta(instance: &Instance) -> BTreeMap<String, String> {
    instance.meta.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

/// 0 where it has none.
fn port(instance: &Instance) -> u16 {
    instance.ports.first().map_or(0, |port| port.number)
}

fn weights(instance: &Instance) -> Weights {
    let warning = instance.consul.as_ref().map_or(1, |facts| facts.weight_warning);
    Weights { passing: instance.weight, warning }
}

/// As it was given, through Consul's API; else where the instance is.
fn address(instance: &Instance) -> String {
    match (&instance.consul, &instance.location) {
        (Some(facts), _) => facts.address.to_string(),
        (None, Location::Target(target)) => target.to_string().trim_end_matches('.').to_owned(),
        (None, Location::Addresses(addresses)) => {
            addresses.first().map(IpAddr::to_string).unwrap_or_default()
        }
    }
}

/// As they were given, and those that Consul makes itself of an address.
fn tagged_addresses(instance: &Instance) -> BTreeMap<String, TaggedAddress> {
    let given = instance.consul.iter().flat_map(|facts| &facts.tagged_addresses);
    let mut tagged: BTreeMap<String, TaggedAddress> = given
        .map(|(label, (address, port))| {
            (label.to_string(), TaggedAddress { address: address.to_string(), port: *port })
        })
        .collect();
    let address = address(instance);
    // An agent makes them; the catalog takes what it is given.
    let through_agent = instance.consul.as_ref().is_none_or(|facts| !facts.through_catalog);
    if through_agent && let Ok(ip) = address.parse::<IpAddr>() {
        let labels = if ip.is_ipv4() { ["lan_ipv4", "wan_ipv4"] } else { ["lan_ipv6", "wan_ipv6"] };
        for label in labels {
            let own = TaggedAddress { address: address.clone(), port: port(instance) };
            tagged.entry(label.to_owned()).or_insert(own);
        }
    }
    tagged
}

/// A UUID that is always the same for a host: clients know nodes by it.
pub fn node_id(name: &str) -> String {
    let (high, low) = (fnv(&[b"node", name.as_bytes()]), fnv(&[name.as_bytes(), b"id"]));
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0x0fff | 0x4000,
        low >> 48 & 0x3fff | 0x8000,
        low & 0xffff_ffff_ffff
    )
}
