//! What no instance is made of, read back: plain records of the tree, where they may stand and how many there may be.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::Drawn;
use super::spot::Spot;
use crate::grammar::{self, Owner};
use crate::instance::Lease;
use crate::member::Member;
use crate::name::{Name, ServiceName};
use crate::record::{Data, RRSET_OCTETS_MAX, RrSet, Type};
use crate::registry::{self, PLAIN_OCTETS_MAX, PLAIN_RECORDS_MAX, PlainSet, Reason, Refusal, What, is_held};
use crate::update::{Against, Refused};

impl Drawn<'_> {
    /// What is left are records of the tree.
    pub(super) fn plain(&mut self, found: &mut Vec<(Reason, What)>) -> Result<(), Refusal> {
        let Against { registry, now, .. } = self.against;
        let staying = self.staying(found);
        let (mut records, mut octets) = (registry.plain().records(), registry.plain().octets());
        let spots = std::mem::take(&mut self.spots);
        for Spot { owner, sets, .. } in spots.into_values() {
            let known = registry.plain().at(&owner);
            for before in known {
                if !sets.iter().any(|set| set.rtype == before.set.rtype) {
                    records -= before.set.data.len();
                    octets -= before.octets();
                    found.push((Reason::Updated, What::Plain { before: Some(before.clone()), after: None }));
                }
            }
            let has = |rtype: Type| sets.iter().any(|set| set.rtype == rtype);
            if has(Type::DS) && !has(Type::NS) {
                // RFC 4034 section 5.
                let why = format!("{owner} has DS and no NS; set or delete both");
                return Err(Refused::because(why).into());
            }
            for set in sets {
                let before = known.iter().find(|before| before.set.rtype == set.rtype);
                let is_set = set.data.values().any(|datum| datum.set);
                let lease = match (is_set, set.data.values().all(|datum| datum.set)) {
                    (true, true) => self.lease(),
                    // A set has one lease: what was there before does not go early by what is put beside it.
                    (true, false) => longer(self.lease(), set.lease),
                    (false, _) => set.lease,
                };
                let same = before.is_some_and(|before| {
                    before.set.ttl == set.ttl
                        && before.lease == lease
                        && before.set.data.len() == set.data.len()
                        && before.set.data.iter().all(|data| set.data.contains_key(data))
                });
                let data: Vec<Data> = set.in_order().into_iter().map(|(data, _)| data.clone()).collect();
                if let Some(before) = before.filter(|_| same)
                    && (!is_set || !before.deadline.is_over())
                {
                    let same = Some(before.clone());
                    self.again.extend(is_set.then(|| What::Plain { before: same.clone(), after: same }));
                    continue;
                }
                self.is_free(&owner, set.rtype, &staying)?;
                let compressed: usize = data.iter().map(Data::octets_in_set).sum();
                if compressed > RRSET_OCTETS_MAX {
                    let why = format!("no reply holds so many {} of {owner}", set.rtype);
                    return Err(Refused::because(why).into());
                }
                records += data.len();
                records -= before.map_or(0, |before| before.set.data.len());
                octets += registry::octets_of(&owner, &data);
                octets -= before.map_or(0, |before| before.octets());
                let set = RrSet { rtype: set.rtype, ttl: set.ttl, data };
                let after = PlainSet::new(&self.update.apex, &owner, set, lease, now);
                let what = What::Plain { before: before.cloned(), after: Some(Arc::new(after)) };
                found.push((Reason::Updated, what));
            }
        }
        self.has_room(records, octets)?;
        Ok(())
    }

    /// Whether so many records, of so many octets, may be set in all: no more than there are always may.
    fn has_room(&self, records: usize, octets: usize) -> Result<(), Refused> {
        let registry = self.against.registry;
        if records > PLAIN_RECORDS_MAX && records > registry.plain().records() {
            let why = format!(
                "{PLAIN_RECORDS_MAX} records are set, and no more may be; delete some, or use a zone file"
            );
            return Err(Refused::because(why));
        }
        if octets > PLAIN_OCTETS_MAX && octets > registry.plain().octets() {
            let why = format!(
                "{PLAIN_OCTETS_MAX} octets of records are set, and no more may be; delete some, or use a zone file"
            );
            return Err(Refused::because(why));
        }
        Ok(())
    }

    /// The labels of every instance that there will be of the services that are spoken of, or that their guards hold.
    fn staying(&self, found: &[(Reason, What)]) -> HashMap<ServiceName, HashSet<String>> {
        let mut staying: HashMap<ServiceName, HashSet<String>> = HashMap::new();
        for service in &self.services {
            let labels = staying.entry(service.clone()).or_default();
            // Who left and is held by the guard answers at its names still.
            let (members, answered) = self.against.registry.members(service);
            let both = members.iter().chain(answered.iter());
            labels.extend(both.map(|member| member.instance.label.to_string()));
        }
        for (_, what) in found {
            if let What::Instance { before, after } = what {
                if let Some(gone) = before {
                    staying.entry(gone.key.service.clone()).or_default().remove(gone.label.as_str());
                }
                if let Some(come) = after {
                    staying.entry(come.key.service.clone()).or_default().insert(come.label.to_string());
                }
            }
        }
        staying
    }

    /// Whether plain records of a type may stand here.
    fn is_free(
        &mut self,
        owner: &Name,
        rtype: Type,
        staying: &HashMap<ServiceName, HashSet<String>>,
    ) -> Result<(), Refused> {
        if self.against.view.file_holds(self.update.apex.name(), owner).is_some() {
            return Err(self.not_ours(owner, &owner.to_string()));
        }
        let lower = owner.to_lowercase();
        let labels = lower.labels_below(self.update.apex.name()).unwrap_or_default();
        let held = match grammar::parse(&labels) {
            Some(
                Owner::NameServer(_)
                | Owner::Registration(_)
                | Owner::Registrations
                | Owner::Types
                | Owner::Browse,
            ) => true,
            Some(read) => {
                let service = read.service().and_then(|service| ServiceName::parse(service).ok());
                let labels = service.as_ref().and_then(|service| staying.get(service));
                let label = match read {
                    Owner::Below { label, .. } | Owner::TypeInstance { label, .. } => label,
                    _ => "",
                };
                let is_taken = labels.is_some_and(|labels| {
                    !labels.is_empty() && is_held(read, "") || !label.is_empty() && labels.contains(label)
                });
                if !is_taken
                    && registry::is_answered_instead(read, rtype)
                    && let Some(service) = service.filter(|service| self.against.registry.fails_over(service))
                {
                    return Err(Refused::because(format!(
                        "the service {service} fails over, and answers at {owner}"
                    )));
                }
                is_taken || registry::would_hide(read, rtype) && self.is_spelt_by_instances(read)
            }
            None => false,
        };
        match held {
            true => Err(self.not_ours(owner, &owner.to_string())),
            false => Ok(()),
        }
    }

    /// True where a tag, a named port or an id of an instance spells this name, be the instance live or not.
    fn is_spelt_by_instances(&mut self, read: Owner<'_>) -> bool {
        let Some(view) = read.service().and_then(|service| self.against.view.service(service)) else {
            return false;
        };
        let lower = |member: &Member| member.instance.key.id.as_str().to_ascii_lowercase();
        match read {
            Owner::ByPort { port, transport, .. } => view.ports.has(port, transport),
            Owner::Below { label: tag, .. } | Owner::ByTag { tag, .. } | Owner::Subtype { tag, .. } => {
                view.tags.contains(tag)
            }
            Owner::TypeInstance { label, .. } => {
                let ids = self.ids.entry(view.name.clone());
                let ids = ids.or_insert_with(|| view.members.iter().map(lower).collect());
                ids.contains(&label.to_ascii_lowercase())
            }
            _ => false,
        }
    }
}

fn longer(one: Lease, other: Lease) -> Lease {
    match (one, other) {
        (Lease::Timed(one), Lease::Timed(other)) => Lease::Timed(one.max(other)),
        _ => Lease::None,
    }
}
