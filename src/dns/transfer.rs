//! Zones handed out whole (AXFR, RFC 5936) and as what changed (IXFR, RFC 1995), to those who may have them.
//!
//! A whole zone is what the writer has published at one revision: the views of that moment, which are shared, and of
//! which one piece at a time becomes records and messages. What changed is a fold over the log (`difference`). Where
//! the log does not reach, or cannot tell, the whole zone is the answer.
//!
//! Bounded are: transfers at once, the time of each, changes looked at for a difference, and octets of a message.
//!
//! A static zone has no log. What is known of its edits is kept while there is room (`steps`), and sent one after the
//! other.

mod difference;
pub mod steps;

use std::iter::Peekable;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use ipnet::IpNet;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use self::difference::Since;
use self::steps::Steps;
use super::encode::{Envelope, Frame, TC};
use super::tsig::Signer;
use crate::answer::{Answer, Ede, FIXED_OCTETS, Over, Question, Rcode};
use crate::clock::Clock;
use crate::counters;
use crate::live::walk::{self, tree_in};
use crate::live::whole::{Planted, soa};
use crate::name::{Apex, Name};
use crate::record::{Record, Type};
use crate::store::History;
use crate::view::View;
use crate::writer::{Handle, Stopped};
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
