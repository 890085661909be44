//! Changes as the log has them.

use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::check::HostForm;
use super::instance::{InstanceForm, Near, OwnedForm, key};
use super::plain::{PlainForm, TokenForm};
use super::settings::{GuardForm, GuardedForm, SettingsForm, TtlForm};
use super::{Unreadable, damaged, read, reason, reason_number, write};
use crate::access::Token;
use crate::instance::{Host, Instance};
use crate::name::ServiceName;
use crate::registry::{Author, Change, PlainSet, What};
use crate::time::{Now, Wall};

#[derive(Serialize, Deserialize)]
pub(super) struct ChangeForm<'a> {
    revision: u64,
    at: i64,
    reason: u8,
    author: AuthorForm,
    #[serde(borrow)]
    what: WhatForm<'a>,
}

#[derive(Serialize, Deserialize)]
pub(super) enum AuthorForm {
    Server,
    User(u32),
    Address(SocketAddr),
    File(String),
    Token(String),
    Certificate(String),
    Key(String),
}

#[derive(Serialize, Deserialize)]
pub(super) enum WhatForm<'a> {
    Instance(#[serde(borrow)] Option<Box<InstanceForm<'a>>>, #[serde(borrow)] Option<Box<InstanceForm<'a>>>),
    Host(Option<HostForm>, Option<HostForm>),
    Forgotten {
        service: String,
        id: String,
        host: String,
    },
    /// Read, and no longer written.
    Ttl {
        service: String,
        before: TtlForm,
        after: TtlForm,
    },
    /// Read, and no longer written.
    Settings {
        service: String,
        before: SettingsForm,
        after: SettingsForm,
    },
    GuardedSettings {
        service: String,
        before: GuardedForm,
        after: GuardedForm,
    },
    Guard {
        service: String,
        before: Option<GuardForm>,
        after: Option<GuardForm>,
    },
    /// An instance that somebody owns, before or after.
    Owned(#[serde(borrow)] Option<Box<OwnedForm<'a>>>, #[serde(borrow)] Option<Box<OwnedForm<'a>>>),
    Token(Option<TokenForm>, Option<TokenForm>),
    Plain(Option<PlainForm>, Option<PlainForm>),
}

impl AuthorForm {
    pub(super) fn of(author: &Author) -> Self {
        match author {
            Author::Server => Self::Server,
            Author::User(uid) => Self::User(*uid),
            Author::Address(address) => Self::Address(*address),
            Author::File(path) => Self::File(path.to_string()),
            Author::Token(name) => Self::Token(name.to_string()),
            Author::Certificate(name) => Self::Certificate(name.to_string()),
            Author::Key(name) => Self::Key(name.to_string()),
        }
    }

    pub(super) fn author(self) -> Author {
        match self {
            Self::Server => Author::Server,
            Self::User(uid) => Author::User(uid),
            Self::Address(address) => Author::Address(address),
            Self::File(path) => Author::File(path.into()),
            Self::Token(name) => Author::Token(name.into()),
            Self::Certificate(name) => Author::Certificate(name.into()),
            Self::Key(name) => Author::Key(name.into()),
        }
    }
}

pub fn write_change(change: &Change) -> Vec<u8> {
    write(&ChangeForm {
        revision: change.revision,
        at: change.at.unix_ms,
        reason: reason_number(change.reason),
        author: AuthorForm::of(&change.author),
        what: match &change.what {
            What::Instance { before, after }
                if before.iter().chain(after).any(|instance| instance.owner.is_some()) =>
            {
                fn form(instance: &Option<Arc<Instance>>) -> Option<Box<OwnedForm<'_>>> {
                    instance.as_deref().map(|instance| Box::new(OwnedForm::of(instance)))
                }
                WhatForm::Owned(form(before), form(after))
            }
            What::Token { before, after } => {
                let form = |token: &Option<Arc<Token>>| token.as_deref().map(TokenForm::of);
                WhatForm::Token(form(before), form(after))
            }
            What::Instance { before, after } => {
                fn form(instance: &Option<Arc<Instance>>) -> Option<Box<InstanceForm<'_>>> {
                    instance.as_deref().map(|instance| Box::new(InstanceForm::of(instance)))
                }
                WhatForm::Instance(form(before), form(after))
            }
            What::Plain { before, after } => {
                let form = |set: &Option<Arc<PlainSet>>| set.as_deref().map(PlainForm::of);
                WhatForm::Plain(form(before), form(after))
            }
            What::Host { before, after } => {
                let form = |host: &Option<Arc<Host>>| host.as_deref().map(HostForm::of);
                WhatForm::Host(form(before), form(after))
            }
            What::Forgotten { key } => WhatForm::Forgotten {
                service: key.service.to_string(),
                id: key.id.to_string(),
                host: key.host.to_string(),
            },
            What::Settings { service, before, after } => WhatForm::GuardedSettings {
                service: service.to_string(),
                before: GuardedForm::of(before),
                after: GuardedForm::of(after),
            },
            What::Guard { service, before, after } => WhatForm::Guard {
                service: service.to_string(),
                before: before.map(GuardForm::of),
                after: after.map(GuardForm::of),
            },
        },
    })
}

pub fn read_change(octets: &[u8]) -> Result<Change, Unreadable> {
    let form: ChangeForm<'_> = read(octets)?;
    let past = Now::default(); // what was has no lease to run out
    let near = std::cell::RefCell::new(Near::default());
    let instance = |form: Option<Box<InstanceForm<'_>>>| {
        form.map(|form| form.instance(past, &mut near.borrow_mut()).map(Arc::new)).transpose()
    };
    let owned = |form: Option<Box<OwnedForm<'_>>>| {
        form.map(|form| form.instance(past, &mut near.borrow_mut()).map(Arc::new)).transpose()
    };
    let token = |form: Option<TokenForm>| form.map(|form| form.token().map(Arc::new)).transpose();
    let host = |form: Option<HostForm>| form.map(|form| form.host(past).map(Arc::new)).transpose();
    Ok(Change {
        revision: form.revision,
        at: Wall { unix_ms: form.at },
        reason: reason(form.reason)?,
        author: form.author.author(),
        what: match form.what {
            WhatForm::Instance(before, after) => {
                What::Instance { before: instance(before)?, after: instance(after)? }
            }
            WhatForm::Owned(before, after) => What::Instance { before: owned(before)?, after: owned(after)? },
            WhatForm::Token(before, after) => What::Token { before: token(before)?, after: token(after)? },
            WhatForm::Plain(before, after) => {
                let set = |form: Option<PlainForm>| form.map(|form| form.set(past).map(Arc::new)).transpose();
                What::Plain { before: set(before)?, after: set(after)? }
            }
            WhatForm::Host(before, after) => What::Host { before: host(before)?, after: host(after)? },
            WhatForm::Forgotten { service, id, host } => What::Forgotten { key: key(&service, &id, &host)? },
            WhatForm::Ttl { service, before, after } => What::Settings {
                service: ServiceName::parse(&service).map_err(damaged)?,
                before: before.settings(),
                after: after.settings(),
            },
            WhatForm::Settings { service, before, after } => What::Settings {
                service: ServiceName::parse(&service).map_err(damaged)?,
                before: before.settings()?,
                after: after.settings()?,
            },
            WhatForm::GuardedSettings { service, before, after } => What::Settings {
                service: ServiceName::parse(&service).map_err(damaged)?,
                before: before.settings()?,
                after: after.settings()?,
            },
            WhatForm::Guard { service, before, after } => What::Guard {
                service: ServiceName::parse(&service).map_err(damaged)?,
                before: before.map(GuardForm::guard),
                after: after.map(GuardForm::guard),
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Reason;

    #[test]
    fn a_change_of_settings_of_version_1_is_read() {
        let what = WhatForm::Ttl {
            service: "web".to_owned(),
            before: TtlForm { ttl: None },
            after: TtlForm { ttl: Some(60) },
        };
        let reason = reason_number(Reason::Configured);
        let octets = write(&ChangeForm { revision: 7, at: 0, reason, author: AuthorForm::Server, what });
        // The number of the form is what it was: the fourth.
        assert_eq!(octets[5..], [3, 3, b'w', b'e', b'b', 0, 1, 60]);
        let What::Settings { service, after, .. } = read_change(&octets).unwrap().what else { panic!() };
        assert_eq!((service.as_str(), after.ttl), ("web", Some(60)));
    }
}
