//! Secondaries are told that a zone has changed (NOTIFY, RFC 1996), so that they ask at once and not in five minutes.
//!
//! Each is told of each zone by itself: at most once a second, whatever changes meanwhile, and again until it has
//! answered, a bounded number of times. What is told is only that there is something to ask for: who hears of it asks.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{try_join, try_join_all};
use futures_util::stream;
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::encode::{AA, Frame};
use super::tsig::{Key, Signer};
use crate::answer::{Answer, CLASS_IN, Over};
use crate::balance::Draws;
use crate::clock::Clock;
use crate::counters;
use crate::journal::{Ended, Journal, Topic};
use crate::live::whole::soa;
use crate::name::{Apex, Name};
use crate::record::{Data, Record, Type};
use crate::view::View;

/// Secondaries that are told: each is a socket and a task for each zone.
pub const SECONDARIES_MAX: usize = 32;
/// Between two of one zone to one secondary: what changes meanwhile is told with the next.
const PAUSE: Duration = Duration::from_secs(1);
/// How long an answer is waited for: at first, and twice as long after each try (RFC 1996 section 3.6).
const PATIENCE: Duration = Duration::from_secs(1);
/// Times that one change is told. After that the secondary finds it by its own clock, or with the next change.
const TRIES_MAX: u32 = 6;
/// Static zones that one secondary is told of at the same time: each is a socket.
const FILES_AT_ONCE: usize = 16;
const OPCODE_NOTIFY: u16 = 4 << 11;
/// An answer is a header, the question and perhaps a signature.
const ANSWER_OCTETS_MAX: usize = 1232;

/// Who is told, and with which key.
#[derive(Clone, Debug)]
pub struct Secondary {
    pub address: SocketAddr,
    pub key: Option<Arc<Key>>,
}

/// What everybody is told with.
pub struct Notifier {
    pub view: Arc<View>,
    pub journal: Arc<Journal>,
    /// Word of every change of static zones.
    pub files: watch::Receiver<()>,
    pub clock: Clock,
    pub counters: Arc<counters::Transfers>,
}

/// Tells every secondary of every zone until `stop`, at the start too: nobody knows what it has heard of.
///
/// # Errors
///
/// A socket cannot be had.
pub async fn run(
    notifier: Notifier,
    secondaries: Vec<Secondary>,
    seed: u64,
    stop: CancellationToken,
) -> io::Result<()> {
    let mut seeds = Draws::new(seed);
    let apexes = &notifier.view.settings.apexes;
    let pairs = secondaries.iter().flat_map(|secondary| apexes.iter().map(move |apex| (secondary, apex)));
    let live = pairs.map(|(secondary, apex)| {
        let zone = Told::Live(apex);
        Telling { notifier: &notifier, secondary, zone, draws: Draws::new(seeds.next_u64()) }.run()
    });
    let live = try_join_all(live.collect::<Vec<_>>());
    let files = secondaries.iter().map(|secondary| of_files(&notifier, secondary, seeds.next_u64()));
    let files = try_join_all(files.collect::<Vec<_>>());
    tokio::select! {
        told = try_join(live, files) => told.map(|_| ()),
        () = stop.cancelled() => Ok(()),
    }
}

/// Tells one secondary of every static zone that is another one than it was told of.
async fn of_files(notifier: &Notifier, secondary: &Secondary, seed: u64) -> io::Result<()> {
    let (mut files, mut seeds) = (notifier.files.clone(), Draws::new(seed));
    let mut told: HashMap<Name, u32> = HashMap::new();
    loop {
        files.borrow_and_update();
        let pause = sleep(PAUSE);
        let zones = notifier.view.zones();
        let serials = zones.primary.iter().filter_map(|zone| Some((zone.apex.clone(), zone.soa()?.0.serial)));
        let serials: HashMap<Name, u32> = serials.collect();
        let news = serials.iter().filter(|(apex, serial)| told.get(*apex) != Some(*serial));
        let telling = news.map(|(apex, _)| {
            let zone = Told::File(apex.clone());
            Telling { notifier, secondary, zone, draws: Draws::new(seeds.next_u64()) }.once()
        });
        let telling: Vec<_> = telling.collect();
        let mut telling = stream::iter(telling).buffer_unordered(FILES_AT_ONCE);
        while let Some(done) = telling.next().await {
            done?;
        }
        told = serials;
        pause.await;
        if files.changed().await.is_err() {
            std::future::pending::<()>().await; // the server is on its way down, and ends this
        }
    }
}

/// A zone that is told of.
enum Told<'a> {
    Live(&'a Apex),
    /// A static one, by its apex.
    File(Name),
}

impl Told<'_> {
    fn name(&self) -> &Name {
        match self {
            Self::Live(apex) => apex.name(),
            Self::File(name) => name,
        }
    }

    /// The SOA as it is now; none where the zone is not served any more.
    fn soa(&self, view: &View) -> Option<Record> {
        match self {
            Self::Live(apex) => Some(soa(apex, view.soa(apex))),
            Self::File(name) => {
                let zones = view.zones();
                let (soa, ttl) = zones.primary.iter().find(|zone| zone.apex == *name)?.soa()?;
                Some(Record { owner: name.clone(), ttl, data: Data::Soa(soa.clone()) })
            }
        }
    }

    /// A number that another version of the zone does not have.
    fn version(&self, view: &View) -> u64 {
        match self {
            Self::Live(_) => view.revision(),
            Self::File(_) => match self.soa(view).map(|soa| soa.data) {
                Some(Data::Soa(soa)) => soa.serial.into(),
                _ => u64::MAX,
            },
        }
    }
}

/// One secondary, and one zone.
struct Telling<'a> {
    notifier: &'a Notifier,
    secondary: &'a Secondary,
    zone: Told<'a>,
    draws: Draws,
}

impl Telling<'_> {
    async fn socket(&self) -> io::Result<UdpSocket> {
        let any: IpAddr = match self.secondary.address {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        UdpSocket::bind((any, 0)).await
    }

    /// Tells of the zone as it is now.
    async fn once(mut self) -> io::Result<()> {
        let socket = self.socket().await?;
        self.tell(&socket).await;
        Ok(())
    }

    /// Tells of each change of a live zone.
    async fn run(mut self) -> io::Result<()> {
        let socket = self.socket().await?;
        loop {
            let pause = sleep(PAUSE); // from here on
            let told = self.notifier.view.revision();
            self.tell(&socket).await;
            pause.await;
            // Followed before the look, so that what comes after it wakes us.
            let mut changes = self.notifier.journal.follow(Topic::Everything);
            while self.notifier.view.revision() == told {
                if matches!(changes.next().await, Err(Ended::Closed)) {
                    std::future::pending::<()>().await; // the server is on its way down, and ends this
                }
            }
        }
    }

    /// Tells of the zone as it is, until that is heard, or something else is to be told, or in vain.
    async fn tell(&mut self, socket: &UdpSocket) {
        for attempt in 0..TRIES_MAX {
            let version = self.zone.version(&self.notifier.view);
            let id = self.draws.next_u64() as u16;
            let Some((message, signer)) = self.message(id) else { return };
            if let Err(error) = socket.send_to(&message, self.secondary.address).await {
                // No way there now is no reason to end: it is tried again.
                tracing::debug!(%error, secondary = %self.secondary.address, "telling of a change");
            }
            self.notifier.counters.notified.add();
            if timeout(PATIENCE * 2u32.pow(attempt), self.answer(socket, id, signer.as_ref())).await.is_ok() {
                self.notifier.counters.heard.add();
                return;
            }
            if self.zone.version(&self.notifier.view) != version {
                return; // the next one says more
            }
        }
        tracing::warn!(secondary = %self.secondary.address, zone = %self.zone.name(), "a secondary does not answer to NOTIFY");
    }

    /// What is sent, signed where there is a key; none where there is nothing to tell any more.
    fn message(&self, id: u16) -> Option<(Vec<u8>, Option<Signer>)> {
        let Notifier { view, clock, .. } = self.notifier;
        let answer = vec![self.zone.soa(view)?];
        let mut question = self.zone.name().as_wire().to_vec();
        question.extend(Type::SOA.0.to_be_bytes());
        question.extend(CLASS_IN.to_be_bytes());
        let frame = Frame {
            id,
            flags: OPCODE_NOTIFY | AA,
            question: &question,
            edns: false,
            dnssec_ok: false,
            options: &[],
            padded: false,
            limit: ANSWER_OCTETS_MAX,
            over: Over::Udp,
        };
        let mut message = frame.encode(&Answer { answer, ..Answer::default() });
        message[2] &= 0x7f; // it is a question, with the answer as a hint (RFC 1996 section 3.7)
        Some(match &self.secondary.key {
            None => (message, None),
            Some(key) => {
                let mut signer = Signer::of_question(key);
                let signed = signer.sign(message, clock.now().wall.unix_s());
                (signed, Some(signer))
            }
        })
    }

    /// Waits for what answers it, whatever it says: who refuses has heard.
    async fn answer(&self, socket: &UdpSocket, id: u16, signer: Option<&Signer>) {
        let mut buffer = [0; ANSWER_OCTETS_MAX];
        loop {
            let Ok((octets, from)) = socket.recv_from(&mut buffer).await else {
                return std::future::pending().await; // until the patience is over
            };
            let message = &buffer[..octets];
            if from != self.secondary.address {
                continue;
            }
            let [first, second, flags, ..] = message else { continue };
            let is_answer = u16::from_be_bytes([*first, *second]) == id && flags & 0xf8 == 0xa0;
            let now_s = self.notifier.clock.now().wall.unix_s();
            if is_answer && signer.is_none_or(|signer| signer.verifies(message, now_s)) {
                return;
            }
        }
    }
}
