//! `callsign at`: who was registered at a time.

use std::process::ExitCode;

use callsign::protocol::{AtForm, Reply, Request};
use clap::Args;

use super::{Asking, Done, Format, message, output};

/// Show who was registered at a time, as far back as the log reaches
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  callsign at 10m web\n  callsign at 2026-11-21T15:04:05Z web")]
pub struct At {
    /// A time, or how long ago
    time: String,
    /// The service's name
    service: String,
    #[command(flatten)]
    asking: Asking,
}

impl At {
    pub async fn run(self) -> Done {
        let request = Request::At(AtForm { time: self.time.clone(), service: self.service.clone() });
        let (client, reply) = self.asking.ask(&request).await?;
        let Reply::At(then) = reply else { return Err(client.unexpected(&reply).into()) };
        if self.asking.output != Format::Table {
            output::values(self.asking.output, &then.instances)?;
            return Ok(ExitCode::SUCCESS);
        }
        if then.instances.is_empty() {
            let (service, time) = (&self.service, &self.time);
            message::hint(&format!(
                "nobody was registered as {service} at {time}, as far as the log reaches"
            ));
        }
        let rows = then.instances.iter().map(|instance| {
            let (place, ports) = (output::place(instance), output::ports(instance));
            vec![instance.id.clone(), instance.host.clone(), place, ports, output::standing(instance)]
        });
        output::print(&output::table(&["ID", "HOST", "ADDRESS", "PORTS", "HEALTH"], rows.collect()))?;
        Ok(ExitCode::SUCCESS)
    }
}
