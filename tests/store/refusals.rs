//! Files that this program did not write, and directories that are not free.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use callsign::store::redo;
use nix::sys::signal::Signal;
use redb::backends::FileBackend;
use redb::{Database, ReadableDatabase, StorageBackend, TableDefinition};
use serde_json::json;

use crate::harness::{Ended, Server};

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// What is behind the redo log in a file.
#[derive(Debug)]
struct Tables(FileBackend);

impl StorageBackend for Tables {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.len()? - redo::OCTETS)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(redo::OCTETS + offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(redo::OCTETS + len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(redo::OCTETS + offset, data)
    }
}

fn tables(file: &Path) -> Database {
    let file = fs::File::options().read(true).write(true).open(file).expect("the store");
    let backend = Tables(FileBackend::new(file).expect("a file"));
    Database::builder().create_with_backend(backend).expect("the store's tables")
}

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
fn a_store_of_before_there_were_tokens_takes_one() {
    const TOKENS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("tokens");
    let (_directory, data, file) = prepared();
    // Stopped in order: nothing in the redo log is a reason to write the tables.
    let mut server = start_on(&data).expect("a server");
    server.signal(Signal::SIGTERM);
    server.wait();
    let database = tables(&file);
    let transaction = database.begin_write().expect("a transaction");
    assert!(!transaction.delete_table(TOKENS).expect("a write"), "it is made with the first token");
    drop(transaction);
    drop(database);
    for _ in 0..2 {
        // Left as it was found, the second time too.
        let mut server = start_on(&data).unwrap_or_else(|ended| panic!("{ended:?}"));
        let mut client = server.client();
        assert_eq!(client.list().len(), 1);
        client.send(&json!({"backup": {}}));
        while client.receive()["backup"].is_null() {}
        server.crash();
    }
    let mut server = start_on(&data).expect("a server");
    let create = json!({"token": {"create": {"name": "ci", "allow": ["read"]}}});
    server.client().done("created", &create);
    server.crash();
    let server = start_on(&data).expect("a server");
    let tokens = server.client().done("tokens", &json!({"token": {"list": {}}}));
    assert_eq!((tokens["tokens"][0]["name"].as_str(), server.client().list().len()), (Some("ci"), 1));
}

#[test]
fn a_file_of_a_newer_version_is_refused_and_left_alone() {
    let (_directory, data, file) = prepared();
    let database = tables(&file);
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
    assert_eq!(files.len(), 3, "the file, the lock and what was served: {files:?}");
    let database = tables(&file);
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
