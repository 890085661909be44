//! Real servers behind a load balancer, and load in front of it.

use std::collections::BTreeMap;
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

use crate::harness::{Client, DEADLINE, Over, Server, eventually};

/// Clients that ask all the time, a connection for each request.
const CLIENTS: usize = 3;

/// An instance: it says its number to whoever asks.
pub struct Instance {
    pub address: SocketAddr,
    pub asked: Arc<AtomicUsize>,
    pub stop: CancellationToken,
}

impl Instance {
    pub fn start(runtime: &Runtime, number: usize) -> Self {
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
                            stream.write_all((head + &body).as_bytes()).await.expect("the balancer reads");
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
pub fn ask(front: u16) -> Result<(), String> {
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

/// Registers and takes away instances, so many at each step, while clients ask on the port `front`. No request may fail.
///
/// `leave` takes away the instance with this number. `settled` is told of the instances that are there and of those that
/// have left, and says whether the balancer knows: then those that have left end.
pub fn scaled(
    server: &Server,
    front: u16,
    steps: &[usize],
    leave: impl Fn(&mut Client, usize),
    mut settled: impl FnMut(&BTreeMap<usize, Instance>, &[Instance]) -> bool,
) {
    let runtime = Runtime::new().expect("a runtime for the instances");
    let (mut client, mut instances) = (server.client(), BTreeMap::new());
    let (over, requests) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let asking = Over(&over); // its end is the clients' end, also where this fails
        let (mut clients, mut gone) = (Vec::new(), Vec::new());
        for &wanted in steps {
            for number in 1..=wanted {
                instances.entry(number).or_insert_with(|| {
                    let instance = Instance::start(&runtime, number);
                    let (ip, port) = (instance.address.ip(), instance.address.port());
                    let form = json!({"service": "web", "id": format!("web-{number}"), "address": ip, "port": port, "lease": "none"});
                    client.done("registered", &json!({ "register": form }));
                    instance
                });
            }
            for (number, instance) in instances.split_off(&(wanted + 1)) {
                leave(&mut client, number);
                gone.push(instance);
            }
            eventually("what the balancer knows", DEADLINE, || settled(&instances, &gone).then_some(()));
            // An instance ends when nobody is sent to it any more.
            gone.drain(..).for_each(|instance| instance.stop.cancel());
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
            let before = asked(instances.values());
            eventually("a request at every instance", DEADLINE, || {
                asked(instances.values()).iter().zip(&before).all(|(now, before)| now > before).then_some(())
            });
        }
        drop(asking);
        let failures: Vec<String> =
            clients.into_iter().flat_map(|client| client.join().expect("a client")).collect();
        println!("balancers: {} requests through {steps:?} instances", requests.load(Ordering::SeqCst));
        assert_eq!(failures, Vec::<String>::new());
    });
}

/// How many requests have come to each so far.
pub fn asked<'a>(instances: impl IntoIterator<Item = &'a Instance>) -> Vec<usize> {
    instances.into_iter().map(|instance| instance.asked.load(Ordering::SeqCst)).collect()
}
