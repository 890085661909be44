//! `bench/run` works from end to end. What it measured is looked at by people.
//!
//! Needs: dnsperf, python3, gcc

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn bench(words: &[&str]) -> Output {
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/run"))
        .args(words)
        .output()
        .expect("bench/run starts")
}

fn text(octets: &[u8]) -> String {
    String::from_utf8(octets.to_vec()).expect("it prints text")
}

/// The cells of the lines of its tables that hold this word.
fn rows(output: &Output, word: &str) -> Vec<Vec<String>> {
    let text = text(&output.stdout);
    let lines = text.lines().filter(|line| line.starts_with('|') && line.contains(word));
    lines.map(|line| line.split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

#[test]
fn a_quick_run_measures_ours_in_every_kind_of_row() {
    let ran = bench(&["--quick", "--server", env!("CARGO_BIN_EXE_callsign")]);
    assert!(ran.status.success(), "{}", text(&ran.stderr));
    let ours = rows(&ran, "**callsign**");
    // A, SRV, both and missing names, each at saturation and at half of that.
    let sections: Vec<&str> = ours.iter().map(|row| row[8].as_str()).collect();
    let (a, srv, missing) = ("3/0/1, 96", "3/0/4, 237", "0/1/1, 140");
    let both = format!("{a}; {srv}");
    assert_eq!(sections, [a, a, srv, srv, &both, &both, missing, missing], "{}", text(&ran.stdout));
    for row in ours {
        assert_ne!(row[6], "0", "no query was answered: {row:?}");
    }
}

#[test]
fn the_bare_loop_is_measured_beside_ours() {
    let directory = tempfile::tempdir().expect("a directory");
    let kept = directory.path().join("results.jsonl");
    let kept = kept.to_str().expect("a path");
    let words = ["--only", "floor", "--rows", "a", "--loads", "full", "--rounds", "1", "--seconds", "0.2"];
    let server = ["--server", env!("CARGO_BIN_EXE_callsign"), "--results", kept];
    let ran = bench(&[&words[..], &server].concat());
    assert!(ran.status.success(), "{}", text(&ran.stderr));
    assert_eq!(rows(&ran, "| floor |").len(), 1, "{}", text(&ran.stdout));
    let first = fs::read_to_string(kept).expect("the figures");
    assert_eq!(first.lines().count(), 2);
    // A second run has nothing left to measure, and says the same.
    let again = bench(&[&words[..], &server].concat());
    assert_eq!(fs::read_to_string(kept).expect("the figures"), first);
    assert_eq!(rows(&again, "| floor |"), rows(&ran, "| floor |"));
    // Figures of two builds do not go into one table.
    fs::write(kept, first.replace("\"build\": \"", "\"build\": \"other-")).expect("writing the figures");
    let mixed = bench(&[&words[..], &server].concat());
    assert!(!mixed.status.success());
    assert!(
        text(&mixed.stderr).contains("figures of another build of callsign: --fresh"),
        "{}",
        text(&mixed.stderr)
    );
}

#[test]
fn the_table_says_medians_and_their_interval_and_which_goals_are_not_reached() {
    let directory = tempfile::tempdir().expect("a directory");
    let kept = directory.path().join("results.jsonl");
    let mut lines = String::new();
    for round in 0..9 {
        // In round n ours costs n + 1 tenths of what Knot costs, so of nine ratios the second is 0.2, the eighth 0.8.
        let figures = [
            ("a", "callsign", f64::from(round + 1)),
            ("a", "knot", 10.0),
            ("srv", "callsign", 9.0),
            ("srv", "knot", 10.0),
        ];
        for (row, server, user) in figures {
            writeln!(
                lines,
                "{{\"row\":\"{row}\",\"load\":\"full\",\"server\":\"{server}\",\"round\":{round},\"offered\":null,\
                 \"sections\":\"-\",\"user\":{user},\"system\":0,\"qps\":1000,\"octets\":96,\"lost\":0,\"others\":0}}"
            )
            .expect("a text");
        }
    }
    fs::write(&kept, lines).expect("writing the figures");
    let ran = bench(&["table", "--results", kept.to_str().expect("a path")]);
    assert!(ran.status.success(), "{}", text(&ran.stderr));
    assert_eq!(rows(&ran, "| knot |")[0][5], "0.50 [0.20, 0.80]");
    assert_eq!(rows(&ran, "**callsign**")[0][2], "5.00");
    let goals = rows(&ran, "| a | full |");
    assert_eq!((goals[0][3].as_str(), goals[0][9].as_str()), ("0.50 [0.20, 0.80]", ""));
    assert_eq!(rows(&ran, "| srv | full |")[0][9], "the better of Knot and NSD");
}

#[test]
fn what_it_cannot_do_it_says() {
    for (words, said) in [
        (
            &["--quick", "--server", "/nowhere/callsign"][..],
            "/nowhere/callsign is not there: --server names our program",
        ),
        (&["--only", "djbdns"], "djbdns is none of callsign, knot, nsd"),
        (&["--cores", "0,0"], "two different cores of this machine, such as 0,1, not 0,0"),
        (&["--rounds", "0"], "--services, --rounds and --seconds must be above 0"),
    ] {
        let ran = bench(words);
        assert!(!ran.status.success(), "{words:?}");
        let stderr = text(&ran.stderr);
        assert!(stderr.contains(said), "{words:?} said {stderr}");
        assert!(!stderr.contains("Traceback"), "{stderr}");
    }
}
