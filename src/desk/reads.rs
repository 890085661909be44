//! Requests of the registration protocol that change nothing, answered from the view; and who may make one, whatever
//! brought it.

use std::sync::Arc;

use super::{Desk, page_of, place_of};
use crate::access::{Denied, Identity, On, Verb};
use crate::explain::{about, explain};
use crate::name::{InstanceId, ServiceName};
use crate::protocol::moving::Line;
use crate::protocol::{
    FilterForm, InstancesForm, KeyForm, LIST_MAX, LookupForm, NodeForm, Problem, Reply, Request, ServerForm,
    SettingsReply, SettingsShown, SignaturesForm, SignedForm, TokenForm, TokenShown, TokensForm,
};
use crate::sign::{Key, ZoneKeys};
use crate::view::Worth;

/// What is said to whoever asks over HTTP for what is not to be had there.
const NOT_HERE: &str = "this verb is for the registration socket; here are lookup, list, explain, log, at, \
                        availability, status, nodes, ring, settings, drain, deregister and report";

impl Desk {
    /// Whether what is only read may be; the writer asks about changes.
    pub fn permitted(&self, who: &Identity, request: &Request<'_>) -> Result<(), Denied> {
        let of_filter = |form: &FilterForm, verb| match &form.service {
            Some(service) => self.may(who, verb, On::Service(service)),
            None => self.may(who, verb, On::Everything),
        };
        let of =
            |service: Option<&str>, verb| self.may(who, verb, service.map_or(On::Everything, On::Service));
        match request {
            Request::Hello(_)
            | Request::Register(_)
            | Request::Heartbeat(_)
            | Request::Deregister(_)
            | Request::Drain(_)
            | Request::Report(_)
            | Request::Token(TokenForm::Create(_) | TokenForm::Revoke(_)) => Ok(()),
            Request::Settings(form) => of(Some(&form.service), Verb::Read),
            Request::Lookup(form) => of(form.service.as_deref(), Verb::Read),
            Request::List(form) => of_filter(form, Verb::Read),
            Request::Watch(form) => of_filter(form, Verb::Watch),
            Request::Explain(form) => of(about(&self.view, &form.name).as_deref(), Verb::Read),
            Request::Log(form) => of(form.service.as_deref(), Verb::Read),
            Request::At(form) => of(Some(&form.service), Verb::Read),
            Request::Availability(form) => of(form.service.as_deref(), Verb::Read),
            Request::Status(_) | Request::Nodes(_) | Request::Ring(_) => of(None, Verb::Read),
            Request::Feed(_) => of(None, Verb::Watch),
            Request::Backup(_)
            | Request::Export(_)
            | Request::Import(_)
            | Request::Token(TokenForm::List(_)) => of(None, Verb::Admin),
        }
    }

    pub(super) fn settings(&self, service: &ServiceName, revision: u64) -> Reply {
        let settings = SettingsShown::of(&self.view.settings_of(service));
        Reply::Settings(SettingsReply { service: service.to_string(), settings, revision })
    }

    pub fn tokens(&self) -> TokensForm {
        let (tokens, now) = (self.writer.tokens.borrow().all(), self.clock.now().wall);
        TokensForm { tokens: tokens.iter().map(|token| TokenShown::of(token, now)).collect() }
    }

    /// The reply to what changes nothing, or nothing but the serial, and needs no connection of its own.
    ///
    /// # Errors
    ///
    /// The request is not right, or is none of these: what it changes has to be asked of [`Desk::command`] first.
    pub async fn read(&self, request: &Request<'_>) -> Result<Reply, Problem> {
        match request {
            Request::Lookup(form) => self.lookup(form),
            Request::List(form) => self.list(form),
            Request::Explain(form) => {
                self.search(|| explain(&self.view, &form.name).map(Reply::Explained)).await?
            }
            Request::Log(form) => self.search(|| self.log(form)).await?,
            Request::At(form) => self.search(|| self.at(form)).await?,
            Request::Availability(form) => self.search(|| self.availability(form)).await?,
            Request::Status(_) => Ok(self.status()),
            Request::Nodes(_) => Ok(Reply::Nodes(self.nodes().await)),
            Request::Ring(form) => self.ring(form).map(Reply::Ring),
            Request::Token(TokenForm::List(_)) => Ok(Reply::Tokens(self.tokens())),
            Request::Settings(form) => {
                let (service, _) = form.configuration(&self.view.settings.apexes)?;
                Ok(self.settings(&service, self.view.revision()))
            }
            Request::Import(form) => match &form.line {
                Line::Callsign(head) => self.raise(head.serial).await,
                _ => Err(Problem::invalid("line", "is the end of an export, and says nothing")),
            },
            Request::Hello(_)
            | Request::Register(_)
            | Request::Heartbeat(_)
            | Request::Deregister(_)
            | Request::Drain(_)
            | Request::Report(_)
            | Request::Token(TokenForm::Create(_) | TokenForm::Revoke(_))
            | Request::Watch(_)
            | Request::Feed(_)
            | Request::Backup(_)
            | Request::Export(_) => Err(Problem::new("unknown_verb", NOT_HERE)),
        }
    }

    fn lookup(&self, form: &LookupForm) -> Result<Reply, Problem> {
        let id = InstanceId::parse(&form.id).map_err(|unfit| Problem::invalid("id", unfit))?;
        let mut members = self.view.by_id(&id);
        members.retain(|member| {
            let key = &member.instance.key;
            form.service.as_deref().is_none_or(|service| key.service.as_str().eq_ignore_ascii_case(service))
                && form.host.as_deref().is_none_or(|host| key.host.as_str().eq_ignore_ascii_case(host))
        });
        if members.is_empty() {
            let known = form.service.as_deref().filter(|service| self.view.service(service).is_some());
            let list = known.map(|service| format!("callsign ls {service}"));
            let list = list.as_deref().unwrap_or("callsign ls");
            let mut problem =
                Problem::new("not_found", format!("no instance has the id `{id}`; `{list}` lists them"));
            problem.field = Some("id".to_owned());
            return Err(problem);
        }
        let instances = page_of(&members).iter().map(|member| self.shown(member)).collect();
        Ok(Reply::Found(InstancesForm { instances, revision: self.view.revision(), next: None }))
    }

    fn list(&self, form: &FilterForm) -> Result<Reply, Problem> {
        if form.since.is_some() {
            return Err(Problem::invalid("since", "is for `watch`; a list is of now"));
        }
        let filter = form.filter()?;
        let after = match form.after.as_deref().map(|after| after.split_once('/')) {
            None => None,
            Some(Some(place)) => Some(place),
            Some(None) => return Err(Problem::invalid("after", "must be the `next` of the reply before")),
        };
        let most = form.most.map_or(LIST_MAX, |most| usize::try_from(most).unwrap_or(LIST_MAX));
        let revision = self.view.revision();
        let (members, more) = self.view.list(&filter, after, most.clamp(1, LIST_MAX));
        let page = page_of(&members);
        let next = page.last().filter(|_| more || page.len() < members.len()).map(place_of);
        let instances = page.iter().map(|member| self.shown(member)).collect();
        Ok(Reply::Instances(InstancesForm { instances, revision, next }))
    }

    fn status(&self) -> Reply {
        let now = self.clock.now();
        let is_loaded = self.view.worth() != Worth::Nothing;
        let (census, guarded) = (self.view.census(), self.view.guarded());
        let signed: Vec<SignedForm> =
            self.view.all_keys().iter().map(|keys| signed(keys, now.wall.unix_s())).collect();
        let signatures = (!signed.is_empty()).then(|| SignaturesForm {
            made: self.signing.made.read(),
            kept: self.view.signatures_kept() as u64,
            put_off: self.signing.put_off.read(),
        });
        Reply::Status(Box::new(ServerForm {
            ready: self.view.is_ready(),
            store_trouble: self.view.store_trouble().map(|trouble| trouble.to_string()),
            // Before the registry is loaded there are no answers of before.
            stale_s: self.view.stale_for(now).filter(|_| is_loaded).map(|stale| stale.as_secs()),
            guarded: guarded.names().take(LIST_MAX).map(|name| name.to_string()).collect(),
            nodes: self.view.nodes().iter().map(NodeForm::of).collect(),
            zones: self.view.zones().all().map(|zone| zone.apex.to_string()).collect(),
            zone_troubles: self.view.zone_troubles().iter().map(|trouble| trouble.to_string()).collect(),
            signed,
            signatures,
            services: census.services,
            instances: census.instances(),
            live: census.live,
            revision: self.view.revision(),
            serial: self.view.serial(),
            uptime_s: now.mono_ns / 1_000_000_000,
            ..self.server.clone()
        }))
    }
}

fn signed(keys: &ZoneKeys, now_s: u64) -> SignedForm {
    let form = |key: &Arc<Key>| KeyForm {
        tag: key.tag,
        stage: key.times.stage(now_s).as_str().to_owned(),
        age_s: now_s.saturating_sub(key.times.created),
    };
    SignedForm { zone: keys.apex.to_string(), keys: keys.keys().map(form).collect() }
}
