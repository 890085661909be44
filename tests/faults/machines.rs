//! Six machines in namespaces of their own, three members of etcd and three nodes, and the network between them, whose
//! every packet goes through `network.py`.
//!
//! Clients are outside, and no trouble of the network is theirs: a node answers DNS on sockets that the test made and
//! hands over, and takes registrations at a path. So what a client sees is the node's own doing.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::harness::program::{faketime, needs};
use crate::harness::space::Space;
use crate::harness::{DEADLINE, binary, eventually, namespaces};

/// Members of etcd, which are hosts 1 to 3; the nodes are those behind.
pub const MEMBERS: usize = 3;
pub const NODES: usize = 3;
/// Octets of the disk of a member: two files of its log, which it makes in advance, and the rest for its tables.
const DISK_MIB: usize = 160;
/// The descriptors are stdin and stdout of a shell, which moves them to 3 and 4 and becomes the server.
const HAND_OVER: &str =
    "exec 3<&0 4<&1 </dev/null >\"$OUT/stdout\"; exec env LISTEN_PID=$$ LISTEN_FDS=2 \"$0\" \"$@\"";

/// What a direction of a link does to packets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trouble {
    /// The share that is lost: 1 is a link that is cut.
    pub lost: f64,
    /// The shortest and the longest delay in milliseconds; where they differ, packets overtake each other.
    pub delay_ms: (u32, u32),
}

/// By sender and receiver, as numbers of hosts.
pub type Troubles = BTreeMap<(usize, usize), Trouble>;

/// All of it; it goes with this.
pub struct Machines {
    pub nodes: Vec<Node>,
    pub members: Vec<Member>,
    network: Child,
    said: ChildStdin,
    heard: BufReader<ChildStdout>,
    machines: Vec<Machine>,
}

/// Namespaces, and what keeps them.
struct Machine {
    keeper: Child,
    directory: TempDir,
}

impl Machines {
    /// Everything runs, and every node is ready.
    pub fn start(seed: u64, etcd: &Path) -> Self {
        let space = Space::new();
        let machines: Vec<Machine> =
            (1..=MEMBERS + NODES).map(|host| Machine::new(&space, host <= MEMBERS)).collect();
        let mut network = space
            .inside(Path::new("/usr/bin/python3"))
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/network.py"))
            .arg(seed.to_string())
            .args(machines.iter().map(|machine| machine.keeper.id().to_string()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("running python3");
        let said = network.stdin.take().expect("its stdin");
        let mut heard = BufReader::new(network.stdout.take().expect("its stdout"));
        assert_eq!(line(&mut heard), "ready", "the network");
        for (host, machine) in (1..).zip(&machines) {
            let script = format!(
                "ip link set lo up && ip address add 192.0.2.{host}/24 dev wire{host} && ip link set wire{host} up"
            );
            namespaces::run(machine.keeper.id(), Path::new("/bin/sh"), &["-c", &script]);
        }
        let member = |_| Member { program: etcd.to_owned(), process: None };
        let members = (0..MEMBERS).map(member).collect();
        let nodes = (0..NODES).map(|_| Node::new()).collect();
        let mut all = Self { nodes, members, network, said, heard, machines };
        for member in 0..MEMBERS {
            all.start_member(member);
        }
        for node in 0..NODES {
            all.start_node(node);
        }
        for node in 0..NODES {
            eventually("a node's `ready` line", DEADLINE, || {
                assert!(!all.nodes[node].has_ended(), "node {node} ended: {}", all.nodes[node].words());
                all.nodes[node].is_ready().then_some(())
            });
        }
        all
    }

    /// From here on links are as this says, and carry everything at once where it says nothing. Packets carried and lost
    /// so far.
    pub fn set(&mut self, troubles: &Troubles) -> (u64, u64) {
        let link = |((from, to), trouble): (&(usize, usize), &Trouble)| {
            serde_json::json!([from, to, trouble.lost, trouble.delay_ms.0, trouble.delay_ms.1])
        };
        let links: Vec<_> = troubles.iter().map(link).collect();
        writeln!(self.said, "{}", serde_json::Value::from(links)).expect("speaking to the network");
        let text = line(&mut self.heard);
        let (carried, lost) = text.split_once(' ').expect("two numbers");
        (carried.parse().expect("a number"), lost.parse().expect("a number"))
    }

    pub fn start_member(&mut self, number: usize) {
        let machine = &self.machines[number];
        let mut command = namespaces::inside(machine.keeper.id(), &self.members[number].program);
        let directory = machine.directory.path();
        let peers: Vec<String> =
            (1..=MEMBERS).map(|host| format!("m{host}=http://192.0.2.{host}:2380")).collect();
        let host = number + 1;
        let (client, peer) = (format!("http://192.0.2.{host}:2379"), format!("http://192.0.2.{host}:2380"));
        command
            .args(["--name", &format!("m{host}"), "--initial-cluster", &peers.join(",")])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .arg("--data-dir")
            .arg(directory.join("disk/data"))
            .stdout(Stdio::null())
            .stderr(appended(directory, "stderr"));
        self.members[number].process = Some(Process(command.spawn().expect("starting etcd")));
    }

    pub fn start_node(&mut self, number: usize) {
        let machine = &self.machines[MEMBERS + number];
        let directory = machine.directory.path();
        let store: Vec<String> = (1..=MEMBERS).map(|host| format!("192.0.2.{host}:2379")).collect();
        let node = &mut self.nodes[number];
        drop(fs::remove_file(directory.join("stdout"))); // of the run before
        node.directory = directory.to_owned();
        fs::write(node.clock(), "+0\n").expect("writing a file");
        let mut words = namespaces::within(machine.keeper.id());
        words.extend(["env".to_owned(), format!("LD_PRELOAD={}", faketime().display())]);
        words.push(format!("FAKETIME_TIMESTAMP_FILE={}", node.clock().display()));
        words.extend(["FAKETIME_NO_CACHE=1", "DONT_FAKE_MONOTONIC=1"].map(str::to_owned));
        let child = Command::new("sh")
            .args(["-c", HAND_OVER])
            .args(words)
            .arg(binary())
            .args(["serve", "--http", "none", "--node", &format!("n{number}"), "--store"])
            .arg(format!("etcd://{}", store.join(",")))
            .arg("--socket")
            .arg(node.socket())
            // Its clock is a file that the library of faketime reads inside it.
            .arg("--confine-read")
            .arg(directory)
            .current_dir(directory)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("OUT", directory)
            .env("LISTEN_FDNAMES", "dns:dns")
            .stdin(Stdio::from(OwnedFd::from(node.udp.try_clone().expect("another descriptor"))))
            .stdout(Stdio::from(OwnedFd::from(node.tcp.try_clone().expect("another descriptor"))))
            .stderr(appended(directory, "stderr"))
            .spawn();
        node.process = Some(Process(child.expect("starting a shell")));
    }

    /// Writes to a member's disk until nothing more goes there.
    pub fn fill_disk(&self, member: usize) {
        let path = self.filling(member);
        let mut file = File::create(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let octets = vec![0; 1 << 16];
        while file.write_all(&octets).is_ok() {}
    }

    pub fn empty_disk(&self, member: usize) {
        drop(fs::remove_file(self.filling(member)));
    }

    /// The disk is mounted in the machine alone.
    fn filling(&self, member: usize) -> PathBuf {
        let machine = &self.machines[member];
        let inside = machine.directory.path().join("disk/filling");
        let inside = inside.strip_prefix("/").expect("an absolute path");
        Path::new("/proc").join(machine.keeper.id().to_string()).join("root").join(inside)
    }

    /// The last lines that each process said, where something went wrong.
    pub fn last_words(&self) {
        for (number, machine) in self.machines.iter().enumerate() {
            let text = fs::read_to_string(machine.directory.path().join("stderr")).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            eprintln!("machine {}:", number + 1);
            let most = if number < MEMBERS { 5 } else { 40 };
            lines.iter().skip(lines.len().saturating_sub(most)).for_each(|line| eprintln!("    {line}"));
        }
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.last_words();
        }
        drop(self.network.kill());
        drop(self.network.wait());
    }
}

impl Machine {
    fn new(space: &Space, has_disk: bool) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        fs::create_dir(directory.path().join("disk")).expect("a directory");
        let disk = match has_disk {
            true => format!("mount -t tmpfs -o size={DISK_MIB}m disk \"$0/disk\" && "),
            false => String::new(),
        };
        let script = format!("{disk}touch \"$0/made\" && exec cat");
        let keeper = space
            .inside(&needs("unshare", "util-linux"))
            .args(["--net", "--mount", "sh", "-c", &script])
            .arg(directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn();
        let mut machine = Self { keeper: keeper.expect("running nsenter"), directory };
        eventually("a machine of its own", DEADLINE, || {
            let ended = machine.keeper.try_wait().expect("waiting for our own child");
            assert!(ended.is_none(), "unshare ended: {ended:?}");
            machine.directory.path().join("made").exists().then_some(())
        });
        machine
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.keeper.kill());
        drop(self.keeper.wait());
    }
}

/// A process of a machine's, which ends with this.
struct Process(Child);

impl Process {
    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.0.id()).expect("a pid"));
        kill(pid, signal).expect("the process is ours to signal");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A member of etcd.
pub struct Member {
    program: PathBuf,
    process: Option<Process>,
}

impl Member {
    pub fn kill(&mut self) {
        self.process = None;
    }

    pub fn signal(&self, signal: Signal) {
        if let Some(process) = &self.process {
            process.signal(signal);
        }
    }

    /// It was ended, or has ended by itself, as it does when its disk is full.
    pub fn has_ended(&mut self) -> bool {
        let Some(process) = &mut self.process else { return true };
        process.0.try_wait().expect("waiting for our own child").is_some()
    }
}

/// A node, and the sockets that outlive its processes.
pub struct Node {
    udp: UdpSocket,
    tcp: TcpListener,
    pub dns: SocketAddr,
    directory: PathBuf,
    process: Option<Process>,
}

impl Node {
    fn new() -> Self {
        let (udp, tcp) = eventually("a port that is free for both", DEADLINE, || {
            let udp = UdpSocket::bind("127.0.0.1:0").expect("a UDP socket");
            let tcp = TcpListener::bind(udp.local_addr().expect("its address")).ok()?;
            Some((udp, tcp))
        });
        let dns = udp.local_addr().expect("its address");
        Self { udp, tcp, dns, directory: PathBuf::new(), process: None }
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.join("s")
    }

    /// What a step of its wall clock is written to.
    pub fn clock(&self) -> PathBuf {
        self.directory.join("clock")
    }

    pub fn is_ready(&self) -> bool {
        let text = fs::read_to_string(self.directory.join("stdout")).unwrap_or_default();
        text.lines().any(|line| line.starts_with("ready"))
    }

    /// All that it said, in all its runs.
    pub fn words(&self) -> String {
        fs::read_to_string(self.directory.join("stderr")).unwrap_or_default()
    }

    /// How often it said that it had no time.
    pub fn absences(&self) -> usize {
        self.words().matches("this process was stopped or starved").count()
    }

    pub fn has_ended(&mut self) -> bool {
        let Some(process) = &mut self.process else { return true };
        process.0.try_wait().expect("waiting for our own child").is_some()
    }

    pub fn kill(&mut self) {
        self.process = None;
    }

    pub fn signal(&self, signal: Signal) {
        if let Some(process) = &self.process {
            process.signal(signal);
        }
    }
}

fn line(heard: &mut BufReader<ChildStdout>) -> String {
    let mut text = String::new();
    heard.read_line(&mut text).expect("hearing the network");
    text.trim_end().to_owned()
}

fn appended(directory: &Path, name: &str) -> File {
    let path = directory.join(name);
    File::options().create(true).append(true).open(path).expect("a file for what it says")
}
