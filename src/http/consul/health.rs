//! `/v1/health/`: instances with their checks.

use axum::Extension;
use axum::extract::{Path, RawQuery};
use axum::http::StatusCode;
use axum::response::Response;

use super::catalog::{has_meta, has_tags, members_of};
use super::filter::Filter;
use super::shapes::HealthCheck;
use super::{Client, Office, State};
use crate::http::query::{Query, Reading};
use crate::http::reply::{self, Failure};
use crate::journal::Topic;
use crate::name::HostName;
use crate::view::{Member, View};

pub async fn service(
    office: State,
    Extension(client): Extension<Client>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Failure> {
    let query = Query::of(query.as_deref());
    let (reading, filter) = (Reading::of(&query, &office)?, Filter::of(&query)?);
    let passing = query.flag("passing")?;
    let (members, index) = members_of(&office, &client, &reading, &name).await?;
    let mut entries = Vec::with_capacity(members.len());
    for member in members.iter().filter(|member| has_tags(&query, member)) {
        let entry = office.entry(member);
        let fits = !passing || entry.checks.iter().all(|check| check.status == "passing");
        if fits && has_meta(&query, &entry.node)? && filter.matches(&entry)? {
            entries.push(entry);
        }
    }
    Ok(reply::indexed(reply::json(StatusCode::OK, &entries, reading.pretty), index, reading.consistency))
}

pub async fn checks(
    office: State,
    Extension(client): Extension<Client>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Failure> {
    let query = Query::of(query.as_deref());
    let (reading, filter) = (Reading::of(&query, &office)?, Filter::of(&query)?);
    let (members, index) = members_of(&office, &client, &reading, &name).await?;
    let mut checks = Vec::new();
    for member in &members {
        if has_meta(&query, &office.node_of(member))? {
            checks.extend(office.own_checks(member));
        }
    }
    answer(checks, &filter, &reading, index)
}

pub async fn node(
    office: State,
    Extension(client): Extension<Client>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Failure> {
    let query = Query::of(query.as_deref());
    let (reading, filter) = (Reading::of(&query, &office)?, Filter::of(&query)?);
    let index = checks_index(&office, &client, &reading).await?;
    let checks = HostName::parse(&name).map(|host| on_host(&office, &host)).unwrap_or_default();
    answer(checks, &filter, &reading, index)
}

pub async fn state(
    office: State,
    Extension(client): Extension<Client>,
    Path(state): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Failure> {
    let query = Query::of(query.as_deref());
    let (reading, filter) = (Reading::of(&query, &office)?, Filter::of(&query)?);
    let index = checks_index(&office, &client, &reading).await?;
    let mut names = office.desk.view.hosts();
    if !names.contains(&office.desk.host) {
        names.push(office.desk.host.clone());
        names.sort();
    }
    let mut checks = Vec::new();
    for name in names {
        let node = office.node(&name, office.desk.view.host(&name).as_deref(), None);
        if has_meta(&query, &node)? {
            checks.extend(on_host(&office, &name));
        }
    }
    checks.retain(|check| state == "any" || check.status == state);
    answer(checks, &filter, &reading, index)
}

async fn checks_index(office: &Office, client: &Client, reading: &Reading) -> Result<u64, Failure> {
    let current = |view: &View| office.index(view.spans().checks());
    reading.wait(office, Topic::Everything, &client.closing, current).await
}

/// A host's own checks and those of its instances, in order of their ids.
fn on_host(office: &Office, host: &HostName) -> Vec<HealthCheck> {
    let said = office.desk.view.host(host);
    let mut checks = match said.is_some() || *host == office.desk.host {
        true => office.host_checks(host, said.as_deref()),
        false => Vec::new(),
    };
    let members: Vec<Member> = office.desk.view.on_host(host);
    checks.extend(members.iter().flat_map(|member| office.own_checks(member)));
    checks.sort_by(|a, b| a.check_id.cmp(&b.check_id));
    checks
}

fn answer(
    checks: Vec<HealthCheck>,
    filter: &Filter,
    reading: &Reading,
    index: u64,
) -> Result<Response, Failure> {
    let mut wanted = Vec::with_capacity(checks.len());
    for check in checks {
        if filter.matches(&check)? {
            wanted.push(check);
        }
    }
    Ok(reply::indexed(reply::json(StatusCode::OK, &wanted, reading.pretty), index, reading.consistency))
}
