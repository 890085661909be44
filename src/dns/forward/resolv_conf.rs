//! Which name servers this machine uses: `nameserver` lines of `/etc/resolv.conf` (resolv.conf(5)).
//!
//! Where systemd-resolved runs, that file names its stub, and the servers behind it stand in another one. A server that
//! is its machine's only name server finds itself there: it looks behind as well.

use std::fs;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::path::Path;

use super::UPSTREAMS_MAX;

/// What programs read.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";
/// The servers that systemd-resolved asks.
pub const BEHIND_STUB: &str = "/run/systemd/resolve/resolv.conf";
/// Where systemd-resolved listens.
const STUBS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53)), IpAddr::V4(Ipv4Addr::new(127, 0, 0, 54))];
/// resolv.conf has no word for another port.
pub const PORT: u16 = 53;
/// Octets that are read of such a file: it has a few lines.
const FILE_OCTETS_MAX: u64 = 64 * 1024;

/// The servers that `files` name, of the first that names one; without stubs, and without those that are `own`.
///
/// # Errors
///
/// None of the files can be read; why not the first.
pub fn servers(files: &[&Path], own: impl Fn(SocketAddr) -> bool) -> io::Result<Vec<SocketAddr>> {
    let (mut is_read, mut unread) = (false, None);
    for file in files {
        let mut text = String::new();
        let read = fs::File::open(file).and_then(|file| file.take(FILE_OCTETS_MAX).read_to_string(&mut text));
        match read {
            Ok(_) => is_read = true,
            Err(error) => drop(unread.get_or_insert(error)),
        }
        let mut servers = named(&text);
        servers.retain(|server| !STUBS.contains(&server.ip()) && !own(*server));
        servers.truncate(UPSTREAMS_MAX);
        if !servers.is_empty() {
            return Ok(servers);
        }
    }
    unread.filter(|_| !is_read).map_or(Ok(Vec::new()), Err)
}

/// The addresses of `nameserver` lines, each once; what is no address is left out, as every resolver does.
fn named(text: &str) -> Vec<SocketAddr> {
    let mut servers = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some("nameserver"), Some(address)) = (words.next(), words.next()) else { continue };
        if let Some(server) = address_of(address)
            && !servers.contains(&server)
        {
            servers.push(server);
        }
    }
    servers
}

/// `192.0.2.1`, `2001:db8::1` or `fe80::1%eth0`.
fn address_of(text: &str) -> Option<SocketAddr> {
    match text.split_once('%') {
        None => Some(SocketAddr::new(text.parse::<IpAddr>().ok()?.to_canonical(), PORT)),
        Some((address, interface)) => {
            let scope = interface.parse().ok().or_else(|| nix::net::if_::if_nametoindex(interface).ok())?;
            Some(SocketAddrV6::new(address.parse().ok()?, PORT, 0, scope).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_resolvers_do() {
        let text = "# nameserver 192.0.2.9\nsearch example.com\nnameserver 192.0.2.1\n\
                    nameserver\t2001:db8::1 # ours\n  nameserver ::ffff:192.0.2.2\nnameserver 192.0.2.1\n\
                    nameserver fe80::1%7\nnameserver fe80::1%lo\nnameserver ns.example.com\nnameserver\n\
                    nameservers 192.0.2.8\noptions edns0\n";
        let found: Vec<String> = named(text).iter().map(SocketAddr::to_string).collect();
        assert_eq!(
            found,
            ["192.0.2.1:53", "[2001:db8::1]:53", "192.0.2.2:53", "[fe80::1%7]:53", "[fe80::1%1]:53"]
        );
    }

    #[test]
    fn neither_a_stub_nor_ourselves() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let stub = file("stub", "nameserver 127.0.0.53\noptions edns0 trust-ad\n");
        let ours = file("ours", "nameserver 127.0.0.1\nnameserver ::1\n");
        let behind = file("behind", "nameserver 192.0.2.1\nnameserver 127.0.0.1\nnameserver 192.0.2.2\n");
        let missing = directory.path().join("missing");
        let own = |address: SocketAddr| address.ip().is_loopback() && address.port() == 53;
        let at = |files: &[&Path]| {
            servers(files, own).map(|found| found.iter().map(|it| it.ip().to_string()).collect::<Vec<_>>())
        };
        for first in [&stub, &ours, &missing] {
            assert_eq!(at(&[first, &behind]).unwrap(), ["192.0.2.1", "192.0.2.2"], "{first:?}");
        }
        assert_eq!(at(&[&behind, &missing]).unwrap().len(), 2, "the first that names one is enough");
        assert_eq!(at(&[&behind, &ours]).unwrap().len(), 2);
        assert!(at(&[&stub, &ours]).unwrap().is_empty());
        assert!(at(&[&stub, &missing]).unwrap().is_empty());
        assert!(at(&[&missing, &missing]).is_err());
        let many: String = (1..=20).map(|number| format!("nameserver 192.0.2.{number}\n")).collect();
        assert_eq!(at(&[&file("many", &many)]).unwrap().len(), UPSTREAMS_MAX);
    }
}
