//! What the pages list is what is in the source: limits (docs/limits.md), error codes (docs/registering.md), and the paths of
//! the HTTP port (docs/http.md).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The number that an expression of a constant stands for: digits, `<<`, `*` and the names of others in the same file.
fn number(expression: &str, source: &str) -> u64 {
    let expression = expression.trim();
    if let Some((left, right)) = expression.split_once("<<") {
        return number(left, source) << number(right, source);
    }
    if let Some((left, right)) = expression.split_once('*') {
        return number(left, source) * number(right, source);
    }
    match expression.replace('_', "").parse() {
        Ok(number) => number,
        Err(_) => number(&constant(source, expression).1, source),
    }
}

/// Type and expression of a constant.
fn constant(source: &str, name: &str) -> (String, String) {
    let start = format!("const {name}: ");
    let found = source.lines().find_map(|line| Some(line.split_once(&start)?.1));
    let (kind, expression) =
        found.and_then(|rest| rest.split_once(" = ")).unwrap_or_else(|| panic!("no {name}"));
    let expression = expression.split(';').next().unwrap_or_default();
    (kind.to_owned(), expression.to_owned())
}

/// As people write it: `1,000,000`, `96 KiB`, `3.5 s`.
fn shown(source: &str, name: &str) -> String {
    let (kind, expression) = constant(source, name);
    let within = |start: &str| Some(expression.strip_prefix(start)?.trim_end_matches(')').to_owned());
    if kind == "Duration" {
        let milliseconds = match (within("Duration::from_secs("), within("Duration::from_millis(")) {
            (Some(seconds), _) => number(&seconds, source) * 1000,
            (None, Some(milliseconds)) => number(&milliseconds, source),
            (None, None) => panic!("{name} is {expression}"),
        };
        return format!("{} s", milliseconds as f64 / 1000.0);
    }
    let number = number(&expression, source);
    let is_octets = name.contains("OCTETS");
    match number {
        whole if is_octets && whole >= 1 << 20 && whole.is_multiple_of(1 << 20) => {
            format!("{} MiB", whole >> 20)
        }
        whole if is_octets && whole >= 16 << 10 && whole.is_multiple_of(1 << 10) => {
            format!("{} KiB", whole >> 10)
        }
        other => {
            let digits = other.to_string();
            let groups: Vec<&str> =
                digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap()).collect();
            groups.join(",")
        }
    }
}

/// `UPDATE=1` writes the values anew.
#[test]
fn the_limits_are_those_of_the_source() {
    let page = read("docs/limits.md");
    let mut now = String::new();
    let mut rows = 0;
    for line in page.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let place = cells.get(3).and_then(|cell| cell.strip_prefix('`')?.strip_suffix('`'));
        match place.and_then(|place| place.split_once(' ')) {
            Some((file, name)) => {
                let source = read(&format!("src/{file}"));
                now.push_str(&format!("| {} | {} | `{file} {name}` |\n", cells[1], shown(&source, name)));
                rows += 1;
            }
            None => now.push_str(&format!("{line}\n")),
        }
    }
    assert!(rows > 40, "the tables are not where they should be");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(root().join("docs/limits.md"), &now).expect("writing the page");
        return;
    }
    for (written, now) in page.lines().zip(now.lines()) {
        assert_eq!(written, now, "docs/limits.md; UPDATE=1 writes it anew");
    }
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => sources(&path, found),
            false => found.push(path),
        }
    }
}

/// What stands in quotes behind `start`.
fn quoted<'a>(text: &'a str, start: &str) -> BTreeSet<&'a str> {
    text.split(start).skip(1).filter_map(|rest| rest.split('"').next()).collect()
}

#[test]
fn every_error_code_is_in_the_table() {
    let page = read("docs/registering.md");
    let table =
        page.split("## Errors").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("the table");
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    let listed: BTreeSet<&str> = rows
        .flat_map(|row| row.split('|').nth(1).unwrap_or_default().split('`').skip(1).step_by(2))
        .collect();
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    let text: String = files.iter().map(|path| fs::read_to_string(path).expect("a source")).collect();
    // Without white space: a call may go over several lines.
    let text: String = text.split_whitespace().collect();
    let refusals = read("src/registry/command.rs");
    let refusals = refusals
        .split("pub fn code(&self) -> &'static str {")
        .nth(1)
        .and_then(|rest| rest.split("\n    }\n").next());
    let mut used = quoted(refusals.expect("the codes of refusals"), "=> \"");
    used.extend(quoted(&text, "Problem::new(\""));
    used.extend(quoted(&text, "code:\"").into_iter().filter(|code| !code.is_empty()));
    let wrong: Vec<&&str> = used.symmetric_difference(&listed).collect();
    assert!(wrong.is_empty(), "in the source or in docs/registering.md, and not in both: {wrong:?}");
}

#[test]
fn every_path_of_the_http_port_is_on_its_page() {
    /// Places of Consul, one row for all.
    const CONSUL: [&str; 5] = ["/v1/agent/", "/v1/catalog/", "/v1/health/", "/v1/status/", "/v1/acl/"];
    let page = read("docs/http.md");
    let mut files = Vec::new();
    sources(&root().join("src/http"), &mut files);
    let source = files.iter().filter(|path| path.extension().is_some_and(|rust| rust == "rs"));
    let text: String = source.map(|path| fs::read_to_string(path).expect("a source")).collect();
    let mut paths = quoted(&text, "route(\"");
    paths.extend(quoted(&text, ": &str = \"").into_iter().filter(|path| path.starts_with('/')));
    assert!(paths.len() > 40, "those of Consul, and some twenty of ours: {paths:?}");
    // What a path leaves open is written in another way on the page.
    let known = |path: &&&str| match CONSUL.iter().find(|place| path.starts_with(**place)) {
        Some(place) => page.contains(&format!("`{place}…`")),
        None => page.contains(path.split('{').next().unwrap_or_default()),
    };
    let missing: Vec<&&str> = paths.iter().filter(|path| !known(path)).collect();
    assert!(missing.is_empty(), "docs/http.md does not name {missing:?}");
}
