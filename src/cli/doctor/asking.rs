//! What a nameserver says of our zone: asked over the wire, as a program's resolver would ask it.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use callsign::name::Apex;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::{Finding, bare};
use callsign::message::rcode_name;

/// Attempts over UDP, each with the whole time: a datagram may get lost.
const ATTEMPTS: usize = 2;
/// What every path carries without fragments (RFC 9715).
const EDNS_OCTETS: u16 = 1232;
/// The largest datagram.
const DATAGRAM_OCTETS_MAX: usize = 65_535;

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The zone's SOA, the addresses of its `ns`, whether TCP is open too, and whether it has answers for other names
    /// (RA).
    Zone { addresses: BTreeSet<IpAddr>, tcp: bool, recursion: bool },
    /// Something else, by its rcode; `NOERROR` is an answer without the SOA.
    Other(String),
    /// No reply, and why.
    Silence(String),
}

/// Asks for the zone, and for the one name in it that always has an address.
pub async fn ask(server: SocketAddr, domain: &Apex, within: Duration) -> Heard {
    let zone = match exchange(server, &domain.to_string(), RecordType::SOA, within).await {
        Ok(reply) => reply,
        Err(error) => return Heard::Silence(sentence(&error)),
    };
    let rcode = zone.metadata.response_code;
    let has_soa = zone.answers.iter().any(|record| matches!(record.data, RData::SOA(_)));
    if rcode != ResponseCode::NoError || !has_soa {
        return Heard::Other(rcode_name(rcode));
    }
    let mut addresses = BTreeSet::new();
    for rtype in [RecordType::A, RecordType::AAAA] {
        match exchange(server, &server_name(domain), rtype, within).await {
            Ok(reply) => addresses.extend(reply.answers.iter().filter_map(|record| address(&record.data))),
            Err(error) => return Heard::Silence(sentence(&error)),
        }
    }
    let connected = timeout(within, TcpStream::connect(server)).await;
    let tcp = connected.is_ok_and(|connected| connected.is_ok());
    Heard::Zone { addresses, tcp, recursion: zone.metadata.recursion_available }
}

/// The name of this server in its own zone.
pub fn server_name(domain: &Apex) -> String {
    domain.owner(&["ns"]).to_string()
}

fn address(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(address) => Some(address.0.into()),
        RData::AAAA(address) => Some(address.0.into()),
        _ => None,
    }
}

async fn exchange(
    server: SocketAddr,
    name: &str,
    rtype: RecordType,
    within: Duration,
) -> io::Result<Message> {
    let no_name = |error: hickory_proto::ProtoError| io::Error::new(io::ErrorKind::InvalidInput, error);
    let id = getrandom::u32().map_err(io::Error::other)? as u16;
    let mut query = Message::new(id, MessageType::Query, OpCode::Query);
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(Name::from_ascii(name).map_err(no_name)?, rtype));
    let mut edns = Edns::new();
    edns.set_max_payload(EDNS_OCTETS);
    query.set_edns(edns);
    let octets = query.to_vec().map_err(no_name)?;
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).await?;
    // Connected: the kernel drops what comes from elsewhere, and tells that nobody listens.
    socket.connect(server).await?;
    let mut buffer = vec![0; DATAGRAM_OCTETS_MAX];
    for _ in 0..ATTEMPTS {
        socket.send(&octets).await?;
        let waited = timeout(within, async {
            loop {
                let length = socket.recv(&mut buffer).await?;
                match Message::from_vec(&buffer[..length]) {
                    Ok(reply) if reply.metadata.id == id && reply.queries == query.queries => {
                        return Ok(reply);
                    }
                    // Somebody else's, or too late: the right one may still come.
                    _ => {}
                }
            }
        });
        if let Ok(heard) = waited.await {
            return heard;
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

fn sentence(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "nobody listens there".to_owned(),
        io::ErrorKind::TimedOut => "no reply".to_owned(),
        _ => error.to_string().split(" (os error").next().unwrap_or_default().to_lowercase(),
    }
}

/// What callsign itself says at an address of its own.
pub fn own(server: SocketAddr, domain: &Apex, heard: &Heard) -> Finding {
    let name = bare(domain);
    match heard {
        Heard::Zone { tcp: true, .. } => Finding::fine("dns", format!("{server} answers for {name}")),
        Heard::Zone { .. } => Finding::wrong(
            "dns",
            format!("{server} answers for {name} over UDP, and takes no TCP"),
            "answers that do not fit a datagram arrive cut".to_owned(),
            format!("let TCP to port {} through the firewall", server.port()),
        ),
        Heard::Other(rcode) => Finding::wrong(
            "dns",
            format!("{server} answers {rcode} for {name}"),
            "nothing below the domain resolves through it".to_owned(),
            match rcode.as_str() {
                "REFUSED" => "name this machine in `query-allow`, or ask from one that it names".to_owned(),
                _ => "callsign status; callsign explain ns".to_owned(),
            },
        ),
        Heard::Silence(why) => Finding::wrong(
            "dns",
            format!("{server} does not answer: {why}"),
            "whatever is in front of it has nobody to ask".to_owned(),
            format!("callsign serve --dns {server}; let UDP and TCP to it through the firewall"),
        ),
    }
}

/// What a nameserver of resolv.conf says, beside what callsign says itself.
///
/// `holder`: the program at that address on this machine, where there is one.
pub fn nameserver(
    server: IpAddr,
    domain: &Apex,
    heard: &Heard,
    own: Option<&BTreeSet<IpAddr>>,
    holder: Option<&str>,
) -> Finding {
    let name = bare(domain);
    let named = holder.map_or(server.to_string(), |holder| format!("{server} ({holder})"));
    let mend = told(server, holder);
    let asked = "programs ask each nameserver of /etc/resolv.conf, and believe the first that says no";
    match heard {
        Heard::Zone { addresses, .. } if own.is_some_and(|own| !own.is_empty() && addresses.is_empty()) => {
            Finding::wrong(
                "nameserver",
                format!("{named} knows {name}, and takes the addresses out of the answers"),
                "it holds private addresses for an attack (DNS rebinding): SRV arrives, A does not"
                    .to_owned(),
                mend,
            )
        }
        Heard::Zone { addresses, .. } if own.is_some_and(|own| own != addresses) => Finding::wrong(
            "nameserver",
            format!("{named} has another {name} than this server"),
            "it asks another callsign, or somebody else serves the same name".to_owned(),
            mend,
        ),
        Heard::Zone { tcp: false, .. } => Finding::advice(
            "nameserver",
            format!("{named} answers for {name}, and takes no TCP"),
            "answers that do not fit a datagram arrive cut: some instances are missing".to_owned(),
            "let TCP to port 53 through the firewall".to_owned(),
        ),
        Heard::Zone { recursion: false, .. } => Finding::advice(
            "nameserver",
            format!("{named} answers for {name}, and refuses every other name"),
            "whoever asks it for a name of the world gets none, and musl waits five seconds for that"
                .to_owned(),
            "callsign serve --forward ADDR, for the address that was asked before".to_owned(),
        ),
        Heard::Zone { .. } => Finding::fine("nameserver", format!("{named} answers for {name}")),
        Heard::Other(rcode) => Finding::wrong(
            "nameserver",
            format!("{named} does not know {name}: it says {rcode}"),
            asked.to_owned(),
            mend,
        ),
        Heard::Silence(why) => Finding::wrong(
            "nameserver",
            format!("{named} does not answer: {why}"),
            "each lookup waits for it, or fails".to_owned(),
            mend,
        ),
    }
}

/// How the program at an address is told of us; who it is decides.
fn told(server: IpAddr, holder: Option<&str>) -> String {
    let recipe = match holder {
        // The kernel keeps fifteen octets of a process's name.
        Some(name) if name.starts_with("systemd-resolv") => "resolved",
        Some("dnsmasq") => "dnsmasq",
        Some("unbound") => "unbound",
        Some("named") => "bind",
        Some("coredns") => "coredns",
        Some("callsign") => {
            return "callsign serve --domain … for this domain, or name the server with --server".to_owned();
        }
        _ if super::names::STUBS.contains(&server) => "resolved",
        _ if server.is_loopback() => {
            return format!(
                "callsign serve --dns {server}:53 --forward …, or a resolver there: callsign setup unbound"
            );
        }
        _ => {
            return format!(
                "tell {server} to ask callsign for the domain, or put a resolver on this machine: callsign setup unbound"
            );
        }
    };
    format!("callsign setup {recipe} --write, and what it says then")
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn each_reply_has_its_verdict() {
        let domain = Apex::parse("service.local").unwrap();
        let own: BTreeSet<IpAddr> = [IpAddr::from([10, 0, 0, 5])].into();
        let at = IpAddr::from([127, 0, 0, 1]);
        let zone = |addresses: &BTreeSet<IpAddr>, tcp| Heard::Zone {
            addresses: addresses.clone(),
            tcp,
            recursion: true,
        };
        let alone = Heard::Zone { addresses: own.clone(), tcp: true, recursion: false };
        let other: BTreeSet<IpAddr> = [IpAddr::from([10, 9, 9, 9])].into();
        for (heard, verdict, words) in [
            (zone(&own, true), Verdict::Fine, "127.0.0.1 (dnsmasq) answers for service.local"),
            (zone(&own, false), Verdict::Advice, "takes no TCP"),
            (alone, Verdict::Advice, "refuses every other name"),
            (zone(&BTreeSet::new(), true), Verdict::Wrong, "takes the addresses out"),
            (zone(&other, true), Verdict::Wrong, "another service.local"),
            (
                Heard::Other("NXDOMAIN".to_owned()),
                Verdict::Wrong,
                "does not know service.local: it says NXDOMAIN",
            ),
            (Heard::Silence("no reply".to_owned()), Verdict::Wrong, "does not answer: no reply"),
        ] {
            let finding = nameserver(at, &domain, &heard, Some(&own), Some("dnsmasq"));
            assert_eq!(finding.verdict, verdict, "{heard:?}");
            assert!(finding.what.contains(words), "{}", finding.what);
            let mended =
                verdict != Verdict::Wrong || finding.mend.starts_with("callsign setup dnsmasq --write");
            assert!(mended, "{}", finding.mend);
        }
        // Without a server of ours there is nothing to compare with.
        assert_eq!(nameserver(at, &domain, &zone(&other, true), None, None).verdict, Verdict::Fine);
    }

    #[test]
    fn who_is_asked_decides_how_it_is_told() {
        let loopback = IpAddr::from([127, 0, 0, 1]);
        for (server, holder, words) in [
            (super::super::names::STUBS[0], None, "setup resolved"),
            (loopback, Some("systemd-resolve"), "setup resolved"),
            (loopback, Some("named"), "setup bind"),
            (loopback, Some("callsign"), "--domain"),
            (loopback, None, "serve --dns 127.0.0.1:53"),
            (IpAddr::from([192, 168, 1, 1]), None, "tell 192.168.1.1"),
        ] {
            assert!(told(server, holder).contains(words), "{}", told(server, holder));
        }
    }
}
