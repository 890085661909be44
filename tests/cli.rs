//! The command line as scripts and people meet it: the built binary against real servers, each test with a
//! server, a socket and a directory of its own. What is waited for is an event, with a deadline.

#[path = "cli/dig.rs"]
mod dig;
#[path = "cli/hints.rs"]
mod hints;
#[path = "cli/holding.rs"]
mod holding;
#[path = "cli/replies.rs"]
mod replies;
#[path = "cli/running.rs"]
mod running;
#[path = "cli/verbs.rs"]
mod verbs;
#[path = "cli/words.rs"]
mod words;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// Longer than anything takes on a loaded machine; only a failing test waits for it.
const DEADLINE: Duration = Duration::from_secs(30);

/// The binary in `directory` and with nothing in its environment that a developer may have set.
fn callsign(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_callsign"));
    command.current_dir(directory).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("CALLSIGN_SERVER", format!("unix:{}", directory.join("s").display()));
    command.env("TMPDIR", directory);
    command
}

/// Runs to the end; stdout, then stderr with `! ` in front, then the exit code where it is not 0.
fn transcript(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let mut text = String::from_utf8(output.stdout).unwrap();
    for line in String::from_utf8(output.stderr).unwrap().lines() {
        text.push_str(&format!("! {line}\n"));
    }
    match output.status.code() {
        Some(0) => text,
        code => format!("{text}exit {code:?}\n"),
    }
}

/// A process that goes on, and its lines as they come.
struct Going {
    child: Child,
    lines: Receiver<String>,
    stdin: Option<ChildStdin>,
}

impl Going {
    fn start(command: &mut Command) -> Self {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = sync_channel(1000);
        std::thread::spawn(move || {
            for line in stdout.lines() {
                let Ok(line) = line else { return };
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let stdin = child.stdin.take();
        Self { child, lines, stdin }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(DEADLINE).expect("a line before the deadline")
    }

    /// The next line that has `words` in it.
    fn line_with(&self, words: &str) -> String {
        /// What goes on for ever says so much in a few minutes.
        const LINES_MAX: usize = 1000;
        let mut lines = (0..LINES_MAX).map(|_| self.line());
        lines.find(|line| line.contains(words)).unwrap_or_else(|| panic!("no line with `{words}`"))
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    /// Every line until the process, and whoever holds its stdout, is gone; then the exit code.
    fn end(mut self) -> (Vec<String>, Option<i32>) {
        let mut rest = Vec::new();
        loop {
            match self.lines.recv_timeout(DEADLINE) {
                Ok(line) => rest.push(line),
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("it did not end; so far: {rest:?}"),
            }
        }
        (rest, self.child.wait().unwrap().code())
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server with free ports.
struct Server {
    going: Going,
    dns: SocketAddr,
    directory: TempDir,
}

impl Server {
    fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap())
    }

    fn start_in(directory: TempDir) -> Self {
        let mut command = callsign(directory.path());
        let going = Going::start(
            command
                .args(["serve", "--dns", "127.0.0.1:0", "--http", "none", "--log", "warn", "--socket"])
                .arg(directory.path().join("s"))
                .args(["--store", "memory"]),
        );
        let dns = going.line();
        let dns = dns.strip_prefix("dns udp+tcp ").expect(&dns).parse().unwrap();
        going.line_with("ready");
        Self { going, dns, directory }
    }

    /// One of our verbs, in words.
    fn verb(&self, line: &str) -> Command {
        let mut command = callsign(self.directory.path());
        command.args(line.split_whitespace()).env("CALLSIGN_DNS", self.dns.to_string());
        command
    }

    /// What it says, with what differs from run to run blotted out.
    fn says(&self, line: &str) -> String {
        blot(&transcript(&mut self.verb(line)))
    }

    /// A watcher that has seen its snapshot begin: `marker` is registered, and its line awaited.
    fn watch(&self) -> Going {
        assert!(
            self.says("register marker 10.9.9.9:9 --id marker --host h --lease none")
                .starts_with("registered")
        );
        let watching = Going::start(&mut self.verb("watch"));
        watching.line_with("marker");
        watching
    }

    fn stop(mut self) -> TempDir {
        self.going.signal(Signal::SIGTERM);
        assert!(self.going.child.wait().unwrap().success());
        std::mem::replace(&mut self.directory, tempfile::tempdir().unwrap())
    }
}

/// Times, serials, sizes of time and our own port become what they are.
fn blot(text: &str) -> String {
    let mut words: Vec<String> = Vec::new();
    for word in text.split_inclusive([' ', '\n']) {
        let bare = word.trim_end_matches([' ', '\n', ',', ':']);
        let tail = &word[bare.len()..];
        let time = bare.len() == 24 && bare.ends_with('Z') && bare.as_bytes()[10] == b'T';
        let short = bare.len() == 9 && bare.ends_with('Z') && bare.as_bytes()[2] == b':';
        let took = bare.ends_with("µs")
            || (bare.ends_with('s')
                && bare.contains('.')
                && bare.trim_end_matches('s').parse::<f64>().is_ok())
            || bare.strip_suffix("ms").is_some_and(|number| number.parse::<f64>().is_ok());
        let serial = bare.len() == 10 && bare.bytes().all(|octet| octet.is_ascii_digit());
        let port = bare.strip_prefix("127.0.0.1:").is_some_and(|port| port.len() >= 4);
        let hidden = match () {
            () if time || short => "TIME",
            () if took => "TOOK",
            () if serial => "SERIAL",
            () if port => "127.0.0.1:PORT",
            () => bare,
        };
        words.push(format!("{hidden}{tail}"));
    }
    words.concat()
}
