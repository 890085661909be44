//! Time as the core sees it: always an argument, never a clock.
//!
//! Leases are counted on the monotonic clock, which no one can set; the wall clock is only shown.

use std::fmt;
use std::time::Duration;

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Since the server started, monotonic, in nanoseconds: enough for 584 years.
    pub mono_ns: u64,
    pub wall: Wall,
}

impl Now {
    /// `self` with both clocks moved on by `by`.
    pub fn after(self, by: Duration) -> Self {
        Self { mono_ns: self.mono_ns.saturating_add(nanoseconds(by)), wall: self.wall.after(by) }
    }

    /// How long ago `earlier` was, by the monotonic clock.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.mono_ns.saturating_sub(earlier.mono_ns))
    }
}

/// A duration in nanoseconds, at most `u64::MAX / 2` (292 years), so that sums do not overflow.
pub fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX).min(u64::MAX / 2)
}

/// Wall-clock time: milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wall {
    pub unix_ms: i64,
}

impl Wall {
    pub fn after(self, by: Duration) -> Self {
        Self { unix_ms: self.unix_ms.saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)) }
    }

    /// Whole seconds since 1970; 0 before.
    pub fn unix_s(self) -> u64 {
        self.unix_ms.max(0) as u64 / 1000
    }

    /// `15:04:05Z`: the short form of Extended DNS Errors, where every octet counts.
    pub fn time_of_day(self) -> String {
        let seconds = self.unix_ms.div_euclid(1000).rem_euclid(86_400);
        format!("{:02}:{:02}:{:02}Z", seconds / 3600, seconds / 60 % 60, seconds % 60)
    }
}

/// `2026-11-21T15:04:05.678Z` (RFC 3339).
impl fmt::Display for Wall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil_date(self.unix_ms.div_euclid(86_400_000));
        let time = self.time_of_day();
        let (time, milliseconds) = (time.trim_end_matches('Z'), self.unix_ms.rem_euclid(1000));
        write!(f, "{year:04}-{month:02}-{day:02}T{time}.{milliseconds:03}Z")
    }
}

/// Days since 1970-01-01 to year, month, day of the proleptic Gregorian calendar.
///
/// Years are counted from 1 March, so that the leap day is the last of its year and a month's
/// first day is a linear function of the month.
fn civil_date(days: i64) -> (i64, u32, u32) {
    let days = days + 719_468; // 0000-03-01
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * month_from_march + 2) / 5 + 1) as u32;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 } as u32;
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

/// Days since 1970-01-01 of a date of the proleptic Gregorian calendar; the inverse of `civil_date`.
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month_from_march = (month + 9) % 12;
    let day_of_era = year.rem_euclid(400) * 365 + year.rem_euclid(400) / 4 - year.rem_euclid(400) / 100
        + (153 * month_from_march + 2) / 5
        + day
        - 1;
    year.div_euclid(400) * 146_097 + day_of_era - 719_468
}

/// Reads a time: `2026-11-21T15:04:05Z`, with or without a fraction, or a duration such as `10m`, which
/// is so long before `now`.
pub fn parse_time(text: &str, now: Wall) -> Option<Wall> {
    if let Some(ago) = parse_duration(text) {
        return Some(Wall { unix_ms: now.unix_ms.saturating_sub(i64::try_from(ago.as_millis()).ok()?) });
    }
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let numbers = |text: &str, by| -> Option<Vec<i64>> {
        text.split(by).map(|part| part.parse().ok().filter(|number| *number >= 0)).collect()
    };
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let fraction: String = fraction.chars().chain("00".chars()).take(3).collect();
    let (&[year, month, day], &[hour, minute, second]) = (&numbers(date, '-')?[..], &numbers(time, ':')?[..])
    else {
        return None;
    };
    // Four digits, as RFC 3339 has them; and no year is too far to be counted in milliseconds.
    let valid = year <= 9999
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second < 61;
    if !valid {
        return None;
    }
    let seconds = days_of(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    Some(Wall { unix_ms: seconds * 1000 + fraction.parse::<i64>().ok()? })
}

/// Reads `250ms`, `15s`, `5m`, `24h`, `30d`, or a plain number of seconds.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let milliseconds = match unit {
        "ms" => 1,
        "s" | "" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(milliseconds).map(Duration::from_millis)
}

/// The form that `parse_duration` reads, in the largest unit that is exact.
pub fn format_duration(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    for (unit, size) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)] {
        if milliseconds >= size
            && milliseconds.is_multiple_of(size)
            && (unit == "s" || milliseconds / size > 1)
        {
            return format!("{}{unit}", milliseconds / size);
        }
    }
    format!("{milliseconds}ms")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walls_are_shown_as_rfc_3339() {
        for (unix_ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_795_262_645_678, "2026-11-21T12:04:05.678Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(Wall { unix_ms }.to_string(), text);
        }
        assert_eq!(Wall { unix_ms: 15_000 }.time_of_day(), "00:00:15Z");
    }

    #[test]
    fn times_are_read_as_they_are_shown() {
        for unix_ms in [0, 951_782_400_000, 1_795_262_645_678, 4_102_444_799_999] {
            let wall = Wall { unix_ms };
            assert_eq!(parse_time(&wall.to_string(), Wall::default()), Some(wall));
        }
        let now = Wall { unix_ms: 60_000 };
        assert_eq!(parse_time("10s", now), Some(Wall { unix_ms: 50_000 }));
        assert_eq!(parse_time("1970-01-01T00:00:01Z", now), Some(Wall { unix_ms: 1000 }));
        for text in [
            "",
            "yesterday",
            "2026-13-01T00:00:00Z",
            "2026-11-21",
            "2026-11-21T25:00:00Z",
            "-1-1-1T0:0:0Z",
            "9223372036854775807-01-01T00:00:00Z",
        ] {
            assert_eq!(parse_time(text, now), None, "{text}");
        }
    }

    #[test]
    fn durations_go_both_ways() {
        for text in ["250ms", "15s", "1500ms", "90s", "60s", "5m", "24h", "30d"] {
            assert_eq!(format_duration(parse_duration(text).unwrap()), text);
        }
        assert_eq!(parse_duration("15"), Some(Duration::from_secs(15)));
        for text in ["", "s", "-1s", "1w", "99999999999999999999s", "18446744073709551615d"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}
