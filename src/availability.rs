//! How much of the time instances and services were live: a fold over the log of changes, from now backwards.
//!
//! A change tells what was and what is, so a log that is read newest first says of every instance in which state it was
//! from when to when. What the log does not mention was as it is now. How far back the log is known is an argument: time
//! before that is in no figure.
//!
//! An instance's live time is that in which neither a check of its own nor one of its host kept it out of the answers,
//! nor a drain; its registered time is that from registration to leaving. A service is live while an instance of it is,
//! and registered while it is known: a gap that is shorter than its name is remembered is an outage, a longer one is
//! the service's end. `docs/availability.md` has the same with an example.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::check::worst;
use crate::instance::{Host, Instance, Key};
use crate::name::{HostName, ServiceName};
use crate::registry::{Change, What};
use crate::time::Wall;
use crate::view::{ServiceView, View};

/// How long back the figures look, shortest first, and what they are called.
pub const SPANS: [(&str, Duration); 3] = [
    ("1h", Duration::from_secs(3600)),
    ("24h", Duration::from_secs(24 * 3600)),
    ("30d", Duration::from_secs(30 * 24 * 3600)),
];
/// The longest of them.
pub const SPAN_MAX: Duration = SPANS[SPANS.len() - 1].1;

/// Milliseconds of each span.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    pub live_ms: [i64; SPANS.len()],
    pub registered_ms: [i64; SPANS.len()],
}

impl Times {
    /// Live time over registered time; none where nothing was registered.
    pub fn ratio(&self, span: usize) -> Option<f64> {
        let registered = self.registered_ms[span];
        (registered > 0).then(|| self.live_ms[span] as f64 / registered as f64)
    }

    pub fn add(&mut self, other: &Self) {
        for span in 0..SPANS.len() {
            self.live_ms[span] += other.live_ms[span];
            self.registered_ms[span] += other.registered_ms[span];
        }
    }
}

/// A service's times, and those of every instance that it had in the longest span.
#[derive(Clone, Debug)]
pub struct ServiceTimes {
    pub name: ServiceName,
    pub times: Times,
    pub instances: Vec<(Key, Times)>,
}

/// From when on the log says everything, in milliseconds since 1970; `i64::MIN` where nothing was ever taken out of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    pub instances_ms: i64,
    /// Later: who left before the log begins may have been remembered.
    pub services_ms: i64,
}

impl Known {
    /// Of a log that is whole.
    pub const WHOLE: Self = Self { instances_ms: i64::MIN, services_ms: i64::MIN };

    /// Of a log that begins at `start`, where a service is known for so long after its last instance left.
    pub fn since(start: Wall, known_for: Duration) -> Self {
        Self { instances_ms: start.unix_ms, services_ms: start.after(known_for).unix_ms }
    }
}

/// What an instance is by itself; of a host, `Live` and `Out` say whether its checks let its instances be live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Live,
    /// Registered, and a check or a drain keeps it out.
    Out,
    /// It left, and is remembered.
    Gone,
    Unknown,
}

impl State {
    fn of(instance: &Instance) -> Self {
        if instance.health().in_answers() && !instance.draining { Self::Live } else { Self::Out }
    }

    fn of_host(host: Option<&Host>) -> Self {
        let fit = host.is_none_or(|host| worst(&host.checks).in_answers());
        if fit { Self::Live } else { Self::Out }
    }
}

/// The states of one instance or host.
#[derive(Debug)]
struct Line {
    /// When it came to be in which state, newest first.
    turns: Vec<(i64, State)>,
    /// What it was before the oldest of these.
    before: State,
}

/// From when to when, in milliseconds since 1970.
type Stretch = (i64, i64);

impl Line {
    fn constant(state: State) -> Self {
        Self { turns: Vec::new(), before: state }
    }

    fn turned(&mut self, at: i64, before: State, after: State) {
        self.turns.push((at, after));
        self.before = before;
    }

    /// Oldest first.
    fn stretches(&self, now: i64) -> impl Iterator<Item = (Stretch, State)> {
        let starts = std::iter::once((i64::MIN, self.before)).chain(self.turns.iter().rev().copied());
        let ends = self.turns.iter().rev().map(|(at, _)| *at).chain(std::iter::once(now));
        starts.zip(ends).map(|((start, state), end)| ((start, end), state))
    }
}

/// See the module's own words.
#[derive(Debug)]
pub struct Past {
    now: i64,
    /// Of the change that was undone last. The wall clock may have been set back: time never runs backwards here.
    last: i64,
    /// How long after its last instance left a service is known.
    known_for_ms: i64,
    /// The one service that is asked for, if it is one.
    only: Option<ServiceName>,
    instances: BTreeMap<Key, Line>,
    hosts: HashMap<HostName, Line>,
}

impl Past {
    /// The figures at `now`, of one service or of all.
    pub fn new(now: Wall, only: Option<ServiceName>, known_for: Duration) -> Self {
        let (now, known_for_ms) = (now.unix_ms, milliseconds(known_for));
        Self { now, last: now, known_for_ms, only, instances: BTreeMap::new(), hosts: HashMap::new() }
    }

    /// The next change of the log, newest first; every one of them has to be told.
    pub fn undo(&mut self, change: &Change) {
        let at = change.at.unix_ms.min(self.last);
        self.last = at;
        let empty = || Line::constant(State::Unknown);
        match &change.what {
            What::Instance { before, after } => {
                let Some(known) = after.as_ref().or(before.as_ref()) else { return };
                let (was, is) = match (before, after) {
                    (Some(before), Some(after)) => (State::of(before), State::of(after)),
                    (None, Some(after)) => (State::Unknown, State::of(after)),
                    (Some(before), None) => (State::of(before), State::Gone),
                    (None, None) => return,
                };
                if self.asks_for(&known.key) {
                    self.instances.entry(known.key.clone()).or_insert_with(empty).turned(at, was, is);
                }
            }
            What::Forgotten { key } if self.asks_for(key) => {
                let line = self.instances.entry(key.clone()).or_insert_with(empty);
                line.turned(at, State::Gone, State::Unknown);
            }
            What::Host { before, after } => {
                let Some(known) = after.as_ref().or(before.as_ref()) else { return };
                let (was, is) = (State::of_host(before.as_deref()), State::of_host(after.as_deref()));
                self.hosts.entry(known.name.clone()).or_insert_with(empty).turned(at, was, is);
            }
            What::Forgotten { .. }
            | What::Settings { .. }
            | What::Guard { .. }
            | What::Token { .. }
            | What::Plain { .. } => {}
        }
    }

    fn asks_for(&self, key: &Key) -> bool {
        self.only.as_ref().is_none_or(|only| key.service == *only)
    }

    /// The times of every service that is known now or was in the longest span, in order of their names.
    pub fn services(mut self, view: &View, known: Known) -> Vec<ServiceTimes> {
        let directory = view.directory();
        let names: Vec<ServiceName> = match &self.only {
            Some(only) => vec![only.clone()],
            None => directory.names().cloned().collect(),
        };
        for service in names.iter().filter_map(|name| view.service(name.as_str())) {
            self.add_unchanged(&service);
        }
        for key in self.instances.keys() {
            if !self.hosts.contains_key(&key.host) {
                let state = State::of_host(view.host(&key.host).as_deref());
                self.hosts.insert(key.host.clone(), Line::constant(state));
            }
        }
        let mut found: Vec<ServiceTimes> = Vec::new();
        let (mut live, mut there) = (Vec::new(), Vec::new());
        let mut lines = self.instances.iter().peekable();
        while let Some((key, line)) = lines.next() {
            let out = self.hosts.get(&key.host).map(|host| self.stretches_out(host)).unwrap_or_default();
            let mut own = Vec::new();
            let mut registered = Vec::new();
            for (stretch, state) in line.stretches(self.now) {
                let (start, end) = stretch;
                match state {
                    State::Unknown => continue,
                    // Where many left, some were forgotten before their time, and nothing was said of it.
                    State::Gone => {
                        there.push((start, end.min(start.saturating_add(self.known_for_ms))));
                        continue;
                    }
                    State::Live => own.extend(without(stretch, &out)),
                    State::Out => {}
                }
                there.push(stretch);
                registered.push(stretch);
            }
            let times = Times {
                live_ms: self.within_spans(&own, known.instances_ms),
                registered_ms: self.within_spans(&registered, known.instances_ms),
            };
            live.append(&mut own);
            if found.last().is_none_or(|service| service.name != key.service) {
                let (name, times, instances) = (key.service.clone(), Times::default(), Vec::new());
                found.push(ServiceTimes { name, times, instances });
            }
            let Some(service) = found.last_mut() else { continue };
            if times.registered_ms[SPANS.len() - 1] > 0 {
                service.instances.push((key.clone(), times));
            }
            if lines.peek().is_none_or(|(next, _)| next.service != key.service) {
                service.times = Times {
                    live_ms: self.within_spans(&union(&mut live), known.services_ms),
                    registered_ms: self.within_spans(&union(&mut there), known.services_ms),
                };
                live.clear();
                there.clear();
            }
        }
        found.retain(|service| {
            service.times.registered_ms[SPANS.len() - 1] > 0 || view.service(service.name.as_str()).is_some()
        });
        found
    }

    /// What no change told of was all the time as it is now.
    fn add_unchanged(&mut self, service: &ServiceView) {
        for member in &service.members {
            let state = State::of(&member.instance);
            self.instances.entry(member.instance.key.clone()).or_insert_with(|| Line::constant(state));
        }
        for gone in &service.gone {
            let line =
                || Line { turns: vec![(gone.at.unix_ms, State::Gone)], before: State::of(&gone.instance) };
            self.instances.entry(gone.instance.key.clone()).or_insert_with(line);
        }
    }

    fn stretches_out(&self, host: &Line) -> Vec<Stretch> {
        let out = host.stretches(self.now).filter(|(_, state)| *state == State::Out);
        out.map(|(stretch, _)| stretch).collect()
    }

    /// How much of the stretches, which do not overlap, lies in each span and is known.
    fn within_spans(&self, stretches: &[Stretch], known_ms: i64) -> [i64; SPANS.len()] {
        SPANS.map(|(_, length)| {
            let from = start_of(self.now, length).max(known_ms);
            stretches.iter().map(|(start, end)| (*end.min(&self.now) - *start.max(&from)).max(0)).sum()
        })
    }
}

/// When a span that ends at `now` begins.
pub fn start_of(now_ms: i64, length: Duration) -> i64 {
    now_ms.saturating_sub(milliseconds(length))
}

fn milliseconds(length: Duration) -> i64 {
    i64::try_from(length.as_millis()).unwrap_or(i64::MAX)
}

/// What is left of a stretch; `out` is in order.
fn without((mut start, end): Stretch, out: &[Stretch]) -> Vec<Stretch> {
    let mut left = Vec::new();
    for (from, to) in out.iter().copied() {
        if to > start && from < end {
            if from > start {
                left.push((start, from));
            }
            start = to;
        }
    }
    if start < end {
        left.push((start, end));
    }
    left
}

/// The same time without overlaps.
fn union(stretches: &mut [Stretch]) -> Vec<Stretch> {
    stretches.sort_unstable();
    let mut joined: Vec<Stretch> = Vec::new();
    for (start, end) in stretches.iter().copied() {
        match joined.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => joined.push((start, end)),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_are_joined_and_cut() {
        assert_eq!(union(&mut [(5, 7), (0, 2), (1, 3), (7, 9), (10, 10)]), [(0, 3), (5, 9), (10, 10)]);
        assert_eq!(without((0, 10), &[(-5, 1), (3, 4), (9, 20)]), [(1, 3), (4, 9)]);
        assert_eq!(without((0, 10), &[(0, 10)]), []);
        assert_eq!(without((0, 10), &[(10, 11)]), [(0, 10)]);
    }
}
