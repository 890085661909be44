//! The rules of a configuration and the grants of a token, in the words that write them.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::identity::{Identity, Kind};
use super::{On, Verb};
use crate::name::{Name, SERVICE_OCTETS_MAX};

/// Some verbs on some services, allowed or denied: `register+report:web*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    pub allows: bool,
    verbs: Verbs,
    pattern: Pattern,
}

/// A set of verbs; a bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verbs(u8);

impl Verbs {
    const ALL: Self = Self((1 << Verb::ALL.len()) - 1);

    pub(super) fn of(verb: Verb) -> Self {
        Self(1 << verb as u8)
    }

    pub(super) fn has(self, verb: Verb) -> bool {
        self.0 & Self::of(verb).0 != 0
    }
}

/// A service's name, or how names begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    text: Box<str>,
    /// Whatever follows.
    open: bool,
}

impl Pattern {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (start, open) = match text.strip_suffix('*') {
            Some(start) => (start, true),
            None => (text, false),
        };
        let fits = start.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-')
            && start.len() <= SERVICE_OCTETS_MAX
            && (open || !start.is_empty());
        match fits {
            true => Ok(Self { text: start.to_ascii_lowercase().into(), open }),
            false => Err(format!(
                "`{}` is no service's name, nor the beginning of one with a star behind it, such as web*",
                text.escape_debug()
            )),
        }
    }

    pub(super) fn matches(&self, name: &str) -> bool {
        let start = name.as_bytes().get(..self.text.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(self.text.as_bytes()))
            && (self.open || name.len() == self.text.len())
    }

    pub(super) fn is_everything(&self) -> bool {
        self.open && self.text.is_empty()
    }
}

impl Grant {
    /// Reads `register+report:web*`; `*` is every verb, and without a pattern it is on every service.
    ///
    /// # Errors
    ///
    /// What is wrong with it, as the rest of a sentence that begins with what it is.
    pub fn parse(text: &str, allows: bool) -> Result<Self, String> {
        let (words, pattern) = text.split_once(':').unwrap_or((text, "*"));
        let mut verbs = Verbs(0);
        for word in words.split('+') {
            verbs.0 |= match (word, Verb::ALL.into_iter().find(|verb| verb.as_str() == word)) {
                ("*", _) => Verbs::ALL.0,
                (_, Some(verb)) => Verbs::of(verb).0,
                _ => {
                    let known: Vec<&str> = Verb::ALL.iter().map(|verb| verb.as_str()).collect();
                    return Err(format!(
                        "must be verbs and a service, such as register+report:web*, and `{}` is no verb; verbs are {} and *",
                        word.escape_debug(),
                        known.join(", ")
                    ));
                }
            };
        }
        let pattern = Pattern::parse(pattern).map_err(|what| format!("must end in services, and {what}"))?;
        Ok(Self { allows, verbs, pattern })
    }

    /// True where it says something of this verb: who is an administrator may everything.
    pub(super) fn names(&self, verb: Verb) -> bool {
        self.verbs.has(verb) || self.allows && self.verbs.has(Verb::Admin)
    }

    /// True where it says something of this.
    ///
    /// To be allowed what concerns every service, one has to be allowed every one; to be denied it, one is enough.
    pub(super) fn concerns(&self, verb: Verb, on: On<'_>) -> bool {
        self.names(verb)
            && match on {
                On::Service(name) => self.pattern.matches(name),
                On::Everything => !self.allows || self.pattern.is_everything(),
            }
    }
}

/// As it is written, without whether it allows or denies.
impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.verbs == Verbs::ALL {
            f.write_str("*")?;
        } else {
            let verbs: Vec<&str> =
                Verb::ALL.iter().filter(|verb| self.verbs.has(**verb)).map(|verb| verb.as_str()).collect();
            f.write_str(&verbs.join("+"))?;
        }
        write!(f, ":{}{}", self.pattern.text, if self.pattern.open { "*" } else { "" })
    }
}

/// A rule of the configuration: `allow uid:1000 register:web*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub(super) whom: Whom,
    pub(super) grant: Grant,
}

/// Whom a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Whom {
    Anyone,
    /// Whoever says nothing of themselves over the network, this machine's loopback included.
    Anonymous,
    /// The same, from this network.
    Network(IpNet),
    /// Whoever is let in by the Unix socket.
    Socket,
    User(u32),
    Group(u32),
    /// The name in a client's certificate, or how it begins.
    Certificate(Box<str>, bool),
    /// The name of the key that a message is signed with.
    Key(Name),
}

impl Rule {
    /// Reads `allow WHO VERBS:SERVICES` and `deny WHO VERBS:SERVICES`.
    ///
    /// # Errors
    ///
    /// What is wrong with it, as the rest of a sentence that begins with the key.
    pub fn parse(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let [way @ ("allow" | "deny"), whom, what] = words[..] else {
            return Err(format!(
                "must be `allow` or `deny`, who, and what, such as `allow uid:1000 register:web*`, not `{}`",
                text.escape_debug()
            ));
        };
        Ok(Self { whom: Whom::parse(whom)?, grant: Grant::parse(what, way == "allow")? })
    }
}

impl Whom {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let number = |text: &str| {
            text.parse()
                .map_err(|_| format!("must name a user or group by number, not `{}`", text.escape_debug()))
        };
        match text.split_once(':') {
            Some(("uid", user)) => return number(user).map(Self::User),
            Some(("gid", group)) => return number(group).map(Self::Group),
            Some(("certificate", name)) if !name.is_empty() => {
                let open = name.strip_suffix('*');
                return Ok(Self::Certificate(open.unwrap_or(name).into(), open.is_some()));
            }
            Some(("key", name)) => {
                let name = Name::parse(name).ok().filter(|name| !name.is_root());
                return name
                    .map(|name| Self::Key(name.to_lowercase()))
                    .ok_or_else(|| format!("must name a key as key:NAME, not `{}`", text.escape_debug()));
            }
            _ => {}
        }
        match text {
            "anyone" => Ok(Self::Anyone),
            "anonymous" => Ok(Self::Anonymous),
            "socket" => Ok(Self::Socket),
            text => text.parse().or_else(|_| text.parse().map(|ip: IpAddr| ip.into())).map(Self::Network).map_err(|_| {
                format!(
                    "must say who: anyone, anonymous, socket, uid:NUMBER, gid:NUMBER, certificate:NAME, key:NAME, or a network such as 10.0.0.0/8, not `{}`",
                    text.escape_debug()
                )
            }),
        }
    }

    pub(super) fn is(&self, who: &Identity) -> bool {
        match (self, &who.kind) {
            (Self::Anyone, _) => true,
            (Self::Anonymous, Kind::Address(_)) | (Self::Socket, Kind::User { .. }) => true,
            (Self::Network(network), Kind::Address(address)) => {
                network.contains(&address.ip().to_canonical())
            }
            (Self::User(user), Kind::User { uid, .. }) => user == uid,
            (Self::Group(group), Kind::User { gid, .. }) => group == gid,
            (Self::Certificate(start, open), Kind::Certificate(name)) => {
                if *open {
                    name.starts_with(&**start)
                } else {
                    **name == **start
                }
            }
            (Self::Key(name), Kind::Key(key)) => name == key,
            _ => false,
        }
    }
}
