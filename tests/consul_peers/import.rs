//! `callsign import --from-consul` from Consul itself.

use std::fs::File;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::agent::Agent;
use crate::harness::ask::{get, request};
use crate::harness::{DEADLINE, Server, binary, callsign, eventually};

fn put(agent: &Agent, target: &str, body: &Value) {
    let reply = request(agent.http, "PUT", target, &body.to_string());
    assert_eq!(reply.status, 200, "{target}: {}", reply.text());
}

fn words(agent: &Agent, server: &Server) -> Vec<String> {
    let place = format!("unix:{}", server.socket.display());
    ["import", "--timeout", "30s", "--server", &place, "--from-consul", &format!("http://{}", agent.http)]
        .map(str::to_owned)
        .to_vec()
}

/// `service/id@host:port health`, but for Consul's own service.
fn shown(server: &Server) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let shown = |it: &Value| {
        let name = format!("{}/{}@{}", text(&it["service"]), text(&it["id"]), text(&it["host"]));
        format!("{name}:{} {}", it["port"], text(&it["health"]))
    };
    let listed = server.client().list();
    listed.iter().filter(|instance| instance["service"] != "consul").map(shown).collect()
}

fn becomes(server: &Server, expected: &[&str]) {
    eventually(&format!("{expected:?}"), DEADLINE, || (shown(server) == expected).then_some(()));
}

/// Ended by its pid.
struct Follower(Child);

impl Drop for Follower {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn a_real_catalog_is_taken_over_and_followed() {
    let agent = Agent::start();
    let server = Server::start(&["--store", "memory"]);
    let web = json!({"Name": "web", "ID": "web:1", "Address": "10.0.0.7", "Port": 8080, "Tags": ["v2", "a b"], "Meta": {"k": "v"},
        "Weights": {"Passing": 7, "Warning": 2}, "TaggedAddresses": {"lan": {"Address": "10.0.0.7", "Port": 81}},
        "Check": {"TTL": "1h", "Status": "warning", "Notes": "n"}});
    put(&agent, "/v1/agent/service/register", &web);
    put(
        &agent,
        "/v1/agent/service/register",
        &json!({"Name": "my_api", "ID": "api", "Address": "10.0.0.8", "Port": 1}),
    );
    put(
        &agent,
        "/v1/agent/service/register",
        &json!({"Name": "Upper", "ID": "Up", "Address": "db.example.com"}),
    );
    put(
        &agent,
        "/v1/catalog/register",
        &json!({"Node": "elsewhere", "Address": "10.2.2.2", "NodeMeta": {"rack": "7"}, "Service": {"Service": "mail", "Port": 25},
            "Check": {"Node": "elsewhere", "CheckID": "ping", "Name": "ping", "Status": "critical", "Output": "no reply"}}),
    );
    agent.settle("the registrations");
    let words = words(&agent, &server);
    let ended = callsign(&words.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("service my_api, api on one: service must be letters, digits and hyphens"),
        "{}",
        ended.stderr
    );
    assert!(
        ended.stderr.contains("try `my-api`") && ended.stderr.contains("1 were refused"),
        "{}",
        ended.stderr
    );
    // Two nodes, three services and Consul itself.
    assert!(
        ended
            .stdout
            .starts_with("6 imported, 0 there already, 0 otherwise here and kept, 0 removed, 1 refused")
    );
    let expected =
        ["mail/mail@elsewhere:25 critical", "upper/Up@one:null passing", "web/web:1@one:8080 warning"];
    assert_eq!(shown(&server), expected);
    // What readers of the catalog see here is what they see there.
    for path in ["/v1/health/service/web", "/v1/health/service/mail"] {
        let facts = |reply: &Value| -> Vec<Value> {
            let (node, service) = (&reply[0]["Node"], &reply[0]["Service"]);
            let checks = reply[0]["Checks"].as_array().expect("checks").iter().map(|check| {
                json!([check["CheckID"], check["Status"], check["Name"], check["Output"], check["ServiceID"]])
            });
            let fields = ["ID", "Service", "Tags", "Address", "Port", "Meta", "Weights", "TaggedAddresses"];
            // What is empty is sometimes null there.
            let of_service = fields.map(|field| match &service[field] {
                Value::Null => json!({}),
                value => value.clone(),
            });
            checks.chain(of_service).chain([node["Node"].clone(), node["Address"].clone()]).collect()
        };
        let (ours, theirs) = (get(server.http[0], path).json(), get(agent.http, path).json());
        assert_eq!(facts(&ours), facts(&theirs), "{path}");
    }
    // Followed: registrations, verdicts, deregistrations.
    let log = File::create(server.directory().join("follower")).expect("a file");
    let child = Command::new(binary())
        .args(&words)
        .arg("--follow")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn();
    let _follower = Follower(child.expect("starting callsign import"));
    let said = || std::fs::read_to_string(server.directory().join("follower")).unwrap_or_default();
    eventually("the first reading", DEADLINE, || said().contains("my_api").then_some(()));
    put(
        &agent,
        "/v1/agent/service/register",
        &json!({"Name": "new", "ID": "new-1", "Address": "10.0.0.9", "Port": 9}),
    );
    put(
        &agent,
        "/v1/agent/service/register",
        &json!({"Name": "web", "ID": "web-2", "Address": "10.0.0.9", "Port": 9}),
    );
    put(&agent, "/v1/agent/check/pass/service:web:1", &json!({}));
    becomes(
        &server,
        &[
            expected[0],
            "new/new-1@one:9 passing",
            expected[1],
            "web/web:1@one:8080 passing",
            "web/web-2@one:9 passing",
        ],
    );
    put(&agent, "/v1/agent/service/deregister/new-1", &json!({}));
    put(&agent, "/v1/agent/service/deregister/web-2", &json!({}));
    put(&agent, "/v1/catalog/deregister", &json!({"Node": "elsewhere"}));
    becomes(&server, &[expected[1], "web/web:1@one:8080 passing"]);
    put(&agent, "/v1/agent/maintenance?enable=true&reason=disk", &json!({}));
    becomes(&server, &["upper/Up@one:null maintenance", "web/web:1@one:8080 maintenance"]);
    put(&agent, "/v1/agent/maintenance?enable=false", &json!({}));
    becomes(&server, &[expected[1], "web/web:1@one:8080 passing"]);
    // Consul gone: all stays, and it is said.
    drop(agent);
    eventually("a word of it", DEADLINE, || {
        said().contains("what was imported stays, and is tried again").then_some(())
    });
    assert_eq!(shown(&server), [expected[1], "web/web:1@one:8080 passing"]);
}
