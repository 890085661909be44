//! Changes, instances and hosts as the disk holds them: a first octet says the version, the rest is
//! postcard. The forms here never change; a new version gets new ones.

mod change;
mod check;
mod instance;
mod plain;
mod settings;
mod shared;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use self::change::{read_change, write_change};
pub use self::check::{read_host, write_host};
pub use self::instance::{Left, Near, place, read_instance, read_left, write_instance, write_left};
pub use self::plain::{plain_place, read_plain, read_token, write_plain, write_token};
pub use self::settings::{read_guard, read_settings, write_guard, write_settings};
pub use self::shared::{
    ClusterFormat, MemberForm, Note, read_format, read_member, read_noted, write_format, write_member,
    write_noted,
};
use crate::registry::Reason;

/// The version of nearly every form that this program writes.
const VERSION: u8 = 1;
/// That of the settings of a service, which held a TTL alone at first; the newest that this program reads.
const SETTINGS_VERSION: u8 = 3;
/// That of the settings without a guard, which is still read.
const UNGUARDED_VERSION: u8 = 2;
/// That of an instance that somebody owns.
const OWNED_VERSION: u8 = 2;

/// Why octets are no record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error(
        "it was written by a newer version of callsign (form {0}, and this one reads up to {SETTINGS_VERSION})"
    )]
    Newer(u8),
    #[error("it is damaged: {0}")]
    Damaged(String),
}

fn write(form: &impl Serialize) -> Vec<u8> {
    write_as(VERSION, form)
}

fn write_as(version: u8, form: &impl Serialize) -> Vec<u8> {
    // Every form is made of numbers, texts and lists, which postcard can always write into a vector.
    postcard::to_extend(form, vec![version]).expect("a form has octets")
}

fn read<'a, T: Deserialize<'a>>(octets: &'a [u8]) -> Result<T, Unreadable> {
    read_as(VERSION, octets)
}

fn read_as<'a, T: Deserialize<'a>>(version: u8, octets: &'a [u8]) -> Result<T, Unreadable> {
    postcard::from_bytes(form_of(version, octets)?).map_err(damaged)
}

/// What stands behind the version.
fn form_of(version: u8, octets: &[u8]) -> Result<&[u8], Unreadable> {
    match octets {
        [found, form @ ..] if *found == version => Ok(form),
        [found, ..] if *found > version => Err(Unreadable::Newer(*found)),
        _ => Err(Unreadable::Damaged("a record has no version".to_owned())),
    }
}

fn damaged(what: impl ToString) -> Unreadable {
    Unreadable::Damaged(what.to_string())
}

fn reason_number(reason: Reason) -> u8 {
    Reason::ALL.iter().position(|known| *known == reason).unwrap_or_default() as u8
}

fn reason(number: u8) -> Result<Reason, Unreadable> {
    Reason::ALL.get(usize::from(number)).copied().ok_or_else(|| damaged("an unknown reason"))
}

fn pairs(map: &BTreeMap<Arc<str>, Arc<str>>) -> Vec<(String, String)> {
    map.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

fn map(pairs: Vec<(String, String)>) -> BTreeMap<Arc<str>, Arc<str>> {
    pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect()
}
