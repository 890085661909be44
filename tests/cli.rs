//! The command line as scripts and people meet it: the built binary against real servers, each test with a
//! server, a socket and a directory of its own. What is waited for is an event, with a deadline.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use insta::assert_snapshot;
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

#[test]
fn the_first_help_fits_a_screen() {
    let directory = tempfile::tempdir().unwrap();
    assert_snapshot!(transcript(callsign(directory.path()).arg("--help")), @"
    A DNS server that knows which services are running

    Usage: callsign <COMMAND>

    Commands:
      serve            Run the server: DNS, and the socket that services register on
      register         Register an instance of a service
      heartbeat        Renew the lease of an instance once
      deregister       Take an instance out of the registry
      drain            Take an instance out of new answers, but not out of the registry
      run              Run a command that is registered while it lives
      ls               List the services, or the instances of one
      show             Show the instances of a service in full, or one URL
      watch            Follow changes: first what is registered, then one line per change
      service          Show or change the settings of a service
      explain          Say why a name is, or is not, in DNS, instance by instance
      log              Show what changed, newest first: when, why and by whom
      at               Show who was registered at a time, as far back as the log reaches
      availability     Show how much of the time services and instances were live
      feed             Print every change as a line of JSON: those since a revision, then those to come
      feed-containers  Register containers by their labels, for as long as they run
      apply            Read requests or changes, a line of JSON each, and acknowledge each
      export           Print everything that the registry holds, as lines of JSON
      import           Take in what `export` printed, or what a running Consul has
      store            Check, back up or restore the embedded store
      dig              Ask over real DNS; show TTLs, reasons and glue
      setup            Print the file that lets a resolver or an Envoy ask this server, or write it
      doctor           Say what keeps the registry's names from resolving on this machine
      status           Show the server as it is now (exit code 5 while it is not ready)
      nodes            Show the nodes that share the registry, and how far each has followed
      ring             Show what each node has of the ring, or whose a name is by it
      token            Make, list and revoke tokens
      dnssec           Make, change and show the keys that zones are signed with
      zone             Check zone files before a server reads them
      demo             Show how it works: a server, three services, five commands; Ctrl-C ends it
      completion       Print what a shell needs to complete verbs and options
      man              Write the manual pages

    Options:
      -h, --help     Print help
      -V, --version  Print version

    Example:
      callsign serve
      callsign run web --port 8080 -- python3 -m http.server 8080
      callsign dig web.service.local SRV
    ");
    assert_snapshot!(transcript(callsign(directory.path()).arg("--version")), @"callsign 0.1.0");
}

#[test]
fn the_help_of_a_verb_shows_an_example() {
    let directory = tempfile::tempdir().unwrap();
    assert_snapshot!(transcript(callsign(directory.path()).args(["drain", "--help"])), @"
    Take an instance out of new answers, but not out of the registry

    Usage: callsign drain [OPTIONS] <SERVICE> <ID>

    Arguments:
      <SERVICE>  The service's name
      <ID>       The instance's id

    Options:
          --host <HOST>     The host it runs on, where that is another one than this
          --lease-id <HEX>  What the registration returned: refuse if another one has taken its place
                            since
      -h, --help            Print help

    Server and output:
          --server <SERVER>            Where the server is: unix:PATH, ADDR:PORT or tls:HOST:PORT;
                                       several are tried in turn, with commas between them or the flag
                                       again [env: CALLSIGN_SERVER]
          --token-file <FILE>          A file that holds the token to say who we are with [env:
                                       CALLSIGN_TOKEN holds the token itself]
          --server-authority <FILE>    Who signs the certificate of a server at tls:HOST:PORT [default:
                                       whom this machine trusts]
          --client-certificate <FILE>  A certificate to say who we are with over TLS, in PEM form
          --client-key <FILE>          Its private key
      -o, --output <FORM>              A table for people, one JSON value, or one JSON value a line
                                       [default: table] [possible values: table, json, jsonl]
          --timeout <TIME>             How long to wait for an answer [default: 5s]

    Example:
      callsign drain web web-1 && sleep 5 && systemctl stop web
    ");
}

#[test]
fn bad_input_gets_one_sentence() {
    let directory = tempfile::tempdir().unwrap();
    let mut says = String::new();
    for line in [
        "regster",
        "ls --helth critical",
        "register web 2001:db8::7:80",
        "register web db.example.com:80",
        "register web 10.0.0.300:80",
        "register web myhost:8080",
        "ls --server /run/x",
        "ls --timeout soon",
        "run web --port 0 -- true",
        "run a_b --port 80 -- true",
        "dig a..b",
        "dig web FOO",
        "dig web A SRV",
        "dig web --dns 127.0.0.1",
        "serve --ttl 900",
        "serve --listen 0.0.0.0:5301",
    ] {
        let told = transcript(callsign(directory.path()).args(line.split_whitespace()));
        let first = told.lines().next().unwrap_or_default();
        let hint =
            told.lines().find(|line| line.contains("hint:") || line.contains("tip:")).unwrap_or_default();
        says.push_str(&format!("> {line}\n{first}\n"));
        says.push_str(if hint.is_empty() { "" } else { hint });
        says.push_str(if hint.is_empty() { "" } else { "\n" });
        assert!(told.ends_with("exit Some(2)\n"), "{line}: {told}");
    }
    assert_snapshot!(says, @"
    > regster
    ! callsign: unrecognized subcommand 'regster'
    !   tip: some similar subcommands exist: 'deregister', 'register'
    > ls --helth critical
    ! callsign: unexpected argument '--helth' found
    !   tip: a similar argument exists: '--health'
    > register web 2001:db8::7:80
    ! callsign: invalid value '2001:db8::7:80' for '[ADDR:PORT]': put an IPv6 address into brackets, such as [2001:db8::7]:8080
    > register web db.example.com:80
    ! callsign: invalid value 'db.example.com:80' for '[ADDR:PORT]': `db.example.com` is no IP address; for a host name write PORT --target db.example.com
    > register web 10.0.0.300:80
    ! callsign: invalid value '10.0.0.300:80' for '[ADDR:PORT]': `10.0.0.300` is neither an address nor a host name: its last label is all digits
    > register web myhost:8080
    ! callsign: invalid value 'myhost:8080' for '[ADDR:PORT]': `myhost` is no IP address, and a host name must be a full name with a dot, such as myhost.example.com; write PORT --target myhost.example.com
    > ls --server /run/x
    ! callsign: invalid value '/run/x' for '--server <SERVER>': must be unix:PATH or ADDR:PORT; try `unix:/run/x`
    > ls --timeout soon
    ! callsign: invalid value 'soon' for '--timeout <TIME>': write a time such as 500ms, 15s or 2m
    > run web --port 0 -- true
    ! callsign: port must be 1 to 65535, not 0
    > run a_b --port 80 -- true
    ! callsign: service must be letters, digits and hyphens, with no hyphen at either end; try `a-b`
    > dig a..b
    ! callsign: `a..b` is no domain name: a label is empty (two dots in a row, or a dot in front)
    > dig web FOO
    ! callsign: `FOO` is no record type
    ! hint: types are A, AAAA, SRV, TXT, … or TYPE65; the server is named with --dns ADDR:PORT
    > dig web A SRV
    ! callsign: one type is enough; `SRV` is the second
    > dig web --dns 127.0.0.1
    ! callsign: invalid value '127.0.0.1' for '--dns <ADDR:PORT>': write an address with a port, such as 127.0.0.1:5300 or [::1]:5300
    > serve --ttl 900
    ! callsign: --ttl must be a number from 0 to 300, not `900`
    > serve --listen 0.0.0.0:5301
    ! callsign: --listen 0.0.0.0:5301 can be reached from other machines, and there is no authentication: whoever reaches it may register and deregister anything; say who may do what with `access` (--access 'allow anyone read', and tokens for the rest), listen on 127.0.0.1, or set `allow-unauthenticated = true` (--allow-unauthenticated) if that is meant
    ");
}

#[test]
fn a_server_that_is_not_there_is_named_with_the_command_that_starts_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().display().to_string();
    let mut told = Vec::new();
    for line in [
        "ls",
        "status",
        "register web :80 --lease 15s",
        "register web :80",
        "watch",
        "show web --url",
        "explain web",
    ] {
        told.push(transcript(callsign(directory.path()).args(line.split_whitespace())).replace(&path, "DIR"));
    }
    told.dedup();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_snapshot!(told[0], @"
    ! callsign: no callsign server at unix:DIR/s: no such file or directory
    ! hint: start one with `callsign serve`, or say where it is with --server
    exit Some(5)
    ");
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let told = transcript(callsign(directory.path()).args(["dig", "web", "--dns", &free.to_string()]));
    assert_snapshot!(blot(&told), @"
    ! callsign: no DNS server at 127.0.0.1:PORT over udp: connection refused
    ! hint: start one with `callsign serve`, or say where it is with --dns ADDR:PORT
    exit Some(5)
    ");
    let told = transcript(callsign(directory.path()).args(["ls", "--server", &free.to_string()]));
    assert!(told.contains("connection refused") && told.ends_with("exit Some(5)\n"), "{told}");
}

#[test]
fn check_config_says_ok_or_what_is_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let serve = |text: &str| {
        std::fs::write(directory.path().join("c.toml"), text).unwrap();
        transcript(callsign(directory.path()).args([
            "serve",
            "--check-config",
            "--socket",
            "/run/x",
            "--config",
            "c.toml",
        ]))
    };
    assert_eq!(serve("ttl = 5\n"), "ok\n");
    assert_eq!(
        serve("ttl = 900\n"),
        "! callsign: c.toml:1:7: ttl must be a number from 0 to 300, not `900`\nexit Some(2)\n"
    );
    assert!(
        serve("\nknwon-for = 1\n")
            .starts_with("! callsign: c.toml:2:1: unknown key `knwon-for` (did you mean `known-for`?)")
    );
}

#[test]
fn an_instance_from_registration_to_its_end() {
    let server = Server::start();
    assert_snapshot!(server.says("register web 10.0.0.7:8080 --id web-1 --host h1 --tag v2 --protocol http --meta zone=a --port-name dns=53/udp --lease 15s"), @"registered web web-1 at 10.0.0.7 port 8080 as web-1.web.service.local., lease 15s");
    assert_snapshot!(server.says("register web [2001:db8::8]:8080 --id web-2 --host h2 --priority 1 --lease none"), @"registered web web-2 at 2001:db8::8 port 8080 as web-2.web.service.local., lease none");
    assert_snapshot!(server.says("register db 5432 --target db.example.com. --id db --host h1 --lease none"), @"registered db db at db.example.com. port 5432 as db.db.service.local., lease none");
    assert_snapshot!(server.says("ls"), @"
    SERVICE  LIVE  PORTS            TAGS
    db       1/1   5432             -
    web      2/2   8080,dns=53/udp  v2
    ");
    assert_snapshot!(server.says("ls web"), @"
    SERVICE  ID     HOST  ADDRESS      PORTS            HEALTH   LEASE  PROTOCOL  TAGS
    web      web-1  h1    10.0.0.7     8080,dns=53/udp  passing  15s    http      v2
    web      web-2  h2    2001:db8::8  8080             passing  none   -         -
    ");
    assert_snapshot!(server.says("ls --tag v2 --port 53"), @"
    SERVICE  ID     HOST  ADDRESS   PORTS            HEALTH   LEASE  PROTOCOL  TAGS
    web      web-1  h1    10.0.0.7  8080,dns=53/udp  passing  15s    http      v2
    ");
    assert_snapshot!(server.says("show web web-1"), @"
    service     web
    id          web-1
    host        h1
    label       web-1
    address     10.0.0.7
    ports       8080,dns=53/udp
    protocol    http
    tags        v2
    meta        zone=a
    weight      1
    priority    0
    lease       15s, 15s left
    health      passing since TIME
    live        yes
    registered  TIME
    revision    1
    ");
    assert_eq!(server.says("show web --url"), "http://10.0.0.7:8080\n");
    assert_eq!(server.says("show db --url"), "http://db.example.com:5432\n");
    assert_snapshot!(server.says("heartbeat web web-1 --host h1"), @"renewed web web-1 for 15s");
    assert_snapshot!(server.says("drain web web-1 --host h1"), @"draining web web-1");
    assert_eq!(server.says("show web --url"), "http://[2001:db8::8]:8080\n");
    assert_snapshot!(server.says("deregister web web-1 --host h1"), @"deregistered web web-1");
    assert_snapshot!(server.says("deregister web web-1 --host h1"), @"
    web web-1 was not registered
    ! hint: `callsign ls web` lists who is registered; another host's needs --host
    ");
    assert_snapshot!(server.says("drain web typo --host h1"), @"
    ! callsign: web/typo@h1 is not registered
    ! hint: there is no such instance; `callsign ls web` lists who is registered; another host's needs --host
    exit Some(3)
    ");
    assert_snapshot!(server.says("deregister web web-2 --host h2"), @"deregistered web web-2");
    assert_snapshot!(server.says("heartbeat web web-1 --host h1"), @"
    ! callsign: web/web-1@h1 is not registered; register it again
    exit Some(3)
    ");
    assert_snapshot!(server.says("show web"), @"
    ! callsign: web is not registered
    ! hint: `callsign explain web` says what became of it; `callsign ls` lists what is there
    exit Some(3)
    ");
    assert_snapshot!(server.says("ls web"), @"
    ! callsign: web is not registered
    ! hint: `callsign explain web` says what became of it; `callsign ls` lists what is there
    exit Some(3)
    ");
    // The verdict is the server's; its words are tested there.
    let explained = server.says("explain web");
    let (verdict, instances) = explained.split_once('\n').unwrap();
    assert!(verdict.starts_with("web.service.local.: NOERROR, no record"), "{verdict}");
    assert_snapshot!(instances, @"

    ID     HOST  ANSWERS  RULE
    web-2  h2    out      gone: deregistered at TIME
    web-1  h1    out      gone: deregistered at TIME
    ");
    assert_snapshot!(server.says("explain dbx"), @"
    dbx.service.local.: NXDOMAIN: dbx: no such service
    did you mean `db`?
    exit Some(3)
    ");
    assert_snapshot!(server.says("register a_b 10.0.0.7:80 --lease 15s"), @"
    ! callsign: service must be letters, digits and hyphens, with no hyphen at either end; try `a-b`
    exit Some(2)
    ");
    assert_snapshot!(server.says("register web 80 --target 10.0.0.300 --lease 15s"), @"
    ! callsign: target 10.0.0.300 is neither an address nor a host name: its last label is all digits
    exit Some(2)
    ");
}

#[test]
fn json_is_for_programs() {
    let server = Server::start();
    let json = |line: &str| -> serde_json::Value {
        let output = server.verb(line).output().unwrap();
        serde_json::from_slice(&output.stdout).expect(line)
    };
    let registered = json("register web 10.0.0.7:8080 --id web-1 --host h1 --lease none -o json");
    assert_eq!(registered["lease_id"].as_str().map(str::len), Some(16));
    assert_eq!(json("register web 10.0.0.8:8080 --id web-2 --host h1 --lease none -o jsonl")["id"], "web-2");
    assert_eq!(json("ls -o json")[0]["live"], 2);
    assert_eq!(json("ls web -o json")[1]["id"], "web-2");
    let lines = transcript(&mut server.verb("ls web -o jsonl"));
    let ids: Vec<serde_json::Value> = lines
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["id"].clone())
        .collect();
    assert_eq!(ids, ["web-1", "web-2"]);
    assert_eq!(json("show web web-1 -o json")[0]["address"][0], "10.0.0.7");
    assert_eq!(json("explain web -o json")["instances"][0]["in_answers"], true);
    assert_eq!(json("status -o json")["instances"], 2);
    let dug = json("dig web.service.local SRV -o json");
    assert_eq!(
        (&dug["rcode"], dug["answer"].as_array().map(Vec::len), &dug["answer"][0]["ttl"]),
        (&"NOERROR".into(), Some(2), &5.into())
    );
    let lease_id = registered["lease_id"].as_str().unwrap();
    assert_eq!(json(&format!("drain web web-1 --host h1 --lease-id {lease_id} -o json"))["id"], "web-1");
    let other = server.says("deregister web web-1 --host h1 --lease-id 0123456789abcdef");
    assert!(other.ends_with("exit Some(1)\n"), "{other}");
    assert_eq!(json("deregister web web-1 --host h1 -o json")["existed"], true);
    assert_eq!(json("ls nothing --tag x -o json"), serde_json::json!([]));
}

#[test]
fn dig_shows_ttls_reasons_and_glue() {
    let server = Server::start();
    server.says("register web 10.0.0.7:8080 --id web-1 --host h1 --meta a=\"b --lease none");
    assert_snapshot!(server.says("dig web.service.local SRV"), @"
    NOERROR qr aa
    question: web.service.local. IN SRV
    ; answer
    web.service.local. 5 IN SRV 0 1 8080 web-1.web.service.local.
    ; additional
    web-1.web.service.local. 5 IN A 10.0.0.7
    ; 105 octets from 127.0.0.1:PORT over udp in TOOK, EDNS 1232
    ");
    assert_snapshot!(server.says("dig WEB.service.local. +tcp"), @"
    NOERROR qr aa
    question: WEB.service.local. IN A
    ; answer
    WEB.service.local. 5 IN A 10.0.0.7
    ; 62 octets from 127.0.0.1:PORT over tcp in TOOK, EDNS 1232
    ");
    assert_snapshot!(server.says("dig web.service.local TXT --noedns"), @r#"
    NOERROR qr aa
    question: web.service.local. IN TXT
    ; answer
    web.service.local. 5 IN TXT "a=\"b"
    ; 52 octets from 127.0.0.1:PORT over udp in TOOK
    "#);
    assert_snapshot!(server.says("dig web.service.local AAAA"), @"
    NOERROR qr aa
    reason 0 (Other): web: no live instance has an IPv6 address
    question: web.service.local. IN AAAA
    ; authority
    service.local. 2 IN SOA ns.service.local. hostmaster.service.local. SERIAL 300 60 86400 2
    ; 143 octets from 127.0.0.1:PORT over udp in TOOK, EDNS 1232
    ");
    assert_snapshot!(server.says("dig wbe.service.local type1"), @"
    NXDOMAIN qr aa
    reason 0 (Other): wbe: no such service
    question: wbe.service.local. IN A
    ; authority
    service.local. 2 IN SOA ns.service.local. hostmaster.service.local. SERIAL 300 60 86400 2
    ; 122 octets from 127.0.0.1:PORT over udp in TOOK, EDNS 1232
    exit Some(3)
    ");
    assert_snapshot!(server.says("dig example.com"), @"
    REFUSED qr
    reason 20 (Not Authoritative): not a name of this server
    question: example.com. IN A
    ; 71 octets from 127.0.0.1:PORT over udp in TOOK, EDNS 1232
    ! hint: names end in the server's domain, which `callsign status` shows: did you mean `example.com.service.local`?
    exit Some(1)
    ");
    for short in ["web", "a.web", "_web._tcp"] {
        let told = server.says(&format!("dig {short}"));
        assert!(told.contains(&format!("did you mean `{short}.service.local`?")), "{told}");
    }
    // A name that is whole, one that is none below a domain, and one that is there or could be.
    for whole in ["web.", "www.example.com", "web.service.local", "none.service.local"] {
        let told = server.says(&format!("dig {whole}"));
        assert!(!told.contains("did you mean"), "{told}");
    }
}

#[test]
fn dig_asks_again_over_tcp_when_the_answer_was_cut() {
    let server = Server::start();
    for number in 1..=60 {
        server.says(&format!("register many 10.0.0.{number}:80 --id i{number} --host h --lease none"));
    }
    let whole = server.says("dig many.service.local SRV");
    assert!(whole.contains("were cut; asking over tcp") && whole.contains("over tcp in"), "{whole}");
    assert_eq!(whole.matches(" IN SRV ").count(), 60, "{whole}");
    let cut = server.says("dig many.service.local SRV --ignore --bufsize 512");
    assert!(cut.starts_with("NOERROR qr aa tc\n") && cut.contains("over udp in"), "{cut}");
}

#[test]
fn dig_takes_no_reply_to_another_question() {
    let liar = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    liar.set_read_timeout(Some(DEADLINE)).unwrap();
    let address = liar.local_addr().unwrap();
    let lying = std::thread::spawn(move || {
        let mut query = [0; 512];
        let (octets, from) = liar.recv_from(&mut query).unwrap();
        let mut reply = query[..octets].to_vec();
        reply[2] |= 0x80;
        let mut other_id = reply.clone();
        other_id[0] ^= 1;
        let mut other_name = reply.clone();
        other_name[13] ^= 1;
        for message in [&other_id, &other_name, &reply] {
            liar.send_to(message, from).unwrap();
        }
    });
    let directory = tempfile::tempdir().unwrap();
    let told =
        transcript(callsign(directory.path()).args(["dig", "web.test", "--dns", &address.to_string()]));
    assert!(told.starts_with("NOERROR qr\n") && told.contains("web.test. IN A"), "{told}");
    lying.join().unwrap();
}

#[test]
fn watch_shows_what_is_and_what_becomes() {
    let server = Server::start();
    let watching = server.watch();
    server.says("register web 10.0.0.7:8080 --id web-1 --host h1 --lease none");
    server.says("drain web web-1 --host h1");
    server.says("deregister web web-1 --host h1");
    let lines: Vec<String> = (0..3).map(|_| blot(&watching.line())).collect();
    let text = lines.join("\n").replace(&format!("uid {}", nix::unistd::getuid()), "uid UID");
    assert_snapshot!(text, @"
    TIME web web-1 registered at 10.0.0.7 8080 on h1, passing by uid UID
    TIME web web-1 drained at 10.0.0.7 8080 on h1, passing, draining by uid UID
    TIME web web-1 deregistered on h1 by uid UID
    ");
    let json = Going::start(&mut server.verb("watch -o jsonl"));
    let snapshot: serde_json::Value = serde_json::from_str(&json.line()).unwrap();
    assert_eq!(snapshot["snapshot"]["instances"][0]["id"], "marker");
    json.signal(Signal::SIGINT);
    assert_eq!(json.end().1, Some(0));
}

#[test]
fn the_settings_of_a_service_are_set_shown_and_reset() {
    let server = Server::start();
    assert_snapshot!(server.says("service show web"), @"
    service   web
    settings  as the server's configuration says
    ");
    assert_snapshot!(server.says("service set web --ttl 20s"), @"
    service  web
    ttl      20s
    ");
    server.says("register web 10.0.0.7:8080 --id web-1 --lease none");
    assert!(server.says("dig web.service.local A").contains(" 20 IN A 10.0.0.7"));
    assert!(
        transcript(&mut server.verb("service set web --ttl 6m"))
            .contains("ttl must be whole seconds from 0s to 300s")
    );
    assert!(transcript(&mut server.verb("service set web")).contains("--ttl"), "something has to be set");
    assert_snapshot!(server.says("service set web --balance one:rotate --max-answers 3"), @"
    service      web
    ttl          20s
    balance      one:rotate
    max-answers  3
    ");
    let refused = transcript(&mut server.verb("service set web --max-answers -1"));
    assert!(refused.contains("max_answers must be 0 to 65535, not -1"), "{refused}");
    assert!(server.says("service set web --reset").contains("as the server's"));
    assert!(server.says("dig web.service.local A").contains(" 5 IN A 10.0.0.7"));
}

#[test]
fn register_without_a_lease_stays_and_leaves_with_its_process() {
    let server = Server::start();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let staying = Going::start(&mut server.verb("register web 10.0.0.7:8080 --id web-1 --host h1"));
        assert!(staying.line().starts_with("registered web web-1"));
        assert!(server.says("ls web").contains("web-1"));
        staying.signal(signal);
        assert_eq!(staying.end().1, Some(0));
        assert!(server.says("ls web").contains("is not registered"));
    }
}

#[test]
fn what_is_held_is_said_again_after_a_restart() {
    let server = Server::start();
    let timed = Going::start(&mut server.verb("register web 10.0.0.7:8080 --id timed --host h1"));
    let bound =
        Going::start(&mut server.verb("register web 10.0.0.7:8080 --id bound --host h1 --lease connection"));
    timed.line();
    bound.line();
    let directory = server.stop();
    let server = Server::start_in(directory);
    let watching = server.watch();
    // Who is not there yet comes as a change after the marker, which `watching` waits for.
    while server.says("ls web").matches("h1").count() < 2 {
        watching.line();
    }
    bound.signal(Signal::SIGTERM);
    assert_eq!(bound.end().1, Some(0));
    watching.line_with("web bound deregistered");
}

#[test]
fn a_registration_that_is_gone_is_made_again_and_one_that_was_taken_is_left() {
    let server = Server::start();
    let watching = server.watch();
    let held =
        Going::start(server.verb("register web 10.0.0.7:8080 --id web-1 --host h1").stderr(Stdio::null()));
    watching.line_with("web web-1 registered");
    server.says("deregister web web-1 --host h1");
    watching.line_with("web web-1 deregistered");
    // Its next heartbeat is answered with not_found.
    watching.line_with("web web-1 registered");
    server.says("register web 10.0.0.8:8080 --id web-1 --host h1 --lease none");
    assert_eq!(held.end().1, Some(1));
    assert!(server.says("ls web").contains("10.0.0.8"));
}

/// A TCP port that is taken and does not accept, until told to.
fn silent_port() -> (socket2::Socket, u16) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let port = socket.local_addr().unwrap().as_socket().unwrap().port();
    (socket, port)
}

/// `run` with options and a command; its output is the command's.
fn running(server: &Server, options: &str, command: &[&str]) -> Going {
    let options = format!("run web --id web-1 --host h1 --address 127.0.0.1 {options} --");
    Going::start(server.verb(&options).args(command).stderr(Stdio::inherit()))
}

#[test]
fn run_registers_when_the_port_accepts() {
    let server = Server::start();
    let (socket, port) = silent_port();
    let watching = server.watch();
    let mut running = running(&server, &format!("--port {port}"), &["sh", "-c", "echo up; exec cat"]);
    assert_eq!(running.line(), "up");
    assert!(server.says("ls web").contains("is not registered"));
    socket.listen(8).unwrap();
    watching.line_with("web web-1 registered");
    // The command ends by itself: gone, and its status is ours.
    drop(running.stdin.take());
    assert_eq!(running.end(), (vec![], Some(0)));
    watching.line_with("web web-1 deregistered");
}

/// Else the second one, whose command finds the port taken and dies, would take the place of the first.
#[test]
fn what_held_the_port_before_is_not_the_command() {
    let server = Server::start();
    let (socket, port) = silent_port();
    let (watching, options) = (server.watch(), format!("--port {port}"));
    let first = running(&server, &options, &["sh", "-c", "echo up; exec cat"]);
    assert_eq!(first.line(), "up");
    socket.listen(8).unwrap();
    watching.line_with("web web-1 registered");
    assert_eq!(running(&server, &options, &["sh", "-c", "exit 3"]).end().1, Some(3));
    let mut second = running(&server, &options, &["sh", "-c", "echo up; exec cat"]);
    assert_eq!(second.line(), "up");
    drop(second.stdin.take());
    assert_eq!(second.end().1, Some(0));
    // Nothing happened to the first.
    first.signal(Signal::SIGKILL);
    let next = watching.line();
    assert!(next.contains("web web-1 disconnected"), "{next}");
}

#[test]
fn run_registers_when_the_command_says_so_and_drains_before_it_stops() {
    let server = Server::start();
    let (_socket, port) = silent_port();
    let watching = server.watch();
    let running = running(
        &server,
        &format!("--port {port} --drain 300ms"),
        &["sh", "-c", "echo $NOTIFY_SOCKET; exec cat"],
    );
    let path = PathBuf::from(running.line());
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(path.parent().unwrap()).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o700);
    let notify = UnixDatagram::unbound().unwrap();
    notify.send_to(b"STATUS=warming up", &path).unwrap();
    assert!(server.says("ls web").contains("is not registered"));
    notify.send_to(b"STATUS=up\nREADY=1", &path).unwrap();
    watching.line_with("web web-1 registered");
    running.signal(Signal::SIGTERM);
    watching.line_with("web web-1 drained");
    watching.line_with("web web-1 deregistered");
    assert_eq!(running.end().1, Some(128 + Signal::SIGTERM as i32));
    assert!(!path.exists());
}

#[test]
fn a_second_sigterm_does_not_wait_for_the_drain() {
    let server = Server::start();
    let (socket, port) = silent_port();
    let watching = server.watch();
    let running = running(&server, &format!("--port {port} --drain 1h"), &["sh", "-c", "echo up; exec cat"]);
    running.line_with("up");
    socket.listen(8).unwrap();
    watching.line_with("web web-1 registered");
    running.signal(Signal::SIGTERM);
    watching.line_with("web web-1 drained");
    running.signal(Signal::SIGTERM);
    assert_eq!(running.end().1, Some(143));
}

#[test]
fn run_passes_signals_on_and_returns_the_commands_status() {
    let server = Server::start();
    let (_socket, port) = silent_port();
    let options = format!("--port {port}");
    for signal in [Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGWINCH] {
        let name = signal.as_str().strip_prefix("SIG").unwrap();
        let script = format!("trap 'kill $!; echo got {name}; exit 7' {name}; sleep 1000 & echo up; wait");
        // A session of its own: without a terminal nothing is taken for a terminal's signal.
        let options = format!("run web --id web-1 --host h1 --address 127.0.0.1 {options} --");
        let mut command = Command::new("setsid");
        command.arg("--wait").arg(env!("CARGO_BIN_EXE_callsign")).args(options.split_whitespace());
        command
            .args(["sh", "-c", &format!("echo $PPID; {script}")])
            .env_clear()
            .envs(server.verb("ls").get_envs().filter_map(|(name, text)| Some((name, text?))));
        let running = Going::start(&mut command);
        let run: i32 = running.line().parse().unwrap();
        assert_eq!(running.line(), "up");
        kill(Pid::from_raw(run), signal).unwrap();
        assert_eq!(running.end(), (vec![format!("got {name}")], Some(7)));
    }
    for (command, code) in [("exit 0", 0), ("exit 42", 42), ("kill -KILL $$", 137), ("kill -SEGV $$", 139)] {
        assert_eq!(running(&server, &options, &["sh", "-c", command]).end().1, Some(code), "{command}");
    }
    let told = transcript(&mut server.verb(&format!("run web --port {port} -- no-such-command")));
    assert_eq!(told, "! callsign: running no-such-command: no such file or directory\nexit Some(127)\n");
    let told = transcript(&mut server.verb(&format!("run web --port {port} -- /")));
    assert_eq!(told, "! callsign: running /: permission denied\nexit Some(126)\n");
}

#[test]
fn when_run_is_killed_the_instance_and_the_command_go() {
    let server = Server::start();
    let (socket, port) = silent_port();
    let watching = server.watch();
    let running = running(&server, &format!("--port {port}"), &["sh", "-c", "echo up; exec cat"]);
    assert_eq!(running.line(), "up");
    socket.listen(8).unwrap();
    watching.line_with("web web-1 registered");
    running.signal(Signal::SIGKILL);
    watching.line_with("web web-1 disconnected");
    // The command holds the pipe too: its end is the command's end.
    assert_eq!(running.end().0, Vec::<String>::new());
}

#[test]
fn a_command_does_not_suffer_from_a_server_that_is_away() {
    let directory = tempfile::tempdir().unwrap();
    let (socket, port) = silent_port();
    let mut command = callsign(directory.path());
    command.args([
        "run",
        "web",
        "--id",
        "web-1",
        "--host",
        "h1",
        "--address",
        "127.0.0.1",
        "--port",
        &port.to_string(),
    ]);
    let running = Going::start(command.args(["--", "sh", "-c", "echo up; exec cat"]));
    assert_eq!(running.line(), "up");
    socket.listen(8).unwrap();
    let server = Server::start_in(directory);
    let watching = server.watch();
    if !server.says("ls web").contains("web-1") {
        watching.line_with("web web-1 registered");
    }
    running.signal(Signal::SIGINT);
    assert_eq!(running.end().1, Some(130));
}

/// A reply of every form with texts that would act on a terminal, from something that is no registry.
#[test]
fn what_a_server_says_cannot_act_on_the_terminal() {
    let evil = "\u{1b}[2J\u{1b}]0;x\u{7}\n\r\u{9b}31m\u{202e}";
    let instance = serde_json::json!({
        "service": evil, "id": evil, "host": evil, "label": evil, "address": [evil], "port": 1, "protocol": evil,
        "ports": [{"name": evil, "port": 1, "transport": evil}], "tags": [evil], "meta": {evil: evil}, "weight": 1,
        "priority": 0, "lease": evil, "health": evil, "draining": false, "live": true, "registered": evil, "since": evil,
        "checks": [{"id": evil, "status": evil, "output": evil, "since": evil}], "revision": 1});
    let instances = serde_json::json!({"instances": [instance], "revision": 1});
    let replies = [
        ("ls", serde_json::json!({"instances": instances})),
        ("ls web", serde_json::json!({"instances": instances})),
        ("show web x", serde_json::json!({"found": instances})),
        ("show web --url", serde_json::json!({"instances": instances})),
        ("watch", serde_json::json!({"snapshot": instances})),
        (
            "explain web",
            serde_json::json!({"explained": {"name": evil, "known": true, "verdict": evil, "nearest": evil,
            "instances": [{"id": evil, "host": evil, "in_answers": true, "rule": evil}]}}),
        ),
        (
            "status",
            serde_json::json!({"status": {"version": evil, "ready": true, "store": evil, "domains": [evil],
            "listeners": [evil], "zones": [evil], "services": 1, "instances": 1, "live": 1, "revision": 1, "serial": 1, "uptime_s": 1}}),
        ),
        (
            "nodes",
            serde_json::json!({"nodes": {"nodes": [{"name": evil, "addresses": [], "dns": 1, "slots": 1, "own": false,
            "alive": false, "left": evil, "share": 0.5, "silent": evil}], "revision": 1}}),
        ),
        ("ring", serde_json::json!({"ring": {"nodes": [{"name": evil, "slots": 1, "share": 0.5}]}})),
        (
            "ring x",
            serde_json::json!({"ring": {"nodes": [], "placed": [{"id": evil, "hash": evil, "slot": 1, "place": 0.5,
            "owner": evil, "next": evil}]}}),
        ),
        (
            "register web :1 --lease none",
            serde_json::json!({"registered": {"service": evil, "id": evil, "host": evil,
            "address": [evil], "port": 1, "lease": evil, "lease_id": evil, "dns": evil, "revision": 1, "warnings": [evil]}}),
        ),
        ("heartbeat web x", serde_json::json!({"error": {"code": "not_found", "message": evil}})),
        ("ls", serde_json::json!({evil: {}})),
    ];
    let directory = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(directory.path().join("s")).unwrap();
    for (line, reply) in replies {
        for form in ["table", "json", "jsonl"] {
            let listener = listener.try_clone().unwrap();
            let reply = format!("{reply}\n");
            let serving = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                BufReader::new(stream.try_clone().unwrap()).read_line(&mut String::new()).unwrap();
                stream.write_all(reply.as_bytes()).unwrap();
            });
            let output =
                callsign(directory.path()).args(line.split_whitespace()).args(["-o", form]).output().unwrap();
            serving.join().unwrap();
            let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
            assert!(said.contains("[2J"), "{line} -o {form}: {said:?}");
            let acts = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
            assert!(!said.chars().any(acts), "{line} -o {form}: {said:?}");
        }
    }
}

/// A server that takes one line, says `reply`, and closes; at `name` in `directory`. Returns the line.
fn says_once(
    directory: &Path,
    name: &str,
    reply: &'static str,
) -> std::thread::JoinHandle<serde_json::Value> {
    let listener = UnixListener::bind(directory.join(name)).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut line = String::new();
        BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
        stream.write_all(reply.as_bytes()).unwrap();
        serde_json::from_str(&line).unwrap()
    })
}

const UNAVAILABLE: &str =
    "{\"error\":{\"code\":\"unavailable\",\"message\":\"whether it is stored is not known\"}}\n";
const DENIED: &str = "{\"error\":{\"code\":\"denied\",\"message\":\"no\"}}\n";

#[test]
fn several_servers_are_told_of_one_host_and_one_makes_its_own() {
    let own = nix::unistd::gethostname().unwrap().into_string().unwrap().to_lowercase();
    let named = own != "localhost" && !own.starts_with("localhost.");
    for (line, verb) in [
        ("register web 10.0.0.7:8080", "register"),
        ("register web 10.0.0.7:8080 --lease 15s", "register"),
        ("deregister web web-1", "deregister"),
        ("drain web web-1", "drain"),
        ("heartbeat web web-1", "heartbeat"),
    ] {
        for (servers, host, wanted) in [
            (&["a", "b"][..], None, named.then_some(own.as_str())),
            (&["a", "b"], Some("m7"), Some("m7")),
            (&["a"], None, None),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let listening: Vec<_> =
                servers.iter().map(|name| says_once(directory.path(), name, UNAVAILABLE)).collect();
            let places = servers.iter().map(|name| format!("unix:{}", directory.path().join(name).display()));
            let mut command = callsign(directory.path());
            command.args(line.split_whitespace()).args(["--server", &places.collect::<Vec<_>>().join(",")]);
            command.args(host.iter().flat_map(|host| ["--host", *host]));
            assert_eq!(command.output().unwrap().status.code(), Some(5), "{line}");
            for told in listening {
                let told = told.join().unwrap();
                assert_eq!(told[verb]["host"].as_str(), wanted, "{line} to {servers:?}: {told}");
            }
        }
    }
}

#[test]
fn a_server_that_alone_denies_or_is_none_is_passed_over() {
    const GONE: &str =
        "{\"deregistered\":{\"service\":\"web\",\"id\":\"x\",\"existed\":true,\"revision\":1}}\n";
    for (first, second, code, said) in [
        ("HTTP/1.1 400 Bad Request\r\n\r\n", GONE, 0, "going on with"),
        (DENIED, GONE, 0, "no; going on with"),
        (DENIED, DENIED, 4, "callsign: no\n"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let both =
            [("a", first), ("b", second)].map(|(name, reply)| says_once(directory.path(), name, reply));
        let places = ["a", "b"].map(|name| format!("unix:{}", directory.path().join(name).display()));
        let output = callsign(directory.path())
            .args(["deregister", "web", "x", "--server", &places.join(",")])
            .output();
        let output = output.unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(code) && stderr.contains(said), "{:?}: {stderr}", output.status);
        let [one, other] = both.map(|told| told.join().unwrap());
        assert_eq!(one, other, "the same is said to both");
    }
}

#[test]
fn a_server_that_is_alone_is_one_node_that_has_everything() {
    let server = Server::start();
    server.says("register web 10.0.0.7:8080 --id web-1 --host m1 --lease none");
    let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
    let words = |line: &str| -> Vec<String> {
        let told = transcript(&mut server.verb(line));
        told.split_whitespace().map(str::to_owned).collect()
    };
    let (nodes, ring, placed) = (words("nodes"), words("ring"), words("ring web-1"));
    assert_eq!(nodes[..6], ["NODE", "ALIVE", "ADDRESS", "REVISION", "LAG", "SHARE"]);
    assert_eq!(nodes[6..9], [host.as_str(), "yes", &server.dns.to_string()]);
    assert_eq!(nodes[10..], ["0", "100.00%"]);
    assert_eq!(ring, ["NODE", "SLOTS", "SHARE", &host, "16384", "100.00%"]);
    assert_eq!(placed[..6], ["ID", "HASH", "SLOT", "PLACE", "OWNER", "NEXT"]);
    assert_eq!(placed[6..12], ["web-1", "5743426c69243ab1", "15025", "0.91705", &host, "-"]);
    assert_eq!(placed[12..], ["web/web-1@m1", "0a107de81c6a72b5", "12981", "0.79230", &host, "-"]);
    let json: serde_json::Value = serde_json::from_str(&server.says("nodes -o json")).unwrap();
    assert_eq!(
        (&json[0]["alive"], &json[0]["own"], &json[0]["lag"]),
        (&true.into(), &true.into(), &0.into())
    );
}

#[test]
fn a_reader_that_has_gone_is_no_error() {
    let server = Server::start();
    for line in ["ls", "status", "--help"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = server.verb(line).stdout(writer).output().unwrap();
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), b"".as_slice()), "{line}");
    }
}

/// At a terminal, as a person sees it: `script` makes one, and what is typed there goes to it.
#[test]
fn the_demo_shows_what_is_true_until_ctrl_c() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new("script");
    let demo = format!("exec {} demo", env!("CARGO_BIN_EXE_callsign"));
    command.args(["--quiet", "--return", "--flush", "--command", &demo, "/dev/null"]);
    command.current_dir(directory.path()).env("TMPDIR", directory.path()).env("CALLSIGN_DNS", "192.0.2.1:53");
    let mut going = Going::start(&mut command);
    let exported = going.line_with("export CALLSIGN_SERVER=unix:");
    going.line_with("$ callsign ls");
    for service in ["api      2/2", "db       1/1", "web      3/3"] {
        going.line_with(service);
    }
    going.line_with("$ callsign dig web.service.local SRV");
    going.line_with("; answer");
    // In whatever order.
    let mut targets = [(); 3].map(|()| going.line().split(' ').next_back().unwrap().to_owned());
    targets.sort();
    assert_eq!(targets, ["web-1", "web-2", "web-3"].map(|id| format!("{id}.web.service.local.")));
    going.line_with("$ callsign explain web");
    going.line_with("not in the answers: critical (http)");
    going.line_with("$ callsign log web");
    going.line_with("web-3 reported");
    going.line_with("$ callsign watch");
    // The services go on falling ill and recovering.
    going.line_with("503 Service Unavailable");
    // What it told to type in another terminal is right.
    let variable = |name: &str| {
        let given = exported.split_whitespace().find_map(|word| word.strip_prefix(&format!("{name}=")));
        given.unwrap().to_owned()
    };
    let mut asking = callsign(directory.path());
    asking.env("CALLSIGN_SERVER", variable("CALLSIGN_SERVER")).env("CALLSIGN_DNS", variable("CALLSIGN_DNS"));
    assert!(transcript(asking.args(["dig", "db.service.local"])).starts_with("NOERROR"));
    // One Ctrl-C, typed.
    going.stdin.as_mut().unwrap().write_all(b"\x03").unwrap();
    let socket = variable("CALLSIGN_SERVER");
    let (rest, code) = going.end();
    assert_eq!(code, Some(0), "{rest:?}");
    let socket = Path::new(socket.strip_prefix("unix:").unwrap());
    assert!(!socket.parent().unwrap().exists(), "its folder is left");
}
