//! Transport, identity, verb, service: what each cell is allowed is written down here a second time, and asked for.
//!
//! UPDATE has a table of its own in tests/update.rs, and xDS, which only watches, in tests/xds.rs.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::{Transport, encrypted, hello, over_http, token};
use crate::harness::tls::{Pair, client, localhost};
use crate::harness::{DEADLINE, Http, Server};

const VERBS: [&str; 6] = ["register", "deregister", "report", "read", "watch", "admin"];

/// What tokens may: a name, what is allowed, what is denied.
type Row = (&'static str, &'static [&'static str], &'static [&'static str]);

const TOKENS: [Row; 8] = [
    ("reads", &["read+watch"], &[]),
    ("web", &["register+deregister:web*"], &[]),
    ("web-but-admin", &["*:web*"], &["admin", "register:web-1"]),
    ("db", &["register+report:db"], &[]),
    ("chief", &["admin"], &[]),
    ("chief-of-db", &["admin:db*"], &["deregister:db-primary"]),
    ("all-but-web", &["*"], &["*:web*"]),
    ("two", &["report:cache", "register:web", "read:db*"], &["read:db-1"]),
];

const SERVICES: [&str; 27] = [
    "web",
    "web-1",
    "web-2",
    "web-admin",
    "webs",
    "w",
    "we",
    "db",
    "db-1",
    "db-2",
    "db-primary",
    "dbs",
    "d",
    "cache",
    "cache-1",
    "caches",
    "mail",
    "queue",
    "log-sink",
    "metrics",
    "search",
    "auth",
    "a",
    "z9",
    "x-web",
    "my-db",
    "b",
];

/// A star at the end is anything.
fn fits(pattern: &str, service: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == service, |start| service.starts_with(start))
}

fn says(grant: &str, verb: &str, service: &str) -> bool {
    let (verbs, pattern) = grant.split_once(':').unwrap_or((grant, "*"));
    (verbs == "*" || verbs.split('+').any(|known| known == verb)) && fits(pattern, service)
}

/// The rule of the server below is `allow anyone read:mail`.
fn is_allowed(transport: Transport, identity: Option<&Row>, verb: &str, service: &str) -> bool {
    let Some((_, allow, deny)) = identity else {
        // The test is root, whom the Unix socket knows.
        return matches!(transport, Transport::Unix | Transport::HttpOverUnix)
            || (verb, service) == ("read", "mail");
    };
    let allowed = |grant: &&str| says(grant, verb, service) || says(grant, "admin", service);
    (allow.iter().any(allowed) || (verb, service) == ("read", "mail"))
        && !deny.iter().any(|grant| says(grant, verb, service))
}

/// True where the right was there: what is refused for another reason was not refused for want of it.
fn was_allowed(text: &str, refused: bool) -> bool {
    let (verb, owner) = (text.contains("no rule allows it"), text.contains("was registered by"));
    assert!(!refused || verb || owner, "refused for another reason: {text}");
    !(refused && verb)
}

fn over_socket(
    server: &Server,
    transport: Transport,
    token: Option<&str>,
    verb: &str,
    service: &str,
) -> bool {
    let client = match transport {
        Transport::Unix => server.client(),
        _ => server.tcp_client(),
    };
    let mut client = match token {
        Some(token) => hello(client, token),
        None => client,
    };
    let kept = format!("{service}-kept");
    let request = match verb {
        "register" => {
            json!({"register": {"service": service, "id": format!("{service}-new"), "address": "10.0.0.7",
            "port": 80, "lease": "none"}})
        }
        "deregister" => json!({"deregister": {"service": service, "id": kept}}),
        "report" => json!({"report": {"service": service, "id": kept, "check": "up", "status": "passing"}}),
        "read" => json!({"list": {"service": service}}),
        "watch" => json!({"watch": {"service": service}}),
        _ => json!({"settings": {"service": service, "ttl": "9s"}}),
    };
    let reply = client.ask(&request);
    assert!(reply["error"].is_null() || reply["error"]["code"] == "denied", "{request} was answered {reply}");
    was_allowed(&reply.to_string(), !reply["error"].is_null())
}

fn by_http(
    server: &Server,
    transport: Transport,
    trust: &Arc<ClientConfig>,
    token: Option<&str>,
    verb: &str,
    service: &str,
) -> bool {
    let kept = format!("{service}-kept");
    let (method, path, body) = match verb {
        "register" => (
            "PUT",
            "/v1/agent/service/register".to_owned(),
            json!({"Name": service, "ID": format!("{service}-new"), "Address": "10.0.0.7", "Port": 80}),
        ),
        "deregister" => ("PUT", format!("/v1/agent/service/deregister/{kept}"), Value::Null),
        "report" => ("PUT", format!("/v1/agent/check/update/service:{kept}"), json!({"Status": "passing"})),
        // The name as a browser might spell it: it is the same service.
        "read" => ("GET", format!("/v1/health/service/{}", spelt(service)), Value::Null),
        "watch" => ("GET", format!("/v1/watch/{}", spelt(service)), Value::Null),
        _ => ("PUT", format!("/v1/settings/{service}"), json!({"ttl": "9s"})),
    };
    let (status, text) = match transport {
        Transport::Https => over_https(server, trust, (method, &path), token, &body),
        _ => {
            let is_tcp = transport == Transport::Http;
            let http = if is_tcp { server.http() } else { Http::unix(&server.socket) };
            let response = over_http(http, method, &path, token, &body);
            (response.status, response.text().to_owned())
        }
    };
    assert!([200, 403].contains(&status), "{method} {path}: {status} {text}");
    was_allowed(&text, status == 403)
}

/// The status of a reply, and its body where that says why something was refused.
fn over_https(
    server: &Server,
    trust: &Arc<ClientConfig>,
    (method, path): (&str, &str),
    token: Option<&str>,
    body: &Value,
) -> (u16, String) {
    let stream = TcpStream::connect(encrypted::address(server, "https ")).expect("a connection");
    stream.set_read_timeout(Some(DEADLINE)).expect("an option of a socket of ours");
    let connection = ClientConnection::new(trust.clone(), localhost()).expect("a client");
    let mut stream = StreamOwned::new(connection, stream);
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let token = token.map(|token| format!("X-Consul-Token: {token}\r\n")).unwrap_or_default();
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{token}Content-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).expect("sending a request");
    let (mut reader, mut first, mut text) = (BufReader::new(stream), String::new(), String::new());
    reader.read_line(&mut first).expect("a reply");
    let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.unwrap_or_else(|| panic!("no reply: {first}"));
    // What is watched goes on for ever.
    if status != 200 {
        reader.read_to_string(&mut text).expect("the body");
    }
    (status, text)
}

/// The first letter as a percent sign and its number.
fn spelt(service: &str) -> String {
    format!("%{:02X}{}", service.as_bytes()[0], &service[1..])
}

#[test]
fn every_cell_is_as_the_rules_say_on_every_transport() {
    let directory = tempfile::tempdir().expect("a directory");
    let pair = Pair::write(directory.path()).flags();
    let flags = ["--store", "memory", "--listen", "127.0.0.1:0", "--access", "allow anyone read:mail"];
    let encrypted = ["--https", "127.0.0.1:0", &pair[0], &pair[1], &pair[2], &pair[3]];
    let server = Server::start(&[&flags[..], &encrypted].concat());
    let trust = Arc::new(client(&[&TLS13], &[b"http/1.1"]));
    let keep = |service: &str| {
        let body = json!({"Name": service, "ID": format!("{service}-kept"), "Address": "10.0.0.8", "Port": 80,
            "Check": {"TTL": "24h", "Status": "passing"}});
        Http::unix(&server.socket).put("/v1/agent/service/register", &body);
    };
    let texts: Vec<String> =
        TOKENS.iter().map(|(name, allow, deny)| token(&server, name, allow, deny)).collect();
    let (mut cells, mut allowed) = (0, 0);
    let mut wrong = Vec::new();
    for service in SERVICES {
        for transport in Transport::ALL {
            for at in 0..=TOKENS.len() {
                let (identity, token) = (TOKENS.get(at), texts.get(at).map(String::as_str));
                for verb in VERBS {
                    keep(service); // whoever may deregister it has done so
                    let got = match transport {
                        Transport::Unix | Transport::Tcp => {
                            over_socket(&server, transport, token, verb, service)
                        }
                        _ => by_http(&server, transport, &trust, token, verb, service),
                    };
                    let want = is_allowed(transport, identity, verb, service);
                    if got != want {
                        let name = identity.map_or("nobody", |(name, ..)| name);
                        wrong.push(format!("{transport:?} {name} {verb} {service}: {got}, and not {want}"));
                    }
                    cells += 1;
                    allowed += usize::from(want);
                }
            }
        }
    }
    println!("{cells} cells, of which {allowed} are allowed");
    assert!(cells >= 7000 && allowed > 500 && cells - allowed > 500, "a table in both ways");
    assert!(wrong.is_empty(), "{} of {cells} cells:\n{}", wrong.len(), wrong.join("\n"));
}
