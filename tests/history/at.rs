//! `at`: who was registered at a time, compared with a journal.

use serde_json::{Value, json};

use crate::harness::{Draws, Server, seed};
use crate::picture::{Picture, ask, command, facts, key, lines, listed, picture, register};

/// The part of a picture that is about one service; `at` knows nothing of hosts' checks.
fn of_service(picture: &Picture, service: &str) -> Picture {
    let wanted = picture.iter().filter(|(key, _)| key[1] == service);
    wanted.map(|(key, facts)| (key.clone(), facts.clone())).collect()
}

#[test]
fn the_past_is_what_was_listed_then() {
    const CHANGES: usize = 150;
    let seed = seed();
    println!("at: seed {seed}");
    for store in [&["--store", "memory"][..], &[]] {
        let server = Server::start(&[&["--known-for", "24h"], store].concat());
        let (mut client, mut draws) = (server.client(), Draws(seed));
        // The registry after each revision: one writer, so that nothing lies between.
        let mut journal: Vec<(u64, Picture)> = vec![(0, Picture::new())];
        for _ in 0..CHANGES {
            let request = command(&mut draws);
            // A report on an instance of nobody is refused; that is no change.
            client.ask(&request);
            let revision = client.done("status", &json!({"status": {}}))["revision"].as_u64();
            journal.push((revision.expect("a revision"), listed(&server)));
        }
        let log = lines(&ask(&server, &["log", "-o", "jsonl", "--most", "100000"]).stdout);
        assert!(log.len() > CHANGES / 2, "{} changes", log.len());
        let mut asked = 0;
        // Newest first: the first of its millisecond is what that millisecond ended with.
        for (place, change) in log.iter().enumerate() {
            let time = change["at"].as_str().expect("a time");
            if place > 0 && log[place - 1]["at"] == time {
                continue;
            }
            let revision = change["revision"].as_u64().expect("a revision");
            let then = journal.iter().rev().find(|(at, _)| *at == revision);
            let (_, then) = then.unwrap_or_else(|| panic!("seed {seed}: {change} is not in the journal"));
            for service in ["web-0", "web-1", "web-2", "web-3"] {
                let reply = client.done("at", &json!({"at": {"time": time, "service": service}}));
                let told = picture(reply["instances"].as_array().expect("instances"));
                assert_eq!(told, of_service(then, service), "seed {seed}: {service} at {time}");
                assert_eq!(reply["revision"], revision, "seed {seed}: {time}");
                asked += 1;
            }
        }
        println!("at: {asked} questions about {} changes, store {store:?}", log.len());
    }
}

#[test]
fn times_are_written_in_two_ways_and_others_are_refused() {
    let server = Server::start(&[]);
    let mut client = server.client();
    client.done("registered", &register("web", "a", 80));
    let log = lines(&ask(&server, &["log", "-o", "jsonl"]).stdout);
    let time = log[0]["at"].as_str().expect("a time");
    let there = |time: &str| -> usize {
        let ended = ask(&server, &["at", time, "web", "-o", "jsonl"]);
        assert_eq!(ended.code, Some(0), "{time}: {ended:?}");
        lines(&ended.stdout).len()
    };
    for now in [time, "0s", "0ms", "2999-01-01T00:00:00Z", "2999-01-01T00:00:00.999Z"] {
        assert_eq!(there(now), 1, "{now}");
    }
    // The log is whole, so before its first change there was nothing.
    for before in ["10m", "30d", "1970-01-01T00:00:00Z", "2000-02-29T23:59:60Z"] {
        assert_eq!(there(before), 0, "{before}");
    }
    let day = time.split('T').next().expect("a date");
    let huge = format!("{}-01-01T00:00:00Z", i64::MAX);
    let local = format!("{day}T10:00:00+01:00");
    let times =
        ["", "yesterday", "-1s", "10 m", day, "2026-13-01T00:00:00Z", "2026-01-01T24:00:00Z", &huge, &local];
    for wrong in times {
        let reply = client.ask(&json!({"at": {"time": wrong, "service": "web"}}));
        assert_eq!(
            (&reply["error"]["code"], &reply["error"]["field"]),
            (&json!("invalid"), &json!("time")),
            "{wrong:?}: {reply}"
        );
        assert!(reply["error"]["message"].as_str().is_some_and(|text| text.contains("10m")), "{reply}");
    }
    assert_eq!(ask(&server, &["at", "yesterday", "web"]).code, Some(2));
    assert_eq!(ask(&server, &["at", "1m", "no_name"]).code, Some(2));
    let nobody = ask(&server, &["at", "0s", "nobody", "-o", "json"]);
    assert_eq!((nobody.code, nobody.stdout.trim()), (Some(0), "[]"));
    let table = ask(&server, &["at", "0s", "web"]).stdout;
    assert!(table.starts_with("ID") && table.contains("10.0.0.7"), "{table}");
}

#[test]
fn the_past_outlives_a_restart_and_leases() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().display().to_string();
    let mut server = Server::start(&["--data", &data]);
    let mut client = server.client();
    let mut timed = register("web", "timed", 80);
    timed["register"]["lease"] = json!("90s");
    client.done("registered", &timed);
    client.done("registered", &register("web", "b", 80));
    client.done("deregistered", &json!({"deregister": {"service": "web", "id": "b"}}));
    client.done("deregistered", &json!({"deregister": {"service": "web", "id": "timed"}}));
    let log = lines(&ask(&server, &["log", "-o", "jsonl"]).stdout);
    server.crash();
    let server = Server::start(&["--data", &data]);
    assert_eq!(lines(&ask(&server, &["log", "-o", "jsonl"]).stdout).len(), log.len());
    // From one change on until the next it was so; several may share a millisecond.
    for change in log.iter().filter(|change| change["id"] == "timed") {
        let time = change["at"].as_str().expect("a time");
        let newest = log.iter().find(|other| other["at"] == time).expect("itself");
        let reply = server.client().done("at", &json!({"at": {"time": time, "service": "web"}}));
        let told = reply["instances"].as_array().expect("instances");
        let timed = told.iter().find(|instance| instance["id"] == "timed");
        let left = log.iter().find(|other| other["id"] == "timed" && other["instance"].is_null());
        let there = newest["revision"].as_u64() < left.and_then(|left| left["revision"].as_u64());
        assert_eq!(timed.is_some(), there, "at {time}: {reply}");
        if let (Some(timed), Value::Object(_)) = (timed, &change["instance"]) {
            assert_eq!((key(timed), facts(timed)), (key(&change["instance"]), facts(&change["instance"])));
            assert_eq!(timed["lease"], "90s");
        }
    }
}
