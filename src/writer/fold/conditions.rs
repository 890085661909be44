//! What a transaction holds under: that nobody has written what it was checked against, and that this node is still the one to ask.

use super::{Fold, GUARDED_MAX};
use crate::name::ServiceName;
use crate::store::etcd::messages::{Condition, behind};
use crate::store::etcd::place::{self, Place};
use crate::update::{MessageId, Reads};

impl Fold {
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
        let key = self.key_of(place);
        let known = match (place, self.held.get(place)) {
            // It is there from the first node's start on, and its revision is not kept.
            (Place::Format, _) => return vec![self.while_unwritten(place)],
            (_, Some(held)) => Condition::ModifiedAt(key, held.modified),
            (_, None) => Condition::CreatedAt(key, 0),
        };
        match place {
            // Two nodes must not give one label to two instances.
            Place::Instance(key) if !(is_there && self.held.contains_key(place)) => {
                // Nor may one of them be what another node has just made a plain record.
                vec![
                    known,
                    self.while_none_since(&place::neighbours(key)),
                    self.while_same_plain(&key.service),
                ]
            }
            _ => vec![known],
        }
    }

    /// Holds while nobody wrote this since what we know.
    fn while_unwritten(&self, place: &Place) -> Condition {
        let key = self.key_of(place);
        let end = [key.as_slice(), &[0]].concat();
        Condition::NoneSince(key, end, self.registry.revision() + 1)
    }

    /// Holds while no plain record at a name of the service is another one.
    pub fn while_same_plain(&self, service: &ServiceName) -> Condition {
        self.while_none_since(&place::plain_of(service))
    }

    /// Holds while nothing that begins with this was written since what we know.
    fn while_none_since(&self, prefix: &str) -> Condition {
        let (prefix, since) = (self.key(prefix), self.registry.revision() + 1);
        Condition::NoneSince(prefix.clone(), behind(&prefix), since)
    }

    /// Hold while what a command of records was checked against is as we know it.
    pub fn while_same_records(&self, reads: &Reads) -> Vec<Condition> {
        if reads.everything {
            return vec![self.while_none_since("")];
        }
        let mut conditions = self.while_same_places(reads);
        if reads.nodes {
            conditions.extend(self.while_same_ring());
        }
        if !reads.answers.is_empty() {
            conditions.push(self.while_none_since(&place::hosts()));
        }
        if reads.answers.len() > GUARDED_MAX {
            conditions.push(self.while_none_since(&place::guards()));
        } else {
            let guards = reads.answers.iter().map(|service| Place::Guard(service.clone()));
            conditions.extend(guards.map(|guard| self.while_unwritten(&guard)));
        }
        conditions
    }

    /// The same of instances and plain records.
    fn while_same_places(&self, reads: &Reads) -> Vec<Condition> {
        if reads.owners.len() + reads.services.len() > GUARDED_MAX {
            let instances = (!reads.services.is_empty()).then(|| place::instances(None));
            let all = instances.into_iter().chain([place::plain()]);
            return all.map(|prefix| self.while_none_since(&prefix)).collect();
        }
        let owners = reads.owners.iter().map(|(service, owner)| place::plain_at(service.as_ref(), owner));
        let services =
            reads.services.iter().flat_map(|name| [place::instances(Some(name)), place::plain_of(name)]);
        owners.chain(services).map(|prefix| self.while_none_since(&prefix)).collect()
    }

    /// Holds while no node has carried this message out.
    pub fn while_not_carried_out(&self, message: MessageId) -> Condition {
        Condition::CreatedAt(self.key_of(&Place::CarriedOut(message)), 0)
    }
}
