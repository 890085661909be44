//! The configuration: defaults < file < environment < flags, read once and validated once.
//!
//! Every source is reduced to the same thing, a key with texts and the place that it was written in, so
//! a key is read by one function wherever it comes from, and every complaint names the place:
//! `callsign.toml:3:7`, `CALLSIGN_TTL` or `--ttl`. A later source replaces a key as a whole; lists are
//! not joined. An unknown key is an error, because a misspelt `listen` must not be a server that does not.
//!
//! What is here can be told from the texts alone. That an address can be bound, or that a zone file is
//! sound, is told by `serve`.

mod judge;
pub mod keys;
mod sources;
mod values;

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use ipnet::{IpNet, Ipv4Net};

use self::sources::Given;
pub use self::sources::{Setting, Value};
use crate::access::Rule;
use crate::balance::Region;
use crate::dns::cookie::Secret;
use crate::dns::forward::Source;
use crate::dns::transfer::Allowed;
use crate::name::{Apex, Datacenter, HostName, Name};
use crate::store::etcd::{self, Endpoint};

/// The port of DNS where nothing else is said: 53 needs a privilege and is often taken.
pub const DNS_PORT: u16 = 5300;
/// Where root's server takes registrations unless somebody says otherwise, and that of the packages.
pub const SOCKET_OF_ROOT: &str = "/run/callsign/callsign.sock";
/// Seconds that a resolver may keep a positive answer.
const TTL_DEFAULT: u32 = 5;
/// Consul's own default, which clients have in their configuration.
const DATACENTER_DEFAULT: &str = "dc1";
/// Longest time that a service may stay known after its last instance left.
const KNOWN_FOR_MAX: Duration = Duration::from_secs(24 * 3600);
/// Longest time that answers go on without etcd; who wants more wants them for ever.
const STALE_FOR_MAX: Duration = Duration::from_secs(365 * 86_400);
/// Longest grace: systemd kills after 90 s.
const GRACE_MAX: Duration = Duration::from_secs(60);
/// What every path carries without fragments (RFC 9715), and the smallest that EDNS allows to ask for.
pub const UDP_OCTETS_DEFAULT: u16 = 1232;
const UDP_OCTETS_MIN: u16 = 512;
/// Longest history: what is older than this is archaeology.
const HISTORY_AGE_MAX: Duration = Duration::from_secs(3650 * 86_400);
/// What one UDP datagram over IPv4 can hold.
const UDP_OCTETS_MAX: u16 = 65_507;
/// Networks with names for their addresses: each is looked at for a query below `arpa`.
const REVERSE_MAX: usize = 64;
/// Networks with a region: a query of a service whose balance is `nearest` looks at each for every instance.
const REGIONS_MAX: usize = 64;
/// Networks that may ask: each is looked at for every query.
const CLIENTS_MAX: usize = 64;
/// Where HTTP is served unless somebody says otherwise.
const HTTP_PORT: u16 = 5380;
/// What a server is told. Public fields: whoever embeds a server starts from `Config::defaults`.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Names that the live zone is served under; at least one.
    pub domain: Vec<Apex>,
    /// Where the registry is served under names as Consul spells them, if anywhere.
    pub consul_domain: Option<Apex>,
    /// Where DNS is answered, UDP and TCP; at least one.
    pub dns: Vec<SocketAddr>,
    /// Nobody chose `dns`: the IPv6 one may then be missing on a machine without IPv6.
    pub dns_is_default: bool,
    /// Where DNS is answered over TLS, HTTPS and QUIC.
    pub dot: Vec<SocketAddr>,
    pub doh: Vec<SocketAddr>,
    pub doq: Vec<SocketAddr>,
    /// The certificate of these, and of `listen_tls` and `https`; there is one wherever one of these is not empty.
    pub certificate: Option<CertificateChoice>,
    /// The registration socket.
    pub socket: PathBuf,
    /// Whom a server that root has started becomes, once its sockets are bound.
    pub user: Option<String>,
    pub group: Option<String>,
    /// Where else registrations are taken, over TCP.
    pub listen: Vec<SocketAddr>,
    /// The same over TLS.
    pub listen_tls: Vec<SocketAddr>,
    /// Where HTTP is served: Consul's API, watching, discovery.
    pub http: Vec<SocketAddr>,
    /// The same over TLS.
    pub https: Vec<SocketAddr>,
    /// Whose certificates clients may show on both.
    pub client_authority: Option<PathBuf>,
    /// Names that clients may call the HTTP port by, beside addresses, `localhost` and our own.
    pub http_hosts: Vec<String>,
    /// What Consul's clients are told where they are, and what names below `consul_domain` say.
    pub datacenter: Datacenter,
    /// `_` in a service's name is taken for `-` over Consul's API, and not refused.
    pub underscore_is_hyphen: bool,
    /// `listen` and `http` may hold an address that others reach, though nobody has to say who they are.
    pub allow_unauthenticated: bool,
    /// Who may do what; none: this machine is trusted. At most `RULES_MAX`.
    pub access: Option<Vec<Rule>>,
    /// The directory of static zones, where there is one.
    pub zones: Option<PathBuf>,
    /// The directory of service files.
    pub services: Option<PathBuf>,
    /// Service files that go away together may take the last instances of a service with them.
    pub allow_empty: bool,
    pub store: StoreChoice,
    /// How etcd is reached, where it is the store.
    pub etcd: Option<etcd::Settings>,
    /// What this node is called among the others; the host's name where nobody says.
    pub node: Option<String>,
    /// The directory of the embedded store; `None` where nothing is kept.
    pub data: Option<PathBuf>,
    /// How much of the log of changes is kept.
    pub history_changes: u64,
    pub history_age: Duration,
    /// The address of `ns.<apex>`; `None`: the first bound address that is no wildcard.
    pub advertise: Option<IpAddr>,
    /// Where other machines reach `listen`; `None`: the first one bound.
    pub advertise_listen: Option<SocketAddr>,
    /// How long answers go on while etcd cannot be followed; `None`: for ever.
    pub stale_for: Option<Duration>,
    /// Answers say so, to clients that read it.
    pub tell_stale: bool,
    /// Networks whose addresses have names; at most `REVERSE_MAX`.
    pub reverse: Vec<IpNet>,
    /// Networks whose region is known; at most `REGIONS_MAX`.
    pub regions: Vec<Region>,
    /// Seconds that a resolver may keep a positive answer; at most `protocol::TTL_MAX`.
    pub ttl: u32,
    /// How long a service stays known after its last instance left.
    pub known_for: Duration,
    pub instances_max: usize,
    pub identity_instances_max: usize,
    /// Loopback addresses are registered though DNS is answered to other machines.
    pub allow_loopback: bool,
    /// Cap of a UDP answer to a client on this machine.
    pub udp_octets_loopback: u16,
    /// Replies a second of one answer to one network over UDP; 0: any number.
    pub rate_limit: u32,
    /// The name of this server, for who asks for it.
    pub nsid: Option<String>,
    /// What DNS cookies are made with, and the one that is believed as well; none: one is drawn at start.
    pub cookie_secret: Vec<Secret>,
    /// Who may ask over DNS; none: everybody. At most `CLIENTS_MAX`.
    pub query_allow: Option<Vec<IpNet>>,
    /// Files of the keys that messages are signed with.
    pub tsig_keys: Vec<PathBuf>,
    /// The folder of the keys that zones are signed with, where it is not beside the store.
    pub dnssec_keys: Option<PathBuf>,
    /// Who may have whole zones.
    pub transfer_allow: Vec<Allowed>,
    /// Who may send an UPDATE; each has a key.
    pub update_allow: Vec<Allowed>,
    /// Who is told of changes, and the name of the key.
    pub notify: Vec<(SocketAddr, Option<Name>)>,
    /// Who is asked for names that are not ours; empty where nobody is.
    pub forward: Vec<Source>,
    /// Who may have names forwarded.
    pub forward_allow: Vec<IpNet>,
    /// Names of special use that are forwarded nonetheless.
    pub forward_special: Vec<Name>,
    /// What upstreams on other machines say of validation is believed.
    pub forward_trust_ad: bool,
    /// `local. SOA` is answered.
    pub claim_local: bool,
    /// A filter of the `tracing` form: `info`, `callsign=debug`.
    pub log: String,
    pub log_format: LogFormat,
    /// How long DNS is answered after SIGTERM while new registrations are not.
    pub grace: Duration,
    /// Networks that probes of checks may go to, besides the instance's own addresses and loopback.
    pub probe_allow: Vec<IpNet>,
    /// Checks may run programs.
    pub probe_commands: bool,
    /// Files that the server does not need are out of its reach after the start.
    pub confine: bool,
    /// What it may read nonetheless.
    pub confine_read: Vec<PathBuf>,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// As entries of the journal where stderr leads there, else as text.
    #[default]
    Auto,
    Text,
    Json,
    Journald,
}

/// Where the registry is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreChoice {
    /// In a file on this machine.
    Embedded,
    /// Nowhere: a restart starts empty.
    Memory,
    /// In etcd, for several nodes.
    Etcd(EtcdChoice),
}

/// What `etcd://…` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdChoice {
    pub endpoints: Vec<Endpoint>,
    pub prefix: String,
    pub tls: bool,
}

/// Whose certificate encrypted listeners show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateChoice {
    /// Files in PEM form.
    Files { certificate: PathBuf, key: PathBuf },
    /// One that is made at the start, and that nobody has reason to trust.
    SelfSigned,
}

/// What the defaults depend on.
#[derive(Clone, Debug)]
pub struct Surroundings {
    pub environment: Vec<(OsString, OsString)>,
    pub root: bool,
    /// Where `zones` is looked for.
    pub directory: PathBuf,
}

impl Surroundings {
    /// Those of this process.
    pub fn here() -> Self {
        Self {
            environment: std::env::vars_os().collect(),
            root: nix::unistd::geteuid().is_root(),
            directory: PathBuf::from("."),
        }
    }

    /// The path of the registration socket that server and client agree on without a word.
    ///
    /// Never in `/tmp`, where another user could be there first: without a directory of its own there is
    /// no default, and somebody has to say where.
    pub fn socket(&self) -> Option<PathBuf> {
        if self.root {
            return Some(PathBuf::from(SOCKET_OF_ROOT));
        }
        let (_, runtime) = self.environment.iter().find(|(name, _)| name == "XDG_RUNTIME_DIR")?;
        Path::new(runtime).is_absolute().then(|| Path::new(runtime).join("callsign.sock"))
    }

    /// What programs in Rust log where nothing of their own says so; empty is as good as unset.
    fn rust_log(&self) -> anyhow::Result<Option<String>> {
        let found = self.environment.iter().find(|(name, filter)| name == "RUST_LOG" && !filter.is_empty());
        let Some((_, filter)) = found else { return Ok(None) };
        let unfit = |rule| anyhow!("RUST_LOG {rule}");
        self::values::filter(&filter.to_string_lossy()).map(Some).map_err(unfit)
    }

    /// Where the store is kept where nobody says otherwise (XDG Base Directory Specification).
    pub fn data(&self) -> Option<PathBuf> {
        if self.root {
            return Some(PathBuf::from("/var/lib/callsign"));
        }
        let variable = |wanted: &str| {
            let found = self.environment.iter().find(|(name, _)| name == wanted);
            found.map(|(_, path)| PathBuf::from(path)).filter(|path| path.is_absolute())
        };
        let state = variable("XDG_STATE_HOME").or_else(|| Some(variable("HOME")?.join(".local/state")))?;
        Some(state.join("callsign"))
    }
}

/// The machine's own name, where it has one that fits.
pub fn machine() -> Option<HostName> {
    let name = nix::unistd::gethostname().ok()?.into_string().ok()?;
    HostName::parse(&name).ok()
}

impl Config {
    /// Reads every source. `file` is the one that `--config` names; there is no other that is looked for.
    pub fn load(file: Option<&Path>, flags: Vec<Setting>, around: &Surroundings) -> anyhow::Result<Self> {
        let mut given = Given::default();
        if let Some(path) = file {
            let text =
                std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
            given.file(&path.display().to_string(), &text)?;
        }
        given.environment(&around.environment)?;
        for flag in flags {
            given.0.insert(flag.key, flag.values);
        }
        given.config(around)
    }

    /// What a server does that is told nothing.
    pub fn defaults(around: &Surroundings) -> anyhow::Result<Self> {
        Given::default().config(around)
    }
}

/// This machine alone. Whoever else may have names forwarded makes an open resolver of it (RFC 5358), and whoever else
/// may have whole zones is told the name of everything.
fn this_machine() -> Vec<IpNet> {
    let v4 = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
    vec![v4.into(), IpAddr::from(Ipv6Addr::LOCALHOST).into()]
}

#[cfg(test)]
mod tests;
