//! A registered instance with its host, and the members of a service in the order of their labels.
//!
//! Both the registry and every view of a service hold `Members`, and share what they have in common: a change copies
//! one leaf of some dozens, not a service of ten thousand. What is asked of all members at once is summed up in each
//! leaf, so that a view is made without a look at every member.

use std::slice;
use std::sync::Arc;
use std::time::Duration;

use crate::check::{Check, worst};
use crate::instance::{Health, Host, Instance, Key, Lease};
use crate::name::{Label, fnv};
use crate::time::Wall;

/// Members of one leaf: what a change copies. Of ten thousand members there are some 200 leaves, whose list it
/// copies too.
const LEAF_MAX: usize = 64;

/// A registered instance, and whether it is in the answers.
#[derive(Clone, Debug)]
pub struct Member {
    pub instance: Arc<Instance>,
    /// What was said of its host, where something was.
    pub host: Option<Arc<Host>>,
    /// Its own health and its host's together.
    pub health: Health,
    pub standing: Standing,
    /// The guard of its service keeps it in the answers, though it went bad.
    pub held: bool,
}

/// The rule that keeps an instance in the answers or out of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    Live,
    Draining,
    /// The check that decides, and whether it is its host's.
    Unhealthy {
        check: Box<Check>,
        of_host: bool,
    },
}

/// How many members are live, draining, critical and in maintenance.
pub type Standings = [u32; 4];

impl Member {
    pub fn of(instance: &Arc<Instance>, host: Option<&Arc<Host>>) -> Self {
        let host_checks = host.map(|host| host.checks.as_slice()).unwrap_or_default();
        let health = instance.health().max(worst(host_checks));
        let decisive =
            |checks: &[Check]| checks.iter().find(|check| check.status == health).cloned().map(Box::new);
        let standing = if !health.in_answers() {
            let own = decisive(&instance.checks);
            let of_host = own.is_none();
            match own.or_else(|| decisive(host_checks)) {
                Some(check) => Standing::Unhealthy { check, of_host },
                None => Standing::Live, // not reached: some check has the worst status
            }
        } else if instance.draining {
            Standing::Draining
        } else {
            Standing::Live
        };
        Self { instance: instance.clone(), host: host.cloned(), health, standing, held: false }
    }

    pub fn is_live(&self) -> bool {
        self.standing == Standing::Live
    }

    pub fn is_answered(&self) -> bool {
        self.held || self.is_live()
    }

    /// Its place in [`Standings`].
    fn place(&self) -> usize {
        match (&self.standing, self.health) {
            (Standing::Live, _) => 0,
            (Standing::Draining, _) => 1,
            (Standing::Unhealthy { .. }, Health::Maintenance) => 3,
            (Standing::Unhealthy { .. }, _) => 2,
        }
    }

    /// Its weight; a registration through Consul's API may name another one for while a check warns.
    pub fn weight(&self) -> u16 {
        match &self.instance.consul {
            Some(facts) if self.health == Health::Warning => facts.weight_warning,
            _ => self.instance.weight,
        }
    }

    /// A number for its label, the same on every machine and for every query.
    pub fn identity(&self) -> u64 {
        fnv(&[self.label().as_bytes()])
    }

    /// The rule in words; ids and rule names only, never a check's own output.
    pub fn rule(&self) -> String {
        let since = |wall: Wall| wall.time_of_day();
        match &self.standing {
            Standing::Live => "live".to_owned(),
            Standing::Draining => format!("draining since {}", since(self.instance.since)),
            Standing::Unhealthy { check, of_host: false } => {
                format!("{} ({}) since {}", check.status, check.id, since(check.since))
            }
            Standing::Unhealthy { check, of_host: true } => {
                format!("{} (host, {}) since {}", check.status, check.id, since(check.since))
            }
        }
    }

    fn label(&self) -> &str {
        self.instance.label.as_str()
    }

    /// True where the label is neither the id's own nor the one with its host: two ids with one hash.
    fn is_astray(&self) -> bool {
        let (key, label) = (&self.instance.key, &self.instance.label);
        *label != key.id.label() && *label != key.id.label_on(&key.host, 0)
    }
}

/// See the module's own words.
#[derive(Clone, Debug, Default)]
pub struct Members {
    /// None of them is empty.
    leaves: Arc<Vec<Arc<Leaf>>>,
    len: u32,
    /// Those that no label of their own leads to: where there are any, a key is looked for among all.
    astray: u32,
}

#[derive(Clone, Debug, Default)]
struct Leaf {
    members: Vec<Member>,
    sums: Sums,
}

/// What is asked of all members at once.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    standings: Standings,
    answered: u32,
    held: u32,
    /// The shortest lease of a member in the answers.
    lease: Option<Duration>,
    /// When the health or drain of a member changed last, live or not.
    newest: Option<Wall>,
}

impl Sums {
    fn with(self, member: &Member) -> Self {
        let newest = self.newest.max(Some(member.instance.since));
        let mut standings = self.standings;
        standings[member.place()] += 1;
        if !member.is_answered() {
            return Self { standings, newest, ..self };
        }
        let lease = match member.instance.lease {
            Lease::Timed(duration) => Some(self.lease.map_or(duration, |lease| lease.min(duration))),
            Lease::Connection(_) | Lease::None => self.lease,
        };
        let held = self.held + u32::from(member.held);
        Self { standings, answered: self.answered + 1, held, lease, newest }
    }
}

impl Leaf {
    fn of(members: Vec<Member>) -> Self {
        let sums = members.iter().fold(Sums::default(), Sums::with);
        Self { members, sums }
    }

    fn ends_before(&self, label: &str) -> bool {
        self.members.last().is_some_and(|last| last.label() < label)
    }

    fn find(&self, label: &str) -> Result<usize, usize> {
        self.members.binary_search_by(|member| member.label().cmp(label))
    }
}

impl Members {
    pub fn iter(&self) -> Iter<'_> {
        Iter { leaves: self.leaves.iter(), members: [].iter() }
    }

    /// The members in pieces, for who goes through them with pauses; `None` behind the last.
    pub fn piece(&self, at: usize) -> Option<&[Member]> {
        self.leaves.get(at).map(|leaf| leaf.members.as_slice())
    }

    pub fn len(&self) -> usize {
        self.len as usize
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// True where some member is in the answers.
    pub fn any_answered(&self) -> bool {
        self.leaves.iter().any(|leaf| leaf.sums.answered > 0)
    }

    /// How many members are in the answers.
    pub fn answered(&self) -> usize {
        self.leaves.iter().map(|leaf| leaf.sums.answered as usize).sum()
    }

    /// How many of them are so because the guard holds them.
    pub fn held(&self) -> usize {
        self.leaves.iter().map(|leaf| leaf.sums.held as usize).sum()
    }

    /// How many of them stand how.
    pub fn standings(&self) -> Standings {
        let mut all = Standings::default();
        for leaf in self.leaves.iter() {
            all.iter_mut().zip(leaf.sums.standings).for_each(|(sum, more)| *sum += more);
        }
        all
    }

    /// The members that the guard holds; leaves without any cost nothing.
    pub fn iter_held(&self) -> impl Iterator<Item = &Member> {
        let leaves = self.leaves.iter().filter(|leaf| leaf.sums.held > 0);
        leaves.flat_map(|leaf| &leaf.members).filter(|member| member.held)
    }

    /// The shortest lease of a member in the answers; none where no such lease has an end.
    pub fn shortest_lease(&self) -> Option<Duration> {
        self.leaves.iter().filter_map(|leaf| leaf.sums.lease).min()
    }

    /// The member whose health or drain changed last; of several, the last in order.
    pub fn newest(&self) -> Option<&Member> {
        let leaf = self.leaves.iter().max_by_key(|leaf| leaf.sums.newest)?;
        leaf.members.iter().max_by_key(|member| member.instance.since)
    }

    pub fn get(&self, label: &str) -> Option<&Member> {
        let leaf = self.leaves.get(self.leaf(label))?;
        leaf.find(label).ok().map(|at| &leaf.members[at])
    }

    /// The member of this key: under its id's label, under the one with its host's suffix, or wherever it is.
    pub fn by_key(&self, key: &Key) -> Option<&Member> {
        let under = |label: &Label| self.get(label.as_str()).filter(|member| member.instance.key == *key);
        under(&key.id.label()).or_else(|| under(&key.id.label_on(&key.host, 0))).or_else(|| {
            let mut members = (self.astray > 0).then(|| self.iter()).into_iter().flatten();
            members.find(|member| member.instance.key == *key)
        })
    }

    /// Puts a member in, in the place of the one with its label where there is one.
    pub fn put(&mut self, member: Member) {
        let at = self.leaf(member.label());
        let leaves = Arc::make_mut(&mut self.leaves);
        if leaves.is_empty() {
            leaves.reserve_exact(1);
            leaves.push(Arc::default());
        }
        let leaf = Arc::make_mut(&mut leaves[at]);
        match leaf.find(member.label()) {
            Ok(place) => {
                leaf.members[place] = member;
                *leaf = Leaf::of(std::mem::take(&mut leaf.members));
            }
            Err(place) => {
                self.len += 1;
                self.astray += u32::from(member.is_astray());
                leaf.sums = leaf.sums.with(&member);
                leaf.members.reserve_exact(1); // doubled, a service of three would have room for eight
                leaf.members.insert(place, member);
                if leaf.members.len() > LEAF_MAX {
                    let upper = leaf.members.split_off(LEAF_MAX / 2);
                    leaf.members.shrink_to_fit();
                    *leaf = Leaf::of(std::mem::take(&mut leaf.members));
                    leaves.insert(at + 1, Arc::new(Leaf::of(upper)));
                }
            }
        }
    }

    /// Takes the member with this label out, where there is one.
    pub fn remove(&mut self, label: &str) {
        let at = self.leaf(label);
        let Some(place) = self.leaves.get(at).and_then(|leaf| leaf.find(label).ok()) else { return };
        let leaves = Arc::make_mut(&mut self.leaves);
        let leaf = Arc::make_mut(&mut leaves[at]);
        let member = leaf.members.remove(place);
        self.len -= 1;
        self.astray -= u32::from(member.is_astray());
        *leaf = Leaf::of(std::mem::take(&mut leaf.members));
        if leaf.members.is_empty() {
            leaves.remove(at);
        }
    }

    /// The place of the leaf that a label is in or belongs into.
    fn leaf(&self, label: &str) -> usize {
        let at = self.leaves.partition_point(|leaf| leaf.ends_before(label));
        at.min(self.leaves.len().saturating_sub(1))
    }
}

/// The members of a service in the order of their labels.
#[derive(Clone, Debug)]
pub struct Iter<'a> {
    leaves: slice::Iter<'a, Arc<Leaf>>,
    members: slice::Iter<'a, Member>,
}

impl<'a> Iterator for Iter<'a> {
    type Item = &'a Member;

    fn next(&mut self) -> Option<&'a Member> {
        loop {
            if let Some(member) = self.members.next() {
                return Some(member);
            }
            self.members = self.leaves.next()?.members.iter();
        }
    }
}

impl<'a> IntoIterator for &'a Members {
    type Item = &'a Member;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}
