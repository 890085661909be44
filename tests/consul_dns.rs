//! A real Consul and callsign, told the same over HTTP and asked the same over DNS, and in what they differ.
//!
//! Needs: peer:consul
//!
//! Both take the same registrations through Consul's catalog API. Then each question of `peers/consul_dns.txt` is
//! asked of both, over UDP and TCP; the file says in what the replies differ, and why. A difference that is not
//! there fails the test, as does a line that is no longer true. `CALLSIGN_PEERS` names the folder with the program.
//!
//! What is different everywhere is not compared: TTLs (Consul's are 0), the numbers of the SOA, the priority of
//! SRV records (Consul's is always 1, ours 0 unless the instance says more), and the TXT records that Consul
//! sends beside addresses.

mod harness;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use hickory_proto::op::Message;
use hickory_proto::rr::{RData, Record, RecordType};
use serde_json::{Value, json};
use tempfile::TempDir;

use harness::{DEADLINE, Resolver, Server, eventually};

const QUESTIONS: &str = include_str!("peers/consul_dns.txt");
/// Instances of the service that fits no plain datagram.
const BIG: usize = 60;

/// A Consul agent in development mode, on an address of loopback that nobody else has: its ports are the usual ones.
struct Consul {
    child: Child,
    http: SocketAddr,
    dns: SocketAddr,
    _directory: TempDir,
}

impl Drop for Consul {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Consul {
    fn start() -> Self {
        let folder = std::env::var_os("CALLSIGN_PEERS").unwrap_or_else(|| {
            panic!("CALLSIGN_PEERS names no folder with Consul's program: `./check --peers` builds it and runs this test")
        });
        let program = PathBuf::from(folder).join("consul");
        let directory = tempfile::tempdir().expect("a directory for Consul");
        let pid = std::process::id();
        let address = Ipv4Addr::new(127, 80 + (pid >> 16) as u8 % 100, (pid >> 8) as u8, pid as u8);
        let log = File::create(directory.path().join("log")).expect("a file for Consul's log");
        let mut command = Command::new(&program);
        command
            .args(["agent", "-dev", "-node", "agent", "-grpc-port", "-1", "-grpc-tls-port", "-1"])
            .args(["-bind", &address.to_string(), "-client", &address.to_string()])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("another descriptor"))
            .stderr(log);
        let child = command.spawn().unwrap_or_else(|error| panic!("starting {}: {error}", program.display()));
        let at = |port| SocketAddr::new(address.into(), port);
        let mut consul = Self { child, http: at(8500), dns: at(8600), _directory: directory };
        eventually("Consul's leader, and its own node", DEADLINE, || {
            assert_eq!(consul.child.try_wait().expect("waiting for our own child"), None, "Consul ended");
            let (status, nodes) = request(consul.http, "GET", "/v1/catalog/nodes", "")?;
            (status == 200 && nodes.contains("\"agent\"")).then_some(())
        });
        consul
    }
}

/// One request; `None` where nobody listens yet.
fn request(server: SocketAddr, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(server).ok()?;
    stream.set_read_timeout(Some(DEADLINE)).expect("an option of a socket of ours");
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(body.as_bytes()).ok()?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).ok()?;
    let status = reply.split(' ').nth(1)?.parse().ok()?;
    Some((status, reply))
}

/// What both are told, one request each of `/v1/catalog/register`.
fn registrations() -> Vec<Value> {
    let on = |node: &str, address: &str, service: Value| json!({"Node": node, "Address": address, "SkipNodeUpdate": node == "db1", "Service": service});
    let check = |mut registration: Value, id: &str, service: Option<&str>, status: &str| {
        let node = registration["Node"].clone();
        registration["Check"] = json!({"Node": node, "CheckID": id, "Name": id, "Status": status});
        if let Some(service) = service {
            registration["Check"]["ServiceID"] = service.into();
        }
        registration
    };
    let service = |id: &str, address: &str, port: u16| {
        let name = id.rsplit_once('-').expect("ids are a name and a number").0;
        json!({"ID": id, "Service": name, "Address": address, "Port": port})
    };
    let tagged = |mut service: Value, tags: &[&str]| {
        service["Tags"] = json!(tags);
        service
    };
    let weighted = |mut service: Value| {
        service["Weights"] = json!({"Passing": 10, "Warning": 3});
        service
    };
    let mut all = vec![
        json!({"Node": "db1", "Address": "10.0.0.5", "NodeMeta": {"rack": "r1", "rfc1035-00": "plain text"}}),
        on("db1", "10.0.0.5", tagged(service("web-1", "", 8080), &["v1", "primary", "v1.0.1"])),
        on("db1", "10.0.0.5", tagged(service("web-2", "10.0.0.7", 8081), &["V2"])),
        on("db1", "10.0.0.5", service("own-1", "10.0.0.5", 80)),
        on("db2.example.com", "10.0.0.6", service("ext-1", "db.example.com", 5432)),
        on("my_host", "10.0.0.11", service("under-1", "", 80)),
        on("six", "2001:db8::6", service("v6-1", "2001:db8::7", 80)),
        on("six", "2001:db8::6", service("six-1", "", 80)),
        check(on("db1", "10.0.0.5", service("sick-1", "10.0.0.8", 1)), "sick", Some("sick-1"), "critical"),
        check(
            on("db1", "10.0.0.5", weighted(service("warn-1", "10.0.0.9", 1))),
            "warn",
            Some("warn-1"),
            "warning",
        ),
        on("db1", "10.0.0.5", weighted(service("heavy-1", "10.0.0.10", 1))),
        check(on("down", "10.0.0.12", service("downed-1", "", 1)), "disk", None, "critical"),
        on("db1", "10.0.0.5", service("twin-1", "10.0.0.13", 80)),
        on("db1", "10.0.0.5", service("twin-2", "10.0.0.13", 80)),
    ];
    all.extend(
        (1..=BIG).map(|n| on("db1", "10.0.0.5", service(&format!("big-{n}"), &format!("10.1.0.{n}"), 80))),
    );
    all
}

fn tell(server: SocketAddr) {
    for registration in registrations() {
        let (status, reply) = request(server, "PUT", "/v1/catalog/register", &registration.to_string())
            .unwrap_or_else(|| panic!("{server} did not answer {registration}"));
        assert_eq!(status, 200, "{server}: {registration}\n{reply}");
    }
}

/// A reply as far as it is compared.
#[derive(Debug, PartialEq)]
struct Seen {
    rcode: u16,
    aa: bool,
    tc: bool,
    question: String,
    answer: BTreeSet<String>,
    authority: BTreeSet<String>,
    additional: BTreeSet<String>,
}

impl Seen {
    fn of(reply: &Message) -> Self {
        let lines = |records: &[Record]| records.iter().filter_map(line).collect();
        let addresses = reply
            .additionals
            .iter()
            .filter(|record| matches!(record.record_type(), RecordType::A | RecordType::AAAA));
        Self {
            rcode: reply.metadata.response_code.into(),
            aa: reply.metadata.authoritative,
            tc: reply.metadata.truncation,
            question: reply.queries.iter().map(|query| query.name().to_string()).collect(),
            answer: lines(&reply.answers),
            authority: lines(&reply.authorities),
            additional: addresses.filter_map(line).collect(),
        }
    }

    fn differs(&self, other: &Self) -> String {
        let parts = [
            ("rcode", self.rcode != other.rcode),
            ("aa", self.aa != other.aa),
            ("tc", self.tc != other.tc),
            ("question", self.question != other.question),
            ("answer", self.answer != other.answer),
            ("authority", self.authority != other.authority),
            ("additional", self.additional != other.additional),
        ];
        let found: Vec<&str> =
            parts.iter().filter(|(_, differs)| *differs).map(|(about, _)| *about).collect();
        if found.is_empty() { "-".to_owned() } else { found.join(" ") }
    }
}

fn line(record: &Record) -> Option<String> {
    let (owner, rtype) = (&record.name, record.record_type());
    let data = match &record.data {
        RData::SRV(srv) => format!("{} {} {}", srv.weight, srv.port, srv.target),
        RData::SOA(soa) => format!("{} {}", soa.mname, soa.rname),
        RData::TXT(txt) => format!("{:?}", txt.txt_data),
        data => data.to_string(),
    };
    (rtype != RecordType::OPT).then(|| format!("{owner} {rtype} {data}"))
}

#[test]
fn consul_and_callsign_differ_as_listed() {
    let consul = Consul::start();
    let server = Server::start(&["--consul-domain", "consul"]);
    tell(consul.http);
    tell(server.http[0]);
    let (mut theirs, mut ours) = (Resolver::new(consul.dns), server.resolver());
    let (mut wrong, mut questions, mut alike) = (String::new(), 0, 0);
    for (number, text) in QUESTIONS.lines().enumerate() {
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let parts: Vec<&str> = text.split('|').map(str::trim).collect();
        let [question, transports, listed, why] = parts[..] else {
            panic!("line {}: question | transports | in what | why", number + 1)
        };
        assert!((listed == "-") == why.is_empty(), "line {}: a difference has a reason", number + 1);
        let (name, qtype) = question.split_once(' ').expect("a name and a type");
        let name = &format!("{name}.");
        let qtype: RecordType = qtype.parse().expect("a type");
        for transport in transports.split(' ') {
            let ask = |resolver: &mut Resolver| match transport {
                "udp" => Seen::of(&resolver.udp_edns(name, qtype, 1232)),
                "udp512" => Seen::of(&resolver.udp(name, qtype)),
                "tcp" => {
                    let reply = Seen::of(&resolver.tcp(name, qtype));
                    resolver.hang_up(); // Consul closes after a while, and a test must not depend on when
                    reply
                }
                other => panic!("line {}: {other} is no transport", number + 1),
            };
            let (consul, callsign) = (ask(&mut theirs), ask(&mut ours));
            let found = consul.differs(&callsign);
            questions += 1;
            alike += usize::from(found == "-");
            if found != listed {
                wrong += &format!(
                    "line {}: {question} over {transport} differs in `{found}`, listed is `{listed}`\n  Consul   {consul:?}\n  callsign {callsign:?}\n",
                    number + 1
                );
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    println!("{questions} questions, {alike} answered alike, {} as listed", questions - alike);
}
