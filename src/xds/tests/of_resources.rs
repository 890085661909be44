//! What resources say of a registry.

use super::*;
use crate::balance::Region;

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
