//! Files that this program did not write, and directories that are not free.

use std::fs;
use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase, TableDefinition};
use serde_json::json;

use crate::harness::{Ended, Server};

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

fn start_on(data: &Path) -> Result<Server, Ended> {
    Server::launch(&[], &["--data", &data.display().to_string()])
}

fn refused(data: &Path) -> Ended {
    match start_on(data) {
        Err(ended) => ended,
        Ok(_) => panic!("the server started"),
    }
}

/// A data directory with one instance, and its file.
fn prepared() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    let mut server = start_on(&data).expect("a server");
    server.client().done(
        "registered",
        &json!({"register": {"service": "web", "id": "a", "address": "10.0.0.7", "port": 80, "lease": "none"}}),
    );
    server.crash();
    let file = data.join("callsign.redb");
    (directory, data, file)
}

#[test]
fn a_second_server_is_refused_with_the_pid_of_the_first() {
    let (_directory, data, _) = prepared();
    let first = start_on(&data).expect("a server");
    let ended = refused(&data);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains(&format!("process {} ", first.pid())), "{ended:?}");
    assert!(ended.stderr.contains("--data"), "{ended:?}");
    assert_eq!(first.client().list().len(), 1);
    drop(first);
    assert_eq!(start_on(&data).expect("a server").client().list().len(), 1, "the lock went with its holder");
}

#[test]
fn a_file_of_a_newer_version_is_refused_and_left_alone() {
    let (_directory, data, file) = prepared();
    let database = Database::open(&file).expect("the store");
    let transaction = database.begin_write().expect("a transaction");
    transaction.open_table(META).expect("a table").insert("format", 99).expect("a write");
    transaction.commit().expect("a commit");
    drop(database);
    let ended = refused(&data);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("newer version"), "{ended:?}");
    assert!(ended.stderr.contains("--data"), "{ended:?}");
    let files: Vec<_> =
        fs::read_dir(&data).expect("the directory").flatten().map(|it| it.file_name()).collect();
    assert_eq!(files.len(), 2, "{files:?}");
    let database = Database::open(&file).expect("the store");
    let meta = database.begin_read().expect("a transaction").open_table(META).expect("a table");
    assert_eq!(meta.get("format").expect("a read").map(|format| format.value()), Some(99));
}

#[test]
fn a_damaged_file_is_kept_aside_and_the_server_starts_and_says_so() {
    for damage in [0..64, 8192..8200] {
        let (_directory, data, file) = prepared();
        let mut octets = fs::read(&file).expect("the file");
        if damage.start == 0 {
            octets[damage.clone()].fill(0xee);
        } else {
            // Every page: whichever the registry is in.
            octets[4096..].iter_mut().step_by(16).for_each(|octet| *octet ^= 0x55);
        }
        fs::write(&file, &octets).expect("writing the file");
        let mut server = start_on(&data).unwrap_or_else(|ended| panic!("{ended:?}"));
        assert!(server.client().list().is_empty());
        let said = server.stderr();
        assert!(said.contains("it is kept as") && said.contains("starts empty"), "{said}");
        let aside = fs::read_dir(&data).expect("the directory").flatten().map(|entry| entry.path());
        let aside: Vec<_> = aside.filter(|path| path.display().to_string().contains("damaged")).collect();
        assert_eq!(aside.len(), 1, "{aside:?}");
        assert_eq!(fs::read(&aside[0]).expect("the file kept aside").len(), octets.len());
        // It is a store like any other from here on.
        server.client().done(
            "registered",
            &json!({"register": {"service": "web", "id": "b", "address": "10.0.0.7", "port": 80, "lease": "none"}}),
        );
        server.crash();
        assert_eq!(start_on(&data).expect("a server").client().list().len(), 1);
    }
}
