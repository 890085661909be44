//! `callsign availability`: how much of what there is was live, and how long answers and probes take.

use std::process::ExitCode;

use callsign::protocol::{
    AvailabilityForm, AvailabilityReply, LiveTimeForm, MeanForm, Reply, Request, SpanForm,
};
use clap::Args;

use super::{Asking, Done, Format, output};

/// Show how much of the time services and instances were live
///
/// Beside it stands how long answers and probes take.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  callsign availability\n  callsign availability web -o json")]
pub struct Availability {
    /// Only this service, and each of its instances
    service: Option<String>,
    #[command(flatten)]
    asking: Asking,
}

impl Availability {
    pub async fn run(self) -> Done {
        let mut client = self.asking.connect().await?;
        let mut form = AvailabilityForm { service: self.service, after: None };
        let mut all: Option<AvailabilityReply> = None;
        loop {
            let reply = client.request(&Request::Availability(form.clone())).await?;
            let Reply::Availability(mut page) = reply else { return Err(client.unexpected(&reply).into()) };
            form.after = page.next.take();
            match &mut all {
                Some(all) => all.of_services.append(&mut page.of_services),
                None => all = Some(*page),
            }
            if form.after.is_none() {
                break;
            }
        }
        let Some(all) = all else { return Ok(ExitCode::SUCCESS) };
        if self.asking.output != Format::Table {
            output::value(self.asking.output, &all)?;
            return Ok(ExitCode::SUCCESS);
        }
        let of = |live: u64, all: u64| format!("{live} of {all} live");
        output::print(&output::list(&[
            ("available", output::percent(all.ratio)),
            ("instances", of(all.instances_live, all.instances)),
            ("services", of(all.services_live, all.services)),
            ("query", mean(all.query_time)),
            ("probe", mean(all.probe_time)),
        ]))?;
        if !all.of_services.is_empty() {
            let rows = all.of_services.iter().map(|of| row(&[&of.service], of, Some(mean(of.probe_time))));
            let header = ["SERVICE", "NOW", "PROBE", "1h", "24h", "30d"];
            output::print(&format!("\n{}", output::table(&header, rows.collect())))?;
        }
        if !all.of_instances.is_empty() {
            let rows = all.of_instances.iter().map(|of| {
                let [id, host] = [&of.id, &of.host].map(|name| name.as_deref().unwrap_or("-"));
                row(&[id, host], of, None)
            });
            let header = ["ID", "HOST", "NOW", "1h", "24h", "30d"];
            output::print(&format!("\n{}", output::table(&header, rows.collect())))?;
        }
        if all.left_out > 0 {
            output::line(&format!("and {} more", all.left_out))?;
        }
        let all_spans = all.of_services.iter().chain(&all.of_instances).flat_map(|of| &of.spans);
        if let Some(since) = all_spans.filter_map(|span| span.since.as_ref()).max() {
            output::print("\n")?;
            output::line(&format!(
                "*: the log begins later than the span; known since {since} at the latest"
            ))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn row(names: &[&str], of: &LiveTimeForm, probe: Option<String>) -> Vec<String> {
    let now = match (of.live, of.registered) {
        (true, _) => "live",
        (false, true) => "out",
        (false, false) => "gone",
    };
    let names = names.iter().map(|name| (*name).to_owned()).chain([now.to_owned()]);
    names.chain(probe).chain(of.spans.iter().map(share)).collect()
}

/// Live time over registered time; with a star where less than the span is known.
fn share(span: &SpanForm) -> String {
    let star = if span.since.is_some() { "*" } else { "" };
    span.ratio.map_or("-".to_owned(), |ratio| format!("{}{star}", output::percent(ratio)))
}

fn mean(mean: Option<MeanForm>) -> String {
    mean.map_or("-".to_owned(), |mean| match mean.mean_us {
        us if us < 1000.0 => format!("{us:.1} us"),
        us => format!("{:.1} ms", us / 1000.0),
    })
}
