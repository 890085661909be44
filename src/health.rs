//! The probes of checks: what is done at every interval, and what its outcome makes of a check.
//!
//! One task knows every check that is probed, from the view at its start and from the journal since; it has a list of
//! who is due when, and starts each probe as a task of its own, in one of a bounded number of places. A probe ends
//! within its timeout, whatever its target does. A check has one probe at a time, and one whose last probe took long takes
//! its place among the slow: targets that hang delay each other, and nobody else.
//!
//! What an outcome means is the core's to say (`check::Streak`). Only where it makes the check another status
//! than the view shows does the writer hear of it, as a fact: what happened is published at once, whether the store
//! can take it or not. The same outcome again costs nobody anything.
//!
//! Where several nodes share the registry, a check is in the book of one of them: that which the nodes' circle names for
//! whose check it is. When the circle changes, every check is read anew; what comes from another node is probed within
//! seconds. A verdict that is not taken (etcd is away, or the check is another node's by now) is not kept: what is so is
//! found again by a probe of its own.
//!
//! Where a probe may go is decided in `reach`. Why one task and not one for each check: twenty thousand timers and their
//! stacks to do what one ordered list does, and no one to ask how many run.

mod alias;
mod book;
mod command;
mod grpc;
mod http;
mod probe;
mod reach;
mod tls;
mod verdicts;

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::book::{Book, Found, LANES, Lane};
use self::probe::{Ended, Prober};
use self::reach::{Reach, Whose};
use self::tls::Trust;
use self::verdicts::{REPORTS_MAX, Told, tell};
use crate::balance::circle::Circle;
use crate::check::{Check, Kind};
use crate::clock::Clock;
use crate::counters::Probes;
use crate::journal::{Batch, Ended as NoMore, Follower, Topic};
use crate::lease::Leased;
use crate::registry::What;
use crate::view::View;
use crate::writer::Handle;

/// Probes at once of targets that are not slow. 20,000 checks at 10 s whose targets all fall silent at once
/// take four seconds to fill them, and are slow from their first timeout on. A probe takes a descriptor and some KiB.
const QUICK_MAX: usize = 8192;
/// Probes at once of slow targets: half as many, so that however many hang, most places are the others'.
const SLOW_MAX: usize = 4096;
/// Programs at once: each is a process and its memory, and they compete with what they look at.
const COMMANDS_MAX: usize = 16;
/// The part of all descriptors that probes may take: the rest is for connections and files.
const DESCRIPTORS_PART: usize = 4;
/// Probes started before the loop looks at what else there is: 256 connects are some milliseconds.
const STARTS_MAX: usize = 256;
/// Subjects read of the view before others may run.
const READ_MAX: usize = 1024;
/// How long an alias's verdict waits that found no room.
const ALIASES_AGAIN: Duration = Duration::from_millis(100);
/// How often we look whether verdicts are taken again.
const UNSAID_AGAIN: Duration = Duration::from_secs(1);

/// What the probes of a server stand on.
pub struct Probing {
    pub view: Arc<View>,
    pub writer: Handle,
    pub clock: Clock,
    /// Where probes may go besides their own addresses and loopback.
    pub allow: Vec<IpNet>,
    /// Where this server takes registrations and HTTP: no probe goes there.
    pub own: Vec<SocketAddr>,
    /// The ports of the etcd that keeps the registry.
    pub store: Vec<u16>,
    /// Programs may be run.
    pub commands: bool,
    /// For the jitter of the starts.
    pub seed: u64,
    pub counters: Arc<Probes>,
}

/// Probes until `stop`; what is under way then is dropped.
///
/// # Errors
///
/// None: it is a named task like those that have some.
pub async fn run(probing: Probing, stop: CancellationToken) -> io::Result<()> {
    let (reports, waiting) = mpsc::channel(REPORTS_MAX);
    let (refuse, refused) = mpsc::channel(REPORTS_MAX);
    let telling = tell(probing.writer.clone(), waiting, refuse);
    let scheduler = Scheduler::new(probing, reports, refused);
    // The scheduler ends first: its end of the queue goes with it, and the other has nothing more to tell.
    tokio::join!(scheduler.run(stop), telling);
    Ok(())
}

/// Why the book is read anew, or not any more.
enum Over {
    /// So many batches of changes were missed.
    Behind(u64),
    /// What belongs to which node is another way.
    Moved,
    Stopped,
}

struct Scheduler {
    view: Arc<View>,
    writer: Handle,
    clock: Clock,
    book: Book,
    prober: Arc<Prober>,
    /// By lane.
    places: [Arc<Semaphore>; LANES.len()],
    tasks: JoinSet<Ended>,
    reports: mpsc::Sender<Told>,
    /// Checks whose verdicts were not taken, as we hear of them, and until they are probed anew.
    refused: mpsc::Receiver<u64>,
    unsaid: BTreeSet<u64>,
    circles: watch::Receiver<Option<Arc<Circle>>>,
    /// By which the book was made; `None` where everything is ours.
    circle: Option<Arc<Circle>>,
    /// Aliases that have to be looked at, and the last one that was: those behind it are next.
    dirty: BTreeSet<u64>,
    looked_at: u64,
    /// There was no time for all of them.
    more_aliases: bool,
    /// When the log may say again that we lack what probes need.
    lack_again_ns: u64,
    counters: Arc<Probes>,
}

impl Scheduler {
    fn new(probing: Probing, reports: mpsc::Sender<Told>, refused: mpsc::Receiver<u64>) -> Self {
        let Probing { view, writer, clock, allow, own, store, commands, seed, counters } = probing;
        let prober =
            Prober { clock, reach: Reach::new(allow, own, store), trust: Trust::default(), commands };
        let descriptors = descriptors() / DESCRIPTORS_PART;
        let places = LANES.map(|lane| match lane {
            Lane::Quick => QUICK_MAX.min(descriptors * 2 / 3),
            Lane::Slow => SLOW_MAX.min(descriptors / 3),
            Lane::Command => COMMANDS_MAX,
        });
        Self {
            circles: writer.circle.clone(),
            circle: None,
            refused,
            unsaid: BTreeSet::new(),
            view,
            writer,
            clock,
            book: Book::new(seed),
            prober: Arc::new(prober),
            places: places.map(|most| Arc::new(Semaphore::new(most.max(1)))),
            tasks: JoinSet::new(),
            reports,
            dirty: BTreeSet::new(),
            looked_at: 0,
            more_aliases: false,
            lack_again_ns: 0,
            counters,
        }
    }

    async fn run(mut self, stop: CancellationToken) {
        let mut found = match *self.circles.borrow() {
            Some(_) => Found::Elsewhere,
            None => Found::AtStart,
        };
        loop {
            // Followed before it is read: what changes in between is heard twice, and is the same.
            let changes = self.writer.journal.follow(Topic::Everything);
            self.circle = self.circles.borrow_and_update().clone();
            self.read_all(found).await;
            found = match self.work(changes, &stop).await {
                Over::Behind(batches) => {
                    tracing::debug!(batches, "probes: reading every check anew");
                    Found::Later
                }
                Over::Moved => Found::Elsewhere,
                Over::Stopped => break,
            };
        }
        self.tasks.shutdown().await;
        let made: u64 = self.counters.made().map(|(.., count)| count).sum();
        tracing::debug!(
            checks = self.book.len(),
            made,
            transitions = self.counters.transitions.read(),
            late = self.counters.late.read(),
            waited = self.counters.waited.read(),
            lateness_p50 = ?self.counters.lateness.within(0.5),
            lateness_p99 = ?self.counters.lateness.within(0.99),
            duration_p99 = ?self.counters.duration.within(0.99),
            "probes stopped"
        );
    }

    /// Until there are no more changes, or some were missed.
    async fn work(&mut self, mut changes: Follower, stop: &CancellationToken) -> Over {
        loop {
            self.look_at_unsaid();
            self.look_at_aliases();
            self.start_due();
            let wake = self.wake_ns().map(|wake_ns| self.clock.instant(wake_ns).into());
            let sleep = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            // Every arm is cancel-safe: a batch or an end that is not taken stays where it is, and the sleep is
            // computed anew.
            tokio::select! {
                () = stop.cancelled() => return Over::Stopped,
                () = moved(&mut self.circles) => return Over::Moved,
                batch = changes.next() => match batch {
                    Ok(batch) => self.learn(&batch),
                    Err(NoMore::Lagged(batches)) => return Over::Behind(batches),
                    Err(NoMore::Closed) => return Over::Stopped,
                },
                Some(number) = self.refused.recv() => drop(self.unsaid.insert(number)),
                Some(ended) = self.tasks.join_next() => {
                    self.finish(ended);
                    while let Some(ended) = self.tasks.try_join_next() {
                        self.finish(ended);
                    }
                }
                () = sleep => {}
            }
        }
    }

    fn wake_ns(&self) -> Option<u64> {
        let now = self.clock.now();
        let wait = if self.more_aliases { Duration::ZERO } else { ALIASES_AGAIN };
        let aliases = (!self.dirty.is_empty()).then(|| now.after(wait).mono_ns);
        let unsaid = (!self.unsaid.is_empty()).then(|| now.after(UNSAID_AGAIN).mono_ns);
        self.book.next_ns().into_iter().chain(aliases).chain(unsaid).min()
    }

    /// True where it is this server that probes these checks of somebody; always, where it is alone.
    fn is_ours(&self, of: &Leased, checks: &[Check]) -> bool {
        let Some(circle) = &self.circle else { return true };
        checks.iter().any(|check| check.definition.kind.is_probed()) && circle.is_ours(&of.to_string())
    }

    /// The checks of everybody, as the view has them.
    async fn read_all(&mut self, found: Found) {
        let mut gone = self.book.subjects();
        let mut read = 0;
        for name in self.view.directory().names() {
            let Some(service) = self.view.service(name.as_str()) else { continue };
            for member in &service.members {
                let of = Leased::Instance(member.instance.key.clone());
                if self.is_ours(&of, &member.instance.checks) {
                    gone.remove(&of);
                    self.book.set(&of, &member.instance.checks, found, self.clock.now().mono_ns);
                }
            }
            read += service.members.len();
            if read >= READ_MAX {
                read = 0;
                tokio::task::yield_now().await;
            }
        }
        for name in self.view.hosts() {
            let Some(host) = self.view.host(&name) else { continue };
            let of = Leased::Host(name);
            if self.is_ours(&of, &host.checks) {
                gone.remove(&of);
                self.book.set(&of, &host.checks, found, self.clock.now().mono_ns);
            }
        }
        for of in gone {
            self.book.set(&of, &[], found, 0);
        }
        self.dirty = self.book.aliases();
    }

    /// What a batch of changes means for checks, and for those that are aliases of what it changed.
    fn learn(&mut self, batch: &Batch) {
        let now_ns = self.clock.now().mono_ns;
        // Whose aliases have to be looked at: each once, however many of the changes are about it.
        let (mut ids, mut hosts) = (BTreeSet::new(), BTreeSet::new());
        for event in batch.iter() {
            match &event.change.what {
                What::Instance { before, after } => {
                    let Some(instance) = after.as_ref().or(before.as_ref()) else { continue };
                    let checks = after.as_ref().map(|after| after.checks.as_slice()).unwrap_or_default();
                    let of = Leased::Instance(instance.key.clone());
                    self.learn_of(&of, checks, now_ns);
                    ids.insert(instance.key.id.clone());
                    hosts.insert(instance.key.host.clone());
                }
                What::Host { before, after } => {
                    let Some(host) = after.as_ref().or(before.as_ref()) else { continue };
                    let checks = after.as_ref().map(|after| after.checks.as_slice()).unwrap_or_default();
                    self.learn_of(&Leased::Host(host.name.clone()), checks, now_ns);
                    if self.book.has_aliases() {
                        hosts.insert(host.name.clone());
                        // A host's checks count for every instance on it.
                        let on_host = self.view.on_host(&host.name);
                        ids.extend(on_host.iter().map(|member| member.instance.key.id.clone()));
                    }
                }
                What::Forgotten { .. }
                | What::Settings { .. }
                | What::Guard { .. }
                | What::Token { .. }
                | What::Plain { .. } => {}
            }
        }
        self.dirty.extend(ids.iter().flat_map(|id| self.book.aliases_of_id(id)));
        self.dirty.extend(hosts.iter().flat_map(|host| self.book.aliases_of_host(host)));
    }

    fn learn_of(&mut self, of: &Leased, checks: &[Check], now_ns: u64) {
        let ours = if self.is_ours(of, checks) { checks } else { &[] };
        self.book.set(of, ours, Found::Later, now_ns);
        // New ones, and those of which somebody has said otherwise.
        self.dirty.extend(self.book.aliases_on(of));
    }

    /// Starts what waits for a place and what is due, as far as there are places.
    fn start_due(&mut self) {
        for lane in LANES {
            while self.places[lane as usize].available_permits() > 0
                && let Some((number, since_ns)) = self.book.pop_waiting(lane)
            {
                self.start(number, since_ns);
            }
        }
        let now_ns = self.clock.now().mono_ns;
        for _ in 0..STARTS_MAX {
            let Some((number, due_ns)) = self.book.pop_due(now_ns) else { break };
            self.start(number, due_ns);
        }
    }

    fn start(&mut self, number: u64, due_ns: u64) {
        let Some(entry) = self.book.entry(number) else { return };
        if matches!(entry.definition.kind, Kind::Alias { .. }) {
            self.dirty.insert(number);
            return;
        }
        let Some(whose) = whose(&self.view, &entry.of) else {
            // It has left, and the journal is about to say so.
            return self.book.again_soon(number, self.clock.now().mono_ns);
        };
        let Ok(place) = self.places[entry.lane() as usize].clone().try_acquire_owned() else {
            self.counters.waited.add();
            return self.book.wait(number, due_ns);
        };
        let (prober, definition) = (self.prober.clone(), entry.definition.clone());
        let probe = self.tasks.spawn(async move {
            let ended = prober.probe(number, due_ns, definition, whose).await;
            drop(place);
            ended
        });
        self.book.runs(number, probe);
    }
}

/// Returns once what belongs to which node is another way; never, where this server is alone.
async fn moved(circles: &mut watch::Receiver<Option<Arc<Circle>>>) {
    if circles.changed().await.is_err() {
        std::future::pending().await
    }
}

/// Whose check it is, as the view has it; `None` where it has left.
fn whose(view: &View, of: &Leased) -> Option<Whose> {
    match of {
        Leased::Instance(key) => {
            let member = view.member(key)?;
            Some(Whose { instance: Some(member.instance), host: member.host })
        }
        Leased::Host(name) => Some(Whose { instance: None, host: Some(view.host(name)?) }),
    }
}

/// Descriptors that this process may have.
fn descriptors() -> usize {
    use nix::sys::resource::{Resource, getrlimit};
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    usize::try_from(soft).unwrap_or(usize::MAX)
}
