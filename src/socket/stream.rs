//! What goes on for longer than one reply: watching, feeding, backing up.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::sync::mpsc;

use super::session::Session;
use crate::access::{On, Verb};
use crate::desk::{aside, begins, unreadable};
use crate::instance::Instance;
use crate::journal::Ended;
use crate::protocol::moving::{
    EndForm, HeadForm, HostLine, InstanceLine, Line, RecordsLine, TokenLine, VERSION,
};
use crate::protocol::{
    BackupForm, ChangeForm, FedForm, FeedForm, Filter, LIST_MAX, Problem, RecordForm, Reply, encode,
};
use crate::registry::{Author, Change, Reason, What};
use crate::writer::{Watch, Whole};

/// Records of a backup that wait to be written: the disk is read no faster than the client reads.
const RECORDS_WAITING_MAX: usize = 1024;

impl<W: AsyncWrite + Unpin> Session<'_, W> {
    /// A snapshot, or what came after `since` where the log has that; then every change that matches, until the client goes
    /// or cannot keep up.
    pub(super) async fn watch(
        &mut self,
        filter: Filter,
        since: Option<u64>,
        reader: &mut (impl AsyncReadExt + Unpin),
    ) -> io::Result<()> {
        let Ok(mut watch) = self.desk.writer.watch(Some(filter.clone())).await else {
            self.reply(Reply::Error(Problem::stopping())).await;
            return self.flush().await;
        };
        if let Some(since) = since.filter(|since| self.desk.resume(*since, watch.revision).is_ok()) {
            if let Err(problem) = self.past(since, &watch, Some(&filter)).await? {
                self.reply(Reply::Error(problem)).await;
                return self.flush().await;
            }
            self.flush().await?;
        } else {
            let mut members = watch.members.as_slice();
            loop {
                let snapshot = self.desk.snapshot(&mut members, watch.revision);
                encode(&Reply::Snapshot(snapshot), &mut self.out);
                self.flush().await?;
                if members.is_empty() {
                    break;
                }
            }
        }
        drop(std::mem::take(&mut watch.members)); // a watcher does not keep the past alive
        self.follow(watch, Some(&filter), "watch again for a new snapshot", reader).await
    }

    /// Every change from the watch's revision on, or those that the filter wants, until the client goes or
    /// cannot keep up; `again` says what it does then.
    async fn follow(
        &mut self,
        mut watch: Watch,
        filter: Option<&Filter>,
        again: &str,
        reader: &mut (impl AsyncReadExt + Unpin),
    ) -> io::Result<()> {
        let mut rest = [0; 512];
        let (desk, who) = (self.desk, self.who.clone());
        let service = filter.and_then(|filter| filter.service.as_ref());
        let denied = desk.until_denied(&who, Verb::Watch, service.map_or(On::Everything, On::from));
        let mut denied = std::pin::pin!(denied);
        loop {
            // `next` is cancel-safe; what is read from the client while it follows means nothing. Who has to go
            // is told nothing more.
            let changes = tokio::select! {
                biased;
                () = self.place.closing().cancelled() => return Ok(()),
                denied = &mut denied => {
                    self.reply(Reply::Error(denied.into())).await;
                    return self.flush().await;
                }
                changes = watch.changes.next() => changes,
                read = reader.read(&mut rest) => match read? {
                    0 => return Ok(()),
                    _ => continue,
                },
            };
            match changes {
                Ok(batch) => {
                    for event in batch.iter().filter(|event| event.change.revision > watch.revision) {
                        self.desk.tell(event, filter, &mut self.out);
                        self.flush_large().await?;
                    }
                    self.flush().await?;
                }
                Err(Ended::Closed) => return Ok(()),
                Err(lagged @ Ended::Lagged(_)) => {
                    self.reply(Reply::Error(Problem::new("lagged", format!("{lagged}; {again}")))).await;
                    return self.flush().await;
                }
            }
        }
    }

    /// What was, from the log, and then what is to come, with no gap between.
    pub(super) async fn feed(
        &mut self,
        form: &FeedForm,
        reader: &mut (impl AsyncReadExt + Unpin),
    ) -> io::Result<()> {
        let since = form.since;
        let Ok(mut watch) = self.desk.writer.watch(since.is_none().then(Filter::default)).await else {
            self.reply(Reply::Error(Problem::stopping())).await;
            return self.flush().await;
        };
        // The writer's own count: what is at or before it is in the log, what is after comes by the channel.
        let now = watch.revision;
        match since {
            None => {
                for member in std::mem::take(&mut watch.members) {
                    self.registered_before(&member.instance, now).await?;
                }
            }
            Some(since) => {
                let told = match self.desk.resume(since, now) {
                    Ok(()) => self.past(since, &watch, None).await?,
                    refused => refused,
                };
                if let Err(problem) = told {
                    self.reply(Reply::Error(problem)).await;
                    return self.flush().await;
                }
            }
        }
        if form.mark {
            encode(&Reply::Fed(FedForm { revision: now }), &mut self.out);
        }
        self.flush().await?;
        let again = "feed again since the last revision that you have";
        self.follow(watch, None, again, reader).await
    }

    /// A change of the past, where the filter wants it.
    fn put(&mut self, change: &Change, filter: Option<&Filter>) {
        if filter.is_some() {
            let event = self.desk.past_event(change.clone());
            return self.desk.tell(&event, filter, &mut self.out);
        }
        let form = ChangeForm::of(change, change.health_alone(), self.desk.clock.now());
        encode(&Reply::Change(Box::new(form)), &mut self.out);
    }

    async fn registered_before(&mut self, instance: &Arc<Instance>, revision: u64) -> io::Result<()> {
        let what = What::Instance { before: None, after: Some(instance.clone()) };
        let (at, author) = (instance.since, Author::Server);
        self.put(&Change { revision, at, reason: Reason::Registered, author, what }, None);
        self.flush_large().await
    }

    /// What was after `since`, up to the watch's revision, each change once: from the log, and what was not in the log when the
    /// watch began and is not yet; a problem where the log does not reach back so far.
    async fn past(
        &mut self,
        mut since: u64,
        watch: &Watch,
        filter: Option<&Filter>,
    ) -> io::Result<Result<(), Problem>> {
        let until = watch.revision;
        while since < until {
            let page = aside(|| self.desk.history.after(since, LIST_MAX));
            let (changes, oldest) = match page {
                Ok(page) => page,
                Err(what) => return Ok(Err(unreadable(what))),
            };
            // Each time: what is old is taken out of the log while it is read. Revisions are not dense (a crash leaves a gap), so a
            // log that begins with the registry's first change has lost nothing.
            if !self.desk.history.is_whole_after(since, oldest) {
                return Ok(Err(begins(oldest.unwrap_or(until))));
            }
            let Some(last) = changes.last().map(|change| change.revision) else { break };
            for change in changes.iter().filter(|change| change.revision <= until) {
                self.put(change, filter);
            }
            self.flush().await?;
            since = last;
        }
        for change in watch.unstored.iter().filter(|change| change.revision > since) {
            self.put(change, filter);
        }
        Ok(Ok(()))
    }

    async fn flush_large(&mut self) -> io::Result<()> {
        if self.out.len() > super::session::REPLIES_OCTETS_MAX { self.flush().await } else { Ok(()) }
    }

    /// Everything that the registry holds at one moment, in an order that depends on nothing else.
    pub(super) async fn export(&mut self) -> io::Result<()> {
        let Ok(whole) = self.desk.writer.whole().await else {
            self.reply(Reply::Error(Problem::stopping())).await;
            return self.flush().await;
        };
        let Whole { revision, mut instances, mut hosts, mut settings, tokens, mut records } = whole;
        aside(|| {
            instances.sort_by(|a, b| a.key.cmp(&b.key));
            hosts.sort_by(|a, b| a.name.cmp(&b.name));
            settings.sort_by(|(a, _), (b, _)| a.cmp(b));
            // Of one owner by type: a delegation comes before its DS.
            records.sort_by_cached_key(|set| (set.owner.to_string(), set.set.rtype.0));
        });
        let (now, view) = (self.desk.clock.now(), &self.desk.view);
        // What others changed since is not in it, and nobody would see that later.
        if view.stale_for(now).is_some() {
            let text = "the store cannot be followed now, so an export would be an old one; ask another node, or again when it is back";
            self.reply(Reply::Error(Problem::new("unavailable", text))).await;
            return self.flush().await;
        }
        let serial = view.serial_of(revision);
        let head = HeadForm {
            version: VERSION,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            at: now.wall.to_string(),
            revision,
            serial,
            serial_base: serial.wrapping_sub(revision as u32),
        };
        let lines = tokens.len() + hosts.len() + settings.len() + instances.len() + records.len();
        let head = std::iter::once(Line::Callsign(head));
        let tokens = tokens.iter().map(|token| Line::Token(TokenLine::of(token)));
        let hosts = hosts.iter().map(|host| Line::Host(HostLine::of(host)));
        let settings = settings.iter().map(|(service, settings)| Line::settings(service, settings));
        let instances =
            instances.iter().map(|instance| Line::Instance(Box::new(InstanceLine::of(instance, now))));
        let records = records.iter().map(|set| Line::Records(RecordsLine::of(set)));
        let end = std::iter::once(Line::End(EndForm { lines: lines as u64, records_left_out: 0 }));
        for line in head.chain(tokens).chain(hosts).chain(settings).chain(instances).chain(records).chain(end)
        {
            encode(&Reply::Exported(line), &mut self.out);
            self.flush_large().await?;
        }
        self.flush().await
    }

    /// Every record of the store at one moment, and a digest at the end.
    pub(super) async fn backup(&mut self) -> io::Result<()> {
        let history = self.desk.history.clone();
        let (records, mut received) = mpsc::channel(RECORDS_WAITING_MAX);
        let reading = tokio::task::spawn_blocking(move || {
            // Who went away needs no more records.
            history.records(&mut |table, key, value| records.blocking_send((table, key, value)).is_ok())
        });
        let (mut count, mut digest) = (0, 0);
        while let Some((table, key, value)) = received.recv().await {
            count += 1;
            let record =
                RecordForm { table: table.to_owned(), key: hexadecimal(&key), value: hexadecimal(&value) };
            digest = record.digest(digest);
            encode(&Reply::Record(record), &mut self.out);
            self.flush_large().await?;
        }
        let reply = match reading.await {
            Ok(Ok(())) => Reply::Backup(BackupForm { records: count, digest: format!("{digest:016x}") }),
            Ok(Err(what)) => Reply::Error(Problem::new("unavailable", what)),
            Err(_) => Reply::Error(Problem::stopping()),
        };
        self.reply(reply).await;
        self.flush().await
    }
}

fn hexadecimal(octets: &[u8]) -> String {
    use std::fmt::Write as _;
    octets.iter().fold(String::with_capacity(2 * octets.len()), |mut text, octet| {
        // Writing into a text cannot fail.
        let _ = write!(text, "{octet:02x}");
        text
    })
}
