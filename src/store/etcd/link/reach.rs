//! How an endpoint of etcd is reached: TCP, TLS, and what a call of it may end with.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::super::{Endpoint, Tls};
use crate::grpc::{self, Failure};
use crate::protobuf::Malformed;

/// How long connecting may take, with TLS and the user's password.
pub(super) const CONNECT_TIME_MAX: Duration = Duration::from_secs(2);
/// How long etcd may take for one answer. Its own limit for a transaction is seven seconds, without a leader it answers
/// nothing at all.
pub(super) const CALL_TIME_MAX: Duration = Duration::from_secs(2);
/// Octets of one message of etcd's: it sends no request of more than 1.5 MiB, and answers as long as it likes.
pub(super) const MESSAGE_OCTETS_MAX: usize = 16 << 20;
/// What etcd may send before it has to wait for us.
pub(super) const WINDOW_OCTETS: u32 = 4 << 20;
/// Certificates read of one file: an authority or a chain has a few.
const AUTHORITIES_MAX: usize = 1024;

/// Calls over one connection.
#[derive(Clone)]
pub(super) struct Caller {
    pub(super) sender: SendRequest<Bytes>,
    pub(super) scheme: &'static str,
    pub(super) authority: Arc<str>,
    pub(super) token: Option<Arc<str>>,
}

impl Caller {
    pub(super) fn request(&self, path: &str) -> Result<http::Request<()>, Failure> {
        let mut headers = vec![("hasleader", "true")];
        headers.extend(self.token.as_deref().map(|token| ("token", token)));
        grpc::request(self.scheme, &self.authority, path, &headers)
            .map_err(|error| Failure::Malformed(error.to_string()))
    }

    /// One message there, one back, within the time that a call has.
    pub(super) async fn call(self, path: &'static str, message: Vec<u8>) -> Result<Bytes, Lost> {
        let calling = async {
            let call = grpc::call(&self.sender, self.request(path)?, &message, true, MESSAGE_OCTETS_MAX);
            let (_sending, answer) = call.await?;
            answer.only().await
        };
        match timeout(CALL_TIME_MAX, calling).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(Lost::Silent),
        }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    #[error("no answer within {} s", CALL_TIME_MAX.as_secs())]
    Silent,
    #[error("{0}")]
    Failed(#[from] Failure),
}

impl Lost {
    pub(super) fn is_compacted(&self) -> bool {
        matches!(self, Self::Failed(Failure::Refused(status))
            if String::from_utf8_lossy(&status.message).contains("compacted"))
    }

    /// True where a smaller page would fit.
    pub(super) fn is_too_long(&self) -> bool {
        matches!(self, Self::Failed(Failure::TooLong(_)))
    }

    /// What etcd says of a transaction that it did not look at: it is malformed, or this user may not.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Self::Failed(Failure::Refused(status))
            if matches!(status.name(), "INVALID_ARGUMENT" | "PERMISSION_DENIED" | "UNAUTHENTICATED"))
    }
}

pub(super) fn words<T>(read: Result<T, Malformed>) -> Result<T, String> {
    read.map_err(|malformed| malformed.to_string())
}

/// A stream to an endpoint, with TLS where it is wanted.
pub(super) trait Octets: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Octets for T {}

pub(super) async fn connect(
    endpoint: Endpoint,
    tls: Option<Arc<ClientConfig>>,
) -> Result<Box<dyn Octets>, String> {
    let address = (endpoint.host.as_str(), endpoint.port);
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let Some(tls) = tls else { return Ok(Box::new(stream)) };
    let name = ServerName::try_from(endpoint.host.clone()).map_err(|error| format!("TLS: {error}"))?;
    let stream = TlsConnector::from(tls).connect(name, stream).await;
    Ok(Box::new(stream.map_err(|error| format!("TLS: {error}"))?))
}

/// TLS to etcd, as the settings say; or in words, which file cannot be used.
pub fn client_config(tls: &Tls) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    match &tls.authority {
        Some(path) => {
            let unfit =
                |error: &dyn std::fmt::Display| format!("etcd-authority: {}: {error}", path.display());
            let read = CertificateDer::pem_file_iter(path).map_err(|error| unfit(&error))?;
            for certificate in read.take(AUTHORITIES_MAX) {
                let certificate = certificate.map_err(|error| unfit(&error))?;
                roots.add(certificate).map_err(|error| unfit(&error))?;
            }
            if roots.is_empty() {
                return Err(unfit(&"it holds no certificate in PEM form"));
            }
        }
        None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let mut config = match &tls.certificate {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let unfit = |path: &Path, error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
            let chain =
                CertificateDer::pem_file_iter(certificate).map_err(|error| unfit(certificate, &error))?;
            let chain: Result<Vec<_>, _> = chain.take(AUTHORITIES_MAX).collect();
            let chain = chain.map_err(|error| unfit(certificate, &error))?;
            let read = PrivateKeyDer::from_pem_file(key).map_err(|error| unfit(key, &error))?;
            builder.with_client_auth_cert(chain, read).map_err(|error| unfit(certificate, &error))?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}
