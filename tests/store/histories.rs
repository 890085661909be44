//! Random histories of a registry, as the writer makes them, and what of them is stored.
//!
//! `Stored` is the model: the maps that anybody would write who has to keep changes, with nothing of the
//! engine's in it. Everything is compared as text, so that a difference can be read.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use callsign::access::{Grant, Owner, Token};
use callsign::balance::{Balance, SrvWeights};
use callsign::check::{Check, Definition, Http, Kind, Place, Tls};
use callsign::instance::{
    ConsulFacts, Extras, Fallback, Health, Host, Instance, Key, Lease, Location, Port, ServiceSettings,
    Transport,
};
use callsign::name::{Apex, HostName, InstanceId, Name, ServiceName, Tag};
use callsign::record::{Data, RrSet, Type};
use callsign::registry::{
    Author, Change, Command, Configuration, Guard, Holder, HostRegistration, Kept, ListedCheck, PlainSet,
    Reason, Registration, Registry, Report, ReportOf, Subject, Unlisted, What,
};
use callsign::store::Limits;
use callsign::store::embedded::{Engine, EngineError};
use callsign::store::record;
use callsign::time::{Now, Wall};
use redb::{ReadableDatabase, ReadableTable, TableDefinition};

use crate::harness::Draws;

const SERVICES: [&str; 3] = ["web", "db", "cache"];
/// Ids of each service and host.
const IDS: usize = 14;
const HOSTS: [&str; 2] = ["a", "b"];
const TOKENS: [&str; 3] = ["ci", "ops", "web"];
const INSTANCES_MAX: usize = 1000;
const FORGET_AFTER: Duration = Duration::from_secs(60);
/// Commands in one batch.
const BATCH_MAX: usize = 12;
/// The log is trimmed within a history, so that this is tried too.
/// Small, so that it is full often, and some commits are too large for it.
pub const REDO_OCTETS: u64 = 16 * 1024;
pub const LIMITS: Limits = Limits { history_changes: 150, history_age: Duration::from_secs(7 * 86_400) };
const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");

/// What a store has to hold, as texts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    pub instances: BTreeMap<Vec<u8>, Arc<str>>,
    pub hosts: BTreeMap<String, Arc<str>>,
    pub settings: BTreeMap<String, ServiceSettings>,
    pub tokens: BTreeMap<String, Arc<str>>,
    pub gone: BTreeMap<Vec<u8>, Arc<str>>,
    pub guards: BTreeMap<String, Guard>,
    pub plain: BTreeMap<Vec<u8>, Arc<str>>,
    /// The newest `LIMITS.history_changes`.
    pub log: BTreeMap<u64, Arc<str>>,
}

impl Stored {
    pub fn fold(&mut self, changes: &[Change]) {
        for change in changes {
            match &change.what {
                What::Instance { after: Some(after), .. } => {
                    let place = record::place(&after.key);
                    self.gone.remove(&place);
                    self.instances.insert(place, instance_text(after));
                }
                What::Instance { before: Some(before), after: None } => {
                    let place = record::place(&before.key);
                    self.instances.remove(&place);
                    self.gone.insert(place, left_text(before, change.reason, change.at, change.revision));
                }
                What::Host { after: Some(host), .. } => {
                    self.hosts.insert(host.name.to_string(), host_text(host));
                }
                What::Host { before: Some(host), after: None } => drop(self.hosts.remove(host.name.as_str())),
                What::Forgotten { key } => drop(self.gone.remove(&record::place(key))),
                What::Settings { service, after, .. } if *after == ServiceSettings::default() => {
                    self.settings.remove(service.as_str());
                }
                What::Settings { service, after, .. } => {
                    self.settings.insert(service.to_string(), after.clone());
                }
                What::Guard { service, after: Some(guard), .. } => {
                    self.guards.insert(service.to_string(), *guard);
                }
                What::Guard { service, after: None, .. } => drop(self.guards.remove(service.as_str())),
                What::Token { before, after } => {
                    before.iter().for_each(|token| drop(self.tokens.remove(&*token.name)));
                    let after = after.iter().map(|token| (token.name.to_string(), token_text(token)));
                    self.tokens.extend(after);
                }
                What::Plain { before, after } => {
                    before.iter().for_each(|set| drop(self.plain.remove(&record::plain_place(set))));
                    let after = after.iter().map(|set| (record::plain_place(set), plain_text(set)));
                    self.plain.extend(after);
                }
                What::Instance { before: None, after: None } | What::Host { before: None, after: None } => {}
            }
            self.log.insert(change.revision, change_text(change));
            while self.log.len() as u64 > LIMITS.history_changes {
                self.log.pop_first();
            }
        }
    }

    /// What an engine holds.
    pub fn read(engine: &Engine, kept: &Kept) -> Result<Self, EngineError> {
        let mut stored = Self::default();
        for instance in &kept.instances {
            stored.instances.insert(record::place(&instance.key), instance_text(instance));
        }
        for host in &kept.hosts {
            stored.hosts.insert(host.name.to_string(), host_text(host));
        }
        for (service, settings) in &kept.settings {
            stored.settings.insert(service.to_string(), settings.clone());
        }
        for (service, guard) in &kept.guards {
            stored.guards.insert(service.to_string(), *guard);
        }
        for token in &kept.tokens {
            stored.tokens.insert(token.name.to_string(), token_text(token));
        }
        for set in &kept.plain {
            stored.plain.insert(record::plain_place(set), plain_text(set));
        }
        for (instance, reason, at, revision) in &kept.gone {
            stored.gone.insert(record::place(&instance.key), left_text(instance, *reason, *at, *revision));
        }
        let transaction = engine.database.begin_read()?;
        for entry in transaction.open_table(LOG)?.iter()? {
            let (revision, octets) = entry?;
            let change = record::read_change(octets.value())
                .map_err(|error| EngineError::Damaged(error.to_string()))?;
            if change.revision != revision.value() {
                return Err(EngineError::Damaged("a change at another's place".to_owned()));
            }
            stored.log.insert(revision.value(), change_text(&change));
        }
        Ok(stored)
    }

    /// The first difference, in words.
    pub fn difference(&self, other: &Self) -> Option<String> {
        fn first<K: Ord + std::fmt::Debug, V: PartialEq + std::fmt::Debug>(
            what: &str,
            left: &BTreeMap<K, V>,
            right: &BTreeMap<K, V>,
        ) -> Option<String> {
            let keys: std::collections::BTreeSet<_> = left.keys().chain(right.keys()).collect();
            let key = keys.into_iter().find(|key| left.get(key) != right.get(key))?;
            Some(format!("{what} {key:?}: {:?}, and not {:?}", left.get(key), right.get(key)))
        }
        first("instance", &self.instances, &other.instances)
            .or_else(|| first("host", &self.hosts, &other.hosts))
            .or_else(|| first("settings", &self.settings, &other.settings))
            .or_else(|| first("tokens", &self.tokens, &other.tokens))
            .or_else(|| first("gone", &self.gone, &other.gone))
            .or_else(|| first("guard", &self.guards, &other.guards))
            .or_else(|| first("plain", &self.plain, &other.plain))
            .or_else(|| first("log", &self.log, &other.log))
    }
}

fn instance_text(instance: &Instance) -> Arc<str> {
    format!("{} {:?}", facts_text(instance), instance.owner).into()
}

fn token_text(token: &Token) -> Arc<str> {
    let Token { name, number, hash, grants, created, expires } = token;
    format!("{name} {number} {hash:?} {grants:?} {created:?} {expires:?}").into()
}

/// All but the deadline.
fn plain_text(set: &PlainSet) -> Arc<str> {
    let PlainSet { apex, owner, set, lease, deadline: _ } = set;
    format!("{apex} {owner} {set:?} {lease:?}").into()
}

/// All but the deadline, which no store keeps, and the owner, whom one that is gone does not have.
fn facts_text(instance: &Instance) -> String {
    let Instance { key, label, location, ports, weight, priority, lease, lease_id, .. } = instance;
    let Instance { deadline: _, draining, registered, since, revision, .. } = instance;
    let Extras { protocol, tags, meta, checks, source, consul } = &**instance;
    let (checks, created, consul) = (checks_text(checks), instance.created, (source, consul));
    let lease = match lease {
        Lease::Timed(duration) => format!("{duration:?}"),
        Lease::Connection(_) => "connection".to_owned(),
        Lease::None => "none".to_owned(),
    };
    format!(
        "{key} {label} {location:?} {ports:?} {protocol:?} {tags:?} {meta:?} {weight} {priority} {lease} {lease_id} \
         {checks} {draining} {registered:?} {since:?} {created} {revision} {consul:?}"
    )
}

fn host_text(host: &Host) -> Arc<str> {
    let Host { name, addresses, meta, id, checks, created, revision } = host;
    format!("{name} {addresses:?} {meta:?} {id:?} {} {created} {revision}", checks_text(checks)).into()
}

fn checks_text(checks: &[Check]) -> String {
    let text = |check: &Check| {
        let Check { id, status, output, since, definition, deadline: _, again: _ } = check;
        format!("{id} {status} {output} {since:?} {definition:?}")
    };
    checks.iter().map(text).collect::<Vec<_>>().join(", ")
}

fn left_text(instance: &Instance, reason: Reason, at: Wall, revision: u64) -> Arc<str> {
    format!("{} {reason:?} {at:?} {revision}", facts_text(instance)).into()
}

fn change_text(change: &Change) -> Arc<str> {
    let Change { revision, at, reason, author, what } = change;
    let what = match what {
        What::Instance { before, after } => {
            format!("{:?} {:?}", before.as_deref().map(instance_text), after.as_deref().map(instance_text))
        }
        What::Host { before, after } => {
            format!("{:?} {:?}", before.as_deref().map(host_text), after.as_deref().map(host_text))
        }
        What::Settings { service, before, after } => format!("{service} {before:?} {after:?}"),
        What::Forgotten { key } => format!("forgotten {key}"),
        What::Guard { service, before, after } => format!("guard {service} {before:?} {after:?}"),
        What::Token { before, after } => {
            format!("{:?} {:?}", before.as_deref().map(token_text), after.as_deref().map(token_text))
        }
        What::Plain { before, after } => {
            format!("{:?} {:?}", before.as_deref().map(plain_text), after.as_deref().map(plain_text))
        }
    };
    format!("{revision} {at:?} {reason:?} {author} {what}").into()
}

/// A registry and who changes it.
pub struct World {
    pub registry: Registry,
    pub now: Now,
    /// Facts that are published and not yet stored.
    pub unstored: Vec<Change>,
    lease_ids: u64,
}

/// The commands of one batch, and all that is committed with them.
pub struct Batch {
    commands: Vec<Change>,
    pub all: Vec<Change>,
}

impl World {
    /// A registry that begins with what was kept.
    pub fn new(kept: Kept, now: Now) -> Self {
        let mut registry = Registry::new(INSTANCES_MAX, FORGET_AFTER);
        registry.restore(kept, now);
        Self { registry, now, unstored: Vec::new(), lease_ids: now.mono_ns }
    }

    /// Facts are published; commands are what the store is asked for.
    pub fn batch(&mut self, draws: &mut Draws) -> Batch {
        let passed = [1, 40, 900, 7_000, 40_000][draws.below(5)];
        self.now = self.now.after(Duration::from_millis(passed));
        let due = self.registry.due(self.now, 1000);
        self.publish(due);
        if draws.below(8) == 0 {
            let closed = Command::Closed { connection: draws.below(2) as u64, keys: vec![key(draws)] };
            self.publish(self.registry.check(&closed, self.now).unwrap_or_default());
        }
        let mut commands = Vec::new();
        let (mut keys, mut labels) = (HashSet::new(), HashSet::new());
        for _ in 0..1 + draws.below(BATCH_MAX) {
            let place = key(draws);
            // As in the writer: one command for each instance, one new instance for each label.
            let alike = place.id.as_str().to_ascii_lowercase();
            if !keys.insert(place.clone()) || !labels.insert((place.service.clone(), alike)) {
                continue;
            }
            let command = self.command(place, draws);
            let author = match draws.below(6) {
                5 => Author::Key("dhcp.".into()),
                3 => Author::Token("ci".into()),
                4 => Author::Certificate("web.example".into()),
                0 => Author::Server,
                1 => Author::User(draws.below(70_000) as u32),
                _ => Author::Address(([10, 0, 0, 7], 4000).into()),
            };
            for (reason, what) in self.registry.check(&command, self.now).unwrap_or_default() {
                let on_host = matches!(what, What::Host { .. } | What::Settings { .. } | What::Token { .. });
                let revision = self.registry.revision() + 1 + commands.len() as u64;
                commands.push(Registry::change(revision, reason, what, author.clone(), self.now));
                if on_host {
                    // Another verdict on the same host would be checked against what it is no more.
                    return self.whole(commands);
                }
            }
        }
        if draws.below(3) == 0 {
            let what = self.plain(draws);
            let revision = self.registry.revision() + 1 + commands.len() as u64;
            let author = Author::Key("dhcp.".into());
            commands.push(Registry::change(revision, Reason::Updated, what, author, self.now));
        }
        self.whole(commands)
    }

    /// Plain records set, set otherwise or deleted, as an UPDATE does it.
    fn plain(&self, draws: &mut Draws) -> What {
        let apex = Apex::parse("service.local").unwrap();
        let owner = Name::parse(["www.service.local", "Mail.service.local"][draws.below(2)]).unwrap();
        let rtype = [Type::MX, Type::A][draws.below(2)];
        let before = self.registry.plain().at(&owner).iter().find(|set| set.set.rtype == rtype).cloned();
        if before.is_some() && draws.below(3) == 0 {
            return What::Plain { before, after: None };
        }
        let data = (0..=draws.below(3) as u8).map(|n| match rtype {
            Type::A => Data::A([10, 0, 0, n].into()),
            _ => Data::Mx { preference: n.into(), exchange: owner.clone() },
        });
        let set = RrSet { rtype, ttl: draws.below(300) as u32, data: data.collect() };
        let lease = [Lease::None, Lease::Timed(Duration::from_secs(30))][draws.below(2)];
        let after = Some(Arc::new(PlainSet::new(&apex, &owner, set, lease, self.now)));
        What::Plain { before, after }
    }

    /// What time alone has changed.
    pub fn facts(&mut self) -> Batch {
        let facts = self.registry.due(self.now, 1000);
        self.publish(facts);
        self.whole(Vec::new())
    }

    fn publish(&mut self, facts: Vec<(Reason, What)>) {
        let first = self.unstored.len();
        self.happen(facts);
        let settled = self.registry.settle(&self.unstored[first..], self.now);
        self.happen(settled);
    }

    fn happen(&mut self, facts: Vec<(Reason, What)>) {
        for (reason, what) in facts {
            let revision = self.registry.revision() + 1;
            let change = Registry::change(revision, reason, what, Author::Server, self.now);
            self.registry.apply(&change, self.now);
            self.unstored.push(change);
        }
    }

    /// An instance of the first service comes, or goes.
    pub fn come(&mut self, id: &str) -> Batch {
        let mut registration = self.registration(first_key(id), &mut Draws(self.registry.revision()));
        registration.lease = Lease::None;
        self.alone(&Command::Register(Box::new(registration)))
    }

    pub fn go(&self, id: &str) -> Batch {
        self.alone(&Command::Deregister(Holder { key: first_key(id), lease_id: None }))
    }

    fn alone(&self, command: &Command) -> Batch {
        let found = self.registry.check(command, self.now).expect("nothing against it");
        let first = self.registry.revision() + 1;
        let changes = found.into_iter().zip(first..).map(|((reason, what), revision)| {
            Registry::change(revision, reason, what, Author::Server, self.now)
        });
        self.whole(changes.collect())
    }

    fn whole(&self, commands: Vec<Change>) -> Batch {
        let all = self.unstored.iter().chain(&commands).cloned().collect();
        Batch { commands, all }
    }

    /// The batch is durable: it becomes so.
    pub fn acknowledge(&mut self, batch: &Batch) {
        self.unstored.clear();
        for change in &batch.commands {
            self.registry.apply(change, self.now);
        }
        let settled = self.registry.settle(&batch.commands, self.now);
        self.happen(settled);
    }

    fn command(&mut self, key: Key, draws: &mut Draws) -> Command {
        let holder = |key| Holder { key, lease_id: None };
        let status = Health::ALL[draws.below(4)];
        let report = |on, draws: &mut Draws| {
            let output = "x".repeat(draws.below(300)).into();
            Command::Report(Report { on, check: Arc::from("ping"), status, output, of: ReportOf::Any })
        };
        match draws.below(22) {
            20 => Command::CreateToken(Arc::new(token(draws))),
            21 => Command::RevokeToken(TOKENS[draws.below(3)].into()),
            16 => Command::AddCheck { on: Subject::Instance(holder(key)), listed: listed("added", draws) },
            17 => Command::RemoveCheck { on: Subject::Instance(holder(key)), check: "added".into() },
            18 if draws.below(2) == 0 => Command::DeregisterHost(key.host.clone()),
            18 => Command::RegisterHost(Box::new(HostRegistration {
                name: key.host.clone(),
                addresses: vec![IpAddr::from([10, 1, 1, draws.below(9) as u8])],
                meta: [("rack".into(), draws.below(3).to_string().into())].into(),
                id: (draws.below(2) == 0).then(|| "0af1".into()),
            })),
            19 => {
                let given = ServiceSettings {
                    ttl: (draws.below(2) == 0).then(|| draws.below(300) as u32),
                    balance: Balance::parse(["rotate", "one:affinity", ""][draws.below(3)]),
                    max_answers: (draws.below(2) == 0).then(|| draws.below(9) as u16),
                    failover: (draws.below(2) == 0)
                        .then(|| [Fallback::parse("standby"), Fallback::parse("a.example.com")])
                        .map(|names| names.map(Result::unwrap).into()),
                    srv_weights: SrvWeights::parse(["plain", "haproxy", ""][draws.below(3)]),
                    guard: [None, Some(0), Some(1), Some(20), Some(50)][draws.below(5)],
                    guard_for: [None, Some(Duration::from_secs(20))][draws.below(2)],
                };
                Command::Configure(Configuration { service: key.service.clone(), reset: true, given })
            }
            0..8 => Command::Register(Box::new(self.registration(key, draws))),
            8..12 => Command::Deregister(holder(key)),
            12 => Command::Drain(holder(key)),
            13 => report(Subject::Host(key.host.clone()), draws),
            _ => report(Subject::Instance(holder(key)), draws),
        }
    }

    fn registration(&mut self, key: Key, draws: &mut Draws) -> Registration {
        self.lease_ids += 1;
        let text = |draws: &mut Draws| Arc::from("v".repeat(draws.below(400)));
        let meta = (0..draws.below(4)).map(|number| (Arc::from(format!("k{number}")), text(draws)));
        let meta = meta.collect();
        let target = draws.below(8) == 0;
        Registration {
            key,
            location: if target {
                Location::Target(Name::parse("db.example.com.").expect("a name"))
            } else {
                Location::Addresses(vec![IpAddr::from([10, 0, draws.below(200) as u8, 1])].into())
            },
            ports: (0..1 + draws.below(3))
                .map(|number| Port {
                    name: (number > 0).then(|| Arc::from(format!("p{number}"))),
                    number: 1 + draws.below(60_000) as u16,
                    transport: Transport::ALL[draws.below(2)],
                })
                .collect(),
            protocol: (draws.below(2) == 0).then(|| Arc::from("http")),
            tags: (0..draws.below(3))
                .map(|number| Tag::parse(&format!("t{number}")).expect("a tag"))
                .collect(),
            meta,
            weight: draws.below(1000) as u16,
            priority: draws.below(3) as u16,
            lease: match draws.below(6) {
                0 => Lease::None,
                1 => Lease::Connection(draws.below(2) as u64),
                kind => Lease::Timed(Duration::from_secs([1, 15, 60, 86_400][kind - 2])),
            },
            lease_id: self.lease_ids,
            checks: (0..draws.below(2)).map(|_| listed("listed", draws)).collect(),
            unlisted: if draws.below(2) == 0 { Unlisted::Stay } else { Unlisted::Go },
            source: (draws.below(9) == 0).then(|| "web.toml".into()),
            consul: (draws.below(4) == 0).then(|| {
                Arc::new(ConsulFacts {
                    address: "localhost".into(),
                    tagged_addresses: [("lan".into(), ("10.0.0.9".into(), 80))].into(),
                    weight_warning: draws.below(9) as u16,
                    enable_tag_override: draws.below(2) == 0,
                    through_catalog: draws.below(2) == 0,
                })
            }),
            anonymous: draws.below(2) == 0,
            displaces: None,
            owner: match draws.below(6) {
                0 => None,
                1 => Some(Arc::new(Owner::User(draws.below(70_000) as u32))),
                2 => Some(Arc::new(Owner::Certificate("web.example".into()))),
                3 => Some(Arc::new(Owner::Address([10, 0, 0, 9].into()))),
                _ => Some(Arc::new(Owner::Token(TOKENS[draws.below(3)].into()))),
            },
        }
    }
}

fn token(draws: &mut Draws) -> Token {
    let grant = |text, allows| Grant::parse(text, allows).expect("a grant");
    Token {
        name: TOKENS[draws.below(3)].into(),
        number: draws.below(1_000_000) as u64,
        hash: [draws.below(256) as u8; 32],
        grants: vec![grant("register+report:web*", true), grant("*:web-admin", false)],
        created: Wall { unix_ms: draws.below(1_000_000) as i64 },
        expires: (draws.below(2) == 0).then(|| Wall { unix_ms: draws.below(1_000_000) as i64 }),
    }
}

/// A check of any kind.
fn listed(id: &str, draws: &mut Draws) -> ListedCheck {
    let at = Place { host: "10.0.0.7".into(), port: 80 };
    let tls = (draws.below(2) == 0).then(|| Tls { skip_verify: true, server_name: Some("web".into()) });
    let kind = match draws.below(7) {
        0 => Kind::Reported,
        1 => Kind::Ttl(Duration::from_secs([1, 5, 60][draws.below(3)])),
        2 => Kind::Tcp(at),
        3 => Kind::Http(Box::new(Http {
            method: "GET".into(),
            at,
            path: "/health".into(),
            headers: [("x-token".into(), "y".into())].into(),
            body: "".into(),
            expected: (200, 299),
            tls,
        })),
        4 => Kind::Grpc { at, service: "web.Health".into(), tls },
        5 => Kind::Command(vec!["true".into(), "yes".into()]),
        _ => Kind::Alias { host: None, id: Some(InstanceId::parse("other").expect("an id")) },
    };
    let deregister_after = (draws.below(3) == 0).then(|| Duration::from_secs([1, 8][draws.below(2)]));
    let interval = Duration::from_secs(10);
    let definition =
        Definition { kind, interval, rise: 1, fall: 2, deregister_after, ..Definition::default() };
    ListedCheck {
        id: id.into(),
        status: (draws.below(2) == 0).then(|| Health::ALL[draws.below(4)]),
        output: "".into(),
        definition: Arc::new(definition),
    }
}

fn first_key(id: &str) -> Key {
    Key::new(
        ServiceName::parse(SERVICES[0]).expect("a name"),
        InstanceId::parse(id).expect("an id"),
        HostName::parse(HOSTS[0]).expect("a host's name"),
    )
}

fn key(draws: &mut Draws) -> Key {
    let number = draws.below(IDS);
    // Some are no label of DNS.
    let id = if number.is_multiple_of(3) { format!("id:{number}") } else { format!("id-{number}") };
    Key::new(
        ServiceName::parse(SERVICES[draws.below(SERVICES.len())]).expect("a name"),
        InstanceId::parse(&id).expect("an id"),
        HostName::parse(HOSTS[draws.below(HOSTS.len())]).expect("a host's name"),
    )
}
