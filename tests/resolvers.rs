//! Resolvers in front of us, set up with exactly what `callsign setup` prints, and programs behind them.
//!
//! Needs: unpacked, bind9-dnsutils, gcc, musl-tools, golang-go, nodejs, openjdk-17-jdk-headless, iproute2, util-linux
//!
//! Each machine has namespaces of its own: callsign on 127.0.0.1:5300, the resolver on port 53 in front of it, and a
//! resolv.conf that names the resolver. What is asked for has one, ten and 120 instances: the last is more than a
//! datagram holds, so TCP goes all the way. Before `setup`, `callsign doctor` has to say what is missing; after it,
//! that nothing is.
//!
//! The resolvers are Debian's, unpacked below target/unpacked by tests/unpacked/unpack (`./check` does it) and never
//! installed.

mod harness;
#[path = "resolvers/programs.rs"]
mod programs;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};

use serde_json::json;

use harness::machine::Machine;
use harness::program::needs;
use harness::{DEADLINE, eventually};
use programs::{Findings, Programs};

/// Services and how many instances each has.
const SERVICES: [(&str, usize); 3] = [("one", 1), ("ten", 10), ("big", 120)];
/// Never heard of.
const UNKNOWN: &str = "unknown";

fn unpacked(path: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/unpacked/root");
    let path = root.join(path);
    assert!(path.exists(), "{} is not there: tests/unpacked/unpack", path.display());
    path
}

/// Where the unpacked programs find their libraries, and glibc the modules of nss-mdns.
fn libraries() -> String {
    let mut folders = Vec::new();
    for above in ["usr/lib", "lib"] {
        for entry in fs::read_dir(unpacked(above)).expect("a folder of libraries").flatten() {
            if entry.file_name().to_string_lossy().ends_with("-linux-gnu") {
                folders.extend([entry.path(), entry.path().join("systemd")]);
            }
        }
    }
    folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(":")
}

fn id(service: &str, number: usize) -> String {
    format!("{service}-{number}")
}

fn v4(service: &str, number: usize) -> String {
    format!("10.{}.0.{number}", service.len())
}

fn all_v4(service: &str, count: usize) -> BTreeSet<String> {
    (1..=count).map(|number| v4(service, number)).collect()
}

fn all_srv(service: &str, count: usize) -> BTreeSet<String> {
    let record =
        |number: usize| format!("0 1 {} {}.{service}.service.local", 8000 + number, id(service, number));
    (1..=count).map(record).collect()
}

/// callsign as it is without a word, but for IPv6, on a machine that asks `nameserver`.
fn machine(nameserver: &str) -> Machine {
    let machine = Machine::start(nameserver, &["--dns", "127.0.0.1:5300"]);
    let mut client = machine.server.client();
    for (service, count) in SERVICES {
        for number in 1..=count {
            let form = json!({"service": service, "id": id(service, number), "address": v4(service, number),
                              "port": 8000 + number, "lease": "none"});
            client.done("registered", &json!({"register": form}));
        }
    }
    machine
}

/// A resolver in a machine, ended by its pid with this.
struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts it, and waits until it answers for the zone, or at all where it is not told of it yet.
    fn start(machine: &Machine, program: &Path, words: &[&str], at: &str, knows: bool) -> Self {
        let log = machine.server.directory().join(format!("{at}.log"));
        let file = fs::File::create(&log).expect("a file for its log");
        let mut command = machine.inside(program);
        let other = file.try_clone().expect("another descriptor");
        command.args(words).env("LD_LIBRARY_PATH", libraries()).stdout(Stdio::from(file)).stderr(other);
        let mut daemon = Self { child: command.spawn().expect("running nsenter"), log };
        let dig = needs("dig", "bind9-dnsutils");
        let server = format!("@{at}");
        let question = [&server, "service.local", "SOA", "+tries=1", "+timeout=5"];
        eventually("the resolver's first answer", DEADLINE, || {
            let ended = daemon.child.try_wait().expect("waiting for our own child");
            assert!(ended.is_none(), "{program:?} ended: {ended:?}\n{}", daemon.log());
            let text = machine.output(&dig, &question);
            let text = String::from_utf8_lossy(&text.stdout).into_owned();
            let answered = if knows { text.contains("status: NOERROR") } else { text.contains("status: ") };
            answered.then_some(())
        });
        daemon
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(30).collect();
            tail.iter().rev().for_each(|line| eprintln!("    {line}"));
        }
    }
}

/// A resolver, and how it is started once its configuration is there.
struct Kind {
    /// As `callsign setup` calls it.
    word: &'static str,
    program: &'static str,
    /// Where it listens.
    at: &'static str,
    words: Vec<String>,
    /// The folder of its drop-ins, which is made anew.
    own: &'static str,
    /// Files of the machine's /etc that its package would have put there; none of them is from `setup`.
    etc: Vec<(&'static str, String)>,
    /// Folders that its package makes, in which `setup` puts something.
    folders: Vec<&'static str>,
    /// What an administrator does by hand, as the steps of `setup` say.
    by_hand: Vec<(&'static str, String)>,
}

/// What the doctor says: its verdict, and every command that it advises.
fn doctor(machine: &Machine) -> (Option<i32>, String) {
    let ended = machine.callsign(&["doctor", "-o", "json"]);
    (ended.code, ended.stdout)
}

/// `setup --write`, which writes what `setup` prints.
fn set_up(machine: &Machine, kind: &Kind) {
    let printed = machine.callsign(&["setup", kind.word]);
    let written = machine.callsign(&["setup", kind.word, "--write"]);
    assert_eq!((printed.code, written.code), (Some(0), Some(0)), "{written:?}");
    let files: Vec<&str> =
        written.stderr.lines().filter_map(|line| line.strip_prefix("callsign: writing ")).collect();
    assert!(!files.is_empty(), "{written:?}");
    for file in files {
        let text =
            fs::read_to_string(machine.etc(file.trim_start_matches("/etc/"))).expect("what was written");
        assert!(printed.stdout.contains(&text), "{file} is what setup prints");
    }
}

/// The machine before and after `setup`, and what programs see then.
fn stands_in_front(kind: &Kind, check: impl Fn(&Machine, &Daemon)) {
    let machine = machine(kind.at);
    // Not as it is on the machine that runs the test, where it may be installed.
    drop(fs::remove_dir_all(machine.etc(kind.own)));
    for folder in &kind.folders {
        fs::create_dir_all(machine.etc(folder)).expect("a folder in the copy of /etc");
    }
    for (name, text) in &kind.etc {
        machine.write(name, text);
    }
    let words: Vec<&str> = kind.words.iter().map(String::as_str).collect();
    let start = |knows| Daemon::start(&machine, &unpacked(kind.program), &words, kind.at, knows);
    let before = start(false);
    let (code, report) = doctor(&machine);
    assert_eq!(code, Some(1), "{} without setup: {report}", kind.word);
    assert!(report.contains(&format!("callsign setup {} --write", kind.word)), "{report}");
    drop(before);

    set_up(&machine, kind);
    for (name, text) in &kind.by_hand {
        machine.write(name, text);
    }
    let daemon = start(true);
    let (code, report) = doctor(&machine);
    assert_eq!(code, Some(0), "{} with setup: {report}", kind.word);

    let programs = Programs::built();
    for (name, findings) in
        programs.all(&machine, &[SERVICES.map(|(service, _)| service).as_slice(), &[UNKNOWN]].concat())
    {
        for (service, count) in SERVICES {
            programs::sees(kind.word, &name, &findings[service], service, count);
        }
        let Findings { lines, errors } = &findings[UNKNOWN];
        assert!(lines.is_empty() && !errors.is_empty(), "{name}: {UNKNOWN}: {lines:?} {errors:?}");
    }
    // What is registered later is found, though its name was asked for before.
    let late =
        json!({"service": "unknown", "id": "late", "address": "10.99.0.1", "port": 80, "lease": "none"});
    machine.server.client().done("registered", &json!({"register": late}));
    let dig = needs("dig", "bind9-dnsutils");
    eventually("the late registration behind a negative answer", DEADLINE, || {
        let text = machine.run(&dig, &["+short", "+tries=1", "unknown.service.local", "A"]);
        (text.trim() == "10.99.0.1").then_some(())
    });
    check(&machine, &daemon);
}

fn tool(machine: &Machine, words: &[&str]) -> String {
    machine.run(&needs("dig", "bind9-dnsutils"), words)
}

/// A word for whoever reads the failure: the reply's status.
fn status(machine: &Machine, words: &[&str]) -> String {
    let text = tool(machine, words);
    let at = text.find("status: ").map(|at| &text[at + 8..]).unwrap_or_default();
    at.split(',').next().unwrap_or_default().to_owned()
}

// -- the resolvers ------------------------------------------------------------------------------------------------

/// With everything on that could stand in our way: 0x20, validation from the root, filters of private addresses.
#[test]
fn unbound() {
    let main = "server:\n    interface: 127.0.0.1\n    port: 53\n    do-daemonize: no\n    username: \"\"\n    chroot: \"\"\n    \
                directory: \"/run\"\n    pidfile: \"\"\n    use-syslog: no\n    verbosity: 2\n    use-caps-for-id: yes\n    \
                qname-minimisation: yes\n    private-address: 10.0.0.0/8\n    private-address: 127.0.0.0/8\n    \
                trust-anchor: \". DS 20326 8 2 E06D44B80B8F1D39A95C0B0D7C65D08458E880409BBC683457104237C7F8EC8D\"\n\
                remote-control:\n    control-enable: no\n\
                include-toplevel: \"/etc/unbound/unbound.conf.d/*.conf\"\n";
    let kind = Kind {
        word: "unbound",
        own: "unbound",
        program: "usr/sbin/unbound",
        at: "127.0.0.1",
        words: ["-d", "-c", "/etc/unbound/unbound.conf"].map(str::to_owned).to_vec(),
        etc: vec![("unbound/unbound.conf", main.to_owned())],
        folders: vec!["unbound/unbound.conf.d"],
        by_hand: vec![],
    };
    stands_in_front(&kind, |machine, daemon| {
        // 0x20: the case of its questions came back octet for octet, so it never had to ask without.
        let log = daemon.log();
        assert!(log.contains("query response was ANSWER"), "it says what came back");
        let caps = log.lines().filter(|line| line.to_lowercase().contains("capsforid"));
        // The root servers, which it wants for other names, are out of reach here, in any case.
        let fallen: Vec<&str> = caps.filter(|line| !line.contains("timeouts, starting fallback")).collect();
        assert!(fallen.is_empty(), "it fell back from 0x20: {fallen:?}");
        // Its stub stays what it is, also when our own NS and address records are in its cache.
        assert_eq!(status(machine, &["service.local", "NS"]), "NOERROR");
        assert_eq!(status(machine, &["ns.service.local", "A"]), "NOERROR");
        assert_eq!(status(machine, &["one.service.local", "AAAA"]), "NOERROR");
    });
}

#[test]
fn dnsmasq() {
    let words = [
        "--keep-in-foreground",
        "--log-facility=-",
        "--conf-file=/etc/dnsmasq.conf",
        "--user=root",
        "--group=root",
        "--pid-file=",
    ];
    let main = "listen-address=127.0.0.1\nbind-interfaces\nno-resolv\nno-hosts\nstop-dns-rebind\n\
                conf-dir=/etc/dnsmasq.d,.dpkg-dist,.dpkg-old,.dpkg-new\n";
    let kind = Kind {
        word: "dnsmasq",
        own: "dnsmasq.d",
        program: "usr/sbin/dnsmasq",
        at: "127.0.0.1",
        words: words.map(str::to_owned).to_vec(),
        etc: vec![("dnsmasq.conf", main.to_owned())],
        folders: vec!["dnsmasq.d"],
        by_hand: vec![],
    };
    stands_in_front(&kind, |machine, _| {
        assert_eq!(status(machine, &["big.service.local", "A"]), "NOERROR");
    });
}

/// With DNSSEC validation as it comes, and no root to be reached.
#[test]
fn bind() {
    // As Debian's package has them: `setup` says which line goes into which of them.
    let options = "options {\n    directory \"/run\";\n    listen-on { 127.0.0.1; };\n    listen-on-v6 { none; };\n    \
                   dnssec-validation auto;\n    pid-file none;\n    session-keyfile none;\n    INCLUDED\n};\n";
    let include =
        |text: &str, file: &str| text.replace("INCLUDED", &format!("include \"/etc/bind/{file}\";"));
    let kind = Kind {
        word: "bind",
        own: "bind",
        program: "usr/sbin/named",
        at: "127.0.0.1",
        words: ["-g", "-c", "/etc/bind/named.conf"].map(str::to_owned).to_vec(),
        etc: vec![
            ("bind/named.conf.options", options.replace("INCLUDED", "")),
            ("bind/named.conf.local", String::new()),
            (
                "bind/named.conf",
                ["options", "local"]
                    .map(|part| format!("include \"/etc/bind/named.conf.{part}\";\n"))
                    .concat(),
            ),
        ],
        folders: vec![],
        by_hand: vec![
            ("bind/named.conf.options", include(options, "callsign-options.conf")),
            ("bind/named.conf.local", include("INCLUDED\n", "callsign.conf")),
        ],
    };
    stands_in_front(&kind, |machine, _| {
        assert_eq!(status(machine, &["one.service.local", "AAAA"]), "NOERROR");
    });
}

/// It listens on 127.0.0.53 and is what programs come to by resolv.conf.
#[test]
fn systemd_resolved() {
    let kind = Kind {
        word: "resolved",
        own: "systemd/resolved.conf.d",
        program: "lib/systemd/systemd-resolved",
        at: "127.0.0.53",
        words: vec![],
        // Its user, whom the package would have made; it is who we are, for it changes to it.
        etc: vec![
            ("passwd", "root:x:0:0::/:/bin/sh\nsystemd-resolve:x:0:0::/:/bin/sh\n".to_owned()),
            ("group", "root:x:0:\nsystemd-resolve:x:0:\n".to_owned()),
            ("systemd/resolved.conf", "[Resolve]\n".to_owned()),
        ],
        folders: vec!["systemd/resolved.conf.d"],
        by_hand: vec![],
    };
    stands_in_front(&kind, |machine, _| {
        assert_eq!(status(machine, &["@127.0.0.53", "other.local", "A"]), "REFUSED");
    });
}

// -- nss-mdns -----------------------------------------------------------------------------------------------------

/// Plays avahi: every name is asked for in vain. Gives the names as they come.
fn avahi(machine: &Machine) -> Receiver<String> {
    let folder = machine.run_folder("avahi-daemon");
    fs::create_dir_all(&folder).expect("a folder in its /run");
    let listener = UnixListener::bind(folder.join("socket")).expect("avahi's socket");
    let (sender, asked) = sync_channel(100);
    // It ends with the test's process: nothing is left that could be asked.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut line = String::new();
            let read = BufReader::new(&stream).read_line(&mut line);
            if read.is_err() || sender.send(line.trim().to_owned()).is_err() {
                return;
            }
            drop(stream.write_all(b"-15 Timeout reached\n"));
        }
    });
    asked
}

/// The lines that distributions have in nsswitch.conf, and the one file that takes every name away from DNS. What
/// the doctor says of each is what happens.
#[test]
fn nss_mdns() {
    const MINIMAL: &str = "files mdns4_minimal [NOTFOUND=return] dns";
    const FULL: &str = "files mdns4 [NOTFOUND=return] dns";
    let machine = Machine::start("127.0.0.1", &["--dns", "127.0.0.1:53"]);
    let form = json!({"service": "one", "id": "one-1", "address": "10.3.0.1", "port": 8001, "lease": "none"});
    machine.server.client().done("registered", &json!({"register": form}));
    let asked = avahi(&machine);
    let getent = needs("getent", "libc-bin");
    for (line, allow, name, by_dns) in [
        (MINIMAL, None, "one.service.local", true),
        ("files mdns4_minimal dns", None, "one.service.local", true),
        ("files mdns_minimal [NOTFOUND=return] dns mdns", None, "one.service.local", true),
        (FULL, None, "one.service.local", true),
        (MINIMAL, Some(".local.\n.local\n"), "one.service.local", true),
        (FULL, Some(".local.\n.local\n"), "one.service.local", false),
        // Two labels: multicast's own, and the reason why services are not put right below .local.
        (MINIMAL, None, "one.local", false),
    ] {
        machine.write("nsswitch.conf", &format!("hosts: {line}\n"));
        match allow {
            Some(text) => machine.write("mdns.allow", text),
            None => drop(fs::remove_file(machine.etc("mdns.allow"))),
        }
        let mut command = machine.inside(&getent);
        let found = command.args(["ahosts", name]).env("LD_LIBRARY_PATH", libraries()).output();
        let found = found.expect("running nsenter");
        let by_multicast: Vec<String> = asked.try_iter().collect();
        assert_eq!(found.status.success(), by_dns, "{line} {allow:?} {name}: {found:?}");
        assert_eq!(by_multicast.is_empty(), by_dns, "{line} {allow:?} {name}: {by_multicast:?}");
        if name.ends_with("service.local") {
            let ended = machine.callsign_with(&libraries(), &["doctor"]);
            assert_eq!(ended.code, Some(if by_dns { 0 } else { 1 }), "{}", ended.stdout);
            let wrong = ended.stdout.lines().filter(|line| line.starts_with("wrong")).count();
            assert_eq!(wrong, if by_dns { 0 } else { 2 }, "nsswitch and the lookup: {}", ended.stdout);
            let _ = asked.try_iter().count(); // the lookup of the doctor itself
        }
    }
}
