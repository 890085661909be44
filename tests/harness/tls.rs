//! The other end of TLS: clients that take any certificate, and pairs of files for servers.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use data_encoding::BASE64;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme, SupportedProtocolVersion,
};

/// A client that offers these protocols and takes whatever certificate it is shown; its key must still sign.
pub fn client(versions: &[&'static SupportedProtocolVersion], alpn: &[&[u8]]) -> ClientConfig {
    let provider = Arc::new(default_provider());
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .expect("versions of the provider")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        .with_no_client_auth();
    // Each connection is a whole handshake: a session that is resumed shows no certificate.
    config.resumption = Resumption::disabled();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config
}

pub fn localhost() -> ServerName<'static> {
    ServerName::try_from("localhost").expect("a name")
}

#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A certificate and its key as files, which another pair may replace.
pub struct Pair {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Pair {
    /// A new pair in `directory`, for localhost.
    pub fn write(directory: &Path) -> Self {
        let pair = Self { certificate: directory.join("tls.pem"), key: directory.join("tls.key") };
        pair.replace();
        pair
    }

    /// Another pair in the same places, as tools put it there: first written beside, then renamed.
    pub fn replace(&self) {
        let key = rcgen::KeyPair::generate().expect("a key");
        let form = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        let certificate = form.self_signed(&key).expect("a certificate");
        put(&self.certificate, &pem("CERTIFICATE", certificate.der()));
        put(&self.key, &pem("PRIVATE KEY", &key.serialize_der()));
    }

    /// The flags of a server that shows it.
    pub fn flags(&self) -> [String; 4] {
        let text = |path: &Path| path.display().to_string();
        ["--tls-certificate".to_owned(), text(&self.certificate), "--tls-key".to_owned(), text(&self.key)]
    }
}

/// Nobody ever reads half a file.
pub fn put(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    let beside = path.with_extension("new");
    std::fs::write(&beside, text).expect("writing a file");
    std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o600)).expect("its mode");
    std::fs::rename(&beside, path).expect("putting it in place");
}

/// The textual form (RFC 7468).
pub fn pem(label: &str, octets: &[u8]) -> String {
    let text = BASE64.encode(octets);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("ASCII")).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
