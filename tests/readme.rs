//! Runs the console blocks of README.md and of the pages in docs/, as they stand, with the release binary.
//!
//! Needs: unshare, ip, bash, dig, delv, kdig, nc, curl, python3
//!
//! The commands run in network and mount namespaces of their own, so that the default port and socket
//! are free. `…` stands for any text, alone on a line for any lines. What a terminal of its own keeps
//! running (`serve`, `run`) goes into the background, and the next command waits for its last line.
//! What looks like a session and is not run, here or where `ELSEWHERE` says, fails.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// A page whose blocks run in order, in one shell.
struct Page {
    path: &'static str,
    /// What its reader has before the first block.
    given: &'static [&'static str],
    /// What is waited for in front of a command that begins so, where its reader takes a second.
    waits: &'static [(&'static str, &'static str)],
    /// So many commands are in its blocks.
    commands: usize,
}

const WEB: &str = "callsign register web 10.0.0.7:8080 --id web-1 --lease none";
const PAGES: [Page; 9] = [
    Page { path: "README.md", given: &[], waits: &[], commands: 8 },
    Page { path: "docs/start.md", given: &[], waits: &[], commands: 12 },
    Page { path: "docs/dashboard.md", given: &["callsign serve", WEB], waits: &[], commands: 1 },
    Page {
        path: "docs/dnssec.md",
        // Keys lie beside the data, and its verbs look there.
        given: &[
            "mount -t tmpfs none /var/lib && mkdir /var/lib/callsign && unset CALLSIGN_DATA && cd /run",
            "callsign serve --domain service.internal",
            WEB,
        ],
        waits: &[
            (
                "delv",
                "timeout 60 sh -c 'until dig @127.0.0.1 -p 5300 +short service.internal DNSKEY | grep -q .; do :; done'",
            ),
            // Keys are listed in the order of the seconds in which they came.
            ("callsign dnssec roll", "at=$(date +%s); while [ $(date +%s) = $at ]; do :; done"),
        ],
        commands: 5,
    },
    Page { path: "docs/encrypted.md", given: &[], waits: &[], commands: 6 },
    Page { path: "docs/envoy.md", given: &["callsign serve", WEB], waits: &[], commands: 2 },
    Page { path: "docs/registering.md", given: &["callsign serve", WEB], waits: &[], commands: 3 },
    Page {
        path: "docs/security.md",
        given: &[
            "ip address add 10.0.0.1/32 dev lo && cd /run",
            "callsign serve --listen 10.0.0.1:5301 --access 'allow anyone read+watch'",
        ],
        waits: &[],
        commands: 4,
    },
    Page { path: "docs/zones.md", given: &[], waits: &[], commands: 1 },
];
/// Pages whose blocks another test file runs, all of one command without a server.
const ELSEWHERE: [(&str, &str); 2] = [("docs/resolvers.md", "setup.rs"), ("docs/verbs.md", "help.rs")];

/// A command and what it must print.
struct Block {
    command: String,
    expected: Vec<String>,
}

fn blocks(text: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        match line.strip_prefix("```") {
            Some(kind) => inside = kind == "console",
            None if !inside => {}
            None => match line.strip_prefix("$ ") {
                Some(command) => blocks.push(Block { command: command.to_owned(), expected: Vec::new() }),
                None => blocks.last_mut().unwrap().expected.push(line.to_owned()),
            },
        }
    }
    blocks
}

/// A shell in namespaces of its own, asked one command at a time.
struct Shell {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// Beginnings of variables that a reader's shell does not have. Ours are for tests, and unknown to the server; what cargo
/// tells a test of its package makes another cargo build all again that looks at it (ring).
const OF_TESTS: [&str; 6] =
    ["CALLSIGN_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_MANIFEST_", "CARGO_PKG_", "OUT_DIR"];
const END: &str = "-- end of output --";

/// A program that is started from a reader's shell.
fn of_a_reader(program: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if OF_TESTS.iter().any(|start| name.to_string_lossy().starts_with(start)) {
            command.env_remove(name);
        }
    }
    command
}

impl Shell {
    fn new() -> Self {
        // A name that fits the columns shown, and is nobody's.
        let setup = "echo desk >/proc/sys/kernel/hostname && mount -t tmpfs none /run && export CALLSIGN_DATA=/run/data && ip link set lo up && exec 2>&1 && exec bash --norc";
        let mut command = of_a_reader("timeout");
        // Who is root needs no other namespace for it, and within a chroot there is none to be had.
        let mapped: &[&str] = if nix::unistd::geteuid().is_root() { &[] } else { &["--map-root-user"] };
        let mut child = command
            .args(["120", "unshare"])
            .args(mapped)
            .args(["-n", "-m", "-u", "sh", "-c", setup])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("`timeout` and `unshare` (coreutils, util-linux) start");
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, input, output }
    }

    fn run(&mut self, command: &str) -> Vec<String> {
        // What it printed may end without a new line.
        writeln!(self.input, "{command}\nprintf '\\n%s\\n' '{END}'").unwrap();
        let mut lines = Vec::new();
        for line in self.output.by_ref().lines() {
            match line.unwrap() {
                line if line == END => {
                    lines.pop_if(|last: &mut String| last.is_empty());
                    return lines;
                }
                line => lines.push(line),
            }
        }
        panic!("the shell ended during `{command}`: {lines:?}");
    }

    /// Starts what stays, and returns its output once the last of `expected` is there, and `count` lines in all.
    fn start(&mut self, command: &str, expected: &[String], count: usize, file: &Path) -> Vec<String> {
        let last = expected.last().unwrap().split('…').next().unwrap().trim_end();
        let file = file.display();
        self.run(&format!("{command} >{file} 2>&1 &"));
        self.run(&format!("timeout 60 tail -n +1 -F {file} 2>/dev/null | grep -q -m 1 '^{last}'"));
        self.run(&format!("timeout 60 tail -n +1 -F {file} 2>/dev/null | head -n {count} >/dev/null"));
        self.run(&format!("cat {file}"))
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // The namespaces' processes are ours; `timeout` passes the signal to its whole group.
        let _ = writeln!(self.input, "kill $(jobs -p) 2>/dev/null; exit");
        let _ = self.child.wait();
    }
}

/// True where `…` in `expected` can stand for what is missing from `line`.
fn matches(line: &str, expected: &str) -> bool {
    let parts: Vec<&str> = expected.split('…').collect();
    let [first, between @ .., last] = &parts[..] else { return line == expected };
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    for part in between {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

fn check(printed: &[String], expected: &[String], command: &str) {
    let mut at = 0;
    for (number, line) in expected.iter().enumerate() {
        if line == "…" {
            assert!(at < printed.len(), "`{command}` printed nothing where `…` stands: {printed:#?}");
            let next = expected.get(number + 1);
            at += 1;
            while at < printed.len() && !next.is_some_and(|next| matches(&printed[at], next)) {
                at += 1;
            }
            continue;
        }
        let got = printed.get(at).map(String::as_str).unwrap_or("(nothing)");
        assert!(
            matches(got, line),
            "`{command}`\n expected: {line}\n  printed: {got}\n   of all: {printed:#?}"
        );
        at += 1;
    }
    assert_eq!(at, printed.len(), "`{command}` printed more: {:#?}", &printed[at.min(printed.len())..]);
}

/// True of a command that goes on: the server.
fn is_server(command: &str) -> bool {
    command == "cargo run --release --locked -- serve" || command.starts_with("callsign serve")
}

/// Runs the blocks of a page.
fn is_true(path: &str) {
    let page = PAGES.iter().find(|page| page.path == path).expect("a page that is listed");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut build = of_a_reader(env!("CARGO"));
    build.args(["build", "--release", "--locked", "--quiet"]).current_dir(root);
    assert!(build.status().unwrap().success(), "the release binary builds");
    let text = std::fs::read_to_string(root.join(path)).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut shell = Shell::new();
    let program = root.join("target/release/callsign");
    shell.run(&format!("shopt -s expand_aliases; alias callsign='{}'", program.display()));
    // Python writes at once to a terminal, which a reader has and we have not.
    shell.run("export PYTHONUNBUFFERED=1");
    let serve = |shell: &mut Shell, command: &str, expected: &[String]| {
        let file = directory.path().join("serve");
        let command = command.replace("cargo run --release --locked --", "target/release/callsign");
        let printed = shell.start(&command, expected, 1, &file);
        let value = |start: &str| format!("$(sed -n 's/^{start} //p' {})", file.display());
        shell.run(&format!("SOCKET={} PIN={}", value("socket"), value("certificate pin-sha256")));
        printed
    };
    for given in page.given {
        match is_server(given) {
            true => drop(serve(&mut shell, given, &["ready …".to_owned()])),
            false => drop(shell.run(given)),
        }
    }
    let mut ran = 0;
    for Block { command, mut expected } in blocks(&text) {
        for (_, wait) in page.waits.iter().filter(|(start, _)| command.starts_with(start)) {
            shell.run(wait);
        }
        let printed = match command.as_str() {
            "./check" => continue, // that is what runs this test
            server if is_server(server) => {
                let printed = serve(&mut shell, server, &expected);
                // A machine without IPv6 has one line less.
                let ipv6 = printed.iter().any(|line| line.contains("[::1]"));
                expected.retain(|line| ipv6 || !line.contains("[::1]"));
                printed
            }
            run if run.contains("callsign run ") => {
                let file = directory.path().join("run");
                let mut printed = shell.start(run, &expected, expected.len(), &file);
                // Two programs write there, and nobody says which is first.
                printed.sort_by_key(|line| expected.iter().position(|expected| matches(line, expected)));
                printed
            }
            other => shell.run(other),
        };
        check(&printed, &expected, &command);
        ran += 1;
    }
    assert_eq!(ran, page.commands, "commands in the blocks of {path}");
}

#[test]
fn the_readme_is_true() {
    is_true("README.md");
}

#[test]
fn the_five_minutes_are_true() {
    is_true("docs/start.md");
}

#[test]
fn the_dashboard_page_is_true() {
    is_true("docs/dashboard.md");
}

#[test]
fn the_dnssec_page_is_true() {
    is_true("docs/dnssec.md");
}

#[test]
fn the_page_on_encryption_is_true() {
    is_true("docs/encrypted.md");
}

#[test]
fn the_envoy_page_is_true() {
    is_true("docs/envoy.md");
}

#[test]
fn the_page_on_registering_is_true() {
    is_true("docs/registering.md");
}

#[test]
fn the_security_page_is_true() {
    is_true("docs/security.md");
}

#[test]
fn the_page_on_zones_is_true() {
    is_true("docs/zones.md");
}

#[test]
fn every_session_is_run() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
    let docs = std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().file_name());
    let docs = docs.map(|name| format!("docs/{}", name.display())).filter(|path| path.ends_with(".md"));
    for path in docs.chain(["README.md".to_owned()]) {
        let text = read(&path);
        let listed = |other: &str| path == other;
        let here = PAGES.iter().any(|page| listed(page.path));
        let there = ELSEWHERE.iter().find(|(page, _)| listed(page));
        let runs = here || there.is_some_and(|(page, file)| read(&format!("tests/{file}")).contains(page));
        let own = read("tests/readme.rs");
        let called = !here || own.contains(&format!("    is_true(\"{path}\");"));
        assert!(called, "{path} is listed, and no test runs it");
        assert_eq!(
            !blocks(&text).is_empty(),
            runs,
            "{path}: a page with console blocks is in PAGES or ELSEWHERE"
        );
        let commands = text.lines().filter(|line| line.trim_start().starts_with("$ ")).count();
        assert_eq!(
            commands,
            blocks(&text).len(),
            "{path}: what has a prompt is in a console block, and is run"
        );
    }
}

#[test]
fn a_pattern_stands_for_any_text() {
    for (line, expected, fits) in [
        ("ready /x/callsign", "ready …/callsign", true),
        ("ready /x/other", "ready …/callsign", false),
        ("a b c", "a … c", true),
        ("a b c d", "a … c", false),
        ("a b c d", "a …", true),
        ("abc", "abc", true),
        ("abcd", "abc", false),
    ] {
        assert_eq!(matches(line, expected), fits, "{line:?} and {expected:?}");
    }
}
