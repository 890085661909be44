//! Broken zone files, and odd ones that are right: what we say of each, and what BIND's and Knot's own checks say.
//!
//! A case is a line `## what it is`, the file, lines `#+ name` in front of files that it includes, and the verdicts:
//!
//! ```text
//! #us no 4: a zone has one SOA, and this is the second
//! #bind no
//! #knot no
//! #why what the reason is where the three differ
//! ```
//!
//! `@SOA` stands for three lines that most files begin with, `{CR}`, `{TAB}`, `{NUL}` and `{UTF8}` for octets that an editor would
//! not keep, `{NOEOL}` for a file that ends there, `{a63}` for so many letters. `UPDATE=1` writes the verdicts anew.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::callsign;
use crate::harness::program::needs;

const SOA: &str = "@ 60 SOA ns1 h 7 3600 600 86400 60\n@ NS ns1\nns1 A 10.0.0.1";

pub const BROKEN: &str = include_str!("broken.txt");
pub const ODD: &str = include_str!("odd.txt");

pub struct Case {
    title: String,
    /// As they are written; the main one first, without a name.
    pub files: Vec<(String, String)>,
    /// The lines of the verdicts.
    told: Vec<String>,
    why: Option<String>,
}

/// What stands before the first case, and the cases.
pub fn read(text: &str) -> (String, Vec<Case>) {
    let mut parts = text.split("\n## ");
    let front = parts.next().unwrap_or_default().to_owned();
    (front, parts.map(case).collect())
}

fn case(text: &str) -> Case {
    let mut lines = text.lines();
    let title = lines.next().expect("a title").to_owned();
    let mut files = vec![(String::new(), Vec::new())];
    let (mut told, mut why) = (Vec::new(), None);
    for line in lines {
        if let Some(name) = line.strip_prefix("#+ ") {
            files.push((name.to_owned(), Vec::new()));
        } else if let Some(reason) = line.strip_prefix("#why ") {
            why = Some(reason.to_owned());
        } else if ["#us ", "#bind ", "#knot "].iter().any(|judge| line.starts_with(judge)) {
            told.push(line.to_owned());
        } else {
            files.last_mut().expect("the main file").1.push(line);
        }
    }
    let text = |lines: Vec<&str>| format!("{}\n", lines.join("\n").trim_end_matches('\n'));
    let files = files.into_iter().map(|(name, lines)| (name, text(lines))).collect();
    Case { title, files, told, why }
}

/// The octets that a text stands for.
pub fn octets(text: &str) -> Vec<u8> {
    let mut text = text.replace("@SOA", SOA).replace("{NOEOL}\n", "").trim_start_matches('\n').to_owned();
    for (written, meant) in [("{CR}", "\r"), ("{TAB}", "\t"), ("{NUL}", "\0"), ("{UTF8}", "\u{fc}")] {
        text = text.replace(written, meant);
    }
    for count in 50..=64 {
        text = text.replace(&format!("{{a{count}}}"), &"a".repeat(count));
    }
    text.into_bytes()
}

/// The two programs that judge beside us.
struct Judges {
    bind: PathBuf,
    knot: PathBuf,
}

impl Judges {
    /// The three verdicts of a file, as lines.
    fn verdicts(&self, folder: &Path, case: &Case) -> Vec<String> {
        for (name, text) in &case.files {
            let name = if name.is_empty() { "corp.test.zone" } else { name };
            fs::write(folder.join(name), octets(text)).expect("writing a zone file");
        }
        let file = folder.join("corp.test.zone").display().to_string();
        let ours = callsign(&["zone", "check", "-o", "jsonl", &file]);
        let said: serde_json::Value = serde_json::from_str(&ours.stdout).expect("a line of JSON");
        assert_eq!(
            ours.code,
            Some(if said["ok"] == true { 0 } else { 2 }),
            "{}: {}",
            case.title,
            ours.stdout
        );
        let ours = match said["errors"].as_array().and_then(|errors| errors.first()) {
            None => "ok".to_owned(),
            Some(error) => {
                let name =
                    error["file"].as_str().and_then(|name| name.rsplit('/').next()).unwrap_or_default();
                let place = if name == "corp.test.zone" { String::new() } else { format!("{name}:") };
                format!("no {place}{}: {}", error["line"], error["reason"].as_str().unwrap_or_default())
            }
        };
        let warned = said["warnings"].as_array().map_or(0, Vec::len);
        let warned = if warned == 0 { String::new() } else { format!(", {warned} warned of") };
        let says = |command: &mut Command| {
            let output = command.current_dir(folder).output().expect("running a judge");
            if output.status.success() { "ok" } else { "no" }
        };
        let bind = says(Command::new(&self.bind).args(["-i", "local", "corp.test", "corp.test.zone"]));
        let knot = says(Command::new(&self.knot).args(["-o", "corp.test", "corp.test.zone"]));
        vec![format!("#us {ours}{warned}"), format!("#bind {bind}"), format!("#knot {knot}")]
    }
}

/// Of a line `#judge ok …`, the word.
fn word(line: &str) -> &str {
    line.split([' ', ',']).nth(1).unwrap_or_default()
}

fn judge(path: &str, text: &str, least: usize) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/zone_files").join(path);
    let (front, cases) = read(text);
    assert!(cases.len() >= least, "{} cases", cases.len());
    let titles: BTreeSet<&String> = cases.iter().map(|case| &case.title).collect();
    assert_eq!(titles.len(), cases.len(), "every case has a title of its own");
    let judges = Judges {
        bind: needs("named-checkzone", "bind9-utils"),
        knot: needs("kzonecheck", "knot-dnssecutils"),
    };
    let (mut written, mut wrong, mut differ) = (front, Vec::new(), 0);
    for case in &cases {
        let folder = tempfile::tempdir().expect("a folder");
        let verdicts = judges.verdicts(folder.path(), case);
        let agree = verdicts.iter().all(|verdict| word(verdict) == word(&verdicts[0]));
        differ += usize::from(!agree);
        if verdicts != case.told {
            wrong.push(format!("{}: {verdicts:#?}, and the corpus has {:#?}", case.title, case.told));
        }
        if agree == case.why.is_some() {
            wrong.push(format!(
                "{}: {verdicts:?}; a reason belongs where they differ, and only there",
                case.title
            ));
        }
        written.push_str(&format!("\n## {}\n", case.title));
        for (name, text) in &case.files {
            if !name.is_empty() {
                written.push_str(&format!("#+ {name}\n"));
            }
            written.push_str(text);
        }
        for line in verdicts.iter().cloned().chain(case.why.iter().map(|why| format!("#why {why}"))) {
            written.push_str(&format!("{line}\n"));
        }
    }
    println!("zone files: {} cases of {}, {differ} with a difference", cases.len(), path.display());
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, written).expect("writing the corpus");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn broken_files_are_refused_as_others_refuse_them() {
    judge("broken.txt", BROKEN, 60);
}

#[test]
fn odd_files_are_read_as_others_read_them() {
    judge("odd.txt", ODD, 40);
}
