//! `/metrics`: well-formed in both forms, its numbers are those of the server, and its page is `docs/metrics.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use serde_json::{Value, json};

use crate::harness::http::Response;
use crate::harness::tls::Pair;
use crate::harness::{DEADLINE, Http, Server, dns, srv};

fn page(server: &Server, accept: &str) -> Response {
    let mut http = Http::tcp(server.http[0]);
    http.send("GET", "/metrics", &[("Accept", accept)], b"");
    let reply = http.receive();
    assert_eq!(reply.status, 200, "{reply:?}");
    reply
}

fn open_metrics(server: &Server) -> String {
    let reply = page(server, "application/openmetrics-text; version=1.0.0");
    assert!(reply.header("content-type").unwrap().starts_with("application/openmetrics-text; version=1.0.0"));
    assert!(reply.text().ends_with("# EOF\n"));
    reply.text().to_owned()
}

/// A family as its head tells it, and the names of the labels of its samples.
#[derive(Debug, Default, PartialEq)]
struct Family {
    kind: String,
    help: String,
    unit: String,
    labels: BTreeSet<String>,
}

/// Every family, and every sample by its name and labels. It is strict: a head is whole and comes first, a sample is its family's and comes
/// once, names and labels are of the alphabet.
fn read(text: &str) -> (BTreeMap<String, Family>, BTreeMap<String, f64>) {
    let (mut families, mut samples) = (BTreeMap::<String, Family>::new(), BTreeMap::new());
    let mut last = String::new();
    for line in text.lines().filter(|line| *line != "# EOF") {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            last = name.to_owned();
            let family = Family { kind: kind.to_owned(), ..Family::default() };
            assert!(families.insert(last.clone(), family).is_none(), "{name} twice");
        } else if let Some(rest) = line.strip_prefix("# ") {
            let (what, rest) = rest.split_once(' ').expect("a head");
            let (name, said) = rest.split_once(' ').expect("a head");
            assert_eq!(name, last, "heads of one family stand together");
            let family = families.get_mut(name).unwrap();
            let place = if what == "HELP" { &mut family.help } else { &mut family.unit };
            assert!(["HELP", "UNIT"].contains(&what) && place.is_empty(), "{line}");
            place.push_str(said);
        } else {
            let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
            let (sample, labels) = name.split_once('{').unwrap_or((name, "}"));
            assert!(sample.bytes().all(|octet| octet.is_ascii_lowercase() || octet == b'_'), "{line}");
            let family = families.get_mut(&last).unwrap_or_else(|| panic!("{line} has no type"));
            let suffixes: &[&str] = match family.kind.as_str() {
                "counter" if !last.ends_with("_total") => &["_total"],
                "counter" | "gauge" => &[""],
                "info" => &["_info"],
                "histogram" => &["_bucket", "_count", "_sum"],
                kind => panic!("{last} is a {kind}"),
            };
            assert!(suffixes.iter().any(|suffix| sample.strip_suffix(suffix) == Some(&last)), "{line}");
            for label in labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty()) {
                let (label, value) = label.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
                assert!(value.ends_with('"') && !value.contains('\\'), "{line}");
                family.labels.insert(label.to_owned());
            }
            assert!(samples.insert(name.to_owned(), value.parse().unwrap()).is_none(), "{name} twice");
        }
    }
    assert!(families.values().all(|family| family.help.ends_with('.')), "{families:?}");
    (families, samples)
}

fn samples(server: &Server) -> BTreeMap<String, f64> {
    read(&open_metrics(server)).1
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
    // Each change was asked for by itself, and waited for.
    for (reason, count) in [("registered", 3.0), ("drained", 1.0), ("reported", 1.0), ("expired", 0.0)] {
        assert_eq!(found[&format!("callsign_changes_total{{reason=\"{reason}\"}}")], count, "{reason}");
    }
    assert_eq!(found["callsign_change_visible_seconds_count"], 5.0);
    assert_eq!(found["callsign_commit_duration_seconds_count"], 5.0);
    assert!(found["callsign_change_visible_seconds_sum"] > 0.0);
    assert!(found["process_resident_memory_bytes"] > 1e6 && found["process_open_fds"] > 5.0);
    assert!(found["process_max_fds"] > found["process_open_fds"] && found["process_threads"] > 2.0);
    assert_eq!(
        (found["callsign_dnssec_signatures_total"], found["callsign_dnssec_put_off_total"]),
        (0.0, 0.0)
    );
    // Two more services: one is live as a whole, of the other only the name is known. 2 + 2 of 4 + 3.
    for (service, id) in [("db", "d"), ("cache", "e")] {
        let form = json!({"service": service, "id": id, "address": "10.0.0.8", "port": 80, "lease": "none"});
        client.done("registered", &json!({ "register": form }));
    }
    client.done("deregistered", &json!({"deregister": {"service": "cache", "id": "e"}}));
    let later = samples(&server);
    assert_eq!((later["callsign_services"], later["callsign_services_live"]), (3.0, 2.0));
    assert_eq!(later["callsign_availability_ratio"], 4.0 / 7.0);
    assert_eq!(later["process_start_time_seconds"], found["process_start_time_seconds"]);
    assert!(later["process_cpu_seconds_total"] >= found["process_cpu_seconds_total"]);
    // Of live time only that there is a figure, at most 1, for each span, and that the log reaches back all of it.
    for of in ["instances", "services"] {
        for (span, seconds) in [("1h", 3600.0), ("24h", 86_400.0), ("30d", 2_592_000.0)] {
            let labels = format!("{{of=\"{of}\",span=\"{span}\"}}");
            let ratio = found[&format!("callsign_live_time_ratio{labels}")];
            assert!((0.0..=1.0).contains(&ratio), "{labels}: {ratio}");
            assert_eq!(found[&format!("callsign_live_time_covered_seconds{labels}")], seconds, "{labels}");
        }
    }
    assert_eq!(found["callsign_dns_request_duration_seconds_count"], 0.0);
    // What clients name is in no label.
    assert!(!found.keys().any(|name| name.contains("web")), "{found:?}");
}

#[test]
fn every_query_is_counted_whichever_way_it_goes() {
    let server = Server::start(&["--store", "memory"]);
    let form = json!({"service": "web", "id": "a", "address": "10.0.0.7", "port": 80, "lease": "none"});
    server.client().done("registered", &json!({ "register": form }));
    let mut resolver = server.resolver();
    let (mut asked, mut octets) = (0.0, 0.0);
    // Three that a worker answers, two of the general path, one of another's names, and over TCP all is general.
    for (name, rtype) in [
        (srv("web"), RecordType::SRV),
        ("web.service.local.".to_owned(), RecordType::A),
        ("none.service.local.".to_owned(), RecordType::A),
        ("web.service.local.".to_owned(), RecordType::TXT),
        ("service.local.".to_owned(), RecordType::SOA),
        ("example.org.".to_owned(), RecordType::MX),
    ] {
        let _ = (resolver.udp(&name, rtype), resolver.tcp(&name, rtype));
        asked += 1.0;
        octets += (12 + name.len() + 1 + 4) as f64;
    }
    let found = samples(&server);
    for proto in ["udp", "tcp"] {
        let requests = |qtype: &str| {
            found[&format!("callsign_dns_requests_total{{proto=\"{proto}\",type=\"{qtype}\"}}")]
        };
        let counts = ["SRV", "A", "TXT", "SOA", "MX", "AAAA", "other"].map(requests);
        assert_eq!(counts, [1.0, 2.0, 1.0, 1.0, 1.0, 0.0, 0.0], "{proto}");
        let replies = |rcode: &str| {
            found[&format!("callsign_dns_responses_total{{proto=\"{proto}\",rcode=\"{rcode}\"}}")]
        };
        assert_eq!(
            ["NOERROR", "NXDOMAIN", "REFUSED", "BADVERS"].map(replies),
            [4.0, 1.0, 1.0, 0.0],
            "{proto}"
        );
        let of = |what: &str| found[&format!("callsign_dns_{what}{{proto=\"{proto}\"}}")];
        assert_eq!((of("request_size_bytes_count"), of("response_size_bytes_count")), (asked, asked));
        assert_eq!(of("request_size_bytes_sum"), octets, "{proto}");
        assert!(of("response_size_bytes_sum") > octets, "{proto}");
    }
    // The first of each way is timed.
    assert!(found["callsign_dns_request_duration_seconds_count"] >= 2.0);
    // An unknown version of EDNS, whose code the header cannot hold; and a reply, which is no query.
    let mut query = b"\x12\x34\0\0\0\x01\0\0\0\0\0\x01\x03web\x07service\x05local\0\0\x01\0\x01\0\0\x29\x04\xd0\0\x05\0\0\0\0".to_vec();
    resolver.send(&query);
    let reply = dns::read(&resolver.receive(DEADLINE).expect("a reply"));
    assert_eq!(u16::from(reply.metadata.response_code), u16::from(ResponseCode::BADVERS));
    query[2] = 0x80;
    resolver.send(&query);
    resolver.udp(&srv("web"), RecordType::SRV); // behind it in the same socket
    let later = samples(&server);
    assert_eq!(later["callsign_dns_responses_total{proto=\"udp\",rcode=\"BADVERS\"}"], 1.0);
    assert_eq!(later["callsign_dns_request_size_bytes_count{proto=\"udp\"}"], 8.0);
}

#[test]
fn both_forms_hold_the_same_families() {
    let server = Server::start(&["--store", "memory"]);
    let open = open_metrics(&server);
    for accept in ["text/plain", "*/*"] {
        let reply = page(&server, accept);
        assert_eq!(reply.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
        let text = reply.text();
        assert!(!text.contains("# EOF") && !text.contains("# UNIT"), "{text}");
        let names = |text: &str| -> BTreeSet<String> { read(text).1.into_keys().collect() };
        assert_eq!(names(&open), names(text));
    }
    for (name, family) in read(&open).0 {
        let unit = ["seconds", "bytes", "ratio"].into_iter().find(|unit| name.ends_with(&format!("_{unit}")));
        assert_eq!(family.unit, unit.unwrap_or_default(), "{name}");
    }
}

/// A server that has everything that only some have: a certificate, and somebody to forward to.
fn complete() -> (Server, tempfile::TempDir) {
    let keys = tempfile::tempdir().expect("a directory");
    let pair = Pair::write(keys.path());
    let [certificate, key] = [&pair.certificate, &pair.key].map(|path| path.display().to_string());
    let flags = ["--tls-certificate", &certificate, "--tls-key", &key, "--dot", "127.0.0.1:0"];
    let server = Server::start(&[&flags[..], &["--forward", "127.0.0.1:9"]].concat());
    let form = json!({"service": "web", "id": "a", "address": "10.0.0.7", "port": 80, "lease": "none"});
    server.client().done("registered", &json!({ "register": form }));
    (server, keys)
}

fn repository(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("reading {}: {error}", path.display()))
}

#[test]
fn the_documentation_is_of_what_is_served() {
    let (server, _keys) = complete();
    let (families, found) = read(&open_metrics(&server));
    let expiry = found["callsign_tls_certificate_expiry_timestamp_seconds"];
    assert!(expiry > found["process_start_time_seconds"], "{expiry}");
    let served: BTreeMap<String, [String; 2]> = families
        .into_iter()
        .map(|(name, family)| {
            let labels = family.labels.into_iter().filter(|label| label != "le").collect::<Vec<_>>();
            (name, [family.kind, labels.join(", ")])
        })
        .collect();
    let mut told = BTreeMap::new();
    for line in repository("docs/metrics.md").lines() {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, meaning] = cells[..] else { continue };
        let Some(name) = name.strip_prefix('`').and_then(|name| name.strip_suffix('`')) else { continue };
        let mut labels: Vec<String> = labels
            .split(',')
            .map(|label| label.trim().replace('`', ""))
            .filter(|label| !label.is_empty())
            .collect();
        labels.sort();
        assert!(meaning.len() > 10, "{line}");
        assert!(told.insert(name.to_owned(), [kind.to_owned(), labels.join(", ")]).is_none(), "{name} twice");
    }
    assert_eq!(told, served);
}

/// The names in an expression of PromQL that are of metrics.
fn names_in(expression: &str) -> BTreeSet<String> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words
        .filter(|word| word.starts_with("callsign_") || word.starts_with("process_"))
        .map(str::to_owned)
        .collect()
}

/// Every text under the key `expr`, or `query`, wherever it stands.
fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Array(all) => all.iter().for_each(|value| expressions(value, found)),
        Value::Object(all) => {
            for (key, value) in all {
                match value {
                    Value::String(text) if ["expr", "query", "definition"].contains(&key.as_str()) => {
                        found.push(text.clone());
                    }
                    value => expressions(value, found),
                }
            }
        }
        _ => {}
    }
}

#[test]
fn dashboard_and_alerts_name_what_is_served() {
    let (server, _keys) = complete();
    let found = samples(&server);
    let served: BTreeSet<&str> = found.keys().map(|name| name.split('{').next().unwrap_or(name)).collect();
    let board: Value = serde_json::from_str(&repository("packaging/grafana/callsign.json")).expect("JSON");
    let mut drawn = Vec::new();
    expressions(&board, &mut drawn);
    assert!(drawn.len() > 20, "a dashboard: {drawn:?}");
    let ids: Vec<&Value> = board["panels"].as_array().unwrap().iter().map(|panel| &panel["id"]).collect();
    assert_eq!(
        ids.iter().map(|id| id.to_string()).collect::<BTreeSet<_>>().len(),
        ids.len(),
        "ids of panels"
    );
    let rules = repository("packaging/prometheus/callsign.rules.yml");
    for text in drawn.iter().map(String::as_str).chain([rules.as_str()]) {
        for name in names_in(text).into_iter().filter(|name| name != "callsign_rules") {
            assert!(served.contains(name.as_str()), "{name} is served by nobody: {text}");
        }
    }
    // And each label that a panel asks for is one of ours, or Prometheus' own.
    let labels: BTreeSet<String> = found
        .keys()
        .flat_map(|name| name.split(['{', ',']).filter_map(|part| Some(part.split_once("=\"")?.0.to_owned())))
        .chain(["job", "instance"].map(str::to_owned))
        .collect();
    for text in &drawn {
        for asked in text.split(['{', ',']).filter_map(|part| part.split_once(['=', '~'])) {
            let label = asked.0.trim_end_matches('!').trim();
            let is_word = !label.is_empty() && label.bytes().all(|octet| octet.is_ascii_lowercase());
            assert!(!is_word || labels.contains(label), "the label {label} in {text}");
        }
    }
}
