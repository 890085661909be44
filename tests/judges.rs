//! Judges that others wrote: zonemaster and dnsviz on the live zone and on a static one, and five readers of our answers,
//! which agree.
//!
//! Needs: zonemaster-cli, python3-venv, bind9-dnsutils, knot-dnsutils, ldnsutils, iproute2, util-linux
//!
//! zonemaster and dnsviz ask port 53 of an address that is no loopback, in namespaces of their own; there is no parent
//! zone and no network. dnsviz is in target/python, where tests/clients/python/install puts it.

#[path = "judges/agree.rs"]
mod agree;
mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value, json};

use harness::machine::Machine;
use harness::program::needs;
use harness::{Server, namespaces};

/// The machine's own address on its link.
const ADDRESS: &str = "192.0.2.1";
/// Another one there, of the server that a part of the static zone is delegated to.
const BELOW: &str = "192.0.2.3";
/// Test cases of zonemaster 4.6 in the modules that are asked for.
const TEST_CASES: usize = 39;
const MODULES: [(&str, usize); 5] =
    [("basic", 3), ("nameserver", 13), ("zone", 10), ("syntax", 7), ("consistency", 6)];

/// A server on port 53 with something in its zone.
fn machine() -> Machine {
    let at = format!("{ADDRESS}:53");
    let machine = Machine::start(ADDRESS, &["--dns", &at]);
    let form = json!({"service": "web", "id": "a", "address": ["10.0.0.1", "2001:db8::1"], "port": 80, "lease": "none"});
    machine.server.client().done("registered", &json!({"register": form}));
    machine
}

/// What a small site has: hosts, mail, texts, aliases, a wildcard, and a delegation with glue.
const SITE: &str = "$TTL 3600\n\
    @ SOA ns1 hostmaster 2026010101 14400 3600 604800 300\n\
    @ NS ns1\n@ MX 10 mail\n@ TXT \"v=spf1 mx -all\"\n@ CAA 0 issue \"ca.example\"\n\
    ns1 A 192.0.2.1\nmail A 192.0.2.10\nmail AAAA 2001:db8::10\nwww CNAME web\nweb A 192.0.2.11\nweb TXT a \"b c\"\n\
    *.apps CNAME web\n_sip._tcp SRV 0 5 5060 web\ndeep.in.it A 192.0.2.12\n\
    lab NS ns.lab\nns.lab A 192.0.2.3\n";
/// What is delegated.
const LAB: &str =
    "$TTL 3600\n@ SOA ns hostmaster 1 14400 3600 604800 300\n@ NS ns\nns A 192.0.2.3\nwww A 192.0.2.13\n";

/// A server with the static zone corp.test, one with the zone that it delegates, and what they read.
struct Site {
    machine: Machine,
    _lab: Server,
    _files: tempfile::TempDir,
}

fn site() -> Site {
    let files = tempfile::tempdir().expect("a directory for zones");
    let zone = |folder: &str, name: &str, text: &str| {
        let folder = files.path().join(folder);
        std::fs::create_dir(&folder).expect("a folder for a zone");
        std::fs::write(folder.join(name), text).expect("writing a zone file");
        folder.display().to_string()
    };
    let (site, lab) = (zone("site", "corp.test.zone", SITE), zone("lab", "lab.corp.test.zone", LAB));
    let [at, below] = [ADDRESS, BELOW].map(|address| format!("{address}:53"));
    let machine = Machine::start(ADDRESS, &["--dns", &at, "--store", "memory", "--zones", &site]);
    machine.run(&needs("ip", "iproute2"), &["address", "add", &format!("{BELOW}/24"), "dev", "wire"]);
    let within = namespaces::within(machine.server.pid());
    let within: Vec<&str> = within.iter().map(String::as_str).collect();
    let lab = Server::start_under(&within, &["--dns", &below, "--store", "memory", "--zones", &lab]);
    Site { machine, _lab: lab, _files: files }
}

#[test]
fn zonemaster_finds_nothing_that_is_not_explained() {
    let listed: BTreeSet<String> = include_str!("judges/zonemaster.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .collect();
    let said = zonemaster(&machine(), "service.local", "ns");
    assert_eq!(said, listed, "what it says above NOTICE, and tests/judges/zonemaster.txt");
}

#[test]
fn zonemaster_finds_nothing_in_a_static_zone() {
    assert_eq!(zonemaster(&site().machine, "corp.test", "ns1"), BTreeSet::new());
}

/// What zonemaster says above NOTICE of a zone with this name server.
fn zonemaster(machine: &Machine, zone: &str, server: &str) -> BTreeSet<String> {
    let nameserver = format!("{server}.{zone}/{ADDRESS}");
    let mut words = vec!["--level", "DEBUG", "--json", "--no-ipv6", "--ns", &nameserver];
    MODULES.iter().for_each(|(module, _)| words.extend(["--test", module]));
    words.push(zone);
    let text = machine.run(&needs("zonemaster-cli", "zonemaster-cli"), &words);
    // One array for each module.
    let values = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
    let entries: Vec<Value> = values
        .flat_map(|value| match value.expect("zonemaster writes JSON") {
            Value::Array(entries) => entries,
            Value::Object(mut one) => {
                one.remove("results").and_then(|list| list.as_array().cloned()).unwrap_or_default()
            }
            other => vec![other],
        })
        .collect();
    let tag = |entry: &Value| entry["tag"].as_str().unwrap_or_default().to_owned();
    let mut ran: BTreeMap<String, usize> = BTreeMap::new();
    for entry in entries.iter().filter(|entry| tag(entry) == "TEST_CASE_END") {
        let case = entry["args"]["testcase"].as_str().unwrap_or_default().to_lowercase();
        *ran.entry(case.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned()).or_default() += 1;
    }
    let expected: BTreeMap<String, usize> =
        MODULES.iter().map(|(module, cases)| ((*module).to_owned(), *cases)).collect();
    assert_eq!(ran, expected, "every test case ran");
    assert_eq!(ran.values().sum::<usize>(), TEST_CASES);
    let high = |entry: &&Value| {
        let level = entry["level"].as_str().unwrap_or_default();
        !["DEBUG", "DEBUG2", "DEBUG3", "INFO", "NOTICE"].contains(&level)
    };
    entries.iter().filter(high).map(tag).collect()
}

#[test]
fn dnsviz_finds_nothing() {
    let names = ["service.local", "web.service.local", "_web._tcp.service.local", "nope.service.local"];
    dnsviz(&machine(), "service.local+:ns.service.local", &names.map(|name| (name, ADDRESS)));
}

#[test]
fn dnsviz_finds_nothing_in_a_static_zone() {
    let ours = [
        "corp.test",
        "mail.corp.test",
        "www.corp.test",
        "any.apps.corp.test",
        "in.it.corp.test",
        "nope.corp.test",
    ];
    let mut names = ours.map(|name| (name, ADDRESS)).to_vec();
    // Asked from the top, so that it follows the delegation and compares what both say of it.
    names.extend(["lab.corp.test", "www.lab.corp.test"].map(|name| (name, BELOW)));
    dnsviz(&site().machine, "corp.test+:ns1.corp.test", &names);
}

/// Has dnsviz ask for names, each at the address of the server that has to answer, and judge what it heard.
fn dnsviz(machine: &Machine, zone: &str, names: &[(&str, &str)]) {
    // Without a route it takes itself for offline and asks nobody. zonemaster would wait for the root servers there.
    machine.run(&needs("ip", "iproute2"), &["route", "add", "default", "via", "192.0.2.2"]);
    let dnsviz = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/python/dnsviz/bin/dnsviz");
    assert!(dnsviz.exists(), "{} is not there: tests/clients/python/install", dnsviz.display());
    let file = machine.server.directory().join("probe.json").display().to_string();
    let at = format!("{zone}=[{ADDRESS}]:53");
    for &(name, address) in names {
        let types = "SOA,NS,A,AAAA,SRV,HTTPS,MX,TXT,CNAME";
        let words = ["probe", "-A", "-4", "-R", types, "-x", &at, "-o", &file, name];
        machine.run(&dnsviz, &words);
        let probe: Value =
            serde_json::from_str(&std::fs::read_to_string(&file).expect("what it heard")).expect("JSON");
        // It asks over and over with other settings where it hears nothing, so what it heard is counted.
        let owner = format!("{name}.");
        let queries = probe[&owner]["queries"].as_array().expect("what it asked");
        let heard = queries.iter().filter(|query| {
            let replies = query["responses"][address][ADDRESS].as_object();
            replies.is_some_and(|reply| reply.contains_key("message"))
        });
        assert!(heard.count() >= 5, "{name}: {queries:?}");
        let grok = |level: &str| machine.run(&dnsviz, &["grok", "-l", level, "-r", &file]);
        assert_eq!(grok("warning").trim(), "", "{name}");
        assert_ne!(grok("debug").trim(), "", "{name}: it has looked");
    }
}

#[test]
fn dig_kdig_drill_delv_and_our_own_reader_agree() {
    agree::all();
}
