//! The registry as somebody knows it who only hears of changes, and the commands that make changes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::harness::{Client, Draws, Ended, Server, binary, callsign};

/// Instances by host, service and id: what does not move with time.
pub type Picture = BTreeMap<[String; 3], Value>;

/// What belongs to one server and not to the instance: when it was said, how it is held.
const OF_THE_SERVER: [&str; 5] = ["lease", "lease_left_ms", "registered", "since", "revision"];

pub fn key(of: &Value) -> [String; 3] {
    ["host", "service", "id"].map(|field| of[field].as_str().expect("a text").to_owned())
}

/// An instance without the time and the server that it was registered on.
pub fn facts(instance: &Value) -> Value {
    let mut facts = instance.clone();
    let object = facts.as_object_mut().expect("an instance");
    OF_THE_SERVER.iter().for_each(|field| drop(object.remove(*field)));
    for check in facts["checks"].as_array_mut().expect("a list of checks") {
        check.as_object_mut().expect("a check").remove("since");
    }
    facts
}

pub fn picture(instances: &[Value]) -> Picture {
    instances.iter().map(|instance| (key(instance), facts(instance))).collect()
}

/// What the server says is registered.
pub fn listed(server: &Server) -> Picture {
    picture(&server.client().list())
}

/// The picture without these facts.
pub fn without(mut picture: Picture, facts: &[&str]) -> Picture {
    for instance in picture.values_mut().filter_map(Value::as_object_mut) {
        facts.iter().for_each(|fact| drop(instance.remove(*fact)));
    }
    picture
}

/// Says where two pictures differ, and only that: there are hundreds of instances in one.
pub fn assert_same(seen: &Picture, expected: &Picture, what: &str) {
    let keys: BTreeSet<&[String; 3]> = seen.keys().chain(expected.keys()).collect();
    let unlike = keys.into_iter().filter(|key| seen.get(*key) != expected.get(*key));
    let unlike: Vec<String> = unlike
        .map(|key| format!("{key:?}\n    seen     {:?}\n    expected {:?}", seen.get(key), expected.get(key)))
        .collect();
    assert!(unlike.is_empty(), "{what}: {} instances differ\n{}", unlike.len(), unlike.join("\n"));
}

/// Does what a change says.
pub fn fold(picture: &mut Picture, change: &Value) {
    match &change["instance"] {
        _ if change["service"].is_null() => {}
        Value::Null => drop(picture.remove(&key(change))),
        instance => drop(picture.insert(key(instance), facts(instance))),
    }
}

pub fn folded<'a>(changes: impl IntoIterator<Item = &'a Value>) -> Picture {
    let mut picture = Picture::new();
    changes.into_iter().for_each(|change| fold(&mut picture, change));
    picture
}

pub fn revision(of: &Value) -> u64 {
    of["revision"].as_u64().unwrap_or_else(|| panic!("no revision: {of}"))
}

pub fn status(server: &Server) -> Value {
    server.client().done("status", &json!({"status": {}}))
}

pub fn register(service: &str, id: &str, port: usize) -> Value {
    json!({"register": {"service": service, "id": id, "address": "10.0.0.7", "port": port, "lease": "none"}})
}

/// One command of any kind about a few instances, so that most find something to change.
pub fn command(draws: &mut Draws) -> Value {
    let (service, id) = (format!("web-{}", draws.below(4)), format!("id:{}", draws.below(8)));
    let mut named = json!({"service": service, "id": id});
    if draws.below(4) == 0 {
        named["host"] = json!(format!("machine-{}", draws.below(2)));
    }
    match draws.below(10) {
        0 => json!({"drain": named}),
        1 => json!({"deregister": named}),
        2 | 3 => {
            let status = ["passing", "warning", "critical", "maintenance"][draws.below(4)];
            let output = format!("said \"{status}\" \\ {}\u{1f600}", draws.below(100));
            named["check"] = json!(format!("check {}", draws.below(2)));
            named["status"] = json!(status);
            named["output"] = json!(output);
            json!({"report": named})
        }
        _ => {
            named["port"] = json!(1 + draws.below(65_535));
            named["lease"] = json!("none");
            rich(&mut named, draws);
            json!({"register": named})
        }
    }
}

/// Adds what a registration may say besides.
fn rich(form: &mut Value, draws: &mut Draws) {
    match draws.below(3) {
        0 => form["target"] = json!("db.example.com."),
        1 => form["address"] = json!(["10.0.0.7", "2001:db8::7"]),
        _ => form["address"] = json!("10.0.0.8"),
    }
    if draws.below(2) == 0 {
        form["tags"] = json!(["v2", format!("rack-{}", draws.below(3))]);
        form["meta"] = json!({"path": "/a b", "quote": "'\"\\n", "é": "ü"});
    }
    if draws.below(3) == 0 {
        form["ports"] = json!({"dns": {"port": 53, "transport": "udp"}, "http": 8080});
        form["protocol"] = json!("http");
    }
    if draws.below(3) == 0 {
        form["checks"] = json!([{"id": "tcp", "status": "passing"}, {"id": "check 0"}]);
    }
    form["weight"] = json!(draws.below(10));
    form["priority"] = json!(draws.below(3));
}

/// Every change after `since` up to the revision `until`.
pub fn fed(client: &mut Client, since: Option<u64>, until: u64) -> Vec<Value> {
    client.send(&json!({"feed": {"since": since}}));
    let mut changes = Vec::new();
    while changes.last().is_none_or(|change| revision(change) < until) {
        changes.push(change(client.receive()));
    }
    changes
}

pub fn change(mut reply: Value) -> Value {
    let change = reply.get_mut("change").map(Value::take);
    change.unwrap_or_else(|| panic!("no change: {reply}"))
}

pub fn at(server: &Server) -> String {
    format!("unix:{}", server.socket.display())
}

/// A verb of the command line, asked of this server.
pub fn ask(server: &Server, words: &[&str]) -> Ended {
    let at = at(server);
    callsign(&[words, &["--server", &at]].concat())
}

/// The JSON values, one a line, that a verb prints.
pub fn lines(text: &str) -> Vec<Value> {
    let read = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    text.lines().map(read).collect()
}

/// `callsign apply` to this server, told `input`; it may empty services.
pub fn apply(server: &Server, input: &[u8]) -> Ended {
    apply_with(&["--allow-empty"], server, input)
}

pub fn apply_with(flags: &[&str], server: &Server, input: &[u8]) -> Ended {
    let mut child = Command::new(binary())
        .args(["apply", "--server", &at(server), "--timeout", "30s"])
        .args(flags)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starting callsign apply");
    let mut stdin = child.stdin.take().expect("a pipe");
    let output = std::thread::scope(|scope| {
        // It may stop reading, which its exit code tells.
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().expect("waiting for our own child")
    });
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
