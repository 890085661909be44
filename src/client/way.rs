//! The way to a server, or to the next of several where one is lost.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use tokio_rustls::rustls::pki_types::ServerName;

use super::{Client, ClientError};
use crate::config::Surroundings;
use crate::connections::tls::Trust;
use crate::protocol::{HelloForm, InstanceForm, Reply, Request, Secret};

/// Servers that one client may be given: each is waited for in turn.
pub const SERVERS_MAX: usize = 16;
/// How long a connection may take where there is another server to try: enough for one lost packet of its beginning, and so
/// short that a connection-bound instance finds the last of a few within its grace.
const NEXT_AFTER: Duration = Duration::from_secs(2);

/// Where a server's registration socket is: `unix:PATH` or `ADDR:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Server {
    Unix(PathBuf),
    Tcp(SocketAddr),
    /// Over TLS, at a host that the server's certificate names.
    Tls(String, u16),
}

impl Server {
    /// Where a server of the same user is that was told nothing; `None` where it must be told.
    pub fn usual(around: &Surroundings) -> Option<Self> {
        around.socket().map(Self::Unix)
    }
}

impl FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            // `unix:///run/x` is what URLs look like; the path is the same.
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() {
                Err("the path after `unix:` is missing".to_owned())
            } else {
                Ok(Self::Unix(path.into()))
            };
        }
        if let Some(place) = text.strip_prefix("tls:") {
            let place = place.strip_prefix("//").unwrap_or(place);
            let port = place.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
            return match port {
                Some((host, port)) if ServerName::try_from(bare(host)).is_ok() => {
                    Ok(Self::Tls(host.to_owned(), port))
                }
                _ => Err("must be tls:HOST:PORT, such as tls:registry.example:5302".to_owned()),
            };
        }
        if text.starts_with('/') {
            return Err(format!("must be unix:PATH or ADDR:PORT; try `unix:{}`", text.escape_debug()));
        }
        if let Some(port) = text.strip_prefix("localhost:") {
            return Err(format!(
                "must be an address, and localhost is none: 127.0.0.1:{}",
                port.escape_debug()
            ));
        }
        text.parse().map(Self::Tcp).map_err(|_| {
            "must be unix:PATH, ADDR:PORT or tls:HOST:PORT, such as unix:/run/callsign/callsign.sock or 127.0.0.1:5301"
                .to_owned()
        })
    }
}

/// An IPv6 address without its brackets.
pub(super) fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Tls(host, port) => write!(f, "tls:{host}:{port}"),
        }
    }
}

/// The way to a server: where it may be, and who we say that we are.
#[derive(Clone, Debug)]
pub struct Way {
    servers: Vec<Server>,
    /// The one that is tried first: the last that worked.
    at: usize,
    /// Those whose trouble was told, since one worked.
    told: Vec<Server>,
    /// Told, in a sentence, that another server is tried, and why.
    tell: fn(&str),
    token: Option<Secret>,
    /// Over TLS.
    trust: Trust,
}

impl Way {
    /// `servers` are tried in this order; there is at least one.
    pub fn new(servers: Vec<Server>, token: Option<Secret>, trust: Trust, tell: fn(&str)) -> Self {
        assert!(!servers.is_empty(), "a way leads somewhere");
        Self { servers, at: 0, told: Vec::new(), tell, token, trust }
    }

    /// The server that is tried next.
    pub fn server(&self) -> &Server {
        &self.servers[self.at]
    }

    /// One server, as nobody in particular, over plain connections; what it is told goes nowhere.
    pub fn to(server: Server) -> Self {
        Self::new(vec![server], None, Trust::default(), |_| {})
    }

    /// Who we say that we are: the whole text of a token.
    pub fn with_token(self, token: impl Into<String>) -> Self {
        Self { token: Some(Secret(token.into())), ..self }
    }

    pub(crate) fn say(&self, sentence: &str) {
        (self.tell)(sentence);
    }

    /// How many other servers there are.
    pub fn others(&self) -> usize {
        self.servers.len() - 1
    }

    pub fn has_others(&self) -> bool {
        self.others() > 0
    }

    /// The server has done what was asked: trouble with another one is news again.
    pub fn worked(&mut self) {
        self.told.clear();
    }

    /// Tries the next server from here on, where there is one, and says why, once.
    pub fn go_on(&mut self, why: &impl fmt::Display) {
        if !self.has_others() {
            return;
        }
        let left = self.server().clone();
        self.at = (self.at + 1) % self.servers.len();
        if !self.told.contains(&left) {
            (self.tell)(&format!("{why}; going on with {}", self.server()));
            self.told.push(left);
        }
    }

    /// Connects to the first server that is there, each tried once, and says who we are. `timeout` bounds the last try
    /// and every later `request`.
    pub async fn connect(&mut self, timeout: Duration) -> Result<Client, ClientError> {
        for _ in 1..self.servers.len() {
            match self.connect_here(timeout, NEXT_AFTER).await {
                Err(error) if error.may_be_otherwise_elsewhere() => self.go_on(&error),
                connected => return connected,
            }
        }
        self.connect_here(timeout, timeout).await
    }

    /// Asks one thing over a connection of its own. Where a server is lost meanwhile, cannot do it now or denies it, the next
    /// one is asked, each once, if it does no harm to say it twice.
    pub async fn ask(
        &mut self,
        request: &Request<'_>,
        timeout: Duration,
    ) -> Result<(Client, Reply), ClientError> {
        let mut others = self.others();
        loop {
            let mut client = self.connect(timeout).await?;
            match client.request(request).await {
                Ok(reply) => {
                    self.worked();
                    return Ok((client, reply));
                }
                Err(error) if others > 0 && error.lets_ask_elsewhere(request.may_be_repeated()) => {
                    others -= 1;
                    self.go_on(&error);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Asks the other servers, each once; whoever does it is tried first from here on.
    pub async fn ask_others(&mut self, request: &Request<'_>, timeout: Duration) -> Option<(Client, Reply)> {
        let from = self.at;
        for step in 1..self.servers.len() {
            self.at = (from + step) % self.servers.len();
            let Ok(mut client) = self.connect_here(timeout, NEXT_AFTER).await else { continue };
            if let Ok(reply) = client.request(request).await {
                self.worked();
                return Some((client, reply));
            }
        }
        self.at = from;
        None
    }

    async fn connect_here(&mut self, timeout: Duration, within: Duration) -> Result<Client, ClientError> {
        let mut client = self.hello(timeout.min(within)).await?;
        client.timeout = timeout;
        Ok(client)
    }

    async fn hello(&self, timeout: Duration) -> Result<Client, ClientError> {
        let mut client = Client::connect_trusting(self.server(), &self.trust, timeout).await?;
        if let Some(token) = &self.token {
            match client.request(&Request::Hello(HelloForm { token: token.clone() })).await? {
                Reply::Welcome(_) => {}
                other => return Err(client.unexpected(&other)),
            }
        }
        Ok(client)
    }
}

/// One of them that is in DNS: of the lowest priority that has one, by weight (RFC 2782). `random` is any number, another each
/// time.
pub fn choose(instances: &[InstanceForm], random: u64) -> Option<&InstanceForm> {
    let live = || instances.iter().filter(|instance| instance.live || instance.held);
    let lowest = live().map(|instance| instance.priority).min()?;
    let candidates: Vec<&InstanceForm> = live().filter(|instance| instance.priority == lowest).collect();
    let total: u64 = candidates.iter().map(|instance| u64::from(instance.weight)).sum();
    if total == 0 {
        return candidates.get((random % candidates.len() as u64) as usize).copied();
    }
    let mut left = random % total;
    candidates.into_iter().find(|instance| {
        let weight = u64::from(instance.weight);
        let here = left < weight;
        left = left.saturating_sub(weight);
        here
    })
}
