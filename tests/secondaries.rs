//! Knot DNS, NSD and BIND as secondaries of the live zone and of a static one, as `docs/transfers.md` configures them.
//!
//! Needs: knot nsd bind9
//!
//! A registry changes; all three are told, fetch what changed, and serve it. They and we are killed and started again on
//! the way. At the end each has the zone that we have, and none was sent a whole zone in the place of a difference. The file of
//! a static zone is edited, and the same holds.
//!
//! `CALLSIGN_CHANGES` says how many changes (`tests/long/secondaries.sh` makes ten thousand), `CALLSIGN_SEED` which.

mod harness;
#[path = "transfers/life.rs"]
mod life;
#[path = "transfers/secondary.rs"]
mod secondary;

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use harness::program::{Program, free_ports, needs};
use harness::{DEADLINE, Server, dns, eventually, now, seed};
use hickory_proto::rr::{RData, RecordType};
use nix::sys::signal::Signal;

use life::Life;
use secondary::{Line, Secondary, transfer};

const APEX: &str = "service.local.";
const SECRET: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
/// Changes where nobody says how many.
const CHANGES: usize = 300;
/// Changes between two looks at what the secondaries have.
const STEP: usize = 20;

struct Follower {
    name: &'static str,
    /// The zone that it follows, with its dot.
    apex: &'static str,
    address: SocketAddr,
    binary: PathBuf,
    words: Vec<String>,
    program: Option<Program>,
    starts: usize,
    _directory: tempfile::TempDir,
}

impl Follower {
    fn new(
        (name, apex): (&'static str, &'static str),
        binary: PathBuf,
        port: u16,
        configure: impl Fn(&Path) -> (String, Vec<String>),
    ) -> Self {
        let directory = tempfile::tempdir().expect("a directory for a secondary");
        let (text, words) = configure(directory.path());
        std::fs::write(directory.path().join("conf"), text).expect("writing the configuration");
        let address = (Ipv4Addr::LOCALHOST, port).into();
        Self { name, apex, address, binary, words, program: None, starts: 0, _directory: directory }
    }

    /// Ends it as a crash would where it runs, and starts it.
    fn start(&mut self) {
        self.program = None;
        // NSD's children hold its sockets for a moment longer.
        let what = format!("the port of the {} that was killed", self.name);
        eventually(&what, DEADLINE, || {
            UdpSocket::bind(self.address).ok()?;
            TcpListener::bind(self.address).ok()
        });
        let directory = tempfile::tempdir().expect("a directory for what it says");
        self.program = Some(Program::start(&self.binary, directory, &self.words));
        self.starts += 1;
    }

    fn serial(&mut self) -> Option<u32> {
        self.program.as_mut().expect("it runs").must_run();
        let query = dns::query(7, self.apex, RecordType::SOA, None).to_vec().expect("a query");
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.connect(self.address).expect("a route to loopback");
        socket.set_read_timeout(Some(Duration::from_millis(500))).expect("an option of a socket of ours");
        socket.send(&query).ok()?;
        let mut buffer = [0; 1500];
        let octets = socket.recv(&mut buffer).ok()?;
        match dns::read(&buffer[..octets]).answers.first().map(|record| &record.data) {
            Some(RData::SOA(soa)) => Some(soa.serial),
            _ => None,
        }
    }

    /// Waits until it has this serial, or a later one: time changes the zone too.
    fn reach(&mut self, serial: u32) {
        let begun = now();
        while self.serial().is_none_or(|has| has.wrapping_sub(serial) > u32::MAX / 2) {
            let said = self.program.as_ref().map(Program::said).unwrap_or_default();
            assert!(
                begun.elapsed() < DEADLINE,
                "{} at serial {serial}: not in time; it said\n{said}",
                self.name
            );
            harness::pause();
        }
    }
}

fn followers(apex: &'static str, primary: u16, ports: [u16; 3]) -> [Follower; 3] {
    let [knot, nsd, bind] = ports;
    let zone = apex.trim_end_matches('.');
    let knot = Follower::new(("Knot", apex), needs("knotd", "knot"), knot, |path| {
        let text = format!(
            "server:\n  rundir: {path}\n  listen: 127.0.0.1@{knot}\ndatabase:\n  storage: {path}\nlog:\n  - target: stderr\n    any: info\n\
             key:\n  - id: secondaries\n    algorithm: hmac-sha256\n    secret: {SECRET}\n\
             remote:\n  - id: callsign\n    address: 127.0.0.1@{primary}\n    key: secondaries\n\
             acl:\n  - id: told\n    address: 127.0.0.1\n    key: secondaries\n    action: notify\n  - id: here\n    address: 127.0.0.1\n    action: transfer\n\
             zone:\n  - domain: {zone}\n    storage: {path}\n    master: callsign\n    acl: [told, here]\n    zonefile-sync: -1\n    zonefile-load: none\n    journal-content: all\n",
            path = path.display()
        );
        (text, vec!["-c".into(), path.join("conf").display().to_string()])
    });
    let nsd = Follower::new(("NSD", apex), needs("nsd", "nsd"), nsd, |path| {
        let text = format!(
            "server:\n  ip-address: 127.0.0.1@{nsd}\n  username: \"\"\n  chroot: \"\"\n  zonesdir: \"{path}\"\n  pidfile: \"\"\n  database: \"\"\n  \
             zonelistfile: \"{path}/zone.list\"\n  xfrdfile: \"{path}/xfrd.state\"\n  xfrdir: \"{path}\"\n  server-count: 1\n  rrl-ratelimit: 0\n  verbosity: 2\n\
             remote-control:\n  control-enable: no\n\
             key:\n  name: \"secondaries\"\n  algorithm: hmac-sha256\n  secret: \"{SECRET}\"\n\
             zone:\n  name: \"{zone}\"\n  zonefile: \"{zone}.zone\"\n  request-xfr: 127.0.0.1@{primary} secondaries\n  \
             allow-notify: 127.0.0.1 secondaries\n  provide-xfr: 127.0.0.1 NOKEY\n",
            path = path.display()
        );
        (text, vec!["-d".into(), "-c".into(), path.join("conf").display().to_string()])
    });
    let bind = Follower::new(("BIND", apex), needs("named", "bind9"), bind, |path| {
        let text = format!(
            "options {{ directory \"{path}\"; listen-on port {bind} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; pid-file none; session-keyfile none; \
             recursion no; dnssec-validation no; notify no; allow-transfer {{ 127.0.0.1; }}; max-records-per-type 0; max-types-per-name 0; }};\n\
             controls {{ }};\nkey \"secondaries\" {{ algorithm hmac-sha256; secret \"{SECRET}\"; }};\n\
             zone \"{zone}\" {{ type secondary; file \"{zone}.db\"; primaries {{ 127.0.0.1 port {primary} key secondaries; }}; }};\n",
            path = path.display()
        );
        (
            text,
            vec!["-g".into(), "-n".into(), "1".into(), "-c".into(), path.join("conf").display().to_string()],
        )
    });
    [knot, nsd, bind]
}

/// The transfers that a server counts, of one kind.
fn counted(server: &Server, kind: &str) -> u64 {
    let page = server.http().get("/metrics");
    let start = format!("callsign_transfers_total{{kind=\"{kind}\"}} ");
    let count = page.text().lines().find_map(|line| line.strip_prefix(&start)?.parse().ok());
    count.unwrap_or_else(|| panic!("no {start} in {}", page.text()))
}

/// A file with the key of all secondaries.
fn key_in(directory: &Path) -> PathBuf {
    let key = directory.join("secondaries.key");
    std::fs::write(&key, format!("key \"secondaries\" {{ algorithm hmac-sha256; secret \"{SECRET}\"; }};\n"))
        .expect("a key");
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).expect("a file of ours");
    key
}

fn serial_of(server: &Server, apex: &str) -> u32 {
    match server.resolver().udp(apex, RecordType::SOA).answers.first().map(|record| &record.data) {
        Some(RData::SOA(soa)) => soa.serial,
        other => panic!("no SOA but {other:?}"),
    }
}

#[test]
fn knot_nsd_and_bind_follow() {
    let seed = seed();
    let changes = match std::env::var("CALLSIGN_CHANGES") {
        Ok(text) => text.parse().expect("CALLSIGN_CHANGES is a number"),
        Err(_) => CHANGES,
    };
    println!("secondaries: seed {seed}");
    let directory = tempfile::tempdir().expect("a directory for the registry");
    let key = key_in(directory.path());
    let [primary, knot, nsd, bind] = free_ports();
    let ports = [knot, nsd, bind];
    let told = ports.map(|port| format!("127.0.0.1:{port} key:secondaries"));
    let (dns, data) = (format!("127.0.0.1:{primary}"), directory.path().join("data").display().to_string());
    let mut flags = vec![
        "--dns",
        &dns,
        "--data",
        &data,
        "--known-for",
        "2s",
        "--tsig-keys",
        key.to_str().expect("a path"),
    ];
    flags.extend(["--transfer-allow", "127.0.0.1 key:secondaries", "--transfer-allow", "127.0.0.1"]);
    flags.extend(told.iter().flat_map(|told| ["--notify", told.as_str()]));
    let mut server = Server::start(&flags);
    let mut life = Life::new(seed);
    life.change(&server);
    let mut followers = followers(APEX, primary, ports);
    followers.iter_mut().for_each(Follower::start);
    let ([mut slowest, mut after_start], mut instead, mut full, mut incremental) =
        ([Duration::ZERO; 2], 0, 0, 0);
    let (mut done, mut just_started) = (0, true);
    while done < changes {
        for _ in 0..STEP {
            life.change(&server);
        }
        done += STEP;
        let (wanted, begun) = (serial_of(&server, APEX), now());
        for follower in &mut followers {
            follower.reach(wanted);
        }
        let took = if just_started { &mut after_start } else { &mut slowest };
        *took = (*took).max(begun.elapsed());
        just_started = false;
        let turn = done / STEP;
        if turn == (changes / STEP).div_ceil(3) {
            [instead, full, incremental] =
                ["instead", "full", "incremental"].map(|kind| counted(&server, kind));
            server.signal(Signal::SIGTERM);
            server.wait();
            server = Server::start(&flags);
            just_started = true;
        }
        if turn == (2 * changes / STEP).div_ceil(3) {
            followers.iter_mut().for_each(Follower::start);
            just_started = true;
        }
    }
    // What is remembered goes, and then nothing changes by itself but leases.
    let ours = eventually("a zone that stays", DEADLINE, || {
        let serial = serial_of(&server, APEX);
        followers.iter_mut().for_each(|follower| follower.reach(serial));
        let came = transfer(server.dns[0], APEX, None).expect("our zone");
        let zones: Vec<Secondary> = followers
            .iter()
            .map(|follower| Secondary::new(&transfer(follower.address, APEX, None).expect("its zone")))
            .collect();
        let same = came.serial() == serial && zones.iter().all(|zone| zone.serial == serial);
        same.then(|| (Secondary::new(&came), zones))
    });
    for (follower, theirs) in followers.iter().zip(&ours.1) {
        let missing: Vec<&Line> = ours.0.lines.difference(&theirs.lines).collect();
        let extra: Vec<&Line> = theirs.lines.difference(&ours.0.lines).collect();
        assert!(
            missing.is_empty() && extra.is_empty(),
            "{}, seed {seed}: missing {missing:#?}, and too much {extra:#?}",
            follower.name
        );
    }
    let starts: usize = followers.iter().map(|follower| follower.starts).sum();
    let [more_instead, more_full, more_incremental] =
        ["instead", "full", "incremental"].map(|kind| counted(&server, kind));
    // The test itself has asked for the whole zone.
    let (instead, full, incremental) =
        (instead + more_instead, full + more_full, incremental + more_incremental);
    println!(
        "secondaries: seed={seed} changes={done} records={} incremental={incremental} full={full} instead={instead} starts={starts} slowest_ms={} after_start_ms={}",
        ours.0.lines.len(),
        slowest.as_millis(),
        after_start.as_millis()
    );
    assert_eq!(instead, 0, "whole zones in the place of differences");
    assert!(incremental > 0);
}

/// Edits of the file.
const EDITS: u32 = 12;
/// Names of the zone; each edit changes some of them.
const NAMES: u32 = 200;

/// The zone after so many edits: a third of the names change with each of them, and some are not there.
fn edited(edit: u32) -> String {
    let mut text = format!(
        "$TTL 60\n@ SOA ns1 h {} 3600 600 86400 60\n@ NS ns1\nns1 A 10.0.0.1\n$ORIGIN lab\n",
        100 + edit
    );
    for name in (0..NAMES).filter(|name| !(name + edit).is_multiple_of(7)) {
        let version = (edit + name) / 3;
        text += &format!("n{name} A 10.0.{}.{}\nn{name} TXT \"{version}\"\n", name, version % 250);
    }
    text
}

#[test]
fn knot_nsd_and_bind_follow_the_file_of_a_static_zone() {
    const ZONE: &str = "corp.test.";
    let directory = tempfile::tempdir().expect("a directory for zones");
    let key = key_in(directory.path());
    let (folder, file) = (directory.path().join("zones"), directory.path().join("zones/corp.test.zone"));
    std::fs::create_dir(&folder).expect("a folder for the zone");
    std::fs::write(&file, edited(0)).expect("the zone");
    let [primary, knot, nsd, bind] = free_ports();
    let ports = [knot, nsd, bind];
    let told = ports.map(|port| format!("127.0.0.1:{port} key:secondaries"));
    let dns = format!("127.0.0.1:{primary}");
    let [folder, key] = [&folder, &key].map(|path| path.display().to_string());
    let mut flags = vec!["--dns", &dns, "--store", "memory", "--zones", &folder, "--tsig-keys", &key];
    flags.extend(["--transfer-allow", "127.0.0.1 key:secondaries", "--transfer-allow", "127.0.0.1"]);
    flags.extend(told.iter().flat_map(|told| ["--notify", told.as_str()]));
    let server = Server::start(&flags);
    let mut followers = followers(ZONE, primary, ports);
    followers.iter_mut().for_each(Follower::start);
    for edit in 0..EDITS {
        let new = directory.path().join("new");
        std::fs::write(&new, edited(edit)).expect("the zone");
        std::fs::rename(&new, &file).expect("putting it into place");
        if edit % 2 == 1 {
            server.signal(Signal::SIGHUP); // else it is found
        }
        eventually("the edit", DEADLINE, || (serial_of(&server, ZONE) == 100 + edit).then_some(()));
        // Now and then they are told of several at once.
        if edit % 3 == 0 || edit + 1 == EDITS {
            followers.iter_mut().for_each(|follower| follower.reach(100 + edit));
        }
    }
    let ours = Secondary::new(&transfer(server.dns[0], ZONE, None).expect("our zone"));
    for follower in &followers {
        let theirs = Secondary::new(&transfer(follower.address, ZONE, None).expect("its zone"));
        assert_eq!((theirs.serial, &theirs.lines), (ours.serial, &ours.lines), "{}", follower.name);
    }
    let [instead, incremental] = ["instead", "incremental"].map(|kind| counted(&server, kind));
    println!(
        "secondaries of a file: edits={EDITS} records={} incremental={incremental} instead={instead}",
        ours.lines.len()
    );
    assert_eq!(instead, 0, "whole zones in the place of differences: {}", server.stderr());
    assert!(incremental >= 3, "one at least for each");
}
