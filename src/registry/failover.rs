//! Where a service fails over to, as a whole: no service may come back to itself.

use std::collections::HashSet;

use super::Registry;
use crate::grammar::Owner;
use crate::instance::{Fallback, ServiceSettings};
use crate::name::ServiceName;
use crate::record::Type;

/// True of records that the answers of a failover would hide at a name of the service, or that are a cut there. At its own name it
/// has a TXT too, though nothing of it be live.
pub fn is_answered_instead(owner: Owner<'_>, rtype: Type) -> bool {
    matches!(
        (owner, rtype),
        (Owner::Service(_), Type::TXT)
            | (
                Owner::Service(_) | Owner::ByTransport(..) | Owner::ByPort { .. } | Owner::ByTag { .. },
                Type::A | Type::AAAA | Type::CNAME | Type::SRV | Type::SVCB | Type::HTTPS | Type::NS,
            )
    )
}

impl Registry {
    /// True where others answer while nothing of the service is live.
    pub fn fails_over(&self, service: &ServiceName) -> bool {
        self.settings.get(service).is_some_and(|settings| !settings.fallbacks().is_empty())
    }

    /// The names that files have though others would answer there, with the place that has each: the failover was stored before
    /// the record came.
    pub fn taken_and_failing_over(&self) -> impl Iterator<Item = (&ServiceName, &str)> {
        self.taken.iter().filter(|(name, _)| self.fails_over(name)).map(|(name, by)| (name, &**by))
    }

    /// Who has names at which others would answer in the stead of this service: a file, or an UPDATE.
    pub(super) fn taken_by(&self, service: &ServiceName) -> Option<Box<str>> {
        let by_update = || {
            let owners = self.plain.of_service(service.as_str()).iter();
            let mut answered = owners.filter(|owner| {
                self.plain.at(owner).iter().any(|set| {
                    super::read_as(&set.apex, owner, |owner| {
                        owner.is_some_and(|owner| is_answered_instead(owner, set.set.rtype))
                    })
                })
            });
            answered.next().map(|owner| format!("{owner}, which an UPDATE set").into())
        };
        self.taken.get(service).cloned().or_else(by_update)
    }

    /// The way from `service` back to itself, if it had the settings `after`.
    pub(super) fn failover_cycle(
        &self,
        service: &ServiceName,
        after: &ServiceSettings,
    ) -> Option<Vec<ServiceName>> {
        // There was no cycle before, so a new one leads through `service`. Each service is looked at once.
        let mut seen = HashSet::new();
        let mut ways: Vec<Vec<ServiceName>> = vec![vec![service.clone()]];
        while let Some(way) = ways.pop() {
            let last = way.last()?;
            let settings = if last == service { Some(after) } else { self.settings.get(last) };
            for next in settings.iter().flat_map(|settings| settings.fallbacks()) {
                let Fallback::Service(next) = next else { continue };
                let on = [way.as_slice(), std::slice::from_ref(next)].concat();
                if next == service {
                    return Some(on);
                }
                if seen.insert(next.clone()) {
                    ways.push(on);
                }
            }
        }
        None
    }
}
