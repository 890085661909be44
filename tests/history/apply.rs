//! `apply`: what a feed says, or anybody, done line by line; twice is once.

use serde_json::{Value, json};

use crate::harness::{Draws, Ended, Server, seed};
use crate::picture::{
    Picture, apply, apply_with, ask, assert_same, command, fed, lines, listed, register, revision, status,
    without,
};

const STORES: [&[&str]; 2] = [&["--store", "memory"], &[]];

fn text(lines: &[Value]) -> Vec<u8> {
    lines.iter().flat_map(|line| format!("{line}\n").into_bytes()).collect()
}

/// A server with a registry that came about by commands of every kind; its revision.
fn grown(seed: u64, commands: usize, flags: &[&str]) -> (Server, u64) {
    let server = Server::start(flags);
    let (mut client, mut draws) = (server.client(), Draws(seed));
    for number in 0..commands {
        client.ask(&command(&mut draws));
        if number % 50 == 0 {
            let verdict = ["warning", "critical", "passing"][draws.below(3)];
            let report = json!({"host": "machine-1", "check": "disk", "status": verdict});
            client.done("reported", &json!({ "report": report }));
        }
    }
    // Leases of every kind, a drained one, and one that is held by what a label cannot spell.
    for (id, lease) in [("timed", "1h"), ("none", "none"), ("redis:6379", "none")] {
        let mut form = register("leases", id, 80);
        form["register"]["lease"] = json!(lease);
        client.done("registered", &form);
    }
    client.done("draining", &json!({"drain": {"service": "leases", "id": "none"}}));
    let revision = revision(&status(&server));
    (server, revision)
}

fn acknowledged(ended: &Ended, count: usize) {
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let acknowledgements = lines(&ended.stdout);
    assert_eq!(acknowledgements.len(), count, "one acknowledgement for each line");
    let refused = acknowledgements.iter().find(|line| line.get("error").is_some());
    assert_eq!(refused, None);
}

#[test]
fn an_empty_server_fed_from_the_start_is_the_same() {
    let seed = seed();
    println!("apply: seed {seed}");
    for store in STORES {
        let flags = [&["--known-for", "1s"], store].concat();
        let (source, until) = grown(seed, 600, &flags);
        let fed = ask(&source, &["feed", "--since", "0", "--most", &until.to_string()]).stdout;
        let changes = lines(&fed);
        let registry = listed(&source);
        assert!(!registry.is_empty() && changes.len() >= until as usize);
        let target = Server::start(&[&["--known-for", "24h"], store].concat());
        acknowledged(&apply(&target, fed.as_bytes()), changes.len());
        assert_same(&listed(&target), &registry, &format!("seed {seed}: once"));
        // Again from the start, over what came of it. Of an id that several hosts have, another instance may have
        // the plain label then: whoever came while those of the first time were still there took another.
        let registry = without(registry, &["label"]);
        acknowledged(&apply(&target, fed.as_bytes()), changes.len());
        assert_same(&without(listed(&target), &["label"]), &registry, &format!("seed {seed}: twice"));
        // A part of it again, as a queue delivers that was not acknowledged in time.
        let again = &changes[changes.len() - 20..];
        acknowledged(&apply(&target, &text(again)), again.len());
        assert_same(&without(listed(&target), &["label"]), &registry, &format!("seed {seed}: the end again"));
        let leases: Vec<Value> =
            target.client().list().iter().map(|instance| instance["lease"].clone()).collect();
        assert!(leases.iter().all(|lease| *lease == "none"), "they last until the feed says otherwise");
        println!("apply: {} changes, {} instances, store {store:?}", changes.len(), registry.len());
    }
}

#[test]
fn what_is_registered_now_is_enough_for_an_empty_server() {
    let seed = seed();
    println!("apply: seed {seed}");
    let (source, _) = grown(seed, 400, &["--store", "memory"]);
    // Hosts' checks, outputs and labels are history: they are not in what is registered now.
    let now = |server: &Server| -> Picture {
        let mut picture = without(listed(server), &["health", "live", "label"]);
        for check in picture.values_mut().filter_map(|facts| facts["checks"].as_array_mut()).flatten() {
            check["output"].take();
        }
        picture
    };
    let count = listed(&source).len();
    let printed = ask(&source, &["feed", "--most", &count.to_string()]).stdout;
    let target = Server::start(&["--store", "memory"]);
    acknowledged(&apply(&target, printed.as_bytes()), count);
    assert_same(&now(&target), &now(&source), &format!("seed {seed}"));
}

#[test]
fn commands_are_applied_as_well_as_changes() {
    let server = Server::start(&[]);
    let other = Server::start(&[]);
    other.client().done("registered", &register("db", "a", 5432));
    let change = &fed(&mut other.client(), Some(0), 1)[0];
    let mut timed = register("web", "b", 81);
    timed["register"]["lease"] = json!("1h");
    let said = [
        register("web", "a", 80),
        timed,
        json!({ "change": change }),
        json!({"report": {"service": "web", "id": "a", "status": "warning"}}),
        json!({"drain": {"service": "web", "id": "a"}}),
        json!({"heartbeat": {"service": "web", "id": "b"}}),
        json!({"lookup": {"id": "b"}}),
        json!({"deregister": {"service": "web", "id": "b"}}),
        json!({"deregister": {"service": "web", "id": "b"}}),
    ];
    // Lines may end as they do elsewhere, and there may be empty ones.
    let mut input = text(&said[..4]);
    input.extend(b"\n  \r\n");
    for line in &said[4..] {
        input.extend(format!("  {line}\r\n").into_bytes());
    }
    let ended = apply(&server, &input);
    acknowledged(&ended, said.len());
    let verbs: Vec<String> = lines(&ended.stdout).iter().map(verb).collect();
    let expected = [
        "registered",
        "registered",
        "registered",
        "reported",
        "draining",
        "renewed",
        "found",
        "deregistered",
        "deregistered",
    ];
    assert_eq!(verbs, expected);
    let existed: Vec<Value> =
        lines(&ended.stdout)[7..].iter().map(|reply| reply["deregistered"]["existed"].clone()).collect();
    assert_eq!(existed, [true, false]);
    let left = server.client().list();
    let left: Vec<_> =
        left.iter().map(|instance| (&instance["id"], &instance["health"], &instance["draining"])).collect();
    assert_eq!(
        left,
        [(&json!("a"), &json!("passing"), &json!(false)), (&json!("a"), &json!("warning"), &json!(true))]
    );
}

fn verb(reply: &Value) -> String {
    reply.as_object().and_then(|reply| reply.keys().next()).expect("a reply").clone()
}

#[test]
fn refused_lines_are_answered_and_the_rest_goes_on() {
    let server = Server::start(&[]);
    let long = format!("{{\"register\":{{\"service\":\"{}\"}}}}", "x".repeat(1 << 20));
    // A line that hides a command behind more octets than are read of one.
    let hiding =
        format!("{}{}", " ".repeat(8 * 96 * 1024), json!({"deregister": {"service": "web", "id": "first"}}));
    let refused: [(&[u8], &str); 12] = [
        (b"nonsense", "malformed"),
        (b"{\"register\":{\"service\":\"web\"", "malformed"),
        (b"[]", "malformed"),
        (b"{\"redister\":{\"service\":\"web\"}}", "unknown_verb"),
        (b"{\"register\":{\"service\":\"web\",\"port\":0}}", "invalid"),
        (b"{\"register\":{\"service\":\"web\",\"port\":80,\"tag\":[]}}", "invalid"),
        (b"{\"drain\":{\"service\":\"web\",\"id\":\"nobody\"}}", "not_found"),
        (b"{\"watch\":{}}", "invalid"),
        (b"{\"feed\":{\"since\":0}}", "invalid"),
        (b"\xff\xfe", "malformed"),
        (long.as_bytes(), "malformed"),
        (hiding.as_bytes(), "malformed"),
    ];
    let mut input = text(&[register("web", "first", 80)]);
    for (line, _) in refused {
        input.extend(line);
        input.push(b'\n');
    }
    input.extend(format!("{}", register("web", "last", 80)).into_bytes()); // the last line needs no end
    let ended = apply(&server, &input);
    let replies = lines(&ended.stdout);
    let codes: Vec<&Value> = replies.iter().map(|reply| &reply["error"]["code"]).collect();
    let mut expected = vec![Value::Null];
    expected.extend(refused.iter().map(|(_, code)| json!(code)));
    expected.push(Value::Null);
    assert_eq!(codes, expected.iter().collect::<Vec<_>>(), "{}", ended.stderr);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("12 lines were refused"), "{}", ended.stderr);
    let ids: Vec<Value> = server.client().list().iter().map(|instance| instance["id"].clone()).collect();
    assert_eq!(ids, ["first", "last"]);
}

#[test]
fn without_a_server_nothing_is_acknowledged() {
    let mut server = Server::start(&[]);
    server.crash();
    let ended = apply(&server, &text(&[register("web", "a", 80)]));
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(5), ""), "{}", ended.stderr);
}

#[test]
fn what_was_forgotten_is_acknowledged_and_changes_nothing() {
    let source = Server::start(&["--known-for", "1s"]);
    let mut client = source.client();
    client.done("registered", &register("web", "a", 80));
    client.done("deregistered", &json!({"deregister": {"service": "web", "id": "a"}}));
    let changes = fed(&mut source.client(), Some(0), 3); // the third is that it was forgotten
    assert_eq!(changes[2]["reason"], "forgotten");
    let wrapped: Vec<Value> = changes.iter().map(|change| json!({ "change": change })).collect();
    let target = Server::start(&["--known-for", "24h"]);
    acknowledged(&apply(&target, &text(&wrapped)), 3);
    assert_eq!(revision(&status(&target)), 2, "it forgets by its own clock");
}

#[test]
fn one_run_takes_the_last_live_instance_of_no_service() {
    let server = Server::start(&[]);
    let mut client = server.client();
    for (service, id) in [("web", "a"), ("web", "b"), ("web", "c"), ("db", "a")] {
        client.done("registered", &register(service, id, 80));
    }
    client.done("reported", &json!({"report": {"service": "web", "id": "c", "status": "critical"}}));
    let deregister = |service: &str, id: &str| json!({"deregister": {"service": service, "id": id}});
    // The critical one is none that is answered.
    let said =
        [deregister("web", "a"), deregister("web", "b"), deregister("db", "a"), deregister("web", "c")];
    let ended = apply_with(&[], &server, &text(&said));
    assert_eq!(ended.code, Some(1));
    let replies = lines(&ended.stdout);
    let verbs: Vec<String> = replies.iter().map(verb).collect();
    assert_eq!(verbs, ["deregistered", "error", "error", "deregistered"]);
    for refused in &replies[1..3] {
        assert_eq!(refused["error"]["code"], "last", "{refused}");
    }
    // One alone is meant, and so is what is allowed.
    assert_eq!(apply_with(&[], &server, &text(&said[1..2])).code, Some(0));
    for id in ["a", "b"] {
        client.done("registered", &register("web", id, 80));
    }
    acknowledged(&apply(&server, &text(&said)), said.len());
    assert_eq!(client.list(), Vec::<Value>::new());
}
