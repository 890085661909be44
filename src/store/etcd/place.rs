//! Which key a thing of the registry lies at, below the prefix.
//!
//! | key | value |
//! |---|---|
//! | `i/` service, label of the id, host, id, with a zero octet between | an instance, or one that is gone |
//! | `h/` host | a host, or that it was deregistered |
//! | `s/` service | the settings of a service |
//! | `g/` service | the guard of a service, or that it ended |
//! | `t/` token, by its name | a token, or that it was revoked |
//! | `n/` node | a member; it ends with the member's etcd lease |
//! | `format` | the version of all this, and the base of the serial |
//!
//! The label comes before the host, so that all who could want one label are neighbours: a registration
//! holds only if none of them was written meanwhile.

use std::sync::Arc;

use crate::instance::Key;
use crate::name::{HostName, InstanceId, ServiceName};

pub const FORMAT: &str = "format";
const INSTANCES: &str = "i/";
const HOSTS: &str = "h/";
const SETTINGS: &str = "s/";
const GUARDS: &str = "g/";
const TOKENS: &str = "t/";
const NODES: &str = "n/";

/// What lies at a key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    Instance(Key),
    Host(HostName),
    Settings(ServiceName),
    Guard(ServiceName),
    Token(Arc<str>),
    Node(String),
    Format,
}

/// The range of all nodes.
pub fn nodes() -> String {
    NODES.to_owned()
}

pub fn node(name: &str) -> String {
    format!("{NODES}{name}")
}

/// The instances of the service whose ids have the same label: the range that a new one must find unwritten.
pub fn neighbours(key: &Key) -> String {
    format!("{INSTANCES}{}\0{}\0", key.service, key.id.label())
}

impl Place {
    /// The key, below the prefix.
    pub fn key(&self) -> String {
        match self {
            Self::Instance(key) => format!("{}{}\0{}", neighbours(key), key.host, key.id),
            Self::Host(host) => format!("{HOSTS}{host}"),
            Self::Settings(service) => format!("{SETTINGS}{service}"),
            Self::Guard(service) => format!("{GUARDS}{service}"),
            Self::Token(name) => format!("{TOKENS}{name}"),
            Self::Node(name) => node(name),
            Self::Format => FORMAT.to_owned(),
        }
    }

    /// What lies at a key below the prefix; `None` where it is none of ours.
    pub fn of(key: &[u8]) -> Option<Self> {
        let key = std::str::from_utf8(key).ok()?;
        if key == FORMAT {
            return Some(Self::Format);
        }
        if let Some(host) = key.strip_prefix(HOSTS) {
            return HostName::parse(host).ok().map(Self::Host);
        }
        if let Some(service) = key.strip_prefix(SETTINGS) {
            return ServiceName::parse(service).ok().map(Self::Settings);
        }
        if let Some(service) = key.strip_prefix(GUARDS) {
            return ServiceName::parse(service).ok().map(Self::Guard);
        }
        if let Some(name) = key.strip_prefix(TOKENS) {
            return Some(Self::Token(name.into()));
        }
        if let Some(node) = key.strip_prefix(NODES) {
            return Some(Self::Node(node.to_owned()));
        }
        let mut parts = key.strip_prefix(INSTANCES)?.split('\0');
        let (service, _, host, id) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let key = Key::new(
            ServiceName::parse(service).ok()?,
            InstanceId::parse(id).ok()?,
            HostName::parse(host).ok()?,
        );
        parts.next().is_none().then_some(Self::Instance(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_has_a_key_and_every_key_of_ours_a_place() {
        let key = |id: &str| {
            Key::new(
                ServiceName::parse("web").unwrap(),
                InstanceId::parse(id).unwrap(),
                HostName::parse("m1.example.com").unwrap(),
            )
        };
        for place in [
            Place::Instance(key("Web-1")),
            Place::Instance(key("redis:6379")),
            Place::Host(HostName::parse("m1").unwrap()),
            Place::Settings(ServiceName::parse("web").unwrap()),
            Place::Guard(ServiceName::parse("web").unwrap()),
            Place::Token("ci".into()),
            Place::Node("a".to_owned()),
            Place::Format,
        ] {
            assert_eq!(Place::of(place.key().as_bytes()), Some(place));
        }
        assert_eq!(Place::Instance(key("Web-1")).key(), "i/web\0web-1\0m1.example.com\0Web-1");
        for key in ["", "x/", "i/web", "i/web\0a\0b\0c\0d", "i/ \0a\0b\0c", "h/\u{1}"] {
            assert_eq!(Place::of(key.as_bytes()), None, "{key}");
        }
        assert_eq!(Place::of(b"h/\xff"), None);
    }
}
