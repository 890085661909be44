//! Who we are to etcd: TLS, and the name that is another's. And who may change something at a node.

use serde_json::{Value, json};

use crate::etcd::Etcd;
use crate::harness::ask::request;
use crate::harness::{DEADLINE, Http, Server, callsign, eventually};
use crate::several::{register, seen};

const CERTIFICATE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/health/certificate.pem");
const KEY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/health/key.pem");

#[test]
fn etcd_is_reached_over_tls_and_only_with_the_authority_that_is_named() {
    let etcd = Etcd::start_with("https", &["--cert-file", CERTIFICATE, "--key-file", KEY]);
    let node = etcd.node("a", &["--etcd-authority", CERTIFICATE]);
    node.client().done("registered", &register("web-1", 8001, "none"));
    assert_eq!(seen(&node), [8001]);
    // The machine's own authorities know nothing of it.
    let store = etcd.store();
    let stranger = Server::begin(&[], &["--store", &store, "--node", "b"]);
    eventually("its complaint", DEADLINE, || {
        let said = stranger.stderr();
        (said.contains("TLS") && said.contains("UnknownIssuer")).then_some(())
    });
    // What cannot be read is said at the start.
    let refused =
        callsign(&["serve", "--store", &store, "--etcd-authority", "/nowhere.pem", "--check-config"]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    assert!(refused.stderr.contains("/nowhere.pem"), "{}", refused.stderr);
}

#[test]
fn a_name_that_another_node_has_is_waited_for_and_said() {
    let etcd = Etcd::start();
    let first = etcd.node("a", &[]);
    let store = etcd.store();
    let mut second = Server::begin(&[], &["--store", &store, "--node", "a"]);
    eventually("its complaint", DEADLINE, || {
        second.stderr().contains("is that of another node").then_some(())
    });
    assert!(!second.stdout().contains("ready"));
    drop(first);
    assert!(second.until_ready(), "the name is free");
}

#[test]
fn a_user_shows_a_password_and_a_wrong_one_is_said() {
    let etcd = Etcd::start();
    // As etcd's own documentation does it: the first user is root, and from then on everybody has to be somebody.
    let at = ([127, 0, 0, 1], etcd.port()).into();
    for (path, body) in [
        ("/v3/auth/user/add", r#"{"name":"root","password":"open-sesame"}"#),
        ("/v3/auth/role/add", r#"{"name":"root"}"#),
        ("/v3/auth/user/grant", r#"{"user":"root","role":"root"}"#),
        ("/v3/auth/enable", "{}"),
    ] {
        let reply = eventually("etcd's leader", DEADLINE, || {
            let reply = request(at, "POST", path, body);
            (!reply.text().contains("no leader")).then_some(reply)
        });
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
    }
    let node = etcd.node("a", &["--etcd-user", "root", "--etcd-password", "open-sesame", "--log", "trace"]);
    node.client().done("registered", &register("web-1", 8001, "none"));
    assert_eq!(seen(&node), [8001]);
    assert!(!node.stderr().contains("open-sesame"), "a password in the log");
    let store = etcd.store();
    let words = ["--store", &store, "--node", "b", "--etcd-user", "root", "--etcd-password", "guess"];
    let stranger = Server::begin(&[], &words);
    let complaint = eventually("its complaint", DEADLINE, || {
        let said = stranger.stderr();
        said.contains("the user root").then_some(said)
    });
    assert!(!complaint.contains("guess"), "a password in the log: {complaint}");
    assert!(!stranger.stdout().contains("ready"));
}

#[test]
fn an_endpoint_that_is_dead_is_passed_over_and_prefixes_are_apart() {
    let etcd = Etcd::start();
    // Nobody listens on port 1 of this machine.
    let store = format!("etcd://127.0.0.1:1,127.0.0.1:{}/one", etcd.port());
    let one = Server::start(&["--store", &store, "--node", "a"]);
    one.client().done("registered", &register("web-1", 8001, "none"));
    let store = format!("etcd://127.0.0.1:{}/two/", etcd.port());
    let two = Server::start(&["--store", &store, "--node", "a"]);
    two.client().done("registered", &register("web-2", 8002, "none"));
    assert_eq!((seen(&one), seen(&two)), (vec![8001], vec![8002]));
}

/// The node asks about every command, as the writer of one machine does: here each of them is denied for want of a rule.
#[test]
fn a_node_asks_of_every_command_whether_it_may() {
    let etcd = Etcd::start();
    let node = etcd.node("a", &["--access", "allow anyone read"]);
    // The test is root, whom the Unix socket knows.
    let mut root = node.client();
    root.done("registered", &register("web-1", 8001, "30s"));
    let here = json!({"Node": "m2", "Address": "10.1.2.3", "Check": {"Name": "disk", "CheckID": "disk", "Status": "passing"}});
    Http::unix(&node.socket).put("/v1/catalog/register", &here);
    let own = json!({"Name": "web", "ID": "own", "Address": "10.0.0.8", "Port": 80, "Check": {"TTL": "24h"}});
    Http::unix(&node.socket).put("/v1/agent/service/register", &own);
    root.done("created", &json!({"token": {"create": {"name": "kept", "allow": ["read"]}}}));
    let before = root.ask(&json!({"log": {}}));
    let mut stranger = node.tcp_client();
    let holder = json!({"service": "web", "id": "web-1", "host": "m1"});
    for command in [
        register("web-2", 8002, "none"),
        register("web-1", 8003, "30s"),
        json!({ "heartbeat": holder }),
        json!({ "drain": holder }),
        json!({ "deregister": holder }),
        json!({"deregister": {"service": "web", "id": "nobody", "host": "m1"}}),
        json!({"report": {"service": "web", "id": "web-1", "host": "m1", "status": "critical"}}),
        json!({"report": {"host": "m2", "check": "disk", "status": "critical"}}),
        json!({"settings": {"service": "web", "ttl": "9s"}}),
        json!({"token": {"create": {"name": "more", "allow": ["*"]}}}),
        json!({"token": {"revoke": {"name": "kept"}}}),
    ] {
        let reply = stranger.ask(&command);
        assert_eq!(reply["error"]["code"], "denied", "{command} was answered {reply}");
    }
    let service = json!({"Name": "web", "ID": "web-3", "Address": "10.0.0.7", "Port": 80});
    let check = json!({"Name": "up", "ServiceID": "own", "TTL": "10s"});
    for (path, body) in [
        ("/v1/agent/service/register", service),
        ("/v1/catalog/register", here),
        ("/v1/catalog/deregister", json!({"Node": "m2"})),
        ("/v1/catalog/deregister", json!({"Node": "m2", "CheckID": "disk"})),
        ("/v1/agent/check/register", check),
        ("/v1/agent/check/update/service:own", json!({"Status": "passing"})),
        ("/v1/agent/check/deregister/service:own", Value::Null),
        ("/v1/agent/service/deregister/own", Value::Null),
    ] {
        let reply = node.http().ask("PUT", path, &body);
        assert_eq!(reply.status, 403, "{path} {body}: {}", reply.text());
    }
    let revisions = |log: &Value| {
        let changes = log["log"]["changes"].as_array().cloned().unwrap_or_default();
        changes.iter().map(|change| change["revision"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(revisions(&root.ask(&json!({"log": {}}))), revisions(&before), "something was changed");
}

#[test]
fn a_check_does_not_speak_to_the_store() {
    let etcd = Etcd::start();
    let node = etcd.node("a", &[]);
    let port = etcd.port();
    // As etcd's gateway takes it: a key of ours.
    let body = r#"{"key":"L2NhbGxzaWduL3g=","value":"eA=="}"#;
    let http = |host: &str| {
        json!({"id": host, "http": format!("http://{host}:{port}/v3/kv/put"), "method": "POST", "body": body,
               "interval": "1s"})
    };
    let checks = json!([
        http("127.0.0.1"),
        http("localhost"),
        {"id": "tcp", "tcp": format!("127.0.0.1:{port}"), "interval": "1s"},
    ]);
    let mut client = node.client();
    let register = json!({"register": {"service": "evil", "id": "evil", "address": "127.0.0.1", "port": 80,
                                       "lease": "none", "checks": checks}});
    client.done("registered", &register);
    eventually("what the checks say", DEADLINE, || {
        let listed = client.done("instances", &json!({"list": {"service": "evil"}}));
        let checks = listed["instances"][0]["checks"].as_array().expect("checks").clone();
        let says = |id: &str, what: &str| {
            let check = checks.iter().find(|check| check["id"] == id).expect("a check");
            check["output"].as_str().unwrap_or_default().contains(what)
        };
        (says("127.0.0.1", "the etcd that keeps")
            && says("localhost", "the etcd that keeps")
            && says("tcp", "Success"))
        .then_some(())
    });
    let found =
        request(([127, 0, 0, 1], port).into(), "POST", "/v3/kv/range", r#"{"key":"L2NhbGxzaWduL3g="}"#);
    assert!(found.status == 200 && !found.text().contains("kvs"), "{}", found.text());
}
