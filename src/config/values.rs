//! What one text of a key means, and what is wrong with it.
//!
//! A complaint is the rest of a sentence that begins with the key and its place.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use tracing_subscriber::filter::LevelFilter;

use super::{DNS_PORT, EtcdChoice, HTTP_PORT, LogFormat, StoreChoice};
use crate::access::Rule;
use crate::store::etcd::Endpoint;

/// Where etcd answers its clients.
const ETCD_PORT: u16 = 2379;
/// Members of etcd that are tried in turn: its clusters have three, five or seven.
const ENDPOINTS_MAX: usize = 16;
/// What keys begin with where nothing is said.
const PREFIX_DEFAULT: &str = "/callsign/";
/// Octets of a prefix, which every key has.
const PREFIX_OCTETS_MAX: usize = 64;
/// Octets of a node's name.
const NODE_OCTETS_MAX: usize = 63;

use crate::balance::Region;
use crate::dns::cookie::{SECRET_OCTETS, Secret};
use crate::dns::edns::NSID_OCTETS_MAX;
use crate::dns::forward::{Source, resolv_conf};
use crate::dns::transfer::Allowed;
use crate::name::{Apex, Datacenter, Name, is_ldh_label};
use crate::special;
use crate::time::{format_duration, parse_duration};

/// Longest path of a Unix socket: `sun_path` of Linux holds 108 octets with the final zero.
pub const SOCKET_PATH_OCTETS_MAX: usize = 107;

pub fn account(text: &str) -> Result<String, String> {
    match text.is_empty() || text.contains(['\0', ':', '/']) {
        true => Err(format!("must be a name as the system's users have, not `{}`", text.escape_debug())),
        false => Ok(text.to_owned()),
    }
}

pub fn rule(text: &str) -> Result<Rule, String> {
    Rule::parse(text)
}

pub fn http_host(text: &str) -> Result<String, String> {
    let fits = !text.is_empty()
        && text.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"-._".contains(&octet));
    fits.then(|| text.to_owned()).ok_or_else(|| {
        format!("must be a host's name without a port, such as consul, not `{}`", text.escape_debug())
    })
}

pub fn underscore(text: &str) -> Result<bool, String> {
    match text {
        "refuse" => Ok(false),
        "hyphen" => Ok(true),
        _ => Err(format!("must be `refuse` or `hyphen`, not `{}`", text.escape_debug())),
    }
}

pub fn confine(text: &str) -> Result<bool, String> {
    match text {
        "files" => Ok(true),
        "none" => Ok(false),
        _ => Err(format!("must be `files` or `none`, not `{}`", text.escape_debug())),
    }
}

pub fn nsid(text: &str) -> Result<String, String> {
    let fits = (1..=NSID_OCTETS_MAX).contains(&text.len()) && !text.contains(char::is_control);
    fits.then(|| text.to_owned()).ok_or_else(|| {
        format!(
            "must be a name of 1 to {NSID_OCTETS_MAX} octets without control characters, not `{}`",
            text.escape_debug()
        )
    })
}

pub fn cookie_secret(text: &str) -> Result<Secret, String> {
    let digits: Option<Vec<u8>> = text.chars().map(|digit| Some(digit.to_digit(16)? as u8)).collect();
    let octets =
        digits.unwrap_or_default().chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect::<Vec<u8>>();
    let secret = octets.try_into().ok().filter(|_| text.len() == 2 * SECRET_OCTETS);
    secret.map(Secret).ok_or_else(|| {
        format!(
            "must be {} hexadecimal digits, such as `openssl rand -hex {SECRET_OCTETS}` prints",
            2 * SECRET_OCTETS
        )
    })
}

pub fn domain(text: &str) -> Result<Apex, String> {
    Apex::parse(text).map_err(|unfit| unfit.to_string())
}

pub fn datacenter(text: &str) -> Result<Datacenter, String> {
    Datacenter::parse(text).map_err(|unfit| unfit.to_string())
}

pub fn address(text: &str) -> Result<SocketAddr, String> {
    address_such_as(text, DNS_PORT)
}

pub fn http_address(text: &str) -> Result<SocketAddr, String> {
    address_such_as(text, HTTP_PORT).map_err(|rule| format!("{rule}; `none` is nowhere"))
}

fn address_such_as(text: &str, port: u16) -> Result<SocketAddr, String> {
    let not = text.escape_debug();
    text.parse().map_err(|_| match text.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => {
            format!("must be an address with a port, such as {address}:{port}, not `{not}`")
        }
        Ok(IpAddr::V6(address)) => {
            format!("must be an address with a port, such as [{address}]:{port}, not `{not}`")
        }
        Err(_) => {
            format!("must be an address with a port, such as 127.0.0.1:{port} or [::1]:{port}, not `{not}`")
        }
    })
}

pub fn upstream(text: &str) -> Result<Source, String> {
    if text == "system" {
        return Ok(Source::System);
    }
    let address = text.parse().or_else(|_| {
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        bare.parse().map(|ip: IpAddr| SocketAddr::new(ip, resolv_conf::PORT))
    });
    match address {
        Ok(address)
            if address.ip().is_unspecified() || address.ip().is_multicast() || address.port() == 0 =>
        {
            Err(format!("must be the address of one server, not {address}"))
        }
        Ok(address) => Ok(Source::Server(address)),
        Err(_) => Err(format!(
            "must be `system` or the address of a name server, such as 192.0.2.1, 192.0.2.1:5353 or [2001:db8::1]:53, not `{}`",
            text.escape_debug()
        )),
    }
}

/// `NETWORK`, `key:NAME`, or both with a blank between.
pub fn allowed(text: &str) -> Result<Allowed, String> {
    let mut allowed = Allowed { network: None, key: None };
    for word in text.split_whitespace() {
        match word.strip_prefix("key:") {
            Some(name) if allowed.key.is_none() => allowed.key = Some(key_name(name)?),
            None if allowed.network.is_none() => {
                let rule = |rule: String| format!("{rule}; a key has `key:` in front of its name");
                allowed.network = Some(network(word).map_err(rule)?);
            }
            _ => return Err("must be one network, one key, or one of each".to_owned()),
        }
    }
    match allowed == (Allowed { network: None, key: None }) {
        true => {
            Err("must be a network such as 10.0.0.0/8, a key such as key:secondaries, or both".to_owned())
        }
        false => Ok(allowed),
    }
}

/// `key:NAME`, and perhaps a network.
pub fn updater(text: &str) -> Result<Allowed, String> {
    match allowed(text)? {
        Allowed { key: None, .. } => Err(
            "must name a key, such as key:dhcp or `10.0.0.0/8 key:dhcp`: nobody changes the zone without one"
                .to_owned(),
        ),
        allowed => Ok(allowed),
    }
}

/// `ADDR`, `ADDR:PORT`, and perhaps `key:NAME` behind it.
pub fn secondary(text: &str) -> Result<(SocketAddr, Option<Name>), String> {
    let (address, key) = match text.split_once(char::is_whitespace) {
        Some((address, key)) => (address, Some(key.trim())),
        None => (text, None),
    };
    let key = match key {
        None => None,
        Some(word) => Some(key_name(word.strip_prefix("key:").unwrap_or_default())?),
    };
    match upstream(address) {
        Ok(Source::Server(address)) => Ok((address, key)),
        _ => Err(format!(
            "must be the address of a secondary, such as 192.0.2.1, or `[2001:db8::1]:53 key:secondaries`, not `{}`",
            text.escape_debug()
        )),
    }
}

fn key_name(text: &str) -> Result<Name, String> {
    let name = Name::parse(text).ok().filter(|name| !name.is_root());
    name.ok_or_else(|| {
        format!(
            "must name a key as key:NAME, as the file in `tsig-keys` spells it, not `{}`",
            text.escape_debug()
        )
    })
}

pub fn special_name(text: &str) -> Result<Name, String> {
    let name = Name::parse(text).map_err(|error| format!("must be a name: {error}"))?;
    match special::may_be_forwarded(&name) {
        true => Ok(name),
        false => Err(format!("must be a name that others may know, not {name}: it is answered here")),
    }
}

pub fn socket(text: &str) -> Result<PathBuf, String> {
    match text.len() {
        0 => Err("must be a path, not empty".to_owned()),
        1..=SOCKET_PATH_OCTETS_MAX => Ok(PathBuf::from(text)),
        octets => Err(format!(
            "must be a path of at most {SOCKET_PATH_OCTETS_MAX} octets, not {octets}: the kernel takes no longer one"
        )),
    }
}

pub fn directory(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_dir() {
        Ok(path)
    } else {
        Err(format!("must be a directory, and there is none at `{}`", text.escape_debug()))
    }
}

pub fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err("must be a path, and it is empty".to_owned()) } else { Ok(PathBuf::from(text)) }
}

pub fn store(text: &str) -> Result<StoreChoice, String> {
    match text {
        "embedded" => return Ok(StoreChoice::Embedded),
        "memory" => return Ok(StoreChoice::Memory),
        _ => {}
    }
    let (tls, rest) = match (text.strip_prefix("etcd://"), text.strip_prefix("etcds://")) {
        (Some(rest), _) => (false, rest),
        (None, Some(rest)) => (true, rest),
        (None, None) => {
            return Err(format!(
                "must be `embedded`, `memory` or `etcd://HOST:PORT[,HOST:PORT…][/PREFIX]`, not `{}`",
                text.escape_debug()
            ));
        }
    };
    let (endpoints, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let endpoints: Vec<Endpoint> = endpoints.split(',').map(endpoint).collect::<Result<_, _>>()?;
    if endpoints.len() > ENDPOINTS_MAX {
        return Err(format!(
            "names {} members of etcd; {ENDPOINTS_MAX} are enough to find it",
            endpoints.len()
        ));
    }
    let prefix = match prefix.trim_matches('/') {
        "" => PREFIX_DEFAULT.to_owned(),
        prefix
            if prefix.bytes().all(|octet| octet.is_ascii_graphic()) && prefix.len() <= PREFIX_OCTETS_MAX =>
        {
            format!("/{prefix}/")
        }
        prefix => {
            return Err(format!(
                "must have a prefix of at most {PREFIX_OCTETS_MAX} printable ASCII characters, not `{}`",
                prefix.escape_debug()
            ));
        }
    };
    Ok(StoreChoice::Etcd(EtcdChoice { endpoints, prefix, tls }))
}

fn endpoint(text: &str) -> Result<Endpoint, String> {
    let unfit = || format!("must name each member of etcd as HOST:PORT, not `{}`", text.escape_debug());
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            (host, port.parse().map_err(|_| unfit())?)
        }
        _ => (text, ETCD_PORT),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_name = host.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"-._".contains(&octet));
    match (host.parse::<IpAddr>(), is_name && !host.is_empty() && port > 0) {
        (Ok(_), _) | (Err(_), true) => Ok(Endpoint { host: host.to_owned(), port }),
        (Err(_), false) => Err(unfit()),
    }
}

/// What this node is called among the others: a name in keys of etcd, in logs and in tables.
pub fn node(text: &str) -> Result<String, String> {
    let fits = |octet: u8| octet.is_ascii_alphanumeric() || b"-._:".contains(&octet);
    match !text.is_empty() && text.len() <= NODE_OCTETS_MAX && text.bytes().all(fits) {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "must be letters, digits, `-`, `.`, `_` and `:`, at most {NODE_OCTETS_MAX} of them, not `{}`",
            text.escape_debug()
        )),
    }
}

pub fn advertise(text: &str) -> Result<IpAddr, String> {
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

/// Where others come to, which a port 0 and the address of every interface are not.
pub fn advertise_listen(text: &str) -> Result<SocketAddr, String> {
    match text.parse::<SocketAddr>() {
        Ok(at) if at.port() > 0 && advertise(&at.ip().to_string()).is_ok() => Ok(at),
        _ => Err(format!(
            "must be the address and port that other machines connect to, such as 10.0.0.1:5301, not `{}`",
            text.escape_debug()
        )),
    }
}

/// `eu=10.1.0.0/16`
pub fn region(text: &str) -> Result<Region, String> {
    match text.split_once('=') {
        Some((name, given)) if is_ldh_label(name.as_bytes()) => {
            Ok(Region { name: name.into(), network: network(given)? })
        }
        _ => Err(format!(
            "must be a region and a network of it, such as eu=10.1.0.0/16, not `{}`",
            text.escape_debug()
        )),
    }
}

pub fn network(text: &str) -> Result<IpNet, String> {
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

pub fn flag(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        text => Err(format!("must be true or false, not `{}`", text.escape_debug())),
    }
}

pub fn number<N: TryFrom<u64>>(text: &str, min: u64, max: u64) -> Result<N, String> {
    let rule = || {
        let to = if max == u64::MAX { "on".to_owned() } else { format!("to {max}") };
        format!("must be a number from {min} {to}, not `{}`", text.escape_debug())
    };
    // TOML lets people write 1_000_000.
    let number = text.replace('_', "").parse().ok().filter(|number| (min..=max).contains(number));
    number.and_then(|number| N::try_from(number).ok()).ok_or_else(rule)
}

pub fn duration(text: &str, max: Duration) -> Result<Duration, String> {
    let rule = || {
        format!(
            "must be a time such as 500ms, 15s or 2m, at most {}, not `{}`",
            format_duration(max),
            text.escape_debug()
        )
    };
    parse_duration(text).filter(|duration| *duration <= max).ok_or_else(rule)
}

/// A filter in which a word alone is a level: a misspelt one would name a part that nobody logs for, and all would be silent.
pub fn log(text: &str) -> Result<String, String> {
    let is_level = |word: &str| word.parse::<LevelFilter>().is_ok();
    let mut alone = text.split(',').map(str::trim).filter(|word| !word.is_empty() && !word.contains('='));
    match alone.find(|word| !text.contains('[') && !is_level(word)) {
        None => filter(text),
        Some(word) => Err(format!(
            "must be levels and parts: `{}` is none of error, warn, info, debug, trace, off",
            word.escape_debug()
        )),
    }
}

/// Whatever programs in Rust take for a filter of their logs.
pub fn filter(text: &str) -> Result<String, String> {
    match tracing_subscriber::EnvFilter::builder().parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!(
            "must be a filter such as info or callsign=debug, not `{}`: {error}",
            text.escape_debug()
        )),
    }
}

pub fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "auto" => Ok(LogFormat::Auto),
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        "journald" => Ok(LogFormat::Journald),
        other => Err(format!("must be auto, text, json or journald, not `{}`", other.escape_debug())),
    }
}
