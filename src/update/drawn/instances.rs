//! What the records of a service spell, read back: which instances come, change and go.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use super::Drawn;
use super::spot::Gone;
use crate::access::{Owner as Holder, Verb};
use crate::grammar::Owner;
use crate::instance::{ADDRESSES_MAX, Instance, Key, Lease, Location, Port, Transport};
use crate::member::Member;
use crate::name::{HostName, InstanceId, Name, ServiceName};
use crate::protocol::unusable;
use crate::record::{Data, Type};
use crate::registry::{self, Command, Holds, Reason, Refusal, Registration, What, holds};
use crate::update::{Against, Refused};

impl Drawn<'_> {
    /// Takes the records of a service's instances out, and says what becomes of these; returns how many are new.
    pub(super) fn instances(
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

/// True where UPDATE registered it, and may change it.
pub(super) fn is_ours(member: &Member) -> bool {
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
