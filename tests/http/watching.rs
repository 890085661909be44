//! `/v1/watch`: everything that is, then every change, with no gap; also after a pause, and after too long a one.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{REGISTER, definition};
use crate::harness::process::descriptors;
use crate::harness::{DEADLINE, Draws, Http, Server, eventually, seed};

/// Instances by service and id: what does not move with time.
type Picture = BTreeMap<(String, String), Value>;

fn key(of: &Value) -> (String, String) {
    let text = |field: &str| of[field].as_str().expect("a text").to_owned();
    (text("service"), text("id"))
}

fn facts(instance: &Value) -> Value {
    let mut facts = json!({});
    for field in ["port", "health", "draining", "live", "label", "address", "since"] {
        facts[field] = instance[field].clone();
    }
    facts
}

/// A client that folds what it is told.
struct Watcher {
    http: Http,
    path: String,
    events: bool,
    picture: Picture,
    revision: u64,
    /// What it goes on from: the last event's id, or the last revision.
    place: String,
    snapshots: usize,
    seen: usize,
}

impl Watcher {
    fn new(server: &Server, path: &str, events: bool) -> Self {
        let mut watcher = Self {
            http: server.http(),
            path: path.to_owned(),
            events,
            picture: Picture::new(),
            revision: 0,
            place: String::new(),
            snapshots: 0,
            seen: 0,
        };
        watcher.ask();
        watcher
    }

    fn ask(&mut self) {
        let accept = if self.events { "text/event-stream" } else { "application/x-ndjson" };
        let mut headers = vec![("Accept", accept)];
        let mut path = self.path.clone();
        match self.events {
            true if !self.place.is_empty() => headers.push(("Last-Event-ID", &self.place)),
            false => path = format!("{path}?since={}", self.place),
            true => {}
        }
        self.http.send("GET", &path, &headers, b"");
        let head = self.http.head().expect("a reply");
        assert_eq!((head.status, head.header("content-type")), (200, Some(accept)));
    }

    /// Goes away and comes back for the rest.
    fn resume(&mut self, server: &Server) {
        self.http = server.http();
        self.ask();
    }

    /// The next message and its name; `None` at the end.
    fn next(&mut self) -> Option<(String, Value)> {
        if !self.events {
            let line: Value = serde_json::from_str(&self.http.line()?).expect("JSON");
            let name = line.as_object().and_then(|line| line.keys().next()).expect("one member");
            return Some((name.clone(), line));
        }
        let (mut name, mut data, mut id) = (String::new(), Value::Null, None);
        loop {
            let line = self.http.line()?;
            match line.split_once(": ") {
                Some(("event", text)) => name = text.to_owned(),
                Some(("id", text)) => id = Some(text.to_owned()),
                Some(("data", text)) => data = serde_json::from_str(text).expect("JSON"),
                Some(("", _)) => {} // a comment
                _ if line.is_empty() && !name.is_empty() => {
                    self.place = id.unwrap_or(std::mem::take(&mut self.place));
                    return Some((name, data));
                }
                _ => assert_eq!(line, "", "no event"),
            }
        }
    }

    /// Takes one message; false where it is the last.
    fn fold(&mut self) -> bool {
        let Some((name, line)) = self.next() else { return false };
        match name.as_str() {
            "snapshot" => {
                let page = &line["snapshot"];
                self.picture.clear();
                for instance in page["instances"].as_array().expect("instances") {
                    self.picture.insert(key(instance), facts(instance));
                }
                assert_eq!(page["next"], Value::Null, "these tests have one page");
                self.revision = page["revision"].as_u64().expect("a revision");
                self.snapshots += 1;
            }
            "change" => {
                let change = &line["change"];
                match &change["instance"] {
                    Value::Null => drop(self.picture.remove(&key(change))),
                    instance => drop(self.picture.insert(key(instance), facts(instance))),
                }
                let revision = change["revision"].as_u64().expect("a revision");
                assert!(revision >= self.revision, "back from {} to {revision}", self.revision);
                self.revision = revision;
                self.seen += 1;
            }
            "error" => {
                assert_eq!(line["error"]["code"], "lagged", "{line}");
                assert_eq!(self.next(), None, "the reason is the last");
                return false;
            }
            other => panic!("{other}: {line}"),
        }
        if !self.events {
            self.place = self.revision.to_string();
        }
        true
    }

    /// Folds until it has a revision.
    fn until(&mut self, revision: u64) {
        while self.revision < revision {
            assert!(self.fold(), "the end, at {}", self.revision);
        }
    }
}

fn listed(server: &Server, service: Option<&str>) -> Picture {
    let instances = server.client().list();
    let wanted = instances.iter().filter(|it| service.is_none_or(|service| it["service"] == service));
    wanted.map(|instance| (key(instance), facts(instance))).collect()
}

fn register(port: usize) -> Value {
    json!({"register": {"service": "web", "id": "a", "address": "10.0.0.7", "port": port, "lease": "none"}})
}

#[test]
fn a_snapshot_and_its_changes_are_the_registry_through_pauses_too() {
    const WRITERS: usize = 3;
    const CHANGES_EACH: usize = 600;
    let seed = seed();
    println!("watch over HTTP: seed {seed}");
    let server = Server::start(&["--known-for", "24h"]);
    let server = &server;
    let (pictures, expected) = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                scope.spawn(move || {
                    let (mut client, mut draws) = (server.client(), Draws(seed ^ writer as u64));
                    for _ in 0..CHANGES_EACH {
                        let (service, id) =
                            (format!("web-{}", draws.below(3)), format!("id-{}", draws.below(9)));
                        client.ask(&match draws.below(8) {
                            0 => json!({"drain": {"service": service, "id": id}}),
                            1 => json!({"deregister": {"service": service, "id": id}}),
                            2 => json!({"report": {"service": service, "id": id, "status": "critical"}}),
                            3 => json!({"report": {"service": service, "id": id, "status": "warning"}}),
                            _ => json!({"register": {"service": service, "id": id, "address": "10.0.0.7",
                                                     "port": 1 + draws.below(65_535), "lease": "none"}}),
                        });
                    }
                })
            })
            .collect();
        let watchers: Vec<_> = [false, true, false, true]
            .into_iter()
            .enumerate()
            .map(|(at, events)| {
                scope.spawn(move || {
                    let path = if at < 2 { "/v1/watch/" } else { "/v1/watch/web-1" };
                    let mut watcher = Watcher::new(server, path, events);
                    watcher.fold();
                    let mut before = watcher.revision;
                    while !watcher.picture.contains_key(&("web-1".to_owned(), "last".to_owned())) {
                        assert!(watcher.fold(), "the end, at {}", watcher.revision);
                        if at < 2 {
                            assert_eq!(watcher.revision, before + 1, "one after the other");
                            before = watcher.revision;
                        }
                        if watcher.seen.is_multiple_of(97) {
                            watcher.resume(server);
                        }
                    }
                    assert_eq!(watcher.snapshots, 1, "what followed a pause was the rest");
                    (at, watcher.picture, watcher.seen)
                })
            })
            .collect();
        writers.into_iter().for_each(|writer| writer.join().expect("a writer"));
        let last =
            json!({"service": "web-1", "id": "last", "address": "10.0.0.7", "port": 1, "lease": "none"});
        server.client().done("registered", &json!({ "register": last }));
        let pictures: Vec<_> =
            watchers.into_iter().map(|watcher| watcher.join().expect("a watcher")).collect();
        (pictures, [listed(server, None), listed(server, Some("web-1"))])
    });
    for (at, picture, seen) in pictures {
        println!("watcher {at} folded {seen} changes");
        assert_eq!(picture, expected[usize::from(at >= 2)], "seed {seed}: watcher {at}");
    }
}

#[test]
fn what_changes_on_a_host_is_told_also_after_a_pause() {
    let server = Server::start(&[]);
    let mut http = server.http();
    http.put(REGISTER, &definition("web", "a", 80));
    http.put(REGISTER, &definition("web", "b", 80));
    http.put("/v1/agent/check/register", &json!({"Name": "disk", "TTL": "1h", "Status": "passing"}));
    let health = |watcher: &Watcher| -> Vec<Value> {
        watcher.picture.values().map(|facts| facts["health"].clone()).collect()
    };
    for events in [false, true] {
        let mut watcher = Watcher::new(&server, "/v1/watch/web", events);
        let mut paused = Watcher::new(&server, "/v1/watch/web", events);
        assert!(watcher.fold() && paused.fold());
        paused.http = server.http(); // it has gone
        http.put("/v1/agent/check/fail/disk", &Value::Null);
        assert!(watcher.fold() && watcher.fold(), "one for each instance");
        assert_eq!(health(&watcher), ["critical", "critical"]);
        // A change of an instance says its host's health too.
        http.put(REGISTER, &definition("web", "a", 81 + usize::from(events)));
        assert!(watcher.fold());
        assert_eq!(health(&watcher), ["critical", "critical"]);
        paused.ask();
        paused.until(watcher.revision);
        assert_eq!((&paused.picture, paused.snapshots), (&watcher.picture, 1));
        // Leaving a filter is told, whoever's health it was.
        let mut sick = Watcher::new(&server, "/v1/watch/web?health=critical", true);
        assert!(sick.fold());
        assert_eq!(sick.picture.len(), 2);
        http.put("/v1/agent/check/pass/disk", &Value::Null);
        assert!(sick.fold() && sick.fold());
        assert_eq!(health(&sick), ["passing", "passing"]);
        assert!(watcher.fold() && watcher.fold());
        assert_eq!(health(&watcher), ["passing", "passing"]);
    }
}

#[test]
fn a_place_that_the_log_does_not_have_gets_a_snapshot() {
    let server = Server::start(&["--store", "memory"]);
    let mut client = server.client();
    for port in 1..=10 {
        client.done("registered", &register(port));
    }
    // From how far behind the latest revision, or from where altogether; and whether that is a snapshot.
    type Place = fn(u64) -> u64;
    let places: [(Place, usize); 5] =
        [(|now| now - 5, 0), (|now| now, 0), (|now| now + 1, 1), (|_| u64::MAX, 1), (|_| 4_000_000_000, 1)];
    for (at, (place, snapshots)) in places.into_iter().enumerate() {
        for events in [false, true] {
            let mut watcher = Watcher::new(&server, "/v1/watch/web", events);
            watcher.fold();
            watcher.place = place(watcher.revision).to_string();
            (watcher.revision, watcher.snapshots) = (0, 0);
            watcher.resume(&server);
            let last = client.done("registered", &register(100 + 2 * at + usize::from(events)));
            watcher.until(last["revision"].as_u64().expect("a revision"));
            assert_eq!(watcher.snapshots, snapshots, "place {at}");
        }
    }
    // Another server that keeps nothing: its revisions begin anew, and the id of an event says so.
    let mut watcher = Watcher::new(&server, "/v1/watch/web", true);
    watcher.fold();
    watcher.revision = 0;
    let other = Server::start(&["--store", "memory"]);
    for port in 1..=100 {
        other.client().done("registered", &register(port));
    }
    watcher.snapshots = 0;
    watcher.resume(&other);
    watcher.fold();
    assert_eq!((watcher.snapshots, watcher.picture), (1, listed(&other, None)));
}

#[test]
fn a_reader_that_is_too_slow_is_told_and_goes_on_without_loss() {
    /// More than the server keeps for one of its followers, and than the kernel's buffers hold: 30 KiB each.
    const CHANGES: usize = 1_800;
    let meta: BTreeMap<String, String> = (0..60).map(|key| (format!("k{key}"), "x".repeat(500))).collect();
    for events in [false, true] {
        let server = Server::start(&[]);
        let mut slow = Watcher::new(&server, "/v1/watch/web", events);
        assert!(slow.fold());
        let mut client = server.client();
        let mut last = 0;
        for first in (1..=CHANGES).step_by(50) {
            for port in first..first + 50 {
                let mut request = register(port);
                request["register"]["meta"] = json!(meta);
                client.send(&request);
            }
            for _ in 0..50 {
                last = client.receive()["registered"]["revision"].as_u64().expect("a revision");
            }
        }
        while slow.revision < last && slow.fold() {}
        let before = slow.seen;
        assert!(slow.revision < last, "it was cut off, after {before} changes");
        slow.resume(&server);
        slow.until(last);
        println!("a slow reader had {before} of {CHANGES} changes before it was cut off");
        assert_eq!((slow.snapshots, slow.seen), (1, CHANGES), "every change once");
        assert_eq!(slow.picture, listed(&server, None));
    }
}

#[test]
fn a_watch_of_one_service_hears_of_no_other() {
    let server = Server::start(&["--store", "memory"]);
    let mut http = server.http();
    let mut watcher = Watcher::new(&server, "/v1/watch/web", false);
    watcher.fold();
    for number in 1..=500 {
        http.put(REGISTER, &definition("db", "d", number));
    }
    assert!(watcher.http.is_silent());
    http.put(REGISTER, &definition("web", "a", 80));
    watcher.fold();
    assert_eq!((watcher.seen, watcher.picture.len()), (1, 1));
    // Gone by itself: a watcher hears of it as of anything else.
    let form = json!({"service": "web", "id": "b", "address": "10.0.0.9", "port": 1, "lease": "1s"});
    server.client().done("registered", &json!({ "register": form }));
    eventually("the end of a lease", DEADLINE, || {
        watcher.fold();
        (watcher.seen == 3).then_some(())
    });
    assert_eq!(watcher.picture.len(), 1);
}

#[test]
fn who_asks_and_does_not_read_is_given_up() {
    const INSTANCES: usize = 10_000;
    const DEAF: usize = 20;
    let server = Server::start(&["--store", "memory"]);
    let mut client = server.client();
    for number in 0..INSTANCES {
        client
            .send(&json!({"register": {"service": "web", "id": format!("i-{number}"), "address": "10.0.0.7",
                                         "port": 80, "lease": "none", "meta": {"note": "x".repeat(500)}}}));
        if number % 100 == 99 {
            (0..100).for_each(|_| drop(client.receive()));
        }
    }
    let open = descriptors(server.pid());
    let deaf: Vec<Http> = (0..DEAF)
        .map(|_| {
            let mut http = server.http();
            http.send("GET", "/v1/agent/services", &[], b"");
            http
        })
        .collect();
    eventually("every connection", DEADLINE, || (descriptors(server.pid()) >= open + DEAF).then_some(()));
    eventually("the end of every connection", DEADLINE, || (descriptors(server.pid()) <= open).then_some(()));
    drop(deaf);
}
