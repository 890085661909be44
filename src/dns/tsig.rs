//! Signed messages (TSIG, RFC 8945): who knows a key may sign what it asks, and is told so that nobody can change it.
//!
//! A signature is taken off before anything else looks at a message, on every transport, and the reply is signed with the
//! same key. HMAC over SHA-256, SHA-384 or SHA-512, whole: MD5 and SHA-1 are not offered, and shortened MACs are refused.

use std::fmt;
use std::sync::Arc;

use ring::hmac;

use super::encode::HEADER_OCTETS;
use super::reader::Reader;
use super::wire::skip_name;
use crate::name::Name;

/// Keys at once: one for each secondary or client, and a few that are on their way out.
pub const KEYS_MAX: usize = 64;
/// How far clocks may be apart, in seconds; a client may ask for less (RFC 8945 section 10).
pub const FUDGE_S: u16 = 300;
/// The type of the record, and its class, ANY.
const TSIG: u16 = 250;
const CLASS_ANY: u16 = 255;
/// Octets of its data besides the algorithm's name, the MAC and other data: time, fudge, three lengths, ID, error.
const FIXED_OCTETS: usize = 6 + 2 + 2 + 2 + 2 + 2;
/// Octets of other data where the error is BADTIME: our time.
const TIME_OCTETS: usize = 6;

/// Why a signature is not believed (RFC 8945 section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    BadSig = 16,
    BadKey = 17,
    BadTime = 18,
    BadTrunc = 22,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    Sha256,
    Sha384,
    Sha512,
}

impl Algorithm {
    pub const ALL: [Self; 3] = [Self::Sha256, Self::Sha384, Self::Sha512];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "hmac-sha256",
            Self::Sha384 => "hmac-sha384",
            Self::Sha512 => "hmac-sha512",
        }
    }

    /// Its name on the wire.
    fn wire(self) -> Vec<u8> {
        let name = self.as_str();
        [&[name.len() as u8], name.as_bytes(), &[0]].concat()
    }

    fn ring(self) -> hmac::Algorithm {
        match self {
            Self::Sha256 => hmac::HMAC_SHA256,
            Self::Sha384 => hmac::HMAC_SHA384,
            Self::Sha512 => hmac::HMAC_SHA512,
        }
    }

    pub fn octets(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }
}

/// A shared secret and its name.
pub struct Key {
    pub name: Name,
    algorithm: Algorithm,
    secret: hmac::Key,
}

/// A secret is shown to nobody, in no log.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.name)
    }
}

impl Key {
    pub fn new(name: &Name, algorithm: Algorithm, secret: &[u8]) -> Self {
        Self { name: name.to_lowercase(), algorithm, secret: hmac::Key::new(algorithm.ring(), secret) }
    }

    /// Octets of the record that signs a message.
    pub fn record_octets(&self) -> usize {
        record_octets(&self.name, &self.algorithm.wire(), self.algorithm.octets())
    }
}

fn record_octets(name: &Name, algorithm: &[u8], mac: usize) -> usize {
    name.as_wire().len() + 10 + algorithm.len() + FIXED_OCTETS + mac + TIME_OCTETS
}

/// The keys that are known here.
#[derive(Clone, Debug, Default)]
pub struct Keys(pub Vec<Arc<Key>>);

impl Keys {
    pub fn get(&self, name: &Name) -> Option<&Arc<Key>> {
        self.0.iter().find(|key| key.name == *name)
    }
}

/// What a message says of its signature.
pub enum Judged {
    Unsigned,
    /// A signature that is not the last record, or is none (RFC 8945 section 5.2): FORMERR.
    Malformed,
    Signed {
        /// The message without it, as it was signed.
        message: Vec<u8>,
        signer: Signer,
    },
}

/// The record as it was found.
struct Found {
    start: usize,
    name: Name,
    algorithm: Vec<u8>,
    time: u64,
    fudge: u16,
    mac: Vec<u8>,
    original_id: [u8; 2],
    error: [u8; 2],
    other: Vec<u8>,
}

/// Signs the replies to one message, each one with the MAC before it.
pub struct Signer {
    /// None: the client's key is not known here, and nothing can be signed.
    key: Option<Arc<Key>>,
    name: Name,
    algorithm: Vec<u8>,
    before: Vec<u8>,
    /// The client's time, which an unbelieved signature gives back (RFC 8945 section 5.2.3).
    time: u64,
    unfit: Option<Unfit>,
    first: bool,
}

impl Keys {
    /// Takes the signature off `message`, and says what it is worth at `now_s`, in Unix seconds.
    pub fn judge(&self, message: &[u8], now_s: u64) -> Judged {
        let found = match find(message) {
            Ok(None) => return Judged::Unsigned,
            Ok(Some(found)) => found,
            Err(()) => return Judged::Malformed,
        };
        let mut signed = message[..found.start].to_vec();
        signed[..2].copy_from_slice(&found.original_id);
        let additionals = u16::from_be_bytes([signed[10], signed[11]]) - 1;
        signed[10..12].copy_from_slice(&additionals.to_be_bytes());
        let known = self.get(&found.name).filter(|key| key.algorithm.wire() == found.algorithm);
        let unfit = match known {
            None => Some(Unfit::BadKey),
            Some(key) => match found.check(key, &signed, &[], now_s) {
                Ok(unfit) => unfit,
                Err(()) => return Judged::Malformed,
            },
        };
        let signer = Signer {
            key: known.filter(|_| unfit != Some(Unfit::BadSig)).cloned(),
            name: found.name,
            algorithm: found.algorithm,
            before: found.mac,
            time: found.time,
            unfit,
            first: true,
        };
        // The reply carries the ID that the message came with.
        signed[..2].copy_from_slice(&message[..2]);
        Judged::Signed { message: signed, signer }
    }
}

impl Found {
    /// What of a signature is digested with the message (RFC 8945 section 4.3.3).
    fn variables(&self) -> Vec<u8> {
        let mut octets = self.name.to_lowercase().as_wire().to_vec();
        octets.extend(CLASS_ANY.to_be_bytes());
        octets.extend([0; 4]);
        octets.extend(&self.algorithm);
        octets.extend(&self.time.to_be_bytes()[2..]);
        octets.extend(self.fudge.to_be_bytes());
        octets.extend(self.error);
        octets.extend((self.other.len() as u16).to_be_bytes());
        octets.extend(&self.other);
        octets
    }

    /// Key, MAC, time, length, in the order of RFC 8945 section 5.2; an error where the MAC has no length that it may have.
    fn check(&self, key: &Key, signed: &[u8], before: &[u8], now_s: u64) -> Result<Option<Unfit>, ()> {
        let whole = key.algorithm.octets();
        if self.mac.len() > whole || self.mac.len() < (whole / 2).max(10) {
            return Err(()); // RFC 8945 section 5.2.2.1
        }
        let digested = [before, signed, &self.variables()].concat();
        if self.mac.len() < whole {
            let tag = hmac::sign(&key.secret, &digested);
            // A keyed hash of both, so that the time that it takes tells nothing.
            let expected = hmac::sign(&key.secret, &tag.as_ref()[..self.mac.len()]);
            return Ok(Some(match hmac::verify(&key.secret, &self.mac, expected.as_ref()) {
                Ok(()) => Unfit::BadTrunc,
                Err(_) => Unfit::BadSig,
            }));
        }
        if hmac::verify(&key.secret, &digested, &self.mac).is_err() {
            return Ok(Some(Unfit::BadSig));
        }
        let apart = now_s.abs_diff(self.time);
        Ok((apart > self.fudge.min(FUDGE_S).into()).then_some(Unfit::BadTime))
    }
}

impl Signer {
    /// A signer of messages that answer nothing: a question of ours.
    pub fn of_question(key: &Arc<Key>) -> Self {
        Self {
            key: Some(key.clone()),
            name: key.name.clone(),
            algorithm: key.algorithm.wire(),
            before: Vec::new(),
            time: 0,
            unfit: None,
            first: true,
        }
    }

    /// The name of the key, where the signature is believed.
    pub fn believed(&self) -> Option<&Name> {
        self.key.as_ref().filter(|_| self.unfit.is_none()).map(|key| &key.name)
    }

    /// The time and the MAC that the client signed with: no two messages have both in common.
    pub fn signed(&self) -> (u64, &[u8]) {
        (self.time, &self.before)
    }

    /// The signature is sound, and too old all the same.
    pub fn doubt_time(&mut self) {
        self.unfit = Some(Unfit::BadTime);
    }

    /// Octets of what `sign` adds, at most.
    pub fn octets(&self) -> usize {
        let mac = self.key.as_ref().map_or(0, |key| key.algorithm.octets());
        record_octets(&self.name, &self.algorithm, mac)
    }

    /// Signs the next reply.
    pub fn sign(&mut self, mut message: Vec<u8>, now_s: u64) -> Vec<u8> {
        // With a key or a MAC that is not believed nothing is signed; of a wrong time the client is told ours.
        let (time, other) = match self.unfit {
            Some(Unfit::BadTime) => (self.time, now_s.to_be_bytes()[2..].to_vec()),
            Some(Unfit::BadKey | Unfit::BadSig) => (self.time, Vec::new()),
            Some(Unfit::BadTrunc) | None => (now_s, Vec::new()),
        };
        let mut record = Found {
            start: message.len(),
            name: self.name.clone(),
            algorithm: self.algorithm.clone(),
            time,
            fudge: FUDGE_S,
            mac: Vec::new(),
            original_id: [message[0], message[1]],
            error: self.unfit.map_or(0, |unfit| unfit as u16).to_be_bytes(),
            other,
        };
        if let Some(key) = &self.key {
            let mut context = hmac::Context::with_key(&key.secret);
            if !self.before.is_empty() {
                context.update(&(self.before.len() as u16).to_be_bytes());
                context.update(&self.before);
            }
            context.update(&message);
            // Of all replies but the first only the time is digested (RFC 8945 section 5.3.1).
            match self.first {
                true => context.update(&record.variables()),
                false => {
                    context.update(&time.to_be_bytes()[2..]);
                    context.update(&FUDGE_S.to_be_bytes());
                }
            }
            record.mac = context.sign().as_ref().to_vec();
            self.before.clone_from(&record.mac);
        }
        self.first = false;
        record.append(&mut message);
        message
    }

    /// True where `message` answers what was signed last, and is signed with its key.
    pub fn verifies(&self, message: &[u8], now_s: u64) -> bool {
        let (Ok(Some(found)), Some(key)) = (find(message), &self.key) else { return false };
        if found.name != self.name || found.algorithm != self.algorithm {
            return false;
        }
        let mut signed = message[..found.start].to_vec();
        signed[..2].copy_from_slice(&found.original_id);
        let additionals = u16::from_be_bytes([signed[10], signed[11]]) - 1;
        signed[10..12].copy_from_slice(&additionals.to_be_bytes());
        let before = [&(self.before.len() as u16).to_be_bytes()[..], &self.before].concat();
        found.check(key, &signed, &before, now_s) == Ok(None)
    }
}

impl Found {
    fn append(&self, message: &mut Vec<u8>) {
        message.extend(self.name.as_wire());
        message.extend(TSIG.to_be_bytes());
        message.extend(CLASS_ANY.to_be_bytes());
        message.extend([0; 4]);
        let octets = self.algorithm.len() + FIXED_OCTETS + self.mac.len() + self.other.len();
        message.extend((octets as u16).to_be_bytes());
        message.extend(&self.algorithm);
        message.extend(&self.time.to_be_bytes()[2..]);
        message.extend(self.fudge.to_be_bytes());
        message.extend((self.mac.len() as u16).to_be_bytes());
        message.extend(&self.mac);
        message.extend(self.original_id);
        message.extend(self.error);
        message.extend((self.other.len() as u16).to_be_bytes());
        message.extend(&self.other);
        let additionals = u16::from_be_bytes([message[10], message[11]]).saturating_add(1);
        message[10..12].copy_from_slice(&additionals.to_be_bytes());
    }
}

/// The signature of a message, where its last record is one; an error where one stands elsewhere, or is broken.
fn find(message: &[u8]) -> Result<Option<Found>, ()> {
    let Some(header) = message.first_chunk::<HEADER_OCTETS>() else { return Ok(None) };
    let count = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    if count(10) == 0 {
        return Ok(None);
    }
    let mut at = HEADER_OCTETS;
    for _ in 0..count(4) {
        let Some(end) = skip_name(message, at) else { return Ok(None) };
        at = end + 4;
    }
    let records = u32::from(count(6)) + u32::from(count(8)) + u32::from(count(10));
    // A record is 11 octets at least, so this ends with the message.
    for number in 1..=records {
        let start = at;
        // What is broken otherwise is for the decoder to say.
        let Some(end) = skip_name(message, at) else { return Ok(None) };
        let Some(fixed) = message.get(end..end + 10) else { return Ok(None) };
        let data = end + 10;
        at = data + usize::from(u16::from_be_bytes([fixed[8], fixed[9]]));
        if u16::from_be_bytes([fixed[0], fixed[1]]) != TSIG {
            continue;
        }
        let last = number == records && at == message.len();
        let class = u16::from_be_bytes([fixed[2], fixed[3]]);
        if !last || class != CLASS_ANY || fixed[4..8] != [0; 4] {
            return Err(());
        }
        return read(message, start, data).map(Some).ok_or(());
    }
    Ok(None)
}

fn read(message: &[u8], start: usize, data: usize) -> Option<Found> {
    // Some compress it (RFC 1035 section 4.1.4); what is digested is the name written out.
    let name = Reader::new(message, start).name()?;
    let algorithm = Name::from_wire(message.get(data..)?).ok()?;
    let mut rest = message.get(data + algorithm.as_wire().len()..)?;
    let mut take = |octets: usize| {
        let (taken, left) = rest.split_at_checked(octets)?;
        rest = left;
        Some(taken)
    };
    let number = |octets: &[u8]| octets.iter().fold(0u64, |sum, octet| sum << 8 | u64::from(*octet));
    let time = number(take(6)?);
    let fudge = number(take(2)?) as u16;
    let mac_octets = number(take(2)?) as usize;
    let mac = take(mac_octets)?.to_vec();
    let original_id = take(2)?.try_into().ok()?;
    let error = take(2)?.try_into().ok()?;
    let other_octets = number(take(2)?) as usize;
    let other = take(other_octets)?.to_vec();
    let algorithm = algorithm.to_lowercase().as_wire().to_vec();
    rest.is_empty().then_some(Found { start, name, algorithm, time, fudge, mac, original_id, error, other })
}
