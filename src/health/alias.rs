//! Aliases: the health of another instance, or of a host, as a check.
//!
//! Nothing is polled: an alias is looked at when something changes that it may be of. An alias that is met on the way
//! is looked through to what it is one of, and one that leads back is passed over; so two instances that are aliases
//! of each other are what their other checks say, and not critical for ever.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::book::aliased;
use crate::access::Owner;
use crate::check::{Check, Kind};
use crate::instance::Health;
use crate::lease::Leased;
use crate::name::{HostName, InstanceId};
use crate::view::View;

/// Instances and hosts that one alias leads to: more than an operator can follow, and it ends.
const FOLLOWED_MAX: usize = 64;

/// What an alias is one of: every instance with this id on this host, or the host.
type Target = (HostName, Option<InstanceId>);

/// What was found in one turn: of however many aliases of one target, the first alone looks. What a target comes to does not
/// depend on who asks: an alias says nothing but what is behind it.
#[derive(Default)]
pub struct Looks(HashMap<Target, Option<Found>>);

#[derive(Clone)]
enum Found {
    NoCheck,
    Passing,
    Failing(Box<Failing>),
}

#[derive(Clone)]
struct Failing {
    status: Health,
    check: Check,
    whose: Whose,
}

/// Whose check it is.
#[derive(Clone)]
enum Whose {
    /// What is said of a host is told with every service that has an instance there.
    Host,
    /// Of an instance, and who registered that.
    Instance(Option<Arc<Owner>>),
}

impl Looks {
    /// What an alias of `of`, registered by `owner`, finds, and Consul's words for it. What a check of somebody else's says
    /// stays with it: only who may read that instance may read that, and an alias may be of anything.
    pub fn look(
        &mut self,
        view: &View,
        of: &Leased,
        owner: Option<&Arc<Owner>>,
        kind: &Kind,
    ) -> (Health, String) {
        let target = target_of(of, kind);
        let found = self.0.entry(target.clone()).or_insert_with(|| {
            let mut met = HashSet::from([target.clone()]);
            worst_of(view, &target, &mut met)
        });
        match found {
            None => (Health::Critical, missing(of, kind)),
            Some(Found::NoCheck) => (Health::Passing, "No checks found.".to_owned()),
            Some(Found::Passing) => (Health::Passing, "All checks passing.".to_owned()),
            Some(Found::Failing(failing)) => {
                let Failing { status, check, whose } = &**failing;
                // Once it says why, so does the alias.
                if check.is_unexplained() {
                    return (Health::Critical, String::new());
                }
                let name = if check.definition.name.is_empty() { &check.id } else { &check.definition.name };
                let text = format!("Aliased check \"{name}\" failing");
                let text = match whose {
                    Whose::Instance(theirs) if theirs.as_ref() != owner => text,
                    Whose::Instance(_) | Whose::Host => format!("{text}: {}", check.output),
                };
                // Maintenance is somebody's word about the other one; of this one it is a finding.
                ((*status).min(Health::Critical), text)
            }
        }
    }
}

fn target_of(of: &Leased, kind: &Kind) -> Target {
    let (host, id) = aliased(of, kind);
    (host.clone(), id.cloned())
}

/// The worst check of what an alias is one of; `None` where that is not there.
fn worst_of(view: &View, (host, id): &Target, met: &mut HashSet<Target>) -> Option<Found> {
    let of_host = Leased::Host(host.clone());
    let mut worst = Found::NoCheck;
    match id {
        // What is said of a host itself: it counts for every instance there.
        None => fold(view, &of_host, &Whose::Host, &view.host(host)?.checks, met, &mut worst),
        Some(id) => {
            let mut members = view.by_id(id);
            members.retain(|member| member.instance.key.host == *host);
            let first = members.first()?;
            if let Some(host) = &first.host {
                fold(view, &of_host, &Whose::Host, &host.checks, met, &mut worst);
            }
            for member in &members {
                let of = Leased::Instance(member.instance.key.clone());
                let whose = Whose::Instance(member.instance.owner.clone());
                fold(view, &of, &whose, &member.instance.checks, met, &mut worst);
            }
        }
    }
    Some(worst)
}

fn fold(
    view: &View,
    of: &Leased,
    whose: &Whose,
    checks: &[Check],
    met: &mut HashSet<Target>,
    worst: &mut Found,
) {
    for check in checks {
        let failing = |status: Health| {
            Found::Failing(Box::new(Failing { status, check: check.clone(), whose: whose.clone() }))
        };
        let found = match &check.definition.kind {
            kind @ Kind::Alias { .. } if check.status != Health::Maintenance => {
                let target = target_of(of, kind);
                if met.contains(&target) || met.len() >= FOLLOWED_MAX {
                    continue;
                }
                met.insert(target.clone());
                match worst_of(view, &target, met) {
                    None => failing(Health::Critical),
                    Some(Found::Failing(behind)) => {
                        let status = behind.status.min(Health::Critical);
                        Found::Failing(Box::new(Failing { status, ..*behind }))
                    }
                    Some(Found::NoCheck | Found::Passing) => Found::Passing,
                }
            }
            _ if check.status > worst.status() => failing(check.status),
            _ => Found::Passing,
        };
        if found.status() > worst.status() || matches!(worst, Found::NoCheck) {
            *worst = found;
        }
    }
}

impl Found {
    fn status(&self) -> Health {
        match self {
            Self::NoCheck | Self::Passing => Health::Passing,
            Self::Failing(failing) => failing.status,
        }
    }
}

fn missing(of: &Leased, kind: &Kind) -> String {
    match aliased(of, kind) {
        (host, None) => format!("Host {host} could not be found"),
        (host, Some(id)) => format!("Service {id} could not be found on node {host}"),
    }
}
