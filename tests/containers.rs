//! `callsign feed-containers` with Podman, and our own image: real containers, in a network, a process list and a folder of these tests' own.
//!
//! Needs: podman busybox-static iproute2 util-linux mount

mod harness;

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use harness::program::{Program, needs};
use harness::{Client, DEADLINE, Server, binary, eventually, without_our_variables};
use serde_json::{Value, json};
use tempfile::TempDir;

/// An engine with nothing in it but one image, `busybox`.
struct Engine {
    /// All that runs here is of its process list, and ends with it.
    keeper: Child,
    directory: TempDir,
}

impl Engine {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        for folder in ["networks", "image/bin"] {
            fs::create_dir_all(path(folder)).expect("making a folder");
        }
        fs::copy(needs("busybox", "busybox-static"), path("image/bin/busybox")).expect("copying busybox");
        // Without groups of processes, limits and events of systemd, which a machine of CI may not have.
        let networks = path("networks").display().to_string();
        let settings = format!(
            "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1000:1000\"]\ncgroups = \"disabled\"\n\
             [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\nno_pivot_root = true\n\
             [network]\nnetwork_config_dir = \"{networks}\"\n"
        );
        fs::write(path("containers.conf"), settings).expect("writing the settings");
        let script = "mount --make-rprivate / && ip link set lo up && \
                      mount -t tmpfs none /run && mount -t tmpfs none /var/lib && mkdir -p /sys/fs/cgroup && \
                      { umount --recursive /sys/fs/cgroup 2> /dev/null; mount -t cgroup2 none /sys/fs/cgroup; } && \
                      touch \"$0/made\" && exec cat";
        needs("ip", "iproute2");
        let mut unshare = Command::new(needs("unshare", "util-linux"));
        unshare.args(["--net", "--mount", "--cgroup", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        unshare.args(["sh", "-c", script]).arg(directory.path()).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut engine = Self { keeper: unshare.spawn().expect("running unshare"), directory };
        let made = engine.directory.path().join("made");
        eventually("namespaces of its own", DEADLINE, || {
            let ended = engine.keeper.try_wait().expect("waiting for our own child");
            assert!(ended.is_none(), "unshare ended: {ended:?}");
            made.exists().then_some(())
        });
        let image = engine.directory.path().join("image.tar");
        let mut archive = Command::new("tar");
        archive.arg("-C").arg(engine.directory.path().join("image")).arg("-cf").arg(&image);
        assert!(archive.arg(".").status().expect("running tar").success());
        engine.podman(&["import", &image.display().to_string(), "busybox:1"]);
        engine
    }

    /// What stands before a command that is to run in its network.
    fn before(&self) -> Vec<String> {
        let keeper = self.keeper.id();
        ["nsenter", "--net", "--mount", "--root", "--wd", "--target", &keeper.to_string(), "--"]
            .map(str::to_owned)
            .to_vec()
    }

    /// `sh -c` in there, with `podman` before the words as `"$@"`.
    fn command(&self, script: &str, words: &[&str]) -> Vec<String> {
        let keeper = self.keeper.id();
        let path = |name: &str| self.directory.path().join(name).display().to_string();
        let mut command =
            ["nsenter", "--net", "--mount", "--cgroup", "--root", "--wd"].map(str::to_owned).to_vec();
        command.push(format!("--pid=/proc/{keeper}/ns/pid_for_children"));
        command.extend(["--target".to_owned(), keeper.to_string(), "--".to_owned(), "env".to_owned()]);
        command.push(format!("CONTAINERS_CONF={}", path("containers.conf")));
        command.extend(["sh".to_owned(), "-c".to_owned(), script.to_owned(), path("api.pid")]);
        command.extend(["podman", "--storage-driver", "vfs", "--root"].map(str::to_owned));
        command.extend([path("storage"), "--runroot".to_owned(), path("run")]);
        command.extend(words.iter().map(|word| (*word).to_owned()));
        command
    }

    /// Runs `podman` to its end.
    fn run(&self, words: &[&str]) -> Output {
        needs("podman", "podman");
        let command = self.command("exec \"$@\"", words);
        let output = Command::new(&command[0]).args(&command[1..]).stdin(Stdio::null()).output();
        output.expect("running nsenter")
    }

    /// The same, and the end has to be a good one.
    fn podman(&self, words: &[&str]) -> String {
        let output = self.run(words);
        let (text, complaint) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "podman {words:?}: {}\n{text}\n{complaint}", output.status);
        text.into_owned()
    }

    /// Runs `callsign` in its network.
    fn callsign(&self, words: &[&str]) -> Output {
        let before = self.before();
        let mut command = Command::new(&before[0]);
        command.args(&before[1..]).arg(binary()).args(words).stdin(Stdio::null());
        without_our_variables(&mut command).output().expect("running nsenter")
    }

    /// A container that answers HTTP on port 8080, with these labels.
    fn web(&self, name: &str, labels: &[&str], more: &[&str]) {
        let mut words = vec!["run", "--detach", "--name", name];
        for label in labels {
            words.extend(["--label", label]);
        }
        words.extend(more);
        words.extend(["busybox:1", "/bin/busybox", "httpd", "-f", "-p", "8080", "-h", "/bin"]);
        self.podman(&words);
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("engine.sock")
    }

    /// Its API, until `end_api`, or with the engine.
    fn api(&self) -> Program {
        let socket = self.socket();
        drop(fs::remove_file(&socket));
        let words = ["system", "service", "--time", "0", &format!("unix://{}", socket.display())];
        let command = self.command("echo $$ > \"$0\" && exec \"$@\"", &words);
        let api =
            Program::start(Path::new(&command[0]), tempfile::tempdir().expect("a directory"), &command[1..]);
        eventually("the engine's socket", DEADLINE, || std::os::unix::net::UnixStream::connect(&socket).ok());
        api
    }

    fn end_api(&self, api: Program) {
        let command = self.command("kill -9 \"$(cat \"$0\")\"", &[]);
        assert!(Command::new(&command[0]).args(&command[1..]).status().expect("running nsenter").success());
        drop(api);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        drop(self.keeper.kill());
        drop(self.keeper.wait());
    }
}

fn feeder(engine: &Engine, server: &Server) -> Program {
    let words = [
        "feed-containers",
        "--lease",
        "10s",
        "--host",
        "box",
        "--engine",
        &engine.socket().display().to_string(),
        "--server",
        &format!("unix:{}", server.socket.display()),
    ]
    .map(str::to_owned);
    Program::start(&binary(), tempfile::tempdir().expect("a directory"), &words)
}

/// Waits for a change of this instance that `is` what is wanted.
fn change(watcher: &mut Client, id: &str, is: impl Fn(&Value) -> bool) -> Value {
    loop {
        let reply = watcher.receive();
        let change = &reply["change"];
        if change["id"] == id && is(change) {
            return change.clone();
        }
    }
}

fn has_health(health: &str) -> impl Fn(&Value) -> bool {
    move |change| change["instance"]["health"] == health
}

fn has_reason(reason: &str) -> impl Fn(&Value) -> bool {
    move |change| change["reason"] == reason
}

#[test]
fn containers_are_registered_for_as_long_as_they_run() {
    let engine = Engine::start();
    let before = engine.before();
    let server =
        Server::start_under(&before.iter().map(String::as_str).collect::<Vec<_>>(), &["--store", "memory"]);
    let mut watcher = server.client();
    watcher.done("snapshot", &json!({"watch": {}}));

    // What runs already when the feeder is started, and is probed as its labels say.
    let labels = ["callsign.service=web", "callsign.port=8080", "callsign.tags=v2,blue"];
    let probed = ["callsign.check.http=/busybox", "callsign.check.interval=1s"];
    engine.web("web-1", &[labels.as_slice(), &probed].concat(), &[]);
    engine.web("other", &[], &[]);
    let api = engine.api();
    let first = feeder(&engine, &server);
    let registered = change(&mut watcher, "web-1", has_health("passing"));
    let instance = &registered["instance"];
    assert!(instance["address"][0].as_str().expect("an address").starts_with("10.88."), "{registered}");
    assert_eq!(
        (&instance["host"], &instance["tags"]),
        (&json!("box"), &json!(["v2", "blue"])),
        "{registered}"
    );
    eventually("what it says at its start", DEADLINE, || {
        first.said().contains("1 of the containers at").then_some(())
    });

    // What is started later, and what its engine says of its health.
    let checked =
        ["--health-cmd", "[\"/bin/busybox\", \"test\", \"-e\", \"/well\"]", "--health-interval", "disable"];
    engine.web("web-2", &labels, &checked);
    let started = change(&mut watcher, "web-2", has_reason("registered"));
    assert_eq!(started["instance"]["health"], "critical", "it is not known to be well: {started}");
    engine.podman(&["exec", "web-2", "/bin/busybox", "touch", "/well"]);
    engine.podman(&["healthcheck", "run", "web-2"]);
    change(&mut watcher, "web-2", has_health("passing"));

    // Labels that nobody understands are told, and change nothing for the others.
    engine.web("wrong", &["callsign.service=web", "callsign.ports=8080"], &[]);
    eventually("a word on the label", DEADLINE, || {
        let complaint =
            "container wrong: `callsign.ports` is no label of ours; did you mean `callsign.port`?";
        first.said().contains(complaint).then_some(())
    });

    // What stops leaves at once, long before its lease ends.
    engine.podman(&["stop", "--time", "0", "web-1"]);
    change(&mut watcher, "web-1", has_reason("deregistered"));
    engine.podman(&["start", "web-1"]);
    change(&mut watcher, "web-1", has_health("passing"));

    // While the engine is away its containers stay, for longer than their leases.
    engine.end_api(api);
    eventually("a word on the engine", DEADLINE, || {
        first.said().contains("what is registered stays, and it is tried again").then_some(())
    });
    let renewed = |client: &mut Client| {
        let list = client.list();
        let left = |id: &str| list.iter().find(|instance| instance["id"] == id)?["lease_left_ms"].as_u64();
        left("web-1").zip(left("web-2"))
    };
    let mut client = server.client();
    let mut last = u64::MAX;
    eventually("a renewal without the engine", DEADLINE, || {
        let (left, _) = renewed(&mut client).expect("both are there");
        (std::mem::replace(&mut last, left) < left).then_some(())
    });
    // What happened meanwhile is seen when it is back.
    engine.podman(&["rm", "--force", "--time", "0", "web-2"]);
    let _api = engine.api();
    change(&mut watcher, "web-2", has_reason("deregistered"));

    // A feeder that is killed is missed by nobody for one lease, in which another one says the same.
    drop(first);
    let second = feeder(&engine, &server);
    eventually("its successor", DEADLINE, || second.said().contains("1 of the containers at").then_some(()));
    assert!(
        renewed(&mut client).is_none() && client.list().len() == 1,
        "web-1 is there: {:?}",
        client.list()
    );
    engine.podman(&["stop", "--time", "0", "web-1"]);
    change(&mut watcher, "web-1", has_reason("deregistered"));
    engine.podman(&["start", "web-1"]);
    change(&mut watcher, "web-1", has_health("passing"));

    // And where none comes, the lease ends.
    drop(second);
    change(&mut watcher, "web-1", has_reason("expired"));
}

/// The image's server, as compose.yaml has it run: a root that nobody writes to, no privilege.
const AS_COMPOSED: [&str; 9] = [
    "--read-only",
    "--cap-drop",
    "all",
    "--security-opt",
    "no-new-privileges",
    "--sysctl",
    "net.ipv4.ip_unprivileged_port_start=0",
    "--tmpfs",
    "/run/callsign:mode=1777",
];

/// The folder that the image is built from, with the program under test in the place of the static one.
fn context(engine: &Engine) -> PathBuf {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let context = engine.directory.path().join("context");
    let program = context.join("target/x86_64-unknown-linux-musl/release/callsign");
    fs::create_dir_all(program.parent().expect("a folder")).expect("making a folder");
    fs::create_dir_all(context.join("packaging")).expect("making a folder");
    let mut copy = Command::new("cp");
    copy.arg("-R").arg(top.join("packaging/docker")).arg(context.join("packaging"));
    assert!(copy.status().expect("running cp").success());
    fs::copy(binary(), program).expect("copying the program");
    context
}

/// A program that is not static needs this machine's libraries beside it: it names who loads them at its start.
fn libraries() -> &'static [&'static str] {
    let mut start = [0; 4096];
    File::open(binary()).and_then(|mut file| file.read_exact(&mut start)).expect("reading the program");
    let is_static = !start.windows(5).any(|part| part == b"/lib6");
    let libraries = &["--volume", "/usr/lib:/lib:ro", "--volume", "/usr/lib64:/lib64:ro"];
    if is_static { &[] } else { libraries }
}

/// With `CALLSIGN_TEST_BIN` the static program, and then nothing is in the container but the image.
#[test]
fn the_image_is_built_and_serves() {
    let engine = Engine::start();
    let context = context(&engine).display().to_string();
    let file = format!("{context}/packaging/docker/Dockerfile");
    engine.podman(&[
        "build",
        "--format",
        "docker",
        "--layers=false",
        "--file",
        &file,
        "--tag",
        "callsign",
        &context,
    ]);
    let mut words = vec!["run", "--detach", "--name", "server", "--volume", "registry:/var/lib/callsign"];
    words.extend(AS_COMPOSED.iter().chain(libraries()));
    words.push("callsign");
    engine.podman(&words);
    let address = || {
        // As its own health check has it.
        eventually("a server that is well", DEADLINE, || {
            engine.run(&["healthcheck", "run", "server"]).status.success().then_some(())
        });
        let address = engine.podman(&["inspect", "--format", "{{.NetworkSettings.IPAddress}}", "server"]);
        address.trim().to_owned()
    };
    let resolves = |address: &str| {
        let answer = engine.callsign(&["dig", "web.service.local", "SRV", "--dns", &format!("{address}:53")]);
        let text = String::from_utf8_lossy(&answer.stdout);
        assert!(text.contains(" SRV 0 1 8080 web-1.web.service.local.\n"), "{answer:?}");
    };

    // The network registers and resolves; what is more is for who is in the container.
    let first = address();
    let server = format!("{first}:5301");
    let over = |words: &[&str]| engine.callsign(&[words, &["--server", &server]].concat());
    let registered = over(&["register", "web", "10.0.0.7:8080", "--id", "web-1", "--lease", "none"]);
    assert!(registered.status.success(), "{registered:?}");
    resolves(&first);
    let token = ["token", "create", "--name", "ci", "--allow", "register:web*"];
    assert_eq!(over(&token).status.code(), Some(4), "denied");
    engine.podman(&[&["exec", "server", "/callsign"], &token[..]].concat());

    // It is stopped in order, and its volume has what was registered.
    engine.podman(&["stop", "--time", "60", "server"]);
    assert_eq!(engine.podman(&["inspect", "--format", "{{.State.ExitCode}}", "server"]).trim(), "0");
    engine.podman(&["start", "server"]);
    resolves(&address());
}
