//! What every verb says of itself, and what it says to what is wrong: as docs/verbs.md and tests/transcripts show it.

mod harness;

use std::fs;
use std::path::Path;

use harness::{Server, callsign};

/// The verbs in the order of `--help`, each with those below it.
fn verbs() -> Vec<Vec<String>> {
    fn below(path: &[String], all: &mut Vec<Vec<String>>) {
        all.push(path.to_vec());
        let mut words: Vec<&str> = path.iter().map(String::as_str).collect();
        words.push("--help");
        let ended = callsign(&words);
        assert_eq!(ended.code, Some(0), "{words:?}: {ended:?}");
        let mut lines = ended.stdout.lines().skip_while(|line| *line != "Commands:").skip(1);
        let lines = lines.by_ref().take_while(|line| !line.is_empty());
        // What is indented further goes on with the line before.
        for line in lines.filter(|line| !line.starts_with("   ")) {
            let verb = line.split_whitespace().next().expect("a verb");
            below(&[path, &[verb.to_owned()]].concat(), all);
        }
    }
    let mut all = Vec::new();
    below(&[], &mut all);
    all.remove(0);
    all
}

#[test]
fn the_page_shows_the_help_of_every_verb() {
    let mut page = String::from(
        "# Every verb\n\nWhat `callsign VERB --help` prints; [cli.md](cli.md) has them in a line each, and the exit codes.\n",
    );
    for verb in verbs() {
        let name = verb.join(" ");
        let mut words: Vec<&str> = verb.iter().map(String::as_str).collect();
        words.push("--help");
        let ended = callsign(&words);
        page.push_str(&format!("\n## {name}\n\n```console\n$ callsign {name} --help\n{}```\n", ended.stdout));
    }
    is_as_written("docs/verbs.md", &page);
}

/// Each of these is wrong in its own way: said on stderr, with the field and what to do, and exit code 2. A server is there
/// for those that `@` stands before: it says what is wrong.
const WRONG: &[&str] = &[
    "regster web 10.0.0.7:80",
    "ls --sevice web",
    "register",
    "@register web",
    "@register web 10.0.0.7",
    "@register web 10.0.0.7:99999",
    "register web 10.0.0.300:80",
    "register web myhost:8080",
    "@register web 80 --target 10.0.0.300",
    "@register we_b 10.0.0.7:80",
    "@register web 10.0.0.7:80 --lease soon",
    "register web 10.0.0.7:80 --weight many",
    "@register web 10.0.0.7:80 --weight 70000",
    "register web 10.0.0.7:80 --meta color",
    "register web 10.0.0.7:80 --port-name metrics",
    "run web --port 8080",
    "run web -- true",
    "heartbeat web",
    "drain",
    "@ls --health fine",
    "ls --output yaml",
    "ls --timeout soon",
    "ls --server /run/callsign.sock",
    "show",
    "at web",
    "dig",
    "dig web.service.local SVR",
    "dig web.service.local --dns 127.0.0.1",
    "setup bnd",
    "store backup",
    "store restore",
    "@token create --name deploy --allow everything",
    "@service set web --ttl soon",
    "import",
    "import --from-consul consul:8500",
    "completion tcsh",
    "man",
    "serve --dns 5300",
    "serve --ttl 10m",
    "serve --store redis://127.0.0.1",
    "serve --known-fr 2m",
    "dnssec init",
];

#[test]
fn what_is_typed_wrong_is_told_with_what_to_do() {
    let server = Server::start(&[]);
    let socket = format!("unix:{}", server.socket.display());
    let mut text = String::new();
    for line in WRONG {
        let (line, place) = match line.strip_prefix('@') {
            Some(line) => (line, vec!["--server", &socket]),
            None => (*line, Vec::new()),
        };
        let words: Vec<&str> = line.split(' ').chain(place).collect();
        let ended = callsign(&words);
        assert_eq!((ended.code, &*ended.stdout), (Some(2), ""), "{line}: {ended:?}");
        assert!(ended.stderr.starts_with("callsign: "), "{line}: {ended:?}");
        text.push_str(&format!("$ callsign {line}\n{}\n", ended.stderr));
    }
    is_as_written("tests/transcripts/wrong.txt", &text);
}

/// `UPDATE=1` writes it anew.
fn is_as_written(path: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("UPDATE").is_some() {
        fs::create_dir_all(path.parent().expect("a folder")).expect("making the folder");
        return fs::write(&path, text).expect("writing it");
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    let differs = written.lines().zip(text.lines()).find(|(written, now)| written != now);
    assert!(
        written == text,
        "{} is not what is printed ({differs:?}); UPDATE=1 writes it anew",
        path.display()
    );
}
