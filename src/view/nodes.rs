//! The servers that share a registry, as the zone names them.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::{Listener, View};
use crate::name::{InstanceId, Label};
use crate::time::Wall;

/// Nodes that the zone names: one ring takes no more, and their NS records fit one message.
const NAMED_MAX: usize = 64;

/// A server of those that share a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub name: Arc<str>,
    /// Where other machines reach it.
    pub addresses: Vec<IpAddr>,
    /// The port of its DNS.
    pub dns: u16,
    /// Where it takes registrations over TCP.
    pub listener: Option<Listener>,
    /// Slots of the ring that are its own, of [`crate::balance::ring::SLOTS`].
    pub slots: usize,
    /// It is this server.
    pub is_own: bool,
}

/// A server as the zone names it.
pub(crate) struct Named {
    /// Of a node; a server that is alone needs none.
    pub label: Option<Label>,
    /// Where it answers DNS.
    pub dns: Vec<IpAddr>,
    pub listener: Option<Listener>,
}

impl View {
    /// The nodes that are members now, by name; none where this server is alone.
    pub fn nodes(&self) -> Arc<Vec<Node>> {
        self.nodes.load_full()
    }

    /// Those that were members since the start, and when each was seen to be none any more; by name.
    pub fn left_nodes(&self) -> Arc<Vec<(Node, Wall)>> {
        self.left_nodes.load_full()
    }

    /// From `revision` on, which is not published yet: no difference between zones leads over that, for the nodes are in
    /// their records.
    pub fn set_nodes(&self, nodes: Vec<Node>, left: Vec<(Node, Wall)>, revision: u64) {
        self.set_settled(revision);
        self.nodes.store(Arc::new(nodes));
        self.left_nodes.store(Arc::new(left));
    }

    /// The servers that the zone names: every node, `NAMED_MAX` at most, or this one alone.
    pub(crate) fn servers(&self) -> Vec<Named> {
        let (nodes, mut labels) = (self.nodes.load(), HashSet::new());
        let named = |node: &Node| {
            let label = InstanceId::parse(&node.name).ok()?.label();
            // Of names that differ in case alone the first: one RRset does not hold a record twice.
            let label = labels.insert(label.clone()).then_some(label)?;
            let (dns, listener) = (node.addresses.clone(), node.listener.clone());
            Some(Named { label: Some(label), dns, listener })
        };
        let servers: Vec<Named> = nodes.iter().filter_map(named).take(NAMED_MAX).collect();
        if !servers.is_empty() {
            return servers;
        }
        let (dns, listener) = (self.settings.ns_addresses.clone(), self.settings.listener.clone());
        vec![Named { label: None, dns, listener }]
    }

    /// The addresses of `ns.<apex>`: those of all servers, each once.
    pub(crate) fn ns_addresses(&self) -> Vec<IpAddr> {
        let mut addresses: Vec<IpAddr> = Vec::new();
        for address in self.servers().into_iter().flat_map(|server| server.dns) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses
    }
}
