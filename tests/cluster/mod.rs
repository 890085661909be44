//! What both files of tests on an etcd run, each with an etcd of its own (`crate::program`).

pub mod access;
pub mod etcd;
pub mod failover;
#[path = "../moving/full.rs"]
pub mod full;
pub mod guards;
pub mod identities;
#[path = "../update/message.rs"]
#[allow(dead_code, reason = "here all goes over TCP, with one key")]
pub mod message;
pub mod moving;
pub mod names;
pub mod nodes;
pub mod probes;
pub mod relay;
#[path = "../transfers/secondary.rs"]
pub mod secondary;
pub mod several;
pub mod stale;
pub mod trouble;
pub mod updates;
