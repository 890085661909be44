//! `callsign watch`: what is registered now, then every change, for as long as somebody listens.

use std::process::ExitCode;

use callsign::client::{self, Watched};
use callsign::protocol::{ChangeForm, CheckShown, InstanceForm, RecordsShown, Reply};
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::ls::Filter;
use super::{Asking, Done, FAILED, Failure, Format, output, tell_if_absent};

/// Follow changes: first what is registered, then one line per change
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  callsign watch\n  callsign watch web -o jsonl | jq .change.reason")]
pub struct Watch {
    /// Only this service
    service: Option<String>,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    asking: Asking,
}

impl Watch {
    /// Ends with the last server, or when nobody reads stdout any more.
    pub async fn run(self) -> Done {
        // Ctrl-C is how one leaves; the default action would make it look like a crash to scripts.
        let mut interrupt = signal(SignalKind::interrupt())
            .map_err(|error| Failure::new(FAILED, format!("listening for signals: {error}")))?;
        // A signal is taken or not; what is cut off is the end of everything.
        tokio::select! {
            watched = self.watch() => watched,
            _ = interrupt.recv() => Ok(ExitCode::SUCCESS),
        }
    }

    async fn watch(self) -> Done {
        let form = self.filter.form(self.service.clone());
        let mut way = self.asking.way()?;
        if let Some(service) = &self.service {
            tell_if_absent(&mut way.connect(self.asking.timeout).await?, service).await;
        }
        let mut watch = client::Watch::begin(way, form, self.asking.timeout).await?;
        loop {
            let reply = match watch.next().await? {
                Watched::Snapshot { page, .. } => Reply::Snapshot(page),
                Watched::Change(change) => Reply::Change(change),
            };
            show(self.asking.output, &reply)?;
        }
    }
}

fn show(format: Format, reply: &Reply) -> Result<(), Failure> {
    match (format, reply) {
        (Format::Table, Reply::Snapshot(snapshot)) => {
            for instance in &snapshot.instances {
                output::line(&format!("{} {}", instance.since, sentence("is", instance)))?;
            }
            Ok(())
        }
        (Format::Table, Reply::Change(change)) => output::line(&told(change)),
        // A stream of events has no end to close a list with: one object a line in both forms.
        (_, reply) => output::value(Format::Jsonl, reply),
    }
}

/// A change in one line: when, what, by whom, and what the checks said that decided it.
pub fn told(change: &ChangeForm) -> String {
    let ChangeForm { at, reason, author, host, .. } = change;
    if let Some(records) = &change.records {
        return format!("{at} {} by {author}", told_of(records, reason));
    }
    let what = match (&change.instance, &change.service, &change.id) {
        (Some(instance), ..) => sentence(reason, instance),
        (None, Some(service), Some(id)) => format!("{service} {id} {reason} on {host}"),
        (None, Some(service), None) => {
            let Some(settings) = &change.settings else {
                return format!("{at} {service} {reason} by {author}");
            };
            let words = settings.words();
            let words: Vec<String> = words.iter().map(|(what, how)| format!("{what} {how}")).collect();
            let words = if words.is_empty() { "nothing set".to_owned() } else { words.join(", ") };
            format!("{service} {reason}, {words}")
        }
        (None, None, _) if change.token.is_some() => {
            format!("token {} {reason}", change.token.as_deref().unwrap_or_default())
        }
        (None, None, _) => {
            let checks = change.checks.iter().flatten().map(|check| format!("{} {}", check.id, check.status));
            format!("host {host} {reason}, {}", checks.collect::<Vec<String>>().join(", "))
        }
    };
    let checks = change.instance.as_ref().map(|instance| &instance.checks).or(change.checks.as_ref());
    // What this change has made: one that is as it is since then, or has its reason since.
    let is_made = |check: &&CheckShown| check.since == *at || change.explained.contains(&check.id);
    let made = checks.into_iter().flatten().filter(is_made);
    let words = |check: &CheckShown| match check.output.as_str() {
        "" if reason == "reported" => format!("; {} {}", check.id, check.status),
        "" => String::new(),
        output => format!("; {}: {output}", check.id),
    };
    let why: String = made.map(words).collect();
    format!("{at} {what} by {author}{why}")
}

fn told_of(records: &RecordsShown, reason: &str) -> String {
    let RecordsShown { owner, rtype, ttl, data, lease } = records;
    if data.is_empty() {
        return format!("{owner} {rtype} {reason}, deleted");
    }
    let lease = lease.as_ref().map(|lease| format!(", lease {lease}")).unwrap_or_default();
    format!("{owner} {ttl} {rtype} {reason}, {}{lease}", data.join(", "))
}

fn sentence(what: &str, instance: &InstanceForm) -> String {
    let (place, ports, standing) =
        (output::place(instance), output::ports(instance), output::standing(instance));
    let InstanceForm { service, id, host, .. } = instance;
    format!("{service} {id} {what} at {place} {ports} on {host}, {standing}")
}
