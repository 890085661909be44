//! The real server on real sockets, seen from outside: what it promises, and what it does with bad input.
//!
//! - `visible`: what was acknowledged is in the very next answer, under concurrent writers and readers.
//! - `registration`: bad, long, slow and many lines on the registration socket.
//! - `packets`: bad, long, slow and many messages on the DNS sockets.
//! - `leases`: the dead leave, the living stay.
//! - `watching`: a snapshot, then every change, with no gap.
//! - `lifecycle`: start, refusal to start, stop.
//!
//! Counts are asserted, times are printed (`cargo test --test server -- --nocapture`).

mod harness;

#[path = "server/leases.rs"]
mod leases;
#[path = "server/lifecycle.rs"]
mod lifecycle;
#[path = "server/packets.rs"]
mod packets;
#[path = "server/registration.rs"]
mod registration;
#[path = "server/visible.rs"]
mod visible;
#[path = "server/watching.rs"]
mod watching;
