//! What the core costs: `cargo bench`. Read the medians, and compare within one run only.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use callsign::answer::Over;
use callsign::clock::Clock;
use callsign::dns::wire::{Arrival, Policy, Responder, UDP_OCTETS_MAX, accept};
use callsign::instance::{Key, Lease, Location, Port, Transport};
use callsign::lease::{LeaseCell, Leases, Renewal};
use callsign::name::{Apex, HostName, InstanceId, Name as OwnName, ServiceName};
use callsign::protocol;
use callsign::record::Type;
use callsign::registry::{Author, Change, Command, FORGET_AFTER, Registration, Registry};
use callsign::sign::{Key as ZoneKey, SetFields, Times, ZoneKeys, draw};
use callsign::time::{Now, Wall};
use callsign::view::{Settings, View, Zones};
use callsign::zone::{Kind, Zone};
use callsign::zone_file;
use divan::counter::ItemsCount;
use divan::{AllocProfiler, Bencher, black_box};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use ring::rand::SystemRandom;

#[global_allocator]
static ALLOC: AllocProfiler = AllocProfiler::system();

/// Leases at once in the benchmarks of leases.
const LEASES: usize = 1_000_000;

fn main() {
    divan::main();
}

fn key(service: &str, id: usize) -> Key {
    Key::new(
        ServiceName::parse(service).unwrap(),
        InstanceId::parse(&format!("i{id}")).unwrap(),
        HostName::parse("here").unwrap(),
    )
}

fn registration(service: &str, id: usize) -> Command {
    Command::Register(Box::new(Registration::new(
        key(service, id),
        Location::Addresses(vec![IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + id as u32))].into()),
        vec![Port { name: None, number: 8080, transport: Transport::Tcp }],
        Lease::Timed(Duration::from_secs(15)),
        id as u64,
    )))
}

struct System {
    registry: Registry,
    view: View,
}

impl System {
    fn new(services: usize, instances: usize) -> Self {
        let settings = Settings::new(vec![Apex::parse("service.local").unwrap()]);
        let view = View::new(settings, Zones::default());
        view.set_ready();
        let mut system = Self { registry: Registry::new(2_000_000, FORGET_AFTER), view };
        for service in 0..services {
            let name = format!("s{service}");
            let changes: Vec<Change> =
                (0..instances).flat_map(|id| system.apply(&registration(&name, id))).collect();
            system.view.publish(&system.registry, &changes);
        }
        system
    }

    fn apply(&mut self, command: &Command) -> Vec<Change> {
        let found = self.registry.check(command, Now::default()).unwrap();
        found
            .into_iter()
            .map(|(reason, what)| {
                let change = Registry::change(
                    self.registry.revision() + 1,
                    reason,
                    what,
                    Author::Server,
                    Now::default(),
                );
                self.registry.apply(&change, Now::default());
                change
            })
            .collect()
    }

    fn ask(&self, query: &[u8], over: Over) -> usize {
        let client = SocketAddr::from(([10, 0, 0, 9], 40_000));
        let arrival = Arrival { client, over, draw: 7 };
        accept(&self.view, &Policy::default(), &arrival, query).unwrap().len()
    }
}

fn query(name: &str, qtype: RecordType) -> Vec<u8> {
    let mut message = Message::new(1, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), qtype));
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    message.edns = Some(edns);
    message.to_vec().unwrap()
}

/// A whole query: octets in, octets out.
#[divan::bench(args = ["A", "SRV", "NXDOMAIN", "NODATA"])]
fn answer_of_1000_services_of_3(bencher: Bencher<'_, '_>, what: &str) {
    let system = System::new(1000, 3);
    let query = match what {
        "A" => query("s500.service.local.", RecordType::A),
        "SRV" => query("_s500._tcp.service.local.", RecordType::SRV),
        "NXDOMAIN" => query("nope.service.local.", RecordType::A),
        _ => query("s500.service.local.", RecordType::AAAA),
    };
    bencher.bench_local(|| system.ask(black_box(&query), Over::Udp));
}

/// As a worker of UDP answers: of a service, and from a file of 3,000 names.
#[divan::bench(args = ["A", "NXDOMAIN", "static A", "static alias", "static wildcard", "static NXDOMAIN", "static referral"])]
fn plain_answer(bencher: Bencher<'_, '_>, what: &str) {
    let apex = OwnName::parse("corp.test").unwrap();
    let mut text = "@ SOA ns hostmaster 1 2 3 4 5\n@ NS ns\nns A 10.9.0.53\nalias CNAME w500\n*.wild A 10.9.0.1\nsub NS ns.sub\n\
        ns.sub A 10.9.0.54\n"
        .to_owned();
    for number in 0..3000 {
        text += &format!("w{number} A 10.9.{}.{}\n", number / 256, number % 256);
    }
    let records = zone_file::read(text.as_bytes(), &apex).unwrap();
    let (zone, _) = Zone::new(apex, Kind::Primary, records).unwrap();
    let mut system = System::new(1000, 3);
    let settings = Settings::new(vec![Apex::parse("service.local").unwrap()]);
    let view = View::new(settings, Zones { primary: vec![Arc::new(zone)], ..Zones::default() });
    view.set_ready();
    let changes = system.apply(&registration("s500", 1));
    view.publish(&system.registry, &changes);
    let responder = Responder::new(Arc::new(view), Policy::default(), Clock::start());
    let query = match what {
        "A" => query("s500.service.local.", RecordType::A),
        "NXDOMAIN" => query("nope.service.local.", RecordType::A),
        "static A" => query("w500.corp.test.", RecordType::A),
        "static alias" => query("alias.corp.test.", RecordType::A),
        "static wildcard" => query("any.wild.corp.test.", RecordType::A),
        "static NXDOMAIN" => query("nope.corp.test.", RecordType::A),
        _ => query("www.sub.corp.test.", RecordType::A),
    };
    let arrival = Arrival { client: SocketAddr::from(([10, 0, 0, 9], 40_000)), over: Over::Udp, draw: 7 };
    let mut out = [0; UDP_OCTETS_MAX];
    bencher.bench_local(|| {
        responder
            .reply_plainly(Now::default(), &arrival, black_box(&query), &mut out)
            .expect("a plain question")
    });
}

/// `query` with DO.
fn signed_query(name: &str, qtype: RecordType) -> Vec<u8> {
    let mut query = query(name, qtype);
    let flags_at = query.len() - 4; // of the OPT record, which is the last and has no options
    query[flags_at] |= 0x80;
    query
}

fn sign(system: &System) {
    let random = SystemRandom::new();
    let (secret, public) = draw(&random).unwrap();
    let times = Times { activate: Some(0), ..Times::default() };
    let apex = system.view.settings.apexes[0].name();
    let key = Arc::new(ZoneKey::new(apex, times, &secret, &public, &random).unwrap());
    system.view.set_keys(vec![ZoneKeys::at(&[key], 0).unwrap()]);
}

/// The same of a signed zone, to who takes signatures: those that are kept, and what a name costs that nobody asked for before.
#[divan::bench(args = ["A", "SRV", "NXDOMAIN", "NODATA", "NXDOMAIN, each another"])]
fn signed_answer_of_1000_services_of_3(bencher: Bencher<'_, '_>, what: &str) {
    let system = System::new(1000, 3);
    sign(&system);
    let mut query = match what {
        "A" => signed_query("s500.service.local.", RecordType::A),
        "SRV" => signed_query("_s500._tcp.service.local.", RecordType::SRV),
        "NODATA" => signed_query("s500.service.local.", RecordType::AAAA),
        _ => signed_query("00000000.service.local.", RecordType::A),
    };
    let mut number = 0u32;
    bencher.bench_local(|| {
        if what.ends_with("another") {
            number += 1;
            query[13..21].copy_from_slice(format!("{number:08x}").as_bytes());
        }
        system.ask(black_box(&query), Over::Udp)
    });
}

/// A denial at a service, which asks for every type whether there is any.
#[divan::bench(args = [1, 100, 10_000])]
fn signed_no_data_by_instances(bencher: Bencher<'_, '_>, instances: usize) {
    let system = System::new(1, instances);
    sign(&system);
    let query = signed_query("s0.service.local.", RecordType::MX);
    bencher.bench_local(|| system.ask(black_box(&query), Over::Udp));
}

#[divan::bench]
fn sign_one(bencher: Bencher<'_, '_>) {
    let random = SystemRandom::new();
    let (secret, public) = draw(&random).unwrap();
    let apex = Apex::parse("service.local").unwrap();
    let key = ZoneKey::new(apex.name(), Times::default(), &secret, &public, &random).unwrap();
    let owner = apex.owner(&["web"]);
    let fields = SetFields { owner: &owner, rtype: Type::A, ttl: 5 };
    bencher.bench_local(|| key.sign(&fields, black_box(&[7; 100]), Wall::default(), &random).unwrap());
}

#[divan::bench(args = [1, 100, 10_000])]
fn answer_srv_by_instances(bencher: Bencher<'_, '_>, instances: usize) {
    let system = System::new(1, instances);
    let query = query("s0.service.local.", RecordType::SRV);
    bencher.bench_local(|| system.ask(black_box(&query), Over::Udp));
}

/// One instance of the service registers again: check, apply, publish.
#[divan::bench(args = [3, 100, 10_000])]
fn register_and_publish_by_instances(bencher: Bencher<'_, '_>, instances: usize) {
    let mut system = System::new(1, instances);
    let command = registration("s0", 1);
    bencher.bench_local(|| {
        let changes = system.apply(black_box(&command));
        system.view.publish(&system.registry, &changes);
    });
}

#[divan::bench]
fn apply_alone(bencher: Bencher<'_, '_>) {
    let mut system = System::new(1000, 3);
    let command = registration("s500", 1);
    bencher.bench_local(|| system.apply(black_box(&command)));
}

#[divan::bench]
fn heartbeat(bencher: Bencher<'_, '_>) {
    let system = System::new(1000, 3);
    let key = key("s500", 1);
    bencher.bench_local(|| system.view.renew(black_box(&key), Some(1), Now::default()).unwrap());
}

#[divan::bench(args = ["register", "heartbeat"])]
fn decode(bencher: Bencher<'_, '_>, verb: &str) {
    let line = match verb {
        "register" => {
            r#"{"register":{"service":"web","id":"web-1","address":"10.0.0.7","port":8080,"lease":"15s","tags":["v2"]}}"#
        }
        _ => r#"{"heartbeat":{"service":"web","id":"web-1","lease_id":"0123456789abcdef"}}"#,
    };
    bencher.bench_local(|| protocol::decode(black_box(line.as_bytes())).is_ok());
}

fn leases() -> (Leases, Vec<Arc<LeaseCell>>) {
    let mut leases = Leases::default();
    let duration = |at: usize| Duration::from_millis(15_000 + at as u64 % 1000);
    let cells: Vec<_> =
        (0..LEASES).map(|at| LeaseCell::timed(key("s", at), duration(at), Now::default())).collect();
    cells.iter().for_each(|cell| leases.arm(cell));
    (leases, cells)
}

/// Memory of the leases alone is in the column of allocations; keys included.
#[divan::bench(sample_count = 3, sample_size = 1)]
fn leases_arm_1m(bencher: Bencher<'_, '_>) {
    bencher.counter(ItemsCount::new(LEASES)).bench_local(leases);
}

#[divan::bench(sample_count = 5, sample_size = 1)]
fn leases_renew_1m(bencher: Bencher<'_, '_>) {
    let (_, cells) = leases();
    bencher
        .counter(ItemsCount::new(LEASES))
        .bench_local(|| cells.iter().filter(|cell| cell.renew(Now::default()) == Renewal::Done).count());
}

/// Every bucket comes due and every lease was renewed meanwhile: nothing ends, all move on.
#[divan::bench(sample_count = 5, sample_size = 1)]
fn leases_move_on_1m(bencher: Bencher<'_, '_>) {
    bencher
        .counter(ItemsCount::new(LEASES))
        .with_inputs(|| {
            let (leases, cells) = leases();
            let later = Now::default().after(Duration::from_secs(10));
            cells.iter().for_each(|cell| assert_eq!(cell.renew(later), Renewal::Done));
            leases
        })
        .bench_local_refs(|leases| {
            leases.expired(Now::default().after(Duration::from_secs(17)), usize::MAX).len()
        });
}

#[divan::bench(sample_count = 5, sample_size = 1)]
fn leases_expire_1m(bencher: Bencher<'_, '_>) {
    bencher.counter(ItemsCount::new(LEASES)).with_inputs(|| leases().0).bench_local_refs(|leases| {
        leases.expired(Now::default().after(Duration::from_secs(60)), usize::MAX).len()
    });
}
