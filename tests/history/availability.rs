//! `availability`: live time over registered time, from the log, as the log's own times have it.

use serde_json::{Value, json};

use crate::harness::{DEADLINE, Server, eventually};
use crate::picture::{ask, lines, register};
use hickory_proto::rr::RecordType;

fn availability(server: &Server, form: &Value) -> Value {
    server.client().done("availability", &json!({ "availability": form }))
}

/// Milliseconds of a span of a service or an instance: live and registered.
fn times(of: &Value, span: &str) -> [i64; 2] {
    let spans = of["spans"].as_array().expect("spans");
    let span = spans.iter().find(|known| known["span"] == span).expect("a span");
    ["live_ms", "registered_ms"].map(|figure| span[figure].as_i64().expect("a figure"))
}

/// `2026-11-21T15:04:05.678Z` in milliseconds of its day; tests do not last a day, but may cross midnight.
fn milliseconds(time: &Value) -> i64 {
    let time = time.as_str().expect("a time");
    let numbers: Vec<i64> =
        time[11..23].split([':', '.']).map(|number| number.parse().expect("a number")).collect();
    ((numbers[0] * 60 + numbers[1]) * 60 + numbers[2]) * 1000 + numbers[3]
}

fn between(earlier: &Value, later: &Value) -> i64 {
    (milliseconds(&later["at"]) - milliseconds(&earlier["at"])).rem_euclid(86_400_000)
}

#[test]
fn figures_are_those_of_the_log_after_a_crash_too() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().display().to_string();
    let mut server = Server::start(&["--data", &data]);
    let mut client = server.client();
    let report = |id: &str, status: &str| json!({"report": {"service": "web", "id": id, "status": status}});
    for id in ["a", "b", "left"] {
        client.done("registered", &register("web", id, 80));
    }
    client.done("registered", &register("db", "d", 80));
    client.done("reported", &report("a", "critical"));
    client.done("reported", &report("b", "critical"));
    client.done("deregistered", &json!({"deregister": {"service": "web", "id": "left"}}));
    // Nothing of web is live for so long as this takes.
    (0..20).for_each(|_| drop(client.done("registered", &register("db", "d", 81))));
    client.done("reported", &report("a", "passing"));
    server.crash();
    let server = Server::start(&["--data", &data]);
    let log = lines(&ask(&server, &["log", "web", "-o", "jsonl", "--most", "1000"]).stdout);
    let of = |id: &str| -> Vec<&Value> { log.iter().rev().filter(|change| change["id"] == id).collect() };
    let (a, b, left) = (of("a"), of("b"), of("left"));
    assert_eq!((a.len(), b.len(), left.len()), (3, 2, 2), "{log:?}");
    let told = availability(&server, &json!({"service": "web"}));
    assert_eq!((&told["instances"], &told["instances_live"]), (&json!(2), &json!(1)), "{told}");
    assert_eq!(told["ratio"], json!(2.0 / 3.0));
    let instances = told["of_instances"].as_array().expect("instances");
    let ids: Vec<&str> = instances.iter().filter_map(|instance| instance["id"].as_str()).collect();
    assert_eq!(ids, ["a", "b", "left"], "{told}");
    for span in ["1h", "24h", "30d"] {
        let [live, registered] = times(&instances[0], span);
        assert_eq!(registered - live, between(a[1], a[2]), "a, {span}: {told}");
        let [live, registered] = times(&instances[1], span);
        assert_eq!(live, between(b[0], b[1]), "b, {span}: {told}");
        assert!(registered >= between(b[0], a[2]), "b, {span}: {told}");
        assert_eq!(times(&instances[2], span), [between(left[0], left[1]); 2], "left, {span}: {told}");
        // The last one that was live, `left`, left after the others were critical.
        let [live, registered] = times(&told["of_services"][0], span);
        assert_eq!(registered - live, between(left[1], a[2]), "web, {span}: {told}");
    }
    assert_eq!((&instances[2]["registered"], &instances[2]["live"]), (&json!(false), &json!(false)));
    assert!(!told.to_string().contains("since"), "the log is whole: {told}");
    let all = availability(&server, &json!({}));
    let names: Vec<&Value> =
        all["of_services"].as_array().expect("services").iter().map(|of| &of["service"]).collect();
    assert_eq!(names, ["db", "web"]);
    assert_eq!(all["ratio"], json!(4.0 / 5.0), "{all}");
    let after = availability(&server, &json!({"after": "db"}));
    assert_eq!(after["of_services"].as_array().map(Vec::len), Some(1), "{after}");
    assert_eq!(after["of_services"][0]["service"], "web");
}

#[test]
fn where_the_log_is_short_it_says_since_when() {
    let server = Server::start(&["--history-changes", "1000", "--known-for", "1s"]);
    let mut client = server.client();
    client.done("registered", &register("old", "a", 80));
    client.done("reported", &json!({"report": {"service": "old", "id": "a", "status": "critical"}}));
    // What is taken out of the log is for the store to choose; that it does is waited for.
    let mut port = 80;
    eventually("the log to be cut", DEADLINE, || {
        for _ in 0..500 {
            port = 80 + (port + 1) % 1000;
            client.done("registered", &register("busy", "b", port));
        }
        lines(&ask(&server, &["log", "old", "-o", "jsonl"]).stdout).is_empty().then_some(())
    });
    let told = availability(&server, &json!({"service": "old"}));
    let span = &told["of_instances"][0]["spans"][0];
    assert_eq!(span["live_ms"], 0, "{told}");
    let log = lines(&ask(&server, &["log", "-o", "jsonl", "--most", "100000"]).stdout);
    let oldest = log.last().expect("a log");
    let since = between(oldest, &json!({"at": span["since"]}));
    // More may have been taken out since.
    assert!(since == 0 || since > 86_400_000 / 2, "{told}, {oldest}");
    // A service is known for a second after its last instance left.
    let of_service = &told["of_services"][0]["spans"][0]["since"];
    assert!(of_service.as_str() > span["since"].as_str(), "{told}");
    let table = ask(&server, &["availability", "old"]);
    assert!(table.stdout.contains("0.00%*") && table.stdout.contains("known since"), "{table:?}");
    // Behind an empty line, which is none of its letters.
    assert!(table.stdout.contains("\n\n*: the log begins later"), "{table:?}");
}

#[test]
fn verbs_and_times_of_queries() {
    let server = Server::start(&[]);
    let mut client = server.client();
    client.done("registered", &register("web", "a", 80));
    let told = availability(&server, &json!({}));
    assert!(told["query_time"].is_null() && told["probe_time"].is_null(), "nobody asked yet: {told}");
    let mut resolver = server.resolver();
    resolver.udp("web.service.local.", RecordType::A);
    resolver.tcp("web.service.local.", RecordType::TXT);
    // A worker adds its time when the reply is on its way.
    let told = eventually("two queries that were timed", DEADLINE, || {
        Some(availability(&server, &json!({}))).filter(|told| told["query_time"]["timed"] == 2)
    });
    assert!(told["query_time"]["mean_us"].as_f64().is_some_and(|mean| mean > 0.0), "{told}");
    let table = ask(&server, &["availability", "web"]);
    assert_eq!(table.code, Some(0), "{table:?}");
    for text in ["available", "SERVICE", "ID", "100.00%", "1 of 1 live"] {
        assert!(table.stdout.contains(text), "{text}: {}", table.stdout);
    }
    let nobody = ask(&server, &["availability", "nobody"]);
    assert_eq!(nobody.code, Some(3), "{nobody:?}");
    assert_eq!(ask(&server, &["availability", "no_name"]).code, Some(2));
    assert_eq!(client.ask(&json!({"availability": {"after": "-"}}))["error"]["field"], "after");
}
