//! Bodies as Consul's clients write them: keys in any case, some with underscores, durations as text or nanoseconds.
//!
//! Its complaints are worded as Go's are, because that is what clients and their tests have seen.

use std::time::Duration;

use serde_json::{Map, Value};

use super::go;
use crate::http::reply::Failure;
use crate::protocol::{CheckForm, Pairs, Several, did_you_mean};
use crate::time::format_duration;

/// Shortest interval, TTL or deadline that is taken; what is shorter counts as this, as with Consul's own minimum.
const SHORTEST: Duration = Duration::from_secs(1);
/// Shortest time that a check is critical before its instance leaves: Consul's own minimum, and what clients that register once
/// and start slowly live by.
const LEAVES_AFTER_MIN: Duration = Duration::from_secs(60);

/// The members of one object.
pub struct Fields<'a> {
    members: &'a Map<String, Value>,
    known: &'static [&'static str],
}

/// Reads a body; what does not fit is Consul's own sentence.
pub fn object(body: &[u8]) -> Result<Value, Failure> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(failed("EOF"));
    }
    match serde_json::from_slice(body) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(Value::Null) => Ok(Value::Object(Map::new())),
        Ok(other) => Err(failed(&format!("json: cannot unmarshal {} into a Go struct", kind(&other)))),
        Err(error) if error.is_eof() => Err(failed("unexpected EOF")),
        Err(error) => Err(failed(&error.to_string())),
    }
}

fn failed(what: &str) -> Failure {
    Failure::bad(format!("Request decode failed: {what}"))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// One spelling for `EnableTagOverride`, `enabletagoverride` and `enable_tag_override`.
fn plain(key: &str) -> String {
    key.chars().filter(|c| *c != '_').flat_map(char::to_lowercase).collect()
}

impl<'a> Fields<'a> {
    /// The members of `value`, of which each has to be `known`: names as Consul's documentation writes them.
    pub fn of(value: &'a Value, known: &'static [&'static str]) -> Result<Self, Failure> {
        let Value::Object(members) = value else {
            return Err(failed(&format!("json: cannot unmarshal {} into a Go struct", kind(value))));
        };
        // Before they are looked at one by one: a body has room for thousands, and this is before any right is asked for.
        if members.len() > known.len() {
            return Err(failed("json: there are more fields than a definition has; one is said twice"));
        }
        let is_unknown = |key: &&String| {
            let key = plain(key);
            !known.iter().any(|name| plain(name) == key)
        };
        if let Some(key) = members.keys().find(is_unknown) {
            let hint = did_you_mean(key, known);
            return Err(failed(&format!("json: unknown field \"{}\"{hint}", key.escape_debug())));
        }
        Ok(Self { members, known })
    }

    /// A member by its documented name; `null` is as good as nothing.
    pub fn get(&self, name: &str) -> Option<&'a Value> {
        debug_assert!(self.known.contains(&name), "{name} is not among what is known");
        let wanted = plain(name);
        let found = self.members.iter().find(|(key, _)| plain(key) == wanted);
        found.map(|(_, value)| value).filter(|value| !value.is_null())
    }

    fn wrong(name: &str, value: &Value, wanted: &str) -> Failure {
        let what = match value {
            Value::Number(number) if wanted == "int" => format!("number {number}"),
            other => kind(other).to_owned(),
        };
        failed(&format!("json: cannot unmarshal {what} into Go struct field .Alias.{name} of type {wanted}"))
    }

    /// False where every member is what Go calls a zero value.
    fn say_something(&self) -> bool {
        self.members.iter().any(|(key, value)| match value {
            Value::Null => false,
            Value::Bool(flag) => *flag,
            Value::Number(number) => number.as_f64() != Some(0.0),
            Value::String(text) if DURATIONS.iter().any(|name| plain(name) == plain(key)) => {
                go::parse_duration(text) != Some(Duration::ZERO)
            }
            Value::String(text) => !text.is_empty(),
            Value::Array(list) => !list.is_empty(),
            Value::Object(map) => !map.is_empty(),
        })
    }

    /// Text; empty is as good as nothing.
    pub fn text(&self, name: &str) -> Result<Option<&'a str>, Failure> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
            Some(other) => Err(Self::wrong(name, other, "string")),
        }
    }

    pub fn owned(&self, name: &str) -> Result<Option<String>, Failure> {
        Ok(self.text(name)?.map(str::to_owned))
    }

    pub fn number(&self, name: &str) -> Result<Option<i64>, Failure> {
        match self.get(name) {
            None => Ok(None),
            Some(value) => value.as_i64().map(Some).ok_or_else(|| Self::wrong(name, value, "int")),
        }
    }

    pub fn flag(&self, name: &str) -> Result<Option<bool>, Failure> {
        match self.get(name) {
            None => Ok(None),
            Some(value) => value.as_bool().map(Some).ok_or_else(|| Self::wrong(name, value, "bool")),
        }
    }

    pub fn texts(&self, name: &str) -> Result<Vec<String>, Failure> {
        match self.get(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => {
                let text = |value: &Value| match value {
                    Value::String(text) => Ok(text.clone()),
                    other => Err(Self::wrong(name, other, "string")),
                };
                list.iter().map(text).collect()
            }
            Some(other) => Err(Self::wrong(name, other, "[]string")),
        }
    }

    /// An object of texts, its keys as they are.
    pub fn pairs(&self, name: &str) -> Result<Vec<(String, String)>, Failure> {
        match self.get(name) {
            None => Ok(Vec::new()),
            Some(Value::Object(map)) => {
                let pair = |(key, value): (&String, &Value)| match value {
                    Value::String(text) => Ok((key.clone(), text.clone())),
                    other => Err(Self::wrong(name, other, "string")),
                };
                map.iter().map(pair).collect()
            }
            Some(other) => Err(Self::wrong(name, other, "map[string]string")),
        }
    }

    /// A duration; zero, and less, is as good as nothing, what is below `SHORTEST` counts as that.
    fn duration(&self, name: &str) -> Result<Option<Duration>, Failure> {
        let duration = match self.get(name) {
            None => return Ok(None),
            Some(Value::String(text))
                if text.starts_with('-') && go::parse_duration(&text[1..]).is_some() =>
            {
                Duration::ZERO
            }
            Some(Value::String(text)) => go::parse_duration(text)
                .ok_or_else(|| failed(&format!("time: invalid duration \"{}\"", text.escape_debug())))?,
            Some(Value::Number(number)) => {
                let nanoseconds = number.as_u64().or_else(|| number.as_f64().map(|float| float as u64));
                Duration::from_nanos(nanoseconds.unwrap_or_default())
            }
            Some(other) => return Err(Self::wrong(name, other, "time.Duration")),
        };
        Ok((!duration.is_zero()).then_some(duration))
    }

    fn duration_text(&self, name: &str) -> Result<Option<String>, Failure> {
        Ok(self.duration(name)?.map(|duration| whole(duration.max(SHORTEST))))
    }
}

/// The protocol's durations are whole milliseconds.
fn whole(duration: Duration) -> String {
    format_duration(Duration::from_millis(duration.as_millis() as u64))
}

/// The members of a check that are durations.
const DURATIONS: [&str; 4] = ["Interval", "Timeout", "TTL", "DeregisterCriticalServiceAfter"];

/// What Consul's checks may say, with what their older clients say.
pub const CHECK_FIELDS: &[&str] = &[
    "ID",
    "CheckID",
    "Name",
    "Notes",
    "Status",
    "ServiceID",
    "Args",
    "ScriptArgs",
    "Script",
    "HTTP",
    "Header",
    "Method",
    "Body",
    "DisableRedirects",
    "TCP",
    "TCPUseTLS",
    "UDP",
    "Interval",
    "AliasNode",
    "AliasService",
    "DockerContainerID",
    "Shell",
    "GRPC",
    "GRPCUseTLS",
    "H2PING",
    "H2PingUseTLS",
    "OSService",
    "TLSServerName",
    "TLSSkipVerify",
    "Timeout",
    "TTL",
    "SuccessBeforePassing",
    "FailuresBeforeWarning",
    "FailuresBeforeCritical",
    "DeregisterCriticalServiceAfter",
    "OutputMaxSize",
    "ProxyHTTP",
    "ProxyGRPC",
    "Namespace",
    "Partition",
    "EnterpriseMeta",
    "SessionName",
    "Token",
];

/// A check as Consul's API has it; `None` where it says nothing at all, which Consul takes and forgets.
///
/// `id` is the one that it has where it does not name one.
pub fn check(value: &Value, id: &str, name: &str) -> Result<Option<CheckForm>, Failure> {
    let fields = Fields::of(value, CHECK_FIELDS)?;
    run_here(&fields)?;
    let mut form = form(&fields, id, name)?;
    if form.status.as_deref().is_some_and(|status| !is_status(status)) {
        return Err(Failure::bad("Status for checks must 'passing', 'warning', 'critical'"));
    }
    let interval = fields.duration_text("Interval")?;
    let probed = form.tcp.is_some() || form.http.is_some() || form.grpc.is_some() || form.command.is_some();
    let alias = form.alias.is_some() || form.alias_host.is_some();
    if interval.is_some() && form.ttl.is_some() {
        return Err(invalid("Interval and TTL cannot both be specified"));
    }
    if probed && interval.is_none() {
        return Err(invalid("Interval must be > 0 for Script, HTTP, H2PING, TCP, UDP or OSService checks"));
    }
    if probed && alias {
        return Err(invalid("Interval cannot be set for Alias checks"));
    }
    if alias && form.ttl.is_some() {
        return Err(invalid("TTL must be not be set for Alias checks"));
    }
    if !probed && !alias && form.ttl.is_none() {
        return match fields.say_something() {
            true => Err(invalid("TTL must be > 0 for TTL checks")),
            false => Ok(None),
        };
    }
    if fields.number("OutputMaxSize")?.is_some_and(|size| size < 0) {
        return Err(invalid("MaxOutputMaxSize must be positive"));
    }
    let [warnings, failures] =
        ["FailuresBeforeWarning", "FailuresBeforeCritical"].map(|name| fields.number(name));
    if warnings?.unwrap_or(0) > failures?.unwrap_or(0) {
        return Err(invalid("FailuresBeforeWarning can't be higher than FailuresBeforeCritical"));
    }
    form.interval = interval.filter(|_| probed);
    Ok(Some(form))
}

fn invalid(what: &str) -> Failure {
    Failure::bad(format!("Invalid check: {what}"))
}

/// Refuses the kinds of checks that callsign does not run.
fn run_here(fields: &Fields<'_>) -> Result<(), Failure> {
    for (field, what) in [
        ("UDP", "UDP checks"),
        ("H2PING", "H2PING checks"),
        ("OSService", "OSService checks"),
        ("DockerContainerID", "checks inside a Docker container"),
        ("Script", "checks with Script; give Args, the program and its arguments,"),
    ] {
        if fields.text(field)?.is_some() {
            return Err(invalid(&format!(
                "{what} are not run by callsign; use HTTP, TCP, GRPC, TTL or Args"
            )));
        }
    }
    Ok(())
}

/// What a check says, as far as each member can be read by itself.
fn form(fields: &Fields<'_>, id: &str, name: &str) -> Result<CheckForm, Failure> {
    let command = match fields.texts("Args")? {
        args if args.is_empty() => fields.texts("ScriptArgs")?,
        args => args,
    };
    let headers = headers(fields)?;
    let mut form = CheckForm {
        id: match fields.text("CheckID")? {
            Some(id) => id.to_owned(),
            None => fields.text("ID")?.unwrap_or(id).to_owned(),
        },
        name: Some(fields.text("Name")?.unwrap_or(name).to_owned()),
        notes: fields.owned("Notes")?,
        status: fields.owned("Status")?,
        ttl: fields.duration_text("TTL")?,
        tcp: fields.owned("TCP")?,
        http: fields.owned("HTTP")?,
        grpc: fields.owned("GRPC")?,
        command: (!command.is_empty()).then_some(command),
        alias: fields.owned("AliasService")?,
        alias_host: fields.owned("AliasNode")?,
        tls: fields.flag("GRPCUseTLS")?.filter(|tls| *tls),
        tls_skip_verify: fields.flag("TLSSkipVerify")?,
        tls_server_name: fields.owned("TLSServerName")?,
        timeout: fields.duration("Timeout")?.map(|timeout| whole(timeout.max(Duration::from_millis(1)))),
        rise: at_least_one(fields.number("SuccessBeforePassing")?),
        fall: at_least_one(fields.number("FailuresBeforeCritical")?),
        warn: fields.number("FailuresBeforeWarning")?.filter(|count| *count > 0),
        deregister_after: fields
            .duration("DeregisterCriticalServiceAfter")?
            .map(|after| whole(after.max(LEAVES_AFTER_MIN))),
        ..CheckForm::default()
    };
    if form.http.is_some() {
        form.method = fields.owned("Method")?;
        form.body = fields.owned("Body")?;
        form.headers = (!headers.is_empty()).then_some(Pairs(headers));
    }
    Ok(form)
}

/// The headers of a probe: one text each, or several.
fn headers(fields: &Fields<'_>) -> Result<Vec<(String, Several)>, Failure> {
    match fields.get("Header") {
        None => Ok(Vec::new()),
        Some(Value::Object(map)) => {
            let header = |(name, values): (&String, &Value)| match values {
                Value::String(text) => Ok((name.clone(), Several(vec![text.clone()]))),
                Value::Array(list) if list.iter().all(Value::is_string) => {
                    let texts = list.iter().filter_map(Value::as_str).map(str::to_owned);
                    Ok((name.clone(), Several(texts.collect())))
                }
                other => Err(Fields::wrong("Header", other, "[]string")),
            };
            map.iter().map(header).collect()
        }
        Some(other) => Err(Fields::wrong("Header", other, "map[string][]string")),
    }
}

pub fn is_status(text: &str) -> bool {
    matches!(text, "passing" | "warning" | "critical")
}

fn at_least_one(count: Option<i64>) -> Option<i64> {
    count.map(|count| count.max(1))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_are_read_in_any_case_and_durations_in_both_forms() {
        for value in [
            json!({"HTTP": "http://127.0.0.1/", "Interval": "10s", "DeregisterCriticalServiceAfter": "1m"}),
            json!({"http": "http://127.0.0.1/", "interval": 10_000_000_000_u64, "deregister_critical_service_after": "1m"}),
            json!({"Http": "http://127.0.0.1/", "INTERVAL": "10s", "deregistercriticalserviceafter": 60_000_000_000_u64}),
            json!({"HTTP": "http://127.0.0.1/", "Interval": "10s", "DeregisterCriticalServiceAfter": "5s"}),
        ] {
            let form = check(&value, "service:web", "Service 'web' check").unwrap_or_default().unwrap();
            assert_eq!(form.interval.as_deref(), Some("10s"), "{value}");
            assert_eq!(form.deregister_after.as_deref(), Some("60s"), "{value}");
            assert_eq!(form.id, "service:web");
        }
    }
}
