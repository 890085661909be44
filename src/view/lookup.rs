//! What queries, lists and pages ask of a view.

use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::View;
use super::census::Census;
use super::directory::Directory;
use super::keys::Keys;
use super::service::ServiceView;
use super::spans::Spans;
use crate::grammar::reverse::Prefix;
use crate::grammar::{self, Owner};
use crate::instance::{Host, Key, ServiceSettings};
use crate::member::Member;
use crate::name::{Apex, HostName, InstanceId, Name, ServiceName};
use crate::protocol::Filter;

impl View {
    /// Every service as it is now: the whole zone at one revision, where nobody publishes meanwhile.
    pub fn all_services(&self) -> Vec<Arc<ServiceView>> {
        self.services.pin().values().cloned().collect()
    }

    /// Every host that was spoken of.
    pub fn all_hosts(&self) -> Vec<Arc<Host>> {
        self.hosts.pin().values().cloned().collect()
    }

    /// As `service`, for as long as `look` looks: nothing is counted that another core counts too.
    pub fn with_service<T>(&self, name: &str, look: impl FnOnce(Option<&ServiceView>) -> T) -> T {
        look(self.services.pin().get(name).map(|service| &**service))
    }

    pub fn service(&self, name: &str) -> Option<Arc<ServiceView>> {
        self.services.pin().get(name).cloned()
    }

    /// What is set for a service; nothing where nobody did.
    pub fn settings_of(&self, service: &ServiceName) -> ServiceSettings {
        self.configured.pin().get(service).cloned().unwrap_or_default()
    }

    /// The TTL of a service's records in seconds, before leases shorten it.
    pub fn ttl(&self, service: &ServiceName) -> u32 {
        self.configured.pin().get(service).and_then(|settings| settings.ttl).unwrap_or(self.settings.ttl)
    }

    /// True where some service knows the tag.
    pub fn has_tag(&self, label: &str) -> bool {
        self.tags.pin().contains_key(label)
    }

    pub fn directory(&self) -> Arc<Directory> {
        self.directory.load_full()
    }

    /// What there is now; it costs nothing to ask.
    pub fn census(&self) -> Census {
        **self.census.load()
    }

    /// The services that a guard has now.
    pub fn guarded(&self) -> Arc<Directory> {
        self.guarded.load_full()
    }

    /// How often a guard began since this server started.
    pub fn guards(&self) -> u64 {
        self.guards.load(Ordering::Relaxed)
    }

    /// The revision at which a reader of the service could see a difference last, known or not.
    pub fn modified(&self, service: &str) -> u64 {
        match self.service(service) {
            Some(view) => view.modified,
            None => self.extinct.pin().get(service).copied().unwrap_or(self.spans.gone()),
        }
    }

    /// The apex that `qname` is at or below, the longest where several fit.
    pub fn apex_of(&self, qname: &Name) -> Option<&Apex> {
        let within = self.settings.apexes.iter().filter(|apex| qname.is_within(apex.name()));
        within.max_by_key(|apex| apex.name().as_wire().len())
    }

    /// True where `name` is the servers' own: an apex, or what names a server below one.
    pub fn is_own(&self, name: &Name) -> bool {
        let lower = name.to_lowercase();
        let labels = self.apex_of(&lower).and_then(|apex| lower.labels_below(apex.name()));
        let owner = labels.as_deref().and_then(grammar::parse);
        matches!(owner, Some(Owner::Apex | Owner::NameServer(_) | Owner::Registration(_)))
    }

    /// A registered instance by its key.
    pub fn member(&self, key: &Key) -> Option<Member> {
        let service = self.service(key.service.as_str())?;
        service.by_key(key).cloned()
    }

    /// The services that would lose the last of their answers with these instances. One alone is no bulk: whoever takes
    /// it out knows which it is.
    pub fn emptied_without(&self, keys: &BTreeSet<Key>) -> BTreeSet<ServiceName> {
        if keys.len() < 2 {
            return BTreeSet::new();
        }
        let services: BTreeSet<&ServiceName> = keys.iter().map(|key| &key.service).collect();
        let is_emptied = |name: &&ServiceName| {
            self.service(name.as_str()).is_some_and(|service| {
                service.has_answers()
                    && service.in_answers().all(|member| keys.contains(&member.instance.key))
            })
        };
        services.into_iter().filter(is_emptied).cloned().collect()
    }

    /// Every instance with this id.
    pub fn by_id(&self, id: &InstanceId) -> Vec<Member> {
        self.members_of(self.ids.sorted(id))
    }

    /// Every instance on this host.
    pub fn on_host(&self, host: &HostName) -> Vec<Member> {
        let keys = self.on_host.pin().get(host).cloned().unwrap_or_default();
        self.members_of(keys.iter())
    }

    /// What was said of a host; one that is only known by its instances is as new.
    pub fn host(&self, name: &HostName) -> Option<Arc<Host>> {
        let said = self.hosts.pin().get(name).cloned();
        said.or_else(|| self.on_host.pin().contains_key(name).then(|| Arc::new(Host::new(name.clone()))))
    }

    /// True where some host's name has further labels in front of this one.
    pub fn has_host_below(&self, name: &str) -> bool {
        self.above_hosts.pin().contains_key(name)
    }

    /// Every host that was spoken of or has instances, in order.
    pub fn hosts(&self) -> Vec<HostName> {
        let (said, with_instances) = (self.hosts.pin(), self.on_host.pin());
        let names: BTreeSet<&HostName> = said.keys().chain(with_instances.keys()).collect();
        names.into_iter().cloned().collect()
    }

    /// The revisions of what spans services.
    pub fn spans(&self) -> &Spans {
        &self.spans
    }

    /// True where some instance has an address in the networks with names that begins so.
    pub fn has_address_below(&self, prefix: &Prefix) -> bool {
        self.above_addresses.pin().contains_key(prefix)
    }

    /// Every instance at this address, which is in the networks with names.
    pub fn by_address(&self, address: &IpAddr) -> Vec<Member> {
        self.members_of(self.addresses.pin().get(address).map(Keys::sorted).unwrap_or_default())
    }

    fn members_of(&self, keys: impl IntoIterator<Item = impl Borrow<Key>>) -> Vec<Member> {
        keys.into_iter().filter_map(|key| self.member(key.borrow())).collect()
    }

    /// True where an address is in the networks with names.
    pub(super) fn has_name(&self, address: &IpAddr) -> bool {
        self.settings.reverse.iter().any(|network| network.contains(address))
    }

    /// The instances that match, in order of service and label, `after` a place in that order, `most` of them;
    /// and whether there are more.
    pub fn list(&self, filter: &Filter, after: Option<(&str, &str)>, most: usize) -> (Vec<Member>, bool) {
        let mut found = Vec::new();
        let matching = |service: &ServiceView, found: &mut Vec<Member>| -> bool {
            for member in &service.members {
                let place = (service.name.as_str(), member.instance.label.as_str());
                if after.is_some_and(|after| place <= after)
                    || !filter.matches(&member.instance, member.health)
                {
                    continue;
                }
                if found.len() == most {
                    return true;
                }
                found.push(member.clone());
            }
            false
        };
        if let Some(name) = &filter.service {
            let more = self.service(name.as_str()).is_some_and(|service| matching(&service, &mut found));
            return (found, more);
        }
        if let Some(address) = filter.address.as_ref().filter(|address| self.has_name(address)) {
            let mut members = self.by_address(address);
            members.sort_by(|a, b| {
                (&a.instance.key.service, &a.instance.label)
                    .cmp(&(&b.instance.key.service, &b.instance.label))
            });
            members.retain(|member| {
                let place = (member.instance.key.service.as_str(), member.instance.label.as_str());
                after.is_none_or(|after| place > after) && filter.matches(&member.instance, member.health)
            });
            let more = members.len() > most;
            members.truncate(most);
            return (members, more);
        }
        let directory = self.directory();
        let from = after.map_or("", |(service, _)| service);
        for name in directory.names_from(from) {
            if let Some(service) = self.service(name.as_str())
                && matching(&service, &mut found)
            {
                return (found, true);
            }
        }
        (found, false)
    }
}
