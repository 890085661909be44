//! What queries see: an immutable view per service, published by swapping one pointer in a concurrent map.
//!
//! A query takes no lock and never sees half of a change; a change costs what its own service costs,
//! however many there are. The writer alone publishes. Answers that span services come from small
//! indexes that the same publish swaps: by id, by address, by tag, and the directory of names.
//!
//! Why not one snapshot of everything behind one pointer: a change would then cost the whole registry,
//! or a persistent map whose every look-up is slower. What needs the whole zone at one revision is
//! asked of the writer.

mod directory;
mod keys;
pub mod prepared;
mod spans;

use std::borrow::Borrow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use ipnet::IpNet;

pub use self::directory::Directory;
use self::keys::{Ids, Keys, add_key, count, remove_key};
use self::prepared::Prepared;
pub use self::spans::Spans;
use crate::balance::{Balance, Policy, Region, Ring, Scale, SrvWeights};
use crate::grammar::reverse::Prefix;
use crate::instance::{Host, Instance, Key, Lease, Location, ServiceSettings};
use crate::lease::Renewal;
pub use crate::member::{Member, Members, Standing};
use crate::name::{Apex, Datacenter, HostName, InstanceId, Label, Name, ServiceName, Tag};
use crate::protocol::Filter;
use crate::record::Soa;
use crate::registry::{
    Change, GONE_PER_SERVICE_MAX, Gone, Guard, PlainSet, Ports, Refusal, Registry, Service, What,
};
use crate::sign::{Signatures, ZoneKeys};
use crate::sorted::Sorted;
use crate::time::{Now, Wall};
use crate::zone::{Node as ZoneNode, Zone};

/// TTL of SOA and negative answers, in seconds: "not yet started" is the answer that hurts most when it stays.
pub const NEGATIVE_TTL: u32 = 2;
/// TTL of the apex NS and the addresses behind it, in seconds: they change when the server moves.
pub const APEX_TTL: u32 = 60;
/// Text of an Extended DNS Error: it shares 512 octets with the answer.
pub const EDE_OCTETS_MAX: usize = 60;
/// Nodes that the zone names: one ring takes no more, and their NS records fit one message.
const NAMED_MAX: usize = 64;
/// Services that left and whose last revision is known: what a client that still asks for them is told.
const EXTINCT_MAX: usize = 10_000;

/// Signatures that are kept of what belongs to no service, denials above all: some megabytes, and what resolvers ask again
/// within the two seconds of a denial's TTL.
const SIGNATURES_MAX: usize = 16_384;
/// Signatures that are kept of a service and of each of its members: one for each record set that it nearly always has.
const SIGNATURES_PER_SERVICE: usize = 64;
const SIGNATURES_PER_MEMBER: usize = 8;

/// What does not change while the server runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The names that the registry is served under; at least one.
    pub apexes: Vec<Apex>,
    /// Seconds, 0 to 300.
    pub ttl: u32,
    /// Addresses of `ns.<apex>`.
    pub ns_addresses: Vec<IpAddr>,
    /// Where registrations are taken over TCP.
    pub listener: Option<Listener>,
    /// Where the same registry is served under names as Consul spells them.
    pub consul: Option<ConsulZone>,
    /// The networks whose addresses have names.
    pub reverse: Vec<IpNet>,
    /// The networks whose region is known.
    pub regions: Vec<Region>,
    /// How long answers go on while the store cannot be followed; none: for ever.
    pub stale_for: Option<Duration>,
    /// Those answers say what they are, to clients that read it.
    pub tell_stale: bool,
}

impl Settings {
    /// A TTL of 5 s and a name server on this machine; nothing else is served.
    pub fn new(apexes: Vec<Apex>) -> Self {
        let ns_addresses = vec![IpAddr::from([127, 0, 0, 1])];
        let (reverse, regions) = (Vec::new(), Vec::new());
        Self {
            apexes,
            ttl: 5,
            ns_addresses,
            listener: None,
            consul: None,
            reverse,
            regions,
            stale_for: None,
            tell_stale: false,
        }
    }
}

/// What answers from a view are worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worth {
    /// The registry is not loaded yet.
    Nothing = 0,
    Fresh = 1,
    /// The store cannot be followed, and answers are to say so.
    Stale = 2,
    /// It could not for longer than answers may go on.
    TooOld = 3,
}

/// Where other machines reach one of our listeners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// At least one.
    pub addresses: Vec<IpAddr>,
    pub port: u16,
}

impl Listener {
    pub fn sockets(&self) -> impl Iterator<Item = SocketAddr> {
        self.addresses.iter().map(|address| SocketAddr::new(*address, self.port))
    }
}

/// The alias zone: its names are read by `grammar::consul`.
#[derive(Clone, Debug)]
pub struct ConsulZone {
    pub apex: Apex,
    pub datacenter: Datacenter,
}

/// See the module's own words.
pub struct View {
    pub settings: Settings,
    services: papaya::HashMap<ServiceName, Arc<ServiceView>>,
    ids: Ids,
    /// The instances at each address in the networks with names.
    addresses: papaya::HashMap<IpAddr, Keys>,
    /// How many addresses with a name are below a prefix: whether the prefix has a name.
    above_addresses: papaya::HashMap<Prefix, usize>,
    /// The instances on each host, as the registry has them.
    on_host: papaya::HashMap<HostName, Sorted<Key>>,
    /// What was said of hosts themselves.
    hosts: papaya::HashMap<HostName, Arc<Host>>,
    /// When services that are no longer known left; `Spans::gone` for those that are not here any more.
    extinct: papaya::HashMap<ServiceName, u64>,
    /// How many hosts have further labels in front of a name: `db1.example.com` in front of `example.com` and `com`.
    above_hosts: papaya::HashMap<Box<str>, usize>,
    /// What is set for services, known or not.
    configured: papaya::HashMap<ServiceName, ServiceSettings>,
    /// How many services know a tag: whether `_tag.<apex>` is a name.
    tags: papaya::HashMap<Label, usize>,
    directory: ArcSwap<Directory>,
    /// Those of the files, and in the trees what UPDATE set.
    zones: ArcSwap<Zones>,
    /// The record trees as the files have them.
    files: Vec<Arc<Zone>>,
    overlaps: Vec<Overlap>,
    /// Of each apex, true once UPDATE has set something: it has a tree from then on.
    grown: Vec<AtomicBool>,
    /// The keys of the zones that are signed now; empty where none is.
    keys: ArcSwap<Vec<Arc<ZoneKeys>>>,
    /// Signatures over what belongs to no service.
    signatures: Signatures,
    /// Added to the revision for the SOA's serial: Unix seconds when the store was made.
    serial_base: AtomicU32,
    /// Added to the revision for the index that HTTP clients see.
    index_base: AtomicU64,
    revision: AtomicU64,
    /// The revision of the start: what was before it was published by another process.
    started: AtomicU64,
    /// The revision from which on everything but the registry has been served as now: settings, the record tree.
    settled: AtomicU64,
    /// The revisions at which something that spans services changed last.
    spans: Spans,
    instances: AtomicU64,
    /// How often a guard began.
    guards: AtomicU64,
    /// A [`Worth`].
    worth: AtomicU8,
    /// Since when the store cannot be followed, and that in words.
    stale: ArcSwapOption<(Now, Box<str>)>,
    /// Why the store takes nothing now.
    store_trouble: ArcSwapOption<String>,
    /// Until when heartbeats are taken here, in nanoseconds of the monotonic clock.
    heard_until_ns: AtomicU64,
    /// The nodes that are members, by name; empty where this server is alone.
    nodes: ArcSwap<Vec<Node>>,
    /// Nodes that were members since the start and are none now, and since when.
    left_nodes: ArcSwap<Vec<(Node, Wall)>>,
}

/// A server of those that share a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub name: Arc<str>,
    /// Where other machines reach it.
    pub addresses: Vec<IpAddr>,
    /// The port of its DNS.
    pub dns: u16,
    /// Where it takes registrations over TCP.
    pub listener: Option<Listener>,
    /// Slots of the ring that are its own, of [`crate::balance::ring::SLOTS`].
    pub slots: usize,
    /// It is this server.
    pub is_own: bool,
}

/// A server as the zone names it.
pub(crate) struct Named {
    /// Of a node; a server that is alone needs none.
    pub label: Option<Label>,
    /// Where it answers DNS.
    pub dns: Vec<IpAddr>,
    pub listener: Option<Listener>,
}

/// The zones that files hold.
#[derive(Clone, Debug, Default)]
pub struct Zones {
    /// Zones of their own.
    pub primary: Vec<Arc<Zone>>,
    /// Plain records beside the live services, by apex.
    pub trees: Vec<Arc<Zone>>,
}

/// What has names below an apex besides the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlap {
    None,
    /// Plain records, where the registry has nothing.
    Tree,
    /// Another zone, which hides the registry there.
    Zone,
}

/// One service as queries see it.
#[derive(Debug)]
pub struct ServiceView {
    pub name: ServiceName,
    /// In the order of their labels; shared with the registry and the views before and after.
    pub members: Members,
    /// What answers are made of: the members, and who left and is held by the guard.
    pub answered: Members,
    /// Where a guard is on.
    guarded: Option<Box<Guarded>>,
    /// The last that left, `GONE_PER_SERVICE_MAX` of them at most; oldest first.
    pub gone: Box<[Gone]>,
    /// The tags of every instance that is registered or remembered, as labels.
    pub tags: Arc<BTreeSet<Label>>,
    /// The ports of the same ones.
    pub ports: Ports,
    /// TTL of its records in seconds.
    pub ttl: u32,
    /// The tags of its registered instances as they are spelt: what a list of services shows.
    pub listed_tags: Arc<BTreeSet<Tag>>,
    /// The revision at which a reader could see a difference last.
    pub modified: u64,
    /// The revision from which on it has been known all the time; that of the start for what was known before it.
    pub born: u64,
    pub settings: Arc<ServiceSettings>,
    /// Under `Policy::Affinity`: its live instances, by the hash of their labels.
    pub ring: Option<Arc<Ring>>,
    /// What weights become in its SRV records.
    pub scale: Scale,
    /// Why nothing is live; empty where something is. At most `EDE_OCTETS_MAX` octets.
    pub why_none: Box<str>,
    prepared: OnceLock<Box<Prepared>>,
    /// Over its records; the views before it have the same, for a change leaves most records as they are.
    signatures: OnceLock<Arc<Signatures>>,
}

/// What a guard is to the answers of its service.
#[derive(Debug)]
struct Guarded {
    guard: Guard,
    /// That some of the answers are held, in words; empty where none is. At most `EDE_OCTETS_MAX` octets.
    stale: Box<str>,
}

/// The settings of a service that has none; one for all of them.
static NO_SETTINGS: LazyLock<Arc<ServiceSettings>> = LazyLock::new(Arc::default);

impl Overlap {
    fn of(apex: &Apex, settings: &Settings, zones: &Zones) -> Self {
        let below = |name: &Name| name != apex.name() && name.is_within(apex.name());
        let mut others = zones.primary.iter().map(|zone| &zone.apex);
        let mut ours = settings.apexes.iter().chain(settings.consul.iter().map(|zone| &zone.apex));
        // Names of addresses, which nobody has below an apex of services.
        let reverse = !settings.reverse.is_empty() && apex.name().labels().last() == Some(b"arpa");
        if reverse || others.any(&below) || ours.any(|other| below(other.name())) {
            return Self::Zone;
        }
        match zones.trees.iter().any(|tree| tree.apex == *apex.name()) {
            true => Self::Tree,
            false => Self::None,
        }
    }
}

impl ServiceView {
    /// `old` is the view that this one takes the place of.
    fn of(
        name: &ServiceName,
        registry: &Registry,
        ttl: u32,
        modified: u64,
        old: Option<&Self>,
    ) -> Option<Self> {
        let settings = registry.settings(name);
        let forgotten = Service::default();
        let service = match registry.service(name) {
            Some(service) => service,
            // Its name stays, for somebody else answers at it.
            None if !settings.fallbacks().is_empty() => &forgotten,
            None => return None,
        };
        let (members, answered) = registry.members(name);
        let guarded = registry.guard(name).map(|guard| {
            let stale = stale(name, &answered, guard).into();
            Box::new(Guarded { guard, stale })
        });
        let mut gone: Vec<Gone> = service.gone().rev().take(GONE_PER_SERVICE_MAX).cloned().collect();
        gone.reverse();
        let why_none = if answered.any_answered() { String::new() } else { why_none(name, &members, &gone) };
        let affine = settings.balance.is_some_and(|balance| balance.policy == Policy::Affinity);
        let ring = affine.then(|| ring_of(&answered, old.and_then(|old| old.ring.as_ref())));
        let signatures = old.and_then(|old| old.signatures.get()).cloned();
        if let Some(signatures) = &signatures {
            signatures.hold(signatures_of(&answered));
        }
        Some(Self {
            signatures: signatures.map(OnceLock::from).unwrap_or_default(),
            guarded,
            gone: gone.into(),
            tags: service.known_tags(),
            ports: service.ports(),
            listed_tags: service.listed_tags(),
            ring,
            modified,
            born: old.map_or(registry.revision(), |old| old.born),
            why_none: why_none.into(),
            ..Self::alone(name, (members, answered), settings, ttl)
        })
    }

    /// What follows from the members, those of the answers too, and from settings alone: a service as it was at some time, as
    /// far as its records go.
    pub(crate) fn alone(
        name: &ServiceName,
        (members, answered): (Members, Members),
        settings: ServiceSettings,
        ttl: u32,
    ) -> Self {
        let ttl = settings.ttl.unwrap_or(ttl);
        let ttl = answered.shortest_lease().map_or(ttl, |lease| ttl_within(ttl, Lease::Timed(lease)));
        let scale = match settings.srv_weights {
            Some(SrvWeights::Haproxy) => {
                Scale::haproxy(answered.iter().map(Member::weight).max().unwrap_or_default())
            }
            Some(SrvWeights::Plain) | None => Scale::default(),
        };
        Self {
            name: name.clone(),
            settings: if settings == **NO_SETTINGS { NO_SETTINGS.clone() } else { Arc::new(settings) },
            ring: None,
            scale,
            members,
            answered,
            guarded: None,
            gone: Box::default(),
            tags: Arc::default(),
            ports: Service::default().ports(),
            ttl,
            listed_tags: Arc::default(),
            modified: 0,
            born: 0,
            why_none: Box::default(),
            prepared: OnceLock::new(),
            signatures: OnceLock::new(),
        }
    }

    /// The guard that is on.
    pub fn guard(&self) -> Option<Guard> {
        self.guarded.as_ref().map(|guarded| guarded.guard)
    }

    /// That the guard holds some of the answers, in words; empty where it holds none.
    pub fn stale(&self) -> &str {
        self.guarded.as_ref().map_or("", |guarded| &guarded.stale)
    }

    /// True where somebody else is to answer instead.
    pub fn fails_over(&self) -> bool {
        !self.has_answers() && !self.settings.fallbacks().is_empty()
    }

    pub fn policy(&self) -> Policy {
        self.settings.balance.unwrap_or_default().policy
    }

    pub fn has_answers(&self) -> bool {
        self.why_none.is_empty()
    }

    /// True where only the settings say that there is such a service.
    pub fn is_forgotten(&self) -> bool {
        self.members.is_empty() && self.gone.is_empty()
    }

    /// How many records an answer has at most, where that is set.
    pub fn most_answers(&self) -> Option<usize> {
        match self.settings.balance {
            Some(Balance { one: true, .. }) => Some(1),
            _ => self.settings.max_answers.filter(|most| *most > 0).map(usize::from),
        }
    }

    /// The live ones, and those that are held.
    pub fn in_answers(&self) -> impl Iterator<Item = &Member> {
        self.answered.iter().filter(|member| member.is_answered())
    }

    /// Whoever is registered under its label, or held.
    pub fn by_label(&self, label: &str) -> Option<&Member> {
        self.answered.get(label)
    }

    /// The number of a member in the answers on the ring; 0 where there is none.
    fn number_of(&self, member: &Member) -> u32 {
        self.ring.as_ref().and_then(|ring| ring.number_of(member.identity())).unwrap_or_default()
    }

    pub fn by_key(&self, key: &Key) -> Option<&Member> {
        self.members.by_key(key)
    }

    /// Every instance that is registered, held or remembered, some of them twice: what decides which names exist.
    pub fn known(&self) -> impl Iterator<Item = &Arc<Instance>> {
        self.answered.iter().map(|member| &member.instance).chain(self.gone.iter().map(|gone| &gone.instance))
    }
}

/// How many signatures are kept of a service with these members.
fn signatures_of(members: &Members) -> usize {
    SIGNATURES_PER_SERVICE + SIGNATURES_PER_MEMBER * members.len()
}

/// The ring of the members in the answers; `old` where it is of the same ones, for it takes some time to make.
fn ring_of(members: &Members, old: Option<&Arc<Ring>>) -> Arc<Ring> {
    let live = members.iter().filter(|member| member.is_answered());
    let live: Vec<(u64, u64)> = live.map(|member| (member.identity(), member.weight().into())).collect();
    match old.filter(|old| old.is_of(&live)) {
        Some(old) => old.clone(),
        None => Arc::new(Ring::new(live)),
    }
}

/// `ttl`, but at most a third of the lease and at least one second; 0 stays 0 (RFC 1035 section 3.2.1).
pub fn ttl_within(ttl: u32, lease: Lease) -> u32 {
    match lease {
        _ if ttl == 0 => 0,
        Lease::Timed(duration) => ttl.min(u32::try_from(duration.as_secs() / 3).unwrap_or(u32::MAX)).max(1),
        Lease::Connection(_) | Lease::None => ttl,
    }
}

/// Made with the view, so that a query finds it ready: the newest reason that something is not there.
fn why_none(name: &ServiceName, members: &Members, gone: &[Gone]) -> String {
    let reason = match (members.newest(), gone.last()) {
        (Some(member), _) => format!("{} {}", member.instance.label, member.rule()),
        (None, Some(gone)) => {
            format!("{} {} {}", gone.instance.label, gone.reason.as_str(), gone.at.time_of_day())
        }
        (None, None) => "none is registered".to_owned(),
    };
    // Where the whole does not fit, what can be guessed from the question goes first.
    fitting([format!("{name}: no live instance; {reason}"), format!("no live instance; {reason}"), reason])
}

/// What an answer says that is not only of live instances.
fn stale(name: &ServiceName, answered: &Members, guard: Guard) -> String {
    let held = answered.held();
    if held == 0 {
        return String::new();
    }
    let (all, since) = (answered.answered(), guard.since.time_of_day());
    let text = format!("{held} of {all} held by the guard since {since}");
    fitting([format!("{name}: {text}"), text.clone(), text])
}

/// The first text that fits an Extended DNS Error, or as much of the last as does.
fn fitting(texts: [String; 3]) -> String {
    let fitting = texts.iter().find(|text| text.len() <= EDE_OCTETS_MAX);
    let mut text = fitting.unwrap_or(&texts[2]).clone();
    // Labels, rule names and times are ASCII; a check's id may not be.
    while text.len() > EDE_OCTETS_MAX {
        text.pop();
    }
    text
}

impl View {
    /// An empty view that is not ready: everything in the live zone is SERVFAIL until `set_ready`.
    pub fn new(settings: Settings, zones: Zones) -> Self {
        Self {
            services: papaya::HashMap::new(),
            ids: Ids::default(),
            addresses: papaya::HashMap::new(),
            above_addresses: papaya::HashMap::new(),
            on_host: papaya::HashMap::new(),
            hosts: papaya::HashMap::new(),
            extinct: papaya::HashMap::new(),
            above_hosts: papaya::HashMap::new(),
            configured: papaya::HashMap::new(),
            tags: papaya::HashMap::new(),
            directory: ArcSwap::default(),
            overlaps: settings.apexes.iter().map(|apex| Overlap::of(apex, &settings, &zones)).collect(),
            files: zones.trees.clone(),
            zones: ArcSwap::from_pointee(zones),
            grown: settings.apexes.iter().map(|_| AtomicBool::new(false)).collect(),
            keys: ArcSwap::default(),
            signatures: Signatures::new(SIGNATURES_MAX),
            settings,
            serial_base: AtomicU32::new(0),
            index_base: AtomicU64::new(0),
            revision: AtomicU64::new(0),
            started: AtomicU64::new(0),
            settled: AtomicU64::new(0),
            spans: Spans::default(),
            instances: AtomicU64::new(0),
            guards: AtomicU64::new(0),
            worth: AtomicU8::new(Worth::Nothing as u8),
            stale: ArcSwapOption::empty(),
            store_trouble: ArcSwapOption::empty(),
            heard_until_ns: AtomicU64::new(u64::MAX),
            nodes: ArcSwap::default(),
            left_nodes: ArcSwap::default(),
        }
    }

    /// What an answer from here is worth now.
    pub fn worth(&self) -> Worth {
        match self.worth.load(Ordering::Acquire) {
            1 => Worth::Fresh,
            2 => Worth::Stale,
            3 => Worth::TooOld,
            _ => Worth::Nothing,
        }
    }

    /// True where there is an answer to give.
    pub fn is_ready(&self) -> bool {
        matches!(self.worth(), Worth::Fresh | Worth::Stale)
    }

    /// The store cannot be followed since then, or is again. Said as often as one likes.
    pub fn set_stale(&self, since: Option<Now>, now: Now) {
        let worth = match (since, self.settings.stale_for) {
            (None, _) => Worth::Fresh,
            (Some(since), Some(most)) if now.since(since) >= most => Worth::TooOld,
            (Some(_), _) if self.settings.tell_stale => Worth::Stale,
            (Some(_), _) => Worth::Fresh,
        };
        if since != self.stale.load().as_ref().map(|stale| stale.0) {
            let words =
                |since: Now| format!("the store cannot be followed since {}", since.wall.time_of_day());
            self.stale.store(since.map(|since| Arc::new((since, words(since).into()))));
        }
        // Before the registry is loaded there is nothing to be worth anything.
        if ![Worth::Nothing, worth].contains(&self.worth()) {
            self.worth.store(worth as u8, Ordering::Release);
        }
    }

    /// For how long the store could not be followed, while it cannot.
    pub fn stale_for(&self, now: Now) -> Option<Duration> {
        self.stale.load().as_ref().map(|stale| now.since(stale.0))
    }

    /// The words for answers that are to say that they are stale.
    pub fn stale_words(&self) -> Option<Box<str>> {
        match self.worth() {
            Worth::Stale => self.stale.load().as_ref().map(|stale| stale.1.clone()),
            Worth::Nothing | Worth::Fresh | Worth::TooOld => None,
        }
    }

    /// Why the store takes nothing now; `None` while it does.
    pub fn store_trouble(&self) -> Option<Arc<String>> {
        self.store_trouble.load_full()
    }

    /// The nodes that are members now, by name; none where this server is alone.
    pub fn nodes(&self) -> Arc<Vec<Node>> {
        self.nodes.load_full()
    }

    /// Those that were members since the start, and when each was seen to be none any more; by name.
    pub fn left_nodes(&self) -> Arc<Vec<(Node, Wall)>> {
        self.left_nodes.load_full()
    }

    /// From `revision` on, which is not published yet: no difference between zones leads over that, for the nodes are in
    /// their records.
    pub fn set_nodes(&self, nodes: Vec<Node>, left: Vec<(Node, Wall)>, revision: u64) {
        self.set_settled(revision);
        self.nodes.store(Arc::new(nodes));
        self.left_nodes.store(Arc::new(left));
    }

    /// The servers that the zone names: every node, `NAMED_MAX` at most, or this one alone.
    pub(crate) fn servers(&self) -> Vec<Named> {
        let (nodes, mut labels) = (self.nodes.load(), HashSet::new());
        let named = |node: &Node| {
            let label = InstanceId::parse(&node.name).ok()?.label();
            // Of names that differ in case alone the first: one RRset does not hold a record twice.
            let label = labels.insert(label.clone()).then_some(label)?;
            let (dns, listener) = (node.addresses.clone(), node.listener.clone());
            Some(Named { label: Some(label), dns, listener })
        };
        let servers: Vec<Named> = nodes.iter().filter_map(named).take(NAMED_MAX).collect();
        if !servers.is_empty() {
            return servers;
        }
        let (dns, listener) = (self.settings.ns_addresses.clone(), self.settings.listener.clone());
        vec![Named { label: None, dns, listener }]
    }

    /// The addresses of `ns.<apex>`: those of all servers, each once.
    pub(crate) fn ns_addresses(&self) -> Vec<IpAddr> {
        let mut addresses: Vec<IpAddr> = Vec::new();
        for address in self.servers().into_iter().flat_map(|server| server.dns) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses
    }

    pub fn set_store_trouble(&self, trouble: Option<String>) {
        self.store_trouble.store(trouble.map(Arc::new));
    }

    /// From this time on the writer is asked about each heartbeat, in nanoseconds of the monotonic clock: a node that may
    /// not be a member any more must not say that a lease goes on, for another one may be about to end it.
    pub fn set_heard_until(&self, time_ns: u64) {
        self.heard_until_ns.store(time_ns, Ordering::Release);
    }

    /// What the serial counts from; set before the view is ready.
    pub fn set_serial_base(&self, serial_base: u32) {
        self.serial_base.store(serial_base, Ordering::Relaxed);
        self.index_base.store(serial_base.into(), Ordering::Relaxed);
    }

    /// A server that keeps nothing counts its revisions anew after a restart, and may have made more of them than
    /// seconds passed. From the microseconds of its start on, its index never goes back.
    pub fn set_index_base(&self, index_base: u64) {
        self.index_base.store(index_base, Ordering::Relaxed);
    }

    /// Since when settings and the record tree are what they are; set before the view is ready.
    pub fn set_settled(&self, revision: u64) {
        self.settled.store(revision, Ordering::Relaxed);
    }

    /// The revision of the start, and the one from which on all but the registry has been the same.
    pub fn beginnings(&self) -> (u64, u64) {
        (self.started.load(Ordering::Relaxed), self.settled.load(Ordering::Relaxed))
    }

    /// Revisions below this one that no change has are nobody's: a serial of theirs is another server's.
    pub fn set_started(&self, revision: u64) {
        self.started.store(revision, Ordering::Relaxed);
    }

    /// The keys of each zone that is signed, in place of those before.
    pub fn set_keys(&self, keys: Vec<ZoneKeys>) {
        self.keys.store(Arc::new(keys.into_iter().map(Arc::new).collect()));
    }

    /// The keys of the zone with this apex; none where it is not signed.
    pub fn keys_of(&self, apex: &Name) -> Option<Arc<ZoneKeys>> {
        self.keys.load().iter().find(|keys| keys.apex == *apex).cloned()
    }

    /// True where the zone with this apex is signed.
    pub fn is_signed(&self, apex: &Name) -> bool {
        self.keys.load().iter().any(|keys| keys.apex == *apex)
    }

    /// Looks at the signatures over what the service of this name has, or, where there is none, over what is nobody's.
    pub fn with_signatures<T>(&self, service: Option<&str>, look: impl FnOnce(&Signatures) -> T) -> T {
        self.with_service(service.unwrap_or_default(), |service| match service {
            Some(service) => {
                let new = || Arc::new(Signatures::new(signatures_of(&service.answered)));
                look(service.signatures.get_or_init(new))
            }
            None => look(&self.signatures),
        })
    }

    /// From here on a name that is not there does not exist.
    pub fn set_ready(&self) {
        let (from, to) = (Worth::Nothing as u8, Worth::Fresh as u8);
        // It was ready before, and may be stale since.
        let _ = self.worth.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Makes `changes`, which `registry` holds already, visible to queries.
    ///
    /// Returns the services whose view is another one now, in order.
    pub fn publish(&self, registry: &Registry, changes: &[Change]) -> Vec<ServiceName> {
        let mut touched: Vec<ServiceName> =
            changes.iter().flat_map(|change| registry.touched(change)).collect();
        touched.sort_unstable();
        touched.dedup();
        let mut seen: HashMap<ServiceName, u64> = HashMap::new();
        let mut hosts: HashMap<&HostName, u64> = HashMap::new();
        for change in changes {
            match &change.what {
                What::Instance { before, after } => {
                    self.index_instance(before.as_ref(), after.as_ref());
                    if let (Some(one), None) | (None, Some(one)) = (before, after) {
                        hosts.insert(&one.key.host, change.revision);
                    }
                }
                What::Host { before, after } => self.index_host(before.as_ref(), after.as_ref()),
                What::Settings { service, after, .. } => {
                    self.configured.pin().insert(service.clone(), after.clone());
                }
                What::Guard { after, .. } => {
                    self.guards.fetch_add(u64::from(after.is_some()), Ordering::Relaxed);
                }
                What::Forgotten { .. } | What::Token { .. } | What::Plain { .. } => {}
            }
            self.spans.note(change);
            if change.is_seen() {
                seen.extend(registry.touched(change).into_iter().map(|name| (name, change.revision)));
            }
        }
        for (host, revision) in hosts {
            self.index_on_host(registry, host, revision);
        }
        // What becomes an instance stays a plain record until the instance is there, and the other way round.
        let planted = |come: bool| {
            changes.iter().filter_map(move |change| match &change.what {
                What::Plain { before, after } if after.is_some() == come => {
                    after.as_ref().or(before.as_ref())
                }
                _ => None,
            })
        };
        self.plant(registry, planted(true));
        let mut directory = Directory::clone(&self.directory.load());
        let mut listed = false;
        for name in &touched {
            listed |= self.publish_service(registry, name, seen.get(name).copied(), &mut directory);
        }
        self.plant(registry, planted(false));
        if listed {
            self.directory.store(Arc::new(directory));
        }
        self.instances.store(registry.instances() as u64, Ordering::Relaxed);
        // Last: who sees the new serial sees what it counts.
        self.revision.store(registry.revision(), Ordering::Release);
        touched
    }

    /// Makes the whole of `registry` visible: after a restart.
    pub fn publish_all(&self, registry: &Registry) {
        // Room at once: growing by doubling would move everything many times.
        self.ids.reserve(registry.instances());
        self.services.pin().reserve(registry.services().count());
        for (service, settings) in registry.all_settings() {
            self.configured.pin().insert(service.clone(), settings.clone());
        }
        for host in registry.hosts() {
            self.index_host(None, Some(host));
        }
        for (_, service) in registry.services() {
            for member in &service.members {
                self.index_instance(None, Some(&member.instance));
            }
        }
        for (host, _) in registry.all_on_hosts() {
            self.index_on_host(registry, host, 0);
        }
        // Who waited for a revision before the restart is told that this is another one.
        let revision = registry.revision();
        self.spans.restart(revision);
        self.started.store(revision, Ordering::Relaxed);
        self.plant(registry, registry.plain().all());
        let failing_over = registry.all_settings().filter(|(_, settings)| !settings.fallbacks().is_empty());
        let names = registry.services().map(|(name, _)| name).chain(failing_over.map(|(name, _)| name));
        let mut names: Vec<ServiceName> = names.cloned().collect();
        names.sort_unstable();
        names.dedup();
        self.directory.store(Arc::new(Directory::of(&names)));
        let none = BTreeSet::new();
        let services = self.services.pin();
        for name in names {
            if let Some(view) = ServiceView::of(&name, registry, self.settings.ttl, revision, None) {
                self.count_tags(&none, &view.tags);
                services.insert(name, Arc::new(view));
            }
        }
        self.instances.store(registry.instances() as u64, Ordering::Relaxed);
        self.revision.store(registry.revision(), Ordering::Release);
    }

    /// Puts what the registry has at the owners of these sets into the record trees.
    fn plant<'a>(&self, registry: &Registry, sets: impl Iterator<Item = &'a Arc<PlainSet>>) {
        let mut owners: HashMap<&Name, Vec<&Name>> = HashMap::new();
        for set in sets {
            owners.entry(set.apex.name()).or_default().push(&set.owner);
        }
        if owners.is_empty() {
            return;
        }
        let mut zones = Zones::clone(&self.zones.load());
        for (apex, owners) in owners {
            // A domain that is served no more keeps what it has in the store.
            let Some(place) = self.settings.apexes.iter().position(|known| known.name() == apex) else {
                continue;
            };
            let free = owners.into_iter().filter(|owner| self.file_holds(apex, owner).is_none());
            let sets = free.map(|owner| {
                let sets = registry.plain().at(owner).iter().map(|set| set.set.clone());
                (owner.clone(), sets.collect())
            });
            match zones.trees.iter_mut().find(|tree| tree.apex == *apex) {
                Some(tree) => *tree = Arc::new(tree.edited(sets)),
                None => zones.trees.push(Arc::new(Zone::bare(apex).edited(sets))),
            }
            self.grown[place].store(true, Ordering::Release);
        }
        self.zones.store(Arc::new(zones));
    }

    /// The node of the file that makes a name of the record tree the file's, where one does: it has records there, or
    /// a cut above it.
    pub fn file_holds(&self, apex: &Name, owner: &Name) -> Option<&ZoneNode> {
        let file = self.files.iter().find(|file| file.apex == *apex)?;
        file.holds(owner).filter(|node| !node.sets.is_empty())
    }

    /// `seen` is the revision at which readers see a difference, where they do. True where the directory is another
    /// one now.
    fn publish_service(
        &self,
        registry: &Registry,
        name: &ServiceName,
        seen: Option<u64>,
        directory: &mut Directory,
    ) -> bool {
        let services = self.services.pin();
        let none = BTreeSet::new();
        let old = services.get(name).cloned();
        let modified = seen.or(old.as_ref().map(|old| old.modified)).unwrap_or(registry.revision());
        match ServiceView::of(name, registry, self.settings.ttl, modified, old.as_deref()) {
            Some(view) => {
                let view = Arc::new(view);
                let listed = |view: &ServiceView| (!view.members.is_empty(), view.listed_tags.clone());
                if old.as_deref().map(listed).unwrap_or_default() != listed(&view) {
                    self.spans.names.fetch_max(modified, Ordering::AcqRel);
                }
                self.count_tags(old.as_deref().map_or(&none, |old| &old.tags), &view.tags);
                services.insert(name.clone(), view);
                if old.is_none() {
                    self.extinct.pin().remove(name);
                    directory.insert(name);
                }
                old.is_none()
            }
            None => {
                let Some(old) = old else { return false };
                services.remove(name);
                self.note_extinct(name, modified);
                self.count_tags(&old.tags, &none);
                directory.remove(name);
                true
            }
        }
    }

    fn note_extinct(&self, name: &ServiceName, modified: u64) {
        let extinct = self.extinct.pin();
        if extinct.len() >= EXTINCT_MAX {
            let latest = extinct.values().max().copied().unwrap_or(modified);
            self.spans.gone.fetch_max(latest.max(modified), Ordering::AcqRel);
            extinct.clear();
        }
        extinct.insert(name.clone(), modified);
    }

    fn index_host(&self, before: Option<&Arc<Host>>, after: Option<&Arc<Host>>) {
        match (before, after) {
            (_, Some(after)) => drop(self.hosts.pin().insert(after.name.clone(), after.clone())),
            (Some(before), None) => drop(self.hosts.pin().remove(&before.name)),
            (None, None) => {}
        }
        match (before, after) {
            (None, Some(after)) => self.count_above_host(&after.name, true),
            (Some(before), None) => self.count_above_host(&before.name, false),
            _ => {}
        }
    }

    /// Counts the names above a host's, when it is spoken of first, or last, or has its first or last instance.
    fn count_above_host(&self, host: &HostName, more: bool) {
        for (dot, _) in host.as_str().match_indices('.') {
            count(&self.above_hosts, Box::from(&host.as_str()[dot + 1..]), more);
        }
    }

    /// True where an address is in the networks with names.
    fn has_name(&self, address: &IpAddr) -> bool {
        self.settings.reverse.iter().any(|network| network.contains(address))
    }

    /// Counts the prefixes above an address that has a name, with its first instance and its last.
    fn count_above_address(&self, address: IpAddr, more: bool) {
        for prefix in Prefix::above(address) {
            count(&self.above_addresses, prefix, more);
        }
    }

    /// Takes over from the registry who is on a host, and notes where that is a host that was not, or is no more.
    fn index_on_host(&self, registry: &Registry, host: &HostName, revision: u64) {
        let index = self.on_host.pin();
        let was_there = match registry.on_host(host) {
            Some(keys) => index.insert(host.clone(), keys.clone()).is_some(),
            None => index.remove(host).is_some(),
        };
        let is_there = registry.on_host(host).is_some();
        if was_there != is_there {
            self.count_above_host(host, is_there);
            self.spans.hosts.fetch_max(revision, Ordering::AcqRel);
        }
    }

    fn index_instance(&self, before: Option<&Arc<Instance>>, after: Option<&Arc<Instance>>) {
        let named = |instance: Option<&Arc<Instance>>| -> Vec<IpAddr> {
            let addresses = instance.into_iter().flat_map(|instance| instance.addresses());
            addresses.filter(|address| self.has_name(address)).copied().collect()
        };
        let (old, new) = (named(before), named(after));
        let Some(key) = after.or(before).map(|instance| &instance.key) else { return };
        for address in new.iter().filter(|address| !old.contains(address)) {
            if add_key(&self.addresses, *address, key) {
                self.count_above_address(*address, true);
            }
        }
        for address in old.iter().filter(|address| !new.contains(address)) {
            if remove_key(&self.addresses, address, key) {
                self.count_above_address(*address, false);
            }
        }
        match (before, after) {
            (None, Some(_)) => self.ids.add(key),
            (Some(_), None) => self.ids.remove(key),
            _ => {}
        }
    }

    /// Counts the services that know each tag, when one service's tags change.
    fn count_tags(&self, old: &BTreeSet<Label>, new: &BTreeSet<Label>) {
        if std::ptr::eq(old, new) {
            return; // one set that both views share
        }
        for label in new.difference(old) {
            count(&self.tags, label.clone(), true);
        }
        for label in old.difference(new) {
            count(&self.tags, label.clone(), false);
        }
    }

    /// Every service as it is now: the whole zone at one revision, where nobody publishes meanwhile.
    pub fn all_services(&self) -> Vec<Arc<ServiceView>> {
        self.services.pin().values().cloned().collect()
    }

    /// Every host that was spoken of.
    pub fn all_hosts(&self) -> Vec<Arc<Host>> {
        self.hosts.pin().values().cloned().collect()
    }

    /// The records at a service's own name, below the first apex.
    pub fn prepared<'s>(&self, service: &'s ServiceView) -> &'s Prepared {
        service.prepared.get_or_init(|| {
            Box::new(Prepared::of(service, &self.settings.apexes[0], self.ttl(&service.name)))
        })
    }

    /// As `service`, for as long as `look` looks: nothing is counted that another core counts too.
    pub fn with_service<T>(&self, name: &str, look: impl FnOnce(Option<&ServiceView>) -> T) -> T {
        look(self.services.pin().get(name).map(|service| &**service))
    }

    pub fn service(&self, name: &str) -> Option<Arc<ServiceView>> {
        self.services.pin().get(name).cloned()
    }

    /// What is set for a service; nothing where nobody did.
    pub fn settings_of(&self, service: &ServiceName) -> ServiceSettings {
        self.configured.pin().get(service).cloned().unwrap_or_default()
    }

    /// The TTL of a service's records in seconds, before leases shorten it.
    pub fn ttl(&self, service: &ServiceName) -> u32 {
        self.configured.pin().get(service).and_then(|settings| settings.ttl).unwrap_or(self.settings.ttl)
    }

    /// True where some service knows the tag.
    pub fn has_tag(&self, label: &str) -> bool {
        self.tags.pin().contains_key(label)
    }

    pub fn directory(&self) -> Arc<Directory> {
        self.directory.load_full()
    }

    pub fn zones(&self) -> Arc<Zones> {
        self.zones.load_full()
    }

    /// The revision of the last change published.
    pub fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    /// Instances registered.
    pub fn instances(&self) -> u64 {
        self.instances.load(Ordering::Relaxed)
    }

    /// How often a guard began since this server started.
    pub fn guards(&self) -> u64 {
        self.guards.load(Ordering::Relaxed)
    }

    /// The SOA's serial: goes up with every change (RFC 1982).
    pub fn serial(&self) -> u32 {
        self.serial_of(self.revision())
    }

    pub fn serial_of(&self, revision: u64) -> u32 {
        self.serial_base.load(Ordering::Relaxed).wrapping_add(revision as u32)
    }

    /// A revision as HTTP clients see it: the serial's count without its wrap, or a finer one of a server that
    /// keeps nothing.
    pub fn index(&self, revision: u64) -> u64 {
        self.index_base.load(Ordering::Relaxed) + revision
    }

    /// The revision that an index stands for; none where it is of another server, or of another life of this one.
    pub fn revision_of(&self, index: u64) -> Option<u64> {
        let revision = index.checked_sub(self.index_base.load(Ordering::Relaxed))?;
        (revision <= self.revision()).then_some(revision)
    }

    /// The revision at which a reader of the service could see a difference last, known or not.
    pub fn modified(&self, service: &str) -> u64 {
        match self.service(service) {
            Some(view) => view.modified,
            None => self.extinct.pin().get(service).copied().unwrap_or(self.spans.gone()),
        }
    }

    pub fn soa(&self, apex: &Apex) -> Soa {
        self.soa_at(apex, self.revision())
    }

    pub fn soa_at(&self, apex: &Apex, revision: u64) -> Soa {
        let [_, refresh, retry, expire, minimum] = self.soa_numbers();
        let serial = self.serial_of(revision);
        let (mname, rname) = (apex.owner(&["ns"]), apex.owner(&["hostmaster"]));
        Soa { mname, rname, serial, refresh, retry, expire, minimum }
    }

    /// Serial, refresh, retry, expire and minimum of every SOA of ours (RFC 1035 section 3.3.13).
    pub fn soa_numbers(&self) -> [u32; 5] {
        [self.serial(), 300, 60, 86_400, NEGATIVE_TTL]
    }

    /// What else has names below each apex, in the order of the apexes.
    pub fn overlaps(&self) -> impl Iterator<Item = Overlap> {
        self.overlaps.iter().zip(&self.grown).map(|(overlap, grown)| match overlap {
            Overlap::None if grown.load(Ordering::Acquire) => Overlap::Tree,
            overlap => *overlap,
        })
    }

    /// The apex that `qname` is at or below, the longest where several fit.
    pub fn apex_of(&self, qname: &Name) -> Option<&Apex> {
        let within = self.settings.apexes.iter().filter(|apex| qname.is_within(apex.name()));
        within.max_by_key(|apex| apex.name().as_wire().len())
    }

    /// True where the registry is asked for `name`, in our words or in Consul's.
    pub fn is_served(&self, name: &Name) -> bool {
        let alias = self.settings.consul.as_ref().is_some_and(|zone| name.is_within(zone.apex.name()));
        alias || self.apex_of(name).is_some()
    }

    /// A registered instance by its key.
    pub fn member(&self, key: &Key) -> Option<Member> {
        let service = self.service(key.service.as_str())?;
        service.by_key(key).cloned()
    }

    /// Renews the lease of `key`: one number stored, no change. `None` where another node watches over it, or may: then
    /// the writer has to be asked ([`crate::registry::Command::Claim`]).
    pub fn renew(&self, key: &Key, lease_id: Option<u64>, now: Now) -> Result<Option<Lease>, Refusal> {
        // What is not there, or another's, may be so here alone.
        if self.heard_until_ns.load(Ordering::Acquire) <= now.mono_ns {
            return Ok(None);
        }
        let not_found = || Refusal::NotFound(key.clone());
        let service = self.service(key.service.as_str()).ok_or_else(not_found)?;
        let instance = &service.by_key(key).ok_or_else(not_found)?.instance;
        if lease_id.is_some_and(|lease_id| lease_id != instance.lease_id) {
            return Err(Refusal::Superseded(key.clone()));
        }
        match instance.deadline.renew(now) {
            Renewal::Done => Ok(Some(instance.lease)),
            // It was not yet taken out of the view: its end is on the way.
            Renewal::Over => Err(not_found()),
            Renewal::Elsewhere => Ok(None),
        }
    }

    /// The services that would lose the last of their answers with these instances. One alone is no bulk: whoever takes
    /// it out knows which it is.
    pub fn emptied_without(&self, keys: &BTreeSet<Key>) -> BTreeSet<ServiceName> {
        if keys.len() < 2 {
            return BTreeSet::new();
        }
        let services: BTreeSet<&ServiceName> = keys.iter().map(|key| &key.service).collect();
        let is_emptied = |name: &&ServiceName| {
            self.service(name.as_str()).is_some_and(|service| {
                service.has_answers()
                    && service.in_answers().all(|member| keys.contains(&member.instance.key))
            })
        };
        services.into_iter().filter(is_emptied).cloned().collect()
    }

    /// Every instance with this id.
    pub fn by_id(&self, id: &InstanceId) -> Vec<Member> {
        self.members_of(self.ids.sorted(id))
    }

    /// Every instance on this host.
    pub fn on_host(&self, host: &HostName) -> Vec<Member> {
        let keys = self.on_host.pin().get(host).cloned().unwrap_or_default();
        self.members_of(keys.iter())
    }

    /// What was said of a host; one that is only known by its instances is as new.
    pub fn host(&self, name: &HostName) -> Option<Arc<Host>> {
        let said = self.hosts.pin().get(name).cloned();
        said.or_else(|| self.on_host.pin().contains_key(name).then(|| Arc::new(Host::new(name.clone()))))
    }

    /// True where some host's name has further labels in front of this one.
    pub fn has_host_below(&self, name: &str) -> bool {
        self.above_hosts.pin().contains_key(name)
    }

    /// Every host that was spoken of or has instances, in order.
    pub fn hosts(&self) -> Vec<HostName> {
        let (said, with_instances) = (self.hosts.pin(), self.on_host.pin());
        let names: BTreeSet<&HostName> = said.keys().chain(with_instances.keys()).collect();
        names.into_iter().cloned().collect()
    }

    /// The revisions of what spans services.
    pub fn spans(&self) -> &Spans {
        &self.spans
    }

    /// True where some instance has an address in the networks with names that begins so.
    pub fn has_address_below(&self, prefix: &Prefix) -> bool {
        self.above_addresses.pin().contains_key(prefix)
    }

    /// Every instance at this address, which is in the networks with names.
    pub fn by_address(&self, address: &IpAddr) -> Vec<Member> {
        self.members_of(self.addresses.pin().get(address).map(Keys::sorted).unwrap_or_default())
    }

    fn members_of(&self, keys: impl IntoIterator<Item = impl Borrow<Key>>) -> Vec<Member> {
        keys.into_iter().filter_map(|key| self.member(key.borrow())).collect()
    }

    /// The instances that match, in order of service and label, `after` a place in that order, `most` of them;
    /// and whether there are more.
    pub fn list(&self, filter: &Filter, after: Option<(&str, &str)>, most: usize) -> (Vec<Member>, bool) {
        let mut found = Vec::new();
        let matching = |service: &ServiceView, found: &mut Vec<Member>| -> bool {
            for member in &service.members {
                let place = (service.name.as_str(), member.instance.label.as_str());
                if after.is_some_and(|after| place <= after)
                    || !filter.matches(&member.instance, member.health)
                {
                    continue;
                }
                if found.len() == most {
                    return true;
                }
                found.push(member.clone());
            }
            false
        };
        if let Some(name) = &filter.service {
            let more = self.service(name.as_str()).is_some_and(|service| matching(&service, &mut found));
            return (found, more);
        }
        if let Some(address) = filter.address.as_ref().filter(|address| self.has_name(address)) {
            let mut members = self.by_address(address);
            members.sort_by(|a, b| {
                (&a.instance.key.service, &a.instance.label)
                    .cmp(&(&b.instance.key.service, &b.instance.label))
            });
            members.retain(|member| {
                let place = (member.instance.key.service.as_str(), member.instance.label.as_str());
                after.is_none_or(|after| place > after) && filter.matches(&member.instance, member.health)
            });
            let more = members.len() > most;
            members.truncate(most);
            return (members, more);
        }
        let directory = self.directory();
        let from = after.map_or("", |(service, _)| service);
        for name in directory.names_from(from) {
            if let Some(service) = self.service(name.as_str())
                && matching(&service, &mut found)
            {
                return (found, true);
            }
        }
        (found, false)
    }
}

/// Where an instance's records point: its own name, or the target that it named.
pub fn target_of(instance: &Instance, apex: &Apex) -> Name {
    match &instance.location {
        Location::Target(target) => target.clone(),
        Location::Addresses(_) => apex.owner(&[instance.label.as_str(), instance.key.service.as_str()]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ttl_is_within_a_third_of_the_lease() {
        let timed = |seconds| Lease::Timed(std::time::Duration::from_secs(seconds));
        assert_eq!(ttl_within(5, timed(15)), 5);
        assert_eq!(ttl_within(5, timed(14)), 4);
        assert_eq!(ttl_within(5, timed(1)), 1);
        assert_eq!(ttl_within(0, timed(1)), 0);
        assert_eq!(ttl_within(300, Lease::None), 300);
    }
}
