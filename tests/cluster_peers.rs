//! What tests/cluster.rs shows of Debian's etcd, on one of this year.
//!
//! Needs: peer:etcd

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
#[path = "transfers/secondary.rs"]
mod secondary;
#[path = "cluster/several.rs"]
mod several;
#[path = "cluster/trouble.rs"]
mod trouble;

/// The etcd of this file's tests.
fn program() -> std::path::PathBuf {
    let folder = std::env::var_os("CALLSIGN_PEERS").map(std::path::PathBuf::from);
    let path = folder.map(|folder| folder.join("etcd")).filter(|path| path.is_file());
    path.expect("etcd is not built: run tests/peers/build, and set CALLSIGN_PEERS to target/peers/bin; ./check --peers does both")
}
