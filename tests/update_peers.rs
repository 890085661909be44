//! UPDATE from external-dns: its own provider, plan and registry of TXT records, round by round, as its controller does it.
//!
//! Needs: peer:external-dns
//!
//! It lists the zone by AXFR, and then sends what differs. What it did not set itself is not its own.

mod harness;
#[allow(dead_code, reason = "external-dns makes its own messages")]
#[path = "update/message.rs"]
mod message;

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use harness::{DEADLINE, Server, eventually};
use hickory_proto::rr::RecordType;
use serde_json::json;

use message::key_file;

const SECRET: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

/// One round: what there should be, in lines; what it says that it does, once that is done.
fn round(server: &Server, wanted: &str) -> String {
    let peers = std::env::var_os("CALLSIGN_PEERS").expect("CALLSIGN_PEERS: ./check --peers sets it");
    let port = server.dns[0].port().to_string();
    let mut child = Command::new(PathBuf::from(peers).join("external-dns"))
        .args(["--port", &port, "--zone", "service.local", "--key", "dhcp", "--secret", SECRET])
        .args(["--owner", "tests"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("external-dns: ./check --peers builds it");
    let mut stdin = child.stdin.take().expect("its standard input");
    stdin.write_all(wanted.as_bytes()).expect("telling it");
    drop(stdin);
    let output = child.wait_with_output().expect("a round");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("level=error"), "{wanted}: {said}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn answers(server: &Server, name: &str, rtype: RecordType) -> Vec<String> {
    let reply = server.resolver().tcp(&format!("{name}.service.local."), rtype);
    let of_type = reply.answers.iter().filter(|record| record.record_type() == rtype);
    let mut data: Vec<String> = of_type.map(|record| record.data.to_string()).collect();
    data.sort_unstable();
    data
}

#[test]
fn external_dns_sets_changes_and_deletes_its_own() {
    let directory = tempfile::tempdir().expect("a directory for the key");
    let keys = key_file(directory.path(), &["dhcp"]);
    let path = keys.to_str().expect("a path");
    let allow = ["--update-allow", "key:dhcp", "--transfer-allow", "key:dhcp"];
    let server = Server::start(&[&["--tsig-keys", path][..], &allow].concat());
    let web = json!({"service": "web", "id": "a", "address": "10.0.0.7", "port": 80, "tags": ["v2"], "lease": "none"});
    server.client().done("registered", &json!({ "register": web }));
    // Nothing is believed that was signed in the second of the start.
    let begun = message::now_s();
    eventually("the next second", DEADLINE, || (message::now_s() > begun).then_some(()));

    let first = "app.service.local A 300 10.4.0.1 10.4.0.2\n\
                 www.service.local CNAME 300 app.service.local\n\
                 six.deep.service.local AAAA 60 2001:db8::1\n\
                 *.wild.service.local A 60 10.4.0.9\n";
    assert_eq!(round(&server, first), "create 4 update 0 delete 0");
    assert_eq!(answers(&server, "app", RecordType::A), ["10.4.0.1", "10.4.0.2"]);
    assert_eq!(answers(&server, "www", RecordType::CNAME), ["app.service.local."]);
    assert_eq!(answers(&server, "six.deep", RecordType::AAAA), ["2001:db8::1"]);
    assert_eq!(answers(&server, "x.wild", RecordType::A), ["10.4.0.9"]);
    let owner = answers(&server, "a-app", RecordType::TXT).concat();
    assert!(owner.contains("heritage=external-dns,external-dns/owner=tests"), "{owner}");
    // Seen again as it was set: nothing is to be done.
    assert_eq!(round(&server, first), "create 0 update 0 delete 0");

    let second = "app.service.local A 60 10.4.0.2 10.4.0.3\n\
                  *.wild.service.local A 60 10.4.0.9\n\
                  new.service.local A 300 10.4.0.4\n";
    assert_eq!(round(&server, second), "create 1 update 1 delete 2");
    assert_eq!(answers(&server, "app", RecordType::A), ["10.4.0.2", "10.4.0.3"]);
    assert!(answers(&server, "www", RecordType::CNAME).is_empty());
    assert!(answers(&server, "cname-www", RecordType::TXT).is_empty());
    assert_eq!(round(&server, second), "create 0 update 0 delete 0");

    // A service is not its own: it leaves it alone, and what it asks for there is refused by nobody but itself.
    assert_eq!(
        round(&server, &format!("{second}web.service.local A 300 10.4.0.5\n")),
        "create 0 update 0 delete 0"
    );
    assert_eq!(round(&server, ""), "create 0 update 0 delete 3");
    for name in ["app", "a-app", "new", "x.wild"] {
        assert!(answers(&server, name, RecordType::A).is_empty(), "{name}");
    }
    assert_eq!(answers(&server, "web", RecordType::A), ["10.0.0.7"]);
    let place = format!("unix:{}", server.socket.display());
    let left = harness::callsign(&["export", "--server", &place]).stdout;
    assert!(!left.contains(r#"{"records""#), "{left}");
}
