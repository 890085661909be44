//! Programs that keep a set of endpoints from our names: the set follows the registry.
//!
//! Needs: unpacked, python3-venv, golang-go, prometheus, curl, iproute2, util-linux
//!
//! Prometheus (`dns_sd_configs`) asks what resolv.conf names, on port 53; nginx has a `resolver` of its own, gRPC an
//! authority in its target, and both say the port. For `xds:///` gRPC is told by its bootstrap where we are. HAProxy is in tests/clients.rs. nginx is unpacked below target/unpacked
//! (tests/unpacked/unpack), gRPC for Python is in target/python
//! (tests/clients/python/install); that for Go is built from the modules of tests/clients/grpc_channel/go.sum.

mod harness;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use harness::machine::Machine;
use harness::program::needs;
use harness::{DEADLINE, eventually};

/// A program in a machine, ended by its pid with this.
struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    fn start(machine: &Machine, command: &mut Command) -> Self {
        let log = machine.server.directory().join("program.log");
        let file = File::create(&log).expect("a file for its log");
        let other = file.try_clone().expect("another descriptor");
        let child = command.stdout(Stdio::from(file)).stderr(other).spawn().expect("running nsenter");
        Self { child, log }
    }

    fn must_run(&mut self) {
        let ended = self.child.try_wait().expect("waiting for our own child");
        let log = || fs::read_to_string(&self.log).unwrap_or_default();
        assert!(ended.is_none(), "it ended: {ended:?}\n{}", log());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn set<const N: usize>(texts: [&str; N]) -> BTreeSet<String> {
    texts.map(str::to_owned).into()
}

fn register(machine: &Machine, service: &str, id: &str, address: &str, port: u16) {
    let form = json!({"service": service, "id": id, "address": address, "port": port, "lease": "none"});
    machine.server.client().done("registered", &json!({"register": form}));
}

fn deregister(machine: &Machine, service: &str, id: &str) {
    machine.server.client().done("deregistered", &json!({"deregister": {"service": service, "id": id}}));
}

/// What curl gets in there; `None` where nobody answers.
fn fetched(machine: &Machine, url: &str) -> Option<String> {
    let output = machine.output(&needs("curl", "curl"), &["--silent", "--fail", "--max-time", "20", url]);
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

// -- Prometheus ---------------------------------------------------------------------------------------------------

#[test]
fn prometheus_scrapes_what_the_names_say() {
    let machine = Machine::start("127.0.0.1", &["--dns", "127.0.0.1:53"]);
    let id = |service: &str, number: u16| format!("{service}-{number}");
    let address = |service: &str, number: u16| format!("10.{}.0.{number}", service.len());
    let add = |service: &str, number: u16| {
        register(&machine, service, &id(service, number), &address(service, number), 8000 + number);
    };
    for (service, count) in [("one", 1), ("ten", 10), ("hundred", 120)] {
        (1..=count).for_each(|number| add(service, number));
    }
    let job = |name: &str, names: &str, more: &str| {
        format!(
            "  - job_name: {name}\n    dns_sd_configs:\n      - names: [{names}]\n        refresh_interval: 200ms\n{more}"
        )
    };
    let all = "_one._tcp.service.local, _ten._tcp.service.local, _hundred._tcp.service.local";
    let text = format!(
        "scrape_configs:\n{}{}",
        job("srv", all, ""),
        job("a", "ten.service.local, hundred.service.local", "        type: A\n        port: 9100\n")
    );
    machine.write("prometheus.yml", &text);
    let data = machine.server.directory().join("prometheus");
    let mut command = machine.inside(&needs("prometheus", "prometheus"));
    command.arg("--config.file=/etc/prometheus.yml").arg("--web.listen-address=127.0.0.1:9090");
    command.arg(format!("--storage.tsdb.path={}", data.display()));
    let mut prometheus = Running::start(&machine, &mut command);
    let mut becomes = |job: &str, wanted: &BTreeSet<String>| {
        let mut last = BTreeSet::new();
        eventually(&format!("the targets of {job}"), DEADLINE, || {
            prometheus.must_run();
            let text = fetched(&machine, "http://127.0.0.1:9090/api/v1/targets?state=active")?;
            let targets: Value = serde_json::from_str(&text).expect("Prometheus answers JSON");
            let active = targets["data"]["activeTargets"].as_array().expect("a list of targets");
            let of_job = active.iter().filter(|target| target["labels"]["job"] == job);
            last = of_job
                .filter_map(|target| target["labels"]["instance"].as_str().map(str::to_owned))
                .collect();
            (last == *wanted).then_some(())
        });
    };
    let srv = |service: &str, number: u16| {
        format!("{}.{service}.service.local:{}", id(service, number), 8000 + number)
    };
    let a = |service: &str, number: u16| format!("{}:9100", address(service, number));
    let mut by_srv: BTreeSet<String> = (1..=10).map(|number| srv("ten", number)).collect();
    by_srv.extend((1..=120).map(|number| srv("hundred", number)));
    by_srv.insert(srv("one", 1));
    let mut by_a: BTreeSet<String> = (1..=10).map(|number| a("ten", number)).collect();
    by_a.extend((1..=120).map(|number| a("hundred", number)));
    becomes("srv", &by_srv);
    becomes("a", &by_a);
    add("ten", 11);
    deregister(&machine, "ten", &id("ten", 2));
    for (set, new, old) in
        [(&mut by_srv, srv("ten", 11), srv("ten", 2)), (&mut by_a, a("ten", 11), a("ten", 2))]
    {
        set.insert(new);
        set.remove(&old);
    }
    becomes("srv", &by_srv);
    becomes("a", &by_a);
}

// -- nginx --------------------------------------------------------------------------------------------------------

/// A variable, for nginx before 1.27.3 asks again only for what a variable names; A and AAAA, never SRV. Later ones are in
/// tests/balancer_peers.rs.
#[test]
fn nginx_follows_a_name_in_a_variable() {
    const BACKENDS: [&str; 3] = ["127.0.0.21", "127.0.0.22", "127.0.0.23"];
    let machine = Machine::start("127.0.0.1", &["--dns", "127.0.0.1:5300"]);
    register(&machine, "web", "one", BACKENDS[0], 8081);
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("    {name}_temp_path /run/nginx-{name};\n"))
        .concat();
    let backend = |address: &str| {
        format!("    server {{ listen {address}:8081; location / {{ return 200 {address}; }} }}\n")
    };
    let text = format!(
        "daemon off;\npid /run/nginx.pid;\nerror_log stderr warn;\nworker_processes 1;\nuser root root;\n\
         events {{ worker_connections 64; }}\nhttp {{\n    access_log off;\n{temporary}    \
         resolver 127.0.0.1:5300 valid=1s;\n{}    server {{\n        listen 127.0.0.1:8088;\n        \
         set $web web.service.local;\n        location / {{ proxy_pass http://$web:8081; }}\n    }}\n}}\n",
        BACKENDS.map(backend).concat()
    );
    machine.write("nginx/nginx.conf", &text);
    let nginx = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/unpacked/root").join("usr/sbin/nginx");
    assert!(nginx.exists(), "{} is not there: tests/unpacked/unpack", nginx.display());
    let mut command = machine.inside(&nginx);
    command.args(["-c", "/etc/nginx/nginx.conf", "-p", "/run/", "-e", "stderr"]);
    let mut nginx = Running::start(&machine, &mut command);
    eventually("nginx' port", DEADLINE, || {
        nginx.must_run();
        fetched(&machine, "http://127.0.0.1:8088/")
    });
    // Every request is answered, whatever happens meanwhile; who answers becomes who is registered.
    let becomes = |wanted: &BTreeSet<String>| {
        eventually("who answers through nginx", DEADLINE, || {
            let all =
                (0..20).map(|_| fetched(&machine, "http://127.0.0.1:8088/").expect("no failed request"));
            (all.collect::<BTreeSet<String>>() == *wanted).then_some(())
        });
    };
    becomes(&set([BACKENDS[0]]));
    register(&machine, "web", "two", BACKENDS[1], 8081);
    becomes(&set([BACKENDS[0], BACKENDS[1]]));
    deregister(&machine, "web", "one");
    register(&machine, "web", "three", BACKENDS[2], 8081);
    becomes(&set([BACKENDS[1], BACKENDS[2]]));
}

// -- gRPC ---------------------------------------------------------------------------------------------------------

/// A program that is told by lines what to do, and answers each with one.
struct Told {
    running: Running,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Told {
    fn start(machine: &Machine, command: &mut Command) -> Self {
        let log = machine.server.directory().join("grpc.log");
        let file = File::create(&log).expect("a file for its log");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(file);
        let mut child = command.spawn().expect("running nsenter");
        let input = child.stdin.take().expect("a pipe");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { running: Running { child, log }, input, output }
    }

    fn tell(&mut self, line: &str) -> String {
        writeln!(self.input, "{line}").expect("a line to the program");
        let mut answer = String::new();
        self.output.read_line(&mut answer).expect("a line from the program");
        if answer.is_empty() {
            self.running.must_run();
        }
        answer.trim().to_owned()
    }
}

/// What every gRPC has: it asks again when a connection is lost, at once or after the time that it waits between two
/// questions, and calls go round all addresses.
fn channel_follows(machine: &Machine, command: &mut Command, within: Duration) {
    const SERVERS: [&str; 3] = ["127.0.0.21", "127.0.0.22", "127.0.0.23"];
    let mut program = Told::start(machine, command);
    for (id, address) in ["one", "two"].into_iter().zip(SERVERS) {
        assert_eq!(program.tell(&format!("start {address}")), format!("started {address}"));
        register(machine, "grpc", id, address, 50051);
    }
    let becomes = |program: &mut Told, wanted: &str| {
        eventually("who answers gRPC's calls", within, || {
            let last = program.tell("ask");
            assert!(last.ends_with(" failed 0"), "no failed call: {last}");
            (last == format!("answered {wanted} failed 0")).then_some(())
        });
    };
    becomes(&mut program, "127.0.0.21 127.0.0.22");
    // One goes and another comes: the lost connection makes it ask.
    program.tell(&format!("start {}", SERVERS[2]));
    register(machine, "grpc", "three", SERVERS[2], 50051);
    deregister(machine, "grpc", "one");
    program.tell(&format!("stop {}", SERVERS[0]));
    becomes(&mut program, "127.0.0.22 127.0.0.23");
}

/// Its channel in Python.
fn of_python(machine: &Machine, target: &str) -> Command {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = top.join("target/python/grpc/bin/python");
    assert!(python.exists(), "{} is not there: tests/clients/python/install", python.display());
    let mut command = machine.inside(&python);
    command.arg(top.join("tests/clients/python/grpc_channel.py")).args(["50051", target]);
    command
}

/// The same in Go, built with these tags.
fn of_go(machine: &Machine, target: &str, tags: &str) -> Command {
    let binary = machine.server.directory().join("grpc_channel");
    let mut go = Command::new(needs("go", "golang-go"));
    go.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/grpc_channel"));
    let settings =
        [("GOFLAGS", "-mod=readonly"), ("GOTOOLCHAIN", "local"), ("CGO_ENABLED", "0"), ("GOWORK", "off")];
    let built = go.envs(settings).args(["build", "-tags", tags, "-o"]).arg(&binary).arg(".");
    let built = built.output().expect("running go");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let mut command = machine.inside(&binary);
    command.args(["50051", target]);
    command
}

const BY_NAME: &str = "dns://127.0.0.1:5300/grpc.service.local:50051";
const BY_XDS: &str = "xds:///grpc";

/// The bootstrap that docs/envoy.md shows.
fn with_bootstrap(machine: &Machine, mut command: Command) -> Command {
    let bootstrap = json!({
        "xds_servers": [{"server_uri": machine.server.http[0].to_string(), "channel_creds": [{"type": "insecure"}], "server_features": ["xds_v3"]}],
        "node": {"id": "a-client"}
    });
    command.env("GRPC_XDS_BOOTSTRAP_CONFIG", bootstrap.to_string());
    command
}

#[test]
fn a_grpc_channel_of_python_follows_a_name() {
    let machine = Machine::start("127.0.0.1", &["--dns", "127.0.0.1:5300"]);
    let mut command = of_python(&machine, BY_NAME);
    channel_follows(&machine, &mut command, DEADLINE);
}

#[test]
fn a_grpc_channel_of_go_follows_a_name() {
    /// What grpc-go waits between two questions, whatever happens; later versions let a program say it.
    const BETWEEN_QUESTIONS: Duration = Duration::from_secs(30);
    let machine = Machine::start("127.0.0.1", &["--dns", "127.0.0.1:5300"]);
    let mut command = of_go(&machine, BY_NAME, "");
    channel_follows(&machine, &mut command, DEADLINE + BETWEEN_QUESTIONS);
}

#[test]
fn a_grpc_channel_of_python_follows_a_service_over_xds() {
    let machine = Machine::start("127.0.0.1", &["--dns", "127.0.0.1:5300"]);
    let mut command = with_bootstrap(&machine, of_python(&machine, BY_XDS));
    channel_follows(&machine, &mut command, DEADLINE);
}

#[test]
fn a_grpc_channel_of_go_follows_a_service_over_xds() {
    let machine = Machine::start("127.0.0.1", &["--dns", "127.0.0.1:5300"]);
    let mut command = with_bootstrap(&machine, of_go(&machine, BY_XDS, "xds"));
    channel_follows(&machine, &mut command, DEADLINE);
}
