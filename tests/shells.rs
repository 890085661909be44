//! Shells complete our verbs and options with what `completion` prints, and manual pages are sound and readable.
//!
//! Needs: zsh fish mandoc

mod harness;

use std::fs;
use std::process::Command;

use harness::callsign;
use tempfile::TempDir;

/// The script of a shell, in a directory of its own.
fn script(shell: &str, name: &str) -> (TempDir, String) {
    let ended = callsign(&["completion", shell]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join(name);
    fs::write(&path, ended.stdout).expect("writing the script");
    let path = path.display().to_string();
    (directory, path)
}

/// What a program prints; it has to end well.
fn said(program: &str, words: &[&str]) -> String {
    let output =
        Command::new(program).args(words).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let (text, complaint) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {words:?}: {} {text} {complaint}", output.status);
    text.into_owned()
}

#[test]
fn bash_completes_verbs_and_options() {
    let (_kept, path) = script("bash", "callsign");
    let complete = |typed: &str| {
        let (before, word) = typed.rsplit_once(' ').expect("a verb");
        let previous = before.rsplit(' ').next().expect("a word");
        let code = format!(
            "source {path}; COMP_WORDS=({typed}{}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _callsign callsign '{word}' '{previous}'; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            if word.is_empty() { " ''" } else { "" }
        );
        said("bash", &["--norc", "-c", &code])
    };
    assert_eq!(complete("callsign reg"), "register\n");
    assert_eq!(complete("callsign register --pri"), "--priority\n");
    assert_eq!(complete("callsign store ba"), "backup\n");
    assert!(complete("callsign ls --output ").split_whitespace().eq(["table", "json", "jsonl"]));
    assert_eq!(complete("callsign exe"), "\n", "what nobody types is not offered");
}

#[test]
fn fish_completes_verbs_and_options() {
    let (_kept, path) = script("fish", "callsign.fish");
    let complete = |typed: &str| {
        let text = said("fish", &["--no-config", "-c", &format!("source {path}; complete -C '{typed}'")]);
        text.lines().map(|line| line.split('\t').next().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(complete("callsign reg"), ["register"]);
    assert_eq!(complete("callsign register --pri"), ["--priority"]);
    assert_eq!(complete("callsign store ba"), ["backup"]);
}

/// Zsh completes only at a terminal: one of its own types and presses the tabulator.
#[test]
fn zsh_completes_verbs_and_options() {
    let (kept, _) = script("zsh", "_callsign");
    let folder = kept.path().display().to_string();
    let complete = |typed: &str, expected: &str| {
        let code = format!(
            "zmodload zsh/zpty; zpty shell 'TERM=dumb zsh -f -i'; \
             zpty -w shell 'PS1=; fpath=({folder} $fpath); autoload -Uz compinit; compinit -D -u; print set-\"\"up'; \
             zpty -r shell line '*set-up*'; \
             zpty -n -w shell $'{typed}\\t'; zpty -r shell line '*{expected}*'; print -r -- ${{(V)line}}; zpty -d shell"
        );
        // Bounded from outside: a completion that does not come would be waited for.
        said("timeout", &["60", "zsh", "-f", "-c", &code])
    };
    assert!(complete("callsign regi", "callsign register ").contains("callsign register "));
    assert!(complete("callsign store back", "callsign store backup ").contains("callsign store backup "));
}

#[test]
fn every_manual_page_is_sound_and_says_what_the_verb_is_for() {
    let directory = tempfile::tempdir().expect("a directory");
    let ended = callsign(&["man", &directory.path().display().to_string()]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let pages: Vec<&str> = ended.stdout.lines().collect();
    assert!(pages.len() > 30, "{pages:?}");
    for page in &pages {
        said("mandoc", &["-T", "lint", "-W", "error", page]);
    }
    let read = |page: &str| {
        let path = pages.iter().find(|path| path.ends_with(page)).unwrap_or_else(|| panic!("no {page}"));
        let text = said("mandoc", &["-T", "utf8", path]);
        // A bold letter is struck twice, the underline of another before it.
        let mut plain = String::new();
        for letter in text.chars() {
            match letter {
                '\u{8}' => drop(plain.pop()),
                letter => plain.push(letter),
            }
        }
        plain.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let drain = read("man1/callsign-drain.1");
    assert!(drain.contains("callsign drain") && drain.contains("--lease-id"), "{drain}");
    let server = read("man8/callsign.8");
    assert!(server.contains("callsign serve") && server.contains("--dns"), "{server}");
    let keys = read("man5/callsign.toml.5");
    assert!(keys.contains("known-for = TIME How long a service stays known"), "{keys}");
    assert!(keys.contains("dns = [ADDR:PORT, ...] Where to answer DNS"), "{keys}");
}
