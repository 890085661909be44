//! `/metrics`: what the server counts, as OpenMetrics or as Prometheus' older text (`page`).
//!
//! A family is a few lines here and one in `docs/metrics.md`, which a test compares with what is served. Names follow the
//! field: `callsign_`, base units, and CoreDNS's words where the thing is the same. Labels are words of ours or the
//! operator's, never of a client's: the number of series does not depend on what is registered, and that of lines is
//! fixed. It works with the store dead: what asks the log leaves out what it does not say.

mod page;
mod process;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use self::page::{Form, Page};
use super::Office;
use super::reply::Failure;
use crate::availability::SPANS;
use crate::counters::{
    Forwarding, PROTOS, Probes, Queries, RCODES, SIZES, Seen, SeenSizes, TYPES, Transfers, Updates, Written,
};
use crate::view::View;

pub fn router() -> Router<Arc<Office>> {
    Router::new().route("/metrics", get(metrics))
}

async fn metrics(State(office): State<Arc<Office>>, headers: HeaderMap) -> Response {
    let form = Form::asked_for(&headers);
    // The kernel, the log and a look at every instance take their time; others on this thread go on meanwhile.
    let text = match office.desk.search(|| text(&office, form)).await {
        Ok(text) => text,
        Err(busy) => return Failure::from(busy).into_response(),
    };
    let mut response = text.into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, form.media_type());
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

fn text(office: &Office, form: Form) -> String {
    let view = &office.desk.view;
    let mut page = Page::new(form);
    process::process(&mut page, office.started);
    server(&mut page, office);
    registered(&mut page, view);
    live_time(&mut page, office);
    changes(&mut page, &office.desk.writer.written);
    queries(&mut page, &office.queries);
    connections(&mut page, office);
    refused(&mut page, office);
    probes(&mut page, &office.probes);
    transfers(&mut page, &office.transferred);
    zone_files(&mut page, view);
    updates(&mut page, &office.updates);
    page.counter("callsign_dnssec_signatures", "Signatures made (DNSSEC).", office.signing.made.read());
    page.counter(
        "callsign_dnssec_put_off",
        "Replies over UDP that were sent to TCP, for too many signatures were made in that second.",
        office.signing.put_off.read(),
    );
    forwarding(&mut page, &office.forwarding);
    page.finish()
}

fn server(page: &mut Page, office: &Office) {
    let view = &office.desk.view;
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

    page.gauge(
        "callsign_nodes",
        "Nodes that are members now; 0 where this server is alone.",
        view.nodes().len() as f64,
    );
}

fn registered(page: &mut Page, view: &View) {
    let census = view.census();
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
}

fn connections(page: &mut Page, office: &Office) {
    page.head("callsign_connections", "gauge", "Open connections.");
    page.line("callsign_connections", &[("port", "registration")], office.desk.connections.open() as f64);
    page.line("callsign_connections", &[("port", "http")], office.connections.open() as f64);
    page.line("callsign_connections", &[("port", "dns")], office.dns_streams.open() as f64);
    page.line("callsign_connections", &[("port", "doq")], office.dns_quic.open() as f64);
    encrypted(page, office);
}

/// What was asked for too often, or with no right.
fn refused(page: &mut Page, office: &Office) {
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
}

fn probes(page: &mut Page, probes: &Probes) {
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
}

/// What the writer did.
fn changes(page: &mut Page, written: &Written) {
    page.head("callsign_changes", "counter", "Changes that were published, by their reason.");
    for (reason, count) in written.changes() {
        page.line("callsign_changes_total", &[("reason", reason)], count as f64);
    }
    page.histogram(
        "callsign_change_visible_seconds",
        "From when a change was asked for to when queries saw it.",
        &written.visible,
    );
    page.histogram(
        "callsign_commit_duration_seconds",
        "How long the store took for a batch of changes, or etcd for a transaction.",
        &written.commit,
    );
}

/// Queries, under the names that CoreDNS has for them.
fn queries(page: &mut Page, queries: &Queries) {
    let seen = queries.seen();
    let each = || PROTOS.into_iter().zip(&seen);
    page.head("callsign_dns_requests", "counter", "Queries, by transport and the type that is asked for.");
    for (proto, seen) in each() {
        for (qtype, count) in TYPES.into_iter().zip(seen.requests) {
            page.line("callsign_dns_requests_total", &[("proto", proto), ("type", qtype)], count as f64);
        }
    }
    page.head("callsign_dns_responses", "counter", "Replies, by transport and response code.");
    for (proto, seen) in each() {
        for (rcode, count) in RCODES.into_iter().zip(seen.responses) {
            page.line("callsign_dns_responses_total", &[("proto", proto), ("rcode", rcode)], count as f64);
        }
    }
    let mut sizes = |name, help, of: fn(&Seen) -> &SeenSizes| {
        page.head(name, "histogram", help);
        for (proto, seen) in each() {
            let SeenSizes { buckets, sum } = of(seen);
            // No message is beyond the last end.
            let buckets = [&buckets[..], &[0]].concat();
            let ends = SIZES.into_iter().map(|end| end as f64);
            page.buckets(name, &[("proto", proto)], ends, &buckets, *sum as f64);
        }
    };
    sizes("callsign_dns_request_size_bytes", "Octets of queries.", |seen| &seen.request_octets);
    sizes("callsign_dns_response_size_bytes", "Octets of replies.", |seen| &seen.response_octets);
    page.histogram(
        "callsign_dns_request_duration_seconds",
        "How long queries took that are answered here; one batch of 16, and one other query of 16, is timed.",
        &queries.times(),
    );
    page.counter(
        "callsign_dns_dropped",
        "Messages over UDP that came faster than what is not plain is answered.",
        queries.dropped.read(),
    );
}

/// Live time over registered time; it is worked out at most once a minute, and left out where the log cannot be read.
fn live_time(page: &mut Page, office: &Office) {
    let Some(of) = office.desk.live_time() else { return };
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
    if let Some(until) = office.identity.as_ref().and_then(|identity| identity.valid_until()) {
        page.gauge(
            "callsign_tls_certificate_expiry_timestamp_seconds",
            "When the certificate that is shown ends, in seconds since 1970.",
            until.unix_ms as f64 / 1000.0,
        );
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

/// Files of static zones and record trees that changed while we serve.
fn zone_files(page: &mut Page, view: &View) {
    let (taken, refused) = view.zone_reads();
    page.head(
        "callsign_zone_reads",
        "counter",
        "Zone files read since the start, by whether they are served.",
    );
    for (outcome, count) in [("taken", taken), ("refused", refused)] {
        page.line("callsign_zone_reads_total", &[("outcome", outcome)], count as f64);
    }
    let troubles = view.zone_troubles().len() as f64;
    page.gauge(
        "callsign_zone_troubles",
        "Mistakes in zone files that are not served as they are now.",
        troubles,
    );
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
