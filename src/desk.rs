//! What the edges that take registrations work with: the view to read from, the writer to ask, and what is known of
//! this machine and of who is at the other end.

mod changes;
mod figures;
mod nodes;
mod past;
mod reads;
mod registered;
mod renewal;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::RuntimeFlavor;
use tokio::sync::Semaphore;

pub use self::changes::Sent;
pub use self::figures::{Figures, LiveTime};
pub use self::nodes::Told;
pub use self::renewal::Renewed;

use crate::access::{Access, Denied, Identity, On, Verb};
use crate::check::worst;
use crate::clock::Clock;
use crate::connections::Connections;
use crate::connections::mistakes::Mistakes;
use crate::counters::Signing;
use crate::instance::{Health, Instance};
use crate::journal::Event;
use crate::name::HostName;
use crate::protocol::{
    ChangeForm, Filter, InstanceForm, InstancesForm, LIST_MAX, LIST_OUTPUT_OCTETS_MAX, Peer, Problem, Reply,
    ServerForm, encode,
};
use crate::registry::{Author, Change, What};
use crate::store::History;
use crate::view::{Member, Node, View};
use crate::writer::Handle;

/// Questions that read the log or look at every instance, at once: each keeps a thread of the runtime, and others go on while
/// they wait. And how long one may wait for its turn.
const SEARCHES_MAX: usize = 4;
const TURN_MAX: Duration = Duration::from_secs(5);
/// How long the end of a token is waited for without a look at the clock, which somebody may set.
const LOOK_AGAIN_MS: i64 = 60_000;

/// See the module's own words.
pub struct Desk {
    pub view: Arc<View>,
    pub writer: Handle,
    pub clock: Clock,
    /// Who may say what.
    pub access: Arc<Access>,
    /// Wrong tokens.
    pub mistakes: Mistakes,
    /// The machine we run on.
    pub host: HostName,
    /// For a registration over the Unix socket that names no address.
    pub addresses: Vec<IpAddr>,
    pub loopback_allowed: bool,
    /// The log of changes.
    pub history: History,
    pub figures: Figures,
    pub searches: Searches,
    /// One for all listeners: a connection's number is its name in leases.
    pub connections: Arc<Connections>,
    /// This server as a node, for where it is alone.
    pub node: Node,
    pub told: Told,
    /// Where random octets come from: the kernel.
    pub chance: fn(&mut [u8]) -> Result<(), getrandom::Error>,
    /// What signing the zones took.
    pub signing: Arc<Signing>,
    /// For `status`: what does not change.
    pub server: ServerForm,
}

/// The turns of those who search.
#[derive(Debug)]
pub struct Searches(Semaphore);

impl Default for Searches {
    fn default() -> Self {
        Self(Semaphore::new(SEARCHES_MAX))
    }
}

impl Desk {
    /// Does what takes its time on this thread, when it is its turn; others are served by other threads meanwhile.
    ///
    /// # Errors
    ///
    /// Too many search.
    pub async fn search<T>(&self, work: impl FnOnce() -> T) -> Result<T, Problem> {
        let busy = || {
            Problem::new(
                "unavailable",
                "too many ask at once for what takes its time (the past, whole lists, metrics); ask again later",
            )
        };
        let turn = tokio::time::timeout(TURN_MAX, self.searches.0.acquire()).await;
        let _turn = turn.map_err(|_| busy())?.map_err(|_| busy())?;
        Ok(aside(work))
    }

    /// Says whether `who` may do this now.
    ///
    /// # Errors
    ///
    /// It may not.
    pub fn may(&self, who: &Identity, verb: Verb, on: On<'_>) -> Result<(), Denied> {
        self.access.permits(who, verb, on, &self.writer.tokens.borrow(), self.clock.now().wall)
    }

    /// The same of a change of an instance that is there.
    ///
    /// # Errors
    ///
    /// It may not.
    pub fn may_change(&self, who: &Identity, verb: Verb, instance: &Instance) -> Result<(), Denied> {
        let (tokens, now) = (self.writer.tokens.borrow(), self.clock.now().wall);
        self.access.permits_change(who, verb, instance, &tokens, now)
    }

    /// Whoever carries `token`; nobody else where there are neither tokens nor rules, for then clients may carry one that
    /// another server gave them.
    ///
    /// # Errors
    ///
    /// The token is none of ours, or is over.
    pub fn identify(&self, who: &Identity, token: &str) -> Result<Identity, Denied> {
        let tokens = self.writer.tokens.borrow();
        if tokens.is_empty() && self.access.rules.is_none() {
            return Ok(who.clone());
        }
        let now = self.clock.now();
        tokens.find(token, now.wall).map(Identity::token).map_err(|denied| {
            if self.mistakes.may_go_on(who.owner.as_deref(), now) { denied } else { Denied::TooMany }
        })
    }

    /// Returns once `who` may no longer do this: a token was revoked, or is over.
    pub async fn until_denied(&self, who: &Identity, verb: Verb, on: On<'_>) -> Denied {
        let mut tokens = self.writer.tokens.clone();
        loop {
            tokens.mark_unchanged();
            if let Err(denied) = self.may(who, verb, on) {
                return denied;
            }
            let over = async {
                let Some(expires) = who.expires() else { return std::future::pending().await };
                let left_ms = expires.unix_ms.saturating_sub(self.clock.now().wall.unix_ms);
                let left = Duration::from_millis(left_ms.clamp(0, LOOK_AGAIN_MS).unsigned_abs() + 1);
                tokio::time::sleep(left).await;
            };
            // Both arms are cancel-safe; where the writer has gone, nothing changes any more.
            tokio::select! {
                changed = tokens.changed() => if changed.is_err() { std::future::pending().await },
                () = over => {}
            }
        }
    }

    /// What a registration that leaves something out is given, by who sent it.
    pub fn peer(&self, who: &Identity, connection: u64) -> Peer {
        let (host, addresses) = match who.author() {
            Author::Address(SocketAddr::V4(v4)) if !v4.ip().is_loopback() => (None, vec![(*v4.ip()).into()]),
            Author::Address(address) if !address.ip().to_canonical().is_loopback() => {
                (None, vec![address.ip().to_canonical()])
            }
            Author::Address(address) => (Some(&self.host), vec![address.ip().to_canonical()]),
            _ => (Some(&self.host), self.addresses.clone()),
        };
        let host = match host {
            Some(host) => host.clone(),
            // An address has no control characters and is short, so it is a host's name.
            None => HostName::parse(&addresses[0].to_string()).unwrap_or_else(|_| self.host.clone()),
        };
        Peer { host, addresses, loopback_allowed: self.loopback_allowed, connection }
    }

    pub fn shown(&self, member: &Member) -> InstanceForm {
        let now = self.clock.now();
        let form = InstanceForm::of(&member.instance, member.health, member.is_live(), now);
        InstanceForm { held: member.held, ..form }
    }

    /// Whether a client can go on from `since`, where this server is at `now`: the log has all that came after it, and it means
    /// what it meant when the client was told. What a process published and never stored went with it, so a revision from before
    /// the start has to be in the log, or the one behind it.
    ///
    /// # Errors
    ///
    /// What the client is told instead: `compacted`, with what it does then; `unavailable` where the log cannot be read.
    pub fn resume(&self, since: u64, now: u64) -> Result<(), Problem> {
        if since > now {
            return Err(anew(&format!(
                "this server is at revision {now}: it is another one, or starts anew"
            )));
        }
        let (started, _) = self.view.beginnings();
        let from_before = since > 0 && since < started;
        let read = aside(|| self.history.after(since - u64::from(from_before), 1));
        let (first, oldest) = read.map_err(unreadable)?;
        if !self.history.is_whole_after(since, oldest) {
            return Err(begins(oldest.unwrap_or(now)));
        }
        if from_before && first.first().is_none_or(|change| change.revision > since + 1) {
            return Err(anew(&format!(
                "revision {since} is not in the log: the server ended before it was stored"
            )));
        }
        Ok(())
    }

    /// The next page of a snapshot, and what is left of it; at least one page, which may be empty.
    pub fn snapshot(&self, members: &mut &[Member], revision: u64) -> InstancesForm {
        let page = page_of(members);
        *members = &members[page.len()..];
        let next = page.last().filter(|_| !members.is_empty()).map(place_of);
        let instances = page.iter().map(|member| self.shown(member)).collect();
        InstancesForm { instances, revision, next }
    }

    /// A change of the past, with the health that its host has now: what is told later makes up for the rest.
    pub fn past_event(&self, change: Change) -> Event {
        let host = match &change.what {
            What::Instance { before, after } => {
                let instance = after.as_ref().or(before.as_ref());
                instance.and_then(|instance| self.view.host(&instance.key.host))
            }
            _ => None,
        };
        let health = host.map_or(Health::Passing, |host| worst(&host.checks));
        Event::new(change, health)
    }

    /// Puts down one change, as a line, where the filter wants it; that of a host once for each instance that it concerns.
    pub fn tell(&self, event: &Event, filter: Option<&Filter>, out: &mut Vec<u8>) {
        let now = self.clock.now();
        if filter.is_none_or(|filter| filter.concerns(&event.change, event.host)) {
            let write = || {
                let mut line = Vec::new();
                let form = ChangeForm::of(&event.change, event.health, now);
                encode(&Reply::Change(Box::new(form)), &mut line);
                line
            };
            out.extend_from_slice(event.line(write));
            return;
        }
        let (Some(filter), What::Host { before, after }) = (filter, &event.change.what) else { return };
        let Some(host) = after.as_ref().or(before.as_ref()) else { return };
        let earlier = before.as_ref().map_or(Health::Passing, |host| worst(&host.checks));
        for member in self.view.on_host(&host.name) {
            // Leaving the filter is told too.
            if filter.matches(&member.instance, member.health)
                || filter.matches(&member.instance, member.instance.health().max(earlier))
            {
                let what = What::Instance { before: None, after: Some(member.instance.clone()) };
                let form = ChangeForm::of(&Change { what, ..event.change.clone() }, member.health, now);
                encode(&Reply::Change(Box::new(form)), out);
            }
        }
    }
}

/// The log cannot be read now.
pub fn unreadable(what: String) -> Problem {
    Problem::new("unavailable", format!("reading the log: {what}; try again"))
}

/// The log has nothing before a revision.
pub fn begins(oldest: u64) -> Problem {
    anew(&format!("the log begins at revision {oldest}"))
}

fn anew(what: &str) -> Problem {
    Problem::new("compacted", format!("{what}; feed without `since` for what is registered now"))
}

/// Does what takes its time on this thread; others are served by other threads meanwhile, where there are any.
pub fn aside<T>(work: impl FnOnce() -> T) -> T {
    match tokio::runtime::Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::CurrentThread) => work(),
        _ => tokio::task::block_in_place(work),
    }
}

/// As many of `members`, from the first on, as one reply holds; at least one where there is one.
pub fn page_of(members: &[Member]) -> &[Member] {
    let mut octets = 0;
    let fitting = members.iter().take(LIST_MAX).take_while(|member| {
        let first = octets == 0;
        octets += 1 + member.instance.checks.iter().map(|check| check.output.len()).sum::<usize>();
        first || octets <= LIST_OUTPUT_OCTETS_MAX
    });
    &members[..fitting.count()]
}

/// Where a member stands in the order of a list.
pub fn place_of(member: &Member) -> String {
    format!("{}/{}", member.instance.key.service, member.instance.label)
}
