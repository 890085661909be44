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

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use ring::digest::{SHA256, digest};
use subtle::ConstantTimeEq;

use crate::name::{Name, SERVICE_OCTETS_MAX, ServiceName};
use crate::registry::Author;
use crate::time::Wall;

/// Rules of the configuration: each is looked at for every request.
pub const RULES_MAX: usize = 256;
/// What one token allows and denies: looked at for every request that carries it.
pub const GRANTS_MAX: usize = 64;
/// Tokens at once: one for each service of a large site, and a page of memory for each.
pub const TOKENS_MAX: usize = 10_000;
/// Instances of one identity that is no administrator: more than one machine runs, and a hundredth of what fits in all.
pub const OWNED_MAX: usize = 10_000;
/// Octets of a token's name.
pub const TOKEN_NAME_OCTETS_MAX: usize = 64;
/// Octets of a token's secret: 256 random bits, so that one pass of SHA-256 is enough to keep it by. What makes a hash
/// slow defends what people choose, which can be guessed; 2^256 cannot be gone through, however fast each try is.
pub const SECRET_OCTETS: usize = 32;
/// How a token begins: who finds one in a log or a repository knows what it is.
const TOKEN_PREFIX: &str = "callsign_";

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

/// Some verbs on some services, allowed or denied: `register+report:web*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    pub allows: bool,
    verbs: Verbs,
    pattern: Pattern,
}

/// A set of verbs; a bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Verbs(u8);

impl Verbs {
    const ALL: Self = Self((1 << Verb::ALL.len()) - 1);

    fn of(verb: Verb) -> Self {
        Self(1 << verb as u8)
    }

    fn has(self, verb: Verb) -> bool {
        self.0 & Self::of(verb).0 != 0
    }
}

/// A service's name, or how names begin.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    text: Box<str>,
    /// Whatever follows.
    open: bool,
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, String> {
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

    fn matches(&self, name: &str) -> bool {
        let start = name.as_bytes().get(..self.text.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(self.text.as_bytes()))
            && (self.open || name.len() == self.text.len())
    }

    fn is_everything(&self) -> bool {
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

    /// True where it says something of this.
    ///
    /// To be allowed what concerns every service, one has to be allowed every one; to be denied it, one is enough.
    fn concerns(&self, verb: Verb, on: On<'_>) -> bool {
        let verbs = match self.allows {
            true => self.verbs.has(verb) || self.verbs.has(Verb::Admin),
            false => self.verbs.has(verb),
        };
        verbs
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
    whom: Whom,
    grant: Grant,
}

/// Whom a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Whom {
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
    fn parse(text: &str) -> Result<Self, String> {
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

    fn is(&self, who: &Identity) -> bool {
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

/// Who asks, as far as the transport knows.
#[derive(Clone, Debug)]
pub struct Identity {
    kind: Kind,
    /// Whose the instances are that it registers, shared by all of them. Over loopback nobody has said who they are, so
    /// nobody's.
    pub owner: Option<Arc<Owner>>,
}

#[derive(Clone, Debug)]
enum Kind {
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

    /// What is denied by one rule is denied; else one that allows is needed.
    fn decides(&self, who: &Identity, verb: Verb, on: On<'_>) -> bool {
        if matches!(who.kind, Kind::Trusted(_)) {
            return true;
        }
        let of_token = match &who.kind {
            Kind::Token(token) => &token.grants[..],
            _ => &[],
        };
        let rules = self.rules.iter().flatten().filter(|rule| rule.whom.is(who)).map(|rule| &rule.grant);
        let mut allowed = self.trusts(who, verb);
        for grant in of_token.iter().chain(rules).filter(|grant| grant.concerns(verb, on)) {
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

/// What somebody carries to be known by; its secret is a hash, and the hash stays out of every form but the store's.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    pub name: Arc<str>,
    /// Finds it, and is no secret.
    pub number: u64,
    pub hash: [u8; 32],
    pub grants: Vec<Grant>,
    pub created: Wall,
    pub expires: Option<Wall>,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Token {
    /// The text that its holder carries.
    pub fn text(number: u64, secret: &[u8; SECRET_OCTETS]) -> String {
        use fmt::Write as _;
        let mut text = format!("{TOKEN_PREFIX}{number:016x}_");
        for octet in secret {
            // Writing into a text cannot fail.
            let _ = write!(text, "{octet:02x}");
        }
        text
    }

    pub fn hash_of(secret: &[u8; SECRET_OCTETS]) -> [u8; 32] {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, secret).as_ref());
        hash
    }

    /// The number and the secret of a text.
    fn parts(text: &str) -> Option<(u64, [u8; SECRET_OCTETS])> {
        let (number, secret) = text.strip_prefix(TOKEN_PREFIX)?.split_once('_')?;
        if number.len() != 16 || secret.len() != 2 * SECRET_OCTETS {
            return None;
        }
        let number = u64::from_str_radix(number, 16).ok()?;
        let mut octets = [0; SECRET_OCTETS];
        for (octet, pair) in octets.iter_mut().zip(secret.as_bytes().chunks_exact(2)) {
            let digit = |digit: u8| (digit as char).to_digit(16);
            *octet = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
        }
        Some((number, octets))
    }
}

/// The tokens that there are.
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    by_number: HashMap<u64, Arc<Token>>,
}

impl Tokens {
    /// The token that `text` is.
    ///
    /// What the name of a token finds is compared in constant time, and its number is no secret, so that how long
    /// this takes tells nothing of what would have been right.
    ///
    /// # Errors
    ///
    /// It is none, or is over.
    pub fn find(&self, text: &str, now: Wall) -> Result<Arc<Token>, Denied> {
        let (number, secret) = Token::parts(text).ok_or(Denied::UnknownToken)?;
        let hash = Token::hash_of(&secret);
        let token = self.by_number.get(&number);
        let token = token.filter(|token| bool::from(token.hash.ct_eq(&hash))).ok_or(Denied::UnknownToken)?;
        self.holds(token, now)?;
        Ok(token.clone())
    }

    pub fn is_empty(&self) -> bool {
        self.by_number.is_empty()
    }

    pub fn len(&self) -> usize {
        self.by_number.len()
    }

    pub fn by_name(&self, name: &str) -> Option<&Arc<Token>> {
        self.by_number.values().find(|token| *token.name == *name)
    }

    pub fn by_number(&self, number: u64) -> Option<&Arc<Token>> {
        self.by_number.get(&number)
    }

    /// In the order of their names.
    pub fn all(&self) -> Vec<Arc<Token>> {
        let mut all: Vec<Arc<Token>> = self.by_number.values().cloned().collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    pub fn put(&mut self, token: Arc<Token>) {
        self.by_number.insert(token.number, token);
    }

    pub fn remove(&mut self, token: &Token) {
        self.by_number.remove(&token.number);
    }

    /// Says whether a token that was found is still one.
    fn holds(&self, token: &Token, now: Wall) -> Result<(), Denied> {
        if !self.by_number.contains_key(&token.number) {
            return Err(Denied::UnknownToken);
        }
        match token.expires {
            Some(expires) if expires <= now => Err(Denied::Expired(token.name.clone())),
            _ => Ok(()),
        }
    }
}
