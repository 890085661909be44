//! `feed`: every change once and in order, from any revision on.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::harness::{Client, DEADLINE, Draws, Server, binary, eventually, seed};
use crate::picture::{
    Picture, ask, assert_same, at, change, command, fed, fold, folded, lines, listed, register, revision,
};

const WRITERS: u64 = 3;
/// The service whose registration is the last change.
const LAST: &str = "last";

/// Without what moves with time.
fn still(mut change: Value) -> Value {
    if let Some(instance) = change["instance"].as_object_mut() {
        instance.remove("lease_left_ms");
    }
    change
}

/// Commands of every kind, and instances that leave with their connections.
fn write(server: &Server, written: &AtomicU64, mut draws: Draws) {
    const COMMANDS: usize = 300;
    let mut client = server.client();
    for number in 0..COMMANDS {
        client.ask(&command(&mut draws));
        written.fetch_add(1, Ordering::SeqCst);
        if number % 30 == 0 {
            let mut bound = register("bound", &format!("{}", draws.below(1000)), 80);
            bound["register"]["lease"] = json!("connection");
            server.client().done("registered", &bound);
        }
    }
}

#[test]
fn every_change_comes_once_and_in_order() {
    let seed = seed();
    println!("feed: seed {seed}");
    for store in [&["--store", "memory"][..], &[]] {
        let server = Server::start(&[&["--known-for", "24h"], store].concat());
        let written = AtomicU64::new(0);
        let feeds: Vec<Vec<Value>> = std::thread::scope(|scope| {
            let (server, written) = (&server, &written);
            let writers: Vec<_> = (0..WRITERS)
                .map(|writer| scope.spawn(move || write(server, written, Draws(seed ^ writer))))
                .collect();
            let feeders: Vec<_> = [0, 100, 500, 800]
                .map(|begin| {
                    scope.spawn(move || {
                        eventually("the writers' progress", DEADLINE, || {
                            (written.load(Ordering::SeqCst) >= begin).then_some(())
                        });
                        until_last(&mut server.client(), 0)
                    })
                })
                .into_iter()
                .collect();
            writers.into_iter().for_each(|writer| writer.join().expect("a writer"));
            eventually("what was bound to leave", DEADLINE, || {
                let bound = server.client().list().iter().any(|instance| instance["service"] == "bound");
                (!bound).then_some(())
            });
            server.client().done("registered", &register(LAST, LAST, 1));
            feeders.into_iter().map(|feeder| feeder.join().expect("a feeder")).collect()
        });
        for feed in &feeds {
            let revisions: Vec<u64> = feed.iter().map(revision).collect();
            assert!(revisions.iter().copied().eq(1..=feed.len() as u64), "seed {seed}: {revisions:?}");
            assert_same(&folded(feed), &listed(&server), &format!("seed {seed}"));
            assert!(feed == &feeds[0], "seed {seed}: all heard the same");
        }
        println!("feed: {} heard of {} changes each, store {store:?}", feeds.len(), feeds[0].len());
        from_the_middle(&server, &feeds[0], Draws(seed));
    }
}

fn until_last(client: &mut Client, since: u64) -> Vec<Value> {
    client.send(&json!({"feed": {"since": since}}));
    let mut changes = Vec::new();
    loop {
        changes.push(still(change(client.receive())));
        if changes.last().is_some_and(|change| change["service"] == LAST) {
            return changes;
        }
    }
}

/// Resumed from any revision, a feed is exactly the rest.
fn from_the_middle(server: &Server, whole: &[Value], mut draws: Draws) {
    let newest = whole.len() as u64;
    let mut places = vec![1, newest - 1];
    places.extend((0..20).map(|_| draws.below(whole.len()) as u64));
    for since in places {
        let rest: Vec<Value> =
            fed(&mut server.client(), Some(since), newest).into_iter().map(still).collect();
        assert!(rest == whole[since as usize..], "since {since}");
    }
    let (since, most) = (newest / 2, newest - newest / 2);
    let printed = ask(server, &["feed", "--since", &since.to_string(), "--most", &most.to_string()]);
    assert_eq!(printed.code, Some(0), "{printed:?}");
    let printed: Vec<Value> = lines(&printed.stdout).into_iter().map(change).map(still).collect();
    assert!(printed == whole[since as usize..], "the command line says the same");
    // Since the newest there is nothing, until there is.
    let (mut waiting, mut without) = (server.client(), server.client());
    waiting.send(&json!({"feed": {"since": newest}}));
    let present = listed(server);
    without.send(&json!({"feed": {}}));
    let now: Vec<Value> = (0..present.len()).map(|_| change(without.receive())).collect();
    assert!(now.iter().all(|change| revision(change) == newest), "what is now is of the present revision");
    assert_eq!(folded(&now), present);
    server.client().done("registered", &register("one-more", "a", 80));
    assert_eq!(change(waiting.receive())["revision"], newest + 1);
    assert_eq!(change(without.receive())["revision"], newest + 1);
}

/// `callsign feed`, as long as it runs.
struct Feeding {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Feeding {
    fn start(server: &Server, since: u64) -> Self {
        let mut child = Command::new(binary())
            .args(["feed", "--since", &since.to_string(), "--server", &at(server)])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("starting callsign feed");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Self { child, lines }
    }

    /// `None` where the feed has ended.
    fn next(&mut self) -> Option<Value> {
        let line = self.lines.next()?.expect("a line");
        Some(change(serde_json::from_str(&line).expect("a line of JSON")))
    }
}

impl Drop for Feeding {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Registers and deregisters ids of its own until the server is gone; what was acknowledged, by port, and
/// a port is said once.
fn write_until_killed(server: &Server, writer: u64, ports: &AtomicU64) -> Vec<u64> {
    let mut client = server.client();
    let mut acknowledged = Vec::new();
    for number in 0.. {
        let port = ports.fetch_add(1, Ordering::SeqCst);
        let id = format!("{writer}-{}", number % 7);
        let request = if number % 5 == 4 {
            json!({"deregister": {"service": "web", "id": id}})
        } else {
            register("web", &id, port as usize)
        };
        if client.send_raw(format!("{request}\n").as_bytes()).is_err() {
            break;
        }
        match client.next() {
            Some(reply) if reply.get("registered").is_some() => acknowledged.push(port),
            Some(_) => {}
            None => break,
        }
    }
    acknowledged
}

#[test]
fn a_feed_goes_on_behind_crashes() {
    const ROUNDS: usize = 4;
    const CHANGES_A_ROUND: usize = 200;
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().display().to_string();
    let (ports, mut acknowledged) = (AtomicU64::new(1), Vec::new());
    let (mut seen, mut known): (Vec<Value>, Picture) = Default::default();
    for round in 0..ROUNDS {
        let mut server = Server::start(&["--data", &data, "--known-for", "24h"]);
        assert_eq!(
            status_revision(&server).max(newest(&seen)),
            status_revision(&server),
            "it never goes back"
        );
        let mut feeding = Feeding::start(&server, newest(&seen));
        let heard = seen.len();
        std::thread::scope(|scope| {
            let (running, ports) = (&server, &ports);
            let writers: Vec<_> = (0..WRITERS)
                .map(|writer| scope.spawn(move || write_until_killed(running, writer, ports)))
                .collect();
            while seen.len() < heard + CHANGES_A_ROUND {
                seen.push(feeding.next().expect("a change"));
            }
            crash(&server);
            writers.into_iter().for_each(|writer| acknowledged.extend(writer.join().expect("a writer")));
        });
        server.crash();
        // What was printed before the end counts; the rest is heard in the next round.
        seen.extend(std::iter::from_fn(|| feeding.next()));
        println!("feed: round {round}: {} changes, {} acknowledged", seen.len(), acknowledged.len());
    }
    let server = Server::start(&["--data", &data, "--known-for", "24h"]);
    server.client().done("registered", &register(LAST, LAST, 65_535)); // no writer came so far
    seen.extend(until_last(&mut server.client(), newest(&seen)));
    let revisions: Vec<u64> = seen.iter().map(revision).collect();
    assert!(revisions.is_sorted_by(|one, next| one < next), "none twice, none out of order");
    seen.iter().for_each(|change| fold(&mut known, change));
    assert_eq!(known, listed(&server));
    let mut told: BTreeMap<u64, usize> = BTreeMap::new();
    for change in seen.iter().filter(|change| change["reason"] == "registered") {
        *told.entry(change["instance"]["port"].as_u64().expect("a port")).or_default() += 1;
    }
    let lost: Vec<&u64> = acknowledged.iter().filter(|port| told.get(port) != Some(&1)).collect();
    assert!(lost.is_empty(), "acknowledged and not told once: {lost:?}");
    // From the start again, in one go, it is the same.
    let again = until_last(&mut server.client(), 0);
    assert!(again.iter().map(revision).eq(revisions));
}

/// SIGKILL while others hold the server.
fn crash(server: &Server) {
    server.signal(nix::sys::signal::Signal::SIGKILL);
}

fn newest(seen: &[Value]) -> u64 {
    seen.last().map_or(0, revision)
}

fn status_revision(server: &Server) -> u64 {
    revision(&crate::picture::status(server))
}

#[test]
fn who_reads_too_slowly_is_cut_off_and_can_go_on() {
    /// More than the server keeps for one that is behind and the kernel's buffers hold, and less than a
    /// store in memory remembers.
    const CHANGES: u64 = 9_000;
    let server = Server::start(&["--store", "memory"]); // what is looked at is not the disk
    let mut slow = server.client();
    slow.send(&json!({"feed": {"since": 0}}));
    let mut writer = server.client();
    for number in 1..=CHANGES {
        writer.done("registered", &register("web", "a", number as usize));
    }
    let mut seen = BTreeSet::new();
    let error = loop {
        let reply = slow.receive();
        if reply.get("error").is_some() {
            break reply;
        }
        assert!(seen.insert(revision(&change(reply))), "twice");
    };
    assert_eq!(error["error"]["code"], "lagged", "{error}");
    assert_eq!(slow.next(), None, "and is closed");
    let last = seen.last().copied().unwrap_or_default();
    assert_eq!(seen.len() as u64, last, "what it has is without a gap");
    println!("feed: one that did not read saw {last} of {CHANGES} changes");
    let rest = fed(&mut server.client(), Some(last), CHANGES);
    assert!(rest.iter().map(revision).eq(last + 1..=CHANGES), "the rest, and nothing else");
}

#[test]
fn the_command_line_says_that_it_was_cut_off() {
    const CHANGES: usize = 9_000;
    let server = Server::start(&["--store", "memory"]);
    let mut feeding = Feeding::start(&server, 0);
    let mut writer = server.client();
    writer.done("registered", &register("web", "a", 80));
    feeding.next().expect("it is there and listens");
    // A reader that does not read: the pipe fills, then the socket, then the server's patience ends.
    for number in 0..CHANGES {
        writer.done("registered", &register("web", "a", 1 + number));
    }
    let mut last = 1;
    while let Some(change) = feeding.next() {
        assert_eq!(revision(&change), last + 1);
        last += 1;
    }
    let ended = feeding.child.wait().expect("waiting for our own child");
    // It is no success to be cut off: with a word (1), or without one where nothing was read for so long that the server closed (5).
    assert!(matches!(ended.code(), Some(1 | 5)), "{ended}");
    let mut resumed = Feeding::start(&server, last);
    assert_eq!(revision(&resumed.next().expect("the next change")), last + 1);
}
