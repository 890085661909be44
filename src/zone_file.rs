//! The reader of zone files: text in, records with their line numbers out.
//!
//! The grammar is RFC 1035 section 5, `$TTL` of RFC 2308, the generic forms of RFC 3597, and what BIND added: times with
//! units (`1h30m`) and `$GENERATE`. The text is cut into entries and tokens here (`entry`), for every complaint needs its
//! line, and one mistake should not hide the next; directives, owners, TTLs, classes and types are read here too. Record
//! data is the `domain` crate's (`data`), which is named there and nowhere else.
//!
//! A file that another one includes is asked for: this room opens none. Lines are counted through all of them, so that a
//! line is one number wherever a zone keeps it; [`Files`] says which file's it is.

mod advice;
mod data;
mod entry;
mod generate;
mod spelling;
#[cfg(test)]
mod tests;

use self::data::Library;
use self::entry::{Cutter, Entry, Token};
use self::generate::Generated;
use self::spelling::{name, seconds, unquoted};
use crate::name::Name;
use crate::record::{Data, Record};
use crate::zone::{TTL_MAX, ZoneError, ZoneWarning};

pub use self::advice::advice;
pub use self::data::is_data_of;

/// Octets of a zone file with all that it includes, and of the lines that `$GENERATE` makes. A million short records are
/// about 24 MiB; a larger file is a mistake (a log, a disk image) that should not be read into memory.
pub const FILE_OCTETS_MAX: usize = 64 << 20;

/// Most records of one zone file: about 400 octets each in memory, and more than a small site has.
pub const RECORDS_MAX: usize = 1_000_000;

/// Complaints about one file: who has mended so many looks again.
pub const ERRORS_MAX: usize = 20;

/// Files within files within files: more is a loop that nobody meant.
pub const INCLUDES_DEEP_MAX: usize = 10;

/// Files that one zone is made of.
pub const FILES_MAX: usize = 1000;

/// TTL in seconds of a record where nothing at all says one, as Knot has it; BIND refuses the file.
pub const TTL_DEFAULT: u32 = 3600;

/// Asks for a file that another one includes: its path as it is written there, and the name of that other file.
pub type Fetch<'f> = dyn FnMut(&str, &str) -> Result<Included, String> + 'f;

/// A file that was asked for.
pub struct Included {
    /// What it is called in complaints; one file has one name.
    pub name: String,
    pub text: Vec<u8>,
}

/// What a zone file holds, and what is wrong with it. Where there are errors, records are missing.
#[derive(Debug, Default)]
pub struct Reading {
    /// In the order of the file, each with the line that it begins on.
    pub records: Vec<(usize, Record)>,
    pub warnings: Vec<ZoneWarning>,
    /// The first [`ERRORS_MAX`].
    pub errors: Vec<ZoneError>,
    pub files: Files,
}

/// The files of a zone, whose lines are counted one after the other: the main file's from 1.
#[derive(Clone, Debug, Default)]
pub struct Files(Vec<(usize, String)>);

impl Files {
    /// The file that a line is in, and its number there.
    pub fn place(&self, line: usize) -> (&str, usize) {
        let behind = self.0.partition_point(|(base, _)| *base < line);
        match self.0.get(behind.saturating_sub(1)) {
            Some((base, name)) => (name, line.saturating_sub(*base)),
            None => ("", line),
        }
    }

    /// Adds a file, and returns how many lines are before it.
    fn add(&mut self, name: &str, base: usize) {
        self.0.push((base, name.to_owned()));
    }
}

/// The records of a zone file in its order, each with the line that it begins on, from 1.
///
/// Relative names are completed with `origin` until `$ORIGIN` says otherwise. Whether the records make
/// a zone is `Zone::new`'s question.
///
/// # Errors
///
/// The first thing that is wrong; that it includes a file is, for here is none.
pub fn read(text: &[u8], origin: &Name) -> Result<Vec<(usize, Record)>, ZoneError> {
    let mut reading = read_all("", text, origin, &mut |_, _| Err("a file has to be there for it".to_owned()));
    match reading.errors.is_empty() {
        true => Ok(reading.records),
        false => Err(reading.errors.swap_remove(0)),
    }
}

/// Everything that a zone file and the files that it includes hold, and everything that is wrong with them.
pub fn read_all(file: &str, text: &[u8], origin: &Name, fetch: &mut Fetch<'_>) -> Reading {
    let mut reader = Reader::new(fetch, origin);
    let read = reader.file(file, text, origin, 1);
    // Every error is in the list; that there are too many is not one more.
    let _ = reader.note(read);
    reader.reading
}

/// What is the same in all files of a zone.
struct Reader<'f, 'g> {
    fetch: &'f mut Fetch<'g>,
    reading: Reading,
    library: Library,
    /// The files that are being read, the main one first.
    within: Vec<String>,
    /// Lines of all files so far.
    lines: usize,
    octets: usize,
    /// What `$TTL` says, or the minimum of a SOA that had no TTL (RFC 2308 section 4).
    ttl_default: Option<u32>,
    /// The last that a record had (RFC 1035 section 5.1).
    ttl_last: Option<u32>,
}

/// What is one file's own: an included file changes neither for the one that includes it.
struct Context {
    origin: Name,
    owner: Option<Name>,
}

/// Why the reading of an entry ends.
enum Stop {
    Error(ZoneError),
    /// There are too many errors, or records: the rest is not looked at.
    Enough,
}

impl From<ZoneError> for Stop {
    fn from(error: ZoneError) -> Self {
        Self::Error(error)
    }
}

impl<'f, 'g> Reader<'f, 'g> {
    fn new(fetch: &'f mut Fetch<'g>, origin: &Name) -> Self {
        Self {
            fetch,
            reading: Reading::default(),
            library: Library::new(origin),
            within: Vec::new(),
            lines: 0,
            octets: 0,
            ttl_default: None,
            ttl_last: None,
        }
    }

    /// Counts octets that are to be read, of a file or of a line that `$GENERATE` makes.
    fn count(&mut self, octets: usize, line: usize) -> Result<(), ZoneError> {
        self.octets += octets;
        if self.octets <= FILE_OCTETS_MAX {
            return Ok(());
        }
        let reason = format!("the file is {} octets long; at most {FILE_OCTETS_MAX} are read", self.octets);
        Err(ZoneError { line, reason })
    }

    /// Reads one file; `line` is that of the `$INCLUDE`. Behind an error it goes on with the next entry.
    fn file(&mut self, name: &str, text: &[u8], origin: &Name, line: usize) -> Result<(), Stop> {
        self.count(text.len(), line)?;
        let base = self.lines;
        self.reading.files.add(name, base);
        self.lines += text.iter().filter(|octet| **octet == b'\n').count() + 1;
        self.within.push(name.to_owned());
        let mut context = Context { origin: origin.clone(), owner: None };
        let (mut cutter, mut tokens) = (Cutter::new(text, base), Vec::new());
        while let Some(entry) = cutter.next_entry(&mut tokens) {
            let read = match entry {
                Ok(entry) => self.entry(entry, &tokens, &mut context),
                Err(error) => Err(error.into()),
            };
            self.note(read)?;
        }
        self.within.pop();
        Ok(())
    }

    /// Takes an error down; one too many ends the reading.
    fn note(&mut self, read: Result<(), Stop>) -> Result<(), Stop> {
        let Err(Stop::Error(error)) = read else { return read };
        self.reading.errors.push(error);
        if self.reading.errors.len() == ERRORS_MAX { Err(Stop::Enough) } else { Ok(()) }
    }

    fn entry(&mut self, entry: Entry, tokens: &[Token<'_>], context: &mut Context) -> Result<(), Stop> {
        match tokens {
            [first, rest @ ..] if !entry.is_indented && first.text.starts_with(b"$") => {
                self.directive(first, rest, context)
            }
            _ => self.record(entry, tokens, context),
        }
    }

    fn directive(
        &mut self,
        directive: &Token<'_>,
        tokens: &[Token<'_>],
        context: &mut Context,
    ) -> Result<(), Stop> {
        let shown = directive.shown();
        match tokens {
            [origin] if directive.is("$ORIGIN") => {
                context.origin = named(origin, &context.origin)?;
                Ok(())
            }
            [ttl] if directive.is("$TTL") => {
                self.ttl_default = Some(seconds(ttl.text).ok_or_else(|| no_ttl(ttl))?);
                Ok(())
            }
            [path] if directive.is("$INCLUDE") => self.include(path, context.origin.clone()),
            [path, origin] if directive.is("$INCLUDE") => self.include(path, named(origin, &context.origin)?),
            _ if directive.is("$GENERATE") => self.generate(directive, tokens, context),
            _ if directive.is("$ORIGIN") => Err(directive.error(format!("{shown} needs one name")).into()),
            _ if directive.is("$TTL") => Err(directive.error(format!("{shown} needs one time")).into()),
            _ if directive.is("$INCLUDE") => {
                Err(directive.error(format!("{shown} needs a file, and may have an origin")).into())
            }
            _ => {
                let reason = format!("{shown} is no directive; a name that begins so is written `\\$…`");
                Err(directive.error(reason).into())
            }
        }
    }

    fn include(&mut self, token: &Token<'_>, origin: Name) -> Result<(), Stop> {
        let path = unquoted(token.text).and_then(|path| String::from_utf8(path).ok());
        let path = path.ok_or_else(|| token.error(format!("{} is no path of a file", token.shown())))?;
        let refused = |reason: String| Stop::from(token.error(format!("including {path}: {reason}")));
        if self.within.len() > INCLUDES_DEEP_MAX {
            return Err(refused(format!("files may include each other {INCLUDES_DEEP_MAX} deep")));
        }
        if self.reading.files.0.len() == FILES_MAX {
            return Err(refused(format!("a zone may be of {FILES_MAX} files")));
        }
        let within = self.within.last().map_or("", |within| within);
        let included = (self.fetch)(&path, within).map_err(refused)?;
        if self.within.contains(&included.name) {
            return Err(refused("the file includes itself".to_owned()));
        }
        self.file(&included.name, &included.text, &origin, token.line)
    }

    /// The owner of the last record before it is that of an indented record behind it.
    fn generate(
        &mut self,
        directive: &Token<'_>,
        tokens: &[Token<'_>],
        context: &mut Context,
    ) -> Result<(), Stop> {
        let owner = context.owner.clone();
        for text in Generated::of(directive, tokens)? {
            let text = text.map_err(|reason| directive.error(reason))?;
            self.count(text.len(), directive.line)?;
            let (mut cutter, mut tokens) = (Cutter::new(&text, directive.line - 1), Vec::new());
            match cutter.next_entry(&mut tokens) {
                Some(entry) => self.record(entry?, &tokens, context)?,
                None => return Err(directive.error("this makes no record").into()),
            }
        }
        context.owner = owner;
        Ok(())
    }

    /// `[owner] [ttl] [class] type data`, class and TTL in either order.
    fn record(&mut self, entry: Entry, tokens: &[Token<'_>], context: &mut Context) -> Result<(), Stop> {
        let mut rest = tokens;
        if !entry.is_indented {
            // What is behind a wrong name is not wrong for having no owner.
            let owner = named(&tokens[0], &context.origin);
            context.owner = Some(owner.as_ref().unwrap_or(&context.origin).clone());
            owner?;
            rest = &tokens[1..];
        }
        let error = |reason: &str| ZoneError { line: entry.line, reason: reason.to_owned() };
        let owner = context.owner.clone().ok_or_else(|| error("the first record has no owner name"))?;
        let (mut ttl, mut has_class) = (None, false);
        let (head, rtype) = loop {
            let Some((token, behind)) = rest.split_first() else {
                return Err(error("the record ends early: it has no type").into());
            };
            rest = behind;
            if !has_class && token.is("IN") {
                has_class = true;
            } else if token.text[0].is_ascii_digit() && ttl.is_none() {
                ttl = Some(seconds(token.text).ok_or_else(|| no_ttl(token))?);
            } else if let Some(rtype) = data::rtype(token) {
                break (token, rtype);
            } else {
                match data::class(token) {
                    Some(true) if !has_class => has_class = true,
                    Some(false) => {
                        let reason = format!("only class IN is served, not {}", token.shown());
                        return Err(token.error(reason).into());
                    }
                    _ => {
                        let reason = format!(
                            "{} is no record type (a TTL, a class and a type were looked for)",
                            token.shown()
                        );
                        return Err(token.error(reason).into());
                    }
                }
            }
        };
        let data = self.library.read(rtype, head, rest, &context.origin)?;
        let ttl = match ttl {
            Some(ttl) => *self.ttl_last.insert(ttl),
            None => match self.ttl_default.or(self.ttl_last) {
                Some(ttl) => ttl,
                None => self.ttl_of_first(entry.line, &data),
            },
        };
        if self.reading.records.len() == RECORDS_MAX {
            self.note(Err(error(&format!("there are more than {RECORDS_MAX} records")).into()))?;
            return Err(Stop::Enough);
        }
        self.reading.records.push((entry.line, Record { owner, ttl, data }));
        Ok(())
    }

    /// The TTL of the first record, where nothing says one.
    fn ttl_of_first(&mut self, line: usize, data: &Data) -> u32 {
        let (ttl, whose) = match data {
            // RFC 2308 section 4: that was the minimum's meaning once, and BIND goes on with it.
            Data::Soa(soa) => (*self.ttl_default.insert(soa.minimum), "the minimum of the SOA"),
            _ => (*self.ttl_last.insert(TTL_DEFAULT), "the usual one"),
        };
        let reason = format!("no TTL is said for it: {whose} counts, {ttl}; write `$TTL {ttl}` in front");
        self.reading.warnings.push(ZoneWarning { line, reason });
        ttl
    }
}

fn named(token: &Token<'_>, origin: &Name) -> Result<Name, ZoneError> {
    name(token.text, origin).map_err(|reason| token.error(format!("{}: {reason}", token.shown())))
}

fn no_ttl(token: &Token<'_>) -> ZoneError {
    token.error(format!(
        "{} is no TTL: write seconds, {TTL_MAX} at most, or a time such as 1h30m",
        token.shown()
    ))
}
