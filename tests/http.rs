//! The HTTP port of the real server on real sockets: what it refuses, whom it wakes, what watchers see.
//!
//! - `refusals`: bad requests and bodies, other origins, slow and vanishing clients, limits, the end of the server.
//! - `blocking`: reads with `index`: woken by their own service, and by nothing else.
//! - `watching`: a snapshot, then every change, over lines and server-sent events, with no gap after a pause.
//! - `dashboard`: the files of the page, and the paths that were made for it.
//! - `reading`: targets for Prometheus, settings, and the registration socket's HTTP.
//!
//! Counts are asserted, times are printed. `CALLSIGN_TEST_SOCKETS` is how many clients wait at once
//! (2,000 where it is not set).

mod harness;

#[path = "http/blocking.rs"]
mod blocking;
#[path = "http/dashboard.rs"]
mod dashboard;
#[path = "http/metrics.rs"]
mod metrics;
#[path = "http/reading.rs"]
mod reading;
#[path = "http/refusals.rs"]
mod refusals;
#[path = "http/watching.rs"]
mod watching;

/// How many clients wait at once; they need a descriptor each, here and in the server.
fn sockets() -> usize {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("our own limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("our own limit, up to the hard one");
    match std::env::var("CALLSIGN_TEST_SOCKETS") {
        Ok(text) => text.parse().expect("CALLSIGN_TEST_SOCKETS is a number"),
        Err(_) => 2_000,
    }
}

/// A service's definition as Consul's clients write it.
fn definition(service: &str, id: &str, port: usize) -> serde_json::Value {
    serde_json::json!({"Name": service, "ID": id, "Address": "10.0.0.7", "Port": port})
}

const REGISTER: &str = "/v1/agent/service/register";
