//! What a container engine says over its socket: Docker's API, which Podman speaks as well.
//!
//! One request a connection, bounded in time and size; the stream of events is read line by line, and only as the word that
//! something has changed: what there is now is asked for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::Fuse;
use http::header::{CONNECTION, HOST, HeaderValue};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::super::{Failure, USAGE};

/// Where engines are told to be found, as their own clients read it.
const HOST_VARIABLE: &str = "DOCKER_HOST";
/// How long an answer may take: an engine under load takes seconds.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);
/// Octets of one reply: some 10,000 containers.
const REPLY_OCTETS_MAX: usize = 64 << 20;
/// Octets of a complaint that are shown.
const COMPLAINT_OCTETS_MAX: usize = 200;

/// What runs; exited containers are not in the list.
const RUNNING: &str = "/containers/json";
/// Of containers and networks, for a container's address comes and goes with its network: `{"type":["container","network"],
/// "event":["start",…]}`. What a health check does in a container is an event too, every few seconds, and not among these.
const EVENTS: &str = "/events?filters=%7B%22type%22%3A%5B%22container%22%2C%22network%22%5D%2C%22event%22%3A%5B%22start%22%2C\
    %22die%22%2C%22died%22%2C%22stop%22%2C%22pause%22%2C%22unpause%22%2C%22rename%22%2C%22update%22%2C%22health_status%22%2C\
    %22connect%22%2C%22disconnect%22%2C%22destroy%22%2C%22remove%22%5D%7D";

/// An engine by its socket.
#[derive(Clone, Debug)]
pub struct Engine {
    pub socket: PathBuf,
}

/// One of `/containers/json`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Container {
    pub id: String,
    names: Option<Vec<String>>,
    pub image: String,
    state: String,
    pub labels: Option<BTreeMap<String, String>>,
    pub ports: Option<Vec<Port>>,
    network_settings: Networks,
}

/// A port that is exposed; Podman lists only those that are published.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Port {
    pub private_port: u16,
    pub public_port: Option<u16>,
    #[serde(rename = "Type")]
    pub transport: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Networks {
    networks: Option<BTreeMap<String, Option<Network>>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Network {
    #[serde(rename = "IPAddress")]
    v4: Option<String>,
    #[serde(rename = "GlobalIPv6Address")]
    v6: Option<String>,
}

/// What is taken of `/containers/ID/json`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Inspected {
    state: State,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct State {
    health: Option<HealthState>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct HealthState {
    status: String,
}

impl Container {
    /// A paused container answers nobody.
    pub fn runs(&self) -> bool {
        self.state == "running"
    }

    /// Its name without the slash that stands before it.
    pub fn name(&self) -> &str {
        let first = self.names.iter().flatten().next().map_or(self.id.as_str(), String::as_str);
        first.trim_start_matches('/')
    }

    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.as_ref()?.get(name).map(String::as_str)
    }

    /// The addresses that it has in each network where it has one.
    pub fn addresses(&self) -> BTreeMap<&str, Vec<String>> {
        let networks = self.network_settings.networks.iter().flatten();
        let addresses = networks.map(|(name, network)| {
            let network = network.iter().flat_map(|network| [&network.v4, &network.v6]);
            let given = network.flatten().filter(|address| !address.is_empty());
            (name.as_str(), given.cloned().collect::<Vec<_>>())
        });
        addresses.filter(|(_, addresses)| !addresses.is_empty()).collect()
    }
}

impl Engine {
    /// The one that was named, or the first that is there of those that are usual.
    pub fn find(named: Option<PathBuf>) -> Result<Self, Failure> {
        if let Some(socket) = named {
            return Ok(Self { socket });
        }
        if let Some(place) = std::env::var(HOST_VARIABLE).ok().filter(|place| !place.is_empty()) {
            return match place.strip_prefix("unix://") {
                Some(path) => Ok(Self { socket: path.into() }),
                None => Err(Failure::new(
                    USAGE,
                    format!(
                        "{HOST_VARIABLE} must be unix://PATH, not `{place}`: an engine is asked over its socket"
                    ),
                )),
            };
        }
        let own =
            std::env::var_os("XDG_RUNTIME_DIR").map(|folder| Path::new(&folder).join("podman/podman.sock"));
        let usual = ["/var/run/docker.sock", "/run/podman/podman.sock"].map(PathBuf::from);
        let there = own.into_iter().chain(usual).find(|path| path.exists());
        there.map(|socket| Self { socket }).ok_or_else(|| {
            Failure::new(USAGE, "no container engine's socket was found")
                .hint("name it with --engine PATH; Podman has one after `systemctl start podman.socket`")
        })
    }

    pub async fn containers(&self) -> Result<Vec<Container>, String> {
        Ok(self.read(RUNNING).await?.unwrap_or_default())
    }

    /// `starting`, `healthy` or `unhealthy`; `None` for a container whose health nobody looks at, or that is gone.
    pub async fn health(&self, id: &str) -> Result<Option<String>, String> {
        let inspected: Inspected = self.read(&format!("/containers/{id}/json")).await?.unwrap_or_default();
        let status = inspected.state.health.map(|health| health.status);
        Ok(status.filter(|status| !status.is_empty() && status != "none"))
    }

    pub async fn events(&self) -> Result<Events, String> {
        let asking = async {
            let (status, body, connection) = self.ask(EVENTS).await?;
            match status {
                StatusCode::OK => Ok(Events { body, connection }),
                status => Err(status.to_string()),
            }
        };
        self.in_time(EVENTS, asking).await
    }

    /// `None` where there is nothing at this path, or no more.
    async fn read<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, String> {
        let asking = async {
            let (status, body, mut connection) = self.ask(path).await?;
            let body = Limited::new(body, REPLY_OCTETS_MAX).collect();
            let body = driven(&mut connection, body).await.map_err(|error| error.to_string())?.to_bytes();
            if status == StatusCode::NOT_FOUND {
                return Ok(None);
            }
            if status != StatusCode::OK {
                let text =
                    String::from_utf8_lossy(&body[..body.len().min(COMPLAINT_OCTETS_MAX)]).into_owned();
                return Err(format!("{status}: {}", text.trim()));
            }
            serde_json::from_slice(&body).map(Some).map_err(|error| error.to_string())
        };
        self.in_time(path, asking).await
    }

    async fn in_time<T>(
        &self,
        path: &str,
        asking: impl Future<Output = Result<T, String>>,
    ) -> Result<T, String> {
        let answer = timeout(ANSWER_TIME_MAX, asking).await;
        let answer = answer.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        let path = path.split('?').next().unwrap_or_default();
        answer.map_err(|what| format!("the container engine at {}: {path}: {what}", self.socket.display()))
    }

    async fn ask(&self, path: &str) -> Result<(StatusCode, Incoming, Connection), String> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| error.to_string())?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        let connection: Pin<Box<dyn Future<Output = ()>>> = Box::pin(async { drop(connection.await) });
        let mut connection = connection.fuse();
        let request = Request::get(path)
            .header(HOST, HeaderValue::from_static("localhost"))
            .header(CONNECTION, HeaderValue::from_static("close"))
            .body(Empty::<Bytes>::new())
            .map_err(|error| error.to_string())?;
        let response = driven(&mut connection, sender.send_request(request)).await;
        let response = response.map_err(|error| error.to_string())?;
        Ok((response.status(), response.into_body(), connection))
    }
}

/// What moves the octets of a connection, polled beside what waits for them, also after its end.
type Connection = Fuse<Pin<Box<dyn Future<Output = ()>>>>;

async fn driven<T>(connection: &mut Connection, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    // Both are polled on where they were.
    tokio::select! {
        done = &mut work => return done,
        () = &mut *connection => {}
    }
    work.await
}

/// The word that something has changed.
pub struct Events {
    body: Incoming,
    connection: Connection,
}

impl Events {
    /// Waits for one or more. Cancel-safe: what is lost with it is only how many there were.
    pub async fn next(&mut self) -> Result<(), String> {
        match driven(&mut self.connection, self.body.frame()).await {
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => Err(error.to_string()),
            None => Err("the stream of events ended".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Docker 24 and Podman 4.3 answer, shortened.
    #[test]
    fn both_engines_are_understood() {
        let docker = r#"[{"Id":"8dfafdbc3a40","Names":["/web-1"],"Image":"nginx","State":"running","Status":"Up 5 minutes (healthy)",
            "Labels":{"callsign.service":"web"},"Ports":[{"PrivatePort":80,"Type":"tcp"},{"IP":"0.0.0.0","PrivatePort":443,"PublicPort":8443,"Type":"tcp"}],
            "NetworkSettings":{"Networks":{"bridge":{"IPAddress":"172.17.0.2","GlobalIPv6Address":"2001:db8::2"},"none":{"IPAddress":""}}}}]"#;
        let podman = r#"[{"Id":"69b79d4f4c97","Names":["/c7"],"State":"paused","Labels":null,"Ports":null,
            "NetworkSettings":{"Networks":{"podman":{"IPAddress":"10.88.0.4","IPPrefixLen":16,"GlobalIPv6Address":""},"host":null}}}]"#;
        let docker = &serde_json::from_str::<Vec<Container>>(docker).unwrap()[0];
        assert_eq!(
            (docker.name(), docker.label("callsign.service"), docker.runs()),
            ("web-1", Some("web"), true)
        );
        assert_eq!(
            docker.addresses(),
            BTreeMap::from([("bridge", vec!["172.17.0.2".to_owned(), "2001:db8::2".to_owned()])])
        );
        assert_eq!(docker.ports.as_ref().unwrap()[1].public_port, Some(8443));
        let podman = &serde_json::from_str::<Vec<Container>>(podman).unwrap()[0];
        assert_eq!((podman.name(), podman.label("callsign.service"), podman.runs()), ("c7", None, false));
        assert_eq!(podman.addresses(), BTreeMap::from([("podman", vec!["10.88.0.4".to_owned()])]));
    }
}
