//! `callsign log`: what changed, when, why and by whom.

use std::process::ExitCode;

use callsign::protocol::{LogForm, Reply, Request};
use clap::Args;

use super::watch::told;
use super::{Asking, Done, Format, message, number, output};

/// Show what changed, newest first: when, why and by whom
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  callsign log web\n  callsign log web --id web-1 --most 5 -o json")]
pub struct Log {
    /// Only this service
    service: Option<String>,
    /// Only instances with this id
    #[arg(long)]
    id: Option<String>,
    /// How many changes at most
    #[arg(long, value_name = "N", value_parser = number::<u64>, default_value_t = 100)]
    most: u64,
    #[command(flatten)]
    asking: Asking,
}

impl Log {
    pub async fn run(self) -> Done {
        let mut client = self.asking.connect().await?;
        let mut form = LogForm {
            service: self.service.clone(),
            id: self.id.clone(),
            before: None,
            most: Some(self.most),
        };
        let mut changes = Vec::new();
        loop {
            let reply = client.request(&Request::Log(form.clone())).await?;
            let Reply::Log(page) = reply else { return Err(client.unexpected(&reply).into()) };
            changes.extend(page.changes);
            form.before = page.next;
            form.most = Some(self.most.saturating_sub(changes.len() as u64));
            if form.before.is_none() || form.most == Some(0) {
                break;
            }
        }
        if self.asking.output != Format::Table {
            output::values(self.asking.output, &changes)?;
            return Ok(ExitCode::SUCCESS);
        }
        for change in &changes {
            output::line(&told(change))?;
        }
        if let Some(service) = self.service.filter(|_| changes.is_empty()) {
            let whom = self.id.map(|id| format!("{id} of {service}")).unwrap_or(service);
            message::hint(&format!("the log has no change of {whom}; `callsign log` shows every service's"));
        }
        Ok(ExitCode::SUCCESS)
    }
}
