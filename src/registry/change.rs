//! Facts: what the registry is a fold over.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use super::{Guard, PlainSet};
use crate::access::Token;
use crate::instance::{Health, Host, Instance, Key, ServiceSettings};
use crate::name::ServiceName;
use crate::time::Wall;

/// A fact: what was and what is, when, why and by whom.
#[derive(Clone, Debug)]
pub struct Change {
    /// The store's counter; one more with every change.
    pub revision: u64,
    pub at: Wall,
    pub reason: Reason,
    pub author: Author,
    pub what: What,
}

#[derive(Clone, Debug)]
pub enum What {
    /// One of the two at least is there.
    Instance {
        before: Option<Arc<Instance>>,
        after: Option<Arc<Instance>>,
    },
    Host {
        before: Option<Arc<Host>>,
        after: Option<Arc<Host>>,
    },
    /// A gone instance is no longer remembered.
    Forgotten {
        key: Key,
    },
    Settings {
        service: ServiceName,
        before: ServiceSettings,
        after: ServiceSettings,
    },
    /// One of the two is there.
    Guard {
        service: ServiceName,
        before: Option<Guard>,
        after: Option<Guard>,
    },
    /// One of the two at least is there.
    Token {
        before: Option<Arc<Token>>,
        after: Option<Arc<Token>>,
    },
    /// Records of one owner and type in the record tree. One of the two at least is there.
    Plain {
        before: Option<Arc<PlainSet>>,
        after: Option<Arc<PlainSet>>,
    },
}

/// Why something changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    Registered,
    Expired,
    Deregistered,
    Disconnected,
    Drained,
    Reported,
    Forgotten,
    /// A check was added, changed or removed.
    Checked,
    /// A check was critical for as long as its definition allows.
    Reaped,
    Configured,
    /// Too many instances went bad at once.
    Guarded,
    /// A guard ended.
    Released,
    /// A token was made.
    Granted,
    /// A token counts no more.
    Revoked,
    /// Plain records were set or deleted.
    Updated,
}

impl Reason {
    /// In the order of their numbers on the disk.
    pub const ALL: [Self; 15] = [
        Self::Registered,
        Self::Expired,
        Self::Deregistered,
        Self::Disconnected,
        Self::Drained,
        Self::Reported,
        Self::Forgotten,
        Self::Checked,
        Self::Reaped,
        Self::Configured,
        Self::Guarded,
        Self::Released,
        Self::Granted,
        Self::Revoked,
        Self::Updated,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::Expired => "expired",
            Self::Deregistered => "deregistered",
            Self::Disconnected => "disconnected",
            Self::Drained => "drained",
            Self::Reported => "reported",
            Self::Forgotten => "forgotten",
            Self::Checked => "checked",
            Self::Reaped => "reaped",
            Self::Configured => "configured",
            Self::Guarded => "guarded",
            Self::Released => "released",
            Self::Granted => "granted",
            Self::Revoked => "revoked",
            Self::Updated => "updated",
        }
    }
}

/// Who caused a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Author {
    /// The server itself: an expiry, a verdict, a closed connection.
    Server,
    /// A peer on the Unix socket, by user id.
    User(u32),
    /// A peer on TCP.
    Address(SocketAddr),
    /// A service file.
    File(Arc<str>),
    /// Whoever carried a token, by its name.
    Token(Arc<str>),
    /// Whoever showed a certificate, by the name in it.
    Certificate(Arc<str>),
    /// Whoever signed an UPDATE with this key.
    Key(Arc<str>),
}

impl fmt::Display for Author {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server => f.write_str("callsign"),
            Self::User(uid) => write!(f, "uid {uid}"),
            Self::Address(address) => write!(f, "{address}"),
            Self::File(path) => write!(f, "{path}"),
            Self::Token(name) => write!(f, "token {name}"),
            Self::Certificate(name) => write!(f, "certificate {name}"),
            Self::Key(name) => write!(f, "key {name}"),
        }
    }
}

impl Change {
    /// The health of the instance after the change, its host's left out: of the past, that is all that is known.
    pub fn health_alone(&self) -> Health {
        match &self.what {
            What::Instance { after: Some(after), .. } => after.health(),
            _ => Health::Passing,
        }
    }

    /// True where somebody who reads instances, hosts and their checks sees a difference.
    pub fn is_seen(&self) -> bool {
        match &self.what {
            What::Instance { before: Some(before), after: Some(after) } => !before.says_same(after),
            What::Host { before: Some(before), after: Some(after) } => !before.says_same(after),
            What::Instance { .. } | What::Host { .. } => true,
            What::Forgotten { .. }
            | What::Settings { .. }
            | What::Guard { .. }
            | What::Token { .. }
            | What::Plain { .. } => false,
        }
    }
}
