//! `callsign feed-containers`: containers that say so in their labels are registered for as long as they run.
//!
//! An event of the engine only says that something has changed; what runs is then read as a whole and compared with what is
//! registered, and so it is every half minute besides. Registrations have a lease that is renewed here: a container that
//! stops leaves at once, and where this program itself is gone they stay for one lease, in which it comes back and says the
//! same again. Nothing else has to be remembered.

mod engine;
mod labels;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use callsign::client::{Client, ClientError, Way};
use callsign::protocol::{HolderForm, RegisterForm, RegisteredForm, Reply, ReportForm, Request};
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use self::engine::{Container, Engine, Events};
use self::labels::{At, HEALTH, OURS};
use super::{Asking, Done, FAILED, Failure, USAGE, duration, message};

/// The shortest lease: a feeder that is started anew, or an engine under load, takes seconds.
const LEASE_MIN: Duration = Duration::from_secs(10);
/// Renewals per lease: two may be lost.
const RENEWALS_PER_LEASE: u32 = 3;
/// All is read again without an event after this long: a stream of events may have a hole.
const READ_EVERY: Duration = Duration::from_secs(30);
/// Events come in handfuls: what is there is read once for all of them.
const GATHER: Duration = Duration::from_millis(50);
/// Between two tries after trouble: doubled each time.
const AGAIN_MIN: Duration = Duration::from_millis(500);
const AGAIN_MAX: Duration = Duration::from_secs(10);
/// How long registrations are renewed while the engine does not answer: its containers run on while it is started anew, and
/// nobody knows of them when it is not.
const ENGINE_AWAY_MAX: Duration = Duration::from_secs(600);
/// What was said once is not said again, as long as there is not more of it than this.
const TOLD_MAX: usize = 10_000;

/// Register containers by their labels, for as long as they run
#[derive(Debug, Args)]
#[command(after_help = "A container with the label callsign.service=NAME is registered;
callsign.port, .tags, .protocol, .check.http and others say more (docs/containers.md). Docker and Podman are understood.

Example:
  callsign feed-containers
  docker run --detach --label callsign.service=web --label callsign.port=80 nginx
  callsign feed-containers --engine /run/podman/podman.sock --published 10.0.0.7")]
pub struct FeedContainers {
    /// The engine's socket [env: DOCKER_HOST] [default: the first of $XDG_RUNTIME_DIR/podman/podman.sock, /var/run/docker.sock
    /// and /run/podman/podman.sock that is there]
    #[arg(long, value_name = "PATH")]
    engine: Option<PathBuf>,
    /// Register this address of the host, and the ports published there, instead of the containers' own addresses
    #[arg(long, value_name = "ADDR", conflicts_with = "network")]
    published: Option<String>,
    /// The network whose addresses are registered, for containers that are in several and do not say which
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    /// How long registrations outlive this program
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "30s")]
    lease: Duration,
    /// The machine that the containers run on [default: what the server calls this one]
    #[arg(long)]
    host: Option<String>,
    #[command(flatten)]
    asking: Asking,
}

impl FeedContainers {
    pub async fn run(self) -> Done {
        if self.lease < LEASE_MIN {
            return Err(Failure::new(USAGE, format!("--lease must be {}s or more", LEASE_MIN.as_secs())));
        }
        let failed = |error: std::io::Error| Failure::new(FAILED, format!("listening for signals: {error}"));
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let at = match self.published {
            Some(address) => At::Published(address),
            None => At::Itself { network: self.network },
        };
        let mut feeder = Feeder {
            engine: Engine::find(self.engine)?,
            host: self.asking.host(self.host.as_ref())?,
            at,
            lease: self.lease,
            way: self.asking.way()?,
            timeout: self.asking.timeout,
            held: BTreeMap::new(),
            told: BTreeSet::new(),
            renew_at: now(),
            away: None,
            dropped: false,
        };
        // Both end it: what is registered stays for its lease.
        tokio::select! {
            failure = feeder.feed() => Err(failure),
            _ = interrupt.recv() => Ok(ExitCode::SUCCESS),
            _ = terminate.recv() => Ok(ExitCode::SUCCESS),
        }
    }
}

struct Feeder {
    engine: Engine,
    at: At,
    lease: Duration,
    host: Option<String>,
    way: Way,
    timeout: Duration,
    /// What is registered, by the id of its container.
    held: BTreeMap<String, Held>,
    told: BTreeSet<String>,
    /// When all that is held is renewed.
    renew_at: Instant,
    /// Since when the engine does not answer, while that is so.
    away: Option<Instant>,
    /// Something is not held any more that may have to be.
    dropped: bool,
}

/// A container's registration.
struct Held {
    form: RegisterForm,
    health: Option<&'static str>,
    registered: RegisteredForm,
}

impl Held {
    fn holder(&self) -> HolderForm<'static> {
        HolderForm {
            service: self.registered.service.clone().into(),
            id: self.registered.id.clone().into(),
            host: Some(self.registered.host.clone()),
            lease_id: Some(self.registered.lease_id.clone()),
        }
    }
}

/// Why a round was not finished.
enum Trouble {
    Engine(String),
    Server(ClientError),
}

impl From<ClientError> for Trouble {
    fn from(error: ClientError) -> Self {
        Self::Server(error)
    }
}

impl Feeder {
    /// Ends only where it cannot begin: what never worked is a mistake of whoever typed it.
    async fn feed(&mut self) -> Failure {
        let (mut pause, mut said, mut begun) = (AGAIN_MIN, String::new(), false);
        loop {
            let trouble = self.follow(&mut begun).await;
            let sentence = match &trouble {
                Trouble::Engine(what) => what.clone(),
                Trouble::Server(error) => error.to_string(),
            };
            let of_the_engine = matches!(trouble, Trouble::Engine(_));
            match trouble {
                Trouble::Engine(_) if !begun => return Failure::new(FAILED, sentence),
                Trouble::Server(error) if !begun => return error.into(),
                Trouble::Server(error) if error.may_be_otherwise_elsewhere() => self.way.go_on(&error),
                Trouble::Engine(_) if self.away.is_none() => self.away = Some(now()),
                _ => {}
            }
            // The same trouble again is no news.
            if sentence != said {
                message::say(&format!("{sentence}; what is registered stays, and it is tried again"));
                said = sentence;
                pause = AGAIN_MIN;
            }
            let mut again = now() + pause;
            // The server is there: no lease waits for the engine.
            if of_the_engine && self.is_believed() {
                again = again.min(self.renew_at);
            }
            sleep_until(again).await;
            pause = (2 * pause).min(AGAIN_MAX).min(self.lease / RENEWALS_PER_LEASE);
        }
    }

    /// Over one connection to each side, until one of them ends.
    async fn follow(&mut self, begun: &mut bool) -> Trouble {
        let mut client = match self.way.connect(self.timeout).await {
            Ok(client) => client,
            Err(error) => return error.into(),
        };
        let engine = self.engine.clone();
        // What happens while all is read is told by the events that were asked for before.
        let mut events = match self.renewing(&mut client, engine.events()).await {
            Ok(events) => events,
            Err(trouble) => return trouble,
        };
        // After a server was lost nobody knows what it has: all is said again.
        let mut anew = true;
        loop {
            if let Err(trouble) = self.round(&mut client, anew).await {
                return trouble;
            }
            if !*begun || self.away.is_some() {
                message::say(&format!(
                    "{} of the containers at {} are registered",
                    self.held.len(),
                    self.engine.socket.display()
                ));
            }
            (*begun, self.away, anew) = (true, None, false);
            self.way.worked();
            if std::mem::take(&mut self.dropped) {
                continue;
            }
            if let Err(trouble) = self.renewing(&mut client, changed(&engine, &mut events)).await {
                return trouble;
            }
        }
    }

    /// Waits for what the engine says, and renews meanwhile what is registered: an engine that hangs takes nobody's lease. Where
    /// it has been away for long, nobody knows any more what runs.
    async fn renewing<T>(
        &mut self,
        client: &mut Client,
        work: impl Future<Output = Result<T, String>>,
    ) -> Result<T, Trouble> {
        let mut work = std::pin::pin!(work);
        loop {
            let (renew_at, believed) = (self.renew_at, self.is_believed());
            // Both are polled on where they were. What is due comes first: an engine that is away refuses at once, each time that it
            // is tried.
            tokio::select! {
                biased;
                () = sleep_until(renew_at), if believed => {
                    self.renew_at = now() + self.lease / RENEWALS_PER_LEASE;
                    self.renew(client).await?;
                }
                done = &mut work => return done.map_err(Trouble::Engine),
            }
        }
    }

    fn is_believed(&self) -> bool {
        self.away.is_none_or(|since| now() - since < ENGINE_AWAY_MAX)
    }

    /// Reads what runs, and has that be registered.
    async fn round(&mut self, client: &mut Client, anew: bool) -> Result<(), Trouble> {
        let engine = self.engine.clone();
        let containers = self.renewing(client, engine.containers()).await?;
        let (mut here, mut names) = (BTreeSet::new(), BTreeMap::new());
        for container in containers.iter().filter(|container| container.runs()) {
            if container.label("callsign.service").is_none() {
                continue;
            }
            let called = labels::called(container);
            if let Some(first) = names.get(&called) {
                let (service, id) = &called;
                self.tell(format!(
                    "container {}: {service} {id} is the container {first}; give one of them another {OURS}id",
                    container.name()
                ));
                continue;
            }
            names.insert(called, container.name().to_owned());
            let health = self.renewing(client, engine.health(&container.id)).await?;
            let health = health.map(|status| if status == "healthy" { "passing" } else { "critical" });
            if self.bring(client, container, health, anew).await? {
                here.insert(container.id.clone());
            }
        }
        let gone: Vec<String> = self.held.keys().filter(|id| !here.contains(*id)).cloned().collect();
        for id in gone {
            let Some(held) = self.held.remove(&id) else { continue };
            self.leave(client, &held).await?;
        }
        Ok(())
    }

    /// Has a container be registered as it is; false where that cannot be.
    async fn bring(
        &mut self,
        client: &mut Client,
        container: &Container,
        health: Option<&'static str>,
        anew: bool,
    ) -> Result<bool, Trouble> {
        let lease = format!("{}ms", self.lease.as_millis());
        let form = match labels::registration(container, &self.at, &lease, health) {
            Ok(Some(form)) => RegisterForm { host: self.host.clone(), ..form },
            Ok(None) => return Ok(false),
            Err(what) => {
                self.tell(format!("container {}: {what}", container.name()));
                return Ok(false);
            }
        };
        let before = self.held.get(&container.id);
        let same = before.is_some_and(|held| alike(&held.form, &form));
        if same && !anew {
            let Some(held) = self.held.get_mut(&container.id).filter(|held| held.health != health) else {
                return Ok(true);
            };
            let report = report(held, health);
            return match client.request(&report).await {
                Ok(_) => {
                    held.health = health;
                    Ok(true)
                }
                // Somebody has taken it away: it is said again.
                Err(ClientError::Refused(_)) => self.register(client, container, form, health).await,
                Err(error) => Err(error.into()),
            };
        }
        // What it was called before leaves once it is there under its new name.
        let renamed =
            before.is_some_and(|held| (&held.form.service, &held.form.id) != (&form.service, &form.id));
        let before = if renamed { self.held.remove(&container.id) } else { None };
        let there = self.register(client, container, form, health).await?;
        if let Some(before) = before {
            self.leave(client, &before).await?;
        }
        Ok(there)
    }

    async fn register(
        &mut self,
        client: &mut Client,
        container: &Container,
        form: RegisterForm,
        health: Option<&'static str>,
    ) -> Result<bool, Trouble> {
        match client.request(&Request::Register(Box::new(form.clone()))).await {
            Ok(Reply::Registered(registered)) => {
                let held = Held { form, health, registered: *registered };
                if let Some(health) = health {
                    // A check that was known keeps what it was through a registration.
                    client.request(&report(&held, Some(health))).await?;
                }
                self.held.insert(container.id.clone(), held);
                Ok(true)
            }
            Ok(other) => Err(client.unexpected(&other).into()),
            Err(error) if error.is_of_the_server() => Err(error.into()),
            Err(error) => {
                self.tell(format!("container {}: {error}", container.name()));
                Ok(false)
            }
        }
    }

    async fn leave(&mut self, client: &mut Client, held: &Held) -> Result<(), Trouble> {
        match client.request(&Request::Deregister(held.holder())).await {
            // Gone already, or somebody else's by now.
            Ok(_) | Err(ClientError::Refused(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn renew(&mut self, client: &mut Client) -> Result<(), ClientError> {
        let mut lost = Vec::new();
        for (id, held) in &self.held {
            match client.request(&Request::Heartbeat(held.holder())).await {
                Ok(_) => {}
                // What was allowed a moment ago may be so elsewhere.
                Err(error)
                    if error.is_of_the_server()
                        || self.way.has_others() && error.may_be_otherwise_elsewhere() =>
                {
                    return Err(error);
                }
                Err(error) => {
                    let RegisteredForm { service, id: known, .. } = &held.registered;
                    lost.push((id.clone(), format!("{service} {known}: {error}")));
                }
            }
        }
        for (id, what) in lost {
            self.held.remove(&id);
            self.dropped = true;
            self.tell(what);
        }
        Ok(())
    }

    fn tell(&mut self, what: String) {
        if self.told.len() >= TOLD_MAX {
            self.told.clear();
        }
        if !self.told.contains(&what) {
            message::say(&what);
            self.told.insert(what);
        }
    }
}

/// The same but for what the engine says of its health, which is reported and not registered.
fn alike(one: &RegisterForm, other: &RegisterForm) -> bool {
    let bare = |form: &RegisterForm| {
        let mut form = form.clone();
        for check in form.checks.iter_mut().flatten() {
            check.status = None;
        }
        form
    };
    bare(one) == bare(other)
}

fn report(held: &Held, health: Option<&str>) -> Request<'static> {
    Request::Report(Box::new(ReportForm {
        service: Some(held.registered.service.clone()),
        id: Some(held.registered.id.clone()),
        host: Some(held.registered.host.clone()),
        lease_id: Some(held.registered.lease_id.clone()),
        check: Some(HEALTH.to_owned()),
        status: health.unwrap_or("passing").to_owned(),
        output: None,
    }))
}

/// Waits for the word that something has changed, or for the time to look without one, and takes what comes together.
async fn changed(engine: &Engine, events: &mut Events) -> Result<(), String> {
    let failed = |what: String| format!("the container engine at {}: {what}", engine.socket.display());
    let read_at = now() + READ_EVERY;
    // Cancel-safe: an event is only the word that there was one.
    tokio::select! {
        event = events.next() => event.map_err(failed)?,
        () = sleep_until(read_at) => return Ok(()),
    }
    let end = now() + GATHER;
    loop {
        tokio::select! {
            event = events.next() => event.map_err(failed)?,
            () = sleep_until(end) => return Ok(()),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a client's deadlines are its own")]
fn now() -> Instant {
    Instant::now()
}
