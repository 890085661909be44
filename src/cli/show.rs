//! `callsign show`: everything about a service's instances, or one URL to reach it.

use std::process::ExitCode;

use callsign::client::choose;
use callsign::protocol::{FilterForm, InstanceForm, LookupForm, Reply, Request};
use clap::Args;

use super::{Asking, Done, FAILED, Failure, Format, NOT_FOUND, output};

/// Show the instances of a service in full, or one URL
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  callsign show web\n  callsign show web web-1 -o json\n  curl \"$(callsign show web --url)\""
)]
pub struct Show {
    /// The service's name
    service: String,
    /// Only this instance
    id: Option<String>,
    /// Print one URL of a live instance, chosen as DNS would choose
    #[arg(long)]
    url: bool,
    #[command(flatten)]
    asking: Asking,
}

impl Show {
    pub async fn run(self) -> Done {
        let instances = self.instances().await?;
        if instances.is_empty() {
            let what = self.id.iter().fold(self.service.clone(), |service, id| format!("{service} {id}"));
            let hint = format!(
                "`callsign explain {}` says what became of it; `callsign ls` lists what is there",
                self.service
            );
            return Err(Failure::new(NOT_FOUND, format!("{what} is not registered")).hint(hint));
        }
        match (self.url, self.asking.output) {
            (true, _) => output::line(&self.chosen(&instances)?)?,
            (false, Format::Table) => {
                let shown: Vec<String> = instances.iter().map(described).collect();
                output::print(&shown.join("\n"))?;
            }
            (false, format) => output::values(format, &instances)?,
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn instances(&self) -> Result<Vec<InstanceForm>, Failure> {
        let mut client = self.asking.connect().await?;
        let Some(id) = self.id.clone() else {
            let form = FilterForm { service: Some(self.service.clone()), ..FilterForm::default() };
            return Ok(client.instances(form).await?);
        };
        let form = LookupForm { id, service: Some(self.service.clone()), host: None };
        match client.request(&Request::Lookup(form)).await? {
            Reply::Found(found) => Ok(found.instances),
            other => Err(client.unexpected(&other).into()),
        }
    }

    fn chosen(&self, instances: &[InstanceForm]) -> Result<String, Failure> {
        let random = getrandom::u64()
            .map_err(|error| Failure::new(FAILED, format!("drawing a random number: {error}")))?;
        let chosen = choose(instances, random).ok_or_else(|| {
            let hint = format!("`callsign explain {}` says why", self.service);
            Failure::new(FAILED, format!("{} has no live instance", self.service)).hint(hint)
        })?;
        Ok(url(chosen))
    }
}

fn url(instance: &InstanceForm) -> String {
    let scheme = match instance.protocol.as_deref() {
        Some("https" | "h2" | "h3") => "https",
        _ => "http",
    };
    let host = match (&instance.target, instance.address.first()) {
        (Some(target), _) => target.trim_end_matches('.').to_owned(),
        (None, Some(address)) if address.contains(':') => format!("[{address}]"),
        (None, address) => address.cloned().unwrap_or_default(),
    };
    match instance.port {
        Some(port) => format!("{scheme}://{host}:{port}"),
        None => format!("{scheme}://{host}"),
    }
}

fn described(instance: &InstanceForm) -> String {
    let lease = match instance.lease_left_ms {
        Some(_) => format!("{}, {} left", instance.lease, output::lease_left(instance)),
        None => instance.lease.clone(),
    };
    let meta: Vec<String> = instance.meta.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let live = match (instance.live, instance.held) {
        (true, _) => "yes",
        (false, true) => "no, held in the answers by the guard",
        (false, false) => "no",
    };
    let mut pairs = vec![
        ("service", instance.service.clone()),
        ("id", instance.id.clone()),
        ("host", instance.host.clone()),
        ("label", instance.label.clone()),
        ("address", output::place(instance)),
        ("ports", output::ports(instance)),
        ("protocol", output::or_dash(instance.protocol.clone().unwrap_or_default())),
        ("tags", output::or_dash(instance.tags.join(", "))),
        ("meta", output::or_dash(meta.join(", "))),
        ("weight", instance.weight.to_string()),
        ("priority", instance.priority.to_string()),
        ("lease", lease),
        ("health", format!("{} since {}", output::standing(instance), instance.since)),
        ("live", live.to_owned()),
        ("registered", instance.registered.clone()),
        ("revision", instance.revision.to_string()),
    ];
    pairs.extend(instance.source.clone().map(|source| ("source", source)));
    for check in &instance.checks {
        let output = if check.output.is_empty() { String::new() } else { format!(": {}", check.output) };
        pairs.push(("check", format!("{} {} since {}{output}", check.id, check.status, check.since)));
    }
    output::list(&pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(address: &str, priority: u16, weight: u16, live: bool) -> InstanceForm {
        let text = format!(
            r#"{{"service":"web","id":"{address}","host":"h","label":"l","address":["{address}"],"port":8080,"ports":[],
                "tags":[],"meta":{{}},"weight":{weight},"priority":{priority},"lease":"15s","health":"passing","checks":[],
                "draining":false,"live":{live},"registered":"","since":"","revision":1}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn the_choice_is_live_of_the_lowest_priority_and_by_weight() {
        let instances = [
            instance("10.0.0.1", 0, 9, false),
            instance("10.0.0.2", 1, 1, true),
            instance("10.0.0.3", 1, 3, true),
            instance("10.0.0.4", 2, 9, true),
        ];
        let chosen: Vec<&str> =
            (0..8).map(|random| choose(&instances, random).unwrap().id.as_str()).collect();
        assert_eq!(
            chosen,
            ["10.0.0.2", "10.0.0.3", "10.0.0.3", "10.0.0.3", "10.0.0.2", "10.0.0.3", "10.0.0.3", "10.0.0.3"]
        );
        assert!(choose(&instances[..1], 0).is_none());
        let weightless = [instance("10.0.0.1", 0, 0, true), instance("10.0.0.2", 0, 0, true)];
        assert_eq!(choose(&weightless, 1).unwrap().id, "10.0.0.2");
    }

    #[test]
    fn urls_have_the_scheme_of_the_protocol_and_brackets() {
        let mut instance = instance("10.0.0.7", 0, 1, true);
        assert_eq!(url(&instance), "http://10.0.0.7:8080");
        instance.address = vec!["2001:db8::7".to_owned()];
        instance.protocol = Some("h2".to_owned());
        assert_eq!(url(&instance), "https://[2001:db8::7]:8080");
        instance.target = Some("web.example.com.".to_owned());
        assert_eq!(url(&instance), "https://web.example.com:8080");
    }

    #[test]
    fn what_others_wrote_cannot_act_on_the_terminal() {
        let mut instance = instance("10.0.0.7", 0, 1, true);
        instance.id = "a\x1b]0;pwned\x07\nb".to_owned();
        instance.tags = vec!["\x1b[2J".to_owned()];
        let shown = described(&instance);
        assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown}");
        assert!(shown.contains("id          a\\u{1b}]0;pwned\\u{7}\\nb\n"), "{shown}");
    }
}
