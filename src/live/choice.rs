//! Which of a service's records go out, and in which order: its policy, its bound, and what fits.

use std::collections::HashSet;

use super::{Candidate, Content, EDE_OCTETS, EDE_ROOM, Live};
use crate::answer::{Selection, Taken};
use crate::balance::{
    Balance, Draws, Policy, Ring, Scale, prefer, region_of, rotate_by_priority, shuffle_by_priority,
};
use crate::view::ServiceView;

/// Whose records are chosen from, and how.
pub(super) struct Rule<'a> {
    /// For the reason that some are left out.
    whose: &'a str,
    ttl: u32,
    balance: Balance,
    most: Option<usize>,
    ring: Option<&'a Ring>,
    scale: Scale,
    /// Octets that an Extended DNS Error of every answer takes.
    said: usize,
}

impl<'a> Rule<'a> {
    /// What is set for the service.
    pub(super) fn of(service: &'a ServiceView) -> Self {
        Self {
            balance: service.settings.balance.unwrap_or_default(),
            most: service.most_answers(),
            ring: service.ring.as_deref(),
            ..Self::all_of(service)
        }
    }

    /// Everything of the service: for lists.
    pub(super) fn all_of(service: &'a ServiceView) -> Self {
        let said = if service.stale().is_empty() { 0 } else { EDE_OCTETS + service.stale().len() };
        Self { scale: service.scale, said, ..Self::all(service.name.as_str(), service.ttl) }
    }

    /// Everything, as far as it fits.
    pub(super) fn all(whose: &'a str, ttl: u32) -> Self {
        let (balance, scale) = (Balance::default(), Scale::default());
        Self { whose, ttl, balance, most: None, ring: None, scale, said: 0 }
    }
}

impl Live<'_> {
    /// The candidates in the order of the rule, as many as it allows and as fit, and what goes along.
    pub(super) fn choose(&self, rule: &Rule<'_>, mut candidates: Vec<Candidate<'_>>) -> Selection {
        let all = candidates.len();
        let mut selection = Selection::default();
        let mut draws = Draws::new(self.asked.draw);
        match self.asked.taken {
            Taken::Chosen => {}
            Taken::Whole => return self.choose_all(rule, candidates, draws),
            Taken::First => {
                let first = candidates.first();
                selection.records = first
                    .map(|first| self.record(rule.ttl, self.data(rule.scale, first)))
                    .into_iter()
                    .collect();
                return selection;
            }
        }
        let policy = rule.balance.policy;
        match policy {
            Policy::First => keep_first(&mut candidates),
            Policy::Nearest => self.keep_nearest(rule, &mut candidates, &mut selection),
            Policy::Weighted | Policy::Rotate | Policy::Affinity => {}
        }
        let (rank, weight) = (|of: &Candidate<'_>| of.priority, |of: &Candidate<'_>| of.weight);
        match policy {
            Policy::Weighted | Policy::First | Policy::Nearest => {
                if rule.most.is_none() && !self.fit(rule, &candidates) {
                    // Which of them stay is the same for the same client; only their order is drawn.
                    prefer(&mut candidates, self.asked.client, Candidate::identity, rank, weight);
                    self.cut(rule, &mut candidates, all, &mut selection);
                }
                shuffle_by_priority(&mut candidates, rank, weight, &mut draws);
            }
            Policy::Rotate => rotate_by_priority(&mut candidates, rank, &mut draws),
            Policy::Affinity => {
                let places = rule.ring.map(|ring| ring.places(self.asked.client)).unwrap_or_default();
                let place = |of: &Candidate<'_>| places.get(&of.member.identity()).copied();
                candidates
                    .sort_by_key(|candidate| (candidate.priority, place(candidate).unwrap_or(usize::MAX)));
            }
        }
        if let Some(most) = rule.most.filter(|most| candidates.len() > *most) {
            candidates.truncate(most);
            selection.ede =
                self.ede(|| format!("{}: {most} of {all} records; no more are wanted", rule.whose));
        }
        if !self.fit(rule, &candidates) {
            self.cut(rule, &mut candidates, all, &mut selection);
        }
        self.put_down(rule, &candidates, selection)
    }

    /// All of them, in an order that is drawn. What a datagram cannot hold goes out in none; of a set that is larger than a message
    /// it is the same part for everybody, and so one signature.
    fn choose_all(&self, rule: &Rule<'_>, mut candidates: Vec<Candidate<'_>>, mut draws: Draws) -> Selection {
        let all = candidates.len();
        let mut selection = Selection::default();
        if !self.fit(rule, &candidates) {
            if self.asked.over.is_datagram() {
                return Selection { cut: true, ..selection };
            }
            self.cut(rule, &mut candidates, all, &mut selection);
        }
        shuffle_by_priority(&mut candidates, |of| of.priority, |of| of.weight, &mut draws);
        self.put_down(rule, &candidates, selection)
    }

    fn fit(&self, rule: &Rule<'_>, candidates: &[Candidate<'_>]) -> bool {
        let octets = candidates.iter().map(|candidate| self.octets(candidate)).sum::<usize>();
        octets <= self.room(rule)
    }

    /// Octets left for records.
    fn room(&self, rule: &Rule<'_>) -> usize {
        if !self.asked.edns {
            return self.asked.room;
        }
        let stale = self.view.stale_words();
        self.asked.room.saturating_sub(stale.map_or(rule.said, |words| EDE_OCTETS + words.len()))
    }

    /// As many of the first as fit. Over a datagram TC asks for a second try, where all that is wanted may fit; a stream
    /// has none, and says it in words.
    fn cut(
        &self,
        rule: &Rule<'_>,
        candidates: &mut Vec<Candidate<'_>>,
        all: usize,
        selection: &mut Selection,
    ) {
        // Where there is no second try, the reason has a place reserved.
        let final_word = !self.asked.over.is_datagram();
        let mut room = match final_word {
            true => self.asked.room.saturating_sub(EDE_ROOM),
            false => self.room(rule),
        };
        let fitting = candidates.iter().take_while(|candidate| {
            let fits = self.octets(candidate) <= room;
            room = room.saturating_sub(self.octets(candidate));
            fits
        });
        let fitting = fitting.count();
        candidates.truncate(fitting);
        selection.cut = true;
        if final_word {
            selection.ede = self.ede(|| format!("{}: {fitting} of {all} records fit", rule.whose));
        } else if rule.most.is_some() {
            selection.ede = None; // that no more are wanted is not why there are so few
        }
    }

    /// Of each priority those in the client's region, where there are any.
    fn keep_nearest(&self, rule: &Rule<'_>, candidates: &mut Vec<Candidate<'_>>, selection: &mut Selection) {
        let regions = &self.view.settings.regions;
        let Some(home) = region_of(regions, self.asked.client) else { return };
        let is_near = |candidate: &Candidate<'_>| match candidate.content {
            Content::Address(address) => region_of(regions, address) == Some(home),
            _ => {
                let mut addresses = candidate.member.instance.addresses().iter();
                addresses.any(|address| region_of(regions, *address) == Some(home))
            }
        };
        let all = candidates.len();
        let near: HashSet<u16> =
            candidates.iter().filter(|candidate| is_near(candidate)).map(|near| near.priority).collect();
        candidates.retain(|candidate| !near.contains(&candidate.priority) || is_near(candidate));
        if candidates.len() < all {
            let kept = candidates.len();
            selection.ede = self.ede(|| format!("{}: {kept} of {all} records, near {home}", rule.whose));
        }
    }

    /// The records, and the addresses that go along.
    fn put_down(&self, rule: &Rule<'_>, candidates: &[Candidate<'_>], mut selection: Selection) -> Selection {
        // Two may name the same target: its addresses go along once.
        let mut named = HashSet::with_capacity(candidates.len());
        for candidate in candidates {
            let record = self.record(rule.ttl, self.data(rule.scale, candidate));
            let beside = match candidate.content {
                Content::Address(_) | Content::Text(_) => Vec::new(),
                Content::Port(_) | Content::Binding { .. } => self.beside_srv(&record, candidate.member),
                Content::TypeInstance(_, transport) => {
                    self.beside_ptr(rule.scale, &record, candidate.member, transport)
                }
            };
            let first = selection.additional.len();
            selection.additional.extend(beside.into_iter().filter(|record| !named.contains(&record.owner)));
            named.extend(selection.additional[first..].iter().map(|record| record.owner.clone()));
            selection.records.push(record);
        }
        selection
    }
}

fn keep_first(candidates: &mut Vec<Candidate<'_>>) {
    let lowest = candidates.iter().map(|candidate| candidate.priority).min();
    candidates.retain(|candidate| Some(candidate.priority) == lowest);
}
