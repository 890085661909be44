//! Random commands and waits, against a model that anybody can check by reading it.
//!
//! The model is a list of instances and a list of those that left. After every step the answers over DNS,
//! the lists and the indexes must be what the model says. `PROPTEST_CASES` sets how many histories.
//!
//! A second test is of services with hundreds of instances: what was kept up to date from change to change must be
//! what a registry makes of the same instances that were put into it at once.
//!
//! A third lets renewals of a million leases race their ends.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use callsign::answer::{Answer, Asked, CLASS_IN, Dnssec, Over, Question, Rcode, Taken, answer};
use callsign::balance::Draws;
use callsign::instance::{Health, Host, Key, Lease, Location, Port, ServiceSettings, Transport};
use callsign::lease::{LeaseCell, Leases, Renewal};
use callsign::name::{Apex, HostName, InstanceId, ServiceName, Tag};
use callsign::protocol::Filter;
use callsign::record::{Data, Type};
use callsign::registry::{
    Author, Command, Configuration, FORGET_AFTER, Holder, Kept, ListedCheck, Reason, Registration, Registry,
    Report, ReportOf, Subject, Unlisted, What,
};
use callsign::time::Now;
use callsign::view::{Census, ServiceView, Settings, Standing, View, Zones};
use proptest::prelude::*;

const SERVICES: [&str; 3] = ["web", "db", "cache"];
/// The second is no label, and the third differs from the first in case only.
const IDS: [&str; 4] = ["one", "t:wo", "One", "four"];
const HOSTS: [&str; 2] = ["a", "b"];

type Place = (usize, usize, usize);

#[derive(Clone, Debug)]
enum Step {
    Register { place: Place, address: u8, port: u16, priority: u16, lease: u8, checked: bool },
    Heartbeat { place: Place, old_lease: bool },
    Deregister { place: Place, old_lease: bool },
    Drain { place: Place },
    Report { place: Place, status: usize },
    ReportHost { host: usize, status: usize },
    Close { connection: u64 },
    Wait { seconds: u64 },
}

fn place() -> impl Strategy<Value = Place> {
    (0..SERVICES.len(), 0..IDS.len(), 0..HOSTS.len())
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (place(), 1..5u8, 1..4u16, 0..3u16, 0..6u8, prop::bool::weighted(0.2)).prop_map(
            |(place, address, port, priority, lease, checked)| Step::Register { place, address, port, priority, lease, checked }
        ),
        3 => (place(), prop::bool::weighted(0.3)).prop_map(|(place, old_lease)| Step::Heartbeat { place, old_lease }),
        2 => (place(), prop::bool::weighted(0.3)).prop_map(|(place, old_lease)| Step::Deregister { place, old_lease }),
        1 => place().prop_map(|place| Step::Drain { place }),
        2 => (place(), 0..4usize).prop_map(|(place, status)| Step::Report { place, status }),
        1 => (0..HOSTS.len(), 0..4usize).prop_map(|(host, status)| Step::ReportHost { host, status }),
        1 => (0..2u64).prop_map(|connection| Step::Close { connection }),
        4 => (1..40u64).prop_map(|seconds| Step::Wait { seconds }),
    ]
}

/// What the model knows of an instance. Times are seconds from the start.
#[derive(Clone, Debug)]
struct Modelled {
    address: u8,
    port: u16,
    priority: u16,
    lease: Lease,
    lease_id: u64,
    ends: Option<u64>,
    draining: bool,
    /// Verdicts by check; `extra` is listed by registrations, `report` only reported.
    checks: BTreeMap<&'static str, Health>,
}

#[derive(Default)]
struct Model {
    now: u64,
    instances: BTreeMap<Place, Modelled>,
    /// When each that left is forgotten.
    gone: BTreeMap<Place, u64>,
    hosts: BTreeMap<usize, Health>,
}

impl Model {
    fn leave(&mut self, place: Place, at: u64) {
        self.instances.remove(&place);
        self.gone.insert(place, at + FORGET_AFTER.as_secs());
    }

    fn wait(&mut self, seconds: u64) {
        self.now += seconds;
        let over: Vec<(Place, u64)> = self
            .instances
            .iter()
            .filter_map(|(place, instance)| Some((*place, instance.ends.filter(|ends| *ends <= self.now)?)))
            .collect();
        for (place, ends) in over {
            self.leave(place, ends);
        }
        self.gone.retain(|_, forgotten| *forgotten > self.now);
    }

    fn live(&self, service: usize) -> Vec<&Modelled> {
        let of_service = self.instances.iter().filter(|(place, _)| place.0 == service);
        let live = of_service.filter(|(place, instance)| {
            let host = self.hosts.get(&place.2).copied().unwrap_or(Health::Passing);
            let health = instance.checks.values().copied().max().unwrap_or(Health::Passing).max(host);
            health.in_answers() && !instance.draining
        });
        live.map(|(_, instance)| instance).collect()
    }

    fn known(&self, service: usize) -> bool {
        self.instances.keys().chain(self.gone.keys()).any(|place| place.0 == service)
    }
}

struct System {
    registry: Registry,
    view: View,
    now: Now,
    lease_ids: u64,
}

impl System {
    fn new() -> Self {
        Self { registry: Registry::new(1000, FORGET_AFTER), view: view(), now: Now::default(), lease_ids: 0 }
    }

    fn apply(&mut self, found: Vec<(Reason, What)>) -> usize {
        let before = self.view.serial();
        let mut changes = Vec::new();
        for (reason, what) in found {
            let change =
                Registry::change(self.registry.revision() + 1, reason, what, Author::Server, self.now);
            self.registry.apply(&change, self.now);
            changes.push(change);
        }
        let asked_for = changes.len();
        for (reason, what) in self.registry.settle(&changes, self.now) {
            let change =
                Registry::change(self.registry.revision() + 1, reason, what, Author::Server, self.now);
            self.registry.apply(&change, self.now);
            changes.push(change);
        }
        self.view.publish(&self.registry, &changes);
        assert_eq!(self.view.serial() as usize - before as usize, changes.len());
        asked_for
    }

    /// How many changes it made; `None` where it was refused.
    fn command(&mut self, command: Command) -> Option<usize> {
        let found = self.registry.check(&command, self.now).ok()?;
        Some(self.apply(found))
    }

    fn wait(&mut self, duration: Duration) {
        let end = self.now.after(duration);
        while let Some(due) = self.registry.next_due_ns().filter(|due| *due <= end.mono_ns) {
            self.now = self.now.after(Duration::from_nanos(due.saturating_sub(self.now.mono_ns)));
            let found = self.registry.due(self.now, 1000);
            self.apply(found);
        }
        self.now = self.now.after(Duration::from_nanos(end.mono_ns - self.now.mono_ns));
    }

    fn ask(&self, service: usize, qtype: Type) -> Answer {
        let name = self.view.settings.apexes[0].owner(&[SERVICES[service]]);
        let question = Question { name, qtype, class: CLASS_IN };
        let client = IpAddr::from([10, 9, 9, 9]);
        answer(
            &self.view,
            &Asked {
                question: &question,
                client,
                over: Over::Tcp,
                room: 65_000,
                edns: true,
                draw: 1,
                dnssec: Dnssec::Nothing,
                taken: Taken::Chosen,
            },
        )
    }
}

fn view() -> View {
    let settings = Settings {
        reverse: vec!["10.0.0.0/8".parse().unwrap()],
        ..Settings::new(vec![Apex::parse("service.local").unwrap()])
    };
    let view = View::new(settings, Zones::default());
    view.set_ready();
    view
}

fn key(place: Place) -> Key {
    Key::new(
        ServiceName::parse(SERVICES[place.0]).unwrap(),
        InstanceId::parse(IDS[place.1]).unwrap(),
        HostName::parse(HOSTS[place.2]).unwrap(),
    )
}

fn lease(kind: u8) -> Lease {
    match kind {
        0 => Lease::None,
        1 => Lease::Connection(0),
        2 => Lease::Connection(1),
        kind => Lease::Timed(Duration::from_secs([1, 15, 30][usize::from(kind) - 3])),
    }
}

fn ends(lease: Lease, now: u64) -> Option<u64> {
    match lease {
        Lease::Timed(duration) => Some(now + duration.as_secs()),
        Lease::Connection(_) | Lease::None => None,
    }
}

fn run(step: &Step, model: &mut Model, system: &mut System) {
    match *step {
        Step::Register { place, address, port, priority, lease: kind, checked } => {
            system.lease_ids += 1;
            let lease = lease(kind);
            let registration = Registration {
                priority,
                checks: if checked { vec![ListedCheck::reported("extra", None)] } else { Vec::new() },
                unlisted: if checked { Unlisted::Go } else { Unlisted::Stay },
                ..Registration::new(
                    key(place),
                    Location::Addresses(vec![IpAddr::from([10, 0, 0, address])].into()),
                    vec![Port { name: None, number: port, transport: Transport::Tcp }],
                    lease,
                    system.lease_ids,
                )
            };
            assert_eq!(system.command(Command::Register(Box::new(registration))), Some(1));
            let mut checks =
                model.instances.get(&place).map(|known| known.checks.clone()).unwrap_or_default();
            if checked {
                checks =
                    BTreeMap::from([("extra", checks.get("extra").copied().unwrap_or(Health::Critical))]);
            }
            let (lease_id, ends) = (system.lease_ids, ends(lease, model.now));
            let instance =
                Modelled { address, port, priority, lease, lease_id, ends, draining: false, checks };
            model.instances.insert(place, instance);
            model.gone.remove(&place);
        }
        Step::Heartbeat { place, old_lease } => {
            let known = model.instances.get_mut(&place);
            let lease_id =
                known.as_ref().map(|known| if old_lease { known.lease_id - 1 } else { known.lease_id });
            let renewed = system.view.renew(&key(place), lease_id, system.now).is_ok();
            assert_eq!(renewed, known.is_some() && !old_lease);
            if let Some(known) = known.filter(|_| !old_lease) {
                known.ends = ends(known.lease, model.now);
            }
        }
        Step::Deregister { place, old_lease } => {
            let known = model.instances.get(&place);
            let lease_id = known.filter(|_| old_lease).map(|known| known.lease_id - 1);
            let done = system.command(Command::Deregister(Holder { key: key(place), lease_id }));
            match (known.is_some(), old_lease) {
                (true, true) => assert_eq!(done, None),
                (true, false) => {
                    assert_eq!(done, Some(1));
                    model.leave(place, model.now);
                }
                (false, _) => assert_eq!(done, Some(0)),
            }
        }
        Step::Drain { place } => {
            let done = system.command(Command::Drain(Holder { key: key(place), lease_id: None }));
            let known = model.instances.get_mut(&place);
            assert_eq!(done, known.as_ref().map(|known| usize::from(!known.draining)));
            known.into_iter().for_each(|known| known.draining = true);
        }
        Step::Report { place, status } => {
            let status = Health::ALL[status];
            let on = Subject::Instance(Holder { key: key(place), lease_id: None });
            let report = Report { on, check: "report".into(), status, output: "".into(), of: ReportOf::Any };
            let done = system.command(Command::Report(report));
            let known = model.instances.get_mut(&place);
            let changed =
                known.map(|known| usize::from(known.checks.insert("report", status) != Some(status)));
            assert_eq!(done, changed);
        }
        Step::ReportHost { host, status } => {
            let (on, status) = (Subject::Host(HostName::parse(HOSTS[host]).unwrap()), Health::ALL[status]);
            let report = Report { on, check: "disk".into(), status, output: "".into(), of: ReportOf::Any };
            let changed = model.hosts.insert(host, status) != Some(status);
            assert_eq!(system.command(Command::Report(report)), Some(usize::from(changed)));
        }
        Step::Close { connection } => {
            let bound: Vec<Place> = model.instances.keys().copied().collect();
            let keys = bound.iter().map(|place| key(*place)).collect();
            system.command(Command::Closed { connection, keys });
            for place in bound {
                if model.instances[&place].lease == Lease::Connection(connection) {
                    model.leave(place, model.now);
                }
            }
        }
        Step::Wait { seconds } => {
            system.wait(Duration::from_secs(seconds));
            model.wait(seconds);
        }
    }
}

fn compare(model: &Model, system: &System) {
    for service in 0..SERVICES.len() {
        let live = model.live(service);
        let lowest = live.iter().map(|instance| instance.priority).min();
        let in_a = live.iter().filter(|instance| Some(instance.priority) == lowest);
        let expected: BTreeSet<IpAddr> =
            in_a.map(|instance| IpAddr::from([10, 0, 0, instance.address])).collect();
        let reply = system.ask(service, Type::A);
        assert_eq!(reply.rcode, if model.known(service) { Rcode::NoError } else { Rcode::NxDomain });
        let addresses = reply.answer.iter().map(|record| match record.data {
            Data::A(address) => IpAddr::V4(address),
            ref other => panic!("{other:?} among addresses"),
        });
        assert_eq!(addresses.clone().count(), expected.len(), "an RRset is a set");
        assert_eq!(addresses.collect::<BTreeSet<_>>(), expected);
        assert_eq!(reply.authority.len(), usize::from(expected.is_empty()));

        let reply = system.ask(service, Type::SRV);
        let mut answered: Vec<(u16, u16, IpAddr)> = reply
            .answer
            .iter()
            .map(|record| {
                let Data::Srv { priority, port, target, .. } = &record.data else {
                    panic!("{:?} among SRV", record.data)
                };
                let at = reply
                    .additional
                    .iter()
                    .find(|glue| glue.owner == *target)
                    .expect("each target has its address");
                let Data::A(address) = at.data else { panic!("{:?} as an address", at.data) };
                (*priority, *port, IpAddr::V4(address))
            })
            .collect();
        let mut expected: Vec<(u16, u16, IpAddr)> = live
            .iter()
            .map(|instance| (instance.priority, instance.port, IpAddr::from([10, 0, 0, instance.address])))
            .collect();
        assert!(answered.is_sorted_by_key(|(priority, ..)| *priority));
        answered.sort();
        expected.sort();
        assert_eq!(answered, expected);
    }
    let (members, more) = system.view.list(&Filter::default(), None, 1000);
    assert!(!more);
    let listed: BTreeSet<Key> = members.iter().map(|member| member.instance.key.clone()).collect();
    assert_eq!(listed, model.instances.keys().map(|place| key(*place)).collect());
    assert_eq!(system.registry.instances(), model.instances.len());
    for (id, name) in IDS.iter().enumerate() {
        let found = system.view.by_id(&InstanceId::parse(name).unwrap()).len();
        assert_eq!(found, model.instances.keys().filter(|place| place.1 == id).count());
    }
    for address in 1..5u8 {
        let found = system.view.by_address(&IpAddr::from([10, 0, 0, address])).len();
        assert_eq!(found, model.instances.values().filter(|instance| instance.address == address).count());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_registry_is_what_the_model_says(steps in prop::collection::vec(step(), 1..80)) {
        let (mut model, mut system) = (Model::default(), System::new());
        for step in &steps {
            run(step, &mut model, &mut system);
            compare(&model, &system);
        }
    }
}

/// Instances of each service of a crowd: enough for several leaves.
const CROWD: u64 = 300;
const CROWD_HOSTS: [&str; 3] = ["a", "b", "c.example"];
const CROWD_TAGS: [&str; 4] = ["v1", "V1", "blue", "no label"];

/// One random command of a crowd. More is registered than leaves in the first half of a history.
fn crowd_command(draws: &mut Draws, growing: bool) -> Command {
    let mut below = |bound: u64| draws.next_u64() % bound;
    // Ids that are alike but for case, and those that are no label, have labels with a suffix or a hash.
    let number = below(CROWD);
    let id = match below(3) {
        0 => format!("I{number}"),
        1 => format!("i{number}"),
        _ => format!("i:{number}"),
    };
    let key = Key::new(
        ServiceName::parse(SERVICES[below(2) as usize]).unwrap(),
        InstanceId::parse(&id).unwrap(),
        HostName::parse(CROWD_HOSTS[below(3) as usize]).unwrap(),
    );
    let holder = Holder { key: key.clone(), lease_id: None };
    let status = Health::ALL[below(4) as usize];
    let report = |on| {
        Command::Report(Report { on, check: "report".into(), status, output: "".into(), of: ReportOf::Any })
    };
    match below(20) {
        0 => Command::Drain(holder),
        1..=2 => report(Subject::Instance(holder)),
        3 if below(4) == 0 => report(Subject::Host(key.host.clone())),
        3 => Command::Configure(Configuration {
            service: key.service.clone(),
            reset: below(2) == 0,
            given: ServiceSettings {
                ttl: Some(below(30) as u32),
                guard: [None, Some(0), Some(1), Some(10)][below(4) as usize],
                guard_for: [None, Some(Duration::from_secs(30))][below(2) as usize],
                ..ServiceSettings::default()
            },
        }),
        4..=8 if growing => Command::Deregister(holder),
        4..=15 if !growing => Command::Deregister(holder),
        _ => {
            let tagged = below(16);
            let tags = CROWD_TAGS.iter().enumerate().filter(|(at, _)| (tagged >> at) & 1 == 1);
            Command::Register(Box::new(Registration {
                tags: tags.map(|(_, tag)| Tag::parse(tag).unwrap()).collect(),
                ..Registration::new(
                    key,
                    Location::Addresses(vec![IpAddr::from([10, 0, 0, below(9) as u8])].into()),
                    vec![Port { name: None, number: 80, transport: Transport::Tcp }],
                    lease([0, 3, 4, 5, 5, 5][below(6) as usize]),
                    below(1000),
                )
            }))
        }
    }
}

/// The same instances, hosts and settings in a registry that never held anything else.
fn from_nothing(registry: &Registry, now: Now) -> (Registry, View) {
    let mut kept = Kept { revision: registry.revision(), ..Kept::default() };
    kept.guards = registry.guards().map(|(name, guard)| (name.clone(), guard)).collect();
    for (_, service) in registry.services() {
        kept.instances.extend(service.members.iter().map(|member| member.instance.clone()));
        let gone = service.gone().map(|gone| ((*gone.instance).clone(), gone.reason, gone.at, 0));
        kept.gone.extend(gone);
    }
    kept.hosts = registry.hosts().map(|host| Host::clone(host)).collect();
    kept.settings =
        registry.all_settings().map(|(name, settings)| (name.clone(), settings.clone())).collect();
    let (mut new, view) = (Registry::new(1000, FORGET_AFTER), view());
    new.restore(kept, now);
    view.publish_all(&new);
    (new, view)
}

/// Everything that a view says, but for when it was made.
fn said(service: &ServiceView) -> String {
    let members: Vec<String> = service
        .members
        .iter()
        .map(|member| {
            let instance = &member.instance;
            assert_eq!(
                service.by_label(instance.label.as_str()).map(|found| &found.instance.key),
                Some(&instance.key)
            );
            assert_eq!(
                service.by_key(&instance.key).map(|found| &found.instance.label),
                Some(&instance.label)
            );
            let host = member.host.as_ref().map(|host| (&host.name, &host.checks));
            let (rule, held) = (member.rule(), member.held);
            format!("{} {} {} {rule} {held} {host:?}", instance.key, instance.label, instance.revision)
        })
        .collect();
    assert_eq!(members.len(), service.members.len());
    let gone: Vec<String> = service
        .gone
        .iter()
        .map(|gone| format!("{} {:?} {}", gone.instance.key, gone.reason, gone.at))
        .collect();
    let answered: Vec<String> =
        service.in_answers().map(|member| format!("{} {}", member.instance.key, member.held)).collect();
    let (tags, listed) = (&service.tags, &service.listed_tags);
    let (why_none, stale) = (&service.why_none, service.stale());
    format!("{members:#?} {answered:#?} {gone:#?} {tags:?} {listed:?} {} {why_none:?} {stale:?}", service.ttl)
}

/// What there is, instance by instance.
fn counted(view: &View) -> Census {
    let mut census = Census::default();
    for service in view.all_services() {
        let live_before = census.live;
        for member in &service.members {
            let count = match (&member.standing, member.health) {
                (Standing::Live, _) => &mut census.live,
                (Standing::Draining, _) => &mut census.draining,
                (Standing::Unhealthy { .. }, Health::Maintenance) => &mut census.maintenance,
                (Standing::Unhealthy { .. }, _) => &mut census.critical,
            };
            *count += 1;
        }
        census.services += 1;
        census.services_live += u64::from(census.live > live_before);
        census.guarded += u64::from(service.guard().is_some());
        census.held += service.answered.iter().filter(|member| member.held).count() as u64;
    }
    census
}

fn compare_with_nothing(system: &System) {
    let (registry, view) = from_nothing(&system.registry, system.now);
    assert_eq!(system.registry.instances(), registry.instances());
    let names = |view: &View| view.directory().names().cloned().collect::<Vec<_>>();
    assert_eq!(names(&system.view), names(&view));
    assert_eq!(system.view.census(), counted(&view));
    assert_eq!(view.census(), counted(&view));
    let guarded = |view: &View| view.guarded().names().cloned().collect::<Vec<_>>();
    assert_eq!(guarded(&system.view), guarded(&view));
    assert_eq!(guarded(&view).len() as u64, view.census().guarded);
    for name in names(&view) {
        let (kept, new) = (system.view.service(name.as_str()).unwrap(), view.service(name.as_str()).unwrap());
        assert_eq!(said(&kept), said(&new), "{name}");
    }
    for tag in CROWD_TAGS {
        assert_eq!(system.view.has_tag(tag), view.has_tag(tag), "{tag}");
    }
    assert_eq!(system.view.hosts(), view.hosts());
    assert_eq!(system.view.has_host_below("example"), view.has_host_below("example"));
    for host in CROWD_HOSTS {
        let host = HostName::parse(host).unwrap();
        let on = |view: &View| -> Vec<String> {
            view.on_host(&host).iter().map(|member| member.instance.key.to_string()).collect()
        };
        assert_eq!(on(&system.view), on(&view), "{host}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_view_kept_from_change_to_change_is_one_made_from_nothing(seed in any::<u64>()) {
        let (mut draws, mut system) = (Draws::new(seed), System::new());
        for step in 0..6000 {
            let command = crowd_command(&mut draws, step < 3000);
            let _ = system.command(command);
            if draws.next_u64().is_multiple_of(50) {
                system.wait(Duration::from_secs(draws.next_u64() % 20));
            }
            if step % 250 == 249 {
                compare_with_nothing(&system);
            }
        }
        assert!(system.view.guards() > 0, "no guard ever began");
    }
}

/// Who hears "renewed" is there, and who is not there heard so: whichever of the two threads comes first at a lease.
#[test]
fn a_renewal_that_races_the_end_is_taken_or_refused() {
    const ROUNDS: usize = 1000;
    const RACES: usize = 1000;
    let (begun, lease) = (Now::default(), Duration::from_secs(1));
    let due = begun.after(Duration::from_secs(2));
    let (mut renewed, mut over) = (0, 0);
    for _ in 0..ROUNDS {
        let cells: Vec<Arc<LeaseCell<usize>>> =
            (0..RACES).map(|number| LeaseCell::timed(number, lease, begun)).collect();
        let mut leases = Leases::default();
        cells.iter().for_each(|cell| leases.arm(cell));
        let start = Barrier::new(2);
        let (said, ended) = std::thread::scope(|scope| {
            let ending = scope.spawn(|| {
                start.wait();
                leases.expired(due, RACES)
            });
            start.wait();
            // From the last to the first, as a bucket is looked through.
            let said: BTreeMap<usize, Renewal> =
                cells.iter().rev().map(|cell| (cell.of, cell.renew(due))).collect();
            (said, ending.join().expect("the other thread"))
        });
        let ended: BTreeSet<usize> = ended.iter().map(|cell| cell.of).collect();
        for cell in &cells {
            let wanted = if ended.contains(&cell.of) { Renewal::Over } else { Renewal::Done };
            assert_eq!(said[&cell.of], wanted, "{}", cell.of);
            assert_eq!(cell.deadline_ns().is_some(), wanted == Renewal::Done);
        }
        over += ended.len();
        renewed += RACES - ended.len();
    }
    println!(
        "leases: {renewed} renewals were taken and {over} refused, of {} that raced the end",
        ROUNDS * RACES
    );
    assert_eq!(renewed + over, ROUNDS * RACES);
}
