//! Consul itself, and what follows a Consul catalogue, against our HTTP API.
//!
//! - `diff`: one table of requests to a Consul server and to us; the replies are compared field by field.
//! - `command`: the `consul` command, pointed at us.
//! - `traefik`: routes follow what is registered.
//! - `prometheus`: so do targets.
//! - `import`: what it has is taken over by us, and followed.
//! - `coredns`: forwards Consul's names.
//!
//! Needs: peer:consul, peer:traefik, peer:prometheus, peer:coredns

mod harness;

#[path = "consul_peers/agent.rs"]
mod agent;
#[path = "consul_peers/command.rs"]
mod command;
#[path = "consul_peers/coredns.rs"]
mod coredns;
#[path = "consul_peers/diff.rs"]
mod diff;
#[path = "consul_peers/import.rs"]
mod import;
#[path = "consul_peers/prometheus.rs"]
mod prometheus;
#[path = "consul_peers/table.rs"]
mod table;
#[path = "consul_peers/traefik.rs"]
mod traefik;
