//! The configuration: defaults < file < environment < flags, read once and validated once.
//!
//! Every source is reduced to the same thing, a key with texts and the place that it was written in, so
//! a key is read by one function wherever it comes from, and every complaint names the place:
//! `callsign.toml:3:7`, `CALLSIGN_TTL` or `--ttl`. A later source replaces a key as a whole; lists are
//! not joined. An unknown key is an error, because a misspelt `listen` must not be a server that does not.
//!
//! What is here can be told from the texts alone. That an address can be bound, or that a zone file is
//! sound, is told by `serve`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use ipnet::IpNet;
use toml::de::{DeTable, DeValue};

use crate::name::{Apex, Datacenter};
use crate::protocol::did_you_mean;
use crate::registry::{FORGET_AFTER, INSTANCES_MAX};
use crate::store::Limits;
use crate::time::{format_duration, parse_duration};

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
/// Longest grace: systemd kills after 90 s.
const GRACE_MAX: Duration = Duration::from_secs(60);
/// What every path carries without fragments (RFC 9715), and the smallest that EDNS allows to ask for.
pub const UDP_OCTETS_DEFAULT: u16 = 1232;
const UDP_OCTETS_MIN: u16 = 512;
/// Longest history: what is older than this is archaeology.
const HISTORY_AGE_MAX: Duration = Duration::from_secs(3650 * 86_400);
/// What one UDP datagram over IPv4 can hold.
const UDP_OCTETS_MAX: u16 = 65_507;
/// Longest path of a Unix socket: `sun_path` of Linux holds 108 octets with the final zero.
const SOCKET_PATH_OCTETS_MAX: usize = 107;

/// Every key, as it is written in the file; `CALLSIGN_KNOWN_FOR` in the environment, `--known-for` as a flag.
const KEYS: [&str; 26] = [
    "advertise",
    "allow-loopback",
    "allow-unauthenticated",
    "consul-domain",
    "data",
    "datacenter",
    "dns",
    "domain",
    "grace",
    "history-age",
    "history-changes",
    "http",
    "http-hosts",
    "instances-max",
    "known-for",
    "listen",
    "log",
    "probe-allow",
    "probe-commands",
    "services",
    "socket",
    "store",
    "ttl",
    "udp-octets-loopback",
    "underscore",
    "zones",
];
/// Where HTTP is served unless somebody says otherwise.
const HTTP_PORT: u16 = 5380;
const VARIABLE_PREFIX: &str = "CALLSIGN_";
/// Variables with our prefix that belong to the client.
const CLIENT_VARIABLES: [&str; 1] = ["CALLSIGN_SERVER"];

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
    /// The registration socket.
    pub socket: PathBuf,
    /// Where else registrations are taken, over TCP.
    pub listen: Vec<SocketAddr>,
    /// Where HTTP is served: Consul's API, watching, discovery.
    pub http: Vec<SocketAddr>,
    /// Names that clients may call the HTTP port by, beside addresses, `localhost` and our own.
    pub http_hosts: Vec<String>,
    /// What Consul's clients are told where they are, and what names below `consul_domain` say.
    pub datacenter: Datacenter,
    /// `_` in a service's name is taken for `-` over Consul's API, and not refused.
    pub underscore_is_hyphen: bool,
    /// `listen` and `http` may hold an address that others reach, though nobody has to say who they are.
    pub allow_unauthenticated: bool,
    /// The directory of static zones, where there is one.
    pub zones: Option<PathBuf>,
    /// The directory of service files.
    pub services: Option<PathBuf>,
    pub store: StoreChoice,
    /// The directory of the embedded store; `None` where nothing is kept.
    pub data: Option<PathBuf>,
    /// How much of the log of changes is kept.
    pub history_changes: u64,
    pub history_age: Duration,
    /// The address of `ns.<apex>`; `None`: the first bound address that is no wildcard.
    pub advertise: Option<IpAddr>,
    /// Seconds that a resolver may keep a positive answer; at most `TTL_MAX`.
    pub ttl: u32,
    /// How long a service stays known after its last instance left.
    pub known_for: Duration,
    pub instances_max: usize,
    /// Loopback addresses are registered though DNS is answered to other machines.
    pub allow_loopback: bool,
    /// Cap of a UDP answer to a client on this machine.
    pub udp_octets_loopback: u16,
    /// A filter of the `tracing` form: `info`, `callsign=debug`.
    pub log: String,
    /// How long DNS is answered after SIGTERM while new registrations are not.
    pub grace: Duration,
    /// Networks that probes of checks may go to, besides the instance's own addresses and loopback.
    pub probe_allow: Vec<IpNet>,
    /// Checks may run programs.
    pub probe_commands: bool,
}

/// Where the registry is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreChoice {
    /// In a file on this machine.
    Embedded,
    /// Nowhere: a restart starts empty.
    Memory,
}

/// One key and what it was given, from any source.
#[derive(Clone, Debug)]
pub struct Setting {
    pub key: &'static str,
    pub values: Vec<Value>,
}

/// One text, and the key with the place it was written in, as complaints begin: `--ttl`, `CALLSIGN_TTL`,
/// `callsign.toml:3:7: ttl`.
#[derive(Clone, Debug)]
pub struct Value {
    pub text: String,
    pub origin: String,
}

impl Setting {
    /// A flag of the command line.
    pub fn flag(key: &'static str, texts: Vec<String>) -> Self {
        let value = |text| Value { text, origin: format!("--{key}") };
        Self { key, values: texts.into_iter().map(value).collect() }
    }
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

/// What was given for each key; the last source wins.
#[derive(Default)]
struct Given(BTreeMap<&'static str, Vec<Value>>);

impl Given {
    fn file(&mut self, path: &str, text: &str) -> anyhow::Result<()> {
        let place = |at: usize| {
            let (line, column) = position(text, at);
            format!("{path}:{line}:{column}")
        };
        let table = DeTable::parse(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            let line = text.lines().nth(position(text, at).0 - 1).unwrap_or_default().trim();
            anyhow!("{}: {} in `{}`", place(at), error.message().replace('\n', ", "), line.escape_debug())
        })?;
        for (key, value) in table.get_ref() {
            let origin = place(key.span().start);
            let Some(known) = known(key.get_ref()) else {
                let hint = did_you_mean(key.get_ref(), &KEYS);
                bail!(
                    "{origin}: unknown key `{}`{hint}; keys are {}",
                    key.get_ref().escape_debug(),
                    KEYS.join(", ")
                );
            };
            let origin = place(value.span().start);
            let values = match value.get_ref() {
                DeValue::Array(list) => list
                    .iter()
                    .map(|value| scalar(known, value.get_ref(), place(value.span().start)))
                    .collect::<anyhow::Result<_>>()?,
                value => vec![scalar(known, value, origin)?],
            };
            self.0.insert(known, values);
        }
        Ok(())
    }

    /// A variable that is set and empty is as good as unset, as shells and unit files write it.
    fn environment(&mut self, environment: &[(OsString, OsString)]) -> anyhow::Result<()> {
        for (name, text) in environment {
            let Some(variable) = name.to_str().filter(|name| name.starts_with(VARIABLE_PREFIX)) else {
                continue;
            };
            if CLIENT_VARIABLES.contains(&variable) {
                continue;
            }
            let key = variable[VARIABLE_PREFIX.len()..].to_ascii_lowercase().replace('_', "-");
            let Some(known) = known(&key).filter(|known| variable_of(known) == variable) else {
                let variables: Vec<String> = KEYS.iter().map(|key| variable_of(key)).collect();
                let variables: Vec<&str> = variables.iter().map(String::as_str).collect();
                bail!(
                    "{}: unknown variable{}",
                    variable.escape_debug(),
                    did_you_mean(&variable.to_ascii_uppercase(), &variables)
                );
            };
            let Some(text) = text.to_str() else { bail!("{variable}: is not UTF-8") };
            if text.is_empty() {
                continue;
            }
            let value = |text: &str| Value { text: text.trim().to_owned(), origin: variable.to_owned() };
            let values = match known {
                "domain" | "dns" | "listen" | "http" | "http-hosts" | "probe-allow" => {
                    text.split(',').map(value).collect()
                }
                _ => vec![value(text)],
            };
            self.0.insert(known, values);
        }
        Ok(())
    }

    /// The one place of defaults and rules.
    /// The directory of the store, where it needs one.
    fn data(&self, store: StoreChoice, around: &Surroundings) -> anyhow::Result<Option<PathBuf>> {
        let given = self.one("data", path)?;
        match (store, given) {
            (StoreChoice::Memory, Some(_)) => {
                bail!(
                    "{} is for the embedded store; leave it out, or leave out `store = \"memory\"`",
                    self.0["data"][0].origin
                )
            }
            (StoreChoice::Memory, None) => Ok(None),
            (StoreChoice::Embedded, Some(path)) => Ok(Some(path)),
            (StoreChoice::Embedded, None) => match around.data() {
                Some(path) => Ok(Some(path)),
                None => bail!(
                    "data: there is no directory of your own to keep the registry in, because neither XDG_STATE_HOME nor HOME is set; name one with --data, or keep nothing with --store memory"
                ),
            },
        }
    }

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
            store,
            data: self.data(store, around)?,
            history_changes: self.one("history-changes", |text| number(text, 0, u64::MAX))?.unwrap_or(Limits::default().history_changes),
            history_age: self.one("history-age", |text| duration(text, HISTORY_AGE_MAX))?.unwrap_or(Limits::default().history_age),
            advertise: self.one("advertise", advertise)?,
            ttl: self.one("ttl", |text| number(text, 0, TTL_MAX.into()))?.unwrap_or(TTL_DEFAULT),
            known_for: self.one("known-for", |text| duration(text, KNOWN_FOR_MAX))?.unwrap_or(FORGET_AFTER),
            instances_max: self.one("instances-max", |text| number(text, 1, u64::MAX))?.unwrap_or(INSTANCES_MAX),
            allow_loopback: self.one("allow-loopback", flag)?.unwrap_or(false),
            udp_octets_loopback: self
                .one("udp-octets-loopback", |text| number(text, UDP_OCTETS_MIN.into(), UDP_OCTETS_MAX.into()))?
                .unwrap_or(UDP_OCTETS_DEFAULT),
            log: self.one("log", log)?.unwrap_or_else(|| "info".to_owned()),
            grace: self.one("grace", |text| duration(text, GRACE_MAX))?.unwrap_or_default(),
            probe_allow: self.list("probe-allow", network)?.unwrap_or_default(),
            probe_commands: self.one("probe-commands", flag)?.unwrap_or(false),
        };
        self.authenticated(&config)?;
        self.one_grammar_a_name(&config)?;
        Ok(config)
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
        for (key, addresses) in [("listen", &config.listen), ("http", &config.http)] {
            let open = addresses.iter().position(|address| !address.ip().to_canonical().is_loopback());
            if let (Some(open), false) = (open, config.allow_unauthenticated) {
                let origin = &self.0[key][open].origin;
                bail!(
                    "{origin} {} can be reached from other machines, and there is no authentication yet: whoever reaches it may register and deregister anything; listen on 127.0.0.1, or set `allow-unauthenticated = true` (--allow-unauthenticated) if that is meant",
                    addresses[open]
                );
            }
        }
        Ok(())
    }

    fn list<T: PartialEq>(
        &self,
        key: &str,
        read: fn(&str) -> Result<T, String>,
    ) -> anyhow::Result<Option<Vec<T>>> {
        let Some(values) = self.0.get(key) else {
            return Ok(None);
        };
        // `listen = []` and `http = []` say that there is none; the others need one.
        if values.is_empty() && !["listen", "http", "http-hosts", "probe-allow"].contains(&key) {
            bail!("{key} must not be an empty list; leave the key out to take the default");
        }
        let mut list = Vec::with_capacity(values.len());
        for value in values {
            let item = read(&value.text).map_err(|rule| value.complaint(rule))?;
            // Port 0 is a free port, another one each time.
            if list.contains(&item) && !value.text.ends_with(":0") {
                return Err(value.complaint(format!("names `{}` twice", value.text.escape_debug())));
            }
            list.push(item);
        }
        Ok(Some(list))
    }

    fn one<T>(&self, key: &str, read: impl Fn(&str) -> Result<T, String>) -> anyhow::Result<Option<T>> {
        match self.0.get(key).map(Vec::as_slice) {
            None => Ok(None),
            Some([value]) => read(&value.text).map(Some).map_err(|rule| value.complaint(rule)),
            Some([_, second, ..]) => Err(second.complaint("takes one value, not a list")),
            Some([]) => bail!("{key} takes one value, not an empty list"),
        }
    }
}

impl Value {
    fn complaint(&self, rule: impl fmt::Display) -> anyhow::Error {
        anyhow!("{} {rule}", self.origin)
    }
}

fn http_host(text: &str) -> Result<String, String> {
    let fits = !text.is_empty()
        && text.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"-._".contains(&octet));
    fits.then(|| text.to_owned()).ok_or_else(|| {
        format!("must be a host's name without a port, such as consul, not `{}`", text.escape_debug())
    })
}

fn underscore(text: &str) -> Result<bool, String> {
    match text {
        "refuse" => Ok(false),
        "hyphen" => Ok(true),
        _ => Err(format!("must be `refuse` or `hyphen`, not `{}`", text.escape_debug())),
    }
}

fn known(key: &str) -> Option<&'static str> {
    KEYS.into_iter().find(|known| *known == key)
}

fn variable_of(key: &str) -> String {
    format!("{VARIABLE_PREFIX}{}", key.to_ascii_uppercase().replace('-', "_"))
}

/// Line and column, both from 1; the column counts characters, as editors do.
fn position(text: &str, at: usize) -> (usize, usize) {
    let before = &text[..text.floor_char_boundary(at)];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

fn scalar(key: &str, value: &DeValue<'_>, origin: String) -> anyhow::Result<Value> {
    let text = match value {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) => number.as_str().to_owned(),
        DeValue::Boolean(yes) => yes.to_string(),
        other => bail!(
            "{origin}: {key} must be a text, a number, true or false, or a list of texts, not a {}",
            other.type_str()
        ),
    };
    Ok(Value { text, origin: format!("{origin}: {key}") })
}

fn domain(text: &str) -> Result<Apex, String> {
    Apex::parse(text).map_err(|unfit| unfit.to_string())
}

fn datacenter(text: &str) -> Result<Datacenter, String> {
    Datacenter::parse(text).map_err(|unfit| unfit.to_string())
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let not = text.escape_debug();
    text.parse().map_err(|_| match text.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => {
            format!("must be an address with a port, such as {address}:{DNS_PORT}, not `{not}`")
        }
        Ok(IpAddr::V6(address)) => {
            format!("must be an address with a port, such as [{address}]:{DNS_PORT}, not `{not}`")
        }
        Err(_) => format!(
            "must be an address with a port, such as 127.0.0.1:{DNS_PORT} or [::1]:{DNS_PORT}, not `{not}`"
        ),
    })
}

fn socket(text: &str) -> Result<PathBuf, String> {
    match text.len() {
        0 => Err("must be a path, not empty".to_owned()),
        1..=SOCKET_PATH_OCTETS_MAX => Ok(PathBuf::from(text)),
        octets => Err(format!(
            "must be a path of at most {SOCKET_PATH_OCTETS_MAX} octets, not {octets}: the kernel takes no longer one"
        )),
    }
}

fn directory(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_dir() {
        Ok(path)
    } else {
        Err(format!("must be a directory, and there is none at `{}`", text.escape_debug()))
    }
}

fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err("must be a path, and it is empty".to_owned()) } else { Ok(PathBuf::from(text)) }
}

fn store(text: &str) -> Result<StoreChoice, String> {
    match text {
        "embedded" => Ok(StoreChoice::Embedded),
        "memory" => Ok(StoreChoice::Memory),
        text if text.starts_with("etcd://") => {
            Err("`etcd` is not there yet; this version has `embedded` and `memory`".to_owned())
        }
        text => Err(format!("must be `embedded` or `memory`, not `{}`", text.escape_debug())),
    }
}

fn advertise(text: &str) -> Result<IpAddr, String> {
    match text.parse::<IpAddr>() {
        Ok(address) if address.is_unspecified() || address.is_multicast() => {
            Err(format!("must be the address that other machines ask, not {address}"))
        }
        Ok(address) => Ok(address.to_canonical()),
        Err(_) => {
            Err(format!("must be an IPv4 or IPv6 address without a port, not `{}`", text.escape_debug()))
        }
    }
}

fn network(text: &str) -> Result<IpNet, String> {
    let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    // 10.0.0.7/8 is a slip of somebody who means one of two very different things.
    match network {
        Ok(network) if network.network() != network.addr() => {
            Err(format!("must be a network, such as {}, or one address; {text} is neither", network.trunc()))
        }
        Ok(network) => Ok(network),
        Err(_) => Err(format!(
            "must be a network such as 10.0.0.0/8 or fd00::/8, or one address, not `{}`",
            text.escape_debug()
        )),
    }
}

fn flag(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        text => Err(format!("must be true or false, not `{}`", text.escape_debug())),
    }
}

fn number<N: TryFrom<u64>>(text: &str, min: u64, max: u64) -> Result<N, String> {
    let rule = || {
        let to = if max == u64::MAX { "on".to_owned() } else { format!("to {max}") };
        format!("must be a number from {min} {to}, not `{}`", text.escape_debug())
    };
    // TOML lets people write 1_000_000.
    let number = text.replace('_', "").parse().ok().filter(|number| (min..=max).contains(number));
    number.and_then(|number| N::try_from(number).ok()).ok_or_else(rule)
}

fn duration(text: &str, max: Duration) -> Result<Duration, String> {
    let rule = || {
        format!(
            "must be a time such as 500ms, 15s or 2m, at most {}, not `{}`",
            format_duration(max),
            text.escape_debug()
        )
    };
    parse_duration(text).filter(|duration| *duration <= max).ok_or_else(rule)
}

fn log(text: &str) -> Result<String, String> {
    match tracing_subscriber::EnvFilter::builder().parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!(
            "must be a filter such as info or callsign=debug, not `{}`: {error}",
            text.escape_debug()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ordinary user in an empty directory with these variables.
    fn around(variables: &[(&str, &str)]) -> Surroundings {
        let own = [("XDG_RUNTIME_DIR", "/run/user/1000"), ("XDG_STATE_HOME", "/var/me/state")];
        let environment =
            own.iter().chain(variables).map(|(name, text)| (name.into(), text.into())).collect();
        Surroundings { environment, root: false, directory: PathBuf::from("/nowhere") }
    }

    fn from_file(text: &str, variables: &[(&str, &str)], flags: Vec<Setting>) -> anyhow::Result<Config> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("callsign.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(Some(&path), flags, &around(variables)).map_err(|error| {
            let error = format!("{error:#}");
            anyhow!(error.replace(&format!("{}/", directory.path().display()), ""))
        })
    }

    fn file_error(text: &str) -> String {
        from_file(text, &[], Vec::new()).unwrap_err().to_string()
    }

    fn flag_error(key: &'static str, text: &str) -> String {
        let flags = vec![Setting::flag(key, vec![text.to_owned()])];
        Config::load(None, flags, &around(&[])).unwrap_err().to_string()
    }

    fn variable_error(name: &str, text: &str) -> String {
        Config::load(None, Vec::new(), &around(&[(name, text)])).unwrap_err().to_string()
    }

    #[test]
    fn nothing_said_is_enough() {
        let config = Config::defaults(&around(&[])).unwrap();
        assert_eq!(config.domain, [Apex::parse("service.local").unwrap()]);
        assert_eq!(config.dns, ["127.0.0.1:5300".parse().unwrap(), "[::1]:5300".parse().unwrap()]);
        assert!(config.dns_is_default && config.listen.is_empty() && config.zones.is_none());
        assert_eq!(config.socket, PathBuf::from("/run/user/1000/callsign.sock"));
        assert_eq!(
            (config.ttl, config.known_for, config.grace),
            (5, Duration::from_secs(60), Duration::ZERO)
        );
        assert_eq!((config.instances_max, config.udp_octets_loopback), (1_000_000, 1232));
    }

    #[test]
    fn the_socket_has_a_directory_of_our_own_or_none() {
        let root = Surroundings { root: true, ..around(&[]) };
        assert_eq!(root.socket(), Some("/run/callsign/callsign.sock".into()));
        let homeless = Surroundings { environment: Vec::new(), ..around(&[]) };
        assert_eq!(homeless.socket(), None);
        let error = Config::defaults(&homeless).unwrap_err().to_string();
        assert!(error.contains("XDG_RUNTIME_DIR") && error.contains("--socket"), "{error}");
        let relative =
            Surroundings { environment: vec![("XDG_RUNTIME_DIR".into(), "run".into())], ..around(&[]) };
        assert_eq!(relative.socket(), None);
    }

    #[test]
    fn zones_are_taken_where_they_are() {
        let directory = tempfile::tempdir().unwrap();
        let here = Surroundings { directory: directory.path().to_owned(), ..around(&[]) };
        assert_eq!(Config::defaults(&here).unwrap().zones, None);
        std::fs::create_dir(directory.path().join("zones")).unwrap();
        assert_eq!(Config::defaults(&here).unwrap().zones, Some(directory.path().join("zones")));
    }

    #[test]
    fn every_source_gives_way_to_the_next() {
        let file = "ttl = 1\nknown-for = \"1m\"\ngrace = 1\ndomain = [\"a.test\", \"b.test\"]\n";
        let variables = [("CALLSIGN_KNOWN_FOR", "2m"), ("CALLSIGN_GRACE", "2s"), ("CALLSIGN_TTL", "")];
        let flags = vec![Setting::flag("grace", vec!["3s".to_owned()])];
        let config = from_file(file, &variables, flags).unwrap();
        assert_eq!(config.ttl, 1, "an empty variable is as good as none");
        assert_eq!(config.known_for, Duration::from_secs(120));
        assert_eq!(config.grace, Duration::from_secs(3));
        // A list is replaced, not joined.
        let flags = vec![Setting::flag("domain", vec!["c.test".to_owned()])];
        assert_eq!(from_file(file, &[], flags).unwrap().domain, [Apex::parse("c.test").unwrap()]);
    }

    #[test]
    fn every_key_can_be_said_everywhere() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().to_str().unwrap();
        let said = [
            ("advertise", "10.0.0.1"),
            ("allow-loopback", "true"),
            ("allow-unauthenticated", "true"),
            ("consul-domain", "consul"),
            ("data", "/var/tmp/callsign"),
            ("datacenter", "dc2"),
            ("dns", "10.0.0.1:53"),
            ("domain", "example.com"),
            ("grace", "1s"),
            ("history-age", "1d"),
            ("history-changes", "7"),
            ("http", "10.0.0.1:5380"),
            ("http-hosts", "consul"),
            ("instances-max", "7"),
            ("known-for", "1s"),
            ("listen", "10.0.0.1:5301"),
            ("log", "debug"),
            ("probe-allow", "10.0.0.0/8"),
            ("probe-commands", "true"),
            ("services", directory),
            ("socket", "/run/x.sock"),
            ("store", "embedded"),
            ("ttl", "7"),
            ("udp-octets-loopback", "4096"),
            ("underscore", "hyphen"),
            ("zones", directory),
        ];
        assert_eq!(said.map(|(key, _)| key), KEYS);
        let flags = said.map(|(key, text)| Setting::flag(key, vec![text.to_owned()])).to_vec();
        let by_flags = Config::load(None, flags, &around(&[])).unwrap();
        let variables: Vec<(String, &str)> =
            said.iter().map(|(key, text)| (variable_of(key), *text)).collect();
        let variables: Vec<(&str, &str)> =
            variables.iter().map(|(name, text)| (name.as_str(), *text)).collect();
        let by_variables = Config::load(None, Vec::new(), &around(&variables)).unwrap();
        let file: String = said.iter().map(|(key, text)| format!("{key} = \"{text}\"\n")).collect();
        let by_file = from_file(&file, &[], Vec::new()).unwrap();
        assert_eq!(by_flags, by_variables);
        assert_eq!(by_flags, by_file);
        assert_ne!(by_flags, Config::defaults(&around(&[])).unwrap());
        assert!(!by_flags.dns_is_default);
    }

    #[test]
    fn lists_of_variables_are_split_at_commas() {
        let config = Config::load(
            None,
            Vec::new(),
            &around(&[("CALLSIGN_DNS", "127.0.0.1:0, [::1]:0"), ("CALLSIGN_SERVER", "x")]),
        )
        .unwrap();
        assert_eq!(config.dns, ["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()]);
    }

    #[test]
    fn complaints_name_the_place_and_the_key() {
        assert_eq!(file_error("ttl = 5\n\n  ttl = 6"), "callsign.toml:3:3: duplicate key in `ttl = 6`");
        assert_eq!(
            file_error("ttl = 301"),
            "callsign.toml:1:7: ttl must be a number from 0 to 300, not `301`"
        );
        assert_eq!(
            file_error("# größer\nlisten = [\"127.0.0.1:1\",\n  \"::1\"]"),
            "callsign.toml:3:3: listen must be an address with a port, such as [::1]:5300, not `::1`"
        );
        assert_eq!(file_error("ttl = [1, 2]"), "callsign.toml:1:11: ttl takes one value, not a list");
        assert_eq!(
            file_error("ttl = 1.5").split(", not").next(),
            Some("callsign.toml:1:7: ttl must be a text, a number, true or false, or a list of texts")
        );
        assert_eq!(
            file_error("dns = []"),
            "dns must not be an empty list; leave the key out to take the default"
        );
        assert!(file_error("ttl = ").starts_with("callsign.toml:1:"), "{}", file_error("ttl = "));
        assert!(
            file_error("[dns]\naddress = 1").contains("callsign.toml:1:"),
            "{}",
            file_error("[dns]\naddress = 1")
        );
        assert_eq!(
            variable_error("CALLSIGN_TTL", "x"),
            "CALLSIGN_TTL must be a number from 0 to 300, not `x`"
        );
        assert_eq!(flag_error("ttl", "-1"), "--ttl must be a number from 0 to 300, not `-1`");
        let missing = Config::load(Some(Path::new("/nowhere/x.toml")), Vec::new(), &around(&[])).unwrap_err();
        assert!(format!("{missing:#}").starts_with("reading /nowhere/x.toml: "), "{missing:#}");
    }

    #[test]
    fn an_unknown_key_names_the_nearest_known_one() {
        let error = file_error("ttl = 1\nknown_for = \"1s\"");
        assert!(
            error.starts_with(
                "callsign.toml:2:1: unknown key `known_for` (did you mean `known-for`?); keys are "
            ),
            "{error}"
        );
        assert!(!file_error("colour = 1").contains("did you mean"));
        assert_eq!(
            variable_error("CALLSIGN_DOMIAN", "x"),
            "CALLSIGN_DOMIAN: unknown variable (did you mean `CALLSIGN_DOMAIN`?)"
        );
        assert_eq!(
            variable_error("CALLSIGN_ttl", "1"),
            "CALLSIGN_ttl: unknown variable (did you mean `CALLSIGN_TTL`?)"
        );
        assert!(!variable_error("CALLSIGN_\x1b[2J", "1").contains('\x1b'));
    }

    #[test]
    fn rules_say_what_to_write() {
        for (key, text, rule) in [
            ("domain", "a..b", "empty"),
            ("domain", ".", "must not be empty"),
            ("consul-domain", "a..b", "empty"),
            ("consul-domain", "service.local", "must be neither the domain service.local."),
            ("consul-domain", "local", "nor above or below it"),
            ("consul-domain", "x.service.local", "nor above or below it"),
            ("datacenter", "a.b", "letters, digits"),
            ("dns", "localhost", "such as 127.0.0.1:5300"),
            ("dns", "10.0.0.1", "such as 10.0.0.1:5300"),
            ("socket", "", "not empty"),
            ("zones", "/nowhere", "must be a directory"),
            ("data", "", "must be a path"),
            ("history-age", "9999d", "at most 3650d"),
            ("history-changes", "-1", "from 0"),
            ("store", "etcd://127.0.0.1:2379", "not there yet"),
            ("store", "redis", "must be `embedded` or `memory`"),
            ("advertise", "0.0.0.0", "that other machines ask"),
            ("advertise", "ns.example.com", "without a port"),
            ("known-for", "1w", "such as 500ms"),
            ("known-for", "25h", "at most 24h"),
            ("grace", "61s", "at most 60s"),
            ("instances-max", "0", "from 1 on"),
            ("udp-octets-loopback", "511", "from 512 to 65507"),
            ("allow-loopback", "yes", "true or false"),
            ("log", "callsign=loud", "must be a filter"),
            ("probe-allow", "10.0.0.0/33", "such as 10.0.0.0/8"),
            ("probe-allow", "10.0.0.7/8", "such as 10.0.0.0/8"),
            ("probe-commands", "yes", "true or false"),
        ] {
            let error = flag_error(key, text);
            assert!(error.starts_with(&format!("--{key} ")) && error.contains(rule), "{error}");
        }
        let long = flag_error("socket", &format!("/{}", "x".repeat(SOCKET_PATH_OCTETS_MAX)));
        assert!(long.contains("at most 107 octets, not 108"), "{long}");
    }

    #[test]
    fn a_list_holds_nothing_twice_but_free_ports() {
        let flags = |texts: [&str; 2]| vec![Setting::flag("dns", texts.map(str::to_owned).to_vec())];
        let error = Config::load(None, flags(["127.0.0.1:53", "127.0.0.1:53"]), &around(&[])).unwrap_err();
        assert_eq!(error.to_string(), "--dns names `127.0.0.1:53` twice");
        assert_eq!(
            Config::load(None, flags(["127.0.0.1:0", "127.0.0.1:0"]), &around(&[])).unwrap().dns.len(),
            2
        );
    }

    #[test]
    fn an_open_listener_has_to_be_asked_for_by_name() {
        for open in ["0.0.0.0:5301", "[::]:5301", "10.0.0.1:5301", "[::ffff:10.0.0.1]:5301"] {
            let error = flag_error("listen", open);
            assert!(
                error.contains("no authentication") && error.contains("allow-unauthenticated"),
                "{error}"
            );
            let flags = vec![
                Setting::flag("listen", vec![open.to_owned()]),
                Setting::flag("allow-unauthenticated", vec!["true".to_owned()]),
            ];
            assert!(Config::load(None, flags, &around(&[])).is_ok());
        }
        for closed in ["127.0.0.1:5301", "127.9.9.9:5301", "[::1]:5301", "[::ffff:127.0.0.1]:5301"] {
            let flags = vec![Setting::flag("listen", vec![closed.to_owned()])];
            assert!(Config::load(None, flags, &around(&[])).is_ok(), "{closed}");
        }
    }
}
