//! What etcd tells, as changes of the registry; and what only nodes need to know: who watches over what, who is a member, and
//! who takes over what a member left. No I/O and no clock.
//!
//! A lease runs on one node. Its owner is the node that took the last registration or heartbeat; while the owner is no member,
//! it is the node that the ring names. Everywhere else the lease stands still.

mod conditions;
mod told;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::balance::circle::Circle;
use crate::check::{Check, Kind};
use crate::instance::{Health, Host, Instance, Lease};
use crate::lease::LeaseCell;
use crate::registry::{Change, Kept, Registry, What};
use crate::store::etcd::SAYS_RENEWED;
use crate::store::etcd::follow::Told;
use crate::store::etcd::place::{self, Place, PlainPlace};
use crate::store::record::{self, MemberForm, Near};
use crate::time::{Now, Wall};
use crate::update::MessageId;
use crate::view::{Listener, Node};

/// Nodes of one ring: a transaction that holds only if the ring is unchanged names each, and etcd takes 128 conditions.
pub const NODES_MAX: usize = 64;

/// Names and services that are guarded one by one in a transaction; of more, all are. etcd takes 128 conditions, and most
/// messages speak of a few names.
const GUARDED_MAX: usize = 16;

/// Nodes that left and are still shown: as many as a ring has, so that names made anew at each start do not add up.
const LEFT_MAX: usize = NODES_MAX;

/// The registry, and what nodes know of it.
#[derive(Debug)]
pub struct Fold {
    pub registry: Registry,
    /// This node's name.
    pub name: Arc<str>,
    prefix: String,
    /// What tells this run of the node from others of its name.
    run: u64,
    held: HashMap<Place, Held>,
    members: BTreeMap<Arc<str>, Member>,
    /// Those that are members no more, and since when.
    left: BTreeMap<Arc<str>, (Member, Wall)>,
    circle: Arc<Circle>,
    /// Messages of UPDATE that some node carried out.
    carried_out: BTreeSet<MessageId>,
    /// The version and the base of the serial, once they are told.
    pub format: Option<record::ClusterFormat>,
}

/// Who watches over a thing of the registry, and the revision that wrote it.
#[derive(Clone, Debug)]
struct Held {
    owner: Arc<str>,
    modified: u64,
    /// When it left, where it is only remembered.
    gone: Option<Wall>,
    /// How its deadlines were last told to run here.
    settled: Option<Runs>,
}

/// How the deadlines of a thing run on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Runs {
    /// Another node watches over it.
    Elsewhere,
    /// In the place of a node that left.
    Inherited,
    /// This node took the last word of the holder.
    Own,
}

/// A node that is a member.
#[derive(Clone, Debug)]
pub struct Member {
    pub form: MemberForm,
    /// The revision that it is a member since.
    pub created: u64,
}

/// What one thing that etcd told comes to.
#[derive(Debug, Default)]
pub struct Folded {
    /// What is another way in the registry, which has it already.
    pub change: Option<Change>,
    /// Which transaction did it, of whatever node.
    pub number: Option<u64>,
}

impl Fold {
    pub fn new(registry: Registry, name: &str, prefix: &str, run: u64) -> Self {
        let name: Arc<str> = name.into();
        Self {
            registry,
            circle: Circle::new(&name, std::iter::empty()).into(),
            name,
            prefix: prefix.to_owned(),
            run,
            held: HashMap::new(),
            members: BTreeMap::new(),
            left: BTreeMap::new(),
            carried_out: BTreeSet::new(),
            format: None,
        }
    }

    pub fn members(&self) -> &BTreeMap<Arc<str>, Member> {
        &self.members
    }

    /// The members as they are shown.
    pub fn nodes(&self) -> Vec<Node> {
        let slots = self.circle.slots();
        let slots_of = |name: &Arc<str>| slots.get(name).copied().unwrap_or_default();
        self.members.iter().map(|(name, member)| self.shown(name, member, slots_of(name))).collect()
    }

    /// The same of those that are members no more, and since when.
    pub fn left_nodes(&self) -> Vec<(Node, Wall)> {
        self.left.iter().map(|(name, (member, at))| (self.shown(name, member, 0), *at)).collect()
    }

    fn shown(&self, name: &Arc<str>, member: &Member, slots: usize) -> Node {
        Node {
            name: name.clone(),
            addresses: member.form.addresses.clone(),
            dns: member.form.dns,
            listener: listener(&member.form),
            slots,
            is_own: *name == self.name,
        }
    }

    /// What belongs to which of them.
    pub fn circle(&self) -> &Arc<Circle> {
        &self.circle
    }

    /// The revision since which this run is a member; `None` where it is none.
    pub fn member_since(&self) -> Option<u64> {
        self.members.get(&self.name).filter(|member| member.form.run == self.run).map(|member| member.created)
    }

    /// True where the deadlines of what lies there run on this node.
    pub fn watches(&self, place: &Place) -> bool {
        self.runs(place, self.held.get(place)) != Runs::Elsewhere
    }

    /// True where this node took the last word of the holder. Where it only watches over it in the place of a node that left, that
    /// one may be back, and nobody here have heard of it.
    pub fn owns(&self, place: &Place) -> bool {
        self.runs(place, self.held.get(place)) == Runs::Own
    }

    fn runs(&self, place: &Place, held: Option<&Held>) -> Runs {
        match held.map(|held| &held.owner).filter(|owner| self.members.contains_key(*owner)) {
            Some(owner) if *owner == self.name => Runs::Own,
            Some(_) => Runs::Elsewhere,
            None if self.is_heir(place) => Runs::Inherited,
            None => Runs::Elsewhere,
        }
    }

    /// True where another node took the last word of the holder, be it a member or not.
    pub fn is_anothers(&self, place: &Place) -> bool {
        self.held.get(place).is_some_and(|held| held.owner != self.name)
    }

    /// True where it was written, or left, after this revision.
    pub fn is_written_since(&self, place: &Place, revision: u64) -> bool {
        self.held.get(place).is_some_and(|held| held.modified > revision)
    }

    /// True where they run on another node, which took the last word of the holder.
    pub fn is_watched_elsewhere(&self, place: &Place) -> bool {
        let owner = self.held.get(place).map(|held| &held.owner);
        owner.is_some_and(|owner| *owner != self.name && self.members.contains_key(owner))
    }

    /// The same of an instance that lives as long as a connection to that node: no word heard elsewhere says more.
    pub fn is_bound_elsewhere(&self, place: &Place) -> bool {
        let Place::Instance(key) = place else { return false };
        let instance = self.registry.instance(key);
        self.is_watched_elsewhere(place)
            && instance.is_some_and(|instance| matches!(instance.lease, Lease::Connection(_)))
    }

    /// Another node took a report of what lies there and left it to this one, where it is its own: its TTLs begin anew. Of
    /// which check the report was, no note says.
    pub fn hear_elsewhere(&self, told: &Told, now: Now) {
        let Some(place) = Place::of(&told.key) else { return };
        let Place::Instance(key) = &place else { return };
        let is_ours = self.held.get(&place).is_some_and(|held| held.owner == self.name);
        let Some(instance) = self.registry.instance(key).filter(|_| is_ours) else { return };
        let runs = |check: &&Check| {
            check.status != Health::Critical && matches!(check.definition.kind, Kind::Ttl(_))
        };
        for cell in instance.checks.iter().filter(runs).filter_map(|check| check.deadline.as_ref()) {
            let _ = cell.renew(now); // where it is over, its end is on the way
        }
    }

    /// True where this node is the one that the ring names.
    pub fn is_heir(&self, place: &Place) -> bool {
        match place {
            Place::Instance(key) => self.circle.is_ours(&key.to_string()),
            Place::Host(host) => self.circle.is_ours(host.as_str()),
            Place::Settings(service) | Place::Guard(service) => self.circle.is_ours(service.as_str()),
            Place::Token(name) => self.circle.is_ours(name),
            Place::Plain(at) => self.circle.is_ours(&at.owner.to_string()),
            Place::Node(_) | Place::CarriedOut(_) | Place::Format => false,
        }
    }

    /// The node that watches over what lies there, for those who write it without taking it over.
    pub fn owner(&self, place: &Place) -> Arc<str> {
        self.held.get(place).map_or(&self.name, |held| &held.owner).clone()
    }

    fn key(&self, place: &str) -> Vec<u8> {
        format!("{}{place}", self.prefix).into_bytes()
    }

    /// Where a thing lies in etcd.
    pub fn key_of(&self, place: &Place) -> Vec<u8> {
        self.key(&place.key())
    }

    /// True where some node carried it out.
    pub fn is_carried_out(&self, message: &MessageId) -> bool {
        self.carried_out.contains(message)
    }

    /// How many such messages are remembered, and when the oldest was signed, in Unix seconds.
    pub fn carried_out(&self) -> (usize, Option<u64>) {
        (self.carried_out.len(), self.carried_out.first().map(|(time, _)| *time))
    }

    /// The keys of those that were signed before this second; `None` where another node is to delete them.
    pub fn carried_out_before(&self, time_s: u64) -> Option<(Vec<u8>, Vec<u8>)> {
        let first = place::carried_out(None);
        self.circle.is_ours(&first).then(|| (self.key(&first), self.key(&place::carried_out(Some(time_s)))))
    }

    /// Things that left so long ago that whoever should have forgotten them has not, or nobody does, and that are ours to
    /// forget. What a guard holds is not among them.
    pub fn overdue(&self, before: Wall) -> Vec<Place> {
        let overdue = |held: &Held| held.gone.is_some_and(|gone| gone < before);
        let is_held = |place: &Place| matches!(place, Place::Instance(key) if self.registry.is_held(key));
        let places =
            self.held.iter().filter(|(place, held)| overdue(held) && self.is_heir(place) && !is_held(place));
        places.map(|(place, _)| place.clone()).collect()
    }

    /// Makes so what etcd told. `staged` finds what this node itself has written, which knows more than etcd: the
    /// connection that an instance is bound to.
    pub fn fold(
        &mut self,
        told: &Told,
        staged: &mut dyn FnMut(u64, &Place) -> Option<Arc<Instance>>,
        now: Now,
    ) -> Folded {
        let Some(place) = Place::of(&told.key) else { return Folded::default() };
        if let Place::CarriedOut(message) = place {
            match told.pair {
                Some(_) => self.carried_out.insert(message),
                None => self.carried_out.remove(&message),
            };
            self.registry.advance(told.revision);
            return Folded::default();
        }
        let is_there = self.held.get(&place).is_some_and(|held| held.gone.is_none());
        let was_elsewhere = is_there && self.is_watched_elsewhere(&place);
        let folded = match self.read(&place, told, staged, now) {
            Ok(folded) => folded,
            Err(error) => {
                let key = String::from_utf8_lossy(&told.key);
                tracing::error!(%key, %error, "a key of etcd's cannot be read, and is left as it was");
                // Of one that was never read, its revision is known: it is nobody's, and can be written anew.
                if let Some(pair) = &told.pair {
                    let unread =
                        || Held { owner: "".into(), modified: pair.modified, gone: None, settled: None };
                    self.held.entry(place.clone()).or_insert_with(unread);
                }
                Folded::default()
            }
        };
        if let Some(change) = &folded.change {
            self.registry.apply(change, now);
        }
        self.registry.advance(told.revision);
        // A node that lives may say so long that the lease is renewed there before it hears that it is ours.
        self.settle_with(&place, if was_elsewhere { SAYS_RENEWED } else { Duration::ZERO }, now);
        folded
    }

    fn place_members(&mut self) {
        // Who is one too many is a member, and takes over nothing.
        let placed = self.members.keys().take(NODES_MAX).cloned();
        self.circle = Circle::new(&self.name, placed).into();
    }

    /// Lets deadlines run here, or not: after the members changed, and when this node begins to watch. Most things stay where they
    /// were, and there may be a million.
    pub fn settle_all(&mut self, now: Now) {
        let others = self.held.iter().filter(|(place, held)| {
            held.gone.is_none() && held.settled != Some(self.runs(place, Some(held)))
        });
        let places: Vec<Place> = others.map(|(place, _)| place.clone()).collect();
        for place in places {
            self.settle(&place, now);
        }
    }

    /// The same for one thing. What begins to run here has one whole lease.
    pub fn settle(&mut self, place: &Place, now: Now) {
        self.settle_with(place, Duration::ZERO, now);
    }

    /// The same, and `more` than a lease where it becomes ours.
    fn settle_with(&mut self, place: &Place, more: Duration, now: Now) {
        let runs = self.runs(place, self.held.get(place));
        if let Some(held) = self.held.get_mut(place) {
            held.settled = Some(runs);
        }
        if let Place::Plain(PlainPlace { owner, rtype, .. }) = place {
            let more = (runs != Runs::Elsewhere).then_some(more);
            return self.registry.settle_plain(owner, *rtype, more, now);
        }
        for cell in self.cells(place) {
            let begins = match runs {
                Runs::Elsewhere => {
                    cell.leave();
                    false
                }
                Runs::Own => cell.take(more, now),
                Runs::Inherited => cell.inherit(now),
            };
            if begins {
                self.registry.watch_over(&cell);
            }
        }
    }

    fn cells(&self, place: &Place) -> Vec<Arc<LeaseCell>> {
        let of = |checks: &[Check]| -> Vec<Arc<LeaseCell>> {
            checks.iter().filter_map(|check| check.deadline.clone()).collect()
        };
        match place {
            Place::Instance(key) => self.registry.instance(key).map(|instance| {
                let mut cells = of(&instance.checks);
                cells.push(instance.deadline.clone());
                cells
            }),
            Place::Host(name) => self.registry.host(name).map(|host| of(&host.checks)),
            Place::Settings(_)
            | Place::Guard(_)
            | Place::Token(_)
            | Place::Node(_)
            | Place::Plain(_)
            | Place::CarriedOut(_)
            | Place::Format => None,
        }
        .unwrap_or_default()
    }

    /// What is remembered of those that left before this node came: oldest first.
    pub fn remember(&mut self, told: &[Told], now: Now) {
        let mut gone = Vec::new();
        for told in told {
            let Some(pair) = &told.pair else { continue };
            let Some(Place::Instance(_)) = Place::of(&told.key) else { continue };
            let Ok((note, octets)) = record::read_noted(&pair.value) else { continue };
            if note.there {
                continue;
            }
            if let Ok(instance) = record::read_instance(octets, now, &mut Near::default()) {
                gone.push((instance, note.reason, note.at, pair.modified));
            }
        }
        gone.sort_by_key(|(.., revision)| *revision);
        let revision = self.registry.revision();
        self.registry.restore(Kept { revision, gone, ..Kept::default() }, now);
    }
}

fn listener(form: &MemberForm) -> Option<Listener> {
    let (addresses, port) = (form.listen_addresses.clone(), form.listen);
    (port > 0 && !addresses.is_empty()).then_some(Listener { addresses, port })
}

/// How long after its time a thing that left is forgotten by whoever finds it.
pub const OVERDUE_AFTER: Duration = Duration::from_secs(60);

/// Where a thing lies that a change writes.
pub fn lies_at(what: &What) -> Option<Place> {
    Some(match what {
        What::Instance { before, after } => Place::Instance(after.as_ref().or(before.as_ref())?.key.clone()),
        What::Host { before, after } => Place::Host(after.as_ref().or(before.as_ref())?.name.clone()),
        What::Settings { service, .. } => Place::Settings(service.clone()),
        What::Guard { service, .. } => Place::Guard(service.clone()),
        What::Token { before, after } => Place::Token(after.as_ref().or(before.as_ref())?.name.clone()),
        What::Plain { before, after } => Place::Plain(PlainPlace::of(after.as_ref().or(before.as_ref())?)),
        What::Forgotten { key } => Place::Instance(key.clone()),
    })
}

/// The record of a thing as it will be, without the revision that it will get; and whether it is there then.
pub fn record_of(what: &What) -> Option<(Vec<u8>, bool)> {
    Some(match what {
        What::Instance { before, after } => {
            (record::write_instance(after.as_ref().or(before.as_ref())?), after.is_some())
        }
        What::Host { before, after } => {
            (record::write_host(after.as_ref().or(before.as_ref())?), after.is_some())
        }
        What::Settings { after, .. } => (record::write_settings(after), *after != Default::default()),
        What::Guard { before, after, .. } => (record::write_guard((*after).or(*before)?), after.is_some()),
        What::Token { before, after } => {
            (record::write_token(after.as_ref().or(before.as_ref())?), after.is_some())
        }
        What::Plain { before, after } => {
            (record::write_plain(after.as_ref().or(before.as_ref())?), after.is_some())
        }
        What::Forgotten { .. } => return None,
    })
}

/// What is to be as a change has it, before it has a revision.
pub fn unnumbered(what: What) -> What {
    match what {
        What::Instance { before, after: Some(after) } => {
            let after = Instance { revision: 0, ..(*after).clone() };
            What::Instance { before, after: Some(after.into()) }
        }
        What::Host { before, after: Some(after) } => {
            What::Host { before, after: Some(Host { revision: 0, ..(*after).clone() }.into()) }
        }
        other => other,
    }
}
