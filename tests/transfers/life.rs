//! What happens to a registry, drawn from a seed.

use serde_json::json;

use crate::harness::{Draws, Server};

/// A registry that lives: its changes, drawn.
pub struct Life {
    pub draws: Draws,
    instances: Vec<(String, String)>,
}

impl Life {
    pub fn new(seed: u64) -> Self {
        Self { draws: Draws(seed), instances: Vec::new() }
    }

    pub fn change(&mut self, server: &Server) {
        let service = format!("svc-{}", self.draws.below(5));
        let id = ["a", "B", "c-3", "Nr. 4", "nr. 4"][self.draws.below(5)].to_owned();
        let mut client = server.client();
        let known = |of: &Self, draw: usize| of.instances.get(draw % of.instances.len().max(1)).cloned();
        let draw = self.draws.next() as usize;
        match (self.draws.below(12), known(self, draw)) {
            (0, _) => {
                let ttl = ["1s", "5s", "30s"][self.draws.below(3)];
                client.done("settings", &json!({"settings": {"service": service, "ttl": ttl}}));
            }
            (1, _) => {
                let weights = ["haproxy", "plain"][self.draws.below(2)];
                client.done("settings", &json!({"settings": {"service": service, "srv_weights": weights}}));
            }
            (2 | 3, Some((service, id))) => {
                let status = ["critical", "warning", "passing"][self.draws.below(3)];
                let report = json!({"service": service, "id": id, "status": status});
                client.ask(&json!({"report": report})); // or its short lease is over
            }
            (4, Some((service, id))) => {
                client.ask(&json!({"drain": {"service": service, "id": id}}));
            }
            (5..=7, Some((service, id))) => {
                client.done("deregistered", &json!({"deregister": {"service": service, "id": id}}));
                self.instances.retain(|known| *known != (service.clone(), id.clone()));
            }
            (8, _) => self.host_check(server),
            _ => {
                let mut form = json!({"service": service, "id": id});
                form["weight"] = json!(1 + self.draws.below(600));
                form["priority"] = json!(self.draws.below(2));
                match self.draws.below(5) {
                    0 => form["target"] = json!("db.example.com"),
                    _ => form["address"] = json!([format!("10.0.0.{}", self.draws.below(5))]),
                }
                form["ports"] = json!({"http": 80});
                if self.draws.below(2) == 0 {
                    form["ports"]["dns"] = json!({"port": 53, "transport": "udp"});
                }
                let tags: Vec<&str> =
                    ["v1", "a", "tcp"].into_iter().filter(|_| self.draws.below(2) == 0).collect();
                form["tags"] = json!(tags);
                form["lease"] = json!(["14s", "1h"][self.draws.below(2)]);
                if self.draws.below(3) == 0 {
                    form["protocol"] = json!(["https", "h3"][self.draws.below(2)]);
                }
                client.done("registered", &json!({"register": form}));
                if !self.instances.contains(&(service.clone(), id.clone())) {
                    self.instances.push((service, id));
                }
            }
        }
    }

    /// The host of all of them, which is well or not.
    fn host_check(&mut self, server: &Server) {
        let status = ["critical", "passing"][self.draws.below(2)];
        let text = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("the machine's name");
        let host = text.trim();
        let check = json!({"Node": host, "CheckID": "disk", "Name": "disk", "Status": status});
        let body = json!({"Node": host, "Address": "10.0.0.1", "Check": check});
        server.http().put("/v1/catalog/register", &body);
    }
}
