//! One server that is asked for names that are not ours: how fast it is, whether it answers at all, how it wants to be
//! spoken to, and whether it is ourselves by a detour.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::message::Manner;
use crate::counters;
use crate::name::Name;
use crate::time::nanoseconds;

/// Queries in a row that an upstream may leave unanswered before others are asked first.
const SILENT_MAX: u32 = 3;
/// How long an upstream rests before it is probed; doubled each time, up to the longest.
const REST_MIN: Duration = Duration::from_secs(1);
const REST_MAX: Duration = Duration::from_secs(30);
/// How long an upstream is spoken to more simply, after which it may have learnt.
const SIMPLY_FOR: Duration = Duration::from_secs(600);
/// The time in which a reply is expected: three times what it takes as a rule, within bounds; then another server is
/// asked as well.
const PATIENCE_MIN: Duration = Duration::from_millis(200);
const PATIENCE_MAX: Duration = Duration::from_secs(1);
const PATIENCE_UNKNOWN: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub struct Upstream {
    pub address: SocketAddr,
    pub counts: Arc<counters::Upstream>,
    state: Mutex<State>,
}

/// Times are readings of the monotonic clock in nanoseconds.
#[derive(Debug, Default)]
struct State {
    /// Of what replies took, as RFC 6298 smoothes: an eighth of each new one.
    smoothed: Option<Duration>,
    last_reply_ns: Option<u64>,
    /// Queries left unanswered since the last reply.
    silent: u32,
    rest: Option<Rest>,
    /// A probe of ours came back to us.
    loops: bool,
    /// A probe on its way.
    probe: Option<Probe>,
    /// It was probed once, so what is said of it here is not a guess.
    probed: bool,
    no_edns_until_ns: u64,
    no_case_until_ns: u64,
}

#[derive(Debug)]
struct Probe {
    /// What is asked for.
    name: Name,
    came_to_us: bool,
}

/// What a probe has shown that was not known before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    Silent,
    /// It asks us what we ask it.
    Loops,
    Back,
}

#[derive(Clone, Copy, Debug)]
struct Rest {
    until_ns: u64,
    length: Duration,
}

impl Upstream {
    pub fn new(address: SocketAddr) -> Arc<Self> {
        let counts = Arc::new(counters::Upstream::new(address));
        Arc::new(Self { address, counts, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn manner(&self, now_ns: u64) -> Manner {
        let state = self.state();
        Manner { edns: now_ns >= state.no_edns_until_ns, mixed_case: now_ns >= state.no_case_until_ns }
    }

    pub fn knows_no_edns(&self, now_ns: u64) {
        self.state().no_edns_until_ns = now_ns + nanoseconds(SIMPLY_FOR);
    }

    /// Whoever guesses port and id may say so too, and gains the case of the letters for it, no more.
    pub fn keeps_no_case(&self, now_ns: u64) {
        self.state().no_case_until_ns = now_ns + nanoseconds(SIMPLY_FOR);
    }

    /// How long to wait before another server is asked as well.
    pub fn patience(&self) -> Duration {
        self.state()
            .smoothed
            .map_or(PATIENCE_UNKNOWN, |smoothed| (smoothed * 3).clamp(PATIENCE_MIN, PATIENCE_MAX))
    }

    pub fn rests(&self) -> bool {
        self.state().rest.is_some()
    }

    pub fn loops(&self) -> bool {
        self.state().loops
    }

    /// It replied to what was asked at `begun_ns`. True where it had been resting.
    pub fn replied(&self, begun_ns: u64, now_ns: u64) -> bool {
        self.counts.replies.add();
        let took = Duration::from_nanos(now_ns.saturating_sub(begun_ns));
        let mut state = self.state();
        state.smoothed = Some(state.smoothed.map_or(took, |smoothed| smoothed - smoothed / 8 + took / 8));
        state.last_reply_ns = Some(now_ns);
        state.silent = 0;
        state.rest.take().is_some()
    }

    /// What was asked at `begun_ns` was not answered. True where it begins to rest.
    ///
    /// A server that answered something else meanwhile is not silent: there are names that nobody has an answer to.
    pub fn stayed_silent(&self, begun_ns: u64, now_ns: u64) -> bool {
        self.counts.failures.add();
        let mut state = self.state();
        if state.last_reply_ns.is_some_and(|last_ns| last_ns >= begun_ns) {
            return false;
        }
        state.silent = state.silent.saturating_add(1);
        if state.silent < SILENT_MAX || state.rest.is_some() {
            return false;
        }
        state.rest = Some(Rest { until_ns: now_ns + nanoseconds(REST_MIN), length: REST_MIN });
        true
    }

    /// True where a probe should be sent now: it is new, or has rested.
    pub fn wants_probe(&self, now_ns: u64) -> bool {
        let state = self.state();
        state.probe.is_none()
            && match state.rest {
                Some(rest) => now_ns >= rest.until_ns,
                None => !state.probed,
            }
    }

    pub fn probe_begins(&self, name: Name) {
        let mut state = self.state();
        state.probe = Some(Probe { name, came_to_us: false });
        state.probed = true;
    }

    /// True where `name` is what a probe on its way asks for: then asking this upstream is asking us.
    pub fn recognises(&self, name: &Name) -> bool {
        match &mut self.state().probe {
            Some(probe) if probe.name == *name => {
                probe.came_to_us = true;
                true
            }
            _ => false,
        }
    }

    /// The probe is over; `replied` says whether something came back.
    ///
    /// What leads to ourselves rests as well, and is probed again: somebody may mend it.
    pub fn probe_ends(&self, replied: bool, now_ns: u64) -> Option<Shown> {
        let mut state = self.state();
        let came_to_us = state.probe.take().is_some_and(|probe| probe.came_to_us);
        let (rested, looped) = (state.rest, state.loops);
        if replied && !came_to_us {
            (state.rest, state.silent, state.loops) = (None, 0, false);
            return (rested.is_some() || looped).then_some(Shown::Back);
        }
        if !came_to_us && rested.is_none() {
            // One silence among others: whoever drops our question alone answers those of clients.
            state.silent = state.silent.saturating_add(1);
            if state.silent < SILENT_MAX {
                return None;
            }
        }
        let length = rested.map_or(REST_MIN, |rest| (rest.length * 2).min(REST_MAX));
        state.rest = Some(Rest { until_ns: now_ns + nanoseconds(length), length });
        state.loops |= came_to_us;
        match (came_to_us, looped) {
            (true, false) => Some(Shown::Loops),
            (false, _) if rested.is_none() => Some(Shown::Silent),
            _ => None,
        }
    }
}

/// The order in which upstreams are asked: as they were given, those that rest last, those that lead to us never.
pub fn order(upstreams: &[Arc<Upstream>]) -> Vec<Arc<Upstream>> {
    let mut order: Vec<_> = upstreams.iter().filter(|upstream| !upstream.loops()).cloned().collect();
    order.sort_by_key(|upstream| upstream.rests());
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn upstream() -> Arc<Upstream> {
        Upstream::new("192.0.2.1:53".parse().unwrap())
    }

    #[test]
    fn who_stays_silent_rests_and_is_probed() {
        let one = upstream();
        assert!(one.wants_probe(0));
        one.probe_begins(Name::parse("a.b").unwrap());
        assert!(!one.wants_probe(0), "one probe at a time");
        assert_eq!(one.probe_ends(true, 0), None, "nothing has changed");
        assert!(!one.wants_probe(0));
        assert!(!one.stayed_silent(1, 2) && !one.stayed_silent(1, 2));
        assert!(one.stayed_silent(1, 2), "the third in a row");
        assert!(!one.stayed_silent(1, 2), "said once");
        assert!(one.rests() && !one.wants_probe(SECOND) && one.wants_probe(SECOND + 2));
        for (length, now) in [(2, 10), (4, 20), (8, 30), (16, 40), (30, 60), (30, 100)] {
            one.probe_begins(Name::parse("a.b").unwrap());
            assert_eq!(one.probe_ends(false, now * SECOND), None);
            assert!(
                !one.wants_probe((now + length) * SECOND - 1) && one.wants_probe((now + length) * SECOND)
            );
        }
        one.probe_begins(Name::parse("a.b").unwrap());
        assert_eq!(one.probe_ends(true, 200 * SECOND), Some(Shown::Back));
        assert!(!one.rests());
        // A probe is one silence among others, whatever kind of question it is.
        for ends in [None, None, Some(Shown::Silent)] {
            one.probe_begins(Name::parse("a.b").unwrap());
            assert_eq!(one.probe_ends(false, 0), ends);
        }
        assert!(one.rests() && one.replied(0, 1));
        one.probe_begins(Name::parse("a.b").unwrap());
        assert!(one.probe_ends(false, 0).is_none() && !one.rests());
    }

    #[test]
    fn a_name_that_nobody_answers_makes_no_server_silent() {
        let one = upstream();
        assert!(!one.replied(0, 5));
        for _ in 0..10 {
            assert!(!one.stayed_silent(4, 9), "it replied in between");
        }
        for last in [false, false, true] {
            assert_eq!(one.stayed_silent(6, 9), last);
        }
        assert!(one.replied(6, 12) && !one.rests(), "it is back");
    }

    #[test]
    fn who_leads_to_us_is_not_asked() {
        let [one, two] = [upstream(), upstream()];
        let name = Name::parse("aa.bb").unwrap();
        assert!(!one.recognises(&name));
        one.probe_begins(name.clone());
        assert!(one.recognises(&name) && one.recognises(&name) && !two.recognises(&name));
        assert!(!one.loops(), "not before it is over");
        assert_eq!(one.probe_ends(true, 0), Some(Shown::Loops));
        assert!(!one.recognises(&name));
        assert!(one.loops() && one.wants_probe(SECOND));
        let order = order(&[one.clone(), two.clone()]);
        assert!(order.len() == 1 && Arc::ptr_eq(&order[0], &two));
        one.probe_begins(name);
        assert_eq!(one.probe_ends(true, SECOND), Some(Shown::Back));
        assert!(!one.loops() && !one.rests());
    }

    #[test]
    fn patience_follows_the_upstream() {
        let one = upstream();
        assert_eq!(one.patience(), PATIENCE_UNKNOWN);
        one.replied(0, SECOND / 10);
        assert_eq!(one.patience(), Duration::from_millis(300));
        one.replied(0, SECOND / 10 * 9);
        assert_eq!(one.patience(), Duration::from_millis(600));
        one.replied(0, 60 * SECOND);
        assert_eq!(one.patience(), PATIENCE_MAX);
        let [simple, full] = [false, true].map(|yes| Manner { edns: yes, mixed_case: yes });
        assert_eq!(one.manner(0), full);
        one.knows_no_edns(0);
        one.keeps_no_case(0);
        assert_eq!(one.manner(599 * SECOND), simple);
        assert_eq!(one.manner(600 * SECOND), full);
    }
}
