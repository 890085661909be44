//! Clients of Consul that people have, against our HTTP API, as their users call them.
//!
//! - python-consul and py-consul: the Flask service of the tutorials, and every call of theirs that we answer.
//! - Consul's own client for Go, over TCP and over the registration socket.
//! - Prometheus, which asks for its targets over HTTP.
//!
//! Needs: golang-go, python3, python3-venv, prometheus, faketime
//!
//! The Python packages are in target/python, where tests/clients/python/install puts them; the Go modules are
//! those of tests/clients/consul_api/go.sum. `./check` brings all of it.

mod harness;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hickory_proto::rr::RecordType;
use serde_json::json;

use harness::ask::get;
use harness::program::{Program, faketime, needs};
use harness::prometheus;
use harness::{DEADLINE, Server, eventually, srv};

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The Python that has this client.
fn python(client: &str) -> PathBuf {
    let python = top().join("target/python").join(client).join("bin/python");
    assert!(python.exists(), "{} is not there: tests/clients/python/install", python.display());
    python
}

fn script(name: &str) -> String {
    top().join("tests/clients/python").join(name).display().to_string()
}

/// What a program prints; it has to succeed.
fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().expect("starting a client");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{text}\n{complaint}", output.status);
    text
}

/// `tests/clients/consul_api`, compiled.
fn go_client(into: &Path) -> PathBuf {
    let binary = into.join("consul_api");
    let mut go = Command::new(needs("go", "golang-go"));
    go.current_dir(top().join("tests/clients/consul_api"));
    go.env("GOFLAGS", "-mod=readonly")
        .env("GOTOOLCHAIN", "local")
        .env("CGO_ENABLED", "0")
        .env("GOWORK", "off");
    run(go.args(["build", "-o"]).arg(&binary).arg("."));
    binary
}

#[test]
fn the_flask_service_of_the_tutorials_is_found_and_fetched() {
    let server = Server::start(&[]);
    let http = server.http[0];
    let words = [script("consul_service.py"), http.ip().to_string(), http.port().to_string()];
    let directory = tempfile::tempdir().expect("a directory");
    let mut service = Program::start(&python("python-consul"), directory, &words);
    eventually("the service's registration", DEADLINE, || {
        service.must_run();
        service.stdout().contains("registered").then_some(())
    });
    // By its name, as every program can,
    let reply = server.resolver().udp(&srv("example-service"), RecordType::SRV);
    let ports = harness::dns::ports(&reply);
    let port = *ports.values().next().expect("one instance");
    assert_eq!(service.stdout().trim(), format!("registered {port}"));
    let address = server.resolver().udp("web.example-service.service.local.", RecordType::A);
    assert_eq!(harness::dns::addresses(&address), [std::net::IpAddr::from([127, 0, 0, 1])].into());
    // and by Consul's API.
    let found = get(http, "/v1/catalog/service/example-service?tag=web").json();
    assert_eq!(found[0]["ServicePort"], json!(port));
    assert_eq!(found[0]["ServiceAddress"], json!("localhost"));
    let page = get(([127, 0, 0, 1], port).into(), "/");
    assert_eq!((page.status, page.text().as_str()), (200, "hello from example-service"));
}

#[test]
fn python_clients_old_and_new_make_all_their_calls() {
    for client in ["python-consul", "py-consul"] {
        let server = Server::start(&["--store", "memory"]);
        let http = server.http[0];
        let mut python = Command::new(python(client));
        python.args([script("consul_calls.py"), http.ip().to_string(), http.port().to_string()]);
        let said = run(&mut python);
        assert_eq!(said.lines().last(), Some("done"), "{client}: {said}");
    }
}

#[test]
fn consuls_own_client_for_go_makes_all_its_calls() {
    let directory = tempfile::tempdir().expect("a directory");
    let client = go_client(directory.path());
    let server = Server::start(&["--store", "memory"]);
    for address in [server.http[0].to_string(), format!("unix://{}", server.socket.display())] {
        let said = run(Command::new(&client).args(["all", &address]));
        assert_eq!(said.lines().last(), Some("done"), "{address}: {said}");
    }
}

/// The tutorials register without a check and expect it to stay: through an hour in which nobody says anything,
/// and through a crash.
#[test]
fn what_was_registered_without_a_check_is_there_an_hour_later_and_after_a_restart() {
    const FOUND: &str = "catalog example-1 127.0.0.1 8080 [web]\n";
    let directory = tempfile::tempdir().expect("a directory");
    let client = go_client(directory.path());
    let clock = directory.path().join("clock");
    let data = directory.path().join("data").display().to_string();
    // Both clocks of the server, the wall's and the one that leases are counted by.
    let words = [
        format!("LD_PRELOAD={}", faketime().display()),
        format!("FAKETIME_TIMESTAMP_FILE={}", clock.display()),
        "FAKETIME_NO_CACHE=1".to_owned(),
    ];
    let before: Vec<&str> = ["env"].into_iter().chain(words.iter().map(String::as_str)).collect();
    let show = |time: &str| std::fs::write(&clock, format!("{time}\n")).expect("writing a file");
    // The library reads the file inside the server, again and again.
    let folder = directory.path().display().to_string();
    let flags = ["--data", &data, "--confine-read", &folder];
    let ask = |server: &Server| run(Command::new(&client).args(["ask", &server.http[0].to_string()]));

    show("+0");
    let mut server = Server::start_under(&before, &flags);
    assert_eq!(run(Command::new(&client).args(["register", &server.http[0].to_string()])), FOUND);
    show("+3600");
    // The control: the server has seen the hour. It takes it for a pause of its own, in which leases rest.
    eventually("the server's hour", DEADLINE, || server.stderr().contains("away=36").then_some(()));
    assert_eq!(ask(&server), FOUND);
    server.crash();
    // And another hour while it is down.
    show("+7200");
    let server = Server::start_under(&before, &flags);
    assert_eq!(ask(&server), FOUND);
    let reply = server.resolver().udp("example.service.local.", RecordType::A);
    assert_eq!(harness::dns::addresses(&reply).len(), 1);
}

#[test]
fn prometheus_scrapes_what_is_registered() {
    let server = Server::start(&["--store", "memory"]);
    let text = format!(
        "scrape_configs:\n- job_name: callsign\n  http_sd_configs:\n  - url: http://{}/sd/prometheus\n    refresh_interval: 1s\n  \
         relabel_configs:\n  - {{source_labels: [__meta_callsign_service], target_label: service}}\n",
        server.http[0]
    );
    let (mut prometheus, at) = prometheus::start(&needs("prometheus", "prometheus"), &text);
    let mut client = server.client();
    let mut expected = Vec::new();
    let mut targets = |expected: &[String]| {
        eventually(&format!("the targets {expected:?}"), DEADLINE, || {
            prometheus.must_run();
            let reply = harness::ask::try_request(at, "GET", "/api/v1/targets", "")?;
            if reply.status != 200 {
                return None; // it is still starting
            }
            let found = reply.json();
            let active = found["data"]["activeTargets"].as_array()?;
            let mut found: Vec<String> = active
                .iter()
                .map(|one| {
                    format!("{} {}", one["labels"]["service"], one["labels"]["instance"]).replace('"', "")
                })
                .collect();
            found.sort();
            (found == expected).then_some(())
        });
    };
    for number in 1..=2 {
        let id = format!("web-{number}");
        client.done("registered", &json!({"register": {"service": "web", "id": id, "address": "127.0.0.1", "port": number, "lease": "none"}}));
        expected.push(format!("web 127.0.0.1:{number}"));
        targets(&expected);
    }
    client.done("deregistered", &json!({"deregister": {"service": "web", "id": "web-1"}}));
    targets(&expected[1..]);
}
