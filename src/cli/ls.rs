//! `callsign ls`: what is registered.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use callsign::protocol::{FilterForm, InstanceForm};
use clap::Args;
use serde::Serialize;

use super::{Asking, Done, Failure, Format, NOT_FOUND, number, output};

/// List the services, or the instances of one
#[derive(Debug, Args)]
#[command(after_help = "Without SERVICE and without a filter, one line per service; else one per instance.

Example:
  callsign ls
  callsign ls web --health critical
  callsign ls --port 8080 -o json")]
pub struct Ls {
    /// Only the instances of this service
    service: Option<String>,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    asking: Asking,
}

/// Which instances; every one given must hold.
#[derive(Debug, Args)]
pub struct Filter {
    /// Only at this address
    #[arg(long, value_name = "ADDR")]
    address: Option<String>,
    /// Only with this port
    #[arg(long, value_name = "N", value_parser = number::<i64>)]
    port: Option<i64>,
    /// Only with this protocol
    #[arg(long, value_name = "P")]
    protocol: Option<String>,
    /// Only with this tag
    #[arg(long, value_name = "T")]
    tag: Option<String>,
    /// Only on this host
    #[arg(long, value_name = "H")]
    host: Option<String>,
    /// Only passing, warning, critical or maintenance
    #[arg(long, value_name = "HEALTH")]
    health: Option<String>,
}

impl Filter {
    pub fn form(self, service: Option<String>) -> FilterForm {
        let Self { address, port, protocol, tag, host, health } = self;
        FilterForm { service, address, port, protocol, tag, host, health, ..FilterForm::default() }
    }
}

/// A service in one line: what its instances have in common.
#[derive(Debug, Default, Serialize)]
struct ServiceLine {
    service: String,
    live: usize,
    registered: usize,
    ports: BTreeSet<String>,
    tags: BTreeSet<String>,
}

impl Ls {
    pub async fn run(self) -> Done {
        let form = self.filter.form(self.service.clone());
        let by_service = form == FilterForm::default();
        let whole_service = FilterForm { service: self.service.clone(), ..FilterForm::default() };
        let unknown = self.service.filter(|_| form == whole_service);
        let mut client = self.asking.connect().await?;
        let instances = client.instances(form).await?;
        if let (true, Some(service)) = (instances.is_empty(), unknown) {
            let hint = format!(
                "`callsign explain {service}` says what became of it; `callsign ls` lists what is there"
            );
            return Err(Failure::new(NOT_FOUND, format!("{service} is not registered")).hint(hint));
        }
        match (self.asking.output, by_service) {
            (Format::Table, true) => output::print(&services_table(&services(&instances)))?,
            (Format::Table, false) => output::print(&instances_table(&instances))?,
            (format, true) => output::values(format, &services(&instances))?,
            (format, false) => output::values(format, &instances)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn services(instances: &[InstanceForm]) -> Vec<ServiceLine> {
    let mut services: BTreeMap<&str, ServiceLine> = BTreeMap::new();
    for instance in instances {
        let line = services.entry(&instance.service).or_default();
        line.service.clone_from(&instance.service);
        line.registered += 1;
        line.live += usize::from(instance.live);
        line.ports.extend(output::ports(instance).split(',').map(str::to_owned));
        line.tags.extend(instance.tags.iter().cloned());
    }
    services.into_values().collect()
}

fn services_table(services: &[ServiceLine]) -> String {
    let joined = |set: &BTreeSet<String>| {
        output::or_dash(set.iter().map(String::as_str).collect::<Vec<_>>().join(","))
    };
    let row = |line: &ServiceLine| {
        vec![
            line.service.clone(),
            format!("{}/{}", line.live, line.registered),
            joined(&line.ports),
            joined(&line.tags),
        ]
    };
    output::table(&["SERVICE", "LIVE", "PORTS", "TAGS"], services.iter().map(row).collect())
}

fn instances_table(instances: &[InstanceForm]) -> String {
    let row = |instance: &InstanceForm| {
        vec![
            instance.service.clone(),
            instance.id.clone(),
            instance.host.clone(),
            output::place(instance),
            output::ports(instance),
            output::standing(instance),
            output::lease_left(instance),
            output::or_dash(instance.protocol.clone().unwrap_or_default()),
            output::or_dash(instance.tags.join(",")),
        ]
    };
    let header = ["SERVICE", "ID", "HOST", "ADDRESS", "PORTS", "HEALTH", "LEASE", "PROTOCOL", "TAGS"];
    output::table(&header, instances.iter().map(row).collect())
}
