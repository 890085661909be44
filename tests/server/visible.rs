//! Acknowledged means visible. Every acknowledged register, report, drain and deregister is in the very
//! next answer, over UDP and over TCP, whoever asks; and none is lost to another that came at the same time.
//!
//! Writers share services and own instances. An instance's n-th change is the same in every run, so any
//! thread knows what DNS shows after it. The writer asks right after the acknowledgement and wants exactly that. A
//! reader notes which changes were acknowledged before its question and which were begun before its
//! answer came; it accepts what any change between the two shows, and nothing older (linearizability of one
//! register with one writer).
//!
//! Once with the store in memory, where the server is quickest, and once with the one on disk, where changes
//! wait for each other. `CALLSIGN_OPERATIONS` sets the number of changes, `CALLSIGN_SEED` repeats a run;
//! `tests/long/visible.sh` makes a million of them.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hickory_proto::rr::RecordType;
use serde_json::{Value, json};

use crate::harness::dns::ports;
use crate::harness::{Client, Draws, Resolver, Server, now, seed, srv};

const OPERATIONS_IN_MEMORY: u64 = 100_000;
/// Less, because how long a commit takes is the disk's affair.
const OPERATIONS_ON_DISK: u64 = 10_000;
const WRITERS: usize = 8;
const READERS: usize = 3;
/// Services; each writer has one instance in each.
const POOLS: usize = 4;
/// All of a service's instances fit one datagram, so that no answer is a choice.
const UDP_OCTETS: u16 = 1232;
/// Changes after which a writer opens its connections anew.
const RECONNECT_EVERY: u64 = 2_000;
/// Changes between two looks at the registry from the writer's other connection.
const LOOKUP_EVERY: u64 = 50;

/// The changes that an instance goes through, again and again.
const STEPS: u64 = 6;

/// One instance: its last change that was begun, and its last that was acknowledged.
#[derive(Default)]
struct Progress {
    begun: AtomicU64,
    acknowledged: AtomicU64,
}

/// What the threads share.
struct Run {
    instances: Vec<Vec<Progress>>,
    done: AtomicBool,
    writes: AtomicU64,
    answers: AtomicU64,
    stale: AtomicU64,
    /// The first few, in words.
    complaints: Mutex<Vec<String>>,
}

#[test]
fn what_was_acknowledged_is_in_the_next_answer() {
    run("memory", OPERATIONS_IN_MEMORY);
}

#[test]
fn what_was_acknowledged_and_is_on_disk_is_in_the_next_answer() {
    run("embedded", OPERATIONS_ON_DISK);
}

fn run(store: &str, operations: u64) {
    let operations = match std::env::var("CALLSIGN_OPERATIONS") {
        Ok(text) => text.parse().expect("CALLSIGN_OPERATIONS is a number"),
        Err(_) => operations,
    };
    let seed = seed();
    println!("visible: seed {seed}, store {store}");
    let mut flags = vec!["--listen", "127.0.0.1:0", "--known-for", "24h"];
    if store == "memory" {
        flags.extend(["--store", store]);
    }
    let server = Server::start(&flags);
    let run = Run {
        instances: (0..WRITERS).map(|_| (0..POOLS).map(|_| Progress::default()).collect()).collect(),
        done: AtomicBool::new(false),
        writes: AtomicU64::new(0),
        answers: AtomicU64::new(0),
        stale: AtomicU64::new(0),
        complaints: Mutex::default(),
    };
    let start = now();
    std::thread::scope(|scope| {
        let (server, run) = (&server, &run);
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let share =
                    operations / WRITERS as u64 + u64::from((writer as u64) < operations % WRITERS as u64);
                scope.spawn(move || write(server, run, writer, share, Draws(seed ^ writer as u64)))
            })
            .collect();
        let readers: Vec<_> = (0..READERS)
            .map(|reader| scope.spawn(move || read(server, run, Draws(seed ^ (1000 + reader as u64)))))
            .collect();
        // Readers end when the writers have, also where one of them failed.
        let written: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        run.done.store(true, Ordering::SeqCst);
        let read = readers.into_iter().map(|reader| reader.join());
        assert!(read.chain(written).all(|ended| ended.is_ok()), "a thread failed");
    });
    let (lost, revision) = count_lost(&server, &run);
    let (writes, stale) = (run.writes.load(Ordering::SeqCst), run.stale.load(Ordering::SeqCst));
    println!(
        "visible: seed={seed} operations={writes} answers={} lost={lost} stale={stale} seconds={:.1} store={store}",
        run.answers.load(Ordering::SeqCst),
        start.elapsed().as_secs_f64()
    );
    for complaint in run.complaints.lock().expect("no thread failed").iter() {
        println!("    {complaint}");
    }
    assert_eq!((lost, stale), (0, 0), "seed {seed}");
    assert_eq!(writes, operations);
    assert_eq!(revision, operations, "every acknowledged change has a revision of its own");
}

/// The request of an instance's `version`-th change.
fn request(writer: usize, pool: usize, version: u64) -> Value {
    let (service, id) = (service(pool), id(writer));
    match version % STEPS {
        1 | 4 => json!({"register": {
            "service": service, "id": id, "address": format!("10.0.{pool}.{}", writer + 1),
            "port": port(version), "lease": "none",
        }}),
        2 => json!({"report": {"service": service, "id": id, "status": "critical"}}),
        3 => json!({"report": {"service": service, "id": id, "status": "passing"}}),
        5 => json!({"drain": {"service": service, "id": id}}),
        _ => json!({"deregister": {"service": service, "id": id}}),
    }
}

/// What DNS shows of an instance after its `version`-th change: its port, or nothing.
fn visible(version: u64) -> Option<u16> {
    match version % STEPS {
        1 | 4 => Some(port(version)),
        3 => Some(port(version - 2)),
        _ => None,
    }
}

fn is_registered(version: u64) -> bool {
    !version.is_multiple_of(STEPS)
}

fn service(pool: usize) -> String {
    format!("pool-{pool}")
}

fn id(writer: usize) -> String {
    format!("w{writer}")
}

fn port(version: u64) -> u16 {
    (version % 65_535) as u16 + 1
}

fn write(server: &Server, run: &Run, writer: usize, share: u64, mut draws: Draws) {
    let mut clients = [server.client(), server.tcp_client()];
    let mut resolver = server.resolver();
    let mut done = 0;
    while done < share {
        // One change, or one in each service, sent in one piece on either connection.
        let mut pools: Vec<usize> = (0..POOLS).collect();
        if draws.below(8) > 0 {
            pools = vec![draws.below(POOLS)];
        }
        pools.truncate(usize::try_from(share - done).unwrap_or(POOLS));
        let side = draws.below(2);
        change(run, writer, &pools, &mut clients[side]);
        for &pool in &pools {
            let version = run.instances[writer][pool].acknowledged.load(Ordering::SeqCst);
            for (transport, found) in ask_both(run, &mut resolver, pool) {
                if found.get(&id(writer)).copied() != visible(version) {
                    run.complain(format!(
                        "{transport}: {} of {} after change {version}: {found:?}, not {:?}",
                        id(writer),
                        service(pool),
                        visible(version)
                    ));
                }
            }
        }
        let before = done;
        done += pools.len() as u64;
        if done / LOOKUP_EVERY > before / LOOKUP_EVERY {
            look_up(run, writer, pools[0], &mut clients[1 - side]);
        }
        if done / RECONNECT_EVERY > before / RECONNECT_EVERY {
            clients = [server.client(), server.tcp_client()];
            resolver = server.resolver();
        }
    }
}

/// Makes the next change to the writer's instance in each of `pools`, and waits for all acknowledgements.
fn change(run: &Run, writer: usize, pools: &[usize], client: &mut Client) {
    let mut lines = String::new();
    for &pool in pools {
        let version = run.instances[writer][pool].begun.fetch_add(1, Ordering::SeqCst) + 1;
        lines.push_str(&request(writer, pool, version).to_string());
        lines.push('\n');
    }
    client.send_raw(lines.as_bytes()).expect("sending requests");
    for &pool in pools {
        let reply = client.receive();
        let version = run.instances[writer][pool].acknowledged.fetch_add(1, Ordering::SeqCst) + 1;
        let verb = match version % STEPS {
            1 | 4 => "registered",
            2 | 3 => "reported",
            5 => "draining",
            _ => "deregistered",
        };
        assert!(reply.get(verb).is_some(), "{} was answered {reply}", request(writer, pool, version));
        run.writes.fetch_add(1, Ordering::SeqCst);
    }
}

/// A read on another connection sees what was acknowledged on this one.
fn look_up(run: &Run, writer: usize, pool: usize, client: &mut Client) {
    let version = run.instances[writer][pool].acknowledged.load(Ordering::SeqCst);
    let reply = client.ask(&json!({"lookup": {"id": id(writer), "service": service(pool)}}));
    run.answers.fetch_add(1, Ordering::SeqCst);
    if reply.get("found").is_some() != is_registered(version) {
        run.complain(format!("lookup after change {version}: {reply}"));
    }
}

fn read(server: &Server, run: &Run, mut draws: Draws) {
    let mut resolver = server.resolver();
    while !run.done.load(Ordering::SeqCst) {
        let pool = draws.below(POOLS);
        let name = srv(&service(pool));
        let progress = |of: fn(&Progress) -> &AtomicU64| -> Vec<u64> {
            run.instances.iter().map(|pools| of(&pools[pool]).load(Ordering::SeqCst)).collect()
        };
        let acknowledged = progress(|instance| &instance.acknowledged);
        let reply = match draws.below(2) {
            0 => resolver.udp_edns(&name, RecordType::SRV, UDP_OCTETS),
            _ => resolver.tcp(&name, RecordType::SRV),
        };
        let begun = progress(|instance| &instance.begun);
        run.answers.fetch_add(1, Ordering::SeqCst);
        let found = ports(&reply);
        for (writer, (&first, &last)) in acknowledged.iter().zip(&begun).enumerate() {
            let port = found.get(&id(writer)).copied();
            if !(first..=last).any(|version| visible(version) == port) {
                run.complain(format!("a reader saw {port:?} of {}, changes {first} to {last}", id(writer)));
            }
        }
    }
}

/// What UDP and TCP say of a service now, by instance.
fn ask_both(run: &Run, resolver: &mut Resolver, pool: usize) -> [(&'static str, BTreeMap<String, u16>); 2] {
    run.answers.fetch_add(2, Ordering::SeqCst);
    let name = srv(&service(pool));
    [
        ("udp", ports(&resolver.udp_edns(&name, RecordType::SRV, UDP_OCTETS))),
        ("tcp", ports(&resolver.tcp(&name, RecordType::SRV))),
    ]
}

/// Instances that are not in the end what their last acknowledged change made them; and the revision.
fn count_lost(server: &Server, run: &Run) -> (u64, u64) {
    let mut client = server.client();
    let listed: BTreeMap<(String, String), u64> = client
        .list()
        .into_iter()
        .map(|instance| {
            let text = |field: &str| instance[field].as_str().expect("a text").to_owned();
            ((text("service"), text("id")), instance["port"].as_u64().expect("a port"))
        })
        .collect();
    let mut lost = 0;
    for writer in 0..WRITERS {
        for pool in 0..POOLS {
            let version = run.instances[writer][pool].acknowledged.load(Ordering::SeqCst);
            // The port of the last registration, which reports and drains keep.
            let expected = is_registered(version).then(|| match version % STEPS {
                registered @ 1..=3 => u64::from(port(version - registered + 1)),
                registered => u64::from(port(version - registered + 4)),
            });
            if listed.get(&(service(pool), id(writer))).copied() != expected {
                lost += 1;
            }
        }
    }
    let status = client.done("status", &json!({"status": {}}));
    (lost, status["revision"].as_u64().expect("a revision"))
}

impl Run {
    fn complain(&self, text: String) {
        const SHOWN_MAX: usize = 10;
        self.stale.fetch_add(1, Ordering::SeqCst);
        let mut complaints = self.complaints.lock().expect("no thread failed");
        if complaints.len() < SHOWN_MAX {
            complaints.push(text);
        }
    }
}
