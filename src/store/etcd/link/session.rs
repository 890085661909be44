//! One connection to etcd, from the first read to the moment when it is lost.

use std::future::pending;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use h2::SendStream;
use tokio::time::{Instant, sleep_until, timeout};

use super::reach::{CALL_TIME_MAX, Caller, Lost, MESSAGE_OCTETS_MAX, words};
use super::{Link, Task};
use crate::grpc::{self, Failure};
use crate::store::etcd::follow::{Input, Output};
use crate::store::etcd::known::Stretch;
use crate::store::etcd::messages::{self, Condition, Operation, Range, Ranged};
use crate::store::etcd::{Answer, Job, MEMBERSHIP, News, SAYS_RENEWED, place};
use crate::time::nanoseconds;

/// How often it is renewed: three renewals may be lost.
const RENEW_EVERY: Duration = Duration::from_secs(1);
/// Between two tries to be a member, while the name is still another's.
const JOIN_EVERY: Duration = Duration::from_millis(500);
/// How often the keys are compared beside the watch; up to half as much is added, so that nodes do not do so together.
const COMPARE_EVERY: Duration = Duration::from_secs(30);
/// How much longer etcd rests than it took for a page of a comparison: a tenth of one core is the most that it spends on one.
const RESTS: u32 = 9;
/// How often what a comparison saw otherwise is looked at again.
const JUDGE_EVERY: Duration = Duration::from_millis(500);
/// Pairs of one page at first: with 300 octets an instance some 3 MiB. Halved where they are too long for a message.
pub(super) const PAGE_PAIRS: u64 = 10_000;
/// However long etcd takes: of a shorter page it takes no less.
const PAGE_PAIRS_SLOW: u64 = 100;
/// Transactions that etcd has at once; the others wait here.
const AT_ONCE_MAX: usize = 256;

/// What lasts as long as a connection.
pub(super) struct Session<'a> {
    link: &'a mut Link,
    caller: Caller,
    connection: Task<String>,
    transactions: FuturesUnordered<Task<(u64, Answer)>>,
    reading: Option<Task<Page>>,
    comparing: Option<Task<Page>>,
    opening: Option<Task<Result<Open, Lost>>>,
    watch: Option<Open>,
    renewing: Option<Task<Result<u64, Lost>>>,
    /// When the last renewal was asked for, and the last that was answered over this connection, in nanoseconds of the
    /// monotonic clock.
    asked_ns: u64,
    renewed_ns: Option<u64>,
    joining: Option<Task<Result<Option<u64>, Lost>>>,
    /// When to try to be a member again.
    join_at: Option<Instant>,
    judge_at: Option<Instant>,
    renew_at: Instant,
    compare_at: Instant,
    /// How long the last page of a comparison took.
    compare_took: Duration,
    /// There is an etcd lease, and everything up to now was told.
    caught_up: bool,
    /// Everything was told up to this revision, where the watch for the rest has yet to be heard of: until then there may be
    /// nobody at the other end.
    nearly: Option<u64>,
    /// The revision that this node is a member since.
    member: Option<u64>,
}

/// A page that was asked for, and what came.
struct Page {
    asked: Stretch,
    took: Duration,
    read: Result<Ranged, Lost>,
}

/// A watch; where the sending half goes, it ends.
struct Open {
    _sending: SendStream<Bytes>,
    answer: grpc::Answer,
}

/// The node left, as it was asked to.
pub(super) struct Left;

enum Happened {
    Job(Option<Job>),
    Answered(u64, Answer),
    Read(Page),
    Compared(Page),
    Opened(Result<Open, Lost>),
    Watched(Result<Option<Bytes>, Failure>),
    Renewed(Result<u64, Lost>),
    Joined(Result<Option<u64>, Lost>),
    JoinDue,
    JudgeDue,
    RenewDue,
    CompareDue,
    Ended(String),
}

/// The writer has ended.
const NOBODY: &str = "nobody listens any more";

impl<'a> Session<'a> {
    pub(super) fn new(link: &'a mut Link, caller: Caller, connection: Task<String>) -> Self {
        let now = link.after(Duration::ZERO);
        Self {
            link,
            caller,
            connection,
            transactions: FuturesUnordered::new(),
            reading: None,
            comparing: None,
            opening: None,
            watch: None,
            renewing: None,
            asked_ns: 0,
            renewed_ns: None,
            joining: None,
            join_at: None,
            judge_at: None,
            renew_at: now,
            compare_at: now + COMPARE_EVERY,
            compare_took: Duration::ZERO,
            caught_up: false,
            nearly: None,
            member: None,
        }
    }

    /// Until the connection is over, for the reason that it returns, or the node has left.
    pub(super) async fn work(mut self, served: &mut bool) -> Result<Left, String> {
        self.hear(Input::Connected).await?;
        loop {
            match self.happened().await {
                Happened::Ended(reason) => return Err(reason),
                Happened::Job(None) => return Ok(Left),
                Happened::Job(Some(Job::Leave { done })) => {
                    self.leave().await;
                    let _ = done.send(()); // who does not wait any more has lost nothing
                    return Ok(Left);
                }
                Happened::Job(Some(Job::Doubt(ranges))) => self.hear(Input::Doubted(ranges)).await?,
                Happened::Job(Some(Job::Transact { conditions, operations, number })) => {
                    self.link.under_way.insert(number);
                    let task = transact(self.caller.clone(), conditions, operations, number);
                    self.transactions.push(Box::pin(task));
                }
                Happened::Answered(number, answer) => self.answered(number, answer).await?,
                Happened::Read(page) => self.read(page).await?,
                Happened::Compared(page) => self.compared(page).await?,
                Happened::Opened(opened) => self.watch = Some(opened.map_err(|lost| lost.to_string())?),
                Happened::Watched(message) => {
                    let message = message.map_err(|failure| failure.to_string())?;
                    self.watched(message.ok_or("it ended the watch")?).await?;
                }
                Happened::RenewDue => self.renew(),
                Happened::Renewed(lease) => {
                    *served = true;
                    self.renewed(lease.map_err(|lost| lost.to_string())?).await?;
                }
                Happened::JoinDue => self.join(),
                Happened::Joined(joined) => self.joined(joined.map_err(|lost| lost.to_string())?).await?,
                Happened::JudgeDue => {
                    self.judge_at = None;
                    self.hear(Input::JudgeDue).await?;
                }
                Happened::CompareDue => {
                    let jitter = self.link.draws.below(COMPARE_EVERY.as_millis() as usize / 2) as u64;
                    self.compare_at = self.link.after(COMPARE_EVERY + Duration::from_millis(jitter));
                    self.hear(Input::CompareDue).await?;
                }
            }
        }
    }

    /// The next thing that happens.
    async fn happened(&mut self) -> Happened {
        let taking = self.transactions.len() < AT_ONCE_MAX;
        // Every arm is cancel-safe: tasks are polled on where they were, times are points in time, and a job or a
        // message that is not taken stays where it is.
        tokio::select! {
            reason = &mut self.connection => Happened::Ended(reason),
            () = due(Some(self.renew_at)), if self.renewing.is_none() => Happened::RenewDue,
            renewed = ended(&mut self.renewing) => Happened::Renewed(renewed),
            joined = ended(&mut self.joining) => Happened::Joined(joined),
            Some((number, answer)) = self.transactions.next() => Happened::Answered(number, answer),
            page = ended(&mut self.reading) => Happened::Read(page),
            page = ended(&mut self.comparing) => Happened::Compared(page),
            opened = ended(&mut self.opening) => Happened::Opened(opened),
            message = next(&mut self.watch) => Happened::Watched(message),
            () = due(self.join_at) => Happened::JoinDue,
            () = due(self.judge_at) => Happened::JudgeDue,
            () = due(Some(self.compare_at)) => Happened::CompareDue,
            job = self.link.end.jobs.recv(), if taking => Happened::Job(job),
        }
    }

    /// Tells the machine, and does what it says.
    async fn hear(&mut self, input: Input) -> Result<(), String> {
        for output in self.link.follow.hear(input) {
            match output {
                Output::Read(asked) => {
                    (self.watch, self.opening, self.nearly) = (None, None, None);
                    self.reading = Some(self.page(asked, false));
                }
                Output::Compare(asked) => self.comparing = Some(self.page(asked, true)),
                Output::Watch { from } => {
                    self.watch = None;
                    let prefix = self.link.settings.prefix.as_bytes();
                    let message = messages::watch(prefix, &messages::behind(prefix), from);
                    self.opening = Some(Box::pin(open(self.caller.clone(), message)));
                }
                Output::Rest => self.compare_at = self.link.after(RESTS * self.compare_took),
                Output::Judge => self.judge_at = Some(self.link.after(JUDGE_EVERY)),
                Output::Tell(mut told) => {
                    let prefix = self.link.settings.prefix.len();
                    told.iter_mut().for_each(|told| drop(told.key.drain(..prefix)));
                    self.tell(News::Changed(told)).await?;
                }
                Output::Reread(revision) => self.tell(News::Reread(revision)).await?,
                Output::CaughtUp(revision) => self.nearly = Some(revision),
                Output::GiveUp(reason) => return Err(format!("it ended the watch: {reason}")),
            }
        }
        Ok(())
    }

    /// Tells how a transaction ended.
    async fn answered(&mut self, number: u64, answer: Answer) -> Result<(), String> {
        self.link.under_way.remove(&number);
        // Tokens of users end; a new connection shows the password again.
        let over = match &answer {
            Answer::NotAsked(reason) if reason.starts_with("UNAUTHENTICATED") => Some(reason.clone()),
            _ => None,
        };
        self.tell(News::Answered { number, answer }).await?;
        over.map_or(Ok(()), Err)
    }

    async fn tell(&mut self, news: News) -> Result<(), String> {
        self.link.end.news.send(news).await.map_err(|_| NOBODY.to_owned())
    }

    fn page(&self, asked: Stretch, keys_only: bool) -> Task<Page> {
        let (caller, most, clock) = (self.caller.clone(), self.link.page, self.link.clock);
        Box::pin(async move {
            let begun = clock.now();
            let Stretch { from, to, revision } = &asked;
            let message = messages::range(Range { from, to, most, revision: *revision, keys_only });
            let read = caller.call(messages::RANGE, message).await;
            let read = read.and_then(|message| Ok(messages::ranged(&message).map_err(Failure::from)?));
            Page { asked, took: clock.now().since(begun), read }
        })
    }

    async fn read(&mut self, page: Page) -> Result<(), String> {
        match page.read {
            Ok(read) => self.hear(Input::Page(read)).await,
            Err(lost) if lost.is_compacted() => self.hear(Input::PageCompacted).await,
            Err(lost) if self.shrink(&lost) => {
                self.reading = Some(self.page(page.asked, false));
                Ok(())
            }
            Err(lost) => Err(lost.to_string()),
        }
    }

    async fn compared(&mut self, page: Page) -> Result<(), String> {
        self.compare_took = page.took;
        let input = match page.read {
            Ok(page) => Input::Compared(page),
            Err(lost) => {
                self.shrink(&lost);
                Input::CompareFailed
            }
        };
        self.hear(input).await
    }

    /// Halves the pages where one was too long for a message, or for the time that it has; true where it may be asked for again
    /// over this connection.
    fn shrink(&mut self, lost: &Lost) -> bool {
        let shrinks = match lost {
            Lost::Silent => self.link.page > PAGE_PAIRS_SLOW,
            lost => lost.is_too_long() && self.link.page > 1,
        };
        if shrinks {
            self.link.page /= 2;
        }
        shrinks && !matches!(lost, Lost::Silent)
    }

    async fn watched(&mut self, message: Bytes) -> Result<(), String> {
        self.hear(Input::Watched(words(messages::watched(&message))?)).await?;
        // The first one says that the watch was made.
        if let Some(revision) = self.nearly.take() {
            self.caught_up = true;
            self.tell(News::CaughtUp(revision)).await?;
            self.join();
        }
        Ok(())
    }

    /// Renews the etcd lease, or asks for one.
    fn renew(&mut self) {
        self.renew_at = self.link.after(RENEW_EVERY);
        self.asked_ns = self.link.clock.now().mono_ns;
        let (caller, lease) = (self.caller.clone(), self.link.lease);
        self.renewing = Some(Box::pin(async move {
            if lease > 0 {
                let message = caller.clone().call(messages::KEEP_ALIVE, messages::lease(lease)).await?;
                if messages::leased(&message).map_err(Failure::from)?.1 > 0 {
                    return Ok(lease);
                }
            }
            let message = caller.call(messages::GRANT, messages::grant(MEMBERSHIP.as_secs())).await?;
            Ok(messages::leased(&message).map_err(Failure::from)?.0)
        }));
    }

    async fn renewed(&mut self, lease: u64) -> Result<(), String> {
        self.renewed_ns = Some(self.asked_ns);
        if self.link.lease != lease {
            (self.link.lease, self.member) = (lease, None);
        }
        if self.member.is_some() {
            return self.tell_member().await;
        }
        if self.join_at.is_none() {
            self.join();
        }
        Ok(())
    }

    /// etcd does not end the membership for so long after it was asked to renew it.
    async fn tell_member(&mut self) -> Result<(), String> {
        let (Some(renewed_ns), Some(created)) = (self.renewed_ns, self.member) else { return Ok(()) };
        let until_ns = renewed_ns + nanoseconds(SAYS_RENEWED);
        self.tell(News::Member { until_ns, created }).await
    }

    /// Makes this node a member, where it has a lease and knows what there is. The lease of an earlier connection may have
    /// ended since: it is renewed first.
    fn join(&mut self) {
        self.join_at = None;
        if self.member.is_some() || !self.caught_up || self.renewed_ns.is_none() || self.joining.is_some() {
            return;
        }
        let settings = &self.link.settings;
        let key = format!("{}{}", settings.prefix, place::node(&self.link.node)).into_bytes();
        let (caller, value, lease) = (self.caller.clone(), self.link.member.clone(), self.link.lease);
        self.joining = Some(Box::pin(join(caller, key, value, lease)));
    }

    /// A member since that revision, or not while the name is another's.
    async fn joined(&mut self, since: Option<u64>) -> Result<(), String> {
        self.member = since;
        self.join_at = since.is_none().then(|| self.link.after(JOIN_EVERY));
        match since {
            Some(_) => self.tell_member().await,
            None => self.tell(News::Taken(self.link.node.clone())).await,
        }
    }

    /// Ends the membership at once.
    async fn leave(&mut self) {
        if self.link.lease == 0 {
            return;
        }
        let revoking = self.caller.clone().call(messages::REVOKE, messages::lease(self.link.lease));
        // Where it fails, the lease ends by itself.
        tokio::select! {
            revoked = revoking => drop(revoked),
            _ = &mut self.connection => {}
        }
    }
}

async fn transact(
    caller: Caller,
    conditions: Vec<Condition>,
    operations: Vec<Operation>,
    number: u64,
) -> (u64, Answer) {
    let asked = caller.call(messages::TXN, messages::transaction(&conditions, &operations)).await;
    let answer = match asked.and_then(|message| Ok(messages::transacted(&message).map_err(Failure::from)?)) {
        Ok(Some(_)) => Answer::Stored,
        Ok(None) => Answer::Refused,
        Err(lost) if lost.is_refusal() => Answer::NotAsked(lost.to_string()),
        Err(lost) => Answer::Unknown(lost.to_string()),
    };
    (number, answer)
}

/// Puts the member's key with its lease; since which revision it is there, where it is now.
async fn join(caller: Caller, key: Vec<u8>, value: Vec<u8>, lease: u64) -> Result<Option<u64>, Lost> {
    let condition = Condition::CreatedAt(key.clone(), 0);
    let put = Operation::Put { key: key.clone(), value: value.clone(), lease };
    let message = caller.clone().call(messages::TXN, messages::transaction(&[condition], &[put])).await?;
    if let Some(revision) = messages::transacted(&message).map_err(Failure::from)? {
        return Ok(Some(revision));
    }
    let to = [key.as_slice(), &[0]].concat();
    let range = Range { from: &key, to: &to, most: 1, revision: 0, keys_only: false };
    let message = caller.call(messages::RANGE, messages::range(range)).await?;
    let found = messages::ranged(&message).map_err(Failure::from)?;
    // Ours from the connection before, with the same lease: what is said of a run is said by that run alone.
    let ours = found.pairs.first().filter(|pair| pair.value == value && pair.lease == lease);
    Ok(ours.map(|pair| pair.created))
}

async fn open(caller: Caller, message: Vec<u8>) -> Result<Open, Lost> {
    let request = caller.request(messages::WATCH)?;
    // Headers come with the first message, which says that the watch is there.
    let call = grpc::call(&caller.sender, request, &message, false, MESSAGE_OCTETS_MAX);
    match timeout(CALL_TIME_MAX, call).await {
        Ok(opened) => opened.map(|(_sending, answer)| Open { _sending, answer }).map_err(Lost::from),
        Err(_) => Err(Lost::Silent),
    }
}

/// What a task comes to, which is over then; nothing where there is none.
async fn ended<T>(task: &mut Option<Task<T>>) -> T {
    let Some(running) = task else { return pending().await };
    let value = running.await;
    *task = None;
    value
}

async fn next(watch: &mut Option<Open>) -> Result<Option<Bytes>, Failure> {
    match watch {
        Some(open) => open.answer.next().await,
        None => pending().await,
    }
}

async fn due(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}
