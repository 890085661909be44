//! A resolver in front of us on a machine of its own, before `callsign setup` and after it, and what programs see.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use serde_json::json;

use super::harness::machine::Machine;
use super::harness::program::needs;
use super::harness::{DEADLINE, Server, eventually};
use super::programs::{self, Findings, Programs};

/// Services and how many instances each has.
const SERVICES: [(&str, usize); 3] = [("one", 1), ("ten", 10), ("big", 120)];
/// Never heard of.
const UNKNOWN: &str = "unknown";

pub fn unpacked(path: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/unpacked/root");
    let path = root.join(path);
    assert!(path.exists(), "{} is not there: tests/unpacked/unpack", path.display());
    path
}

/// Where the unpacked programs find their libraries, and glibc the modules of nss-mdns.
pub fn libraries() -> String {
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

pub fn all_v4(service: &str, count: usize) -> BTreeSet<String> {
    (1..=count).map(|number| v4(service, number)).collect()
}

pub fn all_srv(service: &str, count: usize) -> BTreeSet<String> {
    let record =
        |number: usize| format!("0 1 {} {}.{service}.service.local", 8000 + number, id(service, number));
    (1..=count).map(record).collect()
}

/// callsign with these flags and every service, on a machine that asks `nameserver`.
pub fn machine(nameserver: &str, flags: &[&str]) -> Machine {
    let machine = Machine::start(nameserver, flags);
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
pub struct Daemon {
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

    pub fn log(&self) -> String {
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
pub struct Kind {
    /// As `callsign setup` calls it.
    pub word: &'static str,
    pub program: PathBuf,
    /// Where it listens.
    pub at: &'static str,
    pub words: Vec<String>,
    /// The folder of its drop-ins, which is made anew.
    pub own: &'static str,
    /// Files of the machine's /etc that its package would have put there; none of them is from `setup`.
    pub etc: Vec<(&'static str, String)>,
    /// Folders that its package makes, in which `setup` puts something.
    pub folders: Vec<&'static str>,
    /// What an administrator does by hand, as the steps of `setup` say.
    pub by_hand: Vec<(&'static str, String)>,
    /// What else is on the machine before it starts.
    pub beside: fn(&Machine) -> Option<Server>,
}

/// What the doctor says: its verdict, and every command that it advises.
fn doctor(machine: &Machine) -> (Option<i32>, String) {
    let ended = machine.callsign(&["doctor", "-o", "json"]);
    (ended.code, ended.stdout)
}

/// Every program finds every instance.
pub fn programs_see(resolver: &str, machine: &Machine) {
    let programs = Programs::built();
    for (name, findings) in
        programs.all(machine, &[SERVICES.map(|(service, _)| service).as_slice(), &[UNKNOWN]].concat())
    {
        for (service, count) in SERVICES {
            programs::sees(resolver, &name, &findings[service], service, count);
        }
        let Findings { lines, errors } = &findings[UNKNOWN];
        assert!(lines.is_empty() && !errors.is_empty(), "{name}: {UNKNOWN}: {lines:?} {errors:?}");
    }
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
pub fn stands_in_front(kind: &Kind, check: impl Fn(&Machine, &Daemon)) {
    let machine = machine(kind.at, &["--dns", "127.0.0.1:5300"]);
    // Not as it is on the machine that runs the test, where it may be installed.
    drop(fs::remove_dir_all(machine.etc(kind.own)));
    for folder in &kind.folders {
        fs::create_dir_all(machine.etc(folder)).expect("a folder in the copy of /etc");
    }
    for (name, text) in &kind.etc {
        machine.write(name, text);
    }
    let _beside = (kind.beside)(&machine);
    let words: Vec<&str> = kind.words.iter().map(String::as_str).collect();
    let start = |knows| Daemon::start(&machine, &kind.program, &words, kind.at, knows);
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

    programs_see(kind.word, &machine);
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
pub fn status(machine: &Machine, words: &[&str]) -> String {
    let text = tool(machine, words);
    let at = text.find("status: ").map(|at| &text[at + 8..]).unwrap_or_default();
    at.split(',').next().unwrap_or_default().to_owned()
}
