//! Judges that others wrote: zonemaster and dnsviz on the live zone, and five readers of our answers, which agree.
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

/// The machine's own address on its link.
const ADDRESS: &str = "192.0.2.1";
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

#[test]
fn zonemaster_finds_nothing_that_is_not_explained() {
    let machine = machine();
    let nameserver = format!("ns.service.local/{ADDRESS}");
    let mut words = vec!["--level", "DEBUG", "--json", "--no-ipv6", "--ns", &nameserver];
    MODULES.iter().for_each(|(module, _)| words.extend(["--test", module]));
    words.push("service.local");
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
    let said: BTreeSet<String> = entries.iter().filter(high).map(tag).collect();
    let listed: BTreeSet<String> = include_str!("judges/zonemaster.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .collect();
    assert_eq!(said, listed, "what it says above NOTICE, and tests/judges/zonemaster.txt");
}

#[test]
fn dnsviz_finds_nothing() {
    let machine = machine();
    // Without a route it takes itself for offline and asks nobody. zonemaster would wait for the root servers there.
    machine.run(&needs("ip", "iproute2"), &["route", "add", "default", "via", "192.0.2.2"]);
    let dnsviz = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/python/dnsviz/bin/dnsviz");
    assert!(dnsviz.exists(), "{} is not there: tests/clients/python/install", dnsviz.display());
    let file = machine.server.directory().join("probe.json").display().to_string();
    let at = format!("service.local+:ns.service.local=[{ADDRESS}]:53");
    for name in ["service.local", "web.service.local", "_web._tcp.service.local", "nope.service.local"] {
        let words = ["probe", "-A", "-4", "-R", "SOA,NS,A,AAAA,SRV,HTTPS", "-x", &at, "-o", &file, name];
        machine.run(&dnsviz, &words);
        let probe: Value =
            serde_json::from_str(&std::fs::read_to_string(&file).expect("what it heard")).expect("JSON");
        // It asks over and over with other settings where it hears nothing, so what it heard is counted.
        let owner = format!("{name}.");
        let queries = probe[&owner]["queries"].as_array().expect("what it asked");
        let heard = queries.iter().filter(|query| {
            let replies = query["responses"][ADDRESS][ADDRESS].as_object();
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
