//! The command line: what was typed becomes what is needed, one file per verb.
//!
//! Data goes to stdout, everything else to stderr. Scripts may rely on the verbs, the flags, `-o json` and
//! the exit codes; the tables are for people and may change. A failure is one sentence that starts with
//! `callsign:`, and a hint where we know what to do next.

mod apply;
mod at;
mod availability;
mod completion;
mod demo;
mod deregister;
mod dig;
mod dnssec;
mod doctor;
mod drain;
mod exec;
mod explain;
mod export;
mod feed;
mod feed_containers;
mod heartbeat;
mod import;
mod log;
mod logs;
mod ls;
mod man;
mod message;
mod nodes;
mod output;
mod private_file;
mod progress;
mod ready;
mod register;
mod ring;
mod run;
mod serve;
mod service;
mod setup;
mod show;
mod status;
mod store;
mod terminal;
mod tip;
mod token;
mod watch;
mod zone;

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use callsign::client::{Client, ClientError, SERVERS_MAX, Server, Way};
use callsign::config::{SOCKET_OF_ROOT, Surroundings, machine};
use callsign::connections::tls::Trust;
use callsign::protocol::{ExplainForm, FilterForm, HolderForm, Problem, Reply, Request, Secret};
use callsign::time::parse_duration;
use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};

pub use output::Format;

/// Exit codes (docs/cli.md); 0 is done.
pub const FAILED: u8 = 1;
pub const USAGE: u8 = 2;
pub const NOT_FOUND: u8 = 3;
pub const DENIED: u8 = 4;
pub const UNAVAILABLE: u8 = 5;

/// Where a token is looked for when no file is named.
const TOKEN_VARIABLE: &str = "CALLSIGN_TOKEN";
/// Octets of a file with a token: ours has 90, and another's is a mistake in any case.
const TOKEN_FILE_OCTETS_MAX: u64 = 4096;

/// A DNS server that knows which services are running.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, disable_help_subcommand = true, arg_required_else_help = true)]
#[command(
    after_help = "Example:\n  callsign serve\n  callsign run web --port 8080 -- python3 -m http.server 8080\n  callsign dig web.service.local SRV"
)]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Serve(Box<serve::Serve>), // by far the largest: an option for every key
    Register(register::Register),
    Heartbeat(heartbeat::Heartbeat),
    Deregister(deregister::Deregister),
    Drain(drain::Drain),
    Run(run::Run),
    Ls(ls::Ls),
    Show(show::Show),
    Watch(watch::Watch),
    Service(service::Service),
    Explain(explain::Explain),
    Log(log::Log),
    At(at::At),
    Availability(availability::Availability),
    Feed(feed::Feed),
    FeedContainers(feed_containers::FeedContainers),
    Apply(apply::Apply),
    Export(export::Export),
    Import(import::Import),
    Store(store::Store),
    Dig(dig::Dig),
    Setup(setup::Setup),
    Doctor(doctor::Doctor),
    Status(status::Status),
    Nodes(nodes::Nodes),
    Ring(ring::Ring),
    Token(token::Token),
    Dnssec(dnssec::Dnssec),
    Zone(zone::Zone),
    Demo(demo::Demo),
    Completion(completion::Completion),
    Man(man::Man),
    #[command(hide = true)]
    Exec(exec::Exec),
}

/// Reads the command line; does not return where there is nothing to run.
pub fn parse() -> Cli {
    Cli::try_parse().unwrap_or_else(|error| {
        let text = error.render().to_string();
        let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
        if asked {
            let code = match output::print(&text) {
                Ok(()) => 0,
                Err(failure) => failure.code,
            };
            std::process::exit(code.into());
        }
        let text = tip::with_ours(&text, &error);
        match text.strip_prefix("error: ") {
            Some(complaint) => eprint!("callsign: {complaint}"),
            None => eprint!("{text}"),
        }
        std::process::exit(USAGE.into());
    })
}

/// Does what was asked and says how it went.
pub fn run(cli: Cli) -> ExitCode {
    let done = match cli.verb {
        Verb::Serve(verb) => verb.run(),
        Verb::Register(verb) => wait(verb.run()),
        Verb::Heartbeat(verb) => wait(verb.run()),
        Verb::Deregister(verb) => wait(verb.run()),
        Verb::Drain(verb) => wait(verb.run()),
        Verb::Run(verb) => wait(verb.run()),
        Verb::Ls(verb) => wait(verb.run()),
        Verb::Show(verb) => wait(verb.run()),
        Verb::Watch(verb) => wait(verb.run()),
        Verb::Service(verb) => wait(verb.run()),
        Verb::Explain(verb) => wait(verb.run()),
        Verb::Log(verb) => wait(verb.run()),
        Verb::At(verb) => wait(verb.run()),
        Verb::Availability(verb) => wait(verb.run()),
        Verb::Feed(verb) => wait(verb.run()),
        Verb::FeedContainers(verb) => wait(verb.run()),
        Verb::Apply(verb) => wait(verb.run()),
        Verb::Export(verb) => wait(verb.run()),
        Verb::Import(verb) => wait(verb.run()),
        Verb::Store(verb) => wait(verb.run()),
        Verb::Dig(verb) => wait(verb.run()),
        Verb::Setup(verb) => wait(verb.run()),
        Verb::Doctor(verb) => wait(verb.run()),
        Verb::Status(verb) => wait(verb.run()),
        Verb::Nodes(verb) => wait(verb.run()),
        Verb::Ring(verb) => wait(verb.run()),
        Verb::Token(verb) => wait(verb.run()),
        Verb::Dnssec(verb) => verb.run(),
        Verb::Zone(verb) => verb.run(),
        Verb::Demo(verb) => wait(verb.run()),
        Verb::Completion(verb) => verb.run(),
        Verb::Man(verb) => verb.run(),
        Verb::Exec(verb) => verb.run(),
    };
    done.unwrap_or_else(|failure| {
        failure.print();
        ExitCode::from(failure.code)
    })
}

type Done = Result<ExitCode, Failure>;

/// A client does one thing: one thread is enough, and it is the one that started.
fn wait(work: impl Future<Output = Done>) -> Done {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(FAILED, format!("starting: {error}")))?;
    runtime.block_on(work)
}

/// Why it was not done: the exit code, one sentence, and what to do next where we know.
#[derive(Debug)]
pub struct Failure {
    pub code: u8,
    sentence: String,
    hint: Option<String>,
    /// Another server may well do it.
    elsewhere: bool,
}

impl Failure {
    fn new(code: u8, sentence: impl Into<String>) -> Self {
        Self { code, sentence: sentence.into(), hint: None, elsewhere: false }
    }

    fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// Nothing to say: whoever read our output has gone (`callsign ls | head`).
    fn silent() -> Self {
        Self::new(0, "")
    }

    fn print(&self) {
        if !self.sentence.is_empty() {
            eprintln!("callsign: {}", terminal::escaped(&self.sentence));
        }
        if let Some(hint) = &self.hint {
            message::hint(hint);
        }
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let code = match &*problem.code {
            "invalid" | "malformed" | "unknown_verb" => USAGE,
            "not_found" => NOT_FOUND,
            "denied" => DENIED,
            "not_ready" | "unavailable" => UNAVAILABLE,
            _ => FAILED,
        };
        Self::new(code, problem.message)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let (sentence, elsewhere) = (error.to_string(), error.may_be_otherwise_elsewhere());
        let failure = match error {
            ClientError::Refused(problem) => problem.into(),
            ClientError::Unavailable { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Self::new(DENIED, sentence)
                    .hint("the socket is open to its user and group; ask for that group, or run as that user")
            }
            ClientError::Unavailable { source, .. }
                if source.kind() == io::ErrorKind::InvalidData && sentence.contains("not valid for name") =>
            {
                Self::new(UNAVAILABLE, sentence).hint("connect by a name that the certificate has")
            }
            ClientError::Unavailable { source, .. } if source.kind() == io::ErrorKind::InvalidData => {
                Self::new(UNAVAILABLE, sentence)
                    .hint("it speaks no TLS there, or its certificate is of another authority: --server-authority names one")
            }
            ClientError::Unavailable { server, .. } => {
                let hint = of_root(&server, &Surroundings::here(), Path::new(SOCKET_OF_ROOT));
                Self::new(UNAVAILABLE, sentence).hint(hint.unwrap_or_else(|| START_ONE.to_owned()))
            }
            // DNS waits for the rest of what it takes for a long query, and HTTP closes.
            ClientError::Lost { server: Server::Tcp(_), .. }
            | ClientError::TimedOut { server: Server::Tcp(_), .. } => {
                Self::new(UNAVAILABLE, sentence).hint(OTHER_PORT)
            }
            ClientError::Lost { .. } | ClientError::TimedOut { .. } => Self::new(UNAVAILABLE, sentence),
            ClientError::Protocol { .. } => Self::new(FAILED, sentence).hint(OTHER_PORT),
        };
        Self { elsewhere, ..failure }
    }
}

const START_ONE: &str = "start one with `callsign serve`, or say where it is with --server";
const OTHER_PORT: &str = "registrations are taken over TCP where `serve --listen` says, and neither at the port of HTTP nor at that of DNS; on the server's own machine leave --server out";

/// What to do where nobody is at a user's own socket and there is one of root's, at `path`: a service of the system is not where
/// its users are looked for.
fn of_root(server: &Server, around: &Surroundings, path: &Path) -> Option<String> {
    let own = !around.root && Server::usual(around).as_ref() == Some(server);
    (own && path.exists()).then(|| {
        format!(
            "a server of this machine is at unix:{}: --server names it; or start one of yours with `callsign serve`",
            path.display()
        )
    })
}

/// Says that a service is not registered now, and which one is meant perhaps. What was asked of it goes on: it may come.
async fn tell_if_absent(client: &mut Client, service: &str) {
    let form = FilterForm { service: Some(service.to_owned()), most: Some(1), ..FilterForm::default() };
    let Ok(Reply::Instances(page)) = client.request(&Request::List(Box::new(form))).await else { return };
    if !page.instances.is_empty() {
        return;
    }
    let nearest = match client.request(&Request::Explain(ExplainForm { name: service.to_owned() })).await {
        Ok(Reply::Explained(explained)) => explained.nearest,
        _ => None,
    };
    let meant = nearest.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default();
    message::hint(&format!("{service} is not registered now{meant}"));
}

/// What every verb takes that asks a server.
#[derive(Debug, Args)]
#[command(next_help_heading = "Server and output")]
struct Asking {
    /// Where the server is: unix:PATH, ADDR:PORT or tls:HOST:PORT; several are tried in turn, with commas between them or
    /// the flag again [env: CALLSIGN_SERVER] [default: unix:$XDG_RUNTIME_DIR/callsign.sock; for root
    /// unix:/run/callsign/callsign.sock]
    #[arg(long, value_name = "SERVER", value_delimiter = ',')]
    server: Vec<Server>,
    /// A file that holds the token to say who we are with [env: CALLSIGN_TOKEN holds the token itself]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Who signs the certificate of a server at tls:HOST:PORT [default: whom this machine trusts]
    #[arg(long, value_name = "FILE")]
    server_authority: Option<PathBuf>,
    /// A certificate to say who we are with over TLS, in PEM form
    #[arg(long, value_name = "FILE", requires = "client_key")]
    client_certificate: Option<PathBuf>,
    /// Its private key
    #[arg(long, value_name = "FILE", requires = "client_certificate")]
    client_key: Option<PathBuf>,
    /// A table for people, one JSON value, or one JSON value a line
    #[arg(short, long, value_name = "FORM", value_enum, default_value_t = Format::Table)]
    output: Format,
    /// How long to wait for an answer
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "5s")]
    timeout: Duration,
}

impl Asking {
    fn servers(&self) -> Result<Vec<Server>, Failure> {
        let servers = self.servers_for(&Surroundings::here())?;
        match servers.len() > SERVERS_MAX {
            true => Err(Failure::new(
                USAGE,
                format!("{} servers are too many; name {SERVERS_MAX}", servers.len()),
            )),
            false => Ok(servers),
        }
    }

    fn servers_for(&self, around: &Surroundings) -> Result<Vec<Server>, Failure> {
        match self.server.is_empty() {
            true => Self::servers_of(around),
            false => Ok(self.server.clone()),
        }
    }

    /// Those that no flag names.
    fn servers_of(around: &Surroundings) -> Result<Vec<Server>, Failure> {
        let variable =
            around.environment.iter().find(|(name, text)| name == "CALLSIGN_SERVER" && !text.is_empty());
        if let Some((_, text)) = variable {
            let text = text.to_string_lossy();
            let read = |text: &str| {
                let wrong = |rule| Failure::new(USAGE, format!("CALLSIGN_SERVER {rule} (it is `{text}`)"));
                text.parse().map_err(wrong)
            };
            return text.split(',').map(str::trim).map(read).collect();
        }
        Server::usual(around).map(|server| vec![server]).ok_or_else(|| {
            Failure::new(USAGE, "where the server is cannot be guessed, because XDG_RUNTIME_DIR is not set")
                .hint("name it with --server unix:PATH, or set CALLSIGN_SERVER")
        })
    }

    /// The host to say of an instance: what was typed, else with several servers the name of this machine.
    ///
    /// Each of several servers would call us by another name: what is said again at the next one would be an instance of
    /// its own. Many machines are called `localhost`, so that name says nothing and the server's word is taken.
    fn host(&self, typed: Option<&String>) -> Result<Option<String>, Failure> {
        if typed.is_some() || self.servers()?.len() == 1 {
            return Ok(typed.cloned());
        }
        let own = machine().map(|name| name.as_str().to_owned());
        Ok(own.filter(|name| name != "localhost" && !name.starts_with("localhost.")))
    }

    async fn connect(&self) -> Result<Client, Failure> {
        Ok(self.way()?.connect(self.timeout).await?)
    }

    /// The way to the server, with the token of the file or else of the variable.
    ///
    /// There is no flag for a token itself: whoever lists processes sees flags.
    fn way(&self) -> Result<Way, Failure> {
        let token = match &self.token_file {
            None => std::env::var(TOKEN_VARIABLE).ok(),
            Some(path) => Some(token_in(path)?),
        };
        let token = token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
        let pair = self.client_certificate.clone().zip(self.client_key.clone());
        let trust = Trust { authorities: self.server_authority.clone(), pair };
        Ok(Way::new(self.servers()?, token.map(Secret), trust, message::say))
    }

    /// Does what takes more than one request, from its beginning at the next server where one is lost meanwhile, cannot do it or
    /// denies it; each once. It has to come to the same when it is begun twice.
    async fn begin_at_each<T>(
        &self,
        way: &mut Way,
        mut work: impl AsyncFnMut(Client) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut others = way.others();
        loop {
            // Where nobody is there, each was tried already.
            match work(way.connect(self.timeout).await?).await {
                Err(failure) if failure.elsewhere && others > 0 => {
                    others -= 1;
                    way.go_on(&failure.sentence);
                }
                done => return done,
            }
        }
    }

    /// Asks one thing over a connection of its own.
    async fn ask(&self, request: &Request<'_>) -> Result<(Client, Reply), Failure> {
        Ok(self.way()?.ask(request, self.timeout).await?)
    }
}

/// One instance, as heartbeat, deregister and drain name it.
#[derive(Debug, Args)]
struct Named {
    /// The service's name
    service: String,
    /// The instance's id
    id: String,
    /// The host it runs on, where that is another one than this
    #[arg(long)]
    host: Option<String>,
    /// What the registration returned: refuse if another one has taken its place since
    #[arg(long, value_name = "HEX")]
    lease_id: Option<String>,
}

impl Named {
    fn form(&self, asking: &Asking) -> Result<HolderForm<'_>, Failure> {
        Ok(HolderForm {
            service: self.service.as_str().into(),
            id: self.id.as_str().into(),
            host: asking.host(self.host.as_ref())?,
            lease_id: self.lease_id.clone(),
        })
    }

    /// Where to look who is there.
    fn listed(&self) -> String {
        format!("`callsign ls {}` lists who is registered; another host's needs --host", self.service)
    }

    /// Where nobody said a host and the id is on another one than `here`, which is what the server takes ours for: that, with what
    /// to type. Whoever says a host means that one, and what left it is gone though another has its id.
    async fn on_another_host(&self, client: &mut Client, verb: &str, here: Option<&str>) -> Option<Failure> {
        if self.host.is_some() {
            return None;
        }
        let form = FilterForm { service: Some(self.service.clone()), ..FilterForm::default() };
        let instances = client.instances(form).await.ok()?;
        let host = instances.into_iter().find(|instance| instance.id == self.id)?.host;
        let (id, service, here) = (&self.id, &self.service, here.unwrap_or("this one"));
        let sentence = format!(
            "{id} of {service} is on host {host}, not {here}: callsign {verb} {service} {id} --host {host}"
        );
        Some(Failure::new(NOT_FOUND, sentence))
    }

    /// That nobody is registered so, without the advice to register again: it is for who holds an instance.
    fn not_there(&self, failure: Failure) -> Failure {
        let sentence = failure.sentence.trim_end_matches("; register it again").to_owned();
        Failure { sentence, ..failure }.hint(format!("there is no such instance; {}", self.listed()))
    }
}

fn token_in(path: &Path) -> Result<String, Failure> {
    use std::io::Read as _;
    use std::os::unix::fs::PermissionsExt as _;
    let failed = |error: io::Error| Failure::new(USAGE, format!("reading {}: {error}", path.display()));
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    let about = file.metadata().map_err(failed)?;
    if about.is_file() && about.permissions().mode() & 0o006 != 0 {
        let path = path.display();
        message::hint(&format!(
            "everybody on this machine may read this token or change it; `chmod o= {path}`"
        ));
    }
    file.take(TOKEN_FILE_OCTETS_MAX).read_to_string(&mut text).map_err(failed)?;
    match text.trim().is_empty() {
        true => Err(Failure::new(USAGE, format!("{} holds no token", path.display()))
            .hint("make one with `callsign token create`")),
        false => Ok(text),
    }
}

fn number<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "write a whole number".to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "write a time such as 500ms, 15s or 2m".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_server_is_the_flags_the_variables_or_the_usual_one() {
        let around = |variables: &[(&str, &str)]| Surroundings {
            environment: variables.iter().map(|(name, text)| (name.into(), text.into())).collect(),
            root: false,
            directory: ".".into(),
        };
        let asking = |server: Option<&str>| Asking {
            server: server.into_iter().map(|server| server.parse().unwrap()).collect(),
            token_file: None,
            server_authority: None,
            client_certificate: None,
            client_key: None,
            output: Format::Table,
            timeout: Duration::ZERO,
        };
        let home = ("XDG_RUNTIME_DIR", "/run/user/7");
        let both = around(&[home, ("CALLSIGN_SERVER", "unix:/b")]);
        let unix = |path: &str| Server::Unix(path.into());
        let servers = |server: Option<&str>, around: &Surroundings| -> Vec<String> {
            asking(server).servers_for(around).unwrap().iter().map(Server::to_string).collect()
        };
        assert_eq!(servers(Some("unix:/a"), &both), ["unix:/a"]);
        assert_eq!(servers(None, &both), ["unix:/b"]);
        let several = around(&[home, ("CALLSIGN_SERVER", "unix:/b, 127.0.0.1:5301")]);
        assert_eq!(servers(None, &several), ["unix:/b", "127.0.0.1:5301"]);
        let neither = around(&[home, ("CALLSIGN_SERVER", "")]);
        assert_eq!(servers(None, &neither), ["unix:/run/user/7/callsign.sock"]);
        // Root's socket is named to who has none of their own; its path is a stand-in here.
        let (own, other) = (unix("/run/user/7/callsign.sock"), unix("/run/user/7/other.sock"));
        let (there, missing) = (Path::new("/"), Path::new("/no-such-folder/callsign.sock"));
        let hint = of_root(&own, &around(&[home]), there).unwrap();
        assert!(hint.starts_with("a server of this machine is at unix:/: --server names it"), "{hint}");
        let root = Surroundings { root: true, ..around(&[home]) };
        for (server, around, path) in [
            (&own, around(&[home]), missing),
            (&other, around(&[home]), there),
            (&own, around(&[]), there),
            (&own, root, there),
        ] {
            assert_eq!(of_root(server, &around, path), None);
        }
        let homeless = asking(None).servers_for(&around(&[])).unwrap_err();
        assert!(homeless.code == USAGE && homeless.hint.unwrap().contains("CALLSIGN_SERVER"));
        let wrong = asking(None).servers_for(&around(&[("CALLSIGN_SERVER", "/b")])).unwrap_err();
        assert_eq!(
            wrong.sentence,
            "CALLSIGN_SERVER must be unix:PATH or ADDR:PORT; try `unix:/b` (it is `/b`)"
        );
    }

    #[test]
    fn every_verb_shows_an_example() {
        fn below(command: &clap::Command, name: &str) {
            for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
                let name = format!("{name} {}", verb.get_name());
                let example = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(example.contains(&name), "{name}");
                below(verb, &name);
            }
        }
        below(&Cli::command(), "callsign");
    }
}
