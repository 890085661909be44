//! What becomes of a command: it is refused, waits behind another, is answered as it is, or becomes a transaction.

use std::cmp::Reverse;
use std::collections::HashSet;

use super::Node;
use super::under_way::{Asked, Pending};
use crate::access::Identity;
use crate::registry::{Author, Command, Reason, Refusal, Report, ReportOf, Subject, What};
use crate::store::etcd::messages::{Condition, Operation, transaction_octets};
use crate::store::etcd::place::{Place, PlainPlace};
use crate::time::Now;
use crate::update::{self, Against, MessageId, Outcome, Reads};
use crate::writer::fold::{lies_at, unnumbered};
use crate::writer::front::reply;
use crate::writer::round::{About, subjects};
use crate::writer::{Done, Event, Verdict};

/// What etcd takes in one transaction, of conditions as of operations, where it is started as usual.
pub(super) const STEPS_MAX: usize = 128;
/// And how many octets: 1.5 MiB with what it puts around them, for which a KiB is left.
const TRANSACTION_OCTETS_MAX: usize = (3 << 19) - (1 << 10);
/// Such messages at once: a hundred a second, and 6 MiB at each node.
const CARRIED_OUT_MAX: usize = 65_536;

impl Node {
    /// Makes a transaction of a command, or answers it, or puts it behind what it has to wait for.
    pub(super) fn admit(&mut self, asked: Asked, tries: u32) {
        let Asked::Command { mut command, by, done, asked } = asked else { return };
        let behind = subjects(&command).map(place_of).find(|place| self.busy.contains_key(place));
        if let Some(waiting) = behind.and_then(|place| self.busy.get_mut(&place)) {
            waiting.push_back(Event::Command { command, by, done, asked });
            self.waiting += 1;
            return;
        }
        let now = self.front.clock.now();
        if let Command::Register(registration) = &mut command {
            registration.owner = by.owner.clone();
        }
        if let Err(refusal) = self.front.permits(&self.fold.registry, &command, &by, now) {
            return reply(done, Err(refusal));
        }
        let Some(membership) = self.fold.while_member().filter(|_| self.lost.is_none()) else {
            if let Command::Closed { connection, keys } = command {
                self.keep_closed(connection, keys, asked);
            }
            let reason =
                self.front.view.store_trouble().map_or_else(String::new, |trouble| trouble.to_string());
            return reply(done, Err(Refusal::Unavailable(reason.into())));
        };
        if command.is_of_records() {
            return self.admit_records(Asked::Command { command, by, done, asked }, membership, tries);
        }
        let bound_elsewhere =
            subjects(&command).map(place_of).any(|place| self.fold.is_bound_elsewhere(&place));
        let found = match self
            .judge(&command, &by, bound_elsewhere, now)
            .and_then(|()| self.found(&command, now))
        {
            Ok(Some(found)) => found,
            Ok(None) => return self.leave(Asked::Command { command, by, done, asked }, membership, tries),
            Err(refusal) => return reply(done, Err(refusal)),
        };
        let (takes_over, author) = (takes_over(&command, &by, bound_elsewhere), by.author());
        let mut conditions = vec![membership];
        if let Author::Token(name) = &author {
            // Revoked at another node, it changes nothing from then on.
            conditions.extend(self.fold.while_same(&Place::Token(name.clone()), true));
        }
        if probed(&command).is_some() {
            conditions.extend(self.fold.while_same_ring());
        }
        let asked = Asked::Command { command, by, done, asked };
        self.transact(asked, found, conditions, takes_over, author, tries);
    }

    /// Refuses what is another node's to do, and words that may have waited here while their holder went on elsewhere.
    fn judge(
        &self,
        command: &Command,
        by: &Identity,
        bound_elsewhere: bool,
        now: Now,
    ) -> Result<(), Refusal> {
        let place = || subjects(command).map(place_of).next();
        let is_sent = !matches!(by.author(), Author::Server | Author::File(_));
        let reason = match command {
            _ if probed(command).is_some_and(|place| !self.fold.is_heir(&place)) => {
                "another node probes it now"
            }
            Command::Claim(_)
                if !bound_elsewhere
                    && !self.is_settled(now)
                    && place().is_some_and(|place| self.fold.is_anothers(&place)) =>
            {
                "another node heard of it last, and this one has only begun to hear; say it again"
            }
            Command::Register(_) | Command::Deregister(_) | Command::Drain(_) | Command::Report(_)
                if is_sent && place().is_some_and(|place| self.may_be_outdated(&place, now)) =>
            {
                "another node may have heard of it since, while this one stood still; say it again"
            }
            _ => return Ok(()),
        };
        Err(Refusal::Unavailable(reason.into()))
    }

    /// What a command has written: what it changes, or, where that is nothing but whose a thing is, the thing as it is. `None`
    /// where nothing is to be written.
    fn found(&self, command: &Command, now: Now) -> Result<Option<Vec<(Reason, What)>>, Refusal> {
        let registry = &self.fold.registry;
        let found = match registry.check(command, now) {
            Ok(found) => found,
            // The others may know it otherwise.
            Err(_) if matches!(command, Command::Claim(_)) && now.mono_ns >= self.member_until_ns => {
                let reason = "this node is not sure to be a member; try again";
                return Err(Refusal::Unavailable(reason.into()));
            }
            Err(refusal) => return Err(refusal),
        };
        if !found.is_empty() {
            return Ok(Some(found.into_iter().map(|(reason, what)| (reason, unnumbered(what))).collect()));
        }
        let Some(place) = self.claimed(command, now) else { return Ok(None) };
        let what = match &place {
            Place::Instance(key) => {
                let it = registry.instance(key).cloned();
                it.map(|it| What::Instance { before: Some(it.clone()), after: Some(it) })
            }
            Place::Host(name) => {
                let it = registry.host(name).cloned();
                it.map(|it| What::Host { before: Some(it.clone()), after: Some(it) })
            }
            _ => None,
        };
        Ok(Some(what.map(|what| (Reason::Registered, what)).into_iter().collect()))
    }

    /// Answers what changes nothing here.
    fn leave(&mut self, asked: Asked, membership: Condition, tries: u32) {
        let Asked::Command { command, by, done, asked } = asked else { return };
        match &command {
            Command::Deregister(holder) => {
                let place = Place::Instance(holder.key.clone());
                let asked = Asked::Command { command, by, done, asked };
                return self.confirm_absence(asked, place, membership, tries);
            }
            Command::Claim(holder) => {
                if let Some(instance) = self.fold.registry.instance(&holder.key) {
                    let _ = instance.deadline.renew(self.front.clock.now()); // it came to us meanwhile
                }
            }
            _ => {}
        }
        let revision = self.fold.registry.revision();
        reply(done, Ok(Done { revision, changes: Vec::new() }));
    }

    /// An UPDATE, or records that are imported. It reads more than it writes: the transaction holds only if all of that is as
    /// it was, and if no node has carried the same message out. So it is asked for though it changes nothing: only etcd can
    /// say that nothing is newer.
    fn admit_records(&mut self, asked: Asked, membership: Condition, tries: u32) {
        let Asked::Command { command, by, done, asked: since } = asked else { return };
        let now = self.front.clock.now();
        // What it reads is first to be what this node has asked for.
        let reads = update::reads(&command);
        let behind = self.busy.iter_mut().find(|(place, _)| is_read(&reads, place));
        if let Some((_, waiting)) = behind {
            waiting.push_back(Event::Command { command, by, done, asked: since });
            self.waiting += 1;
            return;
        }
        let message = match &command {
            Command::Update(update) => Some(update.id),
            _ => None,
        };
        if let Some(message) = &message
            && let Err(refusal) = self.judge_message(message)
        {
            return reply(done, Err(refusal));
        }
        let (registry, view, access) = (&self.fold.registry, &*self.front.view, &*self.front.access);
        let outcome = match update::asked(&command, Against { registry, view, access, by: &by, now }) {
            Some(Ok(outcome)) => outcome,
            Some(Err(refusal)) => return reply(done, Err(refusal)),
            None => return,
        };
        // Without a change there is nothing to do twice, and nothing to remember: a key without any right may send it.
        if matches!(&command, Command::Update(update) if update.changes.is_empty()) {
            let revision = self.fold.registry.revision();
            return reply(done, Ok(Done { revision, changes: Vec::new() }));
        }
        let Outcome { mut changes, again } = outcome;
        let least = changes.len() + usize::from(message.is_some());
        if least > STEPS_MAX {
            return reply(done, too_large(least, STEPS_MAX, "steps"));
        }
        changes = changes.into_iter().map(|(reason, what)| (reason, unnumbered(what))).collect();
        changes.extend(self.begun_elsewhere(&again, now));
        let mut guards = vec![membership];
        guards.extend(self.fold.while_same_records(&reads));
        let author = by.author();
        if let Author::Token(name) = &author {
            guards.extend(self.fold.while_same(&Place::Token(name.clone()), true));
        }
        let asked = Asked::Command { command, by, done, asked: since };
        let (number, mut draft) = self.draft(asked, changes, true, author, tries);
        // What is said again is spoken of as well: no lease of it ends meanwhile.
        let spoken_of: HashSet<Place> = draft.pending.places.iter().cloned().collect();
        let again_at = again.iter().filter_map(lies_at).filter(|place| !spoken_of.contains(place));
        draft.pending.places.extend(again_at);
        draft.pending.again = again;
        draft.conditions.extend(guards);
        if let Some(message) = message {
            draft.conditions.push(self.fold.while_not_carried_out(message));
            let key = self.fold.key_of(&Place::CarriedOut(message));
            draft.operations.push(Operation::Put { key, value: Vec::new(), lease: 0 });
        }
        draft.conditions = without_covered(draft.conditions);
        let steps = draft.conditions.len().max(draft.operations.len());
        let octets = transaction_octets(&draft.conditions, &draft.operations);
        if steps > STEPS_MAX {
            return self.finish(draft.pending, |_| too_large(steps, STEPS_MAX, "steps"));
        }
        if octets > TRANSACTION_OCTETS_MAX {
            return self.finish(draft.pending, |_| too_large(octets, TRANSACTION_OCTETS_MAX, "octets"));
        }
        self.start(number, draft);
    }

    /// Of what another node watches over, a new lease is that node's to begin, or ours from here on.
    fn begun_elsewhere(&self, again: &[What], now: Now) -> Vec<(Reason, What)> {
        let is_sure = now.mono_ns < self.member_until_ns;
        let others = again
            .iter()
            .filter(|what| lies_at(what).is_some_and(|place| !is_sure || !self.fold.owns(&place)));
        others.map(|what| (Reason::Registered, what.clone())).collect()
    }

    /// Refuses an UPDATE that some node carried out before, and one more than can be remembered.
    fn judge_message(&self, message: &MessageId) -> Result<(), Refusal> {
        if self.fold.is_carried_out(message) {
            return Err(update::Refused::repeated().into());
        }
        if self.fold.carried_out().0 >= CARRIED_OUT_MAX {
            let reason = "too many UPDATEs in the last minutes; send it again later";
            return Err(Refusal::Unavailable(reason.into()));
        }
        Ok(())
    }

    /// What a command of its holder is about, where another node watches over it, or may.
    fn claimed(&self, command: &Command, now: Now) -> Option<Place> {
        let is_sure = now.mono_ns < self.member_until_ns;
        let place = match command {
            Command::Claim(holder) => Place::Instance(holder.key.clone()),
            Command::Register(registration) => Place::Instance(registration.key.clone()),
            Command::Report(report) if !matches!(report.of, ReportOf::Probed(_)) => match &report.on {
                Subject::Instance(holder) => Place::Instance(holder.key.clone()),
                Subject::Host(host) => Place::Host(host.clone()),
            },
            _ => return None,
        };
        // A heartbeat of what a connection to another node holds is no news there.
        let is_known = matches!(command, Command::Claim(_)) && self.fold.is_bound_elsewhere(&place);
        (!is_sure || !(is_known || self.fold.owns(&place))).then_some(place)
    }

    /// Nothing is there, as far as this node knows; that it is so is answered when etcd has nothing newer. Who asks for an
    /// end may have been heard of elsewhere a moment ago.
    fn confirm_absence(&mut self, asked: Asked, place: Place, membership: Condition, tries: u32) {
        let mut conditions = vec![membership];
        conditions.extend(self.fold.while_same(&place, false));
        self.busy.entry(place.clone()).or_default();
        let pending = Pending { tries, ..Pending::of(asked, vec![place]) };
        let number = self.next_number();
        self.begin(number, pending, conditions, Vec::new());
    }
}

/// True where a command is a word of the holder, heard here: from here on this node watches over it. What is bound to a
/// connection at another node stays there, until it is registered at this one.
fn takes_over(command: &Command, by: &Identity, bound_elsewhere: bool) -> bool {
    match command {
        Command::Register(_) | Command::RegisterHost(_) => true,
        Command::Claim(_) | Command::Import(_) => !bound_elsewhere,
        Command::Report(_) => !bound_elsewhere && by.author() != Author::Server,
        _ => false,
    }
}

/// What a probe's verdict is of: the node that the ring names for it probes it, and no other.
pub(super) fn probed(command: &Command) -> Option<Place> {
    match command {
        Command::Report(Report { of: ReportOf::Probed(_), .. }) => subjects(command).map(place_of).next(),
        _ => None,
    }
}

/// True for a thing that a command of records reads, or may write.
fn is_read(reads: &Reads, place: &Place) -> bool {
    match place {
        Place::Instance(key) => reads.services.contains(&key.service),
        Place::Plain(PlainPlace { service, owner, .. }) => {
            service.as_ref().is_some_and(|service| reads.services.contains(service))
                || reads.owners.contains(&(service.clone(), owner.clone()))
        }
        _ => false,
    }
}

/// The conditions without those that others say as well: a range within a range, since the same revision.
pub(super) fn without_covered(conditions: Vec<Condition>) -> Vec<Condition> {
    let (mut ranges, mut kept) = (Vec::new(), Vec::new());
    let mut known = HashSet::new();
    for condition in conditions {
        match condition {
            Condition::NoneSince(from, to, since) => ranges.push((since, from, Reverse(to))),
            _ if known.contains(&condition) => {}
            _ => {
                known.insert(condition.clone());
                kept.push(condition);
            }
        }
    }
    // Of those that begin at one place the widest is first: what ends no later than one before it lies in it.
    ranges.sort_unstable();
    let mut last: Option<(u64, Vec<u8>)> = None;
    for (since, from, Reverse(to)) in ranges {
        if last.as_ref().is_none_or(|(of, end)| *of != since || *end < to) {
            last = Some((since, to.clone()));
            kept.push(Condition::NoneSince(from, to, since));
        }
    }
    kept
}

/// The answer to what is more than one transaction holds.
fn too_large(things: usize, most: usize, what: &str) -> Verdict {
    Err(update::Refused::too_large(things, most, what).into())
}

fn place_of(about: About<'_>) -> Place {
    match about {
        About::Records(set) => Place::Plain(PlainPlace::of(set)),
        About::Instance(key) | About::Displaced(key) => Place::Instance(key.clone()),
        About::Host(host) => Place::Host(host.clone()),
        About::Settings(service) => Place::Settings(service.clone()),
        About::Token(name) => Place::Token(name.clone()),
    }
}
