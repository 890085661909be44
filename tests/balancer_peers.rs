//! nginx, whose upstream comes from our SRV records, with real servers behind it and load in front.
//!
//! Needs: peer:nginx
//!
//! As in tests/balancers.rs; this nginx is built, for Debian's asks for no SRV.

#[path = "balancers/mod.rs"]
mod balancers;
#[path = "harness/mod.rs"]
mod harness;

use std::collections::BTreeMap;
use std::fs;

use serde_json::json;
use tokio::runtime::Runtime;

use balancers::{Instance, ask, asked, scaled};
use harness::program::{Program, free_ports};
use harness::{Client, DEADLINE, Server, eventually, nginx};

/// An nginx before our server; the port that it listens on.
fn start(server: &Server, resolver: &str, words: &str) -> (Program, u16) {
    let (directory, [front]) = (tempfile::tempdir().expect("a directory"), free_ports::<1>());
    let listen = format!("127.0.0.1:{front}");
    let resolver = format!("{}{resolver}", server.dns[0]);
    let text = nginx::configuration(directory.path(), &listen, &resolver, words);
    let file = directory.path().join("nginx.conf");
    fs::write(&file, text).expect("a file of ours");
    let words = nginx::words(&file, directory.path());
    (Program::start(&nginx::program(), directory, &words), front)
}

fn drain(client: &mut Client, number: usize) {
    client.done("draining", &json!({"drain": {"service": "web", "id": format!("web-{number}")}}));
}

#[test]
fn nginx_is_scaled_up_and_down_under_load_without_a_failed_request() {
    /// 40 do not fit a datagram: nginx sends no OPT record, and asks again over TCP.
    const STEPS: [usize; 5] = [1, 3, 40, 3, 1];
    /// nginx goes round its servers, so who is passed over so often is none of them.
    const ROUNDS: usize = 3;
    let server = Server::start(&["--store", "memory"]);
    let (mut nginx, front) = start(&server, " valid=1s", "service.local service=web resolve");
    let mut since: Option<(Vec<usize>, Vec<usize>)> = None;
    scaled(&server, front, &STEPS, drain, |instances: &BTreeMap<usize, Instance>, gone| {
        nginx.must_run();
        if gone.is_empty() {
            return ask(front).is_ok();
        }
        let now = (asked(instances.values()), asked(gone));
        let from = since.get_or_insert_with(|| now.clone());
        if from.1 != now.1 {
            *from = now;
            return false;
        }
        let passed_over = now.0.iter().zip(&from.0).all(|(now, from)| now - from > ROUNDS);
        if passed_over {
            since = None;
        }
        passed_over
    });
}

#[test]
fn nginx_takes_weights_and_priorities_from_srv() {
    const REQUESTS: usize = 40;
    let server = Server::start(&["--store", "memory", "--ttl", "1"]);
    let runtime = Runtime::new().expect("a runtime for the instances");
    let mut client = server.client();
    let instances: Vec<Instance> = [(1, 0, 1), (2, 0, 3), (3, 10, 1)]
        .into_iter()
        .map(|(number, priority, weight)| {
            let instance = Instance::start(&runtime, number);
            let (ip, port) = (instance.address.ip(), instance.address.port());
            let form = json!({"service": "web", "id": format!("web-{number}"), "address": ip, "lease": "none",
                              "ports": {"http": port}, "priority": priority, "weight": weight});
            client.done("registered", &json!({ "register": form }));
            instance
        })
        .collect();
    // The port by its name, as Kubernetes has it; and the TTL is ours.
    let (mut nginx, front) = start(&server, "", "web.service.local service=http resolve");
    let mut becomes = |wanted: [usize; 3]| {
        let mut last = Vec::new();
        eventually(&format!("requests at each as {wanted:?}"), DEADLINE, || {
            nginx.must_run();
            let before = asked(&instances);
            // Until nginx has asked for the first time, it knows nobody.
            (0..REQUESTS).try_for_each(|_| ask(front).ok())?;
            last = asked(&instances).iter().zip(&before).map(|(now, before)| now - before).collect();
            (last == wanted).then_some(())
        });
    };
    becomes([10, 30, 0]);
    drain(&mut client, 2);
    becomes([REQUESTS, 0, 0]);
    drain(&mut client, 1);
    becomes([0, 0, REQUESTS]);
}
