//! A host as a line of an export: its addresses, its metadata and its own checks.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::checks::{CheckLine, checks};
use super::text;
use crate::instance::{ADDRESSES_MAX, Host, META_KEY_OCTETS_MAX, META_MAX, META_VALUE_OCTETS_MAX};
use crate::lease::Leased;
use crate::name::HostName;
use crate::protocol::{Pairs, Problem};
use crate::time::Now;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostLine {
    pub name: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub address: Vec<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meta: Option<Pairs<String>>,
    /// Consul's node id, where it was given one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<CheckLine>,
}

impl HostLine {
    pub fn of(host: &Host) -> Self {
        let pairs = |(key, value): (&Arc<str>, &Arc<str>)| (key.to_string(), value.to_string());
        Self {
            name: host.name.to_string(),
            address: host.addresses.clone(),
            meta: (!host.meta.is_empty()).then(|| Pairs(host.meta.iter().map(pairs).collect())),
            id: host.id.as_deref().map(str::to_owned),
            checks: host.checks.iter().map(CheckLine::of).collect(),
        }
    }

    pub(super) fn host(&self, now: Now) -> Result<Host, Problem> {
        let name = HostName::parse(&self.name).map_err(|unfit| Problem::invalid("name", unfit))?;
        if self.address.len() > ADDRESSES_MAX {
            let rule = format!("may list at most {ADDRESSES_MAX} addresses, not {}", self.address.len());
            return Err(Problem::invalid("address", rule));
        }
        let meta = self.meta.as_ref().map(|meta| meta.0.as_slice()).unwrap_or_default();
        let fits = |(key, value): &(String, String)| {
            (1..=META_KEY_OCTETS_MAX).contains(&key.len()) && value.len() <= META_VALUE_OCTETS_MAX
        };
        if meta.len() > META_MAX || !meta.iter().all(fits) {
            let rule = format!(
                "may hold {META_MAX} pairs of at most {META_KEY_OCTETS_MAX} and {META_VALUE_OCTETS_MAX} octets"
            );
            return Err(Problem::invalid("meta", rule));
        }
        let checks = checks(&self.checks, &Leased::Host(name.clone()), now)?;
        Ok(Host {
            name,
            addresses: self.address.clone(),
            meta: meta.iter().map(|(key, value)| (key.as_str().into(), value.as_str().into())).collect(),
            id: self.id.as_deref().map(|id| text("id", id)).transpose()?,
            checks,
            created: 0,
            revision: 0,
        })
    }
}
