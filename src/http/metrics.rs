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
use crate::availability::{Census, SPANS};
use crate::counters::{Forwarding, Histogram, Transfers, Updates};

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
    let stale = view.stale_for(office.desk.clock.now()).unwrap_or_default();
    page.gauge(
        "callsign_stale_seconds",
        "How long the store could not be followed, while it cannot; else 0.",
        stale.as_secs_f64(),
    );
    let up = office.desk.clock.now().mono_ns as f64 / 1e9;
    page.gauge("callsign_uptime_seconds", "How long the server has been up.", up);
    page.gauge("callsign_revision", "The revision of the last change published.", view.revision() as f64);
    page.gauge("callsign_serial", "The serial of the live zone's SOA.", f64::from(view.serial()));

    let census = Census::of(view);
    page.gauge("callsign_services", "Services that are known.", census.services as f64);
    page.head(
        "callsign_instances",
        "gauge",
        "Instances registered, by why they are or are not in the answers.",
    );
    for (standing, count) in [
        ("live", census.live),
        ("draining", census.draining),
        ("critical", census.critical),
        ("maintenance", census.maintenance),
    ] {
        page.line("callsign_instances", &[("standing", standing)], count as f64);
    }
    page.gauge(
        "callsign_services_live",
        "Services that have at least one live instance.",
        census.services_live as f64,
    );
    page.gauge(
        "callsign_services_guarded",
        "Services that are guarded against mass death now.",
        census.guarded as f64,
    );
    page.gauge("callsign_instances_held", "Instances that guards hold in the answers.", census.held as f64);
    page.counter("callsign_guards", "Guards that began.", view.guards());
    page.gauge(
        "callsign_availability_ratio",
        "Live instances and services with one, of instances registered and services known; 1 where there are none.",
        census.ratio(),
    );
    live_time(&mut page, office);
    page.histogram(
        "callsign_query_duration_seconds",
        "How long queries took that are answered here; one batch in 16 is timed.",
        &office.queries.all(),
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

    page.counter(
        "callsign_wrong_tokens",
        "Tokens that were none.",
        office.desk.mistakes.made.load(Ordering::Relaxed),
    );

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
    transfers(&mut page, &office.transferred);
    updates(&mut page, &office.updates);
    forwarding(&mut page, &office.forwarding);
    page.0.push_str("# EOF\n");
    page.0
}

/// Live time over registered time; it is worked out at most once a minute, and left out where the log cannot be read.
fn live_time(page: &mut Page, office: &Office) {
    let Some(of) = tokio::task::block_in_place(|| office.desk.live_time()) else { return };
    let whose = [
        ("instances", &of.instances, of.known.instances_ms),
        ("services", &of.services, of.known.services_ms),
    ];
    page.head(
        "callsign_live_time_ratio",
        "gauge",
        "Live time over registered time of all instances, and of all services, by how long back.",
    );
    for (of_what, times, _) in whose {
        for (span, (name, _)) in SPANS.iter().enumerate() {
            if let Some(ratio) = times.ratio(span) {
                page.line("callsign_live_time_ratio", &[("of", of_what), ("span", name)], ratio);
            }
        }
    }
    page.head(
        "callsign_live_time_covered_seconds",
        "gauge",
        "How much of the span the log of changes reaches back.",
    );
    for (of_what, _, known_ms) in whose {
        for (name, length) in SPANS {
            let covered = of.covered(length, known_ms).as_secs_f64();
            page.line("callsign_live_time_covered_seconds", &[("of", of_what), ("span", name)], covered);
        }
    }
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

/// What secondaries were sent, and told.
fn transfers(page: &mut Page, transfers: &Transfers) {
    page.head(
        "callsign_transfers",
        "counter",
        "Zone transfers, by what was sent; instead: a whole zone in the place of a difference.",
    );
    let kinds = [
        ("full", &transfers.full),
        ("instead", &transfers.instead),
        ("incremental", &transfers.incremental),
        ("soa", &transfers.soa),
        ("failed", &transfers.failed),
        ("refused", &transfers.refused),
    ];
    for (kind, count) in kinds {
        page.line("callsign_transfers_total", &[("kind", kind)], count.read() as f64);
    }
    page.head("callsign_notify", "counter", "NOTIFY messages to secondaries, and those that were answered.");
    for (outcome, count) in [("sent", &transfers.notified), ("answered", &transfers.heard)] {
        page.line("callsign_notify_total", &[("outcome", outcome)], count.read() as f64);
    }
}

fn updates(page: &mut Page, updates: &Updates) {
    page.head(
        "callsign_updates",
        "counter",
        "UPDATE messages of keys that may send them, by what became of them.",
    );
    let outcomes = [
        ("done", &updates.done),
        ("refused", &updates.refused),
        ("failed", &updates.failed),
        ("repeated", &updates.repeated),
    ];
    for (outcome, count) in outcomes {
        page.line("callsign_updates_total", &[("outcome", outcome)], count.read() as f64);
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
            let end =
                histogram.ends_us().get(at).map_or("+Inf".to_owned(), |us| (*us as f64 / 1e6).to_string());
            self.line(&format!("{name}_bucket"), &[("le", &end)], count as f64);
        }
        self.line(&format!("{name}_count"), &[], count as f64);
        self.line(&format!("{name}_sum"), &[], sum.as_secs_f64());
    }
}
