//! What holds for every reply, whatever was asked: a strict reader of its own, with hickory-proto beside it.
//!
//! The reader shares no code with the server. It takes nothing on trust: every pointer goes backwards,
//! every count is true, every octet belongs to something.

use std::collections::HashSet;
use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

use callsign::answer::Over;
use hickory_server::proto::op::Message;

use super::query::type_name;

/// Octets of a header.
const HEADER: usize = 12;
/// The opcode, in its place in the flags.
const UPDATE: u16 = 5 << 11;
const TXT: u16 = 16;
const CHAOS: u16 = 3;
const SVCB: u16 = 64;
const HTTPS: u16 = 65;
const OPT: u16 = 41;
/// The size that our OPT advertises.
const ADVERTISED: u16 = 1232;
/// How long our connections may be idle, as keepalive says it: in tenths of a second.
const IDLE: u16 = 100;
/// What the server is called that has a name.
pub const NSID: &str = "ns1.test";

/// Something wrong with a reply: what it is about, in one word, and what exactly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub about: &'static str,
    pub what: String,
}

pub fn fault(about: &'static str, what: impl Into<String>) -> Fault {
    Fault { about, what: what.into() }
}

/// One message, read.
#[derive(Debug, Default)]
pub struct Read {
    pub id: u16,
    pub flags: u16,
    /// The question section's octets.
    pub question: Vec<u8>,
    pub questions: u16,
    /// Answer, authority, additional; without the OPT record.
    pub sections: [Vec<Record>; 3],
    pub opt: Option<Opt>,
    pub octets: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// In zone-file text, its case kept.
    pub owner: String,
    pub class: u16,
    pub rtype: u16,
    pub ttl: u32,
    /// In zone-file text.
    pub data: String,
    /// Names in the data, for the additional section.
    pub target: Option<String>,
    /// Of SOA.
    minimum: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opt {
    pub size: u16,
    pub version: u8,
    pub extended_rcode: u8,
    pub flags: u16,
    pub options: Vec<(u16, Vec<u8>)>,
}

impl Record {
    /// As a line of a zone file.
    pub fn line(&self) -> String {
        let class = if self.class == CHAOS { "CH" } else { "IN" };
        format!("{} {} {class} {} {}", self.owner, self.ttl, type_name(self.rtype), self.data)
    }
}

impl Read {
    pub fn rcode(&self) -> u16 {
        let high = self.opt.as_ref().map_or(0, |opt| u16::from(opt.extended_rcode));
        high << 4 | self.flags & 0xf
    }

    pub fn truncated(&self) -> bool {
        self.flags & 0x0200 != 0
    }

    pub fn authoritative(&self) -> bool {
        self.flags & 0x0400 != 0
    }

    /// The names of the options, but for the Extended DNS Error.
    pub fn options(&self) -> Vec<String> {
        let options = self.opt.iter().flat_map(|opt| &opt.options).filter(|(code, _)| *code != 15);
        let names = options.map(|(code, _)| match code {
            3 => "nsid".to_owned(),
            10 => "cookie".to_owned(),
            11 => "keepalive".to_owned(),
            code => code.to_string(),
        });
        names.collect()
    }

    /// Code and text of the one Extended DNS Error.
    pub fn ede(&self) -> Option<(u16, String)> {
        let (_, data) = self.opt.as_ref()?.options.iter().find(|(code, _)| *code == 15)?;
        let code = u16::from_be_bytes([*data.first()?, *data.get(1)?]);
        Some((code, String::from_utf8_lossy(&data[2..]).into_owned()))
    }
}

/// Reads a message strictly; the reason where it cannot be one of ours.
pub fn read(message: &[u8]) -> Result<Read, Fault> {
    let mut cursor = Cursor { message, at: 0 };
    let mut read = Read { id: cursor.u16()?, flags: cursor.u16()?, ..Read::default() };
    read.octets = message.len();
    let counts: [u16; 4] = [cursor.u16()?, cursor.u16()?, cursor.u16()?, cursor.u16()?];
    read.questions = counts[0];
    for _ in 0..counts[0] {
        let start = cursor.at;
        cursor.plain_name()?;
        cursor.take(4)?;
        read.question.extend(&message[start..cursor.at]);
    }
    for (section, count) in counts[1..].iter().enumerate() {
        for _ in 0..*count {
            cursor.record(section, &mut read)?;
        }
    }
    if cursor.at != message.len() {
        return Err(fault("counts", format!("{} octets behind the last record", message.len() - cursor.at)));
    }
    Ok(read)
}

struct Cursor<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, octets: usize) -> Result<&'a [u8], Fault> {
        let taken = self.message.get(self.at..self.at + octets).ok_or_else(|| {
            fault("counts", format!("ends at octet {}, within a field", self.message.len()))
        })?;
        self.at += octets;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, Fault> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<u16, Fault> {
        let octets = self.take(2)?;
        Ok(u16::from_be_bytes([octets[0], octets[1]]))
    }

    fn u32(&mut self) -> Result<u32, Fault> {
        Ok(u32::from(self.u16()?) << 16 | u32::from(self.u16()?))
    }

    /// A name that may be compressed, in zone-file text.
    fn name(&mut self) -> Result<String, Fault> {
        let mut text = String::new();
        let mut octets = 1;
        let mut at = self.at;
        let mut bound = self.at;
        let mut end = None;
        loop {
            let length = usize::from(*self.message.get(at).ok_or_else(|| fault("name", "runs out"))?);
            match length {
                0 => break,
                1..=63 => {
                    let label = self.message.get(at + 1..=at + length);
                    push_label(&mut text, label.ok_or_else(|| fault("name", "runs out"))?);
                    octets += 1 + length;
                    at += 1 + length;
                }
                0xc0.. => {
                    let low = *self.message.get(at + 1).ok_or_else(|| fault("name", "runs out"))?;
                    let to = (length & 0x3f) << 8 | usize::from(low);
                    end.get_or_insert(at + 2);
                    // Strictly backwards, so it ends; into the header points nothing.
                    if to >= bound || to < HEADER {
                        return Err(fault("name", format!("a pointer from {at} to {to}")));
                    }
                    (at, bound) = (to, to);
                }
                _ => return Err(fault("name", format!("label type {length:#x}"))),
            }
        }
        if octets > 255 {
            return Err(fault("name", format!("{octets} octets long")));
        }
        self.at = end.unwrap_or(at + 1);
        Ok(if text.is_empty() { ".".to_owned() } else { text })
    }

    /// A name that may not be compressed.
    fn plain_name(&mut self) -> Result<String, Fault> {
        let start = self.at;
        let name = self.name()?;
        let mut at = start;
        while self.message[at] != 0 {
            if self.message[at] >= 0xc0 {
                return Err(fault("compression", format!("{name} at {start} is compressed")));
            }
            at += 1 + usize::from(self.message[at]);
        }
        Ok(name)
    }

    fn record(&mut self, section: usize, read: &mut Read) -> Result<(), Fault> {
        let start = self.at;
        let owner = self.name()?;
        let (rtype, class) = (self.u16()?, self.u16()?);
        let ttl = self.u32()?;
        let length = usize::from(self.u16()?);
        let end = self.at + length;
        if rtype == OPT {
            let plain = self.message[start] == 0;
            if section != 2 || !plain || read.opt.is_some() {
                return Err(fault("opt", "not the only one, at the root, in the additional section"));
            }
            let mut opt =
                Opt { size: class, version: (ttl >> 16) as u8, flags: ttl as u16, ..Opt::default() };
            opt.extended_rcode = (ttl >> 24) as u8;
            while self.at < end {
                let (code, length) = (self.u16()?, self.u16()?);
                opt.options.push((code, self.take(usize::from(length))?.to_vec()));
            }
            read.opt = Some(opt);
        } else {
            // Nothing but a server's own name is of another class.
            let chaos = class == CHAOS && rtype == TXT && read.question.ends_with(&CHAOS.to_be_bytes());
            if class != 1 && !chaos {
                return Err(fault("class", format!("{owner} {} of class {class}", type_name(rtype))));
            }
            let (data, target, minimum) = self.data(rtype, length)?;
            // RFC 9460 section 2.5: the root stands for the owner.
            let is_owner = matches!(rtype, SVCB | HTTPS) && target.as_deref() == Some(".");
            let target = if is_owner { Some(owner.clone()) } else { target };
            read.sections[section].push(Record { owner, class, rtype, ttl, data, target, minimum });
        }
        if self.at != end {
            return Err(fault(
                "counts",
                format!("data of type {rtype} at {start} is not as long as it says"),
            ));
        }
        Ok(())
    }

    fn data(&mut self, rtype: u16, length: usize) -> Result<(String, Option<String>, Option<u32>), Fault> {
        Ok(match rtype {
            1 => {
                let octets = self.take(4)?;
                (Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3]).to_string(), None, None)
            }
            28 => {
                let octets: [u8; 16] = self.take(16)?.try_into().unwrap();
                (Ipv6Addr::from(octets).to_string(), None, None)
            }
            2 | 5 | 12 => {
                let name = self.name()?;
                (name.clone(), Some(name), None)
            }
            39 => {
                let name = self.plain_name()?;
                (name.clone(), Some(name), None)
            }
            15 => {
                let (preference, name) = (self.u16()?, self.name()?);
                (format!("{preference} {name}"), Some(name), None)
            }
            33 => {
                let (priority, weight, port) = (self.u16()?, self.u16()?, self.u16()?);
                let target = self.plain_name()?;
                (format!("{priority} {weight} {port} {target}"), Some(target), None)
            }
            6 => {
                let mut text = format!("{} {}", self.name()?, self.name()?);
                let mut last = 0;
                for _ in 0..5 {
                    last = self.u32()?;
                    write!(text, " {last}").unwrap();
                }
                (text, None, Some(last))
            }
            SVCB | HTTPS => {
                let end = self.at + length;
                let (priority, target) = (self.u16()?, self.plain_name()?);
                (format!("{priority} {target}{}", self.parameters(end)?), Some(target), None)
            }
            TXT => {
                let end = self.at + length;
                let mut strings = Vec::new();
                while self.at < end {
                    let length = usize::from(self.u8()?);
                    strings.push(format!("\"{}\"", self.take(length)?.escape_ascii()));
                }
                if strings.is_empty() {
                    return Err(fault("data", "TXT without a string"));
                }
                (strings.join(" "), None, None)
            }
            _ => {
                let hex: String =
                    self.take(length)?.iter().fold(String::new(), |hex, octet| format!("{hex}{octet:02X}"));
                (format!("\\# {length} {hex}"), None, None)
            }
        })
    }
}

impl Cursor<'_> {
    /// The parameters of a service binding, each after a blank: in order, each once, each as long as its kind asks
    /// (RFC 9460 sections 2.2 and 7).
    fn parameters(&mut self, end: usize) -> Result<String, Fault> {
        let (mut text, mut last) = (String::new(), None);
        while self.at < end {
            let (key, length) = (self.u16()?, usize::from(self.u16()?));
            if last.is_some_and(|last| last >= key) {
                return Err(fault("data", format!("parameter {key} behind {last:?}")));
            }
            last = Some(key);
            let value = self.take(length)?;
            let numbers = |octets: usize| value.chunks(octets).map(<[u8]>::to_vec).collect::<Vec<_>>();
            let shown = match (key, length) {
                (1, 2..) if value.len() == 1 + usize::from(value[0]) => {
                    format!("alpn={}", value[1..].escape_ascii())
                }
                (2, 0) => "no-default-alpn".to_owned(),
                (3, 2) => format!("port={}", u16::from_be_bytes([value[0], value[1]])),
                (4, 4..) if length.is_multiple_of(4) => {
                    let hints =
                        numbers(4).into_iter().map(|it| Ipv4Addr::from(<[u8; 4]>::try_from(it).unwrap()));
                    format!("ipv4hint={}", hints.map(|it| it.to_string()).collect::<Vec<_>>().join(","))
                }
                (6, 16..) if length.is_multiple_of(16) => {
                    let hints =
                        numbers(16).into_iter().map(|it| Ipv6Addr::from(<[u8; 16]>::try_from(it).unwrap()));
                    format!("ipv6hint={}", hints.map(|it| it.to_string()).collect::<Vec<_>>().join(","))
                }
                _ => return Err(fault("data", format!("parameter {key} of {length} octets"))),
            };
            write!(text, " {shown}").unwrap();
        }
        Ok(text)
    }
}

fn push_label(text: &mut String, label: &[u8]) {
    for octet in label {
        match octet {
            b'.' | b'\\' => write!(text, "\\{}", char::from(*octet)).unwrap(),
            0x21..=0x7e => text.push(char::from(*octet)),
            _ => write!(text, "\\{octet:03}").unwrap(),
        }
    }
    text.push('.');
}

/// What a query asks, as far as it can be read.
#[derive(Debug, Default)]
struct Glimpse {
    /// Octets of the one question, where it is whole and not compressed.
    question: Option<Vec<u8>>,
    /// OPT, where the message is in order up to it.
    opt: Option<Opt>,
    /// Somewhere in it are the octets of an OPT record.
    opt_perhaps: bool,
}

fn glimpse(query: &[u8]) -> Glimpse {
    let mut seen =
        Glimpse { opt_perhaps: query[HEADER..].windows(2).any(|pair| pair == [0, 41]), ..Glimpse::default() };
    let counts: Vec<u16> =
        query[4..HEADER].chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
    let mut cursor = Cursor { message: query, at: HEADER };
    if counts[0] != 1 {
        return seen;
    }
    if cursor.plain_name().is_err() || cursor.take(4).is_err() {
        return seen;
    }
    seen.question = Some(query[HEADER..cursor.at].to_vec());
    if counts[1] == 0 && counts[2] == 0 && counts[3] > 0 {
        let mut read = Read::default();
        if cursor.record(2, &mut read).is_ok() {
            seen.opt = read.opt;
        }
    }
    seen
}

/// The most octets that a reply to `query` may have.
pub fn limit(query: &[u8], over: Over, udp_max: usize) -> usize {
    match (over.is_datagram(), glimpse(query)) {
        (false, _) => 65_535,
        (_, Glimpse { opt: Some(opt), .. }) => usize::from(opt.size).clamp(512, udp_max),
        // Not in order, so the size is anybody's reading.
        (_, Glimpse { opt_perhaps: true, .. }) => udp_max,
        _ => 512,
    }
}

/// Everything that is wrong with a reply, whatever the query asked for; and the reply, where it can be read.
pub fn judge(query: &[u8], over: Over, udp_max: usize, reply: &[u8]) -> (Option<Read>, Vec<Fault>) {
    let mut faults = Vec::new();
    if reply.len() < HEADER {
        return (None, vec![fault("header", format!("{} octets", reply.len()))]);
    }
    let limit = limit(query, over, udp_max);
    if reply.len() > limit {
        faults.push(fault("octets", format!("{} where {limit} are allowed", reply.len())));
    }
    let read = match read(reply) {
        Ok(read) => read,
        Err(unreadable) => {
            faults.push(unreadable);
            return (None, faults);
        }
    };
    header(query, over, &read, &mut faults);
    question_and_opt(query, &read, &mut faults);
    options(&glimpse(query), over, &read, &mut faults);
    sections(&read, &mut faults);
    match Message::from_vec(reply) {
        Err(error) => faults.push(fault("hickory", format!("cannot read it: {error}"))),
        Ok(message) => {
            let counts = [message.answers.len(), message.authorities.len(), message.additionals.len()];
            if counts != [0, 1, 2].map(|section: usize| read.sections[section].len())
                || message.edns.is_some() != read.opt.is_some()
                || message.queries.len() != usize::from(read.questions)
                || message.metadata.truncation != read.truncated()
                || message.metadata.authoritative != read.authoritative()
                || u16::from(message.metadata.response_code) != read.rcode()
            {
                faults.push(fault("hickory", format!("reads it otherwise: {message:?}")));
            }
        }
    }
    (Some(read), faults)
}

fn header(query: &[u8], over: Over, read: &Read, faults: &mut Vec<Fault>) {
    let asked = u16::from_be_bytes([query[2], query[3]]);
    let mut check = |about, holds: bool, what: &str| {
        if !holds {
            faults.push(fault(about, what));
        }
    };
    check("id", read.id == u16::from_be_bytes([query[0], query[1]]), "another ID");
    check("flags", read.flags & 0x8000 != 0, "QR is 0");
    check("flags", read.flags & 0x7800 == asked & 0x7800, "another opcode");
    check("flags", read.flags & 0x00e0 == 0, "RA, Z or AD is set");
    // RD and CD are copied for QUERY; they mean nothing to another opcode (RFC 8906 section 8.1.4).
    let copied = if asked & 0x7800 == 0 { asked & 0x0110 } else { 0 };
    check("flags", read.flags & 0x0110 == copied, "RD or CD");
    let rcode = read.rcode();
    // Those from 6 to 10 are of UPDATE (RFC 2136 section 2.2).
    let known = matches!(rcode, 0..=6 | 16 | 23) || asked & 0x7800 == UPDATE && rcode <= 10;
    check("rcode", known, &format!("rcode {rcode}"));
    // YXDOMAIN says that a DNAME made too long a name (RFC 6672 section 2.2), and shows it.
    check("flags", matches!(rcode, 0 | 3 | 6) || !read.authoritative(), "AA on an error");
    let records = read.sections.iter().map(Vec::len).sum::<usize>();
    check("answer", matches!(rcode, 0 | 3 | 6) || records == 0, "records in an error");
    check("flags", over == Over::Udp || !read.truncated(), "TC on a stream");
    // One text may be larger than a datagram; anything else leaves something to show.
    let qtype = read
        .question
        .len()
        .checked_sub(4)
        .map(|at| u16::from_be_bytes([read.question[at], read.question[at + 1]]));
    let empty = read.sections[0].is_empty() && read.sections[1].is_empty();
    check("flags", !(read.truncated() && empty) || matches!(qtype, Some(TXT | 255)), "TC with nothing");
}

fn question_and_opt(query: &[u8], read: &Read, faults: &mut Vec<Fault>) {
    let asked = glimpse(query);
    let is_update = u16::from_be_bytes([query[2], query[3]]) & 0x7800 == UPDATE;
    if is_update {
        // Y-25: nothing of it is repeated.
        if read.questions > 0 {
            faults.push(fault("question", "a zone section"));
        }
    } else if let Some(question) = &asked.question
        && *question != read.question
    {
        faults.push(fault("question", format!("{:?} for {question:?}", read.question)));
    }
    if read.questions > 1 {
        faults.push(fault("question", format!("{} of them", read.questions)));
    }
    match (&asked.opt, &read.opt) {
        (None, Some(_)) if !asked.opt_perhaps => faults.push(fault("opt", "not asked for")),
        (Some(_), None) => faults.push(fault("opt", "missing")),
        (Some(asked), Some(opt)) if asked.flags & 0x8000 != opt.flags & 0x8000 => {
            faults.push(fault("opt", "DO is not copied"))
        }
        _ => {}
    }
    if let Some(opt) = &read.opt {
        if (opt.version, opt.size, opt.flags & 0x7fff) != (0, ADVERTISED, 0) {
            faults.push(fault("opt", format!("{opt:?}")));
        }
        if let Some((_, text)) = read.ede()
            && (text.len() > 60 || text.contains(char::is_control) || text.contains('\u{fffd}'))
        {
            faults.push(fault("ede", format!("{text:?}")));
        }
    }
}

/// Each option once, as its RFC has it, and where it was asked for; the words come last.
fn options(asked: &Glimpse, over: Over, read: &Read, faults: &mut Vec<Fault>) {
    let Some(opt) = &read.opt else { return };
    // A query that is not in order may have asked for anything.
    let asked_for = |code: u16| match &asked.opt {
        Some(asked) if asked.version != 0 => None,
        Some(asked) => asked.options.iter().find(|option| option.0 == code).map(|(_, data)| &data[..]),
        None => asked.opt_perhaps.then_some(&[][..]),
    };
    for (at, (code, data)) in opt.options.iter().enumerate() {
        let known = asked_for(*code);
        let holds = match code {
            3 => known.is_some() && data == NSID.as_bytes(),
            10 => {
                let client = known.is_some_and(|cookie| data.starts_with(&cookie[..cookie.len().min(8)]));
                client && data.len() == 24 && data[8] == 1
            }
            11 => known.is_some() && matches!(over, Over::Tcp | Over::Tls) && *data == IDLE.to_be_bytes(),
            12 => known.is_some() && over.is_encrypted() && data.iter().all(|octet| *octet == 0),
            15 => at + 1 == opt.options.len(),
            _ => false,
        };
        if !holds || opt.options[..at].iter().any(|(before, _)| before == code) {
            faults.push(fault("option", format!("{code} {data:02x?} for {known:02x?}")));
        }
    }
}

fn sections(read: &Read, faults: &mut Vec<Fault>) {
    for section in &read.sections {
        let mut known: HashSet<(String, u16, &str)> = HashSet::new();
        let mut ttls = Vec::new();
        let mut runs: Vec<(String, u16)> = Vec::new();
        for record in section {
            let key = (record.owner.to_ascii_lowercase(), record.rtype);
            if !known.insert((key.0.clone(), key.1, &record.data)) {
                faults.push(fault("duplicate", record.line()));
            }
            if runs.last() != Some(&key) {
                if runs.contains(&key) {
                    faults.push(fault("rrset", format!("{} is in two places", record.owner)));
                }
                runs.push(key);
                ttls.push(record.ttl);
            } else if ttls.last() != Some(&record.ttl) {
                faults.push(fault("ttl", format!("differs within {}", record.line())));
            }
        }
    }
    let [answer, authority, additional] = &read.sections;
    let soas = authority.iter().filter(|record| record.rtype == 6).count();
    let minimum = authority.iter().all(|record| record.minimum.is_none_or(|minimum| record.ttl <= minimum));
    if !minimum {
        faults.push(fault("ttl", "of the SOA is over its minimum (RFC 2308 section 3)"));
    }
    if read.rcode() == 3 && (soas != 1 || authority.len() != 1) {
        faults.push(fault("authority", "no SOA alone with NXDOMAIN"));
    }
    // Who asks nothing is denied nothing.
    if read.rcode() == 0 && answer.is_empty() && !read.truncated() && read.questions == 1 {
        let negative = soas == 1 && authority.len() == 1 && read.authoritative();
        let referral = soas == 0 && !authority.is_empty() && !read.authoritative();
        if !negative && !referral {
            faults.push(fault("authority", "neither a negative answer nor a referral"));
        }
    }
    let mut wanted: HashSet<String> = HashSet::new();
    for record in answer.iter().chain(authority).chain(additional) {
        wanted.extend(record.target.iter().map(|target| target.to_ascii_lowercase()));
    }
    if let Some(stray) = additional.iter().find(|record| !wanted.contains(&record.owner.to_ascii_lowercase()))
    {
        faults.push(fault("additional", format!("nobody points at {}", stray.line())));
    }
}
