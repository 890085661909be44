//! One table of requests to a Consul server and to us; status, headers and JSON are compared field by field.
//!
//! What differs has to be in `tests/clients/consul_diff.txt`, with its reason; and what is in there has to
//! differ. What no two servers can have alike (indexes, hashes, ids and names of nodes, their addresses) is
//! compared as what it is.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::agent::Agent;
use crate::harness::ask::{Reply, get, request, try_request};
use crate::harness::{Server, now};
use crate::table::{Difference, Request, Step, listed, steps};

const REQUESTS: &str = include_str!("../clients/consul_requests.txt");
const LISTED: &str = include_str!("../clients/consul_diff.txt");
/// How long a blocking query waits for what may not come.
const WAIT: &str = "1500ms";
/// Headers that are of Consul's manners, beside every `X-Consul-`.
const HEADERS: [&str; 3] = ["allow", "content-type", "vary"];

/// One of the two servers.
struct Side {
    http: SocketAddr,
    /// What it calls its own node, and where that is.
    node: String,
    address: String,
}

impl Side {
    fn of(http: SocketAddr) -> Self {
        let itself = get(http, "/v1/agent/self").json();
        let node = itself["Config"]["NodeName"].as_str().expect("the name of the node").to_owned();
        let listed = get(http, &format!("/v1/catalog/node/{node}")).json();
        let address = listed["Node"]["Address"].as_str().expect("the address of the node").to_owned();
        Self { http, node, address }
    }

    fn ask(&self, asked: &Request) -> Reply {
        let fill = |text: &str| text.replace("<node>", &self.node);
        // A handler of Consul's that panics closes the connection.
        let nothing = || Reply { status: 0, headers: Vec::new(), body: Vec::new() };
        try_request(self.http, &asked.method, &fill(&asked.target), &fill(&asked.body))
            .unwrap_or_else(nothing)
    }

    /// Takes away all that the table has put there.
    fn clean(&self) {
        let put = |target: &str, body: &str| drop(request(self.http, "PUT", target, body));
        put("/v1/agent/maintenance?enable=false", "");
        for id in get(self.http, "/v1/agent/services").json().as_object().expect("services").keys() {
            put(&format!("/v1/agent/service/deregister/{}", escaped(id)), "");
        }
        for id in get(self.http, "/v1/agent/checks").json().as_object().expect("checks").keys() {
            put(&format!("/v1/agent/check/deregister/{}", escaped(id)), "");
        }
        for node in get(self.http, "/v1/catalog/nodes").json().as_array().expect("nodes") {
            if node["Node"] != self.node {
                put("/v1/catalog/deregister", &json!({"Node": node["Node"]}).to_string());
            }
        }
    }

    /// A reply as something that can be compared.
    fn plain(&self, reply: &Reply) -> Value {
        let mut headers = serde_json::Map::new();
        for (name, value) in &reply.headers {
            if HEADERS.contains(&name.as_str()) || name.starts_with("x-consul-") {
                let value = match name.as_str() {
                    "x-consul-index" if value != "0" => "<index>".to_owned(),
                    "x-consul-contenthash" => "<hash>".to_owned(),
                    _ => self.named(value),
                };
                headers.insert(name.clone(), value.into());
            }
        }
        let is_json = reply.header("content-type").is_some_and(|kind| kind.starts_with("application/json"));
        let body = match serde_json::from_slice(&reply.body) {
            Ok(body) if is_json => self.plain_json("", body),
            _ => self.named(&reply.text()).into(),
        };
        json!({"status": reply.status, "headers": headers, "body": body})
    }

    fn plain_json(&self, member: &str, value: Value) -> Value {
        match value {
            Value::Number(number) if member.ends_with("Index") => match number.as_u64() {
                Some(0) => number.into(),
                _ => "<index>".into(),
            },
            Value::String(text) => match member {
                "ID" | "NodeID" | "id" if is_uuid(&text) => "<uuid>".into(),
                "ContentHash" => "<hash>".into(),
                // What a probe found comes when it comes: each of the two has its own first moment.
                "Output" if text.contains("connection refused") => "".into(),
                "Version" | "HumanVersion" | "build" | "BuildDate" | "SHA" | "Revision" => "<version>".into(),
                _ => self.named(&text).into(),
            },
            Value::Array(list) => list.into_iter().map(|value| self.plain_json(member, value)).collect(),
            Value::Object(map) => {
                let named = map.into_iter().map(|(key, value)| {
                    let value = self.plain_json(&key, value);
                    (self.named(&key), value)
                });
                Value::Object(named.collect())
            }
            other => other,
        }
    }

    fn named(&self, text: &str) -> String {
        match text {
            text if text == self.node => "<node>".to_owned(),
            text if text == self.address => "<address>".to_owned(),
            text => text.replace(&format!("\"{}\"", self.node), "\"<node>\""),
        }
    }
}

/// True where Consul answers in the order of a Go map, which is another one each time.
fn is_in_no_order(request: &str) -> bool {
    request.contains("/v1/agent/health/") || request.contains("/v1/catalog/services")
}

/// Lists in order of what they hold.
fn sorted(value: &mut Value) {
    match value {
        Value::Array(list) => {
            list.iter_mut().for_each(sorted);
            list.sort_by_key(|value| identity(value).unwrap_or_else(|| value.to_string()));
        }
        Value::Object(map) => map.values_mut().for_each(sorted),
        _ => {}
    }
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36 && text.split('-').map(str::len).eq([8, 4, 4, 4, 12])
}

/// For a path.
fn escaped(id: &str) -> String {
    id.bytes().map(|octet| format!("%{octet:02x}")).collect()
}

/// What makes an element of a list the same as one of another list.
fn identity(value: &Value) -> Option<String> {
    let map = value.as_object()?;
    let mut names = Vec::new();
    for part in ["Node", "Service", "ServiceID", "CheckID", "ID"] {
        let value = match (part, map.get(part)) {
            // Of an instance with its node: the node's name and the instance's id.
            (part, Some(Value::Object(inner))) => inner.get(if part == "Node" { part } else { "ID" }),
            (_, value) => value,
        };
        names.extend(value.and_then(Value::as_str).filter(|name| !name.is_empty() && *name != "<uuid>"));
    }
    Some(names.join("/"))
}

/// Adds what differs between two values to `met`.
fn compare(
    path: &str,
    theirs: Option<&Value>,
    ours: Option<&Value>,
    met: &mut Vec<(String, String, String)>,
) {
    match (theirs, ours) {
        (theirs, ours) if theirs == ours => {}
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                compare(&format!("{path}.{key}"), a.get(key), b.get(key), met);
            }
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) => {
            let names = |list: &[Value]| list.iter().map(identity).collect::<Option<Vec<String>>>();
            let (Some(theirs), Some(ours)) = (names(a), names(b)) else {
                met.push((
                    path.to_owned(),
                    Value::from(a.clone()).to_string(),
                    Value::from(b.clone()).to_string(),
                ));
                return;
            };
            let all: BTreeSet<&String> = theirs.iter().chain(&ours).collect();
            for name in all {
                let of = |list: &[Value], names: &[String]| {
                    names.iter().position(|known| known == name).map(|at| list[at].clone())
                };
                compare(&format!("{path}[]"), of(a, &theirs).as_ref(), of(b, &ours).as_ref(), met);
            }
            let common = |names: &[String], others: &[String]| {
                names.iter().filter(|name| others.contains(name)).cloned().collect::<Vec<_>>()
            };
            let (theirs, ours) = (common(&theirs, &ours), common(&ours, &theirs));
            // Ours is not called as theirs is, so among others it has another place.
            let on_one_node = theirs.iter().all(|name| name.split('/').next() == theirs[0].split('/').next());
            if theirs != ours && on_one_node {
                met.push((format!("{path} order"), theirs.join(" "), ours.join(" ")));
            }
        }
        (theirs, ours) => {
            let text = |value: Option<&Value>| value.map_or_else(|| "-".to_owned(), Value::to_string);
            met.push((path.to_owned(), text(theirs), text(ours)));
        }
    }
}

fn differences(request: &str, theirs: &Value, ours: &Value) -> Vec<Difference> {
    let mut met = Vec::new();
    for part in ["status", "headers", "body"] {
        compare(part, theirs.get(part), ours.get(part), &mut met);
    }
    let difference = |(field, theirs, ours)| {
        let line = |text: String| text.replace('\n', "\\n");
        Difference { request: request.to_owned(), field, theirs: line(theirs), ours: line(ours) }
    };
    met.into_iter().map(difference).collect()
}

/// A blocking query during which `changes` happen: whether it woke, and with what.
fn watched(side: &Side, asked: &Request, changes: &[Request]) -> Value {
    let before = side.ask(asked).index();
    let separator = if asked.target.contains('?') { '&' } else { '?' };
    let blocking =
        Request { target: format!("{}{separator}index={before}&wait={WAIT}", asked.target), ..asked.clone() };
    let (after, replies) = std::thread::scope(|scope| {
        // Whichever comes first: a query that comes after the change finds an index above its own.
        let waiting = scope.spawn(|| side.ask(&blocking));
        let replies: Vec<u16> = changes.iter().map(|change| side.ask(change).status).collect();
        (waiting.join().expect("the blocking query"), replies)
    });
    let mut plain = side.plain(&after);
    plain["status"] =
        json!({"changes": replies, "woken": after.index() > before, "backwards": after.index() < before});
    // With several changes, which of them it saw is chance.
    if changes.len() > 1 || after.index() == before {
        plain["body"] = Value::Null;
    }
    plain
}

#[test]
fn replies_are_those_of_consul_or_are_listed() {
    let begun = now();
    let agent = Agent::start();
    let server = Server::start(&["--store", "memory"]);
    let (theirs, ours) = (Side::of(agent.http), Side::of(server.http[0]));
    let listed = listed(LISTED);
    let mut used = vec![false; listed.len()];
    let (mut asked, mut equal, mut met) = (0, 0, Vec::new());
    for step in steps(REQUESTS) {
        let (line, mut a, mut b) = match &step {
            Step::Part => {
                theirs.clean();
                agent.settle("cleaning");
                ours.clean();
                continue;
            }
            Step::Ask(one) => {
                let a = theirs.ask(one);
                if one.method != "GET" {
                    agent.settle(&one.to_string());
                }
                (one.to_string(), theirs.plain(&a), ours.plain(&ours.ask(one)))
            }
            Step::Watch(one, changes) => {
                let a = watched(&theirs, one, changes);
                agent.settle(&one.to_string());
                let meanwhile: String = changes.iter().map(|change| format!(" <- {change}")).collect();
                (format!("WATCH {one}{meanwhile}"), a, watched(&ours, one, changes))
            }
        };
        asked += 1;
        if is_in_no_order(&line) {
            sorted(&mut a);
            sorted(&mut b);
        }
        let found = differences(&line, &a, &b);
        equal += usize::from(found.is_empty());
        for difference in found {
            let mut covered = false;
            for (listed, used) in listed.iter().zip(&mut used) {
                if listed.covers(&difference) {
                    (*used, covered) = (true, true);
                }
            }
            if !covered {
                met.push(difference);
            }
        }
    }
    println!(
        "{asked} requests, {equal} replies alike in every field, {} listed differences, {:?}",
        listed.len(),
        begun.elapsed()
    );
    for difference in &met {
        println!(
            "{} | {} | {} | {}",
            difference.request, difference.field, difference.theirs, difference.ours
        );
    }
    for (listed, _) in listed.iter().zip(&used).filter(|(_, used)| !**used) {
        println!("no difference any more: {}", listed.line);
    }
    assert!(met.is_empty(), "{} differences from Consul are not listed; they are above", met.len());
    assert!(used.iter().all(|used| *used), "listed differences that are none any more are above");
}
