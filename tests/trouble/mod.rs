//! Every trouble of ours, and those who are watched through it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::program::needs;
use crate::harness::space::Space;
use crate::harness::strace::Attached;
use crate::harness::{DEADLINE, Over, Server, eventually};

/// Instances of the service that everybody follows.
const INSTANCES: usize = 3;
/// How long each trouble lasts: everybody asks again once a second or more often.
const TROUBLE: Duration = Duration::from_secs(4);
/// Between two looks at each: often enough to see what lasts as long as a question.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// A trouble's time for strace, which takes microseconds.
const DELAY: &str = "inject=flock:delay_enter=4000000";

fn server_on(space: &Space, data: &Path, before: &[&str]) -> Server {
    let inside = space.before();
    let words: Vec<&str> = inside.iter().map(String::as_str).chain(before.iter().copied()).collect();
    let data = data.display().to_string();
    let socket = space.directory().join("callsign.sock").display().to_string();
    // A cache may keep an answer for a second: longer, and it would never ask while there is trouble.
    let flags =
        ["--dns", "127.0.0.1:53", "--data", &data, "--socket", &socket, "--http", "none", "--ttl", "1"];
    Server::begin(&words, &flags)
}

fn registration(number: usize) -> Value {
    json!({"register": {"service": "web", "id": format!("web-{number}"), "address": format!("10.3.0.{number}"),
           "port": 8000 + number, "lease": "none"}})
}

fn addresses(numbers: impl IntoIterator<Item = usize>) -> BTreeSet<String> {
    numbers.into_iter().map(|number| format!("10.3.0.{number}")).collect()
}

/// A program in the space that follows the service; it ends with this.
pub struct Follower {
    pub name: &'static str,
    pub child: Child,
    /// The addresses that it has now; `None` where it says that it does not know.
    pub look: Box<dyn Fn() -> Option<BTreeSet<String>> + Send + Sync>,
}

impl Drop for Follower {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

pub fn spawn(space: &Space, name: &str, program: &Path, words: &[&str]) -> Child {
    let log = fs::File::create(space.directory().join(format!("{name}.log"))).expect("a file for a log");
    let other = log.try_clone().expect("another descriptor");
    let mut command: Command = space.inside(program);
    command.args(words).current_dir(space.directory()).stdout(Stdio::from(log)).stderr(other);
    command.spawn().expect("running nsenter")
}

pub fn path(space: &Space, name: &str) -> String {
    space.directory().join(name).display().to_string()
}

/// What dig is told by a resolver on this port of the space.
pub fn behind(space: &Space, port: u16) -> Box<dyn Fn() -> Option<BTreeSet<String>> + Send + Sync> {
    let mut dig = space.before();
    dig.push(needs("dig", "bind9-dnsutils").display().to_string());
    let words = ["@127.0.0.1", "-p", &port.to_string(), "+tries=1", "+time=2", "web.service.local", "A"];
    dig.extend(words.map(str::to_owned));
    Box::new(move || {
        let output = Command::new(&dig[0]).args(&dig[1..]).output().expect("running nsenter");
        let text = String::from_utf8_lossy(&output.stdout);
        // SERVFAIL is an honest answer, and silence is one of the network's: whoever asked keeps what he had.
        if !output.status.success() || text.contains("status: SERVFAIL") {
            return None;
        }
        let records = text.lines().filter(|line| line.starts_with("web.service.local."));
        Some(records.filter_map(|line| line.split_whitespace().nth(4)).map(str::to_owned).collect())
    })
}

/// Looks at everybody while `trouble` goes on, and until each has been seen again afterwards.
fn nobody_drops_a_server(what: &str, followers: &[Follower], trouble: impl FnOnce()) {
    let (over, expected) = (AtomicBool::new(false), addresses(1..=INSTANCES));
    std::thread::scope(|scope| {
        for follower in followers {
            let (over, expected) = (&over, &expected);
            scope.spawn(move || {
                let (mut looks, mut answers) = (0, 0);
                let mut look = || {
                    let found = (follower.look)()?;
                    answers += 1;
                    assert_eq!(found, *expected, "{} during {what}", follower.name);
                    Some(())
                };
                while !over.load(Ordering::SeqCst) {
                    look();
                    looks += 1;
                    wait(LOOK_AGAIN);
                }
                // What the trouble left behind.
                eventually(follower.name, DEADLINE, &mut look);
                println!("{what}: {} was looked at {looks} times, and knew {answers} times", follower.name);
            });
        }
        let _over = Over(&over); // also where the trouble is more than was meant
        trouble();
    });
}

#[expect(
    clippy::disallowed_methods,
    reason = "how long a trouble lasts, and between two looks at others, who send no event"
)]
fn wait(time: Duration) {
    // tidy: may sleep: the trouble is that nothing happens, and others are looked at meanwhile
    std::thread::sleep(time);
}

fn follow(followers: &[Follower], expected: &BTreeSet<String>) {
    for follower in followers {
        eventually(follower.name, DEADLINE, || ((follower.look)().as_ref() == Some(expected)).then_some(()));
    }
}

/// Takes a server with one service through every trouble, with those that `followers` starts in front of it.
pub fn goes_through_every_trouble(followers: impl Fn(&Space) -> Vec<Follower>) {
    let (space, data) = (Space::new(), tempfile::tempdir().expect("a directory"));
    let start = |before: &[&str]| {
        let mut server = server_on(&space, data.path(), before);
        assert!(server.until_ready(), "{:?}", server.end());
        server
    };
    let mut server = start(&[]);
    let mut client = server.client();
    for number in 1..=INSTANCES {
        client.done("registered", &registration(number));
    }
    let followers = followers(&space);
    follow(&followers, &addresses(1..=INSTANCES));

    nobody_drops_a_server("restarts", &followers, || {
        for _ in 0..3 {
            server.signal(Signal::SIGTERM);
            server.wait();
            server = start(&[]);
        }
    });
    nobody_drops_a_server("a kill, and nobody there for a while", &followers, || {
        server.crash();
        wait(TROUBLE);
        server = start(&[]);
    });
    nobody_drops_a_server("a start that takes its time", &followers, || {
        server.crash();
        // strace is beside the server, not before it; it holds up the lock of the data directory.
        server = start(&["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=flock", "-e", DELAY]);
    });
    nobody_drops_a_server("a stopped process", &followers, || {
        server.signal(Signal::SIGSTOP);
        wait(TROUBLE);
        server.signal(Signal::SIGCONT);
    });
    nobody_drops_a_server("a store that fails", &followers, || {
        // Whoever traces it already has to go first.
        server.crash();
        server = start(&[]);
        let mut client = server.client();
        let _strace = Attached::new(&server, "fdatasync", "EIO");
        let other =
            json!({"register": {"service": "other", "address": "10.3.1.1", "port": 1, "lease": "none"}});
        let mut refused = || client.ask(&other)["error"]["code"] == "unavailable";
        eventually("a commit that fails", DEADLINE, || refused().then_some(()));
        wait(TROUBLE);
    });
    server.crash();
    let server = start(&[]);
    let gone = json!({"deregister": {"service": "web", "id": format!("web-{INSTANCES}")}});
    server.client().done("deregistered", &gone);
    follow(&followers, &addresses(1..INSTANCES));
}
