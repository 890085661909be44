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
//!
//! Needs: etcd-server

mod harness;

#[path = "cluster/access.rs"]
mod access;
#[path = "cluster/etcd.rs"]
mod etcd;
#[path = "moving/full.rs"]
mod full;
#[path = "cluster/guards.rs"]
mod guards;
#[path = "cluster/identities.rs"]
mod identities;
#[path = "cluster/moving.rs"]
mod moving;
#[path = "cluster/nodes.rs"]
mod nodes;
#[path = "cluster/probes.rs"]
mod probes;
#[path = "transfers/secondary.rs"]
mod secondary;
#[path = "cluster/several.rs"]
mod several;
#[path = "cluster/trouble.rs"]
mod trouble;

/// The etcd of this file's tests.
fn program() -> std::path::PathBuf {
    harness::program::needs("etcd", "etcd-server")
}
