//! Crash points: whatever a crash leaves of a commit, the store opens with all of it or nothing of it.
//!
//! A random history is committed batch by batch. Each commit is recorded, and then crashed at many of its steps
//! (`disk` says what a crash leaves); each time the store must hold what the model held after the last
//! acknowledged commit or, all of it, after the one in flight. Opening is recorded and crashed too: a
//! recovery may itself be cut short. Histories go on from what a crash left.
//!
//! `CALLSIGN_CRASHES` sets the number of crash points, `CALLSIGN_SEED` repeats a run; `tests/long/crashes.sh` makes a
//! million of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use callsign::registry::Kept;
use callsign::store::Failure;
use callsign::store::embedded::{self, Engine, EngineError, Loaded, Reserve};
use callsign::time::{Now, Wall};
use nix::libc::{EIO, ENOSPC};

use crate::disk::{Disk, Fault, Kind};
use crate::harness::{Draws, now, seed};
use crate::histories::{Batch, LIMITS, REDO_OCTETS, Stored, World};

const CRASHES_DEFAULT: u64 = 20_000;
const THREADS: u64 = 2;
/// Commits in one history.
const COMMITS: usize = 60;
/// Crash points of one commit.
const POINTS: u64 = 6;
/// Histories in which writes and syncs fail.
const FAILING_HISTORIES: u64 = 24;

#[derive(Default)]
struct Counts {
    points: u64,
    /// Crashes of a recovery.
    recoveries: u64,
    /// Where all of the commit in flight was there, and where nothing of it was.
    all: u64,
    nothing: u64,
}

/// An open store; the disk has recorded the opening.
struct Open {
    disk: Disk,
    engine: Engine,
    loaded: Loaded,
}

/// As the server does it: open, load, reserve.
fn open(image: Vec<u8>, now: Now) -> Result<Open, EngineError> {
    let disk = Disk::new(image);
    let mut engine = Engine::open(disk.clone(), REDO_OCTETS, Arc::default(), now.wall)?;
    let loaded = engine.load(now)?;
    engine.commit(&[], Reserve::Ahead, LIMITS)?;
    Ok(Open { disk, engine, loaded })
}

/// What may be there after a crash.
struct Expected<'a> {
    /// Before the commit in flight, and after it.
    states: [&'a Stored; 2],
    /// No revision up to it may be given out again.
    given: u64,
    serial_base: u32,
}

/// Opens what a crash left, and compares.
fn recover(image: Vec<u8>, now: Now, expected: &Expected<'_>) -> Result<(Open, usize), String> {
    let open = open(image, now).map_err(|error| format!("not opened: {error}"))?;
    let found =
        Stored::read(&open.engine, &open.loaded.kept).map_err(|error| format!("not read: {error}"))?;
    let Some(which) = expected.states.iter().position(|state| **state == found) else {
        let differences = expected.states.map(|state| found.difference(state));
        return Err(format!("neither before nor after the commit: {differences:?}"));
    };
    let newest = found.log.last_key_value().map_or(0, |(revision, _)| *revision);
    let revision = open.loaded.kept.revision;
    if revision < expected.given.max(newest) {
        return Err(format!("revision {revision} again, and {} was given out", expected.given.max(newest)));
    }
    if open.loaded.serial_base != expected.serial_base {
        return Err(format!("serial base {}, not {}", open.loaded.serial_base, expected.serial_base));
    }
    Ok((open, which))
}

/// One history, crashed again and again, until `budget` is spent.
fn crash_history(seed: u64, budget: u64, counts: &mut Counts) {
    let mut draws = Draws(seed);
    let started = Now { mono_ns: 0, wall: Wall { unix_ms: 1_795_262_645_678 } };
    let mut current = open(Vec::new(), started).unwrap_or_else(|error| panic!("a new store: {error}"));
    let serial_base = current.loaded.serial_base;
    let mut world = World::new(std::mem::take(&mut current.loaded.kept), started);
    let mut stored = Stored::default();
    for commit in 0..COMMITS {
        if counts.points >= budget {
            return;
        }
        let batch = world.batch(&mut draws);
        let before = current.disk.mark();
        let committed = current.engine.commit(&batch.all, Reserve::Ahead, LIMITS);
        committed.unwrap_or_else(|error| panic!("seed {seed}, commit {commit}: {error}"));
        let earlier = stored.clone();
        let given = world.registry.revision();
        stored.fold(&batch.all);
        world.acknowledge(&batch);
        let recording = current.disk.recording();
        let expected = Expected { states: [&earlier, &stored], given, serial_base };
        let mut next = None;
        for _ in 0..POINTS {
            let steps = before + draws.below(recording.steps.len() - before + 1);
            let image = recording.crashed(steps, &mut draws);
            let complain = |what: String| -> ! {
                panic!("seed {seed}, commit {commit}, crash after step {steps}: {what}")
            };
            let (mut left, mut which) =
                recover(image, world.now, &expected).unwrap_or_else(|what| complain(what));
            counts.points += 1;
            // The recovery is cut short, and what it leaves is recovered again.
            while draws.below(4) == 0 {
                let recovery = left.disk.recording();
                let steps = draws.below(recovery.steps.len() + 1);
                let image = recovery.crashed(steps, &mut draws);
                let again = recover(image, world.now, &expected).unwrap_or_else(|what| complain(what));
                if again.1 != which {
                    complain(format!("a recovery cut short after step {steps} led elsewhere"));
                }
                (left, which) = again;
                counts.recoveries += 1;
                counts.points += 1;
            }
            counts.all += u64::from(which == 1);
            counts.nothing += u64::from(which == 0);
            if draws.below(20) == 0 {
                next = Some((left, which));
            }
        }
        // The commit was acknowledged: whatever crashes from here on, it is there.
        let acknowledged =
            Expected { states: [&stored, &stored], given: world.registry.revision(), serial_base };
        let image = recording.crashed(recording.steps.len(), &mut draws);
        let after = recover(image, world.now, &acknowledged);
        after.unwrap_or_else(|what| panic!("seed {seed}, after commit {commit} was acknowledged: {what}"));
        counts.points += 1;
        if let Some((left, which)) = next {
            if which == 0 {
                stored = earlier;
            }
            current = left;
            world = World::new(std::mem::take(&mut current.loaded.kept), world.now);
        } else if draws.below(12) == 0 {
            current = reopen(current, &world, &stored, serial_base);
            world = World::new(std::mem::take(&mut current.loaded.kept), world.now);
        }
    }
}

/// Stops the store in order, and opens it again.
fn reopen(current: Open, world: &World, stored: &Stored, serial_base: u32) -> Open {
    let disk = current.disk.clone();
    drop(current);
    let expected = Expected { states: [stored, stored], given: world.registry.revision(), serial_base };
    recover(disk.image(), world.now, &expected).unwrap_or_else(|what| panic!("a clean stop: {what}")).0
}

#[test]
fn a_crash_leaves_all_of_a_commit_or_nothing() {
    let budget = match std::env::var("CALLSIGN_CRASHES") {
        Ok(text) => text.parse().expect("CALLSIGN_CRASHES is a number"),
        Err(_) => CRASHES_DEFAULT,
    };
    let seed = seed();
    println!("crashes: seed {seed}");
    let start = now();
    let counts: Vec<Counts> = std::thread::scope(|scope| {
        let threads = (0..THREADS).map(|thread| {
            scope.spawn(move || {
                let mut counts = Counts::default();
                let mut histories = Draws(seed ^ (thread << 32));
                while counts.points < budget.div_ceil(THREADS) {
                    crash_history(histories.next(), budget.div_ceil(THREADS), &mut counts);
                }
                counts
            })
        });
        let threads: Vec<_> = threads.collect();
        threads.into_iter().map(|thread| thread.join().expect("a thread that found nothing")).collect()
    });
    let sum = |of: fn(&Counts) -> u64| counts.iter().map(of).sum::<u64>();
    let (points, all, nothing) = (sum(|it| it.points), sum(|it| it.all), sum(|it| it.nothing));
    println!(
        "crashes: seed={seed} points={points} recoveries={} all={all} nothing={nothing} seconds={:.1}",
        sum(|it| it.recoveries),
        start.elapsed().as_secs_f64()
    );
    assert!(points >= budget, "{points} of {budget}");
    // A test that never saw one of the two tested nothing.
    assert!(all > points / 50 && nothing > points / 50, "all {all}, nothing {nothing}");
}

/// Fails at some step, which is refused; goes on when the disk does.
fn failing_history(seed: u64, counts: &mut [u64; 4]) {
    let mut draws = Draws(seed);
    let started = Now { mono_ns: 0, wall: Wall { unix_ms: 1_795_262_645_678 } };
    let mut current = open(Vec::new(), started).unwrap_or_else(|error| panic!("a new store: {error}"));
    let serial_base = current.loaded.serial_base;
    let mut world = World::new(Kept::default(), started);
    let mut stored = Stored::default();
    for commit in 0..COMMITS {
        let say = |what: String| -> ! { panic!("seed {seed}, commit {commit}: {what}") };
        let batch = world.batch(&mut draws);
        let lasting = draws.below(2) == 0;
        let code = [ENOSPC, EIO][draws.below(2)];
        // Most fail before the commit is there, and some when it is.
        let fault = match draws.below(3) {
            0 => Fault { steps: 0, code, lasting, on: Kind::WriteAfterSync, done: false },
            1 => Fault { steps: draws.below(2), code, lasting, on: Kind::Write, done: true },
            _ => Fault { steps: draws.below(24), code, lasting, on: Kind::Write, done: false },
        };
        current.disk.mark();
        current.disk.fail(Some(fault));
        let mut committed = current.engine.commit(&batch.all, Reserve::Ahead, LIMITS);
        while committed.is_err() {
            counts[0] += 1;
            // As the store's thread does: the file is opened anew for the next commit, whenever that is.
            let disk = current.disk.clone();
            drop(current);
            if draws.below(2) == 0 {
                disk.fail(None);
            }
            let reopen = || Engine::open(disk.clone(), REDO_OCTETS, Arc::default(), world.now.wall);
            let again = reopen();
            let engine = match again {
                Ok(engine) => engine,
                Err(EngineError::Io(_)) => {
                    counts[1] += 1;
                    disk.fail(None);
                    reopen().unwrap_or_else(|error| {
                        say(format!("not opened on a disk that works again: {error}"))
                    })
                }
                Err(error) => say(format!("not opened: {error}")),
            };
            let landed = engine.holds(&batch.all).unwrap_or_else(|error| say(error.to_string()));
            let loaded = engine.load(world.now).unwrap_or_else(|error| say(format!("not loaded: {error}")));
            let found = Stored::read(&engine, &loaded.kept).unwrap_or_else(|error| say(error.to_string()));
            let mut expected = stored.clone();
            if landed {
                expected.fold(&batch.all);
            }
            if let Some(difference) = found.difference(&expected) {
                say(format!("after a commit that failed (and is there: {landed}): {difference}"));
            }
            current = Open { disk, engine, loaded };
            if draws.below(3) > 0 {
                current.disk.fail(None);
            }
            if landed {
                counts[3] += 1;
                break;
            }
            committed = current.engine.commit(&batch.all, Reserve::Ahead, LIMITS);
        }
        current.disk.fail(None);
        stored.fold(&batch.all);
        world.acknowledge(&batch);
        // A crash right after: the trouble before the acknowledgement must have cost nothing.
        let recording = current.disk.recording();
        let image = recording.crashed(recording.steps.len(), &mut draws);
        let expected = Expected { states: [&stored, &stored], given: world.registry.revision(), serial_base };
        recover(image, world.now, &expected).unwrap_or_else(|what| say(what));
    }
    // A sync fails, and from then on nothing is acknowledged.
    let batch = world.batch(&mut draws);
    let earlier = stored.clone();
    stored.fold(&batch.all);
    let disk = current.disk.clone();
    drop(current);
    let sync_failed = Arc::new(AtomicBool::new(false));
    let mut engine = Engine::open(disk.clone(), REDO_OCTETS, sync_failed.clone(), world.now.wall)
        .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    disk.mark();
    disk.fail(Some(Fault { steps: 0, code: EIO, lasting: false, on: Kind::Sync, done: false }));
    assert!(engine.commit(&batch.all, Reserve::Ahead, LIMITS).is_err(), "seed {seed}: a sync failed");
    assert!(sync_failed.load(Ordering::Acquire), "seed {seed}: nobody noticed");
    for _ in 0..3 {
        let again = engine.commit(&batch.all, Reserve::Ahead, LIMITS);
        assert!(again.is_err(), "seed {seed}: acknowledged after a sync that failed");
    }
    drop(engine);
    if let Ok(mut engine) = Engine::open(disk.clone(), REDO_OCTETS, sync_failed, world.now.wall) {
        let again = engine.commit(&batch.all, Reserve::Ahead, LIMITS);
        assert!(again.is_err(), "seed {seed}: acknowledged after a sync that failed, on a new descriptor");
    }
    let recording = disk.recording();
    let expected = Expected { states: [&earlier, &stored], given: world.registry.revision(), serial_base };
    for _ in 0..POINTS {
        let image = recording.crashed(recording.steps.len(), &mut draws);
        let found = recover(image, world.now, &expected);
        found.unwrap_or_else(|what| panic!("seed {seed}, after a sync that failed: {what}"));
        counts[2] += 1;
    }
}

#[test]
fn a_commit_that_fails_leaves_nothing_and_the_next_one_works() {
    let seed = seed();
    println!("failing: seed {seed}");
    let mut counts = [0; 4];
    let mut histories = Draws(seed);
    let start = now();
    for _ in 0..FAILING_HISTORIES {
        failing_history(histories.next(), &mut counts);
    }
    let [failed, not_opened, after_sync, stored] = counts;
    println!(
        "failing: seed={seed} failed={failed} stored_all_the_same={stored} not_opened={not_opened} after_failed_sync={after_sync} seconds={:.1}",
        start.elapsed().as_secs_f64()
    );
    assert!(failed > FAILING_HISTORIES && stored > 0 && not_opened > 0);
}

#[test]
fn what_too_many_left_behind_is_forgotten_on_the_disk_too() {
    const LEFT: usize = 200;
    let started = Now { mono_ns: 0, wall: Wall { unix_ms: 1_795_262_645_678 } };
    let mut open = open(Vec::new(), started).unwrap_or_else(|error| panic!("a new store: {error}"));
    let mut world = World::new(Kept::default(), started);
    for number in 0..LEFT {
        let id = format!("crashing-{number}");
        for step in [World::come as fn(&mut World, &str) -> Batch, |world, id| world.go(id)] {
            let batch = step(&mut world, &id);
            open.engine.commit(&batch.all, Reserve::Ahead, LIMITS).unwrap_or_else(|error| panic!("{error}"));
            world.acknowledge(&batch);
        }
    }
    world.now = world.now.after(Duration::from_secs(61));
    let forgotten = world.facts();
    open.engine.commit(&forgotten.all, Reserve::Ahead, LIMITS).unwrap_or_else(|error| panic!("{error}"));
    let kept = open.engine.load(world.now).unwrap_or_else(|error| panic!("{error}")).kept;
    assert_eq!(kept.gone.len(), 0, "a minute after the last of {LEFT} left");
}

/// What the store's thread says of a commit at whose only write, which is done all the same, the disk begins to fail, so that the
/// file cannot be opened anew either; and, once the disk works again, of the next one. The first `facts` changes are facts.
fn in_doubt(facts: impl Fn(&Batch) -> usize) -> [Result<(), Failure>; 2] {
    let started = Now { mono_ns: 0, wall: Wall { unix_ms: 1_795_262_645_678 } };
    let disk = Disk::new(Vec::new());
    let descriptor = {
        let disk = disk.clone();
        move || disk.clone()
    };
    let opened = embedded::over(descriptor, REDO_OCTETS, LIMITS, started);
    let (store, mut thread, loaded) = opened.unwrap_or_else(|error| panic!("a new store: {error}"));
    let batch = World::new(loaded.kept, started).batch(&mut Draws(1));
    assert!(!batch.all.is_empty());
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    [true, false].map(|fails| {
        disk.fail(fails.then_some(Fault { steps: 0, code: EIO, lasting: true, on: Kind::Write, done: true }));
        let worked = async {
            let job = thread.next().await.expect("a commit");
            thread.commit(job);
        };
        let commit = store.commit(batch.all.clone(), facts(&batch), Reserve::Ahead);
        runtime.block_on(async { tokio::join!(commit, worked).0 })
    })
}

#[test]
fn a_commit_in_doubt_ends_the_store_only_where_somebody_was_refused() {
    let [first, next] = in_doubt(|batch| batch.all.len());
    assert!(matches!(first, Err(Failure::Doubtful(_))), "{first:?}");
    assert!(next.is_ok(), "what happened is there twice, which is the same: {next:?}");
    let [first, next] = in_doubt(|_| 0);
    assert!(matches!(first, Err(Failure::Doubtful(_))), "{first:?}");
    assert!(matches!(next, Err(Failure::Broken { .. })), "what was refused is there: {next:?}");
}
