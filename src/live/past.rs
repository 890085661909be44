//! Services as they were at a revision: those of now, with what changed since undone.
//!
//! Of each instance, host and setting the first change after that revision says what was before. So nothing of the past is
//! kept but the log, and the log may hold more than what is looked at: changes that came later are undone with the rest.
//! One thing those changes do not say: whether an instance that comes is one that was remembered. Where only that would tell
//! whether a service was known, it takes a look at what was before, which is [`Past::recall`]ed.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::instance::{Host, Key, ServiceSettings};
use crate::member::{Member, Members};
use crate::name::{Apex, HostName, Name, ServiceName};
use crate::record::Type;
use crate::registry::{Change, PlainSet, What};
use crate::view::{ServiceView, View};
use crate::zone::Zone;

/// What is as it is now, at one moment.
pub(crate) struct Present<'a> {
    /// Where it is known, and what is set for it in any case.
    pub services: &'a HashMap<ServiceName, (Option<Arc<ServiceView>>, ServiceSettings)>,
    pub hosts: &'a HashMap<HostName, Arc<Host>>,
    /// The revision of the start: since then it is known how long each service has been known.
    pub started: u64,
    /// TTL of a service that has none of its own, in seconds.
    pub ttl: u32,
}

/// See the module's own words.
pub(crate) struct Past<'a> {
    present: &'a Present<'a>,
    at: u64,
    /// The first change of each after `at`.
    keys: HashMap<&'a ServiceName, HashMap<&'a Key, &'a What>>,
    hosts: HashMap<&'a HostName, Option<&'a Arc<Host>>>,
    settings: HashMap<&'a ServiceName, &'a What>,
    /// Whose guard began or ended after `at`: who was held is not told.
    guarded: HashSet<&'a ServiceName>,
    /// Those that were remembered at the time, of all that anybody was unsure of.
    remembered: Option<HashSet<Key>>,
}

/// Whether a service was known, and as what.
pub(crate) enum Then {
    Known(Box<ServiceView>),
    Unknown,
    /// It was where one of these was remembered.
    Unsure(Vec<Key>),
}

impl<'a> Past<'a> {
    /// As it was right after revision `at`. `changes` are those that came after, in order, up to the present.
    pub fn at(at: u64, present: &'a Present<'a>, changes: &'a [Change]) -> Self {
        let mut past = Self {
            present,
            at,
            keys: HashMap::new(),
            hosts: HashMap::new(),
            settings: HashMap::new(),
            guarded: HashSet::new(),
            remembered: None,
        };
        for change in changes.iter().filter(|change| change.revision > at) {
            match &change.what {
                What::Instance { before, after } => {
                    let Some(instance) = before.as_ref().or(after.as_ref()) else { continue };
                    let keys = past.keys.entry(&instance.key.service).or_default();
                    keys.entry(&instance.key).or_insert(&change.what);
                }
                What::Forgotten { key } => {
                    past.keys.entry(&key.service).or_default().entry(key).or_insert(&change.what);
                }
                What::Host { before, after } => {
                    let Some(host) = before.as_ref().or(after.as_ref()) else { continue };
                    past.hosts.entry(&host.name).or_insert(before.as_ref());
                }
                What::Settings { service, .. } => {
                    past.settings.entry(service).or_insert(&change.what);
                }
                What::Guard { service, .. } => drop(past.guarded.insert(service)),
                What::Token { .. } | What::Plain { .. } => {}
            }
        }
        past
    }

    pub fn service(&self, name: &ServiceName) -> Then {
        let (now, set) = match self.present.services.get(name) {
            Some((now, set)) => (now.as_ref(), set.clone()),
            None => return Then::Unsure(Vec::new()),
        };
        if self.guarded.contains(name) || now.is_some_and(|now| now.guard().is_some()) {
            return Then::Unsure(Vec::new());
        }
        let none = HashMap::new();
        let changed = self.keys.get(name).unwrap_or(&none);
        let mut members = now.map(|now| now.members.clone()).unwrap_or_default();
        for member in now.iter().flat_map(|now| &now.members) {
            if changed.contains_key(&member.instance.key) {
                members.remove(member.instance.label.as_str());
            } else if let Some(host) = self.hosts.get(&member.instance.key.host) {
                members.put(Member::of(&member.instance, *host));
            }
        }
        let (mut forgotten, mut came) = (false, Vec::new());
        for (key, what) in changed {
            match what {
                What::Instance { before: Some(before), .. } => {
                    let host = self.hosts.get(&key.host).copied();
                    let host = host.unwrap_or_else(|| self.present.hosts.get(&key.host));
                    members.put(Member::of(before, host));
                }
                What::Forgotten { .. } => forgotten = true,
                _ => came.push((*key).clone()),
            }
        }
        let settings = match self.settings.get(name) {
            Some(What::Settings { before, .. }) => before.clone(),
            _ => set,
        };
        let remembered = |now: &Arc<ServiceView>| {
            now.born <= self.at || now.gone.iter().any(|gone| gone.revision <= self.at)
        };
        let known = !members.is_empty()
            || !settings.fallbacks().is_empty()
            || forgotten
            || now.is_some_and(remembered);
        let alone = |members: Members| {
            ServiceView::alone(name, (members.clone(), members), settings, self.present.ttl)
        };
        if known {
            return Then::Known(Box::new(alone(members)));
        }
        // It was not known at some time between then and now, and nobody was forgotten: so nobody was remembered.
        let told = self.at >= self.present.started && now.is_some();
        match &self.remembered {
            _ if came.is_empty() || told => Then::Unknown,
            None => Then::Unsure(came),
            Some(remembered) if came.iter().any(|key| remembered.contains(key)) => {
                Then::Known(Box::new(alone(members)))
            }
            Some(_) => Then::Unknown,
        }
    }

    pub fn revision(&self) -> u64 {
        self.at
    }

    /// Who was remembered at the time, of all that were in [`Then::Unsure`].
    pub fn recall(&mut self, remembered: HashSet<Key>) {
        self.remembered = Some(remembered);
    }
}

/// The services whose records changes up to `until` may have altered; those on a host are told by `on_host`.
pub(crate) fn touched(
    changes: &[Change],
    until: u64,
    on_host: impl Fn(&HostName) -> Vec<ServiceName>,
) -> BTreeSet<ServiceName> {
    let mut touched = BTreeSet::new();
    let mut hosts = BTreeSet::new();
    for change in changes {
        match &change.what {
            What::Instance { before, after } => {
                let Some(instance) = before.as_ref().or(after.as_ref()) else { continue };
                // One that left after `until` may have been on such a host before.
                if change.revision <= until || hosts.contains(&instance.key.host) {
                    touched.insert(instance.key.service.clone());
                }
            }
            What::Plain { before, after } if change.revision <= until => {
                touched.extend(after.as_ref().or(before.as_ref()).and_then(|set| set.service()));
            }
            What::Forgotten { key } if change.revision <= until => {
                touched.insert(key.service.clone());
            }
            What::Settings { service, .. } | What::Guard { service, .. } if change.revision <= until => {
                touched.insert(service.clone());
            }
            What::Host { before, after } if change.revision <= until => {
                let Some(host) = before.as_ref().or(after.as_ref()) else { continue };
                if hosts.insert(host.name.clone()) {
                    touched.extend(on_host(&host.name));
                }
            }
            _ => {}
        }
    }
    touched
}

/// The record tree of `apex` as it was right after revision `at`. `now` is it as it is; `changes` are those that came since, in
/// order, up to the present.
pub(crate) fn tree_at(
    view: &View,
    apex: &Apex,
    now: Option<&Arc<Zone>>,
    at: u64,
    changes: &[Change],
) -> Option<Arc<Zone>> {
    let mut undone: HashMap<&Name, HashMap<Type, Option<&Arc<PlainSet>>>> = HashMap::new();
    for change in changes.iter().filter(|change| change.revision > at) {
        if let Some((set, before)) = plain_of(change, apex)
            && view.file_holds(apex.name(), &set.owner).is_none()
        {
            undone.entry(&set.owner).or_default().entry(set.set.rtype).or_insert(before);
        }
    }
    if undone.is_empty() {
        return now.cloned();
    }
    let tree = now.cloned().unwrap_or_else(|| Arc::new(Zone::bare(apex.name())));
    let edits = undone.into_iter().map(|(owner, types)| {
        let mut sets = tree.node(owner).map(|node| node.sets.clone()).unwrap_or_default();
        sets.retain(|set| !types.contains_key(&set.rtype));
        sets.extend(types.into_values().flatten().map(|before| before.set.clone()));
        (owner.clone(), sets)
    });
    Some(Arc::new(tree.edited(edits)))
}

/// The owners of plain records of `apex` that changed up to revision `until`, those of services aside.
pub(crate) fn others_touched(changes: &[Change], apex: &Apex, until: u64) -> Vec<Name> {
    let changes = changes.iter().filter(|change| change.revision <= until);
    let sets = changes.filter_map(|change| Some(plain_of(change, apex)?.0));
    let mut owners: Vec<Name> =
        sets.filter(|set| set.service().is_none()).map(|set| set.owner.to_lowercase()).collect();
    owners.sort_unstable_by(|a, b| a.as_wire().cmp(b.as_wire()));
    owners.dedup();
    owners
}

/// The plain records of `apex` that a change is of, and what was before it.
fn plain_of<'c>(change: &'c Change, apex: &Apex) -> Option<(&'c PlainSet, Option<&'c Arc<PlainSet>>)> {
    let What::Plain { before, after } = &change.what else { return None };
    let set = after.as_ref().or(before.as_ref())?;
    (set.apex == *apex).then_some((set, before.as_ref()))
}
