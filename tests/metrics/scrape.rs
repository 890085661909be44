//! Prometheus as a reader of `/metrics`.

use std::path::Path;

use serde_json::json;

use crate::harness::ask::try_request;
use crate::harness::prometheus;
use crate::harness::{DEADLINE, Server, eventually};

/// This Prometheus scrapes a server, and has our numbers, types and units; no rule of ours fails in it.
pub fn by(program: &Path) {
    let server = Server::start(&["--store", "memory"]);
    let form = json!({"service": "web", "id": "a", "address": "10.0.0.7", "port": 80, "lease": "none"});
    server.client().done("registered", &json!({ "register": form }));
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/prometheus/callsign.rules.yml");
    let text = format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{:?}]\nscrape_configs:\n\
         - job_name: callsign\n  static_configs: [{{targets: ['{}']}}]\n",
        rules.display().to_string(),
        server.http[0]
    );
    let (mut prometheus, at) = prometheus::start(program, &text);
    let mut ask = |what: &str, target: &str| {
        eventually(what, DEADLINE, || {
            prometheus.must_run();
            let reply = try_request(at, "GET", target, "")?;
            let found = (reply.status == 200).then(|| reply.json())?; // it may still be starting
            let data = found["data"].clone();
            let is_there = match target {
                "/api/v1/rules" => {
                    let rules = data["groups"][0]["rules"].as_array()?;
                    assert!(rules.iter().all(|rule| rule["health"] != "err"), "{rules:?}");
                    rules.iter().all(|rule| rule["health"] == "ok")
                }
                _ => data["result"].as_array().map_or_else(
                    || data.as_object().is_some_and(|all| !all.is_empty()),
                    |found| !found.is_empty(),
                ),
            };
            is_there.then_some(data)
        })
    };
    let value = |found: &serde_json::Value| found["result"][0]["value"][1].as_str().map(str::to_owned);
    assert_eq!(value(&ask("a scrape", "/api/v1/query?query=up%3D%3D1")), Some("1".to_owned()));
    let live = "/api/v1/query?query=callsign_instances%7Bstanding%3D%22live%22%7D";
    assert_eq!(value(&ask("our numbers", live)), Some("1".to_owned()));
    let visible = "/api/v1/query?query=callsign_change_visible_seconds_count";
    assert_eq!(value(&ask("our histograms", visible)), Some("1".to_owned()));
    // A unit is told in OpenMetrics alone: that is what was asked for, and read.
    let told = ask("what is told of a metric", "/api/v1/metadata?metric=callsign_stale_seconds");
    assert_eq!(told["callsign_stale_seconds"][0]["type"], "gauge");
    assert_eq!(told["callsign_stale_seconds"][0]["unit"], "seconds");
    ask("rules without an error", "/api/v1/rules");
}
