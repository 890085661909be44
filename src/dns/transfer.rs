//! Zones handed out whole (AXFR, RFC 5936) and as what changed (IXFR, RFC 1995), to those who may have them.
//!
//! A whole zone is what the writer has published at one revision: the views of that moment, which are shared, and of which
//! one piece at a time becomes records and messages. What changed is a fold over the log: the services that changed, as
//! they are and as they were, compared. Where the log does not reach, or cannot tell, the whole zone is the answer.
//!
//! Bounded are: transfers at once, the time of each, changes looked at for a difference, and octets of a message.
//!
//! A static zone has no log. What is known of its edits is kept while there is room (`steps`), and sent one after the other.
//!
//! Why one difference and not one for each serial between: what came and went again between two looks need not be sent
//! (RFC 1995 section 4), and the two ends are all that a secondary has any use for.

pub mod steps;

use std::collections::{BTreeSet, HashSet};
use std::iter::Peekable;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use ipnet::IpNet;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use self::steps::Steps;
use super::encode::{Envelope, Frame, TC};
use super::tsig::Signer;
use crate::answer::{Answer, Ede, FIXED_OCTETS, Over, Question, Rcode};
use crate::clock::Clock;
use crate::counters;
use crate::instance::Key;
use crate::live::past::{Past, Present, Then, others_touched, touched, tree_at};
use crate::live::walk::{self, tree_in};
use crate::live::whole::{Around, Difference, Planted, of_apex, other_at, soa};
use crate::name::{Apex, HostName, Name, ServiceName};
use crate::record::{Record, Type};
use crate::registry::{Change, What};
use crate::store::History;
use crate::view::View;
use crate::writer::{Handle, Picture, Stopped};
use crate::zone::Zone;

/// Transfers under way at once: each holds a message of records, and works while its client reads.
const TRANSFERS_MAX: usize = 16;
/// How long one waits for its turn: a secondary that is refused comes again in a minute or more.
const PLACE_TIME_MAX: Duration = Duration::from_secs(10);
/// How long one may take in all: a zone of a million records over a line of a megabyte a second, twice.
pub const TRANSFER_TIME_MAX: Duration = Duration::from_secs(600);
/// Octets of the records of one message before compression: well below what a stream carries, and names that repeat are
/// within reach of a pointer.
const RECORDS_OCTETS_MAX: usize = 32_768;
/// Changes that one difference is made from; a secondary that is further behind takes the whole zone.
pub const CHANGES_MAX: usize = 32_768;
/// Changes looked at, before those, for who was remembered.
const LOOKED_BACK_MAX: usize = 20_000;
/// Changes read from the log at a time, and services compared, before others have their turn.
const PAGE: usize = 1000;
const SERVICES_A_TURN: usize = 16;

/// Who may have whole zones. An entry fits where everything in it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    pub network: Option<IpNet>,
    pub key: Option<Name>,
}

impl Allowed {
    pub fn fits(&self, client: IpAddr, key: Option<&Name>) -> bool {
        self.network.is_none_or(|network| network.contains(&client))
            && self.key.as_ref().is_none_or(|own| key == Some(own))
    }
}

/// See the module's own words.
pub struct Transfers {
    view: Arc<View>,
    clock: Clock,
    allow: Vec<Allowed>,
    counters: Arc<counters::Transfers>,
    places: Arc<Semaphore>,
    /// The writer and the log, from the loading of the registry to the server's end.
    state: ArcSwapOption<(Handle, History)>,
    /// Of each apex, in order, the record tree that was asked for last, with its names.
    planted: Vec<ArcSwapOption<Grown>>,
    /// What edits made of static zones.
    pub steps: Steps,
}

/// A record tree and its names.
type Grown = (Arc<Zone>, Arc<Planted>);

/// What somebody asks for.
pub(super) struct Wish<'a> {
    pub question: &'a Question,
    /// The serial that an incremental transfer starts from.
    pub since: Option<u32>,
    pub client: IpAddr,
    pub over: Over,
    /// The key that the question is signed with.
    pub key: Option<&'a Name>,
}

/// A transfer that may be made.
pub(super) struct Plan {
    transfers: Arc<Transfers>,
    zone: Source,
    since: Option<u32>,
}

enum Source {
    Live(Apex),
    Static(Arc<Zone>),
}

impl Transfers {
    pub fn new(
        view: Arc<View>,
        clock: Clock,
        allow: Vec<Allowed>,
        counters: Arc<counters::Transfers>,
    ) -> Self {
        let planted = view.settings.apexes.iter().map(|_| ArcSwapOption::empty()).collect();
        let places = Arc::new(Semaphore::new(TRANSFERS_MAX));
        let (state, steps) = (ArcSwapOption::empty(), Steps::default());
        Self { view, clock, allow, counters, places, state, planted, steps }
    }

    /// From here on the live zone is there.
    pub fn begin(&self, writer: Handle, history: History) {
        self.state.store(Some(Arc::new((writer, history))));
    }

    /// The writer is let go: it ends when nobody can ask it any more.
    pub fn end(&self) {
        self.state.store(None);
    }

    /// What is to be sent, or the answer where nothing is.
    pub(super) fn plan(this: Option<&Arc<Self>>, view: &View, wish: &Wish<'_>) -> Result<Plan, Answer> {
        let refused = |rcode, code, text: &str| {
            if let Some(this) = this {
                this.counters.refused.add();
            }
            Err(Answer::bare(rcode, Some(Ede::new(code, text))))
        };
        let permitted =
            this.filter(|this| this.allow.iter().any(|allowed| allowed.fits(wish.client, wish.key)));
        let Some(transfers) = permitted else {
            return refused(Rcode::Refused, Ede::PROHIBITED, "no zone transfer for this client");
        };
        let incremental = wish.question.qtype == Type::IXFR;
        if !(matches!(wish.over, Over::Tcp | Over::Tls) || incremental && wish.over == Over::Udp) {
            return refused(Rcode::Refused, Ede::NOT_SUPPORTED, "zones are transferred over TCP and TLS");
        }
        if incremental && wish.since.is_none() {
            return Err(Answer::bare(Rcode::FormErr, None)); // RFC 1995 section 3
        }
        let name = &wish.question.name;
        let live = view.settings.apexes.iter().find(|apex| apex.name() == name);
        let zones = view.zones();
        let zone = match (live, zones.primary.iter().find(|zone| zone.apex == *name)) {
            (Some(_), _) if !view.is_ready() || transfers.state.load().is_none() => {
                let ede = Ede::new(Ede::NOT_READY, "the registry is not loaded, or is too old");
                return Err(Answer::bare(Rcode::ServFail, Some(ede)));
            }
            (Some(apex), _) => Source::Live(apex.clone()),
            (None, Some(zone)) => Source::Static(zone.clone()),
            (None, None) => {
                return refused(
                    Rcode::NotAuth,
                    Ede::NOT_AUTHORITATIVE,
                    "not the apex of a zone of this server",
                );
            }
        };
        Ok(Plan { transfers: transfers.clone(), zone, since: wish.since.filter(|_| incremental) })
    }

    /// The tree with its names, which are found once for each tree.
    fn grown(&self, apex: &Apex, tree: Arc<Zone>) -> Grown {
        let place = self.view.settings.apexes.iter().position(|known| known == apex);
        let place = place.and_then(|at| self.planted.get(at));
        let known = place.and_then(|place| place.load_full());
        if let Some(known) = known.filter(|known| Arc::ptr_eq(&known.0, &tree)) {
            return Grown::clone(&known);
        }
        let grown = (tree.clone(), Arc::new(Planted::of(&tree)));
        place.into_iter().for_each(|place| place.store(Some(Arc::new(grown.clone()))));
        grown
    }

    fn state(&self) -> Result<Arc<(Handle, History)>, Stopped> {
        self.state.load_full().ok_or(Stopped)
    }

    async fn whole(&self, apex: &Apex) -> Result<Records, Stopped> {
        let zone = self.state()?.0.zone().await?;
        let tree = tree_in(&zone.zones, apex).map(|tree| self.grown(apex, tree));
        let view = self.view.clone();
        Ok(Box::new(walk::Live::new(view, apex.clone(), tree, zone.revision, zone.services)))
    }

    /// What changed since a serial.
    async fn since(&self, apex: &Apex, serial: u32) -> Result<Since, Stopped> {
        let until = self.view.revision();
        let behind = self.view.serial_of(until).wrapping_sub(serial);
        // RFC 1982: half of all serials are later than ours.
        if behind == 0 || behind > u32::MAX / 2 {
            return Ok(Since::Nothing(soa(apex, self.view.soa_at(apex, until))));
        }
        let Some(from) = until.checked_sub(behind.into()) else { return Ok(Since::Unknown) };
        let (started, settled) = self.view.beginnings();
        if from < settled {
            return Ok(Since::Unknown);
        }
        let state = self.state()?;
        let (writer, history) = &*state;
        // What an earlier process published and never stored is not in the log, so a serial of its own has to be.
        let first = if from < started { from.saturating_sub(1) } else { from };
        // Before the log is read: a fact that is stored in between is there twice, and otherwise would be in neither.
        let before = writer.picture(Vec::new()).await?;
        let Some(mut changes) = read(history, first).await else { return Ok(Since::Unknown) };
        if from < started {
            let known = changes.first().is_some_and(|change| change.revision <= from + 1);
            if !known {
                return Ok(Since::Unknown);
            }
            changes.retain(|change| change.revision > from);
        }
        merge(&mut changes, before.unstored);
        let on_host = |host: &HostName| {
            let members = self.view.on_host(host);
            members.into_iter().map(|member| member.instance.key.service.clone()).collect()
        };
        let names: BTreeSet<ServiceName> = touched(&changes, until, on_host);
        let mut picture = writer.picture(names.iter().cloned().collect()).await?;
        let Some(later) = read(history, before.revision).await else { return Ok(Since::Unknown) };
        merge(&mut changes, later);
        merge(&mut changes, std::mem::take(&mut picture.unstored));
        if changes.len() > CHANGES_MAX || !touched(&changes, until, on_host).is_subset(&names) {
            return Ok(Since::Unknown);
        }
        let difference = self.difference(apex, [from, until], &names, &picture, &changes).await;
        Ok(difference.map_or(Since::Unknown, Since::Changed))
    }

    /// Those of `keys` that had left at a revision and were remembered, by their last change before it; `None` where the
    /// log does not say.
    async fn remembered(&self, mut keys: HashSet<Key>, at: u64, changes: &[Change]) -> Option<HashSet<Key>> {
        let state = self.state().ok()?;
        let mut remembered = HashSet::new();
        let mut look = |change: &Change| {
            if let Some((key, leaves)) = leave_of(change)
                && let Some(key) = keys.take(key)
                && leaves
            {
                remembered.insert(key);
            }
            keys.is_empty()
        };
        // What the log does not have yet is the newest.
        let mut told = changes.iter().rev().filter(|change| change.revision <= at).any(&mut look);
        let (mut before, mut looked_at) = (at + 1, 0);
        while !told {
            let page = state.1.before(before, PAGE).ok()?;
            let Some(oldest) = page.last() else { return state.1.is_whole().then_some(remembered) };
            before = oldest.revision;
            looked_at += page.len();
            told = page.iter().any(&mut look);
            if looked_at > LOOKED_BACK_MAX && !told {
                return None;
            }
            tokio::task::yield_now().await;
        }
        Some(remembered)
    }

    /// The services `names` at two revisions, compared; `None` where it cannot be told what one of them was.
    async fn difference(
        &self,
        apex: &Apex,
        ends: [u64; 2],
        names: &BTreeSet<ServiceName>,
        picture: &Picture,
        changes: &[Change],
    ) -> Option<Vec<Record>> {
        let Picture { services, hosts, .. } = picture;
        let (started, _) = self.view.beginnings();
        let present = Present { services, hosts, started, ttl: self.view.settings.ttl };
        let mut pasts = ends.map(|at| Past::at(at, &present, changes));
        for past in &mut pasts {
            let unsure = names.iter().filter_map(|name| match past.service(name) {
                Then::Unsure(keys) => Some(keys),
                Then::Known(_) | Then::Unknown => None,
            });
            let unsure: HashSet<Key> = unsure.flatten().collect();
            if !unsure.is_empty() {
                past.recall(self.remembered(unsure, past.revision(), changes).await?);
            }
        }
        let around = Around::of(&self.view, apex);
        let now = tree_in(&picture.zones, apex);
        let trees = ends.map(|at| tree_at(&self.view, apex, now.as_ref(), at, changes));
        let trees = trees.map(|tree| tree.map(|tree| self.grown(apex, tree)));
        let mut difference = Difference::default();
        for (number, name) in names.iter().enumerate() {
            if number % SERVICES_A_TURN == SERVICES_A_TURN - 1 {
                tokio::task::yield_now().await;
            }
            let nodes = trees.each_ref().map(|tree| {
                tree.as_ref()
                    .map(|(tree, planted)| planted.of_service(tree, name.as_str()))
                    .unwrap_or_default()
            });
            let [before, after] = match pasts.each_ref().map(|past| past.service(name)) {
                [Then::Unsure(_), _] | [_, Then::Unsure(_)] => return None,
                sure => sure.map(|then| match then {
                    Then::Known(service) => Some(service),
                    Then::Unknown | Then::Unsure(_) => None,
                }),
            };
            let [nodes_before, nodes_after] = &nodes;
            difference.add(around, before.as_deref(), after.as_deref(), [nodes_before, nodes_after]);
        }
        let own = of_apex(&self.view, apex);
        for owner in others_touched(changes, apex, ends[1]) {
            difference.compare(
                trees.each_ref().map(|tree| {
                    tree.as_ref().map(|(tree, _)| other_at(tree, &owner, &own)).unwrap_or_default()
                }),
            );
        }
        let [old, new] = ends.map(|at| soa(apex, self.view.soa_at(apex, at)));
        let mut records = vec![new.clone(), old];
        records.extend(difference.gone);
        records.push(new.clone());
        records.extend(difference.come);
        records.push(new);
        Some(records)
    }
}

/// Whose change it is, where it is an instance's; and whether it is remembered from then on.
fn leave_of(change: &Change) -> Option<(&Key, bool)> {
    match &change.what {
        What::Instance { before, after } => Some((&after.as_ref().or(before.as_ref())?.key, after.is_none())),
        What::Forgotten { key } => Some((key, false)),
        What::Host { .. }
        | What::Settings { .. }
        | What::Guard { .. }
        | What::Token { .. }
        | What::Plain { .. } => None,
    }
}

enum Since {
    /// The client has it already, or something later: the SOA as it is.
    Nothing(Record),
    /// RFC 1995 section 4: the new SOA, what goes with the old one in front, what comes with the new one, the new SOA.
    Changed(Vec<Record>),
    /// The log does not reach so far, or cannot tell.
    Unknown,
}

/// The log after a revision, oldest first; `None` where it has not everything, or too much.
async fn read(history: &History, after: u64) -> Option<Vec<Change>> {
    let mut changes: Vec<Change> = Vec::new();
    loop {
        let last = changes.last().map_or(after, |change| change.revision);
        let (page, oldest) = match history.after(last, PAGE) {
            Ok(read) => read,
            Err(error) => {
                tracing::warn!(%error, "reading the log for a transfer");
                return None;
            }
        };
        // Each time: what is old is taken out of the log while it is read.
        if !history.is_whole_after(last, oldest) {
            return None;
        }
        let whole = page.len() < PAGE;
        changes.extend(page);
        if changes.len() > CHANGES_MAX {
            return None;
        }
        if whole {
            return Some(changes);
        }
        tokio::task::yield_now().await;
    }
}

/// Adds what is not there yet. One revision of etcd's may hold several changes; a source has all of them, or none.
fn merge(changes: &mut Vec<Change>, others: Vec<Change>) {
    let known: HashSet<u64> = changes.iter().map(|change| change.revision).collect();
    changes.extend(others.into_iter().filter(|change| !known.contains(&change.revision)));
    changes.sort_by_key(|change| change.revision);
}

type Records = Box<dyn Iterator<Item = Record> + Send>;

/// A transfer that is asked for: what goes into every message of it.
pub struct Transfer {
    plan: Plan,
    envelope: Envelope,
    signer: Option<Signer>,
}

impl Transfer {
    pub(super) fn new(plan: Plan, frame: &Frame<'_>) -> Self {
        Self { plan, envelope: Envelope::of(frame), signer: None }
    }

    pub(super) fn signed_by(self, signer: Signer) -> Self {
        Self { signer: Some(signer), ..self }
    }

    fn message(&mut self, answer: &Answer) -> Vec<u8> {
        let message = self.envelope.encode(answer);
        self.sign(message)
    }

    fn sign(&mut self, message: Vec<u8>) -> Vec<u8> {
        let now_s = self.plan.transfers.clock.now().wall.unix_s();
        match &mut self.signer {
            Some(signer) => signer.sign(message, now_s),
            None => message,
        }
    }

    fn soa(&self) -> Option<Record> {
        let view = &self.plan.transfers.view;
        match &self.plan.zone {
            Source::Live(apex) => Some(soa(apex, view.soa(apex))),
            Source::Static(zone) => walk::Static::new(zone.clone()).next(),
        }
    }

    /// The whole of it in one message, for whoever can send no more: the SOA alone where that is too small (RFC 1995
    /// section 2).
    pub async fn datagram(mut self) -> Option<Vec<u8>> {
        if !self.envelope.over.is_datagram() {
            let ede = Ede::new(Ede::NOT_SUPPORTED, "this listener sends one message for a question");
            return Some(self.message(&Answer::bare(Rcode::Refused, Some(ede))));
        }
        let transfers = self.plan.transfers.clone();
        // Names that are written once say nearly all; what is far too much is not tried.
        let octets_max = 4 * self.envelope.limit;
        let records = match (&self.plan.zone, self.plan.since, transfers.places.clone().try_acquire_owned()) {
            (Source::Live(apex), Some(serial), Ok(_place)) => match transfers.since(apex, serial).await {
                Ok(Since::Changed(records)) => Some(records),
                Ok(Since::Nothing(_) | Since::Unknown) | Err(Stopped) => None,
            },
            (Source::Static(zone), Some(serial), Ok(_place)) => {
                transfers.steps.since(zone, serial, octets_max)
            }
            _ => None,
        };
        let records = records.filter(|records| records.iter().map(octets).sum::<usize>() <= octets_max);
        if let Some(answer) = records {
            let message = self.envelope.encode(&Answer { authoritative: true, answer, ..Answer::default() });
            if u16::from_be_bytes([message[2], message[3]]) & TC == 0 {
                transfers.counters.incremental.add();
                return Some(self.sign(message));
            }
        }
        transfers.counters.soa.add();
        let answer = self.soa().into_iter().collect();
        Some(self.message(&Answer { authoritative: true, answer, ..Answer::default() }))
    }

    /// Begins to send it over a stream.
    pub async fn begin(self) -> Sending {
        let places = self.plan.transfers.places.clone();
        let Ok(Ok(place)) = timeout(PLACE_TIME_MAX, places.acquire_owned()).await else {
            let ede = Ede::new(Ede::OTHER, "too many zone transfers at once; ask again");
            return self.refused(Rcode::Refused, ede);
        };
        match self.records().await {
            Ok(records) => {
                let records = records.peekable();
                Sending { transfer: self, records, refused: None, ended: false, _place: Some(place) }
            }
            Err(stopped) => self.refused(Rcode::ServFail, Ede::new(Ede::NOT_READY, stopped.to_string())),
        }
    }

    fn refused(self, rcode: Rcode, ede: Ede) -> Sending {
        let records = (Box::new(std::iter::empty()) as Records).peekable();
        let refused = Some(Answer::bare(rcode, Some(ede)));
        Sending { transfer: self, records, refused, ended: false, _place: None }
    }

    /// Everything that is to be sent, in order.
    async fn records(&self) -> Result<Records, Stopped> {
        let transfers = &self.plan.transfers;
        let counters = &transfers.counters;
        let (count, records) = match (&self.plan.zone, self.plan.since) {
            (Source::Static(zone), since) => {
                let serial = zone.soa().map_or(0, |(soa, _)| soa.serial);
                let whole = walk::Static::new(zone.clone());
                match since.map(|since| serial.wrapping_sub(since)) {
                    None => (&counters.full, Box::new(whole) as Records),
                    Some(behind) if behind == 0 || behind > u32::MAX / 2 => {
                        (&counters.soa, Box::new(whole.take(1)) as Records)
                    }
                    Some(_) => match since.and_then(|since| transfers.steps.since(zone, since, usize::MAX)) {
                        Some(steps) => (&counters.incremental, Box::new(steps.into_iter()) as Records),
                        None => (&counters.instead, Box::new(whole) as Records),
                    },
                }
            }
            (Source::Live(apex), None) => (&counters.full, transfers.whole(apex).await?),
            (Source::Live(apex), Some(serial)) => match transfers.since(apex, serial).await? {
                Since::Nothing(soa) => (&counters.soa, Box::new(std::iter::once(soa)) as Records),
                Since::Changed(records) => (&counters.incremental, Box::new(records.into_iter()) as Records),
                Since::Unknown => (&counters.instead, transfers.whole(apex).await?),
            },
        };
        count.add();
        Ok(records)
    }
}

/// A transfer on its way, message by message.
pub struct Sending {
    transfer: Transfer,
    records: Peekable<Records>,
    /// In the place of all records.
    refused: Option<Answer>,
    ended: bool,
    _place: Option<OwnedSemaphorePermit>,
}

impl Sending {
    /// Somebody else's loop has given it up.
    pub fn fail(&self) {
        self.transfer.plan.transfers.counters.failed.add();
    }
}

impl Iterator for Sending {
    type Item = Vec<u8>;

    /// The next message; none behind the last.
    fn next(&mut self) -> Option<Vec<u8>> {
        if std::mem::replace(&mut self.ended, true) {
            return None;
        }
        if let Some(answer) = self.refused.take() {
            return Some(self.transfer.message(&answer));
        }
        let mut answer = Answer { authoritative: true, ..Answer::default() };
        let mut room = RECORDS_OCTETS_MAX;
        // One record at least, however large.
        while let Some(record) =
            self.records.next_if(|record| answer.answer.is_empty() || octets(record) <= room)
        {
            room = room.saturating_sub(octets(&record));
            answer.answer.push(record);
        }
        self.ended = self.records.peek().is_none();
        Some(self.transfer.message(&answer))
    }
}

/// Octets of a record without compression.
fn octets(record: &Record) -> usize {
    record.owner.as_wire().len() + FIXED_OCTETS + record.data.octets_max()
}
