//! What the writer does to a view: changes that the registry holds become what queries see.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::View;
use super::census::Census;
use super::directory::Directory;
use super::keys::{add_key, count, remove_key};
use super::service::ServiceView;
use crate::grammar::reverse::Prefix;
use crate::instance::{Host, Instance};
use crate::name::{HostName, Label, ServiceName};
use crate::registry::{Change, Registry, What};

/// Services that left and whose last revision is known: what a client that still asks for them is told.
const EXTINCT_MAX: usize = 10_000;

impl View {
    /// Makes `changes`, which `registry` holds already, visible to queries.
    ///
    /// Returns the services whose view is another one now, in order.
    pub fn publish(&self, registry: &Registry, changes: &[Change]) -> Vec<ServiceName> {
        let mut touched: Vec<ServiceName> =
            changes.iter().flat_map(|change| registry.touched(change)).collect();
        touched.sort_unstable();
        touched.dedup();
        let mut seen: HashMap<ServiceName, u64> = HashMap::new();
        let mut hosts: HashMap<&HostName, u64> = HashMap::new();
        for change in changes {
            match &change.what {
                What::Instance { before, after } => {
                    self.index_instance(before.as_ref(), after.as_ref());
                    if let (Some(one), None) | (None, Some(one)) = (before, after) {
                        hosts.insert(&one.key.host, change.revision);
                    }
                }
                What::Host { before, after } => self.index_host(before.as_ref(), after.as_ref()),
                What::Settings { service, after, .. } => {
                    self.configured.pin().insert(service.clone(), after.clone());
                }
                What::Guard { after, .. } => {
                    self.guards.fetch_add(u64::from(after.is_some()), Ordering::Relaxed);
                }
                What::Forgotten { .. } | What::Token { .. } | What::Plain { .. } => {}
            }
            self.spans.note(change);
            if change.is_seen() {
                seen.extend(registry.touched(change).into_iter().map(|name| (name, change.revision)));
            }
        }
        for (host, revision) in hosts {
            self.index_on_host(registry, host, revision);
        }
        // What becomes an instance stays a plain record until the instance is there, and the other way round.
        let planted = |come: bool| {
            changes.iter().filter_map(move |change| match &change.what {
                What::Plain { before, after } if after.is_some() == come => {
                    after.as_ref().or(before.as_ref())
                }
                _ => None,
            })
        };
        self.plant(registry, planted(true));
        let mut directory = Directory::clone(&self.directory.load());
        let (mut census, mut listed) = (self.census(), false);
        for name in &touched {
            let seen = seen.get(name).copied();
            listed |= self.publish_service(registry, name, seen, &mut directory, &mut census);
        }
        self.plant(registry, planted(false));
        if listed {
            self.directory.store(Arc::new(directory));
        }
        self.census.store(Arc::new(census));
        // Last: who sees the new serial sees what it counts.
        self.revision.store(registry.revision(), Ordering::Release);
        touched
    }

    /// Makes the whole of `registry` visible: after a restart.
    pub fn publish_all(&self, registry: &Registry) {
        // Room at once: growing by doubling would move everything many times.
        self.ids.reserve(registry.instances());
        self.services.pin().reserve(registry.services().count());
        for (service, settings) in registry.all_settings() {
            self.configured.pin().insert(service.clone(), settings.clone());
        }
        for host in registry.hosts() {
            self.index_host(None, Some(host));
        }
        for (_, service) in registry.services() {
            for member in &service.members {
                self.index_instance(None, Some(&member.instance));
            }
        }
        for (host, _) in registry.all_on_hosts() {
            self.index_on_host(registry, host, 0);
        }
        // Who waited for a revision before the restart is told that this is another one.
        let revision = registry.revision();
        self.spans.restart(revision);
        self.started.store(revision, Ordering::Relaxed);
        self.plant(registry, registry.plain().all());
        let failing_over = registry.all_settings().filter(|(_, settings)| !settings.fallbacks().is_empty());
        let names = registry.services().map(|(name, _)| name).chain(failing_over.map(|(name, _)| name));
        let mut names: Vec<ServiceName> = names.cloned().collect();
        names.sort_unstable();
        names.dedup();
        self.directory.store(Arc::new(Directory::of(&names)));
        let (none, mut census) = (BTreeSet::new(), Census::default());
        let services = self.services.pin();
        for name in names {
            if let Some(view) = ServiceView::of(&name, registry, self.settings.ttl, revision, None) {
                self.count_tags(&none, &view.tags);
                self.index_guard(&name, false, view.guard().is_some());
                census.replace(None, Some(&view));
                services.insert(name, Arc::new(view));
            }
        }
        self.census.store(Arc::new(census));
        self.revision.store(registry.revision(), Ordering::Release);
    }

    /// `seen` is the revision at which readers see a difference, where they do. True where the directory is another
    /// one now.
    fn publish_service(
        &self,
        registry: &Registry,
        name: &ServiceName,
        seen: Option<u64>,
        directory: &mut Directory,
        census: &mut Census,
    ) -> bool {
        let services = self.services.pin();
        let none = BTreeSet::new();
        let old = services.get(name).cloned();
        let modified = seen.or(old.as_ref().map(|old| old.modified)).unwrap_or(registry.revision());
        let new = ServiceView::of(name, registry, self.settings.ttl, modified, old.as_deref());
        let guarded = |view: Option<&ServiceView>| view.is_some_and(|view| view.guard().is_some());
        self.index_guard(name, guarded(old.as_deref()), guarded(new.as_ref()));
        census.replace(old.as_deref(), new.as_ref());
        match new {
            Some(view) => {
                let view = Arc::new(view);
                let listed = |view: &ServiceView| (!view.members.is_empty(), view.listed_tags.clone());
                if old.as_deref().map(listed).unwrap_or_default() != listed(&view) {
                    self.spans.names.fetch_max(modified, Ordering::AcqRel);
                }
                self.count_tags(old.as_deref().map_or(&none, |old| &old.tags), &view.tags);
                services.insert(name.clone(), view);
                if old.is_none() {
                    self.extinct.pin().remove(name);
                    directory.insert(name);
                }
                old.is_none()
            }
            None => {
                let Some(old) = old else { return false };
                services.remove(name);
                self.note_extinct(name, modified);
                self.count_tags(&old.tags, &none);
                directory.remove(name);
                true
            }
        }
    }

    fn note_extinct(&self, name: &ServiceName, modified: u64) {
        let extinct = self.extinct.pin();
        if extinct.len() >= EXTINCT_MAX {
            let latest = extinct.values().max().copied().unwrap_or(modified);
            self.spans.gone.fetch_max(latest.max(modified), Ordering::AcqRel);
            extinct.clear();
        }
        extinct.insert(name.clone(), modified);
    }

    fn index_host(&self, before: Option<&Arc<Host>>, after: Option<&Arc<Host>>) {
        match (before, after) {
            (_, Some(after)) => drop(self.hosts.pin().insert(after.name.clone(), after.clone())),
            (Some(before), None) => drop(self.hosts.pin().remove(&before.name)),
            (None, None) => {}
        }
        match (before, after) {
            (None, Some(after)) => self.count_above_host(&after.name, true),
            (Some(before), None) => self.count_above_host(&before.name, false),
            _ => {}
        }
    }

    /// Counts the names above a host's, when it is spoken of first, or last, or has its first or last instance.
    fn count_above_host(&self, host: &HostName, more: bool) {
        for (dot, _) in host.as_str().match_indices('.') {
            count(&self.above_hosts, Box::from(&host.as_str()[dot + 1..]), more);
        }
    }

    /// Counts the prefixes above an address that has a name, with its first instance and its last.
    fn count_above_address(&self, address: IpAddr, more: bool) {
        for prefix in Prefix::above(address) {
            count(&self.above_addresses, prefix, more);
        }
    }

    /// Notes where a guard began or ended.
    fn index_guard(&self, service: &ServiceName, before: bool, after: bool) {
        if before == after {
            return;
        }
        let mut guarded = Directory::clone(&self.guarded.load());
        match after {
            true => guarded.insert(service),
            false => guarded.remove(service),
        }
        self.guarded.store(Arc::new(guarded));
    }

    /// Takes over from the registry who is on a host, and notes where that is a host that was not, or is no more.
    fn index_on_host(&self, registry: &Registry, host: &HostName, revision: u64) {
        let index = self.on_host.pin();
        let was_there = match registry.on_host(host) {
            Some(keys) => index.insert(host.clone(), keys.clone()).is_some(),
            None => index.remove(host).is_some(),
        };
        let is_there = registry.on_host(host).is_some();
        if was_there != is_there {
            self.count_above_host(host, is_there);
            self.spans.hosts.fetch_max(revision, Ordering::AcqRel);
        }
    }

    fn index_instance(&self, before: Option<&Arc<Instance>>, after: Option<&Arc<Instance>>) {
        let named = |instance: Option<&Arc<Instance>>| -> Vec<IpAddr> {
            let addresses = instance.into_iter().flat_map(|instance| instance.addresses());
            addresses.filter(|address| self.has_name(address)).copied().collect()
        };
        let (old, new) = (named(before), named(after));
        let Some(key) = after.or(before).map(|instance| &instance.key) else { return };
        for address in new.iter().filter(|address| !old.contains(address)) {
            if add_key(&self.addresses, *address, key) {
                self.count_above_address(*address, true);
            }
        }
        for address in old.iter().filter(|address| !new.contains(address)) {
            if remove_key(&self.addresses, address, key) {
                self.count_above_address(*address, false);
            }
        }
        match (before, after) {
            (None, Some(_)) => self.ids.add(key),
            (Some(_), None) => self.ids.remove(key),
            _ => {}
        }
    }

    /// Counts the services that know each tag, when one service's tags change.
    fn count_tags(&self, old: &BTreeSet<Label>, new: &BTreeSet<Label>) {
        if std::ptr::eq(old, new) {
            return; // one set that both views share
        }
        for label in new.difference(old) {
            count(&self.tags, label.clone(), true);
        }
        for label in old.difference(new) {
            count(&self.tags, label.clone(), false);
        }
    }
}
