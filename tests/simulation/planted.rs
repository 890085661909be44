//! Bugs of the harness's own, to see that they are found.

use std::time::Duration;

use callsign::registry::{Author, FORGET_AFTER, Kept, Reason, Registry, What};
use callsign::time::Now;
use tokio::time::timeout;

use super::{Run, key_of};
use crate::expected::{Asked, Verb};
use crate::server::Server;
use crate::world::{IDS, INSTANCES_MAX, KEYS, SERVICES};

/// A bug of the harness's own, to see that it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// The store says yes, and writes a moment later.
    AcknowledgedBeforeCommit,
    /// A heartbeat that comes after the end of the lease is answered as if it had been in time.
    RenewedAfterExpiry,
    /// A view of a service is published after a newer one.
    PublishedOutOfOrder,
}

impl Run {
    pub(super) fn remember(&mut self, server: &Server) {
        for key in 0..KEYS {
            if let Some(member) = server.view.member(&key_of(key)) {
                self.cells[key] = Some(member.instance);
            }
        }
    }

    /// Takes a lease that is over for one that is not.
    pub(super) fn renew_what_is_over(
        &mut self,
        server: &Server,
        which: usize,
        key: usize,
        verb: Verb,
    ) -> bool {
        let Some(connection) = &self.clients[which].connection else { return false };
        let Some(instance) = &self.cells[key] else { return false };
        let is_next =
            connection.outbox.is_empty() && self.world.lock().expected.is_answered(connection.number);
        if self.planted != Some(Planted::RenewedAfterExpiry)
            || verb != Verb::Heartbeat
            || !is_next
            || server.view.member(&key_of(key)).is_some()
            || !instance.deadline.is_over()
        {
            return false;
        }
        let mut world = self.world.lock();
        instance.deadline.take(Duration::ZERO, Now { mono_ns: 0, ..Now::default() });
        let at_ns = world.now_ns();
        world.delivered(connection.number, Asked { key, verb, at_ns });
        let (service, id) = (SERVICES[key / IDS.len()], IDS[key % IDS.len()]);
        let line = format!(r#"{{"renewed":{{"service":"{service}","id":"{id}","lease":"2s"}}}}"#);
        world.heard(connection.number, line.as_bytes());
        true
    }

    /// Publishes a service as it once was.
    pub(super) async fn misbehave(&mut self, server: &Server) {
        if self.planted != Some(Planted::PublishedOutOfOrder) || self.draws.below(8) > 0 {
            return;
        }
        let Some(mut older) = self.older.take() else {
            let Ok(Ok(whole)) = timeout(Duration::from_millis(100), server.handle.whole()).await else {
                return;
            };
            let mut registry = Registry::new(INSTANCES_MAX, FORGET_AFTER);
            let instances = whole.instances;
            registry.restore(Kept { instances, revision: whole.revision, ..Kept::default() }, Now::default());
            self.older = Some(registry);
            return;
        };
        older.advance(server.view.revision());
        let key = key_of(self.draws.below(KEYS));
        let Some(before) = older.instance(&key).cloned() else { return };
        let what = What::Instance { before: Some(before.clone()), after: Some(before) };
        let revision = older.revision();
        let change = Registry::change(revision, Reason::Reported, what, Author::Server, Now::default());
        self.world.lock().trace(format!("{key} is published as it was"));
        server.view.publish(&older, &[change]);
    }
}
