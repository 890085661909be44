//! A token as a line of an export: with everything but its text.

use serde::{Deserialize, Serialize};

use super::{hexadecimal, time};
use crate::access::{GRANTS_MAX, Grant, Token};
use crate::protocol::{Problem, Secret, lease_id_text, token_name};
use crate::time::Now;

/// A token: its hash, not its text, which only its holder has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenLine {
    pub name: String,
    /// 16 hexadecimal digits.
    pub number: String,
    /// SHA-256 of the secret, 64 hexadecimal digits.
    pub hash: Secret,
    pub allow: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<String>,
    pub created: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
}

impl TokenLine {
    pub fn of(token: &Token) -> Self {
        let grants = |allows| {
            token.grants.iter().filter(|grant| grant.allows == allows).map(Grant::to_string).collect()
        };
        Self {
            name: token.name.to_string(),
            number: lease_id_text(token.number),
            hash: Secret(token.hash.iter().map(|octet| format!("{octet:02x}")).collect()),
            allow: grants(true),
            deny: grants(false),
            created: token.created.to_string(),
            expires: token.expires.map(|expires| expires.to_string()),
        }
    }

    pub(super) fn token(&self, now: Now) -> Result<Token, Problem> {
        let mut grants = Vec::new();
        for (field, texts, allows) in [("allow", &self.allow, true), ("deny", &self.deny, false)] {
            for text in texts {
                grants.push(Grant::parse(text, allows).map_err(|what| Problem::invalid(field, what))?);
            }
        }
        if !(1..=GRANTS_MAX).contains(&grants.len()) {
            let rule = format!("and deny must have 1 to {GRANTS_MAX} entries together, not {}", grants.len());
            return Err(Problem::invalid("allow", rule));
        }
        let mut hash = [0; 32];
        let digits = self.hash.0.as_bytes();
        let fits = digits.len() == 64 && digits.iter().all(u8::is_ascii_hexdigit);
        for (octet, pair) in hash.iter_mut().zip(digits.chunks(2)).filter(|_| fits) {
            let digit = |digit: u8| (digit as char).to_digit(16).unwrap_or_default();
            *octet = (digit(pair[0]) << 4 | digit(pair[1])) as u8;
        }
        if !fits {
            return Err(Problem::invalid("hash", "must be 64 hexadecimal digits"));
        }
        Ok(Token {
            name: token_name(&self.name)?,
            number: hexadecimal("number", &self.number)?,
            hash,
            grants,
            created: time("created", &self.created, now)?,
            expires: self.expires.as_deref().map(|text| time("expires", text, now)).transpose()?,
        })
    }
}
