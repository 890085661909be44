//! Each kind of check, up, down and up again.

use std::fs;

use nix::sys::signal::kill;
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::harness::{DEADLINE, Server, eventually};
use crate::targets::{CERTIFICATE, GrpcTarget, Manner, NOT_SERVING, SERVING, Target, TlsTarget, answer};
use crate::watched::{Watched, named};

fn server() -> Server {
    Server::start(&["--store", "memory"])
}

#[test]
fn tcp_is_whether_a_port_accepts() {
    let server = server();
    let target = Target::new(Manner::Silence);
    let at = target.address;
    let mut web = Watched::new(&server, "web", json!({"tcp": at.to_string()}));
    assert_eq!(web.until("c", "passing"), format!("TCP connect {at}: Success"));
    let at = target.close();
    assert_eq!(
        web.until("c", "critical"),
        format!("TCP connect {at}: connecting to {at}: connection refused")
    );
    let _target = Target::on(at, Manner::Silence);
    web.until("c", "passing");
    // Each of these is a change in the log, with its reason and by whom.
    let log = web.client.done("log", &json!({"log": {"service": "web"}}));
    let entry = |change: &Value| (change["reason"].clone(), change["author"].clone());
    let changes: Vec<_> =
        log["changes"].as_array().map(|all| all.iter().map(entry).collect()).unwrap_or_default();
    assert_eq!(changes.len(), 4, "{log}");
    assert!(changes[..3].iter().all(|change| *change == (json!("reported"), json!("callsign"))), "{log}");
}

#[test]
fn localhost_is_either_loopback_address() {
    let server = server();
    let target = Target::new(Manner::Silence);
    let at = format!("localhost:{}", target.address.port());
    let mut web = Watched::new(&server, "web", json!({ "tcp": at }));
    assert_eq!(web.until("c", "passing"), format!("TCP connect {at}: Success"));
    let mut gone =
        Watched::new(&server, "gone", json!({"tcp": "no-such-name.invalid:80", "status": "passing"}));
    let output = gone.until("c", "critical");
    assert!(
        output.starts_with("TCP connect no-such-name.invalid:80: resolving no-such-name.invalid: "),
        "{output}"
    );
}

#[test]
fn http_is_what_the_status_says() {
    let server = server();
    let target = Target::new(answer("200 OK", "fine\u{1b}[2J\n"));
    let url = format!("http://{}/health?deep=1", target.address);
    let check = json!({"http": url, "method": "POST", "body": "are you well?", "headers": {"X-Token": "t"}});
    let mut web = Watched::new(&server, "web", check);
    assert_eq!(web.until("c", "passing"), format!("HTTP POST {url}: 200 OK Output: fine\\u{{1b}}[2J"));
    let request = target.requests().remove(0);
    assert!(request.starts_with("POST /health?deep=1 HTTP/1.1\r\n"), "{request}");
    let lower = request.to_ascii_lowercase();
    for line in [
        format!("host: {}", target.address),
        "x-token: t".to_owned(),
        "content-length: 13".to_owned(),
        "connection: close".to_owned(),
        "accept: text/plain, text/*, */*".to_owned(),
    ] {
        assert!(lower.contains(&format!("\r\n{line}\r\n")), "no `{line}` in {request}");
    }
    target.set(answer("503 Service Unavailable", "no database"));
    assert_eq!(
        web.until("c", "critical"),
        format!("HTTP POST {url}: 503 Service Unavailable Output: no database")
    );
    target.set(answer("429 Too Many Requests", "busy"));
    assert_eq!(web.until("c", "warning"), format!("HTTP POST {url}: 429 Too Many Requests Output: busy"));
    target.set(answer("204 No Content", ""));
    assert_eq!(web.until("c", "passing"), format!("HTTP POST {url}: 204 No Content Output: "));
    target.set(Manner::Answer("SSH-2.0-OpenSSH\r\n\r\n".to_owned()));
    let output = web.until("c", "critical");
    assert!(output.starts_with(&format!("HTTP POST {url}: ")) && output.contains("invalid HTTP"), "{output}");
    target.set(Manner::Answer(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n".to_owned(),
    ));
    assert_eq!(web.until("c", "passing"), format!("HTTP POST {url}: 200 OK Output: ok"));
    let at = target.close();
    assert_eq!(
        web.until("c", "critical"),
        format!("HTTP POST {url}: connecting to {at}: connection refused")
    );
}

#[test]
fn the_expected_status_may_be_another() {
    let server = server();
    let target = Target::new(answer("401 Unauthorized", "who are you?"));
    let url = format!("http://{}/", target.address);
    let mut web = Watched::new(&server, "web", json!({"http": url, "expect": "401"}));
    assert_eq!(web.until("c", "passing"), format!("HTTP GET {url}: 401 Unauthorized Output: who are you?"));
    target.set(answer("200 OK", "come in"));
    web.until("c", "critical");
}

#[test]
fn https_wants_a_certificate_that_the_machine_trusts_or_none_at_all() {
    let target = TlsTarget::new();
    let url = format!("https://{}/", target.address);
    let plain = json!({"http": url, "status": "passing"});
    let other = json!({"http": url, "tls_server_name": "other.test", "status": "passing"});
    let named = json!({"http": url, "tls_server_name": "health.test"});
    let server = server();
    let mut web = Watched::new(&server, "web", plain.clone());
    let output = web.until("c", "critical");
    assert!(output.starts_with(&format!("HTTP GET {url}: TLS: invalid peer certificate: ")), "{output}");
    let mut any = Watched::new(&server, "any", json!({"http": url, "tls_skip_verify": true}));
    assert_eq!(any.until("c", "passing"), format!("HTTP GET {url}: 200 OK Output: secret"));
    let certificate = format!("SSL_CERT_FILE={CERTIFICATE}");
    let trusting = Server::start_under(&["env", &certificate], &["--store", "memory"]);
    for (service, check) in [("by-address", json!({ "http": url })), ("by-name", named)] {
        Watched::new(&trusting, service, check).until("c", "passing");
    }
    let output = Watched::new(&trusting, "wrong-name", other).until("c", "critical");
    assert!(output.contains("TLS: invalid peer certificate: "), "{output}");
}

#[test]
fn grpc_is_what_the_health_service_says() {
    let server = server();
    let target = GrpcTarget::new();
    target.set("", SERVING);
    target.set("my.Service", NOT_SERVING);
    let at = target.address;
    let checks = json!([
        named("server", json!({"grpc": at.to_string()})),
        named("service", json!({"grpc": format!("{at}/my.Service"), "status": "passing"})),
        named("other", json!({"grpc": format!("{at}/other"), "status": "passing"})),
    ]);
    let mut web = Watched::with(&server, "web", checks);
    eventually("every first verdict", DEADLINE, || {
        let statuses = ["server", "service", "other"].map(|check| web.now(check).map(|(status, _)| status));
        (statuses == ["passing", "critical", "critical"].map(|status| Some(status.to_owned()))).then_some(())
    });
    let mut output = |check: &str| web.now(check).expect("it is there").1;
    assert_eq!(output("server"), format!("gRPC check {at}: success"));
    assert_eq!(output("service"), format!("gRPC check {at}/my.Service: NOT_SERVING"));
    assert_eq!(output("other"), format!("gRPC check {at}/other: NOT_FOUND: unknown service"));
    target.set("my.Service", SERVING);
    assert_eq!(web.becomes("service", "passing"), format!("gRPC check {at}/my.Service: success"));
    target.set("", NOT_SERVING);
    assert_eq!(web.becomes("server", "critical"), format!("gRPC check {at}: NOT_SERVING"));
    target.set("", SERVING);
    web.becomes("server", "passing");
    // A target that speaks another protocol.
    let http = Target::new(answer("200 OK", "fine"));
    let mut wrong =
        Watched::new(&server, "wrong", json!({"grpc": http.address.to_string(), "status": "passing"}));
    let output = wrong.until("c", "critical");
    assert!(output.starts_with(&format!("gRPC check {}: ", http.address)), "{output}");
}

#[test]
fn programs_are_run_where_the_server_allows_it() {
    let check = |words: Value| json!({"command": words, "status": "passing"});
    let off = server();
    let marker = off.directory().join("marker");
    let mut web = Watched::new(&off, "web", check(json!(["touch", marker])));
    assert_eq!(
        web.until("c", "critical"),
        "command touch: not run: programs are run as checks only where the server's key `probe-commands` is true"
    );
    assert!(!marker.exists());
    let on = Server::start(&["--store", "memory", "--probe-commands"]);
    let (code, said) = (on.directory().join("code"), on.directory().join("said"));
    fs::write(&code, "0").expect("a file");
    let script = format!("env > {}; echo as told; exit $(cat {})", said.display(), code.display());
    let mut web = Watched::new(&on, "web", check(json!(["sh", "-c", script])));
    fs::write(&code, "1").expect("a file");
    assert_eq!(web.until("c", "warning"), "exit status 1: as told");
    fs::write(&code, "2").expect("a file");
    assert_eq!(web.until("c", "critical"), "exit status 2: as told");
    fs::write(&code, "0").expect("a file");
    assert_eq!(web.until("c", "passing"), "as told");
    let variables = fs::read_to_string(&said).expect("what the program wrote");
    let names: Vec<&str> = variables.lines().filter_map(|line| line.split('=').next()).collect();
    // The shell sets some itself; nothing of the server's is there.
    assert!(names.iter().all(|name| ["PATH", "PWD", "SHLVL", "_", "OLDPWD"].contains(name)), "{variables}");
    let mut none = Watched::new(&on, "none", check(json!(["/no/such/program"])));
    assert_eq!(none.until("c", "critical"), "command /no/such/program: no such file or directory");
    let mut loud = Watched::new(&on, "loud", json!({"command": ["sh", "-c", "yes | head -c 1000000"]}));
    let output = loud.until("c", "passing");
    assert!(output.starts_with("y\\ny") && output.len() <= 4096, "{} octets", output.len());
}

#[test]
fn a_program_that_hangs_is_killed_with_its_children() {
    let server = Server::start(&["--store", "memory", "--probe-commands"]);
    let pids = server.directory().join("pids");
    let script = format!("sleep 1000 & echo $! $$ > {}; wait", pids.display());
    let words = json!(["sh", "-c", script]);
    let read = || -> Option<Vec<i32>> {
        let text = fs::read_to_string(&pids).ok().filter(|text| text.ends_with('\n'))?;
        Some(text.split_whitespace().map(|pid| pid.parse().expect("a pid")).collect())
    };
    let all_gone = |pids: &[i32]| pids.iter().all(|pid| kill(Pid::from_raw(*pid), None).is_err());
    let check = json!({"command": words, "status": "passing", "timeout": "1s", "interval": "1d"});
    let mut web = Watched::new(&server, "web", check);
    assert_eq!(web.until("c", "critical"), "command sh: timed out after 1s");
    let first = read().expect("it ran");
    assert_eq!(first.len(), 2);
    eventually("the end of the program and its child", DEADLINE, || all_gone(&first).then_some(()));
    // The same where its instance goes while it runs.
    fs::remove_file(&pids).expect("a file");
    let check = json!({"command": words, "timeout": "1d", "interval": "1s"});
    let mut web = Watched::new(&server, "other", check);
    let second = eventually("the program's start", DEADLINE, read);
    web.deregister();
    eventually("the end of the program and its child", DEADLINE, || all_gone(&second).then_some(()));
}

#[test]
fn an_alias_is_the_health_of_another() {
    let server = server();
    let mut web = Watched::new(&server, "web", json!({"alias": "db"}));
    let host = web.client.list()[0]["host"].as_str().expect("a host").to_owned();
    // Critical it was at first; now there is a db without checks.
    let mut db = Watched::with(&server, "db", json!([]));
    assert_eq!(web.until("c", "passing"), "No checks found.");
    let report = |status: &str| json!({"report": {"service": "db", "id": "db", "check": "disk", "status": status, "output": "91% full"}});
    db.client.done("reported", &report("warning"));
    assert_eq!(web.until("c", "warning"), "Aliased check \"disk\" failing: 91% full");
    db.client.done("reported", &report("critical"));
    assert_eq!(web.until("c", "critical"), "Aliased check \"disk\" failing: 91% full");
    db.client.done("reported", &report("passing"));
    assert_eq!(web.until("c", "passing"), "All checks passing.");
    // Its host's checks count for it.
    let report = |status: &str| json!({"report": {"host": host, "check": "power", "status": status, "output": "on battery"}});
    let mut whole = Watched::new(&server, "whole", json!({"alias_host": host}));
    whole.until("c", "passing");
    db.client.done("reported", &report("critical"));
    assert_eq!(web.until("c", "critical"), "Aliased check \"power\" failing: on battery");
    assert_eq!(whole.until("c", "critical"), "Aliased check \"power\" failing: on battery");
    db.client.done("reported", &report("passing"));
    web.until("c", "passing");
    whole.until("c", "passing");
    db.deregister();
    assert_eq!(web.until("c", "critical"), format!("Service db could not be found on node {host}"));
}

#[test]
fn an_alias_says_why_once_what_it_is_of_does() {
    let server = server();
    let silent = Target::new(Manner::Silence);
    let definition = json!({"http": format!("http://{}/", silent.address), "timeout": "1s"});
    let _slow = Watched::new(&server, "slow", definition);
    let mut web = Watched::new(&server, "web", json!({"alias": "slow"}));
    let said = |web: &mut Watched| web.now("c").map(|(_, output)| output).filter(|output| !output.is_empty());
    let why = eventually("why it is critical", DEADLINE, || said(&mut web));
    assert!(why.starts_with("Aliased check \"c\" failing: ") && why.ends_with("timed out after 1s"), "{why}");
    // And the log has it, with the check.
    let log =
        crate::harness::callsign(&["log", "web", "--server", &format!("unix:{}", server.socket.display())])
            .stdout;
    assert!(
        log.lines().next().is_some_and(|line| line.ends_with(&format!("by callsign; c: {why}"))),
        "{log}"
    );
}

#[test]
fn aliases_of_each_other_are_what_their_other_checks_say() {
    let server = server();
    let other =
        |id: &str| json!([{"id": "own", "status": "passing"}, {"id": "c", "alias": id, "status": "passing"}]);
    let mut a = Watched::with(&server, "a", other("b"));
    a.until("c", "critical"); // there is no b
    let mut b = Watched::with(&server, "b", other("a"));
    a.until("c", "passing");
    let report =
        |status: &str| json!({"report": {"service": "b", "id": "b", "check": "own", "status": status}});
    b.client.done("reported", &report("critical"));
    a.until("c", "critical");
    b.client.done("reported", &report("passing"));
    a.until("c", "passing");
    assert_eq!(b.now("c").map(|(status, _)| status).as_deref(), Some("passing"));
}

#[test]
fn enough_in_a_row_make_a_status() {
    let server = server();
    let target = Target::new(answer("200 OK", ""));
    let check = json!({"http": format!("http://{}/", target.address), "rise": 3, "fall": 2, "warn": 1});
    let mut web = Watched::new(&server, "web", check);
    web.until("c", "passing");
    assert!(target.requests().len() >= 3, "three successes make it passing");
    target.set(answer("500 Internal Server Error", ""));
    let before = target.requests().len();
    assert_eq!(web.reported("c").0, "warning");
    assert!(target.requests().len() > before, "one failure is a warning");
    assert_eq!(web.reported("c").0, "critical");
    assert!(target.requests().len() >= before + 2, "and two are critical");
    target.set(answer("200 OK", ""));
    let before = target.requests().len();
    assert_eq!(web.reported("c").0, "passing");
    assert!(target.requests().len() >= before + 3);
}
