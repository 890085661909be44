//! `callsign zone`: zone files, beside the server or without it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use callsign::name::Name;
use callsign::zone::{self, Found, Kind};
use callsign::zone_folder::{Complaint, apex_of, load};
use clap::{Args, Subcommand};
use serde::Serialize;

use super::{Done, Failure, Format, USAGE, output};

/// Check zone files before a server reads them
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  callsign zone check zones/*.zone")]
pub struct Zone {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Say everything that is wrong with zone files, and what is suspicious (exit code 2 where a server refuses one)
    #[command(
        after_help = "Example:\n  callsign zone check zones/*.zone\n  callsign zone check db.corp --zone corp.test -o json"
    )]
    Check(Check),
}

#[derive(Debug, Args)]
struct Check {
    /// The files: NAME.zone is the zone NAME
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The zone that the one file is of, where its name does not say it
    #[arg(long, value_name = "NAME", value_parser = name)]
    zone: Option<Name>,
    /// A domain of the server: the file of that name has its plain records and no SOA; may be given again
    #[arg(long, value_name = "NAME", value_parser = name, default_value = "service.local")]
    domain: Vec<Name>,
    /// A table for people, one JSON value, or one JSON value a line
    #[arg(short, long, value_name = "FORM", value_enum, default_value_t = Format::Table)]
    output: Format,
}

fn name(text: &str) -> Result<Name, String> {
    Name::parse(text).map_err(|error| error.to_string())
}

impl Zone {
    pub fn run(self) -> Done {
        let Verb::Check(check) = self.verb;
        check.run()
    }
}

/// A file as it was found.
#[derive(Serialize)]
struct Checked {
    file: String,
    /// What it is of; left out where its name says none.
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<String>,
    /// A server serves it.
    ok: bool,
    records: usize,
    /// Of its SOA.
    #[serde(skip_serializing_if = "Option::is_none")]
    serial: Option<u32>,
    errors: Vec<Said>,
    warnings: Vec<Said>,
    /// Where nothing is wrong; and the place of its first record at the apex.
    #[serde(skip)]
    served: Option<(Arc<zone::Zone>, (String, usize))>,
}

#[derive(Serialize)]
struct Said {
    file: String,
    line: usize,
    reason: String,
}

impl From<Complaint> for Said {
    fn from(Complaint { file, line, reason }: Complaint) -> Self {
        Self { file, line, reason }
    }
}

impl Check {
    fn run(self) -> Done {
        if self.zone.is_some() && self.files.len() > 1 {
            return Err(Failure::new(USAGE, "--zone says what one file is of, and there are several"));
        }
        let mut checked: Vec<Checked> = self.files.iter().map(|file| self.check(file)).collect();
        self.warn_of_undelegated(&mut checked);
        match self.output {
            Format::Table => checked.iter().try_for_each(print)?,
            format => output::values(format, &checked)?,
        }
        Ok(if checked.iter().all(|one| one.ok) { ExitCode::SUCCESS } else { ExitCode::from(USAGE) })
    }

    /// A zone within another one of these is answered here in any case; who asks another server of the outer one finds it by its
    /// delegation alone.
    fn warn_of_undelegated(&self, checked: &mut [Checked]) {
        let own = |one: &Checked| one.served.as_ref().map(|(zone, _)| zone.apex.clone());
        let apexes: Vec<Option<Name>> = checked.iter().map(own).collect();
        let places: HashMap<&Name, usize> =
            apexes.iter().zip(0..).filter_map(|(apex, at)| Some((apex.as_ref()?, at))).collect();
        let fileless = self.domain.iter().filter(|domain| !places.contains_key(domain));
        for apex in apexes.iter().flatten().chain(fileless) {
            let above = apex.suffixes().skip(1).filter_map(|suffix| Name::from_wire(suffix).ok());
            let Some(at) = above.filter_map(|name| places.get(&name)).next() else { continue };
            let Checked { served: Some((outer, place)), warnings, .. } = &mut checked[*at] else { continue };
            if !matches!(outer.find(apex), Found::Delegation(_)) {
                let (file, line) = place.clone();
                let reason = format!(
                    "{} has no NS at {apex}, which is a zone of its own here: other servers of {0} deny it",
                    outer.apex
                );
                warnings.push(Said { file, line, reason });
            }
        }
    }

    fn check(&self, file: &Path) -> Checked {
        let shown = file.display().to_string();
        let apex = match self.zone.clone().map_or_else(|| apex_of(file), Ok) {
            Ok(apex) => apex,
            Err(reason) => {
                let errors = vec![Said { file: shown.clone(), line: 1, reason }];
                let (zone, serial, warnings, served) = Default::default();
                return Checked {
                    file: shown,
                    zone,
                    ok: false,
                    records: 0,
                    serial,
                    errors,
                    warnings,
                    served,
                };
            }
        };
        let kind = if self.domain.contains(&apex) { Kind::Tree } else { Kind::Primary };
        let loaded = load(file, &apex, kind);
        let place = |zone: &zone::Zone| {
            let (file, line) = loaded.files.place(zone.line());
            (file.to_owned(), line)
        };
        let served = loaded.zone.clone().map(|zone| (zone.clone(), place(&zone)));
        Checked {
            file: shown,
            zone: Some(apex.to_string()),
            ok: loaded.zone.is_some(),
            records: loaded.records,
            serial: loaded.zone.and_then(|zone| zone.soa().map(|(soa, _)| soa.serial)),
            errors: loaded.errors.into_iter().map(Said::from).collect(),
            warnings: loaded.warnings.into_iter().map(Said::from).collect(),
            served,
        }
    }
}

fn print(checked: &Checked) -> Result<(), Failure> {
    for (grade, said) in [("error", &checked.errors), ("warning", &checked.warnings)] {
        for Said { file, line, reason } in said {
            output::line(&format!("{file}:{line}: {grade}: {reason}"))?;
        }
    }
    let file = &checked.file;
    let records = output::counted(checked.records as u64, "record");
    output::line(&match (&checked.zone, checked.ok, checked.serial) {
        (Some(zone), true, Some(serial)) => format!("{file}: ok: {zone} serial {serial}, {records}"),
        (Some(zone), true, None) => format!("{file}: ok: plain records of {zone}, {records}"),
        _ => format!("{file}: refused: {}", output::counted(checked.errors.len() as u64, "error")),
    })
}
