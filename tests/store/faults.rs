//! Disks that fail under the real server: what is refused, what goes on, what is there after a restart.
//!
//! strace makes the n-th call of one kind fail; it counts for each thread apart, so the same number meets the
//! opening of the store and, later, its thread. A full disk is a small one, in a mount namespace of its own.
//! `CALLSIGN_FAULTS` sets how many calls fail in turn.

use std::collections::BTreeSet;
use std::fs;

use hickory_proto::rr::RecordType;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::disk::{SmallDisk, fill};
use crate::harness::dns::ports;
use crate::harness::strace::Attached;
use crate::harness::{Client, DEADLINE, Resolver, Server, eventually, now, srv};

/// Calls that fail in turn.
const FAULTS_DEFAULT: usize = 8;
/// Registrations after which a call has failed, or never will.
const TRIES_MAX: usize = 200;
/// Instances that are there before the trouble.
const BEFORE: usize = 3;

fn faults() -> usize {
    match std::env::var("CALLSIGN_FAULTS") {
        Ok(text) => text.parse().expect("CALLSIGN_FAULTS is a number"),
        Err(_) => FAULTS_DEFAULT,
    }
}

fn register(client: &mut Client, id: &str, lease: &str) -> Value {
    client.ask(&json!({"register": {
        "service": "web", "id": id, "address": "10.0.0.7", "port": 80, "lease": lease,
        "meta": {"note": "x".repeat(400)},
    }}))
}

fn is_unavailable(reply: &Value) -> bool {
    reply["error"]["code"] == "unavailable"
}

fn in_dns(resolver: &mut Resolver) -> BTreeSet<String> {
    ports(&resolver.tcp(&srv("web"), RecordType::SRV)).into_keys().collect()
}

fn serial(resolver: &mut Resolver) -> u32 {
    use hickory_proto::rr::RData;
    let reply = resolver.udp("service.local.", RecordType::SOA);
    let serial = reply.answers.iter().find_map(|record| match &record.data {
        RData::SOA(soa) => Some(soa.serial),
        _ => None,
    });
    serial.expect("a SOA")
}

fn start_on(data: &str, before: &[&str]) -> Result<Server, crate::harness::Ended> {
    Server::launch(before, &["--data", data, "--log", "warn"])
}

/// A data directory with a few instances in it, left by a crash.
fn prepared() -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data").display().to_string();
    let mut server = start_on(&data, &[]).expect("a server");
    let mut client = server.client();
    for number in 0..BEFORE {
        assert!(register(&mut client, &format!("before-{number}"), "none").get("registered").is_some());
    }
    server.crash();
    (directory, data)
}

/// What one server did whose n-th call fails.
#[derive(Debug, PartialEq, Eq)]
enum Went {
    RefusedToStart,
    RefusedToWrite,
    NothingFailed,
}

/// Starts a server whose `when`-th `calls` of each thread fail; `lasting` where only a restart helps.
fn with_fault(calls: &str, error: &str, when: &str, lasting: bool) -> Went {
    let (_directory, data) = prepared();
    let inject = format!("inject={calls}:error={error}:when={when}");
    let trace = format!("trace={calls}");
    // The server is our child, and strace a process beside it.
    let before = ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
    let mut acknowledged: BTreeSet<String> = (0..BEFORE).map(|number| format!("before-{number}")).collect();
    let mut last_serial = None;
    let went = match start_on(&data, &before) {
        Err(ended) => {
            assert_eq!(ended.code, Some(1), "{when}: {ended:?}");
            assert!(ended.stderr.contains("callsign.redb"), "{when}: {ended:?}");
            Went::RefusedToStart
        }
        Ok(mut server) => {
            let (mut client, mut resolver) = (server.client(), server.resolver());
            let mut brief = register(&mut client, "brief", "1s").get("registered").is_some();
            let mut refused = None;
            for number in 0..TRIES_MAX {
                let id = format!("new-{number}");
                let reply = register(&mut client, &id, "none");
                if is_unavailable(&reply) {
                    refused = Some((id, reply));
                    break;
                }
                assert!(reply.get("registered").is_some(), "{when}: {reply}");
                acknowledged.insert(id);
            }
            if let Some((id, reply)) = &refused {
                let message = reply["error"]["message"].as_str().expect("a sentence");
                assert!(message.contains("callsign.redb"), "{message}");
                assert!(!in_dns(&mut resolver).contains(id), "{when}: refused and visible");
                if lasting {
                    assert!(message.contains("restart"), "{message}");
                    for number in 0..5 {
                        let reply = register(&mut client, &format!("later-{number}"), "none");
                        assert!(is_unavailable(&reply), "{when}: {reply}");
                    }
                    let reply = client.ask(&json!({"deregister": {"service": "web", "id": "before-0"}}));
                    assert!(is_unavailable(&reply), "{when}: {reply}");
                } else {
                    // The next try works, or one soon after.
                    eventually("a write on a disk that works again", DEADLINE, || {
                        register(&mut client, id, "none").get("registered").map(drop)
                    });
                    acknowledged.insert(id.clone());
                }
                let kept = client.ask(&json!({"heartbeat": {"service": "web", "id": "before-1"}}));
                assert!(kept.get("renewed").is_some(), "{when}: {kept}");
                // Time goes on: what is not renewed leaves, whether that can be stored or not.
                eventually("the end of a lease", DEADLINE, || {
                    brief &= in_dns(&mut resolver).contains("brief");
                    (!brief).then_some(())
                });
                assert_eq!(in_dns(&mut resolver), acknowledged, "{when}");
                last_serial = Some(serial(&mut resolver));
            }
            server.crash();
            if refused.is_some() { Went::RefusedToWrite } else { Went::NothingFailed }
        }
    };
    let kept_aside = fs::read_dir(&data).expect("the directory").flatten();
    let kept_aside =
        kept_aside.filter(|entry| entry.file_name().to_string_lossy().contains("damaged")).count();
    assert_eq!(kept_aside, 0, "{when}: a disk that fails is no damage");
    let server = start_on(&data, &[]).unwrap_or_else(|ended| panic!("{when}: {ended:?}"));
    let listed = server.client().list();
    let ids: BTreeSet<String> =
        listed.iter().map(|instance| instance["id"].as_str().expect("an id").to_owned()).collect();
    let lost: Vec<_> = acknowledged.difference(&ids).collect();
    assert!(lost.is_empty(), "{calls} {error} {when}: lost {lost:?}");
    if let Some(last) = last_serial {
        let newest = serial(&mut server.resolver());
        assert!(newest.wrapping_sub(last) < 1 << 31, "{when}: serial {newest} after {last}");
    }
    went
}

fn in_turn(calls: &str, error: &str, lasting: bool, whens: impl Iterator<Item = String>) {
    let start = now();
    let went: Vec<Went> = whens.map(|when| with_fault(calls, error, &when, lasting)).collect();
    let count = |wanted: &Went| went.iter().filter(|went| *went == wanted).count();
    println!(
        "faults: {calls} {error}: {} failed in turn: {} at the start, {} at a write, {} never came; {:.1} s",
        went.len(),
        count(&Went::RefusedToStart),
        count(&Went::RefusedToWrite),
        count(&Went::NothingFailed),
        start.elapsed().as_secs_f64()
    );
    assert!(count(&Went::RefusedToWrite) > 0, "no write was ever refused");
}

#[test]
fn after_a_sync_that_failed_nothing_is_acknowledged() {
    in_turn("fdatasync", "EIO", true, (1..=faults()).map(|number| number.to_string()));
}

#[test]
fn a_write_that_failed_is_refused_and_the_next_one_works() {
    in_turn("pwrite64", "EIO", false, (0..faults()).map(|number| (1 + number * 3).to_string()));
}

#[test]
fn a_disk_that_is_read_only_for_a_while_takes_writes_afterwards() {
    let some = |number: usize| format!("{}..{}", 8 + number * 5, 14 + number * 5);
    in_turn("pwrite64", "EROFS", false, (0..faults().div_ceil(2)).map(some));
}

#[test]
fn what_left_while_nothing_could_be_stored_keeps_the_serial_ahead() {
    const LEASES: usize = 5;
    let (_directory, data) = prepared();
    let mut server = start_on(&data, &[]).expect("a server");
    for number in 0..LEASES {
        let id = format!("brief-{number}");
        assert!(register(&mut server.client(), &id, "3s").get("registered").is_some());
    }
    server.crash();
    // The leases begin anew, and end before anything else is stored.
    let mut server = start_on(&data, &[]).expect("a server");
    let begun = serial(&mut server.resolver());
    let attached = Attached::new(&server, "pwrite64", "EIO");
    let mut resolver = server.resolver();
    eventually("the end of the leases", DEADLINE, || (in_dns(&mut resolver).len() == BEFORE).then_some(()));
    let last = serial(&mut resolver);
    assert_eq!(last.wrapping_sub(begun) as usize, LEASES, "each end is a change");
    server.crash();
    drop(attached);
    let server = start_on(&data, &[]).expect("a server");
    let newest = serial(&mut server.resolver());
    assert!(newest.wrapping_sub(last) < 1 << 31, "serial {newest} after {last}");
}

#[test]
fn a_full_disk_refuses_writes_and_recovers_by_itself() {
    let disk = SmallDisk::new();
    let mut server = disk.start();
    let (mut client, mut resolver) = (server.client(), server.resolver());
    assert!(register(&mut client, "first", "10s").get("registered").is_some());
    let filler = disk.seen_from_here().join("filler");
    fill(&filler);
    let mut acknowledged = BTreeSet::from(["first".to_owned()]);
    let mut refused = None;
    for number in 0..10_000 {
        let id = format!("id-{number}");
        let reply = register(&mut client, &id, "none");
        if reply.get("registered").is_none() {
            refused = Some(reply);
            break;
        }
        acknowledged.insert(id);
    }
    let refused = refused.expect("a refusal on a full disk");
    assert!(is_unavailable(&refused), "{refused}");
    let message = refused["error"]["message"].as_str().expect("a sentence");
    assert!(message.contains("No space left"), "{message}");
    println!("faults: full after {} more registrations: {message}", acknowledged.len() - 1);
    for number in 0..20 {
        let reply = register(&mut client, &format!("more-{number}"), "none");
        assert!(is_unavailable(&reply), "{reply}");
        let kept = client.ask(&json!({"heartbeat": {"service": "web", "id": "first"}}));
        assert!(kept.get("renewed").is_some(), "{kept}");
        let answered: BTreeSet<String> =
            client.list().iter().map(|instance| instance["id"].as_str().expect("an id").to_owned()).collect();
        assert_eq!(answered, acknowledged);
        assert_eq!(u16::from(resolver.udp(&srv("web"), RecordType::SRV).metadata.response_code), 0);
    }
    fs::remove_file(&filler).expect("removing a file of ours");
    let freed = now();
    eventually("a write once there is room", DEADLINE, || {
        register(&mut client, "after", "none").get("registered").map(drop)
    });
    println!("faults: writes were taken {:?} after there was room", freed.elapsed());
    acknowledged.insert("after".to_owned());
    // And full again, with a crash on top.
    fill(&filler);
    server.crash();
    let mut server = disk.start();
    let listed = server.client().list();
    let ids: BTreeSet<String> =
        listed.iter().map(|instance| instance["id"].as_str().expect("an id").to_owned()).collect();
    assert_eq!(ids, acknowledged, "started on a full disk");
    server.signal(Signal::SIGTERM);
    server.wait();
}
