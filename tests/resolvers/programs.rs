//! Programs that resolve as their users' programs do: glibc, musl, Go, Node, Java; the sources are in tests/clients.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use super::front::{all_srv, all_v4};
use super::harness::machine::Machine;
use super::harness::program::needs;

/// What a program saw of one service: its lines by their first word.
#[derive(Debug, Default)]
pub struct Findings {
    pub lines: BTreeMap<String, BTreeSet<String>>,
    pub errors: BTreeSet<String>,
}

/// The compiled ones, and how each is started.
pub struct Programs {
    /// Name, program, and the words before the services.
    each: Vec<(&'static str, PathBuf, Vec<String>)>,
}

impl Programs {
    /// Compiled once for all tests of this file.
    pub fn built() -> &'static Self {
        static BUILT: OnceLock<Programs> = OnceLock::new();
        BUILT.get_or_init(Self::build)
    }

    fn build() -> Self {
        let into = Path::new(env!("CARGO_TARGET_TMPDIR")).join("resolvers");
        std::fs::create_dir_all(&into).expect("a folder for compiled programs");
        let (glibc, musl, go) = (into.join("glibc"), into.join("musl"), into.join("go"));
        compile(
            Command::new(needs("gcc", "gcc")).arg("-o").arg(&glibc).arg(source("lookup.c")).arg("-lresolv"),
        );
        let mut compiler = Command::new(needs("musl-gcc", "musl-tools"));
        compile(compiler.arg("-static").arg("-o").arg(&musl).arg(source("lookup.c")));
        // The standard library alone: no module, no proxy, no other toolchain.
        let offline = [
            ("CGO_ENABLED", "0"),
            ("GO111MODULE", "off"),
            ("GOFLAGS", ""),
            ("GOPROXY", "off"),
            ("GOTOOLCHAIN", "local"),
        ];
        let mut build = Command::new(needs("go", "golang-go"));
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go");
        build.envs(offline).env("GOCACHE", cache).env("GOPATH", into.join("path"));
        compile(build.arg("build").arg("-o").arg(&go).arg(source("lookup.go")));
        needs("javac", "openjdk-17-jdk-headless");
        let script = |name: &str| vec![source(name).display().to_string()];
        let each = vec![
            ("glibc", glibc, Vec::new()),
            ("musl", musl, Vec::new()),
            ("go", go, Vec::new()),
            ("node", needs("node", "nodejs"), script("lookup.mjs")),
            ("java", needs("java", "openjdk-17-jdk-headless"), script("Lookup.java")),
        ];
        Self { each }
    }

    /// What each of them finds, by its name and then by service.
    pub fn all(&self, machine: &Machine, services: &[&str]) -> Vec<(String, BTreeMap<String, Findings>)> {
        let one = |(name, program, before): &(&str, PathBuf, Vec<String>)| {
            let mut words: Vec<&str> = before.iter().map(String::as_str).collect();
            words.extend(services);
            ((*name).to_owned(), read(&machine.run(program, &words)))
        };
        self.each.iter().map(one).collect()
    }
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

fn compile(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().expect("running a compiler");
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
}

fn read(text: &str) -> BTreeMap<String, Findings> {
    let mut findings: BTreeMap<String, Findings> = BTreeMap::new();
    let mut service = String::new();
    for line in text.lines() {
        let (word, rest) = line.split_once(' ').unwrap_or_else(|| panic!("a line of a program: {line}"));
        let rest = rest.trim();
        match word {
            "service" => {
                rest.clone_into(&mut service);
                findings.entry(service.clone()).or_default();
            }
            "error" => drop(findings.entry(service.clone()).or_default().errors.insert(rest.to_owned())),
            word => {
                let found = findings.entry(service.clone()).or_default();
                let new = found.lines.entry(word.to_owned()).or_default().insert(canonical(rest));
                assert!(new, "{line} twice for {service}");
            }
        }
    }
    findings
}

/// Programs differ in the final dot of a name and in how they write an address.
fn canonical(text: &str) -> String {
    match text.parse::<IpAddr>() {
        Ok(address) => address.to_string(),
        Err(_) => text.trim_end_matches('.').to_owned(),
    }
}

/// What musl 1.2.3, which has no TCP, has of the largest service behind each resolver: addresses of a plain
/// datagram, or nothing, where the resolver cuts an answer to nothing.
const MUSL_ADDRESSES: [(&str, usize); 6] =
    [("unbound", 0), ("dnsmasq", 29), ("bind", 29), ("resolved", 29), ("coredns", 29), ("resolvconf", 29)];

/// Asserts that a program found every instance behind a resolver.
pub fn sees(resolver: &str, program: &str, findings: &Findings, service: &str, count: usize) {
    let of = |word: &str| findings.lines.get(word).cloned().unwrap_or_default();
    if program == "musl" && count > 10 {
        let (_, expected) = MUSL_ADDRESSES.iter().find(|(each, _)| *each == resolver).expect("it is listed");
        assert_eq!(of("address").len(), *expected, "musl behind {resolver}");
        assert!(of("address").is_subset(&all_v4(service, count)), "musl {service}: {findings:?}");
        assert!(of("srv").is_subset(&all_srv(service, count)), "musl {service}: {findings:?}");
        return;
    }
    assert_eq!(of("address"), all_v4(service, count), "{program}: addresses of {service}");
    assert_eq!(of("srv"), all_srv(service, count), "{program}: SRV of {service}");
    for word in ["short", "lookup"].into_iter().filter(|word| findings.lines.contains_key(*word)) {
        assert_eq!(of(word), all_v4(service, count), "{program}: {word} of {service}");
    }
}
