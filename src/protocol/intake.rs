//! From forms to what the registry knows: every field checked once, and every complaint by its name.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use super::{
    CHECK_DEFAULT, FilterForm, HolderForm, LEASE_DEFAULT, Problem, RegisterForm, ReportForm, checks,
    printable,
};
use crate::check::CHECK_ID_OCTETS_MAX;
use crate::instance::{
    ADDRESSES_MAX, Health, Instance, Key, LEASE_MS_MAX, LEASE_MS_MIN, Lease, Location, META_KEY_OCTETS_MAX,
    META_MAX, META_VALUE_OCTETS_MAX, PORTS_MAX, Port, TAGS_MAX, Transport, WORD_OCTETS_MAX,
};
use crate::name::{HostName, InstanceId, ServiceName, Tag, ends_in_digits, is_ldh_label, parse_target};
use crate::registry::{Change, Holder, Registration, Report, ReportOf, Subject, Unlisted, What};
use crate::time::{format_duration, parse_duration};

/// What the edge knows of the client, for what a registration leaves out.
#[derive(Clone, Debug)]
pub struct Peer {
    pub host: HostName,
    /// The addresses to take where none is given; at least one.
    pub addresses: Vec<IpAddr>,
    /// False where a loopback address in an answer would mislead: a DNS listener is reachable from elsewhere.
    pub loopback_allowed: bool,
    /// The connection's number, for `"lease":"connection"`.
    pub connection: u64,
}

impl RegisterForm {
    /// What the registry is asked to register; `lease_id` is 64 random bits.
    pub fn registration(&self, peer: &Peer, lease_id: u64) -> Result<Registration, Problem> {
        let service =
            ServiceName::parse(&self.service).map_err(|unfit| Problem::invalid("service", unfit))?;
        let host = host_or(self.host.as_deref(), &peer.host)?;
        let ports = self.ports()?;
        let id = match &self.id {
            Some(id) => InstanceId::parse(id),
            None => match ports.first() {
                Some(port) => InstanceId::parse(&format!("{service}-{host}-{}", port.number)),
                None => InstanceId::parse(&format!("{service}-{host}")),
            },
        };
        let id = id.map_err(|unfit| Problem::invalid("id", unfit))?;
        Ok(Registration {
            key: Key::new(service, id, host),
            location: self.location(peer)?,
            ports,
            protocol: self.protocol.as_deref().map(|protocol| word("protocol", protocol)).transpose()?,
            tags: self.tags()?,
            meta: self.meta()?,
            weight: number("weight", self.weight, 0, 1)?,
            priority: number("priority", self.priority, 0, 0)?,
            lease: self.lease(peer)?,
            lease_id,
            checks: checks::listed(self.checks.as_deref().unwrap_or_default())?,
            unlisted: if self.checks.is_some() { Unlisted::Go } else { Unlisted::Stay },
            source: None,
            consul: None,
            anonymous: false,
            displaces: None,
            owner: None,
        })
    }

    fn location(&self, peer: &Peer) -> Result<Location, Problem> {
        let given = match (&self.address, &self.target) {
            (Some(_), Some(_)) => {
                return Err(Problem::invalid("target", "and address exclude each other; give one"));
            }
            (None, Some(target)) if target.trim_end_matches('.').parse::<IpAddr>().is_ok() => {
                return Err(Problem::invalid("target", "is an address; give it as `address`"));
            }
            (None, Some(target)) => {
                let name = parse_target(target).map_err(|unfit| Problem::invalid("target", unfit))?;
                if ends_in_digits(&name) {
                    let rule = "is neither an address nor a host name: its last label is all digits";
                    return Err(Problem::invalid("target", format!("{} {rule}", printable(target))));
                }
                return Ok(Location::Target(name));
            }
            (None, None) => {
                let usual = peer.addresses.iter().map(|address| usable_address(*address, peer));
                let usual: Vec<IpAddr> = usual.collect::<Result<_, _>>()?;
                return Ok(Location::Addresses(usual.into()));
            }
            (Some(address), None) => &address.0,
        };
        let mut addresses: Vec<IpAddr> = Vec::new();
        for text in given {
            let several: &[IpAddr] = match text.as_str() {
                "localhost" => &[IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)],
                text => &[parse_address("address", text)?],
            };
            for &address in several {
                let address = usable_address(address, peer)?;
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        }
        match addresses.len() {
            0 => Err(Problem::invalid(
                "address",
                "must not be an empty list; leave it out to take the default",
            )),
            1..=ADDRESSES_MAX => Ok(Location::Addresses(addresses.into())),
            count => Err(Problem::invalid(
                "address",
                format!("may list at most {ADDRESSES_MAX} addresses, not {count}"),
            )),
        }
    }

    fn ports(&self) -> Result<Vec<Port>, Problem> {
        let mut ports = Vec::new();
        if let Some(port) = self.port {
            ports.push(Port { name: None, number: port_number("port", port)?, transport: Transport::Tcp });
        }
        for (name, form) in self.ports.iter().flat_map(|ports| &ports.0) {
            let field = format!("ports.{}", printable(name));
            // A named port answers at `_name._tcp.service`, so its name is a label.
            if !is_ldh_label(name.as_bytes()) {
                return Err(Problem::invalid(&field, "must be named with letters, digits and hyphens"));
            }
            let transport = match form.transport.as_deref() {
                None | Some("tcp") => Transport::Tcp,
                Some("udp") => Transport::Udp,
                Some(other) => {
                    return Err(Problem::invalid(
                        &field,
                        format!("has transport `{}`; use tcp or udp", printable(other)),
                    ));
                }
            };
            let port = Port {
                name: Some(name.to_ascii_lowercase().into()),
                number: port_number(&field, form.port)?,
                transport,
            };
            if ports.iter().any(|other: &Port| other.name == port.name) {
                return Err(Problem::invalid(&field, "is given twice"));
            }
            ports.push(port);
        }
        match ports.len() {
            // Whoever says that there is none means it.
            0 if self.port.is_none() && self.ports.is_some() => Ok(ports),
            0 => Err(Problem::invalid(
                "port",
                "is missing; give the port that the instance accepts on, 1 to 65535",
            )),
            1..=PORTS_MAX => Ok(ports),
            count => {
                Err(Problem::invalid("ports", format!("may list at most {PORTS_MAX} ports, not {count}")))
            }
        }
    }

    fn tags(&self) -> Result<Vec<Tag>, Problem> {
        let given = self.tags.as_deref().unwrap_or_default();
        if given.len() > TAGS_MAX {
            return Err(Problem::invalid(
                "tags",
                format!("may list at most {TAGS_MAX} tags, not {}", given.len()),
            ));
        }
        let mut tags = Vec::with_capacity(given.len());
        for tag in given {
            let tag = Tag::parse(tag).map_err(|unfit| Problem::invalid("tags", unfit))?;
            if !tags.contains(&tag) {
                tags.push(tag);
            }
        }
        Ok(tags)
    }

    fn meta(&self) -> Result<BTreeMap<Arc<str>, Arc<str>>, Problem> {
        let given = self.meta.as_ref().map(|meta| meta.0.as_slice()).unwrap_or_default();
        if given.len() > META_MAX {
            return Err(Problem::invalid(
                "meta",
                format!("may hold at most {META_MAX} pairs, not {}", given.len()),
            ));
        }
        let mut meta = BTreeMap::new();
        for (key, value) in given {
            let field = format!("meta.{}", printable(key));
            let fits = (1..=META_KEY_OCTETS_MAX).contains(&key.len())
                && !key.contains('=')
                && !key.chars().any(char::is_control);
            if !fits {
                let rule = format!(
                    "has a key that does not fit: 1 to {META_KEY_OCTETS_MAX} octets without `=` and controls"
                );
                return Err(Problem::invalid(&field, rule));
            }
            if value.len() > META_VALUE_OCTETS_MAX || value.chars().any(char::is_control) {
                let rule = format!("must be at most {META_VALUE_OCTETS_MAX} octets without controls");
                return Err(Problem::invalid(&field, rule));
            }
            meta.insert(key.as_str().into(), value.as_str().into());
        }
        Ok(meta)
    }

    fn lease(&self, peer: &Peer) -> Result<Lease, Problem> {
        match self.lease.as_deref() {
            None => Ok(Lease::Timed(LEASE_DEFAULT)),
            Some("connection") => Ok(Lease::Connection(peer.connection)),
            Some("none") => Ok(Lease::None),
            Some(text) => {
                let range = Duration::from_millis(LEASE_MS_MIN)..=Duration::from_millis(LEASE_MS_MAX);
                match parse_duration(text) {
                    Some(duration) if range.contains(&duration) => Ok(Lease::Timed(duration)),
                    Some(_) => {
                        let bounds = format!(
                            "{} to {}",
                            format_duration(*range.start()),
                            format_duration(*range.end())
                        );
                        Err(Problem::invalid(
                            "lease",
                            format!("must be {bounds}, or `connection` or `none`, not {}", printable(text)),
                        ))
                    }
                    None => {
                        let rule = format!(
                            "must be a duration such as 15s or 2m, or `connection` or `none`, not `{}`",
                            printable(text)
                        );
                        Err(Problem::invalid("lease", rule))
                    }
                }
            }
        }
    }
}

impl HolderForm<'_> {
    pub fn holder(&self, host: &HostName) -> Result<Holder, Problem> {
        Ok(Holder {
            key: key(&self.service, &self.id, self.host.as_deref(), host)?,
            lease_id: lease_id(self.lease_id.as_deref())?,
        })
    }
}

impl ReportForm {
    pub fn report(&self, host: &HostName) -> Result<Report, Problem> {
        let on = match (&self.service, &self.id) {
            (Some(service), Some(id)) => Subject::Instance(Holder {
                key: key(service, id, self.host.as_deref(), host)?,
                lease_id: lease_id(self.lease_id.as_deref())?,
            }),
            (None, None) => Subject::Host(host_or(self.host.as_deref(), host)?),
            (Some(_), None) => {
                return Err(Problem::invalid(
                    "id",
                    "is missing; a report is of an instance (service and id) or of a host",
                ));
            }
            (None, Some(_)) => {
                return Err(Problem::invalid(
                    "service",
                    "is missing; a report is of an instance (service and id) or of a host",
                ));
            }
        };
        Ok(Report {
            on,
            check: check_id("check", self.check.as_deref().unwrap_or(CHECK_DEFAULT))?,
            status: health("status", &self.status)?,
            output: self.output.as_deref().unwrap_or_default().into(),
            of: ReportOf::Any,
        })
    }
}

/// Which instances: every part that is there must hold.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub service: Option<ServiceName>,
    pub address: Option<IpAddr>,
    pub port: Option<u16>,
    pub protocol: Option<String>,
    pub tag: Option<String>,
    pub host: Option<String>,
    pub health: Option<Health>,
}

impl FilterForm {
    pub fn filter(&self) -> Result<Filter, Problem> {
        Ok(Filter {
            service: self
                .service
                .as_deref()
                .map(|name| ServiceName::parse(name).map_err(|unfit| Problem::invalid("service", unfit)))
                .transpose()?,
            address: self.address.as_deref().map(|text| parse_address("address", text)).transpose()?,
            port: self.port.map(|port| port_number("port", port)).transpose()?,
            protocol: self.protocol.clone(),
            tag: self.tag.clone(),
            host: self.host.as_deref().map(str::to_ascii_lowercase),
            health: self.health.as_deref().map(|status| health("health", status)).transpose()?,
        })
    }
}

impl Filter {
    /// A change that matches before or after it: leaving the filter is an event too. `host` is the health of the
    /// instance's host.
    pub fn concerns(&self, change: &Change, host: Health) -> bool {
        match &change.what {
            What::Instance { before, after } => {
                let matches = |it: &Arc<Instance>| self.matches(it, it.health().max(host));
                before.as_ref().is_some_and(matches) || after.as_ref().is_some_and(matches)
            }
            What::Forgotten { .. }
            | What::Host { .. }
            | What::Settings { .. }
            | What::Guard { .. }
            | What::Token { .. }
            | What::Plain { .. } => false,
        }
    }

    /// `health` is the instance's own and its host's together.
    pub fn matches(&self, instance: &Instance, health: Health) -> bool {
        self.service.as_ref().is_none_or(|service| *service == instance.key.service)
            && self.address.is_none_or(|address| instance.addresses().contains(&address))
            && self.port.is_none_or(|port| instance.ports.iter().any(|known| known.number == port))
            && self.protocol.as_deref().is_none_or(|protocol| Some(protocol) == instance.protocol.as_deref())
            && self.tag.as_deref().is_none_or(|tag| instance.tags.iter().any(|known| known.as_str() == tag))
            && self.host.as_deref().is_none_or(|host| instance.key.host.as_str() == host)
            && self.health.is_none_or(|wanted| wanted == health)
    }
}

fn key(service: &str, id: &str, host: Option<&str>, default: &HostName) -> Result<Key, Problem> {
    Ok(Key::new(
        ServiceName::parse(service).map_err(|unfit| Problem::invalid("service", unfit))?,
        InstanceId::parse(id).map_err(|unfit| Problem::invalid("id", unfit))?,
        host_or(host, default)?,
    ))
}

fn host_or(given: Option<&str>, default: &HostName) -> Result<HostName, Problem> {
    match given {
        None => Ok(default.clone()),
        Some(host) => HostName::parse(host).map_err(|unfit| Problem::invalid("host", unfit)),
    }
}

fn lease_id(given: Option<&str>) -> Result<Option<u64>, Problem> {
    let parse = |text: &str| u64::from_str_radix(text, 16).ok().filter(|_| text.len() == 16);
    match given {
        None => Ok(None),
        Some(text) => match parse(text) {
            Some(lease_id) => Ok(Some(lease_id)),
            None => Err(Problem::invalid(
                "lease_id",
                "must be the 16 hexadecimal digits that `registered` returned",
            )),
        },
    }
}

pub(super) fn number(field: &str, given: Option<i64>, min: u16, default: u16) -> Result<u16, Problem> {
    match given {
        None => Ok(default),
        Some(value) => u16::try_from(value)
            .ok()
            .filter(|value| *value >= min)
            .ok_or_else(|| Problem::invalid(field, format!("must be {min} to 65535, not {value}"))),
    }
}

fn port_number(field: &str, given: i64) -> Result<u16, Problem> {
    number(field, Some(given), 1, 1)
}

pub(super) fn health(field: &str, given: &str) -> Result<Health, Problem> {
    Health::parse(given).ok_or_else(|| {
        let rule = format!("must be passing, warning, critical or maintenance, not `{}`", printable(given));
        Problem::invalid(field, rule)
    })
}

fn word(field: &str, given: &str) -> Result<Arc<str>, Problem> {
    text_of(field, given, WORD_OCTETS_MAX)
}

pub(super) fn check_id(field: &str, given: &str) -> Result<Arc<str>, Problem> {
    text_of(field, given, CHECK_ID_OCTETS_MAX)
}

fn text_of(field: &str, given: &str, most: usize) -> Result<Arc<str>, Problem> {
    if (1..=most).contains(&given.len()) && !given.chars().any(char::is_control) {
        return Ok(given.into());
    }
    let rule = format!("must be 1 to {most} octets without controls, not `{}`", printable(given));
    Err(Problem::invalid(field, rule))
}

fn parse_address(field: &str, text: &str) -> Result<IpAddr, Problem> {
    let address: IpAddr = text.parse().map_err(|_| {
        let rule = format!(
            "must be an IPv4 or IPv6 address without a port, not `{}`; for a host name use `target`",
            printable(text)
        );
        Problem::invalid(field, rule)
    })?;
    Ok(address.to_canonical())
}

/// An address that a client elsewhere could connect to.
fn usable_address(address: IpAddr, peer: &Peer) -> Result<IpAddr, Problem> {
    match unusable(address, peer.loopback_allowed) {
        None => Ok(address),
        Some(reason) => Err(Problem::invalid("address", format!("{address} {reason}"))),
    }
}

/// Why an instance may not have this address, as the rest of a sentence; none where it may.
pub fn unusable(address: IpAddr, loopback_allowed: bool) -> Option<&'static str> {
    Some(match address {
        address if address.is_unspecified() => {
            "is the unspecified address; give the one that clients connect to"
        }
        address if address.is_multicast() => "is a multicast address; an instance has a unicast one",
        IpAddr::V4(v4) if v4.octets()[0] == 0 => "is in 0.0.0.0/8, which no machine can have (RFC 1122)",
        IpAddr::V4(v4) if v4.octets()[0] >= 240 && !v4.is_broadcast() => {
            "is in 240.0.0.0/4, which is reserved (RFC 1112)"
        }
        IpAddr::V4(v4) if v4.is_broadcast() => "is the broadcast address; an instance has a unicast one",
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            "is link-local, and DNS cannot carry its interface; give a global or unique local one"
        }
        address if address.is_loopback() && !loopback_allowed => {
            "is a loopback address, and this server answers other machines; give an address that they can reach, or set `allow-loopback = true`"
        }
        _ => return None,
    })
}
