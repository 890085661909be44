//! `callsign nodes`: the servers that share the registry.

use std::net::SocketAddr;
use std::process::ExitCode;

use callsign::protocol::{NodeShown, Reply, Request, StatusForm};
use clap::Args;

use super::{Asking, Done, Format, message, output};

/// Show the nodes that share the registry, and how far each has followed
///
/// The server that is asked asks the others, over DNS.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  callsign nodes\n  callsign nodes -o json")]
pub struct Nodes {
    #[command(flatten)]
    asking: Asking,
}

impl Nodes {
    pub async fn run(self) -> Done {
        let (client, reply) = self.asking.ask(&Request::Nodes(StatusForm {})).await?;
        let Reply::Nodes(told) = reply else { return Err(client.unexpected(&reply).into()) };
        if self.asking.output != Format::Table {
            output::values(self.asking.output, &told.nodes)?;
            return Ok(ExitCode::SUCCESS);
        }
        let header = ["NODE", "ALIVE", "ADDRESS", "REVISION", "LAG", "SHARE"];
        output::print(&output::table(&header, told.nodes.iter().map(row).collect()))?;
        for node in &told.nodes {
            if let Some(silent) = &node.silent {
                message::say(&format!("{} did not say its revision: {silent}", node.node.name));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn row(shown: &NodeShown) -> Vec<String> {
    let node = &shown.node;
    let addresses: Vec<String> =
        node.addresses.iter().map(|address| SocketAddr::new(*address, node.dns).to_string()).collect();
    let number =
        |number: Option<u64>| output::or_dash(number.map(|number| number.to_string()).unwrap_or_default());
    vec![
        node.name.clone(),
        shown.left.as_ref().map_or("yes".to_owned(), |left| format!("no, left {left}")),
        output::or_dash(addresses.join(",")),
        number(shown.revision),
        number(shown.lag),
        output::percent(shown.share),
    ]
}
