//! `/v1/agent/check/`: checks of the client's host and of what is on it, and what is reported of them.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, RawQuery};
use axum::response::Response;

use super::decode::{self, Fields};
use super::shapes::check_id;
use super::{Client, Office, State, by_key, gone, unknown_check};
use crate::http::query::Query;
use crate::http::reply::{Failure, done};
use crate::instance::Health;
use crate::registry::{Command, ListedCheck, Report, ReportOf, Subject};
use crate::view::Member;

pub async fn register(office: State, client: Client, body: Bytes) -> Result<Response, Failure> {
    let value = decode::object(&body)?;
    let fields = Fields::of(&value, decode::CHECK_FIELDS)?;
    let name = fields.text("Name")?.ok_or_else(|| Failure::bad("Missing check name"))?;
    if fields.text("Status")?.is_some_and(|status| !decode::is_status(status)) {
        return Err(Failure::bad("Bad check status"));
    }
    let form = decode::check(&value, name, name)?
        .ok_or_else(|| Failure::bad("Invalid check: TTL must be > 0 for TTL checks"))?;
    let on = match fields.text("ServiceID")? {
        None => Subject::Host(client.peer.host.clone()),
        Some(id) => {
            let unknown =
                || Failure::not_found(format!("ServiceID \"{}\" does not exist", id.escape_debug()));
            let member = office.on_agent(id, &client).ok_or_else(unknown)?;
            Subject::Instance(by_key(member.instance.key.clone()))
        }
    };
    let listed: ListedCheck = form.listed("check")?;
    if matches!(on, Subject::Host(_)) && listed.definition.deregister_after.is_some() {
        return Err(Failure::bad(
            "DeregisterCriticalServiceAfter is for checks of a service; give ServiceID",
        ));
    }
    office.carry_out(Command::AddCheck { on, listed }, &client).await?;
    Ok(done())
}

/// A check of the client's host or of an instance on it, by its id among all of them.
fn find_check(office: &Office, id: &str, client: &Client) -> Option<(Subject, Arc<str>)> {
    let of_member = |member: &Member| {
        let instance = &member.instance;
        let check = instance.checks.iter().find(|check| check_id(instance, check) == id)?;
        Some((Subject::Instance(by_key(instance.key.clone())), check.id.clone()))
    };
    // Nearly every check is named after its instance, which is quicker found than the check.
    let named = id.strip_prefix("service:").into_iter().flat_map(|rest| {
        std::iter::successors(Some(rest), |rest| rest.rsplit_once(':').map(|(shorter, _)| shorter))
    });
    let found = named.filter_map(|id| office.on_agent(id, client)).find_map(|member| of_member(&member));
    found
        .or_else(|| {
            let host = office.desk.view.host(&client.peer.host)?;
            let check = host.checks.iter().find(|check| &*check.id == id)?;
            Some((Subject::Host(host.name.clone()), check.id.clone()))
        })
        .or_else(|| office.desk.view.on_host(&client.peer.host).iter().find_map(of_member))
}

pub async fn deregister(office: State, client: Client, Path(id): Path<String>) -> Result<Response, Failure> {
    let (on, check) = find_check(&office, &id, &client).ok_or_else(|| unknown_check(&id))?;
    office.carry_out(Command::RemoveCheck { on, check }, &client).await?;
    Ok(done())
}

async fn report(
    office: &Office,
    client: &Client,
    id: &str,
    status: Health,
    output: &str,
) -> Result<Response, Failure> {
    let (on, check) = find_check(office, id, client).ok_or_else(|| unknown_check(id))?;
    let report = Report { on, check, status, output: output.into(), of: ReportOf::Known };
    match office.verdict(Command::Report(report), client).await? {
        Ok(_) => Ok(done()),
        Err(refusal) => Err(gone(refusal, id)),
    }
}

fn note(query: Option<&str>) -> String {
    Query::of(query).get("note").unwrap_or_default().to_owned()
}

pub async fn pass(
    office: State,
    client: Client,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Failure> {
    report(&office, &client, &id, Health::Passing, &note(query.as_deref())).await
}

pub async fn warn(
    office: State,
    client: Client,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Failure> {
    report(&office, &client, &id, Health::Warning, &note(query.as_deref())).await
}

pub async fn fail(
    office: State,
    client: Client,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Failure> {
    report(&office, &client, &id, Health::Critical, &note(query.as_deref())).await
}

pub async fn update(
    office: State,
    client: Client,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Response, Failure> {
    let value = decode::object(&body)?;
    let fields = Fields::of(&value, &["Status", "Output"])?;
    let status = match fields.text("Status")?.unwrap_or_default() {
        "passing" => Health::Passing,
        "warning" => Health::Warning,
        "critical" => Health::Critical,
        other => return Err(Failure::bad(format!("Invalid check status: '{}'", other.escape_debug()))),
    };
    report(&office, &client, &id, status, fields.text("Output")?.unwrap_or_default()).await
}
