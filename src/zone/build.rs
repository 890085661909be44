//! How records become a zone, and what is wrong with them.

use thiserror::Error;

use super::Zone;
use crate::grammar::{self, Owner};
use crate::name::{Name, ServiceName};
use crate::record::{Data, Record, RrSet, Type};

/// Most records of one owner and type. An answer holds 65,535 octets and the smallest record needs 16
/// of them, so a larger set could never be sent; the limit also keeps the search for duplicates short.
pub const RRSET_RECORDS_MAX: usize = 4096;
/// Most warnings that one zone returns: a file with one wrong habit throughout must not bury the log.
pub const WARNINGS_MAX: usize = 100;
/// Largest TTL (RFC 2181 section 8).
pub const TTL_MAX: u32 = i32::MAX as u32;
/// Types that only a signed zone holds. We answer none of them where they belong yet, so a signed
/// file would look bogus to every validator.
const SIGNED: [(u16, &str); 3] = [(46, "RRSIG"), (47, "NSEC"), (50, "NSEC3")];

/// What the servers of the live zone are called: they, and where they take registrations.
const OWN: [&[u8]; 2] = [b"ns", b"callsign"];

/// Why a zone is refused. The caller puts the file's name in front: `file:line: reason`.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("line {line}: {reason}")]
pub struct ZoneError {
    /// From 1: the first line of the offending record.
    pub line: usize,
    pub reason: String,
}

/// What was mended while a zone was built.
#[derive(Debug, PartialEq, Eq)]
pub struct ZoneWarning {
    /// From 1: the first line of the record that gave cause.
    pub line: usize,
    pub reason: String,
}

/// What a file of records is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A whole zone: exactly one SOA and at least one NS at its apex.
    Primary,
    /// The record tree of the live zone: no SOA, for the registry makes it.
    Tree,
}

impl Zone {
    /// The same, with everything that is wrong with it, `errors_max` at most; where something is, it is no zone to serve.
    pub fn build(
        apex: Name,
        kind: Kind,
        records: Vec<(usize, Record)>,
        errors_max: usize,
    ) -> (Self, Vec<ZoneWarning>, Vec<ZoneError>) {
        let last_line = records.last().map_or(1, |(line, _)| *line);
        let first_line = records.first().map_or(0, |(line, _)| *line);
        let mut zone = Self::with_apex(apex, kind, first_line);
        let (mut warnings, mut errors) = (Vec::new(), Vec::new());
        for (line, record) in records {
            if errors.len() == errors_max {
                return (zone, warnings, errors);
            }
            if let Err(reason) = zone.insert(line, record, &mut warnings) {
                errors.push(ZoneError { line, reason });
            }
        }
        if kind == Kind::Primary {
            let missing = match (&zone.soa, zone.apex_node().and_then(|node| node.set(Type::NS))) {
                (None, _) => Some("SOA"),
                (_, None) => Some("NS"),
                _ => None,
            };
            if let Some(missing) = missing {
                let reason = format!("the file ends without a record {missing} at {}", zone.apex);
                errors.push(ZoneError { line: last_line, reason });
            }
        }
        if errors.len() < errors_max
            && let Err(error) = zone.refuse_below_renamed()
        {
            errors.push(error);
        }
        (zone, warnings, errors)
    }

    /// Below a DNAME is nothing (RFC 6672 section 2.4): a record there would be hidden for good.
    fn refuse_below_renamed(&self) -> Result<(), ZoneError> {
        if !self.nodes().any(|node| node.renamed) {
            return Ok(());
        }
        let apex_octets = self.apex.as_wire().len();
        let hidden = self.nodes().filter(|node| !node.sets.is_empty()).filter_map(|node| {
            let lower = node.name.to_lowercase();
            let above = lower.suffixes().skip(1).take_while(|suffix| suffix.len() >= apex_octets);
            let renamed = above.filter_map(|suffix| self.node_at(suffix)).find(|above| above.renamed)?;
            Some((node, renamed))
        });
        match hidden.min_by_key(|(node, _)| node.line) {
            None => Ok(()),
            Some((node, renamed)) => {
                let reason = format!("{} is below the DNAME at {}, which hides it", node.name, renamed.name);
                Err(ZoneError { line: node.line, reason })
            }
        }
    }

    /// Puts one record where it belongs, or says why it may not be there.
    pub(super) fn insert(
        &mut self,
        line: usize,
        record: Record,
        warnings: &mut Vec<ZoneWarning>,
    ) -> Result<(), String> {
        let Record { owner, ttl, data } = record;
        let rtype = data.rtype();
        admit(&self.apex, self.kind, &owner, ttl, &data)?;
        if rtype == Type::CNAME && self.kind == Kind::Tree && may_be_answered(&owner, &self.apex) {
            return Err(format!(
                "a CNAME at {owner} would stand beside what the registry has or may come to have there"
            ));
        }
        let at_apex = owner == self.apex;
        let node = self.reach(line, &owner);
        if node.sets.is_empty() {
            (node.name, node.line) = (owner, line);
        }
        if let Some(set) = node.sets.iter_mut().find(|set| set.rtype == rtype) {
            join(set, &node.name, ttl, data, line, warnings)?;
        } else {
            // RFC 1034 section 3.6.2, RFC 2181 section 10.1.
            if !node.sets.is_empty() && (rtype == Type::CNAME || node.set(Type::CNAME).is_some()) {
                return Err(format!("{} has a CNAME and other data", node.name));
            }
            node.cut |= rtype == Type::NS && !at_apex;
            node.renamed |= rtype == Type::DNAME;
            // RFC 6672 section 2.3: the DNAME would be the other zone's.
            if node.cut && node.renamed {
                return Err(format!("{} has NS and a DNAME; below the apex it has one of them", node.name));
            }
            node.sets.push(RrSet { rtype, ttl, data: vec![data] });
        }
        let made = node.set(Type::SOA).and_then(|set| Some((set.data.first()?.clone(), set.ttl)));
        if let Some((Data::Soa(soa), ttl)) = made {
            self.soa = Some((soa, ttl));
        }
        Ok(())
    }
}

/// What a record must be whatever else the zone holds.
///
/// # Errors
///
/// Why it may not be there, as a sentence.
pub fn admit(apex: &Name, kind: Kind, owner: &Name, ttl: u32, data: &Data) -> Result<(), String> {
    if !owner.is_within(apex) {
        return Err(format!("{owner} is not within the zone {}", apex));
    }
    if ttl > TTL_MAX {
        return Err(format!("the TTL {ttl} is larger than {TTL_MAX} (RFC 2181 section 8)"));
    }
    let rtype = data.rtype();
    if let Some((_, signed)) = SIGNED.iter().find(|(number, _)| rtype == Type(*number)) {
        return Err(format!("{signed} belongs to a signed zone; give the zone unsigned"));
    }
    match rtype {
        Type::DNAME if kind == Kind::Tree && owner == apex => {
            Err(format!("a DNAME at {owner} would hide every service; put it at a name below"))
        }
        Type::NS | Type::DNAME if kind == Kind::Tree && is_registrys(owner, apex) => Err(format!(
            "{rtype} at {owner} would hide names that the registry has or may come to have; put it at or below a name \
             that a service could have"
        )),
        // RFC 6895 section 3.1: 0, OPT and 128 to 255 are no data.
        Type::OPT | Type(0 | 128..=255) => Err(format!("{} is not a type of data", rtype)),
        Type::SOA if kind == Kind::Tree => {
            Err(format!("the SOA of {} is made by the registry; leave it out", apex))
        }
        Type::SOA if owner != apex => {
            Err(format!("a SOA stands at {owner}, below the apex {} of the zone", apex))
        }
        Type::CNAME if owner == apex => {
            Err(format!("{owner} is the apex, with a SOA and NS, so it cannot have a CNAME"))
        }
        // RFC 4592 section 4.2 leaves its meaning open; BIND refuses it too.
        Type::NS if owner.labels().next() == Some(b"*") => {
            Err(format!("NS at the wildcard {owner} has no defined meaning"))
        }
        _ => Ok(()),
    }
}

/// True where the live zone may come to have a name at `owner` or below it, whoever registers. A name that a service could have is
/// none: with a record there, or below it, it is taken.
fn is_registrys(owner: &Name, apex: &Name) -> bool {
    let lower = owner.to_lowercase();
    let labels = lower.labels_below(apex).unwrap_or_default();
    labels.last().is_some_and(|top| top.starts_with(b"_") || OWN.contains(top))
}

/// True where the registry has records at `owner`, or a registration may bring some that no record of the file keeps away: an
/// alias there would be one beside other data (RFC 1034 section 3.6.2), and secondaries refuse a zone for that. An UPDATE is
/// judged by what is registered.
fn may_be_answered(owner: &Name, apex: &Name) -> bool {
    let lower = owner.to_lowercase();
    match grammar::parse(&lower.labels_below(apex).unwrap_or_default()) {
        Some(
            Owner::NameServer(_)
            | Owner::Registration(_)
            | Owner::Registrations
            | Owner::Types
            | Owner::Browse,
        ) => true,
        Some(
            Owner::ByTransport(service, _)
            | Owner::ByTag { service, .. }
            | Owner::TypeInstance { service, .. }
            | Owner::Subtype { service, .. },
        ) => ServiceName::parse(service).is_ok(),
        _ => false,
    }
}

/// Adds a record to the set of its type, or says why the set may not have it.
fn join(
    set: &mut RrSet,
    owner: &Name,
    ttl: u32,
    data: Data,
    line: usize,
    warnings: &mut Vec<ZoneWarning>,
) -> Result<(), String> {
    if set.ttl != ttl {
        // RFC 2181 section 5.2 forbids it and lets a reader take the lowest.
        let lowest = set.ttl.min(ttl);
        let reason = format!(
            "the records {} of {owner} differ in TTL, {ttl} here and {} before; {lowest} counts for all",
            set.rtype, set.ttl
        );
        warn(warnings, line, reason);
        set.ttl = lowest;
    }
    if set.data.contains(&data) {
        return Ok(());
    }
    match set.rtype {
        Type::SOA => Err("a zone has one SOA, and this is the second".to_owned()),
        Type::CNAME | Type::DNAME => Err(format!("{owner} has two {}s", set.rtype)),
        _ if set.data.len() == RRSET_RECORDS_MAX => Err(format!(
            "{owner} has more than {RRSET_RECORDS_MAX} records {}, more than a message holds",
            set.rtype
        )),
        _ => {
            set.data.push(data);
            Ok(())
        }
    }
}

fn warn(warnings: &mut Vec<ZoneWarning>, line: usize, reason: String) {
    match warnings.len() {
        0..WARNINGS_MAX => warnings.push(ZoneWarning { line, reason }),
        WARNINGS_MAX => {
            warnings.push(ZoneWarning { line, reason: "further warnings are left out".to_owned() })
        }
        _ => {}
    }
}
