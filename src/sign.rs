//! DNSSEC: the keys of a zone, what they sign, and what is published for the zone above.
//!
//! A zone has one kind of key, which signs everything (flags 257, ECDSA P-256 with SHA-256, RFC 6605), so there is one thing to
//! make, to keep and to change. Each key carries the times of its life, which its file says; what a zone's keys are at a
//! moment follows from those and the clock, and so is the same on every node that has the same files.
//!
//! An RRset is signed when somebody asks for it, not before: who asks without DO costs nothing. The signature is kept beside
//! the view that the records are of ([`Signatures`]), goes over to the view after it, and is made anew at two thirds of its life.
//!
//! Time is an argument, and randomness too: what signs is given its source. Not here: files (`key_file` reads and writes
//! their texts), and what of an answer is signed (`dns::sign`).

pub mod canonical;
pub mod denial;
pub mod key_file;
mod signatures;

use std::fmt;
use std::sync::Arc;

use ring::digest::{Context, SHA256, digest};
use ring::rand::SecureRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};

pub use self::signatures::{Digest, Signatures};
use crate::name::Name;
use crate::record::{Data, Record, RrSet, Type};
use crate::time::Wall;

/// ECDSA Curve P-256 with SHA-256 (RFC 6605 section 4), which every validator knows (RFC 8624 section 3.1).
const ALGORITHM: u8 = 13;
/// SHA-256, for the zone above (RFC 4509).
const DIGEST_TYPE: u8 = 2;
/// Zone key and secure entry point (RFC 4034 section 2.1.1).
const FLAGS: u16 = 257;
const PROTOCOL: u8 = 3;
pub const SECRET_OCTETS: usize = 32;
pub const PUBLIC_OCTETS: usize = 64;
pub const SIGNATURE_OCTETS: usize = 64;
/// Fields of an RRSIG in front of the signer's name (RFC 4034 section 3.1).
pub const RRSIG_FIXED_OCTETS: usize = 18;

/// TTL of DNSKEY, CDS and CDNSKEY in seconds: what a change of keys waits for.
pub const KEYS_TTL: u32 = 300;
/// How long a new key is there before the zone above may name it, in seconds: nobody has the keys from before it, though a
/// node looked at its files late and a clock is wrong by half a minute.
pub const COMING_S: u64 = KEYS_TTL as u64 + 60;
/// How long a key stays that signs no more, in seconds: longer than caches keep its signatures, and what the zone above says of it.
pub const LEAVING_S: u64 = 86_400;
/// Keys of one zone at once: one, or two while they change, and what a change left behind.
pub const KEYS_MAX: usize = 4;
/// How long a signature is valid, in seconds. An answer that somebody kept can be shown again for so long, so it is no month;
/// and who has it from a cache that is cut off still believes it over a weekend.
pub const LIFE_S: i64 = 3 * 86_400;
/// At two thirds of its life a signature is made anew: nobody is given one that ends within a day.
const RENEW_S: i64 = LIFE_S / 3 * 2;
/// How far the clock of a validator may be behind ours, in seconds.
const SKEW_S: i64 = 3600;

/// When a key is what, in seconds since 1970; none: not yet said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    pub created: u64,
    /// From here on it is in the zone.
    pub publish: u64,
    /// From here on it signs.
    pub activate: Option<u64>,
    /// From here on it signs no more.
    pub inactive: Option<u64>,
    /// From here on it is gone.
    pub delete: Option<u64>,
}

/// What a key is for at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// In the zone, or before it; caches may not have it yet.
    Coming,
    /// The zone above may name it in place of the one that signs.
    Ready,
    Signing,
    /// Signs no more, and is there for what it signed.
    Leaving,
    Gone,
}

impl Stage {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Coming => "coming",
            Self::Ready => "ready",
            Self::Signing => "signing",
            Self::Leaving => "leaving",
            Self::Gone => "gone",
        }
    }
}

impl Times {
    pub fn stage(&self, now_s: u64) -> Stage {
        let is_past = |time: Option<u64>| time.is_some_and(|time| time <= now_s);
        if is_past(self.delete) {
            Stage::Gone
        } else if is_past(self.inactive) {
            Stage::Leaving
        } else if is_past(self.activate) {
            Stage::Signing
        } else if self.ready_from() <= now_s {
            Stage::Ready
        } else {
            Stage::Coming
        }
    }

    /// When the zone above may name it.
    pub fn ready_from(&self) -> u64 {
        self.publish + COMING_S
    }
}

/// A key, its secret half included.
pub struct Key {
    /// The zone's apex, in lower case.
    pub apex: Name,
    pub times: Times,
    /// What names it in signatures and in the zone above, not always alone (RFC 4034 appendix B).
    pub tag: u16,
    /// The data of its DNSKEY.
    dnskey: Arc<[u8]>,
    /// The first octets of a digest of those: which key it is.
    identity: [u8; 8],
    pair: EcdsaKeyPair,
}

// The secret half stays out of it.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("apex", &self.apex).field("tag", &self.tag).finish_non_exhaustive()
    }
}

/// The two halves do not belong together, or are no key of the curve.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no key of P-256, or not that of the public half")]
pub struct NoKey;

/// No random number could be had.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("no random number could be had")]
pub struct NoRandom;

/// The two halves of a new key.
///
/// # Errors
///
/// No random number could be had.
pub fn draw(random: &dyn SecureRandom) -> Result<([u8; SECRET_OCTETS], [u8; PUBLIC_OCTETS]), NoRandom> {
    let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
    let document = EcdsaKeyPair::generate_pkcs8(algorithm, random).map_err(|_| NoRandom)?;
    let document = document.as_ref();
    // What ring writes has both at fixed places (RFC 5958, RFC 5915): the secret behind `04 20`, the public half at the end,
    // behind `04`. `Key::new` sees whether they are.
    let secret = document.windows(2).position(|pair| pair == [4, SECRET_OCTETS as u8]).map(|at| at + 2);
    let secret = secret.and_then(|at| document.get(at..)?.first_chunk()).ok_or(NoRandom)?;
    let public = document.last_chunk().ok_or(NoRandom)?;
    Ok((*secret, *public))
}

impl Key {
    /// # Errors
    ///
    /// The halves are no pair.
    pub fn new(
        apex: &Name,
        times: Times,
        secret: &[u8; SECRET_OCTETS],
        public: &[u8; PUBLIC_OCTETS],
        random: &dyn SecureRandom,
    ) -> Result<Self, NoKey> {
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let point = [&[4], &public[..]].concat(); // uncompressed
        let pair = EcdsaKeyPair::from_private_key_and_public_key(algorithm, secret, &point, random)
            .map_err(|_| NoKey)?;
        debug_assert_eq!(pair.public_key().as_ref(), point);
        let dnskey = [&FLAGS.to_be_bytes()[..], &[PROTOCOL, ALGORITHM], public].concat();
        let hash = digest(&SHA256, &dnskey);
        let identity = *hash.as_ref().first_chunk().expect("a digest has 32 octets");
        Ok(Self {
            apex: apex.to_lowercase(),
            times,
            tag: tag(&dnskey),
            dnskey: dnskey.into(),
            identity,
            pair,
        })
    }

    /// DNSKEY's data, which are CDNSKEY's as well (RFC 7344 section 3.2).
    fn as_dnskey(&self, rtype: Type) -> Data {
        Data::Other { rtype, octets: self.dnskey.clone() }
    }

    /// DS's data, which are CDS's as well (RFC 4034 section 5.1).
    fn as_ds(&self, rtype: Type) -> Data {
        let hash = digest(&SHA256, &[self.apex.as_wire(), &self.dnskey].concat());
        let octets = [&self.tag.to_be_bytes()[..], &[ALGORITHM, DIGEST_TYPE], hash.as_ref()].concat();
        Data::Other { rtype, octets: octets.into() }
    }

    /// `12345 13 2 0A1B…`, as the zone above and resolvers take it.
    pub fn ds_text(&self) -> String {
        let hash = digest(&SHA256, &[self.apex.as_wire(), &self.dnskey].concat());
        let digits: String = hash.as_ref().iter().map(|octet| format!("{octet:02X}")).collect();
        format!("{} {ALGORITHM} {DIGEST_TYPE} {digits}", self.tag)
    }

    /// `257 3 13 base64`.
    pub fn dnskey_text(&self) -> String {
        let public = data_encoding::BASE64.encode(&self.dnskey[4..]);
        format!("{FLAGS} {PROTOCOL} {ALGORITHM} {public}")
    }

    /// Which signature over `octets`, an RRset in canonical form, this key's is.
    pub fn digest_of(&self, octets: &[u8]) -> Digest {
        let mut context = Context::new(&SHA256);
        context.update(&self.identity);
        context.update(octets);
        context.finish().as_ref().try_into().expect("a digest has 32 octets")
    }

    /// Signs the RRset whose canonical form is `octets`.
    ///
    /// # Errors
    ///
    /// No random number could be had.
    pub fn sign(
        &self,
        set: &SetFields<'_>,
        octets: &[u8],
        now: Wall,
        random: &dyn SecureRandom,
    ) -> Result<Signed, NoRandom> {
        let at_s = now.unix_ms.div_euclid(1000);
        let text = [&self.rrsig(set, at_s), octets].concat();
        let signature = self.pair.sign(random, &text).map_err(|_| NoRandom)?;
        let signature = signature.as_ref().try_into().map_err(|_| NoRandom)?;
        Ok(Signed { at_s, signature })
    }

    /// RRSIG's data as they are signed: without the signature itself (RFC 4034 section 3.1).
    fn rrsig(&self, set: &SetFields<'_>, at_s: i64) -> Vec<u8> {
        // What is there in place of a wildcard is signed as if it stood in the zone, so its labels are all counted.
        let labels = set.owner.labels().enumerate().filter(|(at, label)| *at > 0 || *label != b"*").count();
        let mut out = set.rtype.0.to_be_bytes().to_vec();
        out.extend([ALGORITHM, labels as u8]);
        let serial = |time_s: i64| time_s as u32; // in serial number arithmetic (RFC 4034 section 3.1.5)
        for number in [set.ttl, serial(at_s + LIFE_S), serial(at_s - SKEW_S)] {
            out.extend(number.to_be_bytes());
        }
        out.extend(self.tag.to_be_bytes());
        out.extend_from_slice(self.apex.as_wire()); // never compressed (RFC 4034 section 3.1.7)
        out
    }

    /// The record of a signature.
    pub fn record(&self, set: &SetFields<'_>, signed: &Signed) -> Record {
        let octets = [&self.rrsig(set, signed.at_s)[..], &signed.signature].concat();
        let data = Data::Other { rtype: Type::RRSIG, octets: octets.into() };
        Record { owner: set.owner.clone(), ttl: set.ttl, data }
    }
}

/// The sum of RFC 4034 appendix B.
fn tag(dnskey: &[u8]) -> u16 {
    let sum =
        dnskey.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)));
    let sum: u32 = sum.sum();
    (sum + (sum >> 16)) as u16
}

/// What of an RRset is in a signature's own fields.
#[derive(Clone, Copy, Debug)]
pub struct SetFields<'a> {
    pub owner: &'a Name,
    pub rtype: Type,
    pub ttl: u32,
}

/// A signature, and when it was made, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signed {
    pub at_s: i64,
    pub signature: [u8; SIGNATURE_OCTETS],
}

impl Signed {
    /// True until two thirds of its life are over. One from the future is of a clock that was put back since, and not valid
    /// for long enough on it.
    pub fn serves(&self, now: Wall) -> bool {
        let age_s = now.unix_ms.div_euclid(1000) - self.at_s;
        (-SKEW_S / 2..RENEW_S).contains(&age_s)
    }
}

/// The keys of a zone at a moment.
#[derive(Debug)]
pub struct ZoneKeys {
    /// In lower case.
    pub apex: Name,
    /// What signs everything.
    signing: Arc<Key>,
    /// All that are in the zone, and sign what is said of keys, so that whoever believes one believes all.
    all: Vec<Arc<Key>>,
    /// DNSKEY, and from the time on when the zone above may have it CDS and CDNSKEY (RFC 7344).
    sets: Vec<RrSet>,
}

impl ZoneKeys {
    /// `None` where none of `keys`, all of one zone, signs.
    pub fn at(keys: &[Arc<Key>], now_s: u64) -> Option<Self> {
        let mut all: Vec<Arc<Key>> = keys
            .iter()
            .filter(|key| key.times.publish <= now_s && key.times.stage(now_s) != Stage::Gone)
            .cloned()
            .collect();
        all.sort_by_key(|key| (key.times.publish, key.tag));
        // A key whose end came without another one signs on: a late signature is better than none.
        let activated = all.iter().filter(|key| key.times.activate.is_some_and(|time| time <= now_s));
        let signing = activated.max_by_key(|key| {
            (key.times.stage(now_s) == Stage::Signing, key.times.activate, key.times.publish)
        });
        let signing = signing?.clone();
        let above = all.iter().filter(|key| key.times.ready_from() <= now_s);
        let above = above.filter(|key| matches!(key.times.stage(now_s), Stage::Ready | Stage::Signing));
        let above = above.max_by_key(|key| key.times.publish);
        let set = |rtype, data| RrSet { rtype, ttl: KEYS_TTL, data };
        let mut sets =
            vec![set(Type::DNSKEY, all.iter().map(|key| key.as_dnskey(Type::DNSKEY)).collect::<Vec<_>>())];
        if let Some(key) = above {
            sets.push(set(Type::CDS, vec![key.as_ds(Type::CDS)]));
            sets.push(set(Type::CDNSKEY, vec![key.as_dnskey(Type::CDNSKEY)]));
        }
        Some(Self { apex: signing.apex.clone(), signing, all, sets })
    }

    /// The keys, the one that signs first.
    pub fn keys(&self) -> impl Iterator<Item = &Arc<Key>> {
        let others = self.all.iter().filter(|key| !Arc::ptr_eq(key, &self.signing));
        std::iter::once(&self.signing).chain(others)
    }

    /// The tags of the keys, that of the one that signs first.
    pub fn tags(&self) -> Vec<u16> {
        self.keys().map(|key| key.tag).collect()
    }

    /// What the apex has because the zone is signed.
    pub fn sets(&self) -> &[RrSet] {
        &self.sets
    }

    /// What says in the zone above which keys this one has.
    pub fn ds(&self) -> Vec<Data> {
        vec![self.signing.as_ds(Type::DS)]
    }

    /// Who signs a type.
    pub fn signers(&self, rtype: Type) -> &[Arc<Key>] {
        match rtype {
            Type::DNSKEY | Type::CDS | Type::CDNSKEY => &self.all,
            _ => std::slice::from_ref(&self.signing),
        }
    }
}

#[cfg(test)]
mod tests;
