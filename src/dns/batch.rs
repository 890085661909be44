//! Datagrams in batches: one system call for many (recvmmsg(2), sendmmsg(2)).
//!
//! Replies to one client go to the kernel as one message, which it cuts up again (UDP_SEGMENT, udp(7)): the way through its
//! layers is most of what a query costs, and is gone once. It cuts into pieces of one length, and only the last one may be
//! shorter: so what a stub resolver is sent about A and AAAA is one message, whatever the two lengths are. A kernel that does
//! not know this (before Linux 4.18) would send the message whole, so it is asked first.
//!
//! The one place where we talk to the kernel past the libraries: those that have both calls either allocate for each
//! batch, or give every datagram of it the same control message.

#![allow(unsafe_code, reason = "what the kernel writes to is told to it as pointers")]

use std::cmp::Reverse;
use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::null_mut;

use arrayvec::ArrayVec;
use nix::libc;

/// Datagrams of one batch. Where 8 clients have 100 queries in flight, one costs 4.5 us in batches of 16 and 2.9 in batches of
/// 32, for twice as many replies go together; what 32 use of the buffers, some 20 KiB, stays in the first cache.
pub const BATCH_MAX: usize = 32;
/// The largest datagram that UDP has.
const DATAGRAM_OCTETS_MAX: usize = 65_535;
/// The most that the kernel takes at once, cut up or not: what an IPv4 packet holds behind its two headers.
const MESSAGE_OCTETS_MAX: usize = 65_507;
/// From one buffer to the next: were it a power of two, all of them would share a few places of the first cache.
const STRIDE_OCTETS: usize = 65_536 + 5 * 64;
/// Room for what the kernel tells of a datagram: `in6_pktinfo` is 40 octets with its header. What else a parent may have asked for
/// of a socket comes behind that, and is left out.
const TOLD_OCTETS: usize = 40;
/// The same, and what the kernel is told: the length of the pieces is 24.
const CONTROL_OCTETS: usize = TOLD_OCTETS + 24;
/// For how many batches nothing is cut up after the kernel, or a device, has refused to: a refusal costs a call and nobody
/// a reply, so it may be tried again soon, and not for every batch.
const UNCUT_BATCHES: u32 = 1000;

/// What the kernel says of a datagram beside its octets, and is told, aligned as it wants it.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL_OCTETS]);

impl Control {
    /// Puts one number of 16 bits behind the first `octets`, which end with the last message there, and returns where that one
    /// ends.
    fn put(&mut self, octets: usize, level: i32, kind: i32, number: u16) -> usize {
        // SAFETY: zeros are a value of it; in some libraries it has padding, and a length of another type.
        let mut header: libc::cmsghdr = unsafe { zeroed() };
        // SAFETY: these only calculate.
        let (length, space) = unsafe {
            let octets = size_of::<u16>() as libc::c_uint;
            (libc::CMSG_LEN(octets), libc::CMSG_SPACE(octets) as usize)
        };
        (header.cmsg_len, header.cmsg_level, header.cmsg_type) = (length as _, level, kind);
        let place = &mut self.0[octets..octets + space];
        // SAFETY: there is room for the header and the number, and neither needs to be aligned.
        unsafe {
            place.as_mut_ptr().cast::<libc::cmsghdr>().write_unaligned(header);
            let data = length as usize - size_of::<u16>();
            place[data..].as_mut_ptr().cast::<u16>().write_unaligned(number);
        }
        octets + space
    }
}

/// A reply that waits to be sent.
#[derive(Clone, Copy)]
struct Waiting {
    /// The place of its datagram.
    at: usize,
    octets: usize,
    /// A number that is the same for what may go as one message, and seldom for anything else.
    client: u64,
}

/// Buffers for a batch of queries and the replies to them.
pub struct Batch {
    queries: Box<[u8]>,
    replies: Box<[u8]>,
    reply_octets: usize,
    addresses: Box<[libc::sockaddr_storage; BATCH_MAX]>,
    controls: Box<[Control; BATCH_MAX]>,
    incoming: Box<[libc::mmsghdr; BATCH_MAX]>,
    outgoing: Box<[libc::mmsghdr; BATCH_MAX]>,
    vectors_in: Box<[libc::iovec; BATCH_MAX]>,
    vectors_out: Box<[libc::iovec; BATCH_MAX]>,
    controls_out: Box<[Control; BATCH_MAX]>,
    waiting: ArrayVec<Waiting, BATCH_MAX>,
    /// False where the kernel cannot cut up a message.
    cuts: bool,
    /// For so many batches no message is to be cut up.
    uncut: u32,
}

impl Batch {
    /// Buffers for what comes through `socket`, and replies of at most `reply_octets` each.
    ///
    /// # Panics
    ///
    /// Where a batch of such replies is more than one message holds.
    pub fn new(socket: BorrowedFd<'_>, reply_octets: usize) -> Self {
        assert!(BATCH_MAX * reply_octets <= MESSAGE_OCTETS_MAX);
        let replies = vec![0; BATCH_MAX * reply_octets].into_boxed_slice();
        // SAFETY: each of these is plain data of the C library, for which zeros are a value.
        let (address, header, vector): (libc::sockaddr_storage, libc::mmsghdr, libc::iovec) =
            unsafe { (zeroed(), zeroed(), zeroed()) };
        let mut batch = Self {
            queries: vec![0; BATCH_MAX * STRIDE_OCTETS].into_boxed_slice(),
            replies,
            reply_octets,
            addresses: Box::new([address; BATCH_MAX]),
            controls: Box::new([Control([0; CONTROL_OCTETS]); BATCH_MAX]),
            incoming: Box::new([header; BATCH_MAX]),
            outgoing: Box::new([header; BATCH_MAX]),
            vectors_in: Box::new([vector; BATCH_MAX]),
            vectors_out: Box::new([vector; BATCH_MAX]),
            controls_out: Box::new([Control([0; CONTROL_OCTETS]); BATCH_MAX]),
            waiting: ArrayVec::new(),
            cuts: knows_pieces(socket),
            uncut: 0,
        };
        for at in 0..BATCH_MAX {
            batch.vectors_in[at] = libc::iovec {
                iov_base: batch.queries[at * STRIDE_OCTETS..].as_mut_ptr().cast(),
                iov_len: DATAGRAM_OCTETS_MAX,
            };
            let incoming = &mut batch.incoming[at].msg_hdr;
            incoming.msg_name = (&raw mut batch.addresses[at]).cast();
            incoming.msg_iov = &raw mut batch.vectors_in[at];
            incoming.msg_iovlen = 1;
            incoming.msg_control = (&raw mut batch.controls[at]).cast();
        }
        batch
    }

    /// Waits for the first datagram, takes what else is there, and returns how many it took. The replies to the batch
    /// before are gone.
    ///
    /// # Errors
    ///
    /// `WouldBlock` where none came within the socket's timeout, and whatever recvmmsg(2) says.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.waiting.clear();
        self.uncut = self.uncut.saturating_sub(1);
        for header in self.incoming.iter_mut() {
            // The kernel has put down here what it used.
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_hdr.msg_controllen = TOLD_OCTETS as _;
        }
        // SAFETY: the headers point at buffers of this batch, which are as long as is said and outlive the call.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.incoming.as_mut_ptr(),
                BATCH_MAX as libc::c_uint,
                libc::MSG_WAITFORONE as _,
                null_mut(),
            )
        };
        usize::try_from(received).map_err(|_| io::Error::last_os_error())
    }

    /// The octets of a datagram, and room for the reply to it.
    pub fn exchange(&mut self, at: usize) -> (&[u8], &mut [u8]) {
        let octets = self.incoming[at].msg_len as usize;
        let query = &self.queries[at * STRIDE_OCTETS..][..octets];
        (query, &mut self.replies[at * self.reply_octets..][..self.reply_octets])
    }

    /// Where a datagram came from.
    pub fn from(&self, at: usize) -> Option<SocketAddr> {
        let address: *const libc::sockaddr_storage = &raw const self.addresses[at];
        match i32::from(self.addresses[at].ss_family) {
            // SAFETY: the family says which of its shapes the kernel has written, and the storage is large enough for each.
            libc::AF_INET => unsafe {
                let v4 = &*address.cast::<libc::sockaddr_in>();
                let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
                Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
            },
            // SAFETY: as above.
            libc::AF_INET6 => unsafe {
                let v6 = &*address.cast::<libc::sockaddr_in6>();
                let (ip, port) = (Ipv6Addr::from(v6.sin6_addr.s6_addr), u16::from_be(v6.sin6_port));
                Some(SocketAddrV6::new(ip, port, v6.sin6_flowinfo, v6.sin6_scope_id).into())
            },
            _ => None,
        }
    }

    /// The address that a datagram was sent to and the interface, where the kernel told.
    pub fn to(&self, at: usize) -> Option<(IpAddr, u32)> {
        let (level, kind, data) = self.control(at)?;
        match (level, kind) {
            // SAFETY: the kernel has written this structure there; it may lie anywhere, so it is read octet by octet.
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => unsafe {
                let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                Some((Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr)).into(), 0))
            },
            // SAFETY: as above.
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => unsafe {
                let info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                Some((Ipv6Addr::from(info.ipi6_addr.s6_addr).into(), info.ipi6_ifindex))
            },
            _ => None,
        }
    }

    /// Level, type and data of the first control message of a datagram.
    fn control(&self, at: usize) -> Option<(i32, i32, *mut u8)> {
        let header = &self.incoming[at].msg_hdr;
        let octets: usize = header.msg_controllen as _; // 32 bits in musl's form of it
        if octets < size_of::<libc::cmsghdr>() {
            return None;
        }
        // SAFETY: the kernel has written at least one header there, aligned as it wants it.
        unsafe {
            let first = libc::CMSG_FIRSTHDR(header);
            if first.is_null() {
                return None;
            }
            Some(((*first).cmsg_level, (*first).cmsg_type, libc::CMSG_DATA(first)))
        }
    }

    /// Puts the first `octets` of the room beside a datagram among what is to be sent: to where it came from, from where it
    /// was sent to.
    pub fn reply(&mut self, at: usize, octets: usize) {
        let client = match self.from(at) {
            Some(SocketAddr::V4(v4)) => u64::from(v4.ip().to_bits()) << 16 | u64::from(v4.port()),
            Some(SocketAddr::V6(v6)) => {
                let bits = v6.ip().to_bits();
                (bits >> 64) as u64 ^ (bits as u64).rotate_left(16) ^ u64::from(v6.port())
            }
            None => at as u64,
        };
        self.waiting.push(Waiting { at, octets, client });
    }

    /// True where the replies to both go from the same address of ours to the same client.
    fn go_together(&self, one: Waiting, other: Waiting) -> bool {
        one.client == other.client
            && self.name(one.at) == self.name(other.at)
            && self.told(one.at) == self.told(other.at)
    }

    /// The octets of the address that a datagram came from.
    fn name(&self, at: usize) -> &[u8] {
        let octets =
            (self.incoming[at].msg_hdr.msg_namelen as usize).min(size_of::<libc::sockaddr_storage>());
        // SAFETY: the storage is that long, and was zeros before the kernel wrote to it.
        unsafe { std::slice::from_raw_parts((&raw const self.addresses[at]).cast(), octets) }
    }

    /// What the kernel told beside a datagram.
    fn told(&self, at: usize) -> &[u8] {
        let octets: usize = self.incoming[at].msg_hdr.msg_controllen as _;
        &self.controls[at].0[..octets.min(TOLD_OCTETS)]
    }

    /// How many of what waits go as one message from `begin` on: those to one client that are as long as the first, and one
    /// more, which is shorter. They are in the order of clients, and of one client the longest stands first.
    fn pieces(&self, begin: usize) -> usize {
        let waiting = &self.waiting[begin..];
        let Some(first) = waiting.first() else { return 0 };
        if !self.cuts || self.uncut > 0 {
            return 1;
        }
        let same = waiting.iter().take_while(|next| self.go_together(*first, **next));
        let alike = same.clone().take_while(|next| next.octets == first.octets).count();
        alike + usize::from(same.count() > alike)
    }

    /// Sends what waits, and returns in how many messages. What cannot be sent at once is dropped, as the network would: the client
    /// asks again.
    pub fn send(&mut self, socket: BorrowedFd<'_>) -> usize {
        let messages = self.address();
        let mut sent = 0;
        while sent < messages {
            match self.hand_over(socket, sent, messages) {
                Ok(count) => sent += count,
                // An error is the first one's alone; those behind it are tried again.
                Err(error) => {
                    if !self.send_apart(socket, sent, &error) {
                        tracing::debug!(%error, "sending on UDP");
                    }
                    sent += 1;
                }
            }
        }
        self.waiting.clear();
        messages
    }

    /// Makes the messages of what waits, few of many, and returns how many they are.
    fn address(&mut self) -> usize {
        self.waiting.sort_unstable_by_key(|waiting| (waiting.client, Reverse(waiting.octets)));
        let (mut messages, mut begin) = (0, 0);
        while let Some(&Waiting { at, octets, .. }) = self.waiting.get(begin) {
            let end = begin + self.pieces(begin);
            for (vector, waiting) in self.vectors_out[begin..end].iter_mut().zip(&self.waiting[begin..end]) {
                let reply = &mut self.replies[waiting.at * self.reply_octets..][..waiting.octets];
                *vector = libc::iovec { iov_base: reply.as_mut_ptr().cast(), iov_len: reply.len() };
            }
            self.answer_from(at);
            let incoming = &self.incoming[at].msg_hdr;
            let outgoing = &mut self.outgoing[messages].msg_hdr;
            (outgoing.msg_name, outgoing.msg_namelen) = (incoming.msg_name, incoming.msg_namelen);
            (outgoing.msg_control, outgoing.msg_controllen) = (incoming.msg_control, incoming.msg_controllen);
            outgoing.msg_iov = &raw mut self.vectors_out[begin];
            outgoing.msg_iovlen = (end - begin) as _;
            if end - begin > 1 {
                let told = incoming.msg_controllen as _; // 32 bits in musl's form of it
                let control = &mut self.controls_out[messages];
                *control = self.controls[at];
                let told = control.put(told, libc::SOL_UDP, libc::UDP_SEGMENT, octets as u16);
                (outgoing.msg_control, outgoing.msg_controllen) = ((&raw mut *control).cast(), told as _);
            }
            (messages, begin) = (messages + 1, end);
        }
        messages
    }

    /// Makes the address that a datagram was sent to the one that its reply comes from. Another interface than the one
    /// that it came in by may be the way back.
    fn answer_from(&mut self, at: usize) {
        if let Some((libc::IPPROTO_IP, libc::IP_PKTINFO, data)) = self.control(at) {
            // SAFETY: as in `to`; what is written is as large as what was read.
            unsafe {
                let mut info = data.cast::<libc::in_pktinfo>().read_unaligned();
                (info.ipi_ifindex, info.ipi_spec_dst) = (0, info.ipi_addr);
                data.cast::<libc::in_pktinfo>().write_unaligned(info);
            }
        }
    }

    /// Hands messages over to the kernel, and returns how many it took.
    fn hand_over(&mut self, socket: BorrowedFd<'_>, from: usize, to: usize) -> io::Result<usize> {
        let messages = &mut self.outgoing[from..to];
        // SAFETY: each header points at replies, an address and a control message of this batch.
        let count = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                messages.as_mut_ptr(),
                messages.len() as libc::c_uint,
                libc::MSG_DONTWAIT as _,
            )
        };
        match usize::try_from(count) {
            Ok(0) | Err(_) => Err(io::Error::last_os_error()),
            Ok(count) => Ok(count),
        }
    }

    /// Sends the replies of a message, which was refused, each by itself; false where that is of no use. Where one goes then, it was
    /// the cutting that was refused, and for some batches no message is to be cut up: not every device can. A path whose datagrams
    /// are smaller is that client's alone, but for kernels before 2025, which say EINVAL to both.
    fn send_apart(&mut self, socket: BorrowedFd<'_>, at: usize, error: &io::Error) -> bool {
        let count = self.outgoing[at].msg_hdr.msg_iovlen;
        match error.raw_os_error() {
            _ if count < 2 => return false,
            // What the socket has no room for, it has not for a part of it.
            Some(libc::EAGAIN | libc::ENOBUFS) => return false,
            _ => {}
        }
        let header = &mut self.outgoing[at].msg_hdr;
        let told: usize = header.msg_controllen as _;
        // SAFETY: it only calculates.
        let last = unsafe { libc::CMSG_SPACE(size_of::<u16>() as _) } as usize; // the length of the pieces
        (header.msg_iovlen, header.msg_controllen) = (1, (told - last) as _);
        for _ in 0..count {
            match self.hand_over(socket, at, at + 1) {
                Ok(_) if error.raw_os_error() != Some(libc::EMSGSIZE) => self.uncut = UNCUT_BATCHES,
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "sending on UDP"),
            }
            let header = &mut self.outgoing[at].msg_hdr;
            // SAFETY: the vectors of one message stand in a row; the one behind the last is not looked at.
            header.msg_iov = unsafe { header.msg_iov.add(1) };
        }
        true
    }
}

/// True where the kernel can cut up what is sent through this socket.
fn knows_pieces(socket: BorrowedFd<'_>) -> bool {
    let (mut octets, mut length) = (0 as libc::c_int, size_of::<libc::c_int>() as libc::socklen_t);
    // SAFETY: the number is as long as is said.
    let known = unsafe {
        let number = (&raw mut octets).cast();
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, number, &raw mut length)
    };
    known == 0
}

/// Lets timers of this thread go off when they are due, and not up to 50 us later for the sake of company (prctl(2)).
pub fn sharpen_timers() {
    // SAFETY: it takes a number.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;
    use std::time::Duration;

    use super::*;

    /// What arrives at a client of so many octets each, after the server took as many and replied in this many messages.
    fn exchanged(server: &UdpSocket, client: &UdpSocket, lengths: &[usize]) -> (usize, Vec<usize>) {
        client.set_read_timeout(Some(Duration::from_secs(60))).expect("an option of a socket of ours");
        for length in lengths {
            client.send(&vec![0; *length]).expect("loopback");
        }
        let mut batch = Batch::new(server.as_fd(), 512);
        assert_eq!(batch.receive(server.as_fd()).expect("what was sent"), lengths.len());
        for (at, length) in lengths.iter().enumerate() {
            batch.reply(at, *length);
        }
        let messages = batch.send(server.as_fd());
        let mut replies: Vec<usize> =
            lengths.iter().map(|_| client.recv(&mut [0; 512]).expect("a reply")).collect();
        replies.sort_unstable();
        (messages, replies)
    }

    #[test]
    fn of_what_one_client_is_sent_the_last_piece_may_be_shorter() {
        for (bound, asked) in
            [("127.0.0.1:0", "127.0.0.1"), ("0.0.0.0:0", "127.0.0.1"), ("[::1]:0", "::1"), ("[::]:0", "::1")]
        {
            let server = match UdpSocket::bind(bound) {
                Ok(server) => server,
                Err(error) => {
                    eprintln!("this machine has no {bound} ({error}): it was not shown there");
                    continue;
                }
            };
            crate::dns::udp::set_up(&server).expect("options of a socket of ours");
            let port = server.local_addr().expect("its address").port();
            // A machine may know IPv6 and have no such loopback.
            let Ok(client) = UdpSocket::bind((asked, 0)) else {
                eprintln!("this machine has no {asked}: it was not shown there");
                continue;
            };
            client.connect((asked, port)).expect("loopback");
            for (lengths, messages) in
                [(vec![30, 20], 1), (vec![20, 30, 30], 1), (vec![10, 30, 20], 2), (vec![20; 4], 1)]
            {
                let mut expected = lengths.clone();
                expected.sort_unstable();
                assert_eq!(
                    exchanged(&server, &client, &lengths),
                    (messages, expected),
                    "{bound} {lengths:?}"
                );
            }
        }
    }

    /// A socket without checksums is one for which the kernel cuts nothing up.
    #[test]
    fn what_cannot_be_cut_up_is_sent_apart() {
        let server = UdpSocket::bind("127.0.0.1:0").expect("a UDP socket");
        let client = UdpSocket::bind("127.0.0.1:0").expect("a UDP socket");
        client.set_read_timeout(Some(Duration::from_secs(60))).expect("an option of a socket of ours");
        let one: libc::c_int = 1;
        // SAFETY: the number is as long as is said.
        let set = unsafe {
            libc::setsockopt(
                server.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_NO_CHECK,
                (&raw const one).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        assert_eq!(set, 0);
        let mut batch = Batch::new(server.as_fd(), 512);
        for cuts in [true, false] {
            assert_eq!(batch.uncut == 0, cuts);
            for number in 0..5u8 {
                client.send_to(&[number; 20], server.local_addr().expect("its address")).expect("loopback");
            }
            let mut received = 0;
            while received < 5 {
                let count = batch.receive(server.as_fd()).expect("what was sent");
                for at in 0..count {
                    let (query, room) = batch.exchange(at);
                    room[..query.len()].copy_from_slice(query);
                    batch.reply(at, 20);
                }
                batch.send(server.as_fd());
                received += count;
            }
            let mut replies: Vec<u8> = (0..5)
                .map(|_| {
                    let mut buffer = [0; 512];
                    assert_eq!(client.recv(&mut buffer).expect("a reply"), 20);
                    buffer[0]
                })
                .collect();
            replies.sort_unstable();
            assert_eq!(replies, [0, 1, 2, 3, 4]);
        }
    }
}
