//! DNS over TCP (RFC 7766) and, by the same loop, over TLS (RFC 7858): pipelined queries, whole replies, nothing that one
//! client can hold for ever.
//!
//! Replies that another server is asked for come when they are there, and others overtake them (RFC 7766 section
//! 6.2.1.1): how many may be waited for on one connection is bounded, and with them read, nothing more is.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::answer::Over;
use crate::balance::Draws;
use crate::connections::tls::Acceptor;
use crate::connections::{Place, Streams, coming_to};
use crate::dns::encode::HEADER_OCTETS;
use crate::dns::transfer::{TRANSFER_TIME_MAX, Transfer};
use crate::dns::wire::{Accepted, Arrival, Responder};

/// Connections at once, of DNS over TCP, TLS and HTTPS together; the quietest goes when one more comes.
///
/// Ten thousand idle clients find a place, and half as many that an attack adds; each is a descriptor and some kilobytes.
pub const CONNECTIONS_MAX: usize = 16_000;
/// How long a connection may be idle between messages ("a few seconds", RFC 7766 section 6.2.3).
pub const IDLE_MAX: Duration = Duration::from_secs(10);
/// How long one message may take from its first octet to its last: a slow client is not a dripping one.
const MESSAGE_TIME_MAX: Duration = Duration::from_secs(5);
/// How long a client may leave a reply unread before the connection is given up.
const WRITE_TIME_MAX: Duration = Duration::from_secs(5);
/// How long a closed connection is read on, so that its last reply is not lost to a reset (RFC 7766 section 6.2.4).
const LINGER: Duration = Duration::from_secs(1);
/// Messages that are answered after the server was told to stop: those that have arrived, and not for ever.
const LAST_MESSAGES_MAX: usize = 64;
/// Octets of a connection's read buffer: many queries at once, little for ten thousand idle clients.
const READ_BUFFER_OCTETS: usize = 2048;
/// Octets that the kernel keeps of a connection, in and out: some hundred queries, and the largest reply. It would let both
/// grow to megabytes, which a client that asks and does not read would have of us.
const KERNEL_OCTETS: usize = 64 * 1024;

/// Replies of one connection that other servers are asked for, at once: a browser's page has fewer names.
const PENDING_MAX: usize = 64;
/// How long those are waited for after the server was told to stop.
const LAST_PENDING_MAX: Duration = Duration::from_secs(1);

/// What lies between a connection and its messages.
#[derive(Clone, Debug)]
pub enum Layer {
    Plain,
    Tls(Arc<Acceptor>),
}

/// Accepts until `stop`, then lets every connection finish the message it is at.
///
/// # Errors
///
/// The listener itself is broken.
pub async fn run(
    listener: TcpListener,
    layer: Layer,
    responder: Arc<Responder>,
    streams: Arc<Streams>,
    seed: u64,
    stop: CancellationToken,
) -> io::Result<()> {
    // What is accepted inherits them.
    SockRef::from(&listener).set_recv_buffer_size(KERNEL_OCTETS)?;
    SockRef::from(&listener).set_send_buffer_size(KERNEL_OCTETS)?;
    let mut seeds = Draws::new(seed);
    let serve = |(stream, _), place| {
        let (layer, streams, responder) = (layer.clone(), streams.clone(), responder.clone());
        connection(stream, layer, Service { responder, streams, place, draws: Draws::new(seeds.next_u64()) })
    };
    streams.connections.serve(stop, coming_to(listener), serve).await
}

/// What one connection is served with.
struct Service {
    responder: Arc<Responder>,
    streams: Arc<Streams>,
    place: Place,
    draws: Draws,
}

async fn connection(stream: TcpStream, layer: Layer, service: Service) {
    let ended = match layer {
        Layer::Plain => plain(stream, service).await,
        Layer::Tls(acceptor) => over_tls(stream, &acceptor, service).await,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "DNS over a stream");
    }
}

async fn plain(stream: TcpStream, service: Service) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let client = stream.peer_addr()?;
    let (reader, writer) = stream.into_split();
    serve(reader, writer, client, Over::Tcp, service).await
}

async fn over_tls(stream: TcpStream, acceptor: &Acceptor, service: Service) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let client = stream.peer_addr()?;
    let (reader, writer) = tokio::io::split(acceptor.accept(stream, &service.place).await?);
    serve(reader, writer, client, Over::Tls, service).await
}

async fn serve(
    reader: impl AsyncRead + Unpin,
    mut writer: impl AsyncWrite + Unpin,
    client: SocketAddr,
    over: Over,
    service: Service,
) -> io::Result<()> {
    let Service { responder, streams, place, mut draws } = service;
    let mut reader = BufReader::with_capacity(READ_BUFFER_OCTETS, reader);
    let mut message = Vec::new();
    let mut last_messages = LAST_MESSAGES_MAX;
    let mut pending = FuturesUnordered::new();
    while last_messages > 0 {
        last_messages -= usize::from(place.closing().is_cancelled());
        let more = !reader.buffer().is_empty();
        let whole = {
            let mut whole = std::pin::pin!(read(&mut reader, &mut message));
            loop {
                // Reading is not cancel-safe, and so goes on where it was; the connection ends with this loop.
                tokio::select! {
                    biased;
                    whole = &mut whole, if pending.len() < PENDING_MAX => break whole?,
                    Some(reply) = pending.next(), if !pending.is_empty() => send(&mut writer, reply).await?,
                    () = place.closing().cancelled() => break false,
                }
            }
        };
        if !whole {
            break;
        }
        place.touch();
        let arrival = Arrival { client, over, draw: draws.next_u64() };
        let accepted = {
            let _turn = streams.turns.take(more).await;
            responder.accept(&arrival, &message)
        };
        match accepted {
            Accepted::Silence => {}
            Accepted::Reply(reply) => send(&mut writer, Some(reply)).await?,
            Accepted::Pending(reply) => pending.push(reply.reply()),
            Accepted::Transfer(wanted) => {
                let transfer = transfer(*wanted, &mut writer, &place, &streams);
                timeout(TRANSFER_TIME_MAX, transfer).await??;
            }
        }
    }
    // A client that has said all that it wants to say still listens (RFC 1035 section 4.2.2).
    let patience = if place.closing().is_cancelled() { LAST_PENDING_MAX } else { IDLE_MAX };
    let rest = async {
        while let Some(reply) = pending.next().await {
            send(&mut writer, reply).await?;
        }
        io::Result::Ok(())
    };
    timeout(patience, rest).await.unwrap_or(Ok(()))?;
    timeout(WRITE_TIME_MAX, writer.shutdown()).await??;
    let linger = async {
        let mut rest = [0; 512];
        while reader.read(&mut rest).await.is_ok_and(|octets| octets > 0) {}
    };
    // Whether the client closed or the time is over, there is nothing left to do.
    drop(timeout(LINGER, linger).await);
    Ok(())
}

/// Sends a zone. What else the client asks on the same connection waits for it.
async fn transfer(
    wanted: Transfer,
    writer: &mut (impl AsyncWriteExt + Unpin),
    place: &Place,
    streams: &Streams,
) -> io::Result<()> {
    let mut sending = wanted.begin().await;
    loop {
        let message = {
            let _turn = streams.turns.take(true).await;
            sending.next()
        };
        let Some(message) = message else { return Ok(()) };
        place.touch();
        // Whoever closes waits for one message, not for a zone.
        let sent = match place.closing().is_cancelled() {
            true => Err(io::Error::other("closed in the middle of a zone")),
            false => send(writer, Some(message)).await,
        };
        if let Err(error) = sent {
            sending.fail();
            return Err(error);
        }
    }
}

/// Length and message in one write (RFC 7766 section 8).
async fn send(writer: &mut (impl AsyncWriteExt + Unpin), reply: Option<Vec<u8>>) -> io::Result<()> {
    let Some(reply) = reply else { return Ok(()) };
    let mut framed = Vec::with_capacity(2 + reply.len());
    framed.extend_from_slice(&(reply.len() as u16).to_be_bytes());
    framed.extend_from_slice(&reply);
    let sent = async {
        writer.write_all(&framed).await?;
        writer.flush().await // what TLS has encrypted may still be on our side
    };
    timeout(WRITE_TIME_MAX, sent).await?
}

/// Reads one message; false where the connection should close: ended, idle, or no DNS.
///
/// # Errors
///
/// The stream failed, or ended within a length.
pub async fn read(reader: &mut (impl AsyncReadExt + Unpin), message: &mut Vec<u8>) -> io::Result<bool> {
    let mut length = [0; 2];
    match timeout(IDLE_MAX, reader.read(&mut length[..1])).await {
        Err(_) | Ok(Ok(0)) => return Ok(false),
        Ok(read) => read?,
    };
    let rest = async {
        reader.read_exact(&mut length[1..]).await?;
        let octets = usize::from(u16::from_be_bytes(length));
        if octets < HEADER_OCTETS {
            return Ok(false);
        }
        // Memory follows what has come, not what was announced, and goes again after a large message.
        *message = Vec::new();
        reader.take(octets as u64).read_to_end(message).await?;
        Ok(message.len() == octets)
    };
    match timeout(MESSAGE_TIME_MAX, rest).await {
        Ok(whole) => whole,
        Err(_) => Ok(false),
    }
}
