//! `callsign import`: what another registry holds, put into this one; from an export, or from a running Consul.
//!
//! A file is read twice: first every line is looked at, so that one that cannot be taken is named before anything is
//! changed; then each is put in by itself. What ends in the middle is said again: what is so already is no change.

mod catalog;
mod consul;
mod follow;

use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use callsign::client::{Client, ClientError};
use callsign::name::Tag;
use callsign::protocol::moving::{HowForm, IMPORT_OCTETS_MAX, ImportForm, Line};
use callsign::protocol::{Problem, Reply, Request, decode};
use callsign::registry::Imported;
use callsign::time::Now;
use clap::Args;
use serde::Serialize;

use self::consul::{Base, Consul};
use super::{Asking, Done, FAILED, Failure, Format, UNAVAILABLE, export, message, output};

/// Lines sent whose answers are still to come: the server commits so many together.
const UNDER_WAY_MAX: usize = 256;

/// Take in what `export` printed, or what a running Consul has
///
/// What is here already stays as it is, and the second time changes nothing. All lines are looked at first, then
/// each is put in by itself: what was interrupted is said again. Timed leases begin anew, and the SOA's serial rises
/// above that of the other registry.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  callsign import registry.jsonl\n  callsign import --from-consul http://127.0.0.1:8500 --follow"
)]
pub struct Import {
    /// A file that `export` wrote
    #[arg(required_unless_present = "from_consul", conflicts_with = "from_consul")]
    file: Option<PathBuf>,
    /// Make the registry what the file says: change what is otherwise here, and take away what is not in it
    #[arg(long, conflicts_with = "from_consul")]
    replace: bool,
    /// Read the nodes, services and checks of this Consul instead; http://HOST:PORT or https://HOST:PORT
    /// [env: CONSUL_HTTP_TOKEN holds its token]
    #[arg(long, value_name = "URL")]
    from_consul: Option<Base>,
    /// Go on with what changes at Consul, until stopped
    #[arg(long, requires = "from_consul", conflicts_with = "file")]
    follow: bool,
    /// Follow Consul also where it has suddenly no service any more
    #[arg(long, requires = "follow")]
    allow_empty: bool,
    /// What to mark as from there, and know again: the same name for the same Consul, at whatever URL [default: the URL]
    #[arg(long, value_name = "NAME", value_parser = mark, requires = "from_consul", conflicts_with = "file")]
    mark: Option<String>,
    /// Who signs the certificate of a Consul at https:// [default: whom this machine trusts]
    #[arg(long, value_name = "FILE", requires = "from_consul", conflicts_with = "file")]
    consul_authority: Option<PathBuf>,
    #[command(flatten)]
    asking: Asking,
}

impl Import {
    pub async fn run(self) -> Done {
        let Some(base) = &self.from_consul else {
            let path = self.file.clone().unwrap_or_default();
            return self.take_in(&path).await;
        };
        let source = format!("consul {}", self.mark.clone().unwrap_or_else(|| base.to_string()));
        let consul = Consul::new(base.clone(), source, self.consul_authority.clone())?;
        match self.follow {
            true => follow::follow(&self.asking, consul, self.allow_empty).await,
            false => {
                let counts = follow::once(&self.asking, &consul).await?;
                counts.end(self.asking.output)
            }
        }
    }

    async fn take_in(&self, path: &Path) -> Done {
        let names = check(path).map_err(|failure| Failure {
            sentence: format!("{}; nothing was imported", failure.sentence),
            ..failure
        })?;
        // What is so already is no change: so the next server is given the file from its beginning.
        let taking = async |client| self.put_in(client, path, &names).await;
        let counts = self.asking.begin_at_each(&mut self.asking.way()?, taking).await?;
        counts.end(self.asking.output)
    }

    async fn put_in(
        &self,
        mut client: Client,
        path: &Path,
        names: &BTreeSet<String>,
    ) -> Result<Counts, Failure> {
        let others = match self.replace {
            true => others(&mut client, names).await?,
            false => Vec::new(),
        };
        let how = if self.replace { HowForm::Replace } else { HowForm::Add };
        let mut putting = Putting::new(client, self.asking.timeout);
        let mut lines = Lines::open(path)?;
        while let Some(line) = lines.next()? {
            if !matches!(line, Line::End(_)) {
                putting.put(lines.place(), line, how).await?;
            }
        }
        // After what is put in, so that no service is without its instances meanwhile; tokens last: ours may be one.
        let (tokens, rest): (Vec<Line>, Vec<Line>) =
            others.into_iter().partition(|line| matches!(line, Line::Token(_)));
        for line in rest.into_iter().chain(tokens) {
            putting.put("not in the file".to_owned(), line, HowForm::Remove).await?;
        }
        putting.end().await
    }
}

/// It stands in metadata and in lists.
fn mark(text: &str) -> Result<String, String> {
    Tag::parse(text).map(|_| text.to_owned()).map_err(|unfit| unfit.to_string())
}

/// The lines of a file, and where it stands.
struct Lines {
    path: PathBuf,
    reader: BufReader<File>,
    number: u64,
}

impl Lines {
    fn open(path: &Path) -> Result<Self, Failure> {
        let failed = |what: String| Failure::new(FAILED, format!("reading {}: {what}", path.display()));
        let file = File::open(path).map_err(|error| failed(error.to_string()))?;
        let is_file = file.metadata().map_err(|error| failed(error.to_string()))?.is_file();
        match is_file {
            true => Ok(Self { path: path.to_owned(), reader: BufReader::new(file), number: 0 }),
            false => Err(failed("it is read twice, so it has to be a file".to_owned())),
        }
    }

    /// `FILE:LINE`
    fn place(&self) -> String {
        format!("{}:{}", self.path.display(), self.number)
    }

    fn wrong(&self, what: &str) -> Failure {
        Failure::new(FAILED, format!("{}: {what}", self.place()))
    }

    fn next(&mut self) -> Result<Option<Line>, Failure> {
        let mut octets = Vec::new();
        self.number += 1;
        let read = (&mut self.reader).take(IMPORT_OCTETS_MAX as u64 + 1).read_until(b'\n', &mut octets);
        read.map_err(|error| self.wrong(&error.to_string()))?;
        if octets.len() > IMPORT_OCTETS_MAX {
            return Err(self.wrong(&format!("the line is longer than {IMPORT_OCTETS_MAX} octets")));
        }
        if octets.is_empty() {
            return Ok(None);
        }
        let line = octets.trim_ascii();
        // As the server reads it: so a complaint names the field.
        match decode(&[br#"{"import":{"line":"#, line, b"}}"].concat()) {
            Ok(Request::Import(form)) => Ok(Some(form.line)),
            Ok(_) => Err(self.wrong("no line of an export")),
            Err(problem) => Err(self.wrong(&problem.message)),
        }
    }
}

/// Looks at every line of a file; the names of what it holds.
fn check(path: &Path) -> Result<BTreeSet<String>, Failure> {
    let mut lines = Lines::open(path)?;
    let (mut names, mut count) = (BTreeSet::new(), 0);
    loop {
        let Some(line) = lines.next()? else {
            return Err(lines.wrong("the export is not whole: its last line is missing"));
        };
        match (&line, lines.number) {
            (Line::Callsign(_), 1) => {}
            (Line::Callsign(_), _) | (_, 1) => {
                return Err(lines.wrong("an export has one line `callsign`, the first"));
            }
            (Line::End(end), _) if end.lines != count => {
                return Err(lines.wrong(&format!("there are {count} lines, and there were {}", end.lines)));
            }
            (Line::End(_), _) => {
                return match lines.next()? {
                    None => Ok(names),
                    Some(_) => Err(lines.wrong("there is more behind the last line")),
                };
            }
            _ => count += 1,
        }
        let name = name(&line).map_err(|problem| lines.wrong(&problem.message))?;
        if let Some(name) = name
            && !names.insert(name.clone())
        {
            return Err(lines.wrong(&format!("{name} is in the file twice")));
        }
    }
}

/// What a line is about, where it is about something, and everything in it fits.
fn name(line: &Line) -> Result<Option<String>, Problem> {
    // What the server knows better (its own domains, whether loopback addresses are of use) it says itself.
    let imported = line.imported(&[], true, 0, Now::default())?;
    Ok(imported.map(|imported| match imported {
        Imported::Instance(instance) => instance.key.to_string(),
        Imported::Host(host) => format!("the host {}", host.name),
        Imported::Settings(service, _) => format!("the settings of {service}"),
        Imported::Token(token) => format!("the token {}", token.name),
    }))
}

/// What the server holds besides what has these names.
async fn others(client: &mut Client, names: &BTreeSet<String>) -> Result<Vec<Line>, Failure> {
    let mut others = Vec::new();
    export::lines(client, |line| {
        if name(line)?.is_some_and(|name| !names.contains(&name)) {
            others.push(line.clone());
        }
        Ok(())
    })
    .await?;
    Ok(others)
}

/// How it went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Counts {
    /// New, or another way than before.
    pub imported: u64,
    /// The same already.
    pub there: u64,
    /// Here otherwise, and left so.
    pub kept: u64,
    pub removed: u64,
    pub refused: u64,
    pub serial: u32,
}

impl Counts {
    fn say(&self, form: Format) -> Result<(), Failure> {
        if form != Format::Table {
            return output::value(form, self);
        }
        let Self { imported, there, kept, removed, refused, serial } = self;
        output::line(&format!(
            "{imported} imported, {there} there already, {kept} otherwise here and kept, {removed} removed, {refused} refused; serial {serial}"
        ))
    }

    fn end(&self, form: Format) -> Done {
        self.say(form)?;
        match self.refused {
            0 => Ok(ExitCode::SUCCESS),
            refused => Err(Failure::new(FAILED, format!("{refused} were refused; the lines above say why"))),
        }
    }
}

/// Lines on their way to the server.
struct Putting {
    client: Client,
    timeout: Duration,
    /// Where each line came from, and how it is put in.
    under_way: VecDeque<(String, HowForm, bool)>,
    counts: Counts,
}

impl Putting {
    fn new(client: Client, timeout: Duration) -> Self {
        Self { client, timeout, under_way: VecDeque::new(), counts: Counts::default() }
    }

    async fn put(&mut self, place: String, line: Line, how: HowForm) -> Result<(), Failure> {
        if self.under_way.len() == UNDER_WAY_MAX {
            self.answer().await?;
        }
        let is_head = matches!(line, Line::Callsign(_));
        self.client.send(&Request::Import(Box::new(ImportForm { line, how }))).await?;
        self.under_way.push_back((place, how, is_head));
        Ok(())
    }

    /// Takes the oldest answer.
    async fn answer(&mut self) -> Result<(), Failure> {
        let Some((place, how, is_head)) = self.under_way.pop_front() else { return Ok(()) };
        let answer = tokio::time::timeout(self.timeout, self.client.receive()).await;
        let silent = || Failure {
            elsewhere: true,
            ..Failure::new(UNAVAILABLE, format!("{place}: no answer in time; say it again"))
        };
        let counts = &mut self.counts;
        match answer.map_err(|_| silent())? {
            Ok(Reply::Imported(form)) => {
                counts.serial = form.serial;
                match (form.changed, how) {
                    _ if is_head => {}
                    (true, HowForm::Remove) => counts.removed += 1,
                    (true, _) => counts.imported += 1,
                    (false, _) => counts.there += 1,
                }
            }
            Ok(other) => return Err(self.client.unexpected(&other).into()),
            // Nothing more would be taken either.
            Err(ClientError::Refused(problem))
                if is_head || matches!(&*problem.code, "unavailable" | "denied" | "not_ready") =>
            {
                let hint = "what was imported stays; say it again";
                let failure: Failure = ClientError::Refused(problem).into();
                return Err(
                    Failure { sentence: format!("{place}: {}", failure.sentence), ..failure }.hint(hint)
                );
            }
            Err(ClientError::Refused(problem)) => {
                match &*problem.code {
                    "differs" => counts.kept += 1,
                    _ => counts.refused += 1,
                }
                message::say(&format!("{place}: {}", problem.message));
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Takes what is still to come.
    async fn settle(&mut self) -> Result<(), Failure> {
        while !self.under_way.is_empty() {
            self.answer().await?;
        }
        Ok(())
    }

    async fn end(mut self) -> Result<Counts, Failure> {
        self.settle().await?;
        Ok(self.counts)
    }
}
