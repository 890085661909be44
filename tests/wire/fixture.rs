//! The registry and the zones that the rows ask, and the servers that carry the questions.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use callsign::balance::Region;
use callsign::clock::Clock;
use callsign::connections::Streams;
use callsign::dns::cookie::{Cookies, SECRET_OCTETS, Secret};
use callsign::dns::handler::Handler;
use callsign::dns::wire::{Policy, Responder};
use callsign::dns::{tcp, udp};
use callsign::instance::{ConsulFacts, Health, Key, Lease, Location, Port, ServiceSettings, Transport};
use callsign::name::{Apex, Datacenter, HostName, InstanceId, Name, ServiceName, Tag, parse_target};
use callsign::registry::{
    Author, Change, Command, Configuration, FORGET_AFTER, Holder, HostRegistration, INSTANCES_MAX, Reason,
    Registration, Registry, Report, ReportOf, Subject, What,
};
use callsign::time::Now;
use callsign::view::{ConsulZone, Settings, View, Zones};
use callsign::zone::{Kind, Zone};
use callsign::zone_file;
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::judge;

/// How long a test waits for what must come. Far more than any of it takes: it is reached when the
/// test fails, and only then.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// How long stock hickory may keep a connection between two messages.
const STOCK_IDLE: Duration = Duration::from_secs(30);

/// `corp.test.zone`, and what sizes and bad luck need.
const CORP: &str = include_str!("corp.test.zone");
/// A zone within it.
const INNER: &str = include_str!("inner.corp.test.zone");
/// The record tree beside the live services.
const TREE: &str = "$ORIGIN service.local.\n$TTL 60\nprinter IN A 10.9.9.9\n*.lab IN A 10.9.9.10\n";

/// A registry and its view, changed as the writer changes them: check, apply, publish.
pub struct Live {
    pub registry: Registry,
    pub view: Arc<View>,
    pub now: Now,
}

/// One instance as a test writes it; `Wanted::new` fills in what does not matter.
#[derive(Clone)]
pub struct Wanted {
    pub service: String,
    pub id: String,
    pub location: Location,
    pub ports: Vec<Port>,
    pub tags: Vec<&'static str>,
    pub meta: Vec<(&'static str, String)>,
    pub weight: u16,
    pub priority: u16,
    pub lease: Lease,
    pub consul: Option<Arc<ConsulFacts>>,
    pub protocol: Option<&'static str>,
}

impl Wanted {
    pub fn new(service: &str, id: &str, addresses: &[&str], port: u16) -> Self {
        let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Self {
            service: service.to_owned(),
            id: id.to_owned(),
            location: Location::Addresses(addresses.into()),
            ports: vec![Port { name: None, number: port, transport: Transport::Tcp }],
            tags: Vec::new(),
            meta: Vec::new(),
            weight: 1,
            priority: 0,
            lease: Lease::Timed(Duration::from_secs(15)),
            consul: None,
            protocol: None,
        }
    }

    pub fn at(mut self, target: &str) -> Self {
        self.location = Location::Target(parse_target(target).unwrap());
        self
    }

    fn key(&self) -> Key {
        Key::new(
            ServiceName::parse(&self.service).unwrap(),
            InstanceId::parse(&self.id).unwrap(),
            HostName::parse("machine").unwrap(),
        )
    }

    fn command(&self) -> Command {
        let mut meta = BTreeMap::new();
        for (key, value) in &self.meta {
            meta.insert(Arc::from(*key), Arc::from(value.as_str()));
        }
        Command::Register(Box::new(Registration {
            protocol: self.protocol.map(Arc::from),
            tags: self.tags.iter().map(|tag| Tag::parse(tag).unwrap()).collect(),
            meta,
            weight: self.weight,
            priority: self.priority,
            consul: self.consul.clone(),
            ..Registration::new(self.key(), self.location.clone(), self.ports.clone(), self.lease, 1)
        }))
    }
}

fn port(name: &str, number: u16, transport: Transport) -> Port {
    Port { name: Some(name.into()), number, transport }
}

impl Live {
    /// An empty registry that is ready, its clocks at zero.
    pub fn new(zones: Zones) -> Self {
        let settings = Settings {
            apexes: vec![Apex::parse("service.local").unwrap()],
            ttl: 5,
            ns_addresses: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
            tell_stale: true,
            consul: Some(ConsulZone {
                apex: Apex::parse("consul").unwrap(),
                datacenter: Datacenter::parse("dc1").unwrap(),
            }),
            // The whole of 10.0.0.0/8 would be one zone; the second ends between two labels' boundaries.
            reverse: ["10.0.0.0/16", "10.6.0.0/22", "2001:db8::/32"]
                .map(|network| network.parse().unwrap())
                .to_vec(),
            regions: vec![Region { name: "eu".into(), network: "10.1.0.0/16".parse().unwrap() }],
            ..Settings::new(Vec::new())
        };
        let view = Arc::new(View::new(settings, zones));
        Self { registry: Registry::new(INSTANCES_MAX, FORGET_AFTER), view, now: Now::default() }
    }

    fn command(&mut self, command: &Command) {
        let found = self.registry.check(command, self.now).unwrap();
        self.carry_out(found);
    }

    /// Time goes on, and what it changes is published.
    pub fn wait(&mut self, time: Duration) {
        self.now = self.now.after(time);
        let due = self.registry.due(self.now, 1000);
        self.carry_out(due);
    }

    fn carry_out(&mut self, found: Vec<(Reason, What)>) {
        let mut changes = self.apply(found);
        let settled = self.registry.settle(&changes, self.now);
        changes.extend(self.apply(settled));
        self.view.publish(&self.registry, &changes);
    }

    fn apply(&mut self, found: Vec<(Reason, What)>) -> Vec<Change> {
        let mut changes = Vec::new();
        for (reason, what) in found {
            let change =
                Registry::change(self.registry.revision() + 1, reason, what, Author::Server, self.now);
            self.registry.apply(&change, self.now);
            changes.push(change);
        }
        changes
    }

    /// Many at once, published once: as the writer does with a batch.
    pub fn register_all(&mut self, wanted: impl IntoIterator<Item = Wanted>) {
        let mut changes = Vec::new();
        for wanted in wanted {
            let found = self.registry.check(&wanted.command(), self.now).unwrap();
            changes.extend(self.apply(found));
        }
        self.view.publish(&self.registry, &changes);
    }

    pub fn register(&mut self, wanted: &Wanted) {
        self.command(&wanted.command());
    }

    pub fn deregister(&mut self, wanted: &Wanted) {
        self.command(&Command::Deregister(Holder { key: wanted.key(), lease_id: None }));
    }

    pub fn configure(&mut self, service: &str, given: ServiceSettings) {
        let service = ServiceName::parse(service).unwrap();
        self.command(&Command::Configure(Configuration { service, reset: true, given }));
    }

    pub fn drain(&mut self, wanted: &Wanted) {
        self.command(&Command::Drain(Holder { key: wanted.key(), lease_id: None }));
    }

    /// As `report`, of one that may have left.
    pub fn report_if_there(&mut self, wanted: &Wanted, status: Health) {
        if self.registry.instance(&wanted.key()).is_some() {
            self.report(wanted, status);
        }
    }

    pub fn report(&mut self, wanted: &Wanted, status: Health) {
        self.command(&Command::Report(Report {
            on: Subject::Instance(Holder { key: wanted.key(), lease_id: None }),
            check: "http".into(),
            status,
            output: "".into(),
            of: ReportOf::Any,
        }));
    }
}

/// A zone of this text.
pub fn zone(apex: &str, kind: Kind, text: &str) -> Arc<Zone> {
    let apex = Name::parse(apex).unwrap();
    let (zone, warnings) = Zone::new(apex.clone(), kind, zone_file::read(text.as_bytes(), &apex).unwrap())
        .unwrap_or_else(|error| panic!("{apex}: {error}"));
    assert_eq!(warnings, [], "{apex}");
    Arc::new(zone)
}

/// The static zones of the fixture.
pub fn zones() -> Zones {
    Zones {
        primary: vec![
            zone("corp.test.", Kind::Primary, CORP),
            zone("inner.corp.test.", Kind::Primary, INNER),
        ],
        trees: vec![zone("service.local.", Kind::Tree, TREE)],
    }
}

/// A small registry, and one service for each further rule. Nothing is ready yet.
pub fn services() -> Live {
    let mut live = Live::new(zones());
    let http = |number| vec![port("http", number, Transport::Tcp)];
    for (id, addresses, number) in [
        ("a", &["10.0.0.1"][..], 8080),
        ("b", &["10.0.0.2"], 8081),
        ("c", &["10.0.0.3", "2001:db8::3"], 8082),
    ] {
        live.register(&Wanted { ports: http(number), ..Wanted::new("web", id, addresses, number) });
    }
    live.register(&Wanted::new("v6", "six", &["2001:db8::6"], 80));
    let idle = Wanted::new("idle", "one", &["10.1.0.1"], 80);
    live.register(&idle);
    live.report(&idle, Health::Critical);
    live.register_all(
        (0..120).map(|n| Wanted::new("big", &format!("i{n:03}"), &[&format!("10.1.1.{n}")], 80)),
    );
    // More than a stream's 65,535 octets hold.
    live.register_all((0..4200).map(|n| {
        let address = format!("10.64.{}.{}", n / 256, n % 256);
        Wanted::new("huge", &format!("i{n:04}"), &[&address], 80)
    }));

    // Named ports, both transports, tags, metadata, priorities and weights to their ends.
    let mix = |id: &str, address: &str| Wanted {
        ports: vec![
            Port { name: None, number: 65_535, transport: Transport::Tcp },
            port("dns", 53, Transport::Udp),
        ],
        ..Wanted::new("mix", id, &[address], 1)
    };
    live.register(&Wanted { tags: vec!["v2", "eu"], weight: 65_535, ..mix("x", "10.2.0.1") });
    live.register(&Wanted {
        meta: vec![("zone", "a b".to_owned())],
        weight: 0,
        priority: 65_535,
        ..mix("y", "10.2.0.2")
    });

    // One host, two ports; one target, registered twice; targets of ours and of others.
    live.register(&Wanted::new("twin", "one", &["10.3.0.1"], 1001));
    live.register(&Wanted::new("twin", "two", &["10.3.0.1"], 1002));
    live.register(&Wanted::new("same", "one", &[], 7).at("www.corp.test"));
    live.register(&Wanted::new("same", "two", &[], 7).at("www.corp.test"));
    live.register(&Wanted::new("doors", "one", &[], 7).at("www.corp.test"));
    live.register(&Wanted::new("doors", "two", &[], 8).at("www.corp.test"));
    live.register(&Wanted::new("near", "one", &[], 7).at("www.corp.test"));
    live.register(&Wanted::new("far", "one", &[], 7).at("db.example.com"));

    // Ten instances of five addresses each: what fits of the additional section is whole RRsets.
    for n in 0..10 {
        let addresses: Vec<String> = (0..3)
            .map(|k| format!("10.4.{n}.{k}"))
            .chain((0..2).map(|k| format!("2001:db8:4::{n}:{k}")))
            .collect();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        live.register(&Wanted::new("wide", &format!("n{n}"), &addresses, 80));
    }

    // Leases bound the TTL; one for each step.
    for (service, lease) in [
        ("brief", Lease::Timed(Duration::from_secs(1))),
        ("short", Lease::Timed(Duration::from_secs(9))),
        ("endless", Lease::None),
        ("bound", Lease::Connection(1)),
    ] {
        live.register(&Wanted { lease, ..Wanted::new(service, "one", &["10.5.0.1"], 80) });
    }
    live.register(&Wanted::new("blend", "one", &["10.5.0.2"], 80));
    let lease = Lease::Timed(Duration::from_secs(6));
    live.register(&Wanted { lease, ..Wanted::new("blend", "two", &["10.5.0.3"], 80) });

    // Names at their limits.
    live.register(&Wanted::new("quite-a-long-name", "one", &["10.6.0.1"], 80));
    live.register(&Wanted::new("redis", "redis:6379", &["10.6.0.2"], 6379));
    live.register(&Wanted::new("Shout", "LOUD", &["10.6.0.3"], 80));
    live.register(&Wanted {
        meta: vec![("long", "x".repeat(300)), ("note", "y".repeat(200)), ("other", "z".repeat(200))],
        ..Wanted::new("wordy", "one", &["10.6.0.4"], 80)
    });

    // What DNS-SD shows by its id, and what speaks HTTP over TLS.
    live.register(&Wanted { tags: vec!["color"], ..Wanted::new("print", "My Web.1", &["10.0.6.1"], 631) });
    live.register(&Wanted {
        meta: vec![("Path", "/".to_owned())],
        ..Wanted::new("print", "two", &["10.0.6.2"], 631)
    });
    for (id, protocol, address, priority) in [
        ("one", "https", "10.0.7.1", 0),
        ("two", "h2", "10.0.7.2", 0),
        ("three", "http", "10.0.7.3", 0),
        ("four", "h3", "10.0.7.4", 7),
    ] {
        let ports = vec![port("web", 443, Transport::Tcp), port("quic", 444, Transport::Udp)];
        let addresses = [address, "2001:db8:7::1"];
        let of = Wanted { ports, protocol: Some(protocol), ..Wanted::new("safe", id, &addresses, 1) };
        live.register(&Wanted { priority, ..of });
    }

    // What the alias zone has besides: a host that somebody spoke of, a tag of several labels, another weight for a
    // check that warns.
    live.command(&Command::RegisterHost(Box::new(HostRegistration {
        name: HostName::parse("machine").unwrap(),
        addresses: vec![[10, 0, 0, 1].into()],
        meta: BTreeMap::from([("rack".into(), "r1".into()), ("rfc1035-00".into(), "w".repeat(300).into())]),
        id: None,
    })));
    let facts = ConsulFacts { weight_warning: 3, ..ConsulFacts::default() };
    let warned = Wanted {
        tags: vec!["v1.0.1", "traefik.enable=true"],
        weight: 10,
        consul: Some(Arc::new(facts)),
        ..Wanted::new("warns-a-good-deal", "one", &["10.6.0.5"], 80)
    };
    live.register(&warned);
    live.report(&warned, Health::Warning);

    let left = Wanted { tags: vec!["old"], ..Wanted::new("left", "one", &["10.7.0.1"], 80) };
    live.register(&left);
    live.deregister(&left);
    let tired = Wanted::new("tired", "one", &["10.7.0.2"], 80);
    live.register(&tired);
    live.drain(&tired);
    live
}

/// As a server has it that was told nothing, but for the secret; or one with a name.
pub fn policy(named: bool) -> Policy {
    let cookies = Some(Cookies::Given(Secret([7; SECRET_OCTETS]), None));
    Policy { nsid: named.then(|| judge::NSID.into()), cookies, ..Policy::default() }
}

/// `services`, served.
pub fn fixture() -> Arc<View> {
    let live = services();
    live.view.set_ready();
    live.view
}

/// Servers on loopback ports of the kernel's choosing; they end when this is dropped.
pub struct Servers {
    pub udp: SocketAddr,
    pub tcp: SocketAddr,
    stop: CancellationToken,
    _tasks: JoinSet<()>,
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn sockets() -> (UdpSocket, TcpListener) {
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    (udp, TcpListener::bind("127.0.0.1:0").await.unwrap())
}

impl Servers {
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Our own loops.
    pub async fn ours(view: &Arc<View>, policy: Policy) -> Self {
        let (udp_socket, listener) = sockets().await;
        let (udp, tcp) = (udp_socket.local_addr().unwrap(), listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let responder = Arc::new(Responder::new(view.clone(), policy, Clock::start()));
        let sockets = vec![udp_socket.into_std().unwrap()];
        let running = udp::run(sockets, responder.clone(), 1, stop.clone());
        tasks.spawn(async { running.await.unwrap() });
        let streams = Streams::new(tcp::CONNECTIONS_MAX);
        let running = tcp::run(listener, tcp::Layer::Plain, responder, streams, 2, stop.clone());
        tasks.spawn(async { running.await.unwrap() });
        Self { udp, tcp, stop, _tasks: tasks }
    }

    /// A stock hickory server with our handler in it.
    pub async fn stock(view: &Arc<View>, policy: Policy) -> Self {
        let (udp_socket, listener) = sockets().await;
        let (udp, tcp) = (udp_socket.local_addr().unwrap(), listener.local_addr().unwrap());
        let mut server = hickory_server::Server::new(Handler::new(
            Arc::new(Responder::new(view.clone(), policy, Clock::start())),
            3,
        ));
        server.register_socket(udp_socket);
        server.register_listener(listener, STOCK_IDLE, 32);
        let stop = server.shutdown_token().clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { server.block_until_done().await.unwrap() });
        Self { udp, tcp, stop, _tasks: tasks }
    }
}
