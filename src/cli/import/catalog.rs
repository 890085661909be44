//! What a Consul says of nodes, services and checks, as lines of an import.
//!
//! The checks become checks that are reported: it is Consul that runs them, and what it says of them is what is
//! imported. An instance has Consul's URL as its source and a host has it in its metadata, by which a later run
//! knows its own.

use std::collections::BTreeMap;
use std::net::IpAddr;

use callsign::check::CHECK_ID_OCTETS_MAX;
use callsign::name::fnv;
use callsign::protocol::moving::{CheckLine, ConsulForm, HostLine, InstanceLine, TaggedForm};
use callsign::protocol::{CheckForm, Pairs, RegisterForm, Several};
use callsign::registry::IMPORTED_FROM;
use serde::Deserialize;

/// Checks that put an instance or a node into maintenance.
const SERVICE_MAINTENANCE: &str = "_service_maintenance";
const NODE_MAINTENANCE: &str = "_node_maintenance";
/// Octets of a check's name and notes that are kept: what a check of ours may have.
const NOTES_OCTETS_MAX: usize = 512;

/// One of `/v1/catalog/nodes`, and the `Node` of an entry below.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Node {
    #[serde(rename = "ID")]
    pub id: Option<String>,
    pub node: String,
    pub address: String,
    pub meta: Option<BTreeMap<String, String>>,
}

/// One of `/v1/health/service/NAME`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Entry {
    pub node: Node,
    pub service: Service,
    pub checks: Option<Vec<Check>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Service {
    kind: Option<String>,
    #[serde(rename = "ID")]
    pub id: String,
    service: String,
    tags: Option<Vec<String>>,
    address: String,
    tagged_addresses: Option<BTreeMap<String, Tagged>>,
    meta: Option<BTreeMap<String, String>>,
    port: i64,
    socket_path: Option<String>,
    weights: Option<Weights>,
    enable_tag_override: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Tagged {
    address: String,
    port: u16,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Weights {
    passing: i64,
    warning: u16,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Check {
    #[serde(rename = "CheckID")]
    check_id: String,
    name: String,
    status: String,
    notes: String,
    output: String,
    #[serde(rename = "ServiceID")]
    pub service_id: String,
}

impl Entry {
    /// The instance, or why it cannot be one of ours.
    pub fn instance(&self, source: &str) -> Result<InstanceLine, String> {
        let Service { kind, id, service, address, .. } = &self.service;
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(kind) = given(kind) {
            return Err(format!("it is a {kind} of Consul's service mesh, and callsign has none"));
        }
        if given(&self.service.socket_path).is_some() {
            return Err("it is reached through a socket of its machine's, which DNS cannot say".to_owned());
        }
        let place = if address.is_empty() { &self.node.address } else { address };
        let is_address = place.parse::<IpAddr>().is_ok();
        let weights = self.service.weights.clone().unwrap_or(Weights { passing: 1, warning: 1 });
        let port = Some(self.service.port).filter(|port| *port != 0);
        let tagged = self.service.tagged_addresses.iter().flatten().map(|(label, tagged)| {
            (label.clone(), TaggedForm { address: tagged.address.clone(), port: tagged.port })
        });
        let own = |check: &&Check| check.service_id == *id;
        Ok(InstanceLine {
            register: RegisterForm {
                service: service.clone(),
                id: Some(id.clone()),
                host: Some(self.node.node.clone()),
                address: is_address.then(|| Several(vec![place.clone()])),
                target: (!is_address).then(|| place.clone()),
                port,
                ports: port.is_none().then(|| Pairs(Vec::new())),
                tags: Some(self.service.tags.clone().unwrap_or_default()),
                meta: Some(pairs(&self.service.meta)),
                weight: Some(weights.passing),
                lease: Some("none".to_owned()),
                ..RegisterForm::default()
            },
            checks: self.checks.iter().flatten().filter(own).map(Check::line).collect(),
            source: Some(source.to_owned()),
            consul: Some(ConsulForm {
                address: address.clone(),
                tagged_addresses: tagged.collect(),
                weight_warning: weights.warning,
                enable_tag_override: self.service.enable_tag_override,
                through_catalog: true,
            }),
            ..InstanceLine::default()
        })
    }

    /// What is said of its node.
    pub fn node_checks(&self) -> Vec<Check> {
        self.checks.iter().flatten().filter(|check| check.service_id.is_empty()).cloned().collect()
    }
}

impl Node {
    pub fn host(&self, checks: &[Check], source: &str) -> HostLine {
        let Pairs(mut meta) = pairs(&self.meta);
        meta.push((IMPORTED_FROM.to_owned(), source.to_owned()));
        HostLine {
            name: self.node.clone(),
            address: self.address.parse().into_iter().collect(),
            meta: Some(Pairs(meta)),
            id: self.id.clone().filter(|id| !id.is_empty()),
            checks: checks.iter().map(Check::line).collect(),
        }
    }
}

impl Check {
    fn line(&self) -> CheckLine {
        let maintenance = self.check_id.starts_with(SERVICE_MAINTENANCE) || self.check_id == NODE_MAINTENANCE;
        let status = match self.status.as_str() {
            _ if maintenance => "maintenance",
            status @ ("passing" | "warning") => status,
            _ => "critical",
        };
        // The reason of a maintenance is in its notes.
        let output = if maintenance { &self.notes } else { &self.output };
        let check = CheckForm {
            id: short(&self.check_id),
            name: plain(&self.name),
            notes: if maintenance { None } else { plain(&self.notes) },
            status: Some(status.to_owned()),
            ..CheckForm::default()
        };
        CheckLine { check, output: output.clone(), since: None }
    }
}

fn pairs(map: &Option<BTreeMap<String, String>>) -> Pairs<String> {
    Pairs(map.iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect())
}

/// An id of a check as ours may be long, always the same for the same one.
fn short(id: &str) -> String {
    let id: String = id.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if id.len() <= CHECK_ID_OCTETS_MAX {
        return id;
    }
    let digest = format!("~{:016x}", fnv(&[id.as_bytes()]));
    format!("{}{digest}", &id[..id.floor_char_boundary(CHECK_ID_OCTETS_MAX - digest.len())])
}

/// One line of text, as much as is kept; none where there is none.
fn plain(text: &str) -> Option<String> {
    let text = &text[..text.floor_char_boundary(NOTES_OCTETS_MAX)];
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    Some(text).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_id_of_a_check_is_shortened_and_stays_its_own() {
        let (one, other) =
            ("service:".to_owned() + &"ü".repeat(60) + "1", "service:".to_owned() + &"ü".repeat(60) + "2");
        assert!(short(&one).len() <= CHECK_ID_OCTETS_MAX && short(&one) != short(&other), "{}", short(&one));
        assert_eq!(short("service:web-1"), "service:web-1");
        assert_eq!(plain("a\nb"), Some("a b".to_owned()));
    }
}
