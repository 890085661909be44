//! The registration socket: lines in, lines out, on a Unix or a TCP stream.
//!
//! Requests are pipelined: what is there is read at once, commands go to the writer together, and the
//! replies are written in order. Reads and heartbeats are answered from the published view, behind the
//! commands that came before them on the same connection.

mod lines;
mod session;
mod stream;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{Stream, poll_fn};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;

use self::session::Session;
use crate::access::Identity;
use crate::connections::tls::{Acceptor, name_of_client};
use crate::connections::{Connections, Handed, NOT_LOADED, Octets, Place};
use crate::desk::Desk;
use crate::protocol::{Peer, Problem, Reply, encode};
use crate::registry::Command;

/// Connections at once, over all listeners; a holder of a connection-bound lease needs one for itself.
pub const CONNECTIONS_MAX: usize = 10_000;

/// A socket that registrations come in on.
pub enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
    Tls(TcpListener, Arc<Acceptor>),
}

impl Listener {
    fn coming(self) -> impl Stream<Item = io::Result<(Either<UnixStream, TcpStream>, Identity)>> + Unpin {
        poll_fn(move |context| {
            let came = match &self {
                Self::Unix(listener) => listener.poll_accept(context).map_ok(|(stream, _)| {
                    let peer = stream.peer_cred()?;
                    Ok((Either::Left(stream), Identity::user(peer.uid(), peer.gid())))
                }),
                Self::Tcp(listener) | Self::Tls(listener, _) => {
                    listener.poll_accept(context).map_ok(|(stream, address)| {
                        stream.set_nodelay(true)?;
                        Ok((Either::Right(stream), Identity::address(address)))
                    })
                }
            };
            came.map(|came| Some(came.flatten()))
        })
    }
}

/// Accepts until `stop`, and then waits for every connection to end.
///
/// What begins with an upper-case letter is HTTP, and is handed over to whoever speaks that, where there is somebody.
pub async fn run(
    listener: Listener,
    desk: Arc<Desk>,
    hand_over: Option<mpsc::Sender<Handed>>,
    stop: CancellationToken,
) -> io::Result<()> {
    let acceptor = match &listener {
        Listener::Tls(_, acceptor) => Some(acceptor.clone()),
        Listener::Unix(_) | Listener::Tcp(_) => None,
    };
    let serve = |(stream, who): (Either<UnixStream, TcpStream>, Identity), place: Place| {
        let (desk, hand_over, stop, acceptor) =
            (desk.clone(), hand_over.clone(), stop.clone(), acceptor.clone());
        async move {
            let peer = desk.peer(&who, place.number);
            match (stream, acceptor) {
                (Either::Right(stream), Some(acceptor)) => match acceptor.accept(stream, &place).await {
                    Ok(stream) => {
                        // Whoever shows a certificate is who it says, and is still where they are.
                        let who = name_of_client(&stream).map_or(who, Identity::certificate);
                        connection(stream, desk, who, peer, place, hand_over, stop).await;
                    }
                    Err(error) => tracing::debug!(%error, "registration over TLS"),
                },
                (stream, _) => connection(stream, desk, who, peer, place, hand_over, stop).await,
            }
        }
    };
    desk.connections.serve(stop.clone(), listener.coming(), serve).await
}

/// The same for streams of any kind, until there are no more of them, as a simulation has them.
pub async fn run_over(
    coming: impl Stream<Item = io::Result<(impl Octets + Sync + 'static, Identity)>> + Unpin,
    desk: Arc<Desk>,
    stop: CancellationToken,
) -> io::Result<()> {
    let serve = |(stream, who), place: Place| {
        let peer = desk.peer(&who, place.number);
        connection(stream, desk.clone(), who, peer, place, None, stop.clone())
    };
    desk.connections.serve(stop.clone(), coming, serve).await
}

/// How long somebody may take to say what is refused then.
const REFUSED_TIME_MAX: Duration = Duration::from_secs(1);

/// Refuses whoever comes until `loaded`: nobody's word is kept until it may be true no more.
pub async fn turn_away(listener: Listener, loaded: CancellationToken) -> io::Result<()> {
    let refuse = |(stream, _): (Either<UnixStream, TcpStream>, Identity), place: Place| async move {
        let refused = tokio::select! {
            refused = timeout(REFUSED_TIME_MAX, refuse(BufReader::with_capacity(4096, stream))) => refused,
            () = place.closing().cancelled() => return,
        };
        if let Ok(Err(error)) = refused {
            tracing::debug!(%error, "registration socket, not loaded yet");
        }
    };
    Connections::new(CONNECTIONS_MAX).serve(loaded, listener.coming(), refuse).await
}

/// Refuses the first line, or the first request over HTTP.
async fn refuse(mut stream: BufReader<impl Octets>) -> io::Result<()> {
    let is_http = stream.fill_buf().await?.first().is_some_and(u8::is_ascii_uppercase);
    // With octets unread, a close would be a reset, and the refusal might not arrive.
    loop {
        let there = stream.fill_buf().await?;
        let (length, is_end) = (there.len(), there.is_empty() || there.ends_with(b"\n"));
        stream.consume(length);
        if is_end {
            break;
        }
    }
    let mut refusal = Vec::new();
    if is_http {
        let (status, length) = ("HTTP/1.1 503 Service Unavailable", NOT_LOADED.len());
        let head = format!("{status}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
        refusal.extend_from_slice(head.as_bytes());
        refusal.extend_from_slice(NOT_LOADED.as_bytes());
    } else {
        encode(&Reply::Error(Problem::new("not_ready", NOT_LOADED)), &mut refusal);
    }
    stream.write_all(&refusal).await
}

/// What HTTP is told where it is not spoken.
const NO_HTTP: &str = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n\
    this port takes registrations, one JSON object a line; HTTP has a port of its own (`http`)\n";
/// How long that may take.
const NO_HTTP_MAX: Duration = Duration::from_secs(1);

async fn connection(
    stream: impl Octets + 'static,
    desk: Arc<Desk>,
    who: Identity,
    peer: Peer,
    place: Place,
    hand_over: Option<mpsc::Sender<Handed>>,
    stop: CancellationToken,
) {
    let mut stream = BufReader::new(stream);
    // The line that never comes is timed by the session; here, only a first octet is waited for.
    let first = tokio::select! {
        first = stream.fill_buf() => first.ok().and_then(|octets| octets.first().copied()),
        () = place.closing().cancelled() => None,
    };
    if first.is_some_and(|octet| octet.is_ascii_uppercase()) {
        match hand_over {
            // Full or gone: the client sees a closed connection, and comes again.
            Some(hand_over) => drop(hand_over.try_send((Box::new(stream), who))),
            // Nothing of it is read: a page in a browser here may have had it sent, with lines of ours in its body.
            None => drop(timeout(NO_HTTP_MAX, stream.write_all(NO_HTTP.as_bytes())).await),
        }
        return;
    }
    let (reader, writer) = tokio::io::split(stream);
    let mut session = Session::new(&desk, who, peer, writer, &place);
    let ended = session.run(&mut BufReader::new(reader)).await;
    if let Err(error) = ended {
        tracing::debug!(%error, "registration socket");
    }
    // Our own stop is not the holder's end: what is bound to the connection stays registered.
    let keys = session.end().await;
    if !stop.is_cancelled() && !keys.is_empty() {
        let closed = Command::Closed { connection: place.number, keys };
        if let Err(stopped) = desk.writer.tell(closed).await {
            tracing::debug!(%stopped, "a connection ended");
        }
    }
}
