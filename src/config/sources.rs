//! Where settings come from: a file, the environment, flags. Every source is reduced to the same thing, a key with texts
//! and the place that it was written in.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;

use anyhow::{anyhow, bail};
use toml::de::{DeTable, DeValue};

use super::keys::{KEYS, Key, Takes};
use crate::protocol::did_you_mean;

const VARIABLE_PREFIX: &str = "CALLSIGN_";
/// Variables with our prefix that belong to the client.
const CLIENT_VARIABLES: [&str; 2] = ["CALLSIGN_SERVER", "CALLSIGN_TOKEN"];

/// One key and what it was given, from any source.
#[derive(Clone, Debug)]
pub struct Setting {
    pub key: &'static str,
    pub values: Vec<Value>,
}

/// One text, and the key with the place it was written in, as complaints begin: `--ttl`, `CALLSIGN_TTL`,
/// `callsign.toml:3:7: ttl`.
#[derive(Clone, Debug)]
pub struct Value {
    pub text: String,
    pub origin: String,
}

impl Setting {
    /// A flag of the command line.
    pub fn flag(key: &'static str, texts: Vec<String>) -> Self {
        let value = |text| Value { text, origin: format!("--{key}") };
        Self { key, values: texts.into_iter().map(value).collect() }
    }
}

/// What was given for each key; the last source wins.
#[derive(Default)]
pub struct Given(pub BTreeMap<&'static str, Vec<Value>>);

impl Given {
    pub fn file(&mut self, path: &str, text: &str) -> anyhow::Result<()> {
        let place = |at: usize| {
            let (line, column) = position(text, at);
            format!("{path}:{line}:{column}")
        };
        let table = DeTable::parse(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            let line = text.lines().nth(position(text, at).0 - 1).unwrap_or_default().trim();
            anyhow!("{}: {} in `{}`", place(at), error.message().replace('\n', ", "), line.escape_debug())
        })?;
        for (key, value) in table.get_ref() {
            let origin = place(key.span().start);
            let Some(known) = known(key.get_ref()) else {
                let names: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
                let hint = did_you_mean(key.get_ref(), &names);
                bail!(
                    "{origin}: unknown key `{}`{hint}; keys are {}",
                    key.get_ref().escape_debug(),
                    names.join(", ")
                );
            };
            let origin = place(value.span().start);
            let values = match value.get_ref() {
                DeValue::Array(list) => list
                    .iter()
                    .map(|value| scalar(known.name, value.get_ref(), place(value.span().start)))
                    .collect::<anyhow::Result<_>>()?,
                value => vec![scalar(known.name, value, origin)?],
            };
            self.0.insert(known.name, values);
        }
        Ok(())
    }

    /// A variable that is set and empty is as good as unset, as shells and unit files write it.
    pub fn environment(&mut self, environment: &[(OsString, OsString)]) -> anyhow::Result<()> {
        for (name, text) in environment {
            let Some(variable) = name.to_str().filter(|name| name.starts_with(VARIABLE_PREFIX)) else {
                continue;
            };
            if CLIENT_VARIABLES.contains(&variable) {
                continue;
            }
            let key = variable[VARIABLE_PREFIX.len()..].to_ascii_lowercase().replace('_', "-");
            let Some(known) = known(&key).filter(|known| variable_of(known.name) == variable) else {
                let variables: Vec<String> = KEYS.iter().map(|key| variable_of(key.name)).collect();
                let variables: Vec<&str> = variables.iter().map(String::as_str).collect();
                bail!(
                    "{}: unknown variable{}",
                    variable.escape_debug(),
                    did_you_mean(&variable.to_ascii_uppercase(), &variables)
                );
            };
            let Some(text) = text.to_str() else { bail!("{variable}: is not UTF-8") };
            if text.is_empty() {
                continue;
            }
            let value = |text: &str| Value { text: text.trim().to_owned(), origin: variable.to_owned() };
            let values = match known.takes {
                Takes::Several | Takes::Any => text.split(',').map(value).collect(),
                Takes::One | Takes::Switch => vec![value(text)],
            };
            self.0.insert(known.name, values);
        }
        Ok(())
    }

    pub fn list<T: PartialEq>(
        &self,
        key: &str,
        read: fn(&str) -> Result<T, String>,
    ) -> anyhow::Result<Option<Vec<T>>> {
        let Some(values) = self.0.get(key) else {
            return Ok(None);
        };
        if values.is_empty() && known(key).is_some_and(|known| known.takes != Takes::Any) {
            bail!("{key} must not be an empty list; leave the key out to take the default");
        }
        let mut list = Vec::with_capacity(values.len());
        for value in values {
            let item = read(&value.text).map_err(|rule| value.complaint(rule))?;
            // Port 0 is a free port, another one each time.
            if list.contains(&item) && !value.text.ends_with(":0") {
                return Err(value.complaint(format!("names `{}` twice", value.text.escape_debug())));
            }
            list.push(item);
        }
        Ok(Some(list))
    }

    pub fn one<T>(&self, key: &str, read: impl Fn(&str) -> Result<T, String>) -> anyhow::Result<Option<T>> {
        match self.0.get(key).map(Vec::as_slice) {
            None => Ok(None),
            Some([value]) => read(&value.text).map(Some).map_err(|rule| value.complaint(rule)),
            Some([_, second, ..]) => Err(second.complaint("takes one value, not a list")),
            Some([]) => bail!("{key} takes one value, not an empty list"),
        }
    }
}

impl Value {
    pub fn complaint(&self, rule: impl fmt::Display) -> anyhow::Error {
        anyhow!("{} {rule}", self.origin)
    }
}

fn known(key: &str) -> Option<&'static Key> {
    KEYS.iter().find(|known| known.name == key)
}

pub fn variable_of(key: &str) -> String {
    format!("{VARIABLE_PREFIX}{}", key.to_ascii_uppercase().replace('-', "_"))
}

/// Line and column, both from 1; the column counts characters, as editors do.
fn position(text: &str, at: usize) -> (usize, usize) {
    let before = &text[..text.floor_char_boundary(at)];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

fn scalar(key: &str, value: &DeValue<'_>, origin: String) -> anyhow::Result<Value> {
    let text = match value {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) => number.as_str().to_owned(),
        DeValue::Boolean(yes) => yes.to_string(),
        other => bail!(
            "{origin}: {key} must be a text, a number, true or false, or a list of texts, not a {}",
            other.type_str()
        ),
    };
    Ok(Value { text, origin: format!("{origin}: {key}") })
}
