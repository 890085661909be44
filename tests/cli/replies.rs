//! What servers say, and several of them: nothing acts on a terminal, and who is no server is passed over.

use std::io::Write;
use std::os::unix::net::UnixListener;

use super::*;

/// A reply of every form with texts that would act on a terminal, from something that is no registry.
#[test]
fn what_a_server_says_cannot_act_on_the_terminal() {
    let evil = "\u{1b}[2J\u{1b}]0;x\u{7}\n\r\u{9b}31m\u{202e}";
    let instance = serde_json::json!({
        "service": evil, "id": evil, "host": evil, "label": evil, "address": [evil], "port": 1, "protocol": evil,
        "ports": [{"name": evil, "port": 1, "transport": evil}], "tags": [evil], "meta": {evil: evil}, "weight": 1,
        "priority": 0, "lease": evil, "health": evil, "draining": false, "live": true, "registered": evil, "since": evil,
        "checks": [{"id": evil, "status": evil, "output": evil, "since": evil}], "revision": 1});
    let instances = serde_json::json!({"instances": [instance], "revision": 1});
    let replies = [
        ("ls", serde_json::json!({"instances": instances})),
        ("ls web", serde_json::json!({"instances": instances})),
        ("show web x", serde_json::json!({"found": instances})),
        ("show web --url", serde_json::json!({"instances": instances})),
        ("watch", serde_json::json!({"snapshot": instances})),
        (
            "explain web",
            serde_json::json!({"explained": {"name": evil, "known": true, "verdict": evil, "nearest": evil,
            "instances": [{"id": evil, "host": evil, "in_answers": true, "rule": evil}]}}),
        ),
        (
            "status",
            serde_json::json!({"status": {"version": evil, "ready": true, "store": evil, "domains": [evil],
            "listeners": [evil], "zones": [evil], "services": 1, "instances": 1, "live": 1, "revision": 1, "serial": 1, "uptime_s": 1}}),
        ),
        (
            "nodes",
            serde_json::json!({"nodes": {"nodes": [{"name": evil, "addresses": [], "dns": 1, "slots": 1, "own": false,
            "alive": false, "left": evil, "share": 0.5, "silent": evil}], "revision": 1}}),
        ),
        ("ring", serde_json::json!({"ring": {"nodes": [{"name": evil, "slots": 1, "share": 0.5}]}})),
        (
            "ring x",
            serde_json::json!({"ring": {"nodes": [], "placed": [{"id": evil, "hash": evil, "slot": 1, "place": 0.5,
            "owner": evil, "next": evil}]}}),
        ),
        (
            "register web :1 --lease none",
            serde_json::json!({"registered": {"service": evil, "id": evil, "host": evil,
            "address": [evil], "port": 1, "lease": evil, "lease_id": evil, "dns": evil, "revision": 1, "warnings": [evil]}}),
        ),
        ("heartbeat web x", serde_json::json!({"error": {"code": "not_found", "message": evil}})),
        ("ls", serde_json::json!({evil: {}})),
    ];
    let directory = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(directory.path().join("s")).unwrap();
    for (line, reply) in replies {
        for form in ["table", "json", "jsonl"] {
            let listener = listener.try_clone().unwrap();
            let reply = format!("{reply}\n");
            let serving = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                BufReader::new(stream.try_clone().unwrap()).read_line(&mut String::new()).unwrap();
                stream.write_all(reply.as_bytes()).unwrap();
            });
            let output =
                callsign(directory.path()).args(line.split_whitespace()).args(["-o", form]).output().unwrap();
            serving.join().unwrap();
            let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
            assert!(said.contains("[2J"), "{line} -o {form}: {said:?}");
            let acts = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
            assert!(!said.chars().any(acts), "{line} -o {form}: {said:?}");
        }
    }
}

/// A server that takes one line, says `reply`, and closes; at `name` in `directory`. Returns the line.
fn says_once(
    directory: &Path,
    name: &str,
    reply: &'static str,
) -> std::thread::JoinHandle<serde_json::Value> {
    let listener = UnixListener::bind(directory.join(name)).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut line = String::new();
        BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
        stream.write_all(reply.as_bytes()).unwrap();
        serde_json::from_str(&line).unwrap()
    })
}

const UNAVAILABLE: &str =
    "{\"error\":{\"code\":\"unavailable\",\"message\":\"whether it is stored is not known\"}}\n";
const DENIED: &str = "{\"error\":{\"code\":\"denied\",\"message\":\"no\"}}\n";

#[test]
fn several_servers_are_told_of_one_host_and_one_makes_its_own() {
    let own = nix::unistd::gethostname().unwrap().into_string().unwrap().to_lowercase();
    let named = own != "localhost" && !own.starts_with("localhost.");
    for (line, verb) in [
        ("register web 10.0.0.7:8080", "register"),
        ("register web 10.0.0.7:8080 --lease 15s", "register"),
        ("deregister web web-1", "deregister"),
        ("drain web web-1", "drain"),
        ("heartbeat web web-1", "heartbeat"),
    ] {
        for (servers, host, wanted) in [
            (&["a", "b"][..], None, named.then_some(own.as_str())),
            (&["a", "b"], Some("m7"), Some("m7")),
            (&["a"], None, None),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let listening: Vec<_> =
                servers.iter().map(|name| says_once(directory.path(), name, UNAVAILABLE)).collect();
            let places = servers.iter().map(|name| format!("unix:{}", directory.path().join(name).display()));
            let mut command = callsign(directory.path());
            command.args(line.split_whitespace()).args(["--server", &places.collect::<Vec<_>>().join(",")]);
            command.args(host.iter().flat_map(|host| ["--host", *host]));
            assert_eq!(command.output().unwrap().status.code(), Some(5), "{line}");
            for told in listening {
                let told = told.join().unwrap();
                assert_eq!(told[verb]["host"].as_str(), wanted, "{line} to {servers:?}: {told}");
            }
        }
    }
}

#[test]
fn a_server_that_alone_denies_or_is_none_is_passed_over() {
    const GONE: &str =
        "{\"deregistered\":{\"service\":\"web\",\"id\":\"x\",\"existed\":true,\"revision\":1}}\n";
    for (first, second, code, said) in [
        ("HTTP/1.1 400 Bad Request\r\n\r\n", GONE, 0, "going on with"),
        (DENIED, GONE, 0, "no; going on with"),
        (DENIED, DENIED, 4, "callsign: no\n"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let both =
            [("a", first), ("b", second)].map(|(name, reply)| says_once(directory.path(), name, reply));
        let places = ["a", "b"].map(|name| format!("unix:{}", directory.path().join(name).display()));
        let output = callsign(directory.path())
            .args(["deregister", "web", "x", "--server", &places.join(",")])
            .output();
        let output = output.unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(code) && stderr.contains(said), "{:?}: {stderr}", output.status);
        let [one, other] = both.map(|told| told.join().unwrap());
        assert_eq!(one, other, "the same is said to both");
    }
}

#[test]
fn a_server_that_is_alone_is_one_node_that_has_everything() {
    let server = Server::start();
    server.says("register web 10.0.0.7:8080 --id web-1 --host m1 --lease none");
    let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
    let words = |line: &str| -> Vec<String> {
        let told = transcript(&mut server.verb(line));
        told.split_whitespace().map(str::to_owned).collect()
    };
    let (nodes, ring, placed) = (words("nodes"), words("ring"), words("ring web-1"));
    assert_eq!(nodes[..6], ["NODE", "ALIVE", "ADDRESS", "REVISION", "LAG", "SHARE"]);
    assert_eq!(nodes[6..9], [host.as_str(), "yes", &server.dns.to_string()]);
    assert_eq!(nodes[10..], ["0", "100.00%"]);
    assert_eq!(ring, ["NODE", "SLOTS", "SHARE", &host, "16384", "100.00%"]);
    assert_eq!(placed[..6], ["ID", "HASH", "SLOT", "PLACE", "OWNER", "NEXT"]);
    assert_eq!(placed[6..12], ["web-1", "5743426c69243ab1", "15025", "0.91705", &host, "-"]);
    assert_eq!(placed[12..], ["web/web-1@m1", "0a107de81c6a72b5", "12981", "0.79230", &host, "-"]);
    let json: serde_json::Value = serde_json::from_str(&server.says("nodes -o json")).unwrap();
    assert_eq!(
        (&json[0]["alive"], &json[0]["own"], &json[0]["lag"]),
        (&true.into(), &true.into(), &0.into())
    );
}
