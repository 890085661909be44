//! Probes of checks, against real targets: what each kind finds, where probes may go, and whom a bad target delays.
//!
//! - `kinds`: TCP, HTTP, HTTPS, gRPC, programs and aliases, each up, down and up again; rise and fall.
//! - `limits`: forbidden addresses, redirects, targets that hang, drip and flood.
//! - `lives`: checks that come, go and change; a restart; hosts, whose checks no socket can list.
//!
//! Nothing is asserted of times: a test waits for the change that it expects, with a deadline.

mod harness;

#[path = "health/kinds.rs"]
mod kinds;
#[path = "health/limits.rs"]
mod limits;
#[path = "health/lives.rs"]
mod lives;
#[path = "health/targets.rs"]
mod targets;
#[path = "health/watched.rs"]
mod watched;
