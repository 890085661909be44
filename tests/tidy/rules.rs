//! The rules: each a function from text to findings.

use std::collections::BTreeSet;

use super::map::*;
use super::source::*;

/// The room of a path below `src/`.
pub fn room(path: &str) -> Option<Room> {
    ROOMS.iter().find(|(place, _)| is_in(path, place)).map(|&(_, room)| room)
}

/// Is `path` the file `place`, or a file below the folder `place`?
pub fn is_in(path: &str, place: &str) -> bool {
    if place.ends_with('/') { path.starts_with(place) } else { path == place }
}

/// `src/dns/udp.rs` -> `dns/udp.rs`
pub fn below_src(path: &str) -> &str {
    path.strip_prefix("src/").unwrap_or(path)
}

/// The module at the top of the crate that a path below `src/` is part of: `dns/udp.rs` -> `dns`.
pub fn top_module(path: &str) -> &str {
    path.split_once('/').map_or_else(|| path.trim_end_matches(".rs"), |(folder, _)| folder)
}

pub fn top_modules(files: &[Source]) -> BTreeSet<String> {
    files.iter().map(|file| top_module(below_src(&file.path)).to_owned()).collect()
}

/// The room of a module at the top of the crate.
pub fn room_of_module(module: &str) -> Option<Room> {
    room(&format!("{module}.rs")).or_else(|| room(&format!("{module}/mod.rs")))
}

pub fn wrong_imports(path: &str, code: &str, modules: &BTreeSet<String>) -> Vec<String> {
    let Some(own_room) = room(below_src(path)) else {
        return Vec::new(); // every_file_has_a_room says so
    };
    let own_module = top_module(below_src(path));
    let mut findings = Vec::new();
    for (line, name) in crate_names(path, code) {
        if !modules.contains(&name) {
            // Not a module: an item of lib.rs, which hides the room it comes from. Wiring may.
            if own_room != Wiring && name != "self" {
                findings.push(format!(
                    "{path}:{line}: names crate::{name}, which is no module; name the module it lives in"
                ));
            }
            continue;
        }
        let allowed = name == own_module
            || match (own_room, room_of_module(&name)) {
                (Wiring, _) | (_, Some(Core)) | (State, Some(State)) | (State | Edge, Some(Ground)) => true,
                (Edge, Some(State)) => STATE_FOR_EDGES.contains(&name.as_str()),
                _ => false,
            };
        if !allowed {
            let may = match own_room {
                Core => "the core imports only core",
                Ground => "the ground imports only core",
                State => "state imports core, ground and state",
                Edge => {
                    "an edge imports core, ground, the writer's handle, the store's history, the journal and the desk, never another edge"
                }
                Wiring => unreachable!("wiring imports everything"),
            };
            findings.push(format!("{path}:{line}: names crate::{name}; {may}"));
        }
    }
    findings
}

/// Each first name after `crate::`, or after the `super::` that means the same in this file, with its line.
pub fn crate_names(path: &str, code: &str) -> Vec<(usize, String)> {
    let depth = below_src(path).trim_end_matches("/mod.rs").matches('/').count();
    let from_super = "super::".repeat(depth + 1);
    let mut names = Vec::new();
    for prefix in ["crate::", from_super.as_str(), "callsign::"] {
        for at in occurrences(code, prefix) {
            let before = &code[..at];
            if before.ends_with("super::") || before.ends_with('$') {
                continue; // another level up; or a macro's own crate, seen where the macro is defined
            }
            let line = line_of(code, at);
            let rest = code[at + prefix.len()..].trim_start();
            if let Some(group) = rest.strip_prefix('{') {
                for part in parts_of_group(group) {
                    names.push((line, first_name(part)));
                }
            } else {
                names.push((line, first_name(rest)));
            }
        }
    }
    // `super::` may stand in a module inside the file, where it is the file: only modules count then.
    names.retain(|(_, name)| !name.is_empty());
    names
}

/// `a::b, c::{d, e}, f}; …` -> `a::b`, ` c::{d, e}`, ` f`
pub fn parts_of_group(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0_usize, 0);
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                parts.push(&text[start..at]);
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts
}

pub fn first_name(text: &str) -> String {
    text.trim_start().chars().take_while(|&c| is_name(c)).collect()
}

pub fn named_elsewhere(path: &str, code: &str) -> Vec<String> {
    let inside = below_src(path);
    let mut findings = Vec::new();
    for (text, places, reason) in ONLY_IN {
        if places.iter().any(|place| is_in(inside, place)) {
            continue;
        }
        for at in occurrences(code, text) {
            let places = if places.is_empty() {
                "nowhere".to_owned()
            } else {
                format!("only in {}", places.join(", "))
            };
            findings.push(format!("{path}:{}: `{text}` belongs {places}: {reason}", line_of(code, at)));
        }
    }
    findings
}

pub fn impurities(path: &str, code: &str) -> Vec<String> {
    if room(below_src(path)) != Some(Core) {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for text in NOT_IN_CORE {
        for at in occurrences(code, text) {
            findings.push(format!(
                "{path}:{}: the core names `{text}`; time, randomness and I/O come in as arguments",
                line_of(code, at)
            ));
        }
    }
    findings
}

pub fn unfinished(path: &str, code: &str) -> Vec<String> {
    let mut findings = Vec::new();
    for (text, advice) in NOWHERE {
        for at in occurrences(code, text) {
            findings.push(format!("{path}:{}: `{text}`: {advice}", line_of(code, at)));
        }
    }
    findings
}

/// Sleeps in a test, unless the line, or the one above it, says `// tidy: may sleep: <why>`.
///
/// The reason is for what has no event to wait for: the time itself is the subject, or another program is
/// asked again until a deadline.
pub fn sleeps(path: &str, text: &str, code: &str) -> Vec<String> {
    const MAY: &str = "// tidy: may sleep: ";
    const REASON_CHARS_MIN: usize = 12;
    let lines: Vec<&str> = text.lines().collect();
    let mut findings = Vec::new();
    for (number, line) in code.lines().enumerate() {
        if !["thread::sleep", "time::sleep", "sleep("].iter().any(|text| has(line, text)) {
            continue;
        }
        let above = number.checked_sub(1).map_or("", |above| lines[above]);
        let reason = [lines[number], above]
            .iter()
            .find_map(|line| line.split_once(MAY))
            .map_or("", |(_, reason)| reason.trim());
        if reason.chars().count() < REASON_CHARS_MIN {
            findings.push(format!(
                "{path}:{}: a test sleeps; wait for the event, with a deadline, or say `{MAY}<why>`",
                number + 1
            ));
        }
    }
    findings
}

pub fn empty_file_name(path: &str) -> Option<String> {
    let name = path.split('/').map(|part| part.split('.').next().unwrap_or(part));
    name.into_iter()
        .find(|part| EMPTY_NAMES.contains(part))
        .map(|part| format!("{path}: `{part}` names no thing; what is it for?"))
}

pub fn empty_verbs(path: &str, code: &str) -> Vec<String> {
    let mut findings = Vec::new();
    for at in occurrences(code, "fn ") {
        let name = first_name(&code[at + 3..]);
        if FOREIGN_NAMES.contains(&name.as_str()) {
            continue;
        }
        if let Some(verb) = EMPTY_VERBS.iter().find(|verb| name.starts_with(*verb)) {
            findings.push(format!("{path}:{}: `fn {name}`: `{verb}` says nothing", line_of(code, at)));
        }
    }
    findings
}

pub fn uncommented_dependencies(manifest: &str) -> Vec<String> {
    let mut findings = Vec::new();
    let (mut in_dependencies, mut brackets, mut above) = (false, 0_i32, "");
    for (number, line) in manifest.lines().enumerate() {
        let bare = line.trim();
        let continues = brackets > 0;
        let depth = |c| i32::try_from(bare.matches(c).count()).unwrap_or(0);
        if !bare.starts_with('#') {
            brackets += depth('[') + depth('{') - depth(']') - depth('}');
        }
        if bare.starts_with('[') && !continues {
            in_dependencies = bare.trim_matches(['[', ']']).ends_with("dependencies");
        } else if in_dependencies
            && !continues
            && !bare.is_empty()
            && !bare.starts_with('#')
            && !above.starts_with('#')
        {
            let name = bare.split([' ', '=', '.']).next().unwrap_or(bare);
            findings.push(format!(
                "Cargo.toml:{}: {name} does not say, in a comment above, what for",
                number + 1
            ));
        }
        above = bare;
    }
    findings
}

pub fn foreign_places(path: &str, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for place in MACHINE_PATHS {
            if line.contains(place) {
                findings.push(format!("{path}:{}: `{place}` is a folder of one machine", number + 1));
            }
        }
        for (at, scheme) in line.match_indices("://") {
            // Only what a browser or a package client would follow; unix://, etcd:// and dns:// are ours.
            if !line[..at].ends_with("http") && !line[..at].ends_with("https") {
                continue;
            }
            let rest = &line[at + scheme.len()..];
            let host: String = rest
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
                .collect();
            if !may_be_linked(&host) {
                findings.push(format!(
                    "{path}:{}: a link to `{host}`; if readers need it, name it in HOSTS in tests/tidy/map.rs",
                    number + 1
                ));
            }
        }
    }
    findings
}

/// A name without a dot (it leads nowhere outside; or it is a pattern, a variable, an IPv6 literal), an IPv4
/// address, or a host that is listed or below one that is.
pub fn may_be_linked(host: &str) -> bool {
    let host = host.trim_end_matches('.');
    !host.contains('.')
        || host.chars().all(|c| c.is_ascii_digit() || c == '.')
        || HOSTS.iter().any(|listed| {
            host.strip_suffix(listed).is_some_and(|below| below.is_empty() || below.ends_with('.'))
        })
}
