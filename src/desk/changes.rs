//! Requests of the registration protocol that change something: the command that each is, and the reply when it is carried out.

use super::Desk;
use super::registered::registered;
use crate::access::Token;
use crate::instance::Key;
use crate::name::ServiceName;
use crate::protocol::moving::{ImportForm, ImportedForm};
use crate::protocol::{
    CreateForm, DeregisteredForm, NameForm, NamedForm, Peer, Problem, RegisterForm, Reply, ReportedForm,
    Request, Secret, TokenForm, TokenShown, token_name,
};
use crate::registry::{Command, Import, Refusal, Report};
use crate::writer::Done;

/// What a command was, as far as its reply needs it.
pub enum Sent {
    Register(Key),
    Deregister(Key),
    Drain(Key),
    Report(Report),
    Settings(ServiceName),
    Import,
    CreateToken(Box<TokenShown>),
    RevokeToken(String),
    Heartbeat(Key),
}

impl Desk {
    /// What a request changes; `None` where it changes nothing, or is a heartbeat: see [`Desk::renew`].
    ///
    /// # Errors
    ///
    /// The request is not right.
    pub fn command(&self, request: &Request<'_>, peer: &Peer) -> Result<Option<(Sent, Command)>, Problem> {
        let own = &peer.host;
        Ok(Some(match request {
            Request::Register(form) => self.register(form, peer)?,
            Request::Deregister(form) => {
                let holder = form.holder(own)?;
                (Sent::Deregister(holder.key.clone()), Command::Deregister(holder))
            }
            Request::Drain(form) => {
                let holder = form.holder(own)?;
                (Sent::Drain(holder.key.clone()), Command::Drain(holder))
            }
            Request::Report(form) => {
                let report = form.report(own)?;
                (Sent::Report(report.clone()), Command::Report(report))
            }
            Request::Settings(form) => match form.configuration(&self.view.settings.apexes)? {
                (service, Some(configuration)) => {
                    (Sent::Settings(service), Command::Configure(configuration))
                }
                (_, None) => return Ok(None),
            },
            Request::Token(TokenForm::Create(form)) => self.create(form)?,
            Request::Token(TokenForm::Revoke(form)) => {
                let name = token_name(&form.name)?;
                (Sent::RevokeToken(name.to_string()), Command::RevokeToken(name))
            }
            Request::Import(form) => match self.import(form)? {
                Some(import) => (Sent::Import, Command::Import(Box::new(import))),
                None => return Ok(None),
            },
            _ => return Ok(None),
        }))
    }

    /// The reply to who sent a command that is carried out.
    pub fn done(&self, sent: Sent, done: &Done) -> Reply {
        let (existed, revision) = (!done.changes.is_empty(), done.revision);
        match sent {
            Sent::Register(_) => match done.registered() {
                Some((before, instance)) => {
                    let before = before.map(AsRef::as_ref);
                    Reply::Registered(Box::new(registered(&self.view, before, instance, revision)))
                }
                None => Reply::Error(Problem::stopping()),
            },
            Sent::Deregister(key) => Reply::Deregistered(DeregisteredForm::of(&key, existed, revision)),
            Sent::Drain(key) => Reply::Draining(NamedForm::of(&key, revision)),
            Sent::Import => self.imported(existed, revision),
            Sent::Settings(service) => self.settings(&service, revision),
            Sent::CreateToken(shown) => Reply::Created(shown),
            Sent::RevokeToken(name) => Reply::Revoked(NameForm { name }),
            Sent::Heartbeat(key) => match self.view.member(&key) {
                Some(member) => self.renewed(&key, member.instance.lease),
                None => Reply::Error(Refusal::NotFound(key).into()),
            },
            Sent::Report(report) => Reply::Reported(ReportedForm::of(&report, revision)),
        }
    }

    /// Whoever followed the other registry's serial follows ours.
    pub(super) async fn raise(&self, above: u32) -> Result<Reply, Problem> {
        let raised = self.writer.raise(above).await.map_err(|_| Problem::stopping())??;
        Ok(self.imported(raised.changed, raised.revision))
    }

    fn register(&self, form: &RegisterForm, peer: &Peer) -> Result<(Sent, Command), Problem> {
        let registration = form.registration(peer, u64::from_be_bytes(self.random()?))?;
        Ok((Sent::Register(registration.key.clone()), Command::Register(Box::new(registration))))
    }

    fn create(&self, form: &CreateForm) -> Result<(Sent, Command), Problem> {
        let (number, secret, now) = (self.random()?, self.random()?, self.clock.now().wall);
        let number = u64::from_be_bytes(number);
        let token = form.token(number, &secret, now)?;
        let text = Some(Secret(Token::text(number, &secret)));
        let shown = TokenShown { token: text, ..TokenShown::of(&token, now) };
        Ok((Sent::CreateToken(Box::new(shown)), Command::CreateToken(token.into())))
    }

    fn import(&self, form: &ImportForm) -> Result<Option<Import>, Problem> {
        let random = u64::from_be_bytes(self.random()?);
        let apexes = &self.view.settings.apexes;
        let what = form.line.imported(apexes, self.loopback_allowed, random, self.clock.now())?;
        Ok(what.map(|what| Import { what, how: form.how.into() }))
    }

    fn imported(&self, changed: bool, revision: u64) -> Reply {
        Reply::Imported(ImportedForm { changed, revision, serial: self.view.serial_of(revision) })
    }

    fn random<const N: usize>(&self) -> Result<[u8; N], Problem> {
        let mut octets = [0; N];
        (self.chance)(&mut octets).map_err(|error| {
            Problem::new("unavailable", format!("no random number from the kernel: {error}; try again"))
        })?;
        Ok(octets)
    }
}
