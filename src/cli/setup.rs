//! `callsign setup`: the exact file that lets a resolver or an Envoy ask us, printed, or written where it goes.

mod recipes;

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use callsign::name::Apex;
use callsign::protocol::{Reply, Request, ServerForm, StatusForm};
use callsign::xds::resources::LISTEN_DEFAULT;
use clap::Args;
use serde::Serialize;

use self::recipes::{Asked, File, OURS, Recipe};
pub use self::recipes::{Resolver, bare};
use super::{Asking, DENIED, Done, FAILED, Failure, Format, USAGE, message, output};

/// How a listener of DNS, and one of HTTP, stands in `status`.
const DNS_LISTENER: &str = "dns udp+tcp ";
const HTTP_LISTENER: &str = "http ";
/// Behind the name of a file that is replaced, and a dot in front of it: no daemon reads that.
const BEFORE: &str = ".before-callsign";
/// Files of one name that are kept.
const KEPT_MAX: u32 = 100;
/// Any resolver may read what is in there, whatever the umask of who writes it.
const MODE: u32 = 0o644;

/// Print the file that lets a resolver or an Envoy ask this server, or write it
///
/// What is asked where comes from the running server, and without one from --domain and --dns, or from --http.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  callsign setup resolved\n  callsign setup resolved --write\n  callsign setup unbound --domain svc.example.com --dns 10.0.0.5:53"
)]
pub struct Setup {
    /// The program that shall ask callsign
    #[arg(value_enum)]
    resolver: Resolver,
    /// A domain of the registry [default: those of the running server]
    #[arg(long, value_name = "NAME", value_parser = domain)]
    domain: Vec<Apex>,
    /// Where callsign answers DNS [default: the first address of the running server]
    #[arg(long, value_name = "ADDR:PORT", value_parser = address)]
    dns: Vec<SocketAddr>,
    /// For envoy: where callsign answers HTTP [default: the first address of the running server]
    #[arg(long, value_name = "ADDR:PORT", value_parser = address)]
    http: Option<SocketAddr>,
    /// For envoy: where it shall listen [default: 127.0.0.1:10000]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// Write the file instead of printing it
    #[arg(long)]
    write: bool,
    /// Replace a file that is somebody else's
    #[arg(long, requires = "write")]
    force: bool,
    /// Write below this directory, as for an image of another system
    #[arg(long, value_name = "DIR", requires = "write")]
    root: Option<PathBuf>,
    #[command(flatten)]
    asking: Asking,
}

/// A recipe for programs.
#[derive(Serialize)]
struct Shown<'a> {
    files: Vec<ShownFile<'a>>,
    steps: &'a [String],
}

#[derive(Serialize)]
struct ShownFile<'a> {
    path: &'a str,
    text: &'a str,
}

impl Setup {
    pub async fn run(mut self) -> Done {
        let envoy = self.resolver == Resolver::Envoy;
        self.refuse_strangers(envoy)?;
        let lacking = if envoy { self.http.is_none() } else { self.domain.is_empty() || self.dns.is_empty() };
        if lacking {
            self.ask(envoy).await?;
        }
        let asked = Asked {
            domains: std::mem::take(&mut self.domain),
            dns: std::mem::take(&mut self.dns),
            http: self.http,
            listen: self.listen.unwrap_or(LISTEN_DEFAULT),
        };
        let recipe = self.resolver.recipe(&asked).map_err(|rule| Failure::new(USAGE, rule))?;
        match (self.write, self.asking.output) {
            (true, _) => self.write(&recipe)?,
            (false, Format::Table) => print(&recipe)?,
            (false, format) => {
                let files = recipe.files.iter().map(|file| ShownFile { path: &file.path, text: &file.text });
                let files = files.collect();
                output::value(format, &Shown { files, steps: &recipe.steps })?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    /// A flag that would do nothing is a mistake.
    fn refuse_strangers(&self, envoy: bool) -> Result<(), Failure> {
        let strangers = match envoy {
            true => [("--domain", !self.domain.is_empty()), ("--dns", !self.dns.is_empty())],
            false => [("--http", self.http.is_some()), ("--listen", self.listen.is_some())],
        };
        match strangers.into_iter().find(|(_, given)| *given) {
            Some((flag, _)) => {
                let text = format!("{flag} says nothing to {}; leave it out", self.resolver.word());
                Err(Failure::new(USAGE, text))
            }
            None => Ok(()),
        }
    }

    /// Takes from the running server what no flag said.
    async fn ask(&mut self, envoy: bool) -> Result<(), Failure> {
        let flags = if envoy { "--http ADDR:PORT" } else { "--domain NAME --dns ADDR:PORT" };
        let asked = self.asking.ask(&Request::Status(StatusForm {})).await.map_err(|failure| {
            failure.hint(format!("start one with `callsign serve`, or say what it would: {flags}"))
        });
        let (client, reply) = asked?;
        let Reply::Status(server) = reply else {
            return Err(client.unexpected(&reply).into());
        };
        if envoy {
            self.http = listeners(&server, HTTP_LISTENER).first().copied();
            return match self.http {
                Some(_) => Ok(()),
                None => Err(Failure::new(FAILED, "the server has no HTTP port, where Envoy would ask")
                    .hint("serve with --http ADDR:PORT")),
            };
        }
        if self.domain.is_empty() {
            self.domain = domains(&server)?;
        }
        if self.dns.is_empty() {
            // All of its addresses are one server: one is enough, and the first is the one people know.
            self.dns = dns_listeners(&server).into_iter().take(1).collect();
        }
        if self.dns.is_empty() {
            return Err(Failure::new(FAILED, "the server does not say where it answers DNS")
                .hint("say it with --dns ADDR:PORT"));
        }
        Ok(())
    }

    /// Nothing is written where one of the files may not be.
    fn write(&self, recipe: &Recipe) -> Result<(), Failure> {
        let at = |file: &File| match &self.root {
            Some(root) => root.join(file.path.trim_start_matches('/')),
            None => PathBuf::from(&file.path),
        };
        for file in &recipe.files {
            self.may_replace(&at(file), &file.text)?;
        }
        for file in &recipe.files {
            let path = at(file);
            if fs::read_to_string(&path).is_ok_and(|there| there == file.text) {
                message::say(&format!("{} is so already", path.display()));
                continue;
            }
            if foreign(&path, &file.text).is_some() {
                keep(&path).map_err(|failure| self.as_root(failure))?;
            }
            message::say(&format!("writing {}", path.display()));
            replace(&path, &file.text).map_err(|failure| self.as_root(failure))?;
        }
        recipe.steps.iter().try_for_each(|step| output::line(&format!("now: {step}")))
    }

    /// Root may write it, and has another server than ours, or none, to ask what it says.
    fn as_root(&self, failure: Failure) -> Failure {
        let flags = if self.resolver == Resolver::Envoy { "--http" } else { "--domain and --dns" };
        match failure.code {
            DENIED => failure.hint(format!("run it as root, with {flags} as your server has them")),
            _ => failure,
        }
    }

    fn may_replace(&self, path: &Path, text: &str) -> Result<(), Failure> {
        match foreign(path, text) {
            Some(sentence) if !self.force => Err(Failure::new(DENIED, sentence)
                .hint("put the lines that `callsign setup` prints into it, or replace it with --force")),
            _ => Ok(()),
        }
    }
}

/// Whose the file is that is there, in a sentence; `None` where there is none, or one of ours.
fn foreign(path: &Path, text: &str) -> Option<String> {
    let there = fs::symlink_metadata(path).ok()?;
    let shown = path.display();
    if there.is_symlink() {
        let target = fs::read_link(path).unwrap_or_default();
        return Some(format!("{shown} is a link to {}, whose program writes it", target.display()));
    }
    let old = fs::read_to_string(path).unwrap_or_default();
    (!is_ours(&old, text)).then(|| format!("{shown} is there, and not from `callsign setup`"))
}

/// Gives somebody else's file, or link, another name besides.
fn keep(path: &Path) -> Result<(), Failure> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let named = |number| match number {
        1 => path.with_file_name(format!(".{name}{BEFORE}")),
        more => path.with_file_name(format!(".{name}{BEFORE}-{more}")),
    };
    let free = (1..=KEPT_MAX).map(named).find(|kept| fs::symlink_metadata(kept).is_err());
    let Some(kept) = free else {
        let text = format!("{} is kept {KEPT_MAX} times already; take those away", path.display());
        return Err(Failure::new(FAILED, text));
    };
    // Not every file system has second names.
    let keeping = fs::hard_link(path, &kept).or_else(|_| fs::copy(path, &kept).map(drop));
    keeping.map_err(|error| {
        let code = if error.kind() == io::ErrorKind::PermissionDenied { DENIED } else { FAILED };
        Failure::new(code, format!("keeping {} as {}: {error}", path.display(), kept.display()))
    })?;
    message::say(&format!("what was there is kept as {}", kept.display()));
    Ok(())
}

/// Was `old` written here? A JSON file has no line to tell by: it is ours if it says nothing else than `new`.
fn is_ours(old: &str, new: &str) -> bool {
    let keys = |text: &str| -> Option<Vec<String>> {
        let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text).ok()?;
        Some(object.keys().cloned().collect())
    };
    old.starts_with(OURS) || keys(old).is_some_and(|keys_there| Some(keys_there) == keys(new))
}

/// The file is there as a whole or not at all: daemons read their directories whenever they like.
fn replace(path: &Path, text: &str) -> Result<(), Failure> {
    let failed = |error: io::Error| {
        let code = if error.kind() == io::ErrorKind::PermissionDenied { DENIED } else { FAILED };
        Failure::new(code, format!("writing {}: {error}", path.display()))
    };
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(failed(io::ErrorKind::InvalidInput.into()));
    };
    if !directory.is_dir() {
        // A drop-in directory may be missing; where its parent is too, the program is not here.
        fs::create_dir(directory).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Failure::new(
                FAILED,
                format!("{} is not there: is the program installed on this machine?", directory.display()),
            ),
            _ => failed(error),
        })?;
    }
    // With a dot in front no daemon takes it for a file of its own.
    let new = directory.join(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(&new)?;
        file.set_permissions(fs::Permissions::from_mode(MODE))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&new); // half a file is none
    }
    written.map_err(failed)
}

/// The files one after another; what JSON cannot say in a comment goes to stderr.
fn print(recipe: &Recipe) -> Result<(), Failure> {
    for (number, file) in recipe.files.iter().enumerate() {
        if !file.text.starts_with(OURS) {
            message::say(&format!("it goes to {}", file.path));
            recipe.steps.iter().for_each(|step| message::say(&format!("then: {step}")));
        }
        output::print(&format!("{}{}", if number == 0 { "" } else { "\n" }, file.text))?;
    }
    Ok(())
}

/// The domains that a server says it serves.
pub fn domains(server: &ServerForm) -> Result<Vec<Apex>, Failure> {
    let parse = |name: &String| {
        domain(name).map_err(|rule| Failure::new(FAILED, format!("the server's domain `{name}` {rule}")))
    };
    server.domains.iter().map(parse).collect()
}

/// Where a server on this machine can be asked; a wildcard is loopback from here.
pub fn dns_listeners(server: &ServerForm) -> Vec<SocketAddr> {
    listeners(server, DNS_LISTENER)
}

fn listeners(server: &ServerForm, kind: &str) -> Vec<SocketAddr> {
    let lines = server.listeners.iter().filter_map(|line| line.strip_prefix(kind));
    lines.filter_map(|text| text.parse().ok()).map(asked_at).collect()
}

fn asked_at(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip.to_canonical(),
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, address.port())
}

pub fn domain(text: &str) -> Result<Apex, String> {
    Apex::parse(text).map_err(|unfit| unfit.to_string())
}

/// An address that can be asked: a wildcard is none.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    match text.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_unspecified() || address.port() == 0 => {
            Err("name the address that is asked, with its port".to_owned())
        }
        Ok(address) => Ok(address),
        Err(_) => Err("write an address with a port, such as 127.0.0.1:5300 or [::1]:5300".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_ours_is_known() {
        let ours = format!("{OURS}unbound`. It goes to /x\n");
        assert!(is_ours(&ours, "new"));
        assert!(!is_ours("server:\n", "new"));
        assert!(!is_ours("", "new"));
        let docker = r#"{"dns": ["172.17.0.1"]}"#;
        assert!(is_ours(r#"{"dns":["10.0.0.1"]}"#, docker));
        assert!(!is_ours(r#"{"dns":["10.0.0.1"],"debug":true}"#, docker));
        assert!(!is_ours("{}", docker));
    }

    #[test]
    fn a_wildcard_is_asked_on_loopback() {
        for (bound, asked) in [
            ("0.0.0.0:53", "127.0.0.1:53"),
            ("[::]:53", "[::1]:53"),
            ("[::ffff:10.0.0.5]:53", "10.0.0.5:53"),
            ("10.0.0.5:5300", "10.0.0.5:5300"),
        ] {
            assert_eq!(asked_at(bound.parse().unwrap()).to_string(), asked);
        }
        assert!(address("0.0.0.0:53").is_err() && address("127.0.0.1:0").is_err());
        assert!(address("127.0.0.1").unwrap_err().contains("5300"));
    }
}
