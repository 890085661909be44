//! Queries to another server, and what its replies say.
//!
//! A reply is taken apart into records, its names written out, and put together again for each client. Nothing else is
//! changed.

use crate::answer::{Answer, CLASS_IN, Ede, Rcode};
use crate::dns::encode::HEADER_OCTETS;
use crate::dns::reader::Reader;
use crate::name::NAME_OCTETS_MAX;
use crate::record::{Data, Record, Type};

use super::Query;

/// The size that we say we receive over UDP: no path fragments it (RFC 9715 section 3.1).
const UDP_OCTETS_ADVERTISED: u16 = 1232;
const QR: u16 = 0x8000;
const OPCODE: u16 = 0x7800;
const AA: u16 = 0x0400;
const TC: u16 = 0x0200;
const RD: u16 = 0x0100;
const RA: u16 = 0x0080;
const AD: u16 = 0x0020;
const CD: u16 = 0x0010;
/// OPT's flag "DNSSEC OK" (RFC 3225 section 3).
const DO: u32 = 0x8000;
/// The EDNS option of an Extended DNS Error (RFC 8914 section 2).
const OPTION_EDE: u16 = 15;

/// How an upstream is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manner {
    /// With an OPT record.
    pub edns: bool,
    /// The letters of the question in random case, which the reply has to repeat.
    pub mixed_case: bool,
}

/// Octets of chance in a query: its id, and one bit for each letter that a name may have.
pub const CHANCE_OCTETS: usize = 2 + NAME_OCTETS_MAX.div_ceil(8);

/// A query as it is sent, and so what a reply to it must repeat.
#[derive(Clone, Debug)]
pub struct Sent {
    pub octets: Vec<u8>,
    question_octets: usize,
}

/// What a message is to the query that it came after.
#[derive(Debug)]
pub enum Heard {
    /// The reply to it.
    Reply(Reply),
    /// The reply to it, as far as everything but the case of the question says.
    Miscased,
    /// The reply to another query, or a trick.
    Other,
    /// The reply to it, and it cannot be read.
    Malformed,
}

/// What the reply says.
#[derive(Debug)]
pub struct Reply {
    /// All twelve bits; `answer.rcode` is for those that can be passed on.
    pub rcode: u16,
    /// It has an OPT record, so the server knows EDNS.
    pub edns: bool,
    pub truncated: bool,
    /// The server says that it has validated the answer.
    pub authentic: bool,
    /// It is no referral to others, and not of a server that neither has the zone nor asks on.
    pub knows: bool,
    pub answer: Answer,
}

impl Sent {
    /// `chance` is used up: every query has its own.
    pub fn new(query: &Query, manner: Manner, chance: &[u8; CHANCE_OCTETS]) -> Self {
        let [id_high, id_low, bits @ ..] = chance;
        // RD, and AD to be told whether the answer was validated (RFC 6840 section 5.7).
        let flags = RD | AD | if query.checking_disabled { CD } else { 0 };
        let mut octets = vec![*id_high, *id_low];
        for number in [flags, 1, 0, 0, u16::from(manner.edns)] {
            octets.extend_from_slice(&number.to_be_bytes());
        }
        // A length octet is at most 63, and no letter.
        for (at, octet) in query.name.as_wire().iter().enumerate() {
            let upper = manner.mixed_case && bits[at / 8] >> (at % 8) & 1 == 1;
            octets.push(if upper { octet.to_ascii_uppercase() } else { octet.to_ascii_lowercase() });
        }
        octets.extend_from_slice(&query.qtype.0.to_be_bytes());
        octets.extend_from_slice(&CLASS_IN.to_be_bytes());
        let question_octets = octets.len() - HEADER_OCTETS;
        if manner.edns {
            octets.push(0);
            octets.extend_from_slice(&Type::OPT.0.to_be_bytes());
            octets.extend_from_slice(&UDP_OCTETS_ADVERTISED.to_be_bytes());
            let flags = if query.dnssec_ok { DO } else { 0 };
            octets.extend_from_slice(&flags.to_be_bytes());
            octets.extend_from_slice(&[0, 0]); // no options: the client's are between it and us (RFC 6891 section 6.2.6)
        }
        Self { octets, question_octets }
    }

    /// What `message` is to this query. The address that it came from is the socket's to check.
    pub fn hears(&self, message: &[u8]) -> Heard {
        let Some(header) = message.first_chunk::<HEADER_OCTETS>() else { return Heard::Other };
        let number = |at: usize| u16::from_be_bytes([header[2 * at], header[2 * at + 1]]);
        let flags = number(1);
        if header[..2] != self.octets[..2] || flags & QR == 0 || flags & OPCODE != 0 {
            return Heard::Other;
        }
        let counts = [number(2), number(3), number(4), number(5)];
        let at = match counts[0] {
            // Who cannot read OPT may not repeat the question either (RFC 6891 section 7).
            0 if flags & 0xf == Rcode::FormErr as u16 => HEADER_OCTETS,
            1 => {
                let asked = &self.octets[HEADER_OCTETS..HEADER_OCTETS + self.question_octets];
                match message.get(HEADER_OCTETS..HEADER_OCTETS + self.question_octets) {
                    Some(question) if question == asked => {}
                    Some(question) if question.eq_ignore_ascii_case(asked) => return Heard::Miscased,
                    _ => return Heard::Other,
                }
                HEADER_OCTETS + self.question_octets
            }
            _ => return Heard::Other,
        };
        // Names of the reply may point into the question, whose random case is nobody's.
        let mut message = message.to_vec();
        message[HEADER_OCTETS..at].make_ascii_lowercase();
        let mut parts = Parts(Reader::new(&message, at));
        match parts.reply(flags, [counts[1], counts[2], counts[3]]) {
            Some(reply) => Heard::Reply(reply),
            None => Heard::Malformed,
        }
    }
}

/// Takes a reply apart; `None` where it is not well formed.
struct Parts<'a>(Reader<'a>);

impl Parts<'_> {
    fn reply(&mut self, flags: u16, counts: [u16; 3]) -> Option<Reply> {
        let mut answer = Answer::default();
        let mut opt = None;
        for (section, count) in counts.into_iter().enumerate() {
            for _ in 0..count {
                let owner = self.0.name()?;
                let rtype = Type(self.0.u16()?);
                let class = self.0.u16()?;
                let ttl = self.0.u32()?;
                let octets = usize::from(self.0.u16()?);
                let end = self.0.at + octets;
                if rtype == Type::OPT {
                    if section != 2 || opt.is_some() {
                        return None; // RFC 6891 section 6.1.1
                    }
                    opt = Some((ttl, self.0.message.get(self.0.at..end)?));
                    self.0.at = end;
                    continue;
                }
                if class != CLASS_IN {
                    return None;
                }
                let data = self.0.data(rtype, end)?;
                if self.0.at != end {
                    return None;
                }
                // With the highest bit set a TTL is 0 (RFC 2181 section 8).
                let ttl = if ttl >> 31 == 0 { ttl } else { 0 };
                let sections = [&mut answer.answer, &mut answer.authority, &mut answer.additional];
                sections.into_iter().nth(section)?.push(Record { owner, ttl, data });
            }
        }
        // What is told of an absence lasts as long as that (RFC 2308 section 5), whatever the SOA's own TTL is elsewhere.
        for record in &mut answer.authority {
            if let Data::Soa(soa) = &record.data {
                record.ttl = record.ttl.min(soa.minimum);
            }
        }
        let rcode = (opt.map_or(0, |(ttl, _)| ttl >> 24) as u16) << 4 | flags & 0xf;
        answer.ede = opt.and_then(|(_, options)| extended_error(options));
        answer.rcode = match rcode {
            0 => Rcode::NoError,
            3 => Rcode::NxDomain,
            6 => Rcode::YxDomain,
            _ => Rcode::ServFail,
        };
        let has = |rtype| answer.authority.iter().any(|record| record.data.rtype() == rtype);
        // Without a SOA what is empty is an absence only where it has no NS either (RFC 2308 section 2.2, type 3).
        let is_empty = rcode == 0 && flags & TC == 0 && answer.answer.is_empty() && !has(Type::SOA);
        Some(Reply {
            knows: !is_empty || !has(Type::NS) && flags & (AA | RA) != 0,
            rcode,
            edns: opt.is_some(),
            truncated: flags & TC != 0,
            authentic: flags & AD != 0,
            answer,
        })
    }
}

/// The first Extended DNS Error among the options (RFC 8914).
fn extended_error(mut options: &[u8]) -> Option<Ede> {
    while let [a, b, c, d, rest @ ..] = options {
        let (code, octets) = (u16::from_be_bytes([*a, *b]), usize::from(u16::from_be_bytes([*c, *d])));
        let option = rest.get(..octets)?;
        if code == OPTION_EDE {
            let (info, text) = option.split_first_chunk::<2>()?;
            return Some(Ede::new(u16::from_be_bytes(*info), String::from_utf8_lossy(text)));
        }
        options = &rest[octets..];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::Draws;
    use crate::dns::reader::EXPANDED_OCTETS_MAX;
    use crate::name::Name;

    fn query(name: &str, qtype: Type) -> Query {
        Query { name: Name::parse(name).unwrap(), qtype, dnssec_ok: false, checking_disabled: false }
    }

    fn sent(name: &str, qtype: Type) -> Sent {
        Sent::new(&query(name, qtype), Manner { edns: true, mixed_case: true }, &[0x55; CHANCE_OCTETS])
    }

    /// A reply to `sent` with these counts and this behind the question.
    fn reply(sent: &Sent, flags: u16, counts: [u16; 3], rest: &[u8]) -> Vec<u8> {
        let mut octets = sent.octets[..2].to_vec();
        for number in [flags, 1, counts[0], counts[1], counts[2]] {
            octets.extend_from_slice(&number.to_be_bytes());
        }
        octets.extend_from_slice(&sent.octets[12..12 + sent.question_octets]);
        octets.extend_from_slice(rest);
        octets
    }

    fn record(owner: &[u8], rtype: u16, data: &[u8]) -> Vec<u8> {
        let mut octets = owner.to_vec();
        octets.extend_from_slice(&rtype.to_be_bytes());
        octets.extend_from_slice(&[0, 1, 0, 0, 0, 9]);
        octets.extend_from_slice(&(data.len() as u16).to_be_bytes());
        octets.extend_from_slice(data);
        octets
    }

    fn heard(sent: &Sent, octets: &[u8]) -> Reply {
        match sent.hears(octets) {
            Heard::Reply(reply) => reply,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_query_is_what_it_says() {
        let sent = sent("www.example.com", Type::A);
        assert_eq!(sent.octets[..12], [0x55, 0x55, 0x01, 0x20, 0, 1, 0, 0, 0, 0, 0, 1]);
        let name = &sent.octets[12..29];
        assert_ne!(name, Name::parse("www.example.com").unwrap().as_wire());
        assert!(name.eq_ignore_ascii_case(Name::parse("www.example.com").unwrap().as_wire()));
        assert_eq!(sent.octets[33..], [0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0]);
        let query =
            Query { dnssec_ok: true, checking_disabled: true, ..query("WWW.example.com", Type(65_280)) };
        let plain = Manner { edns: true, mixed_case: false };
        let sent = Sent::new(&query, plain, &[0xff; CHANCE_OCTETS]);
        assert_eq!(sent.octets[2..4], [0x01, 0x30]);
        assert_eq!(&sent.octets[12..29], Name::parse("www.example.com").unwrap().as_wire());
        assert_eq!(sent.octets[29..33], [0xff, 0x00, 0, 1]);
        assert_eq!(sent.octets[38..42], [0, 0, 0x80, 0]);
        let without = Sent::new(&query, Manner { edns: false, ..plain }, &[0xff; CHANCE_OCTETS]);
        assert_eq!((without.octets.len(), without.octets[11]), (33, 0));
    }

    #[test]
    fn only_its_own_reply_is_heard() {
        let sent = sent("www.example.com", Type::A);
        let good = reply(&sent, 0x8180, [0; 3], &[]);
        assert!(matches!(sent.hears(&good), Heard::Reply(_)));
        let other = |at: usize, octet: u8| {
            let mut octets = good.clone();
            octets[at] = octet;
            sent.hears(&octets)
        };
        assert!(matches!(other(0, 1), Heard::Other), "another id");
        assert!(matches!(other(2, 0x01), Heard::Other), "a query");
        assert!(matches!(other(2, 0x29 | 0x80), Heard::Other), "another opcode");
        assert!(matches!(other(5, 2), Heard::Other), "two questions");
        assert!(matches!(other(13, b'x'), Heard::Other), "another name");
        assert!(matches!(other(13, good[13] ^ 0x20), Heard::Miscased));
        assert!(matches!(other(30, 28), Heard::Other), "another type");
        assert!(matches!(other(32, 3), Heard::Other), "another class");
        assert!(matches!(sent.hears(&good[..20]), Heard::Other));
        assert!(matches!(sent.hears(&good[..11]), Heard::Other));
        assert!(matches!(other(7, 1), Heard::Malformed), "a record that is not there");
        let plain = Manner { edns: true, mixed_case: false };
        let lower = Sent::new(&query("www.example.com", Type::A), plain, &[0x55; CHANCE_OCTETS]);
        let miscased = reply(&lower, 0x8180, [0; 3], &[]);
        assert!(matches!(sent.hears(&miscased), Heard::Miscased));
        assert!(matches!(lower.hears(&miscased), Heard::Reply(_)));
        let mut formerr = sent.octets[..2].to_vec();
        formerr.extend([0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(heard(&sent, &formerr).rcode, 1);
    }

    #[test]
    fn names_are_written_out_and_nothing_else_is_touched() {
        let sent = sent("example.com", Type::MX);
        let mut rest = record(&[0xc0, 12], 15, &[0, 10, 4, b'm', b'a', b'i', b'l', 0xc0, 12]);
        rest.extend(record(&[0xc0, 12], 65_280, &[0xc0, 12, 0xff]));
        rest.extend(record(&[0xc0, 12], 17, &[1, b'a', 0xc0, 12, 0]));
        rest.extend(record(
            &[0xc0, 12],
            35,
            &[0, 1, 0, 2, 1, b's', 0, 0, 4, b'_', b's', b'i', b'p', 0xc0, 12],
        ));
        // OPT: DO, an unknown option, then an Extended DNS Error.
        rest.extend([0, 0, 41, 0x10, 0, 0, 0, 0x80, 0, 0, 13, 0xfd, 0xe9, 0, 1, 7, 0, 15, 0, 4, 0, 9, b'o']);
        rest.extend([b'k']);
        let reply = heard(&sent, &reply(&sent, 0x81a0, [4, 0, 1], &rest));
        assert!(reply.authentic && reply.edns && !reply.truncated);
        assert_eq!(reply.answer.ede, Some(Ede { code: 9, text: "ok".into() }));
        let of = |text: &str| Name::parse(text).unwrap();
        let data: Vec<&Data> = reply.answer.answer.iter().map(|record| &record.data).collect();
        assert_eq!(*data[0], Data::Mx { preference: 10, exchange: of("mail.example.com") });
        let octets = |at: usize| match data[at] {
            Data::Other { octets, .. } => octets.to_vec(),
            other => panic!("{other:?}"),
        };
        assert_eq!(octets(1), [0xc0, 12, 0xff]);
        assert_eq!(octets(2), [of("a.example.com").as_wire(), &[0]].concat());
        let texts: &[u8] = &[0, 1, 0, 2, 1, b's', 0, 0];
        assert_eq!(octets(3), [texts, of("_sip.example.com").as_wire()].concat());
        assert!(reply.answer.answer.iter().all(|record| record.ttl == 9));
    }

    #[test]
    fn an_absence_lasts_no_longer_than_its_soa_says() {
        let sent = sent("www.example.com", Type::A);
        for (minimum, ttl) in [(5, 5), (3600, 9)] {
            let data = [&[0, 0][..], &[0; 16], &u32::to_be_bytes(minimum)].concat();
            let reply = heard(&sent, &reply(&sent, 0x8183, [0, 1, 0], &record(&[0xc0, 16], 6, &data)));
            assert_eq!(reply.answer.authority[0].ttl, ttl);
        }
    }

    #[test]
    fn what_is_not_well_formed_is_no_reply() {
        let sent = sent("example.com", Type::A);
        let pointer = 12 + sent.question_octets as u8;
        for (what, counts, rest) in [
            ("a pointer to itself", [1, 0, 0], record(&[0xc0, pointer], 1, &[1, 2, 3, 4])),
            ("a pointer ahead", [1, 0, 0], record(&[0xc0, 200], 1, &[1, 2, 3, 4])),
            ("an address of three octets", [1, 0, 0], record(&[0], 1, &[1, 2, 3])),
            ("a name that ends behind its data", [1, 0, 0], record(&[0], 5, &[1])),
            ("data behind a name", [1, 0, 0], record(&[0], 5, &[0, 0])),
            ("a label of another kind", [1, 0, 0], record(&[0x40], 1, &[1, 2, 3, 4])),
            ("OPT among the answers", [1, 0, 0], record(&[0], 41, &[])),
            ("two of OPT", [0, 0, 2], [record(&[0], 41, &[]), record(&[0], 41, &[])].concat()),
            ("a record cut short", [1, 0, 0], record(&[0], 1, &[1, 2, 3, 4])[..9].to_vec()),
        ] {
            let octets = reply(&sent, 0x8180, counts, &rest);
            assert!(matches!(sent.hears(&octets), Heard::Malformed), "{what}");
        }
        let mut class = record(&[0], 1, &[1, 2, 3, 4]);
        class[4] = 3;
        assert!(matches!(sent.hears(&reply(&sent, 0x8180, [1, 0, 0], &class)), Heard::Malformed));
        let mut ttl = record(&[0], 1, &[1, 2, 3, 4]);
        ttl[5] = 0x80;
        let octets = reply(&sent, 0x8180, [1, 0, 0], &ttl);
        assert_eq!(heard(&sent, &octets).answer.answer[0].ttl, 0);
    }

    #[test]
    fn few_octets_do_not_become_many() {
        let sent = sent("example.com", Type::NS);
        let long = [&[63; 64][..], &[63; 64], &[63; 64], &[0xc0, 12]].concat();
        let first = HEADER_OCTETS + sent.question_octets + 12;
        let mut rest = record(&[0xc0, 12], 2, &long);
        let pointer = [0xc0 | (first >> 8) as u8, first as u8];
        for _ in 0..4000 {
            rest.extend(record(&pointer, 2, &pointer));
        }
        let octets = reply(&sent, 0x8180, [4001, 0, 0], &rest);
        assert!(octets.len() < 65_535);
        assert!(matches!(sent.hears(&octets), Heard::Malformed));
    }

    /// Octets of a well formed reply changed at random: whatever comes, nothing panics, and what is read has a wire form.
    #[test]
    fn any_octets_are_read_or_refused() {
        let sent = sent("a.example.com", Type::MX);
        let soa = [&[0xc0, 14, 1, b'x', 0xc0, 14][..], &[0; 20]].concat();
        let mut rest = record(&[0xc0, 12], 15, &[0, 10, 4, b'm', b'a', b'i', b'l', 0xc0, 14]);
        rest.extend(record(&[0xc0, 12], 35, &[0, 1, 0, 2, 1, b's', 0, 1, b'r', 0xc0, 12]));
        rest.extend(record(&[0xc0, 14], 6, &soa));
        rest.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 6, 0, 15, 0, 2, 0, 6]);
        let good = reply(&sent, 0x8180, [2, 1, 1], &rest);
        let mut draws = Draws::new(7);
        let (mut read, mut refused) = (0, 0);
        for _ in 0..200_000 {
            let mut octets = good.clone();
            for _ in 0..1 + draws.next_u64() % 4 {
                let at = 4 + draws.next_u64() as usize % (octets.len() - 4);
                octets[at] = draws.next_u64() as u8;
            }
            if draws.next_u64().is_multiple_of(8) {
                octets.truncate(draws.next_u64() as usize % octets.len());
            }
            match sent.hears(&octets) {
                Heard::Reply(reply) => {
                    let records = reply.answer.answer.iter().chain(&reply.answer.authority);
                    assert!(
                        records.map(|record| record.data.octets_max()).sum::<usize>() < EXPANDED_OCTETS_MAX
                    );
                    read += 1;
                }
                Heard::Miscased | Heard::Other | Heard::Malformed => refused += 1,
            }
        }
        assert!(read > 10_000 && refused > 10_000, "{read} read, {refused} refused");
    }
}
