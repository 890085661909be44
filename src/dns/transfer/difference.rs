//! What changed in the live zone since a serial: a fold over the log.
//!
//! The services that changed, as they are and as they were, are compared, and so is what the record tree has at names
//! that are no service's. Where the log does not reach, or cannot tell, the whole zone is the answer.
//!
//! Why one difference and not one for each serial between: what came and went again between two looks need not be sent
//! (RFC 1995 section 4), and the two ends are all that a secondary has any use for.

use std::collections::{BTreeSet, HashSet};

use super::Transfers;
use crate::instance::Key;
use crate::live::past::{Past, Present, Then, others_touched, touched, tree_at};
use crate::live::walk::tree_in;
use crate::live::whole::{Around, Difference, of_apex, other_at, soa};
use crate::name::{Apex, HostName, ServiceName};
use crate::record::Record;
use crate::registry::{Change, What};
use crate::store::History;
use crate::writer::{Picture, Stopped};

/// Changes that one difference is made from; a secondary that is further behind takes the whole zone.
const CHANGES_MAX: usize = 32_768;
/// Changes looked at, before those, for who was remembered.
const LOOKED_BACK_MAX: usize = 20_000;
/// Changes read from the log at a time, and services compared, before others have their turn.
const PAGE: usize = 1000;
const SERVICES_A_TURN: usize = 16;

pub(super) enum Since {
    /// The client has it already, or something later: the SOA as it is.
    Nothing(Record),
    /// RFC 1995 section 4: the new SOA, what goes with the old one in front, what comes with the new one, the new SOA.
    Changed(Vec<Record>),
    /// The log does not reach so far, or cannot tell.
    Unknown,
}

impl Transfers {
    /// What changed since a serial.
    pub(super) async fn since(&self, apex: &Apex, serial: u32) -> Result<Since, Stopped> {
        let until = self.view.revision();
        let behind = self.view.serial_of(until).wrapping_sub(serial);
        // RFC 1982: half of all serials are later than ours.
        if behind == 0 || behind > u32::MAX / 2 {
            return Ok(Since::Nothing(soa(apex, self.view.soa_at(apex, until))));
        }
        let Some(from) = until.checked_sub(behind.into()) else { return Ok(Since::Unknown) };
        let (started, settled) = self.view.beginnings();
        if from < settled {
            return Ok(Since::Unknown);
        }
        let state = self.state()?;
        let (writer, history) = &*state;
        // What an earlier process published and never stored is not in the log, so a serial of its own has to be.
        let first = if from < started { from.saturating_sub(1) } else { from };
        // Before the log is read: a fact that is stored in between is there twice, and otherwise would be in neither.
        let before = writer.picture(Vec::new()).await?;
        let Some(mut changes) = read(history, first).await else { return Ok(Since::Unknown) };
        if from < started {
            let known = changes.first().is_some_and(|change| change.revision <= from + 1);
            if !known {
                return Ok(Since::Unknown);
            }
            changes.retain(|change| change.revision > from);
        }
        merge(&mut changes, before.unstored);
        let on_host = |host: &HostName| {
            let members = self.view.on_host(host);
            members.into_iter().map(|member| member.instance.key.service.clone()).collect()
        };
        let names: BTreeSet<ServiceName> = touched(&changes, until, on_host);
        let mut picture = writer.picture(names.iter().cloned().collect()).await?;
        let Some(later) = read(history, before.revision).await else { return Ok(Since::Unknown) };
        merge(&mut changes, later);
        merge(&mut changes, std::mem::take(&mut picture.unstored));
        if changes.len() > CHANGES_MAX || !touched(&changes, until, on_host).is_subset(&names) {
            return Ok(Since::Unknown);
        }
        let difference = self.difference(apex, [from, until], &names, &picture, &changes).await;
        Ok(difference.map_or(Since::Unknown, Since::Changed))
    }

    /// Those of `keys` that had left at a revision and were remembered, by their last change before it; `None` where
    /// the log does not say.
    async fn remembered(&self, mut keys: HashSet<Key>, at: u64, changes: &[Change]) -> Option<HashSet<Key>> {
        let state = self.state().ok()?;
        let mut remembered = HashSet::new();
        let mut look = |change: &Change| {
            if let Some((key, leaves)) = leave_of(change)
                && let Some(key) = keys.take(key)
                && leaves
            {
                remembered.insert(key);
            }
            keys.is_empty()
        };
        // What the log does not have yet is the newest.
        let mut told = changes.iter().rev().filter(|change| change.revision <= at).any(&mut look);
        let (mut before, mut looked_at) = (at + 1, 0);
        while !told {
            let page = state.1.before(before, PAGE).ok()?;
            let Some(oldest) = page.last() else { return state.1.is_whole().then_some(remembered) };
            before = oldest.revision;
            looked_at += page.len();
            told = page.iter().any(&mut look);
            if looked_at > LOOKED_BACK_MAX && !told {
                return None;
            }
            tokio::task::yield_now().await;
        }
        Some(remembered)
    }

    /// The services `names` at two revisions, compared; `None` where it cannot be told what one of them was.
    async fn difference(
        &self,
        apex: &Apex,
        ends: [u64; 2],
        names: &BTreeSet<ServiceName>,
        picture: &Picture,
        changes: &[Change],
    ) -> Option<Vec<Record>> {
        let Picture { services, hosts, .. } = picture;
        let (started, _) = self.view.beginnings();
        let present = Present { services, hosts, started, ttl: self.view.settings.ttl };
        let mut pasts = ends.map(|at| Past::at(at, &present, changes));
        for past in &mut pasts {
            let unsure = names.iter().filter_map(|name| match past.service(name) {
                Then::Unsure(keys) => Some(keys),
                Then::Known(_) | Then::Unknown => None,
            });
            let unsure: HashSet<Key> = unsure.flatten().collect();
            if !unsure.is_empty() {
                past.recall(self.remembered(unsure, past.revision(), changes).await?);
            }
        }
        let around = Around::of(&self.view, apex);
        let now = tree_in(&picture.zones, apex);
        let trees = ends.map(|at| tree_at(&self.view, apex, now.as_ref(), at, changes));
        let trees = trees.map(|tree| tree.map(|tree| self.grown(apex, tree)));
        let mut difference = Difference::default();
        for (number, name) in names.iter().enumerate() {
            if number % SERVICES_A_TURN == SERVICES_A_TURN - 1 {
                tokio::task::yield_now().await;
            }
            let nodes = trees.each_ref().map(|tree| {
                tree.as_ref()
                    .map(|(tree, planted)| planted.of_service(tree, name.as_str()))
                    .unwrap_or_default()
            });
            let [before, after] = match pasts.each_ref().map(|past| past.service(name)) {
                [Then::Unsure(_), _] | [_, Then::Unsure(_)] => return None,
                sure => sure.map(|then| match then {
                    Then::Known(service) => Some(service),
                    Then::Unknown | Then::Unsure(_) => None,
                }),
            };
            let [nodes_before, nodes_after] = &nodes;
            difference.add(around, before.as_deref(), after.as_deref(), [nodes_before, nodes_after]);
        }
        let own = of_apex(&self.view, apex);
        for owner in others_touched(changes, apex, ends[1]) {
            difference.compare(
                trees.each_ref().map(|tree| {
                    tree.as_ref().map(|(tree, _)| other_at(tree, &owner, &own)).unwrap_or_default()
                }),
            );
        }
        let [old, new] = ends.map(|at| soa(apex, self.view.soa_at(apex, at)));
        let mut records = vec![new.clone(), old];
        records.extend(difference.gone);
        records.push(new.clone());
        records.extend(difference.come);
        records.push(new);
        Some(records)
    }
}

/// Whose change it is, where it is an instance's; and whether it is remembered from then on.
fn leave_of(change: &Change) -> Option<(&Key, bool)> {
    match &change.what {
        What::Instance { before, after } => Some((&after.as_ref().or(before.as_ref())?.key, after.is_none())),
        What::Forgotten { key } => Some((key, false)),
        What::Host { .. }
        | What::Settings { .. }
        | What::Guard { .. }
        | What::Token { .. }
        | What::Plain { .. } => None,
    }
}

/// The log after a revision, oldest first; `None` where it has not everything, or too much.
async fn read(history: &History, after: u64) -> Option<Vec<Change>> {
    let mut changes: Vec<Change> = Vec::new();
    loop {
        let last = changes.last().map_or(after, |change| change.revision);
        let (page, oldest) = match history.after(last, PAGE) {
            Ok(read) => read,
            Err(error) => {
                tracing::warn!(%error, "reading the log for a transfer");
                return None;
            }
        };
        // Each time: what is old is taken out of the log while it is read.
        if !history.is_whole_after(last, oldest) {
            return None;
        }
        let whole = page.len() < PAGE;
        changes.extend(page);
        if changes.len() > CHANGES_MAX {
            return None;
        }
        if whole {
            return Some(changes);
        }
        tokio::task::yield_now().await;
    }
}

/// Adds what is not there yet. One revision of etcd's may hold several changes; a source has all of them, or none.
fn merge(changes: &mut Vec<Change>, others: Vec<Change>) {
    let known: HashSet<u64> = changes.iter().map(|change| change.revision).collect();
    changes.extend(others.into_iter().filter(|change| !known.contains(&change.revision)));
    changes.sort_by_key(|change| change.revision);
}
