//! Runs the console blocks of README.md, as they stand, with the release binary.
//!
//! Needs: unshare, ip, bash, dig, nc, curl, python3
//!
//! The commands run in network and mount namespaces of their own, so that the default port and socket
//! are free. `…` stands for any text, alone on a line for any lines. What a terminal of its own keeps
//! running (`serve`, `run`) goes into the background, and the next command waits for its last line.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

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
const OF_TESTS: [&str; 5] = ["CALLSIGN_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_MANIFEST_", "CARGO_PKG_"];
const END: &str = "-- end of output --";

impl Shell {
    fn new() -> Self {
        let setup = "mount -t tmpfs none /run && export CALLSIGN_DATA=/run/data && ip link set lo up && exec 2>&1 && exec bash --norc";
        let mut command = Command::new("timeout");
        for (name, _) in std::env::vars_os() {
            if OF_TESTS.iter().any(|start| name.to_string_lossy().starts_with(start)) {
                command.env_remove(name);
            }
        }
        // Who is root needs no other namespace for it, and within a chroot there is none to be had.
        let mapped: &[&str] = if nix::unistd::geteuid().is_root() { &[] } else { &["--map-root-user"] };
        let mut child = command
            .args(["120", "unshare"])
            .args(mapped)
            .args(["-n", "-m", "sh", "-c", setup])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("`timeout` and `unshare` (coreutils, util-linux) start");
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, input, output }
    }

    fn run(&mut self, command: &str) -> Vec<String> {
        writeln!(self.input, "{command}\necho '{END}'").unwrap();
        let mut lines = Vec::new();
        for line in self.output.by_ref().lines() {
            match line.unwrap() {
                line if line == END => return lines,
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
    let mut parts = expected.split('…');
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap()) else { return false };
    let mut open = false;
    for part in parts {
        open = true;
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
        open &= part.is_empty();
    }
    open || rest.is_empty() || expected.ends_with('…')
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

#[test]
fn the_readme_is_true() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let build = Command::new(env!("CARGO"))
        .args(["build", "--release", "--locked", "--quiet"])
        .current_dir(root)
        .status();
    assert!(build.unwrap().success(), "the release binary builds");
    let text = std::fs::read_to_string(root.join("README.md")).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut shell = Shell::new();
    shell.run("alias callsign=target/release/callsign");
    // Python writes at once to a terminal, which a reader has and we have not.
    shell.run("export PYTHONUNBUFFERED=1");
    let mut ran = 0;
    for Block { command, expected } in blocks(&text) {
        let printed = match command.as_str() {
            "./check" => continue, // that is what runs this test
            "cargo run --release --locked -- serve" => {
                let file = directory.path().join("serve");
                let printed = shell.start("target/release/callsign serve", &expected, 1, &file);
                shell.run(&format!("SOCKET=$(sed -n 's/^socket //p' {})", file.display()));
                // A machine without IPv6 has one line less.
                let ipv6 = printed.iter().any(|line| line.contains("[::1]"));
                let expected: Vec<String> =
                    expected.into_iter().filter(|line| ipv6 || !line.contains("[::1]")).collect();
                check(&printed, &expected, &command);
                ran += 1;
                continue;
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
    assert!(ran >= 6, "the README's blocks are not where they should be");
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
