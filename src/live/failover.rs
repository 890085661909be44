//! The answer of another service, while a service has nothing live.

use std::sync::Arc;

use super::Live;
use crate::answer::Found;
use crate::instance::Fallback;
use crate::name::Name;
use crate::record::{Data, Type};
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
        let is_missing = match own {
            Found::NoData(_) => !service.has_answers(),
            // Of what is forgotten nobody knows which ports and tags it had.
            Found::NoName(_) => service.is_forgotten(),
            Found::Records(_) | Found::Alias(..) | Found::Renamed(..) | Found::Referral(..) => false,
        };
        let fits = matches!(self.qtype, Type::A | Type::AAAA | Type::SRV | Type::SVCB | Type::HTTPS);
        if !(is_missing && fits) {
            return own;
        }
        let says = |who: &str| self.ede(|| format!("{}: no live instance; {who} answers", service.name));
        match self.instead(service, &mut 0) {
            None => own,
            Some(Instead::Name(name)) => {
                let record = self.record(service.ttl, Data::Cname(name.clone()));
                Found::Alias(record, name.clone(), says(name.to_string().trim_end_matches('.')))
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
