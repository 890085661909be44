//! The server ends and another takes its place, while clients ask on: what is lost (nothing, where a parent
//! holds the sockets), what is answered meanwhile (never that a registered service is not there), and what
//! a registration is worth afterwards.
//!
//! - `activation`: the test is the parent that holds the sockets (`LISTEN_FDS`).
//! - `plain`: the server binds its own.
//! - `notify`: what a supervisor is told (`NOTIFY_SOCKET`).
//! - `kept`: leases, health, drains, those that left, and the counters.
//!
//! A long run is tests/long/restarts.sh.

mod harness;

#[path = "restarts/activation.rs"]
mod activation;
#[path = "restarts/asking.rs"]
mod asking;
#[path = "restarts/held.rs"]
mod held;
#[path = "restarts/kept.rs"]
mod kept;
#[path = "restarts/notify.rs"]
mod notify;
#[path = "restarts/plain.rs"]
mod plain;
