//! Files of keys, in the form that `tsig-keygen` writes and that BIND, nsupdate and NSD's users have already:
//!
//! ```text
//! key "secondaries" {
//!         algorithm hmac-sha256;
//!         secret "c2VjcmV0IG9jdGV0cyBvZiBhIGtleSwgdGhpcnR5LXR3bw==";
//! };
//! ```
//!
//! A complaint names the line, and never what the file says there: it may be the secret.

use data_encoding::BASE64;

use super::tsig::{Algorithm, KEYS_MAX, Key};
use crate::name::Name;

/// Octets of a file at most: as many keys as there may be, with comments.
pub const FILE_OCTETS_MAX: u64 = 65_536;
/// Octets of a secret: shorter ones can be found by trying (RFC 8945 section 10 asks for as many as the hash has), and
/// longer ones are hashed before they are used.
const SECRET_OCTETS_MIN: usize = 16;
const SECRET_OCTETS_MAX: usize = 512;

/// What is wrong, and in which line, from 1.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct KeyFileError {
    pub line: usize,
    pub reason: String,
}

/// The keys of a file, in its order.
///
/// # Errors
///
/// The text is not of this form, or a key is none that messages may be signed with.
pub fn read(text: &str) -> Result<Vec<Key>, KeyFileError> {
    let mut words = Words { rest: text, line: 1 };
    let mut keys: Vec<Key> = Vec::new();
    while let Some(word) = words.next()? {
        if word != "key" {
            return Err(words.error("a file of keys has nothing but `key NAME { algorithm …; secret …; };`"));
        }
        let name = words.next()?.unwrap_or_default();
        let name = Name::parse(name).ok().filter(|name| !name.is_root());
        let Some(name) = name else { return Err(words.error("after `key` stands the key's name")) };
        if keys.iter().any(|key| key.name == name) {
            return Err(words.error(format!("the key {name} is there twice")));
        }
        if keys.len() == KEYS_MAX {
            return Err(words.error(format!("there are more than {KEYS_MAX} keys")));
        }
        keys.push(words.key(&name)?);
    }
    match keys.is_empty() {
        true => Err(words.error("there is no key in this file; `tsig-keygen NAME` prints one")),
        false => Ok(keys),
    }
}

struct Words<'a> {
    rest: &'a str,
    line: usize,
}

impl<'a> Words<'a> {
    fn error(&self, reason: impl Into<String>) -> KeyFileError {
        KeyFileError { line: self.line, reason: reason.into() }
    }

    /// `{ algorithm …; secret …; };`
    fn key(&mut self, name: &Name) -> Result<Key, KeyFileError> {
        self.expect("{")?;
        let (mut algorithm, mut secret) = (None, None);
        loop {
            match self.next()? {
                Some("algorithm") => {
                    let word = self.next()?.unwrap_or_default().to_ascii_lowercase();
                    let found =
                        Algorithm::ALL.into_iter().find(|known| known.as_str() == word.trim_end_matches('.'));
                    algorithm = Some(found.ok_or_else(|| {
                        let known = Algorithm::ALL.map(Algorithm::as_str).join(", ");
                        self.error(format!("the algorithm of {name} must be one of {known}"))
                    })?);
                    self.expect(";")?;
                }
                Some("secret") => {
                    let word = self.next()?.unwrap_or_default();
                    secret = Some(BASE64.decode(word.as_bytes()).map_err(|_| {
                        self.error(format!("the secret of {name} must be base64, as `tsig-keygen` prints it"))
                    })?);
                    self.expect(";")?;
                }
                Some("}") => break,
                _ => {
                    return Err(self.error(format!(
                        "the key {name} has an `algorithm` and a `secret`, and nothing else"
                    )));
                }
            }
        }
        self.expect(";")?;
        let Some(secret) = secret else { return Err(self.error(format!("the key {name} has no secret"))) };
        if !(SECRET_OCTETS_MIN..=SECRET_OCTETS_MAX).contains(&secret.len()) {
            return Err(self.error(format!(
                "the secret of {name} must have {SECRET_OCTETS_MIN} to {SECRET_OCTETS_MAX} octets, and has {}",
                secret.len()
            )));
        }
        let algorithm = algorithm.ok_or_else(|| self.error(format!("the key {name} has no algorithm")))?;
        Ok(Key::new(name, algorithm, &secret))
    }

    fn expect(&mut self, mark: &str) -> Result<(), KeyFileError> {
        match self.next()? {
            Some(word) if word == mark => Ok(()),
            _ => Err(self.error(format!("`{mark}` is missing"))),
        }
    }

    /// The next word or mark; quotes are taken off.
    fn next(&mut self) -> Result<Option<&'a str>, KeyFileError> {
        loop {
            let blank = self.rest.len() - self.rest.trim_start().len();
            self.skip(blank);
            if self.rest.starts_with('#') || self.rest.starts_with("//") {
                self.skip(self.rest.find('\n').unwrap_or(self.rest.len()));
            } else if self.rest.starts_with("/*") {
                let Some(end) = self.rest.find("*/") else { return Err(self.error("a comment has no end")) };
                self.skip(end + 2);
            } else {
                break;
            }
        }
        let Some(first) = self.rest.chars().next() else { return Ok(None) };
        if first == '"' {
            let Some(octets) = self.rest[1..].find(['"', '\n']) else {
                return Err(self.error("`\"` is missing"));
            };
            let word = &self.rest[1..=octets];
            if !self.rest[1 + octets..].starts_with('"') {
                return Err(self.error("`\"` is missing"));
            }
            self.skip(octets + 2);
            return Ok(Some(word));
        }
        let marks = ['{', '}', ';'];
        let octets = match marks.contains(&first) {
            true => 1,
            false => self
                .rest
                .find(|of: char| of.is_whitespace() || marks.contains(&of))
                .unwrap_or(self.rest.len()),
        };
        let word = &self.rest[..octets];
        self.skip(octets);
        Ok(Some(word))
    }

    fn skip(&mut self, octets: usize) {
        let (skipped, rest) = self.rest.split_at(octets);
        self.line += skipped.matches('\n').count();
        self.rest = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

    #[test]
    fn keys_are_read_as_tsig_keygen_writes_them() {
        let text = format!(
            "# two\nkey \"Secondaries.\" {{\n\talgorithm hmac-sha256;\n\tsecret \"{SECRET}\";\n}};\n\
             /* and\nanother */ key b.example {{ secret {SECRET}; algorithm HMAC-SHA512.; }}; // end"
        );
        let keys = read(&text).unwrap();
        let names: Vec<String> = keys.iter().map(|key| key.name.to_string()).collect();
        assert_eq!(names, ["secondaries.", "b.example."]);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line_and_without_the_secret() {
        let key = |body: &str| format!("key a {{\n{body}\n}};\n");
        for (text, complaint) in [
            (String::new(), "line 1: there is no key in this file"),
            ("zone a { };".to_owned(), "line 1: a file of keys has nothing but"),
            (key("algorithm hmac-md5;"), "line 2: the algorithm of a. must be one of hmac-sha256"),
            (key("algorithm hmac-sha256; secret \"?geheim?\";"), "line 2: the secret of a. must be base64"),
            (key("algorithm hmac-sha256; secret \"YWJj\";"), "line 3: the secret of a. must have 16 to 512"),
            (key("algorithm hmac-sha256;"), "line 3: the key a. has no secret"),
            (key(&format!("secret {SECRET};")), "line 3: the key a. has no algorithm"),
            (key(&format!("secret {SECRET}")), "line 3: `;` is missing"),
            (key("secret \"abc"), "line 2: `\"` is missing"),
            ("key a {".to_owned(), "line 1: the key a. has an `algorithm` and a `secret`"),
            ("/* never".to_owned(), "line 1: a comment has no end"),
        ] {
            let error = read(&text).unwrap_err().to_string();
            assert!(error.starts_with(complaint), "{error}");
            assert!(!error.contains("geheim") && !error.contains("YWJj"), "{error}");
        }
        let twice = key(&format!("secret {SECRET}; algorithm hmac-sha256;")).repeat(2);
        assert!(read(&twice).unwrap_err().to_string().contains("the key a. is there twice"));
    }
}
