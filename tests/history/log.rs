//! `log`: every change with its reason, its author and its time, newest first; how far back.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::harness::{Client, DEADLINE, Server, eventually};
use crate::picture::{ask, lines, register, revision};

const STORES: [&[&str]; 2] = [&["--store", "memory"], &[]];

/// Every page of the log from the newest change on.
fn pages(client: &mut Client, form: &Value) -> Vec<Vec<Value>> {
    let (mut form, mut pages) = (form.clone(), Vec::new());
    loop {
        let mut page = client.done("log", &json!({ "log": form }));
        let Value::Array(changes) = page["changes"].take() else { panic!("no changes: {page}") };
        pages.push(changes);
        if page["next"].is_null() {
            return pages;
        }
        form["before"] = page["next"].take();
    }
}

fn log(client: &mut Client, form: &Value) -> Vec<Value> {
    pages(client, form).concat()
}

/// Sends many requests at once; the count of those that were done.
fn pipelined(client: &mut Client, requests: impl Iterator<Item = Value>) -> usize {
    let requests: Vec<String> = requests.map(|request| format!("{request}\n")).collect();
    let mut done = 0;
    for chunk in requests.chunks(200) {
        client.send_raw(chunk.concat().as_bytes()).expect("sending requests");
        for _ in chunk {
            let reply = client.receive();
            done += usize::from(reply.get("error").is_none());
        }
    }
    done
}

#[test]
fn every_kind_of_change_is_there_with_its_reason_and_author() {
    for store in STORES {
        let server = Server::start(&[&["--known-for", "1s", "--listen", "127.0.0.1:0"], store].concat());
        let (mut client, mut remote) = (server.client(), server.tcp_client());
        client.done("registered", &register("web", "a", 80));
        client.done("registered", &register("web", "a", 81));
        client.done("draining", &json!({"drain": {"service": "web", "id": "a"}}));
        client.done("reported", &json!({"report": {"service": "web", "id": "a", "status": "critical"}}));
        client
            .done("reported", &json!({"report": {"host": "machine", "check": "disk", "status": "warning"}}));
        remote.done("deregistered", &json!({"deregister": {"service": "web", "id": "a"}}));
        let mut timed = register("web", "b", 80);
        timed["register"]["lease"] = json!("1s");
        remote.done("registered", &timed);
        let mut holder = server.client();
        let mut bound = register("web", "c", 80);
        bound["register"]["lease"] = json!("connection");
        holder.done("registered", &bound);
        drop(holder);
        // All three left, and then are no longer remembered.
        let all = eventually("the last instance to be forgotten", DEADLINE, || {
            let all = log(&mut client, &json!({}));
            (all.iter().filter(|change| change["reason"] == "forgotten").count() == 3).then_some(all)
        });
        check_kinds(&all);
        let revisions: Vec<u64> = all.iter().map(revision).collect();
        let expected: Vec<u64> = (1..=all.len() as u64).rev().collect();
        assert_eq!(revisions, expected, "newest first, and none left out");
        let times: Vec<&str> = all.iter().map(|change| change["at"].as_str().expect("a time")).collect();
        assert!(times.is_sorted_by(|newer, older| newer >= older), "{times:?}");
        filters(&server, &mut client, &all);
    }
}

/// Who did what, to whom.
fn check_kinds(all: &[Value]) {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let mut seen: Vec<[String; 4]> = Vec::new();
    for change in all {
        let mut author = text(&change["author"]);
        author.truncate(author.find(':').unwrap_or(author.len())); // without the port
        seen.push([text(&change["service"]), text(&change["id"]), text(&change["reason"]), author]);
    }
    let uid = format!("uid {}", nix::unistd::geteuid());
    let (own, remote, server) = (uid.as_str(), "127.0.0.1", "callsign");
    let mut expected = [
        ["web", "a", "registered", own],
        ["web", "a", "registered", own],
        ["web", "a", "drained", own],
        ["web", "a", "reported", own],
        ["-", "-", "reported", own],
        ["web", "a", "deregistered", remote],
        ["web", "b", "registered", remote],
        ["web", "b", "expired", server],
        ["web", "c", "registered", own],
        ["web", "c", "disconnected", server],
        ["web", "a", "forgotten", server],
        ["web", "b", "forgotten", server],
        ["web", "c", "forgotten", server],
    ]
    .map(|row| row.map(str::to_owned));
    seen.sort();
    expected.sort();
    assert_eq!(seen, expected);
    let host = all.iter().find(|change| change["host"] == "machine").expect("the change of a host");
    assert_eq!((&host["checks"][0]["id"], &host["checks"][0]["status"]), (&json!("disk"), &json!("warning")));
    let last_of_a = all.iter().find(|change| change["id"] == "a" && !change["instance"].is_null());
    assert_eq!(last_of_a.expect("an instance")["instance"]["port"], 81);
}

/// Over the protocol and on the command line.
fn filters(server: &Server, client: &mut Client, all: &[Value]) {
    let of = |wanted: &dyn Fn(&Value) -> bool| -> Vec<u64> {
        all.iter().filter(|change| wanted(change)).map(revision).collect()
    };
    let revisions = |changes: &[Value]| -> Vec<u64> { changes.iter().map(revision).collect() };
    let of_b = of(&|change| change["id"] == "b");
    assert_eq!(revisions(&log(client, &json!({"service": "web", "id": "b"}))), of_b);
    assert_eq!(revisions(&log(client, &json!({"id": "b"}))), of_b);
    assert_eq!(revisions(&log(client, &json!({"service": "WEB"}))), of(&|change| change["service"] == "web"));
    assert_eq!(log(client, &json!({"service": "other"})), Vec::<Value>::new());
    let printed = ask(server, &["log", "web", "--id", "b", "-o", "jsonl"]);
    assert_eq!((printed.code, revisions(&lines(&printed.stdout))), (Some(0), of_b));
    let few = ask(server, &["log", "--most", "4", "-o", "jsonl"]);
    assert_eq!(revisions(&lines(&few.stdout)), revisions(&all[..4]));
    let table = ask(server, &["log"]).stdout;
    assert_eq!(table.lines().count(), all.len(), "{table}");
    let at =
        all.iter().find(|change| change["reason"] == "disconnected").expect("it was there")["at"].clone();
    let sentence = format!("{} web c disconnected on ", at.as_str().expect("a time"));
    let found = table.lines().find(|line| line.starts_with(&sentence) && line.ends_with(" by callsign"));
    assert!(found.is_some(), "{table}");
    assert!(table.contains(" host machine reported, disk warning by uid "), "{table}");
    let wrong = ask(server, &["log", "not_a_name"]);
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
}

#[test]
fn a_long_log_is_read_page_by_page() {
    /// More than one request looks at.
    const OTHERS: usize = 21_000;
    let server = Server::start(&[]);
    let mut client = server.client();
    client.done("registered", &register("rare", "first", 80));
    let others = (0..OTHERS).map(|number| register("web", &format!("id-{}", number % 50), 1 + number));
    assert_eq!(pipelined(&mut client, others), OTHERS);
    client.done("registered", &register("rare", "last", 80));
    let found = pages(&mut client, &json!({"service": "rare"}));
    assert!(found.len() > 1, "one request does not look at everything");
    let ids: Vec<Value> = found.concat().iter().map(|change| change["id"].clone()).collect();
    assert_eq!(ids, ["last", "first"]);
    let printed = lines(&ask(&server, &["log", "rare", "-o", "jsonl"]).stdout);
    assert_eq!(printed.len(), 2, "the command line goes on by itself: {printed:?}");
    for most in [1000, 999] {
        let all = pages(&mut client, &json!({"most": most}));
        assert!(all.iter().all(|page| page.len() <= most));
        let revisions: Vec<u64> = all.concat().iter().map(revision).collect();
        let expected: Vec<u64> = (1..=OTHERS as u64 + 2).rev().collect();
        assert!(revisions == expected, "every change once, in pages of {most}");
    }
    let most = client.done("log", &json!({"log": {"most": 1_000_000}}));
    assert_eq!(most["changes"].as_array().map(Vec::len), Some(1000), "a reply is bounded");
}

#[test]
fn the_log_is_as_long_as_history_changes_says() {
    const KEPT: usize = 100;
    let server = Server::start(&["--history-changes", "100"]);
    let mut client = server.client();
    let many = (0..KEPT * 3).map(|number| register("web", "a", 1 + number));
    assert_eq!(pipelined(&mut client, many), KEPT * 3);
    let all = log(&mut client, &json!({}));
    let revisions: BTreeSet<u64> = all.iter().map(revision).collect();
    assert_eq!(revisions, (KEPT as u64 * 2 + 1..=KEPT as u64 * 3).collect());
    beyond(&server, KEPT as u64 * 2, KEPT);
}

#[test]
fn a_store_in_memory_keeps_the_latest() {
    /// What it remembers, and some more.
    const KEPT: usize = 10_000;
    let server = Server::start(&["--store", "memory"]);
    let mut client = server.client();
    let many = (0..KEPT + 500).map(|number| register("web", "a", 1 + number));
    assert_eq!(pipelined(&mut client, many), KEPT + 500);
    assert_eq!(log(&mut client, &json!({})).len(), KEPT);
    beyond(&server, 500, KEPT);
}

/// The newest revision that is gone, and what is left: asking beyond it is refused in words, on both
/// ways in; the last that is left is had.
fn beyond(server: &Server, gone: u64, left: usize) {
    let mut client = server.client();
    for since in [0, 1, gone - 1] {
        let reply = server.client().ask(&json!({"feed": {"since": since}}));
        assert_eq!(reply["error"]["code"], "compacted", "{reply}");
    }
    let first = server.client().ask(&json!({"feed": {"since": gone}}));
    assert_eq!(first["change"]["revision"], gone + 1, "{first}");
    let refused = ask(server, &["feed", "--since", "0", "--most", "1"]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    let begins = format!("the log begins at revision {}", gone + 1);
    assert!(refused.stderr.contains(&begins), "{refused:?}");
    let rest = ask(server, &["feed", "--since", &gone.to_string(), "--most", &left.to_string()]);
    assert_eq!((rest.code, lines(&rest.stdout).len()), (Some(0), left));
    let reply = client.ask(&json!({"at": {"time": "1d", "service": "web"}}));
    assert_eq!((&reply["error"]["code"], &reply["error"]["field"]), (&json!("compacted"), &json!("time")));
    let at = ask(server, &["at", "1d", "web"]);
    assert_eq!(at.code, Some(1), "{at:?}");
    assert!(at.stderr.contains("history-changes"), "{at:?}");
    let now = client.done("at", &json!({"at": {"time": "0s", "service": "web"}}));
    assert_eq!(now["instances"].as_array().map(Vec::len), Some(1), "what is now needs no log");
}

#[test]
fn the_log_is_as_old_as_history_age_says() {
    let server = Server::start(&["--history-age", "1s"]);
    let mut client = server.client();
    let mut port = 0;
    let mut more = |client: &mut Client| {
        port += 1;
        client.done("registered", &register("web", "a", port));
        log(client, &json!({})).iter().map(revision).collect::<Vec<u64>>()
    };
    assert!(more(&mut client).contains(&1));
    // What is too old goes with the next commit.
    let left = eventually("the first change to be too old", DEADLINE, || {
        Some(more(&mut client)).filter(|left| !left.contains(&1))
    });
    assert!(!left.is_empty(), "what is young is kept");
    let reply = client.ask(&json!({"at": {"time": "1h", "service": "web"}}));
    assert_eq!(reply["error"]["code"], "compacted", "{reply}");
}
