//! Signatures on the way out: behind each RRset of an answer that is of a signed zone.
//!
//! A signature is made when it is asked for first, and kept where it belongs: beside the view of the service whose records it is
//! over, or among those of nobody. So what is asked for often costs a digest and a look-up, and what nobody asks for
//! nothing. A name that somebody invents needs a denial of its own, and that a signature: over UDP, where nobody knows who asks, there
//! are only so many new ones in a second ([`SIGNATURES_PER_SECOND_MAX`]), and who comes then is sent to TCP (TC), as under a rate limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ring::rand::SystemRandom;

use super::encode::rrsets;
use crate::answer::{Answer, Ede, FIXED_OCTETS, Over, Rcode, Signed, keys_over, service_of};
use crate::counters::Signing;
use crate::name::Name;
use crate::record::{Record, Type};
use crate::sign::{
    Key, NoRandom, RRSIG_FIXED_OCTETS, SIGNATURE_OCTETS, SetFields, Signatures, Signed as Signature,
    canonical,
};
use crate::time::Now;
use crate::view::View;

/// New signatures in a second for replies over UDP: about a fifth of one core.
pub const SIGNATURES_PER_SECOND_MAX: u64 = 5000;
/// How much of that is there for those who come at once.
const BURST_NS: u64 = 1_000_000_000;
const EACH_NS: u64 = 1_000_000_000 / SIGNATURES_PER_SECOND_MAX;
/// Additional RRsets that are signed for one reply. They are optional, and each may have to be signed anew: a millisecond in all.
const ADDITIONAL_MAX: usize = 32;

/// Octets of an additional record at least, and of its signature: the owner a pointer, the signer's name the root.
const ADDRESS_OCTETS: usize = 2 + FIXED_OCTETS + 4;
const SIGNATURE_OCTETS_MIN: usize = 2 + FIXED_OCTETS + RRSIG_FIXED_OCTETS + 1 + SIGNATURE_OCTETS;

/// Who signs, and how much of it was done.
#[derive(Debug)]
pub struct Signer {
    random: SystemRandom,
    /// When the signatures made so far are paid for, in nanoseconds of the monotonic clock.
    paid_ns: AtomicU64,
    pub counters: Arc<Signing>,
}

impl Default for Signer {
    fn default() -> Self {
        Self { random: SystemRandom::new(), paid_ns: AtomicU64::new(0), counters: Arc::default() }
    }
}

/// Why there is no signature.
enum Unsigned {
    /// Too many were made in this second.
    PutOff,
    NoRandom,
}

impl Signer {
    /// `answer` with the signatures that belong to it; `room` is what there is for records.
    pub fn sign(&self, view: &View, answer: Answer, over: Over, room: usize, now: Now) -> Answer {
        if answer.signed == Signed::No {
            return answer;
        }
        // Part of a set is worth nothing to who wants to see that it is signed.
        let sent_to_tcp = |answer: Answer| Answer {
            authoritative: answer.authoritative,
            truncated: true,
            ede: answer.ede,
            signed: answer.signed,
            of_any_name: answer.of_any_name,
            compact: answer.compact,
            ..Answer::default()
        };
        if answer.truncated {
            return sent_to_tcp(answer);
        }
        let reply = Reply { signer: self, view, over, now };
        match reply.sections(&answer, room) {
            Ok(sections) if let Signed::Only(aliases) = answer.signed => {
                let aliases = &answer.answer[..usize::from(aliases)];
                let mut records = sections.concat();
                records.retain(|record| record.data.rtype() == Type::RRSIG || aliases.contains(record));
                Answer { answer: records, authority: Vec::new(), additional: Vec::new(), ..answer }
            }
            Ok([records, authority, additional]) => {
                Answer { answer: records, authority, additional, ..answer }
            }
            Err(Unsigned::PutOff) => {
                self.counters.put_off.add();
                sent_to_tcp(answer)
            }
            Err(Unsigned::NoRandom) => {
                let ede = Ede::new(Ede::OTHER, "no random number for a signature");
                Answer::bare(Rcode::ServFail, Some(ede))
            }
        }
    }

    /// Takes one signature from what a second has; false where there is none left.
    fn pay(&self, now: Now) -> bool {
        let paid = self.paid_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |paid_ns| {
            let paid_ns = paid_ns.max(now.mono_ns);
            (paid_ns - now.mono_ns < BURST_NS).then_some(paid_ns + EACH_NS)
        });
        paid.is_ok()
    }
}

/// One reply that is signed.
struct Reply<'a> {
    signer: &'a Signer,
    view: &'a View,
    over: Over,
    now: Now,
}

impl Reply<'_> {
    fn sections(&self, answer: &Answer, room: usize) -> Result<[Vec<Record>; 3], Unsigned> {
        let soa = answer.authority.iter().find(|record| record.data.rtype() == Type::SOA);
        let soa = soa.map(|soa| &soa.owner);
        let mut sections = [Vec::new(), Vec::new(), Vec::new()];
        for (section, records) in sections.iter_mut().zip([&answer.answer, &answer.authority]) {
            for set in rrsets(records) {
                section.extend_from_slice(set);
                section.extend(self.signatures(set, soa)?);
            }
        }
        // What cannot fit is not signed; the encoder has the last word.
        let mut left = room;
        for set in rrsets(&answer.additional).take(ADDITIONAL_MAX) {
            let Some(rest) = left.checked_sub(set.len() * ADDRESS_OCTETS) else { break };
            left = rest;
            match self.signatures(set, None) {
                Ok(signatures) => {
                    left = left.saturating_sub(signatures.len() * SIGNATURE_OCTETS_MIN);
                    sections[2].extend_from_slice(set);
                    sections[2].extend(signatures);
                }
                Err(Unsigned::PutOff) => break,
                Err(Unsigned::NoRandom) => return Err(Unsigned::NoRandom),
            }
        }
        Ok(sections)
    }

    /// The signatures over an RRset; none where it is of no signed zone. The SOA beside a denial says of which zone that is.
    fn signatures(&self, set: &[Record], soa: Option<&Name>) -> Result<Vec<Record>, Unsigned> {
        let Some(Record { owner, ttl, data }) = set.first() else { return Ok(Vec::new()) };
        let fields = SetFields { owner, rtype: data.rtype(), ttl: *ttl };
        let Some(keys) = keys_over(self.view, owner, fields.rtype, soa) else { return Ok(Vec::new()) };
        let octets = canonical::rrset(owner, fields.rtype, *ttl, set.iter().map(|record| &record.data));
        let service = service_of(self.view, owner, fields.rtype);
        let signed = keys.signers(fields.rtype).iter().map(|key| {
            let signed = self
                .view
                .with_signatures(service.as_deref(), |kept| self.signature(kept, key, &fields, &octets));
            Ok(key.record(&fields, &signed?))
        });
        signed.collect()
    }

    /// One that is kept, or a new one.
    fn signature(
        &self,
        kept: &Signatures,
        key: &Key,
        fields: &SetFields<'_>,
        octets: &[u8],
    ) -> Result<Signature, Unsigned> {
        let digest = key.digest_of(octets);
        if let Some(signed) = kept.find(&digest, self.now.wall) {
            return Ok(signed);
        }
        if self.over.is_datagram() && !self.signer.pay(self.now) {
            return Err(Unsigned::PutOff);
        }
        let signed = key.sign(fields, octets, self.now.wall, &self.signer.random);
        let signed = signed.map_err(|NoRandom| Unsigned::NoRandom)?;
        self.signer.counters.made.add();
        kept.keep(digest, signed);
        Ok(signed)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_second_holds_so_many_signatures() {
        let signer = Signer::default();
        let mut now = Now::default().after(Duration::from_secs(7));
        let paid = |now| (0..2 * SIGNATURES_PER_SECOND_MAX).filter(|_| signer.pay(now)).count() as u64;
        assert_eq!(paid(now), SIGNATURES_PER_SECOND_MAX, "at once");
        assert_eq!(paid(now), 0);
        now = now.after(Duration::from_millis(100));
        assert_eq!(paid(now), SIGNATURES_PER_SECOND_MAX / 10);
        now = now.after(Duration::from_secs(3600));
        assert_eq!(paid(now), SIGNATURES_PER_SECOND_MAX, "nobody saves up");
    }
}
