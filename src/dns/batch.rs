//! Datagrams in batches: one system call for many (recvmmsg(2), sendmmsg(2)).
//!
//! Replies to one client go to the kernel as one message, which it cuts up again (UDP_SEGMENT, udp(7)): the way through its
//! layers is most of what a query costs, and is gone once. It cuts into pieces of one length, and only the last one may be
//! shorter: so what a stub resolver is sent about A and AAAA is one message, whatever the two lengths are.
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
/// Room for one control message: `in6_pktinfo` behind its header is 40 octets.
const CONTROL_OCTETS: usize = 64;

/// What the kernel says of a datagram beside its octets, and is told, aligned as it wants it.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL_OCTETS]);

/// A reply that waits to be sent.
#[derive(Clone, Copy)]
struct Waiting {
    /// The place of its datagram.
    at: usize,
    octets: usize,
    /// Address and port in one number; what has the same may go as one.
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
    /// False once the kernel, or a device, has refused to cut up a message.
    cuts: bool,
}

impl Batch {
    /// Buffers for replies of at most `reply_octets` each.
    ///
    /// # Panics
    ///
    /// Where a batch of such replies is more than one message holds.
    pub fn new(reply_octets: usize) -> Self {
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
            cuts: true,
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
        for header in self.incoming.iter_mut() {
            // The kernel has put down here what it used.
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_hdr.msg_controllen = CONTROL_OCTETS as _;
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
            Some(SocketAddr::V4(v4)) if self.cuts && self.control(at).is_none() => {
                u64::from(v4.ip().to_bits()) << 16 | u64::from(v4.port())
            }
            _ => at as u64, // alone: no client is at 0.0.0.0
        };
        self.waiting.push(Waiting { at, octets, client });
    }

    /// Sends what waits. What cannot be sent at once is dropped, as the network would: the client asks again.
    pub fn send(&mut self, socket: BorrowedFd<'_>) {
        let messages = self.address();
        let mut sent = 0;
        while sent < messages {
            match self.hand_over(socket, sent, messages) {
                Ok(count) => sent += count,
                // An error is the first one's alone; those behind it are tried again.
                Err(error) => {
                    if !self.send_apart(socket, sent) {
                        tracing::debug!(%error, "sending on UDP");
                    }
                    sent += 1;
                }
            }
        }
        self.waiting.clear();
    }

    /// Makes the messages of what waits, few of many, and returns how many they are.
    fn address(&mut self) -> usize {
        self.waiting.sort_unstable_by_key(|waiting| (waiting.client, Reverse(waiting.octets)));
        let (mut messages, mut begin) = (0, 0);
        while let Some(&Waiting { at, octets, .. }) = self.waiting.get(begin) {
            let end = begin + pieces(&self.waiting[begin..]);
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
                outgoing.msg_control = (&raw mut self.controls_out[messages]).cast();
                outgoing.msg_controllen = CONTROL_OCTETS as _;
                // SAFETY: the control buffer is ours, aligned, and larger than a header with one number.
                unsafe {
                    let header = libc::CMSG_FIRSTHDR(outgoing);
                    ((*header).cmsg_level, (*header).cmsg_type) = (libc::SOL_UDP, libc::UDP_SEGMENT);
                    (*header).cmsg_len = libc::CMSG_LEN(size_of::<u16>() as _) as _;
                    libc::CMSG_DATA(header).cast::<u16>().write_unaligned(octets as u16);
                    outgoing.msg_controllen = libc::CMSG_SPACE(size_of::<u16>() as _) as _;
                }
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

    /// Sends the replies of a message, which was refused, each by itself; false where it is one alone. From here on no
    /// message is to be cut up: not every device can.
    fn send_apart(&mut self, socket: BorrowedFd<'_>, at: usize) -> bool {
        let count = self.outgoing[at].msg_hdr.msg_iovlen;
        if count < 2 {
            return false;
        }
        self.cuts = false;
        let header = &mut self.outgoing[at].msg_hdr;
        (header.msg_iovlen, header.msg_control, header.msg_controllen) = (1, null_mut(), 0);
        for _ in 0..count {
            if let Err(error) = self.hand_over(socket, at, at + 1) {
                tracing::debug!(%error, "sending on UDP");
            }
            let header = &mut self.outgoing[at].msg_hdr;
            // SAFETY: the vectors of one message stand in a row; the one behind the last is not looked at.
            header.msg_iov = unsafe { header.msg_iov.add(1) };
        }
        true
    }
}

/// How many of the first of these go as one message: those to one client that are as long as the first, and one more, which
/// is shorter. They are in the order of clients, and of one client the longest stands first.
fn pieces(waiting: &[Waiting]) -> usize {
    let Some(first) = waiting.first() else { return 0 };
    let alike =
        waiting.iter().take_while(|next| (next.client, next.octets) == (first.client, first.octets)).count();
    alike + usize::from(waiting.get(alike).is_some_and(|next| next.client == first.client))
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

    #[test]
    fn of_what_one_client_is_sent_the_last_piece_may_be_shorter() {
        let server = UdpSocket::bind("127.0.0.1:0").expect("a UDP socket");
        let client = UdpSocket::bind("127.0.0.1:0").expect("a UDP socket");
        client.set_read_timeout(Some(Duration::from_secs(60))).expect("an option of a socket of ours");
        for (lengths, messages) in
            [(vec![30, 20], 1), (vec![20, 30, 30], 1), (vec![10, 30, 20], 2), (vec![20; 4], 1)]
        {
            for length in &lengths {
                let query = vec![0; *length];
                client.send_to(&query, server.local_addr().expect("its address")).expect("loopback");
            }
            let mut batch = Batch::new(512);
            assert_eq!(batch.receive(server.as_fd()).expect("what was sent"), lengths.len());
            for (at, length) in lengths.iter().enumerate() {
                batch.reply(at, *length);
            }
            assert_eq!(batch.address(), messages, "{lengths:?}");
            batch.send(server.as_fd());
            let mut replies: Vec<usize> =
                lengths.iter().map(|_| client.recv(&mut [0; 512]).expect("a reply")).collect();
            let mut expected = lengths;
            replies.sort_unstable();
            expected.sort_unstable();
            assert_eq!(replies, expected);
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
        let mut batch = Batch::new(512);
        for cuts in [true, false] {
            assert_eq!(batch.cuts, cuts);
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
