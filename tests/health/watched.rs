//! One instance with checks, and the changes of it as they come.

use serde_json::{Value, json};

use crate::harness::{Client, DEADLINE, Server, eventually};

/// An instance of its own service, whose changes are watched.
pub struct Watched {
    pub client: Client,
    watcher: Client,
    service: String,
    lease: String,
}

/// A check's status and its output.
pub type Verdict = (String, String);

impl Watched {
    /// Registers `service` with the check `c` of this definition, probed each second.
    pub fn new(server: &Server, service: &str, check: Value) -> Self {
        Self::with(server, service, json!([named("c", check)]))
    }

    pub fn with(server: &Server, service: &str, checks: Value) -> Self {
        let mut watcher = server.client();
        watcher.send(&json!({"watch": {"service": service}}));
        assert!(watcher.receive()["snapshot"].is_object());
        let (client, service) = (server.client(), service.to_owned());
        let mut watched = Self { client, watcher, service, lease: "none".to_owned() };
        watched.register(checks);
        watched
    }

    /// Registers it again, with these checks.
    pub fn register(&mut self, checks: Value) {
        let form = json!({"service": self.service, "id": self.service, "address": "127.0.0.1", "port": 1,
                          "lease": self.lease, "checks": checks});
        self.client.done("registered", &json!({ "register": form }));
    }

    pub fn deregister(&mut self) {
        let form = json!({"service": self.service, "id": self.service});
        self.client.done("deregistered", &json!({ "deregister": form }));
    }

    /// The next change after which the check has this status; its output.
    pub fn until(&mut self, check: &str, status: &str) -> String {
        loop {
            let change = self.watcher.receive();
            let Some((now, output)) = of(&change["change"]["instance"], check) else { continue };
            if now == status {
                return output;
            }
        }
    }

    /// Waits until the check has this status, whatever came before; its output.
    pub fn becomes(&mut self, check: &str, status: &str) -> String {
        eventually(status, DEADLINE, || {
            let (now, output) = self.now(check)?;
            (now == status).then_some(output)
        })
    }

    /// The next change that was reported, whatever it is of.
    pub fn reported(&mut self, check: &str) -> Verdict {
        loop {
            let change = self.watcher.receive();
            if change["change"]["reason"] == "reported" {
                return of(&change["change"]["instance"], check).expect("the check is there");
            }
        }
    }

    /// The check as it is now.
    pub fn now(&mut self, check: &str) -> Option<Verdict> {
        let found = self.client.done("instances", &json!({"list": {"service": self.service}}));
        of(&found["instances"][0], check)
    }
}

/// A check of this definition, probed each second where it says nothing else.
pub fn named(id: &str, mut check: Value) -> Value {
    check["id"] = id.into();
    let reported = check.get("ttl").is_some();
    if !reported && check.get("interval").is_none() {
        check["interval"] = "1s".into();
    }
    check
}

pub fn of(instance: &Value, check: &str) -> Option<Verdict> {
    let checks = instance["checks"].as_array()?;
    let check = checks.iter().find(|known| known["id"] == check)?;
    let text = |field: &str| check[field].as_str().expect("a text").to_owned();
    Some((text("status"), text("output")))
}
