//! Our answers beside those of Knot DNS, NSD and BIND, which serve the same names from zone files.
//!
//! Needs: knot nsd bind9 bind9-dnsutils bind9-utils knot-dnssecutils
//!
//! A registry is drawn from a seed and registered in a running server. From what the server lists of it, and from
//! nothing that it answers, `oracle/zone.rs` writes the zones as docs/names.md says that they are; Knot and NSD serve them. Then
//! all three are asked the same valid queries, and what comes back is compared section by section. What may
//! differ is a closed list, [`compare::Listed`], and is counted; everything else fails the test.
//!
//! Static zones are drawn too (`oracle/drawn.rs`), and served by all four from the same files. Where Knot, NSD and BIND say the same
//! of a question, so do we (`oracle/agreement.rs`). What we hand out of such a zone, named-checkzone and kzonecheck read as they
//! read the file.
//!
//! `CALLSIGN_QUERIES` says how many queries (`tests/long/oracle.sh` asks a million of the live zone,
//! `tests/long/zones.sh` as many of static ones), `CALLSIGN_SEED` which.

#[path = "oracle/agreement.rs"]
mod agreement;
#[path = "oracle/compare.rs"]
mod compare;
#[path = "oracle/drawn.rs"]
mod drawn;
mod harness;
#[path = "oracle/judges.rs"]
mod judges;
#[path = "oracle/queries.rs"]
mod queries;
#[path = "oracle/registry.rs"]
mod registry;
#[path = "oracle/zone.rs"]
mod zone;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use harness::program::needs;
use harness::{Draws, Server, now, seed};
use hickory_proto::rr::{RData, RecordType};

use agreement::Agreement;
use compare::{Comparison, Listed};
use drawn::{Group, QUESTIONS};
use judges::{File, Judge, Line};
use queries::{Queries, Query};

/// Queries where nobody says how many.
const QUERIES: usize = 20_000;
/// Queries on their way at once: what fits the receive buffer of a socket.
const WINDOW: usize = 64;
/// Differences that a failure shows; one mistake makes thousands.
const SHOWN_MAX: usize = 10;

#[test]
fn knot_and_nsd_answer_the_same() {
    let seed = seed();
    let queries = queries(QUERIES);
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
    let files: Vec<File> =
        zones.iter().map(|zone| File { apex: zone.apex.clone(), text: zone.text() }).collect();
    let judges = [Judge::knot(&files), Judge::nsd(&files)];
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

/// Questions about static zones where nobody says how many.
const STATIC_QUERIES: usize = 12_000;
/// Groups of zones that the servers hold at a time.
const GROUPS: usize = 100;

#[test]
fn knot_nsd_and_bind_answer_static_zones_the_same() {
    let seed = seed();
    let queries = queries(STATIC_QUERIES);
    println!("zones: seed {seed}");
    let mut draws = Draws(seed);
    let started = now();
    let mut agreement = Agreement::default();
    let (mut asked, mut zones) = (0, 0);
    while asked < queries {
        let groups: Vec<Group> = (0..GROUPS).map(|number| Group::draw(number, &mut draws)).collect();
        let files: Vec<File> = groups.iter().flat_map(|group| group.files(&mut draws)).collect();
        zones += files.len();
        let judges = [Judge::knot(&files), Judge::nsd(&files), Judge::bind(&files)];
        let directory = judges::write(&files);
        let server =
            Server::start(&["--store", "memory", "--zones", directory.path().to_str().expect("a path")]);
        let mut ours = Line::new(server.dns[0]);
        let mut lines = judges.each_ref().map(|judge| Line::new(judge.address));
        for group in &groups {
            let apexes = group.apexes();
            let window: Vec<Query> = (0..QUESTIONS).map(|id| group.question(id as u16, &mut draws)).collect();
            asked += window.len();
            let replies = ours.exchange(&window);
            let said = lines.each_mut().map(|line| line.exchange(&window));
            for (at, (query, reply)) in window.iter().zip(&replies).enumerate() {
                let said = [0, 1, 2].map(|judge| (judges[judge].name, &said[judge][at]));
                agreement.add(&apexes, query, reply, said);
            }
        }
    }
    println!("zones: {:#?}, the three differ in {:?}", agreement.kinds, agreement.differ);
    println!(
        "zones: seed={seed} queries={asked} zones={zones} agreed={} differ={} cut={} unexplained={} seconds={:.1}",
        agreement.agreed,
        agreement.differ.values().sum::<u64>(),
        agreement.cut,
        agreement.unexplained.len(),
        started.elapsed().as_secs_f64()
    );
    for kind in agreement::KINDS {
        assert!(agreement.kinds.contains_key(kind), "seed {seed}: no question was about {kind}");
    }
    let shown: Vec<&str> = agreement.unexplained.iter().take(SHOWN_MAX).map(String::as_str).collect();
    assert!(
        shown.is_empty(),
        "{} differences, seed {seed}:\n{}",
        agreement.unexplained.len(),
        shown.join("\n")
    );
}

/// Groups whose zones are handed out and read by others.
const DUMPED_GROUPS: usize = 20;

#[test]
fn dumps_of_static_zones_are_taken_as_their_files() {
    let seed = seed();
    println!("dumps: seed {seed}");
    let mut draws = Draws(seed);
    let groups: Vec<Group> = (0..DUMPED_GROUPS).map(|number| Group::draw(number, &mut draws)).collect();
    let files: Vec<File> = groups.iter().flat_map(|group| group.files(&mut draws)).collect();
    let directory = judges::write(&files);
    let zones = directory.path().to_str().expect("a path");
    let server = Server::start(&["--store", "memory", "--zones", zones, "--transfer-allow", "127.0.0.1"]);
    let dig = needs("dig", "bind9-dnsutils");
    let (checkzone, kzonecheck) =
        (needs("named-checkzone", "bind9-utils"), needs("kzonecheck", "knot-dnssecutils"));
    let port = server.dns[0].port().to_string();
    let mut content = 0;
    for File { apex, .. } in &files {
        let file = directory.path().join(format!("{apex}.zone"));
        let dump = directory.path().join(format!("{apex}.dump"));
        let words = ["@127.0.0.1", "-p", &port, "+noall", "+answer", "+onesoa", apex, "AXFR"];
        std::fs::write(&dump, run(&dig, &words).1).expect("writing a dump");
        let paths = [&file, &dump].map(|path| path.to_str().expect("a path"));
        let read = paths.map(|path| {
            let words = ["-i", "none", "-k", "ignore", "-q", "-D", "-o", "-", apex, path];
            let (taken, text) = run(&checkzone, &words);
            assert!(taken, "named-checkzone refuses {path}, seed {seed}");
            // Names in the case of their first record, which is another one in a dump.
            let lines =
                text.lines().map(|line| line.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" "));
            lines.collect::<BTreeSet<String>>()
        });
        assert!(read[0].len() > 1, "named-checkzone shows {apex}");
        assert_eq!(read[0], read[1], "named-checkzone, {apex}, seed {seed}");
        // It takes no zone without glue, which all servers serve.
        let taken = paths.map(|path| run(&kzonecheck, &["-o", apex, path]).0);
        assert_eq!(taken[0], taken[1], "kzonecheck, {apex}, seed {seed}");
        content += usize::from(taken[0]);
    }
    assert!(content > 0, "kzonecheck is content with no zone at all");
    println!("dumps: seed={seed} zones={} kzonecheck={content}", files.len());
}

/// True where a program is content, and what it says to its standard output.
fn run(program: &Path, words: &[&str]) -> (bool, String) {
    let output = Command::new(program).args(words).output().expect("starting a program");
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// How many queries are asked.
fn queries(otherwise: usize) -> usize {
    match std::env::var("CALLSIGN_QUERIES") {
        Ok(text) => text.parse().expect("CALLSIGN_QUERIES is a number"),
        Err(_) => otherwise,
    }
}

/// The SOA's serial, which no list shows.
fn serial(server: &Server) -> u32 {
    let reply = server.resolver().udp(&format!("{}.", zone::DOMAINS[0]), RecordType::SOA);
    match reply.answers.first().map(|record| &record.data) {
        Some(RData::SOA(soa)) => soa.serial,
        other => panic!("no SOA but {other:?}"),
    }
}
