//! Targets for Prometheus, settings, and HTTP on the registration socket.

use serde_json::{Value, json};

use super::{REGISTER, definition};
use crate::harness::{Http, Server};

#[test]
fn live_instances_are_targets() {
    let server = Server::start(&["--store", "memory"]);
    let mut client = server.client();
    for form in [
        json!({"service": "web", "id": "a", "host": "m1", "address": ["10.0.0.7", "10.0.0.8"], "lease": "none",
               "ports": {"http": 8080, "metrics": 9100}, "tags": ["v2", "blue"], "meta": {"a-b": "c"}, "protocol": "http"}),
        json!({"service": "web", "id": "b", "host": "m1", "address": "2001:db8::1", "port": 80, "lease": "none"}),
        json!({"service": "web", "id": "sick", "address": "10.0.0.9", "port": 80, "lease": "none",
               "checks": [{"id": "disk", "status": "critical"}]}),
        json!({"service": "db", "id": "t", "host": "m2", "target": "db.example.com.", "port": 5432, "lease": "none"}),
    ] {
        client.done("registered", &json!({ "register": form }));
    }
    let mut http = server.http();
    let response = http.get("/sd/prometheus");
    assert_eq!(response.header("content-type"), Some("application/json"));
    let targets = |response: &Value| -> Vec<String> {
        let groups = response.as_array().expect("a list");
        groups.iter().map(|group| group["targets"][0].as_str().expect("a target").to_owned()).collect()
    };
    let groups = response.json();
    assert_eq!(targets(&groups), ["db.example.com:5432", "10.0.0.7:8080", "[2001:db8::1]:80"]);
    assert_eq!(
        groups[1],
        json!({"targets": ["10.0.0.7:8080"], "labels": {
            "__meta_callsign_service": "web", "__meta_callsign_id": "a", "__meta_callsign_host": "m1",
            "__meta_callsign_address": "10.0.0.7,10.0.0.8", "__meta_callsign_health": "passing",
            "__meta_callsign_port": "8080", "__meta_callsign_port_name": "http",
            "__meta_callsign_protocol": "http", "__meta_callsign_tags": ",v2,blue,", "__meta_callsign_meta_a_b": "c",
        }})
    );
    assert_eq!(targets(&http.get("/sd/prometheus?port=metrics").json()), ["10.0.0.7:9100"]);
    assert_eq!(targets(&http.get("/sd/prometheus?service=db").json()), ["db.example.com:5432"]);
    assert_eq!(targets(&http.get("/sd/prometheus?tag=v2").json()), ["10.0.0.7:8080"]);
    assert_eq!(http.get("/sd/prometheus?service=none").text(), "[]");
    assert_eq!(http.get("/sd/prometheus?service=w_b").status, 400);
}

#[test]
fn settings_are_shown_and_set() {
    let server = Server::start(&["--store", "memory"]);
    let mut http = server.http();
    let shown = http.get("/v1/settings/web").json();
    assert_eq!((&shown["service"], &shown["ttl"]), (&json!("web"), &Value::Null), "{shown}");
    let set = http.ask("PUT", "/v1/settings/web", &json!({"ttl": "9s"})).json();
    assert_eq!(set["ttl"], 9, "{set}");
    let both = json!({"balance": "one:affinity", "max_answers": 3});
    let set = http.ask("PUT", "/v1/settings/web", &both).json();
    assert_eq!((&set["ttl"], &set["balance"], &set["max_answers"]), (&json!(9), &both["balance"], &json!(3)));
    assert_eq!(http.get("/v1/settings/web").json(), set, "seen by the next");
    // The path says which service, whatever the body says.
    let other = http.ask("PUT", "/v1/settings/web", &json!({"service": "db", "ttl": "8s"})).json();
    assert_eq!((&other["service"], &other["ttl"]), (&json!("web"), &json!(8)));
    let over = http.ask("PUT", "/v1/settings/web", &json!({"failover": ["db", "a.example.com"]})).json();
    assert_eq!(over["failover"], json!(["db", "a.example.com."]), "{over}");
    let circle = http.ask("PUT", "/v1/settings/db", &json!({"failover": ["web"]}));
    assert_eq!(circle.status, 400, "{}", circle.text());
    let reset = http.ask("PUT", "/v1/settings/web", &json!({"reset": true})).json();
    assert_eq!(reset["ttl"], Value::Null, "{reset}");
    let same = server.client().ask(&json!({"settings": {"service": "web"}}));
    assert_eq!(same["settings"], reset, "as over the socket: {same}");
}

#[test]
fn the_registration_socket_speaks_both() {
    let server = Server::start(&["--store", "memory"]);
    // Who has said nothing yet holds up nobody, and may then speak either.
    let (mut late, mut late_lines) = (Http::unix(&server.socket), server.client());
    for round in 1..=3 {
        // There is no network on it, so a Host is anybody's.
        let mut http = Http::unix(&server.socket);
        http.send(
            "PUT",
            REGISTER,
            &[("Host", "anything")],
            definition("web", "a", round).to_string().as_bytes(),
        );
        assert_eq!(http.receive().status, 200);
        assert_eq!(server.client().list().last().map(|it| it["port"].clone()), Some(json!(round)));
        let form = json!({"service": "db", "id": "b", "address": "10.0.0.7", "port": round, "lease": "none"});
        server.client().done("registered", &json!({ "register": form }));
        assert_eq!(http.get("/v1/catalog/service/db").json()[0]["ServicePort"], round);
    }
    late.send_raw(b"G").expect("it reads");
    assert_eq!(late_lines.list().len(), 2);
    late.send_raw(b"ET /v1/status/leader HTTP/1.1\r\nHost: x\r\n\r\n").expect("it reads");
    assert_eq!(late.receive().status, 200);
    // Other origins are none of its business to know, but a page's request is a page's request.
    late.send("PUT", "/v1/settings/web", &[("Origin", "http://evil.example")], b"{\"ttl\":\"9s\"}");
    assert_eq!(late.receive().status, 403);
    // White space and `{` are lines; small letters are no HTTP.
    assert_eq!(server.client().ask_line(b"  {\"status\":{}}")["status"]["ready"], true);
    assert_eq!(server.client().ask_line(b"get / HTTP/1.1")["error"]["code"], "malformed");
}
