//! Aliases: the health of another instance, or of a host, as a check.
//!
//! Nothing is polled: an alias is looked at when something changes that it may be of. An alias that is met on the way
//! is looked through to what it is one of, and one that leads back is passed over; so two instances that are aliases
//! of each other are what their other checks say, and not critical for ever.

use std::sync::Arc;

use super::book::aliased;
use crate::check::{Check, Kind};
use crate::instance::Health;
use crate::lease::Leased;
use crate::view::View;

/// Checks that one alias looks through: more than an operator can follow, and it ends.
const FOLLOWED_MAX: usize = 64;

/// What an alias finds, and Consul's words for it.
pub fn look(view: &View, of: &Leased, id: &Arc<str>, kind: &Kind) -> (Health, String) {
    let mut met = vec![(of.clone(), id.clone())];
    match worst_of(view, of, kind, &mut met) {
        None => (Health::Critical, missing(of, kind)),
        Some(Found::NoCheck) => (Health::Passing, "No checks found.".to_owned()),
        Some(Found::Passing) => (Health::Passing, "All checks passing.".to_owned()),
        Some(Found::Failing(status, check)) => {
            // Once it says why, so does the alias.
            if check.is_unexplained() {
                return (Health::Critical, String::new());
            }
            let name = if check.definition.name.is_empty() { &check.id } else { &check.definition.name };
            let text = format!("Aliased check \"{name}\" failing: {}", check.output);
            // Maintenance is somebody's word about the other one; of this one it is a finding.
            (status.min(Health::Critical), text)
        }
    }
}

enum Found {
    NoCheck,
    Passing,
    Failing(Health, Box<Check>),
}

/// The worst check of what the alias is one of; `None` where that is not there.
fn worst_of(view: &View, of: &Leased, kind: &Kind, met: &mut Vec<(Leased, Arc<str>)>) -> Option<Found> {
    let (host, id) = aliased(of, kind);
    let of_host = Leased::Host(host.clone());
    let mut worst = Found::NoCheck;
    match id {
        // What is said of a host itself: it counts for every instance there.
        None => fold(view, &of_host, &view.host(host)?.checks, met, &mut worst),
        Some(id) => {
            let mut members = view.by_id(id);
            members.retain(|member| member.instance.key.host == *host);
            let first = members.first()?;
            if let Some(host) = &first.host {
                fold(view, &of_host, &host.checks, met, &mut worst);
            }
            for member in &members {
                let of = Leased::Instance(member.instance.key.clone());
                fold(view, &of, &member.instance.checks, met, &mut worst);
            }
        }
    }
    Some(worst)
}

fn fold(view: &View, of: &Leased, checks: &[Check], met: &mut Vec<(Leased, Arc<str>)>, worst: &mut Found) {
    for check in checks {
        let (status, check) = match &check.definition.kind {
            kind @ Kind::Alias { .. } if check.status != Health::Maintenance => {
                let here = (of.clone(), check.id.clone());
                if met.contains(&here) || met.len() >= FOLLOWED_MAX {
                    continue;
                }
                met.push(here);
                match worst_of(view, of, kind, met) {
                    None => (Health::Critical, check.clone()),
                    Some(Found::Failing(status, behind)) => (status.min(Health::Critical), *behind),
                    Some(Found::NoCheck | Found::Passing) => (Health::Passing, check.clone()),
                }
            }
            _ => (check.status, check.clone()),
        };
        let before = match worst {
            Found::NoCheck | Found::Passing => Health::Passing,
            Found::Failing(status, _) => *status,
        };
        if status > before {
            *worst = Found::Failing(status, Box::new(check));
        } else if matches!(worst, Found::NoCheck) {
            *worst = Found::Passing;
        }
    }
}

fn missing(of: &Leased, kind: &Kind) -> String {
    match aliased(of, kind) {
        (host, None) => format!("Host {host} could not be found"),
        (host, Some(id)) => format!("Service {id} could not be found on node {host}"),
    }
}
