//! The zones that docs/names.md makes of a registry, written out: every name with every record.
//!
//! Nothing of the server's own reading or answering of names is used: this is the second opinion.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use crate::registry::Drawn;

pub const DOMAINS: [&str; 2] = ["service.local", "svc.internal"];
/// One zone, two, four of one address each, and one that ends between two nibbles.
pub const NETWORKS: [&str; 4] = ["10.0.0.0/16", "10.1.0.0/23", "10.2.1.0/30", "2001:db8::/47"];
/// The record tree of the first domain: owner, type, data.
const TREE: [(&str, &str, &str); 5] = [
    ("printer", "A", "10.9.9.9"),
    ("printer", "MX", "10 mail"),
    ("mail", "AAAA", "2001:db8::25"),
    ("a.b.deep", "TXT", "\"x\""),
    ("*.lab", "A", "10.9.9.10"),
];

/// The type that marks a name which is there without a record; nobody asks for it.
const MARK: &str = "TYPE65280";
const TTL: u32 = 5;
const APEX_TTL: u32 = 60;
const NEGATIVE_TTL: u32 = 2;

/// RRsets by owner, in lower case, and type: TTL, and the data as zone-file text.
#[derive(Default)]
pub struct Zone {
    pub apex: String,
    pub sets: BTreeMap<String, BTreeMap<&'static str, (u32, BTreeSet<String>)>>,
}

impl Zone {
    fn new(apex: &str, mname: &str, serial: u32) -> Self {
        let mut zone = Self { apex: apex.to_owned(), ..Self::default() };
        let soa = format!("ns.{mname}. hostmaster.{mname}. {serial} 300 60 86400 {NEGATIVE_TTL}");
        zone.add(apex, "SOA", NEGATIVE_TTL, soa);
        zone.add(apex, "NS", APEX_TTL, format!("ns.{mname}."));
        zone
    }

    fn add(&mut self, owner: &str, rtype: &'static str, ttl: u32, data: impl Into<String>) {
        let sets = self.sets.entry(owner.to_lowercase()).or_default();
        let set = sets.entry(rtype).or_insert((ttl, BTreeSet::new()));
        set.0 = set.0.min(ttl);
        set.1.insert(data.into());
    }

    /// The name is there, whatever its records.
    fn mark(&mut self, owner: &str) {
        self.add(owner, MARK, TTL, "\\# 1 00");
    }

    pub fn text(&self) -> String {
        let mut text = format!("$ORIGIN {}.\n", self.apex);
        // The SOA comes first in a file.
        let of_apex = &self.sets[&self.apex];
        let (ttl, soa) = &of_apex["SOA"];
        writeln!(text, "{}. {ttl} IN SOA {}", self.apex, soa.first().expect("a SOA")).expect("a text");
        for (owner, sets) in &self.sets {
            // Beside an alias a zone file has nothing, and of such a name only addresses are asked for.
            let alias = sets.contains_key("CNAME");
            let written = |rtype: &str| rtype != "SOA" && (!alias || rtype == "CNAME");
            for (rtype, (ttl, data)) in sets.iter().filter(|(rtype, _)| written(rtype)) {
                for data in data {
                    writeln!(text, "{owner}. {ttl} IN {rtype} {data}").expect("a text");
                }
            }
        }
        text
    }
}

/// An instance as the list shows it.
struct Instance<'a> {
    form: &'a Value,
    service: &'a str,
    label: &'a str,
    live: bool,
}

impl<'a> Instance<'a> {
    fn of(form: &'a Value) -> Self {
        let text = |key: &str| form[key].as_str().expect("a text in the list");
        Self { form, service: text("service"), label: text("label"), live: form["live"] == true }
    }

    fn addresses(&self) -> Vec<IpAddr> {
        let texts = self.form["address"].as_array().expect("addresses").iter();
        texts.map(|text| text.as_str().expect("a text").parse().expect("an address")).collect()
    }

    fn number(&self, key: &str) -> u64 {
        self.form[key].as_u64().expect("a number")
    }

    /// Name, number, transport; in order.
    fn ports(&self) -> Vec<(Option<&'a str>, u64, &'a str)> {
        let ports = self.form["ports"].as_array().expect("ports").iter();
        ports
            .map(|port| {
                (
                    port["name"].as_str(),
                    port["port"].as_u64().expect("a port"),
                    port["transport"].as_str().unwrap_or("tcp"),
                )
            })
            .collect()
    }

    fn port_of(&self, transport: &str) -> Option<u64> {
        self.ports().iter().find(|(_, _, of)| *of == transport).map(|(_, port, _)| *port)
    }

    fn tags(&self) -> Vec<&'a str> {
        self.form["tags"].as_array().expect("tags").iter().filter_map(Value::as_str).collect()
    }

    /// Where SRV points in a domain.
    fn target(&self, domain: &str) -> String {
        match self.form["target"].as_str() {
            Some(target) => target.to_owned(),
            None => format!("{}.{}.{domain}.", self.label, self.service),
        }
    }

    fn srv(&self, port: u64, domain: &str) -> String {
        format!("{} {} {port} {}", self.number("priority"), self.number("weight"), self.target(domain))
    }

    /// RFC 6763 section 6, in the order of the keys.
    fn txt(&self) -> String {
        let meta = self.form["meta"].as_object().expect("metadata");
        let mut strings: Vec<String> =
            meta.iter().map(|(key, value)| format!("{key}={}", value.as_str().expect("a text"))).collect();
        strings.sort();
        if !self.tags().is_empty() {
            strings.push(format!("tags={}", self.tags().join(",")));
        }
        strings.retain(|string| string.len() <= 255);
        if strings.is_empty() {
            strings.push(String::new());
        }
        let quoted =
            strings.iter().map(|string| format!("\"{}\"", string.replace('\\', "\\\\").replace('"', "\\\"")));
        quoted.collect::<Vec<_>>().join(" ")
    }

    /// The names of an instance in DNS-SD: what browsing shows, and its label.
    fn names(&self) -> [String; 2] {
        let id = self.form["id"].as_str().expect("an id");
        let is_label = id.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-');
        let mut shown = String::new();
        for octet in id.bytes() {
            match octet {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' => shown.push(char::from(octet)),
                octet => write!(shown, "\\{octet:03}").expect("a text"),
            }
        }
        [if is_label { self.label.to_owned() } else { shown }, self.label.to_owned()]
    }

    /// A service binding, and the protocol that is spoken at the port.
    fn binding(&self, port: u64, hints: bool, domain: &str, https: bool) -> String {
        let mut text = format!("{} {}", (self.number("priority") + 1).min(65_535), self.target(domain));
        let alpn = match self.form["protocol"].as_str() {
            Some("https") => Some(("http/1.1", false)),
            Some("h2") => Some(("h2", false)),
            Some("h3") => Some(("h3", true)),
            _ => None,
        };
        if let Some((alpn, alone)) = alpn.filter(|_| self.secure_port() == Some(port)) {
            write!(text, " alpn={alpn}").expect("a text");
            if alone && https {
                text.push_str(" no-default-alpn");
            }
        }
        write!(text, " port={port}").expect("a text");
        for (key, v4) in [("ipv4hint", true), ("ipv6hint", false)] {
            let of_family: Vec<String> = self
                .addresses()
                .iter()
                .filter(|address| hints && address.is_ipv4() == v4)
                .map(IpAddr::to_string)
                .collect();
            if !of_family.is_empty() {
                write!(text, " {key}={}", of_family.join(",")).expect("a text");
            }
        }
        text
    }

    /// The port where the instance speaks HTTP over TLS, where it does.
    fn secure_port(&self) -> Option<u64> {
        let transport = match self.form["protocol"].as_str()? {
            "https" | "h2" => "tcp",
            "h3" => "udp",
            _ => return None,
        };
        self.port_of(transport).or(self.ports().first().map(|(_, port, _)| *port))
    }
}

/// What is known of one service.
struct Service<'a> {
    name: &'a str,
    ttl: u32,
    members: Vec<Instance<'a>>,
    gone: &'a [Value],
}

/// One that left: its ports and tags still make names.
fn gone_ports(form: &Value) -> Vec<(Option<String>, &str)> {
    let mut ports = Vec::new();
    if form["port"].is_u64() {
        ports.push((None, "tcp"));
    }
    for (name, port) in form["ports"].as_object().into_iter().flatten() {
        ports.push((Some(name.clone()), port["transport"].as_str().unwrap_or("tcp")));
    }
    ports
}

impl Service<'_> {
    fn is_type(&self) -> bool {
        self.name.len() <= 15
    }

    /// The transports that some known instance has a port of.
    fn transports(&self) -> BTreeSet<String> {
        let mut found: BTreeSet<String> = BTreeSet::new();
        for member in &self.members {
            found.extend(member.ports().iter().map(|(_, _, transport)| (*transport).to_owned()));
        }
        for form in self.gone {
            found.extend(gone_ports(form).into_iter().map(|(_, transport)| transport.to_owned()));
        }
        found
    }

    /// Name and transport of every named port that is known.
    fn named_ports(&self) -> BTreeSet<(String, String)> {
        let mut found = BTreeSet::new();
        for member in &self.members {
            let named =
                member.ports().into_iter().filter_map(|(name, _, transport)| Some((name?, transport)));
            found.extend(named.map(|(name, transport)| (name.to_owned(), transport.to_owned())));
        }
        for form in self.gone {
            let named = gone_ports(form).into_iter().filter_map(|(name, transport)| Some((name?, transport)));
            found.extend(named.map(|(name, transport)| (name, transport.to_owned())));
        }
        found
    }

    /// The tags that are labels, of every known instance; and the transports of those that have each.
    fn tags(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut note = |tag: &str, transports: Vec<String>| {
            if !tag.contains('.') {
                found.entry(tag.to_lowercase()).or_default().extend(transports);
            }
        };
        for member in &self.members {
            for tag in member.tags() {
                note(tag, member.ports().iter().map(|(_, _, transport)| (*transport).to_owned()).collect());
            }
        }
        for form in self.gone {
            for tag in form["tags"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                note(tag, gone_ports(form).into_iter().map(|(_, transport)| transport.to_owned()).collect());
            }
        }
        found
    }

    /// A and AAAA of the lowest priority among these, or an alias where there is one of it and that names a target.
    fn add_addresses(&self, zone: &mut Zone, owner: &str, live: &[&Instance<'_>]) {
        let lowest = live.iter().map(|member| member.number("priority")).min();
        let lowest: Vec<_> = live.iter().filter(|member| Some(member.number("priority")) == lowest).collect();
        if let [only] = lowest[..]
            && let Some(target) = only.form["target"].as_str()
        {
            return zone.add(owner, "CNAME", self.ttl, target);
        }
        for member in lowest {
            add_addresses(zone, owner, self.ttl, member);
        }
    }

    fn add(&self, zone: &mut Zone, domain: &str) {
        let name = self.name;
        let live: Vec<&Instance<'_>> = self.members.iter().filter(|member| member.live).collect();
        let own = format!("{name}.{domain}");
        zone.mark(&own);
        self.add_addresses(zone, &own, &live);
        for member in &live {
            zone.add(&own, "SRV", self.ttl, member.srv(member.ports()[0].1, domain));
            zone.add(&own, "TXT", self.ttl, member.txt());
        }
        if live.is_empty() {
            zone.add(&own, "TXT", self.ttl, "\"\"");
        }
        let secure = |member: &&&Instance<'_>| member.secure_port().is_some();
        let lowest = live.iter().filter(secure).map(|member| member.number("priority")).min();
        for member in live.iter().filter(secure) {
            let hints = Some(member.number("priority")) == lowest;
            let port = member.secure_port().expect("it has one");
            zone.add(&own, "HTTPS", self.ttl, member.binding(port, hints, domain, true));
        }
        for transport in &self.transports() {
            self.add_transport(zone, domain, transport, &live);
        }
        for (port_name, transport) in self.named_ports() {
            let owner = format!("_{port_name}._{transport}.{own}");
            zone.mark(&owner);
            let of_name: Vec<(&Instance<'_>, u64)> = live
                .iter()
                .filter_map(|member| {
                    let port = member
                        .ports()
                        .into_iter()
                        .find(|(own, _, of)| *own == Some(&port_name) && *of == transport)?;
                    Some((*member, port.1))
                })
                .collect();
            let is_of = |member: &Instance<'_>| {
                member.ports().iter().any(|(own, _, of)| *own == Some(&port_name) && *of == transport)
            };
            if of_name.is_empty() && self.members.iter().any(is_of) {
                zone.add(&owner, "TXT", self.ttl, "\"\"");
            }
            let lowest = of_name.iter().map(|(member, _)| member.number("priority")).min();
            for (member, port) in of_name {
                zone.add(&owner, "SRV", self.ttl, member.srv(port, domain));
                let hints = Some(member.number("priority")) == lowest;
                zone.add(&owner, "SVCB", self.ttl, member.binding(port, hints, domain, false));
            }
        }
        for (tag, transports) in self.tags() {
            self.add_tag(zone, domain, &tag, &transports, &live);
        }
        for member in &self.members {
            self.add_instance(zone, domain, member);
        }
        for form in self.gone {
            let id = form["id"].as_str().expect("an id").to_lowercase();
            // One whose label is a hash of the id: nobody asks for it.
            if !id.contains(' ') {
                zone.mark(&format!("{id}.{own}"));
            }
        }
    }

    fn add_transport(&self, zone: &mut Zone, domain: &str, transport: &str, live: &[&Instance<'_>]) {
        let owner = format!("_{}._{transport}.{domain}", self.name);
        zone.mark(&owner);
        if self.is_type() {
            zone.add(&format!("_services._dns-sd._udp.{domain}"), "PTR", TTL, format!("{owner}."));
        }
        for member in live {
            let Some(port) = member.port_of(transport) else { continue };
            zone.add(&owner, "SRV", self.ttl, member.srv(port, domain));
            if self.is_type() {
                zone.add(&owner, "PTR", self.ttl, format!("{}.{owner}.", member.names()[0]));
            }
        }
    }

    fn add_tag(
        &self,
        zone: &mut Zone,
        domain: &str,
        tag: &str,
        transports: &BTreeSet<String>,
        live: &[&Instance<'_>],
    ) {
        let has = |member: &&Instance<'_>| member.tags().iter().any(|own| own.to_lowercase() == tag);
        let tagged: Vec<&Instance<'_>> = live.iter().copied().filter(has).collect();
        let registered: Vec<&Instance<'_>> = self.members.iter().filter(has).collect();
        zone.mark(&format!("_{tag}.{domain}"));
        for owner in [format!("{tag}.{}.{domain}", self.name), format!("_{}._{tag}.{domain}", self.name)] {
            zone.mark(&owner);
            self.add_addresses(zone, &owner, &tagged);
            for member in &tagged {
                zone.add(&owner, "SRV", self.ttl, member.srv(member.ports()[0].1, domain));
            }
            if tagged.is_empty() && !registered.is_empty() {
                zone.add(&owner, "TXT", self.ttl, "\"\"");
            }
        }
        for transport in transports.iter().filter(|_| self.is_type()) {
            let of_type = format!("_{}._{transport}.{domain}", self.name);
            let owner = format!("_{tag}._sub.{of_type}");
            zone.mark(&owner);
            let with_port = |member: &&&Instance<'_>| member.port_of(transport).is_some();
            if !tagged.iter().any(|member| with_port(&member))
                && registered.iter().any(|member| with_port(&member))
            {
                zone.add(&owner, "TXT", self.ttl, "\"\"");
            }
            for member in tagged.iter().filter(with_port) {
                zone.add(&owner, "PTR", self.ttl, format!("{}.{of_type}.", member.names()[0]));
            }
        }
    }

    fn add_instance(&self, zone: &mut Zone, domain: &str, member: &Instance<'_>) {
        let owner = format!("{}.{}.{domain}", member.label, self.name);
        if let Some(target) = member.form["target"].as_str() {
            zone.add(&owner, "CNAME", self.ttl, target);
        } else {
            add_addresses(zone, &owner, self.ttl, member);
            let port = member.port_of("tcp").unwrap_or(member.ports()[0].1);
            zone.add(&owner, "SRV", self.ttl, member.srv(port, domain));
            zone.add(&owner, "TXT", self.ttl, member.txt());
        }
        for transport in ["tcp", "udp"] {
            let Some(port) = member.port_of(transport) else { continue };
            for name in member.names() {
                let owner = format!("{name}._{}._{transport}.{domain}", self.name);
                zone.add(&owner, "SRV", self.ttl, member.srv(port, domain));
                zone.add(&owner, "TXT", self.ttl, member.txt());
            }
        }
    }
}

fn add_addresses(zone: &mut Zone, owner: &str, ttl: u32, member: &Instance<'_>) {
    for address in member.addresses() {
        zone.add(owner, if address.is_ipv4() { "A" } else { "AAAA" }, ttl, address.to_string());
    }
}

/// The record tree as a file.
pub fn tree() -> String {
    let lines = TREE.iter().map(|(owner, rtype, data)| format!("{owner} {APEX_TTL} IN {rtype} {data}\n"));
    lines.collect()
}

/// Every zone that the server answers for.
pub fn zones(drawn: &Drawn, listed: &[Value], serial: u32) -> Vec<Zone> {
    let services: Vec<Service<'_>> = drawn
        .ttls
        .iter()
        .zip(&drawn.gone)
        .map(|((name, ttl), gone)| Service {
            name,
            ttl: ttl.unwrap_or(TTL),
            members: listed.iter().map(Instance::of).filter(|member| member.service == name).collect(),
            gone: std::slice::from_ref(gone),
        })
        .collect();
    let mut zones = Vec::new();
    for (at, domain) in DOMAINS.into_iter().enumerate() {
        let mut zone = Zone::new(domain, domain, serial);
        zone.add(&format!("ns.{domain}"), "A", APEX_TTL, "127.0.0.1");
        for empty in ["_tcp", "_udp", "_dns-sd._udp"] {
            zone.mark(&format!("{empty}.{domain}"));
        }
        zone.mark(&format!("_services._dns-sd._udp.{domain}"));
        for browse in ["b", "db", "lb"] {
            zone.add(&format!("{browse}._dns-sd._udp.{domain}"), "PTR", APEX_TTL, format!("{domain}."));
        }
        for service in &services {
            service.add(&mut zone, domain);
        }
        for (owner, rtype, data) in TREE.into_iter().filter(|_| at == 0) {
            zone.add(&format!("{owner}.{domain}"), rtype, APEX_TTL, data);
        }
        zones.push(zone);
    }
    for network in NETWORKS {
        zones.extend(reverse(network.parse().expect("a network"), &services, serial));
    }
    zones
}

/// The zones of one network: those of the next boundary of a label.
fn reverse(network: IpNet, services: &[Service<'_>], serial: u32) -> Vec<Zone> {
    let step = if network.addr().is_ipv4() { 8 } else { 4 };
    let bits = network.prefix_len().next_multiple_of(step);
    let subnets = network.subnets(bits).expect("a longer prefix");
    let zones = subnets.map(|subnet| {
        let mut zone = Zone::new(&reversed(subnet.addr(), bits / step), DOMAINS[0], serial);
        for service in services {
            for member in &service.members {
                for address in member.addresses().into_iter().filter(|address| subnet.contains(address)) {
                    let owner = reversed(address, if address.is_ipv4() { 4 } else { 32 });
                    zone.add(&owner, "PTR", service.ttl, member.target(DOMAINS[0]));
                }
            }
        }
        zone
    });
    zones.collect()
}

/// The first labels of an address, as a name.
fn reversed(address: IpAddr, labels: u8) -> String {
    let (parts, base): (Vec<String>, _) = match address {
        IpAddr::V4(v4) => (v4.octets().iter().map(u8::to_string).collect(), "in-addr.arpa"),
        IpAddr::V6(v6) => (format!("{:032x}", v6.to_bits()).chars().map(String::from).collect(), "ip6.arpa"),
    };
    let mut name: Vec<&str> = parts[..usize::from(labels)].iter().rev().map(String::as_str).collect();
    name.push(base);
    name.join(".")
}
