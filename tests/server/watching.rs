//! `watch`: everything that is, then every change, with no gap and nothing twice.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::harness::{Client, DEADLINE, Draws, Server, eventually, seed};

const WRITERS: usize = 4;
const CHANGES_EACH: usize = 2_000;
const WATCHERS: usize = 6;
/// Changes that the slowest watcher may be behind before the writers wait for it.
const BEHIND_MAX: u64 = 500;
/// The service whose registration is the last change.
const LAST: &str = "last";
const SERVICES: usize = 5;
const IDS: usize = 10;

/// The registry as a watcher knows it: by service and id, what does not move with time.
type Picture = BTreeMap<(String, String), Value>;

fn key(of: &Value) -> (String, String) {
    let text = |field: &str| of[field].as_str().expect("a text").to_owned();
    (text("service"), text("id"))
}

fn facts(instance: &Value) -> Value {
    let mut facts = json!({});
    for field in ["port", "health", "draining", "live", "label", "address", "revision", "since"] {
        facts[field] = instance[field].clone();
    }
    facts
}

/// The first reply or replies to `watch`, and their revision.
fn snapshot(client: &mut Client, request: &Value) -> (Picture, u64) {
    client.send(request);
    let mut picture = Picture::new();
    loop {
        let reply = client.receive();
        let page = &reply["snapshot"];
        for instance in page["instances"].as_array().unwrap_or_else(|| panic!("no snapshot: {reply}")) {
            assert_eq!(
                picture.insert(key(instance), facts(instance)),
                None,
                "an instance twice in a snapshot"
            );
        }
        if page["next"].is_null() {
            return (picture, page["revision"].as_u64().expect("a revision"));
        }
    }
}

#[test]
fn a_snapshot_and_its_changes_are_the_registry() {
    let seed = seed();
    println!("watch: seed {seed}");
    let server = Server::start(&["--known-for", "24h"]);
    let progress =
        Progress { written: AtomicU64::new(0), seen: [const { AtomicU64::new(u64::MAX) }; WATCHERS] };
    let pictures: Vec<(u64, Picture)> = std::thread::scope(|scope| {
        let (server, progress) = (&server, &progress);
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| scope.spawn(move || write(server, progress, Draws(seed ^ writer as u64))))
            .collect();
        let watchers: Vec<_> =
            (0..WATCHERS).map(|watcher| scope.spawn(move || watch(server, progress, watcher))).collect();
        writers.into_iter().for_each(|writer| writer.join().expect("a writer"));
        let last = json!({"service": LAST, "id": LAST, "address": "10.0.0.7", "port": 1, "lease": "none"});
        server.client().done("registered", &json!({ "register": last }));
        watchers.into_iter().map(|watcher| watcher.join().expect("a watcher")).collect()
    });
    let listed: Picture =
        server.client().list().iter().map(|instance| (key(instance), facts(instance))).collect();
    for (begun_at, picture) in &pictures {
        assert_eq!(*picture, listed, "seed {seed}: a watch that began at revision {begun_at}");
    }
    let begun: Vec<u64> = pictures.into_iter().map(|(begun_at, _)| begun_at).collect();
    let changes = progress.written.load(Ordering::SeqCst);
    println!("watch: {WATCHERS} watchers from revisions {begun:?} on saw every change up to {changes}");
}

/// How far everybody is, in revisions: a watcher that is far behind is cut off, which is another test's.
struct Progress {
    written: AtomicU64,
    /// `u64::MAX` before the snapshot.
    seen: [AtomicU64; WATCHERS],
}

impl Progress {
    fn slowest(&self) -> u64 {
        let seen = self.seen.iter().map(|seen| seen.load(Ordering::SeqCst));
        seen.min().expect("there are watchers")
    }
}

fn write(server: &Server, progress: &Progress, mut draws: Draws) {
    let mut client = server.client();
    for _ in 0..CHANGES_EACH {
        eventually("the watchers' progress", DEADLINE, || {
            let behind = progress.written.load(Ordering::SeqCst).saturating_sub(progress.slowest());
            (behind < BEHIND_MAX).then_some(())
        });
        let (service, id) = (format!("web-{}", draws.below(SERVICES)), format!("id-{}", draws.below(IDS)));
        let port = 1 + draws.below(65_535);
        let request = match draws.below(8) {
            0 => json!({"drain": {"service": service, "id": id}}),
            1 => json!({"deregister": {"service": service, "id": id}}),
            2 => json!({"report": {"service": service, "id": id, "status": "critical"}}),
            3 => json!({"report": {"service": service, "id": id, "status": "warning"}}),
            _ => json!({"register": {"service": service, "id": id, "address": "10.0.0.7", "port": port,
                                     "lease": "none"}}),
        };
        // A refusal (nobody there to drain) has no revision.
        let reply = client.ask(&request);
        let revision = reply.as_object().and_then(|reply| reply.values().next()?["revision"].as_u64());
        progress.written.fetch_max(revision.unwrap_or_default(), Ordering::SeqCst);
    }
}

/// Watches from somewhere in the middle of the writing to its end, and folds what it is told.
fn watch(server: &Server, progress: &Progress, watcher: usize) -> (u64, Picture) {
    let begin = (WRITERS * CHANGES_EACH * watcher / WATCHERS / 2) as u64;
    eventually("the writers' progress", DEADLINE, || {
        (progress.written.load(Ordering::SeqCst) >= begin).then_some(())
    });
    let mut client = server.client();
    let (mut picture, begun_at) = snapshot(&mut client, &json!({"watch": {}}));
    let mut revision = begun_at;
    loop {
        progress.seen[watcher].store(revision, Ordering::SeqCst);
        let reply = client.receive();
        let change = &reply["change"];
        let next = change["revision"].as_u64().unwrap_or_else(|| panic!("no change: {reply}"));
        assert_eq!(next, revision + 1, "changes come one after the other: {reply}");
        revision = next;
        match &change["instance"] {
            Value::Null => drop(picture.remove(&key(change))),
            instance => drop(picture.insert(key(instance), facts(instance))),
        }
        if change["service"] == LAST {
            progress.seen[watcher].store(u64::MAX, Ordering::SeqCst);
            return (begun_at, picture);
        }
    }
}

#[test]
fn what_leaves_a_filter_is_told() {
    let server = Server::start(&[]);
    let (mut writer, mut watcher) = (server.client(), server.client());
    let form = |tag: &str| json!({"register": {"service": "web", "id": "a", "address": "10.0.0.7", "port": 80, "tags": [tag]}});
    writer.done("registered", &form("blue"));
    let (picture, _) = snapshot(&mut watcher, &json!({"watch": {"tag": "blue"}}));
    assert_eq!(picture.len(), 1);
    // Another service's changes are not for this watcher; what no longer matches is.
    writer.done("registered", &json!({"register": {"service": "db", "address": "10.0.0.8", "port": 5432}}));
    writer.done("registered", &form("green"));
    let change = watcher.receive();
    assert_eq!((&change["change"]["service"], &change["change"]["id"]), (&json!("web"), &json!("a")));
    assert_eq!(change["change"]["instance"]["tags"], json!(["green"]));
    writer.done("registered", &form("blue"));
    assert_eq!(watcher.receive()["change"]["instance"]["tags"], json!(["blue"]));
    writer.done("deregistered", &json!({"deregister": {"service": "web", "id": "a"}}));
    let change = watcher.receive();
    assert_eq!(
        (&change["change"]["reason"], &change["change"]["instance"]),
        (&json!("deregistered"), &Value::Null)
    );
}

#[test]
fn a_watcher_that_does_not_read_is_cut_off_and_holds_up_nobody() {
    /// More than the server keeps for one that is behind, and than the kernel's buffers hold.
    const CHANGES: usize = 20_000;
    let server = Server::start(&["--store", "memory"]); // what is looked at is not the disk
    let (mut writer, mut watcher) = (server.client(), server.client());
    snapshot(&mut watcher, &json!({"watch": {}}));
    for number in 0..CHANGES {
        let form =
            json!({"service": "web", "id": "a", "address": "10.0.0.7", "port": 1 + number, "lease": "none"});
        writer.done("registered", &json!({ "register": form }));
    }
    // It reads only now: it has some of the changes, and then either hears that it lagged or is cut off.
    let (mut seen, mut last) = (0, Value::Null);
    while let Some(reply) = watcher.next() {
        seen += 1;
        last = reply;
        if last.get("change").is_none() || last["change"]["instance"]["port"] == CHANGES {
            break;
        }
    }
    println!("watch: one that did not read saw {seen} of {CHANGES} changes");
    assert!(seen <= CHANGES + 1);
    if last.get("error").is_some() {
        assert_eq!(last["error"]["code"], "lagged", "{last}");
        assert_eq!(watcher.next(), None, "and is closed");
    }
    assert_eq!(server.client().list()[0]["port"], CHANGES);
}
