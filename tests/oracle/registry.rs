//! A registry that has something of everything, drawn from a seed.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};

use crate::harness::{Draws, Server};

/// Instances of the services, one number each; the last ones fill a datagram and more.
const SIZES: [usize; 14] = [0, 1, 1, 1, 2, 2, 3, 3, 5, 8, 13, 40, 120, 300];
/// Services of each size.
const SERVICES_PER_SIZE: usize = 4;

/// What no list shows.
pub struct Drawn {
    /// The services that are known, and their TTL in seconds where they have one of their own.
    pub ttls: Vec<(String, Option<u32>)>,
    /// Instances that left, as they were registered.
    pub gone: Vec<Value>,
}

pub fn register(server: &Server, draws: &mut Draws) -> Drawn {
    let mut client = server.client();
    let mut drawn = Drawn { ttls: Vec::new(), gone: Vec::new() };
    for (number, size) in SIZES.iter().cycle().take(SIZES.len() * SERVICES_PER_SIZE).enumerate() {
        // Some are no service types: too long for one.
        let long = if draws.below(4) == 0 { "-is-no-type" } else { "" };
        let service = format!("svc-{number:02}{long}");
        let ttl = [None, None, Some(0), Some(1), Some(30), Some(300)][draws.below(6)];
        if let Some(ttl) = ttl {
            client.done("settings", &json!({"settings": {"service": service, "ttl": format!("{ttl}s")}}));
        }
        drawn.ttls.push((service.clone(), ttl));
        let shape = Shape::draw(draws);
        for n in 0..*size {
            let form = shape.instance(&service, n, draws);
            client.done("registered", &json!({"register": form}));
            match draws.below(12) {
                0 => drop(client.done("draining", &json!({"drain": {"service": service, "id": form["id"]}}))),
                1 => {
                    let report = json!({"service": service, "id": form["id"], "status": "critical"});
                    client.done("reported", &json!({"report": report}));
                }
                _ => {}
            }
        }
        // One that left, of each service: alone, it is what the service is known by.
        let form = shape.instance(&service, 9999, draws);
        client.done("registered", &json!({"register": form}));
        client.done("deregistered", &json!({"deregister": {"service": service, "id": form["id"]}}));
        drawn.gone.push(form);
    }
    drawn
}

/// What the instances of one service have in common.
struct Shape {
    named: bool,
    udp: bool,
    priorities: bool,
    protocol: Option<&'static str>,
    odd_ids: bool,
}

impl Shape {
    fn draw(draws: &mut Draws) -> Self {
        let mut half = || draws.below(2) == 0;
        let (named, udp, priorities, odd_ids) = (half(), half(), half(), half());
        let protocol = [None, Some("http"), Some("https"), Some("h2"), Some("h3")][draws.below(5)];
        Self { named, udp, priorities, protocol, odd_ids }
    }

    fn instance(&self, service: &str, n: usize, draws: &mut Draws) -> Value {
        let id = match draws.below(4) {
            0 if self.odd_ids => format!("Nr. {n}: ü"),
            1 => format!("Node-{n}"),
            _ => format!("n{n}"),
        };
        let mut form = json!({"service": service, "id": id, "lease": "7d", "weight": draws.below(100)});
        if draws.below(20) == 0 && n > 0 {
            form["target"] = json!("db.example.com");
        } else {
            form["address"] = json!(addresses(draws));
        }
        let port = 1 + draws.below(65_535);
        match self.named {
            false => form["port"] = json!(port),
            true => form["ports"] = json!({"http": port, "admin": 1 + draws.below(65_535)}),
        }
        if self.udp && draws.below(3) > 0 {
            form["ports"]["dns"] = json!({"port": 53, "transport": "udp"});
        }
        if self.priorities {
            form["priority"] = json!([0, 0, 1, 65_535][draws.below(4)]);
        }
        if let Some(protocol) = self.protocol.filter(|_| draws.below(3) > 0) {
            form["protocol"] = json!(protocol);
        }
        let tags: Vec<&str> =
            ["v1", "v2", "eu", "Canary", "a.b"].into_iter().filter(|_| draws.below(3) == 0).collect();
        form["tags"] = json!(tags);
        if draws.below(3) == 0 {
            form["meta"] =
                json!({"path": "/", "Note": "a b \"c\" \\ d", "long": "x".repeat(draws.below(300))});
        }
        form
    }
}

/// One to three, from few enough that some are shared; in the networks with names, and outside.
fn addresses(draws: &mut Draws) -> Vec<String> {
    let mut found = Vec::new();
    for _ in 0..=draws.below(3) {
        let text = match draws.below(3) {
            0 => Ipv6Addr::new(0x2001, 0xdb8, draws.below(2) as u16, 0, 0, 0, 0, draws.below(2000) as u16)
                .to_string(),
            _ => Ipv4Addr::new(10, draws.below(3) as u8, draws.below(6) as u8, draws.below(250) as u8)
                .to_string(),
        };
        if !found.contains(&text) {
            found.push(text);
        }
    }
    found
}
