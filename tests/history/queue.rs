//! The registry carried by Redis Streams, as docs/store.md shows it: a feed fills the stream, consumers
//! apply it, and one that was killed goes on behind the last entry that was acknowledged.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{DEADLINE, Draws, Server, binary, eventually, seed};
use crate::picture::{Picture, assert_same, at, command, listed, register, without};

/// The service whose registration is the last change.
const LAST: &str = "last";

/// A Redis of our own, on a Unix socket, that keeps nothing.
struct Redis {
    child: Child,
    socket: PathBuf,
    _directory: TempDir,
}

impl Redis {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("redis.sock");
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
            .arg(&socket)
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("starting redis-server: apt install redis-server");
        let redis = Self { child, socket, _directory: directory };
        eventually("Redis", DEADLINE, || (redis.ask(&["PING"]) == "PONG\n").then_some(()));
        redis
    }

    fn ask(&self, words: &[&str]) -> String {
        let mut command = Command::new("redis-cli");
        command.arg("-s").arg(&self.socket).arg("--raw").args(words);
        let output = command.output().expect("running redis-cli: apt install redis-tools");
        String::from_utf8(output.stdout).expect("what we put in is text")
    }

    /// Entries behind one, as (id, line), at most so many.
    fn behind(&self, id: &str, most: usize) -> Vec<(String, String)> {
        let printed = self.ask(&["XRANGE", "registry", &format!("({id}"), "+", "COUNT", &most.to_string()]);
        entries(printed.lines())
    }

    /// The same, waiting for one.
    fn next_behind(&self, id: &str) -> Vec<(String, String)> {
        let printed = self.ask(&["XREAD", "COUNT", "50", "BLOCK", "1000", "STREAMS", "registry", id]);
        entries(printed.lines().skip(1)) // the stream's name
    }

    fn count(&self) -> usize {
        self.ask(&["XLEN", "registry"]).trim().parse().expect("a number")
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// redis-cli prints id, field and value of each entry on a line of its own.
fn entries<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<(String, String)> {
    let lines: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
    let (whole, rest) = lines.as_chunks::<3>();
    assert!(rest.is_empty(), "{rest:?}");
    let entry = |[id, field, line]: &[&str; 3]| {
        assert_eq!(*field, "change");
        ((*id).to_owned(), (*line).to_owned())
    };
    whole.iter().map(entry).collect()
}

/// `callsign feed … | while read … XADD`, word for word as in docs/store.md.
struct Producer {
    shell: Child,
}

impl Producer {
    fn start(server: &Server, redis: &Redis) -> Self {
        let documented = std::fs::read_to_string("docs/store.md").expect("docs/store.md");
        let line =
            documented.lines().map(str::trim).find(|line| line.starts_with("callsign feed --since 0 |"));
        // The names of this test's own programs and places stand in for the usual ones.
        let line =
            line.expect("the command in docs/store.md").replace("redis-cli", "redis-cli -s \"$REDIS\"");
        let line = line.replace("callsign", "\"$CALLSIGN\"");
        let shell = Command::new("bash")
            .args(["-c", &line])
            .env("CALLSIGN", binary())
            .env("REDIS", &redis.socket)
            .env("CALLSIGN_SERVER", at(server))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("starting bash");
        Self { shell }
    }

    /// It ends when the server has ended and everything is in the stream.
    fn wait(mut self) {
        eventually("the end of the feed", DEADLINE, || self.shell.try_wait().expect("our own child"));
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        drop(self.shell.kill());
        drop(self.shell.wait());
    }
}

/// `callsign apply`, told one line at a time.
struct Applying {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Applying {
    fn start(server: &Server) -> Self {
        let mut child = Command::new(binary())
            .args(["apply", "--allow-empty", "--server", &at(server), "--timeout", "30s"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starting callsign apply");
        let (stdin, stdout) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
        Self { child, stdin, stdout: BufReader::new(stdout) }
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").expect("a pipe that somebody reads");
    }

    fn acknowledgement(&mut self) -> Value {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("an acknowledgement");
        let reply: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(reply.get("error").is_none(), "{reply}");
        reply
    }
}

impl Drop for Applying {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Applies what comes until the last change, and is killed every so often with lines on the way.
fn consume(redis: &Redis, target: &Server, mut draws: Draws) -> (usize, usize) {
    let (mut last, mut applied, mut kills) = ("0-0".to_owned(), 0, 0);
    let mut applying = Applying::start(target);
    let start = crate::harness::now();
    loop {
        assert!(start.elapsed() < DEADLINE, "the last change did not come");
        let entries = redis.next_behind(&last);
        // It takes several in one go, and may die with some of them done and not acknowledged.
        entries.iter().for_each(|(_, line)| applying.tell(line));
        let dies_at = (draws.below(3) == 0).then(|| draws.below(entries.len().max(1)));
        for (place, (id, line)) in entries.iter().enumerate() {
            if dies_at == Some(place) {
                applying = Applying::start(target); // the old one is killed as it is dropped
                kills += 1;
                break;
            }
            applying.acknowledgement();
            applied += 1;
            last.clone_from(id);
            if serde_json::from_str::<Value>(line).is_ok_and(|line| line["change"]["service"] == LAST) {
                return (applied, kills);
            }
        }
    }
}

#[test]
fn a_registry_is_carried_by_redis_streams() {
    const COMMANDS: usize = 120;
    let seed = seed();
    println!("queue: seed {seed}");
    let redis = Redis::start();
    let mut source = Server::start(&["--known-for", "24h"]);
    let (target, late) = (Server::start(&[]), Server::start(&["--store", "memory"]));
    let producer = Producer::start(&source, &redis);
    let done = AtomicBool::new(false);
    let (applied, kills) = std::thread::scope(|scope| {
        let (redis, source, target, done) = (&redis, &source, &target, &done);
        for writer in 0..2 {
            scope.spawn(move || {
                let (mut client, mut draws) = (source.client(), Draws(seed ^ writer));
                (0..COMMANDS).for_each(|_| drop(client.ask(&command(&mut draws))));
                if done.swap(true, Ordering::SeqCst) {
                    client.done(
                        "reported",
                        &json!({"report": {"host": "machine-1", "check": "disk", "status": "warning"}}),
                    );
                    client.done("registered", &register(LAST, LAST, 1));
                }
            });
        }
        consume(redis, target, Draws(seed))
    });
    let registry = listed(&source);
    // Lines that are said a second time may give the plain label of an id to its instance on another host.
    let unlabelled = |picture: Picture| without(picture, &["label"]);
    let followed = unlabelled(listed(&target));
    assert_same(&followed, &unlabelled(registry.clone()), &format!("seed {seed}: what was followed"));
    // Everything is in the stream: a server that comes later, and one that hears all of it again.
    let whole = redis.behind("0-0", 1_000_000);
    assert_eq!(whole.len(), redis.count());
    for server in [&late, &target] {
        let mut applying = Applying::start(server);
        for (_, line) in &whole {
            applying.tell(line);
            applying.acknowledgement();
        }
    }
    assert_same(&listed(&late), &registry, &format!("seed {seed}: from the start"));
    let again = unlabelled(listed(&target));
    assert_same(&again, &unlabelled(registry.clone()), &format!("seed {seed}: from the start again"));
    println!(
        "queue: {} entries, {applied} applied with {kills} kills, {} instances",
        whole.len(),
        registry.len()
    );
    source.signal(nix::sys::signal::Signal::SIGTERM);
    source.wait();
    producer.wait();
}
