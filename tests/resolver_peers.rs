//! CoreDNS in front of us, set up with exactly what `callsign setup` prints, and programs behind it.
//!
//! Needs: peer:coredns, bind9-dnsutils, gcc, musl-tools, golang-go, nodejs, openjdk-17-jdk-headless, iproute2, util-linux
//!
//! As in tests/resolvers.rs; CoreDNS is built, and no package of Debian.

#[path = "resolvers/front.rs"]
mod front;
mod harness;
#[path = "resolvers/programs.rs"]
mod programs;

use std::path::PathBuf;

use front::{Kind, stands_in_front, status};

#[test]
fn coredns() {
    let peers = std::env::var_os("CALLSIGN_PEERS").expect("CALLSIGN_PEERS: ./check --peers sets it");
    let corefile = ".:53 {\n    errors\n}\n";
    let kind = Kind {
        word: "coredns",
        program: PathBuf::from(peers).join("coredns"),
        at: "127.0.0.1",
        words: ["-conf", "/etc/coredns/Corefile"].map(str::to_owned).to_vec(),
        own: "coredns",
        etc: vec![("coredns/Corefile", corefile.to_owned())],
        folders: vec![],
        by_hand: vec![("coredns/Corefile", format!("{corefile}import /etc/coredns/callsign.conf\n"))],
        beside: |_| None,
    };
    stands_in_front(&kind, |machine, _| {
        assert_eq!(status(machine, &["one.service.local", "AAAA"]), "NOERROR");
    });
}
