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
    says(&server, "web.toml too; nothing of it is registered");
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
    becomes(&server, &["by-hand/x", "web/web-1"]);
    stop(server);
    files.write("web.toml", &WEB.replace("web-1", "web-2"));
    let server = files.start();
    becomes(&server, &["by-hand/x", "web/web-2"]);
}

/// Waits until the instance is as `wanted` says, field by field.
fn is_like(server: &Server, id: &str, wanted: &Value) {
    eventually(&format!("{id} as {wanted}"), DEADLINE, || {
        let all = instances(server);
        let instance = all.iter().find(|instance| instance["id"] == id)?;
        let wanted = wanted.as_object().expect("an object");
        wanted.iter().all(|(field, value)| instance[field] == *value).then_some(())
    });
}

#[test]
fn what_was_said_of_an_instance_since_outlives_a_restart_and_an_edit() {
    let files = Files::new();
    let drained = WEB.replace("web-1", "drained");
    let ill = format!(
        "{}checks = [{{ id = \"mine\", status = \"passing\" }}, {{ id = \"up\", tcp = \"127.0.0.1:1\", interval = \"1s\" }}]\n",
        WEB.replace("web-1", "ill").replace("10.0.0.7", "10.0.0.8")
    );
    files.write("web.toml", &[WEB, &drained, &ill].concat());
    let server = files.start();
    is_like(&server, "ill", &json!({"live": false}));
    let mut client = server.client();
    client.done("draining", &json!({"drain": {"service": "web", "id": "drained"}}));
    for check in ["mine", "disk"] {
        let report = json!({"service": "web", "id": "ill", "check": check, "status": "warning"});
        client.done("reported", &json!({ "report": report }));
    }
    let statuses = |server: &Server| -> Vec<String> {
        let all = instances(server);
        let ill = all.iter().find(|instance| instance["id"] == "ill").expect("it is registered");
        let checks = ill["checks"].as_array().expect("a list").iter();
        let shown = |check: &Value| format!("{}: {}", check["id"], check["status"]).replace('"', "");
        let mut shown: Vec<String> = checks.map(shown).collect();
        shown.sort();
        shown
    };
    let as_said = ["disk: warning", "mine: warning", "up: critical"];
    let lives_on = |server: &Server| {
        is_like(server, "drained", &json!({"draining": true, "live": false}));
        assert_eq!(statuses(server), as_said);
    };
    let revision = instances(&server).iter().map(|instance| instance["revision"].as_u64()).max();
    stop(server);
    let server = files.start();
    lives_on(&server);
    assert_eq!(
        instances(&server).iter().map(|instance| instance["revision"].as_u64()).max(),
        revision,
        "a start changes nothing that is as the files say"
    );
    // A comment is no news, and neither is one instance's tag to another.
    files.write("web.toml", &[WEB, &drained, &ill, "# said of nobody\n", "tags = [\"v2\"]\n"].concat());
    is_like(&server, "ill", &json!({"tags": ["v2"]}));
    lives_on(&server);
    // What a file said of a check and says otherwise is done; what it lists no more goes, and what others reported stays.
    files.write("web.toml", &[WEB, &drained, &ill.replace("passing", "maintenance")].concat());
    is_like(&server, "ill", &json!({"tags": []}));
    assert_eq!(statuses(&server), ["disk: warning", "mine: maintenance", "up: critical"]);
    let unchecked = ill.split_inclusive("checks =").next().expect("its first part").replace("checks =", "");
    files.write("web.toml", &[WEB, &drained, &unchecked].concat());
    is_like(&server, "ill", &json!({"live": true}));
    assert_eq!(statuses(&server), ["disk: warning"]);
    is_like(&server, "drained", &json!({"draining": true}));
    // Registering an instance again, which is what another fact of it is, ends its drain.
    files.write("web.toml", &[WEB, &drained.replace("10.0.0.7", "10.0.0.9")].concat());
    is_like(&server, "drained", &json!({"draining": false, "live": true}));
}

#[test]
fn what_moves_from_file_to_file_stays_registered() {
    let files = Files::new();
    let db = WEB.replace("web", "db");
    files.write("b.toml", &[WEB, &db].concat());
    let server = files.start();
    let created = instances(&server)[1]["registered"].clone();
    let source =
        |name: &str| json!({ "source": files.path(name).display().to_string(), "registered": created });
    // The new file first, and the old one after it.
    files.write("c.toml", WEB);
    says(&server, "b.toml too; nothing of it is registered");
    files.write("b.toml", &db);
    is_like(&server, "web-1", &source("c.toml"));
    // Both at one look, whichever of them is read first.
    for (from, to) in [("c.toml", "a.toml"), ("a.toml", "c.toml")] {
        files.write(to, WEB);
        fs::remove_file(files.path(from)).expect("removing it");
        is_like(&server, "web-1", &source(to));
    }
    // Two that change places.
    files.write("b.toml", WEB);
    files.write("c.toml", &db);
    is_like(&server, "web-1", &source("b.toml"));
    is_like(&server, "db-1", &json!({ "source": files.path("c.toml").display().to_string() }));
    assert_eq!(ids(&server), ["db/db-1", "web/web-1"]);
}

#[test]
fn a_file_that_cannot_be_read_for_a_while_takes_nothing_away() {
    let files = Files::new();
    let away = files.directory.path().join("elsewhere.toml");
    fs::write(&away, WEB).expect("writing a file");
    std::os::unix::fs::symlink(&away, files.path("web.toml")).expect("a link to it");
    let server = files.start();
    fs::remove_file(&away).expect("removing it");
    says(&server, "web.toml:1: No such file or directory (os error 2); what the file said before stays");
    fs::write(&away, WEB.replace("10.0.0.7", "10.0.0.8")).expect("writing it again");
    is_like(&server, "web-1", &json!({"address": ["10.0.0.8"]}));
    // Longer than a service file may be.
    files.write("web.toml", &"#".repeat((4 << 20) + 1));
    says(&server, "web.toml:1: a service file has at most 4194304 octets; what the file said before stays");
    assert_eq!(ids(&server), ["web/web-1"]);
    files.write("web.toml", WEB);
    is_like(&server, "web-1", &json!({"address": ["10.0.0.7"]}));
    fs::remove_file(files.path("web.toml")).expect("removing it");
    becomes(&server, &[]);
}

#[test]
fn what_is_refused_is_asked_for_again_and_said_once() {
    let files = Files::new();
    let zones = files.directory.path().join("zones");
    fs::create_dir(&zones).expect("a directory");
    let zone = zones.join("service.local.zone");
    fs::write(&zone, "web 60 IN A 10.9.9.9\n").expect("writing a zone");
    files.write("web.toml", WEB);
    let server = files.start_with(&["--zones", &zones.display().to_string()]);
    says(&server, "`web` is taken by a record at");
    files.write("db.toml", &WEB.replace("web", "db"));
    becomes(&server, &["db/db-1"]);
    assert_eq!(server.stderr().matches("`web` is taken by a record at").count(), 1, "{}", server.stderr());
    fs::write(&zone, "other 60 IN A 10.9.9.9\n").expect("writing a zone");
    becomes(&server, &["db/db-1", "web/web-1"]);
}

#[test]
fn what_another_has_taken_over_is_not_the_files_to_take_out() {
    let files = Files::new();
    files.write("web.toml", WEB);
    files.write("db.toml", &WEB.replace("web", "db"));
    let server = files.start();
    let form = json!({"service": "web", "id": "web-1", "address": "10.0.0.9", "port": 1, "lease": "none"});
    server.client().done("registered", &json!({ "register": form }));
    fs::remove_file(files.path("web.toml")).expect("removing it");
    fs::remove_file(files.path("db.toml")).expect("removing it");
    becomes(&server, &["web/web-1"]);
    is_like(&server, "web-1", &json!({"address": ["10.0.0.9"]}));
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
