//! Who may say what: one function, whatever carried the request.
//!
//! An [`Identity`] is what the transport knows of a peer; a [`Verb`] and what it is [`On`] are what the peer asks for.
//! [`Access::permits`] says whether it may, from rules that allow or deny: a rule that denies wins, and what no rule
//! allows is denied. Who has the right to change a service changes only instances of its own, unless it is an
//! administrator of the service: [`Access::permits_change`].
//!
//! Without a rule this machine is trusted: whoever is let in by the socket's mode, and whoever connects over loopback.
//! With one rule nobody is, but for root and the server's own user, who can read and write the store anyway.
//!
//! Secrets are seen here alone: a [`Token`] holds the hash of one, and cannot show it.

mod identity;
mod rule;
mod token;

use std::fmt;
use std::sync::Arc;

use self::identity::Kind;
pub use self::identity::{Identity, Owner};
pub use self::rule::{Grant, Rule};
pub use self::token::{GRANTS_MAX, SECRET_OCTETS, TOKEN_NAME_OCTETS_MAX, TOKENS_MAX, Token, Tokens};
use crate::name::ServiceName;
use crate::time::Wall;

/// Rules of the configuration: each is looked at for every request.
pub const RULES_MAX: usize = 256;
/// Instances of one identity that is no administrator: more than one machine runs, and a hundredth of what fits in all.
pub const OWNED_MAX: usize = 10_000;

/// What may be allowed or denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Register an instance, renew its lease; say what a host is.
    Register,
    /// Deregister or drain an instance.
    Deregister,
    /// Report a check, add or remove one.
    Report,
    /// Ask what is registered, what was, and why.
    Read,
    /// Be told of changes for as long as one likes.
    Watch,
    /// Everything: change what others registered, settings, tokens, backups.
    Admin,
}

impl Verb {
    pub const ALL: [Self; 6] =
        [Self::Register, Self::Deregister, Self::Report, Self::Read, Self::Watch, Self::Admin];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::Deregister => "deregister",
            Self::Report => "report",
            Self::Read => "read",
            Self::Watch => "watch",
            Self::Admin => "admin",
        }
    }
}

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On<'a> {
    Service(&'a str),
    /// Every service: a host, the list of services, tokens.
    Everything,
}

impl<'a> From<&'a ServiceName> for On<'a> {
    fn from(service: &'a ServiceName) -> Self {
        Self::Service(service.as_str())
    }
}

impl fmt::Display for On<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(service) => write!(f, "`{}`", service.escape_debug()),
            Self::Everything => f.write_str("every service"),
        }
    }
}

/// Why somebody may not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error(
        "{who} may not {verb} {on}: no rule allows it, or one denies it; use a token that may, or ask the operator"
    )]
    NotAllowed { who: String, verb: &'static str, on: String },
    #[error(
        "{key} was registered by {owner}, and only that identity or an administrator changes it; choose another id, or ask for the verb `admin`"
    )]
    NotOwner { key: String, owner: String },
    #[error("the token is not known, or was revoked; make one with `callsign token create`")]
    UnknownToken,
    #[error("too many wrong tokens in one second; the connection is closed")]
    TooMany,
    #[error("the token `{0}` has expired; make another with `callsign token create`")]
    Expired(Arc<str>),
}

/// See the module's own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// None: this machine is trusted.
    pub rules: Option<Vec<Rule>>,
    /// Other machines are trusted as this one is, as long as there are no rules.
    pub others_trusted: bool,
    /// The user that the server runs as.
    pub own_user: u32,
    /// How many instances an identity may have registered that is no administrator of their services.
    pub owned_max: usize,
}

impl Default for Access {
    /// This machine is trusted.
    fn default() -> Self {
        Self { rules: None, others_trusted: false, own_user: 0, owned_max: OWNED_MAX }
    }
}

impl Access {
    /// Says whether `who` may do this now.
    ///
    /// # Errors
    ///
    /// It may not; in words that say what to do.
    pub fn permits(
        &self,
        who: &Identity,
        verb: Verb,
        on: On<'_>,
        tokens: &Tokens,
        now: Wall,
    ) -> Result<(), Denied> {
        if let Kind::Token(token) = &who.kind {
            tokens.holds(token, now)?;
        }
        match self.decides(who, verb, on) {
            true => Ok(()),
            false => {
                Err(Denied::NotAllowed { who: who.to_string(), verb: verb.as_str(), on: on.to_string() })
            }
        }
    }

    /// The same for an instance that is there: who did not register it must be an administrator.
    ///
    /// # Errors
    ///
    /// As above.
    pub fn permits_change(
        &self,
        who: &Identity,
        verb: Verb,
        instance: &crate::instance::Instance,
        tokens: &Tokens,
        now: Wall,
    ) -> Result<(), Denied> {
        let on = On::from(&instance.key.service);
        self.permits(who, verb, on, tokens, now)?;
        let Some(owner) = instance.owner.as_deref() else { return Ok(()) };
        match who.owner.as_deref() == Some(owner) || self.decides(who, Verb::Admin, on) {
            true => Ok(()),
            false => Err(Denied::NotOwner { key: instance.key.to_string(), owner: owner.to_string() }),
        }
    }

    /// True where `who` may register one more instance of a service, and has `owned` in all.
    pub fn permits_another(&self, who: &Identity, on: On<'_>, owned: usize) -> bool {
        owned < self.owned_max || self.decides(who, Verb::Admin, on)
    }

    /// Says whether there may be something that `who` may change: with what it asks for unread, and no more than a first look.
    ///
    /// # Errors
    ///
    /// There is nothing.
    pub fn permits_changes(&self, who: &Identity) -> Result<(), Denied> {
        let verbs = [Verb::Register, Verb::Deregister, Verb::Report, Verb::Admin];
        let mut grants = self.grants(who);
        let trusted =
            matches!(who.kind, Kind::Trusted(_)) || verbs.iter().any(|verb| self.trusts(who, *verb));
        match trusted || grants.any(|grant| grant.allows && verbs.iter().any(|verb| grant.names(*verb))) {
            true => Ok(()),
            false => {
                let on = "anything".to_owned();
                Err(Denied::NotAllowed { who: who.to_string(), verb: "change", on })
            }
        }
    }

    /// What is said of `who`, for and against.
    fn grants<'a>(&'a self, who: &'a Identity) -> impl Iterator<Item = &'a Grant> {
        let of_token = match &who.kind {
            Kind::Token(token) => &token.grants[..],
            _ => &[],
        };
        let rules = self.rules.iter().flatten().filter(|rule| rule.whom.is(who)).map(|rule| &rule.grant);
        of_token.iter().chain(rules)
    }

    /// What is denied by one rule is denied; else one that allows is needed.
    fn decides(&self, who: &Identity, verb: Verb, on: On<'_>) -> bool {
        if matches!(who.kind, Kind::Trusted(_)) {
            return true;
        }
        let mut allowed = self.trusts(who, verb);
        for grant in self.grants(who).filter(|grant| grant.concerns(verb, on)) {
            if !grant.allows {
                return false;
            }
            allowed = true;
        }
        allowed
    }

    /// What is so without a rule.
    fn trusts(&self, who: &Identity, verb: Verb) -> bool {
        match &who.kind {
            // Both can write the store and read the key of the certificate: a rule would only seem to bind them.
            Kind::User { uid, .. } if *uid == 0 || *uid == self.own_user => true,
            _ if self.rules.is_some() => false,
            Kind::User { .. } | Kind::Certificate(_) | Kind::Key(_) => verb != Verb::Admin,
            Kind::Address(address) => address.ip().to_canonical().is_loopback() || self.others_trusted,
            Kind::Token(_) | Kind::Trusted(_) => false,
        }
    }
}
