//! What may be true, told by nothing but what clients sent and what they were answered.
//!
//! Of each instance it is known in which states it may be: one, where everything about it was answered; more, while
//! requests are under way that may have been carried out or not. Beside that there are two times for each registration:
//! until when its lease lasts in any case, and when it is over in any case.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use callsign::lease::CONNECTION_GRACE;
use callsign::protocol::{Problem, Reply};

/// An instance leaves the answers so long after its deadline at most.
pub const LATE_MAX: Duration = Duration::from_millis(20);
/// The server looks at the time so often, and takes less than `AWAY_MIN` for no absence, more than `AWAY_LONG` for one that has
/// leases begin anew.
const TICK: Duration = Duration::from_millis(100);
const AWAY_MIN: Duration = Duration::from_millis(250);
const AWAY_LONG: Duration = Duration::from_secs(1);

const NEVER: u64 = u64::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    Timed(Duration),
    Connection,
    None,
}

/// A request. Every registration has a port of its own, so that an answer says which one is in force.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verb {
    Register { port: u16, lease: Lease },
    Heartbeat,
    Deregister,
    Drain,
    Report { critical: bool },
}

/// A request that was delivered, down to its last octet.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    pub key: usize,
    pub verb: Verb,
    pub at_ns: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    pub port: u16,
    draining: bool,
    critical: bool,
}

impl Facts {
    fn is_live(&self) -> bool {
        !self.draining && !self.critical
    }
}

/// An instance as it is; none: it is not there.
type State = Option<Facts>;

/// An instance as DNS shows it: its port, and whether it is in the answers of its service.
pub type Seen = Option<(u16, bool)>;

/// What holds of one registration.
#[derive(Clone, Copy, Debug)]
struct Terms {
    lease: Lease,
    connection: u64,
    /// Before it, the lease is not over.
    must_ns: u64,
    /// After it, it is; unless requests are under way that renew it.
    may_ns: u64,
    /// It was answered, or never will be.
    settled: bool,
}

#[derive(Clone, Debug)]
struct Keyed {
    /// The states that it may be in, but for requests that are under way.
    base: Vec<State>,
    terms: BTreeMap<u16, Terms>,
    /// Of the last change that was acknowledged.
    revision: u64,
    /// It left without being asked to, at this revision at the latest; that may not be stored yet.
    undone: Vec<(Facts, u64)>,
    /// What was never answered, and when the server had done with it; it may have come after what was answered later.
    lost: Vec<(Verb, u64)>,
    /// What was refused because the store would not have it, and when. It may have it all the same: then it takes nothing
    /// more until it is opened anew.
    refused: Vec<(Verb, u64)>,
    /// When it was last possible that it is not there, and that it is: a reply may wait to be written.
    absent_ns: u64,
    there_ns: u64,
}

impl Keyed {
    fn note(&mut self, states: &[State], now_ns: u64) {
        if states.contains(&None) {
            self.absent_ns = now_ns;
        }
        if states.iter().any(Option::is_some) {
            self.there_ns = now_ns;
        }
    }

    /// It is not there, and was in one of these states. If it left by itself, nobody was told that this is stored.
    fn leave(&mut self, states: &[State], now_ns: u64, revision: u64) {
        let left = states.iter().flatten().filter(|facts| now_ns >= self.terms[&facts.port].must_ns);
        self.undone.extend(left.map(|facts| (*facts, revision)));
    }
}

/// See the module's own words.
pub struct Expected {
    keys: Vec<Keyed>,
    /// What was delivered and not answered, by connection.
    open: BTreeMap<u64, VecDeque<Asked>>,
    pub acknowledged: u64,
    pub refused: u64,
    pub unanswered: u64,
}

/// Whether the writer can work: not, while it waits for the disk.
#[derive(Clone, Copy, Debug)]
pub struct Writing {
    pub waits: bool,
    /// When it last waited.
    pub until_ns: u64,
}

impl Expected {
    pub fn new(keys: usize) -> Self {
        let keyed = Keyed {
            base: vec![None],
            terms: BTreeMap::new(),
            revision: 0,
            undone: Vec::new(),
            lost: Vec::new(),
            refused: Vec::new(),
            absent_ns: 0,
            there_ns: 0,
        };
        let open = BTreeMap::new();
        Self { keys: vec![keyed; keys], open, acknowledged: 0, refused: 0, unanswered: 0 }
    }

    /// A request has arrived, and may be carried out from here on.
    pub fn delivered(&mut self, connection: u64, asked: Asked) {
        if let Verb::Register { port, lease } = asked.verb {
            let must_ns = match lease {
                Lease::Timed(duration) => asked.at_ns + nanoseconds(duration),
                Lease::Connection | Lease::None => NEVER,
            };
            let terms = Terms { lease, connection, must_ns, may_ns: NEVER, settled: false };
            self.keys[asked.key].terms.insert(port, terms);
        }
        self.open.entry(connection).or_default().push_back(asked);
    }

    /// The client has closed a connection: what is bound to it may go.
    pub fn cut(&mut self, connection: u64, now_ns: u64) {
        for terms in self.keys.iter_mut().flat_map(|keyed| keyed.terms.values_mut()) {
            if terms.lease == Lease::Connection && terms.connection == connection {
                terms.must_ns = terms.must_ns.min(now_ns);
            }
        }
    }

    /// The server has closed it: what is bound to it goes, and what was not answered never will be.
    pub fn closed(&mut self, connection: u64, now_ns: u64) {
        self.cut(connection, now_ns);
        for terms in self.keys.iter_mut().flat_map(|keyed| keyed.terms.values_mut()) {
            if terms.lease == Lease::Connection && terms.connection == connection {
                (terms.may_ns, terms.settled) = (now_ns, true);
            }
        }
        for asked in self.open.get(&connection).cloned().into_iter().flatten() {
            self.unanswered += 1;
            self.left_open(asked, now_ns);
        }
        self.open.remove(&connection);
    }

    /// It was carried out, or was not, at a time when others were under way.
    fn left_open(&mut self, asked: Asked, now_ns: u64) {
        let keyed = &mut self.keys[asked.key];
        keyed.lost.push((asked.verb, now_ns));
        match asked.verb {
            Verb::Register { port, .. } => settle(keyed.terms.get_mut(&port), now_ns),
            Verb::Heartbeat => renewed(keyed, None, now_ns),
            _ => {}
        }
    }

    /// A reply was written. Returns the key that it is about.
    pub fn answered(
        &mut self,
        connection: u64,
        reply: &Reply,
        now_ns: u64,
        writing: Writing,
    ) -> Result<Option<usize>, String> {
        let open = self.open.entry(connection).or_default();
        if let Reply::Error(problem) = reply
            && matches!(&*problem.code, "timeout" | "too_large")
        {
            return Ok(None); // about a line that was not whole
        }
        let Some(asked) = open.pop_front() else { return Err(format!("a reply to nothing: {reply:?}")) };
        let reached = self.reached(asked.key, Some(asked.verb), now_ns);
        let before = self.lasting(&reached, asked.key, Some(asked.verb), now_ns, writing);
        let keyed = &mut self.keys[asked.key];
        keyed.note(&before, now_ns);
        let (revision, existed) = match (asked.verb, reply) {
            (_, Reply::Error(problem)) => return self.refused(asked, problem, now_ns),
            (Verb::Register { .. }, Reply::Registered(form)) => (form.revision, true),
            (Verb::Deregister, Reply::Deregistered(form)) => (form.revision, form.existed),
            (Verb::Drain, Reply::Draining(form)) => (form.revision, false),
            (Verb::Report { .. }, Reply::Reported(form)) => (form.revision, false),
            (Verb::Heartbeat, Reply::Renewed(_)) => {
                self.acknowledged += 1;
                if keyed.there_ns < asked.at_ns {
                    return Err("renewed, and the lease was over".to_owned());
                }
                renewed(keyed, only(&before).map(|facts| (facts.port, asked.at_ns)), now_ns);
                return Ok(Some(asked.key));
            }
            (verb, reply) => return Err(format!("{verb:?} was answered {reply:?}")),
        };
        self.acknowledged += 1;
        if let Verb::Register { port, .. } = asked.verb {
            settle(keyed.terms.get_mut(&port), now_ns);
        }
        // Where the reply waited to be written, another change may have come after this one.
        if revision >= keyed.revision {
            keyed.revision = revision;
            let needs_one = matches!(asked.verb, Verb::Drain | Verb::Report { .. });
            let from = before.iter().filter(|state| !needs_one || state.is_some());
            let after: Vec<State> = from.map(|state| apply(asked.verb, *state)).collect();
            if after.is_empty() {
                return Err(format!("{:?} was acknowledged for what is not there", asked.verb));
            }
            keyed.note(&after, now_ns);
            if asked.verb == Verb::Deregister && !existed {
                keyed.leave(&reached, now_ns, revision);
            }
            keyed.base.clear();
            merge(&mut keyed.base, after);
            let before = |(_, lost_ns): &mut (Verb, u64)| *lost_ns < asked.at_ns;
            keyed.refused.extend(keyed.lost.extract_if(.., before)); // as far as anybody knows
        }
        // A commit has everything in it that was not stored before.
        if existed {
            for keyed in &mut self.keys {
                keyed.undone.retain(|(_, at)| *at >= revision);
                keyed.refused.retain(|(_, refused_ns)| *refused_ns >= asked.at_ns);
            }
        }
        Ok(Some(asked.key))
    }

    fn refused(&mut self, asked: Asked, problem: &Problem, now_ns: u64) -> Result<Option<usize>, String> {
        self.refused += 1;
        let keyed = &mut self.keys[asked.key];
        if let Verb::Register { port, .. } = asked.verb {
            settle(keyed.terms.get_mut(&port), now_ns);
        }
        match &*problem.code {
            "not_found" if keyed.absent_ns >= asked.at_ns => {}
            "not_found" => return Err(format!("{:?} of what is there: {problem}", asked.verb)),
            "unavailable" if problem.message.contains("is stopping") => self.left_open(asked, now_ns),
            "unavailable" => keyed.refused.push((asked.verb, now_ns)),
            "full" => {}
            _ => return Err(format!("{:?} was refused: {problem:?}", asked.verb)),
        }
        Ok(Some(asked.key))
    }

    /// What may have become of an instance, also where `and` is under way about it: requests are carried out in any order,
    /// and leases end.
    fn reached(&self, key: usize, and: Option<Verb>, now_ns: u64) -> Vec<State> {
        let keyed = &self.keys[key];
        let verbs: Vec<Verb> = self.about(key).chain(and).collect();
        let (mut states, mut looked) = (keyed.base.clone(), 0);
        while looked < states.len() {
            let state = states[looked];
            let ends = state.is_some_and(|facts| now_ns >= keyed.terms[&facts.port].must_ns);
            let next = verbs.iter().map(|verb| apply(*verb, state)).chain(ends.then_some(None)).collect();
            merge(&mut states, next);
            looked += 1;
        }
        states
    }

    /// Those of them whose lease may last until now.
    fn lasting(
        &self,
        states: &[State],
        key: usize,
        and: Option<Verb>,
        now_ns: u64,
        writing: Writing,
    ) -> Vec<State> {
        let renewing = self.about(key).chain(and).any(|verb| verb == Verb::Heartbeat);
        let lasts = |facts: Facts| {
            let terms = self.keys[key].terms[&facts.port];
            let late_ns = terms.may_ns.max(writing.until_ns).saturating_add(nanoseconds(LATE_MAX));
            !terms.settled || renewing || writing.waits || now_ns <= late_ns
        };
        states.iter().copied().filter(|state| state.is_none_or(lasts)).collect()
    }

    /// What is under way about an instance.
    fn about(&self, key: usize) -> impl Iterator<Item = Verb> + '_ {
        let open = self.open.values().flatten().filter(move |asked| asked.key == key);
        open.map(|asked| asked.verb).chain(self.keys[key].lost.iter().map(|(verb, _)| *verb))
    }

    /// Compares an instance as it is seen with what it may be.
    pub fn judge(
        &mut self,
        key: usize,
        seen: Seen,
        now_ns: u64,
        revision: u64,
        writing: Writing,
    ) -> Result<(), String> {
        let reached = self.reached(key, None, now_ns);
        let allowed = self.lasting(&reached, key, None, now_ns, writing);
        let matching = matching(&allowed, seen);
        if matching.is_empty() {
            let (open, keyed) = (self.about(key).collect::<Vec<_>>(), &self.keys[key]);
            let terms: Vec<_> = allowed.iter().flatten().map(|facts| keyed.terms[&facts.port]).collect();
            return Err(format!(
                "seen as {seen:?} at {now_ns}; it may be {allowed:?} ({:?} before), with {terms:?}; under way: {open:?}; {writing:?}",
                keyed.base
            ));
        }
        let has_open = self.open.values().flatten().any(|asked| asked.key == key);
        let keyed = &mut self.keys[key];
        keyed.note(&allowed, now_ns);
        if !has_open {
            if seen.is_none() {
                keyed.leave(&reached, now_ns, revision);
            }
            keyed.base = matching;
            keyed.refused.append(&mut keyed.lost); // perhaps nobody was left to hear of that
        }
        Ok(())
    }

    /// The server has come back, and shows this.
    pub fn restarted(&mut self, key: usize, seen: Seen, now_ns: u64) -> Result<(), String> {
        let keyed = &mut self.keys[key];
        keyed.lost.append(&mut keyed.refused);
        let undone = keyed.undone.drain(..).map(|(facts, _)| Some(facts)).collect();
        merge(&mut keyed.base, undone);
        let allowed = self.reached(key, None, now_ns);
        let keyed = &mut self.keys[key];
        keyed.lost.clear();
        keyed.base = matching(&allowed, seen);
        if keyed.base.is_empty() {
            return Err(format!("seen as {seen:?} after a restart; it may be {allowed:?}"));
        }
        if let Some((port, _)) = seen
            && let Some(terms) = keyed.terms.get_mut(&port)
        {
            // Nobody knows when it was renewed, so its lease begins anew.
            terms.settled = true;
            if terms.lease == Lease::Connection {
                terms.lease = Lease::Timed(CONNECTION_GRACE);
            }
            if let Lease::Timed(duration) = terms.lease {
                terms.must_ns = now_ns + nanoseconds(duration);
                terms.may_ns = terms.must_ns;
            }
        }
        Ok(())
    }

    /// No connection has outlived the server.
    pub fn forget_open(&mut self) {
        self.unanswered += self.open.values().map(|open| open.len() as u64).sum::<u64>();
        self.open.clear();
    }

    /// The server was stopped until now.
    pub fn stopped(&mut self, away: Duration, now_ns: u64) {
        for terms in self.keys.iter_mut().flat_map(|keyed| keyed.terms.values_mut()) {
            let Lease::Timed(duration) = terms.lease else { continue };
            let anew_ns = now_ns + nanoseconds(duration);
            // It may have looked at the time a little before it was stopped. What may have been over by then gets no longer.
            if away > AWAY_MIN && terms.must_ns > now_ns - nanoseconds(away) {
                terms.must_ns = match away {
                    away if away >= AWAY_LONG => anew_ns,
                    away if away + TICK >= AWAY_LONG => anew_ns.min(terms.must_ns + nanoseconds(away)),
                    away => terms.must_ns + nanoseconds(away),
                };
            }
            if away + TICK > AWAY_MIN && terms.may_ns < NEVER {
                let longer_ns = terms.may_ns + nanoseconds(away + TICK);
                terms.may_ns = if away + TICK >= AWAY_LONG { longer_ns.max(anew_ns) } else { longer_ns };
            }
        }
    }

    /// Nothing is under way on a connection.
    pub fn is_answered(&self, connection: u64) -> bool {
        self.open.get(&connection).is_none_or(VecDeque::is_empty)
    }

    /// The server was stopped in order, and its disk had nothing against that.
    pub fn all_stored(&mut self) {
        self.keys.iter_mut().for_each(|keyed| keyed.undone.clear());
    }

    /// When something was last asked that is not answered yet; none where all is.
    pub fn waits_since(&self) -> Option<u64> {
        self.open.values().flatten().map(|asked| asked.at_ns).min()
    }
}

fn apply(verb: Verb, state: State) -> State {
    match verb {
        Verb::Register { port, .. } => {
            Some(Facts { port, draining: false, critical: state.is_some_and(|facts| facts.critical) })
        }
        Verb::Heartbeat => state,
        Verb::Deregister => None,
        Verb::Drain => state.map(|facts| Facts { draining: true, ..facts }),
        Verb::Report { critical } => state.map(|facts| Facts { critical, ..facts }),
    }
}

fn settle(terms: Option<&mut Terms>, now_ns: u64) {
    let Some(terms) = terms else { return };
    terms.settled = true;
    if let Lease::Timed(duration) = terms.lease {
        terms.may_ns = now_ns + nanoseconds(duration);
    }
}

/// A heartbeat was heard, or may have been: surely that of the registration with this port, then.
fn renewed(keyed: &mut Keyed, surely: Option<(u16, u64)>, now_ns: u64) {
    for (port, terms) in &mut keyed.terms {
        let Lease::Timed(duration) = terms.lease else { continue };
        if terms.may_ns < NEVER {
            terms.may_ns = terms.may_ns.max(now_ns + nanoseconds(duration));
        }
        if let Some((renewed, at_ns)) = surely
            && renewed == *port
        {
            terms.must_ns = terms.must_ns.max(at_ns + nanoseconds(duration));
        }
    }
}

fn only(states: &[State]) -> Option<Facts> {
    let mut there = states.iter().flatten();
    let first = there.next()?;
    there.all(|facts| facts.port == first.port).then_some(*first)
}

fn matching(states: &[State], seen: Seen) -> Vec<State> {
    let shown = |state: &State| state.map(|facts| (facts.port, facts.is_live()));
    states.iter().copied().filter(|state| shown(state) == seen).collect()
}

fn merge(states: &mut Vec<State>, more: Vec<State>) {
    for state in more {
        if !states.contains(&state) {
            states.push(state);
        }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    duration.as_nanos() as u64
}
