//! `callsign export`: everything that a registry holds, for `import` to take in elsewhere.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use callsign::client::Client;
use callsign::protocol::moving::{EndForm, Line};
use callsign::protocol::{Reply, Request, StatusForm};
use clap::Args;

use super::{Asking, Done, FAILED, Failure, output, progress::Progress};

/// Print everything that the registry holds, as lines of JSON
///
/// All of it is of one moment: instances with their leases and checks, hosts, settings of services, tokens (their
/// hashes), owners, records that were set by UPDATE. `callsign import` takes the lines in, also where another store is. Only an
/// administrator may have them.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  callsign export registry.jsonl\n  callsign export --server unix:/run/a.sock registry.jsonl && callsign import --server unix:/run/b.sock registry.jsonl"
)]
pub struct Export {
    /// The file to write, for its owner alone; one that is there is replaced once the new one is whole
    /// [default: stdout]
    file: Option<PathBuf>,
    #[command(flatten)]
    asking: Asking,
}

impl Export {
    pub async fn run(self) -> Done {
        let mut way = self.asking.way()?;
        let Some(path) = &self.file else {
            let printing = async |mut client| {
                let mut begun = false;
                let printed = lines(&mut client, |line: &Line| {
                    begun = true;
                    output::value(output::Format::Jsonl, line)
                });
                // What is printed cannot be begun again.
                printed.await.map_err(|failure| Failure { elsewhere: failure.elsewhere && !begun, ..failure })
            };
            self.asking.begin_at_each(&mut way, printing).await?;
            return Ok(ExitCode::SUCCESS);
        };
        let mut new = path.as_os_str().to_owned();
        new.push(".new");
        let new = PathBuf::from(new);
        let written = self.asking.begin_at_each(&mut way, async |client| write(client, &new).await).await;
        let end = written.inspect_err(|_| drop(fs::remove_file(&new)))?; // half an export is none
        fs::rename(&new, path).map_err(|error| failed(path, &error))?;
        output::line(&format!("{}: {} lines", path.display(), end.lines))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Asks for everything and hands every line to `write`; the last one.
pub async fn lines(
    client: &mut Client,
    mut write: impl FnMut(&Line) -> Result<(), Failure>,
) -> Result<EndForm, Failure> {
    client.send(&Request::Export(StatusForm {})).await?;
    loop {
        let line = match client.receive().await? {
            Reply::Exported(line) => line,
            other => return Err(client.unexpected(&other).into()),
        };
        write(&line)?;
        if let Line::End(end) = line {
            return Ok(end);
        }
    }
}

/// What leases are renewed with is in it, and hashes of tokens: nobody else's to read.
async fn write(mut client: Client, path: &Path) -> Result<EndForm, Failure> {
    drop(fs::remove_file(path)); // what an export that was ended left behind may have another mode
    let file = File::options().create_new(true).write(true).mode(0o600).open(path);
    let mut file = BufWriter::new(file.map_err(|error| failed(path, &error))?);
    let mut progress = Progress::new("lines", None);
    let written = lines(&mut client, |line| {
        progress.step();
        let text = serde_json::to_string(line).expect("a line has a JSON form");
        writeln!(file, "{text}").map_err(|error| failed(path, &error))
    });
    let end = written.await?;
    file.flush().and_then(|()| file.get_ref().sync_all()).map_err(|error| failed(path, &error))?;
    Ok(end)
}

fn failed(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(FAILED, format!("writing {}: {error}", path.display()))
}
