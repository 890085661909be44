//! Questions about the past: the log of changes, and who was there at a time.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Desk, unreadable};
use crate::instance::{Instance, Key};
use crate::name::ServiceName;
use crate::protocol::{
    AtForm, ChangeForm, InstanceForm, InstancesForm, LIST_MAX, LogForm, LogPage, Problem, Reply,
};
use crate::registry::{Change, What};
use crate::time::parse_time;

/// Changes looked at for one page of the log: a rare service is found over several requests.
const LOOKED_AT_MAX: usize = 20_000;

impl Desk {
    /// Changes of a service or an instance, newest first.
    pub fn log(&self, form: &LogForm) -> Result<Reply, Problem> {
        let service = service(form.service.as_deref())?;
        let most =
            form.most.map_or(LIST_MAX, |most| usize::try_from(most).unwrap_or(LIST_MAX)).clamp(1, LIST_MAX);
        let wanted = |change: &Change| {
            let key = key_of(change);
            service.as_ref().is_none_or(|service| service_of(change) == Some(service))
                && form.id.as_deref().is_none_or(|id| key.is_some_and(|key| key.id.as_str() == id))
        };
        let now = self.clock.now();
        let (mut changes, mut before, mut looked_at) = (Vec::new(), form.before.unwrap_or(u64::MAX), 0);
        while changes.len() < most && looked_at < LOOKED_AT_MAX {
            let page = self.history.before(before, LIST_MAX).map_err(unreadable)?;
            let Some(last) = page.last() else { return Ok(Reply::Log(LogPage { changes, next: None })) };
            before = last.revision;
            looked_at += page.len();
            for change in page.iter().filter(|change| wanted(change)) {
                changes.push(ChangeForm::of(change, change.health_alone(), now));
                if changes.len() == most {
                    before = change.revision;
                    break;
                }
            }
        }
        Ok(Reply::Log(LogPage { changes, next: Some(before) }))
    }

    /// The instances of a service at a time: those of now, with what changed since undone.
    pub fn at(&self, form: &AtForm) -> Result<Reply, Problem> {
        let now = self.clock.now();
        let time = parse_time(&form.time, now.wall).ok_or_else(|| {
            Problem::invalid("time", "must be such as 2026-11-21T15:04:05Z, or 10m for ten minutes ago")
        })?;
        let name = service(Some(&form.service))?;
        let view = name.as_ref().and_then(|name| self.view.service(name.as_str()));
        let mut then: BTreeMap<Key, Arc<Instance>> = BTreeMap::new();
        for member in view.iter().flat_map(|service| &service.members) {
            then.insert(member.instance.key.clone(), member.instance.clone());
        }
        let mut before = u64::MAX;
        let mut revision = self.view.revision();
        'history: loop {
            let page = self.history.before(before, LIST_MAX).map_err(unreadable)?;
            let Some(last) = page.last() else {
                if self.history.is_whole() {
                    break;
                }
                let text = "the log does not reach back so far; `history-changes` and `history-age` say how much is kept";
                return Err(Problem { field: Some("time".to_owned()), ..Problem::new("compacted", text) });
            };
            before = last.revision;
            for change in &page {
                if change.at <= time {
                    break 'history;
                }
                revision = change.revision.saturating_sub(1);
                match (&change.what, key_of(change)) {
                    (What::Instance { before: Some(instance), .. }, Some(key))
                        if Some(&key.service) == name.as_ref() =>
                    {
                        then.insert(key.clone(), instance.clone());
                    }
                    (What::Instance { before: None, .. }, Some(key)) => drop(then.remove(key)),
                    _ => {}
                }
            }
        }
        let shown = |instance: &Arc<Instance>| {
            let health = instance.health();
            InstanceForm::of(instance, health, health.in_answers() && !instance.draining, now)
        };
        let instances = then.values().take(LIST_MAX).map(shown).collect();
        Ok(Reply::At(InstancesForm { instances, revision, next: None }))
    }
}

fn service(given: Option<&str>) -> Result<Option<ServiceName>, Problem> {
    given.map(|name| ServiceName::parse(name).map_err(|unfit| Problem::invalid("service", unfit))).transpose()
}

/// The service that a change is about, by itself or by one of its instances.
fn service_of(change: &Change) -> Option<&ServiceName> {
    match &change.what {
        What::Settings { service, .. } | What::Guard { service, .. } => Some(service),
        _ => key_of(change).map(|key| &key.service),
    }
}

fn key_of(change: &Change) -> Option<&Key> {
    match &change.what {
        What::Instance { before, after } => Some(&after.as_ref().or(before.as_ref())?.key),
        What::Forgotten { key } => Some(key),
        What::Host { .. }
        | What::Settings { .. }
        | What::Guard { .. }
        | What::Token { .. }
        | What::Plain { .. } => None,
    }
}
