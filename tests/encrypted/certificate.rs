//! The certificate: named, made, renewed, refused.

use std::fs;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hickory_proto::rr::RecordType;
use quinn::crypto::rustls::QuicClientConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::version::TLS13;

use crate::harness::dns::{framed, query, read};
use crate::harness::tls::{Pair, client, localhost, pem, put};
use crate::harness::{DEADLINE, Http, Server, binary, eventually};

const NAME: &str = "service.local.";

/// The addresses of a server's lines that begin so.
fn addresses(server: &Server, start: &str) -> Vec<SocketAddr> {
    server.lines.iter().filter_map(|line| line.strip_prefix(start)?.parse().ok()).collect()
}

fn start(certificate: &[String]) -> Server {
    let mut flags = vec!["--dot", "127.0.0.1:0", "--doh", "127.0.0.1:0", "--doq", "127.0.0.1:0"];
    flags.extend(certificate.iter().map(String::as_str));
    Server::start(&flags)
}

async fn connect(server: SocketAddr, alpn: &[u8]) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    TlsConnector::from(Arc::new(client(&[&TLS13], &[alpn]))).connect(localhost(), stream).await
}

/// The certificate that a newcomer is shown.
fn shown(server: SocketAddr) -> Vec<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let stream = runtime.block_on(connect(server, b"dot")).expect("a handshake");
    let chain = stream.get_ref().1.peer_certificates().expect("a certificate");
    chain[0].to_vec()
}

/// One question on a stream, and its answer: the SOA.
async fn ask(stream: &mut TlsStream<TcpStream>) -> std::io::Result<bool> {
    let question = query(0, NAME, RecordType::SOA, None).to_vec().expect("a wire form");
    stream.write_all(&framed(&question)).await?;
    stream.flush().await?;
    let mut reply = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut reply).await?;
    Ok(read(&reply).answers.len() == 1)
}

/// Counts of one kind of client.
#[derive(Default)]
struct Tally {
    answered: AtomicU64,
    failed: AtomicU64,
}

impl Tally {
    fn add(&self, outcome: Result<bool, impl std::fmt::Display>) {
        match outcome {
            Ok(true) => self.answered.fetch_add(1, Ordering::Relaxed),
            Ok(false) => self.failed.fetch_add(1, Ordering::Relaxed),
            Err(error) => {
                eprintln!("a query failed: {error}");
                self.failed.fetch_add(1, Ordering::Relaxed)
            }
        };
    }

    fn counts(&self) -> (u64, u64) {
        (self.answered.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed))
    }
}

/// Asks until `stop`: each time on a new connection, or always on the same.
async fn ask_on(server: SocketAddr, anew: bool, tally: &Tally, stop: &AtomicBool) {
    let mut kept = None;
    while !stop.load(Ordering::Relaxed) {
        let asked = async {
            let mut stream = match kept.take() {
                Some(stream) => stream,
                None => connect(server, b"dot").await?,
            };
            let answered = ask(&mut stream).await;
            if !anew {
                kept = Some(stream);
            }
            answered
        };
        tally.add(asked.await);
    }
}

async fn ask_quic_on(server: SocketAddr, tally: &Tally, stop: &AtomicBool) {
    let config = QuicClientConfig::try_from(client(&[&TLS13], &[b"doq"])).expect("TLS 1.3");
    let config = quinn::ClientConfig::new(Arc::new(config));
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().expect("an address")).expect("a socket");
    let question = framed(&query(0, NAME, RecordType::SOA, None).to_vec().expect("a wire form"));
    while !stop.load(Ordering::Relaxed) {
        let asked = async {
            let connection = endpoint.connect_with(config.clone(), server, "localhost")?.await?;
            let (mut send, mut receive) = connection.open_bi().await?;
            send.write_all(&question).await?;
            send.finish()?;
            let reply = receive.read_to_end(4096).await?;
            Ok::<bool, Box<dyn std::error::Error>>(read(&reply[2..]).answers.len() == 1)
        };
        tally.add(asked.await);
    }
}

fn reloads(server: &Server, outcome: &str) -> u64 {
    let text = Http::tcp(server.http[0]).get("/metrics").text().to_owned();
    let name = format!("callsign_tls_reloads_total{{outcome=\"{outcome}\"}} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&name)).expect("the count");
    value.parse().expect("a number")
}

/// Tells the load to end when this is dropped, by a failure too: a scope waits for its threads.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_certificate_is_renewed_under_load() {
    const RENEWALS: u64 = 4;
    let directory = tempfile::tempdir().expect("a directory");
    let pair = Pair::write(directory.path());
    let server = start(&pair.flags());
    let (dot, doq) = (addresses(&server, "dot ")[0], addresses(&server, "doq ")[0]);
    let [anew, kept, quic] = [(); 3].map(|()| Tally::default());
    let stop = AtomicBool::new(false);
    let mut certificates = vec![shown(dot)];
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                tokio::join!(
                    ask_on(dot, true, &anew, &stop),
                    ask_on(dot, true, &anew, &stop),
                    ask_on(dot, false, &kept, &stop),
                    ask_quic_on(doq, &quic, &stop),
                )
            });
        });
        let _end = Ends(&stop); // however this goes
        for number in 1..=RENEWALS {
            pair.replace();
            eventually("the new certificate", DEADLINE, || {
                (reloads(&server, "taken") == number).then_some(())
            });
            certificates.push(shown(dot));
        }
        stop.store(true, Ordering::Relaxed);
        load.join().expect("the load");
    });
    println!(
        "renewals: {RENEWALS}, anew {:?}, kept {:?}, quic {:?}",
        anew.counts(),
        kept.counts(),
        quic.counts()
    );
    for tally in [&anew, &kept, &quic] {
        let (answered, failed) = tally.counts();
        assert!(answered > 0 && failed == 0, "{answered} answered, {failed} failed");
    }
    certificates.dedup();
    assert_eq!(certificates.len(), 1 + RENEWALS as usize, "each of them was shown");
}

#[test]
fn a_pair_that_cannot_be_used_changes_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let pair = Pair::write(directory.path());
    let server = start(&pair.flags());
    let dot = addresses(&server, "dot ")[0];
    let before = shown(dot);
    let (good, key) = (fs::read_to_string(&pair.certificate), fs::read_to_string(&pair.key));
    let (good, key) = (good.expect("the certificate"), key.expect("the key"));
    let other = tempfile::tempdir().expect("a directory");
    let others = fs::read_to_string(Pair::write(other.path()).key).expect("another key");
    let rows: [(&str, &str, &str, &str); 4] = [
        ("another's key", &good, &others, "is not the key of the first certificate"),
        ("no PEM", "hello", &key, "holds no certificate in PEM form"),
        ("a certificate for a key", &good, &good, "holds no private key in PEM form"),
        ("no certificate in it", &pem("CERTIFICATE", b"hello"), &key, "tls.pem with"),
    ];
    for (number, (what, certificate, key, words)) in rows.into_iter().enumerate() {
        put(&pair.certificate, certificate);
        put(&pair.key, key);
        eventually(what, DEADLINE, || (reloads(&server, "refused") == number as u64 + 1).then_some(()));
        assert!(server.stderr().contains(words), "{what}: {}", server.stderr());
        assert_eq!(shown(dot), before, "{what}");
    }
    // One that is gone is one that cannot be used; and a good pair is taken again.
    fs::remove_file(&pair.key).expect("a file");
    eventually("the missing key", DEADLINE, || {
        (reloads(&server, "refused") == rows.len() as u64 + 1).then_some(())
    });
    pair.replace();
    eventually("the next good pair", DEADLINE, || (reloads(&server, "taken") == 1).then_some(()));
    assert_ne!(shown(dot), before);
}

#[test]
fn a_server_without_a_certificate_does_not_start() {
    let directory = tempfile::tempdir().expect("a directory");
    let pair = Pair::write(directory.path());
    let [_, certificate, _, key] = pair.flags();
    let missing = directory.path().join("nowhere.pem").display().to_string();
    for (flags, code, words) in [
        (vec!["--dot", "127.0.0.1:0"], 2, "needs a certificate"),
        (vec!["--dot", "127.0.0.1:0", "--tls-certificate", &certificate], 2, "needs its key"),
        (
            vec!["--doq", "127.0.0.1:0", "--tls-certificate", &missing, "--tls-key", &key],
            1,
            "nowhere.pem: No such file",
        ),
        (
            vec!["--doh", "127.0.0.1:0", "--tls-certificate", &key, "--tls-key", &key],
            1,
            "no certificate in PEM form",
        ),
    ] {
        let ended = Server::launch(&[], &flags).err().expect("it does not start");
        assert_eq!(ended.code, Some(code), "{flags:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(words), "{flags:?}: {}", ended.stderr);
        let checked = crate::harness::callsign(&[&["serve", "--check-config"], &flags[..]].concat());
        assert!(checked.code == Some(2) && checked.stderr.contains(words), "{flags:?}: {}", checked.stderr);
    }
}

#[test]
fn a_key_that_everybody_can_read_is_warned_of() {
    let directory = tempfile::tempdir().expect("a directory");
    let pair = Pair::write(directory.path());
    assert!(!start(&pair.flags()).stderr().contains("can read the private key"));
    fs::set_permissions(&pair.key, fs::Permissions::from_mode(0o644)).expect("a mode");
    assert!(start(&pair.flags()).stderr().contains("every user of this machine can read the private key"));
}

#[test]
fn each_start_makes_a_certificate_and_says_its_pin() {
    let flags = ["--tls-self-signed".to_owned()];
    let mut pins = Vec::new();
    for _ in 0..2 {
        let server = start(&flags);
        let pin = server.lines.iter().find_map(|line| line.strip_prefix("certificate pin-sha256 "));
        pins.push(pin.expect("a line with the pin").to_owned());
        for start in ["dot ", "doh ", "doq "] {
            assert_eq!(addresses(&server, start).len(), 1, "{:?}", server.lines);
        }
    }
    assert_ne!(pins[0], pins[1]);
    assert!(pins.iter().all(|pin| pin.len() == 44), "SHA-256 in base64: {pins:?}");
}

/// Sockets that a parent holds are told apart by what it calls them.
#[test]
fn sockets_handed_over_are_known_by_their_names() {
    const HAND_OVER: &str = "exec 3<&0 4<&1 5<&2 </dev/null >\"$OUT/stdout\" 2>\"$OUT/stderr\"; \
                             exec env LISTEN_PID=$$ LISTEN_FDS=3 LISTEN_FDNAMES=dot:doh:doq \"$0\" \"$@\"";
    let listener = || TcpListener::bind("127.0.0.1:0").expect("a TCP socket");
    let (dot, doh) = (listener(), listener());
    let doq = UdpSocket::bind("127.0.0.1:0").expect("a UDP socket");
    let expected = [
        format!("dot {}", dot.local_addr().expect("its address")),
        format!("doh {}", doh.local_addr().expect("its address")),
        format!("doq {}", doq.local_addr().expect("its address")),
    ];
    let directory = tempfile::tempdir().expect("a directory");
    let out = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap_or_default();
    let begin = |flags: &[&str]| {
        let copies: [OwnedFd; 3] = [
            dot.try_clone().expect("another descriptor").into(),
            doh.try_clone().expect("another descriptor").into(),
            doq.try_clone().expect("another descriptor").into(),
        ];
        let [first, second, third] = copies.map(Stdio::from);
        Command::new("sh")
            .args(["-c", HAND_OVER])
            .arg(binary())
            .args(["serve", "--dns", "127.0.0.1:0", "--http", "none", "--store", "memory", "--socket"])
            .arg(directory.path().join("s"))
            .args(flags)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("OUT", directory.path())
            .stdin(first)
            .stdout(second)
            .stderr(third)
            .spawn()
            .expect("starting a shell")
    };
    let mut without = begin(&[]);
    let status = without.wait().expect("our own child");
    assert!(!status.success() && out("stderr").contains("there is no certificate"), "{}", out("stderr"));
    let mut server = begin(&["--tls-self-signed"]);
    eventually("the server's `ready` line", DEADLINE, || {
        let ended = server.try_wait().expect("our own child");
        assert_eq!(ended, None, "it ended: {}", out("stderr"));
        out("stdout").lines().any(|line| line.starts_with("ready")).then_some(())
    });
    for line in expected {
        assert!(out("stdout").lines().any(|said| said == line), "{line}: {}", out("stdout"));
    }
    assert!(!shown(dot.local_addr().expect("its address")).is_empty());
    server.kill().expect("our own child");
    server.wait().expect("our own child");
}
