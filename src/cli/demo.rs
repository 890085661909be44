//! `callsign demo`: a server of its own with three services, shown by the commands that one would type.
//!
//! The server is this program, started as `callsign serve` is, with nothing kept and every address free. The services are
//! loops of this process that answer HTTP, one of which falls ill and recovers. What is shown is what the commands print.
//! One Ctrl-C ends all of it, and nothing is left behind.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::future::pending;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use callsign::client::{Client, Server};
use callsign::protocol::{CheckForm, HolderForm, RegisterForm, Reply, Request, Several};
use clap::Args;
use futures_util::future::join_all;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{sleep, timeout};

use super::{Done, FAILED, Failure, output};

/// How long the server may take until it is ready, and one step of the tour; both take a second or two.
const STEP_MAX: Duration = Duration::from_secs(30);
/// How long the server has to leave.
const LEAVE_MAX: Duration = Duration::from_secs(5);
/// How much later than others of the terminal's group we may get its signal.
const SIGNAL_WITHIN: Duration = Duration::from_millis(200);
/// Between two changes of health after the tour.
const CHANGE_EVERY: Duration = Duration::from_secs(4);
/// What a service of the tour reads of a request, and for how long.
const REQUEST_OCTETS_MAX: usize = 2048;
const REQUEST_MAX: Duration = Duration::from_secs(1);

/// Show how it works: a server, three services, five commands; Ctrl-C ends it
///
/// Nothing has to run and nothing is kept. It tells how to ask the same server from another terminal.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  callsign demo")]
pub struct Demo {}

impl Demo {
    pub async fn run(self) -> Done {
        let failed = |error: std::io::Error| Failure::new(FAILED, format!("listening for signals: {error}"));
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut stage = Stage::set().await?;
        // A signal is taken or not; what is cut off is the end of everything.
        let ended = tokio::select! {
            biased; // the terminal tells the commands of the tour too, which end: that is no failure then
            _ = interrupt.recv() => Ok(ExitCode::SUCCESS),
            _ = terminate.recv() => Ok(ExitCode::SUCCESS),
            failure = stage.tour() => Err(failure),
        };
        // A command that a signal of the terminal's ended may be seen to end before the same signal is here.
        let ended = match ended {
            Err(_) if timeout(SIGNAL_WITHIN, interrupt.recv()).await.is_ok() => Ok(ExitCode::SUCCESS),
            ended => ended,
        };
        stage.clear().await;
        ended
    }
}

/// One instance: a place that answers HTTP, well or not.
struct App {
    service: &'static str,
    id: String,
    listener: TcpListener,
    at: SocketAddr,
    well: Cell<bool>,
}

/// What the tour is shown on.
struct Stage {
    folder: PathBuf,
    server: Child,
    /// Our own program, and how its verbs find the server.
    program: PathBuf,
    socket: PathBuf,
    dns: String,
    http: String,
}

impl Stage {
    /// Starts the server and waits until it is ready.
    async fn set() -> Result<Self, Failure> {
        let failed = |what: &str, error: std::io::Error| Failure::new(FAILED, format!("{what}: {error}"));
        let folder = nix::unistd::mkdtemp(&std::env::temp_dir().join("callsign-demo-XXXXXX"))
            .map_err(|error| failed("making a folder", error.into()))?;
        let program = std::env::current_exe().map_err(|error| failed("finding this program", error))?;
        let socket = folder.join("callsign.sock");
        let mut serve = Command::new(&program);
        // Through `exec`, so that it does not outlive us however we end; in a group of its own, so that Ctrl-C is ours to pass on.
        serve.arg("exec").arg(std::process::id().to_string()).arg("--").arg(&program).arg("serve");
        serve.args(["--store", "memory", "--dns", "127.0.0.1:0", "--http", "127.0.0.1:0", "--log", "warn"]);
        serve.arg("--socket").arg(&socket).arg("--zones").arg(&folder);
        without_ours(&mut serve)
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .process_group(0);
        let mut server = match serve.spawn() {
            Ok(server) => server,
            Err(error) => {
                let _ = std::fs::remove_dir_all(&folder);
                return Err(failed("starting the server", error));
            }
        };
        let stdout = server.stdout.take();
        let mut stage = Self { folder, server, program, socket, dns: String::new(), http: String::new() };
        let ready = async {
            let mut lines = BufReader::new(stdout?).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                match line.split_once(' ') {
                    Some(("dns", place)) => stage.dns = place.trim_start_matches("udp+tcp ").to_owned(),
                    Some(("http", place)) => stage.http = place.to_owned(),
                    Some(("ready", _)) => return Some(()),
                    _ => {}
                }
            }
            None
        };
        match timeout(STEP_MAX, ready).await {
            Ok(Some(())) => Ok(stage),
            _ => {
                stage.clear().await;
                Err(Failure::new(FAILED, "the server did not start; what it said is above"))
            }
        }
    }

    /// Ends the server and takes away what it left.
    async fn clear(&mut self) {
        if let Some(pid) = self.server.id().and_then(|pid| i32::try_from(pid).ok()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        if timeout(LEAVE_MAX, self.server.wait()).await.is_err() {
            let _ = self.server.kill().await;
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }

    /// Never ends by itself, unless something goes wrong.
    async fn tour(&self) -> Failure {
        let apps = match self.apps().await {
            Ok(apps) => apps,
            Err(failure) => return failure,
        };
        tokio::select! {
            told = self.tell(&apps) => match told {
                Err(failure) => failure,
                Ok(()) => Failure::new(FAILED, "the server has ended"),
            },
            _ = join_all(apps.iter().map(App::serve)) => unreachable!("they serve for ever"),
        }
    }

    async fn apps(&self) -> Result<Vec<App>, Failure> {
        let mut apps = Vec::new();
        for (service, count) in [("web", 3), ("api", 2), ("db", 1)] {
            for number in 1..=count {
                let bound = async {
                    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
                    let at = listener.local_addr()?;
                    Ok(App {
                        service,
                        id: format!("{service}-{number}"),
                        listener,
                        at,
                        well: Cell::new(true),
                    })
                };
                apps.push(bound.await.map_err(|error: std::io::Error| {
                    Failure::new(FAILED, format!("opening a port for {service}: {error}"))
                })?);
            }
        }
        Ok(apps)
    }

    async fn tell(&self, apps: &[App]) -> Result<(), Failure> {
        let mut client = self.client().await?;
        let mut health = Health::follow(self.client().await?).await?;
        for app in apps {
            client.request(&Request::Register(Box::new(app.form()))).await?;
        }
        health.until(|passing| passing.len() == apps.len()).await?;
        say(&format!(
            "A server is running, with web (3 instances), api (2) and db (1), each with a check of its own.\n\
             To ask it from another terminal:\n\n  export CALLSIGN_SERVER=unix:{} CALLSIGN_DNS={}\n\n\
             The dashboard: http://{}/ui/",
            self.socket.display(),
            self.dns,
            self.http
        ))?;
        self.show("1. What is registered, and how much of it is live:", &["ls"]).await?;
        self.show("2. What everybody else sees, by DNS:", &["dig", "web.service.local", "SRV"]).await?;
        let ill = apps.iter().find(|app| app.id == "web-3").expect("it is one of them");
        ill.well.set(false);
        health.until(|passing| !passing.contains(&ill.id)).await?;
        self.show(
            "3. web-3 has begun to answer 503. It is out of DNS, and this is why:",
            &["explain", "web"],
        )
        .await?;
        ill.well.set(true);
        health.until(|passing| passing.contains(&ill.id)).await?;
        self.show("4. It has recovered. What happened, and when:", &["log", "web"]).await?;
        say("\n5. Every change as it happens, until Ctrl-C:\n\n$ callsign watch")?;
        let mut watch = self.callsign(&["watch"]);
        let mut watch = watch.kill_on_drop(true).spawn().map_err(not_run)?;
        tokio::select! {
            ended = watch.wait() => ended.map(drop).map_err(not_run),
            failure = self.live(&mut client, apps) => Err(failure),
        }
    }

    /// Goes on as services do: one falls ill and recovers, one is drained and comes back.
    async fn live(&self, client: &mut Client, apps: &[App]) -> Failure {
        let (ill, drained) = (&apps[2], &apps[4]);
        let away = HolderForm {
            service: drained.service.into(),
            id: drained.id.as_str().into(),
            host: None,
            lease_id: None,
        };
        loop {
            sleep(CHANGE_EVERY).await;
            ill.well.set(!ill.well.get());
            sleep(CHANGE_EVERY).await;
            let request = match ill.well.get() {
                true => Request::Register(Box::new(drained.form())),
                false => Request::Drain(away.clone()),
            };
            if let Err(error) = client.request(&request).await {
                return error.into();
            }
        }
    }

    /// A command with its true output, after what it is for.
    async fn show(&self, what: &str, words: &[&str]) -> Result<(), Failure> {
        say(&format!("\n{what}\n\n$ callsign {}", words.join(" ")))?;
        self.callsign(words).status().await.map(drop).map_err(not_run)
    }

    fn callsign(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        without_ours(&mut command).args(words).stdin(Stdio::null());
        command
            .env("CALLSIGN_SERVER", format!("unix:{}", self.socket.display()))
            .env("CALLSIGN_DNS", &self.dns);
        command
    }

    async fn client(&self) -> Result<Client, Failure> {
        Ok(Client::connect(&Server::Unix(self.socket.clone()), STEP_MAX).await?)
    }
}

/// What somebody has set for a server of theirs is not for this one.
fn without_ours(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CALLSIGN_")) {
        command.env_remove(name);
    }
    command.env_remove("NOTIFY_SOCKET").env_remove("LISTEN_FDS").env_remove("WATCHDOG_USEC")
}

fn not_run(error: std::io::Error) -> Failure {
    Failure::new(FAILED, format!("running a command of the tour: {error}"))
}

fn say(text: &str) -> Result<(), Failure> {
    output::print(&format!("{text}\n"))
}

impl App {
    fn form(&self) -> RegisterForm {
        let check = CheckForm {
            id: "http".to_owned(),
            http: Some(format!("http://{}/health", self.at)),
            interval: Some("1s".to_owned()),
            ..CheckForm::default()
        };
        RegisterForm {
            service: self.service.to_owned(),
            id: Some(self.id.clone()),
            address: Some(Several(vec![self.at.ip().to_string()])),
            port: Some(self.at.port().into()),
            protocol: Some("http".to_owned()),
            lease: Some("connection".to_owned()),
            checks: Some(vec![check]),
            ..RegisterForm::default()
        }
    }

    /// Answers one request after the other, for ever.
    async fn serve(&self) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => drop(timeout(REQUEST_MAX, self.answer(stream)).await),
                Err(_) => pending().await, // its check will say so
            }
        }
    }

    async fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        // What is asked makes no difference: one read takes it out of the way.
        let _asked = stream.read(&mut [0; REQUEST_OCTETS_MAX]).await?;
        let (status, text) = match self.well.get() {
            true => ("200 OK", format!("{} is well\n", self.id)),
            false => ("503 Service Unavailable", format!("{} is ill\n", self.id)),
        };
        let head =
            format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", text.len());
        stream.write_all((head + &text).as_bytes()).await?;
        stream.shutdown().await
    }
}

/// Who is passing, as a watcher is told.
struct Health {
    client: Client,
    passing: BTreeSet<String>,
}

impl Health {
    async fn follow(mut client: Client) -> Result<Self, Failure> {
        client.send(&Request::Watch(Box::default())).await?;
        Ok(Self { client, passing: BTreeSet::new() })
    }

    async fn until(&mut self, holds: impl Fn(&BTreeSet<String>) -> bool) -> Result<(), Failure> {
        while !holds(&self.passing) {
            let heard = timeout(STEP_MAX, self.client.receive()).await;
            let heard = heard.map_err(|_| Failure::new(FAILED, "the server tells of no change"))??;
            if let Reply::Change(change) = heard
                && let Some(id) = change.id
            {
                match change.instance.is_some_and(|instance| instance.health == "passing") {
                    true => self.passing.insert(id),
                    false => self.passing.remove(&id),
                };
            }
        }
        Ok(())
    }
}
