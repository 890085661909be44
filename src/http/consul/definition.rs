//! A service definition of Consul's, from its API or a file: what it says, as a registration of ours.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use axum::http::StatusCode;
use serde_json::Value;

use super::Office;
use super::decode::{self, Fields};
use crate::http::reply::Failure;
use crate::instance::ConsulFacts;
use crate::name::HostName;
use crate::protocol::{CheckForm, Pairs, Peer, RegisterForm, Several};
use crate::registry::Registration;

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

/// A service definition as it is read: from the agent's or the catalog's endpoint.
pub struct Definition<'a> {
    pub office: &'a Office,
    pub host: HostName,
    /// Where the host is: what says no address is there.
    pub node: Vec<IpAddr>,
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
        let name = self.office.service_name(self.name(&fields)?);
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
            form.address = Some(Several(self.node.iter().map(IpAddr::to_string).collect()));
        } else if address == "localhost" || address.parse::<IpAddr>().is_ok() {
            if address.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified()) {
                return Err(Failure::bad("Invalid service address"));
            }
            form.address = Some(Several(vec![address.to_owned()]));
        } else {
            form.target = Some(address.to_owned());
        }
        let mut registration = form.registration(peer, random()?)?;
        registration.consul = Some(Arc::new(facts));
        registration.anonymous = true;
        Ok(registration)
    }

    /// The agent calls it `Name`, the catalog `Service`, and each has its own words where it is missing.
    fn name<'f>(&self, fields: &'f Fields<'_>) -> Result<&'f str, Failure> {
        let (own, other) = if self.through_catalog { ("Service", "Name") } else { ("Name", "Service") };
        let missing = || match self.through_catalog {
            true => super::catalog::must(
                "Must provide service name (Service.Service) when service ID is provided",
            ),
            false => Failure::bad("Missing service name"),
        };
        match fields.text(own)? {
            Some(name) => Ok(name),
            None => fields.text(other)?.ok_or_else(missing),
        }
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

type TaggedAddresses = BTreeMap<Arc<str>, (Arc<str>, u16)>;

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
