//! DNS over the network: octets to questions and answers to octets (`wire`, `edns`, `encode`; `plain` for nearly all of
//! them), who is where it
//! says it is (`cookie`) and who is answered how often (`limit`), the loops that carry them (`udp` in batches, `tcp` with TLS,
//! `quic`), names that other servers are asked for (`onward`, `forward`), what changes the zone (`update`), and the same for
//! whoever runs a hickory server (`handler`).

mod batch;
pub mod cookie;
pub mod edns;
pub mod encode;
pub mod forward;
pub mod handler;
pub mod key_file;
pub mod limit;
pub mod notify;
mod onward;
pub mod plain;
pub mod quic;
mod reader;
pub mod sign;
pub mod tcp;
mod traffic;
pub mod transfer;
pub mod tsig;
pub mod udp;
pub mod update;
pub mod wire;
