//! `callsign dnssec`: the keys that zones are signed with.
//!
//! It works on the folder of keys, beside the server or without it; a server takes over what it finds there within a second.

use std::path::PathBuf;
use std::process::ExitCode;

use callsign::clock::Clock;
use callsign::config::Surroundings;
use callsign::key_folder::{self, BESIDE_STORE, Kept};
use callsign::name::Name;
use callsign::sign::{KEYS_TTL, Key, LEAVING_S, Stage, Times};
use callsign::time::Wall;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::{Done, FAILED, Failure, Format, NOT_FOUND, USAGE, message, output};

/// Make, change and show the keys that zones are signed with
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  callsign dnssec init service.internal > anchor.txt\n  callsign dnssec status\n  callsign dnssec roll service.internal"
)]
pub struct Dnssec {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make the first key of a zone, and print what the zone above or a resolver is to know of it
    #[command(after_help = "Example:\n  callsign dnssec init service.internal > anchor.txt")]
    Init {
        /// The zone: a `domain` of the server
        zone: String,
        #[command(flatten)]
        place: Place,
    },
    /// Make a new key beside the one that signs, or, with --finish, let it take over
    #[command(
        after_help = "Example:\n  callsign dnssec roll service.internal\n  callsign dnssec roll service.internal --finish"
    )]
    Roll {
        /// The zone
        zone: String,
        /// The zone above and every resolver that has the key configured know the new one
        #[arg(long)]
        finish: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Show every key, and what it is for now
    #[command(after_help = "Example:\n  callsign dnssec status")]
    Status {
        /// Only those of this zone
        zone: Option<String>,
        #[command(flatten)]
        place: Place,
        /// A table for people, one JSON value, or one JSON value a line
        #[arg(short, long, value_name = "FORM", value_enum, default_value_t = Format::Table)]
        output: Format,
    },
}

#[derive(Debug, Args)]
struct Place {
    /// The folder of the keys [default: dnssec in the data directory: $XDG_STATE_HOME/callsign; /var/lib/callsign for root]
    #[arg(long, value_name = "DIR")]
    keys: Option<PathBuf>,
}

impl Place {
    fn folder(self) -> Result<PathBuf, Failure> {
        let usual = || Surroundings::here().data().map(|data| data.join(BESIDE_STORE));
        self.keys.or_else(usual).ok_or_else(|| {
            Failure::new(USAGE, "where the keys are cannot be guessed; name the folder with --keys DIR")
        })
    }
}

impl Dnssec {
    pub fn run(self) -> Done {
        let now = Clock::start().now().wall;
        match self.verb {
            Verb::Init { zone, place } => init(&zone_name(&zone)?, place, now),
            Verb::Roll { zone, finish: false, place } => roll(&zone_name(&zone)?, place, now),
            Verb::Roll { zone, finish: true, place } => finish(&zone_name(&zone)?, place, now),
            Verb::Status { zone, place, output } => {
                let zone = zone.as_deref().map(zone_name).transpose()?;
                status(zone.as_ref(), place, output, now)
            }
        }
    }
}

fn zone_name(text: &str) -> Result<Name, Failure> {
    let name = Name::parse(text).map_err(|error| Failure::new(USAGE, format!("zone: {error}")))?;
    Ok(name.to_lowercase())
}

fn failed(error: anyhow::Error) -> Failure {
    Failure::new(FAILED, format!("{error:#}"))
}

/// The keys of the zone that are not gone.
fn keys_of(zone: &Name, folder: &std::path::Path, now: Wall) -> Result<Vec<Kept>, Failure> {
    let mut keys = key_folder::read(folder).map_err(failed)?;
    keys.retain(|kept| kept.key.apex == *zone && kept.key.times.stage(now.unix_s()) != Stage::Gone);
    Ok(keys)
}

fn init(zone: &Name, place: Place, now: Wall) -> Done {
    let folder = place.folder()?;
    if let Some(kept) = keys_of(zone, &folder, now)?.first() {
        return Err(Failure::new(FAILED, format!("{zone} has the key {} already", kept.key.tag))
            .hint(format!("change it with `callsign dnssec roll {zone}`")));
    }
    let now_s = now.unix_s();
    let times = Times { created: now_s, publish: now_s, activate: Some(now_s), ..Times::default() };
    let kept = key_folder::add(&folder, zone, times).map_err(failed)?;
    show(&kept.key)?;
    message::say(&format!(
        "{zone} is signed from now on where the server has it as a `domain` and its keys in {} (with another data directory: --keys); give the zone above the DS from {} on",
        folder.display(),
        time(kept.key.times.ready_from())
    ));
    Ok(ExitCode::SUCCESS)
}

fn roll(zone: &Name, place: Place, now: Wall) -> Done {
    let folder = place.folder()?;
    let keys = keys_of(zone, &folder, now)?;
    let now_s = now.unix_s();
    if keys.is_empty() {
        return Err(Failure::new(NOT_FOUND, format!("{zone} has no key in {}", folder.display()))
            .hint(format!("make the first with `callsign dnssec init {zone}`")));
    }
    if let Some(other) = keys.iter().find(|kept| kept.key.times.stage(now_s) != Stage::Signing) {
        let (tag, stage) = (other.key.tag, other.key.times.stage(now_s));
        let hint = match (stage, other.key.times.delete) {
            (Stage::Leaving, Some(end)) => format!("it is gone at {}", time(end)),
            _ => format!("when the zone above knows it: `callsign dnssec roll {zone} --finish`"),
        };
        let sentence = format!("the keys of {zone} are being changed: {tag} is {}", stage.as_str());
        return Err(Failure::new(FAILED, sentence).hint(hint));
    }
    let times = Times { created: now_s, publish: now_s, ..Times::default() };
    let kept = key_folder::add(&folder, zone, times).map_err(failed)?;
    show(&kept.key)?;
    message::say(&format!(
        "the key {} is in the zone; from {} on give it to the zone above and to resolvers, then `callsign dnssec roll {zone} --finish`",
        kept.key.tag,
        time(kept.key.times.ready_from())
    ));
    Ok(ExitCode::SUCCESS)
}

fn finish(zone: &Name, place: Place, now: Wall) -> Done {
    let folder = place.folder()?;
    let keys = keys_of(zone, &folder, now)?;
    let now_s = now.unix_s();
    let coming = keys.iter().find(|kept| kept.key.times.activate.is_none());
    let Some(coming) = coming else {
        return Err(Failure::new(NOT_FOUND, format!("{zone} has no new key"))
            .hint(format!("make one with `callsign dnssec roll {zone}`")));
    };
    let tag = coming.key.tag;
    if coming.key.times.stage(now_s) != Stage::Ready {
        let sentence = format!("the key {tag} is new: caches may hold the keys from before it");
        return Err(Failure::new(FAILED, sentence)
            .hint(format!("from {} on it may sign", time(coming.key.times.ready_from()))));
    }
    // The new one first: two that sign are one too many for a moment, and none is one too few.
    let times = Times { activate: Some(now_s), ..coming.key.times };
    key_folder::set_times(coming, &times).map_err(failed)?;
    for old in keys.iter().filter(|kept| kept.key.tag != tag && kept.key.times.inactive.is_none()) {
        let times = Times { inactive: Some(now_s), delete: Some(now_s + LEAVING_S), ..old.key.times };
        key_folder::set_times(old, &times).map_err(failed)?;
        output::line(&format!("{} is gone at {}", old.key.tag, time(now_s + LEAVING_S)))?;
    }
    output::line(&format!("{tag} signs {zone}"))?;
    Ok(ExitCode::SUCCESS)
}

/// What others are to know of a key, in two forms: a trust anchor is either of them.
fn show(key: &Key) -> Result<(), Failure> {
    let apex = &key.apex;
    output::line(&format!("{apex} {KEYS_TTL} IN DS {}", key.ds_text()))?;
    output::line(&format!("{apex} {KEYS_TTL} IN DNSKEY {}", key.dnskey_text()))
}

/// A key as `status` shows it.
#[derive(Serialize)]
struct Shown {
    zone: String,
    tag: u16,
    stage: &'static str,
    /// Until when it is that; none: until somebody says.
    until: Option<String>,
    ds: String,
    dnskey: String,
}

fn status(zone: Option<&Name>, place: Place, format: Format, now: Wall) -> Done {
    let now_s = now.unix_s();
    let folder = place.folder()?;
    let mut keys = key_folder::read(&folder).map_err(failed)?;
    keys.retain(|kept| zone.is_none_or(|zone| kept.key.apex == *zone));
    if keys.is_empty() {
        let of = zone.map(|zone| format!(" of {zone}")).unwrap_or_default();
        return Err(Failure::new(NOT_FOUND, format!("there is no key{of} in {}", folder.display()))
            .hint("make one with `callsign dnssec init ZONE`"));
    }
    keys.sort_by_key(|kept| (kept.key.apex.to_string(), kept.key.times.publish));
    let shown = |kept: &Kept| {
        let (key, times) = (&kept.key, &kept.key.times);
        let stage = times.stage(now_s);
        let until = match stage {
            Stage::Coming => Some(times.ready_from()),
            Stage::Signing => times.inactive,
            Stage::Leaving => times.delete,
            Stage::Ready | Stage::Gone => None,
        };
        Shown {
            zone: key.apex.to_string(),
            tag: key.tag,
            stage: stage.as_str(),
            until: until.map(time),
            ds: key.ds_text(),
            dnskey: key.dnskey_text(),
        }
    };
    let keys: Vec<Shown> = keys.iter().map(shown).collect();
    match format {
        Format::Table => {
            let row = |key: &Shown| {
                let until = output::or_dash(key.until.clone().unwrap_or_default());
                vec![key.zone.clone(), key.tag.to_string(), key.stage.to_owned(), until, key.ds.clone()]
            };
            let rows = keys.iter().map(row).collect();
            output::print(&output::table(&["ZONE", "TAG", "STAGE", "UNTIL", "DS"], rows))?;
        }
        format => output::values(format, &keys)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// `2026-11-21T15:04:05Z`
fn time(unix_s: u64) -> String {
    let wall = Wall { unix_ms: i64::try_from(unix_s).unwrap_or_default().saturating_mul(1000) };
    let text = wall.to_string();
    text.split_once('.').map_or(text.clone(), |(seconds, _)| format!("{seconds}Z"))
}
