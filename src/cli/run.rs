//! `callsign run`: a command that is registered while it lives.
//!
//! The command is started at once and registered when its port accepts or it says `READY=1`. The lease is
//! this process' connection: when we are killed, however hard, the kernel closes it and the instance is
//! gone, and the command gets SIGTERM (see `exec`). A server that is away is waited for; the command does
//! not suffer from it.

use std::cell::Cell;
use std::ffi::OsString;
use std::future::pending;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use callsign::client::hold::{Ended, Holder, LEAVE_WITHIN, ORDERS_MAX, Order};
use callsign::name::HostName;
use callsign::protocol::{Peer, RegisterForm, RegisteredForm};
use clap::Args;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Sleep, sleep, timeout};

use super::ready::{Notified, Notify, Signals};
use super::register::Options;
use super::{Asking, Done, FAILED, Failure, TOKEN_VARIABLE, duration, message, number};

/// Between two attempts to connect to the command's port: first, and longest.
const ATTEMPT_PAUSE_MIN: Duration = Duration::from_millis(20);
const ATTEMPT_PAUSE_MAX: Duration = Duration::from_millis(500);
/// One attempt; the port is on this machine.
const ATTEMPT_MAX: Duration = Duration::from_secs(1);
/// A drain that is over and will not be over again: a later SIGTERM is passed on at once.
const NEVER: Duration = Duration::MAX;
/// What `exec` ends with where there is no such command, or none that may be run.
const NOT_STARTED: [u8; 2] = [126, 127];
/// After this long without readiness we say what we wait for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Run a command that is registered while it lives
#[derive(Debug, Args)]
#[command(
    after_help = "The command is registered as soon as its port accepts, or as it says READY=1 on $NOTIFY_SOCKET.
Signals are passed on; SIGTERM drains first. The exit status is the command's, 128 and the signal's number if it was killed.

Example:
  callsign run web --port 8080 -- python3 -m http.server 8080
  callsign run api --port 3000 --tag v2 --protocol http --drain 10s -- node server.js
  callsign run web --port 8080 --server 10.0.0.1:5301,10.0.0.2:5301 -- ./web"
)]
pub struct Run {
    /// The service's name
    service: String,
    /// The port that the command accepts on
    #[arg(long, value_name = "N", value_parser = number::<i64>)]
    port: i64,
    /// On SIGTERM: how long the command serves on after it left the answers
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "5s")]
    drain: Duration,
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    asking: Asking,
    /// The command and its arguments
    #[arg(required = true, last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl Run {
    pub async fn run(self) -> Done {
        let form = self.options.form(
            &self.asking,
            &self.service,
            None,
            Some(self.port),
            Some("connection".to_owned()),
        )?;
        let ports = checked(&form)?;
        let way = self.asking.way()?;
        let failed = |what: &str, error: std::io::Error| Failure::new(FAILED, format!("{what}: {error}"));
        let notify = Notify::open().map_err(|error| failed("opening the socket for READY=1", error))?;
        let signals = Signals::all().map_err(|error| failed("listening for signals", error))?;
        let places = self.places(ports);
        let taken = accepts_now(&places).await;
        if taken {
            message::say(&format!(
                "port {} accepts before the command has started: something else holds it; {} is registered when that has gone and the port accepts again, or when the command says READY=1",
                self.port, self.service
            ));
        }
        let child = self.start(&notify).map_err(|error| failed("starting the command", error))?;
        let (orders, received) = mpsc::channel(ORDERS_MAX);
        let (tell_ready, told_ready) = oneshot::channel();
        let holder = Holder::new(way, self.asking.timeout, form, received).insist();
        let life = Life { child, notify, signals, drain: self.drain, orders, tell_ready: Some(tell_ready) };
        let lived = life.live(self.ready(&places, taken, told_ready), holder).await?;
        let code = exit_code(lived.status);
        // What held the port was said, and what could not be started says so itself.
        if !lived.begun && !lived.signalled && !taken && !NOT_STARTED.contains(&code) {
            // What fails has its own words for why.
            let hint = if code == 0 {
                "; a program that goes into the background has to be told to stay in the foreground"
            } else {
                ""
            };
            message::say(&format!(
                "the command ended before port {} accepted, so {} was never registered{hint}",
                self.port, self.service
            ));
        }
        Ok(ExitCode::from(code))
    }

    /// Our own program stands between, and becomes the command: see `exec`.
    fn start(&self, notify: &Notify) -> std::io::Result<Child> {
        let mut own = PathBuf::from("/proc/self/exe");
        if !own.exists() {
            own = std::env::current_exe()?;
        }
        Command::new(own)
            .arg("exec")
            .arg(std::process::id().to_string())
            .arg("--")
            .args(&self.command)
            .env("NOTIFY_SOCKET", notify.path())
            // What says who we are is not for whatever the command starts.
            .env_remove(TOKEN_VARIABLE)
            .spawn()
    }

    fn places(&self, port: u16) -> Vec<SocketAddr> {
        let local = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let given: Vec<IpAddr> =
            self.options.address.iter().filter_map(|address| address.parse().ok()).collect();
        let addresses = if given.is_empty() { local.to_vec() } else { given };
        addresses.into_iter().map(|address| SocketAddr::new(address, port)).collect()
    }

    /// Until the port accepts or the command said so, whichever is first. Where something else was there before, that it accepts
    /// says nothing of the command until that one has gone: else a second one that dies at once would take the place of the first.
    async fn ready(&self, places: &[SocketAddr], taken: bool, told: oneshot::Receiver<()>) {
        let accepting = async {
            while taken && accepts_now(places).await {
                sleep(ATTEMPT_PAUSE_MAX).await;
            }
            if timeout(PATIENCE, accepts(places)).await.is_err() {
                let names: Vec<String> = places.iter().map(SocketAddr::to_string).collect();
                let (names, service) = (names.join(" or "), &self.service);
                message::say(&format!("{names} does not accept yet; {service} is registered when it does"));
                accepts(places).await;
            }
        };
        let told = async {
            if told.await.is_err() {
                pending::<()>().await;
            }
        };
        tokio::select! {
            () = accepting => {}
            () = told => {}
        }
    }
}

/// What is wrong with the registration has to be known before the command is started. Returns its port.
fn checked(form: &RegisterForm) -> Result<u16, Failure> {
    let peer = Peer {
        host: HostName::parse("localhost").expect("a host name"),
        addresses: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
        loopback_allowed: true,
        connection: 0,
    };
    Ok(form.registration(&peer, 0)?.ports.first().map_or(0, |port| port.number))
}

async fn accepts(places: &[SocketAddr]) {
    let mut pause = ATTEMPT_PAUSE_MIN;
    while !accepts_now(places).await {
        sleep(pause).await;
        pause = (pause * 2).min(ATTEMPT_PAUSE_MAX);
    }
}

async fn accepts_now(places: &[SocketAddr]) -> bool {
    for place in places {
        if matches!(timeout(ATTEMPT_MAX, TcpStream::connect(place)).await, Ok(Ok(_))) {
            return true;
        }
    }
    false
}

/// The command's number where it ended by itself, 128 and the signal's where it was killed, as shells do.
fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(FAILED)
}

/// How a command's life went.
struct Lived {
    status: ExitStatus,
    /// It was ready, and so to be registered.
    begun: bool,
    /// Somebody told it, or us, to do something.
    signalled: bool,
}

/// The command while it lives, and who may speak to it.
struct Life {
    child: Child,
    notify: Notify,
    signals: Signals,
    drain: Duration,
    orders: mpsc::Sender<Order>,
    tell_ready: Option<oneshot::Sender<()>>,
}

impl Life {
    /// Until the command has ended and its instance has left.
    async fn live(mut self, ready: impl Future<Output = ()>, holder: Holder) -> Result<Lived, Failure> {
        // The holder is at work. Its instance may be in answers from here on, before the reply has come.
        let begun = Cell::new(false);
        let mut holding = pin!(async {
            ready.await;
            begun.set(true);
            let shown = |form: &RegisteredForm| {
                message::say(&format!("registered {} {} as {}", form.service, form.id, form.dns));
                Ok::<(), Failure>(())
            };
            holder.hold(shown).await
        });
        let (mut held, mut signalled) = (true, false);
        let mut draining: Option<Pin<Box<Sleep>>> = None;
        let status = loop {
            // Cancel-safe, each: `holding` and the drain's end live outside, the rest is taken or not.
            tokio::select! {
                status = self.child.wait() => {
                    break status.map_err(|error| Failure::new(FAILED, format!("waiting for the command: {error}")))?;
                }
                signal = self.signals.next() => {
                    signalled = true;
                    match signal {
                        Signal::SIGTERM if begun.get() && draining.is_none() => {
                            self.order(Order::Drain);
                            draining = Some(Box::pin(sleep(self.drain)));
                        }
                        Signal::SIGTERM => {
                            draining = Some(Box::pin(sleep(NEVER)));
                            self.pass_on(Signal::SIGTERM);
                        }
                        signal => self.pass_on(signal),
                    }
                }
                () = elapsed(&mut draining) => {
                    draining = Some(Box::pin(sleep(NEVER)));
                    self.pass_on(Signal::SIGTERM);
                }
                said = self.notify.next() => self.heard(&said),
                ended = &mut holding, if held => {
                    held = false;
                    match ended {
                        // The command has ended, and so does the connection: there is nothing that a person could do.
                        Ok(Ended::Left | Ended::Unconfirmed(_)) => {}
                        Ok(Ended::Superseded(problem)) => message::say(&problem.message),
                        Err(failure) => failure.print(),
                    }
                }
            }
        };
        if held && begun.get() {
            self.order(Order::Leave);
            // What is not confirmed in time is done by the kernel, which closes the connection.
            let _ = timeout(LEAVE_WITHIN, holding).await;
        }
        Ok(Lived { status, begun: begun.get(), signalled })
    }

    /// There is room for every order that one life can give; one too many says nothing new.
    fn order(&self, order: Order) {
        let _ = self.orders.try_send(order);
    }

    fn heard(&mut self, said: &Notified) {
        if said.ready
            && let Some(tell) = self.tell_ready.take()
        {
            let _ = tell.send(());
        }
        if said.stopping {
            self.order(Order::Drain);
        }
    }

    fn pass_on(&self, signal: Signal) {
        // No id: it has ended, and its number may be somebody else's.
        let Some(id) = self.child.id().and_then(|id| i32::try_from(id).ok()) else {
            return;
        };
        if super::ready::came_from_terminal(signal) {
            return;
        }
        if let Err(error) = kill(Pid::from_raw(id), signal) {
            message::say(&format!("passing {signal} on: {error}"));
        }
    }
}

async fn elapsed(timer: &mut Option<Pin<Box<Sleep>>>) {
    match timer {
        Some(timer) => timer.await,
        None => pending().await,
    }
}
