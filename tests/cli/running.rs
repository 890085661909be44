//! `run`: a command that is registered for as long as it runs.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use super::*;

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
fn a_command_that_was_never_registered_is_told() {
    let server = Server::start();
    let (_socket, port) = silent_port();
    let ends = |script: &str| {
        let options = format!("run web --address 127.0.0.1 --port {port} -- sh -c");
        transcript(server.verb(&options).arg(script)).replace(&port.to_string(), "PORT")
    };
    let never = "! callsign: the command ended before port PORT accepted, so web was never registered";
    let background = "a program that goes into the background has to be told to stay in the foreground";
    assert_eq!(ends("exit 0"), format!("{never}; {background}\n"));
    assert_eq!(ends("exit 3"), format!("{never}\nexit Some(3)\n"));
    // Whoever ended it knows.
    assert_eq!(ends("trap 'exit 9' TERM; kill -TERM $PPID; while :; do :; done"), "exit Some(9)\n");
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
