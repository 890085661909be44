//! A client of the registration socket: for programs in Rust, for our command line, for tests.
//!
//! A [`Registration`] is held for as long as it lives: it renews, comes back after the server was away, and leaves when it is
//! dropped. A [`Watch`] tells what is registered and then every change. [`Client::live`] has the instances of a service that
//! are in DNS now, and [`choose`] one of them; whoever has only a resolver asks that.
//!
//! ```no_run
//! use callsign::client::{Client, Registration, Server, Way, choose};
//! use callsign::protocol::RegisterForm;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let server: Server = "unix:/run/callsign/callsign.sock".parse()?;
//! let form = RegisterForm { service: "web".to_owned(), port: Some(8080), ..RegisterForm::default() };
//! let registration = Registration::register(Way::to(server.clone()), form).await?;
//! println!("others find us as {}", registration.registered().dns);
//!
//! let mut client = Client::connect(&server, std::time::Duration::from_secs(5)).await?;
//! let live = client.live("db").await?;
//! if let Some(db) = choose(&live, 7) {
//!     println!("{:?} port {:?}", db.address, db.port);
//! }
//! registration.leave().await?; // or drop it
//! # Ok(())
//! # }
//! ```
//!
//! Below that: one connection, one JSON object per line each way, replies in the order of the requests. `request` asks
//! one thing and waits; `send` and `receive` are its halves, for pipelining and for streams, whose
//! replies come by themselves. A [`Way`] leads to one of several servers: those that cannot be reached are passed over, and
//! what does no harm when it is said twice is asked of the next where one is lost, cannot do it or denies it. When to come
//! back is for whoever holds a registration or follows a stream to know ([`hold`], [`follow`]).

pub mod follow;
pub mod hold;
mod registration;
mod watch;
mod way;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, ToSocketAddrs, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

pub use self::registration::Registration;
pub use self::watch::{Watch, Watched};
use self::way::bare;
pub use self::way::{SERVERS_MAX, Server, Way, choose};
use crate::connections::tls::Trust;
use crate::protocol::{FilterForm, InstanceForm, Problem, Reply, Request};
use crate::time::format_duration;

/// Longest reply taken: a full page of instances, each as long as a request may be.
///
/// The server keeps pages smaller; this bound is for something else at that address.
pub const REPLY_OCTETS_MAX: usize = 64 * 1024 * 1024;
/// A peer on TCP that says nothing for this long is asked whether it is still there.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(10);

/// Why a request has no good reply; by what the caller may still do.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nothing was asked: nobody listens there.
    #[error("no callsign server at {server}: {}", cause(.source))]
    Unavailable { server: Server, source: io::Error },
    /// It may or may not have been done: the connection ended before the reply.
    #[error("the connection to {server} ended: {}", cause(.source))]
    Lost { server: Server, source: io::Error },
    /// It may or may not have been done: no reply came in time.
    #[error("{server} did not answer within {}", format_duration(*.after))]
    TimedOut { server: Server, after: Duration },
    /// It was not done, and the server says why.
    #[error(transparent)]
    Refused(#[from] Problem),
    /// Something answered that is not a callsign server, or one of another age.
    #[error("{server} does not speak this version of the registration protocol: {what}")]
    Protocol { server: Server, what: String },
}

impl ClientError {
    /// True where another server may well do what this one did not: it is not there, is lost, cannot do it now, or is none.
    pub fn is_of_the_server(&self) -> bool {
        match self {
            Self::Unavailable { .. } | Self::Lost { .. } | Self::TimedOut { .. } | Self::Protocol { .. } => {
                true
            }
            Self::Refused(problem) => matches!(&*problem.code, "unavailable" | "not_ready"),
        }
    }

    /// True also for what is denied: a server that is cut off knows no token that was made since, and rules are each
    /// server's own. What was refused for another reason is refused everywhere.
    pub fn may_be_otherwise_elsewhere(&self) -> bool {
        self.is_of_the_server() || self.is_denied()
    }

    /// The same for a request that is to be said again: what was denied was not done, and anything else may have been.
    pub fn lets_ask_elsewhere(&self, may_be_repeated: bool) -> bool {
        self.is_denied() || self.is_of_the_server() && may_be_repeated
    }

    fn is_denied(&self) -> bool {
        matches!(self, Self::Refused(problem) if problem.code == "denied")
    }
}

/// The error's own words without the number that the standard library adds.
fn cause(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map(|first| first.to_ascii_lowercase()).into_iter().chain(letters).collect()
}

async fn tcp(place: impl ToSocketAddrs) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(place).await?;
    stream.set_nodelay(true)?;
    // A holder mostly listens: without this it would never learn that the other machine is gone.
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_AFTER);
    socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    Ok(stream)
}

/// One connection to a server.
pub struct Client {
    server: Server,
    timeout: Duration,
    reader: BufReader<Box<dyn AsyncRead + Send + Unpin>>,
    writer: Box<dyn AsyncWrite + Send + Unpin>,
    /// The part of a reply that is here already; kept, so that `receive` can be cancelled.
    line: Vec<u8>,
}

impl Client {
    /// Whom this is a connection to.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Connects. `timeout` bounds this and every later `request`.
    pub async fn connect(server: &Server, timeout: Duration) -> Result<Self, ClientError> {
        Self::connect_trusting(server, &Trust::default(), timeout).await
    }

    async fn connect_trusting(
        server: &Server,
        trust: &Trust,
        timeout: Duration,
    ) -> Result<Self, ClientError> {
        let connecting = async {
            let (reader, writer): (Box<dyn AsyncRead + Send + Unpin>, Box<dyn AsyncWrite + Send + Unpin>) =
                match server {
                    Server::Unix(path) => {
                        let (reader, writer) = UnixStream::connect(path).await?.into_split();
                        (Box::new(reader), Box::new(writer))
                    }
                    Server::Tcp(address) => {
                        let (reader, writer) = tcp(address).await?.into_split();
                        (Box::new(reader), Box::new(writer))
                    }
                    Server::Tls(host, port) => {
                        let host = bare(host);
                        let config = trust.config().map_err(io::Error::other)?;
                        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
                        let stream = tcp((host, *port)).await?;
                        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
                        let (reader, writer) = tokio::io::split(stream);
                        (Box::new(reader), Box::new(writer))
                    }
                };
            Ok(Self {
                server: server.clone(),
                timeout,
                reader: BufReader::new(reader),
                writer,
                line: Vec::new(),
            })
        };
        in_time(server, timeout, async {
            connecting.await.map_err(|source| ClientError::Unavailable { server: server.clone(), source })
        })
        .await
    }

    /// Asks one thing and waits for its reply; an error reply is `Refused`. Not to be mixed with requests
    /// sent before whose replies are still to come.
    pub async fn request(&mut self, request: &Request<'_>) -> Result<Reply, ClientError> {
        let (server, timeout) = (self.server.clone(), self.timeout);
        in_time(&server, timeout, async {
            self.send(request).await?;
            self.receive().await
        })
        .await
    }

    /// Every instance that `form` lets through, page by page.
    pub async fn instances(&mut self, mut form: FilterForm) -> Result<Vec<InstanceForm>, ClientError> {
        let mut instances = Vec::new();
        loop {
            let reply = self.request(&Request::List(Box::new(form.clone()))).await?;
            let Reply::Instances(mut page) = reply else {
                return Err(self.unexpected(&reply));
            };
            // A page that brings nothing and yet has a next one would go on for ever.
            let more = !page.instances.is_empty();
            instances.append(&mut page.instances);
            match page.next {
                Some(next) if more => form.after = Some(next),
                _ => return Ok(instances),
            }
        }
    }

    /// The instances of a service that are in DNS now; none where it has none, or is not known.
    pub async fn live(&mut self, service: &str) -> Result<Vec<InstanceForm>, ClientError> {
        let form = FilterForm { service: Some(service.to_owned()), ..FilterForm::default() };
        let mut instances = self.instances(form).await?;
        instances.retain(|instance| instance.live || instance.held);
        Ok(instances)
    }

    /// Sends one request without waiting for its reply.
    pub async fn send(&mut self, request: &Request<'_>) -> Result<(), ClientError> {
        let mut line = serde_json::to_vec(request).expect("a request has a JSON form");
        line.push(b'\n');
        let written = async {
            self.writer.write_all(&line).await?;
            self.writer.flush().await
        };
        written.await.map_err(|source| self.lost(source))
    }

    /// The next reply, however long it takes. Cancel-safe: what is here of a reply is kept.
    pub async fn receive(&mut self) -> Result<Reply, ClientError> {
        loop {
            let server = &self.server;
            let lost = |source| ClientError::Lost { server: server.clone(), source };
            let octets = self.reader.fill_buf().await.map_err(lost)?;
            if octets.is_empty() {
                return Err(lost(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed it")));
            }
            let (taken, complete) = match octets.iter().position(|octet| *octet == b'\n') {
                Some(end) => (end + 1, true),
                None => (octets.len(), false),
            };
            if self.line.len() + taken > REPLY_OCTETS_MAX {
                return Err(self.strange(format!("a reply has more than {REPLY_OCTETS_MAX} octets")));
            }
            self.line.extend_from_slice(&octets[..taken]);
            self.reader.consume(taken);
            if complete {
                let line = std::mem::take(&mut self.line);
                return match serde_json::from_slice(&line) {
                    Ok(Reply::Error(problem)) => Err(ClientError::Refused(problem)),
                    Ok(reply) => Ok(reply),
                    Err(error) => Err(self.strange(error.to_string())),
                };
            }
        }
    }

    /// The reply has a form that the request does not have.
    pub fn unexpected(&self, reply: &Reply) -> ClientError {
        let form = serde_json::to_value(reply).ok();
        let name =
            form.as_ref().and_then(|form| form.as_object()?.keys().next().cloned()).unwrap_or_default();
        self.strange(format!("the reply is `{name}`, which answers something else"))
    }

    fn lost(&self, source: io::Error) -> ClientError {
        ClientError::Lost { server: self.server.clone(), source }
    }

    fn strange(&self, what: String) -> ClientError {
        ClientError::Protocol { server: self.server.clone(), what }
    }
}

async fn in_time<T>(
    server: &Server,
    after: Duration,
    work: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    match timeout(after, work).await {
        Ok(done) => done,
        Err(_) => Err(ClientError::TimedOut { server: server.clone(), after }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    /// A server that says `words`, in pieces of `piece` octets, and closes.
    async fn told(words: Vec<u8>, piece: usize) -> (tempfile::TempDir, Server, impl Future<Output = ()>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let serving = async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            for piece in words.chunks(piece) {
                if stream.write_all(piece).await.is_err() {
                    return;
                }
            }
        };
        (directory, Server::Unix(path), serving)
    }

    #[test]
    fn servers_are_read_and_written() {
        for text in ["unix:/run/x.sock", "127.0.0.1:5301", "[::1]:5301"] {
            assert_eq!(text.parse::<Server>().unwrap().to_string(), text);
        }
        assert_eq!("unix:///run/x".parse(), Ok(Server::Unix("/run/x".into())));
        for (text, hint) in [
            ("/run/x", "try `unix:/run/x`"),
            ("unix:", "missing"),
            ("localhost:1", "localhost is none: 127.0.0.1:1"),
            ("registry:1", "ADDR:PORT"),
            ("", "ADDR:PORT"),
        ] {
            assert!(text.parse::<Server>().unwrap_err().contains(hint), "{text}");
        }
    }

    /// A server that says `words` to the first request, and closes.
    async fn answered(words: &'static str) -> (tempfile::TempDir, Server, impl Future<Output = ()>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let serving = async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            stream.read_until(b'\n', &mut Vec::new()).await.unwrap();
            stream.write_all(words.as_bytes()).await.unwrap();
        };
        (directory, Server::Unix(path), serving)
    }

    fn way(servers: Vec<Server>) -> Way {
        Way::new(servers, None, Trust::default(), |_| {})
    }

    const STATUS: Request<'static> = Request::Status(crate::protocol::StatusForm {});

    #[tokio::test]
    async fn servers_are_tried_in_turn_and_one_that_works_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let nobody = Server::Unix(directory.path().join("nobody"));
        let no = "{\"error\":{\"code\":\"unavailable\",\"message\":\"no\"}}\n";
        let (_first, unwell, serving) = answered(no).await;
        let (_second, well, serving_well) = answered("{\"revoked\":{\"name\":\"x\"}}\n").await;
        let asking = async {
            let mut way = way(vec![nobody.clone(), unwell, well.clone()]);
            let (_, reply) = way.ask(&STATUS, Duration::from_secs(5)).await.unwrap();
            assert!(matches!(reply, Reply::Revoked(_)));
            assert_eq!(way.server(), &well);
        };
        tokio::join!(serving, serving_well, asking);
        let error = way(vec![nobody.clone(), nobody]).ask(&STATUS, Duration::from_secs(5)).await.err();
        assert!(matches!(error, Some(ClientError::Unavailable { .. })), "{error:?}");
    }

    #[tokio::test]
    async fn what_is_refused_or_may_not_be_said_twice_is_asked_once() {
        let invalid = ("invalid", "{\"error\":{\"code\":\"invalid\",\"message\":\"no\"}}\n", STATUS);
        let form = crate::protocol::NameForm { name: "x".to_owned() };
        let revoke = Request::Token(crate::protocol::TokenForm::Revoke(form));
        let away = "{\"error\":{\"code\":\"unavailable\",\"message\":\"no\"}}\n";
        for (code, words, request) in [invalid, ("unavailable", away, revoke)] {
            let (directory, first, serving) = answered(words).await;
            let other = Server::Unix(directory.path().join("nobody"));
            let mut way = way(vec![first.clone(), other]);
            let asking = way.ask(&request, Duration::from_secs(5));
            let error = tokio::join!(serving, asking).1.err();
            assert!(
                matches!(&error, Some(ClientError::Refused(problem)) if problem.code == code),
                "{error:?}"
            );
            assert_eq!(way.server(), &first);
        }
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let server = Server::Unix(directory.path().join("none"));
        let error = Client::connect(&server, Duration::from_secs(5)).await.err().unwrap();
        assert_eq!(error.to_string(), format!("no callsign server at {server}: no such file or directory"));
    }

    #[tokio::test]
    async fn replies_come_in_any_pieces_and_survive_cancellation() {
        let reply = br#"{"renewed":{"service":"web","id":"web-1","lease":"15s"}}"#;
        let mut words = reply.to_vec();
        words.extend_from_slice(b"\n{\"error\":{\"code\":\"full\",\"message\":\"no\"}}\n");
        let (_directory, server, serving) = told(words, 1).await;
        let asking = async {
            let mut client = Client::connect(&server, Duration::from_secs(5)).await.unwrap();
            // Polled once and dropped, again and again: nothing of the reply may get lost.
            let reply = loop {
                tokio::select! {
                    biased;
                    reply = client.receive() => break reply,
                    () = tokio::task::yield_now() => {}
                }
            };
            assert!(matches!(reply.unwrap(), Reply::Renewed(renewed) if renewed.id == "web-1"));
            assert!(
                matches!(client.receive().await, Err(ClientError::Refused(problem)) if problem.code == "full")
            );
            assert!(matches!(client.receive().await, Err(ClientError::Lost { .. })));
        };
        tokio::join!(serving, asking);
    }

    #[tokio::test]
    async fn what_is_no_reply_is_said_so_and_bounded() {
        for (words, what) in [
            (b"HTTP/1.1 400 Bad Request\n".to_vec(), "expected value"),
            (vec![b'x'; REPLY_OCTETS_MAX + 1], "more than"),
        ] {
            let (_directory, server, serving) = told(words, 1 << 20).await;
            let asking = async {
                let mut client = Client::connect(&server, Duration::from_secs(60)).await.unwrap();
                let error = client.receive().await.unwrap_err();
                drop(client);
                assert!(
                    matches!(&error, ClientError::Protocol { what: said, .. } if said.contains(what)),
                    "{error}"
                );
            };
            tokio::join!(serving, asking);
        }
    }

    #[tokio::test]
    async fn a_silent_server_is_given_up() {
        let directory = tempfile::tempdir().unwrap();
        let server = Server::Unix(directory.path().join("s"));
        let Server::Unix(path) = &server else { unreachable!() };
        let _listener = UnixListener::bind(path).unwrap();
        let mut client = Client::connect(&server, Duration::from_millis(20)).await.unwrap();
        let error = client.request(&Request::Status(crate::protocol::StatusForm {})).await.unwrap_err();
        assert_eq!(error.to_string(), format!("{server} did not answer within 20ms"));
    }
}
