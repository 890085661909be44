//! What both files of tests on an etcd run, each with an etcd of its own (`crate::program`).

pub mod access;
pub mod etcd;
pub mod guards;
pub mod identities;
pub mod several;
pub mod trouble;
