//! `callsign feed`: every change as a line of JSON, for a queue to carry.

use std::process::ExitCode;

use callsign::protocol::{FeedForm, Reply, Request};
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::{Asking, Done, FAILED, Failure, Format, output};

/// Print every change as a line of JSON: those since a revision, then those to come
///
/// Without --since, what is registered now comes first. `callsign apply` takes the lines in again, elsewhere
/// or later. Each has the revision to resume from.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  callsign feed --since 0 | while read -r line; do redis-cli XADD registry '*' change \"$line\"; done"
)]
pub struct Feed {
    /// The last revision that you have; 0 for everything
    #[arg(long, value_name = "REVISION")]
    since: Option<u64>,
    /// End when this many changes were printed
    #[arg(long, value_name = "N")]
    most: Option<u64>,
    #[command(flatten)]
    asking: Asking,
}

impl Feed {
    pub async fn run(self) -> Done {
        let mut interrupt = signal(SignalKind::interrupt())
            .map_err(|error| Failure::new(FAILED, format!("listening for signals: {error}")))?;
        let mut client = self.asking.connect().await?;
        client.send(&Request::Feed(FeedForm { since: self.since })).await?;
        let mut left = self.most.unwrap_or(u64::MAX);
        while left > 0 {
            // Cancel-safe, both: `receive` keeps what it has, a signal is taken or not.
            let reply = tokio::select! {
                reply = client.receive() => reply?,
                _ = interrupt.recv() => break,
            };
            match reply {
                Reply::Change(_) => output::value(Format::Jsonl, &reply)?,
                Reply::Error(problem) => return Err(problem.into()),
                other => return Err(client.unexpected(&other).into()),
            }
            left -= 1;
        }
        Ok(ExitCode::SUCCESS)
    }
}
