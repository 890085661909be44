//! Settings of services, in each version that there was, and the guards in force.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    SETTINGS_VERSION, UNGUARDED_VERSION, Unreadable, VERSION, damaged, read, read_as, write, write_as,
};
use crate::balance::{Balance, SrvWeights};
use crate::instance::{Fallback, ServiceSettings};
use crate::registry::Guard;
use crate::time::Wall;

/// The settings that there were at first.
#[derive(Serialize, Deserialize)]
pub(super) struct TtlForm {
    pub(super) ttl: Option<u32>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct SettingsForm {
    ttl: Option<u32>,
    /// In the words that set it.
    balance: Option<String>,
    max_answers: Option<u16>,
    failover: Option<Vec<String>>,
    srv_weights: Option<String>,
}

/// Settings with what version 3 has more than version 2.
#[derive(Serialize, Deserialize)]
pub(super) struct GuardedForm {
    rest: SettingsForm,
    /// Percent.
    guard: Option<u8>,
    guard_for_ms: Option<u64>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct GuardForm {
    from: i64,
    since: i64,
}

impl TtlForm {
    pub(super) fn settings(self) -> ServiceSettings {
        ServiceSettings { ttl: self.ttl, ..ServiceSettings::default() }
    }
}

impl SettingsForm {
    pub(super) fn of(settings: &ServiceSettings) -> Self {
        Self {
            ttl: settings.ttl,
            balance: settings.balance.map(|balance| balance.to_string()),
            max_answers: settings.max_answers,
            failover: settings
                .failover
                .as_deref()
                .map(|fallbacks| fallbacks.iter().map(Fallback::to_string).collect()),
            srv_weights: settings.srv_weights.map(|weights| weights.as_str().to_owned()),
        }
    }

    pub(super) fn settings(self) -> Result<ServiceSettings, Unreadable> {
        let weights = |text: String| SrvWeights::parse(&text).ok_or_else(|| damaged("unknown weights"));
        let balance = |text: String| Balance::parse(&text).ok_or_else(|| damaged("an unknown balance"));
        Ok(ServiceSettings {
            ttl: self.ttl,
            balance: self.balance.map(balance).transpose()?,
            max_answers: self.max_answers,
            failover: self
                .failover
                .map(|names| names.iter().map(|name| Fallback::parse(name)).collect::<Result<_, _>>())
                .transpose()
                .map_err(damaged)?,
            srv_weights: self.srv_weights.map(weights).transpose()?,
            ..ServiceSettings::default()
        })
    }
}

impl GuardedForm {
    pub(super) fn of(settings: &ServiceSettings) -> Self {
        Self {
            rest: SettingsForm::of(settings),
            guard: settings.guard,
            guard_for_ms: settings.guard_for.map(|time| time.as_millis() as u64),
        }
    }

    pub(super) fn settings(self) -> Result<ServiceSettings, Unreadable> {
        let guard_for = self.guard_for_ms.map(Duration::from_millis);
        Ok(ServiceSettings { guard: self.guard, guard_for, ..self.rest.settings()? })
    }
}

impl GuardForm {
    pub(super) fn of(guard: Guard) -> Self {
        Self { from: guard.from.unix_ms, since: guard.since.unix_ms }
    }

    pub(super) fn guard(self) -> Guard {
        Guard { from: Wall { unix_ms: self.from }, since: Wall { unix_ms: self.since } }
    }
}

pub fn write_settings(settings: &ServiceSettings) -> Vec<u8> {
    write_as(SETTINGS_VERSION, &GuardedForm::of(settings))
}

pub fn read_settings(octets: &[u8]) -> Result<ServiceSettings, Unreadable> {
    match octets {
        [VERSION, ..] => Ok(read::<TtlForm>(octets)?.settings()),
        [UNGUARDED_VERSION, ..] => read_as::<SettingsForm>(UNGUARDED_VERSION, octets)?.settings(),
        _ => read_as::<GuardedForm>(SETTINGS_VERSION, octets)?.settings(),
    }
}

pub fn write_guard(guard: Guard) -> Vec<u8> {
    write(&GuardForm::of(guard))
}

pub fn read_guard(octets: &[u8]) -> Result<Guard, Unreadable> {
    Ok(read::<GuardForm>(octets)?.guard())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_as_they_were_written_whatever_the_version() {
        let ttl = |seconds| ServiceSettings { ttl: seconds, ..ServiceSettings::default() };
        // What version 1 wrote: no TTL, and one of 60 seconds.
        assert_eq!(read_settings(&[1, 0]), Ok(ttl(None)));
        assert_eq!(read_settings(&[1, 1, 60]), Ok(ttl(Some(60))));
        let settings = ServiceSettings {
            ttl: Some(0),
            balance: Balance::parse("one:affinity"),
            max_answers: Some(7),
            failover: Some(["standby", "a.example.com"].map(|name| Fallback::parse(name).unwrap()).into()),
            srv_weights: Some(SrvWeights::Haproxy),
            ..ServiceSettings::default()
        };
        // What version 2 wrote.
        let before = write_as(2, &SettingsForm::of(&settings));
        assert_eq!(read_settings(&before), Ok(settings.clone()));
        let settings =
            ServiceSettings { guard: Some(50), guard_for: Some(Duration::from_secs(60)), ..settings };
        assert_eq!(read_settings(&write_settings(&settings)), Ok(settings));
        assert_eq!(read_settings(&[4, 0]), Err(Unreadable::Newer(4)));
        assert!(matches!(read_settings(&[]), Err(Unreadable::Damaged(_))));
    }
}
