//! Traefik routes to what is registered: its `consulCatalog` provider, by polling and by watching.
//!
//! It watches the names of services with their tags, and all checks; so an instance without a check is seen when
//! it is polled for, and not when it is watched, whoever keeps the catalog.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use serde_json::json;

use crate::agent::peer;
use crate::harness::ask::request;
use crate::harness::program::{Program, free_ports};
use crate::harness::{DEADLINE, Server, eventually};

/// A web server that says its name to everybody, for as long as the test runs.
fn backend(name: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("its address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            drop(answer(stream, name));
        }
    });
    port
}

fn answer(mut stream: TcpStream, name: &str) -> std::io::Result<()> {
    let mut octets = [0; 4096];
    let mut head: Vec<u8> = Vec::new();
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        match stream.read(&mut octets)? {
            0 => return Ok(()),
            count => head.extend(&octets[..count]),
        }
    }
    let length = name.len();
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{name}")
}

fn routes_follow(watch: bool) {
    let server = Server::start(&["--store", "memory"]);
    let http = server.http[0];
    let put = |target: &str, body: String| assert_eq!(request(http, "PUT", target, &body).status, 200);
    let register = |id: &str, port: u16| {
        let tags = ["traefik.enable=true", "traefik.http.routers.web.rule=PathPrefix(`/`)"];
        let service = json!({"Name": "web", "ID": id, "Address": "127.0.0.1", "Port": port, "Tags": tags,
            "Check": {"TTL": "1h", "Status": "passing"}});
        put("/v1/agent/service/register", service.to_string());
    };
    let (blue, green, hidden) = (backend("blue"), backend("green"), backend("hidden"));
    let bystander = json!({"Name": "hidden", "Address": "127.0.0.1", "Port": hidden});
    put("/v1/agent/service/register", bystander.to_string());
    register("blue", blue);

    let [port] = free_ports();
    let words = [
        format!("--entryPoints.web.address=127.0.0.1:{port}"),
        format!("--providers.consulCatalog.endpoint.address={http}"),
        "--providers.consulCatalog.exposedByDefault=false".to_owned(),
        format!("--providers.consulCatalog.watch={watch}"),
        // Polling follows by this; watching does not need it, and would not come to it within the deadline.
        format!("--providers.consulCatalog.refreshInterval={}", if watch { "10m" } else { "1s" }),
        "--providers.providersThrottleDuration=100ms".to_owned(),
        "--global.checkNewVersion=false".to_owned(),
        "--global.sendAnonymousUsage=false".to_owned(),
        "--log.level=ERROR".to_owned(),
    ];
    let directory = tempfile::tempdir().expect("a directory");
    let mut traefik = Program::start(&peer("traefik"), directory, &words);
    let entry = SocketAddr::from(([127, 0, 0, 1], port));
    let mut becomes = |wanted: &str| {
        eventually(&format!("a route to {wanted}, watch {watch}"), DEADLINE, || {
            traefik.must_run();
            let reply = crate::harness::ask::try_request(entry, "GET", "/", "")?;
            let found = if reply.status == 200 { reply.text() } else { reply.status.to_string() };
            (found == wanted).then_some(())
        });
    };
    becomes("blue");
    register("green", green);
    put("/v1/agent/service/deregister/blue", String::new());
    becomes("green");
    // In maintenance it is no server any more, and without a server there is no route.
    put("/v1/agent/service/maintenance/green?enable=true", String::new());
    becomes("404");
    put("/v1/agent/service/maintenance/green?enable=false", String::new());
    becomes("green");
    put("/v1/agent/check/fail/service:green", String::new());
    becomes("404");
    put("/v1/agent/check/pass/service:green", String::new());
    becomes("green");
    put("/v1/agent/service/deregister/green", String::new());
    becomes("404");
}

#[test]
fn polling_traefik_follows_the_catalog() {
    routes_follow(false);
}

#[test]
fn watching_traefik_follows_the_catalog() {
    routes_follow(true);
}
