//! The two forms of the page: OpenMetrics 1.0 (<https://prometheus.io/docs/specs/om/open_metrics_spec/>), and the text
//! that came before it (0.0.4), for whoever does not ask for the first.
//!
//! They differ in little: OpenMetrics names a family without the suffix of its samples, says its unit, and ends with a
//! mark. The samples are the same to the octet, but for that mark.

use std::fmt::Write as _;

use axum::http::{HeaderMap, HeaderValue, header};

use crate::counters::Histogram;

/// How the page is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    OpenMetrics,
    /// Text 0.0.4.
    Text,
}

/// Endings of names that say in what a number is counted.
const UNITS: [&str; 3] = ["seconds", "bytes", "ratio"];

impl Form {
    /// The one that a client asks for: OpenMetrics where it likes that no less than text.
    pub fn asked_for(headers: &HeaderMap) -> Self {
        let (mut open, mut text) = (0.0, 0.0);
        let values = headers.get_all(header::ACCEPT).into_iter().filter_map(|value| value.to_str().ok());
        for range in values.flat_map(|value| value.split(',')) {
            let mut words = range.split(';').map(str::trim);
            let kind = words.next().unwrap_or_default().to_ascii_lowercase();
            let (mut quality, mut version) = (1.0, "");
            for (name, value) in words.filter_map(|word| word.split_once('=')) {
                match name.trim() {
                    "q" => quality = value.trim().parse().unwrap_or(0.0),
                    "version" => version = value.trim().trim_matches('"'),
                    _ => {}
                }
            }
            match (kind.as_str(), version) {
                ("application/openmetrics-text", "" | "1.0.0") => open = f64::max(open, quality),
                ("text/plain", "" | "0.0.4") | ("text/*" | "*/*", _) => text = f64::max(text, quality),
                _ => {}
            }
        }
        if open > 0.0 && open >= text { Self::OpenMetrics } else { Self::Text }
    }

    pub fn media_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        })
    }
}

/// The page as it grows: for each family its head, then its samples.
pub struct Page {
    form: Form,
    text: String,
}

impl Page {
    pub fn new(form: Form) -> Self {
        Self { form, text: String::new() }
    }

    pub fn finish(mut self) -> String {
        if self.form == Form::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }

    /// The head of a family; `name` is without the suffix of its samples. The unit follows from the name.
    pub fn head(&mut self, name: &str, kind: &str, help: &str) {
        let unit = UNITS.iter().find(|unit| name.rsplit('_').next() == Some(unit));
        let (suffix, kind) = match (self.form, kind) {
            (Form::Text, "counter") => ("_total", "counter"),
            (Form::Text, "info") => ("_info", "gauge"),
            _ => ("", kind),
        };
        // Writing into a text cannot fail.
        let _ = write!(self.text, "# TYPE {name}{suffix} {kind}\n# HELP {name}{suffix} {help}\n");
        if let Some(unit) = unit.filter(|_| self.form == Form::OpenMetrics) {
            let _ = writeln!(self.text, "# UNIT {name} {unit}");
        }
    }

    /// A sample. What stands in labels is ours, and needs no escape.
    pub fn line(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.text.push_str(name);
        for (at, (label, value)) in labels.iter().enumerate() {
            let _ = write!(self.text, "{}{label}=\"{value}\"", if at == 0 { '{' } else { ',' });
        }
        let _ = writeln!(self.text, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    pub fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.head(name, "gauge", help);
        self.line(name, &[], value);
    }

    pub fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, "counter", help);
        self.line(&format!("{name}_total"), &[], value as f64);
    }

    pub fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.head(name, "histogram", help);
        let ends = histogram.ends_us().iter().map(|us| *us as f64 / 1e6);
        self.buckets(name, &[], ends, &histogram.buckets(), histogram.sum().as_secs_f64());
    }

    /// The samples of a histogram; one bucket more than there are `ends` holds what is beyond all of them.
    pub fn buckets(
        &mut self,
        name: &str,
        labels: &[(&str, &str)],
        ends: impl Iterator<Item = f64>,
        buckets: &[u64],
        sum: f64,
    ) {
        // The spelling of a number is part of a series' name: this is OpenMetrics'.
        let mut ends = ends.map(|end| if end.fract() == 0.0 { format!("{end:.1}") } else { end.to_string() });
        let (bucket, mut count) = (format!("{name}_bucket"), 0);
        for more in buckets {
            count += more;
            let end = ends.next().unwrap_or_else(|| "+Inf".to_owned());
            self.line(&bucket, &[labels, &[("le", &end)]].concat(), count as f64);
        }
        self.line(&format!("{name}_count"), labels, count as f64);
        self.line(&format!("{name}_sum"), labels, sum);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn who_asks_for_open_metrics_gets_it() {
        for (accept, expected) in [
            (None, Form::Text),
            (Some("*/*"), Form::Text),
            (Some("text/html"), Form::Text),
            (Some("application/openmetrics-text"), Form::OpenMetrics),
            (Some("application/openmetrics-text;version=0.0.1"), Form::Text),
            (Some("application/openmetrics-text; version=1.0.0; q=0"), Form::Text),
            (
                Some("text/plain;version=0.0.4;q=0.9, application/openmetrics-text;version=1.0.0;q=0.1"),
                Form::Text,
            ),
            // What Prometheus 2.42 and 3.5 send.
            (
                Some(
                    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                ),
                Form::OpenMetrics,
            ),
            (
                Some(
                    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
                ),
                Form::OpenMetrics,
            ),
        ] {
            let mut headers = HeaderMap::new();
            headers.extend(accept.map(|accept| (header::ACCEPT, HeaderValue::from_static(accept))));
            assert_eq!(Form::asked_for(&headers), expected, "{accept:?}");
        }
    }

    #[test]
    fn the_forms_differ_in_heads_alone() {
        let histogram = Histogram::default();
        histogram.add(Duration::from_secs(3));
        let page = |form| {
            let mut page = Page::new(form);
            page.head("x_build", "info", "What it is.");
            page.line("x_build_info", &[("version", "1"), ("of", "x")], 1.0);
            page.counter("x_busy_seconds", "How long.", 7);
            page.histogram("x_wait_seconds", "How long.", &histogram);
            page.finish()
        };
        let (open, text) = (page(Form::OpenMetrics), page(Form::Text));
        let heads = |page: &str| -> Vec<String> {
            page.lines().filter(|line| line.starts_with('#')).map(str::to_owned).collect()
        };
        assert_eq!(
            heads(&open),
            [
                "# TYPE x_build info",
                "# HELP x_build What it is.",
                "# TYPE x_busy_seconds counter",
                "# HELP x_busy_seconds How long.",
                "# UNIT x_busy_seconds seconds",
                "# TYPE x_wait_seconds histogram",
                "# HELP x_wait_seconds How long.",
                "# UNIT x_wait_seconds seconds",
                "# EOF",
            ]
        );
        assert_eq!(
            heads(&text),
            [
                "# TYPE x_build_info gauge",
                "# HELP x_build_info What it is.",
                "# TYPE x_busy_seconds_total counter",
                "# HELP x_busy_seconds_total How long.",
                "# TYPE x_wait_seconds histogram",
                "# HELP x_wait_seconds How long.",
            ]
        );
        let samples = |page: &str| -> Vec<String> {
            page.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
        };
        assert_eq!(samples(&open), samples(&text));
        assert_eq!(
            samples(&open)[..3],
            [
                "x_build_info{version=\"1\",of=\"x\"} 1",
                "x_busy_seconds_total 7",
                "x_wait_seconds_bucket{le=\"0.0001\"} 0",
            ]
        );
        assert_eq!(
            samples(&open)[samples(&open).len() - 5..],
            [
                "x_wait_seconds_bucket{le=\"10.0\"} 1",
                "x_wait_seconds_bucket{le=\"60.0\"} 1",
                "x_wait_seconds_bucket{le=\"+Inf\"} 1",
                "x_wait_seconds_count 1",
                "x_wait_seconds_sum 3",
            ]
        );
    }
}
