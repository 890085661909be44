//! What is not taken: by line and field, before anything is changed; and who may not.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::files::file;
use crate::full::{FLAGS, at, exported};
use crate::harness::{Server, callsign};

fn line(name: &str, form: Value) -> String {
    json!({ name: form }).to_string()
}

fn instance(register: Value) -> Value {
    let mut form =
        json!({"service": "web", "id": "a", "host": "m", "address": "10.0.0.7", "port": 80, "lease": "none"});
    for (field, value) in register.as_object().expect("fields") {
        match value {
            Value::Null => drop(form.as_object_mut().expect("a form").remove(field)),
            value => form[field] = value.clone(),
        }
    }
    json!({ "register": form })
}

fn with(mut form: Value, field: &str, value: Value) -> String {
    form[field] = value;
    line("instance", form)
}

#[test]
fn what_does_not_fit_is_named_by_line_and_field_and_nothing_is_imported() {
    let server = Server::start(&["--store", "memory"]);
    let head = line(
        "callsign",
        json!({"version": 1, "program": "0.1.0", "at": "2026-11-21T15:04:05Z", "revision": 1, "serial": 7, "serial_base": 6}),
    );
    let good = line("instance", instance(json!({})));
    let end = |lines: u64| line("end", json!({ "lines": lines }));
    let token = |name: &str, hash: &str| json!({"name": name, "number": "00000000000000aa", "hash": hash, "allow": ["read"], "created": "2026-11-21T15:04:05Z"});
    let hash = "ab".repeat(32);
    // What the second line says, and what is said of it.
    let second = [
        (line("instance", instance(json!({"port": 0}))), "port must be 1 to 65535, not 0"),
        (line("instance", instance(json!({"service": "my_web"}))), "service must be letters"),
        (line("instance", instance(json!({"host": null}))), "host is missing"),
        (line("instance", instance(json!({"address": null}))), "address is missing"),
        (line("instance", instance(json!({"colour": "red"}))), "unknown field `colour`"),
        (line("instance", instance(json!({"checks": []}))), "checks stand beside"),
        (with(instance(json!({})), "colour", json!("red")), "unknown field `colour`"),
        (with(instance(json!({})), "lease_id", json!("7")), "lease_id must be 16 hexadecimal digits"),
        (with(instance(json!({})), "label", json!("b")), "label `b` is none that this id has"),
        (with(instance(json!({})), "since", json!("soon")), "since must be a time"),
        (with(instance(json!({})), "owner", json!({"token": "a b"})), "name must be"),
        (
            with(instance(json!({})), "checks", json!([{"check": {"id": "a", "tcp": "nowhere"}}])),
            "checks.tcp must name",
        ),
        (
            with(instance(json!({})), "checks", json!([{"check": {"id": "a"}}, {"check": {"id": "a"}}])),
            "checks name `a` twice",
        ),
        (line("instance", json!({})), "missing field `register`"),
        (line("node", json!({})), "unknown variant `node`"),
        (line("host", json!({"name": "m\u{7}"})), "name holds a control character"),
        (line("host", json!({"name": "m", "meta": {"": "x"}})), "meta may hold"),
        (line("settings", json!({"service": "web", "ttl": "1h"})), "ttl must be"),
        (line("settings", json!({"service": "web"})), "service has no settings"),
        (line("token", token("a b", &hash)), "name must be"),
        (line("token", token("ci", "abc")), "hash must be 64 hexadecimal digits"),
        ("nonsense".to_owned(), "not JSON"),
        (String::new(), "not JSON"),
        (format!("{good}{}", " ".repeat(800 * 1024)), "the line is longer than"),
    ];
    let path = server.directory().join("file");
    let name = path.display().to_string();
    let refused = |text: &str, place: &str, what: &str| {
        std::fs::write(&path, text).expect("writing a file");
        let ended = at(&server, &["import", &name]);
        assert_eq!(ended.code, Some(1), "{text}: {}", ended.stdout);
        let said = format!("{name}:{place}: ");
        assert!(
            ended.stderr.contains(&said) && ended.stderr.contains(what),
            "{place} {what}: {}",
            ended.stderr
        );
        assert!(ended.stderr.contains("nothing was imported"), "{}", ended.stderr);
        assert_eq!(exported(&server).1, Vec::<Value>::new(), "{what}");
    };
    for (line, what) in second {
        // The good line that comes before it is not put in either.
        refused(&format!("{head}\n{good}\n{line}\n{}\n", end(2)), "3", what);
    }
    // The file as a whole.
    refused("", "1", "not whole");
    refused(&format!("{good}\n"), "1", "the first");
    refused(&format!("{head}\n{head}\n"), "2", "the first");
    refused(&format!("{head}\n{good}\n"), "3", "not whole: its last line is missing");
    refused(&format!("{head}\n{good}\n{}\n", end(2)), "3", "there are 1 lines, and there were 2");
    refused(&format!("{head}\n{good}\n{}\n{good}\n", end(1)), "4", "more behind the last line");
    refused(&format!("{head}\n{good}\n{good}\n{}\n", end(2)), "3", "web/a@m is in the file twice");
    let newer = head.replace("\"version\":1", "\"version\":2");
    refused(&format!("{newer}\n{}\n", end(0)), "1", "version is 2, and this program reads up to 1");
    // A token of the same number as another one would be that one: only the server knows.
    let pair = [token("one", &hash), token("two", &hash)].map(|form| line("token", form));
    std::fs::write(&path, format!("{head}\n{}\n{}\n{}\n", pair[0], pair[1], end(2))).expect("writing a file");
    let ended = at(&server, &["import", &name]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains(&format!("{name}:3: there is a token `one` already")), "{}", ended.stderr);
    assert!(
        ended
            .stdout
            .starts_with("1 imported, 0 there already, 0 otherwise here and kept, 0 removed, 1 refused")
    );
}

#[test]
fn what_only_the_server_knows_is_refused_by_line_and_the_rest_goes_in() {
    let source = Server::start(&[&FLAGS[..], &["--store", "memory"]].concat());
    let mut client = source.client();
    for (id, address) in [("a", "10.0.0.7"), ("b", "127.0.0.1"), ("c", "10.0.0.8")] {
        let form = json!({"service": "web", "id": id, "address": address, "port": 80, "lease": "none"});
        client.done("registered", &json!({ "register": form }));
    }
    // A listener that others reach: a loopback address is no use to them.
    let target = Server::start(&["--store", "memory", "--dns", "0.0.0.0:0", "--instances-max", "1"]);
    let ended = at(&target, &["import", &file(&source).display().to_string()]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    for said in [
        ":3: address 127.0.0.1 is a loopback address",
        ":4: the registry is full (1 instances)",
        "2 were refused",
    ] {
        assert!(ended.stderr.contains(said), "{said}: {}", ended.stderr);
    }
    assert_eq!(exported(&target).1.len(), 1);
}

#[test]
fn an_export_is_an_administrators_and_its_file_its_owners() {
    let server =
        Server::start(&["--store", "memory", "--listen", "127.0.0.1:0", "--access", "allow anyone read"]);
    let over_tcp = server.listen[0].to_string();
    let path = server.directory().join("file");
    let name = path.display().to_string();
    let ended = callsign(&["export", &name, "--server", &over_tcp]);
    assert_eq!(ended.code, Some(4), "{}", ended.stderr);
    assert!(!path.exists() && !server.directory().join("file.new").exists(), "half an export is none");
    file(&server);
    let path = server.directory().join("registry.jsonl");
    let mode = std::fs::metadata(&path).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "{mode:o}");
    let ended = callsign(&["import", &path.display().to_string(), "--server", &over_tcp]);
    assert_eq!(ended.code, Some(4), "{}", ended.stderr);
    assert!(ended.stderr.contains("what was imported stays; say it again"), "{}", ended.stderr);
}

#[test]
fn only_a_line_of_an_import_may_be_longer_than_a_request() {
    let server = Server::start(&["--store", "memory"]);
    let output = "x".repeat(4096);
    let checks: Vec<Value> = (0..60)
        .map(|at| json!({"check": {"id": format!("c{at}"), "status": "passing"}, "output": output}))
        .collect();
    let mut long = instance(json!({}));
    long["checks"] = json!(checks);
    let request = json!({"import": {"line": {"instance": long}}});
    assert!(request.to_string().len() > 200_000);
    server.client().done("imported", &request);
    let (_, lines) = exported(&server);
    assert_eq!(lines[0]["instance"]["checks"].as_array().map(Vec::len), Some(60));
    let other = json!({"register": {"service": "x".repeat(200_000)}});
    assert_eq!(server.client().done("error", &other)["code"], "too_large");
    // Nor may somebody who may not import.
    let closed =
        Server::start(&["--store", "memory", "--listen", "127.0.0.1:0", "--access", "allow anyone read"]);
    assert_eq!(closed.tcp_client().done("error", &request)["code"], "too_large");
}
