//! Checks as they are written, and what they become: the one way in for the socket, Consul's API and service files.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::intake::{check_id, health};
use super::{Pairs, Problem, Several, printable};
use crate::check::{
    CHECKS_MAX, Definition, Http, INTERVAL_MAX, INTERVAL_MIN, Kind, Place, STREAK_MAX, TIMEOUT_DEFAULT, Tls,
};
use crate::instance::META_VALUE_OCTETS_MAX;
use crate::name::{HostName, InstanceId};
use crate::registry::ListedCheck;
use crate::time::{format_duration, parse_duration};

/// Time between probes where a probed check says nothing.
const INTERVAL_DEFAULT: Duration = Duration::from_secs(10);
/// Octets of a URL, of a header and of a body that a probe sends.
const URL_OCTETS_MAX: usize = 2048;
const HEADERS_MAX: usize = 32;
const BODY_OCTETS_MAX: usize = 4096;
/// Arguments of a command, and octets of each.
const ARGUMENTS_MAX: usize = 64;
const ARGUMENT_OCTETS_MAX: usize = 1024;
/// Octets of the notes that people write beside a check.
const NOTES_OCTETS_MAX: usize = META_VALUE_OCTETS_MAX;

/// A check; at most one of `ttl`, `tcp`, `http`, `grpc`, `command`, `alias` and `alias_host` says how it is run. With
/// none of them, it is what somebody reports.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckForm {
    pub id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notes: Option<String>,
    /// What it is at first; critical where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// Reported at least so often.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<String>,
    /// `10.0.0.7:5432`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<String>,
    /// `http://10.0.0.7:8080/health`, or `https://…`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<Pairs<Several>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// `200`, or `200-399`; 200-299 where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<String>,
    /// `10.0.0.7:50051`, or `10.0.0.7:50051/my.Service`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// The health of the instances with this id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// The health of this host, or where to look for `alias`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias_host: Option<String>,
    /// gRPC over TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_skip_verify: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_server_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// Successes in a row until it is passing, and failures until it is critical, or a warning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rise: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fall: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warn: Option<i64>,
    /// Critical for so long, and its instance leaves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deregister_after: Option<String>,
}

/// The checks of a registration.
pub(super) fn listed(given: &[CheckForm]) -> Result<Vec<ListedCheck>, Problem> {
    if given.len() > CHECKS_MAX {
        let rule = format!("may list at most {CHECKS_MAX} checks, not {}", given.len());
        return Err(Problem::invalid("checks", rule));
    }
    let mut checks: Vec<ListedCheck> = Vec::with_capacity(given.len());
    for form in given {
        let check = form.listed("checks")?;
        if checks.iter().any(|known| known.id == check.id) {
            return Err(Problem::invalid("checks", format!("name `{}` twice", check.id)));
        }
        checks.push(check);
    }
    Ok(checks)
}

impl CheckForm {
    /// The check, or what is wrong with it; `field` is where it stands in the request.
    pub fn listed(&self, field: &str) -> Result<ListedCheck, Problem> {
        let within = Within { field };
        Ok(ListedCheck {
            id: check_id(&format!("{field}.id"), &self.id)?,
            status: self
                .status
                .as_deref()
                .map(|status| health(&format!("{field}.status"), status))
                .transpose()?,
            output: "".into(),
            definition: Arc::new(self.definition(&within)?),
        })
    }

    fn definition(&self, within: &Within<'_>) -> Result<Definition, Problem> {
        let kind = self.kind(within)?;
        let probed = kind.is_probed();
        let interval = within.duration("interval", self.interval.as_deref(), INTERVAL_MIN)?;
        if interval.is_some() && !probed {
            return Err(within
                .wrong("interval", "is given, and nothing to probe; add `tcp`, `http`, `grpc` or another"));
        }
        let interval = if probed { interval.unwrap_or(INTERVAL_DEFAULT) } else { Duration::ZERO };
        let timeout = within.duration("timeout", self.timeout.as_deref(), Duration::from_millis(1))?;
        let streak = |name: &str, given: Option<i64>, least: i64| match given {
            None => Ok(least as u16),
            Some(count) if (least..=i64::from(STREAK_MAX)).contains(&count) => Ok(count as u16),
            Some(count) => Err(within.wrong(name, &format!("must be {least} to {STREAK_MAX}, not {count}"))),
        };
        let text = |name: &str, given: &Option<String>| -> Result<Arc<str>, Problem> {
            let given = given.as_deref().unwrap_or_default();
            match given.len() <= NOTES_OCTETS_MAX && !given.chars().any(char::is_control) {
                true => Ok(given.into()),
                false => Err(within
                    .wrong(name, &format!("must be at most {NOTES_OCTETS_MAX} octets without controls"))),
            }
        };
        Ok(Definition {
            name: text("name", &self.name)?,
            notes: text("notes", &self.notes)?,
            kind,
            interval,
            timeout: timeout.unwrap_or(if probed { TIMEOUT_DEFAULT } else { Duration::ZERO }),
            rise: streak("rise", self.rise, 1)?,
            fall: streak("fall", self.fall, 1)?,
            warn: streak("warn", self.warn, 0)?,
            deregister_after: within.duration(
                "deregister_after",
                self.deregister_after.as_deref(),
                INTERVAL_MIN,
            )?,
        })
    }

    fn kind(&self, within: &Within<'_>) -> Result<Kind, Problem> {
        let given = [
            ("ttl", self.ttl.is_some()),
            ("tcp", self.tcp.is_some()),
            ("http", self.http.is_some()),
            ("grpc", self.grpc.is_some()),
            ("command", self.command.is_some()),
            ("alias", self.alias.is_some() || self.alias_host.is_some()),
        ];
        let mut kinds = given.iter().filter(|(_, given)| *given).map(|(name, _)| *name);
        let kind = kinds.next();
        if let (Some(first), Some(second)) = (kind, kinds.next()) {
            return Err(
                within.wrong(second, &format!("and {first} exclude each other: a check is run in one way"))
            );
        }
        let only_for_http = [
            ("method", self.method.is_some()),
            ("headers", self.headers.is_some()),
            ("body", self.body.is_some()),
            ("expect", self.expect.is_some()),
        ];
        if let Some((name, _)) = only_for_http.iter().find(|(_, given)| *given && kind != Some("http")) {
            return Err(within.wrong(name, "is for checks with `http` only"));
        }
        match kind {
            None => Ok(Kind::Reported),
            Some("ttl") => {
                let ttl = within.duration("ttl", self.ttl.as_deref(), INTERVAL_MIN)?;
                Ok(Kind::Ttl(ttl.unwrap_or(INTERVAL_MIN)))
            }
            Some("tcp") => {
                Ok(Kind::Tcp(within.place("tcp", self.tcp.as_deref().unwrap_or_default(), None)?))
            }
            Some("http") => self.http(within).map(|http| Kind::Http(Box::new(http))),
            Some("grpc") => {
                let (at, service) = match self.grpc.as_deref().unwrap_or_default() {
                    text if text.contains('/') => text.split_once('/').unwrap_or_default(),
                    text => (text, ""),
                };
                let tls = (self.tls == Some(true)).then(|| self.tls());
                Ok(Kind::Grpc { at: within.place("grpc", at, None)?, service: service.into(), tls })
            }
            Some("command") => {
                let args = self.command.as_deref().unwrap_or_default();
                let fit = |arg: &String| arg.len() <= ARGUMENT_OCTETS_MAX && !arg.contains('\0');
                if !(1..=ARGUMENTS_MAX).contains(&args.len()) || !args.iter().all(fit) || args[0].is_empty() {
                    let rule = format!(
                        "must be a program and its arguments: 1 to {ARGUMENTS_MAX} texts of at most {ARGUMENT_OCTETS_MAX} octets"
                    );
                    return Err(within.wrong("command", &rule));
                }
                Ok(Kind::Command(args.iter().map(|arg| arg.as_str().into()).collect()))
            }
            Some(_) => {
                let host = self.alias_host.as_deref().map(HostName::parse).transpose();
                let id = self.alias.as_deref().map(InstanceId::parse).transpose();
                Ok(Kind::Alias {
                    host: host.map_err(|unfit| within.wrong("alias_host", &unfit.to_string()))?,
                    id: id.map_err(|unfit| within.wrong("alias", &unfit.to_string()))?,
                })
            }
        }
    }

    fn tls(&self) -> Tls {
        Tls {
            skip_verify: self.tls_skip_verify.unwrap_or(false),
            server_name: self.tls_server_name.as_deref().filter(|name| !name.is_empty()).map(Into::into),
        }
    }

    fn http(&self, within: &Within<'_>) -> Result<Http, Problem> {
        let url = self.http.as_deref().unwrap_or_default();
        let example = "must be a URL such as http://10.0.0.7:8080/health";
        let fits = url.len() <= URL_OCTETS_MAX && url.bytes().all(|octet| octet.is_ascii_graphic());
        let (scheme, rest) =
            url.split_once("://").filter(|_| fits).ok_or_else(|| within.wrong("http", example))?;
        let (tls, port) = match scheme.to_ascii_lowercase().as_str() {
            "http" => (None, 80),
            "https" => (Some(self.tls()), 443),
            _ => return Err(within.wrong("http", example)),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.contains('@') {
            return Err(within.wrong("http", "must not carry a user's name; send an Authorization header"));
        }
        let path = match path {
            "" => "/".to_owned(),
            path if path.starts_with('?') => format!("/{path}"),
            path => path.to_owned(),
        };
        let method = self.method.as_deref().filter(|method| !method.is_empty()).unwrap_or("GET");
        if method.len() > 32 || !method.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-') {
            return Err(within.wrong("method", "must be a method such as GET or HEAD"));
        }
        let mut headers = BTreeMap::new();
        for (name, values) in self.headers.iter().flat_map(|headers| &headers.0) {
            let value = values.0.join(", ");
            let token = |octet: u8| octet.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&octet);
            let fits = !name.is_empty() && name.len() <= 128 && name.bytes().all(token);
            let fits =
                fits && value.len() <= URL_OCTETS_MAX && !value.chars().any(|c| c.is_control() && c != '\t');
            if !fits || headers.len() == HEADERS_MAX {
                let rule = format!(
                    "must be at most {HEADERS_MAX} of them, each a name and a value without controls"
                );
                return Err(within.wrong("headers", &rule));
            }
            headers.insert(name.as_str().into(), value.as_str().into());
        }
        let body = self.body.as_deref().unwrap_or_default();
        if body.len() > BODY_OCTETS_MAX {
            return Err(within.wrong("body", &format!("must be at most {BODY_OCTETS_MAX} octets")));
        }
        Ok(Http {
            method: method.to_ascii_uppercase().into(),
            at: within.place("http", authority, Some(port))?,
            path: path.into(),
            headers,
            body: body.into(),
            expected: self.expected(within)?,
            tls,
        })
    }

    fn expected(&self, within: &Within<'_>) -> Result<(u16, u16), Problem> {
        let Some(text) = self.expect.as_deref() else { return Ok((200, 299)) };
        let (from, to) = text.split_once('-').unwrap_or((text, text));
        match (from.trim().parse(), to.trim().parse()) {
            (Ok(from), Ok(to)) if (100..=599).contains(&from) && (from..=599).contains(&to) => Ok((from, to)),
            _ => Err(within.wrong("expect", "must be a status such as 200, or a range such as 200-399")),
        }
    }
}

/// Where the fields of one check stand.
struct Within<'a> {
    field: &'a str,
}

impl Within<'_> {
    fn wrong(&self, name: &str, what: &str) -> Problem {
        Problem::invalid(&format!("{}.{name}", self.field), what)
    }

    fn duration(
        &self,
        name: &str,
        given: Option<&str>,
        least: Duration,
    ) -> Result<Option<Duration>, Problem> {
        let Some(text) = given else { return Ok(None) };
        match parse_duration(text) {
            Some(duration) if (least..=INTERVAL_MAX).contains(&duration) => Ok(Some(duration)),
            _ => {
                let (least, most) = (format_duration(least), format_duration(INTERVAL_MAX));
                let rule = format!(
                    "must be a duration from {least} to {most}, such as 15s, not `{}`",
                    printable(text)
                );
                Err(self.wrong(name, &rule))
            }
        }
    }

    /// `HOST:PORT`; IPv6 in brackets.
    fn place(&self, name: &str, text: &str, port: Option<u16>) -> Result<Place, Problem> {
        let wrong = || {
            self.wrong(
                name,
                &format!(
                    "must name a host and a port, such as 10.0.0.7:8080 or [::1]:8080, not `{}`",
                    printable(text)
                ),
            )
        };
        let (host, given) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']').ok_or_else(wrong)?;
                host.parse::<std::net::Ipv6Addr>().map_err(|_| wrong())?;
                (host, rest.strip_prefix(':'))
            }
            None => text.rsplit_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
        };
        let port = match given {
            Some(given) => given.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?,
            None => port.ok_or_else(wrong)?,
        };
        let name_octets = |octet: u8| octet.is_ascii_alphanumeric() || b"-._:".contains(&octet);
        if host.is_empty() || host.len() > 253 || !host.bytes().all(name_octets) {
            return Err(wrong());
        }
        Ok(Place { host: host.into(), port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Definition, String> {
        let form: CheckForm = serde_json::from_str(json).map_err(|error| error.to_string())?;
        let listed = form.listed("checks").map_err(|problem| problem.to_string())?;
        Ok(Arc::unwrap_or_clone(listed.definition))
    }

    #[test]
    fn a_url_is_taken_apart() {
        for (url, host, port, path, tls) in [
            ("http://10.0.0.7:8080/health", "10.0.0.7", 8080, "/health", false),
            ("http://10.0.0.7", "10.0.0.7", 80, "/", false),
            ("https://[::1]:8443?deep=1#x", "::1", 8443, "/?deep=1", true),
            ("HTTPS://web.example", "web.example", 443, "/", true),
        ] {
            let definition = read(&format!(r#"{{"id":"c","http":"{url}"}}"#)).unwrap();
            let Kind::Http(http) = definition.kind else { panic!("{url}") };
            assert_eq!(
                (&*http.at.host, http.at.port, &*http.path, http.tls.is_some()),
                (host, port, path, tls),
                "{url}"
            );
        }
    }

    #[test]
    fn what_cannot_be_run_is_refused_by_its_field() {
        for (json, field) in [
            (r#"{"id":""}"#, "checks.id"),
            (r#"{"id":"c","status":"bad"}"#, "checks.status"),
            (r#"{"id":"c","http":"10.0.0.7:80/health"}"#, "checks.http"),
            (r#"{"id":"c","http":"ftp://10.0.0.7/"}"#, "checks.http"),
            (r#"{"id":"c","http":"http://user@10.0.0.7/"}"#, "checks.http"),
            (r#"{"id":"c","http":"http://10.0.0.7:0/"}"#, "checks.http"),
            (r#"{"id":"c","http":"http://10.0.0.7/a b"}"#, "checks.http"),
            (r#"{"id":"c","http":"http://a/","tcp":"b:1"}"#, "checks.http"),
            (r#"{"id":"c","tcp":"b:1","method":"GET"}"#, "checks.method"),
            (r#"{"id":"c","tcp":"10.0.0.7"}"#, "checks.tcp"),
            (r#"{"id":"c","tcp":"::1:80:"}"#, "checks.tcp"),
            (r#"{"id":"c","tcp":"10.0.0.7:80","interval":"0s"}"#, "checks.interval"),
            (r#"{"id":"c","tcp":"10.0.0.7:80","interval":"1ms"}"#, "checks.interval"),
            (r#"{"id":"c","interval":"10s"}"#, "checks.interval"),
            (r#"{"id":"c","ttl":"0s"}"#, "checks.ttl"),
            (r#"{"id":"c","tcp":"10.0.0.7:80","rise":0}"#, "checks.rise"),
            (r#"{"id":"c","tcp":"10.0.0.7:80","fall":101}"#, "checks.fall"),
            (r#"{"id":"c","tcp":"10.0.0.7:80","deregister_after":"soon"}"#, "checks.deregister_after"),
            (r#"{"id":"c","command":[]}"#, "checks.command"),
            (r#"{"id":"c","http":"http://a/","expect":"299-200"}"#, "checks.expect"),
            (r#"{"id":"c","http":"http://a/","headers":{"a b":"x"}}"#, "checks.headers"),
        ] {
            let problem = read(json).unwrap_err();
            assert!(problem.starts_with(field), "{json}: {problem}");
        }
    }
}
