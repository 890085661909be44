//! `callsign drain`: out of new answers, still known by its id.

use std::process::ExitCode;

use callsign::protocol::{Reply, Request};
use clap::Args;

use super::{Asking, Done, Format, NOT_FOUND, Named, output};

/// Take an instance out of new answers, but not out of the registry
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  callsign drain web web-1 && sleep 5 && systemctl stop web")]
pub struct Drain {
    #[command(flatten)]
    named: Named,
    #[command(flatten)]
    asking: Asking,
}

impl Drain {
    pub async fn run(self) -> Done {
        let asked = self.asking.ask(&Request::Drain(self.named.form(&self.asking)?)).await;
        let (client, reply) = match asked {
            Err(failure) if failure.code == NOT_FOUND => {
                let mut client = self.asking.connect().await?;
                let otherwise = self.named.on_another_host(&mut client, "drain", None).await;
                return Err(otherwise.unwrap_or_else(|| self.named.not_there(failure)));
            }
            asked => asked?,
        };
        let Reply::Draining(draining) = reply else {
            return Err(client.unexpected(&reply).into());
        };
        match self.asking.output {
            Format::Table => output::line(&format!("draining {} {}", draining.service, draining.id))?,
            format => output::value(format, &draining)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}
