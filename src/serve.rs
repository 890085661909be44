//! The server: the order of start, what watches over what, and the way down.
//!
//! Start: every socket is bound, and DNS answers SERVFAIL "Not Ready"; the store is opened and loaded;
//! the view is published; registrations are taken; ready. Down: no new registrations; the writer empties
//! its queue; DNS answers on through the grace period; the sockets close. A task that ends early ends
//! the server, loudly: a process that lives with a dead DNS loop is worse than one that is restarted.

mod encrypted;
mod secondaries;
mod signing;
mod user;

use std::collections::HashMap;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::access::Access;
use crate::balance::Draws;
use crate::balance::ring::SLOTS;
use crate::bind;
use crate::clock::Clock;
use crate::config::{Config, machine};
use crate::connections::mistakes::Mistakes;
use crate::connections::{Connections, Streams};
use crate::counters::{Forwarding, Limited, Probes, Queries, Transfers as Transferred, Updates as Updated};
use crate::definitions::Definitions;
use crate::desk::{Desk, Figures};
use crate::dns::cookie::{Cookies, Secret};
use crate::dns::forward::{self, Forwarder};
use crate::dns::limit::Limiter;
use crate::dns::sign::Signer;
use crate::dns::transfer::Transfers;
use crate::dns::tsig::Keys;
use crate::dns::update::Updates;
use crate::dns::wire::{Policy, Responder};
use crate::dns::{tcp, udp};
use crate::grammar::reverse;
use crate::health;
use crate::http;
use crate::name::{HostName, Name, ServiceName};
use crate::protocol::ServerForm;
use crate::registry::Registry;
use crate::socket;
use crate::special::Exceptions;
use crate::store::etcd::link::{self, Link};
use crate::store::etcd::{self, Etcd};
use crate::store::record::{self, MemberForm};
use crate::store::{Limits, Store, embedded};
use crate::time::Now;
use crate::view::{self, ConsulZone, Listener, Settings, View, Zones};
use crate::writer::node::Node;
use crate::writer::{Handle, Writer};
use crate::zone::{Kind, Zone};
use crate::zone_file;

/// How long queries in a socket that was handed over wait for the registry: less than a client's patience.
const HANDED_WAIT_MAX: Duration = Duration::from_secs(1);

/// Serves until SIGTERM or SIGINT, and then in order; a second signal ends it at once.
///
/// # Errors
///
/// What the configuration asked for cannot be had (a port, a zone file), or a task ended early.
pub async fn run(config: Config) -> Result<()> {
    let mut signals = Signals::new()?;
    raise_descriptor_limit();
    let clock = Clock::start();
    let identity = encrypted::identity(&config)?;
    encrypted::authorities(&config)?; // better now than when everything is bound
    let becoming = user::Becoming::new(&config)?;
    let keys = secondaries::keys(&config)?;
    let mut bound = Bound::new(&config)?;
    if let Some(becoming) = becoming {
        becoming.now(bound.unix_file.as_ref().map(bind::UnixFile::path), config.data.as_deref())?;
    }
    keep_memory_to_ourselves();
    let (zones, taken) = match &config.zones {
        Some(directory) => read_zones(directory, &config)?,
        None => Default::default(),
    };
    let view = Arc::new(View::new(settings(&config, &bound), zones));
    // Never taken apart: with a million instances that holds up the end, and so the next start, by a second.
    std::mem::forget(view.clone());
    let transferred: Arc<Transferred> = Arc::default();
    let allow = config.transfer_allow.clone();
    let transfers = Arc::new(Transfers::new(view.clone(), clock, allow, transferred.clone()));
    let updated: Arc<Updated> = Arc::default();
    let loopback_only = bound.dns_addresses().iter().all(|address| address.ip().is_loopback());
    let loopback_allowed = loopback_only || config.allow_loopback;
    let allow = config.update_allow.clone();
    let updates = Arc::new(Updates::new(clock, allow, loopback_allowed, updated.clone()));
    let mut server = Server {
        view,
        keys,
        transfers,
        transferred,
        updates,
        updated,
        zone_signer: Arc::default(),
        clock,
        seeds: Draws::new(random()?),
        tasks: Tasks::default(),
        limited: Arc::default(),
        lines: Vec::new(),
        streams: Streams::new(tcp::CONNECTIONS_MAX),
        encrypted: encrypted::Encrypted::new(identity),
        forwarding: Arc::default(),
        probes: Arc::default(),
        queries: Arc::default(),
        stop_dns: CancellationToken::new(),
        stop_registrations: CancellationToken::new(),
    };
    let begin = CancellationToken::new();
    server.sign_zones(&config)?;
    let responder = server.answer_dns(&config, std::mem::take(&mut bound.dns), &begin)?;
    server.answer_encrypted(&mut bound, &responder, &begin)?;

    // DNS answers SERVFAIL until the registry is loaded: at once, or where the sockets were handed over after
    // a moment, for what waits in them was asked of the server before us and shall not hear of the change.
    let patience = if bound.dns_handed { HANDED_WAIT_MAX } else { Duration::ZERO };
    let access = Arc::new(Access {
        rules: config.access.clone(),
        others_trusted: config.allow_unauthenticated,
        own_user: nix::unistd::geteuid().as_raw(),
        owned_max: config.identity_instances_max,
    });
    let view = server.view.clone();
    let link = server.link(&config, &bound, &access)?;
    let mut loading = std::pin::pin!(load(&config, taken, clock, &view, link));
    let loaded = match tokio::time::timeout(patience, &mut loading).await {
        Ok(loaded) => loaded,
        Err(_) => {
            begin.cancel();
            loading.await
        }
    };
    let mut writing = JoinSet::new(); // its end is waited for apart: it comes before that of DNS
    let (history, store_name, handle) = match loaded? {
        Loaded::Alone(store, registry) => {
            let (history, store_name) = (store.history(), store.name());
            let (writer, handle) = Writer::new(*registry, store, server.view.clone(), clock, access.clone());
            writing.spawn(writer.run());
            (history, store_name, handle)
        }
        Loaded::OneOfSeveral(node, handle) => {
            let history = node.history();
            writing.spawn(node.run());
            (history, "etcd", handle)
        }
    };
    server.transfers.begin(handle.clone(), history.clone());
    let journal = handle.journal.clone();
    server.updates.begin(handle.clone());
    server.view.set_ready();
    begin.cancel();
    server.tell_secondaries(&config, journal)?;

    server.lines.extend(bound.spoken());
    let node = own_node(&config, &bound, &server.view);
    let desk = Arc::new(Desk {
        view: server.view.clone(),
        writer: handle,
        clock,
        access,
        mistakes: Mistakes::default(),
        host: own_host(),
        addresses: bind::default_route_addresses(),
        loopback_allowed,
        history,
        figures: Figures::new(server.probes.clone(), server.queries.clone(), config.known_for),
        connections: Connections::new(socket::CONNECTIONS_MAX),
        node,
        told: Default::default(),
        server: server_form(&server.view, store_name, &server.lines),
    });
    let unix_file = bound.unix_file.take();
    let watchdog = server.take_registrations(&config, bound, desk).await?;
    announce(&server.lines)?;
    tell_supervisor(sd_notify::NotifyState::Ready);

    tokio::select! {
        signal = signals.next() => tracing::info!(signal, "stopping"),
        ended = server.tasks.first_end() => bail!("{ended}"),
        ended = writing.join_next() => bail!("the writer ended early: {ended:?}"),
    }
    tell_supervisor(sd_notify::NotifyState::Stopping);
    let down = async {
        server.stop_registrations.cancel();
        server.transfers.end();
        server.updates.end();
        drop(unix_file); // who comes now hears that nobody listens, and does not wait for a reply
        while let Some(ended) = writing.join_next().await {
            ended.context("the writer ended with a panic")?;
        }
        drop(watchdog);
        tokio::time::sleep(config.grace).await;
        server.stop_dns.cancel();
        server.tasks.all_ends().await;
        Ok(())
    };
    tokio::select! {
        done = down => done,
        signal = signals.next() => {
            tracing::warn!(signal, "stopping at once");
            Ok(())
        }
    }
}

/// What the parts of the start share.
struct Server {
    view: Arc<View>,
    /// What DNS messages are signed with.
    keys: Keys,
    transfers: Arc<Transfers>,
    transferred: Arc<Transferred>,
    updates: Arc<Updates>,
    updated: Arc<Updated>,
    zone_signer: Arc<Signer>,
    clock: Clock,
    seeds: Draws,
    tasks: Tasks,
    limited: Arc<Limited>,
    /// What is bound, one line each.
    lines: Vec<String>,
    /// Connections of DNS.
    streams: Arc<Streams>,
    encrypted: encrypted::Encrypted,
    /// What became of names that are not ours.
    forwarding: Arc<Forwarding>,
    /// What probes did, and how long queries take.
    probes: Arc<Probes>,
    queries: Arc<Queries>,
    stop_dns: CancellationToken,
    stop_registrations: CancellationToken,
}

impl Server {
    /// DNS on every address, from `begin` on.
    fn answer_dns(
        &mut self,
        config: &Config,
        bound: Vec<bind::Dns>,
        begin: &CancellationToken,
    ) -> Result<Arc<Responder>> {
        let policy = Policy {
            udp_octets_loopback: config.udp_octets_loopback.into(),
            nsid: config.nsid.as_deref().map(Into::into),
            cookies: Some(cookies(config)?),
            clients: config.query_allow.clone(),
            keys: self.keys.clone(),
        };
        let limiter = match config.rate_limit {
            0 => None,
            rate => Some(Limiter::new(rate, Secret(random_octets()?), self.limited.clone())),
        };
        let forwarder = self.forwarder(config, &bound)?;
        if let Some(forwarder) = forwarder.clone() {
            // Its probes come back to us where an upstream leads here, so it begins when we answer.
            let watching = forwarder.run(self.stop_dns.clone());
            self.tasks.spawn("forwarding", behind(begin.clone(), watching));
        }
        let responder = Arc::new(Responder {
            view: self.view.clone(),
            policy,
            clock: self.clock,
            limiter,
            forwarder,
            queries: self.queries.clone(),
            transfers: Some(self.transfers.clone()),
            updates: Some(self.updates.clone()),
            zone_signer: self.zone_signer.clone(),
        });
        for dns in bound {
            self.lines.push(format!("dns udp+tcp {}", dns.address));
            let (seed, stop) = (self.seeds.next_u64(), self.stop_dns.clone());
            let answering = udp::run(dns.udp, responder.clone(), seed, stop);
            self.tasks.spawn("dns udp", behind(begin.clone(), answering));
            let listener = tokio::net::TcpListener::from_std(dns.tcp)?;
            let (seed, stop) = (self.seeds.next_u64(), self.stop_dns.clone());
            let (layer, streams) = (tcp::Layer::Plain, self.streams.clone());
            let answering = tcp::run(listener, layer, responder.clone(), streams, seed, stop);
            self.tasks.spawn("dns tcp", behind(begin.clone(), answering));
        }
        Ok(responder)
    }

    /// The link to etcd, where it is the store. It lasts as long as DNS does.
    fn link(&mut self, config: &Config, bound: &Bound, access: &Arc<Access>) -> Result<Option<Linked>> {
        let Some(settings) = config.etcd.clone() else { return Ok(None) };
        let name = own_node(config, bound, &self.view).name.to_string();
        let (prefix, run) = (settings.prefix.clone(), random()?);
        let listener = self.view.settings.listener.clone();
        let http = bound.http.first().and_then(|listener| listener.local_addr().ok());
        let member = MemberForm {
            run,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            addresses: self.view.settings.ns_addresses.clone(),
            dns: bound.dns_ports.first().copied().unwrap_or(0),
            listen: listener.as_ref().map_or(0, |listener| listener.port),
            listen_addresses: listener.map(|listener| listener.addresses).unwrap_or_default(),
            http: http.map_or(0, |address| address.port()),
            started: self.clock.now().wall.unix_ms,
        };
        let (etcd, end) = etcd::way();
        let clock_and_seed = (self.clock, self.seeds.next_u64());
        let link = Link::new(settings, &name, record::write_member(&member), end, clock_and_seed)
            .map_err(|error| anyhow::anyhow!("reaching etcd: {error}"))?;
        self.tasks.spawn("etcd", link.run(self.stop_dns.clone()));
        Ok(Some(Linked { etcd, name, prefix, run, access: access.clone() }))
    }

    /// Who asks other servers, where the configuration names some.
    fn forwarder(&self, config: &Config, bound: &[bind::Dns]) -> Result<Option<Arc<Forwarder>>> {
        if config.forward.is_empty() {
            return Ok(None);
        }
        let settings = forward::Settings {
            sources: config.forward.clone(),
            allow: config.forward_allow.clone(),
            exceptions: Exceptions {
                forwarded: config.forward_special.clone(),
                claim_local: config.claim_local,
            },
            trust_ad: config.forward_trust_ad,
            own: bound.iter().map(|dns| dns.address).collect(),
        };
        let forwarder = Forwarder::new(settings, self.clock, self.forwarding.clone())
            .context("no server to forward to; name another with --forward ADDR")?;
        tracing::info!(upstreams = ?forwarder.upstreams(), "names that are not ours are forwarded");
        Ok(Some(forwarder))
    }

    /// Every way in, and the probes. The writer ends when the last of these has, so nothing else keeps the desk.
    async fn take_registrations(
        &mut self,
        config: &Config,
        bound: Bound,
        desk: Arc<Desk>,
    ) -> Result<JoinSet<()>> {
        let stop = &self.stop_registrations.clone();
        let probing = health::Probing {
            view: self.view.clone(),
            writer: desk.writer.clone(),
            clock: self.clock,
            allow: config.probe_allow.clone(),
            commands: config.probe_commands,
            seed: self.seeds.next_u64(),
            counters: self.probes.clone(),
        };
        self.tasks.spawn("health", health::run(probing, stop.clone()));
        let (hand_over, handed) = mpsc::channel(http::HANDED_MAX);
        let unix = socket::Listener::Unix(tokio::net::UnixListener::from_std(bound.unix)?);
        let taking = socket::run(unix, desk.clone(), Some(hand_over), stop.clone());
        self.tasks.spawn("registration socket", taking);
        for listener in bound.listen {
            let tcp = socket::Listener::Tcp(tokio::net::TcpListener::from_std(listener)?);
            self.tasks.spawn("registration over tcp", socket::run(tcp, desk.clone(), None, stop.clone()));
        }
        let office = Arc::new(http::Office {
            desk: desk.clone(),
            datacenter: config.datacenter.to_string(),
            hosts: config.http_hosts.clone(),
            underscore_is_hyphen: config.underscore_is_hyphen,
            connections: Connections::new(http::CONNECTIONS_MAX),
            probes: self.probes.clone(),
            queries: self.queries.clone(),
            dns_streams: self.streams.connections.clone(),
            dns_quic: self.encrypted.quic.clone(),
            identity: self.encrypted.identity.clone(),
            handshakes: self.encrypted.handshakes.clone(),
            limited: self.limited.clone(),
            forwarding: self.forwarding.clone(),
            transferred: self.transferred.clone(),
            updates: self.updated.clone(),
            discovery: http::Discovery::default(),
        });
        let handed = http::run(http::Source::Handed(handed), office.clone(), stop.clone());
        self.tasks.spawn("http over the registration socket", handed);
        for listener in bound.http {
            let source = http::Source::Tcp(tokio::net::TcpListener::from_std(listener)?);
            self.tasks.spawn("http", http::run(source, office.clone(), stop.clone()));
        }
        self.take_encrypted(config, [bound.listen_tls, bound.https], &desk, &office)?;
        if let Some(directory) = config.services.clone() {
            let mut definitions = Definitions::new(directory, config.allow_empty, office);
            definitions.look().await; // what files say is registered before anybody is told that we are ready
            self.tasks.spawn("service files", definitions.run(stop.clone()));
        }
        let mut watchdog = JoinSet::new();
        if let Some(every) = sd_notify::watchdog_enabled() {
            watchdog.spawn(watch_over(desk.writer.clone(), every / 2, stop.clone()));
        }
        Ok(watchdog)
    }
}

/// Says what `run` would find wrong with the files that the configuration names, without serving.
pub fn check(config: &Config) -> Result<()> {
    encrypted::identity(config)?;
    encrypted::authorities(config)?;
    secondaries::keys(config)?;
    signing::check(config)?;
    if let Some(tls) = config.etcd.as_ref().and_then(|etcd| etcd.tls.as_ref()) {
        link::client_config(tls).map_err(anyhow::Error::msg)?;
    }
    match &config.zones {
        Some(directory) => read_zones(directory, config).map(|_| ()),
        None => Ok(()),
    }
}

/// The registry as it was found, and who changes it.
enum Loaded {
    Alone(Store, Box<Registry>),
    OneOfSeveral(Box<Node>, Handle),
}

/// This server as a node, whose link to etcd is there already.
struct Linked {
    etcd: Etcd,
    name: String,
    prefix: String,
    run: u64,
    access: Arc<Access>,
}

/// Opens the store and makes what it kept visible.
async fn load(
    config: &Config,
    taken: HashMap<ServiceName, Box<str>>,
    clock: Clock,
    view: &Arc<View>,
    linked: Option<Linked>,
) -> Result<Loaded> {
    let mut registry = Registry::new(config.instances_max, config.known_for);
    registry.set_taken(taken);
    if let Some(Linked { etcd, name, prefix, run, access }) = linked {
        let (mut node, handle) =
            Node::new(registry, etcd, (&name, &prefix), run, view.clone(), clock, access);
        node.load().await.map_err(|error| anyhow::anyhow!("reading the registry from etcd: {error}"))?;
        return Ok(Loaded::OneOfSeveral(Box::new(node), handle));
    }
    let Some(directory) = config.data.clone() else {
        let unix_ms = clock.now().wall.unix_ms;
        view.set_serial_base((unix_ms / 1000) as u32);
        view.set_index_base(unix_ms as u64 * 1000);
        return Ok(Loaded::Alone(Store::memory(), Box::new(registry)));
    };
    let limits = Limits { history_changes: config.history_changes, history_age: config.history_age };
    let view = view.clone();
    let loading = tokio::task::spawn_blocking(move || -> Result<Loaded> {
        let begun = clock.now();
        let (embedded, mut loaded) =
            embedded::open(&directory, limits, clock.now()).context("opening the store")?;
        for note in &loaded.notes {
            tracing::error!("{note}");
        }
        let read = clock.now();
        loaded.kept.revision = secondaries::settle(&directory, &view, loaded.kept.revision);
        registry.restore(loaded.kept, read);
        view.set_serial_base(loaded.serial_base);
        view.publish_all(&registry);
        let since = |then: Now| Duration::from_nanos(clock.now().mono_ns - then.mono_ns);
        // Repair and loading took their time: a lease runs from here.
        registry.after_absence(since(begun), clock.now());
        tracing::debug!(instances = registry.instances(), reading = ?since(begun) - since(read), publishing = ?since(read), "loaded");
        Ok(Loaded::Alone(Store::Embedded(embedded), Box::new(registry)))
    });
    loading.await.context("loading the registry")?
}

/// Runs a task from the moment on when `begin` is said.
async fn behind(
    begin: CancellationToken,
    task: impl Future<Output = std::io::Result<()>>,
) -> std::io::Result<()> {
    begin.cancelled().await;
    task.await
}

/// Every socket of the server: those handed over, and those of the configuration for what was not.
struct Bound {
    dns: Vec<bind::Dns>,
    /// Their ports.
    dns_ports: Vec<u16>,
    /// The DNS sockets are somebody else's, and queries may wait in them.
    dns_handed: bool,
    unix: std::os::unix::net::UnixListener,
    /// The file of a Unix socket that we made.
    unix_file: Option<bind::UnixFile>,
    listen: Vec<std::net::TcpListener>,
    http: Vec<std::net::TcpListener>,
    listen_tls: Vec<std::net::TcpListener>,
    https: Vec<std::net::TcpListener>,
    dot: Vec<std::net::TcpListener>,
    doh: Vec<std::net::TcpListener>,
    doq: Vec<std::net::UdpSocket>,
}

impl Bound {
    fn new(config: &Config) -> Result<Self> {
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
    fn dns_addresses(&self) -> Vec<SocketAddr> {
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
    fn spoken(&self) -> Vec<String> {
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

fn settings(config: &Config, bound: &Bound) -> Settings {
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

/// Reads every `*.zone` file of the directory; its name is the zone's. `<apex>.zone` of a live zone is its
/// record tree, whose names no service can have.
fn read_zones(directory: &Path, config: &Config) -> Result<(Zones, HashMap<ServiceName, Box<str>>)> {
    let mut zones = Zones::default();
    let mut taken = HashMap::new();
    let shown = directory.display();
    let entries = std::fs::read_dir(directory).with_context(|| format!("reading the zones in {shown}"))?;
    let mut paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "zone"));
    paths.sort();
    for path in paths {
        let file = path.display();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let apex = Name::parse(&stem)
            .with_context(|| format!("{file}: the file's name is the zone's, and `{stem}` is no name"))?;
        if config.consul_domain.as_ref().is_some_and(|domain| *domain.name() == apex) {
            bail!("{file}: {apex} is the `consul-domain`, whose names are the registry's alone");
        }
        if reverse::read(&apex)
            .is_some_and(|(prefix, all)| all && prefix.zone(&config.reverse) == Some(prefix))
        {
            bail!("{file}: {apex} is a zone of `reverse`, whose names are the registry's alone");
        }
        let tree = config.domain.iter().any(|domain| *domain.name() == apex);
        let kind = if tree { Kind::Tree } else { Kind::Primary };
        let octets = std::fs::metadata(&path).with_context(|| format!("reading {file}"))?.len();
        if octets > zone_file::FILE_OCTETS_MAX as u64 {
            bail!("{file}: {octets} octets, and a zone file may have {}", zone_file::FILE_OCTETS_MAX);
        }
        let text = std::fs::read(&path).with_context(|| format!("reading {file}"))?;
        let records = zone_file::read(&text, &apex)
            .map_err(|error| anyhow::anyhow!("{file}:{}: {}", error.line, error.reason))?;
        let (zone, warnings) = Zone::new(apex, kind, records)
            .map_err(|error| anyhow::anyhow!("{file}:{}: {}", error.line, error.reason))?;
        for warning in warnings {
            tracing::warn!("{file}:{}: {}", warning.line, warning.reason);
        }
        if tree {
            taken.extend(zone.taken(&file.to_string()));
            zones.trees.push(Arc::new(zone));
        } else {
            zones.primary.push(Arc::new(zone));
        }
    }
    Ok((zones, taken))
}

fn server_form(view: &View, store: &str, lines: &[String]) -> ServerForm {
    ServerForm {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ready: false,
        store: store.to_owned(),
        store_trouble: None,
        stale_s: None,
        nodes: Vec::new(),
        domains: view
            .settings
            .apexes
            .iter()
            .chain(view.settings.consul.as_ref().map(|zone| &zone.apex))
            .map(|apex| apex.to_string())
            .collect(),
        listeners: lines.to_vec(),
        zones: view
            .zones()
            .primary
            .iter()
            .chain(&view.zones().trees)
            .map(|zone| zone.apex.to_string())
            .collect(),
        services: 0,
        instances: 0,
        live: 0,
        revision: 0,
        serial: 0,
        uptime_s: 0,
    }
}

/// One line for each bound address, then `ready`: what scripts and tests wait for.
fn announce(lines: &[String]) -> Result<()> {
    let binary = std::env::current_exe().unwrap_or_else(|_| "callsign".into());
    let mut out = std::io::stdout().lock();
    for line in lines {
        writeln!(out, "{line}")?;
    }
    writeln!(out, "ready {}", binary.display())?;
    out.flush()?;
    Ok(())
}

/// Tells systemd, or whoever gave us a NOTIFY_SOCKET.
fn tell_supervisor(state: sd_notify::NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "telling the supervisor");
    }
}

/// Says that we live as long as the writer comes round: a server that cannot change anything any more is
/// worse than one that is restarted.
async fn watch_over(writer: Handle, every: Duration, stop: CancellationToken) {
    // Cancel-safe: a ping that is not waited for is answered into nothing.
    while tokio::select! {
        () = stop.cancelled() => false,
        pong = writer.ping() => pong.is_ok(),
    } {
        tell_supervisor(sd_notify::NotifyState::Watchdog);
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(every) => {}
        }
    }
}

/// This server as a node, of several or alone.
fn own_node(config: &Config, bound: &Bound, view: &View) -> view::Node {
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
fn own_host() -> HostName {
    machine().unwrap_or_else(|| HostName::parse("localhost").expect("a constant that fits"))
}

fn random() -> Result<u64> {
    Ok(u64::from_be_bytes(random_octets()?))
}

fn random_octets<const N: usize>() -> Result<[u8; N]> {
    let mut octets = [0; N];
    getrandom::fill(&mut octets)
        .map_err(|error| anyhow::anyhow!("no random number from the kernel: {error}"))?;
    Ok(octets)
}

/// Cookies of the configured secrets, or of one of this start.
fn cookies(config: &Config) -> Result<Cookies> {
    Ok(match config.cookie_secret[..] {
        [] => Cookies::Drawn(Secret(random_octets()?)),
        [makes, ref others @ ..] => Cookies::Given(makes, others.first().copied()),
    })
}

/// Takes every descriptor that we may have: a connection each, and the soft limit is often 1024.
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::debug!(%error, "raising the limit of descriptors");
    }
}

/// What tokens and keys are is in our memory: it goes into no core file, and no other process of our user reads it.
fn keep_memory_to_ourselves() {
    if let Err(error) = nix::sys::prctl::set_dumpable(false) {
        tracing::warn!(%error, "keeping this process out of core files");
    }
}

/// The named tasks of the server.
#[derive(Default)]
struct Tasks {
    set: JoinSet<(&'static str, std::io::Result<()>)>,
}

impl Tasks {
    fn spawn(
        &mut self,
        name: &'static str,
        task: impl Future<Output = std::io::Result<()>> + Send + 'static,
    ) {
        self.set.spawn(async move { (name, task.await) });
    }

    /// Waits for the first task to end, which none should, and says which and why.
    async fn first_end(&mut self) -> String {
        match self.set.join_next().await {
            Some(Ok((name, Ok(())))) => format!("the task `{name}` ended early"),
            Some(Ok((name, Err(error)))) => format!("the task `{name}` failed: {error}"),
            Some(Err(error)) => format!("a task ended: {error}"),
            None => "no task is running".to_owned(),
        }
    }

    async fn all_ends(&mut self) {
        while self.set.join_next().await.is_some() {}
    }
}

/// SIGTERM and SIGINT alike.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("listening for signals");
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        // Both arms are cancel-safe.
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
