//! One change of a message, made to the records that are laid out: what is added or deleted, passed over or refused.

use super::Drawn;
use super::spot::{Gone, made_by_signer};
use crate::grammar::Owner;
use crate::instance::Transport;
use crate::live::whole::records_at;
use crate::name::{Name, ServiceName};
use crate::record::{Data, Type};
use crate::update::Refused;
use crate::zone::{self, Kind, RRSET_RECORDS_MAX};

impl Drawn<'_> {
    pub(super) fn add(&mut self, owner: &Name, ttl: u32, data: &Data) -> Result<(), Refused> {
        let apex = self.update.apex.name();
        let rtype = data.rtype();
        // With the highest bit set a TTL is 0 (RFC 2181 section 8).
        let ttl = if ttl > zone::TTL_MAX { 0 } else { ttl };
        match data {
            // What is not newer, or not of the zone, is passed over (section 3.4.2.2).
            Data::Soa(_) if owner != apex => return Ok(()),
            Data::Soa(soa) if is_newer(soa.serial, self.against.view.serial()) => {
                return Err(Refused::because(format!("the SOA of {apex} is made by the server")));
            }
            Data::Soa(_) => return Ok(()),
            _ => {}
        }
        if let Some(name) = made_by_signer(rtype) {
            return Err(Refused::because(format!("{name} is made by whoever signs the zone")));
        }
        let lease = self.lease();
        if self.others(owner).get(&rtype).is_some_and(|others| others.contains(data)) {
            return Ok(()); // it is so already
        }
        if owner == apex && rtype == Type::NS {
            return Err(Refused::because(format!("the NS of {apex} are made by the server")));
        }
        if owner == apex && rtype == Type::DS {
            return Err(Refused::because(format!("the DS of {apex} belongs into the zone above it")));
        }
        if rtype == Type::NS && self.has_live_names_below(owner) {
            return Err(Refused::because(format!("{owner} is above names of services")));
        }
        if rtype == Type::DNAME {
            return Err(Refused::because("a DNAME is for the zone's file to have"));
        }
        zone::admit(apex, Kind::Tree, owner, ttl, data).map_err(Refused::because)?;
        let spot = self.spot(owner);
        // Beside an alias is nothing else (section 3.4.2.2): what comes second is passed over.
        if (rtype == Type::CNAME) != spot.has_alias() && !spot.sets.is_empty() {
            return Ok(());
        }
        if rtype == Type::CNAME {
            spot.take(Gone::All);
        }
        match spot.sets.iter_mut().find(|set| set.rtype == rtype) {
            None => spot.put(data.clone(), ttl, lease, true),
            Some(set) => {
                // The records of a set have one TTL (RFC 2181 section 5.2): the newest.
                set.ttl = ttl;
                let full = set.data.len() == RRSET_RECORDS_MAX;
                match set.data.get_mut(data) {
                    Some(datum) => datum.set = true,
                    None if full => {
                        return Err(Refused::because(format!(
                            "{owner} has {RRSET_RECORDS_MAX} records {rtype}, and no more may it have"
                        )));
                    }
                    None => set.put(data.clone(), true),
                }
            }
        }
        Ok(())
    }

    /// True where a zone cut here would take names from services: those with `_` in front belong to all of them.
    fn has_live_names_below(&self, owner: &Name) -> bool {
        let lower = owner.to_lowercase();
        let labels = lower.labels_below(self.update.apex.name()).unwrap_or_default();
        labels.iter().any(|label| label.starts_with(b"_"))
            || self.service_of(owner).is_some_and(|service| self.against.registry.service(&service).is_some())
    }

    pub(super) fn delete(&mut self, owner: &Name, gone: Gone<'_>) -> Result<(), Refused> {
        if let Some(rtype) = gone.first_of(self.others(owner)) {
            return Err(self.not_ours(owner, &format!("{owner} {rtype}")));
        }
        if let Some((service, rtype)) = self.made_of_instances(owner, gone) {
            return Err(Refused::because(format!(
                "{owner} {rtype} is made of the instances of {service}; delete their SRV and addresses"
            )));
        }
        self.spot(owner).take(gone);
        Ok(())
    }

    /// What is to be deleted and is there because of instances that UPDATE registered, but is none of the records that
    /// spell these: to delete it would change nothing.
    fn made_of_instances(&mut self, owner: &Name, gone: Gone<'_>) -> Option<(ServiceName, Type)> {
        let service = self.service_of(owner)?;
        let spelling: &[Type] = self.read(owner, |read| match read {
            Some(Owner::Below { .. }) => &[Type::A, Type::AAAA][..],
            Some(Owner::ByTransport(..)) => &[Type::SRV],
            _ => &[],
        });
        // Of everything at a name that spells, that part goes and takes the rest along.
        if gone.rtype().map_or(!spelling.is_empty(), |rtype| spelling.contains(&rtype)) {
            return None;
        }
        let owners = Transport::ALL.map(|transport| self.srv_owner(&service, transport));
        if !owners.iter().any(|owner| self.spot(owner).set(Type::SRV).is_some()) {
            return None; // they are gone by now
        }
        if !self.made.contains_key(owner) {
            let (view, apex) = (self.against.view, &self.update.apex);
            let wholes = &mut self.wholes;
            let there = records_at(view, apex, owner, |name| wholes.of(name, || view.service(name)));
            let made = self.without_plain(owner, there);
            self.made.insert(owner.clone(), made);
        }
        gone.first_of(&self.made[owner]).map(|rtype| (service, rtype))
    }
}

/// RFC 1982 section 3.2.
fn is_newer(serial: u32, than: u32) -> bool {
    let ahead = serial.wrapping_sub(than);
    ahead != 0 && ahead <= u32::MAX / 2
}
