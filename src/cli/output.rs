//! Stdout: tables for people, JSON for programs.

use std::io::{self, Write};

use callsign::protocol::InstanceForm;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use super::{FAILED, Failure, terminal};

/// The form of what is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Table,
    Json,
    Jsonl,
}

/// Writes to stdout. A reader that has gone is a silent end, not an error: it had what it wanted.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::silent()),
        Err(error) => Err(Failure::new(FAILED, format!("writing to stdout: {error}"))),
    }
}

/// One line of foreign text.
pub fn line(text: &str) -> Result<(), Failure> {
    print(&format!("{}\n", terminal::escaped(text)))
}

/// One value: indented for `json`, on one line for `jsonl`.
pub fn value(format: Format, value: &impl Serialize) -> Result<(), Failure> {
    let text = match format {
        Format::Jsonl => serde_json::to_string(value),
        _ => serde_json::to_string_pretty(value),
    };
    print(&format!("{}\n", terminal::escaped_json(&text.expect("a form has a JSON form"))))
}

/// Several values: one array for `json`, one a line for `jsonl`.
pub fn values<T: Serialize>(format: Format, list: &[T]) -> Result<(), Failure> {
    match format {
        Format::Jsonl => list.iter().try_for_each(|item| value(format, item)),
        _ => value(format, &list),
    }
}

/// Columns without borders, two spaces apart, as wide as they are: a pipe has no width.
pub fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().copied());
    for row in rows {
        table.add_row(row.iter().map(|cell| terminal::escaped(cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// Names and what is said of each, one a line.
pub fn list(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    pairs.iter().map(|(name, text)| format!("{name:width$}  {}\n", terminal::escaped(text))).collect()
}

/// `-` for nothing, as a table shows it.
pub fn or_dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}

/// `1 line`, `2 lines`.
pub fn counted(count: u64, one: &str) -> String {
    format!("{count} {one}{}", if count == 1 { "" } else { "s" })
}

/// Where an instance is: its addresses, or its target.
pub fn place(instance: &InstanceForm) -> String {
    instance.target.clone().unwrap_or_else(|| instance.address.join(","))
}

/// Every port: `8080`, `metrics=9090`, `dns=53/udp`.
pub fn ports(instance: &InstanceForm) -> String {
    let shown = instance.ports.iter().map(|port| {
        let name = port.name.as_ref().map(|name| format!("{name}=")).unwrap_or_default();
        let transport = if port.transport == "tcp" { String::new() } else { format!("/{}", port.transport) };
        format!("{name}{}{transport}", port.port)
    });
    shown.collect::<Vec<_>>().join(",")
}

/// Health, and `draining` where it is, as one word.
pub fn standing(instance: &InstanceForm) -> String {
    let marks = [(instance.draining, ", draining"), (instance.held, ", held")];
    let marks = marks.into_iter().filter_map(|(is, mark)| is.then_some(mark));
    marks.fold(instance.health.clone(), |standing, mark| standing + mark)
}

/// What is left of the lease, rounded up to a second so that a living one never shows 0.
pub fn lease_left(instance: &InstanceForm) -> String {
    match instance.lease_left_ms {
        Some(left) => format!("{}s", left.div_ceil(1000)),
        None => instance.lease.clone(),
    }
}

/// Rounded down, so that only what is whole is 100 %; what is off by the last bit of a sum is not.
pub fn percent(ratio: f64) -> String {
    format!("{:.2}%", (ratio * 10_000.0 + 1e-6).floor() / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_no_borders_and_no_tails() {
        let rows = vec![
            vec!["web".to_owned(), "2".to_owned()],
            vec!["a-longer-one".to_owned(), "\x1b[31m\n".to_owned()],
        ];
        let text = table(&["SERVICE", "LIVE"], rows);
        assert_eq!(text, "SERVICE       LIVE\nweb           2\na-longer-one  \\u{1b}[31m\\n\n");
    }

    #[test]
    fn one_is_no_plural() {
        for (count, text) in [(0, "0 lines"), (1, "1 line"), (2, "2 lines"), (11, "11 lines")] {
            assert_eq!(counted(count, "line"), text);
        }
    }

    #[test]
    fn only_what_is_whole_is_a_hundred() {
        for (ratio, text) in [(1.0, "100.00%"), (0.999_999, "99.99%"), (0.57, "57.00%"), (0.0, "0.00%")] {
            assert_eq!(percent(ratio), text);
        }
    }
}
