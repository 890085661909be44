//! What queries see: an immutable view per service, published by swapping one pointer in a concurrent map.
//!
//! A query takes no lock and never sees half of a change; a change costs what its own service costs,
//! however many there are. The writer alone publishes. Answers that span services come from small
//! indexes that the same publish swaps: by id, by address, by tag, and the directory of names.
//!
//! Why not one snapshot of everything behind one pointer: a change would then cost the whole registry,
//! or a persistent map whose every look-up is slower. What needs the whole zone at one revision is
//! asked of the writer.

mod census;
mod directory;
pub mod file_replies;
mod keys;
mod lookup;
mod nodes;
pub mod prepared;
mod publish;
mod retired;
mod serial;
mod service;
mod spans;
mod worth;
mod zones;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use ipnet::IpNet;

pub use self::census::Census;
pub use self::directory::Directory;
use self::file_replies::FileReplies;
use self::keys::{Ids, Keys};
pub use self::nodes::Node;
use self::prepared::Prepared;
use self::retired::Retired;
use self::service::signatures_of;
pub use self::service::{EDE_OCTETS_MAX, ServiceView, target_of, ttl_within};
pub use self::spans::Spans;
pub use self::worth::Worth;
pub use self::zones::{Hidden, Overlap, Zones};
use crate::balance::Region;
use crate::grammar::reverse::Prefix;
use crate::instance::{Host, Key, Lease, ServiceSettings};
use crate::lease::Renewal;
pub use crate::member::{Member, Members, Standing};
use crate::name::{Apex, Datacenter, HostName, Label, Name, ServiceName};
use crate::registry::Refusal;
use crate::sign::{Signatures, ZoneKeys};
use crate::sorted::Sorted;
use crate::time::{Now, Wall};
use crate::zone::Zone;

/// TTL of SOA and negative answers, in seconds: "not yet started" is the answer that hurts most when it stays.
pub const NEGATIVE_TTL: u32 = 2;
/// TTL of the apex NS and the addresses behind it, in seconds: they change when the server moves.
pub const APEX_TTL: u32 = 60;

/// Signatures that are kept of what belongs to no service, denials above all: some megabytes, and what resolvers ask again
/// within the two seconds of a denial's TTL.
const SIGNATURES_MAX: usize = 16_384;

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
    /// What all of these services are, counted.
    census: ArcSwap<Census>,
    /// Those that a guard has now.
    guarded: ArcSwap<Directory>,
    /// Those of the files, and in the trees what UPDATE set.
    zones: ArcSwap<Zones>,
    /// What was answered from the zones of files.
    file_replies: ArcSwap<FileReplies>,
    /// Zones that were served before, and their replies.
    retired: Retired,
    /// The record trees as the files have them.
    files: ArcSwap<Vec<Arc<Zone>>>,
    /// Of each apex, in order, an [`Overlap`].
    overlaps: Vec<AtomicU8>,
    /// What is wrong with zone files whose zones are served as they were before.
    zone_troubles: ArcSwap<Vec<Box<str>>>,
    /// How often files of zones were taken over while we served, and how often one was refused.
    zones_taken: AtomicU64,
    zones_refused: AtomicU64,
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

impl View {
    /// An empty view that is not ready: everything in the live zone is SERVFAIL until `set_ready`.
    pub fn new(settings: Settings, zones: Zones) -> Self {
        let zones = Arc::new(zones);
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
            census: ArcSwap::default(),
            guarded: ArcSwap::default(),
            overlaps: settings
                .apexes
                .iter()
                .map(|apex| AtomicU8::new(Overlap::of(apex, &settings, &zones) as u8))
                .collect(),
            files: ArcSwap::from_pointee(zones.trees.clone()),
            zone_troubles: ArcSwap::default(),
            zones_taken: AtomicU64::new(0),
            zones_refused: AtomicU64::new(0),
            file_replies: ArcSwap::from_pointee(FileReplies::new(zones.clone())),
            zones: ArcSwap::new(zones),
            retired: Retired::default(),
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
            guards: AtomicU64::new(0),
            worth: AtomicU8::new(Worth::Nothing as u8),
            stale: ArcSwapOption::empty(),
            store_trouble: ArcSwapOption::empty(),
            heard_until_ns: AtomicU64::new(u64::MAX),
            nodes: ArcSwap::default(),
            left_nodes: ArcSwap::default(),
        }
    }

    /// From this time on the writer is asked about each heartbeat, in nanoseconds of the monotonic clock: a node that may
    /// not be a member any more must not say that a lease goes on, for another one may be about to end it.
    pub fn set_heard_until(&self, time_ns: u64) {
        self.heard_until_ns.store(time_ns, Ordering::Release);
    }

    /// The keys of each zone that is signed, in place of those before.
    pub fn set_keys(&self, keys: Vec<ZoneKeys>) {
        self.keys.store(Arc::new(keys.into_iter().map(Arc::new).collect()));
    }

    /// The keys of the zone with this apex; none where it is not signed.
    pub fn keys_of(&self, apex: &Name) -> Option<Arc<ZoneKeys>> {
        self.keys.load().iter().find(|keys| keys.apex == *apex).cloned()
    }

    /// The keys of every zone that is signed.
    pub fn all_keys(&self) -> Arc<Vec<Arc<ZoneKeys>>> {
        self.keys.load_full()
    }

    /// Signatures that are there to be sent again, of all services and of what is nobody's.
    pub fn signatures_kept(&self) -> usize {
        let services = self.all_services();
        let of_services = services.iter().filter_map(|service| service.signatures.get());
        self.signatures.kept() + of_services.map(|signatures| signatures.kept()).sum::<usize>()
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

    /// The records at a service's own name, below the first apex.
    pub fn prepared<'s>(&self, service: &'s ServiceView) -> &'s Prepared {
        service.prepared.get_or_init(|| {
            Box::new(Prepared::of(service, &self.settings.apexes[0], self.ttl(&service.name)))
        })
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
}
