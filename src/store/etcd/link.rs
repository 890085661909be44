//! The connection to etcd: one at a time, to the first endpoint that answers, and from it to the next when it falls silent.
//!
//! Over it go the reading and the watch that [`Follow`] asks for, the transactions of the writer, and the etcd lease
//! that makes this node a member as long as it is renewed. Every call has its time, and every message its size. An endpoint
//! that does not renew the lease in time is left, whatever else it does: it may be cut off from its leader.

mod reach;
mod session;

use std::collections::BTreeSet;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::rustls::ClientConfig;
use tokio_util::sync::CancellationToken;

pub use self::reach::client_config;
use self::reach::{CONNECT_TIME_MAX, Caller, WINDOW_OCTETS, connect, words};
use self::session::{Left, PAGE_PAIRS, Session};
use super::follow::Follow;
use super::messages::{self, AUTHENTICATE};
use super::{Answer, Endpoint, Job, LinkEnd, News, Settings, User};
use crate::balance::Draws;
use crate::clock::Clock;

/// Between two rounds over all endpoints, none of which answered; up to half as much is added.
const ROUND_EVERY: Duration = Duration::from_millis(500);

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
        let follow = Follow::new(settings.prefix.as_bytes(), PAGE_PAIRS as usize);
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
                    Some(Job::Doubt(_)) => {}
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
