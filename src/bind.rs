//! Sockets, bound before anything else happens; and in words, why one could not be.

use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::num::NonZero;
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;
/// Octets of queries that wait while we are not on the processor: 10 ms at 400,000 queries a second.
const RECEIVE_BUFFER_OCTETS: usize = 4 << 20;
/// Octets of replies that wait in the kernel, mostly for neighbours of whom it does not know yet where they are: of one who is not
/// there it keeps 212,992 (`net.ipv4.neigh.*.unres_qlen_bytes`) for three seconds, which is all that a socket has by default.
const SEND_BUFFER_OCTETS: usize = 4 << 20;
/// Tries to find one port that is free for UDP and for TCP, where the kernel may choose it.
const PORT_TRIES: usize = 32;

/// The sockets of one DNS address.
pub struct Dns {
    pub address: SocketAddr,
    /// One for each worker; the kernel parts the clients among them.
    pub udp: Vec<UdpSocket>,
    pub tcp: TcpListener,
}

/// Sockets that a parent holds and hands over (systemd's LISTEN_FDS): what waits in them outlives us.
#[derive(Default)]
pub struct Handed {
    pub dns: Vec<Dns>,
    pub unix: Option<UnixListener>,
    /// TCP listeners that belong to no UDP socket: registration.
    pub listen: Vec<TcpListener>,
    /// Those that are called `http` (systemd's FileDescriptorName), `listen-tls`, `https`, `dot`, `doh` and `doq`.
    pub http: Vec<TcpListener>,
    pub listen_tls: Vec<TcpListener>,
    pub https: Vec<TcpListener>,
    pub dot: Vec<TcpListener>,
    pub doh: Vec<TcpListener>,
    pub doq: Vec<UdpSocket>,
}

/// Takes the sockets that were handed over; `None` where there are none.
///
/// A UDP socket and a TCP listener on one address are DNS; a TCP listener that is called `http`, `https`, `listen-tls`, `dot` or `doh`, and a UDP
/// socket that is called `doq`, is that; any other listener and the Unix one take registrations.
///
/// # Errors
///
/// A descriptor that is none of these, or a UDP socket without its TCP listener.
pub fn handed() -> Result<Option<Handed>> {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let names: Vec<&str> = names.split(':').collect();
    let mut descriptors = listenfd::ListenFd::from_env();
    if descriptors.len() == 0 {
        return Ok(None);
    }
    let (mut handed, mut datagrams, mut streams) = (Handed::default(), Vec::new(), Vec::new());
    for at in 0..descriptors.len() {
        if let Ok(Some(unix)) = descriptors.take_unix_listener(at)
            && listens(&unix)
        {
            if handed.unix.replace(unix).is_some() {
                bail!("LISTEN_FDS hands over two Unix sockets; one takes registrations");
            }
        } else if let Ok(Some(udp)) = descriptors.take_udp_socket(at) {
            if names.get(at) == Some(&"doq") { &mut handed.doq } else { &mut datagrams }.push(udp);
        } else if let Ok(Some(tcp)) = descriptors.take_tcp_listener(at)
            && listens(&tcp)
        {
            match names.get(at) {
                Some(&"http") => &mut handed.http,
                Some(&"listen-tls") => &mut handed.listen_tls,
                Some(&"https") => &mut handed.https,
                Some(&"dot") => &mut handed.dot,
                Some(&"doh") => &mut handed.doh,
                _ => &mut streams,
            }
            .push(tcp);
        } else {
            bail!(
                "LISTEN_FDS hands over descriptor {}, which is no UDP socket and no TCP or Unix stream socket that listens",
                3 + at
            );
        }
    }
    for udp in datagrams {
        let address = udp.local_addr()?;
        let Some(at) = streams.iter().position(|tcp| tcp.local_addr().is_ok_and(|own| own == address)) else {
            bail!("LISTEN_FDS hands over UDP {address} without TCP on the same address; DNS needs both");
        };
        let tcp = streams.swap_remove(at);
        tcp.set_nonblocking(true)?;
        // One socket for all workers: only who has bound it could bind more.
        let udp = (0..workers()).map(|_| udp.try_clone()).collect::<io::Result<_>>()?;
        handed.dns.push(Dns { address, udp, tcp });
    }
    let encrypted = handed.listen_tls.iter().chain(&handed.https).chain(&handed.dot).chain(&handed.doh);
    for tcp in streams.iter().chain(&handed.http).chain(encrypted) {
        tcp.set_nonblocking(true)?;
    }
    for udp in &handed.doq {
        udp.set_nonblocking(true)?;
    }
    if let Some(unix) = &handed.unix {
        unix.set_nonblocking(true)?;
    }
    handed.listen = streams;
    Ok(Some(handed))
}

/// A connection is of the same family and type as a listener, and accepting on one never ends well.
fn listens(socket: &impl AsFd) -> bool {
    socket2::SockRef::from(socket).is_listener().unwrap_or(false)
}

/// Binds UDP and TCP on one address and the same port; port 0 takes one that is free for both.
pub fn dns(address: SocketAddr) -> Result<Dns> {
    let mut tries = if address.port() == 0 { PORT_TRIES } else { 1 };
    loop {
        tries -= 1;
        let udp = udp(address).with_context(|| refused("DNS", "udp", address))?;
        let address = udp.local_addr()?;
        match tcp(address) {
            Ok(tcp) => {
                let udp = siblings(udp, workers()).with_context(|| refused("DNS", "udp", address))?;
                return Ok(Dns { address, udp, tcp });
            }
            Err(error) if tries == 0 => return Err(error).context(refused("DNS", "tcp", address)),
            Err(_) => {}
        }
    }
}

/// How many threads answer over UDP: one for each core that we may run on.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

fn udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = datagrams(address)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn datagrams(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_recv_buffer_size(RECEIVE_BUFFER_OCTETS)?;
    // As much as CAP_NET_ADMIN or `net.core.wmem_max` lets us have, and never less than before.
    if setsockopt(&socket, sockopt::SndBufForce, &SEND_BUFFER_OCTETS).is_err()
        && socket.send_buffer_size()? < SEND_BUFFER_OCTETS
    {
        socket.set_send_buffer_size(SEND_BUFFER_OCTETS)?;
    }
    Ok(socket)
}

/// `first`, and as many more on its address as make `count`.
///
/// The first was bound alone, so an address that another server has is refused; only then it lets others in beside it
/// (SO_REUSEPORT, socket(7)), and only our own user's.
fn siblings(first: UdpSocket, count: usize) -> io::Result<Vec<UdpSocket>> {
    let address = first.local_addr()?;
    let mut sockets = vec![first];
    if count > 1 {
        socket2::SockRef::from(&sockets[0]).set_reuse_port(true)?;
    }
    while sockets.len() < count {
        let socket = datagrams(address)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        sockets.push(socket.into());
    }
    Ok(sockets)
}

/// Binds and listens on a TCP address.
pub fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?; // connections of a server before us may still be in TIME_WAIT
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Binds the TCP registration socket.
pub fn registration(address: SocketAddr) -> Result<TcpListener> {
    tcp(address).with_context(|| refused("registration", "tcp", address))
}

/// Binds the HTTP socket.
pub fn http(address: SocketAddr) -> Result<TcpListener> {
    tcp(address).with_context(|| refused("HTTP", "tcp", address))
}

/// Binds the registration socket over TLS.
pub fn registration_tls(address: SocketAddr) -> Result<TcpListener> {
    tcp(address).with_context(|| refused("registration over TLS", "tcp", address))
}

/// Binds the HTTPS socket.
pub fn https(address: SocketAddr) -> Result<TcpListener> {
    tcp(address).with_context(|| refused("HTTPS", "tcp", address))
}

/// Binds a socket of DNS over TLS.
pub fn dot(address: SocketAddr) -> Result<TcpListener> {
    tcp(address).with_context(|| refused("DNS over TLS", "tcp", address))
}

/// Binds a socket of DNS over HTTPS.
pub fn doh(address: SocketAddr) -> Result<TcpListener> {
    tcp(address).with_context(|| refused("DNS over HTTPS", "tcp", address))
}

/// Binds a socket of DNS over QUIC.
pub fn doq(address: SocketAddr) -> Result<UdpSocket> {
    udp(address).with_context(|| refused("DNS over QUIC", "udp", address))
}

/// Why an address could not be bound, in words: what was done, who holds it and what to do.
#[derive(Debug)]
pub struct Refused {
    act: String,
    why: String,
    holder: Option<Holder>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.act, self.why)
    }
}

/// Where the port is held by the server of our own user at `path`, as far as can be seen: that, instead of who holds it.
pub fn by_ours(error: anyhow::Error, path: &Path) -> anyhow::Error {
    let Some(refused) = error.downcast_ref::<Refused>() else { return error };
    let ours = connects(path).ok().and_then(|socket| ours(&socket));
    match (&refused.holder, ours) {
        (Some(Holder::Hidden), Some(pid)) => anyhow!("{}; {}", refused.act, runs_already(pid)),
        (Some(Holder::Seen { pid: holder, .. }), Some(pid)) if *holder == pid.to_string() => {
            anyhow!("{}; {}", refused.act, runs_already(pid))
        }
        _ => error,
    }
}

/// The process that listens at the other end, where it is of our own user. Where systemd does, nobody is told.
fn ours(socket: &Socket) -> Option<i32> {
    let peer = getsockopt(socket, sockopt::PeerCredentials).ok()?;
    (peer.uid() == nix::unistd::geteuid().as_raw() && peer.pid() > 1).then(|| peer.pid())
}

fn runs_already(pid: i32) -> String {
    format!("a callsign server of yours runs already (pid {pid}): use it (`callsign status`), or stop it")
}

/// `binding the DNS socket on 127.0.0.1:53 (udp)`, with who holds it and what to do.
fn refused(what: &str, protocol: &str, address: SocketAddr) -> Refused {
    let flag = match what {
        "DNS" => "--dns",
        "DNS over TLS" => "--dot",
        "DNS over HTTPS" => "--doh",
        "DNS over QUIC" => "--doq",
        "HTTP" => "--http",
        "HTTPS" => "--https",
        "registration over TLS" => "--listen-tls",
        _ => "--listen",
    };
    let is_elsewhere = std::net::UdpSocket::bind((address.ip(), 0))
        .is_err_and(|error| error.kind() == io::ErrorKind::AddrNotAvailable);
    let holder = holder(protocol, address);
    let why = match &holder {
        _ if is_elsewhere => format!(
            "; this machine has no address {}: `ip address` lists those that it has, for {flag} ADDR:PORT",
            address.ip()
        ),
        Some(holder) => format!("; {holder} holds it: stop that, or choose another with {flag} ADDR:PORT"),
        None if address.port() < 1024 => {
            let port = address.port();
            format!(
                "; a port below 1024 needs a privilege: start it as root with --user NAME, or `sysctl net.ipv4.ip_unprivileged_port_start={port}`, or let a socket unit bind it; or choose another with {flag} ADDR:PORT"
            )
        }
        None => format!("; choose another with {flag} ADDR:PORT"),
    };
    Refused { act: format!("binding the {what} socket on {address} ({protocol})"), why, holder }
}

/// Who has a port, as far as we may look.
#[derive(Debug)]
enum Holder {
    Seen { command: String, pid: String },
    Hidden,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seen { command, pid } => write!(f, "{command} (pid {pid})"),
            // Our own servers are among these.
            Self::Hidden => f.write_str(
                "a process that only root may look into (another user's, or a server of ours: `callsign status`)",
            ),
        }
    }
}

/// Who has a socket on this port.
fn holder(protocol: &str, address: SocketAddr) -> Option<Holder> {
    let mut inodes = Vec::new();
    for table in [format!("/proc/net/{protocol}"), format!("/proc/net/{protocol}6")] {
        for line in fs::read_to_string(table).unwrap_or_default().lines().skip(1) {
            let mut fields = line.split_whitespace();
            let local = fields.nth(1)?;
            let port = local.rsplit_once(':').and_then(|(_, port)| u16::from_str_radix(port, 16).ok());
            // `st` 0A is a listening TCP socket, 07 an unconnected UDP one.
            let state = fields.nth(1);
            if port == Some(address.port()) && matches!(state, Some("0A" | "07")) {
                inodes.extend(fields.nth(5).map(|inode| format!("socket:[{inode}]")));
            }
        }
    }
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let path = process.path();
        let Ok(descriptors) = fs::read_dir(path.join("fd")) else { continue };
        let links = descriptors.flatten().filter_map(|descriptor| fs::read_link(descriptor.path()).ok());
        if links.into_iter().any(|link| inodes.iter().any(|inode| link.as_os_str() == inode.as_str())) {
            let command = fs::read_to_string(path.join("comm")).unwrap_or_default();
            return Some(Holder::Seen {
                command: command.trim().escape_debug().to_string(),
                pid: process.file_name().to_string_lossy().into_owned(),
            });
        }
    }
    (!inodes.is_empty()).then_some(Holder::Hidden)
}

/// The file of the Unix registration socket; it goes when this is dropped, if it is still ours.
pub struct UnixFile {
    path: PathBuf,
    inode: u64,
}

impl UnixFile {
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Binds the Unix socket: mode 0660, the file of a dead server replaced, a live server's refused.
///
/// The socket is made under a name of its own and renamed into place, so that the path never leads anywhere but to a
/// server.
pub fn unix(path: &Path) -> Result<(UnixListener, UnixFile)> {
    use std::os::unix::fs::MetadataExt;
    let shown = path.display();
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("looking at {shown}")),
        Ok(found) if !found.file_type().is_socket() => {
            bail!("{shown} is there and is not a socket; move it away, or choose another path with --socket");
        }
        Ok(_) => {
            // Refused: nobody listens any more. A full queue is a live server that is busy.
            match connects(path) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    return Err(error)
                        .with_context(|| format!("looking whether a server listens on {shown}"));
                }
                found => {
                    let ours = found.ok().and_then(|socket| ours(&socket)).map(runs_already);
                    let what = ours.unwrap_or_else(|| "stop it".to_owned());
                    bail!(
                        "another server is listening on {shown}; {what}, or choose another path with --socket"
                    )
                }
            }
        }
    }
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        in_words(fs::create_dir_all(directory), "making the directory of the socket,", directory)?;
    }
    let mut own = path.as_os_str().to_owned();
    own.push(format!(".{}", std::process::id()));
    let own = PathBuf::from(own);
    let _ = fs::remove_file(&own); // of a process before us with the same pid
    // It is made with its mode, 0660: to set that afterwards would be to trust that the path still leads to the socket.
    let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o117));
    let listener = UnixListener::bind(&own);
    nix::sys::stat::umask(before);
    let listener = in_words(listener, "binding the registration socket", path)?;
    let inode = fs::symlink_metadata(&own)?.ino();
    fs::rename(&own, path).with_context(|| format!("putting the registration socket at {shown}"))?;
    listener.set_nonblocking(true)?;
    Ok((listener, UnixFile { path: path.to_owned(), inode }))
}

fn connects(path: &Path) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&socket2::SockAddr::unix(path)?)?;
    Ok(socket)
}

/// What was done, with the next step where it is a right that is missing.
fn in_words<T>(done: io::Result<T>, act: &str, place: &Path) -> Result<T> {
    done.map_err(|error| {
        let step = match error.kind() {
            io::ErrorKind::PermissionDenied => "; choose another path with --socket PATH",
            _ => "",
        };
        anyhow!("{act} {}: {error}{step}", place.display())
    })
}

impl Drop for UnixFile {
    fn drop(&mut self) {
        use std::os::unix::fs::MetadataExt;
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs::remove_file(&self.path); // nothing to do about a failure on the way out
        }
    }
}

/// The addresses that this machine uses towards the world: what a registration over the Unix socket
/// means when it names none. No packet is sent: connecting a UDP socket only chooses a route.
pub fn default_route_addresses() -> Vec<IpAddr> {
    // Documentation prefixes: routed like anything else, and nobody's (RFC 5737, RFC 3849).
    let routes = [("0.0.0.0:0", "192.0.2.1:9"), ("[::]:0", "[2001:db8::1]:9")];
    let source = |(local, remote): (&str, &str)| {
        let socket = UdpSocket::bind(local).ok()?;
        socket.connect(remote).ok()?;
        Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_unspecified() && !ip.is_loopback())
    };
    let found: Vec<IpAddr> = routes.into_iter().filter_map(source).collect();
    if found.is_empty() { vec![IpAddr::from([127, 0, 0, 1])] } else { found }
}
