//! Knot DNS, NSD and BIND over zone files, and a line to any of the servers that carries many queries at once.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;

use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use tempfile::TempDir;

use crate::harness::program::{Program, free_ports, needs};
use crate::harness::{DEADLINE, dns, eventually};
use crate::queries::Query;

/// A zone as every server reads it.
pub struct File {
    /// Without the dot at its end.
    pub apex: String,
    pub text: String,
}

/// An authoritative server with the zones.
pub struct Judge {
    pub name: &'static str,
    pub address: SocketAddr,
    _program: Program,
}

impl Judge {
    pub fn knot(zones: &[File]) -> Self {
        let directory = write(zones);
        let path = directory.path();
        let [port] = free_ports();
        let mut text = format!(
            "server:\n  rundir: {path}\n  listen: 127.0.0.1@{port}\n  udp-workers: 1\n  tcp-workers: 1\n  \
             background-workers: 1\n  udp-max-payload: 1232\ndatabase:\n  storage: {path}\nlog:\n  - target: stderr\n    any: warning\n\
             template:\n  - id: default\n    storage: {path}\n    zonefile-sync: -1\n    journal-content: none\nzone:\n",
            path = path.display()
        );
        for zone in zones {
            writeln!(text, "  - domain: {0}\n    file: {0}.zone", zone.apex).expect("a text");
        }
        let file = path.join("knot.conf");
        fs::write(&file, text).expect("writing the configuration");
        let words = ["-c", file.to_str().expect("a path")].map(str::to_owned);
        Self::start("knot", &needs_server("knotd", "knot"), directory, &words, port, zones)
    }

    pub fn nsd(zones: &[File]) -> Self {
        let directory = write(zones);
        let path = directory.path();
        let [port] = free_ports();
        let mut text = format!(
            "server:\n  ip-address: 127.0.0.1@{port}\n  username: \"\"\n  chroot: \"\"\n  zonesdir: \"{path}\"\n  pidfile: \"\"\n  \
             database: \"\"\n  zonelistfile: \"{path}/zone.list\"\n  xfrdfile: \"{path}/xfrd.state\"\n  xfrdir: \"{path}\"\n  \
             server-count: 1\n  ipv4-edns-size: 1232\n  minimal-responses: yes\n  rrl-ratelimit: 0\nremote-control:\n  control-enable: no\n",
            path = path.display()
        );
        for zone in zones {
            writeln!(text, "zone:\n  name: \"{0}\"\n  zonefile: \"{0}.zone\"", zone.apex).expect("a text");
        }
        let file = path.join("nsd.conf");
        fs::write(&file, text).expect("writing the configuration");
        let words = ["-d", "-c", file.to_str().expect("a path")].map(str::to_owned);
        Self::start("nsd", &needs_server("nsd", "nsd"), directory, &words, port, zones)
    }

    /// What it finds odd it serves all the same, as the others do.
    pub fn bind(zones: &[File]) -> Self {
        let directory = write(zones);
        let path = directory.path();
        let [port] = free_ports();
        let mut text = format!(
            "options {{ directory \"{path}\"; listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; pid-file none; \
             session-keyfile none; recursion no; dnssec-validation no; notify no; minimal-responses yes; max-udp-size 1232; \
             empty-zones-enable no; check-names master ignore; check-integrity no; check-mx ignore; check-mx-cname ignore; \
             check-srv-cname ignore; check-wildcard no; check-spf ignore; }};\ncontrols {{ }};\n",
            path = path.display()
        );
        for zone in zones {
            writeln!(text, "zone \"{0}\" {{ type primary; file \"{0}.zone\"; }};", zone.apex)
                .expect("a text");
        }
        let file = path.join("named.conf");
        fs::write(&file, text).expect("writing the configuration");
        let words = ["-g", "-n", "1", "-c", file.to_str().expect("a path")].map(str::to_owned);
        Self::start("bind", &needs_server("named", "bind9"), directory, &words, port, zones)
    }

    /// Waits until every zone is there.
    fn start(
        name: &'static str,
        program: &Path,
        directory: TempDir,
        words: &[String],
        port: u16,
        zones: &[File],
    ) -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut program = Program::start(program, directory, words);
        for zone in zones {
            let apex = format!("{}.", zone.apex);
            let query =
                dns::query(1, &apex, RecordType::SOA, None).to_vec().expect("a query has a wire form");
            eventually(&format!("the zone {apex} of {name}"), DEADLINE, || {
                program.must_run();
                // Over TCP: a port that nobody has yet is an error at once.
                let mut stream = TcpStream::connect(address).ok()?;
                stream.write_all(&dns::framed(&query)).ok()?;
                let reply = dns::read(&dns::receive_framed(&mut stream).ok()?);
                (!reply.answers.is_empty()).then_some(())
            });
        }
        Self { name, address, _program: program }
    }
}

/// Debian keeps servers where only an administrator looks.
fn needs_server(program: &str, package: &str) -> std::path::PathBuf {
    let path = Path::new("/usr/sbin").join(program);
    if path.is_file() { path } else { needs(program, package) }
}

/// The zones in a directory of their own.
pub fn write(zones: &[File]) -> TempDir {
    let directory = tempfile::tempdir().expect("a directory for the zones");
    for zone in zones {
        let path = directory.path().join(format!("{}.zone", zone.apex));
        fs::write(path, &zone.text).expect("writing a zone");
    }
    directory
}

/// A UDP socket and a TCP connection to a server.
pub struct Line {
    server: SocketAddr,
    udp: UdpSocket,
    tcp: Option<TcpStream>,
}

/// A reply as it is compared: decoded, with its size.
pub struct Reply {
    pub message: Message,
    pub octets: usize,
}

impl Line {
    pub fn new(server: SocketAddr) -> Self {
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a UDP socket");
        udp.connect(server).expect("a route to loopback");
        udp.set_read_timeout(Some(DEADLINE)).expect("an option of a socket of ours");
        Self { server, udp, tcp: None }
    }

    /// The replies to these queries, in their order; their ids are their places.
    pub fn exchange(&mut self, queries: &[Query]) -> Vec<Reply> {
        let mut replies: Vec<Option<Reply>> = queries.iter().map(|_| None).collect();
        for query in queries.iter().filter(|query| !query.tcp) {
            self.udp.send(&query.octets).expect("sending on loopback");
        }
        let mut buffer = vec![0; 65_535];
        for _ in queries.iter().filter(|query| !query.tcp) {
            let octets = self.udp.recv(&mut buffer).expect("a reply over UDP");
            place(&mut replies, &buffer[..octets]);
        }
        for query in queries.iter().filter(|query| query.tcp) {
            let stream = self.tcp.get_or_insert_with(|| dns::connect(self.server));
            // A server may end a connection after as many queries as it likes; the next one is another's.
            let sent = dns::send_framed(stream, &query.octets).and_then(|()| dns::receive_framed(stream));
            let octets = sent.unwrap_or_else(|_| {
                let mut stream = dns::connect(self.server);
                dns::send_framed(&mut stream, &query.octets).expect("sending over TCP");
                let octets = dns::receive_framed(&mut stream).expect("a reply over TCP");
                self.tcp = Some(stream);
                octets
            });
            place(&mut replies, &octets);
        }
        let server = self.server;
        replies
            .into_iter()
            .map(|reply| reply.unwrap_or_else(|| panic!("{server} left out a reply")))
            .collect()
    }
}

fn place(replies: &mut [Option<Reply>], octets: &[u8]) {
    let message = dns::read(octets);
    let place = usize::from(message.metadata.id);
    let before = replies[place].replace(Reply { message, octets: octets.len() });
    assert!(before.is_none(), "two replies to one query");
}
