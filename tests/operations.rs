//! What whoever operates the server sees of it: health and logs.
//!
//! - `health`: `/healthz`, `/readyz` and `/metrics` while the registry is loaded, with a store that fails, and with one that hangs.
//! - `logs`: text, JSON and the journal; names from outside are words in each of them.
//!
//! Needs: strace, iproute2, util-linux, mount, systemd

mod harness;

#[path = "operations/health.rs"]
mod health;
#[path = "operations/logs.rs"]
mod logs;
