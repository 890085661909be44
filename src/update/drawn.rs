//! The records that a message speaks of: laid out, changed in order, and read back as instances and plain records.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::{Against, Outcome, Refused, Rr, Update};
use crate::access::{On, Owner as Holder, Verb};
use crate::answer::CLASS_IN;
use crate::grammar::{self, Owner};
use crate::instance::{ADDRESSES_MAX, Instance, Key, Lease, Location, Port, Transport};
use crate::live::whole::{Indexes, records_at, rest_of};
use crate::member::Member;
use crate::name::{HostName, InstanceId, Name, ServiceName};
use crate::protocol::unusable;
use crate::record::{Data, Record, RrSet, Type};
use crate::registry::{
    self, Command, Holds, PLAIN_OCTETS_MAX, PLAIN_RECORDS_MAX, PlainSet, Reason, Refusal, Registration, What,
    holds, is_held,
};
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

fn made_by_signer(rtype: Type) -> Option<&'static str> {
    SIGNERS.iter().find(|(number, _)| rtype == Type(*number)).map(|(_, name)| *name)
}

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

/// One owner.
struct Spot {
    owner: Name,
    sets: Vec<Set>,
    /// What others have here, where that was asked: not for an UPDATE to change.
    others: Option<ByType>,
}

/// Records of one owner.
type ByType = BTreeMap<Type, HashSet<Data>>;

/// Records of one type. A message may speak of as many as there are, and each is found at once.
struct Set {
    rtype: Type,
    ttl: u32,
    data: HashMap<Data, Datum>,
    /// How many have come so far.
    come: usize,
    lease: Lease,
}

#[derive(Clone, Copy)]
struct Datum {
    /// The order in which they came.
    at: usize,
    /// This message has set it.
    set: bool,
}

impl Set {
    fn new(rtype: Type, ttl: u32, lease: Lease) -> Self {
        Self { rtype, ttl, data: HashMap::new(), come: 0, lease }
    }

    fn put(&mut self, data: Data, set: bool) {
        self.data.insert(data, Datum { at: self.come, set });
        self.come += 1;
    }

    fn in_order(&self) -> Vec<(&Data, bool)> {
        let mut all: Vec<(&Data, Datum)> = self.data.iter().map(|(data, datum)| (data, *datum)).collect();
        all.sort_unstable_by_key(|(_, datum)| datum.at);
        all.into_iter().map(|(data, datum)| (data, datum.set)).collect()
    }
}

/// What is to go from an owner.
#[derive(Clone, Copy)]
enum Gone<'a> {
    All,
    /// All but what the zone keeps at its own name: its SOA and NS (RFC 2136 section 3.4.2.3), and what says how it is signed.
    AllOfApex,
    Type(Type),
    Record(&'a Data),
}

impl Gone<'_> {
    fn rtype(self) -> Option<Type> {
        match self {
            Self::All | Self::AllOfApex => None,
            Self::Type(rtype) => Some(rtype),
            Self::Record(data) => Some(data.rtype()),
        }
    }

    fn may_be(self, rtype: Type) -> bool {
        match self {
            Self::AllOfApex => !is_zones(rtype) && made_by_signer(rtype).is_none(),
            other => other.rtype().is_none_or(|of| of == rtype),
        }
    }

    /// The type of the first of these that are among some.
    fn first_of(self, there: &ByType) -> Option<Type> {
        let has = |(rtype, data): &(&Type, &HashSet<Data>)| match self {
            Self::Record(gone) => data.contains(gone),
            _ => self.may_be(**rtype),
        };
        there.iter().find(has).map(|(rtype, _)| *rtype)
    }
}

fn is_zones(rtype: Type) -> bool {
    matches!(rtype, Type::SOA | Type::NS)
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
        let at = self.sets.iter().position(|set| set.rtype == rtype).unwrap_or(self.sets.len());
        if at == self.sets.len() {
            self.sets.push(Set::new(rtype, ttl, lease));
        }
        self.sets[at].put(data, is_set);
    }

    fn take(&mut self, gone: Gone<'_>) {
        match gone {
            Gone::Record(data) => {
                let of_type = self.sets.iter_mut().filter(|set| set.rtype == data.rtype());
                of_type.for_each(|set| _ = set.data.remove(data));
                self.sets.retain(|set| !set.data.is_empty());
            }
            _ => self.sets.retain(|set| !gone.may_be(set.rtype)),
        }
    }
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

    fn delete(&mut self, owner: &Name, gone: Gone<'_>) -> Result<(), Refused> {
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
        registry::service_of(&self.update.apex, owner)
    }

    fn read<T>(&self, owner: &Name, read: impl FnOnce(Option<Owner<'_>>) -> T) -> T {
        registry::read_as(&self.update.apex, owner, read)
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
        let (mut new, mut taken) = (0, None);
        for (label, shape) in shapes {
            let before = members.get(&label).map(|member| member.instance.clone());
            if before.as_deref().is_some_and(|before| !is_spelt(before)) {
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
                    let same = Some(before.clone());
                    self.again.push(What::Instance { before: same.clone(), after: same });
                    continue;
                }
            } else {
                new += 1;
                let taken = taken.get_or_insert_with(|| self.taken(service));
                if let Some(owner) = taken.by_all.as_ref().or_else(|| taken.by_one.get(&label)) {
                    let why = format!(
                        "{owner} has records that an UPDATE set; delete them before {label} becomes an instance of {service}"
                    );
                    return Err(Refused::because(why).into());
                }
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
            let mut taken = Vec::new();
            let records: Vec<(Data, bool)> = self
                .spot(&owner)
                .set(Type::SRV)
                .map(|set| set.in_order().into_iter().map(|(data, set)| (data.clone(), set)).collect())
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
                taken.push(data);
            }
            let spot = self.spot(&owner);
            taken.iter().for_each(|data| spot.take(Gone::Record(data)));
        }
        for label in shapes.keys() {
            let own = self.update.apex.owner(&[label, service.as_str()]);
            let spot = self.spot(&own);
            [Type::A, Type::AAAA].into_iter().for_each(|rtype| spot.take(Gone::Type(rtype)));
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
        for (data, datum) in sets.flat_map(|set| &set.data) {
            set |= datum.set;
            match data {
                Data::A(v4) => addresses.push(IpAddr::V4(*v4)),
                Data::Aaaa(v6) => addresses.push(IpAddr::V6(*v6)),
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
        let mut ports = shape.ports;
        if let Some(before) = before {
            let known = |port: &Port| before.ports.iter().position(|own| own.transport == port.transport);
            ports.sort_by_key(|port| known(port).unwrap_or(usize::MAX)); // the first is that of the service's name
            for port in &mut ports {
                port.name = known(port).and_then(|at| before.ports[at].name.clone());
            }
        }
        let location = Location::Addresses(shape.addresses.into());
        let registration = Registration {
            weight: shape.weight,
            priority: shape.priority,
            owner: self.against.by.owner.clone(),
            ..Registration::new(key, location, ports, lease, self.update.lease_id)
        };
        // What no record says of it stays as it was given, as its checks do.
        Ok(match before {
            None => registration,
            Some(before) => Registration {
                protocol: before.protocol.clone(),
                tags: before.tags.clone(),
                meta: before.meta.clone(),
                ..registration
            },
        })
    }

    /// The owners of plain records that the message does not speak of and that a new instance of the service would take.
    fn taken(&self, service: &ServiceName) -> Taken {
        let mut taken = Taken::default();
        for owner in self.against.registry.plain().of_service(service.as_str()) {
            let spoken_of = self.spots.contains_key(owner.to_lowercase().as_wire());
            if spoken_of || !owner.is_within(self.update.apex.name()) {
                continue;
            }
            self.read(owner, |read| match read.and_then(holds) {
                Some(Holds::All) => taken.by_all = Some(owner.clone()),
                Some(Holds::One(label)) => drop(taken.by_one.insert(label.to_owned(), owner.clone())),
                None => {}
            });
        }
        taken
    }

    /// What is left are records of the tree.
    fn plain(&mut self, found: &mut Vec<(Reason, What)>) -> Result<(), Refusal> {
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
                let compressed: usize = data.iter().map(|data| data.octets_max() + RECORD_OCTETS).sum();
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
        if records > PLAIN_RECORDS_MAX && records > registry.plain().records() {
            let why = format!(
                "{PLAIN_RECORDS_MAX} records are set, and no more may be; delete some, or use a zone file"
            );
            return Err(Refused::because(why).into());
        }
        if octets > PLAIN_OCTETS_MAX && octets > registry.plain().octets() {
            let why = format!(
                "{PLAIN_OCTETS_MAX} octets of records are set, and no more may be; delete some, or use a zone file"
            );
            return Err(Refused::because(why).into());
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

    /// True where a zone cut here would take names from services: those with `_` in front belong to all of them.
    fn has_live_names_below(&self, owner: &Name) -> bool {
        let lower = owner.to_lowercase();
        let labels = lower.labels_below(self.update.apex.name()).unwrap_or_default();
        labels.iter().any(|label| label.starts_with(b"_"))
            || self.service_of(owner).is_some_and(|service| self.against.registry.service(&service).is_some())
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

/// Owners of plain records that instances would take: every one of the service, or that of one label.
#[derive(Default)]
struct Taken {
    by_all: Option<Name>,
    by_one: HashMap<String, Name>,
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
    /// Whether it is what an instance that records spell is; how ports are named they do not say.
    fn is(&self, instance: &Instance) -> bool {
        let mut addresses = instance.addresses().to_vec();
        addresses.sort_unstable();
        let has = |port: &Port| {
            instance.ports.iter().any(|own| (own.transport, own.number) == (port.transport, port.number))
        };
        addresses == self.addresses
            && instance.ports.len() == self.ports.len()
            && self.ports.iter().all(has)
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

/// True where UPDATE registered it, and may change it.
fn is_ours(member: &Member) -> bool {
    is_spelt(&member.instance)
}

/// True for an instance that UPDATE registered, as long as records spell it. An administrator may have registered it again,
/// and it is the key's still; but what records cannot say (a host name, two ports of one transport), or what somebody else
/// will say again or take back (a service file, a client of Consul's API, a connection), none of them would leave as it is.
fn is_spelt(instance: &Instance) -> bool {
    let is_one = |transport| instance.ports.iter().filter(|port| port.transport == transport).count() <= 1;
    instance.owner.as_deref().is_some_and(Holder::is_key)
        && !instance.addresses().is_empty()
        && !instance.ports.is_empty()
        && Transport::ALL.into_iter().all(is_one)
        && instance.source.is_none()
        && instance.consul.is_none()
        && !matches!(instance.lease, Lease::Connection(_))
}

/// RFC 1982 section 3.2.
fn is_newer(serial: u32, than: u32) -> bool {
    let ahead = serial.wrapping_sub(than);
    ahead != 0 && ahead <= u32::MAX / 2
}
