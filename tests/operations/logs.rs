//! Logs in each form, of a server that is told hostile names.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::namespaces::unshared;
use crate::harness::program::needs;
use crate::harness::{DEADLINE, Http, Server, eventually};

/// What acts on a terminal, ends a line, or looks like a line or a field of ours.
const HOSTILE: &str = "a\u{1b}[2J\r\n2026-11-22T00:00:00.000Z ERROR forged: x\nPRIORITY=0\n\u{7f}\u{9b}31m\u{202e}\"level\"=\"error\"";

/// A folder of service files with one that is none, under a name that is hostile.
fn hostile_folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a directory");
    fs::write(folder.path().join(format!("{HOSTILE}.json")), "{\"a\u{1b}\n").expect("a file");
    folder
}

/// Says hostile things in all the ways that there are without a network.
fn provoke(server: &Server) {
    let mut client = server.client();
    for form in [
        json!({"register": {"service": HOSTILE, "port": 80}}),
        json!({"register": {"service": "web", "id": HOSTILE, "port": 80}}),
        json!({"register": {"service": "web", "id": "a", "port": 80, "tags": [HOSTILE], "meta": {HOSTILE: HOSTILE}}}),
        json!({HOSTILE: {}}),
    ] {
        client.ask(&form);
    }
    client.ask_line(b"\x1b\x9b\xff{]");
    let path: String = HOSTILE.bytes().map(|octet| format!("%{octet:02x}")).collect();
    for (path, header) in [(format!("/v1/catalog/service/{path}"), "x"), ("/".to_owned(), "x\x1b\u{9b}")] {
        let mut http = Http::unix(&server.socket);
        // What is no header at all is refused, and the connection closed.
        drop(http.send_raw(format!("GET {path} HTTP/1.1\r\nHost: x\r\nX-Y: {header}\r\n\r\n").as_bytes()));
        drop(http.next());
    }
}

fn is_harmless(line: &str) -> bool {
    !line.chars().any(char::is_control) && !line.contains('\u{202e}')
}

/// The log of a server that was provoked, and stopped.
fn log_of(before: &[&str], format: &str) -> String {
    let folder = hostile_folder();
    let services = folder.path().display().to_string();
    let flags = ["--store", "memory", "--services", &services, "--log", "trace", "--log-format", format];
    let mut server = Server::start_under(before, &flags);
    provoke(&server);
    server.signal(Signal::SIGTERM);
    let ended = server.wait();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    ended.stderr
}

#[test]
fn text_is_lines_of_our_own() {
    let log = log_of(&[], "text");
    for line in log.lines() {
        assert!(is_harmless(line), "{line:?}");
        let (time, rest) = line.split_once(' ').expect("words");
        assert!(time.len() == "2026-11-22T00:00:00.000Z".len() && time.ends_with('Z'), "{line:?}");
        let level = rest.trim_start().split(' ').next().expect("a level");
        assert!(["ERROR", "WARN", "INFO", "DEBUG", "TRACE"].contains(&level), "{line:?}");
        assert!(!rest.trim_start().starts_with("ERROR forged"), "{line:?}");
    }
    assert!(log.contains("nothing of it is registered"), "the file was named: {log}");
    assert!(log.contains(" INFO callsign::serve: stopping signal=SIGTERM\n"), "{log}");
}

#[test]
fn json_is_one_object_a_line() {
    let log = log_of(&[], "json");
    let mut told = Vec::new();
    for line in log.lines() {
        assert!(is_harmless(line), "{line:?}");
        let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        let keys: Vec<&String> = line.as_object().expect("an object").keys().collect();
        assert_eq!(keys, ["fields", "level", "message", "target", "time"]);
        told.push((line["level"].clone(), line["message"].clone(), line["fields"].clone()));
    }
    assert!(told.contains(&(json!("info"), json!("stopping"), json!({"signal": "SIGTERM"}))), "{log}");
    // The name of the file is there as it is, and no line of its own.
    assert!(told.iter().any(|(_, message, _)| message.as_str().is_some_and(|text| text.contains(HOSTILE))));
}

/// A journald that only listens, where a server in namespaces of its own finds it.
struct Journald {
    socket: UnixDatagram,
    folder: TempDir,
}

impl Journald {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        let socket = UnixDatagram::bind(folder.path().join("socket")).expect("a socket");
        socket.set_nonblocking(true).expect("an option of a socket of ours");
        Self { socket, folder }
    }

    /// What stands before a server that finds it; `stream` is the shell's word for `JOURNAL_STREAM`.
    fn before(&self, stream: &str) -> Vec<String> {
        // Ours is put where journald's is, in a /run that nobody else sees.
        let script = format!(
            "ip link set lo up && mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal && \
             mount --bind \"$0\" /run/systemd/journal && export JOURNAL_STREAM={stream} && exec \"$@\""
        );
        unshared(&script, self.folder.path())
    }

    fn next(&self) -> Option<String> {
        let mut octets = vec![0; 1 << 17];
        match self.socket.recv(&mut octets) {
            Ok(length) => Some(String::from_utf8(octets[..length].to_vec()).expect("text")),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("receiving: {error}"),
        }
    }
}

/// How `stat` spells what systemd puts into `JOURNAL_STREAM`: device and inode of stderr.
const STDERR: &str = "\"$(stat -L -c %d:%i /proc/self/fd/2)\"";

fn words(before: &[String]) -> Vec<&str> {
    before.iter().map(String::as_str).collect()
}

#[test]
fn the_journal_is_found_where_stderr_leads_to_it() {
    let journald = Journald::new();
    for (stream, format, is_journal) in [
        (STDERR, "auto", true),
        ("1:2", "auto", false),
        ("", "auto", false),
        (STDERR, "text", false),
        ("1:2", "journald", true),
    ] {
        let before = journald.before(stream);
        // The one target that says one thing: `confine`, below `serve`, speaks as well.
        let log = "callsign::serve=info,callsign::serve::confine=off";
        let flags = ["--store", "memory", "--log", log, "--log-format", format];
        let mut server = Server::start_under(&words(&before), &flags);
        server.signal(Signal::SIGTERM);
        let ended = server.wait();
        let entry = journald.next();
        assert_eq!(ended.stderr.is_empty(), is_journal, "{stream} {format}: {ended:?}");
        let expected = "MESSAGE=stopping signal=SIGTERM\nPRIORITY=6\nSYSLOG_IDENTIFIER=callsign\n\
                        TARGET=callsign::serve\nCALLSIGN_SIGNAL=SIGTERM\n";
        assert_eq!(entry.as_deref(), is_journal.then_some(expected), "{stream} {format}");
    }
}

#[test]
fn an_entry_of_the_journal_has_fields_of_our_own() {
    let journald = Journald::new();
    let folder = hostile_folder();
    let services = folder.path().display().to_string();
    let before = journald.before(STDERR);
    let server = Server::start_under(
        &words(&before),
        &["--store", "memory", "--services", &services, "--log", "callsign=trace"],
    );
    // The kernel keeps as few as ten that nobody has taken.
    let entries = std::thread::scope(|scope| {
        let taking = scope.spawn(|| {
            let mut entries = Vec::new();
            eventually("the entry of the end", DEADLINE, || {
                entries.extend(std::iter::from_fn(|| journald.next()));
                entries.iter().any(|entry: &String| entry.contains("stopping")).then_some(())
            });
            entries
        });
        provoke(&server);
        server.signal(Signal::SIGTERM);
        taking.join().expect("every entry")
    });
    let complaint = "nothing of it is registered";
    assert!(entries.iter().any(|entry| entry.contains(complaint)), "{entries:?}");
    for entry in &entries {
        for line in entry.lines() {
            assert!(is_harmless(line), "{line:?}");
            let (name, _) = line.split_once('=').expect("a field");
            let known = ["MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER", "TARGET"].contains(&name);
            assert!(known || name.starts_with("CALLSIGN_"), "{line:?}");
        }
        let priority = entry.lines().find(|line| line.starts_with("PRIORITY="));
        assert!(priority != Some("PRIORITY=0") && entry.matches("\nPRIORITY=").count() == 1, "{entry}");
    }
}

/// systemd's own, in namespaces that it shares with one server; it ends with the test.
struct RealJournald(u32);

impl Drop for RealJournald {
    fn drop(&mut self) {
        // It may have ended before.
        let _ = kill(Pid::from_raw(self.0 as i32), Signal::SIGKILL);
    }
}

#[test]
fn journalctl_shows_and_finds_what_is_logged() {
    needs("journalctl", "systemd");
    let files = tempfile::tempdir().expect("a directory");
    let script = format!(
        "ip link set lo up && mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /var/log && \
         mkdir -p /run/systemd/journal /run/log/journal && exec 9>\"$0/said\" && \
         {{ /lib/systemd/systemd-journald >&9 2>&9 & echo $! >\"$0/pid\"; }} && \
         until [ -S /run/systemd/journal/socket ]; do :; done && \
         export JOURNAL_STREAM={STDERR} && exec \"$@\" 9>&-"
    );
    let before = unshared(&script, files.path());
    let folder = hostile_folder();
    let services = folder.path().display().to_string();
    let flags = ["--store", "memory", "--services", &services];
    let mut server = Server::start_under(&words(&before), &flags);
    let pid = fs::read_to_string(files.path().join("pid")).expect("a pid");
    let journald = RealJournald(pid.trim().parse().expect("a number"));
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait().stderr, "");
    let journal = Path::new(&format!("/proc/{}/root", journald.0)).join("run/log/journal");
    let found = |field: &str| -> Vec<Value> {
        let mut command = Command::new("journalctl");
        let output = command
            .arg("-D")
            .arg(&journal)
            .args(["-o", "json", "SYSLOG_IDENTIFIER=callsign", field])
            .output()
            .expect("running journalctl");
        let lines = String::from_utf8(output.stdout).expect("text");
        lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    };
    let entry = eventually("the entry", DEADLINE, || found("CALLSIGN_SIGNAL=SIGTERM").pop());
    for (field, value) in [
        ("MESSAGE", "stopping signal=SIGTERM"),
        ("PRIORITY", "6"),
        ("SYSLOG_IDENTIFIER", "callsign"),
        ("TARGET", "callsign::serve"),
        ("_TRANSPORT", "journal"),
    ] {
        assert_eq!(entry[field], value, "{entry}");
    }
    // The hostile name is in one entry, as text and not as a blob.
    let complaints = found("PRIORITY=3");
    let of_file = complaints.iter().filter_map(|entry| entry["MESSAGE"].as_str());
    assert_eq!(of_file.filter(|text| text.contains("\\u{1b}[2J") && text.contains("PRIORITY=0")).count(), 1);
    assert_eq!(found("PRIORITY=0"), [] as [Value; 0]);
}

#[test]
fn a_level_comes_from_the_flag_or_from_rust_log() {
    let with = |variable: &str| ["env".to_owned(), variable.to_owned()];
    for (variable, flags, is_told) in [
        ("RUST_LOG=warn", &[][..], false),
        ("RUST_LOG=callsign::serve=info", &[], true),
        ("RUST_LOG=warn", &["--log", "info"], true),
        ("X=", &[], true),
    ] {
        let mut server =
            Server::start_under(&words(&with(variable)), &[&["--store", "memory"], flags].concat());
        server.signal(Signal::SIGTERM);
        assert_eq!(server.wait().stderr.contains("stopping"), is_told, "{variable} {flags:?}");
    }
}
