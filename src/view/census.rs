//! What there is, counted. The view keeps the count of everything: what is published takes the place of what it was made from, so
//! whoever asks pays for no instance.

use super::ServiceView;

/// How many there are of what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    pub live: u64,
    pub draining: u64,
    pub critical: u64,
    pub maintenance: u64,
    pub services: u64,
    /// Services with an instance that is live.
    pub services_live: u64,
    /// Services that a guard has, and the instances that guards hold in the answers.
    pub guarded: u64,
    pub held: u64,
    /// Services with nothing live that others are to answer for.
    pub failing_over: u64,
}

impl Census {
    /// Of one service, from the sums of its members.
    pub fn of(service: &ServiceView) -> Self {
        let standings = service.members.standings();
        let [live, draining, critical, maintenance] = standings.map(u64::from);
        Self {
            live,
            draining,
            critical,
            maintenance,
            services: 1,
            services_live: u64::from(live > 0),
            guarded: u64::from(service.guard().is_some()),
            held: service.answered.held() as u64,
            failing_over: u64::from(service.fails_over()),
        }
    }

    /// With one view of a service in the place of another.
    pub(super) fn replace(&mut self, old: Option<&ServiceView>, new: Option<&ServiceView>) {
        let [old, new] = [old, new].map(|service| service.map(Self::of).unwrap_or_default());
        let fields = [
            (&mut self.live, old.live, new.live),
            (&mut self.draining, old.draining, new.draining),
            (&mut self.critical, old.critical, new.critical),
            (&mut self.maintenance, old.maintenance, new.maintenance),
            (&mut self.services, old.services, new.services),
            (&mut self.services_live, old.services_live, new.services_live),
            (&mut self.guarded, old.guarded, new.guarded),
            (&mut self.held, old.held, new.held),
            (&mut self.failing_over, old.failing_over, new.failing_over),
        ];
        for (sum, less, more) in fields {
            *sum = *sum + more - less;
        }
    }

    pub fn instances(&self) -> u64 {
        self.live + self.draining + self.critical + self.maintenance
    }

    /// (live instances + services with one) / (registered instances + known services); 1 where there are none.
    pub fn ratio(&self) -> f64 {
        let all = self.instances() + self.services;
        if all == 0 { 1.0 } else { (self.live + self.services_live) as f64 / all as f64 }
    }
}
