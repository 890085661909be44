//! DNS over TCP (RFC 7766): pipelined queries, whole replies, nothing that one client can hold for ever.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::answer::Over;
use crate::balance::Draws;
use crate::connections::{Connections, Place};
use crate::dns::encode::HEADER_OCTETS;
use crate::dns::wire::{Arrival, Responder};

/// Connections at once; the quietest goes when one more comes.
pub const CONNECTIONS_MAX: usize = 4096;
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

/// Accepts until `stop`, then lets every connection finish the message it is at.
pub async fn run(
    listener: TcpListener,
    responder: Arc<Responder>,
    seed: u64,
    stop: CancellationToken,
) -> io::Result<()> {
    let connections = Connections::new(CONNECTIONS_MAX);
    let tasks = TaskTracker::new();
    let mut seeds = Draws::new(seed);
    loop {
        // Both arms are cancel-safe.
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let place = connections.enter(&stop);
                tasks.spawn(connection(stream, responder.clone(), seeds.next_u64(), place));
            }
            Err(error) => connections.after_error(error).await?,
        }
    }
    tasks.close();
    tasks.wait().await;
    Ok(())
}

async fn connection(stream: TcpStream, responder: Arc<Responder>, seed: u64, place: Place) {
    if let Err(error) = serve(stream, &responder, seed, &place).await {
        tracing::debug!(%error, "DNS over TCP");
    }
}

async fn serve(stream: TcpStream, responder: &Responder, seed: u64, place: &Place) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let client = stream.peer_addr()?;
    let mut draws = Draws::new(seed);
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::with_capacity(READ_BUFFER_OCTETS, reader);
    let mut message = Vec::new();
    let mut last_messages = LAST_MESSAGES_MAX;
    while last_messages > 0 {
        last_messages -= usize::from(place.closing().is_cancelled());
        // The connection ends with this loop in either case, so a half-read message is no loss.
        let whole = tokio::select! {
            biased;
            whole = read(&mut reader, &mut message) => whole?,
            () = place.closing().cancelled() => break,
        };
        if !whole {
            break;
        }
        place.touch();
        let arrival = Arrival { client, over: Over::Tcp, draw: draws.next_u64() };
        let Some(reply) = responder.accept(&arrival, &message) else { continue };
        // Length and message in one write (RFC 7766 section 8).
        let mut framed = Vec::with_capacity(2 + reply.len());
        framed.extend_from_slice(&(reply.len() as u16).to_be_bytes());
        framed.extend_from_slice(&reply);
        timeout(WRITE_TIME_MAX, writer.write_all(&framed)).await??;
    }
    writer.shutdown().await?;
    let linger = async {
        let mut rest = [0; 512];
        while reader.read(&mut rest).await.is_ok_and(|octets| octets > 0) {}
    };
    // Whether the client closed or the time is over, there is nothing left to do.
    drop(timeout(LINGER, linger).await);
    Ok(())
}

/// Reads one message; false where the connection should close: ended, idle, or no DNS.
async fn read(reader: &mut (impl AsyncReadExt + Unpin), message: &mut Vec<u8>) -> io::Result<bool> {
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
