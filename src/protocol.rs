//! The registration protocol: one JSON object per line, each way.
//!
//! A request is an object with one member, its verb: `{"register":{"service":"web","port":8080}}`. Replies
//! come in the order of the requests. This file is the protocol: its forms and its limits; `intake` leads
//! from a form to what the registry knows, `shown` back. Sockets are `socket`'s affair; the CLI and the tests use the same
//! forms from the other side (`client`).
//!
//! Every complaint names the field and says what to do. An unknown field is an error: a misspelt
//! `tags` must not be a registration without tags.

mod access;
mod checks;
mod intake;
pub mod moving;
mod nodes;
mod reply;
mod request;
mod settings;
mod shapes;
mod shown;

use std::time::Duration;

pub use self::access::{
    CreateForm, HelloForm, NameForm, Secret, TokenForm, TokenShown, TokensForm, WelcomeForm, token_name,
};
pub use self::checks::CheckForm;
pub use self::intake::{Filter, Peer, unusable};
pub use self::nodes::{NodeShown, NodesReply, PlacedForm, RingForm, RingReply, ShareForm};
pub use self::reply::{
    AvailabilityReply, BackupForm, ChangeForm, CheckShown, DeregisteredForm, ExplainedForm,
    ExplainedInstance, InstanceForm, InstancesForm, KeyForm, LiveTimeForm, LogPage, MeanForm, NamedForm,
    NodeForm, PortShown, Problem, RecordForm, RecordsShown, RegisteredForm, RenewedForm, Reply, ReportedForm,
    ServerForm, SettingsReply, SettingsShown, SignaturesForm, SignedForm, SpanForm,
};
pub use self::request::{
    AtForm, AvailabilityForm, ExplainForm, FedForm, FeedForm, FilterForm, HolderForm, LogForm, LookupForm,
    RegisterForm, ReportForm, Request, SettingsForm, StatusForm,
};
pub use self::settings::{TTL_MAX, whole_seconds};
pub use self::shapes::{Pairs, PortForm, Several};
pub use self::shown::{lease_id_text, lease_text};

/// Longest line: a registration with every list full is about 70 KiB, its checks aside.
pub const FRAME_OCTETS_MAX: usize = 96 * 1024;
/// Instances in one reply; the rest of a list follows with `after`, that of a snapshot in further lines.
pub const LIST_MAX: usize = 1000;
/// Octets of check output in one reply: a thousand instances may carry 256 MiB of it.
pub const LIST_OUTPUT_OCTETS_MAX: usize = 4 << 20;
/// The lease of a registration that names none.
pub const LEASE_DEFAULT: Duration = Duration::from_secs(15);
/// The check that a `report` without one speaks of.
pub const CHECK_DEFAULT: &str = "report";

/// Reads one line, without its end.
pub fn decode(line: &[u8]) -> Result<Request<'_>, Problem> {
    let text = std::str::from_utf8(line).map_err(|error| {
        Problem::new("malformed", format!("octet {} of the line is not UTF-8", error.valid_up_to() + 1))
    })?;
    let request = serde_json::from_str(text).map_err(|error| complaint(text, &error))?;
    // serde reads a list as an object whose members are in order; nobody else does.
    match text.split_once(':') {
        Some((_verb, form)) if form.trim_start().starts_with('{') => Ok(request),
        _ => Err(Problem::new(
            "malformed",
            "the verb's value is no object; send {\"register\":{\"service\":\"web\",\"port\":8080}}",
        )),
    }
}

/// Writes a reply as one line.
pub fn encode(reply: &Reply, line: &mut Vec<u8>) {
    // Every form is made of texts and numbers with text keys, which JSON can always hold.
    serde_json::to_writer(&mut *line, reply).expect("a reply has a JSON form");
    line.push(b'\n');
}

/// Names the field that a JSON error is about; reads the line a second time, on this path only.
fn complaint(text: &str, error: &serde_json::Error) -> Problem {
    if !error.is_data() {
        if serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok() {
            return Problem::new("malformed", "a request is an object with one member, its verb");
        }
        let hint =
            "send one JSON object per line, such as {\"register\":{\"service\":\"web\",\"port\":8080}}";
        return Problem::new("malformed", format!("not JSON: {error}; {hint}"));
    }
    let message = error.to_string();
    let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(message, _)| message);
    let message = &message.replace("expected i64", "expected a whole number");
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    if message.starts_with("unknown variant")
        && let [verb, verbs @ ..] = quoted.as_slice()
        && verbs.contains(&"register")
    {
        let hint = did_you_mean(verb, verbs);
        return Problem::new(
            "unknown_verb",
            format!("`{}` is no verb{hint}; verbs are {}", printable(verb), verbs.join(", ")),
        );
    }
    if message.starts_with("unknown field")
        && let [field, fields @ ..] = quoted.as_slice()
    {
        let hint = did_you_mean(field, fields);
        return Problem {
            code: "invalid".into(),
            field: Some(printable(field)),
            message: match fields {
                [] => format!("unknown field `{}`; there are none here", printable(field)),
                fields => format!(
                    "unknown field `{}`{hint}; fields here are {}",
                    printable(field),
                    fields.join(", ")
                ),
            },
        };
    }
    let mut reader = serde_json::Deserializer::from_str(text);
    let path = serde_path_to_error::deserialize::<_, Request<'_>>(&mut reader)
        .map_or_else(|error| error.path().to_string(), |_| String::new());
    let field = match path.split_once('.') {
        Some((_verb, field)) => field.to_owned(),
        // `missing field` and `duplicate field` name it themselves.
        None => quoted.first().map(|name| printable(name)).unwrap_or_default(),
    };
    if field.is_empty() {
        return Problem::new(
            "malformed",
            format!(
                "{}; a request is an object with one member, its verb, and that is an object too",
                printable(message)
            ),
        );
    }
    Problem {
        code: "invalid".into(),
        message: format!("{field}: {}{}", printable(message), form_of(&field, message)),
        field: Some(field),
    }
}

/// What to write in the place of a value of another type, where that is not plain from its name.
fn form_of(field: &str, message: &str) -> &'static str {
    const TIMES: [&str; 6] = ["ttl", "lease", "interval", "timeout", "deregister_after", "guard_for"];
    let name = field.rsplit('.').next().unwrap_or(field);
    if message.ends_with("expected a string") && TIMES.contains(&name) {
        "; write a time such as \"15s\""
    } else if message.ends_with("expected a sequence") {
        "; write a list such as [\"a\", \"b\"]"
    } else {
        ""
    }
}

/// ` (did you mean …?)` where one of `known` is near enough.
pub fn did_you_mean(given: &str, known: &[&str]) -> String {
    match nearest(given, known.iter().copied()) {
        Some(name) => format!(" (did you mean `{name}`?)"),
        None => String::new(),
    }
}

/// The one of `known` that differs least from `given`, if it differs little.
pub fn nearest<'a>(given: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let given: String = given.chars().take(64).collect();
    known
        .map(|name| (strsim::damerau_levenshtein(&given, name), name))
        .min()
        .filter(|(distance, name)| *distance <= 1 + name.len() / 4)
        .map(|(_, name)| name)
}

/// Foreign text for a message: control characters escaped, 80 characters at most.
fn printable(text: &str) -> String {
    text.chars()
        .take(80)
        .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
        .collect()
}
