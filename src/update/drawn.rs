//! The records that a message speaks of: laid out, changed in order, and read back as instances and plain records.

mod changes;
mod instances;
mod plain;
mod spot;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use self::instances::is_ours;
use self::spot::{ByType, Gone, Spot, is_zones};
use super::{Against, Outcome, Refused, Rr, Update};
use crate::access::On;
use crate::answer::CLASS_IN;
use crate::grammar::Owner;
use crate::instance::{Lease, Transport};
use crate::live::whole::{Indexes, records_at, rest_of};
use crate::name::{Name, ServiceName};
use crate::record::{Data, Record, Type};
use crate::registry::{self, PlainSet, Refusal, What};

/// The records that a message speaks of, while its changes are made to them.
pub(super) struct Drawn<'a> {
    update: &'a Update,
    against: Against<'a>,
    /// By owner, in lower-case wire form.
    spots: BTreeMap<Vec<u8>, Spot>,
    /// Those whose instances are laid out.
    services: BTreeSet<ServiceName>,
    /// They as they are, and without the instances that UPDATE registered.
    wholes: Indexes,
    rests: Indexes,
    /// The ids of everybody who is registered of a service, in lower case, where that was asked.
    ids: HashMap<ServiceName, HashSet<String>>,
    /// What services made of an owner before the message, where that was asked.
    made: HashMap<Name, ByType>,
    /// What was said again as it is.
    again: Vec<What>,
}

impl<'a> Drawn<'a> {
    pub fn new(update: &'a Update, against: Against<'a>) -> Self {
        Self {
            update,
            against,
            spots: BTreeMap::new(),
            services: BTreeSet::new(),
            wholes: Indexes::default(),
            rests: Indexes::default(),
            ids: HashMap::new(),
            made: HashMap::new(),
            again: Vec::new(),
        }
    }

    /// RFC 2136 section 3.4.2.
    pub fn carry_out(&mut self, change: &Rr) -> Result<(), Refused> {
        let Rr { owner, rtype, class, ttl, data } = change;
        let at_apex = *owner == *self.update.apex.name();
        match (*class, data) {
            (CLASS_IN, Some(data)) => self.add(owner, *ttl, data),
            // The zone keeps its SOA and its NS (section 3.4.2.3 and 3.4.2.4).
            (_, _) if at_apex && is_zones(*rtype) => Ok(()),
            (_, None) if *rtype == Type::ANY && at_apex => self.delete(owner, Gone::AllOfApex),
            (_, None) if *rtype == Type::ANY => self.delete(owner, Gone::All),
            (_, None) => self.delete(owner, Gone::Type(*rtype)),
            (_, Some(data)) => self.delete(owner, Gone::Record(data)),
        }
    }

    /// Everything is read back, and compared with what is there.
    pub fn outcome(mut self) -> Result<Outcome, Refusal> {
        let mut found = Vec::new();
        let mut come = 0;
        let Against { registry, access, by, .. } = self.against;
        for service in self.services.clone() {
            let new = self.instances(&service, &mut found)?;
            come += new;
            let owned = by.owner.as_ref().map_or(0, |owner| registry.owned_by(owner));
            if new > 0 && !access.permits_another(by, On::from(&service), owned + come - 1) {
                return Err(Refusal::OwnsTooMany { who: by.to_string(), limit: access.owned_max });
            }
        }
        if come > 0 && registry.instances() + come > registry.instances_max() {
            return Err(Refusal::Full { limit: registry.instances_max() });
        }
        self.plain(&mut found)?;
        Ok(Outcome { changes: found, again: self.again })
    }

    /// What is at an owner; what UPDATE has there is laid out, of a service's names with all its instances.
    fn spot(&mut self, owner: &Name) -> &mut Spot {
        let key = owner.to_lowercase().as_wire().to_vec();
        if !self.spots.contains_key(&key) {
            if let Some(service) = self.service_of(owner) {
                self.lay_out(&service);
            }
            self.lay(owner);
        }
        self.spots.get_mut(&key).expect("it was just laid out")
    }

    /// What others have at an owner.
    fn others(&mut self, owner: &Name) -> &ByType {
        if self.spot(owner).others.is_none() {
            let (view, apex) = (self.against.view, &self.update.apex);
            let rests = &mut self.rests;
            let rest = |name: &str| rests.of(name, || rest_of(view, name, |member| !is_ours(member)));
            let there = records_at(view, apex, owner, rest);
            let others = self.without_plain(owner, there);
            self.spot(owner).others = Some(others);
        }
        self.spot(owner).others.get_or_insert_default()
    }

    /// The plain records at an owner.
    fn lay(&mut self, owner: &Name) -> &mut Spot {
        let registry = self.against.registry;
        self.spots.entry(owner.to_lowercase().as_wire().to_vec()).or_insert_with(|| {
            let mut spot = Spot { owner: owner.clone(), sets: Vec::new(), others: None };
            for PlainSet { set, lease, .. } in registry.plain().at(owner).iter().map(|plain| &**plain) {
                set.data.iter().for_each(|data| spot.put(data.clone(), set.ttl, *lease, false));
            }
            spot
        })
    }

    /// The records that the instances of a service are made of, as far as UPDATE registered them.
    fn lay_out(&mut self, service: &ServiceName) {
        if !self.services.insert(service.clone()) {
            return;
        }
        let registry = self.against.registry;
        let members = registry.service(service).map(|known| known.members.clone()).unwrap_or_default();
        let ttl = self.against.view.ttl(service);
        for member in members.iter().filter(|member| is_ours(member)) {
            let instance = &member.instance;
            let own = self.update.apex.owner(&[instance.label.as_str(), service.as_str()]);
            for address in instance.addresses() {
                let data = match address {
                    IpAddr::V4(v4) => Data::A(*v4),
                    IpAddr::V6(v6) => Data::Aaaa(*v6),
                };
                self.lay(&own).put(data, ttl, instance.lease, false);
            }
            let (priority, weight) = (instance.priority, instance.weight);
            for port in &*instance.ports {
                let owner = self.srv_owner(service, port.transport);
                let data = Data::Srv { priority, weight, port: port.number, target: own.clone() };
                self.lay(&owner).put(data, ttl, instance.lease, false);
            }
        }
        for transport in Transport::ALL {
            let owner = self.srv_owner(service, transport);
            self.lay(&owner);
        }
    }

    fn srv_owner(&self, service: &ServiceName, transport: Transport) -> Name {
        self.update.apex.owner(&[&format!("_{service}"), transport.label()])
    }

    /// What somebody else has at an owner, of everything that is there.
    fn without_plain(&self, owner: &Name, there: Vec<Record>) -> ByType {
        let plain = self.against.registry.plain().at(owner);
        let ours: HashSet<&Data> = plain.iter().flat_map(|plain| &plain.set.data).collect();
        let mut by_type = ByType::new();
        for data in there.into_iter().map(|record| record.data).filter(|data| !ours.contains(data)) {
            by_type.entry(data.rtype()).or_default().insert(data);
        }
        by_type
    }

    fn lease(&self) -> Lease {
        self.update.lease.map_or(Lease::None, Lease::Timed)
    }

    fn service_of(&self, owner: &Name) -> Option<ServiceName> {
        registry::service_of(&self.update.apex, owner)
    }

    fn read<T>(&self, owner: &Name, read: impl FnOnce(Option<Owner<'_>>) -> T) -> T {
        registry::read_as(&self.update.apex, owner, read)
    }

    /// The refusal for a name that somebody else has.
    fn not_ours(&self, owner: &Name, what: &str) -> Refused {
        if let Some(node) = self.against.view.file_holds(self.update.apex.name(), owner) {
            return Refused::because(format!(
                "{what} is set in the zone file, line {}; change it there",
                node.line
            ));
        }
        match self.service_of(owner).filter(|service| self.against.registry.service(service).is_some()) {
            Some(service) => {
                Refused::because(format!("{what} is an answer of the service {service}, and no record"))
            }
            None => Refused::because(format!("{what} is made by the server itself")),
        }
    }
}
