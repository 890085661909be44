//! Every socket of the server, and what it says of itself by them.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;

use crate::balance::ring::SLOTS;
use crate::bind;
use crate::config::{Config, machine};
use crate::name::HostName;
use crate::protocol::ServerForm;
use crate::view::{self, ConsulZone, Listener, Settings, View};

/// Every socket of the server: those handed over, and those of the configuration for what was not.
pub(super) struct Bound {
    pub(super) dns: Vec<bind::Dns>,
    /// Their ports.
    pub(super) dns_ports: Vec<u16>,
    /// The DNS sockets are somebody else's, and queries may wait in them.
    pub(super) dns_handed: bool,
    pub(super) unix: std::os::unix::net::UnixListener,
    /// The file of a Unix socket that we made.
    pub(super) unix_file: Option<bind::UnixFile>,
    pub(super) listen: Vec<std::net::TcpListener>,
    pub(super) http: Vec<std::net::TcpListener>,
    pub(super) listen_tls: Vec<std::net::TcpListener>,
    pub(super) https: Vec<std::net::TcpListener>,
    pub(super) dot: Vec<std::net::TcpListener>,
    pub(super) doh: Vec<std::net::TcpListener>,
    pub(super) doq: Vec<std::net::UdpSocket>,
}

impl Bound {
    /// Where registrations and HTTP are taken over the network.
    pub(super) fn ways_in(&self) -> Vec<SocketAddr> {
        let all = [&self.listen, &self.listen_tls, &self.http, &self.https];
        all.into_iter().flatten().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// # Errors
    ///
    /// An address that cannot be bound, with who has it: of a server of our own user that is asked at the same path.
    pub(super) fn new(config: &Config) -> Result<Self> {
        Self::bind(config).map_err(|error| bind::by_ours(error, &config.socket))
    }

    fn bind(config: &Config) -> Result<Self> {
        let handed = bind::handed()?.unwrap_or_default();
        let mut dns = handed.dns;
        let dns_handed = !dns.is_empty();
        if !dns_handed {
            dns = Self::dns(config)?;
        }
        let (unix, unix_file) = match handed.unix {
            Some(unix) => (unix, None),
            None => bind::unix(&config.socket).map(|(unix, file)| (unix, Some(file)))?,
        };
        let listen = handed_or(handed.listen, &config.listen, bind::registration)?;
        let http = handed_or(handed.http, &config.http, bind::http)?;
        let listen_tls = handed_or(handed.listen_tls, &config.listen_tls, bind::registration_tls)?;
        let https = handed_or(handed.https, &config.https, bind::https)?;
        let dot = handed_or(handed.dot, &config.dot, bind::dot)?;
        let doh = handed_or(handed.doh, &config.doh, bind::doh)?;
        let doq = handed_or(handed.doq, &config.doq, bind::doq)?;
        let dns_ports = dns.iter().map(|dns| dns.address.port()).collect();
        Ok(Self {
            dns,
            dns_ports,
            dns_handed,
            unix,
            unix_file,
            listen,
            http,
            listen_tls,
            https,
            dot,
            doh,
            doq,
        })
    }

    /// Where DNS is answered, over whatever.
    pub(super) fn dns_addresses(&self) -> Vec<SocketAddr> {
        let plain = self.dns.iter().map(|dns| dns.address);
        let streams = self.dot.iter().chain(&self.doh).filter_map(|listener| listener.local_addr().ok());
        plain.chain(streams).chain(self.doq.iter().filter_map(|socket| socket.local_addr().ok())).collect()
    }

    fn dns(config: &Config) -> Result<Vec<bind::Dns>> {
        let mut dns = Vec::new();
        for address in &config.dns {
            match bind::dns(*address) {
                Ok(bound) => dns.push(bound),
                // A machine without IPv6 is no reason not to start where nobody asked for it.
                Err(error)
                    if config.dns_is_default
                        && address.is_ipv6()
                        && !dns.is_empty()
                        && no_such_address(&error) =>
                {
                    tracing::info!(%address, "no IPv6 here");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(dns)
    }

    /// A line for each way in but DNS.
    pub(super) fn spoken(&self) -> Vec<String> {
        let mut lines = vec![format!("socket {}", self.socket())];
        let listeners = [
            ("listen", &self.listen),
            ("listen-tls", &self.listen_tls),
            ("http", &self.http),
            ("https", &self.https),
        ];
        for (what, listeners) in listeners {
            let addresses = listeners.iter().filter_map(|listener| listener.local_addr().ok());
            lines.extend(addresses.map(|address| format!("{what} {address}")));
        }
        lines
    }

    /// The path of the Unix socket, wherever it comes from.
    fn socket(&self) -> String {
        if let Some(file) = &self.unix_file {
            return file.path().display().to_string();
        }
        let address = self.unix.local_addr().ok();
        match address.as_ref().and_then(|address| address.as_pathname()) {
            Some(path) => path.display().to_string(),
            None => "(unnamed)".to_owned(),
        }
    }
}

/// The sockets that were handed over, or those of the configuration where there are none.
fn handed_or<S>(
    handed: Vec<S>,
    addresses: &[SocketAddr],
    bind: impl Fn(SocketAddr) -> Result<S>,
) -> Result<Vec<S>> {
    match handed.is_empty() {
        true => addresses.iter().map(|address| bind(*address)).collect(),
        false => Ok(handed),
    }
}

fn no_such_address(error: &anyhow::Error) -> bool {
    use nix::libc::{EADDRNOTAVAIL, EAFNOSUPPORT};
    let codes = error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>()?.raw_os_error());
    codes.into_iter().any(|code| code == EADDRNOTAVAIL || code == EAFNOSUPPORT)
}

pub(super) fn settings(config: &Config, bound: &Bound) -> Settings {
    let first = bound.dns.iter().map(|dns| dns.address.ip()).find(|ip| !ip.is_unspecified());
    let ns_addresses = match (config.advertise, first) {
        (Some(address), _) | (None, Some(address)) => vec![address],
        (None, None) => bind::default_route_addresses(),
    };
    let consul = config.consul_domain.clone();
    let consul = consul.map(|apex| ConsulZone { apex, datacenter: config.datacenter.clone() });
    Settings {
        apexes: config.domain.clone(),
        ttl: config.ttl,
        listener: listener(config, bound, &ns_addresses),
        ns_addresses,
        consul,
        reverse: config.reverse.clone(),
        regions: config.regions.clone(),
        stale_for: config.stale_for,
        tell_stale: config.tell_stale,
    }
}

/// Where others register over TCP: what `advertise-listen` says, else the first listener, with the addresses of DNS where
/// it is bound to all. One on loopback is for this machine alone, so others are told of it only where DNS is there too.
fn listener(config: &Config, bound: &Bound, ns_addresses: &[IpAddr]) -> Option<Listener> {
    let first = bound.listen.first()?.local_addr().ok()?;
    let (ip, port) = match config.advertise_listen {
        Some(address) => (address.ip(), address.port()),
        None => (first.ip().to_canonical(), first.port()),
    };
    let addresses = if ip.is_unspecified() { ns_addresses.to_vec() } else { vec![ip] };
    let is_reached = !ip.is_loopback() || ns_addresses.iter().all(IpAddr::is_loopback);
    (is_reached && !addresses.is_empty()).then_some(Listener { addresses, port })
}

pub(super) fn server_form(view: &View, store: &str, confined: String, lines: &[String]) -> ServerForm {
    ServerForm {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        store: store.to_owned(),
        confined: Some(confined),
        domains: view
            .settings
            .apexes
            .iter()
            .chain(view.settings.consul.as_ref().map(|zone| &zone.apex))
            .map(|apex| apex.to_string())
            .collect(),
        listeners: lines.to_vec(),
        ..ServerForm::default()
    }
}

/// This server as a node, of several or alone.
pub(super) fn own_node(config: &Config, bound: &Bound, view: &View) -> view::Node {
    view::Node {
        name: config.node.clone().unwrap_or_else(|| own_host().to_string()).into(),
        addresses: view.settings.ns_addresses.clone(),
        dns: bound.dns_ports.first().copied().unwrap_or(0),
        listener: view.settings.listener.clone(),
        slots: SLOTS,
        is_own: true,
    }
}

/// The machine's name, which instances registered over the Unix socket run on.
pub(super) fn own_host() -> HostName {
    machine().unwrap_or_else(|| HostName::parse("localhost").expect("a constant that fits"))
}
