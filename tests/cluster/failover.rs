//! Clients of several servers: whatever becomes of one, they go on at another, and say so.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::etcd::Etcd;
use crate::harness::{DEADLINE, Server, binary, callsign, eventually, stays};
use crate::relay::Relay;
use crate::several::{becomes, reasons, register, seen};

/// The value of `--server`.
fn both(nodes: [&Server; 2]) -> String {
    format!("{},{}", nodes[0].listen[0], nodes[1].listen[0])
}

/// A verb that goes on until it is ended.
struct Verb {
    child: Child,
    directory: tempfile::TempDir,
}

impl Verb {
    fn start(words: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let said = std::fs::File::create(directory.path().join("stderr")).expect("a file for stderr");
        let mut command = Command::new(binary());
        command.args(words).env_remove("CALLSIGN_SERVER").env_remove("CALLSIGN_TOKEN");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(said);
        Self { child: command.spawn().expect("running callsign"), directory }
    }

    fn stderr(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("stderr")).unwrap_or_default()
    }

    fn lines(&mut self) -> impl Iterator<Item = Value> + use<> {
        let stdout: ChildStdout = self.child.stdout.take().expect("a pipe");
        let lines = BufReader::new(stdout).lines();
        lines.map(|line| serde_json::from_str(&line.expect("a line")).expect("JSON"))
    }

    fn end(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Drop for Verb {
    fn drop(&mut self) {
        self.end();
        if std::thread::panicking() {
            eprintln!("it said: {}", self.stderr());
        }
    }
}

#[test]
fn a_verb_goes_on_where_a_server_is_dead_or_denies_and_not_where_all_deny() {
    let etcd = Etcd::start();
    let (mut dying, other) = (etcd.node("a", &[]), etcd.node("b", &[]));
    let strict = ["c", "d"].map(|name| etcd.node(name, &["--access", "allow anyone read"]));
    let servers = both([&dying, &other]);
    let words =
        ["register", "web", "127.0.0.1:8001", "--id", "web-1", "--lease", "none", "--server", &servers];
    let done = callsign(&words);
    assert_eq!((done.code, &*done.stderr), (Some(0), ""), "the first one is there");
    dying.crash();
    for words in [
        &["ls", "web", "-o", "json"][..],
        &["status"],
        &["register", "web", "127.0.0.1:8002", "--id", "web-2", "--lease", "none"],
        &["service", "set", "web", "--ttl", "9s"],
        &["deregister", "web", "web-1"],
    ] {
        let done = callsign(&[words, &["--server", &servers]].concat());
        assert_eq!(done.code, Some(0), "{words:?}: {}", done.stderr);
        let told = format!("going on with {}", other.listen[0]);
        assert!(done.stderr.lines().count() == 1 && done.stderr.contains(&told), "{}", done.stderr);
    }
    assert_eq!(seen(&other), [8002]);
    // What all of them forbid is forbidden, and what one allows is done.
    for node in &strict {
        becomes(node, &[8002]);
    }
    let refused = callsign(&["deregister", "web", "web-2", "--server", &both([&strict[0], &strict[1]])]);
    assert_eq!(refused.code, Some(4), "{}", refused.stderr);
    assert_eq!(seen(&other), [8002]);
    let done = callsign(&["deregister", "web", "web-2", "--server", &both([&strict[0], &other])]);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(seen(&other).is_empty());
    // Nobody is there: one line for each that was tried, and the code of that.
    let nobody = format!("{},127.0.0.1:1", dying.listen[0]);
    let nowhere = callsign(&["ls", "--server", &nobody]);
    assert!(nowhere.code == Some(5) && nowhere.stderr.contains("127.0.0.1:1"), "{nowhere:?}");
}

#[test]
fn an_instance_of_run_is_never_missing_while_its_node_dies() {
    let etcd = Etcd::start();
    let (mut dying, other) = (etcd.node("a", &[]), etcd.node("b", &[]));
    // Taken, and accepting once the command has started.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
    let port = socket.local_addr().ok().and_then(|address| address.as_socket()).expect("its address").port();
    let (text, servers) = (port.to_string(), both([&dying, &other]));
    let command = ["--", "sh", "-c", "echo '\"up\"'; exec sleep 600"];
    let mut run =
        Verb::start(&[&["run", "web", "--port", &text, "--server", &servers][..], &command].concat());
    assert_eq!(run.lines().next(), Some(json!("up")));
    socket.listen(8).expect("it accepts");
    becomes(&other, &[port]);
    dying.crash();
    let told = || run.stderr().contains("going on with").then_some(());
    eventually("a word of it", DEADLINE, || {
        assert_eq!(seen(&other), [port], "it is missing");
        told()
    });
    // Registered at the other one, by the same connection that it now lives by.
    let registered = || {
        assert_eq!(seen(&other), [port], "it is missing");
        let reasons = reasons(&mut other.client());
        (reasons.iter().filter(|reason| *reason == "registered").count() == 2).then_some(())
    };
    eventually("its registration at the other", DEADLINE, registered);
    assert_eq!(other.client().list().len(), 1, "one instance, and not one for each server");
    run.end();
    becomes(&other, &[]);
    assert!(reasons(&mut other.client()).contains(&"disconnected".to_owned()));
}

#[test]
fn a_holder_leaves_a_node_that_is_cut_off_from_etcd() {
    let etcd = Etcd::start();
    let relay = Relay::to(etcd.port());
    let store = relay.store();
    let cut = Server::start(&["--store", &store, "--node", "a", "--listen", "127.0.0.1:0"]);
    let other = etcd.node("b", &[]);
    let servers = both([&cut, &other]);
    let hold = |id: &str, port: &str, lease: &[&str]| {
        let words = ["register", "web", &format!("127.0.0.1:{port}"), "--id", id, "--server", &servers];
        Verb::start(&[&words[..], lease].concat())
    };
    let holders = [hold("timed", "8001", &[]), hold("bound", "8002", &["--lease", "connection"])];
    becomes(&other, &[8001, 8002]);
    relay.cut();
    for holder in &holders {
        eventually("a word of it", DEADLINE, || {
            assert_eq!(seen(&other), [8001, 8002], "one is missing");
            // It may have been cut off in the middle of the first registration, which is then said again there too.
            holder.stderr().contains("going on with").then_some(())
        });
    }
    // Longer than a lease and than the grace of a connection: what the cut one heard counts for nothing.
    let there = stays(Duration::from_secs(17), || seen(&other) == [8001, 8002]);
    assert!(there, "one left while it was held: {:?}", reasons(&mut other.client()));
    relay.mend();
    becomes(&cut, &[8001, 8002]);
    drop(holders);
    becomes(&other, &[8001]);
    becomes(&cut, &[8001]);
}

#[test]
fn export_and_import_go_on_at_a_node_that_knows_the_present() {
    let etcd = Etcd::start();
    let relay = Relay::to(etcd.port());
    let store = relay.store();
    let cut = Server::start(&["--store", &store, "--node", "a", "--listen", "127.0.0.1:0"]);
    let other = etcd.node("b", &[]);
    let source = Server::start(&["--store", "memory"]);
    let servers = both([&cut, &other]);
    let url = format!("http://{}", source.http[0]);
    let said = |words: &[&str], servers: &str| callsign(&[words, &["--server", servers]].concat());
    source.client().done("registered", &register("web-1", 8001, "none"));
    let follow = [
        "import",
        "--from-consul",
        &url,
        "--follow",
        "-o",
        "jsonl",
        "--timeout",
        "30s",
        "--server",
        &servers,
    ];
    let mut follower = Verb::start(&follow);
    let mut counts = follower.lines();
    assert_eq!(counts.next().expect("counts")["refused"], 0);
    becomes(&cut, &[8001]);
    becomes(&other, &[8001]);
    relay.cut();
    eventually("that it knows", DEADLINE, || {
        cut.client().ask(&json!({"status": {}}))["status"]["stale_s"].is_u64().then_some(())
    });
    // What only the other one has.
    other.client().done("registered", &register("web-2", 8002, "none"));
    let old = said(&["export"], &cut.listen[0].to_string());
    assert!(old.code == Some(5) && old.stdout.is_empty(), "an old one: {old:?}");
    assert!(old.stderr.contains("an export would be an old one"), "{}", old.stderr);
    let path = other.directory().join("registry.jsonl").display().to_string();
    for words in [&["export"][..], &["export", &path]] {
        let done = said(words, &servers);
        let told = format!("going on with {}", other.listen[0]);
        assert!(done.code == Some(0) && done.stderr.contains(&told), "{done:?}");
        let text =
            if words.len() == 1 { done.stdout } else { std::fs::read_to_string(&path).expect("a file") };
        assert!(text.contains("web-2"), "{text}");
    }
    other
        .client()
        .done("deregistered", &json!({"deregister": {"service": "web", "id": "web-2", "host": "m1"}}));
    let done = said(&["import", &path, "--timeout", "30s"], &servers);
    assert!(done.code == Some(0) && done.stdout.starts_with("1 imported"), "{done:?}");
    source.client().done("registered", &register("web-3", 8003, "none"));
    becomes(&other, &[8001, 8002, 8003]);
    assert!(
        follower.stderr().contains(&format!("going on with {}", other.listen[0])),
        "{}",
        follower.stderr()
    );
    relay.mend();
    becomes(&cut, &[8001, 8002, 8003]);
}

/// The ids of the changes that a stream told, in its order.
fn ids(lines: &[Value]) -> Vec<String> {
    let change = |line: &Value| Some(line.get("change")?["id"].as_str()?.to_owned());
    lines.iter().filter_map(change).collect()
}

#[test]
fn streams_go_on_at_another_node_without_loss_and_without_a_word_twice() {
    let etcd = Etcd::start();
    let (mut dying, other) = (etcd.node("a", &[]), etcd.node("b", &[]));
    let mut client = other.client();
    let mut put = |number: u16| {
        client.done("registered", &register(&format!("web-{number}"), 8000 + number, "none"));
    };
    put(1);
    put(2);
    becomes(&dying, &[8001, 8002]);
    let servers = both([&dying, &other]);
    let mut feed = Verb::start(&["feed", "--most", "9", "--server", &servers]);
    let mut watch = Verb::start(&["watch", "web", "-o", "jsonl", "--server", &servers]);
    let (mut fed, mut watched) = (feed.lines(), watch.lines());
    let (mut from_feed, mut from_watch) = (Vec::new(), vec![watched.next().expect("a snapshot")]);
    from_feed.extend(fed.by_ref().take(2));
    put(3);
    put(4);
    from_feed.extend(fed.by_ref().take(2));
    from_watch.extend(watched.by_ref().take(2));
    dying.crash();
    (5..=9).for_each(&mut put);
    from_feed.extend(fed);
    let wanted = |from: u16| (from..=9).map(|number| format!("web-{number}")).collect::<Vec<_>>();
    let first: BTreeSet<String> = ids(&from_feed[..2]).into_iter().collect();
    assert_eq!(first, wanted(1)[..2].iter().cloned().collect(), "what is registered, in any order");
    assert_eq!(ids(&from_feed[2..]), wanted(3));
    assert!(feed.stderr().contains(&format!("going on with {}", other.listen[0])), "{}", feed.stderr());
    from_watch.extend(watched.by_ref().take(5));
    assert_eq!(ids(&from_watch), wanted(3));
    assert!(from_watch[1..].iter().all(|line| line.get("snapshot").is_none()), "a snapshot, and changes");
}

#[test]
fn what_was_not_acknowledged_is_applied_at_the_next_node() {
    let etcd = Etcd::start();
    let (mut dying, other) = (etcd.node("a", &[]), etcd.node("b", &[]));
    let mut apply = Verb::start(&["apply", "--server", &both([&dying, &other])]);
    let mut acknowledged = apply.lines();
    let mut stdin = apply.child.stdin.take().expect("a pipe");
    let mut say = |line: &Value| stdin.write_all(format!("{line}\n").as_bytes()).expect("a reader");
    say(&register("web-1", 8001, "none"));
    assert_eq!(acknowledged.next().expect("an acknowledgement")["registered"]["id"], "web-1");
    dying.crash();
    say(&register("web-2", 8002, "none"));
    say(&json!({"deregister": {"service": "web", "id": "web-1", "host": "m1"}}));
    assert_eq!(acknowledged.next().expect("an acknowledgement")["registered"]["id"], "web-2");
    assert_eq!(acknowledged.next().expect("an acknowledgement")["deregistered"]["existed"], true);
    drop(stdin);
    assert!(acknowledged.next().is_none());
    assert!(apply.child.wait().expect("our own child").success(), "{}", apply.stderr());
    assert_eq!(seen(&other), [8002]);
}
