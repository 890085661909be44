//! DNS over TLS, HTTPS and QUIC, registration and HTTP over TLS: the certificate that they share, and how they are started.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use tokio_util::sync::CancellationToken;

use super::{Bound, Server, behind};
use crate::answer::Over;
use crate::balance::Draws;
use crate::config::{CertificateChoice, Config};
use crate::connections::tls::{Acceptor, Authorities, Handshakes, Identity, Source};
use crate::connections::{Connections, Streams};
use crate::desk::Desk;
use crate::dns::wire::{Arrival, Responder, fresh_s};
use crate::dns::{quic, tcp};
use crate::http::doh;
use crate::http::{self, Office};
use crate::socket::{self, Listener};

/// What encrypted listeners share, and what the metrics tell of them.
pub struct Encrypted {
    /// `None` where nothing is encrypted.
    pub identity: Option<Arc<Identity>>,
    pub handshakes: Arc<Handshakes>,
    /// Somebody looks whether the certificate is another one.
    watched: bool,
    /// Connections of QUIC.
    pub quic: Arc<Connections>,
}

impl Encrypted {
    pub fn new(identity: Option<Arc<Identity>>) -> Self {
        Self {
            identity,
            watched: false,
            handshakes: Arc::default(),
            quic: Connections::in_floods(quic::CONNECTIONS_MAX),
        }
    }
}

/// The certificate that the configuration names, or one for the names and addresses that it has.
///
/// # Errors
///
/// It cannot be used.
pub fn identity(config: &Config) -> Result<Option<Arc<Identity>>> {
    let source = match &config.certificate {
        None => return Ok(None),
        Some(CertificateChoice::Files { certificate, key }) => {
            Source::Files { certificate: certificate.clone(), key: key.clone() }
        }
        Some(CertificateChoice::SelfSigned) => {
            let domains = config.domain.iter().map(|apex| apex.to_string().trim_end_matches('.').to_owned());
            let servers = domains.clone().map(|domain| format!("ns.{domain}"));
            let bound = [&config.dot, &config.doh, &config.doq, &config.listen_tls, &config.https];
            let bound = bound.into_iter().flatten();
            let addresses = bound.map(|address| address.ip()).chain(config.advertise);
            let addresses = addresses.filter(|ip| !ip.is_unspecified()).map(|ip| ip.to_string());
            let mut names: Vec<String> = domains.chain(servers).chain(addresses).collect();
            names.push("localhost".to_owned());
            names.sort();
            names.dedup();
            Source::SelfSigned(names)
        }
    };
    Identity::new(source).map(Some).context("the certificate of what is encrypted")
}

/// Who signs the certificates that clients show.
///
/// # Errors
///
/// The file cannot be used.
pub fn authorities(config: &Config) -> Result<Option<Authorities>> {
    let path = config.client_authority.as_deref();
    path.map(Authorities::read).transpose().context("the authority of clients' certificates")
}

impl Server {
    /// DNS on every encrypted address, from `begin` on.
    pub(super) fn answer_encrypted(
        &mut self,
        bound: &mut Bound,
        responder: &Arc<Responder>,
        begin: &CancellationToken,
    ) -> Result<()> {
        let sockets = [&mut bound.dot, &mut bound.doh].map(std::mem::take);
        let datagrams = std::mem::take(&mut bound.doq);
        if sockets.iter().all(Vec::is_empty) && datagrams.is_empty() {
            return Ok(());
        }
        let identity = self.shown_identity()?;
        let [dot, doh] = sockets;
        let acceptor = |alpn: &[&[u8]]| -> Result<Arc<Acceptor>> {
            let config = identity.config(alpn).context("setting up TLS")?;
            Ok(Acceptor::new(config, self.streams.clone(), self.encrypted.handshakes.clone()))
        };
        let (over_tls, over_https) = (acceptor(&[b"dot"])?, acceptor(&[b"h2", b"http/1.1"])?);
        for listener in dot {
            self.lines.push(format!("dot {}", listener.local_addr()?));
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let (layer, streams) = (tcp::Layer::Tls(over_tls.clone()), self.streams.clone());
            let (seed, stop) = (self.seeds.next_u64(), self.stop_dns.clone());
            let answering = tcp::run(listener, layer, responder.clone(), streams, seed, stop);
            self.tasks.spawn("dns over tls", behind(begin.clone(), answering));
        }
        for listener in doh {
            self.lines.push(format!("doh {}", listener.local_addr()?));
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let answering = answering(responder.clone(), self.streams.clone(), self.seeds.next_u64());
            let (acceptor, streams) = (over_https.clone(), self.streams.clone());
            let serving = doh::run(listener, acceptor, streams, answering, self.stop_dns.clone());
            self.tasks.spawn("dns over https", behind(begin.clone(), serving));
        }
        for socket in datagrams {
            self.lines.push(format!("doq {}", socket.local_addr()?));
            let service = quic::Service {
                responder: responder.clone(),
                streams: self.streams.clone(),
                connections: self.encrypted.quic.clone(),
            };
            let (seed, stop) = (self.seeds.next_u64(), self.stop_dns.clone());
            let serving = quic::run(socket, quic::config(&identity)?, service, seed, stop);
            self.tasks.spawn("dns over quic", behind(begin.clone(), serving));
        }
        Ok(())
    }

    /// Registration and HTTP over TLS.
    pub(super) fn take_encrypted(
        &mut self,
        config: &Config,
        [listen, https]: [Vec<std::net::TcpListener>; 2],
        desk: &Arc<Desk>,
        office: &Arc<Office>,
    ) -> Result<()> {
        if listen.is_empty() && https.is_empty() {
            return Ok(());
        }
        let (identity, authorities) = (self.shown_identity()?, authorities(config)?);
        let acceptor = |alpn: &[&[u8]]| -> Result<Arc<Acceptor>> {
            let config = identity.config_for_clients(alpn, authorities.as_ref()).context("setting up TLS")?;
            Ok(Acceptor::new(config, self.streams.clone(), self.encrypted.handshakes.clone()))
        };
        // What speaks HTTP/2 alone is gRPC; who speaks both is answered in HTTP/1.1, for all but xDS.
        let (over_tls, over_https) = (acceptor(&[])?, acceptor(&[b"http/1.1", b"h2"])?);
        let stop = self.stop_registrations.clone();
        for listener in listen {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let taking =
                socket::run(Listener::Tls(listener, over_tls.clone()), desk.clone(), None, stop.clone());
            self.tasks.spawn("registration over tls", taking);
        }
        for listener in https {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let serving =
                http::run(http::Source::Tls(listener, over_https.clone()), office.clone(), stop.clone());
            self.tasks.spawn("https", serving);
        }
        Ok(())
    }

    /// The certificate, watched from the first time on that it is needed.
    fn shown_identity(&mut self) -> Result<Arc<Identity>> {
        let Some(identity) = self.encrypted.identity.clone() else {
            bail!(
                "a socket called dot, doh, doq, https or listen-tls is handed over, and there is no certificate: name its files with `tls-certificate` and `tls-key`, or set `tls-self-signed = true`"
            );
        };
        if !std::mem::replace(&mut self.encrypted.watched, true) {
            self.tasks.spawn("certificate", identity.clone().watch(self.stop_dns.clone()));
            self.lines.push(format!("certificate {}", shown(&identity)));
        }
        Ok(identity)
    }
}

/// What clients pin, as kdig and stubs take it.
fn shown(identity: &Identity) -> String {
    identity.pin().map_or_else(|| "without a pin".to_owned(), |pin| format!("pin-sha256 {pin}"))
}

/// The acceptance function for HTTP, which knows nothing of DNS.
fn answering(responder: Arc<Responder>, streams: Arc<Streams>, seed: u64) -> doh::Answering {
    let draws = Mutex::new(Draws::new(seed));
    Arc::new(move |client, message: Vec<u8>| {
        let draw = draws.lock().unwrap_or_else(PoisonError::into_inner).next_u64();
        let (responder, streams) = (responder.clone(), streams.clone());
        let reply = async move {
            let arrival = Arrival { client, over: Over::Https, draw };
            let accepted = {
                let _turn = streams.turns.take(false).await;
                responder.accept(&arrival, &message)
            };
            let octets = accepted.reply().await?;
            Some(doh::Reply { fresh_s: fresh_s(&octets), octets })
        };
        Box::pin(reply) as Pin<Box<dyn Future<Output = Option<doh::Reply>> + Send>>
    })
}
