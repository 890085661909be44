//! A real Envoy that takes everything from us: with what `callsign setup envoy` prints, over every transport and variant
//! of xDS, through drains under load, and while we are away.
//!
//! Needs: python3-venv, python3
//!
//! Envoy is in target/python (tests/clients/python/install). Counts are asserted, times are printed. gRPC's own clients are in
//! tests/endpoints.rs, what no client of ours would do in tests/xds.rs.

mod harness;

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use harness::program::{Program, free_ports};
use harness::{Client, DEADLINE, Http, Over, Server, callsign, eventually, now};

/// Envoy, and where it listens.
struct Envoy {
    program: Program,
    listen: SocketAddr,
}

impl Envoy {
    /// With a bootstrap in YAML, and a way to look into it.
    fn start(bootstrap: &str, listen: SocketAddr) -> Self {
        let binary = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/python/envoy/bin/envoy");
        assert!(binary.exists(), "{} is not there: tests/clients/python/install", binary.display());
        let directory = tempfile::tempdir().expect("a directory");
        let admin = format!("admin: {{ address: {{ pipe: {{ path: {} }} }} }}\n", admin(directory.path()));
        fs::write(directory.path().join("envoy.yaml"), format!("{bootstrap}{admin}"))
            .expect("a file of ours");
        let words = "-c envoy.yaml --log-level warning --concurrency 1 --disable-hot-restart";
        let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
        Self { program: Program::start(&binary, directory, &words), listen }
    }

    /// With what `setup` prints; `kind` is the variant of the protocol.
    fn of(server: &Server, kind: &str) -> Self {
        let [port] = free_ports();
        let listen = SocketAddr::from(([127, 0, 0, 1], port));
        let printed = setup(server, listen);
        assert!(printed.contains("api_type: DELTA_GRPC"), "{printed}");
        Self::start(&printed.replace("DELTA_GRPC", kind), listen)
    }

    /// Waits until it answers for the service; the connection, for more.
    fn until_it_serves(&mut self, service: &str) -> Http {
        eventually("an answer through Envoy", DEADLINE, || {
            self.program.must_run();
            std::net::TcpStream::connect(self.listen).ok()?;
            let mut http = Http::tcp(self.listen);
            (asked(&mut http, service, "/").0 == 200).then_some(http)
        })
    }

    /// The addresses of a cluster, and which of them are drained or unhealthy.
    fn members(&self, cluster: &str) -> Option<BTreeSet<(String, String)>> {
        let socket = admin(self.program.directory.path());
        std::os::unix::net::UnixStream::connect(&socket).ok()?;
        let response = Http::unix(Path::new(&socket)).get("/clusters");
        let member = |line: &str| {
            let (address, flags) =
                line.strip_prefix(cluster)?.strip_prefix("::")?.split_once("::health_flags::")?;
            Some((address.to_owned(), flags.to_owned()))
        };
        Some(response.text().lines().filter_map(member).collect())
    }

    fn becomes(&mut self, cluster: &str, wanted: &BTreeSet<(String, String)>) {
        eventually(&format!("Envoy's members of {cluster}"), DEADLINE, || {
            self.program.must_run();
            (self.members(cluster).as_ref() == Some(wanted)).then_some(())
        });
    }
}

fn admin(directory: &Path) -> String {
    directory.join("admin.sock").display().to_string()
}

fn setup(server: &Server, listen: SocketAddr) -> String {
    let (socket, listen) = (format!("unix:{}", server.socket.display()), listen.to_string());
    let ended = callsign(&["setup", "envoy", "--listen", &listen, "--server", &socket]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    ended.stdout
}

/// Status and body of one request.
fn asked(http: &mut Http, host: &str, path: &str) -> (u16, String) {
    http.send("GET", path, &[("Host", host)], b"");
    let response = http.receive();
    (response.status, response.text().to_owned())
}

/// An instance that says its port to whoever asks; `/slow` takes its time.
struct Instance {
    address: SocketAddr,
    stop: CancellationToken,
}

impl Instance {
    fn start(runtime: &Runtime) -> Self {
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let address = listener.local_addr().expect("its address");
        let stop = CancellationToken::new();
        let (stopped, connections) = (stop.clone(), TaskTracker::new());
        runtime.spawn(async move {
            while let Some(accepted) = stopped.run_until_cancelled(listener.accept()).await {
                let (mut stream, _) = accepted.expect("a connection");
                let stopped = stopped.clone();
                connections.spawn(async move {
                    let (mut request, mut piece) = (Vec::new(), [0; 4096]);
                    // Who stops closes what is idle, and no request that has begun.
                    while let Some(Ok(octets @ 1..)) =
                        stopped.run_until_cancelled(stream.read(&mut piece)).await
                    {
                        request.extend_from_slice(&piece[..octets]);
                        if !request.ends_with(b"\r\n\r\n") {
                            continue;
                        }
                        if request.starts_with(b"GET /slow") {
                            // tidy: may sleep: this is the work of the instance, which takes a time
                            tokio::time::sleep(Duration::from_millis(40)).await;
                        }
                        request.clear();
                        let port = address.port().to_string();
                        let reply =
                            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{port}", port.len());
                        if stream.write_all(reply.as_bytes()).await.is_err() {
                            break;
                        }
                    }
                });
            }
        });
        Self { address, stop }
    }

    fn key(&self) -> Value {
        json!({"service": "web", "id": format!("web-{}", self.address.port())})
    }

    fn register(&self, client: &mut Client, more: &Value) {
        let mut form = self.key();
        let facts = json!({"address": "127.0.0.1", "port": self.address.port(), "lease": "none"});
        for (key, value) in
            [&facts, more].into_iter().flat_map(|object| object.as_object().expect("an object"))
        {
            form[key] = value.clone();
        }
        client.done("registered", &json!({"register": form}));
    }

    fn member(&self, flags: &str) -> (String, String) {
        (self.address.to_string(), flags.to_owned())
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

/// A process, ended by its pid with this.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Process {
    /// An instance that says its name, and is registered for as long as it lives.
    fn instance(server: &Server, service: &str, name: &str) -> Self {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mesh/instance.py");
        let mut command = Command::new("/usr/bin/python3");
        command.arg(program).arg(&server.socket).args([service, name]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Self(command.spawn().expect("running python3"))
    }

    fn kill(&self) {
        kill(Pid::from_raw(self.0.id() as i32), Signal::SIGKILL).expect("our own child");
    }
}

#[test]
fn the_printed_bootstrap_is_enough_and_the_dead_leave() {
    let server = Server::start(&["--store", "memory"]);
    let one = Process::instance(&server, "web", "one");
    let [port] = free_ports();
    let listen = SocketAddr::from(([127, 0, 0, 1], port));
    let mut envoy = Envoy::start(&setup(&server, listen), listen);
    let mut http = envoy.until_it_serves("web");
    for host in ["web", "web:8080", "web.service.local", "WEB.service.local:80"] {
        assert_eq!(asked(&mut http, host, "/"), (200, "one".to_owned()), "{host}");
    }
    assert_eq!(asked(&mut http, "nobody", "/").0, 404);
    let _two = Process::instance(&server, "web", "two");
    eventually("an answer of the second", DEADLINE, || {
        (asked(&mut http, "web", "/").1 == "two").then_some(())
    });
    let begun = now();
    one.kill();
    let mut last_of_one = Duration::ZERO;
    eventually("Envoy without the dead", DEADLINE, || {
        // What is on its way when the process dies may fail; of what comes after nothing does.
        if asked(&mut http, "web", "/") != (200, "two".to_owned()) {
            last_of_one = begun.elapsed();
        }
        (envoy.members("web")?.len() == 1).then_some(())
    });
    let dropped = begun.elapsed();
    for _ in 0..100 {
        assert_eq!(asked(&mut http, "web", "/"), (200, "two".to_owned()));
    }
    println!(
        "after kill -9: the last other answer at {last_of_one:?}, out of Envoy at {dropped:?} at the latest"
    );
}

/// Answers of `web` until as many in a row are one of these.
fn until_only(http: &mut Http, names: &[&str]) {
    const IN_A_ROW: usize = 50;
    let mut in_a_row = 0;
    eventually(&format!("only answers of {names:?}"), DEADLINE, || {
        let (status, body) = asked(http, "web", "/");
        in_a_row = if status == 200 && names.contains(&body.as_str()) { in_a_row + 1 } else { 0 };
        (in_a_row == IN_A_ROW).then_some(())
    });
}

#[test]
fn who_stands_in_answers_when_all_are_killed_and_not_before() {
    for kind in ["DELTA_GRPC", "GRPC"] {
        let server = Server::start(&["--store", "memory"]);
        let settings = json!({"service": "web", "failover": ["web-standby"]});
        server.client().done("settings", &json!({"settings": settings}));
        let instances = ["one", "two", "three"].map(|name| Process::instance(&server, "web", name));
        let _standby = Process::instance(&server, "web-standby", "standby");
        let mut envoy = Envoy::of(&server, kind);
        let mut http = envoy.until_it_serves("web");
        eventually("four endpoints", DEADLINE, || {
            envoy.program.must_run();
            (envoy.members("web")?.len() == 4).then_some(())
        });
        until_only(&mut http, &["one", "two", "three"]);
        let report = json!({"service": "web", "id": "one", "status": "critical"});
        server.client().done("reported", &json!({"report": report}));
        let report = json!({"service": "web", "id": "two", "status": "critical"});
        server.client().done("reported", &json!({"report": report}));
        // One of three is enough: by itself Envoy would have gone on to the next priority.
        until_only(&mut http, &["three"]);
        instances.iter().for_each(Process::kill);
        until_only(&mut http, &["standby"]);
        let _four = Process::instance(&server, "web", "four");
        until_only(&mut http, &["four"]);
    }
}

#[test]
fn a_client_stays_with_its_instance_under_affinity() {
    let runtime = runtime();
    let server = Server::start(&["--store", "memory"]);
    let mut client = server.client();
    let mut instances: Vec<Instance> = (0..5).map(|_| Instance::start(&runtime)).collect();
    instances.iter().for_each(|instance| instance.register(&mut client, &json!({})));
    let mut envoy = Envoy::of(&server, "DELTA_GRPC");
    let mut http = envoy.until_it_serves("web");
    eventually("answers of two, under the usual balance", DEADLINE, || {
        (asked(&mut http, "web", "/").1 != asked(&mut http, "web", "/").1).then_some(())
    });
    client.done("settings", &json!({"settings": {"service": "web", "balance": "affinity"}}));
    let ports: Vec<String> = instances.iter().map(|instance| instance.address.port().to_string()).collect();
    let mut kept = None;
    eventually("one instance for all requests", DEADLINE, || {
        let port = asked(&mut http, "web", "/").1;
        all_say(&mut http, &port)?;
        kept = ports.iter().position(|known| *known == port);
        kept
    });
    // When it leaves, the client goes on to one other.
    let gone = instances.remove(kept.expect("one of them"));
    client.done("deregistered", &json!({"deregister": gone.key()}));
    eventually("another instance for all requests", DEADLINE, || {
        let port = asked(&mut http, "web", "/").1;
        all_say(&mut http, &port).filter(|()| port != gone.address.port().to_string())
    });
}

/// Some if that is the answer to forty requests in a row.
fn all_say(http: &mut Http, name: &str) -> Option<()> {
    (0..40).all(|_| asked(http, "web", "/") == (200, name.to_owned())).then_some(())
}

#[test]
fn no_request_fails_while_instances_drain() {
    const INSTANCES: usize = 200;
    const CHANGES: usize = 300;
    const BETWEEN: Duration = Duration::from_millis(20);
    /// Drained instances that wait for their end.
    const DRAINING: usize = 12;
    const CLIENTS: usize = 3;
    let runtime = runtime();
    for kind in ["DELTA_GRPC", "GRPC"] {
        let server = Server::start(&["--store", "memory"]);
        let mut client = server.client();
        let start = |client: &mut Client| {
            let instance = Instance::start(&runtime);
            instance.register(client, &json!({}));
            instance
        };
        let mut live: VecDeque<Instance> = (0..INSTANCES).map(|_| start(&mut client)).collect();
        let mut draining: VecDeque<Instance> = VecDeque::new();
        let mut envoy = Envoy::of(&server, kind);
        envoy.until_it_serves("web");
        let members = |live: &VecDeque<Instance>, draining: &VecDeque<Instance>| -> BTreeSet<_> {
            let live = live.iter().map(|instance| instance.member("healthy"));
            live.chain(draining.iter().map(|instance| instance.member("/eds_status_draining"))).collect()
        };
        envoy.becomes("web", &members(&live, &draining));
        let (over, requests, listen) = (AtomicBool::new(false), AtomicUsize::new(0), envoy.listen);
        let failed = std::thread::scope(|scope| {
            let ask = |number: usize| {
                let (mut http, mut failed) = (Http::tcp(listen), Vec::new());
                while !over.load(Ordering::Relaxed) {
                    let path = if (requests.fetch_add(1, Ordering::Relaxed) + number).is_multiple_of(8) {
                        "/slow"
                    } else {
                        "/"
                    };
                    let (status, body) = asked(&mut http, "web", path);
                    if status != 200 {
                        failed.push(format!("{status} {body}"));
                    }
                }
                failed
            };
            let clients: Vec<_> = (0..CLIENTS).map(|number| scope.spawn(move || ask(number))).collect();
            let end = Over(&over);
            let _within = runtime.enter();
            let mut clock = tokio::time::interval(BETWEEN);
            for change in 0..CHANGES {
                runtime.block_on(clock.tick());
                match change % 3 {
                    0 => {
                        let instance = live.pop_front().expect("one of many");
                        client.done("draining", &json!({"drain": instance.key()}));
                        draining.push_back(instance);
                    }
                    1 => live.push_back(start(&mut client)),
                    _ if draining.len() > DRAINING => {
                        let instance = draining.pop_front().expect("one of several");
                        client.done("deregistered", &json!({"deregister": instance.key()}));
                        instance.stop.cancel();
                    }
                    _ => {}
                }
            }
            drop(end);
            clients.into_iter().flat_map(|client| client.join().expect("a client")).collect::<Vec<_>>()
        });
        let requests = requests.into_inner();
        println!("{kind}: {CHANGES} changes, {requests} requests, {} failed", failed.len());
        assert!(failed.is_empty(), "{kind}: {failed:?}");
        envoy.becomes("web", &members(&live, &draining));
    }
}

/// A bootstrap whose parts each have a transport of their own.
fn separate(server: &Server, listen: SocketAddr, source: &str) -> String {
    let at = server.http[0];
    let source = format!(
        "{{ resource_api_version: V3, api_config_source: {{ transport_api_version: V3, {source} }} }}"
    );
    let cluster = |name: &str, more: &str| {
        format!(
            "    - name: {name}\n      type: STATIC\n      connect_timeout: 1s\n{more}      load_assignment: {{ cluster_name: {name}, endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: {{ socket_address: {{ address: {}, port_value: {} }} }} }} }} ] }} ] }}\n",
            at.ip(),
            at.port()
        )
    };
    let http2 = "      typed_extension_protocol_options: { envoy.extensions.upstreams.http.v3.HttpProtocolOptions: { \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: { http2_protocol_options: {} } } }\n";
    format!(
        "node: {{ id: e, cluster: e, metadata: {{ listen: \"{listen}\" }} }}\n\
         dynamic_resources:\n  lds_config: {source}\n  cds_config: {source}\n\
         static_resources:\n  clusters:\n{}{}",
        cluster("callsign_xds", http2),
        cluster("localhost", "")
    )
}

#[test]
fn every_transport_tells_an_envoy_the_same() {
    let runtime = runtime();
    let server = Server::start(&["--store", "memory"]);
    let mut client = server.client();
    let start = |client: &mut Client, more: Value| {
        let instance = Instance::start(&runtime);
        instance.register(client, &more);
        instance
    };
    let one = start(&mut client, json!({"weight": 3, "meta": {"region": "north", "zone": "a"}}));
    let two = start(&mut client, json!({}));
    let grpc = |kind: &str| {
        format!("api_type: {kind}, grpc_services: [ {{ envoy_grpc: {{ cluster_name: callsign_xds }} }} ]")
    };
    let sources = [
        grpc("GRPC"),
        grpc("DELTA_GRPC"),
        "api_type: REST, cluster_names: [localhost], refresh_delay: 0.1s".to_owned(),
    ];
    let listens: [u16; 3] = free_ports();
    let mut envoys: Vec<Envoy> = sources
        .iter()
        .zip(listens)
        .map(|(source, port)| {
            let listen = SocketAddr::from(([127, 0, 0, 1], port));
            Envoy::start(&separate(&server, listen, source), listen)
        })
        .collect();
    let healthy =
        |instances: &[&Instance]| instances.iter().map(|one| one.member("healthy")).collect::<BTreeSet<_>>();
    for envoy in &mut envoys {
        envoy.until_it_serves("web.service.local");
        envoy.becomes("web", &healthy(&[&one, &two]));
        let socket = admin(envoy.program.directory.path());
        let text = Http::unix(Path::new(&socket)).get("/clusters").text().to_owned();
        for fact in ["weight::3", "region::north", "zone::a"] {
            assert!(text.contains(&format!("web::{}::{fact}\n", one.address)), "{fact}: {text}");
        }
    }
    let three = start(&mut client, json!({}));
    client.done("deregistered", &json!({"deregister": one.key()}));
    client.done("draining", &json!({"drain": two.key()}));
    let wanted = BTreeSet::from([three.member("healthy"), two.member("/eds_status_draining")]);
    for envoy in &mut envoys {
        envoy.becomes("web", &wanted);
        let mut http = envoy.until_it_serves("web");
        assert_eq!(asked(&mut http, "web", "/").1, three.address.port().to_string());
    }
}

#[test]
fn an_envoy_keeps_what_it_has_while_we_are_away() {
    let runtime = runtime();
    let data = tempfile::tempdir().expect("a directory");
    let [port] = free_ports();
    let (data, http) = (data.path().join("data").display().to_string(), format!("127.0.0.1:{port}"));
    let flags = ["--data", data.as_str(), "--http", &http];
    for kind in ["DELTA_GRPC", "GRPC"] {
        let mut server = Server::start(&flags);
        let mut client = server.client();
        let one = Instance::start(&runtime);
        one.register(&mut client, &json!({}));
        let mut envoy = Envoy::of(&server, kind);
        envoy.until_it_serves("web");
        let (over, listen) = (AtomicBool::new(false), envoy.listen);
        let requests = std::thread::scope(|scope| {
            let asking = scope.spawn(|| {
                let (mut http, mut requests) = (Http::tcp(listen), 0);
                while !over.load(Ordering::Relaxed) {
                    let (status, body) = asked(&mut http, "web", "/");
                    assert_eq!(status, 200, "{body}");
                    requests += 1;
                }
                requests
            });
            let end = Over(&over);
            server.crash();
            assert_eq!(envoy.members("web"), Some(BTreeSet::from([one.member("healthy")])));
            drop(std::mem::replace(&mut server, Server::start(&flags)));
            // That it follows again shows in what is registered now.
            let two = Instance::start(&runtime);
            let mut client = server.client();
            two.register(&mut client, &json!({}));
            envoy.becomes("web", &BTreeSet::from([one.member("healthy"), two.member("healthy")]));
            client.done("deregistered", &json!({"deregister": two.key()}));
            envoy.becomes("web", &BTreeSet::from([one.member("healthy")]));
            drop(end);
            asking.join().expect("the client")
        });
        println!("{kind}: {requests} requests through a crash and a start, none failed");
        client = server.client();
        client.done("deregistered", &json!({"deregister": one.key()}));
    }
}
