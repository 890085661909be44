//! `callsign doctor`: what keeps names of the registry from resolving on this machine, in sentences.
//!
//! It reads what programs' resolvers read, asks what they ask, and changes nothing. What the files mean is decided by
//! pure functions (`names`, `kernel`, and the verdicts of `asking`); here they are fed.

mod asking;
mod kernel;
mod names;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use callsign::client::Server;
use callsign::clock::Clock;
use callsign::config::DNS_PORT;
use callsign::name::Apex;
use callsign::protocol::{Reply, Request, ServerForm, StatusForm};
use callsign::{dns, http, socket};
use clap::Args;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use serde::Serialize;
use tokio::process::Command;
use tokio::time::timeout;

use self::asking::Heard;
use self::names::{ResolvConf, ResolvedConf};
use super::setup::{address, bare, dns_listeners, domain, domains};
use super::{Asking, Done, FAILED, Failure, Format, output, terminal};

/// The port of resolv.conf.
const PORT: u16 = 53;
/// One question; a nameserver that needs longer is as good as none, for the libc gives up after 5 s.
const QUESTION: Duration = Duration::from_secs(2);
/// A whole lookup through the C library, with its own attempts.
const LOOKUP: Duration = Duration::from_secs(20);

/// Say what keeps the registry's names from resolving on this machine
///
/// The exit code is 0 where nothing does, else 1. Run as root it also sees which program holds port 53.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  callsign doctor\n  callsign doctor -o json\n  callsign doctor --domain svc.example.com --dns 10.0.0.5:53"
)]
pub struct Doctor {
    /// A domain that shall resolve here [default: those of the running server, else service.local]
    #[arg(long, value_name = "NAME", value_parser = domain)]
    domain: Vec<Apex>,
    /// Where callsign answers DNS [default: where the running server says, else 127.0.0.1:5300]
    #[arg(long, value_name = "ADDR:PORT", value_parser = address)]
    dns: Vec<SocketAddr>,
    #[command(flatten)]
    asking: Asking,
}

/// Something that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    /// What was looked at; stable, for programs.
    check: &'static str,
    verdict: Verdict,
    what: String,
    /// Why it matters; empty where nothing is to be done.
    #[serde(skip_serializing_if = "String::is_empty")]
    why: String,
    /// What to do.
    #[serde(skip_serializing_if = "String::is_empty")]
    mend: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Fine,
    /// Names resolve, and something would be better otherwise.
    Advice,
    /// Names do not resolve, or not always.
    Wrong,
}

impl Finding {
    fn fine(check: &'static str, what: String) -> Self {
        Self { check, verdict: Verdict::Fine, what, why: String::new(), mend: String::new() }
    }

    fn advice(check: &'static str, what: String, why: String, mend: String) -> Self {
        Self { check, verdict: Verdict::Advice, what, why, mend }
    }

    fn wrong(check: &'static str, what: String, why: String, mend: String) -> Self {
        Self { check, verdict: Verdict::Wrong, what, why, mend }
    }

    fn text(&self) -> String {
        let verdict = match self.verdict {
            Verdict::Fine => "fine",
            Verdict::Advice => "advice",
            Verdict::Wrong => "wrong",
        };
        let mut lines = vec![format!("{verdict:<8}{:<13}{}", self.check, self.what)];
        for (word, text) in [("why", &self.why), ("do", &self.mend)] {
            if !text.is_empty() {
                lines.push(format!("          {word:<11}{text}"));
            }
        }
        lines.iter().map(|line| format!("{}\n", terminal::escaped(line))).collect()
    }
}

/// The whole, for programs.
#[derive(Serialize)]
struct Report<'a> {
    domains: Vec<String>,
    wrong: usize,
    findings: &'a [Finding],
}

impl Doctor {
    pub async fn run(mut self) -> Done {
        let mut findings = Vec::new();
        let server = self.server(&mut findings).await?;
        if let Some(server) = &server {
            if self.domain.is_empty() {
                self.domain = domains(server)?;
            }
            if self.dns.is_empty() {
                self.dns = dns_listeners(server);
            }
        }
        if self.domain.is_empty() {
            self.domain = vec![domain("service.local").map_err(|rule| Failure::new(FAILED, rule))?];
        }
        if self.dns.is_empty() {
            self.dns = vec![SocketAddr::from(([127, 0, 0, 1], DNS_PORT))];
        }
        self.machine(&mut findings).await;
        let wrong = findings.iter().filter(|finding| finding.verdict == Verdict::Wrong).count();
        let domains: Vec<String> = self.domain.iter().map(bare).collect();
        match self.asking.output {
            Format::Table => {
                let text: String = findings.iter().map(Finding::text).collect();
                output::print(&format!("{text}{}\n", conclusion(&domains, wrong)))?;
            }
            format => output::value(format, &Report { domains, wrong, findings: &findings })?,
        }
        Ok(if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
    }

    /// Whether there is a server, and whether it is well.
    async fn server(&self, findings: &mut Vec<Finding>) -> Result<Option<ServerForm>, Failure> {
        let mut way = self.asking.way()?;
        let (place, server) = match way.ask(&Request::Status(StatusForm {}), self.asking.timeout).await {
            Ok((client, Reply::Status(server))) => (client.server().clone(), *server),
            Ok(_) => return Ok(None),
            Err(error) => {
                findings.push(Finding::wrong(
                    "server",
                    Failure::from(error).sentence,
                    "without a server nothing can register, and nothing is answered".to_owned(),
                    "callsign serve, or say where it is: --server unix:PATH".to_owned(),
                ));
                return Ok(None);
            }
        };
        findings.push(well(&place, &server));
        if let Server::Unix(path) = &place
            && let Some(limit) = descriptor_limit(path)
        {
            let wanted = dns::tcp::CONNECTIONS_MAX + socket::CONNECTIONS_MAX + http::CONNECTIONS_MAX;
            findings.push(kernel::descriptors(limit, wanted as u64));
        }
        Ok(Some(server))
    }

    /// What the files, the kernel and the nameservers of this machine say.
    async fn machine(&self, findings: &mut Vec<Finding>) {
        let read = |path: &str| fs::read_to_string(path).ok();
        let (nsswitch, allow) = (read("/etc/nsswitch.conf"), read("/etc/mdns.allow"));
        let conf = ResolvConf::parse(read("/etc/resolv.conf").as_deref());
        let by_resolved = names::sources(nsswitch.as_deref()).iter().any(|source| source.name == "resolve");
        let stub = conf.nameservers.iter().any(|server| names::STUBS.contains(server));
        let holders = port_holders();
        for domain in &self.domain {
            let own = self.own(domain, findings).await;
            findings.push(names::nsswitch(nsswitch.as_deref(), allow.as_deref(), domain));
            findings.extend(names::hosts(read("/etc/hosts").as_deref(), domain));
            findings.extend(conf.findings(domain));
            let mut stub_knows = true;
            for &server in &conf.nameservers {
                let heard = asking::ask(kernel::nameserver(server), domain, QUESTION).await;
                if names::STUBS.contains(&server) {
                    stub_knows = matches!(heard, Heard::Zone { .. });
                }
                let holder = kernel::at(&holders, server);
                findings.push(asking::nameserver(server, domain, &heard, own.as_ref(), holder));
            }
            if stub || by_resolved {
                let resolved = ResolvedConf::parse(&resolved_files());
                findings.push(resolved.finding(domain, &self.dns, stub_knows));
            }
            if let Some(own) = own {
                findings.extend(looked_up(domain, &own).await);
            }
        }
        findings.push(kernel::port(&holders));
        let off = read("/proc/sys/net/ipv6/conf/all/disable_ipv6").is_none_or(|text| text.trim() == "1");
        findings.push(kernel::ipv6(off, &conf.nameservers));
        if let Some(installed) = installed() {
            let now = Clock::start().now().wall.unix_ms / 1000;
            findings.push(kernel::clock(now, installed));
        }
    }

    /// Asks callsign itself at each of its addresses; the addresses of its `ns`, where one of them answers.
    async fn own(&self, domain: &Apex, findings: &mut Vec<Finding>) -> Option<BTreeSet<IpAddr>> {
        let mut own = None;
        for &server in &self.dns {
            let heard = asking::ask(server, domain, QUESTION).await;
            findings.push(asking::own(server, domain, &heard));
            if let Heard::Zone { addresses, .. } = heard {
                own = Some(addresses);
            }
        }
        own
    }
}

fn conclusion(domains: &[String], wrong: usize) -> String {
    let names: Vec<String> = domains.iter().map(|domain| format!("web.{domain}")).collect();
    let names = names.join(", ");
    match wrong {
        0 => format!("nothing keeps {names} from resolving here"),
        1 => format!("1 thing keeps {names} from resolving here, or from resolving always"),
        wrong => format!("{wrong} things keep {names} from resolving here, or from resolving always"),
    }
}

fn well(place: &Server, server: &ServerForm) -> Finding {
    match (&server.store_trouble, server.ready) {
        (_, false) => Finding::wrong(
            "server",
            format!("{place} is not ready"),
            "it answers SERVFAIL until its registry is loaded".to_owned(),
            "wait; callsign status, and the server's log, say for what".to_owned(),
        ),
        (Some(trouble), true) => Finding::wrong(
            "server",
            format!("{place} answers, and its store takes nothing: {trouble}"),
            "what is registered stays in the answers; nothing new can be registered".to_owned(),
            "make room on the disk of its data directory; callsign status".to_owned(),
        ),
        (None, true) => Finding::fine("server", format!("{place} is ready, its store is {}", server.store)),
    }
}

/// Of the process at the other end of the socket, where we may see it.
fn descriptor_limit(path: &Path) -> Option<u64> {
    let stream = UnixStream::connect(path).ok()?;
    let pid = getsockopt(&stream, PeerCredentials).ok()?.pid();
    kernel::descriptor_limit(&fs::read_to_string(format!("/proc/{pid}/limits")).ok()?)
}

fn port_holders() -> BTreeMap<IpAddr, String> {
    let tables = [("udp", false), ("udp6", false), ("tcp", true), ("tcp6", true)];
    let held = tables.iter().flat_map(|(table, tcp)| {
        let text = fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default();
        kernel::holders(&text, *tcp)
    });
    kernel::names(&held.collect::<Vec<_>>())
}

/// resolved.conf and its drop-ins, in the order in which they are read (resolved.conf(5)).
fn resolved_files() -> Vec<(String, String)> {
    // A file of the same name in a later directory takes the place of the earlier one's.
    let mut drop_ins = BTreeMap::new();
    for directory in ["/usr/lib/systemd", "/run/systemd", "/etc/systemd"] {
        let entries = fs::read_dir(format!("{directory}/resolved.conf.d")).into_iter().flatten().flatten();
        for path in
            entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "conf"))
        {
            drop_ins.insert(path.file_name().map(ToOwned::to_owned), path);
        }
    }
    let paths = std::iter::once("/etc/systemd/resolved.conf".into()).chain(drop_ins.into_values());
    let file = |path: std::path::PathBuf| Some((path.display().to_string(), fs::read_to_string(&path).ok()?));
    paths.filter_map(file).collect()
}

/// When the file of this program was written, in Unix seconds.
fn installed() -> Option<i64> {
    let written = fs::metadata(std::env::current_exe().ok()?).ok()?.modified().ok()?;
    i64::try_from(written.duration_since(UNIX_EPOCH).ok()?.as_secs()).ok()
}

/// What the C library itself finds, by all that was looked at one by one; `None` where there is no `getent`.
async fn looked_up(domain: &Apex, own: &BTreeSet<IpAddr>) -> Option<Finding> {
    let name = asking::server_name(domain);
    let mut command = Command::new("getent");
    command.args(["ahosts", name.trim_end_matches('.')]).stdin(Stdio::null()).kill_on_drop(true);
    let found = match timeout(LOOKUP, command.output()).await {
        Ok(Ok(output)) => String::from_utf8_lossy(&output.stdout).into_owned(),
        Ok(Err(_)) => return None,
        Err(_) => String::new(),
    };
    let first = |line: &str| line.split_whitespace().next()?.parse().ok();
    let found: BTreeSet<IpAddr> = found.lines().filter_map(first).collect();
    Some(judged(name.trim_end_matches('.'), &found, own))
}

fn judged(name: &str, found: &BTreeSet<IpAddr>, own: &BTreeSet<IpAddr>) -> Finding {
    // getaddrinfo leaves out addresses of a family that this machine has not.
    if !found.is_empty() && found.is_subset(own) {
        return Finding::fine("lookup", format!("`getent ahosts {name}` finds this server"));
    }
    let what = match found.is_empty() {
        true => format!("`getent ahosts {name}` finds nothing"),
        false => {
            let shown: Vec<String> = found.iter().map(ToString::to_string).collect();
            format!("`getent ahosts {name}` finds {}, which is not this server", shown.join(", "))
        }
    };
    let why = "this is what every program gets that asks the C library".to_owned();
    Finding::wrong("lookup", what, why, "mend what is wrong above, and run callsign doctor again".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_three_lines_at_most() {
        let wrong = Finding::wrong("clock", "what\x1b".to_owned(), "why".to_owned(), "mend".to_owned());
        assert_eq!(
            wrong.text(),
            "wrong   clock        what\\u{1b}\n          why        why\n          do         mend\n"
        );
        let fine = Finding::fine("clock", "right".to_owned());
        assert_eq!(fine.text(), "fine    clock        right\n");
        assert_eq!(
            serde_json::to_value(&fine).unwrap(),
            serde_json::json!({"check": "clock", "verdict": "fine", "what": "right"})
        );
    }

    #[test]
    fn what_the_library_finds_must_be_this_server() {
        let set = |addresses: &[[u8; 4]]| addresses.iter().map(|octets| IpAddr::from(*octets)).collect();
        let own: BTreeSet<IpAddr> = set(&[[127, 0, 0, 1]]);
        assert_eq!(judged("ns.x", &own, &own).verdict, Verdict::Fine);
        assert_eq!(judged("ns.x", &set(&[]), &own).verdict, Verdict::Wrong);
        assert!(judged("ns.x", &set(&[[10, 0, 0, 1]]), &own).what.contains("finds 10.0.0.1"));
    }
}
