//! Checks, what they are of, and hosts.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Unreadable, damaged, map, pairs, read, write};
use crate::check::{Check, Definition, Http, Kind, Place, Tls};
use crate::instance::{Health, Host};
use crate::lease::Leased;
use crate::name::{HostName, InstanceId};
use crate::time::{Now, Wall};

#[derive(Serialize, Deserialize)]
pub(super) struct CheckForm {
    id: String,
    status: u8,
    output: String,
    since: i64,
    /// `None` where it only reports.
    definition: Option<DefinitionForm>,
}

#[derive(Serialize, Deserialize)]
struct DefinitionForm {
    name: String,
    notes: String,
    kind: KindForm,
    interval_ms: u64,
    timeout_ms: u64,
    rise: u16,
    fall: u16,
    warn: u16,
    deregister_after_ms: Option<u64>,
}

#[derive(Serialize, Deserialize)]
enum KindForm {
    Reported,
    Ttl { milliseconds: u64 },
    Tcp { host: String, port: u16 },
    Http(Box<HttpForm>),
    Grpc { host: String, port: u16, service: String, tls: Option<TlsForm> },
    Command(Vec<String>),
    Alias { host: Option<String>, id: Option<String> },
}

#[derive(Serialize, Deserialize)]
struct HttpForm {
    method: String,
    host: String,
    port: u16,
    path: String,
    headers: Vec<(String, String)>,
    body: String,
    expected: (u16, u16),
    tls: Option<TlsForm>,
}

#[derive(Serialize, Deserialize)]
struct TlsForm {
    skip_verify: bool,
    server_name: Option<String>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct HostForm {
    name: String,
    addresses: Vec<IpAddr>,
    meta: Vec<(String, String)>,
    id: Option<String>,
    checks: Vec<CheckForm>,
    created: u64,
    revision: u64,
}

impl CheckForm {
    pub(super) fn of(check: &Check) -> Self {
        Self {
            id: check.id.to_string(),
            status: Health::ALL.iter().position(|health| *health == check.status).unwrap_or_default() as u8,
            output: check.output.to_string(),
            since: check.since.unix_ms,
            definition: (check.definition != Definition::reported())
                .then(|| DefinitionForm::of(&check.definition)),
        }
    }

    pub(super) fn check(self, of: &Leased, now: Now) -> Result<Check, Unreadable> {
        let status = Health::ALL.get(usize::from(self.status)).copied();
        let status = status.ok_or_else(|| damaged("an unknown status"))?;
        let definition = match self.definition {
            None => Definition::reported(),
            Some(form) => Arc::new(form.definition()?),
        };
        let check = Check::new(of, self.id.into(), status, self.output.into(), definition, now);
        Ok(Check { since: Wall { unix_ms: self.since }, ..check })
    }
}

impl DefinitionForm {
    pub(super) fn of(definition: &Definition) -> Self {
        let milliseconds = |duration: Duration| duration.as_millis() as u64;
        let place = |place: &Place| (place.host.to_string(), place.port);
        let kind = match &definition.kind {
            Kind::Reported => KindForm::Reported,
            Kind::Ttl(ttl) => KindForm::Ttl { milliseconds: milliseconds(*ttl) },
            Kind::Tcp(at) => {
                let (host, port) = place(at);
                KindForm::Tcp { host, port }
            }
            Kind::Http(http) => {
                let (host, port) = place(&http.at);
                KindForm::Http(Box::new(HttpForm {
                    method: http.method.to_string(),
                    host,
                    port,
                    path: http.path.to_string(),
                    headers: pairs(&http.headers),
                    body: http.body.to_string(),
                    expected: http.expected,
                    tls: http.tls.as_ref().map(TlsForm::of),
                }))
            }
            Kind::Grpc { at, service, tls } => {
                let (host, port) = place(at);
                KindForm::Grpc {
                    host,
                    port,
                    service: service.to_string(),
                    tls: tls.as_ref().map(TlsForm::of),
                }
            }
            Kind::Command(args) => KindForm::Command(args.iter().map(|arg| arg.to_string()).collect()),
            Kind::Alias { host, id } => KindForm::Alias {
                host: host.as_ref().map(HostName::to_string),
                id: id.as_ref().map(InstanceId::to_string),
            },
        };
        Self {
            name: definition.name.to_string(),
            notes: definition.notes.to_string(),
            kind,
            interval_ms: milliseconds(definition.interval),
            timeout_ms: milliseconds(definition.timeout),
            rise: definition.rise,
            fall: definition.fall,
            warn: definition.warn,
            deregister_after_ms: definition.deregister_after.map(milliseconds),
        }
    }

    fn definition(self) -> Result<Definition, Unreadable> {
        let place = |host: String, port| Place { host: host.into(), port };
        let kind = match self.kind {
            KindForm::Reported => Kind::Reported,
            KindForm::Ttl { milliseconds } => Kind::Ttl(Duration::from_millis(milliseconds)),
            KindForm::Tcp { host, port } => Kind::Tcp(place(host, port)),
            KindForm::Http(form) => Kind::Http(Box::new(Http {
                method: form.method.into(),
                at: place(form.host, form.port),
                path: form.path.into(),
                headers: map(form.headers),
                body: form.body.into(),
                expected: form.expected,
                tls: form.tls.map(TlsForm::tls),
            })),
            KindForm::Grpc { host, port, service, tls } => {
                Kind::Grpc { at: place(host, port), service: service.into(), tls: tls.map(TlsForm::tls) }
            }
            KindForm::Command(args) => Kind::Command(args.into_iter().map(Into::into).collect()),
            KindForm::Alias { host, id } => Kind::Alias {
                host: host.map(|host| HostName::parse(&host)).transpose().map_err(damaged)?,
                id: id.map(|id| InstanceId::parse(&id)).transpose().map_err(damaged)?,
            },
        };
        Ok(Definition {
            name: self.name.into(),
            notes: self.notes.into(),
            kind,
            interval: Duration::from_millis(self.interval_ms),
            timeout: Duration::from_millis(self.timeout_ms),
            rise: self.rise,
            fall: self.fall,
            warn: self.warn,
            deregister_after: self.deregister_after_ms.map(Duration::from_millis),
        })
    }
}

impl TlsForm {
    pub(super) fn of(tls: &Tls) -> Self {
        Self { skip_verify: tls.skip_verify, server_name: tls.server_name.as_deref().map(str::to_owned) }
    }

    fn tls(self) -> Tls {
        Tls { skip_verify: self.skip_verify, server_name: self.server_name.map(Into::into) }
    }
}

impl HostForm {
    pub(super) fn of(host: &Host) -> Self {
        Self {
            name: host.name.to_string(),
            addresses: host.addresses.clone(),
            meta: pairs(&host.meta),
            id: host.id.as_deref().map(str::to_owned),
            checks: host.checks.iter().map(CheckForm::of).collect(),
            created: host.created,
            revision: host.revision,
        }
    }

    pub(super) fn host(self, now: Now) -> Result<Host, Unreadable> {
        let name = HostName::parse(&self.name).map_err(damaged)?;
        let of = Leased::Host(name.clone());
        let checks = self.checks.into_iter().map(|check| check.check(&of, now)).collect::<Result<_, _>>()?;
        Ok(Host {
            name,
            addresses: self.addresses,
            meta: map(self.meta),
            id: self.id.map(Into::into),
            checks,
            created: self.created,
            revision: self.revision,
        })
    }
}

pub fn write_host(host: &Host) -> Vec<u8> {
    write(&HostForm::of(host))
}

/// Reads a host; the deadlines of its checks begin at `now`.
pub fn read_host(octets: &[u8], now: Now) -> Result<Host, Unreadable> {
    read::<HostForm>(octets)?.host(now)
}
