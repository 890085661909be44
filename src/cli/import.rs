//! `callsign import`: what another registry holds, put into this one; from an export, or from a running Consul.
//!
//! A file is read twice: first every line is looked at, so that one that cannot be taken is named before anything is
//! changed; then each is put in by itself. What ends in the middle is said again: what is so already is no change.

mod catalog;
mod consul;
mod follow;
mod putting;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use callsign::client::Client;
use callsign::name::Tag;
use callsign::protocol::moving::{HowForm, IMPORT_OCTETS_MAX, Line};
use callsign::protocol::{Problem, Request, decode};
use callsign::registry::Imported;
use callsign::time::Now;
use clap::Args;

use self::consul::{Base, Consul};
use self::putting::{Counts, Putting, Said};
use super::{Asking, Done, FAILED, Failure, export, message, progress::Progress};

/// Lines of a replacement that are put in once more for what stood in their way: a few MiB of their numbers and of what was
/// said of them.
const AGAIN_MAX: usize = 10_000;
/// Services that a complaint names.
const NAMED_MAX: usize = 5;
/// How often at most: each time reads the file from its beginning, and a chain of lines that wait for one another is short.
const AGAIN_TIMES_MAX: usize = 16;

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
    #[arg(long, conflicts_with = "from_consul", group = "taking_away")]
    replace: bool,
    /// Read the nodes, services and checks of this Consul instead; http://HOST:PORT or https://HOST:PORT
    /// [env: CONSUL_HTTP_TOKEN holds its token]
    #[arg(long, value_name = "URL")]
    from_consul: Option<Base>,
    /// Go on with what changes at Consul, until stopped
    #[arg(long, requires = "from_consul", conflicts_with = "file", group = "taking_away")]
    follow: bool,
    /// Take away the last instance of a service too, where the file has none of it; follow Consul also where it has
    /// suddenly no service any more
    #[arg(long, requires = "taking_away")]
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
        let held = check(path).map_err(|failure| Failure {
            sentence: format!("{}; nothing was imported", failure.sentence),
            ..failure
        })?;
        if held.records_left_out > 0 {
            message::say(&format!(
                "{}: {} records that were set by UPDATE are not in it; those that are here stay",
                path.display(),
                held.records_left_out
            ));
        }
        // What is so already is no change: so the next server is given the file from its beginning.
        let taking = async |client| self.put_in(client, path, &held).await;
        let counts = self.asking.begin_at_each(&mut self.asking.way()?, taking).await?;
        counts.end(self.asking.output)
    }

    async fn put_in(&self, mut client: Client, path: &Path, held: &Held) -> Result<Counts, Failure> {
        let others = match self.replace {
            true => Others::of(&mut client, held).await?,
            false => Others::default(),
        };
        if !self.allow_empty {
            others.look_for_emptied(path, held)?;
        }
        let mut putting = Putting::new(client, self.asking.timeout);
        putting.again_max = if self.replace { AGAIN_MAX } else { 0 };
        let put = self.put_all(&mut putting, path, held, others).await;
        // However it ended, what was refused on the way is said.
        putting.say_all();
        put.map(|()| putting.counts)
    }

    async fn put_all(
        &self,
        putting: &mut Putting,
        path: &Path,
        held: &Held,
        mut others: Others,
    ) -> Result<(), Failure> {
        let mut progress = Progress::new("lines", Some(held.names.len() as u64));
        let mut lines = Lines::open(path)?;
        while let Some(line) = lines.next()? {
            if !matches!(line, Line::End(_)) {
                // Who has its name in DNS makes room for it, or it would have to take another one.
                if let Some(other) = others.named_as(&line) {
                    putting.remove(other).await?;
                    putting.settle().await?; // a node would take both at once
                }
                self.put_line(putting, &lines, line).await?;
                progress.step();
            }
        }
        // After what is put in, so that no service is without its instances meanwhile; tokens last: ours may be one.
        let (tokens, rest): (Vec<Line>, Vec<Line>) =
            others.lines.into_iter().flatten().partition(|line| matches!(line, Line::Token(_)));
        for line in rest {
            putting.remove(line).await?;
        }
        self.put_again(putting, path, |_| true).await?;
        for line in tokens {
            putting.remove(line).await?;
        }
        // Ours may have been among them, so nothing is said again that no token stood in the way of.
        self.put_again(putting, path, |line| matches!(line, Line::Token(_))).await
    }

    async fn put_line(&self, putting: &mut Putting, lines: &Lines, line: Line) -> Result<(), Failure> {
        let how = if self.replace { HowForm::Replace } else { HowForm::Add };
        putting.send(lines.place(), Some(lines.number), line, how).await
    }

    /// Puts in once more what was refused, as long as that helps: what stood in its way may be gone, or be what another
    /// line has made of it.
    async fn put_again(
        &self,
        putting: &mut Putting,
        path: &Path,
        wanted: fn(&Line) -> bool,
    ) -> Result<(), Failure> {
        putting.settle().await?;
        let mut before = usize::MAX;
        for _ in 0..AGAIN_TIMES_MAX {
            if !(1..before).contains(&putting.again.len()) {
                break;
            }
            let mut again = std::mem::take(&mut putting.again);
            before = again.len();
            let put = self.put_those(putting, path, &mut again, wanted).await;
            // What was not said again is refused as it was.
            for (number, said) in again {
                putting.again.entry(number).or_insert(said);
            }
            put?;
        }
        Ok(())
    }

    /// Those of a file's lines that are wanted; they are taken out of `those`.
    async fn put_those(
        &self,
        putting: &mut Putting,
        path: &Path,
        those: &mut BTreeMap<u64, Said>,
        wanted: fn(&Line) -> bool,
    ) -> Result<(), Failure> {
        let mut lines = Lines::open(path)?;
        while let Some(line) = lines.next()? {
            if wanted(&line) && those.remove(&lines.number).is_some() {
                self.put_line(putting, &lines, line).await?;
            }
        }
        putting.settle().await
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

/// What a file holds, as far as it has to be known before its lines are put in.
#[derive(Debug, Default)]
struct Held {
    names: BTreeSet<String>,
    /// Those that have an instance.
    services: BTreeSet<String>,
    /// See `EndForm`.
    records_left_out: u64,
}

/// Looks at every line of a file.
fn check(path: &Path) -> Result<Held, Failure> {
    let mut lines = Lines::open(path)?;
    let (mut names, mut services, mut count) = (BTreeSet::new(), BTreeSet::new(), 0);
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
            (Line::End(end), _) => {
                return match lines.next()? {
                    None => Ok(Held { names, services, records_left_out: end.records_left_out }),
                    Some(_) => Err(lines.wrong("there is more behind the last line")),
                };
            }
            _ => count += 1,
        }
        services.extend(service(&line));
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
        // Names that differ in case alone are one.
        Imported::Records(set) => format!("the records {} {}", set.owner.to_lowercase(), set.set.rtype),
    }))
}

/// What the server holds and the file does not.
#[derive(Debug, Default)]
struct Others {
    lines: Vec<Option<Line>>,
    /// Where the instances are, by service and label.
    labels: HashMap<(String, String), usize>,
}

impl Others {
    /// What the file says that it left out may be in it.
    async fn of(client: &mut Client, held: &Held) -> Result<Self, Failure> {
        let mut others = Self::default();
        export::lines(client, |line| {
            let left_out = held.records_left_out > 0 && matches!(line, Line::Records(_));
            if !left_out && name(line)?.is_some_and(|name| !held.names.contains(&name)) {
                others.labels.extend(label(line).map(|label| (label, others.lines.len())));
                others.lines.push(Some(line.clone()));
            }
            Ok(())
        })
        .await?;
        Ok(others)
    }

    /// A file of another registry, or of long ago, looks like any other: what would leave services without an instance has to
    /// be meant.
    fn look_for_emptied(&self, path: &Path, held: &Held) -> Result<(), Failure> {
        let here: BTreeSet<String> = self.lines.iter().flatten().filter_map(service).collect();
        let emptied: Vec<&str> = here.difference(&held.services).map(String::as_str).collect();
        if emptied.is_empty() {
            return Ok(());
        }
        let more = match emptied.len().saturating_sub(NAMED_MAX) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let named = emptied[..emptied.len().min(NAMED_MAX)].join(", ");
        let path = path.display();
        Err(Failure::new(
            FAILED,
            format!(
                "{path} has no instance of {named}{more}, and nothing was changed; with --allow-empty they are taken away"
            ),
        ))
    }

    /// Takes out the instance that has the label of the one of this line.
    fn named_as(&mut self, line: &Line) -> Option<Line> {
        let at = self.labels.get(&label(line)?)?;
        self.lines[*at].take()
    }
}

/// The service of an instance, in small letters.
fn service(line: &Line) -> Option<String> {
    let Line::Instance(instance) = line else { return None };
    Some(instance.register.service.to_lowercase())
}

/// The service of an instance, and its own label below that.
fn label(line: &Line) -> Option<(String, String)> {
    let Line::Instance(instance) = line else { return None };
    Some((instance.register.service.clone(), instance.label.clone()?))
}
