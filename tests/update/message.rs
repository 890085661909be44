//! UPDATE messages from words, and what the replies say.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use callsign::dns::tsig::{Algorithm, Key, Signer};
use callsign::name::Name;
use callsign::zone_file;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{ClientConnection, StreamOwned};

use crate::harness::dns::{connect, receive_framed, send_framed};
use crate::harness::{DEADLINE, Resolver, tls};

const SECRET_OCTETS: &[u8] = b"0123456789abcdef0123456789abcdef";
const SECRET: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
pub const APEX: &str = "service.local.";

/// A file with a key of each name, for nobody else to read.
pub fn key_file(directory: &Path, names: &[&str]) -> PathBuf {
    let path = directory.join("update.key");
    let key =
        |name: &&str| format!("key \"{name}\" {{\n\talgorithm hmac-sha256;\n\tsecret \"{SECRET}\";\n}};\n");
    std::fs::write(&path, names.iter().map(key).collect::<String>()).expect("writing the key");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("a file of ours");
    path
}

#[expect(clippy::disallowed_methods, reason = "a signature has the time in it")]
pub fn now_s() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.expect("a clock after 1970").as_secs()
}

/// A message as it is put together: `rows.txt` says in which words.
#[derive(Clone, Debug)]
pub struct Update {
    key: Option<&'static str>,
    time: u64,
    zone: String,
    lease: Option<u32>,
    prerequisites: Vec<Vec<u8>>,
    changes: Vec<Vec<u8>>,
}

impl Update {
    pub fn of(text: &str) -> Self {
        let mut update = Self::empty();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            assert!(update.says(line), "`{line}` is no word of an UPDATE");
        }
        update
    }

    pub fn empty() -> Self {
        let (prerequisites, changes) = (Vec::new(), Vec::new());
        let zone = format!("{APEX} SOA IN");
        // Nothing is believed that was signed in the second of the server's start.
        Self { key: Some("dhcp"), time: now_s() + 1, zone, lease: None, prerequisites, changes }
    }

    /// Signed with another key.
    pub fn by(self, key: &'static str) -> Self {
        Self { key: Some(key), ..self }
    }

    /// Signed at another time, in Unix seconds.
    pub fn at(self, time: u64) -> Self {
        Self { time, ..self }
    }

    /// Adds what a line says; false where it is no such line.
    pub fn says(&mut self, line: &str) -> bool {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let words: Vec<&str> = rest.split(' ').collect();
        let bare = |class, rtype: &str| record(words[0], number(rtype), class, 0, &[]);
        match verb {
            "unsigned" => self.key = None,
            "zone" => self.zone = rest.to_owned(),
            "lease" => self.lease = Some(rest.parse().expect("seconds")),
            "yx" => self.prerequisites.push(bare(255, "ANY")),
            "nx" => self.prerequisites.push(bare(254, "ANY")),
            "yxset" => self.prerequisites.push(bare(255, words[1])),
            "nxset" => self.prerequisites.push(bare(254, words[1])),
            "is" => self.prerequisites.push(typed(words[0], 1, "0", words[1], &words[2..].join(" "))),
            "add" => self.changes.push(typed(words[0], 1, words[1], words[2], &words[3..].join(" "))),
            "del" => self.changes.push(bare(255, "ANY")),
            "delset" => self.changes.push(bare(255, words[1])),
            "delrr" => self.changes.push(typed(words[0], 254, "0", words[1], &words[2..].join(" "))),
            "raw" => {
                let number = |at: usize| words[at].parse::<u32>().expect("a number");
                self.changes.push(record(words[0], number(1) as u16, number(2) as u16, number(3), &[]));
            }
            _ => return false,
        }
        true
    }

    /// Without a signature.
    pub fn octets(&self, id: u16) -> Vec<u8> {
        let [zone, rtype, class] = self.zone.split(' ').collect::<Vec<_>>()[..] else {
            panic!("a zone is three words")
        };
        let counts = [1, self.prerequisites.len() as u16, self.changes.len() as u16, 1];
        let mut octets: Vec<u8> =
            [id, 5 << 11].iter().chain(&counts).flat_map(|number| number.to_be_bytes()).collect();
        octets.extend(full(zone).as_wire());
        octets.extend(number(rtype).to_be_bytes());
        octets.extend(if class == "IN" { [0, 1] } else { [0, 3] });
        octets.extend(self.prerequisites.concat());
        octets.extend(self.changes.concat());
        let options =
            self.lease.map(|lease| [&[0, 2, 0, 4], &lease.to_be_bytes()[..]].concat()).unwrap_or_default();
        octets.extend(b"\0\0\x29\x04\xd0\0\0\0\0");
        octets.extend((options.len() as u16).to_be_bytes());
        octets.extend(options);
        octets
    }

    /// As it is sent, and who can read the reply.
    pub fn signed(&self, id: u16) -> (Vec<u8>, Option<Signer>) {
        let octets = self.octets(id);
        let Some(name) = self.key else { return (octets, None) };
        let key = Key::new(&Name::parse(name).expect("a name"), Algorithm::Sha256, SECRET_OCTETS);
        let mut signer = Signer::of_question(&Arc::new(key));
        (signer.sign(octets, self.time), Some(signer))
    }
}

/// A name without a final dot is below the apex.
pub fn full(name: &str) -> Name {
    let text = if name.ends_with('.') { name.to_owned() } else { format!("{name}.{APEX}") };
    Name::parse(&text).expect("a name")
}

fn number(rtype: &str) -> u16 {
    let known = [
        ("A", 1),
        ("NS", 2),
        ("CNAME", 5),
        ("SOA", 6),
        ("MX", 15),
        ("TXT", 16),
        ("RP", 17),
        ("AFSDB", 18),
        ("AAAA", 28),
        ("SRV", 33),
        ("NAPTR", 35),
        ("DS", 43),
        ("DNSKEY", 48),
        ("CDS", 59),
        ("CDNSKEY", 60),
        ("TYPE99", 99),
        ("ANY", 255),
    ];
    known
        .iter()
        .find(|(name, _)| *name == rtype)
        .map_or_else(|| panic!("the type {rtype}"), |(_, number)| *number)
}

fn typed(owner: &str, class: u16, ttl: &str, rtype: &str, data: &str) -> Vec<u8> {
    let text = format!("x 0 {rtype} {data}\n");
    let origin = Name::parse(APEX).expect("a name");
    let records = zone_file::read(text.as_bytes(), &origin).unwrap_or_else(|error| panic!("{text}: {error}"));
    let data = &records[0].1.data;
    record(owner, data.rtype().0, class, ttl.parse().expect("a TTL"), &data.to_wire())
}

fn record(owner: &str, rtype: u16, class: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    let mut octets = full(owner).as_wire().to_vec();
    octets.extend([rtype, class].iter().flat_map(|number| number.to_be_bytes()));
    octets.extend(ttl.to_be_bytes());
    octets.extend((data.len() as u16).to_be_bytes());
    octets.extend(data);
    octets
}

/// What a reply says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Said {
    pub rcode: &'static str,
    /// The text of the Extended DNS Error.
    pub why: String,
    pub lease: Option<u32>,
}

const RCODES: [&str; 11] = [
    "NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "YXDOMAIN", "YXRRSET", "NXRRSET",
    "NOTAUTH", "NOTZONE",
];

/// Reads a reply: its header and OPT, and nothing else but a signature that is right where the message had one (Y-25).
pub fn read(reply: &[u8], id: u16, signer: Option<&Signer>) -> Said {
    assert_eq!(reply[..2], id.to_be_bytes());
    assert_eq!(reply[2] & 0xf8, 0xa8, "QR and opcode 5");
    let signed = u8::from(signer.is_some());
    assert_eq!(reply[4..12], [0, 0, 0, 0, 0, 0, 0, 1 + signed], "nothing but OPT and a signature");
    assert!(signer.is_none_or(|signer| signer.verifies(reply, now_s())), "the signature of {reply:02x?}");
    assert_eq!(reply[12..15], [0, 0, 41], "OPT");
    let mut said = Said { rcode: RCODES[usize::from(reply[3] & 15)], ..Said::default() };
    let octets = usize::from(u16::from_be_bytes([reply[21], reply[22]]));
    let mut options = &reply[23..23 + octets];
    while let [_, code, high, low, rest @ ..] = options {
        let (data, after) = rest.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        match code {
            2 => said.lease = Some(u32::from_be_bytes(data.try_into().expect("four octets"))),
            15 => said.why = String::from_utf8_lossy(&data[2..]).into_owned(),
            _ => {}
        }
        options = after;
    }
    said
}

/// What carries a message.
pub enum Way {
    Udp(Resolver),
    Tcp(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Way {
    pub fn tls(server: SocketAddr) -> Self {
        let config = tls::client(&[&TLS13], &[b"dot"]);
        let client = ClientConnection::new(Arc::new(config), tls::localhost()).expect("a client of TLS");
        Self::Tls(Box::new(StreamOwned::new(client, connect(server))))
    }

    pub fn exchange(&mut self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Udp(resolver) => {
                resolver.send(message);
                resolver.receive(DEADLINE).expect("a reply over UDP")
            }
            Self::Tcp(stream) => {
                send_framed(stream, message).expect("sending over TCP");
                receive_framed(stream).expect("a reply over TCP")
            }
            Self::Tls(stream) => {
                let framed = [&(message.len() as u16).to_be_bytes(), message].concat();
                stream.write_all(&framed).expect("sending over TLS");
                let mut length = [0; 2];
                stream.read_exact(&mut length).expect("a reply over TLS");
                let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
                stream.read_exact(&mut reply).expect("the whole reply");
                reply
            }
        }
    }

    pub fn say(&mut self, update: &Update) -> Said {
        // Two messages that say the same in one second are two, and not one that came twice.
        static LAST_ID: AtomicU16 = AtomicU16::new(0);
        let id = LAST_ID.fetch_add(1, Ordering::Relaxed);
        let (message, signer) = update.signed(id);
        read(&self.exchange(&message), id, signer.as_ref())
    }
}
