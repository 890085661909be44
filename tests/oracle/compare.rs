//! Two replies to one query, section by section as sets: the same, different as listed, or a fault of somebody.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use hickory_proto::op::Message;
use hickory_proto::rr::Record;

use crate::judges::Reply;
use crate::queries::Query;
use crate::zone::Zone;

/// Octets of a record besides owner and data, and of an address.
const FIXED_OCTETS: usize = 10;
const ADDRESS_OCTETS_MAX: usize = 16;

/// What may differ, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Listed {
    /// A cut answer: which records stay is each server's choice.
    Choice,
    /// Addresses and texts beside an answer: each server adds the ones that it finds useful, and what fits.
    Additional,
}

impl Listed {
    pub const ALL: [Self; 2] = [Self::Choice, Self::Additional];

    pub fn word(self) -> &'static str {
        match self {
            Self::Choice => "choice",
            Self::Additional => "additional",
        }
    }
}

/// Owner in lower case, type.
type Owner = (String, String);
/// The records of a section: TTL and data of each, by owner.
pub type Section = BTreeMap<Owner, BTreeSet<(u32, String)>>;

pub struct Comparison {
    pub same: u64,
    counts: BTreeMap<Listed, u64>,
    pub unexplained: Vec<String>,
    /// How many records each RRset of the zones has.
    sizes: HashMap<Owner, usize>,
}

impl Comparison {
    pub fn new(zones: &[Zone]) -> Self {
        let mut sizes = HashMap::new();
        for zone in zones {
            for (owner, sets) in &zone.sets {
                let owner = callsign::name::Name::parse(owner).expect("an owner").to_string();
                sizes.extend(
                    sets.iter().map(|(rtype, (_, data))| ((owner.clone(), (*rtype).to_owned()), data.len())),
                );
            }
        }
        Self { same: 0, counts: BTreeMap::new(), unexplained: Vec::new(), sizes }
    }

    pub fn count(&self, listed: Listed) -> u64 {
        self.counts.get(&listed).copied().unwrap_or(0)
    }

    pub fn add(&mut self, judge: &str, query: &Query, ours: &Reply, theirs: &Reply) {
        let mut listed = BTreeSet::new();
        match self.differences(query, ours, theirs, &mut listed) {
            Ok(()) if listed.is_empty() => self.same += 1,
            Ok(()) => listed.into_iter().for_each(|listed| *self.counts.entry(listed).or_default() += 1),
            Err(what) => self.unexplained.push(format!(
                "{judge}: {} {} {} {}: {what}\n  ours {} octets: {}\n  {judge} {} octets: {}",
                query.name,
                query.qtype,
                query.size,
                if query.tcp { "tcp" } else { "udp" },
                ours.octets,
                shown(&ours.message),
                theirs.octets,
                shown(&theirs.message)
            )),
        }
    }

    fn differences(
        &self,
        query: &Query,
        ours: &Reply,
        theirs: &Reply,
        listed: &mut BTreeSet<Listed>,
    ) -> Result<(), &'static str> {
        let (our, their) = (&ours.message, &theirs.message);
        let same = |what, same: bool| if same { Ok(()) } else { Err(what) };
        same("rcode", our.metadata.response_code == their.metadata.response_code)?;
        same("AA", our.metadata.authoritative == their.metadata.authoritative)?;
        same("question", our.queries == their.queries)?;
        same("OPT", our.edns.is_some() == their.edns.is_some())?;
        let dnssec_ok = |message: &Message| message.edns.as_ref().map(|edns| edns.flags().dnssec_ok);
        same("DO", dnssec_ok(our) == dnssec_ok(their))?;
        let limit = match (query.tcp, query.size) {
            (true, _) => 65_535,
            (false, size) => usize::from(size).clamp(512, 1232),
        };
        same("size", ours.octets <= limit)?;
        same("TC", our.metadata.truncation == their.metadata.truncation)?;
        let (answer, theirs) = (section(&our.answers), section(&their.answers));
        if our.metadata.truncation {
            // Some of the one set, and as large as it is said to be.
            listed.insert(Listed::Choice);
            same("an empty cut answer", !answer.is_empty())?;
            for (owner, records) in &answer {
                let all = self.sizes.get(owner).copied().unwrap_or(0);
                same("a cut answer that is whole", records.len() < all)?;
            }
        } else {
            same("answer", answer == theirs)?;
        }
        same(
            "authority",
            our.metadata.truncation || section(&our.authorities) == section(&their.authorities),
        )?;
        let (beside, theirs) = (section(&our.additionals), section(&their.additionals));
        if beside != theirs {
            listed.insert(Listed::Additional);
            for (owner, records) in &beside {
                // What both have is the same, and what we have alone is whole.
                match theirs.get(owner) {
                    Some(same_owner) => same("an additional RRset", records == same_owner)?,
                    None => same("an RRset in parts", self.sizes.get(owner) == Some(&records.len()))?,
                }
            }
            // What we left out had no room.
            for (owner, records) in theirs.iter().filter(|(owner, _)| !beside.contains_key(*owner)) {
                let octets = records.len() * (owner.0.len() + 1 + FIXED_OCTETS + ADDRESS_OCTETS_MAX);
                same("additional records that fit", ours.octets + octets > limit)?;
            }
        }
        Ok(())
    }
}

/// As a set, without the case of names.
pub fn section(records: &[Record]) -> Section {
    let mut section = Section::new();
    for record in records {
        let labels: Vec<&[u8]> = record.name.iter().collect();
        let name = callsign::name::Name::root().prepend_all(&labels).expect("a name that was read");
        let owner = (name.to_lowercase().to_string(), record.record_type().to_string());
        section.entry(owner).or_default().insert((record.ttl, record.data.to_string().to_lowercase()));
    }
    section
}

/// On one line.
pub fn shown(message: &Message) -> String {
    let mut text = format!("{:?} {:?}", message.metadata.response_code, message.metadata.truncation);
    for (name, records) in [
        ("answer", &message.answers),
        ("authority", &message.authorities),
        ("additional", &message.additionals),
    ] {
        text += &format!(" | {name}");
        for record in records.iter().take(6) {
            text += &format!("; {} {} {} {}", record.name, record.ttl, record.record_type(), record.data);
        }
        if records.len() > 6 {
            text += &format!("; {} in all", records.len());
        }
    }
    text
}
