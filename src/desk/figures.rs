//! The figures of availability, as the socket and the metrics tell them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{Desk, unreadable};
use crate::availability::{Known, Past, SPAN_MAX, SPANS, ServiceTimes, Times, start_of};
use crate::counters::{Mean, Probes, Queries};
use crate::instance::Key;
use crate::name::ServiceName;
use crate::protocol::{
    AvailabilityForm, AvailabilityReply, LIST_MAX, LiveTimeForm, MeanForm, Problem, Reply, SpanForm,
};
use crate::time::{Now, Wall};
use crate::view::{Census, Member};

/// Changes that one answer is made from, newest first: some seconds of reading. Where the log has more, the figures say
/// since when they are.
const UNDONE_MAX: usize = 1_000_000;
/// How long the metrics tell the same of live time, for they are asked often and by many.
const KEPT: Duration = Duration::from_secs(60);

/// What the figures are made from besides the view and the log.
#[derive(Debug)]
pub struct Figures {
    probes: Arc<Probes>,
    queries: Arc<Queries>,
    /// How long a service is known after its last instance left.
    known_for: Duration,
    /// What the metrics told last. One answer at a time is made under this lock, so that many who ask have one log in
    /// memory, not many.
    kept: Mutex<Option<LiveTime>>,
}

/// Live time over registered time of everything.
#[derive(Clone, Copy, Debug)]
pub struct LiveTime {
    pub instances: Times,
    pub services: Times,
    pub known: Known,
    at: Now,
}

impl LiveTime {
    /// How much of a span is known, where that is from `known_ms` on.
    pub fn covered(&self, span: Duration, known_ms: i64) -> Duration {
        let now_ms = self.at.wall.unix_ms;
        let covered_ms = now_ms.saturating_sub(start_of(now_ms, span).max(known_ms));
        Duration::from_millis(u64::try_from(covered_ms).unwrap_or(0))
    }
}

impl Figures {
    pub fn new(probes: Arc<Probes>, queries: Arc<Queries>, known_for: Duration) -> Self {
        Self { probes, queries, known_for, kept: Mutex::default() }
    }
}

impl Desk {
    /// The figures of everything, or of one service and its instances. It reads from the disk.
    ///
    /// # Errors
    ///
    /// No service of this name; a log that cannot be read, or that lacks what the store does not take now.
    pub fn availability(&self, form: &AvailabilityForm) -> Result<Reply, Problem> {
        let only = service("service", form.service.as_deref())?;
        let after = service("after", form.after.as_deref())?;
        let now = self.clock.now().wall;
        let (services, known) = {
            let _one_at_a_time = self.figures.kept.lock().unwrap_or_else(PoisonError::into_inner);
            self.times(now, only.clone())?
        };
        let mut reply = AvailabilityReply::from(&self.census(only.as_ref()));
        reply.query_time = mean(self.figures.queries.times().mean());
        let Some(only) = only else {
            reply.probe_time = mean(self.figures.probes.duration.mean());
            let wanted =
                services.iter().filter(|service| after.as_ref().is_none_or(|after| service.name > *after));
            let mut page: Vec<_> = wanted.take(LIST_MAX + 1).collect();
            if page.len() > LIST_MAX {
                page.truncate(LIST_MAX);
                reply.next = page.last().map(|service| service.name.to_string());
            }
            reply.of_services =
                page.into_iter().map(|service| self.of_service(service, known, now)).collect();
            return Ok(Reply::Availability(Box::new(reply)));
        };
        let Some(service) = services.first() else {
            let text = format!(
                "neither the registry nor the log has a service `{only}`; `callsign ls` lists those there are"
            );
            return Err(Problem { field: Some("service".to_owned()), ..Problem::new("not_found", text) });
        };
        reply.probe_time = mean(self.figures.probes.of_service(&only));
        reply.of_services.push(self.of_service(service, known, now));
        let instances = service.instances.iter();
        reply.of_instances = instances.map(|(key, times)| self.of_instance(key, times, known, now)).collect();
        // Among these, as they were: in order of id and host.
        reply.of_instances.sort_by_key(|instance| !instance.registered);
        reply.left_out = reply.of_instances.len().saturating_sub(LIST_MAX) as u64;
        reply.of_instances.truncate(LIST_MAX);
        Ok(Reply::Availability(Box::new(reply)))
    }

    /// Live time over registered time of everything, at most `KEPT` old; none where the log cannot be read. It may read
    /// from the disk.
    pub fn live_time(&self) -> Option<LiveTime> {
        let mut kept = self.figures.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        if let Some(kept) = kept.filter(|kept| now.since(kept.at) < KEPT) {
            return Some(kept);
        }
        let (services, known) = self.times(now.wall, None).ok()?;
        let mut sum = LiveTime { instances: Times::default(), services: Times::default(), known, at: now };
        for service in services {
            sum.services.add(&service.times);
            service.instances.iter().for_each(|(_, times)| sum.instances.add(times));
        }
        *kept = Some(sum);
        Some(sum)
    }

    fn census(&self, only: Option<&ServiceName>) -> Census {
        let Some(only) = only else { return self.view.census() };
        self.view.service(only.as_str()).map(|service| Census::of(&service)).unwrap_or_default()
    }

    /// Undoes the log as far back as the figures look.
    fn times(&self, now: Wall, only: Option<ServiceName>) -> Result<(Vec<ServiceTimes>, Known), Problem> {
        if self.view.store_trouble().is_some() {
            let text = "the log lacks what the store does not take now; `callsign status` says why";
            return Err(Problem::new("unavailable", text));
        }
        let known_for = self.figures.known_for;
        let mut past = Past::new(now, only, known_for);
        // Who left before the longest span begins may be remembered in it.
        let enough_ms = start_of(start_of(now.unix_ms, SPAN_MAX), known_for);
        let (mut before, mut undone, mut oldest) = (u64::MAX, 0, now);
        let known = loop {
            let page = self.history.before(before, LIST_MAX).map_err(unreadable)?;
            let Some(last) = page.last() else {
                break match self.history.is_whole() {
                    true => Known::WHOLE,
                    false => Known::since(oldest, known_for),
                };
            };
            (before, oldest) = (last.revision, oldest.min(last.at));
            page.iter().for_each(|change| past.undo(change));
            undone += page.len();
            if oldest.unix_ms < enough_ms || undone >= UNDONE_MAX {
                break Known::since(oldest, known_for);
            }
        };
        Ok((past.services(&self.view, known), known))
    }

    fn of_service(&self, service: &ServiceTimes, known: Known, now: Wall) -> LiveTimeForm {
        let view = self.view.service(service.name.as_str());
        LiveTimeForm {
            service: service.name.to_string(),
            id: None,
            host: None,
            live: view.as_ref().is_some_and(|view| view.members.iter().any(Member::is_live)),
            registered: view.is_some(),
            probe_time: mean(self.figures.probes.of_service(&service.name)),
            spans: spans(&service.times, known.services_ms, now),
        }
    }

    fn of_instance(&self, key: &Key, times: &Times, known: Known, now: Wall) -> LiveTimeForm {
        let member = self.view.member(key);
        LiveTimeForm {
            service: key.service.to_string(),
            id: Some(key.id.to_string()),
            host: Some(key.host.to_string()),
            live: member.as_ref().is_some_and(|member| member.is_live()),
            registered: member.is_some(),
            probe_time: None,
            spans: spans(times, known.instances_ms, now),
        }
    }
}

impl From<&Census> for AvailabilityReply {
    fn from(census: &Census) -> Self {
        Self {
            ratio: census.ratio(),
            instances: census.instances(),
            instances_live: census.live,
            services: census.services,
            services_live: census.services_live,
            query_time: None,
            probe_time: None,
            of_services: Vec::new(),
            of_instances: Vec::new(),
            left_out: 0,
            next: None,
        }
    }
}

fn service(field: &str, given: Option<&str>) -> Result<Option<ServiceName>, Problem> {
    given.map(|name| ServiceName::parse(name).map_err(|unfit| Problem::invalid(field, unfit))).transpose()
}

fn spans(times: &Times, known_ms: i64, now: Wall) -> Vec<SpanForm> {
    let spans = SPANS.iter().enumerate().map(|(at, (name, length))| SpanForm {
        span: (*name).to_owned(),
        live_ms: times.live_ms[at],
        registered_ms: times.registered_ms[at],
        ratio: times.ratio(at),
        since: (known_ms > start_of(now.unix_ms, *length))
            .then(|| Wall { unix_ms: known_ms.min(now.unix_ms) }.to_string()),
    });
    spans.collect()
}

fn mean(mean: Mean) -> Option<MeanForm> {
    let mean_us = mean.sum_ns as f64 / mean.count as f64 / 1000.0;
    (mean.count > 0).then_some(MeanForm { mean_us, timed: mean.count })
}
