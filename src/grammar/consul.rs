//! Owner names of the alias zone: Consul's spelling of what is asked of which service, host or address.
//!
//! As Consul reads them: the kind (`service`, `node`, `addr`) is the label nearest the apex that is one, what is
//! asked for stands in front of it, the data centre behind it. `_web._tcp` may do without a kind. Unlike
//! there, a name is read alike for every type, and the names above one that exists exist too (RFC 8020).

use std::net::IpAddr;

use crate::instance::Transport;

/// What a name asks for. Every text is lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner<'a> {
    /// `<apex>`
    Apex,
    /// `ns.<apex>`
    NameServer,
    /// `service`, `node.dc1`, `dc1`, `_tcp.service`: there because of what is below.
    Empty,
    /// `web.service`, `v2.web.service`: everything left of the service is one tag, with its dots; `_web._v2`.
    Service { service: &'a str, tag: Option<String> },
    /// `_web._tcp` (RFC 2782)
    ByTransport { service: &'a str, transport: Transport },
    /// `_v2.service`: there where `_web._v2.service` is.
    Tag(&'a str),
    /// `one.node`, `one.example.com.node`
    Node(String),
    /// `0a000007.addr`: an address in hexadecimal digits.
    Address(IpAddr),
}

/// Why a name asks for nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unread<'a> {
    /// It spells nothing.
    Nothing,
    /// In front of `addr` stands no address.
    NoAddress,
    /// A data centre that is not ours.
    Datacenter(&'a str),
    /// Something that Consul has and we do not, in a word or two.
    Lacking(&'static str),
}

/// Labels that say what kind of thing is asked for.
const KINDS: [&str; 7] = ["service", "node", "addr", "query", "connect", "virtual", "ingress"];

/// Reads the labels below the apex, in lower case, leftmost first.
pub fn parse<'a>(labels: &[&'a [u8]], datacenter: &str) -> Result<Owner<'a>, Unread<'a>> {
    let mut texts = Vec::with_capacity(labels.len());
    for label in labels {
        let text = std::str::from_utf8(label).map_err(|_| Unread::Nothing)?;
        // Labels are joined with dots below; one that holds a dot would spell another name's text.
        if text.contains('.') {
            return Err(Unread::Nothing);
        }
        texts.push(text);
    }
    match texts[..] {
        [] => return Ok(Owner::Apex),
        ["ns"] => return Ok(Owner::NameServer),
        ["dc"] => return Ok(Owner::Empty),
        [place] | [place, "dc"] if place == datacenter => return Ok(Owner::Empty),
        _ => {}
    }
    let is_kind = |text: &&str| KINDS.contains(text) || text.starts_with('_');
    let at = texts.iter().rposition(is_kind).ok_or(Unread::Nothing)?;
    in_place(&texts[at + 1..], datacenter)?;
    match (texts[at], &texts[..at]) {
        ("service", asked) => of_service(asked),
        ("node" | "addr", []) => Ok(Owner::Empty),
        ("node", name) => Ok(Owner::Node(name.join("."))),
        ("addr", [digits]) => address(digits).map(Owner::Address).ok_or(Unread::NoAddress),
        ("addr", _) => Err(Unread::NoAddress),
        ("query", _) => Err(Unread::Lacking("prepared queries")),
        ("connect" | "virtual" | "ingress", _) => Err(Unread::Lacking("service mesh")),
        _ => of_service(&texts[..=at]),
    }
}

/// What stands behind the kind: nothing, `dc1` or `dc1.dc`.
fn in_place<'a>(place: &[&'a str], datacenter: &str) -> Result<(), Unread<'a>> {
    match place {
        [] => Ok(()),
        [named] | [named, "dc"] if *named == datacenter => Ok(()),
        [named] | [named, "dc"] => Err(Unread::Datacenter(named)),
        [_, "peer"] => Err(Unread::Lacking("peers")),
        [.., "ns" | "ap" | "sg"] => Err(Unread::Lacking("namespaces or partitions")),
        _ => Err(Unread::Nothing),
    }
}

fn of_service<'a>(asked: &[&'a str]) -> Result<Owner<'a>, Unread<'a>> {
    match asked {
        [] => Ok(Owner::Empty),
        [only] => match (only.strip_prefix('_'), transport(only)) {
            (Some(_), Some(_)) => Ok(Owner::Empty),
            (Some(tag), None) => Ok(Owner::Tag(tag)),
            (None, _) => Ok(Owner::Service { service: only, tag: None }),
        },
        [first, second] if first.starts_with('_') && second.starts_with('_') => {
            let service = &first[1..];
            match transport(second) {
                Some(transport) => Ok(Owner::ByTransport { service, transport }),
                None => Ok(Owner::Service { service, tag: Some(second[1..].to_owned()) }),
            }
        }
        [tag @ .., service] => Ok(Owner::Service { service, tag: Some(tag.join(".")) }),
    }
}

/// Eight hexadecimal digits are an IPv4 address, 32 an IPv6 one.
fn address(digits: &str) -> Option<IpAddr> {
    // `from_str_radix` would take a sign.
    if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    match digits.len() {
        8 => u32::from_str_radix(digits, 16).ok().map(|number| IpAddr::V4(number.into())),
        32 => u128::from_str_radix(digits, 16).ok().map(|number| IpAddr::V6(number.into())),
        _ => None,
    }
}

/// The other way round: the label of an address in front of `addr`.
pub fn address_label(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => format!("{:08x}", u32::from(v4)),
        IpAddr::V6(v6) => format!("{:032x}", u128::from(v6)),
    }
}

fn transport(label: &str) -> Option<Transport> {
    Transport::ALL.into_iter().find(|transport| transport.label() == label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &'static str) -> Result<Owner<'static>, Unread<'static>> {
        let labels: Vec<&[u8]> =
            text.split('.').filter(|label| !label.is_empty()).map(str::as_bytes).collect();
        parse(&labels, "dc1")
    }

    #[test]
    fn owners_are_read() {
        use Transport::{Tcp, Udp};
        let service = |service, tag: Option<&str>| Owner::Service { service, tag: tag.map(str::to_owned) };
        let node = |name: &str| Owner::Node(name.to_owned());
        let v6 = IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 7]);
        for (text, owner) in [
            ("", Owner::Apex),
            ("ns", Owner::NameServer),
            ("service", Owner::Empty),
            ("node.dc1", Owner::Empty),
            ("addr.dc1.dc", Owner::Empty),
            ("dc1", Owner::Empty),
            ("dc1.dc", Owner::Empty),
            ("dc", Owner::Empty),
            ("web.service", service("web", None)),
            ("web.service.dc1", service("web", None)),
            ("web.service.dc1.dc", service("web", None)),
            ("v2.web.service", service("web", Some("v2"))),
            ("v1.0.1.web.service.dc1", service("web", Some("v1.0.1"))),
            ("_v2.web.service", service("web", Some("_v2"))),
            ("_web._v2.service", service("web", Some("v2"))),
            ("_web._v2.dc1", service("web", Some("v2"))),
            ("_web._tcp", Owner::ByTransport { service: "web", transport: Tcp }),
            ("_web._udp.service.dc1", Owner::ByTransport { service: "web", transport: Udp }),
            ("_tcp.service", Owner::Empty),
            ("_udp", Owner::Empty),
            ("_v2.service", Owner::Tag("v2")),
            ("one.node", node("one")),
            ("db1.example.com.node.dc1", node("db1.example.com")),
            // The kind nearest the apex counts: these are tags and hosts.
            ("node.web.service", service("web", Some("node"))),
            ("web.service.node", node("web.service")),
            ("service.service", service("service", None)),
            ("0a000007.addr", Owner::Address([10, 0, 0, 7].into())),
            ("20010db8000000000000000000000007.addr.dc1", Owner::Address(v6)),
        ] {
            assert_eq!(read(text), Ok(owner), "{text}");
        }
    }

    #[test]
    fn what_asks_for_nothing_says_why() {
        use Unread::{Datacenter, Lacking, NoAddress, Nothing};
        for (text, why) in [
            ("web", Nothing),
            ("x.dc1", Nothing),
            ("dc2", Nothing),
            ("web.service.dc2", Datacenter("dc2")),
            ("service.dc2.dc", Datacenter("dc2")),
            ("web.service.failover", Datacenter("failover")),
            ("web.service.x.dc1", Nothing),
            ("web.service.x.peer", Lacking("peers")),
            ("web.service.x.ns.y.ap", Lacking("namespaces or partitions")),
            ("x.query", Lacking("prepared queries")),
            ("query", Lacking("prepared queries")),
            ("web.connect.dc1", Lacking("service mesh")),
            ("web.virtual", Lacking("service mesh")),
            ("web.ingress", Lacking("service mesh")),
            ("0a00007.addr", NoAddress),
            ("+a000007.addr", NoAddress),
            ("0a00000g.addr", NoAddress),
            ("1.0a000007.addr", NoAddress),
        ] {
            assert_eq!(read(text), Err(why), "{text}");
        }
        assert_eq!(parse(&[b"\xff", b"service"], "dc1"), Err(Nothing));
        assert_eq!(parse(&[b"v1.0", b"web", b"service"], "dc1"), Err(Nothing));
    }

    #[test]
    fn addresses_go_both_ways() {
        for text in ["10.0.0.7", "0.0.0.0", "255.255.255.255", "::", "2001:db8::7", "::ffff:10.0.0.7"] {
            let known: IpAddr = text.parse().unwrap();
            assert_eq!(address(&address_label(known)), Some(known));
        }
    }
}
