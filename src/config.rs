//! The configuration: defaults < file < environment < flags, read once and validated once.
//!
//! Every source is reduced to the same thing, a key with texts and the place that it was written in, so
//! a key is read by one function wherever it comes from, and every complaint names the place:
//! `callsign.toml:3:7`, `CALLSIGN_TTL` or `--ttl`. A later source replaces a key as a whole; lists are
//! not joined. An unknown key is an error, because a misspelt `listen` must not be a server that does not.
//!
//! What is here can be told from the texts alone. That an address can be bound, or that a zone file is
//! sound, is told by `serve`.

pub mod keys;
mod sources;
mod values;

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use ipnet::{IpNet, Ipv4Net};

use self::sources::Given;
pub use self::sources::{Setting, Value};
use self::values::{
    account, address, advertise, advertise_listen, allowed, cookie_secret, datacenter, directory, domain,
    duration, flag, http_host, log, network, node, nsid, number, path, region, rule, secondary, socket,
    special_name, store, underscore, updater, upstream,
};
use crate::access::{OWNED_MAX, RULES_MAX, Rule};
use crate::balance::Region;
use crate::dns::cookie::{self, Secret};
use crate::dns::forward::{Source, UPSTREAMS_MAX};
use crate::dns::limit::REPLIES_PER_SECOND_MAX;
use crate::dns::notify::SECONDARIES_MAX;
use crate::dns::transfer::Allowed;
use crate::name::{Apex, Datacenter, HostName, Name};
use crate::registry::{FORGET_AFTER, INSTANCES_MAX};
use crate::store::Limits;
use crate::store::etcd::{self, Endpoint};

/// The port of DNS where nothing else is said: 53 needs a privilege and is often taken.
pub const DNS_PORT: u16 = 5300;
/// Seconds that a resolver may keep a positive answer.
const TTL_DEFAULT: u32 = 5;
/// Consul's own default, which clients have in their configuration.
const DATACENTER_DEFAULT: &str = "dc1";
/// Longest TTL: what a cache holds longer than this outlives too many instances.
pub const TTL_MAX: u32 = 300;
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
    /// Seconds that a resolver may keep a positive answer; at most `TTL_MAX`.
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
    /// How long DNS is answered after SIGTERM while new registrations are not.
    pub grace: Duration,
    /// Networks that probes of checks may go to, besides the instance's own addresses and loopback.
    pub probe_allow: Vec<IpNet>,
    /// Checks may run programs.
    pub probe_commands: bool,
}

/// Keys that mean something for a store on etcd alone.
const ETCD_KEYS: [&str; 8] = [
    "node",
    "etcd-authority",
    "etcd-certificate",
    "etcd-key",
    "etcd-user",
    "etcd-password",
    "stale-for",
    "tell-stale",
];

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
            return Some(PathBuf::from("/run/callsign/callsign.sock"));
        }
        let (_, runtime) = self.environment.iter().find(|(name, _)| name == "XDG_RUNTIME_DIR")?;
        Path::new(runtime).is_absolute().then(|| Path::new(runtime).join("callsign.sock"))
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

impl Given {
    /// The directory of the store, where it needs one.
    fn data(&self, store: &StoreChoice, around: &Surroundings) -> anyhow::Result<Option<PathBuf>> {
        let given = self.one("data", path)?;
        match (store, given) {
            (StoreChoice::Memory, Some(_)) => {
                bail!(
                    "{} is for the embedded store; leave it out, or leave out `store = \"memory\"`",
                    self.0["data"][0].origin
                )
            }
            (StoreChoice::Etcd(_), Some(_)) => {
                bail!(
                    "{} is for the embedded store; leave it out where etcd is the store",
                    self.0["data"][0].origin
                )
            }
            (StoreChoice::Memory | StoreChoice::Etcd(_), None) => Ok(None),
            (StoreChoice::Embedded, Some(path)) => Ok(Some(path)),
            (StoreChoice::Embedded, None) => match around.data() {
                Some(path) => Ok(Some(path)),
                None => bail!(
                    "data: there is no directory of your own to keep the registry in, because neither XDG_STATE_HOME nor HOME is set; name one with --data, or keep nothing with --store memory"
                ),
            },
        }
    }

    /// How etcd is reached, where it is the store; and what is said of etcd where it is not is a mistake.
    fn etcd(&self, store: &StoreChoice) -> anyhow::Result<Option<etcd::Settings>> {
        let origin = |key: &str| &self.0[key][0].origin;
        let StoreChoice::Etcd(choice) = store else {
            for key in ETCD_KEYS {
                if self.0.contains_key(key) {
                    bail!(
                        "{} is for a store on etcd; leave it out, or set `store = \"etcd://HOST:PORT\"`",
                        origin(key)
                    );
                }
            }
            return Ok(None);
        };
        let authority = self.one("etcd-authority", path)?;
        let certificate = match (self.one("etcd-certificate", path)?, self.one("etcd-key", path)?) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (Some(_), None) => {
                bail!("{} needs its key: name the file with `etcd-key`", origin("etcd-certificate"))
            }
            (None, Some(_)) => {
                bail!("{} needs its certificate: name the file with `etcd-certificate`", origin("etcd-key"))
            }
        };
        if !choice.tls && (authority.is_some() || certificate.is_some()) {
            let key = if authority.is_some() { "etcd-authority" } else { "etcd-certificate" };
            bail!("{} is for TLS: write the store as `etcds://…`", origin(key));
        }
        let text = |text: &str| match text.is_empty() {
            true => Err("must not be empty".to_owned()),
            false => Ok(text.to_owned()),
        };
        let user = match (self.one("etcd-user", text)?, self.one("etcd-password", text)?) {
            (None, None) => None,
            (Some(name), Some(password)) => Some(etcd::User { name, password }),
            (Some(_), None) => bail!("{} needs a password: set `etcd-password`", origin("etcd-user")),
            (None, Some(_)) => bail!("{} needs a user: set `etcd-user`", origin("etcd-password")),
        };
        let tls = choice.tls.then_some(etcd::Tls { authority, certificate });
        let (endpoints, prefix) = (choice.endpoints.clone(), choice.prefix.clone());
        Ok(Some(etcd::Settings { endpoints, prefix, tls, user }))
    }

    /// A secret is in no complaint, not even one that is given twice.
    fn cookie_secrets(&self) -> anyhow::Result<Vec<Secret>> {
        let values = self.0.get("cookie-secret").map(Vec::as_slice).unwrap_or_default();
        if let Some(value) = values.get(cookie::SECRETS_MAX) {
            return Err(value.complaint("is one too many: the first makes cookies, and one more is believed"));
        }
        values.iter().map(|value| cookie_secret(&value.text).map_err(|rule| value.complaint(rule))).collect()
    }

    /// The one place of defaults and rules.
    fn config(&self, around: &Surroundings) -> anyhow::Result<Config> {
        let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
        let store = self.one("store", store)?.unwrap_or(StoreChoice::Embedded);
        let config = Config {
            domain: self.list("domain", domain)?.unwrap_or_else(|| {
                vec![Apex::parse("service.local").expect("the default domain is a name")]
            }),
            consul_domain: self.one("consul-domain", domain)?,
            datacenter: self
                .one("datacenter", datacenter)?
                .unwrap_or_else(|| Datacenter::parse(DATACENTER_DEFAULT).expect("the default is a name")),
            dns: self
                .list("dns", address)?
                .unwrap_or_else(|| loopback.map(|address| SocketAddr::new(address, DNS_PORT)).to_vec()),
            dns_is_default: !self.0.contains_key("dns"),
            dot: self.list("dot", address)?.unwrap_or_default(),
            doh: self.list("doh", address)?.unwrap_or_default(),
            doq: self.list("doq", address)?.unwrap_or_default(),
            certificate: self.certificate()?,
            socket: match self.one("socket", socket)? {
                Some(path) => path,
                None => around.socket().ok_or_else(|| {
                    anyhow!("socket: there is no directory of your own to put it in, because XDG_RUNTIME_DIR is not set; name a path that only you can write to with --socket")
                })?,
            },
            listen: self.list("listen", address)?.unwrap_or_default(),
            http: match self.0.get("http").map(Vec::as_slice) {
                Some([none]) if none.text == "none" => Vec::new(),
                _ => self.list("http", address)?.unwrap_or_else(|| vec![SocketAddr::new(loopback[0], HTTP_PORT)]),
            },
            http_hosts: self.list("http-hosts", http_host)?.unwrap_or_default(),
            underscore_is_hyphen: self.one("underscore", underscore)?.unwrap_or(false),
            allow_unauthenticated: self.one("allow-unauthenticated", flag)?.unwrap_or(false),
            zones: match self.one("zones", directory)? {
                Some(path) => Some(path),
                None => Some(around.directory.join("zones")).filter(|path| path.is_dir()),
            },
            services: self.one("services", directory)?,
            allow_empty: self.one("allow-empty", flag)?.unwrap_or(false),
            data: self.data(&store, around)?,
            node: self.one("node", node)?,
            etcd: self.etcd(&store)?,
            store,
            history_changes: self.one("history-changes", |text| number(text, 0, u64::MAX))?.unwrap_or(Limits::default().history_changes),
            history_age: self.one("history-age", |text| duration(text, HISTORY_AGE_MAX))?.unwrap_or(Limits::default().history_age),
            user: self.one("user", account)?,
            group: self.one("group", account)?,
            listen_tls: self.list("listen-tls", address)?.unwrap_or_default(),
            https: self.list("https", address)?.unwrap_or_default(),
            client_authority: self.one("client-authority", path)?,
            access: self.list("access", rule)?,
            advertise: self.one("advertise", advertise)?,
            advertise_listen: self.one("advertise-listen", advertise_listen)?,
            stale_for: self.one("stale-for", |text| duration(text, STALE_FOR_MAX))?,
            tell_stale: self.one("tell-stale", flag)?.unwrap_or(false),
            reverse: self.list("reverse", network)?.unwrap_or_default(),
            regions: self.list("regions", region)?.unwrap_or_default(),
            ttl: self.one("ttl", |text| number(text, 0, TTL_MAX.into()))?.unwrap_or(TTL_DEFAULT),
            known_for: self.one("known-for", |text| duration(text, KNOWN_FOR_MAX))?.unwrap_or(FORGET_AFTER),
            instances_max: self.one("instances-max", |text| number(text, 1, u64::MAX))?.unwrap_or(INSTANCES_MAX),
            identity_instances_max: self
                .one("identity-instances-max", |text| number(text, 1, u64::MAX))?
                .unwrap_or(OWNED_MAX),
            allow_loopback: self.one("allow-loopback", flag)?.unwrap_or(false),
            udp_octets_loopback: self
                .one("udp-octets-loopback", |text| number(text, UDP_OCTETS_MIN.into(), UDP_OCTETS_MAX.into()))?
                .unwrap_or(UDP_OCTETS_DEFAULT),
            rate_limit: self
                .one("rate-limit", |text| number(text, 0, REPLIES_PER_SECOND_MAX.into()))?
                .unwrap_or(0),
            nsid: self.one("nsid", nsid)?,
            cookie_secret: self.cookie_secrets()?,
            query_allow: self.list("query-allow", network)?,
            tsig_keys: self.list("tsig-keys", path)?.unwrap_or_default(),
            dnssec_keys: self.one("dnssec-keys", path)?,
            transfer_allow: self.list("transfer-allow", allowed)?.unwrap_or_else(|| {
                let network = |network| Allowed { network: Some(network), key: None };
                this_machine().into_iter().map(network).collect()
            }),
            update_allow: self.list("update-allow", updater)?.unwrap_or_default(),
            notify: self.list("notify", secondary)?.unwrap_or_default(),
            forward: self.list("forward", upstream)?.unwrap_or_default(),
            forward_allow: self.list("forward-allow", network)?.unwrap_or_else(this_machine),
            forward_special: self.list("forward-special", special_name)?.unwrap_or_default(),
            forward_trust_ad: self.one("forward-trust-ad", flag)?.unwrap_or(false),
            claim_local: self.one("claim-local", flag)?.unwrap_or(false),
            log: self.one("log", log)?.unwrap_or_else(|| "info".to_owned()),
            grace: self.one("grace", |text| duration(text, GRACE_MAX))?.unwrap_or_default(),
            probe_allow: self.list("probe-allow", network)?.unwrap_or_default(),
            probe_commands: self.one("probe-commands", flag)?.unwrap_or(false),
        };
        if config.group.is_some() && config.user.is_none() {
            bail!("{} needs `user`: nobody else is become", self.0["group"][0].origin);
        }
        if config.advertise_listen.is_some() && config.listen.is_empty() {
            bail!(
                "{} needs `listen`: nobody takes registrations there",
                self.0["advertise-listen"][0].origin
            );
        }
        self.authenticated(&config)?;
        self.certified(&config)?;
        self.one_grammar_a_name(&config)?;
        if let Some(beyond) = config.reverse.get(REVERSE_MAX) {
            bail!(
                "{} {beyond} is one network too many; there may be {REVERSE_MAX}",
                self.0["reverse"][REVERSE_MAX].origin
            );
        }
        if let Some(beyond) = config.query_allow.as_ref().and_then(|networks| networks.get(CLIENTS_MAX)) {
            bail!(
                "{} {beyond} is one network too many; there may be {CLIENTS_MAX}",
                self.0["query-allow"][CLIENTS_MAX].origin
            );
        }
        if let Some(beyond) = config.regions.get(REGIONS_MAX) {
            bail!(
                "{} {}={} is one network too many; there may be {REGIONS_MAX}",
                self.0["regions"][REGIONS_MAX].origin,
                beyond.name,
                beyond.network
            );
        }
        self.few_upstreams(&config)?;
        if config.notify.len() > SECONDARIES_MAX {
            bail!(
                "{} is one secondary more than {SECONDARIES_MAX}; let others follow one of them",
                self.0["notify"][SECONDARIES_MAX].origin
            );
        }
        Ok(config)
    }

    /// Two files, or one made here, and not both: which of them is shown would be a guess.
    fn certificate(&self) -> anyhow::Result<Option<CertificateChoice>> {
        let made = self.one("tls-self-signed", flag)?.unwrap_or(false);
        let (certificate, key) = (self.one("tls-certificate", path)?, self.one("tls-key", path)?);
        let origin = |key: &str| &self.0[key][0].origin;
        match (certificate, key, made) {
            (None, None, false) => Ok(None),
            (None, None, true) => Ok(Some(CertificateChoice::SelfSigned)),
            (Some(certificate), Some(key), false) => Ok(Some(CertificateChoice::Files { certificate, key })),
            (Some(_), None, _) => {
                bail!("{} needs its key: name the file in PEM form with `tls-key`", origin("tls-certificate"))
            }
            (None, Some(_), _) => {
                bail!(
                    "{} needs its certificate: name the file in PEM form with `tls-certificate`",
                    origin("tls-key")
                )
            }
            (Some(_), Some(_), true) => {
                bail!(
                    "{} makes a certificate, and `tls-certificate` names one; leave one of them out",
                    origin("tls-self-signed")
                )
            }
        }
    }

    fn certified(&self, config: &Config) -> anyhow::Result<()> {
        let encrypted = [
            ("dot", &config.dot),
            ("doh", &config.doh),
            ("doq", &config.doq),
            ("listen-tls", &config.listen_tls),
            ("https", &config.https),
        ];
        for (key, addresses) in encrypted {
            if let (Some(first), None) = (addresses.first(), &config.certificate) {
                bail!(
                    "{} {first} needs a certificate: name its files with `tls-certificate` and `tls-key`, or set `tls-self-signed = true` (--tls-self-signed) for a first try",
                    self.0[key][0].origin
                );
            }
        }
        if config.client_authority.is_some() && config.listen_tls.is_empty() && config.https.is_empty() {
            bail!(
                "{} is of no use without `listen-tls` or `https`: clients show certificates there",
                self.0["client-authority"][0].origin
            );
        }
        Ok(())
    }

    fn few_upstreams(&self, config: &Config) -> anyhow::Result<()> {
        if config.forward.len() > UPSTREAMS_MAX {
            bail!(
                "{} is one more server than {UPSTREAMS_MAX}: one name is asked of three at most",
                self.0["forward"][UPSTREAMS_MAX].origin
            );
        }
        Ok(())
    }

    /// `web.service.consul` means one thing: the two grammars have no name in common.
    fn one_grammar_a_name(&self, config: &Config) -> anyhow::Result<()> {
        let Some(alias) = config.consul_domain.as_ref().map(Apex::name) else { return Ok(()) };
        let shared = config
            .domain
            .iter()
            .find(|domain| domain.name().is_within(alias) || alias.is_within(domain.name()));
        let Some(shared) = shared else { return Ok(()) };
        let origin = &self.0["consul-domain"][0].origin;
        bail!(
            "{origin} {alias} must be neither the domain {shared} nor above or below it: one name would have two meanings"
        );
    }

    /// Nobody reaches the registration socket from elsewhere unless somebody asked for that by name.
    fn authenticated(&self, config: &Config) -> anyhow::Result<()> {
        if let Some(rules) = &config.access {
            if rules.len() > RULES_MAX {
                bail!(
                    "{} is one rule too many; there may be {RULES_MAX}",
                    self.0["access"][RULES_MAX].origin
                );
            }
            if config.allow_unauthenticated {
                bail!(
                    "{} lets anybody in, and `access` says who may do what; leave one of them out",
                    self.0["allow-unauthenticated"][0].origin
                );
            }
            return Ok(());
        }
        // A certificate that an authority of the operator's has signed says who a client is, and who has none is nobody.
        let certified = config.client_authority.is_some();
        let open = [("listen", &config.listen, false), ("http", &config.http, false)];
        let encrypted = [("listen-tls", &config.listen_tls, certified), ("https", &config.https, certified)];
        for (key, addresses, authenticated) in open.into_iter().chain(encrypted) {
            if authenticated {
                continue;
            }
            let open = addresses.iter().position(|address| !address.ip().to_canonical().is_loopback());
            if let (Some(open), false) = (open, config.allow_unauthenticated) {
                let origin = &self.0[key][open].origin;
                bail!(
                    "{origin} {} can be reached from other machines, and there is no authentication: whoever reaches it may register and deregister anything; say who may do what with `access` (--access 'allow anyone read', and tokens for the rest), listen on 127.0.0.1, or set `allow-unauthenticated = true` (--allow-unauthenticated) if that is meant",
                    addresses[open]
                );
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
