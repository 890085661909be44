//! Our own trouble, as CoreDNS in front of us sees it, and an nginx that takes its servers from us.
//!
//! Needs: peer:coredns, peer:nginx, curl, bind9-dnsutils, iproute2, util-linux, strace
//!
//! As in tests/trouble.rs; both are built: CoreDNS is no package of Debian, and Debian's nginx asks for no SRV.

#[path = "harness/mod.rs"]
mod harness;
#[path = "trouble/mod.rs"]
mod trouble;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::nginx;
use harness::program::needs;
use harness::space::Space;
use trouble::{Follower, behind, goes_through_every_trouble, path, spawn};

/// nginx keeps its list to itself. But it goes round it, and says in each reply whom it asked: nobody is at those
/// addresses, which is no matter here.
fn balancer(space: &Space) -> Follower {
    /// More than its servers, twice.
    const REQUESTS: usize = 8;
    let (directory, file) = (space.directory(), path(space, "nginx.conf"));
    let text = nginx::configuration(
        directory,
        "127.0.0.1:8088",
        "127.0.0.1:53",
        "service.local service=web resolve",
    );
    fs::write(&file, text).expect("a file of ours");
    let words = nginx::words(Path::new(&file), directory);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let child = spawn(space, "nginx", &nginx::program(), &words);
    let mut curl = space.before();
    curl.extend([needs("curl", "curl").display().to_string(), "-s".to_owned()]);
    curl.extend((0..REQUESTS).flat_map(|_| ["-I", "http://127.0.0.1:8088/"]).map(str::to_owned));
    let look = move || {
        let output = Command::new(&curl[0]).args(&curl[1..]).output().expect("running nsenter");
        let text = String::from_utf8_lossy(&output.stdout);
        // Of a list that is empty it gives the upstream's name.
        let servers = text.lines().filter_map(|line| line.strip_prefix("Upstream: "));
        let addresses =
            servers.filter_map(|server| server.split(':').next()).map(|address| address.trim().to_owned());
        output.status.success().then(|| addresses.collect())
    };
    Follower { name: "nginx", child, look: Box::new(look) }
}

#[test]
fn nginx_drops_no_server_because_of_our_trouble() {
    goes_through_every_trouble(|space| vec![balancer(space)]);
}

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
