//! Real programs resolve what is registered: dig, kdig, drill, glibc, musl, Go, Node, Java, Python, HAProxy.
//!
//! Needs: bind9-dnsutils knot-dnsutils ldnsutils gcc musl-tools golang-go nodejs openjdk-17-jdk-headless
//! python3-dnspython haproxy netcat-openbsd iproute2 util-linux curl
//!
//! Each program runs as its users run it: on /etc/resolv.conf and port 53. So server and program share a
//! network namespace with nothing in it but loopback, and a mount namespace with a resolv.conf of its own; the
//! machine's is never touched. Services have one, three and 120 instances: the last does not fit a
//! datagram, so the program asks again over TCP, or, like musl 1.2.3, uses the part that it got.
//!
//! A program that is missing is a failure that names its package; `./check` installs them all.

#[path = "clients/alias.rs"]
mod alias;
#[path = "clients/browse.rs"]
mod browse;
#[path = "clients/edns.rs"]
mod edns;
mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use harness::namespaces::{self, MOUNT_RESOLVER_FILES};
use harness::{DEADLINE, Server, eventually, srv};

/// Services and how many instances each has.
const SERVICES: [(&str, usize); 3] = [("one", 1), ("few", 3), ("big", 120)];
/// Registered, and in no answer: what is asked for exists and has no record.
const DRAINED: &str = "drained";
/// Never heard of.
const UNKNOWN: &str = "unknown";
/// Answers of a plain datagram: 512 octets less the header, the question `big.service.local A`, in records
/// of 16 octets.
const A_IN_PLAIN_DATAGRAM: usize = (512 - 12 - 23) / 16;

/// A server on port 53 of its own namespaces, with every service registered.
struct Net {
    server: Server,
    _files: TempDir,
}

impl Net {
    fn new() -> Self {
        Self::with("true", &[])
    }

    /// A server with these flags besides, started after a command of the shell.
    fn with(command: &str, flags: &[&str]) -> Self {
        let files = namespaces::resolver_files();
        let script = format!("ip link set lo up && {command} && {MOUNT_RESOLVER_FILES}; exec \"$@\"");
        let before = namespaces::unshared(&script, files.path());
        let before: Vec<&str> = before.iter().map(String::as_str).collect();
        let flags = [&["--dns", "127.0.0.1:53", "--consul-domain", "consul"], flags].concat();
        let server = Server::start_under(&before, &flags);
        let net = Self { server, _files: files };
        net.register();
        net
    }

    fn register(&self) {
        let mut client = self.server.client();
        for (service, count) in SERVICES {
            for number in 1..=count {
                client.done("registered", &json!({"register": registration(service, number)}));
            }
        }
        client.done("registered", &json!({"register": registration(DRAINED, 1)}));
        client.done("draining", &json!({"drain": {"service": DRAINED, "id": id(DRAINED, 1)}}));
    }

    /// `program`, to be started in there.
    fn inside(&self, program: &Path) -> Command {
        namespaces::inside(self.server.pid(), program)
    }

    /// What `program` prints in there; it has to succeed.
    fn run(&self, program: &Path, words: &[&str]) -> String {
        namespaces::run(self.server.pid(), program, words)
    }

    /// What the program from `tests/clients` says of each service.
    fn findings(&self, program: &Path, before: &[&str]) -> BTreeMap<String, Findings> {
        let mut words = before.to_vec();
        words.extend(SERVICES.map(|(service, _)| service));
        words.extend([DRAINED, UNKNOWN]);
        let text = self.run(program, &words);
        let mut findings: BTreeMap<String, Findings> = BTreeMap::new();
        let mut service = String::new();
        for line in text.lines() {
            let (word, rest) =
                line.split_once(' ').unwrap_or_else(|| panic!("a line of {program:?}: {line}"));
            let rest = rest.trim();
            match word {
                "service" => rest.clone_into(&mut service),
                "error" => drop(findings.entry(service.clone()).or_default().errors.insert(rest.to_owned())),
                word => {
                    let found = findings.entry(service.clone()).or_default();
                    let new = found.lines.entry(word.to_owned()).or_default().insert(canonical(word, rest));
                    assert!(new, "{program:?} has {line} twice for {service}");
                }
            }
        }
        findings
    }
}

/// What a program saw of one service: its lines by their first word.
#[derive(Debug, Default)]
struct Findings {
    lines: BTreeMap<String, BTreeSet<String>>,
    errors: BTreeSet<String>,
}

impl Findings {
    fn of(&self, word: &str) -> BTreeSet<String> {
        self.lines.get(word).cloned().unwrap_or_default()
    }
}

fn id(service: &str, number: usize) -> String {
    format!("{service}-{number}")
}

fn v4(service: &str, number: usize) -> String {
    format!("10.{}.0.{number}", service.len())
}

/// `few` has addresses of both families, the others of one: their AAAA is "no such record".
fn v6(service: &str, number: usize) -> Option<String> {
    (service == "few").then(|| format!("fd00::{number:x}"))
}

fn registration(service: &str, number: usize) -> Value {
    let mut address = vec![v4(service, number)];
    address.extend(v6(service, number));
    json!({
        "service": service, "id": id(service, number), "address": address, "port": 8000 + number,
        "weight": 1 + number % 3, "lease": "none",
    })
}

/// The SRV records of a service, in the words that every program is brought to.
fn all_srv(service: &str, count: usize) -> BTreeSet<String> {
    let record = |number: usize| {
        format!("0 {} {} {}.{service}.service.local", 1 + number % 3, 8000 + number, id(service, number))
    };
    (1..=count).map(record).collect()
}

fn all_v4(service: &str, count: usize) -> BTreeSet<String> {
    (1..=count).map(|number| v4(service, number)).collect()
}

fn all_v6(service: &str, count: usize) -> BTreeSet<String> {
    (1..=count).filter_map(|number| v6(service, number)).collect()
}

fn all_addresses(service: &str, count: usize) -> BTreeSet<String> {
    all_v4(service, count).union(&all_v6(service, count)).cloned().collect()
}

/// Programs differ in the final dot of a name and in how they write an IPv6 address.
fn canonical(word: &str, text: &str) -> String {
    match (word, text.parse::<IpAddr>()) {
        (_, Ok(address)) => address.to_string(),
        _ => text.trim_end_matches('.').to_owned(),
    }
}

/// Asserts that `word` lines are these for the services of `SERVICES`.
fn sees(findings: &BTreeMap<String, Findings>, word: &str, all: impl Fn(&str, usize) -> BTreeSet<String>) {
    for (service, count) in SERVICES {
        assert_eq!(findings[service].of(word), all(service, count), "{word} of {service}");
    }
}

/// Asserts what the program says of a service without live instances, and of none.
fn complains(findings: &BTreeMap<String, Findings>, drained: &[&str], unknown: &[&str]) {
    for (service, errors) in [(DRAINED, drained), (UNKNOWN, unknown)] {
        let expected: BTreeSet<String> = errors.iter().map(|error| (*error).to_owned()).collect();
        assert_eq!(findings[service].errors, expected, "errors of {service}");
        assert!(findings[service].lines.is_empty(), "{service}: {:?}", findings[service]);
    }
    for (service, _) in SERVICES {
        let errors = findings[service].errors.iter().filter(|error| {
            // One family alone is no error of the name, and the programs that ask for each say so.
            !error.starts_with("address6") || service == "few"
        });
        assert_eq!(errors.count(), 0, "{service}: {:?}", findings[service].errors);
    }
}

/// The path of a program that has to be here.
fn needs(program: &str, package: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(program)).find(|path| path.is_file());
    found.unwrap_or_else(|| {
        panic!("`{program}` is not here: install Debian's package {package}; ./check installs all that the tests need")
    })
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

/// Runs a compiler, which has to succeed.
fn compile(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().expect("running a compiler");
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
}

// -- programs that ask what they are told to ----------------------------------------------------------------------

/// `ask` gives the words of a query; the answers of the program are one record a line.
fn asks(program: &Path, ask: impl Fn(&str, &str) -> Vec<String>, read: impl Fn(&str) -> Option<String>) {
    let net = Net::new();
    let answers = |name: &str, qtype: &str| -> BTreeSet<String> {
        let words = ask(name, qtype);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let text = net.run(program, &words);
        text.lines().filter_map(&read).map(|line| canonical("", &line)).collect()
    };
    for (service, count) in SERVICES {
        let name = format!("{service}.service.local");
        assert_eq!(answers(&srv(service), "SRV"), all_srv(service, count));
        assert_eq!(answers(&name, "SRV"), all_srv(service, count));
        assert_eq!(answers(&name, "A"), all_v4(service, count));
        assert_eq!(answers(&name, "AAAA"), all_v6(service, count));
    }
    for service in [DRAINED, UNKNOWN] {
        assert_eq!(answers(&srv(service), "SRV"), BTreeSet::new());
        assert_eq!(answers(&format!("{service}.service.local"), "A"), BTreeSet::new());
    }
}

fn text_line(line: &str) -> Option<String> {
    (!line.is_empty() && !line.starts_with(';')).then(|| line.to_owned())
}

#[test]
fn dig_resolves() {
    let words = |name: &str, qtype: &str| {
        ["+short", "+tries=1", "+timeout=10", name, qtype].map(str::to_owned).to_vec()
    };
    asks(&needs("dig", "bind9-dnsutils"), words, text_line);
}

#[test]
fn kdig_resolves() {
    let words = |name: &str, qtype: &str| {
        ["+short", "+retry=0", "+timeout=10", name, qtype].map(str::to_owned).to_vec()
    };
    asks(&needs("kdig", "knot-dnsutils"), words, text_line);
}

#[test]
fn drill_resolves() {
    // drill takes what came, unless -a lets it ask again over TCP.
    let words = |name: &str, qtype: &str| ["-a", "-Q", name, qtype].map(str::to_owned).to_vec();
    asks(&needs("drill", "ldnsutils"), words, text_line);
}

// -- languages ----------------------------------------------------------------------------------------------------

#[test]
fn glibc_resolves() {
    let built = tempfile::tempdir().expect("a directory");
    let program = built.path().join("lookup");
    compile(
        Command::new(needs("gcc", "gcc")).arg("-o").arg(&program).arg(source("lookup.c")).arg("-lresolv"),
    );
    let findings = Net::new().findings(&program, &[]);
    sees(&findings, "srv", all_srv);
    sees(&findings, "address", all_addresses);
    sees(&findings, "short", all_addresses);
    // EAI_NODATA, EAI_NONAME; NO_DATA, HOST_NOT_FOUND of <netdb.h>. Where the search finds nothing, glibc
    // asks for the bare name, which is in no zone of ours: EAI_AGAIN, because it was refused.
    complains(&findings, &["address -5", "short -5", "srv 4"], &["address -2", "short -3", "srv 1"]);
}

#[test]
fn musl_resolves_and_uses_the_part_of_a_large_answer_that_it_got() {
    let built = tempfile::tempdir().expect("a directory");
    let program = built.path().join("lookup");
    let compiler = needs("musl-gcc", "musl-tools");
    compile(Command::new(compiler).arg("-static").arg("-o").arg(&program).arg(source("lookup.c")));
    let net = Net::new();
    let mut findings = net.findings(&program, &[]);
    // musl 1.2.3 has no TCP: its 120 instances are those of a plain datagram, the same ones each time.
    let datagram = |qtype: &str| -> BTreeSet<String> {
        let dig = needs("dig", "bind9-dnsutils");
        let name = if qtype == "A" { "big.service.local".to_owned() } else { srv("big") };
        let text = net.run(&dig, &["+short", "+ignore", "+noedns", "+nocookie", "+tries=1", &name, qtype]);
        text.lines().filter_map(text_line).map(|line| canonical("", &line)).collect()
    };
    let big = findings.remove("big").expect("it was asked for");
    assert_eq!(big.of("address"), datagram("A"));
    assert_eq!(big.of("address").len(), A_IN_PLAIN_DATAGRAM);
    assert_eq!(big.of("short"), big.of("address"));
    assert!(big.of("address").is_subset(&all_v4("big", 120)));
    assert_eq!(big.of("srv"), datagram("SRV"));
    assert!(big.of("srv").is_subset(&all_srv("big", 120)));
    assert!(big.of("srv").len() > 5, "{big:?}");
    for (service, count) in SERVICES.into_iter().filter(|(service, _)| *service != "big") {
        assert_eq!(findings[service].of("srv"), all_srv(service, count));
        assert_eq!(findings[service].of("address"), all_addresses(service, count));
        assert_eq!(findings[service].of("short"), all_addresses(service, count));
    }
    // EAI_NODATA or EAI_NONAME is told apart by 1.2.4; here both are EAI_NONAME. musl's res_query sets no
    // h_errno, and an answer without records is an answer.
    assert!(findings[DRAINED].lines.is_empty() && findings[UNKNOWN].lines.is_empty(), "{findings:?}");
    assert!(findings[UNKNOWN].errors.contains("address -2"), "{findings:?}");
    assert!(findings[DRAINED].errors.contains("address -2"), "{findings:?}");
}

#[test]
fn go_resolves() {
    let go = needs("go", "golang-go");
    let built = tempfile::tempdir().expect("a directory");
    let program = built.path().join("lookup");
    // The standard library alone: no module, no proxy, no other toolchain.
    let offline = [
        ("CGO_ENABLED", "0"),
        ("GO111MODULE", "off"),
        ("GOFLAGS", ""),
        ("GOPROXY", "off"),
        ("GOTOOLCHAIN", "local"),
    ];
    let mut build = Command::new(go);
    build.envs(offline).env("GOCACHE", cache("go")).env("GOPATH", built.path().join("path"));
    compile(build.arg("build").arg("-o").arg(&program).arg(source("lookup.go")));
    let findings = Net::new().findings(&program, &[]);
    sees(&findings, "srv", all_srv);
    sees(&findings, "address", all_addresses);
    // Go has one error for both.
    let none = ["address notfound=true no such host", "srv notfound=true no such host"];
    complains(&findings, &none, &none);
}

/// What a compiler keeps for the next run, where cargo keeps its own.
fn cache(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

#[test]
fn node_resolves() {
    let script = source("lookup.mjs").display().to_string();
    let findings = Net::new().findings(&needs("node", "nodejs"), &[&script]);
    sees(&findings, "srv", all_srv);
    sees(&findings, "address", all_v4);
    sees(&findings, "address6", all_v6);
    sees(&findings, "lookup", all_addresses);
    complains(
        &findings,
        &["address ENODATA", "address6 ENODATA", "lookup ENOTFOUND", "srv ENODATA"],
        &["address ENOTFOUND", "address6 ENOTFOUND", "lookup ENOTFOUND", "srv ENOTFOUND"],
    );
}

#[test]
fn java_resolves() {
    // `java FILE.java` compiles as it starts, which takes the compiler of the JDK.
    needs("javac", "openjdk-17-jdk-headless");
    let script = source("Lookup.java").display().to_string();
    let findings = Net::new().findings(&needs("java", "openjdk-17-jdk-headless"), &[&script]);
    sees(&findings, "srv", all_srv);
    sees(&findings, "address", all_v4);
    sees(&findings, "address6", all_v6);
    sees(&findings, "lookup", all_addresses);
    complains(
        &findings,
        &["address none", "address6 none", "lookup UnknownHostException", "srv none"],
        &[
            "address NameNotFoundException",
            "address6 NameNotFoundException",
            "lookup UnknownHostException",
            "srv NameNotFoundException",
        ],
    );
}

#[test]
fn python_resolves() {
    let script = source("lookup.py").display().to_string();
    let findings = Net::new().findings(&python(), &[&script]);
    sees(&findings, "srv", all_srv);
    sees(&findings, "address", all_v4);
    sees(&findings, "address6", all_v6);
    sees(&findings, "lookup", all_addresses);
    complains(
        &findings,
        &["address NoAnswer", "address6 NoAnswer", "lookup gaierror -5", "srv NoAnswer"],
        &["address NXDOMAIN", "address6 NXDOMAIN", "lookup gaierror -2", "srv NXDOMAIN"],
    );
}

/// The first Python that has dnspython; `CALLSIGN_PYTHON` decides where it is set.
fn python() -> PathBuf {
    let has = |python: &PathBuf| {
        let imported =
            Command::new(python).args(["-c", "import dns.resolver"]).stderr(Stdio::null()).status();
        imported.is_ok_and(|status| status.success())
    };
    let candidates: Vec<PathBuf> = match std::env::var_os("CALLSIGN_PYTHON") {
        Some(python) => vec![python.into()],
        None => vec!["python3".into(), "/usr/bin/python3".into()],
    };
    let found = candidates.iter().find(|python| has(python));
    found.cloned().unwrap_or_else(|| {
        panic!(
            "none of {candidates:?} can `import dns.resolver`: install Debian's package python3-dnspython \
             (./check does), or name another Python in CALLSIGN_PYTHON"
        )
    })
}

// -- the registration socket from a shell -------------------------------------------------------------------------

#[test]
fn a_line_of_shell_registers() {
    needs("nc", "netcat-openbsd");
    let server = Server::start(&[]);
    let line = r#"{"register":{"service":"db","address":"10.0.0.7","port":5432,"lease":"15s"}}"#;
    let script = format!("printf '{line}\\n' | nc -N -U \"$0\"");
    let output = Command::new("sh").args(["-c", &script]).arg(&server.socket).output().expect("running sh");
    let reply: Value = serde_json::from_slice(&output.stdout).expect("one reply, and nothing else");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(reply["registered"]["service"], "db");
    assert_eq!(reply["registered"]["address"], json!(["10.0.0.7"]));
    let found = server.resolver().udp(&srv("db"), hickory_proto::rr::RecordType::SRV);
    assert_eq!(harness::dns::ports(&found).into_values().collect::<Vec<_>>(), [5432]);
}

#[test]
fn what_a_killed_program_held_leaves() {
    needs("nc", "netcat-openbsd");
    let server = Server::start(&[]);
    let mut holder = Command::new("nc")
        .arg("-U")
        .arg(&server.socket)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starting nc");
    let line = json!({"register": {"service": "web", "id": "held", "address": "10.0.0.7", "port": 80,
                                   "lease": "connection"}});
    let mut stdin = holder.stdin.take().expect("a pipe");
    writeln!(stdin, "{line}").expect("writing to nc");
    let mut first = [0; 16];
    holder.stdout.as_mut().expect("a pipe").read_exact(&mut first).expect("a reply");
    assert!(first.starts_with(br#"{"registered":"#), "{}", String::from_utf8_lossy(&first));
    let mut resolver = server.resolver();
    let mut ports =
        move || harness::dns::ports(&resolver.udp(&srv("web"), hickory_proto::rr::RecordType::SRV));
    assert_eq!(ports().len(), 1);
    holder.kill().expect("SIGKILL to our own child");
    holder.wait().expect("waiting for our own child");
    eventually("the end of what the killed program held", DEADLINE, || ports().is_empty().then_some(()));
}
