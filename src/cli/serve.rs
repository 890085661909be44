//! `callsign serve`: the server itself.

use std::path::PathBuf;
use std::process::ExitCode;

use callsign::config::keys::{KEYS, Key, Takes};
use callsign::config::{Config, Setting, Surroundings};
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use super::{Done, FAILED, Failure, USAGE, logs, output};

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
    #[command(flatten)]
    flags: Flags,
}

/// A flag for every key of the configuration.
#[derive(Debug)]
struct Flags(Vec<Setting>);

impl Args for Flags {
    fn augment_args(command: Command) -> Command {
        command.args(KEYS.iter().map(|key| {
            let flag = Arg::new(key.name).long(key.name).help(key.help);
            match key.takes {
                Takes::Switch => flag.action(ArgAction::SetTrue),
                Takes::One => flag.value_name(key.value).action(ArgAction::Set),
                Takes::Several | Takes::Any => flag.value_name(key.value).action(ArgAction::Append),
            }
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |key: &Key| {
            let texts: Vec<String> = match key.takes {
                Takes::Switch if matches.get_flag(key.name) => vec!["true".to_owned()],
                Takes::Switch => return None,
                _ => matches.get_many::<String>(key.name)?.cloned().collect(),
            };
            Some(Setting::flag(key.name, texts))
        };
        Ok(Self(KEYS.iter().filter_map(given).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Serve {
    pub fn run(self) -> Done {
        let config = Config::load(self.config.as_deref(), self.flags.0, &Surroundings::here())
            .map_err(|error| Failure::new(USAGE, format!("{error:#}")))?;
        if self.check_config {
            callsign::serve::check(&config).map_err(|error| Failure::new(USAGE, format!("{error:#}")))?;
            output::print("ok\n")?;
            return Ok(ExitCode::SUCCESS);
        }
        logs::start(&config.log, config.log_format)?;
        let failed = |error: anyhow::Error| Failure::new(FAILED, format!("{error:#}"));
        callsign::serve::run(config).map_err(failed)?;
        Ok(ExitCode::SUCCESS)
    }
}
