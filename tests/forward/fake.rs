//! An upstream that does what a test says, and a client that says what a test means.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use hickory_proto::op::Message;

use crate::harness::dns::{framed, read, receive_framed};
use crate::harness::{DEADLINE, Server};

/// How often the threads look whether they should end.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// HINFO, which probes ask for.
const PROBE_TYPE: u16 = 13;

/// What an upstream was asked.
#[derive(Clone, Debug)]
pub struct Asked {
    pub octets: Vec<u8>,
    pub from: SocketAddr,
    pub tcp: bool,
}

impl Asked {
    pub fn id(&self) -> u16 {
        u16::from_be_bytes([self.octets[0], self.octets[1]])
    }

    pub fn message(&self) -> Message {
        read(&self.octets)
    }

    /// Name, type and class, as they came.
    pub fn question(&self) -> &[u8] {
        let mut at = 12;
        while self.octets[at] != 0 {
            at += 1 + usize::from(self.octets[at]);
        }
        &self.octets[12..at + 5]
    }

    pub fn qtype(&self) -> u16 {
        let question = self.question();
        u16::from_be_bytes([question[question.len() - 4], question[question.len() - 3]])
    }

    /// The name in lower case, with a final dot.
    pub fn name(&self) -> String {
        self.message().queries[0].name().to_lowercase().to_string()
    }

    /// A reply with these records in the answer section.
    pub fn reply(&self, flags: u16, answers: &[Vec<u8>]) -> Vec<u8> {
        self.with_sections(flags, [answers, &[], &[]])
    }

    pub fn with_sections(&self, flags: u16, sections: [&[Vec<u8>]; 3]) -> Vec<u8> {
        let mut octets = self.octets[..2].to_vec();
        octets.extend((0x8180 | flags).to_be_bytes());
        octets.extend([0, 1]);
        for section in sections {
            octets.extend((section.len() as u16).to_be_bytes());
        }
        octets.extend(self.question());
        sections.into_iter().flatten().for_each(|record| octets.extend(record));
        octets
    }
}

/// A record at the name that was asked for.
pub fn record(rtype: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    let mut octets = vec![0xc0, 12];
    octets.extend(rtype.to_be_bytes());
    octets.extend([0, 1]);
    octets.extend(ttl.to_be_bytes());
    octets.extend((data.len() as u16).to_be_bytes());
    octets.extend(data);
    octets
}

pub fn a(address: &str, ttl: u32) -> Vec<u8> {
    record(1, ttl, &address.parse::<Ipv4Addr>().expect("an address").octets())
}

/// What goes back.
pub enum Act {
    Send(Vec<u8>),
    /// From another port of the same machine.
    FromElsewhere(Vec<u8>),
}

type Script = dyn Fn(&Asked) -> Vec<Act> + Send + Sync;

/// An upstream on a free port, UDP and TCP. Probes are counted, and answered unless it is mute.
pub struct Fake {
    pub address: SocketAddr,
    state: Arc<State>,
    threads: Vec<JoinHandle<()>>,
}

struct State {
    script: Box<Script>,
    asked: Mutex<Vec<Asked>>,
    probes: AtomicUsize,
    answers_probes: AtomicBool,
    stop: AtomicBool,
}

impl Fake {
    pub fn start(script: impl Fn(&Asked) -> Vec<Act> + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0", script)
    }

    pub fn start_at(address: &str, script: impl Fn(&Asked) -> Vec<Act> + Send + Sync + 'static) -> Self {
        // A port that is free for both.
        let (udp, tcp) = (0..100)
            .find_map(|_| {
                let tcp = TcpListener::bind(address).ok()?;
                Some((UdpSocket::bind(tcp.local_addr().ok()?).ok()?, tcp))
            })
            .expect("a free port");
        let state = Arc::new(State {
            script: Box::new(script),
            asked: Mutex::default(),
            probes: AtomicUsize::new(0),
            answers_probes: AtomicBool::new(true),
            stop: AtomicBool::new(false),
        });
        let address = udp.local_addr().expect("its address");
        let (for_udp, for_tcp) = (state.clone(), state.clone());
        let threads = vec![
            std::thread::spawn(move || for_udp.serve_udp(&udp)),
            std::thread::spawn(move || for_tcp.serve_tcp(&tcp)),
        ];
        Self { address, state, threads }
    }

    /// Everything but probes, in the order in which it came.
    pub fn asked(&self) -> Vec<Asked> {
        self.state.asked.lock().expect("no thread panicked").clone()
    }

    pub fn probes(&self) -> usize {
        self.state.probes.load(Ordering::SeqCst)
    }

    pub fn answers_probes(&self, answers: bool) {
        self.state.answers_probes.store(answers, Ordering::SeqCst);
    }

    /// The flag that makes a server use it.
    pub fn flag(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

impl State {
    fn stops(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    fn acts(&self, asked: Asked) -> Vec<Act> {
        if asked.qtype() == PROBE_TYPE {
            self.probes.fetch_add(1, Ordering::SeqCst);
            let answers = self.answers_probes.load(Ordering::SeqCst);
            return if answers { vec![Act::Send(asked.reply(3, &[]))] } else { Vec::new() };
        }
        let acts = (self.script)(&asked);
        self.asked.lock().expect("no thread panicked").push(asked);
        acts
    }

    fn serve_udp(&self, socket: &UdpSocket) {
        socket.set_read_timeout(Some(LOOK_EVERY)).expect("an option of a socket of ours");
        let mut buffer = vec![0; 4096];
        while !self.stops() {
            let Ok((octets, from)) = socket.recv_from(&mut buffer) else { continue };
            for act in self.acts(Asked { octets: buffer[..octets].to_vec(), from, tcp: false }) {
                // Whoever asked may have gone.
                drop(match act {
                    Act::Send(octets) => socket.send_to(&octets, from),
                    Act::FromElsewhere(octets) => {
                        UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.send_to(&octets, from))
                    }
                });
            }
        }
    }

    fn serve_tcp(&self, listener: &TcpListener) {
        listener.set_nonblocking(true).expect("an option of a socket of ours");
        while !self.stops() {
            let Ok((mut stream, from)) = listener.accept() else {
                crate::harness::pause();
                continue;
            };
            stream.set_nonblocking(false).expect("an option of a socket of ours");
            stream.set_read_timeout(Some(DEADLINE)).expect("an option of a socket of ours");
            let Ok(octets) = receive_framed(&mut stream) else { continue };
            for act in self.acts(Asked { octets, from, tcp: true }) {
                if let Act::Send(octets) = act {
                    drop(stream.write_all(&framed(&octets)));
                }
            }
        }
    }
}

/// One query as a client of a resolver sends it.
#[derive(Clone)]
pub struct Ask {
    pub name: &'static str,
    pub qtype: u16,
    pub rd: bool,
    pub ad: bool,
    pub cd: bool,
    /// The size that it receives, and DO.
    pub edns: Option<(u16, bool)>,
}

impl Ask {
    pub fn a(name: &'static str) -> Self {
        Self { name, qtype: 1, rd: true, ad: false, cd: false, edns: None }
    }

    pub fn edns(name: &'static str) -> Self {
        Self { edns: Some((1232, false)), ..Self::a(name) }
    }

    pub fn octets(&self, id: u16) -> Vec<u8> {
        let mut octets = id.to_be_bytes().to_vec();
        octets.push(u8::from(self.rd));
        octets.push(u8::from(self.ad) << 5 | u8::from(self.cd) << 4);
        octets.extend([0, 1, 0, 0, 0, 0, 0, u8::from(self.edns.is_some())]);
        for label in self.name.split('.').filter(|label| !label.is_empty()) {
            octets.push(label.len() as u8);
            octets.extend(label.as_bytes());
        }
        octets.push(0);
        octets.extend(self.qtype.to_be_bytes());
        octets.extend([0, 1]);
        if let Some((size, dnssec_ok)) = self.edns {
            octets.extend([0, 0, 41]);
            octets.extend(size.to_be_bytes());
            octets.extend([0, 0, u8::from(dnssec_ok) << 7, 0, 0, 0]);
        }
        octets
    }

    /// The one reply over UDP, checked for what every reply has to have.
    pub fn udp(&self, server: SocketAddr) -> Told {
        let socket = UdpSocket::bind(SocketAddr::new(server.ip(), 0)).expect("a UDP socket");
        self.from(&socket, server)
    }

    /// The same from a socket that is bound already.
    pub fn from(&self, socket: &UdpSocket, server: SocketAddr) -> Told {
        socket.set_read_timeout(Some(DEADLINE)).expect("an option of a socket of ours");
        let query = self.octets(0x1234);
        socket.send_to(&query, server).expect("sending on loopback");
        let mut buffer = vec![0; 65_535];
        let (octets, from) = socket.recv_from(&mut buffer).expect("a reply");
        assert_eq!(from, server);
        Told::check(&query, &buffer[..octets])
    }

    pub fn tcp(&self, server: SocketAddr) -> Told {
        let mut stream = crate::harness::dns::connect(server);
        let query = self.octets(0x4321);
        stream.write_all(&framed(&query)).expect("sending a query over TCP");
        let octets = receive_framed(&mut stream).expect("a reply over TCP");
        let mut rest = Vec::new();
        stream.shutdown(std::net::Shutdown::Write).expect("an open connection");
        let end: io::Result<usize> = stream.read_to_end(&mut rest);
        assert_eq!(end.expect("the end of the connection"), 0, "one reply");
        Told::check(&query, &octets)
    }

    pub fn ask(&self, server: &Server) -> Told {
        self.udp(server.dns[0])
    }
}

/// What came back.
#[derive(Debug)]
pub struct Told {
    pub octets: Vec<u8>,
    pub message: Message,
}

impl Told {
    pub fn check(query: &[u8], octets: &[u8]) -> Self {
        assert_eq!(octets[..2], query[..2], "the id is the client's");
        let question = Asked { octets: query.to_vec(), from: ([0, 0, 0, 0], 0).into(), tcp: false };
        let question = question.question();
        assert_eq!(&octets[12..12 + question.len()], question, "the question is the client's, case and all");
        let message = read(octets);
        assert_eq!(message.edns.is_some(), query[11] == 1, "OPT only where the client sent one");
        Self { octets: octets.to_vec(), message }
    }

    pub fn rcode(&self) -> u16 {
        self.message.metadata.response_code.into()
    }

    /// The flags that are set, in words.
    pub fn flags(&self) -> String {
        let flags = u16::from_be_bytes([self.octets[2], self.octets[3]]);
        let names = [("aa", 0x400), ("tc", 0x200), ("rd", 0x100), ("ra", 0x80), ("ad", 0x20), ("cd", 0x10)];
        let set = names.iter().filter(|(_, bit)| flags & bit != 0).map(|(name, _)| *name);
        set.collect::<Vec<_>>().join(" ")
    }

    /// The data of the answers, in order.
    pub fn answers(&self) -> Vec<String> {
        self.message.answers.iter().map(|record| record.data.to_string()).collect()
    }

    pub fn ttl(&self) -> u32 {
        self.message.answers[0].ttl
    }

    /// Code and text of the Extended DNS Error; code 65535 where there is none.
    pub fn ede(&self) -> (u16, String) {
        // Root, OPT, 1,232: our own, and the last record.
        let opt = [0, 0, 41, 4, 208];
        let at = self.octets.windows(opt.len()).rposition(|window| window == opt);
        let mut options = at.map_or(&[][..], |at| &self.octets[at + 11..]);
        while let [code_high, code, high, low, rest @ ..] = options {
            let octets = usize::from(u16::from_be_bytes([*high, *low]));
            if (*code_high, *code) == (0, 15) {
                let info = u16::from_be_bytes([rest[0], rest[1]]);
                return (info, String::from_utf8_lossy(&rest[2..octets]).into_owned());
            }
            options = &rest[octets..];
        }
        (u16::MAX, String::new())
    }
}

/// A server that forwards to these.
pub fn forwarding(upstreams: &[&Fake], flags: &[&str]) -> Server {
    let addresses: Vec<String> = upstreams.iter().map(|upstream| upstream.flag()).collect();
    let mut words: Vec<&str> = addresses.iter().flat_map(|address| ["--forward", address]).collect();
    words.extend(flags);
    Server::start(&words)
}
