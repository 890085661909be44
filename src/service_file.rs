//! The reader of service files: text in, registrations with their line numbers out.
//!
//! A file in TOML says what the registration protocol says, in the same words, under `[[register]]`. A file in JSON
//! is a service definition of Consul's: `{"service": {…}}` or `{"services": [{…}]}`. What a file defines has no lease:
//! it is registered for as long as the file says so, and its checks decide whether it is in the answers.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;
use toml::Spanned;

use crate::protocol::{Peer, Problem, RegisterForm};
use crate::registry::{Registration, Unlisted};

/// Octets of one file, and registrations in it: more is generated, and better registered by a program.
pub const FILE_OCTETS_MAX: usize = 4 << 20;
pub const ENTRIES_MAX: usize = 10_000;

/// The two ways to write a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Toml,
    Json,
}

impl Form {
    /// By the end of a file's name; `None` where it is no service file.
    pub fn of(name: &str) -> Option<Self> {
        match name.rsplit_once('.')? {
            (_, "toml") => Some(Self::Toml),
            (_, "json") => Some(Self::Json),
            _ => None,
        }
    }
}

/// What is wrong with a file, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{line}: {reason}")]
pub struct Wrong {
    /// From 1.
    pub line: usize,
    pub reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TomlFile {
    #[serde(default)]
    register: Vec<Spanned<RegisterForm>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonFile<'a> {
    #[serde(borrow)]
    service: Option<&'a RawValue>,
    #[serde(borrow)]
    services: Option<Vec<&'a RawValue>>,
}

/// The registrations of a file in their order, whose lease has no id yet; `source` says which file it is, and `consul` reads one
/// service definition of Consul's.
pub fn read(
    text: &str,
    form: Form,
    source: &Arc<str>,
    peer: &Peer,
    consul: impl Fn(&serde_json::Value) -> Result<Registration, String>,
) -> Result<Vec<Registration>, Wrong> {
    if text.len() > FILE_OCTETS_MAX {
        return Err(Wrong {
            line: 1,
            reason: format!("a service file has at most {FILE_OCTETS_MAX} octets"),
        });
    }
    let mut registrations: Vec<Registration> = Vec::new();
    let entries = match form {
        Form::Toml => toml_entries(text, peer)?,
        Form::Json => json_entries(text)?,
    };
    if entries.len() > ENTRIES_MAX {
        return Err(Wrong {
            line: 1,
            reason: format!("a service file has at most {ENTRIES_MAX} registrations"),
        });
    }
    for (line, entry) in entries {
        let wrong = |problem: Problem| Wrong { line, reason: problem.message };
        let mut registration = match entry {
            Entry::Own(form) => form.registration(peer, 0).map_err(wrong)?,
            Entry::Consul(value) => consul(&value).map_err(|reason| Wrong { line, reason })?,
        };
        if registrations.iter().any(|known| known.key == registration.key) {
            return Err(Wrong { line, reason: format!("{} is defined twice", registration.key) });
        }
        registration.source = Some(source.clone());
        registration.anonymous = true;
        registration.lease_id = 0;
        registration.unlisted = Unlisted::TheseGo(Vec::new());
        registrations.push(registration);
    }
    Ok(registrations)
}

enum Entry {
    Own(Box<RegisterForm>),
    Consul(serde_json::Value),
}

fn toml_entries(text: &str, peer: &Peer) -> Result<Vec<(usize, Entry)>, Wrong> {
    let file: TomlFile = toml::from_str(text).map_err(|error| Wrong {
        line: error.span().map_or(1, |span| line_of(text, span.start)),
        reason: error.message().replace('\n', ", "),
    })?;
    let mut entries = Vec::with_capacity(file.register.len());
    for entry in file.register {
        let line = line_of(text, entry.span().start);
        let mut form = entry.into_inner();
        match form.lease.as_deref() {
            None | Some("none") => form.lease = Some("none".to_owned()),
            Some(_) => {
                let reason =
                    "lease must be left out, or `none`: nobody renews what a file defines; give it a check"
                        .to_owned();
                return Err(Wrong { line, reason });
            }
        }
        form.host.get_or_insert_with(|| peer.host.to_string());
        entries.push((line, Entry::Own(Box::new(form))));
    }
    Ok(entries)
}

fn json_entries(text: &str) -> Result<Vec<(usize, Entry)>, Wrong> {
    let no_definition = || Wrong {
        line: 1,
        reason: "expected {\"service\": {…}} or {\"services\": [{…}, …]}".to_owned(),
    };
    if !text.trim_start().starts_with('{') {
        return Err(no_definition());
    }
    let file: JsonFile<'_> = serde_json::from_str(text)
        .map_err(|error| Wrong { line: error.line().max(1), reason: error.to_string() })?;
    if file.service.is_none() && file.services.is_none() {
        return Err(no_definition());
    }
    let raw = file.service.into_iter().chain(file.services.unwrap_or_default());
    raw.map(|raw| {
        // It is borrowed from the text, so where it stands is where it begins.
        let line = line_of(text, raw.get().as_ptr() as usize - text.as_ptr() as usize);
        let value =
            serde_json::from_str(raw.get()).map_err(|error| Wrong { line, reason: error.to_string() })?;
        Ok((line, Entry::Consul(value)))
    })
    .collect()
}

fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at.min(text.len())].iter().filter(|octet| **octet == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::HostName;

    fn lines(text: &str, form: Form) -> Result<Vec<String>, String> {
        let host = HostName::parse("here").unwrap();
        let peer =
            Peer { host, addresses: vec![[10, 0, 0, 1].into()], loopback_allowed: true, connection: 0 };
        let nothing = |_: &serde_json::Value| Err("no Consul here".to_owned());
        let read = read(text, form, &"web.toml".into(), &peer, nothing);
        let shown = |registration: Registration| {
            format!("{} {} {:?}", registration.key, registration.checks.len(), registration.lease)
        };
        read.map(|registrations| registrations.into_iter().map(shown).collect())
            .map_err(|wrong| wrong.to_string())
    }

    #[test]
    fn a_file_says_what_is_registered() {
        let text = "
[[register]]
service = \"web\"
port = 80
tags = [\"v2\"]
meta = { rack = \"7\" }
checks = [{ id = \"up\", http = \"http://10.0.0.1/\", interval = \"5s\" }]

[[register]]
service = \"db\"
id = \"db-1\"
address = [\"10.0.0.7\", \"2001:db8::7\"]
ports = { sql = 5432, dns = { port = 53, transport = \"udp\" } }
";
        assert_eq!(lines(text, Form::Toml).unwrap(), ["web/web-here-80@here 1 None", "db/db-1@here 0 None"]);
        assert_eq!(lines("", Form::Toml).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, form, wrong) in [
            ("[[register]]\nservice = \"web\"\nport = 0\n", Form::Toml, "1: port must be 1 to 65535, not 0"),
            ("\n[[register]]\nservice = \"web\"\nprot = 80\n", Form::Toml, "4: unknown field `prot`"),
            ("[[register]]\nservice = \n", Form::Toml, "2: "),
            ("[[regster]]\nservice = \"web\"\n", Form::Toml, "1: unknown field `regster`"),
            (
                "\n\n[[register]]\nservice = \"web\"\nport = 80\nlease = \"15s\"\n",
                Form::Toml,
                "3: lease must be left out",
            ),
            (
                "[[register]]\nservice = \"web\"\nport = 80\n[[register]]\nservice = \"web\"\nport = 80\n",
                Form::Toml,
                "4: web/web-here-80@here is defined twice",
            ),
            ("{\n \"services\": [\n  {\"name\": \"web\"}\n ]\n}", Form::Json, "3: no Consul here"),
            ("{\n \"service\": \n", Form::Json, "3: EOF"),
            (
                "{\n \"servce\": {}}",
                Form::Json,
                "2: unknown field `servce`, expected `service` or `services`",
            ),
            ("{\"register\": {\"service\": \"web\"}}", Form::Json, "1: unknown field `register`"),
            ("{}", Form::Json, "1: expected {\"service\": {…}} or {\"services\": [{…}, …]}"),
            ("\n[]", Form::Json, "1: expected {\"service\""),
            ("", Form::Json, "1: expected {\"service\""),
        ] {
            let error = lines(text, form).unwrap_err();
            assert!(error.starts_with(wrong), "{text}: {error}");
        }
    }
}
