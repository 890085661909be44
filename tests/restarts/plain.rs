//! Restarts of a server that binds its own sockets: queries in between are lost, and none is told that a
//! registered service is not there.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::asking::{Asking, Progress, ask};
use crate::harness::{DEADLINE, Server, eventually};
use crate::held::register_all;

/// Instances besides, so that loading takes a moment.
const OTHERS: usize = 3_000;

fn serve(dns: SocketAddr, data: &str) -> Server {
    Server::start(&["--dns", &dns.to_string(), "--data", data])
}

/// An address of this test process alone: nobody else's socket gets a port of it between two servers.
fn own_address() -> SocketAddr {
    let [.., high, low] = std::process::id().to_be_bytes();
    SocketAddr::from(([127, 83, high, low], 0))
}

#[test]
fn a_registered_service_is_never_denied() {
    const RESTARTS: usize = 8;
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().display().to_string();
    let mut server = serve(own_address(), &data);
    let dns = server.dns[0];
    let mut client = server.client();
    let form = |service: &str, id: usize| {
        json!({"service": service, "id": format!("{id}"), "address": format!("10.0.{}.{}", id >> 8, id & 255),
               "port": 80, "lease": "none"})
    };
    register_all(&mut client, (0..OTHERS).map(|id| form(&format!("other-{}", id % 500), id)));
    register_all(&mut client, (0..3).map(|id| form("web", id)));
    drop(client);
    let asking = Asking {
        server: dns,
        name: "web.service.local.",
        records: 3,
        queries_a_second: 2_000,
        window: 1_000,
        deadline: Duration::from_millis(200),
    };
    let progress = Progress::default();
    let tally = std::thread::scope(|scope| {
        let asker = scope.spawn(|| ask(asking, &progress));
        let more = || {
            let than = progress.right.load(Ordering::SeqCst) + 100;
            eventually("right answers", DEADLINE, || {
                (progress.right.load(Ordering::SeqCst) >= than || asker.is_finished()).then_some(())
            });
        };
        for round in 0..RESTARTS {
            more();
            if round % 2 == 0 {
                server.signal(Signal::SIGTERM);
                assert_eq!(server.wait().code, Some(0));
            } else {
                server.crash();
            }
            server = serve(dns, &data);
        }
        more();
        progress.stop.store(true, Ordering::SeqCst);
        asker.join().expect("the asking thread")
    });
    println!(
        "restarts: plain: {RESTARTS} restarts, {} asked, {} right, {} not ready, {} not answered, {} wrong",
        tally.asked,
        tally.right,
        tally.not_ready,
        tally.lost,
        tally.wrong.len()
    );
    assert!(tally.wrong.is_empty(), "{:?}", tally.wrong);
}
