//! The settings of a service, from what was sent and to what is shown.

use super::intake::number;
use super::{Problem, SettingsForm, SettingsShown, printable};
use crate::balance::Balance;
use crate::instance::ServiceSettings;
use crate::name::ServiceName;
use crate::registry::Configuration;
use crate::time::parse_duration;

/// Longest TTL of a service's records, in seconds: who caches for longer misses a death.
const TTL_MAX: u64 = 300;

impl SettingsForm {
    /// What is to be set; `None` where the settings are only asked for.
    pub fn configuration(&self) -> Result<(ServiceName, Option<Configuration>), Problem> {
        let service =
            ServiceName::parse(&self.service).map_err(|unfit| Problem::invalid("service", unfit))?;
        let given = ServiceSettings {
            ttl: self.ttl.as_deref().map(ttl).transpose()?,
            balance: self.balance.as_deref().map(balance).transpose()?,
            max_answers: self.max_answers.map(|most| number("max_answers", Some(most), 0, 0)).transpose()?,
        };
        let asks = given == ServiceSettings::default() && !self.reset;
        let configuration = Configuration { service: service.clone(), reset: self.reset, given };
        Ok((service, (!asks).then_some(configuration)))
    }
}

fn ttl(text: &str) -> Result<u32, Problem> {
    match parse_duration(text).filter(|ttl| ttl.subsec_nanos() == 0).map(|ttl| ttl.as_secs()) {
        Some(seconds @ 0..=TTL_MAX) => Ok(seconds as u32),
        _ => {
            let rule = format!("must be whole seconds from 0s to {TTL_MAX}s, not `{}`", printable(text));
            Err(Problem::invalid("ttl", rule))
        }
    }
}

fn balance(text: &str) -> Result<Balance, Problem> {
    Balance::parse(text).ok_or_else(|| {
        let rule = "must be weighted, rotate, first, nearest or affinity; or one, for a single answer, or one:rotate and so on";
        Problem::invalid("balance", format!("{rule}, not `{}`", printable(text)))
    })
}

impl SettingsShown {
    /// What is set, as `callsign service set` says it.
    pub fn words(&self) -> Vec<(&'static str, String)> {
        let ttl = self.ttl.map(|ttl| ("ttl", format!("{ttl}s")));
        let balance = self.balance.clone().map(|balance| ("balance", balance));
        let max_answers = self.max_answers.map(|most| ("max-answers", most.to_string()));
        [ttl, balance, max_answers].into_iter().flatten().collect()
    }

    pub fn of(settings: &ServiceSettings) -> Self {
        Self {
            ttl: settings.ttl,
            balance: settings.balance.map(|balance| balance.to_string()),
            max_answers: settings.max_answers,
        }
    }
}
