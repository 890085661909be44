//! The records that a message speaks of: laid out, changed in order, and read back as instances and plain records.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::{Against, Refused, Rr, Update};
use crate::access::{On, Owner as Holder, Verb};
use crate::answer::CLASS_IN;
use crate::grammar::{self, Owner};
use crate::instance::{ADDRESSES_MAX, Instance, Key, Lease, Location, Port, Transport};
use crate::live::whole::{records_at, rest_of};
use crate::member::Member;
use crate::name::{HostName, InstanceId, Name, ServiceName};
use crate::protocol::unusable;
use crate::record::{Data, RrSet, Type};
use crate::registry::{
    self, Command, PLAIN_RECORDS_MAX, PlainSet, Reason, Refusal, Registration, What, is_held,
};
use crate::view::ServiceView;
use crate::zone::{self, Kind, RRSET_RECORDS_MAX};

/// Types that whoever signs the zone makes, with their names.
const SIGNERS: [(u16, &str); 7] = [
    (46, "RRSIG"),
    (47, "NSEC"),
    (48, "DNSKEY"),
    (50, "NSEC3"),
    (51, "NSEC3PARAM"),
    (59, "CDS"),
    (60, "CDNSKEY"),
];

/// Octets of one RRset with its owner compressed: what a reply of 65,535 holds beside its question, signatures and options.
const RRSET_OCTETS_MAX: usize = 60_000;
/// A pointer to the owner, type, class, TTL and length.
const RECORD_OCTETS: usize = 12;

/// The records that a message speaks of, while its changes are made to them.
pub(super) struct Drawn<'a> {
    update: &'a Update,
    against: Against<'a>,
    /// By owner, in lower-case wire form.
    spots: BTreeMap<Vec<u8>, Spot>,
    /// Those whose instances are laid out.
    services: BTreeSet<ServiceName>,
    /// They as they are without the instances that UPDATE registered; none where those are all.
    rests: HashMap<ServiceName, Option<Arc<ServiceView>>>,
    /// What was said again as it is: renewed where all of the message is carried out.
    again: Again,
}

#[derive(Default)]
struct Again {
    instances: Vec<Arc<Instance>>,
    plain: Vec<Arc<PlainSet>>,
}

/// One owner.
struct Spot {
    owner: Name,
    sets: Vec<Set>,
    /// What others have here, where that was asked: not for an UPDATE to change.
    others: Option<Vec<Data>>,
}

/// Records of one type.
struct Set {
    rtype: Type,
    ttl: u32,
    data: Vec<Datum>,
    lease: Lease,
}

struct Datum {
    data: Data,
    /// This message has set it.
    set: bool,
}

impl Spot {
    fn set(&self, rtype: Type) -> Option<&Set> {
        self.sets.iter().find(|set| set.rtype == rtype)
    }

    fn has_alias(&self) -> bool {
        self.set(Type::CNAME).is_some()
    }

    fn put(&mut self, data: Data, ttl: u32, lease: Lease, is_set: bool) {
        let rtype = data.rtype();
        match self.sets.iter_mut().find(|set| set.rtype == rtype) {
            Some(set) => set.data.push(Datum { data, set: is_set }),
            None => {
                let data = vec![Datum { data, set: is_set }];
                self.sets.push(Set { rtype, ttl, data, lease });
            }
        }
    }

    /// Takes out what `which` holds of.
    fn take(&mut self, which: impl Fn(&Data) -> bool) -> bool {
        let mut taken = false;
        for set in &mut self.sets {
            let before = set.data.len();
            set.data.retain(|datum| !which(&datum.data));
            taken |= set.data.len() < before;
        }
        self.sets.retain(|set| !set.data.is_empty());
        taken
    }
}

impl<'a> Drawn<'a> {
    pub fn new(update: &'a Update, against: Against<'a>) -> Self {
        let (spots, services, rests) = (BTreeMap::new(), BTreeSet::new(), HashMap::new());
        Self { update, against, spots, services, rests, again: Again::default() }
    }

    /// RFC 2136 section 3.4.2.
    pub fn carry_out(&mut self, change: &Rr) -> Result<(), Refused> {
        let Rr { owner, rtype, class, ttl, data } = change;
        let at_apex = *owner == *self.update.apex.name();
        let is_zones = |rtype: Type| matches!(rtype, Type::SOA | Type::NS);
        match (*class, data) {
            (CLASS_IN, Some(data)) => self.add(owner, *ttl, data),
            // The zone keeps its SOA and its NS (section 3.4.2.3 and 3.4.2.4).
            (_, _) if at_apex && is_zones(*rtype) => Ok(()),
            (_, None) if *rtype == Type::ANY => {
                self.delete(owner, |data| !(at_apex && is_zones(data.rtype())))
            }
            (_, None) => self.delete(owner, |data| data.rtype() == *rtype),
            (_, Some(gone)) => self.delete(owner, |data| data == gone),
        }
    }

    fn add(&mut self, owner: &Name, ttl: u32, data: &Data) -> Result<(), Refused> {
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
        if let Some((_, name)) = SIGNERS.iter().find(|(number, _)| rtype == Type(*number)) {
            return Err(Refused::because(format!("{name} is made by whoever signs the zone")));
        }
        let lease = self.lease();
        if self.others(owner).contains(data) {
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
        zone::admit(apex, Kind::Tree, owner, ttl, data).map_err(Refused::because)?;
        let spot = self.spot(owner);
        // Beside an alias is nothing else (section 3.4.2.2): what comes second is passed over.
        if (rtype == Type::CNAME) != spot.has_alias() && !spot.sets.is_empty() {
            return Ok(());
        }
        if rtype == Type::CNAME {
            spot.take(|_| true);
        }
        match spot.sets.iter_mut().find(|set| set.rtype == rtype) {
            None => spot.put(data.clone(), ttl, lease, true),
            Some(set) => {
                // The records of a set have one TTL (RFC 2181 section 5.2): the newest.
                set.ttl = ttl;
                let full = set.data.len() == RRSET_RECORDS_MAX;
                match set.data.iter_mut().find(|datum| datum.data == *data) {
                    Some(datum) => datum.set = true,
                    None if full => {
                        return Err(Refused::because(format!(
                            "{owner} has {RRSET_RECORDS_MAX} records {rtype}, and no more may it have"
                        )));
                    }
                    None => set.data.push(Datum { data: data.clone(), set: true }),
                }
            }
        }
        Ok(())
    }

    fn delete(&mut self, owner: &Name, which: impl Fn(&Data) -> bool) -> Result<(), Refused> {
        if let Some(other) = self.others(owner).iter().find(|data| which(data)) {
            let rtype = other.rtype();
            return Err(self.not_ours(owner, &format!("{owner} {rtype}")));
        }
        self.spot(owner).take(which);
        Ok(())
    }

    fn lease(&self) -> Lease {
        self.update.lease.map_or(Lease::None, Lease::Timed)
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

    fn service_of(&self, owner: &Name) -> Option<ServiceName> {
        self.read(owner, |owner| owner?.service().and_then(|service| ServiceName::parse(service).ok()))
    }

    fn read<T>(&self, owner: &Name, read: impl FnOnce(Option<Owner<'_>>) -> T) -> T {
        let lower = owner.to_lowercase();
        read(grammar::parse(&lower.labels_below(self.update.apex.name()).unwrap_or_default()))
    }

    /// What others have at an owner.
    fn others(&mut self, owner: &Name) -> &[Data] {
        let (registry, view, apex) = (self.against.registry, self.against.view, &self.update.apex);
        if self.spot(owner).others.is_none() {
            let rest = self.service_of(owner).and_then(|service| {
                let rests = self.rests.entry(service);
                rests
                    .or_insert_with_key(|service| rest_of(view, service.as_str(), |member| !is_ours(member)))
                    .clone()
            });
            let plain = registry.plain().at(owner);
            let ours: HashSet<&Data> = plain.iter().flat_map(|plain| &plain.set.data).collect();
            let others = records_at(view, apex, owner, |_| rest).into_iter().map(|record| record.data);
            let others = others.filter(|data| !ours.contains(data)).collect();
            self.spot(owner).others = Some(others);
        }
        self.spot(owner).others.as_deref().unwrap_or_default()
    }

    /// The plain records at an owner.
    fn lay(&mut self, owner: &Name) -> &mut Spot {
        let registry = self.against.registry;
        self.spots.entry(owner.to_lowercase().as_wire().to_vec()).or_insert_with(|| {
            let sets = registry.plain().at(owner).iter().map(|plain| Set {
                rtype: plain.set.rtype,
                ttl: plain.set.ttl,
                data: plain.set.data.iter().map(|data| Datum { data: data.clone(), set: false }).collect(),
                lease: plain.lease,
            });
            Spot { owner: owner.clone(), sets: sets.collect(), others: None }
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

    /// Everything is read back, and compared with what is there.
    pub fn changes(mut self) -> Result<Vec<(Reason, What)>, Refusal> {
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
        let now = self.against.now;
        for instance in &self.again.instances {
            instance.deadline.renew(now);
        }
        for set in &self.again.plain {
            set.deadline.renew(now);
        }
        Ok(found)
    }

    /// Takes the records of a service's instances out, and says what becomes of these; returns how many are new.
    fn instances(
        &mut self,
        service: &ServiceName,
        found: &mut Vec<(Reason, What)>,
    ) -> Result<usize, Refusal> {
        let Against { registry, access, by, now, .. } = self.against;
        let shapes = self.shapes(service)?;
        let known = registry.service(service);
        let members = known.map(|known| known.members.clone()).unwrap_or_default();
        for member in members.iter().filter(|member| is_ours(member)) {
            if !shapes.contains_key(member.instance.label.as_str()) {
                access.permits_change(by, Verb::Deregister, &member.instance, registry.tokens(), now.wall)?;
                let holder = registry::Holder { key: member.instance.key.clone(), lease_id: None };
                found.extend(registry.check(&Command::Deregister(holder), now)?);
            }
        }
        let mut new = 0;
        for (label, shape) in shapes {
            let before = members.get(&label).map(|member| member.instance.clone());
            if before.as_ref().is_some_and(|before| !before.owner.as_deref().is_some_and(Holder::is_key)) {
                let why =
                    format!("{label} of {service} was registered in another way, and is changed in that way");
                return Err(Refused::because(why).into());
            }
            if let Some(before) = &before {
                let lease = if shape.set { self.lease() } else { before.lease };
                let same = shape.is(before) && lease == before.lease;
                if same && !shape.set {
                    continue; // drained or not, this message is not about it
                }
                access.permits_change(by, Verb::Register, before, registry.tokens(), now.wall)?;
                if same && !before.draining && !before.deadline.is_over() {
                    // Said again is renewed: no change, as with a heartbeat.
                    self.again.instances.push(before.clone());
                    continue;
                }
            } else {
                new += 1;
                self.names_are_free(service, &label)?;
            }
            let registration = self.registration(service, &label, shape, before.as_deref())?;
            let registered = registry.check(&Command::Register(Box::new(registration)), now)?;
            // Who left and is held by a guard keeps its label.
            let kept = |(_, what): &(Reason, What)| match what {
                What::Instance { after: Some(after), .. } => after.label.as_str() == label,
                _ => true,
            };
            if !registered.iter().all(kept) {
                let why = format!(
                    "{label} of {service} is the name of an instance that the guard holds; try again later"
                );
                return Err(Refused::because(why).into());
            }
            found.extend(registered);
        }
        Ok(new)
    }

    /// The instances that the records of a service spell, by label; their records are taken out.
    fn shapes(&mut self, service: &ServiceName) -> Result<BTreeMap<String, Shape>, Refused> {
        let mut shapes: BTreeMap<String, Shape> = BTreeMap::new();
        for transport in Transport::ALL {
            let owner = self.srv_owner(service, transport);
            let mut taken = HashSet::new();
            let records: Vec<(Data, bool)> = self
                .spot(&owner)
                .set(Type::SRV)
                .map(|set| set.data.iter().map(|datum| (datum.data.clone(), datum.set)).collect())
                .unwrap_or_default();
            for (data, set) in records {
                let Data::Srv { priority, weight, port, target } = &data else { continue };
                let Some(label) = self.label_below(service, target) else { continue };
                let (addresses, addresses_set) = self.addresses(target);
                if addresses.is_empty() {
                    continue;
                }
                let port = Port { name: None, number: *port, transport };
                let set = set || addresses_set;
                match shapes.get_mut(&label) {
                    None => {
                        let (priority, weight) = (*priority, *weight);
                        let shape = Shape { addresses, ports: vec![port], priority, weight, set };
                        shapes.insert(label, shape);
                    }
                    Some(known) => {
                        if known.ports.iter().any(|other| other.transport == transport) {
                            return Err(Refused::because(format!(
                                "{label} of {service} has two SRV of {}; give each port a target of its own",
                                transport.as_str()
                            )));
                        }
                        if (known.priority, known.weight) != (*priority, *weight) {
                            return Err(Refused::because(format!(
                                "{label} of {service} has two priorities or weights; an instance has one of each"
                            )));
                        }
                        known.ports.push(port);
                        known.set |= set;
                    }
                }
                taken.insert(data);
            }
            self.spot(&owner).take(|data| taken.contains(data));
        }
        for label in shapes.keys() {
            let own = self.update.apex.owner(&[label, service.as_str()]);
            self.spot(&own).take(|data| matches!(data, Data::A(_) | Data::Aaaa(_)));
        }
        Ok(shapes)
    }

    /// The label of an instance whose own name this is.
    fn label_below(&self, service: &ServiceName, target: &Name) -> Option<String> {
        let label = self.read(target, |owner| match owner {
            Some(Owner::Below { service: of, label }) if of == service.as_str() => Some(label.to_owned()),
            _ => None,
        })?;
        let id = InstanceId::parse(&label).ok()?;
        (id.label().as_str() == label && *target == self.update.apex.owner(&[&label, service.as_str()]))
            .then_some(label)
    }

    fn addresses(&mut self, owner: &Name) -> (Vec<IpAddr>, bool) {
        let sets = self.spot(owner).sets.iter().filter(|set| matches!(set.rtype, Type::A | Type::AAAA));
        let (mut addresses, mut set) = (Vec::new(), false);
        for datum in sets.flat_map(|set| &set.data) {
            set |= datum.set;
            match datum.data {
                Data::A(v4) => addresses.push(IpAddr::V4(v4)),
                Data::Aaaa(v6) => addresses.push(IpAddr::V6(v6)),
                _ => {}
            }
        }
        addresses.sort_unstable();
        (addresses, set)
    }

    fn registration(
        &self,
        service: &ServiceName,
        label: &str,
        shape: Shape,
        before: Option<&Instance>,
    ) -> Result<Registration, Refused> {
        let refused = |why: String| Refused::because(format!("{label} of {service}: {why}"));
        if shape.addresses.len() > ADDRESSES_MAX {
            return Err(refused(format!("an instance has at most {ADDRESSES_MAX} addresses")));
        }
        let unfit = |address: &&IpAddr| unusable(**address, self.update.loopback_allowed).is_some();
        if let Some(address) = shape.addresses.iter().find(unfit) {
            let reason = unusable(*address, self.update.loopback_allowed).unwrap_or_default();
            return Err(refused(format!("{address} {reason}")));
        }
        if shape.ports.iter().any(|port| port.number == 0) {
            return Err(refused("a port is 1 to 65535".to_owned()));
        }
        let key = match before {
            Some(before) => before.key.clone(),
            None => {
                let id = InstanceId::parse(label).map_err(|error| refused(error.to_string()))?;
                let host = shape.addresses.first().map(IpAddr::to_string).unwrap_or_default();
                let host = HostName::parse(&host).map_err(|error| refused(error.to_string()))?;
                Key::new(service.clone(), id, host)
            }
        };
        let lease = match before {
            Some(before) if !shape.set => before.lease,
            _ => self.lease(),
        };
        Ok(Registration {
            weight: shape.weight,
            priority: shape.priority,
            owner: self.against.by.owner.clone(),
            ..Registration::new(
                key,
                Location::Addresses(shape.addresses.into()),
                shape.ports,
                lease,
                self.update.lease_id,
            )
        })
    }

    /// A new instance takes names that no plain record may have.
    fn names_are_free(&self, service: &ServiceName, label: &str) -> Result<(), Refused> {
        for owner in self.against.registry.plain().of_service(service.as_str()) {
            let is_its = self.read(owner, |read| read.is_some_and(|read| is_held(read, label)));
            let spoken_of = self.spots.contains_key(owner.to_lowercase().as_wire());
            if is_its && !spoken_of && owner.is_within(self.update.apex.name()) {
                return Err(Refused::because(format!(
                    "{owner} has records that an UPDATE set; delete them before {label} becomes an instance of {service}"
                )));
            }
        }
        Ok(())
    }

    /// What is left are records of the tree.
    fn plain(&mut self, found: &mut Vec<(Reason, What)>) -> Result<(), Refusal> {
        let Against { registry, now, .. } = self.against;
        let staying = self.staying(found);
        let mut records = registry.plain().records();
        let spots = std::mem::take(&mut self.spots);
        for Spot { owner, sets, .. } in spots.into_values() {
            let known = registry.plain().at(&owner);
            for before in known {
                if !sets.iter().any(|set| set.rtype == before.set.rtype) {
                    records -= before.set.data.len();
                    found.push((Reason::Updated, What::Plain { before: Some(before.clone()), after: None }));
                }
            }
            for set in sets {
                let before = known.iter().find(|before| before.set.rtype == set.rtype);
                let is_set = set.data.iter().any(|datum| datum.set);
                let lease = match (is_set, set.data.iter().all(|datum| datum.set)) {
                    (true, true) => self.lease(),
                    // A set has one lease: what was there before does not go early by what is put beside it.
                    (true, false) => longer(self.lease(), set.lease),
                    (false, _) => set.lease,
                };
                let data: Vec<Data> = set.data.into_iter().map(|datum| datum.data).collect();
                let same = before.is_some_and(|before| {
                    before.set.ttl == set.ttl
                        && before.lease == lease
                        && before.set.data.len() == data.len()
                        && data.iter().all(|data| before.set.data.contains(data))
                });
                if let Some(before) = before.filter(|_| same)
                    && (!is_set || !before.deadline.is_over())
                {
                    self.again.plain.extend(is_set.then(|| before.clone()));
                    continue;
                }
                self.is_free(&owner, &staying)?;
                let octets: usize = data.iter().map(|data| data.octets_max() + RECORD_OCTETS).sum();
                if octets > RRSET_OCTETS_MAX {
                    let why = format!("no reply holds so many {} of {owner}", set.rtype);
                    return Err(Refused::because(why).into());
                }
                records += data.len();
                records -= before.map_or(0, |before| before.set.data.len());
                let set = RrSet { rtype: set.rtype, ttl: set.ttl, data };
                let after = PlainSet::new(&self.update.apex, &owner, set, lease, now);
                let what = What::Plain { before: before.cloned(), after: Some(Arc::new(after)) };
                found.push((Reason::Updated, what));
            }
        }
        if records > PLAIN_RECORDS_MAX && records > registry.plain().records() {
            let why = format!(
                "{PLAIN_RECORDS_MAX} records are set, and no more may be; delete some, or use a zone file"
            );
            return Err(Refused::because(why).into());
        }
        Ok(())
    }

    /// The labels of every instance that there will be of the services that are spoken of.
    fn staying(&self, found: &[(Reason, What)]) -> HashMap<ServiceName, HashSet<String>> {
        let mut staying: HashMap<ServiceName, HashSet<String>> = HashMap::new();
        for service in &self.services {
            let labels = staying.entry(service.clone()).or_default();
            let members = self.against.registry.service(service).into_iter().flat_map(|known| &known.members);
            labels.extend(members.map(|member| member.instance.label.to_string()));
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

    /// True where a zone cut here would take names from services: those with `_` in front belong to all of them.
    fn has_live_names_below(&self, owner: &Name) -> bool {
        let lower = owner.to_lowercase();
        let labels = lower.labels_below(self.update.apex.name()).unwrap_or_default();
        labels.iter().any(|label| label.starts_with(b"_"))
            || self.service_of(owner).is_some_and(|service| self.against.registry.service(&service).is_some())
    }

    /// Whether a plain record may stand here.
    fn is_free(&self, owner: &Name, staying: &HashMap<ServiceName, HashSet<String>>) -> Result<(), Refused> {
        if self.against.view.file_holds(self.update.apex.name(), owner).is_some() {
            return Err(self.not_ours(owner, &owner.to_string()));
        }
        let held = self.read(owner, |read| match read {
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
                labels.is_some_and(|labels| {
                    !labels.is_empty() && is_held(read, "") || !label.is_empty() && labels.contains(label)
                })
            }
            None => false,
        });
        match held {
            true => Err(self.not_ours(owner, &owner.to_string())),
            false => Ok(()),
        }
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

/// An instance as records spell it.
struct Shape {
    /// In order.
    addresses: Vec<IpAddr>,
    ports: Vec<Port>,
    priority: u16,
    weight: u16,
    /// This message has set some of it.
    set: bool,
}

impl Shape {
    fn is(&self, instance: &Instance) -> bool {
        let mut addresses = instance.addresses().to_vec();
        addresses.sort_unstable();
        addresses == self.addresses
            && *instance.ports == *self.ports
            && instance.priority == self.priority
            && instance.weight == self.weight
    }
}

fn longer(one: Lease, other: Lease) -> Lease {
    match (one, other) {
        (Lease::Timed(one), Lease::Timed(other)) => Lease::Timed(one.max(other)),
        _ => Lease::None,
    }
}

/// True where UPDATE registered it.
fn is_ours(member: &Member) -> bool {
    member.instance.owner.as_deref().is_some_and(Holder::is_key)
}

/// RFC 1982 section 3.2.
fn is_newer(serial: u32, than: u32) -> bool {
    let ahead = serial.wrapping_sub(than);
    ahead != 0 && ahead <= u32::MAX / 2
}
