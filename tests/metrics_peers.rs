//! A new Prometheus reads our metrics as Debian's does in tests/metrics.rs.
//!
//! Needs: peer:prometheus

#[path = "harness/mod.rs"]
mod harness;
#[path = "metrics/scrape.rs"]
mod scrape;

#[test]
fn a_new_prometheus_scrapes_the_server() {
    let peers = std::env::var_os("CALLSIGN_PEERS").expect("CALLSIGN_PEERS: ./check --peers sets it");
    scrape::by(&std::path::Path::new(&peers).join("prometheus"));
}
