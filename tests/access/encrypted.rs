//! Registration and HTTP over TLS 1.3, and who a client's certificate says that it is.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use callsign::connections::tls::Trust;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::json;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::{token, tokens::CLOSED};
use crate::harness::tls::{Pair, client, localhost, pem, put};
use crate::harness::{DEADLINE, Ended, Server, callsign, eventually};

/// Who signs clients' certificates.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    directory: PathBuf,
    pub file: String,
}

impl Authority {
    fn new(directory: &Path, name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut form = CertificateParams::new(vec![]).expect("no names");
        form.distinguished_name.push(rcgen::DnType::CommonName, name);
        form.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = form.self_signed(&key).expect("a certificate");
        let file = directory.join(format!("{name}.pem"));
        put(&file, &pem("CERTIFICATE", certificate.der()));
        let file = file.display().to_string();
        Self { issuer: Issuer::new(form, key), directory: directory.to_owned(), file }
    }

    /// A pair of files for a client of this name.
    fn sign(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let form = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        let certificate = form.signed_by(&key, &self.issuer).expect("a certificate");
        let files = ["crt", "key"].map(|end| self.directory.join(format!("{name}.{end}")));
        put(&files[0], &pem("CERTIFICATE", certificate.der()));
        put(&files[1], &pem("PRIVATE KEY", &key.serialize_der()));
        (files[0].display().to_string(), files[1].display().to_string())
    }
}

/// Where the server listens on that line.
pub fn address(server: &Server, what: &str) -> SocketAddr {
    let found = server.lines.iter().find_map(|line| line.strip_prefix(what)?.trim().parse().ok());
    found.unwrap_or_else(|| panic!("no line `{what}`: {:?}", server.lines))
}

fn start(pair: &Pair, flags: &[&str]) -> Server {
    let certificate = pair.flags();
    let certificate: Vec<&str> = certificate.iter().map(String::as_str).collect();
    Server::start(
        &[&certificate[..], &["--listen-tls", "127.0.0.1:0", "--https", "127.0.0.1:0"], flags].concat(),
    )
}

/// One request over HTTPS, and all of the reply.
fn https(server: &Server, config: ClientConfig, head: &str) -> Result<String, std::io::Error> {
    let stream = TcpStream::connect(address(server, "https "))?;
    stream.set_read_timeout(Some(DEADLINE))?;
    let connection = ClientConnection::new(Arc::new(config), localhost()).map_err(std::io::Error::other)?;
    let mut stream = StreamOwned::new(connection, stream);
    stream.write_all(format!("{head}\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply)?;
    Ok(String::from_utf8_lossy(&reply).into_owned())
}

#[test]
fn what_is_said_in_the_clear_or_in_an_older_tls_is_not_heard() {
    let directory = tempfile::tempdir().expect("a directory");
    let server = start(&Pair::write(directory.path()), &CLOSED);
    let text = token(&server, "ci", &["*"], &[]);
    for what in ["listen-tls ", "https "] {
        let mut plain = TcpStream::connect(address(&server, what)).expect("a connection");
        plain.set_read_timeout(Some(DEADLINE)).expect("an option of a socket of ours");
        plain.write_all(format!("{{\"hello\":{{\"token\":\"{text}\"}}}}\n").as_bytes()).expect("a line");
        let mut reply = Vec::new();
        drop(plain.read_to_end(&mut reply)); // closed or reset, as the kernel has it
        assert!(!String::from_utf8_lossy(&reply).contains("welcome"), "{what}");
    }
    let request = format!("GET /v1/catalog/services HTTP/1.1\r\nX-Consul-Token: {text}");
    let reply = https(&server, client(&[&TLS13], &[b"http/1.1"]), &request).expect("TLS 1.3");
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    // Who offers both is answered in the one that all of HTTP is in.
    let reply = https(&server, client(&[&TLS13], &[b"h2", b"http/1.1"]), &request).expect("TLS 1.3");
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    https(&server, client(&[&TLS12], &[]), &request).expect_err("no TLS 1.2");
    let nobody =
        https(&server, client(&[&TLS13], &[]), "GET /v1/catalog/services HTTP/1.1").expect("TLS 1.3");
    assert!(nobody.starts_with("HTTP/1.1 403"), "encrypted is not known: {nobody}");
}

#[test]
fn the_command_line_registers_over_tls_and_a_new_certificate_is_taken() {
    let directory = tempfile::tempdir().expect("a directory");
    let pair = Pair::write(directory.path());
    let server = start(&pair, &CLOSED);
    let file = directory.path().join("ci.token");
    std::fs::write(&file, token(&server, "ci", &["*"], &[])).expect("a file");
    let (file, trusted) = (file.display().to_string(), pair.certificate.display().to_string());
    let place = format!("tls:localhost:{}", address(&server, "listen-tls ").port());
    let run = |words: &[&str]| callsign(&[words, &["--server", &place, "--token-file", &file]].concat());
    let stranger = run(&["ls"]);
    assert!(stranger.code == Some(5) && stranger.stderr.contains("certificate"), "{stranger:?}");
    let trusting = ["--server-authority", &trusted];
    let register = ["register", "web", "10.0.0.7:80", "--lease", "1h"];
    let registered = run(&[&register[..], &trusting].concat());
    assert_eq!(registered.code, Some(0), "{registered:?}");
    pair.replace();
    eventually("the new certificate", DEADLINE, || {
        let listed = run(&[&["ls"][..], &trusting].concat());
        (listed.code == Some(0) && listed.stdout.contains("web")).then_some(())
    });
    let elsewhere = callsign(&["ls", "--server", "tls:localhost"]);
    assert!(elsewhere.code == Some(2) && elsewhere.stderr.contains("tls:HOST:PORT"), "{elsewhere:?}");
}

#[test]
fn a_client_is_who_its_certificate_says_where_an_authority_has_signed_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let pair = Pair::write(directory.path());
    let ours = Authority::new(directory.path(), "ours");
    let other = Authority::new(directory.path(), "other");
    let flags = [
        "--store",
        "memory",
        "--client-authority",
        &ours.file,
        "--access",
        "allow certificate:web.* register+read:web",
        "--access",
        "allow anyone read:public",
    ];
    let server = start(&pair, &flags);
    let trusted = pair.certificate.display().to_string();
    let place = format!("tls:localhost:{}", address(&server, "listen-tls ").port());
    let run = |words: &[&str], shown: Option<&(String, String)>| -> Ended {
        let mut all = [words, &["--server", &place, "--server-authority", &trusted]].concat();
        if let Some((certificate, key)) = shown {
            all.extend(["--client-certificate", certificate, "--client-key", key]);
        }
        callsign(&all)
    };
    let (web, db, foreign) = (ours.sign("web.example"), ours.sign("db.example"), other.sign("web.foreign"));
    let register = ["register", "web", "10.0.0.7:80", "--id", "web-1", "--lease", "1h"];
    assert_eq!(run(&register, Some(&web)).code, Some(0));
    for shown in [Some(&db), None] {
        let denied = run(&register, shown);
        assert!(denied.code == Some(4) && denied.stderr.contains("may not register"), "{denied:?}");
    }
    let unsigned = run(&register, Some(&foreign));
    assert!(unsigned.code == Some(5), "{unsigned:?}");
    let log = server.client().done("log", &json!({"log": {"service": "web"}}));
    assert_eq!(log["changes"][0]["author"], "certificate web.example");
    assert_eq!(log["changes"].as_array().map(Vec::len), Some(1));
    // The same over HTTPS, and whose it is holds there too.
    let trust = |shown: &(String, String)| Trust {
        authorities: Some(pair.certificate.clone()),
        pair: Some((shown.0.clone().into(), shown.1.clone().into())),
    };
    let read = |shown| {
        let config = trust(shown).config().expect("files that fit");
        https(&server, config, "GET /v1/health/service/web HTTP/1.1").expect("a reply")[..12].to_owned()
    };
    assert_eq!((read(&web), read(&db)), ("HTTP/1.1 200".to_owned(), "HTTP/1.1 403".to_owned()));
    let renewed = ours.sign("web.other");
    let taken = run(&register, Some(&renewed));
    assert!(taken.code == Some(4) && taken.stderr.contains("certificate web.example"), "{taken:?}");
}

#[test]
fn what_cannot_be_encrypted_is_refused_at_start() {
    let directory = tempfile::tempdir().expect("a directory");
    let empty = directory.path().join("empty.pem");
    std::fs::write(&empty, "nothing").expect("a file");
    let empty = empty.display().to_string();
    for (flags, phrase) in [
        (vec!["--listen-tls", "127.0.0.1:0"], "needs a certificate"),
        (vec!["--https", "127.0.0.1:0"], "needs a certificate"),
        (vec!["--https", "0.0.0.0:0", "--tls-self-signed"], "authentication"),
        (vec!["--client-authority", &empty], "is of no use"),
        (
            vec!["--https", "127.0.0.1:0", "--tls-self-signed", "--client-authority", &empty],
            "no certificate in PEM form",
        ),
    ] {
        let Err(ended) = Server::launch(&[], &flags) else { panic!("{flags:?} was served") };
        assert!(ended.code != Some(0) && ended.stderr.contains(phrase), "{flags:?}: {ended:?}");
    }
}
