//! Forwarding between real programs: Knot and ldns-testns as upstreams; dig, kdig and delv, glibc and musl as clients.
//!
//! Needs: bind9-dnsutils knot knot-dnsutils ldnsutils gcc musl-tools iproute2 util-linux
//!
//! Where /etc/resolv.conf and port 53 are the point, server, upstreams and clients share a network namespace with
//! nothing in it but loopback, and a mount namespace with files of their own.

mod harness;

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;
use tempfile::TempDir;

use harness::machine::Machine;
use harness::namespaces::{self, MOUNT_RESOLVER_FILES};
use harness::program::{Program, free_ports, needs};
use harness::{DEADLINE, Server, eventually};

/// Everything that a forwarder may meet; `big` does not fit a datagram.
const ZONE: &str = "$ORIGIN example.com.\n$TTL 300\n\
    @ SOA ns1 hostmaster 1 3600 600 86400 60\n@ NS ns1\n@ MX 10 mail\n@ CAA 0 issue \"ca.example.net\"\n\
    ns1 A 192.0.2.53\nmail A 192.0.2.25\nWWW A 192.0.2.80\nwww AAAA 2001:db8::80\nalias CNAME www\n\
    dang CNAME nope\nold DNAME new\nx.new A 192.0.2.81\n_sip._tcp SRV 0 5 5060 www\n*.wild A 192.0.2.99\n\
    text TXT \"a\" \"b\"\nnaptr NAPTR 100 10 \"u\" \"E2U+sip\" \"!^.*$!sip:x@example.com!\" .\n\
    rp RP hostmaster text\nafs AFSDB 1 www\nloc LOC 52 22 23 N 4 53 32 E 0m\nhinfo HINFO \"a\" \"b\"\n\
    unknown TYPE65280 \\# 3 C00CFF\nsvcb HTTPS 1 . alpn=h2\nsub NS ns.sub\nns.sub A 192.0.2.54\n";

/// Names and types of it, and what is not there.
const QUESTIONS: &[(&str, &str)] = &[
    ("example.com", "SOA"),
    ("example.com", "NS"),
    ("example.com", "MX"),
    ("example.com", "CAA"),
    ("www.example.com", "A"),
    ("WWW.eXample.com", "AAAA"),
    ("www.example.com", "MX"),
    ("alias.example.com", "A"),
    ("dang.example.com", "A"),
    ("x.old.example.com", "A"),
    ("_sip._tcp.example.com", "SRV"),
    ("any.wild.example.com", "A"),
    ("text.example.com", "TXT"),
    ("naptr.example.com", "NAPTR"),
    ("rp.example.com", "RP"),
    ("afs.example.com", "AFSDB"),
    ("loc.example.com", "LOC"),
    ("hinfo.example.com", "HINFO"),
    ("unknown.example.com", "TYPE65280"),
    ("svcb.example.com", "HTTPS"),
    ("nope.example.com", "A"),
    ("big.example.com", "A"),
    ("big.example.com", "TXT"),
];

/// Knot with `ZONE`, signed, at this address.
fn knot(before: &[String], listen: &str, www: &str) -> Program {
    let knotd = needs("knotd", "knot");
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().display();
    let mut zone = ZONE.replace("WWW A 192.0.2.80", &format!("WWW A {www}"));
    for number in 0..120 {
        zone += &format!("big A 10.0.0.{number}\nbig TXT \"{number} {}\"\n", "x".repeat(200));
    }
    fs::write(directory.path().join("example.com.zone"), zone).expect("writing the zone");
    let config = format!(
        "server:\n  rundir: {path}\n  listen: {listen}\ndatabase:\n  storage: {path}\nlog:\n  - target: stderr\n    \
         any: warning\ntemplate:\n  - id: default\n    storage: {path}\nzone:\n  - domain: example.com\n    \
         file: example.com.zone\n    zonefile-load: whole\n    zonefile-sync: -1\n    journal-content: none\n    \
         dnssec-signing: on\n"
    );
    fs::write(directory.path().join("knot.conf"), config).expect("writing the configuration");
    let mut words = before.to_vec();
    words.extend([knotd.display().to_string(), "-c".to_owned(), format!("{path}/knot.conf")]);
    Program::start(Path::new(&words[0].clone()), directory, &words[1..])
}

/// What dig prints; every reply is whatever the server said, and one try is enough.
fn dig(server: SocketAddr, words: &[&str]) -> String {
    let output = Command::new(needs("dig", "bind9-dnsutils"))
        .args([&format!("@{}", server.ip()), "-p", &server.port().to_string(), "+tries=1", "+time=10"])
        .args(words)
        .stdin(Stdio::null())
        .output()
        .expect("running dig");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The rcode and the records of two sections, in any order and without their TTLs.
fn said(server: SocketAddr, words: &[&str]) -> (String, BTreeSet<String>) {
    let shown = ["+nocmd", "+noquestion", "+nostats", "+noadditional", "+nottlid", "+nocookie"];
    let text = dig(server, &[words, &shown].concat());
    let rcode =
        text.split("status: ").nth(1).and_then(|rest| rest.split(',').next()).unwrap_or(&text).to_owned();
    let records = text.lines().filter(|line| !line.is_empty() && !line.starts_with(';'));
    // The owner's case is the question's, or the zone's: the same name.
    let spelt = |line: &str| {
        let (owner, rest) = line.split_once(['\t', ' ']).unwrap_or((line, ""));
        format!("{} {}", owner.to_lowercase(), rest.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    (rcode, records.map(spelt).collect())
}

/// A knotd that answers, on a free port.
fn knot_here() -> (Program, SocketAddr) {
    let [port] = free_ports::<1>();
    let mut knot = knot(&[], &format!("127.0.0.1@{port}"), "192.0.2.80");
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    eventually("Knot's first answer", DEADLINE, || {
        knot.must_run();
        (said(address, &["www.example.com", "A"]).1.len() == 1).then_some(())
    });
    (knot, address)
}

#[test]
fn everything_is_as_the_upstream_says() {
    let (_knot, upstream) = knot_here();
    let server = Server::start(&["--forward", &upstream.to_string()]);
    for (name, qtype) in QUESTIONS {
        for option in ["+noedns", "+edns=0", "+dnssec", "+tcp"] {
            let direct = said(upstream, &[name, qtype, option]);
            assert!(direct.0 == "NOERROR" || direct.0 == "NXDOMAIN", "{name} {qtype}: {direct:?}");
            // The second answer comes from what was kept.
            for _ in 0..2 {
                assert_eq!(said(server.dns[0], &[name, qtype, option]), direct, "{name} {qtype} {option}");
            }
        }
    }
    println!("{} questions, each in four ways and twice", QUESTIONS.len());
}

#[test]
fn every_transport_forwards() {
    let (_knot, upstream) = knot_here();
    let upstream = upstream.to_string();
    let any = "127.0.0.1:0";
    let words = ["--forward", &upstream, "--dot", any, "--doh", any, "--doq", any, "--tls-self-signed"];
    let server = Server::start(&words);
    let kdig = needs("kdig", "knot-dnsutils");
    for (transport, option) in [("dns udp+tcp", "+tcp"), ("dot", "+tls"), ("doh", "+https"), ("doq", "+quic")]
    {
        let line = server.lines.iter().find_map(|line| line.strip_prefix(transport));
        let address: SocketAddr = line.expect("a bound address").trim().parse().expect("an address");
        // One asks upstream, the next is kept, and more than a datagram holds.
        for (name, count) in [("www.example.com", 1), ("www.example.com", 1), ("big.example.com", 120)] {
            let output = Command::new(&kdig)
                .args([&format!("@{}", address.ip()), "-p", &address.port().to_string(), "+retry=0"])
                .args([option, "+short", name, "A"])
                .stdin(Stdio::null())
                .output()
                .expect("running kdig");
            let text = String::from_utf8_lossy(&output.stdout);
            assert_eq!(text.lines().count(), count, "{option} {name}: {text}");
        }
    }
}

#[test]
fn delv_validates_through_us() {
    let (_knot, upstream) = knot_here();
    let server = Server::start(&["--forward", &upstream.to_string()]);
    let key = dig(upstream, &["+short", "example.com", "DNSKEY"]);
    let key = key.lines().find(|line| line.starts_with("257 ")).expect("a key signing key").to_owned();
    let fields: Vec<&str> = key.splitn(4, ' ').collect();
    let anchors = format!(
        "trust-anchors {{ example.com static-key {} {} {} \"{}\"; }};\n",
        fields[0],
        fields[1],
        fields[2],
        fields[3].replace(' ', "")
    );
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("anchors");
    fs::write(&file, anchors).expect("writing the trust anchor");
    let (at, port) = (format!("@{}", server.dns[0].ip()), server.dns[0].port().to_string());
    for (name, qtype, verdict) in [
        ("www.example.com", "A", "; fully validated"),
        ("any.wild.example.com", "A", "; fully validated"),
        ("big.example.com", "A", "; fully validated"),
        ("x.old.example.com", "A", "; fully validated"),
        ("unknown.example.com", "TYPE65280", "; fully validated"),
        ("nope.example.com", "A", "; negative response, fully validated"),
        ("www.example.com", "MX", "; negative response, fully validated"),
    ] {
        let output = Command::new(needs("delv", "bind9-dnsutils"))
            .args([&at, "-p", &port, "-a"])
            .arg(&file)
            .args(["+root=example.com", name, qtype])
            .stdin(Stdio::null())
            .output()
            .expect("running delv");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            text.contains(verdict),
            "{name} {qtype}: {text}\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

/// What ldns-testns says: cut over UDP and whole over TCP, a failure, a type of nobody, and 30 addresses at once.
const SCRIPT: &str = "\
ENTRY_BEGIN\nMATCH opcode qtype qname UDP\nADJUST copy_id copy_query\nREPLY QR RD RA TC NOERROR\nSECTION QUESTION\n\
cut.example.com. IN A\nENTRY_END\n\
ENTRY_BEGIN\nMATCH opcode qtype qname TCP\nADJUST copy_id copy_query\nREPLY QR RD RA NOERROR\nSECTION QUESTION\n\
cut.example.com. IN A\nSECTION ANSWER\ncut.example.com. 300 IN A 192.0.2.1\ncut.example.com. 300 IN A 192.0.2.2\n\
ENTRY_END\n\
ENTRY_BEGIN\nMATCH opcode qtype qname\nADJUST copy_id copy_query\nREPLY QR RD RA SERVFAIL\nSECTION QUESTION\n\
fails.example.com. IN A\nENTRY_END\n\
ENTRY_BEGIN\nMATCH opcode qtype qname\nADJUST copy_id copy_query\nREPLY QR RD RA NOERROR\nSECTION QUESTION\n\
odd.example.com. IN TYPE65280\nSECTION ANSWER\nodd.example.com. 300 IN TYPE65280 \\# 4 c00c0102\nENTRY_END\n\
ENTRY_BEGIN\nMATCH opcode qtype qname\nADJUST copy_id copy_query\nREPLY QR RD RA AD NOERROR\nSECTION QUESTION\n\
valid.example.com. IN A\nSECTION ANSWER\nvalid.example.com. 300 IN A 192.0.2.3\nENTRY_END\n";

/// The flags that dig shows.
fn flags(text: &str) -> String {
    text.split(";; flags: ").nth(1).and_then(|rest| rest.split(';').next()).unwrap_or_default().to_owned()
}

#[test]
fn a_scripted_upstream_is_understood() {
    let testns = needs("ldns-testns", "ldnsutils");
    let [port] = free_ports::<1>();
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("script"), SCRIPT).expect("writing the script");
    let words = ["-p", &port.to_string(), "script"].map(str::to_owned);
    let mut upstream = Program::start(&testns, directory, &words);
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    eventually("its first answer", DEADLINE, || {
        upstream.must_run();
        (said(address, &["odd.example.com", "TYPE65280"]).0 == "NOERROR").then_some(())
    });
    let server = Server::start(&["--forward", &address.to_string()]);
    let short = |words: &[&str]| -> BTreeSet<String> {
        dig(server.dns[0], &[words, &["+short"]].concat()).lines().map(str::to_owned).collect()
    };
    assert_eq!(short(&["cut.example.com", "A"]), ["192.0.2.1", "192.0.2.2"].map(str::to_owned).into()); // F-03
    assert_eq!(short(&["odd.example.com", "TYPE65280"]), ["\\# 4 C00C0102".to_owned()].into()); // F-07
    let text = dig(server.dns[0], &["fails.example.com", "A"]); // F-04
    assert!(text.contains("status: SERVFAIL") && text.contains("answered rcode 2"), "{text}");
    let flags = |words: &[&str]| flags(&dig(server.dns[0], words));
    assert_eq!(flags(&["valid.example.com", "+noadflag"]), "qr rd ra"); // F-05
    assert_eq!(flags(&["valid.example.com", "+adflag"]), "qr rd ra ad");
    assert_eq!(flags(&["valid.example.com", "+noadflag", "+dnssec"]), "qr rd ra ad");
    assert_eq!(flags(&["valid.example.com", "+norecurse"]), "qr ra"); // F-02
}

#[test]
fn ad_of_another_machine_is_believed_where_we_are_told_so() {
    // F-05. An upstream on every address of a machine: on loopback it is ours, at the end of a wire it may be anybody.
    let flags = |upstream: &str, more: &[&str]| {
        let machine =
            Machine::start("127.0.0.1", &[&["--dns", "127.0.0.1:53", "--forward", upstream], more].concat());
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join("script"), SCRIPT).expect("writing the script");
        let mut words = namespaces::within(machine.server.pid());
        words.push(needs("ldns-testns", "ldnsutils").display().to_string());
        words.extend(
            ["-p", "5301", &directory.path().join("script").display().to_string()].map(str::to_owned),
        );
        let _upstream = Program::start(Path::new(&words[0]), directory, &words[1..]);
        let dig = needs("dig", "bind9-dnsutils");
        eventually("the upstream's answer", DEADLINE, || {
            let text = machine.run(&dig, &["@127.0.0.1", "+noadflag", "+dnssec", "valid.example.com", "A"]);
            text.contains("192.0.2.3").then(|| flags(&text))
        })
    };
    assert_eq!(flags("127.0.0.1:5301", &[]), "qr rd ra ad");
    assert_eq!(flags("192.0.2.1:5301", &[]), "qr rd ra");
    assert_eq!(flags("192.0.2.1:5301", &["--forward-trust-ad"]), "qr rd ra ad");
}

/// A server on port 53 of its own namespaces, the only one in /etc/resolv.conf, and two of Knot behind it.
struct Net {
    server: Server,
    files: TempDir,
    _upstreams: [Program; 2],
}

impl Net {
    fn new() -> Self {
        Self::behind("nameserver 127.0.0.9\n")
    }

    /// With these name servers behind the system's stub.
    fn behind(servers: &str) -> Self {
        let files = namespaces::resolver_files();
        let file = |name: &str, text: &str| fs::write(files.path().join(name), text).expect("writing a file");
        fs::create_dir(files.path().join("resolve")).expect("making a folder");
        file("resolve/resolv.conf", servers);
        let script = format!(
            "ip link set lo up && {MOUNT_RESOLVER_FILES}; mount -t tmpfs tmpfs /run && \
             mkdir -p /run/systemd/resolve && mount --bind \"$0/resolve\" /run/systemd/resolve && exec \"$@\""
        );
        let before = namespaces::unshared(&script, files.path());
        let before: Vec<&str> = before.iter().map(String::as_str).collect();
        let server = Server::start_under(&before, &["--dns", "127.0.0.1:53", "--forward", "system"]);
        let inside = namespaces::within(server.pid());
        let upstreams = [("127.0.0.9@53", "192.0.2.80"), ("127.0.0.10@53", "192.0.2.81")];
        let upstreams = upstreams.map(|(listen, www)| knot(&inside, listen, www));
        let net = Self { server, files, _upstreams: upstreams };
        for at in ["127.0.0.9", "127.0.0.10"] {
            eventually("Knot's first answer", DEADLINE, || {
                let found = net
                    .run(&needs("dig", "bind9-dnsutils"), &[&format!("@{at}"), "+short", "www.example.com"]);
                found.starts_with("192.0.2.8").then_some(())
            });
        }
        let registration = json!({"service": "web", "address": "10.0.0.1", "port": 80, "lease": "none"});
        net.server.client().done("registered", &json!({"register": registration}));
        net
    }

    /// What a program prints in there, whatever it thinks of it.
    fn run(&self, program: &Path, words: &[&str]) -> String {
        let mut command = namespaces::inside(self.server.pid(), program);
        let output = command.args(words).output().expect("running nsenter");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The lines of the lookup program about one word, as its resolver sees it.
    fn lookup(&self, program: &Path, word: &str) -> BTreeSet<String> {
        let text = self.run(program, &[word]);
        text.lines().filter(|line| line.contains("short")).map(str::to_owned).collect()
    }
}

/// `tests/clients/lookup.c`, for this libc.
fn compiled(directory: &TempDir, compiler: PathBuf, flags: &[&str]) -> PathBuf {
    let program = directory.path().join("lookup");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/lookup.c");
    let output = Command::new(&compiler).arg("-o").arg(&program).arg(source).args(flags).output();
    let output = output.expect("running a compiler");
    assert!(output.status.success(), "{compiler:?}: {}", String::from_utf8_lossy(&output.stderr));
    program
}

/// As the one name server of /etc/resolv.conf: what is registered, what is elsewhere, what is nowhere.
fn resolves_everything(program: &Path) {
    let net = Net::new();
    let lines = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<BTreeSet<String>>();
    assert_eq!(net.lookup(program, "web"), lines(&["short 10.0.0.1"]));
    let www = lines(&["short 192.0.2.80", "short 2001:db8::80"]);
    assert_eq!(net.lookup(program, "www.example.com"), www);
    assert_eq!(net.lookup(program, "alias.example.com"), www);
    // EAI_NONAME of <netdb.h>, at once, and not EAI_AGAIN after five seconds.
    assert_eq!(net.lookup(program, "nope.example.com"), lines(&["error short -2"]));
    assert_eq!(net.lookup(program, "printer.local"), lines(&["error short -2"]));
    // F-12: the machine's servers change, and so does who is asked; what was kept of the others is forgotten.
    fs::write(net.files.path().join("resolve/resolv.conf"), "nameserver 127.0.0.10\n")
        .expect("writing a file");
    let changed = lines(&["short 192.0.2.81", "short 2001:db8::80"]);
    eventually("the other server's answer", DEADLINE, || {
        (net.lookup(program, "www.example.com") == changed).then_some(())
    });
    // And none at all is no reason to forget the last one.
    fs::write(net.files.path().join("resolve/resolv.conf"), "# nobody\n").expect("writing a file");
    eventually("a word about it", DEADLINE, || {
        net.server.stderr().contains("those from before are asked on").then_some(())
    });
    assert_eq!(net.lookup(program, "www.example.com"), changed);
}

#[test]
fn glibc_has_one_name_server() {
    let built = tempfile::tempdir().expect("a directory");
    resolves_everything(&compiled(&built, needs("gcc", "gcc"), &["-lresolv"]));
}

#[test]
fn musl_has_one_name_server() {
    let built = tempfile::tempdir().expect("a directory");
    resolves_everything(&compiled(&built, needs("musl-gcc", "musl-tools"), &["-static"]));
}

/// At a boot the network may come up behind us.
#[test]
fn the_one_name_server_may_be_up_before_there_is_another() {
    let net = Net::behind("# nobody yet\n");
    let dig = needs("dig", "bind9-dnsutils");
    let status = |name: &str| {
        let text = net.run(&dig, &["@127.0.0.1", name]);
        text.split("status: ").nth(1).and_then(|rest| rest.split(',').next()).map(str::to_owned)
    };
    assert!(net.server.stderr().contains("nobody to forward to yet"), "{}", net.server.stderr());
    assert_eq!(status("web.service.local").as_deref(), Some("NOERROR"));
    assert_eq!(status("www.example.com").as_deref(), Some("SERVFAIL"));
    fs::write(net.files.path().join("resolve/resolv.conf"), "nameserver 127.0.0.9\n")
        .expect("writing a file");
    eventually("an answer from elsewhere", DEADLINE, || {
        (status("www.example.com").as_deref() == Some("NOERROR")).then_some(())
    });
}
