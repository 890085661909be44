//! DNS over UDP: one task per socket, no task per datagram.
//!
//! A reply leaves from the address that was asked, also where the socket is bound to a wildcard address:
//! resolvers drop replies from elsewhere (RFC 2181 section 4.1). What cannot be sent at once is dropped,
//! as the network would: the client asks again.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use nix::libc;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt, sockopt,
};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

use crate::answer::Over;
use crate::balance::Draws;
use crate::dns::wire::{Accepted, Arrival, Responder};

/// The largest datagram that UDP has.
const DATAGRAM_OCTETS_MAX: usize = 65_535;
/// Datagrams taken before other tasks get their turn.
const TURN_MAX: usize = 64;

/// Asks the kernel to say which address each datagram was sent to; needed on wildcard sockets only.
pub fn ask_for_destination(socket: &UdpSocket) -> io::Result<()> {
    match socket.local_addr()?.ip() {
        ip if !ip.is_unspecified() => Ok(()),
        IpAddr::V4(_) => Ok(setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?),
        IpAddr::V6(_) => Ok(setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?),
    }
}

/// Answers until `stop`; the socket is the caller's, and so is what stopping means.
pub async fn run(
    socket: UdpSocket,
    responder: Arc<Responder>,
    seed: u64,
    stop: CancellationToken,
) -> io::Result<()> {
    ask_for_destination(&socket)?;
    let local = socket.local_addr()?;
    let mut draws = Draws::new(seed);
    let mut buffer = vec![0; DATAGRAM_OCTETS_MAX];
    // Replies that other servers are asked for; how many there may be is the forwarder's to say.
    let mut pending = FuturesUnordered::new();
    loop {
        // All arms are cancel-safe: nothing is taken from the socket here.
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            Some((reply, datagram)) = pending.next(), if !pending.is_empty() => {
                answer(&socket, reply, &datagram);
                continue;
            }
            ready = socket.readable() => ready?,
        }
        for _ in 0..TURN_MAX {
            let received = socket.try_io(Interest::READABLE, || receive(&socket, &mut buffer));
            let datagram = match received {
                Ok(datagram) => datagram,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // An ICMP message about an earlier reply: somebody else's trouble.
                Err(error) => {
                    tracing::debug!(%error, "receiving on UDP");
                    continue;
                }
            };
            if loops(&datagram, local) {
                continue;
            }
            let arrival = Arrival { client: datagram.from, over: Over::Udp, draw: draws.next_u64() };
            match responder.accept(&arrival, &buffer[..datagram.octets]) {
                Accepted::Silence => {}
                Accepted::Reply(reply) => answer(&socket, Some(reply), &datagram),
                Accepted::Pending(reply) => pending.push(async move { (reply.reply().await, datagram) }),
            }
        }
        tokio::task::yield_now().await;
    }
}

fn answer(socket: &UdpSocket, reply: Option<Vec<u8>>, datagram: &Datagram) {
    let Some(reply) = reply else { return };
    if let Err(error) = socket.try_io(Interest::WRITABLE, || send(socket, &reply, datagram)) {
        tracing::debug!(%error, client = %datagram.from, "sending on UDP");
    }
}

struct Datagram {
    octets: usize,
    from: SocketAddr,
    /// The address that it was sent to, and the interface (IPv6), where the kernel told.
    to: Option<(IpAddr, u32)>,
}

/// True for what can only be a loop or a trick: from port 0, or from ourselves.
fn loops(datagram: &Datagram, local: SocketAddr) -> bool {
    let here = datagram.to.map_or(local.ip(), |(ip, _)| ip);
    datagram.from.port() == 0 || (datagram.from.port() == local.port() && datagram.from.ip() == here)
}

fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Datagram> {
    let mut control = nix::cmsg_space!(libc::in6_pktinfo);
    let mut buffers = [IoSliceMut::new(buffer)];
    let message =
        recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut buffers, Some(&mut control), MsgFlags::empty())?;
    let from = message.address.as_ref().and_then(socket_address).ok_or(io::ErrorKind::InvalidData)?;
    let to = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::Ipv4PacketInfo(info) => {
            Some((IpAddr::from(info.ipi_addr.s_addr.to_ne_bytes()), 0))
        }
        ControlMessageOwned::Ipv6PacketInfo(info) => {
            Some((IpAddr::from(Ipv6Addr::from(info.ipi6_addr.s6_addr)), info.ipi6_ifindex))
        }
        _ => None,
    });
    Ok(Datagram { octets: message.bytes, from, to })
}

fn send(socket: &UdpSocket, reply: &[u8], query: &Datagram) -> io::Result<()> {
    let to = SockaddrStorage::from(query.from);
    let buffers = [IoSlice::new(reply)];
    let fd = socket.as_raw_fd();
    match query.to {
        None => sendmsg(fd, &buffers, &[], MsgFlags::empty(), Some(&to))?,
        Some((IpAddr::V4(from), _)) => {
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(from.octets()) },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            sendmsg(fd, &buffers, &[ControlMessage::Ipv4PacketInfo(&info)], MsgFlags::empty(), Some(&to))?
        }
        Some((IpAddr::V6(from), interface)) => {
            let info = libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr { s6_addr: from.octets() },
                ipi6_ifindex: interface,
            };
            sendmsg(fd, &buffers, &[ControlMessage::Ipv6PacketInfo(&info)], MsgFlags::empty(), Some(&to))?
        }
    };
    Ok(())
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
        (Some(v4), _) => Some(SocketAddr::V4((*v4).into())),
        (_, Some(v6)) => Some(SocketAddr::V6((*v6).into())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_are_seen() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        for (from, to, local, expected) in [
            ("127.0.0.1:0", None, "127.0.0.1:53", true),
            ("127.0.0.1:53", None, "127.0.0.1:53", true),
            ("127.0.0.1:54", None, "127.0.0.1:53", false),
            ("127.0.0.2:53", None, "127.0.0.1:53", false),
            ("127.0.0.2:53", Some("127.0.0.2"), "0.0.0.0:53", true),
            ("127.0.0.3:53", Some("127.0.0.2"), "0.0.0.0:53", false),
            ("[::1]:53", Some("::1"), "[::]:53", true),
        ] {
            let to = to.map(|ip| (ip.parse().unwrap(), 0));
            let datagram = Datagram { octets: 0, from: at(from), to };
            assert_eq!(loops(&datagram, at(local)), expected, "{from} to {to:?} at {local}");
        }
    }
}
