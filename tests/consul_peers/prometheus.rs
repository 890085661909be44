//! Prometheus finds in our catalog what to scrape: `consul_sd_configs`.

use serde_json::{Value, json};

use crate::agent::peer;
use crate::harness::ask::{request, try_request};
use crate::harness::prometheus;
use crate::harness::{DEADLINE, Server, eventually};

#[test]
fn targets_follow_the_catalog_with_their_labels() {
    let server = Server::start(&["--store", "memory"]);
    let http = server.http[0];
    let put =
        |target: &str, body: &Value| assert_eq!(request(http, "PUT", target, &body.to_string()).status, 200);
    let text = format!(
        "scrape_configs:\n- job_name: consul\n  consul_sd_configs:\n  - {{server: '{http}', allow_stale: true, refresh_interval: 1s}}\n  \
         relabel_configs:\n  - {{source_labels: [__meta_consul_service_id], target_label: id}}\n  \
         - {{source_labels: [__meta_consul_tags], target_label: tags}}\n  \
         - {{source_labels: [__meta_consul_health], target_label: health}}\n  \
         - {{source_labels: [__meta_consul_service_metadata_env], target_label: env}}\n  \
         - {{source_labels: [__meta_consul_dc], target_label: dc}}\n"
    );
    let (mut prometheus, at) = prometheus::start(&peer("prometheus"), &text);
    let mut targets = |expected: &[&str]| {
        let mut last = Vec::new();
        eventually(&format!("the targets {expected:?}"), DEADLINE, || {
            prometheus.must_run();
            let reply = try_request(at, "GET", "/api/v1/targets", "")?;
            if reply.status != 200 {
                return None; // it is still starting
            }
            let found = reply.json();
            let label = |one: &Value, name: &str| one["labels"][name].as_str().unwrap_or("-").to_owned();
            let target = |one: &Value| {
                ["instance", "id", "tags", "health", "env", "dc"].map(|name| label(one, name)).join(" ")
            };
            last = found["data"]["activeTargets"].as_array()?.iter().map(target).collect();
            last.sort();
            (last == expected).then_some(())
        });
    };
    let web = |id: &str, port: u16| json!({"Name": "web", "ID": id, "Address": "127.0.0.1", "Port": port, "Tags": ["v1"], "Meta": {"env": "prod"}});
    put("/v1/agent/service/register", &web("web-1", 1));
    targets(&["127.0.0.1:1 web-1 ,v1, passing prod dc1"]);
    put("/v1/agent/service/register", &web("web-2", 2));
    targets(&["127.0.0.1:1 web-1 ,v1, passing prod dc1", "127.0.0.1:2 web-2 ,v1, passing prod dc1"]);
    put("/v1/agent/service/maintenance/web-1?enable=true", &Value::Null);
    put("/v1/agent/service/deregister/web-2", &Value::Null);
    targets(&["127.0.0.1:1 web-1 ,v1, maintenance prod dc1"]);
}
