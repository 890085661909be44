//! `callsign serve`: the server itself.

use std::path::PathBuf;
use std::process::ExitCode;

use callsign::config::{Config, Setting, Surroundings};
use clap::Args;

use super::{Done, FAILED, Failure, USAGE, output};

/// Run the server: DNS, and the socket that services register on
#[derive(Debug, Args)]
#[command(
    after_help = "Every option but --config is also a key of the file (`known-for = \"2m\"`) and a variable (CALLSIGN_KNOWN_FOR=2m).
A flag wins over the variable, the variable over the file.

Example:
  callsign serve
  callsign serve --dns 0.0.0.0:53 --domain prod.example.com --config /etc/callsign/callsign.toml"
)]
pub struct Serve {
    /// Read this TOML file first
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Say whether the configuration is sound, and do nothing else
    #[arg(long)]
    check_config: bool,
    /// A domain to serve the registry under [default: service.local]
    #[arg(long, value_name = "NAME")]
    domain: Vec<String>,
    /// A domain to serve the same registry under as Consul spells names, such as consul [default: none]
    #[arg(long, value_name = "NAME")]
    consul_domain: Option<String>,
    /// Where to answer DNS, over UDP and TCP [default: 127.0.0.1:5300 and [::1]:5300]
    #[arg(long, value_name = "ADDR:PORT")]
    dns: Vec<String>,
    /// The registration socket [default: $XDG_RUNTIME_DIR/callsign.sock; /run/callsign/callsign.sock for root]
    #[arg(long, value_name = "PATH")]
    socket: Option<String>,
    /// Take registrations over TCP as well
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Vec<String>,
    /// Serve Consul's HTTP API, watching and discovery here; `none` for nowhere [default: 127.0.0.1:5380]
    #[arg(long, value_name = "ADDR:PORT")]
    http: Vec<String>,
    /// A name that clients may call the HTTP port by, such as consul
    #[arg(long, value_name = "NAME")]
    http_hosts: Vec<String>,
    /// What Consul's clients are told where they are, in names too [default: dc1]
    #[arg(long, value_name = "NAME")]
    datacenter: Option<String>,
    /// What becomes of `_` in a service's name over Consul's API, refuse or hyphen [default: refuse]
    #[arg(long, value_name = "WORD")]
    underscore: Option<String>,
    /// Let --listen and --http be an address that other machines reach, where anybody may then register
    #[arg(long)]
    allow_unauthenticated: bool,
    /// A directory of zone files to serve beside the registry [default: ./zones when it is there]
    #[arg(long, value_name = "DIR")]
    zones: Option<String>,
    /// A directory of files that say what is registered, in TOML or as Consul's JSON
    #[arg(long, value_name = "DIR")]
    services: Option<String>,
    /// Where the registry is kept, embedded or memory [default: embedded]
    #[arg(long, value_name = "STORE")]
    store: Option<String>,
    /// The directory of the embedded store [default: $XDG_STATE_HOME/callsign; /var/lib/callsign for root]
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    /// How many changes the log keeps [default: 100000]
    #[arg(long, value_name = "N")]
    history_changes: Option<String>,
    /// How long the log keeps them [default: 7d]
    #[arg(long, value_name = "TIME")]
    history_age: Option<String>,
    /// The address of this server in the zone's own records [default: the first one bound]
    #[arg(long, value_name = "ADDR")]
    advertise: Option<String>,
    /// Seconds that a resolver may keep an answer, 0 to 300 [default: 5]
    #[arg(long, value_name = "SECONDS")]
    ttl: Option<String>,
    /// How long a service stays known after its last instance left [default: 60s]
    #[arg(long, value_name = "TIME")]
    known_for: Option<String>,
    /// How many instances may be registered at once [default: 1000000]
    #[arg(long, value_name = "N")]
    instances_max: Option<String>,
    /// Register loopback addresses though DNS is answered to other machines
    #[arg(long)]
    allow_loopback: bool,
    /// Cap of a UDP answer to a client on this machine, 512 to 65507 [default: 1232]
    #[arg(long, value_name = "OCTETS")]
    udp_octets_loopback: Option<String>,
    /// What to log on stderr, such as info or callsign=debug [default: info]
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// How long DNS is still answered after SIGTERM, at most 60s [default: 0s]
    #[arg(long, value_name = "TIME")]
    grace: Option<String>,
    /// Let checks be probed there too, beside their instance's own addresses and loopback
    #[arg(long, value_name = "NETWORK")]
    probe_allow: Vec<String>,
    /// Let checks run programs of this machine
    #[arg(long)]
    probe_commands: bool,
}

impl Serve {
    pub fn run(self) -> Done {
        let (file, only_check) = (self.config.clone(), self.check_config);
        let config = Config::load(file.as_deref(), self.settings(), &Surroundings::here())
            .map_err(|error| Failure::new(USAGE, format!("{error:#}")))?;
        if only_check {
            callsign::serve::check(&config).map_err(|error| Failure::new(USAGE, format!("{error:#}")))?;
            output::print("ok\n")?;
            return Ok(ExitCode::SUCCESS);
        }
        log_to_stderr(&config.log)?;
        let failed = |error: anyhow::Error| Failure::new(FAILED, format!("{error:#}"));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(|error| failed(error.into()))?;
        runtime.block_on(callsign::serve::run(config)).map_err(failed)?;
        Ok(ExitCode::SUCCESS)
    }

    /// The flags that were given, as the configuration takes them.
    fn settings(self) -> Vec<Setting> {
        let lists = [
            ("domain", self.domain),
            ("dns", self.dns),
            ("listen", self.listen),
            ("http", self.http),
            ("http-hosts", self.http_hosts),
            ("probe-allow", self.probe_allow),
        ];
        let single = [
            ("consul-domain", self.consul_domain),
            ("socket", self.socket),
            ("zones", self.zones),
            ("services", self.services),
            ("store", self.store),
            ("data", self.data),
            ("datacenter", self.datacenter),
            ("underscore", self.underscore),
            ("history-changes", self.history_changes),
            ("history-age", self.history_age),
            ("advertise", self.advertise),
            ("ttl", self.ttl),
            ("known-for", self.known_for),
            ("instances-max", self.instances_max),
            ("udp-octets-loopback", self.udp_octets_loopback),
            ("log", self.log),
            ("grace", self.grace),
        ];
        let switches = [
            ("allow-unauthenticated", self.allow_unauthenticated),
            ("allow-loopback", self.allow_loopback),
            ("probe-commands", self.probe_commands),
        ];
        let lists = lists.into_iter().filter(|(_, texts)| !texts.is_empty());
        let single = single.into_iter().filter_map(|(key, text)| Some((key, vec![text?])));
        let switches =
            switches.into_iter().filter(|(_, on)| *on).map(|(key, _)| (key, vec!["true".to_owned()]));
        lists.chain(single).chain(switches).map(|(key, texts)| Setting::flag(key, texts)).collect()
    }
}

/// stdout is for data, so the log goes to stderr; without colour, which a journal would show as noise.
fn log_to_stderr(filter: &str) -> Result<(), Failure> {
    let filter = tracing_subscriber::EnvFilter::builder()
        .parse(filter)
        .map_err(|error| Failure::new(USAGE, error.to_string()))?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    Ok(())
}
