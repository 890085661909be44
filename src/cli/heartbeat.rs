//! `callsign heartbeat`: renews a lease once, for scripts that hold a registration themselves.

use std::process::ExitCode;

use callsign::protocol::{Reply, Request};
use clap::Args;

use super::{Asking, Done, Format, Named, output};

/// Renew the lease of an instance once
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  callsign register web 10.0.0.7:8080 --id web-1 --lease 15s\n  callsign heartbeat web web-1"
)]
pub struct Heartbeat {
    #[command(flatten)]
    named: Named,
    #[command(flatten)]
    asking: Asking,
}

impl Heartbeat {
    pub async fn run(self) -> Done {
        let (client, reply) = self.asking.ask(&Request::Heartbeat(self.named.form(&self.asking)?)).await?;
        let Reply::Renewed(renewed) = reply else {
            return Err(client.unexpected(&reply).into());
        };
        match self.asking.output {
            Format::Table => {
                output::line(&format!("renewed {} {} for {}", renewed.service, renewed.id, renewed.lease))?
            }
            format => output::value(format, &renewed)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}
