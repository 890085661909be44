//! The connection to etcd: one at a time, to the first endpoint that answers, and from it to the next when it falls silent.
//!
//! Over it go the reading and the watch that [`Follow`] asks for, the transactions of the writer, and the etcd lease
//! that makes this node a member as long as it is renewed. Every call has its time, and every message its size. An endpoint
//! that does not renew the lease in time is left, whatever else it does: it may be cut off from its leader.

use std::collections::BTreeSet;
use std::future::pending;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use h2::SendStream;
use h2::client::SendRequest;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};
use tokio_util::sync::CancellationToken;

use super::follow::{Follow, Input, Output};
use super::messages::{self, AUTHENTICATE, Condition, Operation, Range, Ranged};
use super::{Answer, Endpoint, Job, LinkEnd, News, Settings, Tls, User, place};
use crate::balance::Draws;
use crate::clock::Clock;
use crate::grpc::{self, Failure};
use crate::protobuf::Malformed;
use crate::time::nanoseconds;

/// How long connecting may take, with TLS and the user's password.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(2);
/// How long etcd may take for one answer. Its own limit for a transaction is seven seconds, without a leader it answers
/// nothing at all.
const CALL_TIME_MAX: Duration = Duration::from_secs(2);
/// Seconds for which the membership lasts without a renewal: etcd grants no less than two.
const LEASE_SECONDS: u64 = 5;
/// How often it is renewed: three renewals may be lost.
const RENEW_EVERY: Duration = Duration::from_secs(1);
/// Between two tries to be a member, while the name is still another's.
const JOIN_EVERY: Duration = Duration::from_millis(500);
/// Between two rounds over all endpoints, none of which answered; up to half as much is added.
const ROUND_EVERY: Duration = Duration::from_millis(500);
/// How often the keys are compared beside the watch; up to half as much is added, so that nodes do not do so together.
const COMPARE_EVERY: Duration = Duration::from_secs(30);
/// The time that the watch has to tell what a comparison saw.
const JUDGE_AFTER: Duration = Duration::from_secs(2);
/// Pairs of one page at first: with 300 octets an instance some 300 KiB. Halved where they are too long for a message.
const PAGE_PAIRS: u64 = 1000;
/// Octets of one message of etcd's: it sends no request of more than 1.5 MiB, and answers as long as it likes.
const MESSAGE_OCTETS_MAX: usize = 16 << 20;
/// What etcd may send before it has to wait for us.
const WINDOW_OCTETS: u32 = 4 << 20;
/// Transactions that etcd has at once; the others wait here.
const AT_ONCE_MAX: usize = 256;
/// Certificates read of one file: an authority or a chain has a few.
const AUTHORITIES_MAX: usize = 1024;

type Task<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What outlives a connection.
pub struct Link {
    settings: Settings,
    tls: Option<Arc<ClientConfig>>,
    /// What this node is called among the others, and what is said of it where it is a member.
    node: String,
    member: Vec<u8>,
    end: LinkEnd,
    clock: Clock,
    follow: Follow,
    draws: Draws,
    /// The etcd lease of the membership; 0 for none yet.
    lease: u64,
    /// Pairs of a page.
    page: u64,
    /// Transactions that etcd was asked and has not answered.
    under_way: BTreeSet<u64>,
}

/// Why a connection is over.
enum Over {
    /// For this reason; the next endpoint is tried.
    Broken(String),
    /// The node left.
    Left,
}

impl Link {
    /// `node` is what this node is called among the others, `member` what is said of it where it is a member.
    ///
    /// # Errors
    ///
    /// TLS cannot be set up, in words.
    pub fn new(
        settings: Settings,
        node: &str,
        member: Vec<u8>,
        end: LinkEnd,
        (clock, seed): (Clock, u64),
    ) -> Result<Self, String> {
        let node = node.to_owned();
        let tls = settings.tls.as_ref().map(client_config).transpose()?.map(Arc::new);
        let follow = Follow::new(settings.prefix.as_bytes());
        let (draws, under_way) = (Draws::new(seed), BTreeSet::new());
        Ok(Self {
            settings,
            tls,
            node,
            member,
            end,
            clock,
            follow,
            draws,
            lease: 0,
            page: PAGE_PAIRS,
            under_way,
        })
    }

    /// Keeps the link until `stop`, whatever becomes of connections, or until the node leaves.
    ///
    /// # Errors
    ///
    /// None: it is a named task like those that have some.
    pub async fn run(mut self, stop: CancellationToken) -> io::Result<()> {
        tokio::select! {
            () = self.keep() => {}
            () = stop.cancelled() => {}
        }
        // Who leaves by being told is waited for by the server; it ends when everything does.
        stop.cancelled().await;
        Ok(())
    }

    fn after(&self, duration: Duration) -> Instant {
        (self.clock.instant(self.clock.now().mono_ns) + duration).into()
    }

    async fn keep(&mut self) {
        let endpoints = self.settings.endpoints.clone();
        let mut failed = 0;
        for endpoint in endpoints.iter().cycle() {
            let mut served = false;
            let reason = match self.endpoint(endpoint, &mut served).await {
                Over::Left => return,
                Over::Broken(reason) => format!("etcd at {endpoint}: {reason}"),
            };
            tracing::debug!(%reason, "etcd");
            // What was asked and not answered may be stored.
            for number in std::mem::take(&mut self.under_way) {
                let answer = Answer::Unknown(reason.clone());
                if self.end.news.send(News::Answered { number, answer }).await.is_err() {
                    return;
                }
            }
            if self.end.news.send(News::Lost(reason.clone())).await.is_err() {
                return; // the writer has ended
            }
            failed = if served { 1 } else { failed + 1 };
            if failed >= endpoints.len() {
                failed = 0;
                let wait = ROUND_EVERY + Duration::from_millis(self.draws.below(250) as u64);
                if !self.refuse(&reason, sleep(wait)).await.1 {
                    return;
                }
            }
        }
    }

    /// Answers whoever asks that etcd is not there, until `work` is done; false where the writer has ended.
    async fn refuse<T>(&mut self, reason: &str, work: impl Future<Output = T>) -> (Option<T>, bool) {
        let mut work = std::pin::pin!(work);
        loop {
            // A job that was received is answered before the loop goes on; the work is polled on where it was.
            tokio::select! {
                done = &mut work => return (Some(done), true),
                job = self.end.jobs.recv() => match job {
                    Some(Job::Transact { number, .. }) => {
                        let answer = Answer::NotAsked(reason.to_owned());
                        if self.end.news.send(News::Answered { number, answer }).await.is_err() {
                            return (None, false);
                        }
                    }
                    Some(Job::Doubt) => {}
                    Some(Job::Leave { .. }) | None => return (None, false),
                }
            }
        }
    }

    async fn endpoint(&mut self, endpoint: &Endpoint, served: &mut bool) -> Over {
        let connecting = connect(endpoint.clone(), self.tls.clone());
        let reason = format!("etcd at {endpoint} does not answer yet");
        let stream = match self.refuse(&reason, timeout(CONNECT_TIME_MAX, connecting)).await {
            (Some(Ok(Ok(stream))), _) => stream,
            (Some(Ok(Err(reason))), _) => return Over::Broken(reason),
            (Some(Err(_)), _) => return Over::Broken("connecting took too long".to_owned()),
            (None, _) => return Over::Left,
        };
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(WINDOW_OCTETS)
            .initial_connection_window_size(WINDOW_OCTETS)
            .enable_push(false);
        let handshake = timeout(CONNECT_TIME_MAX, builder.handshake::<_, Bytes>(stream)).await;
        let (sender, connection) = match handshake {
            Ok(Ok(both)) => both,
            Ok(Err(error)) => return Over::Broken(error.to_string()),
            Err(_) => return Over::Broken("connecting took too long".to_owned()),
        };
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let mut caller = Caller { sender, scheme, authority: endpoint.to_string().into(), token: None };
        let mut connection: Task<String> = Box::pin(async move {
            match connection.await {
                Ok(()) => "it closed the connection".to_owned(),
                Err(error) => error.to_string(),
            }
        });
        if let Some(User { name, password }) = self.settings.user.clone() {
            let asking = caller.clone().call(AUTHENTICATE, messages::authenticate(&name, &password));
            let asking = async {
                // Both arms end it.
                tokio::select! {
                    answer = asking => answer.map_err(|lost| format!("the user {name}: {lost}")),
                    reason = &mut connection => Err(reason),
                }
            };
            let token = match self.refuse(&reason, asking).await {
                (Some(answer), _) => answer.and_then(|message| words(messages::authenticated(&message))),
                (None, _) => return Over::Left,
            };
            match token {
                Ok(token) => caller.token = Some(token.into()),
                Err(reason) => return Over::Broken(reason),
            }
        }
        match Session::new(self, caller, connection).work(served).await {
            Ok(Left) => Over::Left,
            Err(reason) => Over::Broken(reason),
        }
    }
}

/// Calls over one connection.
#[derive(Clone)]
struct Caller {
    sender: SendRequest<Bytes>,
    scheme: &'static str,
    authority: Arc<str>,
    token: Option<Arc<str>>,
}

impl Caller {
    fn request(&self, path: &str) -> Result<http::Request<()>, Failure> {
        let mut headers = vec![("hasleader", "true")];
        headers.extend(self.token.as_deref().map(|token| ("token", token)));
        grpc::request(self.scheme, &self.authority, path, &headers)
            .map_err(|error| Failure::Malformed(error.to_string()))
    }

    /// One message there, one back, within the time that a call has.
    async fn call(self, path: &'static str, message: Vec<u8>) -> Result<Bytes, Lost> {
        let calling = async {
            let call = grpc::call(&self.sender, self.request(path)?, &message, true, MESSAGE_OCTETS_MAX);
            let (_sending, answer) = call.await?;
            answer.only().await
        };
        match timeout(CALL_TIME_MAX, calling).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(Lost::Silent),
        }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("no answer within {} s", CALL_TIME_MAX.as_secs())]
    Silent,
    #[error("{0}")]
    Failed(#[from] Failure),
}

impl Lost {
    fn is_compacted(&self) -> bool {
        matches!(self, Self::Failed(Failure::Refused(status))
            if String::from_utf8_lossy(&status.message).contains("compacted"))
    }

    /// True where a smaller page would fit.
    fn is_too_long(&self) -> bool {
        matches!(self, Self::Failed(Failure::TooLong(_)))
    }

    /// What etcd says of a transaction that it did not look at: it is malformed, or this user may not.
    fn is_refusal(&self) -> bool {
        matches!(self, Self::Failed(Failure::Refused(status))
            if matches!(status.name(), "INVALID_ARGUMENT" | "PERMISSION_DENIED" | "UNAUTHENTICATED"))
    }
}

/// What lasts as long as a connection.
struct Session<'a> {
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
    /// There is an etcd lease, and everything up to now was told.
    caught_up: bool,
    /// Everything was told up to this revision, where the watch for the rest has yet to be heard of: until then there may be
    /// nobody at the other end.
    nearly: Option<u64>,
    /// The revision that this node is a member since.
    member: Option<u64>,
}

/// A page that was asked for: from which key on, at which revision, and what came.
struct Page {
    from: Vec<u8>,
    revision: u64,
    read: Result<Ranged, Lost>,
}

/// A watch; where the sending half goes, it ends.
struct Open {
    _sending: SendStream<Bytes>,
    answer: grpc::Answer,
}

/// The node left, as it was asked to.
struct Left;

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
    fn new(link: &'a mut Link, caller: Caller, connection: Task<String>) -> Self {
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
            caught_up: false,
            nearly: None,
            member: None,
        }
    }

    /// Until the connection is over, for the reason that it returns, or the node has left.
    async fn work(mut self, served: &mut bool) -> Result<Left, String> {
        self.hear(Input::Connected).await?;
        loop {
            let taking = self.transactions.len() < AT_ONCE_MAX;
            // Every arm is cancel-safe: tasks are polled on where they were, times are points in time, and a job or a
            // message that is not taken stays where it is.
            let happened = tokio::select! {
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
            };
            match happened {
                Happened::Ended(reason) => return Err(reason),
                Happened::Job(None) => return Ok(Left),
                Happened::Job(Some(Job::Leave { done })) => {
                    self.leave().await;
                    let _ = done.send(()); // who does not wait any more has lost nothing
                    return Ok(Left);
                }
                Happened::Job(Some(Job::Doubt)) => self.hear(Input::Doubted).await?,
                Happened::Job(Some(Job::Transact { conditions, operations, number })) => {
                    self.link.under_way.insert(number);
                    let task = transact(self.caller.clone(), conditions, operations, number);
                    self.transactions.push(Box::pin(task));
                }
                Happened::Answered(number, answer) => {
                    self.link.under_way.remove(&number);
                    // Tokens of users end; a new connection shows the password again.
                    let over = match &answer {
                        Answer::NotAsked(reason) if reason.starts_with("UNAUTHENTICATED") => {
                            Some(reason.clone())
                        }
                        _ => None,
                    };
                    self.tell(News::Answered { number, answer }).await?;
                    if let Some(reason) = over {
                        return Err(reason);
                    }
                }
                Happened::Read(page) => self.read(page).await?,
                Happened::Compared(page) => {
                    let input = match page.read {
                        Ok(page) => Input::Compared(page),
                        Err(lost) => {
                            self.shrink(&lost);
                            Input::CompareFailed
                        }
                    };
                    self.hear(input).await?;
                }
                Happened::Opened(opened) => self.watch = Some(opened.map_err(|lost| lost.to_string())?),
                Happened::Watched(message) => {
                    let message = message.map_err(|failure| failure.to_string())?;
                    let message = message.ok_or("it ended the watch")?;
                    self.hear(Input::Watched(words(messages::watched(&message))?)).await?;
                    // The first one says that the watch was made.
                    if let Some(revision) = self.nearly.take() {
                        self.caught_up = true;
                        self.tell(News::CaughtUp(revision)).await?;
                        self.join();
                    }
                }
                Happened::RenewDue => self.renew(),
                Happened::Renewed(lease) => {
                    *served = true;
                    self.renewed(lease.map_err(|lost| lost.to_string())?).await?;
                }
                Happened::JoinDue => self.join(),
                Happened::Joined(joined) => {
                    self.member = joined.map_err(|lost| lost.to_string())?;
                    self.join_at = self.member.is_none().then(|| self.link.after(JOIN_EVERY));
                    match self.member {
                        Some(_) => self.tell_member().await?,
                        None => self.tell(News::Taken(self.link.node.clone())).await?,
                    }
                }
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

    /// Tells the machine, and does what it says.
    async fn hear(&mut self, input: Input) -> Result<(), String> {
        for output in self.link.follow.hear(input) {
            match output {
                Output::Read { from, revision } => {
                    (self.watch, self.opening, self.nearly) = (None, None, None);
                    self.reading = Some(self.page(from, revision, false));
                }
                Output::Compare { from, revision } => self.comparing = Some(self.page(from, revision, true)),
                Output::Watch { from } => {
                    self.watch = None;
                    let prefix = self.link.settings.prefix.as_bytes();
                    let message = messages::watch(prefix, &messages::behind(prefix), from);
                    self.opening = Some(Box::pin(open(self.caller.clone(), message)));
                }
                Output::Judge => self.judge_at = Some(self.link.after(JUDGE_AFTER)),
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

    async fn tell(&mut self, news: News) -> Result<(), String> {
        self.link.end.news.send(news).await.map_err(|_| NOBODY.to_owned())
    }

    fn page(&self, from: Vec<u8>, revision: u64, keys_only: bool) -> Task<Page> {
        let to = messages::behind(self.link.settings.prefix.as_bytes());
        let (caller, most) = (self.caller.clone(), self.link.page);
        Box::pin(async move {
            let message = messages::range(Range { from: &from, to: &to, most, revision, keys_only });
            let read = caller.call(messages::RANGE, message).await;
            let read = read.and_then(|message| Ok(messages::ranged(&message).map_err(Failure::from)?));
            Page { from, revision, read }
        })
    }

    async fn read(&mut self, page: Page) -> Result<(), String> {
        match page.read {
            Ok(read) => self.hear(Input::Page(read)).await,
            Err(lost) if lost.is_compacted() => self.hear(Input::PageCompacted).await,
            Err(lost) if self.shrink(&lost) => {
                self.reading = Some(self.page(page.from, page.revision, false));
                Ok(())
            }
            Err(lost) => Err(lost.to_string()),
        }
    }

    /// Halves the pages where one was too long; false where that is of no use.
    fn shrink(&mut self, lost: &Lost) -> bool {
        let shrinks = lost.is_too_long() && self.link.page > 1;
        if shrinks {
            self.link.page /= 2;
        }
        shrinks
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
            let message = caller.call(messages::GRANT, messages::grant(LEASE_SECONDS)).await?;
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

    /// etcd ends the membership no earlier than this after it was asked to renew it.
    async fn tell_member(&mut self) -> Result<(), String> {
        let (Some(renewed_ns), Some(created)) = (self.renewed_ns, self.member) else { return Ok(()) };
        let until_ns = renewed_ns + nanoseconds(Duration::from_secs(LEASE_SECONDS));
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

fn words<T>(read: Result<T, Malformed>) -> Result<T, String> {
    read.map_err(|malformed| malformed.to_string())
}

/// A stream to an endpoint, with TLS where it is wanted.
trait Octets: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Octets for T {}

async fn connect(endpoint: Endpoint, tls: Option<Arc<ClientConfig>>) -> Result<Box<dyn Octets>, String> {
    let address = (endpoint.host.as_str(), endpoint.port);
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let Some(tls) = tls else { return Ok(Box::new(stream)) };
    let name = ServerName::try_from(endpoint.host.clone()).map_err(|error| format!("TLS: {error}"))?;
    let stream = TlsConnector::from(tls).connect(name, stream).await;
    Ok(Box::new(stream.map_err(|error| format!("TLS: {error}"))?))
}

/// TLS to etcd, as the settings say; or in words, which file cannot be used.
pub fn client_config(tls: &Tls) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    match &tls.authority {
        Some(path) => {
            let unfit =
                |error: &dyn std::fmt::Display| format!("etcd-authority: {}: {error}", path.display());
            let read = CertificateDer::pem_file_iter(path).map_err(|error| unfit(&error))?;
            for certificate in read.take(AUTHORITIES_MAX) {
                let certificate = certificate.map_err(|error| unfit(&error))?;
                roots.add(certificate).map_err(|error| unfit(&error))?;
            }
            if roots.is_empty() {
                return Err(unfit(&"it holds no certificate in PEM form"));
            }
        }
        None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let mut config = match &tls.certificate {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let unfit = |path: &Path, error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
            let chain =
                CertificateDer::pem_file_iter(certificate).map_err(|error| unfit(certificate, &error))?;
            let chain: Result<Vec<_>, _> = chain.take(AUTHORITIES_MAX).collect();
            let chain = chain.map_err(|error| unfit(certificate, &error))?;
            let read = PrivateKeyDer::from_pem_file(key).map_err(|error| unfit(key, &error))?;
            builder.with_client_auth_cert(chain, read).map_err(|error| unfit(certificate, &error))?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}
