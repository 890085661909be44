//! `callsign feed`: every change as a line of JSON, for a queue to carry.

use std::process::ExitCode;

use callsign::client::follow::{self, Shown};
use callsign::protocol::{FeedForm, Reply, Request};
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::{Asking, Done, FAILED, Failure, Format, number, output};

/// Print every change as a line of JSON: those since a revision, then those to come
///
/// Without --since, what is registered now comes first. `callsign apply` takes the lines in again, elsewhere
/// or later. Each has the revision to resume from. Of several servers, another one goes on where one is lost.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  callsign feed --since 0 | while read -r line; do redis-cli XADD registry '*' change \"$line\"; done"
)]
pub struct Feed {
    /// The last revision that you have; 0 for everything
    #[arg(long, value_name = "REVISION", value_parser = number::<u64>)]
    since: Option<u64>,
    /// End when this many changes were printed
    #[arg(long, value_name = "N", value_parser = number::<u64>)]
    most: Option<u64>,
    #[command(flatten)]
    asking: Asking,
}

impl Feed {
    pub async fn run(self) -> Done {
        let mut interrupt = signal(SignalKind::interrupt())
            .map_err(|error| Failure::new(FAILED, format!("listening for signals: {error}")))?;
        // A signal is taken or not; what is cut off is the end of everything.
        tokio::select! {
            fed = self.feed() => fed,
            _ = interrupt.recv() => Ok(ExitCode::SUCCESS),
        }
    }

    async fn feed(&self) -> Done {
        let (mut way, timeout) = (self.asking.way()?, self.asking.timeout);
        let mark = way.has_others();
        let request = |since| Request::Feed(FeedForm { since, mark });
        let (mut client, mut shown) = (way.connect(timeout).await?, Shown::default());
        client.send(&request(self.since)).await?;
        if let Some(since) = self.since {
            shown.all_to(since);
        }
        // What is registered comes first, all of it of one revision, and cannot be gone on with halfway.
        let mut whole = self.since.is_some();
        let mut left = self.most.unwrap_or(u64::MAX);
        let mut first = None;
        while left > 0 {
            let reply = match first.take() {
                Some(reply) => Ok(reply),
                None => client.receive().await,
            };
            match reply {
                Ok(Reply::Change(change)) => {
                    if whole && !shown.takes(&change) {
                        continue;
                    }
                    output::value(Format::Jsonl, &Reply::Change(change))?;
                    left -= 1;
                }
                Ok(Reply::Fed(fed)) => {
                    if !std::mem::replace(&mut whole, true) {
                        shown.all_to(fed.revision);
                    }
                }
                Ok(other) => return Err(client.unexpected(&other).into()),
                Err(error) if whole && error.is_of_the_server() && way.has_others() => {
                    (client, first) = follow::go_on(&mut way, timeout, &error, &shown, request).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
