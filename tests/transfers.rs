//! Zones as secondaries get them: whole, and as what changed.
//!
//! - `secondary`: one that believes nothing: what a difference takes away was there, what it brings was not.
//! - `signed`: what a signature is worth, and what is said of a wrong one.
//!
//! Knot, NSD and BIND as secondaries are in `secondaries.rs`.

mod harness;
#[path = "transfers/life.rs"]
mod life;
#[path = "oracle/registry.rs"]
mod registry;
#[path = "transfers/secondary.rs"]
mod secondary;
#[path = "transfers/signed.rs"]
mod signed;
#[allow(dead_code, reason = "no file is made of the zones here")]
#[path = "oracle/zone.rs"]
mod zone;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::TcpStream;

use harness::dns::{connect, query, read, receive_framed, send_framed};
use harness::{Draws, Server, seed};
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use serde_json::json;

use life::Life;
use secondary::{Came, Line, Secondary, line, serial, transfer};

const APEX: &str = "service.local.";

fn whole(server: &Server) -> Came {
    let came = transfer(server.dns[0], APEX, None).unwrap_or_else(|said| panic!("no zone but {said}"));
    assert!(came.authoritative, "a zone comes from its authority");
    came
}

/// Every record in a zone is in the answer to its name and type, and every answer is in the zone.
#[test]
fn the_zone_is_what_is_answered() {
    let seed = seed();
    println!("transfers: seed {seed}");
    let tree = tempfile::tempdir().expect("a directory for the record tree");
    std::fs::write(tree.path().join("service.local.zone"), zone::tree()).expect("writing the record tree");
    let zones = tree.path().to_str().expect("a path");
    let mut flags = vec!["--store", "memory", "--known-for", "24h", "--zones", zones];
    flags.extend(zone::DOMAINS.iter().flat_map(|domain| ["--domain", domain]));
    let server = Server::start(&flags);
    let drawn = registry::register(&server, &mut Draws(seed));
    let expected = zone::zones(&drawn, &server.client().list(), 0);
    let mut stream = connect(server.dns[0]);
    for expected in expected.iter().take(zone::DOMAINS.len()) {
        let apex = format!("{}.", expected.apex);
        let came = transfer(server.dns[0], &apex, None).unwrap_or_else(|said| panic!("no zone but {said}"));
        assert!(came.messages > 1, "a zone of this size is several messages");
        let lines = Secondary::new(&came).lines;
        let names: HashMap<String, &Name> = came
            .records
            .iter()
            .map(|record| (record.name.to_lowercase().to_string(), &record.name))
            .collect();
        let mut sets: BTreeMap<(String, RecordType), BTreeSet<(u32, String)>> = BTreeMap::new();
        for (owner, rtype, ttl, data) in lines {
            sets.entry((owner, rtype)).or_default().insert((ttl, data));
        }
        for ((owner, rtype), set) in &sets {
            let asked = if *rtype == RecordType::CNAME { RecordType::A } else { *rtype };
            let reply = ask(&mut stream, names[owner], asked);
            let answered: BTreeSet<(u32, String)> = reply
                .answers
                .iter()
                .filter(|record| {
                    record.record_type() == *rtype && record.name.to_lowercase().to_string() == *owner
                })
                .map(line)
                .map(|(_, _, ttl, data)| (ttl, data))
                .collect();
            if *rtype == RecordType::PTR && owner.starts_with("_services.") {
                // Those of services that are only remembered are not in the zone.
                assert!(set.is_subset(&answered), "{owner} {rtype}");
            } else if !owner.starts_with("*.") {
                assert_eq!(*set, answered, "{owner} {rtype}");
            }
        }
        for (owner, types) in &expected.sets {
            let alias = types.contains_key("CNAME");
            for (rtype, (_, data)) in types {
                let marks =
                    *rtype == "TYPE65280" || owner.starts_with("_services.") || alias && *rtype != "CNAME";
                if marks {
                    continue;
                }
                let key = (escaped(owner), rtype.parse().expect("a type"));
                let has = sets.get(&key).map_or(0, BTreeSet::len);
                assert_eq!(has, data.len(), "records {rtype} of {owner}");
            }
        }
    }
}

/// Who is registered and not live has no records of tags and named ports, and still these are names: a secondary that has none of
/// them says NXDOMAIN, which a resolver keeps for the name whatever is asked of it.
#[test]
fn names_of_instances_that_are_not_live_are_in_the_zone() {
    let server = Server::start(&["--store", "memory"]);
    let mut client = server.client();
    let names = [
        "v2.web.service.local.",
        "_web._v2.service.local.",
        "_http._tcp.web.service.local.",
        "_v2._sub._web._tcp.service.local.",
    ];
    let empty = |came: &Came| -> Vec<String> {
        let lines = came.lines().into_iter();
        let kept =
            lines.filter(|(_, rtype, _, data)| *rtype == RecordType::TXT && data.replace('"', "").is_empty());
        kept.map(|(owner, ..)| owner).filter(|owner| names.contains(&owner.as_str())).collect()
    };
    for id in ["a", "b"] {
        let ports = json!({"http": 80, "admin": 81});
        let form = json!({"service": "web", "id": id, "address": "10.0.0.7", "ports": ports, "tags": ["v2"]});
        client.done("registered", &json!({"register": form}));
    }
    assert_eq!(empty(&whole(&server)), [""; 0], "what has records needs no other");
    client.done("draining", &json!({"drain": {"service": "web", "id": "a"}}));
    assert_eq!(empty(&whole(&server)), [""; 0], "one is live");
    let before = whole(&server);
    client.done("draining", &json!({"drain": {"service": "web", "id": "b"}}));
    let now = whole(&server);
    let mut kept = empty(&now);
    kept.sort_unstable();
    let mut all = names.to_vec();
    all.sort_unstable();
    assert_eq!(kept, all);
    let mut secondary = Secondary::new(&before);
    secondary
        .apply(&transfer(server.dns[0], APEX, Some(before.serial())).expect("what changed"))
        .expect("it fits");
    assert_eq!(secondary.lines, Secondary::new(&now).lines);
    let mut stream = connect(server.dns[0]);
    for name in names {
        let name = Name::from_ascii(name).expect("a name");
        let reply = ask(&mut stream, &name, RecordType::TXT);
        assert_eq!(reply.answers.len(), 1, "TXT of {name}");
        let reply = ask(&mut stream, &name, RecordType::SRV);
        assert_eq!((reply.metadata.response_code, reply.answers.len()), (ResponseCode::NoError, 0), "{name}");
    }
}

/// An RRset that no reply could hold has as many of its first records in the zone as one does, or secondaries would refuse all of it;
/// a difference is of these records too.
#[test]
fn no_rrset_of_the_zone_is_more_than_a_reply_holds() {
    const INSTANCES: usize = 1600;
    const REPLY_OCTETS: usize = 65_535;
    let server = Server::start(&["--store", "memory"]);
    let mut client = server.client();
    let form = |number: usize| {
        let address = format!("10.0.{}.{}", number / 200, number % 200 + 1);
        json!({"service": "web", "id": format!("n{number:04}"), "address": address, "port": 80, "lease": "none"})
    };
    for number in 0..INSTANCES {
        client.done("registered", &json!({"register": form(number)}));
    }
    let count = |lines: &BTreeSet<Line>, owner: &str, rtype| {
        lines.iter().filter(|(of, kind, ..)| of == owner && *kind == rtype).count()
    };
    let mut secondary = Secondary::new(&whole(&server));
    let at_service = |lines: &BTreeSet<Line>| {
        ["web.service.local.", "_web._tcp.service.local."].map(|owner| count(lines, owner, RecordType::SRV))
    };
    let held = at_service(&secondary.lines);
    // A pointer, type, class, TTL and length, three numbers, and `n0000.web.service.local.`, which is not compressed.
    let most = REPLY_OCTETS / (2 + 10 + 6 + 25);
    assert!(held.iter().all(|held| (1300..most).contains(held)), "{held:?} records SRV");
    assert_eq!(count(&secondary.lines, "web.service.local.", RecordType::A), INSTANCES, "these fit");
    for number in 0..INSTANCES {
        assert_eq!(count(&secondary.lines, &format!("n{number:04}.web.service.local."), RecordType::SRV), 1);
    }
    // One of the first goes, and one behind the last that is in the set; others come in both places.
    for ids in [["n0000", "n1599"], ["n0700", "n1500"]] {
        for id in ids {
            client.done("deregistered", &json!({"deregister": {"service": "web", "id": id}}));
        }
        let came = transfer(server.dns[0], APEX, Some(secondary.serial)).expect("what changed");
        assert!(came.is_difference());
        secondary.apply(&came).expect("a difference that fits");
        assert_eq!(secondary.lines, Secondary::new(&whole(&server)).lines);
        assert_eq!(at_service(&secondary.lines), held, "as many as fit");
    }
    client.done("registered", &json!({"register": form(0)}));
    let came = transfer(server.dns[0], APEX, Some(secondary.serial)).expect("what changed");
    secondary.apply(&came).expect("a difference that fits");
    assert_eq!(secondary.lines, Secondary::new(&whole(&server)).lines);
}

fn ask(stream: &mut TcpStream, name: &Name, rtype: RecordType) -> Message {
    let mut asked = query(7, ".", rtype, None);
    asked.queries = vec![Query::query(name.clone(), rtype)];
    send_framed(stream, &asked.to_vec().expect("a query")).expect("asking");
    read(&receive_framed(stream).expect("an answer"))
}

/// An owner as hickory writes it, from the escapes of a zone file.
fn escaped(owner: &str) -> String {
    let mut labels: Vec<Vec<u8>> = vec![Vec::new()];
    let mut octets = owner.bytes();
    while let Some(octet) = octets.next() {
        match octet {
            b'.' => labels.push(Vec::new()),
            b'\\' => {
                let digits: Vec<u8> = octets.by_ref().take(3).collect();
                let number = std::str::from_utf8(&digits).expect("digits").parse().expect("an octet");
                labels.last_mut().expect("a label").push(number);
            }
            octet => labels.last_mut().expect("a label").push(octet),
        }
    }
    let labels: Vec<&[u8]> = labels.iter().map(Vec::as_slice).collect();
    let mut name = Name::from_labels(labels).expect("a name");
    name.set_fqdn(true);
    name.to_lowercase().to_string()
}

/// Changes between two looks at most.
const STEP: usize = 4;
/// Changes where nobody says how many.
const CHANGES: usize = 300;

/// Every difference leads from the zone before to the zone of now, through restarts of both kinds.
#[test]
fn differences_lead_from_one_zone_to_the_next() {
    let seed = seed();
    let changes = match std::env::var("CALLSIGN_CHANGES") {
        Ok(text) => text.parse().expect("CALLSIGN_CHANGES is a number"),
        Err(_) => CHANGES,
    };
    println!("transfers: seed {seed}");
    let directory = tempfile::tempdir().expect("a directory for the registry");
    let zones = directory.path().join("zones");
    std::fs::create_dir(&zones).expect("a directory for the record tree");
    // Names that services of the test have records at too.
    let tree =
        "printer A 10.9.9.9\n_svc-1._tcp TXT planted\n_svc-1._tcp SRV 0 0 1 printer\n_svc-2._v1 A 10.9.9.8\n";
    std::fs::write(zones.join("service.local.zone"), tree.replace(" A ", " 60 A "))
        .expect("writing the record tree");
    let (data, zones) = (directory.path().join("data"), zones.display().to_string());
    let flags = ["--data", data.to_str().expect("a path"), "--known-for", "1s", "--zones", zones.as_str()];
    let mut server = Server::start(&flags);
    let mut life = Life::new(seed);
    let mut secondary = Secondary::new(&whole(&server));
    let (mut done, mut looks, mut whole_instead) = (0, 0, 0);
    while done < changes {
        for _ in 0..=life.draws.below(STEP) {
            life.change(&server);
            done += 1;
        }
        match life.draws.below(40) {
            0 => {
                server.signal(nix::sys::signal::Signal::SIGTERM);
                server.wait();
                server = Server::start(&flags);
            }
            1 => {
                server.crash();
                server = Server::start(&flags);
            }
            _ => {}
        }
        let came = transfer(server.dns[0], APEX, Some(secondary.serial)).expect("what changed");
        looks += 1;
        if came.is_difference() || came.records.len() == 1 {
            secondary.apply(&came).expect("a difference that fits");
        } else {
            whole_instead += 1;
            secondary = Secondary::new(&came);
        }
        // What time changes may come between the two; then the next look tells.
        let now = Secondary::new(&whole(&server));
        if now.serial == secondary.serial {
            let missing: Vec<&Line> = now.lines.difference(&secondary.lines).collect();
            let extra: Vec<&Line> = secondary.lines.difference(&now.lines).collect();
            assert!(
                missing.is_empty() && extra.is_empty(),
                "seed {seed}, change {done}: missing {missing:#?}, and too much {extra:#?}"
            );
        }
    }
    println!("transfers: seed={seed} changes={done} looks={looks} whole_instead={whole_instead}");
    assert!(whole_instead * 20 <= looks, "{whole_instead} whole zones in the place of {looks} differences");
}

/// A serial that is ours, or later, is answered with the SOA; one that nobody gave out with the whole zone.
#[test]
fn who_has_the_zone_is_told_so() {
    let server = Server::start(&["--store", "memory"]);
    let first = whole(&server);
    for id in ["a", "b"] {
        let form = json!({"service": "web", "id": id, "address": "10.0.0.7", "port": 80});
        server.client().done("registered", &json!({"register": form}));
    }
    let now = whole(&server).serial();
    assert_eq!(now, first.serial() + 2);
    for since in [now, now + 1, now.wrapping_add(1 << 30)] {
        let came = transfer(server.dns[0], APEX, Some(since)).expect("the SOA");
        assert_eq!((came.records.len(), came.serial()), (1, now), "since {since}");
    }
    let came = transfer(server.dns[0], APEX, Some(now - 1)).expect("what changed");
    assert!(came.is_difference());
    let came = transfer(server.dns[0], APEX, Some(now - 1_000_000)).expect("the whole zone");
    assert!(!came.is_difference());
    assert_eq!(serial(&came.records[0]), Some(now));
}

/// Over UDP a difference that fits comes whole, and of one that does not there is the SOA alone (RFC 1995 section 2).
#[test]
fn a_datagram_has_all_of_a_difference_or_the_soa() {
    let server = Server::start(&["--store", "memory"]);
    let resolver = server.resolver();
    let first = whole(&server).serial();
    let ask = |apex: &str| {
        let asked = secondary::question(apex, Some(first)).to_vec().expect("a query");
        resolver.send(&asked);
        harness::dns::read(&resolver.receive(harness::DEADLINE).expect("a reply"))
    };
    let form = json!({"service": "web", "id": "a", "address": "10.0.0.7", "port": 80});
    server.client().done("registered", &json!({"register": form}));
    let reply = ask(APEX);
    assert_eq!(reply.answers.iter().filter(|record| serial(record).is_some()).count(), 4);
    for n in 0..20 {
        let form = json!({"service": "web", "id": format!("n{n}"), "address": "10.0.0.7", "port": 80});
        server.client().done("registered", &json!({"register": form}));
    }
    let reply = ask(APEX);
    assert_eq!(reply.answers.len(), 1);
    assert_eq!(serial(&reply.answers[0]), Some(first + 21));
    assert!(!reply.metadata.truncation);
}

/// Y-04, Y-06, Y-07: who may not, how it is not done, and what is no zone.
#[test]
fn what_is_refused_is_told_why() {
    let open = Server::start(&["--store", "memory"]);
    let closed = Server::start(&["--store", "memory", "--transfer-allow", "192.0.2.0/24"]);
    for (server, apex, rcode) in [
        (&closed, APEX, ResponseCode::Refused),
        (&closed, "other.example.", ResponseCode::Refused),
        (&open, "web.service.local.", ResponseCode::NotAuth),
        (&open, "other.example.", ResponseCode::NotAuth),
    ] {
        for since in [None, Some(1)] {
            let said = transfer(server.dns[0], apex, since).err().expect("a refusal");
            assert_eq!((said.metadata.response_code, said.answers.len()), (rcode, 0), "{apex} {since:?}");
            assert_eq!(said.queries.len(), 1, "the question comes back");
        }
    }
    // The connection goes on.
    let mut stream = harness::dns::connect(closed.dns[0]);
    for _ in 0..2 {
        let asked = secondary::question(APEX, None).to_vec().expect("a query");
        harness::dns::send_framed(&mut stream, &asked).expect("asking again");
        let said = harness::dns::read(&harness::dns::receive_framed(&mut stream).expect("a refusal"));
        assert_eq!(said.metadata.response_code, ResponseCode::Refused);
    }
    let resolver = open.resolver();
    resolver.send(&secondary::question(APEX, None).to_vec().expect("a query"));
    let said = harness::dns::read(&resolver.receive(harness::DEADLINE).expect("a reply"));
    assert_eq!(said.metadata.response_code, ResponseCode::Refused);
    // Without the SOA that it starts from there is nothing to be told.
    let bare = harness::dns::query(7, APEX, RecordType::IXFR, None);
    resolver.send(&bare.to_vec().expect("a query"));
    let said = harness::dns::read(&resolver.receive(harness::DEADLINE).expect("a reply"));
    assert_eq!(said.metadata.response_code, ResponseCode::FormErr);
}

/// A static zone is transferred by the same walk, and has no differences.
#[test]
fn a_static_zone_is_transferred() {
    let directory = tempfile::tempdir().expect("a directory for zones");
    let text = include_str!("wire/corp.test.zone");
    std::fs::write(directory.path().join("corp.test.zone"), text).expect("writing the zone");
    let zones = directory.path().to_str().expect("a path");
    let server = Server::start(&["--store", "memory", "--zones", zones]);
    let came = transfer(server.dns[0], "corp.test.", None).expect("the zone");
    let zone = Secondary::new(&came);
    let has = |owner: &str| zone.lines.iter().any(|(known, ..)| known == owner);
    assert!(
        has("ns.sub.corp.test.") && has("*.wild.corp.test."),
        "glue and wildcards too: {:#?}",
        zone.lines
    );
    let came = transfer(server.dns[0], "corp.test.", Some(zone.serial - 1)).expect("the zone");
    assert_eq!(Secondary::new(&came).lines, zone.lines);
    assert_eq!(transfer(server.dns[0], "corp.test.", Some(zone.serial)).expect("the SOA").records.len(), 1);
}

/// Instances of the zone that nobody reads to its end: some 50,000 records.
const LARGE: usize = 5000;
/// Clients that ask for it and do not read.
const STALLED: usize = 12;
/// What they may cost in all: a zone of records takes this much for each of them.
const STALLED_KIB_MAX: u64 = 24 * 1024;

/// Who asks for a zone and does not read it costs some messages, not a zone, and not for ever.
#[test]
fn who_does_not_read_is_given_up() {
    let server = Server::start(&["--store", "memory"]);
    let mut client = server.client();
    for n in 0..LARGE {
        let form = json!({"service": format!("svc-{}", n / 4), "id": format!("n{n}"), "address": "10.0.0.7", "port": 80,
                          "lease": "1h", "meta": {"text": "x".repeat(200)}});
        client.done("registered", &json!({ "register": form }));
    }
    let records = whole(&server).records.len();
    let before = harness::process::resident_kib(server.pid());
    let asked = secondary::question(APEX, None).to_vec().expect("a query");
    let stalled: Vec<TcpStream> = (0..STALLED)
        .map(|_| {
            let mut stream = connect(server.dns[0]);
            send_framed(&mut stream, &asked).expect("asking for the zone");
            stream
        })
        .collect();
    let mut most = before;
    harness::eventually("the end of all that do not read", harness::DEADLINE, || {
        most = most.max(harness::process::resident_kib(server.pid()));
        let page = server.http().get("/metrics");
        let failed = format!("callsign_transfers_total{{kind=\"failed\"}} {STALLED}");
        page.text().contains(&failed).then_some(())
    });
    drop(stalled);
    println!("transfers: records={records} stalled={STALLED} grown_kib={}", most - before);
    assert!(most - before < STALLED_KIB_MAX, "{} KiB for {STALLED} clients that do not read", most - before);
}

/// Over TLS as over TCP (RFC 9103); over HTTPS and QUIC it is refused.
#[test]
fn a_zone_comes_over_tls() {
    let kdig = harness::program::needs("kdig", "knot-dnsutils");
    let flags = ["--dot", "127.0.0.1:0", "--doq", "127.0.0.1:0", "--tls-self-signed", "--store", "memory"];
    let server = Server::start(&flags);
    let form = json!({"service": "web", "id": "a", "address": "10.0.0.7", "port": 80});
    server.client().done("registered", &json!({ "register": form }));
    let port = |start: &str| {
        let line = server.lines.iter().find_map(|line| line.strip_prefix(start)).expect("a listener");
        line.to_owned()
    };
    let ask = |port: &str, how: &str| {
        let words = ["@127.0.0.1", "-p", port, how, "service.local", "AXFR"];
        let output = std::process::Command::new(&kdig).args(words).output().expect("running kdig");
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let said = ask(&port("dot 127.0.0.1:"), "+tls");
    assert!(said.contains("a.web.service.local.") && said.contains("1 messages"), "{said}");
    let said = ask(&port("doq 127.0.0.1:"), "+quic");
    assert!(said.contains("REFUSED"), "{said}");
}

/// A tag and the name of a port may be as long as a label, and with `_` in front they are none.
#[test]
fn names_that_are_too_long_are_not_in_the_zone() {
    let server = Server::start(&["--store", "memory"]);
    let before = whole(&server);
    let (tag, port) = ("t".repeat(63), "p".repeat(63));
    let form = json!({"service": "web", "id": "web-1", "address": "10.0.0.7", "port": 80, "lease": "none",
                      "tags": [tag], "ports": {port: 81}});
    server.client().done("registered", &json!({ "register": form }));
    let lines = Secondary::new(&whole(&server)).lines;
    let owners: BTreeSet<String> = lines.iter().map(|line| line.0.to_string()).collect();
    assert!(owners.contains(&format!("{tag}.web.{APEX}")), "{owners:?}");
    let difference = transfer(server.dns[0], APEX, Some(before.serial())).expect("a difference");
    let mut follower = Secondary::new(&before);
    follower.apply(&difference).expect("it adds up");
    assert_eq!(follower.lines, lines);
}
