//! Bad input on the registration socket: a clear error, nothing lost, memory flat.
//!
//! `REFUSED` is the table: a line, and the code, the field and a phrase of the message that it gets. What is
//! long, slow or many has a test of its own. Each looks, at the end, at what was registered before.

#[path = "registration/refused.rs"]
mod refused;

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hickory_proto::rr::RecordType;
use serde_json::{Value, json};

use crate::harness::dns::ports;
use crate::harness::process::{descriptors, resident_kib};
use refused::{REFUSED, over_a_limit};

use crate::harness::{Client, DEADLINE, Server, Stream, eventually, now, srv};

/// What one abuse may leave behind: buffers that the allocator keeps. Far below what was sent.
const GROWTH_KIB_MAX: u64 = 24 * 1024;
/// The same where as many connections may be open at once as the server has, 10,000, with buffers of 8 KiB each and a task.
const GROWTH_KIB_MAX_CONNECTIONS: u64 = 112 * 1024;
/// Four pages of a list for each of the clients that do not read.
const GROWTH_KIB_MAX_UNREAD: u64 = 64 * 1024;
/// The longest line that the protocol has, without its end.
const LINE_OCTETS_MAX: usize = 96 * 1024;

/// What is registered before the abuse, and has to be there after it.
const KEPT: usize = 100;

fn server_with_instances(flags: &[&str]) -> Server {
    let server = Server::start(flags);
    let mut client = server.client();
    for number in 1..=KEPT {
        let name = format!("kept-{number}");
        let form =
            json!({"service": name, "id": name, "address": "10.0.0.7", "port": number, "lease": "none"});
        client.done("registered", &json!({ "register": form }));
    }
    server
}

/// Nothing was lost and nothing was added.
fn nothing_changed(server: &Server) {
    let mut client = server.client();
    let mut ports: Vec<u64> =
        client.list().iter().map(|instance| instance["port"].as_u64().expect("a port")).collect();
    ports.sort_unstable();
    assert_eq!(ports, (1..=KEPT as u64).collect::<Vec<_>>());
    let status = client.done("status", &json!({"status": {}}));
    assert_eq!(status["revision"], KEPT, "what was refused has no revision");
}

fn is_refused(reply: &Value, line: &str, code: &str, field: &str, phrase: &str) {
    let error = &reply["error"];
    let shown: String = line.chars().take(200).collect();
    assert_eq!(error["code"], code, "{shown} was answered {reply}");
    assert_eq!(error["field"].as_str().unwrap_or("-"), field, "{shown} was answered {reply}");
    let message = error["message"].as_str().unwrap_or_default();
    assert!(message.contains(phrase), "{shown} was answered {reply}");
    // A message goes onto a terminal, and into one line of a log.
    assert!(!message.chars().any(char::is_control) && message.chars().count() < 500, "{message:?}");
}

#[test]
fn every_bad_line_is_refused_with_a_reason() {
    let server = server_with_instances(&["--listen", "127.0.0.1:0"]);
    for mut client in [server.client(), server.tcp_client()] {
        for (line, code, field, phrase) in REFUSED {
            is_refused(&client.ask_line(line.as_bytes()), line, code, field, phrase);
        }
        for (line, field, phrase) in over_a_limit() {
            is_refused(&client.ask_line(line.as_bytes()), &line, "invalid", field, phrase);
        }
        // The connection is as good as it was.
        assert_eq!(client.list().len(), KEPT);
    }
    nothing_changed(&server);
}

#[test]
fn what_is_not_utf8_or_too_deep_is_refused() {
    let server = server_with_instances(&[]);
    let mut client = server.client();
    let before = resident_kib(server.pid());
    for _ in 0..100 {
        is_refused(&client.ask_line(b"\xff\xfe"), "", "malformed", "-", "octet 1 of the line is not UTF-8");
        let line = b"{\"register\":{\"service\":\"w\xc3\xb6\xffb\"}}";
        is_refused(&client.ask_line(line), "", "malformed", "-", "octet 28 of the line is not UTF-8");
        for (opening, count) in [("[", 65_000), ("{\"a\":", 13_000)] {
            let reply = client.ask_line(opening.repeat(count).as_bytes());
            assert!(
                ["malformed", "unknown_verb"].contains(&reply["error"]["code"].as_str().unwrap_or("")),
                "{reply}"
            );
        }
        let deep = format!("{{\"register\":{{\"service\":{}", "[".repeat(60_000));
        is_refused(&client.ask_line(deep.as_bytes()), "", "invalid", "service", "expected a string");
        let deep = format!("{{\"register\":{{\"nonsense\":{}", "{\"a\":".repeat(12_000));
        is_refused(&client.ask_line(deep.as_bytes()), "", "invalid", "nonsense", "unknown field");
    }
    grew_little(&server, before, "lines that are too deep");
    nothing_changed(&server);
}

fn grew_little(server: &Server, before: u64, what: &str) {
    grew_at_most(server, before, GROWTH_KIB_MAX, what);
}

fn grew_at_most(server: &Server, before: u64, max: u64, what: &str) {
    let after = resident_kib(server.pid());
    println!("memory: {what}: {before} KiB before, {after} KiB after");
    assert!(after < before + max, "{what}: {before} KiB before, {after} KiB after");
}

#[test]
fn a_line_of_64_kib_is_taken_and_one_octet_more_is_not() {
    let server = server_with_instances(&[]);
    let mut client = server.client();
    let padded = |octets: usize| {
        let request = r#"{"status":{}}"#;
        format!("{}{request}", " ".repeat(octets - request.len()))
    };
    assert!(client.ask_line(padded(LINE_OCTETS_MAX).as_bytes()).get("status").is_some());
    let reply = client.ask_line(padded(LINE_OCTETS_MAX + 1).as_bytes());
    is_refused(&reply, "", "too_large", "-", "longer than 98304 octets");
    assert_eq!(client.next(), None, "the connection is closed");
    nothing_changed(&server);
}

/// The replies that arrive while `octets` octets without a newline are written, or as many as are taken.
fn flood(mut client: Client, octets: u64) -> (Vec<Value>, u64) {
    let mut stream: Stream = client.stream();
    let writing = std::thread::spawn(move || {
        let piece = vec![b'x'; 1 << 20];
        let mut written = 0;
        while written < octets && stream.write_all(&piece).is_ok() {
            written += piece.len() as u64;
        }
        written
    });
    let replies = std::iter::from_fn(|| client.next()).collect();
    (replies, writing.join().expect("the writer ends when the server closes"))
}

#[test]
fn a_line_of_1_gib_is_cut_off() {
    const GIB: u64 = 1 << 30;
    let server = server_with_instances(&["--listen", "127.0.0.1:0"]);
    let before = resident_kib(server.pid());
    for client in [server.client(), server.tcp_client()] {
        let (replies, written) = flood(client, GIB);
        println!("a line of 1 GiB: {written} octets were taken before the connection was closed");
        assert_eq!(replies.len(), 1, "{replies:?}");
        is_refused(&replies[0], "", "too_large", "-", "longer than 98304 octets");
    }
    grew_little(&server, before, "two lines of 1 GiB");
    nothing_changed(&server);
}

/// Registrations that are as large as they can be, each in another way, and too large in all of them.
fn hostile_lines() -> Vec<String> {
    let room = LINE_OCTETS_MAX - 1024;
    let form =
        |more: &str| format!(r#"{{"register":{{"service":"bomb","address":"10.0.0.7","port":80,{more}}}}}"#);
    let many = |one: &str| vec![one; room / (one.len() + 1)].join(",");
    let lines = [
        "[".repeat(room),
        r#"{"a":"#.repeat(room / 5),
        form(&format!(r#""meta":{{{}}}"#, many(r#""k":"v""#))),
        form(&format!(r#""meta":{{"k":"{}"}}"#, "v".repeat(room - 200))),
        form(&format!(r#""tags":[{}]"#, many(r#""t""#))),
        form(&format!(r#""tags":[{}]"#, "[".repeat(room - 200))),
        form(&format!(r#""ports":{{{}}}"#, many(r#""p":1"#))),
        form(&format!(r#""checks":[{}]"#, many(r#"{"id":"c","tcp":"x"}"#))),
        form(&format!(r#""address":[{}]"#, many(r#""10.0.0.7""#))),
        format!(r#"{{"register":{{"service":"{}"}}}}"#, "\\u0061".repeat(room / 6 - 20)),
        format!(r#"{{"register":{{"service":"bomb","port":{}}}}}"#, "9".repeat(room - 100)),
    ];
    assert!(lines.iter().all(|line| line.len() < LINE_OCTETS_MAX));
    lines.into()
}

/// `CALLSIGN_HOSTILE_MIB=1024` makes it the GiB that the bound is meant for.
#[test]
fn hostile_registrations_cost_no_memory_and_nobody_else() {
    /// The bound that we hold ourselves to.
    const GROWTH_KIB: u64 = 32 * 1024;
    const CLIENTS: usize = 4;
    let mib = std::env::var("CALLSIGN_HOSTILE_MIB").map_or(128, |text| text.parse().expect("a number"));
    let octets: usize = mib << 20;
    let server = server_with_instances(&[]);
    let before = resident_kib(server.pid());
    let lines = hostile_lines();
    let said = std::thread::scope(|scope| {
        let (server, lines) = (&server, &lines);
        let hostile = |_| {
            scope.spawn(move || {
                let (mut client, mut said) = (server.client(), 0);
                for line in lines.iter().cycle() {
                    let reply = client.ask_line(line.as_bytes());
                    assert!(reply["error"]["code"].is_string(), "{reply}");
                    said += line.len();
                    if said >= octets / CLIENTS {
                        return said;
                    }
                }
                said
            })
        };
        let hostile: Vec<_> = (0..CLIENTS).map(hostile).collect();
        // Meanwhile others are served.
        let (mut other, mut resolver, mut served) = (server.client(), server.resolver(), 0);
        while !hostile.iter().all(|thread| thread.is_finished()) {
            assert_eq!(other.list().len(), KEPT);
            assert_eq!(ports(&resolver.udp(&srv("kept-1"), RecordType::SRV)).len(), 1);
            served += 1;
        }
        println!("{served} lists and queries were answered meanwhile");
        hostile.into_iter().map(|thread| thread.join().expect("a client")).sum::<usize>()
    });
    println!("{} MiB of hostile registrations", said >> 20);
    assert!(said >= octets);
    grew_at_most(&server, before, GROWTH_KIB, "hostile registrations");
    nothing_changed(&server);
}

#[test]
fn half_a_line_and_then_silence_is_given_up() {
    const SILENT: usize = 50;
    let server = server_with_instances(&[]);
    let mut silent: Vec<Client> = (0..SILENT).map(|_| server.client()).collect();
    for client in &mut silent {
        client.send_raw(b"{\"register\":{\"service\":\"web\"").expect("sending half a line");
    }
    // Nobody else waits for them.
    let mut other = server.client();
    assert_eq!(other.list().len(), KEPT);
    for mut client in silent {
        let reply = client.receive();
        is_refused(&reply, "", "timeout", "-", "end each request with a newline");
        assert_eq!(client.next(), None, "the connection is closed");
    }
    nothing_changed(&server);
}

#[test]
fn half_a_line_and_then_the_end_asks_for_nothing() {
    let server = server_with_instances(&[]);
    let mut client = server.client();
    client.send_raw(br#"{"register":{"service":"web","address":"10.0.0.7","port":80}}"#).expect("sending");
    client.finish();
    assert_eq!(client.next(), None);
    nothing_changed(&server);
}

#[test]
fn a_silent_client_without_a_line_may_stay() {
    let server = server_with_instances(&[]);
    let mut client = server.client();
    let half = server.client();
    drop(half);
    // One that begins a line after the others' time was over is served as any other.
    let mut slow = server.client();
    slow.send_raw(b"{").expect("sending");
    is_refused(&slow.receive(), "", "timeout", "-", "10 s");
    assert_eq!(client.list().len(), KEPT);
}

#[test]
fn connections_opened_and_dropped_leave_nothing() {
    const CONNECTIONS: usize = 20_000;
    const THREADS: usize = 4;
    let server = server_with_instances(&["--listen", "127.0.0.1:0"]);
    let mut holder = server.client();
    let held = json!({"register": {"service": "held", "id": "held", "address": "10.0.0.7", "port": KEPT + 1,
                                   "lease": "connection"}});
    holder.done("registered", &held);
    let (before, open) = (resident_kib(server.pid()), descriptors(server.pid()));
    let start = now();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let server = &server;
            scope.spawn(move || {
                for number in 0..CONNECTIONS / THREADS {
                    let mut client = if thread % 2 == 0 { server.client() } else { server.tcp_client() };
                    // Some say nothing, some half a line, some a whole one without waiting for its reply. A
                    // server that has closed already is not what is looked at here.
                    drop(match number % 3 {
                        0 => Ok(()),
                        1 => client.send_raw(b"{\"lookup\":"),
                        _ => client.send_raw(b"{\"lookup\":{\"id\":\"kept-1\"}}\n"),
                    });
                }
            });
        }
    });
    eventually("the end of every dropped connection", DEADLINE, || {
        (descriptors(server.pid()) <= open).then_some(())
    });
    println!("{CONNECTIONS} connections opened and dropped in {:.1} s", start.elapsed().as_secs_f64());
    grew_at_most(&server, before, GROWTH_KIB_MAX_CONNECTIONS, "20,000 connections");
    // Who held on is still there.
    assert_eq!(server.client().list().len(), KEPT + 1);
    holder.done("deregistered", &json!({"deregister": {"service": "held", "id": "held"}}));
    assert_eq!(server.client().list().len(), KEPT);
}

#[test]
fn idle_connections_do_not_push_out_who_holds_a_lease() {
    /// As many as the server has, and some more.
    const IDLE: usize = 10_100;
    let server = Server::start(&[]);
    let mut holder = server.client();
    let held = json!({"register": {"service": "held", "id": "held", "address": "10.0.0.7", "port": 1,
                                   "lease": "connection"}});
    holder.done("registered", &held);
    let _ours = many_descriptors();
    let idle: Vec<_> = (0..IDLE).map(|_| UnixStream::connect(&server.socket)).collect();
    assert!(
        idle.iter().all(Result::is_ok),
        "every connection is taken; it takes `ulimit -Hn` of 10,300 or more"
    );
    // The newest is served, so all before it were accepted and the oldest have gone.
    assert_eq!(server.client().list().len(), 1, "the instance of a living holder");
    assert_eq!(holder.list().len(), 1, "its connection");
}

#[test]
fn who_takes_every_place_puts_nobody_else_out() {
    /// As many as the server has.
    const PLACES: usize = 10_000;
    const AT_ONCE: usize = 101;
    let server =
        Server::start(&["--store", "memory", "--listen", "127.0.0.1:0", "--identity-instances-max", "20000"]);
    let form = |service: &str, number: usize| {
        json!({"register": {"service": service, "id": format!("i-{number}"), "address": "10.0.0.7", "port": 1,
                            "lease": "connection"}})
    };
    // Over loopback nobody has said who they are: another holder than whoever comes over the Unix socket.
    let mut victim = server.tcp_client();
    victim.done("registered", &form("held", 0));
    let _ours = many_descriptors();
    let mut many: Vec<UnixStream> = Vec::new(); // a client of ours has two descriptors
    while many.len() < PLACES - 1 {
        let connect = || UnixStream::connect(&server.socket).expect("the socket accepts");
        let mut more: Vec<UnixStream> = (0..AT_ONCE).map(|_| connect()).collect();
        for (at, stream) in more.iter_mut().enumerate() {
            let line = format!("{}\n", form("many", many.len() + at));
            stream.write_all(line.as_bytes()).expect("it reads");
        }
        for (at, stream) in more.iter_mut().enumerate() {
            let mut reply = [0; 13];
            stream.set_read_timeout(Some(DEADLINE)).expect("a socket");
            let read = stream.read_exact(&mut reply);
            assert!(read.is_ok() && reply == *b"{\"registered\"", "{}: {read:?}, {reply:?}", many.len() + at);
        }
        many.append(&mut more);
    }
    assert_eq!(many.len(), PLACES - 1);
    // One more than there are places: who has taken most of them gives up one of its oldest.
    let _another = server.client();
    let ended = |stream: &mut UnixStream| {
        stream.set_nonblocking(true).expect("a socket");
        io::copy(stream, &mut io::sink()).is_ok()
    };
    eventually("the end of one of them", DEADLINE, || many[..AT_ONCE].iter_mut().any(ended).then_some(()));
    let held = victim.done("instances", &json!({"list": {"service": "held"}}));
    assert_eq!(held["instances"].as_array().map(Vec::len), Some(1), "over its own connection");
}

/// Ten thousand connections take more than the usual soft limit of 1024, and those of two tests more than the hard
/// limit of some machines: one test has them at a time, as long as it holds this.
fn many_descriptors() -> impl Drop {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("our own limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("our own limit, up to the hard one");
    turn
}

#[test]
fn a_full_registry_refuses_the_new_and_renews_the_old() {
    let server = Server::start(&["--instances-max", "3"]);
    let mut client = server.client();
    let form = |number: usize, port: u16| json!({"register": {"service": "web", "id": format!("web-{number}"), "address": "10.0.0.7", "port": port}});
    for number in 1..=3 {
        client.done("registered", &form(number, 80));
    }
    let reply = client.ask(&form(4, 80));
    is_refused(&reply, "", "full", "-", "(3 instances)");
    is_refused(&reply, "", "full", "-", "raise `instances-max`");
    // Registering again what is there is a renewal, full or not.
    client.done("registered", &form(3, 81));
    client.done("renewed", &json!({"heartbeat": {"service": "web", "id": "web-1"}}));
    client.done("deregistered", &json!({"deregister": {"service": "web", "id": "web-1"}}));
    client.done("registered", &form(4, 80));
    is_refused(&client.ask(&form(5, 80)), "", "full", "-", "(3 instances)");
    let mut ids: Vec<String> = client.list().iter().map(|instance| instance["id"].to_string()).collect();
    ids.sort();
    assert_eq!(ids, ["\"web-2\"", "\"web-3\"", "\"web-4\""]);
}

#[test]
fn a_registration_at_every_limit_is_taken() {
    let server = Server::start(&[]);
    let mut client = server.client();
    let words =
        |count: usize| (0..count).map(|number| format!("{number:02}{}", "w".repeat(61))).collect::<Vec<_>>();
    let form = json!({
        "service": "s".repeat(62), "id": "i".repeat(255), "host": "h".repeat(253),
        "address": (1..=16).map(|number| format!("10.0.0.{number}")).collect::<Vec<_>>(),
        "ports": words(32).into_iter().map(|name| (name, json!(65_535))).collect::<serde_json::Map<_, _>>(),
        "protocol": "p".repeat(63), "weight": 65_535, "priority": 65_535, "lease": "7d",
        "tags": (0..64).map(|number| format!("{number:02}{}", "t".repeat(253))).collect::<Vec<_>>(),
        "meta": (0..64).map(|number| (format!("{number:02}"), json!("v".repeat(512)))).collect::<serde_json::Map<_, _>>(),
        "checks": words(64).into_iter().map(|id| json!({"id": id, "status": "passing"})).collect::<Vec<_>>(),
    });
    client.done("registered", &json!({ "register": form }));
    let listed = client.list();
    assert_eq!(listed[0]["tags"].as_array().map(Vec::len), Some(64));
    assert_eq!(listed[0]["meta"].as_object().map(serde_json::Map::len), Some(64));
    assert_eq!(listed[0]["live"], true);
    assert_eq!(
        client.ask(&json!({"register": {"service": "web", "address": "10.0.0.7", "port": 1, "lease": "1s"}}))
            ["registered"]["lease"],
        "1s"
    );
}

#[test]
fn two_ways_that_lead_back_to_each_other_are_not_both_taken_at_once() {
    const PAIRS: usize = 50;
    let server = Server::start(&[]);
    let mut client = server.client();
    let mut lines = String::new();
    for pair in 0..PAIRS {
        for (service, over) in [("a", "b"), ("b", "a")] {
            let settings =
                json!({"service": format!("{service}{pair}"), "failover": [format!("{over}{pair}")]});
            lines.push_str(&format!("{}\n", json!({ "settings": settings })));
        }
    }
    client.stream().write_all(lines.as_bytes()).expect("sending everything");
    for pair in 0..PAIRS {
        let first = client.receive();
        assert!(first.get("settings").is_some(), "pair {pair}: {first}");
        let second = client.receive();
        assert_eq!(second["error"]["field"], "failover", "pair {pair}: {second}");
    }
}

#[test]
fn requests_sent_in_one_piece_are_answered_in_their_order() {
    const REQUESTS: usize = 10_000;
    let server = Server::start(&[]);
    let mut client = server.client();
    let mut stream = client.stream();
    let writing = std::thread::spawn(move || {
        let mut lines = String::new();
        for number in 0..REQUESTS {
            let line = match number % 4 {
                0 => {
                    json!({"register": {"service": "web", "id": "a", "address": "10.0.0.7", "port": 1 + number}})
                }
                1 => json!({"heartbeat": {"service": "web", "id": "a"}}),
                2 => json!({"nonsense": {}}),
                _ => json!({"list": {"service": "web"}}),
            };
            lines.push_str(&line.to_string());
            lines.push('\n');
        }
        stream.write_all(lines.as_bytes()).expect("sending everything");
    });
    for number in 0..REQUESTS {
        let reply = client.receive();
        let last = number - number % 4;
        match number % 4 {
            0 => assert_eq!(reply["registered"]["port"], 1 + last),
            1 => assert_eq!(reply["renewed"]["id"], "a"),
            2 => assert_eq!(reply["error"]["code"], "unknown_verb"),
            _ => assert_eq!(
                reply["instances"]["instances"][0]["port"],
                1 + last,
                "a read sees what came before it"
            ),
        }
    }
    writing.join().expect("everything was sent");
}

#[test]
fn commands_about_one_instance_see_each_other() {
    const ROUNDS: usize = 500;
    let server = Server::start(&["--known-for", "24h"]);
    let mut client = server.client();
    let (form, named) = (
        json!({"service": "web", "id": "a", "address": "10.0.0.7", "port": 80, "lease": "none"}),
        json!({"service": "web", "id": "a"}),
    );
    let requests = [
        json!({ "register": form }),
        json!({"report": {"service": "web", "id": "a", "status": "critical"}}),
        json!({ "register": form }), // again: the report stays
        json!({ "drain": named }),
        json!({ "deregister": named }),
        json!({ "deregister": named }),
        json!({ "drain": named }),
    ];
    let lines: String = requests.iter().map(|request| format!("{request}\n")).collect();
    for round in 0..ROUNDS {
        client.send_raw(lines.as_bytes()).expect("sending a round");
        let replies: Vec<Value> = requests.iter().map(|_| client.receive()).collect();
        assert_eq!(replies[1]["reported"]["status"], "critical", "round {round}: {replies:?}");
        assert_eq!(replies[2]["registered"]["id"], "a", "round {round}: {replies:?}");
        assert_eq!(replies[3]["draining"]["id"], "a", "round {round}: {replies:?}");
        assert_eq!(replies[4]["deregistered"]["existed"], true, "round {round}: {replies:?}");
        assert_eq!(replies[5]["deregistered"]["existed"], false, "round {round}: {replies:?}");
        assert_eq!(replies[6]["error"]["code"], "not_found", "round {round}: {replies:?}");
    }
    assert_eq!(client.list().len(), 0);
    let status = client.done("status", &json!({"status": {}}));
    assert_eq!(status["revision"], 5 * ROUNDS, "five changes in each round");
}

#[test]
fn a_client_that_does_not_read_costs_little_and_is_given_up() {
    const INSTANCES: usize = 1000;
    const GREEDY: usize = 4;
    let server = Server::start(&["--store", "memory"]); // what is looked at is not the disk
    let mut client = server.client();
    for number in 0..INSTANCES {
        let form = json!({"service": "web", "id": format!("web-{number}"), "address": "10.0.0.7", "port": 80,
                          "meta": {"note": "n".repeat(500)}});
        client.done("registered", &json!({ "register": form }));
    }
    let before = resident_kib(server.pid());
    let start = now();
    let mut most = 0;
    std::thread::scope(|scope| {
        let greedy: Vec<_> = (0..GREEDY)
            .map(|_| {
                let greedy = server.client();
                // It asks for about 1 MB a line and reads nothing, until the server closes.
                scope.spawn(move || {
                    let mut stream = greedy.stream();
                    let lines = b"{\"list\":{}}\n".repeat(1000);
                    while stream.write_all(&lines).is_ok() {}
                })
            })
            .collect();
        eventually("the end of who does not read", DEADLINE, || {
            most = most.max(resident_kib(server.pid()));
            greedy.iter().all(|thread| thread.is_finished()).then_some(())
        });
    });
    println!(
        "memory: {GREEDY} clients that do not read: {before} KiB before, at most {most} KiB; given up after {:.1} s",
        start.elapsed().as_secs_f64()
    );
    assert!(most < before + GROWTH_KIB_MAX_UNREAD, "{before} KiB before, at most {most} KiB");
    assert!(Duration::from_secs(1) < start.elapsed(), "a moment of not reading is no fault");
    assert_eq!(client.list().len(), INSTANCES);
}
