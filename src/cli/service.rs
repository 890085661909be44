//! `callsign service`: what is set for a service, whatever its instances say.

use std::process::ExitCode;

use callsign::protocol::{Reply, Request, SettingsForm};
use clap::{ArgGroup, Args, Subcommand};

use super::{Asking, Done, Format, number, output, tell_if_absent};

/// Show or change the settings of a service
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  callsign service set web --ttl 10s\n  callsign service show web")]
pub struct Service {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Set something for a service; it is kept, and wins over the configuration
    #[command(
        group = ArgGroup::new("what").args(["ttl", "balance", "max_answers", "failover", "no_failover", "srv_weights", "guard", "guard_for", "reset"]).required(true).multiple(true),
        after_help = "Example:\n  callsign service set web --ttl 10s --balance rotate\n  callsign service set web --reset"
    )]
    Set {
        /// The service's name; it need not be registered yet
        service: String,
        /// How long a resolver may keep its records, 0s to 300s
        #[arg(long, value_name = "TIME")]
        ttl: Option<String>,
        /// How its instances are chosen and put into order: weighted, rotate, first, nearest or affinity; one or
        /// one:POLICY for a single answer
        #[arg(long, value_name = "POLICY")]
        balance: Option<String>,
        /// How many records an answer has at most; 0 for any number
        #[arg(long, value_name = "N", value_parser = number::<i64>, allow_negative_numbers = true)]
        max_answers: Option<i64>,
        /// Who answers while nothing is live: a service, or last a name elsewhere; may be given several times
        #[arg(long, value_name = "NAME", conflicts_with = "no_failover")]
        failover: Option<Vec<String>>,
        /// Nobody answers instead
        #[arg(long)]
        no_failover: bool,
        /// How SRV tells weights: plain, or haproxy for those that HAProxy computes the right ones from
        #[arg(long, value_name = "FORM")]
        srv_weights: Option<String>,
        /// Hold its instances in the answers when more than this share goes bad at once: 50%, or off
        #[arg(long, value_name = "SHARE")]
        guard: Option<String>,
        /// How long they are held at most, 1s to 24h (10m where nothing is set)
        #[arg(long, value_name = "TIME")]
        guard_for: Option<String>,
        /// Back to the server's configuration, but for what is set here
        #[arg(long)]
        reset: bool,
        #[command(flatten)]
        asking: Asking,
    },
    /// Show what is set for a service
    #[command(after_help = "Example:\n  callsign service show web")]
    Show {
        /// The service's name
        service: String,
        #[command(flatten)]
        asking: Asking,
    },
}

impl Service {
    pub async fn run(self) -> Done {
        let (asking, form) = match self.verb {
            Verb::Set {
                service,
                ttl,
                balance,
                max_answers,
                failover,
                no_failover,
                srv_weights,
                guard,
                guard_for,
                reset,
                asking,
            } => {
                let failover = if no_failover { Some(Vec::new()) } else { failover };
                let form = SettingsForm {
                    service,
                    ttl,
                    balance,
                    max_answers,
                    failover,
                    srv_weights,
                    guard,
                    guard_for,
                    reset,
                };
                (asking, form)
            }
            Verb::Show { service, asking } => (asking, SettingsForm { service, ..SettingsForm::default() }),
        };
        let service = form.service.clone();
        let (mut client, reply) = asking.ask(&Request::Settings(form)).await?;
        let Reply::Settings(reply) = reply else {
            return Err(client.unexpected(&reply).into());
        };
        match asking.output {
            Format::Table => {
                let mut words = reply.settings.words();
                if words.is_empty() {
                    words.push(("settings", "as the server's configuration says".to_owned()));
                }
                output::print(&output::list(&[vec![("service", reply.service)], words].concat()))?;
            }
            format => output::value(format, &reply)?,
        }
        tell_if_absent(&mut client, &service).await;
        Ok(ExitCode::SUCCESS)
    }
}
