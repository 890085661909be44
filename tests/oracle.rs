//! Our answers beside those of Knot DNS and NSD, which serve the same names from zone files.
//!
//! Needs: knot nsd
//!
//! A registry is drawn from a seed and registered in a running server. From what the server lists of it, and from
//! nothing that it answers, `oracle/zone.rs` writes the zones as DESIGN says that they are; Knot and NSD serve them. Then
//! all three are asked the same valid queries, and what comes back is compared section by section. What may
//! differ is a closed list, [`compare::Listed`], and is counted; everything else fails the test.
//!
//! `CALLSIGN_QUERIES` says how many queries (`tests/long/oracle.sh` asks a million), `CALLSIGN_SEED` which.

#[path = "oracle/compare.rs"]
mod compare;
mod harness;
#[path = "oracle/judges.rs"]
mod judges;
#[path = "oracle/queries.rs"]
mod queries;
#[path = "oracle/registry.rs"]
mod registry;
#[path = "oracle/zone.rs"]
mod zone;

use std::collections::BTreeMap;

use harness::{Draws, Server, now, seed};
use hickory_proto::rr::{RData, RecordType};

use compare::{Comparison, Listed};
use judges::{Judge, Line};
use queries::Queries;

/// Queries where nobody says how many.
const QUERIES: usize = 20_000;
/// Queries on their way at once: what fits the receive buffer of a socket.
const WINDOW: usize = 64;
/// Differences that a failure shows; one mistake makes thousands.
const SHOWN_MAX: usize = 10;

#[test]
fn knot_and_nsd_answer_the_same() {
    let seed = seed();
    let queries = match std::env::var("CALLSIGN_QUERIES") {
        Ok(text) => text.parse().expect("CALLSIGN_QUERIES is a number"),
        Err(_) => QUERIES,
    };
    println!("oracle: seed {seed}");
    let mut draws = Draws(seed);
    let tree = tempfile::tempdir().expect("a directory for the record tree");
    std::fs::write(tree.path().join(format!("{}.zone", zone::DOMAINS[0])), zone::tree())
        .expect("writing the record tree");
    let mut flags =
        vec!["--store", "memory", "--known-for", "24h", "--zones", tree.path().to_str().expect("a path")];
    flags.extend(zone::DOMAINS.iter().flat_map(|domain| ["--domain", domain]));
    flags.extend(zone::NETWORKS.iter().flat_map(|network| ["--reverse", network]));
    let server = Server::start(&flags);
    let drawn = registry::register(&server, &mut draws);
    let zones = zone::zones(&drawn, &server.client().list(), serial(&server));
    let judges = [Judge::knot(&zones), Judge::nsd(&zones)];
    let mut questions = Queries::new(&zones, draws);
    println!("oracle: {} pairs of name and type in {} zones", questions.pairs(), zones.len());

    let started = now();
    let mut ours = Line::new(server.dns[0]);
    let mut lines = judges.each_ref().map(|judge| Line::new(judge.address));
    let mut comparison = Comparison::new(&zones);
    let mut asked = 0;
    while asked < queries {
        let window = questions.next_window(WINDOW.min(queries - asked));
        asked += window.len();
        let replies = ours.exchange(&window);
        for (judge, line) in judges.iter().zip(&mut lines) {
            for ((query, reply), said) in window.iter().zip(&replies).zip(line.exchange(&window)) {
                comparison.add(judge.name, query, reply, &said);
            }
        }
    }
    let counts: BTreeMap<&str, u64> =
        Listed::ALL.iter().map(|listed| (listed.word(), comparison.count(*listed))).collect();
    let counts: Vec<String> = counts.iter().map(|(word, count)| format!("{word}={count}")).collect();
    println!(
        "oracle: seed={seed} queries={asked} replies={} same={} {} unexplained={} seconds={:.1}",
        asked * judges.len(),
        comparison.same,
        counts.join(" "),
        comparison.unexplained.len(),
        started.elapsed().as_secs_f64()
    );
    let shown: Vec<&str> = comparison.unexplained.iter().take(SHOWN_MAX).map(String::as_str).collect();
    assert!(
        shown.is_empty(),
        "{} differences, seed {seed}:\n{}",
        comparison.unexplained.len(),
        shown.join("\n")
    );
}

/// The SOA's serial, which no list shows.
fn serial(server: &Server) -> u32 {
    let reply = server.resolver().udp(&format!("{}.", zone::DOMAINS[0]), RecordType::SOA);
    match reply.answers.first().map(|record| &record.data) {
        Some(RData::SOA(soa)) => soa.serial,
        other => panic!("no SOA but {other:?}"),
    }
}
