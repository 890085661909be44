//! Tokens: secrets that may do what their grants say. Only a digest of each is kept.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use ring::digest::{SHA256, digest};
use subtle::ConstantTimeEq;

use super::Denied;
use super::rule::Grant;
use crate::time::Wall;

/// Tokens at once: one for each service of a large site, and a page of memory for each.
pub const TOKENS_MAX: usize = 10_000;
/// Octets of a token's name.
pub const TOKEN_NAME_OCTETS_MAX: usize = 64;
/// Octets of a token's secret: 256 random bits, so that one pass of SHA-256 is enough to keep it by. What makes a hash
/// slow defends what people choose, which can be guessed; 2^256 cannot be gone through, however fast each try is.
pub const SECRET_OCTETS: usize = 32;
/// How a token begins: who finds one in a log or a repository knows what it is.
const TOKEN_PREFIX: &str = "callsign_";
/// What one token allows and denies: looked at for every request that carries it.
pub const GRANTS_MAX: usize = 64;

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
    pub(super) fn holds(&self, token: &Token, now: Wall) -> Result<(), Denied> {
        if !self.by_number.contains_key(&token.number) {
            return Err(Denied::UnknownToken);
        }
        match token.expires {
            Some(expires) if expires <= now => Err(Denied::Expired(token.name.clone())),
            _ => Ok(()),
        }
    }
}
