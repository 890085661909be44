//! UPDATE (RFC 2136) on real sockets: what it may, what it makes of the zone, and that it lasts.
//!
//! - `limits`: what a message may hold, and what it may cost.
//! - `message`: messages from words, signed, and what the replies say.
//! - `model`: random messages against a naive zone.
//! - `rows.txt`: one row a rule, over UDP, TCP and TLS.
//!
//! nsupdate, knsupdate and dnspython are in `update_clients.rs`.
//!
//! Needs: strace

mod harness;
#[path = "update/limits.rs"]
mod limits;
#[path = "update/message.rs"]
mod message;
#[path = "update/model.rs"]
mod model;
#[path = "transfers/secondary.rs"]
mod secondary;

use std::time::Duration;

use harness::{DEADLINE, Resolver, Server, eventually, now, stays};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{RData, RecordType};
use serde_json::{Value, json};

use message::{APEX, Said, Update, Way, full, key_file};

const ROWS: &str = include_str!("update/rows.txt");

/// A server that takes UPDATEs, with a directory for its key, its zones and its store.
struct Updated {
    server: Server,
    flags: Vec<String>,
    directory: tempfile::TempDir,
}

impl Updated {
    fn start(flags: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory for the key");
        let keys = key_file(directory.path(), &["dhcp", "acme", "secondaries"]);
        let zones = directory.path().join("zones");
        std::fs::create_dir(&zones).expect("a directory for zones");
        let tree = "$ORIGIN service.local.\n$TTL 60\nprinter IN A 10.9.9.9\n";
        std::fs::write(zones.join("service.local.zone"), tree).expect("writing the record tree");
        let corp = "@ 60 SOA ns h 1 2 3 4 5\n@ 60 NS ns\nns 60 A 10.9.0.1\n";
        std::fs::write(zones.join("corp.test.zone"), corp).expect("writing a zone");
        std::fs::write(zones.join("nested.service.local.zone"), corp).expect("writing a zone within ours");
        let path = |name: &str| directory.path().join(name).display().to_string();
        let mut all: Vec<String> = [
            "--update-allow",
            "key:dhcp",
            "--update-allow",
            "key:acme",
            "--tls-self-signed",
            "--known-for",
            "1s",
        ]
        .map(str::to_owned)
        .into();
        all.extend([
            "--tsig-keys".to_owned(),
            keys.display().to_string(),
            "--zones".to_owned(),
            path("zones"),
        ]);
        all.extend(["--data".to_owned(), path("data"), "--dot".to_owned(), "127.0.0.1:0".to_owned()]);
        all.extend(flags.iter().map(|flag| (*flag).to_owned()));
        Self { server: Self::begin(&all), flags: all, directory }
    }

    /// Puts another record tree into place.
    fn plant(&self, text: &str) {
        self.put("service.local.zone", text);
    }

    /// A file of the folder of zones, put into place as a whole.
    fn put(&self, name: &str, text: &str) {
        let [new, tree] = ["new", &format!("zones/{name}")].map(|name| self.directory.path().join(name));
        std::fs::write(&new, text).expect("writing a zone file");
        std::fs::rename(new, tree).expect("putting it into place");
    }

    fn begin(flags: &[String]) -> Server {
        Server::start(&flags.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// `killed`: as a crash would end it.
    fn restart(&mut self, killed: bool) {
        match killed {
            true => self.server.crash(),
            false => {
                self.server.signal(nix::sys::signal::Signal::SIGTERM);
                self.server.wait();
            }
        }
        self.server = Self::begin(&self.flags);
    }

    fn ways(&self) -> [(&'static str, Way); 3] {
        let dot = self.server.lines.iter().find_map(|line| line.strip_prefix("dot ")?.parse().ok());
        let server = self.server.dns[0];
        [
            ("udp", Way::Udp(Resolver::new(server))),
            ("tcp", Way::Tcp(harness::dns::connect(server))),
            ("tls", Way::tls(dot.expect("a line for DNS over TLS"))),
        ]
    }

    fn udp(&self) -> Way {
        Way::Udp(self.server.resolver())
    }

    fn says(&self, text: &str) -> Said {
        self.udp().say(&Update::of(text))
    }

    fn serial(&self) -> u32 {
        let reply = self.server.resolver().tcp(APEX, RecordType::SOA);
        let RData::SOA(soa) = &reply.answers[0].data else { panic!("no SOA but {reply:?}") };
        soa.serial
    }

    /// What is answered: the data of the records, in order, or why there are none.
    fn answers(&self, name: &str, rtype: &str) -> Vec<String> {
        let reply = self.server.resolver().tcp(&full(name).to_string(), rtype.parse().expect("a type"));
        let mut data: Vec<String> = reply.answers.iter().map(|record| record.data.to_string()).collect();
        data.sort_unstable();
        match (data.is_empty(), reply.metadata.response_code) {
            (true, ResponseCode::NXDomain) => vec!["NXDOMAIN".to_owned()],
            (true, _) => vec!["NODATA".to_owned()],
            (false, _) => data,
        }
    }
}

/// Every row, over every transport alike.
#[test]
fn every_rule_holds_over_udp_tcp_and_tls() {
    for way in 0..3 {
        let updated = Updated::start(&[]);
        let (name, mut way) = updated.ways().into_iter().nth(way).expect("one of three");
        let mut client = updated.server.client();
        let rows = ROWS.split("\n\n").filter(|row| !row.trim_start().starts_with('#'));
        let mut count = 0;
        for row in rows {
            let mut lines = row.lines().filter(|line| !line.is_empty());
            let title = format!("{} over {name}", lines.next().expect("a title"));
            let mut update = Update::empty();
            for line in lines {
                match line.split_once(' ').unwrap_or((line, "")) {
                    (">", rest) => register(&mut client, rest, &title),
                    ("=", rest) => {
                        let before = updated.serial();
                        let said = way.say(&update);
                        expect(&said, rest, &title);
                        let moved = updated.serial() != before;
                        assert!(said.rcode == "NOERROR" || !moved, "{title}: the serial moved");
                    }
                    ("?", rest) => {
                        let [name, rtype, data] = rest.splitn(3, ' ').collect::<Vec<_>>()[..] else {
                            panic!("{title}: {rest}")
                        };
                        let mut data: Vec<String> = data.split(" | ").map(str::to_owned).collect();
                        data.sort_unstable();
                        let quoted = |data: &String| data.replace('"', "");
                        let answers: Vec<String> = updated.answers(name, rtype).iter().map(quoted).collect();
                        assert_eq!(answers, data.iter().map(quoted).collect::<Vec<_>>(), "{title}: {rest}");
                    }
                    _ => assert!(update.says(line), "{title}: `{line}`"),
                }
            }
            count += 1;
        }
        println!("update: {count} rows over {name}");
        assert!(count >= 87, "the table was read");
    }
}

fn register(client: &mut harness::Client, line: &str, title: &str) {
    let (request, outcome) = line.rsplit_once("} ").unwrap_or((line, "registered"));
    let request = if outcome == "registered" && !line.ends_with("registered") {
        line.to_owned()
    } else {
        format!("{request}}}")
    };
    let reply = client.ask(&serde_json::from_str(&request).expect("JSON"));
    assert!(reply.to_string().contains(outcome), "{title}: {reply}");
}

fn expect(said: &Said, expected: &str, title: &str) {
    let (rcode, rest) = expected.split_once(' ').unwrap_or((expected, ""));
    assert_eq!(said.rcode, rcode, "{title}: {said:?}");
    let lease = rest.strip_prefix("lease ").map(|lease| lease.parse::<u32>().expect("seconds"));
    assert_eq!(said.lease, lease, "{title}");
    if lease.is_none() {
        assert!(said.why.starts_with(rest.trim_matches('"')), "{title}: {said:?}");
    }
}

/// Names in data are equal whatever their case (RFC 2136 section 1.1.1, RFC 4343), of the types that are kept as octets too;
/// the text before them is not.
#[test]
fn names_in_data_are_compared_without_regard_to_case() {
    let updated = Updated::start(&[]);
    for (number, rtype, data, other, text) in [
        (17, "RP", "Mbox.Example.com. Txt.example.com.", "mbox.EXAMPLE.com. txt.example.Com.", None),
        (18, "AFSDB", "1 Db.Example.com.", "1 db.example.com.", Some("2 db.example.com.")),
        (
            35,
            "NAPTR",
            "10 20 \"S\" \"SIP+D2U\" \"\" Sip.Example.com.",
            "10 20 \"S\" \"SIP+D2U\" \"\" sip.example.com.",
            Some("10 20 \"S\" \"sip+d2u\" \"\" sip.example.com."),
        ),
    ] {
        let count = || {
            let reply = updated.server.resolver().tcp("data.service.local.", RecordType::from(number));
            reply.answers.len()
        };
        let done = |text: &str| assert_eq!(updated.says(text).rcode, "NOERROR", "{rtype}: {text}");
        done(&format!("add data 60 {rtype} {data}"));
        done(&format!("add data 60 {rtype} {other}"));
        assert_eq!(count(), 1, "{rtype}: one record");
        done(&format!("is data {rtype} {other}"));
        if let Some(text) = text {
            assert_eq!(updated.says(&format!("is data {rtype} {text}")).rcode, "NXRRSET", "{rtype}");
            done(&format!("delrr data {rtype} {text}"));
            assert_eq!(count(), 1, "{rtype}: another record is not it");
        }
        done(&format!("delrr data {rtype} {other}"));
        assert_eq!(count(), 0, "{rtype}");
    }
}

/// What came once is carried out once, over whatever it comes again; and what is too old, never.
#[test]
fn a_replay_changes_nothing() {
    let updated = Updated::start(&[]);
    let mut ways = updated.ways();
    let (message, signer) = Update::of("add a 60 A 10.1.0.1").signed(7);
    let (name, way) = &mut ways[0];
    assert_eq!(message::read(&way.exchange(&message), 7, signer.as_ref()).rcode, "NOERROR", "{name}");
    assert_eq!(updated.says("del a").rcode, "NOERROR");
    let serial = updated.serial();
    for (name, way) in &mut ways {
        let said = message::read(&way.exchange(&message), 7, signer.as_ref());
        assert_eq!(said.rcode, "NOERROR", "a client that heard nothing is told what became of it, {name}");
        assert_eq!(said.why, "it came before, and was not carried out again");
        // Under another ID it is the same message: the ID is not signed.
        let mut renamed = message.clone();
        renamed[..2].copy_from_slice(&[0, 8]);
        assert!(way.exchange(&renamed).len() > 12);
        assert_eq!(
            (updated.answers("a", "A"), updated.serial()),
            (vec!["NXDOMAIN".to_owned()], serial),
            "{name}"
        );
    }
    // What was refused is refused again, though it would be carried out now.
    let (message, signer) = Update::of("yx b\nadd b 60 A 10.1.0.1").signed(9);
    let way = &mut ways[1].1;
    assert_eq!(message::read(&way.exchange(&message), 9, signer.as_ref()).rcode, "NXDOMAIN");
    assert_eq!(updated.says("add b 60 TXT there").rcode, "NOERROR");
    assert_eq!(message::read(&way.exchange(&message), 9, signer.as_ref()).rcode, "NXDOMAIN");
    assert_eq!(updated.answers("b", "A"), ["NODATA"]);
}

/// What was signed before the server started is nothing that it can know of.
#[test]
fn what_was_signed_before_the_start_is_too_old() {
    let before = message::now_s();
    let updated = Updated::start(&[]);
    // The second of the start itself is no better: the server before this one may have carried it out.
    for time in [before - 200, before] {
        let old = Update::of("add a 60 A 10.1.0.1").at(time);
        let (message, _) = old.signed(7);
        let reply = updated.udp().exchange(&message);
        assert_eq!(reply[3] & 15, 9, "NOTAUTH");
        let badtime = [0, 18, 0, 6];
        assert!(reply.windows(4).any(|window| window == badtime), "BADTIME, and our time: {reply:02x?}");
        assert_eq!(updated.answers("a", "A"), ["NXDOMAIN"]);
    }
}

/// A prerequisite sees what the server itself has at the zone's own name, and nobody deletes it.
#[test]
fn what_a_signed_zone_says_of_its_keys_is_seen() {
    let keys = tempfile::tempdir().expect("a directory for keys");
    let folder = keys.path().join("keys").display().to_string();
    assert_eq!(harness::callsign(&["dnssec", "init", "service.local", "--keys", &folder]).code, Some(0));
    let updated = Updated::start(&["--dnssec-keys", &folder]);
    let shown = updated.answers(APEX, "DNSKEY");
    assert_eq!(shown.len(), 1, "{shown:?}");
    for (text, rcode) in [
        ("yxset service.local. DNSKEY\nyxset service.local. SOA\nyxset service.local. NS", "NOERROR"),
        ("nxset service.local. DNSKEY", "YXRRSET"),
        // The zone above may not have it yet.
        ("nxset service.local. CDS\nnxset service.local. CDNSKEY", "NOERROR"),
        ("yxset service.local. CDS", "NXRRSET"),
        ("delset service.local. DNSKEY", "REFUSED"),
        ("add service.local. 60 TXT x\ndel service.local.", "NOERROR"),
    ] {
        assert_eq!(updated.says(text).rcode, rcode, "{text}");
    }
    assert_eq!(updated.answers(APEX, "DNSKEY"), shown);
}

/// Beside a record that names a service are the addresses that answer for it, and none that is kept in reserve.
#[test]
fn a_mail_exchange_is_given_the_addresses_that_answer() {
    let updated = Updated::start(&[]);
    for (id, address, priority) in [("a", "10.0.0.1", 1), ("b", "10.0.0.2", 0), ("c", "10.0.0.3", 0)] {
        let form = json!({"service": "smtp", "id": id, "address": address, "port": 25, "priority": priority, "lease": "none"});
        updated.server.client().done("registered", &json!({ "register": form }));
    }
    assert_eq!(updated.says("add mail 60 MX 5 smtp").rcode, "NOERROR");
    let reply = updated.server.resolver().tcp("mail.service.local.", RecordType::MX);
    let mut beside: Vec<String> = reply.additionals.iter().map(|record| record.data.to_string()).collect();
    beside.sort_unstable();
    assert_eq!(beside, ["10.0.0.2", "10.0.0.3"]);
}

/// Records and instances are there after a stop and after a crash, and a crash in the middle leaves no half.
#[test]
fn what_was_updated_is_there_after_a_restart() {
    let mut updated = Updated::start(&[]);
    let text = "add _web._tcp 60 SRV 0 1 8080 web-1.web\nadd web-1.web 60 A 10.0.0.7\nadd a 77 TXT stays\nadd service.local. 60 MX 5 a";
    assert_eq!(updated.says(text).rcode, "NOERROR");
    for killed in [true, false, true] {
        let serial = updated.serial();
        updated.restart(killed);
        assert!(updated.serial() >= serial, "the serial never goes back");
        assert_eq!(updated.answers("web", "SRV"), ["0 1 8080 web-1.web.service.local."]);
        assert_eq!(updated.answers("a", "TXT"), ["stays"]);
        assert_eq!(updated.answers(APEX, "MX"), ["5 a.service.local."]);
    }
    // An export has all of it.
    let place = format!("unix:{}", updated.server.socket.display());
    let exported = harness::callsign(&["export", "--server", &place]).stdout;
    let count = |kind: &str| exported.lines().filter(|line| line.starts_with(kind)).count();
    assert_eq!((count(r#"{"instance""#), count(r#"{"records""#)), (1, 2), "{exported}");
    // UPDATE still knows what it set, and may change it.
    assert_eq!(updated.says("del a\ndel web-1.web\ndelset _web._tcp SRV").rcode, "NOERROR");
    assert_eq!(updated.answers("a", "TXT"), ["NXDOMAIN"]);
    let names = |updated: &Updated| -> Vec<Value> { updated.server.client().list() };
    assert!(names(&updated).is_empty(), "{:?}", names(&updated));
    updated.restart(true);
    assert_eq!(updated.answers("a", "TXT"), ["NXDOMAIN"]);
}

/// RFC 9664: what has a lease goes with it unless it is said again; the rest stays.
/// What was acknowledged does not go because a file comes to have its name.
#[test]
fn a_zone_file_takes_no_name_that_an_update_has() {
    let mut updated = Updated::start(&[]);
    let says = |updated: &Updated, words: &str| {
        eventually(words, DEADLINE, || updated.server.stderr().contains(words).then_some(()));
    };
    assert_eq!(updated.says("add scanner 60 A 10.0.0.5\nadd deep.lab 60 TXT a").rcode, "NOERROR");
    updated.plant("printer 60 A 10.9.9.8\nscanner 60 TXT file\n");
    says(
        &updated,
        "service.local.zone:2: the name is that of records that UPDATE set at scanner.service.local.",
    );
    assert_eq!(updated.answers("scanner", "A"), ["10.0.0.5"]);
    assert_eq!(updated.answers("printer", "A"), ["10.9.9.9"], "all or nothing");
    // A cut above it takes it too.
    updated.plant("printer 60 A 10.9.9.8\nlab 60 NS ns.example.\n");
    says(
        &updated,
        "service.local.zone:2: the name is that of records that UPDATE set at deep.lab.service.local.",
    );
    assert_eq!(updated.answers("deep.lab", "TXT"), ["a"]);
    // So does a zone of its own, but for the delegation to it.
    assert_eq!(updated.says("add of 60 NS ns.example.\nadd of 60 DS 1 8 2 0a").rcode, "NOERROR");
    let zone = "$TTL 60\n@ SOA ns h 1 2 3 4 5\n@ NS ns\nns A 10.9.9.1\n";
    updated.put("lab.service.local.zone", zone);
    updated.put("of.service.local.zone", zone);
    says(
        &updated,
        "lab.service.local.zone:2: the name is that of records that UPDATE set at deep.lab.service.local.",
    );
    eventually("the other zone", DEADLINE, || (updated.answers("ns.of", "A") == ["10.9.9.1"]).then_some(()));
    assert_eq!(updated.answers("deep.lab", "TXT"), ["a"]);
    std::fs::remove_file(updated.directory.path().join("zones/lab.service.local.zone")).expect("a file");
    // Once it is free the file is taken over as it was read.
    assert_eq!(updated.says("del deep.lab").rcode, "NOERROR");
    eventually("the file", DEADLINE, || (updated.answers("printer", "A") == ["10.9.9.8"]).then_some(()));
    // What came while the server was down is said, and holds up no edit.
    updated.plant("scanner 60 TXT file\n");
    updated.restart(false);
    says(
        &updated,
        "what UPDATE set at scanner.service.local. is not answered, for the zone file has the name",
    );
    assert_eq!(updated.answers("scanner", "A"), ["NODATA"]);
    updated.plant("printer 60 A 10.9.9.7\nscanner 60 TXT file\n");
    eventually("the edit", DEADLINE, || (updated.answers("printer", "A") == ["10.9.9.7"]).then_some(()));
    updated.plant("printer 60 A 10.9.9.6\n");
    eventually("what UPDATE set", DEADLINE, || {
        (updated.answers("scanner", "A") == ["10.0.0.5"]).then_some(())
    });
}

#[test]
fn a_lease_ends_unless_it_is_said_again() {
    let updated = Updated::start(&[]);
    let text = "add _web._tcp 60 SRV 0 1 8080 web-1.web\nadd web-1.web 60 A 10.0.0.7\nadd a 60 TXT leased";
    assert_eq!(updated.says("add a 60 A 10.1.0.1").rcode, "NOERROR");
    let leased = format!("lease 2\n{text}");
    assert_eq!(updated.says(&leased).lease, Some(2));
    let serial = updated.serial();
    let begun = now();
    while begun.elapsed() < Duration::from_secs(4) {
        assert_eq!(updated.says(&leased).rcode, "NOERROR");
        assert_eq!(updated.answers("a", "TXT"), ["leased"]);
        assert_eq!(updated.answers("web", "A"), ["10.0.0.7"]);
        harness::pause();
    }
    assert_eq!(updated.serial(), serial, "to say it again is no change");
    eventually("the end of the lease", DEADLINE, || {
        (updated.answers("a", "TXT") == ["NODATA"]).then_some(())
    });
    eventually("the end of the instance", DEADLINE, || {
        updated.server.client().list().is_empty().then_some(())
    });
    assert_eq!(updated.answers("a", "A"), ["10.1.0.1"], "what has no lease stays");
    // What time did is stored with the next commit.
    assert_eq!(updated.says("del a").rcode, "NOERROR");
    let log = updated.server.client().ask(&json!({"log": {}})).to_string();
    assert!(log.contains("expired") && log.contains("leased") && log.contains("key dhcp."), "{log}");
}

/// A key does what the rules say, and no more: services by their names, records by the label below the apex.
#[test]
fn a_key_may_what_the_rules_say() {
    let rules = [
        "allow key:dhcp register+deregister:web*",
        "allow key:acme register:*",
        "deny key:acme register:web*",
    ];
    let flags: Vec<&str> = rules.iter().flat_map(|rule| ["--access", *rule]).collect();
    let updated = Updated::start(&flags);
    let say = |key: &'static str, text: &str| updated.udp().say(&Update::of(text).by(key));
    let instance = "add _web._tcp 60 SRV 0 1 8080 web-1.web\nadd web-1.web 60 A 10.0.0.7";
    for (key, text, rcode) in [
        ("dhcp", instance, "NOERROR"),
        ("dhcp", "add web-dhcp 60 A 10.1.0.1", "NOERROR"),
        ("dhcp", "add x.y.web-dhcp 60 A 10.1.0.1", "NOERROR"),
        ("dhcp", "add api 60 A 10.1.0.1", "REFUSED"),
        ("dhcp", "add _acme-challenge.api 60 TXT x", "REFUSED"),
        ("dhcp", "add service.local. 60 TXT x", "REFUSED"),
        ("dhcp", "add web-dhcp 60 A 10.1.0.2\nadd api 60 A 10.1.0.1", "REFUSED"),
        ("acme", "add _acme-challenge.api 60 TXT x", "NOERROR"),
        ("acme", "add service.local. 60 TXT x", "REFUSED"),
        ("acme", "del _acme-challenge.api", "REFUSED"),
        ("acme", "add _acme-challenge.web 60 TXT x", "REFUSED"),
        ("acme", "add web-1.web 60 A 10.0.0.8", "REFUSED"),
        ("secondaries", instance, "REFUSED"),
    ] {
        assert_eq!(say(key, text).rcode, rcode, "{key}: {text}");
    }
    assert_eq!(updated.answers("web-dhcp", "A"), ["10.1.0.1"], "all or nothing");
    let why = say("acme", "add service.local. 60 TXT x").why;
    assert!(why.starts_with("key acme. may not register every service: no rule"), "{why}");
}

/// What a message does not speak of stays as it is, though the records of a service are looked through together.
#[test]
fn an_instance_that_a_message_is_not_about_is_left_alone() {
    let updated = Updated::start(&[
        "--access",
        "allow key:dhcp register+deregister:*",
        "--access",
        "allow key:acme register:*",
    ]);
    let say = |key: &'static str, text: &str| updated.udp().say(&Update::of(text).by(key));
    let instance = |number: usize| {
        format!("add _web._tcp 60 SRV 0 1 8080 web-{number}.web\nadd web-{number}.web 60 A 10.0.0.{number}")
    };
    assert_eq!(say("dhcp", &instance(1)).rcode, "NOERROR");
    updated
        .server
        .client()
        .done("draining", &json!({"drain": {"service": "web", "id": "web-1", "host": "10.0.0.1"}}));
    assert_eq!(say("dhcp", &instance(2)).rcode, "NOERROR");
    assert_eq!(say("acme", &instance(3)).rcode, "NOERROR", "the other two are not its own, nor meant");
    assert_eq!(updated.answers("web", "A"), ["10.0.0.2", "10.0.0.3"]);
    // Set again by whom it belongs to, it is back.
    assert_eq!(say("dhcp", &instance(1)).rcode, "NOERROR");
    assert_eq!(updated.answers("web", "A").len(), 3);
}

/// To say again what is another's would keep it alive.
#[test]
fn who_may_not_change_it_renews_nothing() {
    let updated = Updated::start(&[]);
    let instance = "lease 3600\nadd _web._tcp 60 SRV 0 1 8080 web-1.web\nadd web-1.web 60 A 10.0.0.7";
    assert_eq!(updated.says(instance).rcode, "NOERROR");
    assert_eq!(updated.says(instance).rcode, "NOERROR");
    assert_eq!(updated.udp().say(&Update::of(instance).by("acme")).rcode, "REFUSED");
}

/// One set has one lease: what is put beside does not take along what was to stay.
#[test]
fn what_stays_does_not_leave_with_what_is_put_beside_it() {
    let updated = Updated::start(&[]);
    assert_eq!(updated.says("add a 60 TXT stays").rcode, "NOERROR");
    assert_eq!(updated.says("lease 1\nadd a 60 TXT beside\nadd b 60 TXT leased").rcode, "NOERROR");
    eventually("the end of the lease", DEADLINE, || {
        (updated.answers("b", "TXT") == ["NXDOMAIN"]).then_some(())
    });
    assert!(updated.answers("a", "TXT").contains(&"stays".to_owned()), "{:?}", updated.answers("a", "TXT"));
}

/// As for everybody who registers: `identity-instances-max`.
#[test]
fn a_key_sets_so_many_instances_and_no_more() {
    let updated = Updated::start(&["--identity-instances-max", "2"]);
    let instance = |number: usize| {
        format!("add _web._tcp 60 SRV 0 1 8080 web-{number}.web\nadd web-{number}.web 60 A 10.0.0.{number}\n")
    };
    let said = updated.says(&(1..=3).map(instance).collect::<String>());
    assert!(said.rcode == "REFUSED" && said.why.contains("key dhcp. may have 2 instances"), "{said:?}");
    assert_eq!(updated.says(&(1..=2).map(instance).collect::<String>()).rcode, "NOERROR");
    assert_eq!(updated.says(&instance(3)).rcode, "REFUSED");
    assert_eq!(updated.says("add web-2.web 60 A 10.0.0.9").rcode, "NOERROR", "what is there may be changed");
    assert_eq!(updated.answers("web", "A").len(), 3);
}

/// First come, first served: another key needs the right to change what everybody set.
#[test]
fn an_instance_is_changed_by_the_key_that_set_it() {
    let updated = Updated::start(&[]);
    let say = |key: &'static str, text: &str| updated.udp().say(&Update::of(text).by(key));
    let instance = "add _web._tcp 60 SRV 0 1 8080 web-1.web\nadd web-1.web 60 A 10.0.0.7";
    assert_eq!(say("dhcp", instance).rcode, "NOERROR");
    for text in ["add web-1.web 60 A 10.0.0.8", "del web-1.web", "delset _web._tcp SRV"] {
        let said = say("acme", text);
        assert_eq!(said.rcode, "REFUSED", "{text}");
        assert!(said.why.starts_with("web/web-1@10.0.0.7 was registered by key dhcp."), "{said:?}");
    }
    assert_eq!(updated.answers("web", "A"), ["10.0.0.7"]);
    assert_eq!(say("dhcp", "del web-1.web\ndelset _web._tcp SRV").rcode, "NOERROR");
}

/// An administrator who registers an instance again does not take it from its key, and what no record says of it is no
/// UPDATE's to take away: neither by a message about it, nor by one about another.
#[test]
fn what_an_administrator_gave_an_instance_stays() {
    let updated = Updated::start(&[]);
    let mut client = updated.server.client();
    let say = |key: &'static str, text: &str| updated.udp().say(&Update::of(text).by(key));
    let other = |number: usize| {
        format!("add _web._tcp 60 SRV 0 1 80 other{number}.web\nadd other{number}.web 60 A 10.0.1.{number}")
    };
    let instance = "add _web._tcp 60 SRV 0 1 8080 web-1.web\nadd web-1.web 60 A 10.0.0.7";
    assert_eq!(say("dhcp", instance).rcode, "NOERROR");
    let again = json!({"service": "web", "id": "web-1", "host": "10.0.0.7", "address": "10.0.0.7", "lease": "none",
        "ports": {"http": 8080}, "tags": ["v2"], "meta": {"rack": "r1"}, "protocol": "http"});
    client.done("registered", &json!({ "register": again }));
    let mut one = || {
        let all = client.list();
        let is_it = |instance: &&Value| instance["id"] == "web-1";
        all.iter().find(is_it).cloned().expect("web-1")
    };
    let given = one();
    for (number, key) in [(1, "dhcp"), (2, "acme")] {
        let said = say(key, &other(number));
        assert_eq!(said.rcode, "NOERROR", "it is about another one: {said:?}");
        assert_eq!(one(), given, "after a message of {key} about another one");
    }
    assert_eq!(say("acme", "add web-1.web 60 A 10.0.0.8").rcode, "REFUSED", "first come, first served");
    assert_eq!(say("dhcp", "add web-1.web 60 A 10.0.0.8").rcode, "NOERROR", "it is its own still");
    let changed = one();
    assert_eq!(changed["address"], json!(["10.0.0.7", "10.0.0.8"]));
    for member in ["ports", "tags", "meta", "protocol"] {
        assert_eq!(changed[member], given[member], "{member}");
    }
    assert_eq!(updated.answers("v2.web", "A"), ["10.0.0.7", "10.0.0.8"]);
    assert_eq!(updated.answers("_http._tcp.web", "SRV"), ["0 1 8080 web-1.web.service.local."]);
    // What no record can spell is no UPDATE's any more.
    let target = json!({"service": "web", "id": "web-1", "host": "10.0.0.7", "target": "web.example.com", "port": 8080,
        "lease": "none"});
    updated.server.client().done("registered", &json!({ "register": target }));
    let given = one();
    assert_eq!(say("dhcp", &other(3)).rcode, "NOERROR");
    assert_eq!(one(), given);
    let said = say("dhcp", "del web-1.web");
    assert_eq!(said.rcode, "REFUSED", "{said:?}");
    assert_eq!(one(), given);
}
