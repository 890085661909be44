//! A file in which an octet was changed, or whose end is missing: never a wrong registry, and no panic.
//!
//! What is found must be an error, or the registry as it was, or as it was after an earlier commit.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use callsign::registry::Kept;
use callsign::store::embedded::{Engine, EngineError, Reserve};
use callsign::time::{Now, Wall};

use crate::disk::Disk;
use crate::harness::{Draws, now, seed};
use crate::histories::{LIMITS, REDO_OCTETS, Stored, World};

/// In each of two files; `CALLSIGN_FLIPS` sets another number.
const FLIPS_DEFAULT: u64 = 5_000;
const INSTANCES: usize = 300;
const TRUNCATED_EVERY: usize = 512;
/// As redb lays them out.
const PAGE_OCTETS: usize = 4096;
const HEAD_OCTETS: usize = 64;

const START: Now = Now { mono_ns: 0, wall: Wall { unix_ms: 1_795_262_645_678 } };

/// A file with a history, and what it held after each commit.
struct File {
    image: Vec<u8>,
    states: Vec<Stored>,
}

fn engine(image: Vec<u8>) -> Result<Engine, EngineError> {
    Engine::open(Disk::new(image), REDO_OCTETS, Arc::default(), START.wall)
}

/// Left by a stop in order, or by a crash between two commits.
fn file(stopped: bool) -> File {
    let disk = Disk::default();
    let mut engine = Engine::open(disk.clone(), REDO_OCTETS, Arc::default(), START.wall)
        .unwrap_or_else(|error| panic!("a new store: {error}"));
    let (mut world, mut stored) = (World::new(Kept::default(), START), Stored::default());
    let mut states = vec![stored.clone()];
    let mut draws = Draws(7);
    for number in 0..INSTANCES + 30 {
        let batch = if number < INSTANCES {
            world.come(&format!("instance-{number}"))
        } else {
            world.now = world.now.after(Duration::from_millis(1));
            world.batch(&mut draws)
        };
        engine.commit(&batch.all, Reserve::Ahead, LIMITS).unwrap_or_else(|error| panic!("{error}"));
        stored.fold(&batch.all);
        world.acknowledge(&batch);
        states.push(stored.clone());
    }
    if stopped {
        engine
            .commit(&[], Reserve::UpTo(world.registry.revision()), LIMITS)
            .unwrap_or_else(|error| panic!("{error}"));
    }
    drop(engine);
    File { image: disk.image(), states }
}

/// What is found in an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Found {
    Right,
    /// So many commits ago, and complete.
    Older,
    Refused,
    Wrong,
    Panic,
}

fn look(file: &File, image: Vec<u8>) -> (Found, String) {
    let looked = catch_unwind(AssertUnwindSafe(|| -> Result<(Stored, u32), EngineError> {
        let engine = engine(image)?;
        let loaded = engine.load(START)?;
        Ok((Stored::read(&engine, &loaded.kept)?, loaded.serial_base))
    }));
    let (found, serial_base) = match looked {
        Ok(Ok(found)) => found,
        // A server that takes it for trouble of the disk does not start, and keeps nothing aside.
        Ok(Err(error @ EngineError::Io(_))) => return (Found::Wrong, format!("no damage: {error}")),
        Ok(Err(error)) => return (Found::Refused, error.to_string()),
        Err(_) => return (Found::Panic, "a panic".to_owned()),
    };
    if serial_base != (START.wall.unix_ms / 1000) as u32 {
        return (Found::Wrong, format!("serial base {serial_base}"));
    }
    let newest = file.states.len() - 1;
    match file.states.iter().rposition(|state| *state == found) {
        Some(place) if place == newest => (Found::Right, String::new()),
        Some(place) => (Found::Older, format!("{} commits ago", newest - place)),
        None => (Found::Wrong, found.difference(&file.states[newest]).unwrap_or_default()),
    }
}

/// Looks at each image in turn, prints what was found, and wants no panic and nothing wrong.
fn look_at_all(
    name: &str,
    file: &File,
    images: impl Iterator<Item = (String, Vec<u8>)>,
) -> BTreeMap<Found, u64> {
    let start = now();
    let mut counts: BTreeMap<Found, u64> = BTreeMap::new();
    let mut complaints = Vec::new();
    for (which, image) in images {
        let (found, what) = look(file, image);
        *counts.entry(found).or_default() += 1;
        if found >= Found::Wrong {
            complaints.push(format!("{which}: {what}"));
        }
    }
    println!(
        "octets: {name}: {counts:?} of {} octets, {:.1} s",
        file.image.len(),
        start.elapsed().as_secs_f64()
    );
    assert!(
        complaints.is_empty(),
        "{} complaints, the first {:#?}",
        complaints.len(),
        &complaints[..complaints.len().min(5)]
    );
    assert!(counts.contains_key(&Found::Refused), "nothing was noticed: {counts:?}");
    counts
}

fn flipped(name: &str, stopped: bool) -> BTreeMap<Found, u64> {
    let flips = match std::env::var("CALLSIGN_FLIPS") {
        Ok(text) => text.parse().expect("CALLSIGN_FLIPS is a number"),
        Err(_) => FLIPS_DEFAULT,
    };
    let seed = seed();
    println!("octets: seed {seed}");
    let (file, mut draws) = (file(stopped), Draws(seed));
    assert_eq!(look(&file, file.image.clone()).0, Found::Right);
    // Most of the file is empty: two thirds of the flips go where something is, half of them where a page
    // says how long everything in it is.
    let full: Vec<usize> = (0..file.image.len()).filter(|&at| file.image[at] != 0).collect();
    let heads: Vec<usize> = full.iter().copied().filter(|at| at % PAGE_OCTETS < HEAD_OCTETS).collect();
    let images = (0..flips).map(|number| {
        let mut image = file.image.clone();
        let at = match number % 3 {
            0 => draws.below(image.len()),
            1 => full[draws.below(full.len())],
            _ => heads[draws.below(heads.len())],
        };
        let flip = 1 + draws.below(255) as u8;
        image[at] ^= flip;
        (format!("octet {at} ^ {flip:#04x}"), image)
    });
    look_at_all(name, &file, images)
}

#[test]
fn an_octet_changed_after_a_stop_is_noticed() {
    let found = flipped("one octet after a stop", true);
    assert!(!found.contains_key(&Found::Older), "acknowledged changes went missing in silence: {found:?}");
}

#[test]
fn an_octet_changed_after_a_crash_is_noticed() {
    flipped("one octet after a crash", false);
}

#[test]
fn a_file_without_its_end_is_noticed() {
    let file = file(true);
    let lengths = (0..file.image.len()).step_by(TRUNCATED_EVERY).skip(1);
    let images = lengths.map(|octets| (format!("{octets} octets"), file.image[..octets].to_vec()));
    look_at_all("a file cut off", &file, images);
}
