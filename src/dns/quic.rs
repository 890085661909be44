//! DNS over QUIC (RFC 9250): one stream a query, as many as a client likes on one connection.
//!
//! A connection is one task, and so is its handshake: who is silent keeps nobody waiting. Over the limit the connection that
//! has been quiet for longest goes. Where many handshakes are under way at once, a client shows first that it is where it
//! says (RFC 9000 section 8.1.2), which costs us nothing to ask.
//!
//! What the RFC calls a protocol error ends the connection: a message ID that is not 0, the option of TCP's keepalive, a
//! stream that is not exactly one message.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{
    Connecting, Connection, Endpoint, EndpointConfig, IdleTimeout, Incoming, RecvStream, SendStream,
    ServerConfig, TransportConfig, VarInt,
};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::answer::Over;
use crate::balance::Draws;
use crate::connections::tls::{HANDSHAKE_TIME_MAX, Identity};
use crate::connections::{Connections, Place, Streams};
use crate::dns::encode::HEADER_OCTETS;
use crate::dns::wire::{Arrival, Responder, has_option};

/// Connections at once, on all addresses; the quietest goes when one more comes. Each has its keys and its windows, and no
/// descriptor.
pub const CONNECTIONS_MAX: usize = 4096;
/// Handshakes under way at once, of each address; the one that has waited longest goes.
const HANDSHAKES_MAX: usize = 1024;
/// From so many handshakes under way on, a client has to show its address before it gets one.
const HANDSHAKES_UNASKED_MAX: usize = 64;
/// Attempts that wait to be looked at, and the octets that come with them.
const ATTEMPTS_MAX: usize = 1024;
const ATTEMPT_OCTETS_MAX: u64 = 64 * 1024;
const ATTEMPTS_OCTETS_MAX: u64 = 16 << 20;
/// Queries under way on one connection; more wait at the client.
const STREAMS_MAX: u32 = 100;
/// Octets of one stream: a message and its length.
const STREAM_OCTETS_MAX: usize = 2 + 65_535;
/// Octets that one connection may have on its way to us, and unread at the client.
const RECEIVE_WINDOW_OCTETS: u32 = 256 * 1024;
const SEND_WINDOW_OCTETS: u64 = 256 * 1024;
/// How long a connection may be silent. A handshake costs more than the wait, so it is longer than TCP's.
const IDLE_MAX_MS: u32 = 30_000;
/// How long a query may take to come, and a reply to go.
const MESSAGE_TIME_MAX: Duration = Duration::from_secs(5);
/// How long the end of the server waits for replies to arrive.
const LAST_TIME_MAX: Duration = Duration::from_secs(1);
/// TCP's keepalive (RFC 7828), which has no place here (RFC 9250 section 5.5.2).
const OPTION_TCP_KEEPALIVE: u16 = 11;

/// Error codes (RFC 9250 section 8.4).
const DOQ_NO_ERROR: VarInt = VarInt::from_u32(0);
const DOQ_PROTOCOL_ERROR: VarInt = VarInt::from_u32(2);
const DOQ_EXCESSIVE_LOAD: VarInt = VarInt::from_u32(4);

/// Why there is no configuration: in words, for who starts the server.
#[derive(Debug, thiserror::Error)]
#[error("QUIC: {0}")]
pub struct Unfit(String);

/// How connections are made, with the certificate of `identity`.
///
/// # Errors
///
/// TLS cannot be had as QUIC needs it.
pub fn config(identity: &Arc<Identity>) -> Result<ServerConfig, Unfit> {
    let tls = identity.quic_config(&[b"doq"]).map_err(|error| Unfit(error.to_string()))?;
    let tls = QuicServerConfig::try_from(tls).map_err(|error| Unfit(error.to_string()))?;
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(STREAMS_MAX.into())
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_OCTETS_MAX as u32))
        .receive_window(RECEIVE_WINDOW_OCTETS.into())
        .send_window(SEND_WINDOW_OCTETS)
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_MAX_MS))));
    let mut config = ServerConfig::with_crypto(Arc::new(tls));
    config
        .transport_config(Arc::new(transport))
        .max_incoming(ATTEMPTS_MAX)
        .incoming_buffer_size(ATTEMPT_OCTETS_MAX)
        .incoming_buffer_size_total(ATTEMPTS_OCTETS_MAX);
    Ok(config)
}

/// What every connection is served with.
#[derive(Clone)]
pub struct Service {
    pub responder: Arc<Responder>,
    /// Whose turns it works in.
    pub streams: Arc<Streams>,
    /// Those of QUIC.
    pub connections: Arc<Connections>,
}

/// Answers until `stop`, then lets every connection finish the queries that have come.
///
/// # Errors
///
/// The socket is broken.
pub async fn run(
    socket: UdpSocket,
    config: ServerConfig,
    service: Service,
    seed: u64,
    stop: CancellationToken,
) -> io::Result<()> {
    let runtime = Arc::new(quinn::TokioRuntime);
    let endpoint = Endpoint::new(EndpointConfig::default(), Some(config), socket, runtime)?;
    let under_way = Connections::in_floods(HANDSHAKES_MAX);
    let tasks = TaskTracker::new();
    let mut seeds = Draws::new(seed);
    loop {
        // Both arms are cancel-safe.
        let incoming = tokio::select! {
            () = stop.cancelled() => break,
            incoming = endpoint.accept() => incoming,
        };
        let Some(incoming) = incoming else {
            return Err(io::Error::other("the QUIC endpoint has ended"));
        };
        let Some(connecting) = admit(incoming, &service, under_way.open()).await else { continue };
        let place = service.connections.enter(&stop);
        let among_others = under_way.enter(place.closing());
        let (service, draws, stop) = (service.clone(), Draws::new(seeds.next_u64()), stop.clone());
        tasks.spawn(async move {
            // Either way what becomes of the connection does not depend on what was awaited here.
            let shaken = tokio::select! {
                shaken = timeout(HANDSHAKE_TIME_MAX, connecting) => shaken,
                () = among_others.closing().cancelled() => return,
            };
            drop(among_others);
            match shaken {
                Ok(Ok(connection)) => serve(connection, &service, draws, place, &stop).await,
                Ok(Err(error)) => tracing::debug!(%error, "handshake of QUIC"),
                Err(_) => tracing::debug!("handshake of QUIC: too slow"),
            }
        });
    }
    endpoint.set_server_config(None); // who comes now is refused
    tasks.close();
    tasks.wait().await;
    endpoint.close(DOQ_NO_ERROR, b"");
    drop(timeout(LAST_TIME_MAX, endpoint.wait_idle()).await);
    Ok(())
}

/// The handshake's first half, which is the dear one; `None` where there is to be none, or not yet.
async fn admit(incoming: Incoming, service: &Service, under_way: usize) -> Option<Connecting> {
    if under_way >= HANDSHAKES_UNASKED_MAX && !incoming.remote_address_validated() {
        if let Err(error) = incoming.retry() {
            tracing::debug!(%error, "asking for an address over QUIC");
        }
        return None;
    }
    let _turn = service.streams.turns.take(false).await;
    incoming.accept().inspect_err(|error| tracing::debug!(%error, "a connection of QUIC")).ok()
}

async fn serve(
    connection: Connection,
    service: &Service,
    mut draws: Draws,
    place: Place,
    stop: &CancellationToken,
) {
    let mut queries = FuturesUnordered::new();
    loop {
        // Every arm is cancel-safe: a stream that is not taken now is taken next time.
        tokio::select! {
            stream = connection.accept_bi() => match stream {
                Ok((send, receive)) => {
                    place.touch();
                    let more = !queries.is_empty();
                    let query = Query { client: connection.remote_address(), draw: draws.next_u64(), more };
                    queries.push(query.serve(send, receive, service));
                }
                Err(error) => {
                    tracing::debug!(%error, "DNS over QUIC");
                    return;
                }
            },
            Some(served) = queries.next() => if let Err(ProtocolError(what)) = served {
                tracing::debug!(what, "DNS over QUIC");
                return connection.close(DOQ_PROTOCOL_ERROR, what.as_bytes());
            },
            () = place.closing().cancelled() => break,
        }
    }
    // What has come is answered, and the answer waited for, but not for ever.
    let last = async { while queries.next().await.is_some() {} };
    drop(timeout(LAST_TIME_MAX, last).await);
    connection.close(if stop.is_cancelled() { DOQ_NO_ERROR } else { DOQ_EXCESSIVE_LOAD }, b"");
}

/// The client has broken the protocol, in words; its connection ends.
struct ProtocolError(&'static str);

struct Query {
    client: SocketAddr,
    draw: u64,
    /// Others of the same connection are under way.
    more: bool,
}

impl Query {
    /// One query, and its reply; a client that goes away, or is slow, has no reply.
    async fn serve(
        self,
        mut send: SendStream,
        mut receive: RecvStream,
        service: &Service,
    ) -> Result<(), ProtocolError> {
        let read = match timeout(MESSAGE_TIME_MAX, receive.read_to_end(STREAM_OCTETS_MAX)).await {
            Ok(Ok(octets)) => octets,
            Ok(Err(quinn::ReadToEndError::TooLong)) => return Err(ProtocolError("more than one message")),
            Ok(Err(quinn::ReadToEndError::Read(_))) => return Ok(()),
            Err(_) => {
                // A stream that is closed already needs no more of it.
                drop(receive.stop(DOQ_EXCESSIVE_LOAD));
                drop(send.reset(DOQ_EXCESSIVE_LOAD));
                return Ok(());
            }
        };
        let message = message(&read)?;
        let arrival = Arrival { client: self.client, over: Over::Quic, draw: self.draw };
        let accepted = {
            let _turn = service.streams.turns.take(self.more).await;
            service.responder.accept(&arrival, message)
        };
        let Some(reply) = accepted.reply().await else { return Err(ProtocolError("no query")) };
        let mut framed = Vec::with_capacity(2 + reply.len());
        framed.extend_from_slice(&(reply.len() as u16).to_be_bytes());
        framed.extend_from_slice(&reply);
        let sent = async {
            send.write_all(&framed).await.ok()?;
            send.finish().ok()?;
            send.stopped().await.ok() // all of it has arrived, or nobody wants it
        };
        if timeout(MESSAGE_TIME_MAX, sent).await.is_err() {
            drop(send.reset(DOQ_EXCESSIVE_LOAD));
        }
        Ok(())
    }
}

/// The one message of a stream (RFC 9250 sections 4.2 and 4.2.1).
fn message(stream: &[u8]) -> Result<&[u8], ProtocolError> {
    let Some((length, message)) = stream.split_first_chunk() else { return Err(ProtocolError("no message")) };
    if message.len() != usize::from(u16::from_be_bytes(*length)) || message.len() < HEADER_OCTETS {
        return Err(ProtocolError("not one whole message"));
    }
    if message[..2] != [0, 0] {
        return Err(ProtocolError("a message ID that is not 0"));
    }
    if has_option(message, OPTION_TCP_KEEPALIVE) {
        return Err(ProtocolError("the option of TCP's keepalive"));
    }
    Ok(message)
}
