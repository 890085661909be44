//! `callsign ring`: what belongs to which node.

use std::process::ExitCode;

use callsign::protocol::{PlacedForm, Reply, Request, RingForm, ShareForm};
use clap::Args;

use super::{Asking, Done, Format, output};

/// Show what each node has of the ring, or whose a name is by it
#[derive(Debug, Args)]
#[command(
    after_help = "What a node watches over by the ring: probes, guards, and the leases that dead nodes left.
An instance lies where its whole name does, SERVICE/ID@HOST; with an id alone, the instances that have it are listed as well.

Example:
  callsign ring
  callsign ring web-1
  callsign ring web/web-1@m1 -o json"
)]
pub struct Ring {
    /// An instance by its whole name or its id, a host, a service, or any other text
    id: Option<String>,
    #[command(flatten)]
    asking: Asking,
}

impl Ring {
    pub async fn run(self) -> Done {
        let by_node = self.id.is_none();
        let (client, reply) = self.asking.ask(&Request::Ring(RingForm { id: self.id })).await?;
        let Reply::Ring(told) = reply else { return Err(client.unexpected(&reply).into()) };
        match (self.asking.output, by_node) {
            (Format::Table, true) => {
                let rows = told.nodes.iter().map(node_row).collect();
                output::print(&output::table(&["NODE", "SLOTS", "SHARE"], rows))?;
            }
            (Format::Table, false) => {
                let rows = told.placed.iter().map(placed_row).collect();
                let header = ["ID", "HASH", "SLOT", "PLACE", "OWNER", "NEXT"];
                output::print(&output::table(&header, rows))?;
            }
            (format, true) => output::values(format, &told.nodes)?,
            (format, false) => output::values(format, &told.placed)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn node_row(node: &ShareForm) -> Vec<String> {
    vec![node.name.clone(), node.slots.to_string(), output::percent(node.share)]
}

fn placed_row(placed: &PlacedForm) -> Vec<String> {
    vec![
        placed.id.clone(),
        placed.hash.clone(),
        placed.slot.to_string(),
        format!("{:.5}", placed.place),
        placed.owner.clone(),
        output::or_dash(placed.next.clone().unwrap_or_default()),
    ]
}
