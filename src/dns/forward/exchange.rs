//! One query to one upstream, and the reply to it: over UDP first, over TCP where that was not enough.
//!
//! Every query has a socket of its own, so a port that the kernel draws, and an id from the kernel's random numbers (RFC
//! 5452 section 9.2). The socket is connected: what comes from elsewhere does not reach it. How long an exchange may
//! take is for the caller to say, who drops it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::message::{CHANCE_OCTETS, Heard, Manner, Reply, Sent};
use super::upstream::Upstream;
use super::{Failure, Query};

/// Octets of a datagram that we read: more than we say that we receive, for some servers do not listen.
const DATAGRAM_OCTETS_MAX: usize = 4096;
/// Wrong replies that one query waits through: a server sends none, so somebody is guessing. A stream has nothing to guess.
const WRONG_MAX: usize = 32;
/// rcode of who does not know EDNS (RFC 6891 section 7), or not even that it was asked something.
const FORMERR: u16 = 1;
const NOTIMP: u16 = 4;

/// Asks `upstream`, which learns from it how it wants to be spoken to; `now_ns` is when.
pub async fn ask(upstream: &Upstream, query: &Query, now_ns: u64) -> Result<Reply, Failure> {
    let manner = upstream.manner(now_ns);
    let reply = ask_so(upstream, query, manner, now_ns).await?;
    if manner.edns && !reply.edns && matches!(reply.rcode, FORMERR | NOTIMP) {
        upstream.knows_no_edns(now_ns);
        return ask_so(upstream, query, Manner { edns: false, ..manner }, now_ns).await;
    }
    Ok(reply)
}

async fn ask_so(upstream: &Upstream, query: &Query, manner: Manner, now_ns: u64) -> Result<Reply, Failure> {
    let sent = sent(query, manner)?;
    let address = upstream.address;
    let partial = match udp(address, &sent).await? {
        Heard::Reply(reply) if !reply.truncated => return Ok(reply),
        Heard::Reply(reply) => Some(reply),
        Heard::Miscased => {
            upstream.keeps_no_case(now_ns);
            None
        }
        Heard::Other => None,
        Heard::Malformed => return Err(Failure::Malformed),
    };
    match (tcp(address, &sent).await, partial) {
        // Of a stream it is sure whose reply it is, whatever its case.
        (Ok(Heard::Reply(reply)), _) => Ok(reply),
        (Ok(Heard::Miscased), _) => {
            let lower = self::sent(query, Manner { mixed_case: false, ..manner })?;
            match tcp(address, &lower).await.map_err(Failure::Network)? {
                Heard::Reply(reply) => Ok(reply),
                _ => Err(Failure::Malformed),
            }
        }
        // Some name servers have no TCP: what came over UDP is better than nothing, and says that it is cut.
        (_, Some(partial)) => Ok(partial),
        (Ok(Heard::Other | Heard::Malformed), None) => Err(Failure::Malformed),
        (Err(error), None) => Err(Failure::Network(error)),
    }
}

fn sent(query: &Query, manner: Manner) -> Result<Sent, Failure> {
    let mut chance = [0; CHANCE_OCTETS];
    getrandom::fill(&mut chance).map_err(|error| Failure::Network(io::Error::other(error)))?;
    Ok(Sent::new(query, manner, &chance))
}

/// `Heard::Other` where too much came that was no reply to this query.
async fn udp(upstream: SocketAddr, sent: &Sent) -> Result<Heard, Failure> {
    let any: IpAddr = match upstream {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let exchange = async {
        let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
        socket.connect(upstream).await?;
        socket.send(&sent.octets).await?;
        let mut buffer = vec![0; DATAGRAM_OCTETS_MAX];
        for _ in 0..WRONG_MAX {
            let octets = socket.recv(&mut buffer).await?;
            match sent.hears(&buffer[..octets]) {
                Heard::Other => {}
                heard => return Ok(heard),
            }
        }
        Ok(Heard::Other)
    };
    exchange.await.map_err(Failure::Network)
}

async fn tcp(upstream: SocketAddr, sent: &Sent) -> io::Result<Heard> {
    let mut stream = TcpStream::connect(upstream).await?;
    stream.set_nodelay(true)?;
    let octets = sent.octets.len() as u16; // a query is some hundred octets
    stream.write_all(&[&octets.to_be_bytes()[..], &sent.octets].concat()).await?;
    let octets = stream.read_u16().await?;
    let mut message = Vec::new();
    // Memory follows what has come, not what was announced.
    stream.take(octets.into()).read_to_end(&mut message).await?;
    Ok(sent.hears(&message))
}
