//! The verbs against a real server.

use std::io::Write;

use insta::assert_snapshot;

use super::*;

#[test]
fn an_instance_from_registration_to_its_end() {
    let server = Server::start();
    assert_snapshot!(server.says("register web 10.0.0.7:8080 --id web-1 --host h1 --tag v2 --protocol http --meta zone=a --port-name dns=53/udp --lease 15s"), @"registered web web-1 at 10.0.0.7 port 8080 as web-1.web.service.local., lease 15s");
    assert_snapshot!(server.says("register web [2001:db8::8]:8080 --id web-2 --host h2 --priority 1 --lease none"), @"registered web web-2 at 2001:db8::8 port 8080 as web-2.web.service.local., lease none");
    assert_snapshot!(server.says("register db 5432 --target db.example.com. --id db --host h1 --lease none"), @"registered db db at db.example.com. port 5432 as db.db.service.local., lease none");
    assert_snapshot!(server.says("ls"), @"
    SERVICE  LIVE  PORTS            TAGS
    db       1/1   5432             -
    web      2/2   8080,dns=53/udp  v2
    ");
    assert_snapshot!(server.says("ls web"), @"
    SERVICE  ID     HOST  ADDRESS      PORTS            HEALTH   LEASE  PROTOCOL  TAGS
    web      web-1  h1    10.0.0.7     8080,dns=53/udp  passing  15s    http      v2
    web      web-2  h2    2001:db8::8  8080             passing  none   -         -
    ");
    assert_snapshot!(server.says("ls --tag v2 --port 53"), @"
    SERVICE  ID     HOST  ADDRESS   PORTS            HEALTH   LEASE  PROTOCOL  TAGS
    web      web-1  h1    10.0.0.7  8080,dns=53/udp  passing  15s    http      v2
    ");
    assert_snapshot!(server.says("show web web-1"), @"
    service     web
    id          web-1
    host        h1
    label       web-1
    address     10.0.0.7
    ports       8080,dns=53/udp
    protocol    http
    tags        v2
    meta        zone=a
    weight      1
    priority    0
    lease       15s, 15s left
    health      passing since TIME
    live        yes
    registered  TIME
    revision    1
    ");
    assert_eq!(server.says("show web --url"), "http://10.0.0.7:8080\n");
    assert_eq!(server.says("show db --url"), "http://db.example.com:5432\n");
    assert_snapshot!(server.says("heartbeat web web-1 --host h1"), @"renewed web web-1 for 15s");
    assert_snapshot!(server.says("drain web web-1 --host h1"), @"draining web web-1");
    assert_eq!(server.says("show web --url"), "http://[2001:db8::8]:8080\n");
    assert_snapshot!(server.says("deregister web web-1 --host h1"), @"deregistered web web-1");
    assert_snapshot!(server.says("deregister web web-1 --host h1"), @"
    web/web-1@h1 was not registered
    ! hint: `callsign ls web` lists who is registered; another host's needs --host
    ");
    assert_snapshot!(server.says("drain web typo --host h1"), @"
    ! callsign: web/typo@h1 is not registered
    ! hint: there is no such instance; `callsign ls web` lists who is registered; another host's needs --host
    exit Some(3)
    ");
    assert_snapshot!(server.says("deregister web web-2 --host h2"), @"deregistered web web-2");
    assert_snapshot!(server.says("heartbeat web web-1 --host h1"), @"
    ! callsign: web/web-1@h1 is not registered; register it again
    exit Some(3)
    ");
    assert_snapshot!(server.says("show web"), @"
    ! callsign: web is not registered
    ! hint: `callsign explain web` says what became of it; `callsign ls` lists what is there
    exit Some(3)
    ");
    assert_snapshot!(server.says("ls web"), @"
    ! callsign: web is not registered
    ! hint: `callsign explain web` says what became of it; `callsign ls` lists what is there
    exit Some(3)
    ");
    // The verdict is the server's; its words are tested there.
    let explained = server.says("explain web");
    let (verdict, instances) = explained.split_once('\n').unwrap();
    assert!(verdict.starts_with("web.service.local.: NOERROR, no record"), "{verdict}");
    assert_snapshot!(instances, @"

    ID     HOST  ANSWERS  RULE
    web-2  h2    out      gone: deregistered at TIME
    web-1  h1    out      gone: deregistered at TIME
    ");
    assert_snapshot!(server.says("explain dbx"), @"
    dbx.service.local.: NXDOMAIN: dbx: no such service
    did you mean `db`?
    exit Some(3)
    ");
    assert_snapshot!(server.says("register a_b 10.0.0.7:80 --lease 15s"), @"
    ! callsign: service must be letters, digits and hyphens, with no hyphen at either end; try `a-b`
    exit Some(2)
    ");
    assert_snapshot!(server.says("register web 80 --target 10.0.0.300 --lease 15s"), @"
    ! callsign: target 10.0.0.300 is neither an address nor a host name: its last label is all digits
    exit Some(2)
    ");
}

#[test]
fn who_takes_the_place_of_another_is_told() {
    let server = Server::start();
    assert_snapshot!(server.says("register api 10.0.0.7:8080 --host h1 --lease none"), @"registered api api-h1-8080 at 10.0.0.7 port 8080 as api-h1-8080.api.service.local., lease none");
    assert_snapshot!(server.says("register api 10.0.0.7:8080 --host h1 --lease none"), @"registered api api-h1-8080 at 10.0.0.7 port 8080 as api-h1-8080.api.service.local., lease none");
    assert_snapshot!(server.says("register api 10.0.0.8:8080 --host h1 --lease none"), @r"
    registered api api-h1-8080 at 10.0.0.8 port 8080 as api-h1-8080.api.service.local., lease none
    ! callsign: `api-h1-8080` was at 10.0.0.7 before; two instances need two ids
    ");
    assert_snapshot!(server.says("register api 8080 --target a.example.com. --host h1 --lease none"), @r"
    registered api api-h1-8080 at a.example.com. port 8080 as api-h1-8080.api.service.local., lease none
    ! callsign: `api-h1-8080` was at 10.0.0.8 before; two instances need two ids
    ");
    assert_snapshot!(server.says("register api 10.0.0.9:8080 --host h1 --lease none"), @r"
    registered api api-h1-8080 at 10.0.0.9 port 8080 as api-h1-8080.api.service.local., lease none
    ! callsign: `api-h1-8080` was at a.example.com. before; two instances need two ids
    ");
}

#[test]
fn json_is_for_programs() {
    let server = Server::start();
    let json = |line: &str| -> serde_json::Value {
        let output = server.verb(line).output().unwrap();
        serde_json::from_slice(&output.stdout).expect(line)
    };
    let registered = json("register web 10.0.0.7:8080 --id web-1 --host h1 --lease none -o json");
    assert_eq!(registered["lease_id"].as_str().map(str::len), Some(16));
    assert_eq!(json("register web 10.0.0.8:8080 --id web-2 --host h1 --lease none -o jsonl")["id"], "web-2");
    assert_eq!(json("ls -o json")[0]["live"], 2);
    assert_eq!(json("ls web -o json")[1]["id"], "web-2");
    let lines = transcript(&mut server.verb("ls web -o jsonl"));
    let ids: Vec<serde_json::Value> = lines
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["id"].clone())
        .collect();
    assert_eq!(ids, ["web-1", "web-2"]);
    assert_eq!(json("show web web-1 -o json")[0]["address"][0], "10.0.0.7");
    assert_eq!(json("explain web -o json")["instances"][0]["in_answers"], true);
    assert_eq!(json("status -o json")["instances"], 2);
    let dug = json("dig web.service.local SRV -o json");
    assert_eq!(
        (&dug["rcode"], dug["answer"].as_array().map(Vec::len), &dug["answer"][0]["ttl"]),
        (&"NOERROR".into(), Some(2), &5.into())
    );
    let lease_id = registered["lease_id"].as_str().unwrap();
    assert_eq!(json(&format!("drain web web-1 --host h1 --lease-id {lease_id} -o json"))["id"], "web-1");
    let other = server.says("deregister web web-1 --host h1 --lease-id 0123456789abcdef");
    assert!(other.ends_with("exit Some(1)\n"), "{other}");
    assert_eq!(json("deregister web web-1 --host h1 -o json")["existed"], true);
    assert_eq!(json("ls nothing --tag x -o json"), serde_json::json!([]));
}

#[test]
fn watch_shows_what_is_and_what_becomes() {
    let server = Server::start();
    let watching = server.watch();
    server.says("register web 10.0.0.7:8080 --id web-1 --host h1 --lease none");
    server.says("drain web web-1 --host h1");
    server.says("deregister web web-1 --host h1");
    let lines: Vec<String> = (0..3).map(|_| blot(&watching.line())).collect();
    let text = lines.join("\n").replace(&format!("uid {}", nix::unistd::getuid()), "uid UID");
    assert_snapshot!(text, @"
    TIME web web-1 registered at 10.0.0.7 8080 on h1, passing by uid UID
    TIME web web-1 drained at 10.0.0.7 8080 on h1, passing, draining by uid UID
    TIME web web-1 deregistered on h1 by uid UID
    ");
    let json = Going::start(&mut server.verb("watch -o jsonl"));
    let snapshot: serde_json::Value = serde_json::from_str(&json.line()).unwrap();
    assert_eq!(snapshot["snapshot"]["instances"][0]["id"], "marker");
    json.signal(Signal::SIGINT);
    assert_eq!(json.end().1, Some(0));
}

#[test]
fn the_settings_of_a_service_are_set_shown_and_reset() {
    let server = Server::start();
    assert_snapshot!(server.says("service show web"), @"
    service   web
    settings  as the server's configuration says
    ! hint: web is not registered now
    ");
    assert_snapshot!(server.says("service set web --ttl 20s"), @"
    service  web
    ttl      20s
    ! hint: web is not registered now
    ");
    server.says("register web 10.0.0.7:8080 --id web-1 --lease none");
    assert!(server.says("dig web.service.local A").contains(" 20 IN A 10.0.0.7"));
    assert!(
        transcript(&mut server.verb("service set web --ttl 6m"))
            .contains("ttl must be whole seconds from 0s to 300s")
    );
    assert!(transcript(&mut server.verb("service set web")).contains("--ttl"), "something has to be set");
    assert_snapshot!(server.says("service set web --balance one:rotate --max-answers 3"), @"
    service      web
    ttl          20s
    balance      one:rotate
    max-answers  3
    ");
    let refused = transcript(&mut server.verb("service set web --max-answers -1"));
    assert!(refused.contains("max_answers must be 0 to 65535, not -1"), "{refused}");
    assert!(server.says("service set web --reset").contains("as the server's"));
    let log = server.says("log web");
    assert_eq!(log.matches(" web configured").count(), 3, "{log}");
    assert_eq!(
        server.says("log wbe"),
        "! hint: the log has no change of wbe; `callsign log` shows every service's\n"
    );
    assert!(server.says("dig web.service.local A").contains(" 5 IN A 10.0.0.7"));
}

#[test]
fn a_reader_that_has_gone_is_no_error() {
    let server = Server::start();
    for line in ["ls", "status", "--help"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = server.verb(line).stdout(writer).output().unwrap();
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), b"".as_slice()), "{line}");
    }
}

/// The first line of what is answered to a GET.
fn status_of(url: &str) -> String {
    let (host, path) = url.strip_prefix("http://").and_then(|rest| rest.split_once('/')).expect(url);
    let mut stream = std::net::TcpStream::connect(host).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    write!(stream, "GET /{path} HTTP/1.1\r\nhost: {host}\r\n\r\n").unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

/// At a terminal, as a person sees it: `script` makes one, and what is typed there goes to it.
#[test]
fn the_demo_shows_what_is_true_until_ctrl_c() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new("script");
    let demo = format!("exec {} demo", env!("CARGO_BIN_EXE_callsign"));
    command.args(["--quiet", "--return", "--flush", "--command", &demo, "/dev/null"]);
    command.current_dir(directory.path()).env("TMPDIR", directory.path()).env("CALLSIGN_DNS", "192.0.2.1:53");
    let mut going = Going::start(&mut command);
    let exported = going.line_with("export CALLSIGN_SERVER=unix:");
    let told: Vec<String> =
        std::iter::from_fn(|| Some(going.line()).filter(|line| !line.contains("$ callsign ls"))).collect();
    let urls =
        told.iter().flat_map(|line| line.split_whitespace()).filter(|word| word.starts_with("http://"));
    let urls: Vec<&str> = urls.collect();
    assert!(!urls.is_empty(), "{told:?}");
    for url in urls {
        assert_eq!(status_of(url), "HTTP/1.1 200 OK", "{url}");
    }
    for service in ["api      2/2", "db       1/1", "web      3/3"] {
        going.line_with(service);
    }
    going.line_with("$ callsign dig web.service.local SRV");
    going.line_with("; answer");
    // In whatever order.
    let mut targets = [(); 3].map(|()| going.line().split(' ').next_back().unwrap().to_owned());
    targets.sort();
    assert_eq!(targets, ["web-1", "web-2", "web-3"].map(|id| format!("{id}.web.service.local.")));
    going.line_with("$ callsign explain web");
    going.line_with("not in the answers: critical (http)");
    going.line_with("$ callsign log web");
    going.line_with("web-3 reported");
    going.line_with("$ callsign watch");
    // The services go on falling ill and recovering.
    going.line_with("503 Service Unavailable");
    // What it told to type in another terminal is right.
    let variable = |name: &str| {
        let given = exported.split_whitespace().find_map(|word| word.strip_prefix(&format!("{name}=")));
        given.unwrap().to_owned()
    };
    let mut asking = callsign(directory.path());
    asking.env("CALLSIGN_SERVER", variable("CALLSIGN_SERVER")).env("CALLSIGN_DNS", variable("CALLSIGN_DNS"));
    assert!(transcript(asking.args(["dig", "db.service.local"])).starts_with("NOERROR"));
    // One Ctrl-C, typed.
    going.stdin.as_mut().unwrap().write_all(b"\x03").unwrap();
    let socket = variable("CALLSIGN_SERVER");
    let (rest, code) = going.end();
    assert_eq!(code, Some(0), "{rest:?}");
    let socket = Path::new(socket.strip_prefix("unix:").unwrap());
    assert!(!socket.parent().unwrap().exists(), "its folder is left");
}
