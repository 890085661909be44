//! Stopped processes and clocks that jump: nobody leaves who would have spoken.
//!
//! `CALLSIGN_PAUSE_LEASES`, `CALLSIGN_PAUSE_LEASE_S` and `CALLSIGN_PAUSE_S` make the long stop longer, and
//! `CALLSIGN_PAUSE_STEPS` is how often the clock jumps.

use std::time::Duration;

use hickory_proto::rr::RecordType;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::harness::dns::addresses;
use crate::harness::program::faketime;
use crate::harness::{Client, DEADLINE, Server, eventually, now, stays};

const PIECE: usize = 250;

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is a number")),
        Err(_) => default,
    }
}

/// One request for each of `count` instances; how many replies have the member `verb`.
fn ask_all(client: &mut Client, count: u64, verb: &str, request: impl Fn(u64) -> serde_json::Value) -> u64 {
    send_all(client, 0, count, &request);
    take_all(client, count, verb)
}

fn send_all(client: &mut Client, first: u64, count: u64, request: &impl Fn(u64) -> serde_json::Value) {
    let mut piece = String::new();
    for number in first..first + count {
        piece.push_str(&request(number).to_string());
        piece.push('\n');
    }
    client.send_raw(piece.as_bytes()).expect("sending");
}

fn take_all(client: &mut Client, count: u64, verb: &str) -> u64 {
    (0..count).filter(|_| client.receive().get(verb).is_some()).count() as u64
}

fn id(number: u64) -> String {
    format!("i{number}")
}

fn registration(number: u64, lease: &str) -> serde_json::Value {
    let service = format!("s{}", number / 100);
    let address = format!("10.0.{}.{}", number / 250, number % 250 + 1);
    json!({"register": {"service": service, "id": id(number), "address": address, "port": 80, "lease": lease}})
}

fn heartbeat(number: u64) -> serde_json::Value {
    json!({"heartbeat": {"service": format!("s{}", number / 100), "id": id(number)}})
}

/// In pieces that no buffer stops.
fn in_pieces(client: &mut Client, count: u64, verb: &str, request: impl Fn(u64) -> serde_json::Value) -> u64 {
    let firsts = (0..count).step_by(PIECE);
    firsts
        .map(|first| {
            let of_piece = (count - first).min(PIECE as u64);
            send_all(client, first, of_piece, &request);
            take_all(client, of_piece, verb)
        })
        .sum()
}

fn pass(time: Duration) {
    stays(time, || true);
}

#[test]
fn nobody_expires_over_a_stop() {
    let leases = number("CALLSIGN_PAUSE_LEASES", 500);
    let lease = number("CALLSIGN_PAUSE_LEASE_S", 2);
    let stop = Duration::from_secs(number("CALLSIGN_PAUSE_S", 3));
    let server = Server::start(&[]);
    let mut client = server.client();
    let text = format!("{lease}s");
    let registered = in_pieces(&mut client, leases, "registered", |number| registration(number, &text));
    assert_eq!(registered, leases);
    assert_eq!(in_pieces(&mut client, leases, "renewed", heartbeat), leases);
    server.signal(Signal::SIGSTOP);
    pass(stop);
    server.signal(Signal::SIGCONT);
    let begun = now();
    let renewed = in_pieces(&mut client, leases, "renewed", heartbeat);
    let took = begun.elapsed();
    println!("pauses: {leases} leases of {lease} s, stopped for {stop:?}: {renewed} renewed within {took:?}");
    // A machine too slow to say so within one lease has shown nothing.
    assert!(renewed == leases || took >= Duration::from_secs(lease), "{} expired", leases - renewed);
    // Who says nothing after it leaves all the same.
    let mut other = server.client();
    eventually("the end of the leases", DEADLINE, || other.list().is_empty().then_some(()));
}

#[test]
fn a_guard_holds_all_who_fall_silent_and_lets_a_tenth_go() {
    /// In each service, as `registration` puts them.
    const EACH: u64 = 100;
    let leases = number("CALLSIGN_PAUSE_LEASES", 500);
    let lease = format!("{}s", number("CALLSIGN_PAUSE_LEASE_S", 2));
    let server = Server::start(&[]);
    let mut client = server.client();
    let services = leases / EACH;
    let settings = |number: u64| json!({"settings": {"service": format!("s{number}"), "guard": "50%"}});
    assert_eq!(in_pieces(&mut client, services, "settings", settings), services);
    let register = |number: u64| registration(number, &lease);
    assert_eq!(in_pieces(&mut client, leases, "registered", register), leases);
    let guarded = || -> u64 {
        let metrics = server.http().get("/metrics");
        let text = metrics.text();
        let figure = text.lines().find_map(|line| line.strip_prefix("callsign_services_guarded "));
        figure.expect("a metric").parse().expect("a number")
    };
    let answered = || {
        let mut resolver = server.resolver(); // a connection does not last through a lease without a question
        let each = (0..services).map(|number| {
            let reply = resolver.tcp(&format!("s{number}.service.local."), RecordType::A);
            addresses(&reply).len() as u64
        });
        each.sum::<u64>()
    };
    // Nobody says anything any more.
    eventually("the end of all leases", DEADLINE, || client.list().is_empty().then_some(()));
    assert_eq!((guarded(), answered()), (services, leases));
    // They are back, and of each service a tenth is silent for good.
    assert_eq!(in_pieces(&mut client, leases, "registered", register), leases);
    assert_eq!((guarded(), answered()), (0, leases));
    let living = leases / 10 * 9;
    let kept = |number: u64| heartbeat(number / 9 * 10 + number % 9 + 1);
    eventually("the end of the silent", DEADLINE, || {
        let begun = now();
        let renewed = in_pieces(&mut client, living, "renewed", kept);
        assert!(renewed == living || begun.elapsed() >= Duration::from_secs(1), "{renewed} of {living}");
        (client.list().len() as u64 == living).then_some(())
    });
    assert_eq!((guarded(), answered()), (0, living));
    println!("pauses: {leases} silent leases of {lease} are answered on; of {leases}, {} leave", leases / 10);
}

#[test]
fn a_heartbeat_that_waited_in_the_socket_counts() {
    const COUNT: u64 = 50;
    let server = Server::start(&[]);
    for _ in 0..4 {
        let mut client = server.client();
        let before = now();
        assert_eq!(ask_all(&mut client, COUNT, "registered", |number| registration(number, "1s")), COUNT);
        pass(Duration::from_millis(250).saturating_sub(before.elapsed()));
        server.signal(Signal::SIGSTOP);
        let stopped = now();
        send_all(&mut client, 0, COUNT, &heartbeat);
        let in_time = before.elapsed() < Duration::from_secs(1);
        pass(Duration::from_millis(900));
        server.signal(Signal::SIGCONT);
        let away = stopped.elapsed();
        let renewed = take_all(&mut client, COUNT, "renewed");
        assert!(renewed == COUNT || !in_time, "{} expired over a stop of {away:?}", COUNT - renewed);
    }
}

#[test]
fn a_wall_clock_that_jumps_by_years_ends_no_lease() {
    const COUNT: u64 = 100;
    const STEPS: [&str; 6] = ["+1y", "-1y", "+10d", "-3y", "+2h", "+0"];
    let directory = tempfile::tempdir().expect("a directory");
    let clock = directory.path().join("clock");
    std::fs::write(&clock, "+0\n").expect("writing a file");
    let words = [
        format!("LD_PRELOAD={}", faketime().display()),
        format!("FAKETIME_TIMESTAMP_FILE={}", clock.display()),
        "FAKETIME_NO_CACHE=1".to_owned(),
        "DONT_FAKE_MONOTONIC=1".to_owned(),
    ];
    let before: Vec<&str> = ["env"].into_iter().chain(words.iter().map(String::as_str)).collect();
    // The library reads the file inside the server, again and again.
    let folder = directory.path().display().to_string();
    let server = Server::start_under(&before, &["--confine-read", &folder]);
    let mut client = server.client();
    assert_eq!(ask_all(&mut client, COUNT, "registered", |number| registration(number, "2s")), COUNT);
    let mut walls = std::collections::BTreeSet::new();
    let steps = number("CALLSIGN_PAUSE_STEPS", STEPS.len() as u64) as usize;
    for step in STEPS.iter().cycle().take(steps) {
        std::fs::write(&clock, format!("{step}\n")).expect("writing a file");
        let begun = now();
        pass(Duration::from_millis(600));
        let renewed = ask_all(&mut client, COUNT, "renewed", heartbeat);
        let late = begun.elapsed() >= Duration::from_secs(2);
        assert!(renewed == COUNT || late, "{} expired after a step of {step}", COUNT - renewed);
        let mark = client.ask(&json!({"register": {"service": "mark", "id": step, "address": "10.0.0.7", "port": 80, "lease": "none"}}));
        assert!(mark.get("registered").is_some(), "{mark}");
        let shown = client.done("found", &json!({"lookup": {"id": step}}));
        walls.insert(shown["instances"][0]["registered"].as_str().expect("a time")[..4].to_owned());
    }
    assert!(walls.len() >= 3, "the clock did not jump: {walls:?}");
    // And what is not renewed leaves.
    eventually("the end of the leases", DEADLINE, || {
        (client.list().len() == STEPS.len().min(steps)).then_some(())
    });
    println!("pauses: {COUNT} leases over {steps} steps of the clock");
}

#[test]
fn a_machine_that_was_up_for_years_is_like_any_other() {
    const COUNT: u64 = 100;
    let mut before = vec!["unshare", "--time", "--monotonic", "315360000", "--boottime", "315360000"];
    if !nix::unistd::geteuid().is_root() {
        before.extend(["--user", "--map-root-user"]);
    }
    before.extend(["--fork", "--kill-child"]);
    let server = Server::start_under(&before, &[]);
    let mut client = server.client();
    assert_eq!(ask_all(&mut client, COUNT, "registered", |number| registration(number, "1s")), COUNT);
    for _ in 0..5 {
        let begun = now();
        pass(Duration::from_millis(400));
        let renewed = ask_all(&mut client, COUNT, "renewed", heartbeat);
        assert!(renewed == COUNT || begun.elapsed() >= Duration::from_secs(1), "{} expired", COUNT - renewed);
    }
    eventually("the end of the leases", DEADLINE, || client.list().is_empty().then_some(()));
}
