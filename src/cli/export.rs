//! `callsign export`: everything that a registry holds, for `import` to take in elsewhere.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use callsign::client::Client;
use callsign::protocol::moving::{EndForm, Line};
use callsign::protocol::{Reply, Request, StatusForm};
use clap::Args;

use super::{Asking, Done, Failure, output, private_file::PrivateFile, progress::Progress};

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
        // A lone dash is stdout, as everywhere.
        let Some(path) = self.file.as_deref().filter(|path| path.as_os_str() != "-") else {
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
        let file = PrivateFile::at(path);
        let end = self.asking.begin_at_each(&mut way, async |client| write(client, &file).await).await?;
        file.put(&output::counted(end.lines, "line"))?;
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

/// Writes all of it, from the beginning.
async fn write(mut client: Client, file: &PrivateFile<'_>) -> Result<EndForm, Failure> {
    let mut writer = file.begin()?;
    let mut progress = Progress::new("lines", None);
    let written = lines(&mut client, |line| {
        progress.step();
        let text = serde_json::to_string(line).expect("a line has a JSON form");
        writeln!(writer, "{text}").map_err(|error| file.failed(&error))
    });
    let end = written.await?;
    file.sync(writer)?;
    Ok(end)
}
