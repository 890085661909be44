//! Domain names in wire form.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use thiserror::Error;

use super::LABEL_OCTETS_MAX;

/// Longest domain name in wire form, root octet included (RFC 1035 section 2.3.4).
pub const NAME_OCTETS_MAX: usize = 255;

/// A domain name, absolute, in uncompressed wire form; compared without case (RFC 4343).
///
/// Cloning is cheap: the octets are shared.
#[derive(Clone)]
pub struct Name(Arc<[u8]>);

/// Why a text or octets are not a domain name.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum NameError {
    #[error("a label is empty (two dots in a row, or a dot in front)")]
    EmptyLabel,
    #[error("a label is longer than 63 octets")]
    LabelTooLong,
    #[error("the name is longer than 255 octets")]
    TooLong,
    #[error("`\\` is followed by neither a character nor three digits up to 255")]
    Escape,
    #[error("the name ends early or holds a compression pointer")]
    Wire,
}

impl Name {
    /// The root, one zero octet.
    pub fn root() -> Self {
        Self(Arc::from([0u8].as_slice()))
    }

    /// Reads presentation form: `\.`, `\DDD` (RFC 1035 section 5.1); a final dot may be left out.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let text = text.as_bytes();
        if text == b"." {
            return Ok(Self::root());
        }
        let mut wire = Vec::with_capacity(text.len() + 2);
        let mut at = 0;
        while at < text.len() {
            let length_at = wire.len();
            wire.push(0);
            while at < text.len() && text[at] != b'.' {
                let (octet, used) = unescape(&text[at..])?;
                wire.push(octet);
                at += used;
            }
            let octets = wire.len() - length_at - 1;
            match octets {
                0 => return Err(NameError::EmptyLabel),
                1..=LABEL_OCTETS_MAX => wire[length_at] = octets as u8,
                _ => return Err(NameError::LabelTooLong),
            }
            at += 1; // the dot, or one past the end
        }
        wire.push(0);
        if wire.len() == 1 {
            return Err(NameError::EmptyLabel);
        }
        if wire.len() > NAME_OCTETS_MAX {
            return Err(NameError::TooLong);
        }
        Ok(Self(wire.into()))
    }

    /// Reads an uncompressed name at the front of `octets`; trailing octets are left alone.
    pub fn from_wire(octets: &[u8]) -> Result<Self, NameError> {
        let mut at = 0;
        loop {
            match octets.get(at) {
                Some(0) => break,
                Some(&length) if usize::from(length) <= LABEL_OCTETS_MAX => at += 1 + usize::from(length),
                _ => return Err(NameError::Wire),
            }
        }
        if at + 1 > NAME_OCTETS_MAX {
            return Err(NameError::TooLong);
        }
        Ok(Self(octets[..=at].into()))
    }

    /// `label` in front of `self`.
    pub fn prepend(&self, label: &[u8]) -> Result<Self, NameError> {
        self.prepend_all(&[label])
    }

    /// All of `labels`, in order, in front of `self`.
    pub fn prepend_all(&self, labels: &[&[u8]]) -> Result<Self, NameError> {
        let mut wire =
            Vec::with_capacity(self.0.len() + labels.iter().map(|label| label.len() + 1).sum::<usize>());
        for label in labels {
            match label.len() {
                0 => return Err(NameError::EmptyLabel),
                1..=LABEL_OCTETS_MAX => wire.push(label.len() as u8),
                _ => return Err(NameError::LabelTooLong),
            }
            wire.extend_from_slice(label);
        }
        wire.extend_from_slice(&self.0);
        if wire.len() > NAME_OCTETS_MAX {
            return Err(NameError::TooLong);
        }
        Ok(Self(wire.into()))
    }

    pub fn as_wire(&self) -> &[u8] {
        &self.0
    }

    /// The labels from left to right, without the root.
    pub fn labels(&self) -> Labels<'_> {
        Labels(&self.0)
    }

    /// The name and every name above it in wire form, the root last.
    pub fn suffixes(&self) -> Suffixes<'_> {
        Suffixes(Some(&self.0))
    }

    pub fn is_root(&self) -> bool {
        self.0.len() == 1
    }

    /// True where `self` is `zone` or below it; on a label boundary, without case.
    pub fn is_within(&self, zone: &Name) -> bool {
        // A length octet is never a letter, so the fold compares whole wire forms.
        self.suffixes().any(|suffix| suffix.eq_ignore_ascii_case(&zone.0))
    }

    /// The labels of `self` in front of `zone`; `None` where it is not within it.
    pub fn labels_below(&self, zone: &Name) -> Option<Vec<&[u8]>> {
        if !self.is_within(zone) {
            return None;
        }
        let below = self.labels().count() - zone.labels().count();
        Some(self.labels().take(below).collect())
    }

    /// The same name with every ASCII letter in lower case.
    pub fn to_lowercase(&self) -> Self {
        // Length octets are at most 63, below `A`, so they can go through the same fold.
        Self(self.0.iter().map(u8::to_ascii_lowercase).collect())
    }

    /// The last labels of the name, `count` of them; the name itself where it has fewer.
    pub fn last_labels(&self, count: usize) -> Self {
        let skip = self.labels().count().saturating_sub(count);
        match self.suffixes().nth(skip) {
            Some(suffix) => Self(suffix.into()),
            None => self.clone(),
        }
    }
}

fn unescape(text: &[u8]) -> Result<(u8, usize), NameError> {
    if text[0] != b'\\' {
        return Ok((text[0], 1));
    }
    match text.get(1) {
        Some(first) if first.is_ascii_digit() => {
            let digits = text
                .get(1..4)
                .filter(|digits| digits.iter().all(u8::is_ascii_digit))
                .ok_or(NameError::Escape)?;
            let value = digits.iter().fold(0u16, |value, digit| value * 10 + u16::from(digit - b'0'));
            Ok((u8::try_from(value).map_err(|_| NameError::Escape)?, 4))
        }
        Some(&octet) => Ok((octet, 2)),
        None => Err(NameError::Escape),
    }
}

/// The labels of a name in wire form.
pub struct Labels<'a>(&'a [u8]);

impl<'a> Iterator for Labels<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(*self.0.first()?);
        if length == 0 {
            return None;
        }
        let label = &self.0[1..=length];
        self.0 = &self.0[1 + length..];
        Some(label)
    }
}

/// A name and every name above it, as slices of one wire form.
pub struct Suffixes<'a>(Option<&'a [u8]>);

impl<'a> Iterator for Suffixes<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let here = self.0?;
        let length = usize::from(here[0]);
        self.0 = (length != 0).then(|| &here[1 + length..]);
        Some(here)
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for Name {}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Folded(&self.0).hash(state);
    }
}

/// A name in wire form, or the end of one, that compares without case (RFC 4343).
#[derive(Clone, Copy)]
pub(crate) struct Folded<'a>(pub &'a [u8]);

impl PartialEq for Folded<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(other.0)
    }
}

impl Eq for Folded<'_> {}

impl Hash for Folded<'_> {
    /// In pieces, for an octet at a time costs several times as much.
    fn hash<H: Hasher>(&self, state: &mut H) {
        for octets in self.0.chunks(64) {
            let mut piece = [0; 64];
            let piece = &mut piece[..octets.len()];
            piece.copy_from_slice(octets);
            piece.make_ascii_lowercase();
            state.write(piece);
        }
    }
}

/// Presentation form, absolute; what is not printable is escaped (RFC 1035 section 5.1), so a
/// name can go into a log or onto a terminal as it is.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() {
            return f.write_str(".");
        }
        for label in self.labels() {
            for &octet in label {
                match octet {
                    b'.' | b'\\' | b'"' | b';' | b'@' | b'$' | b'(' | b')' => {
                        write!(f, "\\{}", octet as char)?
                    }
                    0x21..=0x7e => write!(f, "{}", octet as char)?,
                    _ => write!(f, "\\{octet:03}")?,
                }
            }
            f.write_str(".")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presentation_and_wire_agree() {
        for text in [".", "a.", "web.service.local.", "a\\.b.c.", "a\\000\\255.example.", "\\@.x."] {
            let name = Name::parse(text).unwrap();
            assert_eq!(name.to_string(), text);
            assert_eq!(Name::from_wire(name.as_wire()).unwrap(), name);
        }
        assert_eq!(Name::parse("a").unwrap(), Name::parse("A.").unwrap());
    }

    #[test]
    fn broken_names_are_refused() {
        let long = "a".repeat(64);
        for (text, error) in [
            ("", NameError::EmptyLabel),
            ("a..b", NameError::EmptyLabel),
            (".a", NameError::EmptyLabel),
            (long.as_str(), NameError::LabelTooLong),
            ("a\\2", NameError::Escape),
            ("a\\300", NameError::Escape),
            ("a\\", NameError::Escape),
        ] {
            assert_eq!(Name::parse(text).unwrap_err(), error, "{text}");
        }
        let longest = format!("{0}.{0}.{0}.{1}", "a".repeat(63), "b".repeat(61));
        assert_eq!(Name::parse(&longest).unwrap().as_wire().len(), 255);
        assert_eq!(Name::parse(&format!("{longest}b")).unwrap_err(), NameError::TooLong);
        assert_eq!(Name::from_wire(&[0xc0, 0]).unwrap_err(), NameError::Wire);
        assert_eq!(Name::from_wire(&[3, b'a']).unwrap_err(), NameError::Wire);
    }

    #[test]
    fn within_is_on_label_boundaries() {
        let zone = Name::parse("service.local").unwrap();
        assert!(Name::parse("Web.SERVICE.local").unwrap().is_within(&zone));
        assert!(zone.is_within(&zone));
        assert!(!Name::parse("myservice.local").unwrap().is_within(&zone));
        assert!(!Name::parse("local").unwrap().is_within(&zone));
    }
}
