//! Our own trouble, as CoreDNS in front of us sees it.
//!
//! Needs: coredns, bind9-dnsutils, iproute2, util-linux, strace
//!
//! As in tests/trouble.rs; CoreDNS is built, and no package of Debian.

#[path = "harness/mod.rs"]
mod harness;
#[path = "trouble/mod.rs"]
mod trouble;

use std::fs;
use std::path::PathBuf;

use trouble::{Follower, behind, goes_through_every_trouble, path, spawn};

#[test]
fn coredns_drops_no_server_because_of_our_trouble() {
    let peers = std::env::var_os("CALLSIGN_PEERS").expect("CALLSIGN_PEERS: ./check --peers sets it");
    let coredns = PathBuf::from(peers).join("coredns");
    goes_through_every_trouble(|space| {
        let text = ".:5353 {\n    bind 127.0.0.1\n    errors\n    cache 1\n    forward . 127.0.0.1:53\n}\n";
        fs::write(path(space, "Corefile"), text).expect("a file of ours");
        let child = spawn(space, "coredns", &coredns, &["-conf", &path(space, "Corefile")]);
        vec![Follower { name: "CoreDNS", child, look: behind(space, 5353) }]
    });
}
