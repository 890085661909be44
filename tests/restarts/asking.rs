//! A client that asks without pause over one UDP socket, never says a thing twice, and keeps count.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use crate::harness::dns::{query, read};
use crate::harness::now;

/// One reply in so many is read in full; of the others the header.
const READ_EVERY: u64 = 16;
/// How long the socket is listened to before the next query may be due.
const LISTEN: Duration = Duration::from_millis(1);

/// What is asked, how fast, and what the answer must be.
#[derive(Clone, Copy)]
pub struct Asking {
    pub server: SocketAddr,
    pub name: &'static str,
    /// Addresses in every right answer.
    pub records: u16,
    pub queries_a_second: u64,
    /// Queries on the way at once: what the server's socket holds while nobody reads from it.
    pub window: usize,
    /// What is not answered by then is lost.
    pub deadline: Duration,
}

/// What became of the queries.
#[derive(Debug, Default)]
pub struct Tally {
    pub asked: u64,
    pub right: u64,
    /// SERVFAIL: the server is there and has not loaded the registry.
    pub not_ready: u64,
    pub lost: u64,
    /// What was answered wrongly, the first few in words.
    pub wrong: Vec<String>,
    pub window_most: usize,
    pub longest: Duration,
}

/// How far an asking thread is, for others, and whether it shall end.
#[derive(Default)]
pub struct Progress {
    pub right: AtomicU64,
    pub stop: AtomicBool,
}

/// Asks until it is told to stop, and then waits for what is on the way.
pub fn ask(asking: Asking, progress: &Progress) -> Tally {
    let socket = UdpSocket::bind(SocketAddr::new(asking.server.ip(), 0)).expect("a UDP socket");
    // Replies that come all at once after a restart have to fit.
    drop(socket2::SockRef::from(&socket).set_recv_buffer_size(4 << 20));
    socket.connect(asking.server).expect("a route to loopback");
    socket.set_read_timeout(Some(LISTEN)).expect("an option of a socket of ours");
    let mut octets = query(0, asking.name, RecordType::A, None).to_vec().expect("a query has a wire form");
    let mut on_the_way: Vec<Option<Instant>> = vec![None; 1 << 16];
    let mut order: VecDeque<(u16, Instant)> = VecDeque::new();
    let (mut tally, mut waiting, start) = (Tally::default(), 0usize, now());
    let mut buffer = [0; 4096];
    loop {
        let stopped = progress.stop.load(Ordering::SeqCst);
        if stopped && waiting == 0 {
            return tally;
        }
        let due = (start.elapsed().as_secs_f64() * asking.queries_a_second as f64) as u64;
        while !stopped && tally.asked < due && waiting < asking.window {
            let id = tally.asked as u16;
            if on_the_way[usize::from(id)].is_some() {
                break; // every id is in use
            }
            octets[..2].copy_from_slice(&id.to_be_bytes());
            tally.asked += 1;
            let sent = now();
            // Where nobody listens, the kernel says so of an earlier query; this one counts as asked.
            drop(socket.send(&octets));
            on_the_way[usize::from(id)] = Some(sent);
            order.push_back((id, sent));
            waiting += 1;
            tally.window_most = tally.window_most.max(waiting);
        }
        match socket.recv(&mut buffer) {
            Ok(length) => {
                let id = u16::from_be_bytes([buffer[0], buffer[1]]);
                if let Some(sent) = on_the_way[usize::from(id)].take() {
                    waiting -= 1;
                    tally.longest = tally.longest.max(sent.elapsed());
                    tally.judge(&buffer[..length], &asking);
                    progress.right.store(tally.right, Ordering::SeqCst);
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionRefused) => {}
            Err(error) => panic!("receiving from {}: {error}", asking.server),
        }
        while let Some((id, sent)) = order.front().copied() {
            let answered = on_the_way[usize::from(id)] != Some(sent);
            if !answered {
                if sent.elapsed() < asking.deadline {
                    break;
                }
                on_the_way[usize::from(id)] = None;
                waiting -= 1;
                tally.lost += 1;
            }
            order.pop_front();
        }
    }
}

impl Tally {
    fn judge(&mut self, reply: &[u8], asking: &Asking) {
        let code = ResponseCode::from(0, reply[3] & 0x0f);
        let records = u16::from_be_bytes([reply[6], reply[7]]);
        match code {
            ResponseCode::ServFail if records == 0 => self.not_ready += 1,
            ResponseCode::NoError if records == asking.records => {
                self.right += 1;
                if self.right.is_multiple_of(READ_EVERY) {
                    let found = crate::harness::dns::addresses(&read(reply)).len();
                    assert_eq!(found, usize::from(asking.records));
                }
            }
            _ if self.wrong.len() < 8 => self.wrong.push(format!("{code} with {records} records")),
            _ => {}
        }
    }
}

/// Packets that a socket holds while nobody reads from it, carefully: the kernel counts more than the octets.
pub fn holds(socket: &UdpSocket) -> usize {
    const OCTETS_A_PACKET: usize = 2048;
    let octets = socket2::SockRef::from(socket).recv_buffer_size().expect("an option of a socket of ours");
    (octets / OCTETS_A_PACKET).clamp(16, 20_000)
}
