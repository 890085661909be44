//! What goes wrong and when, drawn from a seed: every kind of trouble in each round (of a full disk and a stepped clock,
//! one), in an order, at places and for times that the seed says, several at once.

use std::time::Duration;

use crate::harness::Draws;
use crate::machines::{MEMBERS, NODES, Trouble, Troubles};

/// One kind of trouble, at whom. Machines are hosts of the network: the members of etcd first, then the nodes.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    KillNode(usize),
    KillMember(usize),
    PauseNode(usize),
    PauseMember(usize),
    /// A link carries nothing, both ways or one.
    Cut {
        between: (usize, usize),
        one_way: bool,
    },
    /// A machine hears nobody and nobody hears it.
    Alone(usize),
    /// Every link loses this share of the packets.
    Lossy(f64),
    /// Every packet takes between these milliseconds.
    Slow(u32, u32),
    FillDisk(usize),
    /// A node's wall clock is off by so many seconds from here on.
    StepClock(usize, i64),
}

/// From when to when, since the beginning.
#[derive(Clone, Debug)]
pub struct Episode {
    pub from: Duration,
    pub to: Duration,
    pub fault: Fault,
}

/// Between the beginnings of two troubles, in milliseconds: some are there together, and some alone.
const APART_MS: (usize, usize) = (600, 2600);
/// How long one lasts: from less than anybody's patience to longer than a membership, a lease and the rest together.
const LASTS_MS: (usize, usize) = (500, 6_000);
/// Who is cut off has to be for long: others take over what it watched after 5 s, and end it a lease later.
const ALONE_MS: (usize, usize) = (4_000, 13_000);

/// The episodes of a round, in the order of their beginnings.
pub fn drawn(draws: &mut Draws) -> Vec<Episode> {
    let mut kinds: Vec<usize> = (0..KINDS).collect();
    for at in (1..kinds.len()).rev() {
        kinds.swap(at, draws.below(at + 1));
    }
    let mut at = 1000;
    // When each machine is free of trouble with its process.
    let mut free = [0; MEMBERS + NODES + 1];
    let mut episodes = Vec::new();
    for kind in kinds {
        let fault = fault(kind, draws);
        let lasts = match fault {
            Fault::Alone(_) => between(draws, ALONE_MS),
            _ => between(draws, LASTS_MS),
        };
        let mut from = at;
        if let Some(host) = host_of(&fault) {
            from = from.max(free[host]);
            free[host] = from + lasts;
        }
        let times = [from, from + lasts].map(|ms| Duration::from_millis(ms as u64));
        episodes.push(Episode { from: times[0], to: times[1], fault });
        at += between(draws, APART_MS);
    }
    episodes.sort_by_key(|episode| episode.from);
    episodes
}

/// Troubles of a round: nodes are killed twice, and cut off twice.
const KINDS: usize = 13;

fn fault(kind: usize, draws: &mut Draws) -> Fault {
    let member = 1 + draws.below(MEMBERS);
    let node = 1 + MEMBERS + draws.below(NODES);
    match kind {
        0 | 1 => Fault::KillNode(node),
        2 => Fault::KillMember(member),
        3 => Fault::PauseNode(node),
        4 => Fault::PauseMember(member),
        5 => Fault::Cut { between: link(draws), one_way: false },
        6 => Fault::Cut { between: link(draws), one_way: true },
        7 => Fault::Alone(member),
        8 | 9 => Fault::Alone(node),
        10 => Fault::Lossy(0.02 + draws.below(20) as f64 / 100.0),
        11 if draws.below(2) == 0 => Fault::FillDisk(member),
        11 => Fault::StepClock(node, draws.below(2_000_000) as i64 - 1_000_000),
        _ => {
            let shortest = draws.below(60) as u32;
            Fault::Slow(shortest, shortest + draws.below(120) as u32)
        }
    }
}

/// A link that something goes over: between two members, or a node and a member.
fn link(draws: &mut Draws) -> (usize, usize) {
    let from = 1 + draws.below(MEMBERS + NODES);
    let to = 1 + draws.below(MEMBERS);
    match from == to {
        true => (from, 1 + to % MEMBERS),
        false if draws.below(2) == 0 => (to, from),
        false => (from, to),
    }
}

/// The machine whose process it concerns: one thing at a time happens to that.
fn host_of(fault: &Fault) -> Option<usize> {
    match fault {
        Fault::KillNode(host)
        | Fault::KillMember(host)
        | Fault::PauseNode(host)
        | Fault::PauseMember(host) => Some(*host),
        Fault::FillDisk(host) | Fault::StepClock(host, _) => Some(*host),
        Fault::Cut { .. } | Fault::Alone(_) | Fault::Lossy(_) | Fault::Slow(..) => None,
    }
}

fn between(draws: &mut Draws, (least, most): (usize, usize)) -> usize {
    least + draws.below(most - least)
}

/// What links do while these faults are there, one on top of the other.
pub fn troubles<'a>(faults: impl Iterator<Item = &'a Fault> + Clone) -> Troubles {
    let hosts = 1..=MEMBERS + NODES;
    let links = hosts.clone().flat_map(|from| hosts.clone().map(move |to| (from, to)));
    let mut troubles = Troubles::new();
    for (from, to) in links.filter(|(from, to)| from != to) {
        let mut trouble = Trouble { lost: 0.0, delay_ms: (0, 0) };
        for fault in faults.clone() {
            match fault {
                Fault::Cut { between, one_way } => {
                    let there = *between == (from, to) || (!one_way && *between == (to, from));
                    trouble.lost = if there { 1.0 } else { trouble.lost };
                }
                Fault::Alone(host) if [from, to].contains(host) => trouble.lost = 1.0,
                Fault::Lossy(share) => trouble.lost = trouble.lost.max(*share),
                Fault::Slow(shortest, longest) => trouble.delay_ms = (*shortest, *longest),
                _ => {}
            }
        }
        if trouble.lost > 0.0 || trouble.delay_ms.1 > 0 {
            troubles.insert((from, to), trouble);
        }
    }
    troubles
}
