//! What becomes of a thing that another registry has: it is put in as it was there, owner, lease and times too.
//!
//! What is the same already is no change, so that an import may be said again; and what is here otherwise stays, unless
//! the import may change it.

use std::sync::Arc;

use super::apply::become_;
use super::{Configuration, How, Import, Imported, Reason, Refusal, Registry, What, leave};
use crate::access::{Owner, TOKENS_MAX, Token};
use crate::check::Check;
use crate::instance::{Extras, Host, Instance, Lease, ServiceSettings};
use crate::name::ServiceName;
use crate::update;

/// The member of a host's metadata that says where the host was imported from. An instance has a source for that.
pub const IMPORTED_FROM: &str = "imported-from";

impl Registry {
    pub(super) fn check_import(&self, import: &Import) -> Result<Vec<(Reason, What)>, Refusal> {
        match &import.what {
            Imported::Instance(instance) => self.import_instance(instance, import.how),
            Imported::Host(host) => self.import_host(host, import.how),
            Imported::Settings(service, settings) => self.import_settings(service, settings, import.how),
            Imported::Token(token) => self.import_token(token, import.how),
            // As of an UPDATE: `update::asked` knows it.
            Imported::Records(_) => Err(Refusal::Update(update::Refused::not_here())),
        }
    }

    fn import_instance(&self, given: &Instance, how: How) -> Result<Vec<(Reason, What)>, Refusal> {
        let key = &given.key;
        let before = self.instance(key);
        if how == How::Remove {
            return match before {
                Some(before) if before.source == given.source => {
                    Ok(vec![(Reason::Deregistered, leave(before))])
                }
                Some(_) => Err(Refusal::Differs(key.to_string())),
                None => Ok(Vec::new()),
            };
        }
        if let Some(by) = self.taken.get(&key.service) {
            return Err(Refusal::Taken { name: key.service.clone(), by: by.clone() });
        }
        // What an UPDATE registered there has its records here as it had them there.
        if !given.owner.as_deref().is_some_and(Owner::is_key) {
            self.check_plain(key, before.is_none(), &given.tags, &given.ports)?;
        }
        let Some(before) = before else {
            if self.instances >= self.instances_max {
                return Err(Refusal::Full { limit: self.instances_max });
            }
            let label = match self.has_label(key, &given.label) {
                true => self.free_label(key),
                false => given.label.clone(),
            };
            let new = Instance { key: self.shared(key), label, created: 0, revision: 0, ..given.clone() };
            let what = What::Instance { before: None, after: Some(Arc::new(new)) };
            return Ok(vec![(Reason::Registered, what)]);
        };
        let (key, label, created) = (before.key.clone(), before.label.clone(), before.created);
        let mut after = Instance { key, label, created, revision: 0, ..given.clone() };
        if let (Lease::Connection(_), Lease::Connection(_)) = (before.lease, after.lease) {
            // Its holder is here: no word from elsewhere cuts the connection.
            (after.lease, after.deadline) = (before.lease, before.deadline.clone());
        }
        if how == How::Update {
            after = updated(before, after);
        }
        if before.says_same(&after) && before.owner == after.owner {
            return Ok(Vec::new());
        }
        let may = match how {
            How::Replace => true,
            How::Update => before.source.is_some() && before.source == after.source,
            How::Add | How::Remove => false,
        };
        match may {
            true => Ok(vec![(Reason::Registered, become_(before, after))]),
            false => Err(Refusal::Differs(given.key.to_string())),
        }
    }

    fn import_host(&self, given: &Host, how: How) -> Result<Vec<(Reason, What)>, Refusal> {
        let before = self.hosts.get(&given.name);
        let mark = |host: &Host| host.meta.get(IMPORTED_FROM).cloned();
        let differs = || Err(Refusal::Differs(format!("the host {}", given.name)));
        let Some(before) = before else {
            if how == How::Remove {
                return Ok(Vec::new());
            }
            self.host_or_new(&given.name)?; // there may only be so many
            let after = Host { created: 0, revision: 0, ..given.clone() };
            return Ok(vec![(Reason::Registered, What::Host { before: None, after: Some(Arc::new(after)) })]);
        };
        let is_of_it = mark(before) == mark(given);
        if how == How::Remove {
            return match is_of_it {
                true => {
                    Ok(vec![(Reason::Deregistered, What::Host { before: Some(before.clone()), after: None })])
                }
                false => differs(),
            };
        }
        let mut after = Host { created: before.created, revision: before.revision, ..given.clone() };
        if how == How::Update {
            after.checks = known_checks(&before.checks, after.checks);
        }
        if before.says_same(&after) {
            return Ok(Vec::new());
        }
        let may = how == How::Replace || (how == How::Update && is_of_it && mark(before).is_some());
        let what = What::Host { before: Some(before.clone()), after: Some(Arc::new(after)) };
        if may { Ok(vec![(Reason::Registered, what)]) } else { differs() }
    }

    fn import_settings(
        &self,
        service: &ServiceName,
        given: &ServiceSettings,
        how: How,
    ) -> Result<Vec<(Reason, What)>, Refusal> {
        let given = if how == How::Remove { ServiceSettings::default() } else { given.clone() };
        let before = self.settings(service);
        if matches!(how, How::Add | How::Update) && before != given && before != ServiceSettings::default() {
            return Err(Refusal::Differs(format!("the settings of {service}")));
        }
        self.check_configure(&Configuration { service: service.clone(), reset: true, given })
    }

    fn import_token(&self, given: &Arc<Token>, how: How) -> Result<Vec<(Reason, What)>, Refusal> {
        let before = self.tokens.by_name(&given.name).cloned();
        let after = (how != How::Remove).then(|| given.clone());
        match (&before, how) {
            (None, How::Remove) => return Ok(Vec::new()),
            (Some(before), How::Remove) => {
                let what = What::Token { before: Some(before.clone()), after: None };
                return Ok(vec![(Reason::Revoked, what)]);
            }
            (Some(before), _) if before == given => return Ok(Vec::new()),
            (Some(_), How::Add | How::Update) => {
                return Err(Refusal::Differs(format!("the token {}", given.name)));
            }
            (None, _) if self.tokens.len() >= TOKENS_MAX => return Err(Refusal::TooManyTokens),
            _ => {}
        }
        // A number is found by itself: two tokens of one would be one.
        if let Some(other) = self.tokens.by_number(given.number).filter(|other| other.name != given.name) {
            return Err(Refusal::TokenExists(other.name.clone()));
        }
        Ok(vec![(Reason::Granted, What::Token { before, after })])
    }
}

/// What is told of an instance again and again: who holds it, whose it is and since when things are so stays.
fn updated(before: &Instance, given: Instance) -> Instance {
    let checks = known_checks(&before.checks, given.checks.clone());
    let same = before.health() == given.health() && before.draining == given.draining;
    Instance {
        lease_id: before.lease_id,
        owner: before.owner.clone(),
        registered: before.registered,
        since: if same { before.since } else { given.since },
        extras: Extras { checks, ..(*given).clone() }.kept(),
        ..given
    }
}

/// The same status again in other words is no change, as with a report.
fn known_checks(known: &[Check], given: Vec<Check>) -> Vec<Check> {
    let same = |check: &Check| {
        let same = |known: &&Check| {
            (&known.id, known.status, &known.definition) == (&check.id, check.status, &check.definition)
        };
        known.iter().find(same).cloned()
    };
    given.into_iter().map(|check| same(&check).unwrap_or(check)).collect()
}
