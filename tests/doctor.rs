//! `callsign doctor` on machines of its own: what is wrong there is said, with its reason and what mends it.
//!
//! Needs: iproute2, util-linux

mod harness;

use harness::machine::Machine;
use harness::{Ended, Server, binary};
use serde_json::Value;

/// The findings of one kind, as (verdict, what, mend).
fn findings(ended: &Ended, check: &str) -> Vec<(String, String, String)> {
    let report: Value = serde_json::from_str(&ended.stdout).expect("a report in JSON");
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    let all = report["findings"].as_array().expect("a list of findings");
    let these = all.iter().filter(|finding| finding["check"] == check);
    these.map(|finding| (text(finding, "verdict"), text(finding, "what"), text(finding, "mend"))).collect()
}

fn wrong(ended: &Ended) -> Vec<String> {
    let report: Value = serde_json::from_str(&ended.stdout).expect("a report in JSON");
    let all = report["findings"].as_array().expect("a list of findings");
    let these = all.iter().filter(|finding| finding["verdict"] == "wrong");
    let checks: Vec<String> = these.map(|finding| finding["check"].as_str().unwrap().to_owned()).collect();
    assert_eq!(report["wrong"], checks.len());
    assert_eq!(ended.code, Some(if checks.is_empty() { 0 } else { 1 }), "{}", ended.stdout);
    checks
}

fn doctor(machine: &Machine) -> Ended {
    machine.callsign(&["doctor", "-o", "json"])
}

#[test]
fn a_machine_on_which_names_resolve_is_well() {
    let machine = Machine::start("127.0.0.1", &["--dns", "127.0.0.1:53"]);
    let ended = doctor(&machine);
    assert_eq!(wrong(&ended), [""; 0], "{}", ended.stdout);
    let [(verdict, what, _)] = findings(&ended, "lookup").try_into().expect("one lookup");
    assert_eq!(
        (verdict.as_str(), what.as_str()),
        ("fine", "`getent ahosts ns.service.local` finds this server")
    );
    // The machine asks nobody else, and callsign was not told to forward: no harm to its own names.
    let [(verdict, what, _)] = findings(&ended, "nameserver").try_into().expect("one nameserver");
    assert_eq!(verdict, "advice");
    assert!(what.ends_with("and refuses every other name"), "{what}");
    let [(_, holders, _)] = findings(&ended, "port 53").try_into().expect("one look at the port");
    assert_eq!(holders, "held at 127.0.0.1 (callsign)");
    let text = machine.callsign(&["doctor"]).stdout;
    assert!(text.ends_with("\nnothing keeps web.service.local from resolving here\n"), "{text}");
}

#[test]
fn each_thing_that_is_wrong_is_said_with_what_mends_it() {
    let machine = Machine::start("127.0.0.1", &["--dns", "127.0.0.1:53", "--dns", "127.0.0.1:5300"]);
    let resolv = |text: &str| machine.write("resolv.conf", &format!("{text}options timeout:1 attempts:1\n"));

    // Nobody listens at the nameserver.
    resolv("nameserver 127.0.0.9\n");
    let ended = doctor(&machine);
    assert_eq!(wrong(&ended), ["nameserver", "lookup"]);
    let (_, what, mend) = &findings(&ended, "nameserver")[0];
    assert_eq!(what, "127.0.0.9 does not answer: nobody listens there");
    assert!(mend.starts_with("callsign serve --dns 127.0.0.9:53"), "{mend}");

    // One that has never heard of us, beside one that has: a lookup may ask either.
    let pid = machine.server.pid().to_string();
    let mut inside = vec!["nsenter", "--target", &pid, "--net", "--mount", "--root"];
    if !nix::unistd::geteuid().is_root() {
        inside.extend(["--user", "--preserve-credentials"]);
    }
    let other =
        Server::start_under(&inside, &["--domain", "other.test", "--dns", "127.0.0.2:53", "--http", "none"]);
    resolv("nameserver 127.0.0.1\nnameserver 127.0.0.2\n");
    let ended = doctor(&machine);
    assert_eq!(wrong(&ended), ["nameserver"]);
    let (_, what, _) = &findings(&ended, "nameserver")[1];
    assert_eq!(what, "127.0.0.2 (callsign) does not know service.local: it says REFUSED");
    drop(other);

    // The C library does not come to DNS at all.
    resolv("nameserver 127.0.0.1\n");
    machine.write("nsswitch.conf", "hosts: files\n");
    let ended = doctor(&machine);
    assert_eq!(wrong(&ended), ["nsswitch", "lookup"]);
    machine.write("nsswitch.conf", "hosts: files dns\n");

    // It finds what a file says.
    machine.write("hosts", "127.0.0.1 localhost\n192.0.2.77 ns.service.local\n");
    let ended = doctor(&machine);
    assert_eq!(wrong(&ended), ["lookup"]);
    assert_eq!(findings(&ended, "hosts")[0].0, "advice");
    assert!(findings(&ended, "lookup")[0].1.ends_with("finds 192.0.2.77, which is not this server"));
    machine.write("hosts", "127.0.0.1 localhost\n");

    // Every lookup asks for names that are not there: no harm, and a waste.
    resolv("nameserver 127.0.0.1\nsearch a.example b.example\noptions ndots:5\n");
    let ended = doctor(&machine);
    assert_eq!(wrong(&ended), [""; 0]);
    assert_eq!(findings(&ended, "resolv.conf")[0].0, "advice");
}

#[test]
fn without_a_server_it_says_so_and_looks_at_the_rest() {
    let machine = Machine::start("127.0.0.1", &[]);
    let words = ["doctor", "-o", "json", "--server", "unix:/run/none", "--dns", "127.0.0.1:9"];
    let output = machine.output(&binary(), &words);
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    let ended =
        Ended { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) };
    assert_eq!(wrong(&ended), ["server", "dns", "nameserver"]);
    assert_eq!(findings(&ended, "nsswitch")[0].0, "fine");
}
