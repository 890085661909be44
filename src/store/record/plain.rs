//! Plain records that UPDATE set, and tokens.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Unreadable, damaged, read, write};
use crate::access::{Grant, Token};
use crate::instance::Lease;
use crate::name::{Apex, Name};
use crate::record::{Data, RrSet, Type};
use crate::registry::PlainSet;
use crate::time::{Now, Wall};

/// Plain records of one owner and type.
#[derive(Serialize, Deserialize)]
pub(super) struct PlainForm {
    /// Both in presentation form.
    apex: String,
    owner: String,
    rtype: u16,
    ttl: u32,
    /// As on the wire, without compression.
    data: Vec<Vec<u8>>,
    lease_ms: Option<u64>,
}

impl PlainForm {
    pub(super) fn of(PlainSet { apex, owner, set, lease, .. }: &PlainSet) -> Self {
        Self {
            apex: apex.to_string(),
            owner: owner.to_string(),
            rtype: set.rtype.0,
            ttl: set.ttl,
            data: set.data.iter().map(Data::to_wire).collect(),
            lease_ms: match lease {
                Lease::Timed(duration) => Some(duration.as_millis() as u64),
                Lease::Connection(_) | Lease::None => None,
            },
        }
    }

    pub(super) fn set(self, now: Now) -> Result<PlainSet, Unreadable> {
        let rtype = Type(self.rtype);
        let data =
            |octets: &Vec<u8>| Data::from_wire(rtype, octets).ok_or_else(|| damaged("data of no record"));
        let data = self.data.iter().map(data).collect::<Result<_, _>>()?;
        let (apex, owner) =
            (Apex::parse(&self.apex).map_err(damaged)?, Name::parse(&self.owner).map_err(damaged)?);
        if !owner.is_within(apex.name()) {
            return Err(damaged("a record outside its zone"));
        }
        let lease = self.lease_ms.map_or(Lease::None, |ms| Lease::Timed(Duration::from_millis(ms)));
        Ok(PlainSet::new(&apex, &owner, RrSet { rtype, ttl: self.ttl, data }, lease, now))
    }
}

/// Where plain records are kept: by owner, in lower case, and type.
pub fn plain_place(set: &PlainSet) -> Vec<u8> {
    [set.owner.to_lowercase().as_wire(), &set.set.rtype.0.to_be_bytes()].concat()
}

pub fn write_plain(set: &PlainSet) -> Vec<u8> {
    write(&PlainForm::of(set))
}

/// Reads plain records; their lease begins at `now`.
pub fn read_plain(octets: &[u8], now: Now) -> Result<PlainSet, Unreadable> {
    read::<PlainForm>(octets)?.set(now)
}

/// A token; what it allows and denies in the words that say so.
#[derive(Serialize, Deserialize)]
pub(super) struct TokenForm {
    name: String,
    number: u64,
    hash: [u8; 32],
    allow: Vec<String>,
    deny: Vec<String>,
    created: i64,
    expires: Option<i64>,
}

impl TokenForm {
    pub(super) fn of(token: &Token) -> Self {
        let grants = |allows| {
            token.grants.iter().filter(|grant| grant.allows == allows).map(Grant::to_string).collect()
        };
        Self {
            name: token.name.to_string(),
            number: token.number,
            hash: token.hash,
            allow: grants(true),
            deny: grants(false),
            created: token.created.unix_ms,
            expires: token.expires.map(|expires| expires.unix_ms),
        }
    }

    pub(super) fn token(self) -> Result<Token, Unreadable> {
        let grants = [(self.allow, true), (self.deny, false)].into_iter();
        let grants = grants.flat_map(|(texts, allows)| texts.into_iter().map(move |text| (text, allows)));
        Ok(Token {
            name: self.name.into(),
            number: self.number,
            hash: self.hash,
            grants: grants
                .map(|(text, allows)| Grant::parse(&text, allows))
                .collect::<Result<_, _>>()
                .map_err(damaged)?,
            created: Wall { unix_ms: self.created },
            expires: self.expires.map(|unix_ms| Wall { unix_ms }),
        })
    }
}

pub fn write_token(token: &Token) -> Vec<u8> {
    write(&TokenForm::of(token))
}

pub fn read_token(octets: &[u8]) -> Result<Token, Unreadable> {
    read::<TokenForm>(octets)?.token()
}
