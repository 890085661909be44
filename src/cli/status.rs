//! `callsign status`: the server as it is now.

use std::process::ExitCode;
use std::time::Duration;

use callsign::protocol::{KeyForm, Reply, Request, SignaturesForm, SignedForm, StatusForm};
use callsign::time::format_duration;
use clap::Args;

use super::{Asking, Done, Format, UNAVAILABLE, output};

/// Show the server as it is now (exit code 5 while it is not ready)
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  callsign status\n  callsign status -o json --server unix:/run/callsign/callsign.sock"
)]
pub struct Status {
    #[command(flatten)]
    asking: Asking,
}

impl Status {
    pub async fn run(self) -> Done {
        let (client, reply) = self.asking.ask(&Request::Status(StatusForm {})).await?;
        let Reply::Status(server) = reply else {
            return Err(client.unexpected(&reply).into());
        };
        let code = if server.ready { ExitCode::SUCCESS } else { ExitCode::from(UNAVAILABLE) };
        if self.asking.output != Format::Table {
            output::value(self.asking.output, &server)?;
            return Ok(code);
        }
        let nodes = server.nodes.iter().map(|node| match node.own {
            true => format!("{} (the one that answers)", node.name),
            false => node.name.clone(),
        });
        let nodes: Vec<String> = nodes.collect();
        let mut pairs = vec![
            ("version", server.version),
            ("ready", if server.ready { "yes" } else { "no" }.to_owned()),
            ("up for", format_duration(Duration::from_secs(server.uptime_s))),
            (
                "store",
                match (server.store_trouble, server.stale_s) {
                    (Some(trouble), Some(stale_s)) => {
                        let stale = format_duration(Duration::from_secs(stale_s));
                        format!("{}, not followed for {stale}, takes nothing now: {trouble}", server.store)
                    }
                    (Some(trouble), None) => format!("{}, takes nothing now: {trouble}", server.store),
                    (None, _) => server.store,
                },
            ),
            ("domains", server.domains.join(" ")),
            ("listeners", server.listeners.join(", ")),
            ("zones", output::or_dash(server.zones.join(" "))),
            ("services", server.services.to_string()),
            ("instances", format!("{}, {} live", server.instances, server.live)),
            ("revision", server.revision.to_string()),
            ("serial", server.serial.to_string()),
        ];
        pairs.extend(server.zone_troubles.into_iter().map(|trouble| ("zone file", trouble)));
        pairs.extend(server.signed.iter().map(|zone| ("signed", signed(zone))));
        if let Some(SignaturesForm { made, kept, put_off }) = server.signatures {
            let text = format!("{made} made, {kept} kept; {put_off} replies sent to TCP for too many");
            pairs.push(("signatures", text));
        }
        if let Some(confined) = server.confined {
            pairs.push(("confined", confined));
        }
        if !nodes.is_empty() {
            pairs.insert(4, ("nodes", nodes.join(", ")));
        }
        output::print(&output::list(&pairs))?;
        Ok(code)
    }
}

/// A zone and its keys, the one that signs first.
fn signed(SignedForm { zone, keys }: &SignedForm) -> String {
    let key = |key: &KeyForm| {
        // In the largest unit that it is two of.
        let unit_s = [86_400, 3_600, 60].into_iter().find(|unit_s| key.age_s >= 2 * unit_s).unwrap_or(1);
        let age = Duration::from_secs((key.age_s - key.age_s % unit_s).max(1));
        format!("{} {}, {} old", key.tag, key.stage, format_duration(age))
    };
    format!("{zone} by key {}", keys.iter().map(key).collect::<Vec<_>>().join("; "))
}
