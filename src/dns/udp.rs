//! DNS over UDP: a thread for each core, with a socket of its own.
//!
//! A worker takes a batch of datagrams, answers the plain questions among them from octets to octets, and sends the
//! replies together: no allocation, no lock, no task for a datagram. What is not plain goes through a bounded
//! queue to a task beside it, so that neither an answer of a thousand records nor another server's silence holds up
//! what is answered in a microsecond.
//!
//! A reply leaves from the address that was asked, also where the socket is bound to a wildcard address:
//! resolvers drop replies from elsewhere (RFC 2181 section 4.1). What cannot be sent at once is dropped,
//! as the network would: the client asks again.

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use nix::libc;
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg, setsockopt, sockopt};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_nanosleep};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::answer::Over;
use crate::balance::Draws;
use crate::counters::{Histogram, Queries};
use crate::dns::batch::{BATCH_MAX, Batch, sharpen_timers};
use crate::dns::wire::{Accepted, Arrival, Responder, UDP_OCTETS_MAX};
use crate::time::{Now, nanoseconds};

/// Messages of one worker that wait for the general path, and their octets. Most that come in one breath are questions
/// for other servers, of which half as many may wait there; the octets are for those that fill a datagram.
const UNUSUAL_MAX: usize = 8192;
const UNUSUAL_OCTETS_MAX: usize = 4 << 20;
/// Messages that the general path takes before other tasks get their turn.
const TURN_MAX: usize = 64;
/// How often a worker to whom nobody speaks looks whether it should end.
const LOOK: Duration = Duration::from_millis(100);

/// How many datagrams in how long are a rush: so many that some eight come in one rest. With fewer the timer costs more
/// than the waits that it saves (at 85,000 a second it was a quarter more).
const RUSH_MIN: usize = 130;
const RUSH_WINDOW: Duration = Duration::from_millis(1);
/// How long datagrams gather in a rush; 20 us were no gain, 40 less than 60.
const REST: Duration = Duration::from_micros(60);

/// Asks the kernel to say which address each datagram was sent to; needed on wildcard sockets only.
pub fn ask_for_destination(socket: &impl AsFd) -> io::Result<()> {
    match socket2::SockRef::from(socket).local_addr()?.as_socket().map(|address| address.ip()) {
        Some(IpAddr::V4(ip)) if ip.is_unspecified() => {
            Ok(setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?)
        }
        Some(IpAddr::V6(ip)) if ip.is_unspecified() => {
            Ok(setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?)
        }
        _ => Ok(()),
    }
}

/// Answers on every socket of one address, a thread for each, until `stop`; the sockets are the caller's, and so
/// is what stopping means.
///
/// # Errors
///
/// A socket that cannot be set up, or a thread that cannot be started.
pub async fn run(
    sockets: Vec<UdpSocket>,
    responder: Arc<Responder>,
    seed: u64,
    stop: CancellationToken,
) -> io::Result<()> {
    let halt = Halt::default();
    let (mut workers, mut general) = (FuturesUnordered::new(), Vec::new());
    for (seed, socket) in (seed..).zip(sockets) {
        ask_for_destination(&socket)?;
        socket.set_nonblocking(false)?;
        socket.set_read_timeout(Some(LOOK))?;
        let socket = Arc::new(socket);
        let (unusual, queue) = mpsc::channel(UNUSUAL_MAX);
        let worker = Worker {
            local: socket.local_addr()?,
            socket: socket.clone(),
            responder: responder.clone(),
            draws: Draws::new(seed),
            times: responder.queries.worker(),
            unusual,
            octets: Arc::new(Semaphore::new(UNUSUAL_OCTETS_MAX)),
            halt: halt.0.clone(),
        };
        let (ending, ended) = oneshot::channel::<()>();
        std::thread::Builder::new().name("dns udp".to_owned()).spawn(move || {
            worker.run();
            drop(ending);
        })?;
        workers.push(ended);
        general.push(answer_unusual(queue, socket, responder.clone()));
    }
    let answering = join_all(general);
    tokio::pin!(answering);
    tokio::select! {
        () = stop.cancelled() => {}
        // Only a panic ends one before it is told to.
        _ = workers.next() => return Err(io::Error::other("a worker has ended")),
        _ = &mut answering => {}
    }
    drop(halt);
    // Each ends its batch; what it passed on is answered still, where nobody else has to be asked.
    while workers.next().await.is_some() {}
    answering.await;
    Ok(())
}

/// Ends the workers when it is dropped.
#[derive(Default)]
struct Halt(Arc<AtomicBool>);

impl Drop for Halt {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// One thread and its socket.
struct Worker {
    socket: Arc<UdpSocket>,
    local: SocketAddr,
    responder: Arc<Responder>,
    draws: Draws,
    /// Of one batch in some, how long each of its plain queries took: from when the batch was taken to when its
    /// replies were sent.
    times: Arc<Histogram>,
    unusual: mpsc::Sender<Unusual>,
    /// What the queue has room for.
    octets: Arc<Semaphore>,
    halt: Arc<AtomicBool>,
}

/// A message for the general path.
struct Unusual {
    message: Vec<u8>,
    arrival: Arrival,
    /// The address that it was sent to, and the interface (IPv6), where the kernel told.
    to: Option<(IpAddr, u32)>,
    _octets: OwnedSemaphorePermit,
}

impl Worker {
    fn run(mut self) {
        let mut batch = Batch::new(UDP_OCTETS_MAX);
        let mut rush = Rush::default();
        let mut batches = 0_u64;
        sharpen_timers();
        while !self.halt.load(Ordering::Acquire) {
            match batch.receive(self.socket.as_fd()) {
                Ok(received) => {
                    let timed = batches.is_multiple_of(Queries::TIMED_EVERY);
                    batches += 1;
                    let began = timed.then(|| self.responder.clock.now());
                    let plain = (0..received).filter(|at| self.answer(&mut batch, *at)).count();
                    batch.send(self.socket.as_fd());
                    let now = self.responder.clock.now();
                    if let Some(began) = began {
                        self.times.add_many(now.since(began), plain as u64);
                    }
                    if rush.is_on(received, now) && received < BATCH_MAX / 2 {
                        // Only a signal ends it early, and then that is right.
                        let _ = clock_nanosleep(
                            ClockId::CLOCK_MONOTONIC,
                            ClockNanosleepFlags::empty(),
                            &TimeSpec::from(REST),
                        );
                    }
                }
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                // An ICMP message about an earlier reply: somebody else's trouble.
                Err(error) => tracing::debug!(%error, "receiving on UDP"),
            }
        }
    }

    /// True where the reply was made here.
    fn answer(&mut self, batch: &mut Batch, at: usize) -> bool {
        let (Some(from), to) = (batch.from(at), batch.to(at)) else { return false };
        if loops(from, to.map(|(ip, _)| ip), self.local) {
            return false;
        }
        let arrival = Arrival { client: from, over: Over::Udp, draw: self.draws.next_u64() };
        let (query, room) = batch.exchange(at);
        if let Some(octets) = self.responder.reply_plainly(&arrival, query, room) {
            batch.reply(at, octets);
            return true;
        }
        // Where the general path is behind, what more comes for it is dropped; who is plain is not.
        if self.pass_on(query.to_vec(), arrival, to).is_none() {
            tracing::debug!(client = %from, "the general path has no room");
        }
        false
    }

    fn pass_on(&self, message: Vec<u8>, arrival: Arrival, to: Option<(IpAddr, u32)>) -> Option<()> {
        let octets = self.octets.clone().try_acquire_many_owned(message.len() as u32).ok()?;
        self.unusual.try_send(Unusual { message, arrival, to, _octets: octets }).ok()
    }
}

/// Whether so much comes that it is better taken together.
///
/// To wait for each datagram costs more than to answer it. Where very many come, a worker lets a few of them gather: each is
/// answered some 30 us later, and all for less. Clients who wait for a reply before they ask again never bring it about.
#[derive(Default)]
struct Rush {
    on: bool,
    /// Datagrams since the window began, in nanoseconds of the monotonic clock.
    taken: usize,
    since_ns: u64,
}

impl Rush {
    fn is_on(&mut self, received: usize, now: Now) -> bool {
        self.taken += received;
        if now.mono_ns.saturating_sub(self.since_ns) >= nanoseconds(RUSH_WINDOW) {
            self.on = self.taken >= RUSH_MIN;
            (self.taken, self.since_ns) = (0, now.mono_ns);
        }
        self.on
    }
}

/// True for what can only be a loop or a trick: from port 0, or from ourselves.
fn loops(from: SocketAddr, to: Option<IpAddr>, local: SocketAddr) -> bool {
    from.port() == 0 || (from.port() == local.port() && from.ip() == to.unwrap_or(local.ip()))
}

/// The general path beside one worker: answers what comes through the queue, until the worker has ended.
async fn answer_unusual(
    mut queue: mpsc::Receiver<Unusual>,
    socket: Arc<UdpSocket>,
    responder: Arc<Responder>,
) {
    // Replies that others are asked for, servers or the writer; how many there may be is said where they come from.
    let mut pending = FuturesUnordered::new();
    let mut turn = 0;
    loop {
        // All arms are cancel-safe: what is received is handled before the next look.
        let unusual = tokio::select! {
            Some((reply, client, to)) = pending.next(), if !pending.is_empty() => {
                answer(&socket, reply, client, to);
                continue;
            }
            unusual = queue.recv() => unusual,
        };
        let Some(Unusual { message, arrival, to, .. }) = unusual else { return };
        match responder.accept(&arrival, &message) {
            Accepted::Silence => {}
            Accepted::Reply(reply) => answer(&socket, Some(reply), arrival.client, to),
            waits @ (Accepted::Pending(_) | Accepted::Transfer(_)) => {
                pending.push(async move { (waits.reply().await, arrival.client, to) });
            }
        }
        turn = (turn + 1) % TURN_MAX;
        if turn == 0 {
            tokio::task::yield_now().await;
        }
    }
}

fn answer(socket: &UdpSocket, reply: Option<Vec<u8>>, client: SocketAddr, from: Option<(IpAddr, u32)>) {
    let Some(reply) = reply else { return };
    if let Err(error) = send(socket, &reply, client, from) {
        tracing::debug!(%error, %client, "sending on UDP");
    }
}

fn send(
    socket: &UdpSocket,
    reply: &[u8],
    client: SocketAddr,
    from: Option<(IpAddr, u32)>,
) -> io::Result<usize> {
    let to = SockaddrStorage::from(client);
    let buffers = [IoSlice::new(reply)];
    let (fd, now) = (socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
    let sent = match from {
        None => sendmsg(fd, &buffers, &[], now, Some(&to))?,
        Some((IpAddr::V4(from), _)) => {
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(from.octets()) },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            sendmsg(fd, &buffers, &[ControlMessage::Ipv4PacketInfo(&info)], now, Some(&to))?
        }
        Some((IpAddr::V6(from), interface)) => {
            let info = libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr { s6_addr: from.octets() },
                ipi6_ifindex: interface,
            };
            sendmsg(fd, &buffers, &[ControlMessage::Ipv6PacketInfo(&info)], now, Some(&to))?
        }
    };
    Ok(sent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rush_begins_and_ends_with_its_window() {
        let at = |us: u64| Now { mono_ns: us * 1000, ..Now::default() };
        let mut rush = Rush::default();
        assert!(!rush.is_on(RUSH_MIN, at(10)), "the first window is not over");
        assert!(rush.is_on(1, at(1000)));
        assert!(rush.is_on(RUSH_MIN - 2, at(1999)), "nor is the second");
        assert!(!rush.is_on(1, at(2000)), "one too few");
    }

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
            let to = to.map(|ip: &str| ip.parse().unwrap());
            assert_eq!(loops(at(from), to, at(local)), expected, "{from} to {to:?} at {local}");
        }
    }
}
