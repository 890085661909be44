//! The servers' own names: where DNS is answered, and where registrations are taken.
//!
//! A server that is alone is `ns.<apex>` and, where it listens on TCP, `callsign.<apex>`. Of several nodes each has a name
//! of its own below these two (`a.ns`, `a.callsign`), which stand for all of them. What is asked and what a transfer
//! holds are taken from one list, so they cannot differ; its order is that of the nodes' names, the same at every node.

use std::net::IpAddr;

use super::{Live, address_data, addresses};
use crate::answer::{Found, Selection};
use crate::grammar::Owner;
use crate::name::{Apex, Name};
use crate::record::{Data, Record, Type};
use crate::view::{APEX_TTL, View};

/// Weight of every server in the SRV records: they are alike.
const WEIGHT: u16 = 1;

/// Every record of these names below an apex.
pub(crate) fn records(view: &View, apex: &Apex) -> Vec<Record> {
    let (servers, ttl) = (view.servers(), view.settings.ttl);
    let mut records = Vec::new();
    for server in &servers {
        let target = |kind: &str| match &server.label {
            Some(label) => apex.owner(&[label.as_str(), kind]),
            None => apex.owner(&[kind]),
        };
        if server.label.is_none() || !server.dns.is_empty() {
            let name = target("ns");
            put_addresses(&mut records, &name, APEX_TTL, &server.dns);
            records.push(Record { owner: apex.name().clone(), ttl: APEX_TTL, data: Data::Ns(name) });
        }
        if let Some(listener) = &server.listener {
            let target = target("callsign");
            put_addresses(&mut records, &target, ttl, &listener.addresses);
            let data = Data::Srv { priority: 0, weight: WEIGHT, port: listener.port, target };
            records.push(Record { owner: apex.owner(&["_callsign", "_tcp"]), ttl, data });
        }
    }
    if servers.iter().all(|server| server.label.is_some()) {
        put_addresses(&mut records, &apex.owner(&["ns"]), APEX_TTL, &view.ns_addresses());
        let listeners = servers.iter().filter_map(|server| server.listener.as_ref());
        let listening: Vec<IpAddr> = listeners.flat_map(|listener| listener.addresses.clone()).collect();
        put_addresses(&mut records, &apex.owner(&["callsign"]), ttl, &listening);
    }
    if !records.iter().any(|record| record.data.rtype() == Type::NS) {
        // Nobody knows an address: a zone has a name server nonetheless.
        let data = Data::Ns(apex.owner(&["ns"]));
        records.push(Record { owner: apex.name().clone(), ttl: APEX_TTL, data });
    }
    records
}

/// An RRset is a set: each address once.
fn put_addresses(records: &mut Vec<Record>, owner: &Name, ttl: u32, addresses: &[IpAddr]) {
    let from = records.len();
    for data in addresses.iter().map(|address| address_data(*address)) {
        if !records[from..].iter().any(|record| record.data == data) {
            records.push(Record { owner: owner.clone(), ttl, data });
        }
    }
    records[from..].sort_by_key(|record| record.data.rtype()); // each RRset in one run
}

/// The addresses at one of these names.
pub(super) fn addresses_at(view: &View, apex: &Apex, name: &Name) -> Vec<Record> {
    let mut found = records(view, apex);
    found.retain(|record| record.owner == *name && matches!(record.data.rtype(), Type::A | Type::AAAA));
    found
}

/// True where somebody takes registrations over TCP.
pub(super) fn is_listened(view: &View) -> bool {
    view.servers().iter().any(|server| server.listener.is_some())
}

impl Live<'_> {
    /// What there is at such a name; of [`Owner::Apex`] the NS records, whichever zone's apex it is that they are asked at.
    pub(super) fn own(&self, owner: Owner<'_>) -> Found {
        let mut records = records(self.view, self.apex);
        records.retain(|record| owner == Owner::Apex || record.owner == *self.qname);
        let is_there = matches!(owner, Owner::Apex | Owner::NameServer(None) | Owner::Registrations);
        if records.is_empty() && !is_there {
            return Found::NoName(self.ede(|| "no such node".to_owned()));
        }
        records.retain(|record| record.data.rtype() == self.qtype);
        if records.is_empty() {
            let listens = owner != Owner::Registrations || is_listened(self.view);
            return Found::NoData(match listens {
                true => None,
                false => self.ede(|| "no server takes registrations over TCP".to_owned()),
            });
        }
        let targets = records.iter().filter_map(|record| record.data.target());
        let additional = targets.flat_map(|target| addresses(self.view, self.apex, target)).collect();
        for record in &mut records {
            record.owner = self.qname.clone(); // as it was spelt
        }
        Found::Records(Selection { records, additional, ..Selection::default() })
    }
}
