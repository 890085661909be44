//! What is refused, and what it costs: nothing changes, nobody else notices, and nothing is kept.

use std::io::{Read, Write};
use std::net::TcpStream;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{REGISTER, definition, sockets};
use crate::harness::process::{descriptors, resident_kib};
use crate::harness::{DEADLINE, Http, Server, eventually};

const CATALOG: &str = "/v1/catalog/register";

/// How much a server may grow by what it refuses.
const GROWTH_KIB_MAX: u64 = 64 * 1024;

fn revision(server: &Server) -> Value {
    server.client().done("status", &json!({"status": {}}))["revision"].take()
}

fn is_alive(server: &Server) {
    assert_eq!(server.http().get("/v1/status/leader").status, 200);
}

#[test]
fn every_bad_request_is_refused_with_a_reason() {
    let server = Server::start(&["--store", "memory"]);
    server.http().put(REGISTER, &definition("web", "a", 80));
    server.http().put("/v1/agent/check/register", &json!({"Name": "t", "TTL": "1h", "ServiceID": "a"}));
    let before = revision(&server);
    let check = |check: Value| {
        let mut service = definition("web", "b", 80);
        service["Check"] = check;
        service.to_string()
    };
    let catalog = |service: Value, check: Value| {
        json!({"Node": "far", "Address": "10.9.0.1", "Service": service, "Check": check}).to_string()
    };
    let deep = format!("{}1{}", "{\"Meta\":".repeat(500), "}".repeat(500));
    let rows: Vec<(&str, &str, String, u16, &str)> = vec![
        ("PUT", REGISTER, String::new(), 400, "EOF"),
        ("PUT", REGISTER, "{".into(), 400, "Request decode failed"),
        ("PUT", REGISTER, "[]".into(), 400, "array"),
        ("PUT", REGISTER, "null".into(), 400, "Missing service name"),
        ("PUT", REGISTER, "{}".into(), 400, "Missing service name"),
        ("PUT", REGISTER, deep, 400, "recursion"),
        ("PUT", REGISTER, json!({"Name": "web", "Prot": 80}).to_string(), 400, "Prot"),
        ("PUT", REGISTER, json!({"Name": "web", "Port": "80"}).to_string(), 400, "Port"),
        ("PUT", REGISTER, json!({"Name": "web", "Port": 65536}).to_string(), 400, "65535"),
        ("PUT", REGISTER, json!({"Name": "web", "Port": -1}).to_string(), 400, "65535"),
        ("PUT", REGISTER, json!({"Name": "w_b", "Port": 1}).to_string(), 400, "w-b"),
        ("PUT", REGISTER, json!({"Name": "a".repeat(200), "Port": 1}).to_string(), 400, "62"),
        ("PUT", REGISTER, json!({"Name": "web", "Tags": [1]}).to_string(), 400, "Tags"),
        ("PUT", REGISTER, check(json!({"HTTP": "http://127.0.0.1/", "Interval": 0})), 400, "Interval"),
        ("PUT", REGISTER, check(json!({"HTTP": "http://127.0.0.1/", "Interval": "soon"})), 400, "soon"),
        ("PUT", REGISTER, check(json!({"HTTP": "http://127.0.0.1/"})), 400, "Interval"),
        ("PUT", REGISTER, check(json!({"TTL": "10s", "Intervall": "1s"})), 400, "Intervall"),
        ("PUT", REGISTER, check(json!({"TTL": "10s", "Status": "fine"})), 400, "passing"),
        ("PUT", CATALOG, catalog(json!({"Service": "web", "Port": -1}), Value::Null), 400, "65535"),
        ("PUT", CATALOG, catalog(json!({"Port": 80}), Value::Null), 500, "service name"),
        ("PUT", CATALOG, catalog(Value::Null, json!({"CheckID": "c", "ServiceID": "none"})), 500, "none"),
        ("PUT", CATALOG, catalog(definition("web", "c", 80), json!({"Status": "fine"})), 500, "a name"),
        ("PUT", "/v1/agent/check/update/service:a", "{\"Status\":\"fine\"}".into(), 400, "fine"),
        ("PUT", "/v1/agent/service/maintenance/a", String::new(), 400, "enable"),
        ("PUT", "/v1/agent/service/deregister/none", String::new(), 404, "none"),
        ("GET", "/v1/health/service/web?index=x", String::new(), 400, "index"),
        ("GET", "/v1/health/service/web?index=-1", String::new(), 400, "index"),
        ("GET", "/v1/health/service/web?index=99999999999999999999", String::new(), 400, "index"),
        ("GET", "/v1/health/service/web?index=1&wait=long", String::new(), 400, "wait"),
        ("GET", "/v1/health/service/web?passing=maybe", String::new(), 400, "passing"),
        ("GET", "/v1/health/service/web?filter=%3D%3D", String::new(), 400, ""),
        ("GET", "/v1/watch/?since=now", String::new(), 400, "since"),
        ("GET", "/v1/watch/w_b", String::new(), 400, "w-b"),
        ("GET", "/v1/watch/?health=fine", String::new(), 400, "health"),
        ("GET", "/v1/settings/w_b", String::new(), 400, "w-b"),
        ("PUT", "/v1/settings/web", "{".into(), 400, "JSON"),
        ("PUT", "/v1/settings/web", "[]".into(), 400, "object"),
        ("PUT", "/v1/settings/web", "{\"tll\":\"1s\"}".into(), 400, "tll"),
        ("PUT", "/v1/settings/web", "{\"ttl\":\"9h\"}".into(), 400, "ttl"),
        (
            "PUT",
            "/v1/settings/web",
            "{\"ttl\":9}".into(),
            400,
            "ttl: invalid type: integer `9`, expected a string; write a time such as",
        ),
        ("PUT", "/v1/settings/web", "{\"balance\":\"random\"}".into(), 400, "balance"),
        ("PUT", "/v1/settings/web", "{\"max_answers\":-1}".into(), 400, "max_answers"),
        ("DELETE", "/v1/settings/web", String::new(), 405, "DELETE"),
        ("GET", REGISTER, String::new(), 405, "GET"),
        ("POST", REGISTER, String::new(), 405, "POST"),
        ("DELETE", "/v1/catalog/services", String::new(), 405, "DELETE"),
        ("BREW", "/v1/catalog/services", String::new(), 405, "BREW"),
        ("GET", "/v1/health/service/%ff", String::new(), 400, ""),
        ("GET", "/v1/nothing", String::new(), 404, "Invalid URL path"),
        ("GET", "/v1/kv/a", String::new(), 404, "keys"),
    ];
    // One connection takes them all: a refusal is not its end.
    let mut http = server.http();
    for (method, path, body, status, phrase) in &rows {
        http.send(method, path, &[], body.as_bytes());
        let response = http.receive();
        let shown = body.chars().take(99).collect::<String>();
        assert_eq!(response.status, *status, "{method} {path} {shown}: {response:?}");
        assert!(!response.text().is_empty(), "{method} {path} {shown}: a reason");
        assert!(response.text().contains(phrase), "{method} {path} {shown}: {}", response.text());
        let allowed = response.header("allow");
        assert_eq!(allowed.is_some(), *status == 405, "{method} {path}: Allow: {allowed:?}");
    }
    assert_eq!(revision(&server), before, "nothing changed");
    // An interval of 1 ns is as short as the shortest, as with Consul.
    let interval = check(json!({"TCP": "127.0.0.1:1", "Interval": 1, "Timeout": "1ns"}));
    http.send("PUT", REGISTER, &[], interval.as_bytes());
    assert_eq!(http.receive().status, 200);
}

#[test]
fn what_is_no_http_is_answered_400_or_closed() {
    let server = Server::start(&["--store", "memory"]);
    let long = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "a".repeat(100_000));
    let many = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "A: b\r\n".repeat(1000));
    let rows: [(&[u8], &[u16]); 11] = [
        (b"\x00\x01\x02\r\n\r\n", &[400]),
        (b"GET\r\n\r\n", &[400]),
        (b"GET / HTTP/9.9\r\n\r\n", &[400]),
        (b"GET / HTTP/1.1\r\n\r\n", &[400]),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", &[400]),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nno colon\r\n\r\n", &[400]),
        (b"PUT /v1/agent/service/register HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", &[400]),
        (b"PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", &[400]),
        (
            b"PUT /v1/agent/service/register HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            &[400],
        ),
        (long.as_bytes(), &[414, 431]),
        (many.as_bytes(), &[431]),
    ];
    for (octets, allowed) in rows {
        let mut http = server.http();
        // A server that has answered and closed already is fine.
        let sent = http.send_raw(octets);
        let status = http.next().map(|response| response.status);
        let shown = octets[..octets.len().min(80)].escape_ascii();
        assert!(sent.is_err() || status.is_some(), "{shown}: closed without a word");
        assert!(status.is_none_or(|status| allowed.contains(&status)), "{shown}: {status:?}");
    }
    is_alive(&server);
}

#[test]
fn a_body_may_have_256_kib_and_the_refusal_of_more_arrives() {
    let server = Server::start(&["--store", "memory"]);
    let before = resident_kib(server.pid());
    let padded = |octets: usize| {
        let body = definition("web", "a", 80).to_string();
        format!("{body}{}", " ".repeat(octets - body.len())).into_bytes()
    };
    let mut http = server.http();
    http.send("PUT", REGISTER, &[], &padded(256 * 1024));
    assert_eq!(http.receive().status, 200);
    for octets in [256 * 1024 + 1, 10 << 20] {
        let mut http = server.http();
        http.send("PUT", REGISTER, &[], &padded(octets));
        let refused = http.receive();
        assert_eq!((refused.status, refused.header("connection")), (413, Some("close")), "{octets}");
        assert!(refused.text().contains("262144"), "{}", refused.text());
    }
    // In chunks, with no length said before.
    let mut http = server.http();
    let head = format!("PUT {REGISTER} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
    let chunk = format!("100000\r\n{}\r\n", " ".repeat(1 << 20));
    http.send_raw(format!("{head}{}0\r\n\r\n", chunk.repeat(10)).as_bytes()).expect("it reads");
    assert_eq!(http.receive().status, 413);
    // Who asks before sending hears it before sending.
    let mut http = server.http();
    let head = format!(
        "PUT {REGISTER} HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 99999999\r\n\r\n"
    );
    http.send_raw(head.as_bytes()).expect("it reads");
    assert_eq!(http.receive().status, 413);
    // Hundreds of MiB that nobody wants to have.
    let mut http = server.http();
    let head = format!("PUT {REGISTER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1073741824\r\n\r\n");
    http.send_raw(head.as_bytes()).expect("it reads");
    let sent = (0..1024).take_while(|_| http.send_raw(&[b' '; 1 << 20]).is_ok()).count();
    assert!(sent < 64, "{sent} MiB were read of what is refused");
    is_alive(&server);
    let grown = resident_kib(server.pid()).saturating_sub(before);
    assert!(grown < GROWTH_KIB_MAX, "{grown} KiB more");
}

#[test]
fn no_other_origins_page_changes_anything() {
    let server = Server::start(&["--store", "memory", "--http-hosts", "consul.example"]);
    server.http().put(REGISTER, &definition("web", "a", 80));
    let before = revision(&server);
    let changes: [(&str, String); 7] = [
        (REGISTER, definition("web", "b", 80).to_string()),
        ("/v1/agent/service/deregister/a", String::new()),
        ("/v1/agent/service/maintenance/a?enable=true", String::new()),
        ("/v1/agent/maintenance?enable=true", String::new()),
        ("/v1/agent/check/register", json!({"Name": "c", "TTL": "9s", "ServiceID": "a"}).to_string()),
        (
            "/v1/catalog/register",
            json!({"Node": "n", "Address": "10.0.0.8", "Service": {"Service": "db"}}).to_string(),
        ),
        ("/v1/settings/web", "{\"ttl\":\"9s\"}".to_owned()),
    ];
    let hostile: [&[(&str, &str)]; 26] = [
        &[("Host", "evil.example")],
        &[("Host", "evil.example:5380")],
        // Whoever registered it chooses where it leads.
        &[("Host", "web.service.local")],
        &[("Host", "a.web.service.local"), ("Origin", "http://a.web.service.local")],
        &[("Host", "localhost.evil.example")],
        &[("Host", "127.0.0.1.evil.example")],
        &[("Host", "127.0.0.1@evil.example")],
        &[("Host", "0x7f.1")],
        &[("Host", "2130706433")],
        &[("Host", "service.local.evil.example")],
        &[("Host", "consul.example.evil")],
        &[("Host", "\u{fffd}")],
        &[("Host", "localhost"), ("Host", "evil.example")],
        &[("Host", "localhost"), ("Origin", "http://evil.example")],
        &[("Host", "localhost"), ("Origin", "null")],
        &[("Host", "localhost"), ("Origin", "")],
        &[("Host", "localhost"), ("Origin", "file://")],
        &[("Host", "localhost"), ("Origin", "http://localhost:8080")],
        &[("Host", "localhost"), ("Origin", "http://localhost.evil.example")],
        &[("Host", "127.0.0.1:5380"), ("Origin", "http://localhost:5380")],
        &[("Host", "localhost"), ("Origin", "http://localhost"), ("Origin", "http://evil.example")],
        &[("Host", "evil.example"), ("Origin", "http://evil.example")],
        &[("Host", "localhost"), ("Sec-Fetch-Site", "cross-site")],
        &[("Host", "localhost"), ("Sec-Fetch-Site", "same-site")],
        &[("Host", "localhost"), ("Sec-Fetch-Site", "same-origin"), ("Origin", "http://evil.example")],
        &[("Host", "localhost"), ("Sec-Fetch-Site", "?")],
    ];
    let mut refused = 0;
    for headers in hostile {
        for (path, body) in &changes {
            let mut http = server.http();
            http.send("PUT", path, headers, body.as_bytes());
            let response = http.receive();
            assert!(matches!(response.status, 400 | 403), "{headers:?} {path}: {response:?}");
            assert_eq!(response.header("access-control-allow-origin"), None);
            refused += 1;
        }
        let mut http = server.http();
        http.send("GET", "/v1/catalog/services", headers, b"");
        assert!(matches!(http.receive().status, 400 | 403), "{headers:?}: reading");
        // The preflight: nothing in its answer lets a page go on.
        let mut http = server.http();
        http.send("OPTIONS", REGISTER, headers, b"");
        assert_eq!(http.receive().header("access-control-allow-methods"), None);
    }
    // What a form or an image can do without being asked: no such method changes anything.
    for method in ["GET", "POST", "HEAD"] {
        for (path, body) in changes.iter().filter(|(path, _)| !path.starts_with("/v1/settings")) {
            let mut http = server.http();
            http.send(method, path, &[], body.as_bytes());
            assert_eq!(http.head().map(|head| head.status), Some(405), "{method} {path}");
        }
    }
    assert_eq!(revision(&server), before, "{refused} hostile requests changed nothing");
    let friendly: [&[(&str, &str)]; 10] = [
        &[("Host", "127.0.0.1:5380")],
        &[("Host", "[::1]:5380")],
        &[("Host", "LOCALHOST")],
        &[("Host", "consul.example:8500")],
        &[("Host", "service.local")],
        &[("Host", "NS.service.local:5380")],
        &[("Host", "callsign.service.local")],
        &[("Host", "10.0.0.7")],
        &[("Host", "localhost:5380"), ("Origin", "http://localhost:5380")],
        &[("Host", "localhost"), ("Sec-Fetch-Site", "same-origin")],
    ];
    for headers in friendly {
        let mut http = server.http();
        http.send("PUT", "/v1/settings/web", headers, b"{\"ttl\":\"9s\"}");
        assert_eq!(http.receive().status, 200, "{headers:?}");
    }
}

#[test]
fn requests_sent_in_one_piece_are_answered_in_their_order() {
    const REQUESTS: usize = 200;
    let server = Server::start(&["--store", "memory"]);
    let mut http = server.http();
    let mut octets = Vec::new();
    for number in 1..=REQUESTS {
        let body = definition("web", "a", number).to_string();
        octets.extend(
            format!(
                "PUT {REGISTER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )
            .bytes(),
        );
        octets.extend(b"GET /v1/catalog/service/web HTTP/1.1\r\nHost: localhost\r\n\r\n");
    }
    http.send_raw(&octets).expect("it reads");
    for number in 1..=REQUESTS {
        assert_eq!(http.receive().status, 200);
        assert_eq!(http.receive().json()[0]["ServicePort"], number, "acknowledged is visible");
    }
    // One octet after the other is a request too; and a head alone is answered with a head alone.
    let slow = b"HEAD /v1/catalog/services HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    slow.iter().for_each(|octet| http.send_raw(&[*octet]).expect("it reads"));
    let head = http.head().expect("a reply");
    assert_eq!(head.status, 200);
    assert!(head.index() > 0);
    assert!(http.head().is_none(), "no body, and the end");
}

#[test]
fn clients_that_vanish_leave_nothing() {
    const ROUNDS: usize = 4;
    let server = Server::start(&["--store", "memory"]);
    let waiting = sockets().min(1_000);
    server.http().put(REGISTER, &definition("web", "a", 80));
    let index = server.http().get("/v1/health/service/web").index();
    let open = eventually("closed connections", DEADLINE, || {
        let open = descriptors(server.pid());
        (open < 40).then_some(open)
    });
    let mut before = 0;
    for round in 0..ROUNDS {
        let clients: Vec<Http> = (0..waiting)
            .map(|number| {
                let mut http = server.http();
                // Every one waits for a service of its own, watches, or has sent half of something.
                match number % 4 {
                    0 => http.send(
                        "GET",
                        &format!("/v1/health/service/s{round}-{number}?index={index}"),
                        &[],
                        b"",
                    ),
                    1 => http.send("GET", &format!("/v1/watch/w{round}-{number}"), &[], b""),
                    2 => http.send_raw(b"GET /v1/health").expect("it reads"),
                    _ => http
                        .send_raw(b"PUT /v1/settings/web HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{")
                        .expect("it reads"),
                }
                http
            })
            .collect();
        eventually("every connection", DEADLINE, || {
            (descriptors(server.pid()) >= open + waiting / 2).then_some(())
        });
        drop(clients);
        eventually("the end of every connection", DEADLINE, || {
            (descriptors(server.pid()) <= open).then_some(())
        });
        if round == 0 {
            before = resident_kib(server.pid());
        }
    }
    let grown = resident_kib(server.pid()).saturating_sub(before);
    println!("{ROUNDS} rounds of {waiting} vanished clients: {grown} KiB more after the first");
    assert!(grown < GROWTH_KIB_MAX / 4, "{grown} KiB more");
    is_alive(&server);
}

#[test]
fn over_the_limit_the_quietest_goes() {
    /// As many as the server has, and some more.
    const IDLE: usize = 12_050;
    let server = Server::start(&["--store", "memory"]);
    sockets();
    let mut idle: Vec<Http> = (0..IDLE).map(|_| server.http()).collect();
    let newest = idle.last_mut().expect("there are some");
    assert_eq!(newest.get("/v1/status/leader").status, 200, "who came last is served");
    assert!(idle[0].next().is_none(), "who was quiet longest is closed");
    is_alive(&server);
}

#[test]
fn without_descriptors_the_quietest_goes() {
    const DESCRIPTORS: usize = 64;
    const CONNECTIONS: usize = 200;
    let limit = format!("ulimit -n {DESCRIPTORS} && exec \"$0\" \"$@\"");
    let server = Server::start_under(&["sh", "-c", &limit], &["--store", "memory"]);
    let idle: Vec<Http> = (0..CONNECTIONS).map(|_| server.http()).collect();
    let mut http = server.http();
    http.put(REGISTER, &definition("web", "a", 80));
    drop(idle);
    eventually("free descriptors", DEADLINE, || (descriptors(server.pid()) < DESCRIPTORS / 2).then_some(()));
    is_alive(&server);
}

#[test]
fn the_end_of_the_server_is_everybodys_end() {
    const EACH: usize = 50;
    let mut server = Server::start(&["--store", "memory", "--grace", "0s"]);
    let mut fat = definition("web", "a", 80);
    fat["Meta"] = (0..60).map(|key| (format!("k{key}"), json!("x".repeat(500)))).collect();
    server.http().put(REGISTER, &fat);
    let index = server.http().get("/v1/health/service/web").index();
    let mut blocked: Vec<Http> = (0..EACH).map(|_| server.http()).collect();
    for http in &mut blocked {
        http.send("GET", &format!("/v1/health/service/web?index={index}&wait=10m"), &[], b"");
    }
    let mut watchers: Vec<Http> = (0..EACH).map(|_| server.http()).collect();
    for http in &mut watchers {
        http.send("GET", "/v1/watch/db", &[], b"");
        assert_eq!(http.head().expect("a reply").status, 200);
        http.line().expect("a snapshot");
    }
    // One does not read, with more waiting for it than the kernel holds; others are in the middle of a request.
    let mut deaf = server.http();
    for _ in 0..800 {
        deaf.send("GET", "/v1/health/service/web", &[], b"");
    }
    let mut half = server.http();
    half.send_raw(b"PUT /v1/settings/web HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{")
        .expect("it reads");
    let mut begun = server.http();
    begun.send_raw(b"GET /v1/he").expect("it reads");
    let mut last = server.http();
    last.put("/v1/settings/web", &json!({"ttl": "9s"})); // so all before it is on its way
    server.signal(Signal::SIGTERM);
    let ended = server.wait();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    for http in &mut blocked {
        // One that had not been read yet has no reply, as one that comes too late.
        if let Some(response) = http.next() {
            assert_eq!((response.status, response.index()), (200, index));
        }
    }
    for http in &mut watchers {
        assert_eq!(http.line(), None, "the end of the watch");
    }
}

#[test]
fn a_host_takes_the_last_live_instance_of_no_service_along() {
    let server = Server::start(&[]);
    let mut http = server.http();
    let on = |node: &str, service: &str, id: &str| {
        let service = json!({"Service": service, "ID": id, "Port": 80});
        json!({"Node": node, "Address": "10.0.0.7", "Service": service})
    };
    for (node, service, id) in
        [("one", "web", "a"), ("one", "db", "b"), ("two", "web", "c"), ("three", "s", "d")]
    {
        http.put(CATALOG, &on(node, service, id));
    }
    let deregister = |http: &mut Http, query: &str, node: &str| {
        http.ask("PUT", &format!("/v1/catalog/deregister{query}"), &json!({ "Node": node }))
    };
    let refused = deregister(&mut http, "", "one");
    assert_eq!(refused.status, 409);
    assert!(refused.text().starts_with("db would have no live instance left"), "{}", refused.text());
    assert_eq!(server.client().list().len(), 4, "all of it or nothing");
    // One instance alone is no bulk.
    assert_eq!(deregister(&mut http, "", "three").status, 200);
    assert_eq!(deregister(&mut http, "?allow-empty", "one").status, 200);
    assert_eq!(server.client().list().len(), 1);
}

/// What a page in a browser here may have sent to it: HTTP with lines of ours in its body.
#[test]
fn http_is_not_read_where_registrations_are_taken() {
    let server = Server::start(&["--store", "memory", "--listen", "127.0.0.1:0"]);
    let before = revision(&server);
    let line = json!({"register": {"service": "web", "id": "evil", "address": "10.0.0.7", "port": 80, "lease": "none"}});
    for head in ["POST / HTTP/1.1", "OPTIONS / HTTP/1.1", "GET / HTTP/1.1"] {
        let mut stream = TcpStream::connect(server.listen[0]).expect("a connection");
        stream.set_read_timeout(Some(DEADLINE)).expect("an option of a socket of ours");
        let whole = format!("{head}\r\nHost: evil.example\r\n\r\n{line}\n");
        stream.write_all(whole.as_bytes()).expect("sending");
        let mut told = String::new();
        stream.read_to_string(&mut told).expect("a reply, and its end");
        assert!(told.starts_with("HTTP/1.1 400 ") && told.contains("HTTP has a port of its own"), "{told}");
    }
    assert_eq!(revision(&server), before);
    server.tcp_client().done("registered", &line);
}

#[test]
fn who_may_change_nothing_has_no_large_body_read() {
    const CLIENTS: usize = 300;
    const OCTETS: usize = 262_000;
    let server = Server::start(&["--store", "memory", "--access", "allow uid:0 admin"]);
    let before = resident_kib(server.pid());
    let body = vec![b' '; OCTETS - 1]; // without its end
    let clients: Vec<Http> = (0..CLIENTS.min(sockets()))
        .map(|_| {
            let mut http = server.http();
            let head =
                format!("PUT {REGISTER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {OCTETS}\r\n\r\n");
            http.send_raw(head.as_bytes()).expect("it reads");
            let _ = http.send_raw(&body); // what is refused is not read
            http
        })
        .collect();
    is_alive(&server);
    let grown = resident_kib(server.pid()).saturating_sub(before);
    assert!(grown < 32 * 1024, "{grown} KiB more");
    drop(clients);
    // Who sends it all, and waits, is told why.
    let mut http = server.http();
    let head = format!("PUT {REGISTER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {OCTETS}\r\n\r\n");
    http.send_raw(head.as_bytes()).expect("it reads");
    let refused = http.receive();
    assert!(refused.status == 403 && refused.text().contains("may not change anything"), "{refused:?}");
}

#[test]
fn bodies_that_never_come_whole_are_bounded_together_and_end() {
    const CLIENTS: usize = 400;
    const OCTETS: usize = 262_000;
    let server = Server::start(&["--store", "memory"]);
    let before = resident_kib(server.pid());
    let head = format!("PUT {REGISTER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {OCTETS}\r\n\r\n");
    let request = [head.as_bytes(), &vec![b' '; OCTETS - 1]].concat(); // without its end
    let mut clients: Vec<Http> = (0..CLIENTS.min(sockets())).map(|_| server.http()).collect();
    for http in &mut clients {
        let _ = http.send_raw(&request); // what is refused is not read
    }
    is_alive(&server);
    let grown = resident_kib(server.pid()).saturating_sub(before);
    assert!(grown < 64 * 1024, "{grown} KiB more");
    // Small ones are read meanwhile, and each of the large ones is told why it is not: there is no room, or no time left.
    let mut http = server.http();
    assert_eq!(http.ask("PUT", REGISTER, &json!({"Name": "web", "ID": "web-1", "Port": 80})).status, 200);
    let refused = clients.last_mut().map(Http::receive).expect("a client");
    let why = if refused.status == 503 { "too much of too many" } else { "did not come within" };
    assert!(matches!(refused.status, 408 | 503) && refused.text().contains(why), "{refused:?}");
}
