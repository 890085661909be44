//! What clients said, got and saw, and the rules that it has to keep: a pure function from one to the other.
//!
//! A *life* is one registration of one process, known by a port that no other life has; a process that hears that it is not
//! there any more begins another life. A life is *kept* from the acknowledgement of its registration on, for as long as
//! each acknowledged word of it was sent before the lease of the one before was over: what nobody acknowledged keeps
//! nothing, wherever the process tried. A node *knows* a life from the moment in which it acknowledged a word of it or
//! showed it, from its next start, and at the latest [`Limits::settle`] after the healing. So a node that is cut off from
//! etcd need not know what others took meanwhile, but what it knows and what is kept it must show.
//!
//! A request that got no answer may be carried out at any time up to the healing: the node that it was sent to may have
//! stood still. A life with such a registration is bound by its lease alone, however it ended.

use std::collections::{BTreeMap, BTreeSet};

/// Microseconds since the history began.
pub type Micros = u64;

/// One registration of one process.
#[derive(Clone, Debug)]
pub struct Life {
    pub service: usize,
    pub lease: Micros,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Register,
    Heartbeat,
    Deregister,
}

/// What a client got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged.
    Done,
    /// The node says that it is not there.
    Absent,
    /// No answer, or one that does not say what became of it.
    Unknown,
    /// Something else, in the node's words.
    Refused(String),
}

/// One request of one life, and what became of it. Those of one life do not overlap.
#[derive(Clone, Debug)]
pub struct Word {
    pub port: u16,
    pub node: usize,
    pub verb: Verb,
    pub sent: Micros,
    pub answered: Micros,
    pub outcome: Outcome,
}

/// What a query came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The ports in the answer, which may be none.
    Ports(BTreeSet<u16>),
    /// SERVFAIL.
    NotReady,
    /// No reply while the client waited.
    Silence,
    /// A reply that is none of these, in words.
    Other(String),
}

/// One query for a service.
#[derive(Clone, Debug)]
pub struct Sight {
    pub node: usize,
    pub service: usize,
    pub sent: Micros,
    pub answered: Micros,
    pub seen: Seen,
}

/// One process of a node, from its start to its end.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    pub node: usize,
    pub begun: Micros,
    /// When it was seen to be ready.
    pub ready: Option<Micros>,
    pub ended: Option<Micros>,
}

/// A node that stood still: a little longer than it did.
#[derive(Clone, Copy, Debug)]
pub struct Pause {
    pub node: usize,
    pub from: Micros,
    pub to: Micros,
}

/// What each node lists, asked one after the other: for each port its revision.
#[derive(Clone, Debug)]
pub struct Listing {
    pub at: Micros,
    pub nodes: Vec<BTreeMap<u16, u64>>,
}

/// The journal of one round.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub nodes: usize,
    pub lives: BTreeMap<u16, Life>,
    pub words: Vec<Word>,
    pub sights: Vec<Sight>,
    pub runs: Vec<Run>,
    pub pauses: Vec<Pause>,
    /// When every link carried, every process ran and every node was ready again.
    pub healed: Micros,
    /// When a node said, behind that, that it could not ask etcd or had no time: leases stand still then, and have
    /// their time again. A machine with too much to do makes trouble of its own.
    pub stood: Vec<Micros>,
    pub listings: Vec<Listing>,
}

/// The times that are promised.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// After the healing, all is as it should be within this time; and what is silent leaves this long after its lease.
    pub settle: Micros,
}

/// What a history has to keep to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// A kept life is in the answers of each node that knows it.
    Missing,
    /// A node does not say of a kept life that it knows, that it is not there.
    Denied,
    /// A deregistered life is in no answer of a node that knows that.
    Back,
    /// A life is in no answer after its lease and the time to settle.
    Ghost,
    /// Nodes list the same when they had their time to settle.
    Unequal,
    /// A node that runs answers.
    Silent,
    /// A node that was ready stays so.
    NotReady,
    /// Requests and queries get what they may get.
    Refused,
    /// Answers hold what was registered.
    Invented,
}

/// A rule that a history breaks, where it is about a life its port, and where: times in words are seconds since the
/// beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub rule: Rule,
    pub port: Option<u16>,
    pub words: String,
}

impl Violation {
    fn new(rule: Rule, port: impl Into<Option<u16>>, words: String) -> Self {
        Self { rule, port: port.into(), words }
    }
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.words)
    }
}

/// The rules that `history` breaks; a rule that one life breaks at one node is told once.
pub fn check(history: &History, limits: Limits) -> Vec<Violation> {
    let mut found = Vec::new();
    let tales = tales(history, limits);
    found.extend(history.words.iter().filter_map(refused));
    for tale in &tales {
        found.extend(tale.denied());
    }
    let mut told = BTreeSet::new();
    for sight in &history.sights {
        let at = words_of(sight);
        match &sight.seen {
            Seen::Ports(ports) => {
                let of_service = tales.iter().filter(|tale| tale.life.service == sight.service);
                let broken = of_service.filter_map(|tale| tale.broken(sight, ports));
                found.extend(broken.filter(|broken| told.insert((broken.rule, broken.port, sight.node))));
                found.extend(invented(history, sight, ports));
            }
            Seen::Silence if runs_through(history, sight) => {
                found.push(Violation::new(Rule::Silent, None, at))
            }
            Seen::NotReady if is_ready(history, sight) => {
                found.push(Violation::new(Rule::NotReady, None, at))
            }
            Seen::Silence | Seen::NotReady => {}
            Seen::Other(reply) => found.push(Violation::new(Rule::Refused, None, format!("{reply}, {at}"))),
        }
    }
    found.extend(unequal(history, limits));
    found
}

/// When all nodes listed the same first.
pub fn settled(history: &History) -> Option<Micros> {
    history.listings.iter().find(|listing| is_equal(listing)).map(|listing| listing.at)
}

/// What was said by one life and what each node showed of it, where that changed: for people who look for a mistake.
pub fn story(history: &History, port: u16) -> Vec<String> {
    let Some(life) = history.lives.get(&port) else { return Vec::new() };
    let words = history.words.iter().filter(|word| word.port == port);
    let mut story: Vec<(Micros, String)> =
        words.map(|word| (word.sent, format!("{}: {:?}", words_about(word), word.outcome))).collect();
    for node in 0..history.nodes {
        let mut shown = false;
        for sight in history.sights.iter().filter(|sight| sight.node == node && sight.service == life.service)
        {
            let Seen::Ports(ports) = &sight.seen else { continue };
            if ports.contains(&port) != shown {
                shown = !shown;
                story.push((
                    sight.sent,
                    format!("{}: {}", words_of(sight), if shown { "there" } else { "gone" }),
                ));
            }
        }
    }
    story.sort();
    story.into_iter().map(|(_, words)| words).collect()
}

/// How long lives were kept, all together: what the rules about them had to go by.
pub fn kept(history: &History) -> Micros {
    let limits = Limits { settle: 0 };
    let kept = tales(history, limits).into_iter().flat_map(|tale| tale.kept);
    kept.map(|(from, to)| to.saturating_sub(from)).sum()
}

/// What follows from the journal for one life.
struct Tale<'a> {
    port: u16,
    life: &'a Life,
    words: Vec<&'a Word>,
    /// From an acknowledgement to the first moment in which its lease may be over.
    kept: Vec<(Micros, Micros)>,
    /// When its end was asked for: from then on it need not be there, whatever becomes of that.
    end: Micros,
    /// From when on each node has to show it while it is kept.
    known: Vec<Micros>,
    /// From when on each node must not show it any more, because it was deregistered.
    left: Vec<Micros>,
    /// From when on nobody may show it.
    over: Micros,
}

fn tales(history: &History, limits: Limits) -> Vec<Tale<'_>> {
    let mut words: BTreeMap<u16, Vec<&Word>> = BTreeMap::new();
    for word in &history.words {
        words.entry(word.port).or_default().push(word);
    }
    let mut shown: BTreeMap<(u16, usize), Micros> = BTreeMap::new();
    for sight in &history.sights {
        if let Seen::Ports(ports) = &sight.seen {
            for port in ports {
                let first = shown.entry((*port, sight.node)).or_insert(sight.answered);
                *first = (*first).min(sight.answered);
            }
        }
    }
    let tale = |(port, life): (&u16, _)| {
        Tale::new(history, limits, (*port, life), words.remove(port).unwrap_or_default(), &shown)
    };
    history.lives.iter().map(tale).collect()
}

impl<'a> Tale<'a> {
    fn new(
        history: &History,
        limits: Limits,
        (port, life): (u16, &'a Life),
        mut words: Vec<&'a Word>,
        shown: &BTreeMap<(u16, usize), Micros>,
    ) -> Self {
        words.sort_by_key(|word| word.sent);
        let kept = kept_times(life, &words);
        let end =
            words.iter().find(|word| word.verb == Verb::Deregister).map_or(Micros::MAX, |word| word.sent);
        let begun = kept.first().map_or(Micros::MAX, |(from, _)| *from);
        let in_doubt =
            words.iter().any(|word| word.verb == Verb::Register && word.outcome == Outcome::Unknown);
        let settled = history.healed + limits.settle;
        let known_at = |node: usize| {
            let acknowledged = words.iter().filter(|word| word.node == node && keeps(word));
            // What was shown may be of a registration that nobody answered, and over since.
            let shown = shown.get(&(port, node)).copied().filter(|_| !in_doubt);
            let heard = acknowledged.map(|word| word.answered).chain(shown);
            heard.chain(started(history, node, begun)).min().unwrap_or(Micros::MAX)
        };
        let by_then =
            |time: Micros, asked: Micros| time.min(settled.max(asked.saturating_add(limits.settle)));
        let heard: Vec<Micros> = (0..history.nodes).map(known_at).collect();
        let known = heard.iter().map(|time| by_then(*time, begun)).collect();
        let acknowledged = |word: &&&Word| {
            word.verb == Verb::Deregister && matches!(word.outcome, Outcome::Done | Outcome::Absent)
        };
        let deregistered = words.iter().find(acknowledged).filter(|_| !in_doubt);
        let left_at = |node: usize| {
            let Some(word) = deregistered else { return Micros::MAX };
            if word.node == node {
                return word.answered;
            }
            // Who has shown it, and then does not, has heard of it all.
            let without = |sight: &&Sight| {
                sight.node == node
                    && sight.service == life.service
                    && sight.sent > word.answered.max(heard[node])
                    && matches!(&sight.seen, Seen::Ports(ports) if !ports.contains(&port))
            };
            let shown = history.sights.iter().filter(without).map(|sight| sight.answered);
            let time = shown.chain(started(history, node, word.answered)).min().unwrap_or(Micros::MAX);
            by_then(time, word.answered)
        };
        let left = (0..history.nodes).map(left_at).collect();
        let last = words.last().map_or(0, |word| word.answered);
        let stood = history.stood.iter().copied().max().unwrap_or_default();
        let over = last.max(history.healed).max(stood) + life.lease + limits.settle;
        Self { port, life, words, kept, end, known, left, over }
    }

    /// The rule that this answer breaks.
    fn broken(&self, sight: &Sight, ports: &BTreeSet<u16>) -> Option<Violation> {
        let (rule, what) = match ports.contains(&self.port) {
            false if self.known[sight.node] <= sight.sent && self.is_kept(sight.sent, sight.answered) => {
                (Rule::Missing, "was kept and is not there")
            }
            true if self.left[sight.node] <= sight.sent => (Rule::Back, "was deregistered and is there"),
            true if self.over <= sight.sent => (Rule::Ghost, "was silent and is there"),
            _ => return None,
        };
        Some(Violation::new(rule, self.port, format!("port {} {what}, {}", self.port, words_of(sight))))
    }

    /// The first word that was answered with no for no reason.
    fn denied(&self) -> Option<Violation> {
        let is_denied = |word: &&&Word| {
            // The request that asks for its end still has to find it.
            let until = if word.sent == self.end { Micros::MAX } else { self.end };
            word.outcome == Outcome::Absent
                && self.known[word.node] <= word.sent
                && self.is_kept_until(until, word.sent, word.answered)
        };
        let word = self.words.iter().find(is_denied)?;
        let (node, verb, times) = (word.node, word.verb, between(word.sent, word.answered));
        let words =
            format!("port {} was kept, and not there for {verb:?} at node {node}, {times}", self.port);
        Some(Violation::new(Rule::Denied, self.port, words))
    }

    fn is_kept(&self, from: Micros, to: Micros) -> bool {
        self.is_kept_until(self.end, from, to)
    }

    fn is_kept_until(&self, end: Micros, from: Micros, to: Micros) -> bool {
        self.kept.iter().any(|(begun, over)| *begun <= from && to < *over.min(&end))
    }
}

/// True for a word that keeps its life.
fn keeps(word: &Word) -> bool {
    word.outcome == Outcome::Done && word.verb != Verb::Deregister
}

/// When a life was kept, if nobody asks for its end.
fn kept_times(life: &Life, words: &[&Word]) -> Vec<(Micros, Micros)> {
    let mut kept: Vec<(Micros, Micros)> = Vec::new();
    for word in words.iter().filter(|word| keeps(word)) {
        let over = word.sent + life.lease;
        match kept.last_mut() {
            Some((_, until)) if word.sent < *until => *until = over,
            _ => kept.push((word.answered, over)),
        }
    }
    kept
}

/// The starts of a node after this time: it reads everything then.
fn started(history: &History, node: usize, after: Micros) -> impl Iterator<Item = Micros> {
    history.runs.iter().filter(move |run| run.node == node && run.begun > after).map(|run| run.begun)
}

fn refused(word: &Word) -> Option<Violation> {
    let Outcome::Refused(reason) = &word.outcome else { return None };
    let words = format!("{}: {reason}", words_about(word));
    Some(Violation::new(Rule::Refused, word.port, words))
}

fn invented(history: &History, sight: &Sight, ports: &BTreeSet<u16>) -> Option<Violation> {
    let known = |port: &&u16| history.lives.get(port).is_some_and(|life| life.service == sight.service);
    let port = ports.iter().find(|port| !known(port))?;
    Some(Violation::new(Rule::Invented, *port, format!("port {port}, {}", words_of(sight))))
}

/// True where the node ran, ready, from before the query to behind it, and did not stand still.
fn runs_through(history: &History, sight: &Sight) -> bool {
    let stood = history
        .pauses
        .iter()
        .any(|pause| pause.node == sight.node && pause.from <= sight.answered && sight.sent <= pause.to);
    !stood && is_ready(history, sight)
}

fn is_ready(history: &History, sight: &Sight) -> bool {
    history.runs.iter().any(|run| {
        let ready = run.ready.is_some_and(|ready| ready <= sight.sent);
        run.node == sight.node && ready && run.ended.is_none_or(|ended| sight.answered < ended)
    })
}

/// All nodes list the same in time, and at the end.
fn unequal(history: &History, limits: Limits) -> Option<Violation> {
    let Some(last) = history.listings.last() else {
        return Some(Violation::new(Rule::Unequal, None, "nobody was asked".to_owned()));
    };
    if !is_equal(last) {
        let at = since(history, last.at);
        let words = format!("at the end, {at}: {:?}", differing(&last.nodes));
        return Some(Violation::new(Rule::Unequal, None, words));
    }
    let first = settled(history).unwrap_or(last.at);
    let late = first > history.healed + limits.settle;
    let words = || format!("all nodes list the same only {}", since(history, first));
    late.then(|| Violation::new(Rule::Unequal, None, words()))
}

fn is_equal(listing: &Listing) -> bool {
    listing.nodes.windows(2).all(|two| two[0] == two[1])
}

/// The ports that not all nodes list with the same revision: the revision at each.
fn differing(nodes: &[BTreeMap<u16, u64>]) -> BTreeMap<u16, Vec<Option<u64>>> {
    let ports: BTreeSet<u16> = nodes.iter().flat_map(|listed| listed.keys().copied()).collect();
    let of = |port: u16| (port, nodes.iter().map(|listed| listed.get(&port).copied()).collect::<Vec<_>>());
    let differs = |(_, revisions): &(u16, Vec<Option<u64>>)| revisions.windows(2).any(|two| two[0] != two[1]);
    ports.into_iter().map(of).filter(differs).collect()
}

fn since(history: &History, at: Micros) -> String {
    format!("{:.3} s after the healing", (at as f64 - history.healed as f64) / 1e6)
}

fn between(sent: Micros, answered: Micros) -> String {
    format!("from {:.3} to {:.3}", sent as f64 / 1e6, answered as f64 / 1e6)
}

fn words_about(word: &Word) -> String {
    format!(
        "{:?} of port {} at node {}, {}",
        word.verb,
        word.port,
        word.node,
        between(word.sent, word.answered)
    )
}

fn words_of(sight: &Sight) -> String {
    format!("node {}, service {}, {}", sight.node, sight.service, between(sight.sent, sight.answered))
}
