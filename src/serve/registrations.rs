//! Every way in: the registration socket, HTTP and service files, and the probes of what came in.

use std::sync::Arc;

use anyhow::Result;
use tokio::task::JoinSet;

use super::Server;
use super::bound::Bound;
use super::early::Early;
use super::process::watch_over;
use crate::answer::Over;
use crate::config::{Config, StoreChoice};
use crate::connections::Connections;
use crate::definitions::Definitions;
use crate::desk::Desk;
use crate::dns::wire::{Arrival, Responder};
use crate::health;
use crate::http;
use crate::socket;

impl Server {
    /// Takes registrations and probes. The writer ends when the last of these tasks has, so nothing else keeps the desk.
    pub(super) async fn take_registrations(
        &mut self,
        config: &Config,
        bound: Bound,
        desk: Arc<Desk>,
        early: Early,
        responder: &Responder,
    ) -> Result<JoinSet<()>> {
        let stop = &self.stop_registrations.clone();
        let probing = self.probing(config, &bound, &desk);
        self.tasks.spawn("health", health::run(probing, stop.clone()));
        let Early { hand_over, handed, loaded } = early;
        let unix = socket::Listener::Unix(tokio::net::UnixListener::from_std(bound.unix)?);
        let taking = socket::run(unix, desk.clone(), Some(hand_over), stop.clone());
        self.tasks.spawn("registration socket", taking);
        for listener in bound.listen {
            let tcp = socket::Listener::Tcp(tokio::net::TcpListener::from_std(listener)?);
            self.tasks.spawn("registration over tcp", socket::run(tcp, desk.clone(), None, stop.clone()));
        }
        let office = Arc::new(self.office(config, &desk, responder));
        let handed = http::run(http::Source::Handed(handed), office.clone(), stop.clone());
        self.tasks.spawn("http over the registration socket", handed);
        loaded.cancel();
        for listener in bound.http {
            let source = http::Source::Tcp(tokio::net::TcpListener::from_std(listener)?);
            self.tasks.spawn("http", http::run(source, office.clone(), stop.clone()));
        }
        self.take_encrypted(config, [bound.listen_tls, bound.https], &desk, &office)?;
        if let Some(directory) = config.services.clone() {
            let of_several = matches!(config.store, StoreChoice::Etcd(_));
            let node = of_several.then(|| desk.node.name.to_string());
            let mut definitions = Definitions::new(directory, node.as_deref(), config.allow_empty, office);
            definitions.look().await; // what files say is registered before anybody is told that we are ready
            self.tasks.spawn("service files", definitions.run(stop.clone()));
        }
        let mut watchdog = JoinSet::new();
        if let Some(every) = sd_notify::watchdog_enabled() {
            watchdog.spawn(watch_over(desk.writer.clone(), every / 2, stop.clone()));
        }
        Ok(watchdog)
    }

    fn probing(&mut self, config: &Config, bound: &Bound, desk: &Desk) -> health::Probing {
        health::Probing {
            view: self.view.clone(),
            writer: desk.writer.clone(),
            clock: self.clock,
            allow: config.probe_allow.clone(),
            own: bound.ways_in(),
            store: match &config.store {
                StoreChoice::Etcd(etcd) => etcd.endpoints.iter().map(|endpoint| endpoint.port).collect(),
                StoreChoice::Embedded | StoreChoice::Memory => Vec::new(),
            },
            commands: config.probe_commands,
            seed: self.seeds.next_u64(),
            counters: self.probes.clone(),
        }
    }

    fn office(&self, config: &Config, desk: &Arc<Desk>, responder: &Responder) -> http::Office {
        http::Office {
            desk: desk.clone(),
            started: self.started,
            datacenter: config.datacenter.to_string(),
            hosts: config.http_hosts.clone(),
            underscore_is_hyphen: config.underscore_is_hyphen,
            connections: Connections::new(http::CONNECTIONS_MAX),
            probes: self.probes.clone(),
            queries: self.queries.clone(),
            traffic: self.traffic.clone(),
            told_traffic: Default::default(),
            answering: answering_alone(responder),
            dns_streams: self.streams.connections.clone(),
            dns_quic: self.encrypted.quic.clone(),
            identity: self.encrypted.identity.clone(),
            handshakes: self.encrypted.handshakes.clone(),
            limited: self.limited.clone(),
            forwarding: self.forwarding.clone(),
            transferred: self.transferred.clone(),
            updates: self.updated.clone(),
            signing: self.zone_signer.counters.clone(),
            discovery: http::Discovery::default(),
            unfinished: http::Unfinished::default(),
        }
    }
}

/// Answers as DNS does, from what is ours: nobody is asked, and nothing is counted or limited.
fn answering_alone(responder: &Responder) -> http::Answering {
    let alone = Responder {
        zone_signer: responder.zone_signer.clone(),
        ..Responder::new(responder.view.clone(), responder.policy.clone(), responder.clock)
    };
    Arc::new(move |client, stream, draw, message| {
        let over = if stream { Over::Tcp } else { Over::Udp };
        alone.accept_at(alone.clock.now(), &Arrival { client, over, draw }, message)
    })
}
