//! Tokens from their making to their end.

use serde_json::{Value, json};

use super::{hello, over_http, token};
use crate::harness::{Http, Server, callsign};

/// Nothing is allowed without a token.
pub const CLOSED: [&str; 6] =
    ["--store", "memory", "--listen", "127.0.0.1:0", "--access", "allow anyone read:nothing"];

fn list() -> Value {
    json!({"list": {}})
}

#[test]
fn a_token_is_told_once_and_its_secret_is_nowhere_else() {
    let server = Server::start(&CLOSED);
    let text = token(&server, "ci", &["register:web*"], &["register:web-admin"]);
    let secret = text.rsplit_once('_').expect("a secret").1;
    let tokens = server.client().done("tokens", &json!({"token": {"list": {}}}));
    let shown = &tokens["tokens"][0];
    assert_eq!(
        (&shown["name"], &shown["allow"], &shown["deny"]),
        (&json!("ci"), &json!(["register:web*"]), &json!(["register:web-admin"]))
    );
    assert!(!tokens.to_string().contains(secret), "{tokens}");
    let again =
        server.client().done("error", &json!({"token": {"create": {"name": "ci", "allow": ["read"]}}}));
    assert_eq!(again["code"], "taken");
    for (form, field) in [
        (json!({"name": "a b", "allow": ["read"]}), "name"),
        (json!({"name": "", "allow": ["read"]}), "name"),
        (json!({"name": "x"}), "allow"),
        (json!({"name": "x", "allow": ["reed"]}), "allow"),
        (json!({"name": "x", "allow": ["read"], "deny": ["read:*web"]}), "deny"),
        (json!({"name": "x", "allow": vec!["read"; 65]}), "allow"),
        (json!({"name": "x", "allow": ["read"], "expires": "soon"}), "expires"),
        (json!({"name": "x", "allow": ["read"], "expires": "0s"}), "expires"),
    ] {
        let error = server.client().done("error", &json!({"token": {"create": form}}));
        assert!(error["code"] == "invalid" && error["field"] == field, "{form}: {error}");
    }
    let gone = server.client().done("error", &json!({"token": {"revoke": {"name": "other"}}}));
    assert_eq!(gone["code"], "not_found");
}

#[test]
fn a_token_is_carried_as_consuls_clients_carry_it() {
    let server = Server::start(&CLOSED);
    let text = token(&server, "reads", &["read"], &[]);
    let asked = |path: &str, headers: &[(&str, &str)]| {
        let mut http = server.http();
        http.send("GET", path, headers, b"");
        http.receive().status
    };
    let path = "/v1/health/service/web";
    assert_eq!(asked(path, &[]), 403);
    assert_eq!(asked(path, &[("X-Consul-Token", &text)]), 200);
    assert_eq!(asked(path, &[("Authorization", &format!("Bearer {text}"))]), 200);
    assert_eq!(asked(&format!("{path}?token={text}"), &[]), 200);
    assert_eq!(asked(path, &[("X-Consul-Token", "")]), 403, "no token is nobody");
    assert_eq!(asked("/v1/status/leader", &[]), 200, "clients ask it before anything else");
}

#[test]
fn a_revoked_token_counts_no_more_on_connections_that_are_open() {
    let server = Server::start(&CLOSED);
    let text = token(&server, "ci", &["*"], &[]);
    let mut open = hello(server.tcp_client(), &text);
    open.done("instances", &list());
    let mut watcher = hello(server.tcp_client(), &text);
    watcher.done("snapshot", &json!({"watch": {}}));
    let mut web = server.http();
    web.send("GET", "/v1/watch/web", &[("X-Consul-Token", &text)], b"");
    assert_eq!(web.head().expect("a reply").status, 200);
    assert!(web.line().expect("a snapshot").contains("snapshot"));
    let index = over_http(server.http(), "GET", "/v1/catalog/services", Some(&text), &Value::Null).index();
    let mut blocked = server.http();
    blocked.send("GET", &format!("/v1/catalog/services?index={index}"), &[("X-Consul-Token", &text)], b"");
    server.client().done("revoked", &json!({"token": {"revoke": {"name": "ci"}}}));
    for reply in [open.ask(&list()), watcher.receive()] {
        assert_eq!(reply["error"]["code"], "denied", "{reply}");
    }
    assert!(web.line().expect("the last word").contains("\"denied\""));
    assert_eq!(blocked.receive().status, 403);
    // A token of the same name is another one.
    token(&server, "ci", &["*"], &[]);
    assert_eq!(open.ask(&list())["error"]["code"], "denied");
}

#[test]
fn a_token_ends_when_its_time_is_over() {
    let server = Server::start(&CLOSED);
    let create = json!({"token": {"create": {"name": "brief", "allow": ["watch"], "expires": "1s"}}});
    let created = server.client().done("created", &create);
    let mut watcher = hello(server.tcp_client(), created["token"].as_str().expect("a token"));
    watcher.done("snapshot", &json!({"watch": {}}));
    // It comes by itself, when the second is over.
    let error = watcher.receive();
    assert_eq!(error["error"]["code"], "denied", "{error}");
    assert!(error["error"]["message"].as_str().is_some_and(|text| text.contains("expired")), "{error}");
}

#[test]
fn who_is_mistaken_about_who_they_are_is_not_listened_to() {
    let server = Server::start(&CLOSED);
    let text = token(&server, "ci", &["*"], &[]);
    let wrong = format!("{}{}", &text[..text.len() - 1], if text.ends_with('0') { '1' } else { '0' });
    // On the Unix socket root may all of it, and that is not meant by who says a wrong token.
    let mut client = server.client();
    client.send(&json!({"hello": {"token": wrong}}));
    client.send(&json!({"register": {"service": "web", "port": 80}}));
    assert_eq!(client.receive()["error"]["code"], "denied");
    assert!(client.next().is_none(), "the connection is closed");
    for token in [wrong.as_str(), "x", "callsign_", "callsign_0000000000000000_00"] {
        let response =
            over_http(Http::unix(&server.socket), "GET", "/v1/catalog/services", Some(token), &Value::Null);
        assert_eq!(response.status, 403, "{token}");
    }
    assert!(server.client().list().is_empty());
}

#[test]
fn without_rules_or_tokens_a_token_of_another_server_is_nothing() {
    let server = Server::start(&["--store", "memory"]);
    let asked = || over_http(server.http(), "GET", "/v1/catalog/services", Some("5f3c"), &Value::Null).status;
    assert_eq!(asked(), 200);
    token(&server, "ci", &["read"], &[]);
    assert_eq!(asked(), 403);
}

#[test]
fn the_command_line_takes_a_token_from_a_file_and_from_the_environment() {
    let server = Server::start(&CLOSED);
    let unix = format!("unix:{}", server.socket.display());
    let tcp = server.listen[0].to_string();
    let made = callsign(&[
        "token",
        "create",
        "--name",
        "ci",
        "--allow",
        "register+read",
        "--expires",
        "30d",
        "--server",
        &unix,
    ]);
    assert_eq!(made.code, Some(0), "{made:?}");
    let file = server.directory().join("ci.token");
    std::fs::write(&file, &made.stdout).expect("a file");
    let with = |words: &[&str]| callsign(&[words, &["--server", &tcp]].concat());
    let file = file.display().to_string();
    let register = ["register", "web", "10.0.0.7:80", "--lease", "1h", "--id", "web-1"];
    let nobody = with(&register);
    assert!(nobody.code == Some(4) && nobody.stderr.contains("may not register"), "{nobody:?}");
    let somebody = with(&[&register[..], &["--token-file", &file]].concat());
    assert_eq!(somebody.code, Some(0), "{somebody:?}");
    let listed = callsign(&["token", "list", "--server", &unix]);
    assert!(listed.stdout.contains("ci") && listed.stdout.contains("register+read:*"), "{listed:?}");
    // Without an end there is none to show.
    let endless = ["token", "create", "--name", "endless", "--allow", "read", "--server", &unix];
    assert_eq!(callsign(&endless).code, Some(0));
    let listed = callsign(&["token", "list", "--server", &unix]);
    let row = listed.stdout.lines().find(|line| line.starts_with("endless")).expect("its row");
    assert_eq!(row.split_whitespace().collect::<Vec<_>>(), ["endless", "read:*", "-", "-"]);
    let empty = with(&["ls", "--token-file", "/dev/null"]);
    assert!(empty.code == Some(2) && empty.stderr.contains("no token"), "{empty:?}");
    assert_eq!(callsign(&["token", "revoke", "ci", "--server", &unix]).code, Some(0));
    assert_eq!(with(&["ls", "--token-file", &file]).code, Some(4));
}

/// However often somebody is wrong, nobody else notices, at the same address neither.
#[test]
fn many_wrong_tokens_cost_nobody_else_anything() {
    const WRONG: usize = 10_000;
    let server = Server::start(&CLOSED);
    let text = token(&server, "ci", &["*"], &[]);
    let mut served = 0;
    let guessed = std::thread::scope(|scope| {
        let guessing = scope.spawn(|| {
            let (mut guesses, mut told) = (0, [0_usize; 2]);
            let mut http = server.http();
            while guesses < WRONG {
                let guess = format!("callsign_{guesses:016x}_{}", "0".repeat(64));
                http.send("GET", "/v1/catalog/services", &[("X-Consul-Token", &guess)], b"");
                let reply = http.receive();
                guesses += 1;
                match reply.status {
                    403 => told[0] += 1,
                    429 => {
                        told[1] += 1;
                        assert!(http.next().is_none(), "the connection is closed");
                        http = server.http();
                    }
                    status => panic!("a guess was answered {status}"),
                }
            }
            told
        });
        let mut holder = hello(server.tcp_client(), &text);
        while !guessing.is_finished() {
            let id = format!("web-{}", served % 10);
            let form = json!({"service": "web", "id": id, "address": "10.0.0.7", "port": 80, "lease": "1h"});
            holder.done("registered", &json!({ "register": form }));
            assert_eq!(
                over_http(server.http(), "GET", "/v1/catalog/services", Some(&text), &Value::Null).status,
                200
            );
            hello(server.tcp_client(), &text).done("instances", &list());
            served += 3;
        }
        guessing.join().expect("the guesses")
    });
    println!("{WRONG} guesses: {guessed:?}; {served} others, all of them served");
    assert!(guessed[1] > guessed[0], "most are told that they are too many");
    assert!(served > 0, "others asked meanwhile");
    let log = server.stderr();
    assert!(log.lines().count() < 20, "a guess is no line of the log: {log}");
}
