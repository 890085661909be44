//! The running server, from outside: what `server.rs`, `clients.rs` and others like them stand on.
//!
//! `Server` starts the real binary on free ports in a directory of its own, waits for its `ready` line, and
//! ends it by its pid when it is dropped. `Client` speaks the registration protocol as raw lines, so that a
//! test can say what no client of ours would. `Resolver` asks DNS over one UDP socket and one TCP
//! connection, with hickory-proto as the reader. `Http` is one connection to the HTTP port or the socket. Nothing here retries: what is not there in time fails the test.
//!
//! The binary is the one that cargo built for the test. The long runs name another (`CALLSIGN_TEST_BIN`),
//! built with optimisation.

#![allow(dead_code, reason = "each test file uses its own part")]

pub mod ask;
pub mod disk;
pub mod dns;
pub mod haproxy;
pub mod http;
pub mod machine;
pub mod namespaces;
pub mod nginx;
pub mod process;
pub mod program;
pub mod prometheus;
pub mod space;
pub mod strace;
pub mod tls;

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

pub use dns::Resolver;
pub use http::Http;

/// How long anything may take that normally takes milliseconds: a loaded machine is no failure.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// What is drawn where no seed is given.
const SEED_DEFAULT: u64 = 700_000;

/// The SRV name of a service, as RFC 2782 writes it.
pub fn srv(service: &str) -> String {
    format!("_{service}._tcp.service.local.")
}

/// A server of our own, in a directory of its own.
pub struct Server {
    child: Child,
    ended: Option<ExitStatus>,
    /// Dropped last: the server's socket and log are in it.
    directory: TempDir,
    /// Every line before `ready`, and that one.
    pub lines: Vec<String>,
    pub socket: PathBuf,
    /// Where it answers DNS.
    pub dns: Vec<SocketAddr>,
    /// Where it takes registrations over TCP.
    pub listen: Vec<SocketAddr>,
    pub http: Vec<SocketAddr>,
}

/// How a server ended that never became ready, or that was stopped.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Server {
    /// On one free port of 127.0.0.1, with these flags besides.
    pub fn start(flags: &[&str]) -> Self {
        Self::start_under(&[], flags)
    }

    /// The same, started by a command such as `prlimit --nofile=64` that becomes what it starts.
    pub fn start_under(before: &[&str], flags: &[&str]) -> Self {
        Self::launch(before, flags).unwrap_or_else(|ended| panic!("the server did not start: {ended:?}"))
    }

    /// The same for a test that may see it refuse to start.
    pub fn launch(before: &[&str], flags: &[&str]) -> Result<Self, Ended> {
        let mut server = Self::begin(before, flags);
        match server.until_ready() {
            true => Ok(server),
            false => Err(server.end()),
        }
    }

    /// The same for a test that does not wait for the end of the start.
    pub fn begin(before: &[&str], flags: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory for the server");
        let path = |name: &str| directory.path().join(name);
        let socket = match flags.iter().position(|flag| *flag == "--socket") {
            Some(at) => PathBuf::from(flags[at + 1]),
            None => path("callsign.sock"),
        };
        let mut words: Vec<String> = before.iter().map(|word| (*word).to_owned()).collect();
        words.extend([binary().display().to_string(), "serve".to_owned()]);
        if !flags.contains(&"--dns") {
            words.extend(["--dns".to_owned(), "127.0.0.1:0".to_owned()]);
        }
        if !flags.contains(&"--http") {
            words.extend(["--http".to_owned(), "127.0.0.1:0".to_owned()]);
        }
        if !flags.contains(&"--socket") {
            words.extend(["--socket".to_owned(), socket.display().to_string()]);
        }
        if !flags.contains(&"--data") && !flags.contains(&"--store") {
            words.extend(["--data".to_owned(), path("data").display().to_string()]);
        }
        words.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(File::create(path("stdout")).expect("a file for stdout"))
            .stderr(File::create(path("stderr")).expect("a file for stderr"));
        without_our_variables(&mut command).env("XDG_RUNTIME_DIR", directory.path());
        let child = command.spawn().unwrap_or_else(|error| panic!("starting {}: {error}", words[0]));
        Self {
            child,
            ended: None,
            directory,
            lines: Vec::new(),
            socket,
            dns: Vec::new(),
            listen: Vec::new(),
            http: Vec::new(),
        }
    }

    /// Waits for the `ready` line; false where the server ended before it.
    pub fn until_ready(&mut self) -> bool {
        let ready = eventually("the server's `ready` line", DEADLINE, || {
            let text = self.stdout();
            if text.lines().any(|line| line.starts_with("ready") && text.ends_with('\n')) {
                return Some(true);
            }
            self.exit_status().map(|_| false)
        });
        self.lines = self.stdout().lines().map(str::to_owned).collect();
        let addresses = |start: &str| -> Vec<SocketAddr> {
            let found = self.lines.iter().filter_map(|line| line.strip_prefix(start)?.parse().ok());
            found.collect()
        };
        (self.dns, self.listen) = (addresses("dns udp+tcp "), addresses("listen "));
        self.http = addresses("http ");
        ready
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn stdout(&self) -> String {
        fs::read_to_string(self.directory.path().join("stdout")).unwrap_or_default()
    }

    pub fn stderr(&self) -> String {
        fs::read_to_string(self.directory.path().join("stderr")).unwrap_or_default()
    }

    /// A directory that goes with the server.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A new connection to the Unix socket.
    pub fn client(&self) -> Client {
        Client::unix(&self.socket)
    }

    /// A new connection over TCP; the server was started with `--listen`.
    pub fn tcp_client(&self) -> Client {
        Client::tcp(*self.listen.first().expect("a server started with --listen"))
    }

    /// A new connection to the HTTP port.
    pub fn http(&self) -> Http {
        Http::tcp(*self.http.first().expect("a server with an HTTP port"))
    }

    pub fn resolver(&self) -> Resolver {
        Resolver::new(self.dns[0])
    }

    /// Sends a signal; where it stops the server, that stands still afterwards.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).expect("a pid"));
        kill(pid, signal).expect("the server is ours to signal");
        if signal == Signal::SIGSTOP {
            eventually("its standstill", DEADLINE, || process::stands_still(self.pid()).then_some(()));
        }
    }

    /// `Some` once it has ended.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("waiting for our own child");
        }
        self.ended
    }

    /// Waits until it has ended by itself.
    pub fn wait(&mut self) -> Ended {
        eventually("the end of the server", DEADLINE, || self.exit_status());
        self.end()
    }

    pub fn end(&mut self) -> Ended {
        let code = self.exit_status().and_then(|status| status.code());
        Ended { code, stdout: self.stdout(), stderr: self.stderr() }
    }

    /// SIGKILL, as a crash is: nothing is cleaned up.
    pub fn crash(&mut self) {
        self.signal(Signal::SIGKILL);
        eventually("the end of the killed server", DEADLINE, || self.exit_status());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.exit_status().is_none() {
            drop(self.child.kill());
            drop(self.child.wait());
        }
        if std::thread::panicking() {
            let log = self.stderr();
            let tail: Vec<&str> = log.lines().rev().take(20).collect();
            eprintln!("the server's last words:");
            tail.iter().rev().for_each(|line| eprintln!("    {line}"));
        }
    }
}

/// The program under test.
pub fn binary() -> PathBuf {
    match std::env::var_os("CALLSIGN_TEST_BIN") {
        Some(path) => PathBuf::from(path),
        None => PathBuf::from(env!("CARGO_BIN_EXE_callsign")),
    }
}

/// `callsign` run to its end, with a stdin that is empty.
pub fn callsign(words: &[&str]) -> Ended {
    let mut command = Command::new(binary());
    command.args(words).stdin(Stdio::null());
    let output = without_our_variables(&mut command).output().expect("running callsign");
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// `CALLSIGN_…` configures a server; what a developer's or CI's shell holds is not for this one.
pub fn without_our_variables(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CALLSIGN_")) {
        command.env_remove(name);
    }
    command.env_remove("RUST_LOG")
}

/// One connection to the registration socket: raw lines out, JSON in.
pub struct Client {
    reader: BufReader<Stream>,
    writer: Stream,
}

/// What carries the protocol.
pub enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Client {
    pub fn unix(path: &Path) -> Self {
        let stream = UnixStream::connect(path)
            .unwrap_or_else(|error| panic!("connecting to {}: {error}", path.display()));
        Self::over(Stream::Unix(stream))
    }

    /// `None` where nobody listens any more.
    pub fn try_unix(path: &Path) -> Option<Self> {
        UnixStream::connect(path).ok().map(|stream| Self::over(Stream::Unix(stream)))
    }

    pub fn tcp(address: SocketAddr) -> Self {
        let stream =
            TcpStream::connect(address).unwrap_or_else(|error| panic!("connecting to {address}: {error}"));
        stream.set_nodelay(true).expect("an option of a socket of ours");
        Self::over(Stream::Tcp(stream))
    }

    fn over(stream: Stream) -> Self {
        stream.set_deadline(DEADLINE);
        let reader = BufReader::new(stream.another());
        Self { reader, writer: stream }
    }

    /// Sends octets as they are.
    ///
    /// # Errors
    ///
    /// The server has closed the connection, which may be what the test wants to see.
    pub fn send_raw(&mut self, octets: &[u8]) -> io::Result<()> {
        self.writer.write_all(octets)
    }

    /// Sends one request.
    pub fn send(&mut self, request: &Value) {
        let mut line = request.to_string();
        line.push('\n');
        self.send_raw(line.as_bytes()).expect("sending a request");
    }

    /// The next reply; `None` where the server has closed the connection.
    pub fn next(&mut self) -> Option<Value> {
        let mut line = Vec::new();
        match self.reader.read_until(b'\n', &mut line) {
            Ok(0) => None,
            Ok(_) => Some(serde_json::from_slice(&line).expect("a reply is JSON")),
            // A close with octets of ours unread.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("no reply: {error}"),
        }
    }

    /// The same from a server that may be killed, in the middle of a line too.
    pub fn try_next(&mut self) -> Option<Value> {
        let mut line = Vec::new();
        match self.reader.read_until(b'\n', &mut line) {
            Ok(_) if line.ends_with(b"\n") => Some(serde_json::from_slice(&line).expect("a reply is JSON")),
            Ok(_) => None,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("no reply: {error}"),
        }
    }

    pub fn receive(&mut self) -> Value {
        self.next().expect("a reply, and not the end of the connection")
    }

    pub fn ask(&mut self, request: &Value) -> Value {
        self.send(request);
        self.receive()
    }

    /// Asks for what must be done: the member of the reply named `verb`.
    pub fn done(&mut self, verb: &str, request: &Value) -> Value {
        let mut reply = self.ask(request);
        let done = reply.get_mut(verb).map(Value::take);
        done.unwrap_or_else(|| panic!("{request} was answered {reply}"))
    }

    /// What a line of octets is answered with.
    pub fn ask_line(&mut self, line: &[u8]) -> Value {
        self.send_raw(line).expect("sending a line");
        self.send_raw(b"\n").expect("sending its end");
        self.receive()
    }

    /// Another handle on the same connection, for a second thread.
    pub fn stream(&self) -> Stream {
        self.writer.another()
    }

    /// Says that nothing more will be sent.
    pub fn finish(&self) {
        match &self.writer {
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
        }
        .expect("an open connection");
    }

    /// Every instance registered, page by page.
    pub fn list(&mut self) -> Vec<Value> {
        let (mut instances, mut after) = (Vec::new(), Value::Null);
        loop {
            let mut page = self.done("instances", &serde_json::json!({"list": {"after": after}}));
            if let Value::Array(found) = page["instances"].take() {
                instances.extend(found);
            }
            after = page["next"].take();
            if after.is_null() {
                return instances;
            }
        }
    }
}

impl Stream {
    fn set_deadline(&self, deadline: Duration) {
        match self {
            Self::Unix(stream) => stream.set_read_timeout(Some(deadline)),
            Self::Tcp(stream) => stream.set_read_timeout(Some(deadline)),
        }
        .expect("an option of a socket of ours");
    }

    fn another(&self) -> Self {
        match self {
            Self::Unix(stream) => Self::Unix(stream.try_clone().expect("another descriptor")),
            Self::Tcp(stream) => Self::Tcp(stream.try_clone().expect("another descriptor")),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(buffer),
            Self::Tcp(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(octets),
            Self::Tcp(stream) => stream.write(octets),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Looks again and again until there is something to see; the one way to wait for what sends no event.
pub fn eventually<T>(what: &str, within: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let start = now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < within, "{what}: not within {within:?}");
        pause();
    }
}

/// True where `look` says so all the time for `over`: what must not happen cannot be waited for.
pub fn stays(over: Duration, mut look: impl FnMut() -> bool) -> bool {
    let start = now();
    while start.elapsed() < over {
        if !look() {
            return false;
        }
        pause();
    }
    true
}

/// Says that it is over when it is dropped, also by a panic: threads that go on until then end with the test.
pub struct Over<'a>(pub &'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[expect(clippy::disallowed_methods, reason = "between two looks at another process, which sends no event")]
pub fn pause() {
    // tidy: may sleep: between two looks at another process, up to a deadline
    std::thread::sleep(Duration::from_millis(2));
}

#[expect(clippy::disallowed_methods, reason = "deadlines of the tests, and figures")]
pub fn now() -> Instant {
    Instant::now()
}

/// The seed of this run: `CALLSIGN_SEED`, or the same each time, so that what fails was broken by a change; the runs of
/// `tests/long` go through new ones.
pub fn seed() -> u64 {
    match std::env::var("CALLSIGN_SEED") {
        Ok(text) => text.parse().expect("CALLSIGN_SEED is a number"),
        Err(_) => SEED_DEFAULT,
    }
}

/// Numbers that look random and follow from a seed (SplitMix64).
pub struct Draws(pub u64);

impl Draws {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    pub fn octets(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}
