//! What a session says when, to clients of both protocols.

use super::*;
use crate::protobuf::Fields;
use crate::xds::request::Request;
use crate::xds::session::{Concern, NAMES_MAX, Refusal, Session, fingerprint};

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
