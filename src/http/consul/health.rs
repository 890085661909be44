//! `/v1/health/`: instances with their checks.

use axum::extract::Path;
use axum::response::Response;

use super::Office;
use super::read::Read;
use super::shapes::HealthCheck;
use crate::http::reply::Failure;
use crate::name::HostName;
use crate::view::Spans;

pub async fn service(Path(name): Path<String>, read: Read) -> Result<Response, Failure> {
    let passing = read.query.flag("passing")?;
    let (service, index) = read.service(&name).await?;
    let members = service.iter().flat_map(|service| &service.members);
    let entries = members
        .filter(|member| read.has_tags(&member.instance))
        .map(|member| read.office.entry(member))
        .filter(|entry| !passing || entry.checks.iter().all(|check| check.status == "passing"))
        .filter(|entry| read.has_meta(&entry.node.meta));
    Ok(read.answer(&read.wanted(entries)?, index))
}

pub async fn checks(Path(name): Path<String>, read: Read) -> Result<Response, Failure> {
    let (service, index) = read.service(&name).await?;
    let members = service.iter().flat_map(|service| &service.members);
    let checks = members
        .filter(|member| read.has_meta(&read.office.node_of(member).meta))
        .flat_map(|member| read.office.own_checks(member));
    Ok(read.answer(&read.wanted(checks)?, index))
}

pub async fn node(Path(name): Path<String>, read: Read) -> Result<Response, Failure> {
    let index = read.wait(Spans::checks).await?;
    let checks = HostName::parse(&name).map(|host| on_host(&read.office, &host)).unwrap_or_default();
    Ok(read.answer(&read.wanted(checks)?, index))
}

pub async fn state(Path(state): Path<String>, read: Read) -> Result<Response, Failure> {
    let index = read.wait(Spans::checks).await?;
    let office = &read.office;
    let hosts = office.hosts().into_iter().filter(|name| {
        let node = office.node(name, office.desk.view.host(name).as_deref(), None);
        read.has_meta(&node.meta)
    });
    let checks = hosts.flat_map(|name| on_host(office, &name));
    let checks = checks.filter(|check| state == "any" || check.status == state);
    Ok(read.answer(&read.wanted(checks)?, index))
}

/// A host's own checks and those of its instances, in order of their ids.
fn on_host(office: &Office, host: &HostName) -> Vec<HealthCheck> {
    let said = office.desk.view.host(host);
    let mut checks = match said.is_some() || *host == office.desk.host {
        true => office.host_checks(host, said.as_deref()),
        false => Vec::new(),
    };
    let members = office.desk.view.on_host(host);
    checks.extend(members.iter().flat_map(|member| office.own_checks(member)));
    checks.sort_by(|a, b| a.check_id.cmp(&b.check_id));
    checks
}
