//! Exported, imported, exported again: the same, whatever the store.

use std::path::PathBuf;

use hickory_proto::rr::RecordType;
use serde_json::{Value, json};

use crate::full::{FLAGS, assert_same, at, done, exported, fill};
use crate::harness::{Draws, Server, seed};
use crate::picture::command;
use crate::secondary::{Secondary, transfer};

fn start(flags: &[&str]) -> Server {
    Server::start(&[&FLAGS, flags].concat())
}

/// The registry of a server in a file beside it.
pub fn file(server: &Server) -> PathBuf {
    let path = server.directory().join("registry.jsonl");
    done(server, &["export", &path.display().to_string()]);
    path
}

/// What an import counts.
pub fn import(server: &Server, words: &[&str]) -> Value {
    serde_json::from_str(&done(server, &[&["import", "-o", "json"], words].concat())).expect("counts")
}

fn counts(imported: usize, there: usize, kept: usize, removed: usize) -> Value {
    json!({"imported": imported, "there": there, "kept": kept, "removed": removed, "refused": 0})
}

/// The counts without the serial.
fn without_serial(mut counts: Value) -> Value {
    counts.as_object_mut().expect("counts").remove("serial");
    counts
}

fn serial(server: &Server) -> u32 {
    let status = server.client().done("status", &json!({"status": {}}));
    status["serial"].as_u64().and_then(|serial| u32::try_from(serial).ok()).expect("a serial")
}

/// RFC 1982.
fn is_above(serial: u32, other: u32) -> bool {
    (1..1 << 31).contains(&serial.wrapping_sub(other))
}

#[test]
fn a_registry_with_everything_is_the_same_on_another_store() {
    let source = start(&[]);
    let (holder, token) = fill(&source);
    let (head, lines) = exported(&source);
    assert_eq!((&head["version"], &head["program"]), (&json!(1), &json!(env!("CARGO_PKG_VERSION"))));
    assert_eq!(head["serial"].as_u64(), Some(u64::from(serial(&source))));
    assert!(
        !lines.iter().any(|line| line.to_string().contains(&token[token.len() - 64..])),
        "no secret is in it"
    );
    let path = file(&source).display().to_string();
    for store in [&["--store", "memory"][..], &[]] {
        let target = start(store);
        assert_eq!(without_serial(import(&target, &[&path])), counts(lines.len(), 0, 0, 0));
        let (_, again) = exported(&target);
        assert_same(&again, &lines, &format!("store {store:?}"));
        assert!(is_above(serial(&target), serial(&source)), "{} {}", serial(&target), serial(&source));
        // Twice is once, with --replace too.
        let before = serial(&target);
        assert_eq!(without_serial(import(&target, &[&path])), counts(0, lines.len(), 0, 0));
        assert_eq!(without_serial(import(&target, &[&path, "--replace"])), counts(0, lines.len(), 0, 0));
        assert_eq!(serial(&target), before);
        // The token is who it was there, and what is a token's is its own.
        let mut client = target.tcp_client();
        client.done("welcome", &json!({"hello": {"token": token}}));
        let form = json!({"service": "db", "id": "of-a-token"});
        client.done("renewed", &json!({ "heartbeat": form }));
        client.done("deregistered", &json!({ "deregister": form }));
    }
    drop(holder);
}

#[test]
fn the_checks_of_the_longest_ids_move_too() {
    let (source, target) = (Server::start(&[]), Server::start(&[]));
    let id = "i".repeat(255);
    let check = json!({"TCP": "127.0.0.1:1", "Interval": "10s"});
    let service = json!({"Name": "web", "ID": id, "Address": "10.0.0.7", "Port": 80, "Check": check});
    let mut http = source.http();
    http.put("/v1/agent/service/register", &service);
    let maintenance = format!("/v1/agent/service/maintenance/{id}?enable=true");
    http.put(&maintenance, &Value::Null);
    let (_, lines) = exported(&source);
    let path = file(&source).display().to_string();
    assert_eq!(without_serial(import(&target, &[&path])), counts(lines.len(), 0, 0, 0));
    assert_same(&exported(&target).1, &lines, "an id of 255 octets");
}

#[test]
fn a_dash_is_stdout_and_what_is_replaced_is_told() {
    let source = start(&["--store", "memory"]);
    let form = json!({"service": "web", "id": "a", "address": "10.0.0.7", "port": 80, "lease": "none"});
    source.client().done("registered", &json!({ "register": form }));
    let (_, lines) = exported(&source);
    assert_eq!(lines.len(), 1);
    // Its lines and nothing else: the first, the last, and those between them.
    let printed = done(&source, &["export", "-"]);
    assert_eq!(printed.lines().count(), lines.len() + 2, "{printed}");
    assert!(printed.starts_with("{\"callsign\":"), "{printed}");
    let path = source.directory().join("registry.jsonl").display().to_string();
    assert_eq!(done(&source, &["export", &path]), format!("{path}: 1 line\n"));
    let again = done(&source, &["export", &path]);
    assert_eq!(again, format!("{path}: 1 line; the one that was there is replaced\n"));
}

#[test]
fn leases_begin_anew_and_holders_go_on() {
    let source = start(&[]);
    let mut client = source.client();
    let form = json!({"service": "web", "id": "a", "address": "10.0.0.7", "port": 80, "lease": "1h"});
    let lease_id = client.done("registered", &json!({ "register": form }))["lease_id"].clone();
    let target = start(&["--store", "memory"]);
    import(&target, &[&file(&source).display().to_string()]);
    let left = target.client().list()[0]["lease_left_ms"].as_u64().expect("a lease that ends");
    assert!(left > 3_590_000, "one whole lease, of which {left} ms are left");
    // Whoever held it there holds it here, and a second holder's end is not the first one's.
    let mut heartbeat = json!({"service": "web", "id": "a", "lease_id": lease_id});
    target.client().done("renewed", &json!({ "heartbeat": heartbeat }));
    heartbeat["lease_id"] = json!("0000000000000001");
    assert_eq!(target.client().done("error", &json!({ "heartbeat": heartbeat }))["code"], "superseded");
}

#[test]
fn what_is_there_already_stays_unless_it_is_to_be_replaced() {
    let source = start(&[]);
    let mut client = source.client();
    let register = |id: &str, port: u16| json!({"register": {"service": "web", "id": id, "host": "m", "address": "10.0.0.7", "port": port, "lease": "none"}});
    for (id, port) in [("a", 1), ("b", 2)] {
        client.done("registered", &register(id, port));
    }
    client.done("settings", &json!({"settings": {"service": "web", "ttl": "7s"}}));
    client.done("created", &json!({"token": {"create": {"name": "ci", "allow": ["read"]}}}));
    client.done("reported", &json!({"report": {"host": "m", "check": "disk", "status": "passing"}}));
    let (_, lines) = exported(&source);
    let path = file(&source).display().to_string();
    let target = start(&[]);
    let mut client = target.client();
    for request in [register("a", 9), register("c", 3)] {
        client.done("registered", &request);
    }
    for service in ["web", "db"] {
        client.done("settings", &json!({"settings": {"service": service, "ttl": "9s"}}));
    }
    for name in ["ci", "other"] {
        client.done("created", &json!({"token": {"create": {"name": name, "allow": ["watch"]}}}));
    }
    for host in ["m", "n"] {
        client.done("reported", &json!({"report": {"host": host, "check": "disk", "status": "warning"}}));
    }
    let (_, before) = exported(&target);
    let ended = at(&target, &["import", &path, "-o", "json"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(without_serial(serde_json::from_str(&ended.stdout).expect("counts")), counts(1, 0, 4, 0));
    for (line, name) in [(2, "the token ci"), (3, "the host m"), (4, "the settings of web"), (5, "web/a@m")] {
        let said = format!("registry.jsonl:{line}: {name} is here already, and otherwise; it stays as it is");
        assert!(ended.stderr.contains(&said), "{said}: {}", ended.stderr);
    }
    let (_, after) = exported(&target);
    assert!(before.iter().all(|line| after.contains(line)), "nothing was taken away or changed");
    assert_eq!(after.len(), before.len() + 1);
    // As the file has it: changed are four, and not in the file are an instance, settings, a token and a host.
    assert_eq!(without_serial(import(&target, &[&path, "--replace"])), counts(4, 1, 0, 4));
    assert_same(&exported(&target).1, &lines, "replaced");
}

/// What is in the way of a line and not in the file goes, and so does what another line makes otherwise: one run is enough.
#[test]
fn one_replacement_reaches_what_the_file_says() {
    let [source, target] = [start(&["--store", "memory"]), start(&["--store", "memory"])];
    let records = |owner: &str, rtype: &str, data: &str| {
        let records = json!({"zone": "service.local.", "owner": format!("{owner}.service.local."), "type": rtype, "ttl": 300,
            "data": [data]});
        json!({"import": {"line": {"records": records}}})
    };
    let register = |service: &str, id: &str, host: &str| json!({"register": {"service": service, "id": id, "host": host, "address": "10.0.0.7", "port": 80, "lease": "none"}});
    let fails = |service: &str, over: &[&str]| json!({"settings": {"service": service, "failover": over}});
    let token = |name: &str| {
        json!({"import": {"line": {"token": {"name": name, "number": "00000000000000aa", "hash": "ab".repeat(32),
            "allow": ["read"], "created": "2026-11-21T15:04:05Z"}}}})
    };
    // A name that is a record's here and a service's there, both ways; an alias; a circle if both were to hold at once; a token
    // of another name; and an id whose label another host has.
    for (client, given) in [
        (
            &mut source.client(),
            [
                records("printer", "A", "10.0.0.99"),
                records("www", "CNAME", "a.example.com."),
                register("shop", "a", "m"),
                register("web", "w", "first"),
                fails("a", &["b"]),
                fails("b", &[]),
                token("ours"),
            ],
        ),
        (
            &mut target.client(),
            [
                register("printer", "p", "m"),
                records("www", "TXT", "text"),
                records("shop", "A", "10.0.0.98"),
                register("web", "w", "second"),
                fails("a", &[]),
                fails("b", &["a"]),
                token("theirs"),
            ],
        ),
    ] {
        for request in given {
            let reply = client.ask(&request);
            assert!(reply.get("error").is_none(), "{request}: {reply}");
        }
    }
    let (_, lines) = exported(&source);
    let path = file(&source).display().to_string();
    // It would be of another registry: one of the services here has no instance in it.
    let (_, before) = exported(&target);
    let refused = at(&target, &["import", &path, "--replace"]);
    let said = "has no instance of printer, and nothing was changed; with --allow-empty they are taken away";
    assert_eq!((refused.code, refused.stderr.contains(said)), (Some(1), true), "{}", refused.stderr);
    assert_eq!(exported(&target).1, before);
    let counted = import(&target, &[&path, "--replace", "--allow-empty"]);
    assert_eq!(counted["refused"], 0, "{counted}");
    assert_same(&exported(&target).1, &lines, "after one run");
    assert_eq!(without_serial(import(&target, &[&path, "--replace"])), counts(0, lines.len(), 0, 0));
}

/// An export of a program that had no lines for records says how many it left out: nothing is known of those, so they stay.
#[test]
fn an_export_that_left_records_out_is_taken_in() {
    let [source, target] = [start(&["--store", "memory"]), start(&["--store", "memory"])];
    source.client().done("settings", &json!({"settings": {"service": "web", "ttl": "7s"}}));
    let records = json!({"zone": "service.local.", "owner": "printer.service.local.", "type": "A", "ttl": 300, "data": ["10.0.0.99"]});
    let mut client = target.client();
    client.done("imported", &json!({"import": {"line": {"records": records}}}));
    client.done("settings", &json!({"settings": {"service": "db", "ttl": "7s"}}));
    let path = file(&source);
    let text = std::fs::read_to_string(&path).expect("an export");
    std::fs::write(&path, text.replace("{\"lines\":1}", "{\"lines\":1,\"records_left_out\":3}"))
        .expect("writing it");
    let ended = at(&target, &["import", &path.display().to_string(), "--replace"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let said = "registry.jsonl: 3 records that were set by UPDATE are not in it; those that are here stay";
    assert!(ended.stderr.contains(said), "{}", ended.stderr);
    assert!(
        ended.stdout.starts_with("1 imported, 0 there already, 0 otherwise here and kept, 1 removed"),
        "{}",
        ended.stdout
    );
    assert_eq!(exported(&target).1.len(), 2);
}

/// Names are spelt in any case, and are the same.
#[test]
fn records_spelt_in_another_case_are_no_others() {
    let [source, target] = [start(&["--store", "memory"]), start(&["--store", "memory"])];
    for (server, owner) in [(&source, "printer.service.local."), (&target, "Printer.Service.local.")] {
        let records =
            json!({"zone": "service.local.", "owner": owner, "type": "A", "ttl": 300, "data": ["10.0.0.99"]});
        server.client().done("imported", &json!({"import": {"line": {"records": records}}}));
    }
    let path = file(&source).display().to_string();
    assert_eq!(without_serial(import(&target, &[&path, "--replace"])), counts(0, 1, 0, 0));
    assert_eq!(exported(&target).1.len(), 1);
}

#[test]
fn neither_revision_nor_serial_falls_over_an_import_and_a_crash() {
    let source = start(&["--store", "memory"]);
    let mut client = source.client();
    // More changes than the seconds that the target is younger.
    for number in 0..300 {
        let form =
            json!({"service": "web", "id": "a", "address": "10.0.0.7", "port": 1 + number, "lease": "none"});
        client.done("registered", &json!({ "register": form }));
    }
    let path = file(&source).display().to_string();
    let data = tempfile::tempdir().expect("a directory");
    let data = data.path().display().to_string();
    let mut target = start(&["--data", &data]);
    let before = serial(&target);
    let of_file = serial(&source);
    assert!(is_above(of_file, before), "the serial has something to rise above: {of_file} {before}");
    import(&target, &[&path]);
    let imported = serial(&target);
    assert!(is_above(imported, of_file) && imported - of_file <= 2, "{imported}, and {of_file} there");
    let soa = target.resolver().udp("service.local.", RecordType::SOA);
    assert!(format!("{soa:?}").contains(&imported.to_string()), "{soa:?}");
    // Further than a server reserves by itself.
    let head = json!({"version": 1, "program": "", "at": "", "revision": 1, "serial": imported + 200_000, "serial_base": 1});
    let raised = target.client().done("imported", &json!({"import": {"line": {"callsign": head}}}));
    assert_eq!(raised["serial"], imported + 200_001);
    target.crash();
    let target = start(&["--data", &data]);
    assert!(is_above(serial(&target), imported + 200_001), "{} after {imported}", serial(&target));
    assert_eq!(exported(&target).1, exported(&source).1);
}

#[test]
fn secondaries_of_either_server_have_the_zone_afterwards() {
    const APEX: &str = "service.local.";
    let source = start(&["--store", "memory"]);
    let register = |id: usize| json!({"register": {"service": "web", "id": format!("a{id}"), "address": "10.0.0.7", "port": 80, "lease": "none"}});
    let mut client = source.client();
    for number in 0..300 {
        client.done("registered", &register(number % 7));
    }
    let zone = |server: &Server, since| transfer(server.dns[0], APEX, since).expect("the zone");
    let theirs = Secondary::new(&zone(&source, None));
    for store in [&["--store", "memory"][..], &[]] {
        let target = start(store);
        target.client().done("registered", &register(1000));
        let mut own = Secondary::new(&zone(&target, None));
        assert!(is_above(theirs.serial, own.serial), "there is something to rise above");
        import(&target, &[&file(&source).display().to_string()]);
        let whole = Secondary::new(&zone(&target, None));
        // Its own follows by what has changed.
        let came = zone(&target, Some(own.serial));
        assert!(came.is_difference());
        own.apply(&came).expect("a difference that fits");
        assert_eq!((own.serial, &own.lines), (whole.serial, &whole.lines), "store {store:?}");
        // That of the other server has a serial that was none of ours, and another zone.
        let came = zone(&target, Some(theirs.serial));
        assert!(!came.is_difference() && came.records.len() > 2, "store {store:?}");
        assert_eq!(Secondary::new(&came).lines, whole.lines);
    }
}

#[test]
fn drawn_registries_are_the_same() {
    let seed = seed();
    println!("moving: seed {seed}");
    let mut draws = Draws(seed);
    for round in 0..3 {
        let source = start([&["--store", "memory"][..], &[]][round % 2]);
        let mut client = source.client();
        for _ in 0..250 {
            client.ask(&command(&mut draws));
        }
        let (_, lines) = exported(&source);
        let target = start([&[], &["--store", "memory"][..]][round % 2]);
        let counted = import(&target, &[&file(&source).display().to_string()]);
        assert_eq!(without_serial(counted), counts(lines.len(), 0, 0, 0), "seed {seed}");
        assert_same(&exported(&target).1, &lines, &format!("seed {seed}, round {round}"));
        println!("moving: round {round}, {} lines", lines.len());
    }
}
