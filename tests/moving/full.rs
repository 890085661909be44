//! A registry with one of everything, and what an export says of it.

use serde_json::{Value, json};

use crate::harness::ask::request;
use crate::harness::{Client, DEADLINE, Ended, Server, callsign, eventually};

/// What the server must be started with besides its store.
pub const FLAGS: [&str; 4] = ["--listen", "127.0.0.1:0", "--probe-commands", "--allow-loopback"];

/// `callsign`, with the server that it is asked of.
pub fn at(server: &Server, words: &[&str]) -> Ended {
    let place = format!("unix:{}", server.socket.display());
    callsign(&[words, &["--server", &place, "--timeout", "30s"]].concat())
}

/// The same, which must be done.
pub fn done(server: &Server, words: &[&str]) -> String {
    let ended = at(server, words);
    assert_eq!(ended.code, Some(0), "{words:?}: {}", ended.stderr);
    ended.stdout
}

/// The lines of an export: the first, and those between it and the last.
pub fn exported(server: &Server) -> (Value, Vec<Value>) {
    let text = done(server, &["export"]);
    let lines: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect();
    let (head, rest) = lines.split_first().expect("a first line");
    let (end, rest) = rest.split_last().expect("a last line");
    assert_eq!(end["end"]["lines"], rest.len(), "the last line counts the others");
    (head["callsign"].clone(), rest.to_vec())
}

/// Says where two exports differ.
pub fn assert_same(seen: &[Value], expected: &[Value], what: &str) {
    let unlike = |one: &[Value], other: &[Value]| -> String {
        one.iter().filter(|line| !other.contains(line)).map(|line| format!("    {line}\n")).collect()
    };
    let (more, less) = (unlike(seen, expected), unlike(expected, seen));
    assert!(more.is_empty() && less.is_empty(), "{what}\n  seen\n{more}  expected\n{less}");
    assert_eq!(seen, expected, "{what}: the same in another order");
}

/// Puts one of everything into a server that was started with [`FLAGS`]; the connection holds an instance, and the text is a token's.
pub fn fill(server: &Server) -> (Client, String) {
    let mut client = server.client();
    let created =
        json!({"token": {"create": {"name": "ci", "allow": ["*"], "deny": ["admin"], "expires": "30d"}}});
    let text = client.done("created", &created)["token"].as_str().expect("a token").to_owned();
    client.done("created", &json!({"token": {"create": {"name": "reads", "allow": ["read:web*"]}}}));
    for settings in [
        json!({"service": "web", "ttl": "7s", "balance": "one:affinity", "max_answers": 3, "srv_weights": "haproxy"}),
        json!({"service": "db", "failover": ["web", "db.example.com"], "guard": "50%", "guard_for": "90s"}),
        json!({"service": "later", "failover": []}),
    ] {
        client.done("settings", &json!({ "settings": settings }));
    }
    let probes = json!([
        {"id": "tcp", "tcp": "[2001:db8::1]:5432", "interval": "1m", "timeout": "1500ms", "rise": 3, "fall": 2, "warn": 1},
        {"id": "http", "http": "https://198.51.100.7/health?a=b", "method": "POST", "headers": {"X-A": "b c"}, "body": "\"{}\"\n",
         "expect": "200-399", "tls_skip_verify": true, "tls_server_name": "a.example", "interval": "1h"},
        {"id": "grpc", "grpc": "198.51.100.7:50051/my.Service", "tls": true, "interval": "1h", "deregister_after": "24h"},
        {"id": "command", "command": ["/bin/sh", "-c", "exit 2 # '\""], "interval": "1h"},
        {"id": "ttl", "ttl": "24h", "status": "passing", "name": "is it there?", "notes": "ask \u{fc}"},
        {"id": "said", "status": "warning"},
    ]);
    for mut form in [
        json!({"id": "everything", "address": ["10.0.0.7", "2001:db8::7"], "port": 8080, "lease": "1h", "protocol": "http",
            "ports": {"metrics": 9090, "dns": {"port": 53, "transport": "udp"}}, "tags": ["v2", "a b,c", "\u{1f600}"],
            "meta": {"path": "/a b", "quote": "'\"\\", "\u{e9}": "\u{fc}"}, "weight": 0, "priority": 7, "checks": probes}),
        json!({"id": "Target:1", "target": "db.example.com.", "ports": {"pg": 5432}, "lease": "none"}),
        json!({"id": "same", "host": "m1", "address": "10.0.0.8", "port": 1, "lease": "none"}),
        json!({"id": "same", "host": "m2.example", "address": "127.0.0.1", "port": 1, "lease": "90500ms"}),
        json!({"id": "drained", "address": "10.0.0.9", "port": 65535, "lease": "none"}),
        json!({"id": "none", "address": "10.0.0.9", "ports": {}, "lease": "none"}),
    ] {
        form["service"] = json!("web");
        client.done("registered", &json!({ "register": form }));
    }
    // The checks that are probed fail from their beginning; that each says why is a change.
    eventually("words of every check that fails", DEADLINE, || {
        let listed = client.list();
        let checks = listed.iter().filter_map(|one| one["checks"].as_array()).flatten();
        let mut critical = checks.filter(|check| check["status"] == "critical");
        critical.all(|check| !check["output"].as_str().unwrap_or_default().is_empty()).then_some(())
    });
    client.done("draining", &json!({"drain": {"service": "web", "id": "drained"}}));
    client.done(
        "reported",
        &json!({"report": {"service": "web", "id": "none", "check": "eyes", "status": "maintenance",
            "output": "a \"line\"\nand \\ \u{1} another"}}),
    );
    client.done(
        "reported",
        &json!({"report": {"host": "m1", "check": "disk", "status": "warning", "output": "92 %"}}),
    );
    // Whose it is differs by who says so, and on which way.
    let mut other = server.tcp_client();
    let over =
        json!({"id": "over-tcp", "service": "db", "address": "10.0.0.1", "port": 5432, "lease": "none"});
    other.done("registered", &json!({ "register": over }));
    other.done("welcome", &json!({"hello": {"token": text}}));
    let over =
        json!({"id": "of-a-token", "service": "db", "address": "10.0.0.2", "port": 5432, "lease": "24h"});
    other.done("registered", &json!({ "register": over }));
    let http = |target: &str, body: Value| {
        let reply = request(server.http[0], "PUT", target, &body.to_string());
        assert_eq!(reply.status, 200, "{target}: {}", reply.text());
    };
    http(
        "/v1/agent/service/register",
        json!({"Name": "api", "ID": "api:1", "Port": 80, "Address": "10.1.1.1", "Tags": ["x"], "EnableTagOverride": true,
            "Weights": {"Passing": 10, "Warning": 2}, "TaggedAddresses": {"lan": {"Address": "10.1.1.1", "Port": 81}},
            "Meta": {"k": "v"}, "Check": {"TTL": "1h", "Status": "passing", "Notes": "n"}}),
    );
    http(
        "/v1/catalog/register",
        json!({"Node": "elsewhere", "Address": "10.2.2.2", "ID": "40e4a748-2192-161a-0510-9bf59fe950b5", "NodeMeta": {"rack": "7"},
            "Service": {"Service": "mail"}, "Check": {"Node": "elsewhere", "CheckID": "ping", "Name": "ping", "Status": "passing", "Output": "1 ms"}}),
    );
    for records in [
        json!({"owner": "printer.service.local.", "type": "A", "ttl": 300, "data": ["10.0.0.99", "10.0.0.98"]}),
        json!({"owner": "printer.service.local.", "type": "TXT", "ttl": 7, "data": ["\"a \\\"b\\\\\" \"\\000\\255;\\010\""], "lease": "1h"}),
        json!({"owner": "service.local.", "type": "MX", "ttl": 60, "data": ["5 printer.service.local."]}),
        json!({"owner": "h.a\\.b.c.d.e.service.local.", "type": "TYPE65", "ttl": 60, "data": ["\\# 3 000100"]}),
        json!({"owner": "sub.service.local.", "type": "NS", "ttl": 60, "data": ["ns.example.com."]}),
        json!({"owner": "sub.service.local.", "type": "TYPE43", "ttl": 60, "data": ["\\# 4 00010d02"]}),
    ] {
        let mut records = records;
        records["zone"] = json!("service.local.");
        client.done("imported", &json!({"import": {"line": {"records": records}}}));
    }
    // Held for as long as the connection is open.
    let mut holder = server.client();
    let held =
        json!({"id": "held", "service": "web", "address": "10.0.0.3", "port": 80, "lease": "connection"});
    holder.done("registered", &json!({ "register": held }));
    (holder, text)
}
