//! What time does: leases and guards that end, closed connections, and what is forgotten.

use std::collections::VecDeque;
use std::time::Duration;

use super::admit::STEPS_MAX;
use super::under_way::{Asked, Pending};
use super::{Closed, Node};
use crate::access::Identity;
use crate::instance::Key;
use crate::registry::{Author, Change, Command, Reason, What};
use crate::store::etcd::messages::Operation;
use crate::store::etcd::place::{Place, PlainPlace};
use crate::store::etcd::{Job, TRANSACTIONS_MAX};
use crate::time::{Now, Wall, nanoseconds};
use crate::writer::fold::{OVERDUE_AFTER, unnumbered};
use crate::writer::{Event, TICK};

/// Transactions under way up to which closed connections are said: what commands and time ask for has the rest.
const FACTS_AT_ONCE: usize = TRANSACTIONS_MAX / 4;
/// How far the clocks of two nodes may be apart for a guard: what died by the other's clock a moment from now is looked
/// at again when ours is there.
const CLOCKS_APART_MAX: Duration = Duration::from_secs(10);
/// How often we look for what whoever should have has not forgotten, and say again what etcd did not take.
const SWEEP_EVERY: Duration = Duration::from_secs(30);
/// When we look again for what to forget, where there was more than is forgotten at once.
const FORGET_AGAIN: Duration = TICK;
/// Things that are forgotten in one transaction, as far as the conditions on the ring leave room: one each would never keep up
/// with UPDATEs that set and delete.
const FORGOTTEN_AT_ONCE: usize = 100;
/// Such transactions of one look: what commands and time ask for has the rest.
const FORGETTING_MAX: usize = 10;
/// How long it is kept that a message of UPDATE was carried out, in seconds: its signature is believed for 300 s, and the
/// clocks of two nodes may differ by as many.
const CARRIED_OUT_KEPT_S: u64 = 600;

/// What is known of a service whose guard may begin or end.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Unsettled {
    /// Something became worse.
    pub(super) worse: bool,
    /// When the last of it happened, by the clock of the node that says so.
    pub(super) at: Wall,
    /// Not looked at before this time, in nanoseconds of the monotonic clock.
    pub(super) after_ns: u64,
}

impl Node {
    /// Looks at the time: what is tried again, what is given up, and what is due.
    pub(super) fn look(&mut self) {
        self.note_absence();
        let now = self.front.look(&self.fold.registry);
        self.looked_at = self.fold.registry.revision();
        self.run_again(now);
        self.answer_raises(now);
        let ready: Vec<(u64, Pending)> =
            self.again.extract_if(.., |(at_ns, _)| *at_ns <= now.mono_ns).collect();
        for (_, pending) in ready {
            let waiting: Vec<(Place, VecDeque<Event>)> = pending
                .places
                .iter()
                .filter_map(|place| Some((place.clone(), self.busy.remove(place)?)))
                .collect();
            self.admit(pending.asked, pending.tries);
            // Who waited behind it waits on, or goes on where it was answered.
            for (place, events) in waiting {
                match self.busy.get_mut(&place) {
                    Some(queue) => queue.extend(events),
                    None => events.into_iter().for_each(|event| {
                        self.waiting -= 1;
                        self.take(event);
                    }),
                }
            }
        }
        self.expire_pending(now);
        if !self.is_running() {
            return;
        }
        let room = TRANSACTIONS_MAX / 2;
        let room = room.saturating_sub(self.pending.len());
        self.settle_guards(room / 2, now);
        for (reason, what) in self.fold.registry.due(now, room / 2) {
            self.due(reason, what, now);
        }
        self.say_facts();
        if now.mono_ns >= self.sweep_ns {
            self.sweep_ns = now.mono_ns + nanoseconds(SWEEP_EVERY);
            self.facts.append(&mut self.kept);
            self.forget_messages(now);
        }
        if now.mono_ns >= self.forget_ns {
            let forgotten = nanoseconds(self.fold.registry.forget_after() + OVERDUE_AFTER) / 1_000_000;
            let before = Wall { unix_ms: now.wall.unix_ms.saturating_sub_unsigned(forgotten) };
            let mut overdue = self.fold.overdue(before);
            overdue.retain(|place| !self.busy.contains_key(place));
            let most = FORGETTING_MAX.min(room / 2);
            for _ in 0..most {
                if !overdue.is_empty() {
                    self.forget(&mut overdue);
                }
            }
            let next = if overdue.is_empty() { SWEEP_EVERY } else { FORGET_AGAIN };
            self.forget_ns = now.mono_ns + nanoseconds(next);
        }
    }

    /// Says what closed connections mean, as far as there is room: one after the other, for one transaction holds some
    /// hundred things at most, and one that is another way now must not keep the rest.
    fn say_facts(&mut self) {
        while self.pending.len() < FACTS_AT_ONCE
            && let Some(Closed { connection, key, asked }) = self.facts.pop_front()
        {
            let command = Command::Closed { connection, keys: vec![key] };
            self.admit(Asked::Command { command, by: Identity::server(), done: None, asked }, 0);
        }
    }

    pub(super) fn keep_closed(&mut self, connection: u64, keys: Vec<Key>, asked: Now) {
        self.kept.extend(keys.into_iter().map(|key| Closed { connection, key, asked }));
    }

    /// Puts down whose guards may begin or end by changes that the registry holds.
    pub(super) fn unsettle(&mut self, changes: &[Change]) {
        let at = changes.iter().map(|change| change.at).max().unwrap_or_default();
        for (service, worse) in self.fold.registry.unsettled(changes) {
            if self.fold.registry.may_be_guarded(&service) {
                let unsettled = self.unsettled.entry(service).or_default();
                *unsettled =
                    Unsettled { worse: worse || unsettled.worse, at: unsettled.at.max(at), after_ns: 0 };
            }
        }
    }

    /// The same of all: somebody else may have been the one to say it.
    pub(super) fn unsettle_all(&mut self, now: Now) {
        let registry = &self.fold.registry;
        let set =
            registry.all_settings().map(|(service, _)| service).filter(|name| registry.may_be_guarded(name));
        let services = set.chain(registry.guards().map(|(service, _)| service));
        let all = services.map(|name| (name.clone(), Unsettled { worse: true, at: now.wall, after_ns: 0 }));
        self.unsettled.extend(all);
    }

    /// Has guards begin and end, `most` at once. One node says so, which watches over the service's guard; all hear of it.
    fn settle_guards(&mut self, most: usize, now: Now) {
        let mut asked = 0;
        for (service, unsettled) in std::mem::take(&mut self.unsettled) {
            let place = Place::Guard(service.clone());
            if !self.fold.watches(&place) {
                continue;
            }
            let waits = self.busy.contains_key(&place) || asked == most || unsettled.after_ns > now.mono_ns;
            let found = match waits {
                true => None,
                false => self.fold.registry.settle_service(&service, unsettled.worse, now),
            };
            let ahead = now.wall < unsettled.at && unsettled.at <= now.wall.after(CLOCKS_APART_MAX);
            match found {
                Some((reason, what)) => {
                    asked += 1;
                    self.due(reason, what, now);
                }
                None if waits || ahead => drop(self.unsettled.insert(service, unsettled)),
                None => {}
            }
        }
    }

    /// A deadline has passed here: etcd is asked to have it so, if this node is still the one to say it.
    fn due(&mut self, reason: Reason, what: What, now: Now) {
        let place = match &what {
            What::Instance { before: Some(before), .. } => Place::Instance(before.key.clone()),
            What::Host { before: Some(before), .. } => Place::Host(before.name.clone()),
            What::Forgotten { key } => Place::Instance(key.clone()),
            What::Guard { service, .. } => Place::Guard(service.clone()),
            What::Plain { before: Some(before), .. } => Place::Plain(PlainPlace::of(before)),
            _ => return,
        };
        if !self.fold.watches(&place) {
            return;
        }
        if self.busy.contains_key(&place) {
            self.fold.settle(&place, now); // somebody speaks of it at this moment
            return;
        }
        let mut conditions = self.fold.while_same_ring();
        conditions.extend(self.fold.while_member());
        self.transact(Asked::Due, vec![(reason, unnumbered(what))], conditions, false, Author::Server, 0);
    }

    /// Deletes of what is only remembered as much as one transaction holds: instances, hosts, settings, guards, tokens and
    /// plain records that are no more.
    fn forget(&mut self, overdue: &mut Vec<Place>) {
        let mut conditions = self.fold.while_same_ring();
        conditions.extend(self.fold.while_member());
        let room = STEPS_MAX.saturating_sub(conditions.len()).clamp(1, FORGOTTEN_AT_ONCE);
        let places = overdue.split_off(overdue.len().saturating_sub(room));
        let mut operations = Vec::with_capacity(places.len());
        for place in &places {
            conditions.extend(self.fold.while_same(place, true));
            operations.push(Operation::Delete { key: self.fold.key_of(place) });
            self.busy.entry(place.clone()).or_default();
        }
        let (untold, deletes) = (places.len(), places.clone());
        let pending = Pending { untold, deletes, ..Pending::of(Asked::Due, places) };
        let number = self.next_number();
        self.begin(number, pending, conditions, operations);
    }

    /// Deletes what tells that messages were carried out whose signatures nobody believes any more.
    fn forget_messages(&mut self, now: Now) {
        let before_s = now.wall.unix_s().saturating_sub(CARRIED_OUT_KEPT_S);
        let Some((from, to)) = self.fold.carried_out_before(before_s) else { return };
        if self.fold.carried_out().1.is_none_or(|oldest_s| oldest_s >= before_s) {
            return;
        }
        let number = self.next_number();
        let operations = vec![Operation::DeleteAll { from, to }];
        self.ask(Job::Transact { conditions: self.fold.while_same_ring(), operations, number });
    }
}
