//! What a real etcd does not do when it is wanted, and what only grows.

use std::collections::HashSet;

use super::admit::without_covered;
use super::*;
use crate::name::{Apex, HostName, InstanceId};
use crate::registry::{FORGET_AFTER, INSTANCES_MAX};
use crate::store::etcd::Answer;
use crate::view::Settings;

/// A node whose link is held by the test: nothing is asked of an etcd, and nothing told.
fn node() -> (Node, crate::store::etcd::LinkEnd) {
    let (etcd, link) = crate::store::etcd::way();
    let registry = Registry::new(INSTANCES_MAX, FORGET_AFTER);
    let settings = Settings::new(vec![Apex::parse("service.local").expect("a name")]);
    let view = Arc::new(View::new(settings, Default::default()));
    let (node, _) = Node::new(registry, etcd, ("a", "/"), 1, view, Clock::start(), Arc::default());
    (node, link)
}

fn commits(node: &Node) -> u64 {
    node.front.written.commit.buckets().iter().sum()
}

/// Etcd says that it stored a change, never tells it, and tells it when it is doubted: one commit, however often it is
/// looked at.
#[tokio::test]
async fn a_commit_that_was_doubted_counts_once() {
    let (mut node, _link) = node();
    let key = Key::new(
        ServiceName::parse("web").expect("a name"),
        InstanceId::parse("web-1").expect("an id"),
        HostName::parse("m").expect("a name"),
    );
    let place = Place::Instance(key);
    let told = Told { key: place.key().into_bytes(), revision: 7, pair: None };
    let pending = Pending { untold: 1, deletes: vec![place], ..Pending::of(Asked::Due, Vec::new()) };
    node.pending.insert(1, pending);
    let mut now = node.front.clock.now();
    node.answered(1, Answer::Stored, now);
    assert_eq!(commits(&node), 1, "etcd said so");
    now.mono_ns += 2 * nanoseconds(UNKNOWN_MAX);
    node.expire_pending(now);
    assert!(node.pending.contains_key(&1), "it may be told still");
    node.changed(&[told], now);
    assert!(node.pending.is_empty(), "it was told");
    assert_eq!(commits(&node), 1);
}

/// What is left says the same as all, and says nothing twice; against each one compared with each other.
#[test]
fn conditions_that_others_say_as_well_are_left_out() {
    let mut seed = 1u64;
    let mut draw = |most: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) % most
    };
    for round in 0..500 {
        let drawn: Vec<Condition> = (0..draw(30))
            .map(|_| {
                let (from, more) = (draw(6) as u8, draw(4) as u8);
                match draw(3) {
                    0 => Condition::CreatedAt(vec![from], draw(2)),
                    1 => Condition::ModifiedAt(vec![from], draw(2)),
                    _ => Condition::NoneSince(vec![from], vec![from + 1 + more], draw(2)),
                }
            })
            .collect();
        let covers = |wide: &Condition, narrow: &Condition| match (wide, narrow) {
            (Condition::NoneSince(from, to, since), Condition::NoneSince(first, last, of)) => {
                since == of && from <= first && last <= to && (from, to) != (first, last)
            }
            _ => false,
        };
        let needed: HashSet<Condition> = drawn
            .iter()
            .filter(|condition| !drawn.iter().any(|other| covers(other, condition)))
            .cloned()
            .collect();
        let kept = without_covered(drawn);
        assert_eq!(kept.len(), needed.len(), "round {round}: {kept:?}");
        assert_eq!(kept.into_iter().collect::<HashSet<_>>(), needed, "round {round}");
    }
}
