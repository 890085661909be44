//! `callsign import --from-consul` from another server of ours, whose HTTP API is Consul's.

use std::fs::File;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::consul::{Consul, Says};
use crate::full::{at, done, exported};
use crate::harness::ask::request;
use crate::harness::tls::Pair;
use crate::harness::{DEADLINE, Server, binary, eventually};

/// `callsign import --from-consul … --follow`, ended by its pid.
struct Follower {
    child: Child,
    directory: TempDir,
}

impl Follower {
    /// Once the first reading is in.
    fn start(source: &Server, target: &Server, flags: &[&str]) -> Self {
        Self::at(&url(source), target, flags)
    }

    fn at(url: &str, target: &Server, flags: &[&str]) -> Self {
        let mut follower = Self::begin(url, target, flags);
        eventually("the first reading", DEADLINE, || {
            if let Some(status) = follower.child.try_wait().expect("waiting for our own child") {
                panic!("it ended with {status}: {}", follower.stderr());
            }
            follower.text("stdout").contains(" imported, ").then_some(())
        });
        follower
    }

    fn begin(url: &str, target: &Server, flags: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let file = |name: &str| File::create(directory.path().join(name)).expect("a file for what it says");
        let child = Command::new(binary())
            .args(["import", "--from-consul", url, "--follow"])
            .args(["--server", &format!("unix:{}", target.socket.display()), "--timeout", "30s"])
            .args(flags)
            .stdin(Stdio::null())
            .stdout(file("stdout"))
            .stderr(file("stderr"))
            .spawn()
            .expect("starting callsign import");
        Self { child, directory }
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.directory.path().join(name)).unwrap_or_default()
    }

    fn stderr(&self) -> String {
        self.text("stderr")
    }

    fn says(&self, what: &str) {
        eventually(what, DEADLINE, || self.stderr().contains(what).then_some(()));
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            eprintln!("the follower said:\n{}{}", self.text("stdout"), self.stderr());
        }
    }
}

fn url(source: &Server) -> String {
    format!("http://{}", source.http[0])
}

fn put(source: &Server, target: &str, body: &Value) {
    let reply = request(source.http[0], "PUT", target, &body.to_string());
    assert_eq!(reply.status, 200, "{target}: {}", reply.text());
}

fn service(name: &str, id: &str, port: u16) -> Value {
    json!({"Name": name, "ID": id, "Address": "10.0.0.7", "Port": port})
}

/// Waits until the instances of the server are these: `service/id:port health`.
fn becomes(server: &Server, expected: &[&str]) {
    eventually(&format!("{expected:?}"), DEADLINE, || {
        let shown = server.client().list().iter().map(shown).collect::<Vec<_>>();
        (shown == expected).then_some(())
    });
}

fn shown(instance: &Value) -> String {
    let text = |field: &str| instance[field].as_str().unwrap_or("?").to_owned();
    format!("{}/{}:{} {}", text("service"), text("id"), instance["port"], text("health"))
}

fn server() -> Server {
    Server::start(&["--store", "memory"])
}

#[test]
fn a_catalog_is_put_in_with_its_facts() {
    let (source, target) = (server(), server());
    let mut web = service("web", "web:1", 8080);
    for (field, value) in [
        ("Tags", json!(["v2", "a b"])),
        ("Meta", json!({"k": "v"})),
        ("Weights", json!({"Passing": 7, "Warning": 2})),
        ("TaggedAddresses", json!({"lan": {"Address": "10.0.0.7", "Port": 81}})),
        (
            "Checks",
            json!([{"CheckID": "alive", "Name": "is it?", "TTL": "1h", "Status": "warning", "Notes": "n"}]),
        ),
    ] {
        web[field] = value;
    }
    put(&source, "/v1/agent/service/register", &web);
    put(
        &source,
        "/v1/catalog/register",
        &json!({"Node": "elsewhere", "Address": "10.2.2.2", "NodeMeta": {"rack": "7"},
            "Service": {"Service": "mail", "Address": "mail.example.com"},
            "Checks": [{"CheckID": "ping", "Name": "ping", "Status": "critical", "Output": "no reply"}]}),
    );
    source.client().done("settings", &json!({"settings": {"service": "web", "ttl": "7s"}}));
    let counts = done(&target, &["import", "--from-consul", &url(&source), "-o", "json"]);
    let counts: Value = serde_json::from_str(&counts).expect("counts");
    // Two instances, the node elsewhere and the machine.
    assert_eq!((&counts["imported"], &counts["refused"]), (&json!(4), &json!(0)), "{counts}");
    let listed = target.client().list();
    assert_eq!(
        listed.iter().map(shown).collect::<Vec<_>>(),
        ["mail/mail:null critical", "web/web:1:8080 warning"]
    );
    let web = &listed[1];
    assert_eq!(
        [&web["tags"], &web["meta"], &web["weight"], &web["lease"], &web["source"]],
        [
            &json!(["v2", "a b"]),
            &json!({"k": "v"}),
            &json!(7),
            &json!("none"),
            &json!(format!("consul {}", url(&source)))
        ]
    );
    assert_eq!(listed[0]["target"], "mail.example.com.");
    // What a reader of Consul's API sees is what it sees there, but for indexes, which lie in either server's own past.
    let read = |server: &Server, path: &str| {
        let reply = request(server.http[0], "GET", path, "");
        let mut value = reply.json();
        for entry in value.as_array_mut().expect("a list") {
            forget(entry, &["CreateIndex", "ModifyIndex", "imported-from", "Type"]);
            // Ours has some of its own address; a node that others register has what they say.
            forget(&mut entry["Node"], &["TaggedAddresses"]);
        }
        value
    };
    for path in ["/v1/health/service/web", "/v1/health/service/mail"] {
        assert_eq!(read(&target, path), read(&source, path), "{path}");
    }
    // Twice is once.
    let again = done(&target, &["import", "--from-consul", &url(&source)]);
    assert!(again.starts_with("0 imported, 4 there already, 0 otherwise here and kept"), "{again}");
}

/// Takes these members out, however deep they are.
fn forget(value: &mut Value, members: &[&str]) {
    match value {
        Value::Object(object) => {
            members.iter().for_each(|member| drop(object.remove(*member)));
            object.values_mut().for_each(|value| forget(value, members));
        }
        Value::Array(list) => list.iter_mut().for_each(|value| forget(value, members)),
        _ => {}
    }
}

#[test]
fn what_changes_is_followed_and_what_others_registered_stays() {
    let (source, target) = (server(), server());
    put(&source, "/v1/agent/service/register", &service("web", "web-1", 1));
    put(&source, "/v1/agent/service/register", &service("db", "db-1", 2));
    // Somebody's own, one of which has the name of what will come.
    for (service, id, port) in [("web", "mine", 9), ("api", "api-1", 9)] {
        let form =
            json!({"service": service, "id": id, "address": "10.0.0.9", "port": port, "lease": "none"});
        target.client().done("registered", &json!({ "register": form }));
    }
    let follower = Follower::start(&source, &target, &[]);
    let own = ["api/api-1:9 passing", "web/mine:9 passing"];
    becomes(&target, &[own[0], "db/db-1:2 passing", own[1], "web/web-1:1 passing"]);
    // Registered, with a check; changed; one whose name is taken here; one of a service that is new.
    let mut checked = service("web", "web-2", 3);
    checked["Check"] = json!({"TTL": "1h", "Status": "passing"});
    put(&source, "/v1/agent/service/register", &checked);
    put(&source, "/v1/agent/service/register", &service("web", "web-1", 4));
    put(&source, "/v1/agent/service/register", &service("api", "api-1", 5));
    put(&source, "/v1/agent/service/register", &service("new", "new-1", 6));
    let more = ["new/new-1:6 passing", own[1], "web/web-1:4 passing"];
    becomes(&target, &[own[0], "db/db-1:2 passing", more[0], more[1], more[2], "web/web-2:3 passing"]);
    follower.says("is here already, and otherwise; it stays as it is");
    // A verdict, and maintenance of the machine and of one instance.
    put(&source, "/v1/agent/check/fail/service:web-2?note=broken", &json!({}));
    put(&source, "/v1/agent/service/maintenance/web-1?enable=true&reason=disk", &json!({}));
    becomes(
        &target,
        &[own[0], "db/db-1:2 passing", more[0], own[1], "web/web-1:4 maintenance", "web/web-2:3 critical"],
    );
    put(&source, "/v1/agent/maintenance?enable=true", &json!({}));
    eventually("maintenance of the machine", DEADLINE, || {
        let listed = target.client().list();
        listed.iter().all(|instance| instance["health"] == "maintenance").then_some(())
    });
    put(&source, "/v1/agent/maintenance?enable=false", &json!({}));
    // Deregistered: one of two, a whole service, and what is not ours to take away.
    put(&source, "/v1/agent/service/deregister/web-2", &json!({}));
    put(&source, "/v1/agent/service/deregister/db-1", &json!({}));
    put(&source, "/v1/agent/service/deregister/api-1", &json!({}));
    becomes(&target, &[own[0], more[0], own[1], "web/web-1:4 maintenance"]);
    // Stopped, it leaves what it has brought; begun again, it takes away what went meanwhile.
    let pid = Pid::from_raw(i32::try_from(follower.child.id()).expect("a pid"));
    kill(pid, Signal::SIGTERM).expect("it is ours to end");
    let mut follower = follower;
    let status = eventually("the end of the follower", DEADLINE, || {
        follower.child.try_wait().expect("waiting for our own child")
    });
    assert_eq!(status.code(), Some(0), "{}", follower.stderr());
    put(&source, "/v1/agent/service/deregister/new-1", &json!({}));
    becomes(&target, &[own[0], more[0], own[1], "web/web-1:4 maintenance"]);
    let _again = Follower::start(&source, &target, &[]);
    becomes(&target, &[own[0], own[1], "web/web-1:4 maintenance"]);
}

#[test]
fn more_services_than_are_waited_for_at_once_take_turns() {
    let (source, target) = (server(), server());
    let mut client = source.client();
    let form = |service: usize, port: u16| json!({"register": {"service": format!("s{service}"), "id": "a", "address": "10.0.0.7", "port": port, "lease": "none"}});
    for service in 0..120 {
        client.done("registered", &form(service, 1));
    }
    let _follower = Follower::start(&source, &target, &[]);
    // One of those at the front, and one of those that had no place at first.
    for service in [0, 119] {
        client.done("registered", &form(service, 2));
    }
    eventually("both changes", DEADLINE, || {
        let listed = target.client().list();
        let changed = listed.iter().filter(|instance| instance["port"] == 2).count();
        (listed.len() == 120 && changed == 2).then_some(())
    });
}

#[test]
fn over_tls_and_with_a_token() {
    let directory = tempfile::tempdir().expect("a directory");
    let pair = Pair::write(directory.path());
    let flags = [
        &pair.flags()[..],
        &["--https", "127.0.0.1:0", "--access", "allow anyone read:nothing"].map(str::to_owned),
    ]
    .concat();
    let source = Server::start(&flags.iter().map(String::as_str).collect::<Vec<_>>());
    let target = server();
    let mut client = source.client();
    let form = json!({"service": "web", "id": "a", "address": "10.0.0.7", "port": 80, "lease": "none"});
    client.done("registered", &json!({ "register": form }));
    let create = json!({"token": {"create": {"name": "reads", "allow": ["read"]}}});
    let token = client.done("created", &create)["token"].as_str().expect("a token").to_owned();
    let port = source
        .lines
        .iter()
        .find_map(|line| line.strip_prefix("https ")?.rsplit(':').next()?.parse::<u16>().ok());
    let url = format!("https://localhost:{}", port.expect("a line `https`"));
    let (place, authority) =
        (format!("unix:{}", target.socket.display()), pair.certificate.display().to_string());
    let import = |words: &[&str], token: &str| {
        let output = Command::new(binary())
            .args(["import", "--server", &place, "--from-consul", &url])
            .args(words)
            .env("CONSUL_HTTP_TOKEN", token)
            .output()
            .expect("running callsign");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = import(&[], &token);
    assert!(code == Some(5) && said.contains("TLS: ") && said.contains("certificate"), "{said}");
    let trusting = ["--consul-authority", &authority];
    let (code, said) = import(&trusting, "");
    assert!(
        code == Some(5) && said.contains("CONSUL_HTTP_TOKEN has to hold a token that may read"),
        "{said}"
    );
    let (code, said) = import(&trusting, &token);
    assert_eq!((code, said.as_str()), (Some(0), ""));
    becomes(&target, &["web/a:80 passing"]);
}

#[test]
fn while_consul_is_away_all_stays_and_an_empty_one_is_not_believed() {
    let data = tempfile::tempdir().expect("a directory");
    let data = data.path().display().to_string();
    let mut source = Server::start(&["--data", &data]);
    let target = server();
    put(&source, "/v1/agent/service/register", &service("web", "web-1", 1));
    let follower = Follower::start(&source, &target, &[]);
    becomes(&target, &["web/web-1:1 passing"]);
    let (http, here) = (source.http[0].to_string(), exported(&target).1);
    source.crash();
    follower.says("what was imported stays, and is tried again");
    assert_eq!(exported(&target).1, here);
    // One that has lost everything, at the same place.
    let mut empty = Server::start(&["--store", "memory", "--http", &http]);
    follower.says("has no service any more; follow with --allow-empty if that is meant");
    assert_eq!(exported(&target).1, here);
    empty.crash();
    let back = Server::start(&["--data", &data, "--http", &http]);
    put(&back, "/v1/agent/service/register", &service("web", "web-2", 2));
    becomes(&target, &["web/web-1:1 passing", "web/web-2:2 passing"]);
}

#[test]
fn one_that_forgets_while_it_is_followed_is_not_believed() {
    let all = |index| Says { index, services: &["consul", "db", "web"] };
    let none = |index| Says { index, services: &["consul"] };
    let (consul, target) = (Consul::start(all(100)), server());
    let follower = Follower::at(&consul.url, &target, &[]);
    let here = exported(&target).1;
    assert_eq!(target.client().list().len(), 3, "{here:?}");
    // Whoever waits is told of another life; whoever reads then, of what there is.
    consul.says(all(100), none(50));
    follower.says("its index went back from 100 to 50; what was imported stays, and is tried again");
    follower.says("is followed again");
    assert_eq!(exported(&target).1, here);
    // It waits again, from what it has read last.
    let more = Says { index: 110, services: &["api", "consul", "db", "web"] };
    consul.says(more.clone(), more);
    let here = ["api", "consul", "db", "web"].map(|name| format!("{name}/{name}-1:80 passing"));
    becomes(&target, &here.each_ref().map(String::as_str));
    let here = exported(&target).1;
    // All is gone, and the index goes forward.
    consul.says(none(200), none(200));
    follower.says("has no service any more; follow with --allow-empty if that is meant");
    assert_eq!(exported(&target).1, here);
    let some = Says { index: 300, services: &["consul", "web"] };
    consul.says(some.clone(), some);
    becomes(&target, &["consul/consul-1:80 passing", "web/web-1:80 passing"]);
    // One of two is nothing special, and the last one is, unless it is meant.
    drop(follower);
    let follower = Follower::at(&consul.url, &target, &["--allow-empty"]);
    consul.says(none(400), none(400));
    becomes(&target, &["consul/consul-1:80 passing"]);
    drop(follower);
}

#[test]
fn a_mark_knows_its_own_at_another_address() {
    let (source, target) = (server(), server());
    put(&source, "/v1/agent/service/register", &service("web", "web-1", 1));
    put(&source, "/v1/agent/service/register", &service("db", "db-1", 2));
    let marked = Follower::start(&source, &target, &["--mark", "dc1"]);
    assert_eq!(target.client().list()[0]["source"], "consul dc1");
    drop(marked);
    put(&source, "/v1/agent/service/deregister/db-1", &json!({}));
    let elsewhere = url(&source).replace("127.0.0.1", "localhost");
    // With the URL for a mark it would be somebody else's.
    let _marked = Follower::at(&elsewhere, &target, &["--mark", "dc1"]);
    becomes(&target, &["web/web-1:1 passing"]);
    let wrong = at(&target, &["import", "--from-consul", &elsewhere, "--mark", ""]);
    assert!(wrong.code == Some(2) && wrong.stderr.contains("--mark"), "{}", wrong.stderr);
}

#[test]
fn where_we_are_away_it_begins_anew() {
    let data = tempfile::tempdir().expect("a directory");
    let (data, source) = (data.path().display().to_string(), server());
    let mut target = Server::start(&["--data", &data]);
    put(&source, "/v1/agent/service/register", &service("web", "web-1", 1));
    let socket = target.socket.display().to_string();
    let follower = Follower::start(&source, &target, &[]);
    target.crash();
    put(&source, "/v1/agent/service/register", &service("web", "web-2", 2));
    follower.says("what was imported stays, and is tried again");
    let target = Server::start(&["--data", &data, "--socket", &socket]);
    follower.says("is followed again");
    becomes(&target, &["web/web-1:1 passing", "web/web-2:2 passing"]);
}

#[test]
fn a_consul_that_cannot_be_asked_is_said_at_once() {
    let target = server();
    let closed = Server::start(&["--store", "memory", "--access", "allow anyone read:nothing"]);
    for (words, code, what) in [
        (vec!["--from-consul", "http://127.0.0.1:1"], 5, "/v1/catalog/nodes: connection refused"),
        (vec!["--from-consul", "http://127.0.0.1:1", "--follow"], 5, "/v1/catalog/nodes: connection refused"),
        (vec!["--from-consul", &url(&closed)], 5, "CONSUL_HTTP_TOKEN has to hold a token that may read"),
        (vec!["--from-consul", "127.0.0.1:8500"], 2, "must be http://HOST:PORT or https://HOST:PORT"),
        (vec!["--from-consul", "http://127.0.0.1:1", "--replace"], 2, "cannot be used with"),
        (vec!["file", "--follow"], 2, "cannot be used with"),
        (vec![], 2, "<FILE>"),
    ] {
        let ended = at(&target, &[&["import"], &words[..]].concat());
        assert_eq!(ended.code, Some(code), "{words:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(what), "{words:?}: {}", ended.stderr);
    }
}
