//! UPDATE from the programs that people have: nsupdate, knsupdate and dnspython, each with its own TSIG.
//!
//! Needs: bind9-dnsutils knot-dnsutils python3-dnspython

mod harness;
#[allow(dead_code, reason = "these programs make their own messages")]
#[path = "update/message.rs"]
mod message;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use harness::program::needs;
use harness::{DEADLINE, Server, eventually};
use hickory_proto::rr::RecordType;

use message::key_file;

const SECRET: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

/// A server that takes UPDATEs by these keys, and the file that has them.
fn start(directory: &Path, names: &[&str]) -> (Server, PathBuf) {
    let keys = key_file(directory, names);
    let allowed: Vec<String> = names.iter().map(|name| format!("127.0.0.0/8 key:{name}")).collect();
    let mut flags = vec!["--tsig-keys", keys.to_str().expect("a path")];
    flags.extend(allowed.iter().flat_map(|allowed| ["--update-allow", allowed]));
    let server = Server::start(&flags);
    // Nothing is believed that was signed in the second of the start.
    let begun = message::now_s();
    eventually("the next second", DEADLINE, || (message::now_s() > begun).then_some(()));
    (server, keys)
}

/// What a program says to these lines, or without any.
fn run(program: &Path, words: &[&str], lines: &str) -> (bool, String) {
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("starting a client");
    let mut stdin = child.stdin.take().expect("its standard input");
    stdin.write_all(lines.as_bytes()).expect("telling it");
    drop(stdin);
    let output = child.wait_with_output().expect("running a client");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

fn answers(server: &Server, name: &str, rtype: RecordType) -> Vec<String> {
    let reply = server.resolver().tcp(name, rtype);
    let mut data: Vec<String> = reply.answers.iter().map(|record| record.data.to_string()).collect();
    data.sort_unstable();
    data
}

/// Both take the same language, over UDP and TCP.
#[test]
fn nsupdate_and_knsupdate_set_and_delete() {
    let directory = tempfile::tempdir().expect("a directory for the key");
    let (server, keys) = start(directory.path(), &["dhcp"]);
    let port = server.dns[0].port();
    let nsupdate = needs("nsupdate", "bind9-dnsutils");
    let knsupdate = needs("knsupdate", "knot-dnsutils");
    let (file, secret) = (keys.to_str().expect("a path"), format!("hmac-sha256:dhcp:{SECRET}"));
    for (program, name, way) in [
        (&nsupdate, "n", &["-k", file][..]),
        (&nsupdate, "v", &["-v", "-k", file]),
        (&knsupdate, "k", &["-y", &secret]),
        (&knsupdate, "w", &["-v", "-y", &secret]),
    ] {
        let says = |lines: &str| {
            let all = format!("server 127.0.0.1 {port}\nzone service.local.\n{lines}send\nanswer\n");
            run(program, way, &all)
        };
        let set = format!(
            "prereq nxdomain {name}.service.local.\n\
             update add {name}.service.local. 300 A 10.3.0.1\n\
             update add {name}.service.local. 300 TXT \"of {name}\"\n\
             update add _{name}web._tcp.service.local. 60 SRV 0 1 8080 one.{name}web.service.local.\n\
             update add one.{name}web.service.local. 60 A 10.3.0.2\n"
        );
        let (done, said) = says(&set);
        assert!(done, "{name}: {said}");
        assert_eq!(
            answers(&server, &format!("{name}.service.local."), RecordType::TXT),
            [format!("of {name}")],
            "{said}"
        );
        let srv = answers(&server, &format!("{name}web.service.local."), RecordType::SRV);
        assert_eq!(srv, [format!("0 1 8080 one.{name}web.service.local.")]);
        assert_eq!(server.client().list().len(), 1, "an instance");

        let (_, said) = says(&set);
        assert!(said.contains("YXDOMAIN"), "{name}: {said}");
        let (_, said) = says("update add ns.service.local. 60 A 10.3.0.3\n");
        assert!(said.contains("REFUSED"), "{name}: {said}");
        let (_, said) = says("update add a.example.com. 60 A 10.3.0.3\n");
        assert!(said.contains("NOTZONE"), "{name}: {said}");

        let gone = format!(
            "prereq yxrrset {name}.service.local. IN A 10.3.0.1\n\
             update delete {name}.service.local.\n\
             update delete _{name}web._tcp.service.local. SRV\n\
             update delete one.{name}web.service.local.\n"
        );
        let (done, said) = says(&gone);
        assert!(done, "{name}: {said}");
        assert_eq!(answers(&server, &format!("{name}.service.local."), RecordType::A), [""; 0], "{said}");
        assert!(server.client().list().is_empty());
    }
    // Without a key, and with one that is not known.
    let lines = format!(
        "server 127.0.0.1 {port}\nzone service.local.\nupdate add x.service.local. 60 A 10.3.0.1\nsend\n"
    );
    let (done, said) = run(&nsupdate, &[], &lines);
    assert!(!done && said.contains("REFUSED"), "{said}");
    let (done, said) = run(&nsupdate, &["-y", &format!("hmac-sha256:other:{SECRET}")], &lines);
    assert!(!done && said.contains("BADKEY"), "{said}");
    let (done, said) = run(&nsupdate, &["-y", "hmac-sha256:dhcp:c2VjcmV0c2VjcmV0c2VjcmV0"], &lines);
    assert!(!done && said.contains("BADSIG"), "{said}");
    assert!(answers(&server, "x.service.local.", RecordType::A).is_empty());
}

#[test]
fn dnspython_sets_and_replaces() {
    let directory = tempfile::tempdir().expect("a directory for the key");
    let (server, _) = start(directory.path(), &["dhcp", "acme.service.local"]);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/python/update.py");
    let port = server.dns[0].port().to_string();
    let python = needs("python3", "python3-dnspython");
    let candidates =
        [std::env::var_os("CALLSIGN_PYTHON").map_or(python, PathBuf::from), "/usr/bin/python3".into()];
    let has = |python: &&PathBuf| run(python, &["-c", "import dns.update"], "").0;
    let python = candidates.iter().find(has).expect("a Python that has dnspython: install python3-dnspython");
    let (done, said) = run(python, &[script, &port], "");
    assert!(done, "{said}");
    let expected = "set NOERROR signed\nabsent YXDOMAIN signed\nreplace NOERROR signed\n\
                    compressed NOERROR signed\nno key REFUSED unsigned\n";
    assert_eq!(said, expected);
    assert_eq!(answers(&server, "py.service.local.", RecordType::A), ["10.3.0.3"]);
    assert!(server.client().list().is_empty());
}
