//! First come, first served: an instance is changed by whoever registered it, or an administrator.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use serde_json::{Value, json};

use super::{hello, over_http, token};
use crate::harness::{Client, DEADLINE, Server, binary, eventually};

fn register(id: &str) -> Value {
    json!({"register": {"service": "web", "id": id, "address": "10.0.0.7", "port": 80, "lease": "1h"}})
}

/// Everything that changes an instance of another, and what renews it.
fn changes(id: &str) -> [Value; 5] {
    let holder = json!({"service": "web", "id": id});
    [
        register(id),
        json!({ "heartbeat": holder }),
        json!({ "drain": holder }),
        json!({"report": {"service": "web", "id": id, "check": "up", "status": "critical"}}),
        json!({ "deregister": holder }),
    ]
}

#[test]
fn an_instance_is_changed_by_who_registered_it_or_an_administrator() {
    let server = Server::start(&["--listen", "127.0.0.1:0", "--access", "allow anyone read"]);
    let every = ["register+deregister+report"];
    let (first, second) = (token(&server, "first", &every, &[]), token(&server, "second", &every, &[]));
    let chief = token(&server, "chief", &["admin:web*"], &[]);
    let mut owner = hello(server.tcp_client(), &first);
    let mut other = hello(server.client(), &second); // what a token may is all that its holder may, root or not
    owner.done("registered", &register("web-1"));
    for change in changes("web-1") {
        let error = other.done("error", &change);
        assert_eq!(error["code"], "denied", "{change}");
        let text = error["message"].as_str().expect("a message");
        assert!(text.contains("was registered by token first"), "{text}");
    }
    let taken = json!({"Name": "web", "ID": "web-1", "Address": "10.0.0.9", "Port": 81});
    let response = over_http(server.http(), "PUT", "/v1/agent/service/register", Some(&second), &taken);
    assert!(response.status == 403 && response.text().contains("token first"), "{response:?}");
    // Not even by another service's name, which would take the id away from it.
    let own = json!({"Name": "web", "ID": "c", "Port": 1, "Address": "10.0.0.7"});
    over_http(server.http(), "PUT", "/v1/agent/service/register", Some(&first), &own);
    let moved = json!({"Name": "other", "ID": "c", "Address": "10.0.0.9", "Port": 81});
    assert_eq!(
        over_http(server.http(), "PUT", "/v1/agent/service/register", Some(&second), &moved).status,
        403
    );
    let log = server.client().done("log", &json!({"log": {"id": "web-1"}}));
    let of_web_1: Vec<&Value> = log["changes"].as_array().expect("changes").iter().collect();
    assert!(of_web_1.len() == 1 && of_web_1[0]["author"] == "token first", "{log}");
    // An administrator changes it, and does not take it away.
    let mut chief = hello(server.tcp_client(), &chief);
    chief.done("draining", &changes("web-1")[2]);
    chief.done("registered", &register("web-1"));
    for change in changes("web-1") {
        assert!(owner.ask(&change)["error"].is_null(), "{change}");
    }
    // Gone is gone: who comes now is first.
    other.done("registered", &register("web-1"));
    assert_eq!(owner.done("error", &register("web-1"))["code"], "denied");
}

#[test]
fn whose_an_instance_is_outlives_a_crash() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().display().to_string();
    let flags = ["--data", &data, "--listen", "127.0.0.1:0", "--access", "allow anyone read"];
    let mut server = Server::start(&flags);
    let (first, second) =
        (token(&server, "first", &["register"], &[]), token(&server, "second", &["register"], &[]));
    hello(server.tcp_client(), &first).done("registered", &register("web-1"));
    server.crash();
    let server = Server::start(&flags);
    assert_eq!(hello(server.tcp_client(), &second).done("error", &register("web-1"))["code"], "denied");
    hello(server.tcp_client(), &first).done("registered", &register("web-1"));
}

/// The kernel says who is at the other end of the Unix socket, and its mode who may be there at all.
#[test]
fn a_user_of_the_group_registers_and_changes_nothing_of_another() {
    const NOBODY: u32 = 65_534;
    let server = Server::start(&["--store", "memory"]);
    std::fs::set_permissions(server.directory(), PermissionsExt::from_mode(0o755)).expect("a mode");
    let run = |gid: u32, words: &[&str]| {
        let socket = format!("unix:{}", server.socket.display());
        let mut command = Command::new(binary());
        command.args(words).args(["--server", &socket]).uid(NOBODY).gid(gid).env_remove("CALLSIGN_TOKEN");
        command.current_dir("/").output().expect("callsign as another user")
    };
    server.client().done("registered", &register("web-1"));
    let stranger = run(NOBODY, &["ls"]);
    assert_eq!(stranger.status.code(), Some(4), "{stranger:?}");
    let member = run(0, &["register", "web", "10.0.0.9:80", "--id", "web-2", "--lease", "1h"]);
    assert_eq!(member.status.code(), Some(0), "{member:?}");
    let theirs = run(0, &["deregister", "web", "web-1"]);
    let told = String::from_utf8_lossy(&theirs.stderr);
    assert!(theirs.status.code() == Some(4) && told.contains("was registered by uid 0"), "{theirs:?}");
    let own = run(0, &["deregister", "web", "web-2"]);
    assert_eq!(own.status.code(), Some(0), "{own:?}");
}

#[test]
fn one_identity_registers_so_many_and_no_more() {
    let data = tempfile::tempdir().expect("a directory");
    let data = data.path().to_str().expect("a path");
    let options = [
        "--listen",
        "127.0.0.1:0",
        "--identity-instances-max",
        "3",
        "--access",
        "allow anyone read",
        "--data",
        data,
    ];
    let mut server = Server::start(&options);
    let first = token(&server, "first", &["register+deregister:*"], &[]);
    let second = token(&server, "second", &["register:*"], &[]);
    let chief = token(&server, "chief", &["admin:web"], &[]);
    let mut client = hello(server.tcp_client(), &first);
    // In one piece, so that they are of one batch.
    let ids = ["1", "2", "3", "4", "5"];
    let lines: String = ids.iter().map(|id| format!("{}\n", register(id))).collect();
    client.send_raw(lines.as_bytes()).expect("it is read");
    let replies = ids.map(|_| client.receive());
    let codes: Vec<&Value> = replies.iter().map(|reply| &reply["error"]["code"]).collect();
    assert_eq!(
        codes,
        [&Value::Null, &Value::Null, &Value::Null, &json!("full"), &json!("full")],
        "{replies:?}"
    );
    let text = replies[3]["error"]["message"].as_str().expect("a message");
    assert!(
        text.contains("token first may have 3 instances") && text.contains("identity-instances-max"),
        "{text}"
    );
    // Nobody else is kept from anything, and what is there is renewed.
    hello(server.tcp_client(), &second).done("registered", &register("6"));
    client.done("registered", &register("3"));
    // What an administrator registers again stays the other's, and counts for the other.
    let mut chief = hello(server.tcp_client(), &chief);
    for id in ["1", "7", "8", "9", "10"] {
        chief.done("registered", &register(id));
    }
    assert_eq!(client.done("error", &register("4"))["code"], "full");
    client.done("deregistered", &json!({"deregister": {"service": "web", "id": "2"}}));
    client.done("registered", &register("4"));
    // A restart forgets nothing of it.
    server.crash();
    let server = Server::start(&options);
    let mut client = hello(server.tcp_client(), &first);
    assert_eq!(client.done("error", &register("5"))["code"], "full");
}

/// Over the catalog anybody may name any host, and an id there that is spelt as another's is no hold on the other.
#[test]
fn an_id_in_the_catalog_takes_nothing_from_the_agents() {
    let server = Server::start(&["--listen", "127.0.0.1:0", "--access", "allow anyone read"]);
    let (first, second) = (
        token(&server, "first", &["register+deregister+report"], &[]),
        token(&server, "second", &["register:api"], &[]),
    );
    let put = |path: &str, token: &str, body: Value| {
        let response = over_http(server.http(), "PUT", path, Some(token), &body);
        (response.status, response.text().to_owned())
    };
    let own = json!({"Name": "web", "ID": "c", "Port": 1, "Address": "10.0.0.7", "Check": {"TTL": "1m"}});
    assert_eq!(put("/v1/agent/service/register", &first, own.clone()).0, 200);
    let host = server.client().list()[0]["host"].as_str().expect("a host").to_owned();
    let other = json!({"Node": host, "SkipNodeUpdate": true,
        "Service": {"ID": "c", "Service": "api", "Address": "10.0.0.9", "Port": 1, "Check": {"TTL": "1m"}}});
    assert_eq!(put("/v1/catalog/register", &second, other), (200, "true".to_owned()));
    for (path, body) in [
        ("/v1/agent/check/pass/service:c", Value::Null),
        ("/v1/agent/service/register", own.clone()),
        ("/v1/agent/service/maintenance/c?enable=true", Value::Null),
        ("/v1/agent/service/deregister/c", Value::Null),
        // Nor is it in the way of who comes now.
        ("/v1/agent/service/register", own),
    ] {
        let (status, said) = put(path, &first, body);
        assert_eq!(status, 200, "{path}: {said}");
    }
}

#[test]
fn who_may_not_deregister_displaces_nothing_either() {
    let server = Server::start(&["--access", "allow anyone read"]);
    let only_register = token(&server, "only", &["register"], &[]);
    let both = token(&server, "both", &["register+deregister"], &[]);
    let of = |name: &str, id: &str| json!({"Name": name, "ID": id, "Address": "10.0.0.7", "Port": 80});
    let put = |token: &str, body: &Value| {
        over_http(server.http(), "PUT", "/v1/agent/service/register", Some(token), body).status
    };
    assert_eq!(put(&only_register, &of("first", "x")), 200);
    // An id has one service at an agent of Consul's, so this would take the instance out of the other one.
    assert_eq!(put(&only_register, &of("second", "x")), 403);
    assert_eq!(server.client().list().len(), 1);
    assert_eq!(put(&both, &of("first", "y")), 200);
    assert_eq!(put(&both, &of("second", "y")), 200);
    assert_eq!(server.client().list().len(), 2);
}

#[test]
fn an_alias_tells_nothing_of_what_its_holder_may_not_read() {
    let server = Server::start(&[]);
    let owner = token(&server, "owner", &["register+report+read:secret"], &[]);
    let other = token(&server, "other", &["register+read:other*"], &[]);
    let mut owner = hello(server.client(), &owner);
    let mut other = hello(server.client(), &other);
    let form = |service: &str, id: &str, check: Value| {
        json!({"register": {"service": service, "id": id, "address": "10.0.0.7", "port": 80, "lease": "none",
                            "checks": [check]}})
    };
    owner.done("registered", &form("secret", "db", json!({"id": "up", "status": "passing"})));
    let report = json!({"report": {"service": "secret", "id": "db", "check": "up", "status": "critical",
                                   "output": "dsn=hunter2"}});
    owner.done("reported", &report);
    other.done("registered", &form("other", "spy", json!({"id": "look", "alias": "db"})));
    owner.done("registered", &form("secret", "own", json!({"id": "look", "alias": "db"})));
    let output = |client: &mut Client, service: &str, id: &str| {
        let found = client.done("instances", &json!({"list": {"service": service}}));
        let mut members = found["instances"].as_array().expect("instances").iter();
        let member = members.find(|member| member["id"] == id).expect("an instance");
        member["checks"][0]["output"].as_str().unwrap_or_default().to_owned()
    };
    let told = eventually("what the alias finds", DEADLINE, || {
        Some(output(&mut other, "other", "spy")).filter(|output| output.contains("failing"))
    });
    assert_eq!(told, "Aliased check \"up\" failing");
    eventually("the same of an instance of one's own", DEADLINE, || {
        output(&mut owner, "secret", "own").contains("hunter2").then_some(())
    });
}

#[test]
fn a_read_that_waits_tells_nothing_of_another_service() {
    let server = Server::start(&[]);
    let all = token(&server, "all", &["admin"], &[]);
    let some = token(&server, "some", &["register+deregister+read:open"], &[]);
    let register = |token: &str, service: &str| {
        let mut client = hello(server.client(), token);
        let form = json!({"register": {"service": service, "id": "x", "address": "10.0.0.7", "port": 80,
                                       "lease": "none", "meta": {"dsn": "hunter2"}}});
        client.done("registered", &form);
    };
    register(&all, "secret");
    register(&some, "open");
    let read = over_http(server.http(), "GET", "/v1/agent/service/x", Some(&some), &Value::Null);
    assert_eq!((read.status, &read.json()["Service"]), (200, &json!("open")));
    let hash = read.json()["ContentHash"].as_str().expect("a hash").to_owned();
    let waiting = std::thread::scope(|scope| {
        let (path, http) = (format!("/v1/agent/service/x?hash={hash}&wait=30s"), server.http());
        let some = &some;
        let waiting = scope.spawn(move || over_http(http, "GET", &path, Some(some), &Value::Null));
        let mut client = hello(server.client(), some);
        client.done("deregistered", &json!({"deregister": {"service": "open", "id": "x"}}));
        waiting.join().expect("a reader")
    });
    assert!(!waiting.text().contains("hunter2") && waiting.status != 200, "{waiting:?}");
}

#[test]
fn who_may_not_deregister_a_host_is_not_told_what_is_on_it() {
    let server = Server::start(&[]);
    let all = token(&server, "all", &["admin"], &[]);
    let some = token(&server, "some", &["register+deregister:open"], &[]);
    let node =
        json!({"Node": "far", "Address": "10.0.0.9", "Service": {"Service": "hidden", "ID": "h", "Port": 1}});
    assert_eq!(over_http(server.http(), "PUT", "/v1/catalog/register", Some(&all), &node).status, 200);
    let [there, nowhere] = ["far", "nowhere"].map(|node| {
        over_http(server.http(), "PUT", "/v1/catalog/deregister", Some(&some), &json!({"Node": node}))
    });
    assert_eq!((there.status, there.text()), (403, nowhere.text()));
}
