//! A load balancer whose servers come from us, with real servers behind it and load in front.
//!
//! Needs: haproxy

#[path = "harness/mod.rs"]
mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use harness::haproxy::up;
use harness::program::{Program, free_ports, needs};
use harness::{DEADLINE, Over, Server, eventually};

/// Most instances of the service.
const INSTANCES: usize = 120;
/// How many are registered, one step after another.
const STEPS: [usize; 6] = [1, 10, INSTANCES, 40, 80, 1];
/// Clients that ask all the time, a connection for each request.
const CLIENTS: usize = 3;

/// An instance: it says its number to whoever asks.
struct Instance {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    stop: CancellationToken,
}

impl Instance {
    fn start(runtime: &Runtime, number: usize) -> Self {
        let ip = Ipv4Addr::new(127, 0, 1, u8::try_from(number).expect("a small number"));
        let listener = runtime.block_on(TcpListener::bind((ip, 0))).expect("an address of loopback");
        let address = listener.local_addr().expect("its address");
        let (asked, stop) = (Arc::new(AtomicUsize::new(0)), CancellationToken::new());
        let (counter, stopped, connections) = (asked.clone(), stop.clone(), TaskTracker::new());
        runtime.spawn(async move {
            loop {
                // Who has connected before the end is served: `accept` comes first.
                let stream = tokio::select! {
                    biased;
                    accepted = listener.accept() => accepted.expect("a connection").0,
                    () = stopped.cancelled() => return,
                };
                let counter = counter.clone();
                // What has come in is served after the end, too.
                connections.spawn(async move {
                    let mut stream = stream;
                    let (mut request, mut piece) = (Vec::new(), [0; 1024]);
                    while let Ok(octets @ 1..) = stream.read(&mut piece).await {
                        request.extend_from_slice(&piece[..octets]);
                        if request.ends_with(b"\r\n\r\n") {
                            counter.fetch_add(1, Ordering::SeqCst);
                            let body = number.to_string();
                            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                            stream.write_all((head + &body).as_bytes()).await.expect("HAProxy reads");
                            request.clear();
                        }
                    }
                });
            }
        });
        Self { address, asked, stop }
    }
}

/// One request through the balancer; what went wrong, in words.
fn ask(front: u16) -> Result<(), String> {
    let failed = |what: &str, error: std::io::Error| format!("{what}: {error}");
    let mut stream = TcpStream::connect(("127.0.0.1", front)).map_err(|error| failed("connecting", error))?;
    stream.set_read_timeout(Some(DEADLINE)).map_err(|error| failed("an option", error))?;
    let request = b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n";
    stream.write_all(request).map_err(|error| failed("asking", error))?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).map_err(|error| failed("reading", error))?;
    match reply.starts_with("HTTP/1.1 200 OK\r\n") {
        true => Ok(()),
        false => Err(reply.lines().next().unwrap_or("nothing").to_owned()),
    }
}

#[test]
fn haproxy_is_scaled_up_and_down_under_load_without_a_failed_request() {
    let server = Server::start(&["--store", "memory"]);
    let runtime = Runtime::new().expect("a runtime for the instances");
    let directory = tempfile::tempdir().expect("a directory");
    let ([front], socket) = (free_ports::<1>(), directory.path().join("haproxy.sock"));
    // No retry: a request that goes to a server that has gone is a failed request here.
    let text = format!(
        "global\n    nbthread 1\n    stats socket {} mode 600\n\
         defaults\n    mode http\n    retries 0\n    timeout connect 10s\n    timeout client 30s\n    timeout server 30s\n\
         resolvers callsign\n    nameserver callsign tcp@{}\n    accepted_payload_size 65535\n    \
         timeout resolve 100ms\n    timeout retry 1s\n    hold valid 100ms\n    hold obsolete 0s\n\
         frontend front\n    bind 127.0.0.1:{front}\n    default_backend web\n\
         backend web\n    balance roundrobin\n    \
         server-template web {INSTANCES} _web._tcp.service.local resolvers callsign resolve-prefer ipv4 init-addr none\n",
        socket.display(),
        server.dns[0]
    );
    let configuration = directory.path().join("haproxy.cfg");
    fs::write(&configuration, text).expect("a file of ours");
    let words = ["-db".to_owned(), "-f".to_owned(), configuration.display().to_string()];
    let mut haproxy = Program::start(&needs("haproxy", "haproxy"), directory, &words);

    let (mut client, mut instances) = (server.client(), BTreeMap::new());
    let (over, requests) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let asking = Over(&over); // its end is the clients' end, also where this fails
        let mut clients = Vec::new();
        let mut stopped = Vec::new();
        for wanted in STEPS {
            for number in 1..=INSTANCES {
                let request = match (number <= wanted, instances.contains_key(&number)) {
                    (true, false) => {
                        let instance = Instance::start(&runtime, number);
                        let (ip, port) = (instance.address.ip(), instance.address.port());
                        instances.insert(number, instance);
                        (
                            "registered",
                            json!({"register": {"service": "web", "id": format!("web-{number}"), "address": ip, "port": port, "lease": "none"}}),
                        )
                    }
                    (false, true) => {
                        stopped.extend(instances.remove(&number));
                        (
                            "deregistered",
                            json!({"deregister": {"service": "web", "id": format!("web-{number}")}}),
                        )
                    }
                    _ => continue,
                };
                client.done(request.0, &request.1);
            }
            let expected: BTreeSet<String> =
                instances.values().map(|instance| instance.address.to_string()).collect();
            eventually("HAProxy's servers", DEADLINE, || {
                haproxy.must_run();
                (up(&socket, "web").as_ref() == Some(&expected)).then_some(())
            });
            // An instance ends when nobody is sent to it any more.
            stopped.drain(..).for_each(|instance| instance.stop.cancel());
            if clients.is_empty() {
                clients.extend((0..CLIENTS).map(|_| {
                    scope.spawn(|| {
                        let mut failures = Vec::new();
                        while !over.load(Ordering::SeqCst) {
                            failures.extend(ask(front).err());
                            requests.fetch_add(1, Ordering::SeqCst);
                        }
                        failures
                    })
                }));
            }
            let before: Vec<usize> =
                instances.values().map(|instance| instance.asked.load(Ordering::SeqCst)).collect();
            eventually("a request at every instance", DEADLINE, || {
                let asked = instances.values().map(|instance| instance.asked.load(Ordering::SeqCst));
                asked.zip(&before).all(|(now, before)| now > *before).then_some(())
            });
        }
        drop(asking);
        let failures: Vec<String> =
            clients.into_iter().flat_map(|client| client.join().expect("a client")).collect();
        println!("balancers: {} requests through {STEPS:?} instances", requests.load(Ordering::SeqCst));
        assert_eq!(failures, Vec::<String>::new());
    });
}
