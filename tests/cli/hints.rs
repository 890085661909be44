//! What is said to who was nearly right: a name, a host, a port or a right that is another one.

use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use insta::assert_snapshot;

use super::*;

/// One of our verbs as a user without a right.
fn as_nobody(directory: &Path, words: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", env!("CARGO_BIN_EXE_callsign")]);
    command.args(words).current_dir(directory).env_clear();
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
}

#[test]
fn an_instance_of_another_host_is_found_there() {
    let server = Server::start();
    server.says("register web 10.0.0.7:8080 --id web-1 --host h1 --lease none");
    // What this machine is called is told by what is not there.
    let told = server.says("deregister web typo");
    let here = told.split(['@', ' ']).nth(1).unwrap().to_owned();
    assert_eq!(
        told,
        format!(
            "web/typo@{here} was not registered\n! hint: `callsign ls web` lists who is registered; another host's needs --host\n"
        )
    );
    for (verb, here) in
        [("deregister", here.as_str()), ("drain", "this one"), ("deregister -o json", here.as_str())]
    {
        let told = server.says(&format!("{verb} web web-1"));
        let verb = verb.split(' ').next().unwrap();
        let to_type = format!("callsign {verb} web web-1 --host h1");
        assert_eq!(
            told,
            format!("! callsign: web-1 of web is on host h1, not {here}: {to_type}\nexit Some(3)\n")
        );
    }
    // Who says the host means that one: a retry is safe.
    assert_snapshot!(server.says("deregister web web-1 --host h2"), @"
    web/web-1@h2 was not registered
    ! hint: `callsign ls web` lists who is registered; another host's needs --host
    ");
    assert!(server.says("ls web").contains("web-1"));
}

#[test]
fn a_service_that_is_not_there_is_told_beside_what_was_asked() {
    let server = Server::start();
    server.says("register web 10.0.0.7:8080 --id web-1 --lease none");
    assert_snapshot!(server.says("service set wbe --ttl 10s"), @"
    service  wbe
    ttl      10s
    ! hint: wbe is not registered now; did you mean `web`?
    ");
    assert_snapshot!(server.says("service show nope"), @"
    service   nope
    settings  as the server's configuration says
    ! hint: nope is not registered now
    ");
    assert!(!server.says("service show web").contains("hint"));
    let mut child = server.verb("watch wbe").stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
    assert_eq!(
        (line.as_str(), child.wait().unwrap().code()),
        ("hint: wbe is not registered now; did you mean `web`?\n", Some(0))
    );
}

#[test]
fn a_port_that_is_not_for_registrations_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let asks = |timeout: &str| {
        let mut command = callsign(directory.path());
        blot(&transcript(command.args(["ls", "--server", &address, "--timeout", timeout])))
    };
    // Nobody accepts: the kernel does, and nothing is ever said.
    let silent = asks("20ms").replace("20ms", "SHORT").replace("TOOK", "SHORT");
    assert_snapshot!(silent, @"
    ! callsign: 127.0.0.1:PORT did not answer within SHORT
    ! hint: registrations are taken over TCP where `serve --listen` says, and neither at the port of HTTP nor at that of DNS; on the server's own machine leave --server out
    exit Some(5)
    ");
    let closing = std::thread::spawn(move || {
        // The one that was given up, and the next.
        for stream in listener.incoming().take(2) {
            let mut stream = stream.unwrap();
            drop(BufReader::new(stream.try_clone().unwrap()).read_line(&mut String::new()));
            drop(stream.flush());
        }
    });
    let closed = asks("30s");
    closing.join().unwrap();
    assert!(closed.contains("ended") && closed.contains("where `serve --listen` says"), "{closed}");
}

#[test]
fn where_it_may_not_write_the_next_step_is_told() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let path = directory.path().display().to_string();
    let open = format!("{path}/open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, PermissionsExt::from_mode(0o777)).unwrap();
    let says = |words: &[&str]| {
        let told = transcript(&mut as_nobody(directory.path(), words)).replace(&path, "DIR");
        // Where it is bound was printed before.
        let last: Vec<&str> = told.lines().skip_while(|line| !line.starts_with("! ")).collect();
        last.join("\n")
    };
    let ports = ["serve", "--dns", "127.0.0.1:0", "--http", "none", "--log", "error"];
    let socket = format!("{open}/s");
    let data = format!("{path}/data");
    assert_snapshot!(says(&[&ports[..], &["--socket", &socket, "--data", &data]].concat()), @"
    ! callsign: opening the store: DIR/data: Permission denied (os error 13); choose a directory of yours with --data DIR
    exit Some(1)
    ");
    let closed = format!("{path}/s");
    assert_snapshot!(says(&[&ports[..], &["--store", "memory", "--socket", &closed]].concat()), @"
    ! callsign: binding the registration socket DIR/s: Permission denied (os error 13); choose another path with --socket PATH
    exit Some(1)
    ");
    let below = format!("{path}/run/s");
    assert_snapshot!(says(&[&ports[..], &["--store", "memory", "--socket", &below]].concat()), @"
    ! callsign: making the directory of the socket, DIR/run: Permission denied (os error 13); choose another path with --socket PATH
    exit Some(1)
    ");
    std::fs::create_dir_all(directory.path().join("etc/systemd/resolved.conf.d")).unwrap();
    let asked = ["--domain", "service.local", "--dns", "127.0.0.1:5300"];
    let words = [&["setup", "resolved", "--write", "--root", &path], &asked[..]].concat();
    assert_snapshot!(says(&words), @"
    ! callsign: writing DIR/etc/systemd/resolved.conf.d/callsign.conf
    ! callsign: writing DIR/etc/systemd/resolved.conf.d/callsign.conf: Permission denied (os error 13)
    ! hint: run it as root, with --domain and --dns as your server has them
    exit Some(4)
    ");
}

#[test]
fn a_key_says_where_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = callsign(directory.path());
    let told = transcript(command.args(["dnssec", "init", "service.internal", "--keys", "keys"]));
    let said = told.lines().find(|line| line.starts_with("! ")).unwrap();
    let (said, _) = said.split_once("; give").unwrap();
    assert_snapshot!(said, @"! callsign: service.internal. is signed from now on where the server has it as a `domain` and its keys in keys (with another data directory: --keys)");
}
