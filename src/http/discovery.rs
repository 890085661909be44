//! Lists of targets in the forms that other programs ask for by HTTP.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use serde::Serialize;

use super::Office;
use super::query::Query;
use super::reply::{self, Failure};
use crate::instance::Location;
use crate::name::Tag;
use crate::protocol::FilterForm;
use crate::view::Member;

pub fn router() -> Router<Arc<Office>> {
    Router::new().route("/sd/prometheus", get(prometheus))
}

/// One group of Prometheus's `http_sd_configs`: https://prometheus.io/docs/prometheus/latest/http_sd/
#[derive(Serialize)]
struct Group {
    targets: Vec<String>,
    labels: BTreeMap<String, String>,
}

/// Every live instance, one group each; `?service=` and `?tag=` narrow it, `?port=` takes a named port.
///
/// Not sure means 503: Prometheus keeps the targets it has.
async fn prometheus(
    State(office): State<Arc<Office>>,
    RawQuery(query): RawQuery,
) -> Result<Response, Failure> {
    let view = &office.desk.view;
    if !view.is_ready() {
        return Err(Failure::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "the registry is not loaded yet; try again",
        ));
    }
    let query = Query::of(query.as_deref());
    let text = |name: &str| query.get(name).filter(|text| !text.is_empty()).map(str::to_owned);
    let form = FilterForm { service: text("service"), tag: text("tag"), ..FilterForm::default() };
    let (members, _) = view.list(&form.filter()?, None, usize::MAX);
    let port = text("port");
    let live = members.iter().filter(|member| member.is_live());
    let groups: Vec<Group> = live.filter_map(|member| group(member, port.as_deref())).collect();
    Ok(reply::json(StatusCode::OK, &groups, query.has("pretty")))
}

/// Nothing where the instance has no such port: there would be nothing to scrape.
fn group(member: &Member, port: Option<&str>) -> Option<Group> {
    let instance = &member.instance;
    let port = instance.port(port)?;
    let target = match &instance.location {
        Location::Target(target) => format!("{}:{}", target.to_string().trim_end_matches('.'), port.number),
        Location::Addresses(addresses) => SocketAddr::new(*addresses.first()?, port.number).to_string(),
    };
    let mut labels = BTreeMap::new();
    let mut label = |name: &str, value: String| {
        labels.insert(format!("__meta_callsign_{name}"), value);
    };
    label("service", instance.key.service.to_string());
    label("id", instance.key.id.to_string());
    label("host", instance.key.host.to_string());
    label("address", instance.addresses().iter().map(IpAddr::to_string).collect::<Vec<_>>().join(","));
    label("health", member.health.to_string());
    label("port", port.number.to_string());
    label("port_name", port.name.as_deref().unwrap_or_default().to_owned());
    label("protocol", instance.protocol.as_deref().unwrap_or_default().to_owned());
    // With a comma on both sides of each, so that one of them can be matched whole.
    let tags: Vec<String> = instance.tags.iter().map(Tag::to_string).collect();
    label("tags", if tags.is_empty() { String::new() } else { format!(",{},", tags.join(",")) });
    for (key, value) in &instance.meta {
        let name: String = key.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        label(&format!("meta_{name}"), value.to_string());
    }
    Some(Group { targets: vec![target], labels })
}
