//! The settings of a service, from what was sent and to what is shown.

use std::sync::Arc;
use std::time::Duration;

use super::intake::number;
use super::{Problem, SettingsForm, SettingsShown, printable};
use crate::balance::{Balance, SrvWeights};
use crate::instance::{FAILOVER_MAX, Fallback, ServiceSettings};
use crate::name::{Apex, ServiceName, Unfit};
use crate::registry::Configuration;
use crate::time::{format_duration, parse_duration};

/// Longest TTL of a service's records, in seconds: who caches for longer misses a death.
pub const TTL_MAX: u32 = 300;
/// Shortest and longest time that a guard holds: less than a lease is none, and after a day the dead are dead.
const GUARD_FOR_MIN: Duration = Duration::from_secs(1);
const GUARD_FOR_MAX: Duration = Duration::from_secs(24 * 3600);

impl SettingsForm {
    /// What sets them.
    pub fn of(service: &ServiceName, settings: &ServiceSettings) -> Self {
        let shown = SettingsShown::of(settings);
        Self {
            service: service.to_string(),
            ttl: shown.ttl.map(|ttl| format!("{ttl}s")),
            balance: shown.balance,
            max_answers: shown.max_answers.map(i64::from),
            failover: shown.failover,
            srv_weights: shown.srv_weights,
            guard: shown.guard,
            guard_for: shown.guard_for,
            reset: false,
        }
    }

    /// What is to be set; `None` where the settings are only asked for. A name below one of `apexes` is a service's.
    pub fn configuration(&self, apexes: &[Apex]) -> Result<(ServiceName, Option<Configuration>), Problem> {
        let service =
            ServiceName::parse(&self.service).map_err(|unfit| Problem::invalid("service", unfit))?;
        let given = ServiceSettings {
            ttl: self.ttl.as_deref().map(ttl).transpose()?,
            balance: self.balance.as_deref().map(balance).transpose()?,
            max_answers: self.max_answers.map(|most| number("max_answers", Some(most), 0, 0)).transpose()?,
            failover: self.failover.as_deref().map(|names| failover(names, apexes)).transpose()?,
            srv_weights: self.srv_weights.as_deref().map(srv_weights).transpose()?,
            guard: self.guard.as_deref().map(guard).transpose()?,
            guard_for: self.guard_for.as_deref().map(guard_for).transpose()?,
        };
        let asks = given == ServiceSettings::default() && !self.reset;
        let configuration = Configuration { service: service.clone(), reset: self.reset, given };
        Ok((service, (!asks).then_some(configuration)))
    }
}

fn ttl(text: &str) -> Result<u32, Problem> {
    whole_seconds(text).map_err(|rule| Problem::invalid("ttl", rule))
}

/// A TTL as it is written, such as `5s`.
///
/// # Errors
///
/// It is none; in words.
pub fn whole_seconds(text: &str) -> Result<u32, String> {
    let seconds = parse_duration(text).filter(|ttl| ttl.subsec_nanos() == 0).map(|ttl| ttl.as_secs());
    let seconds = seconds.and_then(|seconds| u32::try_from(seconds).ok()).filter(|ttl| *ttl <= TTL_MAX);
    seconds.ok_or_else(|| format!("must be whole seconds from 0s to {TTL_MAX}s, not `{}`", printable(text)))
}

fn failover(names: &[String], apexes: &[Apex]) -> Result<Arc<[Fallback]>, Problem> {
    let invalid = |rule: String| Problem::invalid("failover", rule);
    if names.len() > FAILOVER_MAX {
        return Err(invalid(format!("may list at most {FAILOVER_MAX} names, not {}", names.len())));
    }
    let mut fallbacks: Vec<Fallback> = Vec::new();
    for name in names {
        let unfit = |unfit: Unfit| invalid(format!("lists `{}`, which {unfit}", printable(name)));
        let mut fallback = Fallback::parse(name).map_err(unfit)?;
        if let Fallback::Name(full) = &fallback
            && let Some(apex) = apexes.iter().find(|apex| full.is_within(apex.name()))
        {
            // Told apart from a name elsewhere, so that a way in a circle is seen.
            let labels = full.labels_below(apex.name()).unwrap_or_default();
            let service = match labels[..] {
                [label] => std::str::from_utf8(label).ok().and_then(|label| ServiceName::parse(label).ok()),
                _ => None,
            };
            let rule = || invalid(format!("lists `{}`, which is ours and no service", printable(name)));
            fallback = Fallback::Service(service.ok_or_else(rule)?);
        }
        if let Some(Fallback::Name(elsewhere)) = fallbacks.last() {
            let rule = "of which nobody knows here whether it is live; make it the last";
            return Err(invalid(format!("goes on after {elsewhere}, {rule}")));
        }
        if fallbacks.contains(&fallback) {
            return Err(invalid(format!("lists {fallback} twice")));
        }
        fallbacks.push(fallback);
    }
    Ok(fallbacks.into())
}

fn srv_weights(text: &str) -> Result<SrvWeights, Problem> {
    SrvWeights::parse(text).ok_or_else(|| {
        Problem::invalid("srv_weights", format!("must be plain or haproxy, not `{}`", printable(text)))
    })
}

fn guard(text: &str) -> Result<u8, Problem> {
    let share = match text {
        "off" => Some(0),
        share => share
            .strip_suffix('%')
            .and_then(|share| share.parse().ok())
            .filter(|share| matches!(share, 1..=99)),
    };
    share.ok_or_else(|| {
        Problem::invalid("guard", format!("must be 1% to 99%, or off, not `{}`", printable(text)))
    })
}

fn guard_for(text: &str) -> Result<Duration, Problem> {
    parse_duration(text).filter(|time| (GUARD_FOR_MIN..=GUARD_FOR_MAX).contains(time)).ok_or_else(|| {
        Problem::invalid("guard_for", format!("must be from 1s to 24h, not `{}`", printable(text)))
    })
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
        let failover = self.failover.as_ref().map(|names| match names.is_empty() {
            true => ("failover", "none".to_owned()),
            false => ("failover", names.join(", ")),
        });
        let srv_weights = self.srv_weights.clone().map(|weights| ("srv-weights", weights));
        let guard = self.guard.clone().map(|guard| ("guard", guard));
        let guard_for = self.guard_for.clone().map(|time| ("guard-for", time));
        let words = [ttl, balance, max_answers, failover, srv_weights, guard, guard_for];
        words.into_iter().flatten().collect()
    }

    pub fn of(settings: &ServiceSettings) -> Self {
        Self {
            ttl: settings.ttl,
            balance: settings.balance.map(|balance| balance.to_string()),
            max_answers: settings.max_answers,
            failover: settings
                .failover
                .as_deref()
                .map(|fallbacks| fallbacks.iter().map(Fallback::to_string).collect()),
            srv_weights: settings.srv_weights.map(|weights| weights.as_str().to_owned()),
            guard: settings.guard.map(|share| match share {
                0 => "off".to_owned(),
                share => format!("{share}%"),
            }),
            guard_for: settings.guard_for.map(format_duration),
        }
    }
}
