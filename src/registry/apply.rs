//! What a change makes of the registry: a fold, which never fails.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Registry;
use super::change::{Author, Change, Reason, What};
use super::service::{Gone, Service};
use crate::check::Check;
use crate::instance::{Instance, ServiceSettings};
use crate::member::Member;
use crate::name::{HostName, ServiceName};
use crate::sorted::Sorted;
use crate::time::{Now, nanoseconds};

impl Registry {
    /// Gives its revision to a change that `check` or `due` found.
    pub fn change(revision: u64, reason: Reason, mut what: What, author: Author, now: Now) -> Change {
        match &mut what {
            What::Instance { before, after: Some(after) } => {
                let after = Arc::make_mut(after);
                after.revision = revision;
                if before.is_none() {
                    after.created = revision;
                }
            }
            What::Host { before, after: Some(after) } => {
                let after = Arc::make_mut(after);
                after.revision = revision;
                if before.is_none() {
                    after.created = revision;
                }
            }
            _ => {}
        }
        Change { revision, at: now.wall, reason, author, what }
    }

    /// Makes a change so.
    pub fn apply(&mut self, change: &Change, now: Now) {
        self.revision = change.revision;
        match &change.what {
            What::Instance { before, after } => {
                self.apply_instance(before.as_ref(), after.as_ref(), change, now)
            }
            What::Host { before, after } => {
                if let Some(before) = before {
                    self.hosts.remove(&before.name);
                }
                if let Some(after) = after {
                    let known = before.as_ref().map(|before| before.checks.as_slice()).unwrap_or_default();
                    self.arm_checks(known, &after.checks);
                    self.hosts.insert(after.name.clone(), after.clone());
                }
                if let Some(host) = after.as_ref().or(before.as_ref()) {
                    self.judge_anew(&host.name, now);
                }
            }
            What::Settings { service, after, .. } => {
                match *after == ServiceSettings::default() {
                    true => self.settings.remove(service),
                    false => self.settings.insert(service.clone(), after.clone()),
                };
                if let Some(guarding) = self.guards.get_mut(service) {
                    guarding.set_end(after);
                }
                let most = self.gone_max(service);
                let over = self.services.get_mut(service).map(|known| known.keep(most));
                self.forgotten(over.into_iter().flatten(), now);
                self.keep_deaths(service, now);
            }
            What::Guard { service, after, .. } => self.apply_guard(service, *after, now),
            What::Plain { before, after } => self.plain.apply(before.as_ref(), after.as_ref()),
            What::Token { before, after } => {
                before.iter().for_each(|token| self.tokens.remove(token));
                after.iter().for_each(|token| self.tokens.put(token.clone()));
            }
            What::Forgotten { key } => {
                let gone = self.services.get_mut(&key.service).and_then(|service| service.forget(key));
                self.forgotten(gone, now);
                self.drop_empty(&key.service);
            }
        }
    }

    fn apply_instance(
        &mut self,
        before: Option<&Arc<Instance>>,
        after: Option<&Arc<Instance>>,
        change: &Change,
        now: Now,
    ) {
        let Some(key) = after.or(before).map(|instance| instance.key.clone()) else { return };
        self.count_owner(before, after);
        let most = self.gone_max(&key.service);
        let service = self.services.entry(key.service.clone()).or_default();
        if let Some(after) = after {
            service.put(before, Member::of(after, self.hosts.get(&key.host)));
            if before.is_none() {
                self.instances += 1;
                self.on_host.entry(key.host.clone()).or_default().insert(key.clone());
            }
            if !before.is_some_and(|before| Arc::ptr_eq(&before.deadline, &after.deadline)) {
                self.leases.arm(&after.deadline);
            }
            let gone = service.forget(&key);
            let known = before.map(|before| before.checks.as_slice()).unwrap_or_default();
            self.arm_checks(known, &after.checks);
            self.forgotten(gone, now);
            self.judge(after, now);
            return;
        }
        let Some(before) = before else { return };
        let gone = Gone {
            instance: before.clone(),
            reason: change.reason,
            at: change.at,
            revision: change.revision,
        };
        self.gone += 1;
        let forgotten = service.leave(gone.clone(), most);
        self.instances -= 1;
        self.forget_later(&gone, now);
        if let Some(keys) = self.on_host.get_mut(&key.host) {
            keys.remove(&key);
            if keys.is_empty() {
                self.on_host.remove(&key.host);
            }
        }
        self.forgotten(forgotten, now);
        self.judge(before, now);
    }

    pub(super) fn count_owner(&mut self, before: Option<&Arc<Instance>>, after: Option<&Arc<Instance>>) {
        let owner = |instance: Option<&Arc<Instance>>| instance.and_then(|instance| instance.owner.clone());
        let (before, after) = (owner(before), owner(after));
        if before == after {
            return;
        }
        if let Some(after) = after {
            *self.owned.entry(after).or_default() += 1;
        }
        if let Some(before) = before
            && let Some(count) = self.owned.get_mut(&before)
        {
            *count -= 1;
            if *count == 0 {
                self.owned.remove(&before);
            }
        }
    }

    /// Counts who is no longer remembered.
    pub(super) fn forgotten(&mut self, gone: impl IntoIterator<Item = Gone>, now: Now) {
        for gone in gone {
            self.gone -= 1;
            self.judge(&gone.instance, now);
        }
    }

    /// Watches over the deadlines of checks that are not in `known`.
    pub(super) fn arm_checks(&mut self, known: &[Check], checks: &[Check]) {
        for deadline in checks.iter().filter_map(|check| check.deadline.as_ref()) {
            let same = |check: &Check| check.deadline.as_ref().is_some_and(|old| Arc::ptr_eq(old, deadline));
            if !known.iter().any(same) {
                self.leases.arm(deadline);
            }
        }
    }

    pub(super) fn forget_later(&mut self, gone: &Gone, now: Now) {
        let at_ns = now.mono_ns + nanoseconds(self.forget_after);
        self.forget.push_back((at_ns, gone.instance.key.clone(), gone.revision));
    }

    /// A host's checks count for every instance on it.
    pub(super) fn judge_anew(&mut self, name: &HostName, now: Now) {
        for key in self.on_host.get(name).cloned().unwrap_or_default().iter() {
            let Some(service) = self.services.get_mut(&key.service) else { continue };
            if let Some(instance) = service.instance(key).cloned() {
                service.members.put(Member::of(&instance, self.hosts.get(name)));
                self.judge(&instance, now);
            }
        }
        for key in self.left_on.get(name).cloned().unwrap_or_default() {
            let gone = self.services.get(&key.service).and_then(|service| service.gone_by_key(&key));
            if let Some(instance) = gone.map(|(_, gone)| gone.instance.clone()) {
                self.judge(&instance, now);
            }
        }
    }

    pub(super) fn drop_empty(&mut self, name: &ServiceName) {
        if self.services.get(name).is_some_and(Service::is_empty) {
            self.services.remove(name);
        }
    }

    /// The services whose view `change` alters.
    pub fn touched(&self, change: &Change) -> Vec<ServiceName> {
        match &change.what {
            What::Instance { before, after } => {
                after.iter().chain(before).take(1).map(|instance| instance.key.service.clone()).collect()
            }
            What::Host { before, after } => {
                let name = after.as_ref().or(before.as_ref()).map(|host| &host.name);
                let keys = name.and_then(|name| self.on_host.get(name));
                let keys = keys.into_iter().flat_map(Sorted::iter);
                let left = name.and_then(|name| self.left_on.get(name)).into_iter().flatten();
                let services = keys.chain(left).map(|key| &key.service);
                let services: BTreeSet<_> = services.cloned().collect();
                services.into_iter().collect()
            }
            What::Forgotten { key } => vec![key.service.clone()],
            What::Settings { service, .. } | What::Guard { service, .. } => vec![service.clone()],
            What::Token { .. } | What::Plain { .. } => Vec::new(),
        }
    }
}

pub(super) fn leave(instance: &Arc<Instance>) -> What {
    What::Instance { before: Some(instance.clone()), after: None }
}

pub(super) fn become_(before: &Arc<Instance>, after: Instance) -> What {
    What::Instance { before: Some(before.clone()), after: Some(Arc::new(after)) }
}
