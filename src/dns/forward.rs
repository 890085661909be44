//! Names that are not ours, asked of other servers: callsign as the one name server of a machine.
//!
//! Questions are passed on and answers kept for as long as they say (`forward/cache`). The same question of many clients
//! is one question on its way, and lives on where a client has gone. An upstream that does not answer in the time that
//! it takes as a rule is not waited for: the next one is asked as well, three times in all, and the first answer counts.
//! What nobody answers is SERVFAIL with the reason, in less time than the patience of a client, and that is kept too.
//!
//! Bounded are: clients that wait, questions on their way, sockets, what is kept, and the time that anything takes.
//!
//! Why not hickory-resolver: it keeps neither DO, CD nor AD, and does not keep failures.

mod cache;
mod exchange;
mod message;
pub mod resolv_conf;
mod upstream;
mod upstreams;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use ipnet::IpNet;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, watch};
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

use self::cache::Cache;
use self::message::Reply;
use self::upstream::{Upstream, order};
pub use self::upstreams::Unusable;
use crate::answer::{Answer, Ede, Rcode};
use crate::clock::Clock;
use crate::counters;
use crate::name::Name;
use crate::record::Type;
use crate::special::{self, Exceptions};
use crate::view::View;

/// Upstreams at once: who lists more gains nothing, for three are asked at most.
pub const UPSTREAMS_MAX: usize = 8;
/// Times that one question is put to an upstream, the same one or another (RFC 9520 section 3.1).
const TRIES_MAX: usize = 3;
/// How long a question may be on its way: glibc and musl give up after 5 s.
const TIME_MAX: Duration = Duration::from_millis(3500);
/// Clients that wait for other servers; one more is told so at once. A thousand browsers, some megabytes.
const WAITING_MAX: usize = 4096;
/// Questions on their way: clients may have gone whose question still is.
const QUESTIONS_MAX: usize = 4096;
/// Sockets to upstreams: a question has one, and one more for each try after the first, as long as there are. Where a
/// process may have few descriptors, a quarter of them: the others are for those who ask and register.
const SOCKETS_MAX: usize = 1024;

/// What is asked of another server. Equal without regard to case, as names are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Query {
    pub name: Name,
    pub qtype: Type,
    /// DO: signatures too (RFC 3225).
    pub dnssec_ok: bool,
    /// CD: the client validates by itself (RFC 4035 section 3.2.2).
    pub checking_disabled: bool,
}

/// What came of a query.
#[derive(Debug)]
pub struct Outcome {
    pub answer: Answer,
    /// A server that we trust says that it has validated the answer.
    pub authentic: bool,
}

/// An outcome, and how long it has been kept; `None` where it is new.
#[derive(Clone, Debug)]
pub struct Told {
    pub outcome: Arc<Outcome>,
    age_s: Option<u32>,
}

/// Where upstreams come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The machine's own, by `resolv_conf`.
    System,
    Server(SocketAddr),
}

/// What the operator decides.
#[derive(Clone, Debug)]
pub struct Settings {
    pub sources: Vec<Source>,
    /// Who may have names forwarded.
    pub allow: Vec<IpNet>,
    pub exceptions: Exceptions,
    /// What upstreams say of validation is believed, also of those on other machines.
    pub trust_ad: bool,
    /// Where we answer DNS ourselves.
    pub own: Vec<SocketAddr>,
}

/// What went wrong with one try.
#[derive(Debug)]
enum Failure {
    Network(io::Error),
    Malformed,
    /// The upstream itself says that it does not know.
    Answered(u16, Option<Ede>),
}

/// See the module's own words.
pub struct Forwarder {
    settings: Settings,
    clock: Clock,
    counters: Arc<counters::Forwarding>,
    upstreams: ArcSwap<Vec<Arc<Upstream>>>,
    cache: Mutex<Cache>,
    /// Questions on their way, and where their outcome is told.
    questions: Mutex<HashMap<Query, watch::Receiver<Option<Told>>>>,
    waiting: Arc<Semaphore>,
    sockets: Semaphore,
    tasks: TaskTracker,
}

impl Told {
    fn failure(code: u16, text: impl Into<String>) -> Self {
        let answer = Answer::bare(Rcode::ServFail, Some(Ede::new(code, text)));
        Self { outcome: Arc::new(Outcome { answer, authentic: false }), age_s: None }
    }

    /// Too many wait already.
    pub fn overload() -> Self {
        Self::failure(Ede::OTHER, "too many queries are waiting for other servers")
    }

    /// The answer as it is now.
    pub fn answer(&self) -> Answer {
        let said = &self.outcome.answer;
        let age_s = self.age_s.unwrap_or(0);
        let aged = |records| cache::aged(records, age_s);
        let mut ede = said.ede.clone();
        if let (Some(ede), Rcode::ServFail, Some(_)) = (&mut ede, said.rcode, self.age_s) {
            ede.code = Ede::CACHED_ERROR;
        }
        Answer {
            rcode: said.rcode,
            truncated: said.truncated,
            answer: aged(&said.answer),
            authority: aged(&said.authority),
            additional: aged(&said.additional),
            ede,
            ..Answer::default()
        }
    }
}

impl Forwarder {
    /// # Errors
    ///
    /// An upstream is ourselves. Or there is no file of the system's; that it names nobody else may be of a boot, where we are up before the network is.
    pub fn new(
        settings: Settings,
        clock: Clock,
        counters: Arc<counters::Forwarding>,
    ) -> Result<Arc<Self>, Unusable> {
        let forwarder = Self {
            settings,
            clock,
            counters,
            upstreams: ArcSwap::default(),
            cache: Mutex::default(),
            questions: Mutex::default(),
            waiting: Arc::new(Semaphore::new(WAITING_MAX)),
            sockets: Semaphore::new(sockets_max()),
            tasks: TaskTracker::new(),
        };
        match forwarder.servers() {
            Ok(servers) => forwarder.set_upstreams(&servers),
            Err(error @ (Unusable::Own(_) | Unusable::Unread { .. })) => return Err(error),
            Err(error @ Unusable::None) => tracing::error!(
                %error,
                "nobody to forward to yet, and names that are not ours are SERVFAIL; name a server with --forward ADDR, or there"
            ),
        }
        Ok(Arc::new(forwarder))
    }

    /// The addresses of the upstreams that are asked now.
    pub fn upstreams(&self) -> Vec<SocketAddr> {
        self.upstreams.load().iter().map(|upstream| upstream.address).collect()
    }

    /// True where this client may have names forwarded; `client` is canonical.
    pub fn permits(&self, client: IpAddr) -> bool {
        self.settings.allow.iter().any(|network| network.contains(&client))
    }

    /// What is known of a name that is not ours without asking anybody: names of special use, and probes of ours.
    pub fn special(&self, view: &View, name: &Name, qtype: Type) -> Option<Answer> {
        for upstream in self.upstreams.load().iter() {
            if upstream.recognises(name) {
                let text = "this server's own query, which came back to it";
                return Some(Answer::bare(Rcode::Refused, Some(Ede::new(Ede::OTHER, text))));
            }
        }
        special::answer(name, qtype, &self.settings.exceptions, || view.is_above_a_zone(name))
    }

    /// What is kept of a query.
    pub fn known(&self, query: &Query) -> Option<Told> {
        let told = self.cache(|cache| cache.get(query, self.now_ns()));
        if told.is_some() {
            self.counters.hits.add();
        }
        told
    }

    /// A place among those who wait; `None` where there is none.
    pub fn enter(&self) -> Option<OwnedSemaphorePermit> {
        let place = self.waiting.clone().try_acquire_owned().ok();
        if place.is_none() {
            self.counters.refused.add();
        }
        place
    }

    /// Asks, or waits with those who asked the same before; ends within `TIME_MAX`.
    pub async fn ask(self: &Arc<Self>, query: &Query) -> Told {
        let mut outcome = match self.join(query) {
            Ok(outcome) => outcome,
            Err(overload) => return overload,
        };
        let told = outcome.wait_for(Option::is_some).await;
        let told = told.ok().and_then(|told| told.clone());
        told.unwrap_or_else(|| Told::failure(Ede::OTHER, "asking other servers ended early"))
    }

    fn join(self: &Arc<Self>, query: &Query) -> Result<watch::Receiver<Option<Told>>, Told> {
        let mut questions = self.questions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(outcome) = questions.get(query) {
            self.counters.joined.add();
            return Ok(outcome.clone());
        }
        if questions.len() >= QUESTIONS_MAX {
            self.counters.refused.add();
            return Err(Told::overload());
        }
        self.counters.asked.add();
        let (sender, receiver) = watch::channel(None);
        questions.insert(query.clone(), receiver.clone());
        let underway = Underway { forwarder: self.clone(), query: query.clone() };
        self.tasks.spawn(async move {
            let told = underway.forwarder.settle(&underway.query).await;
            drop(underway);
            sender.send_replace(Some(told));
        });
        Ok(receiver)
    }

    /// Asks and keeps what was said.
    async fn settle(&self, query: &Query) -> Told {
        let outcome = Arc::new(self.resolve(query).await);
        let now_ns = self.now_ns();
        self.cache(|cache| cache.insert(query, &outcome, now_ns));
        Told { outcome, age_s: None }
    }

    async fn resolve(&self, query: &Query) -> Outcome {
        let mut race = Race::default();
        let reply = timeout(TIME_MAX, self.race(query, &mut race)).await;
        let now_ns = self.now_ns();
        for entry in &race.entries {
            let waited = Duration::from_nanos(now_ns.saturating_sub(entry.begun_ns));
            if waited >= entry.patience {
                self.stayed_silent(&entry.upstream, entry.begun_ns);
            }
        }
        match reply {
            Ok(Some((upstream, reply))) => {
                let trusted = self.settings.trust_ad || upstream.ip().is_loopback();
                let mut answer = reply.answer;
                answer.truncated = reply.truncated;
                Outcome { answer, authentic: reply.authentic && trusted }
            }
            Ok(None) | Err(_) => {
                let answer = Answer::bare(Rcode::ServFail, Some(race.why()));
                Outcome { answer, authentic: false }
            }
        }
    }

    /// The first reply that says something, of `TRIES_MAX` tries, each begun when the one before is late or failed.
    async fn race(&self, query: &Query, race: &mut Race) -> Option<(SocketAddr, Reply)> {
        let order = order(&self.upstreams.load());
        let mut left = order.iter().cycle().take(TRIES_MAX).peekable();
        let mut tries = FuturesUnordered::new();
        loop {
            let mut patience = TIME_MAX;
            // The first try waits for a socket; one more is not worth waiting for.
            let socket = match (left.peek(), tries.is_empty()) {
                (Some(_), true) => self.sockets.acquire().await.ok(),
                (Some(_), false) => self.sockets.try_acquire().ok(),
                (None, true) => return None,
                (None, false) => None,
            };
            if let Some(socket) = socket
                && let Some(upstream) = left.next()
            {
                patience = upstream.patience();
                let begun_ns = self.now_ns();
                race.entries.push(Entry { upstream: upstream.clone(), begun_ns, patience });
                tries.push(self.attempt(upstream, query, begun_ns, socket));
            }
            // Both arms are cancel-safe.
            let ended = tokio::select! {
                ended = tries.next() => ended,
                () = sleep(patience) => continue,
            };
            let Some((upstream, begun_ns, result)) = ended else { continue };
            race.entries
                .retain(|entry| entry.begun_ns != begun_ns || !Arc::ptr_eq(&entry.upstream, upstream));
            match result {
                Ok(reply) if reply.knows && matches!(reply.rcode, 0 | 3 | 6) => {
                    return Some((upstream.address, reply));
                }
                // With our RA it would be an absence to whoever reads it.
                Ok(reply) if !reply.knows => {
                    let text = format!("{} does not know, and asks nobody", upstream.address);
                    let ede = Ede::new(Ede::NO_REACHABLE_AUTHORITY, text);
                    race.failure = Some((upstream.address, Failure::Answered(reply.rcode, Some(ede))));
                }
                Ok(reply) => {
                    let failure = Failure::Answered(reply.rcode, reply.answer.ede);
                    race.failure = Some((upstream.address, failure));
                }
                Err(failure) => {
                    self.stayed_silent(upstream, begun_ns);
                    race.failure = Some((upstream.address, failure));
                }
            }
        }
    }

    /// One query to one upstream.
    async fn attempt<'a>(
        &self,
        upstream: &'a Arc<Upstream>,
        query: &Query,
        begun_ns: u64,
        _socket: SemaphorePermit<'_>,
    ) -> (&'a Arc<Upstream>, u64, Result<Reply, Failure>) {
        upstream.counts.asked.add();
        let result = exchange::ask(upstream, query, begun_ns).await;
        if result.is_ok() && upstream.replied(begun_ns, self.now_ns()) {
            self.returned(upstream);
        }
        (upstream, begun_ns, result)
    }

    fn stayed_silent(&self, upstream: &Upstream, begun_ns: u64) {
        if upstream.stayed_silent(begun_ns, self.now_ns()) {
            upstream.counts.rests.store(true, Ordering::Relaxed);
            tracing::warn!(upstream = %upstream.address, "a name server does not answer; others are asked first");
        }
    }

    fn returned(&self, upstream: &Upstream) {
        upstream.counts.rests.store(false, Ordering::Relaxed);
        tracing::info!(upstream = %upstream.address, "a name server answers again");
        self.cache(Cache::forget_failures);
    }

    fn cache<T>(&self, act: impl FnOnce(&mut Cache) -> T) -> T {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let done = act(&mut cache);
        self.counters.kept.store(cache.len() as u64, Ordering::Relaxed);
        done
    }

    fn now_ns(&self) -> u64 {
        self.clock.now().mono_ns
    }
}

fn sockets_max() -> usize {
    use nix::sys::resource::{Resource, getrlimit};
    let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
    usize::try_from(descriptors / 4).unwrap_or(SOCKETS_MAX).clamp(1, SOCKETS_MAX)
}

/// Removes its question, whatever becomes of the task.
struct Underway {
    forwarder: Arc<Forwarder>,
    query: Query,
}

impl Drop for Underway {
    fn drop(&mut self) {
        let mut questions = self.forwarder.questions.lock().unwrap_or_else(PoisonError::into_inner);
        questions.remove(&self.query);
    }
}

/// The tries of one question.
#[derive(Default)]
struct Race {
    /// Those without an outcome.
    entries: Vec<Entry>,
    /// The last that went wrong otherwise than by silence.
    failure: Option<(SocketAddr, Failure)>,
}

struct Entry {
    upstream: Arc<Upstream>,
    begun_ns: u64,
    patience: Duration,
}

impl Race {
    /// Why there is no answer, for whoever asked.
    fn why(self) -> Ede {
        match (self.failure, self.entries.first()) {
            (Some((_, Failure::Answered(_, Some(ede)))), _) => ede,
            (Some((address, Failure::Answered(rcode, None))), _) => {
                Ede::new(Ede::OTHER, format!("{address} answered rcode {rcode}"))
            }
            (_, Some(entry)) => {
                let text = format!("no reply from {} in time", entry.upstream.address);
                Ede::new(Ede::NO_REACHABLE_AUTHORITY, text)
            }
            (Some((address, Failure::Network(error))), None) => {
                Ede::new(Ede::NETWORK_ERROR, format!("{address}: {}", error.kind()))
            }
            (Some((address, Failure::Malformed)), None) => {
                Ede::new(Ede::NETWORK_ERROR, format!("{address} sent what is no reply"))
            }
            (None, None) => Ede::new(
                Ede::NO_REACHABLE_AUTHORITY,
                "no other server is known, or each leads back to this one",
            ),
        }
    }
}
