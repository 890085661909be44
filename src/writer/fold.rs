//! What etcd tells, as changes of the registry; and what only nodes need to know: who watches over what, who is a member, and
//! who takes over what a member left. No I/O and no clock.
//!
//! A lease runs on one node. Its owner is the node that took the last registration or heartbeat; while the owner is no member,
//! it is the node that the ring names. Everywhere else the lease stands still.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::balance::circle::Circle;
use crate::check::{Check, Kind};
use crate::instance::{Extras, Health, Host, Instance, Lease};
use crate::lease::LeaseCell;
use crate::registry::{Author, Change, Kept, Reason, Registry, What};
use crate::store::etcd::follow::Told;
use crate::store::etcd::messages::{Condition, behind};
use crate::store::etcd::place::{self, Place};
use crate::store::record::{self, MemberForm, Near, Note, Unreadable};
use crate::time::{Now, Wall};
use crate::view::{Listener, Node};

/// Nodes of one ring: a transaction that holds only if the ring is unchanged names each, and etcd takes 128 conditions.
pub const NODES_MAX: usize = 64;

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
        let owner = self.held.get(place).map(|held| &held.owner);
        match owner.filter(|owner| self.members.contains_key(*owner)) {
            Some(owner) => *owner == self.name,
            None => self.is_heir(place),
        }
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
            Place::Node(_) | Place::Format => false,
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

    /// Holds while this run is a member.
    pub fn while_member(&self) -> Option<Condition> {
        let created = self.member_since()?;
        Some(Condition::CreatedAt(self.key(&place::node(&self.name)), created))
    }

    /// Hold while the ring is the one that we decided under: nobody came, and nobody left.
    pub fn while_same_ring(&self) -> Vec<Condition> {
        let nodes = self.key(&place::nodes());
        let nobody_came = Condition::NoneSince(nodes.clone(), behind(&nodes), self.registry.revision() + 1);
        let nobody_left = self
            .members
            .iter()
            .map(|(name, member)| Condition::CreatedAt(self.key(&place::node(name)), member.created));
        std::iter::once(nobody_came).chain(nobody_left).collect()
    }

    /// Hold while the thing is as we know it: it was there and nobody wrote it, or nobody has come in its place.
    ///
    /// A revision alone does not say that a key is not there: the watch may have told a later one, and never this.
    pub fn while_same(&self, place: &Place, is_there: bool) -> Vec<Condition> {
        let since = self.registry.revision() + 1;
        let key = self.key_of(place);
        let known = match (place, self.held.get(place)) {
            // It is there from the first node's start on, and its revision is not kept.
            (Place::Format, _) => {
                let end = [key.as_slice(), &[0]].concat();
                return vec![Condition::NoneSince(key, end, since)];
            }
            (_, Some(held)) => Condition::ModifiedAt(key, held.modified),
            (_, None) => Condition::CreatedAt(key, 0),
        };
        match place {
            // Two nodes must not give one label to two instances.
            Place::Instance(key) if !(is_there && self.held.contains_key(place)) => {
                let neighbours = self.key(&place::neighbours(key));
                vec![known, Condition::NoneSince(neighbours.clone(), behind(&neighbours), since)]
            }
            _ => vec![known],
        }
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
        let folded = match self.read(&place, told, staged, now) {
            Ok(folded) => folded,
            Err(error) => {
                let key = String::from_utf8_lossy(&told.key);
                tracing::error!(%key, %error, "a key of etcd's cannot be read, and is left as it was");
                // Of one that was never read, its revision is known: it is nobody's, and can be written anew.
                if let Some(pair) = &told.pair {
                    let unread = || Held { owner: "".into(), modified: pair.modified, gone: None };
                    self.held.entry(place.clone()).or_insert_with(unread);
                }
                Folded::default()
            }
        };
        if let Some(change) = &folded.change {
            self.registry.apply(change, now);
        }
        self.registry.advance(told.revision);
        self.settle(&place, now);
        folded
    }

    fn read(
        &mut self,
        place: &Place,
        told: &Told,
        staged: &mut dyn FnMut(u64, &Place) -> Option<Arc<Instance>>,
        now: Now,
    ) -> Result<Folded, Unreadable> {
        let Some(pair) = &told.pair else {
            self.held.remove(place);
            return Ok(Folded { change: self.removed(place, told.revision, now), number: None });
        };
        match place {
            Place::Node(name) => {
                let form = record::read_member(&pair.value)?;
                let member = Member { form, created: pair.created };
                self.left.remove(name.as_str());
                self.members.insert(name.as_str().into(), member);
                self.place_members();
                return Ok(Folded::default());
            }
            Place::Format => {
                self.format = Some(record::read_format(&pair.value)?);
                return Ok(Folded::default());
            }
            Place::Instance(_) | Place::Host(_) | Place::Settings(_) | Place::Guard(_) | Place::Token(_) => {}
        }
        let (note, octets) = record::read_noted(&pair.value)?;
        let gone = (!note.there).then_some(note.at);
        let what = match place {
            Place::Instance(key) => {
                let before = self.registry.instance(key).cloned();
                let after = match (note.there, staged(note.number, place)) {
                    (false, _) => None,
                    (true, Some(staged)) => Some((*staged).clone()),
                    (true, None) => Some(adopt(
                        before.as_deref(),
                        record::read_instance(octets, now, &mut Near::default())?,
                    )),
                };
                let after = after.map(|after| self.placed(before.as_deref(), after, pair.modified));
                // Whose it is was all that changed.
                let same = match (&before, &after) {
                    (Some(before), Some(after)) => before.revision == after.revision,
                    (None, None) => true,
                    _ => false,
                };
                (!same).then(|| What::Instance { before, after: after.map(Arc::new) })
            }
            Place::Host(name) => {
                let before = self.registry.host(name).cloned();
                let after = match note.there {
                    false => None,
                    true => {
                        let mut host = record::read_host(octets, now)?;
                        host.revision = revision_of(host.revision, pair.modified);
                        host.created = revision_of(host.created, pair.modified);
                        let known =
                            before.as_ref().map(|before| before.checks.as_slice()).unwrap_or_default();
                        host.checks = adopt_checks(known, host.checks);
                        Some(Arc::new(host))
                    }
                };
                let same = match (&before, &after) {
                    (Some(before), Some(after)) => before.revision == after.revision,
                    (None, None) => true,
                    _ => false,
                };
                (!same).then_some(What::Host { before, after })
            }
            Place::Settings(service) => {
                let before = self.registry.settings(service);
                let after = if note.there { record::read_settings(octets)? } else { Default::default() };
                (before != after).then(|| What::Settings { service: service.clone(), before, after })
            }
            Place::Guard(service) => {
                let before = self.registry.guard(service);
                let after = note.there.then(|| record::read_guard(octets)).transpose()?;
                (before != after).then(|| What::Guard { service: service.clone(), before, after })
            }
            Place::Token(name) => {
                // Nearly all are new, and to look for a name is to look at every token.
                let before = self.held.get(place).and_then(|_| self.registry.tokens().by_name(name)).cloned();
                let after = note.there.then(|| record::read_token(octets).map(Arc::new)).transpose()?;
                (before != after).then_some(What::Token { before, after })
            }
            Place::Node(_) | Place::Format => None,
        };
        let (owner, number) = (note.owner.clone(), Some(note.number));
        self.held.insert(place.clone(), Held { owner, modified: pair.modified, gone });
        let Note { reason, author, at, .. } = note;
        let change = what.map(|what| Change { revision: told.revision, at, reason, author, what });
        Ok(Folded { change, number })
    }

    /// An instance with the revisions that the store gave it, and a label that no other has.
    fn placed(&self, before: Option<&Instance>, mut instance: Instance, modified: u64) -> Instance {
        instance.revision = revision_of(instance.revision, modified);
        instance.created = revision_of(instance.created, modified);
        match before {
            Some(before) => instance.label = before.label.clone(),
            None => instance.label = self.registry.label_instead(&instance).unwrap_or(instance.label),
        }
        instance
    }

    /// What it means that a key is not there any more.
    fn removed(&mut self, place: &Place, revision: u64, now: Now) -> Option<Change> {
        let (reason, what) = match place {
            Place::Instance(key) => match self.registry.instance(key).cloned() {
                // Somebody deleted it in etcd itself.
                Some(before) => (Reason::Deregistered, What::Instance { before: Some(before), after: None }),
                None => (Reason::Forgotten, What::Forgotten { key: key.clone() }),
            },
            Place::Host(name) => {
                let before = self.registry.host(name).cloned()?;
                (Reason::Deregistered, What::Host { before: Some(before), after: None })
            }
            Place::Settings(service) => {
                let (before, after) = (self.registry.settings(service), Default::default());
                (before != after).then(|| {
                    (Reason::Configured, What::Settings { service: service.clone(), before, after })
                })?
            }
            Place::Guard(service) => {
                let before = Some(self.registry.guard(service)?);
                (Reason::Released, What::Guard { service: service.clone(), before, after: None })
            }
            Place::Token(name) => {
                let before = self.registry.tokens().by_name(name).cloned()?;
                (Reason::Revoked, What::Token { before: Some(before), after: None })
            }
            Place::Node(name) => {
                self.leave(name, now);
                self.place_members();
                return None;
            }
            Place::Format => return None,
        };
        Some(Change { revision, at: now.wall, reason, author: Author::Server, what })
    }

    fn leave(&mut self, name: &str, now: Now) {
        let Some((name, member)) = self.members.remove_entry(name) else { return };
        self.left.insert(name, (member, now.wall));
        while self.left.len() > LEFT_MAX {
            let oldest = self.left.iter().min_by_key(|(_, (_, at))| *at).map(|(name, _)| name.clone());
            self.left.remove(&oldest.unwrap_or_default());
        }
    }

    fn place_members(&mut self) {
        // Who is one too many is a member, and takes over nothing.
        let placed = self.members.keys().take(NODES_MAX).cloned();
        self.circle = Circle::new(&self.name, placed).into();
    }

    /// Lets deadlines run here, or not: after the members changed, and when this node begins to watch.
    pub fn settle_all(&mut self, now: Now) {
        let places: Vec<Place> = self
            .held
            .iter()
            .filter(|(_, held)| held.gone.is_none())
            .map(|(place, _)| place.clone())
            .collect();
        for place in places {
            self.settle(&place, now);
        }
    }

    /// The same for one thing. What begins to run here has one whole lease.
    pub fn settle(&mut self, place: &Place, now: Now) {
        let watched = self.watches(place);
        for cell in self.cells(place) {
            if !watched {
                cell.leave();
            } else if cell.take(now) {
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
            Place::Settings(_) | Place::Guard(_) | Place::Token(_) | Place::Node(_) | Place::Format => None,
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

/// A record is written before its revision is known.
fn revision_of(written: u64, modified: u64) -> u64 {
    if written == 0 { modified } else { written }
}

/// The same registration goes on with its lease: what changed about it is no word of its holder.
fn adopt(before: Option<&Instance>, mut after: Instance) -> Instance {
    if let Some(before) = before.filter(|before| before.lease_id == after.lease_id) {
        (after.lease, after.deadline) = (before.lease, before.deadline.clone());
        after.extras =
            Extras { checks: adopt_checks(&before.checks, after.checks.clone()), ..(*after).clone() }.kept();
    }
    after
}

fn adopt_checks(known: &[Check], checks: Vec<Check>) -> Vec<Check> {
    let same = |check: &Check| {
        known.iter().find(|known| {
            known.id == check.id
                && known.status == check.status
                && known.since == check.since
                && known.definition == check.definition
        })
    };
    checks.iter().map(|check| same(check).unwrap_or(check).clone()).collect()
}

/// How long after its time a thing that left is forgotten by whoever finds it.
pub const OVERDUE_AFTER: Duration = Duration::from_secs(60);

/// The record of a thing as it will be, without the revision that it will get; and where it lies.
pub fn record_of(what: &What) -> Option<(Place, Vec<u8>, bool)> {
    Some(match what {
        What::Instance { after: Some(after), .. } => {
            (Place::Instance(after.key.clone()), record::write_instance(after), true)
        }
        What::Instance { before: Some(before), after: None } => {
            (Place::Instance(before.key.clone()), record::write_instance(before), false)
        }
        What::Host { after: Some(after), .. } => {
            (Place::Host(after.name.clone()), record::write_host(after), true)
        }
        What::Host { before: Some(before), after: None } => {
            (Place::Host(before.name.clone()), record::write_host(before), false)
        }
        What::Settings { service, after, .. } => {
            let there = *after != Default::default();
            (Place::Settings(service.clone()), record::write_settings(after), there)
        }
        What::Guard { service, before, after } => {
            let guard = (*after).or(*before)?;
            (Place::Guard(service.clone()), record::write_guard(guard), after.is_some())
        }
        What::Token { before, after } => {
            let token = after.as_ref().or(before.as_ref())?;
            (Place::Token(token.name.clone()), record::write_token(token), after.is_some())
        }
        // UPDATE is not taken where etcd holds the registry.
        What::Plain { .. } => return None,
        What::Instance { .. } | What::Host { .. } | What::Forgotten { .. } => return None,
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
