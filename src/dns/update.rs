//! UPDATE as it comes over the network (RFC 2136): who may send one, what it says, and that it is carried out once.
//!
//! A message is read here and nowhere else; what becomes of the zone is `crate::update`'s to say, and the writer's to do.
//!
//! Whoever can read a signed message on its way can send it again, as long as its time is believed. So what was signed
//! is remembered for as long: who sends it again, thief or client that heard no reply, is told what became of it the first time, and
//! nothing is done. There is room for so many messages of each key; of those that had to be forgotten, and of those up to the second of the
//! server's start, the time alone is known, and whatever is not newer than that is too old. Where etcd holds the registry it remembers what
//! was carried out, and a start forgets nothing that matters.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::edns::{self, UPDATE_LEASE};
use super::encode::{Envelope, Frame, HEADER_OCTETS};
use super::reader::Reader;
use super::transfer::Allowed;
use super::tsig::{FUDGE_S, Signer};
use crate::access::Identity;
use crate::answer::{Answer, CLASS_IN, Ede, Over, Rcode};
use crate::clock::Clock;
use crate::counters;
use crate::grammar::reverse;
use crate::name::{Apex, Name};
use crate::record::{Data, Type};
use crate::registry::{Command, Refusal};
use crate::update::{MAC_OCTETS, MessageId, Rr, Update, granted};
use crate::view::View;
use crate::writer::Handle;
use crate::zone_file::is_data_of;

/// The opcode, in its place in the flags.
pub(super) const OPCODE_UPDATE: u16 = 5 << 11;
/// Messages at the writer at once: each waits for a commit of its own, and holds what it says.
const UPDATES_MAX: usize = 256;
/// Messages of one key that are remembered: thirteen a second for as long as a signature is believed. Beyond that
/// the oldest go, and with them whatever was signed before.
const REMEMBERED_MAX: usize = 8192;

/// See the module's own words.
pub struct Updates {
    clock: Clock,
    allow: Vec<Allowed>,
    loopback_allowed: bool,
    counters: Arc<counters::Updates>,
    places: Arc<Semaphore>,
    /// What was signed up to this second may have been carried out before the start, in Unix seconds.
    begun_s: u64,
    memory: Mutex<Memory>,
    /// From the loading of the registry to the server's end.
    writer: ArcSwapOption<Handle>,
}

/// What is asked of `Updates`.
pub(super) struct Wish<'a> {
    pub message: &'a [u8],
    pub client: IpAddr,
    pub over: Over,
    pub signer: Option<&'a Signer>,
    /// The octets of the option Update Lease.
    pub lease: Option<&'a [u8]>,
    /// A random number.
    pub draw: u64,
}

/// What becomes of a message at once.
pub(super) enum Taken {
    Wanted(Box<Wanted>),
    Answer(Answer),
    /// Its first copy is at the writer, and will be answered.
    UnderWay,
    /// BADTIME, though its signature is sound.
    TooOld,
}

impl Updates {
    /// `allow` names keys: without one nobody sends an UPDATE. `remembered`: the store knows what was carried out before
    /// the start.
    pub fn new(
        clock: Clock,
        allow: Vec<Allowed>,
        loopback_allowed: bool,
        remembered: bool,
        counters: Arc<counters::Updates>,
    ) -> Self {
        Self {
            clock,
            allow,
            loopback_allowed,
            counters,
            places: Arc::new(Semaphore::new(UPDATES_MAX)),
            begun_s: if remembered { 0 } else { clock.now().wall.unix_s() },
            memory: Mutex::default(),
            writer: ArcSwapOption::empty(),
        }
    }

    /// From here on changes are taken.
    pub fn begin(&self, writer: Handle) {
        self.writer.store(Some(Arc::new(writer)));
    }

    /// The writer is let go: it ends when nobody can ask it any more.
    pub fn end(&self) {
        self.writer.store(None);
    }

    /// What becomes of a message (RFC 2136 section 3.1), as far as that can be said without the writer.
    pub(super) fn take(this: Option<&Arc<Self>>, view: &View, wish: &Wish<'_>, frame: &Frame<'_>) -> Taken {
        let apex = match zone(view, wish.message) {
            Ok(apex) => apex,
            Err(answer) => return Taken::Answer(answer),
        };
        let refused =
            |rcode, code, text: &str| Taken::Answer(Answer::bare(rcode, Some(Ede::new(code, text))));
        let key = wish.signer.and_then(Signer::believed);
        let permitted = this.zip(wish.signer).zip(key).filter(|((this, _), key)| {
            this.allow.iter().any(|allowed| allowed.key.is_some() && allowed.fits(wish.client, Some(key)))
        });
        let Some(((this, signer), key)) = permitted else {
            let client = wish.client;
            // Who has a key is known; what strangers send makes no line of the log.
            match key {
                Some(key) => tracing::info!(%key, %client, "an UPDATE that `update-allow` does not permit"),
                None => tracing::debug!(%client, "an UPDATE without a key"),
            }
            this.inspect(|this| this.counters.refused.add());
            return refused(Rcode::Refused, Ede::PROHIBITED, "no UPDATE without a key of `update-allow`");
        };
        if !matches!(wish.over, Over::Udp | Over::Tcp | Over::Tls) {
            return refused(Rcode::Refused, Ede::NOT_SUPPORTED, "an UPDATE comes over UDP, TCP or TLS");
        }
        let Some(update) = read(wish, id_of(signer), &apex, this.loopback_allowed) else {
            return Taken::Answer(Answer::bare(Rcode::FormErr, None));
        };
        let writer = this.writer.load_full();
        let (Some(writer), true) = (writer, view.is_ready()) else {
            return refused(Rcode::ServFail, Ede::NOT_READY, "the registry is not loaded yet");
        };
        let Ok(place) = this.places.clone().try_acquire_owned() else {
            return refused(Rcode::ServFail, Ede::OTHER, "too many UPDATEs at once; send it again");
        };
        let once = match Once::begin(this, key, update.id) {
            Ok(once) => once,
            Err(Seen::Before(rcode)) => {
                this.counters.repeated.add();
                return refused(rcode, Ede::OTHER, "it came before, and was not carried out again");
            }
            Err(Seen::UnderWay) => return Taken::UnderWay,
            Err(Seen::TooOld) => return Taken::TooOld,
        };
        let mut envelope = Envelope::of(frame);
        if let (Some(octets), Some(lease)) = (wish.lease, update.lease) {
            // As many octets as were asked with: the lease of keys is that of all else (RFC 9664 section 4).
            let seconds = (lease.as_secs() as u32).to_be_bytes().repeat(octets.len() / 4);
            edns::push(&mut envelope.options, UPDATE_LEASE, &seconds);
        }
        let by = Identity::key(key);
        Taken::Wanted(Box::new(Wanted { update, by, writer, envelope, once, signer: None, _place: place }))
    }
}

/// A message on its way to the writer.
pub struct Wanted {
    update: Update,
    by: Identity,
    writer: Arc<Handle>,
    envelope: Envelope,
    once: Once,
    signer: Option<Signer>,
    _place: OwnedSemaphorePermit,
}

impl Wanted {
    pub(super) fn signed_by(self, signer: Signer) -> Self {
        Self { signer: Some(signer), ..self }
    }

    /// The reply, once what it says is durable and visible, or refused.
    pub(super) async fn reply(mut self) -> Vec<u8> {
        let zone = self.update.apex.clone();
        let command = Command::Update(Box::new(self.update));
        let verdict = match self.writer.command(command, self.by.clone()).await {
            Ok(verdict) => verdict.await.ok(),
            Err(_) => None,
        };
        let updates = self.once.updates.clone();
        let counters = &updates.counters;
        let answer = match verdict {
            Some(Ok(done)) => {
                counters.done.add();
                tracing::debug!(by = %self.by.author(), %zone, changes = done.changes.len(), "an UPDATE");
                Answer::bare(Rcode::NoError, None)
            }
            Some(Err(refusal)) => {
                let rcode = rcode(&refusal);
                match rcode {
                    Rcode::ServFail => counters.failed.add(),
                    Rcode::NoError => counters.repeated.add(),
                    _ => counters.refused.add(),
                }
                tracing::info!(by = %self.by.author(), %zone, %refusal, "an UPDATE was not carried out");
                let code = if matches!(refusal, Refusal::Denied(_)) { Ede::PROHIBITED } else { Ede::OTHER };
                Answer::bare(rcode, Some(Ede::new(code, refusal.to_string())))
            }
            None => {
                counters.failed.add();
                Answer::bare(Rcode::ServFail, Some(Ede::new(Ede::NOT_READY, "the server is stopping")))
            }
        };
        if answer.rcode != Rcode::NoError {
            self.envelope.options.clear(); // no lease was given
        }
        self.once.end(answer.rcode);
        let message = self.envelope.encode(&answer);
        match &mut self.signer {
            Some(signer) => signer.sign(message, updates.clock.now().wall.unix_s()),
            None => message,
        }
    }
}

/// RFC 2136 section 2.2: what was not carried out for a reason of ours is SERVFAIL, and may be sent again.
fn rcode(refusal: &Refusal) -> Rcode {
    match refusal {
        Refusal::Update(refused) => refused.rcode,
        Refusal::Unavailable(_) | Refusal::Unknown(_) => Rcode::ServFail,
        _ => Rcode::Refused,
    }
}

/// Whether a message came before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Before(Rcode),
    UnderWay,
    TooOld,
}

/// What was signed, by key.
#[derive(Debug, Default)]
struct Memory {
    keys: HashMap<Name, Remembered>,
}

#[derive(Debug)]
struct Remembered {
    /// Of what was signed at this second or before it, only what is in `seen` is known.
    floor_s: u64,
    /// With what became of it; none while it is at the writer.
    seen: BTreeMap<MessageId, Option<Rcode>>,
}

impl Remembered {
    fn begin(&mut self, id: MessageId, now_s: u64) -> Result<(), Seen> {
        match self.seen.get(&id) {
            Some(Some(rcode)) => return Err(Seen::Before(*rcode)),
            Some(None) => return Err(Seen::UnderWay),
            None if id.0 <= self.floor_s => return Err(Seen::TooOld),
            None => {}
        }
        // What no signature is believed of any more need not be known.
        let over = |time: u64| time + u64::from(FUDGE_S) < now_s;
        while let Some((&(time, mac), _)) = self.seen.first_key_value()
            && (over(time) || self.seen.len() >= REMEMBERED_MAX)
        {
            self.floor_s = self.floor_s.max(time);
            self.seen.remove(&(time, mac));
        }
        if id.0 <= self.floor_s {
            return Err(Seen::TooOld);
        }
        self.seen.insert(id, None);
        Ok(())
    }
}

/// A message that came for the first time.
struct Once {
    updates: Arc<Updates>,
    key: Name,
    id: MessageId,
    outcome: Option<Rcode>,
}

impl Once {
    fn begin(updates: &Arc<Updates>, key: &Name, id: MessageId) -> Result<Self, Seen> {
        let now_s = updates.clock.now().wall.unix_s();
        let mut memory = updates.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let floor_s = updates.begun_s;
        let new = || Remembered { floor_s, seen: BTreeMap::new() };
        memory.keys.entry(key.clone()).or_insert_with(new).begin(id, now_s)?;
        Ok(Self { updates: updates.clone(), key: key.clone(), id, outcome: None })
    }

    fn end(&mut self, rcode: Rcode) {
        self.outcome = Some(rcode);
    }
}

/// Whoever went away before the outcome was there can only be told that it is not known.
impl Drop for Once {
    fn drop(&mut self) {
        let outcome = self.outcome.unwrap_or(Rcode::ServFail);
        let mut memory = self.updates.memory.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = memory.keys.get_mut(&self.key).and_then(|of| of.seen.get_mut(&self.id)) {
            *known = Some(outcome);
        }
    }
}

fn id_of(signer: &Signer) -> MessageId {
    let (time, mac) = signer.signed();
    let mut id = (time, [0; MAC_OCTETS]);
    let octets = mac.len().min(MAC_OCTETS);
    id.1[..octets].copy_from_slice(&mac[..octets]);
    id
}

/// The live zone that a message is for (RFC 2136 section 3.1.1).
fn zone(view: &View, message: &[u8]) -> Result<Apex, Answer> {
    let malformed = || Answer::bare(Rcode::FormErr, None);
    let mut reader = Reader::new(message, 4);
    if reader.u16() != Some(1) {
        return Err(malformed());
    }
    reader.at = HEADER_OCTETS;
    let (Some(name), Some(rtype), Some(class)) = (reader.name(), reader.u16(), reader.u16()) else {
        return Err(malformed());
    };
    if Type(rtype) != Type::SOA {
        return Err(malformed());
    }
    if let Some(apex) = view.settings.apexes.iter().find(|apex| *apex.name() == name && class == CLASS_IN) {
        return Ok(apex.clone());
    }
    let (refused, not_ours) = (
        Ede::new(Ede::NOT_SUPPORTED, "only the zones of services take an UPDATE"),
        Ede::new(Ede::NOT_AUTHORITATIVE, "not the apex of a zone of this server"),
    );
    let of_file = view.zones().primary.iter().any(|zone| zone.apex == name);
    let alias = view.settings.consul.as_ref().is_some_and(|zone| *zone.apex.name() == name);
    let reversed = reverse::read(&name)
        .is_some_and(|(prefix, all)| all && prefix.zone(&view.settings.reverse) == Some(prefix));
    match class == CLASS_IN && (of_file || alias || reversed) {
        true => Err(Answer::bare(Rcode::Refused, Some(refused))),
        false => Err(Answer::bare(Rcode::NotAuth, Some(not_ours))),
    }
}

/// The sections behind the zone's; none where they are not well formed.
fn read(wish: &Wish<'_>, id: MessageId, apex: &Apex, loopback_allowed: bool) -> Option<Update> {
    let lease = match wish.lease {
        None => None,
        Some(octets) if octets.len() == 4 || octets.len() == 8 => {
            let seconds = u32::from_be_bytes(*octets.first_chunk()?);
            Some(granted(Duration::from_secs(seconds.into())))
        }
        Some(_) => return None, // RFC 9664 section 4
    };
    let mut reader = Reader::new(wish.message, 6);
    let counts = [reader.u16()?, reader.u16()?, reader.u16()?];
    reader.at = HEADER_OCTETS;
    reader.name()?;
    reader.at += 4;
    let prerequisites = (0..counts[0]).map(|_| record(&mut reader)).collect::<Option<Vec<Rr>>>()?;
    let changes = (0..counts[1]).map(|_| record(&mut reader)).collect::<Option<Vec<Rr>>>()?;
    for _ in 0..counts[2] {
        reader.name()?;
        reader.at += 8;
        reader.at += usize::from(reader.u16()?);
    }
    let (apex, lease_id) = (apex.clone(), wish.draw);
    let whole = reader.at == wish.message.len();
    whole.then_some(Update { id, apex, prerequisites, changes, lease, lease_id, loopback_allowed })
}

fn record(reader: &mut Reader<'_>) -> Option<Rr> {
    let owner = reader.name()?;
    let (rtype, class) = (Type(reader.u16()?), reader.u16()?);
    let ttl = reader.u32()?;
    let octets = usize::from(reader.u16()?);
    if octets == 0 {
        return Some(Rr { owner, rtype, class, ttl, data: None });
    }
    let end = reader.at + octets;
    let data = reader.data(rtype, end).filter(|_| reader.at == end)?;
    let sound = match &data {
        Data::Other { .. } | Data::Svcb { .. } => is_data_of(rtype, &data.to_wire()),
        _ => true,
    };
    sound.then_some(Rr { owner, rtype, class, ttl, data: Some(data) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_new_once_and_what_is_forgotten_is_too_old() {
        let mut of = Remembered { floor_s: 99, seen: BTreeMap::new() };
        let id = |time: u64, number: u64| {
            let mut mac = [0; MAC_OCTETS];
            mac[..8].copy_from_slice(&number.to_be_bytes());
            (time, mac)
        };
        assert_eq!(of.begin(id(99, 0), 100), Err(Seen::TooOld), "from before the start");
        assert_eq!(of.begin(id(100, 0), 100), Ok(()));
        assert_eq!(of.begin(id(100, 0), 100), Err(Seen::UnderWay));
        of.seen.insert(id(100, 0), Some(Rcode::YxDomain));
        assert_eq!(of.begin(id(100, 0), 100), Err(Seen::Before(Rcode::YxDomain)));
        assert_eq!(of.begin(id(100, 1), 100), Ok(()), "another one of the same second");
        // A clock that is behind, and then one that makes all that was forgotten too old.
        for number in 0..2 * REMEMBERED_MAX as u64 {
            assert_eq!(of.begin(id(101, number), 102).is_ok(), number < REMEMBERED_MAX as u64, "{number}");
        }
        assert!(of.seen.len() <= REMEMBERED_MAX);
        assert_eq!(of.begin(id(100, 1), 102), Err(Seen::TooOld));
        assert_eq!(of.begin(id(101, 0), 102), Err(Seen::TooOld), "forgotten");
        assert_eq!(of.begin(id(102, 0), 102), Ok(()));
        // Time goes on: nothing is believed of what was, and nothing is kept of it.
        assert_eq!(of.begin(id(1000, 0), 1000), Ok(()));
        assert_eq!(of.seen.len(), 1);
    }
}
