//! What an instance has for Consul's API alone, within its line of an export.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::text;
use crate::instance::{ADDRESSES_MAX, ConsulFacts};
use crate::protocol::Problem;

/// What Consul's API has of an instance and nothing else needs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsulForm {
    /// As given; empty where it is its host's.
    pub address: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tagged_addresses: BTreeMap<String, TaggedForm>,
    pub weight_warning: u16,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub enable_tag_override: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub through_catalog: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaggedForm {
    pub address: String,
    pub port: u16,
}

impl ConsulForm {
    pub(super) fn of(facts: &ConsulFacts) -> Self {
        let tagged = |(label, (address, port)): (&Arc<str>, &(Arc<str>, u16))| {
            (label.to_string(), TaggedForm { address: address.to_string(), port: *port })
        };
        Self {
            address: facts.address.to_string(),
            tagged_addresses: facts.tagged_addresses.iter().map(tagged).collect(),
            weight_warning: facts.weight_warning,
            enable_tag_override: facts.enable_tag_override,
            through_catalog: facts.through_catalog,
        }
    }

    pub(super) fn facts(&self) -> Result<ConsulFacts, Problem> {
        if self.tagged_addresses.len() > ADDRESSES_MAX {
            let rule = format!("may hold at most {ADDRESSES_MAX} addresses");
            return Err(Problem::invalid("consul.tagged_addresses", rule));
        }
        let tagged = self.tagged_addresses.iter().map(|(label, form)| {
            let address = text("consul.tagged_addresses", &form.address)?;
            Ok((text("consul.tagged_addresses", label)?, (address, form.port)))
        });
        Ok(ConsulFacts {
            address: text("consul.address", &self.address)?,
            tagged_addresses: tagged.collect::<Result<_, Problem>>()?,
            weight_warning: self.weight_warning,
            enable_tag_override: self.enable_tag_override,
            through_catalog: self.through_catalog,
        })
    }
}
