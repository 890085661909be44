//! Keeps the map true: which file may name which, where a clock is read and a task started, and the habits
//! that a program can check.
//!
//! It reads the sources as text, with comments and the contents of strings taken out. That is less than a
//! compiler knows (a name brought in through a macro or a glob is not seen) and enough for its purpose, which
//! is to catch the convenient import of a Tuesday afternoon. Each rule is a function from text to findings,
//! and below the rules each is shown a planted violation, so that none of them can quietly stop working.
//!
//! A new file fails [`every_file_has_a_room`] until `ROOMS` says which room it is in.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

// -- the map ---------------------------------------------------------------------------------------------------

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    /// Pure: no clock, no I/O, no tasks, no logging. Imports only core.
    Core,
    /// What state and edges both stand on: the clock, limits. Imports only core.
    Ground,
    /// Makes changes last and visible. Imports core, ground and state.
    State,
    /// Talks to the world. Imports core, ground, the writer's handle, the store's history and its own folder.
    Edge,
    /// Puts it together. Imports everything.
    Wiring,
}

use Room::{Core, Edge, Ground, State, Wiring};

/// A file below `src/`, or a folder, which ends in `/`.
const ROOMS: &[(&str, Room)] = &[
    ("access.rs", Core),
    ("access/", Core),
    ("answer.rs", Core),
    ("answer/", Core),
    ("availability.rs", Core),
    ("balance.rs", Core),
    ("balance/", Core),
    ("check.rs", Core),
    ("explain.rs", Core),
    ("grammar.rs", Core),
    ("grammar/", Core),
    ("instance.rs", Core),
    ("lease.rs", Core),
    ("live.rs", Core),
    ("live/", Core),
    ("member.rs", Core),
    ("name.rs", Core),
    ("name/", Core),
    ("protobuf.rs", Core),
    ("protocol.rs", Core),
    ("protocol/", Core),
    ("record.rs", Core),
    ("registry.rs", Core),
    ("service_file.rs", Core),
    ("sign.rs", Core),
    ("sign/", Core),
    ("sorted.rs", Core),
    ("special.rs", Core),
    ("registry/", Core),
    ("time.rs", Core),
    ("update.rs", Core),
    ("update/", Core),
    ("view.rs", Core),
    ("view/", Core),
    ("xds.rs", Core),
    ("xds/", Core),
    ("zone.rs", Core),
    ("zone/", Core),
    ("zone_file.rs", Core),
    ("zone_file/", Core),
    ("clock.rs", Ground),
    ("connections.rs", Ground),
    ("connections/", Ground),
    ("counters.rs", Ground),
    ("counters/", Ground),
    ("grpc.rs", Ground),
    ("message.rs", Ground),
    ("traffic.rs", Ground),
    ("desk.rs", State),
    ("desk/", State),
    ("journal.rs", State),
    ("store/", State),
    ("writer.rs", State),
    ("writer/", State),
    ("dns/", Edge),
    ("health.rs", Edge),
    ("health/", Edge),
    ("http.rs", Edge),
    ("http/", Edge),
    ("metrics.rs", Edge),
    ("socket.rs", Edge),
    ("socket/", Edge),
    ("bind.rs", Wiring),
    ("cli/", Wiring),
    ("client.rs", Wiring),
    ("client/", Wiring),
    ("config.rs", Wiring),
    ("config/", Wiring),
    ("definitions.rs", Wiring),
    ("key_folder.rs", Wiring),
    ("zone_folder.rs", Wiring),
    ("lib.rs", Wiring),
    ("main.rs", Wiring),
    ("serve.rs", Wiring),
    ("serve/", Wiring),
];

/// The one state module that edges may name: they hand it commands and await its answer.
const STATE_FOR_EDGES: [&str; 4] = ["writer", "store", "journal", "desk"];

/// What is named in a few places only: (text, the files below `src/` that may hold it, the reason).
///
/// Text that begins or ends like an identifier matches whole identifiers only.
const ONLY_IN: &[(&str, &[&str], &str)] = &[
    (
        "hickory_server",
        &["dns/handler.rs", "dns/wire/respond.rs"],
        "the general path is one place, our loops are others",
    ),
    (
        "domain::",
        &["zone_file/data.rs"],
        "the zone-file reader's library, and a name that is too good for elsewhere",
    ),
    ("redb", &["store/embedded.rs", "store/embedded/"], "the disk has one form, and one file that knows it"),
    ("etcd_client", &["store/etcd.rs"], "a cluster is only another source of changes"),
    ("quinn", &["dns/quic.rs", "serve/encrypted.rs"], "QUIC carries DNS and nothing else of ours"),
    ("rcgen", &["connections/tls.rs"], "a certificate of our own making is for a first try"),
    ("clap", &["cli/"], "what was typed becomes what is needed before anything else sees it"),
    ("axum", &["http.rs", "http/"], "the HTTP server is an edge"),
    (
        "anyhow",
        &[
            "bind.rs",
            "cli/",
            "client.rs",
            "config.rs",
            "config/",
            "key_folder.rs",
            "main.rs",
            "serve.rs",
            "serve/",
        ],
        "below the wiring an error says what the caller may still do",
    ),
    ("tokio::spawn", SPAWNERS, "a task that nobody owns dies unseen"),
    ("tokio::task::spawn", SPAWNERS, "a task that nobody owns dies unseen"),
    ("thread::spawn", SPAWNERS, "a thread that nobody owns dies unseen"),
    ("spawn_blocking", SPAWNERS, "a thread that nobody owns dies unseen"),
    (".spawn(", SPAWNERS, "a task that nobody owns dies unseen"),
    ("Instant::now", CLOCKS, "time comes in as an argument"),
    ("SystemTime::now", CLOCKS, "time comes in as an argument"),
    ("unbounded_channel", &[], "nothing is unbounded"),
    ("allow(unsafe_code", &["dns/batch.rs"], "one file speaks to the kernel in pointers, and is read for it"),
    ("thread::sleep", &[], "wait for the event itself, with a deadline"),
];

/// `serve.rs` starts the services, accept loops their connections, `dns/forward.rs` a bounded number of questions to other
/// servers, which many clients may wait for and one may leave; `dns/udp.rs` a thread for each core; the command line
/// the user's command, a client's `Registration` the task that holds it, the
/// store its one thread, for a commit blocks, and a backup its reading of the disk, which it waits for; `health.rs` its
/// probes, `health/` what a probe waits for: the system's resolver, certificates on the disk, a program.
const SPAWNERS: &[&str] = &[
    "serve.rs",
    "serve/",
    "connections.rs",
    "dns/forward.rs",
    "dns/forward/upstreams.rs",
    "dns/quic.rs",
    "dns/udp.rs",
    "http.rs",
    "http/doh.rs",
    "socket.rs",
    "socket/stream.rs",
    "cli/",
    "client/registration.rs",
    "store/embedded.rs",
    "health.rs",
    "health/command.rs",
    "health/reach.rs",
    "health/tls.rs",
];

/// The server reads its clocks in one file; a client's deadlines are its own.
const CLOCKS: &[&str] = &["clock.rs", "cli/", "client.rs", "client/"];

/// What the core never names.
const NOT_IN_CORE: &[&str] = &[
    "tokio",
    "tracing",
    "getrandom",
    "nix",
    "socket2",
    "async fn",
    ".await",
    "UdpSocket",
    "TcpStream",
    "TcpListener",
    "UnixStream",
    "UnixListener",
    "UnixDatagram",
    "std::env",
    "std::fs",
    "std::process",
    "std::thread",
    "println!",
    "eprintln!",
];

/// What no source, test, bench or example holds.
const NOWHERE: &[(&str, &str)] = &[
    ("todo!", "finish it or leave it out"),
    ("unimplemented!", "finish it or leave it out"),
    ("dbg!", "take it out before the commit"),
    ("#[ignore", "a test that does not run is not a test"),
];

/// Words that name no thing. A file called so becomes the drawer for everything.
const EMPTY_NAMES: &[&str] =
    &["common", "helper", "helpers", "manager", "misc", "type", "types", "util", "utils"];

/// Beginnings of function names that say nothing, and the one trait method that is not ours to name.
const EMPTY_VERBS: &[&str] = &["do_", "get_", "handle_"];
const FOREIGN_NAMES: &[&str] = &["handle_request"];

/// Folders of some developer's machine, in pieces so that this file passes its own test.
const MACHINE_PATHS: &[&str] = &[concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/")];

/// Hosts that a link in this repository may lead to. Anything else (a mirror, a private registry) is some
/// machine's own configuration and has no place here.
const HOSTS: &[&str] = &[
    "apache.org",
    "debian.org",
    "doc.rust-lang.org",
    "docs.rs",
    "example",
    "example.com",
    "example.net",
    "example.org",
    "github.com",
    "html.spec.whatwg.org",
    "iana.org",
    "ietf.org",
    "invalid",
    "keepachangelog.com",
    "local",
    "prometheus.io",
    "rfc-editor.org",
    "semver.org",
    "test",
    "www.w3.org",
];

// -- the rules over this tree ----------------------------------------------------------------------------------

#[test]
fn every_file_has_a_room() {
    let mut findings = Vec::new();
    for file in sources(&["src"]) {
        if room(below_src(&file.path)).is_none() {
            findings.push(format!(
                "{}: belongs to no room. Decide whether it is core, ground, state, edge or wiring, and say so in \
                 ROOMS in tests/tidy.rs and in ARCHITECTURE.md",
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
    for file in sources(&["src", "tests", "benches", "examples", "fuzz"]) {
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
    for file in sources(&["src", "tests", "benches", "examples", "fuzz"]) {
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

// -- rules -----------------------------------------------------------------------------------------------------

/// The room of a path below `src/`.
fn room(path: &str) -> Option<Room> {
    ROOMS.iter().find(|(place, _)| is_in(path, place)).map(|&(_, room)| room)
}

/// Is `path` the file `place`, or a file below the folder `place`?
fn is_in(path: &str, place: &str) -> bool {
    if place.ends_with('/') { path.starts_with(place) } else { path == place }
}

/// `src/dns/udp.rs` -> `dns/udp.rs`
fn below_src(path: &str) -> &str {
    path.strip_prefix("src/").unwrap_or(path)
}

/// The module at the top of the crate that a path below `src/` is part of: `dns/udp.rs` -> `dns`.
fn top_module(path: &str) -> &str {
    path.split_once('/').map_or_else(|| path.trim_end_matches(".rs"), |(folder, _)| folder)
}

fn top_modules(files: &[Source]) -> BTreeSet<String> {
    files.iter().map(|file| top_module(below_src(&file.path)).to_owned()).collect()
}

/// The room of a module at the top of the crate.
fn room_of_module(module: &str) -> Option<Room> {
    room(&format!("{module}.rs")).or_else(|| room(&format!("{module}/mod.rs")))
}

fn wrong_imports(path: &str, code: &str, modules: &BTreeSet<String>) -> Vec<String> {
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
                    "an edge imports core, ground, the writer's handle and the store's history, never another edge"
                }
                Wiring => unreachable!("wiring imports everything"),
            };
            findings.push(format!("{path}:{line}: names crate::{name}; {may}"));
        }
    }
    findings
}

/// Each first name after `crate::`, or after the `super::` that means the same in this file, with its line.
fn crate_names(path: &str, code: &str) -> Vec<(usize, String)> {
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
fn parts_of_group(text: &str) -> Vec<&str> {
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

fn first_name(text: &str) -> String {
    text.trim_start().chars().take_while(|&c| is_name(c)).collect()
}

fn named_elsewhere(path: &str, code: &str) -> Vec<String> {
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

fn impurities(path: &str, code: &str) -> Vec<String> {
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

fn unfinished(path: &str, code: &str) -> Vec<String> {
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
fn sleeps(path: &str, text: &str, code: &str) -> Vec<String> {
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

fn empty_file_name(path: &str) -> Option<String> {
    let name = path.split('/').map(|part| part.split('.').next().unwrap_or(part));
    name.into_iter()
        .find(|part| EMPTY_NAMES.contains(part))
        .map(|part| format!("{path}: `{part}` names no thing; what is it for?"))
}

fn empty_verbs(path: &str, code: &str) -> Vec<String> {
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

fn uncommented_dependencies(manifest: &str) -> Vec<String> {
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

fn foreign_places(path: &str, text: &str) -> Vec<String> {
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
                    "{path}:{}: a link to `{host}`; if readers need it, name it in HOSTS in tests/tidy.rs",
                    number + 1
                ));
            }
        }
    }
    findings
}

/// A name without a dot (it leads nowhere outside; or it is a pattern, a variable, an IPv6 literal), an IPv4
/// address, or a host that is listed or below one that is.
fn may_be_linked(host: &str) -> bool {
    let host = host.trim_end_matches('.');
    !host.contains('.')
        || host.chars().all(|c| c.is_ascii_digit() || c == '.')
        || HOSTS.iter().any(|listed| {
            host.strip_suffix(listed).is_some_and(|below| below.is_empty() || below.ends_with('.'))
        })
}

// -- reading Rust as text --------------------------------------------------------------------------------------

/// One file, by its path from the top of the repository, with `/` between the parts.
struct Source {
    path: String,
    text: String,
}

impl Source {
    /// Without comments and the contents of strings; lines stay where they are.
    fn code(&self) -> String {
        code_of(&self.text)
    }

    /// The code that is not for tests.
    fn shipped(&self) -> String {
        split_tests(&self.code()).0
    }

    fn only_tests(&self) -> String {
        split_tests(&self.code()).1
    }
}

/// `text` with every comment and every string's and character's contents replaced by spaces.
fn code_of(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let blank = |code: &mut String, from: usize, to: usize| {
        for &c in &chars[from..to] {
            code.push(if c == '\n' { '\n' } else { ' ' });
        }
    };
    let mut at = 0;
    while at < chars.len() {
        let next = chars.get(at + 1).copied();
        let follows_name = at > 0 && is_name(chars[at - 1]);
        match chars[at] {
            '/' if next == Some('/') => {
                let end = (at..chars.len()).find(|&i| chars[i] == '\n').unwrap_or(chars.len());
                blank(&mut code, at, end);
                at = end;
            }
            '/' if next == Some('*') => {
                let end = end_of_block_comment(&chars, at);
                blank(&mut code, at, end);
                at = end;
            }
            '"' => {
                let end = end_of_string(&chars, at);
                code.push('"');
                blank(&mut code, at + 1, end.saturating_sub(1).max(at + 1));
                code.push('"');
                at = end;
            }
            'r' if !follows_name || matches!(chars[at - 1], 'b' | 'c') => {
                if let Some(end) = end_of_raw_string(&chars, at) {
                    blank(&mut code, at, end);
                    at = end;
                } else {
                    code.push('r');
                    at += 1;
                }
            }
            '\'' => {
                if let Some(end) = end_of_char(&chars, at) {
                    blank(&mut code, at, end);
                    at = end;
                } else {
                    code.push('\''); // a lifetime
                    at += 1;
                }
            }
            c => {
                code.push(c);
                at += 1;
            }
        }
    }
    code
}

/// Block comments nest.
fn end_of_block_comment(chars: &[char], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0);
    while at + 1 < chars.len() {
        match (chars[at], chars[at + 1]) {
            ('/', '*') => {
                depth += 1;
                at += 2;
            }
            ('*', '/') => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    chars.len()
}

fn end_of_string(chars: &[char], start: usize) -> usize {
    let mut at = start + 1;
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

/// `r"…"`, `r#"…"#`; `r#name` is an identifier.
fn end_of_raw_string(chars: &[char], start: usize) -> Option<usize> {
    let hashes = chars[start + 1..].iter().take_while(|&&c| c == '#').count();
    let quote = start + 1 + hashes;
    if chars.get(quote) != Some(&'"') {
        return None;
    }
    (quote + 1..chars.len())
        .find(|&i| {
            chars[i] == '"' && chars[i + 1..].iter().take(hashes).filter(|&&c| c == '#').count() == hashes
        })
        .map(|i| i + 1 + hashes)
}

/// `'a'`, `'\n'`, `'\u{1f}'`; in `'a` and `'static` nothing is closed.
fn end_of_char(chars: &[char], start: usize) -> Option<usize> {
    if chars.get(start + 1) == Some(&'\\') {
        return (start + 3..chars.len().min(start + 14)).find(|&i| chars[i] == '\'').map(|i| i + 1);
    }
    (chars.get(start + 2) == Some(&'\'')).then_some(start + 3)
}

/// `code` in two, each with the other's text blanked: what ships, and the bodies of `#[cfg(test)]` modules.
fn split_tests(code: &str) -> (String, String) {
    let (mut shipped, mut tests) = (String::new(), String::new());
    let blank = |text: &str| -> String { text.chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect() };
    let mut rest = code;
    while let Some(at) = rest.find("#[cfg(test)]") {
        let body = &rest[at..];
        let (open, semicolon) = (body.find('{'), body.find(';'));
        let end = match (open, semicolon) {
            // `#[cfg(test)] mod tests;` or a `use`: the statement alone.
            (None, Some(end)) => end + 1,
            (Some(open), Some(end)) if end < open => end + 1,
            (Some(open), _) => open + length_of_block(&body[open..]),
            (None, None) => body.len(),
        };
        shipped.push_str(&rest[..at]);
        shipped.push_str(&blank(&body[..end]));
        tests.push_str(&blank(&rest[..at]));
        tests.push_str(&body[..end]);
        rest = &body[end..];
    }
    shipped.push_str(rest);
    tests.push_str(&blank(rest));
    (shipped, tests)
}

/// From `{` to just behind the `}` that closes it.
fn length_of_block(code: &str) -> usize {
    let mut depth = 0;
    for (at, c) in code.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    code.len()
}

/// Where `text` stands in `code`, not as a part of a longer identifier.
fn occurrences(code: &str, text: &str) -> Vec<usize> {
    let begins_as_name = text.starts_with(is_name);
    let ends_as_name = text.ends_with(is_name);
    code.match_indices(text)
        .map(|(at, _)| at)
        .filter(|&at| {
            !(begins_as_name && code[..at].ends_with(is_name)
                || ends_as_name && code[at + text.len()..].starts_with(is_name))
        })
        .collect()
}

fn has(code: &str, text: &str) -> bool {
    !occurrences(code, text).is_empty()
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn line_of(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count() + 1
}

// -- files -----------------------------------------------------------------------------------------------------

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file of the repository, without what git keeps and cargo builds, in order.
fn tree() -> Vec<String> {
    let mut paths = Vec::new();
    walk(top(), &mut paths);
    let mut paths: Vec<String> = paths
        .iter()
        .filter_map(|path| path.strip_prefix(top()).ok())
        .map(|path| path.to_string_lossy().replace('\\', "/"))
        .collect();
    paths.sort();
    paths
}

fn walk(folder: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("reading {}: {error}", folder.display()))
    {
        let entry = entry.expect("reading a directory entry");
        let kind = entry.file_type().expect("the type of a directory entry");
        let name = entry.file_name();
        if kind.is_dir() && name != "target" && name != ".git" {
            walk(&entry.path(), paths);
        } else if kind.is_file() {
            paths.push(entry.path());
        }
    }
}

/// The Rust files below the folders, but this one: it holds every text that it forbids.
fn sources(folders: &[&str]) -> Vec<Source> {
    tree()
        .into_iter()
        .filter(|path| folders.iter().any(|folder| path.starts_with(&format!("{folder}/"))))
        .filter(|path| path.ends_with(".rs") && path != "tests/tidy.rs")
        .map(|path| {
            let text = fs::read_to_string(top().join(&path))
                .unwrap_or_else(|error| panic!("reading {path}: {error}"));
            Source { path, text }
        })
        .collect()
}

// -- the rules can fail ----------------------------------------------------------------------------------------

/// What `imports_go_downward` says of one planted file.
fn imports(path: &str, text: &str) -> usize {
    let modules = [
        "name", "view", "clock", "store", "writer", "dns", "socket", "http", "serve", "config", "cli",
        "metrics",
    ];
    let modules = modules.map(str::to_owned).into();
    wrong_imports(path, &split_tests(&code_of(text)).0, &modules).len()
}

#[test]
fn planted_imports_are_found() {
    assert_eq!(imports("src/view.rs", "use crate::name::ServiceName;"), 0);
    assert_eq!(imports("src/view.rs", "use crate::writer::Writer;"), 1);
    assert_eq!(imports("src/view.rs", "use crate::{name::Apex, store::{Store, Memory}, writer};"), 2);
    assert_eq!(imports("src/view.rs", "use super::store::Store;"), 1);
    assert_eq!(imports("src/view.rs", "fn f() { crate::serve::run() }"), 1);
    assert_eq!(imports("src/view.rs", "use crate::Store;"), 1, "a re-export hides the room");
    assert_eq!(imports("src/store/mod.rs", "use crate::view::View; use super::writer::Event;"), 0);
    assert_eq!(imports("src/store/embedded.rs", "use crate::dns::wire;"), 1);
    assert_eq!(imports("src/writer.rs", "use crate::config::Config;"), 1);
    assert_eq!(
        imports("src/dns/udp.rs", "use super::wire; use crate::dns::wire; use crate::writer::Writer;"),
        0
    );
    assert_eq!(imports("src/dns/udp.rs", "use crate::http::doh;"), 1);
    assert_eq!(imports("src/dns/udp.rs", "use super::super::socket;"), 1);
    assert_eq!(imports("src/socket.rs", "use crate::store::History;"), 0);
    assert_eq!(imports("src/socket.rs", "use crate::metrics::Metrics;"), 1);
    assert_eq!(imports("src/socket.rs", "use crate::clock::Clock;"), 0);
    assert_eq!(imports("src/view.rs", "use crate::clock::Clock;"), 1);
    assert_eq!(imports("src/clock.rs", "use crate::writer::Writer;"), 1);
    assert_eq!(imports("src/serve.rs", "use crate::{dns, http, socket, store, writer};"), 0);
}

#[test]
fn comments_strings_and_tests_are_not_imports() {
    assert_eq!(
        imports("src/view.rs", "// use crate::writer::Writer;\n/* crate::store /* nested */ crate::dns */"),
        0
    );
    assert_eq!(
        imports("src/view.rs", r##"const S: &str = "crate::dns"; const R: &str = r#"crate::"dns"#;"##),
        0
    );
    assert_eq!(
        imports("src/view.rs", "#[cfg(test)]\nmod tests { use crate::writer::Writer; fn f() { {} } }"),
        0
    );
    assert_eq!(
        imports("src/view.rs", "#[cfg(test)]\nmod tests { fn f() {} }\nuse crate::writer::Writer;"),
        1
    );
    assert_eq!(imports("src/view.rs", "#[cfg(test)]\nmod tests;\nuse crate::writer::Writer;"), 1);
    assert_eq!(
        imports("src/view.rs", "const C: char = '\"'; use crate::writer::W; const D: char = '\\'';"),
        1
    );
    assert_eq!(imports("src/view.rs", "fn f<'a>(x: &'a str) { crate::dns::g(x, 'x') }"), 1);
    assert_eq!(
        imports("src/view.rs", "pub(crate) fn f() {} macro_rules! m { () => { $crate::dns::f() } }"),
        0
    );
}

#[test]
fn planted_names_in_the_wrong_place_are_found() {
    let found = |path: &str, text: &str| named_elsewhere(path, &code_of(text)).len();
    assert_eq!(found("src/dns/handler.rs", "use hickory_server::server::Request;"), 0);
    assert_eq!(found("src/dns/udp.rs", "use hickory_server::server::Request;"), 1);
    assert_eq!(found("src/dns/udp.rs", "let hickory_servers = 1;"), 0);
    assert_eq!(found("src/store/mod.rs", "use redb::Database;"), 1);
    assert_eq!(found("src/config.rs", "use clap::Parser;"), 1);
    assert_eq!(found("src/cli/serve.rs", "use clap::Parser; use anyhow::Result;"), 0);
    assert_eq!(found("src/socket.rs", "use axum::Router; use anyhow::Result;"), 2);
    assert_eq!(found("src/dns/wire.rs", "tokio::spawn(async {});"), 1);
    assert_eq!(found("src/writer.rs", "tasks.spawn(async {}); task::spawn_blocking(f);"), 2);
    assert_eq!(found("src/dns/quic.rs", "connections.spawn(async {});"), 0);
    assert_eq!(found("src/serve.rs", "mpsc::unbounded_channel(); std::thread::sleep(d);"), 2);
    assert_eq!(found("src/writer.rs", "let now = Instant::now();"), 1);
    assert_eq!(found("src/dns/udp.rs", "let now = Instant::now();"), 1);
    assert_eq!(found("src/clock.rs", "let now = Instant::now();"), 0);
}

#[test]
fn planted_impurities_are_found() {
    let found = |path: &str, text: &str| impurities(path, &split_tests(&code_of(text)).0).len();
    assert_eq!(found("src/lease.rs", "use std::net::IpAddr; use std::time::Duration;"), 0);
    assert_eq!(found("src/lease.rs", "use tokio::time::sleep;"), 1);
    assert_eq!(found("src/lease.rs", "tracing::info!(x); std::fs::read(p);"), 2);
    assert_eq!(found("src/zone.rs", "use std::net::UdpSocket;"), 1);
    assert_eq!(found("src/zone.rs", "/// Not tokio, not std::fs.\nfn f() {}"), 0);
    assert_eq!(found("src/zone.rs", "#[cfg(test)]\nmod tests { use std::fs; }"), 0);
    assert_eq!(found("src/serve.rs", "use tokio::time::sleep;"), 0);
}

#[test]
fn planted_unfinished_code_is_found() {
    let found = |text: &str| unfinished("src/view.rs", &code_of(text)).len();
    assert_eq!(found("fn f() { todo!() }"), 1);
    assert_eq!(found("fn f() { unimplemented!(\"later\") } fn g() { dbg!(1); }"), 2);
    assert_eq!(found("#[test]\n#[ignore = \"slow\"]\nfn f() {}"), 1);
    assert_eq!(found("/// todo! is not used here\nfn f() {}"), 0);
}

#[test]
fn planted_sleeps_are_found() {
    let found = |text: &str| sleeps("tests/server.rs", text, &code_of(text)).len();
    assert_eq!(found("fn f() {\n    std::thread::sleep(ONE);\n}"), 1);
    assert_eq!(found("tokio::time::sleep(ONE).await;"), 1);
    assert_eq!(found("sleep(ONE).await;"), 1);
    assert_eq!(found("sleep(ONE).await; // tidy: may sleep: the lease itself is the subject"), 0);
    assert_eq!(found("// tidy: may sleep: dig has no event to wait for\nsleep(ONE).await;"), 0);
    assert_eq!(found("// tidy: may sleep: yes\nsleep(ONE).await;"), 1, "that is no reason");
    assert_eq!(found("// no sleep(ONE) here\nlet sleeping = 1;"), 0);
}

#[test]
fn planted_empty_names_are_found() {
    assert!(empty_file_name("src/util.rs").is_some());
    assert!(empty_file_name("tests/common/mod.rs").is_some());
    assert!(empty_file_name("src/dns/types.rs").is_some());
    assert!(empty_file_name("src/utility_bill.rs").is_none());
    let found = |text: &str| empty_verbs("src/view.rs", &code_of(text)).len();
    assert_eq!(found("fn handle_query() {} pub async fn do_it() {} fn get_name() {}"), 3);
    assert_eq!(found("async fn handle_request() {} fn getaddrinfo() {} fn donate() {} fn handles() {}"), 0);
}

#[test]
fn a_planted_bare_dependency_is_found() {
    let found = |text: &str| uncommented_dependencies(text).len();
    assert_eq!(found("[dependencies]\n# what for\nserde = \"1\"\n"), 0);
    assert_eq!(found("[dependencies]\n# what for\nserde = \"1\"\ntracing = \"1\"\n"), 1);
    assert_eq!(found("[dev-dependencies]\ninsta = \"1\"\n"), 1);
    assert_eq!(
        found("[dev-dependencies]\n# what for\nnix = { version = \"1\", features = [\n  \"fs\",\n] }\n"),
        0
    );
    assert_eq!(found("[target.'cfg(unix)'.dependencies]\nlibc = \"1\"\n"), 1);
    assert_eq!(found("[package]\nname = \"callsign\"\n"), 0);
}

#[test]
fn planted_foreign_places_are_found() {
    let found = |text: &str| foreign_places("README.md", text).len();
    assert_eq!(found(&format!("see {}notes", MACHINE_PATHS[0])), 1);
    assert_eq!(found(&format!("cd {}x && ls {}y", MACHINE_PATHS[1], MACHINE_PATHS[2])), 2);
    assert_eq!(
        found("https://www.rfc-editor.org/rfc/rfc2782 and http://127.0.0.1:8080, http://web.service.local/"),
        0
    );
    assert_eq!(found(concat!("deb htt", "p://mirror.somewhere.net/debian bookworm main")), 1);
    assert_eq!(found(concat!("htt", "ps://notgithub.com/")), 1);
    assert_eq!(found("http://[::1]:5380 http://{address}:{port} unix://run/callsign.sock"), 0);
}

#[test]
fn rooms_are_found_by_file_and_by_folder() {
    assert_eq!(room("answer.rs"), Some(Core));
    assert_eq!(room("dns/udp.rs"), Some(Edge));
    assert_eq!(room("cli/ls.rs"), Some(Wiring));
    assert_eq!(room("store/mod.rs"), Some(State));
    assert_eq!(room("new_thing.rs"), None);
    assert_eq!(room("dns.rs"), None, "dns is a folder");
}
