//! Who one is, and tokens: `hello` and `token`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Problem;
use crate::access::{GRANTS_MAX, Grant, SECRET_OCTETS, TOKEN_NAME_OCTETS_MAX, Token};
use crate::time::{Wall, format_duration, parse_duration};

/// The longest time that a token counts; what should count longer is made anew, or has no end.
const TOKEN_TIME_MAX: Duration = Duration::from_secs(3650 * 86_400);

/// A text that nobody is shown: it goes over the wire and nowhere else.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// Who speaks from here on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HelloForm {
    pub token: Secret,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum TokenForm {
    Create(CreateForm),
    List(super::StatusForm),
    Revoke(NameForm),
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateForm {
    pub name: String,
    /// `register+report:web*`
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<String>,
    /// How long it counts; left out: until it is revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NameForm {
    pub name: String,
}

/// What `hello` is answered: who one is now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WelcomeForm {
    pub identity: String,
}

/// A token as it is shown; the text that its holder carries is there once, in the reply to `create`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenShown {
    pub name: String,
    pub allow: Vec<String>,
    pub deny: Vec<String>,
    pub created: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// Its time is over.
    pub expired: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokensForm {
    pub tokens: Vec<TokenShown>,
}

impl CreateForm {
    /// The token that is asked for, of 8 and 32 random octets.
    ///
    /// # Errors
    ///
    /// A field does not fit.
    pub fn token(&self, number: u64, secret: &[u8; SECRET_OCTETS], now: Wall) -> Result<Token, Problem> {
        let name = token_name(&self.name)?;
        let grants = |field: &'static str, texts: &[String], allows| -> Result<Vec<Grant>, Problem> {
            let read =
                |text: &String| Grant::parse(text, allows).map_err(|what| Problem::invalid(field, what));
            texts.iter().map(read).collect()
        };
        let mut all = grants("allow", &self.allow, true)?;
        if all.is_empty() {
            let text = "must name what the token is for, such as register:web*; a token that allows nothing is of no use";
            return Err(Problem::invalid("allow", text));
        }
        all.extend(grants("deny", &self.deny, false)?);
        if all.len() > GRANTS_MAX {
            let text = format!("and deny may have {GRANTS_MAX} entries together, not {}", all.len());
            return Err(Problem::invalid("allow", text));
        }
        let expires = match self.expires.as_deref() {
            None => None,
            Some(text) => {
                let time = parse_duration(text).filter(|time| *time <= TOKEN_TIME_MAX && !time.is_zero());
                let time = time.ok_or_else(|| {
                    let most = format_duration(TOKEN_TIME_MAX);
                    Problem::invalid("expires", format!("must be a time such as 12h or 30d, at most {most}"))
                })?;
                Some(now.after(time))
            }
        };
        Ok(Token { name, number, hash: Token::hash_of(secret), grants: all, created: now, expires })
    }
}

impl TokenShown {
    pub fn of(token: &Token, now: Wall) -> Self {
        let grants = |allows| {
            token.grants.iter().filter(|grant| grant.allows == allows).map(Grant::to_string).collect()
        };
        Self {
            name: token.name.to_string(),
            allow: grants(true),
            deny: grants(false),
            created: token.created.to_string(),
            expires: token.expires.map(|expires| expires.to_string()),
            expired: token.expires.is_some_and(|expires| expires <= now),
            token: None,
        }
    }
}

/// The name of a token: what the log calls whoever carries it.
///
/// # Errors
///
/// It does not fit.
pub fn token_name(text: &str) -> Result<Arc<str>, Problem> {
    let fits = (1..=TOKEN_NAME_OCTETS_MAX).contains(&text.len())
        && text.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"-_.@/".contains(&octet));
    match fits {
        true => Ok(text.into()),
        false => {
            let text = format!("must be 1 to {TOKEN_NAME_OCTETS_MAX} letters, digits and - _ . @ /");
            Err(Problem::invalid("name", text))
        }
    }
}
