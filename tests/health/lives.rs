//! Checks that come, go and change; a restart; the checks of hosts, which the socket cannot list.

use std::sync::Arc;
use std::time::Duration;

use callsign::access::Identity;
use callsign::check::{Definition, Kind, Place};
use callsign::clock::Clock;
use callsign::counters::Probes;
use callsign::health::{self, Probing};
use callsign::instance::Health;
use callsign::journal::Batch;
use callsign::name::{Apex, HostName};
use callsign::registry::{
    Command, FORGET_AFTER, HostRegistration, ListedCheck, Registry, Report, ReportOf, Subject,
};
use callsign::store::Store;
use callsign::view::{Settings, View, Zones};
use callsign::writer::{Handle, Writer};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::harness::{DEADLINE, Server, eventually, stays};
use crate::targets::{Manner, Target, answer};
use crate::watched::{Watched, named};

/// Long enough for two probes of a check that is probed each second.
const TWO_INTERVALS: Duration = Duration::from_millis(2300);

#[test]
fn a_check_that_goes_away_is_probed_no_more() {
    let server = Server::start(&["--store", "memory"]);
    let target = Target::new(answer("200 OK", ""));
    let check = || named("c", json!({"http": format!("http://{}/", target.address)}));
    let mut web = Watched::with(&server, "web", json!([check()]));
    web.until("c", "passing");
    web.register(json!([{"id": "other", "status": "passing"}]));
    let quiet = |target: &Target| {
        // One that was under way when it went may still be seen.
        let before = target.connections();
        assert!(stays(TWO_INTERVALS, || target.connections() <= before + 1), "probed on");
    };
    quiet(&target);
    web.register(json!([check()]));
    web.until("c", "passing");
    web.deregister();
    quiet(&target);
}

#[test]
fn another_definition_is_probed_anew() {
    let server = Server::start(&["--store", "memory"]);
    let (good, bad) =
        (Target::new(answer("200 OK", "")), Target::new(answer("500 Internal Server Error", "")));
    let check = |target: &Target| json!([named("c", json!({"http": format!("http://{}/", target.address)}))]);
    let mut web = Watched::with(&server, "web", check(&good));
    web.until("c", "passing");
    web.register(check(&bad));
    web.until("c", "critical");
    web.register(check(&good));
    web.until("c", "passing");
}

#[test]
fn one_that_fails_from_its_beginning_says_why_and_says_it_once() {
    let server = Server::start(&["--store", "memory"]);
    let target = Target::new(answer("500 Internal Server Error", "broken"));
    let mut web = Watched::new(&server, "web", json!({"http": format!("http://{}/", target.address)}));
    let said = || web.now("c").filter(|(_, output)| !output.is_empty());
    let (status, output) = eventually("why", DEADLINE, said);
    assert_eq!(status, "critical");
    assert!(output.contains("500 Internal Server Error"), "{output}");
    let revision = |web: &mut Watched| web.client.ask(&json!({"status": {}}))["status"]["revision"].clone();
    let (before, probed) = (revision(&mut web), target.connections());
    eventually("two more probes", DEADLINE, || (target.connections() > probed + 1).then_some(()));
    assert_eq!(revision(&mut web), before, "the same again is no change");
}

#[test]
fn a_status_outlives_the_server_until_the_first_probe() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data").display().to_string();
    let target = Target::new(answer("200 OK", "fine"));
    let url = format!("http://{}/", target.address);
    let mut server = Server::start(&["--data", &data]);
    let checks = json!([
        named("good", json!({"http": url, "timeout": "1h"})),
        // Never probed before the restart or after it, as far as this test goes.
        named("rare", json!({"http": url, "interval": "7d", "status": "warning", "timeout": "1h"})),
    ]);
    let mut web = Watched::with(&server, "web", checks);
    web.until("good", "passing");
    target.set(Manner::Silence);
    let before = web.now("good").expect("it is there");
    // A verdict is stored with the next commit: what is acknowledged after it has taken it along.
    let other = json!({"service": "other", "address": "10.0.0.7", "port": 80, "lease": "none"});
    server.client().done("registered", &json!({ "register": other }));
    server.crash();
    let asked = target.requests().len();
    let server = Server::start(&["--data", &data]);
    let found = || {
        let instances = server.client().list();
        let web = instances.iter().find(|instance| instance["service"] == "web");
        web.and_then(|web| crate::watched::of(web, "good"))
    };
    assert_eq!(found(), Some(before.clone()));
    eventually("the first probe", DEADLINE, || (target.requests().len() > asked).then_some(()));
    assert_eq!(found(), Some(before), "a probe that is under way says nothing");
}

/// Writer and probes in this process, for what only Consul's API can ask for.
struct Within {
    runtime: tokio::runtime::Runtime,
    writer: Handle,
    view: Arc<View>,
    counters: Arc<Probes>,
    stop: CancellationToken,
}

impl Within {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let apexes = vec![Apex::parse("service.local").expect("a name")];
        let settings = Settings::new(apexes);
        let (view, clock) = (Arc::new(View::new(settings, Zones::default())), Clock::start());
        let registry = Registry::new(100, FORGET_AFTER);
        let entered = runtime.enter(); // the writer's timer is the runtime's
        let (running, writer) = Writer::new(registry, Store::memory(), view.clone(), clock, Arc::default());
        drop(entered);
        runtime.spawn(running.run());
        let (counters, stop) = (Arc::new(Probes::default()), CancellationToken::new());
        let probing = Probing {
            view: view.clone(),
            writer: writer.clone(),
            clock,
            allow: Vec::new(),
            own: Vec::new(),
            store: Vec::new(),
            commands: false,
            seed: 1,
            counters: counters.clone(),
        };
        runtime.spawn(health::run(probing, stop.clone()));
        Self { runtime, writer, view, counters, stop }
    }

    fn carry_out(&self, command: Command) {
        self.runtime.block_on(async {
            let verdict = self.writer.command(command, Identity::user(0, 0)).await.expect("a writer");
            verdict.await.expect("a verdict").expect("no refusal");
        });
    }

    fn status(&self, host: &HostName, check: &str) -> Option<Health> {
        let host = self.view.host(host)?;
        host.checks.iter().find(|known| *known.id == *check).map(|check| check.status)
    }

    fn until(&self, host: &HostName, check: &str, status: Health) {
        eventually("the status", DEADLINE, || (self.status(host, check) == Some(status)).then_some(()));
    }

    fn made(&self) -> u64 {
        self.counters.made().map(|(.., count)| count).sum()
    }
}

impl Drop for Within {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn tcp(id: &str, target: &Target) -> ListedCheck {
    let host = target.address.ip().to_string().as_str().into();
    let kind = Kind::Tcp(Place { host, port: target.address.port() });
    let (interval, timeout) = (Duration::from_secs(1), Duration::from_secs(10));
    let definition = Definition { kind, interval, timeout, rise: 1, fall: 1, ..Definition::default() };
    ListedCheck { id: id.into(), status: None, output: "".into(), definition: Arc::new(definition) }
}

fn report(host: &HostName, check: &str, status: Health) -> Command {
    let (on, output) = (Subject::Host(host.clone()), "".into());
    Command::Report(Report { on, check: check.into(), status, output, of: ReportOf::Known })
}

#[test]
fn the_checks_of_a_host_are_probed() {
    let within = Within::new();
    let host = HostName::parse("m1").expect("a name");
    let target = Target::new(Manner::Silence);
    let (name, meta) = (host.clone(), Default::default());
    within.carry_out(Command::RegisterHost(Box::new(HostRegistration {
        name,
        addresses: vec![[10, 0, 0, 7].into()],
        meta,
        id: None,
    })));
    let on = Subject::Host(host.clone());
    within.carry_out(Command::AddCheck { on: on.clone(), listed: tcp("port", &target) });
    within.until(&host, "port", Health::Passing);
    let at = target.close();
    within.until(&host, "port", Health::Critical);
    let target = Target::on(at, Manner::Silence);
    within.until(&host, "port", Health::Passing);
    assert_eq!(within.counters.transitions.read(), 3);
    within.carry_out(Command::RemoveCheck { on, check: "port".into() });
    let before = target.connections();
    assert!(stays(TWO_INTERVALS, || target.connections() <= before + 1), "probed on");
}

#[test]
fn a_verdict_on_a_check_as_it_was_is_none_on_what_it_is_now() {
    let within = Within::new();
    let host = HostName::parse("m1").expect("a name");
    let target = Target::new(Manner::Silence);
    let on = Subject::Host(host.clone());
    // Who begins with a check that is there already probes it some time within its interval: it has begun before.
    within.carry_out(Command::AddCheck { on: on.clone(), listed: tcp("first", &target) });
    within.until(&host, "first", Health::Passing);
    let mut listed = tcp("port", &target);
    // Long enough that nobody but this test says anything after the first probe.
    let interval = Duration::from_secs(3600);
    listed.definition = Arc::new(Definition { interval, ..(*listed.definition).clone() });
    let now = listed.definition.clone();
    let before = Arc::new(Definition { interval: interval * 2, ..(*now).clone() });
    within.carry_out(Command::AddCheck { on: on.clone(), listed });
    within.until(&host, "port", Health::Passing);
    let verdict = |probed| {
        let (on, status, of) = (on.clone(), Health::Critical, ReportOf::Probed(probed));
        within.carry_out(Command::Report(Report { on, check: "port".into(), status, output: "".into(), of }));
        within.status(&host, "port")
    };
    assert_eq!(verdict(before), Some(Health::Passing));
    assert_eq!(verdict(now), Some(Health::Critical));
}

#[test]
fn what_somebody_put_into_maintenance_stays_there() {
    let within = Within::new();
    let host = HostName::parse("m1").expect("a name");
    let target = Target::new(Manner::Silence);
    let on = Subject::Host(host.clone());
    within.carry_out(Command::AddCheck { on, listed: tcp("port", &target) });
    within.until(&host, "port", Health::Passing);
    within.carry_out(report(&host, "port", Health::Maintenance));
    let before = within.made();
    eventually("two more probes", DEADLINE, || (within.made() >= before + 2).then_some(()));
    assert_eq!(within.status(&host, "port"), Some(Health::Maintenance));
    // Another word of somebody's is only as good as the next probe.
    within.carry_out(report(&host, "port", Health::Critical));
    within.until(&host, "port", Health::Passing);
}

#[test]
fn who_missed_changes_reads_everything_anew() {
    let within = Within::new();
    let target = Target::new(Manner::Silence);
    let hosts = ["m1", "m2"].map(|name| HostName::parse(name).expect("a name"));
    for host in &hosts {
        // More at once than the journal keeps.
        for _ in 0..10_000 {
            within.writer.journal.publish(&Batch::from([]), &[]);
        }
        let on = Subject::Host(host.clone());
        within.carry_out(Command::AddCheck { on, listed: tcp("port", &target) });
        within.until(host, "port", Health::Passing);
    }
    let at = target.close();
    for host in &hosts {
        within.until(host, "port", Health::Critical);
    }
    let _target = Target::on(at, Manner::Silence);
    for host in &hosts {
        within.until(host, "port", Health::Passing);
    }
}
