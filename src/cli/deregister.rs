//! `callsign deregister`: what is not there is no failure, so a retry is safe; what is on another host is one.

use std::process::ExitCode;

use callsign::protocol::{Reply, Request};
use clap::Args;

use super::{Asking, Done, Format, Named, message, output};

/// Take an instance out of the registry
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  callsign deregister web web-1")]
pub struct Deregister {
    #[command(flatten)]
    named: Named,
    #[command(flatten)]
    asking: Asking,
}

impl Deregister {
    pub async fn run(self) -> Done {
        let (mut client, reply) =
            self.asking.ask(&Request::Deregister(self.named.form(&self.asking)?)).await?;
        let Reply::Deregistered(gone) = reply else {
            return Err(client.unexpected(&reply).into());
        };
        if !gone.existed
            && let Some(failure) =
                self.named.on_another_host(&mut client, "deregister", gone.host.as_deref()).await
        {
            return Err(failure);
        }
        match self.asking.output {
            Format::Table if gone.existed => {
                output::line(&format!("deregistered {} {}", gone.service, gone.id))?
            }
            Format::Table => {
                let host = gone.host.map(|host| format!("@{host}")).unwrap_or_default();
                output::line(&format!("{}/{}{host} was not registered", gone.service, gone.id))?;
                message::hint(&self.named.listed());
            }
            format => output::value(format, &gone)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}
