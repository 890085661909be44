//! One probe: what is done for each kind of check, within one timeout, and what came of it in words.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::command;
use super::grpc;
use super::http;
use super::reach::{Reach, Whose};
use super::tls::{Trust, Within};
use crate::check::{Definition, Http, Kind, Place};
use crate::clock::Clock;
use crate::instance::Health;
use crate::time::format_duration;

/// Octets that are read of what a target says: what a person looks at, and what is kept of an output.
pub const READ_OCTETS_MAX: usize = crate::check::OUTPUT_OCTETS_MAX;
/// A probe whose timeout came so much later than it should have says more of us (stopped, starved) than of its target.
const OURS: Duration = Duration::from_millis(250);

/// What a probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub health: Health,
    pub output: String,
}

/// Why nothing came of a probe, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The target's, or of the way to it, or of what was asked for.
    Target(String),
    /// Ours: no descriptor, no port, no memory. It says nothing of the target.
    Ours(String),
}

impl From<String> for Failure {
    fn from(why: String) -> Self {
        Self::Target(why)
    }
}

impl Failure {
    /// An error of a system call; `act` is what was tried.
    pub fn system(act: &str, error: &io::Error) -> Self {
        use nix::libc::{EADDRNOTAVAIL, EAGAIN, EMFILE, ENFILE, ENOBUFS, ENOMEM};
        let why = format!("{act}{}", cause(error));
        match error.raw_os_error() {
            Some(EADDRNOTAVAIL | EAGAIN | EMFILE | ENFILE | ENOBUFS | ENOMEM) => Self::Ours(why),
            _ => Self::Target(why),
        }
    }
}

/// The kernel's words without its number, in lower case.
pub fn cause(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(code) => nix::errno::Errno::from_raw(code).desc().to_ascii_lowercase(),
        None => error.to_string(),
    }
}

/// What every probe shares.
#[derive(Debug)]
pub struct Prober {
    pub clock: Clock,
    pub reach: Reach,
    pub trust: Trust,
    /// Programs are run.
    pub commands: bool,
}

/// A probe that has ended.
#[derive(Debug)]
pub struct Ended {
    pub number: u64,
    pub outcome: Outcome,
    pub doubt: Option<Doubt>,
    pub due_ns: u64,
    pub began_ns: u64,
    pub took: Duration,
}

/// Why an outcome says nothing of the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// It ran into its timeout, and we were not there to see when.
    Late,
    /// We had not what a probe needs.
    Ours,
}

impl Prober {
    /// Does what the definition says, and ends within its timeout.
    pub async fn probe(&self, number: u64, due_ns: u64, definition: Arc<Definition>, whose: Whose) -> Ended {
        let began_ns = self.clock.now().mono_ns;
        let timeout = definition.timeout;
        // The probe is polled before the clock: what has come when both are ready counts.
        let found = tokio::time::timeout(timeout, self.outcome(&definition, &whose)).await;
        let took = Duration::from_nanos(self.clock.now().mono_ns - began_ns);
        let failed = |why: String| Outcome {
            health: Health::Critical,
            output: format!("{}: {why}", title(&definition.kind)),
        };
        let (outcome, doubt) = match found {
            Ok(Ok(outcome)) => (outcome, None),
            Ok(Err(Failure::Target(why))) => (failed(why), None),
            Ok(Err(Failure::Ours(why))) => (failed(why), Some(Doubt::Ours)),
            Err(_) => {
                let late = (took > timeout + OURS).then_some(Doubt::Late);
                (failed(format!("timed out after {}", format_duration(timeout))), late)
            }
        };
        Ended { number, outcome, doubt, due_ns, began_ns, took }
    }

    async fn outcome(&self, definition: &Definition, whose: &Whose) -> Result<Outcome, Failure> {
        // The larger ones in boxes: most probes are small, and there are thousands at once.
        match &definition.kind {
            Kind::Tcp(at) => self.tcp(at, whose).await,
            Kind::Http(http) => Box::pin(self.http(http, whose)).await,
            Kind::Grpc { at, service, tls } => {
                Box::pin(async {
                    let stream = self.reach.connect(at, whose).await?;
                    Ok(match tls {
                        None => grpc::exchange(at, service, false, stream).await?,
                        Some(tls) => {
                            let stream = self.trust.wrap(stream, at, tls, Within::Grpc).await?;
                            grpc::exchange(at, service, true, stream).await?
                        }
                    })
                })
                .await
            }
            Kind::Command(words) if self.commands => Box::pin(command::run(words)).await,
            Kind::Command(_) => {
                let why = "not run: programs are run as checks only where the server's key `probe-commands` is true";
                Err(why.to_owned().into())
            }
            // Not reached: nothing of these is ever due.
            Kind::Reported | Kind::Ttl(_) | Kind::Alias { .. } => {
                Err("there is nothing to probe".to_owned().into())
            }
        }
    }

    async fn tcp(&self, at: &Place, whose: &Whose) -> Result<Outcome, Failure> {
        self.reach.connect(at, whose).await?;
        Ok(Outcome { health: Health::Passing, output: format!("{}: Success", tcp_title(at)) })
    }

    async fn http(&self, http: &Http, whose: &Whose) -> Result<Outcome, Failure> {
        let stream = self.reach.connect_to_speak(&http.at, whose).await?;
        Ok(match &http.tls {
            None => http::exchange(http, stream).await?,
            Some(tls) => {
                let stream = self.trust.wrap(stream, &http.at, tls, Within::Http).await?;
                http::exchange(http, stream).await?
            }
        })
    }
}

/// What a probe is, at the beginning of its outputs.
fn title(kind: &Kind) -> String {
    match kind {
        Kind::Tcp(at) => tcp_title(at),
        Kind::Http(http) => http::title(http),
        Kind::Grpc { at, service, .. } => grpc::title(at, service),
        Kind::Command(words) => {
            format!("command {}", words.first().map(|word| printable(word.as_bytes())).unwrap_or_default())
        }
        Kind::Reported | Kind::Ttl(_) | Kind::Alias { .. } => kind.as_str().to_owned(),
    }
}

fn tcp_title(at: &Place) -> String {
    match at.host.contains(':') {
        true => format!("TCP connect [{}]:{}", at.host, at.port),
        false => format!("TCP connect {}:{}", at.host, at.port),
    }
}

/// Foreign octets as text: what is no UTF-8 replaced, controls escaped, the end of the last line left out.
pub fn printable(octets: &[u8]) -> String {
    let text = String::from_utf8_lossy(octets);
    let mut shown = String::with_capacity(text.len());
    for c in text.trim_end_matches(['\n', '\r']).chars() {
        match c.is_control() {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_we_lack_is_not_the_targets_fault() {
        use nix::libc::{EADDRNOTAVAIL, ECONNREFUSED, EHOSTUNREACH, EMFILE};
        let failure = |code| Failure::system("connecting: ", &io::Error::from_raw_os_error(code));
        assert_eq!(failure(ECONNREFUSED), Failure::Target("connecting: connection refused".to_owned()));
        assert_eq!(failure(EHOSTUNREACH), Failure::Target("connecting: no route to host".to_owned()));
        assert_eq!(failure(EMFILE), Failure::Ours("connecting: too many open files".to_owned()));
        assert!(matches!(failure(EADDRNOTAVAIL), Failure::Ours(_)));
    }

    #[test]
    fn foreign_octets_are_harmless() {
        assert_eq!(printable(b"ok\r\n"), "ok");
        assert_eq!(printable(b"a\x1b[2Jb\nc\xff"), "a\\u{1b}[2Jb\\nc\u{fffd}");
    }
}
