//! The dashboard's files and the paths that were made for it: what they carry, and what is refused.

use hickory_proto::rr::RecordType;
use serde_json::{Value, json};

use super::{REGISTER, definition};
use crate::harness::dns::{query, read};
use crate::harness::{DEADLINE, Http, Server};

const ASK: &str = "/v1/ask";
const JSON: (&str, &str) = ("Content-Type", "application/json");

fn fetch(http: &mut Http, path: &str, headers: &[(&str, &str)]) -> crate::harness::http::Response {
    http.send("GET", path, headers, b"");
    http.receive()
}

/// The reply to one request of the protocol, with its status.
fn ask(http: &mut Http, request: &Value) -> (u16, Value) {
    http.send("POST", ASK, &[JSON], request.to_string().as_bytes());
    let response = http.receive();
    (response.status, response.json())
}

/// The files that `text` names: in `href` and `src`, and behind `from`.
fn named(text: &str) -> Vec<String> {
    let quoted = text.split(['"', '\'']).skip(1).step_by(2);
    let files = quoted.filter(|word| [".js", ".css", ".svg"].iter().any(|end| word.ends_with(end)));
    files.map(|word| word.trim_start_matches("./").to_owned()).collect()
}

#[test]
fn every_file_of_the_page_is_there_and_carries_the_policy() {
    let server = Server::start(&["--store", "memory"]);
    let mut http = server.http();
    let mut files = vec![String::new()];
    let mut at = 0;
    while at < files.len() {
        let file = fetch(&mut http, &format!("/ui/{}", files[at]), &[]);
        assert_eq!(file.status, 200, "{}", files[at]);
        let policy = file.header("content-security-policy").expect("a policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
        assert!(!policy.contains("unsafe") && policy.contains("; style-src 'sha256-"), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
        for (name, value) in [("x-content-type-options", "nosniff"), ("referrer-policy", "no-referrer")] {
            assert_eq!(file.header(name), Some(value), "{}", files[at]);
        }
        for name in named(file.text()) {
            if !files.contains(&name) {
                files.push(name);
            }
        }
        at += 1;
    }
    assert!(files.len() > 8, "{files:?}");
    assert_eq!(fetch(&mut http, "/ui/none.js", &[]).status, 404);
    assert_eq!(fetch(&mut http, "/ui/..%2fhttp.rs", &[]).status, 404);
}

#[test]
fn a_file_that_has_not_changed_is_not_sent_again() {
    let server = Server::start(&["--store", "memory"]);
    let mut http = server.http();
    let plain = fetch(&mut http, "/ui/app.js", &[]);
    let gzip = fetch(&mut http, "/ui/app.js", &[("Accept-Encoding", "gzip, br")]);
    assert_eq!((plain.header("content-encoding"), gzip.header("content-encoding")), (None, Some("gzip")));
    assert!(gzip.body.len() < plain.body.len() / 2, "{} of {}", gzip.body.len(), plain.body.len());
    let (tag, other) = (plain.header("etag").expect("a tag"), gzip.header("etag").expect("a tag"));
    assert_ne!(tag, other, "two forms");
    let again = fetch(&mut http, "/ui/app.js", &[("If-None-Match", tag)]);
    assert_eq!((again.status, again.body.len()), (304, 0));
    assert_eq!(fetch(&mut http, "/ui/app.js", &[("If-None-Match", other)]).status, 200);
    assert_eq!(fetch(&mut http, "/ui/server.js", &[("If-None-Match", tag)]).status, 200);
}

#[test]
fn a_browser_is_led_to_the_page_and_a_link_from_elsewhere_may_lead_there() {
    let server = Server::start(&["--store", "memory"]);
    let mut http = server.http();
    let browser = fetch(&mut http, "/", &[("Accept", "text/html,*/*;q=0.8")]);
    assert_eq!((browser.status, browser.header("location")), (303, Some("/ui/")));
    assert!(fetch(&mut http, "/", &[]).text().starts_with("callsign."));
    let link =
        [("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document")];
    assert_eq!(fetch(&mut http, "/ui/", &link).status, 200);
    // Not to what it reads, nor from a page that would hold it in a frame, nor by a name that is none of ours.
    assert_eq!(fetch(&mut http, "/v1/catalog/services", &link).status, 403);
    assert_eq!(fetch(&mut http, "/ui/", &[link[0], link[1], ("Sec-Fetch-Dest", "iframe")]).status, 403);
    assert_eq!(fetch(&mut http, "/ui/app.js", &[link[0], ("Sec-Fetch-Mode", "no-cors")]).status, 403);
    assert_eq!(fetch(&mut http, "/ui/", &[("Host", "evil.example"), link[0], link[1], link[2]]).status, 403);
}

#[test]
fn one_request_of_the_protocol_is_answered_over_http() {
    let server = Server::start(&[]);
    let mut http = server.http();
    http.put(REGISTER, &definition("web", "a", 80));
    let host = ask(&mut http, &json!({"list": {}})).1["instances"]["instances"][0]["host"].clone();
    let of = json!({"service": "web", "id": "a", "host": host});
    let (status, reply) = ask(&mut http, &json!({"explain": {"name": "web"}}));
    assert_eq!((status, &reply["explained"]["instances"][0]["rule"]), (200, &json!("live")));
    for (verb, replied) in [
        ("status", "status"),
        ("log", "log"),
        ("availability", "availability"),
        ("nodes", "nodes"),
        ("ring", "ring"),
        ("list", "instances"),
    ] {
        let (status, reply) = ask(&mut http, &json!({ verb: {} }));
        assert_eq!(status, 200, "{verb}: {reply}");
        assert!(reply[replied].is_object(), "{verb}: {reply}");
    }
    assert_eq!(ask(&mut http, &json!({"settings": {"service": "web", "ttl": "9s"}})).1["settings"]["ttl"], 9);
    let mut report = of.clone();
    report["status"] = json!("maintenance");
    assert_eq!(ask(&mut http, &json!({ "report": report })).1["reported"]["status"], "maintenance");
    assert_eq!(ask(&mut http, &json!({"drain": of})).1["draining"]["id"], "a");
    let (_, reply) = ask(&mut http, &json!({"lookup": {"id": "a"}}));
    assert_eq!(reply["found"]["instances"][0]["draining"], true);
    assert_eq!(ask(&mut http, &json!({"deregister": of})).1["deregistered"]["existed"], true);
    assert_eq!(ask(&mut http, &json!({"lookup": {"id": "a"}})).0, 404);
    for request in
        [json!({"register": {"service": "web", "port": 80}}), json!({"watch": {}}), json!({"backup": {}})]
    {
        let (status, reply) = ask(&mut http, &request);
        assert_eq!((status, &reply["error"]["code"]), (400, &json!("unknown_verb")), "{request}");
    }
    assert_eq!(ask(&mut http, &json!({"explain": {"nam": "web"}})).0, 400);
}

#[test]
fn a_list_may_be_short() {
    let server = Server::start(&["--store", "memory"]);
    let mut http = server.http();
    for id in ["a", "b", "c"] {
        http.put(REGISTER, &definition("web", id, 80));
    }
    let ids = |reply: &Value| -> Vec<Value> {
        let list = reply["instances"]["instances"].as_array().expect("a list");
        list.iter().map(|instance| instance["id"].clone()).collect()
    };
    let (_, first) = ask(&mut http, &json!({"list": {"most": 2}}));
    assert_eq!(ids(&first), ["a", "b"]);
    let next = &first["instances"]["next"];
    let (_, rest) = ask(&mut http, &json!({"list": {"most": 2, "after": next}}));
    assert_eq!((ids(&rest), &rest["instances"]["next"]), (vec![json!("c")], &Value::Null));
    let mut client = server.client();
    assert_eq!(client.ask(&json!({"watch": {"most": 2}}))["error"]["field"], "most");
}

#[test]
fn what_is_no_json_of_ours_changes_nothing() {
    let server = Server::start(&["--store", "memory"]);
    let mut http = server.http();
    http.put(REGISTER, &definition("web", "a", 80));
    let body = json!({"settings": {"service": "web", "ttl": "9s"}}).to_string();
    // What a form of any page can send without asking first.
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"] {
        http.send("POST", ASK, &[("Content-Type", kind)], body.as_bytes());
        assert_eq!(http.receive().status, 415, "{kind}");
    }
    http.send("POST", ASK, &[], body.as_bytes());
    assert_eq!(http.receive().status, 415);
    let (_, reply) = ask(&mut http, &json!({"settings": {"service": "web"}}));
    assert_eq!(reply["settings"]["ttl"], Value::Null);
}

#[test]
fn who_asks_hears_what_they_may() {
    let server = Server::start(&["--access", "allow anyone read+watch+report:web"]);
    let mut http = server.http();
    let web = fetch(&mut http, "/v1/access?service=web", &[]).json();
    assert_eq!(web["may"], json!(["read", "watch", "report"]));
    assert_eq!(fetch(&mut http, "/v1/access?service=db", &[]).json()["may"], json!([]));
    assert_eq!(fetch(&mut http, "/v1/access", &[]).json()["may"], json!([]));
    let (status, reply) = ask(&mut http, &json!({"list": {}}));
    assert_eq!((status, &reply["error"]["code"]), (403, &json!("denied")));
    assert_eq!(ask(&mut http, &json!({"explain": {"name": "web"}})).0, 200);
    let (status, _) = ask(&mut http, &json!({"deregister": {"service": "web", "id": "a"}}));
    assert_eq!(status, 403);
}

#[test]
fn the_answer_that_is_shown_is_the_one_that_a_client_gets() {
    let server = Server::start(&["--store", "memory"]);
    let mut http = server.http();
    for number in 0..40 {
        http.put(REGISTER, &definition("web", &format!("web-{number}"), 8000 + number));
    }
    let resolver = server.resolver();
    // As they are asked here, and what a client sends.
    for (words, rtype, edns, fits) in [
        ("type=SRV&size=0", RecordType::SRV, None, 512),
        ("type=SRV&size=512", RecordType::SRV, Some(512), 512),
        ("type=SRV&size=1232", RecordType::SRV, Some(1232), 1232),
        ("size=4096", RecordType::A, Some(4096), 1232),
        ("type=AAAA", RecordType::AAAA, Some(1232), 1232),
    ] {
        let shown = fetch(&mut http, &format!("/v1/answer?name=web&{words}"), &[]).json();
        resolver.send(&query(7, "web.service.local.", rtype, edns).to_vec().expect("a query"));
        let octets = resolver.receive(DEADLINE).expect("an answer");
        let real = read(&octets);
        assert_eq!(shown["octets"], octets.len(), "{words}: {shown}");
        assert!(octets.len() <= fits, "{words}");
        let cut = shown["flags"].as_array().expect("flags").contains(&json!("tc"));
        assert_eq!(cut, real.metadata.truncation, "{words}");
        for (section, records) in
            [("answer", &real.answers), ("authority", &real.authorities), ("additional", &real.additionals)]
        {
            let mut names: Vec<String> = records.iter().map(|record| record.data.to_string()).collect();
            let told = shown[section].as_array().expect("records");
            let mut told: Vec<String> =
                told.iter().map(|record| record["data"].as_str().expect("data").to_owned()).collect();
            // The order is random; which of them stay is not, for one client.
            names.sort();
            told.sort();
            assert_eq!(told, names, "{words}: {section}");
        }
    }
    let tcp = fetch(&mut http, "/v1/answer?name=web.service.local&type=SRV&over=tcp", &[]).json();
    assert_eq!((tcp["answer"].as_array().expect("records").len(), &tcp["over"]), (40, &json!("tcp")));
    let missing = fetch(&mut http, "/v1/answer?name=wbe", &[]).json();
    assert_eq!((&missing["rcode"], missing["errors"][0]["code"].is_number()), (&json!("NXDOMAIN"), true));
    for words in [
        "",
        "name=",
        "name=a..b",
        "name=web&type=WHAT",
        "name=web&size=70000",
        "name=web&over=fax",
        "name=web&client=me",
    ] {
        assert_eq!(fetch(&mut http, &format!("/v1/answer?{words}"), &[]).status, 400, "{words}");
    }
}

#[test]
fn what_is_asked_for_is_counted() {
    let server = Server::start(&["--store", "memory"]);
    let mut http = server.http();
    http.put(REGISTER, &definition("web", "a", 80));
    let mut resolver = server.resolver();
    for _ in 0..5 {
        resolver.udp("web.service.local.", RecordType::A);
        resolver.udp_edns("A.Web.Service.Local.", RecordType::SRV, 1232);
        resolver.tcp("_web._tcp.service.local.", RecordType::SRV);
        resolver.udp("wbe.service.local.", RecordType::A);
        resolver.tcp("WBE.service.local.", RecordType::AAAA);
    }
    resolver.udp("example.com.", RecordType::A);
    // Asking here for an answer is no query.
    fetch(&mut http, "/v1/answer?name=nobody", &[]);
    let traffic = fetch(&mut http, "/v1/traffic", &[]).json();
    let [missing] = traffic["missing"].as_array().expect("a list").as_slice() else { panic!("{traffic}") };
    assert_eq!(missing["name"], "wbe.service.local.");
    assert_eq!(
        (&missing["count"], &missing["over"], &missing["nearest"]),
        (&json!(10), &json!(0), &json!("web"))
    );
    let services = traffic["services"].as_object().expect("services");
    assert_eq!(services.keys().collect::<Vec<_>>(), ["web"], "{traffic}");
    // 15 and 26 queries, all within one window, or most of it: the rest moves into the one before.
    let rate = |of: &Value| of.as_f64().expect("a rate");
    assert!(rate(&services["web"]) > 0.0 && rate(&services["web"]) <= 1.5, "{traffic}");
    assert!(rate(&traffic["rate"]) > rate(&services["web"]) && rate(&traffic["rate"]) <= 2.6, "{traffic}");
}
