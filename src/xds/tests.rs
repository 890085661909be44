//! What resources say of a registry, and what a session says when: with no socket and no clock.

use std::net::Ipv4Addr;

use serde_json::{Value as Json, json};

use super::request::Request;
use super::resources::{self, LISTEN_DEFAULT, Setting, Source};
use super::session::{Concern, NAMES_MAX, Refusal, Session, fingerprint};
use super::{ALL_SERVICES, Kind};
use crate::balance::Region;
use crate::name::{Apex, HostName, ServiceName};
use crate::protobuf::Fields;
use crate::protocol::{Peer, RegisterForm, SettingsForm};
use crate::registry::{Author, Command, FORGET_AFTER, Holder, Reason, Registry, What};
use crate::time::Now;
use crate::view::{Settings, View, Zones};

struct System {
    registry: Registry,
    view: View,
    now: Now,
}

impl System {
    fn new() -> Self {
        let settings = Settings::new(vec![Apex::parse("service.local").unwrap()]);
        let view = View::new(settings, Zones::default());
        view.set_ready();
        Self { registry: Registry::new(100, FORGET_AFTER), view, now: Now::default() }
    }

    fn publish(&mut self, found: Vec<(Reason, What)>) -> Vec<ServiceName> {
        let mut changes = Vec::new();
        for (reason, what) in found {
            let revision = self.registry.revision() + 1;
            let change = Registry::change(revision, reason, what, Author::Server, self.now);
            self.registry.apply(&change, self.now);
            changes.push(change);
        }
        self.view.publish(&self.registry, &changes)
    }

    fn carry_out(&mut self, command: &Command) -> Vec<ServiceName> {
        let found = self.registry.check(command, self.now).unwrap();
        self.publish(found)
    }

    /// The services that it concerns, as for all of these.
    fn register(&mut self, form: Json) -> Vec<ServiceName> {
        let form: RegisterForm = serde_json::from_value(form).unwrap();
        let peer = Peer {
            host: HostName::parse("here").unwrap(),
            addresses: vec![Ipv4Addr::new(10, 0, 0, 1).into()],
            loopback_allowed: true,
            connection: 1,
        };
        self.carry_out(&Command::Register(Box::new(form.registration(&peer, 1).unwrap())))
    }

    fn instance(&mut self, service: &str, port: u16) -> Vec<ServiceName> {
        self.register(json!({"service": service, "id": service, "port": port, "lease": "none"}))
    }

    /// Settings of a service, as the protocol has them.
    fn set(&mut self, service: &str, mut form: Json) -> Vec<ServiceName> {
        form["service"] = service.into();
        let form: SettingsForm = serde_json::from_value(form).unwrap();
        let (_, configuration) = form.configuration(&self.view.settings.apexes).unwrap();
        self.carry_out(&Command::Configure(configuration.unwrap()))
    }

    fn holder(&self, service: &str) -> Holder {
        let key = self.view.service(service).unwrap().members.iter().next().unwrap().instance.key.clone();
        Holder { key, lease_id: None }
    }

    /// Until nothing is known of it.
    fn lose(&mut self, service: &str) -> Vec<ServiceName> {
        self.carry_out(&Command::Deregister(self.holder(service)));
        self.now.mono_ns += u64::try_from(2 * FORGET_AFTER.as_nanos()).unwrap();
        let due = self.registry.due(self.now, 10);
        self.publish(due)
    }

    fn resource(&self, kind: Kind, name: &str) -> Option<Json> {
        resources::resource(&self.view, kind, name, &SETTING, |_| true).map(|message| message.json().into())
    }
}

const SETTING: Setting = Setting { source: Source::Aggregated, listen: LISTEN_DEFAULT, region: None };

#[test]
fn endpoints_say_where_how_much_and_in_which_state() {
    let mut system = System::new();
    let here = json!({"region": "north", "zone": "a"});
    for form in [
        json!({"service": "web", "id": "a", "address": ["10.0.0.1", "2001:db8::1"], "port": 80, "weight": 3, "meta": here}),
        json!({"service": "web", "id": "b", "address": "10.0.0.2", "port": 80, "weight": 0, "priority": 9}),
        json!({"service": "web", "id": "c", "address": "10.0.0.3", "port": 80, "priority": 9,
               "checks": [{"id": "up", "status": "critical"}]}),
        // Not to be reached by an address and a TCP port.
        json!({"service": "web", "id": "d", "target": "db.example.com.", "port": 80}),
        json!({"service": "web", "id": "e", "address": "10.0.0.5", "ports": {"dns": {"port": 53, "transport": "udp"}}}),
        // At an address that is another one's already; that one is live.
        json!({"service": "web", "id": "f", "address": "10.0.0.2", "port": 80, "priority": 20,
               "checks": [{"id": "up", "status": "critical"}]}),
        json!({"service": "web", "id": "g", "address": "10.0.0.7", "port": 80, "meta": here}),
    ] {
        system.register(form);
    }
    let members = &system.view.service("web").unwrap().members;
    let last = members.iter().find(|member| member.instance.key.id.as_str() == "g").unwrap();
    let holder = Holder { key: last.instance.key.clone(), lease_id: None };
    system.carry_out(&Command::Drain(holder));
    let at = |address: &str| json!({"socket_address": {"address": address, "port_value": 80}});
    let endpoint = |address: &str, others: &[&str], health: &str, weight: u32| {
        let others: Vec<Json> = others.iter().map(|other| json!({"address": at(other)})).collect();
        json!({"endpoint": {"address": at(address), "additional_addresses": others}, "health_status": health, "load_balancing_weight": weight})
    };
    let north = json!({"region": "north", "zone": "a", "sub_zone": ""});
    let nowhere = json!({"region": "", "zone": "", "sub_zone": ""});
    assert_eq!(
        system.resource(Kind::Endpoints, "web").unwrap(),
        json!({"cluster_name": "web", "endpoints": [
            {"locality": north, "priority": 0, "load_balancing_weight": 3, "lb_endpoints": [
                endpoint("10.0.0.1", &["2001:db8::1"], "HEALTHY", 3), endpoint("10.0.0.7", &[], "DRAINING", 1)]},
            {"locality": nowhere, "priority": 1, "load_balancing_weight": 1, "lb_endpoints": [
                endpoint("10.0.0.2", &[], "HEALTHY", 1), endpoint("10.0.0.3", &[], "UNHEALTHY", 1)]},
        ], "policy": {"overprovisioning_factor": 1_000_000}})
    );
    let none = system.resource(Kind::Endpoints, "none").unwrap();
    assert_eq!((&none["cluster_name"], &none["endpoints"]), (&json!("none"), &json!([])));
    for name in ["No", "_x", "a.b", ""] {
        assert_eq!(system.resource(Kind::Endpoints, name), None, "{name}");
    }
}

#[test]
fn a_service_is_a_cluster_a_listener_and_routes_by_its_name() {
    let mut system = System::new();
    system.register(json!({"service": "web", "port": 80, "protocol": "grpc"}));
    system.instance("db", 5432);
    let text = |kind, name| system.resource(kind, name).unwrap().to_string();
    assert!(text(Kind::Cluster, "web").contains("http2_protocol_options"));
    assert!(!text(Kind::Cluster, "db").contains("http2_protocol_options"));
    assert!(text(Kind::Listener, "web").contains(r#""route_config_name":"web""#));
    assert!(text(Kind::Listener, ALL_SERVICES).contains(r#""address":"127.0.0.1","port_value":10000"#));
    assert!(text(Kind::Routes, "web").contains(r#""domains":["*"]"#));
    let all = text(Kind::Routes, ALL_SERVICES);
    assert!(all.contains(r#""domains":["db","db.service.local"]"#) && all.contains(r#""cluster":"web""#));
    for kind in [Kind::Cluster, Kind::Listener, Kind::Routes] {
        assert_eq!(system.resource(kind, "none"), None);
    }
    // By each way one leads to the next.
    for (source, word) in [
        (Source::Aggregated, r#""ads":{}"#),
        (Source::Separate { delta: false }, r#""api_type":"GRPC""#),
        (Source::Separate { delta: true }, r#""api_type":"DELTA_GRPC""#),
        (Source::Rest, r#""cluster_names":["localhost"]"#),
    ] {
        let setting = Setting { source, ..SETTING };
        for (kind, name) in [(Kind::Cluster, "web"), (Kind::Listener, "web"), (Kind::Listener, ALL_SERVICES)]
        {
            let message = resources::resource(&system.view, kind, name, &setting, |_| true).unwrap();
            assert!(Json::from(message.json()).to_string().contains(word), "{word}");
        }
    }
}

/// Addresses by priority, with the weight and health of each.
fn by_priority(endpoints: &Json) -> Vec<Vec<String>> {
    let mut priorities: Vec<Vec<String>> = Vec::new();
    for locality in endpoints["endpoints"].as_array().unwrap() {
        let priority = locality["priority"].as_u64().unwrap() as usize;
        priorities.resize(priorities.len().max(priority + 1), Vec::new());
        for endpoint in locality["lb_endpoints"].as_array().unwrap() {
            let address = endpoint["endpoint"]["address"]["socket_address"]["address"].as_str().unwrap();
            let (weight, health) = (&endpoint["load_balancing_weight"], &endpoint["health_status"]);
            priorities[priority].push(format!("{address} {weight} {}", health.as_str().unwrap()));
        }
    }
    priorities.iter_mut().for_each(|priority| priority.sort());
    priorities
}

#[test]
fn balance_is_a_policy_of_the_cluster_and_priorities_of_its_endpoints() {
    let mut system = System::new();
    system.view = View::new(
        Settings {
            regions: vec![Region { name: "south".into(), network: "10.2.0.0/16".parse().unwrap() }],
            ..system.view.settings.clone()
        },
        Zones::default(),
    );
    for form in [
        json!({"service": "web", "id": "a", "address": "10.1.0.1", "port": 80, "weight": 3, "meta": {"region": "north"}}),
        json!({"service": "web", "id": "b", "address": "10.2.0.2", "port": 80, "weight": 5}),
        json!({"service": "web", "id": "c", "address": "10.2.0.3", "port": 80, "weight": 7, "priority": 4}),
        json!({"service": "web", "id": "d", "address": "10.3.0.4", "port": 80, "weight": 9, "priority": 4}),
    ] {
        system.register(form);
    }
    let there = |system: &System, region: Option<&str>| {
        let setting = Setting { region: region.map(Into::into), ..SETTING };
        let message = resources::resource(&system.view, Kind::Endpoints, "web", &setting, |_| true).unwrap();
        by_priority(&message.json().into())
    };
    let usual =
        [vec!["10.1.0.1 3 HEALTHY", "10.2.0.2 5 HEALTHY"], vec!["10.2.0.3 7 HEALTHY", "10.3.0.4 9 HEALTHY"]];
    for (balance, policy) in [
        ("weighted", "ROUND_ROBIN"),
        ("first", "ROUND_ROBIN"),
        ("one", "ROUND_ROBIN"),
        ("nearest", "ROUND_ROBIN"),
        ("affinity", "RING_HASH"),
        ("one:affinity", "RING_HASH"),
    ] {
        system.set("web", json!({"balance": balance}));
        assert_eq!(system.resource(Kind::Cluster, "web").unwrap()["lb_policy"], policy, "{balance}");
        assert_eq!(there(&system, None).as_slice(), usual, "{balance}");
    }
    let hashed = system.resource(Kind::Routes, "web").unwrap().to_string();
    assert!(hashed.contains(r#""source_ip":true"#) && hashed.contains("io.grpc.channel_id"), "{hashed}");
    // Those at home come first, of each priority; by their metadata or by their network.
    system.set("web", json!({"balance": "nearest"}));
    assert_eq!(
        there(&system, Some("south")),
        [["10.2.0.2 5 HEALTHY"], ["10.1.0.1 3 HEALTHY"], ["10.2.0.3 7 HEALTHY"], ["10.3.0.4 9 HEALTHY"]]
    );
    assert_eq!(there(&system, Some("north"))[..2], [["10.1.0.1 3 HEALTHY"], ["10.2.0.2 5 HEALTHY"]]);
    assert_eq!(there(&system, Some("west")).as_slice(), usual, "where none is at home");
    // Weights do not count.
    system.set("web", json!({"balance": "rotate"}));
    assert_eq!(system.resource(Kind::Cluster, "web").unwrap()["lb_policy"], "ROUND_ROBIN");
    assert_eq!(there(&system, None)[0], ["10.1.0.1 1 HEALTHY", "10.2.0.2 1 HEALTHY"]);
}

#[test]
fn who_stands_in_comes_behind_in_the_order_of_failover() {
    let mut system = System::new();
    for (service, id, address, protocol) in [
        ("web", "a", "10.0.0.1", "grpc"),
        ("standby", "b", "10.0.0.2", "grpc"),
        ("last", "c", "10.0.0.3", "http"),
    ] {
        let form = json!({"service": service, "id": id, "address": address, "port": 80, "protocol": protocol,
                          "lease": "none"});
        system.register(form);
    }
    // At the address of an instance that is dead.
    system.register(json!({"service": "standby", "id": "d", "address": "10.0.0.9", "port": 80,
                           "priority": 7, "protocol": "grpc"}));
    system.register(json!({"service": "web", "id": "dead", "address": "10.0.0.9", "port": 80,
                           "protocol": "grpc", "checks": [{"id": "up", "status": "critical"}]}));
    system.set("web", json!({"failover": ["nobody", "standby", "cache.other.example"]}));
    let there = |system: &System, name| by_priority(&system.resource(Kind::Endpoints, name).unwrap());
    let is_http2 = |system: &System| {
        let cluster = system.resource(Kind::Cluster, "web").unwrap();
        cluster.to_string().contains("http2_protocol_options")
    };
    let three = [["10.0.0.1 1 HEALTHY"], ["10.0.0.2 1 HEALTHY"], ["10.0.0.9 1 HEALTHY"]];
    assert_eq!(there(&system, "web"), three);
    assert!(is_http2(&system));
    // Who stands in for who stands in; and then not all speak HTTP/2.
    system.set("standby", json!({"failover": ["last"]}));
    assert_eq!(there(&system, "web")[3..], [["10.0.0.3 1 HEALTHY"]]);
    assert!(!is_http2(&system));
    assert_eq!(there(&system, "standby").len(), 3);
    system.set("standby", json!({"failover": []}));
    // Nothing is left of it but its name, and still the protocol is that of who answers.
    let holder = |system: &System, id: &str| {
        let view = system.view.service("web").unwrap();
        let member = view.members.iter().find(|member| member.instance.key.id.as_str() == id);
        Holder { key: member.unwrap().instance.key.clone(), lease_id: None }
    };
    for id in ["a", "dead"] {
        system.carry_out(&Command::Deregister(holder(&system, id)));
    }
    assert_eq!(there(&system, "web"), three[1..]);
    assert!(is_http2(&system));
}

#[test]
fn a_change_of_who_stands_in_is_told() {
    for delta in [false, true] {
        let mut system = System::new();
        system.instance("web", 80);
        system.register(json!({"service": "standby", "id": "s", "address": "10.0.0.2", "port": 80,
                               "lease": "none"}));
        let mut client = Client::new(delta);
        client.ask(&system, Kind::Endpoints, &["web"], "");
        assert_eq!(client.session.concern(), Some(Concern::Services([service("web")].into())));
        let mut seen = client.hears(&system, Kind::Endpoints, 1);
        client.confirm(&system, &seen, &["web"]);
        assert!(!seen.text.contains("10.0.0.2"));
        assert_eq!(client.session.concern(), None);
        let changed = system.set("web", json!({"failover": ["standby"]}));
        client.changed(&system, &changed);
        seen = client.hears(&system, Kind::Endpoints, 1);
        client.confirm(&system, &seen, &["web"]);
        assert!(seen.text.contains("10.0.0.2"));
        // From here on it may be anybody.
        assert_eq!(client.session.concern(), Some(Concern::Everything));
        let changed = system.instance("other", 80);
        client.changed(&system, &changed);
        assert_eq!(client.next(&system), None, "that is nobody's");
        let changed =
            system.register(json!({"service": "standby", "id": "t", "address": "10.0.0.3", "port": 80}));
        client.changed(&system, &changed);
        seen = client.hears(&system, Kind::Endpoints, 1);
        client.confirm(&system, &seen, &["web"]);
        assert!(seen.text.contains("10.0.0.3"));
        // And when it ends, that is nobody's either.
        let changed = system.set("web", json!({"failover": []}));
        client.changed(&system, &changed);
        seen = client.hears(&system, Kind::Endpoints, 1);
        client.confirm(&system, &seen, &["web"]);
        assert!(!seen.text.contains("10.0.0.3"));
        let changed = system.lose("standby");
        client.changed(&system, &changed);
        assert_eq!(client.next(&system), None);
    }
}

fn service(name: &str) -> ServiceName {
    ServiceName::parse(name).unwrap()
}

/// A client that is told things, and says what it has to.
struct Client {
    session: Session,
    delta: bool,
}

/// A response as the client sees it.
#[derive(Debug, PartialEq)]
struct Seen {
    kind: Kind,
    nonce: String,
    /// How often each service's name is in its resources: what is routed, what is there.
    text: String,
    resources: usize,
    removed: Vec<String>,
}

impl Seen {
    /// A name stands in it as a text of its own: behind its length.
    fn names(&self, name: &str) -> bool {
        self.text.contains(&format!("{}{name}", char::from(name.len() as u8)))
    }
}

impl Client {
    fn new(delta: bool) -> Self {
        Self { session: Session::new(None, delta, SETTING), delta }
    }

    fn ask(&mut self, system: &System, kind: Kind, names: &[&str], nonce: &str) {
        let request = Request {
            type_url: kind.type_url().to_owned(),
            nonce: nonce.to_owned(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            ..Request::default()
        };
        assert_eq!(self.session.take(request, &system.view), Ok(None));
    }

    /// Confirms; in a state of the world with all names again.
    fn confirm(&mut self, system: &System, seen: &Seen, names: &[&str]) {
        self.ask(system, seen.kind, if self.delta { &[] } else { names }, &seen.nonce);
    }

    fn changed(&mut self, system: &System, services: &[ServiceName]) {
        self.session.services_changed(services.iter(), &system.view);
    }

    fn next(&mut self, system: &System) -> Option<Seen> {
        let octets = self.session.next(&system.view)?;
        let mut seen = Seen {
            kind: Kind::Cluster,
            nonce: String::new(),
            text: String::new(),
            resources: 0,
            removed: Vec::new(),
        };
        for field in Fields::of(&octets) {
            match field.unwrap() {
                (2, field) => {
                    seen.resources += 1;
                    seen.text.push_str(&String::from_utf8_lossy(field.octets().unwrap()));
                }
                (4, field) => seen.kind = Kind::of_type_url(field.text().unwrap()).unwrap(),
                (5, field) => seen.nonce = field.text().unwrap().to_owned(),
                (6, field) => seen.removed.push(field.text().unwrap().to_owned()),
                _ => {}
            }
        }
        Some(seen)
    }

    /// The next response, which is of this kind and has as many resources.
    fn hears(&mut self, system: &System, kind: Kind, resources: usize) -> Seen {
        let seen = self.next(system).unwrap_or_else(|| panic!("a response of {kind:?}"));
        assert_eq!((seen.kind, seen.resources), (kind, resources), "{seen:?}");
        seen
    }
}

/// An Envoy that has everything: clusters and endpoints of these services, the listener, and their routes.
fn envoy(system: &System, delta: bool, services: &[&str]) -> Client {
    let mut client = Client::new(delta);
    client.ask(system, Kind::Cluster, &[], "");
    let clusters = client.hears(system, Kind::Cluster, services.len());
    client.ask(system, Kind::Routes, &[ALL_SERVICES], "");
    client.confirm(system, &clusters, &[]);
    assert_eq!(client.next(system), None, "routes wait for endpoints");
    client.ask(system, Kind::Endpoints, services, "");
    let endpoints = client.hears(system, Kind::Endpoints, services.len());
    client.ask(system, Kind::Listener, &[], "");
    let listener = client.hears(system, Kind::Listener, 1);
    client.confirm(system, &listener, &[]);
    assert_eq!(client.next(system), None, "they wait until those are confirmed");
    client.confirm(system, &endpoints, services);
    let routes = client.hears(system, Kind::Routes, 1);
    assert!(services.iter().all(|service| routes.names(service)), "{routes:?}");
    client.confirm(system, &routes, &[ALL_SERVICES]);
    assert_eq!(client.next(system), None);
    client
}

#[test]
fn what_others_refer_to_comes_first_and_goes_last() {
    for delta in [false, true] {
        let mut system = System::new();
        system.instance("web", 80);
        let mut client = envoy(&system, delta, &["web"]);
        let changed = system.instance("mail", 25);
        client.changed(&system, &changed);
        let clusters = client.hears(&system, Kind::Cluster, if delta { 1 } else { 2 });
        assert_eq!(client.next(&system), None, "no route to what has no endpoints yet");
        client.confirm(&system, &clusters, &[]);
        let names = ["web", "mail"];
        client.ask(
            &system,
            Kind::Endpoints,
            if delta { &["mail"] } else { &names },
            if delta { "" } else { "2" },
        );
        let endpoints = client.hears(&system, Kind::Endpoints, 1);
        assert_eq!(client.next(&system), None);
        client.confirm(&system, &endpoints, &names);
        let routes = client.hears(&system, Kind::Routes, 1);
        assert!(routes.names("mail") && routes.names("web"));
        client.confirm(&system, &routes, &[ALL_SERVICES]);
        // And away: first nobody is sent there, then it goes.
        let changed = system.lose("mail");
        client.changed(&system, &changed);
        let endpoints = client.hears(&system, Kind::Endpoints, 1);
        let routes = client.hears(&system, Kind::Routes, 1);
        assert!(!routes.names("mail") && routes.names("web"));
        client.confirm(&system, &endpoints, &names);
        assert_eq!(client.next(&system), None, "the cluster is there until no route names it");
        client.confirm(&system, &routes, &[ALL_SERVICES]);
        let clusters = client.hears(&system, Kind::Cluster, if delta { 0 } else { 1 });
        assert_eq!(clusters.removed, if delta { vec!["mail"] } else { Vec::new() });
        assert_eq!(client.next(&system), None);
    }
}

#[test]
fn a_change_is_told_to_whom_it_concerns_and_once_where_several_came() {
    let mut system = System::new();
    system.instance("web", 80);
    system.instance("db", 5432);
    let mut client = Client::new(false);
    client.ask(&system, Kind::Endpoints, &["web"], "");
    let first = client.hears(&system, Kind::Endpoints, 1);
    for port in 81..99 {
        let changed = system.instance("web", port);
        client.changed(&system, &changed);
        assert_eq!(client.next(&system), None, "one response at a time");
    }
    client.confirm(&system, &first, &["web"]);
    let second = client.hears(&system, Kind::Endpoints, 1);
    assert_eq!(second.nonce, "2");
    // Written before that came: it says nothing.
    client.ask(&system, Kind::Endpoints, &["db"], "1");
    client.confirm(&system, &second, &["web"]);
    let changed = system.instance("db", 1);
    client.changed(&system, &changed);
    assert_eq!(client.next(&system), None);
    // The same again is no change.
    let changed = system.instance("web", 98);
    client.changed(&system, &changed);
    assert_eq!(client.next(&system), None);
    assert!(matches!(client.session.concern(), Some(Concern::Services(services)) if services.len() == 1));
    assert_eq!(client.session.concern(), None);
    // More names: what is new is told, not what is there.
    client.ask(&system, Kind::Endpoints, &["db", "web"], "2");
    let more = client.hears(&system, Kind::Endpoints, 1);
    assert!(more.names("db") && !more.names("web"));
}

#[test]
fn a_client_of_deltas_goes_on_from_what_it_has() {
    let mut system = System::new();
    system.instance("web", 80);
    system.instance("db", 5432);
    let mut client = Client::new(true);
    client.ask(&system, Kind::Endpoints, &["web", "none", "No"], "");
    let octets = client.session.next(&system.view).unwrap();
    let mut has = Vec::new();
    let mut removed = Vec::new();
    for field in Fields::of(&octets) {
        let field = field.unwrap();
        if field.0 == 6 {
            removed.push(field.1.text().unwrap().to_owned());
        }
        if field.0 == 2 {
            let (mut name, mut version) = (String::new(), String::new());
            for field in Fields::of(field.1.octets().unwrap()) {
                match field.unwrap() {
                    (1, field) => version = field.text().unwrap().to_owned(),
                    (3, field) => name = field.text().unwrap().to_owned(),
                    _ => {}
                }
            }
            has.push((name, version));
        }
    }
    assert_eq!((has.len(), removed), (2, vec!["No".to_owned()]));
    let again = |names: &[&str]| Request {
        type_url: Kind::Endpoints.type_url().to_owned(),
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        has: has.clone(),
        ..Request::default()
    };
    let mut same = Client::new(true);
    same.session.take(again(&["web", "none"]), &system.view).unwrap();
    assert_eq!(same.next(&system), None, "it has all of it");
    system.instance("web", 81);
    let mut other = Client::new(true);
    other.session.take(again(&["web", "none"]), &system.view).unwrap();
    other.hears(&system, Kind::Endpoints, 1);
    // Who asks for it again is sent it again; who leaves it hears no more of it.
    same.ask(&system, Kind::Endpoints, &["none"], "");
    let first = same.hears(&system, Kind::Endpoints, 1);
    let leaving = Request { unsubscribed: vec!["web".to_owned()], nonce: first.nonce, ..again(&[]) };
    same.session.take(leaving, &system.view).unwrap();
    let changed = system.instance("web", 82);
    same.changed(&system, &changed);
    assert_eq!(same.next(&system), None);
}

#[test]
fn an_envoy_that_comes_back_keeps_its_routes_until_all_is_there() {
    let mut system = System::new();
    system.instance("web", 80);
    for delta in [false, true] {
        // Everything is asked for at once, before anything is answered.
        let mut client = Client::new(delta);
        client.ask(&system, Kind::Cluster, &[], "");
        client.ask(&system, Kind::Endpoints, &["web"], "");
        client.ask(&system, Kind::Listener, &[], "");
        client.ask(&system, Kind::Routes, &[ALL_SERVICES], "");
        let clusters = client.hears(&system, Kind::Cluster, 1);
        let endpoints = client.hears(&system, Kind::Endpoints, 1);
        client.hears(&system, Kind::Listener, 1);
        assert_eq!(client.next(&system), None);
        client.confirm(&system, &clusters, &[]);
        client.confirm(&system, &endpoints, &["web"]);
        assert!(client.hears(&system, Kind::Routes, 1).names("web"));
    }
}

#[test]
fn an_envoy_that_has_its_routes_already_hears_of_new_ones() {
    let mut system = System::new();
    system.instance("web", 80);
    let versions = |kind: Kind, name: &str| {
        let octets = resources::resource(&system.view, kind, name, &SETTING, |_| true).unwrap().octets();
        vec![(name.to_owned(), format!("{:x}", fingerprint(&octets)))]
    };
    let back = |kind: Kind, name: &str, asked: &[&str]| Request {
        type_url: kind.type_url().to_owned(),
        names: asked.iter().map(|name| (*name).to_owned()).collect(),
        has: versions(kind, name),
        ..Request::default()
    };
    let requests = [
        back(Kind::Cluster, "web", &[]),
        back(Kind::Endpoints, "web", &["web"]),
        back(Kind::Routes, ALL_SERVICES, &[ALL_SERVICES]),
    ];
    let mut client = Client::new(true);
    for request in requests {
        client.session.take(request, &system.view).unwrap();
    }
    let clusters = client.hears(&system, Kind::Cluster, 0);
    client.confirm(&system, &clusters, &[]);
    assert_eq!(client.next(&system), None, "it has everything else");
    let changed = system.instance("mail", 25);
    client.changed(&system, &changed);
    let clusters = client.hears(&system, Kind::Cluster, 1);
    client.confirm(&system, &clusters, &[]);
    client.ask(&system, Kind::Endpoints, &["mail"], "");
    let endpoints = client.hears(&system, Kind::Endpoints, 1);
    client.confirm(&system, &endpoints, &[]);
    assert!(client.hears(&system, Kind::Routes, 1).names("mail"));
}

#[test]
fn what_is_rejected_goes_along_with_the_next_change() {
    let mut system = System::new();
    system.instance("web", 80);
    system.instance("db", 5432);
    let mut client = Client::new(false);
    client.ask(&system, Kind::Endpoints, &["web", "db"], "");
    let first = client.hears(&system, Kind::Endpoints, 2);
    let rejecting = Request {
        type_url: Kind::Endpoints.type_url().to_owned(),
        nonce: first.nonce,
        names: vec!["web".to_owned(), "db".to_owned()],
        error: Some("no".to_owned()),
        ..Request::default()
    };
    let rejection = client.session.take(rejecting.clone(), &system.view).unwrap().unwrap();
    assert_eq!((rejection.kind, rejection.names.len(), rejection.error.as_str()), (Kind::Endpoints, 2, "no"));
    assert_eq!(client.next(&system), None, "it would be the same again");
    let changed = system.instance("web", 81);
    client.changed(&system, &changed);
    client.hears(&system, Kind::Endpoints, 2);
}

#[test]
fn not_ready_is_no_response_and_too_much_is_refused() {
    let mut system = System::new();
    system.view = View::new(system.view.settings.clone(), Zones::default());
    let mut client = Client::new(false);
    client.ask(&system, Kind::Cluster, &[], "");
    assert_eq!(client.next(&system), None);
    system.view.set_ready();
    client.hears(&system, Kind::Cluster, 0);
    for delta in [false, true] {
        let mut session = Session::new(Some(Kind::Endpoints), delta, SETTING);
        let names = (0..=NAMES_MAX).map(|number| format!("s{number}")).collect();
        let request = Request { names, ..Request::default() };
        assert_eq!(session.take(request, &system.view), Err(Refusal::TooMany { count: NAMES_MAX + 1 }));
    }
}
