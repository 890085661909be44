//! Datagrams in batches: one system call for many (recvmmsg(2), sendmmsg(2)).
//!
//! The one place where we talk to the kernel past the libraries: those that have both calls either allocate for each
//! batch, or give every datagram of it the same control message.

#![allow(unsafe_code, reason = "what the kernel writes to is told to it as pointers")]

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::null_mut;

use nix::libc;

/// Datagrams of one batch: 64 and 256 were slower, for what is in the first cache is what is answered at once.
pub const BATCH_MAX: usize = 16;
/// The largest datagram that UDP has.
const DATAGRAM_OCTETS_MAX: usize = 65_535;
/// From one buffer to the next: were it a power of two, all of them would share a few places of the first cache.
const STRIDE_OCTETS: usize = 65_536 + 5 * 64;
/// Room for one control message: `in6_pktinfo` behind its header is 40 octets.
const CONTROL_OCTETS: usize = 64;

/// What the kernel says of a datagram beside its octets, aligned as it wants it.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL_OCTETS]);

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
    /// Replies that wait to be sent.
    waiting: usize,
}

impl Batch {
    /// Buffers for replies of at most `reply_octets` each.
    pub fn new(reply_octets: usize) -> Self {
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
            waiting: 0,
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
            batch.outgoing[at].msg_hdr.msg_iov = &raw mut batch.vectors_out[at];
            batch.outgoing[at].msg_hdr.msg_iovlen = 1;
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
        self.waiting = 0;
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
        if header.msg_controllen < size_of::<libc::cmsghdr>() {
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
        let room = &mut self.replies[at * self.reply_octets..][..self.reply_octets][..octets];
        let (base, waiting) = (room.as_mut_ptr(), self.waiting);
        self.vectors_out[waiting] = libc::iovec { iov_base: base.cast(), iov_len: octets };
        if let Some((libc::IPPROTO_IP, libc::IP_PKTINFO, data)) = self.control(at) {
            // SAFETY: as in `to`; what is written is as large as what was read. Another interface than the one that it
            // came in by may be the way back.
            unsafe {
                let mut info = data.cast::<libc::in_pktinfo>().read_unaligned();
                (info.ipi_ifindex, info.ipi_spec_dst) = (0, info.ipi_addr);
                data.cast::<libc::in_pktinfo>().write_unaligned(info);
            }
        }
        let incoming = &self.incoming[at].msg_hdr;
        let outgoing = &mut self.outgoing[waiting].msg_hdr;
        (outgoing.msg_name, outgoing.msg_namelen) = (incoming.msg_name, incoming.msg_namelen);
        (outgoing.msg_control, outgoing.msg_controllen) = (incoming.msg_control, incoming.msg_controllen);
        self.waiting += 1;
    }

    /// Sends what waits. What cannot be sent at once is dropped, as the network would: the client asks again.
    pub fn send(&mut self, socket: BorrowedFd<'_>) {
        let mut sent = 0;
        while sent < self.waiting {
            let rest = &mut self.outgoing[sent..self.waiting];
            // SAFETY: each header points at a reply, an address and a control message of this batch.
            let count = unsafe {
                libc::sendmmsg(
                    socket.as_raw_fd(),
                    rest.as_mut_ptr(),
                    rest.len() as libc::c_uint,
                    libc::MSG_DONTWAIT as _,
                )
            };
            // An error is the first one's alone; those behind it are tried again.
            sent += usize::try_from(count).ok().filter(|count| *count > 0).unwrap_or_else(|| {
                tracing::debug!(error = %io::Error::last_os_error(), "sending on UDP");
                1
            });
        }
        self.waiting = 0;
    }
}
