//! `callsign setup`: what it prints is what docs/resolvers.md and docs/envoy.md show, and what it writes is that.

mod harness;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use harness::{Server, callsign};
use serde_json::Value;
use tempfile::TempDir;

/// The blocks of the page, each a command and what it prints; `UPDATE=1` writes them anew.
#[test]
fn the_pages_show_what_setup_prints() {
    shows_what_setup_prints("docs/resolvers.md", 9);
    shows_what_setup_prints("docs/envoy.md", 1);
}

fn shows_what_setup_prints(page: &str, blocks: usize) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
    let written = fs::read_to_string(&path).expect("the page");
    let (mut text, mut shown) = (String::new(), 0);
    let mut lines = written.lines();
    while let Some(line) = lines.next() {
        text.push_str(&format!("{line}\n"));
        let Some(words) = line.strip_prefix("$ callsign ") else { continue };
        let ended = callsign(&words.split(' ').collect::<Vec<_>>());
        assert_eq!(ended.code, Some(0), "{line}: {}", ended.stderr);
        text.push_str(&ended.stdout);
        shown += 1;
        let end = lines.find(|line| line.starts_with("```"));
        text.push_str(&format!("{}\n", end.expect("the end of a block")));
    }
    assert_eq!(shown, blocks, "one block for each program");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, text).expect("writing the page");
    } else {
        assert!(text == written, "{page} is not what setup prints; UPDATE=1 writes it anew");
    }
}

#[test]
fn a_running_server_says_what_is_asked_where() {
    let server = Server::start(&["--domain", "svc.example.com", "--domain", "service.local"]);
    let socket = format!("unix:{}", server.socket.display());
    let ended = callsign(&["setup", "resolved", "--server", &socket]);
    let expected = format!("[Resolve]\nDNS={}\nDomains=~svc.example.com ~service.local\n", server.dns[0]);
    assert!(ended.stdout.ends_with(&expected), "{ended:?}");
    // A flag wins over what the server says.
    let ended = callsign(&["setup", "resolved", "--domain", "one.test", "--server", &socket]);
    assert!(ended.stdout.ends_with(&format!("DNS={}\nDomains=~one.test\n", server.dns[0])), "{ended:?}");
    // For programs: each file, and the steps.
    let ended = callsign(&["setup", "bind", "-o", "json", "--server", &socket]);
    let shown: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    assert_eq!(shown["files"][0]["path"], "/etc/bind/callsign.conf");
    assert_eq!(shown["steps"][2], "rndc reconfig");
    // Envoy asks the HTTP port, and listens where it is told.
    let ended = callsign(&["setup", "envoy", "--listen", "127.0.0.1:8000", "--server", &socket]);
    let (ip, port) = (server.http[0].ip(), server.http[0].port());
    assert!(ended.stdout.contains(&format!("address: \"{ip}\", port_value: {port}")), "{ended:?}");
    assert!(ended.stdout.contains("listen: \"127.0.0.1:8000\""), "{ended:?}");
    // No server and no flags: nothing is guessed.
    let ended = callsign(&["setup", "resolved", "--server", "unix:/nowhere/s"]);
    assert_eq!(ended.code, Some(5));
    assert!(ended.stderr.contains("--domain NAME --dns ADDR:PORT"), "{ended:?}");
}

const ASKED: [&str; 4] = ["--domain", "service.local", "--dns", "127.0.0.1:53"];

fn write(root: &TempDir, resolver: &str, more: &[&str]) -> harness::Ended {
    let root = root.path().display().to_string();
    callsign(&[&["setup", resolver, "--write", "--root", &root], &ASKED[..], more].concat())
}

#[test]
fn what_is_written_is_what_is_printed() {
    let root = tempfile::tempdir().expect("a directory");
    fs::create_dir_all(root.path().join("etc/systemd")).expect("a folder in it");
    let ended = write(&root, "resolved", &[]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let path = root.path().join("etc/systemd/resolved.conf.d/callsign.conf");
    assert_eq!(ended.stderr, format!("callsign: writing {}\n", path.display()));
    assert_eq!(ended.stdout, "now: systemctl restart systemd-resolved\n");
    let printed = callsign(&[&["setup", "resolved"], &ASKED[..]].concat());
    assert_eq!(fs::read_to_string(&path).expect("what was written"), printed.stdout);
    // Whoever runs the resolver can read it, and nothing else is left there.
    assert_eq!(fs::metadata(&path).expect("its mode").permissions().mode() & 0o777, 0o644);
    let folder = fs::read_dir(path.parent().expect("a folder")).expect("reading it");
    assert_eq!(folder.count(), 1);
    let again = write(&root, "resolved", &[]);
    assert_eq!(again.stderr, format!("callsign: {} is so already\n", path.display()));
}

#[test]
fn what_is_somebody_elses_stays() {
    let root = tempfile::tempdir().expect("a directory");
    let path = |name: &str| root.path().join("etc").join(name);
    fs::create_dir_all(path("docker")).expect("a folder in it");
    // A file of the administrator's; one of ours from an earlier day; a link to what a program writes.
    for (resolver, name, theirs) in [
        ("resolvconf", "resolv.conf", "nameserver 9.9.9.9\n"),
        ("docker", "docker/daemon.json", "{\"dns\": [\"9.9.9.9\"], \"debug\": true}\n"),
    ] {
        let more: &[&str] = if resolver == "docker" { &["--dns", "172.17.0.1:53"] } else { &[] };
        fs::write(path(name), theirs).expect("a file");
        let ended = write(&root, resolver, more);
        assert_eq!(ended.code, Some(4), "{ended:?}");
        assert!(ended.stderr.contains("not from `callsign setup`") && ended.stderr.contains("--force"));
        assert_eq!(fs::read_to_string(path(name)).expect("the file"), theirs);
        assert_eq!(write(&root, resolver, &[more, &["--force"]].concat()).code, Some(0));
        assert_ne!(fs::read_to_string(path(name)).expect("the file"), theirs);
        let (folder, file) = name.rsplit_once('/').map_or(("", name), |(folder, file)| (folder, file));
        let kept = path(folder).join(format!(".{file}.before-callsign"));
        assert_eq!(fs::read_to_string(&kept).expect("what was there"), theirs);
        // Now it is ours, and may be written anew.
        let other = write(&root, resolver, &[more, &["--dns", "192.0.2.1:53"]].concat());
        assert_eq!(other.code, Some(0), "{other:?}");
    }
    let stub = root.path().join("stub-resolv.conf");
    fs::write(&stub, "nameserver 127.0.0.53\n").expect("a file");
    fs::remove_file(path("resolv.conf")).expect("removing ours");
    symlink(&stub, path("resolv.conf")).expect("a link");
    let ended = write(&root, "resolvconf", &[]);
    assert_eq!(ended.code, Some(4));
    assert!(ended.stderr.contains("is a link to"), "{ended:?}");
    assert_eq!(write(&root, "resolvconf", &["--force"]).code, Some(0));
    assert_eq!(fs::read_link(path(".resolv.conf.before-callsign-2")).expect("the link that was there"), stub);
    assert_eq!(fs::read_to_string(&stub).expect("the link's end"), "nameserver 127.0.0.53\n");
    // Several files: none is written where one may not be.
    fs::create_dir_all(path("bind")).expect("a folder in it");
    fs::write(path("bind/callsign-options.conf"), "// mine\n").expect("a file");
    assert_eq!(write(&root, "bind", &[]).code, Some(4));
    assert!(!path("bind/callsign.conf").exists());
}

#[test]
fn what_cannot_be_is_refused_with_a_reason() {
    let root = tempfile::tempdir().expect("a directory");
    for (words, code, reason) in [
        (vec!["resolvconf", "--dns", "127.0.0.1:5300"], 2, "resolv.conf cannot say a port"),
        (vec!["docker", "--dns", "127.0.0.1:53"], 2, "containers cannot ask 127.0.0.1:53"),
        (vec!["resolved", "--dns", "0.0.0.0:53"], 2, "name the address that is asked"),
        (vec!["resolved", "--dns", "127.0.0.1:53", "--force"], 2, "--write"),
        (
            vec!["resolved", "--dns", "127.0.0.1:53", "--http", "127.0.0.1:80"],
            2,
            "--http says nothing to resolved",
        ),
        (vec!["envoy", "--http", "127.0.0.1:80"], 2, "--domain says nothing to envoy"),
        (vec!["bindd"], 2, "bind"),
    ] {
        let ended = callsign(&[&["setup"], words.as_slice(), &["--domain", "service.local"]].concat());
        assert_eq!(ended.code, Some(code), "{words:?}: {ended:?}");
        assert!(ended.stderr.contains(reason), "{words:?}: {}", ended.stderr);
    }
    let ended = write(&root, "unbound", &[]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("is the program installed on this machine?"), "{ended:?}");
}
