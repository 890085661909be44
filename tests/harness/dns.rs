//! Questions over UDP and TCP, and what the answers say.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RData, RecordType};

use super::DEADLINE;

/// The largest message there is.
const MESSAGE_OCTETS_MAX: usize = 65_535;

/// One UDP socket and one TCP connection to a server, kept open.
pub struct Resolver {
    pub server: SocketAddr,
    udp: UdpSocket,
    tcp: Option<TcpStream>,
    id: u16,
    /// What the kernel had dropped before this asked anything.
    dropped_before: u64,
}

impl Resolver {
    pub fn new(server: SocketAddr) -> Self {
        let local = SocketAddr::new(server.ip(), 0);
        let udp = UdpSocket::bind(local).expect("a UDP socket");
        udp.connect(server).expect("a route to loopback");
        udp.set_read_timeout(Some(DEADLINE)).expect("an option of a socket of ours");
        Self { server, udp, tcp: None, id: 0, dropped_before: dropped_by_the_kernel() }
    }

    pub fn udp(&mut self, name: &str, qtype: RecordType) -> Message {
        let query = self.query(name, qtype, None);
        self.exchange_udp(&query)
    }

    /// With EDNS, for answers of up to so many octets.
    pub fn udp_edns(&mut self, name: &str, qtype: RecordType, octets: u16) -> Message {
        let query = self.query(name, qtype, Some(octets));
        self.exchange_udp(&query)
    }

    pub fn tcp(&mut self, name: &str, qtype: RecordType) -> Message {
        let query = self.query(name, qtype, None);
        let sent = query.to_vec().expect("a query has a wire form");
        let stream = self.tcp.get_or_insert_with(|| connect(self.server));
        send_framed(stream, &sent).expect("sending a query over TCP");
        let octets = receive_framed(stream).expect("a reply over TCP");
        let reply = read(&octets);
        check(&query, &reply);
        reply
    }

    /// Closes the TCP connection; the next query opens another.
    pub fn hang_up(&mut self) {
        self.tcp = None;
    }

    fn query(&mut self, name: &str, qtype: RecordType, edns: Option<u16>) -> Message {
        self.id = self.id.wrapping_add(1);
        query(self.id, name, qtype, edns)
    }

    fn exchange_udp(&mut self, query: &Message) -> Message {
        self.send(&query.to_vec().expect("a query has a wire form"));
        let Some(reply) = self.receive(DEADLINE) else {
            let dropped = dropped_by_the_kernel() - self.dropped_before;
            panic!("no reply over UDP from {}; the kernel dropped {dropped} packets meanwhile", self.server);
        };
        let reply = read(&reply);
        check(query, &reply);
        reply
    }

    /// Sends a datagram as it is.
    pub fn send(&self, octets: &[u8]) {
        self.udp.send(octets).expect("sending on loopback");
    }

    /// The next datagram; `None` where none comes in time.
    pub fn receive(&self, within: Duration) -> Option<Vec<u8>> {
        let mut buffer = vec![0; MESSAGE_OCTETS_MAX];
        self.udp.set_read_timeout(Some(within)).expect("an option of a socket of ours");
        match self.udp.recv(&mut buffer) {
            Ok(octets) => Some(buffer[..octets].to_vec()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => panic!("receiving from {}: {error}", self.server),
        }
    }
}

/// Packets that were dropped because too many waited for a processor (`net.core.netdev_max_backlog`): that happens on
/// loopback too, to whoever's packet comes next. It is the second number of each line, one line a processor.
fn dropped_by_the_kernel() -> u64 {
    let text = std::fs::read_to_string("/proc/net/softnet_stat").unwrap_or_default();
    let dropped = text.lines().filter_map(|line| u64::from_str_radix(line.split(' ').nth(1)?, 16).ok());
    dropped.sum()
}

/// A query without RD: we ask the authority.
pub fn query(id: u16, name: &str, qtype: RecordType, edns: Option<u16>) -> Message {
    let mut query = Message::new(id, MessageType::Query, OpCode::Query);
    query.add_query(Query::query(Name::from_ascii(name).expect("a name"), qtype));
    if let Some(octets) = edns {
        let mut edns = Edns::new();
        edns.set_max_payload(octets);
        query.set_edns(edns);
    }
    query
}

pub fn connect(server: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(server).expect("connecting to DNS over TCP");
    stream.set_nodelay(true).expect("an option of a socket of ours");
    stream.set_read_timeout(Some(DEADLINE)).expect("an option of a socket of ours");
    stream
}

pub fn framed(message: &[u8]) -> Vec<u8> {
    let mut octets = u16::try_from(message.len()).expect("a message").to_be_bytes().to_vec();
    octets.extend_from_slice(message);
    octets
}

pub fn send_framed(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    stream.write_all(&framed(message))
}

pub fn receive_framed(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message)?;
    Ok(message)
}

pub fn read(octets: &[u8]) -> Message {
    Message::from_vec(octets).unwrap_or_else(|error| panic!("no DNS message: {error}: {octets:02x?}"))
}

fn check(query: &Message, reply: &Message) {
    assert_eq!(reply.metadata.id, query.metadata.id, "the reply to another query");
    assert_eq!(reply.metadata.message_type, MessageType::Response);
    assert_eq!(reply.queries, query.queries, "the question comes back as it was asked");
}

/// Ports by the first label of the target: `web-1` in `web-1.web.service.local`.
pub fn ports(reply: &Message) -> BTreeMap<String, u16> {
    let records = reply.answers.iter().filter_map(|record| match &record.data {
        RData::SRV(srv) => Some((first_label(&srv.target), srv.port)),
        _ => None,
    });
    records.collect()
}

/// Addresses in the answer section.
pub fn addresses(reply: &Message) -> BTreeSet<IpAddr> {
    reply.answers.iter().filter_map(|record| address(&record.data)).collect()
}

/// Addresses in the additional section, by the first label of their owner.
pub fn glue(reply: &Message) -> BTreeMap<String, IpAddr> {
    let records = reply.additionals.iter();
    records.filter_map(|record| Some((first_label(&record.name), address(&record.data)?))).collect()
}

fn address(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(address) => Some(address.0.into()),
        RData::AAAA(address) => Some(address.0.into()),
        _ => None,
    }
}

fn first_label(name: &Name) -> String {
    name.iter().next().map(|label| String::from_utf8_lossy(label).into_owned()).unwrap_or_default()
}
