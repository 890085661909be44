//! A simulated etcd that writes, deletes and compacts, and whose watches lie in every way that real ones have: events that
//! are lost, that come twice, that are old, watches that end. From a seed; `CALLSIGN_SEEDS` says how many.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::*;
use crate::store::etcd::messages;

/// Seeds that every run goes through; the long run has 100,000.
const SEEDS: u64 = 2_000;
const STEPS: u64 = 120;
const KEYS: u64 = 12;
/// Known keys that are asked for at once: the pages that the etcd gives are shorter, and longer.
const PAGE: usize = 3;

struct Draws(u64);

impl Draws {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// Every revision: what it did to which keys.
#[derive(Default)]
struct Etcd {
    revisions: Vec<Vec<(Vec<u8>, Option<u64>)>>,
    compacted: u64,
}

impl Etcd {
    fn revision(&self) -> u64 {
        self.revisions.len() as u64
    }

    /// The keys at a revision, each with the one that wrote it and the one that it is there since.
    fn at(&self, revision: u64) -> BTreeMap<Vec<u8>, (u64, u64)> {
        let mut keys: BTreeMap<Vec<u8>, (u64, u64)> = BTreeMap::new();
        for (number, changes) in self.revisions.iter().enumerate().take(revision as usize) {
            let number = number as u64 + 1;
            for (key, value) in changes {
                match value {
                    Some(_) => {
                        let created = keys.get(key).map_or(number, |(_, created)| *created);
                        keys.insert(key.clone(), (number, created));
                    }
                    None => drop(keys.remove(key)),
                }
            }
        }
        keys
    }

    fn write(&mut self, draws: &mut Draws) {
        let there = self.at(self.revision());
        let mut changes: BTreeMap<Vec<u8>, Option<u64>> = BTreeMap::new();
        for _ in 0..1 + draws.below(2) {
            let key = format!("p/{}", draws.below(KEYS)).into_bytes();
            let deletes = draws.below(3) == 0;
            if !deletes || there.contains_key(&key) {
                changes.insert(key, (!deletes).then_some(self.revision()));
            }
        }
        if !changes.is_empty() {
            self.revisions.push(changes.into_iter().collect());
        }
    }

    fn page(&self, asked: &Stretch, most: usize) -> Option<Ranged> {
        let Stretch { from, to, revision } = asked;
        let at = if *revision == 0 { self.revision() } else { *revision };
        if *revision > 0 && *revision < self.compacted {
            return None;
        }
        let keys = self.at(at);
        let mut pairs: Vec<Pair> = keys
            .range::<[u8], _>((Bound::Included(from.as_slice()), Bound::Excluded(to.as_slice())))
            .map(|(key, (modified, created))| Pair {
                key: key.clone(),
                modified: *modified,
                created: *created,
                ..Pair::default()
            })
            .collect();
        let more = pairs.len() > most;
        pairs.truncate(most);
        Some(Ranged { revision: self.revision(), pairs, more })
    }

    fn events(&self, revision: u64) -> Vec<Event> {
        let changes = self.revisions[revision as usize - 1].iter();
        changes
            .map(|(key, value)| Event {
                deleted: value.is_none(),
                pair: Pair { key: key.clone(), modified: revision, ..Pair::default() },
            })
            .collect()
    }
}

/// What the machine asked for and was not yet told, and what whoever listens to it believes.
struct World {
    etcd: Etcd,
    follow: Follow,
    reading: Option<Stretch>,
    comparing: Option<Stretch>,
    /// The next revision of the watch, and whether it has said that it is there.
    watch: Option<u64>,
    opened: bool,
    /// There is more to compare.
    rests: bool,
    judge: bool,
    /// What was told: the revision of each key, and how often everything was read.
    mirror: BTreeMap<Vec<u8>, u64>,
    caught_up: bool,
    rereadings: usize,
}

impl World {
    fn new() -> Self {
        let etcd = Etcd::default();
        let (reading, comparing, watch, mirror) = (None, None, None, BTreeMap::new());
        let follow = Follow::new(b"p/", PAGE);
        Self {
            etcd,
            follow,
            reading,
            comparing,
            watch,
            opened: false,
            rests: false,
            judge: false,
            mirror,
            caught_up: false,
            rereadings: 0,
        }
    }

    fn hear(&mut self, input: Input) {
        for output in self.follow.hear(input) {
            match output {
                Output::Read(asked) => (self.reading, self.watch) = (Some(asked), None),
                Output::Watch { from } => (self.watch, self.opened) = (Some(from), false),
                Output::Compare(asked) => self.comparing = Some(asked),
                Output::Rest => self.rests = true,
                Output::Judge => self.judge = true,
                Output::CaughtUp(_) => self.caught_up = true,
                Output::GiveUp(_) => self.connect(),
                Output::Reread(_) => self.rereadings += 1,
                Output::Tell(told) => self.told(told),
            }
        }
    }

    fn told(&mut self, told: Vec<Told>) {
        assert!(!told.is_empty());
        for Told { key, revision, pair } in told {
            match pair {
                Some(pair) => {
                    // Never back in time: what is told of a key is newer than what was told of it.
                    let before = self.mirror.insert(key, pair.modified);
                    assert!(before.is_none_or(|before| before < pair.modified), "told twice, or an old one");
                }
                None => {
                    assert!(self.mirror.remove(&key).is_some(), "told as gone, and was not there");
                    // And never gone where it was there all the time.
                    assert!(!self.etcd.at(revision).contains_key(&key), "told as gone, and is there");
                }
            }
        }
    }

    fn connect(&mut self) {
        (self.reading, self.comparing, self.watch) = (None, None, None);
        (self.rests, self.judge) = (false, false);
        self.hear(Input::Connected);
    }

    fn compact(&mut self, draws: &mut Draws) {
        let behind = draws.below(6);
        self.etcd.compacted = self.etcd.compacted.max(self.etcd.revision().saturating_sub(behind));
    }

    /// The next message of the watch, which lies where `lies` says so.
    fn watch_on(&mut self, draws: &mut Draws, lies: bool) {
        let Some(from) = self.watch else { return };
        if !std::mem::replace(&mut self.opened, true) {
            return self.hear(Input::Watched(Watched { created: true, ..Watched::default() }));
        }
        if from <= self.etcd.compacted && from <= self.etcd.revision() {
            let compacted = self.etcd.compacted;
            self.watch = None;
            return self.hear(Input::Watched(Watched { canceled: true, compacted, ..Watched::default() }));
        }
        if from > self.etcd.revision() {
            return;
        }
        self.watch = Some(from + 1);
        let mut events = self.etcd.events(from);
        match if lies { draws.below(12) } else { u64::MAX } {
            0 => return,                             // lost
            1 => drop(events.pop()),                 // one of several is lost
            2 => events.extend(events.clone()),      // twice
            3 => self.watch = Some(from.max(4) - 3), // back in time
            4 => {
                self.watch = None;
                return self.hear(Input::Watched(Watched { canceled: true, ..Watched::default() }));
            }
            5 if events.len() > 1 => {
                let rest = events.split_off(1);
                self.hear(Input::Watched(Watched { events, ..Watched::default() }));
                events = rest;
            }
            _ => {}
        }
        self.hear(Input::Watched(Watched { events, ..Watched::default() }));
    }

    fn answer(&mut self, draws: &mut Draws) {
        let most = 1 + draws.below(5) as usize;
        if let Some(asked) = self.reading.take() {
            match self.etcd.page(&asked, most) {
                Some(page) => self.hear(Input::Page(page)),
                None => self.hear(Input::PageCompacted),
            }
        } else if std::mem::take(&mut self.rests) {
            self.hear(Input::CompareDue);
        } else if let Some(asked) = self.comparing.take() {
            match self.etcd.page(&asked, most) {
                Some(page) => self.hear(Input::Compared(page)),
                None => self.hear(Input::CompareFailed),
            }
        }
    }

    fn step(&mut self, draws: &mut Draws) {
        match draws.below(24) {
            0..8 => self.etcd.write(draws),
            8..14 => self.watch_on(draws, true),
            14..19 => self.answer(draws),
            19 => self.compact(draws),
            20 => self.connect(),
            21 if draws.below(2) == 0 => self.hear(Input::CompareDue),
            21 => {
                let key = draws.below(KEYS);
                self.hear(Input::Doubted(vec![keys(&format!("p/{key}"), "p/99")]));
            }
            22 if self.judge => {
                self.judge = false;
                self.hear(Input::JudgeDue);
            }
            _ => {}
        }
    }

    /// No more lies: what is still asked is answered, and everything compared.
    fn heal(&mut self, draws: &mut Draws) {
        for round in 0..8 {
            for _ in 0..150 {
                self.answer(draws);
                self.watch_on(draws, false);
            }
            // The first may be the end of one that was under way.
            if round < 2 {
                self.hear(Input::CompareDue);
            }
            if std::mem::take(&mut self.judge) {
                self.hear(Input::JudgeDue);
            }
        }
    }
}

fn keys(from: &str, to: &str) -> (Vec<u8>, Vec<u8>) {
    (from.into(), to.into())
}

fn run(seed: u64) {
    let mut draws = Draws(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 1);
    let mut world = World::new();
    world.connect();
    for _ in 0..STEPS {
        world.step(&mut draws);
    }
    world.heal(&mut draws);
    let there: BTreeMap<Vec<u8>, u64> = world
        .etcd
        .at(world.etcd.revision())
        .into_iter()
        .map(|(key, (modified, _))| (key, modified))
        .collect();
    assert!(world.caught_up, "seed {seed}");
    assert_eq!(world.mirror, there, "seed {seed}");
    assert_eq!(world.follow.known.keys, there, "seed {seed}");
}

#[test]
fn what_is_told_becomes_what_is_there_however_the_watch_lies() {
    let seeds = std::env::var("CALLSIGN_SEEDS").ok().map(|seeds| seeds.parse().expect("a number of seeds"));
    for seed in 0..seeds.unwrap_or(SEEDS) {
        run(seed);
    }
}

#[test]
fn a_loss_that_the_watch_never_tells_is_found_by_comparing() {
    let mut world = World::new();
    world.etcd.revisions.push(vec![(b"p/a".to_vec(), Some(1))]);
    world.connect();
    let mut draws = Draws(1);
    world.answer(&mut draws);
    world.etcd.revisions.push(vec![(b"p/a".to_vec(), None), (b"p/b".to_vec(), Some(2))]);
    world.watch = Some(3); // the watch goes on behind it
    world.heal(&mut draws);
    assert_eq!(world.mirror, BTreeMap::from([(b"p/b".to_vec(), 2)]));
    assert_eq!(world.rereadings, 1);
}

#[test]
fn what_another_reading_finds_is_told_at_once_and_that_it_is_one() {
    let key = |name: &str| format!("p/{name}").into_bytes();
    let mut world = World::new();
    world.etcd.revisions.push(["a", "b", "c"].map(|name| (key(name), Some(1))).to_vec());
    world.connect();
    let page = |world: &World, from: &str, most| {
        let all_behind = Stretch { from: key(from), to: messages::behind(b"p/"), revision: 0 };
        world.etcd.page(&all_behind, most).expect("a page")
    };
    world.reading = None;
    world.hear(Input::Page(page(&world, "", 9)));
    assert_eq!(world.rereadings, 0, "the first one is no other");
    world.etcd.revisions.push(vec![(key("a"), None), (key("c"), Some(2))]);
    world.hear(Input::CompareDue);
    world.hear(Input::Compared(page(&world, "", 9)));
    while world.reading.is_none() {
        world.hear(Input::JudgeDue); // the watch says nothing
    }
    let (half, rest) = (page(&world, "", 1), page(&world, "c", 9));
    let outputs = world.follow.hear(Input::Page(half));
    assert!(matches!(&outputs[..], [Output::Read { .. }]), "{outputs:?}");
    let outputs = world.follow.hear(Input::Page(rest));
    let [Output::Reread(2), Output::Tell(told), Output::Watch { from: 3 }, Output::CaughtUp(2)] =
        &outputs[..]
    else {
        panic!("{outputs:?}")
    };
    assert_eq!(told.iter().map(|told| told.key.clone()).collect::<Vec<_>>(), [key("a"), key("c")]);
}

#[test]
fn a_comparison_asks_for_ranges_of_a_page_of_known_keys() {
    let mut world = World::new();
    world.etcd.revisions.push((0..10).map(|number| (format!("p/{number}").into_bytes(), Some(1))).collect());
    world.connect();
    let first = world.reading.clone().expect("asked to read");
    let all = world.etcd.page(&first, 99).expect("a page");
    world.hear(Input::Page(all));
    world.hear(Input::CompareDue);
    let mut lengths = Vec::new();
    while let Some(asked) = world.comparing.take() {
        let page = world.etcd.page(&asked, 99).expect("a page");
        lengths.push(page.pairs.len());
        world.hear(Input::Compared(page));
        if std::mem::take(&mut world.rests) {
            world.hear(Input::CompareDue);
        }
    }
    assert_eq!(lengths, [3, 3, 3, 1]);
    assert!(!world.judge);
}

#[test]
fn a_watch_that_tells_everything_is_never_doubted_however_far_it_is_behind() {
    for seed in 0..SEEDS / 4 {
        let mut draws = Draws(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 1);
        let mut world = World::new();
        world.connect();
        world.heal(&mut draws);
        let mut judged = 0;
        for _ in 0..STEPS {
            match draws.below(8) {
                0..3 => world.etcd.write(&mut draws),
                3 => world.hear(Input::CompareDue),
                4 => world.hear(Input::Doubted(vec![keys("p/", "p/5"), keys("p/3", "p/99")])),
                5..7 => world.answer(&mut draws),
                _ => {
                    judged = 0;
                    world.watch_on(&mut draws, false);
                }
            }
            // It tells something between one judgement and the third behind it.
            if world.judge && judged < 3 {
                judged += 1;
                world.judge = false;
                world.hear(Input::JudgeDue);
            }
        }
        assert_eq!(world.rereadings, 0, "seed {seed}");
        assert!(!matches!(world.follow.phase, Phase::Reading(_)), "seed {seed}");
    }
}

#[test]
fn a_watch_that_is_dead_is_found_however_often_somebody_doubts() {
    let mut world = World::new();
    world.connect();
    world.etcd.revisions.push(vec![(b"p/a".to_vec(), Some(1))]);
    let mut draws = Draws(1);
    while world.watch.is_none() || !world.opened {
        world.answer(&mut draws);
        world.watch_on(&mut draws, false);
    }
    for number in 0..10 {
        world.etcd.revisions.push(vec![(format!("p/{number}").into_bytes(), Some(1))]);
        world.hear(Input::Doubted(vec![keys("p/", "p/99")]));
        while world.comparing.is_some() || world.rests {
            world.answer(&mut draws);
        }
        assert!(world.judge, "{number}");
        world.judge = false;
        world.hear(Input::JudgeDue);
        if world.reading.is_some() {
            assert_eq!(number, 3, "the fourth time that it had told nothing");
            return;
        }
    }
    panic!("it was never found");
}

#[test]
fn a_doubt_lasts_until_the_watch_has_told_what_was_seen() {
    let mut world = World::new();
    let key = b"p/a".to_vec();
    world.etcd.revisions.push(vec![(key.clone(), Some(1))]);
    world.connect();
    let mut draws = Draws(1);
    world.heal(&mut draws);
    // It is written and deleted; the watch will tell of the first alone.
    world.etcd.revisions.extend([vec![(key.clone(), Some(2))], vec![(key.clone(), None)]]);
    world.hear(Input::CompareDue);
    world.answer(&mut draws);
    world.watch_on(&mut draws, false);
    world.etcd.revisions.push(vec![(b"p/b".to_vec(), Some(1))]);
    world.watch = Some(4); // and goes on behind the second
    world.watch_on(&mut draws, false);
    assert!(world.mirror.contains_key(&key), "it lost that");
    world.hear(Input::JudgeDue);
    assert!(world.reading.is_some(), "what it went past is lost");
}

#[test]
fn a_comparison_goes_on_where_it_was_when_a_connection_or_a_page_was_lost() {
    let mut world = World::new();
    world.etcd.revisions.push((0..10).map(|number| (format!("p/{number}").into_bytes(), Some(1))).collect());
    world.connect();
    let mut draws = Draws(1);
    world.heal(&mut draws);
    world.hear(Input::CompareDue);
    let first = world.comparing.take().expect("it is compared");
    world.hear(Input::Compared(world.etcd.page(&first, 99).expect("a page")));
    world.hear(Input::CompareDue);
    let second = world.comparing.take().expect("it goes on");
    assert_eq!(second.from, first.to);
    world.hear(Input::CompareFailed);
    world.hear(Input::CompareDue);
    assert_eq!(world.comparing.as_ref(), Some(&second));
    world.connect();
    world.hear(Input::CompareDue);
    assert_eq!(world.comparing.as_ref(), Some(&second));
}
