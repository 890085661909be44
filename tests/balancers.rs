//! A load balancer whose servers come from us, with real servers behind it and load in front.
//!
//! Needs: haproxy

#[path = "balancers/mod.rs"]
mod balancers;
#[path = "harness/mod.rs"]
mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde_json::json;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use balancers::{Instance, ask, asked, scaled};
use harness::haproxy::{up, weights};
use harness::program::{Program, free_ports, needs};
use harness::{Client, DEADLINE, Server, eventually};

/// Most instances of the service.
const INSTANCES: usize = 120;
/// How many are registered, one step after another.
const STEPS: [usize; 6] = [1, 10, INSTANCES, 40, 80, 1];

/// HAProxy on the port `front`, its servers those of `web`.
fn haproxy(server: &Server, directory: TempDir, front: u16, socket: &Path) -> Program {
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
    Program::start(&needs("haproxy", "haproxy"), directory, &words)
}

#[test]
fn haproxy_serves_the_weights_that_were_meant() {
    let server = Server::start(&["--store", "memory"]);
    let runtime = Runtime::new().expect("a runtime for the instances");
    let mut client = server.client();
    let instances: Vec<Instance> = (1..=2).map(|number| Instance::start(&runtime, number)).collect();
    for (instance, weight) in instances.iter().zip([1, 3]) {
        let (ip, port) = (instance.address.ip(), instance.address.port());
        let form = json!({"service": "web", "id": format!("w{weight}"), "address": ip, "port": port, "lease": "none", "weight": weight});
        client.done("registered", &json!({ "register": form }));
    }
    let directory = tempfile::tempdir().expect("a directory");
    let ([front], socket) = (free_ports::<1>(), directory.path().join("haproxy.sock"));
    let mut haproxy = haproxy(&server, directory, front, &socket);
    // As they are told by default, all weights below 256 are 1 to HAProxy.
    for (form, meant) in [("plain", [1, 1]), ("haproxy", [1, 3])] {
        client.done("settings", &json!({"settings": {"service": "web", "srv_weights": form}}));
        let places = instances.iter().map(|instance| instance.address.to_string());
        let expected: BTreeMap<String, u32> = places.zip(meant).collect();
        eventually("the weights in HAProxy", DEADLINE, || {
            haproxy.must_run();
            (weights(&socket, "web").as_ref() == Some(&expected)).then_some(())
        });
        let before = asked(&instances);
        for _ in 0..400 {
            ask(front).expect("an answer");
        }
        let served: Vec<usize> = asked(&instances).iter().zip(before).map(|(now, then)| now - then).collect();
        println!("{form}: {served:?} of 400 for weights 1:3");
        let share = 400 * meant[1] as usize / (meant[0] + meant[1]) as usize;
        assert!(served[1].abs_diff(share) <= 4 && served[0] + served[1] == 400, "{form}: {served:?}");
    }
}

#[test]
fn haproxy_is_scaled_up_and_down_under_load_without_a_failed_request() {
    let server = Server::start(&["--store", "memory"]);
    let directory = tempfile::tempdir().expect("a directory");
    let ([front], socket) = (free_ports::<1>(), directory.path().join("haproxy.sock"));
    let mut haproxy = haproxy(&server, directory, front, &socket);

    let leave = |client: &mut Client, number: usize| {
        client
            .done("deregistered", &json!({"deregister": {"service": "web", "id": format!("web-{number}")}}));
    };
    scaled(&server, front, &STEPS, leave, |instances, _| {
        haproxy.must_run();
        let expected: BTreeSet<String> =
            instances.values().map(|instance| instance.address.to_string()).collect();
        up(&socket, "web").as_ref() == Some(&expected)
    });
}
