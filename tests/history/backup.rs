//! `store backup`, `restore` and `check`: a backup is the registry at one moment, and restoring one loses
//! no counter and no file.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use callsign::protocol::RecordForm;
use callsign::store::redo;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Draws, Ended, Server, callsign, seed};
use crate::picture::{ask, assert_same, command, fed, folded, lines, listed, register, revision, status};

/// The file of the store in its directory.
const FILE: &str = "callsign.redb";

/// A directory for the store of a server that comes and goes.
struct Data {
    directory: TempDir,
}

impl Data {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a directory") }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn serve(&self) -> Server {
        Server::start(&["--data", &self.path().display().to_string(), "--known-for", "24h"])
    }

    /// What is in it, by name; the pid of who held it last is no content.
    fn contents(&self) -> BTreeMap<String, Vec<u8>> {
        let Ok(entries) = fs::read_dir(self.path()) else { return BTreeMap::new() };
        let files = entries.map(|entry| {
            let entry = entry.expect("an entry");
            let name = entry.file_name().into_string().expect("a name");
            (name, fs::read(entry.path()).expect("a file"))
        });
        files.filter(|(name, _)| name != "callsign.lock").collect()
    }

    fn restore(&self, backup: &Path) -> Ended {
        store("restore", &[&backup.display().to_string()], &self.path())
    }

    fn check(&self) -> Ended {
        store("check", &[], &self.path())
    }
}

fn store(verb: &str, words: &[&str], data: &Path) -> Ended {
    let data = data.display().to_string();
    callsign(&[&["store", verb], words, &["--data", &data]].concat())
}

fn stop(mut server: Server) {
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait().code, Some(0));
}

/// A server with some instances, and a backup of it; both counters as it was made.
fn backed_up(data: &Data, name: &str, instances: usize) -> (PathBuf, u64, u64) {
    let server = data.serve();
    let mut client = server.client();
    for number in 0..instances {
        client.done("registered", &register(name, &format!("{number}"), 1 + number));
    }
    let file = data.directory.path().join(format!("{name}.backup"));
    let ended = ask(&server, &["store", "backup", &file.display().to_string()]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let status = status(&server);
    let serial = status["serial"].as_u64().expect("a serial");
    stop(server);
    (file, revision(&status), serial)
}

#[test]
fn a_backup_is_the_registry_at_one_moment() {
    const BACKUPS: usize = 3;
    let seed = seed();
    println!("backup: seed {seed}");
    let (data, stop_writing) = (Data::new(), AtomicBool::new(false));
    let server = data.serve();
    let files: Vec<PathBuf> =
        (0..BACKUPS).map(|number| data.directory.path().join(format!("{number}.backup"))).collect();
    std::thread::scope(|scope| {
        for writer in 0..3 {
            let (server, stop_writing) = (&server, &stop_writing);
            scope.spawn(move || {
                let (mut client, mut draws) = (server.client(), Draws(seed ^ writer));
                while !stop_writing.load(Ordering::SeqCst) {
                    client.ask(&command(&mut draws));
                }
            });
        }
        for (number, file) in files.iter().enumerate() {
            let enough = (number as u64 + 1) * 200;
            crate::harness::eventually("the writers' progress", crate::harness::DEADLINE, || {
                (revision(&status(&server)) >= enough).then_some(())
            });
            let ended = ask(&server, &["store", "backup", &file.display().to_string()]);
            assert_eq!(ended.code, Some(0), "{ended:?}");
        }
        stop_writing.store(true, Ordering::SeqCst);
    });
    let newest = revision(&status(&server));
    let all = fed(&mut server.client(), Some(0), newest);
    assert_eq!(folded(&all), listed(&server));
    for file in &files {
        let fresh = Data::new();
        let ended = fresh.restore(file);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(!ended.stdout.contains("what was there"), "{ended:?}");
        let checked = fresh.check();
        assert_eq!(checked.code, Some(0), "{checked:?}");
        let restored = fresh.serve();
        let log = lines(&ask(&restored, &["log", "--most", "1", "-o", "jsonl"]).stdout);
        let moment = revision(&log[0]);
        let then = folded(all.iter().filter(|change| revision(change) <= moment));
        assert_same(&listed(&restored), &then, &format!("seed {seed}: at revision {moment}"));
        let reread = fed(&mut restored.client(), Some(0), moment);
        assert_eq!(reread.len() as u64, moment, "the log is in it");
        println!("backup: at revision {moment} of {newest}, {} instances", then.len());
    }
}

#[test]
fn restoring_never_takes_a_counter_back() {
    let (older, newer) = (Data::new(), Data::new());
    // The newer one began as the older one.
    let (early, ..) = backed_up(&older, "early", 5);
    assert_eq!(newer.restore(&early).code, Some(0));
    let (late, ..) = backed_up(&newer, "late", 50);
    for (data, file, ids) in [(&newer, &early, 5), (&older, &late, 55)] {
        let before = {
            let server = data.serve();
            server.client().done("registered", &register("more", "a", 80));
            let status = status(&server);
            stop(server);
            status
        };
        let old_file = data.contents()[FILE].clone();
        let ended = data.restore(file);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let aside =
            data.contents().into_iter().find(|(name, _)| name.contains(".before-")).expect("kept aside");
        assert!(
            ended
                .stdout
                .contains(&format!("what was there is kept as {}", data.path().join(&aside.0).display()))
        );
        assert_eq!(check_file(&aside.1), check_file(&old_file), "the old file is whole");
        let server = data.serve();
        let after = status(&server);
        assert!(revision(&after) > revision(&before), "{before} {after}");
        assert!(after["serial"].as_u64() > before["serial"].as_u64(), "{before} {after}");
        assert_eq!(listed(&server).len(), ids);
        // And on from there, across a crash.
        let more = server.client().done("registered", &register("more", "b", 80));
        assert!(revision(&more) > revision(&after));
        stop(server);
        assert_eq!(fs::remove_file(data.path().join(&aside.0)).ok(), Some(()));
    }
}

/// What `check` says of a store file, in a directory of its own; opening one reserves revisions, so without.
fn check_file(octets: &[u8]) -> String {
    let alone = Data::new();
    fs::create_dir_all(alone.path()).expect("a directory");
    fs::write(alone.path().join(FILE), octets).expect("a file");
    let checked = alone.check();
    assert_eq!(checked.code, Some(0), "{checked:?}");
    let found = checked.stdout.split_once(": ").and_then(|(_, found)| found.split_once(", revision "));
    found.expect("a finding").0.to_owned()
}

/// A backup with these records, and the digest that fits.
fn forged(records: &[[String; 3]]) -> String {
    let mut digest = 0;
    let mut text = String::new();
    for [table, key, value] in records {
        let form = RecordForm { table: table.clone(), key: key.clone(), value: value.clone() };
        digest = form.digest(digest);
        text += &format!(
            "{}\n",
            format_args!(r#"{{"record":{{"table":"{table}","key":"{key}","value":"{value}"}}}}"#)
        );
    }
    let count = records.len();
    text + &format!("{{\"backup\":{{\"records\":{count},\"digest\":\"{digest:016x}\"}}}}\n")
}

/// The records of a backup.
fn records(text: &str) -> Vec<[String; 3]> {
    let field = |line: &Value, field: &str| line["record"][field].as_str().map(str::to_owned);
    let all = lines(text);
    let read = all
        .iter()
        .filter_map(|line| Some([field(line, "table")?, field(line, "key")?, field(line, "value")?]));
    read.collect()
}

#[test]
fn what_is_no_whole_backup_is_refused_and_changes_nothing() {
    let data = Data::new();
    let (file, ..) = backed_up(&data, "web", 3);
    let whole = fs::read_to_string(&file).expect("the backup");
    let good = records(&whole);
    assert_eq!(forged(&good), whole, "the test knows the form");
    let with = |change: &dyn Fn(&mut Vec<[String; 3]>)| {
        let mut records = good.clone();
        change(&mut records);
        forged(&records)
    };
    let place =
        |table: &str| good.iter().position(|record| record[0] == table).expect("a record of each table");
    let (format, instance, logged) = (meta(&good, "format"), place("instances"), place("log"));
    let cut: String = whole.lines().take(good.len()).map(|line| format!("{line}\n")).collect();
    let bad: [(&str, String); 14] = [
        ("empty", String::new()),
        ("no text", "\u{0}\u{1}\u{2}".to_owned()),
        ("foreign JSON", "{\"status\":{}}\n".to_owned()),
        ("a feed", format!("{}\n", json!({"change": {"revision": 1}}))),
        ("without its end", cut),
        ("half a line", whole[..whole.len() / 2].to_owned()),
        ("a record left out", whole.lines().skip(1).map(|line| format!("{line}\n")).collect()),
        ("a digit changed", whole.replacen(&good[instance][2][..8], "00000000", 1)),
        ("no digits", whole.replacen(&good[instance][2][..8], "xyxyxyxy", 1)),
        ("an unknown table", with(&|records| records[instance][0] = "others".to_owned())),
        ("of a newer version", with(&|records| records[format][2] = format!("{:016x}", 2))),
        ("no format", with(&|records| drop(records.remove(format)))),
        ("an instance that is none", with(&|records| records[instance][2] = "01ffff".to_owned())),
        ("a change that is none", with(&|records| records[logged][2] = "01ffff".to_owned())),
    ];
    let (before, sound) = (data.contents(), check_file(&data.contents()[FILE]));
    let bad_file = data.directory.path().join("bad.backup");
    for (what, text) in bad {
        fs::write(&bad_file, text).expect("a file");
        let ended = data.restore(&bad_file);
        assert_eq!(ended.code, Some(1), "{what}: {ended:?}");
        assert!(ended.stderr.starts_with("callsign: ") && ended.stdout.is_empty(), "{what}: {ended:?}");
        let after = data.contents();
        assert!(after.keys().eq(before.keys()), "{what}: {:?}", after.keys());
        // Looking at the counters of a store reserves some in its file; what it says stays.
        assert_eq!(check_file(&after[FILE]), sound, "{what}");
    }
    let missing = data.restore(&data.directory.path().join("not-there"));
    assert_eq!(missing.code, Some(1), "{missing:?}");
    // Into a directory with nothing in it, nothing comes.
    let fresh = Data::new();
    assert_eq!(fresh.restore(&bad_file).code, Some(1));
    assert!(fresh.contents().is_empty(), "{:?}", fresh.contents().keys());
    let server = data.serve();
    assert_eq!(listed(&server).len(), 3);
}

/// Where a counter stands among the records.
fn meta(records: &[[String; 3]], name: &str) -> usize {
    let key: String = name.bytes().map(|octet| format!("{octet:02x}")).collect();
    let found = records.iter().position(|record| record[0] == "meta" && record[1] == key);
    found.expect("a counter of that name")
}

#[test]
fn a_held_directory_is_left_alone() {
    let data = Data::new();
    let (file, ..) = backed_up(&data, "web", 3);
    let server = data.serve();
    for ended in [data.check(), data.restore(&file)] {
        assert_eq!(ended.code, Some(5), "{ended:?}");
        assert!(ended.stderr.contains(&format!("process {} uses this directory", server.pid())), "{ended:?}");
    }
    let Err(second) = Server::launch(&[], &["--data", &data.path().display().to_string()]) else {
        panic!("two servers on one directory")
    };
    assert!(second.stderr.contains(&format!("process {}", server.pid())), "{second:?}");
    server.client().done("registered", &register("web", "still", 80));
    drop(server);
    let checked = data.check();
    assert_eq!(checked.code, Some(0), "{checked:?}");
    assert!(checked.stdout.contains(": 4 instances, 0 remembered, 4 changes, revision "), "{checked:?}");
}

#[test]
fn a_check_finds_damage_and_leaves_the_file() {
    let data = Data::new();
    backed_up(&data, "web", 50);
    assert_eq!(data.check().code, Some(0));
    let path = data.path().join(FILE);
    let whole = fs::read(&path).expect("the store");
    let damaged = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut octets = whole.clone();
        change(&mut octets);
        fs::write(&path, octets).expect("a file");
        let before = data.contents();
        let ended = data.check();
        assert!(ended.stderr.starts_with("callsign: ") || ended.code == Some(0), "{ended:?}");
        assert!(data.contents().keys().eq(before.keys()), "nothing is moved");
        ended.code
    };
    assert_eq!(damaged(&|octets| octets.truncate(octets.len() / 2)), Some(1));
    // In front is the redo log, which says nothing after a stop in order.
    let tables = redo::OCTETS as usize;
    assert_eq!(damaged(&|octets| octets[..tables].fill(7)), Some(0));
    assert_eq!(damaged(&|octets| octets[tables..tables + 64].fill(0)), Some(1));
    assert_eq!(damaged(&|octets| octets.splice(.., *b"some other file").for_each(drop)), Some(1));
    // In the middle of each record: its page's checksum does not fit any more. Some pages are of the past, and
    // nobody reads them.
    let names: Vec<usize> = (tables..whole.len() - 3).filter(|at| &whole[*at..*at + 3] == b"web").collect();
    assert_eq!(damaged(&|octets| names.iter().for_each(|at| octets[*at] ^= 0x20)), Some(1));
    let nothing = Data::new();
    assert_eq!(nothing.check().code, Some(1), "no store is no sound store");
}

#[test]
fn a_backup_is_its_owners_alone_and_tells_what_it_replaces() {
    let data = Data::new();
    let (file, ..) = backed_up(&data, "web", 1);
    let mode = || fs::metadata(&file).expect("the backup").permissions().mode() & 0o777;
    assert_eq!(mode(), 0o600);
    // What an older program left behind.
    let open = fs::Permissions::from_mode(0o644);
    fs::set_permissions(&file, open.clone()).expect("a mode");
    let half = data.directory.path().join("web.backup.new");
    fs::write(&half, "half a backup").expect("a file");
    fs::set_permissions(&half, open).expect("a mode");
    let server = data.serve();
    let backup = |path: &Path| ask(&server, &["store", "backup", &path.display().to_string()]);
    let again = backup(&file);
    assert_eq!(again.code, Some(0), "{again:?}");
    assert!(again.stdout.ends_with(" records; the one that was there is replaced\n"), "{again:?}");
    assert!(mode() == 0o600 && !half.exists(), "{:o}", mode());
    let other = backup(&data.directory.path().join("other.backup"));
    assert!(other.stdout.ends_with(" records\n"), "{other:?}");
    let folder = data.directory.path().join("gone");
    let nowhere = backup(&folder.join("web.backup"));
    assert_eq!(nowhere.code, Some(1), "{nowhere:?}");
    let said = format!(": the folder {} is not there\n", folder.display());
    assert!(nowhere.stderr.ends_with(&said), "{nowhere:?}");
}

#[test]
fn a_server_that_keeps_nothing_has_no_backup() {
    let server = Server::start(&["--store", "memory"]);
    let file = server.directory().join("backup");
    let ended = ask(&server, &["store", "backup", &file.display().to_string()]);
    assert_eq!(ended.code, Some(5), "{ended:?}");
    assert!(ended.stderr.contains("--store memory"), "{ended:?}");
    let left: Vec<_> = fs::read_dir(server.directory()).expect("the directory").flatten().collect();
    assert!(left.iter().all(|entry| !entry.path().display().to_string().contains("backup")), "{left:?}");
}
