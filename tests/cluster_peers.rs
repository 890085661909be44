//! What tests/cluster.rs shows of Debian's etcd, on one of this year.
//!
//! Needs: peer:etcd, bind9-dnsutils, unbound, iproute2, util-linux

#[path = "cluster/mod.rs"]
mod cluster;
mod harness;

use cluster::{etcd, relay, several};

/// The etcd of this file's tests.
fn program() -> std::path::PathBuf {
    let folder = std::env::var_os("CALLSIGN_PEERS").map(std::path::PathBuf::from);
    let path = folder.map(|folder| folder.join("etcd")).filter(|path| path.is_file());
    path.expect("etcd is not built: run tests/peers/build, and set CALLSIGN_PEERS to target/peers/bin; ./check --peers does both")
}
