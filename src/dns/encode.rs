//! An answer to octets (RFC 1035 section 4): compression, what is cut, and what says so.
//!
//! The place of the OPT record and its options is set aside before anything else. Records of the answer that
//! do not fit are left out whole, and TC says so; additional records go first and silently, RRset by RRset
//! (RFC 2181 section 9); TC stands alone only where the first record is larger than a datagram. Padding is
//! what is left. A stream has no TC to say that anything is missing: what no message holds is SERVFAIL there.

use std::collections::HashMap;

use super::edns::{self, OPTION_OCTETS};
use crate::answer::{Answer, CLASS_IN, Ede, Over, Rcode, Signed};
use crate::name::{Folded, Name};
use crate::record::{Data, Record, Type};

/// Octets of a header (RFC 1035 section 4.1.1).
pub const HEADER_OCTETS: usize = 12;
/// Octets of an OPT record without options (RFC 6891 section 6.1.2).
pub const OPT_OCTETS: usize = 11;
/// The size that we advertise: what we are ready to receive, whatever we send.
pub(super) const UDP_OCTETS_ADVERTISED: u16 = 1232;
/// Offsets that a compression pointer can hold (RFC 1035 section 4.1.4).
const POINTER_MAX: usize = 0x3fff;

pub(super) const QR: u16 = 0x8000;
pub(super) const AA: u16 = 0x0400;
pub(super) const TC: u16 = 0x0200;
const AD: u16 = 0x0020;
/// OPT's flag "DNSSEC OK" (RFC 3225 section 3).
pub(super) const DO: u32 = 0x8000;
/// And "Compact Answers OK" (RFC 9824 section 5).
const CO: u32 = 0x4000;
/// Octets of an Extended DNS Error besides its text: the option's own, and the code (RFC 8914 section 2).
pub(super) const EDE_OCTETS: usize = OPTION_OCTETS + 2;

/// What of the query goes into the reply.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    pub id: u16,
    /// Opcode, RD and CD as they are echoed, in their places; nothing else.
    pub flags: u16,
    /// The question's octets, echoed as they came; empty where none could be read.
    pub question: &'a [u8],
    /// The reply carries an OPT record.
    pub edns: bool,
    pub dnssec_ok: bool,
    /// The options of the OPT record, in wire form, without Extended DNS Error and padding.
    pub options: &'a [u8],
    /// The reply is filled up to a size that tells nothing (RFC 8467).
    pub padded: bool,
    /// Octets of the whole reply at most.
    pub limit: usize,
    pub over: Over,
}

impl Frame<'_> {
    /// Octets left for records.
    pub fn room(&self) -> usize {
        self.limit.saturating_sub(HEADER_OCTETS + self.question.len() + self.opt_octets())
    }

    /// The question's name, in wire form; empty where none could be read.
    pub fn qname(&self) -> &[u8] {
        self.question.split_last_chunk::<4>().map_or(&[], |(name, _)| name)
    }

    /// The reply where an answer is larger than a message: another server's names may have been compressed where ours
    /// may not be (RFC 2782), and a zone may hold an RRset of any size.
    fn unsayable(&self) -> Vec<u8> {
        let ede = Ede::new(Ede::OTHER, "the answer is larger than a DNS message");
        Frame { flags: self.flags & !AD, ..*self }.encode(&Answer::bare(Rcode::ServFail, Some(ede)))
    }

    fn opt_octets(&self) -> usize {
        if self.edns { OPT_OCTETS + self.options.len() } else { 0 }
    }

    /// The class of the question, and so of every record.
    fn class(&self) -> u16 {
        self.question.last_chunk().map_or(CLASS_IN, |class| u16::from_be_bytes(*class))
    }

    /// The reply as it goes out.
    pub fn encode(&self, answer: &Answer) -> Vec<u8> {
        self.write(answer, Writer::new(self)).0
    }

    /// The same, with the place of each compression pointer in it.
    pub(super) fn encode_with_pointers(&self, answer: &Answer) -> (Vec<u8>, Vec<usize>) {
        let (reply, pointers) =
            self.write(answer, Writer { pointers: Some(Vec::new()), ..Writer::new(self) });
        (reply, pointers.unwrap_or_default())
    }

    fn write<'a>(&self, answer: &'a Answer, mut writer: Writer<'a>) -> (Vec<u8>, Option<Vec<usize>>) {
        let ede = answer.ede.as_ref().filter(|_| self.edns);
        let ede_octets = ede.map_or(0, |ede| EDE_OCTETS + ede.text.len());

        let fitted = writer.push_section(&answer.answer, answer.signed);
        let mut cut = answer.truncated || fitted < answer.answer.len();
        let authority = writer.push_section(&answer.authority, answer.signed);
        cut |= authority < answer.authority.len();
        if cut && !self.over.is_datagram() {
            return (self.unsayable(), None);
        }

        // Words are worth more than optional addresses, less than any other record.
        let ede = ede.filter(|_| writer.out.len() + ede_octets <= writer.limit);
        if ede.is_some() {
            writer.limit -= ede_octets;
        }
        let mut additional = 0;
        let referral =
            answer.answer.is_empty() && answer.authority.iter().any(|record| record.data.rtype() == Type::NS);
        for set in rrsets(&answer.additional) {
            if writer.push_all(set) {
                additional += set.len();
            } else if referral && set.iter().any(|glue| is_needed(glue, &answer.authority)) {
                cut = true; // without its glue a referral leads nowhere (RFC 9471 section 3.1)
            }
        }
        let pointers = writer.pointers.take();
        (writer.finish(self, answer, [fitted, authority, additional], cut, ede), pointers)
    }
}

/// True of the address of a name server that is within the zone it serves: nobody else can tell it (RFC 9471 section 2.1).
fn is_needed(glue: &Record, servers: &[Record]) -> bool {
    servers.iter().any(|server| server.data.rtype() == Type::NS && glue.owner.is_within(&server.owner))
}

/// A frame that lasts until its answer is there.
#[derive(Clone, Debug)]
pub struct Envelope {
    id: u16,
    flags: u16,
    question: Vec<u8>,
    edns: bool,
    dnssec_ok: bool,
    pub options: Vec<u8>,
    pub limit: usize,
    pub over: Over,
}

impl Envelope {
    pub fn of(frame: &Frame<'_>) -> Self {
        let (question, options) = (frame.question.to_vec(), frame.options.to_vec());
        let Frame { id, flags, edns, dnssec_ok, limit, over, .. } = *frame;
        Self { id, flags, question, edns, dnssec_ok, options, limit, over }
    }

    /// The reply as it goes out, without padding.
    pub fn encode(&self, answer: &Answer) -> Vec<u8> {
        let frame = Frame {
            id: self.id,
            flags: self.flags,
            question: &self.question,
            edns: self.edns,
            dnssec_ok: self.dnssec_ok,
            options: &self.options,
            padded: false,
            limit: self.limit,
            over: self.over,
        };
        frame.encode(answer)
    }
}

/// The runs of records with one owner and type, each with the signatures behind it.
pub(super) fn rrsets(records: &[Record]) -> impl Iterator<Item = &[Record]> {
    records.chunk_by(|a, b| {
        let (before, here) = (a.data.rtype(), b.data.rtype());
        (before == here || here == Type::RRSIG) && a.owner == b.owner
    })
}

struct Writer<'a> {
    out: Vec<u8>,
    /// Octets that records may reach up to; the OPT record comes behind.
    limit: usize,
    class: u16,
    /// Where each name, and each name above it, stands.
    names: HashMap<Folded<'a>, u16>,
    /// Where pointers stand, for who wants to know; of records that were taken back too.
    pointers: Option<Vec<usize>>,
}

impl<'a> Writer<'a> {
    fn new(frame: &Frame<'a>) -> Self {
        let mut out = Vec::with_capacity(frame.limit.min(1500));
        out.resize(HEADER_OCTETS, 0);
        let limit = frame.limit.saturating_sub(frame.opt_octets());
        let mut writer = Self { out, limit, class: frame.class(), names: HashMap::new(), pointers: None };
        // The question is copied as it is, and its name is what later names point at.
        let mut at = 0;
        while let Some(&length) = frame.question.get(at)
            && length != 0
        {
            writer.names.insert(Folded(name_at(frame.question, at)), (HEADER_OCTETS + at) as u16);
            at += 1 + usize::from(length);
        }
        writer.out.extend_from_slice(frame.question);
        writer
    }

    /// Adds what fits of a section, and returns how many records that is: what is signed goes out whole, with its signature
    /// (RFC 4035 section 3.1.1).
    fn push_section(&mut self, records: &'a [Record], signed: Signed) -> usize {
        match signed {
            Signed::No => records.iter().take_while(|record| self.push(record)).count(),
            Signed::Yes | Signed::Only(_) => {
                rrsets(records).take_while(|set| self.push_all(set)).map(<[Record]>::len).sum()
            }
        }
    }

    /// Adds one record; false, and nothing added, where it does not fit.
    fn push(&mut self, record: &'a Record) -> bool {
        self.push_all(std::slice::from_ref(record))
    }

    /// Adds all of `records` or none.
    fn push_all(&mut self, records: &'a [Record]) -> bool {
        let start = self.out.len();
        let mut added = Vec::new();
        for record in records {
            self.record(record, &mut added);
            if self.out.len() > self.limit {
                self.out.truncate(start);
                for name in added {
                    self.names.remove(&name);
                }
                return false;
            }
        }
        true
    }

    fn record(&mut self, record: &'a Record, added: &mut Vec<Folded<'a>>) {
        self.name(&record.owner, true, added);
        self.u16(record.data.rtype().0);
        self.u16(self.class);
        self.out.extend_from_slice(&record.ttl.to_be_bytes());
        let length_at = self.out.len();
        self.u16(0);
        match &record.data {
            Data::A(address) => self.out.extend_from_slice(&address.octets()),
            Data::Aaaa(address) => self.out.extend_from_slice(&address.octets()),
            Data::Srv { priority, weight, port, target } => {
                self.u16(*priority);
                self.u16(*weight);
                self.u16(*port);
                self.name(target, false, added); // RFC 2782, "Target": no compression
            }
            Data::Cname(name) | Data::Ns(name) | Data::Ptr(name) => self.name(name, true, added),
            Data::Mx { preference, exchange } => {
                self.u16(*preference);
                self.name(exchange, true, added);
            }
            Data::Soa(soa) => {
                self.name(&soa.mname, true, added);
                self.name(&soa.rname, true, added);
                for number in [soa.serial, soa.refresh, soa.retry, soa.expire, soa.minimum] {
                    self.out.extend_from_slice(&number.to_be_bytes());
                }
            }
            Data::Svcb { priority, target, params, .. } => {
                self.u16(*priority);
                self.name(target, false, added); // RFC 9460 section 2.2: no compression
                self.out.extend_from_slice(params);
            }
            Data::Dname(name) => self.name(name, false, added), // RFC 6672 section 2.5: no compression
            Data::Other { octets, .. } => self.out.extend_from_slice(octets),
        }
        self.measure(length_at);
    }

    /// Writes the length of the data that end here into the two octets in front of them.
    fn measure(&mut self, length_at: usize) {
        let length = (self.out.len() - length_at - 2) as u16;
        self.out[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
    }

    fn name(&mut self, name: &'a Name, compress: bool, added: &mut Vec<Folded<'a>>) {
        for suffix in name.suffixes() {
            if suffix.len() == 1 {
                break;
            }
            if compress && let Some(&offset) = self.names.get(&Folded(suffix)) {
                if let Some(pointers) = &mut self.pointers {
                    pointers.push(self.out.len());
                }
                return self.u16(0xc000 | offset);
            }
            let offset = self.out.len();
            if offset <= POINTER_MAX && !self.names.contains_key(&Folded(suffix)) {
                self.names.insert(Folded(suffix), offset as u16);
                added.push(Folded(suffix));
            }
            self.out.extend_from_slice(&suffix[..=usize::from(suffix[0])]);
        }
        self.out.push(0);
    }

    fn u16(&mut self, number: u16) {
        self.out.extend_from_slice(&number.to_be_bytes());
    }

    fn finish(
        mut self,
        frame: &Frame<'_>,
        answer: &Answer,
        counts: [usize; 3],
        cut: bool,
        ede: Option<&Ede>,
    ) -> Vec<u8> {
        let rcode = answer.rcode as u16;
        if frame.edns {
            self.out.push(0);
            self.u16(Type::OPT.0);
            self.u16(UDP_OCTETS_ADVERTISED);
            let flags = if frame.dnssec_ok { DO } else { 0 } | if answer.compact { CO } else { 0 };
            let ttl = u32::from(rcode >> 4) << 24 | flags; // version 0
            self.out.extend_from_slice(&ttl.to_be_bytes());
            let length_at = self.out.len();
            self.u16(0);
            self.out.extend_from_slice(frame.options);
            if let Some(ede) = ede {
                edns::push(
                    &mut self.out,
                    edns::EXTENDED_ERROR,
                    &[&ede.code.to_be_bytes(), ede.text.as_bytes()].concat(),
                );
            }
            if frame.padded {
                edns::pad(&mut self.out, frame.limit);
            }
            self.measure(length_at);
        }
        let mut flags = QR | frame.flags | (rcode & 0xf);
        if answer.authoritative && answer.rcode != Rcode::Refused {
            flags |= AA;
        }
        if cut && frame.over.is_datagram() {
            flags |= TC;
        }
        let questions = u16::from(!frame.question.is_empty());
        let [answers, authorities, additionals] = counts.map(|count| count as u16);
        let numbers = [frame.id, flags, questions, answers, authorities, additionals + u16::from(frame.edns)];
        for (place, number) in self.out.chunks_exact_mut(2).zip(numbers) {
            place.copy_from_slice(&number.to_be_bytes());
        }
        self.out
    }
}

/// The name that starts at `at` within a question's octets, root included.
fn name_at(question: &[u8], at: usize) -> &[u8] {
    let mut end = at;
    while question[end] != 0 {
        end += 1 + usize::from(question[end]);
    }
    &question[at..=end]
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::dns::edns::PADDING;

    const QUESTION: &[u8] = b"\x03web\x07service\x05local\0\0\x01\0\x01";

    fn frame(options: &[u8], limit: usize) -> Frame<'_> {
        Frame {
            id: 7,
            flags: 0,
            question: QUESTION,
            edns: true,
            dnssec_ok: false,
            options,
            padded: true,
            limit,
            over: Over::Tcp,
        }
    }

    fn answer(records: u32) -> Answer {
        let owner = Name::from_wire(QUESTION).unwrap();
        let record = |n| Record { owner: owner.clone(), ttl: 5, data: Data::A(Ipv4Addr::from(n)) };
        Answer { answer: (0..records).map(record).collect(), ..Answer::default() }
    }

    /// Octets of the padding's data, where it is the last option, as its own length says.
    fn padding_at(reply: &[u8], at: usize) -> usize {
        let number = |at: usize| u16::from_be_bytes([reply[at], reply[at + 1]]);
        assert_eq!((number(at), usize::from(number(at + 2))), (PADDING, reply.len() - at - 4));
        assert!(reply[at + 4..].iter().all(|octet| *octet == 0));
        reply.len() - at - 4
    }

    #[test]
    fn replies_are_padded_where_nobody_reads_them() {
        for options in [&[][..], b"\0\x0b\0\x02\0\x64"] {
            for records in 0..200 {
                let bare = Frame { padded: false, ..frame(options, 65_535) }.encode(&answer(records));
                let padded = frame(options, 65_535).encode(&answer(records));
                assert_eq!(padded.len() % 468, 0, "{records} records");
                assert!(padded.len() < bare.len() + OPTION_OCTETS + 468, "{records} records");
                // Nothing else is different but the length of OPT's data.
                let opt_length_at = bare.len() - options.len() - 2;
                assert_eq!(padded[..opt_length_at], bare[..opt_length_at]);
                let octets = padding_at(&padded, bare.len());
                let length = u16::from_be_bytes([padded[opt_length_at], padded[opt_length_at + 1]]);
                assert_eq!(usize::from(length), options.len() + OPTION_OCTETS + octets);
            }
        }
    }

    #[test]
    fn padding_stays_within_the_limit_and_drops_nothing() {
        for limit in 512..1100 {
            for records in [1, 28, 29, 40] {
                let bare = Frame { padded: false, ..frame(&[], limit) }.encode(&answer(records));
                let padded = frame(&[], limit).encode(&answer(records));
                assert!(padded.len() <= limit);
                assert_eq!(padded[2..HEADER_OCTETS], bare[2..HEADER_OCTETS], "counts");
                let full = padded.len() == limit || bare.len() + OPTION_OCTETS > limit;
                assert!(padded.len().is_multiple_of(468) || full, "{} octets of {limit}", padded.len());
            }
        }
    }
}
