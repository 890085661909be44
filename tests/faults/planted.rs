//! The checker is checked: each rule has a history that breaks it alone and is found, and what looks strange and is right
//! is not.

use std::collections::BTreeSet;

use crate::history::{
    History, Life, Limits, Listing, Micros, Outcome, Pause, Rule, Run, Seen, Sight, Verb, Word, check,
};

const LIMITS: Limits = Limits { settle: 5 * SECOND };
const SECOND: Micros = 1_000_000;
const LEASE: Micros = 2 * SECOND;
/// The end of trouble in these histories.
const HEALED: Micros = 20 * SECOND;

/// Three nodes that run all the time, one service, and nothing said or seen yet.
struct Planted(History);

impl Planted {
    fn new() -> Self {
        let runs = (0..3).map(|node| Run { node, begun: 0, ready: Some(1), ended: None }).collect();
        let equal = Listing { at: HEALED + SECOND, nodes: vec![Default::default(); 3] };
        Self(History { nodes: 3, runs, healed: HEALED, listings: vec![equal], ..History::default() })
    }

    /// A life in service 0.
    fn life(mut self, port: u16) -> Self {
        self.0.lives.insert(port, Life { service: 0, lease: LEASE });
        self
    }

    /// Said in a tenth of a second.
    fn word(mut self, port: u16, node: usize, verb: Verb, sent: Micros, outcome: Outcome) -> Self {
        let answered = sent + SECOND / 10;
        self.0.words.push(Word { port, node, verb, sent, answered, outcome });
        self
    }

    /// A life that node 0 acknowledged, and then a heartbeat a second at these seconds.
    fn kept(mut self, port: u16, heartbeats: std::ops::Range<u64>) -> Self {
        self = self.life(port).word(port, 0, Verb::Register, SECOND, Outcome::Done);
        for second in heartbeats {
            self = self.word(port, 0, Verb::Heartbeat, second * SECOND, Outcome::Done);
        }
        self
    }

    fn sees(mut self, node: usize, sent: Micros, seen: Seen) -> Self {
        self.0.sights.push(Sight { node, service: 0, sent, answered: sent + SECOND / 100, seen });
        self
    }

    fn shows(self, node: usize, sent: Micros, ports: &[u16]) -> Self {
        self.sees(node, sent, Seen::Ports(ports.iter().copied().collect::<BTreeSet<u16>>()))
    }

    fn breaks(self, rule: Rule) {
        let found: Vec<Rule> = check(&self.0, LIMITS).into_iter().map(|violation| violation.rule).collect();
        assert_eq!(found, [rule]);
    }

    fn keeps_all(self) {
        let found = check(&self.0, LIMITS);
        assert!(found.is_empty(), "{found:?}");
    }
}

use Outcome::{Absent, Done, Unknown};
use Verb::{Deregister, Heartbeat, Register};

#[test]
fn a_kept_life_is_missed_at_every_node_that_knows_it() {
    // At the node that acknowledged it, at once.
    Planted::new().kept(1, 2..2).shows(0, SECOND * 3 / 2, &[]).breaks(Rule::Missing);
    // At one that showed it.
    Planted::new().kept(1, 2..6).shows(1, 2 * SECOND, &[1]).shows(1, 4 * SECOND, &[]).breaks(Rule::Missing);
    // At one that started since; at one that never knew, when it had its time.
    let mut planted = Planted::new().kept(1, 2..6).shows(1, 4 * SECOND, &[]);
    planted.0.runs.push(Run { node: 1, begun: 3 * SECOND, ready: Some(3 * SECOND + 1), ended: None });
    planted.breaks(Rule::Missing);
    Planted::new().kept(1, 2..30).shows(1, HEALED + LIMITS.settle, &[]).breaks(Rule::Missing);
    // Another node took its heartbeats.
    let planted = Planted::new().kept(1, 2..3).word(1, 1, Heartbeat, 3 * SECOND, Done);
    planted.shows(0, 4 * SECOND, &[]).breaks(Rule::Missing);
    // Told once a node, however often it is seen.
    Planted::new().kept(1, 2..9).shows(0, 4 * SECOND, &[]).shows(0, 5 * SECOND, &[]).breaks(Rule::Missing);
}

#[test]
fn what_is_not_kept_may_be_missing() {
    // The node has not heard of it yet, or is cut off.
    Planted::new().kept(1, 2..19).shows(1, 4 * SECOND, &[]).shows(1, 18 * SECOND, &[]).keeps_all();
    // Its lease is over while the answer is on its way.
    Planted::new().kept(1, 2..2).shows(0, SECOND + LEASE - 1, &[]).keeps_all();
    // Nobody acknowledged what came after.
    let unheard = Planted::new().kept(1, 2..2).word(1, 1, Heartbeat, 2 * SECOND, Unknown);
    unheard.shows(0, 3 * SECOND, &[]).keeps_all();
    // A registration without an answer promises nothing, and may be shown and gone all the same.
    let planted = Planted::new().life(1).word(1, 0, Register, SECOND, Unknown);
    planted.shows(0, 2 * SECOND, &[1]).shows(0, 3 * SECOND, &[]).keeps_all();
    // Shown while nobody had answered, then registered elsewhere: this node may be behind.
    let planted = Planted::new().life(1).word(1, 0, Register, SECOND, Unknown);
    let planted = planted.word(1, 1, Register, 4 * SECOND, Done).shows(2, 2 * SECOND, &[1]);
    planted.shows(2, 5 * SECOND, &[]).keeps_all();
    // Its end was asked for, and nobody has answered that.
    let planted = Planted::new().kept(1, 2..4).word(1, 1, Deregister, 4 * SECOND, Unknown);
    planted.shows(0, 4 * SECOND + 1, &[]).shows(0, 4 * SECOND + 2, &[1]).keeps_all();
    // Not ready is not empty.
    let mut planted = Planted::new().kept(1, 2..6).sees(1, 4 * SECOND, Seen::NotReady);
    planted.0.runs[1].ready = None;
    planted.keeps_all();
}

#[test]
fn a_gap_in_the_words_is_no_promise_and_the_words_behind_it_are() {
    let planted = || Planted::new().kept(1, 2..2).word(1, 0, Heartbeat, 4 * SECOND, Done);
    planted().shows(0, SECOND + LEASE, &[]).keeps_all();
    planted().shows(0, 5 * SECOND, &[]).breaks(Rule::Missing);
}

#[test]
fn no_for_a_kept_life_is_found() {
    Planted::new().kept(1, 2..3).word(1, 0, Heartbeat, 3 * SECOND, Absent).breaks(Rule::Denied);
    Planted::new().kept(1, 2..3).word(1, 0, Deregister, 3 * SECOND, Absent).breaks(Rule::Denied);
    // A node that need not know it may say so, and so may anybody when the lease is over.
    Planted::new().kept(1, 2..3).word(1, 1, Heartbeat, 3 * SECOND, Absent).keeps_all();
    Planted::new().kept(1, 2..3).word(1, 0, Heartbeat, 4 * SECOND, Absent).keeps_all();
    // The end was asked for before, and was not answered.
    let planted = Planted::new().kept(1, 2..3).word(1, 0, Deregister, 3 * SECOND, Unknown);
    planted.word(1, 0, Deregister, 7 * SECOND / 2, Absent).keeps_all();
}

#[test]
fn a_deregistered_life_is_back() {
    let planted = || Planted::new().kept(1, 2..3).word(1, 0, Deregister, 3 * SECOND, Done);
    // At the node that acknowledged it.
    planted().shows(0, 4 * SECOND, &[1]).breaks(Rule::Back);
    // At one that had shown it, and then did not.
    let shown = planted().shows(1, 2 * SECOND, &[1]).shows(1, 4 * SECOND, &[]);
    shown.shows(1, 5 * SECOND, &[1]).breaks(Rule::Back);
    // At one that started since.
    let mut started = planted().shows(1, 5 * SECOND, &[1]);
    started.0.runs.push(Run { node: 1, begun: 4 * SECOND, ready: Some(4 * SECOND + 1), ended: None });
    started.breaks(Rule::Back);
    // At one that was cut off, when it had its time; no lease is over by then that counts from the healing.
    planted().shows(1, HEALED + LIMITS.settle, &[1]).breaks(Rule::Back);
    // That it was not there is an acknowledgement too.
    let planted = Planted::new().kept(1, 2..3).word(1, 1, Deregister, 3 * SECOND, Absent);
    planted.shows(1, 4 * SECOND, &[1]).breaks(Rule::Back);
}

#[test]
fn what_was_deregistered_may_be_there_for_a_while() {
    let planted = || Planted::new().kept(1, 2..3).word(1, 0, Deregister, 3 * SECOND, Done);
    // Elsewhere, for as long as that node has not heard of it; behind, it hears of the beginning first.
    planted().shows(1, 4 * SECOND, &[1]).shows(1, HEALED, &[1]).keeps_all();
    planted().shows(1, 4 * SECOND, &[]).shows(1, 5 * SECOND, &[1]).keeps_all();
    // While the request is under way.
    planted().shows(0, 3 * SECOND + 1, &[1]).keeps_all();
    // An unanswered registration of it may come late.
    let doubted = Planted::new().life(1).word(1, 1, Register, SECOND, Unknown);
    let doubted = doubted.word(1, 0, Register, 2 * SECOND, Done).word(1, 0, Deregister, 3 * SECOND, Done);
    doubted.shows(0, 4 * SECOND, &[]).shows(0, 5 * SECOND, &[1]).keeps_all();
}

#[test]
fn a_silent_life_outlives_its_lease() {
    let over = HEALED + LEASE + LIMITS.settle;
    Planted::new().kept(1, 2..5).shows(1, over, &[1]).breaks(Rule::Ghost);
    Planted::new().kept(1, 2..5).shows(1, over - 1, &[1]).keeps_all();
    // Leases stood still once more: they have their time again, and no more than that.
    let stood = |at: Micros| {
        let mut planted = Planted::new().kept(1, 2..5).shows(1, at, &[1]);
        planted.0.stood.push(HEALED + SECOND);
        planted
    };
    stood(over).keeps_all();
    stood(over + SECOND).breaks(Rule::Ghost);
    // From its last word, where that came later.
    Planted::new().kept(1, 2..30).shows(0, 29 * SECOND + LEASE + LIMITS.settle, &[1]).keeps_all();
    // One that nobody acknowledged, and one with a registration in doubt, too.
    let planted = Planted::new().life(1).word(1, 0, Register, SECOND, Unknown);
    planted.shows(1, over, &[1]).breaks(Rule::Ghost);
}

#[test]
fn nodes_that_list_different_things_are_found() {
    let listing = |at: Micros, revisions: [u64; 3]| Listing {
        at,
        nodes: revisions.iter().map(|revision| [(1, *revision)].into()).collect(),
    };
    let with = |listings: Vec<Listing>| {
        let mut planted = Planted::new();
        planted.0.listings = listings;
        planted
    };
    with(vec![listing(HEALED + 1, [7, 7, 8])]).breaks(Rule::Unequal);
    with(vec![listing(HEALED + 1, [7, 7, 7]), listing(HEALED + 2, [7, 8, 8])]).breaks(Rule::Unequal);
    with(vec![listing(HEALED + 1, [7, 7, 8]), listing(HEALED + LIMITS.settle + 1, [8, 8, 8])])
        .breaks(Rule::Unequal);
    with(Vec::new()).breaks(Rule::Unequal);
    let mut lacking = listing(HEALED + 1, [7, 7, 7]);
    lacking.nodes[2].clear();
    with(vec![lacking]).breaks(Rule::Unequal);
    with(vec![listing(HEALED + 1, [7, 7, 8]), listing(HEALED + 2, [8, 8, 8])]).keeps_all();
}

#[test]
fn a_node_that_runs_and_does_not_answer_is_found() {
    let silent = || Planted::new().sees(1, 4 * SECOND, Seen::Silence);
    silent().breaks(Rule::Silent);
    // One that stood still, that has ended, or that had not begun, may be.
    let mut paused = silent();
    paused.0.pauses.push(Pause { node: 1, from: 3 * SECOND, to: 4 * SECOND });
    paused.keeps_all();
    let mut ended = silent();
    ended.0.runs[1].ended = Some(4 * SECOND + 1);
    ended.keeps_all();
    let mut unready = silent();
    unready.0.runs[1].ready = Some(5 * SECOND);
    unready.keeps_all();
    // Another one's pause is no excuse.
    let mut other = silent();
    other.0.pauses.push(Pause { node: 2, from: 3 * SECOND, to: 5 * SECOND });
    other.breaks(Rule::Silent);
}

#[test]
fn not_ready_after_it_was_ready_is_found() {
    Planted::new().sees(1, 4 * SECOND, Seen::NotReady).breaks(Rule::NotReady);
    let mut again = Planted::new().sees(1, 4 * SECOND, Seen::NotReady);
    again.0.runs[1].ended = Some(3 * SECOND);
    again.0.runs.push(Run { node: 1, begun: 3 * SECOND, ready: None, ended: None });
    again.keeps_all();
}

#[test]
fn what_should_never_be_said_is_found() {
    let refused = Outcome::Refused("invalid".to_owned());
    Planted::new().kept(1, 2..2).word(1, 1, Heartbeat, 2 * SECOND, refused).breaks(Rule::Refused);
    Planted::new().sees(1, 4 * SECOND, Seen::Other("REFUSED".to_owned())).breaks(Rule::Refused);
    Planted::new().shows(1, 4 * SECOND, &[9]).breaks(Rule::Invented);
    // In the answer of another service.
    let mut planted = Planted::new().kept(1, 2..2).shows(0, 3 * SECOND / 2, &[1]);
    planted.0.sights[0].service = 1;
    planted.breaks(Rule::Invented);
}
