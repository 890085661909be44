//! Reads with `index`: they wait for their own service, and for nothing else; an index never goes back.

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{REGISTER, definition, sockets};
use crate::harness::process::{processor_time, resident_kib};
use crate::harness::{DEADLINE, Http, Resolver, Server, eventually, now};

const WEB: &str = "/v1/health/service/web";

fn wait_for(http: &mut Http, path: &str, index: u64, wait: &str) {
    http.send("GET", &format!("{path}?index={index}&wait={wait}"), &[], b"");
}

/// Waits until the service's name is forgotten.
fn forgotten(resolver: &mut Resolver, service: &str) {
    eventually("a forgotten service", DEADLINE, || {
        // Over TCP: a busy machine drops datagrams, which is no matter of this test.
        let reply = resolver.tcp(&format!("{service}.service.local."), RecordType::A);
        (reply.metadata.response_code == ResponseCode::NXDomain).then_some(())
    });
}

type Act = fn(&Server, &mut Http);

/// What a reader of `web` sees, one after the other.
fn changes() -> Vec<(&'static str, Act)> {
    vec![
        ("registered", |_, http| http.put(REGISTER, &definition("web", "a", 80))),
        ("another instance", |_, http| http.put(REGISTER, &definition("web", "b", 80))),
        ("another port", |_, http| http.put(REGISTER, &definition("web", "b", 81))),
        ("a check, critical", |_, http| {
            http.put(
                "/v1/agent/check/register",
                &json!({"Name": "t", "CheckID": "t", "TTL": "1h", "ServiceID": "a"}),
            );
        }),
        ("passing", |_, http| http.put("/v1/agent/check/pass/t", &Value::Null)),
        ("warning", |_, http| http.put("/v1/agent/check/warn/t", &Value::Null)),
        ("a check is gone", |_, http| http.put("/v1/agent/check/deregister/t", &Value::Null)),
        ("maintenance", |_, http| http.put("/v1/agent/service/maintenance/a?enable=true", &Value::Null)),
        ("its end", |_, http| http.put("/v1/agent/service/maintenance/a?enable=false", &Value::Null)),
        ("the host's check", |_, http| {
            http.put("/v1/agent/check/register", &json!({"Name": "disk", "TTL": "1h"}));
        }),
        ("passing there", |_, http| http.put("/v1/agent/check/pass/disk", &Value::Null)),
        ("the host's maintenance", |_, http| http.put("/v1/agent/maintenance?enable=true", &Value::Null)),
        ("its end there", |_, http| http.put("/v1/agent/maintenance?enable=false", &Value::Null)),
        ("over the socket", |server, _| {
            let form = json!({"service": "web", "id": "c", "address": "10.0.0.9", "port": 1, "lease": "1s"});
            server.client().done("registered", &json!({ "register": form }));
        }),
        ("a lease is over", |_, _| {}),
        ("deregistered", |_, http| http.put("/v1/agent/service/deregister/a", &Value::Null)),
        ("the last deregistered", |_, http| http.put("/v1/agent/service/deregister/b", &Value::Null)),
    ]
}

#[test]
fn its_own_changes_wake_a_reader() {
    let server = Server::start(&["--store", "memory", "--known-for", "1s"]);
    let (mut waiting, mut acting) = (server.http(), server.http());
    let mut index = waiting.get(WEB).index();
    let mut body = waiting.get(WEB).json();
    for (what, act) in changes() {
        wait_for(&mut waiting, WEB, index, "10m");
        act(&server, &mut acting);
        let woken = waiting.receive();
        assert!(woken.index() > index, "{what}: {index} and then {}", woken.index());
        assert_ne!(woken.json(), body, "{what}: woken for something to see");
        (index, body) = (woken.index(), woken.json());
    }
    assert_eq!(body, json!([]));
    // That it is forgotten is nothing that a reader sees.
    let start = now();
    wait_for(&mut waiting, WEB, index, "3s");
    forgotten(&mut server.resolver(), "web");
    let forgotten_after = start.elapsed();
    let reply = waiting.receive();
    assert_eq!((reply.index(), reply.json()), (index, json!([])), "the end of the wait, with the same index");
    assert!(
        start.elapsed().as_secs() >= 3,
        "waited {:?}, forgotten after {forgotten_after:?}",
        start.elapsed()
    );
}

#[test]
fn the_same_status_in_other_words_is_shown_and_wakes_nobody() {
    let server = Server::start(&["--store", "memory"]);
    let (mut waiting, mut acting) = (server.http(), server.http());
    let mut web = definition("web", "a", 80);
    web["Check"] = json!({"TTL": "1h", "CheckID": "t", "Status": "passing"});
    acting.put(REGISTER, &web);
    let index = acting.get(WEB).index();
    wait_for(&mut waiting, WEB, index, "10m");
    for words in ["first", "second"] {
        acting.put("/v1/agent/check/update/t", &json!({"Status": "passing", "Output": words}));
        let seen = acting.get(WEB);
        assert_eq!((seen.index(), &seen.json()[0]["Checks"][1]["Output"]), (index, &json!(words)));
    }
    assert!(waiting.is_silent());
    // Other words of another status are a change.
    acting.put("/v1/agent/check/update/t", &json!({"Status": "warning", "Output": "third"}));
    let woken = waiting.receive();
    assert!(woken.index() > index);
    assert_eq!(woken.json()[0]["Checks"][1]["Output"], "third");
}

/// One change wakes everybody who waits for it, and nobody waits for another's turn: so many as `CALLSIGN_READERS` says.
#[test]
fn one_change_wakes_every_reader() {
    /// Of a connection and what it waits for; the bound that we hold ourselves to.
    const KIB_EACH: u64 = 64;
    let readers = std::env::var("CALLSIGN_READERS").map_or(1_000, |text| text.parse().expect("a number"));
    take_every_descriptor();
    let server = Server::start(&["--store", "memory"]);
    let mut http = server.http();
    http.put(REGISTER, &definition("web", "a", 80));
    let index = http.get(WEB).index();
    let before = resident_kib(server.pid());
    let mut waiting: Vec<Http> = (0..readers).map(|_| server.http()).collect();
    waiting.iter_mut().for_each(|one| wait_for(one, WEB, index, "10m"));
    // All are heard when one that came last is.
    assert!(waiting.iter().all(Http::is_silent));
    let held = resident_kib(server.pid()) - before;
    let (begun, processor) = (now(), processor_time(server.pid()));
    http.put(REGISTER, &definition("web", "b", 80));
    for one in &mut waiting {
        assert!(one.receive().index() > index);
    }
    println!(
        "{readers} readers were woken by one change in {:?}; {:?} of the processor, {held} KiB held for them",
        begun.elapsed(),
        processor_time(server.pid()) - processor
    );
    assert!(held < KIB_EACH * readers as u64, "{held} KiB");
}

fn take_every_descriptor() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("the limit that we may have");
}

#[test]
fn unrelated_changes_wake_nobody() {
    const CHANGES: usize = 10_000;
    const WAITING: usize = 100;
    let server = Server::start(&["--store", "memory", "--instances-max", "20000"]);
    let mut http = server.http();
    http.put(REGISTER, &definition("web", "a", 80));
    let index = http.get(WEB).index();
    let mut waiting: Vec<Http> = (0..WAITING).map(|_| server.http()).collect();
    for (at, one) in waiting.iter_mut().enumerate() {
        let path = ["/v1/health/service/web", "/v1/catalog/service/web", "/v1/health/checks/web"][at % 3];
        wait_for(one, path, index, "10m");
    }
    let mut client = server.client();
    for first in (0..CHANGES).step_by(100) {
        for number in first..first + 100 {
            // New services, new instances, other ports, other health.
            let (service, id) = (format!("s{}", number % 300), format!("i{}", number % 900));
            client.send(&match number % 5 {
                0 => json!({"report": {"service": service, "id": id, "status": "critical"}}),
                _ => json!({"register": {"service": service, "id": id, "address": "10.0.0.8",
                                         "port": 1 + number, "lease": "none"}}),
            });
        }
        (first..first + 100).for_each(|_| drop(client.receive()));
    }
    let woken = waiting.iter().filter(|one| !one.is_silent()).count();
    println!("{CHANGES} unrelated changes woke {woken} of {WAITING} readers");
    assert_eq!(woken, 0);
    http.put(REGISTER, &definition("web", "b", 80));
    for one in &mut waiting {
        assert!(one.receive().index() > index);
    }
}

#[test]
fn one_change_answers_everybody_who_waits() {
    let server = Server::start(&["--store", "memory"]);
    let count = sockets();
    let mut http = server.http();
    http.put(REGISTER, &definition("web", "a", 80));
    let index = http.get(WEB).index();
    let mut waiting: Vec<Http> = (0..count).map(|_| server.http()).collect();
    waiting.iter_mut().for_each(|one| wait_for(one, WEB, index, "10m"));
    let start = now();
    http.put(REGISTER, &definition("web", "b", 80));
    for one in &mut waiting {
        let woken = one.receive();
        assert!(woken.index() > index);
        assert_eq!(woken.json().as_array().map(Vec::len), Some(2));
    }
    println!("{count} blocking queries answered {:.0?} after one change", start.elapsed());
}

#[test]
fn an_index_of_another_server_is_not_waited_for() {
    let server = Server::start(&["--store", "memory"]);
    let mut http = server.http();
    http.put(REGISTER, &definition("web", "a", 80));
    let index = http.get(WEB).index();
    let start = now();
    wait_for(&mut http, WEB, u64::MAX, "10m");
    assert_eq!(http.receive().index(), index, "smaller than the client's, which begins anew");
    println!("an index of another server was answered after {:.0?}", start.elapsed());
    // A name that nothing can have has an index too, and its wait ends.
    wait_for(&mut http, "/v1/health/service/w_b", 1, "10ms");
    let reply = http.receive();
    assert_eq!((reply.status, reply.index(), reply.json()), (200, 1, json!([])));
}

/// Registers, deregisters, forgets and registers again; every index that a reader was given.
fn a_life(server: &Server, from: &mut Vec<(&'static str, u64)>) {
    let mut http = server.http();
    let mut see = |what, http: &mut Http| from.push((what, http.get(WEB).index()));
    see("the beginning", &mut http);
    http.put(REGISTER, &definition("web", "a", 80));
    see("registered", &mut http);
    http.put(REGISTER, &definition("db", "a-db", 80));
    see("another service", &mut http);
    http.put("/v1/agent/service/deregister/a", &Value::Null);
    see("deregistered", &mut http);
    forgotten(&mut server.resolver(), "web");
    see("forgotten", &mut http);
    http.put(REGISTER, &definition("web", "a", 80));
    see("registered again", &mut http);
    http.put("/v1/agent/service/deregister/a", &Value::Null);
    see("deregistered again", &mut http);
}

fn never_goes_back(flags: &[&str], changes_more: usize) {
    let mut seen = Vec::new();
    for _ in 0..3 {
        let mut server = Server::start(flags);
        a_life(&server, &mut seen);
        let mut client = server.client();
        for first in (0..changes_more).step_by(20) {
            for number in first..first + 20 {
                let form = json!({"service": "web", "id": "x", "address": "10.0.0.8", "port": 1 + number});
                client.send(&json!({ "register": form }));
            }
            (0..20).for_each(|_| drop(client.receive()));
        }
        seen.push(("many changes", server.http().get(WEB).index()));
        server.signal(Signal::SIGTERM);
        assert_eq!(server.wait().code, Some(0));
    }
    let back = seen.windows(2).find(|pair| pair[0].1 > pair[1].1);
    assert_eq!(back, None, "an index went back, of {seen:?}");
}

#[test]
fn an_index_never_goes_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data").display().to_string();
    never_goes_back(&["--data", &data, "--known-for", "1s", "--grace", "0s"], 20);
}

#[test]
fn nor_does_that_of_a_server_that_keeps_nothing() {
    never_goes_back(&["--store", "memory", "--known-for", "1s", "--grace", "0s"], 3_000);
}
