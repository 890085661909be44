//! DNS over the network: octets to questions and answers to octets (`wire`, `edns`, `encode`), who is where it
//! says it is (`cookie`), the loops that carry them (`udp`, `tcp`), and the same for whoever runs a hickory
//! server (`handler`).

pub mod cookie;
pub mod edns;
pub mod encode;
pub mod handler;
pub mod tcp;
pub mod udp;
pub mod wire;
