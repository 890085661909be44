//! `/metrics`: what the server counts, in OpenMetrics text (<https://prometheus.io/docs/specs/om/open_metrics_spec/>).
//!
//! Labels are words of ours, never of a client's: the number of series does not depend on what is registered. It works
//! with the store dead, because nothing here asks it.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::Office;
use crate::counters::{BUCKETS_US, Forwarding, Histogram};
use crate::instance::Health;
use crate::view::Standing;

pub fn router() -> Router<Arc<Office>> {
    Router::new().route("/metrics", get(metrics))
}

const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

async fn metrics(State(office): State<Arc<Office>>) -> Response {
    let mut response = text(&office).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, OPEN_METRICS);
    response
}

fn text(office: &Office) -> String {
    let view = &office.desk.view;
    let mut page = Page::default();
    page.head("callsign_build", "info", "The version of the server.");
    page.line("callsign_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    page.gauge("callsign_ready", "1 once the registry is loaded.", f64::from(u8::from(view.is_ready())));
    let refuses = view.store_trouble().is_some();
    page.gauge("callsign_store_refuses", "1 while the store takes no changes.", f64::from(u8::from(refuses)));
    let up = office.desk.clock.now().mono_ns as f64 / 1e9;
    page.gauge("callsign_uptime_seconds", "How long the server has been up.", up);
    page.gauge("callsign_revision", "The revision of the last change published.", view.revision() as f64);
    page.gauge("callsign_serial", "The serial of the live zone's SOA.", f64::from(view.serial()));

    let directory = view.directory();
    page.gauge("callsign_services", "Services that are known.", directory.len() as f64);
    let (mut live, mut draining, mut unhealthy) = (0_u64, 0_u64, [0_u64; Health::ALL.len()]);
    let mut live_services = 0_u64;
    for service in directory.names().filter_map(|name| view.service(name.as_str())) {
        live_services += u64::from(service.has_live());
        for member in &service.members {
            match member.standing {
                Standing::Live => live += 1,
                Standing::Draining => draining += 1,
                Standing::Unhealthy { .. } => {
                    let health = Health::ALL.iter().position(|health| *health == member.health);
                    unhealthy[health.unwrap_or_default()] += 1;
                }
            }
        }
    }
    page.head(
        "callsign_instances",
        "gauge",
        "Instances registered, by why they are or are not in the answers.",
    );
    page.line("callsign_instances", &[("standing", "live")], live as f64);
    page.line("callsign_instances", &[("standing", "draining")], draining as f64);
    for health in [Health::Critical, Health::Maintenance] {
        let at = Health::ALL.iter().position(|known| *known == health).unwrap_or_default();
        page.line("callsign_instances", &[("standing", health.as_str())], unhealthy[at] as f64);
    }
    page.gauge(
        "callsign_services_live",
        "Services that have at least one live instance.",
        live_services as f64,
    );
    let there = (live + live_services) as f64;
    let all = (live + draining + unhealthy.iter().sum::<u64>()) as f64 + directory.len() as f64;
    page.gauge(
        "callsign_availability_ratio",
        "Live instances and services with one, of instances registered and services known; 1 where there are none.",
        if all > 0.0 { there / all } else { 1.0 },
    );
    page.head("callsign_connections", "gauge", "Open connections.");
    page.line("callsign_connections", &[("port", "registration")], office.desk.connections.open() as f64);
    page.line("callsign_connections", &[("port", "http")], office.connections.open() as f64);
    page.line("callsign_connections", &[("port", "dns")], office.dns_streams.open() as f64);
    page.line("callsign_connections", &[("port", "doq")], office.dns_quic.open() as f64);
    encrypted(&mut page, office);

    let limited = &office.limited;
    page.head("callsign_limited_replies", "counter", "Replies over the rate limit, by what became of them.");
    for (fate, count) in [("dropped", &limited.dropped), ("slipped", &limited.slipped)] {
        page.line("callsign_limited_replies_total", &[("fate", fate)], count.read() as f64);
    }

    let probes = &office.probes;
    page.head("callsign_probes", "counter", "Probes of checks, by kind and outcome; void: not judged.");
    for (kind, outcome, count) in probes.made() {
        page.line("callsign_probes_total", &[("kind", kind), ("outcome", outcome)], count as f64);
    }
    page.counter(
        "callsign_check_transitions",
        "Verdicts that gave a check another status.",
        probes.transitions.read(),
    );
    page.counter(
        "callsign_probes_late",
        "Probes that began over 100 ms after their time.",
        probes.late.read(),
    );
    page.counter(
        "callsign_probes_waited",
        "Times that a probe was due and every place was taken.",
        probes.waited.read(),
    );
    page.histogram("callsign_probe_duration_seconds", "How long probes took.", &probes.duration);
    page.histogram(
        "callsign_probe_lateness_seconds",
        "How long after their time probes began.",
        &probes.lateness,
    );
    forwarding(&mut page, &office.forwarding);
    page.0.push_str("# EOF\n");
    page.0
}

/// Handshakes and certificates of DNS over TLS and HTTPS.
fn encrypted(page: &mut Page, office: &Office) {
    let handshakes = &office.handshakes;
    page.head(
        "callsign_tls_handshakes",
        "counter",
        "Handshakes of DNS over TLS and HTTPS, by how they ended.",
    );
    for (outcome, count) in
        [("done", &handshakes.done), ("failed", &handshakes.failed), ("slow", &handshakes.slow)]
    {
        let count = count.load(Ordering::Relaxed) as f64;
        page.line("callsign_tls_handshakes_total", &[("outcome", outcome)], count);
    }
    let reloads = office.identity.as_ref().map_or([0, 0], |identity| identity.reloads());
    page.head("callsign_tls_reloads", "counter", "New certificates, by whether they could be used.");
    for (outcome, count) in ["taken", "refused"].into_iter().zip(reloads) {
        page.line("callsign_tls_reloads_total", &[("outcome", outcome)], count as f64);
    }
}

/// Upstreams are the operator's, and few.
fn forwarding(page: &mut Page, forwarding: &Forwarding) {
    page.head(
        "callsign_forwarded",
        "counter",
        "Queries for names that are not ours, by what became of them.",
    );
    let outcomes = [
        ("kept", &forwarding.hits),
        ("asked", &forwarding.asked),
        ("joined", &forwarding.joined),
        ("refused", &forwarding.refused),
    ];
    for (outcome, count) in outcomes {
        page.line("callsign_forwarded_total", &[("outcome", outcome)], count.read() as f64);
    }
    let kept = forwarding.kept.load(Ordering::Relaxed);
    page.gauge("callsign_forwarded_kept", "Outcomes of other servers that are kept.", kept as f64);
    let upstreams = forwarding.upstreams.load();
    let upstreams: Vec<_> =
        upstreams.iter().map(|upstream| (upstream.address.to_string(), upstream)).collect();
    page.head("callsign_upstream", "counter", "Queries to each upstream, and what became of them.");
    for (address, upstream) in &upstreams {
        let outcomes =
            [("asked", &upstream.asked), ("replied", &upstream.replies), ("failed", &upstream.failures)];
        for (outcome, count) in outcomes {
            let labels = [("upstream", address.as_str()), ("outcome", outcome)];
            page.line("callsign_upstream_total", &labels, count.read() as f64);
        }
    }
    page.head("callsign_upstream_rests", "gauge", "1 while others are asked first, for it did not answer.");
    for (address, upstream) in &upstreams {
        let rests = f64::from(u8::from(upstream.rests.load(Ordering::Relaxed)));
        page.line("callsign_upstream_rests", &[("upstream", address)], rests);
    }
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing into a text cannot fail.
        let _ = write!(self.0, "# TYPE {name} {kind}\n# HELP {name} {help}\n");
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.head(name, "gauge", help);
        self.line(name, &[], value);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, "counter", help);
        self.line(&format!("{name}_total"), &[], value as f64);
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.head(name, "histogram", help);
        let (buckets, sum) = (histogram.buckets(), histogram.sum());
        let mut count = 0;
        for (at, bucket) in buckets.iter().enumerate() {
            count += bucket;
            let end = BUCKETS_US.get(at).map_or("+Inf".to_owned(), |us| (*us as f64 / 1e6).to_string());
            self.line(&format!("{name}_bucket"), &[("le", &end)], count as f64);
        }
        self.line(&format!("{name}_count"), &[], count as f64);
        self.line(&format!("{name}_sum"), &[], sum.as_secs_f64());
    }
}
