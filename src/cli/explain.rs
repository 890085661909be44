//! `callsign explain`: why a name is, or is not, in DNS.

use std::process::ExitCode;

use callsign::protocol::{ExplainForm, Reply, Request};
use clap::Args;

use super::{Asking, Done, Format, NOT_FOUND, output};

/// Say why a name is, or is not, in DNS, instance by instance
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  callsign explain web\n  callsign explain v2.web.service.local")]
pub struct Explain {
    /// A service, or any domain name
    name: String,
    #[command(flatten)]
    asking: Asking,
}

impl Explain {
    pub async fn run(self) -> Done {
        let request = Request::Explain(ExplainForm { name: self.name.clone() });
        let (client, reply) = self.asking.ask(&request).await?;
        let Reply::Explained(explained) = reply else {
            return Err(client.unexpected(&reply).into());
        };
        let code = if explained.known { ExitCode::SUCCESS } else { ExitCode::from(NOT_FOUND) };
        if self.asking.output != Format::Table {
            output::value(self.asking.output, &explained)?;
            return Ok(code);
        }
        output::line(&format!("{}: {}", explained.name, explained.verdict))?;
        if let Some(nearest) = &explained.nearest {
            output::line(&format!("did you mean `{nearest}`?"))?;
        }
        if !explained.instances.is_empty() {
            let rows = explained.instances.into_iter().map(|instance| {
                let answers = if instance.in_answers { "in" } else { "out" };
                vec![instance.id, instance.host, answers.to_owned(), instance.rule]
            });
            output::print(&format!(
                "\n{}",
                output::table(&["ID", "HOST", "ANSWERS", "RULE"], rows.collect())
            ))?;
        }
        Ok(code)
    }
}
