//! The server's log: as text, as JSON, or as entries of the journal (systemd.journal-fields(7), and systemd's "Native Journal
//! Protocol").
//!
//! One layer for all three, and not a library for each: what they share is what matters, that no text of a client's makes a
//! line of its own or acts on a terminal. So everything is escaped in one place, before it takes a form, and each
//! form is a few lines.

use std::fmt::Write as _;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use callsign::clock::Clock;
use callsign::config::LogFormat;
use serde::Serialize;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use super::terminal::{escaped, escaped_json};
use super::{Failure, USAGE};

/// Where journald takes entries.
const JOURNAL: &str = "/run/systemd/journal/socket";
/// Octets of a message, and of a field: the longest of ours are some hundred, and a client's words are not to fill a disk.
const TEXT_OCTETS_MAX: usize = 4096;
/// How long one entry waits for room in the journal, which holds some hundred; while it has none, those behind do not wait.
const WAIT_MAX: Duration = Duration::from_millis(100);

/// Logs from here on what the filter lets through.
///
/// # Errors
///
/// The filter is none.
pub fn start(filter: &str, format: LogFormat) -> Result<(), Failure> {
    let filter =
        EnvFilter::builder().parse(filter).map_err(|error| Failure::new(USAGE, format!("log: {error}")))?;
    let stream = std::env::var("JOURNAL_STREAM").ok();
    let form = match format {
        LogFormat::Text => Form::Text,
        LogFormat::Json => Form::Json,
        LogFormat::Journald => Form::Journal(Journal::at(JOURNAL)),
        LogFormat::Auto if is_journal(stream.as_deref(), &io::stderr()) => {
            Form::Journal(Journal::at(JOURNAL))
        }
        LogFormat::Auto => Form::Text,
    };
    tracing_subscriber::registry().with(filter).with(Log::new(form, io::stderr)).init();
    Ok(())
}

/// True where `JOURNAL_STREAM`, which holds `device:inode`, is of this file (systemd.exec(5)): who has stderr redirected
/// inherits the variable, and not the journal.
fn is_journal(stream: Option<&str>, file: &impl std::os::fd::AsFd) -> bool {
    let Ok(found) = nix::sys::stat::fstat(file) else { return false };
    stream.is_some_and(|stream| stream == format!("{}:{}", found.st_dev, found.st_ino))
}

/// Writes each event in its form; `W` makes what text and JSON are written to.
struct Log<W> {
    form: Form,
    clock: Clock,
    write_to: W,
}

enum Form {
    Text,
    Json,
    Journal(Journal),
}

impl<W> Log<W> {
    fn new(form: Form, write_to: W) -> Self {
        Self { form, clock: Clock::start(), write_to }
    }
}

impl<S: Subscriber, W: Fn() -> O + 'static, O: io::Write> Layer<S> for Log<W> {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut entry = Entry::of(event, &self.clock);
        let line = match &self.form {
            Form::Text => entry.text(),
            Form::Json => entry.json(),
            Form::Journal(journal) => {
                let lost = journal.lost.swap(0, Ordering::Relaxed);
                if lost > 0 {
                    entry.fields.insert("lost_before".to_owned(), lost.into());
                }
                match journal.take(&entry, lost == 0) {
                    Ok(()) => return,
                    // To wait for it longer would be to stand still with it.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        journal.lost.fetch_add(lost + 1, Ordering::Relaxed);
                        return;
                    }
                    Err(_) => entry.text(),
                }
            }
        };
        // In one piece. Where stderr is closed, there is nobody to tell.
        drop((self.write_to)().write_all(line.as_bytes()));
    }
}

/// What is logged. Nothing of it acts on a terminal.
struct Entry {
    time: String,
    level: Level,
    target: &'static str,
    message: String,
    fields: Map<String, Value>,
}

/// The form of a line of JSON.
#[derive(Serialize)]
struct Line<'a> {
    time: &'a str,
    level: &'a str,
    target: &'a str,
    message: &'a str,
    fields: &'a Map<String, Value>,
}

impl Entry {
    fn of(event: &Event<'_>, clock: &Clock) -> Self {
        let metadata = event.metadata();
        let mut entry = Self {
            time: clock.now().wall.to_string(),
            level: *metadata.level(),
            target: metadata.target(),
            message: String::new(),
            fields: Map::new(),
        };
        event.record(&mut entry);
        entry
    }

    /// The message and, behind it, the fields.
    fn words(&self) -> String {
        let mut words = escaped(&self.message);
        for (name, value) in &self.fields {
            let _ = match value {
                Value::String(text) => write!(words, " {name}={}", quoted(text)),
                value => write!(words, " {name}={value}"),
            };
        }
        words
    }

    fn text(&self) -> String {
        format!("{} {:>5} {}: {}\n", self.time, self.level, self.target, self.words())
    }

    fn json(&self) -> String {
        let level = self.level.as_str().to_ascii_lowercase();
        let Self { time, target, message, fields, .. } = self;
        let line = Line { time, level: &level, target, message, fields };
        // Texts and numbers with text keys, which JSON can always hold.
        escaped_json(&serde_json::to_string(&line).unwrap_or_default()) + "\n"
    }

    /// Lines of `NAME=value`; no value holds a line end.
    fn journal(&self) -> String {
        let priority = match self.level {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        let mut entry = format!(
            "MESSAGE={}\nPRIORITY={priority}\nSYSLOG_IDENTIFIER=callsign\nTARGET={}\n",
            self.words(),
            self.target
        );
        for (name, value) in &self.fields {
            let name = name.to_ascii_uppercase().replace(|c: char| !c.is_ascii_alphanumeric(), "_");
            let _ = match value {
                Value::String(text) => writeln!(entry, "CALLSIGN_{name}={}", escaped(text)),
                value => writeln!(entry, "CALLSIGN_{name}={value}"),
            };
        }
        entry
    }

    fn put(&mut self, field: &Field, mut text: String) {
        text.truncate(text.floor_char_boundary(TEXT_OCTETS_MAX));
        match field.name() {
            "message" => self.message = text,
            name => drop(self.fields.insert(name.to_owned(), text.into())),
        }
    }
}

impl Visit for Entry {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.to_owned());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.fields.insert(field.name().to_owned(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.fields.insert(field.name().to_owned(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.fields.insert(field.name().to_owned(), value.into());
    }
}

/// A value as text has it: in quotation marks where it is none, or could be taken for more than one.
fn quoted(text: &str) -> String {
    let is_one = !text.is_empty() && !text.starts_with('"') && !text.contains(char::is_whitespace);
    match is_one {
        true => escaped(text),
        false => format!("\"{}\"", escaped(&text.replace('\\', "\\\\").replace('"', "\\\""))),
    }
}

/// The way to journald.
struct Journal {
    /// One that waits for room, and one that does not. None where the kernel gives us no sockets; then it is as if nobody
    /// listened.
    sockets: Option<[UnixDatagram; 2]>,
    path: Box<Path>,
    /// Entries that it had no room for.
    lost: AtomicU64,
}

impl Journal {
    fn at(path: impl AsRef<Path>) -> Self {
        let sockets = || {
            let (patient, other) = (UnixDatagram::unbound()?, UnixDatagram::unbound()?);
            patient.set_write_timeout(Some(WAIT_MAX))?;
            other.set_nonblocking(true)?;
            io::Result::Ok([patient, other])
        };
        Self { sockets: sockets().ok(), path: path.as_ref().into(), lost: AtomicU64::new(0) }
    }

    fn take(&self, entry: &Entry, patiently: bool) -> io::Result<()> {
        let [patient, other] = self.sockets.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let socket = if patiently { patient } else { other };
        socket.send_to(entry.journal().as_bytes(), &self.path).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::MetadataExt;
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What is written, for all to see.
    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(octets);
            Ok(octets.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What a form makes of what is logged meanwhile.
    fn logged(form: Form, log: impl FnOnce()) -> String {
        let written = Written::default();
        let made = written.clone();
        let layer = Log::new(form, move || made.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        let octets = written.0.lock().unwrap().clone();
        String::from_utf8(octets).unwrap()
    }

    /// Every octet as a character, marks that turn the direction of text, and forgeries of each form.
    fn hostile() -> String {
        let all: String = (0..=0xff_u8).map(char::from).collect();
        format!(
            "{all}\u{202e}\u{2028}\n2026-11-22T00:00:00.000Z ERROR forged: x\nPRIORITY=0\n\",\"level\":\"error\" a=b"
        )
    }

    fn hostile_events() {
        let text = hostile();
        tracing::warn!(name = %text, debug = ?text, plain = text.as_str(), "{text}");
    }

    /// No character that acts on a terminal, but the ends of as many lines.
    fn is_harmless(text: &str, lines: usize) -> bool {
        text.matches('\n').count() == lines
            && !text.chars().any(|c| c != '\n' && c.is_control())
            && !text.contains(['\u{202e}', '\u{2028}'])
    }

    #[test]
    fn each_form_tells_the_same() {
        let log = || {
            let (signal, spaced) = ("SIGTERM", "no space left");
            tracing::info!(signal, count = 3_u64, less = -1_i64, sure = true, %spaced, away = ?std::time::Duration::from_millis(1500), "stopping at {}", "once");
        };
        let text = logged(Form::Text, log);
        let (time, rest) = text.split_once(' ').unwrap();
        assert!(callsign::time::parse_time(time, Default::default()).is_some(), "{time}");
        let target = module_path!();
        assert_eq!(
            rest,
            format!(
                " INFO {target}: stopping at once away=1.5s count=3 less=-1 signal=SIGTERM spaced=\"no space left\" sure=true\n"
            )
        );
        let mut json: Value = serde_json::from_str(&logged(Form::Json, log)).unwrap();
        assert!(json["time"].take().is_string());
        let fields = serde_json::json!({"away": "1.5s", "count": 3, "less": -1, "signal": "SIGTERM", "spaced": "no space left", "sure": true});
        assert_eq!(
            json,
            serde_json::json!({"time": null, "level": "info", "target": target, "message": "stopping at once", "fields": fields})
        );
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let journald = UnixDatagram::bind(&path).unwrap();
        assert_eq!(logged(Form::Journal(Journal::at(&path)), log), "");
        let mut octets = [0; 65_536];
        let length = journald.recv(&mut octets).unwrap();
        assert_eq!(
            String::from_utf8_lossy(&octets[..length]),
            format!(
                "MESSAGE=stopping at once away=1.5s count=3 less=-1 signal=SIGTERM spaced=\"no space left\" sure=true\nPRIORITY=6\n\
                 SYSLOG_IDENTIFIER=callsign\nTARGET={target}\nCALLSIGN_AWAY=1.5s\nCALLSIGN_COUNT=3\nCALLSIGN_LESS=-1\n\
                 CALLSIGN_SIGNAL=SIGTERM\nCALLSIGN_SPACED=no space left\nCALLSIGN_SURE=true\n"
            )
        );
    }

    #[test]
    fn hostile_words_are_words_in_every_form() {
        let text = logged(Form::Text, hostile_events);
        assert!(is_harmless(&text, 1), "{text}");
        let json = logged(Form::Json, hostile_events);
        assert!(is_harmless(&json, 1), "{json}");
        let line: Value = serde_json::from_str(&json).unwrap();
        assert_eq!((line["level"].as_str(), line["message"].as_str()), (Some("warn"), Some(&*hostile())));
        assert_eq!(line["fields"]["name"].as_str(), Some(&*hostile()));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let journald = UnixDatagram::bind(&path).unwrap();
        logged(Form::Journal(Journal::at(&path)), hostile_events);
        let mut octets = [0; 65_536];
        let length = journald.recv(&mut octets).unwrap();
        let entry = std::str::from_utf8(&octets[..length]).unwrap();
        assert!(is_harmless(entry, 7), "{entry}");
        let names: Vec<&str> = entry.lines().map(|line| line.split('=').next().unwrap()).collect();
        assert_eq!(
            names,
            [
                "MESSAGE",
                "PRIORITY",
                "SYSLOG_IDENTIFIER",
                "TARGET",
                "CALLSIGN_DEBUG",
                "CALLSIGN_NAME",
                "CALLSIGN_PLAIN"
            ]
        );
    }

    #[test]
    fn a_value_is_one_value() {
        for (value, expected) in [
            ("web", "web"),
            ("größer", "größer"),
            ("", "\"\""),
            ("a b", "\"a b\""),
            ("x level=ERROR", "\"x level=ERROR\""),
            ("[\"b\"]", "[\"b\"]"),
            ("\"b\"", "\"\\\"b\\\"\""),
            ("a\\ b", "\"a\\\\ b\""),
            ("a\nb", "\"a\\nb\""),
            ("a\u{1b}[2J", "a\\u{1b}[2J"),
        ] {
            assert_eq!(quoted(value), expected);
        }
    }

    #[test]
    fn what_is_long_is_cut_within_a_character_or_behind_it() {
        let log = || tracing::info!(name = "ü".repeat(TEXT_OCTETS_MAX), "{}", "x".repeat(100_000));
        assert!(logged(Form::Text, log).len() < 2 * TEXT_OCTETS_MAX + 200);
    }

    #[test]
    fn without_a_journal_it_is_text_and_a_full_one_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let log = || tracing::info!("here");
        assert!(logged(Form::Journal(Journal::at(&path)), log).ends_with(" here\n"));
        let journald = UnixDatagram::bind(&path).unwrap();
        let journal = Journal::at(&path);
        let text = logged(Form::Journal(journal), || {
            (0..10_000).for_each(|number| tracing::info!(number, "much"));
            let mut octets = [0; 65_536];
            journald.set_nonblocking(true).unwrap();
            while journald.recv(&mut octets).is_ok() {}
            tracing::info!("behind it");
            let length = journald.recv(&mut octets).unwrap();
            let entry = String::from_utf8_lossy(&octets[..length]).into_owned();
            let lost = entry.lines().find_map(|line| line.strip_prefix("CALLSIGN_LOST_BEFORE=")).unwrap();
            assert!(lost.parse::<u32>().unwrap() > 1000, "{entry}");
        });
        assert_eq!(text, "", "what waits for the journal does not go elsewhere");
    }

    #[test]
    fn the_journal_is_known_by_device_and_inode() {
        let directory = tempfile::tempdir().unwrap();
        let file = File::create(directory.path().join("stderr")).unwrap();
        let found = file.metadata().unwrap();
        let own = format!("{}:{}", found.dev(), found.ino());
        assert!(is_journal(Some(&own), &file));
        for other in [None, Some(""), Some("1:2"), Some(&own[..own.len() - 1])] {
            assert!(!is_journal(other, &file), "{other:?}");
        }
    }
}
