//! What Go's standard library reads and writes: Consul's clients see it in JSON.

use std::time::Duration;

/// A duration as `time.ParseDuration` reads it: `1h15m30.5s`, `300ms`, `0`; negative ones are `None`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.strip_prefix('+').unwrap_or(text);
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut nanoseconds: f64 = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        nanoseconds += number * unit;
        rest = &rest[end..];
    }
    (!text.is_empty() && nanoseconds < 9.2e18).then(|| Duration::from_nanos(nanoseconds.round() as u64))
}

/// A duration as `Duration.String` writes it: `1m30s`, `1.5s`, `300ms`, `0s`.
pub fn duration_text(duration: Duration) -> String {
    let nanoseconds = duration.as_nanos();
    if nanoseconds == 0 {
        return "0s".to_owned();
    }
    if nanoseconds < 1_000_000_000 {
        let (unit, name) = match nanoseconds {
            0..1_000 => (1.0, "ns"),
            1_000..1_000_000 => (1e3, "µs"),
            _ => (1e6, "ms"),
        };
        return format!("{}{name}", nanoseconds as f64 / unit);
    }
    let seconds = duration.as_secs();
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let rest = (duration - Duration::from_secs(seconds / 60 * 60)).as_secs_f64();
    match (hours, minutes) {
        (0, 0) => format!("{rest}s"),
        (0, minutes) => format!("{minutes}m{rest}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{rest}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_go_both_ways() {
        for (text, milliseconds, written) in [
            ("10s", 10_000, "10s"),
            ("1m", 60_000, "1m0s"),
            ("1h15m30.5s", 4_530_500, "1h15m30.5s"),
            ("300ms", 300, "300ms"),
            ("1.5s", 1_500, "1.5s"),
            ("60000ms", 60_000, "1m0s"),
            ("0", 0, "0s"),
        ] {
            let duration = parse_duration(text).unwrap();
            assert_eq!(duration, Duration::from_millis(milliseconds), "{text}");
            assert_eq!(duration_text(duration), written, "{text}");
        }
        assert_eq!(duration_text(Duration::from_nanos(1)), "1ns");
        for text in ["", "abc", "10", "s", "-5s", "1d", "9999999999h", "1..5s"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}
