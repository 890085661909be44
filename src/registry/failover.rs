//! Where a service fails over to, as a whole: no service may come back to itself.

use std::collections::HashSet;

use super::Registry;
use crate::instance::{Fallback, ServiceSettings};
use crate::name::ServiceName;

impl Registry {
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
