//! Owner names of the live zone: what each asks of which service, and back.
//!
//! Purely a matter of spelling (docs/names.md); whether the service is known, and what it answers, is
//! `answer`'s business. The names of the alias zone are read by `consul`, those of addresses by `reverse`.

use crate::instance::Transport;

pub mod consul;
pub mod reverse;

/// What the labels in front of the apex ask for. Every text is lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner<'a> {
    /// `<apex>`
    Apex,
    /// `ns`: where DNS is answered; `a.ns`: at one node.
    NameServer(Option<&'a str>),
    /// `_callsign._tcp`: where registrations are taken.
    Registrations,
    /// `callsign`: the addresses of those; `a.callsign`: of one node.
    Registration(Option<&'a str>),
    /// `_tcp`, `_udp`, `_dns-sd._udp`: there because of what is below, and empty (RFC 8020).
    Empty,
    /// `_services._dns-sd._udp`: every service type (RFC 6763 section 9).
    Types,
    /// `b._dns-sd._udp`, `db.`, `lb.`: the domain to browse (RFC 6763 section 11).
    Browse,
    /// `web`
    Service(&'a str),
    /// `_web._tcp` (RFC 2782)
    ByTransport(&'a str, Transport),
    /// `_http._tcp.web`: the port of that name.
    ByPort { service: &'a str, port: &'a str, transport: Transport },
    /// `_tcp.web`: there where `ByPort` is.
    Ports(&'a str, Transport),
    /// `_web._v2`: the instances with a tag.
    ByTag { service: &'a str, tag: &'a str },
    /// `_v2`: there where `ByTag` is.
    Tag(&'a str),
    /// `<id>.web`, or `v2.web` where no instance has that label.
    Below { service: &'a str, label: &'a str },
    /// `<id>._web._tcp` (RFC 6763 section 4.1); any octets of UTF-8 without `_` in front.
    TypeInstance { service: &'a str, label: &'a str, transport: Transport },
    /// `_v2._sub._web._tcp`: the instances with a tag, to browse (RFC 6763 section 7.1).
    Subtype { service: &'a str, tag: &'a str, transport: Transport },
    /// `_sub._web._tcp`: there where `Subtype` is.
    Subtypes(&'a str, Transport),
}

impl<'a> Owner<'a> {
    /// The service that a name of this spelling belongs to.
    pub fn service(self) -> Option<&'a str> {
        match self {
            Self::Service(service)
            | Self::ByTransport(service, _)
            | Self::Ports(service, _)
            | Self::Subtypes(service, _)
            | Self::ByPort { service, .. }
            | Self::ByTag { service, .. }
            | Self::Below { service, .. }
            | Self::TypeInstance { service, .. }
            | Self::Subtype { service, .. } => Some(service),
            Self::Apex
            | Self::NameServer(_)
            | Self::Registrations
            | Self::Registration(_)
            | Self::Empty
            | Self::Types
            | Self::Browse
            | Self::Tag(_) => None,
        }
    }
}

/// Reads the labels below the apex, in lower case, leftmost first; `None` where they spell nothing.
pub fn parse<'a>(labels: &[&'a [u8]]) -> Option<Owner<'a>> {
    let mut texts = [""; 4];
    if labels.len() > texts.len() {
        return None;
    }
    for (text, label) in texts.iter_mut().zip(labels) {
        *text = std::str::from_utf8(label).ok()?;
    }
    let owner = match texts[..labels.len()] {
        [] => Owner::Apex,
        ["ns"] => Owner::NameServer(None),
        ["callsign"] => Owner::Registration(None),
        ["_callsign", "_tcp"] => Owner::Registrations,
        ["_tcp" | "_udp"] | ["_dns-sd", "_udp"] => Owner::Empty,
        ["_services", "_dns-sd", "_udp"] => Owner::Types,
        ["b" | "db" | "lb", "_dns-sd", "_udp"] => Owner::Browse,
        // The domains to register in, of which we have none: DNS-SD itself is no service.
        [_, "_dns-sd", "_udp"] => return None,
        [node, "ns"] if !node.starts_with('_') => Owner::NameServer(Some(node)),
        [node, "callsign"] if !node.starts_with('_') => Owner::Registration(Some(node)),
        [label] => match label.strip_prefix('_') {
            Some(tag) => Owner::Tag(tag),
            None => Owner::Service(label),
        },
        [first, second] => match (first.strip_prefix('_'), transport(second)) {
            (Some(service), Some(transport)) => Owner::ByTransport(service, transport),
            (Some(_), None) => match (transport(first), second.strip_prefix('_')) {
                (Some(transport), None) => Owner::Ports(second, transport),
                (None, Some(tag)) => Owner::ByTag { service: &first[1..], tag },
                _ => return None,
            },
            (None, _) if !second.starts_with('_') => Owner::Below { service: second, label: first },
            (None, _) => return None,
        },
        ["_sub", second, third] if transport(third).is_some() => {
            Owner::Subtypes(second.strip_prefix('_')?, transport(third)?)
        }
        [first, "_sub", third, fourth] => Owner::Subtype {
            service: third.strip_prefix('_')?,
            tag: first.strip_prefix('_')?,
            transport: transport(fourth)?,
        },
        [first, second, third] => match (first.strip_prefix('_'), second.strip_prefix('_'), transport(third))
        {
            (None, Some(service), Some(transport)) => {
                Owner::TypeInstance { service, label: first, transport }
            }
            (Some(port), Some(_), None) if !third.starts_with('_') => {
                Owner::ByPort { service: third, port, transport: transport(second)? }
            }
            _ => return None,
        },
        _ => return None,
    };
    Some(owner)
}

fn transport(label: &str) -> Option<Transport> {
    Transport::ALL.into_iter().find(|transport| transport.label() == label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_read() {
        let read = |text: &'static str| {
            let labels: Vec<&[u8]> =
                text.split('.').filter(|label| !label.is_empty()).map(str::as_bytes).collect();
            parse(&labels)
        };
        use Transport::{Tcp, Udp};
        for (text, owner) in [
            ("", Some(Owner::Apex)),
            ("ns", Some(Owner::NameServer(None))),
            ("a.ns", Some(Owner::NameServer(Some("a")))),
            ("callsign", Some(Owner::Registration(None))),
            ("a.callsign", Some(Owner::Registration(Some("a")))),
            ("_callsign._tcp", Some(Owner::Registrations)),
            ("_callsign._udp", Some(Owner::ByTransport("callsign", Udp))),
            ("web", Some(Owner::Service("web"))),
            ("_tcp", Some(Owner::Empty)),
            ("_v2", Some(Owner::Tag("v2"))),
            ("_web._tcp", Some(Owner::ByTransport("web", Tcp))),
            ("_dns-sd._udp", Some(Owner::Empty)),
            ("_services._dns-sd._udp", Some(Owner::Types)),
            ("lb._dns-sd._udp", Some(Owner::Browse)),
            ("db._dns-sd._udp", Some(Owner::Browse)),
            ("r._dns-sd._udp", None),
            ("_v2._sub._web._tcp", Some(Owner::Subtype { service: "web", tag: "v2", transport: Tcp })),
            ("_sub._web._udp", Some(Owner::Subtypes("web", Udp))),
            ("v2._sub._web._tcp", None),
            ("_v2._sub.web._tcp", None),
            ("_v2._sub._web._v3", None),
            ("_v2._of._web._tcp", None),
            ("_sub._tcp.web", Some(Owner::ByPort { service: "web", port: "sub", transport: Tcp })),
            ("_web._v2", Some(Owner::ByTag { service: "web", tag: "v2" })),
            ("_tcp.web", Some(Owner::Ports("web", Tcp))),
            ("web-1.web", Some(Owner::Below { service: "web", label: "web-1" })),
            ("_http._tcp.web", Some(Owner::ByPort { service: "web", port: "http", transport: Tcp })),
            ("web-1._web._udp", Some(Owner::TypeInstance { service: "web", label: "web-1", transport: Udp })),
            ("x.web-1.web", None),
            ("web-1._v2", None),
            ("_tcp._tcp", Some(Owner::ByTransport("tcp", Tcp))),
            ("_http._v2.web", None),
            ("a.b.c.d", None),
        ] {
            assert_eq!(read(text), owner, "{text}");
        }
        assert_eq!(parse(&[b"\xff"]), None);
    }
}
