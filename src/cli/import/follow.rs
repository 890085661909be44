//! A Consul's catalog, put into a registry once, or kept in it for as long as this runs.
//!
//! Each service is watched by a blocking query of its own, as Consul's clients do, and so are the lists of nodes
//! and services. Trouble at either end drops every question, changes nothing here, and begins anew after a while: what
//! Consul said last stays.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::Pin;
use std::process::ExitCode;
use std::time::Duration;

use callsign::client::{Client, ClientError, Way};
use callsign::protocol::moving::{HowForm, Line};
use callsign::registry::IMPORTED_FROM;
use futures_util::StreamExt;
use futures_util::stream::{FuturesUnordered, iter};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::super::{Asking, Done, FAILED, Failure, UNAVAILABLE, export, message};
use super::catalog::{Check, Entry, Node};
use super::consul::{Consul, escaped};
use super::name;
use super::putting::{Counts, Putting};

/// Services asked about at once when everything is read.
const READING_MAX: usize = 16;
/// Services that are waited for at once: Consul takes 200 connections of one client. Where there are more, each has its
/// turn.
const WATCHES_MAX: usize = 100;
/// How long a question waits for a change where every service has a place, and where they take turns.
const WAIT: Duration = Duration::from_secs(300);
const TURN: Duration = Duration::from_secs(1);
/// Between two tries after trouble: doubled each time.
const AGAIN_MIN: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(30);
/// What was said once is not said again, as long as there is not more of it than this.
const TOLD_MAX: usize = 100_000;
/// Consul's own service, which is in every catalog.
const ITSELF: &str = "consul";

const NODES: &str = "/v1/catalog/nodes";
const SERVICES: &str = "/v1/catalog/services";

type Services = BTreeMap<String, Option<Vec<String>>>;

/// Reads the catalog and puts it in.
pub async fn once(asking: &Asking, consul: &Consul) -> Result<Counts, Failure> {
    let putting = async |client| {
        let mut mirror = Mirror::new(client, asking.timeout, consul, false).await?;
        Catalog::read(consul).await.map_err(trouble)?.bring(&mut mirror).await?;
        Ok(mirror.putting.counts)
    };
    asking.begin_at_each(&mut asking.way()?, putting).await
}

/// The same, and then every change; until somebody stops it.
pub async fn follow(asking: &Asking, consul: Consul, allow_empty: bool) -> Done {
    let listen =
        |kind| signal(kind).map_err(|error| Failure::new(FAILED, format!("listening for signals: {error}")));
    let mut stop = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let mut way = asking.way()?;
    let (mut progress, mut others) = (Progress::Never, way.others());
    let (mut pause, mut said) = (AGAIN_MIN, String::new());
    loop {
        let following = Following { asking, consul: &consul, allow_empty };
        // Both end it: what is under way at the server is done or not, and said again.
        let failure = tokio::select! {
            never = following.run(&mut way, &mut progress) => match never { Err(failure) => failure, Ok(never) => match never {} },
            () = stopped(&mut stop) => return Ok(ExitCode::SUCCESS),
        };
        match progress {
            Progress::Never if failure.elsewhere && others > 0 => others -= 1,
            // What never worked is a mistake of whoever typed it.
            Progress::Never => return Err(failure),
            Progress::Going => (pause, progress, said) = (AGAIN_MIN, Progress::Stuck, String::new()),
            Progress::Stuck => pause = (2 * pause).min(AGAIN_MAX),
        }
        if failure.elsewhere && way.has_others() {
            way.go_on(&failure.sentence);
        } else if failure.sentence != said {
            // The same trouble again is no news.
            message::say(&format!("{}; what was imported stays, and is tried again", failure.sentence));
            said = failure.sentence;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stopped(&mut stop) => return Ok(ExitCode::SUCCESS),
        }
    }
}

async fn stopped(stop: &mut (Signal, Signal)) {
    tokio::select! {
        _ = stop.0.recv() => {}
        _ = stop.1.recv() => {}
    }
}

fn trouble(what: String) -> Failure {
    Failure::new(UNAVAILABLE, what)
}

/// How far following has come.
#[derive(Clone, Copy, PartialEq)]
enum Progress {
    Never,
    Going,
    /// It went once, and does not now.
    Stuck,
}

/// What Consul said last.
#[derive(Default)]
struct Catalog {
    /// Indexes to wait from: of the lists, and of each service.
    nodes_index: u64,
    services_index: u64,
    services: BTreeMap<String, u64>,
    nodes: BTreeMap<String, Node>,
    /// The checks of a node come with each service that is on it; the newest reply has the newest.
    checks: BTreeMap<String, (u64, Vec<Check>)>,
    entries: BTreeMap<String, Vec<Entry>>,
}

impl Catalog {
    async fn read(consul: &Consul) -> Result<Self, String> {
        let (nodes_index, nodes) = consul.read::<Vec<Node>>(NODES).await?;
        let (services_index, services) = consul.read::<Services>(SERVICES).await?;
        let mut catalog = Self { nodes_index, services_index, ..Self::default() };
        catalog.set_nodes(nodes);
        let reading = services.into_keys().map(async |name| {
            let (index, entries) = consul.read::<Vec<Entry>>(&path(&name)).await?;
            Ok::<_, String>((name, index, entries))
        });
        let mut reading = std::pin::pin!(iter(reading).buffer_unordered(READING_MAX));
        while let Some(read) = reading.next().await {
            let (name, index, entries) = read?;
            catalog.set_service(&name, index, entries);
        }
        Ok(catalog)
    }

    fn set_nodes(&mut self, nodes: Vec<Node>) {
        self.nodes = nodes.into_iter().map(|node| (node.node.clone(), node)).collect();
        self.checks.retain(|name, _| self.nodes.contains_key(name));
    }

    /// True where the checks of a node are others than before.
    fn set_service(&mut self, name: &str, index: u64, entries: Vec<Entry>) -> bool {
        let mut others = false;
        for entry in &entries {
            let checks = entry.node_checks();
            let known = self.checks.entry(entry.node.node.clone()).or_default();
            if index >= known.0 {
                others |= known.1 != checks;
                *known = (index, checks);
            }
        }
        self.services.insert(name.to_owned(), index);
        self.entries.insert(name.to_owned(), entries);
        others
    }

    /// Nothing but itself. Where the token may not read nodes any more, services are listed still, and have nobody.
    fn is_empty(&self) -> bool {
        self.entries.iter().all(|(name, entries)| name == ITSELF || entries.is_empty())
    }

    async fn bring(&self, mirror: &mut Mirror) -> Result<(), Failure> {
        self.bring_hosts(mirror).await?;
        for name in self.services.keys() {
            self.bring_service(name, mirror).await?;
        }
        mirror.putting.settle().await
    }

    async fn bring_hosts(&self, mirror: &mut Mirror) -> Result<(), Failure> {
        let source = mirror.source.clone();
        let lines = self.nodes.values().map(|node| {
            let checks = self.checks.get(&node.node).map(|(_, checks)| checks.as_slice()).unwrap_or_default();
            (format!("node {}", node.node), Ok(Line::Host(node.host(checks, &source))))
        });
        mirror.bring(NODES, lines.collect()).await
    }

    async fn bring_service(&self, name: &str, mirror: &mut Mirror) -> Result<(), Failure> {
        let source = mirror.source.clone();
        let lines = self.entries.get(name).into_iter().flatten().map(|entry| {
            let line = entry.instance(&source).map(|line| Line::Instance(Box::new(line)));
            (format!("service {name}, {} on {}", entry.service.id, entry.node.node), line)
        });
        mirror.bring(name, lines.collect()).await
    }
}

fn path(service: &str) -> String {
    format!("/v1/health/service/{}", escaped(service))
}

/// What this server has of a Consul.
struct Mirror {
    putting: Putting,
    /// The mark of what is from there.
    source: String,
    /// By its name.
    here: BTreeMap<String, Line>,
    /// The names of each service, and of the hosts.
    groups: BTreeMap<String, BTreeSet<String>>,
    told: BTreeSet<String>,
}

impl Mirror {
    /// With what an earlier run has brought, where that is to be followed.
    async fn new(
        mut client: Client,
        timeout: Duration,
        consul: &Consul,
        follows: bool,
    ) -> Result<Self, Failure> {
        let source = consul.source.clone();
        let mut here = BTreeMap::new();
        if follows {
            export::lines(&mut client, |line| {
                let is_from_there = match line {
                    Line::Instance(line) => line.source.as_ref() == Some(&source),
                    Line::Host(host) => {
                        let mut meta = host.meta.iter().flat_map(|meta| &meta.0);
                        meta.any(|(key, value)| key == IMPORTED_FROM && *value == source)
                    }
                    _ => false,
                };
                if is_from_there && let Some(name) = name(line)? {
                    here.insert(name, line.clone());
                }
                Ok(())
            })
            .await?;
        }
        let putting = Putting::new(client, timeout);
        Ok(Self { putting, source, here, groups: BTreeMap::new(), told: BTreeSet::new() })
    }

    /// Has what is here of a service, or the hosts, be these; each with where it stands at Consul.
    async fn bring(
        &mut self,
        group: &str,
        lines: Vec<(String, Result<Line, String>)>,
    ) -> Result<(), Failure> {
        let mut names = BTreeSet::new();
        for (place, line) in lines {
            let named = line.and_then(|line| match name(&line) {
                Ok(name) => Ok((name.unwrap_or_default(), line)),
                Err(problem) => Err(problem.message),
            });
            match named {
                Ok((name, line)) => {
                    if self.here.get(&name) != Some(&line) {
                        self.putting.put(place, line.clone(), HowForm::Update).await?;
                        self.here.insert(name.clone(), line);
                    }
                    names.insert(name);
                }
                Err(why) => self.refuse(format!("{place}: {why}")),
            }
        }
        let before = self.groups.insert(group.to_owned(), names.clone()).unwrap_or_default();
        for name in before.difference(&names) {
            self.remove(name).await?;
        }
        Ok(())
    }

    /// Takes away what an earlier run brought and nobody has any more.
    async fn remove_rest(&mut self) -> Result<(), Failure> {
        let said: BTreeSet<&String> = self.groups.values().flatten().collect();
        let rest: Vec<String> = self.here.keys().filter(|name| !said.contains(name)).cloned().collect();
        for name in &rest {
            self.remove(name).await?;
        }
        self.putting.settle().await
    }

    async fn remove(&mut self, name: &str) -> Result<(), Failure> {
        match self.here.remove(name) {
            Some(line) => self.putting.put(name.to_owned(), line, HowForm::Remove).await,
            None => Ok(()),
        }
    }

    fn refuse(&mut self, what: String) {
        if self.told.len() >= TOLD_MAX {
            self.told.clear();
        }
        if !self.told.contains(&what) {
            message::say(&what);
            self.putting.counts.refused += 1;
            self.told.insert(what);
        }
    }
}

/// What Consul answered.
enum Heard {
    Nodes(u64, Vec<Node>),
    Services(u64, Services),
    Service(String, u64, Vec<Entry>),
}

/// One try.
struct Following<'a> {
    asking: &'a Asking,
    consul: &'a Consul,
    allow_empty: bool,
}

impl<'a> Following<'a> {
    async fn run(&self, way: &mut Way, progress: &mut Progress) -> Result<std::convert::Infallible, Failure> {
        let timeout = self.asking.timeout;
        // Where nobody is there, each was tried already.
        let nobody = |error: ClientError| Failure { elsewhere: false, ..error.into() };
        let client = way.connect(timeout).await.map_err(nobody)?;
        let mut mirror = Mirror::new(client, timeout, self.consul, true).await?;
        let mut catalog = Catalog::read(self.consul).await.map_err(trouble)?;
        self.look_for_trouble(&catalog, &mirror)?;
        catalog.bring(&mut mirror).await?;
        mirror.remove_rest().await?;
        if *progress == Progress::Stuck {
            message::say(&format!("{} is followed again", self.consul.base));
        }
        *progress = Progress::Going;
        way.worked();
        mirror.putting.counts.say(self.asking.output)?;
        let mut queue: VecDeque<String> = catalog.services.keys().cloned().collect();
        let (mut asked, mut watches) = (FuturesUnordered::new(), 0);
        asked.push(self.nodes(catalog.nodes_index));
        asked.push(self.services(catalog.services_index));
        loop {
            let wait = if catalog.services.len() > WATCHES_MAX { TURN } else { WAIT };
            while watches < WATCHES_MAX
                && let Some(name) = queue.pop_front()
            {
                if let Some(index) = catalog.services.get(&name) {
                    asked.push(self.service(name.clone(), *index, wait));
                    watches += 1;
                }
            }
            // There is always a question, that for the services.
            let Some(heard) = asked.next().await else { continue };
            match heard.map_err(trouble)? {
                Heard::Nodes(index, nodes) => {
                    if nodes.is_empty() && !catalog.nodes.is_empty() {
                        self.doubt("node")?;
                    }
                    catalog.nodes_index = index;
                    catalog.set_nodes(nodes);
                    catalog.bring_hosts(&mut mirror).await?;
                    asked.push(self.nodes(index));
                }
                Heard::Services(index, services) => {
                    queue.extend(self.take_services(services, &mut catalog, &mut mirror).await?);
                    asked.push(self.services(index));
                }
                Heard::Service(name, index, entries) => {
                    watches -= 1;
                    if catalog.services.contains_key(&name) {
                        if entries.is_empty() && catalog.entries.get(&name).is_some_and(|had| !had.is_empty())
                        {
                            self.look_whether_all_is_gone().await?;
                        }
                        let others = catalog.set_service(&name, index, entries);
                        catalog.bring_service(&name, &mut mirror).await?;
                        if others {
                            catalog.bring_hosts(&mut mirror).await?;
                        }
                        queue.push_back(name);
                    }
                }
            }
            mirror.putting.settle().await?;
        }
    }

    /// What the list of services makes of the catalog; those that are new.
    async fn take_services(
        &self,
        services: Services,
        catalog: &mut Catalog,
        mirror: &mut Mirror,
    ) -> Result<Vec<String>, Failure> {
        if has_none(&services) && !catalog.is_empty() {
            self.doubt("service")?;
        }
        let gone = catalog.services.keys().filter(|name| !services.contains_key(*name));
        for name in gone.cloned().collect::<Vec<_>>() {
            catalog.services.remove(&name);
            catalog.entries.remove(&name);
            catalog.bring_service(&name, mirror).await?;
        }
        let mut new: Vec<String> = services.into_keys().collect();
        new.retain(|name| !catalog.services.contains_key(name));
        // Index 0 is answered at once.
        catalog.services.extend(new.iter().map(|name| (name.clone(), 0)));
        Ok(new)
    }

    /// Where all is gone at once, the services may say so one by one, before the lists do.
    async fn look_whether_all_is_gone(&self) -> Result<(), Failure> {
        let (_, nodes) = self.consul.read::<Vec<Node>>(NODES).await.map_err(trouble)?;
        if nodes.is_empty() {
            return self.doubt("node");
        }
        let (_, services) = self.consul.read::<Services>(SERVICES).await.map_err(trouble)?;
        if has_none(&services) { self.doubt("service") } else { Ok(()) }
    }

    /// A Consul that has lost what it had, or hides it from a token that may read no more, says so in the same words as one
    /// in which all was deregistered.
    fn doubt(&self, what: &str) -> Result<(), Failure> {
        match self.allow_empty {
            true => Ok(()),
            false => Err(trouble(format!(
                "{} has no {what} any more; follow with --allow-empty if that is meant",
                self.consul.base
            ))),
        }
    }

    fn look_for_trouble(&self, catalog: &Catalog, mirror: &Mirror) -> Result<(), Failure> {
        let has_some = mirror.here.values().any(
            |line| matches!(line, Line::Instance(line) if !line.register.service.eq_ignore_ascii_case(ITSELF)),
        );
        if catalog.is_empty() && has_some { self.doubt("service") } else { Ok(()) }
    }

    fn nodes(&self, index: u64) -> Asked<'a> {
        let consul = self.consul;
        Box::pin(async move {
            let (new, nodes) = consul.wait(NODES, index, WAIT).await?;
            Ok(Heard::Nodes(since(consul, NODES, index, new)?, nodes))
        })
    }

    fn services(&self, index: u64) -> Asked<'a> {
        let consul = self.consul;
        Box::pin(async move {
            let (new, services) = consul.wait(SERVICES, index, WAIT).await?;
            Ok(Heard::Services(since(consul, SERVICES, index, new)?, services))
        })
    }

    fn service(&self, name: String, index: u64, wait: Duration) -> Asked<'a> {
        let consul = self.consul;
        Box::pin(async move {
            let path = path(&name);
            let (new, entries) = consul.wait(&path, index, wait).await?;
            Ok(Heard::Service(name, since(consul, &path, index, new)?, entries))
        })
    }
}

type Asked<'a> = Pin<Box<dyn Future<Output = Result<Heard, String>> + 'a>>;

fn has_none(services: &Services) -> bool {
    services.keys().all(|name| name == ITSELF)
}

/// The index to wait from: one that went back is of another life of Consul, and what it says is not believed before all is
/// read from the start.
fn since(consul: &Consul, path: &str, before: u64, new: u64) -> Result<u64, String> {
    match new < before {
        true => Err(format!("{}{path}: its index went back from {before} to {new}", consul.base)),
        false => Ok(new),
    }
}
