//! What probes are sent to: targets that answer, fall silent, drip, flood and redirect, each on a free port.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The certificate of `TlsTarget`: for `health.test` and 127.0.0.1, signed by itself.
pub const CERTIFICATE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/health/certificate.pem");
const KEY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/health/key.pem");

/// What a target does with a connection.
#[derive(Clone, Debug)]
pub enum Manner {
    /// Answers so, and closes.
    Answer(String),
    /// Reads what comes and says nothing.
    Silence,
    /// One octet of a head that has no end, from time to time.
    DripHead,
    /// A whole head, and then one octet of the body from time to time.
    DripBody,
    /// 10 GiB of body, as fast as they are taken.
    FloodBody,
    /// The same of head.
    FloodHead,
}

/// A reply with a length.
pub fn answer(status: &str, body: &str) -> Manner {
    let length = body.len();
    Manner::Answer(format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nX-Wide: \u{fc}\r\n\r\n{body}"))
}

/// Listens on a port of its own until it is dropped.
pub struct Target {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

struct Shared {
    manner: Mutex<Manner>,
    connections: AtomicUsize,
    /// Octets written.
    sent: AtomicU64,
    /// What came, up to the end of each head.
    requests: Mutex<Vec<String>>,
    over: AtomicBool,
}

impl Target {
    pub fn new(manner: Manner) -> Self {
        Self::on("127.0.0.1:0".parse().expect("an address"), manner)
    }

    /// On the address of one that was closed.
    pub fn on(address: SocketAddr, manner: Manner) -> Self {
        let listener = TcpListener::bind(address).expect("the port is free");
        let address = listener.local_addr().expect("its address");
        let shared = Arc::new(Shared {
            manner: Mutex::new(manner),
            connections: AtomicUsize::new(0),
            sent: AtomicU64::new(0),
            requests: Mutex::default(),
            over: AtomicBool::new(false),
        });
        let of_thread = shared.clone();
        let accepting = Some(std::thread::spawn(move || {
            for stream in listener.incoming() {
                if of_thread.over.load(Ordering::SeqCst) {
                    return;
                }
                // Who gave up before it was accepted is none to answer.
                let Ok(stream) = stream else { continue };
                of_thread.connections.fetch_add(1, Ordering::SeqCst);
                let shared = of_thread.clone();
                std::thread::spawn(move || shared.serve(stream));
            }
        }));
        Self { address, shared, accepting }
    }

    pub fn set(&self, manner: Manner) {
        *self.shared.manner.lock().expect("nobody panicked") = manner;
    }

    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::SeqCst)
    }

    pub fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().expect("nobody panicked").clone()
    }

    /// Nobody listens any more; the address, for another to take.
    pub fn close(self) -> SocketAddr {
        self.address
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address)); // wakes the thread that accepts
        if let Some(accepting) = self.accepting.take() {
            accepting.join().expect("the thread that accepts");
        }
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream) {
        let mut request = Vec::new();
        let mut buffer = [0; 4096];
        while !request.windows(4).any(|end| end == b"\r\n\r\n") {
            match stream.read(&mut buffer) {
                Ok(octets @ 1..) => request.extend_from_slice(&buffer[..octets]),
                _ => break, // a probe that only connects
            }
        }
        let request = String::from_utf8_lossy(&request).into_owned();
        if request.is_empty() {
            return;
        }
        self.requests.lock().expect("nobody panicked").push(request);
        let manner = self.manner.lock().expect("nobody panicked").clone();
        // Whoever probes closes when it has enough: an error is the end of it.
        let _ = match &manner {
            Manner::Answer(text) => self.write(&mut stream, text.as_bytes()),
            Manner::Silence => Ok(()),
            Manner::DripHead => self.drip(&mut stream, "HTTP/1.1 200 OK\r\nX-Drip: "),
            Manner::DripBody => self.drip(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"),
            Manner::FloodBody => self
                .flood(&mut stream, &format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 10_u64 << 30)),
            Manner::FloodHead => self.flood(&mut stream, "HTTP/1.1 200 OK\r\nX-Flood: "),
        };
        if !matches!(manner, Manner::Silence) {
            let _ = stream.shutdown(Shutdown::Write);
        }
        let mut buffer = [0; 4096];
        while matches!(stream.read(&mut buffer), Ok(1..)) {}
    }

    fn write(&self, stream: &mut TcpStream, octets: &[u8]) -> std::io::Result<()> {
        stream.write_all(octets)?;
        self.sent.fetch_add(octets.len() as u64, Ordering::SeqCst);
        Ok(())
    }

    /// An octet, whenever nothing was heard for a moment.
    fn drip(&self, stream: &mut TcpStream, begin: &str) -> std::io::Result<()> {
        self.write(stream, begin.as_bytes())?;
        stream.set_read_timeout(Some(Duration::from_millis(20)))?;
        let mut buffer = [0; 4096];
        while !matches!(stream.read(&mut buffer), Ok(0)) && !self.over.load(Ordering::SeqCst) {
            self.write(stream, b"x")?;
        }
        Ok(())
    }

    fn flood(&self, stream: &mut TcpStream, begin: &str) -> std::io::Result<()> {
        self.write(stream, begin.as_bytes())?;
        let piece = [b'x'; 65_536];
        for _ in 0..(10_u64 << 30) / piece.len() as u64 {
            self.write(stream, &piece)?;
        }
        Ok(())
    }
}

/// A server of `grpc.health.v1.Health`, made with h2: what it says of each service can be set.
pub struct GrpcTarget {
    pub address: SocketAddr,
    statuses: Arc<Mutex<HashMap<String, u8>>>,
    _runtime: tokio::runtime::Runtime,
}

/// HealthCheckResponse.ServingStatus.
pub const SERVING: u8 = 1;
pub const NOT_SERVING: u8 = 2;

impl GrpcTarget {
    pub fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let statuses: Arc<Mutex<HashMap<String, u8>>> = Arc::default();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let address = listener.local_addr().expect("its address");
        let (of_task, tasks) = (statuses.clone(), runtime.handle().clone());
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let statuses = of_task.clone();
                tasks.spawn(async move {
                    // Who went away before the handshake asks for nothing.
                    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                    while let Some(Ok((request, reply))) = connection.accept().await {
                        let statuses = statuses.clone();
                        // Beside the connection, which has to be polled for the request's body to come.
                        let mut saying = std::pin::pin!(say(request, reply, statuses));
                        loop {
                            tokio::select! {
                                () = &mut saying => break,
                                closed = std::future::poll_fn(|context| connection.poll_closed(context)) => {
                                    if closed.is_err() { return }
                                }
                            }
                        }
                    }
                });
            }
        });
        Self { address, statuses, _runtime: runtime }
    }

    pub fn set(&self, service: &str, status: u8) {
        self.statuses.lock().expect("nobody panicked").insert(service.to_owned(), status);
    }
}

/// Answers one call of Check: a status that was set, else NOT_FOUND.
async fn say(
    request: http::Request<h2::RecvStream>,
    mut reply: SendResponse<Bytes>,
    statuses: Arc<Mutex<HashMap<String, u8>>>,
) {
    assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
    assert_eq!(request.headers()["content-type"], "application/grpc");
    assert_eq!(request.headers()["te"], "trailers");
    let (mut body, mut message) = (request.into_body(), Vec::new());
    while let Some(Ok(data)) = body.data().await {
        message.extend_from_slice(&data);
    }
    // Five octets of gRPC's own, then nothing, or field 1 and its length.
    let service = String::from_utf8_lossy(message.get(7..).unwrap_or_default()).into_owned();
    let status = statuses.lock().expect("nobody panicked").get(&service).copied();
    let head = http::Response::builder().header("content-type", "application/grpc");
    let Some(status) = status else {
        let head = head.header("grpc-status", "5").header("grpc-message", "unknown service");
        drop(reply.send_response(head.body(()).expect("a head"), true));
        return;
    };
    let mut sending = reply.send_response(head.body(()).expect("a head"), false).expect("an open stream");
    sending.send_data(Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 8, status]), false).expect("an open stream");
    let trailers =
        http::HeaderMap::from_iter([("grpc-status".parse().expect("a name"), "0".parse().expect("a value"))]);
    sending.send_trailers(trailers).expect("an open stream");
}

/// Answers 200 over TLS, to whoever goes through with the handshake.
pub struct TlsTarget {
    pub address: SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

impl TlsTarget {
    pub fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let certificate = CertificateDer::from_pem_file(CERTIFICATE).expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(KEY).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions that ring has")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .expect("a certificate and its key");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let address = listener.local_addr().expect("its address");
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // Who does not trust us ends the handshake.
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut request = [0; 4096];
                let reply = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nsecret";
                if matches!(stream.read(&mut request).await, Ok(1..)) && stream.write_all(reply).await.is_ok()
                {
                    drop(stream.shutdown().await);
                }
            }
        });
        Self { address, _runtime: runtime }
    }
}
