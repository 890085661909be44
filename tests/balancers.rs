//! A load balancer whose servers come from us, with real servers behind it and load in front.
//!
//! Needs: haproxy

#[path = "balancers/mod.rs"]
mod balancers;
#[path = "harness/mod.rs"]
mod harness;

use std::collections::BTreeSet;
use std::fs;

use serde_json::json;

use balancers::scaled;
use harness::haproxy::up;
use harness::program::{Program, free_ports, needs};
use harness::{Client, Server};

/// Most instances of the service.
const INSTANCES: usize = 120;
/// How many are registered, one step after another.
const STEPS: [usize; 6] = [1, 10, INSTANCES, 40, 80, 1];

#[test]
fn haproxy_is_scaled_up_and_down_under_load_without_a_failed_request() {
    let server = Server::start(&["--store", "memory"]);
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
