//! On the real server: the dead leave, the living stay.
//!
//! That an instance is never gone before its lease is over is asserted; how long after it is gone is printed.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;
use serde_json::{Value, json};

use crate::harness::dns::ports;
use crate::harness::{Client, DEADLINE, Resolver, Server, eventually, now, srv, stays};

fn form(service: &str, id: &str, lease: &str) -> Value {
    json!({"register": {"service": service, "id": id, "address": "10.0.0.7", "port": 80, "lease": lease}})
}

fn in_dns(resolver: &mut Resolver, service: &str) -> usize {
    ports(&resolver.udp(&srv(service), RecordType::SRV)).len()
}

fn register(client: &mut Client, service: &str, lease: &str) -> Value {
    client.done("registered", &form(service, service, lease))
}

/// One lease, as far as its holder knows.
struct Held {
    service: String,
    lease: Duration,
    asked: Instant,
    acknowledged: Instant,
}

#[test]
fn an_instance_is_gone_after_its_lease_and_never_before() {
    const INSTANCES: u64 = 50;
    let server = Server::start(&[]);
    let (mut client, mut resolver) = (server.client(), server.resolver());
    let mut held: Vec<Held> = (0..INSTANCES)
        .map(|number| {
            let (service, lease) = (format!("web-{number}"), 1000 + 20 * number);
            let asked = now();
            register(&mut client, &service, &format!("{lease}ms"));
            Held { service, lease: Duration::from_millis(lease), asked, acknowledged: now() }
        })
        .collect();
    let mut late = Vec::new();
    eventually("the end of every lease", DEADLINE, || {
        held.retain(|held| {
            let there = in_dns(&mut resolver, &held.service) == 1;
            if !there {
                // The lease began after it was asked for, so it ends after this.
                assert!(
                    held.asked.elapsed() >= held.lease,
                    "{} left before its lease was over",
                    held.service
                );
                late.push(now().saturating_duration_since(held.acknowledged + held.lease));
            }
            there
        });
        held.is_empty().then_some(())
    });
    late.sort();
    let quantile = |percent: usize| late[(late.len() - 1) * percent / 100];
    println!(
        "leases: {INSTANCES} ended, seen late by p50 {:?}, p99 {:?}, at most {:?} (one look at all takes milliseconds)",
        quantile(50),
        quantile(99),
        late[late.len() - 1]
    );
    // What left is known for a while: no record, and not "no such name".
    let reply = resolver.udp(&srv("web-0"), RecordType::SRV);
    assert_eq!(u16::from(reply.metadata.response_code), 0);
    let late = client.ask(&json!({"heartbeat": {"service": "web-0", "id": "web-0"}}));
    assert_eq!(late["error"]["code"], "not_found", "{late}");
}

#[test]
fn a_heartbeat_keeps_an_instance() {
    const LEASE: Duration = Duration::from_secs(1);
    const EVERY: Duration = Duration::from_millis(250);
    let server = Server::start(&[]);
    let (mut client, mut resolver) = (server.client(), server.resolver());
    let mut renewed = now();
    let lease_id = register(&mut client, "web", "1s")["lease_id"].clone();
    let mut heartbeats = 0;
    let kept = stays(LEASE * 4, || {
        if renewed.elapsed() >= EVERY {
            let asked = now();
            client.done(
                "renewed",
                &json!({"heartbeat": {"service": "web", "id": "web", "lease_id": lease_id}}),
            );
            renewed = asked;
            heartbeats += 1;
        }
        // A machine that stood still for a whole lease is not the server's fault.
        in_dns(&mut resolver, "web") == 1 || renewed.elapsed() >= LEASE
    });
    assert!(kept, "gone {:?} after a heartbeat", renewed.elapsed());
    println!("leases: {heartbeats} heartbeats kept a lease of {LEASE:?} for {:?}", LEASE * 4);
    // Without them it leaves.
    eventually("the end of the lease", DEADLINE, || (in_dns(&mut resolver, "web") == 0).then_some(()));
    assert!(renewed.elapsed() >= LEASE);
}

#[test]
fn who_registered_last_holds() {
    let server = Server::start(&[]);
    let (mut first, mut second) = (server.client(), server.client());
    let old = first.done("registered", &form("web", "web", "30s"))["lease_id"].clone();
    second.done("registered", &form("web", "web", "30s"));
    for verb in ["heartbeat", "deregister", "drain"] {
        let reply = first.ask(&json!({verb: {"service": "web", "id": "web", "lease_id": old}}));
        assert_eq!(reply["error"]["code"], "superseded", "{verb} was answered {reply}");
    }
    assert_eq!(in_dns(&mut server.resolver(), "web"), 1);
}

/// Says `line` so many times, as fast as replies come, and returns the codes of the refusals; none is said for what was taken.
fn replay(client: &mut Client, line: &Value, times: usize) -> BTreeMap<String, usize> {
    /// Replies that wait in the socket while more is said.
    const AT_ONCE: usize = 100;
    let line = format!("{line}\n");
    let mut codes = BTreeMap::new();
    for _ in 0..times / AT_ONCE {
        client.send_raw(line.repeat(AT_ONCE).as_bytes()).expect("the server reads");
        for _ in 0..AT_ONCE {
            let code = client.receive()["error"]["code"].as_str().unwrap_or("none").to_owned();
            *codes.entry(code).or_default() += 1;
        }
    }
    codes
}

#[test]
fn a_heartbeat_that_was_recorded_revives_nothing() {
    const REPLAYED: usize = 50_000;
    let server = Server::start(&["--store", "memory"]);
    let (mut client, mut resolver) = (server.client(), server.resolver());
    let lease_id = register(&mut client, "web", "1h")["lease_id"].clone();
    let recorded = json!({"heartbeat": {"service": "web", "id": "web", "lease_id": lease_id}});
    client.done("renewed", &recorded); // so it is one that counts
    client.done("deregistered", &json!({"deregister": {"service": "web", "id": "web"}}));
    let codes = replay(&mut client, &recorded, REPLAYED);
    assert_eq!(codes, BTreeMap::from([("not_found".to_owned(), REPLAYED)]));
    assert_eq!(in_dns(&mut resolver, "web"), 0);
    // Registered again it is another lease, which no replay prolongs.
    register(&mut client, "web", "1s");
    assert_eq!(in_dns(&mut resolver, "web"), 1);
    let codes = replay(&mut client, &recorded, REPLAYED);
    assert!(codes.keys().all(|code| code == "superseded" || code == "not_found"), "{codes:?}");
    assert!(codes.contains_key("superseded"), "{codes:?}");
    println!("leases: of {} replays none was taken: {codes:?} after it was registered again", 2 * REPLAYED);
    eventually("the end of the lease", DEADLINE, || {
        replay(&mut client, &recorded, 100);
        (in_dns(&mut resolver, "web") == 0).then_some(())
    });
}

#[test]
fn what_is_bound_to_a_connection_leaves_with_it() {
    let server = Server::start(&["--listen", "127.0.0.1:0"]);
    let mut resolver = server.resolver();
    for connect in [Server::client, Server::tcp_client] {
        let mut holder = connect(&server);
        register(&mut holder, "web", "connection");
        register(&mut holder, "other", "connection");
        register(&mut holder, "timed", "30s");
        assert_eq!(in_dns(&mut resolver, "web"), 1);
        drop(holder);
        eventually("the end of what the connection held", DEADLINE, || {
            (in_dns(&mut resolver, "web") + in_dns(&mut resolver, "other") == 0).then_some(())
        });
        assert_eq!(in_dns(&mut resolver, "timed"), 1, "a timed lease does not mind");
    }
}

#[test]
fn the_end_of_an_older_connection_changes_nothing() {
    let server = Server::start(&[]);
    let mut resolver = server.resolver();
    let (mut older, mut newer) = (server.client(), server.client());
    register(&mut older, "web", "connection");
    register(&mut newer, "web", "connection");
    register(&mut older, "witness", "connection");
    drop(older);
    // The witness tells when the server has seen the end.
    eventually("the end of the older connection", DEADLINE, || {
        (in_dns(&mut resolver, "witness") == 0).then_some(())
    });
    assert_eq!(in_dns(&mut resolver, "web"), 1);
    drop(newer);
    eventually("the end of the newer one", DEADLINE, || (in_dns(&mut resolver, "web") == 0).then_some(()));
}

#[test]
fn what_a_process_held_leaves_when_it_is_killed() {
    let server = Server::start(&["--listen", "127.0.0.1:0"]);
    let mut resolver = server.resolver();
    // A shell that holds a connection and waits on it, in one process.
    let script = "exec 3<>\"/dev/tcp/$0/$1\" && printf '%s\\n' \"$2\" >&3 && read -r reply <&3 && echo \"$reply\" && \
                  read -r more <&3";
    let address = server.listen[0];
    let mut holder = Command::new("bash")
        .args(["-c", script, &address.ip().to_string(), &address.port().to_string()])
        .arg(form("web", "web", "connection").to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starting bash");
    let mut reply = String::new();
    let stdout = holder.stdout.take().expect("a pipe");
    BufReader::new(stdout).read_line(&mut reply).expect("a reply");
    assert!(reply.starts_with(r#"{"registered":"#), "{reply}");
    assert_eq!(in_dns(&mut resolver, "web"), 1);
    holder.kill().expect("SIGKILL to our own child");
    let killed = now();
    eventually("the end of what it held", DEADLINE, || (in_dns(&mut resolver, "web") == 0).then_some(()));
    println!("leases: what a killed process held was gone {:?} after the signal", killed.elapsed());
    holder.wait().expect("waiting for our own child");
}
