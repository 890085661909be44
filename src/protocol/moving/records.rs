//! Plain records as a line of an export: a set of one owner and type, written as a zone file has it.

use serde::{Deserialize, Serialize};

use crate::instance::{LEASE_MS_MAX, LEASE_MS_MIN, Lease};
use crate::name::{Apex, Name};
use crate::protocol::{Problem, lease_text, printable};
use crate::record::{Data, RrSet};
use crate::registry::PlainSet;
use crate::time::{Now, parse_duration};
use crate::zone::RRSET_RECORDS_MAX;
use crate::zone_file;

/// Plain records of one owner and type that were set by UPDATE.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordsLine {
    /// The zone that they were set in.
    pub zone: String,
    pub owner: String,
    #[serde(rename = "type")]
    pub rtype: String,
    /// Seconds.
    pub ttl: u32,
    /// As a zone file has them, one text a record.
    pub data: Vec<String>,
    /// How long they stay unless they are set again; for good where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<String>,
}

impl RecordsLine {
    pub fn of(set: &PlainSet) -> Self {
        Self {
            zone: set.apex.to_string(),
            owner: set.owner.to_string(),
            rtype: set.set.rtype.to_string(),
            ttl: set.set.ttl,
            data: set.set.data.iter().map(Data::to_string).collect(),
            lease: Some(set.lease).filter(|lease| *lease != Lease::None).map(lease_text),
        }
    }

    pub(super) fn set(&self, now: Now) -> Result<PlainSet, Problem> {
        let unfit = |field, text: &str, what: &str| {
            Problem::invalid(field, format!("must be {what}, not `{}`", printable(text)))
        };
        let apex = Apex::parse(&self.zone).map_err(|error| Problem::invalid("zone", error))?;
        let owner = Name::parse(&self.owner).map_err(|error| Problem::invalid("owner", error))?;
        if self.data.is_empty() || self.data.len() > RRSET_RECORDS_MAX {
            let rule = format!("must hold 1 to {RRSET_RECORDS_MAX} records, not {}", self.data.len());
            return Err(Problem::invalid("data", rule));
        }
        let mut data: Vec<Data> = Vec::with_capacity(self.data.len());
        for text in &self.data {
            // As a line of a zone file, which is one record and nothing else.
            let line = format!("{owner} {} IN {} {text}\n", self.ttl, self.rtype);
            let read = zone_file::read(line.as_bytes(), apex.name()).ok().filter(|read| read.len() == 1);
            let record = read.and_then(|mut read| read.pop()).map(|(_, record)| record);
            let record = record.filter(|record| record.data.rtype().to_string() == self.rtype);
            let record =
                record.ok_or_else(|| unfit("data", text, "data of its type as a zone file has them"))?;
            data.push(record.data);
        }
        let lease = match self.lease.as_deref() {
            None => Lease::None,
            Some(text) => {
                let lease = parse_duration(text)
                    .filter(|lease| (LEASE_MS_MIN..=LEASE_MS_MAX).contains(&(lease.as_millis() as u64)));
                Lease::Timed(lease.ok_or_else(|| unfit("lease", text, "a duration of 1s to 7d"))?)
            }
        };
        let set = RrSet { rtype: data[0].rtype(), ttl: self.ttl, data };
        Ok(PlainSet::new(&apex, &owner, set, lease, now))
    }
}
