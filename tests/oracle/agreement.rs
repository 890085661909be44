//! What Knot, NSD and BIND say alike of a static zone, we have to say too: rcode, AA, answer, the authority section where it
//! denies or refers, and the addresses that go with a referral.
//!
//! A part in which the three differ among themselves, and all parts behind it, are nobody's measure; how often that was is
//! counted. What goes beside a whole answer is each server's choice and not looked at.

use std::collections::{BTreeMap, BTreeSet};

use callsign::name::Name;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, Record, RecordType};

use crate::compare::{Section, section, shown};
use crate::judges::Reply;
use crate::queries::Query;

const DNAME: u16 = 39;
const DS: u16 = 43;
/// What has to come up among the questions, or nothing is shown; what comes up a few times in thousands is left out.
pub const KINDS: [&str; 12] = [
    "NXDOMAIN",
    "NODATA",
    "alias to NXDOMAIN",
    "alias to NODATA",
    "alias to referral",
    "answer",
    "chain",
    "renamed",
    "DS",
    "referral with glue",
    "referral without glue",
    "unknown type",
];
/// In this order: what is behind a part has no meaning where it differs.
const PARTS: [&str; 5] = ["rcode", "AA", "answer", "authority", "glue"];

/// A reply in parts that can be compared.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    Rcode(ResponseCode),
    Authoritative(bool),
    Records(Section),
}

#[derive(Default)]
pub struct Agreement {
    /// Questions that the three answered alike in every part, as we did.
    pub agreed: u64,
    /// In which part the three differ first.
    pub differ: BTreeMap<&'static str, u64>,
    /// What the questions were about that all agreed on.
    pub kinds: BTreeMap<&'static str, u64>,
    pub unexplained: Vec<String>,
    /// Replies that were cut, which each server does in its own way.
    pub cut: u64,
}

impl Agreement {
    /// `apexes` are those of all zones.
    pub fn add(&mut self, apexes: &[Name], query: &Query, ours: &Reply, judges: [(&str, &Reply); 3]) {
        if ours.message.metadata.truncation || judges.iter().any(|(_, said)| said.message.metadata.truncation)
        {
            self.cut += 1;
            return;
        }
        let said = judges.map(|(_, said)| parts(&said.message));
        let own = parts(&ours.message);
        if crosses(apexes, query, &ours.message) && (said[0] != said[1] || said[1] != said[2]) {
            *self.differ.entry("across zones").or_default() += 1;
            return;
        }
        for (at, about) in PARTS.into_iter().enumerate() {
            if said[0][at] != said[1][at] || said[1][at] != said[2][at] {
                *self.differ.entry(about).or_default() += 1;
                return;
            }
            if own[at] != said[0][at] {
                let mut text =
                    format!("{} {}: {about}\n  ours: {}", query.name, query.qtype, shown(&ours.message));
                for (name, said) in judges {
                    text += &format!("\n  {name}: {}", shown(&said.message));
                }
                self.unexplained.push(text);
                return;
            }
        }
        self.agreed += 1;
        for kind in kinds(query, &ours.message) {
            *self.kinds.entry(kind).or_default() += 1;
        }
    }
}

/// True where an alias leads into another of the zones. Knot and BIND stop there, NSD goes on and leaves the rcode as it was;
/// we go on, and the rcode is that of the last name (RFC 1034 section 4.3.2, RFC 6604 section 3). The DS of an apex is in the
/// zone above it (RFC 4035 section 3.1.4.1).
fn crosses(apexes: &[Name], query: &Query, reply: &Message) -> bool {
    let own = |name: &hickory_proto::rr::Name| {
        let labels: Vec<&[u8]> = name.iter().collect();
        Name::root().prepend_all(&labels).expect("a name that was read")
    };
    let zone_of = |name: &Name, above: bool| {
        let holding = apexes.iter().filter(|apex| name.is_within(apex) && !(above && *apex == name));
        holding.max_by_key(|apex| apex.as_wire().len())
    };
    reply.answers.iter().any(|record| match &record.data {
        RData::CNAME(target) => {
            let to = zone_of(&own(&target.0), query.qtype == DS);
            to.is_some() && to != zone_of(&own(&record.name), false)
        }
        _ => false,
    })
}

fn parts(message: &Message) -> [Part; 5] {
    let flags = &message.metadata;
    let of = |rtype: RecordType| message.authorities.iter().any(|record| record.record_type() == rtype);
    let refers =
        of(RecordType::NS) && !of(RecordType::SOA) && (message.answers.is_empty() || !denies(message));
    let glue: Vec<Record> =
        if message.answers.is_empty() && refers { message.additionals.clone() } else { Vec::new() };
    [
        Part::Rcode(flags.response_code),
        Part::Authoritative(flags.authoritative),
        Part::Records(records(&message.answers)),
        Part::Records(records(&message.authorities)),
        Part::Records(records(&glue)),
    ]
}

fn denies(message: &Message) -> bool {
    message.authorities.iter().any(|record| record.record_type() == RecordType::SOA)
}

/// As `section`, without the case of a DNAME's target either, which hickory does not read.
fn records(records: &[Record]) -> Section {
    let mut records = records.to_vec();
    for record in &mut records {
        if let RData::Unknown { code, rdata } = &mut record.data
            && u16::from(*code) == DNAME
        {
            rdata.anything.make_ascii_lowercase(); // lengths are at most 63, below `A`
        }
    }
    section(&records)
}

/// What a question turned out to be about.
fn kinds(query: &Query, reply: &Message) -> BTreeSet<&'static str> {
    let mut kinds = BTreeSet::new();
    let count =
        |rtype: u16| reply.answers.iter().filter(|record| u16::from(record.record_type()) == rtype).count();
    let asked = query.name.to_lowercase().to_string();
    let (aliases, renamed) = (count(5), count(DNAME));
    match (reply.metadata.response_code, reply.answers.is_empty(), denies(reply)) {
        (ResponseCode::NXDomain, true, _) => kinds.insert("NXDOMAIN"),
        (ResponseCode::NXDomain, false, _) => kinds.insert("alias to NXDOMAIN"),
        (ResponseCode::YXDomain, ..) => kinds.insert("YXDOMAIN"),
        (ResponseCode::Refused, ..) => kinds.insert("REFUSED"),
        (_, true, true) => kinds.insert("NODATA"),
        (_, false, true) => kinds.insert("alias to NODATA"),
        (_, true, false) if reply.additionals.is_empty() => kinds.insert("referral without glue"),
        (_, true, false) => kinds.insert("referral with glue"),
        (_, false, false) if !reply.authorities.is_empty() => kinds.insert("alias to referral"),
        (..) => kinds.insert("answer"),
    };
    if aliases > 1 && renamed == 0 {
        kinds.insert("chain");
    }
    if aliases > 0 && renamed > 0 {
        kinds.insert("renamed");
    }
    if renamed > 1 {
        kinds.insert("renamed twice");
    }
    let targets = reply.answers.iter().filter_map(|record| match &record.data {
        RData::CNAME(target) => Some(target.0.to_string().to_lowercase()),
        _ => None,
    });
    if targets.into_iter().any(|target| target == asked) {
        kinds.insert("loop");
    }
    if query.qtype == DS && count(DS) > 0 {
        kinds.insert("DS");
    }
    if query.qtype > 65_000 && !reply.answers.is_empty() {
        kinds.insert("unknown type");
    }
    kinds
}
