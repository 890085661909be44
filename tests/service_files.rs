//! Service files: what a directory says is registered, for as long as it says so.

mod harness;

use std::fs;
use std::path::{Path, PathBuf};

use harness::{DEADLINE, Server, callsign, eventually};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A directory of files, and servers that are told of it one after the other.
struct Files {
    directory: TempDir,
}

impl Files {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        fs::create_dir(directory.path().join("services")).expect("a directory in it");
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("services").join(name)
    }

    /// As an editor does it: the file is there as a whole or not at all.
    fn write(&self, name: &str, text: &str) {
        let new = self.path(&format!(".{name}.new"));
        fs::write(&new, text).expect("writing a file");
        fs::rename(new, self.path(name)).expect("putting it into place");
    }

    fn start(&self) -> Server {
        self.start_with(&[])
    }

    fn start_with(&self, flags: &[&str]) -> Server {
        let shown = |path: &Path| path.display().to_string();
        let (services, data) =
            (shown(&self.directory.path().join("services")), shown(&self.directory.path().join("data")));
        Server::start(&[&["--services", &services, "--data", &data], flags].concat())
    }
}

fn instances(server: &Server) -> Vec<Value> {
    let mut instances = server.client().list();
    instances.sort_by_key(|instance| format!("{}/{}", instance["service"], instance["id"]));
    instances
}

fn ids(server: &Server) -> Vec<String> {
    let id = |instance: &Value| format!("{}/{}", instance["service"], instance["id"]).replace('"', "");
    instances(server).iter().map(id).collect()
}

/// Waits until exactly these are registered.
fn becomes(server: &Server, wanted: &[&str]) {
    eventually("what the files say", DEADLINE, || (ids(server) == wanted).then_some(()));
}

fn stop(mut server: Server) {
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait().code, Some(0));
}

/// Waits until the server's log has the words.
fn says(server: &Server, words: &str) {
    eventually(words, DEADLINE, || server.stderr().contains(words).then_some(()));
}

const WEB: &str = "[[register]]\nservice = \"web\"\nid = \"web-1\"\naddress = \"10.0.0.7\"\nport = 80\n";

#[test]
fn what_a_file_says_is_registered_and_what_it_no_longer_says_is_not() {
    let files = Files::new();
    files.write("web.toml", WEB);
    files.write("readme.txt", "no service file");
    let server = files.start();
    assert_eq!(ids(&server), ["web/web-1"], "before the server is ready");
    let web = &instances(&server)[0];
    assert_eq!((web["lease"].as_str(), web["live"].as_bool()), (Some("none"), Some(true)));
    assert_eq!(web["source"], files.path("web.toml").display().to_string());
    let place = format!("unix:{}", server.socket.display());
    let shown = callsign(&["show", "web", "--server", &place]).stdout;
    let row = shown.lines().find(|line| line.starts_with("source ")).expect("the file that says so");
    assert!(row.ends_with(&format!("  {}", files.path("web.toml").display())), "{shown}");

    let second = WEB.replace("web-1", "web-2").replace("port = 80", "port = 81");
    files.write("web.toml", &format!("{WEB}\n{second}"));
    becomes(&server, &["web/web-1", "web/web-2"]);
    files.write("web.toml", &second);
    becomes(&server, &["web/web-2"]);
    fs::remove_file(files.path("web.toml")).expect("removing it");
    becomes(&server, &[]);
}

#[test]
fn a_bad_file_keeps_what_it_said_and_is_named_with_its_line() {
    let files = Files::new();
    files.write("web.toml", WEB);
    let server = files.start();
    files.write("web.toml", &WEB.replace("port = 80", "prot = 80"));
    says(&server, "web.toml:5: unknown field `prot`");
    assert_eq!(ids(&server), ["web/web-1"]);
    // One that says the same as another is refused as a whole.
    files.write("other.toml", WEB);
    says(&server, "web/web-1@");
    files.write("web.toml", &WEB.replace("10.0.0.7", "10.0.0.8"));
    eventually("the new address", DEADLINE, || {
        (instances(&server)[0]["address"][0] == "10.0.0.8").then_some(())
    });
    // A server that starts with a bad file has what it said before.
    files.write("web.toml", "[[register]\n");
    says(&server, "web.toml:1:");
    fs::remove_file(files.path("other.toml")).expect("removing it");
    stop(server);
    let server = files.start();
    assert_eq!(ids(&server), ["web/web-1"]);
    files.write("web.toml", "");
    becomes(&server, &[]);
}

#[test]
fn files_that_lose_several_instances_at_once_empty_no_service() {
    let db = WEB.replace("web", "db");
    let others = ["web-2", "web-3"].map(|id| WEB.replace("web-1", id));
    let all = [WEB, &others[0], &others[1], &db].concat();
    for allowed in [false, true] {
        let files = Files::new();
        files.write("all.toml", &all);
        let server = files.start_with(if allowed { &["--allow-empty"] } else { &[] });
        becomes(&server, &["db/db-1", "web/web-1", "web/web-2", "web/web-3"]);
        // Two of three leave together, and one is left.
        files.write("all.toml", &[WEB, &db].concat());
        becomes(&server, &["db/db-1", "web/web-1"]);
        files.write("all.toml", "");
        if allowed {
            becomes(&server, &[]);
            continue;
        }
        says(&server, "no service file defines it any more, and it stays");
        assert_eq!(ids(&server), ["db/db-1", "web/web-1"]);
        // What one look has kept is no look's any more, and the log has it once.
        let holder = json!({"service": "db", "id": "db-1"});
        server.client().done("deregistered", &json!({ "deregister": holder }));
        files.write("other.toml", &WEB.replace("web", "other"));
        becomes(&server, &["other/other-1", "web/web-1"]);
        assert_eq!(server.stderr().matches("and it stays").count(), 2, "{}", server.stderr());
        fs::remove_file(files.path("other.toml")).expect("removing it");
        becomes(&server, &["web/web-1"]);
        // One alone is meant.
        files.write("all.toml", &all);
        becomes(&server, &["db/db-1", "web/web-1", "web/web-2", "web/web-3"]);
        files.write("all.toml", &all.replace(&db, ""));
        becomes(&server, &["web/web-1", "web/web-2", "web/web-3"]);
        stop(server);
    }
}

#[test]
fn what_left_while_the_server_was_away_is_gone_after_its_start() {
    let files = Files::new();
    files.write("web.toml", WEB);
    files.write("db.toml", &WEB.replace("web", "db"));
    let server = files.start();
    assert_eq!(ids(&server), ["db/db-1", "web/web-1"]);
    let form = json!({"service": "by-hand", "id": "x", "address": "10.0.0.9", "port": 1, "lease": "none"});
    server.client().done("registered", &json!({ "register": form }));
    stop(server);
    fs::remove_file(files.path("db.toml")).expect("removing it");
    let server = files.start();
    assert_eq!(ids(&server), ["by-hand/x", "web/web-1"]);
}

#[test]
fn a_definition_of_consuls_is_taken_with_its_checks() {
    let files = Files::new();
    files.write(
        "web.json",
        r#"{"services": [
            {"name": "web", "id": "w1", "port": 80, "address": "10.0.0.7", "tags": ["v2"],
             "check": {"tcp": "127.0.0.1:1", "interval": "10s", "deregister_critical_service_after": "1h"}},
            {"Name": "db", "Port": 5432, "Address": "10.0.0.8"}
        ]}"#,
    );
    let server = files.start();
    assert_eq!(ids(&server), ["db/db", "web/w1"]);
    let web = &instances(&server)[1];
    assert_eq!(web["checks"][0]["id"], "service:w1");
    assert_eq!(web["checks"][0]["definition"]["tcp"], "127.0.0.1:1");
    files.write("web.json", "{\"service\": {\n\"name\": \"web\", \"prot\": 1}}");
    says(&server, "web.json:1: Request decode failed: json: unknown field");
    assert_eq!(ids(&server), ["db/db", "web/w1"]);
}
