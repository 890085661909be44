//! Keeps the map true: which file may name which, where a clock is read and a task started, and the habits
//! that a program can check.
//!
//! It reads the sources as text, with comments and the contents of strings taken out. That is less than a
//! compiler knows (a name brought in through a macro or a glob is not seen) and enough for its purpose, which
//! is to catch the convenient import of a Tuesday afternoon. Each rule is a function from text to findings,
//! and `planted` shows each a violation, so that none of them can quietly stop working.
//!
//! A new file fails [`every_file_has_a_room`] until `ROOMS` says which room it is in.

#[path = "tidy/map.rs"]
mod map;
#[path = "tidy/planted.rs"]
mod planted;
#[path = "tidy/rules.rs"]
mod rules;
#[path = "tidy/source.rs"]
mod source;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use rules::*;
use source::*;

#[test]
fn every_file_has_a_room() {
    let mut findings = Vec::new();
    for file in sources(&["src"]) {
        if room(below_src(&file.path)).is_none() {
            findings.push(format!(
                "{}: belongs to no room. Decide whether it is core, ground, state, edge or wiring, and say so in \
                 ROOMS in tests/tidy/map.rs and in ARCHITECTURE.md",
                file.path
            ));
        }
    }
    none(&findings);
}

#[test]
fn imports_go_downward() {
    let files = sources(&["src"]);
    let modules = top_modules(&files);
    let mut findings = Vec::new();
    for file in &files {
        findings.extend(wrong_imports(&file.path, &file.shipped(), &modules));
    }
    none(&findings);
}

#[test]
fn each_thing_is_named_where_it_lives() {
    let mut findings = Vec::new();
    for file in sources(&["src"]) {
        findings.extend(named_elsewhere(&file.path, &file.shipped()));
    }
    none(&findings);
}

#[test]
fn the_core_is_pure() {
    let mut findings = Vec::new();
    for file in sources(&["src"]) {
        findings.extend(impurities(&file.path, &file.shipped()));
    }
    none(&findings);
}

#[test]
fn nothing_is_left_unfinished() {
    let mut findings = Vec::new();
    for file in sources(&["src", "tests", "benches", "examples"]) {
        findings.extend(unfinished(&file.path, &file.code()));
    }
    none(&findings);
}

#[test]
fn tests_wait_for_events() {
    let mut findings = Vec::new();
    for file in sources(&["tests"]) {
        findings.extend(sleeps(&file.path, &file.text, &file.code()));
    }
    for file in sources(&["src"]) {
        findings.extend(sleeps(&file.path, &file.text, &file.only_tests()));
    }
    none(&findings);
}

#[test]
fn names_say_something() {
    let mut findings = Vec::new();
    for file in sources(&["src", "tests", "benches", "examples"]) {
        findings.extend(empty_file_name(&file.path));
        findings.extend(empty_verbs(&file.path, &file.code()));
    }
    none(&findings);
}

#[test]
fn each_dependency_says_what_for() {
    let manifest = fs::read_to_string(top().join("Cargo.toml")).expect("reading Cargo.toml");
    none(&uncommented_dependencies(&manifest));
}

#[test]
fn each_test_against_a_threat_is_there() {
    let page = fs::read_to_string(top().join("SECURITY.md")).expect("reading SECURITY.md");
    let named: Vec<(&str, &str)> = page
        .split('`')
        .filter_map(|text| text.split_once("::").filter(|(file, _)| file.ends_with(".rs")))
        .collect();
    assert!(named.len() > 30, "the page names its tests as file::function");
    let missing = named.iter().filter(|(file, name)| {
        let text = fs::read_to_string(top().join("tests").join(file)).unwrap_or_default();
        !text.contains(&format!("fn {name}("))
    });
    none(
        &missing.map(|(file, name)| format!("SECURITY.md: tests/{file} has no `{name}`")).collect::<Vec<_>>(),
    );
}

/// Every row of the table of attacks: its tests are there (above), and the numbers of its figure are in them.
#[test]
fn each_figure_of_an_attack_is_that_of_its_tests() {
    let page = fs::read_to_string(top().join("SECURITY.md")).expect("reading SECURITY.md");
    let rows: Vec<[&str; 4]> = page
        .lines()
        .filter(|line| line.starts_with("| A"))
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
            cells.try_into().unwrap_or_else(|cells| panic!("four cells, not {cells:?}"))
        })
        .collect();
    let wanted: Vec<String> = (1..=34).map(|number| format!("A{number}")).collect();
    assert_eq!(rows.iter().map(|row| row[0]).collect::<Vec<_>>(), wanted);
    let mut findings = Vec::new();
    for [number, _, figure, tests] in rows {
        let files: BTreeSet<&str> =
            tests.split('`').filter_map(|text| Some(text.split_once("::")?.0)).collect();
        assert!(!files.is_empty(), "{number} has no test");
        let mut paths: Vec<PathBuf> = files.iter().map(|file| top().join("tests").join(file)).collect();
        paths.extend(figure.contains("`bench/long.md`").then(|| top().join("bench/long.md")));
        let texts: Vec<String> =
            paths.iter().map(|path| fs::read_to_string(path).unwrap_or_default().replace('_', "")).collect();
        let has = |wanted: &str| texts.iter().any(|text| numbers(text).any(|number| number == wanted));
        let plain = figure.replace(',', "");
        let missing = numbers(&plain).filter(|wanted| *wanted != "0" && !has(wanted));
        findings.extend(
            missing.map(|wanted| format!("SECURITY.md: {wanted} of {number} is in none of {files:?}")),
        );
    }
    none(&findings);
}

/// The numbers in a text: digits, perhaps with a point among them.
fn numbers(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !c.is_ascii_digit() && c != '.').map(|word| word.trim_matches('.'));
    words.filter(|word| !word.is_empty())
}

#[test]
fn the_project_speaks_of_itself_alone() {
    let mut findings = Vec::new();
    for path in tree() {
        // A lock file is cargo's, and names the registry in cargo's own way.
        if path.ends_with("Cargo.lock") {
            continue;
        }
        // What is no UTF-8 (a picture, a captured packet) holds no sentence of ours.
        if let Ok(text) = fs::read_to_string(top().join(&path)) {
            findings.extend(foreign_places(&path, &text));
        }
    }
    none(&findings);
}

fn none(findings: &[String]) {
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}
