//! Who may say what: the same on every transport, in both ways.
//!
//! - `encrypted`: over TLS, with certificates of clients.
//! - `table`: every transport, identity, verb and service of a table, against what the rules say.
//! - `model`: random tokens, verbs and services, against a model of ten lines.
//! - `owners`: who came first keeps what it registered.
//! - `privileges`: no root behind the bound sockets.
//! - `queries`: who may ask over DNS.
//! - `secrets`: canaries, and everything that the server wrote.
//! - `tokens`: made, shown once, revoked at once, and worth nothing when they are wrong.

mod harness;

#[path = "access/encrypted.rs"]
mod encrypted;
#[path = "access/model.rs"]
mod model;
#[path = "access/owners.rs"]
mod owners;
#[path = "access/privileges.rs"]
mod privileges;
#[path = "access/queries.rs"]
mod queries;
#[path = "access/secrets.rs"]
mod secrets;
#[path = "access/table.rs"]
mod table;
#[path = "access/tokens.rs"]
mod tokens;

use harness::{Client, Http, Server};
use serde_json::{Value, json};

/// How a request comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Unix,
    Tcp,
    Http,
    HttpOverUnix,
    /// On a connection of its own for each request.
    Https,
}

impl Transport {
    pub const ALL: [Self; 5] = [Self::Unix, Self::Tcp, Self::Http, Self::HttpOverUnix, Self::Https];
}

/// A token that may do this, made over the Unix socket.
pub fn token(server: &Server, name: &str, allow: &[&str], deny: &[&str]) -> String {
    let create = json!({"token": {"create": {"name": name, "allow": allow, "deny": deny}}});
    let created = server.client().done("created", &create);
    created["token"].as_str().expect("a token").to_owned()
}

/// A connection of the registration protocol that has said who it is.
pub fn hello(mut client: Client, token: &str) -> Client {
    client.done("welcome", &json!({"hello": {"token": token}}));
    client
}

/// One HTTP request with a token.
pub fn over_http(
    mut http: Http,
    method: &str,
    path: &str,
    token: Option<&str>,
    body: &Value,
) -> harness::http::Response {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let header: Vec<(&str, &str)> = token.map(|token| ("X-Consul-Token", token)).into_iter().collect();
    http.send(method, path, &header, body.as_bytes());
    let head = http.head().expect("a reply");
    // One that goes on for ever has no end to wait for.
    if head.header("transfer-encoding") == Some("chunked") { head } else { http.body_of(head) }
}
