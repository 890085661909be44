//! The answer of another service, while a service has nothing live.

use std::sync::Arc;

use super::Live;
use crate::answer::Found;
use crate::instance::Fallback;
use crate::name::Name;
use crate::record::Type;
use crate::view::ServiceView;

/// Services looked at for one question: each of them may have failover of its own, and a list may be named on many ways.
const TRIED_MAX: usize = 32;

/// Who answers instead.
enum Instead {
    Service(Arc<ServiceView>),
    Name(Name),
}

impl Live<'_> {
    /// What the service has, or in its stead the first of its failover that is live.
    pub(super) fn or_instead(&self, service: &ServiceView, find: impl Fn(&ServiceView) -> Found) -> Found {
        let own = find(service);
        let fits =
            matches!(self.qtype, Type::A | Type::AAAA | Type::CNAME | Type::SRV | Type::SVCB | Type::HTTPS);
        // What is there for one type is there for all of them (RFC 2308 section 5).
        if !fits {
            return self.or_there(service, own);
        }
        if !service.fails_over() || !matches!(own, Found::NoData(_) | Found::NoName(_)) {
            return own;
        }
        let says = |who: &str| self.ede(|| format!("{}: no live instance; {who} answers", service.name));
        match self.instead(service, &mut 0) {
            None => own,
            Some(Instead::Name(name)) => {
                self.alias(service.ttl, &name, says(name.to_string().trim_end_matches('.')))
            }
            Some(Instead::Service(next)) => match find(&next) {
                Found::Records(mut selection) => {
                    selection.ede = says(next.name.as_str());
                    Found::Records(selection)
                }
                Found::Alias(record, name, _) => Found::Alias(record, name, says(next.name.as_str())),
                // It is live, and has no such port, tag or address. The name is there, as it is the first one's.
                found => match (found, own) {
                    (Found::NoData(ede), _) => Found::NoData(ede),
                    (_, Found::NoName(ede) | Found::NoData(ede)) => Found::NoData(ede),
                    (_, own) => own,
                },
            },
        }
    }

    /// What the service has at a name. Where somebody answers in its stead the name is there in any case: of what is not live nobody
    /// knows which ports and tags it had.
    pub(super) fn or_there(&self, service: &ServiceView, own: Found) -> Found {
        let denied = matches!(own, Found::NoName(_)) && service.fails_over();
        if denied && self.instead(service, &mut 0).is_some() { self.no_data(service) } else { own }
    }

    /// True where the service that answers instead has this tag. Which ones there are elsewhere nobody knows here.
    pub(super) fn has_tag_instead(&self, service: &ServiceView, tag: &str) -> bool {
        let instead = if service.fails_over() { self.instead(service, &mut 0) } else { None };
        matches!(instead, Some(Instead::Service(next)) if next.tags.contains(tag))
    }

    fn instead(&self, service: &ServiceView, tried: &mut usize) -> Option<Instead> {
        for fallback in service.settings.fallbacks() {
            let next = match fallback {
                Fallback::Name(name) => return Some(Instead::Name(name.clone())),
                Fallback::Service(next) => self.view.service(next.as_str()),
            };
            *tried += 1;
            if *tried > TRIED_MAX {
                return None;
            }
            let Some(next) = next else { continue };
            if next.has_answers() {
                return Some(Instead::Service(next));
            }
            if let Some(instead) = self.instead(&next, tried) {
                return Some(instead);
            }
        }
        None
    }
}
