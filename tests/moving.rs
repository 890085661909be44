//! A registry that moves: `callsign export` and `import` between servers, and `import --from-consul` from another server's
//! HTTP API, which is Consul's. From a real Consul: tests/consul_peers.rs. To etcd and back: tests/cluster.rs.
//!
//! - `full`: a registry with one of everything.
//! - `files`: exported, imported, exported again.
//! - `refused`: what is not taken, by line and field.
//! - `consul`: a Consul that says what it is told to.
//! - `follow`: a catalog that is followed.

mod harness;

#[path = "moving/consul.rs"]
mod consul;
#[path = "moving/files.rs"]
mod files;
#[path = "moving/follow.rs"]
mod follow;
#[path = "moving/full.rs"]
mod full;
#[path = "history/picture.rs"]
#[allow(dead_code, reason = "the commands of tests/history.rs, and not all of its pictures")]
mod picture;
#[path = "moving/refused.rs"]
mod refused;
#[path = "transfers/secondary.rs"]
mod secondary;
