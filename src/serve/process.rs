//! The server as a process: its limits, its tasks, its signals, and who watches over it.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::writer::Handle;

/// One line for each bound address, then `ready`: what scripts and tests wait for.
pub(super) fn announce(lines: &[String]) -> Result<()> {
    let binary = std::env::current_exe().unwrap_or_else(|_| "callsign".into());
    let mut out = std::io::stdout().lock();
    for line in lines {
        writeln!(out, "{line}")?;
    }
    writeln!(out, "ready {}", binary.display())?;
    out.flush()?;
    Ok(())
}

/// Tells systemd, or whoever gave us a NOTIFY_SOCKET.
pub(super) fn tell_supervisor(state: sd_notify::NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "telling the supervisor");
    }
}

/// Says that we live as long as the writer comes round: a server that cannot change anything any more is
/// worse than one that is restarted.
pub(super) async fn watch_over(writer: Handle, every: Duration, stop: CancellationToken) {
    // Cancel-safe: a ping that is not waited for is answered into nothing.
    while tokio::select! {
        () = stop.cancelled() => false,
        pong = writer.ping() => pong.is_ok(),
    } {
        tell_supervisor(sd_notify::NotifyState::Watchdog);
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(every) => {}
        }
    }
}

/// Takes every descriptor that we may have: a connection each, and the soft limit is often 1024.
pub(super) fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::debug!(%error, "raising the limit of descriptors");
    }
}

/// What tokens and keys are is in our memory: it goes into no core file, and no other process of our user reads it.
pub(super) fn keep_memory_to_ourselves() {
    if let Err(error) = nix::sys::prctl::set_dumpable(false) {
        tracing::warn!(%error, "keeping this process out of core files");
    }
}

/// The named tasks of the server.
#[derive(Default)]
pub(super) struct Tasks {
    set: JoinSet<(&'static str, std::io::Result<()>)>,
}

impl Tasks {
    pub(super) fn spawn(
        &mut self,
        name: &'static str,
        task: impl Future<Output = std::io::Result<()>> + Send + 'static,
    ) {
        self.set.spawn(async move { (name, task.await) });
    }

    /// Waits for the first task to end, which none should, and says which and why.
    pub(super) async fn first_end(&mut self) -> String {
        match self.set.join_next().await {
            Some(Ok((name, Ok(())))) => format!("the task `{name}` ended early"),
            Some(Ok((name, Err(error)))) => format!("the task `{name}` failed: {error}"),
            Some(Err(error)) => format!("a task ended: {error}"),
            None => "no task is running".to_owned(),
        }
    }

    pub(super) async fn all_ends(&mut self) {
        while self.set.join_next().await.is_some() {}
    }
}

/// SIGTERM and SIGINT alike.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("listening for signals");
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    pub(super) async fn next(&mut self) -> &'static str {
        // Both arms are cancel-safe.
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
