//! Where probes may not go, what they do not follow, and whom a bad target delays.

use serde_json::json;

use crate::harness::{DEADLINE, Server, eventually, stays};
use crate::targets::{Manner, Target, answer};
use crate::watched::{Watched, named};
use std::time::Duration;

/// Long enough for two probes of a check that is probed each second.
const TWO_INTERVALS: Duration = Duration::from_millis(2300);

#[test]
fn a_forbidden_address_gets_no_packet() {
    // 0.0.0.0 leads to this machine, and is neither an address of the instance nor a loopback address.
    let target = Target::new(answer("200 OK", ""));
    let at = format!("0.0.0.0:{}", target.address.port());
    let checks = json!([
        named("tcp", json!({"tcp": at, "status": "passing"})),
        named("http", json!({"http": format!("http://{at}/"), "status": "passing"})),
        named("grpc", json!({"grpc": at, "status": "passing"})),
        named(
            "mapped",
            json!({"tcp": format!("[::ffff:0.0.0.0]:{}", target.address.port()), "status": "passing"})
        ),
    ]);
    let server = Server::start(&["--store", "memory"]);
    let mut web = Watched::with(&server, "web", checks.clone());
    let host = web.client.list()[0]["host"].as_str().expect("a host").to_owned();
    for check in ["tcp", "http", "grpc", "mapped"] {
        let (status, output) =
            eventually("the verdict", DEADLINE, || web.now(check).filter(|(status, _)| status == "critical"));
        let address = if check == "mapped" { "::ffff:0.0.0.0" } else { "0.0.0.0" };
        let why = format!(
            "not probed: {address} is neither an address of web/web@{host} or its host nor loopback; the server's key `probe-allow` lists where else probes may go"
        );
        assert!(output.ends_with(&why), "{check} is {status}: {output}");
    }
    assert!(stays(TWO_INTERVALS, || target.connections() == 0), "a packet went to a forbidden address");
    // And it is the rule that kept them away.
    let server = Server::start(&["--store", "memory", "--probe-allow", "0.0.0.0/32"]);
    let mut web = Watched::with(&server, "web", checks);
    for check in ["tcp", "http", "mapped"] {
        eventually("a probe that is allowed", DEADLINE, || {
            web.now(check).filter(|(_, output)| !output.contains("not probed")).map(|_| ())
        });
    }
    eventually("a connection", DEADLINE, || (target.connections() > 0).then_some(()));
}

#[test]
fn a_redirect_is_not_followed() {
    let server = Server::start(&["--store", "memory"]);
    let elsewhere = Target::new(answer("200 OK", ""));
    let location = format!("http://{}/", elsewhere.address);
    let target = Target::new(Manner::Answer(format!(
        "HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
    )));
    let url = format!("http://{}/", target.address);
    let mut web = Watched::new(&server, "web", json!({"http": url, "status": "passing"}));
    assert_eq!(web.until("c", "critical"), format!("HTTP GET {url}: 302 Found Output: "));
    assert!(stays(TWO_INTERVALS, || elsewhere.connections() == 0), "the redirect was followed");
    // One that leads to itself costs one request a probe.
    target.set(Manner::Answer(format!("HTTP/1.1 302 Found\r\nLocation: {url}\r\nContent-Length: 0\r\n\r\n")));
    let before = target.requests().len();
    eventually("another probe", DEADLINE, || (target.requests().len() > before).then_some(()));
    assert!(target.requests().len() - before <= 2);
}

#[test]
fn bad_targets_end_at_their_limits_and_delay_nobody() {
    const FAST: usize = 200;
    const TIMEOUT: &str = "5s";
    let server = Server::start(&["--store", "memory"]);
    let fast = Target::new(answer("200 OK", "fine"));
    let bad = [
        ("silence", Manner::Silence),
        ("drip-head", Manner::DripHead),
        ("drip-body", Manner::DripBody),
        ("flood-body", Manner::FloodBody),
        ("flood-head", Manner::FloodHead),
    ]
    .map(|(name, manner)| (name, Target::new(manner)));
    let url = |target: &Target| format!("http://{}/", target.address);
    let mut client = server.client();
    for number in 0..FAST {
        let check = named("c", json!({"http": url(&fast), "timeout": TIMEOUT, "fall": 1}));
        let form = json!({"service": "fast", "id": format!("fast-{number}"), "address": "127.0.0.1", "port": 1,
                          "lease": "none", "checks": [check]});
        client.done("registered", &json!({ "register": form }));
    }
    let mut watched: Vec<Watched> = bad
        .iter()
        .map(|(name, target)| {
            let check = json!({"http": url(target), "status": "warning", "timeout": TIMEOUT});
            Watched::new(&server, name, check)
        })
        .collect();
    // The flood of a body is an answer, of which the beginning is read.
    let output = watched[3].until("c", "passing");
    assert!(output.contains(": 200 OK Output: xxxx") && output.len() <= 4096, "{} octets", output.len());
    watched[4].until("c", "critical");
    for (watched, (name, target)) in watched.iter_mut().zip(&bad).take(3) {
        let output = watched.until("c", "critical");
        assert_eq!(output, format!("HTTP GET {}: timed out after {TIMEOUT}", url(target)), "{name}");
    }
    // The silent one took one timeout, five intervals of the others.
    let requests = fast.requests().len();
    assert!(requests >= 3 * FAST, "{requests} probes of {FAST} checks within five intervals");
    let passing = client
        .list()
        .iter()
        .filter(|instance| instance["service"] == "fast" && instance["checks"][0]["status"] == "passing")
        .count();
    assert_eq!(passing, FAST, "every fast check has its status");
    // What the kernel's buffers hold goes out whoever reads it: some MiB a probe, and not 10 GiB.
    const SENT_MAX: u64 = 64 << 20;
    for (name, target) in &bad {
        let each = target.sent() / target.connections().max(1) as u64;
        assert!(each < SENT_MAX, "{name}: {each} octets a probe");
        // One at a time: the silent ones were asked once a timeout.
        println!("{name}: {} connections, {} octets sent", target.connections(), target.sent());
    }
    assert!(bad[0].1.connections() <= 3, "a check has one probe at a time");
}

/// A check there would speak as this machine, which is trusted with more than who registered it.
#[test]
fn this_server_itself_is_not_probed() {
    let server = Server::start(&["--store", "memory", "--listen", "127.0.0.1:0"]);
    let (http, listen) = (server.http[0], server.listen[0]);
    let body = json!({"failover": ["evil"]}).to_string();
    let checks = json!([
        named(
            "http",
            json!({"http": format!("http://{http}/v1/settings/web"), "method": "PUT", "body": body, "status": "passing"})
        ),
        named(
            "name",
            json!({"http": format!("http://localhost:{}/healthz", http.port()), "status": "passing"})
        ),
        named("mapped", json!({"tcp": format!("[::ffff:127.0.0.1]:{}", http.port()), "status": "passing"})),
        named("listen", json!({"tcp": listen.to_string(), "status": "passing"})),
    ]);
    let mut web = Watched::with(&server, "web", checks);
    for check in ["http", "name", "mapped", "listen"] {
        eventually("the verdict", DEADLINE, || {
            web.now(check).filter(|(_, output)| output.contains("is this server itself"))
        });
    }
    let settings = server.client().done("settings", &json!({"settings": {"service": "web"}}));
    assert!(!settings.to_string().contains("evil"), "{settings}");
}

/// Each alias is told of every other: what they come to is looked for once.
#[test]
fn a_thousand_aliases_of_one_another_hold_up_no_probe() {
    const ALIASES: usize = 1_000;
    let server = Server::start(&["--store", "memory"]);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a TCP socket");
    let address = listener.local_addr().expect("its address");
    let mut victim = Watched::new(&server, "victim", json!({"tcp": address.to_string()}));
    victim.until("c", "passing");
    let mut client = server.client();
    for number in 0..ALIASES {
        client.send(&json!({"register": {"service": format!("e-{number}"), "id": "x", "address": "10.0.0.7",
                                         "port": 80, "lease": "none", "checks": [named("a", json!({"alias": "x"}))]}}));
        if number % 100 == 99 {
            (0..100).for_each(|_| assert!(client.receive()["registered"].is_object()));
        }
    }
    drop(listener);
    victim.until("c", "critical");
}
