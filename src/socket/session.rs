//! One connection's conversation: requests in, replies out, in order.

use std::collections::HashSet;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::lines::{LINE_TIME_MAX, Read, buffered_line, read_line};
use crate::access::{Identity, On, Verb};
use crate::connections::{Place, UNREAD_TIME_MAX};
use crate::desk::{Desk, Renewed, Sent};
use crate::instance::{Key, Lease};
use crate::name::fnv;
use crate::protocol::{
    FRAME_OCTETS_MAX, Filter, FilterForm, HelloForm, HolderForm, Peer, Problem, Reply, Request, WelcomeForm,
    decode, encode,
};
use crate::registry::Command;
use crate::writer::{Done, Verdict};

/// Requests read before the replies to them are written.
const PIPELINE_MAX: usize = 256;
/// Octets of replies kept before they are written: few requests may have large answers.
pub(super) const REPLIES_OCTETS_MAX: usize = 64 * 1024;
/// How long it may take to write what is under way when the connection has to close.
const LAST_WRITE_TIME_MAX: Duration = Duration::from_secs(1);
/// How long the rest of a refused line is read and thrown away, so that its error arrives.
const LINGER: Duration = Duration::from_secs(2);

/// One connection's side of the conversation.
pub struct Session<'a, W> {
    pub(super) desk: &'a Desk,
    pub(super) who: Identity,
    peer: Peer,
    writer: W,
    pub(super) place: &'a Place,
    /// Replies not written yet.
    pub(super) out: Vec<u8>,
    /// Commands whose verdict is still to come; their replies go out before any other.
    waiting: Vec<(Sent, oneshot::Receiver<Verdict>)>,
    /// Instances bound to this connection.
    bound: HashSet<Key>,
}

/// What follows a request.
enum Next {
    GoOn,
    Close,
}

impl<'a, W: AsyncWrite + Unpin> Session<'a, W> {
    pub fn new(desk: &'a Desk, who: Identity, peer: Peer, writer: W, place: &'a Place) -> Self {
        Self { desk, who, peer, writer, place, out: Vec::new(), waiting: Vec::new(), bound: HashSet::new() }
    }

    /// The instances that are bound to the connection, in order; what was asked for before an error among them.
    pub async fn end(mut self) -> Vec<Key> {
        self.settle().await;
        let mut keys: Vec<Key> = self.bound.into_iter().collect();
        keys.sort_unstable();
        keys
    }

    /// Serves requests until the client ends, or has to be given up.
    pub async fn run(&mut self, reader: &mut (impl AsyncBufReadExt + Unpin)) -> io::Result<()> {
        let mut line = Vec::new();
        loop {
            // Nothing is lost to the other arms: both end the connection.
            let read = tokio::select! {
                biased;
                read = read_line(reader, &mut line, || self.may_import()) => read?,
                () = self.place.closing().cancelled() => return Ok(()),
            };
            match read {
                Read::Line => {}
                Read::End => return Ok(()),
                Read::TooLong => return self.give_up(reader, too_long()).await,
                Read::TooSlow => return self.give_up(reader, too_slow()).await,
            }
            self.place.touch();
            let (next, mut served) = (self.request(&line, reader).await?, 1);
            if matches!(next, Next::Close) {
                return Ok(());
            }
            // Whatever else has arrived in full is served before the replies are written.
            while served < PIPELINE_MAX
                && self.out.len() < REPLIES_OCTETS_MAX
                && buffered_line(reader, &mut line).await?
            {
                if matches!(self.request(&line, reader).await?, Next::Close) {
                    return Ok(());
                }
                served += 1;
            }
            self.flush().await?;
            // Who never stops asking has to be stopped.
            if self.place.closing().is_cancelled() {
                return Ok(());
            }
        }
    }

    /// Says whether something lives by this connection, and whose that is.
    fn hold(&self) {
        let whose = self.who.owner.as_ref().map_or(0, |owner| fnv(&[owner.to_string().as_bytes()]));
        self.place.hold((!self.bound.is_empty()).then_some(whose));
    }

    fn may_import(&self) -> bool {
        self.desk.may(&self.who, Verb::Admin, On::Everything).is_ok()
    }

    async fn request(&mut self, line: &[u8], reader: &mut (impl AsyncReadExt + Unpin)) -> io::Result<Next> {
        if line.iter().all(u8::is_ascii_whitespace) {
            return Ok(Next::GoOn);
        }
        let permitted = |request| match self.desk.permitted(&self.who, &request) {
            Ok(()) => Ok(request),
            Err(denied) => Err(Problem::from(denied)),
        };
        let request = match decode(line).and_then(permitted) {
            Ok(request) => request,
            Err(problem) => return self.refuse(problem).await,
        };
        match request {
            Request::Hello(form) => self.hello(&form, reader).await,
            Request::Heartbeat(form) => self.heartbeat(&form).await,
            Request::Watch(form) => match watched(&form) {
                Ok(filter) => {
                    self.flush().await?;
                    self.watch(filter, form.since, reader).await?;
                    Ok(Next::Close)
                }
                Err(problem) => self.refuse(problem).await,
            },
            Request::Feed(form) => {
                self.flush().await?;
                self.feed(&form, reader).await?;
                Ok(Next::Close)
            }
            Request::Backup(_) => {
                self.flush().await?;
                self.backup().await?;
                Ok(Next::GoOn)
            }
            Request::Export(_) => {
                self.flush().await?;
                self.export().await?;
                Ok(Next::GoOn)
            }
            request => match self.desk.command(&request, &self.peer) {
                Ok(Some((sent, command))) => self.carry_out(sent, command).await,
                Ok(None) => {
                    self.settle().await;
                    let reply = self.desk.read(&request).await.unwrap_or_else(Reply::Error);
                    encode(&reply, &mut self.out);
                    Ok(Next::GoOn)
                }
                Err(problem) => self.refuse(problem).await,
            },
        }
    }

    async fn carry_out(&mut self, sent: Sent, command: Command) -> io::Result<Next> {
        match self.desk.writer.command(command, self.who.clone()).await {
            Ok(verdict) => self.waiting.push((sent, verdict)),
            Err(_) => self.reply(Reply::Error(Problem::stopping())).await,
        }
        Ok(Next::GoOn)
    }

    async fn heartbeat(&mut self, form: &HolderForm<'_>) -> io::Result<Next> {
        self.settle().await;
        match self.desk.renew(form, &self.peer.host, &self.who) {
            Ok(Renewed::Here(reply)) => {
                encode(&reply, &mut self.out);
                Ok(Next::GoOn)
            }
            Ok(Renewed::Elsewhere(holder)) => {
                self.carry_out(Sent::Heartbeat(holder.key.clone()), Command::Claim(holder)).await
            }
            Err(problem) => self.refuse(problem).await,
        }
    }

    async fn refuse(&mut self, problem: Problem) -> io::Result<Next> {
        self.reply(Reply::Error(problem)).await;
        Ok(Next::GoOn)
    }

    /// Who speaks from here on. Whoever is mistaken about that is not listened to: what follows was meant to be said by
    /// somebody else.
    async fn hello(
        &mut self,
        form: &HelloForm,
        reader: &mut (impl AsyncReadExt + Unpin),
    ) -> io::Result<Next> {
        match self.desk.identify(&self.who, &form.token.0) {
            Ok(who) => {
                self.settle().await;
                let identity = who.to_string();
                self.who = who;
                self.hold();
                self.reply(Reply::Welcome(WelcomeForm { identity })).await;
                Ok(Next::GoOn)
            }
            Err(denied) => {
                self.give_up(reader, denied.into()).await?;
                Ok(Next::Close)
            }
        }
    }

    /// A reply, behind those that are still to come.
    pub(super) async fn reply(&mut self, reply: Reply) {
        self.settle().await;
        encode(&reply, &mut self.out);
    }

    /// Waits for the verdicts of all commands sent, and puts down their replies.
    async fn settle(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        for (sent, verdict) in std::mem::take(&mut self.waiting) {
            let reply = match verdict.await {
                Ok(Ok(done)) => {
                    self.bind(&sent, &done);
                    self.desk.done(sent, &done)
                }
                Ok(Err(refusal)) => Reply::Error(refusal.into()),
                Err(_) => Reply::Error(Problem::stopping()),
            };
            encode(&reply, &mut self.out);
        }
        // Before anybody is told: whoever knows of an instance counts on it.
        self.hold();
    }

    /// Remembers what lives by this connection.
    fn bind(&mut self, sent: &Sent, done: &Done) {
        match sent {
            Sent::Register(key) => match done.registered().map(|(_, instance)| instance.lease) {
                Some(Lease::Connection(_)) => drop(self.bound.insert(key.clone())),
                Some(Lease::Timed(_) | Lease::None) => drop(self.bound.remove(key)),
                None => {}
            },
            Sent::Deregister(key) => drop(self.bound.remove(key)),
            _ => {}
        }
    }

    pub(super) async fn flush(&mut self) -> io::Result<()> {
        self.settle().await;
        if !self.out.is_empty() {
            // Who does not read must not hold up the server's end; what is under way may still arrive.
            let given_up = async {
                self.place.closing().cancelled().await;
                tokio::time::sleep(LAST_WRITE_TIME_MAX).await;
            };
            let write = async {
                self.writer.write_all(&self.out).await?;
                self.writer.flush().await // what TLS has encrypted may still be on our side
            };
            tokio::select! {
                biased;
                written = timeout(UNREAD_TIME_MAX, write) => written??,
                () = given_up => return Err(io::ErrorKind::TimedOut.into()),
            }
            self.out.clear();
            self.out.shrink_to(REPLIES_OCTETS_MAX);
        }
        Ok(())
    }

    /// Says why, reads the rest away for a moment so that it arrives, and closes.
    async fn give_up(
        &mut self,
        reader: &mut (impl AsyncReadExt + Unpin),
        problem: Problem,
    ) -> io::Result<()> {
        self.reply(Reply::Error(problem)).await;
        self.flush().await?;
        self.writer.shutdown().await?;
        let mut rest = vec![0; 16 * 1024];
        let linger = async { while reader.read(&mut rest).await.is_ok_and(|octets| octets > 0) {} };
        drop(timeout(LINGER, linger).await);
        Ok(())
    }
}

/// What a watch is of.
fn watched(form: &FilterForm) -> Result<Filter, Problem> {
    match form.most {
        Some(_) => Err(Problem::invalid("most", "is for `list`; a watch tells everything that matches")),
        None => form.filter(),
    }
}

fn too_long() -> Problem {
    Problem::new(
        "too_large",
        format!("the line is longer than {FRAME_OCTETS_MAX} octets; the connection is closed"),
    )
}

fn too_slow() -> Problem {
    let text = format!(
        "the line was not complete after {} s; end each request with a newline",
        LINE_TIME_MAX.as_secs()
    );
    Problem::new("timeout", text)
}
