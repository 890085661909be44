//! What a store that several nodes write to holds besides: notes, members, and what was agreed on.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::change::AuthorForm;
use super::{Unreadable, VERSION, damaged, form_of, read, reason, reason_number, write};
use crate::registry::{Author, Reason};
use crate::time::Wall;

/// What a store that several nodes write to holds beside the thing itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The node that watches over it.
    pub owner: Arc<str>,
    /// Which of a node's transactions wrote it.
    pub number: u64,
    pub reason: Reason,
    pub author: Author,
    pub at: Wall,
    /// False where it is gone, and only remembered.
    pub there: bool,
}

#[derive(Serialize, Deserialize)]
struct NoteForm {
    owner: String,
    number: u64,
    reason: u8,
    author: AuthorForm,
    at: i64,
    there: bool,
}

/// What a node says of itself to the others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberForm {
    /// Random: another run of the same node is another one.
    pub run: u64,
    pub version: String,
    /// Where other machines reach it.
    pub addresses: Vec<IpAddr>,
    /// Its ports, of DNS, of registrations over TCP and of HTTP; 0 for none.
    pub dns: u16,
    pub listen: u16,
    /// Where other machines register.
    pub listen_addresses: Vec<IpAddr>,
    pub http: u16,
    /// When it started, in Unix milliseconds.
    pub started: i64,
}

/// What is agreed on before anything else: once, by the first node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterFormat {
    /// Added to the revision for the serial.
    pub serial_base: u32,
}

pub fn write_member(member: &MemberForm) -> Vec<u8> {
    write(member)
}

pub fn read_member(octets: &[u8]) -> Result<MemberForm, Unreadable> {
    read(octets)
}

pub fn write_format(format: &ClusterFormat) -> Vec<u8> {
    write(format)
}

pub fn read_format(octets: &[u8]) -> Result<ClusterFormat, Unreadable> {
    read(octets)
}

/// A note, and behind it a record.
pub fn write_noted(note: &Note, record: &[u8]) -> Vec<u8> {
    let mut octets = write(&NoteForm {
        owner: note.owner.to_string(),
        number: note.number,
        reason: reason_number(note.reason),
        author: AuthorForm::of(&note.author),
        at: note.at.unix_ms,
        there: note.there,
    });
    octets.extend_from_slice(record);
    octets
}

/// Reads a note, and returns the record behind it.
pub fn read_noted(octets: &[u8]) -> Result<(Note, &[u8]), Unreadable> {
    let (form, record): (NoteForm, _) =
        postcard::take_from_bytes(form_of(VERSION, octets)?).map_err(damaged)?;
    let note = Note {
        owner: form.owner.into(),
        number: form.number,
        reason: reason(form.reason)?,
        author: form.author.author(),
        at: Wall { unix_ms: form.at },
        there: form.there,
    };
    Ok((note, record))
}
