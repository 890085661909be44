//! Service bindings (RFC 9460): HTTPS for a service, SVCB for a named port, from what the instances registered.
//!
//! One record an instance, in ServiceMode, whose target is the instance's own name. AliasMode would send a client
//! elsewhere for everything, and a target of `.` would put all addresses of the service behind one port.

use std::collections::HashSet;
use std::net::IpAddr;

use super::choice::Rule;
use super::{Candidate, Content, Live};
use crate::answer::Found;
use crate::instance::{Instance, Location, Port, Transport};
use crate::name::Apex;
use crate::record::{Data, Type};
use crate::view::{Member, ServiceView, target_of};

/// What a protocol's name says of TLS: the ALPN protocol (RFC 9460 section 7.1), and what carries it.
struct Secure {
    protocol: &'static str,
    alpn: &'static str,
    transport: Transport,
}

/// The protocols that HTTPS is answered for: it makes clients upgrade, so nothing else will do.
const SECURE: [Secure; 3] = [
    Secure { protocol: "https", alpn: "http/1.1", transport: Transport::Tcp },
    Secure { protocol: "h2", alpn: "h2", transport: Transport::Tcp },
    Secure { protocol: "h3", alpn: "h3", transport: Transport::Udp },
];

/// Parameters by number, which is their order on the wire (RFC 9460 sections 2.2 and 14.3.2).
const ALPN: u16 = 1;
const NO_DEFAULT_ALPN: u16 = 2;
const PORT: u16 = 3;
const IPV4HINT: u16 = 4;
const IPV6HINT: u16 = 6;

impl Live<'_> {
    /// HTTPS at the service's name: the live instances that speak HTTP over TLS, at the port where they do.
    pub(super) fn https(&self, service: &ServiceView) -> Found {
        match self.bindings(service, https_port) {
            Found::NoData(None) => Found::NoData(
                self.ede(|| format!("{}: no live instance speaks https, h2 or h3", service.name)),
            ),
            found => found,
        }
    }

    /// SVCB at the name of a port (docs/names.md), or HTTPS: each live instance that has it.
    ///
    /// Priorities are the instances' own and one more, for 0 is AliasMode; hints are the addresses of the
    /// lowest priority that has a live instance, as A and AAAA are.
    pub(super) fn bindings<'m>(
        &self,
        service: &'m ServiceView,
        port: impl Fn(&'m Instance) -> Option<&'m Port>,
    ) -> Found {
        let fitting: Vec<(&Member, &Port)> =
            service.in_answers().filter_map(|member| Some((member, port(&member.instance)?))).collect();
        let lowest = fitting.iter().map(|(member, _)| member.instance.priority).min();
        let mut seen = HashSet::new();
        let mut candidates = Vec::with_capacity(fitting.len());
        for (member, port) in fitting {
            let priority = member.instance.priority;
            let hints = Some(priority) == lowest;
            let content = Content::Binding { port, hints };
            // Only those that name a target can be alike, and an RRset is a set (RFC 2181 section 5).
            if matches!(member.instance.location, Location::Target(_))
                && !seen.insert(self.binding(member, port, hints))
            {
                continue;
            }
            candidates.push(Candidate { priority, ..Candidate::new(content, member) });
        }
        let selection = self.choose(&Rule::of(service), candidates);
        self.records_or_none(selection, Some(service))
    }

    /// See [`binding_data`].
    pub(super) fn binding(&self, member: &Member, port: &Port, hints: bool) -> Data {
        binding_data(self.apex, self.qtype, member, port, hints)
    }
}

/// The port that HTTPS is answered for, where the instance speaks HTTP over TLS.
pub(super) fn https_port(instance: &Instance) -> Option<&Port> {
    secure(instance).and_then(|secure| secure_port(instance, secure))
}

/// The data of one instance's record, SVCB or HTTPS, in the order of RFC 9460 section 2.2.
pub(super) fn binding_data(apex: &Apex, rtype: Type, member: &Member, port: &Port, hints: bool) -> Data {
    let instance = &*member.instance;
    let mut params = Vec::new();
    let mut put = |key: u16, value: &[u8]| {
        params.extend(key.to_be_bytes());
        params.extend((value.len() as u16).to_be_bytes());
        params.extend(value);
    };
    let secure = secure(instance).filter(|secure| secure_port(instance, secure) == Some(port));
    if let Some(secure) = secure {
        put(ALPN, &[&[secure.alpn.len() as u8], secure.alpn.as_bytes()].concat());
        // Over TCP the handshake agrees on what both speak; where QUIC is, there is no HTTP/1.1 beside it.
        if rtype == Type::HTTPS && secure.transport == Transport::Udp {
            put(NO_DEFAULT_ALPN, &[]);
        }
    }
    put(PORT, &port.number.to_be_bytes());
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for address in instance.addresses().iter().filter(|_| hints) {
        match address {
            IpAddr::V4(address) => v4.extend(address.octets()),
            IpAddr::V6(address) => v6.extend(address.octets()),
        }
    }
    for (key, addresses) in [(IPV4HINT, &v4), (IPV6HINT, &v6)] {
        if !addresses.is_empty() {
            put(key, addresses);
        }
    }
    Data::Svcb {
        rtype,
        priority: instance.priority.saturating_add(1),
        target: target_of(instance, apex),
        params: params.into(),
    }
}

fn secure(instance: &Instance) -> Option<&'static Secure> {
    let protocol = instance.protocol.as_deref()?;
    SECURE.iter().find(|secure| secure.protocol.eq_ignore_ascii_case(protocol))
}

/// Where an instance speaks it: the port of that name, else the first of its transport, else, for who said no
/// transport, the first of all.
fn secure_port<'i>(instance: &'i Instance, secure: &Secure) -> Option<&'i Port> {
    let named = instance.ports.iter().find(|port| port.name.as_deref() == Some(secure.protocol));
    let carried = instance.ports.iter().find(|port| port.transport == secure.transport);
    named.or(carried).or(instance.ports.first())
}
