//! Who may do what is the same at every node: tokens, and whose an instance is.

use serde_json::{Value, json};

use crate::etcd::Etcd;
use crate::harness::{Client, DEADLINE, Server, eventually};
use crate::several::{becomes, register, seen};

/// Nothing is allowed without a token.
const CLOSED: [&str; 2] = ["--access", "allow anyone read:nothing"];

/// A token that may do this on everything, made over a node's Unix socket.
fn token(node: &Server, name: &str, allow: &str) -> String {
    let create = json!({"token": {"create": {"name": name, "allow": [allow]}}});
    node.client().done("created", &create)["token"].as_str().expect("a token").to_owned()
}

/// A connection that has said who it is, once the node knows the token.
fn hello(node: &Server, token: &str) -> Client {
    eventually("the token at the node", DEADLINE, || {
        let mut client = node.tcp_client();
        let reply = client.ask(&json!({"hello": {"token": token}}));
        reply.get("welcome").is_some().then_some(client)
    })
}

fn tokens(node: &Server) -> usize {
    let shown = node.client().done("tokens", &json!({"token": {"list": {}}}));
    shown["tokens"].as_array().map_or(0, Vec::len)
}

#[test]
fn a_token_made_at_one_node_counts_at_the_other_and_is_revoked_there() {
    let etcd = Etcd::start();
    let nodes = [etcd.node("a", &CLOSED), etcd.node("b", &CLOSED)];
    let list = json!({"list": {}});
    assert_eq!(nodes[1].tcp_client().done("error", &list)["code"], "denied", "nobody is trusted here");
    let text = token(&nodes[0], "ci", "*");
    let mut open = hello(&nodes[1], &text);
    open.done("registered", &register("web-1", 8001, "none"));
    let log = nodes[1].client().done("log", &json!({"log": {"id": "web-1"}}));
    assert_eq!(log["changes"][0]["author"], "token ci");
    let mut watchers = nodes.each_ref().map(|node| hello(node, &text));
    for watcher in &mut watchers {
        watcher.done("snapshot", &json!({"watch": {}}));
    }
    // A node that comes later knows it, and who revokes it at one ends its connections at all.
    let late = etcd.node("c", &CLOSED);
    let mut reader = late.tcp_client();
    reader.done("welcome", &json!({"hello": {"token": text}}));
    nodes[1].client().done("revoked", &json!({"token": {"revoke": {"name": "ci"}}}));
    assert_eq!(open.done("error", &list)["code"], "denied", "revoked here, and answered");
    for watcher in &mut watchers {
        assert_eq!(watcher.receive()["error"]["code"], "denied");
    }
    eventually("the end of the token", DEADLINE, || {
        (reader.ask(&list)["error"]["code"] == "denied").then_some(())
    });
    eventually("no token at any node", DEADLINE, || {
        nodes.iter().chain([&late]).all(|node| tokens(node) == 0).then_some(())
    });
    // A token of the same name is another one.
    let again = token(&nodes[0], "ci", "*");
    hello(&nodes[1], &again);
    assert_eq!(nodes[0].tcp_client().ask(&json!({"hello": {"token": text}}))["error"]["code"], "denied");
    assert_eq!(seen(&nodes[0]), [8001]);
}

#[test]
fn two_nodes_make_one_token_of_one_name() {
    let etcd = Etcd::start();
    let nodes = [etcd.node("a", &CLOSED), etcd.node("b", &CLOSED)];
    for round in 0..20 {
        let create = json!({"token": {"create": {"name": format!("ci-{round}"), "allow": ["read"]}}});
        let replies: Vec<Value> = std::thread::scope(|scope| {
            let asking = nodes.each_ref().map(|node| scope.spawn(|| node.client().ask(&create)));
            asking.into_iter().map(|thread| thread.join().expect("a reply")).collect()
        });
        let made = replies.iter().filter(|reply| reply.get("created").is_some()).count();
        let taken = replies.iter().filter(|reply| reply["error"]["code"] == "taken").count();
        assert_eq!((made, taken), (1, 1), "round {round}: {replies:?}");
    }
}

#[test]
fn what_a_revoked_token_still_says_at_another_node_changes_nothing() {
    let etcd = Etcd::start();
    let nodes = [etcd.node("a", &CLOSED), etcd.node("b", &CLOSED)];
    for round in 0..20 {
        let (name, text) = (format!("ci-{round}"), token(&nodes[0], &format!("ci-{round}"), "*"));
        let mut holder = hello(&nodes[1], &text);
        // It speaks at one node in the moment in which the other one answers that the token is revoked.
        nodes[0].client().done("revoked", &json!({"token": {"revoke": {"name": name}}}));
        let reply = holder.ask(&register("web-1", 8001, "none"));
        assert_eq!(reply["error"]["code"], "denied", "round {round}: {reply}");
    }
}

#[test]
fn an_instance_of_one_identity_is_refused_to_another_at_the_other_node() {
    let etcd = Etcd::start();
    let nodes = [etcd.node("a", &CLOSED), etcd.node("b", &CLOSED)];
    let every = "register+deregister+report+read";
    let (first, second) = (token(&nodes[0], "first", every), token(&nodes[0], "second", every));
    hello(&nodes[0], &first).done("registered", &register("web-1", 8001, "none"));
    becomes(&nodes[1], &[8001]);
    let mut other = hello(&nodes[1], &second);
    let holder = json!({"service": "web", "id": "web-1", "host": "m1"});
    for change in [
        register("web-1", 8002, "none"),
        json!({ "heartbeat": holder }),
        json!({ "drain": holder }),
        json!({"report": {"service": "web", "id": "web-1", "host": "m1", "check": "up", "status": "critical"}}),
        json!({ "deregister": holder }),
    ] {
        let error = other.done("error", &change);
        assert_eq!(error["code"], "denied", "{change}");
        assert!(error["message"].to_string().contains("was registered by token first"), "{error}");
    }
    assert_eq!(seen(&nodes[1]), [8001]);
    // Whoever registered it may at any node, and who comes first may have what nobody has.
    let mut owner = hello(&nodes[1], &first);
    owner.done("renewed", &json!({ "heartbeat": holder }));
    owner.done("deregistered", &json!({ "deregister": holder }));
    other.done("registered", &register("web-1", 8002, "none"));
    becomes(&nodes[0], &[8002]);
}
