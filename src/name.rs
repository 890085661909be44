//! Names: domain names in wire form, and the names of the registry, each parsed once.
//!
//! A value of one of these types is the proof that its text is well formed, so nothing behind the
//! edges checks a name again. `Name` is any domain name; `ServiceName`, `InstanceId`, `HostName` and
//! `Tag` are what the registry knows. An `Apex` is the name under which the registry is served.
//!
//! Not here: what an owner name asks for (`grammar`), and whether a name is taken (`registry`).

mod wire_form;

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

pub(crate) use self::wire_form::Folded;
pub use self::wire_form::{Labels, NAME_OCTETS_MAX, Name, NameError, Suffixes};

/// Longest label (RFC 1035 section 2.3.4).
pub const LABEL_OCTETS_MAX: usize = 63;
/// Longest service name: one octet less than a label, so that `_name` is a label too (RFC 2782).
pub const SERVICE_OCTETS_MAX: usize = 62;
/// Longest instance id and tag. Ids such as `redis:6379@10.0.0.1` are not labels; 255 holds every one in use.
pub const ID_OCTETS_MAX: usize = 255;

/// Names that mean something else in the zone or to resolvers (docs/names.md).
const RESERVED: [&str; 8] = ["ns", "node", "addr", "localhost", "wpad", "isatap", "callsign", "dns-sd"];

/// Why a text is not a name of the registry; the sentence says what to write instead.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Unfit {
    #[error("must not be empty")]
    Empty,
    #[error("must be at most {max} octets, not {octets}")]
    TooLong { max: usize, octets: usize },
    #[error("must be letters, digits and hyphens, with no hyphen at either end{}", suggest(.suggestion))]
    NotLdh { suggestion: Option<String> },
    #[error("must be a full name with a dot, such as `{suggestion}`")]
    OneLabel { suggestion: String },
    #[error("must be letters, digits, `-` and `_`, with no `_` in front")]
    NotDatacenter,
    #[error("must not be all digits: resolvers read such a name as an address{}", suggest(.suggestion))]
    Numeric { suggestion: Option<String> },
    #[error("`{0}` is reserved; try `my-{0}`")]
    Reserved(String),
    #[error("starts with `xn--` but is not an internationalised label; write it as IDNA encodes it")]
    Punycode,
    #[error("holds a control character")]
    Control,
    #[error("is not a domain name: {0}")]
    Domain(#[from] NameError),
}

fn suggest(suggestion: &Option<String>) -> String {
    match suggestion {
        Some(suggestion) => format!("; try `{suggestion}`"),
        None => String::new(),
    }
}

/// True for letters, digits and inner hyphens, 1 to 63 octets (RFC 1123 section 2.1).
pub fn is_ldh_label(text: &[u8]) -> bool {
    (1..=LABEL_OCTETS_MAX).contains(&text.len())
        && text.iter().all(|octet| octet.is_ascii_alphanumeric() || *octet == b'-')
        && text[0] != b'-'
        && text[text.len() - 1] != b'-'
}

/// The nearest text that `is_ldh_label` accepts, if anything is left of it.
fn nearest_label(text: &str) -> Option<String> {
    let folded: String = text
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .take(SERVICE_OCTETS_MAX)
        .collect();
    let trimmed = folded.trim_matches('-').to_owned();
    (!trimmed.is_empty()).then_some(trimmed)
}

/// The name of a service: a label of letters, digits and hyphens, lower case, 1 to 62 octets.
///
/// Not all digits and not `0x…` (`inet_aton` takes both for an address), not reserved, and with
/// `xn--` in front only where the rest decodes (RFC 5890).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName(Arc<str>);

impl ServiceName {
    pub fn parse(text: &str) -> Result<Self, Unfit> {
        if text.is_empty() {
            return Err(Unfit::Empty);
        }
        if text.len() > SERVICE_OCTETS_MAX {
            return Err(Unfit::TooLong { max: SERVICE_OCTETS_MAX, octets: text.len() });
        }
        if !is_ldh_label(text.as_bytes()) {
            return Err(Unfit::NotLdh { suggestion: nearest_label(text) });
        }
        let name = text.to_ascii_lowercase();
        let hexadecimal =
            name.strip_prefix("0x").is_some_and(|rest| rest.bytes().all(|octet| octet.is_ascii_hexdigit()));
        if hexadecimal || name.bytes().all(|octet| octet.is_ascii_digit()) {
            return Err(Unfit::Numeric { suggestion: Some(format!("svc-{name}")) });
        }
        if RESERVED.contains(&name.as_str()) {
            return Err(Unfit::Reserved(name));
        }
        if let Some(encoded) = name.strip_prefix("xn--")
            && !decodes_as_punycode(encoded)
        {
            return Err(Unfit::Punycode);
        }
        Ok(Self(name.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True where the name may be a DNS-SD service type: 15 octets at most, a letter, no two
    /// hyphens in a row (RFC 6335 section 5.1).
    pub fn is_service_type(&self) -> bool {
        self.0.len() <= 15
            && self.0.bytes().any(|octet| octet.is_ascii_alphabetic())
            && !self.0.contains("--")
    }
}

/// RFC 3492 section 6.2, run for its verdict alone.
fn decodes_as_punycode(encoded: &str) -> bool {
    let (basic, digits) = encoded.rsplit_once('-').unwrap_or(("", encoded));
    if digits.is_empty() {
        return false;
    }
    let (mut code, mut index, mut bias, mut length) = (128u32, 0u32, 72u32, basic.len() as u32);
    let mut octets = digits.bytes().peekable();
    while octets.peek().is_some() {
        let (start, mut weight, mut k) = (index, 1u32, 36u32);
        loop {
            let digit = match octets.next() {
                Some(octet @ b'a'..=b'z') => u32::from(octet - b'a'),
                Some(octet @ b'0'..=b'9') => u32::from(octet - b'0') + 26,
                _ => return false,
            };
            let Some(next) = digit.checked_mul(weight).and_then(|add| index.checked_add(add)) else {
                return false;
            };
            index = next;
            let threshold = k.saturating_sub(bias).clamp(1, 26);
            if digit < threshold {
                break;
            }
            let Some(next) = weight.checked_mul(36 - threshold) else { return false };
            weight = next;
            k += 36;
        }
        length += 1;
        let mut delta = if start == 0 { index / 700 } else { (index - start) / 2 };
        delta += delta / length;
        let mut steps = 0;
        while delta > 455 {
            delta /= 35;
            steps += 36;
        }
        bias = steps + 36 * delta / (delta + 38);
        let Some(next) = code.checked_add(index / length) else { return false };
        code = next;
        if char::from_u32(code).is_none() {
            return false;
        }
        index = index % length + 1;
    }
    true
}

/// The id of an instance: 1 to 255 octets of UTF-8 without control characters, kept as given.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceId(Arc<str>);

impl InstanceId {
    pub fn parse(text: &str) -> Result<Self, Unfit> {
        printable(text, ID_OCTETS_MAX).map(Self)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id as a label: itself in lower case where it is one, else `i-` and ten base32 digits.
    pub fn label(&self) -> Label {
        if !is_ldh_label(self.0.as_bytes()) {
            Label(format!("i-{}", base32_digits(fnv(&[self.0.as_bytes()]), 10)).into())
        } else if self.0.bytes().any(|octet| octet.is_ascii_uppercase()) {
            Label(self.0.to_ascii_lowercase().into())
        } else {
            Label(self.0.clone()) // one text for both
        }
    }

    /// The label where `label()` is taken by the same id on another host: a short suffix that
    /// depends only on host and id, so it is the same after a restart.
    pub fn label_on(&self, host: &HostName, attempt: u32) -> Label {
        let counted = attempt.to_be_bytes();
        let parts = [host.as_str().as_bytes(), self.0.as_bytes(), &counted];
        let suffix = base32_digits(fnv(&parts[..2 + usize::from(attempt > 0)]), 6);
        let base = self.label();
        let kept = base.as_str().len().min(LABEL_OCTETS_MAX - suffix.len() - 1);
        Label(format!("{}-{suffix}", base.as_str()[..kept].trim_end_matches('-')).into())
    }
}

/// A label that `is_ldh_label` accepts, in lower case.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Label(Arc<str>);

impl Label {
    pub fn parse(text: &str) -> Result<Self, Unfit> {
        if text.is_empty() {
            return Err(Unfit::Empty);
        }
        if text.len() > LABEL_OCTETS_MAX {
            return Err(Unfit::TooLong { max: LABEL_OCTETS_MAX, octets: text.len() });
        }
        if !is_ldh_label(text.as_bytes()) {
            return Err(Unfit::NotLdh { suggestion: nearest_label(text) });
        }
        Ok(Self(text.to_ascii_lowercase().into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The machine an instance runs on: 1 to 253 octets without control characters, lower case.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostName(Arc<str>);

impl HostName {
    pub fn parse(text: &str) -> Result<Self, Unfit> {
        printable(&text.to_ascii_lowercase(), 253).map(Self)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A tag: 1 to 255 octets of UTF-8 without control characters, kept as given. Only a tag that is
/// a label has names in DNS, and DNS compares it without case.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag {
    text: Arc<str>,
    label: Option<Label>,
}

impl Tag {
    pub fn parse(text: &str) -> Result<Self, Unfit> {
        Ok(Self { text: printable(text, ID_OCTETS_MAX)?, label: Label::parse(text).ok() })
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The tag as DNS knows it.
    pub fn label(&self) -> Option<&Label> {
        self.label.as_ref()
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.text)
    }
}

fn printable(text: &str, max: usize) -> Result<Arc<str>, Unfit> {
    if text.is_empty() {
        return Err(Unfit::Empty);
    }
    if text.len() > max {
        return Err(Unfit::TooLong { max, octets: text.len() });
    }
    if text.chars().any(char::is_control) {
        return Err(Unfit::Control);
    }
    Ok(text.into())
}

/// Reads a host name for an SRV target: fully qualified, labels of letters, digits and hyphens,
/// never the root (`.` means that the service is decidedly not there, RFC 2782).
pub fn parse_target(text: &str) -> Result<Name, Unfit> {
    let name = Name::parse(text)?.to_lowercase();
    if name.is_root() {
        return Err(Unfit::Empty);
    }
    // One wrong target makes Go's LookupSRV fail for the whole set, so the rule is strict.
    if !name.labels().all(is_ldh_label) {
        return Err(Unfit::NotLdh { suggestion: None });
    }
    if name.labels().count() < 2 {
        return Err(Unfit::OneLabel { suggestion: format!("{name}example.com") });
    }
    Ok(name)
}

/// True where the last label is all digits: no host is called so (RFC 3696 section 2), and clients read it as an address.
///
/// Not a rule of `parse_target`, which reads the store too: a registry that has one such name still starts.
pub fn ends_in_digits(name: &Name) -> bool {
    name.labels().last().is_some_and(|label| label.iter().all(u8::is_ascii_digit))
}

/// The name of a zone that we serve the registry under; at least one label, lower case.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Apex(Name);

impl Apex {
    /// Longest apex in wire form, so that the longest owner name below it still fits 255 octets:
    /// `<63>.<62>.` is 127, `_tcp` and an underscore 6 more.
    pub const OCTETS_MAX: usize = 120;

    pub fn parse(text: &str) -> Result<Self, Unfit> {
        let name = Name::parse(text)?.to_lowercase();
        if name.is_root() {
            return Err(Unfit::Empty);
        }
        if name.as_wire().len() > Self::OCTETS_MAX {
            return Err(Unfit::TooLong { max: Self::OCTETS_MAX, octets: name.as_wire().len() });
        }
        if !name.labels().all(|label| is_ldh_label(label.strip_prefix(b"_").unwrap_or(label))) {
            return Err(Unfit::NotLdh { suggestion: None });
        }
        Ok(Self(name))
    }

    pub fn name(&self) -> &Name {
        &self.0
    }

    /// `labels` in front of the apex. Each comes from a name type, whose limits leave room enough.
    pub fn owner(&self, labels: &[&str]) -> Name {
        let labels: Vec<&[u8]> = labels.iter().map(|label| label.as_bytes()).collect();
        self.0.prepend_all(&labels).expect("OCTETS_MAX leaves room for every owner name")
    }
}

/// The data centre that Consul's clients know us as: one label of letters, digits, `-` and `_`, lower case.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Datacenter(Arc<str>);

impl Datacenter {
    /// Labels that mean something else where a data centre may stand in a name.
    const KEPT: [&str; 14] = [
        "addr", "ap", "connect", "dc", "ingress", "node", "ns", "peer", "port", "query", "service", "sg",
        "tag", "virtual",
    ];

    pub fn parse(text: &str) -> Result<Self, Unfit> {
        if text.is_empty() {
            return Err(Unfit::Empty);
        }
        if text.len() > LABEL_OCTETS_MAX {
            return Err(Unfit::TooLong { max: LABEL_OCTETS_MAX, octets: text.len() });
        }
        let within = |octet: u8| octet.is_ascii_alphanumeric() || octet == b'-' || octet == b'_';
        // `_` in front is how a name says that it is a service's (RFC 2782).
        if !text.bytes().all(within) || text.starts_with('_') {
            return Err(Unfit::NotDatacenter);
        }
        let name = text.to_ascii_lowercase();
        if Self::KEPT.contains(&name.as_str()) {
            return Err(Unfit::Reserved(name));
        }
        Ok(Self(name.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

macro_rules! text_name {
    ($($type:ident)*) => {$(
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl std::borrow::Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    )*};
}

text_name!(ServiceName InstanceId Label HostName Datacenter);

impl fmt::Display for Apex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Apex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// FNV-1a, 64 bits: a hash that is the same in every version and on every machine, which labels
/// and the choice of instances need and the standard library's does not promise.
pub fn fnv(parts: &[&[u8]]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for part in parts {
        for &octet in *part {
            hash = (hash ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3);
        }
        hash = (hash ^ 0xff).wrapping_mul(0x0100_0000_01b3); // 0xff is in no UTF-8: parts do not run together
    }
    hash
}

fn base32_digits(hash: u64, digits: usize) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    (0..digits).map(|digit| ALPHABET[(hash >> (5 * digit)) as usize & 31] as char).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_names() {
        assert_eq!(ServiceName::parse("Web").unwrap().as_str(), "web");
        assert!(ServiceName::parse("xn--bcher-kva").is_ok());
        assert!(ServiceName::parse(&"a".repeat(62)).is_ok());
        let refused = |text: &str| ServiceName::parse(text).unwrap_err().to_string();
        assert!(refused("my_service").contains("try `my-service`"));
        assert!(refused("-web").contains("try `web`"));
        assert!(refused("we.b").contains("try `we-b`"));
        assert!(refused("b\u{fc}cher").contains("letters, digits and hyphens"));
        assert!(refused("10").contains("all digits"));
        assert!(refused("0x1f").contains("all digits"));
        assert!(refused("ns").contains("reserved"));
        assert!(refused("xn--999999999999").contains("xn--"));
        assert!(refused(&"a".repeat(63)).contains("at most 62 octets, not 63"));
        assert_eq!(ServiceName::parse(""), Err(Unfit::Empty));
    }

    #[test]
    fn labels_of_ids() {
        let label = |id: &str| InstanceId::parse(id).unwrap().label().to_string();
        assert_eq!(label("Web-1"), "web-1");
        assert_eq!(label("redis:6379").len(), 12);
        assert!(label("redis:6379").starts_with("i-"));
        assert_ne!(label("redis:6379"), label("redis:6380"));
        let long = InstanceId::parse(&"a".repeat(63)).unwrap();
        let here = long.label_on(&HostName::parse("one").unwrap(), 0);
        assert!(is_ldh_label(here.as_str().as_bytes()));
        assert_ne!(here, long.label_on(&HostName::parse("two").unwrap(), 0));
        assert_eq!(InstanceId::parse("a\u{7}"), Err(Unfit::Control));
    }

    #[test]
    fn data_centres() {
        for text in ["dc1", "eu-west-1", "a_b", "1", "-"] {
            assert_eq!(Datacenter::parse(text).unwrap().as_str(), text);
        }
        assert_eq!(Datacenter::parse("DC1").unwrap().as_str(), "dc1");
        let refused = |text: &str| Datacenter::parse(text).unwrap_err().to_string();
        assert!(refused("a.b").contains("letters, digits, `-` and `_`"));
        assert!(refused("_a").contains("no `_` in front"));
        assert!(refused("Service").contains("`service` is reserved"));
        assert!(refused(&"a".repeat(64)).contains("at most 63 octets"));
        assert_eq!(Datacenter::parse(""), Err(Unfit::Empty));
    }

    #[test]
    fn targets() {
        assert!(parse_target("db.example.com").is_ok());
        assert!(parse_target("db.example.com.").is_ok());
        for text in [".", "db", "a_b.example", "", "a..b"] {
            assert!(parse_target(text).is_err(), "{text}");
        }
        let refused = parse_target("db").unwrap_err().to_string();
        assert_eq!(refused, "must be a full name with a dot, such as `db.example.com`");
        for (text, digits) in
            [("10.0.0.300", true), ("a.7.", true), ("7", true), ("7.example.com", false), ("a.b7", false)]
        {
            assert_eq!(ends_in_digits(&Name::parse(text).unwrap()), digits, "{text}");
        }
        assert!(!ends_in_digits(&Name::root()));
    }
}
