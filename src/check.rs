//! Checks: how the health of an instance or a host is found, and the rules that turn outcomes into a status.
//!
//! A check is configured (`Definition`) and has a status; a probe is one execution of it, and lives in the
//! edge `health`. What belongs to time alone is here and in the registry: a TTL check that nobody
//! passes in time is critical, and what was critical for too long leaves. Both deadlines are a
//! lease's cell, so a check that is passed again costs one number stored.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;

use crate::instance::Health;
use crate::lease::{LeaseCell, Leased};
use crate::name::{HostName, InstanceId};
use crate::time::{Now, Wall};

/// Checks of one instance or host.
pub const CHECKS_MAX: usize = 64;
/// Octets of a check's id: that of an instance (255), and the words that Consul's API puts around it.
pub const CHECK_ID_OCTETS_MAX: usize = 320;
/// Output kept of a check: what a person reads in `explain`, and as much as a probe reads of a reply.
pub const OUTPUT_OCTETS_MAX: usize = 4096;
/// Shortest pause between probes of one check: below it, the probes are the load.
pub const INTERVAL_MIN: Duration = Duration::from_secs(1);
/// Longest pause, TTL or deadline: a week, as with leases; who wants longer wants no check.
pub const INTERVAL_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long one probe may take where its definition says nothing: Consul's default.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// Successes or failures in a row that a definition may ask for.
pub const STREAK_MAX: u16 = 100;
/// What the end of a TTL says as output.
pub const TTL_EXPIRED: &str = "TTL expired";

/// A configured check and its last status.
#[derive(Clone, Debug)]
pub struct Check {
    pub id: Arc<str>,
    pub status: Health,
    /// What was said when the status became what it is.
    pub output: Arc<str>,
    /// Since when the status is what it is.
    pub since: Wall,
    pub definition: Arc<Definition>,
    /// While a TTL check is not critical: when it becomes so. While a check is critical that has
    /// `deregister_after`: when its subject leaves. Else without a deadline.
    pub deadline: Option<Arc<LeaseCell>>,
    /// What was said since, where the same status came again in other words: in memory alone.
    pub again: Arc<ArcSwapOption<String>>,
}

impl PartialEq for Check {
    /// What it says; not when its deadline is, nor what was said again.
    fn eq(&self, other: &Self) -> bool {
        (&self.id, self.status, &self.output, self.since, &self.definition)
            == (&other.id, other.status, &other.output, other.since, &other.definition)
    }
}

impl Eq for Check {}

/// How a check is run, and what its outcomes mean.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Definition {
    /// For people; empty where it is the id.
    pub name: Arc<str>,
    pub notes: Arc<str>,
    pub kind: Kind,
    /// Between two probes, from start to start; zero where nothing is probed.
    pub interval: Duration,
    /// How long one probe may take.
    pub timeout: Duration,
    /// Successes in a row that make it passing; at least 1.
    pub rise: u16,
    /// Failures in a row that make it critical; at least 1.
    pub fall: u16,
    /// Failures in a row that make it a warning before that; 0: none do.
    pub warn: u16,
    /// How long it may be critical before its instance leaves.
    pub deregister_after: Option<Duration>,
}

/// What is done to find out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// Nothing: somebody reports.
    #[default]
    Reported,
    /// Somebody reports, and at least so often.
    Ttl(Duration),
    /// A connection is opened.
    Tcp(Place),
    Http(Box<Http>),
    /// `grpc.health.v1.Health/Check`.
    Grpc {
        at: Place,
        /// The gRPC service asked about; empty for the server as a whole.
        service: Arc<str>,
        tls: Option<Tls>,
    },
    /// A program of the operator's; off unless the server allows it.
    Command(Vec<Arc<str>>),
    /// The health of another instance, or of a whole host.
    Alias {
        host: Option<HostName>,
        id: Option<InstanceId>,
    },
}

/// Where a probe goes. Whether it may is decided by the address, once it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// An address, `localhost`, or a name that the system's resolver knows.
    pub host: Arc<str>,
    pub port: u16,
}

/// One request and what is expected of its reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    pub method: Arc<str>,
    pub at: Place,
    /// Path and query.
    pub path: Arc<str>,
    pub headers: BTreeMap<Arc<str>, Arc<str>>,
    pub body: Arc<str>,
    /// Passing; Consul's 200 to 299 unless the definition says otherwise. 429 is a warning.
    pub expected: (u16, u16),
    pub tls: Option<Tls>,
}

/// TLS to a probe's target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Any certificate will do.
    pub skip_verify: bool,
    pub server_name: Option<Arc<str>>,
}

impl Kind {
    /// The word for it: Consul's `Type`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Reported => "",
            Self::Ttl(_) => "ttl",
            Self::Tcp(_) => "tcp",
            Self::Http(_) => "http",
            Self::Grpc { .. } => "grpc",
            Self::Command(_) => "script",
            Self::Alias { .. } => "alias",
        }
    }

    /// True where the server has to do something at every interval.
    pub fn is_probed(&self) -> bool {
        !matches!(self, Self::Reported | Self::Ttl(_))
    }
}

impl Definition {
    /// A check that only reports change.
    pub fn reported() -> Arc<Self> {
        Arc::new(Self { rise: 1, fall: 1, ..Self::default() })
    }
}

impl Check {
    /// A check as it becomes `status` at `now`; its deadline begins with it.
    pub fn new(
        of: &Leased,
        id: Arc<str>,
        status: Health,
        output: Arc<str>,
        definition: Arc<Definition>,
        now: Now,
    ) -> Self {
        let duration = match (&definition.kind, definition.deregister_after) {
            (_, after) if status == Health::Critical => after,
            (Kind::Ttl(ttl), _) => Some(*ttl),
            _ => None,
        };
        let deadline = duration.map(|duration| LeaseCell::timed(of.clone(), duration, now));
        Self { id, status, output, since: now.wall, definition, deadline, again: Arc::default() }
    }

    /// True where it was critical from its beginning and nobody has said why: the first verdict that does is news, though the
    /// status is the same.
    pub fn is_unexplained(&self) -> bool {
        self.status == Health::Critical && self.output.is_empty() && self.definition.kind.is_probed()
    }

    /// True where its status is what a probe has found: there was a verdict, and not only what was assumed.
    pub fn is_judged(&self) -> bool {
        self.definition.kind.is_probed() && !self.is_unexplained()
    }

    /// The same status, with words for it. It is what it was since it was assumed: a guard takes `since` for a death.
    pub fn explained(&self, output: &str) -> Self {
        Self { output: kept_output(output).into(), again: Arc::default(), ..self.clone() }
    }

    /// What was said last. The log does not have it, so it is for those alone who ask in Consul's way: what we show
    /// ourselves is what the log says.
    pub fn last_output(&self) -> Arc<str> {
        match &*self.again.load() {
            Some(again) => again.as_str().into(),
            None => self.output.clone(),
        }
    }

    /// The same verdict again: moves the end of a TTL and keeps the words, and nothing is published.
    pub fn repeat(&self, output: &str, now: Now) {
        let output = kept_output(output);
        let last = self.again.load();
        if output != last.as_ref().map_or(&*self.output, |again| again.as_str()) {
            self.again.store(Some(Arc::new(output.to_owned())));
        }
        if self.status != Health::Critical
            && let Some(deadline) = &self.deadline
        {
            // One that is over is on its way to critical; the next report makes it passing again.
            let _ = deadline.renew(now);
        }
    }
}

/// Health is a fold over checks: maintenance outranks the rest, then the worst counts.
pub fn worst(checks: &[Check]) -> Health {
    checks.iter().map(|check| check.status).max().unwrap_or(Health::Passing)
}

/// As much of an output as is kept.
pub fn kept_output(output: &str) -> &str {
    let end = output.floor_char_boundary(OUTPUT_OCTETS_MAX);
    &output[..end]
}

/// Outcomes in a row, of one check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streak {
    good: u16,
    bad: u16,
}

impl Streak {
    /// The status after one more outcome: what it was until enough in a row say otherwise.
    ///
    /// A warning of the target's own (HTTP 429, exit code 1) is a success as far as `rise` goes, and shown at once.
    pub fn outcome(&mut self, outcome: Health, before: Health, definition: &Definition) -> Health {
        if outcome.in_answers() {
            self.bad = 0;
            self.good = self.good.saturating_add(1);
            return if self.good >= definition.rise { outcome } else { before };
        }
        self.good = 0;
        self.bad = self.bad.saturating_add(1);
        match self.bad {
            bad if bad >= definition.fall => Health::Critical,
            bad if definition.warn > 0 && bad >= definition.warn && before == Health::Passing => {
                Health::Warning
            }
            _ => before,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(rise: u16, fall: u16, warn: u16, before: Health, outcomes: &str) -> String {
        let definition = Definition { rise, fall, warn, ..Definition::default() };
        let (mut streak, mut status) = (Streak::default(), before);
        outcomes
            .chars()
            .map(|outcome| {
                let outcome = match outcome {
                    '+' => Health::Passing,
                    '~' => Health::Warning,
                    _ => Health::Critical,
                };
                status = streak.outcome(outcome, status, &definition);
                match status {
                    Health::Passing => 'P',
                    Health::Warning => 'W',
                    Health::Critical => 'C',
                    Health::Maintenance => 'M',
                }
            })
            .collect()
    }

    #[test]
    fn outcomes_become_a_status_when_enough_agree() {
        use Health::{Critical, Passing};
        for (rise, fall, warn, before, outcomes, statuses) in [
            (1, 1, 0, Critical, "+-+-", "PCPC"),
            (2, 1, 0, Critical, "++-+-+++", "CPCCCCPP"),
            (1, 3, 0, Passing, "--+---+", "PPPPPCP"),
            (1, 3, 2, Passing, "---+", "PWCP"),
            (1, 3, 1, Passing, "-+--", "WPWW"),
            (2, 2, 0, Critical, "+~~+", "CWWP"),
            (1, 2, 0, Passing, "~-~--", "WWWWC"),
            (3, 1, 0, Critical, "++-+++", "CCCCCP"),
        ] {
            assert_eq!(run(rise, fall, warn, before, outcomes), statuses, "{rise} {fall} {warn} {outcomes}");
        }
    }
}
