//! `callsign store`: checks, backs up and restores what the embedded store keeps.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use callsign::client::Client;
use callsign::clock::Clock;
use callsign::config::Surroundings;
use callsign::protocol::{Reply, Request, StatusForm};
use callsign::store::embedded::{self, OpenError, Raw};
use clap::{Args, Subcommand};

use super::{
    Asking, Done, FAILED, Failure, UNAVAILABLE, USAGE, output, private_file::PrivateFile, progress::Progress,
};

/// Check, back up or restore the embedded store
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  callsign store backup registry.backup\n  callsign store check --data /var/lib/callsign\n  callsign store restore registry.backup"
)]
pub struct Store {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Read every page and record; no server may be running on the directory
    #[command(after_help = "Example:\n  callsign store check --data /var/lib/callsign")]
    Check(Place),
    /// Write a backup while the server serves
    #[command(after_help = "Example:\n  callsign store backup registry.backup")]
    Backup(Backup),
    /// Make a backup the store; no server may be running on the directory
    #[command(after_help = "Example:\n  callsign store restore registry.backup --data /var/lib/callsign")]
    Restore(Restore),
}

#[derive(Debug, Args)]
struct Place {
    /// The directory of the store [default: $XDG_STATE_HOME/callsign; /var/lib/callsign for root]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Backup {
    /// The file to write; one that is there is replaced once the new one is whole
    file: PathBuf,
    #[command(flatten)]
    asking: Asking,
}

#[derive(Debug, Args)]
struct Restore {
    /// A file that `backup` wrote
    file: PathBuf,
    #[command(flatten)]
    place: Place,
}

impl Store {
    pub async fn run(self) -> Done {
        match self.verb {
            Verb::Check(place) => check(&place.directory()?),
            Verb::Backup(backup) => backup.run().await,
            Verb::Restore(restore) => restore.run(),
        }
    }
}

impl Place {
    fn directory(self) -> Result<PathBuf, Failure> {
        let usual = || Failure::new(USAGE, "where the store is cannot be guessed; name it with --data DIR");
        self.data.or_else(|| Surroundings::here().data()).ok_or_else(usual)
    }
}

fn check(directory: &Path) -> Done {
    let checked = embedded::check(directory, Clock::start().now()).map_err(failure)?;
    output::line(&format!(
        "{}: {}, {} remembered, {}, revision {}",
        directory.display(),
        output::counted(checked.instances as u64, "instance"),
        checked.gone,
        output::counted(checked.changes, "change"),
        checked.revision
    ))?;
    Ok(ExitCode::SUCCESS)
}

impl Backup {
    async fn run(self) -> Done {
        let mut client = self.asking.connect().await?;
        client.send(&Request::Backup(StatusForm {})).await?;
        let file = PrivateFile::at(&self.file);
        let records = write(&mut client, &file).await?;
        file.put(&output::counted(records, "record"))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Writes what comes until it is whole; how many records that are.
async fn write(client: &mut Client, file: &PrivateFile<'_>) -> Result<u64, Failure> {
    let mut writer = file.begin()?;
    let mut progress = Progress::new("records", None);
    loop {
        let reply = client.receive().await?;
        progress.step();
        match &reply {
            Reply::Record(_) | Reply::Backup(_) => {
                let line = serde_json::to_string(&reply).expect("a reply has a JSON form");
                writeln!(writer, "{line}").map_err(|error| file.failed(&error))?;
            }
            other => return Err(client.unexpected(other).into()),
        }
        if let Reply::Backup(end) = reply {
            file.sync(writer)?;
            return Ok(end.records);
        }
    }
}

impl Restore {
    fn run(self) -> Done {
        let records = read(&self.file)?;
        let directory = self.place.directory()?;
        let mut progress = Progress::new("records", Some(records.len() as u64));
        let written = || progress.step();
        let aside =
            embedded::restore(&directory, &records, Clock::start().now(), written).map_err(failure)?;
        drop(progress);
        let count = output::counted(records.len() as u64, "record");
        output::line(&format!("{}: {count}", directory.display()))?;
        if let Some(aside) = aside {
            output::line(&format!("what was there is kept as {}", aside.display()))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The records of a backup, once it is known to be whole.
fn read(path: &Path) -> Result<Vec<Raw>, Failure> {
    let shown = path.display();
    let failed = |what: String| Failure::new(FAILED, format!("{shown}: {what}"));
    let file = File::open(path).map_err(|error| failed(error.to_string()))?;
    let (mut records, mut digest) = (Vec::new(), 0);
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(|error| failed(error.to_string()))?;
        let damaged = || failed(format!("line {} is no record of a backup", number + 1));
        match serde_json::from_str(&line).map_err(|_| damaged())? {
            Reply::Record(record) => {
                let (key, value) = (octets(&record.key), octets(&record.value));
                let (key, value) = (key.ok_or_else(damaged)?, value.ok_or_else(damaged)?);
                digest = record.digest(digest);
                records.push((record.table, key, value));
            }
            Reply::Backup(end)
                if end.records == records.len() as u64 && end.digest == format!("{digest:016x}") =>
            {
                return Ok(records);
            }
            Reply::Backup(_) => {
                return Err(failed("the backup was changed: its digest does not fit".to_owned()));
            }
            _ => return Err(damaged()),
        }
    }
    Err(failed("the backup is not whole: its end is missing".to_owned()))
}

fn octets(hexadecimal: &str) -> Option<Vec<u8>> {
    let digits = hexadecimal.as_bytes();
    let octet = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.len().is_multiple_of(2).then(|| digits.chunks(2).map(octet).collect())?
}

fn failure(error: OpenError) -> Failure {
    let code = if matches!(error, OpenError::Held { .. }) { UNAVAILABLE } else { FAILED };
    Failure::new(code, error.to_string())
}
