//! The programs of docs/registering.md register, each in its language, and are gone when they end.
//!
//! Needs: netcat-openbsd python3 golang-go nodejs openjdk-17-jdk-headless

mod harness;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use harness::program::needs;
use harness::{Server, binary};
use serde_json::json;
use tempfile::TempDir;

/// The blocks of the page that are programs: language and text.
fn programs() -> Vec<(String, String)> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/registering.md"));
    let page = page.expect("the page");
    let (mut programs, mut lines) = (Vec::new(), page.lines());
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let text: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            // Sessions at a prompt are run by tests/readme.rs.
            if language != "console" {
                programs.push((language.to_owned(), text.join("\n") + "\n"));
            }
        }
    }
    programs
}

/// How a program of this language is started, from a file of this name.
fn started(language: &str, directory: &Path, text: &str) -> Command {
    let write = |name: &str| -> PathBuf {
        let path = directory.join(name);
        fs::write(&path, text).expect("writing the program");
        path
    };
    match language {
        "sh" => {
            needs("nc", "netcat-openbsd");
            let mut sh = Command::new("sh");
            sh.arg(write("register.sh"));
            sh
        }
        "python" => {
            let mut python = Command::new(needs("python3", "python3"));
            python.arg(write("register.py"));
            python
        }
        "go" => {
            let (source, program) = (write("register.go"), directory.join("register"));
            let mut go = Command::new(needs("go", "golang-go"));
            go.args(["build", "-o"])
                .arg(&program)
                .arg(&source)
                .env("GOFLAGS", "-mod=mod")
                .env("GOTOOLCHAIN", "local");
            assert!(go.status().expect("running go").success(), "it does not compile");
            Command::new(program)
        }
        "js" => {
            let mut node = Command::new(needs("node", "nodejs"));
            node.arg(write("register.mjs"));
            node
        }
        "java" => {
            needs("javac", "openjdk-17-jdk-headless");
            let mut java = Command::new("java");
            java.arg(write("Register.java"));
            java
        }
        "rust" => {
            // It is an example of the crate.
            let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/register.rs");
            let example = fs::read_to_string(example).expect("the example");
            assert!(example.ends_with(text), "examples/register.rs is not what the page shows");
            let mut build = Command::new(env!("CARGO"));
            build.args(["build", "--locked", "--quiet", "--example", "register"]);
            build.current_dir(env!("CARGO_MANIFEST_DIR"));
            // What cargo tells a test of its package makes another cargo build all again that looks at it.
            for (name, _) in std::env::vars_os() {
                let name = name.to_string_lossy().into_owned();
                if ["CARGO_BIN_", "CARGO_CRATE_", "CARGO_MANIFEST_", "CARGO_PKG_"]
                    .iter()
                    .any(|start| name.starts_with(start))
                {
                    build.env_remove(name);
                }
            }
            assert!(build.status().expect("running cargo").success(), "the example does not compile");
            Command::new(binary().parent().expect("a folder").join("examples/register"))
        }
        other => panic!("the page has a program in `{other}`"),
    }
}

/// A program in a process group of its own: a shell's children are ended with it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        use nix::sys::signal::{Signal, killpg};
        let group = nix::unistd::Pid::from_raw(i32::try_from(self.0.id()).expect("a pid"));
        let _ = killpg(group, Signal::SIGKILL); // it may have ended by itself
        drop(self.0.wait());
    }
}

#[test]
fn every_language_registers_and_leaves_with_its_process() {
    use std::os::unix::process::CommandExt;
    let server = Server::start(&["--store", "memory"]);
    let mut watcher = server.client();
    watcher.done("snapshot", &json!({"watch": {"service": "web"}}));
    let programs = programs();
    let languages: Vec<&str> = programs.iter().map(|(language, _)| language.as_str()).collect();
    assert_eq!(languages, ["sh", "python", "go", "js", "java", "rust"]);
    for (language, text) in &programs {
        let directory: TempDir = tempfile::tempdir().expect("a directory");
        let mut command = started(language, directory.path(), text);
        let child = command
            .env("SOCKET", &server.socket)
            .env("HOME", directory.path())
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        let running = Running(child.unwrap_or_else(|error| panic!("{language}: {error}")));
        let registered = watcher.receive();
        let change = &registered["change"];
        assert_eq!(
            (&change["reason"], &change["instance"]["port"]),
            (&json!("registered"), &json!(8080)),
            "{language}"
        );
        drop(running);
        let gone = watcher.receive();
        assert_eq!(gone["change"]["instance"], json!(null), "{language}: {gone}");
    }
}
