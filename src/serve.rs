//! The server: the order of start, what watches over what, and the way down.
//!
//! Start: every socket is bound, and what the server may still do to the machine is narrowed; DNS answers SERVFAIL "Not Ready"; the store is opened and loaded;
//! the view is published; registrations are taken; ready. Down: no new registrations; the writer empties
//! its queue; DNS answers on through the grace period; the sockets close. A task that ends early ends
//! the server, loudly: a process that lives with a dead DNS loop is worse than one that is restarted.

mod bound;
mod confine;
mod early;
mod encrypted;
mod load;
mod process;
mod registrations;
mod secondaries;
mod signing;
mod user;
mod zones;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::bound::{Bound, own_host, own_node, server_form, settings};
use self::early::Early;
use self::load::load;
use self::process::{
    Signals, Tasks, announce, keep_memory_to_ourselves, raise_descriptor_limit, tell_supervisor,
};
use crate::access::Access;
use crate::balance::Draws;
use crate::bind;
use crate::clock::Clock;
use crate::config::{Config, StoreChoice};
use crate::connections::mistakes::Mistakes;
use crate::connections::tls::Identity;
use crate::connections::{Connections, Streams};
use crate::counters::{Forwarding, Limited, Probes, Queries, Transfers as Transferred, Updates as Updated};
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
use crate::socket;
use crate::special::Exceptions;
use crate::store::etcd::link;
use crate::time::Wall;
use crate::traffic::Traffic;
use crate::view::View;

/// How long queries in a socket that was handed over wait for the registry: less than a client's patience.
const HANDED_WAIT_MAX: Duration = Duration::from_secs(1);

/// Serves until SIGTERM or SIGINT, and then in order; a second signal ends it at once.
///
/// # Errors
///
/// What the configuration asked for cannot be had (a port, a zone file), or a task ended early.
pub fn run(config: Config) -> Result<()> {
    raise_descriptor_limit();
    let clock = Clock::start();
    let started = clock.now().wall;
    let identity = encrypted::identity(&config)?;
    encrypted::authorities(&config)?; // better now than when everything is bound
    let becoming = user::Becoming::new(&config)?;
    let keys = secondaries::keys(&config)?;
    let bound = Bound::new(&config)?;
    let socket = bound.unix_file.as_ref().map(bind::UnixFile::path);
    if let Some(becoming) = becoming {
        becoming.now(socket, config.data.as_deref())?;
    }
    user::give_up_capabilities()?;
    keep_memory_to_ourselves();
    let confined = confine::now(&config, socket)?;
    // Only now: the threads of the runtime are confined because this one is.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the threads of the server")?;
    let served = runtime.block_on(serve(config, Begun { clock, started, identity, keys, bound, confined }));
    // What still works on a thread of its own (reading a large store, a look-up) is no reason to stay.
    runtime.shutdown_background();
    served
}

/// What is there before the first thread is started.
struct Begun {
    clock: Clock,
    started: Wall,
    /// What encrypted listeners show.
    identity: Option<Arc<Identity>>,
    /// What DNS messages are signed with.
    keys: Keys,
    bound: Bound,
    /// How far the server is confined, in words.
    confined: String,
}

async fn serve(config: Config, begun: Begun) -> Result<()> {
    let Begun { clock, started, identity, keys, mut bound, confined } = begun;
    let mut signals = Signals::new()?;
    let hangups = zones::hangups()?;
    let folder = config.zones.as_ref().map(|folder| zones::Folder::read(folder, &config)).transpose()?;
    let (zones, taken) = folder.as_ref().map(zones::Folder::zones).unwrap_or_default();
    let view = Arc::new(View::new(settings(&config, &bound), zones));
    // Never taken apart: with a million instances that holds up the end, and so the next start, by a second.
    std::mem::forget(view.clone());
    let loopback_only = bound.dns_addresses().iter().all(|address| address.ip().is_loopback());
    let loopback_allowed = loopback_only || config.allow_loopback;
    let mut server = Server::new(&config, view, (clock, started), identity, keys, loopback_allowed)?;
    let begin = CancellationToken::new();
    server.sign_zones(&config)?;
    let responder = server.answer_dns(&config, std::mem::take(&mut bound.dns), &begin)?;
    server.answer_encrypted(&mut bound, &responder, &begin)?;

    let of_several = matches!(config.store, StoreChoice::Etcd(_));
    let early = Early::begin(&mut server.early, &bound, (server.view.clone(), clock), of_several)?;
    // DNS answers SERVFAIL until the registry is loaded: at once, or where the sockets were handed over after
    // a moment, for what waits in them was asked of the server before us and shall not hear of the change.
    let patience = if bound.dns_handed { HANDED_WAIT_MAX } else { Duration::ZERO };
    let access = access(&config);
    let view = server.view.clone();
    let link = server.link(&config, &bound, &access)?;
    let loading = begun_after(patience, &begin, load(&config, taken, clock, &view, link));
    // Opening a damaged store takes its time, and a node may wait for etcd for ever.
    let loaded = tokio::select! {
        loaded = loading => loaded,
        signal = signals.next() => {
            tracing::info!(signal, "stopping before the registry was loaded");
            tell_supervisor(sd_notify::NotifyState::Stopping);
            return Ok(());
        }
    };
    let mut writing = JoinSet::new(); // its end is waited for apart: it comes before that of DNS
    let (history, store_name, handle) = loaded?.begin(&mut writing, &server.view, clock, &access);
    server.transfers.begin(handle.clone(), history.clone());
    server.updates.begin(handle.clone());
    server.view.set_ready();
    begin.cancel();
    server.follow_files(&config, folder, &handle, hangups)?;

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
        searches: Default::default(),
        told: Default::default(),
        chance: getrandom::fill,
        signing: server.zone_signer.counters.clone(),
        server: server_form(&server.view, store_name, confined, &server.lines),
    });
    let unix_file = bound.unix_file.take();
    let watchdog = server.take_registrations(&config, bound, desk, early, &responder).await?;
    announce(&server.lines)?;
    tell_supervisor(sd_notify::NotifyState::Ready);

    server.live(signals, writing, unix_file, watchdog, config.grace).await
}

/// Who may do what.
fn access(config: &Config) -> Arc<Access> {
    Arc::new(Access {
        rules: config.access.clone(),
        others_trusted: config.allow_unauthenticated,
        own_user: nix::unistd::geteuid().as_raw(),
        owned_max: config.identity_instances_max,
    })
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
    started: Wall,
    seeds: Draws,
    tasks: Tasks,
    /// Those that end when the registry is loaded, or a slow client of theirs has gone.
    early: JoinSet<std::io::Result<()>>,
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
    /// What is asked for.
    traffic: Arc<Traffic>,
    stop_dns: CancellationToken,
    stop_registrations: CancellationToken,
}

impl Server {
    fn new(
        config: &Config,
        view: Arc<View>,
        (clock, started): (Clock, Wall),
        identity: Option<Arc<Identity>>,
        keys: Keys,
        loopback_allowed: bool,
    ) -> Result<Self> {
        let transferred: Arc<Transferred> = Arc::default();
        let allow = config.transfer_allow.clone();
        let transfers = Arc::new(Transfers::new(view.clone(), clock, allow, transferred.clone()));
        let updated: Arc<Updated> = Arc::default();
        let allow = config.update_allow.clone();
        let remembered = matches!(config.store, StoreChoice::Etcd(_));
        let updates = Arc::new(Updates::new(clock, allow, loopback_allowed, remembered, updated.clone()));
        Ok(Self {
            view,
            keys,
            transfers,
            transferred,
            updates,
            updated,
            zone_signer: Arc::default(),
            clock,
            started,
            seeds: Draws::new(random()?),
            tasks: Tasks::default(),
            early: JoinSet::new(),
            limited: Arc::default(),
            lines: Vec::new(),
            streams: Streams::new(tcp::CONNECTIONS_MAX),
            encrypted: encrypted::Encrypted::new(identity),
            forwarding: Arc::default(),
            probes: Arc::default(),
            queries: Arc::default(),
            traffic: Arc::new(Traffic::new((random()?, random()?))),
            stop_dns: CancellationToken::new(),
            stop_registrations: CancellationToken::new(),
        })
    }

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
            traffic: self.traffic.clone(),
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
            .context("forward must name another server")?;
        let upstreams = forwarder.upstreams();
        if !upstreams.is_empty() {
            tracing::info!(?upstreams, "names that are not ours are forwarded");
        }
        Ok(Some(forwarder))
    }

    /// Until a signal, and the way down then; a second signal cuts that short.
    async fn live(
        &mut self,
        mut signals: Signals,
        mut writing: JoinSet<()>,
        unix_file: Option<bind::UnixFile>,
        watchdog: JoinSet<()>,
        grace: Duration,
    ) -> Result<()> {
        tokio::select! {
            signal = signals.next() => tracing::info!(signal, "stopping"),
            ended = self.tasks.first_end() => bail!("{ended}"),
            ended = writing.join_next() => bail!("the writer ended early: {ended:?}"),
        }
        tell_supervisor(sd_notify::NotifyState::Stopping);
        tokio::select! {
            done = self.end(writing, unix_file, watchdog, grace) => done,
            signal = signals.next() => {
                tracing::warn!(signal, "stopping at once");
                Ok(())
            }
        }
    }

    /// The way down, in order.
    async fn end(
        &mut self,
        mut writing: JoinSet<()>,
        unix_file: Option<bind::UnixFile>,
        watchdog: JoinSet<()>,
        grace: Duration,
    ) -> Result<()> {
        self.stop_registrations.cancel();
        self.transfers.end();
        self.updates.end();
        drop(unix_file); // who comes now hears that nobody listens, and does not wait for a reply
        while let Some(ended) = writing.join_next().await {
            ended.context("the writer ended with a panic")?;
        }
        drop(watchdog);
        tokio::time::sleep(grace).await;
        self.stop_dns.cancel();
        self.tasks.all_ends().await;
        Ok(())
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
        Some(folder) => zones::Folder::read(folder, config).map(|_| ()),
        None => Ok(()),
    }
}

/// What a task comes to; `begin` is said meanwhile where it takes longer than `patience`.
async fn begun_after<T>(patience: Duration, begin: &CancellationToken, task: impl Future<Output = T>) -> T {
    let mut task = std::pin::pin!(task);
    match tokio::time::timeout(patience, &mut task).await {
        Ok(done) => done,
        Err(_) => {
            begin.cancel();
            task.await
        }
    }
}

/// Runs a task from the moment on when `begin` is said.
async fn behind(
    begin: CancellationToken,
    task: impl Future<Output = std::io::Result<()>>,
) -> std::io::Result<()> {
    begin.cancelled().await;
    task.await
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
