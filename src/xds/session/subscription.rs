//! One kind of resource on a stream: what the client asks for, what it has, and what may be another one by now.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::{Made, NAMES_MAX, Refusal, fingerprint};
use crate::view::View;
use crate::xds::request::Request;
use crate::xds::{ALL_SERVICES, Kind, WILDCARD, resources};

/// What is asked of one kind.
#[derive(Debug, Default)]
pub(super) struct Subscription {
    pub(super) begun: bool,
    pub(super) wildcard: bool,
    /// It has asked by name: from then on, no name is not everything.
    by_name: bool,
    pub(super) names: BTreeSet<String>,
    /// What the client has, as far as we know.
    pub(super) held: HashMap<String, Held>,
    /// Of the endpoints, those that the client has confirmed once.
    pub(super) confirmed: HashSet<String>,
    /// What may be another one than the client has.
    pub(super) changed: BTreeSet<String>,
    /// Other names are asked for than when it was last looked at.
    pub(super) asked_anew: bool,
    /// A response is owed, though there be nothing to say in it.
    pub(super) owed: bool,
    /// Of the last response; 0 before there was one.
    pub(super) nonce: u64,
    /// The names in it, until the client has spoken of it.
    pub(super) under_way: Option<Vec<String>>,
    /// What the client did not take: looked at again with the next change.
    rejected: BTreeSet<String>,
}

/// What a client has of one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// By its fingerprint.
    Resource(u128),
    /// It knows that there is none.
    Absent,
    /// It did not take what we sent, or wants it again.
    Unknown,
}

impl Subscription {
    /// Sets what is asked for, in a state of the world.
    pub(super) fn ask_for(&mut self, kind: Kind, names: Vec<String>, view: &View) -> Result<(), Refusal> {
        let everything = kind.is_whole() && names.is_empty() && !self.by_name;
        self.by_name |= !names.is_empty();
        let mut names: BTreeSet<String> = names.into_iter().collect();
        let wildcard = names.remove(WILDCARD) || everything;
        if self.begun && (wildcard, &names) == (self.wildcard, &self.names) {
            return Ok(());
        }
        self.asked_anew = true;
        let count = names.len();
        let fresh: Vec<String> = names.difference(&self.names).cloned().collect();
        let wider = wildcard && !self.wildcard;
        self.owed |= kind.is_whole() && (!self.begun || wider || !fresh.is_empty());
        (self.begun, self.wildcard, self.names) = (true, wildcard, names);
        self.forget_unwanted(kind);
        self.changed.extend(fresh);
        if wider {
            self.everything_changed(kind, view);
        }
        within(count)
    }

    /// Sets what is asked for besides, in a delta.
    pub(super) fn ask_besides(&mut self, kind: Kind, request: Request, view: &View) -> Result<(), Refusal> {
        let everything = kind.is_whole() && request.names.is_empty() && !self.begun;
        self.asked_anew |= !self.begun || !request.names.is_empty() || !request.unsubscribed.is_empty();
        within(request.has.len())?;
        if !self.begun {
            for (name, version) in request.has {
                if kind == Kind::Endpoints {
                    self.confirmed.insert(name.clone());
                }
                let held = u128::from_str_radix(&version, 16).map_or(Held::Unknown, Held::Resource);
                self.held.insert(name, held);
            }
        }
        self.begun = true;
        let mut wider = everything && !self.wildcard;
        self.wildcard |= everything;
        for name in request.unsubscribed {
            match name.as_str() {
                WILDCARD => self.wildcard = false,
                name => drop(self.names.remove(name)),
            }
        }
        for name in request.names {
            if name == WILDCARD {
                wider |= !self.wildcard;
                self.wildcard = true;
                continue;
            }
            // Who asks again wants it again.
            if self.names.contains(&name) {
                self.held.insert(name.clone(), Held::Unknown);
            }
            self.changed.insert(name.clone());
            self.names.insert(name);
        }
        self.forget_unwanted(kind);
        if wider {
            self.owed = true;
            self.everything_changed(kind, view);
        }
        within(self.names.len())
    }

    pub(super) fn wants(&self, kind: Kind, name: &str) -> bool {
        let in_wildcard = match kind {
            Kind::Cluster | Kind::Endpoints => name != ALL_SERVICES,
            Kind::Listener | Kind::Routes => name == ALL_SERVICES,
        };
        (self.wildcard && in_wildcard) || self.names.contains(name)
    }

    fn forget_unwanted(&mut self, kind: Kind) {
        let (mut held, mut confirmed) = (std::mem::take(&mut self.held), std::mem::take(&mut self.confirmed));
        let (mut changed, mut rejected) =
            (std::mem::take(&mut self.changed), std::mem::take(&mut self.rejected));
        held.retain(|name, _| self.wants(kind, name));
        confirmed.retain(|name| self.wants(kind, name));
        changed.retain(|name| self.wants(kind, name));
        rejected.retain(|name| self.wants(kind, name));
        (self.held, self.confirmed, self.changed, self.rejected) = (held, confirmed, changed, rejected);
    }

    pub(super) fn everything_changed(&mut self, kind: Kind, view: &View) {
        self.changed.extend(self.names.iter().chain(self.held.keys()).cloned());
        if self.wildcard {
            self.changed.extend(resources::names(view, kind));
        }
        self.try_rejected();
    }

    pub(super) fn reject(&mut self, names: &[String]) {
        for name in names {
            self.held.insert(name.clone(), Held::Unknown);
            self.rejected.insert(name.clone());
        }
    }

    /// Something changed: what was rejected goes along.
    pub(super) fn try_rejected(&mut self) {
        if !self.changed.is_empty() {
            self.changed.append(&mut self.rejected);
        }
    }

    pub(super) fn note_sent(&mut self, made: Vec<Made>, delta: bool) {
        for Made { name, octets } in &made {
            let explicit = delta && self.names.contains(name);
            match octets {
                Some(octets) => drop(self.held.insert(name.clone(), Held::Resource(fingerprint(octets)))),
                None if explicit => drop(self.held.insert(name.clone(), Held::Absent)),
                None => drop(self.held.remove(name)),
            }
        }
        self.under_way = Some(made.into_iter().map(|made| made.name).collect());
    }
}

fn within(count: usize) -> Result<(), Refusal> {
    if count > NAMES_MAX { Err(Refusal::TooMany { count }) } else { Ok(()) }
}
