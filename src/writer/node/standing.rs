//! Whether this node is a member, and etcd can be asked: where not, changes are refused and leases stand still.

use std::time::Duration;

use super::Node;
use crate::store::etcd::MEMBERSHIP;
use crate::store::etcd::place::Place;
use crate::time::{Now, nanoseconds};
use crate::writer::fold::NODES_MAX;

/// How long a new member takes no heartbeats of what another one watches over. They may have waited in connections while it
/// was none, or stood still, and their instances may have gone on elsewhere; who lives says it again.
const OLD_WORDS: Duration = MEMBERSHIP;
/// Whose word waited for less is taken for present: a client waits as long, and a starved machine stands still for parts of a
/// second.
const BACKLOG_MIN: Duration = Duration::from_secs(1);

/// Commands that may have waited in connections, while their holder went on at another node.
#[derive(Debug)]
pub(super) struct Backlog {
    until_ns: u64,
    /// The last revision that was known here before.
    since: u64,
}

impl Node {
    /// True while this node is a member and etcd can be asked: only then does time pass for leases.
    pub(super) fn is_running(&self) -> bool {
        self.lost.is_none() && self.fold.member_since().is_some()
    }

    /// Shows that etcd cannot be asked, or can again, and lets leases stand or run.
    pub(super) fn trouble(&mut self, lost: Option<String>) {
        match (&self.lost, &lost) {
            (None, Some(reason)) => {
                if self.front.view.is_ready() {
                    tracing::error!(%reason, "etcd cannot be asked; changes are refused, leases stand still, answers go on");
                } else {
                    tracing::error!(%reason, "etcd cannot be asked; queries are answered SERVFAIL until the registry is read from it");
                }
            }
            (Some(_), None) => tracing::info!("etcd can be asked again"),
            _ => {}
        }
        self.lost_at = lost.as_ref().and(self.lost_at.or_else(|| Some(self.front.clock.now())));
        self.lost = lost;
    }

    pub(super) fn is_taken(&mut self, name: &str) {
        if self.taken.is_none() {
            let reason = format!(
                "the name `{name}` is that of another node, or of this one before it ended, which lasts some seconds; name this one with --node NAME"
            );
            tracing::error!("{reason}");
            self.taken = Some(reason);
        }
    }

    /// Shows why changes are refused, and how old answers are where etcd cannot be followed.
    pub(super) fn show_trouble(&self, now: Now) {
        let trouble = match (&self.lost, self.fold.member_since()) {
            (Some(reason), _) => Some(reason.clone()),
            (None, None) => Some(self.taken.clone().unwrap_or_else(|| {
                "this node is not a member yet, or not any more; it joins by itself".to_owned()
            })),
            (None, Some(_)) => None,
        };
        self.front.view.set_stale(self.lost_at, now);
        if self.front.view.store_trouble().map(|trouble| trouble.to_string()) != trouble {
            self.front.view.set_store_trouble(trouble);
        }
    }

    /// After whatever may have changed it: leases run or stand.
    pub(super) fn run_again(&mut self, now: Now) {
        self.show_trouble(now);
        self.take_heartbeats();
        let since = self.fold.member_since();
        if since != self.joined {
            self.joined = since;
            self.old_words_ns = now.mono_ns + nanoseconds(OLD_WORDS);
        }
        match (self.is_running(), self.still_ns) {
            (true, Some(since_ns)) => {
                self.still_ns = None;
                let away = Duration::from_nanos(now.mono_ns.saturating_sub(since_ns));
                self.fold.registry.after_absence(away, now);
                self.facts.append(&mut self.kept);
            }
            (false, None) => self.still_ns = Some(now.mono_ns),
            _ => {}
        }
    }

    /// Where this process stood still, words have waited for as long, though it may have been a member all the while: etcd, too,
    /// may have stood.
    pub(super) fn note_absence(&mut self) {
        let now = self.front.clock.now();
        let Some(away) = self.front.away(now) else { return };
        let until_ns = now.mono_ns + nanoseconds(away.min(OLD_WORDS));
        self.old_words_ns = self.old_words_ns.max(until_ns);
        if away >= BACKLOG_MIN {
            self.backlog = Some(Backlog { until_ns, since: self.looked_at });
        }
    }

    /// Words have waited in sockets that others held open while no server was here.
    pub fn expect_backlog(&mut self) {
        let until_ns = self.front.clock.now().mono_ns + nanoseconds(OLD_WORDS);
        self.backlog = Some(Backlog { until_ns, since: self.fold.registry.revision() });
    }

    /// True where what is said of it may be older than what was said elsewhere since.
    pub(super) fn may_be_outdated(&self, place: &Place, now: Now) -> bool {
        self.backlog.as_ref().is_some_and(|backlog| {
            now.mono_ns < backlog.until_ns
                && (self.fold.is_anothers(place) || self.fold.is_written_since(place, backlog.since))
        })
    }

    /// True for a member that has heard for a while. What is told of its joining comes before `joined` says so.
    pub(super) fn is_settled(&self, now: Now) -> bool {
        let since = self.fold.member_since();
        since.is_some() && since == self.joined && now.mono_ns >= self.old_words_ns
    }

    pub(super) fn is_member(&mut self, until_ns: u64, created: u64) {
        self.taken = None;
        self.member = Some((until_ns, created));
    }

    /// Heartbeats are taken as long as this node is surely a member: a lease that is renewed here does not end then, and
    /// afterwards whoever takes it over gives it another one. What others did before it was one must have been told.
    fn take_heartbeats(&mut self) {
        let since = self.fold.member_since();
        let member = self.member.filter(|(_, created)| since == Some(*created));
        self.member_until_ns = member.map_or(0, |(until_ns, _)| until_ns);
        self.front.view.set_heard_until(self.member_until_ns);
    }

    pub(super) fn note_members(&self) {
        let members: Vec<&str> = self.fold.members().keys().map(|name| &**name).collect();
        tracing::info!(?members, "the nodes are others now");
        if members.len() > NODES_MAX {
            tracing::error!(
                limit = NODES_MAX,
                "there are more nodes than one ring takes; the last take over nothing"
            );
        }
    }

    /// Whoever probes hears of it, and looks anew at what is its to probe.
    pub(super) fn publish_nodes(&self) {
        self.front.view.set_nodes(self.fold.nodes(), self.fold.left_nodes(), self.fold.registry.revision());
        self.front.show_circle(self.fold.circle().clone());
    }
}
