//! Where probes may go: decided by the address, and the connection is to the address that was decided on.
//!
//! Who may register may name any target, so a server that probes whatever it is told is a way into every network that
//! it can reach, and its outputs are a way out. So a probe goes to the addresses of the instance itself or of its
//! host, to loopback, and to the networks that the operator lists. A name is resolved once, here, and never again on
//! the way to the connection: an answer that changes in between (DNS rebinding) has nothing to change.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use ipnet::IpNet;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::probe::{Failure, cause};
use crate::check::Place;
use crate::instance::{Host, Instance};

/// Names resolved at once. Each takes a thread until the system's resolver gives up, longer than any probe waits for
/// it; of the runtime's 512 the store and others need some.
const LOOKUPS_MAX: usize = 64;
/// Addresses of one name that are tried: who has more answers under each of them.
const TRIED_MAX: usize = 4;

/// Where clouds give out the credentials of a machine to whoever asks from it, beside link-local addresses: AWS and Google over
/// IPv6, Alibaba, Azure.
const CREDENTIALS: [IpAddr; 4] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
];

/// Whose check it is, as it was when the probe began.
#[derive(Clone, Debug, Default)]
pub struct Whose {
    pub instance: Option<Arc<Instance>>,
    pub host: Option<Arc<Host>>,
}

/// See the module's own words.
#[derive(Debug)]
pub struct Reach {
    allow: Vec<IpNet>,
    /// Where this server itself takes registrations and HTTP.
    own: Vec<SocketAddr>,
    /// The ports of the etcd that keeps the registry; none where nothing of that kind does.
    store: Vec<u16>,
    lookups: Arc<Semaphore>,
}

impl Whose {
    fn has(&self, address: IpAddr) -> bool {
        let own = self.instance.as_ref().map(|instance| instance.addresses()).unwrap_or_default();
        let of_host = self.host.as_ref().map(|host| host.addresses.as_slice()).unwrap_or_default();
        own.iter().chain(of_host).any(|known| known.to_canonical() == address)
    }

    fn name(&self) -> String {
        match (&self.instance, &self.host) {
            (Some(instance), _) => format!("{} or its host", instance.key),
            (None, Some(host)) => format!("the host {}", host.name),
            (None, None) => "what it is a check of".to_owned(),
        }
    }
}

impl Reach {
    pub fn new(allow: Vec<IpNet>, own: Vec<SocketAddr>, store: Vec<u16>) -> Self {
        Self { allow, own, store, lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)) }
    }

    /// The same for who will say there what somebody else chose. What keeps the registry takes that for this server's own words,
    /// and has more addresses than we are told of (each member, each of its interfaces): so its ports are out of bounds anywhere.
    pub async fn connect_to_speak(&self, at: &Place, whose: &Whose) -> Result<TcpStream, Failure> {
        if self.store.contains(&at.port) {
            let text = format!(
                "not probed: {} is a port of the etcd that keeps this server's registry; a check over `tcp` may go there",
                at.port
            );
            return Err(Failure::Target(text));
        }
        self.connect(at, whose).await
    }

    /// A connection to a place that may be probed; or in words, why there is none.
    pub async fn connect(&self, at: &Place, whose: &Whose) -> Result<TcpStream, Failure> {
        let found = self.resolve(at).await?;
        let allowed = found.iter().map(|address| address.ip()).filter(|ip| self.allows(*ip, whose));
        let allowed: Vec<IpAddr> = allowed.take(TRIED_MAX).collect();
        if allowed.is_empty() {
            return Err(refusal(at, &found, whose).into());
        }
        let mut first = None;
        for ip in allowed {
            let address = SocketAddr::new(ip, at.port);
            match TcpStream::connect(address).await {
                Ok(stream) if self.is_own(&stream) => {
                    let text = format!(
                        "not probed: {address} is this server itself, which `callsign status` tells of"
                    );
                    return Err(Failure::Target(text));
                }
                Ok(stream) => {
                    // Nothing more can be said of a socket that does not take the option; the probe says the rest.
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Err(error) => {
                    let failure = Failure::system(&format!("connecting to {address}: "), &error);
                    first.get_or_insert(failure);
                }
            }
        }
        // Of several, the first is where most would have gone.
        Err(first.unwrap_or(Failure::Target("the name has no address".to_owned())))
    }

    fn allows(&self, address: IpAddr, whose: &Whose) -> bool {
        let address = address.to_canonical();
        if self.allow.iter().any(|network| network.contains(&address)) {
            return true;
        }
        // A link-local address is anybody's to claim, and that of cloud machines gives out their credentials.
        let link_local = match address {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        address.is_loopback() || (whose.has(address) && !link_local && !CREDENTIALS.contains(&address))
    }

    /// True where a connection ends at this server's own way in. There a check would speak as this machine, which is trusted
    /// with more than whoever registered it.
    fn is_own(&self, stream: &TcpStream) -> bool {
        let (Ok(here), Ok(there)) = (stream.local_addr(), stream.peer_addr()) else { return true };
        let address = there.ip().to_canonical();
        let on_this_machine = address.is_loopback() || address == here.ip().to_canonical();
        let is_at = |own: IpAddr| own.is_unspecified() || own.to_canonical() == address;
        on_this_machine && self.own.iter().any(|own| own.port() == there.port() && is_at(own.ip()))
    }

    async fn resolve(&self, at: &Place) -> Result<Vec<SocketAddr>, String> {
        if let Ok(address) = at.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, at.port)]);
        }
        if at.host.eq_ignore_ascii_case("localhost") {
            let both = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
            return Ok(both.map(|address| SocketAddr::new(address, at.port)).to_vec());
        }
        let failed = |why: String| format!("resolving {}: {why}", at.host);
        let Ok(place) = self.lookups.clone().acquire_owned().await else {
            return Err(failed("the server is stopping".to_owned()));
        };
        let target = (at.host.to_string(), at.port);
        // Not tokio's own look-up: the place is free when the thread is, and not when nobody waits for it any more.
        let lookup = tokio::task::spawn_blocking(move || {
            let found = target.to_socket_addrs().map(Vec::from_iter);
            drop(place);
            found
        });
        match lookup.await {
            Ok(Ok(found)) if found.is_empty() => Err(failed("the name has no address".to_owned())),
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error)) => Err(failed(cause(&error))),
            Err(error) => Err(failed(error.to_string())),
        }
    }
}

fn refusal(at: &Place, found: &[SocketAddr], whose: &Whose) -> String {
    let addresses: Vec<String> = found.iter().take(TRIED_MAX).map(|found| found.ip().to_string()).collect();
    let addresses = addresses.join(", ");
    let named = match at.host.parse::<IpAddr>() {
        Ok(_) => addresses,
        Err(_) => format!("{} ({addresses})", at.host),
    };
    format!(
        "not probed: {named} is neither an address of {} nor loopback; the server's key `probe-allow` lists where else probes may go",
        whose.name()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::HostName;

    fn allows(allow: &[&str], address: &str) -> bool {
        let reach = Reach::new(
            allow.iter().map(|network| network.parse().unwrap()).collect(),
            Vec::new(),
            Vec::new(),
        );
        let own =
            ["10.0.0.7", "2001:db8::7", "169.254.169.254", "fe80::7", "fd00:ec2::254", "100.100.100.200"];
        let addresses = own.map(|address| address.parse().unwrap()).to_vec();
        let host = Host { addresses, ..Host::new(HostName::parse("m").unwrap()) };
        reach.allows(address.parse().unwrap(), &Whose { instance: None, host: Some(Arc::new(host)) })
    }

    #[test]
    fn probes_go_to_their_own_addresses_loopback_and_what_is_listed() {
        for (allow, address, allowed) in [
            (&[][..], "127.0.0.1", true),
            (&[], "127.9.9.9", true),
            (&[], "::1", true),
            (&[], "::ffff:127.0.0.1", true),
            (&[], "10.0.0.7", true),
            (&[], "::ffff:10.0.0.7", true),
            (&[], "2001:db8::7", true),
            (&[], "10.0.0.8", false),
            (&[], "2001:db8::8", false),
            (&[], "0.0.0.0", false),
            (&[], "::", false),
            (&[], "169.254.169.254", false),
            (&[], "fe80::7", false),
            (&[], "fd00:ec2::254", false),
            (&[], "100.100.100.200", false),
            (&["fd00::/8"], "fd00:ec2::254", true),
            (&["10.0.0.0/29"], "10.0.0.8", false),
            (&["10.0.0.0/28"], "10.0.0.8", true),
            (&["10.0.0.0/28"], "::ffff:10.0.0.8", true),
            (&["169.254.0.0/16"], "169.254.169.254", true),
            (&["2001:db8::/32", "10.9.0.0/16"], "2001:db8:9::1", true),
        ] {
            assert_eq!(allows(allow, address), allowed, "{address} with {allow:?}");
        }
    }
}
