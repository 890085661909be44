//! The wire, rule by rule: what has to come back for every kind of query, and that it does.
//!
//! The rules are rows of a text, `wire/rows.txt`, which needs no Rust to be read. Each row is asked of the
//! acceptance function in-process, of our own UDP and TCP loops on real sockets, of TLS, HTTPS and QUIC
//! (`wire/encrypted.rs`), and of a stock hickory server that our handler is mounted in. Every reply is read twice, by a strict reader of the tests' own
//! (`wire/judge.rs`) and by hickory-proto.
//!
//! Where the stock server differs, `stock.txt` says in what and why; a row that it begins to pass fails
//! here, as does one that it newly fails. What one question and one reply cannot show is in `wire/sizes.rs`,
//! `signed.rs`, `stream.rs`, `datagram.rs`, `changes.rs`, `cookies.rs`, `limits.rs`, `fuzz.rs` and `framing.rs`; `plain.rs` compares the two ways to a reply.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use callsign::answer::Over;
use callsign::dns::wire::{Arrival, Policy, accept};
use callsign::view::View;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use fixture::{DEADLINE, Servers};
use judge::{Fault, Read, fault, judge};
use query::{Echo, Expected, Reply, Row};

#[path = "wire/changes.rs"]
mod changes;
#[path = "wire/cookies.rs"]
mod cookies;
#[path = "wire/datagram.rs"]
mod datagram;
#[path = "wire/encrypted.rs"]
mod encrypted;
#[path = "wire/fixture.rs"]
mod fixture;
#[path = "wire/framing.rs"]
mod framing;
#[path = "wire/fuzz.rs"]
mod fuzz;
#[path = "wire/judge.rs"]
mod judge;
#[path = "wire/limits.rs"]
mod limits;
#[path = "wire/plain.rs"]
mod plain;
#[path = "wire/query.rs"]
mod query;
#[path = "wire/shares.rs"]
mod shares;
#[path = "wire/signed.rs"]
mod signed;
#[path = "wire/sizes.rs"]
mod sizes;
#[path = "wire/stream.rs"]
mod stream;
#[allow(dead_code, reason = "other tests use the rest")]
#[path = "harness/tls.rs"]
mod tls;

const ROWS: &str = include_str!("wire/rows.txt");
const STOCK: &str = include_str!("stock.txt");

/// The most octets of a datagram, under `Policy::default()`.
const UDP_OCTETS_MAX: usize = 1232;

/// Every rule of `wire/rows.txt`.
const RULES: &str = "A-01 A-02 A-04 A-05 A-06 A-07 A-08 A-09 A-10 A-11 A-12 A-13 A-14 A-15 A-16 A-17 A-18 A-19 A-20 \
    A-21 A-22 A-23 A-24 A-25 A-26 A-27 A-28 A-29 A-30 A-31 A-33 A-34 A-35 A-36 A-37 A-38 A-39 A-40 A-41 A-42 A-43 A-44 A-45 A-46 \
    S-01 S-02 S-03 S-04 S-05 S-06 S-07 S-08 S-09 S-10 S-11 S-12 S-13 S-14 S-15 \
    C-01 C-02 C-03 C-04 C-05 C-06 C-07 C-08 C-09 C-10 C-11 C-12 C-13 W-01 W-02 W-03 W-04 W-05 W-06 W-07 N-01 N-02 N-03 N-04 N-05 N-06 \
    Z-01 Z-02 Z-03 Z-04 Z-05 Z-06 Z-07 \
    E-01 E-02 E-03 E-04 E-05 E-06 E-07 E-08 E-09 E-10 E-11 E-12 E-13 E-14 E-15 E-16 E-17 E-18 E-19 E-20 E-21 \
    L-01 L-02 L-04 L-05 L-06 L-08 R-01 R-10 R-11 R-12 R-13 R-14 \
    T-01 T-02 T-03 T-04 T-05 T-07 T-08 T-09 T-10 T-11 T-12 T-13 T-16 T-20 T-21 T-22 U-01 \
    SD-01 SD-02 SD-03 SD-04 SD-05 SD-06 SD-07 SD-08 SD-09 B-01 B-02 B-03 B-04 P-01 P-02 P-03 P-04 P-05 \
    K-01 K-02 K-03 K-04 K-05 K-06 \
    D-01 D-02 D-03 D-04 D-05 D-06 D-07 \
    G-01 G-02 G-03 G-04 G-05 G-06 G-07 G-08 G-09 G-10 G-11 G-12 G-13 Y-20 Y-21 Y-22 Y-23 Y-24 Y-25";

#[test]
fn every_rule_has_a_row_or_a_test() {
    let (rows, elsewhere) = query::read(ROWS);
    let sources = [
        include_str!("../src/dns/cookie.rs"),
        include_str!("../src/dns/encode.rs"),
        include_str!("../src/zone/tests.rs"),
        include_str!("../src/zone_file/advice.rs"),
        include_str!("../src/zone_file/tests.rs"),
        include_str!("update.rs"),
        include_str!("wire/changes.rs"),
        include_str!("wire/cookies.rs"),
        include_str!("wire/datagram.rs"),
        include_str!("wire/encrypted.rs"),
        include_str!("wire/framing.rs"),
        include_str!("wire/fuzz.rs"),
        include_str!("wire/judge.rs"),
        include_str!("wire/limits.rs"),
        include_str!("wire/signed.rs"),
        include_str!("wire/sizes.rs"),
        include_str!("wire/stream.rs"),
        include_str!("zone_files.rs"),
        include_str!("zone_files/corpus.rs"),
    ];
    for (rule, test) in &elsewhere {
        let there = sources.iter().any(|source| source.contains(&format!("fn {test}(")));
        assert!(there, "{rule} names `{test}`, which is no test");
    }
    let mut ids: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    ids.sort_unstable();
    if let Some(pair) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
        panic!("two rows are called {}", pair[0]);
    }
    let shown: Vec<&str> = rows
        .iter()
        .map(|row| row.id.as_str())
        .chain(elsewhere.iter().map(|(rule, _)| rule.as_str()))
        .filter_map(|id| id.split(' ').next())
        .collect();
    for rule in RULES.split_whitespace() {
        assert!(shown.contains(&rule), "{rule} has neither a row nor a test");
    }
    for rule in shown {
        assert!(RULES.contains(rule), "{rule} is no rule of ours");
    }
}

// --- what came back -----------------------------------------------------------------------------------

/// What an exchange led to.
enum Outcome {
    Reply(Vec<u8>),
    Silence,
    Closed,
}

/// Everything in which `outcome` differs from the row, and from what holds for every reply.
fn differences(row: &Row, query: &[u8], over: Over, outcome: &Outcome) -> Vec<Fault> {
    match (&row.expected, outcome) {
        (Expected::Silence, Outcome::Silence) | (Expected::Closed, Outcome::Closed) => Vec::new(),
        (Expected::Reply(expected), Outcome::Reply(reply)) => {
            let (read, mut faults) = judge(query, over, UDP_OCTETS_MAX, reply);
            if let Some(read) = read {
                faults.extend(against(query, expected, &read));
            }
            faults
        }
        (_, Outcome::Reply(reply)) => vec![fault("reply", format!("one came: {}", describe(reply)))],
        (_, Outcome::Silence) => vec![fault("reply", "none came")],
        (_, Outcome::Closed) => vec![fault("reply", "the connection was closed")],
    }
}

/// What `read` has otherwise than the row says.
fn against(query: &[u8], expected: &Reply, read: &Read) -> Vec<Fault> {
    let mut faults = Vec::new();
    let rcode = match read.rcode() {
        0 => "NOERROR".to_owned(),
        1 => "FORMERR".to_owned(),
        2 => "SERVFAIL".to_owned(),
        3 => "NXDOMAIN".to_owned(),
        4 => "NOTIMP".to_owned(),
        5 => "REFUSED".to_owned(),
        6 => "YXDOMAIN".to_owned(),
        9 => "NOTAUTH".to_owned(),
        16 => "BADVERS".to_owned(),
        23 => "BADCOOKIE".to_owned(),
        number => format!("RCODE{number}"),
    };
    if rcode != expected.rcode {
        faults.push(fault("rcode", format!("{rcode}, not {}", expected.rcode)));
    }
    let flags = [("aa", 0x0400), ("tc", 0x0200), ("rd", 0x0100), ("cd", 0x0010)];
    let flags: Vec<&str> =
        flags.iter().filter(|(_, bit)| read.flags & bit != 0).map(|(name, _)| *name).collect();
    if flags != expected.flags {
        faults.push(fault("flags", format!("{flags:?}, not {:?}", expected.flags)));
    }
    let asked = query.get(12..12 + read.question.len());
    let echoed = match expected.echo {
        Echo::Exact => read.questions == 1 && asked == Some(&read.question),
        Echo::Absent => read.questions == 0,
        Echo::WrittenOut => read.questions == 1 && asked != Some(&read.question),
    };
    if !echoed {
        faults.push(fault("question", format!("{} {:?}", read.questions, read.question)));
    }
    if expected.opt && read.opt.is_none() {
        faults.push(fault("opt", "missing"));
    }
    if read.options() != expected.options {
        faults.push(fault("option", format!("{:?}, not {:?}", read.options(), expected.options)));
    }
    if read.ede() != expected.ede {
        faults.push(fault("ede", format!("{:?}, not {:?}", read.ede(), expected.ede)));
    }
    if let Some(octets) = expected.octets
        && octets != read.octets
    {
        faults.push(fault("octets", format!("{}, not {octets}", read.octets)));
    }
    for (section, about) in ["answer", "authority", "additional"].into_iter().enumerate() {
        let found: Vec<String> = read.sections[section].iter().map(judge::Record::line).collect();
        let ordered = expected.ordered && section == 0;
        if !same(&expected.sections[section], &found, ordered) {
            let wanted = expected.sections[section].join("\n    ");
            let what = format!("\n    {}\n  instead of\n    {wanted}", found.join("\n    "));
            faults.push(fault(about, what));
        }
    }
    faults
}

/// True where each pattern has its record, in any order unless `ordered`.
fn same(patterns: &[String], records: &[String], ordered: bool) -> bool {
    if patterns.len() != records.len() {
        return false;
    }
    if ordered {
        return patterns.iter().zip(records).all(|(pattern, record)| matches(pattern, record));
    }
    let mut left: Vec<&String> = records.iter().collect();
    // Those without a `*` choose first.
    let mut patterns: Vec<&String> = patterns.iter().collect();
    patterns.sort_by_key(|pattern| pattern.contains('*'));
    patterns.into_iter().all(|pattern| {
        let place = left.iter().position(|record| matches(pattern, record));
        place.map(|place| left.swap_remove(place)).is_some()
    })
}

/// `*` stands for anything.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((before, after)) = pattern.split_once('*') else { return pattern == text };
    let Some(rest) = text.strip_prefix(before) else { return false };
    (0..=rest.len()).any(|at| rest.is_char_boundary(at) && matches(after, &rest[at..]))
}

fn describe(reply: &[u8]) -> String {
    match judge::read(reply) {
        Ok(read) => format!("{read:?}"),
        Err(unreadable) => format!("{unreadable:?} {reply:02x?}"),
    }
}

fn transport(over: Over) -> &'static str {
    match over {
        Over::Udp => "udp",
        Over::Tcp => "tcp",
        Over::Tls => "tls",
        Over::Https => "https",
        Over::Quic => "quic",
    }
}

// --- in-process ---------------------------------------------------------------------------------------

/// The client of the rows that need no socket.
const CLIENT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 99, 0, 1)), 40_000);

fn ask_in_process(view: &View, policy: &Policy, query: &[u8], over: Over) -> Outcome {
    let arrival = Arrival { client: CLIENT, over, draw: 1 };
    match accept(view, policy, &arrival, query) {
        Some(reply) => Outcome::Reply(reply),
        None => Outcome::Silence,
    }
}

fn view_for(row: &Row, ready: &Arc<View>, unready: &Arc<View>) -> Arc<View> {
    if row.unready { unready.clone() } else { ready.clone() }
}

/// `row`'s query under an ID of its own.
fn with_id(row: &Row, id: u16) -> Vec<u8> {
    let mut query = row.query.clone();
    let octets = query.len().min(2);
    query[..octets].copy_from_slice(&id.to_be_bytes()[..octets]);
    query
}

#[test]
fn the_acceptance_function_passes_every_row() {
    let (ready, unready) = (fixture::fixture(), fixture::services().view);
    let (rows, _) = query::read(ROWS);
    let mut wrong = String::new();
    for row in &rows {
        // That a message is too short is for the stream to say, not for the function.
        for over in row.over.iter().filter(|_| !matches!(row.expected, Expected::Closed)) {
            let query = with_id(row, 0x1dea);
            let policy = fixture::policy(row.named);
            let outcome = ask_in_process(&view_for(row, &ready, &unready), &policy, &query, *over);
            for fault in differences(row, &query, *over, &outcome) {
                wrong += &report(row, *over, &fault);
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

fn report(row: &Row, over: Over, fault: &Fault) -> String {
    format!("{} (line {}) {}: {}: {}\n", row.id, row.line, transport(over), fault.about, fault.what)
}

// --- over sockets -------------------------------------------------------------------------------------

/// A query whose reply shows that what was sent before it has been dealt with: of type ANY, which no worker answers by itself,
/// so that it overtakes nothing.
const SENTINEL_ID: u16 = 0xfade;

fn sentinel() -> Vec<u8> {
    let mut query = SENTINEL_ID.to_be_bytes().to_vec();
    query.extend(query::octets_of(0, "0000 0001 0000 0000 0000 03\"www\"04\"corp\"04\"test\"00 00ff 0001"));
    query
}

fn id_of(message: &[u8]) -> Option<u16> {
    message.first_chunk().map(|octets| u16::from_be_bytes(*octets))
}

/// Asks one server over one transport, a sentinel behind each message.
async fn ask(servers: &Servers, query: &[u8], over: Over) -> Outcome {
    let asked = async {
        match over {
            Over::Udp => ask_udp(servers.udp, query).await,
            Over::Tcp => ask_tcp(servers.tcp, query).await,
            Over::Tls | Over::Https | Over::Quic => panic!("`encrypted` asks those"),
        }
    };
    timeout(DEADLINE, asked).await.expect("an outcome within the deadline")
}

async fn ask_udp(server: SocketAddr, query: &[u8]) -> Outcome {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server).await.unwrap();
    socket.send(query).await.unwrap();
    // Two: a server with a task for each datagram may answer the first one too early.
    let mut buffer = vec![0; 65_535];
    for _ in 0..2 {
        socket.send(&sentinel()).await.unwrap();
        let octets = socket.recv(&mut buffer).await.unwrap();
        if id_of(&buffer[..octets]) != Some(SENTINEL_ID) {
            return Outcome::Reply(buffer[..octets].to_vec());
        }
    }
    Outcome::Silence
}

async fn ask_tcp(server: SocketAddr, query: &[u8]) -> Outcome {
    ask_stream(TcpStream::connect(server).await.unwrap(), query).await
}

async fn ask_stream(mut connection: impl AsyncRead + AsyncWrite + Unpin, query: &[u8]) -> Outcome {
    let mut octets = Vec::new();
    for message in [query, &sentinel()] {
        octets.extend((message.len() as u16).to_be_bytes());
        octets.extend(message);
    }
    // The server may close before everything is written: what it said is what counts.
    drop(connection.write_all(&octets).await);
    match stream::reply(&mut connection).await {
        None => Outcome::Closed,
        Some(reply) if id_of(&reply) == Some(SENTINEL_ID) => Outcome::Silence,
        Some(reply) => Outcome::Reply(reply),
    }
}

#[tokio::test]
async fn our_loops_pass_every_row() {
    let (rows, _) = query::read(ROWS);
    let found = over_sockets(&rows, async |view, policy| Servers::ours(view, policy).await).await;
    let wrong: String = found.iter().map(|(row, over, fault)| report(row, *over, fault)).collect();
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// Every difference of every row, asked of servers that `start` makes.
async fn over_sockets(
    rows: &[Row],
    start: impl AsyncFn(&Arc<View>, Policy) -> Servers,
) -> Vec<(&Row, Over, Fault)> {
    let view = fixture::fixture();
    let ready = start(&view, fixture::policy(false)).await;
    let named = start(&view, fixture::policy(true)).await;
    let unready = start(&fixture::services().view, fixture::policy(false)).await;
    let mut found = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        for over in row.over {
            let query = with_id(row, number as u16);
            let servers = match (row.unready, row.named) {
                (true, _) => &unready,
                (_, true) => &named,
                _ => &ready,
            };
            let outcome = ask(servers, &query, *over).await;
            let faults = differences(row, &query, *over, &outcome);
            found.extend(faults.into_iter().map(|fault| (row, *over, fault)));
        }
    }
    found
}

/// What stock hickory does otherwise, line by line as `stock.txt` has it: row, transport, and in what.
#[tokio::test]
async fn stock_hickory_differs_as_listed() {
    let (rows, _) = query::read(ROWS);
    let found = over_sockets(&rows, async |view, policy| Servers::stock(view, policy).await).await;
    let mut differs: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (row, over, fault) in &found {
        let about = differs.entry(format!("{} | {}", row.id, transport(*over))).or_default();
        if !about.contains(&fault.about) {
            about.push(fault.about);
        }
    }
    let differs: BTreeMap<String, String> =
        differs.into_iter().map(|(place, about)| (place, about.join(" "))).collect();
    let mut listed: BTreeMap<String, String> = BTreeMap::new();
    for line in STOCK.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let mut parts = line.split('|').map(str::trim);
        let (Some(id), Some(transports), Some(about), Some(reason)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            panic!("stock.txt: row, transports, what differs, why: {line}")
        };
        assert!(!reason.is_empty(), "stock.txt: {line} says no reason");
        for transport in transports.split(' ') {
            let before = listed.insert(format!("{id} | {transport}"), about.to_owned());
            assert_eq!(before, None, "stock.txt: {id} twice");
        }
    }
    let mut wrong = String::new();
    for (place, about) in &differs {
        match listed.get(place) {
            None => wrong += &format!("{place} | {about} | differs, and is not listed\n"),
            Some(known) if known != about => wrong += &format!("{place} | {about} | listed as {known}\n"),
            Some(_) => {}
        }
    }
    for place in listed.keys().filter(|place| !differs.contains_key(*place)) {
        wrong += &format!("{place}: stock passes it now; take it off the list\n");
    }
    let details: String = found
        .iter()
        .filter(|(row, over, _)| wrong.contains(&format!("{} | {}", row.id, transport(*over))))
        .map(|(row, over, fault)| report(row, *over, fault))
        .collect();
    assert!(wrong.is_empty(), "\n{wrong}\n{details}");
}
