//! Several nodes on one etcd: what is registered at one is in the DNS of all, what a dead node watched over is taken over,
//! and while etcd is away answers stay, changes are refused, and no lease ends.
//!
//! The etcd is Debian's 3.4, which is the oldest that we speak to; tests/cluster_peers.rs runs the same on a new one.
//!
//! - `etcd`: the etcd that the tests start, end and start again.
//! - `several`: registrations and leases of two and three nodes.
//! - `trouble`: nodes and etcd that end.
//! - `access`: TLS, users, and what is refused.
//! - `identities`: tokens, and whose an instance is.
//! - `guards`: the guard against mass death.
//! - `moving`: a registry that comes from one machine, and goes back.
//! - `nodes`: what is told of nodes, and of the ring.
//! - `probes`: who probes what.
//! - `failover`: clients of several nodes, one of which dies or is cut off.
//! - `names`: the nodes in their own zone, and a resolver that goes on where one is dead.
//! - `stale`: a node that is cut off from etcd.
//! - `updates`: UPDATE at several nodes.
//!
//! Needs: etcd-server, bind9-dnsutils, unbound, iproute2, util-linux

#[path = "cluster/mod.rs"]
mod cluster;
mod harness;

use cluster::{etcd, relay, several};

/// The etcd of this file's tests.
fn program() -> std::path::PathBuf {
    harness::program::needs("etcd", "etcd-server")
}
