//! What was given becomes a configuration, or a list of what is wrong with it and what to write instead.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{anyhow, bail};

use super::sources::Given;
use super::values::{
    account, address, advertise, advertise_listen, allowed, confine, cookie_secret, datacenter, directory,
    domain, duration, flag, http_address, http_host, log, log_format, network, node, nsid, number, path,
    region, rule, secondary, socket, special_name, store, underscore, updater, upstream,
};
use super::{
    CLIENTS_MAX, CertificateChoice, Config, DATACENTER_DEFAULT, DNS_PORT, GRACE_MAX, HISTORY_AGE_MAX,
    HTTP_PORT, KNOWN_FOR_MAX, REGIONS_MAX, REVERSE_MAX, STALE_FOR_MAX, StoreChoice, Surroundings,
    TTL_DEFAULT, UDP_OCTETS_DEFAULT, UDP_OCTETS_MAX, UDP_OCTETS_MIN, this_machine,
};
use crate::access::{OWNED_MAX, RULES_MAX};
use crate::dns::cookie::{self, Secret};
use crate::dns::forward::UPSTREAMS_MAX;
use crate::dns::limit::REPLIES_PER_SECOND_MAX;
use crate::dns::notify::SECONDARIES_MAX;
use crate::dns::transfer::Allowed;
use crate::name::{Apex, Datacenter};
use crate::protocol::whole_seconds;
use crate::registry::{FORGET_AFTER, INSTANCES_MAX};
use crate::store::{Limits, etcd};

/// Where DNS and HTTP are served unless somebody says otherwise; HTTP on the first alone.
const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
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

impl Given {
    /// The one place of defaults: each key, and what holds where nothing is said.
    pub(super) fn config(&self, around: &Surroundings) -> anyhow::Result<Config> {
        let store = self.one("store", store)?.unwrap_or(StoreChoice::Embedded);
        let limits = Limits::default();
        self.judged(Config {
            domain: self.list("domain", domain)?.unwrap_or_else(domain_default),
            consul_domain: self.one("consul-domain", domain)?,
            datacenter: self.one("datacenter", datacenter)?.unwrap_or_else(datacenter_default),
            dns: self.list("dns", address)?.unwrap_or_else(dns_default),
            dns_is_default: !self.0.contains_key("dns"),
            dot: self.list("dot", address)?.unwrap_or_default(),
            doh: self.list("doh", address)?.unwrap_or_default(),
            doq: self.list("doq", address)?.unwrap_or_default(),
            certificate: self.certificate()?,
            socket: self.socket(around)?,
            listen: self.list("listen", address)?.unwrap_or_default(),
            http: self.http()?,
            http_hosts: self.list("http-hosts", http_host)?.unwrap_or_default(),
            underscore_is_hyphen: self.one("underscore", underscore)?.unwrap_or(false),
            allow_unauthenticated: self.one("allow-unauthenticated", flag)?.unwrap_or(false),
            zones: self.zones(around)?,
            services: self.one("services", directory)?,
            allow_empty: self.one("allow-empty", flag)?.unwrap_or(false),
            data: self.data(&store, around)?,
            node: self.one("node", node)?,
            etcd: self.etcd(&store)?,
            store,
            history_changes: self.one("history-changes", any_number)?.unwrap_or(limits.history_changes),
            history_age: self.one("history-age", history_age)?.unwrap_or(limits.history_age),
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
            ttl: self.one("ttl", whole_seconds)?.unwrap_or(TTL_DEFAULT),
            known_for: self.one("known-for", |text| duration(text, KNOWN_FOR_MAX))?.unwrap_or(FORGET_AFTER),
            instances_max: self.one("instances-max", at_least_one)?.unwrap_or(INSTANCES_MAX),
            identity_instances_max: self.one("identity-instances-max", at_least_one)?.unwrap_or(OWNED_MAX),
            allow_loopback: self.one("allow-loopback", flag)?.unwrap_or(false),
            udp_octets_loopback: self.one("udp-octets-loopback", udp_octets)?.unwrap_or(UDP_OCTETS_DEFAULT),
            rate_limit: self.one("rate-limit", rate_limit)?.unwrap_or(0),
            nsid: self.one("nsid", nsid)?,
            cookie_secret: self.cookie_secrets()?,
            query_allow: self.list("query-allow", network)?,
            tsig_keys: self.list("tsig-keys", path)?.unwrap_or_default(),
            dnssec_keys: self.one("dnssec-keys", path)?,
            transfer_allow: self.list("transfer-allow", allowed)?.unwrap_or_else(whoever_is_here),
            update_allow: self.list("update-allow", updater)?.unwrap_or_default(),
            notify: self.list("notify", secondary)?.unwrap_or_default(),
            forward: self.list("forward", upstream)?.unwrap_or_default(),
            forward_allow: self.list("forward-allow", network)?.unwrap_or_else(this_machine),
            forward_special: self.list("forward-special", special_name)?.unwrap_or_default(),
            forward_trust_ad: self.one("forward-trust-ad", flag)?.unwrap_or(false),
            claim_local: self.one("claim-local", flag)?.unwrap_or(false),
            log: self.log(around)?,
            log_format: self.one("log-format", log_format)?.unwrap_or_default(),
            grace: self.one("grace", |text| duration(text, GRACE_MAX))?.unwrap_or_default(),
            probe_allow: self.list("probe-allow", network)?.unwrap_or_default(),
            probe_commands: self.one("probe-commands", flag)?.unwrap_or(false),
            confine: self.one("confine", confine)?.unwrap_or(true),
            confine_read: self.list("confine-read", path)?.unwrap_or_default(),
        })
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

    /// The registration socket.
    fn socket(&self, around: &Surroundings) -> anyhow::Result<PathBuf> {
        match self.one("socket", socket)? {
            Some(path) => Ok(path),
            None => around.socket().ok_or_else(|| {
                anyhow!("socket: there is no directory of your own to put it in, because XDG_RUNTIME_DIR is not set; name a path that only you can write to with --socket")
            }),
        }
    }

    /// Where HTTP is served; `none` is nowhere.
    fn http(&self) -> anyhow::Result<Vec<SocketAddr>> {
        match self.0.get("http").map(Vec::as_slice) {
            Some([none]) if none.text == "none" => Ok(Vec::new()),
            _ => Ok(self
                .list("http", http_address)?
                .unwrap_or_else(|| vec![SocketAddr::new(LOOPBACK[0], HTTP_PORT)])),
        }
    }

    /// The directory of static zones: `zones` where the server was started, if there is one.
    fn zones(&self, around: &Surroundings) -> anyhow::Result<Option<PathBuf>> {
        Ok(match self.one("zones", directory)? {
            Some(path) => Some(path),
            None => Some(around.directory.join("zones")).filter(|path| path.is_dir()),
        })
    }

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

    /// What is logged: as the key says, as other programs in Rust are told, or `info`.
    fn log(&self, around: &Surroundings) -> anyhow::Result<String> {
        match self.one("log", log)? {
            Some(filter) => Ok(filter),
            None => Ok(around.rust_log()?.unwrap_or_else(|| "info".to_owned())),
        }
    }

    /// What no key says alone: who needs another, who may not be with another, and of what there is too much.
    fn judged(&self, config: Config) -> anyhow::Result<Config> {
        self.each_of_use(&config)?;
        self.authenticated(&config)?;
        self.certified(&config)?;
        self.one_grammar_a_name(&config)?;
        self.few_networks(&config)?;
        self.few_upstreams(&config)?;
        self.few_secondaries(&config)?;
        Ok(config)
    }

    /// What would do nothing without another key is a mistake, and is not passed over.
    fn each_of_use(&self, config: &Config) -> anyhow::Result<()> {
        if !config.confine_read.is_empty() && (config.probe_commands || !config.confine) {
            bail!(
                "{} is of no use: nothing is confined where `confine` is `none` or `probe-commands` is true",
                self.0["confine-read"][0].origin
            );
        }
        if config.group.is_some() && config.user.is_none() {
            bail!("{} needs `user`: nobody else is become", self.0["group"][0].origin);
        }
        if config.advertise_listen.is_some() && config.listen.is_empty() {
            bail!(
                "{} needs `listen`: nobody takes registrations there",
                self.0["advertise-listen"][0].origin
            );
        }
        let of_forwarding = ["forward-allow", "forward-special"].into_iter();
        let mut of_forwarding = of_forwarding.chain(config.forward_trust_ad.then_some("forward-trust-ad"));
        if config.forward.is_empty()
            && let Some(set) = of_forwarding.find_map(|key| self.0.get(key)?.first())
        {
            bail!("{} needs `forward`: no names are forwarded", set.origin);
        }
        Ok(())
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

    fn few_networks(&self, config: &Config) -> anyhow::Result<()> {
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

    fn few_secondaries(&self, config: &Config) -> anyhow::Result<()> {
        if config.notify.len() > SECONDARIES_MAX {
            bail!(
                "{} is one secondary more than {SECONDARIES_MAX}; let others follow one of them",
                self.0["notify"][SECONDARIES_MAX].origin
            );
        }
        Ok(())
    }
}

fn domain_default() -> Vec<Apex> {
    vec![Apex::parse("service.local").expect("the default domain is a name")]
}

fn datacenter_default() -> Datacenter {
    Datacenter::parse(DATACENTER_DEFAULT).expect("the default is a name")
}

fn dns_default() -> Vec<SocketAddr> {
    LOOPBACK.map(|address| SocketAddr::new(address, DNS_PORT)).to_vec()
}

/// Who is on this machine may have whole zones.
fn whoever_is_here() -> Vec<Allowed> {
    let network = |network| Allowed { network: Some(network), key: None };
    this_machine().into_iter().map(network).collect()
}

fn any_number(text: &str) -> Result<u64, String> {
    number(text, 0, u64::MAX)
}

fn at_least_one(text: &str) -> Result<usize, String> {
    number(text, 1, u64::MAX)
}

fn history_age(text: &str) -> Result<Duration, String> {
    duration(text, HISTORY_AGE_MAX)
}

fn udp_octets(text: &str) -> Result<u16, String> {
    number(text, UDP_OCTETS_MIN.into(), UDP_OCTETS_MAX.into())
}

fn rate_limit(text: &str) -> Result<u32, String> {
    number(text, 0, REPLIES_PER_SECOND_MAX.into())
}
