//! callsign is a DNS server that knows which services are running.
//!
//! Processes register over a small socket; every other program resolves a name. This page is the map.
//!
//! **The core** is pure: no clock, no I/O, no task. Read [`instance`], [`registry`], [`view`] and
//! [`answer`], in this order, and you have understood the product. The [`registry`] is a fold over
//! changes; what queries see is a [`view`] of it, one immutable part per service; an [`answer`] is a
//! function of a view and what was asked. Around them: [`name`] and [`record`] (what is said in DNS),
//! [`grammar`] (owner name to what is asked of which service, in our words and in Consul's), `live` (what each answers), [`balance`] (order and choice),
//! [`lease`] (deadlines), [`zone`] and [`zone_file`] (static zones), [`special`] (names of special use), [`protocol`] (the registration
//! protocol), [`explain`] (why a name is not in DNS), [`availability`] (how much of the time what was live), [`xds`] (what Envoy and gRPC are told, in [`protobuf`]), [`access`] (who may say what), [`time`].
//!
//! **The state**: [`writer`] is the one task that changes the registry; [`store`] keeps the changes, [`journal`] tells them on,
//! [`desk`] answers what changes nothing.
//!
//! **The edges** carry octets: [`dns`], [`socket`] and [`http`]; [`health`] probes. They never import each other.
//!
//! **The wiring**: [`serve`] starts and stops it all, from a [`config`] and sockets that [`bind`] bound;
//! [`client`] is the other side of the socket, and `cli` the command line. Beneath everything but the core
//! lie [`clock`], [`connections`], [`counters`], [`traffic`], [`message`], `grpc` (calls to others) and `owner` (whose a file is that root makes).

pub mod access;
pub mod answer;
pub mod availability;
pub mod balance;
pub mod bind;
pub mod check;
pub mod client;
pub mod clock;
pub mod config;
pub mod connections;
pub mod counters;
mod definitions;
pub mod desk;
pub mod dns;
pub mod explain;
pub mod grammar;
mod grpc;
pub mod health;
pub mod http;
pub mod instance;
pub mod journal;
pub mod key_folder;
pub mod lease;
mod live;
pub mod member;
pub mod message;
pub mod name;
mod owner;
pub mod protobuf;
pub mod protocol;
pub mod record;
pub mod registry;
pub mod serve;
pub mod service_file;
pub mod sign;
pub mod socket;
mod sorted;
pub mod special;
pub mod store;
pub mod time;
pub mod traffic;
pub mod update;
pub mod view;
pub mod writer;
pub mod xds;
pub mod zone;
pub mod zone_file;
pub mod zone_folder;
