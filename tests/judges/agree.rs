//! Every name of the wire table, asked by five programs with five decoders of their own: one answer.
//!
//! What the answer has to be is the wire table's business; here nobody may read it otherwise than the others do.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::json;

use super::harness::program::needs;
use super::harness::{Server, binary};

/// What one program says of one question.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    status: String,
    /// `None` where the program does not show flags.
    authoritative: Option<bool>,
    records: BTreeSet<String>,
}

/// Questions of the table that any program can ask: a name in plain characters and escapes, and an ordinary type.
fn questions() -> BTreeSet<(String, String)> {
    // A query for one of these is another operation, or the program refuses to send it.
    const OTHERWISE: [&str; 10] =
        ["ANY", "AXFR", "IXFR", "OPT", "TSIG", "TKEY", "MAILA", "MAILB", "TYPE0", "0000"];
    let rows = include_str!("../wire/rows.txt").lines();
    let words = rows.filter_map(|line| {
        let mut words = line.strip_prefix("> ")?.split_whitespace();
        let (name, qtype) = (words.next()?, words.next()?);
        let class = words.any(|word| word.starts_with("class="));
        let plain = name != "octets" && !name.contains(['{', '+', '=']) && !class;
        let number = qtype.strip_prefix("TYPE").and_then(|number| number.parse::<u16>().ok());
        let meta = number.is_some_and(|number| (128..=255).contains(&number));
        (plain && !meta && !OTHERWISE.contains(&qtype)).then(|| (name.to_owned(), qtype.to_owned()))
    });
    words.collect()
}

/// The registry of the table, as far as it can be said over the socket; what is missing is another question's.
fn server(zones: &Path) -> Server {
    let outer = include_str!("../wire/corp.test.zone");
    let inner = include_str!("../wire/inner.corp.test.zone");
    for (apex, zone) in [("corp.test", outer), ("inner.corp.test", inner)] {
        std::fs::write(zones.join(format!("{apex}.zone")), zone).expect("writing a zone file");
    }
    let flags =
        ["--zones", &zones.display().to_string(), "--consul-domain", "consul", "--dns", "127.0.0.2:0"];
    let server = Server::start(&flags);
    let mut client = server.client();
    let mut register = |form: serde_json::Value| {
        client.done("registered", &json!({"register": form}));
    };
    for (id, address, port) in [("a", "10.0.0.1", 8080), ("b", "10.0.0.2", 8081), ("c", "10.0.0.3", 8082)] {
        let address = if id == "c" { json!([address, "2001:db8::3"]) } else { json!([address]) };
        register(
            json!({"service": "web", "id": id, "address": address, "ports": {"http": port}, "lease": "none"}),
        );
    }
    for (id, address, protocol) in
        [("one", "10.0.7.1", "https"), ("two", "10.0.7.2", "h2"), ("three", "10.0.7.3", "h3")]
    {
        register(json!({"service": "safe", "id": id, "address": [address, "2001:db8:7::1"], "port": 443,
                        "protocol": protocol, "lease": "none"}));
    }
    register(json!({"service": "v6", "id": "six", "address": "2001:db8::6", "port": 80, "lease": "none"}));
    for number in 0..120 {
        let address = format!("10.1.1.{number}");
        register(
            json!({"service": "big", "id": format!("i{number:03}"), "address": address, "port": 80, "lease": "none"}),
        );
    }
    for id in ["one", "two"] {
        register(json!({"service": "same", "id": id, "target": "www.corp.test", "port": 7, "lease": "none"}));
    }
    register(json!({"service": "near", "id": "one", "target": "www.corp.test", "port": 7, "lease": "none"}));
    register(json!({"service": "far", "id": "one", "target": "db.example.com", "port": 7, "lease": "none"}));
    register(
        json!({"service": "redis", "id": "redis:6379", "address": "10.6.0.2", "port": 6379, "lease": "none"}),
    );
    register(json!({"service": "mix", "id": "x", "address": "10.2.0.1", "port": 1, "tags": ["v2", "EU"],
                    "meta": {"path": "/a b", "quote": "\"\\;"}, "lease": "none"}));
    register(json!({"service": "idle", "id": "one", "address": "10.1.0.1", "port": 80, "lease": "none"}));
    client.done("draining", &json!({"drain": {"service": "idle", "id": "one"}}));
    server
}

/// A program and how it is asked.
struct Reader {
    name: &'static str,
    program: PathBuf,
    words: fn(&str, u16, &str, &str) -> Vec<String>,
    read: fn(&str) -> Option<Said>,
    /// It resolves, and follows what one server's answer leaves open; so it is asked only what ends here.
    resolves: bool,
}

/// Where programs of BIND ask from: they let others in beside them on their port (SO_REUSEPORT), as our server does on its own,
/// so the kernel may give them that one, and on an address that both have they read what they ask.
const APART: &str = "127.0.0.1";

fn readers() -> [Reader; 5] {
    [
        Reader {
            name: "dig",
            program: needs("dig", "bind9-dnsutils"),
            words: |at, port, name, qtype| {
                own(&[
                    &format!("@{at}"),
                    "-p",
                    &port.to_string(),
                    "-b",
                    APART,
                    "+norec",
                    "+tries=1",
                    "+timeout=10",
                    "-q",
                    name,
                    "-t",
                    qtype,
                ])
            },
            read: messages,
            resolves: false,
        },
        Reader {
            name: "kdig",
            program: needs("kdig", "knot-dnsutils"),
            words: |at, port, name, qtype| {
                own(&[
                    &format!("@{at}"),
                    "-p",
                    &port.to_string(),
                    "+norec",
                    "+retry=0",
                    "+timeout=10",
                    "-q",
                    name,
                    "-t",
                    qtype,
                ])
            },
            read: messages,
            resolves: false,
        },
        Reader {
            name: "drill",
            program: needs("drill", "ldnsutils"),
            words: |at, port, name, qtype| {
                own(&["-a", "-o", "rd", "-p", &port.to_string(), name, &format!("@{at}"), qtype])
            },
            read: messages,
            resolves: false,
        },
        Reader {
            name: "delv",
            program: needs("delv", "bind9-dnsutils"),
            words: |at, port, name, qtype| {
                own(&[
                    &format!("@{at}"),
                    "-p",
                    &port.to_string(),
                    "-b",
                    APART,
                    "-i",
                    "+noroot",
                    "-q",
                    name,
                    "-t",
                    qtype,
                ])
            },
            read: resolutions,
            resolves: true,
        },
        Reader {
            name: "callsign dig",
            program: binary(),
            words: |at, port, name, qtype| own(&["dig", "--dns", &format!("{at}:{port}"), name, qtype]),
            read: ours,
            resolves: false,
        },
    ]
}

fn own(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

impl Said {
    /// Authoritative, and no CNAME that leads on. Of a DNAME delv shows less than came, and where the name gets too long
    /// (YXDOMAIN) it does not end.
    fn is_whole(&self) -> bool {
        if self.records.iter().any(|record| record.contains(" in dname ")) {
            return false;
        }
        let aliases = self.records.iter().filter(|record| record.contains(" in cname ")).count();
        self.authoritative == Some(true) && (aliases == 0 || aliases < self.records.len())
    }
}

/// A record as every program writes it, but for blanks, case and the quotes of a text.
fn record(line: &str) -> String {
    // dig puts quotes around the one parameter that is a list of words, the others do not (RFC 9460 appendix A).
    let word = |word: &str| if word.starts_with("alpn=") { word.replace('"', "") } else { word.to_owned() };
    let text = line.split_whitespace().map(word).collect::<Vec<_>>().join(" ").to_lowercase();
    // Some write the digest in pieces.
    match text.split_once(" in ds ").map(|(owner, data)| (owner, data.splitn(4, ' ').collect::<Vec<_>>())) {
        Some((owner, data)) if data.len() == 4 => {
            format!("{owner} in ds {} {} {} {}", data[0], data[1], data[2], data[3].replace(' ', ""))
        }
        _ => text,
    }
}

/// dig, kdig, drill: the header, then sections under titles.
fn messages(text: &str) -> Option<Said> {
    let lower = text.to_lowercase();
    // An answer that was cut is asked for again: the last message counts.
    let last = &lower[lower.rfind("opcode: ")?..];
    let after = |word: &str| last.find(word).map(|at| &last[at + word.len()..]);
    let status = after("status: ").or_else(|| after("rcode: "))?.split([',', ';']).next()?;
    let flags = after("flags: ")?.split(';').next()?;
    let authoritative = Some(flags.split_whitespace().any(|flag| flag == "aa"));
    let text = &text[text.len() - last.len()..];
    let mut inside = false;
    let mut records = BTreeSet::new();
    for line in text.lines() {
        if line.starts_with(';') {
            inside = line.to_uppercase().contains("ANSWER SECTION");
        } else if inside && !line.trim().is_empty() {
            records.insert(record(line));
        }
    }
    Some(Said { status: status.trim().to_owned(), authoritative, records })
}

/// delv says what it concluded, and shows no header.
fn resolutions(text: &str) -> Option<Said> {
    let lines = text.lines().filter(|line| !line.starts_with(';') && !line.trim().is_empty());
    let records: BTreeSet<String> = lines.filter(|line| !line.contains("\\-")).map(record).collect();
    let failed = text.lines().find_map(|line| line.strip_prefix(";; resolution failed: "));
    let status = match failed.map(str::trim) {
        None | Some("ncache nxrrset") => "noerror".to_owned(),
        Some("ncache nxdomain") => "nxdomain".to_owned(),
        Some(other) => other.to_lowercase(),
    };
    Some(Said { status, authoritative: None, records })
}

/// `NOERROR qr aa`, then records below `; answer`.
fn ours(text: &str) -> Option<Said> {
    let mut lines = text.lines();
    let mut first = lines.next()?.split_whitespace();
    let status = first.next()?.to_lowercase();
    let authoritative = Some(first.any(|flag| flag == "aa"));
    let (mut inside, mut records) = (false, BTreeSet::new());
    for line in lines {
        if line.starts_with(';') {
            inside = line == "; answer";
        } else if inside {
            records.insert(record(line));
        }
    }
    Some(Said { status, authoritative, records })
}

/// Asks every question with every program.
pub fn all() {
    let zones = tempfile::tempdir().expect("a directory");
    let server = server(zones.path());
    let (at, port) = (server.dns[0].ip().to_string(), server.dns[0].port());
    let readers = readers();
    let questions = questions();
    let (mut differences, mut asked) = (Vec::new(), 0);
    for (name, qtype) in &questions {
        let ask = |reader: &Reader| {
            let mut command = Command::new(&reader.program);
            command.args((reader.words)(&at, port, name, qtype)).stdin(Stdio::null());
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starting a reader")
        };
        let said = |reader: &Reader, child: Child| {
            let output = child.wait_with_output().expect("what a reader says");
            let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
            (reader.read)(&text).unwrap_or_else(|| panic!("{} {name} {qtype}: {text}", reader.name))
        };
        // All at once; who follows an answer waits for what the others say of it.
        let (resolving, showing): (Vec<&Reader>, Vec<&Reader>) =
            readers.iter().partition(|reader| reader.resolves);
        let children: Vec<Child> = showing.iter().map(|reader| ask(reader)).collect();
        let mut all: Vec<(&str, Said)> = Vec::new();
        for (reader, child) in showing.iter().zip(children) {
            all.push((reader.name, said(reader, child)));
        }
        let whole = all[0].1.is_whole();
        for reader in resolving.iter().filter(|_| whole) {
            all.push((reader.name, said(reader, ask(reader))));
        }
        asked += all.len();
        let (other, expected) = &all[0];
        for (reader, said) in &all[1..] {
            let flags = said.authoritative.is_none() || said.authoritative == expected.authoritative;
            if said.status != expected.status || said.records != expected.records || !flags {
                differences.push(format!("{name} {qtype}\n  {other}: {expected:?}\n  {reader}: {said:?}"));
            }
        }
    }
    println!("{} questions, {} programs, asked {asked} times", questions.len(), readers.len());
    assert!(questions.len() > 100 && asked > 4 * questions.len(), "the table has names");
    assert!(differences.is_empty(), "{} differences\n{}", differences.len(), differences.join("\n"));
}
