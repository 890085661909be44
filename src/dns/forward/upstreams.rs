//! Who is asked: where upstreams come from, whether they changed, whether those that rest are back, and whether one of
//! them is ourselves.
//!
//! A query to ourselves would be one more client's query, and so on. By its address that is seen at once; through a stub
//! in between only by what comes back: so a name that nobody else has is asked for, and whoever brings it here leads here.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use thiserror::Error;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::cache::Cache;
use super::upstream::{Shown, Upstream};
use super::{Forwarder, Query, Source, UPSTREAMS_MAX, exchange, resolv_conf};
use crate::name::Name;
use crate::record::Type;

/// How often the task looks whether the system's servers changed, and who is to be probed.
const TICK: Duration = Duration::from_secs(1);
/// How long a probe may take.
const PROBE_TIME_MAX: Duration = Duration::from_secs(2);

/// Why there is nobody to ask.
#[derive(Debug, Error)]
pub enum Unusable {
    #[error("{0} is this server itself: asking it would go round in circles")]
    Own(SocketAddr),
    #[error(
        "{} and {} name no server but this one and stubs that may lead to it",
        resolv_conf::RESOLV_CONF,
        resolv_conf::BEHIND_STUB
    )]
    None,
    #[error("reading {}: {error}", resolv_conf::RESOLV_CONF)]
    Unread { error: io::Error },
}

impl Forwarder {
    /// Watches the upstreams until `stop`: probes those that are new or rest, and reads the system's list anew when it
    /// changes.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) -> io::Result<()> {
        let mut marks = Vec::new(); // so that the first look reads them
        loop {
            self.probe_due();
            // Both arms are cancel-safe.
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = sleep(TICK) => {}
            }
            let marks_now = marks_of(&self.settings.sources);
            if marks_now != marks || self.upstreams.load().is_empty() {
                marks = marks_now;
                self.reload();
            }
        }
    }

    fn reload(&self) {
        match self.servers() {
            Ok(servers) if servers == self.upstreams() => {}
            Ok(servers) => {
                tracing::info!(?servers, "the system's name servers changed");
                self.set_upstreams(&servers);
                // Another network may know other names.
                self.cache(Cache::clear);
            }
            Err(_) if self.upstreams.load().is_empty() => {} // it was said, and nothing is lost
            Err(error) => tracing::warn!(%error, "the system's name servers; those from before are asked on"),
        }
    }

    pub(super) fn servers(&self) -> Result<Vec<SocketAddr>, Unusable> {
        let (mut servers, mut unread): (Vec<SocketAddr>, _) = (Vec::new(), None);
        for source in &self.settings.sources {
            match source {
                Source::Server(address) if self.is_own(*address) => return Err(Unusable::Own(*address)),
                Source::Server(address) => servers.push(*address),
                Source::System => {
                    let files = [resolv_conf::RESOLV_CONF, resolv_conf::BEHIND_STUB].map(Path::new);
                    let named = resolv_conf::servers(&files, |address| self.is_own(address));
                    match named {
                        Ok(named) => servers.extend(named),
                        Err(error) => unread = Some(Unusable::Unread { error }),
                    }
                }
            }
        }
        let mut seen = Vec::new();
        servers.retain(|server| {
            !seen.contains(server) && {
                seen.push(*server);
                true
            }
        });
        servers.truncate(UPSTREAMS_MAX);
        if servers.is_empty() { Err(unread.unwrap_or(Unusable::None)) } else { Ok(servers) }
    }

    /// True where a query to `address` would come to us.
    fn is_own(&self, address: SocketAddr) -> bool {
        self.settings.own.iter().any(|own| {
            own.port() == address.port()
                && (own.ip() == address.ip()
                    || own.ip().is_unspecified()
                        && own.is_ipv4() == address.is_ipv4()
                        && UdpSocket::bind(SocketAddr::new(address.ip(), 0)).is_ok())
        })
    }

    /// Who stays keeps what was learnt of it.
    pub(super) fn set_upstreams(&self, servers: &[SocketAddr]) {
        let known = self.upstreams.load();
        let upstream = |address: &SocketAddr| {
            let known = known.iter().find(|upstream| upstream.address == *address);
            known.cloned().unwrap_or_else(|| Upstream::new(*address))
        };
        let upstreams: Vec<_> = servers.iter().map(upstream).collect();
        let counts = upstreams.iter().map(|upstream| upstream.counts.clone()).collect();
        self.counters.upstreams.store(Arc::new(counts));
        self.upstreams.store(Arc::new(upstreams));
    }

    fn probe_due(self: &Arc<Self>) {
        for upstream in self.upstreams.load().iter() {
            let mut nonce = [0; 16];
            if !upstream.wants_probe(self.now_ns()) || getrandom::fill(&mut nonce).is_err() {
                continue;
            }
            let Some(name) = probe_name(&nonce) else { continue };
            upstream.probe_begins(name.clone());
            self.tasks.spawn(self.clone().probe(upstream.clone(), name));
        }
    }

    /// Asks for a name that nobody has and nobody else asks for: where it comes to us, the upstream leads to us.
    async fn probe(self: Arc<Self>, upstream: Arc<Upstream>, name: Name) {
        let query = Query { name, qtype: Type::HINFO, dnssec_ok: false, checking_disabled: false };
        let asking = exchange::ask(&upstream, &query, self.now_ns());
        let replied = matches!(timeout(PROBE_TIME_MAX, asking).await, Ok(Ok(_)));
        let shown = upstream.probe_ends(replied, self.now_ns());
        upstream.counts.rests.store(upstream.rests(), Ordering::Relaxed);
        match shown {
            Some(Shown::Loops) => tracing::error!(
                upstream = %upstream.address,
                "a name server leads back to this server, and is not asked: let it ask another one than us"
            ),
            Some(Shown::Silent) => {
                tracing::warn!(upstream = %upstream.address, "a name server does not answer; others are asked first")
            }
            Some(Shown::Back) => self.returned(&upstream),
            None => tracing::debug!(upstream = %upstream.address, replied, "probed a name server"),
        }
    }
}

/// Two labels of 64 random bits each: no cache has it, and no stub keeps it to itself.
fn probe_name(nonce: &[u8; 16]) -> Option<Name> {
    let label = |octets: &[u8]| octets.iter().map(|octet| format!("{octet:02x}")).collect::<String>();
    Name::parse(&format!("{}.{}", label(&nonce[..8]), label(&nonce[8..]))).ok()
}

/// When the files were changed that the system's servers are read from; nothing where they are not read.
fn marks_of(sources: &[Source]) -> Vec<Option<SystemTime>> {
    let files = [resolv_conf::RESOLV_CONF, resolv_conf::BEHIND_STUB];
    let changed = |path| std::fs::metadata(path).and_then(|file| file.modified()).ok();
    if sources.contains(&Source::System) { files.map(changed).to_vec() } else { Vec::new() }
}
