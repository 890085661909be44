//! `/metrics`: well-formed, and its numbers are those of the server.

use serde_json::json;

use crate::harness::{Http, Server};

/// Every sample by its name and labels.
fn samples(server: &Server) -> std::collections::BTreeMap<String, f64> {
    let reply = Http::tcp(server.http[0]).get("/metrics");
    assert_eq!(reply.status, 200);
    assert!(reply.header("content-type").unwrap().starts_with("application/openmetrics-text; version=1.0.0"));
    let text = reply.text();
    assert!(text.ends_with("# EOF\n"), "{text}");
    let mut typed = std::collections::BTreeSet::new();
    let mut found = std::collections::BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let name = rest.split(' ').next().unwrap();
            assert!(typed.insert(name.to_owned()), "{name} has two types");
        } else if !line.starts_with('#') {
            let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
            let family = name.split('{').next().unwrap();
            let of = |suffix: &str| family.strip_suffix(suffix).is_some_and(|family| typed.contains(family));
            let known = typed.contains(family)
                || ["_total", "_bucket", "_count", "_sum", "_info"].iter().any(|suffix| of(suffix));
            assert!(known, "{line} has no type");
            assert!(found.insert(name.to_owned(), value.parse().unwrap()).is_none(), "{name} twice");
        }
    }
    found
}

#[test]
fn numbers_are_those_of_the_server() {
    let server = Server::start(&[]);
    let mut client = server.client();
    for (id, lease) in [("a", "none"), ("b", "none"), ("c", "none")] {
        let form = json!({"service": "web", "id": id, "address": "10.0.0.7", "port": 80, "lease": lease});
        client.done("registered", &json!({ "register": form }));
    }
    client.done("draining", &json!({"drain": {"service": "web", "id": "b"}}));
    let report = json!({"service": "web", "id": "c", "status": "critical"});
    client.done("reported", &json!({ "report": report }));
    let found = samples(&server);
    assert_eq!(found["callsign_ready"], 1.0);
    assert_eq!(found["callsign_services"], 1.0);
    assert_eq!(found["callsign_instances{standing=\"live\"}"], 1.0);
    assert_eq!(found["callsign_instances{standing=\"draining\"}"], 1.0);
    assert_eq!(found["callsign_instances{standing=\"critical\"}"], 1.0);
    assert_eq!(found["callsign_revision"], 5.0);
    // One live instance and the service that has it, of three instances and the service.
    assert_eq!(found["callsign_services_live"], 1.0);
    assert_eq!(found["callsign_availability_ratio"], 2.0 / 4.0);
    assert!(found["callsign_connections{port=\"registration\"}"] >= 1.0);
    assert_eq!(found["callsign_probes_total{kind=\"tcp\",outcome=\"passing\"}"], 0.0);
    assert_eq!(found["callsign_limited_replies_total{fate=\"slipped\"}"], 0.0);
    // Two more services: one is live as a whole, of the other only the name is known. 2 + 2 of 4 + 3.
    for (service, id) in [("db", "d"), ("cache", "e")] {
        let form = json!({"service": service, "id": id, "address": "10.0.0.8", "port": 80, "lease": "none"});
        client.done("registered", &json!({ "register": form }));
    }
    client.done("deregistered", &json!({"deregister": {"service": "cache", "id": "e"}}));
    let later = samples(&server);
    assert_eq!((later["callsign_services"], later["callsign_services_live"]), (3.0, 2.0));
    assert_eq!(later["callsign_availability_ratio"], 4.0 / 7.0);
    // Of live time only that there is a figure, at most 1, for each span, and that the log reaches back all of it.
    for of in ["instances", "services"] {
        for (span, seconds) in [("1h", 3600.0), ("24h", 86_400.0), ("30d", 2_592_000.0)] {
            let labels = format!("{{of=\"{of}\",span=\"{span}\"}}");
            let ratio = found[&format!("callsign_live_time_ratio{labels}")];
            assert!((0.0..=1.0).contains(&ratio), "{labels}: {ratio}");
            assert_eq!(found[&format!("callsign_live_time_covered_seconds{labels}")], seconds, "{labels}");
        }
    }
    assert_eq!(found["callsign_query_duration_seconds_count"], 0.0);
    // What clients name is in no label.
    assert!(!found.keys().any(|name| name.contains("web")), "{found:?}");
}
