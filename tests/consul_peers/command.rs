//! The `consul` command, with `CONSUL_HTTP_ADDR` at us.

use std::process::{Command, Stdio};

use crate::agent::peer;
use crate::harness::Server;
use crate::harness::ask::get;

/// What `consul` prints; it has to succeed.
fn consul(address: &str, words: &[&str]) -> String {
    let output = Command::new(peer("consul"))
        .args(words)
        .env("CONSUL_HTTP_ADDR", address)
        .stdin(Stdio::null())
        .output()
        .expect("starting consul");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "consul {words:?}: {}\n{text}{complaint}", output.status);
    text
}

#[test]
fn the_consul_command_speaks_to_us_over_tcp_and_the_unix_socket() {
    let server = Server::start(&["--store", "memory"]);
    let file = server.directory().join("web.hcl");
    let definition = "service { name = \"web\" id = \"web-2\" port = 8082 tags = [\"v2\"] \
                      check { id = \"alive\" name = \"alive\" ttl = \"1h\" status = \"passing\" } }\n";
    std::fs::write(&file, definition).expect("writing a file");
    for address in [server.http[0].to_string(), format!("unix://{}", server.socket.display())] {
        let consul = |words: &[&str]| consul(&address, words);
        let members = consul(&["members"]);
        assert!(members.contains(" alive ") && members.contains(" server "), "{members}");
        let said = consul(&[
            "services",
            "register",
            "-name=web",
            "-id=web-1",
            "-port=8081",
            "-address=10.0.0.1",
            "-tag=v1",
        ]);
        assert_eq!(said, "Registered service: web\n");
        assert_eq!(
            consul(&["services", "register", &file.display().to_string()]),
            "Registered service: web\n"
        );
        let listed = consul(&["catalog", "services", "-tags"]);
        assert_eq!(listed.split_whitespace().collect::<Vec<_>>(), ["web", "v1,v2"]);
        let nodes = consul(&["catalog", "nodes"]);
        assert_eq!(nodes.lines().count(), 2, "a heading and our node: {nodes}");
        assert_eq!(consul(&["catalog", "datacenters"]), "dc1\n");
        assert_eq!(
            get(server.http[0], "/v1/health/service/web?passing").json().as_array().map(Vec::len),
            Some(2)
        );
        consul(&["maint", "-enable", "-service=web-1", "-reason=disk"]);
        assert!(consul(&["maint"]).contains("disk"));
        assert_eq!(
            get(server.http[0], "/v1/health/service/web?passing").json().as_array().map(Vec::len),
            Some(1)
        );
        consul(&["maint", "-disable", "-service=web-1"]);
        assert_eq!(consul(&["services", "deregister", "-id=web-1"]), "Deregistered service: web-1\n");
        consul(&["services", "deregister", &file.display().to_string()]);
        assert_eq!(consul(&["catalog", "services"]), "");
    }
}
