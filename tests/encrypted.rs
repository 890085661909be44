//! The real server over TLS, HTTPS and QUIC: its certificate, and crowds of connections that want nothing good.
//!
//! - `certificate`: what is shown, renewed under load without a lost query, and refused.
//! - `crowd`: thousands of connections that are idle, drip, or do not read, and those who come to ask beside them.
//!
//! What each transport carries is in `wire/encrypted.rs`, real programs are in `encrypted_clients.rs`. Counts are asserted,
//! times are printed. A long run is tests/long/crowd.sh.

mod harness;

#[path = "encrypted/certificate.rs"]
mod certificate;
#[path = "encrypted/crowd.rs"]
mod crowd;
