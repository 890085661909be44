//! Zone files: what is read, what is refused, and what becomes of an edit while a server serves.
//!
//! Needs: bind9-utils knot-dnssecutils

mod harness;
#[path = "transfers/secondary.rs"]
mod secondary;

#[path = "zone_files/corpus.rs"]
mod corpus;
#[path = "zone_files/fuzz.rs"]
mod fuzz;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use harness::{Client, DEADLINE, Server, eventually};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, RecordType};
use nix::sys::signal::Signal;
use secondary::{Secondary, transfer};
use serde_json::{Value, json};
use tempfile::TempDir;

const APEX: &str = "corp.test.";

/// A folder of zone files and one for the store.
struct Zones {
    directory: TempDir,
}

impl Zones {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        fs::create_dir(directory.path().join("zones")).expect("a directory in it");
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("zones").join(name)
    }

    /// As an editor does it: the file is there as a whole or not at all.
    fn write(&self, name: &str, text: &str) {
        let new = self.path(&format!(".{name}.new"));
        fs::write(&new, text).expect("writing a file");
        fs::rename(new, self.path(name)).expect("putting it into place");
    }

    fn start(&self) -> Server {
        let shown = |name: &str| self.directory.path().join(name).display().to_string();
        Server::start(&["--zones", &shown("zones"), "--data", &shown("data"), "--known-for", "1s"])
    }
}

/// corp.test with a SOA, an NS and its address, and these lines.
fn corp(serial: u32, rest: &str) -> String {
    format!("$TTL 60\n@ SOA ns1 h {serial} 3600 600 86400 60\n@ NS ns1\nns1 A 10.0.0.1\n{rest}")
}

fn address(server: &Server, name: &str) -> String {
    let reply = server.resolver().udp(name, RecordType::A);
    match reply.answers.first().map(|record| &record.data) {
        Some(RData::A(address)) => address.to_string(),
        _ => reply.metadata.response_code.to_string(),
    }
}

fn serial_of(server: &Server, apex: &str) -> u32 {
    let reply: Message = server.resolver().udp(apex, RecordType::SOA);
    secondary::serial(&reply.answers[0]).expect("a SOA")
}

/// Waits until the name has this address.
fn becomes(server: &Server, name: &str, wanted: &str) {
    eventually(&format!("{name} at {wanted}"), DEADLINE, || (address(server, name) == wanted).then_some(()));
}

/// Waits until the server's log has the words.
fn says(server: &Server, words: &str) {
    eventually(words, DEADLINE, || server.stderr().contains(words).then_some(()));
}

fn troubles(server: &Server) -> Vec<String> {
    let status = server.client().done("status", &json!({"status": {}}));
    let troubles = status["zone_troubles"].as_array().cloned().unwrap_or_default();
    troubles.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn metric(server: &Server, start: &str) -> f64 {
    let page = server.http().get("/metrics");
    let value = page.text().lines().find_map(|line| line.strip_prefix(start)?.trim().parse().ok());
    value.unwrap_or_else(|| panic!("no {start} in {}", page.text()))
}

#[test]
fn an_edit_is_taken_over_and_a_bad_one_is_not() {
    let zones = Zones::new();
    zones.write("corp.test.zone", &corp(1, "www A 10.0.0.2\n"));
    let server = zones.start();
    assert_eq!((address(&server, "www.corp.test."), troubles(&server)), ("10.0.0.2".to_owned(), vec![]));

    zones.write("corp.test.zone", &corp(2, "www A 10.0.0.3\nnew A 10.0.0.4\n"));
    becomes(&server, "www.corp.test.", "10.0.0.3");
    assert_eq!((address(&server, "new.corp.test."), serial_of(&server, APEX)), ("10.0.0.4".to_owned(), 2));
    says(&server, "the zone is read");

    zones.write("corp.test.zone", &corp(3, "www A 10.0.0.5\nwww CNAME new\nnew A 10.0.0.400\n"));
    says(&server, "corp.test.zone:7: ");
    says(&server, "; the zone stays as it was");
    eventually("the trouble in the status", DEADLINE, || (troubles(&server).len() == 1).then_some(()));
    assert!(troubles(&server)[0].contains("corp.test.zone:7: "), "{:?}", troubles(&server));
    assert_eq!((address(&server, "www.corp.test."), serial_of(&server, APEX)), ("10.0.0.3".to_owned(), 2));
    assert_eq!(metric(&server, "callsign_zone_reads_total{outcome=\"refused\"}"), 1.0);
    assert_eq!(metric(&server, "callsign_zone_reads_total{outcome=\"taken\"}"), 1.0);
    assert_eq!(metric(&server, "callsign_zone_troubles"), 1.0);

    zones.write("corp.test.zone", &corp(3, "www A 10.0.0.6\n"));
    becomes(&server, "www.corp.test.", "10.0.0.6");
    eventually("no trouble", DEADLINE, || troubles(&server).is_empty().then_some(()));
    assert_eq!(address(&server, "new.corp.test."), ResponseCode::NXDomain.to_string());

    // Half a file may be a zone too.
    let many: String = (0..20).map(|name| format!("n{name} A 10.0.0.6\n")).collect();
    zones.write("corp.test.zone", &corp(3, &format!("www A 10.0.0.8\n{many}")));
    becomes(&server, "www.corp.test.", "10.0.0.8");
    assert!(!server.stderr().contains("less than half"), "{}", server.stderr());
    zones.write("corp.test.zone", &corp(3, "www A 10.0.0.9\n"));
    says(&server, "the zone has less than half of the records that it had: is the file whole?");

    // A serial that does not rise is a mistake that only secondaries see.
    zones.write("corp.test.zone", &corp(3, "www A 10.0.0.7\n"));
    becomes(&server, "www.corp.test.", "10.0.0.7");
    says(&server, "its serial did not rise");
}

#[test]
fn a_file_that_goes_leaves_its_zone_and_a_new_one_is_served() {
    let zones = Zones::new();
    zones.write("corp.test.zone", &corp(1, "www A 10.0.0.2\n"));
    let server = zones.start();
    fs::remove_file(zones.path("corp.test.zone")).expect("removing it");
    says(&server, "the file is gone; its zone is served as it was until the next start");
    assert_eq!(address(&server, "www.corp.test."), "10.0.0.2");
    eventually("the trouble in the status", DEADLINE, || (troubles(&server).len() == 1).then_some(()));

    zones.write("other.test.zone", &corp(1, "www A 10.0.0.3\n"));
    becomes(&server, "www.other.test.", "10.0.0.3");
    // One below a live zone hides it there, and the fast path knows.
    assert_eq!(address(&server, "www.lab.service.local."), ResponseCode::NXDomain.to_string());
    zones.write("lab.service.local.zone", &corp(1, "www A 10.0.0.4\n"));
    becomes(&server, "www.lab.service.local.", "10.0.0.4");
    assert_eq!(address(&server, "www.corp.test."), "10.0.0.2", "what was published since has it too");
    // It comes back as another one.
    zones.write("corp.test.zone", &corp(2, "www A 10.0.0.5\n"));
    becomes(&server, "www.corp.test.", "10.0.0.5");
    eventually("no trouble", DEADLINE, || troubles(&server).is_empty().then_some(()));
    // A new one with a mistake is none, and takes nothing away.
    zones.write("bad.test.zone", "@ A 10.0.0.1\n");
    says(&server, "bad.test.zone:1: the file ends without a record SOA at bad.test.; there is no zone of it");
    assert_eq!(address(&server, "www.bad.test."), ResponseCode::Refused.to_string());
}

/// Names of files that are the same name of a zone.
#[test]
fn a_second_file_of_one_zone_is_refused() {
    let zones = Zones::new();
    zones.write("corp.test.zone", &corp(1, "www A 10.0.0.2\n"));
    let server = zones.start();
    zones.write("Corp.test.zone", &corp(2, "www A 10.0.0.3\n"));
    says(&server, "Corp.test.zone:1: the zone is that of ");
    says(&server, "zones/corp.test.zone already; take one of the two away; there is no zone of it");
    zones.write("corp.test..zone", &corp(3, "www A 10.0.0.4\n"));
    eventually("two troubles", DEADLINE, || (troubles(&server).len() == 2).then_some(()));
    assert_eq!((address(&server, "www.corp.test."), serial_of(&server, APEX)), ("10.0.0.2".into(), 1));
    // At the start it is refused as well.
    let shown = zones.path("").display().to_string();
    let refused = harness::callsign(&["serve", "--check-config", "--store", "memory", "--zones", &shown]);
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.contains(":1: the zone is that of "), "{}", refused.stderr);
    // The one that goes makes way for the other.
    fs::remove_file(zones.path("Corp.test.zone")).expect("removing it");
    fs::rename(zones.path("corp.test.zone"), zones.path(".old")).expect("renaming it");
    becomes(&server, "www.corp.test.", "10.0.0.4");
    eventually("no trouble", DEADLINE, || troubles(&server).is_empty().then_some(()));
    assert_eq!(serial_of(&server, APEX), 3);
    assert!(transfer(server.dns[0], APEX, Some(1)).expect("what changed").is_difference());
    zones.write("corp.test.zone", &corp(4, "www A 10.0.0.5\n"));
    says(&server, "zones/corp.test..zone already; take one of the two away");
    assert_eq!(address(&server, "www.corp.test."), "10.0.0.4");
}

#[test]
fn an_included_file_is_part_of_the_zone_and_sighup_reads_all() {
    let zones = Zones::new();
    zones.write("hosts", "www A 10.0.0.2\n");
    zones.write("corp.test.zone", &corp(1, "$INCLUDE hosts lab\n"));
    let server = zones.start();
    assert_eq!(address(&server, "www.lab.corp.test."), "10.0.0.2");
    zones.write("hosts", "www A 10.0.0.3\n");
    server.signal(Signal::SIGHUP);
    becomes(&server, "www.lab.corp.test.", "10.0.0.3");
    zones.write("hosts", "www A 10.0.0.4\n");
    becomes(&server, "www.lab.corp.test.", "10.0.0.4");
    zones.write("hosts", "www A 10.0.0\n");
    says(&server, "hosts:1: ");
    fs::remove_file(zones.path("hosts")).expect("removing it");
    says(&server, "corp.test.zone:5: including hosts: ");
    assert_eq!(address(&server, "www.lab.corp.test."), "10.0.0.4");
    // Nothing has changed since, and SIGHUP changes nothing.
    let taken = metric(&server, "callsign_zone_reads_total{outcome=\"taken\"}");
    zones.write("hosts", "www A 10.0.0.4\n");
    server.signal(Signal::SIGHUP);
    eventually("no trouble", DEADLINE, || troubles(&server).is_empty().then_some(()));
    assert_eq!(metric(&server, "callsign_zone_reads_total{outcome=\"taken\"}"), taken);
}

/// What is mended beside the zone file is seen without SIGHUP.
#[test]
fn an_included_file_that_comes_or_is_another_links_is_read() {
    let zones = Zones::new();
    let links = |target: &str| {
        symlink(target, zones.path(".hosts.new")).expect("a link");
        fs::rename(zones.path(".hosts.new"), zones.path("hosts")).expect("putting it into place");
    };
    zones.write("hosts.v1", "www A 10.0.0.2\n");
    zones.write("hosts.v2", "www A 10.0.0.3\n");
    links("hosts.v1");
    zones.write("corp.test.zone", &corp(1, "$INCLUDE hosts\n"));
    let server = zones.start();
    assert_eq!(address(&server, "www.corp.test."), "10.0.0.2");
    links("hosts.v2");
    becomes(&server, "www.corp.test.", "10.0.0.3");
    zones.write("corp.test.zone", &corp(2, "$INCLUDE hosts\n$INCLUDE more\n"));
    says(&server, "corp.test.zone:6: including more: ");
    zones.write("more", "new A 10.0.0.4\n");
    becomes(&server, "new.corp.test.", "10.0.0.4");
    eventually("no trouble", DEADLINE, || troubles(&server).is_empty().then_some(()));
}

/// A server without zone files lives on.
#[test]
fn sighup_without_zone_files_ends_nothing() {
    let server = Server::start(&["--store", "memory"]);
    server.signal(Signal::SIGHUP);
    says(&server, "there are no zone files to read again");
    assert_eq!(serial_of(&server, "service.local."), serial_of(&server, "service.local."));
}

/// Edits that are published while the zone is transferred: each transfer has one of them, whole.
#[test]
fn nobody_sees_half_an_edit() {
    const NAMES: u32 = 300;
    const EDITS: u32 = 20;
    let zones = Zones::new();
    let text = |serial: u32| {
        let names = (0..NAMES).map(|name| format!("n{name} TXT \"{serial}\"\n"));
        corp(serial, &names.collect::<String>())
    };
    zones.write("corp.test.zone", &text(1));
    let server = zones.start();
    let mut seen = BTreeSet::new();
    for serial in 2..EDITS + 2 {
        zones.write("corp.test.zone", &text(serial));
        server.signal(Signal::SIGHUP);
        eventually("the edit", DEADLINE, || {
            let came = transfer(server.dns[0], APEX, None).expect("the zone");
            let texts: BTreeSet<String> = came
                .records
                .iter()
                .filter(|record| record.record_type() == RecordType::TXT)
                .map(|record| record.data.to_string())
                .collect();
            assert_eq!(texts.len(), 1, "one edit: {texts:?}");
            assert!(
                texts.contains(&came.serial().to_string())
                    || texts.contains(&format!("\"{}\"", came.serial()))
            );
            seen.insert(came.serial());
            (came.serial() == serial).then_some(())
        });
    }
    assert!(seen.len() >= EDITS as usize, "{seen:?}");
}

#[test]
fn what_changed_is_sent_as_a_difference() {
    let zones = Zones::new();
    zones.write("corp.test.zone", &corp(1, "www A 10.0.0.2\nold A 10.0.0.2\n"));
    let server = zones.start();
    let mut secondary = Secondary::new(&transfer(server.dns[0], APEX, None).expect("the zone"));
    let edits = [
        "www A 10.0.0.3\nold A 10.0.0.2\n",
        "www 30 A 10.0.0.3\n",
        "www 30 A 10.0.0.3\nmany TXT a\nmany TXT b\n",
    ];
    for (number, rest) in edits.iter().enumerate() {
        let serial = number as u32 + 2;
        zones.write("corp.test.zone", &corp(serial, rest));
        server.signal(Signal::SIGHUP);
        eventually("the edit", DEADLINE, || (serial_of(&server, APEX) == serial).then_some(()));
        let came = eventually("a difference", DEADLINE, || {
            let came = transfer(server.dns[0], APEX, Some(serial - 1)).expect("what changed");
            came.is_difference().then_some(came)
        });
        secondary.apply(&came).expect("a difference that fits");
        let whole = Secondary::new(&transfer(server.dns[0], APEX, None).expect("the zone"));
        assert_eq!((secondary.serial, &secondary.lines), (whole.serial, &whole.lines));
    }
    // Nothing is known of a serial that we never had, nor after one that stood for two.
    let whole = |since: u32| !transfer(server.dns[0], APEX, Some(since)).expect("the zone").is_difference();
    assert!(whole(0));
    zones.write("corp.test.zone", &corp(4, "www A 10.0.0.9\n"));
    becomes(&server, "www.corp.test.", "10.0.0.9");
    zones.write("corp.test.zone", &corp(5, "www A 10.0.0.10\n"));
    becomes(&server, "www.corp.test.", "10.0.0.10");
    assert!(whole(4) && whole(3));
}

/// Names that end with the octets of an apex, though not with its labels, are no names of ours.
#[test]
fn a_target_that_ends_like_the_apex_within_a_label_is_another_servers() {
    let zones = Zones::new();
    let rest =
        "* A 10.0.0.2\nlab NS \\004corp.test.\nalias CNAME my\\004corp.test.\nother CNAME \\004corp.test.\n";
    zones.write("corp.test.zone", &corp(1, rest));
    zones.write("service.local.zone", "lab NS \\007service.local.\nalias CNAME \\007service.local.\n");
    let server = zones.start();
    for apex in ["corp.test.", "service.local."] {
        let referral = server.resolver().udp(&format!("x.lab.{apex}"), RecordType::A);
        assert_eq!((referral.authorities.len(), referral.additionals.len()), (1, 0), "{referral}");
        let alias = server.resolver().udp(&format!("alias.{apex}"), RecordType::A);
        assert_eq!(alias.answers.len(), 1, "{alias}");
    }
    let alias = server.resolver().udp("other.corp.test.", RecordType::A);
    assert_eq!(alias.answers.len(), 1, "{alias}");
    assert_eq!(address(&server, "any.corp.test."), "10.0.0.2");
}

#[test]
fn a_record_tree_changes_with_its_file_unless_it_takes_a_name() {
    let zones = Zones::new();
    zones.write("service.local.zone", "ext 60 A 10.1.0.1\n");
    let server = zones.start();
    let mut client = server.client();
    client.done(
        "registered",
        &json!({"register": {"service": "web", "id": "a", "address": "10.0.0.7", "port": 80, "lease": "1h"}}),
    );
    let before = serial_of(&server, "service.local.");
    zones.write("service.local.zone", "ext 60 A 10.1.0.2\nmore 60 A 10.1.0.3\n");
    becomes(&server, "ext.service.local.", "10.1.0.2");
    assert_eq!(address(&server, "more.service.local."), "10.1.0.3");
    let after = serial_of(&server, "service.local.");
    assert!(after > before, "secondaries of the live zone come again");
    assert!(!transfer(server.dns[0], "service.local.", Some(before)).expect("the zone").is_difference());

    // The name of a service that is registered is not taken from it.
    zones.write("service.local.zone", "ext 60 A 10.1.0.4\nweb 60 A 10.1.0.5\n");
    says(&server, "service.local.zone:2: the name is that of the service web, which is registered");
    assert_eq!(
        (address(&server, "ext.service.local."), address(&server, "web.service.local.")),
        ("10.1.0.2".into(), "10.0.0.7".into())
    );
    eventually("the trouble in the status", DEADLINE, || (troubles(&server).len() == 1).then_some(()));
    // What was read is tried again, look by look, and not read again.
    zones.write("service.local.zone", "ext 60 A 10.1.0.4\next 30 A 10.1.0.6\nweb 60 A 10.1.0.5\n");
    says(&server, "service.local.zone:3: the name is that of the service web");
    for serial in 1..4 {
        zones.write("corp.test.zone", &corp(serial, ""));
        eventually("the edit", DEADLINE, || {
            let reply = server.resolver().udp(APEX, RecordType::SOA);
            (reply.answers.first().and_then(secondary::serial) == Some(serial)).then_some(())
        });
    }
    assert_eq!(server.stderr().matches("service.local.zone:2: ").count(), 2, "{}", server.stderr());
    // When it has gone, the file is taken over, and nobody can have the name.
    client.done("deregistered", &json!({"deregister": {"service": "web", "id": "a"}}));
    becomes(&server, "web.service.local.", "10.1.0.5");
    assert_eq!(server.resolver().udp("ext.service.local.", RecordType::A).answers.len(), 2);
    let refused =
        client.ask(&json!({"register": {"service": "web", "id": "a", "address": "10.0.0.7", "port": 80}}));
    assert!(refused["error"]["message"].to_string().contains("service.local.zone:3"), "{refused}");
    eventually("no trouble", DEADLINE, || troubles(&server).is_empty().then_some(()));

    // After a restart differences go on from what was served last. That web is forgotten is a change, too.
    let forgotten = |client: &mut Client| {
        let log = client.ask(&json!({"log": {"service": "web"}}));
        (log["log"]["changes"][0]["reason"] == "forgotten").then_some(())
    };
    eventually("web forgotten", DEADLINE, || forgotten(&mut client));
    let serial = serial_of(&server, "service.local.");
    let mut server = server;
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait().code, Some(0));
    let server = zones.start();
    assert_eq!(serial_of(&server, "service.local."), serial);
}

/// A zone below a live apex hides every name there.
#[test]
fn a_zone_below_a_live_apex_hides_no_service() {
    let zones = Zones::new();
    let mut server = zones.start();
    let form = json!({"service": "web", "id": "a", "address": "10.0.0.7", "port": 80, "lease": "1h"});
    server.client().done("registered", &json!({ "register": form }));
    for apex in ["web.service.local.zone", "a.web.service.local.zone"] {
        zones.write(apex, &corp(1, "@ A 10.1.0.1\n"));
        says(
            &server,
            &format!("{apex}:2: the zone is named as the service web, which is registered, or below"),
        );
    }
    zones.write("free.service.local.zone", &corp(1, "@ A 10.1.0.2\n"));
    becomes(&server, "free.service.local.", "10.1.0.2");
    for name in ["web.service.local.", "a.web.service.local."] {
        assert_eq!(address(&server, name), "10.0.0.7");
    }
    assert_eq!(troubles(&server).len(), 2);
    // One that came while the server was down is said, and holds up no edit.
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait().code, Some(0));
    let server = zones.start();
    says(&server, "the zone web.service.local. hides names of the service web, which is registered");
    zones.write("web.service.local.zone", &corp(2, "@ A 10.1.0.3\n"));
    becomes(&server, "web.service.local.", "10.1.0.3");
    // Once the name is free, a zone that was refused is taken over as it was read.
    let form = json!({"service": "db", "id": "a", "address": "10.0.0.8", "port": 80, "lease": "1h"});
    server.client().done("registered", &json!({ "register": form }));
    zones.write("db.service.local.zone", &corp(1, "@ A 10.1.0.4\n"));
    says(&server, "db.service.local.zone:2: the zone is named as the service db");
    assert_eq!(address(&server, "db.service.local."), "10.0.0.8");
    server.client().done("deregistered", &json!({"deregister": {"service": "db", "id": "a"}}));
    becomes(&server, "db.service.local.", "10.1.0.4");
}

/// A service that was stored before a record came to have its name: it is said, and holds up no edit.
#[test]
fn a_name_that_two_have_holds_up_no_other_file() {
    let zones = Zones::new();
    zones.write("corp.test.zone", &corp(1, "www A 10.0.0.2\n"));
    let mut server = zones.start();
    let form = json!({"service": "web", "id": "a", "address": "10.0.0.7", "port": 80, "lease": "1h"});
    server.client().done("registered", &json!({ "register": form }));
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait().code, Some(0));
    zones.write("service.local.zone", "ext 60 A 10.1.0.1\nweb 60 A 10.1.0.2\n");
    let server = zones.start();
    says(&server, "service.local.zone:2: the name is that of the service web, which is registered; take its");
    zones.write("corp.test.zone", &corp(2, "www A 10.0.0.3\n"));
    becomes(&server, "www.corp.test.", "10.0.0.3");
    zones.write("service.local.zone", "ext 60 A 10.1.0.3\nweb 60 A 10.1.0.2\n");
    becomes(&server, "ext.service.local.", "10.1.0.3");
    eventually("no trouble", DEADLINE, || troubles(&server).is_empty().then_some(()));
}

/// A name at which others would answer is no more for a file to take than one that is registered, and says so at the start.
#[test]
fn a_record_tree_takes_no_name_that_fails_over() {
    let zones = Zones::new();
    zones.write("service.local.zone", "ext 60 A 10.1.0.1\n");
    let mut server = zones.start();
    let settings = json!({"settings": {"service": "web", "failover": ["www.example.com."]}});
    server.client().done("settings", &settings);
    zones.write("service.local.zone", "ext 60 A 10.1.0.2\nweb 60 A 10.1.0.5\n");
    says(
        &server,
        "service.local.zone:2: the name is that of the service web, which fails over; end that first with",
    );
    assert_eq!(address(&server, "ext.service.local."), "10.1.0.1");
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait().code, Some(0));
    let server = zones.start();
    says(&server, "service.local.zone:2: the name is that of the service web, whose failover answers there");
    server.client().done("settings", &json!({"settings": {"service": "web", "failover": []}}));
    becomes(&server, "web.service.local.", "10.1.0.5");
}

/// What secondaries are given, written down by dig and kdig, is a zone for BIND, for Knot and for us.
#[test]
fn what_is_handed_out_is_a_zone_for_others() {
    let zones = Zones::new();
    zones.write("corp.test.zone", include_str!("wire/corp.test.zone"));
    zones.write(
        "service.local.zone",
        "ext 60 A 10.1.0.1\n*.any 60 TXT \"x;y\"\nlab 60 NS ns.lab\nns.lab 60 A 10.0.0.9\n",
    );
    let server = zones.start();
    let mut client = server.client();
    for (number, id) in ["a", "b", "redis:6379"].iter().enumerate() {
        let form = json!({"service": "web", "id": id, "address": ["10.0.0.7", "2001:db8::7"], "ports": {"http": 80 + number}, "port": 8080,
                          "tags": ["v2"], "protocol": "https", "meta": {"text": "a \"b\" \\ c"}, "lease": "1h"});
        client.done("registered", &json!({ "register": form }));
    }
    let said = |program: &str, package: &str, words: &[&str]| {
        let output =
            std::process::Command::new(harness::program::needs(program, package)).args(words).output();
        let output = output.unwrap_or_else(|error| panic!("running {program}: {error}"));
        (
            output.status.success(),
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
        )
    };
    let port = server.dns[0].port().to_string();
    for apex in ["corp.test", "service.local"] {
        let by_dig = said(
            "dig",
            "bind9-dnsutils",
            &["@127.0.0.1", "-p", &port, apex, "AXFR", "+onesoa", "+nocmd", "+nocomments", "+nostats"],
        );
        let by_kdig =
            said("kdig", "knot-dnsutils", &["@127.0.0.1", "-p", &port, apex, "AXFR", "+noall", "+answer"]);
        let file = |name: &str, (good, text): (bool, String)| {
            assert!(good && text.lines().count() > 10, "{text}");
            let path = zones.directory.path().join(name);
            fs::write(&path, text).expect("writing a dump");
            path.display().to_string()
        };
        let (by_dig, by_kdig) = (file("dig", by_dig), file("kdig", by_kdig));
        let written = |name: &str, from: &str| {
            let to = zones.directory.path().join(name).display().to_string();
            let words = ["-i", "local", "-F", "text", "-s", "full", "-o", &to, apex, from];
            let (good, text) = said("named-checkzone", "bind9-utils", &words);
            assert!(good, "{apex}: {text}");
            let text = fs::read_to_string(to).expect("what named-checkzone wrote");
            text.lines().map(str::to_owned).collect::<BTreeSet<_>>()
        };
        let handed_out = written("handed-out", &by_dig);
        if apex == "corp.test" {
            let of_file = written("of-file", &zones.path("corp.test.zone").display().to_string());
            assert_eq!(handed_out, of_file, "what is handed out is what the file says to BIND");
        }
        let (good, text) = said("kzonecheck", "knot-dnssecutils", &["-o", apex, &by_kdig]);
        assert!(good, "{apex}: {text}");
        for dump in [&by_dig, &by_kdig] {
            let ours = harness::callsign(&["zone", "check", "--zone", apex, "--domain", "other.local", dump]);
            assert_eq!(ours.code, Some(0), "{apex}: {}", ours.stdout);
        }
    }
}

#[test]
fn check_warns_of_a_zone_within_another_one_that_does_not_delegate_it() {
    let zones = Zones::new();
    let path = |name: &str| zones.path(name).display().to_string();
    zones.write("corp.test.zone", &corp(1, "given NS ns1\n"));
    for name in ["given.corp.test.zone", "lab.corp.test.zone", "deep.lab.corp.test.zone"] {
        zones.write(name, &corp(1, ""));
    }
    let files = ["corp.test", "given.corp.test", "lab.corp.test", "deep.lab.corp.test"]
        .map(|apex| path(&format!("{apex}.zone")));
    let mut arguments = vec!["zone", "check", "--domain", "service.corp.test"];
    arguments.extend(files.iter().map(String::as_str));
    let checked = harness::callsign(&arguments);
    assert_eq!(checked.code, Some(0), "{checked:?}");
    let warned: Vec<&str> = checked.stdout.lines().filter(|line| line.contains("warning")).collect();
    let expected = [
        ("corp.test", "corp.test. has no NS at lab.corp.test."),
        ("corp.test", "corp.test. has no NS at service.corp.test."),
        ("lab.corp.test", "lab.corp.test. has no NS at deep.lab.corp.test."),
    ];
    let expected = expected.map(|(file, what)| {
        let file = path(&format!("{file}.zone"));
        let outer = what.split(' ').next().expect("a name");
        format!(
            "{file}:2: warning: {what}, which is a zone of its own here: other servers of {outer} deny it"
        )
    });
    assert_eq!(warned, expected);
}

#[test]
fn check_says_everything_and_tells_it_by_its_exit_code() {
    let zones = Zones::new();
    zones.write("corp.test.zone", &corp(7, "www A 10.0.0.2\nmail MX 10 gone\n"));
    zones.write("bad.test.zone", &corp(7, "www A 10.0.0\nwww CNAME x\nx BOGUS y\n"));
    zones.write("service.local.zone", "ext 60 A 10.0.0.1\n");
    let path = |name: &str| zones.path(name).display().to_string();
    let good = harness::callsign(&["zone", "check", &path("corp.test.zone"), &path("service.local.zone")]);
    assert_eq!(
        (good.code, good.stdout.replace(&path(""), "")),
        (
            Some(0),
            "corp.test.zone:6: warning: the MX of mail.corp.test. names gone.corp.test., which is not in the zone; is a dot missing at its end?\n\
             corp.test.zone: ok: corp.test. serial 7, 5 records\nservice.local.zone: ok: plain records of service.local., 1 record\n"
                .to_owned()
        )
    );
    let bad =
        harness::callsign(&["zone", "check", "-o", "json", &path("corp.test.zone"), &path("bad.test.zone")]);
    let said: Value = serde_json::from_str(&bad.stdout).expect("JSON");
    assert_eq!(
        (bad.code, said[0]["ok"].as_bool(), said[1]["ok"].as_bool()),
        (Some(2), Some(true), Some(false))
    );
    let lines = said[1]["errors"].as_array().expect("errors").iter().map(|error| error["line"].as_u64());
    assert_eq!(lines.collect::<Vec<_>>(), [Some(5), Some(7)]);
    assert_eq!(said[0]["serial"], 7);
    let named = harness::callsign(&[
        "zone",
        "check",
        "--zone",
        "corp.test",
        &path("bad.test.zone"),
        &path("corp.test.zone"),
    ]);
    assert_eq!((named.code, named.stdout), (Some(2), String::new()));
    // What refuses a file here refuses the start.
    let refused = harness::callsign(&["serve", "--check-config", "--store", "memory", "--zones", &path("")]);
    assert_eq!(refused.code, Some(2));
    assert!(
        refused.stderr.contains("bad.test.zone:5: ") && refused.stderr.contains("(and 1 more;"),
        "{}",
        refused.stderr
    );
}
