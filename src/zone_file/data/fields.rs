//! The data of a record that the library does not read: tokens to octets, field by field.

use std::collections::BTreeMap;

use data_encoding::{BASE64, Encoding, HEXLOWER_PERMISSIVE};

use super::layout::Field;
use super::{UNREADABLE, rtype, words};
use crate::name::Name;
use crate::zone::ZoneError;
use crate::zone_file::entry::Token;
use crate::zone_file::spelling::{name, unquoted};

/// The data of one record, field by field.
pub(super) struct Fields<'a, 't> {
    pub head: &'a Token<'t>,
    pub tokens: &'a [Token<'t>],
    pub origin: &'a Name,
    pub octets: Vec<u8>,
}

impl<'a, 't> Fields<'a, 't> {
    pub fn read(mut self, fields: &[Field]) -> Result<Vec<u8>, ZoneError> {
        for field in fields {
            self.field(*field)?;
        }
        match self.tokens.first() {
            Some(token) => Err(token.error("something follows the end of the record")),
            None => Ok(self.octets),
        }
    }

    fn next(&mut self) -> Result<&'a Token<'t>, ZoneError> {
        let (first, rest) = self.tokens.split_first().ok_or_else(|| {
            self.head.error(format!("the record ends early in the data of {}", self.head.shown()))
        })?;
        self.tokens = rest;
        Ok(first)
    }

    fn field(&mut self, field: Field) -> Result<(), ZoneError> {
        match field {
            Field::U8 => self.number::<u8>("a number up to 255")?,
            Field::U16 => self.number::<u16>("a number up to 65535")?,
            Field::U32 => self.number::<u32>("a number up to 4294967295")?,
            Field::Name => {
                let token = self.next()?;
                let name = name(token.text, self.origin).map_err(|reason| token.error(reason))?;
                self.octets.extend_from_slice(name.as_wire());
            }
            Field::Text => {
                let token = self.next()?;
                self.text(token)?;
            }
            Field::MaybeText if self.tokens.is_empty() => {}
            Field::MaybeText => self.field(Field::Text)?,
            Field::Texts => {
                self.field(Field::Text)?;
                while !self.tokens.is_empty() {
                    self.field(Field::Text)?;
                }
            }
            Field::LongText => {
                let token = self.next()?;
                let text = unquoted(token.text).ok_or_else(|| token.error(UNREADABLE))?;
                self.octets.extend(text);
            }
            Field::Hex => self.encoded("hexadecimal digits, two for an octet", &HEXLOWER_PERMISSIVE)?,
            Field::Base64 => self.encoded("base64", &BASE64)?,
            Field::Types => self.types()?,
            Field::Address4 => self.put("an IPv4 address", words::address4)?,
            Field::Eui(octets) => {
                self.put("pairs of hexadecimal digits with `-` between", |text| words::eui(text, octets))?
            }
            Field::Node64 => self.put("four groups of hexadecimal digits with `:` between", words::node64)?,
            Field::Certificate => {
                self.put("a type of certificate, PKIX or PGP for instance", words::certificate)?
            }
            Field::Location => self.location()?,
            Field::Prefixes => {
                while !self.tokens.is_empty() {
                    self.put("a prefix such as `1:10.0.0.0/8` or `!2:2001:db8::/32`", words::prefix)?;
                }
            }
            Field::Nsap => {
                self.put("`0x` and pairs of hexadecimal digits, with or without dots", words::nsap)?
            }
            Field::Services => self.services()?,
            Field::HostIdentity => self.host_identity()?,
        }
        Ok(())
    }

    /// A token that is what `read` takes it for; `what` says in a complaint what that is.
    pub fn word<T>(&mut self, what: &str, read: impl FnOnce(&str) -> Option<T>) -> Result<T, ZoneError> {
        let token = self.next()?;
        let text = std::str::from_utf8(token.text).ok().filter(|_| !token.is_quoted());
        text.and_then(read).ok_or_else(|| token.error(format!("{} should be {what}", token.shown())))
    }

    /// The octets that a token stands for.
    fn put<T>(&mut self, what: &str, read: impl FnOnce(&str) -> Option<T>) -> Result<(), ZoneError>
    where
        T: IntoIterator<Item = u8>,
    {
        let octets = self.word(what, read)?;
        self.octets.extend(octets);
        Ok(())
    }

    fn number<T: TryFrom<u32>>(&mut self, what: &str) -> Result<(), ZoneError> {
        let number = self.word(what, |text| {
            let number = text.parse::<u32>().ok()?;
            T::try_from(number).ok().map(|_| number)
        })?;
        let octets = number.to_be_bytes();
        self.octets.extend_from_slice(&octets[4 - size_of::<T>()..]);
        Ok(())
    }

    fn text(&mut self, token: &Token<'_>) -> Result<(), ZoneError> {
        let text = unquoted(token.text).ok_or_else(|| token.error(UNREADABLE))?;
        let length = u8::try_from(text.len());
        let length =
            length.map_err(|_| token.error("a string has at most 255 octets; write it as several"))?;
        self.octets.push(length);
        self.octets.extend(text);
        Ok(())
    }

    /// Everything that is left, together.
    fn encoded(&mut self, what: &str, encoding: &Encoding) -> Result<(), ZoneError> {
        let first = self.next()?;
        let mut text = first.text.to_vec();
        for token in std::mem::take(&mut self.tokens) {
            text.extend_from_slice(token.text);
        }
        let octets = encoding.decode(&text);
        self.octets.extend(octets.map_err(|_| first.error(format!("{} should be {what}", first.shown())))?);
        Ok(())
    }

    fn types(&mut self) -> Result<(), ZoneError> {
        let mut windows: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
        for token in std::mem::take(&mut self.tokens) {
            let found = rtype(token);
            let [window, low] = found
                .ok_or_else(|| token.error(format!("{} is no record type", token.shown())))?
                .0
                .to_be_bytes();
            let bits = windows.entry(window).or_default();
            let at = usize::from(low / 8);
            bits.resize(bits.len().max(at + 1), 0);
            bits[at] |= 0x80 >> (low % 8);
        }
        for (window, bits) in windows {
            self.octets.extend([window, bits.len() as u8]); // 32 at most
            self.octets.extend(bits);
        }
        Ok(())
    }

    /// Bit n of the map is port n.
    fn services(&mut self) -> Result<(), ZoneError> {
        let protocol = self.word("a protocol: tcp, udp or a number up to 255", |text| match text {
            text if text.eq_ignore_ascii_case("tcp") => Some(6u8),
            text if text.eq_ignore_ascii_case("udp") => Some(17),
            number => number.parse().ok(),
        })?;
        let mut map: Vec<u8> = Vec::new();
        while !self.tokens.is_empty() {
            let port = self.word("a port, as a number up to 65535 or a word such as smtp", words::port)?;
            let at = usize::from(port / 8);
            map.resize(map.len().max(at + 1), 0);
            map[at] |= 0x80 >> (port % 8);
        }
        self.octets.push(protocol);
        self.octets.extend(map);
        Ok(())
    }

    /// RFC 8005 section 5: the lengths come first.
    fn host_identity(&mut self) -> Result<(), ZoneError> {
        let algorithm: u8 = self.word("the number of an algorithm, up to 255", |text| text.parse().ok())?;
        let tag = self.word("a tag of up to 255 octets, in hexadecimal digits", |text| {
            let tag = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()?;
            (1..=usize::from(u8::MAX)).contains(&tag.len()).then_some(tag)
        })?;
        let key = self.word("a key in base 64, in one piece", |text| {
            let key = BASE64.decode(text.as_bytes()).ok()?;
            (1..=usize::from(u16::MAX)).contains(&key.len()).then_some(key)
        })?;
        self.octets.extend([tag.len() as u8, algorithm]);
        self.octets.extend((key.len() as u16).to_be_bytes());
        self.octets.extend(tag);
        self.octets.extend(key);
        while !self.tokens.is_empty() {
            self.field(Field::Name)?;
        }
        Ok(())
    }
}
