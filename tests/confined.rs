//! What a server that is up can no longer do, and what it still can.
//!
//! Needs: strace
//!
//! The way to a file that it has no business with is
//! a service file that is a link, and that somebody puts there.
//!
//! What the kernel refuses one by one is tested beside `src/serve/confine.rs`; that everything else still works, by all other tests,
//! whose servers are confined as well.

mod harness;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use harness::{DEADLINE, Server, eventually};
use serde_json::json;

/// A service file, as DIR/NAME.toml says it.
fn file(folder: &Path, service: &str) {
    let text = format!("[[register]]\nservice = \"{service}\"\naddress = \"10.0.0.7\"\nport = 80\n");
    let new = folder.join(".new");
    fs::write(&new, text).expect("a service file");
    fs::rename(&new, folder.join(format!("{service}.toml"))).expect("a service file");
}

fn services(server: &Server) -> Vec<String> {
    let list = server.client().list();
    let mut names: Vec<String> =
        list.iter().filter_map(|one| Some(one["service"].as_str()?.to_owned())).collect();
    names.sort();
    names
}

/// `callsign status` says how far the server is confined.
fn confined(server: &Server) -> String {
    let status = server.client().done("status", &json!({"status": {}}));
    status["confined"].as_str().expect("what is confined").to_owned()
}

/// What is registered of: a file, a link to one elsewhere, and a file that comes after both. And what is logged.
fn registered(place: &Path, flags: &[&str]) -> (Vec<String>, Server) {
    let (inside, outside) = (place.join("services"), place.join("elsewhere"));
    for folder in [&inside, &outside] {
        let _ = fs::remove_dir_all(folder);
        fs::create_dir(folder).expect("a folder");
    }
    let folder = inside.display().to_string();
    let mut all = vec!["--store", "memory", "--services", &folder];
    all.extend(flags);
    let server = Server::start(&all);
    file(&outside, "canary");
    symlink(outside.join("canary.toml"), inside.join("canary.toml")).expect("a link");
    file(&inside, "later");
    // One look finds both, in the order of their names.
    eventually("the last file", DEADLINE, || services(&server).contains(&"later".to_owned()).then_some(()));
    (services(&server), server)
}

#[test]
fn a_file_that_is_not_needed_is_out_of_reach() {
    let place = tempfile::tempdir().expect("a directory");
    let place = place.path();
    let (found, server) = registered(place, &[]);
    assert_eq!(confined(&server), "files", "this test needs Linux 6.12 with Landlock");
    assert_eq!(found, ["later"]);
    let log = server.stderr();
    assert!(log.contains("canary.toml") && log.contains("Permission denied"), "{log}");

    let more = place.join("elsewhere").display().to_string();
    let (found, server) = registered(place, &["--confine-read", &more]);
    assert_eq!((confined(&server).as_str(), found), ("files", vec!["canary".to_owned(), "later".to_owned()]));

    let (found, server) = registered(place, &["--confine", "none"]);
    assert_eq!(confined(&server), "nothing: `confine` is `none`");
    assert_eq!(found, ["canary", "later"]);
}

#[test]
fn no_thread_gains_privileges_but_where_programs_are_run() {
    let threads = |server: &Server| -> Vec<String> {
        let tasks = fs::read_dir(format!("/proc/{}/task", server.pid())).expect("a process").flatten();
        let text = |task: fs::DirEntry| fs::read_to_string(task.path().join("status")).expect("a thread");
        let line = |text: String| {
            let line = text.lines().find_map(|line| line.strip_prefix("NoNewPrivs:"));
            line.expect("a line of that name").trim().to_owned()
        };
        let mut found: Vec<String> = tasks.map(text).map(line).collect();
        assert!(found.len() > 2, "a runtime and the threads of DNS");
        found.dedup();
        found
    };
    for (flags, gains) in [(&[][..], "1"), (&["--confine", "none"], "1"), (&["--probe-commands"], "0")] {
        let server = Server::start(&[&["--store", "memory"], flags].concat());
        assert_eq!(threads(&server), [gains], "{flags:?}");
        let is_confined = confined(&server).starts_with("files");
        assert_eq!(is_confined, flags.is_empty(), "{flags:?}");
    }
}

/// A kernel of before 5.13, as far as the server can see.
#[test]
fn without_landlock_it_serves_and_says_so() {
    let strace = ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=landlock_create_ruleset"];
    let without = ["-e", "inject=landlock_create_ruleset:error=ENOSYS"];
    let server = Server::start_under(&[&strace[..], &without].concat(), &["--store", "memory"]);
    assert_eq!(confined(&server), "nothing: there is no Landlock here");
}

#[test]
fn what_cannot_be_confined_is_said_at_the_start() {
    for (flags, phrase) in [
        (&["--confine-read", "/no/such/folder/here"][..], "confine-read names /no/such/folder/here"),
        (&["--confine-read", "/etc", "--confine", "none"], "--confine-read is of no use"),
        (&["--confine-read", "/etc", "--probe-commands"], "--confine-read is of no use"),
        (&["--confine", "some"], "--confine must be `files` or `none`"),
    ] {
        let Err(ended) = Server::launch(&[], flags) else { panic!("{flags:?} was served") };
        assert!(ended.code != Some(0) && ended.stderr.contains(phrase), "{flags:?}: {ended:?}");
    }
}
