//! Query strings, and how long a read may wait for news.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Office;
use super::reply::Failure;
use crate::clock::Clock;
use crate::journal::{Ended, Topic};
use crate::time::{Now, nanoseconds};
use crate::view::View;

/// How long a read with `index` waits where it does not say, and at most: Consul's numbers.
const WAIT_DEFAULT: Duration = Duration::from_secs(300);
const WAIT_MAX: Duration = Duration::from_secs(600);
/// A sixteenth of the wait is added at random, so that clients that came together do not come back together.
const WAIT_JITTER: u32 = 16;

/// What stands behind the `?`.
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn of(raw: Option<&str>) -> Self {
        let pairs = form_urlencoded::parse(raw.unwrap_or_default().as_bytes());
        Self(pairs.map(|(name, value)| (name.into_owned(), value.into_owned())).collect())
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Every value of a name that may be given more than once.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// `?name`, `?name=1` and `?name=True` are yes; anything that is no truth value is an error, as with Consul.
    pub fn flag(&self, name: &str) -> Result<bool, Failure> {
        match self.get(name) {
            None => Ok(false),
            Some("" | "1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
            Some(_) => Err(Failure::bad(format!("Invalid value for ?{name}"))),
        }
    }
}

/// How a read is to be made.
pub struct Reading {
    /// Answer when the index is above this one; 0: at once.
    index: u64,
    wait: Duration,
    pub pretty: bool,
    pub consistency: &'static str,
    /// It asks for what another cluster has handed on.
    pub of_peer: bool,
}

impl Reading {
    pub fn of(query: &Query, office: &Office) -> Result<Self, Failure> {
        let consistency = match (query.has("stale"), query.has("consistent")) {
            (true, true) => {
                return Err(Failure::bad("Cannot specify ?stale with ?consistent, conflicting semantics."));
            }
            (true, false) => "stale",
            (false, true) => "consistent",
            (false, false) => "leader",
        };
        if let Some(datacenter) = query.get("dc").filter(|dc| !dc.is_empty() && *dc != office.datacenter) {
            let text = format!(
                "No path to datacenter; this server is `{}` alone, not `{}`",
                office.datacenter,
                datacenter.escape_debug()
            );
            return Err(Failure::new(axum::http::StatusCode::INTERNAL_SERVER_ERROR, text));
        }
        for (name, what) in [("ns", "Namespaces"), ("partition", "Partitions")] {
            if query.get(name).is_some_and(|value| !value.is_empty()) {
                let text =
                    format!("Invalid query parameter: \"{name}\" - {what} are a Consul Enterprise feature");
                return Err(Failure::bad(text));
            }
        }
        let of_peer = query.get("peer").is_some_and(|peer| !matches!(peer, "" | "local"));
        let index = match query.get("index") {
            None | Some("") => 0,
            Some(text) => text.parse().map_err(|_| Failure::bad("Invalid index"))?,
        };
        let wait = match query.get("wait") {
            None | Some("") => WAIT_DEFAULT,
            Some(text) => {
                let text = text.replace("seconds", "s");
                super::consul::go::parse_duration(&text).ok_or_else(|| Failure::bad("Invalid wait time"))?
            }
        };
        let wait = if wait.is_zero() { WAIT_DEFAULT } else { wait.min(WAIT_MAX) };
        Ok(Self { index, wait, pretty: query.has("pretty"), consistency, of_peer })
    }

    /// Waits until `current` is above the index that the client has; returns the index to answer with.
    ///
    /// That is the client's own after the longest wait; where it has one that we are far from, it comes from
    /// another server or from before a store was lost, and hears of ours at once: as with Consul, an index that
    /// went back tells it to begin anew.
    pub async fn wait(
        &self,
        office: &Office,
        topic: Topic<'_>,
        closing: &CancellationToken,
        current: impl Fn(&View) -> u64,
    ) -> Result<u64, Failure> {
        match self.index {
            0 => Ok(current(&office.desk.view)),
            index => self.wait_above(index, office, topic, closing, current).await,
        }
    }

    /// The same for an index that is not the query's own.
    pub async fn wait_above(
        &self,
        least: u64,
        office: &Office,
        topic: Topic<'_>,
        closing: &CancellationToken,
        current: impl Fn(&View) -> u64,
    ) -> Result<u64, Failure> {
        let view = &office.desk.view;
        // Before the look, so that nothing falls between.
        let mut follower = office.desk.writer.journal.follow(topic);
        let until = self.until(office.desk.clock);
        loop {
            let index = current(view);
            if index > least || least > index.max(office.index(view.revision())) {
                return Ok(index);
            }
            // All arms are cancel-safe.
            tokio::select! {
                batch = follower.next() => match batch {
                    Ok(_) => {}
                    // Whatever was missed shows in the index; a new place is at the end.
                    Err(Ended::Lagged(_)) => follower = office.desk.writer.journal.follow(topic),
                    Err(Ended::Closed) => return Ok(current(view)),
                },
                () = tokio::time::sleep_until(until.into()) => return Ok(current(view)),
                () = closing.cancelled() => return Ok(current(view)),
            }
        }
    }

    fn until(&self, clock: Clock) -> std::time::Instant {
        let now: Now = clock.now();
        // The low digits of a nanosecond clock are as good as a die here.
        let jitter = self.wait / WAIT_JITTER;
        let part = now.mono_ns % 1024;
        clock.instant(now.mono_ns + nanoseconds(self.wait) + nanoseconds(jitter) * part / 1024)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_read_as_consul_reads_them() {
        let query = Query::of(Some("passing&stale=&pretty=True&near=_agent&tag=a&tag=b%20c&off=0&odd=maybe"));
        assert!(
            query.flag("passing").unwrap() && query.flag("stale").unwrap() && query.flag("pretty").unwrap()
        );
        assert!(!query.flag("off").unwrap() && !query.flag("none").unwrap() && query.flag("odd").is_err());
        assert_eq!(query.all("tag").collect::<Vec<_>>(), ["a", "b c"]);
    }
}
