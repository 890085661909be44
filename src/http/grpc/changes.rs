//! What a stream hears of the registry: of each service that it asks for, or of all of them at once.

use std::collections::BTreeSet;
use std::future::pending;
use std::pin::Pin;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use crate::journal::{Batch, Ended, Follower, Journal, Topic};
use crate::name::ServiceName;
use crate::registry::What;
use crate::view::View;
use crate::xds::session::Concern;

/// Services of a stream that are followed each for itself.
const FOLLOWED_MAX: usize = 256;

/// What the registry tells a stream.
pub(super) enum News {
    Batch(Batch),
    Of(ServiceName),
    /// Some of it came too fast.
    Missed,
    Closed,
}

/// The followers of one stream: of the services that it asks for, or of everything, where that is many or all.
pub(super) struct Changes<'a> {
    journal: &'a Journal,
    everything: Option<Follower>,
    services: BTreeSet<ServiceName>,
    /// One for each of them.
    waiting: FuturesUnordered<Waiting>,
}

type Waiting = Pin<Box<dyn Future<Output = (ServiceName, Follower, Result<Batch, Ended>)> + Send>>;

impl<'a> Changes<'a> {
    pub(super) fn of(journal: &'a Journal) -> Self {
        Self { journal, everything: None, services: BTreeSet::new(), waiting: FuturesUnordered::new() }
    }

    /// Follows these from here on; true where something may have been missed of what was followed before.
    pub(super) fn follow(&mut self, concern: Concern) -> bool {
        let services = match concern {
            Concern::Services(services) if services.len() <= FOLLOWED_MAX => services,
            Concern::Services(_) | Concern::Everything if self.everything.is_some() => return false,
            Concern::Services(_) | Concern::Everything => {
                *self = Self {
                    everything: Some(self.journal.follow(Topic::Everything)),
                    ..Self::of(self.journal)
                };
                return true;
            }
        };
        let grows = self.everything.is_none() && services.is_superset(&self.services);
        if !grows {
            *self = Self::of(self.journal);
        }
        for service in services.difference(&self.services) {
            self.waiting.push(waiting(self.journal, service.clone(), None));
        }
        self.services = services;
        !grows
    }

    /// Cancel-safe.
    pub(super) async fn next(&mut self) -> News {
        if let Some(follower) = &mut self.everything {
            return match follower.next().await {
                Ok(batch) => News::Batch(batch),
                Err(Ended::Closed) => News::Closed,
                Err(Ended::Lagged(_)) => {
                    *follower = self.journal.follow(Topic::Everything);
                    News::Missed
                }
            };
        }
        match self.waiting.next().await {
            None => pending().await,
            Some((_, _, Err(Ended::Closed))) => News::Closed,
            Some((service, follower, ended)) => {
                // Whatever was missed of a service shows in its view; a new place is at the end.
                let follower = ended.is_ok().then_some(follower);
                self.waiting.push(waiting(self.journal, service.clone(), follower));
                News::Of(service)
            }
        }
    }
}

/// The next batch that concerns the service.
fn waiting(journal: &Journal, service: ServiceName, follower: Option<Follower>) -> Waiting {
    let mut follower = follower.unwrap_or_else(|| journal.follow(Topic::Service(&service)));
    Box::pin(async move {
        let batch = follower.next().await;
        (service, follower, batch)
    })
}

/// The services that a batch concerns.
pub(super) fn touched(batch: &Batch, view: &View) -> BTreeSet<ServiceName> {
    let mut services = BTreeSet::new();
    for event in batch.iter() {
        match &event.change.what {
            What::Instance { before, after } => {
                services.extend(after.iter().chain(before).map(|instance| instance.key.service.clone()));
            }
            What::Host { before, after } => {
                if let Some(host) = after.as_ref().or(before.as_ref()) {
                    let members = view.on_host(&host.name);
                    services.extend(members.into_iter().map(|member| member.instance.key.service.clone()));
                }
            }
            What::Forgotten { key } => drop(services.insert(key.service.clone())),
            What::Settings { service, .. } | What::Guard { service, .. } => {
                services.insert(service.clone());
            }
            What::Token { .. } | What::Plain { .. } => {}
        }
    }
    services
}
