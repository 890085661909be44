//! Who asks: what a transport says of it, and whose what it registers is.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::token::Token;
use crate::name::Name;
use crate::registry::Author;
use crate::time::Wall;

/// Who asks, as far as the transport knows.
#[derive(Clone, Debug)]
pub struct Identity {
    pub(super) kind: Kind,
    /// Whose the instances are that it registers, shared by all of them. Over loopback nobody has said who they are, so
    /// nobody's.
    pub owner: Option<Arc<Owner>>,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// The server itself, and what its operator wrote into service files.
    Trusted(Author),
    /// A peer of the Unix socket, as the kernel names it (unix(7), SO_PEERCRED).
    User {
        uid: u32,
        gid: u32,
    },
    /// Somebody at an address who has said nothing of themselves.
    Address(SocketAddr),
    Token(Arc<Token>),
    /// By the name in a certificate that an authority of ours has signed.
    Certificate(Arc<str>),
    /// By the key that a DNS message is signed with.
    Key(Name),
}

impl Identity {
    fn new(kind: Kind) -> Self {
        let owner = match &kind {
            Kind::Trusted(_) => None,
            Kind::User { uid, .. } => Some(Owner::User(*uid)),
            Kind::Address(address) => {
                Some(address.ip().to_canonical()).filter(|ip| !ip.is_loopback()).map(Owner::Address)
            }
            Kind::Token(token) => Some(Owner::Token(token.name.clone())),
            Kind::Certificate(name) => Some(Owner::Certificate(name.clone())),
            Kind::Key(name) => Some(Owner::Key(name.to_string().into())),
        };
        Self { kind, owner: owner.map(Arc::new) }
    }

    pub fn server() -> Self {
        Self::new(Kind::Trusted(Author::Server))
    }

    /// A service file.
    pub fn file(path: Arc<str>) -> Self {
        Self::new(Kind::Trusted(Author::File(path)))
    }

    /// A peer of the Unix socket.
    pub fn user(uid: u32, gid: u32) -> Self {
        Self::new(Kind::User { uid, gid })
    }

    /// A peer over TCP.
    pub fn address(address: SocketAddr) -> Self {
        Self::new(Kind::Address(address))
    }

    pub fn token(token: Arc<Token>) -> Self {
        Self::new(Kind::Token(token))
    }

    pub fn certificate(name: Arc<str>) -> Self {
        Self::new(Kind::Certificate(name))
    }

    /// Whoever has signed a DNS message with this key.
    pub fn key(name: &Name) -> Self {
        Self::new(Kind::Key(name.to_lowercase()))
    }

    /// Whose the changes are that it asks for.
    pub fn author(&self) -> Author {
        match &self.kind {
            Kind::Trusted(author) => author.clone(),
            Kind::User { uid, .. } => Author::User(*uid),
            Kind::Address(address) => Author::Address(*address),
            Kind::Token(token) => Author::Token(token.name.clone()),
            Kind::Certificate(name) => Author::Certificate(name.clone()),
            Kind::Key(name) => Author::Key(name.to_string().into()),
        }
    }

    /// True for a peer of the Unix socket.
    pub fn is_local(&self) -> bool {
        matches!(self.kind, Kind::User { .. })
    }

    /// Until when it is what it is.
    pub fn expires(&self) -> Option<Wall> {
        match &self.kind {
            Kind::Token(token) => token.expires,
            _ => None,
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Address(address) => write!(f, "{} without a token", address.ip().to_canonical()),
            _ => self.author().fmt(f),
        }
    }
}

/// Who registered an instance.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    User(u32),
    Token(Arc<str>),
    Certificate(Arc<str>),
    Address(IpAddr),
    /// The name of the key of an UPDATE, and of nothing else: what it registered, UPDATE may change.
    Key(Arc<str>),
}

impl Owner {
    /// True where an UPDATE registered it.
    pub fn is_key(&self) -> bool {
        matches!(self, Self::Key(_))
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(uid) => write!(f, "uid {uid}"),
            Self::Token(name) => write!(f, "token {name}"),
            Self::Certificate(name) => write!(f, "certificate {name}"),
            Self::Address(address) => write!(f, "{address}"),
            Self::Key(name) => write!(f, "key {name}"),
        }
    }
}
