//! TLS of the listeners: one certificate for all of them, and handshakes that delay nobody.
//!
//! The certificate is looked at every second, as service files are, and a new pair is shown to whoever connects from then
//! on; connections that are open stay as they are. A pair that cannot be used changes nothing, and is named in the log.
//!
//! A handshake has a time, and there are only so many at once: over the limit the one that has waited longest goes, so
//! that clients who are silent keep out nobody but each other. What a handshake costs the processor is one turn
//! ([`super::Turns`]).

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use data_encoding::BASE64;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring as provider};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::server::{
    Acceptor as Hello, ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
};
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::certificate::valid_until;
use super::{Connections, Place, Streams};
use crate::time::Wall;

/// How long a new certificate waits to be seen, at most.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Octets of a PEM file: a chain of `CHAIN_MAX` large certificates is a tenth of it.
const FILE_OCTETS_MAX: u64 = 1 << 20;
/// Certificates of a chain; public ones have two to four.
const CHAIN_MAX: usize = 16;
/// How long a client may take for its handshake: two round trips, on a bad line.
pub const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(5);
/// Handshakes under way at once, of each listener: what a second of new clients needs where each takes its time.
const HANDSHAKES_MAX: usize = 1024;

/// Where a certificate and its key come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Two files in PEM form: the chain, the server's own certificate first, and its key.
    Files { certificate: PathBuf, key: PathBuf },
    /// Made when the server starts, for these names and addresses, and gone when it ends.
    SelfSigned(Vec<String>),
}

/// Why a pair cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    #[error("reading {}: {error}", path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    #[error("{} is longer than the {FILE_OCTETS_MAX} octets that a PEM file may have", path.display())]
    TooLong { path: PathBuf },
    #[error("{} holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)", path.display())]
    NoCertificate { path: PathBuf },
    #[error("{} holds more than {CHAIN_MAX} certificates", path.display())]
    LongChain { path: PathBuf },
    #[error("{} holds no private key in PEM form (-----BEGIN PRIVATE KEY-----), without a password", path.display())]
    NoKey { path: PathBuf },
    #[error("{} is not the key of the first certificate in {}", key.display(), certificate.display())]
    NotAPair { certificate: PathBuf, key: PathBuf },
    #[error("{what}: {error}")]
    Rejected { what: String, error: rustls::Error },
    #[error("making a certificate: {0}")]
    NotMade(rcgen::Error),
}

/// The certificate that every encrypted listener shows, and its key.
pub struct Identity {
    source: Source,
    shown: ArcSwap<CertifiedKey>,
    /// How often a new pair was taken from the files, and how often one could not be.
    taken: AtomicU64,
    refused: AtomicU64,
}

// The key stays out of it.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("source", &self.source).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.shown.load_full())
    }
}

impl Identity {
    /// Reads the pair, or makes one.
    ///
    /// # Errors
    ///
    /// The pair cannot be used, in words that name the file.
    pub fn new(source: Source) -> Result<Arc<Self>, Unusable> {
        let pair = match &source {
            Source::Files { certificate, key } => {
                warn_of_open_key(key);
                read(certificate, key)?
            }
            Source::SelfSigned(names) => make(names)?,
        };
        let (taken, refused) = (AtomicU64::new(0), AtomicU64::new(0));
        Ok(Arc::new(Self { source, shown: ArcSwap::from_pointee(pair), taken, refused }))
    }

    /// What clients pin (RFC 7858 section 4.2): the SHA-256 of the public key, in base64.
    pub fn pin(&self) -> Option<String> {
        let shown = self.shown.load_full();
        let key = shown.key.public_key()?;
        Some(BASE64.encode(ring::digest::digest(&ring::digest::SHA256, &key).as_ref()))
    }

    /// Until when the certificate that is shown is valid; none where it does not say so in a way that we read.
    pub fn valid_until(&self) -> Option<Wall> {
        valid_until(self.shown.load().cert.first()?)
    }

    /// How often a new pair was taken, and how often one was refused.
    pub fn reloads(&self) -> [u64; 2] {
        [&self.taken, &self.refused].map(|count| count.load(Ordering::Relaxed))
    }

    /// A configuration for registration and HTTP: TLS 1.3 alone, for their clients are younger than it. Where there are
    /// `authorities`, a client may show a certificate that one of them has signed; one that none has signed ends the handshake.
    ///
    /// # Errors
    ///
    /// As below.
    pub fn config_for_clients(
        self: &Arc<Self>,
        alpn: &[&[u8]],
        authorities: Option<&Authorities>,
    ) -> Result<ServerConfig, rustls::Error> {
        let builder =
            ServerConfig::builder_with_provider(ring_provider()).with_protocol_versions(&[&TLS13])?;
        let builder = match authorities {
            None => builder.with_no_client_auth(),
            Some(authorities) => builder.with_client_cert_verifier(authorities.0.clone()),
        };
        self.finished(builder.with_cert_resolver(self.clone()), alpn)
    }

    /// A configuration for the protocols `alpn`, the first one preferred; TLS 1.3, and 1.2 for who is older.
    ///
    /// A session is resumed by a ticket that the client keeps: ten thousand clients cost no memory here. There is no early
    /// data: who records it could ask again with it.
    ///
    /// # Errors
    ///
    /// No random number can be had for the key of the tickets.
    pub fn config(self: &Arc<Self>, alpn: &[&[u8]]) -> Result<ServerConfig, rustls::Error> {
        self.config_of(&[&TLS13, &TLS12], alpn)
    }

    /// The same for QUIC, which has TLS 1.3 in it and no other (RFC 9001 section 4.2).
    ///
    /// # Errors
    ///
    /// As above.
    pub fn quic_config(self: &Arc<Self>, alpn: &[&[u8]]) -> Result<ServerConfig, rustls::Error> {
        self.config_of(&[&TLS13], alpn)
    }

    fn config_of(
        self: &Arc<Self>,
        versions: &[&'static rustls::SupportedProtocolVersion],
        alpn: &[&[u8]],
    ) -> Result<ServerConfig, rustls::Error> {
        let config = ServerConfig::builder_with_provider(ring_provider())
            .with_protocol_versions(versions)?
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        self.finished(config, alpn)
    }

    fn finished(&self, mut config: ServerConfig, alpn: &[&[u8]]) -> Result<ServerConfig, rustls::Error> {
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = provider::Ticketer::new()?;
        Ok(config)
    }

    /// Looks at the files again and again, until `stop`.
    ///
    /// # Errors
    ///
    /// None: what is wrong with a file is logged.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) -> io::Result<()> {
        let mut seen = self.marks();
        // What could not be used, and was not complained of yet: the other file of the pair may be on its way.
        let mut doubtful = None;
        loop {
            // Both arms are cancel-safe.
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = stop.cancelled() => return Ok(()),
            }
            let marks = self.marks();
            if marks == seen {
                continue;
            }
            // Disks wait; others on this thread go on meanwhile.
            match tokio::task::block_in_place(|| self.read_again()) {
                Ok(()) => seen = marks,
                Err(_) if doubtful != Some(marks) => doubtful = Some(marks),
                Err(unusable) => {
                    self.refused.fetch_add(1, Ordering::Relaxed);
                    tracing::error!(%unusable, "the new certificate cannot be used; the one before is still shown");
                    seen = marks;
                }
            }
        }
    }

    fn read_again(&self) -> Result<(), Unusable> {
        let Source::Files { certificate, key } = &self.source else { return Ok(()) };
        warn_of_open_key(key);
        self.shown.store(Arc::new(read(certificate, key)?));
        self.taken.fetch_add(1, Ordering::Relaxed);
        tracing::info!(certificate = %certificate.display(), pin_sha256 = self.pin(), "a new certificate is shown");
        Ok(())
    }

    /// What tells that a file is another one; a file that is not there has none.
    fn marks(&self) -> [Option<Mark>; 2] {
        match &self.source {
            Source::Files { certificate, key } => [certificate, key].map(|path| mark(path)),
            Source::SelfSigned(_) => [None, None],
        }
    }
}

/// Who signs the certificates that clients show.
#[derive(Clone, Debug)]
pub struct Authorities(Arc<dyn ClientCertVerifier>);

impl Authorities {
    /// Reads a file of certificates in PEM form.
    ///
    /// # Errors
    ///
    /// It cannot be used, in words that name the file.
    pub fn read(path: &Path) -> Result<Self, Unusable> {
        let roots = Arc::new(roots(path)?);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, ring_provider());
        // Who shows none is known by something else, or by nothing.
        let verifier = verifier.allow_unauthenticated().build();
        let unfit = |error| Unusable::Rejected {
            what: path.display().to_string(),
            error: rustls::Error::General(format!("{error}")),
        };
        verifier.map(Self).map_err(unfit)
    }
}

fn roots(path: &Path) -> Result<RootCertStore, Unusable> {
    let text = octets(path)?;
    let found = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    let none = || Unusable::NoCertificate { path: path.to_owned() };
    let found = found.ok().filter(|found| !found.is_empty()).ok_or_else(none)?;
    let mut roots = RootCertStore::empty();
    for certificate in found {
        let rejected = |error| Unusable::Rejected { what: path.display().to_string(), error };
        roots.add(certificate).map_err(rejected)?;
    }
    Ok(roots)
}

/// What whoever connects to a server over TLS believes and shows.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    /// Certificates in PEM form that sign the server's; none: those that this machine trusts.
    pub authorities: Option<PathBuf>,
    /// A certificate of one's own, and its key.
    pub pair: Option<(PathBuf, PathBuf)>,
}

impl Trust {
    /// What a client of ours connects with.
    ///
    /// # Errors
    ///
    /// A file cannot be used.
    pub fn config(&self) -> Result<ClientConfig, Unusable> {
        let rejected = |error| Unusable::Rejected { what: "setting up TLS".to_owned(), error };
        let roots = match &self.authorities {
            Some(path) => roots(path)?,
            None => {
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                roots
            }
        };
        let builder = ClientConfig::builder_with_provider(ring_provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(rejected)?
            .with_root_certificates(roots);
        match &self.pair {
            None => Ok(builder.with_no_client_auth()),
            Some((certificate, key)) => {
                let pair = Arc::new(read(certificate, key)?);
                Ok(builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(pair))))
            }
        }
    }
}

/// The name in the certificate that the client showed, where it showed one: its first DNS name (RFC 5280 section
/// 4.2.1.6). An authority of ours has signed it, or there would be no stream.
pub fn name_of_client(stream: &TlsStream<TcpStream>) -> Option<Arc<str>> {
    let (_, connection) = stream.get_ref();
    let certificate = connection.peer_certificates()?.first()?;
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    certificate.valid_dns_names().next().map(|name| name.to_ascii_lowercase().into())
}

/// Length, time of the last change, and which file it is: `metadata` follows links, which is how a new pair is put in place.
type Mark = (u64, Option<SystemTime>, u64);

fn mark(path: &Path) -> Option<Mark> {
    use std::os::unix::fs::MetadataExt;
    let found = fs::metadata(path).ok()?;
    Some((found.len(), found.modified().ok(), found.ino()))
}

/// A key that everybody on the machine can read is everybody's; the group may be there for that.
fn warn_of_open_key(path: &Path) {
    use std::os::unix::fs::MetadataExt;
    const READABLE_BY_OTHERS: u32 = 0o004;
    if fs::metadata(path).is_ok_and(|found| found.mode() & READABLE_BY_OTHERS != 0) {
        tracing::warn!(key = %path.display(), "every user of this machine can read the private key; `chmod o-r` it");
    }
}

fn ring_provider() -> Arc<CryptoProvider> {
    Arc::new(provider::default_provider())
}

fn read(certificate: &Path, key: &Path) -> Result<CertifiedKey, Unusable> {
    let chain = octets(certificate)?;
    let chain = CertificateDer::pem_slice_iter(&chain).take(CHAIN_MAX + 1).collect::<Result<Vec<_>, _>>();
    let chain = chain.ok().filter(|chain| !chain.is_empty());
    let chain = chain.ok_or_else(|| Unusable::NoCertificate { path: certificate.to_owned() })?;
    if chain.len() > CHAIN_MAX {
        return Err(Unusable::LongChain { path: certificate.to_owned() });
    }
    let secret = PrivateKeyDer::from_pem_slice(&octets(key)?);
    let secret = secret.map_err(|_| Unusable::NoKey { path: key.to_owned() })?;
    CertifiedKey::from_der(chain, secret, &ring_provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            Unusable::NotAPair { certificate: certificate.to_owned(), key: key.to_owned() }
        }
        error => {
            let what = format!("{} with {}", certificate.display(), key.display());
            Unusable::Rejected { what, error }
        }
    })
}

fn octets(path: &Path) -> Result<Vec<u8>, Unusable> {
    let unreadable = |error| Unusable::Unreadable { path: path.to_owned(), error };
    if fs::metadata(path).map_err(unreadable)?.len() > FILE_OCTETS_MAX {
        return Err(Unusable::TooLong { path: path.to_owned() });
    }
    fs::read(path).map_err(unreadable)
}

fn make(names: &[String]) -> Result<CertifiedKey, Unusable> {
    let key = rcgen::KeyPair::generate().map_err(Unusable::NotMade)?;
    let mut form = rcgen::CertificateParams::new(names.to_vec()).map_err(Unusable::NotMade)?;
    form.distinguished_name = rcgen::DistinguishedName::new();
    form.distinguished_name.push(rcgen::DnType::CommonName, "callsign, self-signed");
    let certificate = form.self_signed(&key).map_err(Unusable::NotMade)?;
    let rejected = |error| Unusable::Rejected { what: "the certificate made".to_owned(), error };
    let secret = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    CertifiedKey::from_der(vec![certificate.der().clone()], secret, &ring_provider()).map_err(rejected)
}

/// How handshakes ended.
#[derive(Debug, Default)]
pub struct Handshakes {
    pub done: AtomicU64,
    /// Not TLS, no protocol or version in common, or the client went away.
    pub failed: AtomicU64,
    /// Not within `HANDSHAKE_TIME_MAX`, or the one that had waited longest when there were too many.
    pub slow: AtomicU64,
}

/// What makes a TLS stream of a connection.
#[derive(Debug)]
pub struct Acceptor {
    config: Arc<ServerConfig>,
    streams: Arc<Streams>,
    under_way: Arc<Connections>,
    counted: Arc<Handshakes>,
}

impl Acceptor {
    pub fn new(config: ServerConfig, streams: Arc<Streams>, counted: Arc<Handshakes>) -> Arc<Self> {
        let under_way = Connections::in_floods(HANDSHAKES_MAX);
        Arc::new(Self { config: Arc::new(config), streams, under_way, counted })
    }

    /// The handshake with the client at the other end of `stream`.
    ///
    /// # Errors
    ///
    /// There is no TLS with this client; nothing is left to be done about it.
    pub async fn accept(&self, stream: TcpStream, place: &Place) -> io::Result<TlsStream<TcpStream>> {
        let among_others = self.under_way.enter(place.closing());
        let handshake = async {
            let hello = LazyConfigAcceptor::new(Hello::default(), stream).await?;
            let rest = {
                let _turn = self.streams.turns.take(false).await;
                hello.into_stream(self.config.clone()) // signs, and agrees on keys
            };
            rest.await
        };
        // Either way the connection ends with the handshake that did not.
        let ended = tokio::select! {
            ended = timeout(HANDSHAKE_TIME_MAX, handshake) => ended.ok(),
            () = among_others.closing().cancelled() => None,
        };
        let count = match &ended {
            Some(Ok(_)) => &self.counted.done,
            Some(Err(_)) => &self.counted.failed,
            None => &self.counted.slow,
        };
        count.fetch_add(1, Ordering::Relaxed);
        ended.unwrap_or_else(|| Err(io::Error::new(io::ErrorKind::TimedOut, "the handshake took too long")))
    }
}
