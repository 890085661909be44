//! TLS of probes: the certificates that this machine trusts, or, where a definition says so, anyone's.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use crate::check::{Place, Tls};

/// What is spoken within.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Within {
    Http,
    /// HTTP/2, which ALPN has to settle (RFC 9113 section 3.2).
    Grpc,
}

/// Both ways to look at a certificate. The machine's certificates are read with the first probe that needs them, and
/// again when the server is started again.
#[derive(Debug, Default)]
pub struct Trust {
    machine: OnceCell<Result<ClientConfig, String>>,
}

impl Trust {
    /// TLS over `stream`; or in words, why there is none.
    pub async fn wrap<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        at: &Place,
        tls: &Tls,
        within: Within,
    ) -> Result<TlsStream<S>, String> {
        let name = tls.server_name.as_ref().unwrap_or(&at.host).to_string();
        let name =
            ServerName::try_from(name).map_err(|_| "TLS: `tls_server_name` is no host's name".to_owned())?;
        let mut config = match tls.skip_verify {
            true => anyone()?,
            false => self.machine().await?,
        };
        if within == Within::Grpc {
            config.alpn_protocols = vec![b"h2".to_vec()];
        }
        let connector = TlsConnector::from(Arc::new(config));
        connector.connect(name, stream).await.map_err(|error| format!("TLS: {error}"))
    }

    async fn machine(&self) -> Result<ClientConfig, String> {
        let read = || async {
            // Some hundred files, once.
            match tokio::task::spawn_blocking(machine).await {
                Ok(config) => config,
                Err(error) => Err(format!("TLS: reading this machine's certificates: {error}")),
            }
        };
        self.machine.get_or_init(read).await.clone()
    }
}

fn machine() -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "reading this machine's certificates, for probes over TLS");
    }
    let (taken, ignored) = roots.add_parsable_certificates(found.certs);
    tracing::debug!(taken, ignored, "read this machine's certificates, for probes over TLS");
    Ok(quiet(builder()?.with_root_certificates(roots).with_no_client_auth()))
}

fn anyone() -> Result<ClientConfig, String> {
    let verifier = Arc::new(Anyone(Arc::new(ring::default_provider())));
    Ok(quiet(builder()?.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()))
}

fn builder()
-> Result<tokio_rustls::rustls::ConfigBuilder<ClientConfig, tokio_rustls::rustls::WantsVerifier>, String> {
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS: {error}"))
}

/// Every probe is a whole handshake: a session that is resumed shows no certificate, and the certificate is part of
/// what is looked at.
fn quiet(mut config: ClientConfig) -> ClientConfig {
    config.resumption = Resumption::disabled();
    config
}

/// Takes any certificate, whose key must still sign the handshake. Only where a check says `tls_skip_verify`: what is
/// asked then is whether something answers, and not who.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
