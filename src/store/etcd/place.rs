//! Which key a thing of the registry lies at, below the prefix.
//!
//! | key | value |
//! |---|---|
//! | `i/` service, label of the id, host, id, with a zero octet between | an instance, or one that is gone |
//! | `h/` host | a host, or that it was deregistered |
//! | `s/` service | the settings of a service |
//! | `g/` service | the guard of a service, or that it ended |
//! | `t/` token, by its name | a token, or that it was revoked |
//! | `p/` service or nothing, owner, type, with a zero octet between | plain records, or that they were deleted |
//! | `u/` time, MAC, with a slash between | that a message of UPDATE was carried out; deleted when its time is over |
//! | `n/` node | a member; it ends with the member's etcd lease |
//! | `format` | the version of all this, and the base of the serial |
//!
//! The label comes before the host, so that all who could want one label are neighbours: a registration
//! holds only if none of them was written meanwhile. For the same reason plain records lie by the service that their owner
//! is spelt as a name of: what is one of these is no name of an instance.

use std::sync::Arc;

use data_encoding::HEXLOWER;

use crate::instance::Key;
use crate::name::{HostName, InstanceId, Name, ServiceName};
use crate::record::Type;
use crate::registry::PlainSet;
use crate::update::MessageId;

pub const FORMAT: &str = "format";
const INSTANCES: &str = "i/";
const HOSTS: &str = "h/";
const SETTINGS: &str = "s/";
const GUARDS: &str = "g/";
const TOKENS: &str = "t/";
const NODES: &str = "n/";
const PLAIN: &str = "p/";
const CARRIED_OUT: &str = "u/";

/// What lies at a key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    Instance(Key),
    Host(HostName),
    Settings(ServiceName),
    Guard(ServiceName),
    Token(Arc<str>),
    Node(String),
    Plain(PlainPlace),
    CarriedOut(MessageId),
    Format,
}

/// Where plain records lie.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PlainPlace {
    /// That its owner is spelt as a name of.
    pub service: Option<ServiceName>,
    /// In lower case.
    pub owner: Name,
    pub rtype: Type,
}

impl PlainPlace {
    pub fn of(set: &PlainSet) -> Self {
        Self { service: set.service(), owner: set.owner.to_lowercase(), rtype: set.set.rtype }
    }
}

/// The range of all nodes.
pub fn nodes() -> String {
    NODES.to_owned()
}

pub fn node(name: &str) -> String {
    format!("{NODES}{name}")
}

/// The range of all instances, or of those of one service.
pub fn instances(of: Option<&ServiceName>) -> String {
    of.map_or(INSTANCES.to_owned(), |service| format!("{INSTANCES}{service}\0"))
}

/// The range of all hosts.
pub fn hosts() -> String {
    HOSTS.to_owned()
}

/// The range of all guards.
pub fn guards() -> String {
    GUARDS.to_owned()
}

/// The range of all plain records.
pub fn plain() -> String {
    PLAIN.to_owned()
}

/// The range of those at the names of a service.
pub fn plain_of(service: &ServiceName) -> String {
    format!("{PLAIN}{service}\0")
}

/// The range of those at one owner, in lower case, spelt as a name of `service`.
pub fn plain_at(service: Option<&ServiceName>, owner: &Name) -> String {
    format!("{PLAIN}{}\0{owner}\0", service.map_or("", ServiceName::as_str))
}

/// The messages that were carried out; with a time, the range's end before those that were signed then.
pub fn carried_out(before_s: Option<u64>) -> String {
    before_s.map_or(CARRIED_OUT.to_owned(), |time| format!("{CARRIED_OUT}{time:012}"))
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
            Self::Plain(PlainPlace { service, owner, rtype }) => {
                format!("{}{}", plain_at(service.as_ref(), owner), rtype.0)
            }
            Self::CarriedOut((time, mac)) => {
                format!("{}/{}", carried_out(Some(*time)), HEXLOWER.encode(mac))
            }
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
        if let Some(message) = key.strip_prefix(CARRIED_OUT) {
            let (time, mac) = message.split_once('/')?;
            let mac = HEXLOWER.decode(mac.as_bytes()).ok()?;
            return Some(Self::CarriedOut((time.parse().ok()?, mac.try_into().ok()?)));
        }
        if let Some(plain) = key.strip_prefix(PLAIN) {
            let mut parts = plain.split('\0');
            let (service, owner, rtype) = (parts.next()?, parts.next()?, parts.next()?);
            let service = match service {
                "" => None,
                service => Some(ServiceName::parse(service).ok()?),
            };
            let (owner, rtype) = (Name::parse(owner).ok()?, Type(rtype.parse().ok()?));
            return parts.next().is_none().then_some(Self::Plain(PlainPlace { service, owner, rtype }));
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
        let plain = |service: Option<&str>, owner: &str| PlainPlace {
            service: service.map(|service| ServiceName::parse(service).unwrap()),
            owner: Name::parse(owner).unwrap(),
            rtype: Type::TXT,
        };
        for place in [
            Place::Instance(key("Web-1")),
            Place::Instance(key("redis:6379")),
            Place::Host(HostName::parse("m1").unwrap()),
            Place::Settings(ServiceName::parse("web").unwrap()),
            Place::Guard(ServiceName::parse("web").unwrap()),
            Place::Token("ci".into()),
            Place::Node("a".to_owned()),
            Place::Plain(plain(Some("web"), "web.service.local.")),
            Place::Plain(plain(None, "a\\.b\\000c.x.y.z.service.local.")),
            Place::CarriedOut((1_700_000_000, *b"0123456789abcdef")),
            Place::Format,
        ] {
            assert_eq!(Place::of(place.key().as_bytes()), Some(place));
        }
        assert_eq!(Place::Instance(key("Web-1")).key(), "i/web\0web-1\0m1.example.com\0Web-1");
        for key in ["", "x/", "i/web", "i/web\0a\0b\0c\0d", "i/ \0a\0b\0c", "h/\u{1}", "p/\0a.\0", "u/1/0"] {
            assert_eq!(Place::of(key.as_bytes()), None, "{key}");
        }
        assert_eq!(Place::of(b"h/\xff"), None);
        let signed = |time_s: u64| Place::CarriedOut((time_s, [0xff; 16])).key();
        assert!(carried_out(None) < signed(0) && signed(999) < carried_out(Some(1000)));
        assert!(carried_out(Some(1000)) < signed(1000));
    }
}
