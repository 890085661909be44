//! A registry on its way to another one: the lines of an export, which an import takes.
//!
//! A line is what would register the thing, and beside it what no registration says: since when it is so, whose it is,
//! what its checks said. Revisions are a store's own and not in it; what left, and guards in force, are over
//! before anybody has moved.
//!
//! Each kind of thing has its line in a room of its own (`token`, `records`, `host`, `instance`); here is what leads into
//! them, and the first line and the last.

mod checks;
mod consul;
mod host;
mod instance;
mod records;
mod token;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use self::checks::CheckLine;
pub use self::consul::{ConsulForm, TaggedForm};
pub use self::host::HostLine;
pub use self::instance::{InstanceLine, OwnerForm};
pub use self::records::RecordsLine;
pub use self::token::TokenLine;
use super::{Problem, SettingsForm, printable};
use crate::instance::ServiceSettings;
use crate::name::{Apex, ServiceName};
use crate::registry::{How, Imported};
use crate::time::{Now, Wall, parse_time};

/// The form of the lines that this program writes, and the newest that it reads.
pub const VERSION: u32 = 1;
/// Longest line of an import: an instance with what its checks said may be longer than any request.
pub const IMPORT_OCTETS_MAX: usize = 8 * super::FRAME_OCTETS_MAX;
/// Octets of a source, of a host's id and of an address as Consul's clients wrote it.
const TEXT_OCTETS_MAX: usize = 4096;

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Line {
    /// The first.
    Callsign(HeadForm),
    Token(TokenLine),
    Host(HostLine),
    Settings(Box<SettingsForm>),
    Instance(Box<InstanceLine>),
    Records(RecordsLine),
    /// The last: a file without it is not whole.
    End(EndForm),
}

/// Where the lines are from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadForm {
    /// `VERSION` of whoever wrote them.
    pub version: u32,
    /// The version of the program.
    pub program: String,
    pub at: String,
    pub revision: u64,
    /// That of the SOA, which is the base plus the revision.
    pub serial: u32,
    pub serial_base: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndForm {
    /// Lines between the first and this one.
    pub lines: u64,
    /// Records set by UPDATE that no line has: the first programs of this form left them out, and said so.
    #[serde(default, skip_serializing)]
    pub records_left_out: u64,
}

/// A line to take in, and what may become of what is there.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportForm {
    pub line: Line,
    #[serde(default)]
    pub how: HowForm,
}

/// See [`How`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HowForm {
    #[default]
    Add,
    Update,
    Replace,
    Remove,
}

/// What came of a line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImportedForm {
    /// False where it was so already.
    pub changed: bool,
    pub revision: u64,
    pub serial: u32,
}

impl From<HowForm> for How {
    fn from(form: HowForm) -> Self {
        match form {
            HowForm::Add => Self::Add,
            HowForm::Update => Self::Update,
            HowForm::Replace => Self::Replace,
            HowForm::Remove => Self::Remove,
        }
    }
}

/// How far a serial has to rise to be above `theirs`; 0 where it is (RFC 1982 section 3.2).
pub fn serial_behind(ours: u32, theirs: u32) -> u32 {
    match theirs.wrapping_sub(ours) {
        ahead @ 0..0x7fff_ffff => ahead + 1,
        // As far as a serial can rise at once, or above them already.
        0x7fff_ffff => 0x7fff_ffff,
        _ => 0,
    }
}

impl HeadForm {
    /// # Errors
    ///
    /// A newer version wrote it.
    pub fn check(&self) -> Result<(), Problem> {
        match self.version {
            1..=VERSION => Ok(()),
            version => {
                let rule =
                    format!("is {version}, and this program reads up to {VERSION}; import with a newer one");
                Err(Problem::invalid("version", rule))
            }
        }
    }
}

impl Line {
    /// What the line says, checked as a request is; `None` for the first and the last.
    ///
    /// A name below one of `apexes` is a service's. `random` is the id of a lease that the line has none of, and leases
    /// begin at `now`.
    ///
    /// # Errors
    ///
    /// A field does not fit; the problem names it.
    pub fn imported(
        &self,
        apexes: &[Apex],
        loopback_allowed: bool,
        random: u64,
        now: Now,
    ) -> Result<Option<Imported>, Problem> {
        Ok(match self {
            Self::Callsign(head) => {
                head.check()?;
                None
            }
            Self::End(_) => None,
            Self::Token(line) => Some(Imported::Token(Arc::new(line.token(now)?))),
            Self::Host(line) => Some(Imported::Host(line.host(now)?)),
            Self::Settings(form) => {
                let (service, configuration) = form.configuration(apexes)?;
                let settings = configuration.map(|configuration| configuration.given);
                let settings = settings.ok_or_else(|| {
                    Problem::invalid("service", "has no settings in this line; leave the line out")
                })?;
                Some(Imported::Settings(service, settings))
            }
            Self::Records(line) => Some(Imported::Records(line.set(now)?)),
            Self::Instance(line) => Some(Imported::Instance(line.instance(loopback_allowed, random, now)?)),
        })
    }

    pub fn settings(service: &ServiceName, settings: &ServiceSettings) -> Self {
        Self::Settings(Box::new(SettingsForm::of(service, settings)))
    }
}

fn text(field: &str, given: &str) -> Result<Arc<str>, Problem> {
    match given.len() <= TEXT_OCTETS_MAX && !given.chars().any(char::is_control) {
        true => Ok(given.into()),
        false => {
            Err(Problem::invalid(field, format!("must be at most {TEXT_OCTETS_MAX} octets without controls")))
        }
    }
}

fn time(field: &str, given: &str, now: Now) -> Result<Wall, Problem> {
    parse_time(given, now.wall).ok_or_else(|| {
        Problem::invalid(
            field,
            format!("must be a time such as 2026-11-21T15:04:05Z, not `{}`", printable(given)),
        )
    })
}

fn hexadecimal(field: &str, given: &str) -> Result<u64, Problem> {
    let number = u64::from_str_radix(given, 16).ok().filter(|_| given.len() == 16);
    number.ok_or_else(|| Problem::invalid(field, "must be 16 hexadecimal digits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_rises_above_the_other_and_never_falls() {
        for (ours, theirs, rise) in [
            (5, 4, 0),
            (5, 5, 1),
            (5, 9, 5),
            (u32::MAX, 3, 5),
            (3, u32::MAX, 0),
            (0, 0x7fff_fffe, 0x7fff_ffff),
            (0, 0x7fff_ffff, 0x7fff_ffff),
            (0, 0x8000_0000, 0),
        ] {
            assert_eq!(serial_behind(ours, theirs), rise, "{ours} {theirs}");
        }
    }
}
