//! Three nodes and three members of etcd, each on a machine of its own, while everything goes wrong that can: processes
//! are killed and stopped, links cut, one way too, packets lost and delayed, a disk filled, a clock stepped. Clients
//! register, are heard of, leave and fall silent at whichever node they reach, and ask every node's DNS all the time.
//! What they were told has to have been true (`history`).
//!
//! - `machines`: the namespaces and the network between them, `network.py`.
//! - `schedule`: what goes wrong and when, from a seed.
//! - `clients`: those who register and ask, and the journal.
//! - `history`: the rules, as a function of the journal; `planted`: each rule broken on purpose.
//! - `round`: one of it all.
//!
//! What is not shown: clients are never cut off from a node that runs (they are beside the network, not on it), the clock
//! of etcd is never stepped (its wall clock cannot be shown another time from outside), and lost power is no fault
//! here: what was written before a kill is there.
//!
//! A long run is tests/long/cluster.sh. The etcd is Debian's 3.4, or where `CALLSIGN_PEERS` names a folder that has one,
//! that. The kernel has to give us TUN devices.
//!
//! Needs: etcd-server, iproute2, util-linux, mount, python3, faketime

mod harness;

#[path = "faults/clients.rs"]
mod clients;
#[path = "faults/history.rs"]
mod history;
#[path = "faults/machines.rs"]
mod machines;
#[path = "faults/planted.rs"]
mod planted;
#[path = "faults/round.rs"]
mod round;
#[path = "faults/schedule.rs"]
mod schedule;

use std::path::PathBuf;

fn etcd() -> PathBuf {
    let built = std::env::var_os("CALLSIGN_PEERS").map(|folder| PathBuf::from(folder).join("etcd"));
    built.filter(|path| path.is_file()).unwrap_or_else(|| harness::program::needs("etcd", "etcd-server"))
}

/// The rounds of a run, which go on beside each other: these seeds, or `CALLSIGN_SEED` and those behind it. A seed makes
/// the troubles the same again, at whom and when; what the machine makes of them it does not.
fn round(number: u64) {
    let first =
        std::env::var("CALLSIGN_SEED").map_or(1, |text| text.parse().expect("CALLSIGN_SEED is a number"));
    let seed = first + number;
    assert_eq!(round::run(seed, &etcd()), 0, "rules broken with seed {seed}");
}

#[test]
fn what_clients_were_told_was_true() {
    round(0);
}

#[test]
fn what_clients_were_told_was_true_again() {
    round(1);
}

#[test]
fn what_clients_were_told_was_true_every_time() {
    round(2);
}
