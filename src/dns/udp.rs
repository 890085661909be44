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
use crate::counters::{Queries, Tally};
use crate::dns::batch::{BATCH_MAX, Batch, sharpen_timers};
use crate::dns::wire::{Accepted, Arrival, Responder, UDP_OCTETS_MAX, low_rcode, question_type};
use crate::time::{Now, nanoseconds};
use crate::traffic::Counting;

/// Messages of one worker that wait for the general path, and their octets. Most that come in one breath are questions
/// for other servers, of which half as many may wait there; the octets are for those that fill a datagram.
const UNUSUAL_MAX: usize = 8192;
const UNUSUAL_OCTETS_MAX: usize = 4 << 20;
/// Messages that the general path takes before other tasks get their turn.
const TURN_MAX: usize = 64;
/// How often a worker to whom nobody speaks looks whether it should end.
const LOOK: Duration = Duration::from_millis(100);

/// How many datagrams in how long are a rush: with fewer, a rest that lets a batch gather would be long for who waits.
const RUSH_MIN: u64 = 50;
const RUSH_WINDOW: Duration = Duration::from_millis(1);
/// How long datagrams gather in a rush: until a batch is there, for with eight of them the timer costs as much as the waits
/// that it saves, and within these bounds. At 180,000 a second 20 us were no gain and 40 less than 60; at 82,000 a query
/// costs a quarter more with 60 us than without, and a tenth less with 195.
const REST_MIN: Duration = Duration::from_micros(60);
const REST_MAX: Duration = Duration::from_micros(250);
/// Windows with rests, between two without: how much comes is measured in these, for clients who wait for their replies ask
/// the less the longer we rest.
const RESTED_WINDOWS: u32 = 15;

/// Makes a socket, ours or one that was handed to us, as a worker needs it.
///
/// On a wildcard address the kernel says which address each datagram was sent to, and no time of its arrival: what a parent asked
/// for (systemd's `Timestamping=`) would stand before that.
///
/// # Errors
///
/// What setsockopt(2) says.
pub fn set_up(socket: &impl AsFd) -> io::Result<()> {
    setsockopt(socket, sockopt::ReceiveTimestamp, &false)?;
    let known = socket2::SockRef::from(socket);
    match known.local_addr()?.as_socket().map(|address| address.ip()) {
        Some(IpAddr::V4(ip)) if ip.is_unspecified() => setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?,
        Some(IpAddr::V6(ip)) if ip.is_unspecified() => {
            setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?
        }
        _ => {}
    }
    known.set_nonblocking(false)?;
    known.set_read_timeout(Some(LOOK))
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
        set_up(&socket)?;
        let socket = Arc::new(socket);
        let (unusual, queue) = mpsc::channel(UNUSUAL_MAX);
        let worker = Worker {
            local: socket.local_addr()?,
            socket: socket.clone(),
            responder: responder.clone(),
            draws: Draws::new(seed),
            tally: responder.queries.worker(),
            counting: responder.traffic.worker(),
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
    /// The plain queries of this thread. Of one batch in some, how long each took: from when the batch was taken to when
    /// its replies were sent.
    tally: Arc<Tally>,
    /// What was asked for.
    counting: Counting,
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
        let mut batch = Batch::new(self.socket.as_fd(), UDP_OCTETS_MAX);
        let mut rush = Rush::default();
        let mut batches = 0_u64;
        sharpen_timers();
        while !self.halt.load(Ordering::Acquire) {
            match batch.receive(self.socket.as_fd()) {
                Ok(received) => {
                    let now = self.responder.clock.now();
                    self.counting.begin(now);
                    let plain = (0..received).filter(|at| self.answer(now, &mut batch, *at)).count();
                    batch.send(self.socket.as_fd());
                    if batches.is_multiple_of(Queries::TIMED_EVERY) {
                        let took = self.responder.clock.now().since(now);
                        self.tally.times().add_many(took, plain as u64);
                    }
                    batches += 1;
                    if let Some(rest) = rush.rest(received, now).filter(|_| received < BATCH_MAX) {
                        // Only a signal ends it early, and then that is right.
                        let _ = clock_nanosleep(
                            ClockId::CLOCK_MONOTONIC,
                            ClockNanosleepFlags::empty(),
                            &TimeSpec::from(rest),
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
    fn answer(&mut self, now: Now, batch: &mut Batch, at: usize) -> bool {
        let (Some(from), to) = (batch.from(at), batch.to(at)) else { return false };
        if loops(from, to.map(|(ip, _)| ip), self.local) {
            return false;
        }
        let arrival = Arrival { client: from, over: Over::Udp, draw: self.draws.next_u64() };
        let (query, room) = batch.exchange(at);
        if let Some(octets) = self.responder.reply_plainly(now, &arrival, query, room) {
            self.tally.asked(question_type(query), query.len());
            self.tally.replied(low_rcode(room), octets);
            self.responder.count(&mut self.counting, &room[..octets]);
            batch.reply(at, octets);
            return true;
        }
        // Where the general path is behind, what more comes for it is dropped; who is plain is not.
        if self.pass_on(query, arrival, to).is_none() {
            self.responder.queries.dropped.add();
            tracing::debug!(client = %from, "the general path has no room");
        }
        false
    }

    /// What there is no room for costs next to nothing, for then there is very much of it.
    fn pass_on(&self, message: &[u8], arrival: Arrival, to: Option<(IpAddr, u32)>) -> Option<()> {
        let place = self.unusual.try_reserve().ok()?;
        let octets = self.octets.clone().try_acquire_many_owned(message.len() as u32).ok()?;
        place.send(Unusual { message: message.to_vec(), arrival, to, _octets: octets });
        Some(())
    }
}

/// Whether so much comes that it is better taken together.
///
/// To wait for each datagram costs more than to answer it. Where very many come, a worker lets a few of them gather: each is
/// answered some 30 to 125 us later, and all for less. One client who waits for each reply before it asks again never brings it
/// about.
#[derive(Default)]
struct Rush {
    /// How long to rest, while there is one.
    on: Option<Duration>,
    /// Windows in which that holds still.
    rested: u32,
    /// Datagrams since the window began, in nanoseconds of the monotonic clock.
    taken: usize,
    since_ns: u64,
}

impl Rush {
    fn rest(&mut self, received: usize, now: Now) -> Option<Duration> {
        self.taken += received;
        let window_ns = now.mono_ns.saturating_sub(self.since_ns);
        if window_ns >= nanoseconds(RUSH_WINDOW) {
            self.turn(self.taken as u64, window_ns);
            (self.taken, self.since_ns) = (0, now.mono_ns);
        }
        self.on
    }

    /// The end of a window in which so many came.
    fn turn(&mut self, taken: u64, window_ns: u64) {
        let in_window = taken * nanoseconds(RUSH_WINDOW) / window_ns;
        match self.on {
            // Nobody was made to wait, so this is what comes by itself.
            None if in_window >= RUSH_MIN => {
                let batch = Duration::from_nanos(BATCH_MAX as u64 * window_ns / taken);
                (self.on, self.rested) = (Some(batch.clamp(REST_MIN, REST_MAX)), RESTED_WINDOWS);
            }
            None => {}
            Some(_) => {
                self.rested -= 1;
                if self.rested == 0 || in_window < RUSH_MIN / 2 {
                    self.on = None;
                }
            }
        }
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

    /// What `rest` says at the end of a window of one millisecond in which so many came.
    fn window(rush: &mut Rush, taken: usize) -> Option<Duration> {
        rush.rest(taken, Now { mono_ns: rush.since_ns + 1_000_000, ..Now::default() })
    }

    #[test]
    fn a_rush_begins_and_ends_with_its_window() {
        let at = |us: u64| Now { mono_ns: us * 1000, ..Now::default() };
        let mut rush = Rush::default();
        assert_eq!(rush.rest(50, at(10)), None, "the first window is not over");
        assert_eq!(rush.rest(0, at(1000)), Some(REST_MAX));
        assert_eq!(rush.rest(24, at(1999)), Some(REST_MAX), "nor is the second");
        assert_eq!(rush.rest(0, at(2000)), None, "fewer than half as many");
        assert_eq!(rush.rest(49, at(3000)), None, "one too few");
        assert_eq!(rush.rest(160, at(4000)), Some(Duration::from_micros(200)), "a fifth of them is a batch");
        assert_eq!(rush.rest(1000, at(1_000_000)), None, "it was long ago that so many came");
        assert_eq!(rush.rest(1000, at(1_001_000)), Some(REST_MIN));
    }

    #[test]
    fn how_long_to_rest_is_measured_without_rests() {
        let mut rush = Rush::default();
        let rest = window(&mut rush, 320);
        assert_eq!(rest, Some(Duration::from_micros(100)));
        for _ in 1..RESTED_WINDOWS {
            assert_eq!(
                window(&mut rush, 60),
                rest,
                "who waits for replies asks less, and waits no longer for it"
            );
        }
        assert_eq!(window(&mut rush, 60), None);
        assert_eq!(window(&mut rush, 320), rest);
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
