//! What etcd tells of one key, as a change.

use std::sync::Arc;

use super::{Fold, Folded, Held, LEFT_MAX, Member};
use crate::check::Check;
use crate::instance::{Extras, Instance};
use crate::name::HostName;
use crate::registry::{Author, Change, Reason, What};
use crate::store::etcd::follow::Told;
use crate::store::etcd::place::{Place, PlainPlace};
use crate::store::record::{self, Near, Note, Unreadable};
use crate::time::Now;

impl Fold {
    pub(super) fn read(
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
            Place::CarriedOut(_) => return Ok(Folded::default()),
            Place::Instance(_)
            | Place::Host(_)
            | Place::Settings(_)
            | Place::Guard(_)
            | Place::Token(_)
            | Place::Plain(_) => {}
        }
        let (note, octets) = record::read_noted(&pair.value)?;
        let gone = (!note.there).then_some(note.at);
        let what = self.what(place, &note, (octets, pair.modified), staged, now)?;
        let (owner, number) = (note.owner.clone(), Some(note.number));
        self.held.insert(place.clone(), Held { owner, modified: pair.modified, gone, settled: None });
        let Note { reason, author, at, .. } = note;
        let change = what.map(|what| Change { revision: told.revision, at, reason, author, what });
        Ok(Folded { change, number })
    }

    /// What a record says of a thing that is another one here. `record` are its octets, and the revision at which they were written.
    fn what(
        &self,
        place: &Place,
        note: &Note,
        record: (&[u8], u64),
        staged: &mut dyn FnMut(u64, &Place) -> Option<Arc<Instance>>,
        now: Now,
    ) -> Result<Option<What>, Unreadable> {
        let (octets, modified) = record;
        Ok(match place {
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
                let after = after.map(|after| self.placed(before.as_deref(), after, modified));
                // Whose it is was all that changed.
                let same = match (&before, &after) {
                    (Some(before), Some(after)) => before.revision == after.revision,
                    (None, None) => true,
                    _ => false,
                };
                (!same).then(|| What::Instance { before, after: after.map(Arc::new) })
            }
            Place::Host(name) => self.host(name, note.there, record, now)?,
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
            Place::Plain(PlainPlace { owner, rtype, .. }) => {
                let before = self.registry.plain().set(owner, *rtype).cloned();
                let after = note.there.then(|| record::read_plain(octets, now).map(Arc::new)).transpose()?;
                let same = match (&before, &after) {
                    (Some(before), Some(after)) => before.says_same(after),
                    (None, None) => true,
                    _ => false,
                };
                (!same).then_some(What::Plain { before, after })
            }
            Place::Node(_) | Place::CarriedOut(_) | Place::Format => None,
        })
    }

    fn host(
        &self,
        name: &HostName,
        there: bool,
        (octets, modified): (&[u8], u64),
        now: Now,
    ) -> Result<Option<What>, Unreadable> {
        let before = self.registry.host(name).cloned();
        let after = match there {
            false => None,
            true => {
                let mut host = record::read_host(octets, now)?;
                host.revision = revision_of(host.revision, modified);
                host.created = revision_of(host.created, modified);
                let known = before.as_ref().map(|before| before.checks.as_slice()).unwrap_or_default();
                host.checks = adopt_checks(known, host.checks);
                Some(Arc::new(host))
            }
        };
        let same = match (&before, &after) {
            (Some(before), Some(after)) => before.revision == after.revision,
            (None, None) => true,
            _ => false,
        };
        Ok((!same).then_some(What::Host { before, after }))
    }

    /// An instance with the revisions that the store gave it, and a label that no other has.
    pub(super) fn placed(
        &self,
        before: Option<&Instance>,
        mut instance: Instance,
        modified: u64,
    ) -> Instance {
        instance.revision = revision_of(instance.revision, modified);
        instance.created = revision_of(instance.created, modified);
        match before {
            Some(before) => instance.label = before.label.clone(),
            None => instance.label = self.registry.label_instead(&instance).unwrap_or(instance.label),
        }
        instance
    }

    /// What it means that a key is not there any more.
    pub(super) fn removed(&mut self, place: &Place, revision: u64, now: Now) -> Option<Change> {
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
            Place::Plain(PlainPlace { owner, rtype, .. }) => {
                let before = self.registry.plain().set(owner, *rtype).cloned()?;
                (Reason::Updated, What::Plain { before: Some(before), after: None })
            }
            Place::CarriedOut(_) | Place::Format => return None,
        };
        Some(Change { revision, at: now.wall, reason, author: Author::Server, what })
    }

    pub(super) fn leave(&mut self, name: &str, now: Now) {
        let Some((name, member)) = self.members.remove_entry(name) else { return };
        self.left.insert(name, (member, now.wall));
        while self.left.len() > LEFT_MAX {
            let oldest = self.left.iter().min_by_key(|(_, (_, at))| *at).map(|(name, _)| name.clone());
            self.left.remove(&oldest.unwrap_or_default());
        }
    }
}

/// A record is written before its revision is known.
pub(super) fn revision_of(written: u64, modified: u64) -> u64 {
    if written == 0 { modified } else { written }
}

/// The same registration goes on with its lease: what changed about it is no word of its holder.
pub(super) fn adopt(before: Option<&Instance>, mut after: Instance) -> Instance {
    if let Some(before) = before.filter(|before| before.lease_id == after.lease_id) {
        (after.lease, after.deadline) = (before.lease, before.deadline.clone());
        after.extras =
            Extras { checks: adopt_checks(&before.checks, after.checks.clone()), ..(*after).clone() }.kept();
    }
    after
}

pub(super) fn adopt_checks(known: &[Check], checks: Vec<Check>) -> Vec<Check> {
    let same = |check: &Check| {
        known.iter().find(|known| {
            known.id == check.id
                && known.status == check.status
                && known.since == check.since
                && known.definition == check.definition
        })
    };
    // Its words may be new, its time runs on.
    let adopt = |check: Check| match same(&check) {
        Some(known) if known.output == check.output => known.clone(),
        Some(known) => Check { output: check.output, again: Arc::default(), ..known.clone() },
        None => check,
    };
    checks.into_iter().map(adopt).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::check::{Definition, Kind};
    use crate::instance::Health;
    use crate::lease::Leased;
    use crate::name::HostName;
    use crate::time::Now;

    #[test]
    fn the_words_of_a_check_are_adopted_and_its_time_runs_on() {
        let of = Leased::Host(HostName::parse("m1").expect("a name"));
        let definition = Definition { kind: Kind::Ttl(Duration::from_secs(9)), ..Definition::default() };
        let check = |output: &str| {
            let (id, definition) = ("up".into(), definition.clone().into());
            Check::new(&of, id, Health::Passing, output.into(), definition, Now::default())
        };
        let known = [check("")];
        let [adopted] = &adopt_checks(&known, vec![check("well")])[..] else { panic!("one check") };
        assert_eq!(&*adopted.output, "well");
        let same = |a: &Check, b: &Check| match (&a.deadline, &b.deadline) {
            (Some(a), Some(b)) => std::sync::Arc::ptr_eq(a, b),
            _ => false,
        };
        assert!(same(adopted, &known[0]));
        assert!(same(&adopt_checks(&known, vec![check("")])[0], &known[0]));
    }
}
