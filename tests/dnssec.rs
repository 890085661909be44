//! A signed zone as validators see it: delv, unbound with a trust anchor, ldns' drill, kdig, and dnspython over every name of the zone.
//!
//! Needs: bind9-dnsutils, bind9-utils, knot-dnsutils, ldnsutils, unbound, python3-venv
//!
//! The server is a real one, its keys are made and changed by `callsign dnssec`. dnspython with its cryptography is the one in
//! target/python/dnsviz, where tests/clients/python/install puts it. ldns-verify-zone and kzonecheck read whole zones with a
//! chain of NSEC, which a zone that is signed as it is asked does not have.

mod harness;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use callsign::key_folder;
use callsign::sign::{COMING_S, LEAVING_S, Times};
use hickory_proto::rr::RecordType;
use serde_json::{Value, json};
use tempfile::TempDir;

use harness::program::{Program, free_ports, needs};
use harness::{DEADLINE, Ended, Server, callsign, eventually};

const ZONE: &str = "service.internal.";
/// What the registry does not have: aliases, a wildcard, delegations with and without DS, a type whose data are names.
const TREE: &str = "$ORIGIN service.internal.\n$TTL 60\n\
    printer IN A 10.9.9.9\n\
    printer IN TYPE18 \\# 11 00010441464442024F4B00\n\
    alias IN CNAME Printer\n\
    dangling IN CNAME nothing-there\n\
    *.lab IN A 10.9.9.10\n\
    mail IN MX 10 Printer\n\
    sub IN NS ns.sub\n\
    ns.sub IN A 10.9.1.53\n\
    safe IN NS ns.safe\n\
    safe IN DS 1 13 2 00112233445566778899AABBCCDDEEFF00112233445566778899AABBCCDDEEFF\n\
    ns.safe IN A 10.9.1.54\n";

/// What is asked: each way that a name can be there or not.
const QUESTIONS: [(&str, &str, bool); 26] = [
    ("service.internal", "SOA", true),
    ("service.internal", "NS", true),
    ("service.internal", "DNSKEY", true),
    ("service.internal", "MX", false),
    ("web.service.internal", "A", true),
    ("web.service.internal", "SRV", true),
    ("WEB.service.internal", "TXT", true),
    ("web.service.internal", "MX", false),
    ("_web._tcp.service.internal", "SRV", true),
    ("_web._tcp.service.internal", "PTR", true),
    ("_web._tcp.service.internal", "A", false),
    ("a.web.service.internal", "A", true),
    ("a.web.service.internal", "AAAA", false),
    ("_tcp.service.internal", "A", false),
    ("nope.service.internal", "A", false),
    ("x.nope.service.internal", "SRV", false),
    ("a.b.c.d.e.service.internal", "TXT", false),
    ("x.lab.service.internal", "A", true),
    ("x.lab.service.internal", "MX", false),
    ("*.lab.service.internal", "A", true),
    ("alias.service.internal", "A", true),
    ("dangling.service.internal", "A", true), // an alias of a name that is not there
    ("printer.service.internal", "TYPE18", true),
    ("mail.service.internal", "MX", true),
    ("sub.service.internal", "DS", false),
    ("safe.service.internal", "DS", true),
];

/// A server of a signed zone, and what its first key says of itself.
struct Signed {
    server: Server,
    home: TempDir,
    anchor: String,
}

fn dnssec(folder: &Path, words: &[&str]) -> Ended {
    let keys = folder.display().to_string();
    callsign(&[&["dnssec"], words, &["--keys", &keys]].concat())
}

fn done(ended: Ended) -> String {
    assert_eq!(ended.code, Some(0), "{ended:?}");
    ended.stdout
}

impl Signed {
    fn start() -> Self {
        let home = tempfile::tempdir().expect("a directory for keys and zones");
        let (keys, zones) = (home.path().join("keys"), home.path().join("zones"));
        fs::create_dir(&zones).expect("a directory for the zone");
        fs::write(zones.join("service.internal.zone"), TREE).expect("the zone");
        let anchor = done(dnssec(&keys, &["init", ZONE]));
        let [keys, zones] = [keys, zones].map(|path| path.display().to_string());
        let flags = ["--store", "memory", "--domain", ZONE, "--zones", &zones, "--dnssec-keys", &keys];
        let server = Server::start(&flags);
        for (id, address) in [("a", "10.0.0.1"), ("b", "10.0.0.2"), ("c", "2001:db8::3")] {
            let form = json!({"service": "web", "id": id, "address": address, "port": 8080, "lease": "none",
                "tags": ["v2"], "ports": {"http": 8080}});
            let form = without(form, "port");
            server.client().done("registered", &json!({"register": form}));
        }
        let safe = json!({"service": "secure", "id": "s", "address": "10.0.0.4", "port": 443, "protocol": "https", "lease": "none"});
        server.client().done("registered", &json!({"register": safe}));
        Self { server, home, anchor }
    }

    fn keys(&self) -> PathBuf {
        self.home.path().join("keys")
    }

    fn port(&self) -> String {
        self.server.dns[0].port().to_string()
    }

    /// Tags of the DNSKEY records that the server shows.
    fn shown(&self) -> usize {
        let reply = self.server.resolver().udp(ZONE, RecordType::DNSKEY);
        reply.answers.iter().filter(|record| record.record_type() == RecordType::DNSKEY).count()
    }

    /// What delv says, with this line as its anchor.
    fn delv(&self, anchor: &str, name: &str, qtype: &str) -> String {
        let words: Vec<&str> = anchor.split_whitespace().skip(4).collect();
        let text = format!(
            "trust-anchors {{ \"{ZONE}\" static-key {} {} {} \"{}\"; }};\n",
            words[0], words[1], words[2], words[3]
        );
        let file = self.home.path().join("delv.anchor");
        fs::write(&file, text).expect("an anchor");
        let output = Command::new(needs("delv", "bind9-dnsutils"))
            .args(["@127.0.0.1", "-p", &self.port(), "-a", &file.display().to_string()])
            .args(["+root=service.internal", name, qtype])
            .output()
            .expect("running delv");
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }

    /// Every question, with this anchor.
    fn delv_validates(&self, anchor: &str) {
        for (name, qtype, there) in QUESTIONS {
            let said = self.delv(anchor, name, qtype);
            let expected = if there { "; fully validated" } else { "; negative response, fully validated" };
            assert!(said.contains(expected), "{name} {qtype}: {said}");
        }
    }
}

fn without(mut form: Value, key: &str) -> Value {
    form.as_object_mut().expect("an object").remove(key);
    form
}

/// The line of DNSKEY of what `init` and `roll` print.
fn dnskey(printed: &str) -> &str {
    printed.lines().find(|line| line.contains("DNSKEY")).expect("a line of DNSKEY")
}

#[test]
fn delv_validates_every_answer_and_denial() {
    let signed = Signed::start();
    signed.delv_validates(dnskey(&signed.anchor));
    // With another key it does not.
    let other = tempfile::tempdir().expect("a directory");
    let printed = done(dnssec(&other.path().join("keys"), &["init", ZONE]));
    let said = signed.delv(dnskey(&printed), "web.service.internal", "A");
    assert!(!said.contains("fully validated"), "{said}");
}

#[test]
fn drill_and_kdig_read_and_validate_it() {
    let signed = Signed::start();
    let anchor = signed.home.path().join("anchor");
    fs::write(&anchor, format!("{}\n", dnskey(&signed.anchor))).expect("an anchor");
    for (name, qtype) in
        [("web.service.internal", "SRV"), ("a.web.service.internal", "A"), ("service.internal", "SOA")]
    {
        let output = Command::new(needs("drill", "ldnsutils"))
            .args([
                "-D",
                "-k",
                &anchor.display().to_string(),
                "-p",
                &signed.port(),
                "@127.0.0.1",
                name,
                qtype,
            ])
            .output()
            .expect("running drill");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(said.contains("; VALIDATED by id = "), "{name} {qtype}: {said}");
    }
    let output = Command::new(needs("kdig", "knot-dnsutils"))
        .args(["@127.0.0.1", "-p", &signed.port(), "+dnssec", "nope.service.internal", "A"])
        .output()
        .expect("running kdig");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("status: NOERROR") && said.contains("RRSIG NSEC TYPE128"), "{said}");
}

/// unbound in front of the server, with this anchor and everything on that could stand in the way.
fn unbound(signed: &Signed, anchor: &str) -> (Program, u16) {
    let [port] = free_ports();
    let directory = tempfile::tempdir().expect("a directory for unbound");
    let at = directory.path().display();
    fs::write(directory.path().join("anchor"), anchor).expect("an anchor");
    let text = format!(
        "server:\n    interface: 127.0.0.1@{port}\n    do-daemonize: no\n    username: \"\"\n    chroot: \"\"\n    \
         directory: \"{at}\"\n    pidfile: \"\"\n    use-syslog: no\n    do-not-query-localhost: no\n    do-ip6: no\n    \
         aggressive-nsec: yes\n    harden-below-nxdomain: yes\n    qname-minimisation: yes\n    use-caps-for-id: yes\n    \
         module-config: \"validator iterator\"\n    trust-anchor-file: \"{at}/anchor\"\n    val-log-level: 2\n    \
         local-zone: \"internal.\" nodefault\n\
         stub-zone:\n    name: \"service.internal\"\n    stub-addr: 127.0.0.1@{}\n\
         remote-control:\n    control-enable: no\n",
        signed.port()
    );
    let file = directory.path().join("unbound.conf");
    fs::write(&file, text).expect("a configuration");
    let words = ["-d".to_owned(), "-c".to_owned(), file.display().to_string()];
    let mut program = Program::start(&needs("unbound", "unbound"), directory, &words);
    eventually("unbound's start", DEADLINE, || {
        program.must_run();
        program.said().contains("start of service").then_some(())
    });
    (program, port)
}

/// The status and the flags that dig shows.
fn dig(port: u16, name: &str, qtype: &str) -> (String, String) {
    let output = Command::new(needs("dig", "bind9-dnsutils"))
        .args(["@127.0.0.1", "-p", &port.to_string(), "+dnssec", "+time=10", "+tries=1", name, qtype])
        .output()
        .expect("running dig");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let between = |start: &str, end: &str| {
        let rest = said.split_once(start).unwrap_or_else(|| panic!("no {start} in {said}")).1;
        rest.split_once(end).expect("its end").0.to_owned()
    };
    (between("status: ", ","), between(";; flags: ", ";"))
}

#[test]
fn unbound_with_the_anchor_validates_everything() {
    let signed = Signed::start();
    // Either line is an anchor.
    let [ds, dnskey]: [&str; 2] = signed.anchor.lines().collect::<Vec<_>>().try_into().expect("two lines");
    for anchor in [ds, dnskey] {
        let (program, port) = unbound(&signed, anchor);
        // Twice: from the server, and, denials too, from what it has.
        for (name, qtype, _) in QUESTIONS.iter().chain(&QUESTIONS) {
            let (status, flags) = dig(port, name, qtype);
            let authentic = flags.split(' ').any(|flag| flag == "ad");
            assert!(status == "NOERROR" && authentic, "{name} {qtype}: {status} {flags}\n{}", program.said());
        }
        assert!(!program.said().contains("bogus"), "{}", program.said());
    }
    let other = tempfile::tempdir().expect("a directory");
    let printed = done(dnssec(&other.path().join("keys"), &["init", ZONE]));
    let (_program, port) = unbound(&signed, &printed);
    assert_eq!(dig(port, "web.service.internal", "A").0, "SERVFAIL", "another key");
}

/// Every name and type of the zone, as the transfer has them, asked with DO and validated; and a denial for each name.
#[test]
fn dnspython_validates_every_rrset_of_the_zone() {
    let signed = Signed::start();
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/python/dnsviz/bin/python");
    assert!(python.exists(), "{} is not there: tests/clients/python/install", python.display());
    let output = Command::new(python)
        .args([concat!(env!("CARGO_MANIFEST_DIR"), "/tests/dnssec/validate.py")])
        .args([&signed.port(), "service.internal.", dnskey(&signed.anchor)])
        .output()
        .expect("running python");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let numbers: Vec<usize> = said.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    assert!(matches!(numbers[..], [sets, denials] if sets > 30 && denials > 20), "{said}");
}

/// BIND's and ldns' own reading of the files, and of the digest.
#[test]
fn the_files_are_those_of_other_makers() {
    let home = tempfile::tempdir().expect("a directory");
    let folder = home.path().join("keys");
    let printed = done(dnssec(&folder, &["init", ZONE]));
    let ds: Vec<&str> = printed.lines().next().expect("a line").split_whitespace().skip(4).collect();
    let files: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    let of = |end: &str| files.iter().find(|path| path.extension().is_some_and(|own| own == end)).unwrap();
    for (program, package, words) in
        [("dnssec-dsfromkey", "bind9-utils", &["-2"][..]), ("ldns-key2ds", "ldnsutils", &["-n", "-2"])]
    {
        let output =
            Command::new(needs(program, package)).args(words).arg(of("key")).output().expect("running it");
        let said = String::from_utf8_lossy(&output.stdout).to_uppercase();
        assert!(said.split_whitespace().collect::<Vec<_>>().ends_with(&ds), "{program}: {said} for {ds:?}");
    }
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&folder), mode(of("private"))), (0o700, 0o600));
    fs::set_permissions(of("private"), fs::Permissions::from_mode(0o644)).unwrap();
    let refused = dnssec(&folder, &["status"]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("chmod o= "), "{}", refused.stderr);
}

/// A key of the folder is given a past.
fn backdate(folder: &Path, tag: &str, by_s: u64) {
    let keys = key_folder::read(folder).expect("the keys");
    let kept = keys.iter().find(|kept| kept.key.tag.to_string() == tag).expect("the key");
    let before = |time: u64| time - by_s;
    let times = kept.key.times;
    let times = Times {
        created: before(times.created),
        publish: before(times.publish),
        activate: times.activate.map(before),
        inactive: times.inactive.map(before),
        delete: times.delete.map(before),
    };
    key_folder::set_times(kept, &times).expect("writing times");
}

#[test]
fn a_roll_is_valid_at_every_step() {
    let signed = Signed::start();
    let keys = signed.keys();
    let tag = |line: &str| line.split_whitespace().nth(4).expect("a tag").to_owned();
    let (old, old_tag) = (dnskey(&signed.anchor).to_owned(), tag(&signed.anchor));
    let stages = || {
        let shown = done(dnssec(&keys, &["status", "-o", "json"]));
        let shown: Value = serde_json::from_str(&shown).expect("JSON");
        let stage = |key: &Value| (key["tag"].to_string(), key["stage"].as_str().unwrap().to_owned());
        shown.as_array().expect("a list").iter().map(stage).collect::<BTreeSet<_>>()
    };
    let is = |tag: &str, stage: &str| (tag.to_owned(), stage.to_owned());
    assert_eq!(stages(), [is(&old_tag, "signing")].into());
    let again = dnssec(&keys, &["init", ZONE]);
    assert!(again.code == Some(1) && again.stderr.contains("has the key"), "{again:?}");

    // A new key is there, and nobody is told of it yet.
    let printed = done(dnssec(&keys, &["roll", ZONE]));
    let (new, new_tag) = (dnskey(&printed), tag(&printed));
    eventually("the new key in the zone", DEADLINE, || (signed.shown() == 2).then_some(()));
    assert_eq!(stages(), [is(&old_tag, "signing"), is(&new_tag, "coming")].into());
    signed.delv_validates(&old);
    signed.delv_validates(new);
    for words in [["roll", ZONE, "--finish"].as_slice(), &["roll", ZONE]] {
        let refused = dnssec(&keys, words);
        assert!(refused.code == Some(1) && refused.stderr.contains("hint: "), "{refused:?}");
    }

    // The zone above may name it, and CDS says so.
    backdate(&keys, &new_tag, COMING_S);
    assert_eq!(stages(), [is(&old_tag, "signing"), is(&new_tag, "ready")].into());
    eventually("CDS of the new key", DEADLINE, || {
        signed.delv(&old, ZONE, "CDS").contains(&format!("CDS\t{new_tag} 13 2")).then_some(())
    });

    // It signs; who trusts the old one only goes on.
    done(dnssec(&keys, &["roll", ZONE, "--finish"]));
    assert_eq!(stages(), [is(&new_tag, "signing"), is(&old_tag, "leaving")].into());
    eventually("a signature of the new key", DEADLINE, || {
        let said = signed.delv(&old, "web.service.internal", "A");
        said.contains(&format!(" {new_tag} service.internal.")).then_some(())
    });
    signed.delv_validates(&old);
    signed.delv_validates(new);

    // And in the end it is alone.
    backdate(&keys, &old_tag, LEAVING_S + 1);
    eventually("the old key's end", DEADLINE, || (signed.shown() == 1).then_some(()));
    signed.delv_validates(new);
    let said = signed.delv(&old, "web.service.internal", "A");
    assert!(!said.contains("fully validated"), "{said}");
    let printed = done(dnssec(&keys, &["roll", ZONE]));
    assert_ne!(tag(&printed), new_tag, "and there can be another");
}

/// `callsign status` says what the metrics count, and by which keys.
#[test]
fn the_status_says_what_is_signed() {
    let signed = Signed::start();
    let tag = |line: &str| line.split_whitespace().nth(4).expect("a tag").to_owned();
    let old = tag(&signed.anchor);
    backdate(&signed.keys(), &old, 3 * 86_400);
    let new = tag(&done(dnssec(&signed.keys(), &["roll", ZONE])));
    eventually("the new key in the zone", DEADLINE, || (signed.shown() == 2).then_some(()));
    let status = || signed.server.client().done("status", &json!({"status": {}}));
    let made = || status()["signatures"]["made"].as_u64().expect("a number");
    let before = made();
    for _ in 0..2 {
        dig(signed.server.dns[0].port(), "web.service.internal", "AAAA");
    }
    assert!(made() > before);
    let status = status();
    let counted = signed.server.http().get("/metrics").text().to_owned();
    let line = format!("\ncallsign_dnssec_signatures_total {}\n", status["signatures"]["made"]);
    assert!(counted.contains(&line), "{line} {counted}");
    let kept = status["signatures"]["kept"].as_u64().expect("a number");
    assert!((1..=made()).contains(&kept), "{status}");
    assert_eq!(status["signed"][0]["zone"], "service.internal.");
    let key = |at: usize, tag: &str, stage: &str| {
        let key = &status["signed"][0]["keys"][at];
        assert_eq!((key["tag"].to_string(), &key["stage"]), (tag.to_owned(), &json!(stage)), "{status}");
        key["age_s"].as_u64().expect("an age")
    };
    assert!(key(0, &old, "signing") >= 3 * 86_400);
    assert!(key(1, &new, "coming") < 86_400);
    let place = format!("unix:{}", signed.server.socket.display());
    let shown = done(callsign(&["status", "--server", &place]));
    let line = shown.lines().find(|line| line.starts_with("signed ")).expect("a line");
    assert!(line.contains(&format!("service.internal. by key {old} signing, 3d")), "{line}");
    assert!(line.contains(&format!("; {new} coming, ")), "{line}");
    assert!(shown.lines().any(|line| line.starts_with("signatures ") && line.contains(" made, ")), "{shown}");
    let unsigned = Server::start(&["--store", "memory"]).client().done("status", &json!({"status": {}}));
    assert!(unsigned.get("signed").is_none() && unsigned.get("signatures").is_none(), "{unsigned}");
}

#[test]
fn keys_come_and_go_while_the_server_runs_and_broken_ones_change_nothing() {
    let home = tempfile::tempdir().expect("a directory");
    let keys = home.path().join("keys");
    let flag = keys.display().to_string();
    let mut server = Server::start(&["--store", "memory", "--dnssec-keys", &flag]);
    let shown = |server: &Server| {
        let reply = server.resolver().udp("service.local.", RecordType::DNSKEY);
        reply.answers.len()
    };
    assert_eq!(shown(&server), 0, "nothing is signed without a key");
    done(dnssec(&keys, &["init", "service.local"]));
    eventually("a key in the zone", DEADLINE, || (shown(&server) == 1).then_some(()));
    let private = key_folder::marks(&keys).expect("files").pop().expect("two files").0;
    let text = fs::read_to_string(&private).expect("a key");
    fs::write(&private, "no key").expect("writing");
    eventually("a complaint", DEADLINE, || server.stderr().contains("those before stay").then_some(()));
    assert_eq!(shown(&server), 1);
    assert!(!server.stderr().contains("PrivateKey: "), "{}", server.stderr());
    let checked = callsign(&["serve", "--check-config", "--store", "memory", "--dnssec-keys", &flag]);
    assert!(checked.stderr.contains(".private:1: there is no PrivateKey"), "{checked:?}");
    fs::write(&private, text).expect("writing");
    // A folder that is gone says nothing of its keys: a disk that is not mounted, a path that is being changed.
    let away = home.path().join("away");
    fs::rename(&keys, &away).expect("renaming");
    let complaint = format!("{flag} is there no more");
    eventually("a complaint about the folder", DEADLINE, || {
        assert_eq!(shown(&server), 1);
        server.stderr().contains(&complaint).then_some(())
    });
    assert_eq!(shown(&server), 1);
    assert!(!server.stderr().contains("the zone is signed no more"), "{}", server.stderr());
    fs::rename(&away, &keys).expect("renaming");
    fs::remove_file(&private).expect("removing");
    eventually("the end of signing", DEADLINE, || (shown(&server) == 0).then_some(()));
    assert!(server.stderr().contains("the zone is signed no more"), "{}", server.stderr());
    assert!(server.exit_status().is_none());
}
